//! What was seen of each service lately, and whom too little was seen of: those are neither scored nor ranked.
//! Sums of a step flow in, a [`Sight`] of each service flows out.

use super::fold::{Folded, ServiceFold};
use crate::coverage::{Bytes, Fate};
use crate::identity::{Name, Services};
use crate::units::ServiceId;
use std::collections::BTreeMap;

/// Above this share of lost records or bytes what was seen may not be what happened.
const MAX_LOST: f64 = 0.01;

/// A single hole, as a connection that breaks may leave, masks nobody.
const MIN_LOST: f64 = 1.5;

/// Fewer bytes than this that went past the agent mask nobody: a few segments of a connection that breaks.
const MIN_BYPASSED: f64 = 4096.0;

/// Above this share of bytes that nobody can read, what can be read does not stand for the service. Below it is the
/// side traffic of nearly every service: telemetry, health, configuration.
const MAX_OPAQUE: f64 = 0.1;

/// Counts halve from step to step, so that a mask does not flicker and ends half a minute after the loss.
const KEPT_SHARE: f64 = 0.5;

/// What was seen of a service.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Sight {
    /// The seen share of its bytes, times the share of its records that were not lost; `None` where it was silent.
    pub(super) ratio: Option<f64>,
    /// Why it is masked.
    pub(super) masked: Option<String>,
}

/// What was lost and what was seen lately.
#[derive(Clone, Copy, Debug, Default)]
struct Recent {
    lost: f64,
    seen: f64,
    served: Bytes,
    calling: Bytes,
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

    /// The lost share of records.
    fn lost(self) -> f64 {
        let all = self.lost + self.seen;
        if all > 0.0 { self.lost / all } else { 0.0 }
    }

    /// The same, where it is too much.
    fn excess(self) -> Option<f64> {
        Some(self.lost()).filter(|share| *share > MAX_LOST && self.lost >= MIN_LOST)
    }

    /// The bytes by which a service is judged: what it serves, of a mere client what it calls.
    fn judged(&self, service: &ServiceFold) -> &Bytes {
        if serves(service) { &self.served } else { &self.calling }
    }
}

impl Mask {
    /// Judges a step; `lost` and `events` are the whole node's.
    pub(super) fn step(
        &mut self,
        folded: &Folded,
        services: &Services,
        lost: u64,
        events: u64,
    ) -> BTreeMap<ServiceId, Sight> {
        self.node.add(lost, events);
        self.services.retain(|id, _| services.name(*id).is_some());
        let node = self.node;
        let mut sights = BTreeMap::new();
        for (id, service) in &folded.services {
            let recent = self.services.entry(*id).or_default();
            recent.add(service.lost, service.server.count + service.made.count);
            recent.served.merge(KEPT_SHARE, &service.served.bytes);
            recent.calling.merge(KEPT_SHARE, &service.calling.bytes);
            let kept = 1.0 - recent.lost().max(node.lost());
            let ratio = recent.judged(service).seen().map(|seen| seen * kept);
            let name = services.name(*id);
            let masked = if name.is_none_or(|name| &*name.text == Name::OTHER) {
                Some("more services than the agent keeps apart".to_owned())
            } else {
                opaque(service, recent)
                    .or_else(|| Some(format!("{:.1} % of its records were lost", recent.excess()? * 100.0)))
                    .or_else(|| {
                        Some(format!("{:.1} % of the node's records were lost", node.excess()? * 100.0))
                    })
            };
            sights.insert(*id, Sight { ratio, masked });
        }
        sights
    }
}

/// What nobody can read of a service of this node. Of an external one only its callers' view is known, which
/// nothing hides.
fn opaque(service: &ServiceFold, recent: &Recent) -> Option<String> {
    if !service.local {
        return None;
    }
    let ends = if serves(service) { service.served } else { service.calling };
    if ends.tls > 0 && ends.http2 + ends.other == 0 {
        return Some(format!("encrypted: all of its {} connections are TLS", ends.tls));
    }
    let bytes = recent.judged(service);
    let share = |fate: Fate, most: f64| bytes.share(fate).filter(|share| *share > most);
    if let Some(share) = share(Fate::Bypassed, MAX_LOST).filter(|_| bytes.of(Fate::Bypassed) >= MIN_BYPASSED)
    {
        return Some(format!("{:.1} % of its bytes went past the agent", share * 100.0));
    }
    if let Some(share) = share(Fate::Encrypted, MAX_OPAQUE) {
        return Some(format!("encrypted: {:.0} % of its bytes are TLS", share * 100.0));
    }
    if let Some(share) = share(Fate::Multipath, MAX_OPAQUE) {
        return Some(format!(
            "{:.0} % of its bytes are on MPTCP connections, which are not read",
            share * 100.0
        ));
    }
    if let Some(share) = share(Fate::Unrecognised, MAX_OPAQUE) {
        return Some(format!("{:.0} % of its bytes are on connections of an unknown kind", share * 100.0));
    }
    let unix: u64 = service.cgroups.iter().filter_map(|cgroup| cgroup.unix_connections).sum();
    (unix > 0).then(|| format!("it serves {unix} connections over unix sockets, which are not seen"))
}

/// A service of this node is judged by what it serves.
fn serves(service: &ServiceFold) -> bool {
    service.served.http2 + service.served.tls + service.served.other > 0
}
