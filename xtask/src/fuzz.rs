//! `cargo xtask fuzz`: looks for inputs that break something. The targets of tests/fuzz are built with coverage and
//! libFuzzer around them; what reaches new code is kept below the build folder, what breaks a target stops it.

use crate::house;
use crate::process::{cargo, catch_interrupts, check_interrupted, command, last_lines, run};
use crate::setup::step;
use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Map, Value};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// Seconds for each target when nothing else is said.
const SECONDS: u64 = 60;

/// Longest input, in bytes: room for a few dozen frames or rows; longer ones are only slower.
const LONGEST: &str = "-max_len=2048";

/// A target that needs more memory than this, in MiB, grows without bound; most need thirty.
const MOST_MEMORY: &str = "-rss_limit_mb=512";

/// An input that takes longer than this, in seconds, is a finding.
const SLOWEST: &str = "-timeout=10";

/// Look for inputs that break something.
#[derive(Args)]
pub(crate) struct Fuzz {
    /// Targets, as the folders of tests/fuzz/corpus are called [default: all, one after another].
    targets: Vec<String>,
    /// Seconds for each target [default: 60].
    #[arg(long, conflicts_with = "executions")]
    seconds: Option<u64>,
    /// Executions of each target.
    #[arg(long)]
    executions: Option<u64>,
    /// Instead, make the committed corpus the smallest that reaches what all inputs so far reach.
    #[arg(long)]
    minimise: bool,
}

/// What a run of a target came to.
struct Outcome {
    executions: u64,
    a_second: u64,
}

impl Fuzz {
    pub(crate) fn run(&self) -> Result<()> {
        let known = targets()?;
        if let Some(unknown) = self.targets.iter().find(|target| !known.contains(target)) {
            bail!("there is no target `{unknown}`; there are {}", known.join(", "));
        }
        let chosen = if self.targets.is_empty() { &known } else { &self.targets };
        catch_interrupts()?;
        step("fuzz", "building the targets with coverage", || build(&known))?;
        for target in chosen {
            check_interrupted()?;
            if self.minimise {
                minimise(target)?;
                continue;
            }
            let outcome = self.fuzz(target)?;
            let total = book(target, outcome.executions)?;
            eprintln!(
                "{target:>12} {:>12} executions ({} a second), {total} so far",
                outcome.executions, outcome.a_second
            );
        }
        if !self.minimise {
            eprintln!(
                "{:>12} {:>12} executions so far",
                "in all",
                ledger()?.values().filter_map(Value::as_u64).sum::<u64>()
            );
        }
        Ok(())
    }

    /// Runs one target until its time or its number is reached, or an input breaks it.
    fn fuzz(&self, target: &str) -> Result<Outcome> {
        let log = place().join(format!("{target}.log"));
        let (found, committed) = (found(target), committed(target));
        fs::create_dir_all(&found)?;
        let scratch = Scratch::make()?;
        let output = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let limit = match self.executions {
            Some(executions) => format!("-runs={executions}"),
            None => format!("-max_total_time={}", self.seconds.unwrap_or(SECONDS)),
        };
        let findings = place().join("findings");
        fs::create_dir_all(&findings)?;
        let status = command(house::binary(target))
            .args([&limit, LONGEST, MOST_MEMORY, SLOWEST, "-print_final_stats=1"])
            .arg(format!("-artifact_prefix={}/{target}-", findings.display()))
            .args([&found, &committed])
            .env("TMPDIR", &scratch.0)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .status()
            .with_context(|| format!("cannot start the target {target}"))?;
        let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
        let executions = statistic(&text, "number_of_executed_units")?;
        if !status.success() {
            book(target, executions)?;
            bail!(
                "an input breaks {target}; it lies in {}, and this is the end of {}:\n{}",
                findings.display(),
                log.display(),
                last_lines(&text, 30)
            );
        }
        Ok(Outcome { executions, a_second: statistic(&text, "average_exec_per_sec")? })
    }
}

/// The targets: whatever has a corpus.
fn targets() -> Result<Vec<String>> {
    let corpus = house::root().join("tests/fuzz/corpus");
    let mut names = Vec::new();
    for entry in fs::read_dir(&corpus).with_context(|| corpus.display().to_string())? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Builds every target; only the workspace's own crates are built again, with coverage.
fn build(targets: &[String]) -> Result<()> {
    let instrumented = house::root().join("tests/fuzz/instrumented");
    let mut build = cargo(["build", "--quiet", "--release", "--workspace", "--exclude", "faultline-ebpf"]);
    build.args(["--features", "faultline-fuzz/engine"]).env("RUSTC_WORKSPACE_WRAPPER", instrumented);
    run(build.args(targets.iter().flat_map(|target| ["--bin", target.as_str()])))
}

/// Writes the smallest set of inputs into the committed corpus.
fn minimise(target: &str) -> Result<()> {
    let (found, committed, all) = (found(target), committed(target), place().join("all").join(target));
    let scratch = Scratch::make()?;
    if all.exists() {
        fs::remove_dir_all(&all)?;
    }
    fs::create_dir_all(&all)?;
    fs::create_dir_all(&found)?;
    let log = place().join(format!("{target}.log"));
    let output = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let merged = command(house::binary(target))
        .args(["-merge=1", LONGEST, MOST_MEMORY, SLOWEST])
        .args([&all, &committed, &found])
        .env("TMPDIR", &scratch.0)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .status()?;
    if !merged.success() {
        bail!("the inputs of {target} could not be merged; see {}", log.display());
    }
    fs::remove_dir_all(&committed)?;
    fs::create_dir_all(&committed)?;
    for entry in fs::read_dir(&all)? {
        let entry = entry?;
        fs::copy(entry.path(), committed.join(entry.file_name()))?;
    }
    Ok(())
}

/// A number of libFuzzer's final statistics.
fn statistic(log: &str, name: &str) -> Result<u64> {
    let line =
        log.lines().rev().find_map(|line| line.strip_prefix("stat::")?.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|value| value.trim().parse().ok()).with_context(|| format!("the log does not tell {name}"))
}

/// Adds to the executions of a target; gives their sum.
fn book(target: &str, executions: u64) -> Result<u64> {
    let mut ledger = ledger()?;
    let before = ledger.get(target).and_then(Value::as_u64).unwrap_or(0);
    ledger.insert(target.to_owned(), (before + executions).into());
    let text = serde_json::to_string_pretty(&ledger)? + "\n";
    fs::write(book_of_executions(), text)?;
    Ok(before + executions)
}

/// Where executions are counted. It is committed: what was tried once was tried.
fn book_of_executions() -> PathBuf {
    house::root().join("bench/results/fuzz.json")
}

/// Executions by target.
fn ledger() -> Result<Map<String, Value>> {
    match fs::read(book_of_executions()) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
        Err(_) => Ok(Map::new()),
    }
}

/// Where inputs, logs and findings go.
fn place() -> PathBuf {
    house::target().join("fuzz")
}

fn found(target: &str) -> PathBuf {
    place().join("found").join(target)
}

fn committed(target: &str) -> PathBuf {
    house::root().join("tests/fuzz/corpus").join(target)
}

/// A folder for the targets' temporary files, in memory where there is one; it goes away with this value.
struct Scratch(PathBuf);

impl Scratch {
    fn make() -> Result<Self> {
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let folder = base.join(format!("faultline-fuzz-{}", std::process::id()));
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.0);
    }
}
