//! Recordings of one stack flow in; what the model sees of them flows out: windows of quiet time, and those
//! of a culprit while its fault is on.

use crate::evaluate::dataset::{Dataset, Fault, Period};
use anyhow::{Context, Result};
use faultline_core::encode::{Encoded, encode};
use faultline_core::pipeline::Pipeline;
use faultline_core::recording::Item;
use faultline_models::recordings;
use std::collections::BTreeSet;
use std::path::Path;

/// A fault shows in a window once so much of the window's end lies in it, seconds.
const SHOWS_AFTER: f64 = 15.0;

/// What the model sees of one stack.
#[derive(Default)]
pub(super) struct Windows {
    /// Of every service in quiet time, in order of time.
    pub(super) quiet: Vec<Encoded>,
    /// Of a culprit while its fault is on.
    pub(super) broken: Vec<Encoded>,
}

/// The windows of all episodes of a data set.
pub(super) fn of(dir: &Path) -> Result<Windows> {
    let dataset = Dataset::open(dir)?;
    let periods = dataset.quiet_periods()?;
    let episodes: BTreeSet<&str> = periods.iter().map(|period| period.episode.as_str()).collect();
    let mut windows = Windows::default();
    for id in episodes {
        let recording = dataset
            .recording(id)
            .with_context(|| format!("{}: episode {id} has no recording", dir.display()))?;
        let faults: Vec<&Fault> = dataset.faults.iter().filter(|fault| fault.episode == id).collect();
        let quiet: Vec<&Period> = periods.iter().filter(|period| period.episode == id).collect();
        replay(&recording, &faults, &quiet, &mut windows)?;
    }
    Ok(windows)
}

fn replay(recording: &Path, faults: &[&Fault], quiet: &[&Period], windows: &mut Windows) -> Result<()> {
    let name = || recording.display().to_string();
    let reader = recordings::open(recording).with_context(name)?;
    let mut pipeline = Pipeline::new(reader.header().settings.clone(), None);
    for item in reader {
        let report = match item.with_context(name)? {
            Item::Event(event) => {
                pipeline.handle(event, |_| {});
                continue;
            }
            Item::Tick(now) => pipeline.tick(now, |_| {}),
        };
        let Some(at) = report.map(|report| report.at) else { continue };
        let Some(newest) = pipeline.history().newest() else { continue };
        let calm = quiet.iter().any(|period| (period.start..period.end).contains(&at));
        let on: Vec<&&Fault> =
            faults.iter().filter(|fault| (fault.start + SHOWS_AFTER..=fault.end).contains(&at)).collect();
        for service in pipeline.history().services() {
            let culprit = || on.iter().any(|fault| fault.is_culprit(&pipeline.name(service)));
            if calm {
                windows.quiet.extend(encode(pipeline.history(), service, newest));
            } else if culprit() {
                windows.broken.extend(encode(pipeline.history(), service, newest));
            }
        }
    }
    Ok(())
}
