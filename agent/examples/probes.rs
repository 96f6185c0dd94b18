//! Attaches the kernel programs and prints what they see: `probes [SECONDS]`. At the end it prints what the
//! programs cost, if the kernel counts that (`sysctl kernel.bpf_stats_enabled=1`).
#![allow(clippy::print_stdout, reason = "it prints")]

use faultline::sources::probes::{Options, Probes, probe_support};
use faultline_core::event::Event;
use std::time::Duration;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let seconds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(3_600);
    let probes = match Probes::attach(&Options::default()) {
        Ok(probes) => probes,
        Err(error) => {
            for finding in probe_support(None, false) {
                println!("{finding:?}");
            }
            return Err(error.into());
        }
    };
    let ids: Vec<u32> = probes.program_ids().into_iter().map(|(_, id)| id).collect();
    let (events, mut seen) = tokio::sync::mpsc::channel(65_536);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let running = tokio::spawn(probes.run(events, stopped));
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        for program in
            aya::programs::loaded_programs().flatten().filter(|program| ids.contains(&program.id()))
        {
            let runs = program.run_count();
            println!(
                "program {} verified in {:?} instructions, {runs} runs of {} ns",
                program.name_as_str().unwrap_or_default(),
                program.verified_instruction_count(),
                program.run_time().as_nanos() / u128::from(runs.max(1)),
            );
        }
        stop.send_replace(true);
    });
    while let Some(event) = seen.recv().await {
        match event {
            Event::Segment(s) => {
                let pieces: Vec<_> = s.pieces.iter().map(|p| (p.offset, p.bytes.len())).collect();
                println!(
                    "{} {:?} {:?} seq {} length {} pieces {pieces:?}",
                    s.at.0, s.connection, s.direction, s.sequence, s.length
                );
            }
            other => println!("{other:?}"),
        }
    }
    running.await??;
    Ok(())
}
