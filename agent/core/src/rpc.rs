//! Turns the frames of a connection's two directions into [`Call`](crate::call::Call)s.

use crate::event::Event;
use crate::units::Timestamp;

/// Takes every [`Event::Segment`] and gives the calls that ended with it; passes other events on.
#[derive(Debug, Default)]
pub struct Decoder {}

impl Decoder {
    /// Takes one event and appends what follows from it to `out`.
    pub fn handle(&mut self, event: Event, out: &mut Vec<Event>) {
        if !matches!(event, Event::Segment(_)) {
            out.push(event);
        }
    }

    /// Appends what only time tells: calls in flight, holes and streams given up.
    pub fn tick(&mut self, _now: Timestamp, _out: &mut Vec<Event>) {}
}
