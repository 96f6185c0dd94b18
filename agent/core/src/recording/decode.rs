//! Turns the messages of a recording into events. A number that stands for nothing is damage, never a default.

use super::wire::{self, Kind};
use crate::call::{Call, Ending, Messages, Method, Status, StatusSource, View};
use crate::event::{
    CgroupIdentity, CgroupSample, Closed, ConnectFailed, ConnectionSample, Ended, EndedBy, Event, Exchanges,
    FlowSample, InFlight, Loss, LossReason, Missing, Opened, Protocol, Role, Started, Workload,
};
use crate::units::{CgroupId, ConnectionId, Nanos, StreamId, Timestamp};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// What is wrong with a message.
#[derive(Debug)]
pub(super) struct Wrong(pub(super) String);

type Texts = [Arc<str>];

/// The event that a message stands for.
pub(super) fn event(kind: Kind, texts: &Texts) -> Result<Event, Wrong> {
    Ok(match kind {
        Kind::Text(_) | Kind::TextsCleared(_) | Kind::Tick(_) | Kind::End(_) => {
            return Err(wrong("record that is no event", 0));
        }
        Kind::Started(e) => Event::Started(Started {
            at: Timestamp(e.at),
            unix_zero: e.unix_zero,
            node: text(texts, e.node)?,
        }),
        Kind::Opened(e) => Event::Opened(opened(e)?),
        Kind::Call(e) => Event::Call(Box::new(call(e, texts)?)),
        Kind::InFlight(e) => Event::InFlight(InFlight {
            at: Timestamp(e.at),
            connection: ConnectionId(e.connection),
            view: view(e.view)?,
            streams: e.streams,
            oldest_unanswered: e.oldest_unanswered.map(Nanos),
        }),
        Kind::Flow(e) => Event::Flow(Box::new(flow(e)?)),
        Kind::Sampled(e) => Event::Sampled(sampled(&e)?),
        Kind::Closed(e) => {
            Event::Closed(Closed { at: Timestamp(e.at), connection: ConnectionId(e.connection) })
        }
        Kind::ConnectFailed(e) => Event::ConnectFailed(ConnectFailed {
            at: Timestamp(e.at),
            cgroup: CgroupId(e.cgroup),
            remote: address(e.remote)?,
        }),
        Kind::Cgroup(e) => Event::Cgroup(CgroupSample {
            at: Timestamp(e.at),
            cgroup: CgroupId(e.cgroup),
            cpu_usage: e.cpu_usage.map(Nanos),
            cpu_throttled: e.cpu_throttled.map(Nanos),
            cpu_limit: e.cpu_limit,
            cpu_pressure: e.cpu_pressure.map(Nanos),
            memory: e.memory,
            memory_limit: e.memory_limit,
            oom_kills: e.oom_kills,
            unix_connections: e.unix_connections,
        }),
        Kind::Identity(e) => Event::Identity(Box::new(identity(e, texts)?)),
        Kind::Lost(e) => Event::Lost(loss(&e, texts)?),
        Kind::Missing(e) => Event::Missing(Missing {
            at: Timestamp(e.at),
            part: text(texts, e.part)?,
            reason: text(texts, e.reason)?,
            fix: text(texts, e.fix)?,
        }),
    })
}

fn opened(e: wire::Opened) -> Result<Opened, Wrong> {
    Ok(Opened {
        at: Timestamp(e.at),
        connection: ConnectionId(e.connection),
        cgroup: CgroupId(e.cgroup),
        role: match e.role {
            0 => Role::Unknown,
            1 => Role::Client,
            2 => Role::Server,
            other => return Err(wrong("role", other)),
        },
        local: address(e.local)?,
        remote: address(e.remote)?,
        connect_time: e.connect_time.map(Nanos),
    })
}

fn call(e: wire::Call, texts: &Texts) -> Result<Call, Wrong> {
    Ok(Call {
        connection: ConnectionId(e.connection),
        stream: StreamId(e.stream),
        view: view(e.view)?,
        method: match (e.method, e.unresolved_method) {
            (Some(name), _) => Method::Named(text(texts, name)?),
            (None, Some(entry)) => Method::Unresolved(entry),
            (None, None) => return Err(Wrong("a call without a method".into())),
        },
        authority: optional(texts, e.authority)?,
        status: Status {
            code: match e.status {
                None => None,
                Some(code) => Some(u8::try_from(code).map_err(|_| wrong("status", code))?),
            },
            source: match e.status_source {
                0 => StatusSource::Unknown,
                1 => StatusSource::Wire,
                2 => StatusSource::Inferred,
                other => return Err(wrong("status source", other)),
            },
        },
        ending: match e.ending {
            1 => Ending::Trailers,
            2 => Ending::TrailersOnly,
            3 => Ending::EndStream,
            4 => Ending::Reset { code: e.reset_code, by_client: e.reset_by_client },
            5 => Ending::ConnectionClosed,
            6 => Ending::Abandoned,
            other => return Err(wrong("ending", other)),
        },
        started: Timestamp(e.started),
        first_response: e.first_response.map(Nanos),
        duration: Nanos(e.duration),
        request: messages(e.request),
        response: messages(e.response),
        deadline: e.deadline.map(Nanos),
        previous_attempts: e.previous_attempts,
        encoding: optional(texts, e.encoding)?,
    })
}

fn flow(e: wire::FlowSample) -> Result<FlowSample, Wrong> {
    let ended = e.ended.into_iter().map(|ended| {
        let by = match ended.by {
            1 => EndedBy::Reset,
            2 => EndedBy::GoAway,
            other => return Err(wrong("ending frame", other)),
        };
        Ok((Ended { by, sent: ended.sent, code: ended.code }, ended.count))
    });
    Ok(FlowSample {
        at: Timestamp(e.at),
        connection: ConnectionId(e.connection),
        messages_sent: e.messages_sent,
        messages_received: e.messages_received,
        stalled_sending: e.stalled_sending.map(Nanos),
        stalled_receiving: e.stalled_receiving.map(Nanos),
        max_streams: e.max_streams,
        limit_reached: e.limit_reached,
        limited: Nanos(e.limited),
        ended: ended.collect::<Result<_, _>>()?,
    })
}

fn sampled(e: &wire::ConnectionSample) -> Result<ConnectionSample, Wrong> {
    Ok(ConnectionSample {
        at: Timestamp(e.at),
        connection: ConnectionId(e.connection),
        protocol: match e.protocol {
            0 => Protocol::Unknown,
            1 => Protocol::Http2,
            2 => Protocol::Tls,
            4 => Protocol::Http2InTls,
            5 => Protocol::Mptcp,
            3 => Protocol::Other,
            other => return Err(wrong("protocol", other)),
        },
        rtt: e.rtt.map(Nanos),
        retransmits: e.retransmits,
        segments_sent: e.segments_sent,
        bytes_sent: e.bytes_sent,
        bytes_received: e.bytes_received,
        unseen: e.unseen,
        exchanges: e.exchanges.as_ref().map(exchanges).transpose()?.unwrap_or_default(),
    })
}

fn exchanges(e: &wire::Exchanges) -> Result<Exchanges, Wrong> {
    let mut histogram = [0; 24];
    if e.histogram.len() > histogram.len() {
        return Err(Wrong("more buckets than a histogram has".into()));
    }
    for (bucket, count) in histogram.iter_mut().zip(&e.histogram) {
        *bucket = *count;
    }
    Ok(Exchanges {
        count: e.count,
        total: Nanos(e.total),
        max: Nanos(e.max),
        histogram,
        waiting: e.waiting.map(Nanos),
    })
}

fn identity(e: wire::CgroupIdentity, texts: &Texts) -> Result<CgroupIdentity, Wrong> {
    let workload = match e.workload {
        None => None,
        Some(w) => Some(Workload {
            namespace: text(texts, w.namespace)?,
            name: text(texts, w.name)?,
            pod: text(texts, w.pod)?,
            container: text(texts, w.container)?,
        }),
    };
    Ok(CgroupIdentity {
        at: Timestamp(e.at),
        cgroup: CgroupId(e.cgroup),
        path: text(texts, e.path)?,
        configured: optional(texts, e.configured)?,
        workload,
        container: optional(texts, e.container)?,
        process: optional(texts, e.process)?,
        gone: e.gone,
    })
}

fn loss(e: &wire::Loss, texts: &Texts) -> Result<Loss, Wrong> {
    let name = text(texts, e.reason)?;
    let reason = LossReason::ALL.into_iter().find(|reason| reason.name() == &*name);
    Ok(Loss {
        at: Timestamp(e.at),
        reason: reason.ok_or_else(|| Wrong(format!("a loss for the unknown reason `{name}`")))?,
        count: e.count,
        connection: e.connection.map(ConnectionId),
    })
}

fn address(address: Option<wire::Address>) -> Result<SocketAddr, Wrong> {
    let address = address.ok_or_else(|| Wrong("no address".into()))?;
    let port = u16::try_from(address.port).map_err(|_| wrong("port", address.port))?;
    let ip = if let Ok(v4) = <[u8; 4]>::try_from(address.ip.as_slice()) {
        IpAddr::from(v4)
    } else if let Ok(v6) = <[u8; 16]>::try_from(address.ip.as_slice()) {
        IpAddr::from(v6)
    } else {
        return Err(Wrong("an address of neither 4 nor 16 bytes".into()));
    };
    Ok(SocketAddr::new(ip, port))
}

fn messages(messages: Option<wire::Messages>) -> Messages {
    let m = messages.unwrap_or_default();
    Messages { count: m.count, bytes: m.bytes, exact: m.exact }
}

fn view(view: u32) -> Result<View, Wrong> {
    match view {
        1 => Ok(View::Client),
        2 => Ok(View::Server),
        other => Err(wrong("view", other)),
    }
}

fn text(texts: &Texts, number: u32) -> Result<Arc<str>, Wrong> {
    match number.checked_sub(1) {
        None => Ok(Arc::from("")),
        Some(place) => texts.get(place as usize).cloned().ok_or_else(|| wrong("text", number)),
    }
}

fn optional(texts: &Texts, number: Option<u32>) -> Result<Option<Arc<str>>, Wrong> {
    number.map(|number| text(texts, number)).transpose()
}

fn wrong(what: &str, number: u32) -> Wrong {
    Wrong(format!("{what} {number} stands for nothing"))
}
