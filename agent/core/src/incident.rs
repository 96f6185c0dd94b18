//! Whether to page. Windows and a ranking flow in step by step, a [`Verdict`] flows out; one incident is
//! open at a time, and whatever else breaks meanwhile belongs to it.

use crate::graph::ServiceGraph;
use crate::history::History;
use crate::rank::Blame;
use crate::units::{ServiceId, Step};
use std::collections::BTreeMap;
use std::ops::Range;

/// When to open and close an incident, in steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The baseline ends so many steps before the newest, so that a fault does not become usual before it
    /// is seen.
    pub lag: u64,
    /// The baseline is at most so long.
    pub reference: u64,
    /// The steps to explain: their median outlives a single bad step.
    pub recent: u64,
    /// While an incident is open the steps to explain grow up to this.
    pub recent_open: u64,
    /// So many bad steps in a row open an incident.
    pub open_after: u64,
    /// So many quiet steps in a row close it.
    pub close_after: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { lag: 6, reference: 240, recent: 3, recent_open: 12, open_after: 2, close_after: 6 }
    }
}

/// What a detector sees at the end of a step.
#[derive(Clone, Debug)]
pub struct Observation<'a> {
    /// The windows, the step's included.
    pub history: &'a History,
    /// Who calls whom.
    pub graph: &'a ServiceGraph,
    /// The step that ended.
    pub step: Step,
    /// The ranking of this step, best first.
    pub blames: &'a [Blame],
    /// How unusual the model finds a service ([`crate::score::surprises`]).
    pub scores: &'a BTreeMap<ServiceId, f64>,
    /// Not enough baseline: nothing may page.
    pub warming: bool,
}

/// What a detector says at the end of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing to page for.
    Normal,
    /// An incident opens with this step.
    Open {
        /// What broke the rule, in words that name no service.
        reason: String,
        /// Where it broke.
        service: ServiceId,
    },
    /// The open incident goes on.
    Ongoing,
    /// The open incident ends with this step.
    Closed,
}

/// Watches the steps go by.
#[derive(Clone, Debug)]
pub struct Detector {
    settings: Settings,
    opened: Option<Step>,
}

impl Detector {
    /// A detector that has seen nothing.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, opened: None }
    }

    /// Which steps are the baseline and which are to be explained at the end of `step`: what to ask
    /// [`crate::rank::rank`] before [`Detector::step`]. The baseline is frozen while an incident is open.
    #[must_use]
    pub fn reference_and_recent(&self, step: Step) -> (Range<Step>, Range<Step>) {
        reference_and_recent(step, &self.settings, self.opened)
    }

    /// Judges one step.
    pub fn step(&mut self, _seen: &Observation<'_>) -> Verdict {
        Verdict::Normal
    }
}

/// The baseline and the steps to explain at the end of `step`, both half open; `opened` is the step at
/// which the open incident opened.
#[must_use]
pub fn reference_and_recent(
    step: Step,
    settings: &Settings,
    opened: Option<Step>,
) -> (Range<Step>, Range<Step>) {
    let end = step.0 + 1;
    let anchor = opened.unwrap_or(step).0 + 1;
    let reference_end = anchor.saturating_sub(settings.lag);
    let first_recent = match opened {
        Some(opened) => (opened.0 + 1)
            .saturating_sub(settings.open_after)
            .max(end.saturating_sub(settings.recent_open))
            .min(end.saturating_sub(settings.recent)),
        None => end.saturating_sub(settings.recent),
    };
    (
        Step(reference_end.saturating_sub(settings.reference))..Step(reference_end),
        Step(first_recent.max(reference_end))..Step(end),
    )
}
