//! Child processes: run one to its end with a clear error, or keep one and stop it for certain.

use crate::house;
use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a child may take to clean up after SIGINT before it is killed.
const GRACE: Duration = Duration::from_secs(20);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on Ctrl-C and SIGTERM set a flag, so that children are stopped and files removed first.
pub(crate) fn catch_interrupts() -> Result<()> {
    ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed)).context("cannot catch Ctrl-C")
}

/// Fails if the user asked to stop.
pub(crate) fn check_interrupted() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        bail!("interrupted; everything that was started has been stopped");
    }
    Ok(())
}

/// A command in the checkout that finds the cache's tools and the ONNX Runtime.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(house::tools()).chain(std::env::split_paths(&path));
    if let Ok(path) = std::env::join_paths(folders) {
        command.env("PATH", path);
    }
    if house::onnx_runtime().is_file() {
        command.env("ORT_DYLIB_PATH", house::onnx_runtime());
    }
    command.current_dir(house::root());
    command
}

/// `cargo` with the given arguments, in the checkout.
pub(crate) fn cargo<const N: usize>(arguments: [&str; N]) -> Command {
    let mut command = command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments);
    command
}

/// The host's crates, always selected together: another selection has other features of the same
/// dependencies, and cargo would build them again for each.
const HOST_CRATES: [&str; 4] = ["--release", "--workspace", "--exclude", "faultline-ebpf"];

/// Builds every binary and test of the host's crates; seconds where they are built.
pub(crate) fn build_host_crates() -> Result<()> {
    run(cargo(["build", "--all-targets", "--quiet"]).args(HOST_CRATES))
}

/// Builds the playground's program that talks TLS, which needs OpenSSL's headers and is left out above.
pub(crate) fn build_tls_talk() -> Result<()> {
    let only = ["--quiet", "--features", "playground/tls", "--bin", "tls-talk"];
    run(cargo(["build"]).args(HOST_CRATES).args(only))
}

/// `cargo test` on the host's crates.
pub(crate) fn test_host_crates(arguments: &[&str]) -> Command {
    let mut test = cargo(["test"]);
    test.args(HOST_CRATES).args(arguments);
    test
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let words = words(command);
    let status = command.status().with_context(|| format!("cannot start `{words}`"))?;
    if !status.success() {
        bail!("`{words}` failed ({status})");
    }
    Ok(())
}

/// Runs a command to its end with its output in a log, and shows the log's end if it fails.
pub(crate) fn run_quietly(command: &mut Command, log: &Path) -> Result<()> {
    let words = words(command);
    if let Some(folder) = log.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let status = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .status()
        .with_context(|| format!("cannot start `{words}`"))?;
    if !status.success() {
        let text = std::fs::read_to_string(log).unwrap_or_default();
        let tail = last_lines(&text, 15);
        bail!("`{words}` failed ({status}); the end of {}:\n{tail}", log.display());
    }
    Ok(())
}

/// The end of a log, for an error message.
pub(crate) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(count)..).unwrap_or_default().join("\n")
}

fn words(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// A process that is stopped when this value goes away, in whatever way.
pub(crate) struct Running {
    name: &'static str,
    child: Child,
}

impl Running {
    /// Starts a process with its output in a log.
    pub(crate) fn start(name: &'static str, command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {name} (`{}`)", words(command)))?;
        Ok(Self { name, child })
    }

    /// Fails if the process has ended, with the end of its log.
    pub(crate) fn check(&mut self, log: &Path) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            // Ctrl-C reaches children, too, perhaps a moment before us.
            sleep(Duration::from_millis(100));
            check_interrupted()?;
            let text = std::fs::read_to_string(log).unwrap_or_default();
            let tail = last_lines(&text, 10);
            bail!("{} ended early ({status}); the end of {}:\n{tail}", self.name, log.display());
        }
        Ok(())
    }

    /// Whether the process has ended.
    pub(crate) fn ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Asks the process to stop and waits until it has.
    pub(crate) fn stop(mut self) -> Result<()> {
        if !self.finish() {
            bail!("{} did not stop within {} s of SIGINT and was killed", self.name, GRACE.as_secs());
        }
        Ok(())
    }

    /// Returns whether the process ended by itself.
    fn finish(&mut self) -> bool {
        if self.ended() {
            return true;
        }
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // The child is ours and not yet waited for, so its id cannot have been given to another.
            let _sent = kill(Pid::from_raw(pid), Signal::SIGINT);
        }
        let asked = Instant::now();
        while asked.elapsed() < GRACE {
            if self.ended() {
                return true;
            }
            sleep(Duration::from_millis(50));
        }
        let _killed = self.child.kill();
        let _status = self.child.wait();
        false
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.finish();
    }
}
