//! What a checked topology consists of: services, what their methods cost and whom they call, back ends,
//! users and load. `check` makes it from a file; `run` turns it into processes.

use crate::messages::MethodKind;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One service: one or several real gRPC server processes.
#[derive(Clone, Debug)]
pub struct Service {
    /// The language and gRPC library that serve it.
    pub stack: Stack,
    /// The gRPC service name on the wire, such as `hipstershop.CartService`.
    pub grpc: String,
    /// The port in the `:authority` that callers send, as a Kubernetes service would have one.
    pub port: u16,
    /// Processes that serve it; callers go round-robin over them.
    pub replicas: u32,
    /// CPU limit of each replica in cores, if any.
    pub cpu_cores: Option<f64>,
    /// Memory limit of each replica in MiB, if any.
    pub memory_mib: Option<u64>,
    /// How it talks to services that it calls; one that is not named here has the defaults.
    pub peers: BTreeMap<String, PeerSettings>,
    /// Methods by name.
    pub methods: BTreeMap<String, Method>,
}

/// How one service talks to one that it calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerSettings {
    /// Connections to each replica of the peer.
    pub pool: u32,
    /// When calls to the peer fail at once instead of being tried.
    pub breaker: Option<Breaker>,
}

impl Default for PeerSettings {
    fn default() -> Self {
        Self { pool: 1, breaker: None }
    }
}

/// A circuit breaker: after so many failures in a row, no call for so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Breaker {
    /// Failed calls in a row that open the circuit.
    pub failures: u32,
    /// How long it stays open before one call is let through, milliseconds.
    pub open_ms: u64,
}

/// The gRPC implementations that the playground has a generic service for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Stack {
    /// tonic.
    Rust,
    /// grpcio.
    Python,
    /// grpc-js.
    Node,
    /// grpc-go.
    Go,
    /// grpc-java.
    Java,
    /// gRPC C++.
    Cpp,
}

impl Stack {
    /// Every stack.
    pub const ALL: [Self; 6] = [Self::Rust, Self::Python, Self::Node, Self::Go, Self::Java, Self::Cpp];

    /// The stack's name as written in a topology.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::Python => "python",
            Self::Node => "node",
            Self::Go => "go",
            Self::Java => "java",
            Self::Cpp => "cpp",
        }
    }
}

/// What one method costs and whom it calls.
#[derive(Clone, Debug)]
pub struct Method {
    /// How many messages go each way.
    pub kind: MethodKind,
    /// Size of one request message, bytes.
    pub request_bytes: u32,
    /// Size of one response message, bytes.
    pub response_bytes: u32,
    /// Request messages of one call; 1 unless they stream.
    pub request_messages: u32,
    /// Response messages of one call; 1 unless they stream.
    pub response_messages: u32,
    /// Time between two messages of a stream, either way, milliseconds.
    pub gap_ms: f64,
    /// Processor time of one call's own work, microseconds.
    pub cpu_us: u32,
    /// Time slept in one call, milliseconds.
    pub sleep_ms: f64,
    /// Memory allocated, touched and freed by one call, bytes.
    pub allocate_bytes: u32,
    /// Calls at the same time instead of one after the other.
    pub parallel: bool,
    /// Answers kept in memory: a hit skips the data operations and the calls.
    pub cache: Option<Cache>,
    /// Operations on back ends, before the calls, in order.
    pub data: Vec<DataStep>,
    /// Calls to other services.
    pub calls: Vec<CallStep>,
}

/// A cache in the memory of each replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cache {
    /// Keys are drawn from this many, low ones more often.
    pub keys: u32,
    /// How long an answer is kept, milliseconds.
    pub ttl_ms: u64,
}

/// Real servers that services keep values in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendKind {
    /// A redis-server.
    Redis,
    /// A PostgreSQL server.
    Postgres,
}

impl BackendKind {
    /// The name in topologies and in what services are told.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Postgres => "postgres",
        }
    }
}

/// One operation of a method on a back end.
#[derive(Clone, Debug)]
pub struct DataStep {
    /// The back end.
    pub backend: String,
    /// Which operation.
    pub operation: DataOperation,
    /// Size of the value that a set writes, bytes.
    pub bytes: u32,
    /// Keys are drawn from this many.
    pub keys: u32,
}

/// Operations on back ends that services use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DataOperation {
    /// Read a value.
    Get,
    /// Write a value.
    Set,
}

/// One outgoing call of a method.
#[derive(Clone, Debug)]
pub struct CallStep {
    /// The called service.
    pub service: String,
    /// The called method of it.
    pub method: String,
    /// Time after which the caller gives up, retries included, milliseconds.
    pub deadline_ms: u32,
    /// How many times in a row (or at once, when the method is parallel).
    pub repeat: u32,
    /// A failure does not fail the calling method.
    pub optional: bool,
    /// Whether and when a failed call is made again.
    pub retries: Option<Retries>,
}

/// When a failed call is made again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retries {
    /// Attempts at most, the first one included.
    pub attempts: u32,
    /// The wait before the second attempt; before the third twice that, and so on. Milliseconds.
    pub backoff_ms: u64,
    /// Numbers of the gRPC statuses after which a call is made again.
    pub on: Vec<i32>,
}

/// A kind of user: a weighted session of calls of the entry service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Scenario {
    /// Its name.
    pub name: String,
    /// How often it is chosen against the others.
    pub weight: u32,
    /// Methods of the entry service, in order.
    pub steps: Vec<String>,
    /// Mean time that a user thinks between two steps, milliseconds.
    pub think_ms: u32,
}

/// The users' load.
#[derive(Clone, Debug)]
pub struct Load {
    /// User requests a second, on average.
    pub requests_per_second: f64,
    /// How the rate moves.
    pub pattern: Pattern,
    /// Users give up after this time, milliseconds.
    pub deadline_ms: u32,
    /// The users' connections to each replica of the entry service.
    pub pool: u32,
}

/// Shapes of load over time; each keeps the mean near the given rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Pattern {
    /// Constant rate, random arrivals.
    Steady,
    /// A sine of one minute.
    Wave,
    /// Short peaks of three times the rate.
    Burst,
    /// Low and high halves of two minutes.
    Step,
    /// A new random rate every five seconds.
    Noisy,
}
