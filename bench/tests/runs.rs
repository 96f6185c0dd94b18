//! Whole runs on a real machine: the shipped topologies serve their users and the agent counts each call, nodes are
//! namespaces of their own, and nothing is left behind, whichever way a run or a search for the limit ends.
//!
//! Needs root, redis-server, PostgreSQL, iproute2 and the agent's program, so it runs by name only:
//!
//! ```text
//! cargo build -p faultline
//! cargo test -p playground --test runs -- --ignored --test-threads=1
//! ```
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use playground::truth::read_lines;
use serde_json::Value;

/// Failed calls of a healthy run, at most this share.
const UNPLANNED: f64 = 0.001;

/// The arguments of a run of this test, which nobody else's run is like.
fn playground(cgroup: &str, out: &Path) -> Command {
    let mut run = Command::new(env!("CARGO_BIN_EXE_playground"));
    run.args(["run", "--cgroup", cgroup, "--base-port", "23600", "--seed", "3", "--out"]).arg(out);
    run.stderr(Stdio::null());
    run
}

fn topologies() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("topologies");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|kind| kind == "toml")).collect()
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Nearly every call went well, and callers and callees agree on how many there were.
fn healthy(out: &Path) {
    let edges = json(&out.join("edges.json"));
    let sum =
        |field: &str| edges.as_array().unwrap().iter().map(|edge| edge[field].as_u64().unwrap()).sum::<u64>();
    let (calls, failed) = (sum("calls"), sum("failed") + sum("never_left"));
    assert!(calls > 100, "{} has only {calls} calls", out.display());
    #[expect(clippy::cast_precision_loss, reason = "calls of some seconds")]
    let share = failed as f64 / calls as f64;
    assert!(share <= UNPLANNED, "{}: {failed} of {calls} calls failed", out.display());
    for (service, served) in json(&out.join("calls.json")).as_object().unwrap() {
        let sent = &json(&out.join("sent.json"))[service];
        let (served, sent) = (served.as_u64().unwrap(), sent.as_u64().unwrap());
        assert!(served.abs_diff(sent) * 1_000 <= sent, "{service} served {served} of {sent} calls");
    }
}

/// The agent counted the calls, as nearly as a run's own judgement asks; too few only if it says that it lost some.
fn agreed(out: &Path) {
    let found = json(&out.join("agreement.json"));
    let lost = found["lost"].as_object().unwrap().values().any(|count| count != 0);
    let edges = found["edges"].as_array().unwrap();
    assert!(!edges.is_empty());
    for edge in edges {
        let (truth, agent) = (edge["truth"].as_u64().unwrap(), edge["agent"].as_u64().unwrap());
        let agrees = agent.abs_diff(truth) * 1_000 <= truth;
        assert!(agrees || (agent < truth && lost), "{edge}, lost: {}", found["lost"]);
    }
}

/// What belongs to a cgroup's run: cgroups, processes in them, namespaces, rules, links.
fn left_behind(cgroup: &str) -> Vec<String> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let points =
        mounts.lines().filter(|line| line.contains(" cgroup")).filter_map(|line| line.split(' ').nth(1));
    let folders = points.map(|point| Path::new(point).join(cgroup)).filter(|folder| folder.exists());
    let mut left: Vec<String> = folders.map(|folder| folder.display().to_string()).collect();
    let shown = |program: &str, words: &[&str]| {
        let output = Command::new(program).args(words).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let table = cgroup.replace('-', "_");
    left.extend(
        shown("nft", &["list", "tables"]).lines().filter(|line| line.contains(&table)).map(str::to_owned),
    );
    left
}

fn namespaces() -> Vec<String> {
    let found = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let mut names: Vec<String> = found.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn wait_for(run: &mut Child, out: &Path, event: &str) -> Value {
    let began = Instant::now();
    loop {
        let events: Vec<Value> = read_lines(&out.join("events.jsonl")).unwrap_or_default();
        if let Some(found) = events.into_iter().find(|line| line["event"] == event) {
            return found;
        }
        assert!(run.try_wait().unwrap().is_none(), "the run ended before {event}");
        assert!(began.elapsed() < Duration::from_secs(120), "no {event}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
#[ignore = "needs root: see the file's head"]
fn shipped_topologies_serve_their_users() {
    let cgroup = format!("faultline-shipped-{}", std::process::id());
    let folder = tempfile::tempdir().unwrap();
    for topology in topologies() {
        let out = folder.path().join(topology.file_stem().unwrap());
        // One request that a busy machine fails is more than the thousandth of so short a run that it may fail, so
        // its exit code says less than its files.
        playground(&cgroup, &out)
            .args(["--agent", "--rust-only", "--seconds", "15", "--topology"])
            .arg(&topology)
            .status()
            .unwrap();
        healthy(&out);
        agreed(&out);
    }
    assert_eq!(left_behind(&cgroup), Vec::<String>::new());
}

#[test]
#[ignore = "needs root: see the file's head"]
fn nodes_are_namespaces_with_cgroups_of_their_own() {
    let cgroup = format!("faultline-nodes-{}", std::process::id());
    let folder = tempfile::tempdir().unwrap();
    let before = namespaces();
    let out = folder.path().join("out");
    // Gentle enough for every call to succeed: a run whose faults cannot happen fails.
    let schedule = folder.path().join("schedule.toml");
    let gentle = "at_seconds = 3\nduration_seconds = 4\nparameters = { strength = 0.1 }";
    let fault =
        |kind: &str| format!("[[faults]]\nkind = \"{kind}\"\nservice = \"home->catalog\"\n{gentle}\n");
    std::fs::write(&schedule, fault("wire-loss") + &fault("wire-delay")).unwrap();
    let mut run = playground(&cgroup, &out)
        .args(["--rust-only", "--nodes", "3", "--seconds", "12", "--topology"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("topologies/layered-mesh.toml"))
        .arg("--faults")
        .arg(&schedule)
        .spawn()
        .unwrap();
    wait_for(&mut run, &out, "load_started");
    assert_eq!(namespaces().len(), before.len() + 4, "three nodes and the bridge's");
    let ready: Vec<Value> = read_lines(&out.join("events.jsonl")).unwrap();
    let mut hosts: Vec<&str> = ready
        .iter()
        .filter(|event| event["event"] == "ready")
        .filter_map(|event| event["address"].as_str()?.rsplit_once(':').map(|(host, _)| host))
        .collect();
    hosts.sort_unstable();
    hosts.dedup();
    assert_eq!(hosts.len(), 3, "{hosts:?}");
    assert!(run.wait().unwrap().success());
    healthy(&out);
    assert_eq!(left_behind(&cgroup), Vec::<String>::new());
    assert_eq!(namespaces(), before);
}

#[test]
#[ignore = "needs root: see the file's head"]
fn nothing_is_left_however_a_run_ends() {
    let cgroup = format!("faultline-ended-{}", std::process::id());
    let folder = tempfile::tempdir().unwrap();
    let before = namespaces();
    let schedule = folder.path().join("schedule.toml");
    std::fs::write(&schedule, "[[faults]]\nkind = \"wire-loss\"\nservice = \"frontend->cartservice\"\n")
        .unwrap();
    let start = |out: &Path, nodes: &str| {
        playground(&cgroup, out)
            .args(["--rust-only", "--nodes", nodes, "--topology"])
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("topologies/online-boutique.toml"))
            .arg("--faults")
            .arg(&schedule)
            .spawn()
            .unwrap()
    };
    // Killed while packets are lost: the next run with the same cgroup cleans up.
    for (name, nodes) in [("killed-nodes", "2"), ("killed", "0")] {
        let out = folder.path().join(name);
        let mut run = start(&out, nodes);
        wait_for(&mut run, &out, "fault_started");
        run.kill().unwrap();
        run.wait().unwrap();
        assert_ne!(left_behind(&cgroup), Vec::<String>::new(), "a killed run cannot clean up");
    }
    let out = folder.path().join("interrupted");
    let mut run = start(&out, "2");
    wait_for(&mut run, &out, "fault_started");
    let pid = rustix::process::Pid::from_child(&run);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let asked = Instant::now();
    assert!(run.wait().unwrap().success());
    assert!(asked.elapsed() < Duration::from_secs(10), "it took {:.1} s", asked.elapsed().as_secs_f64());
    assert_eq!(left_behind(&cgroup), Vec::<String>::new());
    assert_eq!(namespaces(), before);
}

#[test]
#[ignore = "needs root: see the file's head"]
fn an_interrupted_search_shows_what_it_found() {
    let cgroup = format!("faultline-searched-{}", std::process::id());
    let folder = tempfile::tempdir().unwrap();
    let mut search = Command::new(env!("CARGO_BIN_EXE_playground"))
        .args(["stress", "--start", "10", "--seconds-per-step", "2", "--topology"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("topologies/online-boutique.toml"))
        .arg("--out")
        .arg(folder.path())
        .args(["--", "--rust-only", "--cgroup", &cgroup, "--base-port", "23600"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(search.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("within") || line.contains("over")), "no rate was measured");
    // A terminal's Ctrl-C goes to the whole group.
    let group = rustix::process::Pid::from_child(&search);
    rustix::process::kill_process_group(group, rustix::process::Signal::INT).unwrap();
    let asked = Instant::now();
    assert_eq!(search.wait().unwrap().code(), Some(130));
    assert!(asked.elapsed() < Duration::from_secs(5), "it took {:.1} s", asked.elapsed().as_secs_f64());
    assert!(lines.any(|line| line.contains("the search was cut off")));
    let found = json(&folder.path().join("stress.json"));
    assert_eq!(found["complete"], false);
    assert!(!found["steps"].as_array().unwrap().is_empty());
    assert_eq!(left_behind(&cgroup), Vec::<String>::new());
    std::fs::File::open(std::env::temp_dir().join(format!("{cgroup}.lock"))).unwrap().try_lock().unwrap();
}
