//! Draws a topology: a number of services and a seed come in, the text of a topology file goes out, the
//! same one on every machine. `shape` draws who calls whom, `flesh` what the methods cost, `text` writes it.
//!
//! What it is like, and where that was measured:
//! - Call graphs grow like trees, wide rather than deep, and their sizes have a heavy tail; many services are
//!   hot spots that many others share (Luo et al., Characterizing Microservice Dependency and Performance:
//!   Alibaba Trace Analysis, SoCC 2021; An In-Depth Study of Microservice Call Graph and Runtime Performance,
//!   TPDS 2022).
//! - About two of five services call no other one; workload and dependencies are long-tailed (Winchester et
//!   al., Complexity at Scale: A Quantitative Analysis of an Alibaba Microservice Deployment, 2025: 39 % are
//!   leaves, 48 % in the middle, 13 % entries).

mod flesh;
mod shape;
mod text;

use super::{Invalid, Stack, Topology};
use crate::random::Random;

/// More do not fit one machine; a single one calls nobody.
const SERVICES: std::ops::RangeInclusive<usize> = 2..=200;

/// Tells the seed of the stacks from that of all else.
const STACKS_SALT: u64 = 0x57AC_C500;

impl Topology {
    /// Draws a topology of so many services, 2 to 200; with no stacks given, of all six. The same arguments
    /// give the same topology.
    pub fn generate(services: usize, seed: u64, stacks: &[Stack]) -> Result<Self, Invalid> {
        let name = file_name(services, seed);
        Self::parse(&name, &text(services, seed, stacks)?)
    }
}

/// The text of the topology file that `Topology::generate` reads.
pub fn text(services: usize, seed: u64, stacks: &[Stack]) -> Result<String, Invalid> {
    let file = file_name(services, seed);
    if !SERVICES.contains(&services) {
        let reason = format!("{services} services; {} to {} can be drawn", SERVICES.start(), SERVICES.end());
        return Err(Invalid { file, place: "--services".into(), reason });
    }
    let mut draw = Draw(Random::seeded(seed));
    let shape = shape::draw(services, &mut draw);
    // Of a source of their own, so that the same system in other stacks is the same but for them.
    let stacks = flesh::stacks(services, stacks, &mut Draw(Random::seeded(seed ^ STACKS_SALT)));
    let mut system = flesh::draw(&shape, stacks, &mut draw);
    // What a request becomes is known only of the whole; the rate follows from it.
    let summary = Topology::parse(&file, &text::write(&system, seed))?.summary();
    system.set_rate(services, summary.calls_per_request);
    Ok(text::write(&system, seed))
}

fn file_name(services: usize, seed: u64) -> String {
    format!("generated-{services}-{seed}.toml")
}

/// Draws of the kinds that are needed here.
struct Draw(Random);

impl Draw {
    /// Uniform in 0..bound.
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.0.below(bound as u64)).unwrap_or(0)
    }

    /// Uniform in low..=high.
    fn between(&mut self, low: u32, high: u32) -> u32 {
        low + u32::try_from(self.0.below(u64::from(high.saturating_sub(low)) + 1)).unwrap_or(0)
    }

    fn chance(&mut self, probability: f64) -> bool {
        self.0.unit() < probability
    }

    /// An index by weight; 0 when there are none.
    fn weighted(&mut self, weights: &[f64]) -> usize {
        let mut left = self.0.unit() * weights.iter().sum::<f64>();
        let hit = weights.iter().position(|weight| {
            left -= weight;
            left < 0.0
        });
        hit.unwrap_or(weights.len().saturating_sub(1))
    }

    /// Log-normal with a median and the deviation of its logarithm, kept within bounds.
    fn skewed(&mut self, median: f64, deviation: f64, low: f64, high: f64) -> f64 {
        let radius = (-2.0 * (1.0 - self.0.unit()).ln()).sqrt();
        let normal = radius * (std::f64::consts::TAU * self.0.unit()).cos();
        (median * (deviation * normal).exp()).clamp(low, high)
    }

    /// The same, as a whole number.
    fn skewed_whole(&mut self, median: f64, deviation: f64, low: f64, high: f64) -> u32 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounds are within")]
        let whole = self.skewed(median, deviation, low, high).round() as u32;
        whole
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]
    use std::collections::BTreeMap;

    use super::super::graph;
    use super::*;

    #[test]
    fn every_size_is_sound_and_fits_a_machine() {
        for services in [2, 3, 5, 10, 20, 40, 60, 120, 200] {
            for seed in 0..6 {
                let topology = Topology::generate(services, seed, &[]).unwrap();
                assert_eq!(topology.services.len(), services);
                let summary = topology.summary();
                assert!(summary.unreached.is_empty(), "{summary}");
                let calls = summary.calls_per_request * summary.requests_per_second;
                assert!((30.0..=500.0).contains(&calls), "{services} {seed}: {calls} calls/s");
                assert!(summary.processes as usize <= services + services / 3 + 1, "{summary}");
                assert!(summary.depth <= 8, "{summary}");
            }
        }
        assert!(Topology::generate(201, 1, &[]).is_err_and(|error| error.to_string().contains("2 to 200")));
        assert!(Topology::generate(1, 1, &[]).is_err());
    }

    #[test]
    fn the_same_seed_gives_the_same_file() {
        assert_eq!(text(40, 7, &[]).unwrap(), text(40, 7, &[]).unwrap());
        assert_ne!(text(40, 7, &[]).unwrap(), text(40, 8, &[]).unwrap());
    }

    #[test]
    fn other_stacks_change_nothing_else() {
        let without_stacks = |stacks: &[Stack]| {
            let text = text(30, 5, stacks).unwrap();
            text.lines().filter(|line| !line.starts_with("stack")).collect::<Vec<_>>().join("\n")
        };
        assert_eq!(without_stacks(&[Stack::Rust]), without_stacks(&[Stack::Go, Stack::Node]));
    }

    #[test]
    fn most_of_a_large_system_is_rust_and_a_small_one_has_what_was_asked_for() {
        let stacks = |services, given: &[Stack]| {
            let mut counts: BTreeMap<Stack, usize> = BTreeMap::new();
            for service in Topology::generate(services, 3, given).unwrap().services.values() {
                *counts.entry(service.stack).or_default() += 1;
            }
            counts
        };
        assert!(stacks(200, &[])[&Stack::Rust] > 150);
        assert_eq!(stacks(200, &[]).len(), 6);
        assert_eq!(stacks(40, &[]).len(), 6);
        assert_eq!(
            stacks(30, &[Stack::Go, Stack::Cpp]).into_keys().collect::<Vec<_>>(),
            [Stack::Go, Stack::Cpp]
        );
    }

    /// The shares that the cited studies measured, over many seeds.
    #[test]
    fn degrees_and_depths_are_like_published_ones() {
        let (mut leaves, mut most_callers, mut depths, mut edges, mut backed) =
            (0, Vec::new(), Vec::new(), 0, 0);
        let (seeds, services) = (20, 100);
        for seed in 0..seeds {
            let topology = Topology::generate(services, seed, &[]).unwrap();
            let mut callers: BTreeMap<&str, std::collections::BTreeSet<&str>> = BTreeMap::new();
            for (name, service) in &topology.services {
                let calls = service.methods.values().flat_map(|method| &method.calls);
                let callees: std::collections::BTreeSet<&str> =
                    calls.map(|call| call.service.as_str()).collect();
                leaves += usize::from(callees.is_empty());
                backed += usize::from(service.methods.values().any(|method| !method.data.is_empty()));
                edges += callees.len();
                for callee in callees {
                    callers.entry(callee).or_default().insert(name);
                }
            }
            most_callers.push(callers.values().map(|callers| callers.len()).max().unwrap());
            let entry = |at: &graph::At<'_>| at.0 == topology.entry;
            let cascades = graph::cascades(&topology).unwrap();
            depths.extend(cascades.iter().filter(|(at, _)| entry(at)).map(|(_, cascade)| cascade.depth));
        }
        let all = f64::from(u32::try_from(seeds as usize * services).unwrap());
        let share = |count: usize| f64::from(u32::try_from(count).unwrap()) / all;
        assert!((0.33..0.55).contains(&share(leaves)), "leaves {}", share(leaves));
        assert!((0.15..0.6).contains(&share(backed)), "with back ends {}", share(backed));
        // Nearly a tree: a tree has one edge a service.
        assert!((1.0..1.8).contains(&share(edges)), "edges {}", share(edges));
        // Heavy-tailed: the mean is below 2, the most shared ones have ten times that.
        most_callers.sort_unstable();
        assert!(most_callers[most_callers.len() / 2] >= 10, "{most_callers:?}");
        depths.sort_unstable();
        assert!((3..=6).contains(&depths[depths.len() / 2]), "{depths:?}");
    }
}
