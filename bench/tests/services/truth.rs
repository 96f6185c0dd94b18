//! Lines of truth, and how a service ends.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use rustix::process::Signal;
use serde_json::json;
use tonic::Code;

use crate::Bench;
use crate::program::{Program, Served};

/// Each call is visible within 0.2 s (and what a busy machine takes); a killed service leaves whole lines.
pub(crate) async fn visible_and_whole(bench: Arc<Bench>) {
    let program = Program::start(&bench, json!({ "/t.Truth/A": { "cpu_us": 50 } }), json!({})).await;
    for count in 1..=3 {
        assert_eq!(program.call("/t.Truth/A").await.code, Code::Ok);
        program.served(count).await;
    }
    let callers =
        join_all((0..8).map(|_| async { while program.call("/t.Truth/A").await.code == Code::Ok {} }));
    let killing = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        program.signal(Signal::KILL);
    };
    tokio::join!(callers, killing);
    let text = std::fs::read_to_string(program.file("truth.jsonl")).unwrap();
    assert!(text.lines().count() > 50, "{} calls in a second", text.lines().count());
    assert!(text.ends_with('\n'), "the last line is torn");
    for line in text.lines() {
        serde_json::from_str::<Served>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
}

/// SIGTERM: running calls get a second, then it ends with 0, and everything is written.
pub(crate) async fn terminated(bench: Arc<Bench>) {
    ends(&bench, |program| program.signal(Signal::TERM)).await;
}

/// The end of standard input does the same.
pub(crate) async fn input_ended(bench: Arc<Bench>) {
    ends(&bench, Program::end_input).await;
}

async fn ends(bench: &Bench, tell: impl Fn(&mut Program)) {
    let methods = json!({ "/t.Truth/Short": { "sleep_ms": 500 }, "/t.Truth/Long": { "sleep_ms": 30_000 } });
    let mut program = Program::start(bench, methods, json!({})).await;
    assert_eq!(program.call("/t.Truth/Short").await.code, Code::Ok);
    let caller = program.caller().clone();
    let telling = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        tell(&mut program);
        program.ended().await
    };
    let (short, long, (status, took)) =
        tokio::join!(caller.stream("/t.Truth/Short", &[20]), caller.stream("/t.Truth/Long", &[20]), telling);
    assert_eq!(short.code, Code::Ok, "a call that ends within a second is answered: {}", short.message);
    assert_ne!(long.code, Code::Ok);
    assert_eq!(status.code(), Some(0), "{status}");
    assert!((0.9..3.0).contains(&took.as_secs_f64()), "it waits a second: {took:?}");
    let text = std::fs::read_to_string(program.file("truth.jsonl")).unwrap();
    let answered = text.lines().map(|line| serde_json::from_str::<Served>(line).unwrap());
    assert_eq!(answered.filter(|line| line.ended && line.method == "/t.Truth/Short").count(), 2, "{text}");
}
