//! Recordings of normal load flow in, the windows of their services flow out, encoded as the agent does.

use crate::Windows;
use anyhow::{Context, Result, bail};
use faultline_core::encode::encode;
use faultline_core::pipeline::Pipeline;
use faultline_core::recording::Item;
use faultline_models::recordings;
use std::collections::BTreeMap;
use std::path::Path;

/// The windows of each service of a recording, one every `stride` steps, in order of the services.
///
/// Of a recording whose truth is known, those that ended `until` then, Unix seconds. In any other an incident
/// is an error: what the agent paged is nothing to learn as normal.
pub(crate) fn windows(path: &Path, stride: u64, until: Option<f64>) -> Result<Vec<Windows>> {
    let name = || path.display().to_string();
    let reader = recordings::open(path).with_context(name)?;
    let mut pipeline = Pipeline::new(reader.header().settings.clone(), None);
    let mut services = BTreeMap::<_, Windows>::new();
    for item in reader {
        match item.with_context(name)? {
            Item::Event(event) => pipeline.handle(event, |_| {}),
            Item::Tick(now) => {
                let Some(report) = pipeline.tick(now, |_| {}) else { continue };
                if until.is_some_and(|until| report.at > until) {
                    break;
                }
                if let Some(incident) = report.incident.as_ref().filter(|_| until.is_none()) {
                    bail!("{} has an incident ({}): train on normal load alone", name(), incident.reason);
                }
                let history = pipeline.history();
                let Some(newest) = history.newest().filter(|step| step.0.is_multiple_of(stride)) else {
                    continue;
                };
                for service in history.services() {
                    services.entry(service).or_default().extend(encode(history, service, newest));
                }
            }
        }
    }
    Ok(services.into_values().filter(|windows| !windows.is_empty()).collect())
}
