//! What users felt in the times that are asked for: the load's seconds come in, requests and failures go out.

use crate::truth::read_lines;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What users felt while nothing was broken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Users {
    /// What they asked for.
    pub(crate) requests: u64,
    /// Nobody planned these.
    pub(crate) failures: u64,
}

impl Users {
    /// Sums the seconds of a run's folder that `counts` (Unix seconds of their beginning) names.
    ///
    /// # Errors
    /// When load.jsonl is missing or damaged.
    pub(crate) fn of(run: &Path, counts: impl Fn(f64) -> bool) -> Result<Self> {
        #[derive(Deserialize)]
        struct Second {
            at: f64,
            sent: u64,
            failed: u64,
        }
        let path = run.join("load.jsonl");
        let seconds: Vec<Second> = read_lines(&path).with_context(|| path.display().to_string())?;
        let mut users = Self::default();
        for second in seconds.iter().filter(|second| counts(second.at)) {
            users.requests += second.sent;
            users.failures += second.failed;
        }
        Ok(users)
    }

    /// Failures as a share of the requests.
    pub(crate) fn share(self) -> f64 {
        self.failures as f64 / self.requests.max(1) as f64
    }
}
