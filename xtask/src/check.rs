//! `cargo xtask check`: formatting, lints, dependencies and documentation. Fast, no root.

use crate::process::{cargo, run};
use crate::setup::{self, Purpose, step};
use anyhow::Result;

pub(crate) fn run_all() -> Result<()> {
    setup::ensure(Purpose::Check)?;
    step("fmt", "formatting", || run(&mut cargo(["fmt", "--all", "--check"])))?;
    step("clippy", "lints, host crates", || {
        run(&mut cargo([
            "clippy",
            "--quiet",
            "--workspace",
            "--exclude",
            "faultline-ebpf",
            "--all-targets",
            "--",
            "--deny",
            "warnings",
        ]))
    })?;
    step("clippy", "lints, kernel crate", || {
        run(&mut cargo(["clippy", "--quiet", "--package", "faultline-ebpf", "--", "--deny", "warnings"]))
    })?;
    step("deny", "licences, bans and sources of dependencies", || {
        run(&mut cargo(["deny", "--log-level", "error", "check", "bans", "licenses", "sources"]))
    })?;
    step("doc", "documentation", || {
        run(cargo([
            "doc",
            "--quiet",
            "--no-deps",
            "--document-private-items",
            "--workspace",
            "--exclude",
            "faultline-ebpf",
        ])
        .env("RUSTDOCFLAGS", "--deny warnings --allow rustdoc::private_intra_doc_links"))
    })
}
