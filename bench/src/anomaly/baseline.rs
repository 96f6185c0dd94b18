//! Signals to features: each against its own trailing past. [`Series`] in, [`Features`] out.
//!
//! ```text
//! z = (x - median) / max(IQR / 1.349, floor)      over the 3 days that end 1 h ago
//! f = 8 tanh(z / 8), 0 where missing
//! ```
//!
//! It is the agent's encoding (`faultline_core::encode`) at the data set's step; the roles of the signals are
//! not known, so there are no logs. The lag keeps an incident from becoming its own baseline at once.

use super::series::Series;
use super::trailing::Trailing;
use faultline_core::encode::{STEPS, clip};
use ndarray::{Array2, ArrayView2, s};

/// The baseline's length: 3 days of 5-minute steps.
pub(super) const BASELINE: usize = 864;
/// The baseline ends so many steps ago: an hour.
const LAG: usize = 12;
/// Below so many values (half a day) there is no baseline yet.
const LEAST: usize = 144;
/// An interquartile range of a normal distribution is so many deviations.
const IQR_TO_DEVIATION: f64 = 1.349;
/// The deviation is at least this share of the median's size: less is rounding.
const FLOOR_OF_MEDIAN: f64 = 0.01;
/// And this share of the span between the 1 % and the 99 % quantile: a signal that mostly rests at one value
/// has no interquartile range.
const FLOOR_OF_SPAN: f64 = 0.1;
/// And this, where everything is zero.
const FLOOR: f64 = 1e-3;

/// One service's features over its steps.
pub(super) struct Features {
    /// `[signals, steps]`, 0 where missing.
    values: Array2<f32>,
    /// 1 where measured and with a baseline, else 0.
    present: Array2<f32>,
}

impl Features {
    /// Encodes every step by what came before it.
    pub(super) fn of(series: &Series) -> Self {
        let shape = (series.signals.len(), series.steps());
        let (mut values, mut present) = (Array2::zeros(shape), Array2::zeros(shape));
        let rows = values.outer_iter_mut().zip(present.outer_iter_mut());
        for ((mut values, mut present), signal) in rows.zip(&series.signals) {
            let mut past = Trailing::new(BASELINE);
            let lagging = std::iter::repeat_n(f64::NAN, LAG).chain(signal.iter().copied());
            for (((value, present), x), late) in values.iter_mut().zip(&mut present).zip(signal).zip(lagging)
            {
                past.push(late);
                if let (false, Some((median, deviation))) = (x.is_nan(), usual(&past)) {
                    *value = clip((x - median) / deviation) as f32;
                    *present = 1.0;
                }
            }
        }
        Self { values, present }
    }

    /// The newest features at a row; `None` where nothing is present.
    pub(super) fn newest(&self, row: usize) -> Option<Vec<f32>> {
        let rows = self.values.column(row).into_iter().zip(self.present.column(row));
        let measured: Vec<f32> = rows.filter(|(_, present)| **present > 0.0).map(|(z, _)| *z).collect();
        (!measured.is_empty()).then_some(measured)
    }

    /// The last [`STEPS`] steps up to and with a row, values and presence; `None` while there are too few, or
    /// where nothing is present now.
    pub(super) fn window(&self, row: usize) -> Option<(ArrayView2<'_, f32>, ArrayView2<'_, f32>)> {
        let first = (row + 1).checked_sub(STEPS)?;
        let values = self.values.slice(s![.., first..=row]);
        let present = self.present.slice(s![.., first..=row]);
        (self.present.column(row).sum() > 0.0).then_some((values, present))
    }
}

/// Median and floored deviation.
fn usual(past: &Trailing) -> Option<(f64, f64)> {
    if past.len() < LEAST {
        return None;
    }
    let median = past.quantile(0.5)?;
    let deviation = (past.quantile(0.75)? - past.quantile(0.25)?) / IQR_TO_DEVIATION;
    let span = past.quantile(0.99)? - past.quantile(0.01)?;
    Some((median, deviation.max(FLOOR_OF_MEDIAN * median.abs()).max(FLOOR_OF_SPAN * span).max(FLOOR)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests may panic")]
    use super::*;

    fn series(signal: Vec<f64>) -> Series {
        let labels = vec![None; signal.len()];
        Series { service: "s".into(), first: 0, train: 1, signals: vec![signal], labels }
    }

    #[test]
    fn a_feature_by_hand() {
        // Constant 10, then 11: the floor is 1 % of 10, so z = 10.
        let mut signal = vec![10.0; 200];
        signal.push(11.0);
        let features = Features::of(&series(signal));
        let expected = (8.0 * (10.0_f64 / 8.0).tanh()) as f32;
        assert!((features.newest(200).unwrap()[0] - expected).abs() < 1e-4);
        assert_eq!(features.newest(199).unwrap(), [0.0]);
        // 144 values that lag by 12 steps are first there at row 155.
        assert!(features.newest(154).is_none() && features.newest(155).is_some());
    }

    #[test]
    fn what_comes_later_changes_nothing() {
        let signal: Vec<f64> = (0..400).map(|step| f64::from(step * 37 % 101)).collect();
        let whole = Features::of(&series(signal.clone()));
        let short = Features::of(&series(signal[..300].to_vec()));
        for row in 0..300 {
            assert_eq!(whole.newest(row), short.newest(row));
        }
    }
}
