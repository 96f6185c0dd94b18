//! What a peer may send but real gRPC stacks rarely do, under the agent: padding on every frame, header blocks in
//! shreds. The other end is the h2 crate, which says whether it is HTTP/2 at all.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use e2e::agent::Agent;
use e2e::raw::{Frame, PREFACE, block, flag, kind, padded_body, shredded};
use e2e::stacks::seen::{self, Seen};
use e2e::traffic;
use faultline_core::call::{Call, Method, View};
use nix::sys::signal::Signal;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::{self, sleep};
use std::time::Duration;

/// Calls a connection; in each the first DATA frame holds one byte more.
const CALLS: u32 = 12;

/// The bytes of a request's message.
const REQUEST: usize = 3_000;

/// The bytes of the response's message, as [`traffic::serve`] answers.
const RESPONSE: usize = 64;

/// Runs traffic under the agent; the calls under an authority.
fn watched(authority: &str, traffic: impl FnOnce()) -> (Vec<Call>, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let recording = folder.path().join("recording");
    let agent = Agent::start(&["--step", "1s", "--record", recording.to_str().unwrap()]);
    traffic();
    sleep(Duration::from_millis(2_000));
    assert_eq!(agent.end(Signal::SIGTERM), Some(0));
    let seen: Vec<Seen> = seen::read(&recording).into_values().collect();
    let lost = seen.iter().map(|seen| format!("{:?}", seen.lost)).filter(|lost| lost != "{}").collect();
    let calls = seen.into_iter().flat_map(|seen| seen.calls);
    (calls.filter(|call| call.authority.as_deref() == Some(authority)).collect(), lost)
}

/// Every call is seen at both ends, and everything about it is exact.
#[track_caller]
fn all_exact(calls: &[Call], lost: &[String], count: u32) {
    for view in [View::Client, View::Server] {
        let seen = calls.iter().filter(|call| call.view == view).count();
        assert_eq!(seen, count as usize, "{view:?}; lost: {lost:?}");
    }
    for call in calls {
        assert_eq!(call.method, Method::Named("pkg.Echo/Ok".into()), "{call:?}");
        assert_eq!(call.status.code, Some(0), "{call:?}");
        assert_eq!((call.request.count, call.request.bytes), (1, REQUEST as u64), "{call:?}");
        assert_eq!((call.response.count, call.response.bytes), (1, RESPONSE as u64), "{call:?}");
        assert!(call.request.exact && call.response.exact, "{call:?}");
    }
}

fn request(authority: &str) -> Vec<u8> {
    block(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/pkg.Echo/Ok"),
        (":authority", authority),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ])
}

#[test]
fn a_client_that_pads_and_shreds() {
    let authority = "padded-client:1";
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (calls, lost) = watched(authority, || {
        let (server, _task) = runtime.block_on(traffic::serve());
        let mut socket = TcpStream::connect(server).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.write_all(PREFACE).unwrap();
        socket.write_all(&Frame::new(kind::SETTINGS, 0, 0, &[]).bytes()).unwrap();
        for call in 0..CALLS {
            let stream = call * 2 + 1;
            let shreds = shredded(stream, &request(authority), 5, false);
            let body = padded_body(stream, &traffic::message(REQUEST), call as usize, true);
            // Each frame in a segment of its own, then all in one.
            let frames: Vec<Vec<u8>> = shreds.iter().chain(&body).map(Frame::bytes).collect();
            let writes = if call % 2 == 0 { frames } else { vec![frames.concat()] };
            for bytes in writes {
                socket.write_all(&bytes).unwrap();
            }
            while !Frame::read(&mut socket).unwrap().ends_stream() {}
        }
    });
    all_exact(&calls, &lost, CALLS);
}

#[test]
fn a_server_that_pads_and_shreds() {
    let authority = "padded-server:1";
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (calls, lost) = watched(authority, || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || serve_padded(&listener));
        let paths = ["/pkg.Echo/Ok"; CALLS as usize];
        runtime.block_on(traffic::call(address, authority, &paths, REQUEST));
        server.join().unwrap();
    });
    all_exact(&calls, &lost, CALLS);
}

/// Answers one connection's calls, each at its end, until the client goes.
fn serve_padded(listener: &TcpListener) {
    let (mut socket, _) = listener.accept().unwrap();
    socket.set_nodelay(true).unwrap();
    socket.read_exact(&mut [0; PREFACE.len()]).unwrap();
    socket.write_all(&Frame::new(kind::SETTINGS, 0, 0, &[]).bytes()).unwrap();
    while let Ok(frame) = Frame::read(&mut socket) {
        if frame.kind == kind::SETTINGS && frame.flags & flag::END_STREAM == 0 {
            let acknowledged = Frame::new(kind::SETTINGS, flag::END_STREAM, 0, &[]);
            socket.write_all(&acknowledged.bytes()).unwrap();
        }
        if !frame.ends_stream() {
            continue;
        }
        let head = block(&[(":status", "200"), ("content-type", "application/grpc")]);
        let mut frames = shredded(frame.stream, &head, 3, false);
        let cut = (frame.stream / 2) as usize;
        frames.extend(padded_body(frame.stream, &traffic::message(RESPONSE), cut, false));
        frames.extend(shredded(frame.stream, &block(&[("grpc-status", "0")]), 2, true));
        for bytes in frames.iter().map(Frame::bytes) {
            socket.write_all(&bytes).unwrap();
        }
    }
}
