//! The catalogue of what can happen: faults, and what is none and must not page. Each kind's name, what it can strike,
//! its parameters with defaults and bounds, and what it does. Reading schedules, `faults --list` and the documentation
//! all go by this table.

use serde::Serialize;

/// Whether somebody should be paged for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Yes: something is broken.
    Fault,
    /// No: this is what happens to a healthy system.
    Event,
}

/// What a kind can strike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fits {
    /// Any service.
    Service,
    /// A service with two replicas or more.
    Replicated,
    /// A service with a streaming method.
    Streaming,
    /// A caller and its callee, written `caller->callee`.
    Edge,
    /// A Redis server, or the one service in front of it.
    Redis,
    /// A PostgreSQL server, or the one service in front of it.
    Postgres,
    /// Either.
    Backend,
    /// The machine: a process in a cgroup of its own, named as the target.
    Machine,
    /// The users' load.
    Users,
}

/// A number that says how hard a fault hits.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Parameter {
    /// Its name in schedules.
    pub name: &'static str,
    /// Without a word about it.
    pub default: f64,
    /// At least.
    pub least: f64,
    /// At most.
    pub most: f64,
    /// The value that does no harm: `strength` 0 means this one. None: `strength` does not touch it.
    pub harmless: Option<f64>,
    /// What it is, with its unit.
    pub what: &'static str,
}

const fn scaled(
    name: &'static str,
    (default, harmless): (f64, f64),
    (least, most): (f64, f64),
    what: &'static str,
) -> Parameter {
    Parameter { name, default, least, most, harmless: Some(harmless), what }
}

const fn fixed(name: &'static str, default: f64, (least, most): (f64, f64), what: &'static str) -> Parameter {
    Parameter { name, default, least, most, harmless: None, what }
}

const fn latency(default: f64) -> Parameter {
    scaled("latency_ms", (default, 0.0), (0.0, 60_000.0), "milliseconds added to a call")
}

const fn fraction(default: f64) -> Parameter {
    scaled("fraction", (default, 0.0), (0.0, 1.0), "share of the calls, 0 to 1")
}

const fn stopped(default: f64) -> Parameter {
    scaled("stopped_ms", (default, 0.0), (0.0, 60_000.0), "milliseconds that it stands still")
}

const fn running(default: f64) -> Parameter {
    fixed("running_ms", default, (1.0, 60_000.0), "milliseconds that it then runs")
}

const THREADS: Parameter = fixed("threads", 4.0, (1.0, 16.0), "busy threads");
const BUSY: Parameter = scaled("busy", (1.0, 0.0), (0.0, 1.0), "share of the time that each thread is busy");
const GROWTH: Parameter =
    scaled("mb_per_second", (20.0, 0.0), (0.0, 200.0), "MiB that memory grows each second");

/// One row of the catalogue.
pub(super) struct Row {
    pub(super) kind: Kind,
    pub(super) role: Role,
    pub(super) name: &'static str,
    pub(super) fits: Fits,
    pub(super) parameters: &'static [Parameter],
    /// The status of failing calls where the user may choose; empty where not.
    pub(super) status: &'static str,
    /// Whether it strikes one method, which the user may choose.
    pub(super) in_method: bool,
    pub(super) does: &'static str,
}

macro_rules! catalogue {
    ($($role:ident $kind:ident $name:literal $fits:ident [$($parameter:expr),*] $status:literal $in_method:literal $does:literal;)*) => {
        /// Something that can happen to the system.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, serde::Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Kind {
            $(#[doc = $does] $kind,)*
        }

        pub(super) const CATALOGUE: &[Row] = &[$(Row {
            kind: Kind::$kind,
            role: Role::$role,
            name: $name,
            fits: Fits::$fits,
            parameters: &[$($parameter),*],
            status: $status,
            in_method: $in_method,
            does: $does,
        },)*];
    };
}

catalogue! {
    Fault Latency "latency" Service [latency(200.0)] "" false
        "Every call of the service sleeps first.";
    Fault LatencyJitter "latency-jitter" Service [scaled("jitter_ms", (150.0, 0.0), (0.0, 60_000.0), "mean of an exponential draw, milliseconds")] "" false
        "Every call sleeps for a random time first.";
    Fault LatencyInMethod "latency-in-method" Service [latency(300.0)] "" true
        "Calls of one method sleep first.";
    Fault LatencyFraction "latency-fraction" Service [latency(500.0), fixed("fraction", 0.2, (0.0, 1.0), "share of the calls, 0 to 1")] "" false
        "Some calls sleep first, the others do not.";
    Fault Errors "errors" Service [fraction(0.5)] "UNAVAILABLE" false
        "Calls fail at once.";
    Fault ErrorsInMethod "errors-in-method" Service [fraction(0.5)] "INTERNAL" true
        "Calls of one method fail at once.";
    Fault DeadlineExceeded "deadline-exceeded" Service [fixed("latency_ms", 10_000.0, (1.0, 60_000.0), "milliseconds that a struck call sleeps, longer than deadlines"), fraction(0.3)] "" false
        "Some calls sleep until their callers' deadlines have passed.";
    Fault ResourceExhausted "resource-exhausted" Service [fixed("max_in_flight", 1.0, (1.0, 10_000.0), "calls at once that are let in"), scaled("hold_ms", (100.0, 0.0), (0.0, 60_000.0), "milliseconds that each holds its place")] "" false
        "The service lets in few calls at once, each for longer, and refuses the rest with RESOURCE_EXHAUSTED.";
    Fault Unavailable "unavailable" Service [fraction(0.5)] "" false
        "Calls fail at once with UNAVAILABLE.";
    Fault InvalidArgument "invalid-argument" Service [fraction(0.5)] "" false
        "Calls fail at once with INVALID_ARGUMENT, as after a change that its callers do not know.";
    Fault PermissionDenied "permission-denied" Service [fraction(0.5)] "" false
        "Calls fail at once with PERMISSION_DENIED.";
    Fault BrokenStream "broken-stream" Streaming [fraction(0.5)] "UNAVAILABLE" false
        "Streaming calls end with an error after half of their messages.";
    Fault LoadBalancer "load-balancer" Replicated [stopped(1_000.0), fixed("running_ms", 0.0, (0.0, 60_000.0), "milliseconds that it then runs; 0 is never")] "" false
        "One replica stands still (SIGSTOP) and callers go on sending to it.";
    Fault CircuitOpen "circuit-open" Edge [] "" false
        "The caller's circuit breaker is stuck open: its calls to the callee fail with UNAVAILABLE and never leave.";
    Fault SlowStart "slow-start" Service [latency(800.0), fixed("warm_seconds", 30.0, (0.5, 600.0), "seconds until it is as fast as before")] "" false
        "The service is restarted, and its calls sleep less and less until it is warm.";
    Fault CpuHog "cpu-hog" Service [THREADS, BUSY] "" false
        "Busy threads of a foreign process in the service's cgroup use up its CPU limit.";
    Fault CpuHogInside "cpu-hog-inside" Service [scaled("threads", (4.0, 1.0), (1.0, 16.0), "busy threads")] "" false
        "Threads of the service's own process only use the processor.";
    Fault CpuQuota "cpu-quota" Service [scaled("share", (0.8, 1.5), (0.05, 2.0), "the new limit, as a share of the processor time that the service used before")] "" false
        "The service's CPU limit is cut below what it needs; the kernel throttles it.";
    Fault MemoryGrowth "memory-growth" Service [GROWTH, fixed("max_mb", 1_536.0, (1.0, 1_536.0), "MiB at which growth stops"), fixed("walks", 4.0, (0.0, 100.0), "times that a call reads one byte of each leaked page; for half of the time at most")] "" false
        "Memory grows and is touched, and calls walk it as a collector does.";
    Fault MemoryLeakOom "memory-leak-oom" Service [GROWTH, fixed("headroom_mb", 150.0, (8.0, 4_096.0), "MiB above what it uses now, where it has no memory limit")] "" false
        "Memory leaks up to the cgroup's limit, and the kernel kills the service; it is started again and leaks again.";
    Fault LockContention "lock-contention" Service [scaled("lock_ms", (20.0, 0.0), (0.0, 10_000.0), "milliseconds that each call holds the one lock, doing nothing")] "" false
        "Calls wait for one lock.";
    Fault Pauses "pauses" Service [stopped(400.0), running(600.0)] "" false
        "The process stands still and runs by turns (SIGSTOP, SIGCONT), as in stop-the-world collections.";
    Fault Stop "stop" Service [] "" false
        "The service's processes stand still (SIGSTOP) until the end.";
    Fault CrashLoop "crash-loop" Service [fixed("every_seconds", 10.0, (1.0, 600.0), "seconds from one crash to the next")] "" false
        "The service is killed again and again; each time it is started again within a second.";
    Fault ConnectionLeak "connection-leak" Service [scaled("per_second", (50.0, 0.0), (0.0, 500.0), "connections opened each second, 5000 at most")] "" false
        "The service opens connections to its first backend, else its first callee, and never closes them.";
    Fault WireDelay "wire-delay" Edge [scaled("latency_ms", (50.0, 0.0), (0.0, 5_000.0), "milliseconds that a packet takes longer")] "" false
        "Packets from the caller to the callee arrive late.";
    Fault WireLoss "wire-loss" Edge [scaled("percent", (15.0, 0.0), (0.0, 90.0), "packets lost of a hundred")] "" false
        "Packets from the caller to the callee are lost at random.";
    Fault SlowRedis "slow-redis" Redis [stopped(300.0), running(15.0)] "" false
        "The Redis server runs only now and then.";
    Fault SlowPostgres "slow-postgres" Postgres [stopped(300.0), running(15.0)] "" false
        "All processes of the PostgreSQL server run only now and then.";
    Fault RefusingBackend "refusing-backend" Backend [] "" false
        "The backend's server is down: connections are refused. It starts again at the end, Redis empty.";
    Fault BadDeployment "bad-deployment" Service [latency(150.0), scaled("error_fraction", (0.0, 0.0), (0.0, 1.0), "share of the calls of one method that fail")] "INTERNAL" true
        "The service's processes are replaced one by one by a new version that is slower, or errs in one method; at the end the old one comes back.";
    Fault NoisyNeighbour "noisy-neighbour" Machine [fixed("threads", 8.0, (1.0, 64.0), "busy threads"), BUSY] "" false
        "A process in a cgroup of its own, `neighbour`, uses the machine's processors.";
    Event RateStep "rate-step" Users [scaled("factor", (1.5, 1.0), (0.1, 10.0), "times the usual rate of requests")] "" false
        "Users send more or fewer requests until the end.";
    Event Burst "burst" Users [scaled("factor", (3.0, 1.0), (0.1, 10.0), "times the usual rate of requests")] "" false
        "Users send many requests for a short time.";
    Event ScaleUp "scale-up" Service [fixed("replicas", 1.0, (1.0, 10.0), "replicas that are added")] "" false
        "Replicas are added, and callers are told; at the end they go again.";
    Event ScaleDown "scale-down" Replicated [fixed("replicas", 1.0, (1.0, 10.0), "replicas that go, never the last one")] "" false
        "Replicas go after their callers have been told; at the end they come back.";
    Event RollingRestart "rolling-restart" Service [] "" false
        "Each process is replaced by a new one: callers are told before the old one goes.";
    Event NewService "new-service" Service [] "" false
        "The service does not exist before, and nobody calls it; then it appears and is called.";
    Event BadClient "bad-client" Service [fixed("rate", 1.0, (0.01, 100.0), "requests a second")] "" false
        "A client of its own, `bad-client`, sends requests that are answered with INVALID_ARGUMENT.";
    Event BatchJob "batch-job" Machine [fixed("threads", 2.0, (1.0, 16.0), "busy threads"), fixed("cores", 0.3, (0.02, 16.0), "the CPU limit of its cgroup")] "" false
        "A process in a cgroup of its own, `batch-job`, works within its CPU limit.";
    Event CacheWarming "cache-warming" Service [] "" false
        "The service's processes are replaced one by one, so that their caches are empty.";
}

impl Kind {
    /// All kinds.
    pub fn all() -> impl Iterator<Item = Self> {
        CATALOGUE.iter().map(|row| row.kind)
    }

    pub(super) fn row(self) -> &'static Row {
        // The macro writes rows in the order of the enum.
        #[expect(clippy::indexing_slicing, reason = "one row for each kind")]
        &CATALOGUE[self as usize]
    }

    /// The name on command lines and in files.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// Whether it is a fault.
    pub fn role(self) -> Role {
        self.row().role
    }

    /// What it can strike.
    pub fn fits(self) -> Fits {
        self.row().fits
    }

    /// The numbers that say how hard it hits.
    pub fn parameters(self) -> &'static [Parameter] {
        self.row().parameters
    }

    /// What it does, in a sentence.
    pub fn does(self) -> &'static str {
        self.row().does
    }

    /// The status of failing calls, where the user may choose another.
    pub fn status(self) -> Option<&'static str> {
        Some(self.row().status).filter(|status| !status.is_empty())
    }

    /// Whether it strikes one method only.
    pub fn in_method(self) -> bool {
        self.row().in_method
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use crate::status::code_number;

    #[test]
    fn the_documentation_lists_every_kind_and_parameter() {
        let text = include_str!("../../README.md");
        for row in CATALOGUE {
            let line = text.lines().find(|line| line.starts_with(&format!("| {} |", row.name)));
            let line = line.unwrap_or_else(|| panic!("README.md has no line for {}", row.name));
            assert!(line.contains(row.does), "{line}");
            for one in row.parameters {
                assert!(line.contains(&format!("{} ({})", one.name, one.default)), "{line}: {}", one.name);
            }
        }
    }

    #[test]
    fn names_are_what_files_say_and_defaults_are_within_bounds() {
        for row in CATALOGUE {
            assert_eq!(serde_json::to_value(row.kind).unwrap(), row.name);
            assert_eq!(row.kind.name(), row.name);
            assert!(row.status.is_empty() || code_number(row.status).is_some(), "{}", row.name);
            for one in row.parameters {
                assert!((one.least..=one.most).contains(&one.default), "{} {}", row.name, one.name);
                let harmless = one.harmless.unwrap_or(one.default);
                assert!((one.least..=one.most).contains(&harmless), "{} {}", row.name, one.name);
            }
        }
    }
}
