//! Ways to break the system on command: what kinds there are, which service each fits, and what they
//! mean for a service's behaviour. Schedules are read in `schedule`; `inject` makes them happen.

pub mod inject;
pub mod schedule;

use serde::{Deserialize, Serialize};

use crate::brief::{Behaviour, Effect};
use crate::random::Random;
use crate::service::status::code_number;
use crate::topology::{BackendKind, Topology};

/// A way to break a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Every call takes longer.
    Latency,
    /// Some calls fail at once.
    Errors,
    /// A foreign process uses up the service's processor time.
    CpuHog,
    /// The service's memory grows and every call walks it.
    MemoryGrowth,
    /// The service's process stands still.
    Stop,
    /// A real Redis server runs only now and then.
    SlowRedis,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 6] =
        [Self::Latency, Self::Errors, Self::CpuHog, Self::MemoryGrowth, Self::Stop, Self::SlowRedis];

    /// The name on command lines and in files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::Errors => "errors",
            Self::CpuHog => "cpu-hog",
            Self::MemoryGrowth => "memory-growth",
            Self::Stop => "stop",
            Self::SlowRedis => "slow-redis",
        }
    }
}

/// How hard a fault hits; defaults are what users of the system notice.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Parameters {
    /// `latency`: milliseconds added to each call.
    pub latency_ms: f64,
    /// `errors`: share of calls that fail.
    pub fraction: f64,
    /// `errors`: gRPC status name.
    pub status: String,
    /// `cpu-hog`: busy threads.
    pub threads: u32,
    /// `memory-growth`: MiB a second.
    pub mb_per_second: u64,
    /// `memory-growth`: MiB at which growth stops.
    pub max_mb: u64,
    /// `memory-growth`: how often a call walks what leaked; walks take half of the time at most.
    pub walks: u32,
    /// `slow-redis`: the server stands still for this long,
    pub stopped_ms: u64,
    /// and then runs for this long, milliseconds.
    pub running_ms: u64,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            latency_ms: 200.0,
            fraction: 0.5,
            status: "UNAVAILABLE".into(),
            threads: 4,
            mb_per_second: 20,
            max_mb: 1_536,
            walks: 4,
            stopped_ms: 300,
            running_ms: 15,
        }
    }
}

/// A fault that fits the topology.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fault {
    /// Seconds after the load's start.
    pub at_seconds: f64,
    /// How long it lasts, seconds.
    pub duration_seconds: f64,
    /// What happens.
    pub kind: Kind,
    /// Where: a service, or a Redis instance. This is the culprit.
    pub service: String,
    /// How hard.
    pub parameters: Parameters,
}

/// Every kind with every service that it fits.
pub fn pairs(topology: &Topology) -> Vec<(Kind, String)> {
    let fits = |kind: Kind| match kind {
        Kind::SlowRedis => topology.backends_of(BackendKind::Redis),
        _ => topology.services.keys().cloned().collect(),
    };
    Kind::ALL.iter().flat_map(|&kind| fits(kind).into_iter().map(move |service| (kind, service))).collect()
}

/// The culprit of a kind and a service as a user names them; missing ones are drawn with the seed. A
/// service in front of one Redis instance stands for that instance.
pub fn resolve(
    topology: &Topology,
    kind: Option<Kind>,
    service: Option<&str>,
    random: &mut Random,
) -> Result<(Kind, String), String> {
    let behind = |service: &str| {
        let owned = |instance: &String| topology.backend_owner(instance) == Some(service);
        topology.backends_of(BackendKind::Redis).into_iter().find(owned)
    };
    let named = |pair: &(Kind, String)| {
        service.is_none_or(|service| {
            pair.1 == service || (pair.0 == Kind::SlowRedis && behind(service).as_ref() == Some(&pair.1))
        })
    };
    let fits = |pair: &(Kind, String)| kind.is_none_or(|kind| pair.0 == kind) && named(pair);
    let found: Vec<_> = pairs(topology).into_iter().filter(fits).collect();
    let drawn = usize::try_from(random.below(found.len() as u64)).unwrap_or(0);
    found.into_iter().nth(drawn).ok_or_else(|| {
        let kind = kind.map_or("any fault", Kind::name);
        let service = service.unwrap_or("any service");
        format!("{kind} does not fit {service}; `playground faults --list` shows what fits what")
    })
}

/// What a service does while all these faults are on.
pub fn behaviour<'a>(faults: impl Iterator<Item = &'a Fault>) -> Behaviour {
    let mut behaviour = Behaviour::default();
    for Fault { kind, parameters, .. } in faults {
        match kind {
            Kind::Latency => {
                behaviour.effects.push(Effect { delay_ms: parameters.latency_ms, ..Effect::default() });
            }
            Kind::Errors => behaviour.effects.push(Effect {
                fraction: parameters.fraction,
                status: code_number(&parameters.status).unwrap_or(14),
                ..Effect::default()
            }),
            Kind::MemoryGrowth => {
                behaviour.leak_bytes_per_second = parameters.mb_per_second << 20;
                behaviour.leak_limit_bytes = parameters.max_mb << 20;
                behaviour.leak_walks = parameters.walks;
            }
            Kind::CpuHog | Kind::Stop | Kind::SlowRedis => {}
        }
    }
    behaviour
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    fn boutique() -> Topology {
        Topology::boutique().unwrap()
    }

    #[test]
    fn every_kind_fits_something_and_slow_redis_only_redis() {
        let pairs = pairs(&boutique());
        for kind in Kind::ALL {
            assert!(pairs.iter().any(|pair| pair.0 == kind));
        }
        let redis: Vec<_> =
            pairs.iter().filter(|pair| pair.0 == Kind::SlowRedis).map(|pair| &pair.1).collect();
        assert_eq!(redis, ["redis-cart", "redis-catalog", "redis-session"]);
    }

    #[test]
    fn a_service_in_front_stands_for_its_redis() {
        let mut random = Random::seeded(1);
        let found = resolve(&boutique(), Some(Kind::SlowRedis), Some("cartservice"), &mut random);
        assert_eq!(found, Ok((Kind::SlowRedis, "redis-cart".into())));
        assert!(resolve(&boutique(), Some(Kind::SlowRedis), Some("adservice"), &mut random).is_err());
        assert!(resolve(&boutique(), Some(Kind::Stop), Some("nowhere"), &mut random).is_err());
    }

    #[test]
    fn a_missing_choice_is_drawn_with_the_seed() {
        let draw = |seed| resolve(&boutique(), None, None, &mut Random::seeded(seed)).unwrap();
        assert_eq!(draw(4), draw(4));
        assert!((0..20).any(|seed| draw(seed) != draw(4)));
    }

    #[test]
    fn faults_on_one_service_add_up() {
        let fault = |kind| Fault {
            at_seconds: 0.0,
            duration_seconds: 1.0,
            kind,
            service: "a".into(),
            parameters: Parameters::default(),
        };
        let both = behaviour([fault(Kind::Latency), fault(Kind::Errors)].iter());
        assert_eq!(both.effects.iter().map(|effect| effect.status).collect::<Vec<_>>(), [0, 14]);
        assert_eq!(behaviour([fault(Kind::Stop)].iter()), Behaviour::default());
    }
}
