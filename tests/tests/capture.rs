//! What the kernel programs capture of real HTTP/2 over loopback, byte for byte against what passed.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use bytes::Bytes;
use e2e::agent::PATIENCE;
use e2e::exactness::{Summary, check};
use e2e::tap::{Copy, Tap};
use e2e::traffic::message;
use e2e::watched::{Cgroup, Watching, segments, watched};
use faultline_core::event::{Direction, Event, Protocol, Role, Segment};
use faultline_core::units::ConnectionId;
use http::{HeaderMap, Request, Response};
use std::collections::{BTreeSet, HashMap};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Runs traffic with the programs attached; gives the events and the copies.
fn captured<F>(name: &str, traffic: impl FnOnce(Copies) -> F) -> (Vec<Event>, Vec<Copy>)
where
    F: Future<Output = ()>,
{
    let copies = Copies::default();
    let (events, ()) = watched(name, traffic(copies.clone()));
    let copies = copies.0.lock().unwrap().clone();
    (events, copies)
}

#[derive(Clone, Default)]
struct Copies(Arc<Mutex<Vec<Copy>>>);

impl Copies {
    fn tap(&self, stream: TcpStream) -> Tap {
        stream.set_nodelay(true).unwrap();
        let (tap, copy) = Tap::new(stream);
        self.0.lock().unwrap().push(copy);
        tap
    }
}

/// Calls on one connection.
#[derive(Clone, Copy)]
struct Load {
    calls: usize,
    concurrent: usize,
    messages: usize,
    length: usize,
    frame: u32,
    /// Milliseconds between calls.
    pause: u64,
    /// Calls go on until this is set, however many they are.
    until: Option<&'static AtomicBool>,
}

const UNARY: Load =
    Load { calls: 50, concurrent: 1, messages: 1, length: 100, frame: 16_384, pause: 0, until: None };

/// Echoes: the server answers each call with as many messages of the same length.
async fn echo(copies: Copies, load: Load) {
    echo_on(TcpListener::bind("127.0.0.1:0").await.unwrap(), copies, load).await;
}

async fn echo_on(listener: TcpListener, copies: Copies, load: Load) {
    let address = listener.local_addr().unwrap();
    let taps = copies.clone();
    let server = tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::Builder::new()
            .initial_window_size(1 << 20)
            .initial_connection_window_size(1 << 22)
            .max_frame_size(load.frame)
            .max_concurrent_streams(1_000)
            .handshake::<_, Bytes>(taps.tap(socket))
            .await
            .unwrap();
        while let Some(call) = connection.accept().await {
            let (request, mut respond) = match call {
                Ok(call) => call,
                Err(error) => {
                    eprintln!("the server gave up: {error}");
                    break;
                }
            };
            tokio::spawn(async move {
                let mut body = request.into_body();
                while let Some(chunk) = body.data().await {
                    let length = chunk.unwrap().len();
                    body.flow_control().release_capacity(length).unwrap();
                }
                let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
                let mut stream = respond.send_response(head, false).unwrap();
                for _ in 0..load.messages {
                    stream.send_data(message(load.length), false).unwrap();
                }
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", "0".parse().unwrap());
                stream.send_trailers(trailers).unwrap();
            });
        }
    });
    let socket = TcpStream::connect(address).await.unwrap();
    let (client, connection) = h2::client::Builder::new()
        .initial_window_size(1 << 20)
        .initial_connection_window_size(1 << 22)
        .max_frame_size(load.frame)
        .handshake(copies.tap(socket))
        .await
        .unwrap();
    let driver = tokio::spawn(connection);
    let mut rounds = 0..load.calls / load.concurrent;
    let goes_on = || load.until.is_some_and(|until| !until.load(Ordering::Relaxed));
    while rounds.next().is_some() || goes_on() {
        let calls: Vec<_> = (0..load.concurrent)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(async move {
                    let mut client = client.ready().await.unwrap();
                    let request = Request::post("http://echo/pkg.Echo/Ok")
                        .header("content-type", "application/grpc")
                        .body(())
                        .unwrap();
                    let (response, mut body) = client.send_request(request, false).unwrap();
                    for sent in 1..=load.messages {
                        body.send_data(message(load.length), sent == load.messages).unwrap();
                    }
                    let mut answer = response.await.unwrap().into_body();
                    while let Some(chunk) = answer.data().await {
                        let length = chunk.unwrap().len();
                        answer.flow_control().release_capacity(length).unwrap();
                    }
                    answer.trailers().await.unwrap().unwrap();
                })
            })
            .collect();
        for call in calls {
            call.await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(load.pause)).await;
    }
    drop(client);
    // Every answer was read; whose goodbye comes first is of no interest.
    driver.await.unwrap().ok();
    server.await.ok();
}

/// Both directions of both ends against what passed.
fn exact(events: &[Event], copies: &[Copy]) -> Vec<Summary> {
    let lost: Vec<_> = events.iter().filter(|event| matches!(event, Event::Lost(_))).collect();
    assert!(lost.is_empty(), "{lost:?}");
    let mut directions: HashMap<(ConnectionId, Direction), Vec<Segment>> = HashMap::new();
    for segment in segments(events) {
        directions.entry((segment.connection, segment.direction)).or_default().push(segment.clone());
    }
    let mut summaries = Vec::new();
    for copy in copies {
        let opened = events.iter().find_map(|event| match event {
            Event::Opened(opened) if opened.local == copy.local && opened.remote == copy.remote => {
                Some(opened)
            }
            _ => None,
        });
        let opened = opened.unwrap();
        assert_ne!(opened.role, Role::Unknown);
        // An end may close without reading the last bytes that it received.
        let peer = copies.iter().find(|peer| peer.local == copy.remote).unwrap();
        let sent = copy.sent.lock().unwrap().clone();
        let peer_sent = peer.sent.lock().unwrap().clone();
        let read = copy.received.lock().unwrap().len();
        for (direction, truth, arrived) in
            [(Direction::Sent, &sent, sent.len()), (Direction::Received, &peer_sent, read)]
        {
            match check(&directions[&(opened.connection, direction)], truth, arrived) {
                Ok(summary) => summaries.push(summary),
                Err(error) => panic!("{:?} of {:?}: {error}", direction, opened.role),
            }
        }
    }
    summaries
}

#[track_caller]
fn echo_is_exact(name: &str, load: Load) -> Vec<Summary> {
    let (events, copies) = captured(name, |copies| echo(copies, load));
    assert_eq!(copies.len(), 2);
    let summaries = exact(&events, &copies);
    println!("{name}: {summaries:?}");
    summaries
}

#[test]
fn unary_calls() {
    echo_is_exact("unary", UNARY);
}

#[test]
fn a_large_message() {
    let load = Load { calls: 3, length: 3 << 20, ..UNARY };
    // Where two CPUs bring segments out of order, as emulated ones do now and then, a direction is lost for a while
    // and its bytes go out as they are.
    for summary in echo_is_exact("large", load) {
        assert!(summary.copied * 2 < summary.bytes, "bodies must be skipped: {summary:?}");
    }
}

#[test]
fn large_frames() {
    echo_is_exact("frames", Load { calls: 4, concurrent: 2, length: 2 << 20, frame: 1 << 20, ..UNARY });
}

#[test]
fn a_stream_of_large_messages() {
    echo_is_exact("stream", Load { calls: 1, messages: 20, length: 1 << 20, ..UNARY });
}

#[test]
fn many_small_messages_in_a_stream() {
    // More of them at once, and the server takes it for an attack.
    echo_is_exact("small", Load { calls: 60, concurrent: 2, messages: 200, length: 30, ..UNARY });
}

#[test]
fn many_streams_at_once() {
    echo_is_exact("streams", Load { calls: 1_000, concurrent: 200, length: 20_000, ..UNARY });
}

#[test]
fn headers_inside_a_message_are_told_together() {
    let load = Load { calls: 5, length: 1 << 20, ..UNARY };
    let (events, copies) = captured("together", |copies| echo(copies, load));
    exact(&events, &copies);
    let of_headers =
        |segment: &&Segment| segment.pieces.iter().filter(|piece| piece.bytes.len() == 9).count();
    let together = segments(&events).filter(|segment| of_headers(segment) > 2).count();
    assert!(together > 0, "each header went out alone");
}

/// A receiver that takes its time holds up the sender in the middle of a message, at the last byte that it was
/// granted: what was sent is told before the answer that it may go on.
#[test]
fn what_one_side_said_is_told_before_what_the_other_answers() {
    const PAUSE: Duration = Duration::from_millis(150);
    const WINDOW: u32 = 1 << 17;
    let (events, copies) = captured("stalled", |copies| async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let taps = copies.clone();
        let server = tokio::spawn(async move {
            let (socket, _) = listener.accept().await.unwrap();
            let mut server = h2::server::Builder::new();
            server.initial_window_size(WINDOW).initial_connection_window_size(1 << 22);
            let mut connection = server.handshake::<_, Bytes>(taps.tap(socket)).await.unwrap();
            while let Some(call) = connection.accept().await {
                let (request, mut respond) = call.unwrap();
                tokio::spawn(async move {
                    let (mut body, mut owed) = (request.into_body(), 0);
                    while let Some(chunk) = body.data().await {
                        owed += chunk.unwrap().len();
                        if owed >= WINDOW as usize {
                            tokio::time::sleep(PAUSE).await;
                            body.flow_control().release_capacity(std::mem::take(&mut owed)).unwrap();
                        }
                    }
                    respond.send_response(Response::new(()), true).unwrap();
                });
            }
        });
        let socket = TcpStream::connect(address).await.unwrap();
        let (mut client, connection) = h2::client::handshake(copies.tap(socket)).await.unwrap();
        let driver = tokio::spawn(connection);
        let request = Request::post("http://echo/pkg.Echo/Ok").header("content-type", "application/grpc");
        let (response, mut body) = client.send_request(request.body(()).unwrap(), false).unwrap();
        body.send_data(message(4 * WINDOW as usize), true).unwrap();
        response.await.unwrap();
        drop((client, body));
        driver.await.unwrap().ok();
        server.await.ok();
    });
    exact(&events, &copies);
    let mut latest: HashMap<ConnectionId, u64> = HashMap::new();
    for segment in segments(&events) {
        let before = latest.entry(segment.connection).or_default();
        let late = before.saturating_sub(segment.at.0);
        assert!(late < 100_000_000, "told {late} ns behind what came after it: {segment:?}");
        *before = segment.at.0.max(*before);
    }
}

/// Only some of them are timed, all of them count.
#[test]
fn many_quick_answers_of_another_protocol_are_as_many_exchanges() {
    const COUNT: u32 = 5_000;
    let began = Instant::now();
    let (events, _) = captured("quick", |_| async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        client.set_nodelay(true).unwrap();
        server.set_nodelay(true).unwrap();
        for _ in 0..COUNT {
            client.write_all(b"*1\r\n$4\r\nPING\r\n").await.unwrap();
            server.read_exact(&mut [0; 14]).await.unwrap();
            server.write_all(b"+PONG\r\n").await.unwrap();
            client.read_exact(&mut [0; 7]).await.unwrap();
        }
    });
    let elapsed = began.elapsed();
    let mut seen: HashMap<ConnectionId, (u32, u32, u64)> = HashMap::new();
    for event in &events {
        if let Event::Sampled(sample) = event {
            let sums = seen.entry(sample.connection).or_default();
            sums.0 += sample.exchanges.count;
            sums.1 += sample.exchanges.histogram.iter().sum::<u32>();
            sums.2 += sample.exchanges.total.0;
        }
    }
    assert_eq!(seen.len(), 2, "both ends: {seen:?}");
    for (count, places, nanos) in seen.into_values() {
        assert_eq!((count, places), (COUNT, COUNT));
        // One followed the other, so that they cannot have taken longer than all of it.
        assert!(nanos > 0 && u128::from(nanos) <= elapsed.as_nanos(), "{nanos} ns in {elapsed:?}");
    }
}

#[test]
fn a_slow_answer_of_another_protocol_is_an_exchange() {
    let (events, _) = captured("exchange", |_| async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        for _ in 0..10 {
            client.write_all(b"*1\r\n$4\r\nPING\r\n").await.unwrap();
            server.read_exact(&mut [0; 14]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
            server.write_all(b"+PONG\r\n").await.unwrap();
            client.read_exact(&mut [0; 7]).await.unwrap();
        }
    });
    assert!(segments(&events).next().is_none(), "bytes of another protocol left");
    let samples: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::Sampled(sample) => Some(sample),
            _ => None,
        })
        .collect();
    let count: u32 = samples.iter().map(|sample| sample.exchanges.count).sum();
    assert_eq!(count, 20, "ten on each end: {samples:?}");
    for sample in samples {
        assert_eq!(sample.protocol, Protocol::Other);
        assert!(sample.exchanges.max.as_millis_f64() >= 20.0, "{sample:?}");
        // An emulated machine may take longer, never shorter.
        let told: u32 = sample.exchanges.histogram[14..].iter().sum();
        assert_eq!(told, sample.exchanges.count, "20 ms are more than 2^14 us: {sample:?}");
    }
    assert_eq!(events.iter().filter(|event| matches!(event, Event::Closed(_))).count(), 2);
}

#[test]
fn a_refused_connect_is_told() {
    let mut refused = None;
    let (events, _) = captured("refused", |_| async {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        TcpStream::connect(free).await.unwrap_err();
        refused = Some(free);
    });
    let failed = events.iter().find_map(|event| match event {
        Event::ConnectFailed(failed) => Some(failed),
        _ => None,
    });
    let failed = failed.unwrap();
    assert_eq!(Some(failed.remote), refused);
    assert_ne!(failed.cgroup.0, 0);
}

/// Drops one in fifty packets to some port before TCP sees them. Undone at the end.
struct Losses;

impl Losses {
    fn begin(port: u16) -> Option<Self> {
        let rules = format!(
            "table ip faultline_test {{ chain in {{ type filter hook input priority 0; \
             tcp dport {port} meta length > 100 numgen random mod 50 < 1 drop; }}; }}"
        );
        let made = Command::new("nft").arg(rules).status().is_ok_and(|status| status.success());
        made.then_some(Self)
    }
}

impl Drop for Losses {
    fn drop(&mut self) {
        Command::new("nft").arg("delete table ip faultline_test").status().unwrap();
    }
}

#[test]
fn what_is_lost_and_sent_again_is_put_in_order() {
    let mut lossy = true;
    let (events, copies) = captured("losses", |copies| {
        let lossy = &mut lossy;
        async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let losses = Losses::begin(listener.local_addr().unwrap().port());
            *lossy = losses.is_some();
            echo_on(listener, copies, Load { calls: 600, length: 3_000, ..UNARY }).await;
        }
    });
    if !lossy {
        eprintln!("skipped: nft cannot drop packets here");
        return;
    }
    println!("losses: {:?}", exact(&events, &copies));
}

#[test]
fn a_connection_older_than_the_probes_is_joined() {
    let (events, _) = joined_late();
    let opened: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::Opened(opened) => Some(opened.role),
            _ => None,
        })
        .collect();
    assert_eq!(opened, [Role::Unknown, Role::Unknown]);
    let spoken: BTreeSet<_> =
        segments(&events).map(|segment| (segment.connection, segment.direction == Direction::Sent)).collect();
    assert_eq!(spoken.len(), 4, "both directions of both ends");
    let closed = events.iter().filter(|event| matches!(event, Event::Closed(_))).count();
    // The end that closes first is a TIME_WAIT remnant, which no program sees, when the other's FIN comes late.
    assert!((1..=2).contains(&closed), "{closed} ends closed");
}

/// The probes have watched for long enough: an emulated machine takes seconds to attach them.
static WATCHED: AtomicBool = AtomicBool::new(false);

/// Calls on one connection; the probes come between them.
fn joined_late() -> (Vec<Event>, Vec<Copy>) {
    let cgroup = Cgroup::enter("late");
    let copies = Copies::default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let events = runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let load = Load { calls: 10, pause: 100, until: Some(&WATCHED), ..UNARY };
        let paused = tokio::spawn(echo_on(listener, copies.clone(), load));
        tokio::time::sleep(Duration::from_millis(1_000)).await;
        let watching = Watching::begin(cgroup.attach());
        tokio::time::sleep(Duration::from_millis(2_000)).await;
        WATCHED.store(true, Ordering::Relaxed);
        paused.await.unwrap();
        watching.end().await
    });
    drop(runtime);
    drop(cgroup);
    let copies = copies.0.lock().unwrap().clone();
    (events, copies)
}

/// What the verifier went through, by kernel series and program; the file says how to renew it.
const VERIFIED: &str = include_str!("../verified.txt");

#[test]
fn the_verifier_has_hardly_more_to_prove_than_recorded() {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let series = release.split(['.', '-']).take(2).collect::<Vec<_>>().join(".");
    let cgroup = Cgroup::enter("verified");
    let probes = cgroup.attach();
    let ids = probes.program_ids();
    let counts = aya::programs::loaded_programs().flatten().filter_map(|program| {
        let (name, _) = ids.iter().find(|(_, id)| *id == program.id())?;
        Some((name.clone(), program.verified_instruction_count()?))
    });
    let counts: Vec<_> = counts.collect();
    drop(probes);
    assert_eq!(counts.len(), 3, "the kernel does not count: {counts:?}");
    // All of them first: whoever renews the file needs each.
    counts.iter().for_each(|(program, count)| println!("{series} {program} {count}"));
    for (program, count) in counts {
        let recorded = VERIFIED.lines().find_map(|line| {
            let fields: Vec<_> = line.split(' ').collect();
            let [of, name, recorded] = fields[..] else { return None };
            (of == series && name == program).then(|| recorded.parse::<u32>().unwrap())
        });
        // A kernel that nobody recorded has nothing to be compared with.
        if let Some(recorded) = recorded {
            let most = recorded + recorded / 10;
            assert!(count <= most, "{program} on {series}: {count} instructions, {recorded} were recorded");
        }
    }
}

#[test]
fn nothing_stays_attached() {
    let links =
        || -> BTreeSet<u32> { aya::programs::loaded_links().map(|link| link.unwrap().id()).collect() };
    let before = links();
    let cgroup = Cgroup::enter("detach");
    let probes = cgroup.attach();
    assert_eq!(links().len(), before.len() + 3);
    drop(probes);
    // The kernel frees a link after a grace period.
    let dropped = Instant::now();
    while links() != before {
        assert!(dropped.elapsed() < PATIENCE, "links stay attached");
        std::thread::sleep(Duration::from_millis(20));
    }
}
