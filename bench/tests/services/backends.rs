//! A real Redis and a real PostgreSQL on ports of their own; they end with the test.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::program::{PATIENCE, free_address};

/// A Redis server; it is killed when it is dropped.
pub(crate) struct Redis {
    child: Child,
    address: String,
}

impl Redis {
    /// Starts an empty one that keeps nothing on disk.
    pub(crate) fn start() -> Self {
        let address = free_address();
        let port = address.rsplit_once(':').unwrap().1;
        let child = Command::new("redis-server")
            .args(["--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server (Debian's package redis-server) runs");
        let redis = Self { child, address };
        wait_until("redis-server answers", || TcpStream::connect(&redis.address).is_ok());
        redis
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The first line that a command is answered with.
    pub(crate) fn ask(&self, command: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.write_all(format!("{command}\r\n").as_bytes()).unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        line.trim_end().into()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A PostgreSQL server with the table that services use; it is stopped when it is dropped.
pub(crate) struct Postgres {
    child: Child,
    address: String,
    _folder: tempfile::TempDir,
}

impl Postgres {
    /// Makes a database and serves it; or says what is not installed.
    pub(crate) fn start() -> Result<Self, String> {
        let programs = programs().ok_or("no initdb (Debian's package postgresql)")?;
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let user = owner();
        if let Some(user) = user {
            std::os::unix::fs::chown(folder.path(), Some(user), None).map_err(|error| error.to_string())?;
        }
        let store = folder.path().join("store");
        let address = free_address();
        let port = address.rsplit_once(':').unwrap().1;
        let mut making = Command::new(programs.join("initdb"));
        making.args(["--username=playground", "--auth=trust", "--no-sync", "--pgdata"]).arg(&store);
        run(as_user(&mut making, user))?;
        let mut serving = Command::new(programs.join("postgres"));
        serving.arg("-D").arg(&store).args(["-p", port, "-c", "unix_socket_directories=", "-c", "fsync=off"]);
        let log = std::fs::File::create(folder.path().join("log")).map_err(|error| error.to_string())?;
        let child = as_user(&mut serving, user).stdin(Stdio::null()).stderr(log).spawn();
        let child = child.map_err(|error| format!("postgres: {error}"))?;
        let postgres = Self { child, address, _folder: folder };
        wait_until("postgres answers", || postgres.ask_in("postgres", "SELECT 1").is_ok());
        postgres.ask_in("postgres", "CREATE DATABASE playground")?;
        postgres.ask("CREATE TABLE items (key text PRIMARY KEY, value bytea NOT NULL)")?;
        Ok(postgres)
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// What a statement answers, without decoration.
    pub(crate) fn ask(&self, statement: &str) -> Result<String, String> {
        self.ask_in("playground", statement)
    }

    fn ask_in(&self, database: &str, statement: &str) -> Result<String, String> {
        let (host, port) = self.address.rsplit_once(':').unwrap();
        let mut asking = Command::new("psql");
        asking.args(["-h", host, "-p", port, "-U", "playground", "-d", database, "-At", "-c", statement]);
        run(&mut asking)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // SIGINT stops it at once, its children too; killed, it would leave shared memory.
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _gone = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        }
        drop(self.child.wait());
    }
}

/// Debian keeps the server's programs off the path.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut folders: Vec<PathBuf> = versions.flatten().map(|version| version.path().join("bin")).collect();
    folders.retain(|folder| folder.join("initdb").exists());
    folders.sort();
    folders.pop()
}

/// PostgreSQL refuses to run as root; then it runs as the user that Debian made for it.
fn owner() -> Option<u32> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = std::fs::read_to_string(Path::new("/etc/passwd")).ok()?;
    let line = users.lines().find(|line| line.starts_with("postgres:"))?;
    line.split(':').nth(2)?.parse().ok()
}

fn as_user(command: &mut Command, user: Option<u32>) -> &mut Command {
    // The test's folder may be closed to that user.
    command.current_dir("/");
    match user {
        Some(user) => command.uid(user),
        None => command,
    }
}

fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{}: {error}", command.get_program().display()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim_end().into());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim_end().into())
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "not within {} s: {what}", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(50));
    }
}
