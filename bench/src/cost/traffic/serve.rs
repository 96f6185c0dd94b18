//! The serving process: what comes in is answered at once, with no more work than that takes.

use std::task::{Context, Poll};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower_service::Service;

#[cfg(feature = "tls")]
use super::tls;
use super::{BULK_WRITE, Ports, SMALL_BYTES, WINDOW, Wire, lines, runtime};
use crate::messages::Parcel;

/// Listens anew for each line of standard input, until that ends; the ports go out as one line.
pub fn serve(wire: Wire) -> anyhow::Result<()> {
    runtime()?.block_on(async {
        let mut lines = lines();
        let mut listening = JoinSet::new();
        while lines.recv().await.is_some() {
            // Connections end with their clients; who listens does not end by itself.
            listening.shutdown().await;
            let ports = listen(wire, &mut listening).await?;
            println!("{}", serde_json::to_string(&ports)?);
        }
        Ok(())
    })
}

/// Opens all ports.
async fn listen(wire: Wire, listening: &mut JoinSet<()>) -> anyhow::Result<Ports> {
    let (grpc, http1, bulk) = (any_port().await?, any_port().await?, any_port().await?);
    let udp = UdpSocket::bind("127.0.0.1:0").await?;
    let ports = Ports {
        grpc: grpc.local_addr()?.port(),
        http1: http1.local_addr()?.port(),
        bulk: bulk.local_addr()?.port(),
        udp: udp.local_addr()?.port(),
    };
    listening.spawn(calls(wire, grpc));
    listening.spawn(each(http1, answer_http1));
    listening.spawn(each(bulk, swallow));
    listening.spawn(send_back(udp));
    Ok(ports)
}

async fn any_port() -> anyhow::Result<TcpListener> {
    Ok(TcpListener::bind("127.0.0.1:0").await?)
}

async fn calls(wire: Wire, listener: TcpListener) {
    let server = Server::builder().initial_stream_window_size(WINDOW).initial_connection_window_size(WINDOW);
    let plain = |listener| TcpIncoming::from(listener).with_nodelay(Some(true));
    let served = match wire {
        Wire::Plain => server.serve_with_incoming(Echo, plain(listener)).await,
        #[cfg(feature = "tls")]
        Wire::Tls => match tls::sessions(plain(listener)) {
            Ok(sessions) => server.serve_with_incoming(Echo, sessions).await,
            Err(error) => return eprintln!("no TLS: {error}"),
        },
    };
    if let Err(error) = served {
        eprintln!("cannot serve: {error}");
    }
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
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {SMALL_BYTES}\r\n\r\n");
    let answer = [head.as_bytes(), &[b'x'; SMALL_BYTES]].concat();
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

async fn send_back(socket: UdpSocket) {
    let mut datagram = [0; SMALL_BYTES];
    while let Ok((length, from)) = socket.recv_from(&mut datagram).await {
        // A client that has gone is told so by its next datagram, not here.
        let _sent = socket.send_to(datagram.get(..length).unwrap_or_default(), from).await;
    }
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
