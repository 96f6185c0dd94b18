//! Asks the decoder about a damaged conversation: whatever it says of a call is what was said on the wire, and
//! where nothing is missing it says everything.

use super::damage::{Damage, segments};
use super::{Choices, End, Said, Talk, talk};
use faultline_core::call::{Call, Method};
use faultline_core::event::{Closed, Event, Loss, Opened, Role, Segment};
use faultline_core::rpc::Decoder;
use faultline_core::units::{CgroupId, ConnectionId, Nanos, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

pub(crate) const CONNECTION: ConnectionId = ConnectionId(7);

/// Steps of a conversation at most; most inputs are shorter.
const STEPS: usize = 120;

/// A hole is waited for a second and a beginning for less; a sweep comes with each tick.
const PATIENCE: u64 = 2_000_000_000;

/// Bytes that a connection of which nothing is waited for may keep: two searches and two split blocks.
const MOST_KEPT: usize = 400 * 1024;

/// What was decoded.
#[derive(Debug, Default)]
pub(crate) struct Decoded {
    pub calls: Vec<Call>,
    pub lost: Vec<Loss>,
}

/// What became of the beginning and of the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Whole,
    Reordered,
    JoinedLate,
    Lossy,
}

/// Plays one conversation that the input describes, damaged in one way that it describes too.
pub(crate) fn check(input: &[u8]) {
    let mut choices = Choices(input);
    let fate = choices.of(&[Fate::Whole, Fate::Reordered, Fate::JoinedLate, Fate::Lossy]);
    let role = choices.of(&[Role::Client, Role::Unknown]);
    let bodies = choices.chance(128);
    let damage = match fate {
        Fate::Whole | Fate::JoinedLate => Damage { bodies, apart: 1000, ..Damage::default() },
        Fate::Reordered => Damage { bodies, doubled: 30, moved: 4, apart: 1000, ..Damage::default() },
        Fate::Lossy => {
            let apart = choices.of(&[1000, 50_000_000, 300_000_000]);
            Damage { bodies, lost: 1 + choices.byte() % 60, doubled: 10, moved: choices.byte() % 4, apart }
        }
    };
    let late = usize::from(choices.byte());
    // The damage is decided by what the conversation leaves, and by where it lies if it leaves nothing.
    let (spoken, mut harm) = (choices.0.len() * 3 / 4, choices);
    let mut spoken = Choices(&choices.0[..spoken]);
    harm.0 = &harm.0[spoken.0.len()..];
    let talk = talk(&mut spoken, STEPS);
    let mut sent = segments(&talk.taps, CONNECTION, damage, &mut harm);
    let (mut role, mut whole) = (role, matches!(fate, Fate::Whole | Fate::Reordered));
    if fate == Fate::JoinedLate {
        sent.drain(..late.min(sent.len()));
        role = Role::Unknown;
    }
    whole &= role != Role::Unknown || fate == Fate::Whole;
    let decoded = decode(role, sent, 7);
    never_wrong(&talk, &decoded);
    if whole {
        all_said(&talk, &decoded);
    }
}

/// Decodes with a tick every `tick` segments, one long after the last, and the connection's end.
pub(crate) fn decode(role: Role, segments: Vec<Segment>, tick: usize) -> Decoded {
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
    decoder.tick(Timestamp(last.0 + PATIENCE), &mut out);
    assert!(decoder.held() <= MOST_KEPT, "{} bytes are kept for nothing", decoder.held());
    decoder
        .handle(Event::Closed(Closed { at: Timestamp(last.0 + PATIENCE), connection: CONNECTION }), &mut out);
    assert_eq!(decoder.held(), 0);
    let mut decoded = Decoded::default();
    for event in out {
        match event {
            Event::Call(call) => decoded.calls.push(*call),
            Event::Lost(loss) => decoded.lost.push(loss),
            _ => {}
        }
    }
    decoded
}

fn opened(role: Role) -> Event {
    Event::Opened(Opened {
        at: Timestamp(1),
        connection: CONNECTION,
        cgroup: CgroupId(3),
        role,
        local: ([10, 0, 0, 1], 40_000).into(),
        remote: ([10, 0, 0, 2], 8080).into(),
        connect_time: None,
    })
}

/// The status that a call has, by its end.
fn status(said: &Said, expired: bool) -> Option<u8> {
    Some(match said.end {
        End::Open => return None,
        End::Trailers(status) | End::TrailersOnly(status) => status,
        End::Reset { code: 8, .. } if expired => 4,
        End::Reset { code: 2, .. } => 13,
        End::Reset { code: 7, .. } => 14,
        End::Reset { code: 11, .. } => 8,
        End::Reset { .. } => 1,
    })
}

/// What was said of each call is right.
pub(crate) fn never_wrong(talk: &Talk, decoded: &Decoded) {
    let mut seen = BTreeSet::new();
    let mut pseudonyms: BTreeMap<u64, &str> = BTreeMap::new();
    for call in &decoded.calls {
        let said = talk.said.get(&call.stream.0);
        let said = said.unwrap_or_else(|| panic!("a call that nobody made: {call:?}"));
        assert!(seen.insert(call.stream), "twice: {call:?}");
        match &call.method {
            Method::Named(name) => assert_eq!(&**name, said.method, "{call:?}"),
            Method::Unresolved(0) => {}
            Method::Unresolved(number) => {
                let method = pseudonyms.entry(*number).or_insert(said.method);
                assert_eq!(*method, said.method, "two methods with one pseudonym: {call:?}");
            }
        }
        if let Some(code) = call.status.code {
            let expired = said.timeout_ms.is_some_and(|ms| {
                call.duration >= Nanos::from_millis(ms.into()) || call.duration.0 > 500_000_000
            });
            assert!(
                Some(code) == status(said, false) || Some(code) == status(said, expired),
                "{call:?} of {said:?}"
            );
        }
        if let Some(deadline) = call.deadline {
            assert_eq!(Some(deadline), said.timeout_ms.map(|ms| Nanos::from_millis(ms.into())), "{call:?}");
        }
        for (messages, sizes) in [(call.request, &said.requests), (call.response, &said.responses)] {
            let right = (sizes.len(), sizes.iter().sum::<usize>() as u64);
            let got = (messages.count as usize, messages.bytes);
            if messages.exact {
                assert_eq!(got, right, "{call:?} of {said:?}");
            } else {
                assert!(got.0 <= right.0 && got.1 <= right.1, "{call:?} of {said:?}");
            }
        }
    }
}

/// Everything that was said was decoded.
fn all_said(talk: &Talk, decoded: &Decoded) {
    assert!(decoded.lost.is_empty(), "{:?}", decoded.lost);
    assert_eq!(talk.said.len(), decoded.calls.len());
    for call in &decoded.calls {
        let said = &talk.said[&call.stream.0];
        assert!(matches!(call.method, Method::Named(_)), "{call:?}");
        assert_eq!(call.status.code, status(said, false), "{call:?}");
        assert_eq!(call.deadline, said.timeout_ms.map(|ms| Nanos::from_millis(ms.into())));
        if !matches!(said.end, End::Open | End::Reset { .. }) {
            assert!(call.request.exact && call.response.exact, "{call:?} of {said:?}");
        }
    }
}
