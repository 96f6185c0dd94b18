//! Conversations in the ways of the big stacks, damaged: what is said of a call is never wrong, and where
//! nothing is missing everything is said. `tests/fuzz` asks the same of inputs that it steers.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod ways;

use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn never_wrong(input in prop::collection::vec(any::<u8>(), 0..600)) {
        ways::truth::check(&input);
    }
}
