//! What happens when: faults come in, their starts go out in order of time, and their ends a fault's length after they
//! really started.

use std::collections::BTreeMap;

use crate::faults::Fault;

/// Something that happens to a fault, by the fault's number.
pub(super) enum Action {
    Start(u64, Fault),
    End(u64),
}

/// Actions that are still to come, by microseconds after the load's start.
#[derive(Default)]
pub(super) struct Plan {
    actions: BTreeMap<(u64, u64), Action>,
    faults: u64,
    order: u64,
}

impl Plan {
    /// A fault is to start at its time.
    pub(super) fn add(&mut self, fault: Fault) {
        let number = self.faults;
        self.faults += 1;
        self.insert(fault.at_seconds, Action::Start(number, fault));
    }

    /// One that has started is to end so many seconds after the load's start.
    pub(super) fn end(&mut self, number: u64, at_seconds: f64) {
        self.insert(at_seconds, Action::End(number));
    }

    fn insert(&mut self, seconds: f64, action: Action) {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "times are checked on reading"
        )]
        let micros = (seconds * 1e6) as u64;
        self.actions.insert((micros, self.order), action);
        self.order += 1;
    }

    /// When the next action is due, seconds after the load's start.
    pub(super) fn next_seconds(&self) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "microseconds of a run fit a double")]
        self.actions.first_key_value().map(|((micros, _), _)| *micros as f64 / 1e6)
    }

    pub(super) fn pop(&mut self) -> Option<Action> {
        self.actions.pop_first().map(|(_, action)| action)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::{Kind, Parameters};

    #[test]
    fn overlapping_faults_start_and_end_in_time() {
        let fault = |at_seconds, duration_seconds| Fault {
            at_seconds,
            duration_seconds,
            kind: Kind::Latency,
            service: "a".into(),
            parameters: Parameters::of(Kind::Latency),
        };
        let mut plan = Plan::default();
        plan.add(fault(5.0, 10.0));
        plan.add(fault(1.0, 4.0));
        let mut shown = Vec::new();
        while let Some(at) = plan.next_seconds() {
            shown.push(match plan.pop() {
                Some(Action::Start(number, fault)) => {
                    plan.end(number, at + fault.duration_seconds);
                    format!("{at} start {number}")
                }
                Some(Action::End(number)) => format!("{at} end {number}"),
                None => "nothing".into(),
            });
        }
        assert_eq!(shown, ["1 start 1", "5 start 0", "5 end 1", "15 end 0"]);
    }
}
