//! What the network, the kernel and the agent's start do to a conversation: segments doubled, reordered, lost,
//! bodies left out, the beginning missed. A call may be missing then (and is counted), but what is said of a
//! call is never wrong.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod conversation;

use bytes::Bytes;
use conversation::*;
use faultline_core::call::{Call, Method};
use faultline_core::event::{Direction, Event, LossReason, Piece, Role, Segment};
use faultline_core::rpc::Decoder;
use faultline_core::units::Timestamp;
use proptest::prelude::*;
use std::collections::BTreeMap;

type Said = BTreeMap<u32, Planned>;

struct Outcome {
    calls: Vec<Call>,
    lost: Vec<LossReason>,
}

/// Decodes with a tick every `tick` segments, and one long after the last.
fn decode(role: Role, segments: Vec<Segment>, tick: usize) -> Outcome {
    let mut decoder = Decoder::default();
    let mut out = Vec::new();
    decoder.handle(opened(role), &mut out);
    let mut last = Timestamp(1);
    for (index, segment) in segments.into_iter().enumerate() {
        last = segment.at.max(last);
        decoder.handle(Event::Segment(segment), &mut out);
        if index % tick == tick - 1 {
            decoder.tick(last, &mut out);
        }
    }
    decoder.tick(Timestamp(last.0 + 10_000_000_000), &mut out);
    decoder.handle(closed(last.0 + 20_000_000_000), &mut out);
    let mut outcome = Outcome { calls: Vec::new(), lost: Vec::new() };
    for event in out {
        match event {
            Event::Call(call) => outcome.calls.push(*call),
            Event::Lost(loss) => outcome.lost.push(loss.reason),
            _ => {}
        }
    }
    outcome
}

/// What may be said of each ending's status.
fn code(planned: &Planned) -> u8 {
    match planned.end {
        End::Trailers(code) | End::TrailersOnly(code) => code,
        End::ServerReset(2) => 13,
        End::ServerReset(7) => 14,
        End::ServerReset(11) => 8,
        End::ServerReset(_) | End::ClientReset(_) => 1,
    }
}

fn never_wrong(said: &Said, outcome: &Outcome) -> Result<(), TestCaseError> {
    let mut seen = std::collections::BTreeSet::new();
    for call in &outcome.calls {
        let planned = said.get(&call.stream.0);
        prop_assert!(planned.is_some(), "a call that nobody made: {call:?}");
        let planned = planned.unwrap();
        prop_assert!(seen.insert(call.stream), "twice: {call:?}");
        if let Method::Named(name) = &call.method {
            prop_assert_eq!(&**name, METHODS[planned.method]);
        }
        if let Some(said) = call.status.code {
            prop_assert_eq!(said, code(planned), "{:?}", call);
        }
        if call.request.exact && !matches!(planned.end, End::ClientReset(_)) {
            prop_assert!(call.request.count as usize <= planned.requests.len());
        }
        prop_assert!(call.response.count as usize <= planned.responses.len());
    }
    Ok(())
}

fn all_right(said: &Said, outcome: &Outcome) -> Result<(), TestCaseError> {
    never_wrong(said, outcome)?;
    prop_assert_eq!(said.len(), outcome.calls.len());
    for call in &outcome.calls {
        let planned = &said[&call.stream.0];
        prop_assert!(matches!(call.method, Method::Named(_)));
        prop_assert_eq!(call.status.code, Some(code(planned)));
        prop_assert!(call.request.exact);
        prop_assert_eq!(call.response.exact, !matches!(planned.end, End::ClientReset(_)));
        if matches!(planned.end, End::Trailers(_)) {
            prop_assert_eq!(call.response.count as usize, planned.responses.len());
            prop_assert_eq!(call.response.bytes, planned.responses.iter().sum::<usize>() as u64);
            prop_assert_eq!(call.request.count as usize, planned.requests.len());
            prop_assert_eq!(call.request.bytes, planned.requests.iter().sum::<usize>() as u64);
        }
    }
    prop_assert!(outcome.lost.is_empty(), "{:?}", outcome.lost);
    Ok(())
}

/// Moves segments by up to `reach` places within a run of one direction: what causes what stays in order.
fn shuffle(segments: &[Segment], moves: &[usize]) -> Vec<Segment> {
    let mut moves = moves.iter().copied().cycle();
    let mut shuffled: Vec<Segment> = Vec::new();
    for run in segments.chunk_by(|a, b| a.direction == b.direction) {
        // No segment passes more than the largest move of others.
        let mut run: Vec<(usize, &Segment)> =
            run.iter().enumerate().map(|(place, s)| (place + moves.next().unwrap_or(0), s)).collect();
        run.sort_by_key(|(place, _)| *place);
        shuffled.extend(run.into_iter().map(|(_, segment)| segment.clone()));
    }
    for (index, segment) in shuffled.iter_mut().enumerate() {
        segment.at = Timestamp(1_000_000 + index as u64 * 1000);
    }
    shuffled
}

/// For each direction, which bytes the kernel program leaves out: message bodies inside DATA frames.
fn bodies(taps: &Taps) -> [Vec<bool>; 2] {
    [Direction::Sent, Direction::Received].map(|direction| {
        let bytes: Vec<u8> =
            taps.iter().filter(|(d, _)| *d == direction).flat_map(|(_, b)| b.iter().copied()).collect();
        let mut skipped = vec![false; bytes.len()];
        let mut at = if direction == Direction::Sent { 24 } else { 0 };
        let mut messages: BTreeMap<u32, (usize, Vec<u8>)> = BTreeMap::new();
        while at + 9 <= bytes.len() {
            let length = u32::from_be_bytes([0, bytes[at], bytes[at + 1], bytes[at + 2]]) as usize;
            let stream = u32::from_be_bytes(bytes[at + 5..at + 9].try_into().unwrap());
            let data = bytes[at + 3] == 0;
            at += 9;
            for place in at..(at + length).min(bytes.len()) {
                let (left, prefix) = messages.entry(stream).or_default();
                if !data {
                    break;
                }
                if *left > 0 {
                    *left -= 1;
                    skipped[place] = true;
                } else {
                    prefix.push(bytes[place]);
                    if prefix.len() == 5 {
                        *left = u32::from_be_bytes(prefix[1..5].try_into().unwrap()) as usize;
                        prefix.clear();
                    }
                }
            }
            at += length;
        }
        skipped
    })
}

/// Leaves out what the mask says, wherever that is at least `least` bytes in a row of a segment.
fn skip(segments: Vec<Segment>, skipped: &[Vec<bool>; 2], least: usize) -> Vec<Segment> {
    let mut offsets = [0usize; 2];
    let mut left_out = segments;
    for segment in &mut left_out {
        let from = offsets[place(segment.direction)];
        offsets[place(segment.direction)] += segment.length as usize;
        let bytes = segment.pieces[0].bytes.clone();
        let mask = &skipped[place(segment.direction)][from..from + bytes.len()];
        let mut pieces: Vec<Piece> = Vec::new();
        let mut at = 0;
        for run in mask.chunk_by(|a, b| a == b) {
            if !run[0] || run.len() < least {
                pieces.push(Piece { offset: at as u32, bytes: bytes.slice(at..at + run.len()) });
            }
            at += run.len();
        }
        segment.pieces = pieces;
    }
    left_out
}

fn plan() -> impl Strategy<Value = Vec<Planned>> {
    prop::collection::vec(planned(), 1..10)
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![1usize..60, 20usize..2000, 1usize..20_000], 1..30)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn doubled_and_reordered(
        plan in plan(), at_once: bool, cuts in cuts(),
        moves in prop::collection::vec(0usize..6, 1..20),
        twice in prop::collection::vec(any::<bool>(), 1..20),
    ) {
        let (taps, said) = hold(&plan, at_once);
        let mut segments = Vec::new();
        for (segment, twice) in cut(&taps, &cuts).into_iter().zip(twice.iter().cycle()) {
            segments.push(segment.clone());
            if *twice {
                segments.push(segment);
            }
        }
        all_right(&said, &decode(Role::Client, shuffle(&segments, &moves), 1000))?;
    }

    #[test]
    fn bodies_left_out(plan in plan(), at_once: bool, cuts in cuts(), least in 1usize..300) {
        let (taps, said) = hold(&plan, at_once);
        let segments = skip(cut(&taps, &cuts), &bodies(&taps), least);
        all_right(&said, &decode(Role::Client, segments.clone(), 1000))?;
        let late = segments.into_iter().skip(cuts[0] % 5);
        never_wrong(&said, &decode(Role::Unknown, late.collect(), 1000))?;
    }

    #[test]
    fn joined_late(plan in plan(), at_once: bool, cuts in cuts(), from: prop::sample::Index, role in 0..3) {
        let (taps, said) = hold(&plan, at_once);
        let segments = cut(&taps, &cuts);
        let from = from.index(segments.len());
        let role = [Role::Unknown, Role::Client, Role::Server][role as usize];
        never_wrong(&said, &decode(role, segments[from..].to_vec(), 7))?;
    }

    #[test]
    fn segments_lost(
        plan in plan(), at_once: bool, cuts in cuts(),
        lost in prop::collection::vec(0u8..100, 1..300), share in 1u8..30, slow: bool,
    ) {
        let (taps, said) = hold(&plan, at_once);
        let mut segments = cut(&taps, &cuts);
        let before = segments.len();
        let mut chance = lost.iter().cycle();
        segments.retain(|_| *chance.next().unwrap() >= share);
        if slow {
            for segment in &mut segments {
                segment.at = Timestamp(segment.at.0 * 300);
            }
        }
        let outcome = decode(Role::Client, segments.clone(), 5);
        never_wrong(&said, &outcome)?;
        if segments.len() == before {
            all_right(&said, &outcome)?;
        }
    }

    #[test]
    fn anything_at_all(
        junk in prop::collection::vec((any::<bool>(), 0u32..4000, prop::collection::vec(any::<u8>(), 0..200), 0u32..3000), 0..200),
        role in 0..3, in_order: bool,
    ) {
        let mut sequence = [0u32; 2];
        let segments = junk.into_iter().enumerate().map(|(index, (sent, at, bytes, more))| {
            let direction = if sent { Direction::Sent } else { Direction::Received };
            let next = &mut sequence[place(direction)];
            let mut made = segment(index as u64 * 50_000_000, direction, if in_order { *next } else { at }, Bytes::from(bytes));
            made.length = made.length.saturating_sub(more % 7) + more;
            made.pieces[0].offset = more / 2;
            *next = next.wrapping_add(made.length);
            made
        });
        let role = [Role::Unknown, Role::Client, Role::Server][role as usize];
        decode(role, segments.collect(), 9);
    }
}

/// A prefix of the connection is missed; calls that begin later are named and have their status.
#[test]
fn calls_after_a_late_join_are_seen() {
    let plan = vec![
        Planned {
            method: 2,
            requests: vec![40],
            responses: vec![900],
            end: End::Trailers(0),
            timeout: Some(50)
        };
        60
    ];
    let (taps, said) = hold(&plan, false);
    for from in 3..60 {
        let segments = cut(&taps, &[700]);
        let rest = segments[from..].to_vec();
        let outcome = decode(Role::Unknown, rest, 1000);
        never_wrong(&said, &outcome).unwrap();
        let missed = said.len() - outcome.calls.len();
        assert!(missed <= from.div_ceil(2) + 2, "{missed} of {} missed after {from}", said.len());
        for call in &outcome.calls {
            assert_eq!(call.method, Method::Named(METHODS[2].into()));
            assert_eq!(call.status.code, Some(0));
        }
    }
}
