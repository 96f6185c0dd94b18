//! Loads the kernel programs and attaches them to the cgroup v2 root.

use super::support;
use super::uprobes::{MACHINE, Uprobes};
use crate::config::RING_SIZE;
use crate::sources::tls::{Change, Cost};
use aya::maps::{MapData, PerCpuArray, RingBuf};
use aya::programs::links::CgroupAttachMode;
use aya::programs::{CgroupSkb, CgroupSkbAttachType, ProgramError, SockOps};
use aya::{Ebpf, EbpfLoader};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::mpsc::Receiver;

/// The kernel programs, as `cargo xtask probes` built them.
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../agent-ebpf/built/faultline-probes.o"
));

/// The verbosity of the programs' own log that `kernel_log` asks for (debug, of aya-log's levels).
const LOG_DEBUG: u8 = 4;

/// The tables of what watches TLS.
const TLS_MAPS: [&str; 5] = ["TLS_CALLS", "TLS_MARKS", "TLS_SESSIONS", "TLS_STREAMS", "TLS_DESKS"];

/// How to attach.
#[derive(Clone, Debug)]
pub struct Options {
    /// The cgroup v2 mount, or a cgroup below it to see no more than that; found when absent.
    pub cgroup_root: Option<PathBuf>,
    /// Bytes of the ring buffer: a power of two, at least a page.
    pub ring_bytes: u32,
    /// Load the programs' own debug messages; without it they are not even in the kernel.
    pub kernel_log: bool,
    /// Load what watches TLS; without it not even its tables take memory.
    pub tls: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { cgroup_root: None, ring_bytes: RING_SIZE, kernel_log: false, tls: false }
    }
}

/// Why nothing is attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// There is no cgroup v2 mount.
    #[error(
        "/proc/self/mountinfo names no cgroup v2 mount: mount one (mount -t cgroup2 none /sys/fs/cgroup) or name it with --cgroup-root"
    )]
    NoCgroupRoot,
    /// The cgroup v2 mount cannot be opened.
    #[error("cannot open the cgroup {}: {source}: check --cgroup-root, and that the path is mounted into this container", path.display())]
    CgroupRoot {
        /// Where it should be.
        path: PathBuf,
        /// What the kernel says.
        source: std::io::Error,
    },
    /// The ring buffer's size is no power of two.
    #[error("a ring buffer of {0} bytes cannot be made: choose a power of two from 4096 on")]
    RingSize(u32),
    /// The object cannot be loaded.
    #[error("cannot load the kernel programs: {reason}: {fix}")]
    Load {
        /// What failed.
        reason: String,
        /// What to do about it.
        fix: String,
    },
    /// This machine has no uprobes, or does not give them to us.
    #[error(
        "cannot watch TLS: {reason}: uprobes need CAP_PERFMON and a kernel with CONFIG_UPROBE_EVENTS; leave --tls out to run without"
    )]
    Uprobe {
        /// What failed.
        reason: String,
    },
    /// A program cannot be attached.
    #[error("cannot attach {program} to {}: {reason}: {fix}", path.display())]
    Attach {
        /// Which.
        program: &'static str,
        /// To which cgroup.
        path: PathBuf,
        /// What failed.
        reason: String,
        /// What to do about it.
        fix: String,
    },
}

/// The attached kernel programs. Dropping this detaches them.
pub struct Probes {
    pub(super) ring: RingBuf<MapData>,
    pub(super) losses: PerCpuArray<MapData, u64>,
    pub(super) programs: Ebpf,
    pub(super) kernel_log: bool,
    pub(super) tls: Option<Uprobes>,
}

impl Probes {
    /// Loads and attaches the programs: sockets first, so that no connection's packets come before the
    /// news of its opening.
    ///
    /// # Errors
    /// [`AttachError`] says what failed, where, and what to do; then nothing stays attached.
    pub fn attach(options: &Options) -> Result<Self, AttachError> {
        let path = match &options.cgroup_root {
            Some(path) => path.clone(),
            None => support::cgroup_root().ok_or(AttachError::NoCgroupRoot)?,
        };
        let root =
            File::open(&path).map_err(|source| AttachError::CgroupRoot { path: path.clone(), source })?;
        let mut programs = load(options)?;
        attach_sockets(&mut programs, &root, &path)?;
        let tls = options.tls.then(|| Uprobes::load(&mut programs)).transpose()?;
        attach_packets(&mut programs, &root, &path, "faultline_ingress", CgroupSkbAttachType::Ingress)?;
        attach_packets(&mut programs, &root, &path, "faultline_egress", CgroupSkbAttachType::Egress)?;
        let ring = RingBuf::try_from(taken(&mut programs, "RECORDS")?).map_err(|e| not_ours(&e))?;
        let losses = PerCpuArray::try_from(taken(&mut programs, "LOSSES")?).map_err(|e| not_ours(&e))?;
        Ok(Self { ring, losses, programs, kernel_log: options.kernel_log, tls })
    }

    /// Follows the news of libraries that come and go, while it runs.
    #[must_use]
    pub fn with_libraries(mut self, libraries: Receiver<Change>) -> Self {
        if let Some(tls) = &mut self.tls {
            tls.libraries = Some(libraries);
        }
        self
    }

    /// What watching TLS costs, when it is watched.
    #[must_use]
    pub fn tls_cost(&self) -> Option<Arc<Cost>> {
        self.tls.as_ref().map(|tls| Arc::clone(&tls.cost))
    }

    /// The ids of the attached programs, by name, for tools that measure them.
    #[must_use]
    pub fn program_ids(&self) -> Vec<(String, u32)> {
        self.programs
            .programs()
            .filter_map(|(name, program)| Some((name.to_owned(), program.info().ok()?.id())))
            .collect()
    }
}

fn load(options: &Options) -> Result<Ebpf, AttachError> {
    if !options.ring_bytes.is_power_of_two() || options.ring_bytes < 4096 {
        return Err(AttachError::RingSize(options.ring_bytes));
    }
    let level = if options.kernel_log { LOG_DEBUG } else { 0 };
    let mut loader = EbpfLoader::new();
    let watched = u8::from(options.tls);
    loader
        .map_max_entries("RECORDS", options.ring_bytes)
        .override_global("AYA_LOG_LEVEL", &level, false)
        .override_global("TLS_WATCHED", &watched, true)
        .override_global("TLS_MACHINE", &MACHINE, true);
    if !options.tls {
        for map in TLS_MAPS {
            loader.map_max_entries(map, 1);
        }
    }
    loader.load(OBJECT).map_err(|error| refused(&error))
}

fn attach_sockets(programs: &mut Ebpf, root: &File, path: &Path) -> Result<(), AttachError> {
    const NAME: &str = "faultline_socket";
    let program: &mut SockOps = programs
        .program_mut(NAME)
        .and_then(|program| program.try_into().ok())
        .ok_or_else(|| not_ours(&NAME))?;
    program.load().map_err(|error| refused(&error))?;
    program.attach(root, CgroupAttachMode::Single).map(drop).map_err(|error| not_attached(NAME, path, &error))
}

fn attach_packets(
    programs: &mut Ebpf,
    root: &File,
    path: &Path,
    name: &'static str,
    direction: CgroupSkbAttachType,
) -> Result<(), AttachError> {
    let program: &mut CgroupSkb = programs
        .program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or_else(|| not_ours(&name))?;
    program.load().map_err(|error| refused(&error))?;
    // A bpf_link always lets other programs stay; `Single` is the mode without flags.
    program
        .attach(root, direction, CgroupAttachMode::Single)
        .map(drop)
        .map_err(|error| not_attached(name, path, &error))
}

pub(super) fn taken(programs: &mut Ebpf, name: &str) -> Result<aya::maps::Map, AttachError> {
    programs.take_map(name).ok_or_else(|| not_ours(&name))
}

/// The embedded object lacks what this code names.
pub(super) fn not_ours(what: &dyn std::fmt::Display) -> AttachError {
    AttachError::Load {
        reason: format!("the embedded object does not fit this agent ({what})"),
        fix: "build the agent again after cargo xtask probes".to_owned(),
    }
}

pub(super) fn refused(error: &dyn std::error::Error) -> AttachError {
    AttachError::Load { reason: chain(error), fix: support::load_fix() }
}

fn not_attached(program: &'static str, path: &Path, error: &ProgramError) -> AttachError {
    let fix = "the path must be a cgroup v2 directory, and CAP_NET_ADMIN is needed".to_owned();
    AttachError::Attach { program, path: path.to_owned(), reason: chain(error), fix }
}

/// An error with its causes. The verifier's log, which can be long, is cut to its end, where the reason is.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    const LONGEST: usize = 2_000;
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    match text.char_indices().nth_back(LONGEST) {
        Some((from, _)) => format!("... {}", text.get(from..).unwrap_or_default()),
        None => text,
    }
}
