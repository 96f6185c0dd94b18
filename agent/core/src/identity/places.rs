//! What lives where, and what it is called. [`CgroupIdentity`]s and the authorities that callers use flow in,
//! the [`Name`] of each [`Place`] flows out; [`super::Services`] gives names their ids.
//!
//! In order of trust: configuration, Kubernetes workload, the authority that callers use, systemd unit or
//! container name, process name. The sockets of the root cgroup cannot be told apart by it: there a listening
//! address is a place of its own, named by authority or well-known port, and all else is [`HOST`].

use super::authority::{name_of_host, well_known};
use super::{Name, Services};
use crate::event::CgroupIdentity;
use crate::units::{CgroupId, ServiceId};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

/// What lives in the root cgroup and has no name of its own.
pub const HOST: &str = "host";

/// A node runs a few thousand cgroups at most; those beyond are nameless.
const MAX_CGROUPS: usize = 8192;

/// Authorities that one place is called by: more than a handful are a proxy's.
const MAX_AUTHORITIES: usize = 8;

/// A cgroup that is gone keeps its name for so many steps: its sockets' last calls may come in the next one.
const FAREWELL_STEPS: u8 = 3;

/// Hosts that one place calls. A gateway calls dozens; a proxy's own names are among its busiest.
const MAX_CALLED: usize = 64;

/// The inode number of the root of a cgroup hierarchy, which is its id.
const ROOT: CgroupId = CgroupId(1);

/// Where a connection's end lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// In a cgroup, or in a child of it.
    Cgroup(CgroupId),
    /// In the root cgroup, behind a listening address.
    Listener(SocketAddr),
    /// In the root cgroup.
    Host,
}

/// What is known of the authorities at a place.
#[derive(Clone, Debug, Default)]
struct Wire {
    /// Calls by the host that callers used.
    called_as: BTreeMap<Arc<str>, u64>,
    /// Hosts that this place calls: it passes their calls on, and is not them.
    calls: BTreeSet<Arc<str>>,
    /// The host it is named by, once there is one.
    elected: Option<Arc<str>>,
}

/// Every place that is known.
#[derive(Clone, Debug, Default)]
pub struct Places {
    cgroups: BTreeMap<CgroupId, CgroupIdentity>,
    by_path: BTreeMap<Arc<str>, CgroupId>,
    /// A cgroup's place, remembered until an identity changes.
    owners: BTreeMap<CgroupId, CgroupId>,
    wire: BTreeMap<Place, Wire>,
    assigned: BTreeMap<Place, ServiceId>,
    /// Cgroups that are gone, and for how many steps: the last calls of their sockets still need their names.
    leaving: BTreeMap<CgroupId, u8>,
}

/// A service changed its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which.
    pub from: ServiceId,
    /// Its id now: the same, or that of the service that had the name already.
    pub to: ServiceId,
    /// Its name before.
    pub old: Arc<str>,
    /// Its name now.
    pub new: Arc<str>,
}

impl Places {
    /// Learns who lives in a cgroup, or that it is gone.
    pub fn learn(&mut self, identity: CgroupIdentity) {
        if identity.gone {
            if self.cgroups.contains_key(&identity.cgroup) {
                self.leaving.entry(identity.cgroup).or_default();
            }
            return;
        }
        self.owners.clear();
        self.leaving.remove(&identity.cgroup);
        self.remove(identity.cgroup);
        if self.cgroups.len() < MAX_CGROUPS {
            self.by_path.insert(identity.path.clone(), identity.cgroup);
            self.cgroups.insert(identity.cgroup, identity);
        }
    }

    /// Forgets, at the end of a step, the cgroups that are gone for long enough and that nobody uses.
    pub fn forget_gone(&mut self, is_used: impl Fn(CgroupId) -> bool) {
        let mut gone = Vec::new();
        for (cgroup, steps) in &mut self.leaving {
            *steps = steps.saturating_add(1);
            if *steps > FAREWELL_STEPS && !is_used(*cgroup) {
                gone.push(*cgroup);
            }
        }
        for cgroup in gone {
            self.owners.clear();
            self.leaving.remove(&cgroup);
            self.remove(cgroup);
            self.wire.remove(&Place::Cgroup(cgroup));
            self.assigned.remove(&Place::Cgroup(cgroup));
        }
    }

    /// The place of a socket: `listens` is its address where it is a server's.
    pub fn of(&mut self, cgroup: CgroupId, listens: Option<SocketAddr>) -> Place {
        if self.is_root(cgroup) {
            return listens.map_or(Place::Host, Place::Listener);
        }
        if let Some(owner) = self.owners.get(&cgroup) {
            return Place::Cgroup(*owner);
        }
        let owner = self.owner(cgroup);
        self.owners.insert(cgroup, owner);
        Place::Cgroup(owner)
    }

    /// Notes that a place calls a host.
    pub fn note_calls(&mut self, place: Place, host: &Arc<str>) {
        let calls = &mut self.wire.entry(place).or_default().calls;
        if calls.len() < MAX_CALLED {
            calls.insert(host.clone());
        }
    }

    /// Notes that a place was called as a host, and by how many calls.
    pub fn note_called_as(&mut self, place: Place, host: &Arc<str>, calls: u64) {
        let wire = self.wire.entry(place).or_default();
        if let Some(votes) = wire.called_as.get_mut(host) {
            *votes += calls;
        } else if wire.called_as.len() < MAX_AUTHORITIES {
            wire.called_as.insert(host.clone(), calls);
        }
        wire.elect();
    }

    /// The name of a place.
    #[must_use]
    pub fn name(&self, place: Place) -> Name {
        let elected = || self.wire.get(&place)?.elected.as_deref();
        match place {
            Place::Host => Name::plain(HOST),
            Place::Listener(address) => match elected() {
                Some(host) => name_of_host(host, None),
                None => Name::plain(well_known(address.port()).unwrap_or(HOST)),
            },
            Place::Cgroup(cgroup) => self.name_of_cgroup(cgroup, elected()),
        }
    }

    /// The Kubernetes namespace of a place.
    #[must_use]
    pub fn namespace(&self, place: Place) -> Option<Arc<str>> {
        let Place::Cgroup(cgroup) = place else { return None };
        self.nearest(cgroup, |identity| identity.workload.as_ref().map(|workload| workload.namespace.clone()))
    }

    /// The service of a place, once it has one.
    #[must_use]
    pub fn service(&self, place: Place) -> Option<ServiceId> {
        self.assigned.get(&place).copied()
    }

    /// Gives a place its service by its name as of now, and says whether a service changed its name by that:
    /// a service that lives in this place alone takes its history along.
    pub fn assign(&mut self, place: Place, services: &mut Services) -> (ServiceId, Option<Change>) {
        let name = self.name(place);
        let Some(id) = self.service(place).filter(|id| services.name(*id).is_some()) else {
            let id = services.intern(&name);
            self.assigned.insert(place, id);
            return (id, None);
        };
        let old = services.text(id);
        if old == name.text || &*old == Name::OTHER {
            return (id, None);
        }
        let lives_elsewhere = self.assigned.iter().any(|(other, service)| *service == id && *other != place);
        if lives_elsewhere {
            let id = services.intern(&name);
            self.assigned.insert(place, id);
            return (id, None);
        }
        let to = match services.rename(id, &name) {
            super::Renamed::Kept => id,
            super::Renamed::Into(other) => other,
        };
        self.assigned.insert(place, to);
        (to, Some(Change { from: id, to, old, new: name.text }))
    }

    /// Forgets which places a service had.
    pub fn forget(&mut self, service: ServiceId) {
        let gone: Vec<Place> =
            self.assigned.iter().filter(|(_, id)| **id == service).map(|(place, _)| *place).collect();
        for place in gone {
            self.assigned.remove(&place);
            self.wire.remove(&place);
        }
    }

    /// The cgroups above one, nearest first, the root left out.
    pub fn ancestors(&self, cgroup: CgroupId) -> impl Iterator<Item = CgroupId> + '_ {
        let mut path = self.cgroups.get(&cgroup).map_or("", |identity| &*identity.path);
        std::iter::from_fn(move || {
            path = path.rsplit_once('/').map(|(parent, _)| parent).filter(|parent| !parent.is_empty())?;
            Some(path)
        })
        .filter_map(|path| self.by_path.get(path).copied())
    }

    fn remove(&mut self, cgroup: CgroupId) {
        if let Some(old) = self.cgroups.remove(&cgroup)
            && self.by_path.get(&old.path) == Some(&cgroup)
        {
            self.by_path.remove(&old.path);
        }
    }

    fn is_root(&self, cgroup: CgroupId) -> bool {
        cgroup == ROOT
            || cgroup == CgroupId::default()
            || self.cgroups.get(&cgroup).is_some_and(|identity| &*identity.path == "/")
    }

    /// The highest cgroup of the same container: children of a container belong to it.
    fn owner(&self, cgroup: CgroupId) -> CgroupId {
        let container = self.cgroups.get(&cgroup).and_then(|identity| identity.container.clone());
        let mut owner = cgroup;
        for ancestor in self.ancestors(cgroup) {
            let above = self.cgroups.get(&ancestor).and_then(|identity| identity.container.as_ref());
            match (&container, above) {
                (Some(own), Some(above)) if own == above => owner = ancestor,
                (None, Some(_)) => return self.owner(ancestor),
                _ => {}
            }
        }
        owner
    }

    fn name_of_cgroup(&self, cgroup: CgroupId, elected: Option<&str>) -> Name {
        if let Some(configured) = self.nearest(cgroup, |identity| identity.configured.clone()) {
            return Name { namespace: None, text: configured };
        }
        if let Some(workload) = self.nearest(cgroup, |identity| identity.workload.clone()) {
            return Name::namespaced(&workload.namespace, &workload.name);
        }
        if let Some(host) = elected {
            return name_of_host(host, None);
        }
        let text = self
            .nearest(cgroup, |identity| identity.container.clone())
            .or_else(|| self.cgroups.get(&cgroup)?.process.clone())
            .unwrap_or_else(|| format!("cgroup-{}", cgroup.0).into());
        Name { namespace: None, text }
    }

    /// What the nearest cgroup says of which anything is known, from a cgroup upwards.
    fn nearest<T>(&self, cgroup: CgroupId, what: impl Fn(&CgroupIdentity) -> Option<T>) -> Option<T> {
        std::iter::once(cgroup)
            .chain(self.ancestors(cgroup))
            .find_map(|cgroup| self.cgroups.get(&cgroup).and_then(&what))
    }
}

impl Wire {
    /// Takes the most used host as the name, and keeps it until another is used more than twice as often:
    /// a name must not flap.
    fn elect(&mut self) {
        let votes = |host: &Arc<str>| self.called_as.get(host).copied().unwrap_or(0);
        let best = self
            .called_as
            .iter()
            .filter(|(host, _)| !self.calls.contains(*host))
            // Of equals the first by name.
            .max_by(|a, b| a.1.cmp(b.1).then_with(|| b.0.cmp(a.0)))
            .map(|(host, _)| host.clone());
        let keeps = self.elected.as_ref().is_some_and(|elected| {
            !self.calls.contains(elected)
                && best.as_ref().is_none_or(|best| votes(best) <= votes(elected).saturating_mul(2))
        });
        if !keeps {
            self.elected = best;
        }
    }
}
