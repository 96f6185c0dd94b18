//! A question's windows and graph as the kinds of evidence ask for them: changes by service and by edge,
//! callees outside a service's own cycle, and the order in which callees come before callers.

use super::{Evidence, Question, Reason};
use crate::evidence::{Change, Floor, MIN_REFERENCE, median};
use crate::units::{ServiceId, Step};
use crate::window::{EdgeSignal, Signal};
use petgraph::Direction::{Incoming, Outgoing};
use petgraph::algo::tarjan_scc;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// More calls a request than this are counted as this: batch work would explain anything otherwise.
const MOST_CALLS_A_REQUEST: f64 = 50.0;

/// A question, prepared.
pub(super) struct View<'q> {
    pub(super) question: &'q Question<'q>,
    /// Services in reverse topological order: callees first; cycles are adjacent.
    pub(super) callees_first: Vec<ServiceId>,
    /// Which cycle (strongly connected component) a service belongs to.
    cycle: BTreeMap<ServiceId, usize>,
    /// The services of each cycle.
    members: Vec<Vec<ServiceId>>,
    /// Every suspect: with windows or known from the graph.
    services: BTreeSet<ServiceId>,
}

impl<'q> View<'q> {
    pub(super) fn new(question: &'q Question<'q>) -> Self {
        let mut services: BTreeSet<ServiceId> = question.history.services().collect();
        services.extend(question.graph.nodes());
        let mut callees_first = Vec::new();
        let mut cycle = BTreeMap::new();
        let mut cycles = Vec::new();
        for (index, members) in tarjan_scc(question.graph).into_iter().enumerate() {
            callees_first.extend(&members);
            cycle.extend(members.iter().map(|member| (*member, index)));
            cycles.push(members);
        }
        callees_first.extend(services.iter().filter(|service| !question.graph.contains_node(**service)));
        Self { question, callees_first, cycle, members: cycles, services }
    }

    pub(super) fn services(&self) -> impl Iterator<Item = ServiceId> + '_ {
        self.services.iter().copied()
    }

    pub(super) fn callees(&self, service: ServiceId) -> impl Iterator<Item = ServiceId> + '_ {
        self.question.graph.neighbors_directed(service, Outgoing).filter(move |callee| *callee != service)
    }

    pub(super) fn callers(&self, service: ServiceId) -> impl Iterator<Item = ServiceId> + '_ {
        self.question.graph.neighbors_directed(service, Incoming).filter(move |caller| *caller != service)
    }

    /// The edges whose callees may explain a service: those that leave its cycle. Services that call each
    /// other in a circle count as one, so each is explained by what any of them calls.
    pub(super) fn leaving(&self, service: ServiceId) -> impl Iterator<Item = (ServiceId, ServiceId)> + '_ {
        let own = self.cycle.get(&service).copied();
        let members = own.and_then(|own| self.members.get(own)).map_or(&[][..], Vec::as_slice);
        members.iter().flat_map(move |member| {
            self.callees(*member)
                .filter(move |callee| self.cycle.get(callee).copied() != own)
                .map(move |callee| (*member, callee))
        })
    }

    pub(super) fn is_masked(&self, service: ServiceId) -> bool {
        self.question.masked.contains(&service)
    }

    /// How a service's signal moved.
    pub(super) fn change(&self, service: ServiceId, signal: Signal, floor: Floor) -> Option<Change> {
        let Question { history, reference, recent, .. } = self.question;
        Change::between(
            &history.values(service, signal, reference.clone()),
            &history.values(service, signal, recent.clone()),
            floor,
        )
    }

    /// How a service's signal moved since just before the recent steps; the second, short baseline.
    pub(super) fn change_since(
        &self,
        service: ServiceId,
        signal: Signal,
        before: &Range<Step>,
        floor: Floor,
    ) -> Option<Change> {
        let Question { history, recent, .. } = self.question;
        Change::between(
            &history.values(service, signal, before.clone()),
            &history.values(service, signal, recent.clone()),
            floor,
        )
    }

    /// How an edge's signal moved.
    pub(super) fn edge_change(
        &self,
        caller: ServiceId,
        callee: ServiceId,
        signal: EdgeSignal,
        floor: Floor,
    ) -> Option<Change> {
        let Question { history, reference, recent, .. } = self.question;
        Change::between(
            &history.edge_values(caller, callee, signal, reference.clone()),
            &history.edge_values(caller, callee, signal, recent.clone()),
            floor,
        )
    }

    /// Calls a second: served ones, else those of the edges that lead there, else those that start there.
    pub(super) fn rate(&self, service: ServiceId, steps: &Range<Step>) -> Option<f64> {
        let served = median(&self.question.history.values(service, Signal::CallRate, steps.clone()));
        served
            .or_else(|| self.edge_rates(self.callers(service).map(|caller| (caller, service)), steps))
            .or_else(|| self.edge_rates(self.callees(service).map(|callee| (service, callee)), steps))
    }

    fn edge_rates(
        &self,
        edges: impl Iterator<Item = (ServiceId, ServiceId)>,
        steps: &Range<Step>,
    ) -> Option<f64> {
        let rates: Vec<f64> =
            edges.filter_map(|(caller, callee)| self.edge_rate(caller, callee, steps)).collect();
        (!rates.is_empty()).then(|| rates.iter().sum())
    }

    pub(super) fn edge_rate(&self, caller: ServiceId, callee: ServiceId, steps: &Range<Step>) -> Option<f64> {
        median(&self.question.history.edge_values(caller, callee, EdgeSignal::CallRate, steps.clone()))
    }

    /// Calls of an edge a request that the caller served: measured, else the ratio of the rates. At least
    /// one: where only some requests take the edge, their tail moves as much as the edge does.
    pub(super) fn calls_a_request(&self, caller: ServiceId, callee: ServiceId) -> f64 {
        let recent = &self.question.recent;
        let measured = median(&self.question.history.edge_values(
            caller,
            callee,
            EdgeSignal::CallsPerRequest,
            recent.clone(),
        ));
        let by_rates = || {
            let made = self.edge_rate(caller, callee, recent).or_else(|| self.rate(callee, recent))?;
            let served = self.rate(caller, recent).filter(|served| *served > 0.0)?;
            Some(made / served)
        };
        measured.or_else(by_rates).unwrap_or(1.0).clamp(1.0, MOST_CALLS_A_REQUEST)
    }

    /// Whether the service's own end shows calls that it serves.
    pub(super) fn is_served(&self, service: ServiceId) -> bool {
        [Signal::LatencyMean, Signal::LatencyP50, Signal::LatencyP95].into_iter().any(|signal| {
            self.question.history.values(service, signal, self.question.reference.clone()).len()
                >= MIN_REFERENCE
        })
    }
}

/// Adds a reason that weighs anything.
pub(super) fn add(evidence: &mut Evidence, service: ServiceId, reason: Reason) {
    if reason.weight.abs() > 0.0 && reason.weight.is_finite() {
        evidence.entry(service).or_default().push(reason);
    }
}
