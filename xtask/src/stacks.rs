//! Builds the small gRPC peers of tests/stacks into the cache, one folder a stack, and runs the tests that use
//! them. A folder holds a `run` script and a stamp: the SHA-256 of the sources it was built from, written last.

use crate::house;
use crate::process::{
    build_host_crates, cargo, check_interrupted, command, run, run_quietly, test_host_crates,
};
use crate::setup::{self, Purpose, step};
use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// One stack.
struct Stack {
    name: &'static str,
    what: &'static str,
    /// Builds from sources in the first folder into the second, with output in the log; gives the words
    /// that start the peer.
    build: fn(&Path, &Path, &Path) -> Result<Vec<PathBuf>>,
}

const STACKS: [Stack; 7] = [
    Stack { name: "go", what: "grpc-go", build: build_go },
    Stack { name: "java", what: "grpc-java on Netty", build: build_java },
    Stack { name: "cpp", what: "gRPC C++", build: build_cpp },
    Stack { name: "python", what: "grpcio", build: build_python },
    Stack { name: "python-h2", what: "h2 over Python's ssl, and h2c by Upgrade", build: build_python },
    Stack { name: "node", what: "grpc-js", build: build_node },
    Stack { name: "rust", what: "tonic", build: build_rust },
];

/// The folder of the built peers; the tests look there.
fn place() -> PathBuf {
    house::cache().join("stacks")
}

/// Builds the peers that are missing or whose sources changed.
pub(crate) fn ensure() -> Result<()> {
    setup::ensure(Purpose::Stacks)?;
    for stack in &STACKS {
        check_interrupted()?;
        stack.ensure()?;
    }
    Ok(())
}

/// Runs the peers as each other's clients under the agent: every pair, some through a proxy, some over TLS, and some
/// whose connections are older than the agent.
pub(crate) fn verify() -> Result<()> {
    ensure()?;
    build_host_crates()?;
    run(test_host_crates(&["--test", "stacks", "--"])
        .args(["--include-ignored", "--nocapture", "--test-threads=1"])
        .env("FAULTLINE_PEERS", place()))
}

impl Stack {
    fn ensure(&self) -> Result<()> {
        let sources = house::root().join("tests/stacks").join(self.name);
        let into = place().join(self.name);
        let digest = digest(&sources)?;
        let stamp = into.join("stamp");
        if fs::read_to_string(&stamp).is_ok_and(|built| built == digest) {
            return Ok(());
        }
        let log = house::cache().join("logs").join(format!("peer-{}.log", self.name));
        step(&format!("{} peer", self.name), self.what, || {
            let _removed = fs::remove_file(&stamp);
            fs::create_dir_all(&into).with_context(|| format!("cannot create {}", into.display()))?;
            let words = (self.build)(&sources, &into, &log)?;
            let quoted: Vec<String> = words.iter().map(|word| format!("'{}'", word.display())).collect();
            let script = into.join("run");
            fs::write(&script, format!("#!/bin/sh\nexec {} \"$@\"\n", quoted.join(" ")))?;
            fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
            fs::write(&stamp, &digest)?;
            Ok(())
        })
    }
}

/// The SHA-256 of every file's path and bytes below a folder.
fn digest(folder: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    for file in files(folder)? {
        let bytes = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        hash.update(file.strip_prefix(folder).unwrap_or(&file).as_os_str().as_encoded_bytes());
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Every file below a folder, in order.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn build_go(sources: &Path, into: &Path, log: &Path) -> Result<Vec<PathBuf>> {
    let peer = into.join("peer");
    run_quietly(
        command("go").args(["build", "-trimpath", "-o"]).arg(&peer).arg(".").current_dir(sources),
        log,
    )?;
    Ok(vec![peer])
}

fn build_java(sources: &Path, into: &Path, log: &Path) -> Result<Vec<PathBuf>> {
    let (jars, classes) = (into.join("jars"), into.join("classes"));
    // Copied first: maven writes beside the file that it reads.
    let pom = into.join("pom.xml");
    fs::copy(sources.join("pom.xml"), &pom)?;
    run_quietly(
        command("mvn")
            .args(["--quiet", "--batch-mode", "--file"])
            .arg(&pom)
            .arg("org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies")
            .arg(format!("-DoutputDirectory={}", jars.display())),
        log,
    )?;
    let path = format!("{}:{}/*", classes.display(), jars.display());
    let code = files(&sources.join("src"))?;
    run_quietly(command("javac").arg("-d").arg(&classes).args(["-classpath", &path]).args(code), log)?;
    Ok(["java", "-classpath", &path, "matrix.Peer"].map(PathBuf::from).to_vec())
}

fn build_cpp(sources: &Path, into: &Path, log: &Path) -> Result<Vec<PathBuf>> {
    let peer = into.join("peer");
    let code = files(sources)?.into_iter().filter(|file| file.extension().is_some_and(|kind| kind == "cc"));
    run_quietly(
        command("g++")
            .args(["-std=c++17", "-O1", "-Wall", "-Wextra", "-Wno-deprecated-declarations", "-o"])
            .arg(&peer)
            .args(code)
            // gRPC's headers call Abseil, whose libraries are many and have other names in each release: the
            // linker may take those that libgrpc++ itself needs.
            .args(["-Wl,--copy-dt-needed-entries", "-lgrpc++", "-lgrpc", "-lgpr", "-lpthread"]),
        log,
    )?;
    Ok(vec![peer])
}

fn build_python(sources: &Path, into: &Path, log: &Path) -> Result<Vec<PathBuf>> {
    let (venv, peer) = (into.join("venv"), into.join("peer.py"));
    run_quietly(command("python3").args(["-m", "venv", "--clear"]).arg(&venv), log)?;
    let python = venv.join("bin").join("python");
    run_quietly(
        command(&python)
            .args(["-m", "pip", "install", "--quiet", "--only-binary=:all:", "--requirement"])
            .arg(sources.join("requirements.txt")),
        log,
    )?;
    fs::copy(sources.join("peer.py"), &peer)?;
    Ok(vec![python, peer])
}

fn build_node(sources: &Path, into: &Path, log: &Path) -> Result<Vec<PathBuf>> {
    for file in ["package.json", "package-lock.json", "peer.js"] {
        fs::copy(sources.join(file), into.join(file))?;
    }
    run_quietly(command("npm").args(["ci", "--no-audit", "--no-fund"]).current_dir(into), log)?;
    Ok(vec![PathBuf::from("node"), into.join("peer.js")])
}

fn build_rust(sources: &Path, into: &Path, log: &Path) -> Result<Vec<PathBuf>> {
    let target = into.join("target");
    run_quietly(
        cargo(["build", "--release", "--locked"])
            .arg("--manifest-path")
            .arg(sources.join("Cargo.toml"))
            .arg("--target-dir")
            .arg(&target),
        log,
    )?;
    let peer = target.join("release").join("peer");
    if !peer.is_file() {
        bail!("cargo built no {}", peer.display());
    }
    Ok(vec![peer])
}
