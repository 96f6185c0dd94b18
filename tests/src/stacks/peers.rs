//! The peers as processes, each in a fresh cgroup that goes away with it.

use crate::agent::free_port;
use faultline_core::units::CgroupId;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Every stack.
pub const STACKS: [&str; 6] = ["go", "java", "cpp", "python", "node", "rust"];

/// Longest that a client may take for the scenario on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// The peers that were built.
pub struct Peers {
    place: PathBuf,
}

/// What a pair left behind.
pub struct Run {
    /// The client's cgroup.
    pub client: CgroupId,
    /// The server's cgroup.
    pub server: CgroupId,
    /// The authority that the client used.
    pub authority: String,
    /// What the client says.
    pub client_truth: String,
    /// What the server says.
    pub server_truth: String,
}

impl Peers {
    /// The peers in `$FAULTLINE_PEERS`, else in the cache that `cargo xtask test stacks` fills.
    #[must_use]
    pub fn find() -> Self {
        let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let cache = || folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")));
        let place = folder("FAULTLINE_PEERS").or_else(|| cache().map(|cache| cache.join("faultline/stacks")));
        Self { place: place.unwrap_or_default() }
    }

    /// Whether a stack's peer was built.
    #[must_use]
    pub fn has(&self, stack: &str) -> bool {
        self.program(stack).is_file()
    }

    fn program(&self, stack: &str) -> PathBuf {
        self.place.join(stack).join("run")
    }

    /// Runs the scenario with one stack as the client of another.
    ///
    /// # Errors
    /// What did not work, with the end of what the peers wrote.
    pub fn run(&self, client: &str, server: &str, scenario: &Path, folder: &Path) -> Result<Run, String> {
        let file = |name: &str| folder.join(name);
        let port = free_port();
        let authority = format!("peer-{server}:{port}");
        let serving = Peer::start(
            &format!("peer-{server}-server"),
            Command::new(self.program(server))
                .args(["server", "--port", &port.to_string(), "--truth"])
                .arg(file("server.jsonl")),
            &file("server.log"),
        );
        let said = |name: &str| fs::read_to_string(file(name)).unwrap_or_default();
        let started = Instant::now();
        while !said("server.log").contains("ready") {
            if started.elapsed() > Duration::from_secs(30) {
                return Err(format!("the {server} server is not ready: {}", said("server.log")));
            }
            sleep(Duration::from_millis(10));
        }
        let mut calling = Peer::start(
            &format!("peer-{client}-client"),
            Command::new(self.program(client))
                .args(["client", "--target", &format!("127.0.0.1:{port}"), "--authority", &authority])
                .arg("--scenario")
                .arg(scenario)
                .arg("--truth")
                .arg(file("client.jsonl")),
            &file("client.log"),
        );
        let status = calling.wait();
        // The server hears of the last cancellation.
        sleep(Duration::from_millis(100));
        let run = Run {
            client: calling.id,
            server: serving.id,
            authority,
            client_truth: said("client.jsonl"),
            server_truth: said("server.jsonl"),
        };
        match status {
            Some(0) => Ok(run),
            status => Err(format!(
                "the {client} client ended with {status:?}: {}{}",
                said("client.log"),
                said("server.log")
            )),
        }
    }
}

/// One peer, ended when this value goes away.
struct Peer {
    child: Child,
    cgroup: PathBuf,
    id: CgroupId,
}

impl Peer {
    fn start(name: &str, command: &mut Command, log: &Path) -> Self {
        let cgroup = root().join(name);
        let _leftover = fs::remove_dir(&cgroup);
        fs::create_dir(&cgroup).unwrap();
        let id = CgroupId(fs::metadata(&cgroup).unwrap().ino());
        let output = File::create(log).unwrap();
        // The shell enters the cgroup and becomes the peer, so that no socket of it is made elsewhere.
        let child = Command::new("sh")
            .args(["-c", "echo $$ > \"$0/cgroup.procs\" && exec \"$@\""])
            .arg(&cgroup)
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        Self { child, cgroup, id }
    }

    /// Waits for its end; the exit code, or `None` if it took too long or was killed.
    fn wait(&mut self) -> Option<i32> {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
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
        while fs::remove_dir(&self.cgroup).is_err() && ended.elapsed() < Duration::from_secs(5) {
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
