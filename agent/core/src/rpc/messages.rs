//! Counts the gRPC messages of one direction of a stream by their five-byte prefixes: payload flows in as it
//! passes, seen or skipped; counts and sizes flow out.

use crate::call::Messages;
use crate::h2::frame::Input;

const PREFIX: u8 = 5;

/// Where the count is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counter {
    count: u32,
    bytes: u64,
    /// Bytes of the message being read that are to come.
    left: u32,
    prefix: [u8; PREFIX as usize],
    prefix_length: u8,
    missed: bool,
    implausible: bool,
}

impl Counter {
    /// Takes payload; `true` if this lost the place of the next prefix.
    pub(super) fn take(&mut self, input: Input<'_>) -> bool {
        if self.missed {
            return false;
        }
        match input {
            Input::Bytes(bytes) => self.seen(bytes),
            Input::Skipped(count) if count <= self.left => {
                self.left -= count;
                self.bytes += u64::from(count);
            }
            Input::Skipped(_) => {
                self.bytes += u64::from(self.left);
                self.missed = true;
            }
        }
        self.missed
    }

    fn seen(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let here = bytes.len().min(self.left as usize);
                bytes = bytes.get(here..).unwrap_or_default();
                self.left -= u32::try_from(here).unwrap_or(self.left);
                self.bytes += here as u64;
                continue;
            }
            let wanted = usize::from(PREFIX - self.prefix_length);
            let (front, rest) = bytes.split_at(bytes.len().min(wanted));
            bytes = rest;
            for byte in front {
                if let Some(place) = self.prefix.get_mut(usize::from(self.prefix_length)) {
                    *place = *byte;
                }
                self.prefix_length += 1;
            }
            if self.prefix_length == PREFIX {
                self.prefix_length = 0;
                let [compressed, a, b, c, d] = self.prefix;
                if compressed > 1 {
                    self.implausible = true;
                    self.missed = true;
                    return;
                }
                self.count = self.count.saturating_add(1);
                self.left = u32::from_be_bytes([a, b, c, d]);
            }
        }
    }

    /// Bytes of this direction were lost.
    pub(super) fn miss(&mut self) {
        self.missed = true;
    }

    /// What was read cannot be gRPC.
    pub(super) fn implausible(&self) -> bool {
        self.implausible
    }

    /// Bytes of the message being read that are to come; 0 where that is not known.
    pub(super) fn left(&self) -> u32 {
        if self.missed { 0 } else { self.left }
    }

    /// Every message that began has ended.
    pub(super) fn complete(&self) -> bool {
        !self.missed && self.left == 0 && self.prefix_length == 0
    }

    /// The count so far.
    pub(super) fn messages(&self) -> Messages {
        Messages { count: self.count, bytes: self.bytes, exact: !self.missed }
    }
}
