//! Which end of a slow edge is to blame. Wire time is what the client waited for beyond the server's time:
//! the network and the queues at both ends. An edge that speaks no gRPC has one view only, and all of its
//! time is the callee's.

use super::view::{View, add};
use super::{Evidence, Reason};
use crate::evidence::{Change, EVENTS, LATENCY, SHARE, millis, percent};
use crate::graph::EdgeKind;
use crate::units::{ServiceId, Step};
use crate::window::{EdgeSignal, EdgeWindow};
use std::collections::BTreeMap;
use std::ops::Range;

/// If so large a share of a service's other edges is slow as well, the service is their common end.
const MOST_EDGES: f64 = 0.6;

type Edge = (ServiceId, ServiceId);

pub(super) fn collect(view: &View<'_>, evidence: &mut Evidence) {
    let mut wire: BTreeMap<Edge, Change> = BTreeMap::new();
    for (caller, callee, kind) in view.question.graph.all_edges() {
        match kind {
            EdgeKind::Grpc => {
                if let Some(change) = wire_time(view, caller, callee) {
                    wire.insert((caller, callee), change);
                }
            }
            EdgeKind::Tcp => exchanges(view, evidence, caller, callee),
        }
        events(view, evidence, caller, callee);
    }
    for (edge, change) in wire.iter().filter(|(_, change)| change.is_rise()) {
        let (blamed, peer) = slow_end(*edge, &wire);
        let text = format!("wire time {}, usually {}", millis(change.value), millis(change.baseline));
        add(evidence, blamed, reason(EdgeSignal::WireTime, peer, *change, text));
    }
}

/// The end that an edge's wire time is blamed on, and the other: the callee, unless most of the caller's
/// other edges are slow too. A caller with one outgoing edge is judged by its incoming ones, against the
/// callee's other callers.
fn slow_end((caller, callee): Edge, wire: &BTreeMap<Edge, Change>) -> Edge {
    let share = |belongs: &dyn Fn(&Edge) -> bool| {
        let others: Vec<bool> = wire
            .iter()
            .filter(|(edge, _)| **edge != (caller, callee) && belongs(edge))
            .map(|(_, change)| change.is_rise())
            .collect();
        let slow = others.iter().filter(|slow| **slow).count() as f64;
        (!others.is_empty()).then(|| slow / others.len() as f64)
    };
    let callers_other_calls = share(&|edge| edge.0 == caller);
    let calls_to_the_caller = share(&|edge| edge.1 == caller);
    let callees_other_callers = share(&|edge| edge.1 == callee);
    let at_the_caller = match callers_other_calls {
        Some(slow) => slow >= MOST_EDGES && callees_other_callers.is_none_or(|others| others < 1.0),
        None => {
            calls_to_the_caller.is_some_and(|slow| slow >= MOST_EDGES)
                && callees_other_callers.is_none_or(|others| others < MOST_EDGES)
        }
    };
    if at_the_caller { (caller, callee) } else { (callee, caller) }
}

/// An edge's wire time: measured, else the client's view less the server's, by the same statistic.
fn wire_time(view: &View<'_>, caller: ServiceId, callee: ServiceId) -> Option<Change> {
    const VIEWS: [(EdgeSignal, EdgeSignal); 3] = [
        (EdgeSignal::ClientP50, EdgeSignal::ServerP50),
        (EdgeSignal::ClientMean, EdgeSignal::ServerMean),
        (EdgeSignal::ClientP95, EdgeSignal::ServerP95),
    ];
    view.edge_change(caller, callee, EdgeSignal::WireTime, LATENCY).or_else(|| {
        VIEWS.into_iter().find_map(|(client, server)| {
            let difference = |window: &EdgeWindow| Some(window.get(client)? - window.get(server)?);
            let values = |steps: &Range<Step>| -> Vec<f64> {
                view.question
                    .history
                    .edge_windows(caller, callee, steps.clone())
                    .filter_map(|(_, window)| difference(window))
                    .collect()
            };
            Change::between(&values(&view.question.reference), &values(&view.question.recent), LATENCY)
        })
    })
}

/// The exchanges of an edge that speaks no gRPC: the callee is slow.
fn exchanges(view: &View<'_>, evidence: &mut Evidence, caller: ServiceId, callee: ServiceId) {
    let signals = [EdgeSignal::ClientMean, EdgeSignal::ClientP95, EdgeSignal::ClientP50];
    let slowest = signals
        .into_iter()
        .filter_map(|signal| Some((signal, view.edge_change(caller, callee, signal, LATENCY)?)))
        .max_by(|a, b| a.1.strength(1.0).total_cmp(&b.1.strength(1.0)));
    if let Some((signal, change)) = slowest {
        let text =
            format!("answers this caller in {}, usually {}", millis(change.value), millis(change.baseline));
        add(evidence, callee, reason(signal, caller, change, text));
    }
}

/// Connections that fail, are slow to open, or lose segments.
fn events(view: &View<'_>, evidence: &mut Evidence, caller: ServiceId, callee: ServiceId) {
    let mut push = |signal: EdgeSignal, change: Option<Change>, text: &dyn Fn(Change) -> String| {
        if let Some(change) = change {
            add(evidence, callee, reason(signal, caller, change, text(change)));
        }
    };
    let change = |signal, floor| view.edge_change(caller, callee, signal, floor);
    push(EdgeSignal::FailedConnects, change(EdgeSignal::FailedConnects, EVENTS), &|change| {
        format!("{:.1} failed connects a second", change.value)
    });
    push(EdgeSignal::RetransmitRatio, change(EdgeSignal::RetransmitRatio, SHARE), &|change| {
        format!("{} of the segments are sent again", percent(change.value))
    });
    push(EdgeSignal::ConnectTime, change(EdgeSignal::ConnectTime, LATENCY), &|change| {
        format!("connects in {}, usually {}", millis(change.value), millis(change.baseline))
    });
}

/// All of a change on an edge, held against one end; `peer` is the other.
fn reason(signal: EdgeSignal, peer: ServiceId, change: Change, text: String) -> Reason {
    Reason {
        family: "edge",
        signal: signal.name(),
        peer: Some(peer),
        value: change.value,
        baseline: Some(change.baseline),
        weight: change.strength(1.0),
        text,
    }
}
