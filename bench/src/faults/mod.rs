//! Ways to break the system on command, and things that happen to healthy ones: which kinds there are (`kind`), how
//! hard they hit (`parameters`), what each can strike, who is the culprit then, and what it means for a service's
//! behaviour. Schedules are read in `schedule`; `inject` makes them happen, on the wire in `wire`.

pub mod inject;
mod kind;
mod parameters;
pub mod schedule;
pub mod wire;

use serde::Serialize;

use crate::brief::{Behaviour, Effect};
use crate::random::Random;
use crate::topology::{BackendKind, Topology};
pub use kind::{Fits, Kind, Parameter, Role};
pub use parameters::{Parameters, Written};

/// Between the caller and the callee of an edge.
const ARROW: &str = "->";
/// The cgroup and culprit of a noisy neighbour.
pub const NEIGHBOUR: &str = "neighbour";
/// The cgroup of a batch job.
pub const BATCH_JOB: &str = "batch-job";
/// What users are called where a target is asked for.
pub const USERS: &str = "users";

/// A fault, or an event that is none, that fits the topology.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fault {
    /// Seconds after the load's start.
    pub at_seconds: f64,
    /// How long it lasts, seconds.
    pub duration_seconds: f64,
    /// What happens.
    pub kind: Kind,
    /// Where: a service, a backend, or an edge `caller->callee`.
    pub service: String,
    /// How hard.
    pub parameters: Parameters,
}

impl Fault {
    /// Caller and callee, when it strikes an edge.
    pub fn edge(&self) -> Option<(&str, &str)> {
        self.service.split_once(ARROW)
    }

    /// Who is at fault; of an edge either end may be named, which `|` separates.
    pub fn culprits(&self) -> String {
        match self.edge() {
            Some((caller, callee)) => format!("{callee}|{caller}"),
            None => self.service.clone(),
        }
    }
}

/// What a kind can strike in this topology.
pub fn targets(kind: Kind, topology: &Topology) -> Vec<String> {
    let services = || topology.services.iter();
    let named = |found: &dyn Fn(&crate::topology::Service) -> bool| {
        services().filter(|(_, service)| found(service)).map(|(name, _)| name.clone()).collect()
    };
    match kind.fits() {
        // Users would have nobody to call before it appears.
        Fits::Service if kind == Kind::NewService => {
            services().map(|(name, _)| name.clone()).filter(|name| *name != topology.entry).collect()
        }
        Fits::Service => named(&|_| true),
        Fits::Replicated => named(&|service| service.replicas > 1),
        Fits::Streaming => {
            named(&|service| service.methods.values().any(|method| method.kind.streams_responses()))
        }
        Fits::Edge => {
            let calls = topology.edges().into_iter().filter(|edge| topology.services.contains_key(&edge.1));
            calls.map(|(caller, callee)| format!("{caller}{ARROW}{callee}")).collect()
        }
        Fits::Redis => topology.backends_of(BackendKind::Redis),
        Fits::Postgres => topology.backends_of(BackendKind::Postgres),
        Fits::Backend => topology.backends.keys().cloned().collect(),
        Fits::Machine if kind == Kind::BatchJob => vec![BATCH_JOB.into()],
        Fits::Machine => vec![NEIGHBOUR.into()],
        Fits::Users => vec![USERS.into()],
    }
}

/// Every kind of a role with everything that it can strike.
pub fn pairs(topology: &Topology, role: Role) -> Vec<(Kind, String)> {
    let kinds = Kind::all().filter(|kind| kind.role() == role);
    kinds.flat_map(|kind| targets(kind, topology).into_iter().map(move |target| (kind, target))).collect()
}

/// The kind and the target as a user names them; missing ones are drawn with the seed. A service in front of one
/// backend stands for that backend.
pub fn resolve(
    topology: &Topology,
    role: Role,
    kind: Option<Kind>,
    service: Option<&str>,
    random: &mut Random,
) -> Result<(Kind, String), String> {
    let in_front = |kind: Kind, target: &str, service: &str| {
        matches!(kind.fits(), Fits::Redis | Fits::Postgres | Fits::Backend)
            && topology.backend_owner(target) == Some(service)
    };
    let named = |(kind, target): &(Kind, String)| {
        service.is_none_or(|service| target == service || in_front(*kind, target, service))
    };
    let fits = |pair: &(Kind, String)| kind.is_none_or(|kind| pair.0 == kind) && named(pair);
    let found: Vec<_> = pairs(topology, role).into_iter().filter(fits).collect();
    let drawn = usize::try_from(random.below(found.len() as u64)).unwrap_or(0);
    found.into_iter().nth(drawn).ok_or_else(|| {
        let kind = kind.map_or("anything", Kind::name);
        let service = service.unwrap_or("this topology");
        format!("{kind} does not fit {service}; `playground faults --list` shows what fits what")
    })
}

/// What a service does while this fault is on. `topology` knows its methods.
pub fn behaviour(fault: &Fault, topology: &Topology) -> Behaviour {
    let (parameters, service) =
        (&fault.parameters, fault.edge().map_or(fault.service.as_str(), |edge| edge.0));
    let method = parameters.method.as_ref().map(|method| topology.path(service, method));
    let delay = |delay_ms| Effect { delay_ms, method: method.clone(), ..Effect::default() };
    let fail = |status| {
        vec![Effect {
            fraction: parameters.number("fraction"),
            status,
            method: method.clone(),
            ..Effect::default()
        }]
    };
    let mut told = Behaviour::default();
    match fault.kind {
        Kind::Latency | Kind::LatencyInMethod => told.effects = vec![delay(parameters.number("latency_ms"))],
        Kind::LatencyJitter => {
            told.effects = vec![Effect { jitter_ms: parameters.number("jitter_ms"), ..Effect::default() }];
        }
        Kind::LatencyFraction | Kind::DeadlineExceeded => {
            told.effects = vec![Effect {
                fraction: parameters.number("fraction"),
                ..delay(parameters.number("latency_ms"))
            }];
        }
        Kind::Errors | Kind::ErrorsInMethod => told.effects = fail(parameters.status_number()),
        Kind::Unavailable => told.effects = fail(14),
        Kind::InvalidArgument => told.effects = fail(3),
        Kind::PermissionDenied => told.effects = fail(7),
        Kind::ResourceExhausted => {
            let full =
                Effect { max_in_flight: parameters.whole("max_in_flight"), status: 8, ..Effect::default() };
            told.effects = vec![full, delay(parameters.number("hold_ms"))];
        }
        Kind::BrokenStream => told.effects = broken_streams(fault, topology),
        Kind::BadDeployment => told.effects = new_version(fault, method.clone()),
        Kind::LockContention => {
            told.effects = vec![Effect { lock_ms: parameters.number("lock_ms"), ..Effect::default() }];
        }
        Kind::CpuHogInside => told.spin_threads = parameters.whole("threads"),
        Kind::ConnectionLeak => told.leak_connections_per_second = parameters.whole("per_second"),
        Kind::MemoryGrowth => {
            told.leak_bytes_per_second = mebibytes(parameters.number("mb_per_second"));
            told.leak_limit_bytes = mebibytes(parameters.number("max_mb"));
            told.leak_walks = parameters.whole("walks");
        }
        Kind::MemoryLeakOom => {
            told.leak_bytes_per_second = mebibytes(parameters.number("mb_per_second"));
            told.leak_limit_bytes = u64::MAX >> 1;
        }
        Kind::CircuitOpen => {
            told.open_circuits = fault.edge().map(|edge| edge.1.to_owned()).into_iter().collect();
        }
        _ => {}
    }
    told
}

/// Streams of every streaming method end in the middle.
fn broken_streams(fault: &Fault, topology: &Topology) -> Vec<Effect> {
    let methods = topology.services.get(&fault.service).map(|service| &service.methods);
    let streams = methods.into_iter().flatten().filter(|(_, method)| method.kind.streams_responses());
    let broken = |name: &String| Effect {
        method: Some(topology.path(&fault.service, name)),
        fraction: fault.parameters.number("fraction"),
        status: fault.parameters.status_number(),
        cut: true,
        ..Effect::default()
    };
    streams.map(|(name, _)| broken(name)).collect()
}

/// A new version is slower in every method, or errs in one.
fn new_version(fault: &Fault, method: Option<String>) -> Vec<Effect> {
    let slower = Effect { delay_ms: fault.parameters.number("latency_ms"), ..Effect::default() };
    let erring = Effect {
        method,
        fraction: fault.parameters.number("error_fraction"),
        status: fault.parameters.status_number(),
        ..Effect::default()
    };
    vec![slower, erring]
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounds are in the catalogue")]
fn mebibytes(count: f64) -> u64 {
    (count * 1_048_576.0) as u64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    fn boutique() -> Topology {
        Topology::boutique().unwrap()
    }

    fn resolve_fault(kind: Kind, service: &str) -> Result<(Kind, String), String> {
        resolve(&boutique(), Role::Fault, Some(kind), Some(service), &mut Random::seeded(1))
    }

    #[test]
    fn slow_redis_strikes_redis_only() {
        assert_eq!(targets(Kind::SlowRedis, &boutique()), ["redis-cart", "redis-catalog", "redis-session"]);
    }

    #[test]
    fn a_service_in_front_stands_for_its_redis() {
        assert_eq!(resolve_fault(Kind::SlowRedis, "cartservice"), Ok((Kind::SlowRedis, "redis-cart".into())));
        assert!(resolve_fault(Kind::SlowRedis, "adservice").is_err());
        assert!(resolve_fault(Kind::Stop, "nowhere").is_err());
        assert!(resolve_fault(Kind::RateStep, USERS).is_err(), "an event is no fault");
    }

    #[test]
    fn of_an_edge_both_ends_are_culprits() {
        let (kind, service) = resolve_fault(Kind::WireLoss, "checkoutservice->emailservice").unwrap();
        let parameters = Parameters::of(kind);
        let fault = Fault { at_seconds: 0.0, duration_seconds: 1.0, kind, service, parameters };
        assert_eq!(fault.culprits(), "emailservice|checkoutservice");
        assert!(resolve_fault(Kind::WireLoss, "emailservice->checkoutservice").is_err());
    }

    #[test]
    fn a_missing_choice_is_drawn_with_the_seed() {
        let draw = |seed| resolve(&boutique(), Role::Fault, None, None, &mut Random::seeded(seed)).unwrap();
        assert_eq!(draw(4), draw(4));
        assert!((0..20).any(|seed| draw(seed) != draw(4)));
    }
}
