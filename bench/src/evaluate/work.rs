//! A data set's folder comes in, what was found in it goes out: tables one after the other, recordings
//! several at a time, with a line of progress.

use super::Evaluate;
use super::cache::Cache;
use super::dataset::{Dataset, Period};
use super::outcome::Findings;
use super::replay::{self, Episode};
use super::tables;
use anyhow::{Context, Result, anyhow};
use faultline_core::score::Model;
use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Ranks one data set.
pub(super) fn findings(dir: &Path, flags: &Evaluate, with_model: bool) -> Result<Findings> {
    let mut dataset = Dataset::open(dir)?;
    let absolute = std::path::absolute(dir)?;
    let name = absolute.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let periods = dataset.quiet_periods()?;
    let mut ids: BTreeSet<String> = dataset.faults.iter().map(|fault| fault.episode.clone()).collect();
    let recorded = ids.iter().any(|id| dataset.recording(id).is_some());
    if !recorded {
        let mut model = if with_model { flags.model() } else { None };
        return tables::rank_all(&mut dataset, &name, &mut model, flags.explain);
    }
    // An episode of nothing but quiet times counts, too.
    ids.extend(periods.iter().map(|period| period.episode.clone()));
    let mut episodes = Vec::new();
    for id in &ids {
        let recording = dataset
            .recording(id)
            .with_context(|| format!("{}: episode {id} has no agent.rec or agent.rec.xz", dir.display()))?;
        episodes.push((id.as_str(), recording));
    }
    let model = if with_model { Some(flags) } else { None };
    replay_all(&dataset, &name, &periods, &episodes, flags, model)
}

/// Replays episodes, as many at a time as wanted; in the end all are in the order of their ids.
fn replay_all(
    dataset: &Dataset,
    name: &str,
    periods: &[Period],
    episodes: &[(&str, PathBuf)],
    flags: &Evaluate,
    with_model: Option<&Evaluate>,
) -> Result<Findings> {
    let cache = Cache::open(!flags.fresh);
    let work: VecDeque<usize> = (0..episodes.len()).collect();
    let board = Mutex::new((work, vec![None; episodes.len()], None::<anyhow::Error>));
    let lock = || board.lock().unwrap_or_else(PoisonError::into_inner);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..flags.parallel.unwrap_or(cores).clamp(1, episodes.len().max(1)) {
            scope.spawn(|| {
                loop {
                    let Some(place) = lock().0.pop_front() else { break };
                    let Some((id, recording)) = episodes.get(place) else { break };
                    let episode = Episode {
                        dataset: name,
                        recording,
                        faults: dataset.faults.iter().filter(|fault| fault.episode == *id).collect(),
                        quiet: periods.iter().filter(|period| period.episode == *id).collect(),
                    };
                    let model = with_model.and_then(Evaluate::model);
                    let found = one(&episode, model, &cache);
                    let mut board = lock();
                    match found {
                        Ok(found) => {
                            if let Some(slot) = board.1.get_mut(place) {
                                *slot = Some(found);
                            }
                            let done = board.1.iter().flatten().count();
                            eprintln!(
                                "{name}: {done}/{} episodes replayed, {:.0} s",
                                episodes.len(),
                                began.elapsed().as_secs_f64()
                            );
                        }
                        Err(error) => {
                            board.0.clear();
                            board.2 = Some(error);
                        }
                    }
                }
            });
        }
    });
    let mut board = lock();
    if let Some(error) = board.2.take() {
        return Err(error);
    }
    let mut all = Findings::default();
    for found in board.1.drain(..) {
        let found: Findings = found.ok_or_else(|| anyhow!("{name}: an episode was not replayed"))?;
        all.outcomes.extend(found.outcomes);
        all.quiet.extend(found.quiet);
    }
    Ok(all)
}

/// What is known of an episode, or else found by a replay.
fn one(episode: &Episode<'_>, model: Option<Box<dyn Model>>, cache: &Cache) -> Result<Findings> {
    let asked = format!("{:?} {:?}", episode.faults, episode.quiet);
    let digest = model.as_ref().map_or("", |model| model.digest()).to_owned();
    let file = cache.file(episode.recording, &asked, &digest);
    if let Some(known) = Cache::read(file.as_deref()) {
        return Ok(known);
    }
    let found = replay::replay(episode, model)?;
    Cache::write(file.as_deref(), &found);
    Ok(found)
}
