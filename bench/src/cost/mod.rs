//! What watching costs: the same traffic with and without the agent, in one run, in turns.
//!
//! Four pairs of a server and a client talk by turns for a fraction of a second each, round after round: one
//! unwatched, one unwatched as well (the control, whose ratio says how exact the others are), one of which the
//! agent sees the server's end, one of which it sees both. The agent runs all the time and watches one cgroup.
//! CPU comes from the processes' own clocks; [`report`] turns ratios of each round into medians with intervals.

mod machine;
mod pair;
mod programs;
mod ratios;
mod report;
pub mod traffic;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use aya::programs::ProgramInfo;
use clap::Args;

use crate::cgroups::{Cgroups, Limits};
use machine::{Machine, busy_ticks};
use pair::{Agent, Pair, Slice, cpu_nanos, resident_bytes};
use programs::Yardsticks;
use report::{Cost, NanosARun, Rate, Report, Round};
use traffic::{Order, Talk};

/// One pair's turn. Short, so that what else the machine does meets all pairs alike.
const SLICE_MILLIS: u64 = 300;
/// After a turn the agent reads what the kernel still holds for it, at the latest after this.
const DRAINED_AFTER: Duration = Duration::from_millis(40);
/// How long each rate of calls is kept up.
const RATE_MILLIS: u64 = 6_000;
/// Calls a second at which the agent's own use is measured.
const RATES: [u32; 3] = [100, 1_000, 10_000];
/// How long programs run beside the yardsticks.
const PROGRAMS_MILLIS: u64 = 1_000;
/// What is talked, with its name.
const TALKS: [(&str, Talk); 5] = [
    ("gRPC, 1 stream, 100 B", Talk::Grpc { streams: 1, bytes: 100 }),
    ("gRPC, 10 streams, 100 B", Talk::Grpc { streams: 10, bytes: 100 }),
    ("gRPC, 1 stream, 100 KB", Talk::Grpc { streams: 1, bytes: 100_000 }),
    ("HTTP/1, 100 B", Talk::Http1),
    ("bulk TCP, 1 MiB", Talk::Bulk),
];
/// The pairs: name, server watched, client watched.
const PAIRS: [(&str, bool, bool); 4] =
    [("without", false, false), ("control", false, false), ("server", true, false), ("both", true, true)];

/// Measure what the agent costs the traffic that it watches
#[derive(Args)]
pub struct Flags {
    /// Where to write cost.json and cost.md
    #[arg(long)]
    out: PathBuf,
    /// The object with the empty and the copying program
    #[arg(long)]
    yardsticks: Option<PathBuf>,
    /// What the decoder's own benchmark printed, to be part of the report
    #[arg(long)]
    decoder: Option<PathBuf>,
    /// Turns of each pair at each kind of traffic
    #[arg(long, default_value_t = 16)]
    rounds: usize,
    /// Only kinds of traffic whose name contains this
    #[arg(long)]
    only: Option<String>,
}

/// Measures and writes the report.
pub fn measure(flags: &Flags) -> anyhow::Result<()> {
    let machine = Machine::here();
    let (watched, unwatched) =
        (Cgroups::claim("faultline-cost-watched")?, Cgroups::claim("faultline-cost-unwatched")?);
    let measured = measure_in(flags, machine, &watched, &unwatched);
    watched.remove().and(unwatched.remove())?;
    let report = measured?;
    fs::create_dir_all(&flags.out)?;
    let text = report.markdown();
    fs::write(flags.out.join("cost.json"), serde_json::to_string_pretty(&report)? + "\n")?;
    fs::write(flags.out.join("cost.md"), &text)?;
    println!("{text}");
    Ok(())
}

fn measure_in(
    flags: &Flags,
    machine: Machine,
    watched: &Cgroups,
    unwatched: &Cgroups,
) -> anyhow::Result<Report> {
    let mut pairs = Vec::new();
    for (name, server, client) in PAIRS {
        let place = |is_watched: bool, end: &str| {
            let cgroups = if is_watched { watched } else { unwatched };
            cgroups.place(&format!("{name}-{end}"), Limits::default())
        };
        pairs.push(Pair::start(&place(server, "server")?, &place(client, "client")?)?);
    }
    let root = watched.v2_folder().context("no cgroup v2")?;
    let before = programs::loaded();
    let agent = Agent::start(&root)?;
    let attached = attached(&before)?;
    let mut report = Report {
        machine,
        programs: programs::described(&attached),
        map_bytes: programs::map_bytes(&attached)?,
        decoder: decoder_lines(flags.decoder.as_deref())?,
        costs: Vec::new(),
        nanos_a_run: Vec::new(),
        rates: Vec::new(),
    };
    for (name, talk) in TALKS {
        if flags.only.as_ref().is_some_and(|only| !name.contains(only.as_str())) {
            continue;
        }
        report.costs.push(cost(name, talk, &mut pairs, &agent, flags.rounds)?);
        if let Some(object) = &flags.yardsticks
            && let Some(both) = pairs.last_mut()
        {
            report.nanos_a_run.extend(side_by_side(name, talk, both, object, &root, &before)?);
        }
    }
    if flags.only.is_none() {
        report.rates = rates(&mut pairs, &agent)?;
    }
    Ok(report)
}

/// Waits for the agent's programs: it answers before they are attached.
fn attached(before: &BTreeSet<u32>) -> anyhow::Result<Vec<ProgramInfo>> {
    const PROGRAMS: usize = 3;
    let started = Instant::now();
    loop {
        let found = programs::since(before);
        if found.len() >= PROGRAMS {
            // The last one is loaded before it is attached.
            sleep(DRAINED_AFTER);
            return Ok(found);
        }
        ensure!(started.elapsed() < Duration::from_secs(20), "the agent loaded no programs");
        sleep(Duration::from_millis(50));
    }
}

fn decoder_lines(file: Option<&Path>) -> anyhow::Result<Vec<String>> {
    let Some(file) = file else { return Ok(Vec::new()) };
    let text = fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// The pairs by turns, in another order each round.
fn cost(name: &str, talk: Talk, pairs: &mut [Pair], agent: &Agent, rounds: usize) -> anyhow::Result<Cost> {
    let order = Order { talk, millis: SLICE_MILLIS, rate: None };
    for pair in &mut *pairs {
        pair.run(order)?;
    }
    sleep(DRAINED_AFTER);
    let mut measured = Vec::new();
    for round in 0..rounds {
        let mut turns = vec![(Slice::default(), 0, 0); pairs.len()];
        for turn in 0..pairs.len() {
            let who = (round + turn) % pairs.len();
            let (agent_before, busy_before) = (cpu_nanos(agent.id())?, busy_ticks());
            let (Some(pair), Some(place)) = (pairs.get_mut(who), turns.get_mut(who)) else { continue };
            let slice = pair.run(order)?;
            sleep(DRAINED_AFTER);
            *place = (slice, cpu_nanos(agent.id())? - agent_before, busy_ticks() - busy_before);
        }
        measured.push(Round::of(&turns).context("a round lacks a pair")?);
    }
    eprintln!("{name}: measured");
    Ok(Cost::of(name, &measured))
}

/// Nanoseconds a run of the agent's programs and of the yardsticks, on the same packets.
fn side_by_side(
    name: &str,
    talk: Talk,
    pair: &mut Pair,
    object: &Path,
    cgroup: &Path,
    before: &BTreeSet<u32>,
) -> anyhow::Result<Vec<NanosARun>> {
    let _yardsticks = Yardsticks::attach(object, cgroup)?;
    let _counting = programs::counting()?;
    let all = programs::since(before);
    let start = programs::counts(&all);
    let done = pair.run(Order { talk, millis: PROGRAMS_MILLIS, rate: None })?.done;
    let end = programs::counts(&all);
    let mut found = Vec::new();
    for program in &all {
        let (Some(from), Some(to)) = (start.get(&program.id()), end.get(&program.id())) else { continue };
        let (runs, nanos) = (to.0 - from.0, to.1 - from.1);
        if runs > 0 {
            found.push(NanosARun {
                talk: name.to_owned(),
                program: program.name_as_str().unwrap_or_default().to_owned(),
                runs,
                nanos: nanos as f64 / runs as f64,
                requests: done.requests,
            });
        }
    }
    Ok(found)
}

/// The agent's own use at each rate, and what callers feel with and without it.
fn rates(pairs: &mut [Pair], agent: &Agent) -> anyhow::Result<Vec<Rate>> {
    let [without, .., both] = pairs else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for calls in RATES {
        let talk = Talk::Grpc { streams: 1, bytes: 100 };
        let order = Order { talk, millis: RATE_MILLIS, rate: Some(calls) };
        let unwatched = without.run(order)?.done;
        sleep(DRAINED_AFTER);
        let before = cpu_nanos(agent.id())?;
        let watched = both.run(order)?.done;
        sleep(DRAINED_AFTER);
        let nanos = cpu_nanos(agent.id())? - before;
        found.push(Rate {
            calls_per_second: calls,
            reached: watched.requests as f64 / (RATE_MILLIS as f64 / 1e3),
            agent_cores: nanos as f64 / (RATE_MILLIS as f64 * 1e6),
            agent_resident_bytes: resident_bytes(agent.id())?,
            p50_us: [unwatched.p50_us, watched.p50_us],
            p99_us: [unwatched.p99_us, watched.p99_us],
        });
        eprintln!("{calls} calls/s: measured");
    }
    Ok(found)
}
