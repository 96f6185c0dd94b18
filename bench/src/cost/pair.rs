//! A server and a client that talk to each other, each a process in a cgroup of its choice, and what CPU they
//! used. Orders go in, measured [`Slice`]s come out.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, bail};

use super::traffic::{Done, Order};

/// A process that talks over its standard input and output.
struct Talker {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Talker {
    /// Starts a hidden command of this program inside the cgroups.
    fn start(cgroups: &[PathBuf], arguments: &[&str]) -> anyhow::Result<Self> {
        let own = std::env::current_exe().context("where this program is")?;
        let mut command = Command::new(&own);
        command.arg("enter");
        for cgroup in cgroups {
            command.arg("--into").arg(cgroup);
        }
        command.arg("--").arg(&own).args(arguments);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", arguments.join(" ")))?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().context("its output")?);
        Ok(Self { child, input, output })
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
    /// Starts both ends and connects them.
    pub(super) fn start(server: &[PathBuf], client: &[PathBuf]) -> anyhow::Result<Self> {
        let mut server = Talker::start(server, &["talk", "serve"])?;
        let ports = server.hear()?;
        let client = Talker::start(client, &["talk", "drive", "--ports", ports.trim()])?;
        Ok(Self { client, server })
    }

    /// Has an order carried out.
    pub(super) fn run(&mut self, order: Order) -> anyhow::Result<Slice> {
        let before = (self.server.child.id(), self.client.child.id());
        let (server, client) = (cpu_nanos(before.0)?, cpu_nanos(before.1)?);
        self.client.tell(&serde_json::to_string(&order)?)?;
        let done: Done = serde_json::from_str(&self.client.hear()?)?;
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

/// Resident memory of a process, bytes.
pub(super) fn resident_bytes(process: u32) -> anyhow::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/status"))?;
    let kib = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = kib.and_then(|rest| rest.trim().strip_suffix(" kB")).context("no VmRSS")?;
    Ok(kib.trim().parse::<u64>()? << 10)
}

/// The agent, watching one cgroup.
pub(super) struct Agent(Child);

impl Agent {
    /// Starts the binary that lies beside this one and waits until it answers.
    pub(super) fn start(cgroup: &Path) -> anyhow::Result<Self> {
        let own = std::env::current_exe()?;
        let binary = own.with_file_name("faultline");
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let listen = format!("127.0.0.1:{port}");
        let child = Command::new(&binary)
            .args(["run", "--log", "warn", "--listen", &listen, "--cgroup-root"])
            .arg(cgroup)
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        let mut agent = Self(child);
        for _ in 0..200 {
            if let Some(status) = agent.0.try_wait()? {
                bail!("the agent ended with {status}");
            }
            if std::net::TcpStream::connect(&listen).is_ok() {
                return Ok(agent);
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        bail!("the agent does not answer at {listen}")
    }

    /// Its process id.
    pub(super) fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.0.id()).ok().and_then(rustix::process::Pid::from_raw) {
            // Our own child, not yet waited for.
            let _gone = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _status = self.0.wait();
    }
}
