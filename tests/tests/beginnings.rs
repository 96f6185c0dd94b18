//! Connections that do not begin as most do: bytes that come with the handshake, and HTTP/1 that becomes HTTP/2. Each
//! call must be exact on both ends, and no byte missing.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use e2e::raw::{Frame, PREFACE, block, flag, kind};
use e2e::traffic::message;
use e2e::watched::watched;
use e2e::weather::Weather;
use faultline_core::call::{Call, Ending, Method, View};
use faultline_core::event::Event;
use faultline_core::rpc::Decoder;
use http::{HeaderMap, Request, Response};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::TcpFastOpenConnect;
use std::io::Write;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Has the listener wait for data, this many seconds at most, before it accepts.
fn defer_accept(listener: &TcpListener, seconds: i32) {
    let size = size_of_val(&seconds) as u32;
    let (level, option) = (nix::libc::IPPROTO_TCP, nix::libc::TCP_DEFER_ACCEPT);
    // SAFETY: the descriptor is open, and the value is as long as we say. Neither std nor nix know this option.
    let failed = unsafe {
        nix::libc::setsockopt(listener.as_raw_fd(), level, option, (&raw const seconds).cast(), size)
    };
    assert_eq!(failed, 0);
}

/// Calls on each connection, one after the other.
const CALLS: usize = 20;

/// Any network; its own, so that what it is told is nobody else's.
const LOOPBACK: Weather = Weather { netem: "", mtu: 65_536, single: false, sack: true };

/// Answers each call of a connection with a message and status 0.
async fn serve(socket: TcpStream) {
    let mut connection = h2::server::handshake(socket).await.unwrap();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        tokio::spawn(async move {
            let mut body = request.into_body();
            while let Some(chunk) = body.data().await {
                let length = chunk.unwrap().len();
                body.flow_control().release_capacity(length).unwrap();
            }
            let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
            let mut stream = respond.send_response(head, false).unwrap();
            stream.send_data(message(64), false).unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            stream.send_trailers(trailers).unwrap();
        });
    }
}

/// Makes calls, each with a message of `length` bytes.
async fn call(socket: TcpStream, length: usize) {
    let (mut client, connection) = h2::client::handshake(socket).await.unwrap();
    let driver = tokio::spawn(connection);
    for _ in 0..CALLS {
        client = client.ready().await.unwrap();
        let request = Request::post("http://begin/pkg.Begin/Call").header("content-type", "application/grpc");
        let (response, mut body) = client.send_request(request.body(()).unwrap(), false).unwrap();
        body.send_data(message(length), true).unwrap();
        let mut answer = response.await.unwrap().into_body();
        while let Some(chunk) = answer.data().await {
            let length = chunk.unwrap().len();
            answer.flow_control().release_capacity(length).unwrap();
        }
        answer.trailers().await.unwrap().unwrap();
    }
    drop(client);
    driver.await.unwrap().ok();
}

/// The same by hand, from stream 3 on: stream 1 is the request that asked for HTTP/2.
fn call_behind_another(mut socket: std::net::TcpStream, length: usize) {
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/pkg.Begin/Call"),
        (":authority", "begin"),
        ("content-type", "application/grpc"),
    ];
    socket.write_all(&[PREFACE, &Frame::new(kind::SETTINGS, 0, 0, &[]).bytes()].concat()).unwrap();
    for stream in (0..CALLS).map(|number| 2 * u32::try_from(number).unwrap() + 3) {
        let head = Frame::new(kind::HEADERS, flag::END_HEADERS, stream, &block(&fields));
        let body = Frame::new(kind::DATA, flag::END_STREAM, stream, &message(length));
        socket.write_all(&[head.bytes(), body.bytes()].concat()).unwrap();
        while !Frame::read(&mut socket).is_ok_and(|frame| frame.stream == stream && frame.ends_stream()) {}
    }
}

/// Both ends' calls are as they were made, and nothing was missed.
#[track_caller]
fn exact(events: Vec<Event>, connections: usize, length: usize) {
    let mut decoder = Decoder::default();
    let mut out = Vec::new();
    for event in events {
        decoder.handle(event, &mut out);
    }
    let mut calls: Vec<Box<Call>> = Vec::new();
    for event in out {
        match event {
            Event::Call(call) => calls.push(call),
            Event::Lost(lost) => panic!("{lost:?}"),
            Event::Sampled(sample) => assert_eq!(sample.unseen, 0, "{sample:?}"),
            _ => {}
        }
    }
    for view in [View::Client, View::Server] {
        let count = calls.iter().filter(|call| call.view == view).count();
        assert_eq!(count, connections * CALLS, "of the {view:?}");
    }
    for call in calls {
        assert_eq!(call.method, Method::Named("pkg.Begin/Call".into()));
        assert_eq!((call.status.code, call.ending), (Some(0), Ending::Trailers), "{call:?}");
        assert_eq!((call.request.count, call.request.bytes, call.request.exact), (1, length as u64, true));
        assert_eq!((call.response.count, call.response.bytes, call.response.exact), (1, 64, true));
        assert_eq!(call.authority.as_deref(), Some("begin"));
    }
}

/// Serves so many connections.
fn serving(listener: TcpListener, connections: usize) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let mut open = tokio::task::JoinSet::new();
        for _ in 0..connections {
            open.spawn(serve(listener.accept().await.unwrap().0));
        }
        open.join_all().await;
    })
}

fn deferred(name: &str, address: &'static str, length: usize) {
    let (events, ()) = watched(name, async move {
        let listener = TcpListener::bind(address).await.unwrap();
        defer_accept(&listener, 5);
        let server = listener.local_addr().unwrap();
        let serving = serving(listener, 3);
        for _ in 0..3 {
            call(TcpStream::connect(server).await.unwrap(), length).await;
        }
        serving.await.unwrap();
    });
    exact(events, 3, length);
}

#[test]
fn accepted_when_data_come() {
    deferred("deferred", "127.0.0.1:0", 100);
}

#[test]
fn accepted_when_data_come_of_ipv6() {
    deferred("deferred6", "[::1]:0", 100);
}

#[test]
fn accepted_when_data_come_with_large_messages() {
    deferred("deferredlarge", "127.0.0.1:0", 200_000);
}

/// A client that speaks with its SYN, to a server that takes it at its word or does not.
fn fast_open(name: &str, taken: bool) {
    let watching = std::thread::spawn({
        let name = name.to_owned();
        move || {
            LOOPBACK.begin();
            // 1 and 4: clients may, and need no cookie; 2, 0x200 and 0x400: so may every server.
            let bits = if taken { 0x607 } else { 0x5 };
            std::fs::write("/proc/sys/net/ipv4/tcp_fastopen", bits.to_string()).unwrap();
            watched(&name, async move {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let server = listener.local_addr().unwrap();
                let serving = serving(listener, 2);
                for _ in 0..2 {
                    call(eager(server).await, 100).await;
                }
                serving.await.unwrap();
                std::fs::read_to_string("/proc/thread-self/net/netstat").unwrap()
            })
        }
    });
    let (events, counters) = watching.join().unwrap();
    assert_eq!(counter(&counters, "TCPFastOpenPassive") > 0, taken, "the test tests what it says");
    exact(events, 2, 100);
}

/// A connection whose first bytes go out with its SYN.
async fn eager(server: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    setsockopt(&socket, TcpFastOpenConnect, &true).unwrap();
    socket.connect(server).await.unwrap()
}

/// A number of `/proc/net/netstat`: a line of names, then one of values.
fn counter(netstat: &str, name: &str) -> u64 {
    let lines: Vec<Vec<&str>> = netstat.lines().map(|line| line.split(' ').collect()).collect();
    let (names, values) = (&lines[0], &lines[1]);
    let place = names.iter().position(|each| *each == name).unwrap();
    values[place].parse().unwrap()
}

#[test]
fn data_with_the_first_packet() {
    fast_open("fastopen", true);
}

#[test]
fn data_with_the_first_packet_that_the_server_does_not_take() {
    fast_open("fastrefused", false);
}

/// HTTP/2 by a request of HTTP/1; the answer comes with the first frames, or before them.
fn upgraded(name: &str, with_frames: bool, body: usize) {
    let (events, ()) = watched(name, async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let request = read_head(&mut socket).await;
            assert!(request.contains("Upgrade: h2c"));
            socket.read_exact(&mut vec![0; body]).await.unwrap();
            let mut answer =
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n".to_vec();
            if with_frames {
                // What the server of the calls says itself comes after these.
                let fields =
                    block(&[(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "0")]);
                answer.extend(Frame::new(kind::SETTINGS, 0, 0, &[]).bytes());
                answer.extend(
                    Frame::new(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 1, &fields).bytes(),
                );
            }
            socket.write_all(&answer).await.unwrap();
            serve(socket).await;
        });
        let mut socket = TcpStream::connect(server).await.unwrap();
        let head = format!(
            "POST /pkg.Begin/Call HTTP/1.1\r\nHost: begin\r\nConnection: Upgrade, HTTP2-Settings\r\n\
             Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nContent-Length: {body}\r\n\r\n"
        );
        socket.write_all(head.as_bytes()).await.unwrap();
        socket.write_all(&vec![b'x'; body]).await.unwrap();
        let answer = read_head(&mut socket).await;
        assert!(answer.starts_with("HTTP/1.1 101 "));
        let socket = socket.into_std().unwrap();
        socket.set_nonblocking(false).unwrap();
        tokio::task::spawn_blocking(|| call_behind_another(socket, 100)).await.unwrap();
        serving.await.unwrap();
    });
    exact(events, 1, 100);
}

/// Reads up to the empty line, and not a byte more.
async fn read_head(socket: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

#[test]
fn upgraded_from_http1() {
    upgraded("upgrade", false, 10);
}

#[test]
fn upgraded_from_http1_with_the_first_frames_in_the_answer() {
    upgraded("upgradeframes", true, 0);
}

#[test]
fn upgraded_from_http1_after_a_large_request() {
    upgraded("upgradelarge", true, 300_000);
}
