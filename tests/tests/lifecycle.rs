//! The agent's life: it leaves nothing attached however it ends, refuses bad input with one clear message,
//! and a replay repeats what it said.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use e2e::agent::{Agent, PATIENCE, binary, faultline, free_port};
use e2e::traffic;
use nix::sys::signal::Signal;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Every BPF link of this machine.
fn links() -> BTreeSet<u32> {
    aya::programs::loaded_links().map(|link| link.unwrap().id()).collect()
}

#[test]
fn nothing_stays_attached_however_it_ends() {
    for (signal, code) in [(Signal::SIGINT, Some(0)), (Signal::SIGTERM, Some(0)), (Signal::SIGKILL, None)] {
        let before = links();
        let agent = Agent::start(&[]);
        assert!(links().len() > before.len(), "the agent attached nothing");
        assert_eq!(agent.end(signal), code, "exit after {signal}");
        // The kernel frees a link after a grace period.
        let ended = Instant::now();
        while links() != before {
            assert!(ended.elapsed() < PATIENCE, "links stay attached after {signal}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Asserts a failure whose message holds every one of `words`, and that it is a message, not a panic.
#[track_caller]
fn refused(output: &Output, words: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "this must fail: {text}");
    assert!(output.status.code().is_some(), "ended by a signal: {text}");
    assert!(!text.contains("panicked"), "{text}");
    for word in words {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
}

#[test]
fn bad_input_gets_one_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    refused(&faultline(&["run", "--listen", &address]), &[&address, "in use"]);

    let config = path("faultline.toml");
    fs::write(&config, "listen = \"127.0.0.1:0\"\nstepp = 5\n").unwrap();
    refused(&faultline(&["run", "--config", &config]), &[&config, "stepp"]);
    fs::write(&config, "listen = [broken").unwrap();
    refused(&faultline(&["run", "--config", &config]), &[&config]);

    let listen = format!("127.0.0.1:{}", free_port());
    let nowhere = path("no-such-folder");
    refused(&faultline(&["run", "--listen", &listen, "--cgroup-root", &nowhere]), &[&nowhere, "cgroup"]);
    let ordinary = folder.path().to_str().unwrap();
    refused(&faultline(&["run", "--listen", &listen, "--cgroup-root", ordinary]), &[ordinary, "cgroup"]);

    refused(&faultline(&["replay", &path("missing")]), &[&path("missing")]);
    let foreign = path("foreign");
    fs::write(&foreign, "this is no recording, it is a letter to a friend\n").unwrap();
    refused(&faultline(&["replay", &foreign]), &[&foreign, "recording"]);
    fs::write(&foreign, "").unwrap();
    refused(&faultline(&["replay", &foreign]), &[&foreign]);

    refused(&faultline(&["top", "--once", "--url", &format!("http://{listen}")]), &[&listen]);
}

#[test]
fn without_privileges_it_says_which_are_missing() {
    let nobody = Nobody::with(&[]);
    let listen = format!("127.0.0.1:{}", free_port());
    refused(&nobody.faultline(&["run", "--listen", &listen]), &["CAP_BPF"]);
    let check = nobody.faultline(&["check"]);
    assert!(!check.status.success(), "check must fail where run would");
    assert!(String::from_utf8_lossy(&check.stdout).contains("CAP_BPF"));
}

#[test]
fn the_charts_three_capabilities_are_enough() {
    let listen = format!("127.0.0.1:{}", free_port());
    let check = Nobody::with(&["bpf", "net_admin", "perfmon"]).faultline(&["check", "--listen", &listen]);
    // It loads the programs and attaches them.
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
}

/// The agent's binary for a user without powers but the named capabilities.
struct Nobody {
    folder: tempfile::TempDir,
    powers: String,
}

impl Nobody {
    fn with(capabilities: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // The tree of a developer may be closed to others.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let copy = folder.path().join("faultline");
        fs::copy(binary("faultline"), &copy).unwrap();
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
        let powers: String = capabilities.iter().map(|capability| format!(",+{capability}")).collect();
        Self { folder, powers: format!("-all{powers}") }
    }

    fn faultline(&self, arguments: &[&str]) -> Output {
        Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .args(
                ["--inh-caps", "--ambient-caps", "--bounding-set"]
                    .map(|set| format!("{set}={}", self.powers)),
            )
            .arg(self.folder.path().join("faultline"))
            .args(arguments)
            .output()
            .unwrap()
    }
}

#[test]
fn a_replay_repeats_the_live_report_and_a_cut_recording_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let recording = folder.path().join("recording").to_str().unwrap().to_owned();
    let agent = Agent::start(&["--step", "1s", "--record", &recording]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (server, _task) = runtime.block_on(traffic::serve());
    for _ in 0..30 {
        let paths = ["/pkg.Echo/Ok", "/pkg.Echo/Status5", "/pkg.Echo/Ok"];
        runtime.block_on(traffic::call(server, "echo:50051", &paths, 100));
        std::thread::sleep(Duration::from_millis(100));
    }
    // A busy machine may count the last calls one step late.
    let settled = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64() + 1.0;
    let mut live = agent.report();
    while live["at"].as_f64().unwrap() < settled {
        std::thread::sleep(Duration::from_millis(20));
        live = agent.report();
    }
    assert_eq!(agent.end(Signal::SIGTERM), Some(0));

    let replay = || faultline(&["replay", &recording, "--all"]);
    let (once, twice) = (replay(), replay());
    assert!(once.status.success(), "{}", String::from_utf8_lossy(&once.stderr));
    assert_eq!(once.stdout, twice.stdout, "two replays differ");
    let replayed: Vec<Value> = String::from_utf8(once.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let same =
        replayed.iter().find(|report| report.get("at") == live.get("at")).expect("the live step is replayed");
    assert_eq!(*same, live);
    let echo = live["services"].as_array().unwrap().iter().find(|service| service["name"] == "echo");
    assert_eq!(echo.expect("a service by its authority")["calls_total"], 90, "{live:#}");

    let bytes = fs::read(&recording).unwrap();
    let secret = b"a-secret-that-must-not";
    assert!(
        !bytes.windows(secret.len()).any(|window| window == secret),
        "a foreign header value was recorded"
    );
    assert!(!bytes.windows(16).any(|window| window == [b'm'; 16]), "a payload was recorded");
    fs::write(&recording, &bytes[..bytes.len() - 7]).unwrap();
    refused(&faultline(&["replay", &recording]), &[&recording, "truncated"]);
}
