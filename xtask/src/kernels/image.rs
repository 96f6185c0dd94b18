//! Debian's kernels: a series flows in, the image to boot and the modules to load flow out, downloaded once.

use crate::house;
use crate::process::{command, run_quietly};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// A series of kernels that the agent supports.
#[derive(Clone, Copy)]
pub(crate) struct Series {
    /// As people call it.
    pub(crate) name: &'static str,
    /// How the packages that hold it begin.
    packages: &'static str,
}

/// The oldest that the agent supports, and the newest long-term one that Debian 12 offers.
pub(crate) const SERIES: [Series; 2] = [
    Series { name: "6.1", packages: "linux-image-6.1.0-" },
    Series { name: "6.12", packages: "linux-image-6.12." },
];

/// What Debian builds as modules and the tests need, by the path below the modules' `kernel` folder: queues, what
/// tells packets of a cgroup apart, and links between namespaces. Each comes after those that it needs.
const MODULES: [&str; 14] = [
    "net/sched/sch_netem.ko",
    "net/sched/sch_prio.ko",
    "net/sched/sch_htb.ko",
    "lib/libcrc32c.ko",
    "net/netfilter/nfnetlink.ko",
    "net/netfilter/nf_tables.ko",
    "net/ipv4/netfilter/nf_socket_ipv4.ko",
    "net/ipv6/netfilter/nf_socket_ipv6.ko",
    "net/netfilter/nft_socket.ko",
    "net/netfilter/nft_numgen.ko",
    "drivers/net/veth.ko",
    "net/llc/llc.ko",
    "net/802/stp.ko",
    "net/bridge/bridge.ko",
];

/// A kernel, ready to boot.
pub(crate) struct Kernel {
    /// The image.
    pub(crate) image: PathBuf,
    /// The files of [`MODULES`], not compressed, in the order in which they load.
    pub(crate) modules: Vec<PathBuf>,
}

impl Series {
    /// The series of a name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        SERIES.into_iter().find(|series| series.name == name)
    }

    /// Its newest kernel, downloaded once.
    pub(crate) fn kernel(self) -> Result<Kernel> {
        let place = house::cache().join("kernels").join(self.name);
        let modules = MODULES.map(|module| place.join(module.rsplit('/').next().unwrap_or(module)));
        let kernel = Kernel { image: place.join("vmlinuz"), modules: modules.into() };
        if !kernel.image.is_file() || !kernel.modules.iter().all(|module| module.is_file()) {
            self.download(&place, &kernel)?;
        }
        Ok(kernel)
    }

    fn download(self, place: &Path, kernel: &Kernel) -> Result<()> {
        let package = self.package()?;
        eprintln!("    downloading {package}");
        let unpacked = place.join("unpacked");
        fs::create_dir_all(&unpacked)?;
        let log = house::cache().join("logs").join(format!("kernel-{}.log", self.name));
        run_quietly(command("apt-get").args(["download", &package]).current_dir(place), &log)?;
        let archive = entry(place, |name| name.ends_with(".deb")).context("apt-get download left no .deb")?;
        run_quietly(command("dpkg-deb").arg("--extract").arg(&archive).arg(&unpacked), &log)?;
        let image = entry(&unpacked.join("boot"), |name| name.starts_with("vmlinuz"))
            .with_context(|| format!("{package} holds no boot/vmlinuz"))?;
        let modules = entry(&unpacked.join("lib/modules"), |_| true)
            .with_context(|| format!("{package} holds no lib/modules"))?;
        for (module, target) in MODULES.into_iter().zip(&kernel.modules) {
            let plain = modules.join("kernel").join(module);
            if !plain.is_file() {
                // Newer packages compress each module.
                run_quietly(command("busybox").arg("unxz").arg(plain.with_extension("ko.xz")), &log)?;
            }
            fs::rename(&plain, target)?;
        }
        // Moved last, so that a broken download is never taken for a kernel.
        fs::rename(image, &kernel.image)?;
        fs::remove_dir_all(&unpacked)?;
        fs::remove_file(&archive)?;
        Ok(())
    }

    /// The newest package.
    fn package(self) -> Result<String> {
        let names = command("apt-cache")
            .args(["pkgnames", self.packages])
            .output()
            .context("cannot start apt-cache")?;
        let numbers = |name: &str| -> Vec<u64> {
            name.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
        };
        String::from_utf8_lossy(&names.stdout)
            .lines()
            .filter(|name| name.ends_with("-cloud-amd64"))
            .max_by_key(|name| numbers(name))
            .map(str::to_owned)
            .with_context(|| format!("Debian offers no {}*-cloud-amd64: run apt-get update", self.packages))
    }
}

/// The first entry of a folder whose name fits.
fn entry(folder: &Path, fits: impl Fn(&str) -> bool) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?;
    entries.flatten().find(|entry| fits(&entry.file_name().to_string_lossy())).map(|entry| entry.path())
}
