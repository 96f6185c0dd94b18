//! The agent's edges: sources make events, outputs give away reports. What lies between is `faultline-core`.

pub mod check;
pub mod cli;
pub mod config;
pub mod model;
pub mod outputs;
pub mod run;
pub mod sources;
pub mod top;
