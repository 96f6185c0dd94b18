//! Quantiles of the durations of one step. Durations flow in, quantiles flow out; sums of two are exact, so
//! that connections can be summed up to edges and services.
//!
//! A logarithmic histogram over integers: a duration of `v` nanoseconds lies in the bucket that its highest
//! seven bits name, so a bucket is at most 1/64 wide and its middle is within [`RELATIVE_ERROR`] of every
//! value in it. Not a reservoir, because that needs chance, and not sorted samples, because those need room
//! for each call.

use crate::units::Nanos;
use std::collections::BTreeMap;

/// A quantile is off by at most this share of itself.
pub const RELATIVE_ERROR: f64 = 1.0 / 128.0;

/// Bits of a value that its bucket keeps below the highest one. With 64-bit values at most
/// `58 * 64 + 64` buckets exist, which bounds a histogram at 3,776 entries.
const KEPT_BITS: u32 = 6;

/// The durations of one step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latencies {
    buckets: BTreeMap<u16, u32>,
    count: u64,
    sum: u64,
}

impl Latencies {
    /// Adds one duration.
    pub fn add(&mut self, duration: Nanos) {
        *self.buckets.entry(bucket(duration.0)).or_default() += 1;
        self.count += 1;
        self.sum = self.sum.saturating_add(duration.0);
    }

    /// Adds all durations of another.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, count) in &other.buckets {
            *self.buckets.entry(*bucket).or_default() += count;
        }
        self.count += other.count;
        self.sum = self.sum.saturating_add(other.sum);
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The mean in milliseconds, exact.
    #[must_use]
    pub fn mean_ms(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum as f64 / self.count as f64 / 1e6)
    }

    /// The `q`-quantile in milliseconds: the value of rank `ceil(q * count)`, within [`RELATIVE_ERROR`].
    #[must_use]
    pub fn quantile_ms(&self, q: f64) -> Option<f64> {
        let rank = ((q * self.count as f64).ceil() as u64).max(1);
        let mut below = 0;
        self.buckets.iter().find_map(|(bucket, count)| {
            below += u64::from(*count);
            (below >= rank).then(|| middle(*bucket) / 1e6)
        })
    }
}

/// The bucket of a value.
fn bucket(value: u64) -> u16 {
    let highest = 63 - (value | 1).leading_zeros();
    let shift = highest.saturating_sub(KEPT_BITS);
    // Below 64 the bucket is the value; above, 64 buckets to each power of two.
    ((u64::from(shift) << KEPT_BITS) + (value >> shift)) as u16
}

/// The middle of a bucket's values.
fn middle(bucket: u16) -> f64 {
    let shift = (u32::from(bucket) >> KEPT_BITS).saturating_sub(1);
    let first = (u64::from(bucket) - (u64::from(shift) << KEPT_BITS)) << shift;
    first as f64 + ((1_u64 << shift) - 1) as f64 / 2.0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn every_value_is_near_the_middle_of_its_bucket() {
        let mut value = 1_u64;
        let mut last = 0;
        while value < u64::MAX / 3 {
            let bucket = bucket(value);
            assert!(bucket >= last, "buckets ascend at {value}");
            let off = (middle(bucket) - value as f64).abs() / value as f64;
            assert!(off <= RELATIVE_ERROR, "{value}: off by {off}");
            last = bucket;
            value += 1 + value / 100;
        }
    }

    #[test]
    fn quantiles_by_hand() {
        let mut latencies = Latencies::default();
        for millis in 1..=100 {
            latencies.add(Nanos::from_millis(millis));
        }
        assert!((latencies.quantile_ms(0.5).unwrap() - 50.0).abs() < 50.0 * RELATIVE_ERROR);
        assert!((latencies.quantile_ms(0.99).unwrap() - 99.0).abs() < 99.0 * RELATIVE_ERROR);
        assert_eq!(latencies.mean_ms(), Some(50.5));
        assert_eq!(Latencies::default().quantile_ms(0.5), None);
    }

    #[test]
    fn a_sum_is_as_if_all_had_come_together() {
        let (mut left, mut right, mut all) =
            (Latencies::default(), Latencies::default(), Latencies::default());
        for i in 0..1000_u64 {
            let duration = Nanos(i * i * 977);
            if i % 3 == 0 {
                left.add(duration)
            } else {
                right.add(duration)
            }
            all.add(duration);
        }
        left.merge(&right);
        assert_eq!(left, all);
    }
}
