//! Makes faults happen: a line on a service's standard input, a busy process in its cgroup, signals to
//! its process. Which faults are on is kept here, so that overlapping ones add up and each ends alone.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;
use tokio::task::JoinHandle;

use super::{Fault, Kind, behaviour};
use crate::run::children::Children;

/// Faults that are on, by number.
#[derive(Default)]
pub struct Injector {
    active: BTreeMap<u64, Active>,
}

struct Active {
    fault: Fault,
    /// The cpu hog; killed when dropped.
    hog: Option<Child>,
    /// The task that stops and continues Redis.
    duty: Option<JoinHandle<()>>,
}

impl Injector {
    /// Starts a fault.
    pub async fn start(&mut self, number: u64, fault: Fault, children: &mut Children) -> anyhow::Result<()> {
        let mut active = Active { fault: fault.clone(), hog: None, duty: None };
        match fault.kind {
            Kind::Latency | Kind::Errors | Kind::MemoryGrowth => {}
            Kind::CpuHog => active.hog = Some(children.hog(&fault.service, fault.parameters.threads)?),
            Kind::Stop => signal(children.pid(&fault.service)?, Signal::STOP)?,
            Kind::SlowRedis => {
                let pid = children.pid(&fault.service)?;
                let stopped = Duration::from_millis(fault.parameters.stopped_ms);
                let running = Duration::from_millis(fault.parameters.running_ms);
                active.duty = Some(tokio::spawn(run_now_and_then(pid, stopped, running)));
            }
        }
        self.active.insert(number, active);
        self.tell(&fault.service, children).await;
        Ok(())
    }

    /// Ends a fault and leaves the service healthy, unless another one is on.
    pub async fn end(&mut self, number: u64, children: &mut Children) -> anyhow::Result<Option<Fault>> {
        let Some(mut active) = self.active.remove(&number) else { return Ok(None) };
        if let Some(hog) = &mut active.hog {
            hog.kill().await.context("the cpu hog cannot be killed")?;
        }
        if let Some(duty) = active.duty.take() {
            duty.abort();
            drop(duty.await);
        }
        if matches!(active.fault.kind, Kind::Stop | Kind::SlowRedis) {
            // A process that died meanwhile was started again and runs.
            let _gone = signal(children.pid(&active.fault.service)?, Signal::CONT);
        }
        self.tell(&active.fault.service, children).await;
        Ok(Some(active.fault))
    }

    /// The numbers of the faults that are on.
    pub fn numbers(&self) -> Vec<u64> {
        self.active.keys().copied().collect()
    }

    /// Tells a service what it now does; Redis has nothing to be told. One that just died hears it after its
    /// new start.
    pub async fn tell(&self, service: &str, children: &mut Children) {
        let faults =
            self.active.values().map(|active| &active.fault).filter(|fault| fault.service == service);
        let told = match serde_json::to_string(&behaviour(faults)) {
            Ok(line) => children.tell(service, &line).await,
            Err(error) => Err(error.into()),
        };
        if let Err(error) = told {
            eprintln!("playground: {error:#}");
        }
    }
}

fn signal(pid: Pid, signal: Signal) -> anyhow::Result<()> {
    kill_process(pid, signal).with_context(|| format!("process {pid:?} cannot be signalled"))
}

/// Lets the process run for short moments only; ends with the task.
async fn run_now_and_then(pid: Pid, stopped: Duration, running: Duration) {
    loop {
        if kill_process(pid, Signal::STOP).is_err() {
            return;
        }
        tokio::time::sleep(stopped).await;
        if kill_process(pid, Signal::CONT).is_err() {
            return;
        }
        tokio::time::sleep(running).await;
    }
}

/// The `cpu-hog` process: threads that do nothing but use the processor, until standard input ends.
pub fn hog(threads: u32) -> std::io::Result<()> {
    for _ in 0..threads {
        std::thread::spawn(|| {
            let mut count = 0_u64;
            loop {
                count = std::hint::black_box(count.wrapping_add(1));
            }
        });
    }
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).map(|_| ())
}
