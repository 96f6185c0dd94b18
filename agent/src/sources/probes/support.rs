//! What this machine and these privileges allow, for `faultline check` and for error messages.

use super::attach::{Options, Probes};
use std::fs;
use std::path::{Path, PathBuf};

/// `bpf_loop` came with it; everything else the programs use is older.
const OLDEST_KERNEL: (u32, u32) = (5, 17);
/// Capabilities by their bit in `/proc/self/status`; CAP_SYS_ADMIN stands for all of them.
const CAPABILITIES: [(&str, u32); 3] = [("CAP_BPF", 39), ("CAP_NET_ADMIN", 12), ("CAP_PERFMON", 38)];
const CAP_SYS_ADMIN: u32 = 21;
/// To look into the files and the memory map of another user's process.
const SYS_PTRACE: u32 = 19;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What: `kernel`, `capabilities`, ...
    pub part: &'static str,
    /// Whether it is as it should be.
    pub ok: bool,
    /// Whether the agent cannot run without it.
    pub required: bool,
    /// What was found.
    pub detail: String,
    /// What to do when it is not ok; else empty.
    pub fix: String,
}

/// Looks at the kernel, the privileges and the cgroup root, and attaches the programs for a moment; those
/// that watch TLS are `required` if they were asked for.
#[must_use]
pub fn probe_support(root: Option<&Path>, tls: bool) -> Vec<Finding> {
    vec![kernel(), capabilities(), cgroup_mount(root), trial(root), watching_tls(root, tls)]
}

/// Where cgroup v2 is mounted: on hybrid hosts beside the v1 hierarchies.
pub(super) fn cgroup_root() -> Option<PathBuf> {
    mounted_cgroup2(&fs::read_to_string("/proc/self/mountinfo").ok()?)
}

/// The mount point of the first cgroup2 line of a mountinfo file, the one of the whole hierarchy preferred.
fn mounted_cgroup2(mountinfo: &str) -> Option<PathBuf> {
    let mut found = None;
    for line in mountinfo.lines() {
        let Some((mount, filesystem)) = line.split_once(" - ") else { continue };
        if filesystem.split(' ').next() != Some("cgroup2") {
            continue;
        }
        let mut fields = mount.split(' ').skip(3);
        let (Some(root), Some(point)) = (fields.next(), fields.next()) else { continue };
        // Spaces in paths are written as \040.
        let point = PathBuf::from(point.replace("\\040", " "));
        if root == "/" {
            return Some(point);
        }
        found = found.or(Some(point));
    }
    found
}

/// What to do when the kernel refuses the programs, from what is known of it.
pub(super) fn load_fix() -> String {
    let findings = [kernel(), capabilities()];
    findings.into_iter().find(|finding| !finding.ok).map_or_else(
        || "run as root or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON; faultline check says more".to_owned(),
        |finding| format!("{}; {}", finding.detail, finding.fix),
    )
}

fn kernel() -> Finding {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let (major, minor) = OLDEST_KERNEL;
    let ok = version(release).is_some_and(|found| found >= OLDEST_KERNEL);
    Finding {
        part: "kernel",
        ok,
        required: true,
        detail: if ok {
            format!("{release} has all that the programs use")
        } else {
            format!("kernel {release} has no bpf_loop (needs {major}.{minor})")
        },
        fix: if ok {
            String::new()
        } else {
            "upgrade this node or exclude it with the chart's nodeSelector".to_owned()
        },
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn capabilities() -> Finding {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let missing = missing_capabilities(&status);
    let ok = missing.is_empty();
    Finding {
        part: "capabilities",
        ok,
        required: true,
        detail: if ok {
            "CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON are there".to_owned()
        } else {
            format!("missing {}", missing.join(", "))
        },
        fix: if ok {
            String::new()
        } else {
            "run as root, or add them to the container's securityContext.capabilities".to_owned()
        },
    }
}

/// The effective capabilities in a status file, one a bit.
fn effective(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}

fn missing_capabilities(status: &str) -> Vec<&'static str> {
    let effective = effective(status);
    let has = |bit: u32| effective >> bit & 1 == 1;
    CAPABILITIES
        .iter()
        .filter(|(_, bit)| !has(*bit) && !has(CAP_SYS_ADMIN) || *bit == 12 && !has(12))
        .map(|(name, _)| *name)
        .collect()
}

fn cgroup_mount(root: Option<&Path>) -> Finding {
    let path = root.map(Path::to_owned).or_else(cgroup_root);
    // Every cgroup v2 directory has this file.
    let ok = path.as_ref().is_some_and(|path| path.join("cgroup.procs").exists());
    let shown = path.map_or_else(|| "no cgroup v2 mount".to_owned(), |path| path.display().to_string());
    Finding {
        part: "cgroup root",
        ok,
        required: true,
        detail: if ok { shown } else { format!("{shown} is not a cgroup v2 directory") },
        fix: if ok {
            String::new()
        } else {
            "mount cgroup2 (into this container too), or name it with --cgroup-root".to_owned()
        },
    }
}

/// Loads, attaches and detaches the programs: the only proof that all of it works.
fn trial(root: Option<&Path>) -> Finding {
    let options = Options { cgroup_root: root.map(Path::to_owned), ..Options::default() };
    match Probes::attach(&options) {
        Ok(probes) => {
            drop(probes);
            let detail = "the kernel took the programs and attached them; they are detached again".to_owned();
            Finding { part: "kernel programs", ok: true, required: true, detail, fix: String::new() }
        }
        Err(error) => {
            let (detail, fix) = (error.to_string(), "follow the message on the left".to_owned());
            Finding { part: "kernel programs", ok: false, required: true, detail, fix }
        }
    }
}

/// Loads and measures what watches TLS, and asks whether other processes' libraries can be found.
fn watching_tls(root: Option<&Path>, required: bool) -> Finding {
    let options = Options { cgroup_root: root.map(Path::to_owned), tls: true, ..Options::default() };
    let found = |ok, detail, fix: &str| Finding { part: "tls", ok, required, detail, fix: fix.to_owned() };
    let nanos = match Probes::attach(&options) {
        Ok(probes) => probes.tls_cost().map_or(0, |cost| cost.nanos()),
        Err(error) => return found(false, error.to_string(), "run without --tls: TLS stays encrypted"),
    };
    let cost = format!(
        "--tls would work: a probe costs {nanos} ns here; a read or write of libssl runs into two, a record into one"
    );
    if has_capability(SYS_PTRACE) {
        found(true, cost, "")
    } else {
        let detail = format!("{cost}; without CAP_SYS_PTRACE other users' processes are not found");
        found(
            false,
            detail,
            "add SYS_PTRACE, and in Kubernetes hostPID: true, or name processes of this user",
        )
    }
}

fn has_capability(bit: u32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    effective(&status) >> bit & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_hierarchy_is_preferred() {
        let mounts = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      40 31 0:37 /pod /part rw - cgroup2 cgroup2 rw\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        assert_eq!(mounted_cgroup2(mounts), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(mounted_cgroup2("31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"), None);
    }

    #[test]
    fn versions_and_capabilities() {
        assert_eq!(version("6.1.0-42-cloud-amd64"), Some((6, 1)));
        assert_eq!(version("unknown"), None);
        assert_eq!(missing_capabilities("CapEff:\t000001ffffffffff\n"), Vec::<&str>::new());
        assert_eq!(missing_capabilities("CapEff:\t0000000000001000\n"), vec!["CAP_BPF", "CAP_PERFMON"]);
        assert_eq!(missing_capabilities("").len(), 3);
    }
}
