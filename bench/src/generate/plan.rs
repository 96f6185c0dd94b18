//! Which fault happens where and when: settings, what fits each system, and a seed come in; episodes with
//! their schedules go out. The same input gives the same plan.
//!
//! ```text
//! load starts │ warm-up │ stretches without a fault, plain and with other life │ fault │ recovery │ fault │ ...
//! ```
//!
//! Each system gets as many faults as the next. The kind that was dealt least often comes next, in the place
//! that it fits and that was broken least often; lots decide among equals.

#[cfg(test)]
mod tests;

use crate::random::Random;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Before anything happens: the agent needs a minute of baseline, and the load a moment to settle.
const WARM_UP: f64 = 75.0;
/// Behind a stretch with other life: what it left must have gone before the next begins.
const SETTLE: f64 = 20.0;
/// How long other life (a restart, a batch job, ...) lasts, seconds, where the stretch has room.
const OTHER_LIFE: f64 = 45.0;
/// One slot of so many breaks two services at once.
const TWO_AT_ONCE: usize = 10;
/// One slot of so many breaks gently, where the kind knows how.
const GENTLE: usize = 6;
/// Other life that is there from the first second on, as it would be in a system that nobody has just begun to
/// watch: a client whose requests are refused is a change while it is new, and usual once it always was there.
const EVER_SINCE: [&str; 1] = ["bad-client"];
/// Fewer user requests a second leave most windows empty.
const LEAST_RATE: f64 = 2.0;
/// Loads that episodes take turns with; none is a fault.
const PATTERNS: [&str; 4] = ["steady", "noisy", "wave", "burst"];

/// What a plan is made from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Settings {
    /// Of every draw.
    pub(super) seed: u64,
    /// Systems, as they were named.
    pub(super) topologies: Vec<String>,
    /// Faults in all; one of two at once counts as one.
    pub(super) faults: usize,
    /// Faults of one episode, about.
    pub(super) faults_per_episode: usize,
    /// Length of a fault, seconds.
    pub(super) fault_seconds: f64,
    /// From a fault's end to the next, seconds.
    pub(super) recovery_seconds: f64,
    /// Without a fault, minutes in all; the warm-up is not counted.
    pub(super) normal_minutes: f64,
    /// Calls between services a second, about, in each system: its users come as often as that takes.
    pub(super) calls_per_second: f64,
    /// Each system once for each of these, with the same schedule; empty: once, as its topology says.
    pub(super) stacks: Vec<String>,
}

/// What may happen in one system.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Menu {
    /// Kinds of faults with the services that each fits.
    pub(super) faults: BTreeMap<String, Vec<String>>,
    /// Life that is no fault, with what it fits; empty where it fits the system as a whole.
    pub(super) events: BTreeMap<String, Vec<String>>,
    /// Kinds that can be gentle.
    pub(super) gentle: BTreeSet<String>,
    /// Calls that one user's request becomes.
    pub(super) calls_per_request: f64,
}

/// All episodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Plan {
    /// What it was made from.
    pub(super) settings: Settings,
    /// In the order in which they run.
    pub(super) episodes: Vec<Episode>,
}

/// One run of one system.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Episode {
    /// Unique in the plan, and the name of its folder.
    pub(super) id: String,
    /// The system's topology, as in [`Settings::topologies`].
    pub(super) topology: String,
    /// The name of the system, and of its folder: its topology, and its stack if one is chosen.
    pub(super) system: String,
    /// The stack that serves everything; `None`: as the topology says.
    pub(super) stack: Option<String>,
    /// Of users and costs.
    pub(super) seed: u64,
    /// How the load moves.
    pub(super) pattern: String,
    /// User requests a second.
    pub(super) rate: f64,
    /// Length of the load, seconds.
    pub(super) seconds: f64,
    /// In order of time.
    pub(super) faults: Vec<Fault>,
    /// In order of time.
    pub(super) events: Vec<Event>,
    /// Stretches without a fault, in order of time; they leave the warm-up out.
    pub(super) quiet: Vec<Quiet>,
}

/// A fault on the schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Fault {
    /// Seconds after the load's start.
    pub(super) at_seconds: f64,
    /// Seconds.
    pub(super) duration_seconds: f64,
    /// What happens.
    pub(super) kind: String,
    /// To whom.
    pub(super) service: String,
    /// Near the noise.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) gentle: bool,
}

/// Something on the schedule that is no fault.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Event {
    /// Seconds after the load's start.
    pub(super) at_seconds: f64,
    /// Seconds.
    pub(super) duration_seconds: f64,
    /// What happens.
    pub(super) kind: String,
    /// To whom, unless it is the whole system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) service: Option<String>,
}

/// A stretch without a fault.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Quiet {
    /// Seconds after the load's start.
    pub(super) start: f64,
    /// Seconds after the load's start.
    pub(super) end: f64,
    /// The load's pattern, or the kind of the event in it.
    pub(super) what: String,
}

impl Plan {
    /// Deals faults and quiet stretches; `menus` has one for each of the settings' topologies.
    ///
    /// # Errors
    /// When a topology has no menu or nothing in it can break.
    pub(super) fn new(settings: Settings, menus: &BTreeMap<String, Menu>) -> Result<Self, String> {
        let mut random = Random::seeded(settings.seed);
        let systems = settings.topologies.len().max(1);
        let (mut drafts, mut dealt) = (Vec::new(), Dealt::default());
        for (place, topology) in settings.topologies.iter().enumerate() {
            let menu = menus.get(topology).ok_or_else(|| format!("{topology}: nothing is known of it"))?;
            // The first ones take what does not divide.
            let share = settings.faults / systems + usize::from(place < settings.faults % systems);
            let slots = deal(menu, share, &mut dealt, &mut random);
            if slots.is_empty() && share > 0 {
                return Err(format!("{topology}: no kind of fault fits it"));
            }
            let episodes = share.div_ceil(settings.faults_per_episode.max(1)).max(1);
            drafts.extend((0..episodes).map(|number| Draft {
                topology,
                number,
                menu,
                slots: slots.iter().skip(number).step_by(episodes).cloned().collect(),
            }));
        }
        // One of each system first: whoever stops early has seen all of them.
        drafts.sort_by_key(|draft| draft.number);
        let quiet = settings.normal_minutes * 60.0 / drafts.len().max(1) as f64;
        let mut episodes = Vec::new();
        for (place, draft) in drafts.iter().enumerate() {
            let episode = draft.write(place, quiet, &settings, &mut random);
            match settings.stacks.as_slice() {
                [] => episodes.push(episode),
                stacks => episodes.extend(stacks.iter().map(|stack| episode.in_stack(stack, draft.number))),
            }
        }
        Ok(Self { settings, episodes })
    }

    /// Faults on all schedules.
    #[must_use]
    pub(super) fn faults(&self) -> usize {
        self.episodes.iter().map(|episode| episode.faults.len()).sum()
    }

    /// How long it takes, seconds, so many episodes at a time: each next one goes where one ended.
    #[must_use]
    pub(super) fn seconds(episodes: &[&Episode], at_once: usize) -> f64 {
        Self::seconds_from(vec![0.0; at_once.max(1)], episodes)
    }

    /// The same, with slots that are still busy for so many seconds.
    #[must_use]
    pub(super) fn seconds_from(mut slots: Vec<f64>, episodes: &[&Episode]) -> f64 {
        for episode in episodes {
            if let Some(first) = slots.iter_mut().min_by(|a, b| a.total_cmp(b)) {
                *first += episode.seconds + super::episode::AROUND;
            }
        }
        slots.into_iter().fold(0.0, f64::max)
    }
}

impl Episode {
    /// The same with another stack.
    fn in_stack(&self, stack: &str, number: usize) -> Self {
        let system = format!("{}-{stack}", self.topology);
        Self { id: id(&system, number), system, stack: Some(stack.to_owned()), ..self.clone() }
    }
}

fn id(system: &str, number: usize) -> String {
    format!("{system}-{:02}", number + 1)
}

/// What breaks at one time: one kind and service, or two.
#[derive(Clone, Debug)]
struct Slot {
    broken: Vec<(String, String)>,
    gentle: bool,
}

/// An episode whose times are not set.
struct Draft<'a> {
    topology: &'a str,
    number: usize,
    menu: &'a Menu,
    slots: Vec<Slot>,
}

/// How often each kind was dealt, and each service or edge of the system in hand.
#[derive(Default)]
struct Dealt {
    kinds: BTreeMap<String, usize>,
    places: BTreeMap<String, usize>,
}

impl Dealt {
    /// The kind that was dealt least often so far, and of what it fits the place that was; lots decide else.
    fn next(
        &mut self,
        menu: &Menu,
        besides: &[(String, String)],
        random: &mut Random,
    ) -> Option<(String, String)> {
        let free = |place: &&String| besides.iter().all(|(_, other)| other != *place);
        let count = |of: &BTreeMap<String, usize>, name: &String| of.get(name).copied().unwrap_or(0);
        let mut kinds: Vec<(&String, Vec<&String>)> =
            menu.faults.iter().map(|(kind, fits)| (kind, fits.iter().filter(free).collect())).collect();
        kinds.retain(|(_, fits)| !fits.is_empty());
        shuffle(&mut kinds, random);
        let (kind, mut fits) = kinds.into_iter().min_by_key(|(kind, _)| count(&self.kinds, kind))?;
        shuffle(&mut fits, random);
        let place = fits.into_iter().min_by_key(|place| count(&self.places, place))?;
        *self.kinds.entry(kind.clone()).or_default() += 1;
        *self.places.entry(place.clone()).or_default() += 1;
        Some((kind.clone(), place.clone()))
    }
}

/// So many faults of one system, in slots.
fn deal(menu: &Menu, faults: usize, dealt: &mut Dealt, random: &mut Random) -> Vec<Slot> {
    dealt.places.clear();
    let (mut slots, mut count): (Vec<Slot>, usize) = (Vec::new(), 0);
    while count < faults {
        let number = slots.len();
        let wanted = if number % TWO_AT_ONCE == TWO_AT_ONCE - 1 { 2.min(faults - count) } else { 1 };
        let mut broken: Vec<(String, String)> = Vec::new();
        while broken.len() < wanted {
            match dealt.next(menu, &broken, random) {
                Some(pair) => broken.push(pair),
                None => break,
            }
        }
        if broken.is_empty() {
            break;
        }
        let gentle =
            number % GENTLE == GENTLE - 1 && broken.iter().all(|(kind, _)| menu.gentle.contains(kind));
        count += broken.len();
        slots.push(Slot { broken, gentle });
    }
    shuffle(&mut slots, random);
    slots
}

impl Draft<'_> {
    /// Sets the times; `quiet` is this episode's share of time without a fault, seconds.
    fn write(&self, place: usize, quiet: f64, settings: &Settings, random: &mut Random) -> Episode {
        let pattern = PATTERNS.get(place % PATTERNS.len()).copied().unwrap_or("steady");
        let (mut events, stretches) = self.other_life(place, quiet, pattern, random);
        let mut at = WARM_UP + quiet;
        let mut faults = Vec::new();
        for slot in &self.slots {
            faults.extend(slot.broken.iter().map(|(kind, service)| Fault {
                at_seconds: at,
                duration_seconds: settings.fault_seconds,
                kind: kind.clone(),
                service: service.clone(),
                gentle: slot.gentle,
            }));
            at += settings.fault_seconds + settings.recovery_seconds;
        }
        for event in events.iter_mut().filter(|event| EVER_SINCE.contains(&event.kind.as_str())) {
            (event.at_seconds, event.duration_seconds) = (0.0, at);
        }
        // The same may come up twice in a long episode; there is one of it.
        let mut ever: BTreeSet<String> = BTreeSet::new();
        events.retain(|event| event.at_seconds > 0.0 || ever.insert(event.kind.clone()));
        events.sort_by(|a, b| a.at_seconds.total_cmp(&b.at_seconds));
        Episode {
            id: id(self.topology, self.number),
            topology: self.topology.to_owned(),
            system: self.topology.to_owned(),
            stack: None,
            seed: random.below(1_000_000),
            pattern: pattern.to_owned(),
            rate: rate(settings.calls_per_second / self.menu.calls_per_request.max(1.0)),
            seconds: at,
            faults,
            events,
            quiet: stretches,
        }
    }

    /// Cuts the quiet time: every other stretch has an event in it, the rest is plain.
    fn other_life(
        &self,
        place: usize,
        quiet: f64,
        pattern: &str,
        random: &mut Random,
    ) -> (Vec<Event>, Vec<Quiet>) {
        let kinds: Vec<(&String, &Vec<String>)> = self.menu.events.iter().collect();
        let stretch = OTHER_LIFE + SETTLE;
        // Half of the time is plain, in front, so that a baseline without events is there.
        let wanted = ((quiet / 2.0) / stretch) as usize;
        let count = if kinds.is_empty() { 0 } else { wanted };
        let plain = quiet - count as f64 * stretch;
        let mut stretches = Vec::new();
        if plain > 0.0 {
            stretches.push(Quiet { start: WARM_UP, end: WARM_UP + plain, what: format!("{pattern} load") });
        }
        let mut events = Vec::new();
        for number in 0..count {
            // Episodes go on where the one before them stopped, so that every kind comes up.
            let Some((kind, fits)) = kinds.get((place * wanted.max(1) + number) % kinds.len().max(1)) else {
                break;
            };
            let start = WARM_UP + plain + number as f64 * stretch;
            let service = fits.get(random.below(fits.len() as u64) as usize).cloned();
            events.push(Event {
                at_seconds: start,
                duration_seconds: OTHER_LIFE,
                kind: (*kind).clone(),
                service,
            });
            stretches.push(Quiet { start, end: start + stretch, what: (*kind).clone() });
        }
        (events, stretches)
    }
}

/// A rate that a reader likes, and at which each method of the entry service is called now and then.
fn rate(rate: f64) -> f64 {
    ((rate * 10.0).round() / 10.0).max(LEAST_RATE)
}

/// Fisher and Yates.
pub(super) fn shuffle<T>(cards: &mut [T], random: &mut Random) {
    for last in (1..cards.len()).rev() {
        cards.swap(last, random.below(last as u64 + 1) as usize);
    }
}
