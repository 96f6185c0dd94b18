//! What a behaviour does to calls, field by field.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tonic::Code;

use crate::Bench;
use crate::bytes_as_they_are::base64;
use crate::program::{Answer, Program};

const SECOND: Duration = Duration::from_secs(1);

/// So many calls at once.
async fn at_once(program: &Program, path: &str, count: usize) -> Vec<Answer> {
    join_all((0..count).map(|_| program.call(path))).await
}

/// A service with a behaviour that stays.
async fn behaving(bench: &Bench, methods: Value, behaviour: Value) -> Program {
    let mut program = Program::start(bench, methods, json!({})).await;
    program.behave(behaviour).await;
    program
}

/// A status for a share of the calls of one method; every effect is tried in order; `{}` heals.
pub(crate) async fn fraction_and_method(bench: Arc<Bench>) {
    let methods = json!({ "/e.Effect/A": { "responses": base64(&[9]) }, "/e.Effect/B": {} });
    let mut program = Program::start(&bench, methods, json!({})).await;
    program.behave(json!({ "effects": [{ "method": "/e.Effect/A", "status": 13 }] })).await;
    let failed = program.call("/e.Effect/A").await;
    assert_eq!((failed.code, failed.message.as_str()), (Code::Internal, "injected"));
    assert_eq!(program.call("/e.Effect/B").await.code, Code::Ok);
    let lines = program.served(2).await;
    assert_eq!((lines[0].status.as_str(), lines[0].ended, lines[0].response_bytes), ("INTERNAL", true, 0));
    program.behave(json!({ "effects": [{ "fraction": 0.5, "status": 7 }, { "method": "/e.Effect/B", "status": 8 }] })).await;
    let mut denied = [0, 0];
    for _ in 0..60 {
        let code = program.call("/e.Effect/A").await.code;
        assert!([Code::Ok, Code::PermissionDenied].contains(&code), "{code:?}");
        denied[0] += usize::from(code == Code::PermissionDenied);
        let code = program.call("/e.Effect/B").await.code;
        assert!([Code::ResourceExhausted, Code::PermissionDenied].contains(&code), "{code:?}");
        denied[1] += usize::from(code == Code::PermissionDenied);
    }
    assert!(denied.iter().all(|denied| (12..48).contains(denied)), "{denied:?} of 60");
    program.behave(json!({})).await;
    assert_eq!(program.call("/e.Effect/A").await.code, Code::Ok);
    assert_eq!(program.call("/e.Effect/B").await.code, Code::Ok);
}

/// Delays add up, and jitter is drawn anew for each call.
pub(crate) async fn delay_and_jitter(bench: Arc<Bench>) {
    let effects = json!([{ "delay_ms": 150 }, { "delay_ms": 100.5, "method": "/e.Effect/A" }]);
    let mut program =
        Program::start(&bench, json!({ "/e.Effect/A": {}, "/e.Effect/B": {} }), json!({})).await;
    program.call("/e.Effect/A").await;
    program.behave(json!({ "effects": effects })).await;
    program.call("/e.Effect/A").await;
    program.call("/e.Effect/B").await;
    program.behave(json!({ "effects": [{ "jitter_ms": 50 }] })).await;
    for _ in 0..30 {
        program.call("/e.Effect/A").await;
    }
    let seconds: Vec<f64> = program.served(33).await.into_iter().map(|line| line.seconds).collect();
    assert!(seconds[0] < 0.14, "healthy: {} s", seconds[0]);
    assert!((0.25..1.0).contains(&seconds[1]) && (0.15..1.0).contains(&seconds[2]), "{:?}", &seconds[1..3]);
    let mean = seconds[3..].iter().sum::<f64>() / 30.0;
    assert!((0.025..0.15).contains(&mean), "jitter of 50 ms has the mean {mean} s");
    let long = seconds[3..].iter().filter(|&&one| one > 0.05).count();
    assert!((3..25).contains(&long), "some draws are above the mean, more are below: {long} of 30");
}

/// Calls stand in line for the lock, without using the processor.
pub(crate) async fn lock(bench: Arc<Bench>) {
    let effects = json!([{ "lock_ms": 150, "method": "/e.Effect/A" }]);
    let program =
        behaving(&bench, json!({ "/e.Effect/A": {}, "/e.Effect/B": {} }), json!({ "effects": effects }))
            .await;
    let before = program.cpu();
    let (answers, other) = tokio::join!(at_once(&program, "/e.Effect/A", 4), program.call("/e.Effect/B"));
    let mut took: Vec<Duration> = answers.iter().map(|answer| answer.took).collect();
    took.sort();
    assert!(took[3] > Duration::from_millis(595), "four calls, one after the other: {took:?}");
    assert!(took[0] < took[3] / 2, "{took:?}");
    assert!(other.took < Duration::from_millis(450), "others do not wait: {:?}", other.took);
    assert!(program.cpu() - before < Duration::from_millis(300), "it waits, it does not spin");
}

/// More calls at once than the limit fail at once; those within it are served.
pub(crate) async fn max_in_flight(bench: Arc<Bench>) {
    let effects = json!([{ "max_in_flight": 2, "status": 8 }]);
    let program =
        behaving(&bench, json!({ "/e.Effect/Slow": { "sleep_ms": 700 } }), json!({ "effects": effects }))
            .await;
    let answers = at_once(&program, "/e.Effect/Slow", 6).await;
    let (refused, served): (Vec<&Answer>, Vec<&Answer>) =
        answers.iter().partition(|answer| answer.code == Code::ResourceExhausted);
    assert_eq!((refused.len(), served.len()), (4, 2), "{answers:?}");
    assert!(refused.iter().all(|answer| answer.took < Duration::from_millis(450)), "{answers:?}");
    assert!(served.iter().all(|answer| answer.code == Code::Ok));
    assert_eq!(program.call("/e.Effect/Slow").await.code, Code::Ok, "below the limit there is no status");
}

/// A stream that is cut has sent half of its messages.
pub(crate) async fn cut(bench: Arc<Bench>) {
    let methods = json!({
        "/e.Effect/Server": { "kind": "server-stream", "responses": base64(&[10]), "response_messages": 6 },
        "/e.Effect/Bidi": { "kind": "bidi-stream", "responses": base64(&[10]), "response_messages": 6 },
        "/e.Effect/Unary": { "responses": base64(&[10]) },
    });
    let program = behaving(&bench, methods, json!({ "effects": [{ "status": 14, "cut": true }] })).await;
    for (path, messages) in [("/e.Effect/Server", 3), ("/e.Effect/Bidi", 3), ("/e.Effect/Unary", 0)] {
        let answer = program.call(path).await;
        assert_eq!((answer.code, answer.lengths.len()), (Code::Unavailable, messages), "{path}");
    }
    let lines = program.served(3).await;
    let lines: Vec<(&str, usize, usize)> = lines
        .iter()
        .map(|line| (line.status.as_str(), line.response_messages, line.response_bytes))
        .collect();
    assert_eq!(lines, [("UNAVAILABLE", 3, 30), ("UNAVAILABLE", 3, 30), ("UNAVAILABLE", 0, 0)]);
}

/// Threads that spin use the processor, calls are served beside them, and they end.
pub(crate) async fn spin(bench: Arc<Bench>) {
    let mut program = Program::start(&bench, json!({ "/e.Effect/A": {} }), json!({})).await;
    let used = async |program: &Program| {
        let before = program.cpu();
        tokio::time::sleep(SECOND).await;
        program.cpu() - before
    };
    program.behave(json!({ "spin_threads": 2 })).await;
    let spinning = used(&program).await;
    // Two threads of their own, on a machine that may have others to run.
    assert!(spinning > Duration::from_millis(150), "{spinning:?} in a second");
    assert_eq!(program.call("/e.Effect/A").await.code, Code::Ok);
    program.behave(json!({})).await;
    let healthy = used(&program).await;
    assert!(healthy < spinning / 3, "{healthy:?} in a second, {spinning:?} before");
}
