//! What Prometheus counts: totals since the agent started, by bounded labels. Filled by
//! [`crate::pipeline`], exported by the agent's metrics output, which adds nothing of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

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
}
