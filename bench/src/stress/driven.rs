//! A `playground run` as a child: rates go in by its control socket, what users felt comes out of load.jsonl.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use super::seconds;
use crate::load::Second;

/// Preparing stacks and starting two hundred services takes a while; longer is a failure.
const READY_WITHIN: Duration = Duration::from_secs(300);
/// The file of users' seconds is read this often.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A second of users that takes longer than this to come has been lost.
const LATE: Duration = Duration::from_secs(10);
/// A run that was told to stop has stopped by then.
const STOPPED_WITHIN: Duration = Duration::from_secs(60);
/// Told again after this long, a run waits for no more answers.
const PATIENCE: Duration = Duration::from_millis(500);
/// Lines of the run's own output that an error shows.
const SHOWN_LINES: usize = 5;

pub(super) struct Driven {
    child: Child,
    control: PathBuf,
    run: PathBuf,
    log: PathBuf,
    /// Lines of load.jsonl that were read.
    read: usize,
}

impl Driven {
    /// Starts `playground run` with these words, at this rate, into a folder `run` in `out`.
    pub(super) fn start(words: &[String], rate: f64, out: &Path) -> anyhow::Result<Self> {
        let run = out.join("run");
        if run.join("load.jsonl").exists() {
            bail!("{} has a run already: choose another --out", out.display());
        }
        let log = out.join("run.log");
        // A socket's path is at most 108 bytes long; the output's may be longer.
        let control = std::env::temp_dir().join(format!("playground-stress-{}.sock", std::process::id()));
        let errors = File::create(&log).with_context(|| format!("{} cannot be made", log.display()))?;
        let program = std::env::current_exe().context("the playground does not know its own path")?;
        let child = Command::new(program)
            .arg("run")
            .args(words)
            .args(["--pattern", "steady", "--rate", &rate.to_string()])
            .arg("--control")
            .arg(&control)
            .arg("--out")
            .arg(&run)
            .stdin(Stdio::null())
            .stdout(errors.try_clone()?)
            .stderr(errors)
            // A Ctrl-C on the terminal is for the search, which ends the run.
            .process_group(0)
            .spawn()
            .context("`playground run` cannot be started")?;
        eprintln!("stress: starting the system; {} has its output", log.display());
        Ok(Self { child, control, run, log, read: 0 })
    }

    /// Waits for the first second of load.
    pub(super) async fn wait_for_load(&mut self) -> anyhow::Result<()> {
        let started = Instant::now();
        while self.new_seconds()?.is_empty() {
            self.is_alive()?;
            if started.elapsed() > READY_WITHIN {
                bail!("no load after {} s: {}", READY_WITHIN.as_secs(), self.last_lines());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// So many requests a second from now on.
    pub(super) async fn set_rate(&mut self, rate: f64) -> anyhow::Result<()> {
        let answer = self.order(&serde_json::json!({ "rate": rate })).await?;
        if !answer.contains("\"ok\"") {
            bail!("the run refused {rate} requests/s: {}", answer.trim());
        }
        Ok(())
    }

    async fn order(&self, order: &serde_json::Value) -> anyhow::Result<String> {
        let socket = UnixStream::connect(&self.control).await;
        let socket =
            socket.with_context(|| format!("the run does not listen on {}", self.control.display()))?;
        let (reader, mut writer) = socket.into_split();
        writer.write_all(format!("{order}\n").as_bytes()).await?;
        let mut answer = String::new();
        let mut reader = BufReader::new(reader);
        tokio::time::timeout(LATE, reader.read_line(&mut answer))
            .await
            .context("the run does not answer")??;
        Ok(answer)
    }

    /// What users felt in each of the next so many seconds.
    pub(super) async fn seconds(&mut self, count: u32) -> anyhow::Result<Vec<Second>> {
        self.new_seconds()?;
        let mut felt = Vec::new();
        let started = Instant::now();
        while felt.len() < count as usize {
            tokio::time::sleep(LOOK_EVERY).await;
            felt.extend(self.new_seconds()?);
            self.is_alive()?;
            if started.elapsed() > seconds(2 * count) + LATE {
                bail!("the load generator is silent: {}", self.last_lines());
            }
        }
        felt.truncate(count as usize);
        Ok(felt)
    }

    fn new_seconds(&mut self) -> anyhow::Result<Vec<Second>> {
        let path = self.run.join("load.jsonl");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(|| format!("{} cannot be read", path.display())),
        };
        let whole = text.get(..text.rfind('\n').map_or(0, |end| end + 1)).unwrap_or_default();
        let lines: Vec<&str> = whole.lines().skip(self.read).collect();
        self.read += lines.len();
        let parse = |line: &&str| {
            serde_json::from_str(line).with_context(|| format!("{}: `{line}` is no second", path.display()))
        };
        lines.iter().map(parse).collect()
    }

    fn is_alive(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the run ended by itself ({status}): {}", self.last_lines()),
        }
    }

    fn last_lines(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(SHOWN_LINES)..).unwrap_or_default().join("; ")
    }

    /// Ends the run, which waits for its last answers and removes its processes and cgroups.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        // A run that is still starting does not listen yet, but ends by a signal as well.
        if self.child.try_wait()?.is_none() && self.order(&serde_json::json!({ "stop": true })).await.is_err()
        {
            self.signal()?;
        }
        self.ended().await
    }

    /// Ends the run without its last answers: after an overload they take as long as their deadlines.
    pub(super) async fn stop_now(mut self) -> anyhow::Result<()> {
        self.signal()?;
        if tokio::time::timeout(PATIENCE, self.child.wait()).await.is_err() {
            self.signal()?;
        }
        self.ended().await
    }

    /// Asks the run to end, if it has not.
    fn signal(&self) -> anyhow::Result<()> {
        let pid = self.child.id().and_then(|id| rustix::process::Pid::from_raw(i32::try_from(id).ok()?));
        Ok(pid.map_or(Ok(()), |pid| rustix::process::kill_process(pid, rustix::process::Signal::TERM))?)
    }

    async fn ended(mut self) -> anyhow::Result<()> {
        tokio::time::timeout(STOPPED_WITHIN, self.child.wait()).await.with_context(|| {
            format!("the run does not stop; process {:?} is still there", self.child.id())
        })??;
        match std::fs::remove_file(&self.control) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }
}
