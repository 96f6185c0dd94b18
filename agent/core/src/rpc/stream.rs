//! Turns the parts of one HTTP/2 stream into a [`Call`]: header fields, payload and resets flow in from
//! [`super::connection`], which also decides when a stream is finished.

use super::messages::Counter;
use super::status::{self, NOT_TOLD, OkTrailers, Told};
use super::streams::Head;
use crate::call::{Call, Ending, Method, Status, View};
use crate::h2::hpack::Fields;
use crate::units::{ConnectionId, Nanos, StreamId, Timestamp};
use std::sync::Arc;

/// One stream.
#[derive(Debug)]
pub(super) struct Stream {
    /// `None` while only the response was seen: the request's bytes wait behind a hole.
    request: Option<Request>,
    /// Whether it is gRPC, where that is known.
    grpc: Option<bool>,
    /// When the response's headers began.
    head_at: Option<Timestamp>,
    http_status: Option<u32>,
    pub(super) sent: Counter,
    pub(super) received: Counter,
    request_end: RequestEnd,
    /// The response is over, and the stream waits for what belongs before it.
    end: Option<End>,
    /// When its last frame passed.
    pub(super) last: Timestamp,
    /// Bytes of the connection were lost meanwhile: its end may have been among them.
    pub(super) doubtful: bool,
}

#[derive(Debug)]
struct Request {
    started: Timestamp,
    method: Method,
    authority: Option<Arc<str>>,
    deadline: Option<Nanos>,
    previous_attempts: Option<u32>,
    encoding: Option<Arc<str>>,
}

/// How the client's side of a stream came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RequestEnd {
    /// It has not.
    Open,
    /// The client is done.
    Done,
    /// The server, whose answer is complete, has reset the stream: no more is wanted. What the client had sent by
    /// then, its own end perhaps, is still on its way.
    Dismissed,
    /// The server reset the stream instead of an answer: of what was to come nothing is known.
    Cut,
}

#[derive(Clone, Copy, Debug)]
struct End {
    at: Timestamp,
    ending: Ending,
    status: Status,
}

impl Stream {
    /// A stream of which nothing is known yet.
    pub(super) fn new(at: Timestamp) -> Self {
        Self {
            request: None,
            grpc: None,
            head_at: None,
            http_status: None,
            sent: Counter::default(),
            received: Counter::default(),
            request_end: RequestEnd::Open,
            end: None,
            last: at,
            doubtful: false,
        }
    }

    /// The request's headers; `pseudonym` stands for a path that was not read. `readable`: the block was read to
    /// its end.
    pub(super) fn request(&mut self, began: Timestamp, fields: Fields, pseudonym: u64, readable: bool) {
        self.grpc = is_grpc(&fields, readable).or(self.grpc);
        let method = match fields.method.as_ref() {
            Some(name) => Method::Named(name.clone()),
            None => Method::Unresolved(pseudonym),
        };
        self.request = Some(Request {
            started: began,
            method,
            authority: fields.authority.or(fields.host),
            deadline: fields.timeout,
            previous_attempts: fields.previous_attempts,
            encoding: fields.encoding,
        });
    }

    /// The request's headers were seen.
    pub(super) fn has_request(&self) -> bool {
        self.request.is_some()
    }

    /// The response's headers or trailers; `ok` knows which unseen trailers mean OK.
    pub(super) fn response(&mut self, head: &Head, ok: &mut OkTrailers) {
        let Head { began, at, ref fields, readable, end_stream, .. } = *head;
        if !end_stream && fields.http_status.is_some_and(|status| status < 200) {
            return;
        }
        let begun = self.head_at.is_some() || self.received.messages().count > 0;
        if fields.http_status.is_some() || (!end_stream && self.head_at.is_none()) {
            self.head_at = self.head_at.or(Some(began));
            self.http_status = fields.http_status.or(self.http_status);
            if self.grpc.is_none() {
                self.grpc = fields.grpc;
            }
        }
        if fields.grpc_status.is_some() && self.grpc.is_none() {
            self.grpc = Some(true);
        }
        if !end_stream {
            return;
        }
        let readable = readable && fields.unseen == 0;
        let ending = match (fields.http_status.is_some(), begun || readable) {
            (false, true) => Ending::Trailers,
            _ => Ending::TrailersOnly,
        };
        self.head_at = self.head_at.or(Some(began));
        let (grpc_status, http_status) = (fields.grpc_status, self.http_status);
        let mut told = Told { grpc_status, http_status, readable, like_ok: false };
        let one = |counter: &Counter| counter.complete() && counter.messages().count == 1;
        let (unary, part) = (one(&self.sent) && one(&self.received), fields.unseen_part());
        if unary && told.may_be_ok(ending) {
            ok.learn(part);
            told.like_ok = ok.admits(part);
        } else {
            told.like_ok = ok.knows(part);
        }
        self.end(at, ending, status::by_headers(ending, told));
    }

    /// The server's END_STREAM on a DATA frame.
    pub(super) fn end_of_data(&mut self, at: Timestamp) {
        self.end(at, Ending::EndStream, status::by_body_end(self.http_status));
    }

    /// RST_STREAM.
    pub(super) fn reset(&mut self, at: Timestamp, code: u32, by_client: bool) {
        self.request_end = match self.request_end {
            RequestEnd::Open if by_client => RequestEnd::Done,
            RequestEnd::Open if self.end.is_some() => RequestEnd::Dismissed,
            RequestEnd::Open => RequestEnd::Cut,
            end => end,
        };
        self.end(at, Ending::Reset { code, by_client }, status::by_reset(code, by_client, self.expired(at)));
    }

    /// The client is done.
    pub(super) fn end_of_request(&mut self) {
        self.request_end = RequestEnd::Done;
    }

    /// Nothing more of the request is waited for.
    pub(super) fn request_is_over(&self) -> bool {
        matches!(self.request_end, RequestEnd::Done | RequestEnd::Cut)
    }

    /// Whether its deadline has passed; `None` so near to it that nobody can tell. A client counts from before its
    /// headers are on the wire, some milliseconds on a busy machine, and gRPC C++ rounds `grpc-timeout` up: so one
    /// may give up before the time that it wrote.
    fn expired(&self, at: Timestamp) -> Option<bool> {
        /// Longer than a client on an overloaded machine takes from its clock to the wire.
        const NEAR: Nanos = Nanos::from_millis(250);
        let Some(request) = &self.request else { return Some(false) };
        let Some(deadline) = request.deadline else { return Some(false) };
        let waited = at.since(request.started).0;
        let left = deadline.0.saturating_sub(waited);
        if left <= waited / 8 + Nanos::from_millis(1).0 {
            return Some(true);
        }
        (left > NEAR.0).then_some(false)
    }

    /// It ends for a reason outside of it, unless it has ended.
    pub(super) fn cut(&mut self, at: Timestamp, ending: Ending) {
        self.end(at, ending, NOT_TOLD);
    }

    fn end(&mut self, at: Timestamp, ending: Ending, status: Status) {
        if self.end.is_none() {
            self.end = Some(End { at, ending, status });
        }
    }

    /// The response is over since.
    pub(super) fn ended_at(&self) -> Option<Timestamp> {
        self.end.map(|end| end.at)
    }

    /// Bytes of one of the connection's directions were lost.
    pub(super) fn miss(&mut self, of_client: bool) {
        self.doubtful = true;
        if of_client { self.sent.miss() } else { self.received.miss() }
    }

    /// It counts as a call in flight.
    pub(super) fn in_flight(&self) -> Option<InFlight> {
        let request = self.request.as_ref()?;
        if self.end.is_some() || self.grpc == Some(false) || self.doubtful {
            return None;
        }
        Some(InFlight { unanswered_since: self.head_at.is_none().then_some(request.started) })
    }

    /// It is known whether it is gRPC.
    pub(super) fn known_kind(&self) -> Option<bool> {
        self.grpc
    }

    /// The call, once it ended; `None` if it is not one. `guess`: whether streams of unknown kind on this
    /// connection are taken for gRPC.
    pub(super) fn call(
        self,
        connection: ConnectionId,
        stream: u32,
        view: View,
        guess: bool,
    ) -> Option<Box<Call>> {
        let (request, end) = (self.request?, self.end?);
        let implausible = self.sent.implausible() || self.received.implausible();
        if !self.grpc.unwrap_or(guess && !implausible) {
            return None;
        }
        // What a client sends after the server is done is not waited for, and not of the call if the server said so.
        let mut sent = self.sent.messages();
        sent.exact &= match self.request_end {
            RequestEnd::Done => true,
            RequestEnd::Dismissed => self.sent.complete(),
            RequestEnd::Open | RequestEnd::Cut => false,
        };
        // Where the server did not say that it was over, the last of what it sent may be what was lost: nothing that
        // follows shows the hole.
        let mut received = self.received.messages();
        received.exact &= match end.ending {
            Ending::Trailers | Ending::TrailersOnly | Ending::EndStream => true,
            Ending::Reset { by_client, .. } => !by_client,
            Ending::ConnectionClosed | Ending::Abandoned => false,
        };
        Some(Box::new(Call {
            connection,
            stream: StreamId(stream),
            view,
            method: request.method,
            authority: request.authority,
            status: end.status,
            ending: end.ending,
            started: request.started,
            first_response: self.head_at.map(|at| at.since(request.started)),
            duration: end.at.since(request.started),
            request: sent,
            response: received,
            deadline: request.deadline,
            previous_attempts: request.previous_attempts,
            encoding: request.encoding,
        }))
    }
}

/// A stream that has not ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct InFlight {
    /// It has waited for a response since.
    pub(super) unanswered_since: Option<Timestamp>,
}

/// Whether a request is gRPC: by its content type, where that was read or is certainly absent.
fn is_grpc(fields: &Fields, readable: bool) -> Option<bool> {
    fields.grpc.or((readable && fields.unseen == 0).then_some(false))
}
