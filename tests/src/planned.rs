//! gRPC calls whose requests and answers are planned: plans flow in, real calls over one connection of the h2
//! crate flow out, each with the stream that it had. What the application said is the truth that the agent's
//! calls are held against.

use crate::traffic::message;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use std::net::SocketAddr;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Methods that plans choose from.
pub const METHODS: [&str; 6] = [
    "shop.Cart/Add",
    "shop.Cart/Get",
    "shop.Checkout/PlaceOrder",
    "shop.Catalogue/ListProducts",
    "shop.Payment/Charge",
    "shop.Shipping/Quote",
];

/// Flow-control windows that no planned call fills, so that one call never waits for another.
const WINDOW: u32 = 1 << 24;

/// What one call says and is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// One of [`METHODS`].
    pub method: &'static str,
    /// The gRPC status.
    pub status: u8,
    /// The lengths of the client's messages.
    pub requests: Vec<usize>,
    /// The lengths of the server's; with none of them the answer is headers alone.
    pub responses: Vec<usize>,
}

/// A call that was made and answered as planned.
#[derive(Clone, Debug)]
pub struct Made {
    /// The client's end of its connection.
    pub client: SocketAddr,
    /// Its stream there.
    pub stream: u32,
    /// What was said.
    pub plan: Plan,
}

/// Plans of all shapes, the same for the same seed: mostly small unary calls, some streams, some large messages.
pub struct Plans(pub u64);

impl Plans {
    fn below(&mut self, bound: usize) -> usize {
        // Knuth's multiplier and increment (MMIX); the upper bits are the random ones.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }

    fn messages(&mut self) -> Vec<usize> {
        let count = if self.below(8) == 0 { 2 + self.below(10) } else { 1 };
        (0..count)
            .map(|_| match self.below(40) {
                0 => 20_000 + self.below(60_000),
                1..=4 => 1_000 + self.below(9_000),
                _ => self.below(400),
            })
            .collect()
    }
}

impl Iterator for Plans {
    type Item = Plan;

    fn next(&mut self) -> Option<Plan> {
        let status = if self.below(10) == 0 { u8::try_from(1 + self.below(16)).unwrap() } else { 0 };
        let method = METHODS[self.below(METHODS.len())];
        let requests = self.messages();
        let responses = if status != 0 && self.below(2) == 0 { Vec::new() } else { self.messages() };
        Some(Plan { method, status, requests, responses })
    }
}

/// Serves planned calls on a listener until it is dropped.
#[must_use]
pub fn serve(listener: TcpListener) -> JoinHandle<()> {
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(connection(socket));
        }
    })
}

async fn connection(socket: TcpStream) {
    let _set = socket.set_nodelay(true);
    let builder = h2::server::Builder::new()
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_concurrent_streams(1_000)
        .handshake::<_, Bytes>(socket)
        .await;
    let Ok(mut connection) = builder else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(answer(request, respond));
    }
}

async fn answer(request: Request<h2::RecvStream>, mut respond: h2::server::SendResponse<Bytes>) {
    let (head, mut body) = request.into_parts();
    while let Some(Ok(chunk)) = body.data().await {
        let _released = body.flow_control().release_capacity(chunk.len());
    }
    let asked = head.headers.get("x-answer").unwrap().to_str().unwrap();
    let (status, lengths) = asked.split_once(':').unwrap();
    let response = Response::builder().header("content-type", "application/grpc");
    if lengths.is_empty() {
        let _sent = respond.send_response(response.header("grpc-status", status).body(()).unwrap(), true);
        return;
    }
    let Ok(mut stream) = respond.send_response(response.body(()).unwrap(), false) else { return };
    for length in lengths.split(',') {
        let _sent = stream.send_data(message(length.parse().unwrap()), false);
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", status.parse().unwrap());
    let _sent = stream.send_trailers(trailers);
}

/// Makes the calls on one connection, `concurrent` of them at a time.
///
/// # Errors
/// When the connection breaks, or an answer is not as planned.
pub async fn make(server: SocketAddr, plans: Vec<Plan>, concurrent: usize) -> Result<Vec<Made>, String> {
    let socket = TcpStream::connect(server).await.map_err(|error| format!("connect: {error}"))?;
    let _set = socket.set_nodelay(true);
    let address = socket.local_addr().unwrap();
    let (client, connection) = h2::client::Builder::new()
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .handshake(socket)
        .await
        .map_err(|error| format!("handshake: {error}"))?;
    let driver = tokio::spawn(connection);
    let (permits, mut free) = mpsc::channel(concurrent);
    for _ in 0..concurrent {
        permits.send(()).await.unwrap();
    }
    let mut calls = Vec::new();
    for plan in plans {
        let _permit = free.recv().await;
        let (client, permits) = (client.clone(), permits.clone());
        calls.push(tokio::spawn(async move {
            let made = one(client, address, plan).await;
            let _nobody = permits.send(()).await;
            made
        }));
    }
    let mut made = Vec::new();
    for call in calls {
        made.push(call.await.unwrap().map_err(|error| error.to_string())?);
    }
    drop(client);
    driver.await.unwrap().map_err(|error| format!("the connection's end: {error}"))?;
    Ok(made)
}

async fn one(
    client: h2::client::SendRequest<Bytes>,
    address: SocketAddr,
    plan: Plan,
) -> Result<Made, h2::Error> {
    let lengths: Vec<String> = plan.responses.iter().map(usize::to_string).collect();
    let request = Request::post(format!("http://shop/{}", plan.method))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("x-answer", format!("{}:{}", plan.status, lengths.join(",")))
        .body(())
        .unwrap();
    let mut client = client.ready().await?;
    let (response, mut body) = client.send_request(request, false)?;
    let stream = response.stream_id().as_u32();
    for (place, length) in plan.requests.iter().enumerate() {
        body.send_data(message(*length), place + 1 == plan.requests.len())?;
    }
    let (head, mut answer) = response.await?.into_parts();
    let mut received = 0;
    while let Some(chunk) = answer.data().await {
        let chunk = chunk?;
        received += chunk.len();
        answer.flow_control().release_capacity(chunk.len())?;
    }
    let trailers = answer.trailers().await?.unwrap_or(head.headers);
    assert_eq!(received, plan.responses.iter().map(|length| length + 5).sum::<usize>(), "{plan:?}");
    assert_eq!(trailers["grpc-status"], plan.status.to_string(), "{plan:?}");
    Ok(Made { client: address, stream, plan })
}
