//! Cheap traffic for measuring what watching it costs: one process serves, one drives, each on one thread.
//! Orders come in as JSON lines on standard input, a [`Done`] goes out for each. The cheaper these programs are
//! themselves, the larger a share of their CPU the agent's part is, so they do nothing but talk.

use std::io::BufRead;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use http::uri::PathAndQuery;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower_service::Service;

use crate::load::percentile;
use crate::messages::Parcel;

/// Bytes that a bulk transfer writes at once.
const BULK_WRITE: usize = 64 << 10;
/// Bulk transfers count one request for so many bytes.
const BULK_REQUEST: usize = 1 << 20;
/// The body of an answer over HTTP/1.
const ANSWER_BYTES: usize = 100;
/// Windows and frames of a server that is used to 100 KB messages.
const WINDOW: u32 = 1 << 20;

/// What is talked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Talk {
    /// Unary calls that echo their message, as many at once as `streams`, on one connection.
    Grpc {
        /// Calls at once.
        streams: usize,
        /// Bytes of the message.
        bytes: usize,
    },
    /// Requests and answers of HTTP/1 on a connection that stays.
    Http1,
    /// Bytes one way, as many as TCP takes.
    Bulk,
}

/// An order to the driving process.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Order {
    /// What to talk.
    pub talk: Talk,
    /// For how long.
    pub millis: u64,
    /// Calls a second on a schedule that does not wait; without it the next call follows the answer.
    pub rate: Option<u32>,
}

/// What an order came to.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Done {
    /// Requests that were answered.
    pub requests: u64,
    /// Median of their times, microseconds.
    pub p50_us: f64,
    /// 99th percentile of their times, microseconds.
    pub p99_us: f64,
}

/// The ports of the serving process.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Ports {
    grpc: u16,
    http1: u16,
    bulk: u16,
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// Serves all kinds until standard input ends; the ports go out as one line.
pub fn serve() -> anyhow::Result<()> {
    runtime()?.block_on(async {
        let (http1, bulk) = (listen().await?, listen().await?);
        let grpc = listen().await?.local_addr()?;
        let ports =
            Ports { grpc: grpc.port(), http1: http1.local_addr()?.port(), bulk: bulk.local_addr()?.port() };
        tokio::spawn(each(http1, answer_http1));
        tokio::spawn(each(bulk, swallow));
        let (gone, end) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            for _line in std::io::stdin().lock().lines() {}
            let _nobody_waits = gone.send(());
        });
        let server = Server::builder()
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .serve(grpc, Echo);
        println!("{}", serde_json::to_string(&ports)?);
        tokio::select! {
            served = server => served.context("cannot serve"),
            _ = end => Ok(()),
        }
    })
}

async fn listen() -> anyhow::Result<TcpListener> {
    Ok(TcpListener::bind("127.0.0.1:0").await?)
}

async fn each<F>(listener: TcpListener, serve: fn(TcpStream) -> F)
where
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    while let Ok((socket, _)) = listener.accept().await {
        tokio::spawn(serve(socket));
    }
}

async fn answer_http1(mut socket: TcpStream) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let mut question = [0; 4096];
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {ANSWER_BYTES}\r\n\r\n");
    let answer = [head.as_bytes(), &[b'x'; ANSWER_BYTES]].concat();
    while socket.read(&mut question).await? > 0 {
        socket.write_all(&answer).await?;
    }
    Ok(())
}

async fn swallow(mut socket: TcpStream) -> std::io::Result<()> {
    let mut bytes = vec![0; BULK_WRITE * 4];
    while socket.read(&mut bytes).await? > 0 {}
    Ok(())
}

/// Every path echoes.
#[derive(Clone, Copy)]
struct Echo;

type BoxFuture<T> = std::pin::Pin<Box<dyn Future<Output = T> + Send>>;

impl Service<http::Request<tonic::body::Body>> for Echo {
    type Response = http::Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let codec = ProstCodec::<Parcel, Parcel>::default();
        Box::pin(async move { Ok(tonic::server::Grpc::new(codec).unary(Echo, request).await) })
    }
}

impl Service<Request<Parcel>> for Echo {
    type Response = Response<Parcel>;
    type Error = Status;
    type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Parcel>) -> Self::Future {
        std::future::ready(Ok(Response::new(request.into_inner())))
    }
}

/// Carries out orders until standard input ends.
pub fn drive(ports: &str) -> anyhow::Result<()> {
    let ports: Ports = serde_json::from_str(ports).context("the server's ports")?;
    let (order, mut orders) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if order.blocking_send(line).is_err() {
                break;
            }
        }
    });
    runtime()?.block_on(async {
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let endpoint = Endpoint::from_shared(format!("http://{}", address(ports.grpc)))?
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW);
        let mut driver = Driver {
            grpc: endpoint.connect_lazy(),
            http1: TcpStream::connect(address(ports.http1)).await?,
            bulk: TcpStream::connect(address(ports.bulk)).await?,
        };
        driver.http1.set_nodelay(true)?;
        while let Some(line) = orders.recv().await {
            let order: Order = serde_json::from_str(&line).context("an order")?;
            let done = driver.obey(order).await?;
            println!("{}", serde_json::to_string(&done)?);
        }
        Ok(())
    })
}

/// One connection of each kind.
struct Driver {
    grpc: Channel,
    http1: TcpStream,
    bulk: TcpStream,
}

impl Driver {
    async fn obey(&mut self, order: Order) -> anyhow::Result<Done> {
        let until = Instant::now() + Duration::from_millis(order.millis);
        let times = match (order.talk, order.rate) {
            (Talk::Grpc { bytes, .. }, Some(rate)) => paced(&self.grpc, bytes, rate, until).await?,
            (Talk::Grpc { streams, bytes }, None) => closed_loop(&self.grpc, streams, bytes, until).await?,
            (Talk::Http1, _) => self.http1(until).await?,
            (Talk::Bulk, _) => return self.bulk(until).await,
        };
        Ok(summed_up(times))
    }

    async fn http1(&mut self, until: Instant) -> anyhow::Result<Vec<f64>> {
        let mut times = Vec::new();
        let mut answer = [0; 4096];
        while Instant::now() < until {
            let asked = Instant::now();
            self.http1.write_all(b"GET /item HTTP/1.1\r\nhost: bench\r\naccept: */*\r\n\r\n").await?;
            anyhow::ensure!(self.http1.read(&mut answer).await? > ANSWER_BYTES, "a cut answer");
            times.push(micros(asked));
        }
        Ok(times)
    }

    async fn bulk(&mut self, until: Instant) -> anyhow::Result<Done> {
        let bytes = vec![b'x'; BULK_WRITE];
        let mut written = 0;
        while Instant::now() < until {
            self.bulk.write_all(&bytes).await?;
            written += bytes.len();
        }
        Ok(Done { requests: (written / BULK_REQUEST) as u64, ..Done::default() })
    }
}

async fn closed_loop(
    channel: &Channel,
    streams: usize,
    bytes: usize,
    until: Instant,
) -> anyhow::Result<Vec<f64>> {
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..streams {
        let channel = channel.clone();
        callers.spawn(async move {
            let mut times = Vec::new();
            while Instant::now() < until {
                times.push(call(channel.clone(), bytes).await?);
            }
            anyhow::Ok(times)
        });
    }
    let mut times = Vec::new();
    while let Some(caller) = callers.join_next().await {
        times.extend(caller??);
    }
    Ok(times)
}

/// Calls on a schedule, a handful each millisecond: finer than that no timer is.
async fn paced(channel: &Channel, bytes: usize, rate: u32, until: Instant) -> anyhow::Result<Vec<f64>> {
    let mut calls = tokio::task::JoinSet::new();
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    let mut times = Vec::new();
    let began = Instant::now();
    let mut sent = 0;
    while Instant::now() < until {
        tick.tick().await;
        let due = began.elapsed().as_secs_f64() * f64::from(rate);
        while f64::from(sent) < due {
            calls.spawn(call(channel.clone(), bytes));
            sent += 1;
        }
        while let Some(done) = calls.try_join_next() {
            times.push(done??);
        }
    }
    while let Some(done) = calls.join_next().await {
        times.push(done??);
    }
    Ok(times)
}

/// One unary call; its time in microseconds.
async fn call(channel: Channel, bytes: usize) -> anyhow::Result<f64> {
    let asked = Instant::now();
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await?;
    let request = Request::new(Parcel { payload: vec![b'x'; bytes] });
    let path = PathAndQuery::from_static("/bench.Echo/Call");
    let answer: Response<Parcel> = grpc.unary(request, path, ProstCodec::<Parcel, Parcel>::default()).await?;
    anyhow::ensure!(answer.get_ref().payload.len() == bytes, "another message came back");
    Ok(micros(asked))
}

fn micros(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e6
}

fn summed_up(mut times: Vec<f64>) -> Done {
    times.sort_by(f64::total_cmp);
    Done { requests: times.len() as u64, p50_us: percentile(&times, 0.5), p99_us: percentile(&times, 0.99) }
}
