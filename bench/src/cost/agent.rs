//! The agent under test, as a process: started with the flags that users give it, asked over HTTP what it saw.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use aya::programs::ProgramInfo;
use faultline_core::report::Report;

use super::programs;

/// An agent answers within a second, and attaches within another; a busy machine takes longer.
const STARTED_WITHIN: Duration = Duration::from_secs(20);
/// How often is looked whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The programs on packets and sockets; with TLS there are more.
const PROGRAMS: usize = 3;
/// The last program is loaded before it is attached.
const ATTACHED_AFTER: Duration = Duration::from_millis(100);
/// A call is in the report when its step has closed: two steps of five seconds, and some.
const REPORTED_WITHIN: Duration = Duration::from_secs(12);

/// The agent, watching one cgroup.
pub(super) struct Agent {
    child: Child,
    listen: String,
    programs: Vec<ProgramInfo>,
}

impl Agent {
    /// Starts the binary that lies beside this one and waits until its programs are attached. With `tls` it looks
    /// into the system's OpenSSL, for whichever process uses that.
    pub(super) fn start(cgroup: &Path, tls: bool) -> anyhow::Result<Self> {
        let binary = std::env::current_exe()?.with_file_name("faultline");
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let listen = format!("127.0.0.1:{port}");
        let before = programs::loaded();
        let child = Command::new(&binary)
            .args(["run", "--log", "warn", "--listen", &listen, "--cgroup-root"])
            .arg(cgroup)
            .args(tls.then_some("--tls"))
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        let mut agent = Self { child, listen, programs: Vec::new() };
        agent.until("it does not answer", |agent| std::net::TcpStream::connect(&agent.listen).is_ok())?;
        agent.until("it loaded no programs", |_| programs::since(&before).len() >= PROGRAMS)?;
        sleep(ATTACHED_AFTER);
        agent.programs = programs::since(&before);
        Ok(agent)
    }

    fn until(&mut self, trouble: &str, holds: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
        let started = Instant::now();
        while !holds(self) {
            if let Some(status) = self.child.try_wait()? {
                bail!("the agent ended with {status}");
            }
            ensure!(started.elapsed() < STARTED_WITHIN, "the agent at {} is no use: {trouble}", self.listen);
            sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// Its process id.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its programs in the kernel.
    pub(super) fn programs(&self) -> &[ProgramInfo] {
        &self.programs
    }

    /// Calls that it decoded so far, as the servers among what it watches served them.
    pub(super) fn calls(&self) -> anyhow::Result<u64> {
        let started = Instant::now();
        loop {
            match ureq::get(format!("http://{}/api/v1/report", self.listen)).call() {
                Ok(mut answer) => {
                    let report: Report = serde_json::from_str(&answer.body_mut().read_to_string()?)?;
                    return Ok(report.services.iter().map(|service| service.calls_total).sum());
                }
                // It has none before its first step has closed.
                Err(error) if started.elapsed() > REPORTED_WITHIN => {
                    return Err(error)
                        .with_context(|| format!("the agent at {} reports nothing", self.listen));
                }
                Err(_) => sleep(LOOK_EVERY),
            }
        }
    }

    /// The same once it is so many, or as many as there are when that should long be so.
    pub(super) fn calls_once(&self, expected: u64) -> anyhow::Result<u64> {
        let started = Instant::now();
        loop {
            let calls = self.calls()?;
            if calls >= expected || started.elapsed() > REPORTED_WITHIN {
                return Ok(calls);
            }
            sleep(LOOK_EVERY * 5);
        }
    }

    /// Its resident memory, bytes.
    pub(super) fn resident_bytes(&self) -> anyhow::Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let kib = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = kib.and_then(|rest| rest.trim().strip_suffix(" kB")).context("no VmRSS")?;
        Ok(kib.trim().parse::<u64>()? << 10)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.id()).ok().and_then(rustix::process::Pid::from_raw) {
            // Our own child, not yet waited for.
            let _gone = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _status = self.child.wait();
    }
}
