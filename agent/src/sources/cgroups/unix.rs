//! Counts the connections over unix stream sockets that processes accepted: gRPC may go over them, and no hook of the
//! kernel programs lies on that way. Process numbers flow in, counts flow out; what cannot be read is not counted as
//! none.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Open files looked at in one look, some tens of milliseconds' work; processes beyond have no count.
const MAX_FILES: usize = 65_536;

/// Network namespaces read in one look, each with a table of sockets of its own: pods have one each.
const MAX_NAMESPACES: usize = 256;

/// What `/proc/net/unix` writes for stream sockets, and for connected ones.
const STREAM: &str = "0001";
const CONNECTED: &str = "03";

/// One look at the node's unix sockets.
pub(super) struct Look<'a> {
    proc: &'a Path,
    files: usize,
    /// Numbers of the sockets that were accepted, by network namespace.
    namespaces: BTreeMap<PathBuf, BTreeSet<u64>>,
}

impl<'a> Look<'a> {
    pub(super) fn new(proc: &'a Path) -> Self {
        Self { proc, files: 0, namespaces: BTreeMap::new() }
    }

    /// How many of them the processes hold that are listed one a line, each socket once; `None` when one of them
    /// cannot be looked at.
    pub(super) fn accepted(&mut self, processes: &str) -> Option<u64> {
        let mut held = BTreeSet::new();
        for process in processes.lines() {
            let process = self.proc.join(process);
            let Ok(namespace) = fs::read_link(process.join("ns/net")) else {
                // It may have ended meanwhile; that is no reason not to know the others.
                if process.exists() {
                    return None;
                }
                continue;
            };
            self.read(&namespace, &process)?;
            for file in fs::read_dir(process.join("fd")).ok()?.flatten() {
                self.files += 1;
                if self.files > MAX_FILES {
                    return None;
                }
                let socket = fs::read_link(file.path()).ok().and_then(|link| number(link.to_str()?));
                let accepted = self.namespaces.get(&namespace);
                held.extend(socket.filter(|socket| accepted.is_some_and(|all| all.contains(socket))));
            }
        }
        Some(held.len() as u64)
    }

    /// Reads the table of a namespace, once.
    fn read(&mut self, namespace: &Path, process: &Path) -> Option<()> {
        if self.namespaces.contains_key(namespace) {
            return Some(());
        }
        if self.namespaces.len() >= MAX_NAMESPACES {
            return None;
        }
        let table = fs::read_to_string(process.join("net/unix")).ok()?;
        self.namespaces.insert(namespace.to_owned(), table.lines().filter_map(accepted).collect());
        Some(())
    }
}

/// The number in `socket:[123]`.
fn number(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// The socket of a line of the table, if it is a connected stream with a name: the one that was accepted has the
/// listener's, the one that connected has none.
fn accepted(line: &str) -> Option<u64> {
    let mut fields = line.split_ascii_whitespace().skip(4);
    let (kind, state, number, name) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let is_accepted = kind == STREAM && state == CONNECTED && !name.is_empty();
    is_accepted.then(|| number.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::io::Write as _;
    use std::os::unix::net::{UnixListener, UnixStream};

    /// The kernel's own table, and this process.
    #[test]
    fn a_connection_that_this_process_accepted_is_counted_once() {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("grpc.sock")).unwrap();
        let me = std::process::id().to_string();
        let count = || Look::new(Path::new("/proc")).accepted(&me).unwrap();
        let before = count();
        let mut connected = UnixStream::connect(folder.path().join("grpc.sock")).unwrap();
        connected.write_all(b"PRI").unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert_eq!(count(), before + 1);
        let _same = accepted.try_clone().unwrap();
        assert_eq!(count(), before + 1, "a second descriptor is no second connection");
    }

    #[test]
    fn who_cannot_be_looked_at_has_no_count() {
        let folder = tempfile::tempdir().unwrap();
        let hidden = folder.path().join("7");
        fs::create_dir(&hidden).unwrap();
        assert_eq!(Look::new(folder.path()).accepted("7\n"), None);
        assert_eq!(Look::new(folder.path()).accepted("8\n"), Some(0), "it has ended");
    }
}
