//! What found no room in a bounded table, so that each is counted once and not whenever it comes again.

use std::borrow::Borrow;
use std::collections::BTreeSet;

/// The keys that were refused, as many as the table itself has room for.
#[derive(Clone, Debug)]
pub(crate) struct Refused<K> {
    most: usize,
    keys: BTreeSet<K>,
}

impl<K: Ord> Refused<K> {
    /// Remembers so many.
    pub(crate) fn new(most: usize) -> Self {
        Self { most, keys: BTreeSet::new() }
    }

    /// A key finds no room; whether it is the first time. Where even the refused are too many, one that comes again
    /// counts again.
    pub(crate) fn refuse(&mut self, key: K) -> bool {
        if self.keys.len() < self.most { self.keys.insert(key) } else { !self.keys.contains(&key) }
    }

    /// A key has found room.
    pub(crate) fn admit<Q: Ord + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        self.keys.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::Refused;

    #[test]
    fn each_counts_once_as_long_as_it_is_remembered() {
        let mut refused = Refused::new(2);
        assert_eq!([1, 1, 2, 3, 3, 1].map(|key| refused.refuse(key)), [true, false, true, true, true, false]);
        refused.admit(&1);
        assert!(refused.refuse(1));
    }
}
