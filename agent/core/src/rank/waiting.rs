//! Calls that get no answer: a stopped process serves nothing, so neither its latency nor its errors show,
//! but the calls that it holds grow old, and its CPU falls silent.

use super::view::{View, add};
use super::{Evidence, Reason};
use crate::evidence::{CPU, Change, WAITING, millis};
use crate::units::ServiceId;
use crate::window::{EdgeSignal, Signal};
use std::collections::BTreeMap;

pub(super) fn collect(view: &View<'_>, evidence: &mut Evidence) {
    let waits: BTreeMap<ServiceId, (Change, Option<ServiceId>)> =
        view.services().filter_map(|service| Some((service, oldest(view, service)?))).collect();
    for (service, (change, peer)) in &waits {
        if !change.is_rise() {
            continue;
        }
        // A call waits at most as long as the one that it waits for, so the longest explains, not the sum.
        let explained = view
            .leaving(*service)
            .filter_map(|(caller, callee)| {
                let edge = view.edge_change(caller, callee, EdgeSignal::OldestUnanswered, WAITING);
                edge.or_else(|| Some(waits.get(&callee)?.0)).map(Change::difference)
            })
            .fold(0.0, f64::max);
        let weight = change.strength(1.0 - explained / change.difference());
        add(
            evidence,
            *service,
            Reason {
                family: "self",
                signal: Signal::OldestUnanswered.name(),
                peer: *peer,
                value: change.value,
                baseline: Some(change.baseline),
                weight,
                text: format!(
                    "a call waits for an answer since {}, usually {}",
                    millis(change.value),
                    millis(change.baseline)
                ),
            },
        );
        if weight > 0.0 {
            silence(view, evidence, *service);
        }
    }
}

/// The age of a service's oldest unanswered call: as it sees it, and as its callers do.
fn oldest(view: &View<'_>, service: ServiceId) -> Option<(Change, Option<ServiceId>)> {
    let own = view.change(service, Signal::OldestUnanswered, WAITING).map(|change| (change, None));
    let callers = view.callers(service).filter_map(|caller| {
        let change = view.edge_change(caller, service, EdgeSignal::OldestUnanswered, WAITING)?;
        Some((change, Some(caller)))
    });
    own.into_iter().chain(callers).max_by(|a, b| a.0.z().total_cmp(&b.0.z()))
}

/// A service that keeps calls waiting and uses no CPU is stopped, not busy.
fn silence(view: &View<'_>, evidence: &mut Evidence, service: ServiceId) {
    let Some(cpu) = view.change(service, Signal::CpuMillicores, CPU) else { return };
    add(
        evidence,
        service,
        Reason {
            family: "resource",
            signal: Signal::CpuMillicores.name(),
            peer: None,
            value: cpu.value,
            baseline: Some(cpu.baseline),
            weight: cpu.fall(),
            text: format!("CPU {:.0} millicores while calls wait, usually {:.0}", cpu.value, cpu.baseline),
        },
    );
}
