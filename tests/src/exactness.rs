//! Compares captured segments with the bytes that passed: every captured byte is right, every byte is told
//! of, and what was skipped lies inside the body of a DATA frame and outside every gRPC message prefix.

use faultline_core::event::Segment;
use std::collections::HashMap;

/// What a direction's segments amount to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    /// Bytes that passed.
    pub bytes: usize,
    /// Bytes that were copied.
    pub copied: usize,
    /// Records.
    pub segments: usize,
}

/// Checks one direction's segments, in the order of their capture, against what its sender sent, of which at
/// least the first `arrived` bytes reached the other end.
///
/// # Errors
/// What differs, and where.
pub fn check(segments: &[Segment], truth: &[u8], arrived: usize) -> Result<Summary, String> {
    // What was sent first may have come later.
    let before = |a: u32, b: u32| if a.wrapping_sub(b) > u32::MAX / 2 { a } else { b };
    let Some(first) = segments.iter().map(|segment| segment.sequence).reduce(before) else {
        return Err("nothing was captured".to_owned());
    };
    let mut told = vec![false; truth.len()];
    let mut copied = vec![false; truth.len()];
    for segment in segments {
        let start = segment.sequence.wrapping_sub(first) as usize;
        let end = start + segment.length as usize;
        let Some(range) = told.get_mut(start..end) else {
            return Err(format!("a segment of [{start}, {end}) in a stream of {} bytes", truth.len()));
        };
        range.fill(true);
        for piece in &segment.pieces {
            let from = start + piece.offset as usize;
            let range = from..from + piece.bytes.len();
            if truth.get(range.clone()) != Some(&piece.bytes[..]) {
                return Err(format!("other bytes than passed at {range:?}"));
            }
            copied.get_mut(range).ok_or("a piece beyond its stream")?.fill(true);
        }
    }
    let told_to = told.iter().position(|told| !told).unwrap_or(truth.len());
    if told_to < arrived || told.iter().skip(told_to).any(|told| *told) {
        return Err(format!("a hole at {told_to} of {}", truth.len()));
    }
    let skippable = skippable(truth);
    if let Some(place) = (0..told_to).find(|place| !copied[*place] && !skippable[*place]) {
        return Err(format!("a byte that matters was skipped at {place} of {}", truth.len()));
    }
    Ok(Summary {
        bytes: truth.len(),
        copied: copied.iter().filter(|copied| **copied).count(),
        segments: segments.len(),
    })
}

/// Which bytes of a direction are message bodies.
fn skippable(stream: &[u8]) -> Vec<bool> {
    let mut skippable = vec![false; stream.len()];
    let mut messages: HashMap<u32, (usize, Vec<u8>)> = HashMap::new();
    let mut at = if stream.starts_with(b"PRI") { 24 } else { 0 };
    while at + 9 <= stream.len() {
        let length =
            usize::from(stream[at]) << 16 | usize::from(stream[at + 1]) << 8 | usize::from(stream[at + 2]);
        let stream_id = u32::from_be_bytes([stream[at + 5], stream[at + 6], stream[at + 7], stream[at + 8]]);
        let is_body = stream[at + 3] == 0;
        at += 9;
        let end = (at + length).min(stream.len());
        if is_body {
            let (left, prefix) = messages.entry(stream_id).or_default();
            for place in at..end {
                if *left > 0 {
                    *left -= 1;
                    skippable[place] = true;
                } else {
                    prefix.push(stream[place]);
                    if let [_, a, b, c, d] = prefix[..] {
                        *left = u32::from_be_bytes([a, b, c, d]) as usize;
                        prefix.clear();
                    }
                }
            }
        }
        at = end;
    }
    skippable
}
