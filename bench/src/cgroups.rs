//! A cgroup of its own for every process of the playground, in every hierarchy that the machine has:
//! the version 2 mount (which sockets belong to) and, on hybrid hosts, the version 1 controllers (which
//! count CPU and memory). Limits are set here, usage is read here.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// The period of CPU limits, microseconds; Kubernetes uses the same.
const CPU_PERIOD_US: f64 = 100_000.0;
/// Killed processes leave their cgroup within this time, or something is wrong.
const EMPTY_WITHIN: Duration = Duration::from_secs(5);

/// What one mounted hierarchy controls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    mount: PathBuf,
    v2: bool,
    cpu: bool,
    cpuacct: bool,
    memory: bool,
}

/// Hierarchies that matter here, from the text of /proc/self/mounts.
pub fn hierarchies(mounts: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mounts.lines() {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (Some(mount), Some(kind), Some(options)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let has = |option: &str| options.split(',').any(|one| one == option);
        let v2 = kind == "cgroup2";
        let v1 = kind == "cgroup" && (has("cpu") || has("cpuacct") || has("memory"));
        if v2 || v1 {
            let mount = PathBuf::from(mount);
            let one = |option| !v2 && has(option);
            let next =
                Hierarchy { mount, v2, cpu: one("cpu"), cpuacct: one("cpuacct"), memory: one("memory") };
            let same = |known: &Hierarchy| Hierarchy { mount: next.mount.clone(), ..known.clone() } == next;
            if !found.iter().any(same) {
                found.push(next);
            }
        }
    }
    found
}

/// The playground's part of all hierarchies; gone when `remove` is called.
pub struct Cgroups {
    base: String,
    hierarchies: Vec<Hierarchy>,
}

/// Limits of one service.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// Cores.
    pub cpu_cores: Option<f64>,
    /// MiB.
    pub memory_mib: Option<u64>,
}

impl Cgroups {
    /// Finds the hierarchies and ends what an earlier, killed run left in `base`.
    pub fn claim(base: &str) -> anyhow::Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").context("/proc/self/mounts cannot be read")?;
        let hierarchies = hierarchies(&mounts);
        if !hierarchies.iter().any(|hierarchy| hierarchy.v2) {
            bail!("no cgroup v2 is mounted: mount it with `mount -t cgroup2 none /sys/fs/cgroup/unified`");
        }
        let cgroups = Self { base: base.into(), hierarchies };
        cgroups.remove().context("an earlier run's processes could not be removed")?;
        for hierarchy in &cgroups.hierarchies {
            let folder = hierarchy.mount.join(base);
            fs::create_dir_all(&folder).with_context(|| {
                format!(
                    "{} cannot be made: the playground needs root to give services their cgroups",
                    folder.display()
                )
            })?;
            if hierarchy.v2 {
                // On a hybrid host these controllers are in version 1, and the write is refused.
                for parent in [&hierarchy.mount, &folder] {
                    drop(fs::write(parent.join("cgroup.subtree_control"), "+cpu +memory"));
                }
            }
            weigh(&folder).with_context(|| format!("{}: weight", folder.display()))?;
        }
        Ok(cgroups)
    }

    /// Makes a service's cgroups; a process enters them by its own pid before it becomes the service.
    pub fn place(&self, name: &str, limits: Limits) -> anyhow::Result<Vec<PathBuf>> {
        let mut folders = Vec::new();
        for hierarchy in &self.hierarchies {
            let folder = hierarchy.mount.join(&self.base).join(name);
            fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
            set_limits(hierarchy, &folder, limits)
                .with_context(|| format!("{}: limits", folder.display()))?;
            folders.push(folder);
        }
        Ok(folders)
    }

    /// This part's folder in the cgroup v2 mount, which sockets belong to.
    pub fn v2_folder(&self) -> Option<PathBuf> {
        let v2 = self.hierarchies.iter().find(|hierarchy| hierarchy.v2)?;
        Some(v2.mount.join(&self.base))
    }

    /// Processor time used so far, seconds.
    pub fn cpu_seconds(&self, name: &str) -> Option<f64> {
        let read = |hierarchy: &Hierarchy| {
            let folder = hierarchy.mount.join(&self.base).join(name);
            if hierarchy.cpuacct {
                let nanos: f64 =
                    fs::read_to_string(folder.join("cpuacct.usage")).ok()?.trim().parse().ok()?;
                return Some(nanos / 1e9);
            }
            let text = fs::read_to_string(folder.join("cpu.stat")).ok().filter(|_| hierarchy.v2)?;
            let micros = text.lines().find_map(|line| line.strip_prefix("usage_usec "))?;
            Some(micros.trim().parse::<f64>().ok()? / 1e6)
        };
        let v1_first = self.hierarchies.iter().filter(|one| one.cpuacct);
        v1_first.chain(&self.hierarchies).find_map(read)
    }

    /// Memory held now, bytes.
    pub fn memory_bytes(&self, name: &str) -> Option<u64> {
        let read = |hierarchy: &Hierarchy| {
            let folder = hierarchy.mount.join(&self.base).join(name);
            let file = if hierarchy.memory { "memory.usage_in_bytes" } else { "memory.current" };
            fs::read_to_string(folder.join(file)).ok()?.trim().parse().ok()
        };
        self.hierarchies.iter().find_map(read)
    }

    /// Kills every process in these cgroups, one by one, and removes them.
    pub fn remove(&self) -> anyhow::Result<()> {
        for hierarchy in &self.hierarchies {
            let base = hierarchy.mount.join(&self.base);
            let Ok(entries) = fs::read_dir(&base) else { continue };
            for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
                empty(&entry.path())?;
            }
            fs::remove_dir(&base).with_context(|| format!("{} cannot be removed", base.display()))?;
        }
        Ok(())
    }
}

/// The kernel shares processor time among cgroups, not processes: without this, all services together
/// would get no more than one busy process outside.
fn weigh(folder: &Path) -> io::Result<()> {
    for (file, weight) in [("cpu.shares", "16384"), ("cpu.weight", "1600")] {
        let file = folder.join(file);
        if file.exists() {
            fs::write(file, weight)?;
        }
    }
    Ok(())
}

fn set_limits(hierarchy: &Hierarchy, folder: &Path, limits: Limits) -> io::Result<()> {
    if let Some(cores) = limits.cpu_cores {
        let quota = (cores * CPU_PERIOD_US).round();
        if hierarchy.cpu {
            fs::write(folder.join("cpu.cfs_period_us"), format!("{CPU_PERIOD_US}"))?;
            fs::write(folder.join("cpu.cfs_quota_us"), format!("{quota}"))?;
        } else if hierarchy.v2 && folder.join("cpu.max").exists() {
            fs::write(folder.join("cpu.max"), format!("{quota} {CPU_PERIOD_US}"))?;
        }
    }
    if let Some(mib) = limits.memory_mib {
        let file = if hierarchy.memory { "memory.limit_in_bytes" } else { "memory.max" };
        if folder.join(file).exists() {
            fs::write(folder.join(file), (mib << 20).to_string())?;
        }
    }
    Ok(())
}

/// Kills what runs in a cgroup (a stopped process too) and removes it.
fn empty(folder: &Path) -> anyhow::Result<()> {
    use rustix::process::{Pid, Signal, kill_process};
    let started = Instant::now();
    loop {
        let procs = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        for pid in procs.lines().filter_map(|line| Pid::from_raw(line.trim().parse().ok()?)) {
            // A process that is gone already is what this wants.
            let _gone = kill_process(pid, Signal::KILL);
        }
        match fs::remove_dir(folder) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if started.elapsed() > EMPTY_WITHIN => {
                bail!("{} cannot be removed: {error}", folder.display())
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Enters the cgroups and becomes the command: the pid stays, and no instruction of the service runs
/// outside its cgroup.
pub fn enter(folders: &[PathBuf], command: &[String]) -> anyhow::Result<()> {
    use std::os::unix::process::CommandExt;
    let pid = std::process::id().to_string();
    for folder in folders {
        let file = folder.join("cgroup.procs");
        fs::write(&file, &pid).with_context(|| format!("{} refused a process", file.display()))?;
    }
    let (program, arguments) = command.split_first().context("no command to run")?;
    Err(std::process::Command::new(program).args(arguments).exec())
        .with_context(|| format!("{program} cannot be run"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_and_pure_hosts() {
        let hybrid = "cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n\
                      cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0\n\
                      cgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n";
        let found = hierarchies(hybrid);
        let shown: Vec<_> = found.iter().map(|one| (one.v2, one.cpu, one.cpuacct, one.memory)).collect();
        assert_eq!(
            shown,
            [(false, true, true, false), (false, false, false, true), (true, false, false, false)]
        );
        let pure = hierarchies("cgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate 0 0\nproc /proc proc rw 0 0\n");
        assert_eq!(pure.len(), 1);
        assert!(hierarchies("").is_empty());
    }

    #[test]
    fn a_hierarchy_mounted_twice_counts_once() {
        let twice = "a /x cgroup2 rw 0 0\nb /y cgroup2 rw 0 0\n";
        assert_eq!(hierarchies(twice).len(), 1);
    }
}
