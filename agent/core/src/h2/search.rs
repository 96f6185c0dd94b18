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

/// Points that a chain needs; see [`Header::evidence`]. Four are about 32 bits of luck.
const ENOUGH: u32 = 4;

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
    /// Segments' beginnings and ends.
    starts: VecDeque<u64>,
    ends: VecDeque<u64>,
    /// Offset behind the last run.
    end: u64,
    /// The first offset at which a chain may still begin.
    from: u64,
    bytes: usize,
}

enum Verdict {
    Here,
    No,
    /// The chain runs out of the bytes that are there.
    Wait,
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
        self.bytes + self.runs.len() * 48
    }

    /// Forgets everything before the next segment.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    fn look(&mut self) -> Option<Found> {
        let mut undecided = None;
        let mut index = 0;
        while let Some((offset, run)) = self.runs.get(index) {
            index += 1;
            let Run::Bytes(bytes) = run else { continue };
            let first = self.from.max(*offset) - offset;
            for place in usize::try_from(first).unwrap_or(usize::MAX)..bytes.len() {
                let at = offset + place as u64;
                let preface = bytes.get(place..).is_some_and(|rest| rest.starts_with(b"PRI"));
                let verdict = if preface { self.preface(at) } else { self.chain(at) };
                match verdict {
                    Verdict::Here => return Some(Found { runs: self.runs_from(at), preface }),
                    Verdict::Wait => undecided = undecided.or(Some(at)),
                    Verdict::No => {}
                }
            }
        }
        self.from = undecided.unwrap_or(self.end);
        None
    }

    fn preface(&self, at: u64) -> Verdict {
        for (place, wanted) in PREFACE.iter().enumerate() {
            match self.byte(at + place as u64) {
                Some(byte) if byte == *wanted => {}
                Some(_) => return Verdict::No,
                None if at + place as u64 >= self.end => return Verdict::Wait,
                None => return Verdict::No,
            }
        }
        Verdict::Here
    }

    fn chain(&self, start: u64) -> Verdict {
        let mut points = if self.starts.contains(&start) { ALIGNED_START } else { 0 };
        let mut at = start;
        loop {
            let mut header = [0; Header::LENGTH];
            for (place, byte) in header.iter_mut().enumerate() {
                match self.byte(at + place as u64) {
                    Some(seen) => *byte = seen,
                    None if at + place as u64 >= self.end => return Verdict::Wait,
                    None => return Verdict::No,
                }
            }
            let header = Header::parse(header);
            let Some(more) = header.evidence() else { return Verdict::No };
            points += more;
            at += Header::LENGTH as u64 + u64::from(header.length);
            if self.ends.contains(&at) {
                points += ALIGNED_END;
            }
            if points >= ENOUGH {
                return Verdict::Here;
            }
            if at >= self.end {
                return Verdict::Wait;
            }
        }
    }

    fn byte(&self, at: u64) -> Option<u8> {
        let index = self.runs.partition_point(|(offset, _)| *offset <= at).checked_sub(1)?;
        match self.runs.get(index)? {
            (offset, Run::Bytes(bytes)) => bytes.get(usize::try_from(at - offset).ok()?).copied(),
            (_, Run::Skipped(_)) => None,
        }
    }

    fn runs_from(&mut self, at: u64) -> Vec<Run> {
        let mut found = Vec::with_capacity(self.runs.len());
        for (offset, run) in self.runs.drain(..) {
            match run {
                Run::Bytes(bytes) if offset + bytes.len() as u64 > at => {
                    let front = usize::try_from(at.saturating_sub(offset)).unwrap_or(0);
                    found.push(Run::Bytes(bytes.slice(front..)));
                }
                Run::Skipped(count) if offset >= at => found.push(Run::Skipped(count)),
                Run::Bytes(_) | Run::Skipped(_) => {}
            }
        }
        self.clear();
        found
    }

    /// Drops what no chain can need any more, and the oldest of what is too much.
    fn trim(&mut self) {
        while self.bytes > MAX_BYTES
            || self.runs.len() > MAX_BYTES / 16
            || self.runs.front().is_some_and(|(offset, run)| offset + u64::from(run.length()) <= self.from)
        {
            let Some((offset, run)) = self.runs.pop_front() else { break };
            if let Run::Bytes(bytes) = &run {
                self.bytes = self.bytes.saturating_sub(bytes.len());
            }
            self.from = self.from.max(offset + u64::from(run.length()));
        }
        while self.starts.front().is_some_and(|start| *start < self.from) {
            self.starts.pop_front();
        }
        while self.ends.front().is_some_and(|end| *end < self.from) {
            self.ends.pop_front();
        }
    }
}
