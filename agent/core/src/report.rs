//! What the agent says at the end of each step: one versioned value that HTTP serves as JSON, `top` draws,
//! metrics count and a replay repeats. Made by [`crate::pipeline`]; this file is its contract.
//!
//! A number that was not measured is `null`, never zero.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The version of this contract; a reader refuses a report whose version it does not know.
pub const VERSION: u32 = 1;

/// The state of the watched system at the end of one step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`VERSION`].
    pub version: u32,
    /// End of the step, seconds since the Unix epoch.
    pub at: f64,
    /// Length of a step in seconds.
    pub step_seconds: f64,
    /// The node's name.
    pub node: String,
    /// Warming up, normal, or an incident.
    pub state: State,
    /// Steps of baseline gathered so far, and needed before the agent may page.
    pub baseline: Baseline,
    /// Every service, by name.
    pub services: Vec<ServiceReport>,
    /// Every edge with traffic lately, by caller and callee.
    pub edges: Vec<EdgeReport>,
    /// The open incident.
    pub incident: Option<Incident>,
    /// Incidents that closed, newest first, a bounded number.
    pub past_incidents: Vec<Incident>,
    /// Suspects as of this step, best first, whether or not there is an incident.
    pub ranking: Vec<Suspect>,
    /// What was seen and what was not.
    pub coverage: Coverage,
    /// Parts that the agent works without.
    pub missing: Vec<MissingPart>,
    /// SHA-256 of the model in use.
    pub model: Option<String>,
}

/// The state of the watched system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Not enough baseline to judge: no pages.
    #[default]
    WarmingUp,
    /// Nothing to page for.
    Normal,
    /// An incident is open.
    Incident,
}

/// Steps of baseline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline {
    /// Gathered.
    pub steps: u64,
    /// Needed.
    pub needed: u64,
}

/// One service over the last step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceReport {
    /// Its name.
    pub name: String,
    /// Kubernetes namespace.
    pub namespace: Option<String>,
    /// What it is.
    pub kind: ServiceKind,
    /// Its state.
    pub state: ServiceState,
    /// How its encrypted connections are seen.
    pub seen_through: Option<String>,
    /// Why it is masked out of scoring.
    pub masked: Option<String>,
    /// What was seen of it; `None` for one that is not on this node.
    pub seen: Option<SeenReport>,
    /// What flow control and streams did; `None` without HTTP/2 in the step.
    pub flow: Option<FlowReport>,
    /// Calls served, 1/s.
    pub call_rate: Option<f64>,
    /// Failed share of the calls served.
    pub error_ratio: Option<f64>,
    /// Server-side latency, ms.
    pub latency_p50_ms: Option<f64>,
    /// Server-side latency, ms.
    pub latency_p95_ms: Option<f64>,
    /// Server-side latency, ms.
    pub latency_p99_ms: Option<f64>,
    /// Mean latency less what callees took, ms.
    pub self_time_ms: Option<f64>,
    /// Calls not ended.
    pub in_flight: Option<f64>,
    /// Thousandths of a core.
    pub cpu_millicores: Option<f64>,
    /// Bytes.
    pub memory_bytes: Option<f64>,
    /// Reconstruction error of the autoencoder.
    pub score: Option<f64>,
    /// Calibrated: the share of normal steps that look at least as unusual.
    pub p_value: Option<f64>,
    /// p95 latency (p50 where there are too few calls) of the last steps, oldest first, ms.
    pub trend: Vec<Option<f64>>,
    /// Calls served since the agent started.
    pub calls_total: u64,
    /// Calls made since the agent started.
    pub calls_made_total: u64,
}

/// What was seen of one service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SeenReport {
    /// The seen share lately, 0..1: of its bytes, times that of its records; `None` where it was silent.
    pub ratio: Option<f64>,
    /// Payload bytes since the agent started, by what became of them ([`crate::coverage::Fate::name`]).
    pub bytes: BTreeMap<String, u64>,
    /// Losses on its connections since the agent started.
    pub lost: u64,
    /// Connections over unix sockets that it serves; `None` where nobody could look.
    pub unix_connections: Option<u64>,
}

/// What flow control and streams did to one service in the last step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FlowReport {
    /// gRPC messages sent, 1/s, of calls that ended or not.
    pub messages_sent_rate: f64,
    /// The same, received.
    pub messages_received_rate: f64,
    /// Median duration of the streams that it served and that ended, ms.
    pub stream_p50_ms: Option<f64>,
    /// The 95th percentile, ms.
    pub stream_p95_ms: Option<f64>,
    /// Time for which it had something under way and no window to send it in, summed over the connections whose
    /// windows are known, ms; `None` if none are.
    pub stalled_sending_ms: Option<f64>,
    /// The same for its remote ends: they wait for this service to take what they sent.
    pub stalled_receiving_ms: Option<f64>,
    /// Connections whose windows are not known: older than the agent, or bytes of them were lost.
    pub unknown_windows: u64,
    /// The lowest limit on open streams that a server gives it.
    pub max_streams: Option<u32>,
    /// How often its open streams on one connection became that many.
    pub limit_reached: u64,
    /// RST_STREAM frames: `sent CANCEL` to how many.
    pub resets: BTreeMap<String, u64>,
    /// GOAWAY frames, likewise.
    pub goaways: BTreeMap<String, u64>,
}

/// What a service is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceKind {
    /// Serves gRPC on this node.
    #[default]
    Grpc,
    /// On this node, but speaks no gRPC.
    Tcp,
    /// Not on this node.
    External,
}

/// A service's state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceState {
    /// Not enough baseline.
    #[default]
    WarmingUp,
    /// As usual.
    Normal,
    /// Unusual.
    Suspect,
    /// Not fully seen, so not judged.
    Masked,
}

/// One edge over the last step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EdgeReport {
    /// Who calls.
    pub caller: String,
    /// Who is called.
    pub callee: String,
    /// `grpc` or `tcp`.
    pub protocol: String,
    /// Calls (or exchanges) 1/s.
    pub call_rate: Option<f64>,
    /// Failed share.
    pub error_ratio: Option<f64>,
    /// As the client saw it, ms.
    pub client_p50_ms: Option<f64>,
    /// As the client saw it, ms.
    pub client_p95_ms: Option<f64>,
    /// As the server saw it, ms.
    pub server_p50_ms: Option<f64>,
    /// Client less server, mean, ms.
    pub wire_time_ms: Option<f64>,
    /// Round-trip time, ms.
    pub rtt_ms: Option<f64>,
    /// Share of segments sent again.
    pub retransmit_ratio: Option<f64>,
    /// Calls since the agent started.
    pub calls_total: u64,
}

/// A page: something is wrong, and these are the suspects.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Incident {
    /// 1, 2, 3, ... since the agent started.
    pub id: u64,
    /// Seconds since the Unix epoch.
    pub opened_at: f64,
    /// Seconds since the Unix epoch; `None` while it is open.
    pub closed_at: Option<f64>,
    /// What broke the rule, in words.
    pub reason: String,
    /// Suspects, best first, as of the last step in which it was open.
    pub ranking: Vec<Suspect>,
    /// `1 - second / first` of the suspects' scores: how sure the first place is; not calibrated.
    pub margin: f64,
}

/// A service that may be the cause.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Suspect {
    /// Its name.
    pub service: String,
    /// Blame; comparable within one ranking only.
    pub score: f64,
    /// Why, strongest first.
    pub evidence: Vec<Evidence>,
}

/// One reason to suspect a service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// `self`, `edge`, `resource`, `model`, or `discount` (what callees explain; its weight is negative).
    pub family: String,
    /// The signal, by the name in [`crate::window`].
    pub signal: String,
    /// The other end, for an edge.
    pub peer: Option<String>,
    /// Now.
    pub value: Option<f64>,
    /// As usual.
    pub baseline: Option<f64>,
    /// Its part in the suspect's score.
    pub weight: f64,
    /// In words: `p95 latency 812 ms, usually 14 ms`.
    pub text: String,
}

/// What was seen and what was not.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Coverage {
    /// Open connections by what they carry: `http2`, `http2_in_tls` (its plaintext is seen through libssl),
    /// `tls` (encrypted), `mptcp` (perhaps a part of a stream), `other`, `unknown`.
    pub connections: BTreeMap<String, u64>,
    /// Calls decoded since the agent started, both views.
    pub calls: u64,
    /// Of those: without a known method.
    pub unresolved_methods: u64,
    /// Of those: without a known status.
    pub unknown_status: u64,
    /// Lost since the agent started, by reason ([`crate::event::LossReason::name`]).
    pub lost: BTreeMap<String, u64>,
}

/// A part that the agent works without.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingPart {
    /// Which.
    pub part: String,
    /// Why.
    pub reason: String,
    /// What to do about it.
    pub fix: String,
}
