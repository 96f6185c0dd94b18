//! What each process of a run is told, made from the topology and the run's addresses and folders.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;
use prost::Message;

use crate::brief::{
    Backend, BackendKind, CallKind, CallSpec, DataSpec, LoadSpec, MethodSpec, Operation, Peer, ServiceSpec,
};
use crate::service::Parcel;
use crate::topology::{Method, RedisOperation, Topology};

/// Addresses and folders that a run has chosen.
pub(super) struct Placement {
    /// Where each replica of a service, or a backend, listens.
    pub(super) addresses: BTreeMap<String, Vec<String>>,
    /// The run's output folder.
    pub(super) out: PathBuf,
    /// The run's seed.
    pub(super) seed: u64,
}

impl Placement {
    /// Where a replica of a service, or a backend (replica 0), listens.
    pub(super) fn address(&self, name: &str, replica: u32) -> Option<&str> {
        self.addresses.get(name)?.get(replica as usize).map(String::as_str)
    }

    /// The addresses and authority of a service.
    fn peer(&self, topology: &Topology, name: &str) -> Peer {
        let port = topology.services.get(name).map_or(80, |service| service.port);
        Peer {
            addresses: self.addresses.get(name).cloned().unwrap_or_default(),
            authority: format!("{name}:{port}"),
            connections: 1,
            breaker: None,
        }
    }
}

/// The spec of one replica of a service; `process` names its files, `index` makes its seed its own.
pub(super) fn service_spec(
    topology: &Topology,
    (name, replica): (&str, u32),
    process: &str,
    index: u64,
    placement: &Placement,
) -> Option<ServiceSpec> {
    let service = topology.services.get(name)?;
    let mut spec = ServiceSpec {
        service: name.into(),
        replica,
        listen: placement.address(name, replica)?.into(),
        truth: placement.out.join("truth").join(format!("{process}.jsonl")),
        sent: placement.out.join("sent").join(format!("{process}.jsonl")),
        seed: placement.seed.wrapping_mul(1_000).wrapping_add(index),
        backends: BTreeMap::new(),
        peers: BTreeMap::new(),
        methods: BTreeMap::new(),
    };
    for (method_name, method) in &service.methods {
        for step in &method.redis {
            let address = placement.address(&step.instance, 0)?.to_owned();
            spec.backends.insert(step.instance.clone(), Backend { kind: BackendKind::Redis, address });
        }
        for call in &method.calls {
            spec.peers.insert(call.service.clone(), placement.peer(topology, &call.service));
        }
        spec.methods.insert(topology.path(name, method_name), method_spec(topology, method)?);
    }
    Some(spec)
}

fn method_spec(topology: &Topology, method: &Method) -> Option<MethodSpec> {
    let mut calls = Vec::new();
    for call in &method.calls {
        let target = topology.services.get(&call.service)?.methods.get(&call.method)?;
        let mut one = call_spec(topology, &call.service, &call.method, target, call.deadline_ms);
        one.optional = call.optional;
        calls.extend(std::iter::repeat_n(one, call.repeat as usize));
    }
    let data = method.redis.iter().map(|step| DataSpec {
        backend: step.instance.clone(),
        operation: match step.operation {
            RedisOperation::Get => Operation::Get,
            RedisOperation::Set => Operation::Set,
        },
        bytes: step.bytes,
        keys: step.keys,
    });
    Some(MethodSpec {
        responses: vec![parcel(method.response_bytes)],
        cpu_us: method.cpu_us,
        sleep_ms: method.sleep_ms,
        allocate_bytes: method.allocate_bytes,
        parallel: method.parallel,
        data: data.collect(),
        calls,
        ..MethodSpec::default()
    })
}

fn call_spec(topology: &Topology, service: &str, name: &str, method: &Method, deadline_ms: u32) -> CallSpec {
    CallSpec {
        peer: service.into(),
        path: topology.path(service, name),
        kind: CallKind::Unary,
        requests: vec![parcel(method.request_bytes)],
        request_messages: 1,
        gap_ms: 0.0,
        deadline_ms,
        optional: false,
        retries: None,
    }
}

/// What the load generator, whose files are named by `process`, is told.
pub(super) fn load_spec(topology: &Topology, placement: &Placement, process: &str) -> LoadSpec {
    let entry = &topology.entry;
    let methods = topology.services.get(entry).map(|service| &service.methods);
    let call = |(name, method): (&String, &Method)| {
        (name.clone(), call_spec(topology, entry, name, method, topology.load.deadline_ms))
    };
    LoadSpec {
        entry: entry.clone(),
        peer: placement.peer(topology, entry),
        scenarios: topology.scenarios.clone(),
        calls: methods.into_iter().flatten().map(call).collect(),
        requests_per_second: topology.load.requests_per_second,
        pattern: topology.load.pattern,
        seed: placement.seed,
        truth: placement.out.join("truth").join(format!("{process}.jsonl")),
    }
}

/// A message with so many bytes in its one field.
fn parcel(bytes: u32) -> Bytes {
    Parcel { payload: vec![b'x'; bytes as usize] }.encode_to_vec().into()
}
