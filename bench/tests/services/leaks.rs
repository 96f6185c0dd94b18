//! What grows until it is told to stop: memory and connections.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tonic::Code;

use crate::Bench;
use crate::peer::Peer;
use crate::program::Program;

const MEBIBYTE: usize = 1 << 20;

/// Memory grows to its limit and no further, and is given back.
pub(crate) async fn memory(bench: Arc<Bench>) {
    let mut program = Program::start(&bench, json!({ "/l.Leak/A": {} }), json!({})).await;
    let before = program.resident();
    let leak = json!({ "leak_bytes_per_second": 100 * MEBIBYTE, "leak_limit_bytes": 120 * MEBIBYTE });
    program.behave(leak).await;
    let early = program.resident().saturating_sub(before) / MEBIBYTE;
    assert!(early < 100, "it grows by the second: {early} MiB after 0.3 s");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let grown = program.resident().saturating_sub(before) / MEBIBYTE;
    assert!((90..160).contains(&grown), "{grown} MiB of 120 after 3 s");
    program.behave(json!({})).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let left = program.resident().saturating_sub(before) / MEBIBYTE;
    assert!(left < 50, "{left} MiB of {grown} are left");
    assert_eq!(program.call("/l.Leak/A").await.code, Code::Ok);
}

/// Calls that walk what leaked use the processor for it, for half of the time at most.
pub(crate) async fn walks(bench: Arc<Bench>) {
    let mut program = Program::start(&bench, json!({ "/l.Leak/A": {} }), json!({})).await;
    // By the call and not by the second, of which other processes may take any part.
    let used = async |program: &Program| {
        let (before, mut calls) = (program.cpu(), 0.0);
        let started = std::time::Instant::now();
        while started.elapsed() < Duration::from_secs(2) {
            assert_eq!(program.call("/l.Leak/A").await.code, Code::Ok);
            tokio::time::sleep(Duration::from_millis(5)).await;
            calls += 1.0;
        }
        let used = (program.cpu() - before).as_secs_f64();
        (used / calls, used / started.elapsed().as_secs_f64())
    };
    let leak = |walks: u32| json!({ "leak_bytes_per_second": 100 * MEBIBYTE, "leak_limit_bytes": 100 * MEBIBYTE, "leak_walks": walks });
    program.behave(leak(0)).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let without = used(&program).await;
    program.behave(leak(200)).await;
    let with = used(&program).await;
    assert!(with.0 > 2.0 * without.0, "walks cost: {} s a call, {} s without", with.0, without.0);
    assert!(with.1 < 0.9 + without.1, "walks rest: {} of a processor, {} without", with.1, without.1);
}

/// Connections are opened to the first peer by name, where there is no backend, and closed again.
pub(crate) async fn connections_to_a_peer(bench: Arc<Bench>) {
    let (first, second) = (Peer::start(&[]).await, Peer::start(&[]).await);
    let peers = json!({ "peers": {
        "b": { "addresses": [second.address()], "authority": "b:1" },
        "a": { "addresses": [first.address()], "authority": "a:1" },
    } });
    let mut program = Program::start(&bench, json!({ "/l.Leak/A": {} }), peers).await;
    grow_and_close(&mut program).await;
    assert!(first.accepted() >= 40, "{} connections to the first peer", first.accepted());
    assert_eq!(second.accepted(), 0);
}

/// A backend comes before the peers.
pub(crate) async fn connections_to_a_backend(bench: Arc<Bench>) {
    let peer = Peer::start(&[]).await;
    let rest = json!({
        "peers": { "a": { "addresses": [peer.address()], "authority": "a:1" } },
        "backends": { "store": { "kind": "redis", "address": bench.redis.address() } },
    });
    let mut program = Program::start(&bench, json!({ "/l.Leak/A": {} }), rest).await;
    grow_and_close(&mut program).await;
    assert_eq!(peer.accepted(), 0);
}

async fn grow_and_close(program: &mut Program) {
    let before = program.sockets();
    program.behave(json!({ "leak_connections_per_second": 40 })).await;
    tokio::time::sleep(Duration::from_millis(1700)).await;
    let grown = program.sockets() - before;
    assert!((40..120).contains(&grown), "{grown} connections in 2 s, at 40 a second");
    program.behave(json!({})).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(program.sockets() <= before + 2, "{} sockets, {before} before", program.sockets());
}
