//! The header fields that calls need, and nothing else: every other value is dropped as soon as its length is
//! counted, so that it can reach no log, metric, recording or report.

use super::Broken;
use crate::h2::names::{Names, Raw, Shape};
use crate::units::Nanos;
use std::sync::Arc;

/// A field's name, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    Path,
    Authority,
    Host,
    Method,
    Scheme,
    Status,
    ContentType,
    GrpcStatus,
    GrpcTimeout,
    GrpcEncoding,
    PreviousAttempts,
    /// Known, and of no interest.
    Other,
    /// In an entry that was inserted before the agent looked.
    Unseen,
}

impl Name {
    pub(super) fn of(text: &[u8]) -> Self {
        match text {
            b":path" => Self::Path,
            b":authority" => Self::Authority,
            b":method" => Self::Method,
            b":scheme" => Self::Scheme,
            b":status" => Self::Status,
            b"host" => Self::Host,
            b"content-type" => Self::ContentType,
            b"grpc-status" => Self::GrpcStatus,
            b"grpc-timeout" => Self::GrpcTimeout,
            b"grpc-encoding" => Self::GrpcEncoding,
            b"grpc-previous-rpc-attempts" => Self::PreviousAttempts,
            _ => Self::Other,
        }
    }
}

/// What is kept of a value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Field {
    Text(Arc<str>),
    Number(u32),
    Timeout(Nanos),
    Grpc(bool),
    /// Of no interest, or not fit for use.
    Dropped,
}

impl Field {
    /// Bytes of the text that is kept.
    pub(super) fn text_length(&self) -> usize {
        if let Self::Text(text) = self { text.len() } else { 0 }
    }
}

/// Reads a value by its name; gives it with its decoded length in bytes.
pub(super) fn parse(name: Name, raw: Raw<'_>, names: &mut Names) -> Result<(Field, u64), Broken> {
    match name {
        Name::Path | Name::Authority | Name::Host | Name::GrpcEncoding => {
            let shape = if name == Name::Path { Shape::Path } else { Shape::Plain };
            let kept = names.intern(raw, shape).ok_or(Broken)?;
            Ok((kept.text.map_or(Field::Dropped, Field::Text), u64::from(kept.length)))
        }
        Name::Other | Name::Method | Name::Scheme if !raw.huffman => {
            Ok((Field::Dropped, raw.bytes.len() as u64))
        }
        _ => {
            let value = names.decode(raw).ok_or(Broken)?;
            let field = match name {
                Name::Status | Name::GrpcStatus | Name::PreviousAttempts => {
                    number(value).map_or(Field::Dropped, Field::Number)
                }
                Name::GrpcTimeout => timeout(value).map_or(Field::Dropped, Field::Timeout),
                Name::ContentType => Field::Grpc(value.starts_with(b"application/grpc")),
                _ => Field::Dropped,
            };
            Ok((field, value.len() as u64))
        }
    }
}

/// A decimal of at most nine digits.
fn number(value: &[u8]) -> Option<u32> {
    if value.is_empty() || value.len() > 9 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(value.iter().fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0')))
}

/// gRPC's `TimeoutValue TimeoutUnit`: at most eight digits and one letter.
fn timeout(value: &[u8]) -> Option<Nanos> {
    let (unit, digits) = value.split_last()?;
    if digits.len() > 8 {
        return None;
    }
    let nanos = match unit {
        b'H' => 3_600_000_000_000,
        b'M' => 60_000_000_000,
        b'S' => 1_000_000_000,
        b'm' => 1_000_000,
        b'u' => 1_000,
        b'n' => 1,
        _ => return None,
    };
    Some(Nanos(u64::from(number(digits)?) * nanos))
}

/// What one header block said.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Fields {
    /// `:path` as a method's name.
    pub(crate) method: Option<Arc<str>>,
    /// `:authority`.
    pub(crate) authority: Option<Arc<str>>,
    /// `host`, which a proxy that speaks HTTP/1 on its other side may send in the place of `:authority`.
    pub(crate) host: Option<Arc<str>>,
    /// A pseudo-header that only requests have.
    pub(crate) request: bool,
    /// `:status`.
    pub(crate) http_status: Option<u32>,
    /// There was a `content-type`, and whether it is gRPC's.
    pub(crate) grpc: Option<bool>,
    /// `grpc-status`.
    pub(crate) grpc_status: Option<u32>,
    /// `grpc-timeout`.
    pub(crate) timeout: Option<Nanos>,
    /// `grpc-encoding`.
    pub(crate) encoding: Option<Arc<str>>,
    /// `grpc-previous-rpc-attempts`.
    pub(crate) previous_attempts: Option<u32>,
    /// Fields whose name or whole entry was inserted before the agent looked.
    pub(crate) unseen: u32,
    /// The unseen entries in their order, folded into one number; 0 if a literal with an unseen name is among
    /// them.
    unseen_fold: Option<u64>,
    /// The first two fields, if the path may be among them: those before `:method`.
    front: [Option<Slot>; 2],
    /// The first unseen entry behind `:method`.
    behind_method: Option<u64>,
    method_read: bool,
}

/// What one of the fields before `:method` is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Slot {
    Path,
    Authority,
    Unseen(u64),
}

/// The unseen entry that stands for a path.
///
/// grpc-go writes `:method :scheme :path :authority`, so the first unseen one behind `:method` is the path. Netty
/// writes `:authority :path :method`, gRPC C++ `:path :authority :method`: of two unseen entries before `:method`
/// either may be the path, until a block of the same client tells which it writes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PathEntry {
    /// This entry.
    Is(u64),
    /// One of these, in the order in which they were written.
    OneOf([u64; 2]),
}

impl Fields {
    pub(super) fn add(&mut self, name: Name, field: Field) {
        match (name, field) {
            (Name::Path, field) => {
                self.request = true;
                self.place(Slot::Path);
                if let Field::Text(text) = field {
                    self.method = Some(text);
                }
            }
            (Name::Authority, field) => {
                self.request = true;
                self.place(Slot::Authority);
                if let Field::Text(text) = field {
                    self.authority = Some(text);
                }
            }
            (Name::Host, Field::Text(text)) => self.host = Some(text),
            (Name::Method, _) => {
                self.request = true;
                self.method_read = true;
            }
            (Name::Scheme, _) => self.request = true,
            (Name::Status, Field::Number(status)) => self.http_status = Some(status),
            (Name::ContentType, Field::Grpc(grpc)) => self.grpc = Some(grpc),
            (Name::GrpcStatus, Field::Number(status)) => self.grpc_status = Some(status),
            (Name::GrpcTimeout, Field::Timeout(timeout)) => self.timeout = Some(timeout),
            (Name::GrpcEncoding, Field::Text(text)) => self.encoding = Some(text),
            (Name::PreviousAttempts, Field::Number(attempts)) => self.previous_attempts = Some(attempts),
            (Name::Unseen, _) => {
                self.unseen += 1;
                self.unseen_fold = Some(0);
            }
            _ => {}
        }
    }

    /// An index to an entry that was inserted before the agent looked.
    pub(super) fn add_unseen(&mut self, number: u64) {
        self.unseen += 1;
        self.unseen_fold = match self.unseen_fold {
            Some(0) => Some(0),
            // The multiplier of FNV-1a; the numbers are no one's choice, so mixing well is enough.
            before => Some((before.unwrap_or(0) ^ (number + 1)).wrapping_mul(0x0100_0000_01b3).max(1)),
        };
        if self.method_read {
            self.behind_method = self.behind_method.or(Some(number));
        }
        self.place(Slot::Unseen(number));
    }

    fn place(&mut self, slot: Slot) {
        let free = self.front.iter_mut().find(|slot| slot.is_none());
        if let (false, Some(free)) = (self.method_read, free) {
            *free = Some(slot);
        }
    }

    /// What stands for the unseen part of this block: equal for blocks that hold the same unseen entries. `None`
    /// if nothing was unseen, or not as whole entries.
    pub(crate) fn unseen_part(&self) -> Option<u64> {
        self.unseen_fold.filter(|fold| *fold != 0)
    }

    /// The entry that stands for the path, if that was not read.
    pub(crate) fn path_entry(&self) -> Option<PathEntry> {
        if self.method.is_some() {
            return None;
        }
        match self.front {
            [Some(Slot::Unseen(first)), Some(Slot::Unseen(second))] => {
                Some(PathEntry::OneOf([first, second]))
            }
            [Some(Slot::Unseen(one)), _] | [_, Some(Slot::Unseen(one))] => Some(PathEntry::Is(one)),
            _ => self.behind_method.map(PathEntry::Is),
        }
    }

    /// Whether this client writes the path first, of path and authority before `:method`, where the block tells.
    pub(crate) fn path_first(&self) -> Option<bool> {
        match self.front {
            [Some(Slot::Path), Some(_)] | [Some(Slot::Unseen(_)), Some(Slot::Authority)] => Some(true),
            [Some(_), Some(Slot::Path)] | [Some(Slot::Authority), Some(Slot::Unseen(_))] => Some(false),
            _ => None,
        }
    }
}
