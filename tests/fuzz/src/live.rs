//! What comes from the kernel: its records, and the segments in them on their way to calls.

use crate::choices::Choices;
use bytes::Bytes;
use faultline::sources::probes::record::parse;
use faultline_core::call::{Call, Method};
use faultline_core::event::{Closed, Direction, Event, Opened, Piece, Role, Segment};
use faultline_core::rpc::Decoder;
use faultline_core::units::{CgroupId, ConnectionId, Timestamp};
use std::net::{Ipv4Addr, SocketAddr};

/// Connections of one input.
const CONNECTIONS: usize = 3;

/// Each operation of an input is a segment (the next, an older one, or one behind a hole), a tick, the
/// beginning or the end of a connection, or a change to another connection.
pub fn segments(input: &[u8]) {
    let mut choices = Choices(input);
    let mut decoder = Decoder::default();
    let mut out = Vec::new();
    let mut next = [[0u32; 2]; CONNECTIONS];
    let mut connection = 0;
    let mut now = 1u64 << 32;
    while !choices.is_over() {
        now += 1_000_000;
        let operation = choices.byte();
        let id = ConnectionId(connection as u64);
        match operation & 0xf {
            13 => {
                now += u64::from(choices.byte()) * 100_000_000;
                decoder.tick(Timestamp(now), &mut out);
            }
            14 if operation & 0x10 == 0 => decoder.handle(opened(id, now, operation), &mut out),
            14 => decoder.handle(Event::Closed(Closed { at: Timestamp(now), connection: id }), &mut out),
            15 => connection = usize::from(operation >> 4) % CONNECTIONS,
            kind => {
                let direction = if operation & 0x10 == 0 { Direction::Sent } else { Direction::Received };
                let Some(next) = next
                    .get_mut(connection)
                    .and_then(|next| next.get_mut(usize::from(operation & 0x10 != 0)))
                else {
                    return;
                };
                let sequence = match kind {
                    10 | 11 => next.wrapping_sub(choices.short()),
                    12 => next.wrapping_add(choices.short()),
                    _ => *next,
                };
                let segment = segment(id, now, direction, sequence, operation, &mut choices);
                if kind != 10 {
                    *next = sequence.wrapping_add(segment.length);
                }
                decoder.handle(Event::Segment(segment), &mut out);
            }
        }
        out.drain(..).for_each(|event| check(&event));
    }
    decoder.tick(Timestamp(now + 100_000_000_000_000), &mut out);
    out.iter().for_each(check);
}

fn opened(connection: ConnectionId, now: u64, operation: u8) -> Event {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 80));
    Event::Opened(Opened {
        at: Timestamp(now),
        connection,
        cgroup: CgroupId(1),
        role: match operation >> 5 {
            0 => Role::Unknown,
            1..=4 => Role::Client,
            _ => Role::Server,
        },
        local: address,
        remote: address,
        connect_time: None,
    })
}

/// A piece, then perhaps bytes left out, then perhaps another piece.
fn segment(
    connection: ConnectionId,
    now: u64,
    direction: Direction,
    sequence: u32,
    operation: u8,
    choices: &mut Choices<'_>,
) -> Segment {
    let mut pieces = Vec::new();
    let mut length = 0;
    let count = usize::from(choices.byte());
    let mut piece = |length: &mut u32, bytes: &[u8]| {
        pieces.push(Piece { offset: *length, bytes: Bytes::copy_from_slice(bytes) });
        *length += bytes.len() as u32;
    };
    piece(&mut length, choices.run(count));
    if operation & 0x40 != 0 {
        length += choices.short();
    }
    if operation & 0x80 != 0 {
        let count = usize::from(choices.byte());
        piece(&mut length, choices.run(count));
    }
    Segment { at: Timestamp(now), connection, direction, sequence, length, pieces }
}

/// Kernel records, each behind its length; what is understood goes to the decoder.
pub fn records(input: &[u8]) {
    let mut choices = Choices(input);
    let mut decoder = Decoder::default();
    let mut out = Vec::new();
    while !choices.is_over() {
        let length = choices.short() as usize;
        let mut record = choices.run(length).to_vec();
        // Any other size is refused at once; a length that was not mended would hide the rest.
        let size = (record.len() as u32).to_ne_bytes();
        if let Some(place) = record.get_mut(4..8) {
            place.copy_from_slice(&size);
        }
        let Ok(event) = parse(&Bytes::from(record)) else { continue };
        if let Event::Segment(segment) = &event {
            let mut covered = 0;
            for piece in &segment.pieces {
                assert!(piece.offset >= covered, "pieces overlap");
                covered = piece.offset + piece.bytes.len() as u32;
            }
            assert!(covered <= segment.length, "a piece leaves its segment");
        }
        let at = event.at();
        decoder.handle(event, &mut out);
        decoder.tick(at, &mut out);
        out.drain(..).for_each(|event| check(&event));
    }
}

/// What must be true of everything that the decoder says, whatever it was given.
fn check(event: &Event) {
    match event {
        Event::Segment(_) => panic!("a segment came through"),
        Event::Call(call) => plausible(call),
        Event::Lost(loss) => assert!(loss.count > 0),
        _ => {}
    }
}

fn plausible(call: &Call) {
    assert!(call.status.code.is_none_or(|code| code <= 16), "{call:?}");
    if let Method::Named(name) = &call.method {
        assert!(!name.is_empty() && name.len() <= 512 && name.bytes().all(|byte| byte.is_ascii_graphic()));
    }
    for messages in [call.request, call.response] {
        assert!(messages.count > 0 || messages.bytes == 0, "{call:?}");
    }
    assert!(call.first_response.is_none_or(|first| first <= call.duration), "{call:?}");
}
