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
    /// The trailers hold unseen entries that mean OK in a call of this shape.
    pub(super) like_ok: bool,
}

impl Told {
    /// The status cannot be read, and nothing but the trailers' unseen part tells whether it is OK.
    pub(super) fn may_be_ok(&self, ending: Ending) -> bool {
        let http_ok = matches!(self.http_status, None | Some(200));
        let unread = self.grpc_status.is_none() && !self.readable;
        ending == Ending::Trailers && unread && http_ok
    }
}

/// Which trailers mean OK on a connection whose header table was joined late. Every stack indexes
/// `grpc-status: 0`, so the trailers of all calls that are OK hold the same unseen entries, and those of a call
/// with another status do not. Unary answers tell which entries these are.
///
/// A stream that fails after its only message looks like a unary answer. So each answer is a vote, and once two
/// sets of entries were seen, only the one that leads clearly means OK.
#[derive(Debug, Default)]
pub(super) struct OkTrailers {
    leading: Option<u64>,
    votes: u32,
    contested: bool,
}

/// Votes by which the leading entries must lead where others stand against them, or where the call is not unary.
const AGREEING: u32 = 3;

/// More votes are not counted, so that entries that replace the leading ones come to lead in their turn.
const MOST_VOTES: u32 = 32;

impl OkTrailers {
    /// A unary answer had these unseen trailers.
    pub(super) fn learn(&mut self, part: Option<u64>) {
        if part.is_none() {
            return;
        }
        if part == self.leading {
            self.votes = (self.votes + 1).min(MOST_VOTES);
            return;
        }
        self.contested |= self.leading.is_some();
        match self.votes.checked_sub(1) {
            Some(left) => self.votes = left,
            None => (self.leading, self.votes) = (part, 1),
        }
    }

    /// These unseen trailers mean OK, whatever call they end.
    pub(super) fn knows(&self, part: Option<u64>) -> bool {
        part.is_some() && part == self.leading && self.votes >= AGREEING
    }

    /// These unseen trailers of a unary answer, which was learned, mean OK.
    pub(super) fn admits(&self, part: Option<u64>) -> bool {
        part.is_some() && part == self.leading && (!self.contested || self.votes >= AGREEING)
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
        told if told.like_ok && told.may_be_ok(ending) => inferred(code::OK),
        _ => NOT_TOLD,
    }
}

/// The status of a call whose response ended without trailers: a proxy's answer, if its `:status` says so.
pub(super) fn by_body_end(http_status: Option<u32>) -> Status {
    http_status.filter(|status| *status != 200).map_or(NOT_TOLD, |status| inferred(by_http(status)))
}

/// The status of a call that ended with RST_STREAM (gRPC over HTTP/2, "Errors"). A client whose deadline
/// passes cancels its stream; only the time tells that from a cancellation, and near the deadline not even that
/// (`expired` is `None`).
pub(super) fn by_reset(error: u32, by_client: bool, expired: Option<bool>) -> Status {
    match (error, by_client) {
        (8, _) => match expired {
            Some(true) => inferred(code::DEADLINE_EXCEEDED),
            Some(false) => inferred(code::CANCELLED),
            None => NOT_TOLD,
        },
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

#[cfg(test)]
mod tests {
    use super::OkTrailers;

    /// Votes for each of these entries in turn; whether each was taken for OK.
    fn votes(parts: &[u64]) -> Vec<bool> {
        let mut trailers = OkTrailers::default();
        let mut vote = |part| {
            trailers.learn(Some(part));
            trailers.admits(Some(part))
        };
        parts.iter().map(|part| vote(*part)).collect()
    }

    #[test]
    fn a_stream_that_fails_after_its_only_message_is_not_ok() {
        assert_eq!(votes(&[1, 1]), [true, true]);
        // Its entries differ, and from then on the others must lead.
        assert_eq!(votes(&[1, 13, 1, 1, 13, 1, 1]), [true, false, false, false, false, false, true]);
        assert_eq!(votes(&[1, 1, 1, 1, 13, 1]), [true, true, true, true, false, true]);
    }

    #[test]
    fn entries_that_replace_the_leading_ones_come_to_lead() {
        let mut trailers = OkTrailers::default();
        (0..1_000).for_each(|_| trailers.learn(Some(1)));
        (0..40).for_each(|_| trailers.learn(Some(2)));
        assert!(trailers.knows(Some(2)) && !trailers.knows(Some(1)));
    }
}
