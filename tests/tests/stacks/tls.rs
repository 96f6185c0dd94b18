//! gRPC over TLS: gRPC C++ on Debian's libgrpc and Python's own `ssl`, each as the client of each. With `--tls` every
//! call is what the two ends say it was; without, and where another process was selected, such services are said to
//! be encrypted and masked.

use crate::matrix::hold;
use crate::{Watch, folder, script};
use e2e::agent::{Agent, PATIENCE};
use e2e::stacks::pair::Pair;
use e2e::stacks::peers::{BY_HAND, Network, Peers};
use e2e::stacks::scenario::{CONNECTIONS, exact};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// The stacks that use OpenSSL.
const STACKS: [&str; 2] = ["cpp", BY_HAND];

/// Calls of half a second each, one after the other: steps close while their connection is open, for longer than a
/// report is waited for.
const CALLS: u64 = 2 * PATIENCE.as_secs() + 20;

#[test]
#[ignore = "needs the peers that speak TLS: cargo xtask test stacks"]
fn calls_over_tls_are_what_both_ends_say() {
    let folder = folder();
    let pairs = STACKS.into_iter().flat_map(|client| STACKS.map(move |server| Pair::new(client, server)));
    let others = tls_programs();
    let watch = Watch::begin(&["--tls"]);
    until_attached(&others);
    hold(&exact(CONNECTIONS), pairs, &over_tls(folder.path()), watch);
}

#[test]
#[ignore = "needs the peers that speak TLS: cargo xtask test stacks"]
fn without_tls_such_services_are_encrypted_and_masked() {
    let (client, server) = report_of_pair(&[], |client, server| is_encrypted(client) && is_encrypted(server));
    assert_eq!((&client["calls_made_total"], &server["calls_total"]), (&0.into(), &0.into()));
}

#[test]
#[ignore = "needs the peers that speak TLS: cargo xtask test stacks"]
fn with_tls_such_services_are_seen() {
    let (_, server) = report_of_pair(&["--tls"], |client, server| {
        is_seen(client) && is_seen(server) && server["calls_total"].as_u64() > Some(3)
    });
    assert_eq!(server["kind"], "grpc");
}

/// The client is found after its connection was opened, so it is joined late, by what it encrypts.
#[test]
#[ignore = "needs the peers that speak TLS: cargo xtask test stacks"]
fn a_selected_process_is_seen_and_the_others_stay_encrypted() {
    report_of_pair(&["--tls-process", "/faultline-*-client"], |client, server| {
        is_seen(client) && client["calls_made_total"].as_u64() > Some(3) && is_encrypted(server)
    });
}

#[test]
#[ignore = "attaches to every process that uses libssl: cargo xtask test stacks"]
fn no_probe_stays_in_a_library_however_the_agent_ends() {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let others = tls_programs();
        let agent = Agent::start(&["--tls"]);
        let ours = until_attached(&others);
        let _code = agent.end(signal);
        until("the probes are gone", || ours.is_disjoint(&tls_programs()));
    }
}

/// The TLS programs that are loaded, by anyone.
fn tls_programs() -> BTreeSet<u32> {
    aya::programs::loaded_programs()
        .filter_map(Result::ok)
        .filter(|program| program.name_as_str().is_some_and(|name| name.starts_with("faultline_tls")))
        .map(|program| program.id())
        .collect()
}

/// Waits until TLS programs beside those of others are in a library; these.
fn until_attached(others: &BTreeSet<u32>) -> BTreeSet<u32> {
    until("the probes are attached", || {
        let ours = &tls_programs() - others;
        let mut links = aya::programs::loaded_links().filter_map(Result::ok);
        links.any(|link| ours.contains(&link.program_id()))
    });
    &tls_programs() - others
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// The peers, with a key and a certificate of their own.
fn over_tls(folder: &Path) -> Peers {
    let names = STACKS.map(|stack| format!("DNS:peer-{stack}")).join(",");
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
        .args(["-days", "2", "-subj", "/CN=peer", "-addext", &format!("subjectAltName={names},IP:127.0.0.1")])
        .args(["-keyout", "key.pem", "-out", "certificate.pem"])
        .current_dir(folder)
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(made.success(), "openssl made no certificate");
    Peers::find().over_tls(folder)
}

/// Makes slow calls between two C++ peers and gives the first report in which both services are as wanted.
fn report_of_pair(arguments: &[&str], wanted: fn(client: &Value, server: &Value) -> bool) -> (Value, Value) {
    let folder = folder();
    let calls: Vec<String> =
        (1..=CALLS).map(|id| format!("id={id} group={id} method=Unary req=100 res=200 delay=500")).collect();
    let script = script(folder.path(), calls.iter());
    let peers = over_tls(folder.path());
    let agent = Agent::start(&[&["--step", "1s"], arguments].concat());
    let server = peers.serve("cpp", Network::V4, None, folder.path()).unwrap();
    let target = Network::V4.target(server.port);
    let _client = peers.call("cpp", &target, &server.authority, &script, folder.path());
    let report = agent.until(|report| pair_of(report).is_some_and(|(client, server)| wanted(client, server)));
    let (client, server) = pair_of(&report).unwrap();
    (client.clone(), server.clone())
}

/// The client and the server of a report that knows both.
fn pair_of(report: &Value) -> Option<(&Value, &Value)> {
    let named = |suits: &dyn Fn(&str) -> bool| {
        report["services"].as_array()?.iter().find(|service| service["name"].as_str().is_some_and(suits))
    };
    let client = named(&|name| name.ends_with("-cpp-client"))?;
    // By its cgroup until its authority is known.
    let server =
        named(&|name| name == "peer-cpp").or_else(|| named(&|name| name.ends_with("-cpp-server")))?;
    Some((client, server))
}

fn is_encrypted(service: &Value) -> bool {
    let masked = service["masked"].as_str();
    service["state"] == "masked" && masked.is_some_and(|reason| reason.starts_with("encrypted"))
}

fn is_seen(service: &Value) -> bool {
    service["masked"].is_null() && service["seen_through"] == "TLS seen through libssl"
}
