//! What the scores are worth where labels are known: scores and pages in, a table out.
//!
//! Average precision of each service's test part, its mean over services with a bootstrap interval (services
//! are drawn; one fleet's services share incidents, so the interval is rather too narrow). Events are runs of
//! labelled steps. A page is false when it is further than two hours from every event of its service. There
//! is no point-adjusted F1: with it, random scores look good.

use super::detectors::Scores;
use super::pages::{DAY, Pages};
use super::series::Series;
use crate::random::Random;
use std::ops::Range;

/// Pages so near to an event, in steps, are neither right nor wrong: two hours.
const MARGIN: usize = 24;
/// Bootstrap samples.
const DRAWS: usize = 2000;
/// A promised false-alarm rate, to compare with the realised one.
const PROMISED: f64 = 1e-3;

/// One line of the table.
pub(super) struct Worth {
    /// Average precision of each service that has events and normal steps.
    pub(super) precisions: Vec<f64>,
    events: usize,
    /// Steps from the event's begin to its page, ascending; only paged events.
    delays: Vec<usize>,
    /// Service rows with a false page, and the incidents they belong to.
    false_rows: usize,
    false_incidents: usize,
    /// All incidents that began in the test part.
    incidents: usize,
    /// Test steps further than [`MARGIN`] from events, and those with p below [`PROMISED`].
    normal: usize,
    below: usize,
    days: f64,
    services: usize,
}

impl Worth {
    /// Measures the test parts.
    pub(super) fn of(series: &[Series], scores: &[Scores], p_values: &[Scores], pages: &Pages) -> Self {
        let mut worth = Self {
            precisions: Vec::new(),
            events: 0,
            delays: Vec::new(),
            false_rows: 0,
            false_incidents: 0,
            incidents: 0,
            normal: 0,
            below: 0,
            days: 0.0,
            services: series.len(),
        };
        let mut false_pages: Vec<u64> = Vec::new();
        let mut right_pages: Vec<u64> = Vec::new();
        for (((series, scores), p_values), rows) in series.iter().zip(scores).zip(p_values).zip(&pages.rows) {
            let events = events(&series.labels);
            let test = series.train..series.steps();
            let labelled: Vec<(f64, bool)> = test
                .clone()
                .filter_map(|row| Some((score(scores, row)?, series.labels.get(row).copied()??)))
                .collect();
            worth.precisions.extend(average_precision(labelled));
            let paged: Vec<usize> = test.clone().filter(|row| rows.get(*row) == Some(&true)).collect();
            worth.events += events.len();
            for event in &events {
                // An alarm may begin shortly after the event ended, by the smoothing; that is too late.
                let first = paged.iter().find(|row| event.contains(row));
                worth.delays.extend(first.map(|row| row - event.start));
            }
            let far = |row: usize| events.iter().all(|event| distance(event, row) > MARGIN);
            for row in test.clone().filter(|row| far(*row)) {
                worth.normal += 1;
                worth.below += usize::from(score(p_values, row).is_some_and(|p| p < PROMISED));
            }
            for row in paged {
                let step = series.first + row as u64;
                if far(row) {
                    worth.false_rows += 1;
                    false_pages.push(step);
                } else {
                    right_pages.push(step);
                }
            }
            worth.days = worth.days.max(test.len() as f64 / DAY);
        }
        let of = |step: u64| pages.incidents.partition_point(|begin| *begin <= step);
        let right: Vec<usize> = right_pages.into_iter().map(of).collect();
        let mut wrong: Vec<usize> = false_pages.into_iter().map(of).collect();
        wrong.retain(|incident| !right.contains(incident));
        wrong.sort_unstable();
        wrong.dedup();
        worth.false_incidents = wrong.len();
        let test = series.iter().map(|series| series.first + series.train as u64).min().unwrap_or(0);
        worth.incidents = pages.incidents.iter().filter(|begin| **begin >= test).count();
        worth.delays.sort_unstable();
        worth
    }

    /// The table's heading.
    pub(super) const HEADING: &str = "| detector | average precision, mean of services | events paged | incidents | \
                                      false incidents | false service pages | median delay, min | \
                                      p < 0.001 in normal steps |\n|---|---|---|---|---|---|---|---|";

    /// One line of the table; false ones are a day and 100 services.
    pub(super) fn line(&self, name: &str, seed: u64) -> String {
        let (low, high) = interval(&self.precisions, seed);
        let rate = |count: usize| count as f64 / self.days / self.services as f64 * 100.0;
        format!(
            "| {name} | {:.3} [{low:.3}, {high:.3}] | {} of {} ({:.2}) | {:.2} | {:.2} | {:.2} | {} | {:.4} |",
            mean(&self.precisions),
            self.delays.len(),
            self.events,
            self.delays.len() as f64 / self.events.max(1) as f64,
            rate(self.incidents),
            rate(self.false_incidents),
            rate(self.false_rows),
            self.delays.get(self.delays.len() / 2).map_or("-".to_owned(), |steps| (steps * 5).to_string()),
            self.below as f64 / self.normal.max(1) as f64,
        )
    }
}

/// Mean of the differences with a bootstrap interval: one detector against another on the same services.
pub(super) fn difference(left: &Worth, right: &Worth, seed: u64) -> String {
    let differences: Vec<f64> = left.precisions.iter().zip(&right.precisions).map(|(a, b)| a - b).collect();
    let (low, high) = interval(&differences, seed);
    format!("{:+.3} [{low:+.3}, {high:+.3}]", mean(&differences))
}

fn score(rows: &Scores, row: usize) -> Option<f64> {
    rows.get(row).copied().flatten()
}

/// Runs of anomalous rows.
fn events(labels: &[Option<bool>]) -> Vec<Range<usize>> {
    let mut events: Vec<Range<usize>> = Vec::new();
    for (row, _) in labels.iter().enumerate().filter(|(_, label)| **label == Some(true)) {
        match events.last_mut() {
            Some(event) if event.end == row => event.end += 1,
            _ => events.push(row..row + 1),
        }
    }
    events
}

fn distance(event: &Range<usize>, row: usize) -> usize {
    event.start.saturating_sub(row).max((row + 1).saturating_sub(event.end))
}

/// Mean precision at each anomalous step, by falling score; equal scores are one threshold. `None` without
/// both kinds of steps.
fn average_precision(mut scored: Vec<(f64, bool)>) -> Option<f64> {
    let all = scored.iter().filter(|(_, anomalous)| *anomalous).count();
    if all == 0 || all == scored.len() {
        return None;
    }
    scored.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
    let (mut seen, mut right, mut sum) = (0, 0, 0.0);
    for equal in scored.chunk_by(|a, b| a.0 == b.0) {
        let found = equal.iter().filter(|(_, anomalous)| *anomalous).count();
        seen += equal.len();
        right += found;
        sum += found as f64 * right as f64 / seen as f64;
    }
    Some(sum / all as f64)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// The middle 95 % of the means of resampled values.
fn interval(values: &[f64], seed: u64) -> (f64, f64) {
    let mut random = Random::seeded(seed);
    let mut draw = || {
        let sum: f64 = (0..values.len())
            .filter_map(|_| values.get(usize::try_from(random.below(values.len() as u64)).ok()?))
            .sum();
        sum / values.len().max(1) as f64
    };
    let mut means: Vec<f64> = (0..DRAWS).map(|_| draw()).collect();
    means.sort_unstable_by(f64::total_cmp);
    let at = |q: f64| means.get((q * (DRAWS - 1) as f64).round() as usize).copied().unwrap_or(f64::NAN);
    (at(0.025), at(0.975))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests may panic")]
    use super::*;

    #[test]
    fn average_precision_by_hand() {
        let scored = vec![(0.9, true), (0.8, false), (0.7, true), (0.1, false)];
        assert!((average_precision(scored).unwrap() - (1.0 + 2.0 / 3.0) / 2.0).abs() < 1e-12);
        // All equal: the share of anomalous steps.
        assert_eq!(average_precision(vec![(1.0, true), (1.0, false)]), Some(0.5));
        assert_eq!(average_precision(vec![(1.0, false)]), None);
    }

    #[test]
    fn events_and_distances() {
        let labels = [false, true, true, false, true].map(Some);
        assert_eq!(events(&labels), [1..3, 4..5]);
        assert_eq!([0, 1, 2, 5].map(|row| distance(&(1..3), row)), [1, 0, 0, 3]);
    }

    #[test]
    fn a_resampled_constant_is_constant() {
        assert_eq!(interval(&[0.5; 10], 1), (0.5, 0.5));
    }
}
