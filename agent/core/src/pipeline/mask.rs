//! Which services are not fully seen, and why: they are neither scored nor ranked. Sums of a step flow in,
//! reasons flow out.

use super::fold::{Folded, ServiceFold};
use crate::identity::{Name, Services};
use crate::units::ServiceId;
use std::collections::BTreeMap;

/// Above this share of lost records what was seen may not be what happened.
const MAX_LOST: f64 = 0.01;

/// A single hole, as a connection that breaks may leave, masks nobody.
const MIN_LOST: f64 = 1.5;

/// Counts halve from step to step, so that a mask does not flicker and ends half a minute after the loss.
const KEPT_SHARE: f64 = 0.5;

/// What was lost and what was seen of one service lately.
#[derive(Clone, Copy, Debug, Default)]
struct Recent {
    lost: f64,
    seen: f64,
}

/// Watches what is lost.
#[derive(Debug, Default)]
pub(super) struct Mask {
    node: Recent,
    services: BTreeMap<ServiceId, Recent>,
}

impl Recent {
    fn add(&mut self, lost: u64, seen: u64) {
        self.lost = self.lost * KEPT_SHARE + lost as f64;
        self.seen = self.seen * KEPT_SHARE + seen as f64;
    }

    /// The lost share, where it is too much.
    fn excess(self) -> Option<f64> {
        let share = self.lost / (self.lost + self.seen);
        (share > MAX_LOST && self.lost >= MIN_LOST).then_some(share)
    }
}

impl Mask {
    /// Judges a step; `lost` and `events` are the whole node's. Every masked service, with the reason.
    pub(super) fn step(
        &mut self,
        folded: &Folded,
        services: &Services,
        lost: u64,
        events: u64,
    ) -> BTreeMap<ServiceId, String> {
        self.node.add(lost, events);
        self.services.retain(|id, _| services.name(*id).is_some());
        let node = self.node.excess();
        let mut masked = BTreeMap::new();
        for (id, service) in &folded.services {
            let recent = self.services.entry(*id).or_default();
            recent.add(service.lost, service.server.count + service.made.count);
            let name = services.name(*id);
            let reason = if name.is_none_or(|name| &*name.text == Name::OTHER) {
                Some("more services than the agent keeps apart".to_owned())
            } else {
                encrypted(service)
                    .or_else(|| Some(format!("{:.1} % of its records were lost", recent.excess()? * 100.0)))
                    .or_else(|| Some(format!("{:.1} % of the node's records were lost", node? * 100.0)))
            };
            masked.extend(reason.map(|reason| (*id, reason)));
        }
        masked
    }
}

/// A service of this node is judged by what it serves, a mere client by what it calls; of an external one
/// only its callers' view is known, which encryption does not hide.
fn encrypted(service: &ServiceFold) -> Option<String> {
    let serves = service.served.http2 + service.served.tls + service.served.other > 0;
    let ends = if serves { service.served } else { service.calling };
    (service.local && ends.tls > 0 && ends.http2 + ends.other == 0)
        .then(|| format!("encrypted: all of its {} connections are TLS", ends.tls))
}
