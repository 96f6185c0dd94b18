//! A folder that `playground generate` made comes in; the recordings to learn from go out, each with the
//! time up to which nothing was broken. Of systems that are to be tested nothing is taken.

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The training side of `split.json`.
#[derive(Deserialize)]
struct Split {
    train: Part,
}

#[derive(Deserialize)]
struct Part {
    topologies: Vec<String>,
}

/// One row of `normal_periods.csv`.
#[derive(Deserialize)]
struct Period {
    episode: String,
    end: f64,
}

/// Recordings of the systems to learn from, with the end of their quiet time, Unix seconds.
///
/// # Errors
/// When the folder has no split, the split leaves nothing to learn from, or a file is missing.
pub(crate) fn recordings(dir: &Path) -> Result<Vec<(PathBuf, f64)>> {
    let path = dir.join("split.json");
    let text = fs::read(&path).with_context(|| {
        format!("{}: a folder to learn from needs it; `playground generate` writes it", path.display())
    })?;
    let split: Split = serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
    let mut found = Vec::new();
    for system in &split.train.topologies {
        let path = dir.join(system).join("normal_periods.csv");
        let mut ends: BTreeMap<String, f64> = BTreeMap::new();
        for row in csv::Reader::from_path(&path).with_context(|| path.display().to_string())?.deserialize() {
            let row: Period = row.with_context(|| path.display().to_string())?;
            let end = ends.entry(row.episode).or_default();
            *end = end.max(row.end);
        }
        for (episode, end) in ends {
            let folder = dir.join(system).join("episodes").join(&episode);
            let recording = ["agent.rec", "agent.rec.xz"]
                .map(|name| folder.join(name))
                .into_iter()
                .find(|path| path.is_file())
                .with_context(|| format!("{}: no agent.rec or agent.rec.xz in it", folder.display()))?;
            found.push((recording, end));
        }
    }
    if found.is_empty() {
        bail!("{}: it leaves no system to learn from", path.display());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn nothing_is_taken_of_what_is_tested() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let error = recordings(dir).unwrap_err().to_string();
        assert!(error.contains("playground generate"), "{error}");
        for system in ["learned", "tested"] {
            let episode = dir.join(system).join("episodes").join("e-1");
            fs::create_dir_all(&episode).unwrap();
            fs::write(episode.join("agent.rec"), "").unwrap();
            let periods = "episode,start,end,use,note\ne-1,1,5.5,reference,\ne-1,2,4,false_alarm_test,x\n";
            fs::write(dir.join(system).join("normal_periods.csv"), periods).unwrap();
        }
        let split =
            r#"{"train":{"topologies":["learned"],"kinds":[]},"test":{"topologies":["tested"],"kinds":[]}}"#;
        fs::write(dir.join("split.json"), split).unwrap();
        let found = recordings(dir).unwrap();
        assert_eq!(found, [(dir.join("learned/episodes/e-1/agent.rec"), 5.5)]);
    }
}
