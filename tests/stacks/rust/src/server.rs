//! The server's end. A conversation runs in its own task where the method streams responses, so that dropping
//! the response stream (a cancelled call) shows in the channel.

use crate::plan::{Plan, message};
use crate::raw::Raw;
use crate::truth::{Ledger, Truth};
use bytes::Bytes;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::body::Body;
use tonic::codec::CompressionEncoding;
use tonic::server::{Grpc, NamedService};
use tonic::{Code, Request, Response, Status, Streaming};
use tower::Service;

const MAX_MESSAGE: usize = 64 << 20;

/// Listens; lets go of connections after some time, if that is not zero.
pub async fn serve(address: SocketAddr, age: Duration, ledger: Ledger) {
    let listener = tokio::net::TcpListener::bind(address).await.expect("a free port");
    println!("ready");
    let mut builder = tonic::transport::Server::builder();
    if !age.is_zero() {
        builder = builder.max_connection_age(age);
    }
    builder
        .max_concurrent_streams(2_000)
        .http2_keepalive_interval(Some(Duration::from_millis(300)))
        .http2_max_header_list_size(1 << 20)
        .add_service(Peer { ledger })
        .serve_with_incoming(TcpListenerStream::new(listener))
        .await
        .expect("serving");
}

#[derive(Clone)]
struct Peer {
    ledger: Ledger,
}

impl NamedService for Peer {
    const NAME: &'static str = "matrix.Peer";
}

type Sender = mpsc::Sender<Result<Bytes, Status>>;
type Responses = Response<ReceiverStream<Result<Bytes, Status>>>;

impl Service<http::Request<Body>> for Peer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let ledger = self.ledger.clone();
        Box::pin(async move { Ok(answer(request, &ledger).await) })
    }
}

async fn answer(request: http::Request<Body>, ledger: &Ledger) -> http::Response<Body> {
    let line = request.headers().get("x-plan").and_then(|line| line.to_str().ok()).unwrap_or_default();
    let plan = Plan::parse(line);
    let path = request.uri().path().to_owned();
    let method = path.trim_start_matches("/matrix.Peer/");
    let mut grpc = Grpc::new(Raw)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE)
        .accept_compressed(CompressionEncoding::Gzip);
    if plan.number("gzip") == 1 {
        grpc = grpc.send_compressed(CompressionEncoding::Gzip);
    }
    if !matches!(method, "Unary" | "Retried" | "ClientStream" | "ServerStream" | "Bidi") {
        return Status::unimplemented("no such method").into_http();
    }
    let attempts = request.headers().get("grpc-previous-rpc-attempts");
    let attempt = attempts.and_then(|text| text.to_str().ok()?.parse().ok()).unwrap_or(0);
    let talk = Talk { truth: ledger.open(&plan, method, attempt), status: status(&plan, attempt), plan };
    match method {
        "Unary" | "Retried" => grpc.unary(tower::service_fn(|request| talk.clone().unary(request)), request).await,
        "ClientStream" => {
            grpc.client_streaming(tower::service_fn(|request| talk.clone().client_stream(request)), request).await
        }
        "ServerStream" => {
            grpc.server_streaming(tower::service_fn(|request| talk.clone().server_stream(request)), request).await
        }
        _ => grpc.streaming(tower::service_fn(|request| talk.clone().bidi(request)), request).await,
    }
}

/// What a call ends with: it is refused so often that its client tries again.
fn status(plan: &Plan, attempt: u64) -> i32 {
    if attempt < plan.number("retry") {
        return Code::Unavailable as i32;
    }
    i32::try_from(plan.number("status")).unwrap_or(2)
}

/// One call.
#[derive(Clone)]
struct Talk {
    plan: Plan,
    status: i32,
    truth: Truth,
}

impl Talk {
    fn early(&self) -> bool {
        self.plan.number("early") == 1
    }

    async fn pause(&self, key: &str) {
        if let Some(time) = self.plan.time(key) {
            tokio::time::sleep(time).await;
        }
    }

    /// The status asked for, as an error.
    fn failure(&self) -> Option<Status> {
        let mut status = Status::new(Code::from_i32(self.status), "asked");
        self.plan.metadata("tmeta", status.metadata_mut());
        (self.status != 0).then_some(status)
    }

    fn end(&self) {
        self.truth.end(self.status);
    }

    fn response<T>(&self, body: T) -> Response<T> {
        let mut response = Response::new(body);
        self.plan.metadata("rmeta", response.metadata_mut());
        response
    }

    async fn unary(self, request: Request<Bytes>) -> Result<Response<Bytes>, Status> {
        self.truth.request(request.get_ref().len());
        self.single().await
    }

    async fn client_stream(self, request: Request<Streaming<Bytes>>) -> Result<Response<Bytes>, Status> {
        let mut requests = request.into_inner();
        while !self.early() {
            let Some(request) = requests.message().await? else { break };
            self.truth.request(request.len());
        }
        self.single().await
    }

    async fn single(self) -> Result<Response<Bytes>, Status> {
        self.pause("delay").await;
        self.end();
        if let Some(status) = self.failure() {
            return Err(status);
        }
        let size = self.plan.sizes("res").first().copied().unwrap_or(0);
        self.truth.response(size);
        Ok(self.response(message(size)))
    }

    async fn server_stream(self, request: Request<Bytes>) -> Result<Responses, Status> {
        self.truth.request(request.get_ref().len());
        self.stream(None).await
    }

    async fn bidi(self, request: Request<Streaming<Bytes>>) -> Result<Responses, Status> {
        self.stream(Some(request.into_inner())).await
    }

    async fn stream(self, requests: Option<Streaming<Bytes>>) -> Result<Responses, Status> {
        self.pause("delay").await;
        let requests = requests.filter(|_| !self.early());
        if requests.is_none() && self.plan.sizes("res").is_empty() && self.plan.sizes("rmeta").is_empty() {
            if let Some(status) = self.failure() {
                self.end();
                return Err(status);
            }
        }
        let (sender, receiver) = mpsc::channel(1);
        let response = self.response(ReceiverStream::new(receiver));
        tokio::spawn(async move {
            let gone = sender.clone();
            tokio::select! {
                () = gone.closed() => {}
                _ = self.converse(requests, sender) => {}
            }
        });
        Ok(response)
    }

    /// `None` when the call was cancelled.
    async fn converse(&self, requests: Option<Streaming<Bytes>>, sender: Sender) -> Option<()> {
        let mut sizes = self.plan.sizes("res").into_iter().enumerate();
        if let Some(mut requests) = requests {
            while let Some(request) = requests.next().await {
                self.truth.request(request.ok()?.len());
                if let Some(next) = sizes.next() {
                    self.send(next, &sender).await?;
                }
            }
        }
        for next in sizes {
            self.send(next, &sender).await?;
        }
        self.end();
        if let Some(status) = self.failure() {
            sender.send(Err(status)).await.ok()?;
        }
        Some(())
    }

    async fn send(&self, (index, size): (usize, usize), sender: &Sender) -> Option<()> {
        if index > 0 {
            self.pause("gap").await;
        }
        sender.send(Ok(message(size))).await.ok()?;
        self.truth.response(size);
        Some(())
    }
}
