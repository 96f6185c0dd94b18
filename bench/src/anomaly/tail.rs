//! Scores to p-values, online: what is rare for the service itself by its own trailing scores, how much
//! rarer it is beyond their tail by a shape that the fleet shares.
//!
//! ```text
//! p = (1 + #{s_i >= s}) / (n + 1)                          for s <= u, the service's 98 % quantile
//! p = 0.02 (s / u)^(-1/h),  h = mean of ln(s_i / u_i) over the fleet's s_i > u_i     beyond
//! ```
//!
//! No service has enough of a past to know its own tail (Hill's estimate h needs many exceedances), but the
//! fleet has. Scores join the past when they are two hours old.

use super::detectors::Scores;
use super::trailing::Trailing;
use std::collections::VecDeque;

/// A service's past: ten days of 5-minute steps.
const PAST: usize = 2880;
/// Scores join it so many steps later: two hours.
const LAG: usize = 24;
/// Below so many scores (a day) there are no p-values.
const LEAST: usize = 288;
/// The share above which the tail is modelled.
const TAIL: f64 = 0.02;
/// The shape is kept within these: no promise of much from little, and none that never reaches small p.
const SHAPES: (f64, f64) = (0.1, 1.0);
/// Exceedances that the fleet's shape is made of, the newest.
const EXCEEDANCES: usize = 20_000;

/// A service on its way through time.
struct Service {
    past: Trailing,
    waiting: VecDeque<f64>,
}

/// The whole fleet's past.
struct Fleet {
    services: Vec<Service>,
    /// `ln(s / u)` of scores that were beyond their service's `u`.
    exceedances: VecDeque<f64>,
    sum: f64,
}

/// P-values, `[service][row]`, of scores in the same shape; `starts` are the services' first steps.
pub(super) fn p_values(scores: &[Scores], starts: &[u64]) -> Vec<Scores> {
    let mut fleet = Fleet::new(scores.len());
    let mut all: Vec<Scores> = scores.iter().map(|scores| vec![None; scores.len()]).collect();
    let ends = scores.iter().zip(starts).map(|(scores, start)| start + scores.len() as u64);
    let (first, end) = (starts.iter().copied().min().unwrap_or(0), ends.max().unwrap_or(0));
    for step in first..end {
        let row = |start: &u64| step.checked_sub(*start).and_then(|row| usize::try_from(row).ok());
        // All of a step are judged before any of it joins.
        let now: Vec<(usize, usize, f64)> = (0..scores.len())
            .filter_map(|service| {
                let row = row(starts.get(service)?)?;
                Some((service, row, (*scores.get(service)?.get(row)?)?))
            })
            .collect();
        for (service, row, score) in &now {
            if let Some(place) = all.get_mut(*service).and_then(|rows| rows.get_mut(*row)) {
                *place = fleet.p_value(*service, *score);
            }
        }
        for (service, _, score) in now {
            fleet.push(service, score);
        }
    }
    all
}

impl Fleet {
    fn new(services: usize) -> Self {
        let service = || Service { past: Trailing::new(PAST), waiting: VecDeque::new() };
        let services = (0..services).map(|_| service()).collect();
        Self { services, exceedances: VecDeque::new(), sum: 0.0 }
    }

    fn p_value(&self, service: usize, score: f64) -> Option<f64> {
        let past = &self.services.get(service)?.past;
        if past.len() < LEAST {
            return None;
        }
        let threshold = past.quantile(1.0 - TAIL)?.max(f64::MIN_POSITIVE);
        if score <= threshold {
            return Some((past.at_least(score) as f64 + 1.0) / (past.len() as f64 + 1.0));
        }
        Some(TAIL * (score / threshold).powf(-1.0 / self.shape()))
    }

    fn shape(&self) -> f64 {
        (self.sum / self.exceedances.len().max(1) as f64).clamp(SHAPES.0, SHAPES.1)
    }

    fn push(&mut self, service: usize, score: f64) {
        let Some(service) = self.services.get_mut(service) else { return };
        service.waiting.push_back(score);
        if service.waiting.len() <= LAG {
            return;
        }
        let Some(joins) = service.waiting.pop_front() else { return };
        if service.past.len() >= LEAST
            && let Some(threshold) = service.past.quantile(1.0 - TAIL)
            && threshold > 0.0
            && joins > threshold
        {
            let excess = (joins / threshold).ln();
            self.exceedances.push_back(excess);
            self.sum += excess;
            if self.exceedances.len() > EXCEEDANCES {
                self.sum -= self.exceedances.pop_front().unwrap_or(0.0);
            }
        }
        service.past.push(joins);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests may panic")]
    use super::*;

    /// 1, 2, ... 100, 1, 2, ... and at the end a last score.
    fn sawtooth(last: f64) -> Scores {
        (0..700).map(|row| Some(f64::from(row % 100 + 1))).chain([Some(last)]).collect()
    }

    #[test]
    fn p_values_by_hand() {
        let p = |last: f64| p_values(&[sawtooth(last)], &[0])[0][700].unwrap();
        // The past: 676 scores, of which 76 are 1 to 76 once more than the others: 6 each up to 100.
        assert!((p(50.0) - (1.0 + 6.0 * 51.0 + 27.0) / 677.0).abs() < 1e-9, "{}", p(50.0));
        // Far beyond u = 98: the shape is at its least, 0.1.
        assert!((p(196.0) - 0.02 * 2.0_f64.powf(-10.0)).abs() < 1e-9, "{}", p(196.0));
        assert_eq!(p_values(&[sawtooth(1.0)], &[0])[0][300], None);
    }

    #[test]
    fn what_comes_later_changes_nothing() {
        let whole = p_values(&[sawtooth(5.0), sawtooth(500.0)], &[0, 10]);
        let short: Scores = sawtooth(5.0)[..600].to_vec();
        let short = p_values(&[short.clone(), short], &[0, 10]);
        assert_eq!(short[0], whole[0][..600]);
        assert_eq!(short[1], whole[1][..600]);
    }
}
