//! What is kept of services and edges from step to step: how long they are known, how much they said, and
//! what Prometheus counts. [`Folded`] steps flow in; the graph and the report's totals flow out.

use super::fold::{Edge, Folded};
use crate::call::View;
use crate::event::LossReason;
use crate::graph::{EdgeKind, ServiceGraph};
use crate::identity::Services;
use crate::identity::places::Change;
use crate::refused::Refused;
use crate::report::ServiceKind;
use crate::totals::{CallLabels, Totals};
use crate::units::{Nanos, ServiceId, Step};
use std::collections::BTreeMap;

/// An edge without traffic for so long leaves the graph: longer than most jobs' periods, short enough that
/// a service that moved away is not blamed.
const EDGE_LIFE: Nanos = Nanos::from_secs(300);

/// Edges to each service of the bound, on average; those beyond are counted and left out.
const EDGES_PER_SERVICE: usize = 4;

/// What is kept of a service.
#[derive(Clone, Debug, Default)]
pub(super) struct Life {
    /// Steps in which it was there.
    pub(super) steps: u64,
    /// It speaks gRPC.
    pub(super) grpc: bool,
    /// Lately some of it inside TLS.
    pub(super) in_tls: bool,
    /// It lives on this node.
    pub(super) local: bool,
    /// Calls served.
    pub(super) served: u64,
    /// Calls made.
    pub(super) made: u64,
}

/// What is kept of an edge.
#[derive(Clone, Copy, Debug)]
pub(super) struct EdgeLife {
    /// The last step with traffic.
    pub(super) last_traffic: Step,
    /// How it was learned.
    pub(super) kind: EdgeKind,
    /// Calls or exchanges.
    pub(super) calls: u64,
}

/// The books.
#[derive(Debug)]
pub(super) struct Ledger {
    /// By service.
    pub(super) lives: BTreeMap<ServiceId, Life>,
    /// By edge.
    pub(super) edges: BTreeMap<Edge, EdgeLife>,
    /// What Prometheus counts.
    pub(super) totals: Totals,
    step_length: Nanos,
    max_edges: usize,
    /// Edges beyond the bound.
    refused: Refused<Edge>,
}

impl Life {
    /// What the service is.
    pub(super) fn kind(&self) -> ServiceKind {
        match (self.local, self.grpc) {
            (false, _) => ServiceKind::External,
            (true, true) => ServiceKind::Grpc,
            (true, false) => ServiceKind::Tcp,
        }
    }
}

impl Ledger {
    /// Empty books with room for `max_services`.
    pub(super) fn new(step_length: Nanos, max_services: usize) -> Self {
        let max_edges = max_services.saturating_mul(EDGES_PER_SERVICE);
        Self {
            lives: BTreeMap::new(),
            edges: BTreeMap::new(),
            totals: Totals::default(),
            step_length,
            max_edges,
            refused: Refused::new(max_edges),
        }
    }

    /// Follows a service to its new name.
    pub(super) fn change(&mut self, change: &Change) {
        self.totals.rename(&change.old, &change.new);
        if change.from == change.to {
            return;
        }
        if let Some(old) = self.lives.remove(&change.from) {
            let life = self.lives.entry(change.to).or_default();
            life.steps = life.steps.max(old.steps);
            life.grpc |= old.grpc;
            life.in_tls |= old.in_tls;
            life.local |= old.local;
            life.served += old.served;
            life.made += old.made;
        }
        let renamed = |service: ServiceId| if service == change.from { change.to } else { service };
        for ((caller, callee), old) in std::mem::take(&mut self.edges) {
            let (caller, callee) = (renamed(caller), renamed(callee));
            if caller == callee {
                continue;
            }
            self.edges
                .entry((caller, callee))
                .and_modify(|edge| {
                    edge.last_traffic = edge.last_traffic.max(old.last_traffic);
                    edge.calls += old.calls;
                })
                .or_insert(old);
        }
    }

    /// Books a step. Edges beyond the bound leave `folded`.
    pub(super) fn book(
        &mut self,
        folded: &mut Folded,
        step: Step,
        services: &Services,
        lost: &mut BTreeMap<LossReason, u64>,
    ) {
        for (id, service) in &folded.services {
            let life = self.lives.entry(*id).or_default();
            life.steps += 1;
            life.local |= service.local;
            life.grpc |= service.served.http2 + service.calling.http2 > 0;
            life.in_tls = service.served.in_tls + service.calling.in_tls > 0;
            life.served += service.server.count;
            life.made += service.made.count;
        }
        self.expire_edges(step);
        self.book_edges(folded, step, services, lost);
        self.book_series(folded, services, lost);
        self.book_resources(folded, services);
        self.book_sight(folded, services);
    }

    /// The edges with traffic lately.
    pub(super) fn graph(&self) -> ServiceGraph {
        let mut graph = ServiceGraph::new();
        for ((caller, callee), edge) in &self.edges {
            graph.add_edge(*caller, *callee, edge.kind);
        }
        graph
    }

    /// Drops what is kept of a service.
    pub(super) fn forget(&mut self, service: ServiceId, name: &std::sync::Arc<str>) {
        self.lives.remove(&service);
        self.edges.retain(|(caller, callee), _| *caller != service && *callee != service);
        self.totals.forget(name);
    }

    fn expire_edges(&mut self, step: Step) {
        let life = EDGE_LIFE.0.div_ceil(self.step_length.0.max(1));
        self.edges.retain(|_, edge| edge.last_traffic.0 + life > step.0);
    }

    fn book_edges(
        &mut self,
        folded: &mut Folded,
        step: Step,
        services: &Services,
        lost: &mut BTreeMap<LossReason, u64>,
    ) {
        let (edges, max_edges, totals) = (&mut self.edges, self.max_edges, &mut self.totals);
        let refused = &mut self.refused;
        folded.edges.retain(|key, sums| {
            if !edges.contains_key(key) {
                if !sums.traffic {
                    return false;
                }
                if edges.len() >= max_edges {
                    *lost.entry(LossReason::ServiceOverflow).or_default() += u64::from(refused.refuse(*key));
                    return false;
                }
                refused.admit(key);
            }
            let kind = if sums.grpc { EdgeKind::Grpc } else { EdgeKind::Tcp };
            let edge = edges.entry(*key).or_insert(EdgeLife { last_traffic: step, kind, calls: 0 });
            if sums.traffic {
                edge.last_traffic = step;
            }
            if sums.grpc {
                edge.kind = EdgeKind::Grpc;
                edge.calls += if sums.client_seen { sums.client.count } else { sums.server.count };
                return true;
            }
            edge.calls += sums.exchanges;
            let tcp = totals.tcp_edge(services.text(key.0), services.text(key.1));
            tcp.exchanges += sums.exchanges;
            tcp.seconds += sums.exchange_time.as_secs_f64();
            tcp.failed_connects += sums.failed_connects;
            tcp.retransmits += sums.transport.retransmits;
            true
        });
    }

    fn book_series(
        &mut self,
        folded: &mut Folded,
        services: &Services,
        lost: &mut BTreeMap<LossReason, u64>,
    ) {
        if folded.nameless > 0 {
            *lost.entry(LossReason::MethodOverflow).or_default() += folded.nameless;
        }
        for ((caller, callee), series, calls) in std::mem::take(&mut folded.series) {
            let is_server = series.view == View::Server;
            let (own, peer) = if is_server { (callee, caller) } else { (caller, callee) };
            let labels = CallLabels {
                service: services.text(own),
                peer: services.text(peer),
                method: series.method,
                status: series.status,
                failed: series.failed,
            };
            let nameless = self.totals.add_calls(is_server, labels, &calls);
            if nameless > 0 {
                *lost.entry(LossReason::MethodOverflow).or_default() += nameless;
            }
        }
    }

    fn book_sight(&mut self, folded: &Folded, services: &Services) {
        for (id, service) in folded.services.iter().filter(|(_, service)| service.local) {
            let seen = self.totals.seen.entry(services.text(*id)).or_default();
            seen.bytes.merge(1.0, &service.served.bytes);
            seen.bytes.merge(1.0, &service.calling.bytes);
            seen.lost += service.lost;
            let unix = service.cgroups.iter().filter_map(|cgroup| cgroup.unix_connections);
            seen.unix_connections = unix.reduce(|sum, count| sum + count);
            if service.flow.told() {
                let flow = self.totals.flow.entry(services.text(*id)).or_default();
                flow.sums.merge(&service.flow);
                flow.streams.merge(&service.ended_streams.histogram);
            }
        }
    }

    fn book_resources(&mut self, folded: &Folded, services: &Services) {
        for (id, service) in folded.services.iter().filter(|(_, service)| !service.cgroups.is_empty()) {
            let resources = self.totals.resources.entry(services.text(*id)).or_default();
            let mut memory = None;
            for cgroup in &service.cgroups {
                add(&mut resources.cpu_seconds, cgroup.cpu.map(Nanos::as_secs_f64));
                add(&mut resources.throttled_seconds, cgroup.throttled.map(Nanos::as_secs_f64));
                add(&mut memory, cgroup.memory.map(|bytes| bytes as f64));
                if let Some(kills) = cgroup.oom_kills {
                    resources.oom_kills = Some(resources.oom_kills.unwrap_or(0) + kills);
                }
            }
            resources.memory_bytes = memory;
        }
    }
}

fn add(sum: &mut Option<f64>, value: Option<f64>) {
    if let Some(value) = value {
        *sum = Some(sum.unwrap_or(0.0) + value);
    }
}
