//! What comes from files that people write or copy: settings, topologies, data sets, recordings.

use faultline::cli::RunFlags;
use faultline::config::Config;
use faultline_core::pipeline::Pipeline;
use faultline_core::recording::{Item, Reader, Writer};
use flate2::Compression;
use flate2::write::GzEncoder;
use playground::faults::schedule;
use playground::random::Random;
use playground::topology::Topology;
use playground::{anomaly, evaluate};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::{LazyLock, Mutex};
use tempfile::TempDir;

/// A folder for files that are written anew with each input; one input at a time.
static FOLDER: LazyLock<Mutex<TempDir>> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let episode = folder.path().join("episodes/e");
    fs::create_dir_all(&episode).expect("a folder in it");
    Mutex::new(folder)
});

/// Runs `act` with the folder, whatever became of the input before.
fn in_folder(act: impl FnOnce(&Path)) {
    let folder = FOLDER.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    act(folder.path());
}

/// The agent's configuration file: understood or refused.
pub fn settings(input: &[u8]) {
    in_folder(|folder| {
        let path = folder.join("faultline.toml");
        fs::write(&path, input).expect("a temporary file");
        match Config::resolve(RunFlags { config: Some(path), ..RunFlags::default() }) {
            Ok(config) => {
                let name = config.name_of("/system.slice/cart.service");
                assert!(name.is_none_or(|name| !name.is_empty()));
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    });
}

/// A topology and a schedule of faults for it, one behind the other with a zero between: JSON if the first byte
/// says so, else TOML.
pub fn topology(input: &[u8]) {
    let Some((&form, text)) = input.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let file = if form == b'{' { "file.json" } else { "file.toml" };
    let text = if form == b'{' { std::str::from_utf8(input).unwrap_or("") } else { text };
    let (text, faults) = text.split_once('\0').unwrap_or((text, ""));
    match Topology::parse(file, text) {
        Ok(topology) => {
            for (caller, callee) in topology.edges() {
                assert!(topology.services.contains_key(&caller), "{caller} is no service");
                assert!(topology.services.contains_key(&callee) || topology.backends.contains_key(&callee));
            }
            let mut random = Random::seeded(1);
            if let Err(error) = schedule::parse(file, faults, &topology, &mut random) {
                assert!(!error.is_empty());
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// The files of a data set, with a zero between: `meta.json`, `graph.csv`, `faults.csv`, an episode's nodes and
/// edges; or, if the first byte is an `s`, two services of the anomaly format.
pub fn datasets(input: &[u8]) {
    in_folder(|folder| {
        let mut parts = input.split(|byte| *byte == 0);
        let mut next = || parts.next().unwrap_or_default();
        let write = |name: &str, bytes: &[u8]| fs::write(folder.join(name), bytes).expect("a temporary file");
        if input.first() == Some(&b's') {
            write("service-01.csv", next());
            write("service-02.csv", next());
            if let Err(error) = anomaly::check(folder) {
                assert!(!error.to_string().is_empty());
            }
            return;
        }
        write("meta.json", next());
        write("graph.csv", next());
        write("faults.csv", next());
        write("episodes/e/nodes.csv.gz", &packed(next()));
        write("episodes/e/edges.csv.gz", &packed(next()));
        if let Err(error) = evaluate::check(folder) {
            assert!(!error.to_string().is_empty());
        }
    });
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::none());
    packer.write_all(bytes).and_then(|()| packer.finish()).unwrap_or_default()
}

/// Inputs whose items are played; a pipeline's steps are slow.
const PLAYED: usize = 64;

/// A recording is read up to its first error, and what was read is written and read again as the same; a
/// pipeline takes it, whatever its settings. Ticks beyond a few are read and not played.
pub fn recordings(input: &[u8]) {
    let Ok(reader) = Reader::open(input) else { return };
    let header = reader.header().clone();
    let items: Vec<Item> = reader.map_while(Result::ok).collect();
    let write = |items: &[Item]| {
        let mut writer = Writer::start(Vec::new(), &header).expect("memory");
        items.iter().for_each(|item| writer.item(item).expect("memory"));
        writer.finish().expect("memory")
    };
    let written = write(&items);
    let again = Reader::open(&written[..]).expect("what was written");
    let again: Vec<Item> = again.map(|item| item.expect("what was written")).collect();
    assert_eq!(written, write(&again));
    let mut pipeline = Pipeline::new(header.settings, None);
    let mut ticks = 0;
    for item in items {
        match item {
            Item::Event(event) => pipeline.handle(event, |_| {}),
            Item::Tick(now) if ticks < PLAYED => {
                ticks += 1;
                pipeline.tick(now, |_| {});
            }
            Item::Tick(_) => {}
        }
    }
}
