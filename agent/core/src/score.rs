//! How unusual a service's recent windows are: reconstruction error of the autoencoder, turned into a
//! calibrated p-value. Inference sits behind [`Model`], so the core does not know ONNX Runtime.
//!
//! The p-value compares an error with the errors of the whole fleet's recent past, which lag so that a fault
//! is not its own yardstick. Within that past it is a rank; beyond its upper tail `u` (the 98 % quantile) a
//! Pareto tail with Hill's estimate of the shape goes on:
//!
//! ```text
//! p = (1 + #{e_i >= e}) / (n + 1)                            for e <= u
//! p = 0.02 (e / u)^(-1/h),  h = mean of ln(e_i / u) over e_i > u   beyond
//! ```

use crate::encode::{Encoded, encode};
use crate::history::History;
use crate::units::{Nanos, ServiceId, Step};
use ndarray::{Array3, ArrayView2, ArrayView3, Axis, stack};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// An autoencoder that reconstructs encoded windows. Implemented over ONNX Runtime in the agent, and by
/// small fakes in tests.
pub trait Model: Send {
    /// Reconstructs a batch. Shape in and out: `[batch, channels, steps]`, as
    /// [`crate::encode`] lays them out.
    ///
    /// # Errors
    /// When inference fails; the caller masks the batch and reports the model as missing.
    fn reconstruct(&mut self, batch: ArrayView3<'_, f32>) -> Result<Array3<f32>, ModelError>;

    /// SHA-256 of the model file in hexadecimal, for reports and recordings.
    fn digest(&self) -> &str;
}

/// Inference failed.
#[derive(Debug, thiserror::Error)]
#[error("the model could not score a batch of {batch} windows: {reason}; the agent goes on without scores")]
pub struct ModelError {
    /// How many windows were asked for.
    pub batch: usize,
    /// What the runtime said.
    pub reason: String,
}

/// How unusual one service is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// Mean squared reconstruction error over what was measured.
    pub error: f64,
    /// The share of normal windows that look at least as unusual; `None` while it warms up.
    pub p_value: Option<f64>,
}

/// Errors of normal steps that a p-value needs to compare with.
const MIN_PAST: usize = 60;
/// The fleet's past is so many errors: an hour of a small fleet, some minutes of a thousand services.
const MOST_PAST: usize = 20_000;
/// Errors join the past after so many steps, so that a fault of a minute is over or known by then.
const PAST_LAG: usize = 12;
/// The share of the past above which the tail is modelled.
const TAIL: f64 = 0.02;
/// Hill's estimate is kept within these: a lighter tail than the first would promise too much of a few
/// errors, a heavier one than the second never reaches small p-values.
const SHAPES: (f64, f64) = (0.1, 1.0);
/// Services in one batch of inference; bounds the memory.
const BATCH: usize = 64;

/// Scores every service at each step.
pub struct Scorer {
    model: Option<Box<dyn Model>>,
    past: Past,
    failure: Option<String>,
}

impl Scorer {
    /// A scorer that has seen nothing; without a model it gives no scores.
    #[must_use]
    pub fn new(model: Option<Box<dyn Model>>, _step_length: Nanos) -> Self {
        Self { model, past: Past::default(), failure: None }
    }

    /// Scores the services that are not masked and have enough windows, at the end of `step`.
    pub fn step(
        &mut self,
        history: &History,
        step: Step,
        masked: &BTreeSet<ServiceId>,
    ) -> BTreeMap<ServiceId, Score> {
        self.failure = None;
        let Some(model) = self.model.as_deref_mut() else { return BTreeMap::new() };
        let encoded: Vec<(ServiceId, Encoded)> = history
            .services()
            .filter(|service| !masked.contains(service))
            .filter_map(|service| Some((service, encode(history, service, step)?)))
            .collect();
        let mut errors = BTreeMap::new();
        for batch in encoded.chunks(BATCH) {
            match reconstruction_errors(model, batch.iter().map(|(_, encoded)| encoded)) {
                Ok(found) => errors.extend(batch.iter().map(|(service, _)| *service).zip(found)),
                Err(error) => self.failure = Some(error.to_string()),
            }
        }
        let scores = errors
            .iter()
            .map(|(service, error)| (*service, Score { error: *error, p_value: self.past.p_value(*error) }))
            .collect();
        self.past.push(errors.into_values().collect());
        scores
    }

    /// SHA-256 of the model in use.
    #[must_use]
    pub fn digest(&self) -> Option<&str> {
        self.model.as_deref().map(Model::digest)
    }

    /// Why the model gave no scores at the last step, in words; `None` when it did or there is none.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }
}

/// Reconstruction error of each window.
///
/// # Errors
/// When inference fails or gives back another shape.
pub fn reconstruction_errors<'e>(
    model: &mut dyn Model,
    windows: impl Iterator<Item = &'e Encoded> + Clone,
) -> Result<Vec<f64>, ModelError> {
    let values: Vec<ArrayView2<'_, f32>> = windows.clone().map(|window| window.values.view()).collect();
    let failed = |reason: String| ModelError { batch: values.len(), reason };
    if values.is_empty() {
        return Ok(Vec::new());
    }
    let batch = stack(Axis(0), &values).map_err(|error| failed(error.to_string()))?;
    let output = model.reconstruct(batch.view())?;
    if output.shape() != batch.shape() {
        return Err(failed(format!("it gave shape {:?} for {:?}", output.shape(), batch.shape())));
    }
    Ok(windows.zip(output.outer_iter()).map(|(window, output)| masked_error(window, &output)).collect())
}

/// Mean squared difference over what was measured.
fn masked_error(window: &Encoded, output: &ArrayView2<'_, f32>) -> f64 {
    let squares: f64 = window
        .values
        .iter()
        .zip(&window.present)
        .zip(output)
        .map(|((value, present), output)| f64::from((value - output) * present).powi(2))
        .sum();
    let measured: f64 = window.present.iter().copied().map(f64::from).sum();
    squares / measured.max(1.0)
}

/// The fleet's errors that p-values compare with.
#[derive(Clone, Debug, Default)]
pub struct Past {
    /// Steps that have not joined yet, oldest first.
    waiting: VecDeque<Vec<f64>>,
    errors: VecDeque<f64>,
    /// The same, ascending; made anew when errors join.
    sorted: Vec<f64>,
}

impl Past {
    /// A past of given errors, as of a reference period.
    #[must_use]
    pub fn of(errors: Vec<f64>) -> Self {
        let mut past = Self::default();
        past.join(errors);
        past
    }

    /// Adds the errors of one step; they count after [`PAST_LAG`] steps.
    pub fn push(&mut self, errors: Vec<f64>) {
        self.waiting.push_back(errors);
        while self.waiting.len() > PAST_LAG {
            let errors = self.waiting.pop_front().unwrap_or_default();
            self.join(errors);
        }
    }

    fn join(&mut self, errors: Vec<f64>) {
        self.errors.extend(errors.into_iter().filter(|error| error.is_finite()));
        let surplus = self.errors.len().saturating_sub(MOST_PAST);
        self.errors.drain(..surplus);
        self.sorted = self.errors.iter().copied().collect();
        self.sorted.sort_unstable_by(f64::total_cmp);
    }

    /// The share of normal errors at least as large; `None` below [`MIN_PAST`] errors.
    #[must_use]
    pub fn p_value(&self, error: f64) -> Option<f64> {
        let count = self.sorted.len();
        if count < MIN_PAST || !error.is_finite() {
            return None;
        }
        let first_of_tail = ((1.0 - TAIL) * count as f64).floor() as usize;
        let threshold = self.sorted.get(first_of_tail).copied()?.max(f64::MIN_POSITIVE);
        if error <= threshold {
            let at_least = count - self.sorted.partition_point(|past| *past < error);
            return Some((at_least as f64 + 1.0) / (count as f64 + 1.0));
        }
        let beyond = self.sorted.get(first_of_tail + 1..).unwrap_or_default();
        let logs: f64 = beyond.iter().map(|past| (past / threshold).ln()).sum();
        let shape = (logs / beyond.len().max(1) as f64).clamp(SHAPES.0, SHAPES.1);
        Some(TAIL * (error / threshold).powf(-1.0 / shape))
    }
}

/// Scores as the ranking takes them: `-ln p`, for services with a p-value.
#[must_use]
pub fn surprises(scores: &BTreeMap<ServiceId, Score>) -> BTreeMap<ServiceId, f64> {
    scores
        .iter()
        .filter_map(|(service, score)| Some((*service, -score.p_value?.clamp(1e-12, 1.0).ln())))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests may panic")]
    use super::*;
    use crate::window::{Signal, Window};

    /// Reconstructs everything as zero, so the error is the mean square of the features.
    struct Zero;

    impl Model for Zero {
        fn reconstruct(&mut self, batch: ArrayView3<'_, f32>) -> Result<Array3<f32>, ModelError> {
            Ok(Array3::zeros(batch.raw_dim()))
        }
        fn digest(&self) -> &str {
            "zero"
        }
    }

    /// Never works.
    struct Broken;

    impl Model for Broken {
        fn reconstruct(&mut self, batch: ArrayView3<'_, f32>) -> Result<Array3<f32>, ModelError> {
            Err(ModelError { batch: batch.shape()[0], reason: "no".to_owned() })
        }
        fn digest(&self) -> &str {
            "broken"
        }
    }

    fn history(steps: u64, slow_from: u64) -> History {
        let mut history = History::new(Nanos::from_secs(5), 1000);
        for step in 0..steps {
            for service in 0..3 {
                let mut window = Window::default();
                let wave = 1.0 + 0.1 * ((step * 7 + u64::from(service) * 3) % 11) as f64;
                let slow = if service == 1 && step >= slow_from { 20.0 } else { 1.0 };
                window.set(Signal::CallRate, Some(50.0 * wave));
                window.set(Signal::LatencyP50, Some(10.0 * wave * slow));
                window.set(Signal::CpuMillicores, Some(80.0 * wave));
                history.push(ServiceId(service), Step(step), window);
            }
        }
        history
    }

    #[test]
    fn what_breaks_gets_a_small_p_value_and_what_does_not_keeps_a_large_one() {
        let history = history(120, 110);
        let mut scorer = Scorer::new(Some(Box::new(Zero)), Nanos::from_secs(5));
        let mut last = BTreeMap::new();
        for step in 0..115 {
            last = scorer.step(&history, Step(step), &BTreeSet::new());
            if step < 27 {
                assert!(last.is_empty(), "warming up at {step}");
            }
        }
        assert!(last[&ServiceId(1)].p_value.unwrap() < 0.005, "{last:?}");
        assert!(last[&ServiceId(0)].p_value.unwrap() > 0.05, "{last:?}");
        assert!(surprises(&last)[&ServiceId(1)] > 5.0);
    }

    #[test]
    fn masked_services_are_not_scored_and_a_broken_model_says_so() {
        let history = history(60, 100);
        let mut scorer = Scorer::new(Some(Box::new(Zero)), Nanos::from_secs(5));
        let scores = scorer.step(&history, Step(59), &BTreeSet::from([ServiceId(0)]));
        assert_eq!(scores.keys().copied().collect::<Vec<_>>(), [ServiceId(1), ServiceId(2)]);
        let mut scorer = Scorer::new(Some(Box::new(Broken)), Nanos::from_secs(5));
        assert!(scorer.step(&history, Step(59), &BTreeSet::new()).is_empty());
        assert!(scorer.failure().unwrap().contains("could not score a batch of 3 windows: no"));
    }

    #[test]
    fn p_values_by_hand() {
        // 1..=100: the tail begins at the 99th, so u = 99; beyond it only 100, ln(100/99) = 0.01 -> 0.1.
        let past = Past::of((1..=100).map(f64::from).collect());
        assert_eq!(past.p_value(51.0), Some(51.0 / 101.0));
        assert_eq!(past.p_value(99.0), Some(3.0 / 101.0));
        let beyond = past.p_value(198.0).unwrap();
        assert!((beyond - 0.02 * 2.0_f64.powf(-10.0)).abs() < 1e-12);
        assert_eq!(Past::of(vec![1.0; 59]).p_value(1.0), None);
    }

    #[test]
    fn the_past_lags() {
        let mut past = Past::default();
        past.push(vec![1.0; 100]);
        assert_eq!(past.p_value(1.0), None);
        for _ in 0..PAST_LAG {
            past.push(Vec::new());
        }
        assert!(past.p_value(1.0).is_some());
    }
}
