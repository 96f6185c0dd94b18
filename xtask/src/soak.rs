//! `cargo xtask soak`: one of Debian's kernels under load for hours and over many boots, with the kernel programs
//! attached and, as a control, without them. Consoles are kept; what came out is added to `bench/results`.

use crate::house;
use crate::kernels::guest::{Ended, Guest, Threads};
use crate::kernels::image::{SERIES, Series};
use crate::process::{build_host_crates, check_interrupted};
use crate::setup::{self, Purpose};
use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Keep a kernel under load for hours, with and without the programs, and count its panics.
#[derive(Args)]
pub(crate) struct Soak {
    /// The kernel's series.
    #[arg(long, default_value = "6.12")]
    kernel: String,
    /// How long, in hours; the boot that is running then is still finished.
    #[arg(long, default_value_t = 1.0)]
    hours: f64,
    /// Only the control: the same load without the programs.
    #[arg(long)]
    without_programs: bool,
    /// Emulate the two CPUs at the same time: more like a real machine, but QEMU itself then makes kernels panic
    /// (`Oops: int3`, counted on its own).
    #[arg(long)]
    parallel: bool,
}

/// One boot.
#[derive(Clone, Copy)]
struct Round {
    programs: bool,
    seconds: u64,
}

/// What is repeated: boots, since what went wrong once went wrong soon after one, and a longer run.
const ROUNDS: [Round; 7] = [
    Round { programs: true, seconds: 60 },
    Round { programs: true, seconds: 60 },
    Round { programs: false, seconds: 60 },
    Round { programs: true, seconds: 60 },
    Round { programs: true, seconds: 60 },
    Round { programs: true, seconds: 600 },
    Round { programs: false, seconds: 300 },
];

/// Beyond its load's time a guest needs some for its boot and its end; then it hangs. On a busy machine a guest of
/// low priority may take minutes to boot.
const GRACE: Duration = Duration::from_secs(600);

/// The guest's work. The agent comes and goes under the load, because attaching and detaching are where kernels
/// were seen to fail; so does a network that loses, delays, reorders and doubles packets.
const SCRIPT: &str = "\
weather() {
  while true; do
    sleep 7; /bin/tc qdisc add dev lo root netem limit 10000 delay 2ms loss 1% duplicate 1% reorder 5%
    sleep 7; /bin/tc qdisc del dev lo root
  done
}
agents() {
  while true; do
    echo agent started
    timeout 23 faultline run --log warn
    status=$?
    [ $status = 143 ] || [ $status = 0 ] || echo agent failed $status
  done
}
weather &
[ $programs = 1 ] && agents &
soak_load $seconds
verdict=$?
";

/// Lines of a console that say that the kernel broke.
const BROKEN: [&str; 5] =
    ["Kernel panic", "Oops", "general protection fault", "BUG: unable to handle", "kernel BUG at"];

/// What happened in boots of one kind.
#[derive(Default)]
struct Count {
    seconds: f64,
    boots: u64,
    calls: u64,
    agents: u64,
    /// Panics after the first process began.
    panics: u64,
    /// Panics before that: no program of ours was loaded yet.
    panics_before_init: u64,
    /// Of both, those by an `int3`, which QEMU causes; see [`Threads`].
    int3: u64,
    warnings: u64,
    stalls: u64,
    failures: u64,
}

impl Soak {
    pub(crate) fn run(&self) -> Result<()> {
        let Some(series) = Series::named(&self.kernel) else {
            let names = SERIES.map(|series| series.name).join(", ");
            bail!("there is no kernel {}: --kernel is one of {names}", self.kernel);
        };
        setup::ensure(Purpose::Test)?;
        build_host_crates()?;
        let folder = house::target().join("soak").join(series.name);
        fs::create_dir_all(&folder)?;
        let (agent, load) = (house::binary("faultline"), house::binary("examples/soak_load"));
        let programs = [("faultline", agent.as_path()), ("soak_load", load.as_path())];
        let guest = Guest::pack(&folder, &series.kernel()?, &programs, SCRIPT)?;
        // What is measured is what was built now, whatever happens to the checkout meanwhile.
        let object = digest(&house::root().join("agent-ebpf/built/faultline-probes.o"))?;
        let started = Instant::now();
        let mut boots = 0;
        let rounds = ROUNDS.into_iter().filter(|round| !(self.without_programs && round.programs));
        for round in rounds.cycle() {
            if started.elapsed().as_secs_f64() > self.hours * 3600.0 {
                break;
            }
            check_interrupted()?;
            boots += 1;
            let words = format!("loglevel=5 programs={} seconds={}", u8::from(round.programs), round.seconds);
            let log = folder.join(format!("boot-{boots}.log"));
            let ended =
                guest.boot(&words, self.threads(), &log, Duration::from_secs(round.seconds) + GRACE)?;
            let count = count(&ended);
            let release = ended.release().unwrap_or(series.name);
            say(round, release, &count, &log);
            let programs = if round.programs { json!(object) } else { Value::Null };
            add(release, self.threads(), &programs, &count)?;
        }
        Ok(())
    }

    fn threads(&self) -> Threads {
        if self.parallel { Threads::Two } else { Threads::One }
    }
}

fn say(round: Round, release: &str, count: &Count, log: &Path) {
    let with = if round.programs { "with" } else { "without" };
    eprintln!(
        "    {release} {with} programs, {:.0} s: {} calls, agent attached {} times, {} panics, {} before init, {} by int3, {} warnings, \
         {} stalls, {} failures ({})",
        count.seconds,
        count.calls,
        count.agents,
        count.panics,
        count.panics_before_init,
        count.int3,
        count.warnings,
        count.stalls,
        count.failures,
        log.display()
    );
}

/// Reads a console.
fn count(ended: &Ended) -> Count {
    let lines = |words: &[&str]| {
        let told = ended.console.lines().filter(|line| words.iter().any(|word| line.contains(word)));
        told.count() as u64
    };
    let calls = ended.console.lines().filter_map(|line| line.strip_prefix("calls ")?.parse().ok()).max();
    // One panic fills many lines.
    let panicked = lines(&BROKEN) > 0;
    let before_init = panicked && !ended.began();
    let failed = ended.verdict() != Some("0");
    Count {
        seconds: ended.ran.as_secs_f64(),
        boots: 1,
        calls: calls.unwrap_or(0),
        agents: lines(&["agent started"]),
        panics: u64::from(panicked && !before_init),
        panics_before_init: u64::from(before_init),
        int3: u64::from(panicked && lines(&["Oops: int3", "] int3: 0000"]) > 0),
        warnings: lines(&["WARNING: CPU", "WARNING: possible"]),
        // An emulated machine that gets no CPU time complains of the same.
        stalls: lines(&["soft lockup", "self-detected stall", "detected stalls"]),
        failures: lines(&["agent failed"]) + u64::from(failed && !panicked),
    }
}

/// Adds what happened to the committed results; boots of another kernel or other programs are another entry.
fn add(release: &str, threads: Threads, programs: &Value, count: &Count) -> Result<()> {
    let file = results();
    let mut entries: Vec<Value> = match fs::read_to_string(&file) {
        Ok(text) => serde_json::from_str(&text).with_context(|| format!("{} is broken", file.display()))?,
        Err(_) => Vec::new(),
    };
    let cpus = match threads {
        Threads::One => "2 CPUs in turns",
        Threads::Two => "2 CPUs at the same time",
    };
    let machine = format!("qemu-system-x86_64, emulated (TCG), {cpus}, 1 GiB");
    let is_same = |entry: &Value| {
        let is = |key: &str, value: &Value| entry.get(key) == Some(value);
        is("kernel", &json!(release)) && is("programs", programs) && is("machine", &json!(machine))
    };
    let old = match entries.iter().position(is_same) {
        Some(place) => entries.remove(place),
        None => Value::Null,
    };
    let sum = |key: &str, more: u64| old.get(key).and_then(Value::as_u64).unwrap_or(0) + more;
    let seconds = old.get("hours").and_then(Value::as_f64).unwrap_or(0.0) * 3600.0 + count.seconds;
    entries.push(json!({
        "kernel": release,
        "machine": machine,
        "programs": programs,
        "hours": (seconds / 3.6).round() / 1000.0,
        "boots": sum("boots", count.boots),
        "calls": sum("calls", count.calls),
        "agent_starts": sum("agent_starts", count.agents),
        "panics": sum("panics", count.panics),
        "panics_before_init": sum("panics_before_init", count.panics_before_init),
        "int3": sum("int3", count.int3),
        "warnings": sum("warnings", count.warnings),
        "stalls": sum("stalls", count.stalls),
        "failures": sum("failures", count.failures),
    }));
    entries.sort_by_key(|entry| {
        ["kernel", "programs", "machine"].map(|key| entry.get(key).map(Value::to_string))
    });
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(&file, serde_json::to_string_pretty(&entries)? + "\n")
        .with_context(|| format!("cannot write {}", file.display()))
}

fn results() -> PathBuf {
    house::root().join("bench/results/soak.json")
}

/// The first 12 hex digits of a file's SHA-256.
fn digest(file: &Path) -> Result<String> {
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(Sha256::digest(bytes).iter().take(6).map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(console: &str) -> Ended {
        Ended { console: console.to_owned(), ran: Duration::from_secs(60), overdue: false }
    }

    #[test]
    fn a_panic_is_counted_once_and_is_no_failure_of_the_load() {
        let count = count(&ended(
            "6.12.1-cloud-amd64\nagent started\ncalls 10\ncalls 25\nOops: 0000\n\
             Kernel panic - not syncing: Fatal exception in interrupt\n",
        ));
        assert_eq!((count.calls, count.agents, count.panics, count.failures), (25, 1, 1, 0));
    }

    #[test]
    fn a_panic_before_init_is_counted_on_its_own() {
        let count = count(&ended(
            "[   15.301129] Oops: int3: 0000 [#1] PREEMPT SMP NOPTI\n\
             [   15.304072] Kernel panic - not syncing: Fatal exception in interrupt\n",
        ));
        assert_eq!((count.panics, count.panics_before_init, count.int3, count.failures), (0, 1, 1, 0));
    }

    #[test]
    fn an_end_without_a_verdict_is_a_failure() {
        assert_eq!(count(&ended("calls 10\n")).failures, 1);
        assert_eq!(count(&ended("calls 10\nfaultline-guest-exit=0\n")).failures, 0);
        assert_eq!(count(&ended("agent failed 1\nfaultline-guest-exit=0\n")).failures, 1);
    }
}
