//! One finished RPC, as one end of its connection saw it. [`crate::rpc`] makes calls, windows count them.

use crate::units::{ConnectionId, Nanos, StreamId, Timestamp};
use std::sync::Arc;

/// One finished RPC.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// The connection's end that saw it.
    pub connection: ConnectionId,
    /// Its HTTP/2 stream.
    pub stream: StreamId,
    /// Whose view this is.
    pub view: View,
    /// Which method.
    pub method: Method,
    /// The request's `:authority`, where it was seen.
    pub authority: Option<Arc<str>>,
    /// The gRPC status and where it comes from.
    pub status: Status,
    /// How the stream ended.
    pub ending: Ending,
    /// When the request's first frame passed.
    pub started: Timestamp,
    /// From `started` to the first byte of the response (its headers).
    pub first_response: Option<Nanos>,
    /// From `started` to the end.
    pub duration: Nanos,
    /// What the client sent.
    pub request: Messages,
    /// What the server sent.
    pub response: Messages,
    /// The deadline that the client asked for (`grpc-timeout`).
    pub deadline: Option<Nanos>,
    /// Attempts before this one (`grpc-previous-rpc-attempts`).
    pub previous_attempts: Option<u32>,
    /// The request's compression (`grpc-encoding`).
    pub encoding: Option<Arc<str>>,
}

/// Whose view a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum View {
    /// The caller's end.
    Client,
    /// The callee's end.
    Server,
}

/// A method's name, or what stands for it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Method {
    /// `pkg.Service/Method`, without the leading slash.
    Named(Arc<str>),
    /// The name was not on the wire since the agent started: the absolute number of its entry in the
    /// connection's header table, equal for equal names for as long as the entry lives.
    Unresolved(u64),
}

impl Method {
    /// The label value for a method whose name is not known.
    pub const OTHER: &'static str = "_OTHER";

    /// The label value: the name, or [`Method::OTHER`].
    #[must_use]
    pub fn label(&self) -> &str {
        match self {
            Self::Named(name) => name,
            Self::Unresolved(_) => Self::OTHER,
        }
    }
}

/// A gRPC status. Unknown is not OK: `code` is `None` where nothing tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Status {
    /// 0 to 16.
    pub code: Option<u8>,
    /// Where it comes from.
    pub source: StatusSource,
}

/// Names of the gRPC status codes, by number.
pub const STATUS_NAMES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// Where a status comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StatusSource {
    /// Read as `grpc-status`.
    Wire,
    /// Follows from what was seen (a unary answer with one message and trailers is OK; a reset by the
    /// client is CANCELLED).
    Inferred,
    /// Nothing tells.
    Unknown,
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    /// With trailers after the response.
    Trailers,
    /// With headers alone that carried the status.
    TrailersOnly,
    /// With END_STREAM on a DATA frame: HTTP/2 but not gRPC, or a broken server.
    EndStream,
    /// With RST_STREAM.
    Reset {
        /// The error code (RFC 9113 section 7).
        code: u32,
        /// Who sent it: `true` for the client.
        by_client: bool,
    },
    /// With the connection.
    ConnectionClosed,
    /// It was given up: too old, or out of the decoder's bounds.
    Abandoned,
}

/// The gRPC messages of one direction of a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Messages {
    /// How many began.
    pub count: u32,
    /// Their bytes as sent (compressed, without the 5-byte prefixes).
    pub bytes: u64,
    /// Nothing was missed: count and bytes are exact; else they are a lower bound. Of a request whose server reset
    /// the stream behind its answer, they are what the client had sent, in whole messages.
    pub exact: bool,
}

/// What a call was, by what its two directions carried. The wire does not tell a stream of one message
/// from a unary call, so this is what was seen, not what the .proto says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// At most one message each way.
    Unary,
    /// Several requests, at most one response.
    ClientStreaming,
    /// At most one request, several responses.
    ServerStreaming,
    /// Several both ways.
    Bidirectional,
}

impl Call {
    /// The kind, by what was seen.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match (self.request.count > 1, self.response.count > 1) {
            (false, false) => Kind::Unary,
            (true, false) => Kind::ClientStreaming,
            (false, true) => Kind::ServerStreaming,
            (true, true) => Kind::Bidirectional,
        }
    }

    /// It is known to have failed: a status other than OK, or an end without one.
    #[must_use]
    pub fn failed(&self) -> bool {
        match self.status.code {
            Some(code) => code != 0,
            None => matches!(self.ending, Ending::Reset { .. } | Ending::ConnectionClosed),
        }
    }
}
