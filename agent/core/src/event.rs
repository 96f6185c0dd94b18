//! The facts that enter the core, and the only ones: what sources saw, as owned values with their time.
//!
//! Sources make events (probes from kernel records, cgroups from files, identity from names, replay from a
//! recording). The decoder ([`crate::rpc::Decoder`]) takes every [`Segment`] and gives [`Call`]s and
//! [`InFlight`] instead, and passes the rest on; so what lies behind it, recordings included, never holds a
//! payload or a foreign header value.

use crate::call::{Call, View};
use crate::units::{CgroupId, ConnectionId, Nanos, Timestamp};
use bytes::Bytes;
use std::net::SocketAddr;
use std::sync::Arc;

/// One fact. Times never run backwards by more than the sources' drain interval.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The agent began to watch: the first event of every live run and recording.
    Started(Started),
    /// A TCP connection's end became known.
    Opened(Opened),
    /// Bytes passed. Taken by the decoder, never recorded.
    Segment(Segment),
    /// An RPC ended. Made by the decoder.
    Call(Box<Call>),
    /// RPCs that have not ended at the end of a step. Made by the decoder.
    InFlight(InFlight),
    /// What flow control and resets did in a step. Made by the decoder.
    Flow(Box<FlowSample>),
    /// What TCP says of a connection, about once a second.
    Sampled(ConnectionSample),
    /// A connection's end went away.
    Closed(Closed),
    /// A connection attempt that never got established.
    ConnectFailed(ConnectFailed),
    /// What a cgroup used.
    Cgroup(CgroupSample),
    /// Who lives in a cgroup.
    Identity(Box<CgroupIdentity>),
    /// Something was not seen, and is counted.
    Lost(Loss),
    /// A part that the agent works without; said in the report until the same part is reported again with
    /// an empty reason.
    Missing(Missing),
}

impl Event {
    /// When it happened.
    #[must_use]
    pub fn at(&self) -> Timestamp {
        match self {
            Self::Started(e) => e.at,
            Self::Opened(e) => e.at,
            Self::Segment(e) => e.at,
            Self::Call(call) => call.started + call.duration,
            Self::InFlight(e) => e.at,
            Self::Flow(e) => e.at,
            Self::Sampled(e) => e.at,
            Self::Closed(e) => e.at,
            Self::ConnectFailed(e) => e.at,
            Self::Cgroup(e) => e.at,
            Self::Identity(e) => e.at,
            Self::Lost(e) => e.at,
            Self::Missing(e) => e.at,
        }
    }
}

/// The agent began to watch.
#[derive(Clone, Debug, PartialEq)]
pub struct Started {
    /// Monotonic time of the start.
    pub at: Timestamp,
    /// Wall-clock time of the monotonic clock's zero, nanoseconds since the Unix epoch.
    pub unix_zero: u64,
    /// This node's name.
    pub node: Arc<str>,
}

/// Which side opened the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// This end called connect.
    Client,
    /// This end accepted.
    Server,
    /// The connection is older than the agent.
    Unknown,
}

/// A TCP connection's end became known.
#[derive(Clone, Debug, PartialEq)]
pub struct Opened {
    /// When (for a connection older than the agent: when it was first seen).
    pub at: Timestamp,
    /// Which.
    pub connection: ConnectionId,
    /// The cgroup that owns the socket.
    pub cgroup: CgroupId,
    /// Which side opened it.
    pub role: Role,
    /// This end's address; v4-mapped IPv6 addresses are given as IPv4.
    pub local: SocketAddr,
    /// The other end's address.
    pub remote: SocketAddr,
    /// From SYN to ESTABLISHED, for a client whose handshake was seen.
    pub connect_time: Option<Nanos>,
}

/// Which way bytes went, as this end sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From this end to the remote.
    Sent,
    /// From the remote to this end.
    Received,
}

impl Direction {
    /// The other one.
    #[must_use]
    pub fn opposite(self) -> Self {
        match self {
            Self::Sent => Self::Received,
            Self::Received => Self::Sent,
        }
    }
}

/// A run of TCP payload bytes of one direction of an HTTP/2 connection.
///
/// Duplicates, overlaps, reordering and holes are normal. Bytes of `[sequence, sequence + length)` that no
/// piece covers were skipped on purpose by the kernel program: they lie inside the payload of DATA frames,
/// and hold no frame header. Bytes between two segments that no segment covers are a hole.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    /// When the kernel saw it.
    pub at: Timestamp,
    /// On which connection's end.
    pub connection: ConnectionId,
    /// Which way.
    pub direction: Direction,
    /// TCP sequence number of the first byte; wraps.
    pub sequence: u32,
    /// Payload bytes, seen or skipped; up to 131,018 for a GSO segment on loopback.
    pub length: u32,
    /// The bytes that were copied, ascending by offset, not overlapping.
    pub pieces: Vec<Piece>,
}

/// A part of a segment that was copied.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// Offset from the segment's first byte.
    pub offset: u32,
    /// The bytes.
    pub bytes: Bytes,
}

/// The RPCs of one connection's end that have not ended when a step does.
#[derive(Clone, Debug, PartialEq)]
pub struct InFlight {
    /// End of the step.
    pub at: Timestamp,
    /// Which connection.
    pub connection: ConnectionId,
    /// As whose.
    pub view: View,
    /// How many streams.
    pub streams: u32,
    /// Age of the oldest one that has waited for a response without seeing one.
    pub oldest_unanswered: Option<Nanos>,
}

/// What flow control, resets and goodbyes did on one connection's end since the decoder was last asked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FlowSample {
    /// End of the step, or of the connection.
    pub at: Timestamp,
    /// Which connection.
    pub connection: ConnectionId,
    /// gRPC messages that began, sent by this end.
    pub messages_sent: u64,
    /// The same, received.
    pub messages_received: u64,
    /// For how long this end had a message under way and no window to send it in; `None` where the windows are
    /// not known, because the connection is older than the agent or bytes of it were lost.
    pub stalled_sending: Option<Nanos>,
    /// The same for the remote end, which waits for this end to take what it sent.
    pub stalled_receiving: Option<Nanos>,
    /// How many streams the server lets its client have open (MAX_CONCURRENT_STREAMS), where it said so.
    pub max_streams: Option<u32>,
    /// How often the open streams became that many.
    pub limit_reached: u32,
    /// For how long they were that many.
    pub limited: Nanos,
    /// RST_STREAM and GOAWAY frames that passed.
    pub ended: Vec<(Ended, u32)>,
}

/// An end that a frame put to a stream or to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ended {
    /// By which frame.
    pub by: EndedBy,
    /// This end sent it.
    pub sent: bool,
    /// The error code (RFC 9113 section 7), or [`Ended::OTHER`].
    pub code: u32,
}

/// A frame that ends something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndedBy {
    /// RST_STREAM: one stream.
    Reset,
    /// GOAWAY: the connection, once its streams are done.
    GoAway,
}

impl EndedBy {
    /// The frame's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Reset => "RST_STREAM",
            Self::GoAway => "GOAWAY",
        }
    }
}

impl Ended {
    /// Stands for every code that HTTP/2 does not define: peers may make up as many as they like.
    pub const OTHER: u32 = 14;

    /// The same with a code that is defined, or [`Ended::OTHER`].
    #[must_use]
    pub fn bounded(self) -> Self {
        Self { code: self.code.min(Self::OTHER), ..self }
    }

    /// The code's name (RFC 9113 section 7); `_OTHER` for one that it does not define.
    #[must_use]
    pub fn code_name(self) -> &'static str {
        const NAMES: [&str; 14] = [
            "NO_ERROR",
            "PROTOCOL_ERROR",
            "INTERNAL_ERROR",
            "FLOW_CONTROL_ERROR",
            "SETTINGS_TIMEOUT",
            "STREAM_CLOSED",
            "FRAME_SIZE_ERROR",
            "REFUSED_STREAM",
            "CANCEL",
            "COMPRESSION_ERROR",
            "CONNECT_ERROR",
            "ENHANCE_YOUR_CALM",
            "INADEQUATE_SECURITY",
            "HTTP_1_1_REQUIRED",
        ];
        NAMES.get(self.code as usize).copied().unwrap_or("_OTHER")
    }
}

/// What the bytes of a connection were taken for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Not enough bytes yet.
    #[default]
    Unknown,
    /// HTTP/2 in clear text.
    Http2,
    /// TLS: encrypted, so its calls cannot be seen.
    Tls,
    /// Something else.
    Other,
    /// HTTP/2 inside TLS, whose plaintext is seen where the TLS library is called.
    Http2InTls,
    /// One path of MPTCP: of the stream's bytes others may carry some, so its calls cannot be read.
    Mptcp,
}

impl Protocol {
    /// Every protocol.
    pub const ALL: [Self; 6] =
        [Self::Unknown, Self::Http2, Self::Tls, Self::Other, Self::Http2InTls, Self::Mptcp];

    /// Its name in the report and in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Http2 => "http2",
            Self::Tls => "tls",
            Self::Other => "other",
            Self::Http2InTls => "http2_in_tls",
            Self::Mptcp => "mptcp",
        }
    }

    /// Whether its calls are seen.
    #[must_use]
    pub fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Http2InTls)
    }
}

/// What TCP and the kernel programs say of a connection's end. Counters are totals since the connection was
/// first seen by the agent, except `exchanges`, which cover the time since the last sample.
#[derive(Clone, Debug, PartialEq)]
pub struct ConnectionSample {
    /// When.
    pub at: Timestamp,
    /// Which connection.
    pub connection: ConnectionId,
    /// What its bytes were taken for.
    pub protocol: Protocol,
    /// Smoothed round-trip time.
    pub rtt: Option<Nanos>,
    /// Segments sent again.
    pub retransmits: u64,
    /// Segments sent.
    pub segments_sent: u64,
    /// Payload bytes sent.
    pub bytes_sent: u64,
    /// Payload bytes received.
    pub bytes_received: u64,
    /// Bytes that TCP moved, both ways, and that this agent has not seen though it reads the connection: at
    /// least so many. Known by the decoder alone; sources leave it zero.
    pub unseen: u64,
    /// Request-and-answer exchanges on a connection that is not HTTP/2.
    pub exchanges: Exchanges,
}

/// Request-and-answer exchanges seen in TCP alone: a run of bytes one way, then a run the other way. For a
/// client the time from its first sent byte to the first received one, for a server the reverse.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exchanges {
    /// How many ended.
    pub count: u32,
    /// Their times, summed.
    pub total: Nanos,
    /// The longest.
    pub max: Nanos,
    /// How many took `[2^i, 2^(i+1))` microseconds, `i` = 0..24; the first holds all below, the last all
    /// above (8 s).
    pub histogram: [u32; 24],
    /// How long the exchange that has not ended has waited, at the sample's time.
    pub waiting: Option<Nanos>,
}

/// A connection's end went away.
#[derive(Clone, Debug, PartialEq)]
pub struct Closed {
    /// When.
    pub at: Timestamp,
    /// Which connection.
    pub connection: ConnectionId,
}

/// A connection attempt that never got established.
#[derive(Clone, Debug, PartialEq)]
pub struct ConnectFailed {
    /// When it was given up.
    pub at: Timestamp,
    /// The cgroup that tried.
    pub cgroup: CgroupId,
    /// Where to.
    pub remote: SocketAddr,
}

/// What a cgroup used. Counters are the kernel's totals; what the kernel does not offer is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CgroupSample {
    /// When.
    pub at: Timestamp,
    /// Which cgroup.
    pub cgroup: CgroupId,
    /// CPU time used, total.
    pub cpu_usage: Option<Nanos>,
    /// Time for which it was throttled by its quota, total.
    pub cpu_throttled: Option<Nanos>,
    /// The quota, in cores.
    pub cpu_limit: Option<f64>,
    /// Time for which some task waited for a CPU (PSI `some`), total.
    pub cpu_pressure: Option<Nanos>,
    /// Memory in use, without page cache that could be dropped, in bytes.
    pub memory: Option<u64>,
    /// The memory limit in bytes.
    pub memory_limit: Option<u64>,
    /// Processes killed for lack of memory, total.
    pub oom_kills: Option<u64>,
    /// Connections over unix stream sockets that its processes accepted, now; `None` where nobody could look.
    pub unix_connections: Option<u64>,
}

/// Who lives in a cgroup, as far as sources know. Sent when it is first seen and again when it changes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CgroupIdentity {
    /// When.
    pub at: Timestamp,
    /// Which cgroup.
    pub cgroup: CgroupId,
    /// Its path below the cgroup v2 root, `/` for the root.
    pub path: Arc<str>,
    /// The name that configuration gives it.
    pub configured: Option<Arc<str>>,
    /// The Kubernetes workload.
    pub workload: Option<Workload>,
    /// The systemd unit or the container's name.
    pub container: Option<Arc<str>>,
    /// The name of its first process.
    pub process: Option<Arc<str>>,
    /// The cgroup is gone.
    pub gone: bool,
}

/// A Kubernetes workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workload {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name (of the Deployment, StatefulSet, DaemonSet, ...).
    pub name: Arc<str>,
    /// The pod's name.
    pub pod: Arc<str>,
    /// The container's name.
    pub container: Arc<str>,
}

/// Why something was not seen. The name in metrics is [`LossReason::name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LossReason {
    /// The ring buffer was full: a record was dropped.
    RingFull,
    /// The kernel's table of connections was full.
    ConnectionTableFull,
    /// The kernel program could not follow a segment (scratch busy, load failed).
    KernelSegment,
    /// The core's table of connections was full; the oldest left.
    ConnectionEvicted,
    /// The core's table of streams was full; the oldest left.
    StreamEvicted,
    /// Bytes are missing and were given up.
    Hole,
    /// The header compression state of a connection was lost.
    HpackLost,
    /// A frame that no HTTP/2 peer may send.
    MalformedFrame,
    /// A record that this agent does not understand.
    MalformedRecord,
    /// A message's prefix was not seen, so sizes are a lower bound.
    MessagePrefix,
    /// A service or edge beyond the bound; counted under `_OTHER`.
    ServiceOverflow,
    /// A method beyond the bound; counted under `_OTHER`.
    MethodOverflow,
}

impl LossReason {
    /// Every reason, in the order of their names' appearance in metrics.
    pub const ALL: [Self; 12] = [
        Self::RingFull,
        Self::ConnectionTableFull,
        Self::KernelSegment,
        Self::ConnectionEvicted,
        Self::StreamEvicted,
        Self::Hole,
        Self::HpackLost,
        Self::MalformedFrame,
        Self::MalformedRecord,
        Self::MessagePrefix,
        Self::ServiceOverflow,
        Self::MethodOverflow,
    ];

    /// The label value in metrics and in the report.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RingFull => "ring_full",
            Self::ConnectionTableFull => "connection_table_full",
            Self::KernelSegment => "kernel_segment",
            Self::ConnectionEvicted => "connection_evicted",
            Self::StreamEvicted => "stream_evicted",
            Self::Hole => "hole",
            Self::HpackLost => "hpack_lost",
            Self::MalformedFrame => "malformed_frame",
            Self::MalformedRecord => "malformed_record",
            Self::MessagePrefix => "message_prefix",
            Self::ServiceOverflow => "service_overflow",
            Self::MethodOverflow => "method_overflow",
        }
    }
}

/// Something was not seen.
#[derive(Clone, Debug, PartialEq)]
pub struct Loss {
    /// When it was noticed.
    pub at: Timestamp,
    /// Why.
    pub reason: LossReason,
    /// How many (records, connections, streams, frames, holes).
    pub count: u64,
    /// On which connection, where that is known.
    pub connection: Option<ConnectionId>,
}

/// A part that the agent works without.
#[derive(Clone, Debug, PartialEq)]
pub struct Missing {
    /// When it was noticed.
    pub at: Timestamp,
    /// The part: `model`, `model runtime`, `cgroup files`, `pressure`, `kubernetes`.
    pub part: Arc<str>,
    /// Why it is missing; empty when it is there again.
    pub reason: Arc<str>,
    /// What to do about it.
    pub fix: Arc<str>,
}
