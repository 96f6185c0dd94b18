//! Whether the model cares which framework serves: the same system and schedule in several stacks come in;
//! the distribution of scores in each, and what training on other stacks loses, go out. Rankings, detection
//! and false pages by stack are `evaluate`'s, on the same folder.

mod windows;

use crate::evaluate::interval;
use crate::evaluate::statistics::{Estimate, bootstrap};
use anyhow::{Context, Result, ensure};
use faultline_core::encode::{CHANNELS, Encoded};
use faultline_core::score::{Model, ModelError, reconstruction_errors};
use faultline_models::net::{Net, Sample, Spoiling, train};
use faultline_models::random::Random;
use ndarray::{Array3, ArrayView3, Axis};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use windows::Windows;

/// Of a stack's quiet windows so many of three are for training, the first ones; the rest are tested.
const TRAINED_OF_THREE: usize = 2;
/// As the trainer of the shipped model has them.
const PASSES: usize = 10;
const SPOILED: f64 = 0.7;
const SPOILED_CHANNELS: f64 = 0.05;
const GROUPS: [&[usize]; 5] = [&[2, 3, 4, 5], &[1, 11], &[12, 13], &[8, 9], &[14]];
/// Windows in one batch.
const BATCH: usize = 64;
/// Fewer quiet windows than this train nothing.
const FEWEST: usize = 60;

const HELP: &str = "\
DIR is what `playground generate --stacks` made: one system in several stacks with one schedule.
For each stack: the model's scores in quiet time and of culprits while their faults are on, and how well the
score tells them apart (AUC). Then nets of the shipped make are trained on all stacks, and on all but one, and
tested on that one's last third of quiet time: the loss of never having seen a stack. Seconds.
Intervals are bootstraps over windows, which overlap: they are somewhat too narrow.

Example:
  playground generate --out stacks --topologies online-boutique --faults 8 --normal-minutes 8 \\
      --stacks go,java,cpp,python,node,rust
  playground study stacks --json study.json
  playground evaluate stacks --report stacks.html      # ranking, detection, false pages by stack";

/// Measure whether scores depend on the framework.
#[derive(clap::Args, Debug)]
#[command(after_help = HELP)]
pub struct Study {
    /// What `playground generate --stacks` made
    dir: PathBuf,
    /// Write every number
    #[arg(long, value_name = "FILE.json")]
    json: Option<PathBuf>,
    /// Of the training
    #[arg(long, default_value_t = 20)]
    seed: u64,
}

/// What was found of one stack.
#[derive(Debug, Serialize)]
struct Row {
    stack: String,
    quiet_windows: usize,
    culprit_windows: usize,
    /// The shipped model's errors in quiet time.
    shipped: Option<Scores>,
    /// Of a net that saw every stack.
    all: Scores,
    /// Of a net that saw every stack but this.
    others: Scores,
    /// Mean error in quiet time of the second over that of the first, less one.
    loss: Estimate,
}

/// How a model scores one stack.
#[derive(Debug, Serialize)]
struct Scores {
    median: f64,
    p90: f64,
    p99: f64,
    /// The chance that a culprit's window scores above a quiet one.
    auc: Estimate,
    #[serde(skip)]
    quiet: Vec<f64>,
}

impl Study {
    /// Measures and tells.
    ///
    /// # Errors
    /// When the folder has fewer than two stacks, or too little quiet time.
    pub fn run(&self) -> Result<()> {
        let stacks = stacks(&self.dir)?;
        ensure!(
            stacks.len() > 1,
            "{}: a study needs two stacks or more; make them with `playground generate --stacks`",
            self.dir.display()
        );
        let mut windows: BTreeMap<String, Windows> = BTreeMap::new();
        for (stack, folder) in stacks {
            let found = windows::of(&folder)?;
            ensure!(
                found.quiet.len() >= FEWEST,
                "{}: {} windows of quiet time are too few; give more --normal-minutes",
                folder.display(),
                found.quiet.len()
            );
            eprintln!("{stack}: {} quiet windows, {} of culprits", found.quiet.len(), found.broken.len());
            windows.insert(stack, found);
        }
        let mut shipped = faultline_models::load(None, None)
            .map_err(|error| eprintln!("without the shipped model: {error}"))
            .ok();
        let mut all = self.trained(windows.values());
        let mut rows = Vec::new();
        for (stack, tested) in &windows {
            eprintln!("{stack}: training on the other stacks");
            let others = windows.iter().filter(|(other, _)| *other != stack).map(|(_, windows)| windows);
            let mut without = self.trained(others);
            rows.push(row(stack, tested, shipped.as_deref_mut(), &mut all, &mut without)?);
        }
        print(&rows);
        if let Some(path) = &self.json {
            let whole = serde_json::json!({
                "commit": crate::generate::commit(), "unix": crate::truth::unix_seconds(), "seed": self.seed,
                "stacks": rows,
            });
            std::fs::write(path, serde_json::to_string_pretty(&whole)? + "\n")
                .with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    fn trained<'w>(&self, stacks: impl Iterator<Item = &'w Windows>) -> Trained {
        let sample = |window: &Encoded| (window.values.clone(), window.present.clone());
        let samples: Vec<Sample> = stacks.flat_map(|windows| windows.split().0).map(sample).collect();
        let mut random = Random::new(self.seed);
        let mut net = Net::new(CHANNELS, &mut random);
        let groups = GROUPS.iter().map(|group| group.to_vec()).collect();
        let spoiling = Spoiling { share: SPOILED, groups, others: SPOILED_CHANNELS };
        train(&mut net, &samples, &spoiling, PASSES, &mut random);
        Trained(net)
    }
}

impl Windows {
    /// Quiet windows to train on, and to test.
    fn split(&self) -> (&[Encoded], &[Encoded]) {
        self.quiet.split_at(self.quiet.len() * TRAINED_OF_THREE / 3)
    }
}

/// A net as it was trained, without quantisation.
struct Trained(Net);

impl Model for Trained {
    fn reconstruct(&mut self, batch: ArrayView3<'_, f32>) -> Result<Array3<f32>, ModelError> {
        let windows: Vec<_> = batch.outer_iter().collect();
        let mut rebuilt = Array3::zeros(batch.raw_dim());
        for (mut place, window) in rebuilt.axis_iter_mut(Axis(0)).zip(self.0.reconstruct(&windows)) {
            place.assign(&window);
        }
        Ok(rebuilt)
    }

    fn digest(&self) -> &str {
        "not shipped"
    }
}

/// The stacks of a folder with their data sets; the plan says which is which.
fn stacks(dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    let path = dir.join("plan.json");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let plan: serde_json::Value = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    let episodes = plan.get("episodes").and_then(serde_json::Value::as_array).into_iter().flatten();
    let text = |episode: &serde_json::Value, key: &str| Some(episode.get(key)?.as_str()?.to_owned());
    let mut stacks: BTreeMap<String, PathBuf> = BTreeMap::new();
    for episode in episodes {
        if let (Some(_), Some(system)) = (text(episode, "stack"), text(episode, "system")) {
            let folder = dir.join(&system);
            if folder.join("meta.json").exists() {
                stacks.insert(system, folder);
            }
        }
    }
    Ok(stacks.into_iter().collect())
}

fn row(
    stack: &str,
    tested: &Windows,
    shipped: Option<&mut (dyn Model + 'static)>,
    all: &mut Trained,
    without: &mut Trained,
) -> Result<Row> {
    let all = Scores::of(all, tested)?;
    let others = Scores::of(without, tested)?;
    let mean = bootstrap(&all.quiet).value.max(f64::MIN_POSITIVE);
    let lost: Vec<f64> =
        others.quiet.iter().zip(&all.quiet).map(|(other, all)| (other - all) / mean).collect();
    Ok(Row {
        stack: stack.to_owned(),
        quiet_windows: tested.quiet.len(),
        culprit_windows: tested.broken.len(),
        shipped: shipped.map(|model| Scores::of(model, tested)).transpose()?,
        loss: bootstrap(&lost),
        all,
        others,
    })
}

impl Scores {
    fn of(model: &mut dyn Model, tested: &Windows) -> Result<Self> {
        let quiet = errors(model, tested.split().1)?;
        let broken = errors(model, &tested.broken)?;
        let mut sorted = quiet.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        let at = |share: f64| sorted.get((share * (sorted.len().max(1) - 1) as f64) as usize).copied();
        let at = |share: f64| at(share).unwrap_or(f64::NAN);
        Ok(Self { median: at(0.5), p90: at(0.9), p99: at(0.99), auc: auc(&sorted, &broken), quiet })
    }
}

fn errors(model: &mut dyn Model, windows: &[Encoded]) -> Result<Vec<f64>> {
    let mut errors = Vec::new();
    for batch in windows.chunks(BATCH) {
        errors.extend(reconstruction_errors(model, batch.iter())?);
    }
    Ok(errors)
}

/// The area under the curve of true against false alarms: how often a broken window is above a quiet one.
fn auc(quiet_sorted: &[f64], broken: &[f64]) -> Estimate {
    let above = |error: &f64| {
        let below = quiet_sorted.partition_point(|quiet| quiet < error);
        let not_above = quiet_sorted.partition_point(|quiet| quiet <= error);
        (below + not_above) as f64 / 2.0 / quiet_sorted.len().max(1) as f64
    };
    bootstrap(&broken.iter().map(above).collect::<Vec<f64>>())
}

fn print(rows: &[Row]) {
    println!(
        "{:24} {:>23} {:>20} {:>20} {:>20}  loss of never seeing it",
        "", "quiet error p50 p90 p99", "AUC [95 %]", "trained on all", "on the others"
    );
    for row in rows {
        let shown = row.shipped.as_ref().unwrap_or(&row.all);
        println!(
            "{:24} {:>23} {:>20} {:>20} {:>20}  {:+.1} % [{:+.1}, {:+.1}]",
            row.stack,
            format!("{:.2} {:.2} {:.2}", shown.median, shown.p90, shown.p99),
            interval(&shown.auc),
            interval(&row.all.auc),
            interval(&row.others.auc),
            row.loss.value * 100.0,
            row.loss.low * 100.0,
            row.loss.high * 100.0
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auc_by_hand() {
        assert!((auc(&[1.0, 2.0, 3.0, 4.0], &[2.5, 5.0]).value - 0.75).abs() < 1e-9);
        assert!((auc(&[1.0, 1.0], &[1.0]).value - 0.5).abs() < 1e-9);
        assert!(auc(&[1.0], &[]).value.is_nan());
    }

    #[test]
    fn the_plan_says_which_folder_is_which_stack() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path();
        let plan = r#"{"episodes":[{"system":"shop-go","stack":"go"},{"system":"shop-rust","stack":"rust"},{"system":"shop","stack":null}]}"#;
        std::fs::write(dir.join("plan.json"), plan).expect("written");
        for system in ["shop-go", "shop"] {
            std::fs::create_dir(dir.join(system)).expect("made");
            std::fs::write(dir.join(system).join("meta.json"), "{}").expect("written");
        }
        let found = stacks(dir).expect("stacks");
        assert_eq!(found, [("shop-go".to_owned(), dir.join("shop-go"))]);
    }
}
