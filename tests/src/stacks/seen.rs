//! What the agent saw, read from its recording, by the cgroup whose connections it was.

use faultline_core::call::{Call, View};
use faultline_core::event::{Event, Opened, Protocol};
use faultline_core::recording::{Item, Reader};
use faultline_core::units::{CgroupId, ConnectionId};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;

/// What the agent saw of one cgroup.
#[derive(Debug, Default)]
pub struct Seen {
    /// The ends of its connections, in the order in which they became known.
    pub opened: Vec<Opened>,
    /// The calls on them.
    pub calls: Vec<Call>,
    /// What each connection was last taken for, where that is known.
    pub protocols: BTreeMap<ConnectionId, Protocol>,
    /// What was lost of them, by reason.
    pub lost: BTreeMap<&'static str, u64>,
}

impl Seen {
    /// The calls as one end saw them.
    #[must_use]
    pub fn calls(&self, view: View) -> Vec<&Call> {
        self.calls.iter().filter(|call| call.view == view).collect()
    }

    /// The local and the remote address of each connection.
    #[must_use]
    pub fn ends(&self) -> Vec<(SocketAddr, SocketAddr)> {
        self.opened.iter().map(|opened| (opened.local, opened.remote)).collect()
    }

    /// The most calls that were in flight at the same time on one connection.
    #[must_use]
    pub fn most_at_once(&self) -> usize {
        let mut changes: BTreeMap<ConnectionId, Vec<(u64, bool)>> = BTreeMap::new();
        for call in &self.calls {
            let changes = changes.entry(call.connection).or_default();
            changes.push((call.started.0, true));
            changes.push(((call.started + call.duration).0, false));
        }
        let most = |mut changes: Vec<(u64, bool)>| {
            changes.sort_unstable();
            let counts = changes.into_iter().scan(0_usize, |running, (_, begins)| {
                *running = if begins { *running + 1 } else { running.saturating_sub(1) };
                Some(*running)
            });
            counts.max().unwrap_or(0)
        };
        changes.into_values().map(most).max().unwrap_or(0)
    }
}

/// What the agent saw of every cgroup. Under the cgroup of number 0: what belongs to no known connection.
///
/// # Panics
/// When the recording cannot be read.
#[must_use]
pub fn read(recording: &Path) -> HashMap<CgroupId, Seen> {
    let mut all: HashMap<CgroupId, Seen> = HashMap::new();
    let mut cgroups: HashMap<ConnectionId, CgroupId> = HashMap::new();
    for item in Reader::open(File::open(recording).unwrap()).unwrap() {
        match item.unwrap() {
            Item::Event(Event::Opened(opened)) => {
                cgroups.insert(opened.connection, opened.cgroup);
                all.entry(opened.cgroup).or_default().opened.push(opened);
            }
            Item::Event(Event::Call(call)) => {
                let cgroup = cgroups.get(&call.connection).copied().unwrap_or_default();
                all.entry(cgroup).or_default().calls.push(*call);
            }
            Item::Event(Event::Sampled(sample)) if sample.protocol != Protocol::Unknown => {
                let cgroup = cgroups.get(&sample.connection).copied().unwrap_or_default();
                all.entry(cgroup).or_default().protocols.insert(sample.connection, sample.protocol);
            }
            Item::Event(Event::Lost(loss)) => {
                let whose = loss.connection.and_then(|connection| cgroups.get(&connection)).copied();
                let seen = all.entry(whose.unwrap_or_default()).or_default();
                *seen.lost.entry(loss.reason.name()).or_default() += loss.count;
            }
            _ => {}
        }
    }
    all
}
