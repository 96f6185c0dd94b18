//! The generic service in Rust: a spec comes in on the command line, calls on a port, behaviour on
//! standard input; truth lines go out. The other stacks do the same in `bench/stacks`.

pub mod client;
mod redis;
mod work;

use std::collections::BTreeMap;
use std::io::BufRead;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use prost::Message;
use tonic::body::Body;
use tonic::server::Grpc;
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status};
use tonic_prost::ProstCodec;
use tower_service::Service;

use crate::brief::{CallSpec, MethodSpec, RedisSpec, ServiceSpec};
use crate::random::Random;
use crate::topology::RedisOperation;
use crate::truth::{FLUSH_EVERY, Lines, Sent, ServedGuard, unix_ms};
use client::Peers;
use redis::Redis;
use work::Misbehaviour;

/// The one message of the playground: `message Parcel { bytes payload = 1; }`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Parcel {
    /// As many bytes as the topology says.
    #[prost(bytes = "vec", tag = "1")]
    pub payload: Vec<u8>,
}

/// A service that stood still finds this many calls that were given up before it closes the connection; h2's
/// own limit of 20 makes callers connect and send again, which the truth would not see.
const RESETS: usize = 100_000;

/// A server that stops waits this long for calls that still run.
const DRAIN: Duration = Duration::from_secs(1);

/// Serves until standard input ends or a signal comes.
pub fn serve(spec: &Path) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(spec).with_context(|| format!("{} cannot be read", spec.display()))?;
    let spec: ServiceSpec =
        serde_json::from_str(&text).with_context(|| format!("{} is no service spec", spec.display()))?;
    let truth = Lines::append(&spec.truth)?;
    let sent = Lines::append(&spec.sent)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let served = runtime.block_on(run(spec, truth.clone(), sent.clone()));
    // Dropping the runtime drops the calls that still run, and so writes their lines.
    drop(runtime);
    truth.flush();
    sent.flush();
    served
}

async fn run(spec: ServiceSpec, truth: Lines, sent: Lines) -> anyhow::Result<()> {
    let listen: SocketAddr = spec.listen.parse().with_context(|| format!("{} is no address", spec.listen))?;
    let misbehaviour = Arc::new(Misbehaviour::default());
    let mut redis = BTreeMap::new();
    for (instance, address) in &spec.redis {
        redis.insert(instance.clone(), Redis::connect(address.clone()));
    }
    let app = App(Arc::new(Shared {
        peers: Peers::new(&spec.peers, sent.clone())?,
        redis,
        methods: spec.methods,
        misbehaviour: Arc::clone(&misbehaviour),
        random: Mutex::new(Random::seeded(spec.seed)),
        truth: truth.clone(),
        sent: sent.clone(),
    }));
    work::calibrate();
    tokio::spawn(work::grow(Arc::clone(&misbehaviour)));
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(FLUSH_EVERY).await;
            truth.flush();
            sent.flush();
        }
    });
    let (stop, stopped) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || follow_commands(&misbehaviour, stop));
    println!("ready");
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let signal = async move {
        tokio::select! {
            _ = stopped => {}
            _ = terminate.recv() => {}
        }
    };
    let (ended, mut end) = tokio::sync::oneshot::channel::<()>();
    let server = Server::builder().http2_max_pending_accept_reset_streams(Some(RESETS));
    let server = server.serve_with_shutdown(listen, app, async move {
        signal.await;
        let _gone = ended.send(());
    });
    // Callers keep their connections for ever, so a graceful stop ends after the drain.
    let drained = async {
        drop((&mut end).await);
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        served = server => served.with_context(|| format!("cannot serve on {listen}")),
        () = drained => Ok(()),
    }
}

/// Reads behaviour lines until the parent goes away.
fn follow_commands(misbehaviour: &Misbehaviour, stop: tokio::sync::oneshot::Sender<()>) {
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        match serde_json::from_str(&line) {
            Ok(behaviour) => misbehaviour.become_like(behaviour),
            Err(error) => eprintln!("a command was not understood: {error}: {line}"),
        }
    }
    let _gone = stop.send(());
}

/// What all calls of a service share.
struct Shared {
    methods: BTreeMap<String, MethodSpec>,
    peers: Peers,
    redis: BTreeMap<String, Redis>,
    misbehaviour: Arc<Misbehaviour>,
    random: Mutex<Random>,
    truth: Lines,
    sent: Lines,
}

impl Shared {
    fn chance(&self) -> f64 {
        self.random.lock().unwrap_or_else(PoisonError::into_inner).unit()
    }

    /// One call: misbehave as told, work, use Redis, call others, answer.
    async fn answer(&self, method: &MethodSpec) -> Result<Parcel, Status> {
        let behaviour = self.misbehaviour.now();
        if behaviour.latency_ms > 0.0 {
            tokio::time::sleep(Duration::from_secs_f64(behaviour.latency_ms / 1e3)).await;
        }
        if behaviour.error_fraction > 0.0 && self.chance() < behaviour.error_fraction {
            return Err(Status::new(Code::from_i32(behaviour.error_code), "injected"));
        }
        if method.sleep_ms > 0.0 {
            let jitter = 0.7 + 0.6 * self.chance();
            tokio::time::sleep(Duration::from_secs_f64(method.sleep_ms * jitter / 1e3)).await;
        }
        self.misbehaviour.walk(behaviour.leak_walks);
        work::burn(method.cpu_us);
        work::allocate(method.allocate_bytes);
        for step in &method.redis {
            self.ask_redis(step).await?;
        }
        self.call_others(method).await?;
        Ok(Parcel { payload: vec![b'x'; method.response_bytes as usize] })
    }

    /// One Redis command, with its line of truth.
    async fn ask_redis(&self, step: &RedisSpec) -> Result<(), Status> {
        let Some(redis) = self.redis.get(&step.instance) else { return Ok(()) };
        let key = (self.chance() * f64::from(step.keys)).floor();
        let (t_ms, started) = (unix_ms(), Instant::now());
        let answer = redis.run(step.operation, &format!("k{key}"), step.bytes).await;
        let set = step.operation == RedisOperation::Set;
        self.sent.write(&Sent {
            t_ms,
            callee: step.instance.clone(),
            method: if set { "SET" } else { "GET" }.into(),
            status: client::code_name(if answer.is_ok() { Code::Ok } else { Code::Unavailable }).into(),
            request_bytes: if set { u64::from(step.bytes) } else { 0 },
            response_bytes: 0,
            seconds: started.elapsed().as_secs_f64(),
        });
        answer.map_err(Status::unavailable)
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
        let mut running = tokio::task::JoinSet::new();
        for call in method.calls.iter().cloned() {
            let peers = self.peers.clone();
            running.spawn(async move {
                let answer = peers.call(&call).await;
                (call, answer)
            });
        }
        while let Some(joined) = running.join_next().await {
            let (call, answer) = joined.map_err(|error| Status::internal(error.to_string()))?;
            forgive(&call, answer)?;
        }
        Ok(())
    }
}

/// The service as tonic sees it: every path of the spec, no generated code.
#[derive(Clone)]
struct App(Arc<Shared>);

impl Service<http::Request<Body>> for App {
    type Response = http::Response<Body>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let shared = Arc::clone(&self.0);
        Box::pin(async move {
            let path = request.uri().path().to_owned();
            if !shared.methods.contains_key(&path) {
                return Ok(Status::unimplemented(format!("no method {path}")).into_http());
            }
            let deadline = request.headers().get("grpc-timeout").and_then(|value| value.to_str().ok());
            let deadline = deadline.and_then(client::parse_timeout);
            let unary = Unary { shared, path, deadline };
            Ok(Grpc::new(ProstCodec::<Parcel, Parcel>::default()).unary(unary, request).await)
        })
    }
}

/// One request on its way to the handler.
struct Unary {
    shared: Arc<Shared>,
    path: String,
    deadline: Option<Duration>,
}

type BoxFuture<T> = std::pin::Pin<Box<dyn Future<Output = T> + Send>>;

impl Service<Request<Parcel>> for Unary {
    type Response = Response<Parcel>;
    type Error = Status;
    type Future = BoxFuture<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Parcel>) -> Self::Future {
        let shared = Arc::clone(&self.shared);
        let path = self.path.clone();
        let deadline = self.deadline;
        Box::pin(async move {
            let bytes = request.get_ref().encoded_len() as u64;
            let guard = ServedGuard::start(&shared.truth, &path, bytes, deadline);
            let Some(method) = shared.methods.get(&path) else {
                return Err(Status::unimplemented(path));
            };
            let answer = shared.answer(method).await;
            match &answer {
                Ok(parcel) => guard.end("OK", parcel.encoded_len() as u64),
                Err(status) => guard.end(client::code_name(status.code()), 0),
            }
            answer.map(Response::new)
        })
    }
}
