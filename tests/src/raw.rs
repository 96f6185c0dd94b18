//! HTTP/2 frames by hand: what a peer may send but real stacks rarely do.

use std::io::{self, Read};

/// The client connection preface (RFC 9113 section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Frame types (RFC 9113 section 6).
pub mod kind {
    /// A part of a body.
    pub const DATA: u8 = 0;
    /// A header block's first part.
    pub const HEADERS: u8 = 1;
    /// How the sender wants to be spoken to.
    pub const SETTINGS: u8 = 4;
    /// A header block's other parts.
    pub const CONTINUATION: u8 = 9;
}

/// Frame flags.
pub mod flag {
    /// The stream's last frame; on SETTINGS: an acknowledgement.
    pub const END_STREAM: u8 = 0x1;
    /// The header block's last part.
    pub const END_HEADERS: u8 = 0x4;
    /// A pad length comes first, and padding last.
    pub const PADDED: u8 = 0x8;
    /// Five bytes of priority come before the header block.
    pub const PRIORITY: u8 = 0x20;
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// One of [`kind`].
    pub kind: u8,
    /// Of [`flag`].
    pub flags: u8,
    /// Its stream.
    pub stream: u32,
    /// What it carries.
    pub payload: Vec<u8>,
}

impl Frame {
    /// A frame.
    #[must_use]
    pub fn new(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Self {
        Self { kind, flags, stream, payload: payload.to_vec() }
    }

    /// The same with so many bytes of padding (none still costs the byte that says so).
    #[must_use]
    pub fn padded(mut self, length: u8) -> Self {
        self.flags |= flag::PADDED;
        self.payload.insert(0, length);
        self.payload.extend(std::iter::repeat_n(0, usize::from(length)));
        self
    }

    /// As it goes over the wire.
    ///
    /// # Panics
    /// When it is larger than any frame.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).unwrap().to_be_bytes();
        let head = [length[1], length[2], length[3], self.kind, self.flags];
        [&head, &self.stream.to_be_bytes()[..], &self.payload].concat()
    }

    /// The next frame.
    ///
    /// # Errors
    /// When the stream ends.
    pub fn read(from: &mut impl Read) -> io::Result<Self> {
        let mut head = [0; 9];
        from.read_exact(&mut head)?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        from.read_exact(&mut payload)?;
        Ok(Self { kind, flags, stream: u32::from_be_bytes(stream) & 0x7fff_ffff, payload })
    }

    /// It ends its stream.
    #[must_use]
    pub fn ends_stream(&self) -> bool {
        matches!(self.kind, kind::DATA | kind::HEADERS) && self.flags & flag::END_STREAM != 0
    }
}

/// A header block of literals that are not indexed.
///
/// # Panics
/// When a name or value is longer than one byte can say.
#[must_use]
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127, "longer strings need another encoding");
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.as_bytes());
        }
    }
    block
}

/// A header block as a padded HEADERS frame with a priority and one CONTINUATION frame for each `part` bytes of
/// the rest.
#[must_use]
pub fn shredded(stream: u32, block: &[u8], part: usize, end_stream: bool) -> Vec<Frame> {
    let (first, rest) = block.split_at(part.min(block.len()));
    let flags = flag::PRIORITY | if end_stream { flag::END_STREAM } else { 0 };
    let priority = [0, 0, 0, 0, 15];
    let mut frames = vec![Frame::new(kind::HEADERS, flags, stream, &[&priority, first].concat()).padded(200)];
    frames.extend(rest.chunks(part).map(|part| Frame::new(kind::CONTINUATION, 0, stream, part)));
    if let Some(last) = frames.last_mut() {
        last.flags |= flag::END_HEADERS;
    }
    frames
}

/// A body as DATA frames with padding of every kind, the first of so few bytes that a message's prefix is cut.
#[must_use]
pub fn padded_body(stream: u32, body: &[u8], first: usize, end_stream: bool) -> Vec<Frame> {
    let (front, rest) = body.split_at(first.min(body.len()));
    let (middle, back) = rest.split_at(rest.len() / 2);
    let parts: [(&[u8], u8); 4] = [(front, 7), (&[], 255), (middle, 0), (back, 100)];
    let mut frames: Vec<Frame> = parts
        .into_iter()
        .map(|(part, padding)| Frame::new(kind::DATA, 0, stream, part).padded(padding))
        .collect();
    if let Some(last) = frames.last_mut().filter(|_| end_stream) {
        last.flags |= flag::END_STREAM;
    }
    frames
}
