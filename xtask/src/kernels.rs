//! The kernel matrix: the agent's own check, the tests of capture, of a bad network and of cgroup files, and that of the
//! playground's faults on the wire, on Debian's kernels in emulated machines ([`guest`]); [`image`] gets the kernels.

pub(crate) mod guest;
pub(crate) mod image;

use crate::house;
use crate::process::{last_lines, test_host_crates};
use anyhow::{Context, Result, bail};
use guest::{Guest, Threads};
use image::{SERIES, Series};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// A guest boots in seconds; emulated, the tests take a minute or two.
const GUEST_TIMEOUT: Duration = Duration::from_secs(600);

/// The capture tests that run in a guest. Those of bulk traffic do not: emulated, they take longer than all
/// others together, and it is the same byte code that the host's kernel runs.
const CAPTURE: [&str; 10] = [
    "unary_calls",
    "a_large_message",
    "headers_inside_a_message_are_told_together",
    "what_one_side_said_is_told_before_what_the_other_answers",
    "a_connection_older_than_the_probes_is_joined",
    "a_refused_connect_is_told",
    "a_slow_answer_of_another_protocol_is_an_exchange",
    "many_quick_answers_of_another_protocol_are_as_many_exchanges",
    "the_verifier_has_hardly_more_to_prove_than_recorded",
    "nothing_stays_attached",
];

/// Test programs that run whole in a guest: those that need what few hosts have and every guest does (netem, and
/// cgroup v2 with its controllers), and one that asks the kernel what it does first, which differs.
const OF_THE_GUEST: [&str; 4] = ["beginnings", "weather", "resources", "wire_faults"];

/// Runs the matrix, with the binaries that the caller has built.
pub(crate) fn verify() -> Result<()> {
    let faultline = house::binary("faultline");
    let mut programs = vec![("faultline", faultline), ("capture", test_program("capture")?)];
    for name in OF_THE_GUEST {
        programs.push((name, test_program(name)?));
    }
    let programs: Vec<_> = programs.iter().map(|(name, path)| (*name, path.as_path())).collect();
    let mut script = format!(
        "faultline check\nverdict=$?\ncapture --test-threads=1 --nocapture {}\nverdict=$verdict/$?\n",
        CAPTURE.join(" ")
    );
    for name in OF_THE_GUEST {
        script.push_str(&format!(
            "{name} --test-threads=1 --nocapture --include-ignored\nverdict=$verdict/$?\n"
        ));
    }
    // A guest keeps one processor busy, so that two take no longer than one.
    let (programs, script) = (&programs, &script);
    std::thread::scope(|scope| {
        let guests = SERIES.map(|series| scope.spawn(move || run(series, programs, script)));
        guests
            .into_iter()
            .try_for_each(|guest| guest.join().unwrap_or_else(|_| bail!("a guest's thread panicked")))
    })
}

/// Boots one guest and reads its verdict.
fn run(series: Series, programs: &[(&str, &Path)], script: &str) -> Result<()> {
    let folder = house::target().join("kernels").join(series.name);
    fs::create_dir_all(&folder)?;
    let guest = Guest::pack(&folder, &series.kernel()?, programs, script)?;
    let log = folder.join("console.log");
    let ended = guest.boot("quiet", Threads::One, &log, GUEST_TIMEOUT)?;
    let release = ended.release().unwrap_or(series.name);
    if ended.overdue {
        bail!(
            "the {release} guest did not finish within {} s: see {}",
            GUEST_TIMEOUT.as_secs(),
            log.display()
        );
    }
    let verdict = ended.verdict().unwrap_or("no verdict");
    if verdict.split('/').any(|status| status != "0") {
        let tail = last_lines(&ended.console, 30);
        bail!("kernel {release} failed ({verdict}); the end of {}:\n{tail}", log.display());
    }
    eprintln!("    kernel {release}: all passed in {:.0} s", ended.ran.as_secs_f64());
    Ok(())
}

/// A test program's binary.
fn test_program(name: &str) -> Result<PathBuf> {
    let output = test_host_crates(&["--test", name, "--no-run", "--message-format=json"])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message.pointer("/target/name").and_then(Value::as_str) == Some(name))
        .find_map(|message| message.get("executable").and_then(Value::as_str).map(PathBuf::from))
        .with_context(|| format!("cargo built no test program called {name}"))
}
