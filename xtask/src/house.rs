//! Where things are: the checkout, its build results, and the cache that set-up fills.

use std::env;
use std::path::{Path, PathBuf};

/// The root of the checkout.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Where cargo puts what it builds.
pub(crate) fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// A binary of the release profile.
pub(crate) fn binary(name: &str) -> PathBuf {
    target().join("release").join(name)
}

/// What set-up downloads or builds once for every checkout: `$XDG_CACHE_HOME/faultline`.
pub(crate) fn cache() -> PathBuf {
    let base = env::var_os("XDG_CACHE_HOME")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
        .unwrap_or_else(|| PathBuf::from("/var/cache"));
    base.join("faultline")
}

/// The folder of tools that set-up builds; child processes find it first in PATH.
pub(crate) fn tools() -> PathBuf {
    cache().join("tools").join("bin")
}

/// The ONNX Runtime library.
pub(crate) fn onnx_runtime() -> PathBuf {
    cache().join("onnxruntime").join("libonnxruntime.so")
}

/// Finds a program the way a child process will: the cache's tools first, then PATH.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    std::iter::once(tools())
        .chain(env::split_paths(&path))
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}
