//! Asks an agent for its report, once or again and again on a thread of its own.

use faultline_core::report::{Report, VERSION};
use serde::Deserialize;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// How often a live view asks; a step is longer, and a report is small.
const INTERVAL: Duration = Duration::from_secs(1);
/// An agent that needs longer is as good as gone.
const TIMEOUT: Duration = Duration::from_secs(3);
/// How long `--once` waits for an agent that has just been started: two steps of the default length.
const PATIENCE: Duration = Duration::from_secs(12);
/// A thousand services with edges and trends make about two megabytes.
const MOST_BYTES: u64 = 64 << 20;

/// An agent that can be asked.
pub(super) struct Agent {
    url: String,
    http: ureq::Agent,
}

/// Why there is no report.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(super) enum Trouble {
    #[error("no agent answers at {url}: {reason}; is `faultline run` up there, and is the address right?")]
    Unreachable { url: String, reason: String },
    #[error("the agent at {url} is up, but its first step has not closed yet")]
    TooEarly { url: String },
    #[error("what answers at {url} is no Faultline agent: {reason}")]
    Foreign { url: String, reason: String },
    #[error(
        "the agent at {url} speaks version {theirs} of the report, this `faultline` {VERSION}: update the older"
    )]
    Version { url: String, theirs: u32 },
}

pub(super) type Answer = Result<Report, Trouble>;

impl Agent {
    /// The agent at `url`; `http://` may be left out.
    pub(super) fn at(url: &str) -> Self {
        let url = url.trim_end_matches('/');
        let url = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let http = ureq::Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false)
            .build()
            .into();
        Self { url, http }
    }

    pub(super) fn url(&self) -> String {
        self.url.clone()
    }

    /// The report as text; waits for an agent that has just been started.
    pub(super) fn wait_for_text(&self) -> Result<String, Trouble> {
        let started = Instant::now();
        loop {
            match self.text() {
                Err(Trouble::TooEarly { .. }) if started.elapsed() < PATIENCE => {
                    thread::sleep(Duration::from_millis(250));
                }
                other => return other,
            }
        }
    }

    /// The report; waits as [`Agent::wait_for_text`] does.
    pub(super) fn wait_for_report(&self) -> Answer {
        self.parse(&self.wait_for_text()?)
    }

    fn text(&self) -> Result<String, Trouble> {
        let unreachable =
            |error: ureq::Error| Trouble::Unreachable { url: self.url(), reason: error.to_string() };
        let mut response =
            self.http.get(format!("{}/api/v1/report", self.url)).call().map_err(unreachable)?;
        match response.status().as_u16() {
            200 => {}
            503 => return Err(Trouble::TooEarly { url: self.url() }),
            status => {
                return Err(Trouble::Foreign { url: self.url(), reason: format!("HTTP status {status}") });
            }
        }
        response.body_mut().with_config().limit(MOST_BYTES).read_to_string().map_err(unreachable)
    }

    /// Reads the version first: a report of another version may not parse, and should say why.
    fn parse(&self, text: &str) -> Answer {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let foreign =
            |error: serde_json::Error| Trouble::Foreign { url: self.url(), reason: error.to_string() };
        let Versioned { version } = serde_json::from_str(text).map_err(foreign)?;
        if version != VERSION {
            return Err(Trouble::Version { url: self.url(), theirs: version });
        }
        serde_json::from_str(text).map_err(foreign)
    }
}

/// Asks every second on a thread of its own, so that a slow agent never freezes the keys.
pub(super) struct Poller {
    answers: Receiver<Answer>,
}

impl Poller {
    pub(super) fn start(agent: Agent) -> Self {
        // One answer waits at most: what the view did not take is asked again anyway.
        let (sender, answers) = sync_channel(1);
        thread::spawn(move || {
            loop {
                let asked = Instant::now();
                let answer = agent.text().and_then(|text| agent.parse(&text));
                if sender.send(answer).is_err() {
                    return;
                }
                thread::sleep(INTERVAL.saturating_sub(asked.elapsed()));
            }
        });
        Self { answers }
    }

    /// An answer that came since the last look.
    pub(super) fn newest(&self) -> Option<Answer> {
        self.answers.try_recv().ok()
    }
}
