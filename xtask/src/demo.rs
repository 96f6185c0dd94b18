//! `cargo xtask demo`: the main job on one machine, from nothing. Starts the agent, a real gRPC system and
//! its users, breaks one thing on command, and reports whether the agent named it.
//!
//! The agent is told nothing of the system or of the fault: it sees the kernel alone. What it saw is held
//! against what the services themselves wrote down.

mod outcome;

use crate::house;
use crate::process::{self, Running, cargo, check_interrupted, command, run};
use crate::setup::{self, Purpose};
use anyhow::{Context, Result, bail};
use clap::Args;
use outcome::Outcome;
use serde_json::{Map, Value};
use std::fs;
use std::io::{BufRead, BufReader, IsTerminal};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Normal load before the fault: the baseline that the agent needs, and some margin.
const NORMAL_SECONDS: u64 = 100;

/// How long the fault lasts; the page must come within it.
const FAULT_SECONDS: u64 = 60;

/// Normal load behind the fault, so that the last calls are counted.
const AFTER_SECONDS: u64 = 10;

/// How long the playground may take to start.
const START_SECONDS: u64 = 120;

/// Break a real gRPC system on this machine and watch Faultline name the cause (needs root).
#[derive(Args, Clone, Default)]
#[command(after_help = "Examples:\n  cargo xtask demo                      a fault drawn by chance\n  \
    cargo xtask demo --list               every fault and the services it can strike\n  \
    cargo xtask demo --fault latency --service cartservice --json")]
pub(crate) struct Demo {
    /// The kind of fault.
    #[arg(long, requires = "service")]
    fault: Option<String>,
    /// The service to break.
    #[arg(long, requires = "fault")]
    service: Option<String>,
    /// Print every fault and the services it can strike.
    #[arg(long)]
    list: bool,
    /// Print one JSON object at the end.
    #[arg(long)]
    json: bool,
    /// The seed of the draw, where no fault is chosen, and of the load [default: from the clock, printed].
    #[arg(long)]
    seed: Option<u64>,
    /// Where to leave logs, truth and the recording.
    #[arg(long, default_value = "target/demo")]
    out: PathBuf,
}

impl Demo {
    pub(crate) fn run(&self) -> Result<()> {
        if !self.list && !setup::is_root() {
            bail!(
                "the demo loads kernel programs and makes cgroups: run it as root \
                 (`sudo -E env PATH=$PATH cargo xtask demo`)"
            );
        }
        process::catch_interrupts()?;
        prepare(self.list)?;
        if self.list {
            return run(playground().args(["faults", "--list"]));
        }
        let seed = self.seed.unwrap_or_else(seed_from_clock);
        let (fault, service) = match (&self.fault, &self.service) {
            (Some(fault), Some(service)) => (fault.clone(), service.clone()),
            _ => draw(seed)?,
        };
        let outcome = perform(&fault, &service, seed, &house::root().join(&self.out))?;
        if self.json {
            println!("{}", outcome.json());
        } else {
            println!("{}", outcome.words());
        }
        outcome.verdict()
    }
}

/// One demo as a test, with the binaries that the caller has built: fails unless the culprit came first.
pub(crate) fn passes(fault: &str, service: &str) -> Result<()> {
    run(playground().arg("setup"))?;
    let out = house::target().join("demo").join(format!("{fault}-{service}"));
    let outcome = perform(fault, service, 1, &out)?;
    println!("{}", outcome.json());
    outcome.verdict()
}

/// Sets up what is missing and builds the agent and the playground.
fn prepare(only_playground: bool) -> Result<()> {
    if !only_playground {
        setup::ensure(Purpose::Demo)?;
    }
    eprintln!("==> building (minutes the first time, seconds later)");
    let mut build = cargo(["build", "--release", "--package", "playground"]);
    if !only_playground {
        build.args(["--package", "faultline"]);
    }
    if !std::io::stderr().is_terminal() {
        build.arg("--quiet");
    }
    run(&mut build)?;
    if !only_playground {
        run(playground().arg("setup"))?;
    }
    Ok(())
}

fn playground() -> Command {
    command(house::binary("playground"))
}

fn topology() -> PathBuf {
    house::root().join("bench/topologies/online-boutique.toml")
}

fn seed_from_clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |time| time.as_secs())
}

/// What the demo draws from: faults that a watcher sees within a minute. The others are there by name.
const DRAWN: [&str; 6] = ["latency", "errors", "cpu-hog", "memory-growth", "stop", "slow-redis"];

/// Draws a fault and a service from those that the playground lists.
fn draw(seed: u64) -> Result<(String, String)> {
    let output = playground()
        .args(["faults", "--list", "--json", "--topology"])
        .arg(topology())
        .output()
        .context("cannot list the playground's faults")?;
    let pairs: Vec<Value> =
        serde_json::from_slice(&output.stdout).context("the playground's list of faults is not JSON")?;
    let drawn =
        |pair: &Value| pair.get("kind").and_then(Value::as_str).is_some_and(|kind| DRAWN.contains(&kind));
    let pairs: Vec<Value> = pairs.into_iter().filter(drawn).collect();
    // A multiplicative hash: neighbouring seeds give unlike draws.
    let place = (seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as usize % pairs.len().max(1);
    let pair = pairs.get(place).context("the playground lists no fault")?;
    let word = |key: &str| pair.get(key).and_then(Value::as_str).map(str::to_owned);
    let (fault, service) =
        word("kind").zip(word("service")).context("a listed fault has no kind or service")?;
    eprintln!("==> drawn with seed {seed}: {fault} on {service} (choose with --fault and --service)");
    Ok((fault, service))
}

/// Runs the whole demo.
fn perform(fault: &str, service: &str, seed: u64, out: &Path) -> Result<Outcome> {
    if out.exists() {
        fs::remove_dir_all(out).with_context(|| format!("cannot empty {}", out.display()))?;
    }
    fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    let schedule = out.join("schedule.toml");
    fs::write(
        &schedule,
        format!(
            "[[fault]]\nat_seconds = {NORMAL_SECONDS}\nduration_seconds = {FAULT_SECONDS}\n\
             kind = \"{fault}\"\nservice = \"{service}\"\n"
        ),
    )?;
    // Refused before anything is started, with the playground's own words.
    run(playground().args(["check", "--topology"]).arg(topology()).arg("--faults").arg(&schedule))?;

    let port = free_port()?;
    let url = format!("http://127.0.0.1:{port}");
    let agent_log = out.join("agent.log");
    let mut agent = Running::start(
        "the agent",
        command(house::binary("faultline"))
            .args(["run", "--listen", &format!("127.0.0.1:{port}"), "--record"])
            .arg(out.join("recording.faultline")),
        &agent_log,
    )?;
    eprintln!("==> the agent watches; its report: {url}/");
    wait("the agent", START_SECONDS, || {
        agent.check(&agent_log)?;
        Ok(get(&format!("{url}/healthz")).is_ok())
    })?;

    let system_log = out.join("playground.log");
    let seconds = NORMAL_SECONDS + FAULT_SECONDS + AFTER_SECONDS;
    let mut system = Running::start(
        "the playground",
        playground()
            .args(["run", "--topology"])
            .arg(topology())
            .arg("--faults")
            .arg(&schedule)
            .args(["--seconds", &seconds.to_string(), "--seed", &seed.to_string(), "--out"])
            .arg(out.join("truth")),
        &system_log,
    )?;
    eprintln!("==> starting real gRPC services, each in a cgroup of its own");
    let mut diary = Diary::new(out.join("truth/events.jsonl"));
    wait("the playground", START_SECONDS, || {
        system.check(&system_log)?;
        agent.check(&agent_log)?;
        Ok(diary.time("load_started").is_some())
    })?;
    eprintln!("==> users are busy; {NORMAL_SECONDS} s of normal load teach the agent what is usual");
    wait("the fault", NORMAL_SECONDS + 30, || {
        system.check(&system_log)?;
        agent.check(&agent_log)?;
        Ok(diary.time("fault_started").is_some())
    })?;
    let injected = diary.time("fault_started").context("the fault has no time")?;
    let false_pages = pages(&report(&url)?);
    eprintln!("==> injected: {fault} on {service}");

    let mut page = None;
    while !system.ended() && diary.time("fault_ended").is_none() {
        check_interrupted()?;
        agent.check(&agent_log)?;
        let report = report(&url)?;
        if pages(&report) > false_pages {
            page = Some((now() - injected, report, top(&url)));
            break;
        }
        sleep(Duration::from_millis(200));
    }
    let (seconds_to_page, ranking, top) = match page {
        Some((seconds, report, top)) => {
            eprintln!("==> paged {seconds:.1} s after the fault; `faultline top` says:");
            eprintln!("{top}");
            (Some(seconds), ranking(&report, "/incident/ranking"), top)
        }
        None => {
            eprintln!("==> the fault ended and no page came");
            (None, ranking(&report(&url)?, "/ranking"), top(&url))
        }
    };

    wait("the end of the load", seconds + 60, || {
        agent.check(&agent_log)?;
        Ok(system.ended())
    })?;
    system.stop()?;
    let calls_sent = calls_sent(&out.join("truth/sent.json"))?;
    // The last calls are counted when their step closes.
    let calls_seen = settled_calls(&url, &calls_sent)?;
    agent.stop()?;
    Ok(Outcome {
        fault: fault.to_owned(),
        service: service.to_owned(),
        culprits: culprits(&out.join("truth/faults.csv"))?,
        ranking,
        seconds_to_page,
        false_pages,
        calls_seen,
        calls_sent,
        top,
    })
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port on 127.0.0.1")?;
    Ok(listener.local_addr()?.port())
}

/// Waits until `ready` says so.
fn wait(what: &str, seconds: u64, mut ready: impl FnMut() -> Result<bool>) -> Result<()> {
    let started = Instant::now();
    while !ready()? {
        check_interrupted()?;
        if started.elapsed() > Duration::from_secs(seconds) {
            bail!("{what} was not there within {seconds} s; the logs in target/demo tell more");
        }
        sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn get(url: &str) -> Result<String> {
    let agent: ureq::Agent =
        ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(5))).build().into();
    let mut response = agent.get(url).call().with_context(|| format!("GET {url}"))?;
    response.body_mut().read_to_string().with_context(|| format!("GET {url}"))
}

fn report(url: &str) -> Result<Value> {
    // Before the first step has closed there is no report, and that is no failure.
    match get(&format!("{url}/api/v1/report")) {
        Ok(text) => serde_json::from_str(&text).context("the agent's report is not JSON"),
        Err(_) => Ok(Value::Null),
    }
}

/// How many incidents the agent has opened: they are numbered, and one may have closed already.
fn pages(report: &Value) -> u64 {
    let open = report.get("incident").into_iter();
    let past = report.get("past_incidents").and_then(Value::as_array).into_iter().flatten();
    open.chain(past).filter_map(|incident| incident.get("id")?.as_u64()).max().unwrap_or(0)
}

fn ranking(report: &Value, place: &str) -> Vec<String> {
    let suspects = report.pointer(place).and_then(Value::as_array);
    suspects
        .into_iter()
        .flatten()
        .filter_map(|suspect| suspect.get("service").and_then(Value::as_str).map(str::to_owned))
        .collect()
}

fn top(url: &str) -> String {
    match command(house::binary("faultline")).args(["top", "--once", "--url", url]).output() {
        Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Err(error) => format!("faultline top could not be started: {error}"),
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

fn calls_sent(file: &Path) -> Result<Map<String, Value>> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not a JSON object", file.display()))
}

/// The agent's counts of the calls that each service served, once two steps in a row say the same.
fn settled_calls(url: &str, sent: &Map<String, Value>) -> Result<Map<String, Value>> {
    let mut last: Option<(f64, Map<String, Value>)> = None;
    let started = Instant::now();
    loop {
        check_interrupted()?;
        let report = report(url)?;
        let at = report.get("at").and_then(Value::as_f64).unwrap_or(0.0);
        let counts: Map<String, Value> = report
            .get("services")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|service| {
                Some((service.get("name")?.as_str()?.to_owned(), service.get("calls_total")?.clone()))
            })
            .filter(|(name, _)| sent.contains_key(name))
            .collect();
        match &last {
            Some((seen_at, seen)) if at > *seen_at && *seen == counts => return Ok(counts),
            Some((seen_at, _)) if at <= *seen_at => {}
            _ => last = Some((at, counts)),
        }
        if started.elapsed() > Duration::from_secs(60) {
            return Ok(last.map(|(_, counts)| counts).unwrap_or_default());
        }
        sleep(Duration::from_millis(250));
    }
}

/// The root causes that the playground wrote down; alternatives are separated by `|`.
fn culprits(file: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut lines = text.lines();
    let column = lines
        .next()
        .and_then(|header| header.split(',').position(|name| name == "service"))
        .with_context(|| format!("{} has no column `service`", file.display()))?;
    let row = lines.next().with_context(|| format!("{} tells of no fault", file.display()))?;
    let service = row.split(',').nth(column).unwrap_or_default();
    Ok(service.split('|').map(str::to_owned).collect())
}

/// The playground's diary: one JSON object a line, written as things happen.
struct Diary {
    file: PathBuf,
}

impl Diary {
    fn new(file: PathBuf) -> Self {
        Self { file }
    }

    /// When something happened, in Unix seconds.
    fn time(&mut self, event: &str) -> Option<f64> {
        let lines = BufReader::new(fs::File::open(&self.file).ok()?).lines();
        lines
            .map_while(Result::ok)
            .filter_map(|line| serde_json::from_str::<Value>(&line).ok())
            .find(|entry| entry.get("event").and_then(Value::as_str) == Some(event))
            .and_then(|entry| entry.get("at").and_then(Value::as_f64))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn counts_pages_that_are_over() {
        let report = serde_json::json!({"incident": null, "past_incidents": [{"id": 2}, {"id": 1}]});
        assert_eq!(pages(&report), 2);
        assert_eq!(pages(&serde_json::json!({"incident": {"id": 3}, "past_incidents": []})), 3);
        assert_eq!(pages(&Value::Null), 0);
    }

    #[test]
    fn reads_the_culprits_from_the_truth() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("faults.csv");
        fs::write(&file, "fault_id,episode,start,end,service\nf1,e,1,2,redis-cart|cartservice\n").unwrap();
        assert_eq!(culprits(&file).unwrap(), ["redis-cart", "cartservice"]);
        fs::write(&file, "fault_id\n").unwrap();
        assert!(culprits(&file).is_err());
    }
}
