//! Faults that must page, and soon; normal life that must not.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests may panic")]

use super::*;
use crate::rank::synthetic::{CART, CHECKOUT, FRONTEND, PAYMENT, REDIS, SHIPPING, State as Load, System};
use crate::rank::{Question, rank};
use std::collections::BTreeSet;

/// A system that is watched.
struct Watch {
    system: System,
    detector: Detector,
    blames: Vec<Blame>,
    pages: Vec<(u64, String)>,
    closed: Vec<u64>,
}

impl Watch {
    fn new(seed: u64) -> Self {
        let mut watch = Self::start(seed);
        watch.run(40, |_, _| {});
        assert_eq!(watch.pages, []);
        watch
    }

    /// One that has seen nothing yet.
    fn start(seed: u64) -> Self {
        Self {
            system: System::new(seed),
            detector: Detector::new(Settings::default()),
            blames: Vec::new(),
            pages: Vec::new(),
            closed: Vec::new(),
        }
    }

    /// Runs so many steps; `change` breaks each step's state, by its number from 0.
    fn run(&mut self, steps: u64, change: impl Fn(u64, &mut Load)) {
        for number in 0..steps {
            let mut load = Load::default();
            change(number, &mut load);
            let step = self.system.next;
            self.system.step(&load);
            let (reference, recent) = self.detector.reference_and_recent(&self.system.history, step);
            let scores = BTreeMap::new();
            let blames = rank(&Question {
                history: &self.system.history,
                graph: &self.system.graph,
                reference,
                recent,
                scores: &scores,
                masked: &BTreeSet::new(),
            });
            let verdict = self.detector.step(&Observation {
                history: &self.system.history,
                graph: &self.system.graph,
                step,
                blames: &blames,
                scores: &scores,
                warming: step < Step(18),
            });
            match verdict {
                Verdict::Open { reason, .. } => self.pages.push((number, reason)),
                Verdict::Closed { sick } => {
                    self.system.history.set_aside(sick);
                    self.closed.push(number);
                }
                Verdict::Normal | Verdict::Ongoing => {}
            }
            self.blames = blames;
        }
    }
}

/// The fault pages within so many steps, with the culprit first.
fn pages(culprit: ServiceId, within: u64, change: impl Fn(u64, &mut Load)) {
    for seed in [1, 2, 3] {
        let mut watch = Watch::new(seed);
        watch.run(within, &change);
        assert_eq!(watch.pages.len(), 1, "seed {seed}: {:?} {:#?}", watch.pages, &watch.blames[..2]);
        assert_eq!(watch.blames[0].service, culprit, "seed {seed}: {:#?}", &watch.blames[..2]);
    }
}

fn is_quiet(change: impl Fn(u64, &mut Load)) {
    for seed in [1, 2, 3] {
        let mut watch = Watch::new(seed);
        watch.run(240, &change);
        assert_eq!(watch.pages, [], "seed {seed}");
    }
}

#[test]
fn latency_pages_after_three_steps() {
    pages(PAYMENT, 3, |_, load| load.own_ms[4] += 200.0);
    pages(FRONTEND, 3, |_, load| load.own_ms[0] += 150.0);
}

#[test]
fn errors_page_after_three_steps() {
    pages(SHIPPING, 3, |_, load| load.own_errors[5] = 0.3);
}

#[test]
fn a_stopped_service_pages() {
    pages(CHECKOUT, 4, |step, load| load.stopped = Some((CHECKOUT, 5.0 * (step + 1) as f64)));
    pages(CART, 4, |step, load| load.stopped = Some((CART, 5.0 * (step + 1) as f64)));
}

#[test]
fn a_slow_database_pages() {
    pages(REDIS, 3, |_, load| load.own_ms[2] = 120.0);
}

#[test]
fn a_cpu_hog_pages() {
    pages(SHIPPING, 3, |_, load| load.extra_cpu[5] = 900.0);
}

#[test]
fn memory_growth_pages_within_thirty_seconds() {
    pages(SHIPPING, 6, |step, load| load.memory[5] += 50.0 * (step + 1) as f64);
    pages(CART, 6, |step, load| load.memory[1] += 250.0 * (step + 1) as f64);
}

#[test]
fn an_incident_closes_after_quiet_steps_and_the_next_one_pages() {
    let mut watch = Watch::new(1);
    watch.run(12, |_, load| load.own_ms[4] += 200.0);
    watch.run(30, |_, _| {});
    assert_eq!((watch.pages.len(), watch.closed.as_slice()), (1, &[5][..]));
    watch.run(4, |_, load| load.own_ms[5] += 200.0);
    assert_eq!(watch.pages.len(), 2);
    assert_eq!(watch.blames[0].service, SHIPPING);
}

#[test]
fn past_incidents_are_no_part_of_what_is_usual() {
    for seed in [1, 2, 3] {
        let mut watch = Watch::new(seed);
        // The same fault again and again: each time it is as unusual as the first time.
        for round in 1..=4 {
            watch.run(8, |_, load| load.own_ms[4] += 200.0);
            assert_eq!(watch.pages.len(), round, "seed {seed}: {:?}", watch.pages);
            assert_eq!(watch.blames[0].service, PAYMENT);
            watch.run(9, |_, _| {});
            assert_eq!(watch.closed.len(), round, "seed {seed}");
        }
    }
}

#[test]
fn what_crashes_and_comes_back_pages() {
    // Every other step half of the calls fail.
    for seed in [1, 2, 3] {
        let mut watch = Watch::new(seed);
        watch.run(6, |step, load| load.own_errors[5] = if step % 2 == 0 { 0.5 } else { 0.0 });
        assert_eq!(watch.pages.len(), 1, "seed {seed}");
        assert_eq!(watch.blames[0].service, SHIPPING, "seed {seed}");
    }
}

/// A watch of a system with a request a second, of which each step holds five.
fn quiet_system(seed: u64) -> Watch {
    let mut watch = Watch::start(seed);
    watch.run(40, |_, load| load.load = 1.0);
    assert_eq!(watch.pages, []);
    watch
}

#[test]
fn failing_calls_page_however_few_calls_there_are() {
    for seed in [1, 2, 3] {
        let mut watch = quiet_system(seed);
        // Two calls of five fail in each step: never three in one.
        watch.run(4, |_, load| {
            load.load = 1.0;
            load.own_errors[5] = 0.4;
        });
        assert_eq!(watch.pages.len(), 1, "seed {seed}");
        assert_eq!(watch.blames[0].service, SHIPPING, "seed {seed}");
    }
}

#[test]
fn a_few_failing_calls_in_one_step_do_not_page() {
    for seed in [1, 2, 3] {
        let mut watch = quiet_system(seed);
        watch.run(60, |step, load| {
            load.load = 1.0;
            load.own_errors[5] = if step % 12 == 5 { 1.0 } else { 0.0 };
        });
        assert_eq!(watch.pages, [], "seed {seed}");
    }
}

#[test]
fn an_incident_on_the_wire_closes_as_soon_as_one_in_a_service() {
    let mut watch = Watch::new(1);
    watch.run(12, |_, load| load.wire_ms[4] += 300.0);
    assert_eq!(watch.pages.len(), 1);
    watch.run(12, |_, _| {});
    assert_eq!(watch.closed, [5]);
}

#[test]
fn what_lasts_becomes_usual() {
    let mut watch = Watch::new(1);
    watch.run(200, |_, load| load.own_ms[4] += 200.0);
    assert_eq!((watch.pages.len(), watch.closed.len()), (1, 1), "{:?}", watch.pages);
    watch.run(60, |_, load| load.own_ms[4] += 200.0);
    assert_eq!(watch.pages.len(), 1);
}

#[test]
fn a_second_fault_belongs_to_the_open_incident() {
    let mut watch = Watch::new(1);
    watch.run(6, |_, load| load.own_ms[4] += 200.0);
    watch.run(6, |_, load| {
        load.own_ms[4] += 200.0;
        load.own_errors[5] = 0.5;
    });
    assert_eq!(watch.pages.len(), 1);
}

#[test]
fn the_baseline_is_frozen_while_an_incident_is_open() {
    let mut watch = Watch::new(1);
    let before = watch.detector.reference_and_recent(&watch.system.history, watch.system.next).0;
    watch.run(60, |_, load| load.own_ms[4] += 200.0);
    let after = watch.detector.reference_and_recent(&watch.system.history, watch.system.next).0;
    assert!(watch.detector.is_open());
    assert!(after.end.0 <= before.end.0 + 2, "{before:?} {after:?}");
}

#[test]
fn nothing_pages_while_warming_up() {
    let mut watch = Watch::start(1);
    watch.run(17, |step, load| load.own_ms[4] += if step > 8 { 500.0 } else { 0.0 });
    assert_eq!(watch.pages, []);
}

#[test]
fn a_wave_of_load_does_not_page() {
    // 0.5 to 2 times the load over five minutes; latency and CPU follow it.
    is_quiet(|step, load| {
        let wave = 1.25 + 0.75 * (step as f64 / 60.0 * std::f64::consts::TAU).sin();
        load.load *= wave;
        load.own_ms.iter_mut().for_each(|own| *own *= wave * wave);
    });
}

#[test]
fn bursts_and_a_lasting_step_do_not_page() {
    let busy = |load: &mut Load| {
        load.load *= 2.0;
        load.own_ms.iter_mut().for_each(|own| *own *= 4.0);
    };
    is_quiet(|step, load| {
        if step % 24 < 3 {
            busy(load);
        }
    });
    is_quiet(|step, load| {
        if step > 20 {
            busy(load);
        }
    });
}

#[test]
fn a_single_spike_does_not_page() {
    is_quiet(|step, load| {
        if step % 50 == 7 {
            load.own_ms[4] += 3_000.0;
            load.own_errors[5] = 0.5;
            load.extra_cpu[1] = 1_500.0;
        }
    });
}

#[test]
fn memory_that_settles_does_not_page() {
    is_quiet(|step, load| {
        load.memory[1] += 80.0 * (1.0 - (-(step as f64) / 6.0).exp());
        // A collector's saw.
        load.memory[5] += 12.0 * (step % 8) as f64;
    });
}

#[test]
fn the_baseline_lags_and_the_recent_steps_grow_with_an_incident() {
    let settings = Settings::default();
    let (reference, recent) = reference_and_recent(Step(200), &settings, None);
    assert_eq!((reference, recent), (Step(75)..Step(195), Step(198)..Step(201)));
    let (reference, recent) = reference_and_recent(Step(208), &settings, Some(Step(200)));
    assert_eq!((reference, recent), (Step(75)..Step(195), Step(198)..Step(209)));
}
