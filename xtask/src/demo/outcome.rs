//! What a demo saw, as JSON, in words, and as a verdict.

use anyhow::{Result, bail};
use serde_json::{Map, Value, json};

/// What a demo saw.
pub(super) struct Outcome {
    pub(super) fault: String,
    pub(super) service: String,
    pub(super) culprits: Vec<String>,
    pub(super) ranking: Vec<String>,
    pub(super) seconds_to_page: Option<f64>,
    pub(super) false_pages: u64,
    pub(super) calls_seen: Map<String, Value>,
    pub(super) calls_sent: Map<String, Value>,
    pub(super) top: String,
}

impl Outcome {
    pub(super) fn json(&self) -> Value {
        json!({
            "fault": {"kind": self.fault, "service": self.service, "culprit": self.culprits},
            "ranking": self.ranking,
            "seconds_to_page": self.seconds_to_page,
            "false_pages": self.false_pages,
            "calls_seen": self.calls_seen,
            "calls_sent": self.calls_sent,
        })
    }

    pub(super) fn words(&self) -> String {
        let first = self.ranking.first().map_or("nobody", String::as_str);
        let paged =
            self.seconds_to_page.map_or("never".to_owned(), |seconds| format!("after {seconds:.1} s"));
        let sum = |calls: &Map<String, Value>| calls.values().filter_map(Value::as_u64).sum::<u64>();
        let seen = if self.seconds_to_page.is_some() { "" } else { &self.top };
        format!(
            "{seen}fault:         {} on {}\npaged:         {paged}\nfirst suspect: {first}\n\
             calls:         {} seen of {} served",
            self.fault,
            self.service,
            sum(&self.calls_seen),
            sum(&self.calls_sent),
        )
    }

    /// Fails unless the agent paged for this fault alone and put the culprit first.
    pub(super) fn verdict(&self) -> Result<()> {
        if self.false_pages > 0 {
            bail!("the agent paged before anything was broken");
        }
        if self.seconds_to_page.is_none() {
            bail!("the agent did not page");
        }
        match self.ranking.first() {
            Some(first) if self.culprits.contains(first) => Ok(()),
            Some(first) => bail!("the agent blamed {first}, the culprit is {}", self.culprits.join(" or ")),
            None => bail!("the agent named no suspect"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    fn outcome() -> Outcome {
        Outcome {
            fault: "latency".into(),
            service: "cartservice".into(),
            culprits: vec!["cartservice".into()],
            ranking: vec!["cartservice".into(), "frontend".into()],
            seconds_to_page: Some(12.0),
            false_pages: 0,
            calls_seen: Map::new(),
            calls_sent: Map::new(),
            top: String::new(),
        }
    }

    #[test]
    fn passes_only_if_the_culprit_came_first_and_nothing_else_paged() {
        assert!(outcome().verdict().is_ok());
        assert!(Outcome { ranking: vec!["frontend".into()], ..outcome() }.verdict().is_err());
        assert!(Outcome { ranking: Vec::new(), ..outcome() }.verdict().is_err());
        assert!(Outcome { seconds_to_page: None, ..outcome() }.verdict().is_err());
        assert!(Outcome { false_pages: 1, ..outcome() }.verdict().is_err());
    }
}
