//! What cgroups use and who lives in them. Files of the cgroup hierarchies flow in once a second,
//! [`Event::Cgroup`] and [`Event::Identity`] flow out to the core, which knows whose sockets a cgroup owns.
//!
//! Ids are inode numbers of the v2 hierarchy, as the kernel programs see them. CPU and memory are read there
//! where its controllers are on, else below the same path of the v1 hierarchies. Only cgroups that hold
//! processes are read: the others' numbers are sums of these.

mod files;
mod mounts;
mod unix;

use super::identity;
use super::probes::clock;
use faultline_core::event::{CgroupIdentity, CgroupSample, Event, Loss, LossReason, Missing};
use faultline_core::units::{CgroupId, Timestamp};
use files::Files;
use mounts::Mounts;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Cgroups read at once. A node runs at most a few hundred containers and units.
const MAX_CGROUPS: usize = 1024;

/// Folders looked at in one walk: a hierarchy that leaks cgroups must not take the CPU.
const MAX_FOLDERS: usize = 8192;

/// Files kept open, half of the usual limit of 1,024; those beyond are opened for each reading.
const MAX_OPEN_FILES: usize = 512;

/// A hierarchy of so many folders is walked each time, a larger one every [`SLOW`] times.
const SMALL: usize = 512;

/// How many samples lie between two looks at what changes rarely: limits and process names.
const SLOW: u64 = 5;

/// How many samples lie between two looks at unix sockets, which cost a link to read for each open file.
const SOCKETS_EVERY: u64 = 30;

/// There is nothing to read.
#[derive(Debug, thiserror::Error)]
pub enum DiscoverError {
    /// No mount was found.
    #[error(
        "/proc/self/mountinfo names no cgroup v2 mount: mount one (mount -t cgroup2 none /sys/fs/cgroup) \
         or name it with --cgroup-root"
    )]
    NoMount,
    /// The mount cannot be read.
    #[error(
        "cannot read the cgroup {}: {source}: check --cgroup-root, and that the path is mounted into this \
         container",
        path.display()
    )]
    Unreadable {
        /// Where it should be.
        path: PathBuf,
        /// What the kernel says.
        source: std::io::Error,
    },
}

/// Gives a cgroup's path its configured name.
type Names = Box<dyn Fn(&str) -> Option<Arc<str>> + Send>;

/// The cgroups of this node.
pub struct Cgroups {
    mounts: Mounts,
    proc: PathBuf,
    names: Names,
    known: BTreeMap<String, Known>,
    folders: usize,
    samples: u64,
    budget: usize,
    overflowed: bool,
}

/// A cgroup that holds processes.
struct Known {
    id: CgroupId,
    files: Files,
    identity: CgroupIdentity,
    /// Connections over unix sockets that its processes accepted, as of the last look.
    unix_connections: Option<u64>,
}

impl Cgroups {
    /// Finds the hierarchies; `root` is the v2 mount or a cgroup below it where it is not the usual one.
    ///
    /// # Errors
    /// When there is no v2 hierarchy or it cannot be read.
    pub fn discover(root: Option<&Path>) -> Result<Self, DiscoverError> {
        let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mounts = Mounts::find(&mountinfo, root).ok_or(DiscoverError::NoMount)?;
        std::fs::read_dir(&mounts.unified)
            .map_err(|source| DiscoverError::Unreadable { path: mounts.unified.clone(), source })?;
        Ok(Self::below(mounts, PathBuf::from("/proc")))
    }

    /// Uses configured names: a function from a cgroup's path below the root to a service's name.
    #[must_use]
    pub fn with_names(mut self, names: impl Fn(&str) -> Option<Arc<str>> + Send + 'static) -> Self {
        self.names = Box::new(names);
        self
    }

    /// Reads every cgroup once: identities that are new or changed, then what was used.
    pub fn sample(&mut self, at: Timestamp) -> Vec<Event> {
        let mut events = Vec::new();
        let slow = self.samples.is_multiple_of(SLOW);
        if slow || self.folders <= SMALL {
            self.walk(at, slow, &mut events);
        }
        if self.samples == 0 {
            self.tell_missing(at, &mut events);
        }
        if self.samples % SOCKETS_EVERY == 1 {
            self.count_unix();
        }
        self.samples += 1;
        let mut gone = Vec::new();
        for (path, known) in &self.known {
            match known.files.sample(at, known.id) {
                // The root's numbers are the whole machine's, and nobody's.
                Some(_) if path == "/" => {}
                Some(sample) => {
                    let unix_connections = known.unix_connections;
                    events.push(Event::Cgroup(CgroupSample { unix_connections, ..sample }));
                }
                None => gone.push(path.clone()),
            }
        }
        for path in gone {
            self.forget(&path, at, &mut events);
        }
        events
    }

    /// Sends samples every `interval` until `stop` becomes true, its sender is gone or nobody receives.
    pub async fn run(
        mut self,
        events: mpsc::Sender<Event>,
        interval: Duration,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut beat = tokio::time::interval(interval);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !*stop.borrow() {
            tokio::select! {
                changed = stop.changed() => if changed.is_err() { return },
                _ = beat.tick() => {
                    // Reading a few hundred files of the kernel's memory takes milliseconds, but no other
                    // task should wait for them.
                    let sampled = tokio::task::spawn_blocking(move || {
                        let events = self.sample(clock::now());
                        (self, events)
                    });
                    let Ok((cgroups, sampled)) = sampled.await else { return };
                    self = cgroups;
                    for event in sampled {
                        if events.send(event).await.is_err() {
                            return;
                        }
                    }
                }
            }
        }
    }

    fn below(mounts: Mounts, proc: PathBuf) -> Self {
        Self {
            mounts,
            proc,
            names: Box::new(|_| None),
            known: BTreeMap::new(),
            folders: 0,
            samples: 0,
            budget: MAX_OPEN_FILES,
            overflowed: false,
        }
    }

    /// Looks for cgroups that came, changed or went.
    fn walk(&mut self, at: Timestamp, slow: bool, events: &mut Vec<Event>) {
        let mut stack = vec!["/".to_owned()];
        let mut seen = BTreeSet::new();
        let mut left_out = 0;
        self.folders = 0;
        while let Some(path) = stack.pop() {
            let folder = self.mounts.unified.join(path.trim_start_matches('/'));
            let Ok(entries) = std::fs::read_dir(&folder) else { continue };
            self.folders += 1;
            let mut children: Vec<String> = entries
                .flatten()
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .filter_map(|entry| entry.file_name().into_string().ok())
                .take(MAX_FOLDERS.saturating_sub(stack.len() + self.folders))
                .collect();
            // Last in, first out, and folders list their children in no order.
            children.sort_unstable_by(|a, b| b.cmp(a));
            stack.extend(children.iter().map(|name| format!("{}/{name}", path.trim_end_matches('/'))));
            if !self.visit(&path, &folder, at, slow, events) {
                left_out += 1;
            }
            seen.insert(path);
        }
        if left_out > 0 && !self.overflowed {
            self.overflowed = true;
            events.push(Event::Lost(Loss {
                at,
                reason: LossReason::ServiceOverflow,
                count: left_out,
                connection: None,
            }));
        }
        let gone: Vec<String> = self.known.keys().filter(|path| !seen.contains(*path)).cloned().collect();
        for path in gone {
            self.forget(&path, at, events);
        }
    }

    /// Looks at one cgroup; `false` when there is no room for it.
    fn visit(
        &mut self,
        path: &str,
        folder: &Path,
        at: Timestamp,
        slow: bool,
        events: &mut Vec<Event>,
    ) -> bool {
        let Some(id) = std::fs::metadata(folder).ok().map(|folder| CgroupId(folder.ino())) else {
            return true;
        };
        if self.known.get(path).is_some_and(|known| known.id != id) {
            self.forget(path, at, events); // Removed and made again between two walks.
        }
        let full = self.known.len() >= MAX_CGROUPS;
        match self.known.get_mut(path) {
            Some(_) if !slow => return true,
            Some(known) => known.files.read_limits(&self.mounts, path),
            // The root is always known: the core must know its id.
            None if path != "/" && first_process(folder).is_none() => return true,
            None if full => return false,
            None => {}
        }
        let process = first_process(folder).and_then(|pid| command(&self.proc, pid));
        let identity = CgroupIdentity {
            at,
            cgroup: id,
            path: path.into(),
            configured: (self.names)(path),
            workload: None,
            container: identity::container(path),
            process: process.or_else(|| self.known.get(path)?.identity.process.clone()),
            gone: false,
        };
        let told = self.known.get(path).map(|known| CgroupIdentity { at, ..known.identity.clone() });
        if told.as_ref() != Some(&identity) {
            events.push(Event::Identity(Box::new(identity.clone())));
        }
        match self.known.get_mut(path) {
            Some(known) => known.identity = identity,
            None => {
                let files = Files::open(&self.mounts, path, &mut self.budget);
                let known = Known { id, files, identity, unix_connections: None };
                self.known.insert(path.to_owned(), known);
            }
        }
        true
    }

    fn count_unix(&mut self) {
        let mut look = unix::Look::new(&self.proc);
        for (path, known) in self.known.iter_mut().filter(|(path, _)| *path != "/") {
            let processes = self.mounts.unified.join(path.trim_start_matches('/')).join("cgroup.procs");
            known.unix_connections = look.accepted(&std::fs::read_to_string(processes).unwrap_or_default());
        }
    }

    fn forget(&mut self, path: &str, at: Timestamp, events: &mut Vec<Event>) {
        if let Some(known) = self.known.remove(path) {
            self.budget += known.files.open_count();
            let identity = CgroupIdentity { at, gone: true, ..known.identity };
            events.push(Event::Identity(Box::new(identity)));
        }
    }

    /// Says once what this kernel does not offer. The root has no memory files of its own on v2.
    fn tell_missing(&self, at: Timestamp, events: &mut Vec<Event>) {
        let mut below = self.known.iter().filter(|(path, _)| *path != "/").map(|(_, known)| &known.files);
        let has_any = below.clone().next().is_some();
        let mut missing = |part: &str, reason: &str, fix: &str| {
            let (part, reason, fix) = (part.into(), reason.into(), fix.into());
            events.push(Event::Missing(Missing { at, part, reason, fix }));
        };
        if has_any && !below.clone().any(Files::has_memory) {
            missing(
                "cgroup files",
                "no cgroup has memory files",
                "turn the memory controller on: echo +memory > cgroup.subtree_control in the cgroup root",
            );
        }
        if has_any && !below.any(Files::has_pressure) {
            missing(
                "pressure",
                "the kernel has no pressure stall information",
                "boot with psi=1 on a kernel with CONFIG_PSI",
            );
        }
    }
}

/// The first process of a cgroup that this process namespace can name.
fn first_process(folder: &Path) -> Option<u32> {
    let processes = std::fs::read_to_string(folder.join("cgroup.procs")).ok()?;
    processes.lines().next()?.parse().ok()
}

/// The name of a process; `None` for one of another process namespace, which has the number 0.
fn command(proc: &Path, pid: u32) -> Option<Arc<str>> {
    let comm = std::fs::read_to_string(proc.join(pid.to_string()).join("comm")).ok()?;
    let comm = comm.trim();
    (!comm.is_empty()).then(|| comm.into())
}

#[cfg(test)]
mod tests;
