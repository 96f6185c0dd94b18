//! The episodes that are done come in; the data set's files go out: one data set a system (its graph is one),
//! and beside them the split and a summary of the whole.

use super::episode::{self, Record};
use super::plan::{Plan, shuffle};
use crate::random::Random;
use crate::rows::rows;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

/// This share of the systems, and of the kinds of faults, is for training.
const FOR_TRAINING: f64 = 0.4;

/// The first seconds of a load show connections and caches that fill, not what is usual.
const SETTLED: f64 = 15.0;

/// What may be learned from and what is tested: no system and no kind of fault is in both.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Split {
    /// Learned from.
    pub train: Part,
    /// Tested.
    pub test: Part,
}

/// One side of a split.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// Systems.
    pub topologies: BTreeSet<String>,
    /// Kinds of faults.
    pub kinds: BTreeSet<String>,
}

impl Split {
    /// Draws which systems and kinds are on which side.
    pub(super) fn draw(plan: &Plan) -> Self {
        let mut random = Random::seeded(plan.settings.seed ^ 0x5917);
        // All stacks of one topology are on the same side.
        let topologies = plan.episodes.iter().map(|episode| episode.topology.clone()).collect();
        let kinds = plan.episodes.iter().flat_map(|episode| &episode.faults).map(|fault| fault.kind.clone());
        let kinds = kinds.collect();
        let (train_topologies, test_topologies) = cut(topologies, &mut random);
        let systems = |of: &BTreeSet<String>| {
            let those = plan.episodes.iter().filter(|episode| of.contains(&episode.topology));
            those.map(|episode| episode.system.clone()).collect()
        };
        let (train_kinds, test_kinds) = cut(kinds, &mut random);
        Self {
            train: Part { topologies: systems(&train_topologies), kinds: train_kinds },
            test: Part { topologies: systems(&test_topologies), kinds: test_kinds },
        }
    }

    /// Whether a fault is of the tested side in both ways.
    #[must_use]
    pub fn tests(&self, system: &str, kind: &str) -> bool {
        self.test.topologies.contains(system) && self.test.kinds.contains(kind)
    }
}

/// Two parts of a set; where there is only one element it is tested.
fn cut(all: BTreeSet<String>, random: &mut Random) -> (BTreeSet<String>, BTreeSet<String>) {
    let mut all: Vec<String> = all.into_iter().collect();
    shuffle(&mut all, random);
    let count = if all.len() < 2 { 0 } else { ((all.len() as f64 * FOR_TRAINING) as usize).max(1) };
    let tested = all.split_off(count);
    (all.into_iter().collect(), tested.into_iter().collect())
}

/// Every episode that is done, in the plan's order.
pub(super) fn records(dir: &Path, plan: &Plan) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    for planned in &plan.episodes {
        let path = episode::folder(dir, planned).join(episode::RECORD);
        if let Ok(text) = fs::read_to_string(&path) {
            records.push(serde_json::from_str(&text).with_context(|| path.display().to_string())?);
        }
    }
    Ok(records)
}

/// Writes all files that tell of the episodes.
pub(super) fn write(dir: &Path, plan: &Plan) -> Result<Vec<Record>> {
    let records = records(dir, plan)?;
    let mut systems: BTreeMap<&str, Vec<&Record>> = BTreeMap::new();
    for record in records.iter().filter(|record| record.verdict.reasons.is_empty()) {
        systems.entry(&record.system).or_default().push(record);
    }
    for (name, records) in &systems {
        one(&dir.join(name), name, records)?;
    }
    json_file(&dir.join("split.json"), &Split::draw(plan))?;
    json_file(&dir.join("summary.json"), &summary(plan, &records))?;
    Ok(records)
}

fn json_file(path: &Path, value: &impl Serialize) -> Result<()> {
    fs::write(path, serde_json::to_string_pretty(value)? + "\n")
        .with_context(|| format!("{} cannot be written", path.display()))
}

/// One system's data set.
fn one(dir: &Path, name: &str, records: &[&Record]) -> Result<()> {
    let mut faults = String::from(
        "fault_id,episode,start,end,service,fault_type,ref_episode,ref_start,ref_end,target_service,\
         target_metric,alarm_time,note\n",
    );
    let mut periods = String::from("episode,start,end,use,note\n");
    let mut graph: BTreeMap<(String, String), u64> = BTreeMap::new();
    for record in records {
        let episode = &record.id;
        let first = record.faults.first().map_or(record.stopped, |fault| fault.start);
        writeln!(periods, "{episode},{:.3},{first:.3},reference,before the first fault", record.started)?;
        for quiet in &record.quiet {
            writeln!(
                periods,
                "{episode},{:.3},{:.3},false_alarm_test,{}",
                quiet.start, quiet.end, quiet.what
            )?;
        }
        for (number, fault) in record.faults.iter().enumerate() {
            // Whoever finds one of two at once has found a culprit; the row's own comes first.
            let also = record
                .faults
                .iter()
                .filter(|other| (other.start - fault.start).abs() < 1.0 && other.service != fault.service);
            let culprits: Vec<&str> =
                std::iter::once(fault).chain(also).map(|fault| fault.service.as_str()).collect();
            let note = match (fault.gentle, culprits.len() > 1) {
                (true, true) => "gentle; two at once",
                (true, false) => "gentle",
                (false, true) => "two at once",
                (false, false) => "",
            };
            writeln!(
                faults,
                "{episode}-{:02},{episode},{:.3},{:.3},{},{},{episode},{:.3},{first:.3},{},,,{note}",
                number + 1,
                fault.start,
                fault.end,
                culprits.join("|"),
                fault.kind,
                record.started + SETTLED,
                record.entry,
            )?;
        }
        edges(&dir.join("episodes").join(episode), &mut graph)?;
    }
    let mut rows = String::from("caller,callee,calls,kind\n");
    for ((caller, callee), calls) in graph {
        writeln!(rows, "{caller},{callee},{calls},call")?;
    }
    fs::write(dir.join("faults.csv"), faults)?;
    fs::write(dir.join("normal_periods.csv"), periods)?;
    fs::write(dir.join("graph.csv"), rows)?;
    let entry = records.first().map_or("", |record| record.entry.as_str());
    json_file(
        &dir.join("meta.json"),
        &json!({
            "dataset": name, "source": "playground generate", "step_s": 5, "entry": entry,
            "timestamp": "START of the window", "view": "nodes and edges: the truth; agent.rec: the agent's",
        }),
    )
}

/// Adds an episode's edges, and puts its windows where the data-set format has them.
fn edges(episode: &Path, graph: &mut BTreeMap<(String, String), u64>) -> Result<()> {
    #[derive(Deserialize)]
    struct Row {
        caller: String,
        callee: String,
        calls: Option<u64>,
    }
    let run = episode.join("run");
    for row in rows(&run.join("graph.csv"))? {
        let Row { caller, callee, calls } = row?;
        *graph.entry((caller, callee)).or_default() += calls.unwrap_or(0);
    }
    for file in ["nodes.csv.gz", "edges.csv.gz"] {
        let (from, to) = (run.join("episodes/run").join(file), episode.join(file));
        if from.exists() && !to.exists() {
            fs::hard_link(&from, &to).with_context(|| to.display().to_string())?;
        }
    }
    Ok(())
}

/// What the whole is: where it comes from, how much of it there is, and what was left out and why.
fn summary(plan: &Plan, records: &[Record]) -> serde_json::Value {
    let trusted: Vec<&Record> = records.iter().filter(|record| record.verdict.reasons.is_empty()).collect();
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for fault in trusted.iter().flat_map(|record| &record.faults) {
        *kinds.entry(&fault.kind).or_default() += 1;
    }
    let quiet: f64 =
        trusted.iter().flat_map(|record| &record.quiet).map(|quiet| quiet.end - quiet.start).sum();
    let left_out: BTreeMap<&str, &Vec<String>> = records
        .iter()
        .filter(|record| !record.verdict.reasons.is_empty())
        .map(|record| (record.id.as_str(), &record.verdict.reasons))
        .collect();
    json!({
        "settings": plan.settings,
        "commit": commit(),
        "first_started_unix": records.iter().map(|record| record.started).reduce(f64::min),
        "last_stopped_unix": records.iter().map(|record| record.stopped).reduce(f64::max),
        "machine": machine(),
        "episodes": { "planned": plan.episodes.len(), "done": records.len(), "trusted": trusted.len() },
        "left_out": left_out,
        "faults": { "planned": plan.faults(), "trusted": kinds.values().sum::<usize>(), "by_kind": kinds },
        "quiet_minutes": quiet / 60.0,
        "users_requests_in_quiet_times": trusted.iter().map(|record| record.verdict.quiet_requests).sum::<u64>(),
        "unplanned_failures": trusted.iter().map(|record| record.verdict.unplanned_failures).sum::<u64>(),
        "calls_true": trusted.iter().map(|record| record.verdict.calls_true).sum::<u64>(),
        "calls_disagreed": trusted.iter().map(|record| record.verdict.calls_disagreed).sum::<u64>(),
        "touched_calls_true": trusted.iter().map(|record| record.verdict.touched_calls_true).sum::<u64>(),
        "touched_calls_disagreed":
            trusted.iter().map(|record| record.verdict.touched_calls_disagreed).sum::<u64>(),
        "faults_that_could_not_be":
            trusted.iter().map(|record| record.verdict.faults_that_could_not_be).sum::<usize>(),
        "records_lost": trusted.iter().flat_map(|record| record.verdict.lost.values()).sum::<u64>(),
        "recording_bytes": trusted.iter().map(|record| record.verdict.recording_bytes).sum::<u64>(),
    })
}

/// The commit that this was built in, where there is a checkout.
pub(crate) fn commit() -> Option<String> {
    let said = Command::new("git")
        .args(["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty", "--abbrev=12"])
        .output()
        .ok()
        .filter(|said| said.status.success())?;
    Some(String::from_utf8_lossy(&said.stdout).trim().to_owned())
}

fn machine() -> serde_json::Value {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    json!({ "cores": std::thread::available_parallelism().map_or(0, usize::from), "kernel": kernel.trim() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_on_both_sides() {
        let names = |prefix: &str, count: u32| (0..count).map(|n| format!("{prefix}{n}")).collect();
        let (train, test) = cut(names("t", 5), &mut Random::seeded(1));
        assert_eq!((train.len(), test.len()), (2, 3));
        assert!(train.is_disjoint(&test));
        let (train, test) = cut(names("t", 1), &mut Random::seeded(1));
        assert_eq!((train.len(), test.len()), (0, 1));
    }
}
