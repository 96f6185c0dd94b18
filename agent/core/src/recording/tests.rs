#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use super::*;
use crate::call::*;
use crate::event::*;
use crate::units::{CgroupId, ConnectionId, StreamId};
use expect_test::expect;
use proptest::option::of;
use proptest::prelude::*;
use std::net::SocketAddr;

fn text() -> impl Strategy<Value = Arc<str>> {
    "[a-zé/.]{0,12}".prop_map(Arc::from)
}

fn at() -> impl Strategy<Value = Timestamp> {
    any::<u64>().prop_map(Timestamp)
}

fn nanos() -> impl Strategy<Value = Nanos> {
    any::<u64>().prop_map(Nanos)
}

fn connection() -> impl Strategy<Value = ConnectionId> {
    any::<u64>().prop_map(ConnectionId)
}

fn cgroup() -> impl Strategy<Value = CgroupId> {
    any::<u64>().prop_map(CgroupId)
}

fn address() -> impl Strategy<Value = SocketAddr> {
    (any::<std::net::IpAddr>(), any::<u16>()).prop_map(SocketAddr::from)
}

fn view() -> impl Strategy<Value = View> {
    prop_oneof![Just(View::Client), Just(View::Server)]
}

fn messages() -> impl Strategy<Value = Messages> {
    (any::<u32>(), any::<u64>(), any::<bool>()).prop_map(|(count, bytes, exact)| Messages {
        count,
        bytes,
        exact,
    })
}

fn ending() -> impl Strategy<Value = Ending> {
    prop_oneof![
        Just(Ending::Trailers),
        Just(Ending::TrailersOnly),
        Just(Ending::EndStream),
        (any::<u32>(), any::<bool>()).prop_map(|(code, by_client)| Ending::Reset { code, by_client }),
        Just(Ending::ConnectionClosed),
        Just(Ending::Abandoned),
    ]
}

fn call() -> impl Strategy<Value = Event> {
    let source =
        prop_oneof![Just(StatusSource::Wire), Just(StatusSource::Inferred), Just(StatusSource::Unknown)];
    let method = prop_oneof![text().prop_map(Method::Named), any::<u64>().prop_map(Method::Unresolved)];
    let who = (connection(), any::<u32>(), view(), method, of(text()));
    let how = (of(any::<u8>()), source, ending(), at(), of(nanos()), nanos());
    let what = (messages(), messages(), of(nanos()), of(any::<u32>()), of(text()));
    (who, how, what).prop_map(|(who, how, what)| {
        Event::Call(Box::new(Call {
            connection: who.0,
            stream: StreamId(who.1),
            view: who.2,
            method: who.3,
            authority: who.4,
            status: Status { code: how.0, source: how.1 },
            ending: how.2,
            started: how.3,
            first_response: how.4,
            duration: how.5,
            request: what.0,
            response: what.1,
            deadline: what.2,
            previous_attempts: what.3,
            encoding: what.4,
        }))
    })
}

fn opened() -> impl Strategy<Value = Event> {
    let role = prop_oneof![Just(Role::Client), Just(Role::Server), Just(Role::Unknown)];
    (at(), connection(), cgroup(), role, address(), address(), of(nanos())).prop_map(
        |(at, connection, cgroup, role, local, remote, connect_time)| {
            Event::Opened(Opened { at, connection, cgroup, role, local, remote, connect_time })
        },
    )
}

fn sampled() -> impl Strategy<Value = Event> {
    let protocol = prop_oneof![
        Just(Protocol::Unknown),
        Just(Protocol::Http2),
        Just(Protocol::Tls),
        Just(Protocol::Http2InTls),
        Just(Protocol::Mptcp),
        Just(Protocol::Other)
    ];
    let exchanges = (any::<u32>(), nanos(), nanos(), any::<[u32; 24]>(), of(nanos())).prop_map(
        |(count, total, max, histogram, waiting)| Exchanges { count, total, max, histogram, waiting },
    );
    let exchanges = prop_oneof![Just(Exchanges::default()), exchanges];
    (at(), connection(), protocol, of(nanos()), any::<[u64; 5]>(), exchanges).prop_map(
        |(at, connection, protocol, rtt, counts, exchanges)| {
            Event::Sampled(ConnectionSample {
                at,
                connection,
                protocol,
                rtt,
                retransmits: counts[0],
                segments_sent: counts[1],
                bytes_sent: counts[2],
                bytes_received: counts[3],
                unseen: counts[4],
                exchanges,
            })
        },
    )
}

fn flow() -> impl Strategy<Value = Event> {
    let by = prop_oneof![Just(EndedBy::Reset), Just(EndedBy::GoAway)];
    let ended = (by, any::<bool>(), any::<u32>(), any::<u32>())
        .prop_map(|(by, sent, code, count)| (Ended { by, sent, code }, count));
    let stalled = (of(nanos()), of(nanos()));
    let limit = (of(any::<u32>()), any::<u32>(), nanos());
    (at(), connection(), any::<[u64; 2]>(), stalled, limit, prop::collection::vec(ended, 0..3)).prop_map(
        |(at, connection, messages, stalled, limit, ended)| {
            Event::Flow(Box::new(FlowSample {
                at,
                connection,
                messages_sent: messages[0],
                messages_received: messages[1],
                stalled_sending: stalled.0,
                stalled_receiving: stalled.1,
                max_streams: limit.0,
                limit_reached: limit.1,
                limited: limit.2,
                ended,
            }))
        },
    )
}

fn cgroup_sample() -> impl Strategy<Value = Event> {
    let number = || of(any::<u64>());
    let numbers = (number(), number(), number(), number(), number());
    (at(), cgroup(), of(nanos()), of(nanos()), of(0.0..64.0), of(nanos()), numbers).prop_map(
        |(at, cgroup, cpu_usage, cpu_throttled, cpu_limit, cpu_pressure, numbers)| {
            Event::Cgroup(CgroupSample {
                at,
                cgroup,
                cpu_usage,
                cpu_throttled,
                cpu_limit,
                cpu_pressure,
                memory: numbers.0,
                memory_limit: numbers.1,
                oom_kills: numbers.2,
                unix_connections: numbers.3,
            })
        },
    )
}

fn identity() -> impl Strategy<Value = Event> {
    let workload = (text(), text(), text(), text()).prop_map(|(namespace, name, pod, container)| Workload {
        namespace,
        name,
        pod,
        container,
    });
    (at(), cgroup(), text(), of(text()), of(workload), of(text()), of(text()), any::<bool>()).prop_map(
        |(at, cgroup, path, configured, workload, container, process, gone)| {
            let who = CgroupIdentity { at, cgroup, path, configured, workload, container, process, gone };
            Event::Identity(Box::new(who))
        },
    )
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (at(), any::<u64>(), text()).prop_map(|(at, unix_zero, node)| Event::Started(Started {
            at,
            unix_zero,
            node
        })),
        opened(),
        call(),
        (at(), connection(), view(), any::<u32>(), of(nanos())).prop_map(
            |(at, connection, view, streams, oldest_unanswered)| {
                Event::InFlight(InFlight { at, connection, view, streams, oldest_unanswered })
            }
        ),
        sampled(),
        flow(),
        (at(), connection()).prop_map(|(at, connection)| Event::Closed(Closed { at, connection })),
        (at(), cgroup(), address()).prop_map(|(at, cgroup, remote)| Event::ConnectFailed(ConnectFailed {
            at,
            cgroup,
            remote
        })),
        cgroup_sample(),
        identity(),
        (at(), 0..LossReason::ALL.len(), any::<u64>(), of(connection())).prop_map(
            |(at, reason, count, connection)| {
                Event::Lost(Loss { at, reason: LossReason::ALL[reason], count, connection })
            }
        ),
        (at(), text(), text(), text()).prop_map(|(at, part, reason, fix)| Event::Missing(Missing {
            at,
            part,
            reason,
            fix
        })),
    ]
}

fn item() -> impl Strategy<Value = Item> {
    prop_oneof![4 => event().prop_map(Item::Event), 1 => at().prop_map(Item::Tick)]
}

fn header() -> Header {
    let settings = Settings { step_length: Nanos::from_secs(2), ..Settings::default() };
    Header { settings, model_digest: Some([7; 32]), agent: "0.1.0".into() }
}

fn write(items: &[Item]) -> Vec<u8> {
    let mut writer = Writer::start(Vec::new(), &header()).unwrap();
    for item in items {
        writer.item(item).unwrap();
    }
    writer.finish().unwrap()
}

fn read(bytes: &[u8]) -> (Vec<Item>, Option<Error>) {
    let mut items = Vec::new();
    match Reader::open(bytes) {
        Err(error) => (items, Some(error)),
        Ok(reader) => {
            for item in reader {
                match item {
                    Ok(item) => items.push(item),
                    Err(error) => return (items, Some(error)),
                }
            }
            (items, None)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn what_was_written_is_read(items in prop::collection::vec(item(), 0..40)) {
        let bytes = write(&items);
        let (read, error) = read(&bytes);
        prop_assert!(error.is_none(), "{error:?}");
        prop_assert_eq!(read, items);
        let reader = Reader::open(bytes.as_slice()).unwrap();
        prop_assert_eq!(reader.header(), &header());
    }

    #[test]
    fn a_killed_writer_leaves_what_it_wrote(items in prop::collection::vec(item(), 0..20), cut: prop::sample::Index) {
        let bytes = write(&items);
        let at = cut.index(bytes.len());
        let (read, error) = read(&bytes[..at]);
        prop_assert_eq!(&read[..], &items[..read.len()]);
        match error {
            Some(Error::Truncated { at: said }) => prop_assert_eq!(said, at as u64),
            Some(Error::Foreign) => prop_assert_eq!(at, 0),
            other => prop_assert!(false, "{other:?}"),
        }
    }

    #[test]
    fn damage_is_found(items in prop::collection::vec(item(), 1..10), place: prop::sample::Index, bit in 0..8u8) {
        let mut bytes = write(&items);
        let place = place.index(bytes.len());
        bytes[place] ^= 1 << bit;
        let (_, error) = read(&bytes);
        prop_assert!(error.is_some());
    }

    #[test]
    fn anything_else_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let (items, error) = read(&bytes);
        prop_assert!(items.is_empty() && matches!(error, Some(Error::Foreign)));
        let mut begun = MAGIC.to_vec();
        begun.push(VERSION);
        begun.extend(bytes);
        prop_assert!(read(&begun).1.is_some());
    }
}

fn compress(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_compressed_recording_reads_like_a_plain_one() {
    let items: Vec<Item> = (1..=1000).map(|tick| Item::Tick(Timestamp(tick))).collect();
    let compressed = compress(&write(&items));
    assert_eq!(read(&compressed).0, items);
    for cut in 0..compressed.len() {
        let (before, error) = read(&compressed[..cut]);
        assert_eq!(before[..], items[..before.len()]);
        assert!(
            matches!(error, Some(Error::Truncated { .. } | Error::Foreign)),
            "the first {cut} bytes: {error:?}"
        );
    }
    let mut damaged = compressed;
    damaged[12] ^= 0xff;
    assert!(read(&damaged).1.is_some());
}

fn check(bytes: &[u8], expected: &expect_test::Expect) {
    expected.assert_eq(&read(bytes).1.unwrap().to_string());
}

#[test]
fn errors_say_what_to_do() {
    let mut newer = write(&[]);
    newer[MAGIC.len()] = 9;
    check(
        &newer,
        &expect![
            "this recording has format version 9; this agent reads version 1: replay it with the agent that wrote it"
        ],
    );
    check(b"\x7fELF, say", &expect!["this is not a Faultline recording (it does not begin with FAULTLINE)"]);
    let whole = write(&[Item::Tick(Timestamp(5))]);
    check(
        &whole[..whole.len() - 1],
        &expect![
            "the recording is truncated at byte 81: its writer did not finish; everything before was read"
        ],
    );
    let mut damaged = whole;
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    check(
        &damaged,
        &expect![
            "the recording is damaged in the message at byte 68: what was read does not have the checksum that was written"
        ],
    );
}

#[test]
fn names_are_written_once() {
    let name: Arc<str> = Arc::from("shop.Cart/AddItemWithALongName");
    let missing = |at| {
        Item::Event(Event::Missing(Missing {
            at: Timestamp(at),
            part: name.clone(),
            reason: name.clone(),
            fix: name.clone(),
        }))
    };
    let items: Vec<Item> = (0..100).map(missing).collect();
    let bytes = write(&items);
    assert!(bytes.len() < 1600, "{}", bytes.len());
    assert_eq!(read(&bytes).0, items);
}
