//! One end of one HTTP/2 connection: segments of both directions flow in, calls flow out. Decides which end is
//! the client, which stream a frame belongs to and when a stream is finished; [`super::stream`] makes the call.

use super::Shared;
use super::stream::Stream;
use crate::call::{Ending, View};
use crate::event::{Direction, Event, InFlight, Loss, LossReason, Role, Segment};
use crate::h2::frame::Part;
use crate::h2::half::{Half, Lost, Reader, Start};
use crate::h2::hpack::{Fields, Hpack};
use crate::units::{ConnectionId, Nanos, Timestamp};
use std::collections::BTreeMap;

/// Streams of one connection's end that are followed at once. Servers allow 100 to 1,000 by default; beyond
/// this the oldest leaves.
const MAX_STREAMS: usize = 4096;

/// A stream without a frame for so long is given up; real streams send keepalives or data before.
const ABANDON_AFTER: Nanos = Nanos::from_secs(3600);

/// A stream that was open while bytes were lost and said nothing for so long has most likely ended in them.
const DOUBT_AFTER: Nanos = Nanos::from_secs(30);

/// How long a response that is over waits for the request's bytes that are missing.
const LINGER: Nanos = Nanos::from_millis(1500);

/// One connection's end.
#[derive(Debug)]
pub(super) struct Http2 {
    /// Sent, received.
    halves: [Half; 2],
    streams: Streams,
}

/// What both directions share.
#[derive(Debug)]
struct Streams {
    connection: ConnectionId,
    /// Which direction carries requests.
    client: Option<Direction>,
    /// Sent, received.
    tables: [Hpack; 2],
    open: BTreeMap<u32, Stream>,
    /// The highest stream that a request was seen on.
    highest: u32,
    /// Streams in `open` whose request was not seen yet.
    without_request: usize,
    /// Streams in `open` whose response is over.
    lingering: usize,
    /// Bytes of the request's direction wait behind a hole.
    request_behind: bool,
    /// Streams that are known not to be gRPC were seen, and none that is.
    only_plain: bool,
    saw_grpc: bool,
}

/// One direction being read.
struct Reading<'a> {
    direction: Direction,
    streams: &'a mut Streams,
    shared: &'a mut Shared,
    out: &'a mut Vec<Event>,
}

impl Http2 {
    /// A connection of which nothing was seen.
    pub(super) fn new(connection: ConnectionId, role: Role) -> Self {
        let (client, starts) = match role {
            Role::Client => (Some(Direction::Sent), [Start::Preface, Start::Settings]),
            Role::Server => (Some(Direction::Received), [Start::Settings, Start::Preface]),
            Role::Unknown => (None, [Start::Unknown, Start::Unknown]),
        };
        Self {
            halves: starts.map(Half::new),
            streams: Streams {
                connection,
                client,
                tables: Default::default(),
                open: BTreeMap::new(),
                highest: 0,
                without_request: 0,
                lingering: 0,
                request_behind: false,
                only_plain: false,
                saw_grpc: false,
            },
        }
    }

    /// Takes one segment.
    pub(super) fn take(&mut self, segment: Segment, shared: &mut Shared, out: &mut Vec<Event>) {
        let (at, direction) = (segment.at, segment.direction);
        let crowded = shared.crowded();
        self.read(direction, shared, out, |half, reading| half.take(segment, crowded, reading));
        self.settle(at, direction, shared, out);
    }

    /// Gives up what was waited for too long, and says what is in flight.
    pub(super) fn tick(&mut self, now: Timestamp, shared: &mut Shared, out: &mut Vec<Event>) {
        self.advance(now, false, shared, out);
        self.streams.sweep(now, shared, out);
        self.streams.in_flight(now, out);
    }

    /// The connection is gone.
    pub(super) fn close(&mut self, at: Timestamp, ending: Ending, shared: &mut Shared, out: &mut Vec<Event>) {
        self.advance(at, true, shared, out);
        let open: Vec<u32> = self.streams.open.keys().copied().collect();
        for id in open {
            if let Some(stream) = self.streams.open.get_mut(&id) {
                stream.cut(at, ending);
            }
            self.streams.finish(id, shared, out);
        }
    }

    /// Bytes kept between segments.
    pub(super) fn held(&self) -> usize {
        self.halves.iter().map(Half::held).sum()
    }

    fn advance(&mut self, now: Timestamp, hurry: bool, shared: &mut Shared, out: &mut Vec<Event>) {
        let first = self.streams.client.unwrap_or(Direction::Sent);
        for direction in [first, opposite(first)] {
            if self.halves.get(place(direction)).is_some_and(Half::behind) {
                self.read(direction, shared, out, |half, reading| half.advance(now, hurry, reading));
                self.settle(now, direction, shared, out);
            }
        }
    }

    fn read(
        &mut self,
        direction: Direction,
        shared: &mut Shared,
        out: &mut Vec<Event>,
        act: impl FnOnce(&mut Half, &mut Reading<'_>),
    ) {
        let Some(half) = self.halves.get_mut(place(direction)) else { return };
        act(half, &mut Reading { direction, streams: &mut self.streams, shared, out });
    }

    /// Lets go of finished streams once nothing of their requests is waited for.
    fn settle(&mut self, at: Timestamp, direction: Direction, shared: &mut Shared, out: &mut Vec<Event>) {
        if self.streams.client != Some(direction) {
            return;
        }
        let behind = self.halves.get(place(direction)).is_some_and(Half::behind);
        self.streams.request_behind = behind;
        if self.streams.lingering > 0 && !behind {
            self.streams.release(at, shared, out, |stream, _| stream.has_request());
        }
    }
}

fn place(direction: Direction) -> usize {
    match direction {
        Direction::Sent => 0,
        Direction::Received => 1,
    }
}

fn opposite(direction: Direction) -> Direction {
    match direction {
        Direction::Sent => Direction::Received,
        Direction::Received => Direction::Sent,
    }
}

impl Reader for Reading<'_> {
    fn part(&mut self, part: Part<'_>, at: Timestamp) {
        match part {
            Part::Preface => {
                self.streams.learn(self.direction, self.shared);
                self.table().start();
            }
            Part::ServerStart => self.table().start(),
            Part::Data { stream, input, end_stream } => {
                let Some(of_client) = self.of_client() else { return };
                self.streams.data(stream, input, end_stream, of_client, at, self.shared, self.out);
            }
            Part::Headers { stream, block, end_stream, promise, began } => {
                let mut fields = Fields::default();
                let readable = match block {
                    Some(block) => {
                        let table = self.streams.tables.get_mut(place(self.direction));
                        table.is_some_and(|table| {
                            table.read(block, &mut self.shared.names, &mut fields).is_ok()
                        })
                    }
                    None => false,
                };
                if !readable {
                    self.table().lose();
                    self.count(LossReason::HpackLost, at);
                }
                if promise || stream.is_multiple_of(2) {
                    return;
                }
                if fields.request {
                    self.streams.learn(self.direction, self.shared);
                } else if fields.http_status.is_some() || fields.grpc_status.is_some() {
                    self.streams.learn(opposite(self.direction), self.shared);
                }
                let head = Head { stream, began, at, fields, readable, end_stream };
                match self.of_client() {
                    Some(true) => self.streams.request(head, self.shared, self.out),
                    Some(false) => self.streams.response(&head, self.shared, self.out),
                    None => {}
                }
            }
            Part::Reset { stream, code } => {
                let Some(by_client) = self.of_client() else { return };
                if let Some(open) = self.streams.open.get_mut(&stream) {
                    let ended = open.ended_at().is_some();
                    open.reset(at, code, by_client);
                    self.streams.ended(stream, ended, self.shared, self.out);
                }
            }
            Part::Malformed => {}
        }
    }

    fn lost(&mut self, why: Lost, at: Timestamp) {
        match why {
            Lost::HoleInData => return self.count(LossReason::Hole, at),
            Lost::Hole => self.count(LossReason::Hole, at),
            Lost::Malformed => self.count(LossReason::MalformedFrame, at),
        }
        self.table().lose();
        self.count(LossReason::HpackLost, at);
        let of_client = self.of_client();
        for stream in self.streams.open.values_mut() {
            if of_client != Some(false) {
                stream.miss(true);
            }
            if of_client != Some(true) {
                stream.miss(false);
            }
        }
    }

    fn message_left(&self, stream: u32) -> u32 {
        let Some(open) = self.streams.open.get(&stream) else {
            // Nobody counts this stream's messages, so nothing of it can be lost.
            return u32::MAX;
        };
        match self.of_client() {
            Some(true) => open.sent.left(),
            _ => open.received.left(),
        }
    }
}

impl Reading<'_> {
    /// This direction carries requests.
    fn of_client(&self) -> Option<bool> {
        self.streams.client.map(|client| client == self.direction)
    }

    fn table(&mut self) -> &mut Hpack {
        let [sent, received] = &mut self.streams.tables;
        match self.direction {
            Direction::Sent => sent,
            Direction::Received => received,
        }
    }

    fn count(&mut self, reason: LossReason, at: Timestamp) {
        self.out.push(self.streams.loss(reason, at));
    }
}

/// A header block with what it came in.
struct Head {
    stream: u32,
    began: Timestamp,
    at: Timestamp,
    fields: Fields,
    readable: bool,
    end_stream: bool,
}

impl Streams {
    /// The bytes say who the client is; what was thought before gives way to them.
    fn learn(&mut self, client: Direction, shared: &mut Shared) {
        if self.client != Some(client) {
            self.forget(|_, _| true, shared);
            self.client = Some(client);
            self.highest = 0;
        }
    }

    fn request(&mut self, head: Head, shared: &mut Shared, out: &mut Vec<Event>) {
        let id = head.stream;
        if let Some(stream) = self.open.get_mut(&id) {
            stream.last = head.at;
            stream.request_ended |= head.end_stream;
            if !stream.has_request() {
                self.without_request = self.without_request.saturating_sub(1);
                stream.request(head.began, head.fields, head.readable);
                self.highest = self.highest.max(id);
            }
            self.finish_if_over(id, shared, out);
        } else if id > self.highest {
            self.highest = id;
            let mut stream = Stream::new(head.at);
            stream.request(head.began, head.fields, head.readable);
            stream.request_ended = head.end_stream;
            match stream.known_kind() {
                Some(true) => self.saw_grpc = true,
                Some(false) => {
                    // Plain HTTP/2: nothing of it is of interest, so it is not followed.
                    self.only_plain = !self.saw_grpc;
                    return;
                }
                None => {}
            }
            if self.make_room(head.at, shared, out) {
                self.open.insert(id, stream);
            }
        }
        if self.without_request > 0 {
            // Requests come in the order of their ids: what is below this one is not coming.
            self.forget(|other, stream| other < id && !stream.has_request(), shared);
        }
    }

    fn response(&mut self, head: &Head, shared: &mut Shared, out: &mut Vec<Event>) {
        let id = head.stream;
        if !self.open.contains_key(&id) {
            if id <= self.highest || !self.make_room(head.at, shared, out) {
                return;
            }
            self.without_request += 1;
            self.open.insert(id, Stream::new(head.at));
        }
        if let Some(stream) = self.open.get_mut(&id) {
            let ended = stream.ended_at().is_some();
            stream.last = head.at;
            stream.response(head.began, head.at, &head.fields, head.readable, head.end_stream);
            self.ended(id, ended, shared, out);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one DATA part and where its results go")]
    fn data(
        &mut self,
        id: u32,
        input: crate::h2::frame::Input<'_>,
        end_stream: bool,
        of_client: bool,
        at: Timestamp,
        shared: &mut Shared,
        out: &mut Vec<Event>,
    ) {
        let Some(stream) = self.open.get_mut(&id) else { return };
        stream.last = at;
        let counter = if of_client { &mut stream.sent } else { &mut stream.received };
        let missed = counter.take(input) && !counter.implausible();
        if end_stream && of_client {
            stream.request_ended = true;
            self.finish_if_over(id, shared, out);
        } else if end_stream {
            let ended = stream.ended_at().is_some();
            stream.end_of_data(at);
            self.ended(id, ended, shared, out);
        }
        if missed {
            out.push(self.loss(LossReason::MessagePrefix, at));
        }
    }

    /// A stream's response may have ended just now (`before`: it had already).
    fn ended(&mut self, id: u32, before: bool, shared: &mut Shared, out: &mut Vec<Event>) {
        let Some(stream) = self.open.get(&id) else { return };
        if stream.ended_at().is_none() {
            return;
        }
        if !before {
            self.lingering += 1;
        }
        if stream.has_request() && (stream.request_ended || !self.request_behind) {
            self.finish(id, shared, out);
        }
    }

    /// Its response had ended before, and now its request has too.
    fn finish_if_over(&mut self, id: u32, shared: &mut Shared, out: &mut Vec<Event>) {
        let over =
            |stream: &Stream| stream.ended_at().is_some() && stream.has_request() && stream.request_ended;
        if self.open.get(&id).is_some_and(over) {
            self.finish(id, shared, out);
        }
    }

    fn finish(&mut self, id: u32, shared: &mut Shared, out: &mut Vec<Event>) {
        let Some(stream) = self.open.remove(&id) else { return };
        self.forgotten(&stream, shared);
        let view = match self.client {
            Some(Direction::Sent) => View::Client,
            Some(Direction::Received) => View::Server,
            None => return,
        };
        let guess = self.saw_grpc || !self.only_plain;
        if let Some(call) = stream.call(self.connection, id, view, guess) {
            out.push(Event::Call(call));
        }
    }

    fn forgotten(&mut self, stream: &Stream, shared: &mut Shared) {
        shared.streams = shared.streams.saturating_sub(1);
        if stream.ended_at().is_some() {
            self.lingering = self.lingering.saturating_sub(1);
        }
        if !stream.has_request() {
            self.without_request = self.without_request.saturating_sub(1);
        }
    }

    /// Drops streams without a call.
    fn forget(&mut self, which: impl Fn(u32, &Stream) -> bool, shared: &mut Shared) {
        let ids: Vec<u32> = self.open.iter().filter(|(id, s)| which(**id, s)).map(|(id, _)| *id).collect();
        for id in ids {
            if let Some(stream) = self.open.remove(&id) {
                self.forgotten(&stream, shared);
            }
        }
    }

    /// Makes room for one more stream; `false` if there is none to be had.
    fn make_room(&mut self, at: Timestamp, shared: &mut Shared, out: &mut Vec<Event>) -> bool {
        if self.open.len() >= MAX_STREAMS || shared.full() {
            out.push(self.loss(LossReason::StreamEvicted, at));
            let Some((&oldest, _)) = self.open.first_key_value() else { return false };
            if let Some(stream) = self.open.get_mut(&oldest) {
                if stream.ended_at().is_none() {
                    self.lingering += 1;
                }
                stream.cut(at, Ending::Abandoned);
            }
            self.finish(oldest, shared, out);
        }
        shared.streams += 1;
        true
    }

    /// Finishes the streams whose response is over and that `which` allows.
    fn release(
        &mut self,
        now: Timestamp,
        shared: &mut Shared,
        out: &mut Vec<Event>,
        which: impl Fn(&Stream, Timestamp) -> bool,
    ) {
        let over =
            |stream: &Stream| stream.ended_at().is_some_and(|at| which(stream, at)) && stream.last <= now;
        let ids: Vec<u32> = self.open.iter().filter(|(_, s)| over(s)).map(|(id, _)| *id).collect();
        for id in ids {
            self.finish(id, shared, out);
        }
    }

    /// Gives up streams that most likely ended unseen.
    fn sweep(&mut self, now: Timestamp, shared: &mut Shared, out: &mut Vec<Event>) {
        if self.lingering > 0 {
            self.release(now, shared, out, |_, ended| now.since(ended) > LINGER);
        }
        let bound = |stream: &Stream| {
            if stream.doubtful || !stream.has_request() { DOUBT_AFTER } else { ABANDON_AFTER }
        };
        let old: Vec<u32> =
            self.open.iter().filter(|(_, s)| now.since(s.last) > bound(s)).map(|(id, _)| *id).collect();
        for id in old {
            let Some(stream) = self.open.get_mut(&id) else { continue };
            let counts = stream.has_request();
            if stream.ended_at().is_none() {
                self.lingering += 1;
            }
            stream.cut(now, Ending::Abandoned);
            self.finish(id, shared, out);
            if counts {
                out.push(self.loss(LossReason::StreamEvicted, now));
            }
        }
    }

    fn in_flight(&self, now: Timestamp, out: &mut Vec<Event>) {
        let view = match self.client {
            Some(Direction::Sent) => View::Client,
            Some(Direction::Received) => View::Server,
            None => return,
        };
        let mut streams = 0;
        let mut oldest: Option<Timestamp> = None;
        for flight in self.open.values().filter_map(Stream::in_flight) {
            streams += 1;
            oldest = match (oldest, flight.unanswered_since) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
        if streams > 0 {
            out.push(Event::InFlight(InFlight {
                at: now,
                connection: self.connection,
                view,
                streams,
                oldest_unanswered: oldest.map(|since| now.since(since)),
            }));
        }
    }

    fn loss(&self, reason: LossReason, at: Timestamp) -> Event {
        Event::Lost(Loss { at, reason, count: 1, connection: Some(self.connection) })
    }
}
