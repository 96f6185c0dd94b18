//! Resources that the load does not explain, judged against the long baseline and the last five minutes:
//! a drift over hours is no fault, nor is what the service did five minutes ago already.

use super::view::{View, add};
use super::{Evidence, Reason};
use crate::evidence::{CPU, Change, EVENTS, Floor, MEMORY, SHARE, mebibytes, percent};
use crate::units::{ServiceId, Step};
use crate::window::Signal;
use std::ops::Range;

/// The short baseline: so many seconds before the recent steps.
const SHORT_BASELINE_SECONDS: f64 = 300.0;

pub(super) fn collect(view: &View<'_>, evidence: &mut Evidence) {
    let before = short_baseline(view);
    for service in view.services() {
        let mut push = |signal: Signal, change: Option<(Change, f64)>, text: &dyn Fn(Change) -> String| {
            if let Some((change, weight)) = change {
                add(
                    evidence,
                    service,
                    Reason {
                        family: "resource",
                        signal: signal.name(),
                        peer: None,
                        value: change.value,
                        baseline: Some(change.baseline),
                        weight,
                        text: text(change),
                    },
                );
            }
        };
        let load = load_growth(view, service);
        let both = |signal, floor, load| both_baselines(view, service, signal, &before, floor, load);
        push(Signal::CpuMillicores, both(Signal::CpuMillicores, CPU, load), &|change| {
            format!("CPU {:.0} millicores, {:.0} expected at this load", change.value, change.baseline)
        });
        push(Signal::ThrottledRatio, both(Signal::ThrottledRatio, SHARE, 1.0), &|change| {
            format!("throttled {} of the time, usually {}", percent(change.value), percent(change.baseline))
        });
        push(Signal::Memory, both(Signal::Memory, MEMORY, 1.0), &|change| {
            format!("memory {}, usually {}", mebibytes(change.value), mebibytes(change.baseline))
        });
        push(Signal::OomKills, both(Signal::OomKills, EVENTS, 1.0), &|_| {
            "processes killed for lack of memory".to_owned()
        });
    }
}

/// The change against the long baseline, with the weight that both baselines support.
fn both_baselines(
    view: &View<'_>,
    service: ServiceId,
    signal: Signal,
    before: &Range<Step>,
    floor: Floor,
    load: f64,
) -> Option<(Change, f64)> {
    let change = view.change(service, signal, floor)?;
    let change = change.against(change.baseline * load);
    let short = view.change_since(service, signal, before, floor);
    let weight = change.strength(1.0).min(short.map_or(f64::INFINITY, |short| short.strength(1.0)));
    Some((change, weight))
}

/// How much more a service has to do than usual; less work explains nothing.
fn load_growth(view: &View<'_>, service: ServiceId) -> f64 {
    let now = view.rate(service, &view.question.recent);
    let usual = view.rate(service, &view.question.reference).filter(|usual| *usual > 0.0);
    match (now, usual) {
        (Some(now), Some(usual)) => (now / usual).max(1.0),
        _ => 1.0,
    }
}

fn short_baseline(view: &View<'_>) -> Range<Step> {
    let steps = SHORT_BASELINE_SECONDS / view.question.history.step_length.as_secs_f64().max(1e-3);
    let end = view.question.recent.start;
    Step(end.0.saturating_sub(steps.ceil() as u64))..end
}
