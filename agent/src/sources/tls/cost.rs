//! What watching TLS costs: the kernel programs' counters and one measurement flow in, metrics read it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Written by who drains the kernel's records, read by anyone; each number by itself is true.
#[derive(Debug)]
pub struct Cost {
    nanos: u64,
    runs: AtomicU64,
    passed: AtomicU64,
    attached: AtomicUsize,
}

impl Cost {
    /// Nothing yet, where one run of a probe costs so many nanoseconds.
    pub(crate) fn new(nanos: u64) -> Self {
        Self { nanos, runs: AtomicU64::new(0), passed: AtomicU64::new(0), attached: AtomicUsize::new(0) }
    }

    pub(crate) fn update(&self, runs: u64, passed: u64, attached: usize) {
        self.runs.store(runs, Ordering::Relaxed);
        self.passed.store(passed, Ordering::Relaxed);
        self.attached.store(attached, Ordering::Relaxed);
    }

    /// What one run of a probe costs the process that runs into it, in nanoseconds, as measured at the start.
    #[must_use]
    pub fn nanos(&self) -> u64 {
        self.nanos
    }

    /// How often a probe ran.
    #[must_use]
    pub fn runs(&self) -> u64 {
        self.runs.load(Ordering::Relaxed)
    }

    /// How often one passed plaintext on: reads and writes of sessions that are known to have a socket.
    #[must_use]
    pub fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }

    /// Libraries, or processes' libraries, that are attached to.
    #[must_use]
    pub fn attached(&self) -> usize {
        self.attached.load(Ordering::Relaxed)
    }
}
