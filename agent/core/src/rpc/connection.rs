//! One end of one HTTP/2 connection: segments of both directions flow in, calls flow out. Joins the two
//! directions' bytes and header tables; [`super::streams`] keeps the streams and decides when one is finished.

use super::Shared;
use super::audit::Seen;
use super::flow::{Flow, MAX_WINDOWS};
use super::streams::{Body, Head, Streams};
use crate::call::Ending;
use crate::event::{Direction, Event, LossReason, Role, Segment};
use crate::h2::frame::Part;
use crate::h2::half::{Half, Lost, Reader, Start};
use crate::h2::hpack::{Fields, Hpack};
use crate::units::{ConnectionId, Timestamp};

/// One connection's end.
#[derive(Debug)]
pub(super) struct Http2 {
    /// Sent, received.
    halves: [Half; 2],
    tables: [Hpack; 2],
    streams: Streams,
    flow: Flow,
}

/// One direction being read.
struct Reading<'a> {
    direction: Direction,
    table: &'a mut Hpack,
    streams: &'a mut Streams,
    flow: &'a mut Flow,
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
            tables: Default::default(),
            streams: Streams::new(connection, client),
            flow: Flow::default(),
        }
    }

    /// Takes one segment.
    pub(super) fn take(&mut self, segment: Segment, shared: &mut Shared, out: &mut Vec<Event>) {
        let (at, direction) = (segment.at, segment.direction);
        let crowded = shared.crowded();
        self.read(direction, at, shared, out, |half, reading| half.take(segment, crowded, reading));
        self.settle(at, shared, out);
    }

    /// Gives up what was waited for too long, and says what is in flight.
    pub(super) fn tick(&mut self, now: Timestamp, shared: &mut Shared, out: &mut Vec<Event>) {
        self.advance(now, false, shared, out);
        self.streams.sweep(now, shared, out);
        self.streams.in_flight(now, out);
        self.flow.tell(self.streams.connection(), self.streams.messages(), now, out);
    }

    /// The connection is gone.
    pub(super) fn close(&mut self, at: Timestamp, ending: Ending, shared: &mut Shared, out: &mut Vec<Event>) {
        self.advance(at, true, shared, out);
        self.flow.tell(self.streams.connection(), self.streams.messages(), at, out);
        self.streams.close(at, ending, shared, out);
        self.discard(shared);
    }

    /// Nothing more is said of it; what it takes of the bounds is given back.
    pub(super) fn discard(&mut self, shared: &mut Shared) {
        shared.windows = shared.windows.saturating_sub(self.flow.open());
        let tables: usize = self.tables.iter().map(Hpack::held).sum();
        shared.tables = shared.tables.saturating_sub(tables);
        self.streams.discard(shared);
    }

    /// Bytes kept between segments.
    pub(super) fn held(&self) -> usize {
        self.halves.iter().map(Half::held).sum()
    }

    /// What was seen of both directions.
    pub(super) fn seen(&self) -> [Seen; 2] {
        self.halves.each_ref().map(|half| {
            let (bytes, left) = half.seen();
            Seen { bytes, untold: left.into() }
        })
    }

    fn advance(&mut self, now: Timestamp, hurry: bool, shared: &mut Shared, out: &mut Vec<Event>) {
        let first = self.streams.client().unwrap_or(Direction::Sent);
        for direction in [first, first.opposite()] {
            if self.half(direction).behind() {
                self.read(direction, now, shared, out, |half, reading| half.advance(now, hurry, reading));
                self.settle(now, shared, out);
            }
        }
    }

    fn read(
        &mut self,
        direction: Direction,
        at: Timestamp,
        shared: &mut Shared,
        out: &mut Vec<Event>,
        act: impl FnOnce(&mut Half, &mut Reading<'_>),
    ) {
        let [sent, received] = &mut self.halves;
        let [sent_table, received_table] = &mut self.tables;
        let (half, table) = match direction {
            Direction::Sent => (sent, sent_table),
            Direction::Received => (received, received_table),
        };
        let (open, kept) = (self.flow.open(), table.held());
        let (streams, flow) = (&mut self.streams, &mut self.flow);
        act(half, &mut Reading { direction, table: &mut *table, streams, flow, shared, out });
        shared.windows = (shared.windows + self.flow.open()).saturating_sub(open);
        shared.tables = (shared.tables + table.held()).saturating_sub(kept);
        if shared.too_large(table.held()) {
            shared.tables = shared.tables.saturating_sub(table.held());
            table.lose();
            out.push(self.streams.loss(LossReason::HpackLost, at));
        }
    }

    /// Lets go of finished streams that nothing more is waited for.
    fn settle(&mut self, at: Timestamp, shared: &mut Shared, out: &mut Vec<Event>) {
        self.streams.behind(self.halves.each_ref().map(Half::behind));
        self.streams.release(at, shared, out);
    }

    fn half(&self, direction: Direction) -> &Half {
        let [sent, received] = &self.halves;
        match direction {
            Direction::Sent => sent,
            Direction::Received => received,
        }
    }
}

impl Reader for Reading<'_> {
    fn part(&mut self, part: Part<'_>, at: Timestamp) {
        match part {
            Part::Preface => {
                self.flow.start(self.direction);
                self.streams.learn(self.direction, self.shared);
                self.table.start();
            }
            Part::ServerStart => {
                self.flow.start(self.direction);
                self.table.start();
            }
            Part::Data { stream, input, end_stream, counted } => {
                self.flow.data(self.direction, stream, counted, at);
                if end_stream {
                    self.flow.end(self.direction, stream, at);
                }
                let Some(of_client) = self.of_client() else { return };
                let body = Body { stream, input, end_stream, of_client, at };
                self.streams.data(&body, self.shared, self.out);
            }
            Part::Headers { stream, block, end_stream, promise, began } => {
                let mut fields = Fields::default();
                let readable = match block {
                    Some(block) => self.table.read(block, &mut self.shared.names, &mut fields).is_ok(),
                    None => false,
                };
                if !readable {
                    self.table.lose();
                    self.count(LossReason::HpackLost, at);
                }
                if promise || stream.is_multiple_of(2) {
                    return;
                }
                if fields.request {
                    self.streams.learn(self.direction, self.shared);
                } else if fields.http_status.is_some() || fields.grpc_status.is_some() {
                    self.streams.learn(self.direction.opposite(), self.shared);
                }
                if self.of_client() == Some(true) {
                    let room = self.shared.windows + self.flow.open() < MAX_WINDOWS;
                    self.flow.request(self.direction, stream, room, at);
                }
                if end_stream {
                    self.flow.end(self.direction, stream, at);
                }
                let head = Head { stream, began, at, fields, readable, end_stream };
                match self.of_client() {
                    Some(true) => self.streams.request(head, self.shared, self.out),
                    Some(false) => self.streams.response(&head, self.shared, self.out),
                    None => {}
                }
            }
            Part::Reset { stream, code } => {
                self.flow.reset(self.direction, stream, code, at);
                let Some(by_client) = self.of_client() else { return };
                self.streams.reset(stream, code, by_client, at, self.shared, self.out);
            }
            Part::GoAway { code } => self.flow.goaway(self.direction, code),
            Part::Setting { id, value } => self.flow.setting(self.direction, id, value, at),
            Part::Granted { stream, increment } => self.flow.granted(self.direction, stream, increment, at),
            Part::Malformed => {}
        }
    }

    fn lost(&mut self, why: Lost, at: Timestamp) {
        match why {
            Lost::HoleInData => return self.count(LossReason::Hole, at),
            Lost::Hole => self.count(LossReason::Hole, at),
            Lost::Malformed => self.count(LossReason::MalformedFrame, at),
        }
        self.table.lose();
        self.flow.lose(at);
        self.count(LossReason::HpackLost, at);
        self.streams.miss(self.of_client());
    }

    fn message_left(&self, stream: u32) -> u32 {
        self.streams.message_left(stream, self.of_client() == Some(true))
    }
}

impl Reading<'_> {
    /// This direction carries requests.
    fn of_client(&self) -> Option<bool> {
        self.streams.client().map(|client| client == self.direction)
    }

    fn count(&mut self, reason: LossReason, at: Timestamp) {
        self.out.push(self.streams.loss(reason, at));
    }
}
