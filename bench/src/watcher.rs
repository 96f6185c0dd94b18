//! The agent that watches a run: its program and a cgroup come in, a recording of all that happened there goes
//! out. It is a process of its own, as it is in production.

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

/// The agent attaches within this time, or never.
const ATTACHED_WITHIN: Duration = Duration::from_secs(30);
/// Looks so often whether it has.
const LOOK: Duration = Duration::from_millis(100);
/// The agent's last step closes so long after the load.
const LAST_STEP: Duration = Duration::from_secs(6);
/// A child that was asked to end has so long to clean up.
const FAREWELL: Duration = Duration::from_secs(25);

/// The recording's name in the folder of a run.
pub(crate) const RECORDING: &str = "agent.rec";
/// Its name once it is packed to be kept.
pub(crate) const PACKED: &str = "agent.rec.xz";

/// An agent that records.
pub(crate) struct Watcher {
    child: Child,
    log: PathBuf,
}

/// The agent's program: the one that was named, or `faultline` beside this one.
///
/// # Errors
/// When it is not there.
pub(crate) fn program(named: Option<&Path>) -> Result<PathBuf> {
    let beside = || Ok::<_, anyhow::Error>(std::env::current_exe()?.with_file_name("faultline"));
    let agent = named.map_or_else(beside, |named| Ok(named.to_owned()))?;
    ensure!(
        agent.is_file(),
        "{}: the agent is not there; build it with `cargo build --release -p faultline`, or name it with --agent",
        agent.display()
    );
    Ok(agent)
}

impl Watcher {
    /// Starts the agent on the cgroup and waits until its recording in the folder has begun: from then on it
    /// sees all.
    ///
    /// # Errors
    /// When it cannot be started or ends at once; its last line says why.
    pub(crate) async fn start(program: &Path, node: &str, cgroup: &Path, folder: &Path) -> Result<Self> {
        let (recording, log) = (folder.join(RECORDING), folder.join("agent.log"));
        // An older one would be taken for the beginning of this one.
        drop(fs::remove_file(&recording));
        let output = File::create(&log).with_context(|| format!("{} cannot be made", log.display()))?;
        let child = Command::new(program)
            .arg("record")
            .arg(&recording)
            .args(["--node", node, "--cgroup-root"])
            .arg(cgroup)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("the agent {} cannot be started", program.display()))?;
        let mut watcher = Self { child, log };
        let asked = Instant::now();
        while !recording.exists() {
            if let Some(status) = watcher.child.try_wait()? {
                bail!("the agent ended ({status}): {}", last_line(&watcher.log));
            }
            if asked.elapsed() > ATTACHED_WITHIN {
                bail!("the agent did not attach within {} s", ATTACHED_WITHIN.as_secs());
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(watcher)
    }

    /// Waits until it ends, which it should not, and says why it did.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub(crate) async fn ended_early(&mut self) -> Result<String> {
        Ok(format!("the agent ended early ({}): {}", self.child.wait().await?, last_line(&self.log)))
    }

    /// Lets it close its last step, then ends it.
    ///
    /// # Errors
    /// When it did not end well.
    pub(crate) async fn finish(self) -> Result<()> {
        tokio::time::sleep(LAST_STEP).await;
        self.end().await
    }

    /// Ends it now.
    ///
    /// # Errors
    /// When it did not end well.
    pub(crate) async fn end(mut self) -> Result<()> {
        end(&mut self.child, "the agent").await.with_context(|| last_line(&self.log))
    }
}

/// Asks a child to end, and kills it only if it does not.
///
/// # Errors
/// When it did not end well.
pub(crate) async fn end(child: &mut Child, name: &str) -> Result<()> {
    let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    let Some(pid) = pid else { return Ok(()) };
    // The child is not waited for yet, so its id cannot be another's.
    let _sent = kill_process(pid, Signal::TERM);
    match tokio::time::timeout(FAREWELL, child.wait()).await {
        Ok(status) if status.as_ref().is_ok_and(std::process::ExitStatus::success) => Ok(()),
        Ok(status) => bail!("{name} ended with {}", status?),
        Err(_) => {
            child.kill().await?;
            bail!("{name} did not end within {} s and was killed", FAREWELL.as_secs())
        }
    }
}

/// What a log says last.
pub(crate) fn last_line(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("its log is empty").to_owned()
}
