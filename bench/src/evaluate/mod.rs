//! Ranks the faults of data sets with the very function that the agent uses, beside simple and published
//! ways: files in, one JSON line a fault, a table, a JSON summary and a page with plots out.
//!
//! [`dataset`] reads; [`tables`] ranks windows that are tables, [`timeline`] lays them out in steps and
//! [`scores`] asks the model; [`replay`] runs recordings through the core, and [`cache`] keeps what came out;
//! [`baselines`] are the others' ways; [`outcome`] is what became of each fault, [`summary`] of them all, by
//! [`statistics`]; [`terminal`] and [`page`] show it.

mod baselines;
mod cache;
pub(crate) mod dataset;
mod names;
mod outcome;
mod page;
mod plots;
mod replay;
mod scores;
pub(crate) mod statistics;
mod summary;
mod tables;
mod terminal;
mod timeline;
mod work;

pub use tables::check;
pub(crate) use terminal::interval;

use crate::generate::Split;
use anyhow::{Context, Result, bail};
use clap::Args;
use faultline_core::score::Model;
use outcome::Findings;
use serde::Serialize;
use std::fs::File;
use std::io::{BufWriter, Write, stdout};
use std::path::{Path, PathBuf};
use summary::Summary;

/// The finer time base that some data sets have around each fault: file suffix and step in seconds.
const FINE: (&str, f64) = ("_10s", 10.0);

const HELP: &str = "\
DIR is one data set (meta.json in it) or a folder of them, as `playground generate` makes. Where an episode
has agent.rec or agent.rec.xz, it is replayed through the agent's core: detection, time to page and false
pages come from that. Other data sets have tables of windows, and only their rankings are judged.

How long it takes: public tables seconds; recordings about 5 s for each hour of load on two cores, so the
committed ones (3.5 hours) less than a minute. Each replayed episode is kept in
$XDG_CACHE_HOME/faultline/evaluated, by build, recording and model: a run that was stopped goes on there.

Rankings go to --out or standard output, one JSON object a line; the table goes to standard error.

Examples:
  playground evaluate data/nezha-ob --out rankings.jsonl
  playground evaluate bench/data --report faults.html --json faults.json --out /dev/null";

/// Rank the faults of a data set, and say how well.
#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub struct Evaluate {
    /// A folder with meta.json, graph.csv, a faults file and episodes/; or a folder of such folders
    dir: PathBuf,
    /// Where to write the rankings, one JSON object a line [default: standard output]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Leave the autoencoder's evidence out
    #[arg(long)]
    no_model: bool,
    /// Say on standard error why each first place is first (not for recordings)
    #[arg(long)]
    explain: bool,
    /// Write a page with tables and plots, one file without anything from elsewhere
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// Write every number of the table, and each fault's outcome
    #[arg(long, value_name = "FILE.json")]
    json: Option<PathBuf>,
    /// Another autoencoder than the one that comes with the agent; its contract.json lies beside it
    #[arg(long, value_name = "FILE.onnx")]
    model: Option<PathBuf>,
    /// Episodes replayed at a time [default: the number of cores]
    #[arg(long, value_name = "N")]
    parallel: Option<usize>,
    /// Replay everything again, whatever was kept
    #[arg(long)]
    fresh: bool,
}

#[derive(Serialize)]
struct Ranking<'a> {
    fault_id: &'a str,
    ranking: &'a [String],
}

impl Evaluate {
    /// Reads the data sets, writes their rankings and says how good they are.
    ///
    /// # Errors
    /// When a file is missing or a row cannot be read; the message names the file and the line.
    pub fn run(&self) -> Result<()> {
        let mut findings = Findings::default();
        let model = self.model();
        for dir in folders(&self.dir)? {
            let found = work::findings(&dir, self, model.is_some())?;
            findings.outcomes.extend(found.outcomes);
            findings.quiet.extend(found.quiet);
        }
        if let Some(split) = split(&self.dir)? {
            for outcome in &mut findings.outcomes {
                outcome.held_out = split.tests(&outcome.dataset, &outcome.kind);
            }
        }
        self.write_rankings(&findings)?;
        let digest = model.as_ref().map(|model| model.digest().to_owned());
        let summary = Summary::of(&findings, &self.dir, digest);
        if summary.is_empty() {
            return Ok(());
        }
        eprint!("{}", terminal::table(&summary));
        if let Some(path) = &self.json {
            let whole = serde_json::json!({ "summary": summary, "faults": findings.outcomes, "quiet": findings.quiet });
            write(path, &(serde_json::to_string_pretty(&whole)? + "\n"))?;
        }
        match &self.report {
            Some(path) => write(path, &page::html(&summary, &findings)),
            None => Ok(()),
        }
    }

    /// The model, unless it is not wanted or not there: then the ranking goes without, and says so.
    fn model(&self) -> Option<Box<dyn Model>> {
        if self.no_model {
            return None;
        }
        match faultline_models::load(self.model.as_deref(), None) {
            Ok(model) => Some(model),
            Err(error) => {
                eprintln!("ranking without the model: {error}");
                None
            }
        }
    }

    fn write_rankings(&self, findings: &Findings) -> Result<()> {
        let mut out = output(self.out.as_deref())?;
        for outcome in &findings.outcomes {
            let line = Ranking { fault_id: &outcome.fault_id, ranking: &outcome.ranking };
            serde_json::to_writer(&mut out, &line)?;
            writeln!(out)?;
        }
        Ok(out.flush()?)
    }
}

/// The data sets in a folder: itself, or those that it holds, in order of their names.
fn folders(dir: &Path) -> Result<Vec<PathBuf>> {
    if dir.join("meta.json").exists() {
        return Ok(vec![dir.to_owned()]);
    }
    let entries = std::fs::read_dir(dir).with_context(|| dir.display().to_string())?;
    let mut folders: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(|path| path.join("meta.json").exists()).collect();
    folders.sort();
    if folders.is_empty() {
        bail!("{}: a data set needs meta.json (step_s at least), and no folder in it has one", dir.display());
    }
    Ok(folders)
}

/// What may be trained on, where the data set or its folder says so.
fn split(dir: &Path) -> Result<Option<Split>> {
    let beside = dir.parent().map(|parent| parent.join("split.json"));
    let Some(path) = [Some(dir.join("split.json")), beside].into_iter().flatten().find(|path| path.exists())
    else {
        return Ok(None);
    };
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    Ok(Some(serde_json::from_str(&text).with_context(|| path.display().to_string())?))
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))
}

/// A file, or standard output.
pub(crate) fn output(path: Option<&Path>) -> Result<Box<dyn Write>> {
    Ok(match path {
        Some(path) => {
            let file = File::create(path).with_context(|| path.display().to_string())?;
            Box::new(BufWriter::new(file))
        }
        None => Box::new(stdout().lock()),
    })
}
