//! What a replay of an episode found, kept so that a run that was stopped goes on, and one that is repeated
//! is quick: one JSON file an episode, named by everything that it depends on.

use super::outcome::Findings;
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};

/// Where findings are kept; `None` if there is no place or it is not wanted.
pub(super) struct Cache {
    folder: Option<PathBuf>,
    /// The digest of this program, which holds the core: another build finds anew.
    program: Vec<u8>,
}

impl Cache {
    pub(super) fn open(wanted: bool) -> Self {
        let base = std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
        let program = std::env::current_exe().ok().and_then(|path| fs::read(path).ok());
        match (base, program) {
            (Some(base), Some(program)) if wanted => {
                let folder = base.join("faultline").join("evaluated");
                Self { folder: Some(folder), program: Sha256::digest(program).to_vec() }
            }
            _ => Self { folder: None, program: Vec::new() },
        }
    }

    /// The file of an episode: its recording, what is asked of it, and the model.
    pub(super) fn file(&self, recording: &Path, asked: &str, model: &str) -> Option<PathBuf> {
        let mut digest = Sha256::new();
        digest.update(&self.program);
        digest.update(Sha256::digest(fs::read(recording).ok()?));
        digest.update(asked.as_bytes());
        digest.update([0]);
        digest.update(model.as_bytes());
        let name: String = digest.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        Some(self.folder.as_ref()?.join(name + ".json"))
    }

    pub(super) fn read(file: Option<&Path>) -> Option<Findings> {
        serde_json::from_slice(&fs::read(file?).ok()?).ok()
    }

    /// Keeps findings; a cache that cannot be written only costs time.
    pub(super) fn write(file: Option<&Path>, findings: &Findings) {
        let Some(file) = file else { return };
        let Some(folder) = file.parent() else { return };
        let Ok(text) = serde_json::to_vec(findings) else { return };
        let new = file.with_extension(format!("new{}", std::process::id()));
        let _kept = fs::create_dir_all(folder)
            .and_then(|()| fs::write(&new, text))
            .and_then(|()| fs::rename(&new, file));
    }
}
