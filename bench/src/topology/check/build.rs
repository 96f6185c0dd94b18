//! Turns a file that keeps the rules into a topology: defaults that depend on other fields, names split.

use super::super::raw::{self, DataStep as RawData, FanOut, Named};
use super::super::{CallStep, DataStep, Load, Method, PeerSettings, Retries, Scenario, Service, Topology};
use crate::messages::Schema;
use crate::status::code_number;

/// A stream whose length is not given has so many messages.
const STREAM_MESSAGES: u32 = 5;

pub(super) fn topology(raw: raw::File, schema: Option<Schema>) -> Topology {
    let scenarios = raw.users.0.into_iter().map(|(name, user)| Scenario {
        name,
        weight: user.weight,
        steps: user.steps,
        think_ms: user.think_ms,
    });
    Topology {
        name: raw.name,
        entry: raw.entry,
        services: raw.services.0.into_iter().map(|(name, found)| (name, service(found))).collect(),
        backends: raw.backends.0.into_iter().map(|(name, backend)| (name, backend.kind)).collect(),
        scenarios: scenarios.collect(),
        load: Load {
            requests_per_second: raw.load.requests_per_second,
            pattern: raw.load.pattern,
            deadline_ms: raw.load.deadline_ms,
            pool: raw.load.pool,
        },
        schema,
    }
}

fn service(raw: raw::Service) -> Service {
    let peers = raw
        .peers
        .0
        .into_iter()
        .map(|(name, peer)| (name, PeerSettings { pool: peer.pool, breaker: peer.breaker }));
    Service {
        stack: raw.stack,
        grpc: raw.grpc,
        port: raw.port,
        replicas: raw.replicas,
        cpu_cores: raw.limits.cpu,
        memory_mib: raw.limits.memory_mb,
        peers: peers.collect(),
        methods: methods(raw.methods),
    }
}

fn methods(raw: Named<raw::Method>) -> std::collections::BTreeMap<String, Method> {
    raw.0.into_iter().map(|(name, found)| (name, method(found))).collect()
}

fn method(raw: raw::Method) -> Method {
    let messages =
        |given: Option<u32>, streams: bool| given.unwrap_or(if streams { STREAM_MESSAGES } else { 1 });
    Method {
        kind: raw.kind,
        request_bytes: raw.request_bytes,
        response_bytes: raw.response_bytes,
        request_messages: messages(raw.request_messages, raw.kind.streams_requests()),
        response_messages: messages(raw.response_messages, raw.kind.streams_responses()),
        gap_ms: raw.gap_ms,
        cpu_us: raw.cpu_us,
        sleep_ms: raw.sleep_ms,
        allocate_bytes: raw.allocate_bytes,
        parallel: raw.fan_out == FanOut::Parallel,
        cache: raw.cache,
        data: raw.redis.into_iter().chain(raw.postgres).map(data).collect(),
        calls: raw.calls.into_iter().filter_map(call).collect(),
    }
}

fn data(raw: RawData) -> DataStep {
    DataStep { backend: raw.instance, operation: raw.op, bytes: raw.bytes, keys: raw.keys }
}

fn call(raw: raw::CallStep) -> Option<CallStep> {
    let (service, method) = raw.to.split_once('/')?;
    let retries = raw.retries.map(|retries| Retries {
        attempts: retries.attempts,
        backoff_ms: retries.backoff_ms,
        on: retries.on.iter().filter_map(|status| code_number(status)).collect(),
    });
    Some(CallStep {
        service: service.into(),
        method: method.into(),
        deadline_ms: raw.deadline_ms,
        repeat: raw.repeat,
        optional: raw.optional,
        retries,
    })
}
