//! What the programs remember: of a socket, of one direction of it, and while they walk one segment.

use crate::lock::Lock;
use faultline_abi::{BUCKETS, PieceHead, SegmentRecord};

/// Where a direction of an HTTP/2 connection stands.
///
/// ```text
///          first byte of a fresh connection,
///          or a plausible chain of frames
///   NEW, FRESH ──────────────────────────► FOLLOWED
///    │                                      │    ▲
///    └── joined inside a frame ──► LOST ◄───┘    │
///                                   │   hole,    │
///                                   │   nonsense │
///                                   └────────────┘ plausible chain of frames
/// ```
pub mod phase {
    /// No byte was followed yet.
    pub const NEW: u32 = 0;
    /// The walker knows in which frame it stands.
    pub const FOLLOWED: u32 = 1;
    /// It does not: raw bytes go out, capped.
    pub const LOST: u32 = 2;
    /// No byte was followed yet, but where the stream begins is known.
    pub const FRESH: u32 = 3;
}

/// What the walker does with the payload of a frame.
pub mod payload {
    /// Forward all of it.
    pub const WHOLE: u32 = 0;
    /// DATA: forward message prefixes, skip the rest.
    pub const BODY: u32 = 1;
    /// DATA whose pad length comes first.
    pub const PADDED: u32 = 2;
    /// DATA that is no gRPC message: skip the rest of the frame.
    pub const OPAQUE: u32 = 3;
}

/// One direction of a connection.
#[repr(C)]
pub struct Direction {
    /// Taken by whoever changes this struct.
    pub lock: Lock,
    /// One of [`phase`].
    pub phase: u32,
    /// The next sequence number.
    pub expected: u32,
    /// The first one, of a connection that was seen to be made.
    pub first: u32,
    /// Bytes of a frame header that were gathered, when it straddles segments.
    pub header_have: u32,
    /// Payload bytes of the current frame still to come.
    pub frame_left: u32,
    /// One of [`payload`].
    pub frame_payload: u32,
    /// The current frame ends its stream.
    pub end_stream: u32,
    /// Padding bytes behind `frame_left`.
    pub pad_left: u32,
    /// The stream whose message is kept here.
    pub message_stream: u32,
    /// Bytes of its message still to come.
    pub message_left: u32,
    /// Bytes of its message prefix that were gathered.
    pub prefix_have: u32,
    /// Skipped bytes before `expected` that no record has told yet.
    pub untold: u32,
    /// There is a hole in what came in, that may still be filled.
    pub has_hole: u32,
    /// Where it begins.
    pub hole: u32,
    /// Where it ends.
    pub hole_end: u32,
    /// Raw bytes that may still go out before the direction is followed again.
    pub raw_budget: u32,
    /// A FIN was seen.
    pub finished: u32,
    /// Messages of other streams that `MESSAGES` may hold; more than it does when streams were reset.
    pub unfinished: u32,
    /// Segments that came ahead of their turn may be kept. Written without the lock, too.
    pub kept: u32,
    /// The place of the last one, from one; perhaps it is somebody else's by now.
    pub kept_in: u32,
    /// Headers in `waiting` that no record has told yet. All of them lie in the `untold` bytes.
    pub headers: u32,
    /// Somebody waits for these headers to be told: a segment behind them went out without the lock.
    pub hurry: u32,
    /// Payload bytes of the frame whose header came last.
    pub frame_length: u32,
    /// The tick in which the last of them passed.
    pub header_tick: u64,
    /// When it passed.
    pub header_at: u64,
    /// The gathered frame header.
    pub header: [u8; 16],
    /// The gathered message prefix.
    pub prefix: [u8; 8],
    /// The record that tells the waiting headers, put together when it goes out.
    pub record: SegmentRecord,
    /// The waiting headers: the record's pieces.
    pub waiting: [Waiting; MOST_WAITING as usize],
}

/// Headers of DATA frames inside one message that one record tells together: 128 KiB in the frames that most stacks
/// send. A power of two.
pub const MOST_WAITING: u32 = 8;

/// The header of a DATA frame, as a record has it.
#[repr(C)]
pub struct Waiting {
    /// Its place in the record.
    pub piece: PieceHead,
    /// Its nine bytes; the next piece begins behind the others.
    pub header: [u8; 16],
}

impl Direction {
    /// Whether a frame begins with the next byte, and nothing of an earlier one is left to be told or finished.
    #[inline(always)]
    pub fn is_between_frames(&self) -> bool {
        let left = self.frame_left
            | self.header_have
            | self.pad_left
            | self.message_left
            | self.prefix_have
            | self.untold
            | self.unfinished
            | self.kept;
        self.phase == phase::FOLLOWED && left == 0
    }
}

/// One socket. What each packet needs comes first.
#[repr(C)]
pub struct Connection {
    /// One of `faultline_abi::protocol`.
    pub protocol: u32,
    /// An opened record went out.
    pub opened: u32,
    /// This end sends the questions of exchanges.
    pub asks: u32,
    /// A closed record went out.
    pub closed: u32,
    /// When to look at the clock again, in the kernel's ticks.
    pub look_at: u64,
    /// When the exchange that has not ended began; 0 when there is none. Odd: about then (see [`crate::sample`]).
    pub asked_at: u64,
    /// The tick in which an exchange was last timed.
    pub timed_tick: u64,
    /// When that one began.
    pub timed_at: u64,
    /// How long the last timed one took.
    pub exchange_last: u64,
    /// Exchanges that took as long and are not summed yet.
    pub alike: u32,
    /// Keeps what follows on a multiple of eight.
    pub reserved: u32,
    /// Its cookie; 0 until it is known.
    pub cookie: u64,
    /// Its cgroup's id; 0 until it is known.
    pub cgroup: u64,
    /// When connect began, for a client.
    pub connecting_at: u64,
    /// From connect to established.
    pub connect_nanos: u64,
    /// When the last sample went out.
    pub sampled_at: u64,
    /// Exchanges since the last sample, summed.
    pub exchange_nanos: u64,
    /// The longest of them.
    pub exchange_max: u64,
    /// How many.
    pub exchanges: u32,
    /// One of `faultline_abi::role`.
    pub role: u32,
    /// The connection was established while the programs watched.
    pub fresh: u32,
    /// Segments with payload while the protocol is unknown.
    pub tries: u32,
    /// A request of HTTP/1 came first, whose answer has not come: its direction and one.
    pub http1: u32,
    /// Keeps what follows on a multiple of eight.
    pub padding: u32,
    /// Totals of the socket when it was first seen.
    pub base_retransmits: u32,
    /// See `base_retransmits`.
    pub base_segments: u32,
    /// See `base_retransmits`.
    pub base_acked: u64,
    /// See `base_retransmits`.
    pub base_received: u64,
    /// Exchanges by duration; the last eight places only spare the verifier a proof.
    pub histogram: [u32; BUCKETS + 8],
    /// What this end sends.
    pub sent: Direction,
    /// What it receives.
    pub received: Direction,
}

/// A message that was left unfinished at the end of its DATA frame.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct MessageKey {
    /// The socket.
    pub cookie: u64,
    /// The stream.
    pub stream: u32,
    /// The direction.
    pub direction: u32,
}

/// Where it stopped.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Message {
    /// Bytes still to come.
    pub left: u32,
    /// Bytes of the prefix that were gathered.
    pub prefix_have: u32,
    /// The gathered prefix.
    pub prefix: [u8; 8],
}

/// A record's bytes may reach here before it is sent off; the next window still fits behind it.
pub const FLUSH_AT: u32 = 5_000;
/// The largest window into a segment. Whole segments up to this size are copied in one piece.
pub const WINDOW: u32 = 2_048;
/// The window into larger segments: most of it would be skipped anyway.
pub const NARROW_WINDOW: u32 = 512;
/// The window behind a DATA frame of a larger segment, where most likely another one follows: its header and a
/// message prefix.
pub const PEEK: u32 = 16;
/// Room for pieces: a mask away from any position the verifier can imagine.
pub const AREA: usize = 16_384 + 64;

/// Room to walk one segment and to put its record together.
#[repr(C)]
pub struct Scratch {
    /// Taken by whoever uses this slot.
    pub lock: Lock,
    /// Where the payload begins in the packet.
    pub payload_at: u32,
    /// Payload bytes.
    pub length: u32,
    /// Sequence number of the payload's first byte.
    pub sequence: u32,
    /// The walker's place in the payload.
    pub at: u32,
    /// First byte of the window.
    pub window_start: u32,
    /// End of the window.
    pub window_end: u32,
    /// Where the window lies in `bytes`.
    pub window_out: u32,
    /// How wide the next window is.
    pub window: u32,
    /// How wide windows are at frames that are not DATA, and at the segment's start.
    pub window_at_frame: u32,
    /// How wide they are at DATA, behind which mostly DATA follows.
    pub window_at_body: u32,
    /// End of what the record must hold.
    pub keep_end: u32,
    /// Where the open piece's head lies in `bytes`; [`NO_PIECE`] when there is none.
    pub piece: u32,
    /// Bytes of the record behind its head.
    pub out: u32,
    /// Where in the payload the record begins.
    pub record_start: u32,
    /// Skipped bytes before the payload that the record tells as well.
    pub untold: u32,
    /// One of `faultline_abi::direction`.
    pub direction: u32,
    /// The walk had to stop.
    pub failed: u32,
    /// Forward every byte, whatever it is.
    pub raw: u32,
    /// Keeps what follows on a multiple of eight.
    pub reserved: u32,
    /// When the packet came.
    pub now: u64,
    /// The socket.
    pub cookie: u64,
    /// The record; its pieces follow in `bytes`.
    pub record: SegmentRecord,
    /// Pieces.
    pub bytes: [u8; AREA],
}

/// Raw bytes that a direction may send while it is lost, within which what is missing mostly comes again and
/// the agent can put all of it in order. Frames are found again where a segment begins with one, which inside a
/// long message few do; so this is the size of the largest message that gRPC takes by default.
pub const RAW_EPISODE: u32 = 4 << 20;
/// Raw bytes of a segment after that, or when there is no telling in which state its direction is: enough
/// for the headers of a call that begins with it.
pub const RAW_SEGMENT: u32 = 4 << 10;

/// No piece is open.
pub const NO_PIECE: u32 = u32::MAX;
