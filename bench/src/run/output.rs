//! What a run writes: events and users' seconds as they happen, faults and graph in the data-set format,
//! counts at the end. Served and sent calls are written by the services themselves.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::{Value, json};

use crate::faults::Fault;
use crate::load::Second;
use crate::topology::Topology;
use crate::truth::{Lines, Sent, count_sent, count_served, read_lines, unix_seconds};

/// The data-set name of a run's only episode.
pub(super) const EPISODE: &str = "run";

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
    faults: Vec<Row>,
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
            "summary.json",
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
            faults: Vec::new(),
            started: None,
            stopped: None,
            seconds: 0,
        };
        output.write_graph(&std::collections::BTreeMap::new())?;
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

    pub(super) fn ready(
        &self,
        name: &str,
        stack: &str,
        port: Option<u16>,
        pid: Option<u32>,
    ) -> anyhow::Result<()> {
        self.event(json!({"event": "ready", "service": name, "stack": stack, "port": port, "pid": pid}));
        let port = port.map(|port| format!(" on 127.0.0.1:{port}")).unwrap_or_default();
        eprintln!("playground: {name} ready{port} {stack}");
        Ok(())
    }

    pub(super) fn load_started(&mut self) -> anyhow::Result<()> {
        self.started = Some(self.event(json!({"event": "load_started"})));
        Ok(())
    }

    pub(super) fn load_stopped(&mut self) -> anyhow::Result<()> {
        self.stopped = Some(self.event(json!({"event": "load_stopped"})));
        Ok(())
    }

    pub(super) fn died(&self, name: &str) -> anyhow::Result<()> {
        self.event(json!({"event": "restarted", "service": name}));
        eprintln!("playground: {name} died and was started again");
        Ok(())
    }

    pub(super) fn fault_started(&mut self, number: u64, fault: &Fault) -> anyhow::Result<()> {
        let start = self.event(json!({
            "event": "fault_started", "fault_id": fault_id(number), "kind": fault.kind, "service": fault.service,
            "duration_seconds": fault.duration_seconds, "parameters": fault.parameters,
        }));
        eprintln!("playground: fault {} on {} starts", fault.kind.name(), fault.service);
        self.faults.push(Row { number, fault: fault.clone(), start, end: None });
        self.write_faults()
    }

    pub(super) fn fault_ended(&mut self, number: u64, fault: &Fault) -> anyhow::Result<()> {
        let end = self.event(json!({
            "event": "fault_ended", "fault_id": fault_id(number), "kind": fault.kind, "service": fault.service,
        }));
        eprintln!("playground: fault {} on {} ends", fault.kind.name(), fault.service);
        if let Some(row) = self.faults.iter_mut().find(|row| row.number == number) {
            row.end = Some(end);
        }
        self.write_faults()
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

    /// Processor seconds and memory of every process, for the data set.
    pub(super) fn usage<'a>(
        &self,
        usage: impl Iterator<Item = (&'a str, (Option<f64>, Option<u64>))>,
    ) -> anyhow::Result<()> {
        let now = unix_seconds();
        for (service, (cpu_seconds, memory_bytes)) in usage {
            self.usage.write(&json!({
                "at": now, "service": service, "cpu_seconds": cpu_seconds, "memory_bytes": memory_bytes,
            }));
        }
        self.usage.flush();
        Ok(())
    }

    /// Counts, graph and summary, when all processes have ended and written their last lines.
    pub(super) fn finish(&self) -> anyhow::Result<()> {
        let served = count_served(&self.out, &self.services);
        fs::write(self.out.join("calls.json"), serde_json::to_string_pretty(&served)?)?;
        let sent = count_sent(&self.out, &self.services);
        fs::write(self.out.join("sent.json"), serde_json::to_string_pretty(&sent)?)?;
        let mut per_edge = std::collections::BTreeMap::new();
        for caller in &self.services {
            let lines = read_lines::<Sent>(&self.out.join("sent").join(format!("{caller}.jsonl")));
            for line in lines.unwrap_or_default() {
                *per_edge.entry((caller.clone(), line.callee)).or_insert(0_u64) += 1;
            }
        }
        self.write_graph(&per_edge)?;
        self.write_faults()?;
        self.write_periods()?;
        if let (Some(started), Some(stopped)) = (self.started, self.stopped) {
            super::dataset::write(&self.out, &self.name, &self.entry, &self.services, started, stopped)?;
        }
        let users = read_lines::<Sent>(&self.out.join("truth/loadgen.jsonl")).unwrap_or_default();
        let failed = users.iter().filter(|call| call.status != "OK").count();
        let total: u64 = served.values().sum();
        let seconds = self.stopped.zip(self.started).map_or(0.0, |(stopped, started)| stopped - started);
        let summary = json!({
            "user_requests": users.len(), "user_failures": failed, "served_calls": total, "seconds": seconds,
        });
        fs::write(self.out.join("summary.json"), serde_json::to_string_pretty(&summary)?)?;
        eprintln!(
            "playground: {} user requests, {failed} failed; {total} calls served in {seconds:.1} s",
            users.len()
        );
        Ok(())
    }

    fn write_graph(&self, calls: &std::collections::BTreeMap<(String, String), u64>) -> anyhow::Result<()> {
        let mut text = String::from("caller,callee,calls,kind\n");
        for edge in &self.edges {
            let count = calls.get(edge).map(u64::to_string).unwrap_or_default();
            text.push_str(&format!("{},{},{count},call\n", edge.0, edge.1));
        }
        replace(&self.out.join("graph.csv"), &text)
    }

    fn write_faults(&self) -> anyhow::Result<()> {
        let mut text = String::from(
            "fault_id,episode,start,end,service,fault_type,ref_episode,ref_start,ref_end,target_service,\
             target_metric,alarm_time,note\n",
        );
        // Before the first fault everything is healthy; between faults that is not sure.
        let healthy = (self.started.unwrap_or_default(), self.faults.first().map_or(0.0, |row| row.start));
        for row in &self.faults {
            let end = row.end.unwrap_or(row.start + row.fault.duration_seconds);
            text.push_str(&format!(
                "{},{EPISODE},{:.3},{end:.3},{},{},{EPISODE},{:.3},{:.3},{},,,\n",
                fault_id(row.number),
                row.start,
                row.fault.service,
                row.fault.kind.name(),
                healthy.0,
                healthy.1,
                self.entry,
            ));
        }
        replace(&self.out.join("faults.csv"), &text)
    }

    fn write_periods(&self) -> anyhow::Result<()> {
        let (Some(started), Some(stopped)) = (self.started, self.stopped) else { return Ok(()) };
        let first = self.faults.first().map_or(stopped, |row| row.start);
        let text = format!("episode,start,end,use\n{EPISODE},{started:.3},{first:.3},reference\n");
        replace(&self.out.join("normal_periods.csv"), &text)
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
