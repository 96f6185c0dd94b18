//! Metric names of data sets to signals. Every signal's own name is one; the rest are the names of the
//! public data sets, with the factor that turns their unit into the signal's.

use faultline_core::window::{EdgeSignal, Signal};

const MEBIBYTE: f64 = 1_048_576.0;

/// What a metric name stands for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Meaning<S> {
    /// A signal, and the factor to its unit.
    Is(S, f64),
    /// Known, and not used: another statistic of a signal that is, a machine's, or an exporter's noise.
    Unused,
    /// Never heard of.
    Unknown,
}

/// A metric of a service.
pub(super) fn of_service(name: &str) -> Meaning<Signal> {
    use Meaning::{Is, Unknown, Unused};
    match name {
        "rps" => Is(Signal::CallRate, 1.0),
        "lat_p50_ms" => Is(Signal::LatencyP50, 1.0),
        "lat_p95_ms" => Is(Signal::LatencyP95, 1.0),
        "lat_p99_ms" => Is(Signal::LatencyP99, 1.0),
        "lat_mean_ms" => Is(Signal::LatencyMean, 1.0),
        "self_mean_ms" => Is(Signal::SelfTime, 1.0),
        "mem_mib" => Is(Signal::Memory, MEBIBYTE),
        "mem_bytes" => Is(Signal::Memory, 1.0),
        "lat_p90_ms" | "self_p50_ms" | "self_p95_ms" | "client_p50_ms" | "client_p90_ms"
        | "client_p95_ms" | "client_p99_ms" | "cpu_pct" | "mem_pct" | "net_rx_bps" | "net_tx_bps"
        | "fs_read" | "fs_write" | "host_cpu_pct" | "host_mem_pct" | "host_net_rx_bps" | "n_requests" => {
            Unused
        }
        _ => Signal::ALL
            .into_iter()
            .find(|signal| signal.name() == name)
            .map_or(Unknown, |signal| Is(signal, 1.0)),
    }
}

/// A metric of an edge.
pub(super) fn of_edge(name: &str) -> Meaning<EdgeSignal> {
    use Meaning::{Is, Unknown, Unused};
    match name {
        "rps" => Is(EdgeSignal::CallRate, 1.0),
        "net_mean_ms" => Is(EdgeSignal::WireTime, 1.0),
        "net_p50_ms" | "net_p95_ms" | "n_requests" => Unused,
        _ => EdgeSignal::ALL
            .into_iter()
            .find(|signal| signal.name() == name)
            .map_or(Unknown, |signal| Is(signal, 1.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_answers_to_its_own_name() {
        for signal in Signal::ALL {
            assert_eq!(of_service(signal.name()), Meaning::Is(signal, 1.0));
        }
        for signal in EdgeSignal::ALL {
            assert_eq!(of_edge(signal.name()), Meaning::Is(signal, 1.0));
        }
        assert_eq!(of_service("mem_mib"), Meaning::Is(Signal::Memory, MEBIBYTE));
        assert_eq!(of_service("bogus"), Meaning::Unknown);
    }
}
