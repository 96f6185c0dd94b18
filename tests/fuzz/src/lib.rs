//! What no input may do to Faultline: one function a target. Any bytes flow in; nothing flows out, and a
//! property that does not hold is a panic. `src/bin` puts the engine around each, `tests/corpus.rs` replays the
//! committed inputs, `cargo xtask fuzz` looks for new ones.

mod choices;
mod files;
mod live;
mod serve;
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "they are the core's tests")]
#[path = "../../../agent/core/tests/ways/mod.rs"]
mod ways;

pub use faultline_core::h2::fuzz::{frames, headers, search};
pub use files::{datasets, recordings, settings, topology};
pub use live::{records, segments};
pub use serve::http;

/// A conversation in the way of one of the big stacks, damaged: what is said of its calls is never wrong.
pub fn calls(input: &[u8]) {
    ways::truth::check(input);
}

/// A target.
pub type Target = fn(&[u8]);

/// Every target by its name, which is also its binary's and its corpus folder's.
pub const TARGETS: [(&str, Target); 11] = [
    ("frames", frames),
    ("headers", headers),
    ("search", search),
    ("segments", segments),
    ("calls", calls),
    ("records", records),
    ("recordings", recordings),
    ("datasets", datasets),
    ("settings", settings),
    ("topology", topology),
    ("http", http),
];
