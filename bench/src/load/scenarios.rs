//! Who does what next: a crowd of users, each somewhere in a scenario. An arrival moves one of them,
//! drawn at random, by one step; whether the step before was answered does not matter (open loop).

use crate::random::Random;
use crate::topology::Scenario;

/// Users that are in the middle of something at one time.
const CROWD: usize = 50;

pub(super) struct Crowd<'a> {
    scenarios: &'a [Scenario],
    total: u64,
    users: Vec<Option<(&'a Scenario, usize)>>,
    random: Random,
}

impl<'a> Crowd<'a> {
    pub(super) fn new(scenarios: &'a [Scenario], random: Random) -> Self {
        let total = scenarios.iter().map(|scenario| u64::from(scenario.weight)).sum();
        Self { scenarios, total, users: vec![None; CROWD], random }
    }

    /// The method that the next request calls.
    pub(super) fn next_step(&mut self) -> Option<&'a str> {
        let fresh = self.draw()?;
        let drawn = usize::try_from(self.random.below(CROWD as u64)).ok()?;
        let user = self.users.get_mut(drawn)?;
        let (scenario, at) = user.unwrap_or((fresh, 0));
        *user = (at + 1 < scenario.steps.len()).then_some((scenario, at + 1));
        scenario.steps.get(at).map(String::as_str)
    }

    /// A scenario by weight.
    fn draw(&mut self) -> Option<&'a Scenario> {
        let mut left = self.random.below(self.total);
        self.scenarios.iter().find(|scenario| {
            let weight = u64::from(scenario.weight);
            let found = left < weight;
            left = left.saturating_sub(weight);
            found
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn scenario(name: &str, weight: u32, steps: &[&str]) -> Scenario {
        Scenario {
            name: name.into(),
            weight,
            steps: steps.iter().map(|&step| step.into()).collect(),
            think_ms: 0,
        }
    }

    #[test]
    fn scenarios_come_by_weight_and_their_steps_in_full() {
        let scenarios = [
            scenario("buy", 1, &["Home", "Pay"]),
            scenario("look", 3, &["Home"]),
            scenario("never", 0, &["Bug"]),
        ];
        let mut crowd = Crowd::new(&scenarios, Random::seeded(5));
        let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
        for _ in 0..50_000 {
            *counts.entry(crowd.next_step().unwrap_or("none")).or_default() += 1;
        }
        // One in four users buys: 5 steps of 4 users hold one payment.
        let share = f64::from(counts.get("Pay").copied().unwrap_or(0)) / 50_000.0;
        assert!((share - 0.2).abs() < 0.01, "{share}");
        assert_eq!(counts.keys().copied().collect::<Vec<_>>(), ["Home", "Pay"]);
    }

    #[test]
    fn a_user_takes_steps_in_order() {
        let scenarios = [scenario("buy", 1, &["a", "b", "c"])];
        let mut crowd = Crowd::new(&scenarios, Random::seeded(1));
        let mut seen = BTreeMap::new();
        for _ in 0..3_000 {
            *seen.entry(crowd.next_step().unwrap_or("none")).or_insert(0_u32) += 1;
            let count = |step| seen.get(step).copied().unwrap_or(0);
            assert!(count("a") >= count("b") && count("b") >= count("c"));
        }
    }

    #[test]
    fn no_scenarios_no_steps() {
        assert_eq!(Crowd::new(&[], Random::seeded(1)).next_step(), None);
    }
}
