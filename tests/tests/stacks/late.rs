//! Connections that are older than the agent: what it says of the calls that it sees is right.

use crate::{RING, Watch, finish, folder, script, view, wanted};
use e2e::stacks::compare::{End, compare};
use e2e::stacks::peers::{Client, Network, Peers, STACKS, Server};
use e2e::stacks::scenario::{Late, late};
use e2e::stacks::seen::Seen;
use e2e::stacks::tally::{Tally, View as Part, known};
use e2e::stacks::truth::{Truths, expectations};
use faultline_core::call::View;
use faultline_core::units::CgroupId;
use std::collections::HashMap;
use std::fs;
use std::path::Path;

#[test]
#[ignore = "needs the peers of six stacks: cargo xtask test stacks"]
fn connections_older_than_the_agent() {
    let folder = folder();
    let peers = Peers::find();
    let mut joined: Vec<Joined> = Vec::new();
    let mut failures = Vec::new();
    // Constant headers, the worst case, with a server of the same stack; and headers that differ in each call,
    // with a server of another.
    let constant = STACKS.into_iter().map(|stack| (stack, stack, false));
    let varied = RING.into_iter().map(|(client, server)| (client, server, true));
    for (client, server, varied) in constant.chain(varied).filter(|pair| wanted(pair.0, pair.1)) {
        let name = format!("{client} -> {server}, {}", if varied { "varied" } else { "constant" });
        match Joined::start(&peers, (client, server), varied, &name, folder.path()) {
            Ok(pair) => joined.push(pair),
            Err(why) => failures.push(format!("{name}: {why}")),
        }
    }
    let watch = Watch::begin(&[]);
    for pair in &mut joined {
        pair.client.go_on();
    }
    let truths: Vec<_> = joined.iter_mut().map(|pair| pair.client.finish()).collect();
    let seen = watch.end();
    let mut total = (0, 0);
    for (pair, truth) in joined.iter().zip(truths) {
        match truth.and_then(|truth| pair.judge(&truth, &seen)) {
            Err(why) => failures.push(format!("{}: {why}", pair.name)),
            Ok((sent, unseen, found)) => {
                total = (total.0 + sent, total.1 + unseen);
                failures.extend(found);
            }
        }
    }
    finish(&seen, total, failures);
}

/// A pair whose connection is there before the agent.
struct Joined {
    name: String,
    server: Server,
    client: Client,
    late: Late,
}

impl Joined {
    /// Starts a pair and waits until its calls before the agent are made.
    fn start(
        peers: &Peers,
        (client, server): (&str, &str),
        varied: bool,
        name: &str,
        home: &Path,
    ) -> Result<Self, String> {
        let folder = home.join(name.replace([' ', ',', '>'], ""));
        fs::create_dir(&folder).unwrap();
        let late = late(varied);
        let script = script(&folder, late.lines.iter());
        let server = peers.serve(server, Network::V4, None, &folder)?;
        let target = Network::V4.target(server.port);
        let mut client = peers.call(client, &target, &server.authority, &script, &folder);
        client.until_it_waits()?;
        Ok(Self { name: name.to_owned(), server, client, late })
    }

    /// Prints the pair's line; gives the calls, those unseen, and what is wrong.
    fn judge(
        &self,
        truth: &str,
        seen: &HashMap<CgroupId, Seen>,
    ) -> Result<(usize, usize, Vec<String>), String> {
        let truths = Truths { client: truth, server: "", retries: false };
        let mut failures = Vec::new();
        let mut said = Vec::new();
        let plan = &self.late.seen;
        let expected = [
            ("client", View::Client, self.client.cgroup(), expectations(plan, truths, View::Client)?),
            ("server", View::Server, self.server.cgroup(), expectations(plan, truths, View::Server)?),
        ];
        let mut parts = Vec::new();
        for (name, end, cgroup, expected) in &expected {
            let seen = view(seen, *cgroup);
            let calls: Vec<_> = seen.calls.iter().collect();
            let authority = &self.server.authority;
            let end = End { view: *end, authority, ordered: true, behind_proxy: false };
            let verdict = compare(expected, &calls, end);
            let (known, wrong) = known(&verdict.judged);
            failures.extend(wrong.into_iter().map(|what| format!("{}, {name}: {what}", self.name)));
            said.push(format!(
                "{name}: {} named, {} told, {} inferred",
                known.named, known.told, known.inferred
            ));
            parts.push(Part { name, verdict, lost: seen.lost.clone() });
        }
        let tally = Tally::of(&parts, true);
        let (sent, unseen) = (tally.sent, tally.unseen);
        failures.extend(tally.report(&self.name, &format!("; {}", said.join("; "))));
        Ok((sent, unseen, failures))
    }
}
