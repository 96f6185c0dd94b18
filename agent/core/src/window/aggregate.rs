//! What a window is summed up from: the calls, the exchanges and what TCP says of one connection, one edge or
//! one service while its step is open. [`Call`]s and samples flow in; [`crate::pipeline`] reads the sums.

use super::latency::Latencies;
use crate::call::{Call, Ending, Kind};
use crate::event::Exchanges;
use crate::units::Nanos;

/// Calls below which a 95th percentile says nothing (one call in twenty lies above it).
pub const P95_CALLS: u64 = 20;

/// Calls below which a 99th percentile says nothing.
pub const P99_CALLS: u64 = 100;

/// A stream of several responses that lasted longer is a subscription: its length says how long the client
/// wished to listen, so its time to the first response counts as its duration. Two steps of the default
/// length.
const SUBSCRIPTION: Nanos = Nanos::from_secs(10);

/// gRPC status CANCELLED.
const CANCELLED: u8 = 1;
/// gRPC status DEADLINE_EXCEEDED.
const DEADLINE_EXCEEDED: u8 = 4;
/// HTTP/2 error code CANCEL.
const RESET_CANCEL: u32 = 8;

/// Calls, as one view saw them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// How many ended.
    pub count: u64,
    /// Of those: known to have failed.
    pub failed: u64,
    /// Of those: it is not known whether they failed.
    pub unknown: u64,
    /// Of those: cancelled.
    pub cancelled: u64,
    /// Of those: past their deadline.
    pub late: u64,
    /// Of those: not the first attempt.
    pub retries: u64,
    /// Bytes of requests, summed.
    pub request_bytes: u64,
    /// Bytes of responses, summed.
    pub response_bytes: u64,
    /// Messages both ways, summed.
    pub messages: u64,
    /// Durations of those whose end was seen.
    pub latencies: Latencies,
}

impl Calls {
    /// Adds one call.
    pub fn add(&mut self, call: &Call) {
        let failed = call.failed();
        self.count += 1;
        self.failed += u64::from(failed);
        self.unknown += u64::from(call.status.code.is_none() && !failed);
        self.cancelled += u64::from(
            call.status.code == Some(CANCELLED)
                || call.ending == Ending::Reset { code: RESET_CANCEL, by_client: true },
        );
        self.late += u64::from(
            call.status.code == Some(DEADLINE_EXCEEDED)
                || call.deadline.is_some_and(|deadline| call.duration > deadline),
        );
        self.retries += u64::from(call.previous_attempts.is_some_and(|attempts| attempts > 0));
        self.request_bytes = self.request_bytes.saturating_add(call.request.bytes);
        self.response_bytes = self.response_bytes.saturating_add(call.response.bytes);
        self.messages += u64::from(call.request.count) + u64::from(call.response.count);
        // What was given up ended unseen: its age is no duration.
        if call.ending != Ending::Abandoned {
            self.latencies.add(latency(call));
        }
    }

    /// Adds all calls of another.
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.failed += other.failed;
        self.unknown += other.unknown;
        self.cancelled += other.cancelled;
        self.late += other.late;
        self.retries += other.retries;
        self.request_bytes = self.request_bytes.saturating_add(other.request_bytes);
        self.response_bytes = self.response_bytes.saturating_add(other.response_bytes);
        self.messages += other.messages;
        self.latencies.merge(&other.latencies);
    }

    /// The failed share of the calls whose outcome is known: unknown is neither OK nor failed.
    #[must_use]
    pub fn error_ratio(&self) -> Option<f64> {
        ratio(self.failed, self.count - self.unknown)
    }

    /// The 95th percentile, ms, of enough calls.
    #[must_use]
    pub fn p95_ms(&self) -> Option<f64> {
        self.latencies.quantile_ms(0.95).filter(|_| self.latencies.count() >= P95_CALLS)
    }

    /// The 99th percentile, ms, of enough calls.
    #[must_use]
    pub fn p99_ms(&self) -> Option<f64> {
        self.latencies.quantile_ms(0.99).filter(|_| self.latencies.count() >= P99_CALLS)
    }
}

/// `part / whole`, where there is a whole.
#[must_use]
pub fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// What counts as a call's duration.
fn latency(call: &Call) -> Nanos {
    let streams = matches!(call.kind(), Kind::ServerStreaming | Kind::Bidirectional);
    match call.first_response {
        Some(first) if streams && call.duration > SUBSCRIPTION => first,
        _ => call.duration,
    }
}

/// Exchanges of connections that are not HTTP/2, over one step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExchangeSums {
    /// A sample said how many there were, if only none.
    pub measured: bool,
    /// How many ended.
    pub count: u64,
    /// Their times, summed, nanoseconds.
    pub total: u64,
    /// The longest.
    pub max: Nanos,
    /// By `[2^i, 2^(i+1))` microseconds, as in [`Exchanges::histogram`].
    pub histogram: [u64; 24],
    /// How long the oldest that has not ended has waited, as of the last sample.
    pub waiting: Nanos,
}

impl ExchangeSums {
    /// Adds the exchanges of one sample; its `waiting` replaces the last one's.
    pub fn add(&mut self, sample: &Exchanges) {
        self.measured = true;
        self.count += u64::from(sample.count);
        self.total = self.total.saturating_add(sample.total.0);
        self.max = self.max.max(sample.max);
        for (sum, count) in self.histogram.iter_mut().zip(sample.histogram) {
            *sum += u64::from(count);
        }
        self.waiting = sample.waiting.unwrap_or_default();
    }

    /// Adds the exchanges of another connection.
    pub fn merge(&mut self, other: &Self) {
        self.measured |= other.measured;
        self.count += other.count;
        self.total = self.total.saturating_add(other.total);
        self.max = self.max.max(other.max);
        for (sum, count) in self.histogram.iter_mut().zip(other.histogram) {
            *sum += count;
        }
        self.waiting = self.waiting.max(other.waiting);
    }

    /// The mean, ms.
    #[must_use]
    pub fn mean_ms(&self) -> Option<f64> {
        (self.count > 0).then(|| self.total as f64 / self.count as f64 / 1e6)
    }

    /// The `q`-quantile, ms: linear within its power of two, so off by at most a factor of two, and never
    /// above the longest.
    #[must_use]
    pub fn quantile_ms(&self, q: f64) -> Option<f64> {
        let rank = q * self.count as f64;
        let mut below = 0.0;
        self.histogram.iter().enumerate().filter(|(_, count)| **count > 0).find_map(|(place, count)| {
            let count = *count as f64;
            let inside = (rank - below) / count;
            below += count;
            // The first bucket holds everything below 2 µs, so it begins at zero.
            let start = if place == 0 { 0.0 } else { (1_u64 << place) as f64 };
            let end = (2_u64 << place) as f64;
            let micros = start + (end - start) * inside.clamp(0.0, 1.0);
            (below >= rank).then(|| (micros / 1e3).min(self.max.as_millis_f64()))
        })
    }
}

/// What TCP says of connections, over one step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transport {
    /// Round-trip times, summed over connections, nanoseconds.
    pub rtt_sum: u64,
    /// How many connections gave one.
    pub rtt_count: u64,
    /// Segments sent again.
    pub retransmits: u64,
    /// Segments sent.
    pub segments: u64,
    /// Payload bytes, both ways.
    pub bytes: u64,
}

impl Transport {
    /// Adds what another connection said.
    pub fn merge(&mut self, other: &Self) {
        self.rtt_sum = self.rtt_sum.saturating_add(other.rtt_sum);
        self.rtt_count += other.rtt_count;
        self.retransmits += other.retransmits;
        self.segments += other.segments;
        self.bytes = self.bytes.saturating_add(other.bytes);
    }

    /// Mean round-trip time, ms.
    #[must_use]
    pub fn rtt_ms(&self) -> Option<f64> {
        (self.rtt_count > 0).then(|| self.rtt_sum as f64 / self.rtt_count as f64 / 1e6)
    }

    /// Share of segments sent again.
    #[must_use]
    pub fn retransmit_ratio(&self) -> Option<f64> {
        ratio(self.retransmits.min(self.segments), self.segments)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn exchange_quantiles_lie_in_their_power_of_two() {
        let mut sums = ExchangeSums::default();
        let mut sample = Exchanges { count: 100, total: Nanos(100 * 300_000), ..Exchanges::default() };
        sample.histogram[8] = 90; // 256 to 512 µs
        sample.histogram[13] = 10; // 8.2 to 16.4 ms
        sample.max = Nanos::from_millis(9);
        sums.add(&sample);
        assert_eq!(sums.mean_ms(), Some(0.3));
        assert!((sums.quantile_ms(0.5).unwrap() - 0.398).abs() < 0.001);
        assert_eq!(sums.quantile_ms(0.99), Some(9.0), "never above the longest");
        assert_eq!(ExchangeSums::default().quantile_ms(0.5), None);
    }
}
