//! The program that talks over TLS, and a second OpenSSL for those of its processes that are not to be watched.
//!
//! The agent's probes lie in the library's file, so whoever uses that runs into them, watched or not. So unwatched
//! processes get a copy of the library, under a name by which the agent does not know it.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use tempfile::TempDir;

use super::pair::Program;

/// The program with its copies, which are gone with this value.
pub(super) struct OverTls {
    /// The program.
    pub program: Program,
    _copies: TempDir,
}

impl OverTls {
    /// None if the program is not built.
    pub(super) fn prepare() -> anyhow::Result<Option<Self>> {
        let file = std::env::current_exe()?.with_file_name("tls-talk");
        if !file.is_file() {
            eprintln!(
                "gRPC over TLS is left out: {} is not built (`cargo xtask bench` does)",
                file.display()
            );
            return Ok(None);
        }
        let copies = TempDir::with_prefix("unwatched-openssl-").context("no temporary folder")?;
        let said = Command::new(&file).arg("libraries").output().context("tls-talk cannot be run")?;
        let mut preload = OsString::new();
        for library in String::from_utf8_lossy(&said.stdout).lines().map(Path::new) {
            let name = library.file_name().context("a library without a name")?;
            let mut new = OsString::from("unwatched-");
            new.push(name);
            let copy = copies.path().join(new);
            fs::copy(library, &copy).with_context(|| format!("{} cannot be copied", library.display()))?;
            preload.push(if preload.is_empty() { "" } else { ":" });
            preload.push(copy);
        }
        ensure!(!preload.is_empty(), "{} does not use the system's libssl", file.display());
        Ok(Some(Self {
            program: Program { file, arguments: &[], unwatched_libraries: Some(preload) },
            _copies: copies,
        }))
    }
}
