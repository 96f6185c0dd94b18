//! P-values to pages, online, for a promised number of them: what pages is decided by a threshold that every
//! page raises and every quiet step lowers, so that in the long run the budget is kept whatever the p-values
//! are worth.
//!
//! ```text
//! page if -log10 p >= t;   t += GAIN at a fleet page,   t -= GAIN * budget at each step
//! ```
//!
//! One event pages once: a service that stays above the threshold, or comes back soon, is still in the same
//! alarm. A storm is one incident: services that begin while the fleet's page is fresh join it, each with a
//! page of its own row, and cost no more, until it is too long for one.

use super::detectors::Scores;

/// Steps a day.
pub(super) const DAY: f64 = 288.0;
/// The threshold at the start: p = 1e-4.
const START: f64 = 4.0;
/// It never falls below p = 0.001, however long nothing happened.
const LEAST: f64 = 3.0;
/// How much a page raises it, in powers of ten.
const GAIN: f64 = 0.5;
/// An alarm is over when its service was below the threshold for so many steps: two hours.
const QUIET: u64 = 24;
/// Services that begin within so many steps of the incident's last beginning join it: an hour.
const JOIN: u64 = 12;
/// After so many steps the next beginning is another incident, or a storm without an end would be free: six
/// hours.
const LONGEST: u64 = 72;

/// Pages, and how many incidents they were.
pub(super) struct Pages {
    /// `[service][row]`: an event pages here.
    pub(super) rows: Vec<Vec<bool>>,
    /// The steps at which an incident began: the fleet's pages.
    pub(super) incidents: Vec<u64>,
}

/// Pages by p-values, `[service][row]`; `starts` are the services' first steps, `budget` is in fleet pages a
/// day and 100 services.
pub(super) fn pages(p_values: &[Scores], starts: &[u64], budget: f64) -> Pages {
    let each_step = budget / DAY * p_values.len() as f64 / 100.0;
    let mut rows: Vec<Vec<bool>> = p_values.iter().map(|rows| vec![false; rows.len()]).collect();
    let mut incidents: Vec<u64> = Vec::new();
    let mut threshold = START;
    let mut last_above: Vec<Option<u64>> = vec![None; p_values.len()];
    let mut last_begin: Option<u64> = None;
    let ends = p_values.iter().zip(starts).map(|(rows, start)| start + rows.len() as u64);
    for step in starts.iter().copied().min().unwrap_or(0)..ends.max().unwrap_or(0) {
        let mut begins = false;
        let services = p_values.iter().zip(starts).zip(&mut rows).zip(&mut last_above);
        for (((p_values, start), rows), last_above) in services {
            let Some(row) = step.checked_sub(*start).and_then(|row| usize::try_from(row).ok()) else {
                continue;
            };
            let Some(Some(p)) = p_values.get(row) else { continue };
            if -p.log10() < threshold {
                continue;
            }
            let same = last_above.is_some_and(|last| step - last <= QUIET);
            *last_above = Some(step);
            if !same && let Some(page) = rows.get_mut(row) {
                *page = true;
                begins = true;
            }
        }
        threshold = (threshold - GAIN * each_step).max(LEAST);
        if begins {
            let fresh = last_begin.is_some_and(|last| step - last <= JOIN);
            let short = incidents.last().is_some_and(|begin| step - begin <= LONGEST);
            if !(fresh && short) {
                incidents.push(step);
                threshold += GAIN;
            }
            last_begin = Some(step);
        }
    }
    Pages { rows, incidents }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests may panic")]
    use super::*;

    fn with(places: &[(usize, f64)], rows: usize) -> Scores {
        let mut all = vec![Some(0.5); rows];
        for (row, p) in places {
            all[*row] = Some(*p);
        }
        all
    }

    #[test]
    fn an_event_pages_once_and_a_storm_is_one_incident() {
        let one = with(&[(10, 1e-6), (11, 1e-6), (20, 1e-6), (90, 1e-6)], 100);
        let other = with(&[(15, 1e-6)], 100);
        let pages = pages(&[one, other], &[0, 0], 1.0);
        let at: Vec<usize> = (0..100).filter(|row| pages.rows[0][*row]).collect();
        assert_eq!(at, [10, 90]);
        assert!(pages.rows[1][15]);
        assert_eq!(pages.incidents, [10, 90]);
    }

    #[test]
    fn the_budget_is_kept_whatever_the_p_values_are_worth() {
        // 100 services for 200 days, each p-value far too small.
        let rows = 288 * 200;
        let mut random = crate::random::Random::seeded(1);
        let fleet: Vec<Scores> =
            (0..100).map(|_| (0..rows).map(|_| Some(random.unit().powi(3).max(1e-300))).collect()).collect();
        let pages = pages(&fleet, &vec![0; 100], 1.0);
        let a_day = pages.incidents.len() as f64 / 200.0;
        assert!((0.8..1.2).contains(&a_day), "{a_day}");
    }
}
