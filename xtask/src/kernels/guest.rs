//! One emulated machine: programs and a script flow in, its serial console flows out into a log.
//!
//! Emulated without hardware virtualisation, so it is slow but runs anywhere. The guest has a pure cgroup v2
//! tree with its controllers on, no disk and no network but loopback: a busybox, iproute2, nftables, the programs
//! and their libraries in an initramfs.

use super::image::Kernel;
use crate::house;
use crate::process::{Running, check_interrupted, command, run};
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// What the guest's script can call.
const APPLETS: [&str; 16] = [
    "sh", "mount", "mkdir", "reboot", "cat", "uname", "insmod", "sleep", "kill", "nice", "tail", "dd",
    "echo", "true", "sysctl", "timeout",
];

/// What the guest prints before it ends: the one line that says how its script went.
const VERDICT: &str = "faultline-guest-exit=";

/// What every guest's first process does before its own work: mounts what any distribution has, lets cgroups
/// below the root have CPU and memory controllers, loads the modules, and prints the kernel's name on a line of its own
/// (what the firmware leaves on the first one clears a terminal).
const PREAMBLE: &str = "#!/bin/sh
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /sys/fs/cgroup /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
echo +cpu +memory > /sys/fs/cgroup/cgroup.subtree_control
for module in /lib/modules/*.ko; do insmod $module; done
ip link set lo up
echo
uname -r
";

/// A machine that can be booted again and again.
pub(crate) struct Guest {
    image: PathBuf,
    initramfs: PathBuf,
}

/// How the guest's two CPUs are emulated.
#[derive(Clone, Copy)]
pub(crate) enum Threads {
    /// In turns. QEMU 7 and 8 sometimes run an `int3` that a guest's kernel has already taken out of its code
    /// again, when another CPU changes it: the kernel then panics, most often while it boots. In turns it does not.
    One,
    /// At the same time.
    Two,
}

impl Threads {
    fn accelerator(self) -> &'static str {
        match self {
            Self::One => "tcg,thread=single",
            Self::Two => "tcg,thread=multi",
        }
    }
}

/// How a boot ended.
pub(crate) struct Ended {
    /// Everything that the console showed.
    pub(crate) console: String,
    /// How long it ran.
    pub(crate) ran: Duration,
    /// It had to be stopped.
    pub(crate) overdue: bool,
}

impl Guest {
    /// Packs a guest into `folder`. Its `script` runs after the preamble and sets `verdict`.
    pub(crate) fn pack(
        folder: &Path,
        kernel: &Kernel,
        programs: &[(&str, &Path)],
        script: &str,
    ) -> Result<Self> {
        let tree = folder.join("root");
        if tree.exists() {
            fs::remove_dir_all(&tree)?;
        }
        for name in ["bin", "proc", "sys", "tmp", "dev", "etc", "run", "lib/modules"] {
            fs::create_dir_all(tree.join(name))?;
        }
        let busybox = house::which("busybox").context("busybox is not installed (busybox-static)")?;
        fs::copy(busybox, tree.join("bin/busybox"))?;
        for applet in APPLETS {
            symlink("busybox", tree.join("bin").join(applet))?;
        }
        for (number, module) in kernel.modules.iter().enumerate() {
            // The shell names them in the order of their names, which so is that in which they load.
            fs::copy(module, tree.join(format!("lib/modules/{number:02}.ko")))?;
        }
        // Not busybox's nsenter, which would start busybox's tc.
        let network = ["ip", "tc", "nft", "nsenter"].map(|name| (name, tool(name)));
        let network = network.iter().map(|(name, place)| (*name, place.as_path()));
        let mut libraries = BTreeSet::new();
        for (name, program) in programs.iter().copied().chain(network) {
            fs::copy(program, tree.join("bin").join(name))
                .with_context(|| format!("cannot copy {}", program.display()))?;
            libraries.extend(shared_libraries(program)?);
        }
        for library in libraries {
            let place = tree.join(library.strip_prefix("/").unwrap_or(&library));
            if let Some(parent) = place.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::copy(&library, place).with_context(|| format!("cannot copy {}", library.display()))?;
        }
        let init = tree.join("init");
        fs::write(&init, format!("{PREAMBLE}{script}echo {VERDICT}$verdict\nreboot -f\n"))?;
        fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
        let initramfs = folder.join("initramfs.cpio.gz");
        let pack =
            format!("find . | busybox cpio -o -H newc 2>/dev/null | gzip -1 > '{}'", initramfs.display());
        run(Command::new("sh").args(["-c", &pack]).current_dir(&tree))?;
        Ok(Self { image: kernel.image.clone(), initramfs })
    }

    /// Boots it and waits for its end. `words` are added to the kernel's command line; those that the kernel
    /// does not know are variables of the script. A panic ends the machine at once; that the emulated timer is late
    /// on a busy host is none.
    pub(crate) fn boot(&self, words: &str, threads: Threads, log: &Path, at_most: Duration) -> Result<Ended> {
        let started = Instant::now();
        let line = format!("console=ttyS0 panic=-1 oops=panic psi=1 no_timer_check {words}");
        let mut guest = Running::start(
            "the guest",
            command("qemu-system-x86_64")
                .args([
                    "-accel",
                    threads.accelerator(),
                    "-cpu",
                    "max",
                    "-smp",
                    "2",
                    "-m",
                    "1024",
                    "-nographic",
                    "-no-reboot",
                ])
                .args(["-nodefaults", "-serial", "stdio", "-append", &line, "-kernel"])
                .arg(&self.image)
                .arg("-initrd")
                .arg(&self.initramfs),
            log,
        )?;
        let mut overdue = false;
        while !guest.ended() {
            check_interrupted()?;
            overdue = started.elapsed() > at_most;
            if overdue {
                break;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        drop(guest);
        let console = String::from_utf8_lossy(&fs::read(log)?).replace('\r', "");
        Ok(Ended { console, ran: started.elapsed(), overdue })
    }
}

impl Ended {
    /// What the script said last; `None` when it did not get so far.
    pub(crate) fn verdict(&self) -> Option<&str> {
        self.console.lines().rev().find_map(|line| line.strip_prefix(VERDICT))
    }

    /// The kernel's own name, such as `6.1.0-56-cloud-amd64`: its script prints it, and so does a panic.
    pub(crate) fn release(&self) -> Option<&str> {
        self.console.split_whitespace().find(|word| word.ends_with("-cloud-amd64"))
    }

    /// The first process began.
    pub(crate) fn began(&self) -> bool {
        self.console.lines().any(|line| Some(line) == self.release())
    }
}

/// A tool of the network; who is not root may not have its folder on the path.
fn tool(name: &str) -> PathBuf {
    house::which(name).unwrap_or_else(|| Path::new("/usr/sbin").join(name))
}

/// The files that `ldd` names, the loader among them.
fn shared_libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("cannot start ldd")?;
    Ok(String::from_utf8_lossy(&output.stdout)
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect())
}
