//! The gRPC C++ service: built by g++ with the libraries of Debian or Ubuntu.

use std::path::Path;

use super::packages::on_path;
use super::setup::{said, step};

/// Its sources.
pub(super) const FILES: &[(&str, &str)] = &[
    ("Makefile", include_str!("../../stacks/cpp/Makefile")),
    ("backend.cc", include_str!("../../stacks/cpp/backend.cc")),
    ("backend.h", include_str!("../../stacks/cpp/backend.h")),
    ("behaviour.h", include_str!("../../stacks/cpp/behaviour.h")),
    ("chance.h", include_str!("../../stacks/cpp/chance.h")),
    ("json.cc", include_str!("../../stacks/cpp/json.cc")),
    ("leaks.cc", include_str!("../../stacks/cpp/leaks.cc")),
    ("leaks.h", include_str!("../../stacks/cpp/leaks.h")),
    ("lines.cc", include_str!("../../stacks/cpp/lines.cc")),
    ("lines.h", include_str!("../../stacks/cpp/lines.h")),
    ("messages.h", include_str!("../../stacks/cpp/messages.h")),
    ("method.cc", include_str!("../../stacks/cpp/method.cc")),
    ("method.h", include_str!("../../stacks/cpp/method.h")),
    ("misbehaviour.cc", include_str!("../../stacks/cpp/misbehaviour.cc")),
    ("misbehaviour.h", include_str!("../../stacks/cpp/misbehaviour.h")),
    ("peer.cc", include_str!("../../stacks/cpp/peer.cc")),
    ("peer.h", include_str!("../../stacks/cpp/peer.h")),
    ("postgres.cc", include_str!("../../stacks/cpp/postgres.cc")),
    ("redis.cc", include_str!("../../stacks/cpp/redis.cc")),
    ("sent_call.cc", include_str!("../../stacks/cpp/sent_call.cc")),
    ("sent_call.h", include_str!("../../stacks/cpp/sent_call.h")),
    ("served_call.cc", include_str!("../../stacks/cpp/served_call.cc")),
    ("served_call.h", include_str!("../../stacks/cpp/served_call.h")),
    ("service.cc", include_str!("../../stacks/cpp/service.cc")),
    ("spec.h", include_str!("../../stacks/cpp/spec.h")),
    ("threads.cc", include_str!("../../stacks/cpp/threads.cc")),
    ("threads.h", include_str!("../../stacks/cpp/threads.h")),
    ("work.cc", include_str!("../../stacks/cpp/work.cc")),
    ("work.h", include_str!("../../stacks/cpp/work.h")),
];

/// A program that is linked to other versions of these may not run.
pub(super) const VERSIONS: &[&[&str]] =
    &[&["g++", "--version"], &["pkg-config", "--modversion", "grpc++", "hiredis", "libpq", "nlohmann_json"]];

/// What it needs from Debian.
pub(super) const PACKAGES: &str =
    "g++ make pkg-config libgrpc++-dev libhiredis-dev libpq-dev nlohmann-json3-dev";

/// Whether what it needs is there.
pub(super) fn can_build() -> bool {
    on_path("make") && VERSIONS.iter().all(|command| said(command).is_ok())
}

/// Builds the service in a folder that has its sources.
pub(super) fn install(folder: &Path) -> anyhow::Result<()> {
    let jobs = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    step(folder, "make", &["--silent", "--jobs", &jobs.to_string(), "service"])
}
