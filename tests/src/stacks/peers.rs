//! The peers as processes, each in a fresh cgroup that goes away with it.

use crate::agent::{PATIENCE, free_port};
use faultline_core::units::CgroupId;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Every gRPC stack.
pub const STACKS: [&str; 6] = ["go", "java", "cpp", "python", "node", "rust"];

/// Longest that a client may take for the scenario: seconds of its own, minutes on a machine that is busy with others.
const SCENARIO: Duration = Duration::from_secs(300);

/// gRPC by hand over Python's ssl, or over HTTP/1.1 upgraded.
pub const BY_HAND: &str = "python-h2";

/// Ports that a server is started on before it is given up: another process may have taken the first.
const TRIES: usize = 3;

/// Whether a stack's client retries as its service configuration says. tonic knows no such thing.
#[must_use]
pub fn retries(stack: &str) -> bool {
    !matches!(stack, "rust" | BY_HAND)
}

/// How a client reaches its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Both ends speak IPv4.
    V4,
    /// Both ends speak IPv6.
    V6,
    /// The server listens on IPv6 alone and sees the client's IPv4 address mapped into it.
    Mapped,
}

impl Network {
    /// Every network.
    pub const ALL: [Self; 3] = [Self::V4, Self::V6, Self::Mapped];

    /// Where a server listens.
    #[must_use]
    pub fn listen(self) -> &'static str {
        match self {
            Self::V4 => "127.0.0.1",
            Self::V6 => "::1",
            Self::Mapped => "::",
        }
    }

    /// Where a client connects to.
    #[must_use]
    pub fn target(self, port: u16) -> String {
        match self {
            Self::V4 | Self::Mapped => format!("127.0.0.1:{port}"),
            Self::V6 => format!("[::1]:{port}"),
        }
    }
}

/// The peers that were built.
pub struct Peers {
    place: PathBuf,
    keys: Option<PathBuf>,
}

impl Peers {
    /// The peers in `$FAULTLINE_PEERS`, else in the cache that `cargo xtask test stacks` fills.
    ///
    /// # Panics
    /// When one of them was not built.
    #[must_use]
    pub fn find() -> Self {
        let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let cache = || folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")));
        let place = folder("FAULTLINE_PEERS").or_else(|| cache().map(|cache| cache.join("faultline/stacks")));
        let peers = Self { place: place.unwrap_or_default(), keys: None };
        for stack in STACKS.into_iter().chain([BY_HAND]) {
            let program = peers.program(stack);
            assert!(program.is_file(), "{} is missing: cargo xtask test stacks builds it", program.display());
        }
        peers
    }

    /// The same over TLS, with the key and the certificate in a folder; of those that can.
    #[must_use]
    pub fn over_tls(self, keys: &Path) -> Self {
        Self { keys: Some(keys.to_owned()), ..self }
    }

    /// Whether they speak TLS.
    #[must_use]
    pub fn speak_tls(&self) -> bool {
        self.keys.is_some()
    }

    fn program(&self, stack: &str) -> PathBuf {
        self.place.join(stack).join("run")
    }

    fn command(&self, stack: &str) -> Command {
        let mut command = Command::new(self.program(stack));
        if let Some(keys) = &self.keys {
            command.env("PEER_TLS", keys);
        }
        command
    }

    /// Starts a server and waits until it listens. `age`: it lets go of connections after so long.
    ///
    /// # Errors
    /// What it wrote instead.
    pub fn serve(
        &self,
        stack: &str,
        network: Network,
        age: Option<Duration>,
        folder: &Path,
    ) -> Result<Server, String> {
        let mut said = String::new();
        for _ in 0..TRIES {
            let port = free_port();
            let mut command = self.command(stack);
            command.args(["server", "--port", &port.to_string(), "--listen", network.listen()]);
            command.args(["--age", &age.unwrap_or_default().as_millis().to_string()]);
            let mut peer = Peer::start(&format!("{stack}-server"), &mut command, folder);
            if peer.says("ready", PATIENCE) {
                return Ok(Server { peer, port, authority: format!("peer-{stack}:{port}") });
            }
            said = peer.log();
        }
        Err(format!("the {stack} server is not ready: {said}"))
    }

    /// Starts a client of `target` with a scenario.
    #[must_use]
    pub fn call(&self, stack: &str, target: &str, authority: &str, scenario: &Path, folder: &Path) -> Client {
        let mut command = self.command(stack);
        command.args(["client", "--target", target, "--authority", authority, "--scenario"]).arg(scenario);
        Client { peer: Peer::start(&format!("{stack}-client"), &mut command, folder) }
    }
}

/// A running server.
pub struct Server {
    peer: Peer,
    /// Where it listens.
    pub port: u16,
    /// What its clients call it.
    pub authority: String,
}

impl Server {
    /// Its cgroup.
    #[must_use]
    pub fn cgroup(&self) -> CgroupId {
        self.peer.id
    }

    /// What it says of the calls so far, once nothing more comes: it hears of the last cancellation late.
    #[must_use]
    pub fn truth(&self) -> String {
        sleep(Duration::from_millis(100));
        self.peer.truth()
    }
}

/// A running client.
pub struct Client {
    peer: Peer,
}

impl Client {
    /// Its cgroup.
    #[must_use]
    pub fn cgroup(&self) -> CgroupId {
        self.peer.id
    }

    /// Waits until it has come to the call before which it waits.
    ///
    /// # Errors
    /// What it wrote instead.
    pub fn until_it_waits(&mut self) -> Result<(), String> {
        if self.peer.says("waiting", SCENARIO) {
            return Ok(());
        }
        Err(format!("the client does not wait: {}", self.peer.log()))
    }

    /// Lets it go on.
    ///
    /// # Panics
    /// When it is gone.
    pub fn go_on(&mut self) {
        self.peer.child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    }

    /// Waits for its end; what it says of its calls.
    ///
    /// # Errors
    /// How it ended instead, with the end of what it wrote.
    pub fn finish(&mut self) -> Result<String, String> {
        match self.peer.wait() {
            Some(0) => Ok(self.peer.truth()),
            status => Err(format!("the client ended with {status:?}: {}", self.peer.log())),
        }
    }
}

/// A process in a cgroup of its own, ended when this value goes away.
pub struct Peer {
    child: Child,
    cgroup: PathBuf,
    id: CgroupId,
    folder: PathBuf,
    name: String,
}

impl Peer {
    /// Starts a program that writes `NAME.log` and, with a flag `--truth`, `NAME.jsonl`.
    fn start(name: &str, command: &mut Command, folder: &Path) -> Self {
        let truth = folder.join(format!("{name}.jsonl"));
        Self::run(name, command.arg("--truth").arg(truth), folder)
    }

    /// Starts any program, with what it writes in `NAME.log`.
    ///
    /// # Panics
    /// When there can be no cgroup or no process.
    #[must_use]
    pub fn run(name: &str, command: &mut Command, folder: &Path) -> Self {
        let run = folder.file_name().unwrap_or_default().to_string_lossy();
        // With our own id, so that two runs of the tests do not share one.
        let cgroup = root().join(format!("faultline-{}-{run}-{name}", std::process::id()));
        let _leftover = fs::remove_dir(&cgroup);
        fs::create_dir(&cgroup).unwrap();
        let id = CgroupId(fs::metadata(&cgroup).unwrap().ino());
        let output = File::create(folder.join(format!("{name}.log"))).unwrap();
        // The shell enters the cgroup and becomes the peer, so that no socket of it is made elsewhere.
        let child = Command::new("sh")
            .args(["-c", "echo $$ > \"$0/cgroup.procs\" && exec \"$@\""])
            .arg(&cgroup)
            .arg(command.get_program())
            .args(command.get_args())
            .envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))))
            .stdin(Stdio::piped())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        Self { child, cgroup, id, folder: folder.to_owned(), name: name.to_owned() }
    }

    /// Its cgroup.
    #[must_use]
    pub fn cgroup(&self) -> CgroupId {
        self.id
    }

    /// What it wrote.
    #[must_use]
    pub fn log(&self) -> String {
        self.file("log")
    }

    fn truth(&self) -> String {
        self.file("jsonl")
    }

    fn file(&self, kind: &str) -> String {
        fs::read_to_string(self.folder.join(format!("{}.{kind}", self.name))).unwrap_or_default()
    }

    /// Waits until it writes a word; `false` if it does not.
    fn says(&mut self, word: &str, patience: Duration) -> bool {
        let started = Instant::now();
        loop {
            let over = self.child.try_wait().unwrap().is_some() || started.elapsed() > patience;
            if self.log().contains(word) {
                return true;
            }
            if over {
                return false;
            }
            sleep(Duration::from_millis(10));
        }
    }

    /// Waits for its end; the exit code, or `None` if it took too long or was killed.
    fn wait(&mut self) -> Option<i32> {
        let started = Instant::now();
        while started.elapsed() < SCENARIO {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            sleep(Duration::from_millis(10));
        }
        None
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _killed = self.child.kill();
        let _status = self.child.wait();
        let ended = Instant::now();
        while fs::remove_dir(&self.cgroup).is_err() && ended.elapsed() < PATIENCE {
            sleep(Duration::from_millis(10));
        }
    }
}

/// The root of the cgroup v2 hierarchy.
fn root() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 ")).unwrap();
    PathBuf::from(line.split(' ').nth(4).unwrap())
}
