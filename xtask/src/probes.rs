//! Builds the kernel object from agent-ebpf's sources, and checks that the shipped one is what they give.
//!
//! The build happens in a small workspace of its own (the kernel crate, its records, the root's manifest
//! and lock), so that neither the checkout's place nor its other crates can change a byte.

use crate::house;
use crate::process::{command, run};
use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The shipped object and its origin, below the root.
const OBJECT: &str = "agent-ebpf/built/faultline-probes.o";
const ORIGIN: &str = "agent-ebpf/built/faultline-probes.sources.sha256";
/// Where Debian's compiler for `core` from source is; its versions are pinned by the distribution.
const DEBIAN: [&str; 2] = ["/usr/bin/cargo", "/usr/bin/rustc"];
const DEBIAN_CORE: &str = "/usr/lib/rustlib/src/rust/library/core/Cargo.toml";
/// What the linker and the verifier need, whatever the root's profiles say for the agent.
const PROFILE: [(&str, &str); 5] = [
    ("CARGO_PROFILE_RELEASE_DEBUG", "2"),
    ("CARGO_PROFILE_RELEASE_PANIC", "abort"),
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3"),
    ("CARGO_PROFILE_RELEASE_LTO", "fat"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
];

/// A compiler that can build `core` for the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Toolchain {
    /// Debian's rustc-web, cargo-web and rust-web-src: the reference, which the shipped object comes from.
    Debian,
    /// rustup's nightly with rust-src.
    Nightly,
}

impl Toolchain {
    /// The reference if it is here, else rustup's nightly.
    pub(crate) fn find() -> Result<Self> {
        if Path::new(DEBIAN_CORE).is_file() && DEBIAN.iter().all(|file| Path::new(file).is_file()) {
            return Ok(Self::Debian);
        }
        let sysroot = Command::new("rustc").args(["+nightly", "--print", "sysroot"]).output();
        let core = sysroot.ok().filter(|output| output.status.success()).map(|output| {
            let root = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            Path::new(&root).join("lib/rustlib/src/rust/library/core/Cargo.toml")
        });
        if core.is_some_and(|file| file.is_file()) {
            return Ok(Self::Nightly);
        }
        bail!(
            "no compiler for the kernel programs: apt install rustc-web cargo-web rust-web-src llvm-22-dev, \
             or rustup toolchain install nightly --component rust-src"
        );
    }

    fn cargo(self) -> Command {
        let mut cargo = match self {
            Self::Debian => {
                let [cargo, rustc] = DEBIAN;
                let mut cargo = command(cargo);
                // The compiler is stable; building `core` is not.
                cargo.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1");
                cargo
            }
            Self::Nightly => {
                let mut cargo = command("cargo");
                cargo.arg("+nightly").env_remove("RUSTC");
                cargo
            }
        };
        for inherited in
            ["CARGO", "RUSTUP_TOOLCHAIN", "RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"]
        {
            cargo.env_remove(inherited);
        }
        cargo
    }

    fn version(self) -> Result<String> {
        let mut rustc = match self {
            Self::Debian => Command::new(DEBIAN[1]),
            Self::Nightly => Command::new("rustc"),
        };
        if self == Self::Nightly {
            rustc.arg("+nightly");
        }
        said(rustc.arg("--version"))
    }
}

/// The binaries of the kernel crate: the probes, and what they are measured by.
const PROBES: &str = "faultline-probes";
const YARDSTICKS: &str = "faultline-yardsticks";

/// Builds the object in `scratch`, which is made and can be thrown away, and gives its bytes.
pub(crate) fn build(root: &Path, toolchain: Toolchain, scratch: &Path) -> Result<Vec<u8>> {
    let object = build_binary(root, toolchain, scratch, PROBES)?;
    fs::read(&object).with_context(|| format!("cannot read {}", object.display()))
}

/// Builds the programs that the probes are measured by; where the object is.
pub(crate) fn build_yardsticks(root: &Path) -> Result<PathBuf> {
    build_binary(root, Toolchain::find()?, &house::target().join("probes"), YARDSTICKS)
}

fn build_binary(root: &Path, toolchain: Toolchain, scratch: &Path, name: &str) -> Result<PathBuf> {
    let tree = scratch.join("tree");
    plant(root, &tree)?;
    let target = scratch.join("target");
    let linker = house::which("bpf-linker")
        .or_else(cargo_home_linker)
        .context("no bpf-linker: cargo install bpf-linker --no-default-features --features llvm-22")?;
    let mut flags = vec![
        "-Ctarget-cpu=v3".to_owned(),
        format!("-Clinker={}", linker.display()),
        "-Clink-arg=--btf".to_owned(),
        format!("--remap-path-prefix={}=/faultline", tree.display()),
    ];
    flags.extend(registries().iter().map(|path| format!("--remap-path-prefix={}=/cargo", path.display())));
    run(toolchain
        .cargo()
        .args(["build", "--quiet", "--release", "--package", "faultline-ebpf", "--bin", name])
        .args(["--target", "bpfel-unknown-none", "-Z", "build-std=core"])
        .current_dir(&tree)
        .env("CARGO_TARGET_DIR", &target)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .envs(PROFILE))?;
    let linked = target.join("bpfel-unknown-none/release").join(name);
    let stripped = scratch.join(name).with_extension("o");
    // DWARF goes, BTF stays: the verifier and sk_storage need it.
    run(command(objcopy()?).arg("--strip-debug").arg(&linked).arg(&stripped))?;
    Ok(stripped)
}

/// `cargo xtask probes`: builds the object and puts it, with its origin, where the agent embeds it.
pub(crate) fn ship(root: &Path) -> Result<()> {
    let toolchain = Toolchain::find()?;
    let object = build(root, toolchain, &house::target().join("probes"))?;
    let place = root.join(OBJECT);
    if let Some(folder) = place.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(&place, &object).with_context(|| format!("cannot write {}", place.display()))?;
    fs::write(root.join(ORIGIN), origin(root, toolchain)?)?;
    println!("{}: {} bytes, by {}", place.display(), object.len(), toolchain.version()?);
    Ok(())
}

/// Checks that the shipped object comes from these sources: by their digest, and where the reference
/// compiler is, by building it again in another place and comparing every byte.
pub(crate) fn verify(root: &Path) -> Result<()> {
    let shipped = fs::read(root.join(OBJECT)).context("no shipped kernel object: cargo xtask probes")?;
    let told = fs::read_to_string(root.join(ORIGIN)).context("no origin of the kernel object")?;
    let digest = format!("sources {}", digest(root)?);
    ensure!(
        told.lines().any(|line| line == digest),
        "agent-ebpf changed since its object was built: cargo xtask probes, then commit agent-ebpf/built"
    );
    let toolchain = Toolchain::find()?;
    if told != origin(root, toolchain)? {
        println!(
            "the object was built by other tools than those here ({}); bytes are not compared",
            toolchain.version()?
        );
        return Ok(());
    }
    let scratch = std::env::temp_dir().join(format!("faultline-probes-{}", std::process::id()));
    let built = build(root, toolchain, &scratch);
    fs::remove_dir_all(&scratch).ok();
    ensure!(
        built? == shipped,
        "building agent-ebpf again gives other bytes than the shipped object: cargo xtask probes, then commit"
    );
    println!("the shipped kernel object is what its sources give, byte for byte");
    Ok(())
}

/// Copies what the kernel crate needs into a workspace of its own.
fn plant(root: &Path, tree: &Path) -> Result<()> {
    if tree.exists() {
        fs::remove_dir_all(tree)?;
    }
    for file in sources(root)? {
        let to = tree.join(&file);
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::copy(root.join(&file), &to).with_context(|| format!("cannot copy {}", file.display()))?;
    }
    fs::write(tree.join("Cargo.toml"), manifest(root)?)?;
    fs::copy(root.join("Cargo.lock"), tree.join("Cargo.lock"))?;
    Ok(())
}

/// The root's manifest with the kernel crate and its records as the only members.
fn manifest(root: &Path) -> Result<String> {
    let manifest = fs::read_to_string(root.join("Cargo.toml"))?;
    let mut out = String::new();
    for line in manifest.lines() {
        if line.starts_with("members = ") {
            ensure!(line.ends_with(']'), "the root's members must be on one line");
            out.push_str("members = [\"agent-ebpf\", \"agent-ebpf/abi\"]\n");
        } else if !line.starts_with("default-members = ") {
            writeln!(out, "{line}")?;
        }
    }
    Ok(out)
}

/// The kernel crate's files, relative to the root, sorted.
fn sources(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from("agent-ebpf")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root.join(&folder))? {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                if path != Path::new("agent-ebpf/built") {
                    folders.push(path);
                }
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// One digest over the names and contents of the sources and the locked versions of what they depend on.
fn digest(root: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    for file in sources(root)? {
        hash.update(file.to_string_lossy().as_bytes());
        hash.update([0]);
        hash.update(fs::read(root.join(&file))?);
        hash.update([0]);
    }
    for line in locked(&fs::read_to_string(root.join("Cargo.lock"))?) {
        hash.update(line.as_bytes());
    }
    Ok(hash.finalize().iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").ok();
        text
    }))
}

/// `name version checksum` of the packages that the kernel crate depends on, build tools aside.
fn locked(lock: &str) -> Vec<String> {
    const COMPILED_IN: [&str; 7] = [
        "aya-ebpf",
        "aya-ebpf-bindings",
        "aya-ebpf-cty",
        "aya-ebpf-macros",
        "aya-log-common",
        "aya-log-ebpf",
        "zerocopy",
    ];
    let mut found = BTreeMap::new();
    for package in lock.split("[[package]]") {
        let field = |key: &str| {
            let line = package.lines().find_map(|line| line.strip_prefix(key))?;
            Some(line.trim_start_matches(" = ").trim_matches('"').to_owned())
        };
        let (Some(name), Some(version)) = (field("name"), field("version")) else { continue };
        if COMPILED_IN.contains(&name.as_str()) {
            found.insert(name, format!("{version} {}", field("checksum").unwrap_or_default()));
        }
    }
    found.into_iter().map(|(name, rest)| format!("{name} {rest}\n")).collect()
}

/// What the shipped object was made from and by.
fn origin(root: &Path, toolchain: Toolchain) -> Result<String> {
    let linker = house::which("bpf-linker").or_else(cargo_home_linker).context("no bpf-linker")?;
    let linker = said(Command::new(linker).arg("--version"))?;
    Ok(format!("sources {}\n{}\n{linker}\n", digest(root)?, toolchain.version()?))
}

fn said(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(output.status.success(), "{command:?} failed");
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn cargo_home() -> Option<PathBuf> {
    std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")))
}

fn cargo_home_linker() -> Option<PathBuf> {
    cargo_home().map(|home| home.join("bin/bpf-linker")).filter(|file| file.is_file())
}

/// The folders that hold downloaded sources, one a registry.
fn registries() -> Vec<PathBuf> {
    let Some(Ok(folders)) = cargo_home().map(|home| fs::read_dir(home.join("registry/src"))) else {
        return Vec::new();
    };
    let mut paths: Vec<_> = folders.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    paths
}

fn objcopy() -> Result<PathBuf> {
    let fixed = PathBuf::from("/usr/lib/llvm-22/bin/llvm-objcopy");
    ["llvm-objcopy-22", "llvm-objcopy"]
        .iter()
        .find_map(|name| house::which(name))
        .or_else(|| Some(fixed).filter(|file| file.is_file()))
        .context("no llvm-objcopy: apt install llvm-22-dev (or llvm)")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may panic")]
    use super::*;

    #[test]
    fn the_small_workspace_has_two_members() {
        let manifest = manifest(house::root()).unwrap();
        assert!(manifest.contains("members = [\"agent-ebpf\", \"agent-ebpf/abi\"]"));
        assert!(!manifest.contains("default-members = "));
    }

    #[test]
    fn locked_versions_are_found_in_any_order() {
        let lock = "[[package]]\nname = \"zerocopy\"\nversion = \"0.8.1\"\nchecksum = \"ab\"\n\n\
                    [[package]]\nname = \"aya-ebpf\"\nversion = \"0.2.1\"\nchecksum = \"cd\"\n\n\
                    [[package]]\nname = \"tokio\"\nversion = \"1.0.0\"\n";
        assert_eq!(locked(lock), ["aya-ebpf 0.2.1 cd\n", "zerocopy 0.8.1 ab\n"]);
    }

    #[test]
    fn built_objects_are_no_sources() {
        let files = sources(house::root()).unwrap();
        assert!(files.contains(&PathBuf::from("agent-ebpf/src/main.rs")));
        assert!(files.iter().all(|file| !file.starts_with("agent-ebpf/built")));
    }
}
