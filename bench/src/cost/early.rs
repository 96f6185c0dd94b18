//! What a packet costs that is none of the agent's business: how soon its programs let go of it, beside a program
//! that does nothing, on the same packets. Which ends are watched and which way is counted tells the kinds apart:
//! of one-way bulk traffic the receiver sends acknowledgements only, and gets data only.

use std::path::Path;
use std::thread::sleep;

use anyhow::Context;
use serde::Serialize;

use super::agent::Agent;
use super::pair::Pair;
use super::programs::{Ran, SideBySide};
use super::ratios::{Median, median};
use super::roles::{Role, Stage};
use super::traffic::{Order, Talk};
use super::{DRAINED_AFTER, WARM_MILLIS, plain};

/// Turns of each kind of traffic, and how long each takes: thousands of packets.
const TURNS: usize = 15;
const TURN_MILLIS: u64 = 200;

/// Traffic, who of it is watched, and what the packets are that come in and go out there.
struct Case {
    talk: Talk,
    role: Role,
    incoming: &'static str,
    outgoing: &'static str,
}

const CASES: [Case; 3] = [
    Case {
        talk: Talk::Bulk,
        role: Role { name: "receiver", server: true, client: false },
        incoming: "data of a connection that is not gRPC, in",
        outgoing: "ACK without data, out",
    },
    Case {
        talk: Talk::Bulk,
        role: Role { name: "sender", server: false, client: true },
        incoming: "ACK without data, in",
        outgoing: "data of a connection that is not gRPC, out",
    },
    Case {
        talk: Talk::Udp,
        role: Role { name: "datagrams", server: true, client: true },
        incoming: "UDP, in",
        outgoing: "UDP, out",
    },
];

/// One kind of packet.
#[derive(Clone, Debug, Serialize)]
pub(super) struct EarlyExit {
    /// What it is.
    pub packet: String,
    /// Runs of each program.
    pub runs: u64,
    /// Nanoseconds a run of the agent's program and of the empty one, with what the counting takes.
    pub ours_nanos: f64,
    /// See there.
    pub empty_nanos: f64,
    /// The one by the other.
    pub ratio: Median,
}

/// Measures all kinds.
pub(super) fn measure(stage: &Stage, agent: &Agent, object: &Path) -> anyhow::Result<Vec<EarlyExit>> {
    let mut found = Vec::new();
    for case in CASES {
        let mut pair = Pair::start(&plain()?, &stage.places(&case.role)?)?;
        pair.connect()?;
        let order = |millis| Order { talk: case.talk, millis, rate: None };
        pair.run(order(WARM_MILLIS))?;
        let programs = SideBySide::attach(object, &stage.root()?, agent.programs())?;
        let mut turns = Vec::new();
        for _ in 0..TURNS {
            turns.push(programs.run(&mut pair, order(TURN_MILLIS))?.1);
            sleep(DRAINED_AFTER);
        }
        for (way, packet) in [("in", case.incoming), ("e", case.outgoing)] {
            let of_case = EarlyExit::of(packet, way, &turns);
            found.push(of_case.with_context(|| format!("no program ran on `{packet}`"))?);
        }
    }
    eprintln!("early exit: measured");
    Ok(found)
}

impl EarlyExit {
    /// From what the programs did in each turn; `way` is how the names of a direction's programs begin to differ.
    fn of(packet: &str, way: &str, turns: &[Vec<Ran>]) -> Option<Self> {
        let of = |turn: &[Ran], program: &str| {
            turn.iter().find(|ran| ran.program.starts_with(&format!("{program}_{way}gre"))).cloned()
        };
        let both: Vec<(Ran, Ran)> =
            turns.iter().filter_map(|turn| Some((of(turn, "faultline")?, of(turn, "empty")?))).collect();
        let each = |f: &dyn Fn(&(Ran, Ran)) -> f64| median(both.iter().map(f).collect());
        (!both.is_empty()).then(|| Self {
            packet: packet.to_owned(),
            runs: both.iter().map(|(ours, _)| ours.runs).sum(),
            ours_nanos: each(&|(ours, _)| ours.each()).median,
            empty_nanos: each(&|(_, empty)| empty.each()).median,
            ratio: each(&|(ours, empty)| ours.each() / empty.each()),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn ran(program: &str, runs: u64, nanos: u64) -> Ran {
        Ran { program: program.to_owned(), runs, nanos }
    }

    #[test]
    fn each_way_is_held_against_its_own_empty_program() {
        let turn = [
            ran("faultline_ingre", 10, 1_000),
            ran("faultline_egres", 20, 1_200),
            ran("empty_ingress", 10, 400),
            ran("empty_egress", 20, 800),
            ran("copy_egress", 20, 9_000),
        ];
        let turns = [turn.to_vec(), turn.to_vec()];
        let (incoming, outgoing) =
            (EarlyExit::of("", "in", &turns).unwrap(), EarlyExit::of("", "e", &turns).unwrap());
        assert_eq!((incoming.runs, incoming.ours_nanos, incoming.ratio.median), (20, 100.0, 2.5));
        assert_eq!((outgoing.empty_nanos, outgoing.ratio.median), (40.0, 1.5));
        assert!(EarlyExit::of("", "in", &[vec![ran("empty_ingress", 10, 400)]]).is_none());
    }
}
