//! What the project needs from outside, part by part: how to tell that it is there, and how to get it.
//! [`crate::setup`] decides which parts a purpose needs and installs them.

use crate::house;
use crate::process::{command, run_quietly};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::Path;

/// One thing from outside.
pub(crate) struct Part {
    /// What it is called in progress lines.
    pub(crate) name: &'static str,
    /// What it is for.
    pub(crate) purpose: &'static str,
    /// Whether it is there.
    pub(crate) found: fn() -> bool,
    /// How to get it.
    pub(crate) source: Source,
}

/// How to get a part.
pub(crate) enum Source {
    /// Debian and Ubuntu packages; needs root.
    Debian(&'static [&'static str]),
    /// Steps of our own that need no root; the text says what they do, as commands.
    Steps(&'static str, fn(&Path) -> Result<()>),
}

/// The version of the ONNX Runtime wheel.
const ONNX_RUNTIME: &str = "1.23.2";

/// The version of bpf-linker that links the shipped object.
const BPF_LINKER: &str = "0.13.0";

/// The version of Helm that renders the chart.
const HELM: &str = "v3.19.0";

pub(crate) const REDIS: Part = Part {
    name: "redis-server",
    purpose: "the playground's real Redis",
    found: || house::which("redis-server").is_some(),
    source: Source::Debian(&["redis-server"]),
};

pub(crate) const POSTGRES: Part = Part {
    name: "postgresql",
    purpose: "the playground's real PostgreSQL",
    found: || debian_has("postgresql"),
    source: Source::Debian(&["postgresql"]),
};

pub(crate) const PYTHON: Part = Part {
    name: "python3",
    purpose: "the playground's Python services and the ONNX Runtime wheel",
    found: || house::which("python3").is_some() && python_has_venv(),
    source: Source::Debian(&["python3", "python3-venv", "python3-pip"]),
};

pub(crate) const NODE: Part = Part {
    name: "node",
    purpose: "the playground's Node services",
    found: || house::which("node").is_some() && house::which("npm").is_some(),
    source: Source::Debian(&["nodejs", "npm"]),
};

pub(crate) const PROMETHEUS: Part = Part {
    name: "prometheus",
    purpose: "the tests' real Prometheus and promtool",
    found: || house::which("prometheus").is_some() && house::which("promtool").is_some(),
    source: Source::Debian(&["prometheus"]),
};

pub(crate) const GO: Part = Part {
    name: "go",
    purpose: "the playground's Go services, and building Helm for the chart's tests",
    found: || house::which("go").is_some(),
    source: Source::Debian(&["golang-go"]),
};

pub(crate) const HELM_BINARY: Part = Part {
    name: "helm",
    purpose: "rendering the chart in tests",
    found: || house::which("helm").is_some(),
    source: Source::Steps("go install helm.sh/helm/v3/cmd/helm", install_helm),
};

pub(crate) const JAVA: Part = Part {
    name: "java",
    purpose: "the playground's Java services and the grpc-java peer",
    found: || house::which("javac").is_some() && house::which("mvn").is_some(),
    source: Source::Debian(&["default-jdk-headless", "maven"]),
};

pub(crate) const GRPC_CPP: Part = Part {
    name: "gRPC C++",
    purpose: "the playground's C++ services and the gRPC C++ peer",
    found: || {
        ["g++", "make", "pkg-config"].iter().all(|program| house::which(program).is_some())
            && ["libgrpc++-dev", "libhiredis-dev", "libpq-dev", "nlohmann-json3-dev"]
                .iter()
                .all(|package| debian_has(package))
    },
    source: Source::Debian(&[
        "g++",
        "make",
        "pkg-config",
        "libgrpc++-dev",
        "libhiredis-dev",
        "libpq-dev",
        "nlohmann-json3-dev",
    ]),
};

pub(crate) const NGINX: Part = Part {
    name: "nginx",
    purpose: "a proxy between the gRPC stacks",
    found: || Path::new("/usr/sbin/nginx").is_file(),
    source: Source::Debian(&["nginx-light"]),
};

pub(crate) const HAPROXY: Part = Part {
    name: "haproxy",
    purpose: "another proxy between the gRPC stacks",
    found: || Path::new("/usr/sbin/haproxy").is_file(),
    source: Source::Debian(&["haproxy"]),
};

pub(crate) const OPENSSL: Part = Part {
    name: "openssl",
    purpose: "the keys of those that speak TLS in tests",
    found: || house::which("openssl").is_some(),
    source: Source::Debian(&["openssl"]),
};

pub(crate) const OPENSSL_HEADERS: Part = Part {
    name: "OpenSSL's headers",
    purpose: "the benchmark's traffic over TLS",
    found: || {
        let asked = std::process::Command::new("pkg-config").args(["--exists", "openssl"]).status();
        asked.is_ok_and(|status| status.success())
    },
    source: Source::Debian(&["libssl-dev", "pkg-config"]),
};

pub(crate) const EMULATOR: Part = Part {
    name: "qemu",
    purpose: "the kernel matrix",
    found: || {
        ["qemu-system-x86_64", "busybox"].iter().all(|program| house::which(program).is_some()) && has_tc()
    },
    source: Source::Debian(&["qemu-system-x86", "busybox-static", "iproute2"]),
};

pub(crate) const NFTABLES: Part = Part {
    name: "nft",
    purpose: "losing packets in tests, and the playground's faults on the wire",
    found: || house::which("nft").is_some() || Path::new("/usr/sbin/nft").is_file(),
    source: Source::Debian(&["nftables"]),
};

pub(crate) const KERNEL_COMPILER: Part = Part {
    name: "kernel crate compiler",
    purpose: "building agent-ebpf from its sources",
    found: || {
        ["rustc-web", "cargo-web", "rust-web-src", "llvm-22-dev", "libzstd-dev", "zlib1g-dev"]
            .iter()
            .all(|package| debian_has(package))
    },
    source: Source::Debian(&[
        "rustc-web",
        "cargo-web",
        "rust-web-src",
        "llvm-22-dev",
        "libzstd-dev",
        "zlib1g-dev",
    ]),
};

pub(crate) const LINKER: Part = Part {
    name: "bpf-linker",
    purpose: "linking agent-ebpf",
    found: || house::which("bpf-linker").is_some(),
    source: Source::Steps(
        "cargo install bpf-linker --no-default-features --features llvm-22 (about 90 s)",
        install_linker,
    ),
};

pub(crate) const ONNX_RUNTIME_LIBRARY: Part = Part {
    name: "ONNX Runtime",
    purpose: "running the model",
    found: || house::onnx_runtime().is_file(),
    source: Source::Steps("pip download onnxruntime; unpack libonnxruntime.so", install_onnx_runtime),
};

pub(crate) const DENY: Part = Part {
    name: "cargo-deny",
    purpose: "checking licences and sources of dependencies",
    found: || house::which("cargo-deny").is_some(),
    source: Source::Steps("cargo install cargo-deny (some minutes)", install_deny),
};

/// It lies where only root looks for programs.
fn has_tc() -> bool {
    house::which("tc").is_some() || Path::new("/sbin/tc").is_file()
}

fn debian_has(package: &str) -> bool {
    std::process::Command::new("dpkg-query")
        .args(["--show", "--showformat=${db:Status-Abbrev}", package])
        .output()
        .is_ok_and(|output| output.status.success() && output.stdout.starts_with(b"ii"))
}

fn python_has_venv() -> bool {
    std::process::Command::new("python3")
        .args(["-c", "import venv, ensurepip"])
        .output()
        .is_ok_and(|output| output.status.success())
}

fn install_helm(log: &Path) -> Result<()> {
    let module = format!("helm.sh/helm/v3/cmd/helm@{HELM}");
    run_quietly(
        command("go").args(["install", &module]).env("GOBIN", house::tools()).env("CGO_ENABLED", "0"),
        log,
    )
}

fn install_linker(log: &Path) -> Result<()> {
    let root = house::cache().join("tools");
    run_quietly(
        command("cargo")
            .args(["install", "bpf-linker", "--locked", "--no-default-features", "--features", "llvm-22"])
            .args(["--version", BPF_LINKER, "--root"])
            .arg(root)
            .env("LLVM_PREFIX", "/usr/lib/llvm-22")
            .env_remove("CARGO_TARGET_DIR"),
        log,
    )
}

fn install_deny(log: &Path) -> Result<()> {
    let root = house::cache().join("tools");
    run_quietly(
        command("cargo")
            .args(["install", "cargo-deny", "--locked", "--root"])
            .arg(root)
            .env_remove("CARGO_TARGET_DIR"),
        log,
    )
}

/// Takes the library out of the wheel: the wheel's Python parts are not needed, so nothing is installed.
fn install_onnx_runtime(log: &Path) -> Result<()> {
    let place = house::cache().join("onnxruntime");
    let wheels = place.join("wheel");
    fs::create_dir_all(&wheels).with_context(|| format!("cannot create {}", wheels.display()))?;
    run_quietly(
        command("python3")
            .args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest"])
            .arg(&wheels)
            .arg(format!("onnxruntime=={ONNX_RUNTIME}")),
        log,
    )?;
    let wheel = fs::read_dir(&wheels)?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .context("pip said that it downloaded the onnxruntime wheel, but none is there")?;
    run_quietly(command("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&wheels), log)?;
    let capi = wheels.join("onnxruntime").join("capi");
    let library = fs::read_dir(&capi)
        .with_context(|| format!("{} has no onnxruntime/capi", wheel.display()))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libonnxruntime.so"))
        });
    let Some(library) = library else {
        bail!("{} holds no libonnxruntime.so", wheel.display());
    };
    // Moved last, so that a broken download is never taken for the library.
    fs::rename(&library, house::onnx_runtime())?;
    fs::remove_dir_all(&wheels)?;
    Ok(())
}
