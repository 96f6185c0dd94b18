//! The reference: whatever a client and a server of the `h2` crate say to each other, the decoder must say the
//! same of the same bytes, however they are cut, doubled or reordered.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod conversation;

use conversation::*;
use faultline_core::call::{Call, Ending, Method, StatusSource, View};
use faultline_core::event::{Event, Role, Segment};
use faultline_core::rpc::Decoder;
use faultline_core::units::Nanos;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn decode(role: Role, segments: Vec<Segment>) -> (Vec<Call>, Vec<Event>) {
    let mut decoder = Decoder::default();
    let mut out = Vec::new();
    decoder.handle(opened(role), &mut out);
    for segment in segments {
        decoder.handle(Event::Segment(segment), &mut out);
    }
    decoder.handle(closed(1 << 40), &mut out);
    let calls = out.iter().filter_map(|e| if let Event::Call(c) = e { Some((**c).clone()) } else { None });
    (calls.collect(), out)
}

fn same(said: &BTreeMap<u32, Planned>, calls: &[Call]) {
    assert_eq!(said.len(), calls.len(), "{calls:#?}");
    for call in calls {
        let planned = &said[&call.stream.0];
        assert_eq!(call.view, View::Client);
        assert_eq!(call.method, Method::Named(METHODS[planned.method].into()));
        assert_eq!(call.authority.as_deref(), Some("cart.shop:8080"));
        assert_eq!(call.deadline, planned.timeout.map(|ms| Nanos::from_millis(ms.into())));
        let (ending, code, source) = match planned.end {
            End::Trailers(code) => (Ending::Trailers, code, StatusSource::Wire),
            End::TrailersOnly(code) => (Ending::TrailersOnly, code, StatusSource::Wire),
            End::ServerReset(code) => {
                let status = match code {
                    2 => 13,
                    7 => 14,
                    8 => 1,
                    _ => 8,
                };
                (Ending::Reset { code, by_client: false }, status, StatusSource::Inferred)
            }
            End::ClientReset(code) => (Ending::Reset { code, by_client: true }, 1, StatusSource::Inferred),
        };
        assert_eq!((call.ending, call.status.code, call.status.source), (ending, Some(code), source));
        // What was queued when a stream was reset may or may not have been sent.
        let (most, cut) = match planned.end {
            End::TrailersOnly(_) => (&[][..], false),
            End::ClientReset(_) => (&[][..], true),
            End::ServerReset(_) => (&planned.responses[..], true),
            End::Trailers(_) => (&planned.responses[..], false),
        };
        assert!(call.request.exact);
        assert_eq!(call.response.exact, !matches!(planned.end, End::ClientReset(_)));
        if !cut {
            assert_eq!(call.response.count as usize, most.len());
            assert_eq!(call.response.bytes, most.iter().sum::<usize>() as u64);
        }
        assert!(call.response.count as usize <= most.len());
        if !matches!(planned.end, End::ClientReset(_)) {
            assert_eq!(call.request.count as usize, planned.requests.len());
            assert_eq!(call.request.bytes, planned.requests.iter().sum::<usize>() as u64);
        }
    }
}

fn no_loss(out: &[Event]) {
    let lost: Vec<_> = out.iter().filter(|e| matches!(e, Event::Lost(_))).collect();
    assert!(lost.is_empty(), "{lost:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_split(
        plan in prop::collection::vec(planned(), 1..12),
        at_once: bool,
        cuts in prop::collection::vec(prop_oneof![1usize..60, 1usize..20_000], 1..50),
    ) {
        let (taps, said) = hold(&plan, at_once);
        let (calls, out) = decode(Role::Client, cut(&taps, &cuts));
        same(&said, &calls);
        no_loss(&out);
        // A connection that is known to have begun before, though every byte is there.
        let (calls, _) = decode(Role::Unknown, cut(&taps, &[usize::MAX]));
        same(&said, &calls);
    }
}

#[test]
fn a_thousand_streams_at_once() {
    let planned =
        Planned { method: 1, requests: vec![10], responses: vec![20], end: End::Trailers(0), timeout: None };
    let (taps, said) = hold(&vec![planned; 1000], true);
    let (calls, out) = decode(Role::Client, cut(&taps, &[1400]));
    same(&said, &calls);
    no_loss(&out);
}
