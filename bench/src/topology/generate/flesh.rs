//! What the services of a drawn shape are: names, stacks, methods with their costs, kinds and sizes, back
//! ends, retries and breakers, users. Sizes and times are log-normal, as they are almost everywhere.

use std::collections::BTreeSet;

use super::super::{BackendKind, MethodKind, Stack};
use super::Draw;
use super::shape::{Node, Shape};

/// Memory of one machine holds so many processes of the stacks that need much of it.
const MOST_HEAVY: usize = 24;
/// Up to here services are of all stacks alike; above, most are Rust.
const MIXED_SERVICES: usize = 40;
/// Replicas only where there is memory for them.
const REPLICATED_SERVICES: usize = 100;
/// Share of services with two replicas there.
const REPLICATED: f64 = 0.12;
/// Beyond the first few, the entry has one more method for so many services.
const SERVICES_PER_ENTRY_METHOD: usize = 20;
/// Redis and PostgreSQL servers are processes too.
const MOST_BACKENDS: (usize, usize) = (8, 2);

const NOUNS: [&str; 40] = [
    "account",
    "address",
    "audit",
    "basket",
    "booking",
    "catalog",
    "claim",
    "coupon",
    "customer",
    "delivery",
    "device",
    "document",
    "event",
    "feed",
    "fraud",
    "image",
    "inventory",
    "invoice",
    "ledger",
    "loyalty",
    "media",
    "message",
    "notice",
    "offer",
    "order",
    "partner",
    "payment",
    "price",
    "profile",
    "quote",
    "rating",
    "return",
    "review",
    "route",
    "search",
    "session",
    "stock",
    "tax",
    "ticket",
    "vendor",
];
const CALLERS: [&str; 5] = ["service", "api", "flow", "engine", "planner"];
const LEAVES: [&str; 5] = ["store", "lookup", "index", "rules", "archive"];
const VERBS: [&str; 8] = ["Get", "List", "Find", "Put", "Check", "Plan", "Count", "Merge"];
const USERS: [&str; 5] = ["browse", "search", "buy", "manage", "report"];

/// A whole system, ready to be written.
pub(super) struct System {
    pub(super) services: Vec<Drawn>,
    pub(super) backends: Vec<(String, BackendKind)>,
    /// Name, weight, steps, think time in milliseconds.
    pub(super) users: Vec<(&'static str, u32, Vec<String>, u32)>,
    pub(super) requests_per_second: f64,
}

pub(super) struct Drawn {
    pub(super) name: String,
    pub(super) grpc: String,
    pub(super) stack: Stack,
    pub(super) replicas: u32,
    pub(super) cpu: f64,
    /// Callee's name, connections, failures that open the circuit.
    pub(super) peers: Vec<(String, u32, Option<u32>)>,
    pub(super) methods: Vec<DrawnMethod>,
}

#[derive(Default)]
pub(super) struct DrawnMethod {
    pub(super) name: String,
    pub(super) kind: MethodKind,
    pub(super) request_bytes: u32,
    pub(super) response_bytes: u32,
    pub(super) messages: u32,
    pub(super) gap_ms: u32,
    pub(super) cpu_us: u32,
    pub(super) sleep_ms: f64,
    pub(super) allocate_bytes: u32,
    pub(super) parallel: bool,
    pub(super) cached: bool,
    /// Back end, its kind, whether it writes, bytes.
    pub(super) operations: Vec<(String, BackendKind, bool, u32)>,
    pub(super) calls: Vec<DrawnCall>,
}

pub(super) struct DrawnCall {
    pub(super) to: String,
    pub(super) deadline_ms: u32,
    pub(super) optional: bool,
    pub(super) attempts: u32,
}

impl System {
    /// A rate at which two cores serve everything: a few hundred calls a second, more where there are more
    /// services, because each needs some traffic.
    pub(super) fn set_rate(&mut self, services: usize, calls_per_request: f64) {
        let calls = (120.0 + 2.0 * u32::try_from(services).map_or(0.0, f64::from)).min(300.0);
        let rate = (calls / calls_per_request.max(1.0)).clamp(0.5, 50.0);
        self.requests_per_second = (rate * 10.0).round() / 10.0;
    }
}

/// The system of a shape, each service in the stack of its number.
pub(super) fn draw(shape: &Shape, stacks: Vec<Stack>, draw: &mut Draw) -> System {
    let mut taken = BTreeSet::new();
    let mut services: Vec<Drawn> = shape
        .nodes
        .iter()
        .zip(stacks)
        .enumerate()
        .map(|(number, (node, stack))| service(number, node, stack, shape.nodes.len(), &mut taken, draw))
        .collect();
    for (number, node) in shape.nodes.iter().enumerate() {
        for &child in &node.children {
            connect(&mut services, (number, node), child, true, draw);
        }
        for &callee in &node.shared {
            connect(&mut services, (number, node), callee, false, draw);
        }
    }
    let backends = back_ends(&mut services, draw);
    let users = users(&services, draw);
    System { services, backends, users, requests_per_second: 1.0 }
}

/// A stack for each service. Every given stack comes once before any comes by chance.
pub(super) fn stacks(services: usize, given: &[Stack], draw: &mut Draw) -> Vec<Stack> {
    let stacks = if given.is_empty() { Stack::ALL.to_vec() } else { given.to_vec() };
    // In a large system those that need much memory are few.
    let light = stacks.contains(&Stack::Rust) && services > MIXED_SERVICES;
    let mut heavy = 0;
    let mut drawn: Vec<Stack> = Vec::with_capacity(services);
    for number in 0..services {
        let chosen = match stacks.get(number) {
            Some(&first) => first,
            None if light && (heavy >= MOST_HEAVY || draw.chance(0.8)) => Stack::Rust,
            None => stacks.get(draw.below(stacks.len())).copied().unwrap_or(Stack::Rust),
        };
        heavy += usize::from(chosen != Stack::Rust);
        drawn.push(chosen);
    }
    // The entry's stack is drawn too: another one for each seed.
    let swap = draw.below(stacks.len().min(services));
    drawn.swap(0, swap);
    drawn
}

fn service(
    number: usize,
    node: &Node,
    stack: Stack,
    services: usize,
    taken: &mut BTreeSet<String>,
    draw: &mut Draw,
) -> Drawn {
    let name = if number == 0 { "gateway".to_owned() } else { name(node.leaf, taken, draw) };
    let noun = camel(name.split('-').next().unwrap_or_default());
    let count = if number == 0 { entry_methods(services, draw) } else { 1 + draw.weighted(&[0.5, 0.3, 0.2]) };
    let first = draw.below(VERBS.len());
    let verbs = VERBS.iter().cycle().skip(first).take(count).enumerate();
    let named = verbs.map(|(at, verb)| match at / VERBS.len() {
        0 => format!("{verb}{noun}"),
        again => format!("{verb}{noun}{}", again + 1),
    });
    let methods = named.map(|name| method(name, node, draw)).collect();
    let replicas = if services <= REPLICATED_SERVICES && draw.chance(REPLICATED) { 2 } else { 1 };
    let cpu = if number == 0 { 0.6 } else { 0.5 };
    let grpc = format!("mesh.{}", name.split('-').map(camel).collect::<String>());
    Drawn { grpc, name, stack, replicas, cpu, peers: Vec::new(), methods }
}

/// The more services, the more users can ask for: one request reaches a few dozen services at most.
fn entry_methods(services: usize, draw: &mut Draw) -> usize {
    3 + draw.below(3) + services / SERVICES_PER_ENTRY_METHOD
}

fn name(leaf: bool, taken: &mut BTreeSet<String>, draw: &mut Draw) -> String {
    let roles = if leaf { LEAVES } else { CALLERS };
    let pick =
        |from: &[&'static str], draw: &mut Draw| from.get(draw.below(from.len())).copied().unwrap_or("x");
    let plain = format!("{}-{}", pick(&NOUNS, draw), pick(&roles, draw));
    let numbered = (2..).map(|number| format!("{plain}-{number}"));
    let name = std::iter::once(plain.clone()).chain(numbered).find(|name| !taken.contains(name));
    let name = name.unwrap_or(plain);
    taken.insert(name.clone());
    name
}

fn camel(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).collect()
}

fn method(name: String, node: &Node, draw: &mut Draw) -> DrawnMethod {
    let kinds =
        [MethodKind::Unary, MethodKind::ServerStream, MethodKind::ClientStream, MethodKind::BidiStream];
    let kind = kinds.get(draw.weighted(&[0.9, 0.05, 0.025, 0.025])).copied().unwrap_or_default();
    DrawnMethod {
        name,
        kind,
        request_bytes: draw.skewed_whole(120.0, 0.9, 4.0, 20_000.0),
        response_bytes: draw.skewed_whole(400.0, 1.2, 4.0, 60_000.0),
        messages: draw.between(3, 8),
        gap_ms: draw.between(0, 3),
        cpu_us: draw.skewed_whole(80.0, 0.8, 10.0, 1_500.0),
        sleep_ms: if draw.chance(0.3) {
            (draw.skewed(2.0, 0.8, 0.2, 15.0) * 10.0).round() / 10.0
        } else {
            0.0
        },
        allocate_bytes: if draw.chance(0.1) { 65_536 } else { 0 },
        parallel: !node.leaf && draw.chance(0.5),
        cached: !node.leaf && node.layer > 0 && !kind.streams_requests() && draw.chance(0.12),
        operations: Vec::new(),
        calls: Vec::new(),
    }
}

/// Calls from one service to another. A child's methods are each called from somewhere, so that users reach
/// all; of a shared service one method is enough.
fn connect(services: &mut [Drawn], (from, node): (usize, &Node), to: usize, all: bool, draw: &mut Draw) {
    let Some(callee) = services.get(to) else { return };
    let targets: Vec<(String, bool)> = callee
        .methods
        .iter()
        .map(|method| (format!("{}/{}", callee.name, method.name), method.kind.streams_requests()))
        .collect();
    let ends = callee.methods.iter().all(|method| method.calls.is_empty());
    let name = callee.name.clone();
    let one = draw.below(targets.len());
    let Some(caller) = services.get_mut(from) else { return };
    for (number, (target, streams)) in targets.into_iter().enumerate() {
        if !all && number != one {
            continue;
        }
        // The deeper, the less time is left; a machine that is busy still keeps it.
        let call = DrawnCall {
            to: target,
            deadline_ms: 3_500_u32.saturating_sub(500 * node.layer).max(1_000),
            optional: ends && draw.chance(0.15),
            attempts: if !streams && draw.chance(0.2) { draw.between(2, 3) } else { 1 },
        };
        let method = draw.below(caller.methods.len());
        if let Some(method) = caller.methods.get_mut(method) {
            method.calls.push(call);
        }
    }
    let pool = if draw.chance(0.1) { 2 } else { 1 };
    let breaker = draw.chance(0.15).then(|| draw.between(5, 20));
    if pool > 1 || breaker.is_some() {
        caller.peers.push((name, pool, breaker));
    }
}

/// Redis and PostgreSQL at the leaves: about half of the services that call nobody keep something.
fn back_ends(services: &mut [Drawn], draw: &mut Draw) -> Vec<(String, BackendKind)> {
    let redis = (services.len() / 10).clamp(1, MOST_BACKENDS.0);
    let postgres = (services.len() / 15).min(MOST_BACKENDS.1);
    let named = |count, kind: BackendKind| (1..=count).map(move |n| (format!("{}-{n}", kind.name()), kind));
    let all: Vec<_> =
        named(redis, BackendKind::Redis).chain(named(postgres, BackendKind::Postgres)).collect();
    let leaves: Vec<usize> = (0..services.len())
        .rev()
        .filter(|&at| services.get(at).is_some_and(|found| found.methods.iter().all(|m| m.calls.is_empty())))
        .collect();
    let mut used = Vec::new();
    for (number, at) in leaves.into_iter().enumerate() {
        // The first ones give each server someone who uses it.
        let backend = match all.get(number) {
            Some(backend) => backend,
            None if draw.chance(0.55) => match all.get(draw.below(all.len())) {
                Some(backend) => backend,
                None => continue,
            },
            None => continue,
        };
        let Some(service) = services.get_mut(at) else { continue };
        for method in &mut service.methods {
            let writes = draw.chance(0.25);
            method.operations.push((backend.0.clone(), backend.1, false, 0));
            if writes {
                let bytes = draw.skewed_whole(300.0, 0.8, 8.0, 10_000.0);
                method.operations.push((backend.0.clone(), backend.1, true, bytes));
            }
        }
        if !used.contains(backend) {
            used.push(backend.clone());
        }
    }
    used
}

/// Each method of the entry is a step of some users.
fn users(services: &[Drawn], draw: &mut Draw) -> Vec<(&'static str, u32, Vec<String>, u32)> {
    let Some(entry) = services.first() else { return Vec::new() };
    let steps: Vec<String> = entry.methods.iter().map(|method| method.name.clone()).collect();
    let kinds = steps.len().min(USERS.len());
    let mut users: Vec<_> = USERS
        .iter()
        .take(kinds)
        .map(|&name| (name, draw.between(1, 5), Vec::new(), 500 * draw.between(1, 6)))
        .collect();
    for (number, step) in steps.iter().enumerate() {
        if let Some(user) = users.get_mut(number % kinds) {
            user.2.push(step.clone());
        }
    }
    for user in &mut users {
        for _ in 0..draw.between(1, 3) {
            user.2.extend(steps.get(draw.below(steps.len())).cloned());
        }
    }
    users
}
