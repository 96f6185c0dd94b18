//! The summary as a table for a terminal; colours only there.

use super::outcome::OURS;
use super::statistics::{Accuracy, Estimate};
use super::summary::Summary;
use std::fmt::Write as _;
use std::io::IsTerminal as _;

/// The table.
pub(super) fn table(summary: &Summary) -> String {
    let mut text = String::new();
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let head =
        |title: &str| if colours { format!("\n\x1b[1m{title}\x1b[0m\n") } else { format!("\n{title}\n") };
    let commit = summary.commit.as_deref().unwrap_or("unknown");
    let seed = summary.seed.map_or(String::new(), |seed| format!(", seed {seed}"));
    let _ = writeln!(text, "{} on {}, commit {commit}{seed}", summary.source, summary.at);
    if let Some(all) = summary.all() {
        text += &head(&format!("Ranking, {} faults", all.faults));
        let _ = writeln!(
            text,
            "{:24} {:19} {:>5} {:>5} {:>5} {:>5}",
            "", "AC@1 [95 %]", "AC@3", "AC@5", "Avg@5", "MRR"
        );
        for (method, accuracy) in &all.methods {
            let _ = writeln!(text, "{method:24} {}", row(accuracy));
        }
        for by in ["held out", "system", "kind", "note"] {
            let groups: Vec<_> = summary.groups.iter().filter(|group| group.by == by).collect();
            if !groups.is_empty() {
                text += &head(&format!("{OURS}, by {by}"));
            }
            for group in groups {
                if let Some((_, accuracy)) = group.methods.first() {
                    let name = format!("{} ({})", group.name, group.faults);
                    let _ = writeln!(text, "{name:24} {}", row(accuracy));
                }
            }
        }
    }
    detection(&mut text, summary, &head);
    false_pages(&mut text, summary, &head);
    for calibration in &summary.calibration {
        text += &head(&format!(
            "Margin {}: Brier {:.3} [{:.3}, {:.3}], expected calibration error {:.3}",
            calibration.moment,
            calibration.brier.value,
            calibration.brier.low,
            calibration.brier.high,
            calibration.expected_error
        ));
        for bin in calibration.bins.iter().filter(|bin| bin.rankings > 0) {
            let _ = writeln!(
                text,
                "{:.1} to {:.1} ({:3})           right {}",
                bin.from,
                bin.to,
                bin.rankings,
                interval(&bin.right)
            );
        }
    }
    text
}

fn detection(text: &mut String, summary: &Summary, head: &dyn Fn(&str) -> String) {
    if summary.detection.is_empty() {
        return;
    }
    *text += &head("Live: detected, time to page, culprit right at the page");
    for row in &summary.detection {
        if row.by != "all" && Some(&row.method) != summary.detection.first().map(|first| &first.method) {
            continue;
        }
        let name = if row.by == "all" { row.method.clone() } else { format!("  {}", row.name) };
        let seconds = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.0} s"));
        let _ = writeln!(
            text,
            "{:24} {:19} median {:>5} p90 {:>5}  right {}{}",
            format!("{name} ({})", row.faults),
            interval(&row.detected),
            seconds(row.median_seconds),
            seconds(row.p90_seconds),
            interval(&row.right),
            if row.still_open > 0 {
                format!("  {} began within an incident", row.still_open)
            } else {
                String::new()
            }
        );
    }
}

fn false_pages(text: &mut String, summary: &Summary, head: &dyn Fn(&str) -> String) {
    if summary.false_pages.is_empty() {
        return;
    }
    *text += &head("Without a fault: false pages an hour");
    for row in &summary.false_pages {
        let name = if row.what == "all" { row.method.clone() } else { format!("  {}", row.what) };
        let _ = writeln!(
            text,
            "{name:24} {:3} in {:5.2} h: {:.2} [{:.2}, {:.2}]",
            row.pages, row.hours, row.per_hour.value, row.per_hour.low, row.per_hour.high
        );
    }
}

fn row(accuracy: &Accuracy) -> String {
    format!(
        "{:19} {:>5} {:>5} {:>5} {:>5}",
        interval(&accuracy.ac1),
        share(accuracy.ac3.value),
        share(accuracy.ac5.value),
        share(accuracy.avg5.value),
        share(accuracy.mrr.value)
    )
}

/// A share with its interval; `-` where there is nothing to share.
pub(crate) fn interval(estimate: &Estimate) -> String {
    if estimate.value.is_nan() {
        return "-".to_owned();
    }
    format!("{} [{}, {}]", share(estimate.value), share(estimate.low), share(estimate.high))
}

/// `.875`, `1.00`.
pub(super) fn share(value: f64) -> String {
    if value.is_nan() {
        return "-".to_owned();
    }
    let text = format!("{value:.3}");
    match text.strip_prefix("0.") {
        Some(rest) => format!(".{rest}"),
        None => format!("{value:.2}"),
    }
}
