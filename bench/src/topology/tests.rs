//! Bad topologies and what is said of them; the shipped one is good.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use super::{Stack, Topology};

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
    assert_eq!(topology.redis_owner("redis-a"), Some("back"));
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
}

#[test]
fn an_absent_file_says_so() {
    let error = Topology::read(std::path::Path::new("/nonexistent.toml")).unwrap_err().to_string();
    assert!(error.starts_with("/nonexistent.toml: file: cannot be read"), "{error}");
}

#[test]
fn the_boutique_has_ten_services_in_four_stacks_and_three_redis() {
    let topology = Topology::boutique().unwrap();
    assert_eq!(topology.services.len(), 10);
    assert_eq!(topology.redis, ["redis-cart", "redis-catalog", "redis-session"]);
    let count = |stack| topology.services.values().filter(|service| service.stack == stack).count();
    assert_eq!([Stack::Rust, Stack::Go, Stack::Node, Stack::Python].map(count), [3, 3, 2, 2]);
    let owners = topology.redis.iter().map(|name| topology.redis_owner(name));
    let expected = ["cartservice", "productcatalogservice", "frontend"];
    assert!(owners.eq(expected.map(Some)));
}
