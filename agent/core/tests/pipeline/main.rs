//! The core from events to reports, with hand-made events.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod builder;

mod names;

use builder::{Node, Spec, exchanges, first, lines, ok};
use expect_test::{Expect, expect};
use faultline_core::call::View;
use faultline_core::event::{ConnectFailed, Event, LossReason, Protocol, Role};
use faultline_core::pipeline::Settings;
use faultline_core::report::Report;

fn check(report: &Report, expected: &Expect) {
    expected.assert_eq(&lines(report));
}

/// A gateway, a cart and its Redis, for one step.
fn shop(node: &mut Node) {
    node.cgroup(10, "/shop/loadgen", "loadgen");
    node.cgroup(11, "/shop/gateway", "gateway");
    node.cgroup(12, "/shop/cart-7f", "cart-7f");
    node.cgroup(13, "/shop/redis-cart", "redis-cart");
    let entry = node.pair(10, 100, 10, 11, 8080);
    let cart = node.pair(20, 200, 11, 12, 7070);
    let redis = node.pair(30, 300, 12, 13, 6379);
    node.cpu(0, 12, 0, 1 << 20);
    for i in 0..50 {
        let now = 100 + i * 80;
        node.both(now, cart, 2, &ok("cart:7070", 12));
        node.both(now + 5, entry, 1, &ok("gateway.example:8080", 20));
    }
    for second in 1..=4 {
        node.sample(second * 1000, redis.client, Protocol::Other, exchanges(25, 700));
        node.sample(second * 1000, redis.server, Protocol::Other, exchanges(25, 300));
    }
    node.cpu(4_000, 12, 1_000, 2 << 20);
}

#[test]
fn services_edges_wire_time_and_a_tcp_backend() {
    let mut node = Node::new();
    shop(&mut node);
    check(
        &first(&mut node),
        &expect![[r#"
        WarmingUp
        cart Grpc WarmingUp rate 10.0 err 0.0 p50 10.0 self 8.6 open 0.0 cpu 250.0
        gateway.example Grpc WarmingUp rate 10.0 err 0.0 p50 19.0 self 7.0 open 0.0 cpu -
        loadgen Grpc WarmingUp rate - err - p50 - self - open - cpu -
        redis-cart Tcp WarmingUp rate 20.0 err - p50 0.3 self 0.3 open - cpu -
        cart -> redis-cart tcp rate 20.0 client 0.7 server 0.3 wire 0.4
        gateway.example -> cart grpc rate 10.0 client 12.0 server 10.0 wire 2.0
        loadgen -> gateway.example grpc rate 10.0 client 20.1 server 19.0 wire 1.0
    "#]],
    );
}

#[test]
fn an_exchange_counts_once_though_its_ends_tell_of_it_in_different_steps() {
    let mut node = Node::new();
    node.cgroup(12, "/shop/cart", "cart");
    node.cgroup(13, "/shop/redis", "redis");
    let redis = node.pair(10, 100, 12, 13, 6379);
    // From another node: here is only the server's end.
    node.open(10, 300, 13, Role::Server, "10.0.0.1:6379", "10.0.0.2:50000");
    node.sample(1_000, redis.client, Protocol::Other, exchanges(1, 700));
    node.sample(1_000, redis.server, Protocol::Other, exchanges(1, 300));
    node.sample(4_999, redis.client, Protocol::Other, exchanges(3, 700));
    node.sample(5_001, redis.server, Protocol::Other, exchanges(3, 300));
    node.sample(5_001, 300, Protocol::Other, exchanges(7, 300));
    node.sample(9_999, redis.server, Protocol::Other, exchanges(5, 300));
    node.sample(10_001, redis.client, Protocol::Other, exchanges(5, 700));
    for step in 1..=4 {
        node.tick(step * 5_000 + 600);
    }
    let counted: Vec<(&str, &str, u64)> = node
        .pipeline
        .totals()
        .tcp
        .iter()
        .map(|((caller, callee), tcp)| (&**caller, &**callee, tcp.exchanges))
        .collect();
    assert_eq!(counted, [("cart", "redis", 9), ("external:private", "redis", 7)]);
}

#[test]
fn the_same_events_give_the_same_report_and_a_replay_too() {
    let run = || {
        let mut node = Node::new();
        shop(&mut node);
        let reports: Vec<String> = (1..20)
            .filter_map(|step| node.tick(step * 5_000 + 600))
            .map(|report| serde_json::to_string(&report).unwrap())
            .collect();
        (reports, node.recorded)
    };
    let (reports, recorded) = run();
    assert_eq!(reports.len(), 19);
    assert_eq!(run().0, reports);
    let mut replay = Node::new();
    for event in recorded.into_iter().skip(1) {
        replay.event(event);
    }
    assert_eq!(serde_json::to_string(&replay.tick(5_600).unwrap()).unwrap(), reports[0]);
}

#[test]
fn a_service_without_traffic_is_measured_as_silent() {
    let mut node = Node::new();
    shop(&mut node);
    first(&mut node);
    check(
        &node.tick(10_500).unwrap(),
        &expect![[r#"
            WarmingUp
            cart Grpc WarmingUp rate 0.0 err - p50 - self - open 0.0 cpu -
            gateway.example Grpc WarmingUp rate 0.0 err - p50 - self - open 0.0 cpu -
            loadgen Grpc WarmingUp rate - err - p50 - self - open - cpu -
            redis-cart Tcp WarmingUp rate 0.0 err - p50 - self - open - cpu -
            cart -> redis-cart tcp rate 0.0 client - server - wire -
            gateway.example -> cart grpc rate 0.0 client - server - wire -
            loadgen -> gateway.example grpc rate 0.0 client - server - wire -
        "#]],
    );
}

#[test]
fn calls_without_an_answer_are_seen() {
    let mut node = Node::new();
    node.cgroup(10, "/gateway", "gateway");
    node.cgroup(11, "/cart", "cart");
    let pair = node.pair(10, 100, 10, 11, 7070);
    node.both(500, pair, 1, &ok("", 20));
    assert!(node.tick(4_700).is_none());
    node.in_flight(5_500, pair.client, View::Client, 3, 4_000);
    node.in_flight(5_500, pair.server, View::Server, 3, 3_990);
    let report = first(&mut node);
    check(
        &report,
        &expect![[r#"
        WarmingUp
        cart Grpc WarmingUp rate 0.2 err 0.0 p50 19.0 self 19.0 open 3.0 cpu -
        gateway Grpc WarmingUp rate - err - p50 - self - open - cpu -
        gateway -> cart grpc rate 0.2 client 20.1 server 19.0 wire 1.0
    "#]],
    );
    // They ended without a word: nothing tells of them any more.
    check(
        &node.tick(10_600).unwrap(),
        &expect![[r#"
        WarmingUp
        cart Grpc WarmingUp rate 0.0 err - p50 - self - open 0.0 cpu -
        gateway Grpc WarmingUp rate - err - p50 - self - open - cpu -
        gateway -> cart grpc rate 0.0 client - server - wire -
    "#]],
    );
}

#[test]
fn who_is_not_fully_seen_is_masked() {
    let mut node = Node::new();
    shop(&mut node);
    node.cgroup(14, "/pay", "pay");
    let pay = node.pair(40, 400, 12, 14, 8443);
    node.sample(1_000, pay.client, Protocol::Tls, exchanges(5, 900));
    node.sample(1_000, pay.server, Protocol::Tls, exchanges(5, 800));
    node.cgroup(15, "/mail", "mail");
    let mail = node.pair(50, 500, 12, 15, 8444);
    node.sample(1_000, mail.client, Protocol::Mptcp, exchanges(5, 900));
    node.sample(1_000, mail.server, Protocol::Mptcp, exchanges(5, 800));
    node.lose(2_000, LossReason::Hole, 1, Some(101));
    node.lose(2_000, LossReason::Hole, 9, Some(101));
    node.lose(2_000, LossReason::MessagePrefix, 500, Some(200));
    let report = first(&mut node);
    let masked = |report: &Report| -> Vec<String> {
        let masked =
            report.services.iter().filter_map(|s| Some(format!("{}: {}", s.name, s.masked.as_ref()?)));
        masked.collect()
    };
    let ranked: Vec<&str> = report.ranking.iter().map(|suspect| suspect.service.as_str()).collect();
    assert!(!ranked.contains(&"pay") && !ranked.contains(&"gateway.example"), "{ranked:?}");
    expect![[r#"
        [
            "gateway.example: 9.1 % of its records were lost",
            "mail: 100 % of its bytes are on MPTCP connections, which are not read",
            "pay: encrypted: all of its 1 connections are TLS",
        ]
    "#]]
    .assert_debug_eq(&masked(&report));
    assert_eq!(report.coverage.lost["hole"], 10);
    node.lose(7_000, LossReason::RingFull, 1_000, None);
    assert_eq!(masked(&node.tick(10_500).unwrap()).len(), report.services.len(), "the whole node");
}

#[test]
fn a_server_that_is_down_is_known_by_failed_connections() {
    let mut node = Node::new();
    shop(&mut node);
    first(&mut node);
    for i in 0..10 {
        node.event(Event::ConnectFailed(ConnectFailed {
            at: faultline_core::units::Timestamp(6_000_000_000 + i),
            cgroup: faultline_core::units::CgroupId(11),
            remote: "127.0.0.1:7070".parse().unwrap(),
        }));
    }
    let report = node.tick(10_500).unwrap();
    let history = node.pipeline.history();
    let failed: Vec<(f64, usize)> = history
        .services()
        .map(|id| (id, history.values(id, faultline_core::window::Signal::FailedConnects, steps())))
        .map(|(_, values)| (values.iter().sum(), values.len()))
        .collect();
    assert_eq!(failed.iter().map(|(sum, _)| sum).sum::<f64>(), 2.0, "10 in 5 s: {failed:?}");
    assert_eq!(report.edges.len(), 3, "no new edge: the address is known");
}

fn steps() -> std::ops::Range<faultline_core::units::Step> {
    faultline_core::units::Step(0)..faultline_core::units::Step(100)
}

#[test]
fn bounds_hold_and_what_falls_out_is_counted() {
    let mut node = Node::with(Settings { max_services: 5, ..Settings::default() });
    node.cgroup(9, "/loadgen", "loadgen");
    for i in 0..20_u16 {
        let cgroup = 100 + u64::from(i);
        node.cgroup(cgroup, &format!("/s{i:02}"), &format!("s{i:02}"));
        let pair = node.pair(10, 1_000 + 2 * u64::from(i), 9, cgroup, 7_000 + i);
        node.both(1_000, pair, 1, &ok("", 10));
    }
    let pair = node.pair(10, 2_000, 9, 100, 7_000);
    for i in 0..300 {
        let method = format!("shop.Cart/Item{i:03}");
        node.call(2_000, pair.server, View::Server, &Spec { method: &method, ..ok("", 5) });
    }
    node.call(2_000, pair.server, View::Server, &Spec { method: "", status: None, ..ok("", 5) });
    let report = first(&mut node);
    let names: Vec<&str> = report.services.iter().map(|service| service.name.as_str()).collect();
    assert_eq!(names, ["_OTHER", "loadgen", "s00", "s01", "s02", "s03"]);
    assert_eq!(report.services[0].calls_total, 16);
    assert!(report.services[0].masked.is_some());
    assert!(report.coverage.lost["service_overflow"] >= 16);
    assert!(report.coverage.lost["method_overflow"] >= 40);
    assert_eq!(report.coverage.calls, 341);
    assert_eq!((report.coverage.unresolved_methods, report.coverage.unknown_status), (1, 1));
    let totals = node.pipeline.totals();
    let methods = totals.server.keys().filter(|labels| &*labels.service == "s00").count();
    assert!(methods <= 202, "{methods}");
    let calls: u64 = totals.server.values().map(|calls| calls.duration.count).sum();
    assert_eq!(calls, 321);
}

#[test]
fn a_late_event_counts_into_the_next_step_and_a_long_pause_is_jumped() {
    let mut node = Node::new();
    node.cgroup(10, "/gateway", "gateway");
    node.cgroup(11, "/cart", "cart");
    let pair = node.pair(10, 100, 10, 11, 7070);
    node.both(500, pair, 1, &ok("", 20));
    first(&mut node);
    node.both(4_900, pair, 1, &ok("", 20));
    let report = node.tick(10_500).unwrap();
    assert_eq!(report.edges[0].call_rate, Some(0.2));
    let report = node.tick(3_600_000).unwrap();
    assert_eq!(report.at, 1_700_003_595.0);
    assert_eq!(report.baseline.steps, 2);
}
