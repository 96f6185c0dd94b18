//! Recordings of normal load flow in, the windows of their services flow out, encoded as the agent does.

use crate::Windows;
use anyhow::{Context, Result, bail};
use faultline_core::encode::encode;
use faultline_core::pipeline::Pipeline;
use faultline_core::recording::{Item, Reader};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

/// The windows of each service of a recording, one every `stride` steps, in order of the services.
///
/// An incident in it is an error: what the agent paged is nothing to learn as normal.
pub(crate) fn windows(path: &Path, stride: u64) -> Result<Vec<Windows>> {
    let name = || path.display().to_string();
    let reader = Reader::open(File::open(path).with_context(name)?).with_context(name)?;
    let mut pipeline = Pipeline::new(reader.header().settings.clone(), None);
    let mut services = BTreeMap::<_, Windows>::new();
    for item in reader {
        match item.with_context(name)? {
            Item::Event(event) => pipeline.handle(event, |_| {}),
            Item::Tick(now) => {
                let Some(report) = pipeline.tick(now, |_| {}) else { continue };
                if let Some(incident) = &report.incident {
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
