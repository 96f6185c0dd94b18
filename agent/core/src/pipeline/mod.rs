//! Joins the core's parts: [`Pipeline::handle`] takes an event, [`Pipeline::tick`] closes the windows that
//! are due and gives a report. Neither blocks nor fails.
//!
//! Events are put into the open step of their time by connection and cgroup ([`intake`], [`open_step`]); a step that closes
//! is summed up to services and edges ([`fold`]), turned into windows ([`windows`]), booked ([`ledger`]),
//! checked for what was not seen ([`mask`]), scored, ranked, judged ([`incidents`]) and told ([`reporting`]).
//! [`world`] knows who is who. Every map is ordered, so the same events give the same report.

mod fold;
mod incidents;
mod intake;
mod ledger;
mod mask;
mod open_step;
mod reporting;
mod windows;
mod world;

use crate::call::Method;
use crate::event::{Event, LossReason, Missing};
use crate::graph::ServiceGraph;
use crate::history::History;
use crate::incident::{Detector, Observation, Verdict};
use crate::rank::{self, Question};
use crate::report::{FlowReport, Report};
use crate::rpc::Decoder;
use crate::score::{self, Model, Scorer};
use crate::totals::Totals;
use crate::units::{Nanos, ServiceId, Step, Timestamp};
use incidents::Incidents;
use ledger::Ledger;
use mask::{Mask, Sight};
use open_step::OpenStep;
use reporting::{Findings, suspects};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use world::World;

/// A step closes so long after its end: sources drain their buffers less than this apart, and what comes
/// later counts into the next step.
pub const GRACE: Nanos = Nanos::from_millis(500);

/// Steps of history: half an hour at the default length. A ranking's baseline is two thirds of it.
const KEEP_STEPS: usize = 360;

/// A service unseen for so many steps is forgotten, ten minutes at the default length: its place among the
/// bounded number is then another's.
const FORGET_AFTER: u64 = 120;

/// After a pause (a suspended machine) at most so many steps are closed one by one.
const MAX_CATCH_UP: u64 = 12;

/// Steps that may be open at once: the one in its grace, the current one, and one for clocks that disagree.
const MAX_AHEAD: u64 = 2;

/// Parts that may be reported missing: there are about ten.
const MAX_MISSING: usize = 64;

/// What a pipeline may be told.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Length of a step.
    pub step_length: Nanos,
    /// Steps of baseline that a service needs before it may page.
    pub baseline_steps: u64,
    /// Services and edges beyond this are counted under `_OTHER`.
    pub max_services: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { step_length: Nanos::from_secs(5), baseline_steps: 12, max_services: 1000 }
    }
}

/// The whole core.
pub struct Pipeline {
    settings: Settings,
    decoder: Decoder,
    decoded: Vec<Event>,
    world: World,
    open: BTreeMap<Step, OpenStep>,
    /// The step that closes next; unknown before the first event.
    next: Option<Step>,
    started: Timestamp,
    unix_zero: u64,
    node: Arc<str>,
    last_tick: Timestamp,
    ledger: Ledger,
    history: History,
    mask: Mask,
    scorer: Scorer,
    detector: Detector,
    incidents: Incidents,
    baseline_steps: u64,
    seen: Seen,
    /// What flow control did to each service in the last step.
    flow: BTreeMap<ServiceId, FlowReport>,
    missing: BTreeMap<Arc<str>, Missing>,
    /// [`Method::OTHER`], made once.
    nameless: Arc<str>,
}

/// What was seen and what was not, since the start.
#[derive(Debug, Default)]
struct Seen {
    calls: u64,
    unresolved_methods: u64,
    unknown_status: u64,
    lost: BTreeMap<LossReason, u64>,
}

impl Pipeline {
    /// A pipeline that has seen nothing; without a model it works and says so in its reports.
    #[must_use]
    pub fn new(settings: Settings, model: Option<Box<dyn Model>>) -> Self {
        Self {
            decoder: Decoder::default(),
            decoded: Vec::new(),
            world: World::new(settings.max_services),
            open: BTreeMap::new(),
            next: None,
            started: Timestamp::default(),
            unix_zero: 0,
            node: "".into(),
            last_tick: Timestamp::default(),
            ledger: Ledger::new(settings.step_length, settings.max_services),
            history: History::new(settings.step_length, KEEP_STEPS),
            mask: Mask::default(),
            scorer: Scorer::new(model, settings.step_length),
            detector: Detector::new(crate::incident::Settings::default()),
            incidents: Incidents::default(),
            baseline_steps: 0,
            seen: Seen::default(),
            flow: BTreeMap::new(),
            missing: BTreeMap::new(),
            nameless: Method::OTHER.into(),
            settings,
        }
    }

    /// Takes one event. `tap` sees every event behind the decoder, in order: what a recording holds.
    pub fn handle(&mut self, event: Event, tap: impl FnMut(&Event)) {
        self.decoder.handle(event, &mut self.decoded);
        self.take_decoded(tap);
    }

    /// Closes the windows that ended [`GRACE`] before `now` or earlier; the report of the last when one did.
    /// Call it at least once a step, and record each call: it is part of the input. `tap` as in
    /// [`Pipeline::handle`].
    pub fn tick(&mut self, now: Timestamp, tap: impl FnMut(&Event)) -> Option<Report> {
        self.decoder.tick(now, &mut self.decoded);
        self.take_decoded(tap);
        let mut report = None;
        while let Some(step) = self.due(now) {
            report = Some(self.close(step));
        }
        self.last_tick = now;
        report
    }

    /// What Prometheus counts, up to the last step that closed.
    #[must_use]
    pub fn totals(&self) -> &Totals {
        &self.ledger.totals
    }

    /// The windows of the recent past, for those who learn from them.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Who calls whom, lately.
    #[must_use]
    pub fn graph(&self) -> ServiceGraph {
        self.ledger.graph()
    }

    /// A service's name in reports.
    #[must_use]
    pub fn name(&self, service: ServiceId) -> Arc<str> {
        self.world.services.text(service)
    }

    fn take_decoded(&mut self, mut tap: impl FnMut(&Event)) {
        let mut decoded = std::mem::take(&mut self.decoded);
        for event in decoded.drain(..) {
            tap(&event);
            self.take(event);
        }
        self.decoded = decoded;
    }

    /// The next step to close, if it is due.
    fn due(&mut self, now: Timestamp) -> Option<Step> {
        let next = self.next?;
        let length = self.settings.step_length.0.max(1);
        let newest = now.0.saturating_sub(GRACE.0) / length;
        if next.0 >= newest {
            return None;
        }
        if newest - next.0 > MAX_CATCH_UP {
            let next = Step(newest - MAX_CATCH_UP);
            self.open = self.open.split_off(&next);
            self.next = Some(next);
        }
        self.next
    }

    /// Closes a step.
    fn close(&mut self, step: Step) -> Report {
        let length = self.settings.step_length;
        let start = Timestamp(step.0.saturating_mul(length.0));
        let end = start + length;
        let open = self.open.remove(&step).unwrap_or_default();
        self.next = Some(Step(step.0 + 1));

        let (lost, events) = (open.lost, open.events);
        let mut folded = fold::fold(&mut self.world, open, start, self.last_tick);
        for change in &folded.changes {
            self.ledger.change(change);
            if change.from != change.to {
                self.history.merge(change.from, change.to);
            }
        }
        let overflowed = self.world.services.take_overflowed();
        self.count_lost(LossReason::ServiceOverflow, overflowed);
        self.ledger.book(&mut folded, step, &self.world.services, &mut self.seen.lost);
        self.remember(&folded, step, end.since(self.started.max(start)));
        if folded.services.values().any(|service| service.server.count + service.exchanges.count > 0) {
            self.baseline_steps = self.baseline_steps.saturating_add(1);
        }
        let sight = self.mask.step(&folded, &self.world.services, lost, events);
        let flow = folded.services.iter().filter(|(_, service)| service.flow.told());
        self.flow = flow.map(|(id, service)| (*id, reporting::flow(service, length))).collect();
        let report = self.judge(step, end, &sight);
        self.forget(step, start);
        report
    }

    /// Puts a step's windows into the history. The first step is seen from the agent's start on: less than
    /// half of one tells nothing of what is usual.
    fn remember(&mut self, folded: &fold::Folded, step: Step, covered: Nanos) {
        if covered.0 < self.settings.step_length.0 / 2 {
            return;
        }
        for (service, window) in windows::services(folded, covered) {
            self.history.push(service, step, window);
        }
        for ((caller, callee), window) in windows::edges(folded, covered) {
            self.history.push_edge(caller, callee, step, window);
        }
    }

    /// Scores, ranks and judges a step whose windows are in the history.
    fn judge(&mut self, step: Step, end: Timestamp, sight: &BTreeMap<ServiceId, Sight>) -> Report {
        let graph = self.ledger.graph();
        let masked = sight.iter().filter(|(_, sight)| sight.masked.is_some());
        let masked_ids: BTreeSet<ServiceId> = masked.map(|(id, _)| *id).collect();
        masked_ids.iter().for_each(|service| self.history.mask(*service, step));
        let scores = self.scorer.step(&self.history, step, &masked_ids);
        let surprises = score::surprises(&scores);
        let (reference, recent) = self.detector.reference_and_recent(&self.history, step);
        let blames = rank::rank(&Question {
            history: &self.history,
            graph: &graph,
            reference,
            recent,
            scores: &surprises,
            masked: &masked_ids,
        });
        let verdict = self.detector.step(&Observation {
            history: &self.history,
            graph: &graph,
            step,
            blames: &blames,
            scores: &surprises,
            warming: self.baseline_steps < self.settings.baseline_steps,
        });
        if let Verdict::Closed { sick } = &verdict {
            self.history.set_aside(sick.clone());
        }
        let name = |service: ServiceId| self.world.services.text(service).to_string();
        let ranking = suspects(&blames, name);
        let at = (self.unix_zero as f64 + end.0 as f64) / 1e9;
        self.incidents.follow(verdict, at, &ranking, name);
        self.report(Findings { step, at, scores: &scores, sight, ranking })
    }

    /// Forgets connections that were closed and services that were not seen for long.
    fn forget(&mut self, step: Step, start: Timestamp) {
        self.world.forget_before(start);
        for service in self.history.forget_before(Step(step.0.saturating_sub(FORGET_AFTER))) {
            let name = self.world.services.text(service);
            self.ledger.forget(service, &name);
            self.world.places.forget(service);
            self.world.services.forget(service);
        }
    }
}
