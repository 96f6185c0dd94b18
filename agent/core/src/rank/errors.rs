//! Errors that no callee passed on. Counts over the recent steps, compared as Poisson variables.

use super::view::{View, add};
use super::{Evidence, Reason};
use crate::evidence::{error_strength, percent};
use crate::units::{ServiceId, Step};
use crate::window::{EdgeSignal, Signal};
use std::ops::Range;

/// Where the callees' errors are not measured, half of the errors may be theirs.
const UNKNOWN_CALLEES: f64 = 0.5;

/// Calls and failed calls over some steps.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    calls: f64,
    errors: f64,
    steps: usize,
}

impl Counts {
    fn ratio(self) -> f64 {
        if self.calls > 0.0 { self.errors / self.calls } else { 0.0 }
    }

    fn add(&mut self, rate: Option<f64>, ratio: Option<f64>, seconds: f64) {
        if let (Some(rate), Some(ratio)) = (rate, ratio) {
            self.calls += rate * seconds;
            self.errors += rate * seconds * ratio;
            self.steps += 1;
        }
    }
}

/// Failed calls now and as usual, over the recent steps.
#[derive(Clone, Copy, Debug)]
struct Failures {
    recent: Counts,
    usual_ratio: f64,
}

impl Failures {
    fn expected(self) -> f64 {
        self.usual_ratio * self.recent.calls
    }

    fn excess(self) -> f64 {
        (self.recent.errors - self.expected()).max(0.0)
    }
}

pub(super) fn collect(view: &View<'_>, evidence: &mut Evidence) {
    for service in view.callees_first.iter().copied() {
        let own = of_service(view, service);
        if let Some(own) = own.filter(|own| own.excess() > 0.0) {
            let share = own_share(view, service, own);
            let weight = error_strength(own.recent.errors, own.expected(), share);
            let text = format!(
                "{} of its calls fail, usually {}",
                percent(own.recent.ratio()),
                percent(own.usual_ratio)
            );
            let reason = |family, weight, text| Reason {
                family,
                signal: Signal::ErrorRatio.name(),
                peer: None,
                value: own.recent.ratio(),
                baseline: Some(own.usual_ratio),
                weight,
                text,
            };
            let lost = error_strength(own.recent.errors, own.expected(), 1.0) - weight;
            if share < 1.0 {
                add(evidence, service, reason("discount", -lost, format!("{text}: passed on by callees")));
            }
            add(evidence, service, reason("self", weight, text));
        }
        let unseen = view
            .callers(service)
            .filter_map(|caller| of_edge(view, caller, service).map(|failures| (caller, failures)));
        for (caller, failures) in unseen {
            unseen_by_the_callee(view, evidence, (caller, service), failures, own);
        }
    }
}

/// The share of a service's excess errors that its callees do not account for.
fn own_share(view: &View<'_>, service: ServiceId, own: Failures) -> f64 {
    let mut explained = 0.0;
    let (mut callees, mut measured) = (0, 0);
    for (caller, callee) in view.leaving(service) {
        callees += 1;
        let failures = of_edge(view, caller, callee)
            .or_else(|| (!view.is_masked(callee)).then(|| of_service(view, callee)).flatten());
        if let Some(failures) = failures {
            measured += 1;
            explained += failures.excess();
        }
    }
    let share = (1.0 - explained / own.excess()).clamp(0.0, 1.0);
    if callees > 0 && measured == 0 { share * UNKNOWN_CALLEES } else { share }
}

/// Errors that the client saw and the server did not: refused, reset, timed out on the way.
fn unseen_by_the_callee(
    view: &View<'_>,
    evidence: &mut Evidence,
    (caller, callee): (ServiceId, ServiceId),
    failures: Failures,
    own: Option<Failures>,
) {
    let seen = own.map_or(0.0, Failures::excess);
    // A callee without its own view that calls others only passes errors on.
    let passed = if own.is_some() { 0.0 } else { downstream(view, callee) };
    let excess = failures.excess();
    if excess <= 0.0 {
        return;
    }
    let weight = error_strength(
        failures.recent.errors,
        failures.expected(),
        1.0 - (seen.max(passed) / excess).min(1.0),
    );
    add(
        evidence,
        callee,
        Reason {
            family: "edge",
            signal: EdgeSignal::ErrorRatio.name(),
            peer: Some(caller),
            value: failures.recent.ratio(),
            baseline: Some(failures.usual_ratio),
            weight,
            text: format!(
                "{} of this caller's calls fail, usually {}",
                percent(failures.recent.ratio()),
                percent(failures.usual_ratio)
            ),
        },
    );
}

fn downstream(view: &View<'_>, service: ServiceId) -> f64 {
    view.leaving(service)
        .filter_map(|(caller, callee)| of_edge(view, caller, callee).or_else(|| of_service(view, callee)))
        .map(Failures::excess)
        .sum()
}

fn of_service(view: &View<'_>, service: ServiceId) -> Option<Failures> {
    let seconds = view.question.history.step_length.as_secs_f64();
    failures(view, |steps| {
        let mut counts = Counts::default();
        for (_, window) in view.question.history.windows(service, steps) {
            counts.add(window.get(Signal::CallRate), window.get(Signal::ErrorRatio), seconds);
        }
        counts
    })
}

fn of_edge(view: &View<'_>, caller: ServiceId, callee: ServiceId) -> Option<Failures> {
    let seconds = view.question.history.step_length.as_secs_f64();
    failures(view, |steps| {
        let mut counts = Counts::default();
        for (_, window) in view.question.history.edge_windows(caller, callee, steps) {
            counts.add(window.get(EdgeSignal::CallRate), window.get(EdgeSignal::ErrorRatio), seconds);
        }
        counts
    })
}

fn failures(view: &View<'_>, count: impl Fn(Range<Step>) -> Counts) -> Option<Failures> {
    let recent = count(view.question.recent.clone());
    let usual = count(view.question.reference.clone());
    (recent.steps > 0 && usual.steps > 0).then(|| Failures { recent, usual_ratio: usual.ratio() })
}
