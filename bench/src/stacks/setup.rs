//! Prepares the stacks other than Rust in a cache folder: files of `bench/stacks` come in with pinned
//! versions, a command that starts a service goes out. What is prepared once is not touched again.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};

use super::{cpp, java};
use crate::topology::Stack;

/// Flags of `playground setup`.
#[derive(clap::Args)]
pub struct Flags {
    /// Only say what is prepared; the exit status is 1 when something is missing
    #[arg(long, conflicts_with = "install")]
    check: bool,
    /// Prepare what is missing (the default)
    #[arg(long)]
    install: bool,
    /// The folder to prepare [default: $XDG_CACHE_HOME/faultline or ~/.cache/faultline]
    #[arg(long)]
    cache: Option<PathBuf>,
}

/// Whether missing parts are installed or only named.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Say what is missing.
    Check,
    /// Download and build it.
    Install,
}

/// Prepares or checks every stack and says how each went.
pub fn setup(flags: &Flags) -> anyhow::Result<()> {
    let mode = if flags.check { Mode::Check } else { Mode::Install };
    let cache = cache_folder(flags.cache.clone())?;
    let packages = super::packages::ensure(mode);
    let mut missing = Vec::new();
    for stack in [Stack::Python, Stack::Node, Stack::Go, Stack::Java, Stack::Cpp] {
        match prepare(stack, &cache, mode) {
            Ok(command) => eprintln!("setup: {} ready: {}", stack.name(), command.join(" ")),
            Err(error) => {
                eprintln!("setup: {} missing: {error:#}", stack.name());
                missing.push(stack.name());
            }
        }
    }
    if !missing.is_empty() {
        bail!("{} not prepared; services of these stacks would run in Rust", missing.join(", "));
    }
    packages
}

/// Where prepared stacks live.
pub fn cache_folder(flag: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    flag.or_else(|| set("XDG_CACHE_HOME").map(|folder| folder.join("faultline")))
        .or_else(|| set("HOME").map(|folder| folder.join(".cache/faultline")))
        .context("neither --cache, XDG_CACHE_HOME nor HOME says where to keep the prepared stacks")
}

/// The files of a stack's service, by name.
const fn files(stack: Stack) -> &'static [(&'static str, &'static str)] {
    match stack {
        Stack::Rust => &[],
        Stack::Python => &[
            ("service.py", include_str!("../../stacks/python/service.py")),
            ("serving.py", include_str!("../../stacks/python/serving.py")),
            ("failure.py", include_str!("../../stacks/python/failure.py")),
            ("behaviour.py", include_str!("../../stacks/python/behaviour.py")),
            ("work.py", include_str!("../../stacks/python/work.py")),
            ("peers.py", include_str!("../../stacks/python/peers.py")),
            ("backends.py", include_str!("../../stacks/python/backends.py")),
            ("truth.py", include_str!("../../stacks/python/truth.py")),
            ("requirements.txt", include_str!("../../stacks/python/requirements.txt")),
        ],
        Stack::Node => &[
            ("service.js", include_str!("../../stacks/node/service.js")),
            ("serving.js", include_str!("../../stacks/node/serving.js")),
            ("failure.js", include_str!("../../stacks/node/failure.js")),
            ("samples.js", include_str!("../../stacks/node/samples.js")),
            ("random.js", include_str!("../../stacks/node/random.js")),
            ("behaviour.js", include_str!("../../stacks/node/behaviour.js")),
            ("work.js", include_str!("../../stacks/node/work.js")),
            ("peers.js", include_str!("../../stacks/node/peers.js")),
            ("circuit.js", include_str!("../../stacks/node/circuit.js")),
            ("backends.js", include_str!("../../stacks/node/backends.js")),
            ("truth.js", include_str!("../../stacks/node/truth.js")),
            ("package.json", include_str!("../../stacks/node/package.json")),
            ("package-lock.json", include_str!("../../stacks/node/package-lock.json")),
        ],
        Stack::Go => &[
            ("main.go", include_str!("../../stacks/go/main.go")),
            ("spec.go", include_str!("../../stacks/go/spec.go")),
            ("serve.go", include_str!("../../stacks/go/serve.go")),
            ("samples.go", include_str!("../../stacks/go/samples.go")),
            ("behaviour.go", include_str!("../../stacks/go/behaviour.go")),
            ("leak.go", include_str!("../../stacks/go/leak.go")),
            ("work.go", include_str!("../../stacks/go/work.go")),
            ("peers.go", include_str!("../../stacks/go/peers.go")),
            ("circuit.go", include_str!("../../stacks/go/circuit.go")),
            ("backends.go", include_str!("../../stacks/go/backends.go")),
            ("lines.go", include_str!("../../stacks/go/lines.go")),
            ("go.mod", include_str!("../../stacks/go/go.mod")),
            ("go.sum", include_str!("../../stacks/go/go.sum")),
        ],
        Stack::Java => java::FILES,
        Stack::Cpp => cpp::FILES,
    }
}

/// Commands that say which versions of tools and libraries a stack is built with and runs on.
const fn versions(stack: Stack) -> &'static [&'static [&'static str]] {
    match stack {
        Stack::Rust => &[&["rustc", "--version"]],
        Stack::Python => &[&["python3", "--version"]],
        Stack::Node => &[&["node", "--version"]],
        Stack::Go => &[&["go", "version"]],
        Stack::Java => java::VERSIONS,
        Stack::Cpp => cpp::VERSIONS,
    }
}

/// The packages of Debian and Ubuntu that a stack needs.
const fn packages(stack: Stack) -> &'static str {
    match stack {
        Stack::Rust => "rustc",
        Stack::Python => "python3 python3-venv python3-pip",
        Stack::Node => "nodejs npm",
        Stack::Go => "golang-go",
        Stack::Java => java::PACKAGES,
        Stack::Cpp => cpp::PACKAGES,
    }
}

/// The words that start a service of this stack. The folder's name is the digest of its files and of
/// the tool's version, so that a change of either is prepared anew, beside the old one.
pub fn prepare(stack: Stack, cache: &Path, mode: Mode) -> anyhow::Result<Vec<String>> {
    if files(stack).iter().any(|(_, text)| text.is_empty()) {
        bail!("its service is not part of this build");
    }
    let how = || format!("it needs `apt-get install --no-install-recommends {}`", packages(stack));
    let mut digest = Sha256::new();
    for command in versions(stack) {
        digest.update(said(command).with_context(how)?);
    }
    for (name, text) in files(stack) {
        digest.update(name.as_bytes());
        digest.update(text.as_bytes());
    }
    let digest: String = digest.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let folder = cache.join(format!("{}-{digest}", stack.name()));
    let stamp = folder.join("prepared");
    if !stamp.exists() {
        if mode == Mode::Check {
            bail!("{} is not prepared: run `playground setup`", folder.display());
        }
        eprintln!("setup: preparing {} in {}", stack.name(), folder.display());
        std::fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
        for (name, text) in files(stack) {
            std::fs::write(folder.join(name), text)?;
        }
        install(stack, &folder).with_context(how)?;
        std::fs::write(&stamp, "")?;
    }
    let path =
        |name: &str| folder.join(name).to_str().map(str::to_owned).context("the cache path is not UTF-8");
    Ok(match stack {
        Stack::Rust => vec![],
        Stack::Python => vec![path("venv/bin/python")?, "-u".into(), path("service.py")?],
        Stack::Node => vec!["node".into(), "--expose-gc".into(), path("service.js")?],
        Stack::Go | Stack::Cpp => vec![path("service")?],
        Stack::Java => vec!["java".into(), format!("@{}", path(java::ARGUMENTS)?), java::SERVICE.into()],
    })
}

/// What a command writes to its standard output.
pub(super) fn said(command: &[&str]) -> anyhow::Result<Vec<u8>> {
    let (program, arguments) = command.split_first().context("no command")?;
    let output = Command::new(program).args(arguments).output();
    let output = output.with_context(|| format!("{program} is not installed"))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed: {}", command.join(" "), why.lines().next().unwrap_or_default());
    }
    Ok(output.stdout)
}

fn install(stack: Stack, folder: &Path) -> anyhow::Result<()> {
    match stack {
        Stack::Rust => Ok(()),
        Stack::Python => {
            step(folder, "python3", &["-m", "venv", "--clear", "venv"])?;
            let quiet = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
            step(folder, "venv/bin/python", &[&quiet[..], &["-r", "requirements.txt"]].concat())?;
            // Forty services start at once: none of them compiles.
            step(folder, "venv/bin/python", &["-m", "compileall", "-q", "."])
        }
        Stack::Node => step(folder, "npm", &["ci", "--no-audit", "--no-fund", "--loglevel=error"]),
        Stack::Go => step(
            folder,
            "go",
            &["build", "-mod=readonly", "-trimpath", "-ldflags=-s -w", "-o", "service", "."],
        ),
        Stack::Java => java::install(folder),
        Stack::Cpp => cpp::install(folder),
    }
}

/// Runs one command of a preparation, and says so.
pub(super) fn step(folder: &Path, program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    eprintln!("setup:   {program} {}", arguments.join(" "));
    // A relative program would be searched from here, not from the folder.
    let found = if program.contains('/') { folder.join(program) } else { PathBuf::from(program) };
    let status = Command::new(found)
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .status()
        .with_context(|| format!("{program} cannot be run"))?;
    if !status.success() {
        bail!("`{program} {}` failed ({status})", arguments.join(" "));
    }
    Ok(())
}
