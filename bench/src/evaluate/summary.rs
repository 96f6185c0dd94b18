//! Outcomes flow in; what a reader wants to know flows out: accuracy by method, kind and system, detection,
//! false pages, and whether the margin tells how sure the ranking is.

use super::outcome::{Findings, Live, NO_MODEL, OURS, Outcome, RANDOM};
use super::statistics::{Accuracy, Estimate, Hit, bootstrap, median, rate, wilson};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// The bins of the reliability table: below the first a margin says little, by earlier measurements.
const BINS: [(f64, f64); 5] = [(0.0, 0.2), (0.2, 0.4), (0.4, 0.6), (0.6, 0.8), (0.8, 1.0)];

/// Everything in numbers.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    /// What was evaluated.
    pub(super) source: String,
    /// When, UTC, to the second.
    pub(super) at: String,
    pub(super) commit: Option<String>,
    /// The seed of generated faults.
    pub(super) seed: Option<u64>,
    /// SHA-256 of the model in use.
    pub(super) model: Option<String>,
    pub(super) systems: Vec<String>,
    /// Groups of faults: all, held out, by system, by kind.
    pub(super) groups: Vec<Group>,
    /// Ours less each other method, over the same faults.
    pub(super) differences: Vec<Difference>,
    pub(super) detection: Vec<Detection>,
    pub(super) false_pages: Vec<FalsePages>,
    pub(super) calibration: Vec<Calibration>,
}

/// The accuracy of every method on some faults.
#[derive(Debug, Serialize)]
pub(super) struct Group {
    /// `all`, `held out`, `system` or `kind`.
    pub(super) by: &'static str,
    pub(super) name: String,
    pub(super) faults: usize,
    pub(super) methods: Vec<(String, Accuracy)>,
}

/// How much better ours is than another method, fault by fault.
#[derive(Debug, Serialize)]
pub(super) struct Difference {
    pub(super) method: String,
    /// Of AC@1.
    pub(super) ac1: Estimate,
    /// Of Avg@5.
    pub(super) avg5: Estimate,
    /// Faults for which ours is better, and worse.
    pub(super) better: usize,
    pub(super) worse: usize,
}

/// What the agent did about some faults, live.
#[derive(Debug, Serialize)]
pub(super) struct Detection {
    pub(super) method: String,
    /// `all`, `system`, `kind` or `note`.
    pub(super) by: &'static str,
    pub(super) name: String,
    pub(super) faults: usize,
    /// Of all faults but those that began while an incident was open.
    pub(super) detected: Estimate,
    pub(super) still_open: usize,
    pub(super) median_seconds: Option<f64>,
    pub(super) p90_seconds: Option<f64>,
    /// Of the pages.
    pub(super) right: Estimate,
    /// Times to page, sorted.
    pub(super) seconds: Vec<f64>,
}

/// Pages without a fault.
#[derive(Debug, Serialize)]
pub(super) struct FalsePages {
    pub(super) method: String,
    /// What was going on; `all` for the sum.
    pub(super) what: String,
    pub(super) hours: f64,
    pub(super) pages: usize,
    pub(super) per_hour: Estimate,
    /// Who was blamed for what.
    pub(super) reasons: Vec<String>,
}

/// Whether the margin tells how sure it is.
#[derive(Debug, Serialize)]
pub(super) struct Calibration {
    /// At which moment: the first page, or the fault's end.
    pub(super) moment: &'static str,
    pub(super) bins: Vec<Bin>,
    /// Mean squared distance of margin and right (1) or wrong (0), as if the margin were a probability.
    pub(super) brier: Estimate,
    /// Mean distance of margin and share right over the bins, by their faults.
    pub(super) expected_error: f64,
    pub(super) rankings: usize,
}

/// Rankings whose margin lies in a range.
#[derive(Debug, Serialize)]
pub(super) struct Bin {
    pub(super) from: f64,
    pub(super) to: f64,
    pub(super) rankings: usize,
    pub(super) mean_margin: f64,
    pub(super) right: Estimate,
}

impl Summary {
    pub(super) fn of(findings: &Findings, dir: &Path, model: Option<String>) -> Self {
        let labelled: Vec<&Outcome> =
            findings.outcomes.iter().filter(|outcome| !outcome.culprits.is_empty()).collect();
        let absolute = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
        let mut systems: Vec<String> = labelled.iter().map(|outcome| outcome.dataset.clone()).collect();
        systems.dedup();
        let with_model = model.is_some();
        Self {
            source: absolute.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            at: utc(crate::truth::unix_ms() / 1_000),
            commit: crate::generate::commit(),
            seed: seed(dir),
            model,
            systems,
            groups: groups(&labelled, with_model),
            differences: differences(&labelled),
            detection: detection(&labelled),
            false_pages: false_pages(findings),
            calibration: calibration(&labelled),
        }
    }

    /// Nothing is labelled, and no time is known to be quiet.
    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.false_pages.is_empty()
    }

    /// The group of all faults.
    pub(super) fn all(&self) -> Option<&Group> {
        self.groups.first()
    }
}

/// Methods in the order in which they are shown.
fn methods(with_model: bool) -> Vec<&'static str> {
    let others = super::baselines::Baseline::ALL.map(super::baselines::Baseline::name);
    let ours: &[&str] = if with_model { &[OURS, NO_MODEL] } else { &[OURS] };
    ours.iter().copied().chain(others).chain([RANDOM]).collect()
}

fn groups(outcomes: &[&Outcome], with_model: bool) -> Vec<Group> {
    if outcomes.is_empty() {
        return Vec::new();
    }
    let group = |by, name: &str, some: &[&Outcome]| Group {
        by,
        name: name.to_owned(),
        faults: some.len(),
        methods: methods(with_model)
            .into_iter()
            .map(|method| {
                let hits: Vec<Hit> =
                    some.iter().map(|one| one.hits.get(method).copied().unwrap_or_default()).collect();
                (method.to_owned(), Accuracy::of(&hits))
            })
            .collect(),
    };
    let mut groups = vec![group("all", "all", outcomes)];
    let held: Vec<&Outcome> = outcomes.iter().copied().filter(|outcome| outcome.held_out).collect();
    if !held.is_empty() {
        groups.push(group("held out", "held out", &held));
    }
    let systems = by(outcomes, |outcome| outcome.dataset.clone());
    if systems.len() > 1 {
        groups.extend(systems.iter().map(|(name, some)| group("system", name, some)));
    }
    groups.extend(
        by(outcomes, |outcome| outcome.kind.clone()).iter().map(|(name, some)| group("kind", name, some)),
    );
    let noted = by(outcomes, |outcome| outcome.note.clone());
    let noted = noted.iter().filter(|(note, _)| ["gentle", "two at once"].contains(&note.as_str()));
    groups.extend(noted.map(|(name, some)| group("note", name, some)));
    groups
}

fn by<'a>(outcomes: &[&'a Outcome], key: impl Fn(&Outcome) -> String) -> BTreeMap<String, Vec<&'a Outcome>> {
    let mut groups: BTreeMap<String, Vec<&Outcome>> = BTreeMap::new();
    for outcome in outcomes {
        groups.entry(key(outcome)).or_default().push(outcome);
    }
    groups
}

fn differences(outcomes: &[&Outcome]) -> Vec<Difference> {
    let hit = |outcome: &Outcome, method: &str| outcome.hits.get(method).copied().unwrap_or_default();
    let known = |method: &&str| *method != OURS && outcomes.iter().any(|one| one.hits.contains_key(*method));
    methods(true)
        .into_iter()
        .filter(known)
        .map(|method| {
            let pairs: Vec<(Hit, Hit)> =
                outcomes.iter().map(|one| (hit(one, OURS), hit(one, method))).collect();
            let first = |hit: &Hit| hit.within.first().copied().unwrap_or_default();
            let ac1: Vec<f64> = pairs.iter().map(|(ours, other)| first(ours) - first(other)).collect();
            let avg5: Vec<f64> = pairs.iter().map(|(ours, other)| ours.average() - other.average()).collect();
            Difference {
                method: method.to_owned(),
                better: avg5.iter().filter(|difference| **difference > 1e-9).count(),
                worse: avg5.iter().filter(|difference| **difference < -1e-9).count(),
                ac1: bootstrap(&ac1),
                avg5: bootstrap(&avg5),
            }
        })
        .collect()
}

fn detection(outcomes: &[&Outcome]) -> Vec<Detection> {
    let mut rows = Vec::new();
    for method in [OURS, NO_MODEL] {
        let lived: Vec<&Outcome> =
            outcomes.iter().copied().filter(|outcome| outcome.live.contains_key(method)).collect();
        if lived.is_empty() {
            continue;
        }
        rows.push(detected(method, "all", "all", &lived));
        let systems = by(&lived, |outcome| outcome.dataset.clone());
        rows.extend(systems.iter().map(|(name, some)| detected(method, "system", name, some)));
        let kinds = by(&lived, |outcome| outcome.kind.clone());
        rows.extend(kinds.iter().map(|(name, some)| detected(method, "kind", name, some)));
        let notes = by(&lived, |outcome| outcome.note.clone());
        let notes = notes.iter().filter(|(note, _)| !note.is_empty());
        rows.extend(notes.map(|(name, some)| detected(method, "note", name, some)));
    }
    rows
}

fn detected(method: &str, by: &'static str, name: &str, outcomes: &[&Outcome]) -> Detection {
    let lives: Vec<&Live> = outcomes.iter().filter_map(|outcome| outcome.live.get(method)).collect();
    let mut seconds: Vec<f64> = lives.iter().filter_map(|live| live.seconds_to_page).collect();
    seconds.sort_unstable_by(f64::total_cmp);
    let still_open = lives.iter().filter(|live| live.still_open).count();
    let right = lives.iter().filter(|live| live.right).count();
    let ninth = (seconds.len() * 9).div_ceil(10).checked_sub(1);
    Detection {
        method: method.to_owned(),
        by,
        name: name.to_owned(),
        faults: lives.len(),
        detected: wilson(seconds.len() as f64, lives.len() - still_open),
        still_open,
        median_seconds: median(&seconds),
        p90_seconds: ninth.and_then(|place| seconds.get(place)).copied(),
        right: wilson(right as f64, seconds.len()),
        seconds,
    }
}

fn false_pages(findings: &Findings) -> Vec<FalsePages> {
    let mut rows = Vec::new();
    for method in [OURS, NO_MODEL] {
        let mut whats: BTreeMap<&str, (f64, Vec<String>)> = BTreeMap::new();
        for quiet in &findings.quiet {
            let Some(pages) = quiet.pages.get(method) else { continue };
            for what in ["all", quiet.what.as_str()] {
                let (seconds, reasons) = whats.entry(what).or_default();
                *seconds += quiet.seconds;
                reasons.extend(pages.iter().map(|page| format!("{}: {page}", quiet.dataset)));
            }
        }
        rows.extend(whats.into_iter().map(|(what, (seconds, reasons))| FalsePages {
            method: method.to_owned(),
            what: what.to_owned(),
            hours: seconds / 3_600.0,
            pages: reasons.len(),
            per_hour: rate(reasons.len(), seconds / 3_600.0),
            reasons,
        }));
    }
    rows
}

fn calibration(outcomes: &[&Outcome]) -> Vec<Calibration> {
    let at_page = outcomes.iter().filter_map(|outcome| {
        let live = outcome.live.get(OURS).or_else(|| outcome.live.get(NO_MODEL))?;
        live.seconds_to_page.map(|_| (live.margin, live.right))
    });
    let at_end = outcomes.iter().map(|outcome| {
        let right = outcome.ranking.first().is_some_and(|first| outcome.culprits.contains(first));
        (outcome.margin, right)
    });
    let moments =
        [("at the first page", at_page.collect::<Vec<_>>()), ("over the whole fault", at_end.collect())];
    moments
        .into_iter()
        .filter(|(_, rankings)| !rankings.is_empty())
        .map(|(moment, rankings)| calibrated(moment, &rankings))
        .collect()
}

fn calibrated(moment: &'static str, rankings: &[(f64, bool)]) -> Calibration {
    let bins: Vec<Bin> = BINS
        .into_iter()
        .map(|(from, to)| {
            let inside = |margin: f64| margin >= from && (margin < to || to >= 1.0);
            let some: Vec<&(f64, bool)> = rankings.iter().filter(|(margin, _)| inside(*margin)).collect();
            let right = some.iter().filter(|(_, right)| *right).count();
            let mean = some.iter().map(|(margin, _)| margin).sum::<f64>() / some.len().max(1) as f64;
            Bin { from, to, rankings: some.len(), mean_margin: mean, right: wilson(right as f64, some.len()) }
        })
        .collect();
    let squares: Vec<f64> =
        rankings.iter().map(|(margin, right)| (margin - f64::from(*right)).powi(2)).collect();
    let gap = |bin: &Bin| (bin.mean_margin - bin.right.value).abs() * bin.rankings as f64;
    let expected_error =
        bins.iter().filter(|bin| bin.rankings > 0).map(gap).sum::<f64>() / rankings.len().max(1) as f64;
    Calibration { moment, bins, brier: bootstrap(&squares), expected_error, rankings: rankings.len() }
}

/// The seed of a generated data set.
fn seed(dir: &Path) -> Option<u64> {
    let places = [Some(dir.join("plan.json")), dir.parent().map(|parent| parent.join("plan.json"))];
    let text = places.into_iter().flatten().find_map(|path| std::fs::read_to_string(path).ok())?;
    let plan: serde_json::Value = serde_json::from_str(&text).ok()?;
    plan.pointer("/settings/seed")?.as_u64()
}

/// Unix seconds as a date and time (Howard Hinnant's civil_from_days).
fn utc(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC", rest / 3_600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(utc(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(utc(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(utc(1_795_430_652), "2026-11-23 10:44:12 UTC");
    }

    #[test]
    fn a_margin_that_tells_the_truth_has_no_error() {
        let mut rankings = vec![(0.9, true); 9];
        rankings.push((0.9, false));
        let calibration = calibrated("now", &rankings);
        assert!(calibration.expected_error < 1e-9);
        assert!((calibration.brier.value - (9.0 * 0.01 + 0.81) / 10.0).abs() < 1e-9);
        assert_eq!(calibration.bins.last().map(|bin| bin.rankings), Some(10));
    }

    #[test]
    fn faults_that_began_within_an_incident_could_not_be_detected() {
        let outcome = |seconds_to_page, still_open| Outcome {
            culprits: vec!["a".into()],
            live: [(OURS.to_owned(), Live { seconds_to_page, still_open, right: true, margin: 0.5 })].into(),
            ..Outcome::default()
        };
        let outcomes = [outcome(Some(12.0), false), outcome(None, true), outcome(None, false)];
        let row = detected(OURS, "all", "all", &outcomes.iter().collect::<Vec<_>>());
        assert!((row.detected.value - 0.5).abs() < 1e-9 && row.still_open == 1);
        assert_eq!((row.median_seconds, row.p90_seconds), (Some(12.0), Some(12.0)));
    }
}
