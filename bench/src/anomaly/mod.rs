//! Scores the services of an anomaly data set, one by one through time: files in, one CSV line a service and
//! test step out. [`series`] reads, [`baseline`] encodes, [`detectors`] score, [`tail`] gives p-values,
//! [`mod@pages`] decides what is worth a page, [`measure`] says what it was worth.
//!
//! The shipped model has its own 16 roles, and these signals have none. So a small net of the same make is
//! trained here, in folds: each service is scored by a net that saw only other services' train parts. At a
//! step, nothing later is used.

mod baseline;
mod detectors;
mod measure;
mod pages;
mod series;
mod tail;
mod trailing;

use crate::evaluate::output;
use anyhow::Result;
use baseline::Features;
use clap::Args;
use detectors::{Scores, Subject, autoencoder, largest_deviation, mean_square, principal_components, smooth};
use measure::Worth;
use pages::{Pages, pages};
use series::Series;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Weight of the newest score in the smoothed one: about 20 steps of memory.
const SMOOTHING: f64 = 0.05;

/// Score the services of an anomaly data set.
#[derive(Args, Debug)]
pub struct Anomaly {
    /// A folder with service-NN.csv.gz files: step,part,label, then a column a signal.
    dir: PathBuf,
    /// Where to write the scores, one CSV line a service and test step [default: standard output].
    #[arg(long)]
    out: Option<PathBuf>,
    /// Seed of the training.
    #[arg(long, default_value_t = 20)]
    seed: u64,
    /// Parts into which the services are split; each is scored by a net that learned from the other parts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(2..=10))]
    folds: u64,
    /// Fleet pages a day and 100 services that the threshold is steered to.
    #[arg(long, default_value_t = 1.0)]
    budget: f64,
    /// Also print, on standard error, what this and simple detectors are worth by the labels.
    #[arg(long)]
    score: bool,
}

/// How a detector scores services by others.
type Detector = fn(&[&Subject], &[&Subject], u64) -> Vec<Scores>;

/// Reads a folder whole and scores nothing; says how many services it has.
///
/// # Errors
/// As [`Anomaly::run`].
pub fn check(dir: &Path) -> Result<usize> {
    Ok(series::read_folder(dir)?.len())
}

impl Anomaly {
    /// Reads the folder, trains, and writes the scores.
    ///
    /// # Errors
    /// When a file cannot be read, is not what it should be (the message names file and line), or the output
    /// cannot be written.
    pub fn run(&self) -> Result<()> {
        let started = Instant::now();
        let say = |what: &str| eprintln!("{:4.0} s  {what}", started.elapsed().as_secs_f64());
        let series = series::read_folder(&self.dir)?;
        say(&format!("{} services read; seed {}", series.len(), self.seed));
        let starts: Vec<u64> = series.iter().map(|series| series.first).collect();
        let subject = |series: &Series| Subject {
            features: Features::of(series),
            train: series.train,
            steps: series.steps(),
        };
        let subjects: Vec<Subject> = series.iter().map(subject).collect();
        say("encoded");
        let raw = self.in_folds("autoencoder", &subjects, autoencoder, &say);
        let judged = self.judge(&raw, &starts);
        self.write(&series, &judged)?;
        if self.score {
            let components = self.in_folds("PCA", &subjects, principal_components, &say);
            let largest = subjects.iter().map(largest_deviation).collect();
            let square = subjects.iter().map(mean_square).collect();
            self.compare(&series, &starts, &judged, [components, largest, square]);
        }
        say("done");
        Ok(())
    }

    /// Scores each part of the services by what the detector learned from the other parts.
    fn in_folds(&self, name: &str, all: &[Subject], detect: Detector, say: &dyn Fn(&str)) -> Vec<Scores> {
        let folds = (self.folds as usize).min(all.len());
        let mut scores: Vec<Scores> = vec![Vec::new(); all.len()];
        for fold in 0..folds {
            let (unseen, others): (Vec<usize>, Vec<usize>) =
                (0..all.len()).partition(|number| number % folds == fold);
            let pick = |numbers: &[usize]| -> Vec<&Subject> {
                numbers.iter().filter_map(|number| all.get(*number)).collect()
            };
            let found = detect(&pick(&others), &pick(&unseen), self.seed + fold as u64);
            for (number, found) in unseen.into_iter().zip(found) {
                if let Some(place) = scores.get_mut(number) {
                    *place = found;
                }
            }
            say(&format!("{name}: fold {} of {folds}", fold + 1));
        }
        scores
    }

    fn judge(&self, raw: &[Scores], starts: &[u64]) -> Judged {
        let scores: Vec<Scores> = raw.iter().map(|scores| smooth(scores, SMOOTHING)).collect();
        let p_values = tail::p_values(&scores, starts);
        let pages = pages(&p_values, starts, self.budget);
        Judged { scores, p_values, pages }
    }

    /// Test parts only; a score or p-value that is not there yet is empty.
    fn write(&self, series: &[Series], judged: &Judged) -> Result<()> {
        let mut out = output(self.out.as_deref())?;
        writeln!(out, "service,step,score,p_value,page")?;
        let text = |rows: &Scores, row: usize| {
            rows.get(row).copied().flatten().map_or_else(String::new, |number| format!("{number:.6e}"))
        };
        let services = series.iter().zip(&judged.scores).zip(&judged.p_values).zip(&judged.pages.rows);
        for (((series, scores), p_values), pages) in services {
            for row in series.train..series.steps() {
                let (score, p_value) = (text(scores, row), text(p_values, row));
                let page = u8::from(pages.get(row) == Some(&true));
                let step = series.first + row as u64;
                writeln!(out, "{},{step},{score},{p_value},{page}", series.service)?;
            }
        }
        out.flush()?;
        Ok(())
    }

    fn compare(&self, series: &[Series], starts: &[u64], autoencoder: &Judged, others: [Vec<Scores>; 3]) {
        let worth = |judged: &Judged| Worth::of(series, &judged.scores, &judged.p_values, &judged.pages);
        let first = worth(autoencoder);
        if first.precisions.is_empty() {
            eprintln!("no service has labelled events: nothing to measure");
            return;
        }
        eprintln!("{}", Worth::HEADING);
        eprintln!("{}", first.line("autoencoder", self.seed));
        for (name, raw) in ["PCA, shared", "largest deviation", "mean squared deviation"].iter().zip(others) {
            let other = worth(&self.judge(&raw, starts));
            eprintln!("{}", other.line(name, self.seed));
            eprintln!("autoencoder - {name}: {}", measure::difference(&first, &other, self.seed));
        }
        eprintln!("{} services measured; false ones a day and 100 services", first.precisions.len());
    }
}

/// Smoothed scores and what follows from them.
struct Judged {
    scores: Vec<Scores>,
    p_values: Vec<Scores>,
    pages: Pages,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests may panic")]
    use super::*;
    use crate::random::Random;
    use std::fmt::Write as _;
    use std::path::Path;

    /// Three signals that follow one wave; service-02 breaks at 1500 for 60 steps.
    fn folder(steps: usize) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for service in 0..4 {
            let mut random = Random::seeded(service);
            let mut text = String::from("step,part,label,s00,s01,s02\n");
            for step in 0..steps {
                let part = if step < 1200 { "train" } else { "test" };
                let broken = service == 2 && (1500..1560).contains(&step);
                let wave = (step as f64 / 40.0).sin() + 0.1 * random.unit();
                let other = if broken { 30.0 } else { 2.0 * wave + 0.1 * random.unit() };
                let label = if step < 1200 {
                    ""
                } else if broken {
                    "1"
                } else {
                    "0"
                };
                writeln!(text, "{step},{part},{label},{},{},{other}", 5.0 + wave, 9.0 - wave).unwrap();
            }
            std::fs::write(folder.path().join(format!("service-0{service}.csv")), text).unwrap();
        }
        folder
    }

    fn scored(dir: &Path) -> Vec<String> {
        let out = dir.join("scores.out");
        let anomaly = Anomaly {
            dir: dir.to_owned(),
            out: Some(out.clone()),
            seed: 1,
            folds: 2,
            budget: 1.0,
            score: true,
        };
        anomaly.run().unwrap();
        std::fs::read_to_string(out).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn what_breaks_pages_and_what_comes_later_changes_nothing() {
        let whole = scored(folder(1700).path());
        assert_eq!(whole[0], "service,step,score,p_value,page");
        assert_eq!(whole.len(), 1 + 4 * 500);
        let of = |lines: &[String], service: usize| -> Vec<String> {
            lines.iter().filter(|line| line.starts_with(&format!("service-0{service},"))).cloned().collect()
        };
        let pages: Vec<String> = of(&whole, 2).into_iter().filter(|line| line.ends_with(",1")).collect();
        assert!(pages[0].starts_with("service-02,15"), "{pages:?}");
        let short = scored(folder(1450).path());
        for service in 0..4 {
            assert_eq!(of(&short, service)[..], of(&whole, service)[..250]);
        }
    }

    #[test]
    fn one_service_alone_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("service-00.csv"), "step,part,a\n0,train,1\n1,test,1\n").unwrap();
        let anomaly =
            Anomaly { dir: folder.path().into(), out: None, seed: 1, folds: 3, budget: 1.0, score: false };
        assert!(anomaly.run().unwrap_err().to_string().contains("two at least are needed"));
    }
}
