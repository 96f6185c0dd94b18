//! Finds the highest rate that a system serves within a budget of errors and of latency. `playground run` is
//! driven as a child process (`driven`), rates come from `search`, each is measured here, and `plot` shows
//! what was found.

mod driven;
mod plot;
mod search;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Serialize;

use crate::load::{Second, percentile};
use crate::topology::Topology;
use driven::Driven;
use search::Search;

/// After a change of rate, so many seconds pass before measuring: queues fill or empty, sessions mix.
const SETTLE_SECONDS: u32 = 3;
/// After an overload, users wait this long for late answers before the next rate.
const RECOVER_SECONDS: u32 = 5;
/// A generator that sends less than this share of what was asked for is the limit itself.
const KEPT_UP: f64 = 0.9;

/// Flags of `playground stress`.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    playground stress --topology bench/topologies/online-boutique.toml --out limits\n  \
    playground stress --services 40 --seed 7 --budget 0.001 --latency-budget-ms 500 --out limits\n  \
    playground stress --topology T --out limits -- --rust-only --base-port 18000\n\n\
    Writes stress.json and stress.svg into --out, and the run's own files into --out/run. Each step takes\n\
    --seconds-per-step and a few seconds more; ten to fifteen steps are usual. Ctrl-C ends the system, shows\n\
    and writes what was found so far, and exits with 130.")]
pub struct Flags {
    /// The topology file (TOML or JSON)
    #[arg(long, required_unless_present = "services", conflicts_with = "services")]
    topology: Option<PathBuf>,
    /// Draw a topology of so many services instead
    #[arg(long)]
    services: Option<usize>,
    /// The seed of the drawn topology and of the users
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Share of requests that may fail
    #[arg(long, default_value_t = 0.01)]
    budget: f64,
    /// 95 of 100 answers come within this time, milliseconds
    #[arg(long, default_value_t = 1_000.0)]
    latency_budget_ms: f64,
    /// How long each rate is measured
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(2..=3_600))]
    seconds_per_step: u32,
    /// The first rate, requests a second [default: the topology's]
    #[arg(long)]
    start: Option<f64>,
    /// Stop when the limit is known within this share
    #[arg(long, default_value_t = 0.05)]
    precision: f64,
    /// The folder for what was found
    #[arg(long)]
    out: PathBuf,
    /// More flags of `playground run`
    #[arg(last = true)]
    run: Vec<String>,
}

/// What one rate did.
#[derive(Clone, Debug, Serialize)]
struct Step {
    /// Requests a second that were asked for,
    rate: f64,
    /// and that left.
    sent_per_second: f64,
    failed_share: f64,
    p50_ms: f64,
    p95_ms: f64,
    /// Why it is over the budget, if it is.
    over: Option<String>,
}

/// What is allowed.
#[derive(Clone, Copy, Debug, Serialize)]
struct Budget {
    failed_share: f64,
    p95_ms: f64,
}

/// Everything that was found, as stress.json has it.
#[derive(Clone, Serialize)]
struct Found {
    topology: String,
    budget: Budget,
    calls_per_request: f64,
    highest_within: Option<f64>,
    lowest_over: Option<f64>,
    /// Nothing ended the search before it knew.
    complete: bool,
    steps: Vec<Step>,
}

/// A signal ended the search; what it had found was shown.
#[derive(Debug, thiserror::Error)]
#[error("interrupted before the limit was known; {found}")]
pub struct Interrupted {
    /// The signal's number.
    pub signal: u8,
    /// What became of what had been found.
    found: &'static str,
}

/// Searches until the limit is known, then shows it.
pub fn stress(flags: &Flags) -> anyhow::Result<()> {
    let within = |share: f64| share > 0.0 && share < 1.0;
    if !(0.0..1.0).contains(&flags.budget) || !within(flags.precision) || flags.latency_budget_ms <= 0.0 {
        bail!("--budget and --precision are shares of 1, and --latency-budget-ms is above 0");
    }
    let topology = match (&flags.topology, flags.services) {
        (Some(path), _) => Topology::read(path)?,
        (None, Some(services)) => Topology::generate(services, flags.seed, &[])?,
        (None, None) => bail!("--topology or --services says what to run"),
    };
    let start = flags.start.unwrap_or(topology.load.requests_per_second);
    let summary = topology.summary();
    std::fs::create_dir_all(&flags.out).with_context(|| format!("{} cannot be made", flags.out.display()))?;
    let mut found = Found {
        topology: topology.name,
        budget: Budget { failed_share: flags.budget, p95_ms: flags.latency_budget_ms },
        calls_per_request: summary.calls_per_request,
        highest_within: None,
        lowest_over: None,
        complete: false,
        steps: Vec::new(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let searched = runtime.block_on(search(flags, start, &mut found));
    if !found.steps.is_empty() {
        std::fs::write(flags.out.join("stress.json"), serde_json::to_string_pretty(&found)?)?;
        std::fs::write(flags.out.join("stress.svg"), plot::svg(&found))?;
        println!("\n{}", plot::bars(&found));
        println!("{}", plot::verdict(&found));
        println!("{} has stress.json, stress.svg and run/", flags.out.display());
    }
    searched
}

/// Starts the system, tries rates until the search or a signal ends it, and stops the system.
async fn search(flags: &Flags, start: f64, found: &mut Found) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut driven = Driven::start(&arguments(flags), start, &flags.out)?;
    let ended_by = tokio::select! {
        tried = try_rates(flags, start, &mut driven, found) => {
            found.complete = tried.is_ok();
            let stopped = driven.stop().await;
            return tried.and(stopped);
        }
        _ = interrupt.recv() => SignalKind::interrupt(),
        _ = terminate.recv() => SignalKind::terminate(),
        _ = hangup.recv() => SignalKind::hangup(),
    };
    eprintln!("stress: stopping");
    driven.stop_now().await?;
    let found =
        if found.steps.is_empty() { "no rate was measured" } else { "what was found so far is above" };
    let signal = u8::try_from(ended_by.as_raw_value()).unwrap_or_default();
    Err(Interrupted { signal, found }.into())
}

fn arguments(flags: &Flags) -> Vec<String> {
    let mut words = match (&flags.topology, flags.services) {
        (Some(path), _) => vec!["--topology".to_owned(), path.display().to_string()],
        (None, services) => vec!["--services".to_owned(), services.unwrap_or_default().to_string()],
    };
    words.extend(["--seed".into(), flags.seed.to_string()]);
    words.extend(flags.run.iter().cloned());
    words
}

async fn try_rates(flags: &Flags, start: f64, driven: &mut Driven, found: &mut Found) -> anyhow::Result<()> {
    driven.wait_for_load().await?;
    let mut search = Search::new(start, flags.precision);
    println!("{}", plot::HEADER);
    while let Some(rate) = search.next_rate() {
        driven.set_rate(rate).await?;
        driven.seconds(SETTLE_SECONDS).await?;
        let seconds = driven.seconds(flags.seconds_per_step).await?;
        let step = measure(rate, &seconds, found.budget);
        println!("{}", plot::row(&step));
        search.tell(rate, step.over.is_none());
        if step.over.is_some() {
            // A lower rate is not to blame for what the higher one left behind.
            driven.set_rate(search.within().unwrap_or(rate / 4.0)).await?;
            driven.seconds(RECOVER_SECONDS).await?;
        }
        found.steps.push(step);
        (found.highest_within, found.lowest_over) = (search.within(), search.over());
    }
    Ok(())
}

/// One step out of its seconds.
fn measure(rate: f64, seconds: &[Second], budget: Budget) -> Step {
    #[expect(clippy::cast_precision_loss, reason = "counts of a few seconds")]
    let sum = |of: fn(&Second) -> u64| seconds.iter().map(of).sum::<u64>() as f64;
    let (sent, ok, failed) = (sum(|s| s.sent), sum(|s| s.ok), sum(|s| s.failed));
    let median = |of: fn(&Second) -> f64| {
        let mut values: Vec<f64> = seconds.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        percentile(&values, 0.5)
    };
    let length = u32::try_from(seconds.len()).map_or(1.0, f64::from).max(1.0);
    let mut step = Step {
        rate,
        sent_per_second: sent / length,
        failed_share: failed / (ok + failed).max(1.0),
        p50_ms: median(|s| s.p50_ms),
        p95_ms: median(|s| s.p95_ms),
        over: None,
    };
    // Random arrivals alone stay above this in all but one of a thousand steps.
    let expected = rate * length;
    let fewest = KEPT_UP * expected - 3.0 * expected.sqrt();
    step.over = if ok + failed < 1.0 && sent > 0.0 {
        Some("no answer".into())
    } else if step.failed_share > budget.failed_share {
        Some(format!("{:.2} % failed", step.failed_share * 100.0))
    } else if step.p95_ms > budget.p95_ms {
        Some(format!("p95 {:.0} ms", step.p95_ms))
    } else if sent < fewest {
        Some("the load generator did not keep up".into())
    } else {
        None
    };
    step
}

/// Seconds with a name, for waiting.
const fn seconds(count: u32) -> Duration {
    Duration::from_secs(count as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_by_hand() {
        let second = |sent, ok, failed, p95_ms| Second { sent, ok, failed, p50_ms: 5.0, p95_ms };
        let budget = Budget { failed_share: 0.01, p95_ms: 100.0 };
        let over = |rate, seconds: &[Second]| measure(rate, seconds, budget).over.unwrap_or_default();
        assert_eq!(over(100.0, &[second(100, 99, 1, 20.0), second(100, 100, 0, 30.0)]), "");
        assert_eq!(over(100.0, &[second(100, 96, 4, 20.0), second(100, 100, 0, 30.0)]), "2.00 % failed");
        assert_eq!(over(100.0, &[second(100, 100, 0, 200.0)]), "p95 200 ms");
        assert_eq!(over(100.0, &[second(40, 40, 0, 20.0)]), "the load generator did not keep up");
        assert_eq!(over(100.0, &[second(100, 0, 0, 0.0)]), "no answer");
        let step = measure(100.0, &[second(100, 90, 10, 20.0)], budget);
        assert!((step.failed_share - 0.1).abs() < 1e-12 && (step.sent_per_second - 100.0).abs() < 1e-12);
    }
}
