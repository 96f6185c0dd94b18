//! Holds what TCP says that a connection moved against what was seen of it: samples and counts of bytes flow in, the
//! bytes that nobody saw flow out.
//!
//! The hooks see a byte before TCP counts it (what is sent before it is acknowledged, what is received before it is
//! taken in), so as long as nothing is missed more is seen than counted. Whatever is counted and was not seen went
//! past this agent: its record was lost, or it took a way that no hook lies on.

use crate::event::ConnectionSample;

/// TCP counts SYN and FIN as a byte each, and a few bytes may pass before a connection is recognised as HTTP/2: no
/// stack says more in its first words.
const SLACK: u64 = 512;

/// What was missed of one connection's end.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Audit {
    /// What was missed at the first sample of a connection that is older than the agent: its bytes were under way
    /// when the agent came.
    before: Option<[u64; 2]>,
    unseen: [u64; 2],
}

/// What was seen of one direction.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    /// Bytes.
    pub(super) bytes: u64,
    /// Bytes of the frame that is being read that may have passed without a word: the kernel programs tell of
    /// the bodies they skip when they are at their end.
    pub(super) untold: u64,
}

impl Audit {
    /// The bytes that went past the agent so far, both ways; at least so many. `older`: the connection is older
    /// than the agent.
    pub(super) fn compare(&mut self, sample: &ConnectionSample, seen: [Seen; 2], older: bool) -> u64 {
        let [sent, received] = seen;
        let missed = |counted: u64, seen: Seen| {
            counted.saturating_sub(seen.bytes).saturating_sub(seen.untold).saturating_sub(SLACK)
        };
        let missed = [missed(sample.bytes_sent, sent), missed(sample.bytes_received, received)];
        let before = *self.before.get_or_insert(if older { missed } else { [0, 0] });
        for ((unseen, missed), before) in self.unseen.iter_mut().zip(missed).zip(before) {
            *unseen = (*unseen).max(missed.saturating_sub(before));
        }
        self.unseen.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Exchanges, Protocol};
    use crate::units::{ConnectionId, Timestamp};

    fn counted(bytes_sent: u64, bytes_received: u64) -> ConnectionSample {
        ConnectionSample {
            at: Timestamp(0),
            connection: ConnectionId(1),
            protocol: Protocol::Http2,
            rtt: None,
            retransmits: 0,
            segments_sent: 0,
            bytes_sent,
            bytes_received,
            unseen: 0,
            exchanges: Exchanges::default(),
        }
    }

    fn seen(bytes: u64, untold: u64) -> Seen {
        Seen { bytes, untold }
    }

    #[test]
    fn what_is_counted_and_not_seen_went_past() {
        let mut audit = Audit::default();
        // More is seen than acknowledged: it is under way.
        assert_eq!(audit.compare(&counted(10_001, 4_000), [seen(60_000, 0), seen(4_000, 0)], false), 0);
        // A long body passes without a word until its end.
        assert_eq!(
            audit.compare(&counted(900_000, 4_000), [seen(60_000, 1 << 20), seen(4_000, 0)], false),
            0
        );
        let past = audit.compare(&counted(900_000, 50_512), [seen(900_000, 0), seen(10_000, 0)], false);
        assert_eq!(past, 40_000);
        // Later bytes that are under way do not make up for it.
        assert_eq!(
            audit.compare(&counted(900_000, 50_512), [seen(900_000, 0), seen(90_000, 0)], false),
            40_000
        );
    }

    #[test]
    fn what_was_under_way_when_the_agent_came_is_not_its_loss() {
        let mut audit = Audit::default();
        assert_eq!(audit.compare(&counted(70_512, 0), [seen(10_000, 0), seen(0, 0)], true), 0);
        assert_eq!(audit.compare(&counted(80_512, 0), [seen(20_000, 0), seen(0, 0)], true), 0);
        assert_eq!(audit.compare(&counted(95_512, 0), [seen(20_000, 0), seen(0, 0)], true), 15_000);
    }
}
