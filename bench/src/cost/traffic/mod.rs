//! Cheap traffic for measuring what watching it costs: one process serves ([`serve()`]), one drives ([`drive()`]),
//! each on one thread. Lines come in on standard input, an answer goes out for each. The cheaper these programs
//! are themselves, the larger a share of their CPU the agent's part is, so they do nothing but talk.
//!
//! A server listens anew for each line that it reads, and the client connects anew when told to: so a process that
//! was moved to another cgroup gets sockets that belong there.

mod drive;
mod serve;
#[cfg(feature = "tls")]
mod tls;

pub use drive::drive;
pub use serve::serve;

use std::io::BufRead;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// Bytes that a bulk transfer writes at once.
const BULK_WRITE: usize = 64 << 10;
/// Bulk transfers count one request for so many bytes.
const BULK_REQUEST: usize = 1 << 20;
/// The body of an answer over HTTP/1, and a datagram.
const SMALL_BYTES: usize = 100;
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
    /// Datagrams that come back.
    Udp,
}

/// What carries the calls. A process speaks one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// TCP.
    Plain,
    /// TLS by OpenSSL.
    #[cfg(feature = "tls")]
    Tls,
}

/// An order to talk.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Order {
    /// What to talk.
    pub talk: Talk,
    /// For how long.
    pub millis: u64,
    /// Calls a second on a schedule that does not wait; without it the next call follows the answer.
    pub rate: Option<u32>,
}

/// A line to the driving process.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// Connect to these, and let go of what was before.
    Connect(Ports),
    /// Talk on what is connected.
    Talk(Order),
}

/// What a line came to.
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
    udp: u16,
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// Standard input, line by line, until it ends.
fn lines() -> mpsc::Receiver<String> {
    let (line, lines) = mpsc::channel(1);
    std::thread::spawn(move || {
        for next in std::io::stdin().lock().lines().map_while(Result::ok) {
            if line.blocking_send(next).is_err() {
                break;
            }
        }
    });
    lines
}
