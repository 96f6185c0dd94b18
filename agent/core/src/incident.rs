//! Whether to page. Windows and a ranking flow in step by step, a [`Verdict`] flows out; one incident is
//! open at a time, and whatever else breaks meanwhile belongs to it.
//!
//! A step is bad where a [`signs::Sign`] shows: users are hurt at an entry service, or a service shows strong
//! evidence of its own. A sign that lasts opens an incident; quiet steps close it.
//!
//! ```text
//!            a sign lasted as long as its kind must
//!   Normal ──────────────────────────────────────────► open (baseline frozen)
//!     ▲                                                  │
//!     └────────────── `close_after` quiet steps ─────────┘   its steps are set aside from the baseline
//! ```

mod signs;
#[cfg(test)]
mod tests;

use crate::graph::ServiceGraph;
use crate::history::History;
use crate::rank::Blame;
use crate::units::{ServiceId, Step};
use signs::{Kind, Sign};
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
    /// A sign in so many steps opens an incident; what calls tell may pause in between, as a process that crashes
    /// again and again does, or one that few calls meet. A fault begins in the middle of a step, so with
    /// three the median of the recent ones is a step that lies within it, and the first ranking is sound.
    pub open_after: u64,
    /// So many quiet steps in a row close it.
    pub close_after: u64,
    /// The baseline stays frozen at most so long: what lasts longer is the new normal.
    pub freeze: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lag: 6,
            reference: 120,
            recent: 3,
            recent_open: 12,
            open_after: 3,
            close_after: 6,
            freeze: 120,
        }
    }
}

impl Settings {
    /// How many steps of history a detector may look back.
    #[must_use]
    pub fn history_steps(&self) -> u64 {
        self.reference + self.lag + self.freeze + self.close_after
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
    Closed {
        /// The steps in which it showed: no baseline ([`History::set_aside`]). None where it lasted so long that it
        /// became what is usual.
        sick: Range<Step>,
    },
}

/// Watches the steps go by.
#[derive(Clone, Debug)]
pub struct Detector {
    settings: Settings,
    state: State,
    /// In which of the last steps each sign has shown, the newest in the lowest bit; bounded by services and kinds.
    shown: BTreeMap<(ServiceId, Kind), u64>,
}

/// Where a detector is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No incident.
    Normal,
    /// An incident is open since `opened`; for `quiet` steps nothing has shown.
    Open { opened: Step, quiet: u64 },
}

impl Detector {
    /// A detector that has seen nothing.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, state: State::Normal, shown: BTreeMap::new() }
    }

    /// Which steps are the baseline and which are to be explained at the end of `step`: what to ask
    /// [`crate::rank::rank`] before [`Detector::step`]. The baseline is frozen while an incident is open; it
    /// reaches back further by the steps of past ones, which are set aside.
    #[must_use]
    pub fn reference_and_recent(&self, history: &History, step: Step) -> (Range<Step>, Range<Step>) {
        let opened = match self.state {
            State::Open { opened, .. } => Some(opened),
            State::Normal => None,
        };
        let (reference, recent) = reference_and_recent(step, &self.settings, opened);
        (history.reach_back(reference), recent)
    }

    /// Whether an incident is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    /// Judges one step.
    pub fn step(&mut self, seen: &Observation<'_>) -> Verdict {
        if seen.warming {
            self.shown.clear();
            return Verdict::Normal;
        }
        let reference = self.reference_and_recent(seen.history, seen.step).0;
        let signs = signs::of_step(seen, &reference, self.settings.open_after);
        self.count(&signs);
        match self.state {
            State::Normal => self.try_open(seen.step, signs),
            State::Open { opened, .. } if !signs.is_empty() => {
                self.state = State::Open { opened, quiet: 0 };
                Verdict::Ongoing
            }
            State::Open { opened, quiet } if quiet + 1 < self.settings.close_after => {
                self.state = State::Open { opened, quiet: quiet + 1 };
                Verdict::Ongoing
            }
            State::Open { opened, .. } => {
                self.state = State::Normal;
                self.shown.clear();
                Verdict::Closed { sick: self.sick_steps(opened, seen.step) }
            }
        }
    }

    /// The steps in which an incident showed; none where it became what is usual.
    fn sick_steps(&self, opened: Step, closed: Step) -> Range<Step> {
        // What opened it may have begun so long before.
        let first = Step((opened.0 + 2).saturating_sub(2 * self.settings.open_after));
        let end = Step((closed.0 + 1).saturating_sub(self.settings.close_after));
        if closed.0 - opened.0 > self.settings.freeze { end..end } else { first..end }
    }

    /// Remembers which signs showed, each for as long as it can count.
    fn count(&mut self, signs: &[Sign]) {
        for ((_, kind), shown) in &mut self.shown {
            let (_, of) = kind.must_show(self.settings.open_after);
            *shown = (*shown << 1) & !(u64::MAX << of.min(63));
        }
        self.shown.retain(|_, shown| *shown > 0);
        for sign in signs {
            *self.shown.entry((sign.service, sign.kind)).or_default() |= 1;
        }
    }

    fn try_open(&mut self, step: Step, signs: Vec<Sign>) -> Verdict {
        let lasted = |sign: &Sign| {
            let shown = self.shown.get(&(sign.service, sign.kind)).copied().unwrap_or(0);
            let (steps, _) = sign.kind.must_show(self.settings.open_after);
            u64::from(shown.count_ones()) >= steps
        };
        match signs.into_iter().find(lasted) {
            Some(sign) => {
                self.state = State::Open { opened: step, quiet: 0 };
                Verdict::Open { reason: sign.reason, service: sign.service }
            }
            None => Verdict::Normal,
        }
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
    // A baseline frozen for too long thaws: it then follows at a distance.
    let anchor = opened.map_or(end, |opened| (opened.0 + 1).max(end.saturating_sub(settings.freeze)));
    let reference_end = anchor.saturating_sub(settings.lag);
    let newest = end.saturating_sub(settings.recent);
    let first_recent = match opened {
        Some(opened) => (opened.0 + 1)
            .saturating_sub(settings.open_after)
            .max(end.saturating_sub(settings.recent_open))
            .min(newest),
        None => newest,
    };
    (
        Step(reference_end.saturating_sub(settings.reference))..Step(reference_end),
        Step(first_recent.max(reference_end))..Step(end),
    )
}
