//! A snapshot flows in, Prometheus text flows out. Counts nothing of its own: every number comes from
//! [`Totals`](faultline_core::totals::Totals) or the report.
//!
//! Written in the text format 0.0.4, where a counter's family is called like its series (`..._total`):
//! every Prometheus reads it, and `promtool check metrics` lints it. That is why counters go through the
//! encoder's gauge form, which adds no suffix to the name.

mod seen;
mod series;

use super::{Published, Snapshot};
use crate::sources::tls::Cost;
use faultline_core::call::Method;
use faultline_core::report::{Report, ServiceReport, State};
use faultline_core::totals::{
    CallLabels, CallTotals, Histogram, LATENCY_BUCKETS, ResourceTotals, SIZE_BUCKETS, TcpTotals,
};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, text};
use prometheus_client::registry::Registry;
use series::Series;
use std::collections::BTreeMap;
use std::fmt::Error;
use std::sync::Arc;

/// The content type of [`encode`]'s text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A registry that gives what was last published.
#[must_use]
pub fn registry(published: Arc<Published>) -> Registry {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Latest { published }));
    registry
}

/// The registry's metrics as text.
///
/// # Errors
/// Never in practice: writing to a string does not fail.
pub fn encode(registry: &Registry) -> Result<String, Error> {
    let mut out = String::new();
    text::encode_registry(&mut out, registry)?;
    Ok(out)
}

#[derive(Debug)]
struct Latest {
    published: Arc<Published>,
}

impl Collector for Latest {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut series = Series::new(encoder);
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        series.gauge("faultline_build_info", "The agent's version", [(version, 1.0)])?;
        let latest = self.published.latest();
        let ready = if latest.is_some() { 1.0 } else { 0.0 };
        series.gauge("faultline_ready", "1 once the first step has closed", [([], ready)])?;
        if let Some(cost) = self.published.tls() {
            watching_tls(&mut series, cost)?;
        }
        let Some(snapshot) = latest else {
            return Ok(());
        };
        calls(&mut series, &snapshot)?;
        sizes(&mut series, &snapshot)?;
        service_graph(&mut series, &snapshot)?;
        tcp(&mut series, &snapshot)?;
        resources(&mut series, &snapshot)?;
        scores(&mut series, &snapshot.report)?;
        seen::flow(&mut series, &snapshot)?;
        seen::services(&mut series, &snapshot)?;
        seen::node(&mut series, &snapshot.report)
    }
}

/// What watching TLS costs the watched processes.
fn watching_tls(series: &mut Series<'_>, cost: &Cost) -> Result<(), Error> {
    let (runs, seconds) = (cost.runs() as f64, cost.nanos() as f64 / 1e9);
    series.gauge(
        "faultline_tls_attached",
        "Libraries, or processes' libraries, whose TLS is watched",
        [([], cost.attached() as f64)],
    )?;
    series.counter("faultline_tls_probe_runs_total", "Probes in libssl that ran", [([], runs)])?;
    series.counter(
        "faultline_tls_plaintext_total",
        "Reads and writes of libssl that were bound to a socket and followed",
        [([], cost.passed() as f64)],
    )?;
    series.counter(
        "faultline_tls_probe_cpu_seconds_total",
        "CPU time that probes took from the watched processes: runs times what one was measured to cost here",
        [([], runs * seconds)],
    )
}

/// The RPC durations that OpenTelemetry's semantic conventions name.
fn calls(series: &mut Series<'_>, snapshot: &Snapshot) -> Result<(), Error> {
    for (name, help, calls) in [
        (
            "rpc_server_call_duration_seconds",
            "Duration of the calls that a service served, as its own end saw them",
            &snapshot.totals.server,
        ),
        (
            "rpc_client_call_duration_seconds",
            "Duration of the calls that a service made, as its own end saw them",
            &snapshot.totals.client,
        ),
    ] {
        let rows = calls.iter().map(|(labels, totals)| (call_labels(labels), &totals.duration));
        series.histogram(name, help, &LATENCY_BUCKETS, rows)?;
    }
    Ok(())
}

/// The labels of a call. A call that ended without a status has an empty one, which Prometheus treats as
/// no label: unknown is not OK.
fn call_labels(labels: &CallLabels) -> Vec<(&'static str, &str)> {
    let mut row = vec![
        ("service", &*labels.service),
        ("peer", &*labels.peer),
        ("rpc_system_name", "grpc"),
        ("rpc_method", &*labels.method),
        ("rpc_response_status_code", labels.status),
    ];
    if labels.failed {
        row.push(("error_type", if labels.status.is_empty() { Method::OTHER } else { labels.status }));
    }
    row
}

/// The message sizes that gRPC's proposal A66 names. Sizes by status would be many series for little:
/// they are summed over it.
fn sizes(series: &mut Series<'_>, snapshot: &Snapshot) -> Result<(), Error> {
    type Pick = fn(&CallTotals) -> &Histogram<14>;
    let server = by_method(&snapshot.totals.server);
    let client = by_method(&snapshot.totals.client);
    let rows: [(&str, &str, &BTreeMap<_, CallTotals>, Pick); 4] = [
        (
            "grpc_server_call_rcvd_total_compressed_message_size_bytes",
            "Bytes of a call's request messages, compressed, as the server received them",
            &server,
            |totals| &totals.request_bytes,
        ),
        (
            "grpc_server_call_sent_total_compressed_message_size_bytes",
            "Bytes of a call's response messages, compressed, as the server sent them",
            &server,
            |totals| &totals.response_bytes,
        ),
        (
            "grpc_client_call_sent_total_compressed_message_size_bytes",
            "Bytes of a call's request messages, compressed, as the client sent them",
            &client,
            |totals| &totals.request_bytes,
        ),
        (
            "grpc_client_call_rcvd_total_compressed_message_size_bytes",
            "Bytes of a call's response messages, compressed, as the client received them",
            &client,
            |totals| &totals.response_bytes,
        ),
    ];
    for (name, help, calls, pick) in rows {
        let rows = calls.iter().map(|((service, method), totals)| {
            (vec![("service", *service), ("grpc_method", *method)], pick(totals))
        });
        series.histogram(name, help, &SIZE_BUCKETS, rows)?;
    }
    Ok(())
}

fn by_method(calls: &BTreeMap<CallLabels, CallTotals>) -> BTreeMap<(&str, &str), CallTotals> {
    let mut sums = BTreeMap::<_, CallTotals>::new();
    for (labels, totals) in calls {
        let sum = sums.entry((&*labels.service, &*labels.method)).or_default();
        add(&mut sum.request_bytes, &totals.request_bytes);
        add(&mut sum.response_bytes, &totals.response_bytes);
    }
    sums
}

fn add<const N: usize>(sum: &mut Histogram<N>, part: &Histogram<N>) {
    for (sum, part) in sum.buckets.iter_mut().zip(part.buckets) {
        *sum += part;
    }
    sum.count += part.count;
    sum.sum += part.sum;
}

/// Both ends' views of one edge.
#[derive(Default)]
struct Edge {
    client: Histogram<14>,
    client_failed: u64,
    server: Histogram<14>,
    server_failed: u64,
}

impl Edge {
    /// Calls and failed calls: the client's count where its end is on this node, else the server's.
    fn counts(&self) -> (u64, u64) {
        if self.client.count > 0 {
            (self.client.count, self.client_failed)
        } else {
            (self.server.count, self.server_failed)
        }
    }
}

/// The service graph, under the names that Grafana's node graph reads.
fn service_graph(series: &mut Series<'_>, snapshot: &Snapshot) -> Result<(), Error> {
    let mut edges = BTreeMap::<(&str, &str), Edge>::new();
    for (labels, totals) in &snapshot.totals.client {
        let edge = edges.entry((&labels.service, &labels.peer)).or_default();
        add(&mut edge.client, &totals.duration);
        edge.client_failed += if labels.failed { totals.duration.count } else { 0 };
    }
    for (labels, totals) in &snapshot.totals.server {
        let edge = edges.entry((&labels.peer, &labels.service)).or_default();
        add(&mut edge.server, &totals.duration);
        edge.server_failed += if labels.failed { totals.duration.count } else { 0 };
    }
    let requests = edges.iter().map(|(ends, edge)| (ends_of(*ends, "grpc"), edge.counts().0 as f64));
    let exchanges = snapshot
        .totals
        .tcp
        .iter()
        .map(|((client, server), tcp)| (ends_of((client, server), "tcp"), tcp.exchanges as f64));
    series.counter(
        "traces_service_graph_request_total",
        "Calls from client to server; for connection_type tcp: exchanges",
        requests.chain(exchanges),
    )?;
    series.counter(
        "traces_service_graph_request_failed_total",
        "Failed calls from client to server",
        edges.iter().map(|(ends, edge)| (ends_of(*ends, "grpc"), edge.counts().1 as f64)),
    )?;
    series.histogram(
        "traces_service_graph_request_client_seconds",
        "Duration of the calls from client to server, as the client saw them",
        &LATENCY_BUCKETS,
        edges
            .iter()
            .filter(|(_, edge)| edge.client.count > 0)
            .map(|(e, edge)| (ends_of(*e, "grpc"), &edge.client)),
    )?;
    series.histogram(
        "traces_service_graph_request_server_seconds",
        "Duration of the calls from client to server, as the server saw them",
        &LATENCY_BUCKETS,
        edges
            .iter()
            .filter(|(_, edge)| edge.server.count > 0)
            .map(|(e, edge)| (ends_of(*e, "grpc"), &edge.server)),
    )
}

fn ends_of<'a>(
    (client, server): (&'a str, &'a str),
    connection_type: &'a str,
) -> [(&'static str, &'a str); 3] {
    [("client", client), ("server", server), ("connection_type", connection_type)]
}

fn tcp(series: &mut Series<'_>, snapshot: &Snapshot) -> Result<(), Error> {
    let rows =
        |pick: fn(&TcpTotals) -> f64| {
            snapshot.totals.tcp.iter().map(move |((caller, callee), tcp)| {
                ([("service", &**caller), ("peer", &**callee)], pick(tcp))
            })
        };
    series.counter(
        "container_net_tcp_failed_connects_total",
        "Connections that could not be made",
        rows(|tcp| tcp.failed_connects as f64),
    )?;
    series.counter(
        "container_net_tcp_retransmits_total",
        "TCP segments that were sent again",
        rows(|tcp| tcp.retransmits as f64),
    )?;
    series.counter(
        "faultline_tcp_exchange_seconds_total",
        "Time of the exchanges on connections that speak no gRPC; the count is in the service graph",
        rows(|tcp| tcp.seconds),
    )
}

fn resources(series: &mut Series<'_>, snapshot: &Snapshot) -> Result<(), Error> {
    let rows = |pick: fn(&ResourceTotals) -> Option<f64>| {
        snapshot
            .totals
            .resources
            .iter()
            .filter_map(move |(service, used)| Some(([("service", &**service)], pick(used)?)))
    };
    series.counter(
        "container_resources_cpu_usage_seconds_total",
        "CPU time that the service's cgroups used",
        rows(|used| used.cpu_seconds),
    )?;
    series.counter(
        "container_resources_cpu_throttled_seconds_total",
        "Time for which the service's cgroups were throttled by their quota",
        rows(|used| used.throttled_seconds),
    )?;
    series.gauge(
        "container_resources_memory_rss_bytes",
        "Memory in use by the service's cgroups, without page cache that could be dropped",
        rows(|used| used.memory_bytes),
    )?;
    series.counter(
        "container_oom_kills_total",
        "Processes of the service that were killed for lack of memory",
        rows(|used| used.oom_kills.map(|kills| kills as f64)),
    )
}

/// What the agent thinks: scores, suspects, the incident.
fn scores(series: &mut Series<'_>, report: &Report) -> Result<(), Error> {
    let services = |pick: fn(&ServiceReport) -> Option<f64>| {
        report.services.iter().filter_map(move |s| Some(([("service", s.name.as_str())], pick(s)?)))
    };
    series.gauge(
        "faultline_service_anomaly_score",
        "Reconstruction error of the service's last windows",
        services(|service| service.score),
    )?;
    series.gauge(
        "faultline_service_p_value",
        "Share of normal steps that look at least as unusual as the last one",
        services(|service| service.p_value),
    )?;
    series.gauge(
        "faultline_service_masked",
        "1 for a service that is not fully seen and so not judged",
        services(|service| Some(if service.masked.is_some() { 1.0 } else { 0.0 })),
    )?;
    let ranks: Vec<String> = (1..=report.ranking.len()).map(|rank| rank.to_string()).collect();
    let suspects = report.ranking.iter().zip(&ranks);
    series.gauge(
        "faultline_suspect_score",
        "Blame of each suspect, best first; comparable within one step only",
        suspects.map(|(suspect, rank)| {
            ([("service", suspect.service.as_str()), ("rank", rank.as_str())], suspect.score)
        }),
    )?;
    let open = if report.incident.is_some() { 1.0 } else { 0.0 };
    series.gauge("faultline_incident_open", "1 while an incident is open", [([], open)])?;
    let warming = if report.state == State::WarmingUp { 1.0 } else { 0.0 };
    series.gauge("faultline_warming_up", "1 while the baseline is too short to page", [([], warming)])
}
