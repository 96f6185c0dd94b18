//! A client and a server of the `h2` crate talk through a pipe whose bytes are tapped at the client's end; what
//! they said is kept beside the bytes, so that a test can ask the decoder the same.
#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(let_underscore_drop, reason = "what a peer says no more of is of no interest")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use bytes::{BufMut, Bytes, BytesMut};
use faultline_core::event::{Closed, Direction, Event, Opened, Piece, Role, Segment};
use faultline_core::units::{CgroupId, ConnectionId, Timestamp};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

pub(crate) const CONNECTION: ConnectionId = ConnectionId(7);

/// How a call of a plan ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Trailers(u8),
    TrailersOnly(u8),
    ServerReset(u32),
    ClientReset(u32),
}

/// One call as planned: what both ends will say.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub method: usize,
    pub requests: Vec<usize>,
    pub responses: Vec<usize>,
    pub end: End,
    pub timeout: Option<u32>,
}

pub(crate) const METHODS: [&str; 4] =
    ["shop.Cart/Add", "shop.Cart/Get", "shop.catalog.v1.Catalog/List", "grpc.health.v1.Health/Check"];

pub(crate) fn end() -> impl Strategy<Value = End> {
    prop_oneof![
        6 => prop_oneof![4 => Just(0u8), 1 => 0u8..=16].prop_map(End::Trailers),
        2 => (1u8..=16).prop_map(End::TrailersOnly),
        1 => prop_oneof![Just(2u32), Just(7), Just(8), Just(11)].prop_map(End::ServerReset),
        1 => Just(End::ClientReset(8)),
    ]
}

pub(crate) fn planned() -> impl Strategy<Value = Planned> {
    // Near its deadline a reset tells no status; `frames.rs` has those.
    let timeouts = 1_000u32..99_999;
    let sizes = || prop::collection::vec(prop_oneof![4 => 0usize..200, 1 => 200usize..40_000], 0..4);
    (0..METHODS.len(), sizes(), sizes(), end(), prop::option::of(timeouts)).prop_map(
        |(method, requests, mut responses, end, timeout)| {
            // A unary method that fails sends no message. One that streams may send one and fail then, which
            // the wire does not tell from a unary success if its status cannot be read: call.rs infers OK.
            if requests.len() == 1 && responses.len() == 1 && !matches!(end, End::Trailers(0)) {
                responses.push(3);
            }
            Planned { method, requests, responses, end, timeout }
        },
    )
}

/// Bytes that passed the client's end, in order.
pub(crate) type Taps = Vec<(Direction, Bytes)>;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Taps>>);

struct Tapped {
    pipe: DuplexStream,
    log: Log,
}

impl AsyncRead for Tapped {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.pipe).poll_read(cx, buf);
        let new = &buf.filled()[before..];
        if !new.is_empty() {
            self.log.0.lock().unwrap().push((Direction::Received, Bytes::copy_from_slice(new)));
        }
        polled
    }
}

impl AsyncWrite for Tapped {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let polled = Pin::new(&mut self.pipe).poll_write(cx, buf);
        if let Poll::Ready(Ok(count)) = polled {
            self.log.0.lock().unwrap().push((Direction::Sent, Bytes::copy_from_slice(&buf[..count])));
        }
        polled
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}

fn message(size: usize) -> Bytes {
    let mut bytes = BytesMut::with_capacity(size + 5);
    bytes.put_u8(0);
    bytes.put_u32(size as u32);
    bytes.extend((0..size).map(|i| (i * 7 + size) as u8));
    bytes.freeze()
}

/// Holds the conversation; gives the bytes, and for each stream id the plan of its call. Calls run one after
/// another, or all at once.
pub(crate) fn hold(plan: &[Planned], at_once: bool) -> (Taps, BTreeMap<u32, Planned>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let (near, far) = tokio::io::duplex(1 << 16);
        let log = Log::default();
        let near = Tapped { pipe: near, log: log.clone() };
        let server = tokio::spawn(serve(far, plan.to_vec()));
        let (client, connection) = h2::client::Builder::new()
            .initial_window_size(1 << 24)
            .initial_connection_window_size(1 << 28)
            .handshake::<_, Bytes>(near)
            .await
            .unwrap();
        let connection = tokio::spawn(connection);
        let mut streams = BTreeMap::new();
        let mut running = Vec::new();
        for (index, planned) in plan.iter().enumerate() {
            let mut ready = client.clone().ready().await.unwrap();
            let mut request = http::Request::builder()
                .method("POST")
                .uri(format!("http://cart.shop:8080/{}", METHODS[planned.method]))
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .header("x-plan", index.to_string());
            if let Some(timeout) = planned.timeout {
                request = request.header("grpc-timeout", format!("{timeout}m"));
            }
            let (response, body) = ready.send_request(request.body(()).unwrap(), false).unwrap();
            streams.insert(body.stream_id().as_u32(), planned.clone());
            let call = tokio::spawn(call(planned.clone(), response, body));
            if at_once {
                running.push(call);
            } else {
                call.await.unwrap();
            }
        }
        for call in running {
            call.await.unwrap();
        }
        drop(client);
        let _ = connection.await.unwrap();
        server.await.unwrap();
        let taps = log.0.lock().unwrap().clone();
        (taps, streams)
    })
}

async fn call(planned: Planned, response: h2::client::ResponseFuture, mut body: h2::SendStream<Bytes>) {
    for size in &planned.requests {
        body.send_data(message(*size), false).unwrap();
    }
    if let End::ClientReset(code) = planned.end {
        tokio::task::yield_now().await;
        body.send_reset(code.into());
        return;
    }
    body.send_data(Bytes::new(), true).unwrap();
    if let Ok(response) = response.await {
        let mut body = response.into_body();
        while let Some(Ok(chunk)) = body.data().await {
            let _ = body.flow_control().release_capacity(chunk.len());
        }
        let _ = body.trailers().await;
    }
}

async fn serve(pipe: DuplexStream, plan: Vec<Planned>) {
    let mut connection = h2::server::Builder::new()
        .initial_window_size(1 << 24)
        .initial_connection_window_size(1 << 28)
        .handshake::<_, Bytes>(pipe)
        .await
        .unwrap();
    while let Some(accepted) = connection.accept().await {
        let Ok((request, respond)) = accepted else { return };
        let index: usize = request.headers()["x-plan"].to_str().unwrap().parse().unwrap();
        tokio::spawn(answer(plan[index].clone(), request.into_body(), respond));
    }
}

async fn answer(planned: Planned, mut request: h2::RecvStream, mut respond: h2::server::SendResponse<Bytes>) {
    while let Some(chunk) = request.data().await {
        let Ok(chunk) = chunk else { return };
        let _ = request.flow_control().release_capacity(chunk.len());
    }
    let head = || http::Response::builder().status(200).header("content-type", "application/grpc");
    match planned.end {
        End::Trailers(status) => {
            let mut body = respond.send_response(head().body(()).unwrap(), false).unwrap();
            for size in &planned.responses {
                body.send_data(message(*size), false).unwrap();
            }
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", status.to_string().parse().unwrap());
            trailers.insert("grpc-message", "said so".parse().unwrap());
            body.send_trailers(trailers).unwrap();
        }
        End::TrailersOnly(status) => {
            let head = head().header("grpc-status", status.to_string());
            respond.send_response(head.body(()).unwrap(), true).unwrap();
        }
        End::ServerReset(code) => {
            let mut body = respond.send_response(head().body(()).unwrap(), false).unwrap();
            for size in &planned.responses {
                body.send_data(message(*size), false).unwrap();
            }
            for _ in 0..4 {
                tokio::task::yield_now().await;
            }
            body.send_reset(code.into());
        }
        End::ClientReset(_) => {}
    }
}

/// The connection's first event.
pub(crate) fn opened(role: Role) -> Event {
    Event::Opened(Opened {
        at: Timestamp(1),
        connection: CONNECTION,
        cgroup: CgroupId(3),
        role,
        local: "10.0.0.1:40000".parse().unwrap(),
        remote: "10.0.0.2:8080".parse().unwrap(),
        connect_time: None,
    })
}

/// The connection's last event.
pub(crate) fn closed(at: u64) -> Event {
    Event::Closed(Closed { at: Timestamp(at), connection: CONNECTION })
}

/// A segment seen whole.
pub(crate) fn segment(at: u64, direction: Direction, sequence: u32, bytes: Bytes) -> Segment {
    Segment {
        at: Timestamp(at),
        connection: CONNECTION,
        direction,
        sequence,
        length: bytes.len() as u32,
        pieces: vec![Piece { offset: 0, bytes }],
    }
}

/// First sequence numbers: one wraps soon.
pub(crate) const SEQUENCE: [u32; 2] = [u32::MAX - 300, 5];

pub(crate) fn place(direction: Direction) -> usize {
    match direction {
        Direction::Sent => 0,
        Direction::Received => 1,
    }
}

/// Cuts the taps into segments, one microsecond apart; lengths come from `cuts`, which is used round and round.
pub(crate) fn cut(taps: &Taps, cuts: &[usize]) -> Vec<Segment> {
    let mut sequence = SEQUENCE;
    // Long conversations get longer segments, so that a test ends.
    let least = taps.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() / 3000 + 1;
    let mut cuts = cuts.iter().copied().cycle();
    let mut segments = Vec::new();
    for (direction, bytes) in taps {
        let mut rest = bytes.clone();
        while !rest.is_empty() {
            let front = rest.split_to(cuts.next().unwrap_or(usize::MAX).max(least).min(rest.len()));
            let next = &mut sequence[place(*direction)];
            let at = 1_000_000 + segments.len() as u64 * 1000;
            segments.push(segment(at, *direction, *next, front.clone()));
            *next = next.wrapping_add(front.len() as u32);
        }
    }
    segments
}
