//! Turns the frames of a connection's two directions into [`Call`](crate::call::Call)s: events flow in from
//! sources, events without segments flow out to windows, graph and recordings.
//!
//! [`crate::h2`] reads the bytes, `connection` joins its two directions, `streams` sorts frames by stream,
//! `stream` makes the call, `messages` counts gRPC messages, `status` says how it ended and `flow` what flow
//! control did; `audit` says what went past.

mod audit;
mod connection;
mod flow;
mod messages;
mod naming;
mod status;
mod stream;
mod streams;

use crate::call::Ending;
use crate::event::{ConnectionSample, Event, Loss, LossReason, Protocol, Role, Segment};
use crate::h2::names::Names;
use crate::units::{ConnectionId, Nanos, Timestamp};
use audit::Audit;
use connection::Http2;
use std::collections::BTreeMap;

/// Connection ends remembered. A busy node holds some ten thousand; beyond this those unused for longest leave.
const MAX_CONNECTIONS: usize = 32_768;

/// How many leave at once, so that finding them is paid rarely.
const EVICTED_AT_ONCE: usize = MAX_CONNECTIONS / 16;

/// Streams followed at once on all connections, about 40 MB.
const MAX_STREAMS: usize = 131_072;

/// Bytes held on all connections for order, search and split header blocks. Reached only when records are lost
/// on many connections at once, and then waiting does not help.
const MAX_HELD: usize = 32 << 20;

/// Bytes of header tables on all connections: those of twenty thousand ends at what gRPC stacks fill them with.
/// Beyond it a table that grows while it has more than its share is lost, and filled anew from what comes: who
/// fills tables of 64 KiB on thousands of connections takes nothing from those who call as usual.
const MAX_TABLES: usize = 64 << 20;

/// A connection's end of which nothing was heard for so long is gone; its close was missed.
const FORGET_AFTER: Nanos = Nanos::from_secs(2 * 3600);

/// Takes every [`Event::Segment`] and gives the calls that ended with it; passes other events on.
#[derive(Debug, Default)]
pub struct Decoder {
    connections: BTreeMap<ConnectionId, Entry>,
    shared: Shared,
    /// It has taken bytes: the samples of a recording hold already what went past.
    live: bool,
}

/// What all connections share: the bounds' accounts and the interned names.
#[derive(Debug, Default)]
struct Shared {
    names: Names,
    streams: usize,
    /// Streams whose windows are followed.
    windows: usize,
    /// Bytes of header tables, and on how many connections.
    tables: usize,
    connections: usize,
    held: usize,
}

impl Shared {
    /// Nobody may wait for missing bytes any more.
    fn crowded(&self) -> bool {
        self.held > MAX_HELD
    }

    /// A header table of so many bytes may not stay.
    fn too_large(&self, table: usize) -> bool {
        self.tables > MAX_TABLES && table > MAX_TABLES / (2 * self.connections.max(1))
    }

    /// No stream may be added.
    fn full(&self) -> bool {
        self.streams >= MAX_STREAMS
    }
}

#[derive(Debug)]
struct Entry {
    role: Role,
    last: Timestamp,
    audit: Audit,
    http2: Option<Box<Http2>>,
}

impl Decoder {
    /// Takes one event and appends what follows from it to `out`.
    pub fn handle(&mut self, mut event: Event, out: &mut Vec<Event>) {
        match &mut event {
            Event::Segment(_) => {}
            Event::Opened(opened) => {
                // Bytes may have come first: their connection then goes on as it was joined.
                self.entry(opened.connection, opened.at, out).role = opened.role;
            }
            Event::Sampled(sample) => self.audit(sample),
            Event::Closed(closed) => self.close(closed.connection, closed.at, Ending::ConnectionClosed, out),
            _ => {}
        }
        match event {
            Event::Segment(segment) => self.segment(segment, out),
            other => out.push(other),
        }
    }

    /// Appends what only time tells: calls in flight, holes and streams given up.
    pub fn tick(&mut self, now: Timestamp, out: &mut Vec<Event>) {
        let mut silent = Vec::new();
        for (connection, entry) in &mut self.connections {
            if let Some(http2) = &mut entry.http2 {
                let before = http2.held();
                http2.tick(now, &mut self.shared, out);
                self.shared.held = (self.shared.held + http2.held()).saturating_sub(before);
            }
            if now.since(entry.last) > FORGET_AFTER {
                silent.push(*connection);
            }
        }
        for connection in silent {
            self.close(connection, now, Ending::Abandoned, out);
        }
    }

    /// Bytes kept on all connections: what waits behind holes, is searched for frames, or is a split header block.
    #[must_use]
    pub fn held(&self) -> usize {
        self.shared.held
    }

    /// Notes in a sample what went past the decoder. Only of HTTP/2 in clear text are all bytes meant to be seen.
    fn audit(&mut self, sample: &mut ConnectionSample) {
        let Some(entry) = self.connections.get_mut(&sample.connection) else { return };
        entry.last = entry.last.max(sample.at);
        // Bytes that came before their stream's beginning were only taken for HTTP/2.
        if matches!(sample.protocol, Protocol::Tls | Protocol::Other | Protocol::Mptcp)
            && let Some(mut http2) = entry.http2.take()
        {
            self.shared.held = self.shared.held.saturating_sub(http2.held());
            http2.discard(&mut self.shared);
        }
        if sample.protocol == Protocol::Http2 && self.live {
            let seen = entry.http2.as_ref().map_or_else(Default::default, |http2| http2.seen());
            sample.unseen = entry.audit.compare(sample, seen, entry.role == Role::Unknown);
        }
    }

    fn segment(&mut self, segment: Segment, out: &mut Vec<Event>) {
        let (connection, at) = (segment.connection, segment.at);
        self.live = true;
        if !self.connections.contains_key(&connection) {
            self.entry(connection, at, out);
        }
        self.shared.connections = self.connections.len();
        let Some(entry) = self.connections.get_mut(&connection) else { return };
        entry.last = entry.last.max(at);
        let http2 = entry.http2.get_or_insert_with(|| Box::new(Http2::new(connection, entry.role)));
        let before = http2.held();
        http2.take(segment, &mut self.shared, out);
        self.shared.held = (self.shared.held + http2.held()).saturating_sub(before);
    }

    fn entry(&mut self, connection: ConnectionId, at: Timestamp, out: &mut Vec<Event>) -> &mut Entry {
        if self.connections.len() >= MAX_CONNECTIONS && !self.connections.contains_key(&connection) {
            self.evict(at, out);
        }
        self.connections.entry(connection).or_insert(Entry {
            role: Role::Unknown,
            last: at,
            audit: Audit::default(),
            http2: None,
        })
    }

    /// Lets the connections go that were unused for longest.
    fn evict(&mut self, at: Timestamp, out: &mut Vec<Event>) {
        let mut by_use: Vec<_> = self.connections.iter().map(|(id, entry)| (entry.last, *id)).collect();
        by_use.sort_unstable();
        by_use.truncate(EVICTED_AT_ONCE);
        let count = by_use.len() as u64;
        for (_, connection) in by_use {
            self.close(connection, at, Ending::Abandoned, out);
        }
        out.push(Event::Lost(Loss { at, reason: LossReason::ConnectionEvicted, count, connection: None }));
    }

    fn close(&mut self, connection: ConnectionId, at: Timestamp, ending: Ending, out: &mut Vec<Event>) {
        let Some(Entry { http2: Some(mut http2), .. }) = self.connections.remove(&connection) else { return };
        let before = http2.held();
        http2.close(at, ending, &mut self.shared, out);
        self.shared.held = self.shared.held.saturating_sub(before);
    }
}
