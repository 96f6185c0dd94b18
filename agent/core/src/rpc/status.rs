//! Says what status a call ended with, and where that comes from. Unknown is never OK.

use crate::call::{Ending, Status, StatusSource};

/// gRPC status codes that do not stand on the wire themselves.
mod code {
    pub(super) const OK: u8 = 0;
    pub(super) const CANCELLED: u8 = 1;
    pub(super) const UNKNOWN: u8 = 2;
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
        Told { readable: false, unary: true, http_status: None | Some(200), .. }
            if ending == Ending::Trailers =>
        {
            inferred(code::OK)
        }
        _ => NOT_TOLD,
    }
}

/// The status of a call that ended with RST_STREAM (gRPC over HTTP/2, "Errors").
pub(super) fn by_reset(error: u32, by_client: bool) -> Status {
    match (error, by_client) {
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
