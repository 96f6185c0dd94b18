//! One direction of one connection: segments flow in, parts of frames flow out. Joins reassembly, the search
//! for frames and the walk, and decides when to stop waiting for missing bytes.
//!
//! ```text
//!  Waiting ──(preface, SETTINGS)──► Walking ◄──────(chain found)──┐
//!     └──(too long)──► Searching ──────┘ └─(hole, bad frame)─► Searching
//! ```

use super::frame::{Header, Input, PREFACE, Part, Walker};
use super::reassembly::{Ordered, Reassembly, Run, runs};
use super::search::Search;
use crate::event::Segment;
use crate::units::{Nanos, Timestamp};

/// How long a hole is waited for. Longer than TCP's first retransmission (200 ms and more); a hole left by a
/// full ring never fills, and calls wait behind it.
const HOLE_WAIT: Nanos = Nanos::from_millis(1000);

/// How long a new connection's first bytes may come out of order before they are searched for frames.
const START_WAIT: Nanos = Nanos::from_millis(200);

/// What a direction tells its connection.
pub(crate) trait Reader {
    /// A part of a frame; `at` is when its last bytes passed.
    fn part(&mut self, part: Part<'_>, at: Timestamp);
    /// Bytes were given up or no frame begins where one must: what was said meanwhile is not known.
    fn lost(&mut self, why: Lost, at: Timestamp);
    /// So many bytes of the stream's message that is being read are still to come.
    fn message_left(&self, stream: u32) -> u32;
}

/// Why the walk was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// Bytes are missing.
    Hole,
    /// Bytes are missing, but only a DATA frame's payload.
    HoleInData,
    /// A frame that no peer may send.
    Malformed,
}

/// Whose beginning a direction may wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// The connection is older than the agent.
    Unknown,
    /// The client's: its preface.
    Preface,
    /// The server's: a SETTINGS frame.
    Settings,
}

/// One direction's state.
#[derive(Debug)]
pub(crate) struct Half {
    reassembly: Reassembly,
    start: Start,
    mode: Mode,
    /// Missing bytes with which nothing was lost.
    harmless: u64,
}

#[derive(Debug)]
enum Mode {
    Walking(Walker),
    Searching(Box<Search>),
}

impl Half {
    /// A direction of which nothing was seen.
    pub(crate) fn new(start: Start) -> Self {
        Self { reassembly: Reassembly::default(), start, mode: Mode::Searching(Box::default()), harmless: 0 }
    }

    /// Takes one segment and reads what is in order now. `crowded`: the decoder holds too much, do not wait.
    pub(crate) fn take(&mut self, segment: Segment, crowded: bool, reader: &mut impl Reader) {
        let now = segment.at;
        if let Some(ordered) = self.reassembly.push(segment) {
            self.read(&ordered, reader);
        }
        if self.reassembly.held() > 0 {
            self.advance(now, crowded, reader);
        }
        if crowded && let Mode::Walking(walker) = &mut self.mode {
            walker.let_go();
        }
    }

    /// Gives up what was waited for too long.
    pub(crate) fn advance(&mut self, now: Timestamp, crowded: bool, reader: &mut impl Reader) {
        loop {
            while let Some(ordered) = self.reassembly.pop() {
                self.read(&ordered, reader);
            }
            let Some(hole) = self.reassembly.hole() else { return };
            let waited = now.since(hole.since);
            if !self.reassembly.started() {
                if !self.begin(waited > START_WAIT || hole.full || crowded, now, reader) {
                    return;
                }
                continue;
            }
            let body = match &self.mode {
                Mode::Walking(walker) => walker.inside_data().filter(|(_, left)| *left >= hole.length),
                Mode::Searching(_) => None,
            };
            // What is missing lies inside one message: nothing is lost with it.
            let harmless = body.is_some_and(|(stream, _)| reader.message_left(stream) >= hole.length);
            if !harmless && waited <= HOLE_WAIT && !hole.full && !crowded {
                return;
            }
            self.reassembly.jump();
            match body {
                Some(_) => {
                    if harmless {
                        self.harmless += u64::from(hole.length);
                    } else {
                        reader.lost(Lost::HoleInData, now);
                    }
                    self.run(now, Run::Skipped(hole.length), reader);
                }
                None => {
                    if let Mode::Walking(_) = self.mode {
                        reader.lost(Lost::Hole, now);
                    }
                    self.mode = Mode::Searching(Box::default());
                }
            }
        }
    }

    /// Bytes kept between segments.
    pub(crate) fn held(&self) -> usize {
        self.reassembly.held()
            + match &self.mode {
                Mode::Walking(walker) => walker.held(),
                Mode::Searching(search) => search.held(),
            }
    }

    /// Bytes that were seen so far, skipped ones too, and those to come of the DATA frame that is being read.
    pub(crate) fn seen(&self) -> (u64, u32) {
        let left = match &self.mode {
            Mode::Walking(walker) => walker.inside_data().map_or(0, |(_, left)| left),
            Mode::Searching(_) => 0,
        };
        (self.harmless + self.reassembly.seen(), left)
    }

    /// Something may still come that belongs before what was read.
    pub(crate) fn behind(&self) -> bool {
        self.reassembly.held() > 0
    }

    /// Decides where a direction begins of which nothing was read; `false` to wait.
    fn begin(&mut self, hurry: bool, now: Timestamp, reader: &mut impl Reader) -> bool {
        let starts = match self.start {
            Start::Unknown => Some(false),
            Start::Preface => self.reassembly.first_bytes(PREFACE.len()).and_then(|bytes| {
                let fits = PREFACE.starts_with(&bytes);
                (fits && bytes.len() == PREFACE.len()).then_some(true)
            }),
            Start::Settings => self.reassembly.first_bytes(Header::LENGTH).and_then(|bytes| {
                let header = Header::parse(<[u8; Header::LENGTH]>::try_from(bytes.as_slice()).ok()?);
                header.server_start().then_some(true)
            }),
        };
        match starts {
            Some(true) if self.start == Start::Preface => self.mode = Mode::Walking(Walker::at_preface()),
            Some(true) => {
                self.mode = Mode::Walking(Walker::at_header());
                reader.part(Part::ServerStart, now);
            }
            Some(false) => {}
            None if hurry => reader.lost(Lost::Hole, now),
            None => return false,
        }
        self.reassembly.jump();
        true
    }

    fn read(&mut self, ordered: &Ordered, reader: &mut impl Reader) {
        let at = ordered.segment.at;
        let mut runs = runs(&ordered.segment, ordered.skip);
        let mut aligned = ordered.skip == 0;
        loop {
            if let Mode::Searching(search) = &mut self.mode {
                if let Some(found) = search.push(runs, aligned) {
                    self.found(at, found, reader);
                }
                return;
            }
            let Some(run) = runs.next() else { return };
            if let Some(rest) = self.run(at, run, reader) {
                // The walk was lost in this segment: what is left of it is where the search begins.
                aligned = false;
                if let Mode::Searching(search) = &mut self.mode
                    && let Some(found) = search.push(std::iter::once(rest).chain(runs.by_ref()), aligned)
                {
                    self.found(at, found, reader);
                }
                return;
            }
        }
    }

    fn found(&mut self, at: Timestamp, found: super::search::Found, reader: &mut impl Reader) {
        self.mode = Mode::Walking(if found.preface { Walker::at_preface() } else { Walker::joined() });
        for run in found.runs {
            // A walk that is lost again at once begins a new search with the next segment.
            if self.run(at, run, reader).is_some() {
                return;
            }
        }
    }

    /// Walks one run; gives back its rest if the walk was lost in it.
    fn run(&mut self, at: Timestamp, run: Run, reader: &mut impl Reader) -> Option<Run> {
        let Mode::Walking(walker) = &mut self.mode else { return None };
        let mut input = match &run {
            Run::Bytes(bytes) => Input::Bytes(bytes),
            Run::Skipped(count) => Input::Skipped(*count),
        };
        let lost = walk(walker, at, &mut input, reader);
        if !lost {
            return None;
        }
        let left = input.length();
        reader.lost(Lost::Malformed, at);
        self.mode = Mode::Searching(Box::default());
        Some(match run {
            Run::Bytes(bytes) => {
                let end = bytes.len();
                Run::Bytes(bytes.slice(end - (left as usize).min(end)..))
            }
            Run::Skipped(_) => Run::Skipped(left),
        })
    }
}

/// Walks until the input is used up (`false`) or the walk is lost (`true`).
fn walk(walker: &mut Walker, at: Timestamp, input: &mut Input<'_>, reader: &mut impl Reader) -> bool {
    loop {
        match walker.next(at, input) {
            None => return false,
            Some(Part::Malformed) => return true,
            Some(part) => reader.part(part, at),
        }
    }
}
