//! A generated data set comes in; the part of it that evaluation needs goes out, packed hard: tables,
//! split, and each trusted episode's recording with its times rounded to four microseconds, packed with xz.

use crate::watcher::{PACKED, RECORDING};
use anyhow::{Context, Result, bail};
use faultline_core::call::Call;
use faultline_core::event::Event;
use faultline_core::recording::{Item, Writer};
use faultline_core::units::{Nanos, Timestamp};
use faultline_models::recordings;
use lzma_rust2::{XzOptions, XzWriter};
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Calls' times lose their last bits: 2^12 ns, far below what a latency of a call over a socket varies by,
/// and a quarter of the size.
const ROUNDED_BITS: u32 = 12;
/// xz's level with a dictionary of 16 MiB: a recording of half an hour fits, and the higher levels pack no better.
const LEVEL: u32 = 7;
/// Small files that evaluation, training and readers need.
const TABLES: [&str; 4] = ["meta.json", "graph.csv", "faults.csv", "normal_periods.csv"];
/// Those of the whole.
const WHOLE: [&str; 3] = ["plan.json", "split.json", "summary.json"];

/// Packs the data sets in `from` into `into`.
///
/// # Errors
/// When there is none, a file is damaged, or one cannot be written.
pub(super) fn compact(from: &Path, into: &Path) -> Result<()> {
    let mut work = VecDeque::new();
    fs::create_dir_all(into).with_context(|| into.display().to_string())?;
    for name in WHOLE {
        copy(&from.join(name), &into.join(name))?;
    }
    for system in folders(from)?.into_iter().filter(|system| system.join("meta.json").exists()) {
        let name = system.file_name().unwrap_or_default();
        for table in TABLES {
            copy(&system.join(table), &into.join(name).join(table))?;
        }
        let trusted = fs::read_to_string(system.join("normal_periods.csv"))?;
        for episode in folders(&system.join("episodes"))? {
            let id = episode.file_name().unwrap_or_default();
            let named = |line: &str| line.split(',').next().is_some_and(|first| id == first);
            if trusted.lines().any(named) {
                let place = into.join(name).join("episodes").join(id).join(PACKED);
                work.push_back((episode.join(RECORDING), place));
            }
        }
    }
    if work.is_empty() {
        bail!("{}: no episode that is done; `playground generate --out` makes them", from.display());
    }
    let total = work.len();
    let before: u64 = work.iter().filter_map(|(from, _)| from.metadata().ok()).map(|file| file.len()).sum();
    pack_all(work)?;
    let after = size(into)?;
    eprintln!(
        "playground: {total} recordings of {:.1} MB packed; {} is {:.1} MB",
        before as f64 / 1e6,
        into.display(),
        after as f64 / 1e6
    );
    Ok(())
}

/// As many at a time as there are cores.
fn pack_all(work: VecDeque<(PathBuf, PathBuf)>) -> Result<()> {
    let total = work.len();
    let queue = Mutex::new((work, 0_usize, None::<anyhow::Error>));
    let take = || queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let Some((from, to)) = take().0.pop_front() else { break };
                    let packed = pack(&from, &to);
                    let mut state = take();
                    state.1 += 1;
                    eprintln!("playground: {}/{total} {}", state.1, to.display());
                    if let Err(error) = packed {
                        state.0.clear();
                        state.2 = Some(error.context(from.display().to_string()));
                    }
                }
            });
        }
    });
    take().2.take().map_or(Ok(()), Err)
}

/// Packs one recording; nothing of it is left out but the last bits of its calls' times.
pub fn pack(from: &Path, to: &Path) -> Result<()> {
    let reader = recordings::open(from)?;
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    let file = BufWriter::new(File::create(to).with_context(|| to.display().to_string())?);
    let packer = XzWriter::new(file, XzOptions::with_preset(LEVEL))?;
    let mut writer = Writer::start(packer, reader.header())?;
    for item in reader {
        match item? {
            Item::Event(Event::Call(call)) => writer.event(&Event::Call(Box::new(rounded(*call))))?,
            Item::Event(event) => writer.event(&event)?,
            Item::Tick(now) => writer.tick(now)?,
        }
    }
    writer.finish()?.finish()?.flush()?;
    Ok(())
}

fn rounded(call: Call) -> Call {
    let half = 1_u64 << (ROUNDED_BITS - 1);
    let round = |nanos: u64| nanos.saturating_add(half) >> ROUNDED_BITS << ROUNDED_BITS;
    Call {
        started: Timestamp(round(call.started.0)),
        duration: Nanos(round(call.duration.0)),
        first_response: call.first_response.map(|nanos| Nanos(round(nanos.0))),
        ..call
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    fs::copy(from, to).with_context(|| format!("{} cannot be copied", from.display()))?;
    Ok(())
}

fn folders(of: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(of).with_context(|| of.display().to_string())?;
    let mut folders: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    Ok(folders)
}

fn size(of: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(of)?.flatten() {
        bytes += if entry.path().is_dir() { size(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(bytes)
}
