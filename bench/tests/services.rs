//! Does each stack's generic service do what `bench/stacks/README.md` says? A stack's program comes in by the
//! words that start it; it is started for real, with itself, a server of this test, a real Redis and (where it is
//! installed) a real PostgreSQL beside it, is called by tonic, and what it answers and writes down is compared.
//!
//! Slow (about a minute a stack), so it runs by name only; a stack that is asked for by name must be prepared:
//!
//! ```text
//! cargo run -p playground -- setup                          # once
//! cargo test -p playground --test services -- --ignored     # every stack; those not prepared are named and skipped
//! cargo test -p playground --test services go -- --ignored  # one
//! CHECK=breaker cargo test -p playground --test services go -- --ignored   # checks whose name has "breaker"
//! ```
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

#[path = "services/answers.rs"]
mod answers;
#[path = "services/backends.rs"]
mod backends;
#[path = "services/bytes.rs"]
mod bytes_as_they_are;
#[path = "services/calls.rs"]
mod calls;
#[path = "services/circuits.rs"]
mod circuits;
#[path = "services/effects.rs"]
mod effects;
#[path = "services/leaks.rs"]
mod leaks;
#[path = "services/membership.rs"]
mod membership;
#[path = "services/peer.rs"]
mod peer;
#[path = "services/program.rs"]
mod program;
#[path = "services/storage.rs"]
mod storage;
#[path = "services/truth.rs"]
mod truth;

use std::io::Write;
use std::pin::Pin;
use std::sync::Arc;

use playground::stacks::setup::{Mode, cache_folder, prepare};
use playground::topology::Stack;

use backends::{Postgres, Redis};

#[test]
#[ignore = "about a minute: see the file's head"]
fn rust() {
    let words = vec![env!("CARGO_BIN_EXE_playground").to_owned(), "service".to_owned()];
    conform("rust", words);
}

#[test]
#[ignore = "about a minute: see the file's head"]
fn go() {
    conform_if_prepared(Stack::Go);
}

#[test]
#[ignore = "about a minute: see the file's head"]
fn node() {
    conform_if_prepared(Stack::Node);
}

#[test]
#[ignore = "about a minute: see the file's head"]
fn python() {
    conform_if_prepared(Stack::Python);
}

#[test]
#[ignore = "some 20 s: see the file's head"]
fn java() {
    conform_if_prepared(Stack::Java);
}

#[test]
#[ignore = "some 20 s: see the file's head"]
fn cpp() {
    conform_if_prepared(Stack::Cpp);
}

/// A stack that is missing fails the test that was asked for by name, and is named where all are run.
fn conform_if_prepared(stack: Stack) {
    let prepared = cache_folder(None).and_then(|cache| prepare(stack, &cache, Mode::Check));
    match prepared {
        Ok(words) => conform(stack.name(), words),
        Err(error) if std::env::args().skip(1).any(|word| word == stack.name()) => {
            panic!("{}: {error:#}", stack.name())
        }
        Err(error) => say(&format!("services: {} SKIPPED: {error:#}", stack.name())),
    }
}

/// Lines that people see even when the test passes: the harness holds back what `println!` says.
fn say(line: &str) {
    std::io::stderr().write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// What every check may use.
struct Bench {
    /// The words before `--spec FILE`.
    words: Vec<String>,
    redis: Redis,
    postgres: Option<Postgres>,
}

type Check = fn(Arc<Bench>) -> Pin<Box<dyn Future<Output = ()> + Send>>;

/// Each check by its name.
macro_rules! checks {
    ($($topic:ident: $($name:ident)*;)*) => {
        [$($((concat!(stringify!($topic), "::", stringify!($name)), |bench| Box::pin($topic::$name(bench)))),*),*]
    };
}

/// Every sentence of the contract that can be seen from outside.
#[rustfmt::skip]
const CHECKS: [(&str, Check); 37] = checks! {
    answers: kinds samples ping_pong sleep work cache unknown_path;
    calls: kinds_between_services on_the_wire sequence_and_parallel optional deadlines given_up retries
        retries_end_with_the_deadline replicas_and_pools refused;
    circuits: breaker told_open;
    membership: moved absent;
    storage: redis postgres failing;
    effects: fraction_and_method delay_and_jitter lock max_in_flight cut spin;
    leaks: memory walks connections_to_a_peer connections_to_a_backend;
    truth: visible_and_whole terminated input_ended;
};

/// Runs the checks one after the other, so that each has the processor, and names all that fail.
fn conform(stack: &str, words: Vec<String>) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let postgres = Postgres::start();
    if let Err(reason) = &postgres {
        say(&format!("services: {stack}: PostgreSQL SKIPPED: {reason}"));
    }
    let bench = Arc::new(Bench { words, redis: Redis::start(), postgres: postgres.ok() });
    let chosen = std::env::var("CHECK").unwrap_or_default();
    let mut failed = Vec::new();
    for (name, check) in CHECKS.into_iter().filter(|(name, _)| name.contains(&chosen)) {
        if runtime.block_on(runtime.spawn(check(Arc::clone(&bench)))).is_err() {
            eprintln!("^ {stack}: {name}");
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "{stack} fails {} checks: {}", failed.len(), failed.join(", "));
}
