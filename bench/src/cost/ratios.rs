//! Means and medians of paired ratios, with an interval that assumes no distribution.

use serde::Serialize;

/// A median with its 95 % interval.
#[derive(Clone, Copy, Debug, Serialize, PartialEq)]
pub(super) struct Median {
    /// The median.
    pub median: f64,
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

/// Standard normal quantile of a two-sided 95 % interval.
const Z: f64 = 1.96;

/// The median, and the order statistics between which it lies with 95 % probability: ranks
/// `n/2 -+ Z sqrt(n)/2`, from the binomial count of values below the true median.
pub(super) fn median(mut values: Vec<f64>) -> Median {
    values.sort_by(f64::total_cmp);
    let count = values.len() as f64;
    let at = |rank: f64| {
        let last = values.len().saturating_sub(1);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped to the places of a list"
        )]
        let place = rank.clamp(0.0, last as f64) as usize;
        values.get(place).copied().unwrap_or(f64::NAN)
    };
    let (middle, reach) = ((count - 1.0) / 2.0, Z * count.sqrt() / 2.0);
    Median {
        median: f64::midpoint(at(middle.floor()), at(middle.ceil())),
        low: at((middle - reach).floor()),
        high: at((middle + reach).ceil()),
    }
}

/// The mean in which twice as much and half as much cancel.
pub(super) fn geometric_mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    (values.map(f64::ln).sum::<f64>() / count).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        // Sixteen values: ranks 7.5 -+ 3.92, so the fourth and the thirteenth (places 3 and 12).
        let values: Vec<f64> = (0..16).map(f64::from).collect();
        assert_eq!(median(values), Median { median: 7.5, low: 3.0, high: 12.0 });
        assert_eq!(median(vec![2.0]), Median { median: 2.0, low: 2.0, high: 2.0 });
        assert!(median(Vec::new()).median.is_nan());
        assert!((geometric_mean([2.0, 0.5, 9.0, 1.0].into_iter()) - 3f64.sqrt()).abs() < 1e-12);
    }
}
