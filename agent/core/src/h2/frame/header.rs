//! Frame headers (RFC 9113 section 4.1): what a peer may send, and what bytes that may be anything speak for.

/// Longest frame that is believed if it is not DATA, in bytes. No stack lets a peer send more by default than
/// 16 KiB; 1 MiB leaves room for those that raise it.
const MAX_CONTROL: u32 = 1 << 20;

/// Longest frame of an unknown type that is believed, in bytes: extensions in use are far smaller.
const MAX_UNKNOWN: u32 = 65_536;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 0x1;
pub(super) const ACK: u8 = 0x1;
pub(super) const END_HEADERS: u8 = 0x4;
pub(super) const PADDED: u8 = 0x8;
pub(super) const WITH_PRIORITY: u8 = 0x20;

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Bytes of payload.
    pub(crate) length: u32,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
}

impl Header {
    /// Its length in bytes.
    pub(crate) const LENGTH: usize = 9;

    pub(crate) fn parse(bytes: [u8; Self::LENGTH]) -> Self {
        let [a, b, c, kind, flags, s, t, u, v] = bytes;
        let stream = u32::from_be_bytes([s, t, u, v]) & 0x7fff_ffff;
        Self { length: u32::from_be_bytes([0, a, b, c]), kind, flags, stream }
    }

    pub(super) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// A peer may send it. Unknown types are legal; flags that a type does not define are ignored.
    pub(crate) fn legal(self) -> bool {
        let on_stream = self.stream != 0;
        match self.kind {
            DATA => on_stream,
            HEADERS | PUSH_PROMISE | CONTINUATION => on_stream && self.length <= MAX_CONTROL,
            PRIORITY => on_stream && self.length == 5,
            RST_STREAM => on_stream && self.length == 4,
            SETTINGS => !on_stream && self.length.is_multiple_of(6) && self.length <= MAX_UNKNOWN,
            PING => !on_stream && self.length == 8,
            GOAWAY => !on_stream && (8..=MAX_UNKNOWN).contains(&self.length),
            WINDOW_UPDATE => self.length == 4,
            _ => self.length <= MAX_UNKNOWN,
        }
    }

    /// How much it speaks for a frame beginning here, in steps of about eight bits of luck; `None` if nothing
    /// common looks like this. Stricter than [`Header::legal`]: it is asked of bytes that may be anything.
    pub(crate) fn evidence(self) -> Option<u32> {
        let defined = match self.kind {
            DATA => END_STREAM | PADDED,
            HEADERS => END_STREAM | END_HEADERS | PADDED | WITH_PRIORITY,
            SETTINGS | PING => END_STREAM,
            PUSH_PROMISE => END_HEADERS | PADDED,
            CONTINUATION => END_HEADERS,
            _ => 0,
        };
        if self.kind > CONTINUATION || !self.legal() || self.flags & !defined != 0 {
            return None;
        }
        match self.kind {
            PING | RST_STREAM | WINDOW_UPDATE | PRIORITY => Some(3),
            SETTINGS => Some(2),
            HEADERS | CONTINUATION if self.length == 0 => None,
            _ => Some(1),
        }
    }

    /// It is the SETTINGS frame with which a server starts.
    pub(crate) fn server_start(self) -> bool {
        self.kind == SETTINGS && self.flags == 0 && self.legal()
    }
}
