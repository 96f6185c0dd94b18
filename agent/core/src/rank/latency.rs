//! Latency that no callee explains. A service's server time holds the time of the calls that it waited
//! for, so each callee's slow-down, times its calls a request, is taken off.

use super::view::{View, add};
use super::{Evidence, Reason};
use crate::evidence::{Change, LATENCY, millis};
use crate::units::ServiceId;
use crate::window::{EdgeSignal, Signal};
use std::collections::BTreeMap;

/// The statistics of a latency, each with the edge's view of it.
const STATISTICS: [(Signal, EdgeSignal, &str); 3] = [
    (Signal::LatencyP95, EdgeSignal::ClientP95, "p95 latency"),
    (Signal::LatencyMean, EdgeSignal::ClientMean, "mean latency"),
    (Signal::LatencyP50, EdgeSignal::ClientP50, "median latency"),
];

/// What a caller sees of a service: by how many milliseconds each statistic rose.
type Symptoms = BTreeMap<(ServiceId, Signal), f64>;

pub(super) fn collect(view: &View<'_>, evidence: &mut Evidence) {
    let mut symptoms = Symptoms::new();
    for service in view.callees_first.iter().copied() {
        let mut own: Vec<(Reason, f64)> = Vec::new();
        for (signal, edge_signal, name) in STATISTICS {
            let explained = explained(view, &symptoms, service, signal, edge_signal);
            let Some(change) = view.change(service, signal, LATENCY) else {
                // Not measured here: pass on what its callees show.
                symptoms.insert((service, signal), explained);
                continue;
            };
            symptoms.insert((service, signal), change.difference().max(0.0));
            if change.is_rise() {
                own.push(judge(change, explained, signal, name));
            }
        }
        let by_self_time = view
            .change(service, Signal::SelfTime, LATENCY)
            .filter(|_| view.callees(service).next().is_some())
            .map(|change| change.strength(1.0));
        for (mut reason, discount) in own {
            let weight = by_self_time.map_or(reason.weight, |limit| limit.min(reason.weight));
            let discount = discount + reason.weight - weight;
            reason.weight = weight;
            if discount > 0.0 && reason.signal == Signal::LatencyP95.name() {
                add(evidence, service, discounted(&reason, discount));
            }
            add(evidence, service, reason);
        }
    }
}

/// Milliseconds of a service's slow-down that its callees account for.
fn explained(
    view: &View<'_>,
    symptoms: &Symptoms,
    service: ServiceId,
    signal: Signal,
    edge_signal: EdgeSignal,
) -> f64 {
    view.leaving(service)
        .map(|(caller, callee)| {
            let seen = view.edge_change(caller, callee, edge_signal, LATENCY).map(Change::difference);
            let slowed = seen.unwrap_or_else(|| {
                let other_statistic = STATISTICS
                    .iter()
                    .filter_map(|(_, other, _)| view.edge_change(caller, callee, *other, LATENCY))
                    .map(Change::difference)
                    .fold(0.0, f64::max);
                let callee_shows = if view.is_masked(callee) {
                    0.0
                } else {
                    symptoms.get(&(callee, signal)).copied().unwrap_or(0.0)
                };
                callee_shows.max(other_statistic)
            });
            slowed.max(0.0) * view.calls_a_request(caller, callee)
        })
        .sum()
}

/// The reason, and the weight that it lost to the callees.
fn judge(change: Change, explained: f64, signal: Signal, name: &str) -> (Reason, f64) {
    let share = 1.0 - explained / change.difference();
    let weight = change.strength(share);
    let reason = Reason {
        family: "self",
        signal: signal.name(),
        peer: None,
        value: change.value,
        baseline: Some(change.baseline),
        weight,
        text: format!("{name} {}, usually {}", millis(change.value), millis(change.baseline)),
    };
    (reason, change.strength(1.0) - weight)
}

fn discounted(reason: &Reason, discount: f64) -> Reason {
    Reason {
        family: "discount",
        weight: -discount,
        text: format!("{}: its callees explain it", reason.text),
        ..reason.clone()
    }
}
