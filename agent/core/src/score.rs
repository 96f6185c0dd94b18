//! How unusual a service's recent windows are: reconstruction error of the autoencoder, turned into a
//! calibrated p-value. Inference sits behind [`Model`], so the core does not know ONNX Runtime.

use ndarray::{Array3, ArrayView3};

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
