//! gRPC stacks as each other's clients and servers, under the agent: what it says of every call, from every end, is
//! held against what the two ends say. `cargo xtask test stacks` builds the peers and runs this.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

mod late;
mod matrix;
mod tls;

use e2e::agent::Agent;
use e2e::stacks::seen::{self, Seen};
use faultline_core::units::CgroupId;
use nix::sys::signal::Signal;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::thread::sleep;
use std::time::Duration;
use tempfile::TempDir;

/// Calls that one test may leave unseen, if their loss was counted: one in so many.
const ONE_IN: usize = 10_000;

/// What the kernel saw last reaches the recording by then: a step of a second and its grace.
const SETTLE: Duration = Duration::from_millis(2_000);

/// Who calls whom, in the tests that do not run all pairs: each stack once as a client and once as a server.
const RING: [(&str, &str); 6] = [
    ("go", "java"),
    ("java", "cpp"),
    ("cpp", "python"),
    ("python", "node"),
    ("node", "rust"),
    ("rust", "go"),
];

/// Six peers with a thousand calls at once each and bodies of 16 MB leave two cores no time for the agent; what a ring
/// that is too small loses is tested elsewhere.
const RECORDS: &str = "67108864";

/// An agent that records what it sees into a folder.
struct Watch {
    agent: Agent,
    folder: TempDir,
}

impl Watch {
    /// Starts it with further arguments.
    fn begin(more: &[&str]) -> Self {
        let folder = folder();
        let recording = folder.path().join("recording");
        let arguments = ["--step", "1s", "--ring-size", RECORDS, "--record", recording.to_str().unwrap()];
        Self { agent: Agent::start(&[&arguments, more].concat()), folder }
    }

    /// Stops the agent once it has told everything; what it saw.
    fn end(self) -> HashMap<CgroupId, Seen> {
        sleep(SETTLE);
        assert_eq!(self.agent.end(Signal::SIGTERM), Some(0));
        seen::read(&self.folder.path().join("recording"))
    }
}

/// A folder for a test, which stays if `FAULTLINE_KEEP` is set.
fn folder() -> TempDir {
    let mut folder = tempfile::tempdir().unwrap();
    if std::env::var_os("FAULTLINE_KEEP").is_some() {
        eprintln!("truths and recording stay in {}", folder.path().display());
        folder.disable_cleanup(true);
    }
    folder
}

fn script<'a>(folder: &Path, lines: impl Iterator<Item = &'a String>) -> PathBuf {
    let script = folder.join("scenario");
    fs::write(&script, lines.map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    script
}

/// Whether to run a pair: all, or those of `FAULTLINE_PAIRS`, such as `go-java,node-node`.
fn wanted(client: &str, server: &str) -> bool {
    let wanted = std::env::var("FAULTLINE_PAIRS").unwrap_or_default();
    wanted.is_empty() || wanted.split(',').any(|pair| pair == format!("{client}-{server}"))
}

/// What was seen of a cgroup.
fn view(seen: &HashMap<CgroupId, Seen>, cgroup: CgroupId) -> &Seen {
    static NOTHING: LazyLock<Seen> = LazyLock::new(Seen::default);
    seen.get(&cgroup).unwrap_or(&NOTHING)
}

/// Prints the sum, and fails for what was found.
fn finish(seen: &HashMap<CgroupId, Seen>, (sent, unseen): (usize, usize), mut failures: Vec<String>) {
    let lost = &view(seen, CgroupId::default()).lost;
    println!("{sent} calls sent, {unseen} unseen; lost of no known connection: {lost:?}");
    if sent == 0 {
        failures.push("no pair ran".to_owned());
    }
    if unseen * ONE_IN > sent.max(ONE_IN) {
        failures.push(format!("{unseen} of {sent} calls unseen"));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
