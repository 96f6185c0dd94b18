//! Joins the core's parts: [`Pipeline::handle`] takes an event, [`Pipeline::tick`] closes the windows that
//! are due and gives a report. Neither blocks nor fails.

use crate::event::Event;
use crate::report::Report;
use crate::rpc::Decoder;
use crate::score::Model;
use crate::totals::Totals;
use crate::units::{Nanos, Timestamp};

/// What a pipeline may be told.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Length of a step.
    pub step_length: Nanos,
    /// Steps of baseline that a service needs before it may page.
    pub baseline_steps: u64,
    /// Services and edges beyond this are counted under `_OTHER`.
    pub max_services: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { step_length: Nanos::from_secs(5), baseline_steps: 12, max_services: 1000 }
    }
}

/// The whole core.
pub struct Pipeline {
    decoder: Decoder,
    decoded: Vec<Event>,
    totals: Totals,
}

impl Pipeline {
    /// A pipeline that has seen nothing; without a model it works and says so in its reports.
    #[must_use]
    pub fn new(_settings: Settings, _model: Option<Box<dyn Model>>) -> Self {
        Self { decoder: Decoder::default(), decoded: Vec::new(), totals: Totals::default() }
    }

    /// Takes one event. `tap` sees every event behind the decoder, in order: what a recording holds.
    pub fn handle(&mut self, event: Event, mut tap: impl FnMut(&Event)) {
        self.decoder.handle(event, &mut self.decoded);
        for event in self.decoded.drain(..) {
            tap(&event);
        }
    }

    /// Closes the windows that ended at or before `now`; a report when one did. Call it at least once a step,
    /// and record each call: it is part of the input. `tap` as in [`Pipeline::handle`].
    pub fn tick(&mut self, now: Timestamp, mut tap: impl FnMut(&Event)) -> Option<Report> {
        self.decoder.tick(now, &mut self.decoded);
        for event in self.decoded.drain(..) {
            tap(&event);
        }
        None
    }

    /// What Prometheus counts, up to now.
    #[must_use]
    pub fn totals(&self) -> &Totals {
        &self.totals
    }
}
