//! A data set's files in, typed rows out. Errors name the file and the line.
//!
//! The long format: `meta.json`, `graph.csv`, `faults.csv` or `faults_unlabelled.csv`, and for each episode
//! `nodes.csv.gz` and `edges.csv.gz`, with `nodes_10s.csv.gz` and `edges_10s.csv.gz` beside them where
//! there are finer windows for some of the time. A missing row means not measured.

use super::names::{self, Meaning};
use super::outcome::{Outcome, QuietTime};
use crate::rows::rows;
use crate::watcher::{PACKED, RECORDING};
use anyhow::{Context, Result, anyhow};
use faultline_core::graph::{EdgeKind, ServiceGraph};
use faultline_core::units::ServiceId;
use faultline_core::window::{EdgeSignal, EdgeWindow, Signal, Window};
use petgraph::Direction::Incoming;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The service name under which user-facing probes are reported.
const ENTRY_PROBE: &str = "@entry";

/// A data set without its episodes.
pub(crate) struct Dataset {
    pub(super) dir: PathBuf,
    pub(super) meta: Meta,
    pub(crate) faults: Vec<Fault>,
    pub(super) names: Names,
    pub(super) graph: ServiceGraph,
    /// Other names of services, such as their load balancers', with the callers that use them.
    aliases: Vec<Alias>,
}

/// A name under which callers know a service: what is measured there is their view of it.
struct Alias {
    name: ServiceId,
    service: ServiceId,
    callers: Vec<ServiceId>,
}

/// `meta.json`, as far as it matters here.
#[derive(Debug, Deserialize)]
pub(super) struct Meta {
    /// Length of a step in seconds.
    pub(super) step_s: f64,
    /// What a timestamp marks: the END of its window if it says so, else the start.
    #[serde(default)]
    timestamp: String,
    /// The service that users call.
    #[serde(default)]
    entry: Option<String>,
}

impl Meta {
    /// Seconds from a timestamp to the middle of its window.
    pub(super) fn to_middle(&self) -> f64 {
        if self.timestamp.contains("END") { -self.step_s / 2.0 } else { self.step_s / 2.0 }
    }
}

/// One row of the faults file, labelled or not.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Fault {
    pub(crate) fault_id: String,
    pub(crate) episode: String,
    pub(crate) start: f64,
    pub(crate) end: f64,
    pub(super) ref_episode: String,
    pub(super) ref_start: f64,
    pub(super) ref_end: f64,
    /// When someone noticed, where that is known.
    #[serde(default)]
    alarm_time: Option<f64>,
    /// Who is right, `|` between several; empty where it is not told.
    #[serde(default)]
    service: String,
    #[serde(default)]
    fault_type: String,
    #[serde(default)]
    note: String,
}

/// One row of `normal_periods.csv`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Period {
    pub(crate) episode: String,
    pub(crate) start: f64,
    pub(crate) end: f64,
    /// `reference`, or `false_alarm_test`: every page in it is a false one.
    pub(super) r#use: String,
    /// What was going on.
    #[serde(default)]
    note: String,
}

impl Period {
    /// Nothing was found in it so far.
    pub(super) fn quiet(&self, dataset: &str) -> QuietTime {
        let what = if self.note.is_empty() { "normal" } else { self.note.as_str() };
        QuietTime {
            dataset: dataset.to_owned(),
            what: what.to_owned(),
            seconds: self.end - self.start,
            ..QuietTime::default()
        }
    }
}

impl Fault {
    /// Whether the data set tells who is right.
    pub(super) fn is_labelled(&self) -> bool {
        !self.service.is_empty()
    }

    /// Whether a service is to be named.
    pub(crate) fn is_culprit(&self, service: &str) -> bool {
        self.service.split('|').any(|culprit| culprit == service)
    }

    /// Nothing was found of it so far.
    pub(super) fn outcome(&self, dataset: &str) -> Outcome {
        let culprits = self.service.split('|').filter(|culprit| !culprit.is_empty());
        Outcome {
            fault_id: self.fault_id.clone(),
            dataset: dataset.to_owned(),
            kind: self.fault_type.clone(),
            note: self.note.clone(),
            culprits: culprits.map(str::to_owned).collect(),
            ..Outcome::default()
        }
    }

    /// Where the windows to explain begin: with the window in which the alarm was raised, else at the start.
    pub(super) fn first_bad(&self, step: f64) -> f64 {
        self.alarm_time.map_or(self.start, |alarm| (alarm - step / 2.0).clamp(self.start, self.end))
    }
}

#[derive(Deserialize)]
struct GraphRow {
    caller: String,
    callee: String,
    #[serde(default)]
    kind: String,
}

#[derive(Deserialize)]
struct NodeRow {
    timestamp: f64,
    service: String,
    metric: String,
    value: f64,
}

#[derive(Deserialize)]
struct EdgeRow {
    timestamp: f64,
    caller: String,
    callee: String,
    metric: String,
    value: f64,
}

/// The services' names, and ids in order of first mention.
#[derive(Default)]
pub(super) struct Names {
    ids: BTreeMap<String, ServiceId>,
    names: Vec<String>,
}

impl Names {
    pub(super) fn id(&mut self, name: &str) -> ServiceId {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let id = ServiceId(u32::try_from(self.names.len()).unwrap_or(u32::MAX));
        self.ids.insert(name.to_owned(), id);
        self.names.push(name.to_owned());
        id
    }

    pub(super) fn name(&self, id: ServiceId) -> &str {
        self.names.get(id.0 as usize).map_or("", String::as_str)
    }
}

/// Windows of one time base: by timestamp, the first of a step.
#[derive(Default)]
pub(super) struct Windows {
    pub(super) services: BTreeMap<ServiceId, BTreeMap<i64, Window>>,
    pub(super) edges: BTreeMap<(ServiceId, ServiceId), BTreeMap<i64, EdgeWindow>>,
    /// Metric names that nothing is known of, with their rows.
    pub(super) unknown: BTreeMap<String, u64>,
}

impl Dataset {
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let path = dir.join("meta.json");
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("{}: a data set needs it (step_s at least)", path.display()))?;
        let meta: Meta = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        if !(meta.step_s.is_finite() && meta.step_s > 0.0) {
            return Err(anyhow!("{}: step_s must be a positive number of seconds", path.display()));
        }
        let labelled = dir.join("faults.csv");
        let faults_file = if labelled.exists() { labelled } else { dir.join("faults_unlabelled.csv") };
        let faults: Vec<Fault> = rows(&faults_file)?.collect::<Result<_>>()?;
        let mut names = Names::default();
        let mut graph = ServiceGraph::new();
        let mut aliases = BTreeMap::new();
        for row in rows::<GraphRow>(&dir.join("graph.csv"))? {
            let row = row?;
            if row.kind == "alias" {
                aliases.insert(names.id(&row.caller), names.id(&row.callee));
                continue;
            }
            let (caller, callee) = (names.id(&row.caller), names.id(&row.callee));
            graph.add_edge(caller, callee, EdgeKind::Grpc);
        }
        let aliases = resolve(&mut graph, aliases);
        Ok(Self { dir: dir.to_owned(), meta, faults, names, graph, aliases })
    }

    /// The agent's recording of an episode, packed or not.
    pub(crate) fn recording(&self, episode: &str) -> Option<PathBuf> {
        let folder = self.dir.join("episodes").join(episode);
        [RECORDING, PACKED].map(|name| folder.join(name)).into_iter().find(|path| path.is_file())
    }

    /// The times in which each page is a false one; none where the data set does not tell.
    pub(crate) fn quiet_periods(&self) -> Result<Vec<Period>> {
        let path = self.dir.join("normal_periods.csv");
        if !path.exists() {
            return Ok(Vec::new());
        }
        let periods: Vec<Period> = rows(&path)?.collect::<Result<_>>()?;
        Ok(periods.into_iter().filter(|period| period.r#use == "false_alarm_test").collect())
    }

    /// An episode's windows; `suffix` chooses the time base: empty, or `_10s`. `None` if the episode has no
    /// such files.
    pub(super) fn windows(&mut self, episode: &str, suffix: &str) -> Result<Option<Windows>> {
        let folder = self.dir.join("episodes").join(episode);
        let (nodes, edges) =
            (folder.join(format!("nodes{suffix}.csv.gz")), folder.join(format!("edges{suffix}.csv.gz")));
        if !nodes.exists() && !suffix.is_empty() {
            return Ok(None);
        }
        let mut windows = Windows::default();
        let mut probe: BTreeMap<i64, Window> = BTreeMap::new();
        for row in rows::<NodeRow>(&nodes)? {
            let row = row?;
            match names::of_service(&row.metric) {
                Meaning::Is(signal, factor) => {
                    let series = if row.service == ENTRY_PROBE {
                        &mut probe
                    } else {
                        windows.services.entry(self.names.id(&row.service)).or_default()
                    };
                    let window = series.entry(row.timestamp as i64).or_default();
                    window.set(signal, Some(row.value * factor));
                }
                Meaning::Unused => {}
                Meaning::Unknown => *windows.unknown.entry(row.metric).or_default() += 1,
            }
        }
        self.lend_probe_to_entry(&mut windows, probe);
        if edges.exists() {
            for row in rows::<EdgeRow>(&edges)? {
                let row = row?;
                match names::of_edge(&row.metric) {
                    Meaning::Is(signal, factor) => {
                        let edge = (self.names.id(&row.caller), self.names.id(&row.callee));
                        let series = windows.edges.entry(edge).or_default();
                        let window = series.entry(row.timestamp as i64).or_default();
                        window.set(signal, Some(row.value * factor));
                    }
                    Meaning::Unused => {}
                    Meaning::Unknown => *windows.unknown.entry(row.metric).or_default() += 1,
                }
            }
        }
        self.turn_aliases_into_edges(&mut windows);
        Ok(Some(windows))
    }

    /// What is measured at an alias is its callers' view of the service: an edge, not a service of its own.
    fn turn_aliases_into_edges(&self, windows: &mut Windows) {
        const VIEWS: [(Signal, EdgeSignal); 5] = [
            (Signal::CallRate, EdgeSignal::CallRate),
            (Signal::ErrorRatio, EdgeSignal::ErrorRatio),
            (Signal::LatencyP50, EdgeSignal::ClientP50),
            (Signal::LatencyP95, EdgeSignal::ClientP95),
            (Signal::LatencyMean, EdgeSignal::ClientMean),
        ];
        for alias in &self.aliases {
            let Some(series) = windows.services.remove(&alias.name) else { continue };
            for caller in &alias.callers {
                let edge = windows.edges.entry((*caller, alias.service)).or_default();
                for (timestamp, window) in &series {
                    let view = edge.entry(*timestamp).or_default();
                    for (signal, edge_signal) in VIEWS {
                        view.set(edge_signal, window.get(signal));
                    }
                }
            }
        }
    }

    /// What users' probes measure is the entry service's, where its own end does not measure the same.
    fn lend_probe_to_entry(&mut self, windows: &mut Windows, probe: BTreeMap<i64, Window>) {
        let Some(entry) = self.meta.entry.clone() else { return };
        let series = windows.services.entry(self.names.id(&entry)).or_default();
        let own: BTreeSet<Signal> = Signal::ALL
            .into_iter()
            .filter(|signal| series.values().any(|window| window.get(*signal).is_some()))
            .collect();
        for (timestamp, window) in probe {
            for signal in Signal::ALL.into_iter().filter(|signal| !own.contains(signal)) {
                if let Some(value) = window.get(signal) {
                    series.entry(timestamp).or_default().set(signal, Some(value));
                }
            }
        }
    }
}

/// Replaces an alias in the graph by the service that it names.
fn resolve(graph: &mut ServiceGraph, aliases: BTreeMap<ServiceId, ServiceId>) -> Vec<Alias> {
    let resolved = aliases.into_iter().map(|(name, service)| {
        let callers: Vec<ServiceId> = graph.neighbors_directed(name, Incoming).collect();
        graph.remove_node(name);
        for caller in &callers {
            graph.add_edge(*caller, service, EdgeKind::Grpc);
        }
        Alias { name, service, callers }
    });
    resolved.collect()
}
