//! What Prometheus counts: totals since the agent started, by bounded labels. Filled by
//! [`crate::pipeline`], exported by the agent's metrics output, which adds nothing of its own.

use crate::call::{Call, Method, STATUS_NAMES};
use crate::coverage::Bytes;
use crate::identity::Name;
use crate::window::flow::FlowSums;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Methods that one service serves or calls under their own names. The largest public gRPC APIs have about
/// a hundred; a client that puts ids into its paths must not make a series of each.
pub const MAX_METHODS: usize = 200;

/// Series of one map. At 14 buckets and three histograms a series takes half a kilobyte, and a scrape of more
/// than this is refused by common limits.
pub const MAX_SERIES: usize = 20_000;

/// Upper bounds of the latency histogram's buckets in seconds (OpenTelemetry's for RPC durations).
pub const LATENCY_BUCKETS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// Upper bounds of the message size histograms' buckets in bytes (gRPC proposal A66).
pub const SIZE_BUCKETS: [f64; 14] = [
    0.0,
    1024.0,
    2048.0,
    4096.0,
    16384.0,
    65536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
    268_435_456.0,
    1_073_741_824.0,
    4_294_967_296.0,
];

/// A cumulative histogram.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram<const N: usize> {
    /// Observations at or below each bound and above the one before; not cumulative. Those above the last
    /// bound are in `count` alone.
    pub buckets: [u64; N],
    /// Observations.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
}

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Self {
        Self { buckets: [0; N], count: 0, sum: 0.0 }
    }
}

impl<const N: usize> Histogram<N> {
    /// Adds one observation.
    pub fn observe(&mut self, bounds: &[f64; N], value: f64) {
        let place = bounds.partition_point(|bound| *bound < value);
        if let Some(bucket) = self.buckets.get_mut(place) {
            *bucket += 1;
        }
        self.count += 1;
        self.sum += value;
    }

    /// Adds all observations of another.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, count) in self.buckets.iter_mut().zip(other.buckets) {
            *bucket += count;
        }
        self.count += other.count;
        self.sum += other.sum;
    }
}

/// The labels of one series of calls.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallLabels {
    /// The service whose end saw the calls.
    pub service: Arc<str>,
    /// The other end's service.
    pub peer: Arc<str>,
    /// The method's label ([`crate::call::Method::label`]).
    pub method: Arc<str>,
    /// `OK`, `CANCELLED`, ... or empty where it is unknown.
    pub status: &'static str,
    /// The calls are known to have failed.
    pub failed: bool,
}

/// Totals of one series of calls.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CallTotals {
    /// Durations, seconds.
    pub duration: Histogram<14>,
    /// Bytes that the client sent.
    pub request_bytes: Histogram<14>,
    /// Bytes that the server sent.
    pub response_bytes: Histogram<14>,
}

impl CallTotals {
    /// Adds one call.
    pub fn observe(&mut self, call: &Call) {
        self.duration.observe(&LATENCY_BUCKETS, call.duration.as_secs_f64());
        self.request_bytes.observe(&SIZE_BUCKETS, call.request.bytes as f64);
        self.response_bytes.observe(&SIZE_BUCKETS, call.response.bytes as f64);
    }

    /// Adds all calls of another.
    pub fn merge(&mut self, other: &Self) {
        self.duration.merge(&other.duration);
        self.request_bytes.merge(&other.request_bytes);
        self.response_bytes.merge(&other.response_bytes);
    }
}

/// The label value of a gRPC status; empty where it is unknown.
#[must_use]
pub fn status_name(code: Option<u8>) -> &'static str {
    code.and_then(|code| STATUS_NAMES.get(usize::from(code)).copied()).unwrap_or("")
}

/// Totals of one edge that speaks no gRPC.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TcpTotals {
    /// Exchanges.
    pub exchanges: u64,
    /// Their time, seconds.
    pub seconds: f64,
    /// Connections that could not be made.
    pub failed_connects: u64,
    /// Segments sent again.
    pub retransmits: u64,
}

/// Totals of one cgroup's service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResourceTotals {
    /// CPU seconds.
    pub cpu_seconds: Option<f64>,
    /// Seconds throttled.
    pub throttled_seconds: Option<f64>,
    /// Memory in use now, bytes.
    pub memory_bytes: Option<f64>,
    /// Processes killed for lack of memory.
    pub oom_kills: Option<u64>,
}

/// What was seen of one service of this node, and what was not.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SeenTotals {
    /// Its payload bytes by what became of them.
    pub bytes: Bytes,
    /// Losses on its connections.
    pub lost: u64,
    /// Connections over unix sockets that it serves now.
    pub unix_connections: Option<u64>,
}

/// Totals of flow control and streams of one service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FlowTotals {
    /// Of its connections.
    pub sums: FlowSums,
    /// Durations of the streams that it served, by [`crate::window::flow::STREAM_BUCKETS`].
    pub streams: Histogram<14>,
}

/// Everything that Prometheus counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Totals {
    /// Calls as the callee's end saw them (`service` is the callee).
    pub server: BTreeMap<CallLabels, CallTotals>,
    /// Calls as the caller's end saw them (`service` is the caller).
    pub client: BTreeMap<CallLabels, CallTotals>,
    /// Edges that speak no gRPC: (caller, callee).
    pub tcp: BTreeMap<(Arc<str>, Arc<str>), TcpTotals>,
    /// Resources by service.
    pub resources: BTreeMap<Arc<str>, ResourceTotals>,
    /// What was seen, by service.
    pub seen: BTreeMap<Arc<str>, SeenTotals>,
    /// Flow control and streams, by service.
    pub flow: BTreeMap<Arc<str>, FlowTotals>,
    /// The methods of each service that have their own series.
    methods: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
}

impl Totals {
    /// Adds calls to a series of `server` or `client`; returns how many calls lost their method's name to the
    /// bound.
    pub fn add_calls(&mut self, server: bool, mut labels: CallLabels, calls: &CallTotals) -> u64 {
        let methods = self.methods.entry(labels.service.clone()).or_default();
        let mut nameless = 0;
        if &*labels.method != Method::OTHER && !methods.contains(&labels.method) {
            if methods.len() < MAX_METHODS {
                methods.insert(labels.method.clone());
            } else {
                nameless = calls.duration.count;
                labels.method = Method::OTHER.into();
            }
        }
        let series = if server { &mut self.server } else { &mut self.client };
        if series.len() >= MAX_SERIES && !series.contains_key(&labels) {
            nameless = calls.duration.count;
            labels.method = Method::OTHER.into();
            labels.peer = Name::OTHER.into();
        }
        // Without methods and peers there are at most 18 statuses to each of a bounded number of services.
        series.entry(labels).or_default().merge(calls);
        nameless
    }

    /// The edge's totals, within the bound.
    pub fn tcp_edge(&mut self, caller: Arc<str>, callee: Arc<str>) -> &mut TcpTotals {
        let mut edge = (caller, callee);
        if self.tcp.len() >= MAX_SERIES && !self.tcp.contains_key(&edge) {
            edge = (Name::OTHER.into(), Name::OTHER.into());
        }
        self.tcp.entry(edge).or_default()
    }

    /// Gives the totals of a service to its new name.
    pub fn rename(&mut self, old: &Arc<str>, new: &Arc<str>) {
        let renamed = |name: &Arc<str>| if name == old { new.clone() } else { name.clone() };
        for series in [&mut self.server, &mut self.client] {
            for (labels, totals) in extract(series, |labels| labels.service == *old || labels.peer == *old) {
                let labels =
                    CallLabels { service: renamed(&labels.service), peer: renamed(&labels.peer), ..labels };
                series.entry(labels).or_default().merge(&totals);
            }
        }
        for ((caller, callee), totals) in extract(&mut self.tcp, |edge| edge.0 == *old || edge.1 == *old) {
            self.tcp.entry((renamed(&caller), renamed(&callee))).or_default().merge(&totals);
        }
        if let Some(resources) = self.resources.remove(old) {
            self.resources.entry(new.clone()).or_insert(resources);
        }
        if let Some(old) = self.seen.remove(old) {
            let seen = self.seen.entry(new.clone()).or_default();
            seen.bytes.merge(1.0, &old.bytes);
            seen.lost += old.lost;
        }
        if let Some(old) = self.flow.remove(old) {
            let flow = self.flow.entry(new.clone()).or_default();
            flow.sums.merge(&old.sums);
            flow.streams.merge(&old.streams);
        }
        if let Some(methods) = self.methods.remove(old) {
            self.methods.entry(new.clone()).or_default().extend(methods);
        }
    }

    /// Drops the series of a service that is gone.
    pub fn forget(&mut self, service: &Arc<str>) {
        self.server.retain(|labels, _| labels.service != *service && labels.peer != *service);
        self.client.retain(|labels, _| labels.service != *service && labels.peer != *service);
        self.tcp.retain(|edge, _| edge.0 != *service && edge.1 != *service);
        self.resources.remove(service);
        self.seen.remove(service);
        self.flow.remove(service);
        self.methods.remove(service);
    }
}

/// Takes the entries out whose key is asked for.
fn extract<K: Ord + Clone, V>(map: &mut BTreeMap<K, V>, asked: impl Fn(&K) -> bool) -> Vec<(K, V)> {
    let keys: Vec<K> = map.keys().filter(|key| asked(key)).cloned().collect();
    keys.into_iter().filter_map(|key| map.remove_entry(&key)).collect()
}

impl TcpTotals {
    fn merge(&mut self, other: &Self) {
        self.exchanges += other.exchanges;
        self.seconds += other.seconds;
        self.failed_connects += other.failed_connects;
        self.retransmits += other.retransmits;
    }
}
