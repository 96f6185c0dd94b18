//! Six stacks with each other: all pairs; connections that age; a proxy between them; and HTTP/1.1 upgraded.

use crate::{RING, Watch, finish, script, view, wanted};
use e2e::stacks::compare::{End, compare};
use e2e::stacks::pair::{Pair, Ran, run_all};
use e2e::stacks::peers::{BY_HAND, Network, Peers, STACKS};
use e2e::stacks::proxy::Kind;
use e2e::stacks::scenario::{CONNECTIONS, Planned, STREAMS, ageing, exact, scenario};
use e2e::stacks::seen::Seen;
use e2e::stacks::tally::{Tally, View as Part};
use e2e::stacks::truth::{Truths, expectations};
use faultline_core::call::View;
use faultline_core::event::Protocol;
use faultline_core::units::CgroupId;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

/// Servers let go of a connection after so long, where they age. grpc-java takes no less than a second.
const AGE: Duration = Duration::from_millis(500);

#[test]
#[ignore = "needs the peers of six stacks: cargo xtask test stacks"]
fn every_stack_with_every_other() {
    let all = STACKS.into_iter().flat_map(|client| STACKS.into_iter().map(move |server| (client, server)));
    // Along the rows and the columns of the matrix, so that each stack has each network at each end.
    let network = |place: usize| Network::ALL[(place + place / STACKS.len()) % Network::ALL.len()];
    let pairs = all
        .enumerate()
        .map(|(place, (client, server))| Pair { network: network(place), ..Pair::new(client, server) });
    hold(&scenario(STREAMS), pairs, &Peers::find(), Watch::begin(&[]));
}

#[test]
#[ignore = "needs the peers of six stacks: cargo xtask test stacks"]
fn connections_that_age() {
    let pairs = RING.map(|(client, server)| Pair { age: Some(AGE), ..Pair::new(client, server) });
    hold(&ageing(), pairs.into_iter(), &Peers::find(), Watch::begin(&[]));
}

#[test]
#[ignore = "needs the peers of six stacks: cargo xtask test stacks"]
fn through_a_proxy() {
    let through = |kind| move |(client, server)| Pair { through: Some(kind), ..Pair::new(client, server) };
    let pairs =
        RING.into_iter().map(through(Kind::Nginx)).chain(RING.into_iter().map(through(Kind::Haproxy)));
    hold(&scenario(CONNECTIONS), pairs, &Peers::find(), Watch::begin(&[]));
}

#[test]
#[ignore = "needs the peers of six stacks: cargo xtask test stacks"]
fn http_1_upgraded() {
    hold(
        &exact(CONNECTIONS),
        std::iter::once(Pair::new(BY_HAND, BY_HAND)),
        &Peers::find(),
        Watch::begin(&[]),
    );
}

/// Runs pairs under an agent, prints a line for each, and fails for what is wrong.
pub(crate) fn hold(plan: &[Planned], pairs: impl Iterator<Item = Pair>, peers: &Peers, watch: Watch) {
    let pairs: Vec<Pair> = pairs.filter(|pair| wanted(pair.client, pair.server)).collect();
    let home = watch.folder.path();
    let script = script(home, plan.iter().map(|planned| &planned.line));
    let (ran, mut failures) = run_all(&pairs, peers, &script, home);
    let seen = watch.end();
    println!("{} calls a pair, each seen at both ends of every connection", plan.len());
    let mut total = (0, 0);
    for ran in &ran {
        match judge(ran, plan, &seen) {
            Err(why) => failures.push(format!("{}: {why}", ran.pair)),
            Ok((sent, unseen, found)) => {
                total = (total.0 + sent, total.1 + unseen);
                failures.extend(found);
            }
        }
    }
    finish(&seen, total, failures);
}

/// Prints a pair's line; gives the calls, those unseen, and what is wrong.
fn judge(
    ran: &Ran,
    plan: &[Planned],
    seen: &HashMap<CgroupId, Seen>,
) -> Result<(usize, usize, Vec<String>), String> {
    let (ours, theirs) = (view(seen, ran.client), view(seen, ran.server));
    let (front, back) =
        (ran.authority.as_str(), ran.proxy.as_ref().and_then(|(_, called)| called.as_deref()));
    let back = back.unwrap_or(front);
    let end = |view, authority, behind_proxy| End { view, authority, ordered: false, behind_proxy };
    let behind = ran.proxy.is_some();
    let mut ends = vec![
        ("client", ours, end(View::Client, front, false)),
        ("server", theirs, end(View::Server, back, behind)),
    ];
    if let Some((proxy, _)) = &ran.proxy {
        let proxy = view(seen, *proxy);
        ends.insert(1, ("proxy as server", proxy, end(View::Server, front, false)));
        ends.insert(2, ("proxy as client", proxy, end(View::Client, back, behind)));
    }
    let truths = Truths { client: &ran.truths[0], server: &ran.truths[1], retries: ran.retries };
    let expected = ends.iter().map(|(_, _, end)| expectations(plan, truths, end.view));
    let expected: Vec<_> = expected.collect::<Result<_, _>>()?;
    let parts = ends.iter().zip(&expected).map(|((name, seen, end), expected)| {
        let verdict = compare(expected, &seen.calls(end.view), *end);
        Part { name, verdict, lost: seen.lost.clone() }
    });
    let tally = Tally::of(&parts.collect::<Vec<_>>(), ran.proxy.is_some());
    let mut failures = Vec::new();
    if tally.refused > 0 && ran.pair.age.is_none() && ran.proxy.is_none() {
        failures.push(format!("{}: {} attempts that nobody made", ran.pair, tally.refused));
    }
    let (sent, unseen) = (tally.sent, tally.unseen);
    let (connections, most) = (ours.opened.len(), theirs.most_at_once());
    let more = format!("; {:?}, {connections} connections, {most} at once", ran.pair.network);
    failures.extend(tally.report(&ran.pair.to_string(), &more));
    if ran.proxy.is_none() {
        failures.extend(on_the_wire(ran, ours, theirs));
    }
    Ok((sent, unseen, failures))
}

/// Whether the connections were what the pair was asked for: aged where they should, of the right addresses at both
/// ends, and taken for what they carry.
fn on_the_wire(ran: &Ran, ours: &Seen, theirs: &Seen) -> Vec<String> {
    let mut failures = Vec::new();
    if ran.pair.age.is_some() && ours.opened.len() < 3 {
        failures.push(format!("{}: no connection aged", ran.pair));
    }
    let ends: BTreeSet<_> = ours.ends().into_iter().collect();
    let mirrored: BTreeSet<_> = theirs.ends().into_iter().map(|(local, remote)| (remote, local)).collect();
    if ends != mirrored {
        failures.push(format!("{}: its ends differ: {ends:?} and {mirrored:?}", ran.pair));
    }
    let carries = if ran.tls { Protocol::Http2InTls } else { Protocol::Http2 };
    if let Some(taken) =
        ours.protocols.values().chain(theirs.protocols.values()).find(|taken| **taken != carries)
    {
        failures.push(format!("{}: {carries:?} is taken for {taken:?}", ran.pair));
    }
    let network = ran.pair.network;
    if let Some((local, _)) = ends.iter().find(|(local, _)| local.is_ipv6() != (network == Network::V6)) {
        failures.push(format!("{}: {local} on {network:?}", ran.pair));
    }
    failures
}
