//! Bytes on their way through the walk, seen or skipped.

/// Bytes in order.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Input<'a> {
    /// Seen.
    Bytes(&'a [u8]),
    /// Not seen, but known to lie inside a DATA frame's payload: this many.
    Skipped(u32),
}

impl Input<'_> {
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Bytes(bytes) => bytes.is_empty(),
            Self::Skipped(count) => *count == 0,
        }
    }

    /// Takes `count` from the front, or all there is.
    pub(super) fn take(&mut self, count: u32) -> Self {
        match self {
            Self::Bytes(bytes) => {
                let (front, rest) = bytes.split_at(bytes.len().min(count as usize));
                *bytes = rest;
                Input::Bytes(front)
            }
            Self::Skipped(left) => {
                let front = count.min(*left);
                *left -= front;
                Input::Skipped(front)
            }
        }
    }

    /// How many.
    pub(crate) fn length(&self) -> u32 {
        match self {
            Self::Bytes(bytes) => u32::try_from(bytes.len()).unwrap_or(u32::MAX),
            Self::Skipped(count) => *count,
        }
    }
}
