//! What watching costs one kind of traffic: slices of pairs come in by rounds, ratios go out in which no pair's own
//! speed counts.

use serde::Serialize;

use super::pair::{Slice, per_request};
use super::ratios::{Median, geometric_mean, median};

/// What one turn of each pair used: CPU a request in microseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Round {
    without: Slice,
    control: Slice,
    server: Slice,
    both: Slice,
    agent_both: f64,
    agent_server: f64,
    machine_without: f64,
    machine_both: f64,
}

impl Round {
    /// Slices of the pairs in their order, each with the agent's nanoseconds and the machine's busy ticks.
    pub(super) fn of(turns: &[(Slice, u64, u64)]) -> Option<Self> {
        const TICK_NANOS: u64 = 10_000_000;
        let [without, control, server, both] = *turns else { return None };
        let machine = |turn: (Slice, u64, u64)| per_request(turn.2 * TICK_NANOS, turn.0.done.requests);
        Some(Self {
            without: without.0,
            control: control.0,
            server: server.0,
            both: both.0,
            agent_both: per_request(both.1, both.0.done.requests),
            agent_server: per_request(server.1, server.0.done.requests),
            machine_without: machine(without),
            machine_both: machine(both),
        })
    }
}

/// Whether the agent saw what it was to see.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Decoded {
    /// Calls that were made to watched servers, those before and between the turns included.
    pub made: u64,
    /// Calls that the agent decoded.
    pub seen: u64,
}

/// What watching costs one kind of traffic. Ratios are to the unwatched pair of the same round, and each is the
/// geometric mean of a cycle: a pair's own speed is in it once above and once below the line.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Cost {
    pub talk: String,
    pub rounds: usize,
    /// Rounds after which each pair has played each role: as many give one value of a ratio.
    pub cycle: usize,
    /// CPU a request of both ends, unwatched, microseconds.
    pub without_us: f64,
    /// The server's part of it.
    pub server_without_us: f64,
    /// The second unwatched pair: how exact all of this is.
    pub control: Median,
    /// Both ends watched, the agent's process not counted.
    pub both: Median,
    /// Both ends watched, the agent's process counted.
    pub both_with_agent: Median,
    /// The server's end watched: what both processes use more, by what the server uses, plus one.
    pub server: Median,
    /// The agent's process, microseconds a request, at both ends and at one.
    pub agent_us: [f64; 2],
    /// Calls that the watched servers served, and those of them that the agent decoded; nothing where there are no
    /// calls.
    pub decoded: Option<Decoded>,
    /// All processors' busy time, in sums: both ends watched to unwatched.
    pub machine: f64,
    /// Median and 99th percentile of a request's time, microseconds: without, with.
    pub p50_us: [f64; 2],
    pub p99_us: [f64; 2],
}

impl Cost {
    /// Medians over the cycles of so many rounds.
    pub(super) fn of(talk: &str, rounds: &[Round], cycle: usize) -> Self {
        let each = |f: &dyn Fn(&Round) -> f64| median(rounds.iter().map(f).collect()).median;
        let cpu = Slice::micros_per_request;
        let server = |slice: &Slice| per_request(slice.server_nanos, slice.done.requests);
        let sum = |rounds: &[Round], f: &dyn Fn(&Round) -> f64| rounds.iter().map(f).sum::<f64>();
        let ratio = |f: &dyn Fn(&Round) -> f64| {
            let of_cycle = |rounds: &[Round]| geometric_mean(rounds.iter().map(|r| f(r) / cpu(&r.without)));
            median(rounds.chunks_exact(cycle).map(of_cycle).collect())
        };
        // A difference may be negative, so sums and not products: what a pair uses more is in both of them.
        let one_end = |rounds: &[Round]| {
            let more = sum(rounds, &|r| cpu(&r.server) - cpu(&r.without));
            1.0 + more / sum(rounds, &|r| server(&r.without))
        };
        Self {
            talk: talk.to_owned(),
            rounds: rounds.len(),
            cycle,
            without_us: each(&|r| cpu(&r.without)),
            server_without_us: each(&|r| server(&r.without)),
            control: ratio(&|r| cpu(&r.control)),
            both: ratio(&|r| cpu(&r.both)),
            both_with_agent: ratio(&|r| cpu(&r.both) + r.agent_both),
            server: median(rounds.chunks_exact(cycle).map(one_end).collect()),
            agent_us: [each(&|r| r.agent_both), each(&|r| r.agent_server)],
            decoded: None,
            machine: sum(rounds, &|r| r.machine_both) / sum(rounds, &|r| r.machine_without),
            p50_us: [each(&|r| r.without.done.p50_us), each(&|r| r.both.done.p50_us)],
            p99_us: [each(&|r| r.without.done.p99_us), each(&|r| r.both.done.p99_us)],
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::super::roles::CYCLE;
    use super::super::traffic::Done;
    use super::*;

    /// What watching costs here: nothing, nothing, half of the server's CPU, a fifth of all.
    const ROLES: [f64; CYCLE] = [1.0, 1.0, 1.25, 1.2];

    /// Rounds of pairs that need so many times what another would, who change their roles or do not.
    fn measured(pairs: [f64; CYCLE], rounds: usize, changing: bool) -> Cost {
        let round = |round: usize| {
            let mut players = pairs;
            players.rotate_left(if changing { round % CYCLE } else { 0 });
            let turns: Vec<_> = (ROLES.iter().zip(players))
                .map(|(role, pair)| {
                    let nanos = (1e6 * role * pair).round() as u64;
                    let done = Done { requests: 10, ..Done::default() };
                    (Slice { done, server_nanos: nanos / 2, client_nanos: nanos - nanos / 2 }, 0, 1)
                })
                .collect();
            Round::of(&turns).unwrap()
        };
        let rounds: Vec<_> = (0..rounds).map(round).collect();
        Cost::of("", &rounds, if changing { CYCLE } else { 1 })
    }

    fn assert_near(median: Median, expected: f64) {
        for value in [median.low, median.median, median.high] {
            assert!((value - expected).abs() < 1e-4, "{median:?} is not {expected}");
        }
    }

    #[test]
    fn a_slow_pair_does_not_count_when_roles_change() {
        let cost = measured([1.0, 1.1, 0.8, 1.3], 8, true);
        assert_near(cost.control, 1.0);
        assert_near(cost.both, 1.2);
        assert_near(cost.server, 1.5);
    }

    #[test]
    fn it_does_when_they_do_not() {
        let cost = measured([1.0, 1.1, 1.0, 1.0], 8, false);
        assert_near(cost.control, 1.1);
        assert_near(cost.both, 1.2);
    }
}
