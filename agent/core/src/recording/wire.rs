//! The messages of `recording.proto`, written by hand so that no build needs `protoc`. Field numbers and types
//! are the file's; `from` and `into` turn them into the core's own types.
#![allow(missing_docs, reason = "recording.proto says what the fields mean")]

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Header {
    #[prost(message, optional, tag = "1")]
    pub(super) settings: Option<Settings>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) model_digest: Vec<u8>,
    #[prost(string, tag = "3")]
    pub(super) agent: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Settings {
    #[prost(uint64, tag = "1")]
    pub(super) step_length: u64,
    #[prost(uint64, tag = "2")]
    pub(super) baseline_steps: u64,
    #[prost(uint64, tag = "3")]
    pub(super) max_services: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Record {
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16")]
    pub(super) kind: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Kind {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(bool, tag = "2")]
    TextsCleared(bool),
    #[prost(uint64, tag = "3")]
    Tick(u64),
    #[prost(message, tag = "4")]
    End(End),
    #[prost(message, tag = "5")]
    Started(Started),
    #[prost(message, tag = "6")]
    Opened(Opened),
    #[prost(message, tag = "7")]
    Call(Call),
    #[prost(message, tag = "8")]
    InFlight(InFlight),
    #[prost(message, tag = "9")]
    Sampled(ConnectionSample),
    #[prost(message, tag = "10")]
    Closed(Closed),
    #[prost(message, tag = "11")]
    ConnectFailed(ConnectFailed),
    #[prost(message, tag = "12")]
    Cgroup(CgroupSample),
    #[prost(message, tag = "13")]
    Identity(CgroupIdentity),
    #[prost(message, tag = "14")]
    Lost(Loss),
    #[prost(message, tag = "15")]
    Missing(Missing),
    #[prost(message, tag = "16")]
    Flow(FlowSample),
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct End {
    #[prost(uint64, tag = "1")]
    pub(super) items: u64,
    #[prost(fixed64, tag = "2")]
    pub(super) checksum: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Started {
    #[prost(uint64, tag = "1")]
    pub(super) at: u64,
    #[prost(uint64, tag = "2")]
    pub(super) unix_zero: u64,
    #[prost(uint32, tag = "3")]
    pub(super) node: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Address {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) ip: Vec<u8>,
    #[prost(uint32, tag = "2")]
    pub(super) port: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Opened {
    #[prost(uint64, tag = "1")]
    pub(super) at: u64,
    #[prost(uint64, tag = "2")]
    pub(super) connection: u64,
    #[prost(uint64, tag = "3")]
    pub(super) cgroup: u64,
    #[prost(uint32, tag = "4")]
    pub(super) role: u32,
    #[prost(message, optional, tag = "5")]
    pub(super) local: Option<Address>,
    #[prost(message, optional, tag = "6")]
    pub(super) remote: Option<Address>,
    #[prost(uint64, optional, tag = "7")]
    pub(super) connect_time: Option<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Call {
    #[prost(uint64, tag = "1")]
    pub(super) connection: u64,
    #[prost(uint32, tag = "2")]
    pub(super) stream: u32,
    #[prost(uint32, tag = "3")]
    pub(super) view: u32,
    #[prost(uint32, optional, tag = "4")]
    pub(super) method: Option<u32>,
    #[prost(uint64, optional, tag = "5")]
    pub(super) unresolved_method: Option<u64>,
    #[prost(uint32, optional, tag = "6")]
    pub(super) authority: Option<u32>,
    #[prost(uint32, optional, tag = "7")]
    pub(super) status: Option<u32>,
    #[prost(uint32, tag = "8")]
    pub(super) status_source: u32,
    #[prost(uint32, tag = "9")]
    pub(super) ending: u32,
    #[prost(uint32, tag = "10")]
    pub(super) reset_code: u32,
    #[prost(bool, tag = "11")]
    pub(super) reset_by_client: bool,
    #[prost(uint64, tag = "12")]
    pub(super) started: u64,
    #[prost(uint64, optional, tag = "13")]
    pub(super) first_response: Option<u64>,
    #[prost(uint64, tag = "14")]
    pub(super) duration: u64,
    #[prost(message, optional, tag = "15")]
    pub(super) request: Option<Messages>,
    #[prost(message, optional, tag = "16")]
    pub(super) response: Option<Messages>,
    #[prost(uint64, optional, tag = "17")]
    pub(super) deadline: Option<u64>,
    #[prost(uint32, optional, tag = "18")]
    pub(super) previous_attempts: Option<u32>,
    #[prost(uint32, optional, tag = "19")]
    pub(super) encoding: Option<u32>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Messages {
    #[prost(uint32, tag = "1")]
    pub(super) count: u32,
    #[prost(uint64, tag = "2")]
    pub(super) bytes: u64,
    #[prost(bool, tag = "3")]
    pub(super) exact: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct InFlight {
    #[prost(uint64, tag = "1")]
    pub(super) at: u64,
    #[prost(uint64, tag = "2")]
    pub(super) connection: u64,
    #[prost(uint32, tag = "3")]
    pub(super) view: u32,
    #[prost(uint32, tag = "4")]
    pub(super) streams: u32,
    #[prost(uint64, optional, tag = "5")]
    pub(super) oldest_unanswered: Option<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct FlowSample {
    #[prost(uint64, tag = "1")]
    pub(super) at: u64,
    #[prost(uint64, tag = "2")]
    pub(super) connection: u64,
    #[prost(uint64, tag = "3")]
    pub(super) messages_sent: u64,
    #[prost(uint64, tag = "4")]
    pub(super) messages_received: u64,
    #[prost(uint64, optional, tag = "5")]
    pub(super) stalled_sending: Option<u64>,
    #[prost(uint64, optional, tag = "6")]
    pub(super) stalled_receiving: Option<u64>,
    #[prost(uint32, optional, tag = "7")]
    pub(super) max_streams: Option<u32>,
    #[prost(uint32, tag = "8")]
    pub(super) limit_reached: u32,
    #[prost(uint64, tag = "9")]
    pub(super) limited: u64,
    #[prost(message, repeated, tag = "10")]
    pub(super) ended: Vec<Ended>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Ended {
    #[prost(uint32, tag = "1")]
    pub(super) by: u32,
    #[prost(bool, tag = "2")]
    pub(super) sent: bool,
    #[prost(uint32, tag = "3")]
    pub(super) code: u32,
    #[prost(uint32, tag = "4")]
    pub(super) count: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ConnectionSample {
    #[prost(uint64, tag = "1")]
    pub(super) at: u64,
    #[prost(uint64, tag = "2")]
    pub(super) connection: u64,
    #[prost(uint32, tag = "3")]
    pub(super) protocol: u32,
    #[prost(uint64, optional, tag = "4")]
    pub(super) rtt: Option<u64>,
    #[prost(uint64, tag = "5")]
    pub(super) retransmits: u64,
    #[prost(uint64, tag = "6")]
    pub(super) segments_sent: u64,
    #[prost(uint64, tag = "7")]
    pub(super) bytes_sent: u64,
    #[prost(uint64, tag = "8")]
    pub(super) bytes_received: u64,
    #[prost(message, optional, tag = "9")]
    pub(super) exchanges: Option<Exchanges>,
    #[prost(uint64, tag = "10")]
    pub(super) unseen: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Exchanges {
    #[prost(uint32, tag = "1")]
    pub(super) count: u32,
    #[prost(uint64, tag = "2")]
    pub(super) total: u64,
    #[prost(uint64, tag = "3")]
    pub(super) max: u64,
    #[prost(uint32, repeated, tag = "4")]
    pub(super) histogram: Vec<u32>,
    #[prost(uint64, optional, tag = "5")]
    pub(super) waiting: Option<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Closed {
    #[prost(uint64, tag = "1")]
    pub(super) at: u64,
    #[prost(uint64, tag = "2")]
    pub(super) connection: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ConnectFailed {
    #[prost(uint64, tag = "1")]
    pub(super) at: u64,
    #[prost(uint64, tag = "2")]
    pub(super) cgroup: u64,
    #[prost(message, optional, tag = "3")]
    pub(super) remote: Option<Address>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct CgroupSample {
    #[prost(uint64, tag = "1")]
    pub(super) at: u64,
    #[prost(uint64, tag = "2")]
    pub(super) cgroup: u64,
    #[prost(uint64, optional, tag = "3")]
    pub(super) cpu_usage: Option<u64>,
    #[prost(uint64, optional, tag = "4")]
    pub(super) cpu_throttled: Option<u64>,
    #[prost(double, optional, tag = "5")]
    pub(super) cpu_limit: Option<f64>,
    #[prost(uint64, optional, tag = "6")]
    pub(super) cpu_pressure: Option<u64>,
    #[prost(uint64, optional, tag = "7")]
    pub(super) memory: Option<u64>,
    #[prost(uint64, optional, tag = "8")]
    pub(super) memory_limit: Option<u64>,
    #[prost(uint64, optional, tag = "9")]
    pub(super) oom_kills: Option<u64>,
    #[prost(uint64, optional, tag = "10")]
    pub(super) unix_connections: Option<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct CgroupIdentity {
    #[prost(uint64, tag = "1")]
    pub(super) at: u64,
    #[prost(uint64, tag = "2")]
    pub(super) cgroup: u64,
    #[prost(uint32, tag = "3")]
    pub(super) path: u32,
    #[prost(uint32, optional, tag = "4")]
    pub(super) configured: Option<u32>,
    #[prost(message, optional, tag = "5")]
    pub(super) workload: Option<Workload>,
    #[prost(uint32, optional, tag = "6")]
    pub(super) container: Option<u32>,
    #[prost(uint32, optional, tag = "7")]
    pub(super) process: Option<u32>,
    #[prost(bool, tag = "8")]
    pub(super) gone: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Workload {
    #[prost(uint32, tag = "1")]
    pub(super) namespace: u32,
    #[prost(uint32, tag = "2")]
    pub(super) name: u32,
    #[prost(uint32, tag = "3")]
    pub(super) pod: u32,
    #[prost(uint32, tag = "4")]
    pub(super) container: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Loss {
    #[prost(uint64, tag = "1")]
    pub(super) at: u64,
    #[prost(uint32, tag = "2")]
    pub(super) reason: u32,
    #[prost(uint64, tag = "3")]
    pub(super) count: u64,
    #[prost(uint64, optional, tag = "4")]
    pub(super) connection: Option<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Missing {
    #[prost(uint64, tag = "1")]
    pub(super) at: u64,
    #[prost(uint32, tag = "2")]
    pub(super) part: u32,
    #[prost(uint32, tag = "3")]
    pub(super) reason: u32,
    #[prost(uint32, tag = "4")]
    pub(super) fix: u32,
}
