//! The kernel matrix: the agent's own check and the capture tests on Debian's kernels, in QEMU.
//!
//! Emulated without hardware virtualisation, so it is slow but runs anywhere. The guest has a pure cgroup v2
//! tree, no disk and no network but loopback: a busybox, the two binaries and their libraries in an initramfs.

use crate::house;
use crate::process::{check_interrupted, command, last_lines, run, run_quietly, test_host_crates};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Kernel series, and how the packages that hold them begin: the oldest that the agent supports, and the
/// newest long-term one that Debian 12 offers.
const SERIES: [(&str, &str); 2] = [("6.1", "linux-image-6.1.0-"), ("6.12", "linux-image-6.12.")];

/// A guest boots in seconds; emulated, the tests take a minute or two.
const GUEST_TIMEOUT: Duration = Duration::from_secs(600);

/// The capture tests that run in a guest. Those of bulk traffic do not: emulated, they take longer than all
/// others together, and it is the same byte code that the host's kernel runs.
const TESTS: [&str; 7] = [
    "unary_calls",
    "a_large_message",
    "a_connection_older_than_the_probes_is_joined",
    "a_refused_connect_is_told",
    "a_slow_answer_of_another_protocol_is_an_exchange",
    "the_verifier_has_hardly_more_to_prove_than_recorded",
    "nothing_stays_attached",
];

/// What the guest prints last, before the exit status of its tests.
const VERDICT: &str = "faultline-guest-exit=";

/// Runs the matrix, with the binaries that the caller has built.
pub(crate) fn verify() -> Result<()> {
    let tests = test_binary()?;
    let folder = house::target().join("kernels");
    fs::create_dir_all(&folder)?;
    let initramfs = initramfs(&folder, &[("faultline", &house::binary("faultline")), ("capture", &tests)])?;
    for (series, prefix) in SERIES {
        check_interrupted()?;
        let kernel = kernel(series, prefix)?;
        let log = folder.join(format!("{series}.log"));
        boot(series, &kernel, &initramfs, &log)?;
    }
    Ok(())
}

/// The capture tests' binary.
fn test_binary() -> Result<PathBuf> {
    let output = test_host_crates(&["--test", "capture", "--no-run", "--message-format=json"])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message.pointer("/target/name").and_then(Value::as_str) == Some("capture"))
        .find_map(|message| message.get("executable").and_then(Value::as_str).map(PathBuf::from))
        .context("cargo built no test binary called capture")
}

/// A kernel image of a series, downloaded once.
fn kernel(series: &str, prefix: &str) -> Result<PathBuf> {
    let place = house::cache().join("kernels").join(series);
    let image = place.join("vmlinuz");
    if image.is_file() {
        return Ok(image);
    }
    let names = command("apt-cache").args(["pkgnames", prefix]).output().context("cannot start apt-cache")?;
    let text = String::from_utf8_lossy(&names.stdout);
    let package = text
        .lines()
        .filter(|name| name.ends_with("-cloud-amd64"))
        .max_by_key(|name| {
            name.split(|c: char| !c.is_ascii_digit())
                .filter_map(|part| part.parse::<u64>().ok())
                .collect::<Vec<_>>()
        })
        .with_context(|| format!("Debian offers no {prefix}*-cloud-amd64: run apt-get update"))?;
    eprintln!("    downloading {package}");
    let unpacked = place.join("unpacked");
    fs::create_dir_all(&unpacked)?;
    let log = house::cache().join("logs").join(format!("kernel-{series}.log"));
    run_quietly(command("apt-get").args(["download", package]).current_dir(&place), &log)?;
    let archive = fs::read_dir(&place)?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get download left no .deb")?;
    run_quietly(command("dpkg-deb").arg("--extract").arg(&archive).arg(&unpacked), &log)?;
    let found = fs::read_dir(unpacked.join("boot"))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz")))
        .with_context(|| format!("{package} holds no boot/vmlinuz"))?;
    fs::rename(found, &image)?;
    fs::remove_dir_all(&unpacked)?;
    fs::remove_file(&archive)?;
    Ok(image)
}

/// Packs busybox, the programs and the libraries they ask for.
fn initramfs(folder: &Path, programs: &[(&str, &Path)]) -> Result<PathBuf> {
    let tree = folder.join("root");
    if tree.exists() {
        fs::remove_dir_all(&tree)?;
    }
    for name in ["bin", "proc", "sys", "tmp", "dev", "etc"] {
        fs::create_dir_all(tree.join(name))?;
    }
    let busybox = house::which("busybox").context("busybox is not installed (busybox-static)")?;
    fs::copy(busybox, tree.join("bin/busybox"))?;
    for applet in ["sh", "mount", "mkdir", "ip", "reboot", "cat", "uname"] {
        symlink("busybox", tree.join("bin").join(applet))?;
    }
    let mut libraries = BTreeSet::new();
    for (name, program) in programs {
        fs::copy(program, tree.join("bin").join(name))?;
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
    fs::write(&init, INIT.replace("@TESTS@", &TESTS.join(" ")))?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    let archive = folder.join("initramfs.cpio.gz");
    let pack = format!("find . | busybox cpio -o -H newc 2>/dev/null | gzip -1 > '{}'", archive.display());
    run(Command::new("sh").args(["-c", &pack]).current_dir(&tree))?;
    Ok(archive)
}

/// The guest's first process. The unified tree is mounted where any distribution has it.
const INIT: &str = "#!/bin/sh
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /sys/fs/cgroup /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
ip link set lo up
uname -r
faultline check
checked=$?
capture --test-threads=1 @TESTS@
tested=$?
echo faultline-guest-exit=$checked/$tested
reboot -f
";

/// The files that `ldd` names, the loader among them.
fn shared_libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("cannot start ldd")?;
    Ok(String::from_utf8_lossy(&output.stdout)
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect())
}

/// Boots one guest and reads its verdict.
fn boot(series: &str, kernel: &Path, initramfs: &Path, log: &Path) -> Result<()> {
    let started = Instant::now();
    let mut guest = crate::process::Running::start(
        "the guest",
        command("qemu-system-x86_64")
            .args(["-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "1024", "-nographic", "-no-reboot"])
            .args(["-nodefaults", "-serial", "stdio", "-append", "console=ttyS0 quiet panic=-1 psi=1"])
            .arg("-kernel")
            .arg(kernel)
            .arg("-initrd")
            .arg(initramfs),
        log,
    )?;
    while !guest.ended() {
        check_interrupted()?;
        if started.elapsed() > GUEST_TIMEOUT {
            bail!(
                "the {series} guest did not finish within {} s: see {}",
                GUEST_TIMEOUT.as_secs(),
                log.display()
            );
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    let text = String::from_utf8_lossy(&fs::read(log)?).replace('\r', "");
    let verdict = text.lines().rev().find_map(|line| line.strip_prefix(VERDICT));
    let release = text.lines().find(|line| line.starts_with(series)).unwrap_or(series);
    match verdict {
        Some("0/0") => {
            eprintln!(
                "    kernel {release}: check and capture passed in {:.0} s",
                started.elapsed().as_secs_f64()
            );
            Ok(())
        }
        _ => {
            let tail = last_lines(&text, 30);
            bail!(
                "kernel {release} failed ({}); its console ended with:\n{tail}",
                verdict.unwrap_or("no verdict")
            )
        }
    }
}
