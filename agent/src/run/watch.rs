//! The task that owns the pipeline: events flow in from the sources' queue, a snapshot flows out at the end
//! of each step, and every input of the pipeline goes to the recording, if there is one.

use crate::config::Config;
use crate::outputs::recording::Recorder;
use crate::outputs::{Published, Snapshot};
use crate::sources::heap;
use faultline_core::event::{Event, Missing};
use faultline_core::pipeline::{GRACE, Pipeline};
use faultline_core::recording::Item;
use faultline_core::report::Report;
use faultline_core::units::Timestamp;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tracing::{error, info, warn};

/// Events taken from the queue at once, so that a flood does not keep a step from being closed.
const BATCH: usize = 1024;

/// The pipeline and where its inputs and outputs go.
pub(super) struct Watch {
    pipeline: Pipeline,
    config: Arc<Config>,
    published: Arc<Published>,
    recorder: Option<Recorder>,
    incident: Option<u64>,
}

impl Watch {
    pub(super) fn new(
        pipeline: Pipeline,
        config: Arc<Config>,
        published: Arc<Published>,
        recorder: Option<Recorder>,
    ) -> Self {
        Self { pipeline, config, published, recorder, incident: None }
    }

    /// Runs until the last source is gone, then finishes the recording.
    pub(super) async fn drive(
        mut self,
        mut events: mpsc::Receiver<Event>,
        clock: fn() -> Timestamp,
    ) -> anyhow::Result<()> {
        let mut batch = Vec::with_capacity(BATCH);
        let mut due = self.next_due(clock());
        loop {
            let now = clock();
            if now >= due {
                self.tick(now);
                due = self.next_due(now);
            }
            tokio::select! {
                biased;
                taken = events.recv_many(&mut batch, BATCH) => {
                    if taken == 0 {
                        break;
                    }
                    for event in batch.drain(..) {
                        self.event(event);
                    }
                }
                () = tokio::time::sleep(Duration::from(due.since(now))) => {}
            }
        }
        match self.recorder.take() {
            Some(recorder) => recorder.finish(),
            None => Ok(()),
        }
    }

    /// When the next step may be closed.
    fn next_due(&self, now: Timestamp) -> Timestamp {
        let length = self.config.settings.step_length;
        let running = Timestamp(now.0.saturating_sub(GRACE.0)).step(length);
        Timestamp((running.0 + 1).saturating_mul(length.0)) + GRACE
    }

    pub(super) fn event(&mut self, mut event: Event) {
        if let Event::Identity(identity) = &mut event
            && let Some(name) = self.config.name_of(&identity.path)
        {
            identity.configured = Some(name);
        }
        let recorder = &mut self.recorder;
        let at = event.at();
        self.pipeline.handle(event, |event| record(recorder, || Item::Event(event.clone())));
        self.drop_failed_recorder(at);
    }

    fn tick(&mut self, now: Timestamp) {
        let recorder = &mut self.recorder;
        let report = self.pipeline.tick(now, |event| record(recorder, || Item::Event(event.clone())));
        record(recorder, || Item::Tick(now));
        self.drop_failed_recorder(now);
        if let Some(report) = report {
            self.say(&report);
            self.published.publish(Snapshot { report, totals: self.pipeline.totals().clone() });
            heap::trim();
        }
    }

    /// A recording that could not be written ends where it is; the agent goes on without it and says so.
    fn drop_failed_recorder(&mut self, at: Timestamp) {
        let Some(reason) = self.recorder.as_ref().and_then(Recorder::failure).map(str::to_owned) else {
            return;
        };
        error!("{reason}; the agent goes on without a recording");
        self.recorder = None;
        let missing = Missing {
            at,
            part: "recording".into(),
            reason: reason.into(),
            fix: "free space or choose another file with --record, and start again".into(),
        };
        self.pipeline.handle(Event::Missing(missing), |_| {});
    }

    /// Logs what an operator who reads only the log should know: pages, and their end.
    fn say(&mut self, report: &Report) {
        let open = report.incident.as_ref();
        if open.map(|incident| incident.id) == self.incident {
            return;
        }
        self.incident = open.map(|incident| incident.id);
        match open {
            Some(incident) => {
                let first = incident.ranking.first().map_or("nobody", |suspect| suspect.service.as_str());
                warn!(incident = incident.id, suspect = first, "{}", incident.reason);
            }
            None => info!("the incident is over"),
        }
    }
}

fn record(recorder: &mut Option<Recorder>, item: impl FnOnce() -> Item) {
    if let Some(recorder) = recorder {
        recorder.write(item());
    }
}
