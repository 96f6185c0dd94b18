//! Walks the frames of one direction (RFC 9113 section 4): bytes in order flow in, parts of frames flow out.
//!
//! ```text
//!           ┌────────────── frame read ──────────────┐
//!  Preface ─► Header ─┬─► Padding ─► Data ───────────┤
//!                     ├─► Block (HEADERS, ...) ──────┤
//!                     └─► Other ─────────────────────┘
//! ```
//!
//! A frame that lies whole in the input is read where it is; only one that straddles two segments is copied,
//! and never a DATA body. A header that no peer may send ends the walk: the caller then searches for frames.

mod control;
mod header;
mod input;

use crate::units::Timestamp;
pub(crate) use header::Header;
use header::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PADDED, PUSH_PROMISE, SETTINGS, WITH_PRIORITY,
};
pub(crate) use input::Input;

/// What a client sends first (RFC 9113 section 3.4).
pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Longest header block that is read, in bytes; servers accept 8 to 16 KiB. A longer one loses the table.
const MAX_BLOCK: usize = 65_536;

/// Longest frame that is believed before a joined walk has proved itself, in bytes: what most stacks send at
/// most is 16 KiB. A wrong place costs no more than this before it is noticed.
const MAX_UNPROVED: u32 = 65_536;

/// A block buffer larger than this is given back after use, so that idle connections stay small.
const KEPT_BUFFER: usize = 2048;

/// A part of what a direction says.
#[derive(Debug)]
pub(crate) enum Part<'a> {
    /// The client's preface: the connection begins here.
    Preface,
    /// The server's first SETTINGS frame follows: the connection begins here.
    ServerStart,
    /// A part of a DATA frame's payload without its padding.
    Data {
        /// The stream.
        stream: u32,
        /// The bytes, or how many.
        input: Input<'a>,
        /// The sender is done with the stream.
        end_stream: bool,
        /// The whole frame's bytes, padding included, as flow control counts them: told with its first part,
        /// zero with the others.
        counted: u32,
    },
    /// A whole header block.
    Headers {
        /// The stream.
        stream: u32,
        /// The block; `None` if it could not be kept, so that the header table is lost.
        block: Option<&'a [u8]>,
        /// The sender is done with the stream.
        end_stream: bool,
        /// It announces a push: of no interest but to the header table.
        promise: bool,
        /// When the first byte of its first frame passed.
        began: Timestamp,
    },
    /// RST_STREAM.
    Reset {
        /// The stream.
        stream: u32,
        /// The error code.
        code: u32,
    },
    /// GOAWAY.
    GoAway {
        /// The error code.
        code: u32,
    },
    /// One entry of a SETTINGS frame.
    Setting {
        /// Which (RFC 9113 section 6.5.2).
        id: u16,
        /// What it is set to.
        value: u32,
    },
    /// WINDOW_UPDATE.
    Granted {
        /// The stream; 0 is the connection.
        stream: u32,
        /// Bytes.
        increment: u32,
    },
    /// No frame begins here. What is left of the input is not a frame's.
    Malformed,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Preface { got: usize },
    Header,
    Padding { frame: Header },
    Data { frame: Header, body: u32, padding: u32 },
    Block { frame: Header, left: u32 },
    Other { frame: Header, left: u32 },
}

/// A block whose END_HEADERS has not come.
#[derive(Clone, Copy, Debug)]
struct Unfinished {
    stream: u32,
    end_stream: bool,
    promise: bool,
    readable: bool,
}

/// Where the walk is.
#[derive(Debug)]
pub(crate) struct Walker {
    state: State,
    /// Bytes of a header or of a short payload that straddles segments.
    short: [u8; Header::LENGTH],
    short_length: usize,
    /// Payloads of HEADERS and CONTINUATION that straddle segments or frames.
    block: Vec<u8>,
    /// Where the payload of the frame being read begins in `block`.
    payload_start: usize,
    unfinished: Option<Unfinished>,
    /// Length of the DATA frame of which no part was told yet.
    uncounted: u32,
    /// The walk began at a place that a search took for a header, and no header block has come since: bodies
    /// may look like frames, but hardly like blocks too.
    unproved: bool,
    /// When the first byte of the frame (or of the first frame of the block) passed.
    frame_at: Timestamp,
}

impl Default for Walker {
    fn default() -> Self {
        Self {
            state: State::Header,
            short: [0; Header::LENGTH],
            short_length: 0,
            block: Vec::new(),
            payload_start: 0,
            unfinished: None,
            uncounted: 0,
            unproved: false,
            frame_at: Timestamp(0),
        }
    }
}

/// What one step of the walk gave; a block that was copied is still in the buffer.
enum Step<'a> {
    Part(Part<'a>),
    Buffered { stream: u32, end_stream: bool, promise: bool, readable: bool },
    More,
}

impl Walker {
    /// A walk that begins at a frame header.
    pub(crate) fn at_header() -> Self {
        Self::default()
    }

    /// A walk that begins where a search found a chain of headers.
    pub(crate) fn joined() -> Self {
        Self { unproved: true, ..Self::default() }
    }

    /// A walk that begins at the client's preface.
    pub(crate) fn at_preface() -> Self {
        Self { state: State::Preface { got: 0 }, ..Self::default() }
    }

    /// Bytes kept between segments.
    pub(crate) fn held(&self) -> usize {
        self.block.capacity()
    }

    /// Gives up the block that is being collected: it will be said to be unreadable.
    pub(crate) fn let_go(&mut self) {
        if let Some(unfinished) = &mut self.unfinished {
            unfinished.readable = false;
            self.block = Vec::new();
        }
    }

    /// The stream of the DATA frame that is being read, and how many bytes of its payload are to come.
    pub(crate) fn inside_data(&self) -> Option<(u32, u32)> {
        match self.state {
            State::Data { frame, body, .. } if body > 0 => Some((frame.stream, body)),
            _ => None,
        }
    }

    /// The next part; `None` when the input is used up.
    pub(crate) fn next<'w, 'i: 'w>(&'w mut self, at: Timestamp, input: &mut Input<'i>) -> Option<Part<'w>> {
        loop {
            match self.step(at, input) {
                Step::More if input.is_empty() => return None,
                Step::More => {}
                Step::Part(part) => return Some(part),
                Step::Buffered { stream, end_stream, promise, readable } => {
                    let block = readable.then_some(self.block.as_slice());
                    return Some(Part::Headers { stream, block, end_stream, promise, began: self.frame_at });
                }
            }
        }
    }

    fn step<'a>(&mut self, at: Timestamp, input: &mut Input<'a>) -> Step<'a> {
        match self.state {
            State::Preface { got } => self.preface(got, input),
            State::Header => self.header(at, input),
            State::Padding { frame } => self.padding(frame, input),
            State::Data { frame, body, padding } => self.data(frame, body, padding, input),
            State::Block { frame, left } => self.block(frame, left, input),
            State::Other { frame, left } => self.other(frame, left, input),
        }
    }

    fn preface<'a>(&mut self, got: usize, input: &mut Input<'a>) -> Step<'a> {
        let missing = u32::try_from(PREFACE.len() - got).unwrap_or(0);
        let Input::Bytes(bytes) = input.take(missing) else { return Step::Part(Part::Malformed) };
        if !PREFACE.get(got..).is_some_and(|rest| rest.starts_with(bytes)) {
            return Step::Part(Part::Malformed);
        }
        if got + bytes.len() < PREFACE.len() {
            self.state = State::Preface { got: got + bytes.len() };
            return Step::More;
        }
        self.state = State::Header;
        Step::Part(Part::Preface)
    }

    fn header<'a>(&mut self, at: Timestamp, input: &mut Input<'a>) -> Step<'a> {
        if input.is_empty() {
            return Step::More;
        }
        if self.short_length == 0 && self.unfinished.is_none() {
            self.frame_at = at;
        }
        let missing = u32::try_from(Header::LENGTH - self.short_length).unwrap_or(0);
        let Input::Bytes(bytes) = input.take(missing) else { return Step::Part(Part::Malformed) };
        if !self.fill_short(bytes, Header::LENGTH) {
            return Step::More;
        }
        self.short_length = 0;
        let frame = Header::parse(self.short);
        let continues =
            frame.kind == CONTINUATION && self.unfinished.is_some_and(|b| b.stream == frame.stream);
        let doubtful = self.unproved && (frame.evidence().is_none() || frame.length > MAX_UNPROVED);
        if doubtful || !frame.legal() || (self.unfinished.is_some() && !continues) {
            self.unfinished = None;
            return Step::Part(Part::Malformed);
        }
        self.uncounted = if frame.kind == DATA { frame.length } else { 0 };
        match frame.kind {
            DATA if frame.has(PADDED) && frame.length > 0 => {
                self.state = State::Padding { frame };
                Step::More
            }
            DATA => self.data(frame, frame.length, 0, input),
            HEADERS | PUSH_PROMISE => {
                self.unfinished = Some(Unfinished {
                    stream: frame.stream,
                    end_stream: frame.kind == HEADERS && frame.has(END_STREAM),
                    promise: frame.kind == PUSH_PROMISE,
                    readable: true,
                });
                self.block.clear();
                self.block_begins(frame, input)
            }
            CONTINUATION => match self.unfinished {
                Some(_) => self.block_begins(frame, input),
                // The block's first frame was missed.
                None => {
                    self.unfinished = Some(Unfinished {
                        stream: frame.stream,
                        end_stream: false,
                        promise: false,
                        readable: false,
                    });
                    self.block.clear();
                    self.block_begins(frame, input)
                }
            },
            _ => self.other(frame, frame.length, input),
        }
    }

    fn padding<'a>(&mut self, frame: Header, input: &mut Input<'a>) -> Step<'a> {
        match input.take(1) {
            Input::Bytes([]) | Input::Skipped(0) => Step::More,
            Input::Bytes([padding, ..]) => {
                let padding = u32::from(*padding).min(frame.length - 1);
                self.data(frame, frame.length - 1 - padding, padding, input)
            }
            // How much of the payload is padding is not known: it counts as body.
            Input::Skipped(_) => self.data(frame, frame.length - 1, 0, input),
        }
    }

    fn data<'a>(&mut self, frame: Header, body: u32, padding: u32, input: &mut Input<'a>) -> Step<'a> {
        if body == 0 && matches!(self.state, State::Data { .. }) {
            let left = padding - input.take(padding).length();
            self.state = if left > 0 { State::Data { frame, body, padding: left } } else { State::Header };
            return Step::More;
        }
        if input.is_empty() && body > 0 {
            self.state = State::Data { frame, body, padding };
            return Step::More;
        }
        let front = input.take(body);
        let body = body - front.length();
        self.state = if body + padding > 0 { State::Data { frame, body, padding } } else { State::Header };
        let end_stream = body == 0 && frame.has(END_STREAM);
        let counted = std::mem::take(&mut self.uncounted);
        Step::Part(Part::Data { stream: frame.stream, input: front, end_stream, counted })
    }

    /// Reads a block where it lies if it is whole in the input, else begins to collect it.
    fn block_begins<'a>(&mut self, frame: Header, input: &mut Input<'a>) -> Step<'a> {
        self.payload_start = self.block.len();
        if let (Some(begun), Input::Bytes(bytes)) = (self.unfinished, &mut *input)
            && begun.readable
            && frame.has(END_HEADERS)
            && frame.kind != CONTINUATION
            && let Some((payload, rest)) = bytes.split_at_checked(frame.length as usize)
        {
            *bytes = rest;
            self.unfinished = None;
            self.unproved = false;
            self.state = State::Header;
            let block = fragment(frame, payload);
            let Unfinished { stream, end_stream, promise, .. } = begun;
            let began = self.frame_at;
            return Step::Part(Part::Headers { stream, block, end_stream, promise, began });
        }
        self.block(frame, frame.length, input)
    }

    fn block<'a>(&mut self, frame: Header, left: u32, input: &mut Input<'a>) -> Step<'a> {
        let front = input.take(left);
        let left = left - front.length();
        if let Some(unfinished) = &mut self.unfinished {
            match front {
                Input::Bytes(bytes) if unfinished.readable && self.block.len() + bytes.len() <= MAX_BLOCK => {
                    self.block.extend_from_slice(bytes);
                }
                Input::Skipped(0) => {}
                Input::Bytes(_) | Input::Skipped(_) => unfinished.readable = false,
            }
        }
        if left > 0 {
            self.state = State::Block { frame, left };
            return Step::More;
        }
        self.state = State::Header;
        self.strip(frame);
        match self.unfinished {
            Some(Unfinished { stream, end_stream, promise, readable }) if frame.has(END_HEADERS) => {
                self.unfinished = None;
                self.unproved = false;
                Step::Buffered { stream, end_stream, promise, readable }
            }
            _ => Step::More,
        }
    }

    /// Leaves only the block's fragment of the payload that was just collected.
    fn strip(&mut self, frame: Header) {
        let Some(unfinished) = &mut self.unfinished else { return };
        if !unfinished.readable || frame.kind == CONTINUATION {
            return;
        }
        let payload = self.block.get(self.payload_start..).unwrap_or_default();
        match fragment(frame, payload) {
            Some(found) => {
                let found = found.to_vec();
                self.block.truncate(self.payload_start);
                self.block.extend_from_slice(&found);
            }
            None => unfinished.readable = false,
        }
    }

    fn other<'a>(&mut self, frame: Header, left: u32, input: &mut Input<'a>) -> Step<'a> {
        if self.block.capacity() > KEPT_BUFFER {
            self.block = Vec::new();
        }
        let unit = control::unit(frame);
        let read = frame.length - left;
        // Behind a part that was skipped no unit's beginning is known.
        let in_step = unit > 0 && self.short_length as u32 == read % unit;
        let reads = in_step && (frame.kind == SETTINGS || read < unit);
        let front = input.take(if reads { left.min(unit - read % unit) } else { left });
        let left = left - front.length();
        let complete = match front {
            Input::Bytes(bytes) if reads => self.fill_short(bytes, unit as usize),
            _ => false,
        };
        if left == 0 || complete {
            self.short_length = 0;
        }
        self.state = if left > 0 { State::Other { frame, left } } else { State::Header };
        if complete { Step::Part(control::part(frame, self.short)) } else { Step::More }
    }

    /// Adds to the short buffer; `true` once it holds `wanted` bytes.
    fn fill_short(&mut self, bytes: &[u8], wanted: usize) -> bool {
        for (place, byte) in self.short.iter_mut().skip(self.short_length).zip(bytes) {
            *place = *byte;
        }
        self.short_length += bytes.len();
        self.short_length >= wanted
    }
}

/// The part of a HEADERS or PUSH_PROMISE payload that is the header block.
fn fragment(frame: Header, mut payload: &[u8]) -> Option<&[u8]> {
    if frame.has(PADDED) {
        let (padding, rest) = payload.split_first()?;
        payload = rest.get(..rest.len().checked_sub(usize::from(*padding))?)?;
    }
    if frame.kind == HEADERS && frame.has(WITH_PRIORITY) {
        payload = payload.get(5..)?;
    }
    if frame.kind == PUSH_PROMISE {
        payload = payload.get(4..)?;
    }
    Some(payload)
}
