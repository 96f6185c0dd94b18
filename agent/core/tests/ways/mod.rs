//! Conversations in the ways of the big stacks: choices (any bytes) flow in, the bytes of a client and a server
//! and what they said flow out. The `h2` crate never puts a path into its header table; grpc-go, grpc-java and
//! gRPC C++ do, each in an order of its own, and that is what a late join makes hard.
#![allow(dead_code, reason = "each test binary uses a part")]

pub(crate) mod damage;
pub(crate) mod encoder;
pub(crate) mod truth;

use bytes::Bytes;
use encoder::{Encoder, Way};
use faultline_core::event::Direction;
use std::collections::BTreeMap;

/// Methods of a conversation.
pub(crate) const METHODS: [&str; 5] =
    ["a.B/C", "a.B/D", "shop.Cart/Add", "shop.catalog.v1.Catalog/List", "x/y"];

/// Statuses, OK most often.
const STATUSES: [u8; 8] = [0, 0, 0, 0, 0, 5, 13, 14];

/// Sizes of messages; one is longer than a frame.
const SIZES: [usize; 8] = [0, 1, 5, 40, 40, 200, 1500, 20_000];

/// Payload bytes of a frame.
const LONGEST_FRAME: usize = 16_384;

/// Streams open at once.
const MOST_OPEN: usize = 8;

/// Reads decisions from bytes, so that a change of a byte is a change of a decision; zeros at the end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choices<'a>(pub(crate) &'a [u8]);

impl Choices<'_> {
    pub(crate) fn is_over(self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// One of them.
    pub(crate) fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::from(self.byte()) % choices.len()]
    }

    /// True `share` times of 256.
    pub(crate) fn chance(&mut self, share: u8) -> bool {
        // Zeros, which is what a short input ends in, are the usual case.
        self.byte() > 255 - share
    }
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Open,
    Trailers(u8),
    TrailersOnly(u8),
    Reset { code: u32, by_client: bool },
}

/// What was said on one stream.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    pub method: &'static str,
    pub timeout_ms: Option<u32>,
    pub requests: Vec<usize>,
    pub responses: Vec<usize>,
    pub half_closed: bool,
    pub end: End,
}

/// A conversation.
#[derive(Debug, Default)]
pub(crate) struct Talk {
    /// Bytes in the order in which they passed.
    pub taps: Vec<(Direction, Bytes)>,
    /// By stream.
    pub said: BTreeMap<u32, Said>,
}

struct Speakers {
    talk: Talk,
    client: Encoder,
    server: Encoder,
    open: Vec<u32>,
    next: u32,
}

/// Makes a conversation of all choices.
pub(crate) fn talk(choices: &mut Choices<'_>, steps: usize) -> Talk {
    let way = choices.of(&[Way::Go, Way::Netty, Way::Core, Way::Literal]);
    let table = choices.of(&[4096, 4096, 4096, 200, 0]);
    let mut speakers = Speakers {
        talk: Talk::default(),
        client: Encoder::new(way, table),
        server: Encoder::new(way, table),
        open: Vec::new(),
        next: 1,
    };
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    speakers.say(Direction::Sent, preface.to_vec());
    speakers.say(Direction::Received, frame(4, 0, 0, &[]));
    for _ in 0..steps {
        if choices.is_over() {
            break;
        }
        speakers.step(choices);
    }
    speakers.talk
}

impl Speakers {
    fn step(&mut self, choices: &mut Choices<'_>) {
        let what = choices.byte();
        let place = usize::from(choices.byte()) % self.open.len().max(1);
        let Some(&stream) = self.open.get(place) else { return self.begin(choices) };
        match what % 16 {
            0..=2 if self.open.len() < MOST_OPEN => self.begin(choices),
            3..=5 => self.request(stream, choices),
            6 => self.half_close(stream),
            7 | 8 => self.response(stream, choices),
            9..=11 => self.trailers(stream, choices),
            12 => self.trailers_only(stream, choices),
            13 => self.reset(stream, choices),
            14 => self.say(choices.of(&[Direction::Sent, Direction::Received]), frame(6, 0, 0, &[0; 8])),
            // A whole unary call, which is what is called most.
            _ => {
                self.begin(choices);
                let Some(&stream) = self.open.last() else { return };
                self.request(stream, choices);
                self.half_close(stream);
                self.response(stream, choices);
                self.trailers(stream, choices);
            }
        }
    }

    fn begin(&mut self, choices: &mut Choices<'_>) {
        let stream = self.next;
        self.next += 2;
        let method = choices.of(&METHODS);
        let timeout_ms = choices.chance(128).then(|| 1000 + u32::from(choices.byte()));
        let block = self.client.request(method, timeout_ms);
        self.say(Direction::Sent, headers(stream, &block, false, choices));
        let (requests, responses) = (Vec::new(), Vec::new());
        let said = Said { method, timeout_ms, requests, responses, half_closed: false, end: End::Open };
        self.talk.said.insert(stream, said);
        self.open.push(stream);
    }

    fn request(&mut self, stream: u32, choices: &mut Choices<'_>) {
        let size = choices.of(&SIZES);
        let Some(said) = self.talk.said.get_mut(&stream).filter(|said| !said.half_closed) else { return };
        said.requests.push(size);
        self.message(Direction::Sent, stream, size, choices);
    }

    fn half_close(&mut self, stream: u32) {
        let Some(said) = self.talk.said.get_mut(&stream).filter(|said| !said.half_closed) else { return };
        said.half_closed = true;
        self.say(Direction::Sent, frame(0, 1, stream, &[]));
    }

    fn response(&mut self, stream: u32, choices: &mut Choices<'_>) {
        self.response_head(stream, choices);
        let size = choices.of(&SIZES);
        if let Some(said) = self.talk.said.get_mut(&stream) {
            said.responses.push(size);
        }
        self.message(Direction::Received, stream, size, choices);
    }

    fn response_head(&mut self, stream: u32, choices: &mut Choices<'_>) {
        if self.talk.said[&stream].responses.is_empty() {
            let block = self.server.response_head();
            self.say(Direction::Received, headers(stream, &block, false, choices));
        }
    }

    fn trailers(&mut self, stream: u32, choices: &mut Choices<'_>) {
        let mut status = choices.of(&STATUSES);
        let said = &self.talk.said[&stream];
        if status != 0 && said.requests.len() == 1 && said.responses.len() == 1 {
            // The wire does not tell a stream that failed after its only message from a unary success, if its
            // status cannot be read.
            status = 0;
        }
        self.response_head(stream, choices);
        let block = self.server.trailers(status);
        self.say(Direction::Received, headers(stream, &block, true, choices));
        self.end(stream, End::Trailers(status));
    }

    fn trailers_only(&mut self, stream: u32, choices: &mut Choices<'_>) {
        let status = choices.of(&STATUSES).max(2);
        if !self.talk.said[&stream].responses.is_empty() {
            return;
        }
        let block = self.server.trailers_only(status);
        self.say(Direction::Received, headers(stream, &block, true, choices));
        self.end(stream, End::TrailersOnly(status));
    }

    fn reset(&mut self, stream: u32, choices: &mut Choices<'_>) {
        let (by_client, code) = choices.of(&[(true, 8), (true, 8), (false, 7), (false, 11), (false, 2)]);
        let direction = if by_client { Direction::Sent } else { Direction::Received };
        self.say(direction, frame(3, 0, stream, &u32::to_be_bytes(code)));
        self.end(stream, End::Reset { code, by_client });
    }

    /// The server ends the call; a client that was not done says so now.
    fn end(&mut self, stream: u32, end: End) {
        if !matches!(end, End::Reset { .. }) {
            self.half_close(stream);
        }
        if let Some(said) = self.talk.said.get_mut(&stream) {
            said.end = end;
        }
        self.open.retain(|open| *open != stream);
    }

    fn message(&mut self, direction: Direction, stream: u32, size: usize, choices: &mut Choices<'_>) {
        let mut bytes = vec![0];
        bytes.extend((size as u32).to_be_bytes());
        let fill = choices.byte();
        bytes.extend((0..size).map(|place| fill.wrapping_mul(place as u8 | 1)));
        let cut = usize::from(choices.byte()).min(bytes.len());
        let (front, rest) = bytes.split_at(if choices.chance(40) { cut } else { 0 });
        for payload in
            std::iter::once(front).chain(rest.chunks(LONGEST_FRAME)).filter(|part| !part.is_empty())
        {
            let padded = [&[2][..], payload, &[0; 2]].concat();
            let framed =
                if choices.chance(20) { frame(0, 8, stream, &padded) } else { frame(0, 0, stream, payload) };
            self.say(direction, framed);
        }
    }

    fn say(&mut self, direction: Direction, bytes: Vec<u8>) {
        self.talk.taps.push((direction, Bytes::from(bytes)));
    }
}

/// A header block in HEADERS and perhaps CONTINUATION.
fn headers(stream: u32, block: &[u8], end_stream: bool, choices: &mut Choices<'_>) -> Vec<u8> {
    let end_stream = u8::from(end_stream);
    if choices.chance(20) && block.len() > 3 {
        let (front, rest) = block.split_at(block.len() / 2);
        return [frame(1, end_stream, stream, front), frame(9, 4, stream, rest)].concat();
    }
    frame(1, 4 | end_stream, stream, block)
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}
