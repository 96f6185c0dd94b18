//! Puts each event where it belongs: into the world, or into the open step of its time. Events behind the decoder
//! flow in; [`super::Pipeline`] closes the steps.

use super::open_step::OpenStep;
use super::{MAX_AHEAD, MAX_MISSING, Pipeline};
use crate::call::{Call, Method, View};
use crate::connections::Counted;
use crate::event::{ConnectionSample, Event, FlowSample, Loss, LossReason, Missing, Opened};
use crate::identity::authority;
use crate::units::{Step, Timestamp};

impl Pipeline {
    /// Puts an event where it belongs.
    pub(super) fn take(&mut self, event: Event) {
        let at = event.at();
        self.open_step(at).events += 1;
        match event {
            Event::Started(started) => {
                self.started = started.at;
                self.unix_zero = started.unix_zero;
                self.node = started.node;
            }
            Event::Opened(opened) => self.take_opened(&opened),
            Event::Segment(_) => {}
            Event::Call(call) => self.take_call(&call),
            Event::InFlight(in_flight) => {
                if let Some(connection) = self.world.connections.seen(in_flight.connection, at) {
                    connection.view = Some(in_flight.view);
                    connection.active |= in_flight.streams > 0;
                    connection.decoded = true;
                    connection.in_flight = Some(in_flight);
                }
            }
            Event::Flow(flow) => self.take_flow(&flow),
            Event::Sampled(sample) => self.take_sample(&sample),
            Event::Closed(closed) => {
                if let Some(connection) = self.world.connections.seen(closed.connection, at) {
                    connection.closed = Some(at);
                }
            }
            Event::ConnectFailed(failed) => {
                self.open_step(at).add_failed_connect(failed.cgroup, failed.remote);
            }
            Event::Cgroup(sample) => {
                let cgroup = sample.cgroup;
                let last = self.world.sampled(sample.clone());
                self.open_step(at).cgroups.entry(cgroup).or_default().add(last.as_ref(), &sample);
            }
            Event::Identity(identity) => self.world.learn(*identity),
            Event::Lost(loss) => self.take_loss(&loss),
            Event::Missing(missing) => self.take_missing(missing),
        }
    }

    /// The open step of a time; of a closed step the oldest open one.
    fn open_step(&mut self, at: Timestamp) -> &mut OpenStep {
        let step = at.step(self.settings.step_length);
        let next = *self.next.get_or_insert(step);
        self.open.entry(step.clamp(next, Step(next.0 + MAX_AHEAD))).or_default()
    }

    fn take_opened(&mut self, opened: &Opened) {
        let evicted = self.world.connections.open(opened);
        self.count_lost(LossReason::ConnectionEvicted, evicted);
        let step = self.open_step(opened.at);
        step.lost += evicted;
        step.connections.entry(opened.connection).or_default().opened = Some(opened.connect_time);
    }

    fn take_call(&mut self, call: &Call) {
        let at = call.started + call.duration;
        self.seen.calls += 1;
        self.seen.unresolved_methods += u64::from(matches!(call.method, Method::Unresolved(_)));
        self.seen.unknown_status += u64::from(call.status.code.is_none());
        let Some(connection) = self.world.connections.seen(call.connection, at) else {
            // Nobody knows whose call this is: its connection left the table.
            self.count_lost(LossReason::ConnectionEvicted, 1);
            self.open_step(at).lost += 1;
            return;
        };
        connection.active = true;
        connection.view = Some(call.view);
        connection.decoded = true; // No sample may have said so yet.
        if connection.authority != call.authority {
            connection.authority = call.authority.clone();
            connection.host = call.authority.as_deref().and_then(authority::host).map(Into::into);
        }
        let (host, remote) = (connection.host.clone(), connection.remote);
        if let (Some(host), View::Client) = (&host, call.view) {
            self.world.connections.name_remote(remote, host);
        }
        let nameless = self.nameless.clone();
        self.open_step(at).connections.entry(call.connection).or_default().add_call(call, host, &nameless);
    }

    fn take_sample(&mut self, sample: &ConnectionSample) {
        let Some(connection) = self.world.connections.seen(sample.connection, sample.at) else { return };
        let now = Counted::of(sample);
        let counted = std::mem::replace(&mut connection.counted, now);
        let decoded = connection.decoded;
        connection.protocol = sample.protocol;
        connection.active |= now.bytes > 0 || sample.exchanges.count > 0;
        self.open_step(sample.at)
            .connections
            .entry(sample.connection)
            .or_default()
            .add_sample(sample, counted, decoded);
    }

    fn take_flow(&mut self, sample: &FlowSample) {
        let Some(connection) = self.world.connections.seen(sample.connection, sample.at) else { return };
        let view = connection.view;
        let step = self.open_step(sample.at);
        step.connections.entry(sample.connection).or_default().flow.add(sample, view);
    }

    fn take_loss(&mut self, loss: &Loss) {
        self.count_lost(loss.reason, loss.count);
        if matches!(
            loss.reason,
            LossReason::MessagePrefix | LossReason::ServiceOverflow | LossReason::MethodOverflow
        ) {
            return; // Calls were counted all the same.
        }
        let known = loss.connection.filter(|id| self.world.connections.end(*id).is_some());
        let step = self.open_step(loss.at);
        match known {
            Some(connection) => step.connections.entry(connection).or_default().lost += loss.count,
            None => step.lost += loss.count,
        }
    }

    fn take_missing(&mut self, missing: Missing) {
        if missing.reason.is_empty() {
            self.missing.remove(&missing.part);
        } else if self.missing.len() < MAX_MISSING || self.missing.contains_key(&missing.part) {
            self.missing.insert(missing.part.clone(), missing);
        }
    }

    pub(super) fn count_lost(&mut self, reason: LossReason, count: u64) {
        if count > 0 {
            *self.seen.lost.entry(reason).or_default() += count;
        }
    }
}
