//! Real PostgreSQL servers from the system's package: a private folder for each, made when it starts, and one table,
//! `items`, filled with the keys that services read. Nothing of it outlives the run, so nothing is synced to disk.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use tokio_postgres::NoTls;

use super::children::{Program, Readiness};
use crate::cgroups::Limits;

/// Where Debian and Ubuntu keep the server's programs, in a folder for each version.
const VERSIONS: &str = "/usr/lib/postgresql";
/// Sessions at most: 16 for each of some ten services; a leak of connections soon finds the limit.
const SESSIONS: u32 = 200;

/// Makes the data folder, the database and its table, and becomes the server. The words after `$0` are the
/// programs' folder, the data folder, the host, the port and the number of keys.
const SCRIPT: &str = r#"set -e
bin=$1 data=$2 host=$3 port=$4 keys=$5
if [ ! -f "$data/filled" ]; then
    "$bin/initdb" -D "$data" -U playground -A trust --no-sync --no-locale -E UTF8 >&2
    echo 'host all all samenet trust' >>"$data/pg_hba.conf"
    quiet="-c fsync=off -c full_page_writes=off -c log_checkpoints=off"
    echo 'CREATE DATABASE playground;' | "$bin/postgres" --single $quiet -D "$data" postgres >&2
    {
        echo 'CREATE TABLE items (key text PRIMARY KEY, value bytea NOT NULL);'
        echo "INSERT INTO items SELECT 'k' || n, decode(repeat('76', 100), 'hex') FROM generate_series(0, $keys - 1) n;"
    } | "$bin/postgres" --single $quiet -D "$data" playground >&2
    touch "$data/filled"
fi
exec "$bin/postgres" -D "$data" -c listen_addresses="$host" -c port="$port" -c unix_socket_directories= \
    -c fsync=off -c synchronous_commit=off -c full_page_writes=off -c shared_buffers=32MB -c jit=off \
    -c autovacuum=off -c max_connections=SESSIONS"#;

/// The newest installed server's programs.
pub fn programs() -> anyhow::Result<PathBuf> {
    let versions = fs::read_dir(VERSIONS).into_iter().flatten().flatten().map(|entry| entry.path());
    let number = |path: &Path| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
    let installed = versions.filter(|path| path.join("bin/initdb").is_file());
    let newest = installed.max_by_key(|path| number(path));
    newest.map(|path| path.join("bin")).with_context(|| {
        format!("no PostgreSQL server in {VERSIONS}: `apt-get install postgresql`, or `playground setup`")
    })
}

/// A server as a process; its data folder is made now, and `remove` ends it.
pub(super) fn program(
    name: &str,
    address: &str,
    folders: &Folders,
    keys: u32,
    cgroup: String,
    network: Option<PathBuf>,
) -> anyhow::Result<Program> {
    let (host, port) = address.rsplit_once(':').context("an address has a port")?;
    let user = unprivileged_user()?;
    let data = folders.make(name, user)?;
    let words = [
        "sh",
        "-c",
        &SCRIPT.replace("SESSIONS", &SESSIONS.to_string()),
        "postgres",
        &programs()?.display().to_string(),
        &data.display().to_string(),
        host,
        port,
        &keys.max(1).to_string(),
    ]
    .map(str::to_owned);
    Ok(Program {
        command: words.into(),
        readiness: Readiness::Postgres(address.into()),
        cgroup,
        limits: Limits::default(),
        network,
        user: Some(user),
    })
}

/// The server refuses to run as root: `postgres` is its package's own user.
fn unprivileged_user() -> anyhow::Result<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd").context("/etc/passwd cannot be read")?;
    let numbers = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    numbers("postgres").or_else(|| numbers("nobody")).context("there is no user `postgres` or `nobody`")
}

/// Where data folders are: in the run's output where the server's user can get there, else where all can.
pub(super) struct Folders(PathBuf);

impl Folders {
    /// `claim` is the run's cgroup, which no other run has.
    pub(super) fn new(out: &Path, claim: &str) -> Self {
        let open = out
            .ancestors()
            .all(|folder| fs::metadata(folder).is_ok_and(|found| found.permissions().mode() & 0o001 != 0));
        if open {
            Self(out.join("postgres"))
        } else {
            Self(std::env::temp_dir().join(format!("{claim}-postgres")))
        }
    }

    fn make(&self, name: &str, (user, group): (u32, u32)) -> anyhow::Result<PathBuf> {
        let data = self.0.join(name);
        let made = fs::create_dir_all(&data)
            .and_then(|()| fs::set_permissions(&data, fs::Permissions::from_mode(0o700)))
            .and_then(|()| std::os::unix::fs::chown(&data, Some(user), Some(group)));
        made.with_context(|| format!("{} cannot be made", data.display()))?;
        if fs::metadata(&data)?.uid() != user {
            bail!("{} does not belong to the server's user", data.display());
        }
        Ok(data)
    }

    /// Removes all data.
    pub(super) fn remove(&self) {
        // There may be none.
        drop(fs::remove_dir_all(&self.0));
    }
}

/// Whether a server takes sessions and has its table.
pub(super) async fn takes_sessions(address: &str) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else { return false };
    let settings = format!("host={host} port={port} user=playground dbname=playground connect_timeout=1");
    let Ok((client, connection)) = tokio_postgres::connect(&settings, NoTls).await else { return false };
    tokio::spawn(connection);
    client.simple_query("SELECT 1 FROM items LIMIT 1").await.is_ok()
}
