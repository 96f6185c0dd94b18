//! Windows to the features of the model. A service's recent windows flow in, [`Encoded`] values and their
//! presence flow out; [`crate::score`] asks the model about them.
//!
//! Features are roles, never names, so one model serves every service:
//!
//! ```text
//! x = log or logit of the signal, by its role       (a missing signal has no x)
//! z = (x - median) / max(IQR / 1.349, floor)        over a trailing baseline that lags
//! f = 8 tanh(z / 8), 0 where missing
//! ```
//!
//! The baseline lags by the window's length, so that a fault does not become its own baseline.

use crate::history::History;
use crate::units::{ServiceId, Step};
use crate::window::{Signal, Window};
use ndarray::Array2;
use serde::{Deserialize, Serialize};

/// Features a step.
pub const CHANNELS: usize = 16;
/// Steps in the model's window.
pub const STEPS: usize = 16;
/// The version of the encoding; a model trained on another is refused.
pub const VERSION: u32 = 1;
/// The baseline's length in steps: ten minutes at five seconds.
pub const BASELINE_STEPS: u64 = 120;
/// A signal with fewer values in the baseline is missing.
pub const MIN_BASELINE: usize = 12;
/// A window in which fewer channels are present tells nothing.
pub const MIN_CHANNELS: usize = 3;
/// Values beyond this many deviations are all the same.
const CLIP: f64 = 8.0;
/// An interquartile range of a normal distribution is so many deviations.
const IQR_TO_DEVIATION: f64 = 1.349;
/// Ratios get this much of both outcomes, so that none is a certain 0 or 1.
const RATIO_PRIOR: f64 = 0.005;

/// How a channel's number is made from a window, and the least deviation that counts.
#[derive(Clone, Copy, Debug)]
struct Channel {
    name: &'static str,
    feature: fn(&Window) -> Option<f64>,
    floor: f64,
}

/// The channels in the model's order: the one place where it is written down.
const FEATURES: [Channel; CHANNELS] = [
    Channel { name: "log_call_rate", feature: |w| log(w, Signal::CallRate, 0.2), floor: 0.1 },
    Channel { name: "logit_error_ratio", feature: |w| logit(w, Signal::ErrorRatio), floor: 0.3 },
    Channel { name: "log_latency_p50", feature: |w| log(w, Signal::LatencyP50, 0.5), floor: 0.1 },
    Channel { name: "log_latency_p95", feature: |w| log(w, Signal::LatencyP95, 0.5), floor: 0.15 },
    Channel { name: "log_latency_mean", feature: |w| log(w, Signal::LatencyMean, 0.5), floor: 0.1 },
    Channel { name: "log_self_time", feature: |w| log(w, Signal::SelfTime, 0.5), floor: 0.1 },
    Channel { name: "log_request_bytes", feature: |w| log(w, Signal::RequestBytes, 8.0), floor: 0.1 },
    Channel { name: "log_response_bytes", feature: |w| log(w, Signal::ResponseBytes, 8.0), floor: 0.1 },
    Channel { name: "log_in_flight", feature: |w| log(w, Signal::InFlight, 1.0), floor: 0.2 },
    Channel { name: "log_oldest_unanswered", feature: |w| log(w, Signal::OldestUnanswered, 5.0), floor: 0.3 },
    Channel { name: "log_fan_out", feature: |w| log(w, Signal::FanOut, 0.2), floor: 0.1 },
    Channel { name: "logit_outgoing_errors", feature: |w| logit(w, Signal::OutgoingErrorRatio), floor: 0.3 },
    Channel { name: "log_cpu", feature: |w| log(w, Signal::CpuMillicores, 5.0), floor: 0.15 },
    Channel { name: "logit_throttled", feature: |w| logit(w, Signal::ThrottledRatio), floor: 0.3 },
    Channel { name: "log_memory", feature: |w| log(w, Signal::Memory, 1_048_576.0), floor: 0.03 },
    Channel { name: "log_rtt", feature: |w| log(w, Signal::Rtt, 0.05), floor: 0.15 },
];

/// The channels' names in order, for the model's contract.
#[must_use]
pub fn feature_names() -> Vec<String> {
    FEATURES.iter().map(|channel| channel.name.to_owned()).collect()
}

/// A service's last [`STEPS`] steps as the model takes them, both `[CHANNELS, STEPS]`, oldest first.
#[derive(Clone, Debug, PartialEq)]
pub struct Encoded {
    /// Features, 0 where missing.
    pub values: Array2<f32>,
    /// 1 where measured, 0 where missing.
    pub present: Array2<f32>,
}

/// Encodes the steps up to and with `step`; `None` while there is too little baseline, or where too little
/// is measured.
#[must_use]
pub fn encode(history: &History, service: ServiceId, step: Step) -> Option<Encoded> {
    let end = step.0 + 1;
    let start = end.checked_sub(STEPS as u64)?;
    let baseline = Step(start.saturating_sub(BASELINE_STEPS))..Step(start);
    let mut values = Array2::zeros((CHANNELS, STEPS));
    let mut present = Array2::zeros((CHANNELS, STEPS));
    let mut channels = 0;
    for (row, channel) in FEATURES.iter().enumerate() {
        let usual: Vec<f64> = history
            .windows(service, baseline.clone())
            .filter_map(|(_, window)| (channel.feature)(window))
            .collect();
        let Some((median, deviation)) = standard(usual, channel.floor) else { continue };
        channels += 1;
        for (at, window) in history.windows(service, Step(start)..Step(end)) {
            let place = [row, (at.0 - start) as usize];
            if let (Some(x), Some(value)) = ((channel.feature)(window), values.get_mut(place)) {
                *value = clip((x - median) / deviation) as f32;
                if let Some(mask) = present.get_mut(place) {
                    *mask = 1.0;
                }
            }
        }
    }
    let newest_measured = present.column(STEPS - 1).sum() >= MIN_CHANNELS as f32;
    (channels >= MIN_CHANNELS && newest_measured).then_some(Encoded { values, present })
}

/// `8 tanh(z / 8)`: linear near zero, never beyond eight.
#[must_use]
pub fn clip(z: f64) -> f64 {
    CLIP * (z / CLIP).tanh()
}

/// Median and floored deviation; `None` below [`MIN_BASELINE`] values.
fn standard(mut values: Vec<f64>, floor: f64) -> Option<(f64, f64)> {
    if values.len() < MIN_BASELINE {
        return None;
    }
    values.sort_unstable_by(f64::total_cmp);
    let at = |q: f64| values.get((q * (values.len() - 1) as f64).round() as usize).copied();
    let deviation = (at(0.75)? - at(0.25)?) / IQR_TO_DEVIATION;
    Some((at(0.5)?, deviation.max(floor)))
}

/// `ln(x + offset)`: the offset is what counts as nearly nothing.
fn log(window: &Window, signal: Signal, offset: f64) -> Option<f64> {
    window.get(signal).map(|value| (value.max(0.0) + offset).ln())
}

/// Log odds of a ratio, with a small prior for both outcomes.
fn logit(window: &Window, signal: Signal) -> Option<f64> {
    window.get(signal).map(|ratio| {
        let share = (ratio.clamp(0.0, 1.0) + RATIO_PRIOR) / (1.0 + 2.0 * RATIO_PRIOR);
        (share / (1.0 - share)).ln()
    })
}

/// What a model file was made for: written by the trainer next to it, checked before it is used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Contract {
    /// [`VERSION`] of the encoding.
    pub encoding: u32,
    /// [`feature_names`].
    pub features: Vec<String>,
    /// [`STEPS`].
    pub steps: usize,
    /// SHA-256 of the model file, hexadecimal.
    pub sha256: String,
    /// Reconstruction errors of normal windows that were not trained on: (quantile, error).
    pub calibration: Vec<(f64, f64)>,
    /// The trainer's seed.
    pub seed: u64,
    /// What it was trained on.
    pub trained_on: String,
    /// Spearman rank correlation of the scores with those of the same net before quantisation.
    pub rank_correlation: f64,
}

/// A model that was made for something else.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the model expects {what} {theirs}, this agent gives {ours}; use the model that came with it")]
pub struct Mismatch {
    what: &'static str,
    theirs: String,
    ours: String,
}

impl Contract {
    /// Whether the model was made for this encoding.
    ///
    /// # Errors
    /// Where it was not: what differs.
    pub fn check(&self) -> Result<(), Mismatch> {
        let equal = |what, theirs: String, ours: String| {
            if theirs == ours { Ok(()) } else { Err(Mismatch { what, theirs, ours }) }
        };
        equal("encoding", self.encoding.to_string(), VERSION.to_string())?;
        equal("steps", self.steps.to_string(), STEPS.to_string())?;
        equal("features", self.features.join(","), feature_names().join(","))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests may panic")]
    use super::*;
    use crate::units::Nanos;

    const SERVICE: ServiceId = ServiceId(1);

    fn history(steps: u64, value: impl Fn(u64) -> f64) -> History {
        let mut history = History::new(Nanos::from_secs(5), 1000);
        for step in 0..steps {
            let mut window = Window::default();
            for signal in [Signal::CallRate, Signal::LatencyP50, Signal::CpuMillicores] {
                window.set(signal, Some(value(step)));
            }
            history.push(SERVICE, Step(step), window);
        }
        history
    }

    #[test]
    fn too_little_baseline_encodes_to_nothing() {
        let short = STEPS as u64 + MIN_BASELINE as u64 - 1;
        assert_eq!(encode(&history(short, |_| 1.0), SERVICE, Step(short - 1)), None);
        assert!(encode(&history(short + 1, |_| 1.0), SERVICE, Step(short)).is_some());
    }

    #[test]
    fn a_feature_by_hand() {
        // Constant 9.5 ms, then e times (9.5 + 0.5) ms: one more on the log scale, over the floor 0.1.
        let history = history(60, |step| if step == 59 { 10.0_f64 * 1.0_f64.exp() - 0.5 } else { 9.5 });
        let encoded = encode(&history, SERVICE, Step(59)).unwrap();
        let expected = 8.0 * (10.0_f64 / 8.0).tanh();
        assert!((f64::from(encoded.values[[2, 15]]) - expected).abs() < 1e-4);
        assert_eq!(encoded.values[[2, 14]], 0.0);
        // What was not measured is 0 with mask 0.
        assert_eq!(
            (encoded.values[[6, 15]], encoded.present[[6, 15]], encoded.present[[2, 15]]),
            (0.0, 0.0, 1.0)
        );
    }

    #[test]
    fn ratios_become_log_odds() {
        let mut window = Window::default();
        window.set(Signal::ErrorRatio, Some(0.5));
        assert!(logit(&window, Signal::ErrorRatio).unwrap().abs() < 1e-12);
    }

    #[test]
    fn a_contract_for_something_else_is_refused() {
        let mut contract = Contract {
            encoding: VERSION,
            features: feature_names(),
            steps: STEPS,
            sha256: String::new(),
            calibration: Vec::new(),
            seed: 1,
            trained_on: String::new(),
            rank_correlation: 1.0,
        };
        assert_eq!(contract.check(), Ok(()));
        contract.steps = 64;
        assert_eq!(
            contract.check().unwrap_err().to_string(),
            "the model expects steps 64, this agent gives 16; use the model that came with it"
        );
    }
}
