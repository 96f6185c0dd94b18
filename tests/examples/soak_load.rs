//! Load for the soak of a kernel: `soak_load SECONDS` makes calls of every shape over loopback until its time is
//! over, and prints `calls N` now and then. A wrong or missing answer ends it with an error.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a load generator prints, and fails when it cannot run"
)]

use e2e::planned::{Plans, make, serve};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How often the count is printed: what the log holds when the machine dies.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Calls on a connection, and how many of them at a time, one worker each: a connection for each call, long
/// connections with one stream, and some with many.
const WORKERS: [(usize, usize); 6] = [(1, 1), (1, 1), (50, 1), (500, 1), (200, 10), (1_000, 50)];

/// Bytes of one transfer of a protocol that is not HTTP/2.
const BULK: usize = 4 << 20;

#[tokio::main]
async fn main() {
    let seconds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(60);
    let until = Instant::now() + Duration::from_secs(seconds);
    let calls = Arc::new(AtomicU64::new(0));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap();
    let _serving = serve(listener);
    let mut workers: Vec<_> = WORKERS
        .into_iter()
        .zip(1..)
        .map(|((each, concurrent), seed)| {
            let calls = Arc::clone(&calls);
            tokio::spawn(async move {
                let mut plans = Plans(seed);
                while Instant::now() < until {
                    let plans = plans.by_ref().take(each).collect();
                    let made = make(server, plans, concurrent).await.unwrap();
                    calls.fetch_add(made.len() as u64, Ordering::Relaxed);
                }
            })
        })
        .collect();
    workers.push(tokio::spawn(async move {
        while Instant::now() < until {
            bulk().await;
            abandoned(server).await;
        }
    }));
    let telling = tokio::spawn({
        let calls = Arc::clone(&calls);
        async move {
            loop {
                tokio::time::sleep(TELL_EVERY).await;
                println!("calls {}", calls.load(Ordering::Relaxed));
            }
        }
    });
    for worker in workers {
        worker.await.unwrap();
    }
    telling.abort();
    println!("calls {}", calls.load(Ordering::Relaxed));
}

/// Bytes that are no HTTP/2, one way: the programs leave such a connection early.
async fn bulk() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let sending = tokio::spawn(async move {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(&vec![b'.'; BULK]).await.unwrap();
    });
    let (mut socket, _) = listener.accept().await.unwrap();
    let mut received = Vec::with_capacity(BULK);
    socket.read_to_end(&mut received).await.unwrap();
    assert_eq!(received.len(), BULK);
    sending.await.unwrap();
}

/// A client that goes away in the middle of a handshake, by a reset.
async fn abandoned(server: SocketAddr) {
    let mut socket = TcpStream::connect(server).await.unwrap();
    socket.set_zero_linger().unwrap();
    socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0").await.unwrap();
}
