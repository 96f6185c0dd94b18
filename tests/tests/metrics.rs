//! What `/metrics` says, read by the real promtool and scraped by a real Prometheus.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use e2e::agent::{PATIENCE, free_port};
use faultline::outputs::{Published, Snapshot, http};
use faultline_core::coverage::Fate;
use faultline_core::event::{Ended, EndedBy};
use faultline_core::report::Report;
use faultline_core::totals::{
    CallLabels, CallTotals, FlowTotals, LATENCY_BUCKETS, ResourceTotals, SIZE_BUCKETS, SeenTotals, TcpTotals,
    Totals,
};
use faultline_core::units::Nanos;
use faultline_core::window::flow::STREAM_BUCKETS;
use serde_json::Value;
use std::future::pending;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn calls(service: &str, peer: &str, status: &'static str, durations: &[f64]) -> (CallLabels, CallTotals) {
    let labels = CallLabels {
        service: service.into(),
        peer: peer.into(),
        method: "shop.Cart/Get\"Item\\".into(),
        status,
        failed: status != "OK",
    };
    let mut totals = CallTotals::default();
    for duration in durations {
        totals.duration.observe(&LATENCY_BUCKETS, *duration);
        totals.request_bytes.observe(&SIZE_BUCKETS, 100.0);
        totals.response_bytes.observe(&SIZE_BUCKETS, 5000.0);
    }
    (labels, totals)
}

/// A node on which `checkout` called `cart` eight times; one end of three calls was not seen by `cart`.
fn snapshot() -> Snapshot {
    let report: Report = serde_json::from_str(include_str!("../../agent/tests/sample-report.json")).unwrap();
    let seen = [0.004, 0.03, 0.2, 0.7, 60.0];
    let mut totals = Totals::default();
    totals.server = [calls("cart", "checkout", "OK", &seen)].into();
    totals.client = [
        calls("checkout", "cart", "OK", &seen),
        calls("checkout", "cart", "UNAVAILABLE", &[0.001, 0.001]),
        calls("checkout", "cart", "", &[1.0]),
    ]
    .into();
    let redis = TcpTotals { exchanges: 400, seconds: 12.5, failed_connects: 3, retransmits: 7 };
    totals.tcp = [(("cart".into(), "redis-cart".into()), redis)].into();
    let used = ResourceTotals {
        cpu_seconds: Some(81.5),
        throttled_seconds: None,
        memory_bytes: Some(61e6),
        oom_kills: Some(0),
    };
    totals.resources = [("cart".into(), used)].into();
    let mut seen = SeenTotals { lost: 4, unix_connections: Some(2), ..SeenTotals::default() };
    seen.bytes.add(Fate::Decoded, 48_211_003);
    seen.bytes.add(Fate::Bypassed, 9_000);
    totals.seen = [("cart".into(), seen)].into();
    let mut flow = FlowTotals::default();
    flow.sums.messages_sent = 820;
    flow.sums.stalled_sending = Nanos::from_millis(2_140);
    flow.sums.as_client.reached = 7;
    flow.sums.ended.insert(Ended { by: EndedBy::Reset, sent: false, code: 8 }, 3);
    flow.streams.observe(&STREAM_BUCKETS, 45.0);
    totals.flow = [("cart".into(), flow)].into();
    Snapshot { report, totals }
}

/// The agent's HTTP output over `published`; its port.
fn serve(runtime: &tokio::runtime::Runtime, published: &Arc<Published>) -> u16 {
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let port = listener.local_addr().unwrap().port();
    runtime.spawn(http::serve_until(listener, Arc::clone(published), pending()));
    port
}

fn get(url: &str) -> String {
    ureq::get(url).call().unwrap().body_mut().read_to_string().unwrap()
}

/// Asserts that promtool finds nothing to say.
#[track_caller]
fn lint(text: &str) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool starts: it comes with the package prometheus");
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}\n{text}", String::from_utf8_lossy(&said));
}

#[test]
fn promtool_accepts_the_metrics_before_and_after_the_first_step() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let published = Arc::new(Published::default());
    let url = format!("http://127.0.0.1:{}", serve(&runtime, &published));
    assert_eq!(ureq::get(format!("{url}/readyz")).call().unwrap_err().to_string(), "http status: 503");
    lint(&get(&format!("{url}/metrics")));
    published.publish(Snapshot::default());
    lint(&get(&format!("{url}/metrics")));
    published.publish(snapshot());
    assert_eq!(get(&format!("{url}/readyz")), "ready\n");
    assert_eq!(get(&format!("{url}/healthz")), "ok\n");
    let text = get(&format!("{url}/metrics"));
    lint(&text);
    for line in [
        "rpc_server_call_duration_seconds_count{service=\"cart\",peer=\"checkout\",rpc_system_name=\"grpc\",\
         rpc_method=\"shop.Cart/Get\\\"Item\\\\\",rpc_response_status_code=\"OK\"} 5",
        "faultline_suspect_score{service=\"redis-cart\",rank=\"1\"} 8.4",
        "faultline_lost_total{reason=\"ring_full\"} 17.0",
        "faultline_lost_total{reason=\"hpack_lost\"} 0.0",
        "faultline_encrypted_connections 3.0",
        "faultline_incident_open 1.0",
        "faultline_coverage_ratio{service=\"cart\"} 1.0",
        "faultline_coverage_ratio{service=\"vault\"} 0.0",
        "faultline_payload_bytes_total{service=\"cart\",fate=\"bypassed\"} 9000.0",
        "faultline_service_lost_total{service=\"cart\"} 4.0",
        "faultline_unix_connections{service=\"cart\"} 2.0",
        "faultline_messages_total{service=\"cart\",direction=\"sent\"} 820.0",
        "faultline_flow_stalled_seconds_total{service=\"cart\",direction=\"sending\"} 2.14",
        "faultline_flow_unknown_connections{service=\"cart\"} 1.0",
        "faultline_stream_limit{service=\"cart\"} 100.0",
        "faultline_stream_limit_reached_total{service=\"cart\",side=\"client\"} 7.0",
        "faultline_ended_total{service=\"cart\",frame=\"RST_STREAM\",direction=\"received\",code=\"CANCEL\"} 3.0",
        "faultline_stream_duration_seconds_bucket{le=\"60.0\",service=\"cart\"} 1",
    ] {
        assert!(text.contains(line), "{line} is not in:\n{text}");
    }
    assert!(!text.contains("container_resources_cpu_throttled"), "what was not measured is left out");
}

/// A Prometheus with a data folder of its own, killed when this value goes away.
struct Prometheus {
    child: Child,
    url: String,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    /// Starts one that scrapes `target` every second.
    fn scraping(target: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("prometheus.yml");
        let text = format!(
            "scrape_configs:\n  - job_name: faultline\n    scrape_interval: 1s\n    honor_labels: true\n    \
             static_configs:\n      - targets: ['127.0.0.1:{target}']\n"
        );
        std::fs::write(&config, text).unwrap();
        let port = free_port();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("tsdb").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--log.level=error")
            .stdin(Stdio::null())
            .spawn()
            .expect("prometheus starts: it comes with the package prometheus");
        Self { child, url: format!("http://127.0.0.1:{port}"), _folder: folder }
    }

    /// The value of an instant query with one result.
    fn query(&self, query: &str) -> Option<f64> {
        let mut response =
            ureq::get(format!("{}/api/v1/query", self.url)).query("query", query).call().ok()?;
        let answer: Value = serde_json::from_str(&response.body_mut().read_to_string().ok()?).ok()?;
        let results = answer.pointer("/data/result")?.as_array()?;
        assert!(results.len() <= 1, "{query} has several results: {results:?}");
        results.first()?.pointer("/value/1")?.as_str()?.parse().ok()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _killed = self.child.kill();
        let _status = self.child.wait();
    }
}

#[test]
fn prometheus_scrapes_what_the_agent_counted() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let published = Arc::new(Published::default());
    published.publish(snapshot());
    let prometheus = Prometheus::scraping(serve(&runtime, &published));
    let started = Instant::now();
    while prometheus.query("faultline_ready") != Some(1.0) {
        assert!(started.elapsed() < PATIENCE, "Prometheus has not scraped the agent");
        std::thread::sleep(Duration::from_millis(200));
    }
    for (query, expected) in [
        ("up", 1.0),
        ("sum(rpc_client_call_duration_seconds_count{service=\"checkout\"})", 8.0),
        ("sum(rpc_client_call_duration_seconds_count{error_type!=\"\"})", 3.0),
        ("rpc_client_call_duration_seconds_count{rpc_response_status_code=\"\"}", 1.0),
        ("rpc_server_call_duration_seconds_bucket{le=\"0.05\"}", 2.0),
        ("rpc_server_call_duration_seconds_bucket{le=\"10.0\"}", 4.0),
        ("rpc_server_call_duration_seconds_bucket{le=\"+Inf\"}", 5.0),
        ("grpc_server_call_sent_total_compressed_message_size_bytes_sum", 25_000.0),
        // The client's count wins where both ends were seen: a call is one call.
        ("traces_service_graph_request_total{client=\"checkout\",server=\"cart\"}", 8.0),
        ("traces_service_graph_request_failed_total{client=\"checkout\"}", 3.0),
        ("traces_service_graph_request_total{connection_type=\"tcp\"}", 400.0),
        ("container_resources_cpu_usage_seconds_total{service=\"cart\"}", 81.5),
        ("container_net_tcp_failed_connects_total", 3.0),
        ("faultline_suspect_score{rank=\"1\",service=\"redis-cart\"}", 8.4),
        ("faultline_service_p_value{service=\"cart\"}", 0.0004),
        ("sum(faultline_lost_total)", 19.0),
    ] {
        assert_eq!(prometheus.query(query), Some(expected), "{query}");
    }
}
