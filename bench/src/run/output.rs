//! What a run writes: events and users' seconds as they happen, faults and graph in the data-set format,
//! counts at the end. Served and sent calls are written by the services themselves.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::{Value, json};

use super::children::{LOADGEN, Usage};
use super::fleet::{BAD_CLIENT, Ready};
use crate::faults::{Fault, Kind, Role};
use crate::load::Second;
use crate::topology::Topology;
use crate::truth::{EdgeCount, Lines, Processes, Sent, count_edges, count_served, each_line, unix_seconds};

/// The data-set name of a run's only episode.
pub(super) const EPISODE: &str = "run";

/// A system is taken for healthy again this long after a fault, seconds: queues have drained, caches are warm.
const RECOVERY: f64 = 60.0;

/// A fault or an event, as it happened.
struct Row {
    number: u64,
    fault: Fault,
    start: f64,
    end: Option<f64>,
}

pub(super) struct Output {
    out: PathBuf,
    services: Vec<String>,
    name: String,
    entry: String,
    edges: Vec<(String, String)>,
    events: Lines,
    load: Lines,
    usage: Lines,
    happened: Vec<Row>,
    started: Option<f64>,
    stopped: Option<f64>,
    seconds: u64,
}

impl Output {
    /// Removes what an earlier run left there, and nothing else.
    pub(super) fn create(out: &Path, topology: &Topology) -> anyhow::Result<Self> {
        for folder in ["truth", "sent", "specs", "logs", "episodes"] {
            let folder = out.join(folder);
            if folder.exists() {
                fs::remove_dir_all(&folder)
                    .with_context(|| format!("{} cannot be removed", folder.display()))?;
            }
        }
        for file in [
            "events.jsonl",
            "load.jsonl",
            "usage.jsonl",
            "calls.json",
            "sent.json",
            "edges.json",
            "summary.json",
            "agreement.json",
            "meta.json",
        ] {
            drop(fs::remove_file(out.join(file)));
        }
        fs::create_dir_all(out.join("truth"))?;
        fs::create_dir_all(out.join("sent"))?;
        let output = Self {
            out: out.into(),
            services: topology.services.keys().cloned().collect(),
            name: topology.name.clone(),
            entry: topology.entry.clone(),
            edges: topology.edges(),
            events: Lines::append(&out.join("events.jsonl"))?,
            load: Lines::append(&out.join("load.jsonl"))?,
            usage: Lines::append(&out.join("usage.jsonl"))?,
            happened: Vec::new(),
            started: None,
            stopped: None,
            seconds: 0,
        };
        output.write_graph(&[])?;
        output.write_faults()?;
        Ok(output)
    }

    fn event(&self, mut event: Value) -> f64 {
        let now = unix_seconds();
        if let Some(fields) = event.as_object_mut() {
            fields.insert("at".into(), json!(now));
        }
        self.events.write(&event);
        self.events.flush();
        now
    }

    pub(super) fn ready(&self, ready: &Ready) {
        let Ready { process, service, stack, address, pid } = ready;
        let port = address.as_ref().and_then(|address| address.rsplit_once(':')?.1.parse::<u16>().ok());
        self.event(json!({
            "event": "ready", "service": service, "process": process, "stack": stack, "address": address,
            "port": port, "pid": pid,
        }));
        let place = address.as_ref().map(|address| format!(" on {address}")).unwrap_or_default();
        eprintln!("playground: {process} ready{place} {stack}");
    }

    pub(super) fn load_started(&mut self) {
        self.started = Some(self.event(json!({"event": "load_started"})));
    }

    pub(super) fn load_stopped(&mut self) {
        self.stopped = Some(self.event(json!({"event": "load_stopped"})));
    }

    /// Users' requests a second from now on.
    pub(super) fn rate(&self, rate: f64) {
        self.event(json!({"event": "rate", "requests_per_second": rate}));
    }

    pub(super) fn died(&self, process: &str, oom_kills: Option<u64>) {
        self.event(json!({"event": "restarted", "service": process, "oom_kills": oom_kills}));
        eprintln!("playground: {process} died and was started again");
    }

    pub(super) fn started(&mut self, number: u64, fault: &Fault) -> anyhow::Result<()> {
        let start = self.event(json!({
            "event": format!("{}_started", role(fault)), "fault_id": fault_id(number), "kind": fault.kind,
            "service": fault.service, "culprits": fault.culprits(),
            "duration_seconds": fault.duration_seconds, "parameters": fault.parameters,
        }));
        eprintln!("playground: {} {} on {} starts", role(fault), fault.kind.name(), fault.service);
        self.happened.push(Row { number, fault: fault.clone(), start, end: None });
        self.write_faults()
    }

    pub(super) fn ended(&mut self, number: u64, fault: &Fault) -> anyhow::Result<()> {
        let end = self.event(json!({
            "event": format!("{}_ended", role(fault)), "fault_id": fault_id(number), "kind": fault.kind,
            "service": fault.service,
        }));
        eprintln!("playground: {} {} on {} ends", role(fault), fault.kind.name(), fault.service);
        if let Some(row) = self.happened.iter_mut().find(|row| row.number == number) {
            row.end = Some(end);
        }
        self.write_faults()
    }

    pub(super) fn failed(&self, number: u64, fault: &Fault, reason: &anyhow::Error) {
        self.event(json!({
            "event": format!("{}_failed", role(fault)), "fault_id": fault_id(number), "kind": fault.kind,
            "service": fault.service, "reason": format!("{reason:#}"),
        }));
        eprintln!("playground: {} on {} cannot happen: {reason:#}", fault.kind.name(), fault.service);
    }

    pub(super) fn second(&mut self, second: &Second, show_every: u64) -> anyhow::Result<()> {
        let mut line = serde_json::to_value(second)?;
        if let Some(fields) = line.as_object_mut() {
            fields.insert("at".into(), json!(unix_seconds()));
        }
        self.load.write(&line);
        self.load.flush();
        self.seconds += 1;
        if self.seconds.is_multiple_of(show_every) {
            eprintln!(
                "playground: users: {} requests/s, {} failed, p50 {:.0} ms, p95 {:.0} ms",
                second.sent, second.failed, second.p50_ms, second.p95_ms
            );
        }
        Ok(())
    }

    /// What a process uses, for the data set.
    pub(super) fn usage(&self, process: &str, service: &str, usage: Usage) {
        let Usage { cpu_seconds, memory_bytes, throttled } = usage;
        self.usage.write(&json!({
            "at": unix_seconds(), "service": service, "process": process, "cpu_seconds": cpu_seconds,
            "memory_bytes": memory_bytes, "throttled": throttled,
        }));
    }

    /// Makes this second's usage visible.
    pub(super) fn usage_written(&self) {
        self.usage.flush();
    }

    /// Counts, graph and summary, when all processes have ended and written their last lines.
    pub(super) fn finish(&self, processes: &Processes) -> anyhow::Result<()> {
        let served = count_served(&self.out, processes);
        let served: std::collections::BTreeMap<&String, u64> =
            self.services.iter().map(|name| (name, served.get(name).copied().unwrap_or(0))).collect();
        self.write_json("calls.json", &served)?;
        let edges = count_edges(&self.out, processes, &[LOADGEN, BAD_CLIENT]);
        self.write_json("edges.json", &edges)?;
        let called =
            |name: &String| edges.iter().filter(|edge| edge.callee == *name).map(|edge| edge.calls).sum();
        let sent: std::collections::BTreeMap<&String, u64> =
            self.services.iter().map(|name| (name, called(name))).collect();
        self.write_json("sent.json", &sent)?;
        self.write_graph(&edges)?;
        self.write_faults()?;
        self.write_periods()?;
        if let (Some(started), Some(stopped)) = (self.started, self.stopped) {
            let names = (self.name.as_str(), self.entry.as_str());
            super::dataset::write(&self.out, names, &self.services, processes, (started, stopped))?;
        }
        let (mut users, mut failed) = (0_u64, 0_u64);
        // A run that was stopped before its load has none.
        drop(each_line(&self.out.join("truth").join(format!("{LOADGEN}.jsonl")), |call: Sent| {
            users += 1;
            failed += u64::from(call.status != "OK");
        }));
        let total: u64 = served.values().sum();
        let seconds = self.stopped.zip(self.started).map_or(0.0, |(stopped, started)| stopped - started);
        let summary = json!({
            "user_requests": users, "user_failures": failed, "served_calls": total, "seconds": seconds,
        });
        self.write_json("summary.json", &summary)?;
        eprintln!(
            "playground: {users} user requests, {failed} failed; {total} calls served in {seconds:.1} s"
        );
        Ok(())
    }

    fn write_json<T: serde::Serialize>(&self, name: &str, value: &T) -> anyhow::Result<()> {
        replace(&self.out.join(name), &serde_json::to_string_pretty(value)?)
    }

    fn write_graph(&self, counts: &[EdgeCount]) -> anyhow::Result<()> {
        let mut text = String::from("caller,callee,calls,kind\n");
        for (caller, callee) in &self.edges {
            let count = counts.iter().find(|count| count.caller == *caller && count.callee == *callee);
            let calls = count.map(|count| count.calls.to_string()).unwrap_or_default();
            text.push_str(&format!("{caller},{callee},{calls},call\n"));
        }
        replace(&self.out.join("graph.csv"), &text)
    }

    fn write_faults(&self) -> anyhow::Result<()> {
        let mut text = String::from(
            "fault_id,episode,start,end,service,fault_type,ref_episode,ref_start,ref_end,target_service,\
             target_metric,alarm_time,note\n",
        );
        let started = self.started.unwrap_or_default();
        let reference = self.first_change().unwrap_or_default();
        for row in self.happened.iter().filter(|row| row.fault.kind.role() == Role::Fault) {
            text.push_str(&format!(
                "{},{EPISODE},{:.3},{:.3},{},{},{EPISODE},{started:.3},{reference:.3},{},,,\n",
                fault_id(row.number),
                row.start,
                row.end(),
                row.fault.culprits(),
                row.fault.kind.name(),
                self.entry,
            ));
        }
        replace(&self.out.join("faults.csv"), &text)
    }

    /// When the first fault or event began. A client that is there from the start on is usual.
    fn first_change(&self) -> Option<f64> {
        let changes = self.happened.iter().filter(|row| !self.is_usual(row)).map(|row| row.start);
        changes.min_by(f64::total_cmp)
    }

    fn is_usual(&self, row: &Row) -> bool {
        row.fault.kind == Kind::BadClient && row.start < self.started.unwrap_or_default() + 2.0
    }

    /// Before anything happens everything is usual. Later, whatever is not near a fault must not page, events
    /// included.
    fn write_periods(&self) -> anyhow::Result<()> {
        let (Some(started), Some(stopped)) = (self.started, self.stopped) else { return Ok(()) };
        let mut at = self.first_change().unwrap_or(stopped);
        let mut text = format!("episode,start,end,use\n{EPISODE},{started:.3},{at:.3},reference\n");
        let mut faults: Vec<(f64, f64)> = self
            .happened
            .iter()
            .filter(|row| row.fault.kind.role() == Role::Fault)
            .map(|row| (row.start, row.end() + RECOVERY))
            .collect();
        faults.sort_by(|one, other| one.0.total_cmp(&other.0));
        for (start, end) in faults.into_iter().chain([(stopped, stopped)]) {
            if start.min(stopped) > at {
                text.push_str(&format!("{EPISODE},{at:.3},{:.3},false_alarm_test\n", start.min(stopped)));
            }
            at = at.max(end);
        }
        replace(&self.out.join("normal_periods.csv"), &text)
    }
}

impl Row {
    fn end(&self) -> f64 {
        self.end.unwrap_or(self.start + self.fault.duration_seconds)
    }
}

/// The word for it in events.
fn role(fault: &Fault) -> &'static str {
    match fault.kind.role() {
        Role::Fault => "fault",
        Role::Event => "event",
    }
}

fn fault_id(number: u64) -> String {
    format!("playground-{number:02}")
}

/// A watcher sees the old file or the new one, never half of it.
fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text).with_context(|| format!("{} cannot be written", new.display()))?;
    fs::rename(&new, path).with_context(|| format!("{} cannot be replaced", path.display()))
}
