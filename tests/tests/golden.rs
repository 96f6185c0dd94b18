//! Recordings of real faults, replayed: what `faultline top --once` shows at the page and at the end is what it
//! was, and the culprit is first. `UPDATE_EXPECT=1` writes both anew; read the difference before you commit it.
//!
//! `recordings/KIND-SERVICE.rec` was written by `faultline record` without a model, at the playground's cgroup, while
//! `playground run --rate 20 --seed 5` broke that service in that way after 75 s, for 40 s.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use expect_test::expect_file;
use faultline::config::ModelFiles;
use faultline::sources::replay::reports;
use faultline::top::plain_text;
use faultline_core::report::Report;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

#[test]
fn recorded_faults_are_ranked_as_they_were() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("recordings");
    let mut recordings: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "rec"))
        .collect();
    recordings.sort();
    assert!(!recordings.is_empty(), "{} has no recording", folder.display());
    for recording in recordings {
        check(&recording);
    }
}

fn check(recording: &Path) {
    let (mut page, mut last) = (None, None);
    reports(File::open(recording).unwrap(), &ModelFiles::default(), |report: Report| {
        if page.is_none() && report.incident.is_some() {
            page = Some(report.clone());
        }
        last = Some(report);
        Ok(())
    })
    .unwrap();
    let page = page.unwrap_or_else(|| panic!("no page in {}", recording.display()));
    let name = recording.file_stem().unwrap().to_str().unwrap();
    let first = page.incident.as_ref().unwrap().ranking.first().map(|suspect| suspect.service.as_str());
    assert!(first.is_some_and(|first| name.ends_with(first)), "{name}: {first:?} is first");
    for (report, moment) in [(&page, "page"), (&last.unwrap(), "end")] {
        expect_file![recording.with_extension(format!("{moment}.txt"))]
            .assert_eq(&uncoloured(&plain_text(report)));
    }
}

/// Without the colours that a terminal gets: `ESC [ ... m`.
fn uncoloured(text: &str) -> String {
    let mut pieces = text.split('\u{1b}');
    let first = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(first, |plain, piece| plain + piece.split_once('m').map_or("", |(_, rest)| rest))
}
