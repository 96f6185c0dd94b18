//! Frames written by hand: what real stacks rarely send, how calls end, and the decoder's bounds.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod conversation;

use bytes::Bytes;
use conversation::{CONNECTION, closed, opened, segment};
use expect_test::{Expect, expect};
use faultline_core::call::Messages;
use faultline_core::event::{Direction, Event, Role};
use faultline_core::rpc::Decoder;
use faultline_core::units::{ConnectionId, Timestamp};
use std::fmt::Write;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn text(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0, name.len() as u8];
    bytes.extend(name.bytes());
    bytes.push(value.len() as u8);
    bytes.extend(value.bytes());
    bytes
}

/// `POST /a.B/C` with gRPC's content type.
fn request() -> Vec<u8> {
    [vec![0x83, 0x86], text(":path", "/a.B/C"), text("content-type", "application/grpc")].concat()
}

fn head() -> Vec<u8> {
    [vec![0x88], text("content-type", "application/grpc")].concat()
}

/// A message of `size` bytes.
fn message(size: u32) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend(size.to_be_bytes());
    bytes.extend(vec![b'x'; size as usize]);
    bytes
}

enum Step {
    Client(Vec<u8>),
    Server(Vec<u8>),
    Tick(u64),
    Close,
}

use Step::{Client, Close, Server, Tick};

/// Plays the steps one millisecond apart on a connection seen from its start; says what came out.
fn play(steps: Vec<Step>) -> String {
    let mut decoder = Decoder::default();
    let mut out = Vec::new();
    decoder.handle(opened(Role::Server), &mut out);
    let mut sequence = [0u32; 2];
    let mut at = 0;
    let start = [Client([PREFACE, SETTINGS].concat()), Server(SETTINGS.to_vec())];
    for step in start.into_iter().chain(steps) {
        at += 1_000_000;
        let (place, direction, bytes) = match step {
            Client(bytes) => (0, Direction::Received, bytes),
            Server(bytes) => (1, Direction::Sent, bytes),
            Tick(seconds) => {
                at += seconds * 1_000_000_000;
                decoder.tick(Timestamp(at), &mut out);
                continue;
            }
            Close => {
                decoder.handle(closed(at), &mut out);
                continue;
            }
        };
        let made = segment(at, direction, sequence[place], Bytes::from(bytes));
        sequence[place] += made.length;
        decoder.handle(Event::Segment(made), &mut out);
    }
    let mut said = String::new();
    let more = |messages: Messages| if messages.exact { "" } else { " or more" };
    for event in &out {
        match event {
            Event::Call(call) => writeln!(
                said,
                "{} {} {:?} {:?} {:?}, {} ms, response after {:?}, {} ({} B){} / {} ({} B){}",
                call.stream.0,
                call.method.label(),
                call.ending,
                call.status.code,
                call.status.source,
                call.duration.0 / 1_000_000,
                call.first_response.map(|t| t.0 / 1_000_000),
                call.request.count,
                call.request.bytes,
                more(call.request),
                call.response.count,
                call.response.bytes,
                more(call.response)
            ),
            Event::InFlight(flight) => writeln!(
                said,
                "in flight: {}, oldest unanswered {:?} ms",
                flight.streams,
                flight.oldest_unanswered.map(|t| t.0 / 1_000_000)
            ),
            Event::Lost(loss) => writeln!(said, "lost {}: {}", loss.reason.name(), loss.count),
            _ => Ok(()),
        }
        .unwrap();
    }
    said
}

fn check(steps: Vec<Step>, expected: &Expect) {
    expected.assert_eq(&play(steps));
}

#[test]
fn padding_priority_continuation_and_unknown_frames() {
    let block = request();
    let (front, back) = block.split_at(9);
    let mut padded = vec![3, 0, 0, 0, 0, 16];
    padded.extend(front);
    padded.extend([0; 3]);
    let mut body = vec![2];
    body.extend(message(4));
    body.extend([0; 2]);
    check(
        vec![
            Client([frame(1, 0x28, 1, &padded), frame(9, 0x4, 1, back)].concat()),
            Client(
                [frame(0x20, 0xff, 1, b"grease"), frame(2, 0, 1, &[0; 5]), frame(0, 0x9, 1, &body)].concat(),
            ),
            Server(
                [frame(8, 0, 0, &[0, 0, 1, 0]), frame(6, 0, 0, &[0; 8]), frame(1, 0x4, 1, &head())].concat(),
            ),
            Server(frame(0, 0, 1, &message(7))),
            Server(frame(1, 0x5, 1, &text("grpc-status", "5"))),
        ],
        &expect![[r#"
            1 a.B/C Trailers Some(5) Wire, 4 ms, response after Some(2), 1 (4 B) / 1 (7 B)
        "#]],
    );
}

#[test]
fn endings() {
    let open = |stream| Client(frame(1, 0x4, stream, &request()));
    check(
        vec![
            open(1),
            Server(frame(3, 0, 1, &[0, 0, 0, 7])),
            open(3),
            Client(frame(3, 0, 3, &[0, 0, 0, 8])),
            open(5),
            Server(frame(1, 0x5, 5, &[vec![0x8d], text("content-type", "text/html")].concat())),
            open(7),
            Server([frame(1, 0x4, 7, &head()), frame(0, 0x1, 7, &message(1))].concat()),
            open(9),
            Server(frame(1, 0x5, 9, &[head(), text("grpc-status", "99")].concat())),
            // Plain HTTP/2 is not a call.
            Client(frame(1, 0x5, 11, &[vec![0x82, 0x86, 0x84], text("x", "y")].concat())),
            Server(frame(1, 0x5, 11, &[0x88])),
            open(13),
            Close,
        ],
        &expect![[r#"
            1 a.B/C Reset { code: 7, by_client: false } Some(14) Inferred, 1 ms, response after None, 0 (0 B) or more / 0 (0 B)
            3 a.B/C Reset { code: 8, by_client: true } Some(1) Inferred, 1 ms, response after None, 0 (0 B) / 0 (0 B) or more
            5 a.B/C TrailersOnly Some(12) Inferred, 1 ms, response after Some(1), 0 (0 B) or more / 0 (0 B)
            7 a.B/C EndStream None Unknown, 1 ms, response after Some(1), 0 (0 B) or more / 1 (1 B)
            9 a.B/C TrailersOnly Some(2) Wire, 1 ms, response after Some(1), 0 (0 B) or more / 0 (0 B)
            13 a.B/C ConnectionClosed None Unknown, 1 ms, response after None, 0 (0 B) or more / 0 (0 B) or more
        "#]],
    );
}

#[test]
fn a_reset_right_behind_the_answer_waits_for_the_clients_end() {
    let asks =
        |stream| Client([frame(1, 0x4, stream, &request()), frame(0, 0, stream, &message(4))].concat());
    let answers = |stream| {
        let trailers = frame(1, 0x5, stream, &text("grpc-status", "0"));
        let reset = frame(3, 0, stream, &[0; 4]);
        Server([frame(1, 0x4, stream, &head()), frame(0, 0, stream, &message(7)), trailers, reset].concat())
    };
    let ends = |stream| Client(frame(0, 0x1, stream, b""));
    // Of the last one half a message was on its way.
    let half = message(4);
    let begins =
        |stream| Client([frame(1, 0x4, stream, &request()), frame(0, 0, stream, &half[..7])].concat());
    check(
        vec![asks(1), answers(1), ends(1), asks(3), answers(3), begins(5), answers(5), Tick(1)],
        &expect![[r#"
            1 a.B/C Trailers Some(0) Wire, 1 ms, response after Some(1), 1 (4 B) / 1 (7 B)
            3 a.B/C Trailers Some(0) Wire, 1 ms, response after Some(1), 1 (4 B) / 1 (7 B)
            5 a.B/C Trailers Some(0) Wire, 1 ms, response after Some(1), 1 (2 B) or more / 1 (7 B)
        "#]],
    );
}

#[test]
fn a_cancellation_after_the_deadline_is_the_deadline() {
    let open = |stream, timeout: &str| {
        Client(frame(1, 0x4, stream, &[request(), text("grpc-timeout", timeout)].concat()))
    };
    let cancel = |stream| Client(frame(3, 0, stream, &[0, 0, 0, 8]));
    check(
        vec![
            open(1, "1m"),
            cancel(1),
            // gRPC C++ writes a little more than it waits.
            open(3, "2m"),
            cancel(3),
            // So near to its deadline nobody can tell.
            open(5, "3m"),
            cancel(5),
            open(7, "2m"),
            Client(SETTINGS.to_vec()),
            Server(frame(3, 0, 7, &[0, 0, 0, 8])),
            open(9, "3S"),
            cancel(9),
        ],
        &expect![[r#"
            1 a.B/C Reset { code: 8, by_client: true } Some(4) Inferred, 1 ms, response after None, 0 (0 B) / 0 (0 B) or more
            3 a.B/C Reset { code: 8, by_client: true } Some(4) Inferred, 1 ms, response after None, 0 (0 B) / 0 (0 B) or more
            5 a.B/C Reset { code: 8, by_client: true } None Unknown, 1 ms, response after None, 0 (0 B) / 0 (0 B) or more
            7 a.B/C Reset { code: 8, by_client: false } Some(4) Inferred, 2 ms, response after None, 0 (0 B) or more / 0 (0 B)
            9 a.B/C Reset { code: 8, by_client: true } Some(1) Inferred, 1 ms, response after None, 0 (0 B) / 0 (0 B) or more
        "#]],
    );
}

#[test]
fn in_flight_and_abandoned() {
    check(
        vec![
            Client(frame(1, 0x5, 1, &request())),
            Client(frame(1, 0x5, 3, &request())),
            Server(frame(1, 0x4, 1, &head())),
            Tick(5),
            Server([frame(0, 0, 3, &[]), frame(1, 0x5, 1, &text("grpc-status", "0"))].concat()),
            Tick(3601),
        ],
        &expect![[r#"
            in flight: 2, oldest unanswered Some(5002) ms
            1 a.B/C Trailers Some(0) Wire, 5004 ms, response after Some(2), 0 (0 B) / 0 (0 B)
            3 a.B/C Abandoned None Unknown, 3606004 ms, response after None, 0 (0 B) / 0 (0 B) or more
            lost stream_evicted: 1
        "#]],
    );
}

/// A bad frame loses the place; frames are found again with the next segment, and what needs the header table
/// is unknown while the literals are right.
#[test]
fn bad_frame_and_back() {
    check(
        vec![
            Client(frame(1, 0x5, 1, &request())),
            Client([frame(6, 0, 0, &[0; 3]), b"nonsense".to_vec()].concat()),
            Client([frame(1, 0x4, 3, &request()), frame(0, 0x1, 3, &message(2))].concat()),
            Server([frame(1, 0x4, 3, &head()), frame(0, 0, 3, &message(2))].concat()),
            Server(frame(1, 0x5, 3, &text("grpc-status", "0"))),
        ],
        &expect![[r#"
            lost malformed_frame: 1
            lost hpack_lost: 1
            3 a.B/C Trailers Some(0) Wire, 2 ms, response after Some(1), 1 (2 B) / 1 (2 B)
        "#]],
    );
}

#[test]
fn streams_beyond_the_bound_leave() {
    let opens = (0..5000u32).map(|n| Client(frame(1, 0x5, 2 * n + 1, &request()))).collect();
    let said = play(opens);
    assert_eq!(said.matches("lost stream_evicted").count(), 5000 - 4096);
    assert_eq!(said.matches("Abandoned None Unknown").count(), 5000 - 4096);
}

#[test]
fn connections_beyond_the_bound_leave() {
    let mut decoder = Decoder::default();
    let mut out = Vec::new();
    for id in 0..40_000u64 {
        let mut made = segment(id, Direction::Sent, 0, Bytes::from_static(PREFACE));
        made.connection = ConnectionId(id + CONNECTION.0);
        decoder.handle(Event::Segment(made), &mut out);
    }
    let evicted = out.iter().map(|e| if let Event::Lost(loss) = e { loss.count } else { 0 }).sum::<u64>();
    assert!((40_000 - 32_768..12_000).contains(&evicted), "{evicted}");
}
