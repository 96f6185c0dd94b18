//! What one call does before its answer: it misbehaves as told, sleeps, works, asks its cache, its backends and
//! other services. How messages come and go: `app`.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tonic::{Code, Status};

use super::backends::Data;
use super::client::{Peers, in_turn};
use super::misbehaviour::Misbehaviour;
use super::work;
use crate::brief::{Cache, CallSpec, DataOperation, DataSpec, MethodSpec, ServiceSpec};
use crate::random::Random;
use crate::status::code_name;
use crate::truth::{Lines, Sent, unix_ms};

/// What all calls of a service share.
pub(super) struct Served {
    pub(super) methods: BTreeMap<String, Method>,
    pub(super) misbehaviour: Arc<Misbehaviour>,
    pub(super) truth: Lines,
    pub(super) replica: u32,
    peers: Peers,
    backends: BTreeMap<String, Arc<Data>>,
    random: Mutex<Random>,
    sent: Lines,
}

/// A method and what it remembers.
pub(super) struct Method {
    pub(super) spec: MethodSpec,
    turns: AtomicU64,
    cache: Mutex<HashMap<u64, Instant>>,
}

/// Why a call fails.
pub(super) struct Failure {
    pub(super) status: Status,
    /// A stream first sends half of its messages.
    pub(super) cut: bool,
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self { status, cut: false }
    }
}

impl Served {
    pub(super) fn new(
        spec: ServiceSpec,
        peers: Peers,
        misbehaviour: Arc<Misbehaviour>,
        truth: Lines,
        sent: Lines,
    ) -> Self {
        let method = |spec| Method { spec, turns: AtomicU64::new(0), cache: Mutex::default() };
        Self {
            methods: spec.methods.into_iter().map(|(path, spec)| (path, method(spec))).collect(),
            misbehaviour,
            truth,
            replica: spec.replica,
            peers,
            backends: spec
                .backends
                .into_iter()
                .map(|(name, backend)| {
                    let data = Arc::new(Data::new(&name, &backend, &sent));
                    (name, data)
                })
                .collect(),
            random: Mutex::new(Random::seeded(spec.seed)),
            sent,
        }
    }

    /// The next answer message of a method.
    pub(super) fn next_message(&self, path: &str) -> Bytes {
        self.methods
            .get(path)
            .map(|method| in_turn(&method.spec.responses, &method.turns))
            .unwrap_or_default()
    }

    /// Everything that comes before the first answer.
    pub(super) async fn answer(&self, path: &str, method: &MethodSpec) -> Result<(), Failure> {
        self.misbehaviour.strike(path, &self.random).await?;
        if method.sleep_ms > 0.0 {
            let jitter = 0.7 + 0.6 * self.chance();
            tokio::time::sleep(Duration::from_secs_f64(method.sleep_ms * jitter / 1e3)).await;
        }
        self.misbehaviour.walk();
        work::burn(method.cpu_us);
        work::allocate(method.allocate_bytes);
        let Some(cache) = method.cache else { return Ok(self.fetch(method).await?) };
        let key = self.cache_key(cache);
        if !self.cached(path, key) {
            self.fetch(method).await?;
            self.remember(path, key, cache);
        }
        Ok(())
    }

    /// The data operations in order, then the calls.
    async fn fetch(&self, method: &MethodSpec) -> Result<(), Status> {
        for step in &method.data {
            self.ask_backend(step).await?;
        }
        self.call_others(method).await
    }

    fn chance(&self) -> f64 {
        self.random.lock().unwrap_or_else(PoisonError::into_inner).unit()
    }

    /// A few keys are asked for often, most of them rarely.
    fn cache_key(&self, cache: Cache) -> u64 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "0 to the number of keys"
        )]
        let key = (f64::from(cache.keys) * self.chance().powi(3)) as u64;
        key
    }

    fn cached(&self, path: &str, key: u64) -> bool {
        let Some(method) = self.methods.get(path) else { return false };
        let cache = method.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.get(&key).is_some_and(|until| Instant::now() < *until)
    }

    fn remember(&self, path: &str, key: u64, cache: Cache) {
        let Some(method) = self.methods.get(path) else { return };
        let until = Instant::now() + Duration::from_millis(cache.ttl_ms);
        method.cache.lock().unwrap_or_else(PoisonError::into_inner).insert(key, until);
    }

    /// One data operation, with its line of truth. It goes on by itself when the caller gives up: its question is
    /// on the wire.
    async fn ask_backend(&self, step: &DataSpec) -> Result<(), Status> {
        let backend = self.backends.get(&step.backend).cloned();
        let backend = backend.ok_or_else(|| Status::internal(format!("no backend {}", step.backend)))?;
        let key = format!("k{}", (self.chance() * f64::from(step.keys)).floor());
        let (t_ms, started) = (unix_ms(), Instant::now());
        let (step, sent) = (step.clone(), self.sent.clone());
        let name = step.backend.clone();
        let asking = tokio::spawn(async move {
            let answer = backend.run(step.operation, &key, step.bytes).await;
            let set = step.operation == DataOperation::Set;
            sent.write(&Sent {
                t_ms,
                callee: step.backend,
                method: if set { "SET" } else { "GET" }.into(),
                status: code_name(if answer.is_ok() { Code::Ok } else { Code::Unavailable }).into(),
                request_bytes: if set { u64::from(step.bytes) } else { 0 },
                request_messages: 1,
                response_messages: u64::from(answer.is_ok()),
                seconds: started.elapsed().as_secs_f64(),
                ..Sent::default()
            });
            answer
        });
        let answer = asking.await.unwrap_or_else(|broken| Err(broken.to_string()));
        answer.map_err(|reason| Status::unavailable(format!("{name}: {reason}")))
    }

    async fn call_others(&self, method: &MethodSpec) -> Result<(), Status> {
        let forgive =
            |call: &CallSpec, answer: Result<(), Status>| if call.optional { Ok(()) } else { answer };
        if !method.parallel {
            for call in &method.calls {
                forgive(call, self.peers.call(call).await)?;
            }
            return Ok(());
        }
        // All are waited for, so that no call is given up because another one failed.
        let calling = method.calls.iter().map(|call| async { forgive(call, self.peers.call(call).await) });
        futures_util::future::join_all(calling).await.into_iter().collect()
    }
}
