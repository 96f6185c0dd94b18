//! Whether an episode can be trusted: the run's own truth and the agent's recording come in, a verdict goes
//! out. What is not trusted is kept and counted, but is no part of the data set.

use super::plan::{Episode, Quiet};
use crate::agreement::{Agreement, Users};
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Users' failures in quiet times, as a share: more means that the system broke by itself.
const MAX_UNPLANNED: f64 = 0.005;
/// The agent's calls may differ from the truth by this share, over the edges that no fault touched.
const MAX_DISAGREEMENT: f64 = 0.01;
/// Records that the agent lost, as a share of the calls that it saw.
const MAX_LOST: f64 = 0.01;

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
    let recording = folder.join(crate::watcher::RECORDING);
    let users = Users::of(&run, |at| quiet.iter().any(|quiet| (quiet.start..quiet.end).contains(&at)))?;
    let mut verdict = Verdict {
        recording_bytes: recording.metadata()?.len(),
        quiet_requests: users.requests,
        unplanned_failures: users.failures,
        ..Verdict::default()
    };
    let broken: BTreeSet<&str> = episode.faults.iter().flat_map(|fault| fault.service.split("->")).collect();
    add(Agreement::of(&run, &recording, &broken)?, &mut verdict);
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

/// Sums the edges between services; operations on back ends are left to `playground compare`.
fn add(agreement: Agreement, verdict: &mut Verdict) {
    verdict.calls_decoded = agreement.decoded;
    verdict.lost = agreement.lost;
    let mut most = 0;
    for edge in agreement.edges.into_iter().filter(|edge| edge.grpc && edge.truth > 0) {
        let difference = edge.difference();
        if edge.touched {
            verdict.touched_calls_true += edge.truth;
            verdict.touched_calls_disagreed += difference;
            continue;
        }
        verdict.calls_true += edge.truth;
        verdict.calls_seen += edge.agent;
        verdict.calls_disagreed += difference;
        if difference > most {
            most = difference;
            verdict.worst_edge = Some((edge.caller, edge.callee, edge.truth, edge.agent));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agreement::Edge;

    #[test]
    fn edges_that_a_fault_touched_are_left_out() {
        let edge = |(caller, callee, truth, agent, touched): (&str, &str, u64, u64, bool)| Edge {
            caller: caller.into(),
            callee: callee.into(),
            grpc: callee != "store",
            touched,
            truth,
            agent,
        };
        let rows = [
            ("a", "b", 100, 98, false),
            ("b", "c", 100, 10, true),
            ("a", "d", 50, 0, false),
            ("a", "store", 70, 0, false),
        ];
        let mut verdict = Verdict::default();
        add(Agreement { edges: rows.map(edge).into(), ..Agreement::default() }, &mut verdict);
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
