//! Who does what next: users in sessions, who think between two steps. Arrivals come from outside; each is
//! the next step of the user who has been ready for longest, or the first step of a new one. So the rate is
//! exactly what was asked for, and whether a step was answered does not matter (open loop).

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::random::Random;
use crate::topology::Scenario;

/// Users who think at one time; beyond this a session ends early. A machine's whole load has far fewer: at
/// 1,000 requests/s and 5 s of thinking there are 5,000.
const MOST_SESSIONS: usize = 20_000;

/// A user in the middle of a session, ordered by when they go on.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Session {
    ready_micros: u64,
    scenario: usize,
    step: usize,
}

pub(super) struct Crowd<'a> {
    scenarios: &'a [Scenario],
    total: u64,
    thinking: BinaryHeap<Reverse<Session>>,
    random: Random,
}

impl<'a> Crowd<'a> {
    /// A crowd as it would be after a long time at this rate, so that the first minute has the same mix of
    /// steps as all others.
    pub(super) fn new(scenarios: &'a [Scenario], requests_per_second: f64, random: Random) -> Self {
        let total = scenarios.iter().map(|scenario| u64::from(scenario.weight)).sum();
        let mut crowd = Self { scenarios, total, thinking: BinaryHeap::new(), random };
        let steps: f64 = scenarios.iter().map(|found| f64::from(found.weight) * length(found)).sum();
        for (index, scenario) in scenarios.iter().enumerate() {
            let per_second = requests_per_second * f64::from(scenario.weight) / steps.max(1.0);
            for step in 1..scenario.steps.len() {
                let mut expected = per_second * f64::from(scenario.think_ms) / 1e3;
                while crowd.random.unit() < expected {
                    crowd.think(index, step, 0.0);
                    expected -= 1.0;
                }
            }
        }
        crowd
    }

    /// The method that a request at this time, in seconds, calls.
    pub(super) fn next_step(&mut self, now: f64) -> Option<&'a str> {
        let ready = self.thinking.peek().is_some_and(|next| next.0.ready_micros <= micros(now));
        let going_on = if ready { self.thinking.pop() } else { None };
        let (index, step) = match going_on {
            Some(Reverse(session)) => (session.scenario, session.step),
            None => (self.draw()?, 0),
        };
        let scenario = self.scenarios.get(index)?;
        if step + 1 < scenario.steps.len() {
            self.think(index, step + 1, now);
        }
        scenario.steps.get(step).map(String::as_str)
    }

    /// A user thinks for a random time before a step; what already has passed of it does not matter.
    fn think(&mut self, scenario: usize, step: usize, now: f64) {
        let mean = self.scenarios.get(scenario).map_or(0, |found| found.think_ms);
        let ready = now + f64::from(mean) / 1e3 * self.random.gap();
        if self.thinking.len() < MOST_SESSIONS {
            self.thinking.push(Reverse(Session { ready_micros: micros(ready), scenario, step }));
        }
    }

    /// A scenario by weight.
    fn draw(&mut self) -> Option<usize> {
        let mut left = self.random.below(self.total);
        self.scenarios.iter().position(|scenario| {
            let weight = u64::from(scenario.weight);
            let found = left < weight;
            left = left.saturating_sub(weight);
            found
        })
    }
}

fn length(scenario: &Scenario) -> f64 {
    u32::try_from(scenario.steps.len()).map_or(0.0, f64::from)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds of a run")]
fn micros(seconds: f64) -> u64 {
    (seconds * 1e6) as u64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn scenario(name: &str, weight: u32, steps: &[&str], think_ms: u32) -> Scenario {
        let steps = steps.iter().map(|&step| step.into()).collect();
        Scenario { name: name.into(), weight, steps, think_ms }
    }

    /// Steps taken by requests from `from` to `to` seconds, a hundred a second.
    fn count(crowd: &mut Crowd<'_>, from: u32, to: u32) -> BTreeMap<String, f64> {
        let mut counts = BTreeMap::new();
        for request in from * 100..to * 100 {
            let step = crowd.next_step(f64::from(request) / 100.0).unwrap_or("none");
            *counts.entry(step.to_owned()).or_default() += 1.0;
        }
        counts
    }

    #[test]
    fn steps_come_by_weight_from_the_first_second_on() {
        let scenarios = [
            scenario("buy", 1, &["Home", "Pay"], 5_000),
            scenario("look", 3, &["Home"], 0),
            scenario("never", 0, &["Bug"], 0),
        ];
        let mut crowd = Crowd::new(&scenarios, 100.0, Random::seeded(5));
        for (from, to) in [(0, 20), (20, 500)] {
            // One in four users buys: 5 steps of 4 users hold one payment.
            let counts = count(&mut crowd, from, to);
            let share = counts.get("Pay").copied().unwrap_or(0.0) / counts.values().sum::<f64>();
            assert!((share - 0.2).abs() < 0.03, "{from}: {share}");
            assert_eq!(counts.keys().collect::<Vec<_>>(), ["Home", "Pay"]);
        }
    }

    #[test]
    fn a_user_takes_steps_in_order_and_thinks_between_them() {
        let scenarios = [scenario("buy", 1, &["a", "b", "c"], 1_000)];
        // At so low a rate nobody is in the middle of anything at the start.
        let mut crowd = Crowd::new(&scenarios, 0.0, Random::seeded(1));
        let steps: Vec<_> = (0..4).map(|_| crowd.next_step(0.0)).collect();
        assert_eq!(steps, [Some("a"); 4]);
        let steps: Vec<_> = (0..4).map(|_| crowd.next_step(60.0)).collect();
        assert_eq!(steps, [Some("b"); 4]);
        let counts = count(&mut crowd, 61, 300);
        let of = |step: &str| counts.get(step).copied().unwrap_or(0.0);
        assert!(of("a") > 0.0 && of("a") + 4.0 >= of("b") && of("b") + 4.0 >= of("c"), "{counts:?}");
    }

    #[test]
    fn no_scenarios_no_steps() {
        assert_eq!(Crowd::new(&[], 10.0, Random::seeded(1)).next_step(0.0), None);
    }
}
