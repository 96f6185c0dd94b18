//! Parses the kernel programs' records. One record comes in, one event goes out, its bytes shared, not
//! copied.
//!
//! The bytes come from our own programs, but an older or newer agent's programs may still be attached, so
//! nothing is believed: what does not fit is a [`MalformedRecord`].

use bytes::Bytes;
use faultline_abi::{
    ClosedRecord, ConnectFailedRecord, Head, OpenedRecord, PieceHead, SampleRecord, SegmentRecord, direction,
    family, kind, protocol, role,
};
use faultline_core::event::{
    Closed, ConnectFailed, ConnectionSample, Direction, Event, Exchanges, Opened, Piece, Protocol, Role,
    Segment,
};
use faultline_core::units::{CgroupId, ConnectionId, Nanos, Timestamp};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use zerocopy::FromBytes;

/// The longest segment a record may tell of: the kernel programs sum up skipped bodies to 1 MiB.
const LONGEST_SEGMENT: u32 = 4 << 20;

/// A record that this agent does not understand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a kernel record of {length} bytes does not fit its kind: the attached programs are not this agent's"
)]
pub struct MalformedRecord {
    /// Bytes of the record.
    pub length: usize,
}

/// Parses one record.
///
/// # Errors
/// [`MalformedRecord`] when it is too short, of unknown kind, or holds values that make no sense.
pub fn parse(record: &Bytes) -> Result<Event, MalformedRecord> {
    understood(record).ok_or(MalformedRecord { length: record.len() })
}

fn understood(record: &Bytes) -> Option<Event> {
    let (head, _) = Head::read_from_prefix(record).ok()?;
    if usize::try_from(head.size).ok()? != record.len() {
        return None;
    }
    let at = Timestamp(head.at);
    let connection = ConnectionId(head.cookie);
    Some(match head.kind {
        kind::OPENED => Event::Opened(opened(&OpenedRecord::read_from_bytes(record).ok()?)?),
        kind::SEGMENT => Event::Segment(segment(record)?),
        kind::SAMPLE => Event::Sampled(sampled(&SampleRecord::read_from_bytes(record).ok()?)?),
        kind::CLOSED => {
            ClosedRecord::read_from_bytes(record).ok()?;
            Event::Closed(Closed { at, connection })
        }
        kind::CONNECT_FAILED => {
            let r = ConnectFailedRecord::read_from_bytes(record).ok()?;
            let remote = address(r.family, r.remote, r.remote_port)?;
            Event::ConnectFailed(ConnectFailed { at, cgroup: CgroupId(r.cgroup), remote })
        }
        _ => return None,
    })
}

fn opened(record: &OpenedRecord) -> Option<Opened> {
    Some(Opened {
        at: Timestamp(record.head.at),
        connection: ConnectionId(record.head.cookie),
        cgroup: CgroupId(record.cgroup),
        role: match record.role {
            role::UNKNOWN => Role::Unknown,
            role::CLIENT => Role::Client,
            role::SERVER => Role::Server,
            _ => return None,
        },
        local: address(record.family, record.local, record.local_port)?,
        remote: address(record.family, record.remote, record.remote_port)?,
        connect_time: (record.connect_nanos != 0).then_some(Nanos(record.connect_nanos)),
    })
}

fn segment(bytes: &Bytes) -> Option<Segment> {
    let (record, _) = SegmentRecord::read_from_prefix(bytes).ok()?;
    if record.length > LONGEST_SEGMENT {
        return None;
    }
    Some(Segment {
        at: Timestamp(record.head.at),
        connection: ConnectionId(record.head.cookie),
        direction: match record.direction {
            direction::SENT => Direction::Sent,
            direction::RECEIVED => Direction::Received,
            _ => return None,
        },
        sequence: record.sequence,
        length: record.length,
        pieces: pieces(bytes, record.length)?,
    })
}

/// The pieces behind a segment's head: ascending, not overlapping, inside the segment.
fn pieces(bytes: &Bytes, segment_length: u32) -> Option<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut place = size_of::<SegmentRecord>();
    let mut covered = 0;
    while place < bytes.len() {
        let (head, _) = PieceHead::read_from_prefix(bytes.get(place..)?).ok()?;
        let start = place + size_of::<PieceHead>();
        let end = start.checked_add(usize::try_from(head.length).ok()?)?;
        let covers_to = head.offset.checked_add(head.length)?;
        if end > bytes.len() || head.offset < covered || covers_to > segment_length {
            return None;
        }
        if head.length != 0 {
            pieces.push(Piece { offset: head.offset, bytes: bytes.slice(start..end) });
        }
        covered = covers_to;
        place = end.next_multiple_of(align_of::<u64>());
    }
    Some(pieces)
}

fn sampled(record: &SampleRecord) -> Option<ConnectionSample> {
    Some(ConnectionSample {
        at: Timestamp(record.head.at),
        connection: ConnectionId(record.head.cookie),
        protocol: match record.protocol {
            protocol::UNKNOWN => Protocol::Unknown,
            protocol::HTTP2 => Protocol::Http2,
            protocol::TLS => Protocol::Tls,
            protocol::OTHER => Protocol::Other,
            protocol::HTTP2_IN_TLS => Protocol::Http2InTls,
            protocol::MPTCP => Protocol::Mptcp,
            _ => return None,
        },
        rtt: (record.rtt_micros != 0).then(|| Nanos(u64::from(record.rtt_micros) * 1_000)),
        retransmits: u64::from(record.retransmits),
        segments_sent: u64::from(record.segments_sent),
        bytes_sent: record.bytes_sent,
        bytes_received: record.bytes_received,
        unseen: 0,
        exchanges: match record.protocol {
            protocol::HTTP2 | protocol::HTTP2_IN_TLS => Exchanges::default(),
            _ => exchanges(record),
        },
    })
}

fn exchanges(record: &SampleRecord) -> Exchanges {
    Exchanges {
        count: record.exchanges,
        total: Nanos(record.exchange_nanos),
        max: Nanos(record.exchange_max),
        histogram: record.histogram,
        waiting: (record.waiting != 0).then_some(Nanos(record.waiting)),
    }
}

fn address(of_family: u32, bytes: [u8; 16], port: u16) -> Option<SocketAddr> {
    let ip = match of_family {
        family::V4 => {
            let [a, b, c, d, ..] = bytes;
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        }
        family::V6 => {
            let v6 = Ipv6Addr::from(bytes);
            v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4)
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests may panic")]
    use super::*;
    use zerocopy::IntoBytes;

    fn head(kind: u32, size: usize) -> Head {
        Head { kind, size: u32::try_from(size).unwrap(), at: 7, cookie: 9 }
    }

    fn two_pieces() -> Vec<u8> {
        let size = size_of::<SegmentRecord>() + 16 + 11;
        let record = SegmentRecord {
            head: head(kind::SEGMENT, size),
            sequence: 100,
            length: 50,
            direction: direction::RECEIVED,
            reserved: 0,
        };
        let mut bytes = record.as_bytes().to_vec();
        bytes.extend_from_slice(PieceHead { offset: 3, length: 8 }.as_bytes());
        bytes.extend_from_slice(b"abcdefgh");
        bytes.extend_from_slice(PieceHead { offset: 47, length: 3 }.as_bytes());
        bytes.extend_from_slice(b"xyz");
        bytes
    }

    #[test]
    fn a_segment_keeps_its_pieces_without_a_copy() {
        let bytes = Bytes::from(two_pieces());
        let Event::Segment(segment) = parse(&bytes).unwrap() else { panic!("not a segment") };
        assert_eq!((segment.sequence, segment.length, segment.direction), (100, 50, Direction::Received));
        assert_eq!(segment.pieces.len(), 2);
        assert_eq!(&segment.pieces[0].bytes[..], b"abcdefgh");
        assert_eq!((segment.pieces[1].offset, &segment.pieces[1].bytes[..]), (47, &b"xyz"[..]));
        assert!(bytes.as_ptr_range().contains(&segment.pieces[1].bytes.as_ptr()));
    }

    #[test]
    fn every_truncation_is_malformed() {
        let whole = two_pieces();
        for length in 0..whole.len() {
            assert!(parse(&Bytes::copy_from_slice(&whole[..length])).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn no_flipped_byte_panics_or_leaves_the_segment() {
        let whole = two_pieces();
        for place in 0..whole.len() {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[place] ^= 1 << bit;
                if let Ok(Event::Segment(segment)) = parse(&Bytes::from(bytes)) {
                    for piece in &segment.pieces {
                        assert!(piece.offset as usize + piece.bytes.len() <= segment.length as usize);
                    }
                }
            }
        }
    }

    #[test]
    fn foreign_kinds_and_overlaps_are_malformed() {
        let foreign = head(99, size_of::<Head>());
        assert!(parse(&Bytes::copy_from_slice(foreign.as_bytes())).is_err());
        let mut overlap = two_pieces();
        let second = size_of::<SegmentRecord>() + 16;
        overlap[second] = 10;
        assert!(parse(&Bytes::from(overlap)).is_err());
    }

    #[test]
    fn mapped_addresses_are_ipv4() {
        let mapped = Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped().octets();
        let record = OpenedRecord {
            head: head(kind::OPENED, size_of::<OpenedRecord>()),
            role: role::CLIENT,
            family: family::V6,
            local: mapped,
            remote: mapped,
            local_port: 40_000,
            remote_port: 80,
            ..OpenedRecord::default()
        };
        let Event::Opened(opened) = parse(&Bytes::copy_from_slice(record.as_bytes())).unwrap() else {
            panic!("not opened")
        };
        assert_eq!(opened.remote.to_string(), "10.0.0.1:80");
        assert_eq!((opened.role, opened.connect_time), (Role::Client, None));
    }

    #[test]
    fn a_sample_has_its_exchanges() {
        let mut record = SampleRecord {
            head: head(kind::SAMPLE, size_of::<SampleRecord>()),
            protocol: protocol::OTHER,
            rtt_micros: 40,
            exchanges: 2,
            exchange_nanos: 900,
            exchange_max: 600,
            ..SampleRecord::default()
        };
        record.histogram[3] = 2;
        let Event::Sampled(sample) = parse(&Bytes::copy_from_slice(record.as_bytes())).unwrap() else {
            panic!("not a sample")
        };
        assert_eq!(sample.rtt, Some(Nanos(40_000)));
        assert_eq!((sample.exchanges.count, sample.exchanges.histogram[3]), (2, 2));
        assert_eq!(sample.exchanges.waiting, None);
    }
}
