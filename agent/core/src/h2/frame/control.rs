//! What control frames say: a unit of payload (a setting, an increment, an error code) flows in, a [`Part`] flows
//! out. The walk gathers the units.

use super::Part;
use super::header::{ACK, GOAWAY, Header, RST_STREAM, SETTINGS, WINDOW_UPDATE};

/// The bytes of a control frame's payload that make one part; 0 where nobody asks what it says.
pub(super) fn unit(frame: Header) -> u32 {
    match frame.kind {
        RST_STREAM | WINDOW_UPDATE => 4,
        GOAWAY => 8,
        SETTINGS if !frame.has(ACK) => 6,
        _ => 0,
    }
}

/// What a unit says.
pub(super) fn part<'a>(frame: Header, unit: [u8; Header::LENGTH]) -> Part<'a> {
    let [a, b, c, d, e, f, g, h, _] = unit;
    let first = u32::from_be_bytes([a, b, c, d]);
    match frame.kind {
        RST_STREAM => Part::Reset { stream: frame.stream, code: first },
        GOAWAY => Part::GoAway { code: u32::from_be_bytes([e, f, g, h]) },
        WINDOW_UPDATE => Part::Granted { stream: frame.stream, increment: first & 0x7fff_ffff },
        _ => Part::Setting { id: u16::from_be_bytes([a, b]), value: u32::from_be_bytes([c, d, e, f]) },
    }
}
