//! How fast the decoder is on one core: the bytes of a real conversation, decoded over and over.
//! `cargo bench -p faultline-core --bench decode`
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark says what it measured")]

#[path = "../tests/conversation/mod.rs"]
mod conversation;

use conversation::*;
use faultline_core::event::{Event, Segment};
use faultline_core::rpc::Decoder;
use faultline_core::units::ConnectionId;
use std::time::Instant;

/// Calls of the conversation.
const CALLS: usize = 2000;

/// Times it is decoded.
const ROUNDS: u64 = 100;

fn main() {
    let planned = |method| Planned {
        method,
        requests: vec![80],
        responses: vec![120],
        end: End::Trailers(0),
        timeout: Some(method as u32 + 1),
    };
    let plan: Vec<_> = (0..CALLS).map(|index| planned(index % METHODS.len())).collect();
    for (name, at_once, length) in [("one call at a time", false, 65_535), ("all at once", true, 1400)] {
        let (taps, _) = hold(&plan, at_once);
        let frames = frames(&taps);
        let segments = cut(&taps, &[length]);
        measure(name, frames, &segments);
    }
}

fn measure(name: &str, frames: usize, segments: &[Segment]) {
    let mut out = Vec::new();
    let mut calls = 0;
    let mut decoder = Decoder::default();
    let mut nanos = 0;
    for round in 0..ROUNDS {
        let mut events: Vec<Event> = Vec::with_capacity(segments.len());
        for segment in segments {
            events.push(Event::Segment(Segment { connection: ConnectionId(round), ..segment.clone() }));
        }
        let start = Instant::now();
        for event in events {
            decoder.handle(event, &mut out);
        }
        nanos += start.elapsed().as_nanos();
        calls += out.drain(..).filter(|event| matches!(event, Event::Call(_))).count();
    }
    let seconds = nanos as f64 / 1e9;
    println!(
        "{name}: {:.2} million frames/s, {:.0} thousand calls/s, {} calls decoded",
        (frames as u64 * ROUNDS) as f64 / seconds / 1e6,
        calls as f64 / seconds / 1e3,
        calls
    );
}

/// Frames in the taps.
fn frames(taps: &Taps) -> usize {
    let mut count = 0;
    for wanted in 0..2 {
        let bytes: Vec<u8> =
            taps.iter().filter(|(d, _)| place(*d) == wanted).flat_map(|(_, b)| b.to_vec()).collect();
        let mut at = if wanted == 0 { 24 } else { 0 };
        while let Some([a, b, c]) = bytes.get(at..at + 3) {
            at += 9 + u32::from_be_bytes([0, *a, *b, *c]) as usize;
            count += 1;
        }
    }
    count
}
