//! Whether an episode can be trusted: the run's own truth and the agent's recording come in, a verdict goes
//! out. What is not trusted is kept and counted, but is no part of the data set.

use super::plan::{Episode, Quiet};
use anyhow::{Context, Result};
use faultline_core::pipeline::Pipeline;
use faultline_core::recording::Item;
use faultline_models::recordings;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Users' failures in quiet times, as a share: more means that the system broke by itself.
const MAX_UNPLANNED: f64 = 0.005;
/// The agent's calls may differ from the truth by this share, over the edges that no fault touched.
const MAX_DISAGREEMENT: f64 = 0.01;
/// Records that the agent lost, as a share of the calls that it saw.
const MAX_LOST: f64 = 0.01;

/// Calls from one service to another.
type Edge = (String, String);

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Verdict {
    /// Why not to trust it; empty if one may.
    pub(super) reasons: Vec<String>,
    /// Users' requests in quiet times.
    pub(super) quiet_requests: u64,
    /// Those that failed: nobody planned that.
    pub(super) unplanned_failures: u64,
    /// Calls between services by the truth, over the edges that no fault touched.
    pub(super) calls_true: u64,
    /// The same as the agent counted them.
    pub(super) calls_seen: u64,
    /// Their differences, summed without sign.
    pub(super) calls_disagreed: u64,
    /// The true calls over the edges that a fault touched: there, what is cut or reset may count for one only.
    pub(super) touched_calls_true: u64,
    /// The differences over these, summed without sign.
    pub(super) touched_calls_disagreed: u64,
    /// The edge that differs most among those that no fault touched: caller, callee, truth, agent.
    pub(super) worst_edge: Option<(String, String, u64, u64)>,
    /// Calls that the agent decoded, both ends.
    pub(super) calls_decoded: u64,
    /// What the agent lost, by reason.
    pub(super) lost: BTreeMap<String, u64>,
    /// Faults on the schedule that did not happen; the run's events say why.
    pub(super) faults_that_could_not_be: usize,
    /// Bytes of the recording.
    pub(super) recording_bytes: u64,
}

/// Looks at an episode's folder.
///
/// # Errors
/// When a file that every episode has is missing or damaged.
pub(super) fn verdict(folder: &Path, episode: &Episode, quiet: &[Quiet], happened: usize) -> Result<Verdict> {
    let run = folder.join("run");
    let recording = folder.join("agent.rec");
    let mut verdict = Verdict { recording_bytes: recording.metadata()?.len(), ..Verdict::default() };
    count_users(&run, quiet, &mut verdict)?;
    let seen = replay(&recording, &mut verdict)?;
    let broken: BTreeSet<&str> = episode.faults.iter().flat_map(|fault| fault.service.split("->")).collect();
    compare(&truth(&run)?, &seen, &broken, &mut verdict);
    verdict.reasons = reasons(&verdict);
    // A fault that this machine cannot make is no part of the truth; the rest is as good without it.
    verdict.faults_that_could_not_be = episode.faults.len().saturating_sub(happened);
    Ok(verdict)
}

fn reasons(verdict: &Verdict) -> Vec<String> {
    let mut reasons = Vec::new();
    let share = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
    let unplanned = share(verdict.unplanned_failures, verdict.quiet_requests);
    if unplanned > MAX_UNPLANNED {
        reasons.push(format!("{:.2} % of the users' requests failed in quiet times", unplanned * 100.0));
    }
    if verdict.quiet_requests == 0 {
        reasons.push("no user's request in quiet times".to_owned());
    }
    let disagreed = share(verdict.calls_disagreed, verdict.calls_true);
    if disagreed > MAX_DISAGREEMENT {
        reasons.push(format!("the agent's calls differ from the truth by {:.2} %", disagreed * 100.0));
    }
    let lost = share(verdict.lost.values().sum(), verdict.calls_decoded);
    if lost > MAX_LOST {
        reasons.push(format!("the agent lost {:.2} records a hundred calls", lost * 100.0));
    }
    reasons
}

/// What users felt while nothing was broken.
fn count_users(run: &Path, quiet: &[Quiet], verdict: &mut Verdict) -> Result<()> {
    #[derive(Deserialize)]
    struct Second {
        at: f64,
        sent: u64,
        failed: u64,
    }
    let path = run.join("load.jsonl");
    let seconds: Vec<Second> = crate::truth::read_lines(&path).with_context(|| path.display().to_string())?;
    for second in seconds {
        if quiet.iter().any(|quiet| (quiet.start..quiet.end).contains(&second.at)) {
            verdict.quiet_requests += second.sent;
            verdict.unplanned_failures += second.failed;
        }
    }
    Ok(())
}

/// The calls of each edge as the agent counted them by its end.
fn replay(recording: &Path, verdict: &mut Verdict) -> Result<BTreeMap<Edge, u64>> {
    let name = || recording.display().to_string();
    let reader = recordings::open(recording).with_context(name)?;
    let mut pipeline = Pipeline::new(reader.header().settings.clone(), None);
    let mut last = None;
    for item in reader {
        match item.with_context(name)? {
            Item::Event(event) => pipeline.handle(event, |_| {}),
            Item::Tick(now) => last = pipeline.tick(now, |_| {}).or(last),
        }
    }
    let coverage = last.with_context(|| format!("{}: no step was closed", name()))?.coverage;
    verdict.calls_decoded = coverage.calls;
    verdict.lost = coverage.lost;
    let mut edges = BTreeMap::new();
    for (labels, calls) in &pipeline.totals().client {
        let edge = (labels.service.to_string(), labels.peer.to_string());
        *edges.entry(edge).or_default() += calls.duration.count;
    }
    Ok(edges)
}

/// The calls of each edge as their callers wrote them down.
fn truth(run: &Path) -> Result<BTreeMap<Edge, u64>> {
    #[derive(Deserialize)]
    struct Count {
        caller: String,
        callee: String,
        calls: u64,
    }
    // Who serves gRPC; calls go to Redis and PostgreSQL, too.
    let served: BTreeMap<String, u64> = read(&run.join("calls.json"))?;
    let counts: Vec<Count> = read(&run.join("edges.json"))?;
    let grpc = counts.into_iter().filter(|count| served.contains_key(&count.callee));
    Ok(grpc.map(|count| ((count.caller, count.callee), count.calls)).collect())
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read(path).with_context(|| path.display().to_string())?;
    serde_json::from_slice(&text).with_context(|| path.display().to_string())
}

fn compare(
    truth: &BTreeMap<Edge, u64>,
    seen: &BTreeMap<Edge, u64>,
    broken: &BTreeSet<&str>,
    verdict: &mut Verdict,
) {
    let mut most = 0;
    for edge in truth.keys() {
        let count = |of: &BTreeMap<Edge, u64>| of.get(edge).copied().unwrap_or(0);
        let (true_calls, seen_calls) = (count(truth), count(seen));
        if broken.contains(edge.0.as_str()) || broken.contains(edge.1.as_str()) {
            verdict.touched_calls_true += true_calls;
            verdict.touched_calls_disagreed += true_calls.abs_diff(seen_calls);
            continue;
        }
        verdict.calls_true += true_calls;
        verdict.calls_seen += seen_calls;
        verdict.calls_disagreed += true_calls.abs_diff(seen_calls);
        if true_calls.abs_diff(seen_calls) > most {
            most = true_calls.abs_diff(seen_calls);
            verdict.worst_edge = Some((edge.0.clone(), edge.1.clone(), true_calls, seen_calls));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    fn edges(rows: &[(&str, &str, u64)]) -> BTreeMap<Edge, u64> {
        rows.iter().map(|(a, b, calls)| (((*a).to_owned(), (*b).to_owned()), *calls)).collect()
    }

    #[test]
    fn edges_that_a_fault_touched_are_left_out() {
        let truth = edges(&[("a", "b", 100), ("b", "c", 100), ("a", "d", 50)]);
        let seen = edges(&[("a", "b", 98), ("b", "c", 10)]);
        let mut verdict = Verdict::default();
        compare(&truth, &seen, &["c"].into(), &mut verdict);
        assert_eq!((verdict.calls_true, verdict.calls_seen, verdict.calls_disagreed), (150, 98, 52));
        assert_eq!((verdict.touched_calls_true, verdict.touched_calls_disagreed), (100, 90));
        assert_eq!(verdict.worst_edge, Some(("a".into(), "d".into(), 50, 0)));
    }

    #[test]
    fn each_reason_is_told() {
        let good =
            Verdict { quiet_requests: 1_000, calls_true: 1_000, calls_decoded: 1_000, ..Verdict::default() };
        assert_eq!(reasons(&good), Vec::<String>::new());
        let bad = Verdict {
            unplanned_failures: 6,
            calls_disagreed: 11,
            lost: [("hole".to_owned(), 11)].into(),
            ..good
        };
        assert_eq!(reasons(&bad).len(), 3);
        assert!(!reasons(&Verdict::default()).is_empty());
    }
}
