//! `cargo xtask setup`: finds out what is missing for a purpose and installs it. With root on Debian or
//! Ubuntu it installs packages; elsewhere it prints the exact commands. A second run needs no network.

use crate::parts::{self, Part, Source};
use crate::process::{check_interrupted, command, run_quietly};
use crate::{house, process};
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use std::fs;
use std::path::Path;
use std::time::Instant;

/// What things are set up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Purpose {
    /// The demo: the playground's stacks and the model's runtime.
    Demo,
    /// The tests: the demo's parts, Prometheus, Helm and the kernel crate's tool chain.
    Test,
    /// The tests on every gRPC stack: their tool chains, and proxies.
    Stacks,
    /// Building agent-ebpf alone.
    Probes,
    /// The benchmark: building agent-ebpf, the model's runtime, and OpenSSL's headers.
    Bench,
    /// `cargo xtask check`.
    Check,
    /// The model's runtime alone.
    Model,
}

/// Find out what is missing for a purpose, and install it.
#[derive(Args)]
pub(crate) struct Setup {
    /// What for.
    #[arg(value_enum, default_value = "demo")]
    purpose: Purpose,
    /// Only say what is missing; exit status 1 if anything is.
    #[arg(long)]
    check: bool,
}

impl Setup {
    pub(crate) fn run(&self) -> Result<()> {
        if !self.check {
            return ensure(self.purpose);
        }
        let missing = missing(self.purpose);
        for part in &missing {
            println!("missing: {} ({})", part.name, part.purpose);
            println!("  {}", how(part));
        }
        match missing.len() {
            0 => {
                println!("nothing is missing");
                Ok(())
            }
            count => bail!("{count} parts are missing; `cargo xtask setup` installs them"),
        }
    }
}

/// The parts that a purpose needs, in the order in which they can be installed.
fn needed(purpose: Purpose) -> Vec<Part> {
    match purpose {
        Purpose::Model => vec![parts::PYTHON, parts::ONNX_RUNTIME_LIBRARY],
        Purpose::Demo => vec![
            parts::PYTHON,
            parts::NODE,
            parts::GO,
            parts::JAVA,
            parts::GRPC_CPP,
            parts::REDIS,
            parts::POSTGRES,
            parts::ONNX_RUNTIME_LIBRARY,
        ],
        Purpose::Probes => vec![parts::KERNEL_COMPILER, parts::LINKER],
        Purpose::Bench => needed(Purpose::Probes)
            .into_iter()
            .chain(needed(Purpose::Model))
            .chain([parts::OPENSSL_HEADERS])
            .collect(),
        Purpose::Check => vec![parts::DENY],
        Purpose::Stacks => {
            let languages = [parts::GO, parts::JAVA, parts::GRPC_CPP, parts::PYTHON, parts::NODE];
            languages.into_iter().chain([parts::NGINX, parts::HAPROXY, parts::OPENSSL]).collect()
        }
        Purpose::Test => needed(Purpose::Demo)
            .into_iter()
            .chain([parts::PROMETHEUS, parts::HELM_BINARY, parts::EMULATOR, parts::NFTABLES, parts::OPENSSL])
            .chain(needed(Purpose::Probes))
            .collect(),
    }
}

fn missing(purpose: Purpose) -> Vec<Part> {
    needed(purpose).into_iter().filter(|part| !(part.found)()).collect()
}

/// Installs what a purpose lacks, with a progress line for each part.
pub(crate) fn ensure(purpose: Purpose) -> Result<()> {
    let missing = missing(purpose);
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing
        .iter()
        .filter_map(|part| match part.source {
            Source::Debian(packages) => Some(packages),
            Source::Steps(..) => None,
        })
        .flatten()
        .copied()
        .collect();
    let can_install = is_root() && Path::new("/etc/debian_version").exists();
    if !packages.is_empty() && !can_install {
        let list: Vec<String> =
            missing.iter().map(|part| format!("  {}\n    {}", part.name, how(part))).collect();
        bail!(
            "these parts are missing, and installing them needs root on Debian or Ubuntu:\n{}\n\
             install them and run the command again",
            list.join("\n")
        );
    }
    let logs = house::cache().join("logs");
    fs::create_dir_all(house::tools()).context("cannot create the cache")?;
    if !packages.is_empty() {
        install_packages(&packages, &logs)?;
    }
    for part in &missing {
        check_interrupted()?;
        if let Source::Steps(_, install) = part.source {
            let log = logs.join(format!("{}.log", part.name.replace(' ', "-").to_lowercase()));
            step(part.name, part.purpose, || install(&log))?;
        }
        if !(part.found)() {
            bail!("{} was installed but is still not found ({})", part.name, how(part));
        }
    }
    Ok(())
}

/// Says what is being done, does it, and says how long it took.
pub(crate) fn step(name: &str, purpose: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    eprintln!("==> {name}: {purpose}");
    let started = Instant::now();
    work().with_context(|| format!("setting up {name}"))?;
    eprintln!("    done in {:.0} s", started.elapsed().as_secs_f64());
    Ok(())
}

fn install_packages(packages: &[&str], logs: &Path) -> Result<()> {
    step(&packages.join(" "), "Debian packages", || {
        let _quiet = NoDaemons::new();
        let apt = || {
            let mut apt = command("apt-get");
            apt.env("DEBIAN_FRONTEND", "noninteractive");
            apt
        };
        run_quietly(apt().arg("update"), &logs.join("apt-update.log"))?;
        run_quietly(
            apt().args(["install", "--yes", "--no-install-recommends"]).args(packages),
            &logs.join("apt-install.log"),
        )
    })
}

/// While this value lives, packages that bring a system service do not start it: a Redis or Prometheus
/// that nobody asked for would take ports on the user's machine.
struct NoDaemons {
    written: bool,
}

impl NoDaemons {
    const POLICY: &'static str = "/usr/sbin/policy-rc.d";

    fn new() -> Self {
        let written = !Path::new(Self::POLICY).exists()
            && fs::write(Self::POLICY, "#!/bin/sh\nexit 101\n").is_ok()
            && process::run(command("chmod").args(["755", Self::POLICY])).is_ok();
        Self { written }
    }
}

impl Drop for NoDaemons {
    fn drop(&mut self) {
        if self.written {
            let _removed = fs::remove_file(Self::POLICY);
        }
    }
}

fn how(part: &Part) -> String {
    match part.source {
        Source::Debian(packages) => format!("apt-get install --no-install-recommends {}", packages.join(" ")),
        Source::Steps(text, _) => text.to_owned(),
    }
}

/// Whether this process runs as root.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}
