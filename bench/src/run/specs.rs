//! What each process of a run is told, made from the topology and the run's addresses and folders.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;

use crate::brief::{Backend, CallSpec, DataSpec, LoadSpec, MethodSpec, Peer, ServiceSpec};
use crate::topology::{Method, MethodKind, Pattern, PeerSettings, Scenario, Topology};

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

    /// A service as a caller with such settings for it is told of it.
    fn peer(&self, topology: &Topology, name: &str, settings: PeerSettings) -> Peer {
        let port = topology.services.get(name).map_or(80, |service| service.port);
        Peer {
            addresses: self.addresses.get(name).cloned().unwrap_or_default(),
            authority: format!("{name}:{port}"),
            connections: settings.pool,
            breaker: settings.breaker,
        }
    }
}

/// One process of a service.
pub(super) struct Place<'a> {
    pub(super) service: &'a str,
    pub(super) replica: u32,
    /// Names its files.
    pub(super) process: &'a str,
    /// Where it listens.
    pub(super) address: &'a str,
    /// Makes its seed its own.
    pub(super) index: u64,
}

/// The spec of one replica of a service.
pub(super) fn service_spec(
    topology: &Topology,
    placement: &Placement,
    place: &Place<'_>,
) -> Option<ServiceSpec> {
    let &Place { service: name, replica, process, address, index } = place;
    let service = topology.services.get(name)?;
    let mut spec = ServiceSpec {
        service: name.into(),
        replica,
        listen: address.into(),
        truth: placement.out.join("truth").join(format!("{process}.jsonl")),
        sent: placement.out.join("sent").join(format!("{process}.jsonl")),
        seed: placement.seed.wrapping_mul(1_000).wrapping_add(index),
        backends: BTreeMap::new(),
        peers: BTreeMap::new(),
        methods: BTreeMap::new(),
    };
    for (method_name, method) in &service.methods {
        for step in &method.data {
            let kind = *topology.backends.get(&step.backend)?;
            let address = placement.address(&step.backend, 0)?.to_owned();
            spec.backends.insert(step.backend.clone(), Backend { kind, address });
        }
        for call in &method.calls {
            let settings = service.peers.get(&call.service).copied().unwrap_or_default();
            spec.peers.insert(call.service.clone(), placement.peer(topology, &call.service, settings));
        }
        spec.methods
            .insert(topology.path(name, method_name), method_spec(topology, (name, method_name), method)?);
    }
    spec.methods.insert(refused_path(topology, name), MethodSpec::default());
    Some(spec)
}

/// A method that every service has and no topology calls: requests to it are refused when a bad client comes.
pub(crate) fn refused_path(topology: &Topology, service: &str) -> String {
    topology.path(service, "ReadLegacy")
}

fn method_spec(topology: &Topology, at: (&str, &str), method: &Method) -> Option<MethodSpec> {
    let mut calls = Vec::new();
    for call in &method.calls {
        let one = CallSpec {
            optional: call.optional,
            retries: call.retries.clone(),
            ..call_spec(topology, &call.service, &call.method, call.deadline_ms)?
        };
        calls.extend(std::iter::repeat_n(one, call.repeat as usize));
    }
    let data = method.data.iter().map(|step| DataSpec {
        backend: step.backend.clone(),
        operation: step.operation,
        bytes: step.bytes,
        keys: step.keys,
    });
    Some(MethodSpec {
        kind: method.kind,
        responses: topology.samples(at.0, at.1).1.into_iter().map(Bytes::from).collect(),
        response_messages: method.response_messages,
        gap_ms: method.gap_ms,
        cpu_us: method.cpu_us,
        sleep_ms: method.sleep_ms,
        allocate_bytes: method.allocate_bytes,
        cache: method.cache,
        data: data.collect(),
        parallel: method.parallel,
        calls,
    })
}

/// A call of a method, as every caller of it makes it.
fn call_spec(topology: &Topology, service: &str, name: &str, deadline_ms: u32) -> Option<CallSpec> {
    let method = topology.method(service, name)?;
    Some(CallSpec {
        peer: service.into(),
        path: topology.path(service, name),
        kind: method.kind,
        requests: topology.samples(service, name).0.into_iter().map(Bytes::from).collect(),
        request_messages: method.request_messages,
        gap_ms: method.gap_ms,
        deadline_ms,
        optional: false,
        retries: None,
    })
}

/// What the load generator, whose files are named by `process`, is told.
pub(super) fn load_spec(topology: &Topology, placement: &Placement, process: &str) -> LoadSpec {
    let entry = &topology.entry;
    let methods = topology.services.get(entry).map(|service| &service.methods);
    let call =
        |name: &String| Some((name.clone(), call_spec(topology, entry, name, topology.load.deadline_ms)?));
    let settings = PeerSettings { pool: topology.load.pool, breaker: None };
    LoadSpec {
        entry: entry.clone(),
        peer: placement.peer(topology, entry, settings),
        scenarios: topology.scenarios.clone(),
        calls: methods.into_iter().flat_map(|methods| methods.keys()).filter_map(call).collect(),
        requests_per_second: topology.load.requests_per_second,
        pattern: topology.load.pattern,
        seed: placement.seed,
        truth: placement.out.join("truth").join(format!("{process}.jsonl")),
    }
}

/// What a client is told whose requests a service refuses.
pub(super) fn bad_client_spec(
    topology: &Topology,
    placement: &Placement,
    service: &str,
    process: &str,
    rate: f64,
) -> LoadSpec {
    let call = CallSpec {
        peer: service.into(),
        path: refused_path(topology, service),
        kind: MethodKind::Unary,
        requests: vec![Bytes::from_static(b"\x0a\x06legacy")],
        request_messages: 1,
        gap_ms: 0.0,
        deadline_ms: topology.load.deadline_ms,
        optional: false,
        retries: None,
    };
    let step = "read".to_owned();
    LoadSpec {
        entry: service.into(),
        peer: placement.peer(topology, service, PeerSettings::default()),
        scenarios: vec![Scenario {
            name: process.into(),
            weight: 1,
            steps: vec![step.clone()],
            think_ms: 1_000,
        }],
        calls: [(step, call)].into(),
        requests_per_second: rate,
        pattern: Pattern::Steady,
        seed: placement.seed,
        truth: placement.out.join("truth").join(format!("{process}.jsonl")),
    }
}
