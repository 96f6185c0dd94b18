//! What was measured, as numbers (JSON) and as tables (Markdown). Slices of pairs come in from [`super`].

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::machine::Machine;
use super::pair::{Slice, per_request};
use super::programs::Loaded;
use super::ratios::{Median, median};

/// Everything that one run measured.
#[derive(Serialize)]
pub(super) struct Report {
    pub machine: Machine,
    pub programs: Vec<Loaded>,
    /// By map; a socket's storage comes on top.
    pub map_bytes: BTreeMap<String, u64>,
    /// What the decoder's own benchmark printed.
    pub decoder: Vec<String>,
    pub costs: Vec<Cost>,
    pub nanos_a_run: Vec<NanosARun>,
    pub rates: Vec<Rate>,
}

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

/// What watching costs one kind of traffic. Ratios are to the unwatched pair of the same round.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Cost {
    pub talk: String,
    pub rounds: usize,
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
    /// All processors' busy time, in sums: both ends watched to unwatched.
    pub machine: f64,
    /// Median and 99th percentile of a request's time, microseconds: without, with.
    pub p50_us: [f64; 2],
    pub p99_us: [f64; 2],
}

impl Cost {
    /// Medians over the rounds.
    pub(super) fn of(talk: &str, rounds: &[Round]) -> Self {
        let each = |f: &dyn Fn(&Round) -> f64| median(rounds.iter().map(f).collect());
        let cpu = Slice::micros_per_request;
        let server = |slice: &Slice| per_request(slice.server_nanos, slice.done.requests);
        let sum = |f: &dyn Fn(&Round) -> f64| rounds.iter().map(f).sum::<f64>();
        Self {
            talk: talk.to_owned(),
            rounds: rounds.len(),
            without_us: each(&|r| cpu(&r.without)).median,
            server_without_us: each(&|r| server(&r.without)).median,
            control: each(&|r| cpu(&r.control) / cpu(&r.without)),
            both: each(&|r| cpu(&r.both) / cpu(&r.without)),
            both_with_agent: each(&|r| (cpu(&r.both) + r.agent_both) / cpu(&r.without)),
            server: each(&|r| 1.0 + (cpu(&r.server) - cpu(&r.without)) / server(&r.without)),
            agent_us: [each(&|r| r.agent_both).median, each(&|r| r.agent_server).median],
            machine: sum(&|r| r.machine_both) / sum(&|r| r.machine_without),
            p50_us: [each(&|r| r.without.done.p50_us).median, each(&|r| r.both.done.p50_us).median],
            p99_us: [each(&|r| r.without.done.p99_us).median, each(&|r| r.both.done.p99_us).median],
        }
    }
}

/// How long a program takes, with what the counting costs.
#[derive(Clone, Debug, Serialize)]
pub(super) struct NanosARun {
    pub talk: String,
    pub program: String,
    pub runs: u64,
    pub nanos: f64,
    /// Requests meanwhile.
    pub requests: u64,
}

/// The agent under a steady rate of calls.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Rate {
    pub calls_per_second: u32,
    /// What was reached.
    pub reached: f64,
    /// Processors that the agent used.
    pub agent_cores: f64,
    pub agent_resident_bytes: u64,
    /// Without, with.
    pub p50_us: [f64; 2],
    pub p99_us: [f64; 2],
}

impl Report {
    /// Tables.
    pub(super) fn markdown(&self) -> String {
        let mut out = String::from(
            "# What watching costs\n\nMeasured by `cargo xtask bench`; the numbers are in cost.json.\n\n",
        );
        let m = &self.machine;
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "Kernel {}, {} x {}{}, {} GiB, time from {}; load {} when it began.\n",
            m.kernel,
            m.processors,
            m.processor,
            if m.virtual_machine { " (virtual)" } else { "" },
            m.memory_gib,
            m.clock_source,
            m.load_at_start,
        );
        self.costs(&mut out);
        self.runs(&mut out);
        self.rates(&mut out);
        for line in &self.decoder {
            let _ = writeln!(out, "Decoder, one core: {line}\n");
        }
        let total: u64 = self.map_bytes.values().sum();
        let _ = writeln!(
            out,
            "Memory of BPF maps: {:.1} MiB (a socket's storage comes on top).",
            mebibytes(total)
        );
        for program in &self.programs {
            let _ =
                writeln!(out, "- {}: {} instructions verified", program.name, program.verified_instructions);
        }
        out
    }

    fn costs(&self, out: &mut String) {
        out.push_str(
            "## CPU a request, watched to unwatched\n\n\
             Median over rounds [95 % interval]. Both: both ends on this node. One: what a node pays that has one \
             end, by that end's own CPU.\n\n\
             | traffic | without, µs | control | both | both, with the agent's process | one | agent, µs (both, one) \
             | machine | p50, µs | p99, µs |\n|---|---|---|---|---|---|---|---|---|---|\n",
        );
        for c in &self.costs {
            let _ = writeln!(
                out,
                "| {} | {:.1} | {} | {} | {} | {} | {:.2}, {:.2} | {:.3} | {:.0} → {:.0} | {:.0} → {:.0} |",
                c.talk,
                c.without_us,
                shown(c.control),
                shown(c.both),
                shown(c.both_with_agent),
                shown(c.server),
                c.agent_us[0],
                c.agent_us[1],
                c.machine,
                c.p50_us[0],
                c.p50_us[1],
                c.p99_us[0],
                c.p99_us[1],
            );
        }
        out.push('\n');
    }

    fn runs(&self, out: &mut String) {
        if self.nanos_a_run.is_empty() {
            return;
        }
        let mut programs: Vec<&str> = Vec::new();
        for run in &self.nanos_a_run {
            if !programs.contains(&run.program.as_str()) {
                programs.push(&run.program);
            }
        }
        let _ = writeln!(
            out,
            "## Nanoseconds a run\n\nOn the same packets, one behind the other; the counting is in each number.\n\n\
             The last columns: what the agent's programs take beyond an empty one for each request with both ends \
             watched, and one plus its share of the request's CPU; that is sharper than the ratios above, but leaves \
             out what caches feel.\n\n\
             | traffic | {} | µs a request | share |\n|---|{}",
            programs.join(" | "),
            "---|".repeat(programs.len() + 2)
        );
        for cost in &self.costs {
            let of = |program: &str| {
                let found =
                    self.nanos_a_run.iter().find(|run| run.talk == cost.talk && run.program == program);
                found.map_or_else(|| "-".to_owned(), |run| format!("{:.0}", run.nanos))
            };
            let cells: Vec<String> = programs.iter().map(|program| of(program)).collect();
            let (micros, share) = self.by_count(cost);
            let _ = writeln!(out, "| {} | {} | {micros:.2} | {share:.3} |", cost.talk, cells.join(" | "));
        }
        out.push('\n');
    }

    /// Microseconds that the agent's programs add to a request by the kernel's count, and one plus its share.
    fn by_count(&self, cost: &Cost) -> (f64, f64) {
        let of_talk = || self.nanos_a_run.iter().filter(|run| run.talk == cost.talk);
        let empty = |way: &str| of_talk().find(|run| run.program == format!("empty_{way}gress"));
        let added = |way: &str| {
            let ours = of_talk().find(|run| run.program.starts_with(&format!("faultline_{way}gre")))?;
            let nanos = (ours.nanos - empty(way)?.nanos) * ours.runs as f64;
            Some(nanos / 1e3 / ours.requests.max(1) as f64)
        };
        match (added("in"), added("e")) {
            (Some(ingress), Some(egress)) => (ingress + egress, 1.0 + (ingress + egress) / cost.without_us),
            _ => (f64::NAN, f64::NAN),
        }
    }

    fn rates(&self, out: &mut String) {
        if self.rates.is_empty() {
            return;
        }
        out.push_str(
            "## The agent at a steady rate of calls (100 B, both ends)\n\n\
             | calls/s | reached | agent, % of one core | resident, MiB | p50, µs | p99, µs |\n|---|---|---|---|---|---|\n",
        );
        for r in &self.rates {
            let _ = writeln!(
                out,
                "| {} | {:.0} | {:.1} | {:.1} | {:.0} → {:.0} | {:.0} → {:.0} |",
                r.calls_per_second,
                r.reached,
                r.agent_cores * 100.0,
                mebibytes(r.agent_resident_bytes),
                r.p50_us[0],
                r.p50_us[1],
                r.p99_us[0],
                r.p99_us[1],
            );
        }
        out.push('\n');
    }
}

fn shown(ratio: Median) -> String {
    format!("{:.3} [{:.3}, {:.3}]", ratio.median, ratio.low, ratio.high)
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
