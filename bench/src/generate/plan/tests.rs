//! What every plan promises: the same seed the same plan, balance, and nothing on top of something else.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use super::*;

fn settings(faults: usize) -> Settings {
    Settings {
        seed: 3,
        topologies: vec!["a".into(), "b".into()],
        faults,
        faults_per_episode: 8,
        fault_seconds: 40.0,
        recovery_seconds: 35.0,
        normal_minutes: 60.0,
        calls_per_second: 50.0,
        stacks: Vec::new(),
    }
}

fn menus() -> BTreeMap<String, Menu> {
    let services: Vec<String> = ["x", "y", "z"].map(String::from).to_vec();
    let kinds = ["latency", "errors", "stop", "cpu-hog"];
    let menu = Menu {
        faults: kinds.iter().map(|kind| ((*kind).to_owned(), services.clone())).collect(),
        events: [("batch-job".to_owned(), Vec::new()), ("restart".to_owned(), services)].into(),
        gentle: ["latency".to_owned(), "cpu-hog".to_owned()].into(),
        calls_per_request: 6.0,
    };
    [("a".to_owned(), menu.clone()), ("b".to_owned(), menu)].into()
}

#[test]
fn the_same_seed_gives_the_same_plan_and_another_another() {
    let plan = Plan::new(settings(40), &menus()).unwrap();
    assert_eq!(plan, Plan::new(settings(40), &menus()).unwrap());
    assert_ne!(plan.episodes, Plan::new(Settings { seed: 4, ..settings(40) }, &menus()).unwrap().episodes);
}

#[test]
fn systems_kinds_and_services_are_balanced() {
    let plan = Plan::new(settings(101), &menus()).unwrap();
    assert_eq!(plan.faults(), 101);
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for episode in &plan.episodes {
        for fault in &episode.faults {
            *counts.entry(episode.topology.clone()).or_default() += 1;
            *counts.entry(format!("kind {}", fault.kind)).or_default() += 1;
            *counts.entry(format!("{} {}", episode.topology, fault.service)).or_default() += 1;
        }
    }
    let between = |prefix: &str, low: usize, high: usize| {
        counts
            .iter()
            .filter(|(name, _)| name.starts_with(prefix))
            .all(|(_, count)| (low..=high).contains(count))
    };
    assert!(between("kind ", 24, 27) && between("a ", 15, 19) && between("b ", 15, 19), "{counts:?}");
    assert_eq!((counts["a"], counts["b"]), (51, 50));
    assert!(plan.episodes.iter().flat_map(|episode| &episode.faults).any(|fault| fault.gentle));
}

#[test]
fn each_stack_gets_the_same_schedule() {
    let stacks = ["go", "rust"].map(String::from).to_vec();
    let plan = Plan::new(Settings { stacks, ..settings(10) }, &menus()).unwrap();
    let usual = Plan::new(settings(10), &menus()).unwrap();
    assert_eq!(plan.episodes.len(), 2 * usual.episodes.len());
    let (go, rust) = (&plan.episodes[0], &plan.episodes[1]);
    assert_eq!((go.id.as_str(), rust.id.as_str()), ("a-go-01", "a-rust-01"));
    assert_eq!(go.stack.as_deref(), Some("go"));
    assert_eq!((&go.faults, &go.quiet, go.seed), (&rust.faults, &rust.quiet, rust.seed));
    assert_eq!(go.faults, usual.episodes[0].faults);
}

#[test]
fn nothing_overlaps_but_what_breaks_at_once() {
    let plan = Plan::new(settings(40), &menus()).unwrap();
    let quiet: f64 =
        plan.episodes.iter().flat_map(|episode| &episode.quiet).map(|quiet| quiet.end - quiet.start).sum();
    assert!((quiet - 3600.0).abs() < 1.0, "{quiet}");
    for episode in &plan.episodes {
        let mut last = WARM_UP;
        for stretch in &episode.quiet {
            assert!(stretch.start >= last - 1e-9 && stretch.end > stretch.start);
            last = stretch.end;
        }
        let mut at_once = BTreeMap::<u64, BTreeSet<&str>>::new();
        for fault in &episode.faults {
            assert!(fault.at_seconds >= last - 1e-9, "{episode:?}");
            let services = at_once.entry(fault.at_seconds as u64).or_default();
            assert!(services.insert(&fault.service), "one service breaks twice at once");
        }
        let times: Vec<u64> = at_once.keys().copied().collect();
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] == 75));
        assert!(at_once.keys().all(|at| (*at as f64) < episode.seconds - 74.0));
    }
    let broken: Vec<_> = plan.episodes.iter().filter(|episode| episode.events.is_empty()).collect();
    assert!(broken.is_empty());
}

#[test]
fn who_sends_bad_requests_always_did() {
    let mut menus = menus();
    for menu in menus.values_mut() {
        menu.events = [("bad-client", "y"), ("restart", "z")]
            .map(|(kind, service)| (kind.to_owned(), vec![service.to_owned()]))
            .into();
    }
    let plan = Plan::new(settings(40), &menus).unwrap();
    for episode in &plan.episodes {
        let is_bad = |event: &&Event| event.kind == "bad-client";
        let stretches = episode.quiet.iter().filter(|quiet| quiet.what == "bad-client").count();
        assert!(stretches > 1, "an ordinary stretch is named after it: {episode:?}");
        let clients: Vec<&Event> = episode.events.iter().filter(is_bad).collect();
        assert_eq!(clients.len(), 1, "{episode:?}");
        assert_eq!((clients[0].at_seconds, clients[0].duration_seconds), (0.0, episode.seconds));
        let others = episode.events.iter().filter(|event| !is_bad(event));
        assert!(
            others
                .into_iter()
                .all(|event| event.at_seconds >= WARM_UP && event.duration_seconds == OTHER_LIFE)
        );
        assert!(episode.events.is_sorted_by(|a, b| a.at_seconds <= b.at_seconds));
    }
}
