//! Who a service's peers are: replicas that move while it runs, and peers that do not exist yet.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tonic::Code;

use crate::Bench;
use crate::peer::Peer;
use crate::program::Program;

/// Calls go where a peer's replicas are now; connections to those that left are closed.
pub(crate) async fn moved(bench: Arc<Bench>) {
    let (one, two, three) = (Peer::start(&[]).await, Peer::start(&[]).await, Peer::start(&[]).await);
    let peers = json!({ "peers": { "other": { "addresses": [one.address(), two.address()], "authority": "other:1" } } });
    let methods = json!({ "/c.Caller/A": { "calls": [{ "peer": "other", "path": "/p.Peer/A" }] } });
    let mut caller = Program::start(&bench, methods, peers).await;
    let came = || [&one, &two, &three].map(|peer| peer.came().len());
    for _ in 0..4 {
        assert_eq!(caller.call("/c.Caller/A").await.code, Code::Ok);
    }
    let sockets = caller.sockets();
    assert_eq!(came(), [2, 2, 0]);
    caller.behave(json!({ "addresses": { "other": [two.address(), three.address()] } })).await;
    for _ in 0..4 {
        assert_eq!(caller.call("/c.Caller/A").await.code, Code::Ok);
    }
    assert_eq!(came(), [2, 4, 2]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(caller.sockets(), sockets, "a connection came and one went");
    caller.behave(json!({})).await;
    for _ in 0..4 {
        assert_eq!(caller.call("/c.Caller/A").await.code, Code::Ok);
    }
    assert_eq!(came(), [4, 6, 2]);
    caller.sent(12).await;
}

/// Calls to a peer that does not exist yet are left out, without a line.
pub(crate) async fn absent(bench: Arc<Bench>) {
    let peer = Peer::start(&[]).await;
    let peers = json!({ "peers": {
        "other": { "addresses": [peer.address()], "authority": "other:1" },
        "new": { "addresses": [peer.address()], "authority": "new:1" },
    } });
    let calls = json!([{ "peer": "new", "path": "/p.Peer/New" }, { "peer": "other", "path": "/p.Peer/A" }]);
    let methods =
        json!({ "/c.Caller/A": { "calls": calls }, "/c.Caller/B": { "calls": calls, "parallel": true } });
    let mut caller = Program::start(&bench, methods, peers).await;
    caller.behave(json!({ "absent": ["new"] })).await;
    for path in ["/c.Caller/A", "/c.Caller/B"] {
        assert_eq!(caller.call(path).await.code, Code::Ok);
    }
    assert!(caller.sent(2).await.iter().all(|line| line.callee == "other"));
    caller.behave(json!({})).await;
    assert_eq!(caller.call("/c.Caller/A").await.code, Code::Ok);
    assert!(caller.sent(4).await.iter().any(|line| line.callee == "new"));
    assert_eq!(peer.came().len(), 4);
}
