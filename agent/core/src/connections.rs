//! The open TCP connections' ends, and which two ends are one connection. [`Opened`] and [`Closed`](crate::event::Closed) flow in;
//! for each end its side and its peer flow out. Names are [`crate::identity`]'s.

use crate::call::View;
use crate::event::{ConnectionSample, InFlight, Opened, Protocol, Role};
use crate::identity::authority::well_known;
use crate::units::{CgroupId, ConnectionId, Timestamp};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// Ends kept at once, as many as the decoder follows: ten thousand connections with both ends on the node, and
/// those that a connection for each call leaves behind in a step. Beyond it the longest silent leave first.
pub const MAX_CONNECTIONS: usize = 32_768;

/// Addresses remembered beyond the life of their connections: where servers listen and how remote ends are
/// called. A node talks to a few hundred.
const MAX_ADDRESSES: usize = 4096;

/// When the table is full this share of it leaves at once, so that the search for the oldest is rare.
const EVICTED_SHARE: usize = 16;

/// Ports from here on are given to clients by Linux's default `ip_local_port_range`.
const FIRST_EPHEMERAL: u16 = 32_768;

/// One end of a connection.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Who owns the socket.
    pub cgroup: CgroupId,
    /// Which side opened it, as the kernel saw it.
    pub role: Role,
    /// This end's address.
    pub local: SocketAddr,
    /// The other end's address.
    pub remote: SocketAddr,
    /// What it carries.
    pub protocol: Protocol,
    /// The authority of its last call.
    pub authority: Option<Arc<str>>,
    /// The host in that, if it is a name.
    pub host: Option<Arc<str>>,
    /// Whose view its calls had.
    pub view: Option<View>,
    /// Its other end, if that lies on this node.
    pub peer: Option<ConnectionId>,
    /// The other end lies on this node, or did until it was forgotten.
    pub paired: bool,
    /// Anything passed on it.
    pub active: bool,
    /// Calls were read on it, though it may be TLS.
    pub decoded: bool,
    /// When it was closed.
    pub closed: Option<Timestamp>,
    /// The calls that were open when the decoder was last asked.
    pub in_flight: Option<InFlight>,
    /// The counters of the last sample.
    pub counted: Counted,
    last_seen: Timestamp,
}

/// The counters of a sample, of which only the differences tell something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Segments sent again.
    pub retransmits: u64,
    /// Segments sent.
    pub segments: u64,
    /// Payload bytes both ways.
    pub bytes: u64,
    /// Those of them that went past the agent.
    pub unseen: u64,
}

impl Counted {
    /// The counters of a sample.
    #[must_use]
    pub fn of(sample: &ConnectionSample) -> Self {
        Self {
            retransmits: sample.retransmits,
            segments: sample.segments_sent,
            bytes: sample.bytes_sent.saturating_add(sample.bytes_received),
            unseen: sample.unseen,
        }
    }
}

/// A server's end: where a socket of this node listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Who listens.
    pub cgroup: CgroupId,
    /// On which address, which is not the one that a client dialled behind address translation.
    pub local: SocketAddr,
}

/// Every end that is known.
#[derive(Clone, Debug, Default)]
pub struct Connections {
    ends: BTreeMap<ConnectionId, Connection>,
    /// (local, remote) to the end.
    by_addresses: BTreeMap<(SocketAddr, SocketAddr), ConnectionId>,
    /// The address of a client to its end, loopback left out: each network namespace has its own.
    clients: BTreeMap<SocketAddr, ConnectionId>,
    /// The address that clients dial to the server behind it.
    listeners: BTreeMap<SocketAddr, Listener>,
    /// The address that clients dial to the host that they call it by.
    hosts: BTreeMap<SocketAddr, Arc<str>>,
}

impl Connections {
    /// Adds an end; returns how many had to leave for it.
    pub fn open(&mut self, opened: &Opened) -> u64 {
        let evicted = if self.ends.len() >= MAX_CONNECTIONS { self.evict() } else { 0 };
        let connection = Connection {
            cgroup: opened.cgroup,
            role: opened.role,
            local: opened.local,
            remote: opened.remote,
            protocol: Protocol::Unknown,
            authority: None,
            host: None,
            view: None,
            peer: None,
            paired: false,
            active: false,
            decoded: false,
            closed: None,
            in_flight: None,
            counted: Counted::default(),
            last_seen: opened.at,
        };
        self.by_addresses.insert((opened.local, opened.remote), opened.connection);
        self.ends.insert(opened.connection, connection);
        evicted
    }

    /// An end, to note something seen on it at `at`.
    pub fn seen(&mut self, id: ConnectionId, at: Timestamp) -> Option<&mut Connection> {
        let connection = self.ends.get_mut(&id)?;
        connection.last_seen = connection.last_seen.max(at);
        Some(connection)
    }

    /// Notes the host that clients call an address by.
    pub fn name_remote(&mut self, remote: SocketAddr, host: &Arc<str>) {
        if self.hosts.get(&remote).is_some_and(|known| known == host) {
            return;
        }
        insert_bounded(&mut self.hosts, remote, host.clone());
    }

    /// An end.
    #[must_use]
    pub fn end(&self, id: ConnectionId) -> Option<&Connection> {
        self.ends.get(&id)
    }

    /// Every end, in order of ids.
    pub fn iter(&self) -> impl Iterator<Item = (ConnectionId, &Connection)> + '_ {
        self.ends.iter().map(|(id, connection)| (*id, connection))
    }

    /// The server that clients reach at an address, if it is on this node.
    #[must_use]
    pub fn listener(&self, address: SocketAddr) -> Option<Listener> {
        self.listeners.get(&address).copied()
    }

    /// The host that clients call an address by.
    #[must_use]
    pub fn host(&self, address: SocketAddr) -> Option<&Arc<str>> {
        self.hosts.get(&address)
    }

    /// Which side an end is: as the kernel saw, else as its calls tell, else by where servers listen.
    #[must_use]
    pub fn side(&self, connection: &Connection) -> View {
        match (connection.role, connection.view) {
            (Role::Client, _) => View::Client,
            (Role::Server, _) => View::Server,
            (Role::Unknown, Some(view)) => view,
            (Role::Unknown, None) if self.listeners.contains_key(&connection.local) => View::Server,
            (Role::Unknown, None) if self.listeners.contains_key(&connection.remote) => View::Client,
            (Role::Unknown, None) => guess(connection.local.port(), connection.remote.port()),
        }
    }

    /// Finds where servers listen and which ends belong together, as far as both are known by now. Behind
    /// address translation the two ends disagree about the server's address but not about the client's.
    pub fn link(&mut self) {
        let servers: Vec<(SocketAddr, Listener)> = self
            .ends
            .values()
            .filter(|end| self.side(end) == View::Server)
            .map(|end| (end.local, Listener { cgroup: end.cgroup, local: end.local }))
            .collect();
        for (address, listener) in servers {
            insert_bounded(&mut self.listeners, address, listener);
        }
        self.clients = self
            .ends
            .iter()
            .filter(|(_, end)| !end.local.ip().is_loopback() && self.side(end) == View::Client)
            .map(|(id, end)| (end.local, *id))
            .collect();
        let pairs: Vec<(ConnectionId, ConnectionId)> = self
            .ends
            .iter()
            .filter(|(_, end)| end.peer.is_none())
            .filter_map(|(id, end)| Some((*id, self.find_peer(end)?)))
            .collect();
        for (one, other) in pairs {
            self.pair(one, other);
            self.pair(other, one);
        }
    }

    /// Forgets the ends that were closed before `time`.
    pub fn forget_closed_before(&mut self, time: Timestamp) {
        let gone: Vec<ConnectionId> = self
            .ends
            .iter()
            .filter(|(_, end)| end.closed.is_some_and(|closed| closed < time))
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            self.remove(id);
        }
    }

    fn find_peer(&self, end: &Connection) -> Option<ConnectionId> {
        let mirrored = self.by_addresses.get(&(end.remote, end.local));
        let translated = || match self.side(end) {
            View::Server => self.clients.get(&end.remote),
            View::Client => None,
        };
        mirrored.or_else(translated).copied()
    }

    fn pair(&mut self, one: ConnectionId, other: ConnectionId) {
        let Some(listener) =
            self.ends.get(&other).map(|end| Listener { cgroup: end.cgroup, local: end.local })
        else {
            return;
        };
        let Some(end) = self.ends.get_mut(&one) else { return };
        end.peer = Some(other);
        end.paired = true;
        let dialled = end.remote;
        let is_client = self.ends.get(&one).is_some_and(|end| self.side(end) == View::Client);
        if is_client && dialled != listener.local {
            insert_bounded(&mut self.listeners, dialled, listener);
        }
    }

    /// Drops the ends that were silent for longest.
    fn evict(&mut self) -> u64 {
        let mut ends: Vec<(bool, Timestamp, ConnectionId)> =
            self.ends.iter().map(|(id, end)| (end.closed.is_none(), end.last_seen, *id)).collect();
        ends.sort_unstable();
        // Closed ones leave first, but are not free: until their step ends nobody knows whose calls they had.
        ends.truncate((MAX_CONNECTIONS / EVICTED_SHARE).max(1));
        let evicted = ends.len() as u64;
        for (_, _, id) in ends {
            self.remove(id);
        }
        evicted
    }

    fn remove(&mut self, id: ConnectionId) {
        if let Some(end) = self.ends.remove(&id) {
            let addresses = (end.local, end.remote);
            if self.by_addresses.get(&addresses) == Some(&id) {
                self.by_addresses.remove(&addresses);
            }
            if let Some(peer) = end.peer.and_then(|peer| self.ends.get_mut(&peer)) {
                peer.peer = None;
            }
        }
    }
}

/// The side of an end of whose opening nothing is known: servers listen on well-known or low ports.
fn guess(local: u16, remote: u16) -> View {
    let rank = |port: u16| (well_known(port).is_none(), port >= FIRST_EPHEMERAL, port);
    if rank(local) < rank(remote) { View::Server } else { View::Client }
}

/// Inserts while there is room; a known key is always renewed.
fn insert_bounded<V>(map: &mut BTreeMap<SocketAddr, V>, key: SocketAddr, value: V) {
    if map.len() < MAX_ADDRESSES || map.contains_key(&key) {
        map.insert(key, value);
    }
}
