//! What flow control, resets and streams did in one step: [`FlowSample`]s and streaming calls of connections flow
//! in, sums of an edge's end, a service or a whole run flow out.

use super::latency::Latencies;
use crate::call::{Call, View};
use crate::event::{Ended, FlowSample};
use crate::totals::Histogram;
use crate::units::Nanos;
use std::collections::BTreeMap;

/// Upper bounds of the buckets of stream durations, seconds: from a short listing to a subscription of a day.
pub const STREAM_BUCKETS: [f64; 14] =
    [0.01, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 21_600.0, 86_400.0];

/// What flow control and resets did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowSums {
    /// gRPC messages that began, sent.
    pub messages_sent: u64,
    /// The same, received.
    pub messages_received: u64,
    /// Time without a window to send in, summed over connections.
    pub stalled_sending: Nanos,
    /// The same of the remote ends, which wait for this one to take what they sent.
    pub stalled_receiving: Nanos,
    /// Connections whose windows were known.
    pub known: u64,
    /// Connections whose windows were not.
    pub unknown: u64,
    /// What the limit on open streams did to the connections on which this end is the client.
    pub as_client: LimitSums,
    /// The same, as the server.
    pub as_server: LimitSums,
    /// RST_STREAM and GOAWAY frames; codes that HTTP/2 does not define are one.
    pub ended: BTreeMap<Ended, u64>,
}

/// What the server's limit on open streams (MAX_CONCURRENT_STREAMS) did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitSums {
    /// The lowest limit of any connection.
    pub lowest: Option<u32>,
    /// How often the open streams of a connection became that many.
    pub reached: u64,
    /// For how long they were that many, summed over connections.
    pub time: Nanos,
}

/// The calls that ended and were streams.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StreamSums {
    /// Their durations.
    pub durations: Latencies,
    /// The same by [`STREAM_BUCKETS`].
    pub histogram: Histogram<14>,
}

impl FlowSums {
    /// Adds what one connection's end said; `view` is its side.
    pub fn add(&mut self, sample: &FlowSample, view: Option<View>) {
        self.messages_sent += sample.messages_sent;
        self.messages_received += sample.messages_received;
        match (sample.stalled_sending, sample.stalled_receiving) {
            (Some(sending), Some(receiving)) => {
                self.known += 1;
                self.stalled_sending += sending;
                self.stalled_receiving += receiving;
            }
            _ => self.unknown += 1,
        }
        let limit = LimitSums {
            lowest: sample.max_streams,
            reached: sample.limit_reached.into(),
            time: sample.limited,
        };
        match view {
            Some(View::Client) => self.as_client.merge(limit),
            Some(View::Server) => self.as_server.merge(limit),
            None => {}
        }
        for (ended, count) in &sample.ended {
            *self.ended.entry(ended.bounded()).or_default() += u64::from(*count);
        }
    }

    /// Adds all of another.
    pub fn merge(&mut self, other: &Self) {
        self.messages_sent += other.messages_sent;
        self.messages_received += other.messages_received;
        self.stalled_sending += other.stalled_sending;
        self.stalled_receiving += other.stalled_receiving;
        self.known += other.known;
        self.unknown += other.unknown;
        self.as_client.merge(other.as_client);
        self.as_server.merge(other.as_server);
        for (ended, count) in &other.ended {
            *self.ended.entry(*ended).or_default() += count;
        }
    }

    /// Somebody said something.
    #[must_use]
    pub fn told(&self) -> bool {
        self.known + self.unknown > 0
    }
}

impl LimitSums {
    fn merge(&mut self, other: Self) {
        self.lowest = match (self.lowest, other.lowest) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        self.reached += other.reached;
        self.time += other.time;
    }
}

impl StreamSums {
    /// Adds a call that was a stream.
    pub fn add(&mut self, call: &Call) {
        self.durations.add(call.duration);
        self.histogram.observe(&STREAM_BUCKETS, call.duration.as_secs_f64());
    }

    /// Adds all of another.
    pub fn merge(&mut self, other: &Self) {
        self.durations.merge(&other.durations);
        self.histogram.merge(&other.histogram);
    }
}
