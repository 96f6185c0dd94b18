//! Hand-made events in few words: a little node with named cgroups, connections and calls.

use faultline_core::call::{Call, Ending, Messages, Method, Status, StatusSource, View};
use faultline_core::event::{
    CgroupIdentity, CgroupSample, ConnectionSample, Event, Exchanges, InFlight, Loss, LossReason, Opened,
    Protocol, Role, Started, Workload,
};
use faultline_core::pipeline::{Pipeline, Settings};
use faultline_core::report::Report;
use faultline_core::units::{CgroupId, ConnectionId, Nanos, StreamId, Timestamp};

/// A node under test; times are milliseconds since its start.
pub(crate) struct Node {
    pub(crate) pipeline: Pipeline,
    pub(crate) recorded: Vec<Event>,
}

/// Both ends of a connection on the node.
#[derive(Clone, Copy)]
pub(crate) struct Pair {
    pub(crate) client: u64,
    pub(crate) server: u64,
}

/// What differs between calls.
pub(crate) struct Spec<'a> {
    pub(crate) authority: &'a str,
    pub(crate) method: &'a str,
    pub(crate) status: Option<u8>,
    pub(crate) millis: u64,
}

pub(crate) fn ok(authority: &str, millis: u64) -> Spec<'_> {
    Spec { authority, method: "shop.Cart/Get", status: Some(0), millis }
}

fn at(millis: u64) -> Timestamp {
    Timestamp(millis * 1_000_000)
}

impl Node {
    pub(crate) fn new() -> Self {
        Self::with(Settings::default())
    }

    pub(crate) fn with(settings: Settings) -> Self {
        let mut node = Self { pipeline: Pipeline::new(settings, None), recorded: Vec::new() };
        let started = Started { at: at(0), unix_zero: 1_700_000_000_000_000_000, node: "n1".into() };
        node.event(Event::Started(started));
        node
    }

    pub(crate) fn event(&mut self, event: Event) {
        let recorded = &mut self.recorded;
        self.pipeline.handle(event, |event| recorded.push(event.clone()));
    }

    pub(crate) fn tick(&mut self, millis: u64) -> Option<Report> {
        let recorded = &mut self.recorded;
        self.pipeline.tick(at(millis), |event| recorded.push(event.clone()))
    }

    pub(crate) fn cgroup(&mut self, id: u64, path: &str, container: &str) {
        self.identity(id, path, |identity| identity.container = Some(container.into()));
    }

    pub(crate) fn identity(&mut self, id: u64, path: &str, fill: impl FnOnce(&mut CgroupIdentity)) {
        let mut identity =
            CgroupIdentity { cgroup: CgroupId(id), path: path.into(), ..CgroupIdentity::default() };
        fill(&mut identity);
        self.event(Event::Identity(Box::new(identity)));
    }

    pub(crate) fn open(&mut self, millis: u64, id: u64, cgroup: u64, role: Role, local: &str, remote: &str) {
        self.event(Event::Opened(Opened {
            at: at(millis),
            connection: ConnectionId(id),
            cgroup: CgroupId(cgroup),
            role,
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
            connect_time: (role == Role::Client).then_some(Nanos(200_000)),
        }));
    }

    /// A connection from one cgroup to another over loopback; its ends are `id` and `id + 1`.
    pub(crate) fn pair(&mut self, millis: u64, id: u64, client: u64, server: u64, port: u16) -> Pair {
        let (near, far) = (format!("127.0.0.1:{}", 40_000 + id), format!("127.0.0.1:{port}"));
        self.open(millis, id, client, Role::Client, &near, &far);
        self.open(millis, id + 1, server, Role::Server, &far, &near);
        Pair { client: id, server: id + 1 }
    }

    pub(crate) fn call(&mut self, ended: u64, connection: u64, view: View, spec: &Spec<'_>) {
        let source = if spec.status.is_some() { StatusSource::Wire } else { StatusSource::Unknown };
        self.event(Event::Call(Box::new(Call {
            connection: ConnectionId(connection),
            stream: StreamId(1),
            view,
            method: if spec.method.is_empty() {
                Method::Unresolved(7)
            } else {
                Method::Named(spec.method.into())
            },
            authority: (!spec.authority.is_empty()).then(|| spec.authority.into()),
            status: Status { code: spec.status, source },
            ending: Ending::Trailers,
            started: at(ended - spec.millis),
            first_response: None,
            duration: Nanos::from_millis(spec.millis),
            request: Messages { count: 1, bytes: 100, exact: true },
            response: Messages { count: 1, bytes: 300, exact: true },
            deadline: None,
            previous_attempts: None,
            encoding: None,
        })));
    }

    /// Both views of a call: the server's is `wire` shorter.
    pub(crate) fn both(&mut self, ended: u64, pair: Pair, wire: u64, spec: &Spec<'_>) {
        let server = Spec { millis: spec.millis - wire, ..*spec };
        self.call(ended, pair.server, View::Server, &server);
        self.call(ended, pair.client, View::Client, spec);
    }

    pub(crate) fn in_flight(&mut self, millis: u64, connection: u64, view: View, streams: u32, oldest: u64) {
        self.event(Event::InFlight(InFlight {
            at: at(millis),
            connection: ConnectionId(connection),
            view,
            streams,
            oldest_unanswered: Some(Nanos::from_millis(oldest)),
        }));
    }

    pub(crate) fn sample(&mut self, millis: u64, connection: u64, protocol: Protocol, exchanges: Exchanges) {
        self.event(Event::Sampled(ConnectionSample {
            at: at(millis),
            connection: ConnectionId(connection),
            protocol,
            rtt: Some(Nanos(150_000)),
            retransmits: 0,
            segments_sent: millis / 10,
            bytes_sent: millis * 100,
            bytes_received: millis * 100,
            unseen: 0,
            exchanges,
        }));
    }

    pub(crate) fn cpu(&mut self, millis: u64, cgroup: u64, used_millis: u64, memory: u64) {
        self.event(Event::Cgroup(CgroupSample {
            at: at(millis),
            cgroup: CgroupId(cgroup),
            cpu_usage: Some(Nanos::from_millis(used_millis)),
            memory: Some(memory),
            oom_kills: Some(0),
            ..CgroupSample::default()
        }));
    }

    pub(crate) fn lose(&mut self, millis: u64, reason: LossReason, count: u64, connection: Option<u64>) {
        self.event(Event::Lost(Loss {
            at: at(millis),
            reason,
            count,
            connection: connection.map(ConnectionId),
        }));
    }
}

pub(crate) fn workload(namespace: &str, name: &str) -> Option<Workload> {
    Some(Workload {
        namespace: namespace.into(),
        name: name.into(),
        pod: format!("{name}-0").into(),
        container: "server".into(),
    })
}

/// `count` exchanges of about `micros` each.
pub(crate) fn exchanges(count: u32, micros: u64) -> Exchanges {
    let mut exchanges = Exchanges {
        count,
        total: Nanos(u64::from(count) * micros * 1000),
        max: Nanos(micros * 1000),
        ..Exchanges::default()
    };
    if let Some(bucket) = exchanges.histogram.get_mut(micros.max(1).ilog2() as usize) {
        *bucket = count;
    }
    exchanges
}

/// Closes the first step.
pub(crate) fn first(node: &mut Node) -> Report {
    assert!(node.tick(5_400).is_none(), "in its grace");
    node.tick(5_500).unwrap()
}

/// A report's services and edges, a line each, in words short enough to compare by eye.
pub(crate) fn lines(report: &Report) -> String {
    use std::fmt::Write as _;
    let number = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.1}"));
    let mut out = format!("{:?}\n", report.state);
    for s in &report.services {
        let _ = writeln!(
            out,
            "{} {:?} {:?} rate {} err {} p50 {} self {} open {} cpu {}{}",
            s.name,
            s.kind,
            s.state,
            number(s.call_rate),
            number(s.error_ratio),
            number(s.latency_p50_ms),
            number(s.self_time_ms),
            number(s.in_flight),
            number(s.cpu_millicores),
            s.masked.as_ref().map(|why| format!(" masked: {why}")).unwrap_or_default(),
        );
    }
    for e in &report.edges {
        let _ = writeln!(
            out,
            "{} -> {} {} rate {} client {} server {} wire {}",
            e.caller,
            e.callee,
            e.protocol,
            number(e.call_rate),
            number(e.client_p50_ms),
            number(e.server_p50_ms),
            number(e.wire_time_ms),
        );
    }
    out
}
