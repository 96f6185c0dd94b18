//! The autoencoder: the model that comes with the agent, or another one's file, on ONNX Runtime's library.
//! Loading is the models package's work, which the evaluation shares; this is where the agent finds it.

pub use faultline_models::{LoadError, RUNTIME_VARIABLE, find_runtime, load};
