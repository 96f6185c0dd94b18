//! Attaches the TLS programs to the libraries that [`crate::sources::tls`] finds, lets go of them again, and
//! knows what they cost.
//!
//! Links live as long as [`Uprobes`]: the kernel takes the breakpoints out when the agent ends, however it
//! ends.

use super::attach::{AttachError, chain, not_ours, refused, taken};
use crate::sources::tls::{Change, Cost, Function, Library, Target};
use aya::Ebpf;
use aya::maps::{MapData, PerCpuArray};
use aya::programs::uprobe::{UProbe, UProbeAttachLocation, UProbeAttachPoint, UProbeLink, UProbeScope};
use faultline_abi::tls;
use std::collections::BTreeMap;
use std::fs;
use std::hint::black_box;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc::Receiver;

const ENTER: &str = "faultline_tls_enter";
const LEAVE: &str = "faultline_tls_leave";
const RECORD: &str = "faultline_tls_record";

/// Attachments at once, each a file descriptor: eleven serve a process or a container image. With the cgroups'
/// files it stays below the usual limit of 1,024.
const MAX_LINKS: usize = 396;

/// The attached TLS programs.
pub(super) struct Uprobes {
    links: BTreeMap<Target, Vec<UProbeLink>>,
    runs: PerCpuArray<MapData, u64>,
    /// What they cost.
    pub(super) cost: Arc<Cost>,
    /// The news that are followed, once there is somebody who tells them.
    pub(super) libraries: Option<Receiver<Change>>,
}

/// The machine that the programs run on, as they know it.
pub(super) const MACHINE: u8 = if cfg!(target_arch = "aarch64") { tls::AARCH64 } else { tls::X86_64 };

impl Uprobes {
    /// Loads the programs and measures them; no library is attached to yet.
    pub(super) fn load(programs: &mut Ebpf) -> Result<Self, AttachError> {
        for name in [ENTER, LEAVE, RECORD] {
            program(programs, name)?.load().map_err(|error| refused(&error))?;
        }
        let nanos = measure(programs).map_err(|reason| AttachError::Uprobe { reason })?;
        let runs = PerCpuArray::try_from(taken(programs, "TLS_RUNS")?).map_err(|error| not_ours(&error))?;
        let cost = Arc::new(Cost::new(nanos));
        Ok(Self { links: BTreeMap::new(), runs, cost, libraries: None })
    }

    /// Reads how often they ran.
    pub(super) fn count(&self) {
        let total = |place| self.runs.get(&place, 0).map_or(0, |values| values.iter().sum::<u64>());
        self.cost.update(total(tls::RUNS), total(tls::PASSED), self.links.len());
    }

    /// The next news; never when nobody tells any.
    pub(super) async fn next(tls: &mut Option<Self>) -> Option<Change> {
        match tls.as_mut().and_then(|tls| tls.libraries.as_mut()) {
            Some(libraries) => libraries.recv().await,
            None => std::future::pending().await,
        }
    }

    /// Follows the news.
    ///
    /// # Errors
    /// What could not be attached, in words; then nothing of that library is.
    pub(super) fn follow(&mut self, programs: &mut Ebpf, change: Change) -> Result<(), String> {
        match change {
            Change::Vanished(target) => {
                self.links.remove(&target);
                Ok(())
            }
            Change::Appeared(target, library) => {
                let links = self.links.values().map(Vec::len).sum::<usize>();
                if links + 2 * library.functions.len() > MAX_LINKS {
                    return Err(format!("more libraries and processes than {MAX_LINKS} attachments serve"));
                }
                let links = attach(programs, target.process, &library)?;
                tracing::debug!(path = %library.path.display(), process = target.process, "watching TLS");
                self.links.insert(target, links);
                Ok(())
            }
        }
    }
}

fn attach(programs: &mut Ebpf, process: Option<u32>, library: &Library) -> Result<Vec<UProbeLink>, String> {
    let scope = process.and_then(NonZeroU32::new).map_or(UProbeScope::AllProcesses, UProbeScope::OneProcess);
    let mut links = Vec::new();
    for (function, offset) in &library.functions {
        let cookie = match function {
            Function::Read { counts } => tls::CARRIES | if *counts { tls::COUNTS } else { 0 },
            Function::Write { counts } => tls::CARRIES | tls::WRITES | if *counts { tls::COUNTS } else { 0 },
            Function::Handshake => 0,
            Function::Record => {
                links.push(one(programs, RECORD, &library.path, *offset, 0, scope)?);
                continue;
            }
        };
        // The return first: a call that begins meanwhile is then not taken for one that never ends.
        links.push(one(programs, LEAVE, &library.path, *offset, cookie, scope)?);
        links.push(one(programs, ENTER, &library.path, *offset, cookie, scope)?);
    }
    Ok(links)
}

fn one(
    programs: &mut Ebpf,
    name: &'static str,
    path: &Path,
    offset: u64,
    cookie: u64,
    scope: UProbeScope,
) -> Result<UProbeLink, String> {
    let failed =
        |error: &dyn std::error::Error| format!("cannot attach to {}: {}", path.display(), chain(error));
    let program = program(programs, name).map_err(|error| failed(&error))?;
    let location = UProbeAttachLocation::AbsoluteOffset(offset);
    let point = UProbeAttachPoint { location, cookie: Some(cookie) };
    let link = program.attach(point, path, scope).map_err(|error| failed(&error))?;
    program.take_link(link).map_err(|error| failed(&error))
}

fn program<'a>(programs: &'a mut Ebpf, name: &'static str) -> Result<&'a mut UProbe, AttachError> {
    programs.program_mut(name).and_then(|program| program.try_into().ok()).ok_or_else(|| not_ours(&name))
}

/// What one run of a probe costs the process that runs into it, in nanoseconds: a function of our own is
/// called with and without probes at its entry and its return.
fn measure(programs: &mut Ebpf) -> Result<u64, String> {
    let own = Path::new("/proc/self/exe");
    let call: extern "C" fn(u64) -> u64 = yardstick;
    let offset = file_offset(call as usize as u64).ok_or("/proc/self/maps does not name this program")?;
    let bare = least_nanos(call);
    let scope = UProbeScope::CallingProcess;
    let _attached =
        (one(programs, LEAVE, own, offset, 0, scope)?, one(programs, ENTER, own, offset, 0, scope)?);
    Ok(least_nanos(call).saturating_sub(bare) / 2)
}

/// A function to attach to.
#[inline(never)]
extern "C" fn yardstick(number: u64) -> u64 {
    black_box(number).wrapping_add(1)
}

/// Nanoseconds of a call, of the fastest of some runs: the others were interrupted.
fn least_nanos(call: extern "C" fn(u64) -> u64) -> u64 {
    const RUNS: usize = 8;
    const CALLS: u64 = 250;
    let run = || {
        let began = Instant::now();
        for number in 0..CALLS {
            black_box(black_box(call)(black_box(number)));
        }
        u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX) / CALLS
    };
    (0..RUNS).map(|_| run()).min().unwrap_or(0)
}

/// Where an address of this process lies in the file that is mapped there.
fn file_offset(address: u64) -> Option<u64> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    maps.lines().find_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let hex = |text: &str| u64::from_str_radix(text, 16).ok();
        let (start, end) = (hex(start)?, hex(end)?);
        let offset = hex(rest.split(' ').nth(1)?)?;
        (start..end).contains(&address).then_some(address - start + offset)
    })
}
