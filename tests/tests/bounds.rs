//! Real traffic that no node should have to bear: the agent's memory stays within what `faultline run --help` states,
//! what it drops it counts, and it is whole again afterwards.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use e2e::agent::{Agent, faultline, service};
use e2e::traffic;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

/// The limit in megabytes that the help of `run` states.
fn stated_limit() -> f64 {
    let help = String::from_utf8(faultline(&["run", "--help"]).stdout).unwrap();
    let words: Vec<&str> = help.split_whitespace().collect();
    let place = words.windows(2).position(|pair| pair == ["at", "most"]).expect("help states a limit");
    assert_eq!(
        words[place + 3].trim_end_matches([',', '.', ':', ';']),
        "MB",
        "{:?}",
        &words[place..place + 5]
    );
    words[place + 2].parse().unwrap()
}

/// The most that was ever resident of a process, in megabytes.
fn peak(agent: &Agent) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1e3
}

fn within_limit(agent: &Agent, what: &str) {
    let (peak, limit) = (peak(agent), stated_limit());
    println!("{what}: {peak:.0} MB of at most {limit:.0}");
    assert!(peak <= limit, "{what} took {peak:.0} MB, the help states {limit:.0}");
}

/// A server in a process of its own: both ends of ten thousand connections are more files than one may open.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "serves_the_others", "--ignored", "--nocapture"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut addresses =
            lines.map_while(Result::ok).filter_map(|line| line.strip_prefix("serves ")?.parse().ok());
        let address = addresses.next().expect("the server says where it listens");
        Self { child, address }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _killed = self.child.kill();
        let _status = self.child.wait();
    }
}

#[test]
#[ignore = "the other tests start it as a process and end it"]
fn serves_the_others() {
    let runtime = Runtime::new().unwrap();
    let (address, task) = runtime.block_on(traffic::serve());
    println!("\nserves {address}");
    runtime.block_on(task).unwrap();
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

/// What the agent says that it lost, but for `but`. A machine that others keep busy may have it lose records; then
/// each call is counted, or what is missing of it.
fn lost(report: &Value, but: &str) -> u64 {
    let lost = report["coverage"]["lost"].as_object().unwrap();
    lost.iter().filter(|(reason, _)| *reason != but).map(|(_, count)| number(count)).sum()
}

/// Waits until each of so many calls of a service is counted, or something is lost; all of them, if nothing is.
fn accounted(agent: &Agent, name: &str, calls: u64, but: &str) -> Value {
    let report = agent.until(|report| {
        service(report, name)
            .is_some_and(|service| number(&service["calls_total"]) + lost(report, but) >= calls)
    });
    let counted = number(&service(&report, name).unwrap()["calls_total"]);
    println!("{name}: {counted} of {calls}; lost {}", report["coverage"]["lost"]);
    assert!(counted == calls || lost(&report, but) > 0, "{:#}", report["coverage"]);
    assert!(counted <= calls, "{counted} calls of {calls}");
    report
}

/// A connection that stays, on which `method` was called once.
async fn held(server: SocketAddr, authority: &str) -> h2::client::SendRequest<bytes::Bytes> {
    let socket = TcpStream::connect(server).await.unwrap();
    let (client, connection) = h2::client::handshake(socket).await.unwrap();
    tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    let request = http::Request::post(format!("http://{authority}/pkg.Echo/Ok"))
        .header("content-type", "application/grpc")
        .body(())
        .unwrap();
    let (response, mut body) = client.send_request(request, false).unwrap();
    body.send_data(traffic::message(10), true).unwrap();
    let mut answer = response.await.unwrap().into_body();
    while let Some(chunk) = answer.data().await {
        let _length = chunk.unwrap().len();
    }
    let _trailers = answer.trailers().await.unwrap();
    client
}

#[test]
fn ten_thousand_connections() {
    let agent = Agent::start(&["--step", "1s"]);
    let runtime = Runtime::new().unwrap();
    let server = Server::start();
    let address = server.address;
    let mut all = Vec::new();
    for _ in 0..100 {
        let some = (0..100).map(|_| runtime.spawn(held(address, "crowd:50051"))).collect::<Vec<_>>();
        for connection in some {
            all.push(runtime.block_on(connection).unwrap());
        }
    }
    let report = accounted(&agent, "crowd", 10_000, "");
    assert_eq!(number(&report["coverage"]["lost"]["connection_evicted"]), 0);
    agent.until(|report| number(&report["coverage"]["connections"]["http2"]) + lost(report, "") >= 20_000);
    within_limit(&agent, "10,000 connections");
    drop(all);
}

#[test]
fn a_connection_for_each_call() {
    const CALLS: u64 = 4000;
    let agent = Agent::start(&["--step", "1s"]);
    let runtime = Runtime::new().unwrap();
    let (server, _task) = runtime.block_on(traffic::serve());
    for _ in 0..CALLS / 20 {
        let some: Vec<_> = (0..20)
            .map(|_| {
                runtime.spawn(async move { traffic::call(server, "once:50051", &["/pkg.Echo/Ok"], 10).await })
            })
            .collect();
        for call in some {
            runtime.block_on(call).unwrap();
        }
    }
    accounted(&agent, "once", CALLS, "");
    within_limit(&agent, "a connection for each call");
}

#[test]
fn a_hostile_client() {
    const CONNECTIONS: usize = 8;
    const METHODS: usize = 100_000 / CONNECTIONS;
    let agent = Agent::start(&["--step", "1s"]);
    let runtime = Runtime::new().unwrap();
    let (server, _task) = runtime.block_on(traffic::serve());
    let some: Vec<_> = (0..CONNECTIONS)
        .map(|client| {
            runtime.spawn(async move {
                let paths: Vec<String> = (0..METHODS)
                    .map(|number| format!("/attack{client}.Service/Method{number:040}"))
                    .collect();
                let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
                traffic::call(server, "victim:50051", &paths, 10).await;
            })
        })
        .collect();
    for client in some {
        runtime.block_on(client).unwrap();
    }
    let calls = (CONNECTIONS * METHODS) as u64;
    let report = accounted(&agent, "victim", calls, "method_overflow");
    let named = number(&service(&report, "victim").unwrap()["calls_total"]).saturating_sub(1000);
    let nameless = number(&report["coverage"]["lost"]["method_overflow"]);
    assert!(nameless >= named, "{nameless} calls are said to have lost their method's name, {named} did");
    let metrics = agent.get("/metrics").unwrap();
    let series =
        metrics.lines().filter(|line| line.starts_with("rpc_server_call_duration_seconds_count")).count();
    assert!(series < 1000, "{series} series");
    within_limit(&agent, "100,000 methods");
}

/// The ring is held full: what is lost is counted, those who lost it are masked, and then it is over.
#[test]
fn a_ring_held_full_for_a_minute() {
    let agent = Agent::start(&["--step", "1s", "--ring-size", "262144"]);
    let runtime = Runtime::new().unwrap();
    let (server, _task) = runtime.block_on(traffic::serve());
    let stop = Arc::new(AtomicBool::new(false));
    let load = {
        let stop = Arc::clone(&stop);
        runtime.spawn(async move {
            // Long connections, so that it is on them that bytes go past.
            let paths = ["/pkg.Echo/Ok"; 200];
            while !stop.load(Ordering::Relaxed) {
                traffic::call(server, "pressed:50051", &paths, 500).await;
            }
        })
    };
    let counted =
        |report: &Value| service(report, "pressed").map_or(0, |pressed| number(&pressed["calls_total"]));
    agent.until(|report| counted(report) > 200);
    let process = Pid::from_raw(i32::try_from(agent.id()).unwrap());
    kill(process, Signal::SIGSTOP).unwrap();
    std::thread::sleep(Duration::from_secs(60));
    kill(process, Signal::SIGCONT).unwrap();
    let report = agent.until(|report| {
        number(&report["coverage"]["lost"]["ring_full"]) > 0
            && service(report, "pressed").is_some_and(|pressed| pressed["masked"].is_string())
    });
    let pressed = service(&report, "pressed").unwrap();
    println!("lost {}, masked: {}, seen {}", report["coverage"]["lost"], pressed["masked"], pressed["seen"]);
    assert!(pressed["seen"]["ratio"].as_f64().is_none_or(|ratio| ratio < 0.99), "{pressed:#}");
    assert!(!report["ranking"].to_string().contains("pressed"), "who is masked is not ranked");
    let before = counted(&report);
    let report = agent.until(|report| {
        let pressed = service(report, "pressed");
        counted(report) > before + 200
            && pressed.is_some_and(|pressed| pressed["masked"].is_null())
            && pressed
                .is_some_and(|pressed| pressed["seen"]["ratio"].as_f64().is_some_and(|ratio| ratio > 0.98))
    });
    println!("whole again: {}", service(&report, "pressed").unwrap()["seen"]);
    stop.store(true, Ordering::Relaxed);
    runtime.block_on(load).unwrap();
    within_limit(&agent, "a ring held full");
}

/// A hundred services at a thousand calls a second, for as long as the environment says (default: two minutes), at
/// the default settings but for the step; prints what is resident every ten seconds.
#[test]
#[ignore = "takes minutes; the history is full after 360 steps"]
fn a_hundred_services_at_a_thousand_calls_a_second() {
    let seconds = std::env::var("FAULTLINE_TEST_SECONDS").map_or(120, |seconds| seconds.parse().unwrap());
    let agent = Agent::start(&["--step", "1s"]);
    let runtime = Runtime::new().unwrap();
    let started = Instant::now();
    for number in 0..100 {
        let (server, _task) = runtime.block_on(traffic::serve());
        runtime.spawn(async move {
            let authority = format!("service-{number:02}:50051");
            let client = held(server, &authority).await;
            let mut beat = tokio::time::interval(Duration::from_millis(100));
            let paths = ["One", "Two", "Three", "Four", "Five"];
            for path in paths.iter().cycle() {
                beat.tick().await;
                let request = http::Request::post(format!("http://{authority}/pkg.Echo/{path}"))
                    .header("content-type", "application/grpc")
                    .body(())
                    .unwrap();
                let mut client = client.clone().ready().await.unwrap();
                let (response, mut body) = client.send_request(request, false).unwrap();
                body.send_data(traffic::message(100), true).unwrap();
                let mut answer = response.await.unwrap().into_body();
                while answer.data().await.is_some() {}
            }
        });
    }
    while started.elapsed() < Duration::from_secs(seconds) {
        std::thread::sleep(Duration::from_secs(10));
        let report = agent.report();
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", agent.id())).unwrap();
        let resident = statm.split(' ').nth(1).unwrap().parse::<f64>().unwrap() * 4096.0 / 1e6;
        println!(
            "{:>4} s: {resident:.1} MB resident, peak {:.1}, {} services, {} calls, lost {}",
            started.elapsed().as_secs(),
            peak(&agent),
            report["services"].as_array().unwrap().len(),
            report["coverage"]["calls"],
            report["coverage"]["lost"]
        );
    }
    assert!(peak(&agent) <= 60.0, "{:.1} MB were resident", peak(&agent));
}
