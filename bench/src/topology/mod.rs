//! A topology file (TOML or JSON) comes in; a checked `Topology` goes out: services with their methods
//! and fan-out, real Redis backends, users and load. `raw` is the file's shape, `check` its rules.
//! Who turns it into processes: `run`. What each process is told: `brief`.

mod check;
mod raw;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// One bad field of a topology file: which file, where in it, and what is wrong.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{file}: {place}: {reason}")]
pub struct Invalid {
    /// The file as the user named it.
    pub file: String,
    /// A line and column, or the path of a field such as `services.cartservice.methods.AddItem`.
    pub place: String,
    /// What is wrong and what would be right.
    pub reason: String,
}

/// A system that can be started: every name in it resolves.
#[derive(Clone, Debug)]
pub struct Topology {
    /// The name of the system.
    pub name: String,
    /// The service that users call.
    pub entry: String,
    /// Services by name.
    pub services: BTreeMap<String, Service>,
    /// Real Redis servers, by name.
    pub redis: Vec<String>,
    /// What users do.
    pub scenarios: Vec<Scenario>,
    /// How many of them there are.
    pub load: Load,
}

/// One service: a real gRPC server process.
#[derive(Clone, Debug)]
pub struct Service {
    /// The language and gRPC library that serve it.
    pub stack: Stack,
    /// The gRPC service name on the wire, such as `hipstershop.CartService`.
    pub grpc: String,
    /// The port in the `:authority` that callers send, as a Kubernetes service would have one.
    pub port: u16,
    /// CPU limit in cores, if any.
    pub cpu_cores: Option<f64>,
    /// Memory limit in MiB, if any.
    pub memory_mib: Option<u64>,
    /// Methods by name.
    pub methods: BTreeMap<String, Method>,
}

/// The gRPC implementations that the playground has a generic service for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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
}

impl Stack {
    /// The stack's name as written in a topology.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::Python => "python",
            Self::Node => "node",
            Self::Go => "go",
        }
    }
}

/// What one unary method costs and whom it calls.
#[derive(Clone, Debug)]
pub struct Method {
    /// Payload of a request, bytes.
    pub request_bytes: u32,
    /// Payload of a response, bytes.
    pub response_bytes: u32,
    /// Processor time of one call's own work, microseconds.
    pub cpu_us: u32,
    /// Time slept in one call, milliseconds.
    pub sleep_ms: f64,
    /// Memory allocated, touched and freed by one call, bytes.
    pub allocate_bytes: u32,
    /// Calls at the same time instead of one after the other.
    pub parallel: bool,
    /// Operations on Redis, before the calls, in order.
    pub redis: Vec<RedisStep>,
    /// Calls to other services.
    pub calls: Vec<CallStep>,
}

/// One Redis command of a method.
#[derive(Clone, Debug)]
pub struct RedisStep {
    /// The instance.
    pub instance: String,
    /// Which command.
    pub operation: RedisOperation,
    /// Size of the value that a SET writes, bytes.
    pub bytes: u32,
    /// Keys are drawn from this many.
    pub keys: u32,
}

/// Redis commands that services use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RedisOperation {
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
    /// Time after which the caller gives up, milliseconds.
    pub deadline_ms: u32,
    /// How many times in a row (or at once, when the method is parallel).
    pub repeat: u32,
    /// A failure does not fail the calling method.
    pub optional: bool,
}

/// A weighted sequence of calls of the entry service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Scenario {
    /// Its name.
    pub name: String,
    /// How often it is chosen against the others.
    pub weight: u32,
    /// Methods of the entry service, in order.
    pub steps: Vec<String>,
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

impl Topology {
    /// Reads and checks a file; JSON when its name ends so, else TOML.
    pub fn read(path: &Path) -> Result<Self, Invalid> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| Invalid {
            file: file.clone(),
            place: "file".into(),
            reason: format!("cannot be read: {error}"),
        })?;
        Self::parse(&file, &text)
    }

    /// The shipped topology.
    pub fn boutique() -> Result<Self, Invalid> {
        Self::parse("online-boutique.toml", include_str!("../../topologies/online-boutique.toml"))
    }

    /// Checks a file's text; `file` names it in errors and tells JSON from TOML.
    pub fn parse(file: &str, text: &str) -> Result<Self, Invalid> {
        check::resolve(file, raw::parse(file, text)?)
    }

    /// The wire path of a method, such as `/hipstershop.CartService/AddItem`.
    pub fn path(&self, service: &str, method: &str) -> String {
        let grpc = self.services.get(service).map_or(service, |found| found.grpc.as_str());
        format!("/{grpc}/{method}")
    }

    /// Caller and callee pairs, Redis instances included, sorted.
    pub fn edges(&self) -> Vec<(String, String)> {
        let mut edges = std::collections::BTreeSet::new();
        for (name, service) in &self.services {
            for method in service.methods.values() {
                edges.extend(method.calls.iter().map(|call| (name.clone(), call.service.clone())));
                edges.extend(method.redis.iter().map(|step| (name.clone(), step.instance.clone())));
            }
        }
        edges.into_iter().collect()
    }

    /// The service that uses a Redis instance, when exactly one does.
    pub fn redis_owner(&self, instance: &str) -> Option<&str> {
        let uses = |service: &Service| {
            service.methods.values().any(|method| method.redis.iter().any(|step| step.instance == instance))
        };
        let mut owners = self.services.iter().filter(|(_, service)| uses(service));
        let first = owners.next()?.0;
        owners.next().is_none().then_some(first)
    }
}
