//! Circuit breakers: those of the spec, and those that the behaviour opens.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tonic::Code;

use crate::Bench;
use crate::peer::{Peer, Plan};
use crate::program::{Program, Sent};

fn seen(lines: &[Sent]) -> Vec<(&str, i32)> {
    lines.iter().map(|line| (line.status.as_str(), line.attempt)).collect()
}

/// Failures in a row open the circuit; after a while one call is let through, and closes it if it succeeds.
pub(crate) async fn breaker(bench: Arc<Bench>) {
    let fails = |failures, code| Plan { failures, code, ..Plan::default() };
    let peer = Peer::start(&[("/p.Peer/A", fails(3, 14)), ("/p.Peer/Bad", fails(99, 3))]).await;
    let breaker = json!({ "failures": 2, "open_ms": 1000 });
    let peers = json!({ "peers": {
        "other": { "addresses": [peer.address()], "authority": "other:1", "breaker": breaker },
    } });
    let call = |path: &str| json!({ "peer": "other", "path": path, "retries": { "attempts": 2, "backoff_ms": 10, "on": [8] } });
    let methods = json!({
        "/c.Caller/A": { "calls": [call("/p.Peer/A")] },
        "/c.Caller/Bad": { "calls": [call("/p.Peer/Bad")] },
    });
    let caller = Program::start(&bench, methods, peers).await;
    for _ in 0..3 {
        assert_eq!(
            caller.call("/c.Caller/Bad").await.code,
            Code::InvalidArgument,
            "a bad request is no failure"
        );
    }
    let ask = async || caller.call("/c.Caller/A").await;
    assert_eq!(
        (ask().await.message, ask().await.message),
        ("other/p.Peer/A: planned".into(), "other/p.Peer/A: planned".into())
    );
    let open = ask().await;
    assert_eq!((open.code, open.message.as_str()), (Code::Unavailable, "other/p.Peer/A: circuit open"));
    assert_eq!(
        caller.call("/c.Caller/Bad").await.code,
        Code::Unavailable,
        "the circuit is the peer's, not the path's"
    );
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(ask().await.message, "other/p.Peer/A: planned", "one is let through");
    assert_eq!(ask().await.message, "other/p.Peer/A: circuit open", "and opens it again");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(ask().await.code, Code::Ok);
    assert_eq!(ask().await.code, Code::Ok);
    let lines = caller.sent(11).await;
    let (bad, failed, open) = (("INVALID_ARGUMENT", 0), ("UNAVAILABLE", 0), ("UNAVAILABLE", -1));
    let expected = [bad, bad, bad, failed, failed, open, open, failed, open, ("OK", 0), ("OK", 0)];
    assert_eq!(seen(&lines), expected);
    assert_eq!(peer.came().len(), 8, "refused calls are on no wire");
}

/// The behaviour opens circuits of peers that have none, too.
pub(crate) async fn told_open(bench: Arc<Bench>) {
    let peer = Peer::start(&[]).await;
    let peers = json!({ "peers": {
        "one": { "addresses": [peer.address()], "authority": "one:1" },
        "two": { "addresses": [peer.address()], "authority": "two:1" },
    } });
    let retries = json!({ "attempts": 3, "backoff_ms": 10, "on": [14] });
    let methods = json!({
        "/c.Caller/One": { "calls": [{ "peer": "one", "path": "/p.Peer/A", "retries": retries }] },
        "/c.Caller/Two": { "calls": [{ "peer": "two", "path": "/p.Peer/A" }] },
    });
    let mut caller = Program::start(&bench, methods, peers).await;
    assert_eq!(caller.call("/c.Caller/One").await.code, Code::Ok);
    caller.behave(json!({ "open_circuits": ["one"] })).await;
    let refused = caller.call("/c.Caller/One").await;
    assert_eq!((refused.code, refused.message.as_str()), (Code::Unavailable, "one/p.Peer/A: circuit open"));
    assert_eq!(caller.call("/c.Caller/Two").await.code, Code::Ok);
    caller.behave(json!({})).await;
    assert_eq!(caller.call("/c.Caller/One").await.code, Code::Ok);
    let lines = caller.sent(4).await;
    assert_eq!(seen(&lines), [("OK", 0), ("UNAVAILABLE", -1), ("OK", 0), ("OK", 0)]);
    assert_eq!(peer.came().len(), 3);
}
