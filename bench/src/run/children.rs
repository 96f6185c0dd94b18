//! The processes of a run: each starts inside its own cgroups, says when it is ready, listens to lines
//! on its standard input, and ends by its pid.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;

use crate::cgroups::{Cgroups, Limits};
use crate::load::Second;

/// The load generator's name and cgroup.
pub const LOADGEN: &str = "loadgen";
/// A process that was asked to end gets this long.
const END_WITHIN: Duration = Duration::from_secs(5);
/// A service that dies more often than this stays dead.
const MOST_RESTARTS: u32 = 20;
/// A stopped process does not read; commands to it fill the pipe and are given up after this.
const TELL_WITHIN: Duration = Duration::from_millis(500);

struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Option<Lines<BufReader<ChildStdout>>>,
    folders: Vec<PathBuf>,
    command: Vec<String>,
    redis_port: Option<u16>,
    restarts: u32,
}

/// All processes by name.
pub struct Children {
    cgroups: Cgroups,
    logs: PathBuf,
    running: BTreeMap<String, Running>,
}

impl Children {
    /// Nothing runs yet; `logs` gets a file for each process.
    pub fn new(cgroups: Cgroups, logs: PathBuf) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&logs)?;
        Ok(Self { cgroups, logs, running: BTreeMap::new() })
    }

    /// Starts a service or the load generator.
    pub fn start(&mut self, name: &str, command: &[String], limits: Limits) -> anyhow::Result<()> {
        let folders = self.cgroups.place(name, limits)?;
        let running = self.spawn(name, folders, command.to_vec(), None)?;
        self.running.insert(name.into(), running);
        Ok(())
    }

    /// Starts a Redis server that keeps nothing on disk.
    pub fn start_redis(&mut self, name: &str, port: u16) -> anyhow::Result<()> {
        let folders = self.cgroups.place(name, Limits::default())?;
        let text = format!(
            "redis-server --port {port} --bind 127.0.0.1 --save  --appendonly no --daemonize no --maxmemory 64mb \
             --maxmemory-policy allkeys-lru"
        );
        let command = text.split(' ').map(str::to_owned).collect();
        let running = self.spawn(name, folders, command, Some(port))?;
        self.running.insert(name.into(), running);
        Ok(())
    }

    /// A busy process in a service's cgroups; it ends when dropped.
    pub fn hog(&self, service: &str, threads: u32) -> anyhow::Result<Child> {
        let running = self.running.get(service).with_context(|| format!("{service} does not run"))?;
        let hog = [own_path()?, "hog".into(), "--threads".into(), threads.to_string()];
        enter(&running.folders, &hog)?.stdin(Stdio::piped()).spawn().context("the cpu hog cannot be started")
    }

    fn spawn(
        &self,
        name: &str,
        folders: Vec<PathBuf>,
        command: Vec<String>,
        redis_port: Option<u16>,
    ) -> anyhow::Result<Running> {
        let log = self.logs.join(format!("{name}.log"));
        let log = std::fs::File::options().create(true).append(true).open(log)?;
        let mut child = enter(&folders, &command)?
            .stdin(Stdio::piped())
            .stdout(if redis_port.is_some() { log.try_clone()?.into() } else { Stdio::piped() })
            .stderr(log)
            .spawn()
            .with_context(|| format!("{name} cannot be started"))?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().map(|stdout| BufReader::new(stdout).lines());
        Ok(Running { child, stdin, stdout, folders, command, redis_port, restarts: 0 })
    }

    /// Waits until a process says that it is ready; Redis says so by answering.
    pub async fn ready(&mut self, name: &str, within: Duration) -> anyhow::Result<()> {
        let log = self.logs.join(format!("{name}.log"));
        let running = self.running.get_mut(name).with_context(|| format!("{name} was not started"))?;
        let ready = async {
            if let Some(port) = running.redis_port {
                return redis_answers(port, &mut running.child).await;
            }
            let stdout = running.stdout.as_mut().context("its output is gone")?;
            match stdout.next_line().await? {
                Some(line) if line.trim() == "ready" => Ok(()),
                Some(line) => bail!("said `{line}` instead of `ready`"),
                None => bail!("ended at once"),
            }
        };
        match tokio::time::timeout(within, ready).await {
            Ok(ready) => ready.with_context(|| format!("{name} did not start: see {}", log.display())),
            Err(_) => bail!("{name} is not ready after {} s: see {}", within.as_secs(), log.display()),
        }
    }

    /// The load generator's lines, from now on.
    pub fn load_lines(&mut self) -> anyhow::Result<mpsc::Receiver<Second>> {
        let load = self.running.get_mut(LOADGEN).context("no load generator")?;
        let mut lines = load.stdout.take().context("the load generator's output is gone")?;
        let (sender, seconds) = mpsc::channel(64);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                if let Ok(second) = serde_json::from_str(&line)
                    && sender.send(second).await.is_err()
                {
                    break;
                }
            }
        });
        Ok(seconds)
    }

    /// Writes a line to a process; Redis takes none.
    pub async fn tell(&mut self, name: &str, line: &str) -> anyhow::Result<()> {
        let Some(running) = self.running.get_mut(name).filter(|running| running.redis_port.is_none()) else {
            return Ok(());
        };
        let stdin = running.stdin.as_mut().with_context(|| format!("{name} takes no commands"))?;
        let line = format!("{line}\n");
        let written = tokio::time::timeout(TELL_WITHIN, stdin.write_all(line.as_bytes())).await;
        match written {
            Ok(written) => written.with_context(|| format!("{name} takes no commands: it has ended")),
            Err(_) => bail!("{name} does not read its commands"),
        }
    }

    /// The pid of a process, for signals.
    pub fn pid(&self, name: &str) -> anyhow::Result<Pid> {
        let pid = self.raw_pid(name).and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        pid.with_context(|| format!("{name} does not run"))
    }

    /// The pid of a process, to be shown.
    pub fn raw_pid(&self, name: &str) -> Option<u32> {
        self.running.get(name)?.child.id()
    }

    /// Processor seconds so far and memory bytes now.
    pub fn usage(&self, name: &str) -> (Option<f64>, Option<u64>) {
        (self.cgroups.cpu_seconds(name), self.cgroups.memory_bytes(name))
    }

    /// Starts those again that have ended, and names them.
    pub fn restart_dead(&mut self) -> anyhow::Result<Vec<String>> {
        let mut dead = Vec::new();
        for (name, running) in &mut self.running {
            if let Some(status) = running.child.try_wait()? {
                if name == LOADGEN || running.restarts >= MOST_RESTARTS {
                    bail!("{name} ended ({status}): see {}", self.logs.join(format!("{name}.log")).display());
                }
                dead.push(name.clone());
            }
        }
        for name in &dead {
            let Some(old) = self.running.remove(name) else { continue };
            let mut new = self.spawn(name, old.folders, old.command, old.redis_port)?;
            new.restarts = old.restarts + 1;
            self.running.insert(name.clone(), new);
        }
        Ok(dead)
    }

    /// Ends every process: asks first, then kills, each by its pid.
    pub async fn stop_all(&mut self) {
        for running in self.running.values_mut() {
            running.stdin = None;
            if let Some(pid) = running.child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
                // A process that has ended already needs no signal; a stopped one must run to end.
                let _gone = kill_process(pid, Signal::TERM).and_then(|()| kill_process(pid, Signal::CONT));
            }
        }
        for (name, running) in &mut self.running {
            if tokio::time::timeout(END_WITHIN, running.child.wait()).await.is_err() {
                eprintln!("playground: {name} did not end by itself");
                drop(running.child.kill().await);
            }
        }
        self.running.clear();
    }
}

fn own_path() -> anyhow::Result<String> {
    let path = std::env::current_exe().context("the playground does not know its own path")?;
    path.to_str().map(str::to_owned).context("the playground's path is not UTF-8")
}

fn enter(folders: &[PathBuf], command: &[String]) -> anyhow::Result<Command> {
    let mut entering = Command::new(own_path()?);
    entering.arg("enter");
    for folder in folders {
        entering.arg("--into").arg(folder);
    }
    entering.arg("--").args(command).kill_on_drop(true);
    // A Ctrl-C on the terminal is for the run, which ends its processes in order.
    entering.process_group(0);
    Ok(entering)
}

async fn redis_answers(port: u16, child: &mut Child) -> anyhow::Result<()> {
    loop {
        if let Some(status) = child.try_wait()? {
            bail!("ended at once ({status}); is redis-server installed?");
        }
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await {
            stream.write_all(b"*1\r\n$4\r\nPING\r\n").await?;
            let mut answer = [0; 7];
            stream.read_exact(&mut answer).await?;
            if &answer == b"+PONG\r\n" {
                return Ok(());
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
