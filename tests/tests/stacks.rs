//! Six gRPC stacks, each as client and server of each, under the agent: what it says of every call, from both
//! ends, is held against what the two ends say. `cargo xtask test stacks` builds the peers and runs this.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use e2e::agent::Agent;
use e2e::stacks::compare::{End, compare};
use e2e::stacks::peers::{Client, Network, Peers, STACKS, Server, retries};
use e2e::stacks::proxy::Proxy;
use e2e::stacks::scenario::{CONNECTIONS, Late, Planned, STREAMS, ageing, late, scenario};
use e2e::stacks::seen::{self, Seen};
use e2e::stacks::tally::{Tally, View as Part, known};
use e2e::stacks::truth::{Truths, expectations};
use faultline_core::call::View;
use faultline_core::units::CgroupId;
use nix::sys::signal::Signal;
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

/// Servers let go of a connection after so long, where they age, so that each pair sees several GOAWAYs.
const AGE: Duration = Duration::from_millis(500);

/// Calls that one pair may leave unseen, if their loss was counted: one in so many.
const ONE_IN: usize = 10_000;

/// Who calls whom, in the tests that do not run all pairs: each stack once as a client and once as a server.
const RING: [(&str, &str); 6] = [
    ("go", "java"),
    ("java", "cpp"),
    ("cpp", "python"),
    ("python", "node"),
    ("node", "rust"),
    ("rust", "go"),
];

/// One pair's calls and who made them.
struct Ran {
    name: String,
    client: CgroupId,
    server: CgroupId,
    /// The proxy between them, and what it calls the server.
    proxy: Option<(CgroupId, String)>,
    authority: String,
    retries: bool,
    network: Network,
    /// The server lets go of connections.
    ages: bool,
    truths: [String; 2],
}

#[test]
#[ignore = "needs the peers of six stacks: cargo xtask test stacks"]
fn every_stack_with_every_other() {
    let folder = tempfile::tempdir().unwrap();
    let (recording, agent) = watch(folder.path());
    let (plan, peers) = (scenario(STREAMS), Peers::find());
    let script = script(folder.path(), plan.iter().map(|planned| &planned.line));
    let all = STACKS.into_iter().flat_map(|client| STACKS.into_iter().map(move |server| (client, server)));
    let (mut runs, mut failures) = (Vec::new(), Vec::new());
    for (place, (client, server)) in all.enumerate().filter(|(_, pair)| wanted(*pair)) {
        // Along the rows and the columns of the matrix, so that each stack has each network at each end.
        let network = Network::ALL[(place + place / STACKS.len()) % Network::ALL.len()];
        let home = folder.path().join(format!("{client}-{server}"));
        fs::create_dir(&home).unwrap();
        match direct(&peers, (client, server), (network, None), &script, &home) {
            Ok(run) => runs.push(run),
            Err(why) => failures.push(format!("{client} -> {server}: {why}")),
        }
    }
    let seen = end(agent, &recording);
    println!("{} calls a pair, each seen at both ends", plan.len());
    judge(&runs, &plan, &seen, failures);
}

#[test]
#[ignore = "needs the peers of six stacks: cargo xtask test stacks"]
fn connections_that_age() {
    let folder = tempfile::tempdir().unwrap();
    let (recording, agent) = watch(folder.path());
    let (plan, peers) = (ageing(), Peers::find());
    let script = script(folder.path(), plan.iter().map(|planned| &planned.line));
    let (mut runs, mut failures) = (Vec::new(), Vec::new());
    for (client, server) in RING.into_iter().filter(|pair| wanted(*pair)) {
        let home = folder.path().join(format!("{client}-{server}-ageing"));
        fs::create_dir(&home).unwrap();
        match direct(&peers, (client, server), (Network::V4, Some(AGE)), &script, &home) {
            Ok(run) => runs.push(run),
            Err(why) => failures.push(format!("{client} -> {server}: {why}")),
        }
    }
    let seen = end(agent, &recording);
    println!("{} calls a pair, each seen at both ends, while the server lets go of connections", plan.len());
    judge(&runs, &plan, &seen, failures);
}

/// Judges pairs without anything between them, prints a line for each, and fails for what is wrong.
fn judge(runs: &[Ran], plan: &[Planned], seen: &HashMap<CgroupId, Seen>, mut failures: Vec<String>) {
    let mut total = (0, 0);
    for run in runs {
        let (ours, theirs) = (view(seen, run.client), view(seen, run.server));
        let views = [("client", View::Client, ours), ("server", View::Server, theirs)];
        match tally(run, plan, &views.map(|view| (view, run.authority.as_str())), false) {
            Err(why) => failures.push(why),
            Ok(tally) => {
                total = (total.0 + tally.sent, total.1 + tally.unseen);
                if tally.refused > 0 && !run.ages {
                    failures.push(format!("{}: {} attempts that nobody made", run.name, tally.refused));
                }
                let (connections, most) = (ours.opened.len(), theirs.most_at_once());
                let more = format!("; {:?}, {connections} connections, {most} at once", run.network);
                failures.extend(tally.report(&run.name, &more));
                failures.extend(on_the_wire(run, ours, theirs));
            }
        }
    }
    finish(seen, total, failures);
}

#[test]
#[ignore = "needs the peers of six stacks: cargo xtask test stacks"]
fn through_a_proxy() {
    let folder = tempfile::tempdir().unwrap();
    let (recording, agent) = watch(folder.path());
    let (plan, peers) = (scenario(CONNECTIONS), Peers::find());
    let script = script(folder.path(), plan.iter().map(|planned| &planned.line));
    let (mut runs, mut failures) = (Vec::new(), Vec::new());
    for (client, server) in RING.into_iter().filter(|pair| wanted(*pair)) {
        let home = folder.path().join(format!("{client}-proxy-{server}"));
        fs::create_dir(&home).unwrap();
        match proxied(&peers, (client, server), &script, &home) {
            Ok(run) => runs.push(run),
            Err(why) => failures.push(format!("{client} -> nginx -> {server}: {why}")),
        }
    }
    let seen = end(agent, &recording);
    println!("{} calls a pair, each seen at both ends of both connections", plan.len());
    let mut total = (0, 0);
    for run in &runs {
        let (proxy, called) = run.proxy.as_ref().unwrap();
        let proxy = view(&seen, *proxy);
        let views = [
            (("client", View::Client, view(&seen, run.client)), run.authority.as_str()),
            (("proxy as server", View::Server, proxy), run.authority.as_str()),
            (("proxy as client", View::Client, proxy), called),
            (("server", View::Server, view(&seen, run.server)), called),
        ];
        // nginx resets a stream whose server answers before its client has ended, so requests may be cut short.
        match tally(run, &plan, &views, true) {
            Err(why) => failures.push(why),
            Ok(tally) => {
                total = (total.0 + tally.sent, total.1 + tally.unseen);
                failures.extend(tally.report(&run.name, ""));
            }
        }
    }
    finish(&seen, total, failures);
}

#[test]
#[ignore = "needs the peers of six stacks: cargo xtask test stacks"]
fn connections_older_than_the_agent() {
    let folder = tempfile::tempdir().unwrap();
    let peers = Peers::find();
    let mut joined: Vec<Joined> = Vec::new();
    let mut failures = Vec::new();
    // Constant headers, the worst case, with a server of the same stack; and headers that differ in each call,
    // with a server of another.
    let constant = STACKS.into_iter().map(|stack| (stack, stack, false));
    let varied = RING.into_iter().map(|(client, server)| (client, server, true));
    for (client, server, varied) in constant.chain(varied).filter(|pair| wanted((pair.0, pair.1))) {
        let headers = if varied { "varied" } else { "constant" };
        let home = folder.path().join(format!("{client}-{server}-{headers}"));
        fs::create_dir(&home).unwrap();
        match join(&peers, (client, server), late(varied), &home) {
            Ok((server_peer, client_peer, late)) => joined.push(Joined {
                name: format!("{client} -> {server}, {headers}"),
                server: server_peer,
                client: client_peer,
                late,
            }),
            Err(why) => failures.push(format!("{client} -> {server}: {why}")),
        }
    }
    let (recording, agent) = watch(folder.path());
    let mut truths = Vec::new();
    for pair in &mut joined {
        pair.client.go_on();
    }
    for pair in &mut joined {
        truths.push(pair.client.finish());
    }
    let seen = end(agent, &recording);
    let mut total = (0, 0);
    for (pair, truth) in joined.iter().zip(truths) {
        match truth.and_then(|truth| judge_late(pair, &truth, &seen)) {
            Err(why) => failures.push(format!("{}: {why}", pair.name)),
            Ok((sent, unseen, found)) => {
                total = (total.0 + sent, total.1 + unseen);
                failures.extend(found);
            }
        }
    }
    finish(&seen, total, failures);
}

/// A pair whose connection is there before the agent.
struct Joined {
    name: String,
    server: Server,
    client: Client,
    late: Late,
}

/// Starts a pair and waits until its calls before the agent are made.
fn join(
    peers: &Peers,
    (client, server): (&str, &str),
    late: Late,
    home: &Path,
) -> Result<(Server, Client, Late), String> {
    let script = script(home, late.lines.iter());
    let server = peers.serve(server, Network::V4, None, home)?;
    let client = peers.call(client, &Network::V4.target(server.port), &server.authority, &script, home);
    client.until_it_waits()?;
    Ok((server, client, late))
}

/// Prints a late pair's line; gives the calls, those unseen, and what is wrong.
fn judge_late(
    pair: &Joined,
    truth: &str,
    seen: &HashMap<CgroupId, Seen>,
) -> Result<(usize, usize, Vec<String>), String> {
    let truths = Truths { client: truth, server: "", retries: false };
    let mut failures = Vec::new();
    let mut said = Vec::new();
    let plan = &pair.late.seen;
    let expected = [
        ("client", View::Client, pair.client.cgroup(), expectations(plan, truths, View::Client)?),
        ("server", View::Server, pair.server.cgroup(), expectations(plan, truths, View::Server)?),
    ];
    let mut parts = Vec::new();
    for (name, end, cgroup, expected) in &expected {
        let seen = view(seen, *cgroup);
        let calls: Vec<_> = seen.calls.iter().collect();
        let end = End { view: *end, authority: &pair.server.authority, ordered: true };
        let verdict = compare(expected, &calls, end);
        let (known, wrong) = known(&verdict.judged);
        failures.extend(wrong.into_iter().map(|what| format!("{}, {name}: {what}", pair.name)));
        said.push(format!("{name}: {} named, {} told, {} inferred", known.named, known.told, known.inferred));
        parts.push(Part { name, verdict, lost: seen.lost.clone() });
    }
    let tally = Tally::of(&parts, true);
    let (sent, unseen) = (tally.sent, tally.unseen);
    failures.extend(tally.report(&pair.name, &format!("; {}", said.join("; "))));
    Ok((sent, unseen, failures))
}

/// Starts the agent with a recording.
fn watch(folder: &Path) -> (PathBuf, Agent) {
    let recording = folder.join("recording");
    let agent = Agent::start(&["--step", "1s", "--record", recording.to_str().unwrap()]);
    (recording, agent)
}

/// Stops the agent once what the kernel saw last has reached the recording, which takes up to a step and its
/// grace; what it saw.
fn end(agent: Agent, recording: &Path) -> HashMap<CgroupId, Seen> {
    sleep(Duration::from_millis(2_000));
    assert_eq!(agent.end(Signal::SIGTERM), Some(0));
    if let Some(place) = std::env::var_os("FAULTLINE_KEEP") {
        fs::copy(recording, place).unwrap();
    }
    seen::read(recording)
}

fn script<'a>(folder: &Path, lines: impl Iterator<Item = &'a String>) -> PathBuf {
    let script = folder.join("scenario");
    fs::write(&script, lines.map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    script
}

/// Whether to run a pair: all, or those of `FAULTLINE_PAIRS`, such as `go-java,node-node`.
fn wanted((client, server): (&str, &str)) -> bool {
    let wanted = std::env::var("FAULTLINE_PAIRS").unwrap_or_default();
    wanted.is_empty() || wanted.split(',').any(|pair| pair == format!("{client}-{server}"))
}

/// Runs the scenario with one stack as the client of another.
fn direct(
    peers: &Peers,
    (client, server): (&str, &str),
    (network, age): (Network, Option<Duration>),
    script: &Path,
    home: &Path,
) -> Result<Ran, String> {
    let serving = peers.serve(server, network, age, home)?;
    let mut calling = peers.call(client, &network.target(serving.port), &serving.authority, script, home);
    let truth = calling.finish()?;
    Ok(Ran {
        name: format!("{client:>6} -> {server}"),
        client: calling.cgroup(),
        server: serving.cgroup(),
        proxy: None,
        authority: serving.authority.clone(),
        retries: retries(client),
        network,
        ages: age.is_some(),
        truths: [truth, serving.truth()],
    })
}

/// The same with nginx between them.
fn proxied(peers: &Peers, (client, server): (&str, &str), script: &Path, home: &Path) -> Result<Ran, String> {
    let network = Network::V4;
    let serving = peers.serve(server, network, None, home)?;
    let proxy = Proxy::start(serving.port, home)?;
    let mut calling = peers.call(client, &network.target(proxy.port), &serving.authority, script, home);
    let truth = calling.finish()?;
    Ok(Ran {
        name: format!("{client:>6} -> nginx -> {server}"),
        client: calling.cgroup(),
        server: serving.cgroup(),
        proxy: Some((proxy.cgroup(), proxy.authority.clone())),
        authority: serving.authority.clone(),
        retries: retries(client),
        network,
        ages: false,
        truths: [truth, serving.truth()],
    })
}

fn view(seen: &HashMap<CgroupId, Seen>, cgroup: CgroupId) -> &Seen {
    static NOTHING: std::sync::LazyLock<Seen> = std::sync::LazyLock::new(Seen::default);
    seen.get(&cgroup).unwrap_or(&NOTHING)
}

/// One end of a pair: what it is called, whose view it is, and what was seen there.
type Side<'a> = (&'static str, View, &'a Seen);

/// Judges a pair, each side with what the server is called there. `partly`: what is left open is no failure.
fn tally(run: &Ran, plan: &[Planned], ends: &[(Side<'_>, &str)], partly: bool) -> Result<Tally, String> {
    let truths = Truths { client: &run.truths[0], server: &run.truths[1], retries: run.retries };
    let mut expected = Vec::new();
    for ((_, end, _), _) in ends {
        expected.push(expectations(plan, truths, *end).map_err(|why| format!("{}: {why}", run.name))?);
    }
    let parts = ends.iter().zip(&expected).map(|(((name, end, seen), authority), expected)| {
        let calls = seen.calls(*end);
        let verdict = compare(expected, &calls, End { view: *end, authority, ordered: false });
        Part { name, verdict, lost: seen.lost.clone() }
    });
    Ok(Tally::of(&parts.collect::<Vec<_>>(), partly))
}

/// Whether the connections were what the pair was asked for: aged where they should, and of the right addresses at both ends.
fn on_the_wire(run: &Ran, ours: &Seen, theirs: &Seen) -> Vec<String> {
    let mut failures = Vec::new();
    if run.ages && ours.opened.len() < 3 {
        failures.push(format!("{}: no connection aged", run.name));
    }
    let ends: BTreeSet<_> = ours.ends().into_iter().collect();
    let mirrored: BTreeSet<_> = theirs.ends().into_iter().map(|(local, remote)| (remote, local)).collect();
    if ends != mirrored {
        failures.push(format!("{}: its ends differ: {ends:?} and {mirrored:?}", run.name));
    }
    if let Some((local, _)) = ends.iter().find(|(local, _)| local.is_ipv6() != (run.network == Network::V6)) {
        failures.push(format!("{}: {local} on {:?}", run.name, run.network));
    }
    failures
}

fn finish(seen: &HashMap<CgroupId, Seen>, (sent, unseen): (usize, usize), mut failures: Vec<String>) {
    println!(
        "{sent} calls sent, {unseen} unseen; lost of no known connection: {:?}",
        view(seen, CgroupId::default()).lost
    );
    if sent == 0 {
        failures.push("no pair ran".to_owned());
    }
    if unseen * ONE_IN > sent.max(ONE_IN) {
        failures.push(format!("{unseen} of {sent} calls unseen"));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
