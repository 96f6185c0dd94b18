//! Which processes use OpenSSL, and where its functions are: `/proc` flows in, [`Change`]s flow out to
//! [`super::probes`], which attaches to what appears and lets go of what nobody uses any more.
//!
//! A library is known by its file, which all processes of a container image share; so one attachment serves
//! them all, those that start later too. Only where processes were selected is each attached to by itself.

mod cost;
mod library;
mod selection;

pub use cost::Cost;
pub use library::{Function, Library};
pub use selection::Selection;

use library::Mapped;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;

/// How often new processes are looked for. What one sends before it was found is joined late.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A process may load the library at any time; but the longer it has not, the less likely it will. So each is
/// looked at again after as long as it is known, at most after this.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// A library that nobody uses is kept for this long: what restarts finds it watched.
const LINGER: Duration = Duration::from_secs(60);
/// Processes that are kept apart: a node rarely runs more, and what is beyond may find its library watched
/// all the same.
const MAX_PROCESSES: usize = 8_192;
/// Whose libraries are the host's.
const HOSTS: [&str; 2] = ["1/root", "self/root"];
/// Where hosts have their libraries. They are watched from the start, so that no process is too early.
const HOST_FOLDERS: [&str; 6] = [
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "lib/x86_64-linux-gnu",
    "usr/lib64",
    "lib64",
    "usr/lib",
];

/// What is attached to: a file, by device and inode, for all processes or for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// Device and inode.
    pub file: (u64, u64),
    /// The one process.
    pub process: Option<u32>,
}

/// News for who attaches.
#[derive(Debug)]
pub enum Change {
    /// A library is used.
    Appeared(Target, Library),
    /// Nobody uses it any more.
    Vanished(Target),
}

/// Who uses a target, and since when nobody does.
#[derive(Debug, Default)]
struct Use {
    processes: BTreeSet<u32>,
    unused_since: Option<Instant>,
    /// The host's own library.
    always: bool,
}

/// A process and when it was looked at.
#[derive(Debug)]
struct Known {
    first: Instant,
    last: Instant,
}

/// Watches `/proc`.
#[derive(Debug)]
pub struct Watch {
    proc: PathBuf,
    selection: Selection,
    known: BTreeMap<u32, Known>,
    uses: BTreeMap<Target, Use>,
    /// Programs that were read and have no such functions.
    without: BTreeSet<(u64, u64)>,
    /// The host's libraries were looked for.
    hosted: bool,
}

impl Watch {
    /// Watches a `/proc` for the selected processes.
    #[must_use]
    pub fn new(proc: &Path, selection: Selection) -> Self {
        Self {
            proc: proc.to_owned(),
            selection,
            known: BTreeMap::new(),
            uses: BTreeMap::new(),
            without: BTreeSet::new(),
            hosted: false,
        }
    }

    /// Looks again and again until `stop` becomes true or nobody listens. Files are read on a thread of
    /// their own.
    pub async fn run(mut self, changes: mpsc::Sender<Change>, mut stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            let looked = spawn_blocking(move || {
                let found = self.look(Instant::now());
                (self, found)
            });
            let Ok((watch, found)) = looked.await else { return };
            self = watch;
            for change in found {
                if changes.send(change).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                changed = stop.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Looks once.
    pub fn look(&mut self, now: Instant) -> Vec<Change> {
        let mut changes = Vec::new();
        if self.selection.is_all() && !std::mem::replace(&mut self.hosted, true) {
            self.host_libraries(&mut changes);
        }
        let alive = library::processes(&self.proc);
        self.known.retain(|process, _| alive.contains(process));
        for process in alive.iter().copied() {
            if self.due(process, now) {
                self.process(process, &mut changes);
            }
        }
        for (target, used) in &mut self.uses {
            used.processes.retain(|process| alive.contains(process));
            if used.processes.is_empty() && !used.always {
                used.unused_since.get_or_insert(now);
            } else {
                used.unused_since = None;
            }
            let linger = if target.process.is_some() { Duration::ZERO } else { LINGER };
            if used.unused_since.is_some_and(|since| now - since >= linger) {
                changes.push(Change::Vanished(*target));
            }
        }
        for change in &changes {
            if let Change::Vanished(target) = change {
                self.uses.remove(target);
            }
        }
        changes
    }

    /// Whether a process should be looked at now.
    fn due(&mut self, process: u32, now: Instant) -> bool {
        if let Some(known) = self.known.get_mut(&process) {
            let due = now - known.last >= (known.last - known.first).clamp(LOOK_EVERY, LOOK_AGAIN);
            if due {
                known.last = now;
            }
            return due;
        }
        let room = self.known.len() < MAX_PROCESSES;
        if room {
            self.known.insert(process, Known { first: now, last: now });
        }
        room
    }

    fn process(&mut self, process: u32, changes: &mut Vec<Change>) {
        if !self.selection.admits(&self.proc, process) {
            return;
        }
        for mapped in library::mapped(&self.proc, process) {
            let of = if self.selection.is_all() { None } else { Some(process) };
            let target = Target { file: mapped.file, process: of };
            if let Some(used) = self.uses.get_mut(&target) {
                used.processes.insert(process);
            } else if !self.without.contains(&mapped.file) {
                self.appeared(target, &mapped, Some(process), changes);
            }
        }
    }

    fn appeared(&mut self, target: Target, mapped: &Mapped, process: Option<u32>, changes: &mut Vec<Change>) {
        match Library::read(&mapped.path) {
            Some(library) => {
                let used = self.uses.entry(target).or_default();
                used.processes.extend(process);
                used.always |= process.is_none();
                changes.push(Change::Appeared(target, library));
            }
            None if self.without.len() < MAX_PROCESSES => {
                self.without.insert(target.file);
            }
            None => {}
        }
    }

    fn host_libraries(&mut self, changes: &mut Vec<Change>) {
        // The first process is the host's even for an agent in a container; where it must not be looked into,
        // the agent's own root is what there is.
        for (root, folder) in HOSTS.iter().flat_map(|root| HOST_FOLDERS.map(|folder| (root, folder))) {
            for mapped in library::in_folder(&self.proc.join(root).join(folder)) {
                let target = Target { file: mapped.file, process: None };
                if !self.uses.contains_key(&target) {
                    self.appeared(target, &mapped, None, changes);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    /// A library of this machine; OpenSSL's own is not needed where none is installed.
    fn some_libssl() -> Option<PathBuf> {
        HOST_FOLDERS.iter().find_map(|folder| {
            let found = library::in_folder(&Path::new("/").join(folder));
            let mut paths = found.into_iter().map(|mapped| mapped.path);
            paths.find(|path| Library::read(path).is_some_and(|library| library.functions.len() >= 5))
        })
    }

    /// A `/proc` with one process that has mapped a file.
    fn with_process(proc: &Path, process: u32, file: &Path) {
        let folder = proc.join(process.to_string());
        fs::create_dir_all(&folder).unwrap();
        symlink("/", folder.join("root")).unwrap();
        fs::write(folder.join("comm"), "cart\n").unwrap();
        fs::write(folder.join("cgroup"), "0::/shop/cart\n").unwrap();
        let line = format!("7f00-7f10 r-xp 00000000 fe:00 12 {}\n", file.display());
        fs::write(folder.join("maps"), line).unwrap();
    }

    #[test]
    fn a_library_appears_once_and_vanishes_with_its_last_process() {
        let Some(libssl) = some_libssl() else { return };
        let proc = tempfile::tempdir().unwrap();
        with_process(proc.path(), 7, &libssl);
        with_process(proc.path(), 8, &libssl);
        let mut watch = Watch::new(proc.path(), Selection::default());
        let start = Instant::now();
        let changes = watch.look(start);
        assert_eq!(changes.len(), 1, "{changes:?}");
        let Change::Appeared(target, library) = &changes[0] else { panic!("{changes:?}") };
        assert_eq!(target.process, None);
        assert!(library.functions.len() >= 5, "{library:?}");
        assert!(watch.look(start + LOOK_EVERY).is_empty());
        fs::remove_dir_all(proc.path().join("7")).unwrap();
        fs::remove_dir_all(proc.path().join("8")).unwrap();
        assert!(watch.look(start + LOOK_EVERY * 2).is_empty());
        let gone = watch.look(start + LOOK_EVERY * 2 + LINGER);
        assert!(matches!(gone[..], [Change::Vanished(_)]), "{gone:?}");
    }

    #[test]
    fn selected_processes_are_watched_one_by_one() {
        let Some(libssl) = some_libssl() else { return };
        let proc = tempfile::tempdir().unwrap();
        with_process(proc.path(), 7, &libssl);
        with_process(proc.path(), 8, &libssl);
        for (pattern, expected) in [("8", 1), ("cart", 2), ("/shop/*", 2), ("/bank/*", 0), ("ca", 0)] {
            let selection = Selection::of(&[pattern.to_owned()]);
            let changes = Watch::new(proc.path(), selection).look(Instant::now());
            assert_eq!(changes.len(), expected, "{pattern}: {changes:?}");
            for change in &changes {
                assert!(matches!(change, Change::Appeared(Target { process: Some(_), .. }, _)));
            }
        }
    }
}
