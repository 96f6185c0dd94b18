//! Calls to other services, of all four kinds: a deadline for all attempts, a line of truth for each.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use http::uri::PathAndQuery;
use tonic::{Code, Request, Status};

use super::codec::Raw;
use super::connections::{self, Callee, Connection};
use crate::brief::{Behaviour, CallSpec, Peer};
use crate::status::code_name;
use crate::truth::{Lines, Sent, unix_ms};

/// Tells a server which attempt this is, from the second one on.
const ATTEMPTS_HEADER: &str = "grpc-previous-rpc-attempts";

/// The attempt of a call that was on no wire.
const NEVER_LEFT: i32 = -1;

/// Connections to all services that this process calls.
#[derive(Clone)]
pub struct Peers(Arc<Shared>);

struct Shared {
    callees: BTreeMap<String, Callee>,
    /// Request messages so far, by path.
    turns: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
    sent: Lines,
}

/// How an attempt ended.
enum Outcome {
    /// The answer came, or the call failed on its way.
    Ended(Result<(), Status>),
    /// It was on no wire; it is tried again only when a connection was missing.
    NeverLeft(Status, Missing),
}

#[derive(PartialEq, Eq)]
enum Missing {
    Circuit,
    Connection,
}

impl Peers {
    /// Connections are made at the first call and made again when they break.
    pub fn new(peers: &BTreeMap<String, Peer>, sent: Lines) -> anyhow::Result<Self> {
        let callees = connections::callees(peers)?;
        Ok(Self(Arc::new(Shared { callees, turns: Mutex::default(), sent })))
    }

    /// Where callees are and whether they may be called.
    pub fn become_like(&self, behaviour: &Behaviour) {
        connections::obey(&self.0.callees, behaviour);
    }

    /// An address of the first callee by name.
    pub(super) fn first_address(&self) -> Option<String> {
        self.0.callees.values().next()?.address()
    }

    /// One call, with its retries. A caller that gives up resets the stream, so that the server hears of it.
    pub async fn call(&self, call: &CallSpec) -> Result<(), Status> {
        let callee = self.0.callees.get(&call.peer);
        let callee = callee.ok_or_else(|| Status::internal(format!("no peer {}", call.peer)))?;
        if callee.is_absent() {
            return Ok(());
        }
        let deadline = (call.deadline_ms > 0)
            .then(|| Instant::now() + Duration::from_millis(u64::from(call.deadline_ms)));
        let attempts = call.retries.as_ref().map_or(1, |retries| retries.attempts.max(1));
        for attempt in 0_u32.. {
            let answer = match self.attempt(callee, call, attempt, deadline).await {
                Outcome::Ended(answer) => answer,
                Outcome::NeverLeft(status, Missing::Circuit) => return Err(named(call, &status)),
                Outcome::NeverLeft(status, Missing::Connection) => Err(status),
            };
            let Err(status) = answer else { return Ok(()) };
            let retries = call
                .retries
                .as_ref()
                .filter(|retries| attempt + 1 < attempts && retries.on.contains(&(status.code() as i32)));
            let pause = retries.map(|retries| Duration::from_millis(retries.backoff_ms) * (attempt + 1));
            let in_time =
                |pause: &Duration| deadline.is_none_or(|deadline| Instant::now() + *pause < deadline);
            let Some(pause) = pause.filter(in_time) else { return Err(named(call, &status)) };
            tokio::time::sleep(pause).await;
        }
        Ok(())
    }

    async fn attempt(
        &self,
        callee: &Callee,
        call: &CallSpec,
        attempt: u32,
        deadline: Option<Instant>,
    ) -> Outcome {
        let mut line = SentGuard::start(&self.0.sent, call, i32::try_from(attempt).unwrap_or(i32::MAX));
        if !callee.circuit().lets_through(Instant::now()) {
            line.never_left();
            return Outcome::NeverLeft(Status::unavailable("circuit open"), Missing::Circuit);
        }
        let connection = callee.connection().filter(|connection| connection.usable());
        let Some(connection) = connection else {
            line.never_left();
            callee.circuit().ended(Code::Unavailable, Instant::now());
            return Outcome::NeverLeft(Status::unavailable("no connection"), Missing::Connection);
        };
        let answer = match deadline {
            Some(deadline) => {
                let late = || Err(Status::deadline_exceeded(format!("{} ms passed", call.deadline_ms)));
                let calling = self.exchange(&connection, call, attempt, Some(deadline), &line.counts);
                match tokio::time::timeout_at(deadline.into(), calling).await {
                    // tonic's own timer says CANCELLED where other stacks say DEADLINE_EXCEEDED.
                    Ok(Err(status)) if status.code() == Code::Cancelled && Instant::now() >= deadline => {
                        late()
                    }
                    Ok(answer) => answer,
                    Err(_) => late(),
                }
            }
            None => self.exchange(&connection, call, attempt, None, &line.counts).await,
        };
        let code = answer.as_ref().err().map_or(Code::Ok, Status::code);
        callee.circuit().ended(code, Instant::now());
        let refused = answer.as_ref().err().is_some_and(found_no_connection);
        connection.works(!refused);
        if refused {
            line.never_left();
            return Outcome::NeverLeft(Status::unavailable("no connection"), Missing::Connection);
        }
        line.end(code);
        Outcome::Ended(answer)
    }

    /// Sends the messages and reads the answers to the end.
    async fn exchange(
        &self,
        connection: &Connection,
        call: &CallSpec,
        attempt: u32,
        deadline: Option<Instant>,
        counts: &Arc<Counts>,
    ) -> Result<(), Status> {
        let path = PathAndQuery::try_from(call.path.as_str());
        let path = path.map_err(|error| Status::internal(error.to_string()))?;
        let mut request = Request::new(self.messages(call, counts));
        if let Some(deadline) = deadline {
            request.set_timeout(deadline.saturating_duration_since(Instant::now()));
        }
        if attempt > 0 {
            request.metadata_mut().insert(ATTEMPTS_HEADER, attempt.into());
        }
        let mut grpc = tonic::client::Grpc::new(connection.channel.clone());
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let mut answers = grpc.streaming(request, path, Raw).await?.into_inner();
        while let Some(message) = answers.message().await? {
            counts.responses.add(message.len());
        }
        Ok(())
    }

    /// The call's request messages, one after the other, counted as they leave.
    fn messages(&self, call: &CallSpec, counts: &Arc<Counts>) -> impl Stream<Item = Bytes> + Send + 'static {
        let wanted = if call.kind.streams_requests() { call.request_messages } else { 1 };
        let turns = self.turns(&call.path);
        let gap = Duration::from_secs_f64(call.gap_ms.max(0.0) / 1e3);
        let (requests, counts) = (call.requests.clone(), Arc::clone(counts));
        stream::unfold(0, move |sent| {
            let (turns, counts) = (Arc::clone(&turns), Arc::clone(&counts));
            let message = (sent < wanted).then(|| in_turn(&requests, &turns));
            async move {
                if sent > 0 && !gap.is_zero() && message.is_some() {
                    tokio::time::sleep(gap).await;
                }
                let message = message?;
                counts.requests.add(message.len());
                Some((message, sent + 1))
            }
        })
    }

    fn turns(&self, path: &str) -> Arc<AtomicU64> {
        let mut turns = self.0.turns.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turns) = turns.get(path) {
            return Arc::clone(turns);
        }
        Arc::clone(turns.entry(path.into()).or_default())
    }
}

/// The next of these messages; an empty one where there are none.
pub(super) fn in_turn(messages: &[Bytes], turns: &AtomicU64) -> Bytes {
    let turn = turns.fetch_add(1, Ordering::Relaxed);
    let place = turn.checked_rem(messages.len() as u64).and_then(|place| usize::try_from(place).ok());
    place.and_then(|place| messages.get(place)).cloned().unwrap_or_default()
}

/// The failure as the caller's method answers it.
fn named(call: &CallSpec, status: &Status) -> Status {
    Status::new(status.code(), format!("{}{}: {}", call.peer, call.path, status.message()))
}

/// Whether the call failed because no connection could be made; tonic keeps only the connector's words.
fn found_no_connection(status: &Status) -> bool {
    status.code() == Code::Unavailable && status.message().contains("tcp connect error")
}

/// Messages one way.
#[derive(Default)]
struct Count {
    messages: AtomicU64,
    bytes: AtomicU64,
}

impl Count {
    fn add(&self, bytes: usize) {
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// What has gone over the wire in one attempt.
#[derive(Default)]
struct Counts {
    requests: Count,
    responses: Count,
}

/// A call on its way. Dropped without `end`, its caller gave it up.
struct SentGuard {
    lines: Lines,
    line: Sent,
    counts: Arc<Counts>,
    started: Instant,
}

impl SentGuard {
    fn start(lines: &Lines, call: &CallSpec, attempt: i32) -> Self {
        let line = Sent {
            t_ms: unix_ms(),
            callee: call.peer.clone(),
            method: call.path.clone(),
            status: code_name(Code::Cancelled).into(),
            attempt,
            ..Sent::default()
        };
        Self { lines: lines.clone(), line, counts: Arc::default(), started: Instant::now() }
    }

    fn end(mut self, code: Code) {
        self.line.status = code_name(code).into();
    }

    fn never_left(&mut self) {
        self.line.status = code_name(Code::Unavailable).into();
        self.line.attempt = NEVER_LEFT;
    }
}

impl Drop for SentGuard {
    fn drop(&mut self) {
        let Counts { requests, responses } = &*self.counts;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        self.line.request_messages = read(&requests.messages);
        self.line.request_bytes = read(&requests.bytes);
        self.line.response_messages = read(&responses.messages);
        self.line.response_bytes = read(&responses.bytes);
        self.line.seconds = self.started.elapsed().as_secs_f64();
        self.lines.write(&self.line);
    }
}
