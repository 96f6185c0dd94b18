//! Normal life of services, made up: what the model learns where no recording is given. A seed goes in, a
//! history flows out.
//!
//! Each service has its own levels, its own noise and its own set of measured signals; its load is a wave, a
//! slow walk and a burst now and then, and everything else follows the load by an elasticity. That gives the
//! model the one thing it is to learn: how the roles move together when nothing is wrong.

use faultline_core::history::History;
use faultline_core::units::{Nanos, ServiceId, Step};
use faultline_core::window::{Signal, Window};
use faultline_models::random::Random;

/// The live step.
const STEP: Nanos = Nanos::from_secs(5);

/// A signal, the range of the power of the load that it follows, and the range of its usual level.
type Behaviour = (Signal, (f64, f64), (f64, f64));

/// Signals with how far (in powers of the load) they follow it, and their usual level's range.
const SIGNALS: [Behaviour; 11] = [
    (Signal::CallRate, (1.0, 1.0), (2.0, 300.0)),
    (Signal::LatencyP50, (0.0, 0.3), (0.5, 80.0)),
    (Signal::SelfTime, (0.0, 0.3), (0.3, 40.0)),
    (Signal::RequestBytes, (0.0, 0.05), (30.0, 5_000.0)),
    (Signal::ResponseBytes, (0.0, 0.1), (30.0, 50_000.0)),
    (Signal::InFlight, (0.8, 1.3), (0.2, 20.0)),
    (Signal::OldestUnanswered, (0.0, 0.5), (1.0, 200.0)),
    (Signal::FanOut, (0.0, 0.05), (0.5, 8.0)),
    (Signal::CpuMillicores, (0.7, 1.0), (5.0, 900.0)),
    (Signal::Memory, (0.0, 0.05), (2e7, 1e9)),
    (Signal::Rtt, (0.0, 0.1), (0.03, 2.0)),
];
/// A signal is not measured in so large a share of the services.
const NOT_MEASURED: f64 = 0.15;
/// A burst begins in so large a share of the steps.
const BURSTS: f64 = 0.004;

/// So many services over so many steps of normal life.
pub(crate) fn normal(services: u32, steps: u64, seed: u64) -> History {
    let mut random = Random::new(seed);
    let mut history = History::new(STEP, usize::MAX);
    for service in 0..services {
        one(&mut history, ServiceId(service), steps, &mut random);
    }
    history
}

/// One service's shape.
struct Shape {
    signal: Signal,
    level: f64,
    elasticity: f64,
    noise: f64,
}

fn one(history: &mut History, service: ServiceId, steps: u64, random: &mut Random) {
    let mut shapes = Vec::new();
    for (signal, elasticity, level) in SIGNALS {
        let measured = signal == Signal::CallRate || random.uniform() > NOT_MEASURED;
        let shape = Shape {
            signal,
            level: random.log_between(level.0, level.1),
            elasticity: random.between(elasticity.0, elasticity.1),
            noise: random.log_between(0.01, 0.2),
        };
        if measured {
            shapes.push(shape);
        }
    }
    let (period, swing) = (random.between(30.0, 400.0), random.between(0.0, 0.7));
    let phase = random.between(0.0, std::f64::consts::TAU);
    let tail = random.between(1.5, 4.0);
    let (usual_errors, throttles) = (random.log_between(1e-4, 0.02), random.uniform() < 0.2);
    // A slow walk of the load, a machine that is busier at times, and what is left of a burst.
    let (mut walk, mut machine, mut burst) = (0.0_f64, 0.0_f64, 0.0_f64);
    for step in 0..steps {
        walk = 0.98 * walk + 0.03 * random.normal();
        machine = 0.9 * machine + 0.05 * random.normal();
        burst *= 0.7;
        if random.uniform() < BURSTS {
            burst = random.between(0.3, 0.9);
        }
        let wave = swing * (step as f64 / period * std::f64::consts::TAU + phase).sin() / 2.0;
        let load = wave + walk + burst;
        let mut window = Window::default();
        for shape in &shapes {
            let slow = match shape.signal {
                Signal::LatencyP50 | Signal::SelfTime | Signal::OldestUnanswered => machine,
                _ => 0.0,
            };
            let log = shape.elasticity * load + slow + shape.noise * random.normal();
            window.set(shape.signal, Some(shape.level * log.exp()));
        }
        let median = window.get(Signal::LatencyP50);
        let spread = tail * (0.1 * random.normal() + 0.3 * machine).exp();
        window.set(Signal::LatencyP95, median.map(|median| median * spread));
        window.set(Signal::LatencyMean, median.map(|median| median * (0.7 + 0.3 * spread)));
        let calls = window.get(Signal::CallRate).unwrap_or(0.0) * STEP.as_secs_f64();
        window.set(Signal::ErrorRatio, Some(random.share(calls, usual_errors)));
        if window.get(Signal::FanOut).is_some() {
            window.set(Signal::OutgoingErrorRatio, Some(random.share(calls, usual_errors)));
        }
        if throttles {
            window.set(Signal::ThrottledRatio, Some((0.02 * (load + random.normal())).clamp(0.0, 1.0)));
        }
        history.push(service, Step(step), window);
    }
}
