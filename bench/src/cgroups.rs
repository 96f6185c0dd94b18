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
        cgroups.clear().context("an earlier run's processes could not be removed")?;
        for hierarchy in &cgroups.hierarchies {
            let folder = hierarchy.mount.join(base);
            fs::create_dir_all(&folder).with_context(|| {
                format!(
                    "{} cannot be made: the playground needs root to give services their cgroups",
                    folder.display()
                )
            })?;
            delegate(hierarchy, &hierarchy.mount);
            delegate(hierarchy, &folder);
            weigh(&folder).with_context(|| format!("{}: weight", folder.display()))?;
        }
        Ok(cgroups)
    }

    /// Makes the cgroups of `name`, such as `cartservice` or `node-0/cartservice`; a process enters them by its own
    /// pid before it becomes the service.
    pub fn place(&self, name: &str, limits: Limits) -> anyhow::Result<Vec<PathBuf>> {
        let mut folders = Vec::new();
        for hierarchy in &self.hierarchies {
            let base = hierarchy.mount.join(&self.base);
            let folder = base.join(name);
            fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
            if let Some(node) = folder.parent().filter(|parent| *parent != base) {
                delegate(hierarchy, node);
                weigh(node)?;
            }
            set_limits(hierarchy, &folder, limits)
                .with_context(|| format!("{}: limits", folder.display()))?;
            folders.push(folder);
        }
        Ok(folders)
    }

    /// Changes the limits of a cgroup; what is none is no limit.
    pub fn limit(&self, name: &str, limits: Limits) -> anyhow::Result<()> {
        for hierarchy in &self.hierarchies {
            let folder = hierarchy.mount.join(&self.base).join(name);
            lift_limits(hierarchy, &folder, limits)
                .and_then(|()| set_limits(hierarchy, &folder, limits))
                .with_context(|| format!("{}: limits", folder.display()))?;
        }
        Ok(())
    }

    /// Gives one cgroup the share of the machine that eight services have.
    pub fn favour(&self, name: &str) -> anyhow::Result<()> {
        for hierarchy in &self.hierarchies {
            let folder = hierarchy.mount.join(&self.base).join(name);
            for (file, weight) in [("cpu.shares", "8192"), ("cpu.weight", "800")] {
                if folder.join(file).exists() {
                    fs::write(folder.join(file), weight)
                        .with_context(|| format!("{}: weight", folder.display()))?;
                }
            }
        }
        Ok(())
    }

    /// The file that lists the processes in a cgroup.
    pub fn members(&self, name: &str) -> Option<PathBuf> {
        Some(self.v2_folder()?.join(name).join("cgroup.procs"))
    }

    /// How often the kernel throttled a cgroup at its CPU limit, if it counts that.
    pub fn throttled(&self, name: &str) -> Option<u64> {
        self.counter(name, "cpu.stat", "nr_throttled ")
    }

    /// How often the kernel killed a process of a cgroup for want of memory, if it counts that.
    pub fn oom_kills(&self, name: &str) -> Option<u64> {
        self.counter(name, "memory.oom_control", "oom_kill ")
            .or_else(|| self.counter(name, "memory.events", "oom_kill "))
    }

    fn counter(&self, name: &str, file: &str, prefix: &str) -> Option<u64> {
        let read = |hierarchy: &Hierarchy| {
            let text = fs::read_to_string(hierarchy.mount.join(&self.base).join(name).join(file)).ok()?;
            text.lines().find_map(|line| line.strip_prefix(prefix))?.trim().parse().ok()
        };
        self.hierarchies.iter().find_map(read)
    }

    /// This part's folder in the cgroup v2 mount, which sockets belong to.
    pub fn v2_folder(&self) -> Option<PathBuf> {
        let v2 = self.hierarchies.iter().find(|hierarchy| hierarchy.v2)?;
        Some(v2.mount.join(&self.base))
    }

    /// The path of this part below each mount.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// How deep that folder is below the mount.
    pub fn v2_depth(&self) -> usize {
        self.base.split('/').filter(|part| !part.is_empty()).count()
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
        for base in self.bases() {
            empty(&base)?;
        }
        Ok(())
    }

    /// Kills and removes what is in the base; the base stays, for an agent may watch it already.
    fn clear(&self) -> anyhow::Result<()> {
        for base in self.bases() {
            let entries =
                fs::read_dir(&base).with_context(|| format!("{} cannot be read", base.display()))?;
            for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
                empty(&entry.path())?;
            }
        }
        Ok(())
    }

    /// The base in each hierarchy that has one.
    fn bases(&self) -> impl Iterator<Item = PathBuf> {
        self.hierarchies.iter().map(|hierarchy| hierarchy.mount.join(&self.base)).filter(|base| base.is_dir())
    }
}

/// Children of a version 2 cgroup get these controllers. On a hybrid host they are in version 1, and the write is
/// refused.
fn delegate(hierarchy: &Hierarchy, folder: &Path) {
    if hierarchy.v2 {
        drop(fs::write(folder.join("cgroup.subtree_control"), "+cpu +memory"));
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

/// Takes away the limits that are not asked for.
fn lift_limits(hierarchy: &Hierarchy, folder: &Path, limits: Limits) -> io::Result<()> {
    if limits.cpu_cores.is_none() {
        if hierarchy.cpu {
            fs::write(folder.join("cpu.cfs_quota_us"), "-1")?;
        } else if hierarchy.v2 && folder.join("cpu.max").exists() {
            fs::write(folder.join("cpu.max"), "max")?;
        }
    }
    if limits.memory_mib.is_none() {
        if hierarchy.memory {
            fs::write(folder.join("memory.limit_in_bytes"), "-1")?;
        } else if hierarchy.v2 && folder.join("memory.max").exists() {
            fs::write(folder.join("memory.max"), "max")?;
        }
    }
    Ok(())
}

/// Kills what runs in a cgroup and below it (a stopped process too) and removes it.
fn empty(folder: &Path) -> anyhow::Result<()> {
    use rustix::process::{Pid, Signal, kill_process};
    for below in fs::read_dir(folder).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
        empty(&below.path())?;
    }
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
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Who enters what before it becomes a service.
#[derive(clap::Args)]
pub struct Enter {
    /// The cgroups' folders
    #[arg(long)]
    into: Vec<PathBuf>,
    /// The file of a network namespace
    #[arg(long)]
    network: Option<PathBuf>,
    /// User and group number to become
    #[arg(long, value_parser = user_and_group)]
    user: Option<(u32, u32)>,
    /// What to become
    #[arg(last = true)]
    command: Vec<String>,
}

fn user_and_group(text: &str) -> Result<(u32, u32), String> {
    let numbers =
        text.split_once(':').and_then(|(user, group)| Some((user.parse().ok()?, group.parse().ok()?)));
    numbers.ok_or_else(|| format!("`{text}` is not of the form 100:100"))
}

/// Enters the cgroups and the network namespace and becomes the command: the pid stays, and no instruction of the
/// service runs outside.
pub fn enter(wanted: &Enter) -> anyhow::Result<()> {
    use std::os::unix::process::CommandExt;
    let pid = std::process::id().to_string();
    for folder in &wanted.into {
        let file = folder.join("cgroup.procs");
        fs::write(&file, &pid).with_context(|| format!("{} refused a process", file.display()))?;
    }
    if let Some(path) = &wanted.network {
        use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
        let file = fs::File::open(path).with_context(|| format!("{} cannot be opened", path.display()))?;
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("{} cannot be entered", path.display()))?;
    }
    let (program, arguments) = wanted.command.split_first().context("no command to run")?;
    let mut becoming = std::process::Command::new(program);
    becoming.args(arguments);
    if let Some((user, group)) = wanted.user {
        becoming.uid(user).gid(group);
    }
    Err(becoming.exec()).with_context(|| format!("{program} cannot be run"))
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
