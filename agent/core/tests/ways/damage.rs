//! What the kernel program and the network make of a conversation's bytes: choices and taps flow in, segments
//! flow out. Bodies are left out, segments are cut, doubled, moved and lost, the beginning is missed.

use super::Choices;
use bytes::Bytes;
use faultline_core::event::{Direction, Piece, Segment};
use faultline_core::units::{ConnectionId, Timestamp};
use std::collections::BTreeMap;

/// First sequence numbers: one wraps soon.
const SEQUENCE: [u32; 2] = [u32::MAX - 300, 5];

/// What may happen to the segments.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Damage {
    /// Bodies are left out.
    pub bodies: bool,
    /// Out of 256.
    pub lost: u8,
    /// Out of 256.
    pub doubled: u8,
    /// By how many places a segment may come too late.
    pub moved: u8,
    /// Nanoseconds between segments.
    pub apart: u64,
}

/// The segments of a conversation as the decoder gets them.
pub(crate) fn segments(
    taps: &[(Direction, Bytes)],
    connection: ConnectionId,
    damage: Damage,
    choices: &mut Choices<'_>,
) -> Vec<Segment> {
    let skipped = bodies(taps);
    let mut done = [0usize; 2];
    let mut segments = Vec::new();
    let mut rest: Vec<(Direction, Bytes)> = taps.to_vec();
    rest.reverse();
    while let Some((direction, mut bytes)) = rest.pop() {
        // A segment ends with a write, inside it, or together with the next one of its direction.
        if let Some((next, more)) = rest.last()
            && *next == direction
            && bytes.len() < 8000
            && choices.byte() & 3 == 0
        {
            bytes = [&bytes[..], &more[..]].concat().into();
            rest.pop();
        }
        let front = if choices.byte() & 7 == 7 { usize::from(choices.byte()) + 1 } else { 1448 };
        if front < bytes.len() {
            rest.push((direction, bytes.split_off(front)));
        }
        let way = usize::from(direction == Direction::Received);
        let mask = &skipped[way][done[way]..done[way] + bytes.len()];
        segments.push(Segment {
            at: Timestamp(0),
            connection,
            direction,
            sequence: SEQUENCE[way].wrapping_add(done[way] as u32),
            length: bytes.len() as u32,
            pieces: if damage.bodies {
                pieces(&bytes, mask)
            } else {
                pieces(&bytes, &vec![false; bytes.len()])
            },
        });
        done[way] += bytes.len();
    }
    let mut placed = Vec::new();
    for (index, segment) in segments.into_iter().enumerate() {
        if choices.chance(damage.doubled) {
            placed.push((index + usize::from(choices.byte() % (damage.moved + 1)), segment.clone()));
        }
        if !choices.chance(damage.lost) {
            let late = if choices.chance(60) { choices.byte() % (damage.moved + 1) } else { 0 };
            placed.push((index + usize::from(late), segment));
        }
    }
    placed.sort_by_key(|(place, _)| *place);
    let timed = placed.into_iter().enumerate().map(|(index, (_, segment))| Segment {
        at: Timestamp(1_000_000_000 + index as u64 * damage.apart),
        ..segment
    });
    timed.collect()
}

fn pieces(bytes: &Bytes, skipped: &[bool]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut at = 0;
    for run in skipped.chunk_by(|a, b| a == b) {
        if run.first() == Some(&false) {
            pieces.push(Piece { offset: at as u32, bytes: bytes.slice(at..at + run.len()) });
        }
        at += run.len();
    }
    pieces
}

/// For each direction, which bytes the kernel program leaves out: message bodies inside DATA frames.
fn bodies(taps: &[(Direction, Bytes)]) -> [Vec<bool>; 2] {
    [Direction::Sent, Direction::Received].map(|direction| {
        let own = taps.iter().filter(|(of, _)| *of == direction);
        let bytes: Vec<u8> = own.flat_map(|(_, bytes)| bytes.iter().copied()).collect();
        let mut skipped = vec![false; bytes.len()];
        let mut at = if direction == Direction::Sent { 24 } else { 0 };
        let mut messages: BTreeMap<u32, (usize, Vec<u8>)> = BTreeMap::new();
        while at + 9 <= bytes.len() {
            let length = u32::from_be_bytes([0, bytes[at], bytes[at + 1], bytes[at + 2]]) as usize;
            let (kind, flags) = (bytes[at + 3], bytes[at + 4]);
            let stream = u32::from_be_bytes([bytes[at + 5], bytes[at + 6], bytes[at + 7], bytes[at + 8]]);
            at += 9;
            let padding = if flags & 8 != 0 && kind == 0 { usize::from(bytes[at]) } else { 0 };
            let from = at + usize::from(kind == 0 && flags & 8 != 0);
            let (left, prefix) = messages.entry(stream).or_default();
            for place in from..at + length - padding {
                if kind != 0 {
                    break;
                }
                if *left > 0 {
                    *left -= 1;
                    skipped[place] = true;
                    continue;
                }
                prefix.push(bytes[place]);
                if prefix.len() == 5 {
                    *left = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
                    prefix.clear();
                }
            }
            at += length;
            skipped[at - padding..at].fill(true);
        }
        skipped
    })
}
