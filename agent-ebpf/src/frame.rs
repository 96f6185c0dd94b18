//! What a frame header may look like (RFC 9113 sections 4.1 and 6).

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
/// The youngest frame type in use (PRIORITY_UPDATE).
const LAST_TYPE: u8 = 0x10;

/// Bytes of a frame's header.
pub const HEADER: u32 = 9;
/// Bytes before a gRPC message: whether it is compressed, and its length.
pub const PREFIX: u32 = 5;
/// Bytes of the client connection preface (RFC 9113 section 3.4).
pub const PREFACE: u32 = 24;

/// Longer frames are legal, but nobody raises the limit of 16 KiB beyond this; it tells frames from noise.
const LONGEST: u32 = 1 << 22;

/// The nine bytes before a frame's payload.
#[derive(Clone, Copy)]
pub struct Header {
    /// Payload bytes.
    pub length: u32,
    /// DATA, HEADERS, ...
    pub kind: u8,
    /// END_STREAM, PADDED, ...
    pub flags: u8,
    /// Which stream; the reserved bit is still there.
    pub stream: u32,
}

impl Header {
    /// Reads nine bytes.
    ///
    /// # Safety
    /// Nine bytes must be readable at `bytes`.
    #[inline(always)]
    pub unsafe fn read(bytes: *const u8) -> Self {
        // SAFETY: the caller says so.
        let byte = |i: usize| unsafe { bytes.add(i).read_volatile() };
        Self {
            length: u32::from(byte(0)) << 16 | u32::from(byte(1)) << 8 | u32::from(byte(2)),
            kind: byte(3),
            flags: byte(4),
            stream: u32::from_be_bytes([byte(5), byte(6), byte(7), byte(8)]),
        }
    }

    /// Whether this is DATA.
    #[inline(always)]
    pub fn is_body(self) -> bool {
        self.kind == DATA
    }

    /// Whether DATA or HEADERS end their stream.
    #[inline(always)]
    pub fn ends_stream(self) -> bool {
        self.flags & 1 != 0
    }

    /// Whether DATA is padded.
    #[inline(always)]
    pub fn is_padded(self) -> bool {
        self.flags & 8 != 0
    }

    /// Whether a peer may send this. Strict where it is cheap: noise must not pass for a frame.
    #[inline(always)]
    pub fn is_plausible(self) -> bool {
        if self.stream >> 31 != 0 || self.length > LONGEST || self.kind > LAST_TYPE {
            return false;
        }
        let on_stream = self.stream != 0;
        match self.kind {
            DATA => on_stream && self.flags & !0x09 == 0,
            HEADERS => on_stream && self.flags & !0x2d == 0 && self.length > 0,
            PRIORITY => on_stream && self.length == 5,
            RST_STREAM => on_stream && self.length == 4,
            SETTINGS => !on_stream && self.flags & !1 == 0 && self.length <= 600,
            PUSH_PROMISE => on_stream && self.length >= 4,
            PING => !on_stream && self.length == 8 && self.flags & !1 == 0,
            GOAWAY => !on_stream && self.length >= 8,
            WINDOW_UPDATE => self.length == 4 && self.flags == 0,
            CONTINUATION => on_stream && self.flags & !4 == 0,
            _ => self.length <= 16_384,
        }
    }
}
