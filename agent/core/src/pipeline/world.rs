//! Who and what is there: services, places, connections and cgroups, as far as events told. Events flow in
//! through [`super::Pipeline`]; [`super::fold`] asks whose a number is.

use crate::connections::Connections;
use crate::event::{CgroupIdentity, CgroupSample};
use crate::identity::Services;
use crate::identity::places::{Place, Places};
use crate::units::{CgroupId, ServiceId, Timestamp};
use std::collections::BTreeMap;

/// Cgroups whose last sample is kept, as many as have names.
const MAX_CGROUPS: usize = 8192;

/// What is known of the node.
#[derive(Debug)]
pub(super) struct World {
    /// Names and ids.
    pub(super) services: Services,
    /// Where services live.
    pub(super) places: Places,
    /// Open connections' ends.
    pub(super) connections: Connections,
    /// The last sample of each cgroup.
    samples: BTreeMap<CgroupId, CgroupSample>,
}

impl World {
    /// An empty one with room for `max_services`.
    pub(super) fn new(max_services: usize) -> Self {
        Self {
            services: Services::new(max_services),
            places: Places::default(),
            connections: Connections::default(),
            samples: BTreeMap::new(),
        }
    }

    /// Learns who lives in a cgroup.
    pub(super) fn learn(&mut self, identity: CgroupIdentity) {
        if identity.gone {
            self.samples.remove(&identity.cgroup);
        }
        self.places.learn(identity);
    }

    /// Forgets the connections that were closed before `time`, and the cgroups that are gone.
    pub(super) fn forget_before(&mut self, time: Timestamp) {
        self.connections.forget_closed_before(time);
        let connections = &self.connections;
        self.places.forget_gone(|cgroup| connections.iter().any(|(_, end)| end.cgroup == cgroup));
    }

    /// Keeps a cgroup's sample and returns the one before; `None` beyond the bound.
    pub(super) fn sampled(&mut self, sample: CgroupSample) -> Option<CgroupSample> {
        if self.samples.len() >= MAX_CGROUPS && !self.samples.contains_key(&sample.cgroup) {
            return None;
        }
        self.samples.insert(sample.cgroup, sample)
    }

    /// The service at a place, which is made one if it was none.
    pub(super) fn service_at(&mut self, place: Place) -> ServiceId {
        match self.places.service(place) {
            Some(service) => service,
            None => self.places.assign(place, &mut self.services).0,
        }
    }
}
