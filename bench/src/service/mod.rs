//! The generic service in Rust: a spec comes in on the command line, calls on a port, behaviour on
//! standard input; truth lines go out. The other stacks do the same in `bench/stacks`.

mod answer;
mod app;
mod backends;
pub mod client;
pub mod codec;
mod connections;
mod misbehaviour;
mod postgres;
mod redis;
mod work;

use std::io::BufRead;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::brief::{Behaviour, ServiceSpec};
use crate::truth::{FLUSH_EVERY, Lines};
use answer::Served;
use app::App;
use client::Peers;
use misbehaviour::Misbehaviour;

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
    work::calibrate();
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
    let peers = Peers::new(&spec.peers, sent.clone())?;
    let backend = spec.backends.values().next().map(|backend| backend.address.clone());
    let callee = peers.clone();
    let leak_to = move || backend.clone().or_else(|| callee.first_address());
    tokio::spawn(misbehaviour::grow(Arc::clone(&misbehaviour), leak_to));
    tokio::spawn(flush(truth.clone(), sent.clone()));
    let app = App(Arc::new(Served::new(spec, peers.clone(), Arc::clone(&misbehaviour), truth, sent)));
    let incoming = TcpIncoming::bind(listen).with_context(|| format!("cannot listen on {listen}"))?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    std::thread::spawn(move || {
        // Connections to new addresses are made within the runtime.
        let _inside = runtime.enter();
        follow_commands(|behaviour| {
            peers.become_like(&behaviour);
            misbehaviour.become_like(behaviour);
        });
        let _gone = stop.send(());
    });
    println!("ready");
    let (ended, mut end) = tokio::sync::oneshot::channel::<()>();
    let server = Server::builder().http2_max_pending_accept_reset_streams(Some(RESETS));
    let server = server.serve_with_incoming_shutdown(app, incoming.with_nodelay(Some(true)), async move {
        tokio::select! {
            _ = stopped => {}
            _ = terminate.recv() => {}
        }
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

/// Makes what was written visible, again and again.
async fn flush(truth: Lines, sent: Lines) {
    loop {
        tokio::time::sleep(FLUSH_EVERY).await;
        truth.flush();
        sent.flush();
    }
}

/// Reads behaviour lines until the parent goes away.
fn follow_commands(obey: impl Fn(Behaviour)) {
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        match serde_json::from_str(&line) {
            Ok(behaviour) => obey(behaviour),
            Err(error) => eprintln!("a command was not understood: {error}: {line}"),
        }
    }
}
