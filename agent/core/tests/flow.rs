//! Flow control as the decoder tells it, with the `h2` crate as both peers: windows that really run dry, resets,
//! goodbyes and limits that really hold. Time stands still but for the peers' sleeps, so each number is exact.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, let_underscore_drop, reason = "tests")]

use bytes::Bytes;
use faultline_core::event::{
    Closed, Direction, Ended, EndedBy, Event, FlowSample, Opened, Piece, Role, Segment,
};
use faultline_core::rpc::Decoder;
use faultline_core::units::{CgroupId, ConnectionId, Nanos, Timestamp};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::time::{Instant, sleep};

/// Lets a sender run into its window, and everybody else be done.
const PAUSE: Duration = Duration::from_millis(300);

type Log = Arc<Mutex<Vec<Segment>>>;

/// The client's end of a pipe, which keeps what passed and when.
struct Tap {
    pipe: DuplexStream,
    log: Log,
    began: Instant,
    sequence: [u32; 2],
}

impl Tap {
    fn note(&mut self, direction: Direction, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let next = &mut self.sequence[usize::from(direction == Direction::Received)];
        let at = u64::try_from(self.began.elapsed().as_nanos()).unwrap();
        let piece = Piece { offset: 0, bytes: Bytes::copy_from_slice(bytes) };
        self.log.lock().unwrap().push(Segment {
            at: Timestamp(at),
            connection: ConnectionId(7),
            direction,
            sequence: *next,
            length: u32::try_from(bytes.len()).unwrap(),
            pieces: vec![piece],
        });
        *next += u32::try_from(bytes.len()).unwrap();
    }
}

impl AsyncRead for Tap {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.pipe).poll_read(context, buffer);
        self.note(Direction::Received, &buffer.filled()[before..]);
        polled
    }
}

impl AsyncWrite for Tap {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let polled = Pin::new(&mut self.pipe).poll_write(context, bytes);
        if let Poll::Ready(Ok(count)) = polled {
            self.note(Direction::Sent, &bytes[..count]);
        }
        polled
    }
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(context)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(context)
    }
}

/// Lets a client and a server talk; what passed at the client's end.
fn talk<C, S>(client: impl FnOnce(Tap) -> C, server: impl FnOnce(DuplexStream) -> S) -> Vec<Segment>
where
    C: Future<Output = ()>,
    S: Future<Output = ()> + Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(async {
        let (near, far) = tokio::io::duplex(1 << 22);
        let log = Log::default();
        let near = Tap { pipe: near, log: log.clone(), began: Instant::now(), sequence: [1, 1] };
        let server = tokio::spawn(server(far));
        client(near).await;
        server.await.unwrap();
        let mut log = log.lock().unwrap();
        std::mem::take(&mut *log)
    })
}

/// Everything that flow control did on the client's end, summed up; a stall that was unknown once is `None`.
fn told(role: Role, segments: Vec<Segment>) -> FlowSample {
    let (mut decoder, mut out) = (Decoder::default(), Vec::new());
    decoder.handle(
        Event::Opened(Opened {
            at: Timestamp(0),
            connection: ConnectionId(7),
            cgroup: CgroupId(3),
            role,
            local: "10.0.0.1:40000".parse().unwrap(),
            remote: "10.0.0.2:8080".parse().unwrap(),
            connect_time: None,
        }),
        &mut out,
    );
    let last = segments.last().unwrap().at;
    let mut tick = Timestamp(0);
    for segment in segments {
        // Steps of 100 ms cut every stall into parts, which must not change their sum.
        while segment.at.since(tick) > Nanos::from_millis(100) {
            tick = tick + Nanos::from_millis(100);
            decoder.tick(tick, &mut out);
        }
        decoder.handle(Event::Segment(segment), &mut out);
    }
    decoder.handle(Event::Closed(Closed { at: last, connection: ConnectionId(7) }), &mut out);
    let zero = Some(Nanos(0));
    let mut sum = FlowSample { stalled_sending: zero, stalled_receiving: zero, ..FlowSample::default() };
    let add = |a: Option<Nanos>, b: Option<Nanos>| Some(Nanos(a?.0 + b?.0));
    for event in out {
        let Event::Flow(flow) = event else { continue };
        sum.messages_sent += flow.messages_sent;
        sum.messages_received += flow.messages_received;
        sum.stalled_sending = add(sum.stalled_sending, flow.stalled_sending);
        sum.stalled_receiving = add(sum.stalled_receiving, flow.stalled_receiving);
        sum.max_streams = flow.max_streams.or(sum.max_streams);
        sum.limit_reached += flow.limit_reached;
        sum.limited = Nanos(sum.limited.0 + flow.limited.0);
        sum.ended.extend(flow.ended);
    }
    sum
}

fn message(length: usize) -> Bytes {
    let mut bytes = vec![0, 0, 0, 0, 0];
    bytes[1..].copy_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
    bytes.resize(length + 5, b'm');
    bytes.into()
}

fn request() -> http::Request<()> {
    http::Request::post("http://cart/shop.Cart/Watch")
        .header("content-type", "application/grpc")
        .body(())
        .unwrap()
}

fn response() -> http::Response<()> {
    http::Response::builder().header("content-type", "application/grpc").body(()).unwrap()
}

fn trailers() -> http::HeaderMap {
    [(http::HeaderName::from_static("grpc-status"), "0".parse().unwrap())].into_iter().collect()
}

/// Sends one message of `length` bytes and waits for the response's end, taking what comes at once.
async fn upload(tap: Tap, length: usize) {
    let (mut client, connection) = h2::client::handshake(tap).await.unwrap();
    let driver = tokio::spawn(connection);
    let (response, mut body) = client.send_request(request(), false).unwrap();
    body.send_data(message(length), true).unwrap();
    let mut answer = response.await.unwrap().into_body();
    while let Some(chunk) = answer.data().await {
        answer.flow_control().release_capacity(chunk.unwrap().len()).unwrap();
    }
    let _ = answer.trailers().await;
    drop((client, body, answer));
    driver.await.unwrap().unwrap();
}

/// Accepts one call and takes each chunk of it after a pause, in a stream window of `window` bytes and a connection
/// window of `connection` bytes.
async fn slow_reader(pipe: DuplexStream, window: u32, connection: u32) {
    let mut server = h2::server::Builder::new()
        .initial_window_size(window)
        .initial_connection_window_size(connection)
        .handshake::<_, Bytes>(pipe)
        .await
        .unwrap();
    let (request, mut respond) = server.accept().await.unwrap().unwrap();
    let call = tokio::spawn(async move {
        let mut body = request.into_body();
        let mut taken = 0;
        while let Some(chunk) = body.data().await {
            taken += chunk.unwrap().len();
            if taken >= 100_000 {
                sleep(PAUSE).await;
                body.flow_control().release_capacity(taken).unwrap();
                taken = 0;
            }
        }
        let mut answer = respond.send_response(response(), false).unwrap();
        answer.send_data(message(10), false).unwrap();
        answer.send_trailers(trailers()).unwrap();
    });
    while server.accept().await.is_some() {}
    call.await.unwrap();
}

#[test]
fn a_stream_window_that_runs_dry_stalls_its_sender() {
    // 250 kB in windows of 100 kB: the sender waits twice, then the rest fits.
    let segments = talk(|tap| upload(tap, 250_000), |pipe| slow_reader(pipe, 100_000, 1 << 24));
    let flow = told(Role::Client, segments);
    assert_eq!(flow.stalled_sending, Some(Nanos::from_millis(600)));
    assert_eq!(flow.stalled_receiving, Some(Nanos(0)));
    assert_eq!((flow.messages_sent, flow.messages_received), (1, 1));
    // h2 says goodbye when it closes a connection.
    let goodbye = Ended { by: EndedBy::GoAway, sent: true, code: 0 };
    assert_eq!((flow.limit_reached, flow.ended), (0, vec![(goodbye, 1)]));
}

#[test]
fn a_connection_window_that_runs_dry_stalls_its_sender() {
    let segments = talk(|tap| upload(tap, 150_000), |pipe| slow_reader(pipe, 1 << 24, 100_000));
    assert_eq!(told(Role::Client, segments).stalled_sending, Some(Nanos::from_millis(300)));
}

#[test]
fn windows_that_suffice_stall_nobody() {
    let segments = talk(|tap| upload(tap, 250_000), |pipe| slow_reader(pipe, 1 << 24, 1 << 24));
    let flow = told(Role::Client, segments);
    assert_eq!((flow.stalled_sending, flow.stalled_receiving), (Some(Nanos(0)), Some(Nanos(0))));
}

#[test]
fn a_client_that_takes_nothing_stalls_the_server() {
    let client = |tap| async move {
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(50_000);
        let (mut client, connection) = builder.handshake::<_, Bytes>(tap).await.unwrap();
        let driver = tokio::spawn(connection);
        let (response, _) = client.send_request(request(), true).unwrap();
        let mut body = response.await.unwrap().into_body();
        let mut taken = body.data().await.unwrap().unwrap().len();
        while taken < 50_000 {
            taken += body.data().await.unwrap().unwrap().len();
        }
        sleep(PAUSE).await;
        body.flow_control().release_capacity(taken).unwrap();
        while let Some(chunk) = body.data().await {
            body.flow_control().release_capacity(chunk.unwrap().len()).unwrap();
        }
        drop((client, body));
        driver.await.unwrap().unwrap();
    };
    let server = |pipe| async move {
        let mut server = h2::server::handshake(pipe).await.unwrap();
        let (_, mut respond) = server.accept().await.unwrap().unwrap();
        let mut body = respond.send_response(response(), false).unwrap();
        body.send_data(message(70_000), false).unwrap();
        body.send_trailers(trailers()).unwrap();
        while server.accept().await.is_some() {}
    };
    let segments = talk(client, server);
    let flow = told(Role::Client, segments.clone());
    assert_eq!(flow.stalled_sending, Some(Nanos(0)));
    assert_eq!(flow.stalled_receiving, Some(Nanos::from_millis(300)));

    // Of a connection that is older than the agent no window is known, and nothing is made up.
    let late: Vec<Segment> = segments.into_iter().skip(4).collect();
    let flow = told(Role::Unknown, late);
    assert_eq!((flow.stalled_sending, flow.stalled_receiving), (None, None));
}

#[test]
fn bytes_that_are_lost_leave_windows_unknown() {
    let mut segments = talk(|tap| upload(tap, 250_000), |pipe| slow_reader(pipe, 100_000, 1 << 24));
    // The server's words in the middle: its WINDOW_UPDATE among them.
    let place = segments.iter().position(|s| s.direction == Direction::Received && s.at > Timestamp(1));
    segments.remove(place.unwrap());
    assert_eq!(told(Role::Client, segments).stalled_sending, None);
}

#[test]
fn a_limit_on_streams_that_is_reached() {
    let client = |tap| async move {
        let (mut client, connection) = h2::client::handshake::<_>(tap).await.unwrap();
        let driver = tokio::spawn(connection);
        // The server's settings come with its first answer.
        let (first, _) = client.send_request(request(), true).unwrap();
        let _ = first.await.unwrap();
        sleep(PAUSE).await;
        let mut open = Vec::new();
        for _ in 0..3 {
            client = client.ready().await.unwrap();
            let (response, body) = client.send_request(request(), false).unwrap();
            open.push((response, body));
        }
        sleep(PAUSE).await;
        for (response, mut body) in open {
            body.send_data(message(1), true).unwrap();
            let _ = response.await.unwrap();
        }
        drop(client);
        driver.await.unwrap().unwrap();
    };
    let server = |pipe| async move {
        let mut builder = h2::server::Builder::new();
        let mut server = builder.max_concurrent_streams(3).handshake::<_, Bytes>(pipe).await.unwrap();
        while let Some(Ok((request, mut respond))) = server.accept().await {
            tokio::spawn(async move {
                let mut body = request.into_body();
                while let Some(Ok(_)) = body.data().await {}
                let _ = respond.send_response(response(), true);
            });
        }
    };
    let flow = told(Role::Client, talk(client, server));
    assert_eq!((flow.max_streams, flow.limit_reached), (Some(3), 1));
    assert_eq!(flow.limited, Nanos::from_millis(300));
}

#[test]
fn resets_and_goodbyes_are_told_by_code_and_sender() {
    let client = |tap| async move {
        let (mut client, connection) = h2::client::handshake(tap).await.unwrap();
        let driver = tokio::spawn(connection);
        let (_response, mut body) = client.send_request(request(), false).unwrap();
        body.send_data(message(1), false).unwrap();
        sleep(PAUSE).await;
        body.send_reset(h2::Reason::CANCEL);
        let (refused, _body) = client.send_request(request(), true).unwrap();
        let _ = refused.await.unwrap_err();
        drop(client);
        let _ = driver.await.unwrap();
    };
    let server = |pipe| async move {
        let mut server = h2::server::handshake::<_>(pipe).await.unwrap();
        let (_first, _respond) = server.accept().await.unwrap().unwrap();
        let (_second, mut respond): (_, h2::server::SendResponse<Bytes>) =
            server.accept().await.unwrap().unwrap();
        respond.send_reset(h2::Reason::REFUSED_STREAM);
        let _ = tokio::time::timeout(PAUSE, server.accept()).await;
        server.abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM);
        while server.accept().await.is_some() {}
    };
    let flow = told(Role::Client, talk(client, server));
    let reset = |sent, code| Ended { by: EndedBy::Reset, sent, code };
    assert!(flow.ended.contains(&(reset(true, 8), 1)), "{:?}", flow.ended);
    assert!(flow.ended.contains(&(reset(false, 7), 1)), "{:?}", flow.ended);
    let goodbye = Ended { by: EndedBy::GoAway, sent: false, code: 11 };
    assert!(flow.ended.contains(&(goodbye, 1)), "{:?}", flow.ended);
    assert_eq!(goodbye.code_name(), "ENHANCE_YOUR_CALM");
}
