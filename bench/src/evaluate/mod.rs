//! Ranks the faults of a data set with the very function that the agent uses: files in, one JSON line a
//! fault out. [`dataset`] reads, [`timeline`] lays windows out in steps, `faultline_core::rank` ranks.

mod dataset;
mod names;
mod scores;
mod timeline;

use anyhow::{Context, Result};
use clap::Args;
use dataset::{Dataset, Fault, Windows};
use faultline_core::rank::{Question, rank};
use faultline_core::score::Model;
use faultline_core::units::ServiceId;
use serde::Serialize;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufWriter, Write, stdout};
use std::path::{Path, PathBuf};
use timeline::Timeline;

/// The finer time base that some data sets have around each fault: file suffix and step in seconds.
const FINE: (&str, f64) = ("_10s", 10.0);

/// Rank the faults of a data set.
#[derive(Args, Debug)]
pub struct Evaluate {
    /// A folder with meta.json, graph.csv, a faults file and episodes/.
    dir: PathBuf,
    /// Where to write the rankings, one JSON object a line [default: standard output].
    #[arg(long)]
    out: Option<PathBuf>,
    /// Leave the autoencoder's evidence out.
    #[arg(long)]
    no_model: bool,
    /// Say on standard error why each first place is first.
    #[arg(long)]
    explain: bool,
}

#[derive(Serialize)]
struct Ranking<'a> {
    fault_id: &'a str,
    ranking: Vec<&'a str>,
}

/// Reads a data set whole and ranks nothing; says how many faults it has.
///
/// # Errors
/// As [`Evaluate::run`].
pub fn check(dir: &Path) -> Result<usize> {
    let mut dataset = Dataset::open(dir)?;
    for fault in dataset.faults.clone() {
        for suffix in ["", FINE.0] {
            dataset.windows(&fault.episode, suffix)?;
            dataset.windows(&fault.ref_episode, suffix)?;
        }
    }
    Ok(dataset.faults.len())
}

impl Evaluate {
    /// Reads the data set and writes its rankings.
    ///
    /// # Errors
    /// When a file is missing or a row cannot be read; the message names the file and the line.
    pub fn run(&self) -> Result<()> {
        let mut dataset = Dataset::open(&self.dir)?;
        let mut out = output(self.out.as_deref())?;
        let mut episodes = Episodes::default();
        let mut model = self.model();
        for fault in dataset.faults.clone() {
            let scores = self.suspects(&mut dataset, &mut episodes, &fault, &mut model)?;
            let ranking = scores.iter().map(|(service, _)| dataset.names.name(*service)).collect();
            serde_json::to_writer(&mut out, &Ranking { fault_id: &fault.fault_id, ranking })?;
            writeln!(out)?;
        }
        out.flush()?;
        episodes.say_unknown();
        Ok(())
    }

    /// The model, unless it is not wanted or not there: then the ranking goes without, and says so.
    fn model(&self) -> Option<Box<dyn Model>> {
        if self.no_model {
            return None;
        }
        match faultline_models::load(None, None) {
            Ok(model) => Some(model),
            Err(error) => {
                eprintln!("ranking without the model: {error}");
                None
            }
        }
    }

    /// Every suspect with its score over all time bases, best first.
    fn suspects(
        &self,
        dataset: &mut Dataset,
        episodes: &mut Episodes,
        fault: &Fault,
        model: &mut Option<Box<dyn Model>>,
    ) -> Result<Vec<(ServiceId, f64)>> {
        let coarse = (dataset.meta.step_s, dataset.meta.to_middle());
        let fine = (FINE.1, FINE.1 / 2.0);
        let mut totals: BTreeMap<ServiceId, f64> = BTreeMap::new();
        for (suffix, (step, to_middle)) in [("", coarse), (FINE.0, fine)] {
            episodes.load(dataset, &fault.episode, suffix)?;
            episodes.load(dataset, &fault.ref_episode, suffix)?;
            let (Some(windows), Some(usual)) =
                (episodes.windows(&fault.episode, suffix), episodes.windows(&fault.ref_episode, suffix))
            else {
                continue;
            };
            let timeline = Timeline::new(fault, windows, usual, step, to_middle);
            let surprises =
                model.as_deref_mut().map_or_else(BTreeMap::new, |model| scores::of(&timeline, model));
            let blames = rank(&Question {
                history: &timeline.history,
                graph: &dataset.graph,
                reference: timeline.reference.clone(),
                recent: timeline.recent.clone(),
                scores: &surprises,
                masked: &BTreeSet::new(),
            });
            for blame in &blames {
                *totals.entry(blame.service).or_default() += blame.score;
            }
            if self.explain {
                explain(dataset, fault, suffix, &blames);
            }
        }
        let mut totals: Vec<(ServiceId, f64)> = totals.into_iter().collect();
        totals.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        Ok(totals)
    }
}

/// Episodes that were read, by name and time base.
#[derive(Default)]
struct Episodes(BTreeMap<(String, String), Option<Windows>>);

impl Episodes {
    fn load(&mut self, dataset: &mut Dataset, episode: &str, suffix: &str) -> Result<()> {
        if let Entry::Vacant(place) = self.0.entry((episode.to_owned(), suffix.to_owned())) {
            place.insert(dataset.windows(episode, suffix)?);
        }
        Ok(())
    }

    fn windows(&self, episode: &str, suffix: &str) -> Option<&Windows> {
        self.0.get(&(episode.to_owned(), suffix.to_owned()))?.as_ref()
    }

    fn say_unknown(&self) {
        let mut unknown: BTreeMap<&str, u64> = BTreeMap::new();
        for windows in self.0.values().flatten() {
            for (name, rows) in &windows.unknown {
                *unknown.entry(name).or_default() += rows;
            }
        }
        for (name, rows) in unknown {
            eprintln!("metric `{name}` is not known and was left out: {rows} rows");
        }
    }
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

fn explain(dataset: &Dataset, fault: &Fault, suffix: &str, blames: &[faultline_core::rank::Blame]) {
    for (place, blame) in blames.iter().take(3).enumerate() {
        let name = dataset.names.name(blame.service);
        eprintln!("{}{suffix} {}. {name} {:.2}", fault.fault_id, place + 1, blame.score);
        for reason in blame.evidence.iter().take(6) {
            let peer = reason.peer.map_or("", |peer| dataset.names.name(peer));
            eprintln!(
                "    {:+.2} {} {} {peer}: {}",
                reason.weight, reason.family, reason.signal, reason.text
            );
        }
    }
}
