//! What a topology amounts to, in a few lines: so that its writer sees what they wrote before anything
//! starts.

use std::collections::BTreeMap;
use std::fmt;

use super::{BackendKind, Stack, Topology, graph};

/// The size of a system and of its load, at the topology's own rate.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// The system's name.
    pub name: String,
    /// The service that users call.
    pub entry: String,
    /// Services of each stack.
    pub stacks: Vec<(Stack, usize)>,
    /// Processes: services times replicas.
    pub processes: u32,
    /// Methods of all services.
    pub methods: usize,
    /// Methods that no user reaches, as service/Method.
    pub unreached: Vec<String>,
    /// Back ends of each kind.
    pub backends: [(BackendKind, usize); 2],
    /// Pairs of a caller and what it calls.
    pub edges: usize,
    /// Services one behind the other on the longest way.
    pub depth: u32,
    /// User requests a second.
    pub requests_per_second: f64,
    /// Calls that one user request becomes on average, itself included; caches and retries left out.
    pub calls_per_request: f64,
    /// Operations on back ends that one user request becomes on average.
    pub operations_per_request: f64,
    /// Processor time of the methods' own work for one user request, microseconds.
    pub cpu_us_per_request: f64,
    /// The service that is called most, and its share of all calls.
    pub busiest: (String, f64),
}

impl Topology {
    /// What the topology amounts to.
    pub fn summary(&self) -> Summary {
        let visits = graph::visits(self);
        let cascades = graph::cascades(self).unwrap_or_default();
        let reached = graph::reached(self);
        let mut calls: BTreeMap<&str, f64> = BTreeMap::new();
        let (mut operations, mut cpu_us) = (0.0, 0.0);
        for (&(service, method), &count) in &visits {
            *calls.entry(service).or_default() += count;
            if let Some(method) = self.method(service, method) {
                operations += count * method.data.iter().map(|_| 1.0).sum::<f64>();
                cpu_us += count * f64::from(method.cpu_us);
            }
        }
        let total: f64 = calls.values().sum();
        let busiest = calls.into_iter().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((&self.entry, total));
        let of_stack = |stack| self.services.values().filter(|service| service.stack == stack).count();
        let entry_depth = |(at, cascade): (&graph::At<'_>, &graph::Cascade)| {
            if at.0 == self.entry { cascade.depth } else { 0 }
        };
        Summary {
            name: self.name.clone(),
            entry: self.entry.clone(),
            stacks: Stack::ALL
                .map(|stack| (stack, of_stack(stack)))
                .into_iter()
                .filter(|found| found.1 > 0)
                .collect(),
            processes: self.services.values().map(|service| service.replicas).sum(),
            methods: self.services.values().map(|service| service.methods.len()).sum(),
            unreached: cascades
                .keys()
                .filter(|at| !reached.contains(*at))
                .map(|(service, method)| format!("{service}/{method}"))
                .collect(),
            backends: [BackendKind::Redis, BackendKind::Postgres]
                .map(|kind| (kind, self.backends_of(kind).len())),
            edges: self.edges().len(),
            depth: cascades.iter().map(entry_depth).max().unwrap_or(0),
            requests_per_second: self.load.requests_per_second,
            calls_per_request: total,
            operations_per_request: operations,
            cpu_us_per_request: cpu_us,
            busiest: (busiest.0.into(), busiest.1 / total.max(f64::MIN_POSITIVE)),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let services: usize = self.stacks.iter().map(|(_, count)| count).sum();
        let stacks: Vec<_> =
            self.stacks.iter().map(|(stack, count)| format!("{count} {}", stack.name())).collect();
        let backends: Vec<_> = self
            .backends
            .iter()
            .filter(|(_, count)| *count > 0)
            .map(|(kind, count)| format!("{count} {}", kind.name()))
            .collect();
        let rate = self.requests_per_second;
        writeln!(out, "{}: users call {}", self.name, self.entry)?;
        writeln!(out, "  services   {services} ({}), {} processes", stacks.join(", "), self.processes)?;
        writeln!(
            out,
            "  back ends  {}",
            if backends.is_empty() { "none".into() } else { backends.join(", ") }
        )?;
        writeln!(out, "  methods    {}", self.methods)?;
        writeln!(out, "  edges      {}, at most {} services deep", self.edges, self.depth)?;
        writeln!(
            out,
            "  a request  {:.1} calls and {:.1} operations on back ends on average (caches and retries left out)",
            self.calls_per_request, self.operations_per_request
        )?;
        writeln!(
            out,
            "  load       {rate} requests/s: {:.0} calls/s, {:.0} operations/s, {:.2} cores for the methods' own work",
            rate * self.calls_per_request,
            rate * self.operations_per_request,
            rate * self.cpu_us_per_request / 1e6
        )?;
        write!(out, "  busiest    {}, {:.0} % of all calls", self.busiest.0, self.busiest.1 * 100.0)?;
        if !self.unreached.is_empty() {
            write!(out, "\n  no user reaches {}", self.unreached.join(", "))?;
        }
        Ok(())
    }
}
