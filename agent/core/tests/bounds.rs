//! What a hostile or an immense node costs: however much is offered, memory stays within a bound that is asserted
//! here, and what falls out is counted by its reason. Resident memory is the kernel's own number for this process.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use bytes::Bytes;
use faultline_core::call::{Call, Ending, Messages, Method, Status, StatusSource, View};
use faultline_core::event::{
    CgroupIdentity, Closed, Direction, Event, Opened, Piece, Role, Segment, Started,
};
use faultline_core::pipeline::{Pipeline, Settings};
use faultline_core::report::Report;
use faultline_core::units::{CgroupId, ConnectionId, Nanos, StreamId, Timestamp};
use std::sync::Mutex;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
const MILLISECOND: u64 = 1_000_000;

/// One test at a time: they share the process whose memory they measure.
static ALONE: Mutex<()> = Mutex::new(());

/// Resident memory in megabytes.
fn resident() -> f64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<f64>().unwrap() * 4096.0 / 1e6
}

/// Asserts that what `offer` builds up takes at most so many megabytes.
fn takes_at_most<T>(megabytes: f64, offer: impl FnOnce() -> T) -> T {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let before = resident();
    let result = offer();
    let taken = resident() - before;
    println!("{taken:.1} MB of at most {megabytes}");
    assert!(taken <= megabytes, "{taken:.1} MB were taken, at most {megabytes} are allowed");
    result
}

/// A node under attack.
struct Node {
    pipeline: Pipeline,
    now: u64,
    closed: u64,
    sequence: u32,
}

impl Node {
    fn new(settings: Settings) -> Self {
        let mut node = Self { pipeline: Pipeline::new(settings, None), now: 0, closed: 0, sequence: 1 };
        node.take(Event::Started(Started { at: Timestamp(0), unix_zero: 0, node: "n".into() }));
        node
    }

    fn take(&mut self, event: Event) {
        self.pipeline.handle(event, |_| {});
    }

    fn identity(&mut self, cgroup: u64, name: &str) {
        self.take(Event::Identity(Box::new(CgroupIdentity {
            cgroup: CgroupId(cgroup),
            path: format!("/{name}").into(),
            container: Some(name.into()),
            ..CgroupIdentity::default()
        })));
    }

    fn open(&mut self, id: u64, cgroup: u64, role: Role) {
        let port = |id: u64| u16::try_from(1024 + id % 60_000).unwrap();
        let address = |id: u64, port: u16| {
            std::net::SocketAddr::from(([10, (id >> 16) as u8, (id >> 8) as u8, id as u8], port))
        };
        // Two ends of one connection follow each other, the client's first.
        let (client, server) = (address(id / 2, port(id / 2)), address((1 << 23) | (cgroup % 2000), 50_051));
        let (local, remote) = if role == Role::Client { (client, server) } else { (server, client) };
        self.take(Event::Opened(Opened {
            at: Timestamp(self.now),
            connection: ConnectionId(id),
            cgroup: CgroupId(cgroup),
            role,
            local,
            remote,
            connect_time: None,
        }));
    }

    /// Bytes from the client to a server on this node.
    fn say(&mut self, connection: u64, direction: Direction, bytes: Vec<u8>) {
        let length = u32::try_from(bytes.len()).unwrap();
        let pieces = vec![Piece { offset: 0, bytes: Bytes::from(bytes) }];
        let (at, sequence) = (Timestamp(self.now), self.sequence);
        let connection = ConnectionId(connection);
        self.take(Event::Segment(Segment { at, connection, direction, sequence, length, pieces }));
    }

    fn call(&mut self, connection: u64, view: View, method: &str, authority: &str) {
        self.take(Event::Call(Box::new(Call {
            connection: ConnectionId(connection),
            stream: StreamId(1),
            view,
            method: Method::Named(method.into()),
            authority: (!authority.is_empty()).then(|| authority.into()),
            status: Status { code: Some(0), source: StatusSource::Wire },
            ending: Ending::Trailers,
            started: Timestamp(self.now.saturating_sub(MILLISECOND)),
            first_response: None,
            duration: Nanos(MILLISECOND),
            request: Messages { count: 1, bytes: 10, exact: true },
            response: Messages { count: 1, bytes: 10, exact: true },
            deadline: None,
            previous_attempts: None,
            encoding: None,
        })));
    }

    /// Time passes; the report of each step that it closed goes to `told`.
    fn pass(&mut self, nanos: u64, mut told: impl FnMut(Report)) {
        self.now += nanos;
        while self.now / 5_000_000_000 > self.closed {
            self.closed += 1;
            if let Some(report) =
                self.pipeline.tick(Timestamp(self.closed * 5_000_000_000 + 600 * MILLISECOND), |_| {})
            {
                told(report);
            }
        }
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A literal field with a new name, `insert`ed into the header table or not.
fn field(insert: bool, name: &str, value: &str) -> Vec<u8> {
    let length = |text: &str| {
        let length = text.len();
        // An integer with a prefix of seven bits (RFC 7541 section 5.1).
        if length < 127 {
            return vec![length as u8];
        }
        let (mut bytes, mut rest) = (vec![127], length - 127);
        while rest >= 128 {
            bytes.push((rest % 128) as u8 | 128);
            rest /= 128;
        }
        bytes.push(rest as u8);
        bytes
    };
    let mut bytes = vec![if insert { 0x40 } else { 0 }];
    for text in [name, value] {
        bytes.extend(length(text));
        bytes.extend(text.bytes());
    }
    bytes
}

fn request(path: &str) -> Vec<u8> {
    [vec![0x83, 0x86], field(false, ":path", path), field(false, "content-type", "application/grpc")].concat()
}

/// Runs the last step's end and gives its report.
fn last(node: &mut Node) -> Report {
    let mut last = None;
    node.pass(6_000_000_000, |report| last = Some(report));
    last.unwrap()
}

#[test]
fn a_client_that_offers_a_hundred_thousand_methods() {
    let (report, methods) = takes_at_most(16.0, || {
        let mut node = Node::new(Settings::default());
        node.identity(9, "victim");
        node.open(1, 9, Role::Server);
        let mut sequences = [1, 1];
        let start = [PREFACE, SETTINGS].concat();
        let mut say = |node: &mut Node, direction: Direction, bytes: Vec<u8>| {
            let next = &mut sequences[usize::from(direction == Direction::Sent)];
            node.sequence = *next;
            *next = next.wrapping_add(u32::try_from(bytes.len()).unwrap());
            node.say(1, direction, bytes);
        };
        say(&mut node, Direction::Received, start);
        say(&mut node, Direction::Sent, SETTINGS.to_vec());
        for number in 0..100_000_u32 {
            let path = format!("/attack.Service/{number:048}");
            let stream = 2 * number + 1;
            say(&mut node, Direction::Received, frame(1, 5, stream, &request(&path)));
            let answer = [vec![0x88], field(false, "grpc-status", "12")].concat();
            say(&mut node, Direction::Sent, frame(1, 5, stream, &answer));
            node.pass(MILLISECOND, |_| {});
        }
        let report = last(&mut node);
        let methods = node.pipeline.totals().server.len();
        (report, methods)
    });
    assert_eq!(report.coverage.calls, 100_000);
    assert!(methods <= 202, "{methods} series");
    let nameless = report.coverage.lost["method_overflow"];
    assert!(nameless >= 99_000, "only {nameless} calls are said to have lost their method's name");
}

#[test]
fn one_block_that_refers_to_a_long_entry_a_thousand_times() {
    takes_at_most(8.0, || {
        let mut node = Node::new(Settings::default());
        node.identity(9, "victim");
        node.open(1, 9, Role::Server);
        node.say(1, Direction::Received, [PREFACE, SETTINGS].concat());
        node.sequence += 33;
        for stream in 0..200_u32 {
            let mut block = field(true, "x-bomb", &"b".repeat(4000));
            block.extend([0xbe; 12_000]);
            let bytes = frame(1, 5, 2 * stream + 1, &block);
            let length = u32::try_from(bytes.len()).unwrap();
            node.say(1, Direction::Received, bytes);
            node.sequence += length;
        }
        last(&mut node)
    });
}

#[test]
fn a_connection_for_each_call() {
    let report = takes_at_most(128.0, || {
        let mut node = Node::new(Settings::default());
        node.identity(8, "caller");
        node.identity(9, "callee");
        // Two thousand connections a second for half a minute, both ends on this node.
        for pair in 0..60_000_u64 {
            node.open(2 * pair, 8, Role::Client);
            node.open(2 * pair + 1, 9, Role::Server);
            node.call(2 * pair + 1, View::Server, "a.B/C", "callee");
            node.call(2 * pair, View::Client, "a.B/C", "callee");
            for connection in [2 * pair, 2 * pair + 1] {
                let at = Timestamp(node.now);
                node.take(Event::Closed(Closed { at, connection: ConnectionId(connection) }));
            }
            node.pass(MILLISECOND / 2, |_| {});
        }
        last(&mut node)
    });
    let callee = report.services.iter().find(|service| service.name == "callee").unwrap();
    let lost = report.coverage.lost.get("connection_evicted").copied().unwrap_or(0);
    // A call is either its service's or counted as lost.
    assert!(callee.calls_total + lost >= 60_000, "{} calls, {lost} lost", callee.calls_total);
    assert!(callee.calls_total >= 59_000, "{} calls", callee.calls_total);
}

#[test]
fn twenty_thousand_ends_and_a_thousand_services() {
    // 1,000 services, each called by two others, over 20,000 ends of 10,000 connections, for 6 steps; then as many
    // strangers again, who find no room.
    let (reports, strangers) = takes_at_most(192.0, || {
        let mut node = Node::new(Settings { max_services: 1000, ..Settings::default() });
        for service in 0..1000_u64 {
            node.identity(10_000 + service, &format!("service-{service}"));
        }
        for pair in 0..10_000_u64 {
            let (caller, callee) = (pair % 1000, (pair * 7 + pair / 5000 + 1) % 1000);
            node.open(2 * pair, 10_000 + caller, Role::Client);
            node.open(2 * pair + 1, 10_000 + callee, Role::Server);
        }
        let mut reports = Vec::new();
        for _ in 0..6 {
            for pair in 0..10_000_u64 {
                node.call(2 * pair + 1, View::Server, "a.B/C", "");
                node.call(2 * pair, View::Client, "a.B/C", "");
            }
            node.pass(5_000_000_000, |report| reports.push((report.services.len(), report.coverage)));
        }
        for stranger in 0..1000_u64 {
            node.identity(20_000 + stranger, &format!("stranger-{stranger}"));
            node.open(100_000 + 2 * stranger, 20_000 + stranger, Role::Client);
        }
        let mut strangers = Vec::new();
        for _ in 0..3 {
            for stranger in 0..1000_u64 {
                node.call(100_000 + 2 * stranger, View::Client, "a.B/C", "");
            }
            node.pass(5_000_000_000, |report| strangers.push(report.coverage.lost["service_overflow"]));
        }
        (reports, strangers)
    });
    let (services, coverage) = reports.last().unwrap();
    assert_eq!(*services, 1000);
    assert_eq!(coverage.connections["unknown"] + coverage.connections["http2"], 20_000);
    assert_eq!(coverage.lost.get("connection_evicted"), None);
    assert!(strangers[1] >= 1000, "{strangers:?}");
    assert_eq!(strangers[1], strangers[2], "a service that found no room is counted once");
}

#[test]
fn header_blocks_that_never_end() {
    let report = takes_at_most(128.0, || {
        let mut node = Node::new(Settings::default());
        node.identity(9, "victim");
        // Each of ten thousand connections offers a block of 64 kB without an end.
        for connection in 1..=10_000_u64 {
            node.open(2 * connection + 1, 9, Role::Server);
        }
        let start = [PREFACE, SETTINGS].concat();
        let length = u32::try_from(start.len()).unwrap();
        for connection in 1..=10_000_u64 {
            node.sequence = 1;
            node.say(2 * connection + 1, Direction::Received, start.clone());
            node.sequence = 1 + length;
            let first = frame(1, 0, 1, &request("/a.B/C"));
            let rest = frame(9, 0, 1, &vec![0; 16_000]);
            let bytes = [first, rest.clone(), rest.clone(), rest.clone(), rest].concat();
            node.say(2 * connection + 1, Direction::Received, bytes);
        }
        // The end comes after all: what was given up is said.
        let end = length + 1 + u32::try_from(4 * 16_009 + 9 + request("/a.B/C").len()).unwrap();
        for connection in 1..=10_000_u64 {
            node.sequence = end;
            node.say(2 * connection + 1, Direction::Received, frame(9, 4, 1, &[]));
        }
        last(&mut node)
    });
    assert!(report.coverage.lost["hpack_lost"] > 9_000, "{:?}", report.coverage.lost);
}

/// Thousands of connections fill their header tables with so many entries each, and one among them calls as
/// everyone does: ten times, the first of which inserts what the others refer to.
fn tables_are_filled(connections: u64, entries: usize, field_of: impl Fn(u64, usize) -> Vec<u8>) -> Report {
    let mut node = Node::new(Settings::default());
    node.identity(9, "victim");
    let start = [PREFACE, SETTINGS].concat();
    node.open(1, 9, Role::Server);
    node.sequence = 1;
    node.say(1, Direction::Received, start.clone());
    node.say(1, Direction::Sent, SETTINGS.to_vec());
    let after = 1 + u32::try_from(start.len()).unwrap();
    let (mut asked, mut answered) = (after, 1 + u32::try_from(SETTINGS.len()).unwrap());
    for connection in 0..connections {
        let id = 2 * connection + 3;
        node.open(id, 9, Role::Server);
        node.sequence = 1;
        node.say(id, Direction::Received, start.clone());
        // The table is declared to be 64 kB.
        let mut block = vec![0x3f, 0xe1, 0xff, 0x03];
        for number in 0..entries {
            block.extend(field_of(connection, number));
        }
        node.sequence = after;
        node.say(id, Direction::Received, frame(1, 4, 1, &block));
        if connection.is_multiple_of(connections / 10) {
            let number = u8::try_from(connection / (connections / 10)).unwrap();
            let stream = 2 * u32::from(number) + 1;
            // Each call inserts one more entry in front of the path.
            let path = if number == 0 { field(true, ":path", "/a.B/C") } else { vec![0xbe + number] };
            let rest = [field(true, "x-new", "1"), field(false, "content-type", "application/grpc")].concat();
            let call = frame(1, 5, stream, &[vec![0x83, 0x86], path, rest].concat());
            node.sequence = asked;
            asked += u32::try_from(call.len()).unwrap();
            node.say(1, Direction::Received, call);
            node.sequence = answered;
            let answer = frame(1, 5, stream, &[vec![0x88], field(false, "grpc-status", "0")].concat());
            answered += u32::try_from(answer.len()).unwrap();
            node.say(1, Direction::Sent, answer);
        }
    }
    last(&mut node)
}

#[test]
fn header_tables_that_are_filled_by_many() {
    // The smallest entries take the most memory for what the RFC counts.
    let report = takes_at_most(128.0, || {
        tables_are_filled(10_000, 2048, |_, number| field(true, "", &format!("{}", number % 10)))
    });
    assert!(report.coverage.lost["hpack_lost"] > 9_000, "{:?}", report.coverage.lost);
    assert_eq!((report.coverage.calls, report.coverage.unresolved_methods), (10, 0));
    // Values that are kept, and that nobody else has.
    let report = takes_at_most(128.0, || {
        tables_are_filled(3000, 120, |connection, number| {
            field(true, ":path", &format!("/{connection}/{number:0490}"))
        })
    });
    assert!(report.coverage.lost["hpack_lost"] > 1_000, "{:?}", report.coverage.lost);
    assert_eq!((report.coverage.calls, report.coverage.unresolved_methods), (10, 0));
}
