//! On what was measured, and how busy it was.

use std::fs;

use serde::Serialize;

/// A machine's description.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Machine {
    /// The kernel's release.
    pub kernel: String,
    /// The processor's name.
    pub processor: String,
    /// Processors.
    pub processors: usize,
    /// Memory, GiB.
    pub memory_gib: u64,
    /// What the kernel reads time from.
    pub clock_source: String,
    /// Whether a hypervisor is below.
    pub virtual_machine: bool,
    /// Runnable tasks over the last minute when the measurement began; 0 is quiet.
    pub load_at_start: String,
}

impl Machine {
    /// This one.
    pub(super) fn here() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let processors = text("/proc/cpuinfo");
        let field = |name: &str| {
            let line = processors.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory = text("/proc/meminfo");
        let kib = memory.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let kib: u64 = kib.and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse().ok()).unwrap_or(0);
        Self {
            kernel: text("/proc/sys/kernel/osrelease"),
            processor: field("model name").unwrap_or_default(),
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            memory_gib: (kib + (1 << 19)) >> 20,
            clock_source: text("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
            virtual_machine: field("flags").is_some_and(|flags| flags.split(' ').any(|f| f == "hypervisor")),
            load_at_start: text("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
        }
    }
}

/// Time that all processors were busy since boot, in ticks of 10 ms: the check on the sums of processes, to
/// which the kernel's own threads are added.
pub(super) fn busy_ticks() -> u64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let fields: Vec<u64> =
        line.split_ascii_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    // user nice system idle iowait irq softirq
    [0, 1, 2, 5, 6].iter().filter_map(|place| fields.get(*place)).sum()
}
