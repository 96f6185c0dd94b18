//! The agent under test, as a process of its own.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Longest that may take what takes moments at rest: a starved machine gives it little time.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A release binary: test binaries lie in `release/deps`, the products one folder up.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let file = test.parent().and_then(|deps| deps.parent()).unwrap().join(name);
    assert!(file.is_file(), "{} is missing: cargo build --release --package {name}", file.display());
    file
}

/// Runs the agent's binary to its end.
#[must_use]
pub fn faultline(arguments: &[&str]) -> Output {
    Command::new(binary("faultline")).args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// A free TCP port of 127.0.0.1.
#[must_use]
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// A running `faultline run`, killed when this value goes away.
pub struct Agent {
    child: Child,
    port: u16,
}

impl Agent {
    /// Starts it with further arguments and waits until it answers.
    #[must_use]
    pub fn start(arguments: &[&str]) -> Self {
        let port = free_port();
        let child = Command::new(binary("faultline"))
            .args(["run", "--listen", &format!("127.0.0.1:{port}")])
            .args(arguments)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut agent = Self { child, port };
        let started = Instant::now();
        while agent.get("/healthz").is_none() {
            assert!(agent.child.try_wait().unwrap().is_none(), "the agent ended before it answered");
            assert!(started.elapsed() < PATIENCE, "the agent does not answer");
            sleep(Duration::from_millis(50));
        }
        agent
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The port on which it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The body of a successful answer.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<String> {
        let mut response = ureq::get(format!("http://127.0.0.1:{}{path}", self.port)).call().ok()?;
        response.body_mut().read_to_string().ok()
    }

    /// The newest report, once there is one.
    #[must_use]
    pub fn report(&self) -> Value {
        let started = Instant::now();
        loop {
            let report =
                self.get("/api/v1/report").and_then(|text| serde_json::from_str::<Value>(&text).ok());
            if let Some(report) = report {
                return report;
            }
            assert!(started.elapsed() < PATIENCE, "no report within {PATIENCE:?}");
            sleep(Duration::from_millis(50));
        }
    }

    /// Waits until a report shows what is asked for.
    ///
    /// # Panics
    /// When none does within [`PATIENCE`].
    pub fn until(&self, shows: impl Fn(&Value) -> bool) -> Value {
        let started = Instant::now();
        loop {
            let report = self.report();
            if shows(&report) {
                return report;
            }
            assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}: {report:#}");
            sleep(Duration::from_millis(300));
        }
    }

    /// Sends a signal and waits for the end; the exit code, or `None` when the signal ended it.
    #[must_use]
    pub fn end(mut self, signal: Signal) -> Option<i32> {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
        let asked = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(asked.elapsed() < PATIENCE, "{signal} did not end the agent");
            sleep(Duration::from_millis(20));
        }
    }
}

/// A service of a report.
#[must_use]
pub fn service<'a>(report: &'a Value, name: &str) -> Option<&'a Value> {
    report["services"].as_array()?.iter().find(|service| service["name"] == name)
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _killed = self.child.kill();
        let _status = self.child.wait();
    }
}
