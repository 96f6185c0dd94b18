//! What was seen and what was not, of each service and of the node, and what flow control and streams did.

use super::Snapshot;
use super::series::Series;
use faultline_core::coverage::Fate;
use faultline_core::event::LossReason;
use faultline_core::report::{FlowReport, Report, SeenReport};
use faultline_core::totals::FlowTotals;
use faultline_core::window::flow::{LimitSums, STREAM_BUCKETS};
use std::fmt::Error;

/// What was seen of each service.
pub(super) fn services(series: &mut Series<'_>, snapshot: &Snapshot) -> Result<(), Error> {
    let lately = |pick: fn(&SeenReport) -> Option<f64>| {
        let services = snapshot.report.services.iter();
        services.filter_map(move |s| Some(([("service", s.name.as_str())], pick(s.seen.as_ref()?)?)))
    };
    series.gauge(
        "faultline_coverage_ratio",
        "Share of the service's payload bytes and records that were seen lately",
        lately(|seen| seen.ratio),
    )?;
    let fates = Fate::ALL.into_iter().flat_map(|fate| {
        let services = snapshot.totals.seen.iter();
        services.map(move |(service, seen)| {
            ([("service", &**service), ("fate", fate.name())], seen.bytes.of(fate).trunc())
        })
    });
    series.counter(
        "faultline_payload_bytes_total",
        "Payload bytes of the service's connections by what became of them: decoded as HTTP/2, timed as \
         exchanges of another protocol, encrypted, multipath (on a path of MPTCP), bypassed (TCP moved them past \
         the agent), unrecognised",
        fates,
    )?;
    series.counter(
        "faultline_service_lost_total",
        "Losses on the service's connections",
        snapshot.totals.seen.iter().map(|(service, seen)| ([("service", &**service)], seen.lost as f64)),
    )?;
    let unix = snapshot.totals.seen.iter();
    series.gauge(
        "faultline_unix_connections",
        "Connections over unix sockets that the service serves, of which nothing is seen",
        unix.filter_map(|(service, seen)| Some(([("service", &**service)], seen.unix_connections? as f64))),
    )
}

/// What flow control and streams did to each service.
pub(super) fn flow(series: &mut Series<'_>, snapshot: &Snapshot) -> Result<(), Error> {
    let flow = &snapshot.totals.flow;
    let two = |label: &'static str, values: [&'static str; 2], pick: fn(&FlowTotals) -> [f64; 2]| {
        flow.iter().flat_map(move |(service, totals)| {
            let row = move |(value, number)| ([("service", &**service), (label, value)], number);
            values.into_iter().zip(pick(totals)).map(row)
        })
    };
    series.counter(
        "faultline_messages_total",
        "gRPC messages that began, of calls that ended or not",
        two("direction", ["sent", "received"], |totals| {
            [totals.sums.messages_sent as f64, totals.sums.messages_received as f64]
        }),
    )?;
    series.counter(
        "faultline_flow_stalled_seconds_total",
        "Time in which a window was empty, summed over connections: sending, the service waits for others to \
         take what it sent; receiving, others wait for it",
        two("direction", ["sending", "receiving"], |totals| {
            [totals.sums.stalled_sending.as_secs_f64(), totals.sums.stalled_receiving.as_secs_f64()]
        }),
    )?;
    let lately = |pick: fn(&FlowReport) -> Option<f64>| {
        let services = snapshot.report.services.iter();
        services.filter_map(move |s| Some(([("service", s.name.as_str())], pick(s.flow.as_ref()?)?)))
    };
    series.gauge(
        "faultline_flow_unknown_connections",
        "Connections whose flow-control windows are not known, in the last step",
        lately(|flow| Some(flow.unknown_windows as f64)),
    )?;
    series.gauge(
        "faultline_stream_limit",
        "The lowest MAX_CONCURRENT_STREAMS that a server gives the service",
        lately(|flow| flow.max_streams.map(f64::from)),
    )?;
    let sides = |pick: fn(&LimitSums) -> f64| {
        flow.iter().flat_map(move |(service, totals)| {
            let row = move |(side, sums)| ([("service", &**service), ("side", side)], pick(sums));
            [("client", &totals.sums.as_client), ("server", &totals.sums.as_server)].into_iter().map(row)
        })
    };
    series.counter(
        "faultline_stream_limit_reached_total",
        "How often the open streams of a connection became as many as its server allows",
        sides(|sums| sums.reached as f64),
    )?;
    series.counter(
        "faultline_stream_limit_seconds_total",
        "Time for which they were as many, summed over connections",
        sides(|sums| sums.time.as_secs_f64()),
    )?;
    let ended = flow.iter().flat_map(|(service, totals)| {
        totals.sums.ended.iter().map(move |(ended, count)| {
            let direction = if ended.sent { "sent" } else { "received" };
            let labels = [
                ("service", &**service),
                ("frame", ended.by.name()),
                ("direction", direction),
                ("code", ended.code_name()),
            ];
            (labels, *count as f64)
        })
    });
    series.counter("faultline_ended_total", "RST_STREAM and GOAWAY frames by code", ended)?;
    let streams = flow.iter().filter(|(_, totals)| totals.streams.count > 0);
    series.histogram(
        "faultline_stream_duration_seconds",
        "Duration of the calls that a service served with several messages one way",
        &STREAM_BUCKETS,
        streams.map(|(service, totals)| ([("service", &**service)], &totals.streams)),
    )?;
    let open = snapshot.report.services.iter();
    series.gauge(
        "faultline_streams_in_flight",
        "Calls that a service serves and that have not ended",
        open.filter_map(|service| Some(([("service", service.name.as_str())], service.in_flight?))),
    )
}

/// What was seen of the whole node and what was not.
pub(super) fn node(series: &mut Series<'_>, report: &Report) -> Result<(), Error> {
    let seen = &report.coverage;
    series.gauge(
        "faultline_last_step_timestamp_seconds",
        "End of the last closed step, Unix time",
        [([], report.at)],
    )?;
    series.counter("faultline_calls_total", "Calls decoded, both views", [([], seen.calls as f64)])?;
    series.counter(
        "faultline_unresolved_methods_total",
        "Calls whose method was not on the wire since the agent started",
        [([], seen.unresolved_methods as f64)],
    )?;
    series.counter(
        "faultline_unknown_status_total",
        "Calls whose status is not known",
        [([], seen.unknown_status as f64)],
    )?;
    series.counter(
        "faultline_lost_total",
        "What was not seen, by reason",
        LossReason::ALL.map(|reason| {
            let count = seen.lost.get(reason.name()).copied().unwrap_or_default();
            ([("reason", reason.name())], count as f64)
        }),
    )?;
    series.gauge(
        "faultline_connections",
        "Open connections by what they carry",
        seen.connections.iter().map(|(kind, count)| ([("protocol", kind.as_str())], *count as f64)),
    )?;
    let encrypted = seen.connections.get("tls").copied().unwrap_or_default();
    series.gauge(
        "faultline_encrypted_connections",
        "Open connections whose calls cannot be seen because they are encrypted",
        [([], encrypted as f64)],
    )?;
    series.gauge(
        "faultline_missing_part",
        "1 for each part that the agent works without",
        report.missing.iter().map(|missing| ([("part", missing.part.as_str())], 1.0)),
    )
}
