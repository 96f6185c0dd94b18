//! Adds up what the views of a pair say of its calls: one line a pair, and what is wrong with it.

use super::compare::{Judged, Outcome, Verdict};
use super::truth::Expectation;
use faultline_core::call::Method;
use std::collections::BTreeMap;

/// How many findings of a kind and view are printed.
const SHOWN: usize = 4;

/// A pair may miss one call in so many, if the loss was counted.
const ONE_IN: usize = 10_000;

/// One call in so many may lie on a connection that the peers themselves broke; more, and the pair shows nothing.
const BROKEN_ONE_IN: usize = 20;

/// Through a proxy it may be more: haproxy resets streams of large messages now and then. As many may be refused and
/// made again.
const BROKEN_BY_PROXY_ONE_IN: usize = 5;

/// One call in so many may be left open although nothing was lost: a server that resets a stream right behind its
/// answer leaves nobody sure that the client was done.
const OPEN_ONE_IN: usize = 100;

/// What came out for a pair: a call counts as its worst view says.
#[derive(Debug, Default)]
pub struct Tally {
    /// Calls that were made (each attempt is one).
    pub sent: usize,
    /// Everything was said of them at every end, and all of it is right.
    pub exact: usize,
    /// Nothing false was said, but something was left open.
    pub open: usize,
    /// Not seen, and perhaps they never left their client.
    pub undecided: usize,
    /// They were not seen at some end.
    pub unseen: usize,
    /// Something false was said of them, or nobody made them.
    pub wrong: usize,
    /// Their connection broke at the hands of the peers.
    pub broken: usize,
    /// Attempts that a connection's end refused, which its client's stack made again without a word.
    pub refused: usize,
    /// What to print below the line.
    findings: Vec<String>,
    /// What the pair fails for.
    failures: Vec<String>,
}

/// One end's verdict.
pub struct View<'a> {
    /// What it is called in findings.
    pub name: &'static str,
    /// What came out.
    pub verdict: Verdict<'a>,
    /// What was counted as lost there.
    pub lost: BTreeMap<&'static str, u64>,
}

impl Tally {
    /// Adds up the views of one pair. `through` a proxy, which resets a stream whose server answers before its client
    /// has ended: requests may be cut short, and what was left open is no failure.
    #[must_use]
    pub fn of(views: &[View<'_>], through: bool) -> Self {
        let mut tally = Self::default();
        let mut calls: BTreeMap<(u32, u32), (&Outcome, bool)> = BTreeMap::new();
        for view in views {
            for Judged { expectation, outcome, .. } in &view.verdict.judged {
                let call = calls.entry(key(expectation)).or_insert((outcome, expectation.broken));
                call.0 = call.0.max(outcome);
            }
            tally.refused += view.verdict.refused;
            tally.wrong += view.verdict.strangers.len();
            tally.note(view, through);
        }
        tally.sent = calls.len();
        for (outcome, broken) in calls.into_values() {
            tally.broken += usize::from(broken);
            match outcome {
                Outcome::Exact => tally.exact += 1,
                Outcome::Open(_) => tally.open += 1,
                Outcome::Undecided => tally.undecided += 1,
                Outcome::Unseen => tally.unseen += 1,
                Outcome::Wrong(_) => tally.wrong += 1,
            }
        }
        let broken_one_in = if through { BROKEN_BY_PROXY_ONE_IN } else { BROKEN_ONE_IN };
        if tally.broken * broken_one_in > tally.sent {
            tally.failures.push(format!("the peers broke {} calls", tally.broken));
        }
        if through && tally.refused * BROKEN_BY_PROXY_ONE_IN > tally.sent * views.len() {
            tally.failures.push(format!("{} attempts that nobody made", tally.refused));
        }
        tally
    }

    /// What one view shows, and what the pair fails for because of it.
    fn note(&mut self, view: &View<'_>, through: bool) {
        let (mut wrong, mut open, mut unseen) = (view.verdict.strangers.clone(), Vec::new(), Vec::new());
        for Judged { expectation, outcome, .. } in &view.verdict.judged {
            match outcome {
                Outcome::Wrong(what) => wrong.push(what.clone()),
                // A call that its client gave up may end with the connection: nobody said how.
                Outcome::Open(what) if expectation.certain => open.push(what.clone()),
                Outcome::Unseen => unseen.push(format!("{expectation:?}")),
                Outcome::Exact | Outcome::Open(_) | Outcome::Undecided => {}
            }
        }
        if !view.lost.is_empty() {
            self.findings.push(format!("{} lost: {:?}", view.name, view.lost));
        }
        // What was counted as lost may be left open or missing; what is said must be right all the same.
        let (counted, calls) = (!view.lost.is_empty(), view.verdict.judged.len());
        let missed = if counted { unseen.len() * ONE_IN > calls.max(ONE_IN) } else { !unseen.is_empty() };
        for (kind, found, fails) in [
            ("wrong", &wrong, !wrong.is_empty()),
            ("left open", &open, !counted && !through && open.len() * OPEN_ONE_IN > calls),
            ("unseen", &unseen, missed),
        ] {
            let shown = found.iter().take(SHOWN).map(|what| format!("{}, {kind}: {what}", view.name));
            self.findings.extend(shown);
            if fails {
                self.failures.push(format!("{}: {} calls {kind}", view.name, found.len()));
            }
        }
    }

    /// Prints a pair's line and what is below it; gives what it fails for.
    #[must_use]
    pub fn report(self, pair: &str, more: &str) -> Vec<String> {
        println!(
            "{pair:<24} {:>6} calls sent, {:>6} exact, {} wrong, {} unseen, {} left open, {} undecided{more}",
            self.sent, self.exact, self.wrong, self.unseen, self.open, self.undecided,
        );
        if self.broken > 0 {
            println!("    {} calls on a connection that the peers broke", self.broken);
        }
        if self.refused > 0 {
            println!(
                "    {} views of attempts that ended with their connection and were made again",
                self.refused
            );
        }
        for finding in self.findings {
            println!("    {finding}");
        }
        self.failures.into_iter().map(|what| format!("{pair}: {what}")).collect()
    }
}

fn key(expectation: &Expectation) -> (u32, u32) {
    (expectation.id, expectation.attempt)
}

/// How much is known of calls on a connection that was joined late.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known {
    /// The method was read.
    pub named: usize,
    /// The status was read.
    pub told: usize,
    /// The status follows from what was seen.
    pub inferred: usize,
}

/// Counts what is known, and checks that a pseudonym stands for one method.
#[must_use]
pub fn known(judged: &[Judged<'_>]) -> (Known, Vec<String>) {
    use faultline_core::call::StatusSource;
    let mut known = Known::default();
    let mut failures = Vec::new();
    let mut pseudonyms = BTreeMap::new();
    for (judged, call) in judged.iter().filter_map(|judged| judged.call.map(|call| (judged, call))) {
        match call.method {
            Method::Named(_) => known.named += 1,
            // Nothing stood for the path: then nothing is claimed.
            Method::Unresolved(0) => {}
            Method::Unresolved(pseudonym) => {
                let method = judged.expectation.method;
                let before = *pseudonyms.entry((call.connection, pseudonym)).or_insert(method);
                if before != method {
                    failures.push(format!("pseudonym {pseudonym:x} stands for {before} and for {method}"));
                }
            }
        }
        match call.status.source {
            StatusSource::Wire => known.told += 1,
            StatusSource::Inferred => known.inferred += 1,
            StatusSource::Unknown => {}
        }
    }
    failures.sort();
    failures.dedup();
    (known, failures)
}
