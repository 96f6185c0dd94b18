//! Bad topologies and what is said of them; the shipped one is good.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use super::{BackendKind, Breaker, PeerSettings, Retries, Stack, Topology};

const SMALL: &str = r#"
name = "small"
entry = "front"
[load]
requests_per_second = 5.0
[users.all]
weight = 1
steps = ["Show"]
[backends.redis-a]
kind = "redis"
[services.front]
stack = "rust"
grpc = "x.Front"
port = 80
[services.front.methods.Show]
calls = [{ to = "back/Do", repeat = 2 }]
[services.back]
stack = "go"
grpc = "x.Back"
port = 81
[services.back.methods.Do]
redis = [{ instance = "redis-a", op = "get" }]
"#;

#[test]
fn the_small_topology_is_good() {
    let topology = Topology::parse("small.toml", SMALL).unwrap();
    assert_eq!(topology.path("back", "Do"), "/x.Back/Do");
    let edges: Vec<_> = topology.edges().into_iter().map(|(a, b)| format!("{a}>{b}")).collect();
    assert_eq!(edges, ["back>redis-a", "front>back"]);
    assert_eq!(topology.backend_owner("redis-a"), Some("back"));
    assert_eq!(topology.load.deadline_ms, 4_000);
}

#[test]
fn errors_name_file_field_and_reason() {
    let cases = [
        ("stack = \"go\"", "stack = \"cobol\"", "bad.toml: line 18, column 9: unknown variant `cobol`"),
        ("port = 81", "port = 81\nprot = 1", "bad.toml: line 21, column 1: unknown field `prot`"),
        ("port = 81", "port = 99999", "bad.toml: line 20, column 8: invalid value: integer `99999`"),
        ("port = 81", "port = 0", "bad.toml: services.back.port: a port is 1 to 65535"),
        (
            "entry = \"front\"",
            "entry = \"door\"",
            "bad.toml: entry: no service `door`; services are back, front",
        ),
        (
            "back/Do",
            "back.Do",
            "services.front.methods.Show.calls[0].to: `back.Do` is not of the form service/Method",
        ),
        ("back/Do", "rear/Do", "calls[0].to: no service `rear`; services are back, front"),
        ("back/Do", "back/Undo", "calls[0].to: `back` has no method `Undo`; it has Do"),
        ("back/Do", "front/Show", "calls never end: front/Show -> front/Show"),
        ("repeat = 2", "repeat = 0", "calls[0].repeat: 0 is not within 1 to 100"),
        ("repeat = 2", "deadline_ms = 0", "calls[0].deadline_ms: a deadline is at least 1 ms"),
        (
            "instance = \"redis-a\"",
            "instance = \"redis-b\"",
            "redis[0].instance: no backend `redis-b`; backends are redis-a",
        ),
        (
            "steps = [\"Show\"]",
            "steps = [\"Shwo\"]",
            "users.all.steps[0]: entry service `front` has no method `Shwo`; it has Show",
        ),
        ("steps = [\"Show\"]", "steps = []", "users.all.steps: a user does at least one step"),
        ("weight = 1", "weight = 0", "users: all weights are zero"),
        (
            "requests_per_second = 5.0",
            "requests_per_second = 0.0",
            "load.requests_per_second: 0 is not within",
        ),
        (
            "requests_per_second = 5.0",
            "requests_per_second = nan",
            "load.requests_per_second: NaN is not within",
        ),
        ("x.Back", "x/Back", "services.back.grpc: `x/Back` is no gRPC service name"),
        ("[backends.redis-a]", "[backends.back]", "backends.back: a service has the same name"),
        ("[backends.redis-a]", "[backends.Redis]", "Redis: a name has 1 to 40 of a-z"),
        ("[backends.redis-a]", "[backends.tasks]", "tasks: a name has 1 to 40 of a-z"),
        ("name = \"small\"", "nane = \"small\"", "bad.toml: line 2, column 1: unknown field `nane`"),
        (
            "[services.back.methods.Do]",
            "[services.back.methods.Do]\nsleep_ms = -1.0",
            "methods.Do.sleep_ms: -1 is not within",
        ),
        (
            "[services.back.methods.Do]",
            "[services.back.methods.Do]\nresponse_bytes = 9000000",
            "methods.Do.response_bytes: 9000000 bytes",
        ),
        (
            "[services.back.methods.Do]",
            "[services.back.methods.Do]\nkind = \"bidi\"",
            "unknown variant `bidi`",
        ),
        ("port = 81", "port = \"81\"", "line 20, column 8: invalid type: string \"81\", expected u16"),
        ("port = 81", "port = 81\nprot = 1", "expected one of `stack`, `grpc`, `port`, `replicas`"),
        ("port = 81", "port = 81\nreplicas = 0", "services.back.replicas: 0 is not within 1 to 16"),
        ("port = 81", "port = 81\nreplicas = 17", "services.back.replicas: 17 is not within 1 to 16"),
        ("[services.back]", "[services.front]", "duplicate key"),
        ("[services.back.methods.Do]", "[services.back.methods.\"Do it\"]", "a method's name has 1 to 64"),
        (
            "[services.front.methods.Show]",
            "[services.front.peers.back]\npool = 0\n[services.front.methods.Show]",
            "services.front.peers.back.pool: 0 is not within 1 to 32",
        ),
        (
            "[services.front.methods.Show]",
            "[services.front.peers.bakc]\n[services.front.methods.Show]",
            "services.front.peers.bakc: no service `bakc`; services are back, front",
        ),
        (
            "[services.back.methods.Do]",
            "[services.back.peers.front]\n[services.back.methods.Do]",
            "services.back.peers.front: no method here calls `front`",
        ),
        (
            "[services.front.methods.Show]",
            "[services.front.peers.back]\nbreaker = { failures = 0 }\n[services.front.methods.Show]",
            "peers.back.breaker.failures: 0 is not within 1 to 10000",
        ),
        (
            "[services.front.methods.Show]",
            "[services.front.peers.back]\nbreaker = { open_ms = 5 }\n[services.front.methods.Show]",
            "peers.back.breaker.open_ms: 5 is not within 10 to 600000",
        ),
        (
            "[services.front.methods.Show]",
            "[services.front.peers.back]\nbreaker = { open = 5 }\n[services.front.methods.Show]",
            "unknown field `open`, expected `failures` or `open_ms`",
        ),
        ("repeat = 2", "retries = { attempts = 1 }", "calls[0].retries.attempts: 1 is not within 2 to 10"),
        (
            "repeat = 2",
            "retries = { backoff_ms = 70000 }",
            "retries.backoff_ms: 70000 is not within 0 to 60000",
        ),
        ("repeat = 2", "retries = { on = [] }", "retries.on: at least one status is needed"),
        (
            "repeat = 2",
            "retries = { on = [\"GONE\"] }",
            "retries.on[0]: `GONE` is no failure; statuses are CANCELLED",
        ),
        ("repeat = 2", "retries = { on = [\"OK\"] }", "retries.on[0]: `OK` is no failure"),
        (
            "[services.back.methods.Do]",
            "[services.back.methods.Do]\ncache = { keys = 0 }",
            "methods.Do.cache.keys: 0 is not within 1 to 1000000",
        ),
        (
            "[services.back.methods.Do]",
            "[services.back.methods.Do]\ncache = { ttl_ms = 0 }",
            "methods.Do.cache.ttl_ms: 0 is not within 1 to 3600000",
        ),
        (
            "[services.back.methods.Do]",
            "[services.back.methods.Do]\ncache = { ttl = 1 }",
            "unknown field `ttl`, expected `keys` or `ttl_ms`",
        ),
        (
            "[services.back.methods.Do]",
            "[services.back.methods.Do]\nkind = \"client-stream\"\ncache = {}",
            "methods.Do.cache: a client-stream method is not cached",
        ),
        (
            "[services.back.methods.Do]",
            "[services.back.methods.Do]\nrequest_messages = 3",
            "methods.Do.request_messages: a unary method has one; set kind = \"client-stream\"",
        ),
        (
            "[services.back.methods.Do]",
            "[services.back.methods.Do]\nkind = \"client-stream\"\nresponse_messages = 3",
            "methods.Do.response_messages: a client-stream method has one; set kind = \"server-stream\"",
        ),
        (
            "[services.back.methods.Do]",
            "[services.back.methods.Do]\nkind = \"bidi-stream\"\nresponse_messages = 0",
            "methods.Do.response_messages: 0 is not within 1 to 10000",
        ),
        (
            "[services.back.methods.Do]",
            "[services.back.methods.Do]\ngap_ms = 3.0",
            "methods.Do.gap_ms: a unary method has no gaps",
        ),
        (
            "[services.back.methods.Do]",
            "[services.back.methods.Do]\nkind = \"server-stream\"\nresponse_messages = 100\ngap_ms = 1000.0",
            "methods.Do.gap_ms: 100 messages 1000 ms apart take longer than 60000 ms",
        ),
        (
            "redis = [",
            "postgres = [",
            "postgres[0].instance: `redis-a` is a redis backend; write it under `redis`",
        ),
        ("kind = \"redis\"", "kind = \"mongo\"", "unknown variant `mongo`, expected `redis` or `postgres`"),
        ("op = \"get\"", "op = \"del\"", "unknown variant `del`, expected `get` or `set`"),
        (
            "redis = [{ instance = \"redis-a\", op = \"get\" }]",
            "",
            "backends.redis-a: no method that users reach uses it",
        ),
        ("calls = [{ to = \"back/Do\", repeat = 2 }]", "", "services.back: no user's step reaches it"),
        (
            "steps = [\"Show\"]",
            "steps = [\"Show\"]\nthink_ms = 700000",
            "users.all.think_ms: 700000 is not within 0 to 600000",
        ),
        (
            "requests_per_second = 5.0",
            "requests_per_second = 5.0\npool = 99",
            "load.pool: 99 is not within 1 to 32",
        ),
        ("port = 81", "port = 81\nlimits = { cpu = 0.0 }", "services.back.limits.cpu: 0 cores"),
        ("port = 81", "port = 81\nlimits = { memory_mb = 1 }", "services.back.limits.memory_mb: 1 MB"),
    ];
    for (good, bad, reason) in cases {
        assert!(SMALL.contains(good), "{good}");
        let error = Topology::parse("bad.toml", &SMALL.replace(good, bad)).unwrap_err().to_string();
        assert!(error.starts_with("bad.toml: ") && error.contains(reason), "{bad}: {error}");
    }
}

#[test]
fn json_errors_have_their_line() {
    let error = Topology::parse("t.json", "{\n \"name\": 5 }").unwrap_err().to_string();
    assert!(error.starts_with("t.json: line 2, column"), "{error}");
    let twice = "{\n\"backends\": {\"a\": {\"kind\": \"redis\"},\n\"a\": {\"kind\": \"redis\"}}}";
    let error = Topology::parse("t.json", twice).unwrap_err().to_string();
    assert!(error.starts_with("t.json: line 3, column") && error.contains("`a` is there twice"), "{error}");
}

#[test]
fn a_stream_is_not_sent_again() {
    let stream = SMALL
        .replace("repeat = 2", "retries = {}")
        .replace("[services.back.methods.Do]", "[services.back.methods.Do]\nkind = \"client-stream\"");
    let error = Topology::parse("bad.toml", &stream).unwrap_err().to_string();
    assert!(error.contains("calls[0].retries: `back/Do` is a client-stream method"), "{error}");
}

/// Services s0 to s(n-1), each calling the next one `repeat` times.
fn chain(length: usize, repeat: usize) -> String {
    let mut text = "name = \"chain\"\nentry = \"s0\"\nload.requests_per_second = 1.0\nusers.all = { weight = 1, steps = [\"M\"] }\n".to_owned();
    for at in 0..length {
        text += &format!(
            "[services.s{at}]\nstack = \"rust\"\ngrpc = \"x.S{at}\"\nport = 80\n[services.s{at}.methods.M]\n"
        );
        if at + 1 < length {
            text += &format!("calls = [{{ to = \"s{}/M\", repeat = {repeat} }}]\n", at + 1);
        }
    }
    text
}

#[test]
fn calls_that_multiply_or_go_too_deep_are_refused() {
    let error = |length, repeat| Topology::parse("c.toml", &chain(length, repeat)).unwrap_err().to_string();
    assert!(
        error(4, 20)
            .contains("services.s0.methods.M.calls: one call becomes 8421 calls in all; at most 2000")
    );
    assert!(error(101, 1).contains("calls go 101 services deep"));
    assert!(error(201, 1).contains("201 services; at most 200"));
}

#[test]
fn the_summary_by_hand() {
    let summary = Topology::parse("c.toml", &chain(3, 2)).unwrap().summary();
    assert_eq!((summary.depth, summary.edges, summary.processes), (3, 2, 3));
    assert!((summary.calls_per_request - 7.0).abs() < 1e-9);
    assert_eq!(summary.busiest.0, "s2");
    let shown = Topology::parse("small.toml", SMALL).unwrap().summary().to_string();
    assert!(shown.contains("2 (1 rust, 1 go), 2 processes"), "{shown}");
    assert!(shown.contains("5 requests/s: 15 calls/s, 10 operations/s"), "{shown}");
}

#[test]
fn defaults_of_streams_peers_and_retries() {
    let text = SMALL
        .replace("repeat = 2", "repeat = 2, retries = {}")
        .replace("[services.back.methods.Do]", "[services.back.methods.Do]\nkind = \"server-stream\"")
        .replace(
            "[services.front.methods.Show]",
            "[services.front.peers.back]\nbreaker = {}\n[services.front.methods.Show]",
        );
    let topology = Topology::parse("small.toml", &text).unwrap();
    let method = topology.method("back", "Do").unwrap();
    assert_eq!((method.request_messages, method.response_messages), (1, 5));
    let front = &topology.services["front"];
    let breaker = Some(Breaker { failures: 5, open_ms: 5_000 });
    assert_eq!(front.peers["back"], PeerSettings { pool: 1, breaker });
    let retries = Some(Retries { attempts: 3, backoff_ms: 50, on: vec![14] });
    assert_eq!(topology.method("front", "Show").unwrap().calls[0].retries, retries);
}

#[test]
fn an_absent_file_says_so() {
    let error = Topology::read(std::path::Path::new("/nonexistent.toml")).unwrap_err().to_string();
    assert!(error.starts_with("/nonexistent.toml: file: cannot be read"), "{error}");
}

#[test]
fn every_shipped_topology_has_six_stacks_and_a_few_hundred_calls() {
    for (file, depth, services) in
        [("online-boutique", 3, 10), ("deep-chain", 12, 12), ("wide-fan-out", 2, 21), ("layered-mesh", 5, 14)]
    {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("topologies");
        let topology = Topology::read(&folder.join(format!("{file}.toml"))).unwrap();
        let summary = topology.summary();
        assert_eq!(
            (summary.depth, topology.services.len(), summary.stacks.len()),
            (depth, services, 6),
            "{file}"
        );
        let calls = summary.requests_per_second * summary.calls_per_request;
        assert!((100.0..400.0).contains(&calls), "{file}: {calls}");
        assert!(summary.unreached.is_empty(), "{summary}");
    }
}

#[test]
fn the_boutique_has_ten_services_in_six_stacks_and_three_redis() {
    let topology = Topology::boutique().unwrap();
    assert_eq!(topology.services.len(), 10);
    assert_eq!(topology.backends_of(BackendKind::Redis), ["redis-cart", "redis-catalog", "redis-session"]);
    let count = |stack| topology.services.values().filter(|service| service.stack == stack).count();
    assert_eq!(Stack::ALL.map(count), [2, 2, 2, 2, 1, 1]);
    let owners = topology.backends.keys().map(|name| topology.backend_owner(name));
    let expected = ["cartservice", "productcatalogservice", "frontend"];
    assert!(owners.eq(expected.map(Some)));
}

/// A sample's size may differ by a tenth, and by so many bytes where ids and money have their own size.
const NEAR_BYTES: usize = 12;

#[test]
fn messages_of_the_boutique_have_the_sizes_that_it_says() {
    let topology = Topology::boutique().unwrap();
    for (name, service) in &topology.services {
        for (method_name, method) in &service.methods {
            let (requests, responses) = topology.samples(name, method_name);
            assert!(requests.len() == 4 && responses.len() == 4);
            let near = |encoded: &[u8], bytes: u32| {
                let off = encoded.len().abs_diff(bytes as usize);
                let most = NEAR_BYTES + bytes as usize / 10;
                assert!(off <= most, "{name}/{method_name}: {} bytes, not {bytes}", encoded.len());
            };
            requests.iter().for_each(|encoded| near(encoded, method.request_bytes));
            responses.iter().for_each(|encoded| near(encoded, method.response_bytes));
        }
    }
}

#[test]
fn a_topology_agrees_with_its_message_file() {
    let shop = include_str!("../../topologies/online-boutique.toml");
    let cases = [
        ("boutique.proto", "boutique.txt", "proto: `boutique.txt` does not end in .proto"),
        (
            "\"boutique.proto",
            "\"gone.proto",
            "proto: gone.proto is no file; a path is relative to the topology",
        ),
        (
            "hipstershop.CartService",
            "hipstershop.CarService",
            "services.cartservice.grpc: boutique.proto declares no service `hipstershop.CarService`; it declares",
        ),
        (
            "cartservice.methods.EmptyCart]",
            "cartservice.methods.SellCart]",
            "no method `SellCart` of `hipstershop.CartService`; it declares AddItem, GetCart, EmptyCart",
        ),
        (
            "shippingservice.methods.TrackOrder]",
            "shippingservice.methods.TrackOrder]\nkind = \"server-stream\"",
            "methods.TrackOrder.kind: boutique.proto declares `TrackOrder` as unary, not server-stream",
        ),
    ];
    for (good, bad, reason) in cases {
        let text = shop.replace(good, bad).replace("cartservice/EmptyCart", "cartservice/GetCart");
        let error = Topology::parse("shop.toml", &text).unwrap_err().to_string();
        assert!(error.starts_with("shop.toml: ") && error.contains(reason), "{bad}: {error}");
    }
}
