//! Says what status a call ended with, and where that comes from. Unknown is never OK.

use crate::call::{Ending, Status, StatusSource};

/// gRPC status codes that do not stand on the wire themselves.
mod code {
    pub(super) const OK: u8 = 0;
    pub(super) const CANCELLED: u8 = 1;
    pub(super) const UNKNOWN: u8 = 2;
    pub(super) const DEADLINE_EXCEEDED: u8 = 4;
    pub(super) const PERMISSION_DENIED: u8 = 7;
    pub(super) const RESOURCE_EXHAUSTED: u8 = 8;
    pub(super) const UNIMPLEMENTED: u8 = 12;
    pub(super) const INTERNAL: u8 = 13;
    pub(super) const UNAVAILABLE: u8 = 14;
    pub(super) const UNAUTHENTICATED: u8 = 16;
}

/// Nothing tells.
pub(super) const NOT_TOLD: Status = Status { code: None, source: StatusSource::Unknown };

/// What is known of an end by headers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    /// `grpc-status`, as read.
    pub(super) grpc_status: Option<u32>,
    /// `:status`, as read.
    pub(super) http_status: Option<u32>,
    /// Every field of the last block was read.
    pub(super) readable: bool,
    /// One whole request message and one whole response message, and no byte missed.
    pub(super) unary: bool,
    /// The trailers hold the same unseen entries as those of calls that were OK.
    pub(super) like_ok: bool,
}

impl Told {
    /// The status cannot be read, but what was seen can only mean OK.
    pub(super) fn means_ok(&self, ending: Ending) -> bool {
        let http_ok = matches!(self.http_status, None | Some(200));
        let unread = self.grpc_status.is_none() && !self.readable;
        ending == Ending::Trailers && unread && http_ok && (self.unary || self.like_ok)
    }
}

/// Which trailers mean OK on a connection whose header table was joined late. Every stack indexes
/// `grpc-status: 0`, so the trailers of all calls that are OK hold the same unseen entries, and those of a call
/// with another status do not. Unary answers tell which entries these are.
#[derive(Debug, Default)]
pub(super) struct OkTrailers {
    part: Option<u64>,
    times: u32,
}

/// Unary answers in a row that must agree. A single one may be a stream that failed after its only message.
const AGREEING: u32 = 3;

impl OkTrailers {
    /// A unary answer had these unseen trailers.
    pub(super) fn learn(&mut self, part: Option<u64>) {
        if part.is_some() && part == self.part {
            self.times = self.times.saturating_add(1);
        } else if part.is_some() && self.times < AGREEING {
            (self.part, self.times) = (part, 1);
        } else if part.is_some() {
            // The entries changed, or one of the answers was not OK: begin to lose trust.
            self.times -= 1;
        }
    }

    /// These unseen trailers mean OK.
    pub(super) fn knows(&self, part: Option<u64>) -> bool {
        part.is_some() && part == self.part && self.times >= AGREEING
    }
}

/// The status of a call that ended with headers.
pub(super) fn by_headers(ending: Ending, told: Told) -> Status {
    match told {
        // gRPC reads a code that it does not know as UNKNOWN.
        Told { grpc_status: Some(status), .. } => Status {
            code: Some(u8::try_from(status).ok().filter(|code| *code <= 16).unwrap_or(code::UNKNOWN)),
            source: StatusSource::Wire,
        },
        Told { http_status: Some(status), readable: true, .. } if status != 200 => inferred(by_http(status)),
        told if told.means_ok(ending) => inferred(code::OK),
        _ => NOT_TOLD,
    }
}

/// The status of a call that ended with RST_STREAM (gRPC over HTTP/2, "Errors"). A client whose deadline
/// passes cancels its stream; only the time tells that from a cancellation.
pub(super) fn by_reset(error: u32, by_client: bool, expired: bool) -> Status {
    match (error, by_client) {
        (8, _) if expired => inferred(code::DEADLINE_EXCEEDED),
        (8, _) => inferred(code::CANCELLED),
        (_, true) => NOT_TOLD,
        (0..=4 | 6 | 9 | 10, _) => inferred(code::INTERNAL),
        (7, _) => inferred(code::UNAVAILABLE),
        (11, _) => inferred(code::RESOURCE_EXHAUSTED),
        (12, _) => inferred(code::PERMISSION_DENIED),
        _ => NOT_TOLD,
    }
}

/// gRPC's "HTTP to gRPC Status Code Mapping".
fn by_http(status: u32) -> u8 {
    match status {
        400 => code::INTERNAL,
        401 => code::UNAUTHENTICATED,
        403 => code::PERMISSION_DENIED,
        404 => code::UNIMPLEMENTED,
        429 | 502 | 503 | 504 => code::UNAVAILABLE,
        _ => code::UNKNOWN,
    }
}

fn inferred(code: u8) -> Status {
    Status { code: Some(code), source: StatusSource::Inferred }
}
