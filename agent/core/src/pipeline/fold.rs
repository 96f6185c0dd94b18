//! Sums what a step saw by connection up to services and edges. An [`OpenStep`] and the [`World`] flow in, a
//! [`Folded`] flows out; [`super::windows`] makes windows of it.

use super::open_step::{CgroupStep, ConnectionStep, OpenStep, Series};
use super::world::World;
use crate::call::View;
use crate::connections::Connection;
use crate::coverage::Bytes;
use crate::event::Protocol;
use crate::identity::authority::{name_of_client, name_of_host, name_of_server};
use crate::identity::places::{Change, Place};
use crate::totals::CallTotals;
use crate::units::{CgroupId, ConnectionId, Nanos, ServiceId, Timestamp};
use crate::window::aggregate::{Calls, ExchangeSums, Transport};
use crate::window::flow::{FlowSums, StreamSums};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Caller and callee.
pub(super) type Edge = (ServiceId, ServiceId);

/// A step by service and by edge.
#[derive(Debug, Default)]
pub(super) struct Folded {
    /// Services with an open connection on which anything ever passed, or called by one.
    pub(super) services: BTreeMap<ServiceId, ServiceFold>,
    /// Edges with such a connection.
    pub(super) edges: BTreeMap<Edge, EdgeFold>,
    /// Services that got another name, in order.
    pub(super) changes: Vec<Change>,
    /// What Prometheus counts: each view's calls.
    pub(super) series: Vec<(Edge, Series, Box<CallTotals>)>,
    /// Calls whose method lost its name before.
    pub(super) nameless: u64,
}

/// One service in one step.
#[derive(Debug, Default)]
pub(super) struct ServiceFold {
    /// It lives on this node.
    pub(super) local: bool,
    /// A client of this node calls it.
    pub(super) called: bool,
    /// Its ends by what they carry: as a server, as a client.
    pub(super) served: Carried,
    /// Its ends as a client.
    pub(super) calling: Carried,
    /// Calls served.
    pub(super) server: Calls,
    /// Exchanges served.
    pub(super) exchanges: ExchangeSums,
    /// Calls made.
    pub(super) made: Calls,
    /// Exchanges made.
    pub(super) made_exchanges: u64,
    /// Calls that it has open as a server.
    pub(super) streams: u64,
    /// Age of the oldest of them without a response.
    pub(super) oldest: Nanos,
    /// What TCP says of its ends.
    pub(super) transport: Transport,
    /// Connections opened to it.
    pub(super) connects: u64,
    /// Attempts to connect to it that failed.
    pub(super) failed_connects: u64,
    /// Lost on its connections.
    pub(super) lost: u64,
    /// What flow control did on its connections.
    pub(super) flow: FlowSums,
    /// The streams that it served.
    pub(super) ended_streams: StreamSums,
    /// What its cgroups used.
    pub(super) cgroups: Vec<CgroupStep>,
}

/// Open ends by what they carry.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Carried {
    /// HTTP/2 that is seen.
    pub(super) http2: u64,
    /// Of those: inside TLS.
    pub(super) in_tls: u64,
    /// TLS.
    pub(super) tls: u64,
    /// All else.
    pub(super) other: u64,
    /// What became of their bytes.
    pub(super) bytes: Bytes,
}

/// One edge in one step.
#[derive(Debug, Default)]
pub(super) struct EdgeFold {
    /// The caller's end is seen.
    pub(super) client_seen: bool,
    /// HTTP/2 was seen.
    pub(super) grpc: bool,
    /// Something passed in this step.
    pub(super) traffic: bool,
    /// Calls as the client saw them.
    pub(super) client: Calls,
    /// Calls as the server saw them.
    pub(super) server: Calls,
    /// Exchanges as the client saw them.
    pub(super) client_exchanges: ExchangeSums,
    /// Exchanges as the server saw them.
    pub(super) server_exchanges: ExchangeSums,
    /// Exchanges, each once: by the client's end where that is on this node. Its samples and the server's end
    /// in different steps now and then, so no step alone says which of the two to take.
    pub(super) exchanges: u64,
    /// Their time, summed.
    pub(super) exchange_time: Nanos,
    /// Calls that the caller has open.
    pub(super) streams: u64,
    /// Age of the oldest of them without a response.
    pub(super) oldest: Nanos,
    /// What TCP says of both ends.
    pub(super) transport: Transport,
    /// Connect times, summed.
    pub(super) connect_time: Nanos,
    /// How many.
    pub(super) connects: u64,
    /// Attempts to connect that failed.
    pub(super) failed_connects: u64,
}

/// One end and whose it is.
struct End {
    id: ConnectionId,
    side: View,
    place: Place,
}

/// Sums up the step that began at `start`. Calls in flight count where the decoder told of them after
/// `in_flight_since`.
pub(super) fn fold(
    world: &mut World,
    mut open: OpenStep,
    start: Timestamp,
    in_flight_since: Timestamp,
) -> Folded {
    let mut folded = Folded::default();
    world.connections.link();
    let ends = active_ends(world, &open, start);
    learn_names(world, &ends, &open);
    for end in &ends {
        folded.changes.extend(world.places.assign(end.place, &mut world.services).1);
    }
    for end in &ends {
        let step = open.connections.remove(&end.id).unwrap_or_default();
        fold_end(world, &mut folded, end, step, in_flight_since);
    }
    for ((cgroup, remote), count) in open.failed_connects {
        fold_failed_connect(world, &mut folded, cgroup, remote, count);
    }
    fold_cgroups(world, &mut folded, open.cgroups);
    folded
}

/// The ends on which anything ever passed and that were open in the step, or had a late event in it.
fn active_ends(world: &mut World, open: &OpenStep, start: Timestamp) -> Vec<End> {
    let (connections, places) = (&world.connections, &mut world.places);
    connections
        .iter()
        .filter(|(_, end)| end.active)
        .filter(|(id, end)| {
            end.closed.is_none_or(|closed| closed >= start) || open.connections.contains_key(id)
        })
        .map(|(id, end)| {
            let side = connections.side(end);
            let listens = (side == View::Server).then_some(end.local);
            End { id, side, place: places.of(end.cgroup, listens) }
        })
        .collect()
}

/// Notes who was called by which authority: first who calls whom, because a proxy is not what it calls.
fn learn_names(world: &mut World, ends: &[End], open: &OpenStep) {
    for view in [View::Client, View::Server] {
        for end in ends {
            let Some(step) = open.connections.get(&end.id) else { continue };
            for (host, calls) in &step.hosts {
                match view {
                    View::Client if step.client.count > 0 => world.places.note_calls(end.place, host),
                    View::Server if step.server.count > 0 => {
                        world.places.note_called_as(end.place, host, *calls);
                    }
                    _ => {}
                }
            }
        }
    }
}

fn fold_end(world: &mut World, folded: &mut Folded, end: &End, step: ConnectionStep, since: Timestamp) {
    let Some(own) = world.places.service(end.place) else { return };
    let Some(connection) = world.connections.end(end.id).cloned() else { return };
    let peer = peer(world, &connection, end);
    let in_flight =
        connection.in_flight.as_ref().filter(|seen| seen.at > since && connection.closed.is_none());
    let streams = in_flight.map_or(0, |seen| u64::from(seen.streams));
    let oldest = in_flight.and_then(|seen| seen.oldest_unanswered).unwrap_or_default();
    let grpc = connection.protocol.is_http2() || connection.decoded;

    let service = folded.services.entry(own).or_default();
    service.local = true;
    service.lost += step.lost;
    service.transport.merge(&step.transport);
    service.flow.merge(&step.flow);
    if let Some(streams) = &step.streams {
        service.ended_streams.merge(streams);
    }
    folded.nameless += step.nameless;
    let carried = if end.side == View::Server { &mut service.served } else { &mut service.calling };
    match (grpc, connection.protocol) {
        (true, protocol) => {
            carried.http2 += 1;
            carried.in_tls += u64::from(protocol == Protocol::Http2InTls);
        }
        (_, Protocol::Tls) => carried.tls += 1,
        _ => carried.other += 1,
    }
    carried.bytes.merge(1.0, &step.bytes);
    service.server.merge(&step.server);
    service.made.merge(&step.client);
    if end.side == View::Server {
        service.streams += streams;
        service.oldest = service.oldest.max(oldest);
        service.connects += u64::from(step.opened.is_some());
        if !grpc {
            service.exchanges.merge(&step.exchanges);
        }
    } else if !grpc {
        service.made_exchanges += step.exchanges.count;
    }

    let key = if end.side == View::Client { (own, peer) } else { (peer, own) };
    for (series, totals) in step.series {
        folded.series.push((key, series, totals));
    }
    let other = folded.services.entry(peer).or_default();
    other.called |= end.side == View::Client;
    if own == peer {
        return; // What a service says to itself is its own business.
    }
    if connection.peer.is_none() && end.side == View::Client {
        other.connects += u64::from(step.opened.is_some());
    }
    let edge = folded.edges.entry(key).or_default();
    edge.grpc |= grpc;
    edge.traffic |= streams > 0
        || step.client.count + step.server.count + step.exchanges.count > 0
        || step.transport.bytes > 0
        || step.exchanges.waiting > Nanos(0);
    edge.client.merge(&step.client);
    edge.server.merge(&step.server);
    edge.transport.merge(&step.transport);
    if end.side == View::Client {
        edge.client_seen = true;
        edge.streams += streams;
        edge.oldest = edge.oldest.max(oldest);
        if let Some(Some(time)) = step.opened {
            edge.connects += 1;
            edge.connect_time += time;
        }
    }
    if !grpc {
        let sums =
            if end.side == View::Client { &mut edge.client_exchanges } else { &mut edge.server_exchanges };
        sums.merge(&step.exchanges);
        if end.side == View::Client || !connection.paired {
            edge.exchanges += step.exchanges.count;
            edge.exchange_time += Nanos(step.exchanges.total);
        }
    }
}

/// The service at the other end: of the connection's other end, of who listens there, or of what the
/// authority or the address says.
fn peer(world: &mut World, connection: &Connection, end: &End) -> ServiceId {
    let other = connection.peer.and_then(|peer| world.connections.end(peer));
    if let Some(other) = other {
        let side = world.connections.side(other);
        let (cgroup, listens) = (other.cgroup, (side == View::Server).then_some(other.local));
        let place = world.places.of(cgroup, listens);
        // An end that is not active yet may have no service; it is one from now on.
        return world.service_at(place);
    }
    match end.side {
        View::Client => remote_server(world, end.place, connection.remote, connection),
        View::Server => world.services.intern(&name_of_client(connection.remote)),
    }
}

fn remote_server(world: &mut World, from: Place, remote: SocketAddr, connection: &Connection) -> ServiceId {
    match connection.host.clone() {
        Some(host) if world.connections.listener(remote).is_none() => {
            let namespace = world.places.namespace(from);
            world.services.intern(&name_of_host(&host, namespace.as_deref()))
        }
        _ => server_at(world, from, remote),
    }
}

/// The service that clients at a place reach at an address.
fn server_at(world: &mut World, from: Place, remote: SocketAddr) -> ServiceId {
    if let Some(listener) = world.connections.listener(remote) {
        let place = world.places.of(listener.cgroup, Some(listener.local));
        return world.service_at(place);
    }
    let name = match world.connections.host(remote) {
        Some(host) => name_of_host(host, world.places.namespace(from).as_deref()),
        None => name_of_server(remote),
    };
    world.services.intern(&name)
}

fn fold_failed_connect(
    world: &mut World,
    folded: &mut Folded,
    cgroup: CgroupId,
    remote: SocketAddr,
    count: u64,
) {
    let place = world.places.of(cgroup, None);
    let caller = world.service_at(place);
    let callee = server_at(world, place, remote);
    folded.services.entry(caller).or_default().local = true;
    let service = folded.services.entry(callee).or_default();
    service.called = true;
    service.failed_connects += count;
    if caller != callee {
        let edge = folded.edges.entry((caller, callee)).or_default();
        edge.client_seen = true;
        edge.traffic = true;
        edge.failed_connects += count;
    }
}

/// Adds what cgroups used to the services that live in them. A cgroup's numbers hold its children's, so a
/// child of a cgroup of the same service is left out; so is the root, which is the whole machine.
fn fold_cgroups(world: &mut World, folded: &mut Folded, steps: BTreeMap<CgroupId, CgroupStep>) {
    let mut owned: BTreeMap<CgroupId, ServiceId> = BTreeMap::new();
    for cgroup in steps.keys() {
        if let place @ Place::Cgroup(_) = world.places.of(*cgroup, None)
            && let Some(service) = world.places.service(place)
        {
            owned.insert(*cgroup, service);
        }
    }
    for (cgroup, step) in steps {
        let Some(service) = owned.get(&cgroup) else { continue };
        let counted_above =
            world.places.ancestors(cgroup).any(|ancestor| owned.get(&ancestor) == Some(service));
        if !counted_above {
            folded.services.entry(*service).or_default().cgroups.push(step);
        }
    }
}
