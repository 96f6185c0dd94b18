//! What a service answers by itself: kinds, samples, time, work, cache.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tonic::Code;

use crate::Bench;
use crate::bytes_as_they_are::{base64, message};
use crate::peer::Peer;
use crate::program::Program;

const SECOND: Duration = Duration::from_secs(1);

/// Each kind with its messages, counted and summed in the truth.
pub(crate) async fn kinds(bench: Arc<Bench>) {
    let methods = json!({
        "/k.Kinds/Unary": { "responses": base64(&[30]) },
        "/k.Kinds/Client": { "kind": "client-stream", "responses": base64(&[31]) },
        "/k.Kinds/Server": { "kind": "server-stream", "responses": base64(&[10, 20]), "response_messages": 5 },
        "/k.Kinds/Fewer": { "kind": "bidi-stream", "responses": base64(&[11]), "response_messages": 5 },
        "/k.Kinds/More": { "kind": "bidi-stream", "responses": base64(&[12]), "response_messages": 2 },
        "/k.Kinds/Gaps": { "kind": "server-stream", "response_messages": 5, "gap_ms": 50 },
    });
    let program = Program::start(&bench, methods, json!({})).await;
    let cases: [(&str, &[usize], &[usize]); 6] = [
        ("/k.Kinds/Unary", &[20], &[30]),
        ("/k.Kinds/Client", &[20, 21, 22], &[31]),
        ("/k.Kinds/Server", &[20], &[10, 20, 10, 20, 10]),
        ("/k.Kinds/Fewer", &[20, 21, 22], &[11; 5]),
        ("/k.Kinds/More", &[20, 21, 22, 23], &[12; 2]),
        ("/k.Kinds/Gaps", &[20], &[0; 5]),
    ];
    for (place, (path, requests, responses)) in cases.into_iter().enumerate() {
        let answer = program.caller().stream(path, requests).await;
        assert_eq!(
            (answer.code, answer.lengths.as_slice()),
            (Code::Ok, responses),
            "{path} {}",
            answer.message
        );
        let line = program.served(place + 1).await.pop().unwrap();
        assert_eq!((line.method.as_str(), line.status.as_str(), line.ended), (path, "OK", true));
        assert_eq!(
            (line.request_messages, line.response_messages),
            (requests.len(), responses.len()),
            "{path}"
        );
        assert_eq!(line.request_bytes, requests.iter().sum::<usize>(), "{path}");
        assert_eq!(line.response_bytes, responses.iter().sum::<usize>(), "{path}");
        assert_eq!(line.replica, 3);
        if path.ends_with("Gaps") {
            assert!(line.seconds > 0.19 && answer.took < 2 * SECOND, "{} s", line.seconds);
        }
    }
}

/// The n-th answer of the process to a path is the n-th sample, and then they start again.
pub(crate) async fn samples(bench: Arc<Bench>) {
    let methods = json!({
        "/k.Samples/A": { "responses": base64(&[10, 20, 30]) },
        "/k.Samples/B": { "responses": base64(&[40, 50]) },
    });
    let program = Program::start(&bench, methods, json!({})).await;
    for length in [10, 20, 30, 10] {
        assert_eq!(program.call("/k.Samples/A").await.lengths, [length]);
    }
    for length in [40, 50, 40] {
        assert_eq!(program.call("/k.Samples/B").await.lengths, [length]);
    }
}

/// A bidi stream answers a message before the next one has come.
pub(crate) async fn ping_pong(bench: Arc<Bench>) {
    let methods =
        json!({ "/k.Ping/Pong": { "kind": "bidi-stream", "response_messages": 3, "cpu_us": 1000 } });
    let program = Program::start(&bench, methods, json!({})).await;
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let call = program.caller().open("/k.Ping/Pong", tokio_stream::wrappers::ReceiverStream::new(receiver));
    let sending = async move {
        for _ in 0..3 {
            sender.send(message(20)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let (answer, ()) = tokio::join!(call, sending);
    assert_eq!((answer.code, answer.lengths.len()), (Code::Ok, 3));
    assert!(answer.took > Duration::from_millis(500), "the call ended with its messages: {:?}", answer.took);
}

/// A sleep is drawn from 0.7 to 1.3 times its length.
pub(crate) async fn sleep(bench: Arc<Bench>) {
    let program = Program::start(&bench, json!({ "/k.Sleep/A": { "sleep_ms": 200 } }), json!({})).await;
    for _ in 0..4 {
        program.call("/k.Sleep/A").await;
    }
    let lines = program.served(4).await;
    let seconds: Vec<f64> = lines.iter().map(|line| line.seconds).collect();
    assert!(seconds.iter().all(|&one| (0.139..1.0).contains(&one)), "{seconds:?}");
    let (least, most) =
        (seconds.iter().copied().fold(9.0, f64::min), seconds.iter().copied().fold(0.0, f64::max));
    assert!(most - least > 0.001, "no two draws are the same: {seconds:?}");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    assert!(
        lines.iter().all(|line| now.abs_diff(u128::from(line.t_ms)) < 10_000),
        "times are Unix milliseconds"
    );
    assert!(
        lines.windows(2).all(|pair| pair[1].t_ms >= pair[0].t_ms + 139),
        "and those of the handler's start"
    );
}

/// A second of work takes a second of processor time, as far as a busy machine can tell; and memory comes and goes.
pub(crate) async fn work(bench: Arc<Bench>) {
    let methods = json!({
        "/k.Work/A": { "cpu_us": 1_000_000 },
        "/k.Work/Stream": { "kind": "server-stream", "cpu_us": 200_000, "response_messages": 4 },
        "/k.Work/Allocate": { "allocate_bytes": 50_000_000 },
        "/k.Work/None": {},
    });
    let program = Program::start(&bench, methods, json!({})).await;
    // The first call of a program pays for what it loads.
    program.call("/k.Work/None").await;
    let spent = async |path: &str| {
        let before = program.cpu();
        assert_eq!(program.call(path).await.code, Code::Ok);
        (program.cpu() - before).as_secs_f64()
    };
    let whole = spent("/k.Work/A").await;
    assert!((0.5..2.0).contains(&whole), "a second of work took {whole} s");
    let once = spent("/k.Work/Stream").await;
    assert!((0.1..0.5).contains(&once), "0.2 s of work, once a call, took {once} s");
    spent("/k.Work/Allocate").await;
}

/// What is in the cache is not asked for again, until it is too old.
pub(crate) async fn cache(bench: Arc<Bench>) {
    let peer =
        Peer::start(&[("/p.Peer/Fails", crate::peer::Plan { failures: 1, code: 14, ..Default::default() })])
            .await;
    let cache = json!({ "keys": 1, "ttl_ms": 1500 });
    let methods = json!({
        "/k.Cache/A": { "cache": cache, "calls": [{ "peer": "other", "path": "/p.Peer/A" }], "responses": base64(&[9]) },
        "/k.Cache/Fails": { "cache": cache, "calls": [{ "peer": "other", "path": "/p.Peer/Fails" }] },
        "/k.Cache/Many": { "cache": { "keys": 1000, "ttl_ms": 60_000 }, "calls": [{ "peer": "other", "path": "/p.Peer/Many" }] },
    });
    let peers = json!({ "peers": { "other": { "addresses": [peer.address()], "authority": "other:1" } } });
    let program = Program::start(&bench, methods, peers).await;
    let asked = |path: &str| peer.came().iter().filter(|came| came.path == path).count();
    let started = Instant::now();
    assert_eq!(program.call("/k.Cache/A").await.lengths, [9]);
    assert_eq!(program.call("/k.Cache/A").await.lengths, [9]);
    assert!(
        started.elapsed() > SECOND || asked("/p.Peer/A") == 1,
        "the second call is answered by the cache"
    );
    tokio::time::sleep(Duration::from_millis(1600)).await;
    program.call("/k.Cache/A").await;
    assert_eq!(asked("/p.Peer/A"), 2, "an old entry is asked for again");
    assert_eq!(program.call("/k.Cache/Fails").await.code, Code::Unavailable);
    assert_eq!(program.call("/k.Cache/Fails").await.code, Code::Ok);
    assert_eq!(asked("/p.Peer/Fails"), 2, "a failure does not fill the cache");
    for _ in 0..100 {
        program.call("/k.Cache/Many").await;
    }
    // Of 100 draws floor(1000 u^3), the share of those in the cache already is far from all and from none.
    assert!((40..96).contains(&asked("/p.Peer/Many")), "{} of 100 missed", asked("/p.Peer/Many"));
}

/// What the spec does not have is UNIMPLEMENTED.
pub(crate) async fn unknown_path(bench: Arc<Bench>) {
    let program = Program::start(&bench, json!({ "/k.Known/A": {} }), json!({})).await;
    assert_eq!(program.call("/k.Known/B").await.code, Code::Unimplemented);
    assert_eq!(program.call("/k.Unknown/A").await.code, Code::Unimplemented);
    assert_eq!(program.call("/k.Known/A").await.code, Code::Ok);
    program.served(1).await;
}
