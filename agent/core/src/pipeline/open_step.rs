//! What was seen in a step that has not been closed, by connection and by cgroup. Events flow in one by one;
//! [`super::fold`] sums them up to services and edges when the step closes, because only then is it known
//! best whose they are.

use crate::call::{Call, Kind, Method, View};
use crate::connections::Counted;
use crate::coverage::{Bytes, Fate};
use crate::event::{CgroupSample, ConnectionSample, Protocol};
use crate::totals::{CallTotals, status_name};
use crate::units::{CgroupId, ConnectionId, Nanos};
use crate::window::aggregate::{Calls, ExchangeSums, Transport};
use crate::window::flow::{FlowSums, StreamSums};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// Series of one connection in one step; a client that puts ids into its paths must not take the memory.
const MAX_SERIES: usize = 256;

/// Hosts by which one connection's calls go in one step: a connection is opened to one, rarely to a few.
const MAX_HOSTS: usize = 16;

/// Remote addresses to which connections failed in one step.
const MAX_FAILED: usize = 1024;

/// A step that has not been closed.
#[derive(Debug, Default)]
pub(super) struct OpenStep {
    /// By the connection's end; bounded by the table of connections.
    pub(super) connections: BTreeMap<ConnectionId, ConnectionStep>,
    /// By cgroup; bounded by the table of cgroups.
    pub(super) cgroups: BTreeMap<CgroupId, CgroupStep>,
    /// Attempts to connect that failed, by who tried and where to.
    pub(super) failed_connects: BTreeMap<(CgroupId, SocketAddr), u64>,
    /// Lost on no known connection.
    pub(super) lost: u64,
    /// Events behind the decoder: what `lost` is compared with.
    pub(super) events: u64,
}

/// One connection's end in one step.
#[derive(Debug, Default)]
pub(super) struct ConnectionStep {
    /// Calls of the client's view.
    pub(super) client: Calls,
    /// Calls of the server's view.
    pub(super) server: Calls,
    /// Exchanges, if it is not HTTP/2.
    pub(super) exchanges: ExchangeSums,
    /// What TCP says.
    pub(super) transport: Transport,
    /// What became of its bytes.
    pub(super) bytes: Bytes,
    /// What flow control did.
    pub(super) flow: FlowSums,
    /// Calls of the server's view that were streams.
    pub(super) streams: Option<Box<StreamSums>>,
    /// It was opened in this step; with its connect time.
    pub(super) opened: Option<Option<Nanos>>,
    /// Lost on it.
    pub(super) lost: u64,
    /// Calls by the host that callers used.
    pub(super) hosts: BTreeMap<Arc<str>, u64>,
    /// Calls by what Prometheus tells them apart by; boxed, because a map makes room for eleven at once and most
    /// connections have one.
    pub(super) series: BTreeMap<Series, Box<CallTotals>>,
    /// Calls whose method lost its name to the bound.
    pub(super) nameless: u64,
}

/// What Prometheus tells the calls of one connection apart by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Series {
    /// Whose view.
    pub(super) view: View,
    /// The method's label.
    pub(super) method: Arc<str>,
    /// The status' label.
    pub(super) status: &'static str,
    /// Known to have failed.
    pub(super) failed: bool,
}

/// One cgroup in one step.
#[derive(Debug, Default)]
pub(super) struct CgroupStep {
    /// The time that the differences below cover.
    pub(super) time: Nanos,
    /// CPU time used.
    pub(super) cpu: Option<Nanos>,
    /// Time throttled.
    pub(super) throttled: Option<Nanos>,
    /// Time in which some task waited for a CPU.
    pub(super) pressure: Option<Nanos>,
    /// Memory in use at the end, bytes.
    pub(super) memory: Option<u64>,
    /// Processes killed for lack of memory.
    pub(super) oom_kills: Option<u64>,
    /// Connections over unix sockets at the end.
    pub(super) unix_connections: Option<u64>,
}

impl ConnectionStep {
    /// Adds a call to `host`; `nameless` stands for a method without a name.
    pub(super) fn add_call(&mut self, call: &Call, host: Option<Arc<str>>, nameless: &Arc<str>) {
        if let Some(host) = host
            && (self.hosts.len() < MAX_HOSTS || self.hosts.contains_key(&host))
        {
            *self.hosts.entry(host).or_default() += 1;
        }
        match call.view {
            View::Client => self.client.add(call),
            View::Server => {
                self.server.add(call);
                if call.kind() != Kind::Unary {
                    self.streams.get_or_insert_default().add(call);
                }
            }
        }
        let method = match &call.method {
            Method::Named(name) => name.clone(),
            Method::Unresolved(_) => nameless.clone(),
        };
        let mut series =
            Series { view: call.view, method, status: status_name(call.status.code), failed: call.failed() };
        if self.series.len() >= MAX_SERIES && !self.series.contains_key(&series) {
            self.nameless += u64::from(series.method != *nameless);
            series.method = nameless.clone();
        }
        self.series.entry(series).or_default().observe(call);
    }

    /// Adds a sample; `counted` are the counters at the last one, `decoded` that calls were read on it.
    pub(super) fn add_sample(&mut self, sample: &ConnectionSample, counted: Counted, decoded: bool) {
        let now = Counted::of(sample);
        let bytes = now.bytes.saturating_sub(counted.bytes);
        self.transport.retransmits += now.retransmits.saturating_sub(counted.retransmits);
        self.transport.segments += now.segments.saturating_sub(counted.segments);
        self.transport.bytes += bytes;
        // The round-trip time of a silent connection is an old one.
        if let Some(rtt) = sample.rtt.filter(|_| bytes > 0) {
            self.transport.rtt_sum = rtt.0;
            self.transport.rtt_count = 1;
        }
        self.exchanges.add(&sample.exchanges);
        let unseen = now.unseen.saturating_sub(counted.unseen);
        let fate = match sample.protocol {
            Protocol::Http2 | Protocol::Http2InTls => Fate::Decoded,
            // What a library was about to encrypt was read.
            Protocol::Tls if decoded => Fate::Decoded,
            Protocol::Tls => Fate::Encrypted,
            Protocol::Other => Fate::Timed,
            Protocol::Mptcp => Fate::Multipath,
            Protocol::Unknown => Fate::Unrecognised,
        };
        self.bytes.add(fate, bytes.saturating_sub(unseen));
        self.bytes.add(Fate::Bypassed, unseen);
    }
}

impl CgroupStep {
    /// Adds what was used between two samples. A counter that ran backwards began anew: it tells nothing.
    pub(super) fn add(&mut self, last: Option<&CgroupSample>, sample: &CgroupSample) {
        self.memory = sample.memory.or(self.memory);
        self.unix_connections = sample.unix_connections.or(self.unix_connections);
        let Some(last) = last else { return };
        let time = sample.at.since(last.at);
        self.time = Nanos(self.time.0 + time.0);
        add_nanos(&mut self.cpu, last.cpu_usage, sample.cpu_usage);
        add_nanos(&mut self.throttled, last.cpu_throttled, sample.cpu_throttled);
        add_nanos(&mut self.pressure, last.cpu_pressure, sample.cpu_pressure);
        if let (Some(last), Some(now)) = (last.oom_kills, sample.oom_kills) {
            self.oom_kills = Some(self.oom_kills.unwrap_or(0) + now.saturating_sub(last));
        }
    }
}

fn add_nanos(sum: &mut Option<Nanos>, last: Option<Nanos>, now: Option<Nanos>) {
    if let (Some(last), Some(now)) = (last, now) {
        *sum = Some(Nanos(sum.unwrap_or_default().0 + now.0.saturating_sub(last.0)));
    }
}

impl OpenStep {
    /// Counts an attempt to connect that failed.
    pub(super) fn add_failed_connect(&mut self, cgroup: CgroupId, remote: SocketAddr) {
        let key = (cgroup, remote);
        if self.failed_connects.len() < MAX_FAILED || self.failed_connects.contains_key(&key) {
            *self.failed_connects.entry(key).or_default() += 1;
        }
    }
}
