//! Does every fault do to real processes what its name says, and does what is no fault leave every call in peace? One
//! run of about a minute and a half, of a system made for it: a front and a leaf for each fault, so that many faults
//! are on at once without meeting. What happened is read from the truth that the run wrote.
//!
//! Needs root, redis-server and PostgreSQL, so it runs by name only:
//!
//! ```text
//! cargo test -p playground --test faults -- --ignored
//! ```
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "a test may panic; counts are small"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use playground::faults::{Kind, Role};
use playground::truth::{Sent, read_lines};
use serde_json::Value;

/// Leaves with nothing behind them.
const LEAVES: [&str; 8] = ["ash", "birch", "cedar", "elm", "fir", "hazel", "larch", "oak"];
/// A leaf with three replicas, one with Redis, one with PostgreSQL, and one that appears late.
const SPECIAL: [&str; 4] = ["crowd", "shop", "store", "late"];
/// Rounds of faults begin at these seconds; the events are a round of their own. The neighbour that takes every core
/// comes last, for what it makes late must not run into another round.
const ROUNDS: [u32; 6] = [8, 18, 28, 44, 54, 66];
/// The round of the events.
const EVENTS_AT: u32 = ROUNDS[4];
/// How long a fault lasts.
const LASTS: u32 = 6;
/// When the load ends.
const SECONDS: u32 = 80;

/// What callers saw of one callee in one span of time.
struct Span {
    calls: Vec<Sent>,
}

impl Span {
    fn of(&self, method: &str) -> Self {
        Self { calls: self.calls.iter().filter(|call| call.method.ends_with(method)).cloned().collect() }
    }

    /// A percentile of what a call takes, milliseconds.
    fn percentile(&self, share: f64) -> f64 {
        let mut all: Vec<f64> = self.calls.iter().map(|call| call.seconds * 1e3).collect();
        all.sort_by(f64::total_cmp);
        playground::load::percentile(&all, share)
    }

    /// The share of the calls that ended with a status.
    fn share(&self, status: &str) -> f64 {
        let count = self.calls.iter().filter(|call| call.status == status).count();
        count as f64 / self.calls.len().max(1) as f64
    }

    fn failed(&self) -> f64 {
        1.0 - self.share("OK")
    }
}

/// A fault, the span before all faults, the span while it was on, and the run that it was in.
struct Seen<'a> {
    usual: Span,
    struck: Span,
    run: &'a Run,
    from: f64,
    to: f64,
    service: String,
}

impl Seen<'_> {
    fn slower_by(&self, milliseconds: f64) -> bool {
        self.struck.percentile(0.5) > self.usual.percentile(0.5) + milliseconds
    }

    /// At least so much was added to the slowest tenth.
    fn tail_slower_by(&self, milliseconds: f64) -> bool {
        self.struck.percentile(0.9) > self.usual.percentile(0.9) + milliseconds
    }

    /// How much a number of a process's usage grew meanwhile, and before at the same length.
    fn growth(&self, field: &str) -> (f64, f64) {
        let of = |from: f64, to: f64| {
            let inside = |line: &&Value| {
                let at = line["at"].as_f64().unwrap();
                at >= from && at <= to && line["service"] == self.service.as_str()
            };
            let values: Vec<f64> =
                self.run.usage.iter().filter(inside).filter_map(|line| line[field].as_f64()).collect();
            values.last().zip(values.first()).map_or(0.0, |(last, first)| last - first)
        };
        (of(self.from, self.to), of(self.from - (self.to - self.from), self.from))
    }

    fn restarts(&self) -> Vec<&Value> {
        let mine = |event: &&Value| {
            let at = event["at"].as_f64().unwrap();
            event["event"] == "restarted"
                && event["service"] == self.service.as_str()
                && at > self.from
                && at < self.to + 2.0
        };
        self.run.events.iter().filter(mine).collect()
    }
}

/// One fault of the schedule and what must be seen of it.
struct Case {
    round: usize,
    kind: &'static str,
    service: &'static str,
    parameters: &'static str,
    holds: fn(&Seen) -> bool,
}

const fn case(
    round: usize,
    kind: &'static str,
    service: &'static str,
    parameters: &'static str,
    holds: fn(&Seen) -> bool,
) -> Case {
    Case { round, kind, service, parameters, holds }
}

fn cases() -> Vec<Case> {
    vec![
        case(0, "latency", "ash", "", |seen| seen.slower_by(180.0)),
        case(0, "latency-jitter", "birch", "", |seen| {
            seen.tail_slower_by(150.0) && seen.struck.percentile(0.1) < 120.0
        }),
        case(0, "latency-in-method", "cedar", "method = \"Do\"", |seen| {
            seen.struck.of("/Do").percentile(0.2) > 290.0 && seen.struck.of("/Look").percentile(0.5) < 200.0
        }),
        case(0, "latency-fraction", "elm", "fraction = 0.3", |seen| {
            seen.tail_slower_by(400.0) && seen.struck.percentile(0.4) < 200.0
        }),
        case(0, "errors", "fir", "", |seen| (0.25..0.75).contains(&seen.struck.share("UNAVAILABLE"))),
        case(0, "errors-in-method", "hazel", "method = \"Look\"", |seen| {
            seen.struck.of("/Look").share("INTERNAL") > 0.2 && seen.struck.of("/Do").failed() < 0.01
        }),
        case(0, "deadline-exceeded", "larch", "", |seen| seen.struck.share("DEADLINE_EXCEEDED") > 0.1),
        case(0, "broken-stream", "oak", "", |seen| {
            let broken = seen.struck.of("/Watch");
            let cut = broken.calls.iter().filter(|call| call.status != "OK");
            let cut: Vec<u64> = cut.map(|call| call.response_messages).collect();
            !cut.is_empty()
                && cut.iter().all(|&messages| messages == 2)
                && seen.struck.of("/Do").failed() < 0.01
        }),
        case(0, "load-balancer", "crowd", "", |seen| {
            (0.15..0.55).contains(&seen.struck.share("DEADLINE_EXCEEDED"))
        }),
        case(0, "slow-redis", "redis-shop", "", |seen| seen.tail_slower_by(100.0)),
        case(0, "slow-postgres", "postgres-store", "", |seen| seen.tail_slower_by(100.0)),
        case(1, "unavailable", "ash", "", |seen| seen.struck.share("UNAVAILABLE") > 0.2),
        case(1, "invalid-argument", "birch", "", |seen| seen.struck.share("INVALID_ARGUMENT") > 0.2),
        case(1, "permission-denied", "cedar", "", |seen| seen.struck.share("PERMISSION_DENIED") > 0.2),
        case(1, "resource-exhausted", "elm", "hold_ms = 300", |seen| {
            seen.struck.share("RESOURCE_EXHAUSTED") > 0.1 && seen.struck.share("OK") > 0.1
        }),
        case(1, "circuit-open", "front->fir", "", |seen| {
            seen.struck.calls.iter().all(|call| !call.left() && call.status == "UNAVAILABLE")
        }),
        case(1, "connection-leak", "shop", "", |seen| seen.run.connections > 100),
        case(1, "lock-contention", "larch", "lock_ms = 60", |seen| seen.tail_slower_by(50.0)),
        case(1, "pauses", "oak", "", |seen| seen.tail_slower_by(100.0)),
        case(1, "wire-loss", "front->crowd", "percent = 30", |seen| seen.struck.percentile(0.95) > 150.0),
        case(1, "refusing-backend", "postgres-store", "", |seen| seen.struck.share("UNAVAILABLE") > 0.8),
        // What is sent in the last second is answered when it runs again.
        case(2, "stop", "ash", "", |seen| seen.struck.failed() > 0.6),
        case(2, "crash-loop", "birch", "every_seconds = 2", |seen| {
            seen.restarts().len() >= 2 && seen.struck.failed() > 0.1
        }),
        case(2, "slow-start", "cedar", "latency_ms = 600, warm_seconds = 6", |seen| {
            let half = seen.struck.calls.len() / 2;
            let (early, late) = seen.struck.calls.split_at(half);
            let median = |calls: &[Sent]| Span { calls: calls.to_vec() }.percentile(0.5);
            median(early) > 250.0 && median(late) < median(early)
        }),
        case(2, "memory-growth", "elm", "mb_per_second = 30", |seen| seen.growth("memory_bytes").0 > 90e6),
        case(2, "memory-leak-oom", "fir", "mb_per_second = 100, headroom_mb = 100", |seen| {
            seen.restarts().iter().any(|event| event["oom_kills"].as_u64().unwrap_or(0) > 0)
        }),
        case(2, "cpu-quota", "hazel", "share = 0.5", |seen| {
            let (struck, usual) = seen.growth("throttled");
            struck > usual + 5.0 && seen.tail_slower_by(20.0)
        }),
        case(2, "wire-delay", "front->larch", "latency_ms = 80", |seen| seen.slower_by(25.0)),
        case(2, "bad-deployment", "oak", "latency_ms = 150, error_fraction = 0.5, method = \"Do\"", |seen| {
            seen.slower_by(140.0) && seen.struck.of("/Do").share("INTERNAL") > 0.2
        }),
        case(3, "cpu-hog", "ash", "", |seen| seen.growth("throttled").0 > 20.0 && seen.slower_by(10.0)),
        case(3, "cpu-hog-inside", "birch", "", |seen| {
            seen.growth("throttled").0 > 20.0 && seen.growth("cpu_seconds").0 > 0.5
        }),
        case(5, "noisy-neighbour", "neighbour", "threads = 8", |seen| seen.tail_slower_by(2.0)),
    ]
}

/// What may happen without a single failed call.
const EVENTS: [(&str, &str, &str); 6] = [
    ("burst", "users", "factor = 2.0"),
    ("rolling-restart", "ash", ""),
    ("scale-up", "birch", ""),
    ("scale-down", "crowd", ""),
    ("cache-warming", "shop", ""),
    ("batch-job", "batch-job", ""),
];

fn topology() -> String {
    let mut text = String::from(
        "name = \"grove\"\nentry = \"front\"\n[load]\nrequests_per_second = 120\ndeadline_ms = 4000\n\
         [backends.redis-shop]\nkind = \"redis\"\n[backends.postgres-store]\nkind = \"postgres\"\n\
         [services.front]\nstack = \"rust\"\ngrpc = \"grove.Front\"\nport = 80\n",
    );
    let mut steps = Vec::new();
    for leaf in LEAVES.iter().chain(&SPECIAL) {
        for method in ["Do", "Look", "Watch"] {
            writeln!(
                text,
                "[services.front.methods.{method}_{leaf}]\ncalls = [{{ to = \"{leaf}/{method}\" }}]"
            )
            .unwrap();
            steps.push(format!("\"{method}_{leaf}\""));
        }
    }
    for leaf in LEAVES.iter().chain(&SPECIAL) {
        writeln!(text, "[services.{leaf}]\nstack = \"rust\"\ngrpc = \"grove.{leaf}\"\nport = 80").unwrap();
        writeln!(text, "replicas = {}", if *leaf == "crowd" { 3 } else { 1 }).unwrap();
        if LEAVES.contains(leaf) {
            writeln!(text, "limits = {{ cpu = 0.2 }}").unwrap();
        }
        let data = match *leaf {
            "shop" => "redis = [{ instance = \"redis-shop\", op = \"set\", bytes = 50, keys = 100 }]\n",
            "store" => "postgres = [{ instance = \"postgres-store\", op = \"get\", keys = 100 }]\n",
            _ => "",
        };
        write!(text, "[services.{leaf}.methods.Do]\ncpu_us = 2000\n{data}").unwrap();
        write!(text, "[services.{leaf}.methods.Look]\ncpu_us = 1000\n{data}").unwrap();
        writeln!(text, "[services.{leaf}.methods.Watch]\nkind = \"server-stream\"\nresponse_messages = 4\ncpu_us = 500\n{data}").unwrap();
    }
    writeln!(text, "[users.all]\nweight = 1\nthink_ms = 50\nsteps = [{}]", steps.join(", ")).unwrap();
    text
}

fn schedule() -> String {
    let mut text = String::new();
    for Case { round, kind, service, parameters, .. } in cases() {
        let at = ROUNDS[round];
        writeln!(
            text,
            "[[faults]]\nkind = \"{kind}\"\nservice = \"{service}\"\nat_seconds = {at}\nduration_seconds = {LASTS}\n\
             parameters = {{ {parameters} }}"
        )
        .unwrap();
    }
    for (kind, service, parameters) in EVENTS {
        writeln!(
            text,
            "[[events]]\nkind = \"{kind}\"\nservice = \"{service}\"\nat_seconds = {}\nduration_seconds = {LASTS}\n\
             parameters = {{ {parameters} }}",
            EVENTS_AT
        )
        .unwrap();
    }
    text + "[[events]]\nkind = \"bad-client\"\nservice = \"shop\"\nat_seconds = 0\nduration_seconds = 50\n\
            parameters = { rate = 5.0 }\n\
            [[events]]\nkind = \"new-service\"\nservice = \"late\"\nat_seconds = 51\nduration_seconds = 1\n"
}

/// A run that has ended.
struct Run {
    events: Vec<Value>,
    usage: Vec<Value>,
    front: Vec<Sent>,
    out: PathBuf,
    /// Connections to the leaking service's backend while it leaked.
    connections: usize,
}

impl Run {
    fn play(folder: &Path) -> Self {
        std::fs::write(folder.join("grove.toml"), topology()).unwrap();
        std::fs::write(folder.join("schedule.toml"), schedule()).unwrap();
        let out = folder.join("out");
        let cgroup = format!("faultline-faults-{}", std::process::id());
        let mut run = Command::new(env!("CARGO_BIN_EXE_playground"))
            .args(["run", "--cgroup", &cgroup, "--base-port", "23400", "--seed", "5"])
            .args(["--seconds", &SECONDS.to_string(), "--topology"])
            .arg(folder.join("grove.toml"))
            .arg("--faults")
            .arg(folder.join("schedule.toml"))
            .arg("--out")
            .arg(&out)
            .spawn()
            .unwrap();
        let leaking = |events: &[Value]| {
            events.iter().any(|event| event["event"] == "fault_ended" && event["kind"] == "connection-leak")
        };
        let mut connections = 0;
        while run.try_wait().unwrap().is_none() {
            let events: Vec<Value> = read_lines(&out.join("events.jsonl")).unwrap_or_default();
            if !leaking(&events) {
                connections = connections.max(connections_to(&events, "redis-shop"));
            }
            std::thread::sleep(std::time::Duration::from_millis(500));
        }
        assert!(run.wait().unwrap().success(), "the run failed");
        assert!(!cgroup_left(&cgroup), "the run left its cgroups");
        Self {
            events: read_lines(&out.join("events.jsonl")).unwrap(),
            usage: read_lines(&out.join("usage.jsonl")).unwrap(),
            front: read_lines(&out.join("sent/front.jsonl")).unwrap(),
            out,
            connections,
        }
    }

    fn at(&self, event: &str, kind: &str) -> f64 {
        let found = self.events.iter().find(|line| line["event"] == event && line["kind"] == kind);
        found.unwrap_or_else(|| panic!("no {event} of {kind}"))["at"].as_f64().unwrap()
    }

    fn load_started(&self) -> f64 {
        self.events.iter().find(|line| line["event"] == "load_started").unwrap()["at"].as_f64().unwrap()
    }

    fn span(&self, callee: Option<&str>, from: f64, to: f64) -> Span {
        let inside = |call: &&Sent| {
            let at = call.t_ms as f64 / 1e3;
            at >= from && at < to && callee.is_none_or(|callee| call.callee == callee)
        };
        Span { calls: self.front.iter().filter(inside).cloned().collect() }
    }

    fn seen(&self, case: &Case) -> Seen<'_> {
        let (from, to) = (self.at("fault_started", case.kind) + 0.2, self.at("fault_ended", case.kind) - 0.2);
        let callee = match case.service.rsplit_once("->").map_or(case.service, |edge| edge.1) {
            "redis-shop" => Some("shop"),
            "postgres-store" => Some("store"),
            "neighbour" => None,
            callee => Some(callee),
        };
        let began = self.load_started();
        Seen {
            usual: self.span(callee, began + 1.0, began + f64::from(ROUNDS[0])),
            struck: self.span(callee, from, to),
            run: self,
            from,
            to,
            service: callee.unwrap_or_default().into(),
        }
    }
}

/// Established connections to a backend, both ends counted, while the run goes on.
fn connections_to(events: &[Value], backend: &str) -> usize {
    let ready = events.iter().find(|event| event["event"] == "ready" && event["service"] == backend);
    let Some(port) = ready.and_then(|event| event["port"].as_u64()) else { return 0 };
    let port = format!(":{port:04X} ");
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    table.lines().filter(|line| line.contains(&port) && line.contains(" 01 ")).count()
}

fn cgroup_left(cgroup: &str) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    points
        .filter(|point| point.starts_with("/sys/fs/cgroup"))
        .any(|point| Path::new(point).join(cgroup).exists())
}

#[test]
#[ignore = "needs root and a minute and a half: see the file's head"]
fn every_fault_has_its_effect_and_events_have_none() {
    let folder = tempfile::tempdir().unwrap();
    let run = Run::play(folder.path());
    let mut wrong = Vec::new();
    for case in cases() {
        let seen = run.seen(&case);
        if seen.struck.calls.is_empty() || !(case.holds)(&seen) {
            let statuses: BTreeMap<&str, usize> =
                seen.struck.calls.iter().fold(BTreeMap::new(), |mut counts, call| {
                    *counts.entry(call.status.as_str()).or_default() += 1;
                    counts
                });
            wrong.push(format!(
                "{} on {}: p50 {:.0} -> {:.0} ms, p90 {:.0} -> {:.0} ms, {statuses:?}, throttled {:?}, cpu {:?}, \
                 memory {:?}, {} connections",
                case.kind,
                case.service,
                seen.usual.percentile(0.5),
                seen.struck.percentile(0.5),
                seen.usual.percentile(0.9),
                seen.struck.percentile(0.9),
                seen.growth("throttled"),
                seen.growth("cpu_seconds"),
                seen.growth("memory_bytes"),
                run.connections,
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    events_do_no_harm(&run);
    let cases: BTreeSet<&str> = cases().iter().map(|case| case.kind).collect();
    let forgotten: Vec<&str> = Kind::all()
        .filter(|kind| kind.role() == Role::Fault && !cases.contains(kind.name()))
        .map(Kind::name)
        .collect();
    assert!(forgotten.is_empty(), "no case for {forgotten:?}");
}

/// While events go on, and at the end, when the neighbour is gone, no call fails; the bad client is refused, and nobody
/// else.
fn events_do_no_harm(run: &Run) {
    let began = run.load_started();
    let neighbour = run.at("fault_started", "noisy-neighbour");
    let end = began + f64::from(SECONDS);
    let gone = run.at("fault_ended", "noisy-neighbour") + 2.0;
    for (from, to) in [(began + f64::from(EVENTS_AT) - 1.0, neighbour), (gone, end)] {
        let span = run.span(None, from, to);
        let failed: Vec<&Sent> = span.calls.iter().filter(|call| call.status != "OK").collect();
        assert!(
            failed.is_empty(),
            "{} of {} calls failed: {:?}",
            failed.len(),
            span.calls.len(),
            failed.first()
        );
    }
    let burst = run.at("event_started", "burst");
    let calls = |from: f64| run.span(None, from, from + f64::from(LASTS) - 2.0).calls.len();
    let (usual, more) = (calls(began + 1.0), calls(burst + 1.0));
    assert!(more as f64 > 1.5 * usual as f64, "a burst of {more} calls after {usual}");
    let bad: Vec<Sent> = read_lines(&run.out.join("truth/bad-client.jsonl")).unwrap();
    assert!(bad.len() > 100 && bad.iter().all(|call| call.status == "INVALID_ARGUMENT"), "{:?}", bad.last());
    let late = run.at("event_started", "new-service");
    assert!(run.span(Some("late"), began, late - 1.0).calls.is_empty(), "called before it was there");
    let called = run.span(Some("late"), late, neighbour);
    assert!(called.calls.len() > 20 && called.failed() < 1e-9, "{} calls", called.calls.len());
}
