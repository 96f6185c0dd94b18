//! Which name a service gets, and what becomes of it when a better one is learned.

use crate::builder::{Node, exchanges, first, ok, workload};
use faultline_core::call::View;
use faultline_core::event::{Protocol, Role};
use faultline_core::report::Report;

fn services(report: &Report) -> Vec<&str> {
    report.services.iter().map(|service| service.name.as_str()).collect()
}

fn edges(report: &Report) -> Vec<String> {
    report.edges.iter().map(|edge| format!("{} -> {}", edge.caller, edge.callee)).collect()
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

#[test]
fn a_better_name_keeps_the_service_and_its_history() {
    let mut node = Node::new();
    node.cgroup(10, "/loadgen", "loadgen");
    node.cgroup(12, "/docker/abc", "abc");
    let pair = node.pair(10, 100, 10, 12, 7070);
    for i in 1..=30 {
        node.both(i * 100, pair, 1, &ok("", 10));
    }
    let report = first(&mut node);
    assert_eq!(services(&report), ["abc", "loadgen"]);
    node.both(6_000, pair, 1, &ok("cart:7070", 10));
    let report = node.tick(10_500).unwrap();
    assert_eq!(services(&report), ["cart", "loadgen"]);
    assert_eq!(edges(&report), ["loadgen -> cart"]);
    assert_eq!(report.services[0].calls_total, 31);
    assert_eq!(report.services[0].trend.iter().flatten().count(), 2, "both steps are its own");
    let totals = node.pipeline.totals();
    assert!(totals.server.keys().all(|labels| &*labels.service == "cart"));
    assert!(totals.client.keys().all(|labels| &*labels.peer == "cart"));
}

#[test]
fn two_places_of_one_name_are_one_service() {
    let mut node = Node::new();
    node.cgroup(10, "/loadgen", "loadgen");
    node.cgroup(12, "/docker/abc", "abc");
    node.cgroup(13, "/docker/def", "def");
    let (one, two) = (node.pair(10, 100, 10, 12, 7070), node.pair(10, 200, 10, 13, 7071));
    node.both(500, one, 1, &ok("", 10));
    node.both(500, two, 1, &ok("", 30));
    assert_eq!(services(&first(&mut node)), ["abc", "def", "loadgen"]);
    node.both(6_000, one, 1, &ok("cart", 10));
    node.both(6_000, two, 1, &ok("cart", 10));
    let report = node.tick(10_500).unwrap();
    assert_eq!(services(&report), ["cart", "loadgen"]);
    assert_eq!(report.services[0].calls_total, 4);
    assert_eq!(edges(&report), ["loadgen -> cart"]);
}

#[test]
fn a_name_does_not_flap() {
    let mut node = Node::new();
    node.cgroup(10, "/loadgen", "loadgen");
    node.cgroup(12, "/docker/abc", "abc");
    let pair = node.pair(10, 100, 10, 12, 7070);
    let mut names = Vec::new();
    for step in 0..6_u64 {
        // `b` is used a little more often in every step but the first.
        for i in 0..30 {
            let host = if i < 14 || step == 0 { "a" } else { "b" };
            node.both(step * 5_000 + 100 + i * 100, pair, 1, &ok(host, 10));
        }
        names.push(node.tick(step * 5_000 + 5_600).unwrap().edges[0].callee.clone());
    }
    assert_eq!(names, ["a"; 6]);
}

#[test]
fn a_proxy_is_not_what_it_calls() {
    let mut node = Node::new();
    node.cgroup(10, "/loadgen", "loadgen");
    node.cgroup(11, "/envoy", "envoy");
    node.cgroup(12, "/docker/abc", "abc");
    let (front, back) = (node.pair(10, 100, 10, 11, 8080), node.pair(10, 200, 11, 12, 7070));
    for i in 1..=30 {
        node.both(i * 100, back, 1, &ok("cart", 10));
        node.both(i * 100, front, 1, &ok("cart", 12));
    }
    assert_eq!(edges(&first(&mut node)), ["envoy -> cart", "loadgen -> envoy"]);
}

#[test]
fn remote_ends() {
    let mut node = Node::new();
    node.cgroup(10, "/gateway", "gateway");
    node.identity(11, "/kubepods/podx/y", |identity| identity.workload = workload("shop", "web"));
    let remotes = ["10.0.0.5:6379", "10.0.0.6:8080", "8.8.8.8:443", "10.0.0.7:7070", "10.0.0.8:7070"];
    for (i, remote) in remotes.iter().enumerate() {
        let id = 100 + i as u64;
        node.open(10, id, 10, Role::Client, &format!("10.0.0.1:{}", 40_000 + i), remote);
        if i < 3 {
            node.sample(1_000, id, Protocol::Other, exchanges(5, 900));
        }
    }
    node.call(1_000, 103, View::Client, &ok("billing.example.com:7070", 10));
    node.call(1_000, 104, View::Client, &ok("10.0.0.8:7070", 10));
    node.open(10, 110, 11, Role::Client, "10.1.0.1:40000", "10.96.0.1:7070");
    node.call(1_000, 110, View::Client, &ok("cart:7070", 10));
    node.open(10, 120, 10, Role::Server, "10.0.0.1:8080", "10.0.0.99:51000");
    node.call(1_000, 120, View::Server, &ok("", 10));
    let expected = [
        "external:private -> gateway",
        "gateway -> billing.example.com",
        "gateway -> external:private",
        "gateway -> external:public",
        "gateway -> redis",
        "shop/web -> shop/cart",
    ];
    assert_eq!(edges(&first(&mut node)), expected);
}

#[test]
fn ends_behind_address_translation_belong_together() {
    let mut node = Node::new();
    node.cgroup(10, "/web", "web");
    node.cgroup(11, "/cart", "cart");
    // The client dials a virtual address; the server sees its own and the client's.
    node.open(10, 1, 10, Role::Client, "10.1.0.1:40000", "10.96.0.1:80");
    node.open(10, 2, 11, Role::Server, "10.1.0.2:7070", "10.1.0.1:40000");
    node.call(1_000, 1, View::Client, &ok("", 12));
    node.call(1_000, 2, View::Server, &ok("", 10));
    let report = first(&mut node);
    assert_eq!(edges(&report), ["web -> cart"]);
    assert!(report.edges[0].wire_time_ms.is_some_and(|wire| (wire - 2.0).abs() < 1e-9));
}

#[test]
fn a_connection_older_than_the_agent_has_its_sides_by_its_calls_or_ports() {
    let mut node = Node::new();
    node.cgroup(10, "/web", "web");
    node.cgroup(11, "/cart", "cart");
    node.cgroup(12, "/redis-cart", "redis-cart");
    // The client's port is below the server's: only the calls tell.
    node.open(10, 1, 10, Role::Unknown, "127.0.0.1:40000", "127.0.0.1:50051");
    node.open(10, 2, 11, Role::Unknown, "127.0.0.1:50051", "127.0.0.1:40000");
    node.call(1_000, 1, View::Client, &ok("", 12));
    node.call(1_000, 2, View::Server, &ok("", 10));
    node.open(10, 3, 11, Role::Unknown, "127.0.0.1:1025", "127.0.0.1:6379");
    node.open(10, 4, 12, Role::Unknown, "127.0.0.1:6379", "127.0.0.1:1025");
    node.sample(1_000, 3, Protocol::Other, exchanges(5, 900));
    assert_eq!(edges(&first(&mut node)), ["cart -> redis-cart", "web -> cart"]);
}

#[test]
fn a_service_that_ends_keeps_its_name_to_the_end() {
    let mut node = Node::new();
    node.cgroup(10, "/web", "web");
    node.cgroup(11, "/cart", "cart");
    let pair = node.pair(10, 100, 10, 11, 7070);
    node.both(500, pair, 1, &ok("", 20));
    node.identity(11, "/cart", |identity| identity.gone = true);
    assert_eq!(services(&first(&mut node)), ["cart", "web"]);
    for step in 2..8 {
        assert_eq!(services(&node.tick(step * 5_000 + 600).unwrap()), ["cart", "web"]);
    }
}
