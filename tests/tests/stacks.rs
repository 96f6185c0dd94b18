//! Six gRPC stacks, each as client and server of each, under the agent: what it says of every call, from both
//! ends, is held against what the two ends say. `cargo xtask test stacks` builds the peers and runs this.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use e2e::agent::Agent;
use e2e::stacks::compare::{Verdict, compare};
use e2e::stacks::peers::{Peers, Run, STACKS};
use e2e::stacks::scenario::{Planned, scenario};
use e2e::stacks::truth::expectations;
use faultline_core::call::{Call, View};
use faultline_core::event::Event;
use faultline_core::recording::{Item, Reader};
use faultline_core::units::CgroupId;
use nix::sys::signal::Signal;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

/// How many findings of a kind and view are printed.
const SHOWN: usize = 4;

#[test]
#[ignore = "needs the peers of six stacks: cargo xtask test stacks"]
fn every_stack_with_every_other() {
    let folder = tempfile::tempdir().unwrap();
    let plan = scenario();
    let lines: Vec<&str> = plan.iter().map(|planned| planned.line.as_str()).collect();
    let script = folder.path().join("scenario");
    fs::write(&script, lines.join("\n") + "\n").unwrap();

    let recording = folder.path().join("recording");
    let agent = Agent::start(&["--step", "1s", "--record", recording.to_str().unwrap()]);
    let mut failures = Vec::new();
    let mut runs = Vec::new();
    for (client, server) in pairs() {
        let place = folder.path().join(format!("{client}-{server}"));
        fs::create_dir(&place).unwrap();
        match Peers::find().run(client, server, &script, &place) {
            Ok(run) => runs.push((client, server, run)),
            Err(why) => failures.push(format!("{client} -> {server}: {why}")),
        }
    }
    assert!(!runs.is_empty(), "no pair ran: {failures:#?}");
    // What the kernel saw last reaches the recording within a step.
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(agent.end(Signal::SIGTERM), Some(0));

    let seen = Seen::read(&recording);
    println!("{} calls a pair; each is seen twice: by its client's end and by its server's", plan.len());
    for (client, server, run) in &runs {
        failures.extend(judge(client, server, run, &plan, &seen));
    }
    println!("lost of no known connection: {:?}", seen.lost.get(&CgroupId::default()));
    if let Some(place) = std::env::var_os("FAULTLINE_KEEP") {
        fs::copy(&recording, place).unwrap();
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The pairs to run: all, or those of `FAULTLINE_PAIRS`, such as `go-java,node-node`.
fn pairs() -> Vec<(&'static str, &'static str)> {
    let wanted = std::env::var("FAULTLINE_PAIRS").unwrap_or_default();
    let peers = Peers::find();
    for stack in STACKS.iter().filter(|stack| !peers.has(stack)) {
        println!("SKIPPED: {stack}: its peer was not built");
    }
    let all = STACKS.iter().flat_map(|client| STACKS.iter().map(move |server| (*client, *server)));
    all.filter(|(client, server)| peers.has(client) && peers.has(server))
        .filter(|(client, server)| {
            wanted.is_empty() || wanted.split(',').any(|pair| pair == format!("{client}-{server}"))
        })
        .collect()
}

/// What the agent saw.
#[derive(Default)]
struct Seen {
    calls: HashMap<CgroupId, Vec<Call>>,
    /// What was lost of whose connections, by reason.
    lost: HashMap<CgroupId, BTreeMap<&'static str, u64>>,
}

impl Seen {
    fn read(recording: &Path) -> Self {
        let mut seen = Self::default();
        let mut cgroups = HashMap::new();
        for item in Reader::open(File::open(recording).unwrap()).unwrap() {
            match item.unwrap() {
                Item::Event(Event::Opened(opened)) => {
                    cgroups.insert(opened.connection, opened.cgroup);
                }
                Item::Event(Event::Call(call)) => {
                    let cgroup = cgroups.get(&call.connection).copied().unwrap_or_default();
                    seen.calls.entry(cgroup).or_default().push(*call);
                }
                Item::Event(Event::Lost(loss)) => {
                    let whose = loss.connection.and_then(|connection| cgroups.get(&connection)).copied();
                    let reasons = seen.lost.entry(whose.unwrap_or_default()).or_default();
                    *reasons.entry(loss.reason.name()).or_default() += loss.count;
                }
                _ => {}
            }
        }
        seen
    }
}

/// Prints a pair's line and gives what is wrong with it.
fn judge(client: &str, server: &str, run: &Run, plan: &[Planned], seen: &Seen) -> Vec<String> {
    let mut failures = Vec::new();
    let mut verdicts = Vec::new();
    for (view, cgroup) in [(View::Client, run.client), (View::Server, run.server)] {
        match expectations(plan, &run.client_truth, &run.server_truth, view) {
            Err(why) => failures.push(format!("{client} -> {server}: {why}")),
            Ok(expected) => {
                let calls: Vec<&Call> = seen.calls.get(&cgroup).into_iter().flatten().collect();
                verdicts.push((view, cgroup, compare(&expected, &calls, &run.authority, view)));
            }
        }
    }
    let sum = |of: fn(&Verdict) -> usize| verdicts.iter().map(|(_, _, verdict)| of(verdict)).sum::<usize>();
    println!(
        "{client:>6} -> {server:<6} {:>5} views, {:>5} exact, {} wrong, {} inexact, {} unseen",
        sum(|verdict| verdict.calls),
        sum(|verdict| verdict.exact),
        sum(|verdict| verdict.wrong.len()),
        sum(|verdict| verdict.inexact.len()),
        sum(|verdict| verdict.unseen.len()),
    );
    for (view, cgroup, verdict) in &verdicts {
        if let Some(lost) = seen.lost.get(cgroup) {
            println!("         {view:?} lost: {lost:?}");
        }
        let kinds = [("wrong", &verdict.wrong), ("inexact", &verdict.inexact), ("unseen", &verdict.unseen)];
        for (kind, findings) in kinds {
            for finding in &findings[..findings.len().min(SHOWN)] {
                println!("         {view:?} {kind}: {finding}");
            }
            // What was counted as lost may be left open or missing; what is said must be right all the same.
            let excused = kind == "inexact" || (kind == "unseen" && seen.lost.contains_key(cgroup));
            if !findings.is_empty() && !excused {
                failures.push(format!("{client} -> {server}, {view:?}: {} {kind}", findings.len()));
            }
        }
    }
    failures
}
