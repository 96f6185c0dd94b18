//! Where reports go: Prometheus, HTTP, recordings. The pipeline's task publishes, everyone else reads.

mod guests;
pub mod http;
pub mod metrics;
pub mod recording;

use crate::sources::tls::Cost;
use arc_swap::ArcSwapOption;
use faultline_core::report::Report;
use faultline_core::totals::Totals;
use std::sync::{Arc, OnceLock};

/// What the agent says and counts as of the last closed step.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// What it says.
    pub report: Report,
    /// What it counts.
    pub totals: Totals,
}

/// The newest snapshot: one writer, any number of readers, and nobody waits.
#[derive(Debug, Default)]
pub struct Published {
    latest: ArcSwapOption<Snapshot>,
    tls: OnceLock<Arc<Cost>>,
}

impl Published {
    /// Replaces the snapshot.
    pub fn publish(&self, snapshot: Snapshot) {
        self.latest.store(Some(Arc::new(snapshot)));
    }

    /// Says where the cost of watching TLS is counted; only the first word counts.
    pub fn count_tls(&self, cost: Arc<Cost>) {
        let _first = self.tls.set(cost);
    }

    /// What watching TLS costs; `None` when it is not watched.
    #[must_use]
    pub fn tls(&self) -> Option<&Cost> {
        self.tls.get().map(|cost| &**cost)
    }

    /// The newest snapshot; `None` until the first step has closed.
    #[must_use]
    pub fn latest(&self) -> Option<Arc<Snapshot>> {
        self.latest.load_full()
    }
}
