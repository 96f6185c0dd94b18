//! Calls to other services: one long-lived connection each, a deadline a call, a line of truth a call.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use http::uri::PathAndQuery;
use prost::Message;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use super::Parcel;
use crate::brief::{CallSpec, Peer};
use crate::truth::{Lines, Sent, unix_ms};

/// Connections to all services that this process calls.
#[derive(Clone)]
pub struct Peers {
    channels: BTreeMap<String, Channel>,
    sent: Lines,
}

impl Peers {
    /// Connections are made at the first call and made again when they break.
    pub fn new(peers: &BTreeMap<String, Peer>, sent: Lines) -> anyhow::Result<Self> {
        let mut channels = BTreeMap::new();
        for (name, peer) in peers {
            let endpoint = Endpoint::from_shared(format!("http://{}", peer.address))
                .and_then(|endpoint| endpoint.user_agent("playground"))
                .with_context(|| format!("{} is no address", peer.address))?;
            let origin = format!("http://{}", peer.authority);
            let origin = origin.parse().with_context(|| format!("{origin} is no authority"))?;
            channels.insert(name.clone(), endpoint.origin(origin).connect_lazy());
        }
        Ok(Self { channels, sent })
    }

    /// One unary call. A caller that gives up resets the stream, so that the server hears of it.
    pub async fn call(&self, call: &CallSpec) -> Result<(), Status> {
        let channel = self.channels.get(&call.peer);
        let channel = channel.ok_or_else(|| Status::internal(format!("no peer {}", call.peer)))?.clone();
        let path = PathAndQuery::try_from(call.path.as_str());
        let path = path.map_err(|error| Status::internal(error.to_string()))?;
        let deadline = Duration::from_millis(u64::from(call.deadline_ms));
        let parcel = Parcel { payload: vec![b'x'; call.request_bytes as usize] };
        let request_bytes = parcel.encoded_len() as u64;
        let mut request = Request::new(parcel);
        request.set_timeout(deadline);
        let line = SentGuard::start(&self.sent, call, request_bytes);
        let calling = async {
            let mut grpc = tonic::client::Grpc::new(channel);
            grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            grpc.unary(request, path, ProstCodec::<Parcel, Parcel>::default()).await
        };
        let late = || Status::deadline_exceeded(format!("{} ms passed", call.deadline_ms));
        let answer = match tokio::time::timeout(deadline, calling).await {
            // tonic's own timer says CANCELLED where other stacks say DEADLINE_EXCEEDED.
            Ok(Err(status)) if status.code() == Code::Cancelled && line.started.elapsed() >= deadline => {
                Err(late())
            }
            Ok(answer) => answer,
            Err(_) => Err(late()),
        };
        let code = answer.as_ref().err().map_or(Code::Ok, Status::code);
        line.end(code, answer.as_ref().map_or(0, |answer| answer.get_ref().encoded_len() as u64));
        answer.map(|_| ()).map_err(|status| {
            Status::new(status.code(), format!("{}{}: {}", call.peer, call.path, status.message()))
        })
    }
}

/// A call on its way. Dropped without `end`, its caller gave it up because another call failed.
struct SentGuard {
    lines: Lines,
    line: Sent,
    started: Instant,
}

impl SentGuard {
    fn start(lines: &Lines, call: &CallSpec, request_bytes: u64) -> Self {
        let line = Sent {
            t_ms: unix_ms(),
            callee: call.peer.clone(),
            method: call.path.clone(),
            status: code_name(Code::Cancelled).into(),
            request_bytes,
            response_bytes: 0,
            seconds: 0.0,
        };
        Self { lines: lines.clone(), line, started: Instant::now() }
    }

    fn end(mut self, code: Code, response_bytes: u64) {
        self.line.status = code_name(code).into();
        self.line.response_bytes = response_bytes;
    }
}

impl Drop for SentGuard {
    fn drop(&mut self) {
        self.line.seconds = self.started.elapsed().as_secs_f64();
        self.lines.write(&self.line);
    }
}

/// The `grpc-timeout` header: up to eight digits and a unit.
pub fn parse_timeout(text: &str) -> Option<Duration> {
    let split = text.len().checked_sub(1)?;
    let (digits, unit) = (text.get(..split)?, text.get(split..)?);
    let value: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3_600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

/// Names of the gRPC status codes, in order of their numbers.
pub const CODE_NAMES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// A status code's name in capitals, as the specification writes it.
pub fn code_name(code: Code) -> &'static str {
    usize::try_from(code as i32).ok().and_then(|number| CODE_NAMES.get(number)).copied().unwrap_or("UNKNOWN")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_in_every_unit() {
        assert_eq!(parse_timeout("1S"), Some(Duration::from_secs(1)));
        assert_eq!(parse_timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse_timeout("999999u"), Some(Duration::from_micros(999_999)));
        assert_eq!(parse_timeout("2M"), Some(Duration::from_secs(120)));
        assert_eq!(parse_timeout("x"), None);
        assert_eq!(parse_timeout(""), None);
    }

    #[test]
    fn code_names_follow_the_numbers() {
        assert_eq!(code_name(Code::Ok), "OK");
        assert_eq!(code_name(Code::Unavailable), "UNAVAILABLE");
        assert_eq!(code_name(Code::Unauthenticated), "UNAUTHENTICATED");
    }
}
