//! What became of the bytes that a service's connections moved. Counts flow in by [`Fate`], the share that was seen
//! flows out. Filled by [`crate::pipeline`], which masks those of whom too little was seen.

/// What became of payload bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(usize)]
pub enum Fate {
    /// Read as HTTP/2: their calls were seen.
    Decoded,
    /// Not HTTP/2: only their exchanges were timed.
    Timed,
    /// TLS: nothing of them was read.
    Encrypted,
    /// MPTCP: others of its paths may have carried some of the same stream, so none of them was read.
    Multipath,
    /// TCP moved them, and they went past this agent: their records were lost, or they took another way.
    Bypassed,
    /// On a connection that was not recognised as anything.
    Unrecognised,
}

impl Fate {
    /// Every fate.
    pub const ALL: [Self; 6] =
        [Self::Decoded, Self::Timed, Self::Encrypted, Self::Multipath, Self::Bypassed, Self::Unrecognised];

    /// The label value in metrics and in the report.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Decoded => "decoded",
            Self::Timed => "timed",
            Self::Encrypted => "encrypted",
            Self::Multipath => "multipath",
            Self::Bypassed => "bypassed",
            Self::Unrecognised => "unrecognised",
        }
    }

    /// The bytes said what they have to say.
    #[must_use]
    pub fn seen(self) -> bool {
        matches!(self, Self::Decoded | Self::Timed)
    }
}

/// Bytes by their fate.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bytes {
    counts: [f64; Fate::ALL.len()],
}

impl Bytes {
    /// Adds bytes.
    pub fn add(&mut self, fate: Fate, bytes: u64) {
        if let Some(count) = self.counts.get_mut(fate as usize) {
            *count += bytes as f64;
        }
    }

    /// Adds all of another, after what was there was multiplied by `kept`.
    pub fn merge(&mut self, kept: f64, other: &Self) {
        for (sum, count) in self.counts.iter_mut().zip(other.counts) {
            *sum = *sum * kept + count;
        }
    }

    /// How many had a fate.
    #[must_use]
    pub fn of(&self, fate: Fate) -> f64 {
        self.counts.get(fate as usize).copied().unwrap_or(0.0)
    }

    /// The share that had a fate; `None` where nothing was moved.
    #[must_use]
    pub fn share(&self, fate: Fate) -> Option<f64> {
        self.of_all(self.of(fate))
    }

    /// The share that was seen; `None` where nothing was moved.
    #[must_use]
    pub fn seen(&self) -> Option<f64> {
        self.of_all(Fate::ALL.into_iter().filter(|fate| fate.seen()).map(|fate| self.of(fate)).sum())
    }

    /// Counts that fade never reach zero; less than a byte is none.
    fn of_all(&self, part: f64) -> Option<f64> {
        let all: f64 = self.counts.iter().sum();
        (all >= 1.0).then(|| part / all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_moved_is_seen_or_not() {
        let mut bytes = Bytes::default();
        assert_eq!(bytes.seen(), None);
        bytes.add(Fate::Decoded, 700);
        bytes.add(Fate::Timed, 100);
        bytes.add(Fate::Encrypted, 150);
        bytes.add(Fate::Bypassed, 50);
        assert_eq!(bytes.seen(), Some(0.8));
        assert_eq!(bytes.share(Fate::Bypassed), Some(0.05));
        let mut later = Bytes::default();
        later.add(Fate::Decoded, 500);
        bytes.merge(0.5, &later);
        assert_eq!(bytes.of(Fate::Decoded), 850.0);
        assert_eq!(bytes.seen(), Some(0.9));
    }
}
