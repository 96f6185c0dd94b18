//! Joins the core's parts: [`Pipeline::handle`] takes an event, [`Pipeline::tick`] closes the windows that
//! are due and gives a report. Neither blocks nor fails.
//!
//! Events are put into the open step of their time by connection and cgroup ([`open_step`]); a step that closes
//! is summed up to services and edges ([`fold`]), turned into windows ([`windows`]), booked ([`ledger`]),
//! checked for what was not seen ([`mask`]), scored, ranked, judged ([`incidents`]) and told ([`reporting`]).
//! [`world`] knows who is who. Every map is ordered, so the same events give the same report.

mod fold;
mod incidents;
mod ledger;
mod mask;
mod open_step;
mod reporting;
mod windows;
mod world;

use crate::call::{Call, Method, View};
use crate::event::{ConnectionSample, Event, Loss, LossReason, Missing, Opened, Protocol};
use crate::history::History;
use crate::identity::authority;
use crate::incident::{Detector, Observation};
use crate::rank::{self, Question};
use crate::report::Report;
use crate::rpc::Decoder;
use crate::score::{self, Model, Scorer};
use crate::totals::Totals;
use crate::units::{Nanos, ServiceId, Step, Timestamp};
use incidents::Incidents;
use ledger::Ledger;
use mask::Mask;
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

    fn take_decoded(&mut self, mut tap: impl FnMut(&Event)) {
        let mut decoded = std::mem::take(&mut self.decoded);
        for event in decoded.drain(..) {
            tap(&event);
            self.take(event);
        }
        self.decoded = decoded;
    }

    /// Puts an event where it belongs.
    fn take(&mut self, event: Event) {
        let at = event.at();
        self.open_step(at).events += 1;
        match event {
            Event::Started(started) => {
                self.started = started.at;
                self.unix_zero = started.unix_zero;
                self.node = started.node;
            }
            Event::Opened(opened) => self.take_opened(&opened),
            Event::Segment(_) => {}
            Event::Call(call) => self.take_call(&call),
            Event::InFlight(in_flight) => {
                if let Some(connection) = self.world.connections.seen(in_flight.connection, at) {
                    connection.view = Some(in_flight.view);
                    connection.active |= in_flight.streams > 0;
                    connection.protocol = Protocol::Http2;
                    connection.in_flight = Some(in_flight);
                }
            }
            Event::Sampled(sample) => self.take_sample(&sample),
            Event::Closed(closed) => {
                if let Some(connection) = self.world.connections.seen(closed.connection, at) {
                    connection.closed = Some(at);
                }
            }
            Event::ConnectFailed(failed) => {
                self.open_step(at).add_failed_connect(failed.cgroup, failed.remote);
            }
            Event::Cgroup(sample) => {
                let cgroup = sample.cgroup;
                let last = self.world.sampled(sample.clone());
                self.open_step(at).cgroups.entry(cgroup).or_default().add(last.as_ref(), &sample);
            }
            Event::Identity(identity) => self.world.learn(*identity),
            Event::Lost(loss) => self.take_loss(&loss),
            Event::Missing(missing) => self.take_missing(missing),
        }
    }

    /// The open step of a time; of a closed step the oldest open one.
    fn open_step(&mut self, at: Timestamp) -> &mut OpenStep {
        let step = at.step(self.settings.step_length);
        let next = *self.next.get_or_insert(step);
        self.open.entry(step.clamp(next, Step(next.0 + MAX_AHEAD))).or_default()
    }

    fn take_opened(&mut self, opened: &Opened) {
        let evicted = self.world.connections.open(opened);
        self.count_lost(LossReason::ConnectionEvicted, evicted);
        let step = self.open_step(opened.at);
        step.lost += evicted;
        step.connections.entry(opened.connection).or_default().opened = Some(opened.connect_time);
    }

    fn take_call(&mut self, call: &Call) {
        let at = call.started + call.duration;
        self.seen.calls += 1;
        self.seen.unresolved_methods += u64::from(matches!(call.method, Method::Unresolved(_)));
        self.seen.unknown_status += u64::from(call.status.code.is_none());
        let Some(connection) = self.world.connections.seen(call.connection, at) else {
            // Nobody knows whose call this is: its connection left the table.
            self.count_lost(LossReason::ConnectionEvicted, 1);
            self.open_step(at).lost += 1;
            return;
        };
        connection.active = true;
        connection.view = Some(call.view);
        connection.protocol = Protocol::Http2; // No sample may have said so yet.
        if connection.authority != call.authority {
            connection.authority = call.authority.clone();
            connection.host = call.authority.as_deref().and_then(authority::host).map(Into::into);
        }
        let (host, remote) = (connection.host.clone(), connection.remote);
        if let (Some(host), View::Client) = (&host, call.view) {
            self.world.connections.name_remote(remote, host);
        }
        let nameless = self.nameless.clone();
        self.open_step(at).connections.entry(call.connection).or_default().add_call(call, host, &nameless);
    }

    fn take_sample(&mut self, sample: &ConnectionSample) {
        let Some(connection) = self.world.connections.seen(sample.connection, sample.at) else { return };
        let counted = connection.counted;
        let bytes = sample.bytes_sent.saturating_add(sample.bytes_received);
        connection.counted = (sample.retransmits, sample.segments_sent, bytes);
        connection.protocol = sample.protocol;
        connection.active |= bytes > 0 || sample.exchanges.count > 0;
        self.open_step(sample.at)
            .connections
            .entry(sample.connection)
            .or_default()
            .add_sample(sample, counted);
    }

    fn take_loss(&mut self, loss: &Loss) {
        self.count_lost(loss.reason, loss.count);
        if matches!(
            loss.reason,
            LossReason::MessagePrefix | LossReason::ServiceOverflow | LossReason::MethodOverflow
        ) {
            return; // Calls were counted all the same.
        }
        let known = loss.connection.filter(|id| self.world.connections.end(*id).is_some());
        let step = self.open_step(loss.at);
        match known {
            Some(connection) => step.connections.entry(connection).or_default().lost += loss.count,
            None => step.lost += loss.count,
        }
    }

    fn take_missing(&mut self, missing: Missing) {
        if missing.reason.is_empty() {
            self.missing.remove(&missing.part);
        } else if self.missing.len() < MAX_MISSING || self.missing.contains_key(&missing.part) {
            self.missing.insert(missing.part.clone(), missing);
        }
    }

    fn count_lost(&mut self, reason: LossReason, count: u64) {
        if count > 0 {
            *self.seen.lost.entry(reason).or_default() += count;
        }
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
        let masked = self.mask.step(&folded, &self.world.services, lost, events);
        masked.keys().for_each(|service| self.history.mask(*service, step));
        let report = self.judge(step, end, &masked);
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
    fn judge(&mut self, step: Step, end: Timestamp, masked: &BTreeMap<ServiceId, String>) -> Report {
        let graph = self.ledger.graph();
        let masked_ids: BTreeSet<ServiceId> = masked.keys().copied().collect();
        let scores = self.scorer.step(&self.history, step, &masked_ids);
        let surprises = score::surprises(&scores);
        let (reference, recent) = self.detector.reference_and_recent(step);
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
        let name = |service: ServiceId| self.world.services.text(service).to_string();
        let ranking = suspects(&blames, name);
        let at = (self.unix_zero as f64 + end.0 as f64) / 1e9;
        self.incidents.follow(verdict, at, &ranking, name);
        self.report(Findings { step, at, scores: &scores, masked, ranking })
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
