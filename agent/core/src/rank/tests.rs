//! Every fault that the playground can make, on a small system with known parts.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests may panic")]

use super::synthetic::{ADVICE, CART, CATALOG, CHECKOUT, FRONTEND, PAYMENT, REDIS, SHIPPING, State, System};
use super::*;
use crate::graph::EdgeKind;
use crate::units::Nanos;
use crate::window::{Signal, Window};

const BASELINE: usize = 40;
const RECENT: usize = 3;

/// Ranks after some normal steps and some broken ones, with three seeds: the same service must come first.
fn first(broken: &State) -> (ServiceId, Vec<Blame>) {
    let mut answers = [1, 2, 3].map(|seed| {
        let mut system = System::new(seed);
        system.run(BASELINE, &State::default());
        system.run(RECENT, broken);
        ranking(&system, &BTreeMap::new(), &BTreeSet::new())
    });
    let firsts = answers.clone().map(|blames| blames[0].service);
    assert_eq!(firsts, [firsts[0]; 3], "seeds disagree");
    (firsts[0], std::mem::take(&mut answers[0]))
}

fn ranking(system: &System, scores: &BTreeMap<ServiceId, f64>, masked: &BTreeSet<ServiceId>) -> Vec<Blame> {
    let end = system.next.0;
    let start = end - RECENT as u64;
    rank(&Question {
        history: &system.history,
        graph: &system.graph,
        reference: Step(0)..Step(start),
        recent: Step(start)..Step(end),
        scores,
        masked,
    })
}

fn broken(change: impl FnOnce(&mut State)) -> State {
    let mut state = State::default();
    change(&mut state);
    state
}

/// The first place must be clear: at least twice the second's score.
fn check(culprit: ServiceId, change: impl FnOnce(&mut State)) -> Vec<Blame> {
    let (service, blames) = first(&broken(change));
    assert_eq!(service, culprit, "{blames:#?}");
    assert!(blames[0].score > 2.0 * blames[1].score, "{blames:#?}");
    blames
}

#[test]
fn nothing_wrong_blames_nobody() {
    let (_, blames) = first(&State::default());
    assert!(blames[0].score < 1.0, "{blames:#?}");
}

#[test]
fn latency_added_at_each_depth() {
    for service in [FRONTEND, CART, CHECKOUT, PAYMENT, SHIPPING, ADVICE, CATALOG] {
        check(service, |state| state.own_ms[service.0 as usize] += 200.0);
    }
}

#[test]
fn the_evidence_says_it_in_words_and_numbers() {
    let blames = check(PAYMENT, |state| state.own_ms[4] = 400.0);
    let reason = &blames[0].evidence[0];
    assert_eq!((reason.family, reason.peer), ("self", None));
    assert!(reason.text.starts_with("p95 latency ") && reason.text.contains(" ms, usually "), "{reason:?}");
    let caller = blames.iter().find(|blame| blame.service == CHECKOUT).unwrap();
    assert!(caller.evidence.iter().any(|reason| reason.family == "discount" && reason.weight < 0.0));
}

#[test]
fn errors_are_not_the_callers_who_pass_them_on() {
    for service in [CART, CHECKOUT, PAYMENT, ADVICE, CATALOG] {
        check(service, |state| state.own_errors[service.0 as usize] = 0.3);
    }
}

#[test]
fn a_cpu_hog_slows_everybody_and_is_told_apart() {
    for culprit in [CART, SHIPPING, ADVICE] {
        let (service, blames) = first(&broken(|state| {
            for own in &mut state.own_ms {
                *own *= 6.0;
            }
            state.own_ms[culprit.0 as usize] *= 2.0;
            state.extra_cpu[culprit.0 as usize] = 900.0;
        }));
        assert_eq!(service, culprit, "{blames:#?}");
    }
}

#[test]
fn a_busy_hour_is_not_a_cpu_hog() {
    let (_, blames) = first(&broken(|state| state.load = 100.0));
    assert!(blames[0].score < 1.0, "{blames:#?}");
}

#[test]
fn memory_growth_with_nothing_else_wrong() {
    check(SHIPPING, |state| state.memory[5] = 60.0 + 75.0);
}

#[test]
fn a_stopped_service_and_not_who_waits_for_it() {
    for service in [CART, CHECKOUT, PAYMENT, SHIPPING, CATALOG] {
        let blames = check(service, |state| state.stopped = Some((service, 10.0)));
        assert!(blames[0].evidence.iter().any(|reason| reason.signal == "cpu_millicores"), "{blames:#?}");
    }
}

#[test]
fn a_slow_database_that_speaks_no_grpc() {
    let blames = check(REDIS, |state| state.own_ms[2] = 120.0);
    assert_eq!(blames[0].evidence[0].family, "edge");
    assert_eq!(blames[0].evidence[0].peer, Some(CART));
}

#[test]
fn a_slow_network_is_the_end_that_the_slow_edges_share() {
    for service in [CART, CHECKOUT, ADVICE, PAYMENT] {
        let (blamed, blames) = first(&broken(|state| state.wire_ms[service.0 as usize] = 80.0));
        assert_eq!(blamed, service, "{blames:#?}");
    }
}

#[test]
fn a_masked_service_is_no_suspect() {
    let mut system = System::new(1);
    system.run(BASELINE, &State::default());
    system.run(RECENT, &broken(|state| state.own_ms[4] = 300.0));
    let blames = ranking(&system, &BTreeMap::new(), &BTreeSet::from([PAYMENT]));
    assert!(blames.iter().all(|blame| blame.service != PAYMENT));
    // What its callers measured of it still explains them.
    assert!(blames[0].score < 1.0, "{blames:#?}");
}

#[test]
fn the_models_score_supports_and_is_discounted_by_callees() {
    let mut system = System::new(1);
    system.run(BASELINE + RECENT, &State::default());
    let scores = BTreeMap::from([(FRONTEND, 9.0), (CHECKOUT, 9.0), (PAYMENT, 9.0)]);
    let blames = ranking(&system, &scores, &BTreeSet::new());
    assert_eq!(blames[0].service, PAYMENT);
    assert!((blames[0].score - 9.0 * MODEL_WEIGHT).abs() < 0.3, "{blames:#?}");
    assert!(blames[1].score < 0.3, "{blames:#?}");
}

/// A chain of so many services; each adds 2 ms and the last is slow.
fn chain(length: u32, closed: bool) -> ServiceId {
    let mut graph = ServiceGraph::new();
    for service in 0..length - 1 {
        graph.add_edge(ServiceId(service), ServiceId(service + 1), EdgeKind::Grpc);
    }
    if closed {
        graph.add_edge(ServiceId(length - 2), ServiceId(1), EdgeKind::Grpc);
    }
    let mut history = History::new(Nanos::from_secs(5), 100);
    for step in 0..43 {
        for service in 0..length {
            let depth = f64::from(length - service);
            let slow = if step >= 40 { 300.0 } else { 0.0 };
            let mut window = Window::default();
            window.set(Signal::CallRate, Some(10.0));
            window.set(Signal::LatencyMean, Some(depth * 2.0 + slow));
            history.push(ServiceId(service), Step(step), window);
        }
    }
    let blames = rank(&Question {
        history: &history,
        graph: &graph,
        reference: Step(0)..Step(40),
        recent: Step(40)..Step(43),
        scores: &BTreeMap::new(),
        masked: &BTreeSet::new(),
    });
    assert!(blames[0].score > 0.0);
    blames[0].service
}

#[test]
fn the_end_of_a_deep_chain() {
    assert_eq!(chain(30, false), ServiceId(29));
}

#[test]
fn a_cycle_is_explained_by_what_it_calls() {
    assert_eq!(chain(5, true), ServiceId(4));
}
