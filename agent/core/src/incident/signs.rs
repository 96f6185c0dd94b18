//! What is bad about one step. Two kinds of signs: users are hurt at an entry service, or a service shows
//! strong evidence of its own. Every threshold is a factor together with an absolute floor, since a factor
//! alone pages for 2 ms that became 7, and a floor alone for a busy hour.

use super::Observation;
use crate::evidence::{MIN_REFERENCE, mebibytes, median, millis, percent, quantile};
use crate::rank::Blame;
use crate::units::{ServiceId, Step};
use crate::window::Signal;
use petgraph::Direction::Incoming;
use std::ops::Range;

/// Latency must grow by this factor: people notice, and bursts on a shared machine double it.
const LATENCY_FACTOR: f64 = 3.0;
/// And by so many milliseconds: less, nobody feels.
const LATENCY_FLOOR_MS: f64 = 50.0;
/// And beyond the baseline's worst hundredth by this factor: bursts were there before.
const BEYOND_WORST: f64 = 1.3;
/// A load that grew by this factor explains some latency, so both of the above must hold doubly.
const BUSIER: f64 = 1.4;
/// Fewer failed calls in a step than this are chance.
const ERROR_COUNT: f64 = 3.0;
/// The failed share must exceed the usual one by this.
const ERROR_RATIO: f64 = 0.03;
/// The failed calls must exceed the expected ones by so many Poisson deviations: three steps, which open an
/// incident, are then five together (5 / sqrt 3), and a service with few calls may show it.
const ERROR_Z: f64 = 2.9;
/// A call that waits for so long, and five times longer than the worst of the baseline, is stuck.
const STUCK_MS: f64 = 2_000.0;
const STUCK_FACTOR: f64 = 5.0;
/// CPU must grow by this factor beyond what the load explains, and by so many thousandths of a core: a
/// garbage collector or a compiler in one service uses less, or not for three steps.
const CPU_FACTOR: f64 = 3.0;
const CPU_FLOOR: f64 = 300.0;
/// Memory must grow in each of so many steps,
const MEMORY_STEPS: u64 = 4;
/// by so much a second in each,
const MEMORY_RATE: f64 = 2.0 * MEBIBYTE;
/// by so much altogether,
const MEMORY_FLOOR: f64 = 96.0 * MEBIBYTE;
/// and faster by this factor than it ever did in the baseline.
const MEMORY_FACTOR: f64 = 3.0;
/// A suspect's own evidence of this weight (a rise of some twenty scales that no callee explains) is
/// strong; it counts only with a rise that the floors above allow.
const STRONG: f64 = 3.0;
/// A service that fails so many more of its calls than usual is broken, however few calls it has.
const BROKEN_RATIO: f64 = 0.25;
/// Latency inside the system, which users may not feel, must grow by so much.
const INSIDE_FLOOR_MS: f64 = 100.0;
const MEBIBYTE: f64 = 1_048_576.0;

/// A kind of sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Errors,
    Stuck,
    Latency,
    Inside,
    Cpu,
    Memory,
}

impl Kind {
    /// In how many of the newest steps the sign must show, and of how many, where an ordinary one must in all of
    /// `open_after`.
    pub(super) fn must_show(self, open_after: u64) -> (u64, u64) {
        match self {
            // Growth shows only once it has lasted several steps.
            Self::Memory => (1, 1),
            // What crashes and comes back fails its calls by turns.
            Self::Errors => (open_after, 2 * open_after - 1),
            Self::Stuck | Self::Latency | Self::Inside | Self::Cpu => (open_after, open_after),
        }
    }
}

/// What is bad about a step.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sign {
    pub(super) service: ServiceId,
    pub(super) kind: Kind,
    pub(super) reason: String,
}

/// The signs of the newest step, those that hurt users first. Only services that the ranking knows are
/// judged, so the masked ones are not.
pub(super) fn of_step(seen: &Observation<'_>, reference: &Range<Step>) -> Vec<Sign> {
    let mut signs = Vec::new();
    for Blame { service, .. } in seen.blames {
        let view = Watched { seen, reference, service: *service };
        if view.is_entry() {
            view.note(&mut signs, Kind::Errors, view.errors());
            view.note(&mut signs, Kind::Stuck, view.stuck());
            view.note(&mut signs, Kind::Latency, view.latency(Signal::LatencyP95, LATENCY_FLOOR_MS));
        }
    }
    for blame in seen.blames {
        let view = Watched { seen, reference, service: blame.service };
        if view.has_traffic() {
            view.note(&mut signs, Kind::Inside, view.inside(blame));
            view.note(&mut signs, Kind::Cpu, view.cpu());
            view.note(&mut signs, Kind::Memory, view.memory());
        }
    }
    signs
}

/// One service at one step.
struct Watched<'a> {
    seen: &'a Observation<'a>,
    reference: &'a Range<Step>,
    service: ServiceId,
}

impl Watched<'_> {
    fn note(&self, signs: &mut Vec<Sign>, kind: Kind, reason: Option<String>) {
        signs.extend(reason.map(|reason| Sign { service: self.service, kind, reason }));
    }

    fn now(&self, signal: Signal) -> Option<f64> {
        self.at(signal, self.seen.step)
    }

    fn at(&self, signal: Signal, step: Step) -> Option<f64> {
        self.seen.history.values(self.service, signal, step..Step(step.0 + 1)).first().copied()
    }

    /// The baseline's values; `None` where there are too few.
    fn usual(&self, signal: Signal) -> Option<Vec<f64>> {
        let values = self.seen.history.values(self.service, signal, self.reference.clone());
        (values.len() >= MIN_REFERENCE).then_some(values)
    }

    /// Users call it: it serves calls, and whoever calls it serves none (a load generator, a gateway that
    /// is not seen) or is not known.
    fn is_entry(&self) -> bool {
        let serves =
            |service| !self.seen.history.values(service, Signal::CallRate, self.reference.clone()).is_empty();
        serves(self.service)
            && !self
                .seen
                .graph
                .neighbors_directed(self.service, Incoming)
                .any(|caller| caller != self.service && serves(caller))
    }

    /// It is called: what uses a machine beside the calls is not this system's incident.
    fn has_traffic(&self) -> bool {
        self.usual(Signal::CallRate).is_some()
            || self.seen.graph.neighbors_directed(self.service, Incoming).next().is_some()
    }

    /// How much the load grew; 1 for less load, or where it is not known.
    fn load(&self) -> f64 {
        let usual = self.usual(Signal::CallRate).and_then(|values| median(&values));
        match (self.now(Signal::CallRate), usual) {
            (Some(now), Some(usual)) if usual > 0.0 => (now / usual).max(1.0),
            _ => 1.0,
        }
    }

    fn latency(&self, preferred: Signal, floor: f64) -> Option<String> {
        let (signal, name) = if self.now(preferred).is_some() && self.usual(preferred).is_some() {
            (preferred, "p95 latency")
        } else {
            (Signal::LatencyP50, "median latency")
        };
        let now = self.now(signal)?;
        let reference = self.usual(signal)?;
        let usual = median(&reference)?;
        let stricter = if self.load() > BUSIER { 2.0 } else { 1.0 };
        let breach = now >= usual * LATENCY_FACTOR * stricter
            && now - usual >= floor * stricter
            && now >= quantile(&reference, 0.99)? * BEYOND_WORST;
        breach.then(|| format!("{name} {}, usually {}", millis(now), millis(usual)))
    }

    fn errors(&self) -> Option<String> {
        let calls = self.now(Signal::CallRate)? * self.seen.history.step_length.as_secs_f64();
        let ratio = self.now(Signal::ErrorRatio)?;
        let reference = self.usual(Signal::ErrorRatio)?;
        let usual = reference.iter().sum::<f64>() / reference.len() as f64;
        let (errors, expected) = (ratio * calls, usual * calls);
        let breach = errors >= ERROR_COUNT
            && ratio >= usual + ERROR_RATIO
            && errors - expected >= ERROR_Z * (expected + 1.0).sqrt();
        breach.then(|| format!("{} of the calls fail, usually {}", percent(ratio), percent(usual)))
    }

    fn stuck(&self) -> Option<String> {
        let now = self.now(Signal::OldestUnanswered)?;
        let worst = self.usual(Signal::OldestUnanswered).and_then(|values| quantile(&values, 0.99));
        let breach = now >= STUCK_MS && now >= worst.unwrap_or(0.0) * STUCK_FACTOR;
        breach.then(|| format!("calls get no answer for {}", millis(now)))
    }

    /// Strong evidence of its own inside the system.
    fn inside(&self, blame: &Blame) -> Option<String> {
        let strongest = blame.evidence.iter().find(|reason| {
            let risen = reason.value - reason.baseline.unwrap_or(0.0);
            let broken = reason.signal == Signal::ErrorRatio.name() && risen >= BROKEN_RATIO;
            matches!(reason.family, "self" | "edge")
                && (reason.weight >= STRONG || broken)
                && (!reason.signal.ends_with("_ms") || risen >= INSIDE_FLOOR_MS)
        })?;
        // The recent steps' median is late by design; the newest step must still show it.
        let newest_agrees = match strongest.signal {
            signal if signal == Signal::ErrorRatio.name() => self.errors().is_some(),
            signal if signal == Signal::OldestUnanswered.name() => {
                strongest.value >= STUCK_MS
                    && self.now(Signal::OldestUnanswered).is_none_or(|now| now >= STUCK_MS)
            }
            _ if strongest.family == "self" => self.latency(Signal::LatencyP95, INSIDE_FLOOR_MS).is_some(),
            _ => true,
        };
        newest_agrees.then(|| strongest.text.clone())
    }

    fn cpu(&self) -> Option<String> {
        let now = self.now(Signal::CpuMillicores)?;
        let reference = self.usual(Signal::CpuMillicores)?;
        let expected = median(&reference)? * self.load();
        let breach = now >= expected * CPU_FACTOR
            && now - expected >= CPU_FLOOR
            && now >= quantile(&reference, 0.99)? * BEYOND_WORST;
        breach.then(|| format!("CPU {now:.0} millicores, {expected:.0} expected at this load"))
    }

    fn memory(&self) -> Option<String> {
        let seconds = self.seen.history.step_length.as_secs_f64();
        let first = Step(self.seen.step.0.checked_sub(MEMORY_STEPS)?);
        let end = Step(self.seen.step.0 + 1);
        let newest = self.seen.history.values(self.service, Signal::Memory, first..end);
        let (start, now) = (*newest.first()?, *newest.last()?);
        let steady = newest.len() as u64 == MEMORY_STEPS + 1
            && newest.windows(2).all(|pair| match pair {
                [before, after] => after - before >= MEMORY_RATE * seconds,
                _ => false,
            });
        let reference = self.usual(Signal::Memory)?;
        let fastest = reference
            .windows(newest.len())
            .filter_map(|part| Some(part.last()? - part.first()?))
            .fold(0.0, f64::max);
        let breach = steady && now - start >= MEMORY_FLOOR && now - start >= fastest * MEMORY_FACTOR;
        breach.then(|| {
            let lasted = MEMORY_STEPS as f64 * seconds;
            format!("memory grew by {} in {lasted:.0} s to {}", mebibytes(now - start), mebibytes(now))
        })
    }
}
