//! Real calls over networks that lose, reorder, double, delay and cut packets, against what the application says
//! of them. Needs netem, which few hosts have as they are: `cargo xtask test kernels` runs it in its guests.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use e2e::agent::PATIENCE;
use e2e::exactness;
use e2e::planned::{Plan, Plans, make, serve};
use e2e::tally::{Tally, tally};
use e2e::watched::{segments, watched};
use e2e::weather::{Weather, lose};
use faultline_core::event::{Direction, Event, Segment};
use faultline_core::units::Nanos;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// An Ethernet that hands over packets one by one.
const ETHERNET: Weather = Weather { netem: "", mtu: 1_500, single: true, sack: true };

/// Runs traffic in this weather, on a thread of its own: the network that it gets is no other test's.
fn watched_in<T: Send + 'static>(
    name: &str,
    begin: impl FnOnce() + Send + 'static,
    traffic: impl Future<Output = T> + Send + 'static,
) -> (Vec<Event>, T) {
    let name = name.to_owned();
    let watching = std::thread::spawn(move || {
        begin();
        watched(&name, traffic)
    });
    watching.join().unwrap()
}

/// Calls on each of so many connections at once, `concurrent` at a time, made again so many times.
#[derive(Clone, Copy)]
struct Load {
    connections: u64,
    times: u64,
    calls: usize,
    concurrent: usize,
    /// Bytes of the only message each way, where not all shapes are wanted.
    message: Option<usize>,
}

const LOAD: Load = Load { connections: 4, times: 1, calls: 150, concurrent: 10, message: None };

impl Load {
    fn plans(self, seed: u64) -> Vec<Plan> {
        let mut plans: Vec<Plan> = Plans(seed).take(self.calls).collect();
        if let Some(length) = self.message {
            for plan in &mut plans {
                (plan.requests, plan.responses) = (vec![length], vec![length]);
            }
        }
        plans
    }
}

fn calls_in(name: &str, weather: Weather, load: Load) -> Tally {
    let (events, made) = watched_in(name, move || weather.begin(), async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap();
        let serving = serve(listener);
        let clients: Vec<_> = (0..load.connections)
            .map(|seed| {
                tokio::spawn(async move {
                    let mut made = Vec::new();
                    for time in 0..load.times {
                        let plans = load.plans(seed + time * load.connections);
                        made.extend(make(server, plans, load.concurrent).await.unwrap());
                    }
                    made
                })
            })
            .collect();
        let mut made = Vec::new();
        for client in clients {
            made.extend(client.await.unwrap());
        }
        serving.abort();
        made
    });
    let tally = tally(&made, events);
    println!("{name}: {tally}");
    tally
}

/// What TCP sends again has come by then: its first timeout is 200 ms and more.
const AGAIN: Duration = Duration::from_secs(1);

/// A hole is given up after a second, which the decoder notices at the latest at its next tick; the rest is for a
/// guest that gets little time.
const LATEST: Nanos = Nanos::from_secs(4);

/// Never wrong, and what is missing was told, in time. How much is exact is the weather's doing: one header block that
/// is lost early leaves all further calls of that connection's end open, and there are few connections.
#[track_caller]
fn is_trusted(tally: &Tally) {
    assert!(tally.wrong.is_empty(), "{:#?}", tally.wrong);
    assert!(tally.unseen * 1_000 <= tally.views, "{tally}");
    assert!(tally.exact * 2 >= tally.views, "{tally}");
    assert!(tally.latest < LATEST, "{tally}");
}

#[test]
fn loss_and_reordering() {
    let weather = Weather { netem: "delay 2ms loss 1% reorder 5%", ..ETHERNET };
    is_trusted(&calls_in("loss-and-reordering", weather, LOAD));
}

#[test]
fn loss_without_selective_acknowledgement() {
    let weather = Weather { netem: "delay 2ms loss 2% reorder 5%", sack: false, ..ETHERNET };
    is_trusted(&calls_in("no-sack", weather, LOAD));
}

#[test]
fn duplication() {
    let weather = Weather { netem: "delay 1ms 1ms duplicate 20%", ..ETHERNET };
    is_trusted(&calls_in("duplication", weather, LOAD));
}

#[test]
fn tiny_segments() {
    let weather = Weather { netem: "delay 2ms loss 1% reorder 5%", mtu: 160, ..ETHERNET };
    is_trusted(&calls_in("tiny-segments", weather, Load { calls: 60, ..LOAD }));
}

#[test]
fn huge_segments() {
    let weather = Weather { netem: "delay 2ms loss 1% reorder 5%", mtu: 65_536, single: false, ..ETHERNET };
    is_trusted(&calls_in("huge-segments", weather, LOAD));
}

/// Bodies are skipped in the kernel; behind a hole it is lost until a segment begins with a frame.
#[test]
fn large_messages() {
    let weather = Weather { netem: "delay 2ms loss 1% reorder 5%", ..ETHERNET };
    let load = Load { connections: 2, calls: 4, concurrent: 1, message: Some(1 << 20), ..LOAD };
    is_trusted(&calls_in("large-messages", weather, load));
}

#[test]
fn connections_come_and_go() {
    let weather = Weather { netem: "delay 2ms loss 1% reorder 5%", ..ETHERNET };
    is_trusted(&calls_in(
        "short-connections",
        weather,
        Load { connections: 10, times: 15, calls: 3, concurrent: 1, ..LOAD },
    ));
}

/// Bytes of one write, and whether they are lost on their first way. None: what was lost comes again meanwhile.
type Write = (usize, bool);

/// A client writes a stream of frames piece by piece; both ends must be told all of it, byte for byte. How many bytes
/// were copied at the client and at the server.
#[track_caller]
fn every_byte_is_told(
    name: &str,
    weather: Weather,
    stream: fn(usize) -> Vec<u8>,
    writes: &'static [Write],
) -> [usize; 2] {
    let stream = stream(writes.iter().map(|(length, _)| length).sum());
    let truth = stream.clone();
    let (events, ()) = watched_in(name, move || weather.begin_dropping(), async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        client.set_nodelay(true).unwrap();
        let mut rest = &stream[..];
        for (length, lost) in writes {
            let (piece, behind) = rest.split_at(*length);
            if *length == 0 {
                tokio::time::sleep(AGAIN).await;
            }
            lose(&client, *lost);
            client.write_all(piece).await.unwrap();
            rest = behind;
        }
        lose(&client, false);
        let mut received = vec![0; stream.len()];
        let reading = server.read_exact(&mut received);
        tokio::time::timeout(PATIENCE, reading).await.unwrap().unwrap();
        assert_eq!(received, stream);
    });
    [Direction::Sent, Direction::Received].map(|direction| {
        let segments: Vec<Segment> =
            segments(&events).filter(|segment| segment.direction == direction).cloned().collect();
        let summary = exactness::check(&segments, &truth, truth.len());
        println!("{name}, {direction:?}: {summary:?}");
        assert!(summary.is_ok(), "{name}, {direction:?}: {summary:?}; {segments:#?}");
        summary.unwrap().copied
    })
}

/// The client's preface, its SETTINGS, and header blocks of 40 bytes each, as many bytes as asked for.
fn stream(length: usize) -> Vec<u8> {
    let mut stream = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    for number in 0u8.. {
        if stream.len() >= length {
            break;
        }
        stream.extend([0, 0, 40, 1, 4, 0, 0, 0, number * 2 + 1]);
        stream.extend([number; 40]);
    }
    stream.truncate(length);
    stream
}

/// The same, and one request whose message, in frames of 300 bytes, is full of what would be frames elsewhere.
fn deceptive(length: usize) -> Vec<u8> {
    const PING: [u8; 17] = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    let mut stream = stream(82);
    let body = [&[0], &u32::try_from(length).unwrap().to_be_bytes()[..], &PING.repeat(length / 17)].concat();
    for part in body.chunks(300) {
        if stream.len() >= length {
            break;
        }
        stream.extend([0, 1, 44, 0, 0, 0, 0, 0, 1]);
        stream.extend(part);
    }
    stream.truncate(length);
    stream
}

/// What comes first at the server says nothing: it begins inside a frame.
#[test]
fn the_beginning_comes_last() {
    every_byte_is_told(
        "beginning-last",
        ETHERNET,
        stream,
        &[(53, true), (29, false), (49, false), (49, false)],
    );
}

#[test]
fn two_holes_at_once() {
    let writes = &[(33, false), (49, true), (49, false), (49, true), (30, false), (19, false), (49, false)];
    every_byte_is_told("two-holes", ETHERNET, stream, writes);
}

#[test]
fn a_hole_at_the_end_of_another() {
    let weather = Weather { sack: false, ..ETHERNET };
    let writes = &[(33, false), (49, true), (49, true), (49, false), (49, true), (49, true)];
    every_byte_is_told("holes-without-sack", weather, stream, writes);
}

/// What comes behind the hole begins as frames do, but is none; what comes after it is filled is skipped again.
#[test]
fn a_hole_in_a_body_that_looks_like_frames() {
    let writes = &[
        (782, false),
        (700, true),
        (700, true),
        (1_400, false),
        (1_400, false),
        (0, false),
        (60_000, false),
    ];
    for sack in [true, false] {
        let weather = Weather { sack, ..ETHERNET };
        let [sent, received] = every_byte_is_told("deceptive-body", weather, deceptive, writes);
        assert!(
            received < sent + 4_000,
            "{sent} bytes copied where nothing was lost, {received} where it was"
        );
    }
}
