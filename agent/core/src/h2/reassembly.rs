//! Puts the segments of one direction in order by their sequence numbers: segments flow in as the kernel saw
//! them, segments in order flow out. [`super::half`] decides when a hole is given up.

use crate::event::{Piece, Segment};
use crate::units::Timestamp;
use bytes::Bytes;
use std::collections::VecDeque;

/// Bytes of segments that wait behind a hole, per direction: about what one connection may have under way, and what
/// the kernel programs keep for the same reason. Ring loss fills it at once, and then waiting would not help.
pub(crate) const MAX_HELD: usize = 4 << 20;

/// Segments that wait behind a hole, per direction: as many as that much takes on Ethernet.
pub(crate) const MAX_HELD_SEGMENTS: usize = 4096;

/// What a held segment costs beyond its bytes.
const HELD_OVERHEAD: usize = 64;

/// A receive window is at most 1 GiB (RFC 7323): a segment farther away is not of this sequence.
const MAX_DISTANCE: u32 = 1 << 30;

/// After so many segments in a row that were all seen before, it is the expected number that is wrong.
const MAX_STALE: u32 = 256;

/// A segment whose first `skip` bytes were delivered before.
#[derive(Debug)]
pub(crate) struct Ordered {
    pub(crate) segment: Segment,
    pub(crate) skip: u32,
}

/// A gap in front of the held segments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hole {
    /// Bytes missing.
    pub(crate) length: u32,
    /// When the first segment behind it came.
    pub(crate) since: Timestamp,
    /// The bounds are reached: give it up now.
    pub(crate) full: bool,
}

/// One direction's order.
#[derive(Debug, Default)]
pub(crate) struct Reassembly {
    /// The sequence number that comes next; `None` until the first segment was taken.
    next: Option<u32>,
    /// Sorted by sequence number.
    held: VecDeque<Segment>,
    held_bytes: usize,
    since: Timestamp,
    stale: u32,
    /// Bytes given out in order so far.
    delivered: u64,
}

impl Reassembly {
    /// Takes a segment; gives it back if it is the next.
    pub(crate) fn push(&mut self, segment: Segment) -> Option<Ordered> {
        let Some(next) = self.next else {
            self.hold(segment);
            return None;
        };
        let ahead = segment.sequence.wrapping_sub(next);
        if ahead == 0 {
            self.stale = 0;
            self.next = Some(next.wrapping_add(segment.length));
            self.delivered += u64::from(segment.length);
            return Some(Ordered { segment, skip: 0 });
        }
        let behind = ahead.wrapping_neg();
        if behind <= MAX_DISTANCE {
            return self.overlap(segment, behind);
        }
        self.stale = 0;
        self.hold(segment);
        None
    }

    fn overlap(&mut self, segment: Segment, behind: u32) -> Option<Ordered> {
        if behind < segment.length {
            self.stale = 0;
            self.next = Some(segment.sequence.wrapping_add(segment.length));
            self.delivered += u64::from(segment.length - behind);
            return Some(Ordered { segment, skip: behind });
        }
        self.stale += 1;
        if self.stale > MAX_STALE {
            self.stale = 0;
            self.next = None;
            self.hold(segment);
        }
        None
    }

    fn hold(&mut self, mut segment: Segment) {
        if segment.length == 0 {
            return;
        }
        if self.held.is_empty() {
            self.since = segment.at;
        }
        let base = self.next.or(self.held.front().map(|s| s.sequence.wrapping_sub(MAX_DISTANCE)));
        let base = base.unwrap_or(segment.sequence);
        let key = |s: &Segment| s.sequence.wrapping_sub(base);
        let place = self.held.partition_point(|s| key(s) < key(&segment));
        let known = self.held.get(place);
        if known.is_some_and(|s| s.sequence == segment.sequence && s.length >= segment.length) {
            return;
        }
        // A slice may keep a whole ring buffer page alive: what waits is copied, so that the bound holds.
        for piece in &mut segment.pieces {
            piece.bytes = Bytes::copy_from_slice(&piece.bytes);
        }
        self.held_bytes += cost(&segment);
        self.held.insert(place, segment);
    }

    /// The next held segment, if it is in order now.
    pub(crate) fn pop(&mut self) -> Option<Ordered> {
        loop {
            let next = self.next?;
            let behind = next.wrapping_sub(self.held.front()?.sequence);
            if behind > MAX_DISTANCE {
                return None;
            }
            let segment = self.held.pop_front()?;
            self.held_bytes = self.held_bytes.saturating_sub(cost(&segment));
            if behind < segment.length {
                self.next = Some(segment.sequence.wrapping_add(segment.length));
                self.delivered += u64::from(segment.length - behind);
                return Some(Ordered { segment, skip: behind });
            }
        }
    }

    /// What is missing, if something waits.
    pub(crate) fn hole(&self) -> Option<Hole> {
        let first = self.held.front()?;
        let length = self.next.map_or(0, |next| first.sequence.wrapping_sub(next));
        let full = self.held_bytes > MAX_HELD || self.held.len() > MAX_HELD_SEGMENTS;
        Some(Hole { length, since: self.since, full })
    }

    /// Goes on behind the hole (or with the first held segment, if nothing was taken yet).
    pub(crate) fn jump(&mut self) {
        if let Some(first) = self.held.front() {
            self.next = Some(first.sequence);
        }
        self.since = self.held.get(1).map_or(self.since, |s| s.at.max(self.since));
    }

    /// The first bytes of what is held, as far as they hang together, up to `wanted`: how the connection
    /// starts, while nothing was taken.
    pub(crate) fn first_bytes(&self, wanted: usize) -> Option<Vec<u8>> {
        if self.next.is_some() {
            return None;
        }
        let mut bytes = Vec::with_capacity(wanted);
        let mut next = self.held.front()?.sequence;
        for segment in &self.held {
            let behind = next.wrapping_sub(segment.sequence);
            if behind > MAX_DISTANCE || bytes.len() >= wanted {
                break;
            }
            if behind >= segment.length {
                continue;
            }
            for run in runs(segment, behind) {
                let Run::Bytes(run) = run else { return Some(bytes) };
                bytes.extend(run.iter().take(wanted - bytes.len()));
            }
            next = segment.sequence.wrapping_add(segment.length);
        }
        Some(bytes)
    }

    /// A segment was taken.
    pub(crate) fn started(&self) -> bool {
        self.next.is_some()
    }

    /// Bytes of the direction that were seen so far, given out or held; skipped ones too.
    pub(crate) fn seen(&self) -> u64 {
        self.delivered + self.held.iter().map(|segment| u64::from(segment.length)).sum::<u64>()
    }

    /// Bytes held.
    pub(crate) fn held(&self) -> usize {
        self.held_bytes
    }
}

fn cost(segment: &Segment) -> usize {
    segment.pieces.iter().map(|piece| piece.bytes.len() + HELD_OVERHEAD).sum::<usize>() + HELD_OVERHEAD
}

/// Bytes of a segment that follow one another.
#[derive(Clone, Debug)]
pub(crate) enum Run {
    /// Seen.
    Bytes(Bytes),
    /// Left out on purpose: this many.
    Skipped(u32),
}

impl Run {
    pub(crate) fn length(&self) -> u32 {
        match self {
            Self::Bytes(bytes) => u32::try_from(bytes.len()).unwrap_or(u32::MAX),
            Self::Skipped(count) => *count,
        }
    }
}

/// The segment's bytes in order, without its first `skip`. Pieces that overlap or overhang are trimmed.
pub(crate) fn runs(segment: &Segment, skip: u32) -> impl Iterator<Item = Run> + '_ {
    let mut at = skip.min(segment.length);
    let mut pieces = segment.pieces.iter();
    let mut piece = pieces.next();
    std::iter::from_fn(move || {
        loop {
            if at >= segment.length {
                return None;
            }
            let Some(Piece { offset, bytes }) = piece else {
                let run = Run::Skipped(segment.length - at);
                at = segment.length;
                return Some(run);
            };
            let end =
                offset.saturating_add(u32::try_from(bytes.len()).unwrap_or(u32::MAX)).min(segment.length);
            if end <= at {
                piece = pieces.next();
                continue;
            }
            if *offset > at {
                let run = Run::Skipped((*offset).min(segment.length) - at);
                at = (*offset).min(segment.length);
                return Some(run);
            }
            let run = Run::Bytes(bytes.slice((at - offset) as usize..(end - offset) as usize));
            at = end;
            return Some(run);
        }
    })
}
