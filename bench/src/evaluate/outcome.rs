//! What became of each fault, and of the time without one: what replays and tables give, what the cache
//! keeps, and what the summary is made of.

use super::baselines::{Baseline, Case, Scores};
use super::statistics::Hit;
use faultline_core::rank::{Blame, Question, rank};
use faultline_core::units::ServiceId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The agent's own ranking, as it runs.
pub(super) const OURS: &str = "faultline";
/// The agent's own ranking without the autoencoder.
pub(super) const NO_MODEL: &str = "faultline, no model";
/// Drawing lots, on average.
pub(super) const RANDOM: &str = "random";

/// One fault.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Outcome {
    pub(super) fault_id: String,
    /// The system.
    pub(super) dataset: String,
    pub(super) kind: String,
    pub(super) note: String,
    /// Who is right; empty where the data set does not tell.
    pub(super) culprits: Vec<String>,
    /// Nothing of its system or kind was trained on.
    pub(super) held_out: bool,
    /// By method.
    pub(super) hits: BTreeMap<String, Hit>,
    /// Ours, best first.
    pub(super) ranking: Vec<String>,
    /// How far ours leads, `1 - second / first`.
    pub(super) margin: f64,
    /// What the agent did live, by whether it had the model; only recordings tell.
    pub(super) live: BTreeMap<String, Live>,
}

/// What the agent did while a fault was on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Live {
    /// From the injection to the page; `None`: no page.
    pub(super) seconds_to_page: Option<f64>,
    /// An incident from before was still open when the fault began: no page could come.
    pub(super) still_open: bool,
    /// A culprit was first at the page.
    pub(super) right: bool,
    /// The margin at the page.
    pub(super) margin: f64,
}

/// A stretch of time without a fault.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct QuietTime {
    pub(super) dataset: String,
    /// What was going on: the load's pattern, or life that is no fault.
    pub(super) what: String,
    pub(super) seconds: f64,
    /// Pages in it, by whether the agent had the model: each a false one, with its reason.
    pub(super) pages: BTreeMap<String, Vec<String>>,
}

/// Everything that was found.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Findings {
    pub(super) outcomes: Vec<Outcome>,
    pub(super) quiet: Vec<QuietTime>,
}

/// A fault to rank.
pub(super) struct Asked<'a> {
    pub(super) case: Case<'a>,
    pub(super) masked: &'a BTreeSet<ServiceId>,
    /// The model's; empty without one.
    pub(super) surprises: &'a BTreeMap<ServiceId, f64>,
}

impl Asked<'_> {
    /// The agent's own ranking, with the model or without.
    pub(super) fn ours(&self, with_model: bool) -> Vec<Blame> {
        let nothing = BTreeMap::new();
        rank(&Question {
            history: self.case.history,
            graph: self.case.graph,
            reference: self.case.reference.clone(),
            recent: self.case.recent.clone(),
            scores: if with_model { self.surprises } else { &nothing },
            masked: self.masked,
        })
    }
}

impl Outcome {
    /// Takes our ranking.
    pub(super) fn take_ours<'n>(&mut self, scores: &Scores, name: impl Fn(ServiceId) -> &'n str) {
        self.ranking = scores.iter().map(|(service, _)| name(*service).to_owned()).collect();
        self.margin = margin(scores);
        self.hit(OURS, &self.ranking.clone());
    }

    /// Books a method's ranking.
    pub(super) fn hit(&mut self, method: &str, ranking: &[String]) {
        if !self.culprits.is_empty() {
            let place = ranking.iter().position(|service| self.culprits.contains(service));
            self.hits.insert(method.to_owned(), Hit::at(place));
        }
    }

    /// Books the baselines of one case, and the draw among its services.
    pub(super) fn take_baselines<'n>(
        &mut self,
        all: &BTreeMap<&'static str, Scores>,
        name: impl Fn(ServiceId) -> &'n str,
    ) {
        if self.culprits.is_empty() {
            return;
        }
        for (method, scores) in all {
            let ranking: Vec<String> = scores.iter().map(|(service, _)| name(*service).to_owned()).collect();
            self.hit(method, &ranking);
        }
        if let Some(scores) = all.values().max_by_key(|scores| scores.len()) {
            let right =
                |entry: &&(ServiceId, f64)| self.culprits.iter().any(|culprit| culprit == name(entry.0));
            let culprits = scores.iter().filter(right).count();
            self.hits.insert(RANDOM.to_owned(), Hit::drawn(scores.len(), culprits));
        }
    }
}

/// Every baseline's scores.
pub(super) fn baselines(case: &Case<'_>) -> BTreeMap<&'static str, Scores> {
    Baseline::ALL.into_iter().map(|baseline| (baseline.name(), baseline.rank(case))).collect()
}

/// How far the first leads.
pub(super) fn margin(scores: &Scores) -> f64 {
    match scores.as_slice() {
        [first, second, ..] if first.1 > 0.0 => 1.0 - second.1 / first.1,
        [first] if first.1 > 0.0 => 1.0,
        _ => 0.0,
    }
}
