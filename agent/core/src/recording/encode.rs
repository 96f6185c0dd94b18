//! Turns events into the messages of a recording. Strings become numbers; new ones are written before.

use super::wire::{self, Kind};
use crate::call::{Call, Ending, Messages, Method, StatusSource, View};
use crate::event::{
    CgroupIdentity, CgroupSample, ConnectionSample, EndedBy, Event, Exchanges, FlowSample, Opened, Protocol,
    Role, Workload,
};
use crate::units::Nanos;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// The most strings that one event holds.
pub(super) const MOST_TEXTS: usize = 16;

/// The strings written so far, by number.
#[derive(Debug, Default)]
pub(super) struct Texts {
    numbers: HashMap<Arc<str>, u32>,
    new: Vec<Arc<str>>,
}

impl Texts {
    /// How many have a number.
    pub(super) fn known(&self) -> usize {
        self.numbers.len()
    }

    /// Numbers begin anew.
    pub(super) fn clear(&mut self) {
        self.numbers.clear();
    }

    /// Those that got their number since the last call, in order.
    pub(super) fn take_new(&mut self) -> Vec<Arc<str>> {
        std::mem::take(&mut self.new)
    }

    fn number(&mut self, text: &Arc<str>) -> u32 {
        if text.is_empty() {
            return 0;
        }
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let number = u32::try_from(self.numbers.len() + 1).unwrap_or(0);
        self.numbers.insert(text.clone(), number);
        self.new.push(text.clone());
        number
    }

    fn optional(&mut self, text: Option<&Arc<str>>) -> Option<u32> {
        text.map(|text| self.number(text))
    }
}

/// The event's message; `None` for a segment.
pub(super) fn event(event: &Event, texts: &mut Texts) -> Option<Kind> {
    Some(match event {
        Event::Segment(_) => return None,
        Event::Started(e) => {
            Kind::Started(wire::Started { at: e.at.0, unix_zero: e.unix_zero, node: texts.number(&e.node) })
        }
        Event::Opened(e) => Kind::Opened(opened(e)),
        Event::Call(e) => Kind::Call(call(e, texts)),
        Event::InFlight(e) => Kind::InFlight(wire::InFlight {
            at: e.at.0,
            connection: e.connection.0,
            view: view(e.view),
            streams: e.streams,
            oldest_unanswered: nanos(e.oldest_unanswered),
        }),
        Event::Flow(e) => Kind::Flow(flow(e)),
        Event::Sampled(e) => Kind::Sampled(sampled(e)),
        Event::Closed(e) => Kind::Closed(wire::Closed { at: e.at.0, connection: e.connection.0 }),
        Event::ConnectFailed(e) => Kind::ConnectFailed(wire::ConnectFailed {
            at: e.at.0,
            cgroup: e.cgroup.0,
            remote: Some(address(e.remote)),
        }),
        Event::Cgroup(e) => Kind::Cgroup(cgroup(e)),
        Event::Identity(e) => Kind::Identity(identity(e, texts)),
        Event::Lost(e) => Kind::Lost(wire::Loss {
            at: e.at.0,
            reason: texts.number(&Arc::from(e.reason.name())),
            count: e.count,
            connection: e.connection.map(|id| id.0),
        }),
        Event::Missing(e) => Kind::Missing(wire::Missing {
            at: e.at.0,
            part: texts.number(&e.part),
            reason: texts.number(&e.reason),
            fix: texts.number(&e.fix),
        }),
    })
}

fn opened(e: &Opened) -> wire::Opened {
    wire::Opened {
        at: e.at.0,
        connection: e.connection.0,
        cgroup: e.cgroup.0,
        role: match e.role {
            Role::Unknown => 0,
            Role::Client => 1,
            Role::Server => 2,
        },
        local: Some(address(e.local)),
        remote: Some(address(e.remote)),
        connect_time: nanos(e.connect_time),
    }
}

fn call(e: &Call, texts: &mut Texts) -> wire::Call {
    let (method, unresolved_method) = match &e.method {
        Method::Named(name) => (Some(texts.number(name)), None),
        Method::Unresolved(entry) => (None, Some(*entry)),
    };
    let (ending, reset_code, reset_by_client) = match e.ending {
        Ending::Trailers => (1, 0, false),
        Ending::TrailersOnly => (2, 0, false),
        Ending::EndStream => (3, 0, false),
        Ending::Reset { code, by_client } => (4, code, by_client),
        Ending::ConnectionClosed => (5, 0, false),
        Ending::Abandoned => (6, 0, false),
    };
    wire::Call {
        connection: e.connection.0,
        stream: e.stream.0,
        view: view(e.view),
        method,
        unresolved_method,
        authority: texts.optional(e.authority.as_ref()),
        status: e.status.code.map(u32::from),
        status_source: match e.status.source {
            StatusSource::Unknown => 0,
            StatusSource::Wire => 1,
            StatusSource::Inferred => 2,
        },
        ending,
        reset_code,
        reset_by_client,
        started: e.started.0,
        first_response: nanos(e.first_response),
        duration: e.duration.0,
        request: Some(messages(e.request)),
        response: Some(messages(e.response)),
        deadline: nanos(e.deadline),
        previous_attempts: e.previous_attempts,
        encoding: texts.optional(e.encoding.as_ref()),
    }
}

fn flow(e: &FlowSample) -> wire::FlowSample {
    let ended = e.ended.iter().map(|(ended, count)| wire::Ended {
        by: match ended.by {
            EndedBy::Reset => 1,
            EndedBy::GoAway => 2,
        },
        sent: ended.sent,
        code: ended.code,
        count: *count,
    });
    wire::FlowSample {
        at: e.at.0,
        connection: e.connection.0,
        messages_sent: e.messages_sent,
        messages_received: e.messages_received,
        stalled_sending: nanos(e.stalled_sending),
        stalled_receiving: nanos(e.stalled_receiving),
        max_streams: e.max_streams,
        limit_reached: e.limit_reached,
        limited: e.limited.0,
        ended: ended.collect(),
    }
}

fn sampled(e: &ConnectionSample) -> wire::ConnectionSample {
    wire::ConnectionSample {
        at: e.at.0,
        connection: e.connection.0,
        protocol: match e.protocol {
            Protocol::Unknown => 0,
            Protocol::Http2 => 1,
            Protocol::Tls => 2,
            Protocol::Http2InTls => 4,
            Protocol::Mptcp => 5,
            Protocol::Other => 3,
        },
        rtt: nanos(e.rtt),
        retransmits: e.retransmits,
        segments_sent: e.segments_sent,
        bytes_sent: e.bytes_sent,
        bytes_received: e.bytes_received,
        unseen: e.unseen,
        exchanges: (e.exchanges != Exchanges::default()).then(|| exchanges(&e.exchanges)),
    }
}

fn exchanges(e: &Exchanges) -> wire::Exchanges {
    let used = e.histogram.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
    wire::Exchanges {
        count: e.count,
        total: e.total.0,
        max: e.max.0,
        histogram: e.histogram.iter().copied().take(used).collect(),
        waiting: nanos(e.waiting),
    }
}

fn cgroup(e: &CgroupSample) -> wire::CgroupSample {
    wire::CgroupSample {
        at: e.at.0,
        cgroup: e.cgroup.0,
        cpu_usage: nanos(e.cpu_usage),
        cpu_throttled: nanos(e.cpu_throttled),
        cpu_limit: e.cpu_limit,
        cpu_pressure: nanos(e.cpu_pressure),
        memory: e.memory,
        memory_limit: e.memory_limit,
        oom_kills: e.oom_kills,
        unix_connections: e.unix_connections,
    }
}

fn identity(e: &CgroupIdentity, texts: &mut Texts) -> wire::CgroupIdentity {
    wire::CgroupIdentity {
        at: e.at.0,
        cgroup: e.cgroup.0,
        path: texts.number(&e.path),
        configured: texts.optional(e.configured.as_ref()),
        workload: e.workload.as_ref().map(|w| workload(w, texts)),
        container: texts.optional(e.container.as_ref()),
        process: texts.optional(e.process.as_ref()),
        gone: e.gone,
    }
}

fn workload(w: &Workload, texts: &mut Texts) -> wire::Workload {
    wire::Workload {
        namespace: texts.number(&w.namespace),
        name: texts.number(&w.name),
        pod: texts.number(&w.pod),
        container: texts.number(&w.container),
    }
}

fn address(address: SocketAddr) -> wire::Address {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    wire::Address { ip, port: address.port().into() }
}

fn messages(m: Messages) -> wire::Messages {
    wire::Messages { count: m.count, bytes: m.bytes, exact: m.exact }
}

fn view(view: View) -> u32 {
    match view {
        View::Client => 1,
        View::Server => 2,
    }
}

fn nanos(length: Option<Nanos>) -> Option<u64> {
    length.map(|nanos| nanos.0)
}
