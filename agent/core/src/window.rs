//! One service, or one edge, over one step: the numbers behind everything that follows.
//!
//! [`Signal`] and [`EdgeSignal`] name each number once, with its unit. Windows are filled from calls, samples
//! and cgroups in [`crate::pipeline`], kept in [`crate::history`], and judged by roles: nothing behind this
//! point knows a service's or a framework's name. A signal that was not measured is `None`, never zero.
//! What a window is summed up from while its step is open lies in [`aggregate`], [`flow`] and
//! [`latency`].

pub mod aggregate;
pub mod flow;
pub mod latency;

/// A number of one service over one step. Latencies and sizes are as the service's own end saw them
/// (its server view).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(usize)]
pub enum Signal {
    /// Calls served, 1/s.
    CallRate,
    /// Failed share of the calls served, 0..1.
    ErrorRatio,
    /// Median server-side duration, ms.
    LatencyP50,
    /// 95th percentile of the server-side duration, ms; absent below 20 calls.
    LatencyP95,
    /// 99th percentile, ms; absent below 100 calls.
    LatencyP99,
    /// Mean server-side duration, ms.
    LatencyMean,
    /// Mean server-side duration less the outgoing calls that it waited for, ms.
    SelfTime,
    /// Mean request bytes.
    RequestBytes,
    /// Mean response bytes.
    ResponseBytes,
    /// Mean messages a call, both ways.
    Messages,
    /// Calls not ended at the step's end.
    InFlight,
    /// Age of the oldest call that waits for its first response byte, ms.
    OldestUnanswered,
    /// Cancelled share of the calls served, 0..1.
    CancelRatio,
    /// Share of the calls served that ended with DEADLINE_EXCEEDED or outlived their deadline, 0..1.
    DeadlineRatio,
    /// Share of the calls served that were a retry, 0..1.
    RetryRatio,
    /// Outgoing calls a served call.
    FanOut,
    /// Failed share of the outgoing calls, 0..1.
    OutgoingErrorRatio,
    /// CPU used, thousandths of a core.
    CpuMillicores,
    /// Share of the step for which the cgroup was throttled, 0..1 and above with several CPUs.
    ThrottledRatio,
    /// Memory in use, bytes.
    Memory,
    /// Share of the step in which some task waited for a CPU (PSI), 0..1.
    CpuPressure,
    /// Processes killed for lack of memory in the step.
    OomKills,
    /// Smoothed round-trip time, mean over connections, ms.
    Rtt,
    /// Segments sent again, share of segments sent, 0..1.
    RetransmitRatio,
    /// Connections opened, 1/s.
    Connects,
    /// Connection attempts to this service that failed, 1/s (known from its callers).
    FailedConnects,
}

/// A number of one caller-callee edge over one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(usize)]
pub enum EdgeSignal {
    /// Calls, 1/s: the client's count where its end is seen, else the server's. On an edge that speaks no
    /// gRPC: exchanges.
    CallRate,
    /// Failed share, 0..1, as the client saw it, else as the server did.
    ErrorRatio,
    /// Client-side median, ms. On an edge that speaks no gRPC: of the exchanges.
    ClientP50,
    /// Client-side 95th percentile, ms; absent below 20 calls.
    ClientP95,
    /// Client-side mean, ms.
    ClientMean,
    /// Server-side median of the same calls, ms.
    ServerP50,
    /// Server-side 95th percentile, ms; absent below 20 calls.
    ServerP95,
    /// Server-side mean, ms.
    ServerMean,
    /// Client mean less server mean: wire and queues at both ends, ms.
    WireTime,
    /// Calls that the caller has open at the step's end.
    InFlight,
    /// Age of the caller's oldest unanswered call, ms.
    OldestUnanswered,
    /// Smoothed round-trip time, ms.
    Rtt,
    /// Segments sent again, share of segments sent, 0..1.
    RetransmitRatio,
    /// Mean connect time, ms.
    ConnectTime,
    /// Failed connection attempts, 1/s.
    FailedConnects,
    /// Calls of this edge per call that the caller served.
    CallsPerRequest,
}

/// Implements the parts that both signal enums share: the list, the count and the name.
macro_rules! signals {
    ($type:ident, $count:literal, [$($variant:ident = $name:literal),+ $(,)?]) => {
        impl $type {
            /// How many there are.
            pub const COUNT: usize = $count;
            /// Every one, in the order of its place in a window.
            pub const ALL: [Self; $count] = [$(Self::$variant),+];
            /// Its name in reports and recordings.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }
    };
}

signals!(
    Signal,
    26,
    [
        CallRate = "call_rate",
        ErrorRatio = "error_ratio",
        LatencyP50 = "latency_p50_ms",
        LatencyP95 = "latency_p95_ms",
        LatencyP99 = "latency_p99_ms",
        LatencyMean = "latency_mean_ms",
        SelfTime = "self_time_ms",
        RequestBytes = "request_bytes",
        ResponseBytes = "response_bytes",
        Messages = "messages",
        InFlight = "in_flight",
        OldestUnanswered = "oldest_unanswered_ms",
        CancelRatio = "cancel_ratio",
        DeadlineRatio = "deadline_ratio",
        RetryRatio = "retry_ratio",
        FanOut = "fan_out",
        OutgoingErrorRatio = "outgoing_error_ratio",
        CpuMillicores = "cpu_millicores",
        ThrottledRatio = "throttled_ratio",
        Memory = "memory_bytes",
        CpuPressure = "cpu_pressure_ratio",
        OomKills = "oom_kills",
        Rtt = "rtt_ms",
        RetransmitRatio = "retransmit_ratio",
        Connects = "connects",
        FailedConnects = "failed_connects",
    ]
);

signals!(
    EdgeSignal,
    16,
    [
        CallRate = "call_rate",
        ErrorRatio = "error_ratio",
        ClientP50 = "client_p50_ms",
        ClientP95 = "client_p95_ms",
        ClientMean = "client_mean_ms",
        ServerP50 = "server_p50_ms",
        ServerP95 = "server_p95_ms",
        ServerMean = "server_mean_ms",
        WireTime = "wire_time_ms",
        InFlight = "in_flight",
        OldestUnanswered = "oldest_unanswered_ms",
        Rtt = "rtt_ms",
        RetransmitRatio = "retransmit_ratio",
        ConnectTime = "connect_time_ms",
        FailedConnects = "failed_connects",
        CallsPerRequest = "calls_per_request",
    ]
);

/// The signals of one service over one step.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// Bit `i` is set where signal `i` was measured: half the size of an array of options, and a node keeps
    /// half an hour of windows for each service.
    measured: u32,
    values: [f64; Signal::COUNT],
}

/// The signals of one edge over one step.
#[derive(Clone, Debug, PartialEq)]
pub struct EdgeWindow {
    measured: u32,
    values: [f64; EdgeSignal::COUNT],
}

/// Implements reading and writing of one window type by its signal type.
macro_rules! window {
    ($window:ident, $signal:ident) => {
        impl Default for $window {
            fn default() -> Self {
                Self { measured: 0, values: [0.0; $signal::COUNT] }
            }
        }

        impl $window {
            /// The signal's value, where it was measured.
            #[must_use]
            pub fn get(&self, signal: $signal) -> Option<f64> {
                let place = signal as usize;
                self.values.get(place).copied().filter(|_| self.measured & (1 << place) != 0)
            }

            /// Sets a signal; what is not finite is not measured.
            pub fn set(&mut self, signal: $signal, value: Option<f64>) {
                let value = value.filter(|value| value.is_finite());
                let place = signal as usize;
                if let Some(slot) = self.values.get_mut(place) {
                    // A value that was not measured is stored as zero, so that equal windows compare equal.
                    *slot = value.unwrap_or(0.0);
                    self.measured = self.measured & !(1 << place) | u32::from(value.is_some()) << place;
                }
            }
        }
    };
}

window!(Window, Signal);
window!(EdgeWindow, EdgeSignal);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_the_window_belongs_to_one_signal() {
        for (place, signal) in Signal::ALL.into_iter().enumerate() {
            assert_eq!(signal as usize, place, "{}", signal.name());
        }
        for (place, signal) in EdgeSignal::ALL.into_iter().enumerate() {
            assert_eq!(signal as usize, place, "{}", signal.name());
        }
    }

    #[test]
    fn what_is_not_finite_is_not_measured() {
        let mut window = Window::default();
        window.set(Signal::LatencyP50, Some(3.0));
        assert_eq!(window.get(Signal::LatencyP50), Some(3.0));
        window.set(Signal::LatencyP50, Some(f64::NAN));
        assert_eq!(window.get(Signal::LatencyP50), None);
        assert_eq!(window, Window::default());
    }
}
