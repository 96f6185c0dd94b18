//! Real gRPC traffic over loopback, by the h2 crate: a server that answers as its path asks, and a client.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, Response};
use std::net::SocketAddr;
use tokio::net::{TcpListener, TcpStream};

/// A gRPC message of `length` bytes behind its 5-byte prefix.
#[must_use]
pub fn message(length: usize) -> Bytes {
    let mut bytes = BytesMut::with_capacity(length + 5);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).unwrap());
    bytes.put_bytes(b'm', length);
    bytes.freeze()
}

/// Serves until dropped. `/pkg.Echo/Ok` answers with one message and status 0; `/pkg.Echo/Status<N>` with
/// headers alone that carry status N.
///
/// # Panics
/// When no port can be had.
pub async fn serve() -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Ok(mut connection) = h2::server::handshake(socket).await else { return };
                while let Some(Ok((request, respond))) = connection.accept().await {
                    tokio::spawn(answer(request, respond));
                }
            });
        }
    });
    (address, server)
}

async fn answer(request: Request<h2::RecvStream>, mut respond: h2::server::SendResponse<Bytes>) {
    let (head, mut body) = request.into_parts();
    while let Some(Ok(chunk)) = body.data().await {
        let _released = body.flow_control().release_capacity(chunk.len());
    }
    let response = Response::builder().header("content-type", "application/grpc");
    if let Some(status) = head.uri.path().strip_prefix("/pkg.Echo/Status") {
        let _sent = respond.send_response(response.header("grpc-status", status).body(()).unwrap(), true);
        return;
    }
    let Ok(mut stream) = respond.send_response(response.body(()).unwrap(), false) else { return };
    let _sent = stream.send_data(message(64), false);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    let _sent = stream.send_trailers(trailers);
}

/// One connection, `paths` called one after the other with a message of `length` bytes each, under the given
/// authority.
///
/// # Panics
/// When the server does not answer.
pub async fn call(server: SocketAddr, authority: &str, paths: &[&str], length: usize) {
    let socket = TcpStream::connect(server).await.unwrap();
    let (mut client, connection) = h2::client::handshake(socket).await.unwrap();
    let driver = tokio::spawn(connection);
    for path in paths {
        client = client.ready().await.unwrap();
        let request = Request::post(format!("http://{authority}{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("authorization", "Bearer a-secret-that-must-not-leave-the-decoder")
            .body(())
            .unwrap();
        let (response, mut body) = client.send_request(request, false).unwrap();
        body.send_data(message(length), true).unwrap();
        let (_, mut answer) = response.await.unwrap().into_parts();
        while let Some(chunk) = answer.data().await {
            let length = chunk.unwrap().len();
            answer.flow_control().release_capacity(length).unwrap();
        }
        let _trailers = answer.trailers().await.unwrap();
    }
    drop(client);
    driver.await.unwrap().unwrap();
}
