//! What the playground takes from the system's packages: the real backends and the tools of the network. Missing ones
//! are installed where that is possible (root, apt-get), and named with the command where it is not.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use super::setup::Mode;
use super::{cpp, java};

/// What is needed and the packages that have it, with a space between.
struct Tool {
    package: &'static str,
    purpose: &'static str,
    found: fn() -> bool,
}

const TOOLS: [Tool; 6] = [
    Tool { package: "redis-server", purpose: "real Redis", found: || on_path("redis-server") },
    Tool {
        package: "postgresql",
        purpose: "real PostgreSQL",
        found: || crate::run::postgres::programs().is_ok(),
    },
    Tool { package: "iproute2", purpose: "nodes and late packets", found: || on_path("ip") && on_path("tc") },
    Tool {
        package: java::PACKAGES,
        purpose: "services in Java",
        found: || on_path("javac") && on_path("mvn"),
    },
    Tool { package: cpp::PACKAGES, purpose: "services in C++", found: cpp::can_build },
    Tool { package: "nftables", purpose: "faults on the wire", found: || on_path("nft") },
];

/// Checks all, installs what is missing, and names what still is.
pub(super) fn ensure(mode: Mode) -> anyhow::Result<()> {
    let missing: Vec<&Tool> = TOOLS.iter().filter(|tool| !(tool.found)()).collect();
    if missing.is_empty() {
        let names: Vec<&str> = TOOLS.iter().map(|tool| tool.package).collect();
        eprintln!("setup: packages ready: {}", names.join(", "));
        return Ok(());
    }
    for tool in &missing {
        eprintln!("setup: {} missing ({})", tool.package, tool.purpose);
    }
    let packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
    let command = format!("apt-get install --yes --no-install-recommends {}", packages.join(" "));
    if mode == Mode::Check || !rustix::process::getuid().is_root() {
        bail!("missing packages: run `sudo {command}`");
    }
    eprintln!("setup:   {command}");
    let mut words = command.split(' ');
    let status = Command::new(words.next().unwrap_or_default())
        .args(words)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .status()
        .context("apt-get cannot be run: install these packages by the system's own means")?;
    if !status.success() {
        bail!("`{command}` failed ({status}); `apt-get update` may help");
    }
    Ok(())
}

/// Tools of the network lie where only root looks.
pub(super) fn on_path(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':').chain(["/usr/sbin", "/sbin"]).any(|folder| Path::new(folder).join(program).is_file())
}
