//! What stands for a method whose name was not on the wire since the agent looked: header fields of requests flow
//! in, pseudonyms flow out, equal for equal methods for as long as the client's table entry lives.

use crate::h2::hpack::{Fields, PathEntry};

/// Pairs remembered per connection: methods that one client had called before the agent looked.
const MAX_PAIRS: usize = 256;

/// The names of one connection's methods, as far as they are not known.
#[derive(Debug, Default)]
pub(super) struct Naming {
    /// This client writes the path before the authority, and both before `:method`.
    path_first: Option<bool>,
    /// Pairs of entries of which one is a path: the pair's first entry stands for the method from then on.
    pairs: Vec<Pair>,
}

#[derive(Debug)]
struct Pair {
    entries: [u64; 2],
    pseudonym: u64,
}

impl Naming {
    /// What stands for the path of these fields; 0 if nothing does.
    pub(super) fn pseudonym(&mut self, fields: &Fields) -> u64 {
        self.path_first = self.path_first.or(fields.path_first());
        match fields.path_entry() {
            None => 0,
            Some(PathEntry::Is(number)) => self.of_path(number),
            Some(PathEntry::OneOf([first, second])) => match self.path_first {
                Some(true) => self.of_path(first),
                Some(false) => self.of_path(second),
                None => self.of_pair([first, second]),
            },
        }
    }

    /// The pseudonym of a path's entry: that of the pair in which it was first seen, if it was in one.
    fn of_path(&self, number: u64) -> u64 {
        let place = match self.path_first {
            Some(true) => 0,
            Some(false) => 1,
            None => return number,
        };
        let pair = self.pairs.iter().find(|pair| pair.entries.get(place) == Some(&number));
        pair.map_or(number, |pair| pair.pseudonym)
    }

    /// The pseudonym of a pair: both numbers folded into one that no single entry has.
    fn of_pair(&mut self, entries: [u64; 2]) -> u64 {
        if let Some(pair) = self.pairs.iter().find(|pair| pair.entries == entries) {
            return pair.pseudonym;
        }
        // A pair of another epoch or beyond the bound is told apart all the same; only that it stays the same
        // once the order is known is then not sure.
        let [first, second] = entries;
        let pseudonym = PAIR | (first.wrapping_mul(MIX) ^ second);
        if self.pairs.len() < MAX_PAIRS {
            self.pairs.push(Pair { entries, pseudonym });
        }
        pseudonym
    }
}

/// Marks the pseudonym of a pair: entry numbers count losses of the table in their upper half and never get here.
const PAIR: u64 = 1 << 63;

/// An odd number without a pattern (2^64 by the golden ratio), so that pairs that differ fold into numbers that do.
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;
