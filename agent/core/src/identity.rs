//! Who is who: connections and cgroups to services, by names in a fixed order of trust. Identities, authorities
//! and addresses flow in, [`ServiceId`]s flow out; [`crate::pipeline`] asks once a step.
//!
//! [`authority`] reads names off the wire, [`places`] knows what lives where and what it is called,
//! [`Services`] gives a name its id.

pub mod authority;
pub mod places;

use crate::refused::Refused;
use crate::units::ServiceId;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A service's name. Ordered by namespace, then name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// The Kubernetes namespace, where there is one.
    pub namespace: Option<Arc<str>>,
    /// As it is shown and compared: `namespace/name` in Kubernetes, so that one name is one service.
    pub text: Arc<str>,
}

impl Name {
    /// What counts for all services beyond the bound.
    pub const OTHER: &'static str = "_OTHER";

    /// A name without a namespace.
    #[must_use]
    pub fn plain(text: &str) -> Self {
        Self { namespace: None, text: text.into() }
    }

    /// A name in a Kubernetes namespace.
    #[must_use]
    pub fn namespaced(namespace: &str, name: &str) -> Self {
        Self { namespace: Some(namespace.into()), text: format!("{namespace}/{name}").into() }
    }
}

/// Every known service. Ids are never used again, so that a late reader cannot take one for another.
#[derive(Clone, Debug)]
pub struct Services {
    names: BTreeMap<ServiceId, Name>,
    by_text: BTreeMap<Arc<str>, ServiceId>,
    next: u32,
    max: usize,
    /// Names beyond the bound.
    refused: Refused<Arc<str>>,
    overflowed: u64,
}

/// What became of a service that was given another name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renamed {
    /// It kept its id.
    Kept,
    /// A service of that name exists: it is this one from now on.
    Into(ServiceId),
}

impl Services {
    /// No service yet, and never more than `max` besides [`Name::OTHER`].
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self {
            names: BTreeMap::new(),
            by_text: BTreeMap::new(),
            next: 0,
            max: max.max(1),
            refused: Refused::new(max.max(1)),
            overflowed: 0,
        }
    }

    /// The id of a name, a new one where it is new; beyond the bound that of [`Name::OTHER`].
    pub fn intern(&mut self, name: &Name) -> ServiceId {
        if let Some(id) = self.by_text.get(&name.text) {
            return *id;
        }
        if &*name.text != Name::OTHER && self.names.len() >= self.max {
            self.overflowed += u64::from(self.refused.refuse(name.text.clone()));
            return self.intern(&Name::plain(Name::OTHER));
        }
        self.refused.admit(&name.text);
        let id = ServiceId(self.next);
        self.next = self.next.saturating_add(1);
        self.by_text.insert(name.text.clone(), id);
        self.names.insert(id, name.clone());
        id
    }

    /// Gives a service another name.
    pub fn rename(&mut self, id: ServiceId, name: &Name) -> Renamed {
        match self.by_text.get(&name.text) {
            Some(same) if *same == id => Renamed::Kept,
            Some(other) => {
                let other = *other;
                self.forget(id);
                Renamed::Into(other)
            }
            None => {
                self.forget(id);
                self.by_text.insert(name.text.clone(), id);
                self.names.insert(id, name.clone());
                Renamed::Kept
            }
        }
    }

    /// Frees the place of a service that is gone.
    pub fn forget(&mut self, id: ServiceId) {
        if let Some(name) = self.names.remove(&id) {
            self.by_text.remove(&name.text);
        }
    }

    /// The name of a service.
    #[must_use]
    pub fn name(&self, id: ServiceId) -> Option<&Name> {
        self.names.get(&id)
    }

    /// The name of a service as it is shown; [`Name::OTHER`] for one that is gone.
    #[must_use]
    pub fn text(&self, id: ServiceId) -> Arc<str> {
        self.names.get(&id).map_or_else(|| Name::OTHER.into(), |name| name.text.clone())
    }

    /// Every service, by name.
    pub fn by_name(&self) -> impl Iterator<Item = (&Arc<str>, ServiceId)> + '_ {
        self.by_text.iter().map(|(text, id)| (text, *id))
    }

    /// How many names were found to be beyond the bound since this was last asked.
    pub fn take_overflowed(&mut self) -> u64 {
        std::mem::take(&mut self.overflowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_id_and_the_bound_holds() {
        let mut services = Services::new(2);
        let a = services.intern(&Name::plain("a"));
        let b = services.intern(&Name::plain("b"));
        assert_eq!(services.intern(&Name::plain("a")), a);
        let other = services.intern(&Name::plain("c"));
        assert_eq!(&*services.text(other), Name::OTHER);
        assert_eq!(services.intern(&Name::plain("d")), other);
        assert_eq!(services.take_overflowed(), 2);
        assert_eq!(services.rename(a, &Name::plain("z")), Renamed::Kept);
        assert_eq!(&*services.text(a), "z");
        assert_eq!(services.rename(a, &Name::plain("b")), Renamed::Into(b));
        assert_eq!(services.name(a), None);
    }
}
