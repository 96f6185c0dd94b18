//! The open incident and the last ones, as reports tell them. Verdicts and rankings flow in.

use crate::incident::Verdict;
use crate::report::{Incident, Suspect};
use std::collections::VecDeque;

/// Closed incidents that a report repeats: a night's worth.
const MAX_PAST: usize = 16;

/// The incidents since the agent started.
#[derive(Debug, Default)]
pub(super) struct Incidents {
    /// The open one.
    pub(super) open: Option<Incident>,
    /// The closed ones, newest first.
    pub(super) past: VecDeque<Incident>,
    count: u64,
}

impl Incidents {
    /// Follows a verdict; `at` is the step's end in seconds since the Unix epoch, and `name` names a service.
    pub(super) fn follow(
        &mut self,
        verdict: Verdict,
        at: f64,
        ranking: &[Suspect],
        name: impl Fn(crate::units::ServiceId) -> String,
    ) {
        match verdict {
            Verdict::Normal => {}
            Verdict::Open { reason, service } => {
                self.close(at);
                self.count += 1;
                self.open = Some(Incident {
                    id: self.count,
                    opened_at: at,
                    closed_at: None,
                    reason: format!("{}: {reason}", name(service)),
                    ranking: ranking.to_vec(),
                    margin: margin(ranking),
                });
            }
            Verdict::Ongoing => {
                if let Some(incident) = &mut self.open {
                    incident.ranking = ranking.to_vec();
                    incident.margin = margin(ranking);
                }
            }
            Verdict::Closed { .. } => self.close(at),
        }
    }

    fn close(&mut self, at: f64) {
        if let Some(mut incident) = self.open.take() {
            incident.closed_at = Some(at);
            self.past.push_front(incident);
            self.past.truncate(MAX_PAST);
        }
    }
}

/// `1 - second / first`: how far the first suspect leads; zero where nobody is blamed.
fn margin(ranking: &[Suspect]) -> f64 {
    let score = |place: usize| ranking.get(place).map_or(0.0, |suspect| suspect.score);
    if score(0) > 0.0 { (1.0 - score(1) / score(0)).clamp(0.0, 1.0) } else { 0.0 }
}
