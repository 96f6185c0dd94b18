//! What watching costs: the same traffic with and without the agent, in one run, in turns.
//!
//! Four pairs of a server and a client talk by turns for a fraction of a second each, round after round, in four
//! roles: one unwatched, one unwatched as well (the control, whose ratio says how exact the others are), one of which
//! the agent sees the server's end, one of which it sees both. Each round they change their roles ([`roles`]). The
//! agent runs all the time and watches one cgroup; for TLS it is another one, which looks into OpenSSL.
//! CPU comes from the processes' own clocks; [`costs`] turns each round's ratios into medians with intervals,
//! [`early`] asks what a packet costs that concerns nobody, [`report`] writes it down.

mod agent;
mod costs;
mod early;
mod machine;
mod openssl;
mod pair;
mod programs;
mod ratios;
mod report;
mod roles;
pub mod traffic;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;

use agent::Agent;
use costs::{Cost, Decoded, Round};
use machine::{Machine, busy_ticks};
use openssl::OverTls;
use pair::{Program, Slice, cpu_nanos};
use programs::SideBySide;
use report::{NanosARun, Rate, Report};
use roles::{CYCLE, Company, ROLES, Stage, turns};
use traffic::{Order, Talk};

/// One pair's turn. Short, so that what else the machine does meets all pairs alike.
const SLICE_MILLIS: u64 = 300;
/// How long a new connection is used before it counts: names are in the header tables then, windows open.
const WARM_MILLIS: u64 = 50;
/// After a turn the agent reads what the kernel still holds for it, at the latest after this.
const DRAINED_AFTER: Duration = Duration::from_millis(40);
/// How long each rate of calls is kept up.
const RATE_MILLIS: u64 = 6_000;
/// Calls a second at which the agent's own use is measured.
const RATES: [u32; 3] = [100, 1_000, 10_000];
/// How long programs run beside the yardsticks.
const PROGRAMS_MILLIS: u64 = 1_000;
/// What `--only` calls the packets that concern nobody.
const EARLY_EXIT: &str = "early exit";

/// What is talked, with its name.
struct Traffic {
    name: &'static str,
    talk: Talk,
    tls: bool,
}

const TRAFFIC: [Traffic; 7] = [
    Traffic { name: "gRPC, 1 stream, 100 B", talk: Talk::Grpc { streams: 1, bytes: 100 }, tls: false },
    Traffic { name: "gRPC, 10 streams, 100 B", talk: Talk::Grpc { streams: 10, bytes: 100 }, tls: false },
    Traffic { name: "gRPC, 1 stream, 100 KB", talk: Talk::Grpc { streams: 1, bytes: 100_000 }, tls: false },
    Traffic { name: "HTTP/1, 100 B", talk: Talk::Http1, tls: false },
    Traffic { name: "bulk TCP, 1 MiB", talk: Talk::Bulk, tls: false },
    Traffic {
        name: "gRPC over TLS, 1 stream, 100 B",
        talk: Talk::Grpc { streams: 1, bytes: 100 },
        tls: true,
    },
    Traffic {
        name: "gRPC over TLS, 1 stream, 100 KB",
        talk: Talk::Grpc { streams: 1, bytes: 100_000 },
        tls: true,
    },
];

/// Measure what the agent costs the traffic that it watches
#[derive(Args)]
#[command(after_help = "Example:\n  playground cost --out costs --only \"100 KB\" --rounds 8\n\n\
    `cargo xtask bench` builds what this needs and calls it: without its programs there is no gRPC over TLS and \
    nothing by the run.")]
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
    /// Turns of each pair at each kind of traffic, made a multiple of four
    #[arg(long, default_value_t = 32)]
    rounds: usize,
    /// Only kinds of traffic whose name contains this, such as TLS or "100 KB"; "early exit" is one of them
    #[arg(long)]
    only: Option<String>,
}

impl Flags {
    fn wants(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| name.contains(only.as_str()))
    }

    /// The wanted traffic with or without TLS.
    fn traffic(&self, tls: bool) -> impl Iterator<Item = &'static Traffic> {
        TRAFFIC.iter().filter(move |traffic| traffic.tls == tls && self.wants(traffic.name))
    }
}

/// Measures and writes the report.
pub fn measure(flags: &Flags) -> anyhow::Result<()> {
    let names = || TRAFFIC.iter().map(|traffic| traffic.name).chain([EARLY_EXIT]);
    ensure!(
        names().any(|name| flags.wants(name)),
        "no kind of traffic is called like that; there are: {}",
        names().collect::<Vec<_>>().join("; ")
    );
    let mut report = Report::new(Machine::here(), decoder_lines(flags.decoder.as_deref())?);
    let stage = Stage::claim()?;
    let measured =
        without_tls(flags, &stage, &mut report).and_then(|()| over_tls(flags, &stage, &mut report));
    stage.remove()?;
    measured?;
    fs::create_dir_all(&flags.out)?;
    let text = report.markdown();
    fs::write(flags.out.join("cost.json"), serde_json::to_string_pretty(&report)? + "\n")?;
    fs::write(flags.out.join("cost.md"), &text)?;
    println!("{text}");
    Ok(())
}

fn decoder_lines(file: Option<&Path>) -> anyhow::Result<Vec<String>> {
    let Some(file) = file else { return Ok(Vec::new()) };
    let text = fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// The program that talks without TLS: this one.
fn plain() -> anyhow::Result<Program> {
    Ok(Program { file: std::env::current_exe()?, arguments: &["talk"], unwatched_libraries: None })
}

/// All that the agent is asked for without `--tls`.
fn without_tls(flags: &Flags, stage: &Stage, report: &mut Report) -> anyhow::Result<()> {
    let early = flags.yardsticks.as_ref().filter(|_| flags.wants(EARLY_EXIT));
    if flags.traffic(false).next().is_none() && early.is_none() {
        return Ok(());
    }
    let agent = Agent::start(&stage.root()?, false)?;
    report.describe(agent.programs())?;
    let mut company = Company::new(stage, plain()?)?;
    for traffic in flags.traffic(false) {
        let before = agent.calls()?;
        let (mut cost, mut made) = cost(traffic, &mut company, &agent, flags.rounds)?;
        if let Some(object) = &flags.yardsticks {
            let programs = SideBySide::attach(object, &stage.root()?, agent.programs())?;
            let order = Order { talk: traffic.talk, millis: PROGRAMS_MILLIS, rate: None };
            let (done, ran) = programs.run(company.watched()?, order)?;
            report.nanos_a_run.extend(ran.iter().map(|ran| NanosARun::of(traffic.name, ran, done.requests)));
            made += done.requests;
        }
        cost.decoded = decoded(traffic, &agent, before, made)?;
        report.costs.push(cost);
    }
    if let Some(object) = early {
        report.early_exits = early::measure(stage, &agent, object)?;
    }
    if flags.only.is_none() {
        report.rates = rates(&mut company, &agent)?;
    }
    Ok(())
}

/// What looking into OpenSSL costs: pairs of the program that speaks TLS, and an agent with `--tls`.
fn over_tls(flags: &Flags, stage: &Stage, report: &mut Report) -> anyhow::Result<()> {
    if flags.traffic(true).next().is_none() {
        return Ok(());
    }
    let Some(tls) = OverTls::prepare()? else { return Ok(()) };
    let agent = Agent::start(&stage.root()?, true)?;
    report.describe(agent.programs())?;
    for traffic in flags.traffic(true) {
        let mut company = Company::new(stage, tls.program.clone())?;
        let before = agent.calls()?;
        let (mut cost, made) = cost(traffic, &mut company, &agent, flags.rounds)?;
        cost.decoded = decoded(traffic, &agent, before, made)?;
        report.costs.push(cost);
    }
    Ok(())
}

/// The pairs by turns; also how many requests were made to watched servers.
fn cost(
    traffic: &Traffic,
    company: &mut Company,
    agent: &Agent,
    rounds: usize,
) -> anyhow::Result<(Cost, u64)> {
    let order = |millis| Order { talk: traffic.talk, millis, rate: None };
    let (mut measured, mut made) = (Vec::new(), 0);
    for round in 0..rounds.next_multiple_of(CYCLE) {
        company.gather()?;
        let pairs = company.pairs();
        for (pair, role) in pairs.iter_mut().zip(&ROLES) {
            let done = pair.run(order(WARM_MILLIS))?.done;
            made += if role.server { done.requests } else { 0 };
        }
        sleep(DRAINED_AFTER);
        let mut taken = [(Slice::default(), 0, 0); ROLES.len()];
        for who in turns(round) {
            let (Some(pair), Some(place), Some(role)) =
                (pairs.get_mut(who), taken.get_mut(who), ROLES.get(who))
            else {
                continue;
            };
            let (agent_before, busy_before) = (cpu_nanos(agent.id())?, busy_ticks());
            let slice = pair.run(order(SLICE_MILLIS))?;
            sleep(DRAINED_AFTER);
            *place = (slice, cpu_nanos(agent.id())? - agent_before, busy_ticks() - busy_before);
            made += if role.server { slice.done.requests } else { 0 };
        }
        measured.push(Round::of(&taken).context("a round lacks a pair")?);
    }
    eprintln!("{}: measured", traffic.name);
    Ok((Cost::of(traffic.name, &measured, company.cycle()), made))
}

/// How many of the calls to watched servers the agent decoded: a ratio of what it did not see would mean nothing.
fn decoded(traffic: &Traffic, agent: &Agent, before: u64, made: u64) -> anyhow::Result<Option<Decoded>> {
    if !matches!(traffic.talk, Talk::Grpc { .. }) {
        return Ok(None);
    }
    Ok(Some(Decoded { made, seen: agent.calls_once(before + made)? - before }))
}

/// The agent's own use at each rate, and what callers feel with and without it.
fn rates(company: &mut Company, agent: &Agent) -> anyhow::Result<Vec<Rate>> {
    let [without, .., both] = company.pairs() else { return Ok(Vec::new()) };
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
            agent_resident_bytes: agent.resident_bytes()?,
            p50_us: [unwatched.p50_us, watched.p50_us],
            p99_us: [unwatched.p99_us, watched.p99_us],
        });
        eprintln!("{calls} calls/s: measured");
    }
    Ok(found)
}
