//! A service that the test itself serves: it keeps what it was sent, with headers and connections, and answers
//! as the test says. Unary calls only; other kinds are checked between two of the services under test.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::body::Body;
use tonic::server::Grpc;
use tonic::transport::Server;
use tonic::transport::server::TcpConnectInfo;
use tonic::{Code, Request, Response, Status};
use tower_service::Service;

use crate::bytes_as_they_are::message;
use playground::service::codec::Raw;

/// One call as it came.
#[derive(Clone, Debug)]
pub(crate) struct Came {
    pub(crate) path: String,
    pub(crate) authority: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) length: usize,
    /// The caller's port: one for each connection.
    pub(crate) connection: u16,
}

/// What a path answers.
#[derive(Clone, Copy, Default)]
pub(crate) struct Plan {
    /// Waits.
    pub(crate) delay: Duration,
    /// This many calls fail first.
    pub(crate) failures: usize,
    /// And with this.
    pub(crate) code: i32,
}

/// The server; it ends with the test's runtime.
#[derive(Clone)]
pub(crate) struct Peer(Arc<Shared>);

struct Shared {
    address: SocketAddr,
    plans: BTreeMap<String, Plan>,
    came: Mutex<Vec<Came>>,
    accepted: AtomicUsize,
}

impl Peer {
    /// Serves; a path without a plan answers at once with 7 bytes.
    pub(crate) async fn start(plans: &[(&str, Plan)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shared = Shared {
            address: listener.local_addr().unwrap(),
            plans: plans.iter().map(|&(path, plan)| (path.to_owned(), plan)).collect(),
            came: Mutex::default(),
            accepted: AtomicUsize::new(0),
        };
        let peer = Self(Arc::new(shared));
        let counting = Arc::clone(&peer.0);
        let incoming = TcpListenerStream::new(listener).map(move |accepted| {
            counting.accepted.fetch_add(1, Ordering::Relaxed);
            accepted
        });
        tokio::spawn(Server::builder().serve_with_incoming(peer.clone(), incoming));
        peer
    }

    pub(crate) fn address(&self) -> String {
        self.0.address.to_string()
    }

    /// The calls so far.
    pub(crate) fn came(&self) -> Vec<Came> {
        self.0.came.lock().unwrap().clone()
    }

    /// Connections accepted so far.
    pub(crate) fn accepted(&self) -> usize {
        self.0.accepted.load(Ordering::Relaxed)
    }
}

type Answering<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl Service<http::Request<Body>> for Peer {
    type Response = http::Response<Body>;
    type Error = std::convert::Infallible;
    type Future = Answering<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let text = |value: &http::HeaderValue| value.to_str().unwrap_or_default().to_owned();
        let connection = request.extensions().get::<TcpConnectInfo>().and_then(|info| info.remote_addr);
        let came = Came {
            path: request.uri().path().into(),
            authority: request.uri().authority().map(ToString::to_string).unwrap_or_default(),
            headers: request.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
            length: 0,
            connection: connection.map_or(0, |address| address.port()),
        };
        let answering = Unary { peer: self.clone(), came };
        Box::pin(async move { Ok(Grpc::new(Raw).unary(answering, request).await) })
    }
}

struct Unary {
    peer: Peer,
    came: Came,
}

impl Service<Request<Bytes>> for Unary {
    type Response = Response<Bytes>;
    type Error = Status;
    type Future = Answering<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let mut came = self.came.clone();
        came.length = request.get_ref().len();
        let plan = self.peer.0.plans.get(&came.path).copied().unwrap_or_default();
        let before = {
            let mut all = self.peer.0.came.lock().unwrap();
            let before = all.iter().filter(|other| other.path == came.path).count();
            all.push(came);
            before
        };
        Box::pin(async move {
            tokio::time::sleep(plan.delay).await;
            if before < plan.failures {
                return Err(Status::new(Code::from_i32(plan.code), "planned"));
            }
            Ok(Response::new(message(7)))
        })
    }
}
