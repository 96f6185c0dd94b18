//! The client's end: the groups of a scenario one after the other, the calls of one at the same time.

use crate::plan::{Plan, message};
use crate::raw::Raw;
use crate::truth::{Ledger, Truth};
use bytes::Bytes;
use http::uri::PathAndQuery;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_stream::{Stream, StreamExt};
use tonic::client::Grpc;
use tonic::codec::CompressionEncoding;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

const MAX_MESSAGE: usize = 64 << 20;

pub async fn run(target: &str, authority: &str, plans: Vec<Plan>, ledger: Ledger) {
    let origin = format!("http://{authority}").parse().expect("an authority");
    let channel = Endpoint::from_shared(format!("http://{target}"))
        .expect("a target")
        .origin(origin)
        .http2_keep_alive_interval(Duration::from_millis(300))
        .http2_max_header_list_size(1 << 20)
        .connect()
        .await
        .expect("a server");
    for group in plans.chunk_by(|a, b| a.text("group") == b.text("group")) {
        if group.first().is_some_and(|plan| plan.number("await") == 1) {
            println!("waiting");
            std::io::stdin().read_line(&mut String::new()).expect("a line");
        }
        let mut running = JoinSet::new();
        for plan in group {
            running.spawn(call(channel.clone(), plan.clone(), ledger.clone()));
        }
        running.join_all().await;
    }
}

async fn call(channel: Channel, plan: Plan, ledger: Ledger) {
    let truth = ledger.open(&plan, plan.text("method"), 0);
    let conversation = converse(channel, &plan, &truth);
    let ended = match plan.time("cancel") {
        Some(after) => tokio::time::timeout(after, conversation).await,
        None => Ok(conversation.await),
    };
    // A call that the time-out dropped stays what it is from the start: cancelled.
    if let Ok(ended) = ended {
        truth.end(ended.err().map_or(0, |status| status.code() as i32));
    }
}

async fn converse(channel: Channel, plan: &Plan, truth: &Truth) -> Result<(), Status> {
    let mut grpc = Grpc::new(channel)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE)
        .accept_compressed(CompressionEncoding::Gzip);
    if plan.number("gzip") == 1 {
        grpc = grpc.send_compressed(CompressionEncoding::Gzip);
    }
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path: PathAndQuery = format!("/matrix.Peer/{}", plan.text("method")).parse().expect("a path");
    match plan.text("method") {
        "ClientStream" => {
            let requests = requests(plan.clone(), truth.clone());
            let response: Bytes = grpc.client_streaming(prepare(plan, requests), path, Raw).await?.into_inner();
            truth.response(response.len());
            Ok(())
        }
        "ServerStream" => {
            let request = prepare(plan, one(plan, truth));
            receive(grpc.server_streaming(request, path, Raw).await?.into_inner(), truth).await
        }
        "Bidi" => {
            let requests = requests(plan.clone(), truth.clone());
            receive(grpc.streaming(prepare(plan, requests), path, Raw).await?.into_inner(), truth).await
        }
        _ => {
            let response: Bytes = grpc.unary(prepare(plan, one(plan, truth)), path, Raw).await?.into_inner();
            truth.response(response.len());
            Ok(())
        }
    }
}

fn prepare<T>(plan: &Plan, body: T) -> Request<T> {
    let mut request = Request::new(body);
    plan.metadata("meta", request.metadata_mut());
    request.metadata_mut().insert("x-plan", plan.told().parse().expect("a metadata value"));
    if !plan.text("trace").is_empty() {
        request.metadata_mut().insert("traceparent", plan.text("trace").parse().expect("a metadata value"));
    }
    if let Some(deadline) = plan.time("deadline") {
        request.set_timeout(deadline);
    }
    request
}

fn one(plan: &Plan, truth: &Truth) -> Bytes {
    let size = plan.sizes("req").first().copied().unwrap_or(0);
    truth.request(size);
    message(size)
}

fn requests(plan: Plan, truth: Truth) -> impl Stream<Item = Bytes> + Send + 'static {
    let sizes = plan.sizes("req");
    let pause = plan.time("cgap");
    tokio_stream::iter(sizes.into_iter().enumerate()).then(move |(index, size)| {
        let truth = truth.clone();
        async move {
            if let Some(pause) = pause.filter(|_| index > 0) {
                tokio::time::sleep(pause).await;
            }
            truth.request(size);
            message(size)
        }
    })
}

async fn receive(mut responses: Streaming<Bytes>, truth: &Truth) -> Result<(), Status> {
    while let Some(response) = responses.message().await? {
        truth.response(response.len());
    }
    Ok(())
}
