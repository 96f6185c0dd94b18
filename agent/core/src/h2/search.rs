//! Finds frames in the middle of a direction: runs of bytes that may be anything flow in, and once a chain of
//! plausible frame headers shows where a frame begins, the runs from there on flow out.
//!
//! One header alone is not enough: bodies are full of bytes that look like one. A chain gets points for each
//! header, for beginning where a segment does, and for ending where one does (stacks write whole frames).

use super::frame::{Header, PREFACE};
use super::reassembly::Run;
use bytes::Bytes;
use std::collections::VecDeque;

/// Bytes searched at once, per direction: two frames of the usual largest size (16 KiB) with their headers.
/// A longer chain of larger bodies is found a little later.
const MAX_BYTES: usize = 40 * 1024;

/// Runs searched at once: as many segments of eight bytes on average.
const MAX_RUNS: usize = MAX_BYTES / 8;

/// Points that a chain needs; see [`Header::evidence`]. Four are about 32 bits of luck.
const ENOUGH: u32 = 4;

/// Beginnings of chains that are followed at once. A plausible header turns up by chance once in some ten
/// thousand bytes; beyond this the oldest is no longer followed.
const MAX_CHAINS: usize = 256;

/// Points for a chain that begins with a segment.
const ALIGNED_START: u32 = 1;

/// Points for a chain that ends with a segment of at least a header's length.
const ALIGNED_END: u32 = 2;

/// Where the search found a beginning.
#[derive(Debug)]
pub(crate) struct Found {
    /// The runs from the beginning on.
    pub(crate) runs: Vec<Run>,
    /// It is the connection's very beginning: the client's preface.
    pub(crate) preface: bool,
}

/// One direction's search.
#[derive(Debug, Default)]
pub(crate) struct Search {
    /// Runs with the offset of their first byte, ascending.
    runs: VecDeque<(u64, Run)>,
    /// Offsets at which segments begin and end, ascending.
    starts: VecDeque<u64>,
    ends: VecDeque<u64>,
    /// Offset behind the last run.
    end: u64,
    /// No chain that is not in `chains` begins before this offset.
    scanned: u64,
    chains: VecDeque<Chain>,
    bytes: usize,
}

/// A chain of headers, as far as the bytes reach.
#[derive(Clone, Copy, Debug)]
struct Chain {
    start: u64,
    /// Where its next header is.
    next: u64,
    points: u32,
}

enum Verdict {
    Here,
    No,
    /// The chain runs out of the bytes that are there.
    Wait(Chain),
}

impl Search {
    /// Takes the runs of one segment. `aligned`: the first run is the segment's beginning.
    pub(crate) fn push(&mut self, runs: impl Iterator<Item = Run>, aligned: bool) -> Option<Found> {
        let start = self.end;
        for run in runs {
            let run = match run {
                Run::Bytes(bytes) => {
                    self.bytes += bytes.len();
                    Run::Bytes(Bytes::copy_from_slice(&bytes))
                }
                skipped @ Run::Skipped(_) => skipped,
            };
            let length = u64::from(run.length());
            self.runs.push_back((self.end, run));
            self.end += length;
        }
        if aligned {
            self.starts.push_back(start);
        }
        if self.end - start >= Header::LENGTH as u64 {
            self.ends.push_back(self.end);
        }
        let found = self.look();
        if found.is_none() {
            self.trim();
        }
        found
    }

    /// Bytes kept.
    pub(crate) fn held(&self) -> usize {
        self.bytes + (self.runs.len() + self.chains.len()) * size_of::<(u64, Run)>()
    }

    fn look(&mut self) -> Option<Found> {
        for chain in std::mem::take(&mut self.chains) {
            match self.follow(chain) {
                Verdict::Here => return Some(self.found(chain.start)),
                Verdict::Wait(chain) => self.chains.push_back(chain),
                Verdict::No => {}
            }
        }
        while self.scanned + Header::LENGTH as u64 <= self.end {
            let Some(at) = self.next_bytes(self.scanned) else { break };
            self.scanned = at + 1;
            let points = if self.starts.binary_search(&at).is_ok() { ALIGNED_START } else { 0 };
            match self.follow(Chain { start: at, next: at, points }) {
                Verdict::Here => return Some(self.found(at)),
                Verdict::Wait(chain) => self.chains.push_back(chain),
                Verdict::No => {}
            }
        }
        None
    }

    /// Follows a chain as far as the bytes reach.
    fn follow(&self, mut chain: Chain) -> Verdict {
        loop {
            let Some(header) = self.header(chain.next) else {
                let waits = chain.next + Header::LENGTH as u64 > self.end;
                return if waits { Verdict::Wait(chain) } else { Verdict::No };
            };
            if chain.start == chain.next && PREFACE.starts_with(&header) {
                return self.preface(chain);
            }
            let header = Header::parse(header);
            let Some(points) = header.evidence() else { return Verdict::No };
            let next = chain.next + Header::LENGTH as u64 + u64::from(header.length);
            if next > self.end {
                // Whether it ends with a segment is not known yet: this header is looked at again.
                return Verdict::Wait(chain);
            }
            let aligned = if self.ends.binary_search(&next).is_ok() { ALIGNED_END } else { 0 };
            chain = Chain { points: chain.points + points + aligned, next, ..chain };
            if chain.points >= ENOUGH {
                return Verdict::Here;
            }
        }
    }

    fn preface(&self, chain: Chain) -> Verdict {
        for (place, wanted) in PREFACE.iter().enumerate() {
            let at = chain.start + place as u64;
            match self.byte(at) {
                Some(byte) if byte == *wanted => {}
                None if at >= self.end => return Verdict::Wait(chain),
                Some(_) | None => return Verdict::No,
            }
        }
        Verdict::Here
    }

    /// The first offset from `at` on whose byte was seen.
    fn next_bytes(&self, at: u64) -> Option<u64> {
        let index = self.runs.partition_point(|(offset, run)| offset + u64::from(run.length()) <= at);
        let (offset, _) = self.runs.range(index..).find(|(_, run)| matches!(run, Run::Bytes(_)))?;
        Some(at.max(*offset))
    }

    fn header(&self, at: u64) -> Option<[u8; Header::LENGTH]> {
        let (offset, run) = self.runs.get(self.run_at(at)?)?;
        if let Run::Bytes(bytes) = run {
            let place = usize::try_from(at - offset).ok()?;
            if let Some(header) = bytes.get(place..).and_then(|rest| rest.first_chunk()) {
                return Some(*header);
            }
        }
        let mut header = [0; Header::LENGTH];
        for (place, byte) in header.iter_mut().enumerate() {
            *byte = self.byte(at + place as u64)?;
        }
        Some(header)
    }

    fn byte(&self, at: u64) -> Option<u8> {
        match self.runs.get(self.run_at(at)?)? {
            (offset, Run::Bytes(bytes)) => bytes.get(usize::try_from(at - offset).ok()?).copied(),
            (_, Run::Skipped(_)) => None,
        }
    }

    fn run_at(&self, at: u64) -> Option<usize> {
        self.runs.partition_point(|(offset, _)| *offset <= at).checked_sub(1)
    }

    fn found(&mut self, at: u64) -> Found {
        let preface = self.byte(at) == PREFACE.first().copied();
        let mut found = Vec::with_capacity(self.runs.len());
        for (offset, run) in std::mem::take(self).runs {
            match run {
                Run::Bytes(bytes) if offset + bytes.len() as u64 > at => {
                    let front = usize::try_from(at.saturating_sub(offset)).unwrap_or(0);
                    found.push(Run::Bytes(bytes.slice(front..)));
                }
                Run::Skipped(count) if offset >= at => found.push(Run::Skipped(count)),
                Run::Bytes(_) | Run::Skipped(_) => {}
            }
        }
        Found { runs: found, preface }
    }

    /// Drops what no chain can need any more, and the oldest of what is too much.
    fn trim(&mut self) {
        while self.chains.len() > MAX_CHAINS {
            self.chains.pop_front();
        }
        while let Some((offset, run)) = self.runs.front() {
            let behind = offset + u64::from(run.length());
            let needed = self.chains.front().map_or(self.scanned, |chain| chain.start.min(self.scanned));
            if behind > needed && self.bytes <= MAX_BYTES && self.runs.len() <= MAX_RUNS {
                break;
            }
            if let Run::Bytes(bytes) = run {
                self.bytes = self.bytes.saturating_sub(bytes.len());
            }
            self.runs.pop_front();
            self.scanned = self.scanned.max(behind);
            self.chains.retain(|chain| chain.start >= behind);
        }
        let first = self.runs.front().map_or(self.end, |(offset, _)| *offset);
        for marks in [&mut self.starts, &mut self.ends] {
            while marks.front().is_some_and(|mark| *mark < first) {
                marks.pop_front();
            }
        }
    }
}
