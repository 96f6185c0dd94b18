//! Replays the recording of an episode through the agent's core: what it would page and when, and how every
//! method ranks each fault on the windows that the agent has when the fault ends.

use super::baselines::Case;
use super::dataset::{Fault, Period};
use super::outcome::{Asked, Findings, Live, NO_MODEL, OURS, Outcome, QuietTime, baselines};
use anyhow::{Context, Result};
use faultline_core::event::Event;
use faultline_core::pipeline::{GRACE, Pipeline};
use faultline_core::recording::Item;
use faultline_core::report::{Report, ServiceState};
use faultline_core::score::{Model, Score, surprises};
use faultline_core::units::{Nanos, ServiceId, Step, Timestamp};
use faultline_models::recordings;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

/// A page so long after a fault's end still tells of the fault: a step and the time it takes to close.
const AFTERMATH: f64 = 10.0;

/// An incident as the agent opened it.
struct Page {
    opened_at: f64,
    closed_at: Option<f64>,
    ranking: Vec<String>,
    margin: f64,
    reason: String,
}

/// Faults and quiet times of one episode.
pub(super) struct Episode<'a> {
    pub(super) dataset: &'a str,
    pub(super) recording: &'a Path,
    pub(super) faults: Vec<&'a Fault>,
    pub(super) quiet: Vec<&'a Period>,
}

/// Replays with the model and without; without one, only without.
pub(super) fn replay(episode: &Episode<'_>, model: Option<Box<dyn Model>>) -> Result<Findings> {
    let with_model = model.is_some();
    let mut outcomes: Vec<Outcome> =
        episode.faults.iter().map(|fault| fault.outcome(episode.dataset)).collect();
    let mut quiet: Vec<QuietTime> =
        episode.quiet.iter().map(|period| period.quiet(episode.dataset)).collect();
    let mut passes = vec![(NO_MODEL, None)];
    if with_model {
        passes.push((OURS, model));
    }
    for (name, model) in passes {
        // The last pass ranks: with the model's scores where there are any.
        let ranks = (name == OURS) == with_model;
        let places = if ranks { outcomes.as_mut_slice() } else { &mut [] };
        let pages = one_pass(episode, model, places)?;
        for (outcome, fault) in outcomes.iter_mut().zip(&episode.faults) {
            let live = live(fault, &pages, &outcome.culprits);
            outcome.live.insert(name.to_owned(), live);
        }
        for (time, period) in quiet.iter_mut().zip(&episode.quiet) {
            let inside = |page: &&Page| (period.start..period.end).contains(&page.opened_at);
            let reasons = pages.iter().filter(inside).map(|page| {
                let first = page.ranking.first().map_or("nobody", String::as_str);
                format!("{first}: {}", page.reason)
            });
            time.pages.insert(name.to_owned(), reasons.collect());
        }
    }
    Ok(Findings { outcomes, quiet })
}

/// One run through the core; ranks the faults whose outcomes are given, in the same order as the faults.
fn one_pass(
    episode: &Episode<'_>,
    model: Option<Box<dyn Model>>,
    outcomes: &mut [Outcome],
) -> Result<Vec<Page>> {
    let name = || episode.recording.display().to_string();
    let reader = recordings::open(episode.recording).with_context(name)?;
    let settings = reader.header().settings.clone();
    let with_model = model.is_some();
    let clock = Clock { length: settings.step_length, unix_zero: 0 };
    let mut pipeline = Pipeline::new(settings, model);
    let (mut clock, mut pages, mut ranked) = (clock, Vec::new(), BTreeSet::new());
    for item in reader {
        match item.with_context(name)? {
            Item::Event(event) => {
                if let Event::Started(started) = &event {
                    clock.unix_zero = started.unix_zero;
                }
                pipeline.handle(event, |_| {});
            }
            Item::Tick(now) => {
                let Some(report) = pipeline.tick(now, |_| {}) else { continue };
                follow(&mut pages, &report);
                for (place, outcome) in outcomes.iter_mut().enumerate() {
                    let Some(fault) = episode.faults.get(place) else { continue };
                    let recent = clock.steps(fault.start, fault.end);
                    let over = pipeline.history().newest().is_some_and(|newest| newest.0 + 1 >= recent.end.0);
                    if over && ranked.insert(place) {
                        let reference = clock.steps(fault.ref_start, fault.ref_end);
                        rank(&pipeline, &report, reference, recent, with_model, outcome);
                    }
                }
            }
        }
    }
    Ok(pages)
}

/// Steps of the recording's clock.
struct Clock {
    length: Nanos,
    unix_zero: u64,
}

impl Clock {
    /// The steps whose middle lies between two times, Unix seconds.
    fn steps(&self, start: f64, end: f64) -> Range<Step> {
        let step = |unix: f64| {
            let since_boot = (unix * 1e9) as u64;
            Timestamp(since_boot.saturating_sub(self.unix_zero).saturating_add(self.length.0 / 2))
                .step(self.length)
        };
        step(start)..step(end).max(step(start))
    }
}

/// Keeps the list of pages.
fn follow(pages: &mut Vec<Page>, report: &Report) {
    if let Some(incident) = &report.incident
        && u64::try_from(pages.len()).is_ok_and(|known| incident.id > known)
    {
        pages.push(Page {
            opened_at: incident.opened_at + GRACE.as_secs_f64(),
            closed_at: None,
            ranking: incident.ranking.iter().map(|suspect| suspect.service.clone()).collect(),
            margin: incident.margin,
            reason: incident.reason.clone(),
        });
    }
    for past in &report.past_incidents {
        let place = usize::try_from(past.id).ok().and_then(|id| id.checked_sub(1));
        if let Some(page) = place.and_then(|place| pages.get_mut(place)) {
            page.closed_at = past.closed_at;
        }
    }
}

/// What the agent did about a fault.
fn live(fault: &Fault, pages: &[Page], culprits: &[String]) -> Live {
    let during = |page: &&Page| (fault.start..fault.end + AFTERMATH).contains(&page.opened_at);
    let before = |page: &Page| {
        page.opened_at < fault.start && page.closed_at.is_none_or(|closed| closed > fault.start)
    };
    match pages.iter().find(during) {
        Some(page) => Live {
            seconds_to_page: Some(page.opened_at - fault.start),
            still_open: false,
            right: page.ranking.first().is_some_and(|first| culprits.contains(first)),
            margin: page.margin,
        },
        None => Live { still_open: pages.iter().any(before), ..Live::default() },
    }
}

/// Ranks a fault on the windows that the pipeline has now.
fn rank(
    pipeline: &Pipeline,
    report: &Report,
    reference: Range<Step>,
    recent: Range<Step>,
    with_model: bool,
    outcome: &mut Outcome,
) {
    let graph = pipeline.graph();
    let names: BTreeMap<ServiceId, String> =
        pipeline.history().services().map(|id| (id, pipeline.name(id).to_string())).collect();
    let ids: BTreeMap<&str, ServiceId> = names.iter().map(|(id, name)| (name.as_str(), *id)).collect();
    let told = |service: &faultline_core::report::ServiceReport| ids.get(service.name.as_str()).copied();
    let masked: BTreeSet<ServiceId> = report
        .services
        .iter()
        .filter(|service| service.state == ServiceState::Masked)
        .filter_map(told)
        .collect();
    let scores: BTreeMap<ServiceId, Score> = report
        .services
        .iter()
        .filter_map(|service| {
            Some((told(service)?, Score { error: service.score?, p_value: service.p_value }))
        })
        .collect();
    let asked = Asked {
        case: Case { history: pipeline.history(), graph: &graph, reference, recent },
        masked: &masked,
        surprises: &surprises(&scores),
    };
    let name = |id: ServiceId| names.get(&id).map_or("", String::as_str);
    let scores =
        |with_model| asked.ours(with_model).into_iter().map(|blame| (blame.service, blame.score)).collect();
    outcome.take_ours(&scores(with_model), name);
    let without: Vec<(ServiceId, f64)> = scores(false);
    let without: Vec<String> = without.iter().map(|(id, _)| name(*id).to_owned()).collect();
    outcome.hit(NO_MODEL, &without);
    outcome.take_baselines(&baselines(&asked.case), name);
}
