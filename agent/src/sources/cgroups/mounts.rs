//! Where the cgroup hierarchies are. A mountinfo file flows in, the paths of the files to read flow out.

use std::path::{Path, PathBuf};

/// Where the hierarchies are mounted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Mounts {
    /// The v2 hierarchy, or the part of it that is watched.
    pub(super) unified: PathBuf,
    /// The v1 hierarchy of each controller, on hybrid hosts.
    pub(super) cpu: Option<PathBuf>,
    /// CPU accounting, v1.
    pub(super) cpuacct: Option<PathBuf>,
    /// Memory, v1.
    pub(super) memory: Option<PathBuf>,
}

/// One line of mountinfo, as far as it matters.
struct Mount<'a> {
    /// Which folder of the file system is mounted.
    root: &'a str,
    point: PathBuf,
    kind: &'a str,
    options: &'a str,
}

impl Mounts {
    /// Finds the hierarchies in the text of `/proc/self/mountinfo`; `root` names the v2 one, or a cgroup below
    /// it, where it is not the first that is mounted whole.
    pub(super) fn find(mountinfo: &str, root: Option<&Path>) -> Option<Self> {
        let mounts: Vec<Mount<'_>> = mountinfo.lines().filter_map(parse).collect();
        let unified = || mounts.iter().filter(|mount| mount.kind == "cgroup2");
        let whole = |mount: &&Mount<'_>| mount.root == "/";
        let mounted = match root {
            Some(root) => unified().rfind(|mount| root.starts_with(&mount.point)),
            None => unified().find(whole).or_else(|| unified().next()),
        };
        let unified = root.map(Path::to_owned).or_else(|| Some(mounted?.point.clone()))?;
        // A cgroup below the mount has its v1 files below the same path.
        let below =
            mounted.and_then(|mount| unified.strip_prefix(&mount.point).ok()).unwrap_or(Path::new(""));
        let beside = mounted.and_then(|mount| mount.point.parent());
        let controller = |name: &str| {
            let named = || {
                mounts.iter().filter(|mount| {
                    mount.kind == "cgroup" && mount.options.split(',').any(|option| option == name)
                })
            };
            // Of several mounts of one controller the one that belongs to this v2 mount lies beside it.
            let mount =
                named().find(|mount| mount.point.parent() == beside).or_else(|| named().find(whole))?;
            Some(if below.as_os_str().is_empty() { mount.point.clone() } else { mount.point.join(below) })
        };
        Some(Self {
            cpu: controller("cpu"),
            cpuacct: controller("cpuacct"),
            memory: controller("memory"),
            unified,
        })
    }
}

fn parse(line: &str) -> Option<Mount<'_>> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let mut fields = mount.split(' ').skip(3);
    let (root, point) = (fields.next()?, fields.next()?);
    let mut filesystem = filesystem.split(' ');
    let (kind, options) = (filesystem.next()?, filesystem.nth(1)?);
    // Spaces in paths are written as \040.
    Some(Mount { root, point: PathBuf::from(point.replace("\\040", " ")), kind, options })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn hybrid_hosts() {
        let mounts = Mounts::find(HYBRID, None).unwrap();
        assert_eq!(mounts.unified, Path::new("/sys/fs/cgroup/unified"));
        assert_eq!(mounts.cpu.as_deref(), Some(Path::new("/sys/fs/cgroup/cpu,cpuacct")));
        assert_eq!(mounts.cpuacct, mounts.cpu);
        assert_eq!(mounts.memory.as_deref(), Some(Path::new("/sys/fs/cgroup/memory")));
        let part = Mounts::find(HYBRID, Some(Path::new("/sys/fs/cgroup/unified/shop"))).unwrap();
        assert_eq!(part.unified, Path::new("/sys/fs/cgroup/unified/shop"));
        assert_eq!(part.memory.as_deref(), Some(Path::new("/sys/fs/cgroup/memory/shop")));
    }

    #[test]
    fn pure_v2_hosts() {
        let mountinfo = "\
24 22 0:21 /system.slice/x /part rw - cgroup2 cgroup rw
25 22 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup rw,nsdelegate
";
        let mounts = Mounts::find(mountinfo, None).unwrap();
        assert_eq!(mounts, Mounts { unified: "/sys/fs/cgroup".into(), ..Mounts::default() });
        assert_eq!(Mounts::find("", None), None);
        let named = Mounts::find("", Some(Path::new("/else"))).unwrap();
        assert_eq!(named, Mounts { unified: "/else".into(), ..Mounts::default() });
    }
}
