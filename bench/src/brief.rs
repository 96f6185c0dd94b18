//! What each process is told: the JSON that every stack's generic service (and the load generator) reads,
//! made from a topology and the run's ports and paths. Commands that change its behaviour later are `Behaviour`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::topology::{Pattern, RedisOperation, Scenario, Topology};

/// Everything a service process needs to know to serve, call and record.
#[derive(Debug, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// The service's name.
    pub service: String,
    /// Where to listen, `127.0.0.1:port`.
    pub listen: String,
    /// The file of served calls, one JSON object a line.
    pub truth: PathBuf,
    /// The file of calls made, one JSON object a line.
    pub sent: PathBuf,
    /// Seed of this process.
    pub seed: u64,
    /// Redis addresses by instance.
    pub redis: BTreeMap<String, String>,
    /// Services that this one calls.
    pub peers: BTreeMap<String, Peer>,
    /// Methods by wire path.
    pub methods: BTreeMap<String, MethodSpec>,
}

/// A service to call.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Peer {
    /// Where it listens.
    pub address: String,
    /// The `:authority` to send, such as `cartservice:7070`.
    pub authority: String,
}

/// One method's cost and calls; units as in `topology::Method`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are those of topology::Method")]
pub struct MethodSpec {
    pub response_bytes: u32,
    pub cpu_us: u32,
    pub sleep_ms: f64,
    pub allocate_bytes: u32,
    pub parallel: bool,
    pub redis: Vec<RedisSpec>,
    pub calls: Vec<CallSpec>,
}

/// One Redis command.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are those of topology::RedisStep")]
pub struct RedisSpec {
    pub instance: String,
    pub operation: RedisOperation,
    pub bytes: u32,
    pub keys: u32,
}

/// One outgoing call; `repeat` is already written out.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are those of topology::CallStep")]
pub struct CallSpec {
    pub peer: String,
    pub path: String,
    pub request_bytes: u32,
    pub deadline_ms: u32,
    pub optional: bool,
}

/// How a service misbehaves now. One such object a line on the service's standard input replaces the
/// one before; the default is a healthy service. Standard input, not gRPC, so that commands never
/// show up in captured traffic.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Behaviour {
    /// Time added to every call, milliseconds.
    pub latency_ms: f64,
    /// Share of calls that fail at once, 0 to 1.
    pub error_fraction: f64,
    /// The gRPC status code of those failures.
    pub error_code: i32,
    /// Memory that grows, bytes a second.
    pub leak_bytes_per_second: u64,
    /// Where the growth stops, bytes.
    pub leak_limit_bytes: u64,
    /// How often a call walks all leaked memory (one byte of each page); walks take half of the time at most.
    pub leak_walks: u32,
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

/// Addresses and folders that a run has chosen.
pub struct Placement {
    /// Ports of services and Redis instances, by name.
    pub ports: BTreeMap<String, u16>,
    /// The run's output folder.
    pub out: PathBuf,
    /// The run's seed.
    pub seed: u64,
}

impl Placement {
    /// `127.0.0.1:port` of a service or Redis instance.
    pub fn address(&self, name: &str) -> String {
        format!("127.0.0.1:{}", self.ports.get(name).copied().unwrap_or_default())
    }

    /// The address and authority of a service.
    pub fn peer(&self, topology: &Topology, name: &str) -> Peer {
        let port = topology.services.get(name).map_or(80, |service| service.port);
        Peer { address: self.address(name), authority: format!("{name}:{port}") }
    }
}

/// The spec of one service; `index` makes its seed its own.
pub fn service_spec(
    topology: &Topology,
    name: &str,
    index: u64,
    placement: &Placement,
) -> Option<ServiceSpec> {
    let service = topology.services.get(name)?;
    let mut redis = BTreeMap::new();
    let mut peers = BTreeMap::new();
    let mut methods = BTreeMap::new();
    for (method_name, method) in &service.methods {
        for step in &method.redis {
            redis.insert(step.instance.clone(), placement.address(&step.instance));
        }
        let mut calls = Vec::new();
        for call in &method.calls {
            peers.insert(call.service.clone(), placement.peer(topology, &call.service));
            let callee = topology.services.get(&call.service);
            let target = callee.and_then(|callee| callee.methods.get(&call.method))?;
            let one = CallSpec {
                peer: call.service.clone(),
                path: topology.path(&call.service, &call.method),
                request_bytes: target.request_bytes,
                deadline_ms: call.deadline_ms,
                optional: call.optional,
            };
            calls.extend(std::iter::repeat_n(one, call.repeat as usize));
        }
        let redis = method.redis.iter().map(|step| RedisSpec {
            instance: step.instance.clone(),
            operation: step.operation,
            bytes: step.bytes,
            keys: step.keys,
        });
        let spec = MethodSpec {
            response_bytes: method.response_bytes,
            cpu_us: method.cpu_us,
            sleep_ms: method.sleep_ms,
            allocate_bytes: method.allocate_bytes,
            parallel: method.parallel,
            redis: redis.collect(),
            calls,
        };
        methods.insert(topology.path(name, method_name), spec);
    }
    Some(ServiceSpec {
        service: name.into(),
        listen: placement.address(name),
        truth: placement.out.join("truth").join(format!("{name}.jsonl")),
        sent: placement.out.join("sent").join(format!("{name}.jsonl")),
        seed: placement.seed.wrapping_mul(1_000).wrapping_add(index),
        redis,
        peers,
        methods,
    })
}
