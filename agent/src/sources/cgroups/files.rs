//! Reads the files of one cgroup. Paths flow in, a [`CgroupSample`] flows out. A file that is missing is a
//! number that is not measured, not an error: kernels and controllers differ.

use super::mounts::Mounts;
use faultline_core::event::CgroupSample;
use faultline_core::units::{CgroupId, Nanos, Timestamp};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// `memory.stat` is the longest of the files, at about 2 KiB.
const LONGEST: usize = 8 << 10;

/// v1 says "no limit" by a number near `i64::MAX` rounded to pages.
const NO_LIMIT: u64 = 1 << 62;

/// A file that is read again and again: kept open where the budget allows, since opening takes longer than
/// reading.
#[derive(Debug)]
struct Kept {
    path: PathBuf,
    file: Option<File>,
}

/// The files of one cgroup that are read for each sample.
#[derive(Debug)]
pub(super) struct Files {
    cpu_stat: Option<Kept>,
    cpu_pressure: Option<Kept>,
    memory: Memory,
    v1_cpuacct: Option<Kept>,
    v1_cpu_stat: Option<Kept>,
    limits: Limits,
}

#[derive(Debug)]
enum Memory {
    V2 { current: Kept, stat: Option<Kept>, events: Option<Kept> },
    V1 { usage: Kept, stat: Option<Kept>, oom: Option<Kept> },
    None,
}

/// What rarely changes, read now and then.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Limits {
    cpu: Option<f64>,
    memory: Option<u64>,
}

impl Files {
    /// Finds the files of the cgroup at `path` below the mounts; opens as many as `budget` still allows.
    pub(super) fn open(mounts: &Mounts, path: &str, budget: &mut usize) -> Self {
        let relative = path.trim_start_matches('/');
        let unified = mounts.unified.join(relative);
        let v1 = |mount: &Option<PathBuf>| mount.as_ref().map(|mount| mount.join(relative));
        let mut kept = |folder: Option<&Path>, name: &str| Kept::find(folder?.join(name), budget);
        let (cpu, cpuacct, memory) = (v1(&mounts.cpu), v1(&mounts.cpuacct), v1(&mounts.memory));
        let memory = if let Some(current) = kept(Some(&unified), "memory.current") {
            Memory::V2 {
                current,
                stat: kept(Some(&unified), "memory.stat"),
                events: kept(Some(&unified), "memory.events"),
            }
        } else if let Some(usage) = kept(memory.as_deref(), "memory.usage_in_bytes") {
            Memory::V1 {
                usage,
                stat: kept(memory.as_deref(), "memory.stat"),
                oom: kept(memory.as_deref(), "memory.oom_control"),
            }
        } else {
            Memory::None
        };
        let cpu_stat = kept(Some(&unified), "cpu.stat");
        let has_v2_usage = cpu_stat.is_some();
        let mut files = Self {
            cpu_stat,
            cpu_pressure: kept(Some(&unified), "cpu.pressure"),
            memory,
            v1_cpuacct: if has_v2_usage { None } else { kept(cpuacct.as_deref(), "cpuacct.usage") },
            v1_cpu_stat: kept(cpu.as_deref(), "cpu.stat"),
            limits: Limits::default(),
        };
        files.read_limits(mounts, path);
        files
    }

    /// How many files are kept open: what goes back to the budget when the cgroup is gone.
    pub(super) fn open_count(&self) -> usize {
        let memory: [Option<&Kept>; 3] = match &self.memory {
            Memory::V2 { current, stat, events } => [Some(current), stat.as_ref(), events.as_ref()],
            Memory::V1 { usage, stat, oom } => [Some(usage), stat.as_ref(), oom.as_ref()],
            Memory::None => [None; 3],
        };
        let rest = [&self.cpu_stat, &self.cpu_pressure, &self.v1_cpuacct, &self.v1_cpu_stat];
        memory
            .into_iter()
            .chain(rest.into_iter().map(Option::as_ref))
            .flatten()
            .filter(|kept| kept.file.is_some())
            .count()
    }

    /// Reads the limits again.
    pub(super) fn read_limits(&mut self, mounts: &Mounts, path: &str) {
        let relative = path.trim_start_matches('/');
        let text = |mount: Option<&PathBuf>, name: &str| {
            std::fs::read_to_string(mount?.join(relative).join(name)).ok()
        };
        let unified = Some(&mounts.unified);
        let cpu = text(unified, "cpu.max").map_or_else(
            || {
                let quota = text(mounts.cpu.as_ref(), "cpu.cfs_quota_us")?;
                let period = text(mounts.cpu.as_ref(), "cpu.cfs_period_us")?;
                cores(quota.trim(), period.trim())
            },
            |max| cores_of_max(&max),
        );
        let memory = text(unified, "memory.max")
            .or_else(|| text(mounts.memory.as_ref(), "memory.limit_in_bytes"))
            .and_then(|limit| limit.trim().parse().ok())
            .filter(|limit| *limit < NO_LIMIT);
        self.limits = Limits { cpu, memory };
    }

    /// Reads the cgroup's numbers; `None` when its main files are gone, and the cgroup with them.
    pub(super) fn sample(&self, at: Timestamp, cgroup: CgroupId) -> Option<CgroupSample> {
        let cpu_stat = self.cpu_stat.as_ref().map(Kept::read);
        if matches!(cpu_stat, Some(None)) {
            return None;
        }
        let cpu_stat = cpu_stat.flatten();
        let micros = |key: &str| Some(Nanos(field(cpu_stat.as_deref()?, key)?.saturating_mul(1000)));
        let read = |kept: &Option<Kept>| kept.as_ref().and_then(Kept::read);
        let v1_usage = || Some(Nanos(read(&self.v1_cpuacct)?.trim().parse().ok()?));
        let v1_throttled = || Some(Nanos(field(&read(&self.v1_cpu_stat)?, "throttled_time")?));
        let (memory, oom_kills) = self.memory.read();
        Some(CgroupSample {
            at,
            cgroup,
            cpu_usage: micros("usage_usec").or_else(v1_usage),
            cpu_throttled: micros("throttled_usec").or_else(v1_throttled),
            cpu_limit: self.limits.cpu,
            cpu_pressure: read(&self.cpu_pressure).as_deref().and_then(pressure),
            memory,
            memory_limit: self.limits.memory,
            oom_kills,
            unix_connections: None,
        })
    }

    /// Memory files were found.
    pub(super) fn has_memory(&self) -> bool {
        !matches!(self.memory, Memory::None)
    }

    /// The kernel tells how long tasks wait.
    pub(super) fn has_pressure(&self) -> bool {
        self.cpu_pressure.is_some()
    }
}

impl Memory {
    /// Memory in use without the page cache that could be dropped at once, and processes killed.
    fn read(&self) -> (Option<u64>, Option<u64>) {
        let (usage, stat, inactive, oom) = match self {
            Self::V2 { current, stat, events } => (current, stat, "inactive_file", events),
            Self::V1 { usage, stat, oom } => (usage, stat, "total_inactive_file", oom),
            Self::None => return (None, None),
        };
        let read = |kept: &Option<Kept>, key: &str| field(&kept.as_ref()?.read()?, key);
        let used = usage.read().and_then(|text| text.trim().parse::<u64>().ok());
        let used = used.map(|used| used.saturating_sub(read(stat, inactive).unwrap_or(0)));
        (used, read(oom, "oom_kill"))
    }
}

impl Kept {
    fn find(path: PathBuf, budget: &mut usize) -> Option<Self> {
        let file = File::open(&path).ok()?;
        let file = (*budget > 0).then_some(file);
        *budget = budget.saturating_sub(usize::from(file.is_some()));
        Some(Self { path, file })
    }

    fn read(&self) -> Option<String> {
        let opened;
        let file = match &self.file {
            Some(file) => file,
            None => {
                opened = File::open(&self.path).ok()?;
                &opened
            }
        };
        let mut bytes = vec![0; LONGEST];
        let length = file.read_at(&mut bytes, 0).ok()?;
        bytes.truncate(length);
        String::from_utf8(bytes).ok()
    }
}

/// The number after `key` in lines of the form `key number`.
fn field(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// The total of `some` in a PSI file.
fn pressure(text: &str) -> Option<Nanos> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let micros: u64 = some.split(' ').find_map(|part| part.strip_prefix("total="))?.parse().ok()?;
    Some(Nanos(micros.saturating_mul(1000)))
}

/// `max 100000` or `50000 100000`.
fn cores_of_max(text: &str) -> Option<f64> {
    let (quota, period) = text.trim().split_once(' ')?;
    cores(quota, period)
}

/// A quota of `max` (v2) or -1 (v1) is none.
fn cores(quota: &str, period: &str) -> Option<f64> {
    let quota: u32 = quota.parse().ok()?;
    let period: u32 = period.parse().ok().filter(|period| *period > 0)?;
    Some(f64::from(quota) / f64::from(period))
}
