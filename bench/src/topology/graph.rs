//! The call graph of a topology: who reaches whom, whether calls end, how deep they go and how many
//! calls one user request becomes. `check` refuses by it what could not run; `summary` shows it.

use std::collections::{BTreeMap, BTreeSet};

use super::Topology;

/// A method of a service.
pub(super) type At<'a> = (&'a str, &'a str);

/// What one call of a method becomes, itself included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Cascade {
    /// Calls between services, when no cache hits and nothing is retried.
    pub(super) calls: f64,
    /// Services one behind the other on the longest way.
    pub(super) depth: u32,
}

/// Walks each method once, callees first.
struct Walk<'a> {
    topology: &'a Topology,
    done: BTreeMap<At<'a>, Cascade>,
    trail: Vec<At<'a>>,
}

impl<'a> Walk<'a> {
    /// The cascade of a method, or the way on which it reaches itself.
    fn visit(&mut self, at: At<'a>) -> Result<Cascade, Vec<At<'a>>> {
        if let Some(found) = self.done.get(&at) {
            return Ok(*found);
        }
        let start = self.trail.iter().position(|&seen| seen == at);
        self.trail.push(at);
        if let Some(start) = start {
            return Err(self.trail.split_off(start));
        }
        let mut cascade = Cascade { calls: 1.0, depth: 1 };
        for call in self.topology.method(at.0, at.1).into_iter().flat_map(|method| &method.calls) {
            let below = self.visit((&call.service, &call.method))?;
            cascade.calls += f64::from(call.repeat) * below.calls;
            cascade.depth = cascade.depth.max(below.depth + 1);
        }
        self.trail.pop();
        self.done.insert(at, cascade);
        Ok(cascade)
    }
}

/// The cascade of every method, or the first way found on which calls never end.
pub(super) fn cascades(topology: &Topology) -> Result<BTreeMap<At<'_>, Cascade>, Vec<At<'_>>> {
    let mut walk = Walk { topology, done: BTreeMap::new(), trail: Vec::new() };
    for (name, service) in &topology.services {
        for method in service.methods.keys() {
            walk.visit((name, method))?;
        }
    }
    Ok(walk.done)
}

/// Methods that a user's step reaches, in any number of calls.
pub(super) fn reached(topology: &Topology) -> BTreeSet<At<'_>> {
    let mut reached = BTreeSet::new();
    let steps = topology.scenarios.iter().filter(|user| user.weight > 0).flat_map(|user| &user.steps);
    let mut next: Vec<At<'_>> = steps.map(|step| (topology.entry.as_str(), step.as_str())).collect();
    while let Some(at) = next.pop() {
        if reached.insert(at) {
            let calls = topology.method(at.0, at.1).into_iter().flat_map(|method| &method.calls);
            next.extend(calls.map(|call| (call.service.as_str(), call.method.as_str())));
        }
    }
    reached
}

/// How often each method is called for one user request, on average.
pub(super) fn visits(topology: &Topology) -> BTreeMap<At<'_>, f64> {
    let mut visits: BTreeMap<At<'_>, f64> = BTreeMap::new();
    let steps: f64 = topology.scenarios.iter().map(|user| f64::from(user.weight) * length(&user.steps)).sum();
    for user in &topology.scenarios {
        for step in &user.steps {
            *visits.entry((&topology.entry, step)).or_default() += f64::from(user.weight) / steps.max(1.0);
        }
    }
    // Callers first: by falling depth, because each caller is deeper than all that it calls.
    let cascades = cascades(topology).unwrap_or_default();
    let mut order: Vec<_> = cascades.into_iter().collect();
    order.sort_by_key(|(_, cascade)| std::cmp::Reverse(cascade.depth));
    for (at, _) in order {
        let Some(count) = visits.get(&at).copied() else { continue };
        for call in topology.method(at.0, at.1).into_iter().flat_map(|method| &method.calls) {
            *visits.entry((&call.service, &call.method)).or_default() += count * f64::from(call.repeat);
        }
    }
    visits
}

fn length(steps: &[String]) -> f64 {
    u32::try_from(steps.len()).map_or(0.0, f64::from)
}
