//! When requests leave: a Poisson process whose rate follows a pattern. Gaps are exponential at the
//! rate of the moment, which is exact where the rate is constant and close where it moves slowly.

use crate::random::Random;
use crate::topology::Pattern;

/// A wave takes a minute, so that a run of a few minutes has several.
const WAVE_SECONDS: f64 = 60.0;
/// A peak of three times the rate for 5 s of every 40 s; between peaks the rate is lower, so that the mean holds.
const BURST: (f64, f64, f64) = (5.0, 40.0, 3.0);
/// Low and high plateaus of a minute each.
const STEP_SECONDS: f64 = 60.0;
/// A noisy rate changes this often.
const NOISE_SECONDS: f64 = 5.0;

pub(super) struct Arrivals {
    rate: f64,
    pattern: Pattern,
    random: Random,
    seed: u64,
    at: f64,
}

impl Arrivals {
    pub(super) fn new(rate: f64, pattern: Pattern, seed: u64) -> Self {
        Self { rate, pattern, random: Random::seeded(seed), seed, at: 0.0 }
    }

    /// From now on, seconds after the start, there are so many a second on average. What was drawn for later
    /// is forgotten: gaps of a Poisson process do not remember when they began.
    pub(super) const fn change(&mut self, rate: f64, now: f64) {
        self.rate = rate;
        self.at = now;
    }

    /// When the next request leaves, seconds after the start.
    pub(super) fn next_seconds(&mut self) -> f64 {
        let rate = self.rate * multiplier(self.pattern, self.at, self.seed);
        self.at += self.random.gap() / rate.max(1e-6);
        self.at
    }
}

/// The rate at a moment, as a multiple of the mean.
fn multiplier(pattern: Pattern, at: f64, seed: u64) -> f64 {
    match pattern {
        Pattern::Steady => 1.0,
        Pattern::Wave => 1.0 + 0.5 * (std::f64::consts::TAU * at / WAVE_SECONDS).sin(),
        Pattern::Burst => {
            let (long, period, peak) = BURST;
            if at % period >= period - long { peak } else { (period - long * peak) / (period - long) }
        }
        Pattern::Step => {
            if (at / STEP_SECONDS) % 2.0 < 1.0 {
                0.6
            } else {
                1.4
            }
        }
        Pattern::Noisy => {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds of a run")]
            let piece = (at / NOISE_SECONDS) as u64;
            0.4 + 1.2 * Random::seeded(seed.wrapping_add(piece)).unit()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_keeps_the_mean_rate() {
        for pattern in [Pattern::Steady, Pattern::Wave, Pattern::Burst, Pattern::Step, Pattern::Noisy] {
            let mut arrivals = Arrivals::new(50.0, pattern, 3);
            let count =
                std::iter::repeat_with(|| arrivals.next_seconds()).take_while(|&at| at < 1_200.0).count();
            assert!((54_000..66_000).contains(&count), "{pattern:?}: {count}");
        }
    }

    #[test]
    fn a_new_rate_holds_at_once() {
        let mut arrivals = Arrivals::new(0.001, Pattern::Steady, 3);
        assert!(arrivals.next_seconds() > 10.0);
        arrivals.change(100.0, 2.0);
        let count = std::iter::repeat_with(|| arrivals.next_seconds()).take_while(|&at| at < 12.0).count();
        assert!((800..1_200).contains(&count), "{count}");
    }

    #[test]
    fn the_same_seed_gives_the_same_arrivals() {
        let times = |seed| {
            let mut arrivals = Arrivals::new(10.0, Pattern::Noisy, seed);
            [arrivals.next_seconds(), arrivals.next_seconds(), arrivals.next_seconds()].map(f64::to_bits)
        };
        assert_eq!(times(1), times(1));
        assert_ne!(times(1), times(2));
    }
}
