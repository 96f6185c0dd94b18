//! What each process is told: the JSON that every stack's generic service and the load generator read, and the
//! lines that change a service's behaviour later. The contract is in `bench/stacks/README.md`; specs are made from
//! a topology in `run::specs`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use crate::topology::{BackendKind, Breaker, Cache, DataOperation, MethodKind, Retries};
use crate::topology::{Pattern, Scenario};

/// Everything a service process needs to know to serve, call and record.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// The service's name.
    pub service: String,
    /// Which of its replicas this process is.
    #[serde(default)]
    pub replica: u32,
    /// Where to listen, `127.0.0.1:port`.
    pub listen: String,
    /// The file of served calls, one JSON object a line.
    pub truth: PathBuf,
    /// The file of calls made, one JSON object a line.
    pub sent: PathBuf,
    /// Seed of this process.
    pub seed: u64,
    /// Redis and PostgreSQL servers by name.
    #[serde(default)]
    pub backends: BTreeMap<String, Backend>,
    /// Services that this one calls.
    #[serde(default)]
    pub peers: BTreeMap<String, Peer>,
    /// Methods by wire path.
    pub methods: BTreeMap<String, MethodSpec>,
}

/// A server of data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// What it speaks.
    pub kind: BackendKind,
    /// Where it listens.
    pub address: String,
}

/// A service to call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Where its replicas listen; calls go round-robin over them.
    pub addresses: Vec<String>,
    /// The `:authority` to send, such as `cartservice:7070`.
    pub authority: String,
    /// HTTP/2 connections to each address.
    #[serde(default = "one")]
    pub connections: u32,
    /// The circuit breaker in front of it, if any.
    #[serde(default)]
    pub breaker: Option<Breaker>,
}

/// One method's cost, answers and calls.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct MethodSpec {
    /// How many messages go which way.
    pub kind: MethodKind,
    /// Encoded messages; the n-th answer message of the process is the n-th of them, from the start again at the end.
    #[serde(with = "messages")]
    pub responses: Vec<Bytes>,
    /// How many a server or bidi stream sends.
    pub response_messages: u32,
    /// Time between two messages of a stream, milliseconds.
    pub gap_ms: f64,
    /// Processor time of one call, microseconds.
    pub cpu_us: u32,
    /// Time slept, milliseconds, times a draw from 0.7 to 1.3.
    pub sleep_ms: f64,
    /// Memory allocated, touched and freed, bytes.
    pub allocate_bytes: u32,
    /// Answers that are kept in memory.
    pub cache: Option<Cache>,
    /// Operations on backends, before the calls, in order.
    pub data: Vec<DataSpec>,
    /// Calls at once instead of one after the other.
    pub parallel: bool,
    /// Calls to other services.
    pub calls: Vec<CallSpec>,
}

impl Default for MethodSpec {
    fn default() -> Self {
        Self {
            kind: MethodKind::Unary,
            responses: Vec::new(),
            response_messages: 1,
            gap_ms: 0.0,
            cpu_us: 0,
            sleep_ms: 0.0,
            allocate_bytes: 0,
            cache: None,
            data: Vec::new(),
            parallel: false,
            calls: Vec::new(),
        }
    }
}

/// One operation on a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataSpec {
    /// Which backend.
    pub backend: String,
    /// Read or write.
    pub operation: DataOperation,
    /// Size of the value that is written, bytes.
    #[serde(default)]
    pub bytes: u32,
    /// Keys are drawn from this many.
    #[serde(default = "one")]
    pub keys: u32,
}

/// One outgoing call; repeats are written out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CallSpec {
    /// Whom.
    pub peer: String,
    /// The wire path.
    pub path: String,
    /// How many messages go which way.
    #[serde(default)]
    pub kind: MethodKind,
    /// Encoded messages, taken in turn.
    #[serde(default, with = "messages")]
    pub requests: Vec<Bytes>,
    /// How many a client or bidi stream sends.
    #[serde(default = "one")]
    pub request_messages: u32,
    /// Time between two of them, milliseconds.
    #[serde(default)]
    pub gap_ms: f64,
    /// Time for all attempts, milliseconds; 0 is no deadline.
    #[serde(default)]
    pub deadline_ms: u32,
    /// Its failure does not fail the caller's method.
    #[serde(default)]
    pub optional: bool,
    /// When it is tried again.
    #[serde(default)]
    pub retries: Option<Retries>,
}

/// How a service misbehaves now, and where others are. One such object a line on its standard input replaces the
/// one before; the default is a healthy service. Standard input, not gRPC, so that commands never show up in
/// captured traffic.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Behaviour {
    /// What happens to calls, each tried on each call in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub effects: Vec<Effect>,
    /// Memory that grows and is touched, bytes a second; 0 frees it.
    pub leak_bytes_per_second: u64,
    /// Where the growth stops, bytes.
    pub leak_limit_bytes: u64,
    /// How often a call walks all leaked memory (one byte of each page); walks take half of the time at most.
    pub leak_walks: u32,
    /// Threads of the process that only use the processor.
    pub spin_threads: u32,
    /// TCP connections opened to the first backend, else the first peer, and never closed; 0 closes them.
    pub leak_connections_per_second: u32,
    /// Peers whose calls fail at once.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub open_circuits: BTreeSet<String>,
    /// Where peers are now, instead of the spec's addresses.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub addresses: BTreeMap<String, Vec<String>>,
    /// Peers that do not exist yet; calls to them are left out.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub absent: BTreeSet<String>,
}

impl Behaviour {
    /// Both at once.
    pub fn join(&mut self, other: Self) {
        self.effects.extend(other.effects);
        self.leak_bytes_per_second += other.leak_bytes_per_second;
        self.leak_limit_bytes = self.leak_limit_bytes.max(other.leak_limit_bytes);
        self.leak_walks = self.leak_walks.max(other.leak_walks);
        self.spin_threads += other.spin_threads;
        self.leak_connections_per_second += other.leak_connections_per_second;
        self.open_circuits.extend(other.open_circuits);
        self.addresses.extend(other.addresses);
        self.absent.extend(other.absent);
    }
}

/// Something that happens to calls of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Effect {
    /// The wire path; none is every method.
    pub method: Option<String>,
    /// Share of those calls.
    pub fraction: f64,
    /// Time waited, milliseconds.
    pub delay_ms: f64,
    /// More time, milliseconds, times a draw from the exponential distribution with mean 1.
    pub jitter_ms: f64,
    /// Waits for the one lock of the process and holds it so long, milliseconds.
    pub lock_ms: f64,
    /// More calls than this at work fail with `status`; 0 is no limit.
    pub max_in_flight: u32,
    /// The gRPC status number that the call fails with; 0 is none.
    pub status: i32,
    /// A stream first sends half of its messages.
    pub cut: bool,
}

impl Default for Effect {
    fn default() -> Self {
        Self {
            method: None,
            fraction: 1.0,
            delay_ms: 0.0,
            jitter_ms: 0.0,
            lock_ms: 0.0,
            max_in_flight: 0,
            status: 0,
            cut: false,
        }
    }
}

/// What the load generator is told.
#[derive(Debug, Serialize, Deserialize)]
pub struct LoadSpec {
    /// The entry service's name.
    pub entry: String,
    /// Where it listens.
    pub peer: Peer,
    /// What users do; steps are names of `calls`.
    pub scenarios: Vec<Scenario>,
    /// The entry service's methods by name.
    pub calls: BTreeMap<String, CallSpec>,
    /// Mean requests a second.
    pub requests_per_second: f64,
    /// How the rate moves.
    pub pattern: Pattern,
    /// Seed of arrivals and users.
    pub seed: u64,
    /// Where truth goes.
    pub truth: PathBuf,
}

const fn one() -> u32 {
    1
}

/// Encoded messages as base64 strings.
mod messages {
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(messages: &[Bytes], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(messages.iter().map(|message| BASE64_STANDARD.encode(message)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Bytes>, D::Error> {
        let decode = |text: String| BASE64_STANDARD.decode(text).map(Bytes::from).map_err(D::Error::custom);
        Vec::<String>::deserialize(from)?.into_iter().map(decode).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]
    use super::*;

    #[test]
    fn what_is_left_out_has_the_contract_s_default() {
        let spec = r#"{"service":"a","listen":"127.0.0.1:1","truth":"t","sent":"s","seed":7,"unknown":1,
            "peers":{"b":{"addresses":["127.0.0.1:2"],"authority":"b:80"}},
            "methods":{"/p.A/Do":{"responses":["CgF4"],"calls":[{"peer":"b","path":"/p.B/Do"}]}}}"#;
        let spec: ServiceSpec = serde_json::from_str(spec).unwrap();
        let method = &spec.methods["/p.A/Do"];
        assert_eq!((spec.replica, method.kind, method.response_messages), (0, MethodKind::Unary, 1));
        assert_eq!(method.responses, [Bytes::from_static(b"\x0a\x01x")]);
        assert_eq!((method.calls[0].request_messages, method.calls[0].deadline_ms), (1, 0));
        assert_eq!((spec.peers["b"].connections, spec.peers["b"].breaker), (1, None));
        assert_eq!(serde_json::from_str::<Behaviour>("{}").unwrap(), Behaviour::default());
        let effect: Effect = serde_json::from_str(r#"{"status":14}"#).unwrap();
        assert!((effect.fraction - 1.0).abs() < 1e-9 && effect.method.is_none());
    }
}
