//! The core from events to reports, with hand-made events.
#![allow(clippy::unwrap_used, reason = "tests")]

mod builder;

use builder::{Node, Spec, exchanges, lines, ok, workload};
use expect_test::{Expect, expect};
use faultline_core::call::View;
use faultline_core::event::{Event, LossReason, Protocol, Role};
use faultline_core::pipeline::Settings;
use faultline_core::report::Report;

/// Closes the first step.
fn first(node: &mut Node) -> Report {
    assert!(node.tick(5_400).is_none(), "in its grace");
    node.tick(5_500).unwrap()
}

fn check(report: &Report, expected: Expect) {
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
        expect![[r#"
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
        expect![[r#"
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
fn names_in_their_order_of_trust() {
    fn name(fill: impl FnOnce(&mut Node), authority: &str, cgroup: u64) -> String {
        let mut node = Node::new();
        node.cgroup(10, "/loadgen", "loadgen");
        fill(&mut node);
        let pair = node.pair(10, 100, 10, cgroup, 7070);
        for i in 1..=30 {
            node.both(i * 100, pair, 1, &ok(authority, 10));
        }
        first(&mut node).edges[0].callee.clone()
    }
    let all = |node: &mut Node| {
        node.identity(12, "/kubepods/pod1/abc", |identity| {
            identity.configured = Some("configured".into());
            identity.workload = workload("shop", "cart");
            identity.container = Some("abc".into());
            identity.process = Some("server".into());
        });
    };
    assert_eq!(name(all, "authority:7070", 12), "configured");
    let kubernetes = |node: &mut Node| {
        node.identity(12, "/kubepods/pod1/abc", |identity| identity.workload = workload("shop", "cart"));
    };
    assert_eq!(name(kubernetes, "authority:7070", 12), "shop/cart");
    let container = |node: &mut Node| node.cgroup(12, "/docker/abc", "abc");
    assert_eq!(name(container, "authority:7070", 12), "authority");
    assert_eq!(name(container, "10.0.0.7:7070", 12), "abc", "an address is not a name");
    assert_eq!(name(container, "localhost", 12), "abc");
    assert_eq!(name(container, "cart.shop.svc.cluster.local", 12), "shop/cart");
    let child = |node: &mut Node| {
        node.cgroup(11, "/docker/abc", "abc");
        node.cgroup(12, "/docker/abc/init", "abc");
    };
    assert_eq!(name(child, "", 12), "abc");
    let inherited = |node: &mut Node| {
        node.cgroup(11, "/docker/abc", "abc");
        node.identity(12, "/docker/abc/init", |_| {});
    };
    assert_eq!(name(inherited, "", 12), "abc");
    let process = |node: &mut Node| {
        node.identity(12, "/x", |identity| identity.process = Some("server".into()));
    };
    assert_eq!(name(process, "", 12), "server");
    assert_eq!(name(|_| {}, "", 12), "cgroup-12");
    assert_eq!(name(|_| {}, "", 1), "host", "the root cgroup");
    assert_eq!(name(|_| {}, "cart:7070", 1), "cart", "the root cgroup, by listening address");
}
