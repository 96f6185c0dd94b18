//! A topology file (TOML or JSON) comes in; a checked `Topology` goes out: services with their methods
//! and fan-out, real back ends, users and load. `raw` is the file's shape, `check` its rules, `system`
//! what it says. Who turns it into processes: `run`. What each process is told: `brief`.

mod check;
pub mod generate;
mod graph;
mod raw;
mod summary;
mod system;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use prost::Message;
pub use summary::Summary;
pub use system::{
    BackendKind, Breaker, Cache, CallStep, DataOperation, DataStep, Load, Method, Pattern, PeerSettings,
    Retries, Scenario, Service, Stack,
};

pub use crate::messages::MethodKind;
use crate::messages::{Messages, Parcel, Schema};

/// One bad field of a topology file: which file, where in it, and what is wrong.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{file}: {place}: {reason}")]
pub struct Invalid {
    /// The file as the user named it.
    pub file: String,
    /// A line and column, or the path of a field such as `services.cartservice.methods.AddItem`.
    pub place: String,
    /// What is wrong and what would be right.
    pub reason: String,
}

/// A system that can be started: every name in it resolves.
#[derive(Clone, Debug)]
pub struct Topology {
    /// The name of the system.
    pub name: String,
    /// The service that users call.
    pub entry: String,
    /// Services by name.
    pub services: BTreeMap<String, Service>,
    /// Real servers that keep values, by name.
    pub backends: BTreeMap<String, BackendKind>,
    /// What users do.
    pub scenarios: Vec<Scenario>,
    /// How many of them there are.
    pub load: Load,
    /// Types of all messages; without it they are parcels of bytes.
    pub schema: Option<Schema>,
}

impl Topology {
    /// Reads and checks a file; JSON when its name ends so, else TOML.
    pub fn read(path: &Path) -> Result<Self, Invalid> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| Invalid {
            file: file.clone(),
            place: "file".into(),
            reason: format!("cannot be read: {error}"),
        })?;
        Self::parse(&file, &text)
    }

    /// The shipped shop.
    pub fn boutique() -> Result<Self, Invalid> {
        Self::parse("online-boutique.toml", include_str!("../../topologies/online-boutique.toml"))
    }

    /// Checks a file's text; `file` names it in errors and tells JSON from TOML.
    pub fn parse(file: &str, text: &str) -> Result<Self, Invalid> {
        check::resolve(file, raw::parse(file, text)?)
    }

    /// One method, if there is such.
    pub fn method(&self, service: &str, method: &str) -> Option<&Method> {
        self.services.get(service)?.methods.get(method)
    }

    /// The wire path of a method, such as `/hipstershop.CartService/AddItem`.
    pub fn path(&self, service: &str, method: &str) -> String {
        let grpc = self.services.get(service).map_or(service, |found| found.grpc.as_str());
        format!("/{grpc}/{method}")
    }

    /// Back ends of one kind, by name.
    pub fn backends_of(&self, kind: BackendKind) -> Vec<String> {
        self.backends.iter().filter(|found| *found.1 == kind).map(|(name, _)| name.clone()).collect()
    }

    /// Caller and callee pairs, back ends included, sorted.
    pub fn edges(&self) -> Vec<(String, String)> {
        let mut edges = BTreeSet::new();
        for (name, service) in &self.services {
            for method in service.methods.values() {
                edges.extend(method.calls.iter().map(|call| (name.clone(), call.service.clone())));
                edges.extend(method.data.iter().map(|step| (name.clone(), step.backend.clone())));
            }
        }
        edges.into_iter().collect()
    }

    /// The service that uses a back end, when exactly one does.
    pub fn backend_owner(&self, backend: &str) -> Option<&str> {
        let uses = |service: &Service| {
            service.methods.values().any(|method| method.data.iter().any(|step| step.backend == backend))
        };
        let mut owners = self.services.iter().filter(|(_, service)| uses(service));
        let first = owners.next()?.0;
        owners.next().is_none().then_some(first)
    }

    /// Encoded request and response messages of a method, at least one of each: what its callers send
    /// and what it answers, by turns. Both are empty when there is no such method.
    pub fn samples(&self, service: &str, method: &str) -> (Messages, Messages) {
        let Some(found) = self.method(service, method) else { return (Vec::new(), Vec::new()) };
        let grpc = self.services.get(service).map_or(service, |service| service.grpc.as_str());
        let bytes = (found.request_bytes, found.response_bytes);
        let typed = self.schema.as_ref().and_then(|schema| schema.samples(grpc, method, bytes));
        if let Some(typed) = typed {
            return typed;
        }
        (vec![parcel(found.request_bytes)], vec![parcel(found.response_bytes)])
    }
}

/// A message without a schema, with so many bytes in its one field.
fn parcel(payload_bytes: u32) -> Vec<u8> {
    Parcel { payload: vec![b'x'; payload_bytes as usize] }.encode_to_vec()
}
