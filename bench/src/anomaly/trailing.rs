//! A trailing window of numbers in order: values in, quantiles and ranks out, in logarithmic time.

use std::collections::VecDeque;

/// The newest values up to a bound, also ascending.
#[derive(Clone, Debug)]
pub(super) struct Trailing {
    most: usize,
    queue: VecDeque<f64>,
    sorted: Vec<f64>,
}

impl Trailing {
    /// Holds so many values; `most` is at least 1.
    pub(super) fn new(most: usize) -> Self {
        Self { most: most.max(1), queue: VecDeque::new(), sorted: Vec::new() }
    }

    /// Adds a value, and drops the oldest beyond the bound. NaN is no value.
    pub(super) fn push(&mut self, value: f64) {
        if value.is_nan() {
            return;
        }
        if self.queue.len() == self.most
            && let Some(oldest) = self.queue.pop_front()
        {
            self.sorted.remove(self.sorted.partition_point(|other| *other < oldest));
        }
        self.queue.push_back(value);
        self.sorted.insert(self.sorted.partition_point(|other| *other < value), value);
    }

    pub(super) fn len(&self) -> usize {
        self.sorted.len()
    }

    /// The value at rank `q (n - 1)`, rounded; `None` of nothing.
    pub(super) fn quantile(&self, q: f64) -> Option<f64> {
        let last = self.len().checked_sub(1)?;
        self.sorted.get((q * last as f64).round() as usize).copied()
    }

    /// How many are at least so large.
    pub(super) fn at_least(&self, value: f64) -> usize {
        self.len() - self.sorted.partition_point(|other| *other < value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_leaves() {
        let mut trailing = Trailing::new(3);
        for value in [5.0, f64::NAN, 1.0, 3.0, 2.0] {
            trailing.push(value);
        }
        // 5 left: 1, 2, 3 remain.
        assert_eq!((trailing.len(), trailing.quantile(0.5), trailing.at_least(2.0)), (3, Some(2.0), 2));
        assert_eq!(Trailing::new(3).quantile(0.5), None);
    }
}
