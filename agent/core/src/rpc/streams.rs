//! The open streams of one connection's end: header fields, payload and resets flow in by stream id, calls flow
//! out once a stream is finished. [`super::connection`] reads the bytes, [`super::stream`] knows one stream.

use super::Shared;
use super::naming::Naming;
use super::status::OkTrailers;
use super::stream::Stream;
use crate::call::{Ending, View};
use crate::event::{Direction, Event, InFlight, Loss, LossReason};
use crate::h2::frame::Input;
use crate::h2::hpack::Fields;
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

/// How long a response that is over waits for the client to say that it is done, when no bytes are missing. Node's
/// grpc-js says so in a frame of its own, which a quick server does not wait for and then resets the stream; a client
/// whose server gave up early says so a round trip later. Shorter than a step's grace, so that the call still counts into its step.
const AFTERTHOUGHT: Nanos = Nanos::from_millis(250);

/// The streams of one connection's end.
#[derive(Debug)]
pub(super) struct Streams {
    connection: ConnectionId,
    /// Which direction carries requests.
    client: Option<Direction>,
    open: BTreeMap<u32, Stream>,
    /// The highest stream that a request was seen on.
    highest: u32,
    /// Streams in `open` whose request was not seen yet.
    without_request: usize,
    /// Streams in `open` whose response is over, and when the first of them may go.
    lingering: usize,
    release_at: Timestamp,
    /// Bytes of the direction, sent and received, wait behind a hole.
    behind: [bool; 2],
    /// Streams that are known not to be gRPC were seen, and none that is.
    only_plain: bool,
    saw_grpc: bool,
    ok_trailers: OkTrailers,
    naming: Naming,
    /// Messages that began since the connection did, of requests and of responses.
    messages: [u64; 2],
}

/// A header block with what it came in.
pub(super) struct Head {
    pub(super) stream: u32,
    /// When its first byte passed.
    pub(super) began: Timestamp,
    /// When its last byte passed.
    pub(super) at: Timestamp,
    pub(super) fields: Fields,
    /// The block was read to its end.
    pub(super) readable: bool,
    pub(super) end_stream: bool,
}

/// A part of a DATA frame's payload with what it came in.
pub(super) struct Body<'a> {
    pub(super) stream: u32,
    pub(super) input: Input<'a>,
    pub(super) end_stream: bool,
    pub(super) of_client: bool,
    pub(super) at: Timestamp,
}

impl Streams {
    /// No stream yet; `client` carries requests, if that is known.
    pub(super) fn new(connection: ConnectionId, client: Option<Direction>) -> Self {
        Self {
            connection,
            client,
            open: BTreeMap::new(),
            highest: 0,
            without_request: 0,
            lingering: 0,
            release_at: Timestamp(0),
            behind: [false; 2],
            only_plain: false,
            saw_grpc: false,
            ok_trailers: OkTrailers::default(),
            naming: Naming::default(),
            messages: [0; 2],
        }
    }

    /// Whose streams these are.
    pub(super) fn connection(&self) -> ConnectionId {
        self.connection
    }

    /// Messages that began since the connection did, sent and received.
    pub(super) fn messages(&self) -> [u64; 2] {
        let [requests, responses] = self.messages;
        match self.client {
            Some(Direction::Received) => [responses, requests],
            _ => [requests, responses],
        }
    }

    /// Which direction carries requests.
    pub(super) fn client(&self) -> Option<Direction> {
        self.client
    }

    /// The bytes say who the client is; what was thought before gives way to them.
    pub(super) fn learn(&mut self, client: Direction, shared: &mut Shared) {
        if self.client != Some(client) {
            self.forget(|_, _| true, shared);
            self.client = Some(client);
            self.highest = 0;
        }
    }

    pub(super) fn request(&mut self, head: Head, shared: &mut Shared, out: &mut Vec<Event>) {
        let id = head.stream;
        let pseudonym = self.naming.pseudonym(&head.fields);
        if let Some(stream) = self.open.get_mut(&id) {
            stream.last = head.at;
            if head.end_stream {
                stream.end_of_request();
            }
            if !stream.has_request() {
                self.without_request = self.without_request.saturating_sub(1);
                stream.request(head.began, head.fields, pseudonym, head.readable);
                self.highest = self.highest.max(id);
            }
            self.finish_if_over(id, shared, out);
        } else if id > self.highest {
            self.highest = id;
            let mut stream = Stream::new(head.at);
            stream.request(head.began, head.fields, pseudonym, head.readable);
            if head.end_stream {
                stream.end_of_request();
            }
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

    pub(super) fn response(&mut self, head: &Head, shared: &mut Shared, out: &mut Vec<Event>) {
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
            stream.response(head, &mut self.ok_trailers);
            self.ended(id, ended, shared, out);
        }
    }

    pub(super) fn data(&mut self, body: &Body<'_>, shared: &mut Shared, out: &mut Vec<Event>) {
        let Body { stream: id, input, end_stream, of_client, at } = *body;
        let Some(stream) = self.open.get_mut(&id) else { return };
        stream.last = at;
        let [requests, responses] = &mut self.messages;
        let (counter, sum) =
            if of_client { (&mut stream.sent, requests) } else { (&mut stream.received, responses) };
        let before = counter.messages().count;
        let missed = counter.take(input) && !counter.implausible();
        *sum += u64::from(counter.messages().count - before);
        if end_stream && of_client {
            stream.end_of_request();
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

    pub(super) fn reset(
        &mut self,
        id: u32,
        code: u32,
        by_client: bool,
        at: Timestamp,
        shared: &mut Shared,
        out: &mut Vec<Event>,
    ) {
        let response_behind = self.is_behind(false);
        let Some(stream) = self.open.get_mut(&id) else { return };
        let ended = stream.ended_at().is_some();
        if by_client && response_behind {
            // What came of the response before it is not all read yet, and now nobody waits for it.
            stream.received.miss();
        }
        stream.reset(at, code, by_client);
        self.ended(id, ended, shared, out);
    }

    /// Bytes of a direction were lost; `None` if it is not known whether it is the client's.
    pub(super) fn miss(&mut self, of_client: Option<bool>) {
        for stream in self.open.values_mut() {
            if of_client != Some(false) {
                stream.miss(true);
            }
            if of_client != Some(true) {
                stream.miss(false);
            }
        }
    }

    /// Bytes that are still to come of the stream's message that is being read. Nobody counts the messages of
    /// a stream that is not open, so nothing of it can be lost.
    pub(super) fn message_left(&self, id: u32, of_client: bool) -> u32 {
        self.open
            .get(&id)
            .map_or(u32::MAX, |stream| if of_client { stream.sent.left() } else { stream.received.left() })
    }

    /// Whether bytes of each direction are waited for, sent and received.
    pub(super) fn behind(&mut self, behind: [bool; 2]) {
        self.behind = behind;
    }

    fn is_behind(&self, of_client: bool) -> bool {
        let [sent, received] = self.behind;
        self.client
            .is_some_and(|client| if (client == Direction::Sent) == of_client { sent } else { received })
    }

    /// Lets the streams go whose response is over and whose request has been waited for long enough.
    pub(super) fn release(&mut self, now: Timestamp, shared: &mut Shared, out: &mut Vec<Event>) {
        if self.lingering == 0 || now <= self.release_at {
            return;
        }
        let behind = self.is_behind(true);
        let mut first = Timestamp(u64::MAX);
        let mut over = Vec::new();
        for (id, stream) in &self.open {
            let Some(ended) = stream.ended_at() else { continue };
            let patience = if behind || !stream.has_request() { LINGER } else { AFTERTHOUGHT };
            match ended + patience {
                due if due < now => over.push(*id),
                due => first = first.min(due),
            }
        }
        self.release_at = first;
        for id in over {
            self.finish(id, shared, out);
        }
    }

    /// Every stream ends.
    pub(super) fn close(&mut self, at: Timestamp, ending: Ending, shared: &mut Shared, out: &mut Vec<Event>) {
        while let Some((&id, stream)) = self.open.iter_mut().next() {
            // Of a doubtful stream the end was most likely lost: it did not end now, nor with its connection.
            stream.cut(at, if stream.doubtful { Ending::Abandoned } else { ending });
            self.finish(id, shared, out);
        }
    }

    /// A stream's response may have ended just now (`before`: it had already).
    fn ended(&mut self, id: u32, before: bool, shared: &mut Shared, out: &mut Vec<Event>) {
        let Some(stream) = self.open.get(&id) else { return };
        if stream.ended_at().is_none() {
            return;
        }
        if !before {
            self.linger(id);
        }
        let Some(stream) = self.open.get(&id) else { return };
        if stream.has_request() && stream.request_is_over() {
            self.finish(id, shared, out);
        }
    }

    /// A stream's response is over.
    fn linger(&mut self, id: u32) {
        let due = self.open.get(&id).and_then(Stream::ended_at).unwrap_or_default() + AFTERTHOUGHT;
        self.release_at = if self.lingering == 0 { due } else { self.release_at.min(due) };
        self.lingering += 1;
    }

    /// Its response had ended before, and now its request has too.
    fn finish_if_over(&mut self, id: u32, shared: &mut Shared, out: &mut Vec<Event>) {
        let over =
            |stream: &Stream| stream.ended_at().is_some() && stream.has_request() && stream.request_is_over();
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

    /// Drops all streams without a call.
    pub(super) fn discard(&mut self, shared: &mut Shared) {
        self.forget(|_, _| true, shared);
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

    /// Gives up streams that most likely ended unseen.
    pub(super) fn sweep(&mut self, now: Timestamp, shared: &mut Shared, out: &mut Vec<Event>) {
        self.release(now, shared, out);
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

    pub(super) fn in_flight(&self, now: Timestamp, out: &mut Vec<Event>) {
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

    pub(super) fn loss(&self, reason: LossReason, at: Timestamp) -> Event {
        Event::Lost(Loss { at, reason, count: 1, connection: Some(self.connection) })
    }
}
