//! The autoencoder over ONNX Runtime: a model file and the runtime's library in, reconstructions out. The
//! core asks through [`faultline_core::score::Model`] and knows nothing of either. The agent and the
//! evaluation load models here; the trainer, this package's binary, makes them.
//!
//! The runtime is loaded when the agent starts, not linked: a node without it loses the scores and nothing
//! else. Whatever is wrong (no library, another model, a changed file) is a [`LoadError`] that says what to
//! do; the agent reports it and goes on.

pub mod net;
pub mod random;
pub mod recordings;

use faultline_core::encode::{CHANNELS, Contract, Mismatch, STEPS};
use faultline_core::score::{Model, ModelError};
use ndarray::{Array3, ArrayView3, Ix3};
use ort::environment::Environment;
use ort::ep::CPU;
use ort::session::Session;
use ort::value::TensorRef;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The model that comes with the agent.
const EMBEDDED: &[u8] = include_bytes!("../autoencoder.onnx");
/// What it was made for.
const EMBEDDED_CONTRACT: &str = include_str!("../contract.json");
/// The environment variable that names the runtime's library.
pub const RUNTIME_VARIABLE: &str = "ORT_DYLIB_PATH";
const LIBRARY: &str = "libonnxruntime.so";
/// Where distributions put libraries.
const LIBRARY_FOLDERS: [&str; 5] =
    ["/usr/local/lib", "/usr/lib", "/usr/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"];

/// Why there is no model.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file could not be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The contract is not one.
    #[error("the model's contract.json cannot be read: {0}; train the model anew")]
    Contract(#[from] serde_json::Error),
    /// The file is not the one that the contract describes.
    #[error("the model file has SHA-256 {found}, its contract says {expected}; put both back together")]
    Changed {
        /// Of the file.
        found: String,
        /// In the contract.
        expected: String,
    },
    /// The model was made for another encoding.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// No runtime was found.
    #[error(
        "no ONNX Runtime: {LIBRARY} is neither in {RUNTIME_VARIABLE}, next to the agent, nor in the system's \
         library folders; take it from the PyPI wheel onnxruntime, or run without scores"
    )]
    NoRuntime,
    /// The library is not a runtime that works here.
    #[error("{}: {reason}; it must be ONNX Runtime 1.17 or newer for this machine", path.display())]
    Runtime {
        /// Which library.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The runtime refuses the model.
    #[error("ONNX Runtime refuses the model: {0}")]
    Refused(String),
}

/// Loads a model: `model`, with its `contract.json` beside it, or the one that comes with the agent; on the
/// runtime's library at `runtime`, or where [`find_runtime`] finds it.
///
/// # Errors
/// When a part is missing or does not fit; the agent then works without scores.
pub fn load(model: Option<&Path>, runtime: Option<&Path>) -> Result<Box<dyn Model>, LoadError> {
    match model {
        Some(path) => {
            let contract = path.with_file_name("contract.json");
            from_bytes(&read(path)?, &String::from_utf8_lossy(&read(&contract)?), runtime)
        }
        None => from_bytes(EMBEDDED, EMBEDDED_CONTRACT, runtime),
    }
}

/// Loads a model from its bytes and its contract's text.
///
/// # Errors
/// As [`load`].
pub fn from_bytes(model: &[u8], contract: &str, runtime: Option<&Path>) -> Result<Box<dyn Model>, LoadError> {
    let contract: Contract = serde_json::from_str(contract)?;
    contract.check()?;
    let found = sha256(model);
    if found != contract.sha256 {
        return Err(LoadError::Changed { found, expected: contract.sha256 });
    }
    let session = session(model, runtime)?;
    Ok(Box::new(Autoencoder { session, digest: found }))
}

/// The runtime's library: `given`, else the environment variable's, else next to the agent, else in the
/// system's folders.
///
/// # Errors
/// When there is none, or a path that was asked for holds no file.
pub fn find_runtime(given: Option<&Path>) -> Result<PathBuf, LoadError> {
    let asked = given
        .map(Path::to_owned)
        .or_else(|| std::env::var_os(RUNTIME_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from));
    if let Some(path) = asked {
        // Asked for by name: anything else in its place would surprise.
        return match std::fs::metadata(&path) {
            Ok(_) => Ok(path),
            Err(source) => Err(LoadError::Unreadable { path, source }),
        };
    }
    let beside = std::env::current_exe().ok().and_then(|agent| Some(agent.parent()?.to_owned()));
    let folders = beside.into_iter().chain(LIBRARY_FOLDERS.map(PathBuf::from));
    folders.map(|folder| folder.join(LIBRARY)).find(|path| path.is_file()).ok_or(LoadError::NoRuntime)
}

/// SHA-256 in hexadecimal.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    std::fs::read(path).map_err(|source| LoadError::Unreadable { path: path.to_owned(), source })
}

/// One thread, no pool that outlives a call, and no memory set aside for the next one: the agent is a guest on the
/// node, and asks once a step.
fn session(model: &[u8], runtime: Option<&Path>) -> Result<Session, LoadError> {
    let environment = environment(runtime)?;
    let refused = |error: &dyn std::fmt::Display| LoadError::Refused(error.to_string());
    let mut builder = Session::builder(environment)
        .map_err(|error| refused(&error))?
        .with_intra_threads(1)
        .map_err(|error| refused(&error))?
        .with_inter_threads(1)
        .map_err(|error| refused(&error))?
        .with_memory_pattern(false)
        .map_err(|error| refused(&error))?
        .with_prepacking(false)
        .map_err(|error| refused(&error))?
        .with_execution_providers([CPU::default().with_arena_allocator(false).build()])
        .map_err(|error| refused(&error))?;
    builder.commit_from_memory(model).map_err(|error| refused(&error))
}

/// The runtime allows one environment a process, so the first library that works stays.
fn environment(runtime: Option<&Path>) -> Result<&'static Environment, LoadError> {
    static ENVIRONMENT: OnceLock<Environment> = OnceLock::new();
    if let Some(environment) = ENVIRONMENT.get() {
        return Ok(environment);
    }
    let path = find_runtime(runtime)?;
    let failed =
        |error: &dyn std::fmt::Display| LoadError::Runtime { path: path.clone(), reason: error.to_string() };
    // Loading by `init_from` gives errors; any other first use of ort would panic without a library.
    let environment = ort::init_from(&path)
        .map_err(|error| failed(&error))?
        .with_name("faultline")
        .with_telemetry(false)
        .build()
        .map_err(|error| failed(&error))?;
    Ok(ENVIRONMENT.get_or_init(|| environment))
}

/// A session with a name.
struct Autoencoder {
    session: Session,
    digest: String,
}

impl Model for Autoencoder {
    fn reconstruct(&mut self, batch: ArrayView3<'_, f32>) -> Result<Array3<f32>, ModelError> {
        let count = batch.shape().first().copied().unwrap_or(0);
        let failed = |reason: String| ModelError { batch: count, reason };
        if batch.shape() != [count, CHANNELS, STEPS] {
            return Err(failed(format!("the batch has shape {:?}", batch.shape())));
        }
        let contiguous = batch.as_standard_layout();
        let input =
            TensorRef::from_array_view(contiguous.view()).map_err(|error| failed(error.to_string()))?;
        let outputs = self.session.run(ort::inputs![input]).map_err(|error| failed(error.to_string()))?;
        let (_, output) =
            outputs.iter().next().ok_or_else(|| failed("the model gives no output".to_owned()))?;
        let output = output.try_extract_array::<f32>().map_err(|error| failed(error.to_string()))?;
        output.to_owned().into_dimensionality::<Ix3>().map_err(|error| failed(error.to_string()))
    }

    fn digest(&self) -> &str {
        &self.digest
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may panic")]
    use super::*;

    /// The error, which a boxed model cannot print beside.
    fn error(result: Result<Box<dyn Model>, LoadError>) -> String {
        result.err().unwrap().to_string()
    }

    #[test]
    fn a_library_that_is_not_there_is_an_error_and_no_panic() {
        let said = error(load(None, Some(Path::new("/nowhere/libonnxruntime.so"))));
        assert!(said.starts_with("/nowhere/libonnxruntime.so: No such file"), "{said}");
    }

    #[test]
    fn a_changed_model_is_refused() {
        let said = error(from_bytes(b"another", EMBEDDED_CONTRACT, None));
        assert!(said.contains("its contract says"), "{said}");
    }

    #[test]
    fn a_model_of_another_encoding_is_refused() {
        let mut contract: Contract = serde_json::from_str(EMBEDDED_CONTRACT).unwrap();
        contract.steps += 1;
        let said = error(from_bytes(EMBEDDED, &serde_json::to_string(&contract).unwrap(), None));
        assert!(said.contains("the model expects steps 17"), "{said}");
    }

    /// One test, since a process keeps the first library that works.
    #[test]
    fn a_wrong_library_is_an_error_and_the_right_one_reconstructs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("libonnxruntime.so");
        std::fs::write(&path, "not a library").unwrap();
        let said = error(load(None, Some(&path)));
        assert!(said.contains("it must be ONNX Runtime 1.17 or newer"), "{said}");
        if find_runtime(None).is_err() {
            eprintln!("no ONNX Runtime here: set {RUNTIME_VARIABLE} to test inference");
            return;
        }
        let mut model = load(None, None).unwrap();
        let quiet = Array3::<f32>::zeros((3, CHANNELS, STEPS));
        let output = model.reconstruct(quiet.view()).unwrap();
        assert_eq!(output.shape(), [3, CHANNELS, STEPS]);
        // A quiet window is reconstructed as one.
        assert!(output.iter().all(|value| value.abs() < 1.5), "{output}");
        assert!(model.reconstruct(Array3::zeros((1, 2, 3)).view()).is_err());
        assert_eq!(model.digest().len(), 64);
    }
}
