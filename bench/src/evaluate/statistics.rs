//! Numbers of the root-cause literature and how sure they are. Ranks flow in, estimates with 95 % intervals
//! flow out: Wilson's for shares, percentile bootstrap for means (both in Brown, Cai, DasGupta: Interval
//! estimation for a binomial proportion, 2001, and Efron, Tibshirani: An introduction to the bootstrap, 1993).

use crate::random::Random;
use serde::{Deserialize, Serialize};

/// The normal distribution's quantile for 95 %.
const Z: f64 = 1.959_964;
/// Draws of a bootstrap: its limits are then known to about a hundredth of their distance.
const DRAWS: usize = 2_000;
/// Of the bootstrap's draws, so that the same rankings give the same intervals.
const SEED: u64 = 95;
/// Places beyond this count as not found, as AC@k is told for k up to it.
pub(super) const DEPTH: usize = 5;

/// A number with its 95 % interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Estimate {
    pub(crate) value: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// How well one method ranks: the chance that a culprit is among the first k, for k from 1 to [`DEPTH`], and
/// the reciprocal of its place. Chances are 0 or 1 but for a method that draws.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Hit {
    pub(super) within: [f64; DEPTH],
    pub(super) reciprocal: f64,
}

impl Hit {
    /// The best place of a culprit in a ranking, counted from 0.
    pub(super) fn at(place: Option<usize>) -> Self {
        let mut hit = Self::default();
        if let Some(place) = place {
            hit.within.iter_mut().skip(place).for_each(|within| *within = 1.0);
            hit.reciprocal = 1.0 / (place + 1) as f64;
        }
        hit
    }

    /// What drawing an order of `candidates` gives on average when `culprits` of them are right: the chance
    /// that the first culprit is at place r is C(n-r, c-1) / C(n, c).
    pub(super) fn drawn(candidates: usize, culprits: usize) -> Self {
        let mut hit = Self::default();
        if culprits == 0 || culprits > candidates {
            return hit;
        }
        let (mut none_before, mut sum) = (1.0, 0.0);
        for place in 0..candidates {
            let left = (candidates - place) as f64;
            let here = none_before * (culprits as f64 / left).min(1.0);
            sum += here;
            hit.reciprocal += here / (place + 1) as f64;
            if let Some(within) = hit.within.get_mut(place) {
                *within = sum;
            }
            none_before -= here;
        }
        let reached = hit.within.iter().copied().fold(0.0, f64::max);
        hit.within.iter_mut().skip(candidates).for_each(|within| *within = reached);
        hit
    }

    /// Mean of AC@1 to AC@5.
    pub(super) fn average(&self) -> f64 {
        self.within.iter().sum::<f64>() / DEPTH as f64
    }
}

/// The metrics of some faults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Accuracy {
    pub(super) faults: usize,
    pub(super) ac1: Estimate,
    pub(super) ac3: Estimate,
    pub(super) ac5: Estimate,
    pub(super) avg5: Estimate,
    pub(super) mrr: Estimate,
}

impl Accuracy {
    pub(super) fn of(hits: &[Hit]) -> Self {
        let share = |k: usize| {
            let sum: f64 = hits.iter().filter_map(|hit| hit.within.get(k - 1)).sum();
            wilson(sum, hits.len())
        };
        let averages: Vec<f64> = hits.iter().map(Hit::average).collect();
        let reciprocals: Vec<f64> = hits.iter().map(|hit| hit.reciprocal).collect();
        Self {
            faults: hits.len(),
            ac1: share(1),
            ac3: share(3),
            ac5: share(5),
            avg5: bootstrap(&averages),
            mrr: bootstrap(&reciprocals),
        }
    }
}

/// A share with Wilson's interval; `hits` may be a sum of chances.
pub(super) fn wilson(hits: f64, of: usize) -> Estimate {
    if of == 0 {
        return Estimate { value: f64::NAN, low: 0.0, high: 1.0 };
    }
    let n = of as f64;
    let p = hits / n;
    let scale = 1.0 + Z * Z / n;
    let centre = (p + Z * Z / (2.0 * n)) / scale;
    let half = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).max(0.0).sqrt() / scale;
    Estimate { value: p, low: (centre - half).max(0.0), high: (centre + half).min(1.0) }
}

/// A mean with the interval of the percentile bootstrap.
pub(crate) fn bootstrap(values: &[f64]) -> Estimate {
    if values.is_empty() {
        return Estimate { value: f64::NAN, low: f64::NAN, high: f64::NAN };
    }
    let mean = |sum: f64| sum / values.len() as f64;
    let mut random = Random::seeded(SEED);
    let mut draw = || values.get(random.below(values.len() as u64) as usize).copied().unwrap_or_default();
    let mut means: Vec<f64> =
        (0..DRAWS).map(|_| mean((0..values.len()).map(|_| draw()).sum::<f64>())).collect();
    means.sort_unstable_by(f64::total_cmp);
    let at =
        |share: f64| means.get((share * (DRAWS - 1) as f64).round() as usize).copied().unwrap_or(f64::NAN);
    Estimate { value: mean(values.iter().sum()), low: at(0.025), high: at(0.975) }
}

/// A count in some time with the interval of a Poisson rate (Byar's approximation; Breslow, Day: Statistical
/// methods in cancer research II, 1987).
pub(super) fn rate(count: usize, time: f64) -> Estimate {
    let n = count as f64;
    let limit = |n: f64, z: f64| n * (1.0 - 1.0 / (9.0 * n) + z / (3.0 * n.sqrt())).powi(3);
    let low = if count == 0 { 0.0 } else { limit(n, -Z) };
    Estimate { value: n / time, low: low / time, high: limit(n + 1.0, Z) / time }
}

/// The middle of some numbers; the mean of both middles.
pub(super) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => sorted.get(middle).copied(),
        _ => Some((sorted.get(middle - 1)? + sorted.get(middle)?) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(left: f64, right: f64) -> bool {
        (left - right).abs() < 1e-3
    }

    #[test]
    fn wilson_by_hand() {
        // 22 of 24, as the public scorer says it.
        let estimate = wilson(22.0, 24);
        assert!(near(estimate.value, 0.9167) && near(estimate.low, 0.742) && near(estimate.high, 0.977));
        assert!(wilson(0.0, 0).value.is_nan());
    }

    #[test]
    fn a_draw_of_five_with_one_and_with_two_culprits() {
        let one = Hit::drawn(5, 1);
        assert!(near(one.within[0], 0.2) && near(one.within[2], 0.6) && near(one.within[4], 1.0));
        assert!(near(one.reciprocal, (1.0 + 0.5 + 1.0 / 3.0 + 0.25 + 0.2) / 5.0));
        let two = Hit::drawn(5, 2);
        assert!(near(two.within[0], 0.4) && near(two.within[1], 0.7));
        assert!(near(Hit::drawn(2, 1).within[4], 1.0));
        assert_eq!(Hit::drawn(3, 0), Hit::default());
    }

    #[test]
    fn places_become_hits() {
        let accuracy = Accuracy::of(&[Hit::at(Some(0)), Hit::at(Some(2)), Hit::at(None), Hit::at(Some(7))]);
        assert!(near(accuracy.ac1.value, 0.25) && near(accuracy.ac3.value, 0.5));
        assert!(near(accuracy.avg5.value, (1.0 + 0.6) / 4.0));
        assert!(near(accuracy.mrr.value, (1.0 + 1.0 / 3.0 + 1.0 / 8.0) / 4.0));
        assert!(accuracy.mrr.low <= accuracy.mrr.value && accuracy.mrr.value <= accuracy.mrr.high);
    }

    #[test]
    fn rates_by_the_tables() {
        // Exact limits of 10 events are 4.795 and 18.39.
        let estimate = rate(10, 1.0);
        assert!((estimate.low - 4.79).abs() < 0.02 && (estimate.high - 18.39).abs() < 0.02, "{estimate:?}");
        assert!((rate(0, 2.0).high - 3.69 / 2.0).abs() < 0.1);
    }
}
