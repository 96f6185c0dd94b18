//! Simple and published ways to rank, on the same windows that the agent's own ranking gets: a case flows in,
//! every service with a score flows out, best first. Written from their papers; none is tuned here.
//!
//! | method | of a service | reference |
//! |---|---|---|
//! | max z | the largest abs(mean now - mean before) / deviation before, of its signals and of edges to it | N-sigma |
//! | robust scorer | the largest abs(value now - median before) / interquartile range before | BARO, FSE 2024 |
//! | PageRank | personalised PageRank on calls, towards callees that changed | MicroRCA, NOMS 2020 |
//! | traversal | services that changed and whose callees did not, then those that changed | ε-Diagnosis to CauseInfer |

use super::statistics::median;
use faultline_core::graph::ServiceGraph;
use faultline_core::history::History;
use faultline_core::units::{ServiceId, Step};
use faultline_core::window::{EdgeSignal, Signal};
use petgraph::Direction::{Incoming, Outgoing};
use std::collections::BTreeMap;
use std::ops::Range;

/// Fewer values than this tell of no deviation.
const FEWEST: usize = 3;
/// Deviations are at least this part of what is usual.
const LEAST: f64 = 0.01;
/// A service changed if it moved by more than so many deviations.
const CHANGED: f64 = 3.0;
/// PageRank follows a call with this chance, and else starts again.
const DAMPING: f64 = 0.85;
/// From a callee back to its caller, against the way there (Monitorrank's backward edges).
const BACKWARD: f64 = 0.2;
/// Rounds of PageRank: 0.85^60 is below a ten-thousandth.
const ROUNDS: usize = 60;
/// A single deviation counts at most so much in PageRank, where scores are weights.
const MOST: f64 = 50.0;

/// One fault's windows.
pub(super) struct Case<'a> {
    pub(super) history: &'a History,
    pub(super) graph: &'a ServiceGraph,
    pub(super) reference: Range<Step>,
    pub(super) recent: Range<Step>,
}

/// Services with scores, best first; ties in order of ids.
pub(super) type Scores = Vec<(ServiceId, f64)>;

/// A way to rank that is not ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Baseline {
    MaxZ,
    Robust,
    PageRank,
    Traversal,
}

impl Baseline {
    pub(super) const ALL: [Self; 4] = [Self::MaxZ, Self::Robust, Self::PageRank, Self::Traversal];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::MaxZ => "max z",
            Self::Robust => "robust scorer (BARO)",
            Self::PageRank => "PageRank (MicroRCA)",
            Self::Traversal => "traversal",
        }
    }

    /// Every service of the case.
    pub(super) fn rank(self, case: &Case<'_>) -> Scores {
        let scores = match self {
            Self::MaxZ => case.deviations(z_score, true),
            Self::Robust => case.deviations(robust_score, true),
            Self::PageRank => page_rank(case),
            Self::Traversal => traversal(case),
        };
        sorted(scores)
    }
}

pub(super) fn sorted(scores: BTreeMap<ServiceId, f64>) -> Scores {
    let mut scores: Scores = scores.into_iter().collect();
    scores.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    scores
}

/// How far values moved, by those before and those now.
type Deviation = fn(&[f64], &[f64]) -> f64;

impl Case<'_> {
    /// The largest deviation of each service's signals and, if asked for, of the edges to it.
    fn deviations(&self, deviation: Deviation, with_edges: bool) -> BTreeMap<ServiceId, f64> {
        let mut scores: BTreeMap<ServiceId, f64> = BTreeMap::new();
        for service in self.history.services() {
            let of = |signal| {
                let values = |steps: &Range<Step>| self.history.values(service, signal, steps.clone());
                deviation(&values(&self.reference), &values(&self.recent))
            };
            scores.insert(service, Signal::ALL.into_iter().map(of).fold(0.0, f64::max));
        }
        for (caller, callee) in self.history.edges().filter(|_| with_edges) {
            let score = scores.entry(callee).or_default();
            *score = score.max(self.edge_deviation(caller, callee, deviation));
        }
        scores
    }

    fn edge_deviation(&self, caller: ServiceId, callee: ServiceId, deviation: Deviation) -> f64 {
        let of = |signal| {
            let values =
                |steps: &Range<Step>| self.history.edge_values(caller, callee, signal, steps.clone());
            deviation(&values(&self.reference), &values(&self.recent))
        };
        EdgeSignal::ALL.into_iter().map(of).fold(0.0, f64::max)
    }
}

/// N-sigma: means, in deviations of before.
fn z_score(before: &[f64], now: &[f64]) -> f64 {
    if before.len() < FEWEST || now.is_empty() {
        return 0.0;
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let usual = mean(before);
    let deviation =
        (before.iter().map(|value| (value - usual).powi(2)).sum::<f64>() / before.len() as f64).sqrt();
    (mean(now) - usual).abs() / scale(deviation, usual)
}

/// BARO: the farthest value, in interquartile ranges of before.
fn robust_score(before: &[f64], now: &[f64]) -> f64 {
    if before.len() < FEWEST {
        return 0.0;
    }
    let mut sorted = before.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let quantile = |share: f64| {
        let place = share * (sorted.len() - 1) as f64;
        let (low, high) = (place.floor() as usize, place.ceil() as usize);
        let at = |place: usize| sorted.get(place).copied().unwrap_or_default();
        at(low) + (at(high) - at(low)) * (place - low as f64)
    };
    let usual = median(before).unwrap_or_default();
    let range = quantile(0.75) - quantile(0.25);
    let scale = scale(range, usual);
    now.iter().map(|value| (value - usual).abs() / scale).fold(0.0, f64::max)
}

/// A deviation of zero is no scale: then a part of what is usual is, and where that is nothing, one. With
/// the one of common scalers in its place, a byte more of memory would outweigh every latency.
fn scale(deviation: f64, usual: f64) -> f64 {
    let least = usual.abs() * LEAST;
    match deviation.max(least) {
        scale if scale > 0.0 => scale,
        _ => 1.0,
    }
}

/// A walk that starts where things changed and follows calls to callees that changed.
fn page_rank(case: &Case<'_>) -> BTreeMap<ServiceId, f64> {
    let own: BTreeMap<ServiceId, f64> = case
        .deviations(z_score, false)
        .into_iter()
        .map(|(service, score)| (service, score.min(MOST)))
        .collect();
    let total: f64 = own.values().sum();
    if total <= 0.0 {
        return own;
    }
    let weight = |caller, callee| case.edge_deviation(caller, callee, z_score).min(MOST);
    // Of each service: where a walk goes on, with what chance.
    let mut ways: BTreeMap<ServiceId, Vec<(ServiceId, f64)>> = BTreeMap::new();
    for service in own.keys() {
        let mut onward = vec![(*service, own.get(service).copied().unwrap_or_default())];
        for callee in case.graph.neighbors_directed(*service, Outgoing) {
            let there = weight(*service, callee).max(own.get(&callee).copied().unwrap_or_default());
            onward.push((callee, there));
        }
        for caller in case.graph.neighbors_directed(*service, Incoming) {
            onward.push((caller, BACKWARD * own.get(&caller).copied().unwrap_or_default()));
        }
        onward.retain(|(to, _)| own.contains_key(to));
        ways.insert(*service, onward);
    }
    let start: BTreeMap<ServiceId, f64> =
        own.iter().map(|(service, score)| (*service, score / total)).collect();
    let mut ranks = start.clone();
    for _ in 0..ROUNDS {
        let mut next: BTreeMap<ServiceId, f64> =
            start.iter().map(|(service, share)| (*service, (1.0 - DAMPING) * share)).collect();
        for (service, rank) in &ranks {
            let onward = ways.get(service).map(Vec::as_slice).unwrap_or_default();
            let sum: f64 = onward.iter().map(|(_, weight)| weight).sum();
            for (to, weight) in onward.iter().filter(|_| sum > 0.0) {
                *next.entry(*to).or_default() += DAMPING * rank * weight / sum;
            }
        }
        ranks = next;
    }
    ranks
}

/// What changed and calls nothing that changed comes first, then what changed, then the rest; within each by
/// how far it moved. What a service's callers see of it is its own change, too.
fn traversal(case: &Case<'_>) -> BTreeMap<ServiceId, f64> {
    const FELT: [Signal; 5] = [
        Signal::ErrorRatio,
        Signal::LatencyP50,
        Signal::LatencyP95,
        Signal::LatencyMean,
        Signal::OldestUnanswered,
    ];
    const SEEN: [EdgeSignal; 5] = [
        EdgeSignal::ErrorRatio,
        EdgeSignal::ClientP50,
        EdgeSignal::ClientP95,
        EdgeSignal::ClientMean,
        EdgeSignal::FailedConnects,
    ];
    let mut moved: BTreeMap<ServiceId, f64> = BTreeMap::new();
    for service in case.history.services() {
        let values = |signal, steps: &Range<Step>| case.history.values(service, signal, steps.clone());
        let of = |signal| z_score(&values(signal, &case.reference), &values(signal, &case.recent));
        moved.insert(service, FELT.into_iter().map(of).fold(0.0, f64::max));
    }
    for (caller, callee) in case.history.edges() {
        let values =
            |signal, steps: &Range<Step>| case.history.edge_values(caller, callee, signal, steps.clone());
        let of = |signal| z_score(&values(signal, &case.reference), &values(signal, &case.recent));
        let score = moved.entry(callee).or_default();
        *score = score.max(SEEN.into_iter().map(of).fold(0.0, f64::max));
    }
    let changed = |service: &ServiceId| moved.get(service).is_some_and(|score| *score > CHANGED);
    let class = |service: &ServiceId| {
        let deeper = || case.graph.neighbors_directed(*service, Outgoing).any(|callee| changed(&callee));
        match changed(service) {
            true if !deeper() => 2.0,
            true => 1.0,
            false => 0.0,
        }
    };
    moved.iter().map(|(service, score)| (*service, class(service) + score / (1.0 + score))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use faultline_core::graph::EdgeKind;
    use faultline_core::units::Nanos;
    use faultline_core::window::{EdgeWindow, Window};

    /// 0 calls 1, and 1 calls 2; 2 becomes slow, and so do they all.
    fn slow_leaf() -> (History, ServiceGraph) {
        let mut history = History::new(Nanos::from_secs(5), 1_000);
        let mut graph = ServiceGraph::new();
        graph.add_edge(ServiceId(0), ServiceId(1), EdgeKind::Grpc);
        graph.add_edge(ServiceId(1), ServiceId(2), EdgeKind::Grpc);
        for step in 0..24_u64 {
            let wobble = (step % 3) as f64;
            let slow = if step >= 20 { 100.0 } else { 0.0 };
            for (service, part) in [(0, 0.4), (1, 0.7), (2, 1.0)] {
                let mut window = Window::default();
                window.set(Signal::LatencyP50, Some(10.0 + wobble + slow * part));
                history.push(ServiceId(service), Step(step), window);
            }
            for (caller, callee, part) in [(0, 1, 0.7), (1, 2, 1.0)] {
                let mut window = EdgeWindow::default();
                window.set(EdgeSignal::ClientP50, Some(11.0 + wobble + slow * part));
                history.push_edge(ServiceId(caller), ServiceId(callee), Step(step), window);
            }
        }
        (history, graph)
    }

    #[test]
    fn a_slow_leaf_is_first_by_each() {
        let (history, graph) = slow_leaf();
        let case = Case {
            history: &history,
            graph: &graph,
            reference: Step(0)..Step(18),
            recent: Step(20)..Step(24),
        };
        for baseline in Baseline::ALL {
            let ranking: Vec<u32> = baseline.rank(&case).into_iter().map(|(service, _)| service.0).collect();
            assert_eq!(ranking.len(), 3);
            assert_eq!(ranking.first(), Some(&2), "{}: {ranking:?}", baseline.name());
        }
    }

    #[test]
    fn deviations_by_hand() {
        assert!((z_score(&[1.0, 2.0, 3.0], &[6.0]) - 4.0 / (2.0_f64 / 3.0).sqrt()).abs() < 1e-9);
        assert!((z_score(&[2.0, 2.0, 2.0], &[2.06]) - 3.0).abs() < 1e-9);
        assert!((z_score(&[0.0, 0.0, 0.0], &[0.5]) - 0.5).abs() < 1e-9);
        assert!((robust_score(&[1.0, 2.0, 3.0, 4.0, 5.0], &[4.0, 9.0]) - 3.0).abs() < 1e-9);
        assert!(z_score(&[1.0], &[9.0]).abs() < 1e-9 && robust_score(&[], &[9.0]).abs() < 1e-9);
    }
}
