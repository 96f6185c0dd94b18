//! Lays an episode's windows out in steps as the core's history has them: the fault's own episode, and the
//! one that shows what is usual before it, if that is another.

use super::dataset::{Fault, Windows};
use faultline_core::history::History;
use faultline_core::units::{Nanos, Step};
use faultline_core::window::{EdgeSignal, EdgeWindow, Signal, Window};
use std::collections::BTreeMap;
use std::ops::Range;

/// Before a fault this much is kept as the short baseline, in seconds.
const BEFORE: f64 = 900.0;

/// A history around one fault.
pub(super) struct Timeline {
    pub(super) history: History,
    pub(super) reference: Range<Step>,
    pub(super) recent: Range<Step>,
}

/// Where timestamps of one episode go: seconds `from..to` (of windows' middles) to steps from `first` on.
struct Place {
    from: f64,
    to: f64,
    origin: f64,
    first: u64,
}

impl Timeline {
    /// `step` is the windows' length and `to_middle` leads from a timestamp to its window's middle, both in
    /// seconds.
    pub(super) fn new(fault: &Fault, windows: &Windows, usual: &Windows, step: f64, to_middle: f64) -> Self {
        let mut history = History::new(Nanos::from_millis((step * 1e3) as u64), usize::MAX);
        let steps = |seconds: f64| (seconds / step).ceil().max(0.0) as u64;
        let around = (fault.start - BEFORE, fault.end);
        if fault.episode == fault.ref_episode {
            // One clock: steps count from the earliest second that is needed.
            let from = around.0.min(fault.ref_start);
            let to = around.1.max(fault.ref_end);
            let place = Place { from, to, origin: from, first: 0 };
            place.fill(&mut history, windows, step, to_middle);
            return Self {
                reference: place.range(fault.ref_start, fault.ref_end, step),
                recent: place.range(fault.first_bad(step), fault.end, step),
                history,
            };
        }
        let before = Place { from: fault.ref_start, to: fault.ref_end, origin: fault.ref_start, first: 0 };
        before.fill(&mut history, usual, step, to_middle);
        // A gap, so that the two episodes do not look like neighbours.
        let first = steps(fault.ref_end - fault.ref_start) + steps(BEFORE) + 1;
        let after = Place { from: around.0, to: around.1, origin: around.0, first };
        after.fill(&mut history, windows, step, to_middle);
        Self {
            reference: before.range(fault.ref_start, fault.ref_end, step),
            recent: after.range(fault.first_bad(step), fault.end, step),
            history,
        }
    }
}

impl Place {
    fn step(&self, seconds: f64, step: f64) -> Step {
        Step(self.first + ((seconds - self.origin) / step).max(0.0) as u64)
    }

    fn range(&self, start: f64, end: f64, step: f64) -> Range<Step> {
        // A window that ends well after `end` tells of what came after.
        self.step(start, step)..Step(self.step(end - step / 2.0, step).0 + 1)
    }

    fn fill(&self, history: &mut History, windows: &Windows, step: f64, to_middle: f64) {
        for (service, series) in &windows.services {
            let mut steps: BTreeMap<Step, Window> = BTreeMap::new();
            for (place, window) in self.wanted(series, to_middle, step) {
                let merged = steps.entry(place).or_default();
                for signal in Signal::ALL {
                    merged.set(signal, window.get(signal).or_else(|| merged.get(signal)));
                }
            }
            for (place, window) in steps {
                history.push(*service, place, window);
            }
        }
        for ((caller, callee), series) in &windows.edges {
            let mut steps: BTreeMap<Step, EdgeWindow> = BTreeMap::new();
            for (place, window) in self.wanted(series, to_middle, step) {
                let merged = steps.entry(place).or_default();
                for signal in EdgeSignal::ALL {
                    merged.set(signal, window.get(signal).or_else(|| merged.get(signal)));
                }
            }
            for (place, window) in steps {
                history.push_edge(*caller, *callee, place, window);
            }
        }
    }

    /// The windows whose middle lies in the place, each with its step; scrapes jitter by a second, so two
    /// of them may share a step.
    fn wanted<'w, W>(
        &self,
        series: &'w BTreeMap<i64, W>,
        to_middle: f64,
        step: f64,
    ) -> impl Iterator<Item = (Step, &'w W)> {
        series.iter().filter_map(move |(timestamp, window)| {
            let middle = *timestamp as f64 + to_middle;
            (self.from..=self.to).contains(&middle).then(|| (self.step(middle, step), window))
        })
    }
}
