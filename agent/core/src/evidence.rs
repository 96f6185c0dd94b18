//! What one signal tells against one service. Values of [`crate::history`] flow in, [`Change`]s and
//! [`Reason`]s flow out; [`crate::rank`] weighs them over the graph.
//!
//! A change is judged by a robust effect size with floors, on a log scale (BARO's robust scorer, with
//! floors so that a perfectly quiet signal does not make a mountain of a molehill):
//!
//! ```text
//! scale    = max(1.4826 MAD(reference), relative · |median(reference)|, absolute)
//! z        = (median(recent) - median(reference)) / scale
//! strength = ln(1 + max(0, z - NOISE)) · tail
//! tail     = ln(1/p) / ln(n + 1),  p = (1 + #{reference >= value}) / (n + 1)
//! ```

use crate::units::ServiceId;

/// One reason to suspect a service.
#[derive(Clone, Debug, PartialEq)]
pub struct Reason {
    /// `self`, `edge`, `resource`, `model`, or `discount` (what callees explain; its weight is negative).
    pub family: &'static str,
    /// The signal's name ([`crate::window::Signal::name`] or [`crate::window::EdgeSignal::name`]).
    pub signal: &'static str,
    /// The other end, for an edge.
    pub peer: Option<ServiceId>,
    /// Now, in the signal's unit.
    pub value: f64,
    /// As usual, in the signal's unit; `None` where nothing is usual.
    pub baseline: Option<f64>,
    /// Its part in the suspect's score.
    pub weight: f64,
    /// In words: `p95 latency 812 ms, usually 14 ms`. It names no service; the peer is a field.
    pub text: String,
}

/// Differences of fewer scales than this are what ordinary steps do: three robust deviations.
const NOISE: f64 = 3.0;
/// A baseline of fewer values says nothing about what is usual.
pub(crate) const MIN_REFERENCE: usize = 5;

/// The smallest scale on which a signal's change is measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Floor {
    /// Share of the baseline.
    pub(crate) relative: f64,
    /// In the signal's unit.
    pub(crate) absolute: f64,
}

/// Latencies wander by a quarter from step to step, and below 2 ms a scheduler's tick decides.
pub(crate) const LATENCY: Floor = Floor { relative: 0.25, absolute: 2.0 };
/// CPU follows the load; below 2 thousandths of a core the sampling decides.
pub(crate) const CPU: Floor = Floor { relative: 0.25, absolute: 2.0 };
/// Caches and arenas grow in steps of megabytes.
pub(crate) const MEMORY: Floor = Floor { relative: 0.05, absolute: 1_048_576.0 };
/// A few hundredths of a step's time come and go with the neighbours.
pub(crate) const SHARE: Floor = Floor { relative: 0.25, absolute: 0.02 };
/// A call that waits for less than 50 ms at a step's end is ordinary.
pub(crate) const WAITING: Floor = Floor { relative: 0.5, absolute: 50.0 };
/// Connects and kills are events: one in a step is one.
pub(crate) const EVENTS: Floor = Floor { relative: 0.5, absolute: 0.1 };

/// How far a signal moved.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Change {
    /// Now.
    pub(crate) value: f64,
    /// As usual.
    pub(crate) baseline: f64,
    /// The scale on which the difference counts.
    pub(crate) scale: f64,
    /// How unusual the value is among the baseline's: 1 for beyond all of them, 0 for ordinary.
    pub(crate) tail: f64,
}

impl Change {
    /// Compares recent values with a reference; `None` where there are too few.
    pub(crate) fn between(reference: &[f64], recent: &[f64], floor: Floor) -> Option<Self> {
        if reference.len() < MIN_REFERENCE {
            return None;
        }
        let value = median(recent)?;
        let baseline = median(reference)?;
        let spread: Vec<f64> = reference.iter().map(|x| (x - baseline).abs()).collect();
        let scale =
            (1.4826 * median(&spread)?).max(floor.relative * baseline.abs()).max(floor.absolute).max(1e-9);
        let count = reference.len() as f64;
        let beyond = reference.iter().filter(|x| **x >= value).count() as f64;
        let tail = ((count + 1.0) / (beyond + 1.0)).ln() / (count + 1.0).ln();
        Some(Self { value, baseline, scale, tail })
    }

    /// The same change against another expectation, as when the load explains a part of it.
    pub(crate) fn against(self, expected: f64) -> Self {
        Self { baseline: expected, ..self }
    }

    /// The difference in the signal's unit; negative for a fall.
    pub(crate) fn difference(self) -> f64 {
        self.value - self.baseline
    }

    /// The difference in scales.
    pub(crate) fn z(self) -> f64 {
        self.difference() / self.scale
    }

    /// Log effect size of a rise of which `share` (0..1) is the service's own.
    pub(crate) fn strength(self, share: f64) -> f64 {
        let share = share.clamp(0.0, 1.0);
        (1.0 + (self.z() * share - NOISE).max(0.0)).ln() * self.tail * share
    }

    /// Log effect size of a fall, where the tail of the reference is not known: halved.
    pub(crate) fn fall(self) -> f64 {
        (1.0 + (-self.z() - NOISE).max(0.0)).ln() / 2.0
    }

    /// Whether the rise is more than noise.
    pub(crate) fn is_rise(self) -> bool {
        self.z() > NOISE
    }
}

/// Effect size of an error count as a Poisson variable: `observed` errors where `expected` are usual.
///
/// `z = (observed - expected) / sqrt(expected + 1)`; the one keeps a single error from counting.
pub(crate) fn error_strength(observed: f64, expected: f64, share: f64) -> f64 {
    let share = share.clamp(0.0, 1.0);
    let z = (observed - expected) / (expected + 1.0).sqrt();
    (1.0 + (z * share - NOISE).max(0.0)).ln() * share
}

/// The middle value, the mean of the two middle ones for an even count; `None` for none.
#[must_use]
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    quantile(values, 0.5)
}

/// The value below which the share `q` lies, interpolated linearly between order statistics.
#[must_use]
pub(crate) fn quantile(values: &[f64], q: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let place = q.clamp(0.0, 1.0) * sorted.len().checked_sub(1)? as f64;
    let below = *sorted.get(place.floor() as usize)?;
    let above = *sorted.get(place.ceil() as usize)?;
    Some(below + (above - below) * place.fract())
}

/// A number for people: `812 ms`, `1.4 s`, `14 ms`.
#[must_use]
pub(crate) fn millis(value: f64) -> String {
    match value.abs() {
        v if v >= 10_000.0 => format!("{:.0} s", value / 1e3),
        v if v >= 1_000.0 => format!("{:.1} s", value / 1e3),
        v if v >= 10.0 => format!("{value:.0} ms"),
        v if v >= 1.0 => format!("{value:.1} ms"),
        _ => format!("{value:.2} ms"),
    }
}

/// A share for people: `12 %`, `0.3 %`.
#[must_use]
pub(crate) fn percent(value: f64) -> String {
    let percent = value * 100.0;
    if percent >= 10.0 || percent == 0.0 { format!("{percent:.0} %") } else { format!("{percent:.1} %") }
}

/// Bytes for people: `312 MiB`.
#[must_use]
pub(crate) fn mebibytes(value: f64) -> String {
    let mebibytes = value / 1_048_576.0;
    if mebibytes >= 10.0 { format!("{mebibytes:.0} MiB") } else { format!("{mebibytes:.1} MiB") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may panic")]
    use super::*;

    #[test]
    fn quantiles_interpolate_between_order_statistics() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(quantile(&[0.0, 10.0], 0.9), Some(9.0));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn a_change_by_hand() {
        // Median 10, deviations 2 1 0 1 2 with median 1: scale max(1.4826, 2.5, 2) = 2.5.
        let change = Change::between(&[8.0, 9.0, 10.0, 11.0, 12.0], &[30.0, 35.0, 900.0], LATENCY).unwrap();
        assert_eq!((change.value, change.baseline, change.scale, change.tail), (35.0, 10.0, 2.5, 1.0));
        assert_eq!(change.z(), 10.0);
        assert!((change.strength(1.0) - 8.0_f64.ln()).abs() < 1e-12);
        // Half of it is the service's own: z 5, two above the noise, and weighed by a half.
        assert!((change.strength(0.5) - 3.0_f64.ln() / 2.0).abs() < 1e-12);
    }

    #[test]
    fn a_value_that_the_baseline_often_has_weighs_less() {
        let reference = [10.0, 10.0, 10.0, 10.0, 10.0, 10.0, 200.0, 200.0, 200.0];
        let often = Change::between(&reference, &[200.0], LATENCY).unwrap();
        assert!((often.tail - (10.0_f64 / 4.0).ln() / 10.0_f64.ln()).abs() < 1e-12);
    }

    #[test]
    fn too_short_a_baseline_says_nothing() {
        assert_eq!(Change::between(&[1.0; 4], &[900.0], LATENCY), None);
        assert_eq!(Change::between(&[1.0; 9], &[], LATENCY), None);
    }

    #[test]
    fn errors_count_as_poisson() {
        // 25 errors where none are usual: z 25, 22 above the noise.
        assert!((error_strength(25.0, 0.0, 1.0) - 23.0_f64.ln()).abs() < 1e-12);
        assert_eq!(error_strength(3.0, 0.0, 1.0), 0.0);
        assert_eq!(error_strength(25.0, 0.0, 0.0), 0.0);
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            [millis(812.4), millis(14_000.0), millis(1_400.0), millis(0.25)],
            ["812 ms", "14 s", "1.4 s", "0.25 ms"]
        );
        assert_eq!(percent(0.5), "50 %");
        assert_eq!(mebibytes(327_155_712.0), "312 MiB");
    }
}
