//! A server and a client that talk to each other, each a process in a cgroup of its choice, and what CPU they
//! used. Orders go in, measured [`Slice`]s come out. A pair may be moved to other cgroups and connected anew.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, bail};

use super::traffic::{Done, Line, Order, Ports};

/// Where one end is.
pub(super) struct Place {
    /// Its cgroup in every hierarchy.
    pub cgroups: Vec<PathBuf>,
    /// Whether the agent watches it.
    pub watched: bool,
}

/// Where a server and its client are.
pub(super) struct Places {
    /// The server.
    pub server: Place,
    /// The client.
    pub client: Place,
}

/// The program that talks: this one, or the one that speaks TLS.
#[derive(Clone)]
pub(super) struct Program {
    /// Its file.
    pub file: PathBuf,
    /// What its arguments begin with.
    pub arguments: &'static [&'static str],
    /// Libraries that it gets instead of the system's where it is not watched, as `LD_PRELOAD` has them.
    pub unwatched_libraries: Option<OsString>,
}

/// A process that talks over its standard input and output.
struct Talker {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Talker {
    /// Starts one end inside its cgroups.
    fn start(program: &Program, end: &str, place: &Place) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe().context("where this program is")?);
        command.arg("enter");
        for cgroup in &place.cgroups {
            command.arg("--into").arg(cgroup);
        }
        if let Some(libraries) = program.unwatched_libraries.as_ref().filter(|_| !place.watched) {
            command.env("LD_PRELOAD", libraries);
        }
        command.arg("--").arg(&program.file).args(program.arguments).arg(end);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", program.file.display()))?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().context("its output")?);
        Ok(Self { child, input, output })
    }

    /// Moves the process. The sockets that it has stay where they were made.
    fn enter(&self, place: &Place) -> anyhow::Result<()> {
        for cgroup in &place.cgroups {
            let file = cgroup.join("cgroup.procs");
            fs::write(&file, self.child.id().to_string())
                .with_context(|| format!("{} refused a process", file.display()))?;
        }
        Ok(())
    }

    fn tell(&mut self, line: &str) -> anyhow::Result<()> {
        let input = self.input.as_mut().context("its input is closed")?;
        writeln!(input, "{line}")?;
        Ok(input.flush()?)
    }

    fn hear(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            bail!("a process of the benchmark ended early");
        }
        Ok(line)
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        // The end of its input ends it.
        drop(self.input.take());
        let _status = self.child.wait();
    }
}

/// One server and one client.
pub(super) struct Pair {
    client: Talker,
    server: Talker,
}

/// What a pair did during an order.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Slice {
    /// What the client says.
    pub done: Done,
    /// CPU of the server, nanoseconds, with the kernel's work in its name.
    pub server_nanos: u64,
    /// CPU of the client, likewise.
    pub client_nanos: u64,
}

impl Slice {
    /// CPU of both ends a request, microseconds.
    pub(super) fn micros_per_request(&self) -> f64 {
        per_request(self.server_nanos + self.client_nanos, self.done.requests)
    }
}

/// Nanoseconds in all, microseconds a request.
pub(super) fn per_request(nanos: u64, requests: u64) -> f64 {
    nanos as f64 / 1e3 / requests.max(1) as f64
}

impl Pair {
    /// Starts both ends, which are not connected yet.
    pub(super) fn start(program: &Program, places: &Places) -> anyhow::Result<Self> {
        Ok(Self {
            server: Talker::start(program, "serve", &places.server)?,
            client: Talker::start(program, "drive", &places.client)?,
        })
    }

    /// Moves both ends; what they open from now on belongs there.
    pub(super) fn enter(&self, places: &Places) -> anyhow::Result<()> {
        self.server.enter(&places.server)?;
        self.client.enter(&places.client)
    }

    /// Connects them, by sockets that are new at both ends.
    pub(super) fn connect(&mut self) -> anyhow::Result<()> {
        self.server.tell("listen")?;
        let ports: Ports = serde_json::from_str(&self.server.hear()?)?;
        self.ask(Line::Connect(ports))?;
        Ok(())
    }

    fn ask(&mut self, line: Line) -> anyhow::Result<Done> {
        self.client.tell(&serde_json::to_string(&line)?)?;
        Ok(serde_json::from_str(&self.client.hear()?)?)
    }

    /// Has an order carried out.
    pub(super) fn run(&mut self, order: Order) -> anyhow::Result<Slice> {
        let before = (self.server.child.id(), self.client.child.id());
        let (server, client) = (cpu_nanos(before.0)?, cpu_nanos(before.1)?);
        let done = self.ask(Line::Talk(order))?;
        if done.requests == 0 {
            bail!("no request of {:?} was answered", order.talk);
        }
        Ok(Slice {
            done,
            server_nanos: cpu_nanos(before.0)? - server,
            client_nanos: cpu_nanos(before.1)? - client,
        })
    }
}

/// CPU of a process so far, to the nanosecond: the sum of its threads, of which the benchmark's own programs end
/// none. Work in softirqs counts for whom it interrupts; over loopback that is mostly the sender.
pub(super) fn cpu_nanos(process: u32) -> anyhow::Result<u64> {
    let tasks = format!("/proc/{process}/task");
    let mut sum = 0;
    for task in fs::read_dir(&tasks).with_context(|| format!("{tasks} cannot be read"))? {
        // A thread may end between the two looks.
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
        sum += text.split(' ').next().and_then(|nanos| nanos.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(sum)
}
