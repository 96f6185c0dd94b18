//! The driving process: carries out what it is told, and says what that came to.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use http::Uri;
use http::uri::PathAndQuery;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response};
use tonic_prost::ProstCodec;

#[cfg(feature = "tls")]
use super::tls;
use super::{
    BULK_REQUEST, BULK_WRITE, Done, Line, Order, Ports, SMALL_BYTES, Talk, WINDOW, Wire, lines, runtime,
};
use crate::load::percentile;
use crate::messages::Parcel;

/// Whom the calls are for. The same on every connection, so that the agent sees one service and not one a port.
const AUTHORITY: &str = "http://echo";
/// A datagram over loopback comes back long before this, or was lost.
const LOST_AFTER: Duration = Duration::from_secs(5);

/// Carries out lines until standard input ends.
pub fn drive(wire: Wire) -> anyhow::Result<()> {
    runtime()?.block_on(async {
        let mut lines = lines();
        let mut driver = None;
        while let Some(line) = lines.recv().await {
            let done = match serde_json::from_str(&line).context("a line")? {
                Line::Connect(ports) => {
                    drop(driver.take());
                    driver = Some(Driver::connect(wire, ports).await?);
                    Done::default()
                }
                Line::Talk(order) => driver.as_mut().context("nothing is connected")?.obey(order).await?,
            };
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
    udp: UdpSocket,
}

impl Driver {
    /// That for calls is opened by the first of them.
    async fn connect(wire: Wire, ports: Ports) -> anyhow::Result<Self> {
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let endpoint = Endpoint::from_shared(format!("http://{}", address(ports.grpc)))?
            .origin(Uri::from_static(AUTHORITY))
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW);
        let grpc = match wire {
            Wire::Plain => endpoint.connect_lazy(),
            #[cfg(feature = "tls")]
            Wire::Tls => endpoint.connect_with_connector_lazy(tls::Connector::new(address(ports.grpc))?),
        };
        let udp = UdpSocket::bind("127.0.0.1:0").await?;
        udp.connect(address(ports.udp)).await?;
        let http1 = TcpStream::connect(address(ports.http1)).await?;
        http1.set_nodelay(true)?;
        Ok(Self { grpc, http1, bulk: TcpStream::connect(address(ports.bulk)).await?, udp })
    }

    async fn obey(&mut self, order: Order) -> anyhow::Result<Done> {
        let until = Instant::now() + Duration::from_millis(order.millis);
        let times = match (order.talk, order.rate) {
            (Talk::Grpc { bytes, .. }, Some(rate)) => paced(&self.grpc, bytes, rate, until).await?,
            (Talk::Grpc { streams, bytes }, None) => closed_loop(&self.grpc, streams, bytes, until).await?,
            (Talk::Http1, _) => self.http1(until).await?,
            (Talk::Bulk, _) => return self.bulk(until).await,
            (Talk::Udp, _) => {
                let lost = Duration::from_millis(order.millis) + LOST_AFTER;
                tokio::time::timeout(lost, self.udp(until)).await.context("a datagram was lost")??
            }
        };
        Ok(summed_up(times))
    }

    async fn udp(&mut self, until: Instant) -> anyhow::Result<Vec<f64>> {
        let mut times = Vec::new();
        let mut datagram = [b'x'; SMALL_BYTES];
        while Instant::now() < until {
            let asked = Instant::now();
            self.udp.send(&datagram).await?;
            self.udp.recv(&mut datagram).await?;
            times.push(micros(asked));
        }
        Ok(times)
    }

    async fn http1(&mut self, until: Instant) -> anyhow::Result<Vec<f64>> {
        let mut times = Vec::new();
        let mut answer = [0; 4096];
        while Instant::now() < until {
            let asked = Instant::now();
            self.http1.write_all(b"GET /item HTTP/1.1\r\nhost: bench\r\naccept: */*\r\n\r\n").await?;
            anyhow::ensure!(self.http1.read(&mut answer).await? > SMALL_BYTES, "a cut answer");
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
