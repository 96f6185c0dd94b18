//! Which processes' TLS is watched: what the user wrote flows in, yes or no for a process flows out.

use crate::config::matches;
use std::fs;
use std::path::Path;

/// All processes, or those that one of some patterns describes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    patterns: Vec<Pattern>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    Process(u32),
    /// A glob over cgroup paths.
    Cgroup(String),
    Name(String),
}

impl Selection {
    /// A number is a process id, what holds a `/` a cgroup's path with `*` for anything, all else a process
    /// name as `/proc/PID/comm` has it, `*` for anything too. None at all: every process.
    #[must_use]
    pub fn of(patterns: &[String]) -> Self {
        let patterns = patterns.iter().map(|pattern| match pattern.parse() {
            Ok(process) => Pattern::Process(process),
            Err(_) if pattern.contains('/') => Pattern::Cgroup(pattern.clone()),
            Err(_) => Pattern::Name(pattern.clone()),
        });
        Self { patterns: patterns.collect() }
    }

    /// Whether every process is meant.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether this process is meant; one that is gone is not.
    pub(super) fn admits(&self, proc: &Path, process: u32) -> bool {
        if self.is_all() {
            return true;
        }
        let read = |file: &str| fs::read_to_string(proc.join(process.to_string()).join(file)).ok();
        self.patterns.iter().any(|pattern| match pattern {
            Pattern::Process(wanted) => *wanted == process,
            Pattern::Name(wanted) => read("comm").is_some_and(|name| matches(wanted, name.trim_end())),
            Pattern::Cgroup(wanted) => read("cgroup").is_some_and(|lines| {
                lines.lines().filter_map(|line| line.splitn(3, ':').nth(2)).any(|path| matches(wanted, path))
            }),
        })
    }
}
