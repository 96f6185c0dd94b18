//! Connections to the services that this one calls: round-robin over replicas, whatever their state, made again
//! with a growing pause when they break; and the circuit in front of each. What goes over them: `client`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use http::Uri;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use crate::brief::{Behaviour, Breaker, Peer};

/// A connection that could not be made is tried again after this long at first,
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// and after this long at last.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// One HTTP/2 connection to one address.
pub(super) struct Connection {
    address: String,
    pub(super) channel: Channel,
    pause: Mutex<Pause>,
}

/// When a broken connection may be tried again.
#[derive(Default)]
struct Pause {
    until: Option<Instant>,
    length: Duration,
}

impl Connection {
    /// It is made at the first call.
    fn lazy(address: &str, authority: &Uri) -> anyhow::Result<Self> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .and_then(|endpoint| endpoint.user_agent("playground"))
            .with_context(|| format!("{address} is no address"))?;
        let channel = endpoint.origin(authority.clone()).connect_lazy();
        Ok(Self { address: address.into(), channel, pause: Mutex::default() })
    }

    /// Whether it may be used now: not shortly after it could not be made.
    pub(super) fn usable(&self) -> bool {
        let pause = self.pause.lock().unwrap_or_else(PoisonError::into_inner);
        pause.until.is_none_or(|until| Instant::now() >= until)
    }

    /// It could not be made (or, `true`, it works).
    pub(super) fn works(&self, works: bool) {
        let mut pause = self.pause.lock().unwrap_or_else(PoisonError::into_inner);
        if works {
            *pause = Pause::default();
        } else if pause.until.is_none_or(|until| Instant::now() >= until) {
            pause.length = (pause.length * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
            pause.until = Some(Instant::now() + pause.length);
        }
    }
}

/// A called service.
pub(super) struct Callee {
    authority: Uri,
    peer: Peer,
    connections: RwLock<Vec<Arc<Connection>>>,
    next: AtomicUsize,
    circuit: Circuit,
    absent: AtomicBool,
}

impl Callee {
    pub(super) fn new(peer: &Peer) -> anyhow::Result<Self> {
        let authority = format!("http://{}", peer.authority);
        let authority: Uri = authority.parse().with_context(|| format!("{authority} is no authority"))?;
        let callee = Self {
            authority,
            peer: peer.clone(),
            connections: RwLock::default(),
            next: AtomicUsize::new(0),
            circuit: Circuit::new(peer.breaker),
            absent: AtomicBool::new(false),
        };
        callee.move_to(&peer.addresses)?;
        Ok(callee)
    }

    /// Keeps connections to addresses that stay; those that are left out close when their calls have ended.
    fn move_to(&self, addresses: &[String]) -> anyhow::Result<()> {
        let mut held = self.connections.write().unwrap_or_else(PoisonError::into_inner);
        let mut old = std::mem::take(&mut *held);
        for _ in 0..self.peer.connections.max(1) {
            for address in addresses {
                let kept = old.iter().position(|connection| connection.address == *address);
                held.push(match kept {
                    Some(at) => old.swap_remove(at),
                    None => Arc::new(Connection::lazy(address, &self.authority)?),
                });
            }
        }
        Ok(())
    }

    /// The connection whose turn it is.
    pub(super) fn connection(&self) -> Option<Arc<Connection>> {
        let connections = self.connections.read().unwrap_or_else(PoisonError::into_inner);
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        connections.get(turn.checked_rem(connections.len())?).cloned()
    }

    /// What the runner says of this callee.
    fn become_like(&self, name: &str, behaviour: &Behaviour) -> anyhow::Result<()> {
        self.circuit.forced.store(behaviour.open_circuits.contains(name), Ordering::Relaxed);
        self.absent.store(behaviour.absent.contains(name), Ordering::Relaxed);
        self.move_to(behaviour.addresses.get(name).unwrap_or(&self.peer.addresses))
    }

    /// Whether it does not exist yet.
    pub(super) fn is_absent(&self) -> bool {
        self.absent.load(Ordering::Relaxed)
    }

    pub(super) const fn circuit(&self) -> &Circuit {
        &self.circuit
    }

    /// One of its addresses.
    pub(super) fn address(&self) -> Option<String> {
        let connections = self.connections.read().unwrap_or_else(PoisonError::into_inner);
        connections.first().map(|connection| connection.address.clone())
    }
}

/// All callees by name.
pub(super) fn callees(peers: &BTreeMap<String, Peer>) -> anyhow::Result<BTreeMap<String, Callee>> {
    peers.iter().map(|(name, peer)| Ok((name.clone(), Callee::new(peer)?))).collect()
}

/// Moves and opens what a behaviour says.
pub(super) fn obey(callees: &BTreeMap<String, Callee>, behaviour: &Behaviour) {
    for (name, callee) in callees {
        if let Err(error) = callee.become_like(name, behaviour) {
            eprintln!("{name} stays where it was: {error:#}");
        }
    }
}

/// A circuit breaker. Closed, it counts failures in a row; open, it refuses; after its time it lets one call
/// through, whose outcome decides.
pub(super) struct Circuit {
    breaker: Option<Breaker>,
    state: Mutex<State>,
    forced: AtomicBool,
}

#[derive(Clone, Copy)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant },
    Trying,
}

impl Circuit {
    const fn new(breaker: Option<Breaker>) -> Self {
        Self { breaker, state: Mutex::new(State::Closed { failures: 0 }), forced: AtomicBool::new(false) }
    }

    /// Whether a call may leave; each that may must tell its outcome.
    pub(super) fn lets_through(&self, now: Instant) -> bool {
        if self.forced.load(Ordering::Relaxed) {
            return false;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match *state {
            State::Closed { .. } => true,
            State::Open { until } if now >= until => {
                *state = State::Trying;
                true
            }
            State::Open { .. } | State::Trying => false,
        }
    }

    /// A call has ended.
    pub(super) fn ended(&self, code: Code, now: Instant) {
        let Some(breaker) = self.breaker else { return };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let harmless =
            [Code::Ok, Code::InvalidArgument, Code::NotFound, Code::PermissionDenied].contains(&code);
        let open = State::Open { until: now + Duration::from_millis(breaker.open_ms) };
        *state = match *state {
            // A call that left before the circuit opened says nothing new.
            State::Open { until } => State::Open { until },
            _ if harmless => State::Closed { failures: 0 },
            State::Trying => open,
            State::Closed { failures } if failures + 1 >= breaker.failures => open,
            State::Closed { failures } => State::Closed { failures: failures + 1 },
        };
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]
    use super::*;

    #[test]
    fn a_circuit_opens_tries_and_closes() {
        let circuit = Circuit::new(Some(Breaker { failures: 2, open_ms: 1_000 }));
        let start = Instant::now();
        for code in [Code::Internal, Code::Ok, Code::Internal, Code::NotFound, Code::Unavailable] {
            assert!(circuit.lets_through(start));
            circuit.ended(code, start);
        }
        circuit.ended(Code::Unavailable, start);
        assert!(!circuit.lets_through(start), "two failures in a row open it");
        circuit.ended(Code::Ok, start);
        let later = start + Duration::from_secs(1);
        assert!(circuit.lets_through(later), "one call tries");
        assert!(!circuit.lets_through(later), "only one");
        circuit.ended(Code::Unavailable, later);
        assert!(!circuit.lets_through(later));
        let last = later + Duration::from_secs(1);
        assert!(circuit.lets_through(last));
        circuit.ended(Code::Ok, last);
        assert!(circuit.lets_through(last));
    }

    #[tokio::test]
    async fn calls_go_round_and_follow_their_callee() {
        let addresses = ["127.0.0.1:1".to_owned(), "127.0.0.1:2".to_owned()];
        let peer =
            Peer { addresses: addresses.to_vec(), authority: "b:80".into(), connections: 2, breaker: None };
        let callee = Callee::new(&peer).unwrap();
        let round = |callee: &Callee, count: usize| -> Vec<String> {
            (0..count).map(|_| callee.connection().unwrap().address.clone()).collect()
        };
        assert_eq!(round(&callee, 4), [0, 1, 0, 1].map(|at: usize| addresses[at].clone()));
        let moved = Behaviour {
            addresses: [("b".to_owned(), vec!["127.0.0.1:3".to_owned()])].into(),
            ..Behaviour::default()
        };
        callee.become_like("b", &moved).unwrap();
        assert_eq!(round(&callee, 2), ["127.0.0.1:3", "127.0.0.1:3"]);
        callee.become_like("b", &Behaviour::default()).unwrap();
        assert_eq!(round(&callee, 1).len(), 1);
    }
}
