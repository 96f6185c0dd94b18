//! The processes of a run: each starts inside its own cgroups (and network namespace), says when it is ready, listens
//! to lines on its standard input, and ends by its pid. Which processes there are, and what they serve: `fleet`.

use std::collections::{BTreeMap, BTreeSet};
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
/// A process that dies more often than this stays dead: a crash loop of an hour is within it.
const MOST_RESTARTS: u32 = 1_000;
/// A stopped process does not read; commands to it fill the pipe and are given up after this.
const TELL_WITHIN: Duration = Duration::from_millis(500);
/// Backends are asked this often whether they are there.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// How a process says that it is ready.
#[derive(Clone, Debug)]
pub enum Readiness {
    /// By the line `ready`.
    Line,
    /// By answering PING at this address.
    Redis(String),
    /// By taking a session at this address.
    Postgres(String),
}

/// What the kernel counts of a process's cgroup; what it does not count is none.
#[derive(Clone, Copy, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Usage {
    /// Processor time so far, seconds.
    pub cpu_seconds: Option<f64>,
    /// Memory now, bytes.
    pub memory_bytes: Option<u64>,
    /// Periods so far in which the CPU limit stopped it.
    pub throttled: Option<u64>,
}

/// What to start, and where.
#[derive(Clone, Debug)]
pub struct Program {
    /// Words of the command.
    pub command: Vec<String>,
    /// How it says that it is ready.
    pub readiness: Readiness,
    /// The cgroup below the run's, such as `node-0/cartservice`.
    pub cgroup: String,
    /// Limits of that cgroup.
    pub limits: Limits,
    /// The file of its network namespace, if it has one of its own.
    pub network: Option<PathBuf>,
    /// User and group, if not those of the run.
    pub user: Option<(u32, u32)>,
}

struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Option<Lines<BufReader<ChildStdout>>>,
    folders: Vec<PathBuf>,
    program: Program,
    restarts: u32,
}

/// All processes by name.
pub struct Children {
    cgroups: Cgroups,
    logs: PathBuf,
    running: BTreeMap<String, Running>,
    /// Backends that are down on purpose.
    held: BTreeMap<String, Program>,
}

impl Children {
    /// Nothing runs yet; `logs` gets a file for each process.
    pub fn new(cgroups: Cgroups, logs: PathBuf) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&logs)?;
        Ok(Self { cgroups, logs, running: BTreeMap::new(), held: BTreeMap::new() })
    }

    /// The cgroups of all processes.
    pub const fn cgroups(&self) -> &Cgroups {
        &self.cgroups
    }

    /// Starts a process under a name.
    pub fn start(&mut self, name: &str, program: Program) -> anyhow::Result<()> {
        let folders = self.cgroups.place(&program.cgroup, program.limits)?;
        let running = self.spawn(name, folders, program)?;
        self.running.insert(name.into(), running);
        Ok(())
    }

    /// A process that is busy for a share of the time, in a running process's cgroups; it ends when dropped.
    pub fn hog(&self, beside: &str, threads: u32, busy: f64) -> anyhow::Result<Child> {
        let running = self.running.get(beside).with_context(|| format!("{beside} does not run"))?;
        busy_process(&running.folders, threads, busy)
    }

    /// The same in a cgroup of its own; `favoured` takes the machine from everybody else.
    pub fn own_hog(
        &self,
        cgroup: &str,
        (threads, busy): (u32, f64),
        limits: Limits,
        favoured: bool,
    ) -> anyhow::Result<Child> {
        let folders = self.cgroups.place(cgroup, limits)?;
        if favoured {
            self.cgroups.favour(cgroup)?;
        }
        busy_process(&folders, threads, busy)
    }

    fn spawn(&self, name: &str, folders: Vec<PathBuf>, program: Program) -> anyhow::Result<Running> {
        let log = self.logs.join(format!("{name}.log"));
        let log = std::fs::File::options().create(true).append(true).open(log)?;
        let speaks = matches!(program.readiness, Readiness::Line);
        let mut child = enter(&folders, &program)?
            .stdin(Stdio::piped())
            .stdout(if speaks { Stdio::piped() } else { log.try_clone()?.into() })
            .stderr(log)
            .spawn()
            .with_context(|| format!("{name} cannot be started"))?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().map(|stdout| BufReader::new(stdout).lines());
        Ok(Running { child, stdin, stdout, folders, program, restarts: 0 })
    }

    /// Waits until a process says that it is ready.
    pub async fn ready(&mut self, name: &str, within: Duration) -> anyhow::Result<()> {
        let log = self.logs.join(format!("{name}.log"));
        let running = self.running.get_mut(name).with_context(|| format!("{name} was not started"))?;
        let ready = async {
            match &running.program.readiness {
                Readiness::Redis(address) => redis_answers(address, &mut running.child).await,
                Readiness::Postgres(address) => postgres_answers(address, &mut running.child).await,
                Readiness::Line => {
                    let stdout = running.stdout.as_mut().context("its output is gone")?;
                    match stdout.next_line().await? {
                        Some(line) if line.trim() == "ready" => Ok(()),
                        Some(line) => bail!("said `{line}` instead of `ready`"),
                        None => bail!("ended at once"),
                    }
                }
            }
        };
        match tokio::time::timeout(within, ready).await {
            Ok(ready) => ready.with_context(|| format!("{name} did not start: see {}", log.display())),
            Err(_) => bail!("{name} is not ready after {} s: see {}", within.as_secs(), log.display()),
        }
    }

    /// The load generator's lines, from now on.
    pub fn load_lines(&mut self, name: &str) -> anyhow::Result<mpsc::Receiver<Second>> {
        let load = self.running.get_mut(name).with_context(|| format!("{name} does not run"))?;
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

    /// Writes a line to a process; backends take none.
    pub async fn tell(&mut self, name: &str, line: &str) -> anyhow::Result<()> {
        let speaks = |running: &&mut Running| matches!(running.program.readiness, Readiness::Line);
        let Some(running) = self.running.get_mut(name).filter(speaks) else { return Ok(()) };
        let stdin = running.stdin.as_mut().with_context(|| format!("{name} takes no commands"))?;
        let line = format!("{line}\n");
        let written = tokio::time::timeout(TELL_WITHIN, stdin.write_all(line.as_bytes())).await;
        match written {
            Ok(written) => written.with_context(|| format!("{name} takes no commands: it has ended")),
            Err(_) => bail!("{name} does not read its commands"),
        }
    }

    /// The pid of a process.
    pub fn pid(&self, name: &str) -> Option<u32> {
        self.running.get(name)?.child.id()
    }

    /// The process and its children, to be signalled: those that it has then.
    pub fn family(&self, name: &str) -> Option<Family> {
        self.cgroups.members(&self.running.get(name)?.program.cgroup).map(Family)
    }

    /// Signals a process and its children.
    pub fn signal(&self, name: &str, signal: Signal) {
        if let Some(family) = self.family(name) {
            family.signal(signal);
        }
    }

    /// The limits that a process was started with, and its cgroup.
    pub fn program(&self, name: &str) -> Option<&Program> {
        self.running.get(name).map(|running| &running.program)
    }

    /// What a process has used so far and holds now.
    pub fn usage(&self, name: &str) -> Usage {
        let Some(program) = self.program(name) else { return Usage::default() };
        Usage {
            cpu_seconds: self.cgroups.cpu_seconds(&program.cgroup),
            memory_bytes: self.cgroups.memory_bytes(&program.cgroup),
            throttled: self.cgroups.throttled(&program.cgroup),
        }
    }

    /// Starts those again that have ended, and names them; those in `expendable` are let go instead.
    pub fn restart_dead(&mut self, expendable: &BTreeSet<String>) -> anyhow::Result<Vec<String>> {
        let mut dead = Vec::new();
        for (name, running) in &mut self.running {
            if let Some(status) = running.child.try_wait()? {
                if name == LOADGEN || running.restarts >= MOST_RESTARTS {
                    bail!("{name} ended ({status}): see {}", self.logs.join(format!("{name}.log")).display());
                }
                dead.push(name.clone());
            }
        }
        dead.retain(|name| !expendable.contains(name));
        for name in &dead {
            let Some(old) = self.running.remove(name) else { continue };
            let mut new = self.spawn(name, old.folders, old.program)?;
            new.restarts = old.restarts + 1;
            self.running.insert(name.clone(), new);
        }
        Ok(dead)
    }

    /// Ends one process: asks first, then kills.
    pub async fn stop(&mut self, name: &str) {
        if let Some(mut running) = self.running.remove(name) {
            ask_to_end(&mut running);
            wait_for_end(name, &mut running).await;
        }
    }

    /// Takes a process down until it is released.
    pub async fn hold(&mut self, name: &str) {
        if let Some(program) = self.program(name).cloned() {
            self.stop(name).await;
            self.held.insert(name.into(), program);
        }
    }

    /// Starts a held process again.
    pub fn release(&mut self, name: &str) -> anyhow::Result<()> {
        match self.held.remove(name) {
            Some(program) => self.start(name, program),
            None => Ok(()),
        }
    }

    /// Ends every process: asks all first, then kills those that do not end, each by its pid. Back ends go last:
    /// one that goes says so to whoever is connected, which would be an answer to no question.
    pub async fn stop_all(&mut self) {
        for speaks in [true, false] {
            let leaves = |running: &Running| matches!(running.program.readiness, Readiness::Line) == speaks;
            let mut leaving: Vec<(&String, &mut Running)> =
                self.running.iter_mut().filter(|(_, running)| leaves(running)).collect();
            leaving.iter_mut().for_each(|(_, running)| ask_to_end(running));
            for (name, running) in leaving {
                wait_for_end(name, running).await;
            }
        }
        self.running.clear();
    }
}

/// A process and its children, whichever it has when it is asked.
pub struct Family(PathBuf);

impl Family {
    /// Signals each; one that is gone needs no signal.
    pub fn signal(&self, signal: Signal) {
        let listed = std::fs::read_to_string(&self.0).unwrap_or_default();
        for pid in listed.lines().filter_map(|line| Pid::from_raw(line.trim().parse().ok()?)) {
            let _gone = kill_process(pid, signal);
        }
    }
}

fn ask_to_end(running: &mut Running) {
    running.stdin = None;
    if let Some(pid) = running.child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
        // PostgreSQL waits for its sessions at TERM, and ends them at INT.
        let end = match running.program.readiness {
            Readiness::Postgres(_) => Signal::INT,
            _ => Signal::TERM,
        };
        // A process that has ended already needs no signal; a stopped one must run to end.
        let _gone = kill_process(pid, end).and_then(|()| kill_process(pid, Signal::CONT));
    }
}

async fn wait_for_end(name: &str, running: &mut Running) {
    if tokio::time::timeout(END_WITHIN, running.child.wait()).await.is_err() {
        eprintln!("playground: {name} did not end by itself");
        drop(running.child.kill().await);
    }
}

fn own_path() -> anyhow::Result<String> {
    let path = std::env::current_exe().context("the playground does not know its own path")?;
    path.to_str().map(str::to_owned).context("the playground's path is not UTF-8")
}

fn busy_process(folders: &[PathBuf], threads: u32, busy: f64) -> anyhow::Result<Child> {
    let words = [own_path()?, "hog".into(), "--threads".into(), threads.to_string(), "--busy".into()];
    let program = Program {
        command: words.into_iter().chain([busy.to_string()]).collect(),
        readiness: Readiness::Line,
        cgroup: String::new(),
        limits: Limits::default(),
        network: None,
        user: None,
    };
    enter(folders, &program)?.stdin(Stdio::piped()).spawn().context("the busy process cannot be started")
}

fn enter(folders: &[PathBuf], program: &Program) -> anyhow::Result<Command> {
    let mut entering = Command::new(own_path()?);
    entering.arg("enter");
    for folder in folders {
        entering.arg("--into").arg(folder);
    }
    if let Some(network) = &program.network {
        entering.arg("--network").arg(network);
    }
    if let Some((user, group)) = program.user {
        entering.arg("--user").arg(format!("{user}:{group}"));
    }
    entering.arg("--").args(&program.command).kill_on_drop(true);
    // A Ctrl-C on the terminal is for the run, which ends its processes in order.
    entering.process_group(0);
    Ok(entering)
}

async fn redis_answers(address: &str, child: &mut Child) -> anyhow::Result<()> {
    loop {
        if let Some(status) = child.try_wait()? {
            bail!("ended at once ({status}); is redis-server installed?");
        }
        if let Ok(mut stream) = TcpStream::connect(address).await {
            stream.write_all(b"*1\r\n$4\r\nPING\r\n").await?;
            let mut answer = [0; 7];
            stream.read_exact(&mut answer).await?;
            if &answer == b"+PONG\r\n" {
                return Ok(());
            }
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

async fn postgres_answers(address: &str, child: &mut Child) -> anyhow::Result<()> {
    loop {
        if let Some(status) = child.try_wait()? {
            bail!("ended at once ({status})");
        }
        if super::postgres::takes_sessions(address).await {
            return Ok(());
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}
