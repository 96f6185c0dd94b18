//! Flow control of one connection's end: frames flow in as they pass, what stalled and what was reset flows out
//! once a step. [`super::connection`] reads the frames; nothing here depends on calls.
//!
//! A sender may have as many bytes of DATA under way as the receiver granted: to the stream and to the connection
//! (RFC 9113 section 5.2). Both windows follow from what passed: SETTINGS and WINDOW_UPDATE one way, DATA the other.
//! They are known only where all of that was seen from the connection's first byte on; else they stay unknown, as
//! no frame ever says how much is left.
//!
//! A direction is stalled while a stream that has begun to send and has not ended finds its own window or the
//! connection's empty. Senders fill a window to its last byte, so an empty one is one that somebody waits for.

use crate::event::{Direction, Ended, EndedBy, Event, FlowSample};
use crate::units::{ConnectionId, Nanos, Timestamp};
use std::collections::BTreeMap;

/// What both ends may have under way before anybody says otherwise (RFC 9113 section 6.9.2).
const FIRST_WINDOW: i64 = 65_535;

/// Streams whose windows are followed, per connection's end: as many as are followed for their calls. A stream
/// beyond it makes the connection's windows unknown.
const MAX_STREAMS: usize = 4096;

/// The same for all connections together, about 10 MB.
pub(super) const MAX_WINDOWS: usize = 131_072;

const SETTINGS_MAX_CONCURRENT_STREAMS: u16 = 3;
const SETTINGS_INITIAL_WINDOW_SIZE: u16 = 4;

/// The flow control of one connection's end.
#[derive(Debug, Default)]
pub(super) struct Flow {
    /// DATA that is sent, DATA that is received.
    ways: [Way; 2],
    /// The streams that are open, as far as their request was seen.
    streams: BTreeMap<u32, [Stream; 2]>,
    /// The highest stream that was opened.
    highest: u32,
    /// Which way requests go.
    client: Option<Direction>,
    reached: u32,
    /// As many streams are open as the server allows.
    limited: Stopwatch,
    /// Bounded by the codes that there are.
    ended: BTreeMap<Ended, u32>,
    /// Messages told so far, sent and received.
    told_messages: [u64; 2],
}

/// One direction of DATA.
#[derive(Debug)]
struct Way {
    /// Its sender's bytes were seen from the first one on.
    whole: bool,
    /// What its sender may still send on the connection.
    window: i64,
    /// What its sender may send on a stream that is opened now: the receiver's setting.
    first: i64,
    /// How many streams its sender allows the other side to have open.
    allows: Option<u32>,
    /// Streams that have begun to send and have not ended.
    sending: usize,
    /// Those of them whose own window is empty.
    empty: usize,
    stalled: Stopwatch,
}

/// For how long something was so.
#[derive(Debug, Default)]
struct Stopwatch {
    since: Option<Timestamp>,
    time: Nanos,
}

impl Stopwatch {
    /// It is so, or not; whether it became so just now.
    fn set(&mut self, is: bool, at: Timestamp) -> bool {
        let began = is && self.since.is_none();
        if began {
            self.since = Some(at);
        } else if !is && let Some(since) = self.since.take() {
            self.time += at.since(since);
        }
        began
    }

    /// The time since this was last asked.
    fn take(&mut self, at: Timestamp) -> Nanos {
        if let Some(since) = &mut self.since {
            self.time += at.since(*since);
            *since = at.max(*since);
        }
        std::mem::take(&mut self.time)
    }
}

/// One direction of a stream.
#[derive(Clone, Copy, Debug)]
struct Stream {
    window: i64,
    begun: bool,
    ended: bool,
}

impl Default for Way {
    fn default() -> Self {
        Self {
            whole: false,
            window: FIRST_WINDOW,
            first: FIRST_WINDOW,
            allows: None,
            sending: 0,
            empty: 0,
            stalled: Stopwatch::default(),
        }
    }
}

impl Stream {
    fn sending(self) -> bool {
        self.begun && !self.ended
    }
}

impl Flow {
    /// The direction's first byte is about to be read.
    pub(super) fn start(&mut self, way: Direction) {
        self.way(way).whole = true;
    }

    /// Bytes of a direction were lost: no window is known any more, nor which streams are open.
    pub(super) fn lose(&mut self, at: Timestamp) {
        for way in [Direction::Sent, Direction::Received] {
            self.way(way).whole = false;
            self.settle(way, at);
        }
        self.streams.clear();
        self.limit(at);
        for way in &mut self.ways {
            (way.sending, way.empty) = (0, 0);
        }
    }

    /// How many streams are followed.
    pub(super) fn open(&self) -> usize {
        self.streams.len()
    }

    /// HEADERS of the client passed `way`: a stream opens. `room`: there is room for one more.
    pub(super) fn request(&mut self, way: Direction, stream: u32, room: bool, at: Timestamp) {
        self.client = Some(way);
        if stream <= self.highest {
            return;
        }
        self.highest = stream;
        if self.streams.len() >= MAX_STREAMS || !room {
            return self.lose(at);
        }
        let fresh = |way: &Way| Stream { window: way.first, begun: false, ended: false };
        let [sent, received] = &self.ways;
        self.streams.insert(stream, [fresh(sent), fresh(received)]);
        self.limit(at);
    }

    /// END_STREAM passed.
    pub(super) fn end(&mut self, way: Direction, stream: u32, at: Timestamp) {
        self.change(way, stream, at, |half| half.ended = true);
    }

    /// A part of a DATA frame passed; `counted` bytes of it are new to flow control.
    pub(super) fn data(&mut self, way: Direction, stream: u32, counted: u32, at: Timestamp) {
        if counted > 0 {
            self.way(way).window -= i64::from(counted);
            self.change(way, stream, at, |half| {
                half.begun = true;
                half.window -= i64::from(counted);
            });
            self.settle(way, at);
        }
    }

    /// WINDOW_UPDATE passed `way`: it is for DATA that goes the other way.
    pub(super) fn granted(&mut self, way: Direction, stream: u32, increment: u32, at: Timestamp) {
        let data = way.opposite();
        if stream == 0 {
            self.way(data).window += i64::from(increment);
            self.settle(data, at);
        } else {
            self.change(data, stream, at, |half| half.window += i64::from(increment));
        }
    }

    /// One entry of SETTINGS passed `way`.
    pub(super) fn setting(&mut self, way: Direction, id: u16, value: u32, at: Timestamp) {
        match id {
            SETTINGS_MAX_CONCURRENT_STREAMS => {
                self.way(way).allows = Some(value);
                self.limit(at);
            }
            SETTINGS_INITIAL_WINDOW_SIZE => {
                let data = way.opposite();
                let more = i64::from(value) - self.way(data).first;
                self.way(data).first = i64::from(value);
                let open: Vec<u32> = self.streams.keys().copied().collect();
                for stream in open {
                    self.change(data, stream, at, |half| half.window += more);
                }
            }
            _ => {}
        }
    }

    /// RST_STREAM passed.
    pub(super) fn reset(&mut self, way: Direction, stream: u32, code: u32, at: Timestamp) {
        self.count(EndedBy::Reset, way, code);
        for way in [Direction::Sent, Direction::Received] {
            self.change(way, stream, at, |half| half.ended = true);
        }
    }

    /// GOAWAY passed.
    pub(super) fn goaway(&mut self, way: Direction, code: u32) {
        self.count(EndedBy::GoAway, way, code);
    }

    /// Tells what there is to tell since the last time. `messages` have begun since the connection did.
    pub(super) fn tell(
        &mut self,
        connection: ConnectionId,
        messages: [u64; 2],
        at: Timestamp,
        out: &mut Vec<Event>,
    ) {
        let known = self.known();
        let [sending, receiving] = [Direction::Sent, Direction::Received].map(|way| {
            self.settle(way, at);
            self.way(way).stalled.take(at)
        });
        let [sent, received] = messages;
        let [told_sent, told_received] = std::mem::replace(&mut self.told_messages, messages);
        let (sent, received) = (sent.saturating_sub(told_sent), received.saturating_sub(told_received));
        let sample = FlowSample {
            at,
            connection,
            messages_sent: sent,
            messages_received: received,
            stalled_sending: known.then_some(sending),
            stalled_receiving: known.then_some(receiving),
            max_streams: self.allowed(),
            limit_reached: std::mem::take(&mut self.reached),
            limited: self.limited.take(at),
            ended: std::mem::take(&mut self.ended).into_iter().collect(),
        };
        let quiet = sent + received == 0 && sample.ended.is_empty() && sample.limit_reached == 0;
        if !quiet || !self.streams.is_empty() {
            out.push(Event::Flow(Box::new(sample)));
        }
    }

    /// Both directions' windows follow from what was seen.
    fn known(&self) -> bool {
        self.ways.iter().all(|way| way.whole)
    }

    /// How many streams the server allows.
    fn allowed(&self) -> Option<u32> {
        let [sent, received] = &self.ways;
        match self.client? {
            Direction::Sent => received.allows,
            Direction::Received => sent.allows,
        }
    }

    /// Changes one direction of a stream; one whose both directions ended is over.
    fn change(&mut self, way: Direction, stream: u32, at: Timestamp, change: impl FnOnce(&mut Stream)) {
        let place = place(way);
        let Some(halves) = self.streams.get_mut(&stream) else { return };
        let Some(half) = halves.get_mut(place) else { return };
        let before = *half;
        change(half);
        let after = *half;
        let over = halves.iter().all(|half| half.ended);
        let sums = self.way(way);
        sums.sending = sums.sending + usize::from(after.sending()) - usize::from(before.sending());
        let empty = |half: Stream| usize::from(half.sending() && half.window <= 0);
        sums.empty = sums.empty + empty(after) - empty(before);
        if over {
            self.streams.remove(&stream);
            self.limit(at);
        }
        self.settle(way, at);
    }

    /// A direction's stall may have begun or ended.
    fn settle(&mut self, way: Direction, at: Timestamp) {
        let known = self.known();
        let way = self.way(way);
        let stalled = known && (way.empty > 0 || way.sending > 0 && way.window <= 0);
        way.stalled.set(stalled, at);
    }

    /// As many streams as the server allows may be open now, or no longer.
    fn limit(&mut self, at: Timestamp) {
        let full = self.allowed().is_some_and(|most| self.streams.len() as u64 >= u64::from(most));
        self.reached = self.reached.saturating_add(self.limited.set(full, at).into());
    }

    fn count(&mut self, by: EndedBy, way: Direction, code: u32) {
        let ended = Ended { by, sent: way == Direction::Sent, code }.bounded();
        *self.ended.entry(ended).or_default() += 1;
    }

    fn way(&mut self, way: Direction) -> &mut Way {
        let [sent, received] = &mut self.ways;
        match way {
            Direction::Sent => sent,
            Direction::Received => received,
        }
    }
}

fn place(way: Direction) -> usize {
    match way {
        Direction::Sent => 0,
        Direction::Received => 1,
    }
}
