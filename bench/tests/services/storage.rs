//! Operations on Redis and PostgreSQL.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tonic::Code;

use crate::Bench;
use crate::program::{Program, free_address};

fn methods(backend: &str) -> Value {
    let step = |operation: &str, bytes: u32| json!({ "backend": backend, "operation": operation, "bytes": bytes, "keys": 5 });
    json!({
        "/d.Store/Both": { "data": [step("set", 300), step("get", 300)] },
        "/d.Store/Set": { "data": [step("set", 300)] },
    })
}

fn backend(kind: &str, address: &str) -> Value {
    json!({ "backends": { "store": { "kind": kind, "address": address } } })
}

/// 40 sets find all of five keys; each operation has its line, and so have connections that take a question and an
/// answer to be made.
async fn stores(bench: &Bench, kind: &str, address: &str) {
    let program = Program::start(bench, methods("store"), backend(kind, address)).await;
    let answer = program.call("/d.Store/Both").await;
    assert_eq!(answer.code, Code::Ok, "{}", answer.message);
    let lines = program.sent(2).await;
    assert_eq!((lines[0].method.as_str(), lines[0].request_bytes), ("SET", 300));
    assert_eq!((lines[1].method.as_str(), lines[1].request_bytes), ("GET", 0));
    for line in lines {
        assert_eq!((line.callee.as_str(), line.status.as_str(), line.attempt), ("store", "OK", 0));
        assert_eq!((line.request_messages, line.response_messages, line.response_bytes), (1, 1, 0));
        assert!(line.t_ms > 0 && line.seconds > 0.0);
    }
    let many = (0..40).map(|_| program.call("/d.Store/Set"));
    let codes: Vec<Code> = join_all(many).await.iter().map(|answer| answer.code).collect();
    assert!(codes.iter().all(|&code| code == Code::Ok), "{codes:?}");
    program.sent(42).await;
    let open = connections(address);
    assert!((1..=17).contains(&open), "{open} connections");
    let told = program.connected();
    assert_eq!(told.len(), if kind == "postgres" { open } else { 0 });
    for line in told {
        assert_eq!((line.callee.as_str(), line.status.as_str(), line.attempt), ("store", "OK", 0));
        assert_eq!((line.request_bytes, line.request_messages, line.response_messages), (0, 1, 1));
        assert!(line.t_ms > 0 && line.seconds > 0.0);
    }
}

/// Connections that this machine holds to an address.
fn connections(address: &str) -> usize {
    let port: u16 = address.rsplit_once(':').unwrap().1.parse().unwrap();
    // A JVM's sockets are of IPv6, whatever the address.
    let table =
        ["/proc/net/tcp", "/proc/net/tcp6"].map(|file| std::fs::read_to_string(file).unwrap()).concat();
    let established = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields[2].ends_with(&format!(":{port:04X}")) && fields[3] == "01"
    };
    table.lines().filter(established).count()
}

pub(crate) async fn redis(bench: Arc<Bench>) {
    bench.redis.ask("FLUSHALL");
    stores(&bench, "redis", bench.redis.address()).await;
    assert_eq!(bench.redis.ask("DBSIZE"), ":5");
    assert_eq!(bench.redis.ask("STRLEN k4"), ":300");
}

pub(crate) async fn postgres(bench: Arc<Bench>) {
    // The run's first line says that it is missing.
    let Some(postgres) = &bench.postgres else { return };
    stores(&bench, "postgres", postgres.address()).await;
    let found = postgres.ask("SELECT count(*), min(octet_length(value)), min(key), max(key) FROM items");
    assert_eq!(found.unwrap(), "5|300|k0|k4");
}

/// What cannot be reached, answers with an error, or does not answer within 2 s is UNAVAILABLE; and comes back.
pub(crate) async fn failing(bench: Arc<Bench>) {
    let address = free_address();
    for kind in ["redis", "postgres"] {
        let program = Program::start(&bench, methods("store"), backend(kind, &address)).await;
        let answer = program.call("/d.Store/Both").await;
        assert_eq!(answer.code, Code::Unavailable, "{kind}");
        assert!(
            answer.took < Duration::from_millis(1500),
            "{kind}: refused at once, not after {:?}",
            answer.took
        );
        let lines = program.sent(1).await;
        assert_eq!((lines[0].method.as_str(), lines[0].status.as_str()), ("SET", "UNAVAILABLE"), "{kind}");
    }
    let program = Program::start(&bench, methods("store"), backend("redis", bench.redis.address())).await;
    assert_eq!(program.call("/d.Store/Set").await.code, Code::Ok);
    bench.redis.ask("CONFIG SET maxmemory 1");
    assert_eq!(program.call("/d.Store/Set").await.code, Code::Unavailable, "Redis refuses to store");
    bench.redis.ask("CONFIG SET maxmemory 0");
    assert_eq!(program.call("/d.Store/Set").await.code, Code::Ok);
    bench.redis.ask("CLIENT KILL TYPE normal");
    tokio::time::sleep(Duration::from_millis(500)).await;
    program.call("/d.Store/Set").await;
    assert_eq!(program.call("/d.Store/Set").await.code, Code::Ok, "a broken connection is made again");
    bench.redis.ask("CLIENT PAUSE 3500 ALL");
    let stuck = program.call("/d.Store/Set").await;
    assert_eq!(stuck.code, Code::Unavailable, "a command may take 2 s");
    assert!((1.9..3.4).contains(&stuck.took.as_secs_f64()), "{:?}", stuck.took);
    tokio::time::sleep(Duration::from_secs(2)).await;
    program.call("/d.Store/Set").await;
    assert_eq!(program.call("/d.Store/Set").await.code, Code::Ok);
}
