//! Which service is the cause. Windows, the service graph and the model's scores flow in, a list of
//! [`Blame`]s flows out, best first; [`crate::evidence`] judges single signals, [`crate::incident`] decides
//! whether to page.
//!
//! ```text
//! score(service) = self      latency, errors and unanswered calls that no callee explains
//!                + edge      wire time and failed connects of the edges whose slow end it is
//!                + resource  CPU beyond what its load explains, throttling, memory, kills
//!                + model     what the autoencoder finds unusual and its callees do not share
//! ```
//!
//! Each family adds its strongest signal, and a part of the others. One pass over the graph, callees first,
//! with cycles merged: random walks and regressions over the graph do worse on the public data sets.

mod edges;
mod errors;
mod latency;
mod resources;
#[cfg(test)]
pub(crate) mod synthetic;
#[cfg(test)]
mod tests;
mod view;
mod waiting;

pub use crate::evidence::Reason;
use crate::evidence::median;
use crate::graph::ServiceGraph;
use crate::history::History;
use crate::units::{ServiceId, Step};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use view::View;

/// What a ranking needs to know.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    /// The windows.
    pub history: &'a History,
    /// Who calls whom.
    pub graph: &'a ServiceGraph,
    /// The steps that show what is usual ([`crate::incident::Detector::reference_and_recent`]).
    pub reference: Range<Step>,
    /// The steps to explain.
    pub recent: Range<Step>,
    /// How unusual the model finds a service now ([`crate::score::surprises`]): `-ln p`, 0 and above.
    pub scores: &'a BTreeMap<ServiceId, f64>,
    /// Services that are not fully seen: neither suspects nor explanations.
    pub masked: &'a BTreeSet<ServiceId>,
}

/// A service that may be the cause.
#[derive(Clone, Debug, PartialEq)]
pub struct Blame {
    /// Which.
    pub service: ServiceId,
    /// Comparable within one ranking only; 0 and above.
    pub score: f64,
    /// Why, strongest first.
    pub evidence: Vec<Reason>,
}

/// Of a family's signals the strongest counts fully, the others by this: they tell of the same thing.
const SECOND_SIGNAL: f64 = 0.25;
/// Weight of the model's surprise in nats: a window that one in a thousand normal ones exceeds adds 1.
const MODEL_WEIGHT: f64 = 0.15;
/// The model can support a suspect but not make one: the most that it may add.
const MODEL_MOST: f64 = 1.5;
/// So many services must be measured before their median tells of the machine rather than of a service.
const MIN_FOR_MACHINE: usize = 4;

/// Evidence against each service.
type Evidence = BTreeMap<ServiceId, Vec<Reason>>;

/// Ranks every service that is not masked, best suspect first; ties in order of ids.
#[must_use]
pub fn rank(question: &Question<'_>) -> Vec<Blame> {
    let view = View::new(question);
    let mut evidence = Evidence::new();
    latency::collect(&view, &mut evidence);
    subtract_the_machine(&mut evidence, &view);
    errors::collect(&view, &mut evidence);
    waiting::collect(&view, &mut evidence);
    edges::collect(&view, &mut evidence);
    resources::collect(&view, &mut evidence);
    model(&view, &mut evidence);
    let mut blames: Vec<Blame> = view
        .services()
        .filter(|service| !question.masked.contains(service))
        .map(|service| blame(service, evidence.remove(&service).unwrap_or_default()))
        .collect();
    blames.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.service.cmp(&b.service)));
    blames
}

/// What slows down in half of all services at once is the machine that they share, not one of them.
fn subtract_the_machine(evidence: &mut Evidence, view: &View<'_>) {
    let measured: Vec<f64> = view
        .services()
        .filter(|service| view.is_served(*service))
        .map(|service| evidence.get(&service).map_or(0.0, |reasons| strongest(reasons)))
        .collect();
    if measured.len() < MIN_FOR_MACHINE {
        return;
    }
    let shared = median(&measured).unwrap_or(0.0);
    for reason in evidence.values_mut().flatten().filter(|reason| reason.family == "self") {
        reason.weight = (reason.weight - shared).max(0.0);
    }
}

fn strongest(reasons: &[Reason]) -> f64 {
    reasons.iter().map(|reason| reason.weight).fold(0.0, f64::max)
}

/// The model's surprise, less the greatest one among the callees: every caller of the cause looks unusual.
fn model(view: &View<'_>, evidence: &mut Evidence) {
    for (service, surprise) in view.question.scores {
        let explained = view
            .leaving(*service)
            .filter_map(|(_, callee)| view.question.scores.get(&callee).copied())
            .fold(0.0, f64::max);
        let weight = ((surprise - explained) * MODEL_WEIGHT).min(MODEL_MOST);
        if weight > 0.0 {
            view::add(
                evidence,
                *service,
                Reason {
                    family: "model",
                    signal: "reconstruction_error",
                    peer: None,
                    value: *surprise,
                    baseline: None,
                    weight,
                    text: format!("unusual as a whole: 1 of {:.0} normal windows is", surprise.exp()),
                },
            );
        }
    }
}

/// Adds a suspect's evidence up: within a family the strongest fully, the others by a part.
fn blame(service: ServiceId, mut evidence: Vec<Reason>) -> Blame {
    evidence.sort_by(|a, b| b.weight.total_cmp(&a.weight));
    let mut seen = BTreeSet::new();
    for reason in evidence.iter_mut().filter(|reason| reason.weight > 0.0) {
        if !seen.insert(reason.family) {
            reason.weight *= SECOND_SIGNAL;
        }
    }
    evidence.retain(|reason| reason.weight.abs() > 0.005);
    evidence.sort_by(|a, b| b.weight.total_cmp(&a.weight));
    let score = evidence
        .iter()
        .filter(|reason| reason.family != "discount")
        .map(|reason| reason.weight)
        .sum::<f64>()
        .max(0.0);
    Blame { service, score, evidence }
}
