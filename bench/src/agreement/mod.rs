//! Whether an agent counted the calls that were made: a run's folder and the agent's recording of it come in,
//! the calls of each edge as their callers wrote them down and as the agent saw them go out. `show` prints
//! them and judges; `generate` decides by them whether to trust an episode.

mod show;
mod users;

pub use show::{Compare, judge};
pub(crate) use users::Users;

use anyhow::{Context, Result};
use faultline_core::pipeline::Pipeline;
use faultline_core::recording::Item;
use faultline_models::recordings;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Caller and callee.
type Ends = (String, String);

/// Calls from one service to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edge {
    /// Who called.
    pub caller: String,
    /// Who was called: a service or a back end.
    pub callee: String,
    /// The callee serves gRPC; else it is a back end, and calls are operations.
    pub grpc: bool,
    /// A fault struck one of its ends: there, what is cut or reset may count for one only.
    pub touched: bool,
    /// As the caller wrote them down.
    pub truth: u64,
    /// As the agent counted them.
    pub agent: u64,
}

impl Edge {
    /// Calls that one of the two has and the other has not, at least.
    #[must_use]
    pub const fn difference(&self) -> u64 {
        self.truth.abs_diff(self.agent)
    }

    /// The same, as a share of the true calls.
    #[must_use]
    pub fn share(&self) -> f64 {
        self.difference() as f64 / self.truth.max(1) as f64
    }
}

/// What the agent says of a run, beside the truth.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreement {
    /// By caller and callee; edges that only the agent has are there too.
    pub edges: Vec<Edge>,
    /// Calls that the agent decoded, both ends.
    pub decoded: u64,
    /// What the agent lost, by reason.
    pub lost: BTreeMap<String, u64>,
}

impl Agreement {
    /// Compares a run's folder with a recording of it; `broken` are the services that a fault struck.
    ///
    /// # Errors
    /// When a file is missing or damaged, or the recording is too short.
    pub fn of(run: &Path, recording: &Path, broken: &BTreeSet<&str>) -> Result<Self> {
        let truth = Truth::read(run)?;
        let mut agreement = Self::default();
        let seen = agreement.replay(recording)?;
        agreement.edges = truth.beside(&seen, broken);
        Ok(agreement)
    }

    /// The calls of each edge as the agent counted them by its end.
    fn replay(&mut self, recording: &Path) -> Result<BTreeMap<Ends, u64>> {
        let name = || recording.display().to_string();
        let reader = recordings::open(recording).with_context(name)?;
        let mut pipeline = Pipeline::new(reader.header().settings.clone(), None);
        let mut last = None;
        for item in reader {
            match item.with_context(name)? {
                Item::Event(event) => pipeline.handle(event, |_| {}),
                Item::Tick(now) => last = pipeline.tick(now, |_| {}).or(last),
            }
        }
        let coverage = last.with_context(|| format!("{}: no step was closed", name()))?.coverage;
        self.decoded = coverage.calls;
        self.lost = coverage.lost;
        let mut edges = BTreeMap::new();
        let mut add = |caller: &str, callee: &str, calls: u64| {
            *edges.entry((caller.to_owned(), callee.to_owned())).or_default() += calls;
        };
        let totals = pipeline.totals();
        totals.client.iter().for_each(|(ends, calls)| add(&ends.service, &ends.peer, calls.duration.count));
        totals.tcp.iter().for_each(|((caller, callee), tcp)| add(caller, callee, tcp.exchanges));
        Ok(edges)
    }
}

/// What the callers wrote down.
#[derive(Debug, Default)]
struct Truth {
    calls: BTreeMap<Ends, u64>,
    /// Who serves gRPC; the other callees are back ends.
    serving: BTreeSet<String>,
}

impl Truth {
    fn read(run: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Count {
            caller: String,
            callee: String,
            calls: u64,
        }
        let served: BTreeMap<String, u64> = read(&run.join("calls.json"))?;
        let counts: Vec<Count> = read(&run.join("edges.json"))?;
        Ok(Self {
            calls: counts.into_iter().map(|count| ((count.caller, count.callee), count.calls)).collect(),
            serving: served.into_keys().collect(),
        })
    }

    /// Edges to and from what is not of the system (who asked whether a server is ready) are left out.
    fn beside(&self, seen: &BTreeMap<Ends, u64>, broken: &BTreeSet<&str>) -> Vec<Edge> {
        let known: BTreeSet<&String> =
            self.calls.keys().flat_map(|(caller, callee)| [caller, callee]).chain(&self.serving).collect();
        let ends: BTreeSet<&Ends> = self.calls.keys().chain(seen.keys()).collect();
        let inside =
            ends.into_iter().filter(|(caller, callee)| known.contains(caller) && known.contains(callee));
        let edge = |ends: &Ends| {
            let count = |of: &BTreeMap<Ends, u64>| of.get(ends).copied().unwrap_or(0);
            let (caller, callee) = ends.clone();
            Edge {
                grpc: self.serving.contains(&callee),
                touched: broken.contains(caller.as_str()) || broken.contains(callee.as_str()),
                truth: count(&self.calls),
                agent: count(seen),
                caller,
                callee,
            }
        };
        inside.map(edge).filter(|edge| edge.truth + edge.agent > 0).collect()
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read(path).with_context(|| path.display().to_string())?;
    serde_json::from_slice(&text).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_edge_that_one_of_the_two_knows_is_compared() {
        let edges = |rows: &[(&str, &str, u64)]| -> BTreeMap<Ends, u64> {
            rows.iter().map(|(a, b, calls)| (((*a).to_owned(), (*b).to_owned()), *calls)).collect()
        };
        let truth = Truth {
            calls: edges(&[("a", "b", 100), ("b", "c", 100), ("a", "store", 50), ("b", "store", 0)]),
            serving: ["a", "b", "c"].map(str::to_owned).into(),
        };
        let seen = edges(&[("a", "b", 98), ("b", "c", 10), ("c", "a", 3), ("external:loopback", "store", 1)]);
        let compared = truth.beside(&seen, &["c"].into());
        let rows: Vec<(&str, &str, bool, bool, u64)> = compared
            .iter()
            .map(|edge| {
                (edge.caller.as_str(), edge.callee.as_str(), edge.grpc, edge.touched, edge.difference())
            })
            .collect();
        assert_eq!(
            rows,
            [
                ("a", "b", true, false, 2),
                ("a", "store", false, false, 50),
                ("b", "c", true, true, 90),
                ("c", "a", true, true, 3),
            ]
        );
    }
}
