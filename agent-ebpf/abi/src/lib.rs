//! The records that the kernel programs write into the ring buffer and the agent reads.
//!
//! Each record opens with a [`Head`]; its `kind` says which of the structs below it is. All numbers are in
//! the machine's byte order. The kernel programs fill them, `agent/src/sources/probes` turns them into
//! events; nothing else is shared between the two worlds.
#![no_std]

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The kinds of [`Head::kind`].
pub mod kind {
    /// An [`Opened`](crate::OpenedRecord) record.
    pub const OPENED: u32 = 1;
    /// A [`Segment`](crate::SegmentRecord) record, followed by its pieces.
    pub const SEGMENT: u32 = 2;
    /// A [`Sample`](crate::SampleRecord) record.
    pub const SAMPLE: u32 = 3;
    /// A [`Closed`](crate::ClosedRecord) record.
    pub const CLOSED: u32 = 4;
    /// A [`ConnectFailed`](crate::ConnectFailedRecord) record.
    pub const CONNECT_FAILED: u32 = 5;
}

/// Values of [`OpenedRecord::role`].
pub mod role {
    /// The connection is older than the programs.
    pub const UNKNOWN: u32 = 0;
    /// This end called connect.
    pub const CLIENT: u32 = 1;
    /// This end accepted.
    pub const SERVER: u32 = 2;
}

/// Values of [`SampleRecord::protocol`].
pub mod protocol {
    /// Not enough bytes yet.
    pub const UNKNOWN: u32 = 0;
    /// HTTP/2 in clear text.
    pub const HTTP2: u32 = 1;
    /// TLS.
    pub const TLS: u32 = 2;
    /// Something else.
    pub const OTHER: u32 = 3;
    /// HTTP/2 inside TLS, whose plaintext is seen.
    pub const HTTP2_IN_TLS: u32 = 4;
    /// A part of a connection over several paths, of whatever protocol.
    pub const MPTCP: u32 = 5;
}

/// Values of [`SegmentRecord::direction`].
pub mod direction {
    /// From this end to the remote.
    pub const SENT: u32 = 0;
    /// From the remote to this end.
    pub const RECEIVED: u32 = 1;
}

/// Values of the `family` fields, as the socket API numbers them.
pub mod family {
    /// IPv4: the address is in the first four bytes.
    pub const V4: u32 = 2;
    /// IPv6.
    pub const V6: u32 = 10;
}

/// Places in the per-CPU array `LOSSES`; each holds a total since the programs were loaded.
pub mod loss {
    /// The ring buffer was full.
    pub const RING_FULL: u32 = 0;
    /// A connection's state could not be created.
    pub const CONNECTION_TABLE_FULL: u32 = 1;
    /// A segment could not be followed.
    pub const SEGMENT: u32 = 2;
    /// How many places there are.
    pub const PLACES: u32 = 3;
}

/// What the agent and the programs on libssl agree on.
pub mod tls {
    /// A value of `TLS_MACHINE`: arguments in rdi, rsi, rdx, rcx, the answer in rax.
    pub const X86_64: u8 = 0;
    /// Another one: arguments in x0 to x3, the answer in x0.
    pub const AARCH64: u8 = 1;

    /// A bit of an attachment's cookie: the function reads or writes plaintext.
    pub const CARRIES: u64 = 1;
    /// It writes.
    pub const WRITES: u64 = 2;
    /// It answers 1 and puts the number of bytes where its fourth argument says.
    pub const COUNTS: u64 = 4;

    /// A place in the per-CPU array `TLS_RUNS`: how often a probe ran.
    pub const RUNS: u32 = 0;
    /// How often one passed plaintext on.
    pub const PASSED: u32 = 1;
    /// How many places there are.
    pub const PLACES: u32 = 2;
}

/// The programs wake the agent at most once in so many nanoseconds; the agent looks into the ring by itself
/// for longer than this after it found something.
pub const WAKE_EVERY_NANOS: u64 = 5_000_000;

/// How many buckets [`SampleRecord::histogram`] has: `[2^i, 2^(i+1))` microseconds each.
pub const BUCKETS: usize = 24;

/// What every record opens with.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Head {
    /// One of [`kind`].
    pub kind: u32,
    /// Bytes of the whole record.
    pub size: u32,
    /// Monotonic nanoseconds since boot.
    pub at: u64,
    /// The socket's cookie.
    pub cookie: u64,
}

/// A connection's end became known.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct OpenedRecord {
    /// Kind, size, time, socket.
    pub head: Head,
    /// The id of the socket's cgroup.
    pub cgroup: u64,
    /// Nanoseconds from connect to established; 0 when it was not seen.
    pub connect_nanos: u64,
    /// One of [`role`].
    pub role: u32,
    /// One of [`family`].
    pub family: u32,
    /// This end's address, in network order.
    pub local: [u8; 16],
    /// The remote's address, in network order.
    pub remote: [u8; 16],
    /// This end's port.
    pub local_port: u16,
    /// The remote's port.
    pub remote_port: u16,
    /// Zero.
    pub reserved: u32,
}

/// A run of TCP payload. Behind it lie pieces: a [`PieceHead`], then its bytes, the next one on the next
/// multiple of eight. What no piece covers was skipped: it lies inside the payload of a DATA frame.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct SegmentRecord {
    /// Kind, size, time, socket.
    pub head: Head,
    /// TCP sequence number of the first byte.
    pub sequence: u32,
    /// Payload bytes, copied or skipped.
    pub length: u32,
    /// One of [`direction`].
    pub direction: u32,
    /// Zero.
    pub reserved: u32,
}

/// Opens a piece of a segment.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct PieceHead {
    /// Offset from the segment's first byte.
    pub offset: u32,
    /// Bytes that follow.
    pub length: u32,
}

/// What TCP says of a connection, about once a second while it has traffic.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct SampleRecord {
    /// Kind, size, time, socket.
    pub head: Head,
    /// One of [`protocol`].
    pub protocol: u32,
    /// Smoothed round-trip time in microseconds; 0 when there is none yet.
    pub rtt_micros: u32,
    /// Segments sent again, since the programs first saw the connection.
    pub retransmits: u32,
    /// Segments sent, since then.
    pub segments_sent: u32,
    /// Bytes that the remote acknowledged, since then.
    pub bytes_sent: u64,
    /// Bytes received, since then.
    pub bytes_received: u64,
    /// Exchanges that ended since the last sample (not counted for HTTP/2).
    pub exchanges: u32,
    /// Zero.
    pub reserved: u32,
    /// Their times, summed, in nanoseconds.
    pub exchange_nanos: u64,
    /// The longest one's time in nanoseconds.
    pub exchange_max: u64,
    /// How long the unfinished exchange has waited, in nanoseconds; 0 when there is none.
    pub waiting: u64,
    /// Exchanges by duration.
    pub histogram: [u32; BUCKETS],
}

/// A connection's end went away.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct ClosedRecord {
    /// Kind, size, time, socket.
    pub head: Head,
}

/// A connection attempt that was never answered, or refused.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct ConnectFailedRecord {
    /// Kind, size, time, socket.
    pub head: Head,
    /// The id of the cgroup that tried.
    pub cgroup: u64,
    /// The remote's address, in network order.
    pub remote: [u8; 16],
    /// One of [`family`].
    pub family: u32,
    /// The remote's port.
    pub remote_port: u16,
    /// Zero.
    pub reserved: u16,
}
