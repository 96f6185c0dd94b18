//! The service as tonic sees it: every path of the spec, all four kinds, no generated code. What a call does before
//! its first answer is in `answer`; here messages are read and sent, and the served call is written down.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use tonic::body::Body;
use tonic::server::Grpc;
use tonic::{Code, Request, Response, Status, Streaming};
use tower_service::Service;

use super::answer::{Failure, Served};
use super::codec::Raw;
use crate::brief::{MethodKind, MethodSpec};
use crate::status::{code_name, parse_timeout};
use crate::truth::ServedGuard;

/// The service, shared by all connections.
#[derive(Clone)]
pub(super) struct App(pub(super) Arc<Served>);

type BoxFuture<T> = std::pin::Pin<Box<dyn Future<Output = T> + Send>>;

impl Service<http::Request<Body>> for App {
    type Response = http::Response<Body>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let served = Arc::clone(&self.0);
        Box::pin(async move {
            let path = request.uri().path().to_owned();
            if !served.methods.contains_key(&path) {
                return Ok(Status::unimplemented(format!("no method {path}")).into_http());
            }
            let deadline = request.headers().get("grpc-timeout").and_then(|value| value.to_str().ok());
            let deadline = deadline.and_then(parse_timeout);
            Ok(Grpc::new(Raw).streaming(Exchange { served, path, deadline }, request).await)
        })
    }
}

/// One call. On the wire a unary call is a stream of one message each way.
struct Exchange {
    served: Arc<Served>,
    path: String,
    deadline: Option<Duration>,
}

impl Service<Request<Streaming<Bytes>>> for Exchange {
    type Response = Response<BoxStream<'static, Result<Bytes, Status>>>;
    type Error = Status;
    type Future = BoxFuture<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let (served, path, deadline) = (Arc::clone(&self.served), self.path.clone(), self.deadline);
        Box::pin(async move { serve(served, path, deadline, request.into_inner()).await })
    }
}

async fn serve(
    served: Arc<Served>,
    path: String,
    deadline: Option<Duration>,
    mut requests: Streaming<Bytes>,
) -> Result<Response<BoxStream<'static, Result<Bytes, Status>>>, Status> {
    let method = served.methods.get(&path).ok_or_else(|| Status::unimplemented(path.clone()))?;
    let kind = method.spec.kind;
    // A handler of one message starts when the message is there, as generated code would.
    let first = if kind.streams_requests() { None } else { requests.message().await? };
    let mut guard = ServedGuard::start(&served.truth, &path, served.replica, deadline);
    if let Some(message) = &first {
        guard.request(message.len());
    }
    if kind == MethodKind::ClientStream {
        // A caller that is gone leaves a line that has not ended: the guard writes it when dropped.
        while let Some(message) = requests.message().await? {
            guard.request(message.len());
        }
    }
    let at_work = served.misbehaviour.at_work();
    let failure = match served.answer(&path, &method.spec).await {
        Ok(()) => None,
        Err(Failure { status, cut: true }) if kind.streams_responses() => Some(status),
        Err(Failure { status, .. }) => {
            guard.end(code_name(status.code()));
            return Err(status);
        }
    };
    let wanted = messages(&method.spec);
    let answers = Answers {
        left: if failure.is_some() { wanted / 2 } else { wanted },
        sent: 0,
        gap: Duration::from_secs_f64(method.spec.gap_ms.max(0.0) / 1e3),
        requests: (kind == MethodKind::BidiStream && failure.is_none()).then_some(requests),
        failure,
        guard: Some(guard),
        _at_work: at_work,
        served: Arc::clone(&served),
        path,
    };
    Ok(Response::new(Box::pin(stream::unfold(answers, Answers::next))))
}

/// How many messages the answer has.
const fn messages(method: &MethodSpec) -> u32 {
    if method.kind.streams_responses() { method.response_messages } else { 1 }
}

/// The answers of one call that are still to come.
struct Answers {
    left: u32,
    sent: u32,
    gap: Duration,
    /// A bidi stream's requests, each of which is answered.
    requests: Option<Streaming<Bytes>>,
    failure: Option<Status>,
    guard: Option<ServedGuard>,
    _at_work: super::misbehaviour::AtWork,
    served: Arc<Served>,
    path: String,
}

impl Answers {
    async fn next(mut self) -> Option<(Result<Bytes, Status>, Self)> {
        self.guard.as_ref()?;
        if self.wait_for_request().await.is_err() {
            // The caller is gone; the guard says so.
            return None;
        }
        if self.left == 0 {
            let guard = self.guard.take()?;
            let failure = self.failure.take();
            guard.end(code_name(failure.as_ref().map_or(Code::Ok, Status::code)));
            return failure.map(|status| (Err(status), self));
        }
        if self.sent > 0 && !self.gap.is_zero() {
            tokio::time::sleep(self.gap).await;
        }
        let message = self.served.next_message(&self.path);
        if let Some(guard) = &mut self.guard {
            guard.response(message.len());
            // A unary answer is whole with its message: a caller may be gone before it asks for the end.
            if self.left == 1 && self.requests.is_none() && self.failure.is_none() {
                self.guard.take()?.end(code_name(Code::Ok));
            }
        }
        self.left -= 1;
        self.sent += 1;
        Some((Ok(message), self))
    }

    /// A bidi stream waits for a request before each answer; after the last answer it reads the rest.
    async fn wait_for_request(&mut self) -> Result<(), Status> {
        while let Some(requests) = &mut self.requests {
            match requests.message().await? {
                Some(message) => {
                    if let Some(guard) = &mut self.guard {
                        guard.request(message.len());
                    }
                    if self.left > 0 {
                        return Ok(());
                    }
                }
                None => self.requests = None,
            }
        }
        Ok(())
    }
}
