//! A report as plain text: what `top --once` prints and a human replay ends with.

use super::format::{bytes, millis, p_value, percent, rate, time_of_day};
use super::panels::{flow, mark, share};
use super::state::suspects;
use super::view::{Theme, coverage, state_words};
use faultline_core::report::{Report, State as System};
use std::fmt::Write;

/// The report as text, several lines. Colours only where `theme` has some.
pub(super) fn text(report: &Report, theme: Theme) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _written = write(&mut out, report, theme);
    out
}

fn write(out: &mut String, report: &Report, theme: Theme) -> std::fmt::Result {
    let (on, off) = match (theme.coloured(), report.state) {
        (false, _) => ("", ""),
        (true, System::Incident) => ("\x1b[1;31m", "\x1b[0m"),
        (true, System::WarmingUp) => ("\x1b[33m", "\x1b[0m"),
        (true, System::Normal) => ("\x1b[32m", "\x1b[0m"),
    };
    writeln!(out, "{}  {}  {on}{}{off}", report.node, time_of_day(report.at), state_words(report))?;
    writeln!(out, "{}", coverage(report))?;
    for missing in &report.missing {
        writeln!(out, "without {}: {}; {}", missing.part, missing.reason, missing.fix)?;
    }
    if let Some(incident) = &report.incident {
        writeln!(out, "\n{on}{}{off}", incident.reason)?;
    }
    let ranked = suspects(report);
    if !ranked.is_empty() {
        writeln!(out, "\nSUSPECTS")?;
    }
    for (place, suspect) in ranked.iter().enumerate() {
        writeln!(
            out,
            "{:>2}. {:<24} {:>4}",
            place + 1,
            suspect.service,
            percent(Some(share(suspect, ranked)))
        )?;
        for evidence in &suspect.evidence {
            writeln!(out, "      {}", evidence.text)?;
        }
    }
    services(out, report)?;
    edges(out, report)
}

fn services(out: &mut String, report: &Report) -> std::fmt::Result {
    if report.services.is_empty() {
        return writeln!(out, "\nNo service was seen yet.");
    }
    writeln!(
        out,
        "\n  {:<28} {:>6} {:>6} {:>7} {:>7} {:>7} {:>6} {:>6} {:>6} {:>6}",
        "SERVICE", "1/s", "ERRORS", "P50 ms", "P95 ms", "SELF ms", "CPU m", "MEMORY", "P", "SEEN"
    )?;
    for service in &report.services {
        let row = format!(
            "{} {:<28} {:>6} {:>6} {:>7} {:>7} {:>7} {:>6} {:>6} {:>6} {:>6}  {}",
            mark(service.state),
            service.name,
            rate(service.call_rate),
            percent(service.error_ratio),
            millis(service.latency_p50_ms),
            millis(service.latency_p95_ms),
            millis(service.self_time_ms),
            rate(service.cpu_millicores),
            bytes(service.memory_bytes),
            p_value(service.p_value),
            percent(service.seen.as_ref().and_then(|seen| seen.ratio)),
            service.masked.as_deref().or(service.seen_through.as_deref()).unwrap_or_default(),
        );
        writeln!(out, "{}", row.trim_end())?;
    }
    Ok(())
}

fn edges(out: &mut String, report: &Report) -> std::fmt::Result {
    if report.edges.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n  CALLER → CALLEE (client's p50/p95 ms, failed, wire ms)")?;
    for edge in &report.edges {
        let rate = rate(edge.call_rate);
        writeln!(out, "  {} → {} ({}, {rate}/s): {}", edge.caller, edge.callee, edge.protocol, flow(edge))?;
    }
    Ok(())
}
