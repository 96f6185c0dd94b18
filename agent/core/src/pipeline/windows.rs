//! Turns a step's sums into windows: rates, ratios, quantiles, and what only the whole step can tell, as the
//! time a service spent itself. A [`Folded`] flows in, windows flow out to [`crate::history`].

use super::fold::{Edge, EdgeFold, Folded, ServiceFold};
use super::open_step::CgroupStep;
use crate::units::{Nanos, ServiceId};
use crate::window::aggregate::{ExchangeSums, P95_CALLS, P99_CALLS, ratio};
use crate::window::{EdgeSignal, EdgeWindow, Signal, Window};

/// Client and server saw the same calls when their counts differ by less than this share: calls at a step's
/// edge may fall on either side.
const SAME_CALLS: f64 = 0.7;

/// The window of every service.
pub(super) fn services(folded: &Folded, length: Nanos) -> Vec<(ServiceId, Window)> {
    let seconds = length.as_secs_f64();
    folded
        .services
        .iter()
        .map(|(id, service)| {
            let mut window = Window::default();
            set_served(&mut window, service, seconds);
            window.set(Signal::SelfTime, self_time(folded, *id, service));
            set_resources(&mut window, &service.cgroups);
            (*id, window)
        })
        .collect()
}

/// The window of every edge.
pub(super) fn edges(folded: &Folded, length: Nanos) -> Vec<(Edge, EdgeWindow)> {
    let seconds = length.as_secs_f64();
    folded
        .edges
        .iter()
        .map(|(edge, sums)| {
            let served = folded.services.get(&edge.0).map_or(0, served_count);
            (*edge, edge_window(sums, served, seconds))
        })
        .collect()
}

fn set_served(window: &mut Window, service: &ServiceFold, seconds: f64) {
    let calls = &service.server;
    let speaks_grpc = service.served.http2 > 0 || calls.count > 0;
    if speaks_grpc {
        window.set(Signal::CallRate, Some(calls.count as f64 / seconds));
        window.set(Signal::ErrorRatio, calls.error_ratio());
        window.set(Signal::LatencyP50, calls.latencies.quantile_ms(0.5));
        window.set(Signal::LatencyP95, calls.p95_ms());
        window.set(Signal::LatencyP99, calls.p99_ms());
        window.set(Signal::LatencyMean, calls.latencies.mean_ms());
        window.set(Signal::RequestBytes, ratio(calls.request_bytes, calls.count));
        window.set(Signal::ResponseBytes, ratio(calls.response_bytes, calls.count));
        window.set(Signal::Messages, ratio(calls.messages, calls.count));
        window.set(Signal::InFlight, Some(service.streams as f64));
        window.set(Signal::OldestUnanswered, Some(service.oldest.as_millis_f64()));
        window.set(Signal::CancelRatio, ratio(calls.cancelled, calls.count));
        window.set(Signal::DeadlineRatio, ratio(calls.late, calls.count));
        window.set(Signal::RetryRatio, ratio(calls.retries, calls.count));
    } else if service.served.other + service.served.tls > 0 {
        let exchanges = &service.exchanges;
        window.set(Signal::CallRate, Some(exchanges.count as f64 / seconds));
        window.set(Signal::LatencyP50, exchanges.quantile_ms(0.5));
        window.set(Signal::LatencyP95, exchanges.quantile_ms(0.95).filter(|_| exchanges.count >= P95_CALLS));
        window.set(Signal::LatencyP99, exchanges.quantile_ms(0.99).filter(|_| exchanges.count >= P99_CALLS));
        window.set(Signal::LatencyMean, exchanges.mean_ms());
        let waiting = exchanges.measured.then(|| exchanges.waiting.as_millis_f64());
        window.set(Signal::OldestUnanswered, waiting);
    }
    let made = &service.made;
    window.set(Signal::FanOut, ratio(made.count + service.made_exchanges, served_count(service)));
    window.set(Signal::OutgoingErrorRatio, made.error_ratio());
    window.set(Signal::Rtt, service.transport.rtt_ms());
    window.set(Signal::RetransmitRatio, service.transport.retransmit_ratio());
    let seen = |count: u64, seen: bool| seen.then_some(count as f64 / seconds);
    window.set(Signal::Connects, seen(service.connects, service.local || service.called));
    window.set(Signal::FailedConnects, seen(service.failed_connects, service.called));
}

/// How many requests a service served, of either kind.
fn served_count(service: &ServiceFold) -> u64 {
    if service.served.http2 > 0 || service.server.count > 0 {
        service.server.count
    } else {
        service.exchanges.count
    }
}

/// The mean time that a service took to answer, less the time that it waited for its callees:
/// `mean - sum over callees(client mean * calls per request)`, at least zero. Calls made side by side are
/// subtracted one after the other, so what is left is a lower bound.
fn self_time(folded: &Folded, id: ServiceId, service: &ServiceFold) -> Option<f64> {
    let served = served_count(service);
    let mean = if service.server.count > 0 {
        service.server.latencies.mean_ms()
    } else {
        service.exchanges.mean_ms()
    }?;
    let waited: f64 = folded
        .edges
        .range((id, ServiceId(0))..=(id, ServiceId(u32::MAX)))
        .filter_map(|(_, edge)| {
            let (count, mean) = if edge.grpc {
                (edge.client.count, edge.client.latencies.mean_ms()?)
            } else {
                (edge.client_exchanges.count, edge.client_exchanges.mean_ms()?)
            };
            Some(mean * ratio(count, served)?)
        })
        .sum();
    Some((mean - waited).max(0.0))
}

fn set_resources(window: &mut Window, cgroups: &[CgroupStep]) {
    let share = |of: fn(&CgroupStep) -> Option<Nanos>| {
        sum(cgroups.iter().map(|cgroup| {
            let time = (cgroup.time > Nanos(0)).then(|| cgroup.time.as_secs_f64())?;
            Some(of(cgroup)?.as_secs_f64() / time)
        }))
    };
    window.set(Signal::CpuMillicores, share(|cgroup| cgroup.cpu).map(|cores| cores * 1e3));
    window.set(Signal::ThrottledRatio, share(|cgroup| cgroup.throttled));
    window.set(Signal::CpuPressure, share(|cgroup| cgroup.pressure));
    window.set(Signal::Memory, sum(cgroups.iter().map(|cgroup| cgroup.memory.map(|bytes| bytes as f64))));
    window
        .set(Signal::OomKills, sum(cgroups.iter().map(|cgroup| cgroup.oom_kills.map(|kills| kills as f64))));
}

/// The sum of what was measured, if anything was.
fn sum(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    values.flatten().reduce(|sum, value| sum + value)
}

fn edge_window(edge: &EdgeFold, served: u64, seconds: f64) -> EdgeWindow {
    let mut window = EdgeWindow::default();
    let calls = if edge.grpc { set_calls(&mut window, edge) } else { set_exchanges(&mut window, edge) };
    window.set(EdgeSignal::CallRate, calls.map(|count| count as f64 / seconds));
    window.set(EdgeSignal::CallsPerRequest, calls.and_then(|count| ratio(count, served)));
    window.set(EdgeSignal::Rtt, edge.transport.rtt_ms());
    window.set(EdgeSignal::RetransmitRatio, edge.transport.retransmit_ratio());
    let connect_time = (edge.connects > 0).then(|| edge.connect_time.as_millis_f64() / edge.connects as f64);
    window.set(EdgeSignal::ConnectTime, connect_time);
    window.set(EdgeSignal::FailedConnects, edge.client_seen.then_some(edge.failed_connects as f64 / seconds));
    window
}

/// Sets what gRPC calls tell, and returns how many there were.
fn set_calls(window: &mut EdgeWindow, edge: &EdgeFold) -> Option<u64> {
    let (client, server) = (&edge.client, &edge.server);
    let best = if edge.client_seen { client } else { server };
    window.set(EdgeSignal::ErrorRatio, best.error_ratio());
    window.set(EdgeSignal::ClientP50, client.latencies.quantile_ms(0.5));
    window.set(EdgeSignal::ClientP95, client.p95_ms());
    window.set(EdgeSignal::ClientMean, client.latencies.mean_ms());
    window.set(EdgeSignal::ServerP50, server.latencies.quantile_ms(0.5));
    window.set(EdgeSignal::ServerP95, server.p95_ms());
    window.set(EdgeSignal::ServerMean, server.latencies.mean_ms());
    let (client_mean, server_mean) = (client.latencies.mean_ms(), server.latencies.mean_ms());
    window.set(EdgeSignal::WireTime, wire_time((client.count, client_mean), (server.count, server_mean)));
    if edge.client_seen {
        window.set(EdgeSignal::InFlight, Some(edge.streams as f64));
        window.set(EdgeSignal::OldestUnanswered, Some(edge.oldest.as_millis_f64()));
    }
    Some(best.count)
}

/// Sets what exchanges tell, and returns how many there were.
fn set_exchanges(window: &mut EdgeWindow, edge: &EdgeFold) -> Option<u64> {
    let (client, server) = (&edge.client_exchanges, &edge.server_exchanges);
    let best = if client.measured { client } else { server };
    let p95 = |sums: &ExchangeSums| sums.quantile_ms(0.95).filter(|_| sums.count >= P95_CALLS);
    window.set(EdgeSignal::ClientP50, client.quantile_ms(0.5));
    window.set(EdgeSignal::ClientP95, p95(client));
    window.set(EdgeSignal::ClientMean, client.mean_ms());
    window.set(EdgeSignal::ServerP50, server.quantile_ms(0.5));
    window.set(EdgeSignal::ServerP95, p95(server));
    window.set(EdgeSignal::ServerMean, server.mean_ms());
    window.set(
        EdgeSignal::WireTime,
        wire_time((client.count, client.mean_ms()), (server.count, server.mean_ms())),
    );
    if client.measured {
        window.set(EdgeSignal::OldestUnanswered, Some(client.waiting.as_millis_f64()));
    }
    Some(best.count)
}

/// Client mean less server mean, where both saw the same calls.
fn wire_time(client: (u64, Option<f64>), server: (u64, Option<f64>)) -> Option<f64> {
    let same = ratio(client.0.min(server.0), client.0.max(server.0))?;
    (same >= SAME_CALLS).then_some((client.1? - server.1?).max(0.0))
}
