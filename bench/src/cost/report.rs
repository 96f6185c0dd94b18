//! What was measured, as numbers (JSON) and as tables (Markdown). Results come in from [`super`] as they are found.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use anyhow::Context;
use aya::programs::ProgramInfo;

use super::costs::Cost;
use super::early::EarlyExit;
use super::machine::Machine;
use super::programs::{self, Loaded, Ran};
use super::ratios::Median;

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
    pub early_exits: Vec<EarlyExit>,
    pub rates: Vec<Rate>,
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

impl NanosARun {
    pub(super) fn of(talk: &str, ran: &Ran, requests: u64) -> Self {
        Self {
            talk: talk.to_owned(),
            program: ran.program.clone(),
            runs: ran.runs,
            nanos: ran.each(),
            requests,
        }
    }
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
    /// One in which nothing is measured yet.
    pub(super) fn new(machine: Machine, decoder: Vec<String>) -> Self {
        Self {
            machine,
            programs: Vec::new(),
            map_bytes: BTreeMap::new(),
            decoder,
            costs: Vec::new(),
            nanos_a_run: Vec::new(),
            early_exits: Vec::new(),
            rates: Vec::new(),
        }
    }

    /// Describes an agent's programs, if no other's were.
    pub(super) fn describe(&mut self, programs: &[ProgramInfo]) -> anyhow::Result<()> {
        if self.programs.is_empty() {
            self.programs = programs::described(programs);
            self.map_bytes = programs::map_bytes(programs).context("the programs' maps")?;
        }
        Ok(())
    }

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
        self.early_exits(&mut out);
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
        if self.costs.is_empty() {
            return;
        }
        out.push_str(
            "## CPU a request, watched to unwatched\n\n\
             Median [95 % interval]. Both: both ends on this node. One: what a node pays that has one end, by that \
             end's own CPU. Control: a pair that nobody watches, to another. A pair may be faster than another for as \
             long as it lives; so the pairs change their roles each round, four rounds make a cycle in which each \
             played each, and a cycle gives one value (the geometric mean of its ratios), in which that cancels.\n\n\
             Decoded: of the calls to watched servers those that the agent reports. A row that is not near 100 % says \
             nothing about watching.\n\n",
        );
        if self.costs.iter().any(|cost| cost.cycle == 1) {
            out.push_str(
                "gRPC over TLS: tonic over the system's OpenSSL (tokio-openssl, which keeps the socket from the \
                 library), with an agent started with `--tls`; unwatched is over TLS, too. Its probes lie in the \
                 library's file, so what is not watched uses a copy of it; a process cannot change that, so each \
                 round has four new pairs, and how they differ is in the interval. What a probe costs depends much on \
                 the machine, and more on a virtual one; `faultline check` says it.\n\n",
            );
        }
        out.push_str(
            "| traffic | without, µs | control | both | both, with the agent's process | one | agent, µs (both, one) \
             | decoded | machine | p50, µs | p99, µs |\n|---|---|---|---|---|---|---|---|---|---|---|\n",
        );
        for c in &self.costs {
            let decoded = c.decoded.map_or_else(
                || "-".to_owned(),
                |d| format!("{:.2} % of {}", d.seen as f64 / d.made.max(1) as f64 * 100.0, d.made),
            );
            let _ = writeln!(
                out,
                "| {} | {:.1} | {} | {} | {} | {} | {:.2}, {:.2} | {decoded} | {:.3} | {:.0} → {:.0} | {:.0} → {:.0} |",
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
        for cost in self.costs.iter().filter(|cost| self.nanos_a_run.iter().any(|run| run.talk == cost.talk))
        {
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

    fn early_exits(&self, out: &mut String) {
        if self.early_exits.is_empty() {
            return;
        }
        out.push_str(
            "## Packets that are none of its business\n\n\
             Nanoseconds a run of the agent's program and of an empty one on the same packets, and the ratio (median \
             over turns [95 % interval]). The counting is in both numbers, so the ratio flatters; what is added does \
             not. ACK without data: of one-way bulk TCP, watched at the end that gets the data (out) or sends it (in). \
             Data of a connection that is not gRPC: the other direction there; its bytes are not looked at, but it is \
             counted as an exchange. UDP: 100 B datagrams to and fro.\n\n\
             | packet | runs | agent, ns | empty, ns | added, ns | ratio |\n|---|---|---|---|---|---|\n",
        );
        for e in &self.early_exits {
            let _ = writeln!(
                out,
                "| {} | {} | {:.0} | {:.0} | {:.0} | {} |",
                e.packet,
                e.runs,
                e.ours_nanos,
                e.empty_nanos,
                e.ours_nanos - e.empty_nanos,
                shown(e.ratio),
            );
        }
        out.push('\n');
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
