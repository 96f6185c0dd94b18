//! One episode: a system that breaks on schedule, and an agent of its own that records it. Its folder is
//! written under another name and gets its own when it is whole, so a half one is never taken for done.

use super::check::{self, Verdict};
use super::plan::{Episode, Fault, Quiet};
use super::systems::{self, System};
use crate::cgroups::Cgroups;
use crate::rows::rows;
use crate::truth::unix_seconds;
use crate::watcher::{Watcher, end, last_line};
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;
use tokio::sync::watch;

/// Starting, ending and checking take about so long, seconds.
pub(super) const AROUND: f64 = 20.0;
/// Services start within this time beyond the load's length, or something hangs.
const SPARE: Duration = Duration::from_secs(240);

/// How hard a gentle fault hits, against the default: for most kinds near the noise.
const GENTLE: f64 = 0.2;

/// The name of an episode's record in its folder.
pub(super) const RECORD: &str = "episode.json";

/// Where an episode runs beside others.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    /// Its cgroup in the version 2 mount.
    pub(super) cgroup: String,
    /// The first of its ports.
    pub(super) base_port: u16,
}

/// What is the same for all episodes.
pub(super) struct Rig {
    /// The agent.
    pub(super) agent: PathBuf,
}

/// What is kept of an episode: times are Unix seconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) id: String,
    pub(super) system: String,
    pub(super) topology: String,
    pub(super) entry: String,
    pub(super) pattern: String,
    pub(super) seed: u64,
    /// When the load started and stopped.
    pub(super) started: f64,
    pub(super) stopped: f64,
    pub(super) faults: Vec<Broken>,
    pub(super) quiet: Vec<Quiet>,
    pub(super) verdict: Verdict,
}

/// A fault as it happened.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Broken {
    pub(super) start: f64,
    pub(super) end: f64,
    pub(super) kind: String,
    pub(super) service: String,
    pub(super) gentle: bool,
}

/// The folder of an episode that is done.
pub(super) fn folder(dir: &Path, episode: &Episode) -> PathBuf {
    dir.join(&episode.system).join("episodes").join(&episode.id)
}

/// Runs an episode to its end and puts it in its place.
///
/// # Errors
/// When a process could not be started, broke, or was interrupted; the half episode stays under its other
/// name for whoever looks for the reason, until the next try.
pub(super) async fn perform(
    dir: &Path,
    rig: &Rig,
    system: &System,
    episode: &Episode,
    slot: &Slot,
    stop: &mut watch::Receiver<bool>,
) -> Result<Record> {
    let place = folder(dir, episode);
    let half = place.with_extension("half");
    if half.exists() {
        fs::remove_dir_all(&half).with_context(|| format!("{} cannot be removed", half.display()))?;
    }
    fs::create_dir_all(&half).with_context(|| format!("{} cannot be made", half.display()))?;
    let schedule = half.join("schedule.json");
    fs::write(half.join("schedule.toml"), schedule_of(episode)?)?;
    fs::write(&schedule, serde_json::to_string_pretty(episode)?)?;

    let cgroups = Cgroups::claim(&slot.cgroup)?;
    let watched = cgroups.v2_folder().context("no cgroup v2 is mounted")?;
    let performed = async {
        let mut agent = Watcher::start(&rig.agent, &episode.id, &watched, &half).await?;
        let performed = run_system(system, episode, slot, &half, &mut agent, stop).await;
        let ended = if performed.is_ok() { agent.finish().await } else { agent.end().await };
        performed.and(ended)
    }
    .await;
    // Whatever happened, nothing stays behind; the playground has removed its own if it could.
    Cgroups::claim(&slot.cgroup).and_then(|left| left.remove())?;
    performed.with_context(|| format!("{}; its logs are in {}", episode.id, half.display()))?;

    let record = record(&half, episode)?;
    fs::write(half.join(RECORD), serde_json::to_string_pretty(&record)?)?;
    if place.exists() {
        fs::remove_dir_all(&place)?;
    }
    fs::rename(&half, &place).with_context(|| format!("{} cannot get its name", half.display()))?;
    Ok(record)
}

/// The schedule as `playground run` reads it.
fn schedule_of(episode: &Episode) -> Result<String> {
    let fault = |fault: &Fault| {
        let mut line = json!({
            "at_seconds": fault.at_seconds, "duration_seconds": fault.duration_seconds,
            "kind": fault.kind, "service": fault.service,
        });
        if let Some(fields) = line.as_object_mut().filter(|_| fault.gentle) {
            fields.insert("parameters".into(), json!({ "strength": GENTLE }));
        }
        line
    };
    let mut file = json!({ "faults": episode.faults.iter().map(fault).collect::<Vec<_>>() });
    if let Some(fields) = file.as_object_mut().filter(|_| !episode.events.is_empty()) {
        fields.insert("events".into(), serde_json::to_value(&episode.events)?);
    }
    Ok(toml::to_string(&file)?)
}

/// Runs the playground through its schedule while the agent records.
async fn run_system(
    system: &System,
    episode: &Episode,
    slot: &Slot,
    half: &Path,
    agent: &mut Watcher,
    stop: &mut watch::Receiver<bool>,
) -> Result<()> {
    let log_path = half.join("playground.log");
    let log = File::create(&log_path)?;
    let mut command = Command::from(systems::playground()?);
    command.args(["run", "--topology"]).arg(&system.file);
    command.arg("--faults").arg(half.join("schedule.toml"));
    command.args(["--pattern", &episode.pattern, "--rate", &episode.rate.to_string()]);
    command.args(["--seconds", &episode.seconds.to_string(), "--seed", &episode.seed.to_string()]);
    command.args(["--cgroup", &slot.cgroup, "--base-port", &slot.base_port.to_string(), "--out"]);
    command.arg(half.join("run"));
    if let Some(stack) = &episode.stack {
        command.args(["--stack", stack]);
    }
    let mut system = command
        .stdin(std::process::Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .context("the playground cannot be started")?;
    let longest = Duration::from_secs_f64(episode.seconds) + SPARE;
    let why = tokio::select! {
        status = system.wait() => {
            let status = status?;
            ensure!(status.success(), "the playground failed ({status}): {}", last_line(&log_path));
            return Ok(());
        }
        why = agent.ended_early() => why?,
        () = tokio::time::sleep(longest) => {
            format!("the playground did not end within {} s", longest.as_secs())
        }
        () = asked_to(stop) => "interrupted".to_owned(),
    };
    end(&mut system, "the playground").await?;
    bail!(why)
}

/// Until someone asks to stop.
async fn asked_to(stop: &mut watch::Receiver<bool>) {
    let _asked = stop.wait_for(|stop| *stop).await;
}

/// What happened and when, and whether it can be trusted.
fn record(half: &Path, episode: &Episode) -> Result<Record> {
    let run = half.join("run");
    let events: Vec<Value> = crate::truth::read_lines(&run.join("events.jsonl"))?;
    let time = |name: &str| {
        let event = events.iter().find(|event| event.get("event").and_then(Value::as_str) == Some(name))?;
        event.get("at").and_then(Value::as_f64)
    };
    let started = time("load_started").context("the load never started")?;
    let stopped = time("load_stopped").unwrap_or_else(unix_seconds);
    let faults = faults(&run, episode)?;
    let quiet: Vec<Quiet> = episode
        .quiet
        .iter()
        .map(|quiet| Quiet { start: started + quiet.start, end: started + quiet.end, ..quiet.clone() })
        .collect();
    let meta: Value = serde_json::from_slice(&fs::read(run.join("meta.json"))?)?;
    let entry = meta.get("entry").and_then(Value::as_str).unwrap_or_default().to_owned();
    let verdict = check::verdict(half, episode, &quiet, faults.len())?;
    Ok(Record {
        id: episode.id.clone(),
        system: episode.system.clone(),
        topology: episode.topology.clone(),
        entry,
        pattern: episode.pattern.clone(),
        seed: episode.seed,
        started,
        stopped,
        faults,
        quiet,
        verdict,
    })
}

/// The faults with the times at which they were injected; the culprit's name is the playground's.
fn faults(run: &Path, episode: &Episode) -> Result<Vec<Broken>> {
    #[derive(Deserialize)]
    struct Row {
        start: f64,
        end: f64,
        service: String,
        fault_type: String,
    }
    let mut planned: Vec<&Fault> = episode.faults.iter().collect();
    let mut broken = Vec::new();
    for row in rows(&run.join("faults.csv"))? {
        let Row { start, end, service, fault_type } = row?;
        // The first of its kind that is still to come: rows are in the order of their start.
        let place = planned.iter().position(|fault| fault.kind == fault_type);
        let gentle = place.is_some_and(|place| planned.remove(place).gentle);
        broken.push(Broken { start, end, kind: fault_type, service, gentle });
    }
    Ok(broken)
}
