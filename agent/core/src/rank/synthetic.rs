//! A small system whose windows follow from its parts, for tests: own times and errors in, what each end
//! would measure out. Seeded noise of a tenth on everything.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests may panic")]

use crate::graph::{EdgeKind, ServiceGraph};
use crate::history::History;
use crate::units::{Nanos, ServiceId, Step};
use crate::window::{EdgeSignal, EdgeWindow, Signal, Window};

pub(crate) const FRONTEND: ServiceId = ServiceId(0);
pub(crate) const CART: ServiceId = ServiceId(1);
pub(crate) const REDIS: ServiceId = ServiceId(2);
pub(crate) const CHECKOUT: ServiceId = ServiceId(3);
pub(crate) const PAYMENT: ServiceId = ServiceId(4);
pub(crate) const SHIPPING: ServiceId = ServiceId(5);
pub(crate) const ADVICE: ServiceId = ServiceId(6);
pub(crate) const CATALOG: ServiceId = ServiceId(7);
const COUNT: usize = 8;

/// Callers come before their callees.
const EDGES: [(ServiceId, ServiceId, EdgeKind); 9] = [
    (FRONTEND, CHECKOUT, EdgeKind::Grpc),
    (FRONTEND, ADVICE, EdgeKind::Grpc),
    (FRONTEND, CART, EdgeKind::Grpc),
    (CHECKOUT, PAYMENT, EdgeKind::Grpc),
    (CHECKOUT, SHIPPING, EdgeKind::Grpc),
    (CHECKOUT, CART, EdgeKind::Grpc),
    (CHECKOUT, CATALOG, EdgeKind::Grpc),
    (ADVICE, CATALOG, EdgeKind::Grpc),
    (CART, REDIS, EdgeKind::Tcp),
];
/// Callees before callers.
const ORDER: [ServiceId; COUNT] = [REDIS, CART, PAYMENT, SHIPPING, CATALOG, ADVICE, CHECKOUT, FRONTEND];

/// What callers of a stopped service wait before they give up, ms.
const DEADLINE_MS: f64 = 1_000.0;

/// The state of one step; tests break it.
#[derive(Clone, Debug)]
pub(crate) struct State {
    /// Requests a second at the front end.
    pub(crate) load: f64,
    /// Own time of a call, ms.
    pub(crate) own_ms: [f64; COUNT],
    /// Own failed share.
    pub(crate) own_errors: [f64; COUNT],
    /// CPU beside the calls, millicores.
    pub(crate) extra_cpu: [f64; COUNT],
    /// Memory, MiB.
    pub(crate) memory: [f64; COUNT],
    /// Added wire time of the edges that end or start at a service, ms.
    pub(crate) wire_ms: [f64; COUNT],
    /// A stopped service, and for how many seconds.
    pub(crate) stopped: Option<(ServiceId, f64)>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            load: 40.0,
            own_ms: [2.0, 1.0, 0.3, 3.0, 2.0, 1.5, 2.0, 1.0],
            own_errors: [0.0; COUNT],
            extra_cpu: [0.0; COUNT],
            memory: [60.0; COUNT],
            wire_ms: [0.0; COUNT],
            stopped: None,
        }
    }
}

/// The system.
pub(crate) struct System {
    pub(crate) history: History,
    pub(crate) graph: ServiceGraph,
    pub(crate) next: Step,
    seed: u64,
}

impl System {
    pub(crate) fn new(seed: u64) -> Self {
        let mut graph = ServiceGraph::new();
        for (caller, callee, kind) in EDGES {
            graph.add_edge(caller, callee, kind);
        }
        let history = History::new(Nanos::from_secs(5), 1000);
        Self { history, graph, next: Step(0), seed: seed.max(1) }
    }

    /// Adds so many steps of one state.
    pub(crate) fn run(&mut self, steps: usize, state: &State) {
        for _ in 0..steps {
            self.step(state);
        }
    }

    pub(crate) fn step(&mut self, state: &State) {
        let at = self.next;
        let stopped = state.stopped.map(|(service, _)| service);
        let mut server_ms = [0.0; COUNT];
        let mut errors = [0.0; COUNT];
        // Waits on a stopped service, and gives up at the deadline.
        let mut stuck = [false; COUNT];
        for service in ORDER {
            let s = service.0 as usize;
            server_ms[s] = state.own_ms[s] * self.noise();
            errors[s] = state.own_errors[s];
            stuck[s] = stopped == Some(service);
            if stuck[s] {
                server_ms[s] = DEADLINE_MS;
                errors[s] = 1.0;
                continue;
            }
            for (_, callee, _) in EDGES.iter().filter(|edge| edge.0 == service) {
                let c = callee.0 as usize;
                server_ms[s] += server_ms[c] + self.wire(state, service, *callee);
                errors[s] = 1.0 - (1.0 - errors[s]) * (1.0 - errors[c]);
                stuck[s] |= stuck[c];
            }
        }
        let rate = state.load * self.noise();
        for (caller, callee, kind) in EDGES {
            let (from, to) = (caller.0 as usize, callee.0 as usize);
            let wire = self.wire(state, caller, callee);
            let client = server_ms[to] + wire;
            let mut window = EdgeWindow::default();
            window.set(EdgeSignal::CallRate, Some(if stopped == Some(caller) { 0.0 } else { rate }));
            window.set(EdgeSignal::ClientMean, Some(client));
            window.set(EdgeSignal::ClientP50, Some(client * 0.9));
            window.set(EdgeSignal::ClientP95, Some(client * 2.0));
            let waits = if stuck[to] { DEADLINE_MS } else { client };
            window.set(EdgeSignal::OldestUnanswered, Some(waits));
            if kind == EdgeKind::Grpc {
                window.set(EdgeSignal::ErrorRatio, Some(errors[to]));
                window.set(EdgeSignal::ServerMean, Some(server_ms[to]));
                window.set(EdgeSignal::ServerP50, Some(server_ms[to] * 0.9));
                window.set(EdgeSignal::ServerP95, Some(server_ms[to] * 2.0));
                window.set(EdgeSignal::WireTime, Some(wire));
            }
            if stopped != Some(caller) || from == to {
                self.history.push_edge(caller, callee, at, window);
            }
        }
        for service in ORDER {
            let s = service.0 as usize;
            let mut window = Window::default();
            let idle = stopped == Some(service);
            let cpu = if idle { 0.0 } else { rate * 2.0 * self.noise() + state.extra_cpu[s] };
            window.set(Signal::CpuMillicores, Some(cpu));
            window.set(Signal::Memory, Some(state.memory[s] * 1_048_576.0));
            if service != REDIS {
                let callees: f64 = EDGES
                    .iter()
                    .filter(|edge| edge.0 == service && !idle)
                    .map(|(_, callee, _)| server_ms[callee.0 as usize] + self.wire(state, service, *callee))
                    .sum();
                let own = if idle { DEADLINE_MS } else { (server_ms[s] - callees).max(0.0) };
                window.set(Signal::CallRate, Some(rate));
                window.set(Signal::ErrorRatio, Some(errors[s]));
                window.set(Signal::LatencyMean, Some(server_ms[s]));
                window.set(Signal::LatencyP50, Some(server_ms[s] * 0.9));
                window.set(Signal::LatencyP95, Some(server_ms[s] * 2.0));
                window.set(Signal::SelfTime, Some(own));
                let waited = state.stopped.map_or(0.0, |(_, seconds)| (seconds * 1e3).min(DEADLINE_MS));
                window.set(Signal::OldestUnanswered, Some(if stuck[s] { waited } else { server_ms[s] }));
            }
            self.history.push(service, at, window);
        }
        self.next = Step(at.0 + 1);
    }

    fn wire(&mut self, state: &State, caller: ServiceId, callee: ServiceId) -> f64 {
        let added = state.wire_ms[caller.0 as usize] + state.wire_ms[callee.0 as usize];
        (0.2 + added) * self.noise()
    }

    /// 0.9 to 1.1 (xorshift).
    fn noise(&mut self) -> f64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        0.9 + 0.2 * (self.seed % 1_000_000) as f64 / 1e6
    }
}
