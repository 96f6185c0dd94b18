//! What is bad about one step. Two kinds of signs: users are hurt at an entry service, or a service shows
//! strong evidence of its own. Every threshold is a factor together with an absolute floor, since a factor
//! alone pages for 2 ms that became 7, and a floor alone for a busy hour.
//!
//! A step may hold a dozen calls, and what one in ten of them suffers is then in one step and not in the next.
//! So a sign of calls need not show in every step ([`Kind::must_show`]), and failed calls are counted over all
//! the steps that it may take.

use super::Observation;
use crate::evidence::{MIN_REFERENCE, mebibytes, median, millis, percent, quantile};
use crate::rank::{Blame, Reason};
use crate::units::{ServiceId, Step};
use crate::window::{EdgeSignal, EdgeWindow, Signal, Window};
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
/// The failed share of a step must exceed the usual one by this.
const ERROR_RATIO: f64 = 0.03;
/// The failed calls of the steps that count must exceed the expected ones by so many Poisson deviations.
const ERROR_Z: f64 = 5.0;
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
    /// In how many of the newest steps the sign must show, and of how many.
    pub(super) fn must_show(self, open_after: u64) -> (u64, u64) {
        match self {
            // Both are judged over several steps as it is.
            Self::Memory | Self::Errors => (1, 1),
            // What stands still or crashes and comes back hurts by turns, and so does what few calls meet.
            Self::Stuck | Self::Latency | Self::Inside => of_several(open_after),
            // Measured whether or not there are calls.
            Self::Cpu => (open_after, open_after),
        }
    }
}

/// In how many of how many steps something must show that comes by turns: in most of them.
fn of_several(open_after: u64) -> (u64, u64) {
    (open_after, 2 * open_after - 1)
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
pub(super) fn of_step(seen: &Observation<'_>, reference: &Range<Step>, open_after: u64) -> Vec<Sign> {
    let mut signs = Vec::new();
    for Blame { service, .. } in seen.blames {
        let view = Watched { seen, reference, service: *service, open_after };
        if view.is_entry() {
            view.note(&mut signs, Kind::Errors, view.errors());
            view.note(&mut signs, Kind::Stuck, view.stuck());
            view.note(&mut signs, Kind::Latency, view.latency());
        }
    }
    for blame in seen.blames {
        let view = Watched { seen, reference, service: blame.service, open_after };
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
    open_after: u64,
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

    /// Latency that users feel. Of too few calls for a 95th percentile one is more than a twentieth, so the mean
    /// stands in, which hears it; the median would not.
    fn latency(&self) -> Option<String> {
        let is_measured = |signal| self.now(signal).is_some() && self.usual(signal).is_some();
        let (signal, name) = if is_measured(Signal::LatencyP95) {
            (Signal::LatencyP95, "p95 latency")
        } else {
            (Signal::LatencyMean, "mean latency")
        };
        let (now, usual) = self.slow(|steps| self.values(signal, steps), LATENCY_FLOOR_MS)?;
        Some(format!("{name} {}, usually {}", millis(now), millis(usual)))
    }

    fn values(&self, signal: Signal, steps: Range<Step>) -> Vec<f64> {
        self.seen.history.values(self.service, signal, steps)
    }

    /// The newest of some latencies and the usual one, ms, if it grew by far.
    fn slow(&self, latencies: impl Fn(Range<Step>) -> Vec<f64>, floor: f64) -> Option<(f64, f64)> {
        let now = latencies(self.newest()).first().copied()?;
        let reference = latencies(self.reference.clone());
        if reference.len() < MIN_REFERENCE {
            return None;
        }
        let usual = median(&reference)?;
        let stricter = if self.load() > BUSIER { 2.0 } else { 1.0 };
        let breach = now >= usual * LATENCY_FACTOR * stricter
            && now - usual >= floor * stricter
            && now >= quantile(&reference, 0.99)? * BEYOND_WORST;
        breach.then_some((now, usual))
    }

    fn newest(&self) -> Range<Step> {
        self.seen.step..Step(self.seen.step.0 + 1)
    }

    fn errors(&self) -> Option<String> {
        let calls = |steps| {
            let windows = self.seen.history.windows(self.service, steps);
            let of = |window: &Window| Some((window.get(Signal::CallRate)?, window.get(Signal::ErrorRatio)?));
            windows.filter_map(|(_, window)| of(window)).collect()
        };
        let (ratio, usual) = self.failing(calls)?;
        Some(format!("{} of the calls fail, usually {}", percent(ratio), percent(usual)))
    }

    /// The failed share of the newest of some calls and the usual share, if by far too many have failed over the
    /// steps that count. `calls` are rates and failed shares, a pair a step. How few fail in one step is chance, so
    /// they are counted together; but each such step must be bad, or one of them would do.
    fn failing(&self, calls: impl Fn(Range<Step>) -> Vec<(f64, f64)>) -> Option<(f64, f64)> {
        let (steps, of) = of_several(self.open_after);
        let reference = calls(self.reference.clone());
        if reference.len() < MIN_REFERENCE {
            return None;
        }
        let usual = reference.iter().map(|(_, ratio)| ratio).sum::<f64>() / reference.len() as f64;
        let is_bad = |ratio: f64| ratio >= usual + ERROR_RATIO;
        let now = calls(self.newest()).first().map(|(_, ratio)| *ratio).filter(|ratio| is_bad(*ratio))?;
        let end = self.newest().end;
        let counted = calls(Step(end.0.saturating_sub(of))..end);
        let bad = counted.iter().filter(|(_, ratio)| is_bad(*ratio)).count() as u64;
        let seconds = self.seen.history.step_length.as_secs_f64();
        let failed: f64 = counted.iter().map(|(rate, ratio)| rate * ratio * seconds).sum();
        let expected: f64 = counted.iter().map(|(rate, _)| rate * usual * seconds).sum();
        let breach = bad >= steps && failed - expected >= ERROR_Z * (expected + 1.0).sqrt();
        breach.then_some((now, usual))
    }

    fn stuck(&self) -> Option<String> {
        let now = self.now(Signal::OldestUnanswered)?;
        let worst = self.usual(Signal::OldestUnanswered).and_then(|values| quantile(&values, 0.99));
        let breach = now >= STUCK_MS && now >= worst.unwrap_or(0.0) * STUCK_FACTOR;
        breach.then(|| format!("calls get no answer for {}", millis(now)))
    }

    /// Strong evidence of its own inside the system.
    fn inside(&self, blame: &Blame) -> Option<String> {
        let is_strong = |reason: &&Reason| {
            let risen = reason.value - reason.baseline.unwrap_or(0.0);
            let broken = reason.signal == Signal::ErrorRatio.name() && risen >= BROKEN_RATIO;
            matches!(reason.family, "self" | "edge")
                && (reason.weight >= STRONG || broken)
                && (!reason.signal.ends_with("_ms") || risen >= INSIDE_FLOOR_MS)
        };
        let mut strong = blame.evidence.iter().filter(is_strong);
        strong.find(|reason| self.still_shows(reason)).map(|reason| reason.text.clone())
    }

    /// The recent steps' median is late by design; the newest step must still show the same thing.
    fn still_shows(&self, reason: &Reason) -> bool {
        if reason.signal == Signal::OldestUnanswered.name() {
            return reason.value >= STUCK_MS
                && self.now(Signal::OldestUnanswered).is_none_or(|now| now >= STUCK_MS);
        }
        match reason.peer {
            Some(peer) => {
                let edges = [(peer, self.service), (self.service, peer)];
                edges.into_iter().any(|edge| self.edge_still_shows(reason, edge))
            }
            None if reason.signal == Signal::ErrorRatio.name() => self.errors().is_some(),
            None => {
                let is_it = |signal: &Signal| signal.name() == reason.signal && self.now(*signal).is_some();
                let signal = Signal::ALL.into_iter().find(is_it).unwrap_or(Signal::LatencyMean);
                self.slow(|steps| self.values(signal, steps), INSIDE_FLOOR_MS).is_some()
            }
        }
    }

    fn edge_still_shows(&self, reason: &Reason, (caller, callee): (ServiceId, ServiceId)) -> bool {
        let history = self.seen.history;
        let values = |signal, steps: Range<Step>| history.edge_values(caller, callee, signal, steps);
        let now = |signal| values(signal, self.newest()).first().copied();
        let is_it = |signal: &EdgeSignal| signal.name() == reason.signal && now(*signal).is_some();
        let Some(signal) = EdgeSignal::ALL.into_iter().find(is_it) else { return false };
        if signal == EdgeSignal::ErrorRatio {
            let of = |window: &EdgeWindow| {
                Some((window.get(EdgeSignal::CallRate)?, window.get(EdgeSignal::ErrorRatio)?))
            };
            let calls = |steps| {
                let windows = history.edge_windows(caller, callee, steps);
                windows.filter_map(|(_, window)| of(window)).collect()
            };
            return self.failing(calls).is_some();
        }
        if reason.signal.ends_with("_ms") {
            return self.slow(|steps| values(signal, steps), INSIDE_FLOOR_MS).is_some();
        }
        // Nearer to what is recent than to what is usual.
        now(signal).is_some_and(|now| 2.0 * now >= reason.value + reason.baseline.unwrap_or(0.0))
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
