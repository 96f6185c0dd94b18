//! The model's view of a fault: windows in, surprises by service out. The errors of the reference steps are
//! what the p-values compare with, as the agent's own past is on a node.

use super::timeline::Timeline;
use faultline_core::encode::{Encoded, encode};
use faultline_core::score::{Model, Past, Score, reconstruction_errors, surprises};
use faultline_core::units::{ServiceId, Step};
use std::collections::BTreeMap;

/// Neighbouring windows share most of their steps, so every so manieth reference step is enough.
const STRIDE: usize = 4;
/// Windows in one batch of inference.
const BATCH: usize = 64;

/// Surprises at the last of the recent steps; none where inference fails or there is too little baseline.
pub(super) fn of(timeline: &Timeline, model: &mut dyn Model) -> BTreeMap<ServiceId, f64> {
    let services: Vec<ServiceId> = timeline.history.services().collect();
    let steps = (timeline.reference.start.0..timeline.reference.end.0).step_by(STRIDE);
    let usual: Vec<Encoded> = steps
        .flat_map(|step| services.iter().filter_map(move |service| at(timeline, *service, step)))
        .collect();
    let mut past = Vec::new();
    for batch in usual.chunks(BATCH) {
        past.extend(reconstruction_errors(model, batch.iter()).unwrap_or_default());
    }
    let past = Past::of(past);
    let newest = timeline.recent.end.0.saturating_sub(1);
    let mut scores = BTreeMap::new();
    for service in &services {
        let Some(window) = at(timeline, *service, newest) else { continue };
        for error in reconstruction_errors(model, [&window].into_iter()).unwrap_or_default() {
            scores.insert(*service, Score { error, p_value: past.p_value(error) });
        }
    }
    surprises(&scores)
}

fn at(timeline: &Timeline, service: ServiceId, step: u64) -> Option<Encoded> {
    encode(&timeline.history, service, Step(step))
}
