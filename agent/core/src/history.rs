//! The windows of the recent past, by service and by edge: what baselines, scores and rankings read. What was
//! seen while a service was masked is no part of that: it may be half of what happened. Nor is what an incident
//! left behind: it is not what is usual.
//!
//! Filled by [`crate::pipeline`] live, by an evaluation from a data set's files; nobody behind it can tell.

use crate::units::{Nanos, ServiceId, Step};
use crate::window::{EdgeSignal, EdgeWindow, Signal, Window};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

/// Windows for which room is made at once.
const ROOM: usize = 24;

/// The windows of every service and edge, newest last, at most `keep` steps of each.
#[derive(Clone, Debug)]
pub struct History {
    /// The length of a step.
    pub step_length: Nanos,
    keep: usize,
    services: BTreeMap<ServiceId, VecDeque<(Step, Window)>>,
    edges: BTreeMap<(ServiceId, ServiceId), VecDeque<(Step, EdgeWindow)>>,
    /// The steps in which a service was masked, as long as its windows are kept.
    masked: BTreeMap<ServiceId, BTreeSet<Step>>,
    /// The steps that are set aside for all services.
    aside: BTreeSet<Step>,
}

impl History {
    /// An empty history of at most `keep` steps.
    #[must_use]
    pub fn new(step_length: Nanos, keep: usize) -> Self {
        Self {
            step_length,
            keep: keep.max(1),
            services: BTreeMap::new(),
            edges: BTreeMap::new(),
            masked: BTreeMap::new(),
            aside: BTreeSet::new(),
        }
    }

    /// Adds a service's window; steps must come in ascending order, an older one is ignored.
    pub fn push(&mut self, service: ServiceId, step: Step, window: Window) {
        push(self.services.entry(service).or_default(), self.keep, step, window);
    }

    /// Adds the window of the edge from caller to callee.
    pub fn push_edge(&mut self, caller: ServiceId, callee: ServiceId, step: Step, window: EdgeWindow) {
        push(self.edges.entry((caller, callee)).or_default(), self.keep, step, window);
    }

    /// Hides a service's window of a step, and those of its edges, from all but [`History::seen`].
    pub fn mask(&mut self, service: ServiceId, step: Step) {
        let steps = self.masked.entry(service).or_default();
        steps.insert(step);
        if steps.len() > self.keep {
            steps.pop_first();
        }
    }

    /// Hides everybody's windows of these steps, as [`History::mask`] does one service's.
    pub fn set_aside(&mut self, steps: Range<Step>) {
        self.aside.extend((steps.start.0..steps.end.0).map(Step));
        while self.aside.len() > self.keep {
            self.aside.pop_first();
        }
    }

    /// The steps, reaching back further by as many as are set aside among them.
    #[must_use]
    pub fn reach_back(&self, steps: Range<Step>) -> Range<Step> {
        let wanted = steps.end.0.saturating_sub(steps.start.0);
        let usual = (0..steps.end.0).rev().map(Step).filter(|step| !self.aside.contains(step));
        let Some(first) = usual.take(wanted as usize).last() else { return steps };
        first..steps.end
    }

    /// Makes one service's windows another's, because the two turned out to be one: where both have a window
    /// of a step, `into`'s stays.
    pub fn merge(&mut self, from: ServiceId, into: ServiceId) {
        if let Some(windows) = self.services.remove(&from) {
            merge(self.services.entry(into).or_default(), self.keep, windows);
        }
        if let Some(masked) = self.masked.remove(&from) {
            self.masked.entry(into).or_default().extend(masked);
        }
        let renamed = |service: ServiceId| if service == from { into } else { service };
        let edges: Vec<(ServiceId, ServiceId)> = self
            .edges
            .keys()
            .filter(|(caller, callee)| *caller == from || *callee == from)
            .copied()
            .collect();
        for edge in edges {
            let Some(windows) = self.edges.remove(&edge) else { continue };
            let (caller, callee) = (renamed(edge.0), renamed(edge.1));
            if caller != callee {
                merge(self.edges.entry((caller, callee)).or_default(), self.keep, windows);
            }
        }
    }

    /// Forgets what has no window since `oldest`, and returns the services that left.
    pub fn forget_before(&mut self, oldest: Step) -> Vec<ServiceId> {
        let gone: Vec<ServiceId> = self
            .services
            .iter()
            .filter(|(_, windows)| windows.back().is_none_or(|(step, _)| *step < oldest))
            .map(|(service, _)| *service)
            .collect();
        self.services.retain(|service, _| gone.binary_search(service).is_err());
        self.masked.retain(|service, _| gone.binary_search(service).is_err());
        self.edges.retain(|_, windows| windows.back().is_some_and(|(step, _)| *step >= oldest));
        gone
    }

    /// The services that have any window, in order of their ids.
    pub fn services(&self) -> impl Iterator<Item = ServiceId> + '_ {
        self.services.keys().copied()
    }

    /// The edges that have any window: (caller, callee).
    pub fn edges(&self) -> impl Iterator<Item = (ServiceId, ServiceId)> + '_ {
        self.edges.keys().copied()
    }

    /// What was seen of a service in a step, masked or not.
    #[must_use]
    pub fn seen(&self, service: ServiceId, step: Step) -> Option<&Window> {
        within(self.services.get(&service), step..Step(step.0 + 1)).next().map(|(_, window)| window)
    }

    /// What was seen of an edge in a step, masked or not.
    #[must_use]
    pub fn seen_edge(&self, caller: ServiceId, callee: ServiceId, step: Step) -> Option<&EdgeWindow> {
        within(self.edges.get(&(caller, callee)), step..Step(step.0 + 1)).next().map(|(_, window)| window)
    }

    /// A service's windows in `steps`, oldest first, without those that are masked or set aside.
    pub fn windows(&self, service: ServiceId, steps: Range<Step>) -> impl Iterator<Item = (Step, &Window)> {
        within(self.services.get(&service), steps).filter(move |(step, _)| self.is_usual(service, *step))
    }

    /// An edge's windows in `steps`, oldest first, without those that are set aside or in which an end was masked.
    pub fn edge_windows(
        &self,
        caller: ServiceId,
        callee: ServiceId,
        steps: Range<Step>,
    ) -> impl Iterator<Item = (Step, &EdgeWindow)> {
        within(self.edges.get(&(caller, callee)), steps)
            .filter(move |(step, _)| self.is_usual(caller, *step) && self.is_usual(callee, *step))
    }

    /// Whether the service was masked in the step.
    #[must_use]
    pub fn is_masked(&self, service: ServiceId, step: Step) -> bool {
        self.masked.get(&service).is_some_and(|steps| steps.contains(&step))
    }

    fn is_usual(&self, service: ServiceId, step: Step) -> bool {
        !self.aside.contains(&step) && !self.is_masked(service, step)
    }

    /// The measured values of one signal of a service in `steps`, oldest first.
    #[must_use]
    pub fn values(&self, service: ServiceId, signal: Signal, steps: Range<Step>) -> Vec<f64> {
        self.windows(service, steps).filter_map(|(_, window)| window.get(signal)).collect()
    }

    /// The measured values of one signal of an edge in `steps`, oldest first.
    #[must_use]
    pub fn edge_values(
        &self,
        caller: ServiceId,
        callee: ServiceId,
        signal: EdgeSignal,
        steps: Range<Step>,
    ) -> Vec<f64> {
        self.edge_windows(caller, callee, steps).filter_map(|(_, window)| window.get(signal)).collect()
    }

    /// The newest step of any service.
    #[must_use]
    pub fn newest(&self) -> Option<Step> {
        self.services.values().filter_map(|windows| windows.back().map(|(step, _)| *step)).max()
    }
}

fn push<W>(windows: &mut VecDeque<(Step, W)>, keep: usize, step: Step, window: W) {
    if windows.back().is_some_and(|(newest, _)| *newest >= step) {
        return;
    }
    if windows.len() == keep {
        windows.pop_front();
    } else if windows.len() == windows.capacity() {
        // Left to itself it would double, and half of what a node keeps would be room for nothing.
        windows.reserve_exact((keep - windows.len()).min(ROOM));
    }
    windows.push_back((step, window));
}

fn merge<W>(windows: &mut VecDeque<(Step, W)>, keep: usize, others: VecDeque<(Step, W)>) {
    let mut all: BTreeMap<Step, W> = others.into_iter().collect();
    all.extend(windows.drain(..));
    let surplus = all.len().saturating_sub(keep);
    windows.extend(all.into_iter().skip(surplus));
}

fn within<W>(windows: Option<&VecDeque<(Step, W)>>, steps: Range<Step>) -> impl Iterator<Item = (Step, &W)> {
    windows
        .into_iter()
        .flat_map(move |windows| {
            let first = windows.partition_point(|(step, _)| *step < steps.start);
            let last = windows.partition_point(|(step, _)| *step < steps.end);
            windows.range(first..last.max(first))
        })
        .map(|(step, window)| (*step, window))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_services_become_one() {
        let (a, b, c) = (ServiceId(1), ServiceId(2), ServiceId(3));
        let mut history = History::new(Nanos::from_secs(5), 10);
        for (service, steps) in [(a, 0..4), (b, 3..6)] {
            for step in steps {
                let mut window = Window::default();
                window.set(Signal::CallRate, Some(f64::from(service.0)));
                history.push(service, Step(step), window);
                history.push_edge(c, service, Step(step), EdgeWindow::default());
                history.push_edge(a, b, Step(step), EdgeWindow::default());
            }
        }
        history.merge(a, b);
        assert_eq!(history.values(b, Signal::CallRate, Step(0)..Step(9)), [1.0, 1.0, 1.0, 2.0, 2.0, 2.0]);
        assert_eq!(history.edges().collect::<Vec<_>>(), [(c, b)]);
    }

    #[test]
    fn steps_reach_back_over_those_that_are_set_aside() {
        let mut history = History::new(Nanos::from_secs(5), 10);
        history.set_aside(Step(7)..Step(9));
        history.set_aside(Step(3)..Step(5));
        let back = |steps: Range<u64>| {
            let steps = history.reach_back(Step(steps.start)..Step(steps.end));
            steps.start.0..steps.end.0
        };
        assert_eq!(
            [back(9..10), back(8..10), back(6..10), back(4..10), back(0..10)],
            [9..10, 6..10, 2..10, 0..10, 0..10]
        );
        assert_eq!(back(4..4), 4..4);
    }

    #[test]
    fn a_masked_step_is_seen_but_no_part_of_a_baseline() {
        let (a, b) = (ServiceId(1), ServiceId(2));
        let mut history = History::new(Nanos::from_secs(5), 10);
        for step in 0..3 {
            let mut window = Window::default();
            window.set(Signal::CallRate, Some(step as f64));
            history.push(a, Step(step), window);
            history.push_edge(a, b, Step(step), EdgeWindow::default());
        }
        history.mask(a, Step(1));
        assert_eq!(history.values(a, Signal::CallRate, Step(0)..Step(9)), [0.0, 2.0]);
        assert_eq!(history.edge_windows(a, b, Step(0)..Step(9)).count(), 2);
        assert_eq!(history.seen(a, Step(1)).and_then(|window| window.get(Signal::CallRate)), Some(1.0));
        history.merge(a, b);
        assert_eq!(history.values(b, Signal::CallRate, Step(0)..Step(9)), [0.0, 2.0]);
    }

    #[test]
    fn keeps_the_newest_steps_and_finds_ranges() {
        let mut history = History::new(Nanos::from_secs(5), 3);
        for step in 0..5 {
            let mut window = Window::default();
            window.set(Signal::CallRate, Some(step as f64));
            history.push(ServiceId(1), Step(step), window);
        }
        assert_eq!(history.values(ServiceId(1), Signal::CallRate, Step(0)..Step(4)), [2.0, 3.0]);
        assert_eq!(history.newest(), Some(Step(4)));
        assert_eq!(history.forget_before(Step(5)), [ServiceId(1)]);
    }
}
