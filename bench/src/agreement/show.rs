//! The judgement for a reader: a table of edges goes to standard error, all numbers to a file, and what is not
//! good enough becomes the error that ends the program.

use super::{Agreement, Users};
use crate::rows::rows;
use crate::watcher::RECORDING;
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

/// A system is taken for healthy again this long after a fault, seconds.
const RECOVERY: f64 = 60.0;

/// Flags of `playground compare`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "`playground run --agent` does this at its end. Edges that a fault struck are shown and not judged.\n\n\
    Exit code: 0 if every edge and the users' failures are within --tolerance, else 1.\n\n\
    Examples:\n  \
    playground run --topology bench/topologies/online-boutique.toml --seconds 600 --agent --out shop\n  \
    playground compare shop\n  \
    playground compare shop --recording node.rec --json counts.json"
)]
pub struct Compare {
    /// The folder that `playground run` wrote
    run: PathBuf,
    /// What the agent recorded from before the run's start to after its end [default: RUN/agent.rec]
    #[arg(long)]
    recording: Option<PathBuf>,
    /// Share of an edge's calls by which the two may differ, and of the users' requests that may fail unplanned
    #[arg(long, default_value_t = TOLERANCE)]
    tolerance: f64,
    /// Write every number here
    #[arg(long)]
    json: Option<PathBuf>,
}

/// One in a thousand.
const TOLERANCE: f64 = 0.001;

impl Compare {
    /// Compares and judges.
    ///
    /// # Errors
    /// When files are missing, or the two do not agree.
    pub fn run(&self) -> Result<()> {
        ensure!((0.0..=1.0).contains(&self.tolerance), "--tolerance must be from 0 to 1");
        let recording = self.recording.clone().unwrap_or_else(|| self.run.join(RECORDING));
        ensure!(
            recording.is_file(),
            "{} is not there: name the agent's recording with --recording, or let `playground run --agent` make one",
            recording.display()
        );
        compare(&self.run, &recording, self.tolerance, self.json.as_deref())
    }
}

/// Compares a run with the recording in its folder, and writes `agreement.json` there.
///
/// # Errors
/// When files are missing, or the two do not agree.
pub fn judge(run: &Path) -> Result<()> {
    compare(run, &run.join(RECORDING), TOLERANCE, Some(&run.join("agreement.json")))
}

fn compare(run: &Path, recording: &Path, tolerance: f64, json: Option<&Path>) -> Result<()> {
    let faults: Vec<Fault> = rows(&run.join("faults.csv"))?.collect::<Result<_>>()?;
    let broken: BTreeSet<&str> = faults.iter().flat_map(|fault| fault.service.split('|')).collect();
    let found = Judgement {
        tolerance,
        agreement: Agreement::of(run, recording, &broken)?,
        users: Users::of(run, |at| {
            !faults.iter().any(|fault| (fault.start..fault.end + RECOVERY).contains(&at))
        })?,
    };
    if let Some(path) = json {
        std::fs::write(path, serde_json::to_string_pretty(&found)? + "\n")
            .with_context(|| format!("{} cannot be written", path.display()))?;
    }
    let terminal = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    eprint!("{}", found.table(terminal));
    match found.complaints().as_slice() {
        [] => Ok(()),
        complaints => bail!("{}", complaints.join("; ")),
    }
}

/// Everything that is judged.
#[derive(Debug, Serialize)]
struct Judgement {
    tolerance: f64,
    users: Users,
    #[serde(flatten)]
    agreement: Agreement,
}

impl Judgement {
    fn is_off(&self, share: f64) -> bool {
        share > self.tolerance
    }

    fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        let judged = || self.agreement.edges.iter().filter(|edge| !edge.touched);
        let off = judged().filter(|edge| self.is_off(edge.share())).count();
        if off > 0 {
            complaints.push(format!(
                "the agent's calls differ from the truth by more than {} on {off} of {} edges",
                percent(self.tolerance),
                judged().count()
            ));
        }
        if judged().next().is_none() {
            complaints.push("there is no edge to compare".to_owned());
        }
        if self.users.requests == 0 {
            complaints.push("no user sent a request".to_owned());
        }
        if self.is_off(self.users.share()) {
            complaints.push(format!(
                "{} of {} requests of users failed unplanned",
                self.users.failures, self.users.requests
            ));
        }
        complaints
    }

    fn table(&self, colours: bool) -> String {
        let width = self.agreement.edges.iter().map(|edge| edge.caller.len() + edge.callee.len() + 4);
        let width = width.max().unwrap_or(0).max("edge".len());
        let mut text =
            format!("{:width$} {:>9} {:>9} {:>6} {:>9}\n", "edge", "truth", "agent", "diff", "share");
        for edge in &self.agreement.edges {
            let name = format!("{} -> {}", edge.caller, edge.callee);
            let difference = i128::from(edge.agent) - i128::from(edge.truth);
            let off = self.is_off(edge.share()) && !edge.touched;
            let (begin, end) = if colours && off { ("\x1b[31m", "\x1b[0m") } else { ("", "") };
            let note = match (edge.touched, off) {
                (true, _) => "  struck by a fault",
                (false, true) => "  !",
                (false, false) => "",
            };
            let (truth, agent, share) = (edge.truth, edge.agent, percent(edge.share()));
            let _ = writeln!(
                text,
                "{begin}{name:width$} {truth:>9} {agent:>9} {difference:>+6} {share:>9}{note}{end}"
            );
        }
        let judged = || self.agreement.edges.iter().filter(|edge| !edge.touched);
        let (truth, differing) =
            judged().fold((0, 0), |(truth, off), edge| (truth + edge.truth, off + edge.difference()));
        let _ = writeln!(
            text,
            "{truth} calls on {} edges, {differing} of them differ; {} of {} requests of users failed unplanned ({}){}",
            judged().count(),
            self.users.failures,
            self.users.requests,
            percent(self.users.share()),
            lost(&self.agreement),
        );
        text
    }
}

fn lost(agreement: &Agreement) -> String {
    let lost: Vec<String> = agreement
        .lost
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    if lost.is_empty() { String::new() } else { format!("; the agent lost {}", lost.join(", ")) }
}

fn percent(share: f64) -> String {
    format!("{:.3} %", share * 100.0)
}

/// A row of faults.csv.
#[derive(Debug, Deserialize)]
struct Fault {
    start: f64,
    end: f64,
    service: String,
}

#[cfg(test)]
mod tests {
    use super::super::Edge;
    use super::*;

    fn judgement(edges: &[(u64, u64, bool)], requests: u64, failures: u64) -> Judgement {
        let edge = |(truth, agent, touched): &(u64, u64, bool)| Edge {
            caller: "a".into(),
            callee: "b".into(),
            grpc: true,
            touched: *touched,
            truth: *truth,
            agent: *agent,
        };
        let agreement = Agreement { edges: edges.iter().map(edge).collect(), ..Agreement::default() };
        Judgement { tolerance: TOLERANCE, agreement, users: Users { requests, failures } }
    }

    #[test]
    fn one_in_a_thousand_is_good_enough_and_two_are_not() {
        let good = judgement(&[(1_000, 1_001, false), (1_000, 999, false), (10, 0, true)], 1_000, 1);
        assert_eq!(good.complaints(), Vec::<String>::new());
        assert_eq!(judgement(&[(1_000, 1_002, false)], 1_000, 0).complaints().len(), 1);
        assert_eq!(judgement(&[(0, 1, false)], 1_000, 0).complaints().len(), 1);
        assert_eq!(judgement(&[(1_000, 1_000, false)], 1_000, 2).complaints().len(), 1);
        assert_eq!(judgement(&[(10, 0, true)], 0, 0).complaints().len(), 2);
    }

    #[test]
    fn the_table_marks_what_is_off() {
        let shown =
            judgement(&[(1_000, 1_000, false), (1_000, 990, false), (9, 0, true)], 1_000, 1).table(false);
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines.len(), 5, "{shown}");
        let marked: Vec<bool> = lines.iter().map(|line| line.ends_with('!')).collect();
        assert_eq!(marked, [false, false, true, false, false], "{shown}");
        assert!(shown.contains("  -10   1.000 %  !") && shown.contains("struck by a fault"), "{shown}");
        assert!(shown.contains("2000 calls on 2 edges, 10 of them differ; 1 of 1000 requests"), "{shown}");
    }
}
