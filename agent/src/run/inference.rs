//! The model, or what the report and `check` say of its absence: the agent works without.

use crate::config::ModelFiles;
use crate::model::{LoadError, load};
use faultline_core::event::Missing;
use faultline_core::score::Model;
use faultline_core::units::Timestamp;

/// Loads the model.
///
/// # Errors
/// Never fatal: what is missing, dated `at`, with its reason and what to do.
pub(crate) fn model(files: &ModelFiles, at: Timestamp) -> Result<Box<dyn Model>, Missing> {
    load(files.model.as_deref(), files.runtime.as_deref()).map_err(|error| Missing {
        at,
        part: part(&error).into(),
        reason: error.to_string().into(),
        fix: fix(&error).into(),
    })
}

fn part(error: &LoadError) -> &'static str {
    match error {
        LoadError::NoRuntime | LoadError::Runtime { .. } => "model runtime",
        _ => "model",
    }
}

fn fix(error: &LoadError) -> &'static str {
    match error {
        LoadError::NoRuntime | LoadError::Runtime { .. } => "name ONNX Runtime's library with --onnx-runtime",
        _ => "name a model with --model, or leave it out for the one that comes with the agent",
    }
}
