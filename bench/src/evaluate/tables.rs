//! Ranks the faults of a data set that is tables of windows: the public ones, and a run's truth.

use super::FINE;
use super::baselines::{Case, Scores, sorted};
use super::dataset::{Dataset, Fault, Windows};
use super::outcome::{Asked, Findings, NO_MODEL, Outcome, baselines};
use super::scores;
use super::timeline::Timeline;
use anyhow::Result;
use faultline_core::rank::Blame;
use faultline_core::score::Model;
use faultline_core::units::ServiceId;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Reads a data set whole and ranks nothing; says how many faults it has.
///
/// # Errors
/// When a file is missing or a row cannot be read; the message names the file and the line.
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

/// Ranks every fault of a data set.
pub(super) fn rank_all(
    dataset: &mut Dataset,
    name: &str,
    model: &mut Option<Box<dyn Model>>,
    explain: bool,
) -> Result<Findings> {
    let mut episodes = Episodes::default();
    let mut findings = Findings::default();
    for fault in dataset.faults.clone() {
        let mut outcome = fault.outcome(name);
        rank_one(dataset, &mut episodes, &fault, model, explain, &mut outcome)?;
        findings.outcomes.push(outcome);
    }
    episodes.say_unknown();
    Ok(findings)
}

/// Sums of scores over all time bases.
type Totals = BTreeMap<ServiceId, f64>;

/// Ranks one fault by every method; a method's scores are summed over the time bases.
fn rank_one(
    dataset: &mut Dataset,
    episodes: &mut Episodes,
    fault: &Fault,
    model: &mut Option<Box<dyn Model>>,
    explain: bool,
    outcome: &mut Outcome,
) -> Result<()> {
    let coarse = (dataset.meta.step_s, dataset.meta.to_middle());
    let fine = (FINE.1, FINE.1 / 2.0);
    let (mut ours, mut without) = (Totals::new(), Totals::new());
    let mut others: BTreeMap<&'static str, Totals> = BTreeMap::new();
    for (suffix, (step, to_middle)) in [("", coarse), (FINE.0, fine)] {
        episodes.load(dataset, &fault.episode, suffix)?;
        episodes.load(dataset, &fault.ref_episode, suffix)?;
        let (Some(windows), Some(usual)) =
            (episodes.windows(&fault.episode, suffix), episodes.windows(&fault.ref_episode, suffix))
        else {
            continue;
        };
        let timeline = Timeline::new(fault, windows, usual, step, to_middle);
        let surprises = model.as_deref_mut().map_or_else(BTreeMap::new, |model| scores::of(&timeline, model));
        let asked = Asked {
            case: Case {
                history: &timeline.history,
                graph: &dataset.graph,
                reference: timeline.reference.clone(),
                recent: timeline.recent.clone(),
            },
            masked: &BTreeSet::new(),
            surprises: &surprises,
        };
        let blames = asked.ours(true);
        add(&mut ours, blames.iter().map(|blame| (blame.service, blame.score)));
        add(&mut without, asked.ours(false).into_iter().map(|blame| (blame.service, blame.score)));
        if fault.is_labelled() {
            for (method, scores) in baselines(&asked.case) {
                add(others.entry(method).or_default(), scores.into_iter());
            }
        }
        if explain {
            say_why(dataset, fault, suffix, &blames);
        }
    }
    let name = |service| dataset.names.name(service);
    outcome.take_ours(&sorted(ours), name);
    let names = |scores: Scores| scores.iter().map(|(id, _)| name(*id).to_owned()).collect::<Vec<_>>();
    outcome.hit(NO_MODEL, &names(sorted(without)));
    let others = others.into_iter().map(|(method, totals)| (method, sorted(totals))).collect();
    outcome.take_baselines(&others, name);
    Ok(())
}

fn add(totals: &mut Totals, scores: impl Iterator<Item = (ServiceId, f64)>) {
    for (service, score) in scores {
        *totals.entry(service).or_default() += score;
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

fn say_why(dataset: &Dataset, fault: &Fault, suffix: &str, blames: &[Blame]) {
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
