//! Which rate to try next: upward in steps until one is over the budget, then between the highest that was
//! within and the lowest that was over, until both are near each other.

/// Each step upward is so much more than the one before.
const STEP: f64 = 1.5;
/// A system that serves less than this, requests a second, serves nobody.
const SLOWEST: f64 = 0.5;
/// One machine's users do not send more, requests a second.
const FASTEST: f64 = 20_000.0;

pub(super) struct Search {
    start: f64,
    precision: f64,
    within: Option<f64>,
    over: Option<f64>,
}

impl Search {
    pub(super) const fn new(start: f64, precision: f64) -> Self {
        Self { start, precision, within: None, over: None }
    }

    /// The next rate, requests a second; none when the limit is known or there is none to find.
    pub(super) fn next_rate(&self) -> Option<f64> {
        let next = match (self.within, self.over) {
            (None, None) => self.start,
            (Some(within), None) => within * STEP,
            (None, Some(over)) => over / 2.0,
            (Some(within), Some(over)) if over / within <= 1.0 + self.precision => return None,
            (Some(within), Some(over)) => (within * over).sqrt(),
        };
        (SLOWEST..=FASTEST).contains(&next).then_some(next)
    }

    /// What became of a rate. One that went well above one that did not, by luck, changes nothing.
    pub(super) fn tell(&mut self, rate: f64, is_within: bool) {
        if is_within && self.over.is_none_or(|over| rate < over) {
            self.within = Some(self.within.map_or(rate, |within| within.max(rate)));
        } else if !is_within && self.within.is_none_or(|within| rate > within) {
            self.over = Some(self.over.map_or(rate, |over| over.min(rate)));
        }
    }

    /// The highest rate within the budget so far.
    pub(super) const fn within(&self) -> Option<f64> {
        self.within
    }

    /// The lowest rate over it so far.
    pub(super) const fn over(&self) -> Option<f64> {
        self.over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches for a limit; how many steps it took, and what was found.
    fn found(start: f64, limit: f64) -> (u32, Option<f64>, Option<f64>) {
        let mut search = Search::new(start, 0.05);
        let mut steps = 0;
        while let Some(rate) = search.next_rate() {
            steps += 1;
            search.tell(rate, rate <= limit);
        }
        (steps, search.within(), search.over())
    }

    #[test]
    fn limits_above_and_below_the_start_are_found() {
        for (start, limit) in [(40.0, 137.0), (40.0, 41.0), (40.0, 7.0), (1.0, 900.0)] {
            let (steps, within, over) = found(start, limit);
            let (within, over) = (within.unwrap_or(0.0), over.unwrap_or(0.0));
            assert!(within <= limit && limit <= over && over / within <= 1.05, "{limit}: {within} {over}");
            assert!(steps <= 25, "{steps}");
        }
    }

    #[test]
    fn no_limit_ends_too() {
        assert_eq!(found(10.0, 0.0).1, None);
        assert_eq!(found(10.0, f64::INFINITY).2, None);
    }
}
