//! Puts the report of a step together. The pipeline's state flows in, a [`Report`] flows out; nothing is
//! decided here but wording and order.

use super::Pipeline;
use super::fold::ServiceFold;
use super::mask::Sight;
use crate::coverage::Fate;
use crate::event::{EndedBy, Protocol};
use crate::graph::EdgeKind;
use crate::rank::Blame;
use crate::report::{
    self, Baseline, Coverage, EdgeReport, Evidence, FlowReport, MissingPart, Report, SeenReport,
    ServiceReport, ServiceState, State, Suspect,
};
use crate::score::Score;
use crate::units::{Nanos, ServiceId, Step};
use crate::window::{EdgeSignal, EdgeWindow, Signal, Window};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Steps of a service's trend.
const TREND_STEPS: u64 = 30;

/// Suspects of a ranking that are told; whoever reads on after fifty has no ranking to speak of.
const MAX_SUSPECTS: usize = 50;

/// While an incident is open, whoever has at least this share of the first suspect's score is one too.
const SUSPECT_SHARE: f64 = 0.5;

/// A service that is so unusual is marked, incident or not.
const UNUSUAL: f64 = 0.005;

/// What is said of a service some of whose connections are encrypted and seen all the same.
const SEEN_IN_TLS: &str = "TLS seen through libssl";

/// What was found out about a step.
pub(super) struct Findings<'a> {
    /// Which.
    pub(super) step: Step,
    /// Its end, seconds since the Unix epoch.
    pub(super) at: f64,
    /// The model's scores.
    pub(super) scores: &'a BTreeMap<ServiceId, Score>,
    /// What was seen of whom.
    pub(super) sight: &'a BTreeMap<ServiceId, Sight>,
    /// Suspects, best first.
    pub(super) ranking: Vec<Suspect>,
}

/// Names the services of a ranking.
pub(super) fn suspects(blames: &[Blame], name: impl Fn(ServiceId) -> String) -> Vec<Suspect> {
    let evidence = |blame: &Blame| {
        let told = blame.evidence.iter().map(|reason| Evidence {
            family: reason.family.to_owned(),
            signal: reason.signal.to_owned(),
            peer: reason.peer.map(&name),
            value: Some(reason.value).filter(|value| value.is_finite()),
            baseline: reason.baseline.filter(|value| value.is_finite()),
            weight: reason.weight,
            text: reason.text.clone(),
        });
        told.collect()
    };
    blames
        .iter()
        .take(MAX_SUSPECTS)
        .map(|blame| Suspect { service: name(blame.service), score: blame.score, evidence: evidence(blame) })
        .collect()
}

/// What flow control did to a service in a step of a length.
pub(super) fn flow(service: &ServiceFold, length: Nanos) -> FlowReport {
    let sums = &service.flow;
    let rate = |count: u64| count as f64 / length.as_secs_f64();
    let stalled = |time: Nanos| (sums.known > 0).then(|| time.as_millis_f64());
    let ended = |by: EndedBy| {
        let ended = sums.ended.iter().filter(|(ended, _)| ended.by == by);
        let named = ended.map(|(ended, count)| {
            let way = if ended.sent { "sent" } else { "received" };
            (format!("{way} {}", ended.code_name()), *count)
        });
        named.collect()
    };
    FlowReport {
        messages_sent_rate: rate(sums.messages_sent),
        messages_received_rate: rate(sums.messages_received),
        stream_p50_ms: service.ended_streams.durations.quantile_ms(0.5),
        stream_p95_ms: service.ended_streams.durations.quantile_ms(0.95),
        stalled_sending_ms: stalled(sums.stalled_sending),
        stalled_receiving_ms: stalled(sums.stalled_receiving),
        unknown_windows: sums.unknown,
        max_streams: sums.as_client.lowest,
        limit_reached: sums.as_client.reached,
        resets: ended(EndedBy::Reset),
        goaways: ended(EndedBy::GoAway),
    }
}

impl Pipeline {
    /// The report of a step.
    pub(super) fn report(&self, findings: Findings<'_>) -> Report {
        let services: Vec<ServiceReport> = self
            .world
            .services
            .by_name()
            .filter_map(|(name, id)| self.service(name, id, &findings))
            .collect();
        let mut edges: Vec<EdgeReport> =
            self.ledger.edges.keys().map(|edge| self.edge(*edge, findings.step)).collect();
        edges.sort_by(|a, b| (&a.caller, &a.callee).cmp(&(&b.caller, &b.callee)));
        Report {
            version: report::VERSION,
            at: findings.at,
            step_seconds: self.settings.step_length.as_secs_f64(),
            node: self.node.to_string(),
            state: self.state(),
            baseline: Baseline { steps: self.baseline_steps, needed: self.settings.baseline_steps },
            services,
            edges,
            incident: self.incidents.open.clone(),
            past_incidents: self.incidents.past.iter().cloned().collect(),
            ranking: findings.ranking,
            coverage: self.coverage(),
            missing: self.missing(),
            model: self.scorer.digest().map(str::to_owned),
        }
    }

    fn state(&self) -> State {
        if self.incidents.open.is_some() {
            State::Incident
        } else if self.baseline_steps < self.settings.baseline_steps {
            State::WarmingUp
        } else {
            State::Normal
        }
    }

    /// A service, if it was there in the recent past.
    fn service(&self, name: &Arc<str>, id: ServiceId, findings: &Findings<'_>) -> Option<ServiceReport> {
        let life = self.ledger.lives.get(&id)?;
        let absent = Window::default();
        let window = self.history.seen(id, findings.step).unwrap_or(&absent);
        let score = findings.scores.get(&id);
        let sight = findings.sight.get(&id);
        let masked = sight.and_then(|sight| sight.masked.clone());
        let state = if masked.is_some() {
            ServiceState::Masked
        } else if life.steps < self.settings.baseline_steps {
            ServiceState::WarmingUp
        } else if self.is_suspect(name, score, &findings.ranking) {
            ServiceState::Suspect
        } else {
            ServiceState::Normal
        };
        let namespace = self.world.services.name(id).and_then(|name| name.namespace.as_deref());
        Some(ServiceReport {
            name: name.to_string(),
            namespace: namespace.map(str::to_owned),
            kind: life.kind(),
            state,
            seen_through: life.in_tls.then(|| SEEN_IN_TLS.to_owned()),
            masked,
            seen: self.seen(name, sight),
            flow: self.flow.get(&id).cloned(),
            call_rate: window.get(Signal::CallRate),
            error_ratio: window.get(Signal::ErrorRatio),
            latency_p50_ms: window.get(Signal::LatencyP50),
            latency_p95_ms: window.get(Signal::LatencyP95),
            latency_p99_ms: window.get(Signal::LatencyP99),
            self_time_ms: window.get(Signal::SelfTime),
            in_flight: window.get(Signal::InFlight),
            cpu_millicores: window.get(Signal::CpuMillicores),
            memory_bytes: window.get(Signal::Memory),
            score: score.map(|score| score.error).filter(|error| error.is_finite()),
            p_value: score.and_then(|score| score.p_value).filter(|p| p.is_finite()),
            trend: self.trend(id, findings.step),
            calls_total: life.served,
            calls_made_total: life.made,
        })
    }

    fn seen(&self, name: &Arc<str>, sight: Option<&Sight>) -> Option<SeenReport> {
        let seen = self.ledger.totals.seen.get(name)?;
        let bytes = Fate::ALL.into_iter().filter(|fate| seen.bytes.of(*fate) > 0.0);
        Some(SeenReport {
            ratio: sight.and_then(|sight| sight.ratio),
            bytes: bytes.map(|fate| (fate.name().to_owned(), seen.bytes.of(fate) as u64)).collect(),
            lost: seen.lost,
            unix_connections: seen.unix_connections,
        })
    }

    fn is_suspect(&self, name: &Arc<str>, score: Option<&Score>, ranking: &[Suspect]) -> bool {
        let unusual = score.and_then(|score| score.p_value).is_some_and(|p| p <= UNUSUAL);
        let first = ranking.first().map_or(0.0, |suspect| suspect.score);
        let blamed = || {
            ranking.iter().any(|suspect| {
                suspect.service == **name && suspect.score > 0.0 && suspect.score >= first * SUSPECT_SHARE
            })
        };
        unusual || self.incidents.open.is_some() && blamed()
    }

    fn trend(&self, id: ServiceId, step: Step) -> Vec<Option<f64>> {
        let first = (step.0 + 1).saturating_sub(TREND_STEPS);
        let mut trend = vec![None; TREND_STEPS as usize];
        for (value, at) in trend.iter_mut().zip(first..=step.0) {
            let window = self.history.seen(id, Step(at)).filter(|_| !self.history.is_masked(id, Step(at)));
            *value = window
                .and_then(|window| window.get(Signal::LatencyP95).or_else(|| window.get(Signal::LatencyP50)));
        }
        trend
    }

    fn edge(&self, edge: (ServiceId, ServiceId), step: Step) -> EdgeReport {
        let absent = EdgeWindow::default();
        let window = self.history.seen_edge(edge.0, edge.1, step).unwrap_or(&absent);
        let life = self.ledger.edges.get(&edge);
        let protocol = if life.is_some_and(|life| life.kind == EdgeKind::Grpc) { "grpc" } else { "tcp" };
        EdgeReport {
            caller: self.world.services.text(edge.0).to_string(),
            callee: self.world.services.text(edge.1).to_string(),
            protocol: protocol.to_owned(),
            call_rate: window.get(EdgeSignal::CallRate),
            error_ratio: window.get(EdgeSignal::ErrorRatio),
            client_p50_ms: window.get(EdgeSignal::ClientP50),
            client_p95_ms: window.get(EdgeSignal::ClientP95),
            server_p50_ms: window.get(EdgeSignal::ServerP50),
            wire_time_ms: window.get(EdgeSignal::WireTime),
            rtt_ms: window.get(EdgeSignal::Rtt),
            retransmit_ratio: window.get(EdgeSignal::RetransmitRatio),
            calls_total: life.map_or(0, |life| life.calls),
        }
    }

    fn coverage(&self) -> Coverage {
        let mut connections: BTreeMap<String, u64> =
            Protocol::ALL.map(|protocol| (protocol.name().to_owned(), 0)).into();
        for (_, connection) in self.world.connections.iter().filter(|(_, end)| end.closed.is_none()) {
            let protocol = match connection.protocol {
                Protocol::Unknown if connection.decoded => Protocol::Http2,
                protocol => protocol,
            };
            *connections.entry(protocol.name().to_owned()).or_default() += 1;
        }
        Coverage {
            connections,
            calls: self.seen.calls,
            unresolved_methods: self.seen.unresolved_methods,
            unknown_status: self.seen.unknown_status,
            lost: self.seen.lost.iter().map(|(reason, count)| (reason.name().to_owned(), *count)).collect(),
        }
    }

    /// Missing parts as sources said, and the model if it gives no scores.
    fn missing(&self) -> Vec<MissingPart> {
        let mut parts: Vec<MissingPart> = self
            .missing
            .values()
            .map(|missing| MissingPart {
                part: missing.part.to_string(),
                reason: missing.reason.to_string(),
                fix: missing.fix.to_string(),
            })
            .collect();
        if let Some(reason) = self.scorer.failure() {
            parts.push(MissingPart {
                part: "model".to_owned(),
                reason: reason.to_owned(),
                fix: "check the model file and ONNX Runtime with `faultline check`".to_owned(),
            });
        }
        parts
    }
}
