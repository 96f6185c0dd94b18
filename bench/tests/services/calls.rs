//! The calls that a service makes: kinds, order, deadlines, retries, connections.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tonic::Code;

use crate::Bench;
use crate::bytes_as_they_are::base64;
use crate::peer::{Peer, Plan};
use crate::program::{Program, free_address};

const SECOND: Duration = Duration::from_secs(1);

fn one_peer(address: &str) -> Value {
    json!({ "peers": { "other": { "addresses": [address], "authority": "other:7070" } } })
}

/// Each kind between two of the same services: both ends count the same.
pub(crate) async fn kinds_between_services(bench: Arc<Bench>) {
    let methods = json!({
        "/c.Callee/Unary": { "responses": base64(&[30]) },
        "/c.Callee/Client": { "kind": "client-stream", "responses": base64(&[31]) },
        "/c.Callee/Server": { "kind": "server-stream", "responses": base64(&[10, 20]), "response_messages": 4 },
        "/c.Callee/Bidi": { "kind": "bidi-stream", "responses": base64(&[12]), "response_messages": 3 },
    });
    let callee = Program::start(&bench, methods, json!({})).await;
    let call = |kind: &str, path: &str, count: usize| {
        json!({ "peer": "other", "path": path, "kind": kind, "requests": base64(&[20, 25]),
            "request_messages": count, "gap_ms": 10, "deadline_ms": 5000 })
    };
    let methods = json!({ "/c.Caller/All": { "calls": [
        call("unary", "/c.Callee/Unary", 1),
        call("client-stream", "/c.Callee/Client", 3),
        call("server-stream", "/c.Callee/Server", 1),
        call("bidi-stream", "/c.Callee/Bidi", 5),
    ] } });
    let caller = Program::start(&bench, methods, one_peer(callee.address())).await;
    let answer = caller.call("/c.Caller/All").await;
    assert_eq!(answer.code, Code::Ok, "{}", answer.message);
    let expected = [
        ("/c.Callee/Unary", 1, 20, 1, 30),
        ("/c.Callee/Client", 3, 65, 1, 31),
        ("/c.Callee/Server", 1, 20, 4, 60),
        ("/c.Callee/Bidi", 5, 110, 3, 36),
    ];
    let (sent, served) = (caller.sent(4).await, callee.served(4).await);
    for (place, expected) in expected.into_iter().enumerate() {
        let line = &sent[place];
        assert_eq!((line.status.as_str(), line.callee.as_str(), line.attempt), ("OK", "other", 0));
        let counts = (line.request_messages, line.request_bytes, line.response_messages, line.response_bytes);
        let (path, requests, up, responses, down) = expected;
        assert_eq!(
            (line.method.as_str(), counts),
            (path, (requests, up, responses, down)),
            "the caller's view"
        );
        let line = &served[place];
        let counts = (line.request_messages, line.request_bytes, line.response_messages, line.response_bytes);
        assert_eq!(
            (line.method.as_str(), counts),
            (path, (requests, up, responses, down)),
            "the callee's view"
        );
    }
}

/// The headers are those of an ordinary gRPC call to the peer's name.
pub(crate) async fn on_the_wire(bench: Arc<Bench>) {
    let peer = Peer::start(&[]).await;
    let methods = json!({ "/c.Caller/A": { "calls": [
        { "peer": "other", "path": "/p.Peer/A", "requests": base64(&[44]), "deadline_ms": 5000 },
        { "peer": "other", "path": "/p.Peer/B" },
    ] } });
    let caller = Program::start(&bench, methods, one_peer(&peer.address())).await;
    assert_eq!(caller.call("/c.Caller/A").await.code, Code::Ok);
    let came = peer.came();
    assert_eq!((came[0].path.as_str(), came[0].length), ("/p.Peer/A", 44));
    assert_eq!((came[1].path.as_str(), came[1].length), ("/p.Peer/B", 0));
    assert!(came[0].headers.contains_key("grpc-timeout"));
    assert!(!came[1].headers.contains_key("grpc-timeout"), "0 is no deadline");
    for came in &came {
        assert_eq!(came.authority, "other:7070");
        let kind = came.headers["content-type"].as_str();
        assert!(["application/grpc", "application/grpc+proto"].contains(&kind), "{kind}");
        assert!(!came.headers.contains_key("grpc-previous-rpc-attempts"));
    }
}

/// One after the other, or all at once.
pub(crate) async fn sequence_and_parallel(bench: Arc<Bench>) {
    let slow = Plan { delay: Duration::from_millis(400), ..Plan::default() };
    let peer = Peer::start(&[("/p.Peer/Slow", slow)]).await;
    let calls = json!([0, 1, 2].map(|_| json!({ "peer": "other", "path": "/p.Peer/Slow" })));
    let methods = json!({
        "/c.Caller/Sequence": { "calls": calls },
        "/c.Caller/Parallel": { "calls": calls, "parallel": true },
    });
    let caller = Program::start(&bench, methods, one_peer(&peer.address())).await;
    let took = caller.call("/c.Caller/Sequence").await.took;
    assert!(took > Duration::from_millis(1200), "{took:?}");
    let took = caller.call("/c.Caller/Parallel").await.took;
    assert!((Duration::from_millis(400)..Duration::from_millis(1100)).contains(&took), "{took:?}");
    caller.sent(6).await;
}

/// A failure fails the caller with the same status, and names the peer; an optional one does not.
pub(crate) async fn optional(bench: Arc<Bench>) {
    let fails = Plan { failures: 100, code: 7, ..Plan::default() };
    let peer = Peer::start(&[("/p.Peer/Fails", fails)]).await;
    let call = |optional: bool| json!({ "peer": "other", "path": "/p.Peer/Fails", "optional": optional });
    let after = json!({ "peer": "other", "path": "/p.Peer/After" });
    let methods = json!({
        "/c.Caller/Optional": { "calls": [call(true), after] },
        "/c.Caller/Needed": { "calls": [call(false), after] },
        "/c.Caller/OptionalAtOnce": { "calls": [call(true), after], "parallel": true },
        "/c.Caller/NeededAtOnce": { "calls": [after, call(false)], "parallel": true },
    });
    let caller = Program::start(&bench, methods, one_peer(&peer.address())).await;
    assert_eq!(caller.call("/c.Caller/Optional").await.code, Code::Ok);
    let failed = caller.call("/c.Caller/Needed").await;
    assert_eq!(
        (failed.code, failed.message.as_str()),
        (Code::PermissionDenied, "other/p.Peer/Fails: planned")
    );
    assert_eq!(caller.call("/c.Caller/OptionalAtOnce").await.code, Code::Ok);
    assert_eq!(caller.call("/c.Caller/NeededAtOnce").await.code, Code::PermissionDenied);
    let lines = caller.sent(7).await;
    assert_eq!(lines.iter().filter(|line| line.status == "PERMISSION_DENIED").count(), 4);
    let served: Vec<String> = caller.served(4).await.into_iter().map(|line| line.status).collect();
    assert_eq!(served, ["OK", "PERMISSION_DENIED", "OK", "PERMISSION_DENIED"]);
}

/// A deadline that passes is DEADLINE_EXCEEDED to the caller, and the callee knows that nobody waited.
pub(crate) async fn deadlines(bench: Arc<Bench>) {
    let methods = json!({
        "/c.Callee/Slow": { "sleep_ms": 1000 },
        "/c.Callee/SlowStream": { "kind": "server-stream", "response_messages": 10, "gap_ms": 100 },
    });
    let callee = Program::start(&bench, methods, json!({})).await;
    let methods = json!({
        "/c.Caller/A": { "calls": [{ "peer": "other", "path": "/c.Callee/Slow", "deadline_ms": 250 }] },
        "/c.Caller/Stream": { "calls": [{ "peer": "other", "path": "/c.Callee/SlowStream", "kind": "server-stream",
            "deadline_ms": 250 }] },
    });
    let caller = Program::start(&bench, methods, one_peer(callee.address())).await;
    for (place, path) in ["/c.Caller/A", "/c.Caller/Stream"].into_iter().enumerate() {
        let answer = caller.call(path).await;
        assert_eq!(answer.code, Code::DeadlineExceeded, "{}", answer.message);
        let line = caller.sent(place + 1).await.pop().unwrap();
        assert_eq!((line.status.as_str(), line.attempt), ("DEADLINE_EXCEEDED", 0));
        assert!((0.24..1.0).contains(&line.seconds), "{} s", line.seconds);
        let line = caller.served(place + 1).await.pop().unwrap();
        assert_eq!((line.status.as_str(), line.ended), ("DEADLINE_EXCEEDED", true));
        // A handler that does not hear of its caller ends with its sleep.
        tokio::time::sleep(SECOND).await;
        let line = callee.served(place + 1).await.pop().unwrap();
        assert_eq!((line.status.as_str(), line.ended), ("DEADLINE_EXCEEDED", false), "{}", line.method);
    }
}

/// A caller that goes without a deadline has cancelled.
pub(crate) async fn given_up(bench: Arc<Bench>) {
    let methods = json!({
        "/c.Callee/Slow": { "sleep_ms": 700 },
        "/c.Callee/Stream": { "kind": "server-stream", "response_messages": 10, "gap_ms": 70 },
    });
    let callee = Program::start(&bench, methods, json!({})).await;
    for (place, path) in ["/c.Callee/Slow", "/c.Callee/Stream"].into_iter().enumerate() {
        let gone = tokio::time::timeout(Duration::from_millis(250), callee.call(path)).await;
        assert!(gone.is_err(), "{path} was still running");
        tokio::time::sleep(SECOND).await;
        let line = callee.served(place + 1).await.pop().unwrap();
        assert_eq!((line.status.as_str(), line.ended), ("CANCELLED", false), "{path}");
    }
}

/// Each attempt is a call of its own that says which one it is; only the named statuses are tried again.
pub(crate) async fn retries(bench: Arc<Bench>) {
    let fails = |failures, code| Plan { failures, code, ..Plan::default() };
    let peer = Peer::start(&[
        ("/p.Peer/Twice", fails(2, 14)),
        ("/p.Peer/Other", fails(9, 3)),
        ("/p.Peer/Always", fails(9, 14)),
    ])
    .await;
    let retries = json!({ "attempts": 3, "backoff_ms": 100, "on": [14, 8] });
    let call = |path: &str| json!({ "calls": [{ "peer": "other", "path": path, "retries": retries, "deadline_ms": 5000 }] });
    let methods = json!({
        "/c.Caller/Twice": call("/p.Peer/Twice"),
        "/c.Caller/Other": call("/p.Peer/Other"),
        "/c.Caller/Always": call("/p.Peer/Always"),
    });
    let caller = Program::start(&bench, methods, one_peer(&peer.address())).await;
    let answer = caller.call("/c.Caller/Twice").await;
    assert_eq!(answer.code, Code::Ok, "{}", answer.message);
    assert!(answer.took > Duration::from_millis(295), "it waits 100 ms, then 200 ms: {:?}", answer.took);
    assert_eq!(caller.call("/c.Caller/Other").await.code, Code::InvalidArgument);
    assert_eq!(caller.call("/c.Caller/Always").await.code, Code::Unavailable);
    let seen: Vec<(String, Option<String>)> = peer
        .came()
        .into_iter()
        .map(|came| (came.path, came.headers.get("grpc-previous-rpc-attempts").cloned()))
        .collect();
    let expected = [
        ("/p.Peer/Twice", None),
        ("/p.Peer/Twice", Some("1")),
        ("/p.Peer/Twice", Some("2")),
        ("/p.Peer/Other", None),
        ("/p.Peer/Always", None),
        ("/p.Peer/Always", Some("1")),
        ("/p.Peer/Always", Some("2")),
    ];
    let expected = expected.map(|(path, header)| (path.to_owned(), header.map(str::to_owned)));
    assert_eq!(seen, expected);
    let lines = caller.sent(7).await;
    let lines: Vec<(&str, i32)> = lines.iter().map(|line| (line.status.as_str(), line.attempt)).collect();
    let unavailable = "UNAVAILABLE";
    assert_eq!(
        lines,
        [
            (unavailable, 0),
            (unavailable, 1),
            ("OK", 2),
            ("INVALID_ARGUMENT", 0),
            (unavailable, 0),
            (unavailable, 1),
            (unavailable, 2)
        ]
    );
}

/// The deadline is for all attempts together.
pub(crate) async fn retries_end_with_the_deadline(bench: Arc<Bench>) {
    let fails = Plan { failures: 99, code: 14, delay: Duration::from_millis(100) };
    let peer = Peer::start(&[("/p.Peer/Fails", fails)]).await;
    let retries = json!({ "attempts": 50, "backoff_ms": 20, "on": [14] });
    let call = json!({ "peer": "other", "path": "/p.Peer/Fails", "retries": retries, "deadline_ms": 600 });
    let caller =
        Program::start(&bench, json!({ "/c.Caller/A": { "calls": [call] } }), one_peer(&peer.address()))
            .await;
    let answer = caller.call("/c.Caller/A").await;
    assert!([Code::Unavailable, Code::DeadlineExceeded].contains(&answer.code), "{:?}", answer.code);
    assert!(answer.took < 2 * SECOND, "{:?}", answer.took);
    assert!((2..6).contains(&peer.came().len()), "{} attempts", peer.came().len());
    caller.sent(peer.came().len()).await;
}

/// Calls go round-robin over all addresses, over as many connections as the spec says, each made once.
pub(crate) async fn replicas_and_pools(bench: Arc<Bench>) {
    let (one, two) = (Peer::start(&[]).await, Peer::start(&[]).await);
    let peers = json!({ "peers": {
        "plain": { "addresses": [one.address(), two.address()], "authority": "plain:1" },
        "pooled": { "addresses": [one.address(), two.address()], "authority": "pooled:1", "connections": 3 },
        "unused": { "addresses": [one.address()], "authority": "unused:1" },
    } });
    let methods = json!({
        "/c.Caller/Plain": { "calls": [{ "peer": "plain", "path": "/p.Peer/A" }] },
        "/c.Caller/Pooled": { "calls": [{ "peer": "pooled", "path": "/p.Peer/B" }] },
    });
    let caller = Program::start(&bench, methods, peers).await;
    assert_eq!((one.accepted(), two.accepted()), (0, 0), "connections are made at the first call");
    for _ in 0..12 {
        assert_eq!(caller.call("/c.Caller/Plain").await.code, Code::Ok);
    }
    assert_eq!((one.came().len(), two.came().len()), (6, 6));
    assert_eq!((one.accepted(), two.accepted()), (1, 1), "one connection for each address");
    for _ in 0..12 {
        assert_eq!(caller.call("/c.Caller/Pooled").await.code, Code::Ok);
    }
    assert_eq!((one.came().len(), two.came().len()), (12, 12));
    assert_eq!((one.accepted(), two.accepted()), (4, 4), "three more for each address");
    for peer in [&one, &two] {
        let pooled = peer.came().split_off(6);
        assert!(pooled.iter().all(|came| came.authority == "pooled:1"));
        let mut calls: BTreeMap<u16, usize> = BTreeMap::new();
        for came in &pooled {
            *calls.entry(came.connection).or_default() += 1;
        }
        assert_eq!(calls.values().collect::<BTreeSet<_>>(), BTreeSet::from([&2]), "{calls:?}");
    }
}

/// An address where nobody listens fails its share of the calls at once, and is used again when somebody does.
pub(crate) async fn refused(bench: Arc<Bench>) {
    let peer = Peer::start(&[]).await;
    let dead = free_address();
    let peers =
        json!({ "peers": { "other": { "addresses": [peer.address(), dead], "authority": "other:1" } } });
    let call = json!({ "peer": "other", "path": "/p.Peer/A", "deadline_ms": 5000 });
    let caller = Program::start(&bench, json!({ "/p.Peer/A": { "calls": [call] } }), peers).await;
    let mut codes = Vec::new();
    for _ in 0..6 {
        let answer = caller.call("/p.Peer/A").await;
        assert!(answer.took < 2 * SECOND, "{:?}", answer.took);
        codes.push(answer.code);
    }
    assert_eq!(codes, [Code::Ok, Code::Unavailable].repeat(3));
    let statuses: Vec<String> = caller.sent(6).await.into_iter().map(|line| line.status).collect();
    assert_eq!(statuses, ["OK", "UNAVAILABLE"].repeat(3));
    let rest = json!({ "listen": dead });
    let _back = Program::start(&bench, json!({ "/p.Peer/A": {} }), rest).await;
    tokio::time::sleep(2 * SECOND).await;
    caller.call("/p.Peer/A").await;
    caller.call("/p.Peer/A").await;
    let answers = [caller.call("/p.Peer/A").await.code, caller.call("/p.Peer/A").await.code];
    assert_eq!(answers, [Code::Ok, Code::Ok], "it comes back");
}
