//! Trains, quantises and checks the autoencoder: normal windows in, `autoencoder.onnx` and `contract.json`
//! out. Normal windows are those of recordings ([`recorded`]) and of made-up life ([`synthetic`]), which has the
//! many services that no recording of one system has.
//!
//! Training is seeded and runs on one thread: the same machine gives the same file; another may differ in
//! the last bits, so what is promised is the check at the end, not the file's digest.
#![expect(clippy::indexing_slicing, reason = "matrices of known shapes; a trainer may panic")]
#![expect(clippy::cast_possible_wrap, reason = "sizes of layers are small")]

mod dataset;
mod onnx;
mod quantise;
mod recorded;
mod synthetic;

use anyhow::{Context, Result, bail};
use clap::Parser;
use faultline_core::encode::{self, CHANNELS, Contract, Encoded, STEPS, encode};
use faultline_core::history::History;
use faultline_core::score::{Model, reconstruction_errors};
use faultline_core::units::Step;
use faultline_models::net::{Net, Sample, Spoiling, train};
use faultline_models::random::Random;
use ndarray::Array2;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The quantised model must order windows as the trained one does.
const LEAST_CORRELATION: f64 = 0.99;
/// Windows that calibrate the quantisation.
const CALIBRATION: usize = 1024;
/// Quantiles of the errors that the contract tells.
const QUANTILES: [f64; 7] = [0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999];
/// Every so many steps a window: neighbours overlap, and tell little new.
const STRIDE: u64 = 5;
/// Of recordings each step: they are short, and real.
const RECORDED_STRIDE: u64 = 1;
/// Every so many services one is held out.
const HELD_OUT: usize = 5;
/// This share of the training inputs is spoiled.
const SPOILED: f64 = 0.7;
/// Channels that a fault moves together: latencies, errors, CPU and throttling, waiting calls, memory.
const GROUPS: [&[usize]; 5] = [&[2, 3, 4, 5], &[1, 11], &[12, 13], &[8, 9], &[14]];
/// Each other channel of a spoiled input is shifted with this chance.
const SPOILED_CHANNELS: f64 = 0.05;

/// One service's windows: they share steps, so a service is trained on or held out as a whole.
type Windows = Vec<Encoded>;

/// Trains, quantises and checks the autoencoder.
#[derive(Parser)]
#[command(after_help = "Examples:\n  cargo xtask train\n  \
    cargo xtask train --from normal-1.rec --from normal-2.rec --out /tmp/model\n\n\
    cargo xtask train --from bench/data --out /tmp/model\n\n\
    A recording of normal load is made by `faultline record FILE`. Of a folder of `playground generate` the systems\n\
    that its split.json has for training are taken, each up to its first fault.")]
struct Arguments {
    /// A recording of normal load, or a folder of `playground generate`, to learn from; may be repeated.
    #[arg(long, value_name = "RECORDING|DIR")]
    from: Vec<PathBuf>,
    /// Where to write autoencoder.onnx and contract.json.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR")))]
    out: PathBuf,
    /// Seed of everything.
    #[arg(long, default_value_t = 20)]
    seed: u64,
    /// Passes over the windows.
    #[arg(long, default_value_t = 10)]
    passes: usize,
    /// Made-up services; 0 to learn from recordings alone.
    #[arg(long, default_value_t = 200)]
    services: u32,
    /// Steps of each.
    #[arg(long, default_value_t = 460)]
    steps: u64,
    /// ONNX Runtime's library, for the check [default: as the agent finds it].
    #[arg(long)]
    runtime: Option<PathBuf>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    println!("seed {}", arguments.seed);
    let mut random = Random::new(arguments.seed);
    let (known, held) = material(&arguments)?;
    let samples: Vec<Sample> = known.iter().map(|w| (w.values.clone(), w.present.clone())).collect();
    let mut net = Net::new(CHANNELS, &mut random);
    let started = Instant::now();
    let groups = GROUPS.iter().map(|group| group.to_vec()).collect();
    let spoiling = Spoiling { share: SPOILED, groups, others: SPOILED_CHANNELS };
    let loss = train(&mut net, &samples, &spoiling, arguments.passes, &mut random);
    println!("{} windows, loss {loss:.4}, {:.0} s", samples.len(), started.elapsed().as_secs_f64());

    let calibration: Vec<_> = random.order(known.len()).into_iter().take(CALIBRATION).collect();
    let calibration: Vec<_> = calibration.into_iter().map(|index| known[index].values.view()).collect();
    let trained = onnx::float(&net);
    let quantised = onnx::quantised(&quantise::quantise(&net, &calibration));
    let mut contract = contract(&arguments, &quantised);
    check(&mut contract, &trained, &quantised, &held, arguments.runtime.as_deref())?;
    write(&arguments.out.join("autoencoder.onnx"), &quantised)?;
    write(&arguments.out.join("contract.json"), &serde_json::to_vec_pretty(&contract)?)?;
    println!("{} bytes before quantisation, {} after", trained.len(), quantised.len());
    Ok(())
}

/// The windows to train on, and those of whole services that are held out.
fn material(arguments: &Arguments) -> Result<(Windows, Windows)> {
    let mut services = made_up(&synthetic::normal(arguments.services, arguments.steps, arguments.seed));
    for (path, until) in sources(&arguments.from)? {
        let recorded = recorded::windows(&path, RECORDED_STRIDE, until)?;
        let windows: usize = recorded.iter().map(Vec::len).sum();
        println!("{}: {} services, {windows} windows", path.display(), recorded.len());
        services.extend(recorded);
    }
    let (mut known, mut held) = (Vec::new(), Vec::new());
    for (place, windows) in services.into_iter().enumerate() {
        if place % HELD_OUT == 0 { &mut held } else { &mut known }.extend(windows);
    }
    if known.is_empty() || held.is_empty() {
        bail!("too few windows to train on: record for longer than the baseline and a window together");
    }
    Ok((known, held))
}

/// Recordings as they were named, and those of folders, with the time up to which these are known to be quiet.
fn sources(from: &[PathBuf]) -> Result<Vec<(PathBuf, Option<f64>)>> {
    let mut sources = Vec::new();
    for path in from {
        if path.is_dir() {
            let recordings = dataset::recordings(path)?;
            sources.extend(recordings.into_iter().map(|(recording, until)| (recording, Some(until))));
        } else {
            sources.push((path.clone(), None));
        }
    }
    Ok(sources)
}

/// The windows of made-up services, encoded as the agent does.
fn made_up(history: &History) -> Vec<Windows> {
    let newest = history.newest().unwrap_or_default();
    let steps = || (0..=newest.0).filter(|step| step.is_multiple_of(STRIDE));
    let encoded = |service| steps().filter_map(|step| encode(history, service, Step(step))).collect();
    history.services().map(encoded).collect()
}

fn contract(arguments: &Arguments, model: &[u8]) -> Contract {
    Contract {
        encoding: encode::VERSION,
        features: encode::feature_names(),
        steps: STEPS,
        sha256: faultline_models::sha256(model),
        calibration: Vec::new(),
        seed: arguments.seed,
        trained_on: format!(
            "recordings of normal load: {}; made-up services: {}, over {} steps",
            sources(&arguments.from).map_or(0, |sources| sources.len()),
            arguments.services,
            arguments.steps
        ),
        rank_correlation: 0.0,
    }
}

/// Runs both models on held-out windows, normal and broken, and fills in what the contract tells of them.
fn check(
    contract: &mut Contract,
    trained: &[u8],
    quantised: &[u8],
    held: &[Encoded],
    runtime: Option<&Path>,
) -> Result<()> {
    let mut load = |model: &[u8]| -> Result<Box<dyn Model>> {
        contract.sha256 = faultline_models::sha256(model);
        let text = serde_json::to_string(&contract)?;
        faultline_models::from_bytes(model, &text, runtime).context("the check needs ONNX Runtime")
    };
    let (mut trained, mut quantised) = (load(trained)?, load(quantised)?);
    let before = errors(trained.as_mut(), held)?;
    let mut after = errors(quantised.as_mut(), held)?;
    contract.rank_correlation = spearman(&before, &after);
    let broken: Vec<Encoded> = held.iter().map(broken).collect();
    let worse = errors(quantised.as_mut(), &broken)?;
    after.sort_unstable_by(f64::total_cmp);
    contract.calibration =
        QUANTILES.into_iter().map(|q| (q, after[(q * (after.len() - 1) as f64) as usize])).collect();
    let tail = after[after.len() * 99 / 100];
    let caught = worse.iter().filter(|error| **error > tail).count() as f64 / worse.len() as f64;
    println!(
        "rank correlation with the trained net {:.4} on {} windows; {:.0} % of the broken ones are beyond \
         the worst hundredth of the normal ones",
        contract.rank_correlation,
        held.len(),
        caught * 100.0
    );
    if contract.rank_correlation < LEAST_CORRELATION {
        bail!("quantisation changed the order of the scores: {:.4}", contract.rank_correlation);
    }
    Ok(())
}

fn errors(model: &mut dyn Model, windows: &[Encoded]) -> Result<Vec<f64>> {
    let mut errors = Vec::new();
    for batch in windows.chunks(64) {
        errors.extend(reconstruction_errors(model, batch.iter())?);
    }
    Ok(errors)
}

/// The same window with its latencies far up in the last four steps.
fn broken(window: &Encoded) -> Encoded {
    let mut values: Array2<f32> = window.values.clone();
    for channel in [2, 3, 4, 5] {
        for step in STEPS - 4..STEPS {
            values[[channel, step]] = encode::clip(f64::from(values[[channel, step]]) + 6.0) as f32;
        }
    }
    debug_assert_eq!(values.nrows(), CHANNELS);
    let values = values * &window.present;
    Encoded { values, present: window.present.clone() }
}

/// Rank correlation; ties are rare in errors and keep their order.
fn spearman(left: &[f64], right: &[f64]) -> f64 {
    let ranks = |values: &[f64]| {
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
        let mut ranks = vec![0.0; values.len()];
        for (rank, index) in order.into_iter().enumerate() {
            ranks[index] = rank as f64;
        }
        ranks
    };
    let count = left.len() as f64;
    let squares: f64 = ranks(left).iter().zip(ranks(right)).map(|(a, b)| (a - b).powi(2)).sum();
    1.0 - 6.0 * squares / (count * (count * count - 1.0))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rank_correlation_by_hand() {
        assert!((spearman(&[1.0, 2.0, 3.0], &[10.0, 20.0, 30.0]) - 1.0).abs() < 1e-12);
        assert!((spearman(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]) + 1.0).abs() < 1e-12);
    }
}
