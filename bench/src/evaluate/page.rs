//! The summary as one HTML page that needs nothing from elsewhere: light and dark, wide and narrow.

use super::outcome::{Findings, OURS, Outcome};
use super::plots::{self, escape};
use super::statistics::Estimate;
use super::summary::{Group, Summary};
use super::terminal::{interval, share};
use std::fmt::Write as _;

const STYLE: &str = include_str!("page.css");
/// What the generator notes; other data sets' notes are of other things.
const OURS_NOTES: [&str; 3] = ["gentle", "two at once", "gentle; two at once"];
/// Faults that were missed are listed up to so many: beyond, the JSON has them.
const MOST_MISSES: usize = 40;

/// The page.
pub(super) fn html(summary: &Summary, findings: &Findings) -> String {
    let mut body = String::new();
    head(&mut body, summary);
    methods(&mut body, summary);
    live(&mut body, summary);
    groups(&mut body, summary);
    quiet(&mut body, summary);
    calibration(&mut body, summary);
    misses(&mut body, findings);
    origin(&mut body, summary);
    format!(
        "<!doctype html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n\
         <meta name=viewport content='width=device-width, initial-scale=1'>\n<title>Faultline on {}</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n",
        escape(&summary.source)
    )
}

fn head(body: &mut String, summary: &Summary) {
    let faults = summary.all().map_or(0, |group| group.faults);
    let _ = writeln!(body, "<h1>Which service is the cause?</h1>");
    let systems = match summary.systems.len() {
        1 => summary.systems.join(""),
        count => format!("{count} systems"),
    };
    let _ = writeln!(body, "<p class=soft>{faults} faults in {}, {}</p>", escape(&systems), summary.at);
    let mut cards: Vec<(String, String)> = Vec::new();
    if let Some((_, ours)) = summary.all().and_then(|all| all.methods.first()) {
        cards.push((share(ours.ac1.value), "culprit first (AC@1)".into()));
        cards.push((share(ours.ac3.value), "among the first three".into()));
    }
    if let Some(row) = summary.detection.first() {
        cards.push((share(row.detected.value), "of the faults paged".into()));
        let seconds = row.median_seconds.map_or("-".into(), |seconds| format!("{seconds:.0} s"));
        cards.push((seconds, "to the page, median".into()));
        cards.push((share(row.right.value), "of the pages name the culprit".into()));
    }
    if let Some(row) = summary.false_pages.first() {
        cards.push((
            format!("{:.2}", row.per_hour.value),
            format!("false pages an hour, in {:.1} h", row.hours),
        ));
    }
    body.push_str("<div class=big>");
    for (number, words) in cards {
        let _ = write!(body, "<div><b>{number}</b><span>{words}</span></div>");
    }
    body.push_str("</div>\n");
}

fn methods(body: &mut String, summary: &Summary) {
    let Some(all) = summary.all() else { return };
    body.push_str("<h2>Methods on the same windows</h2>\n<p class=note>The culprit is first (AC@1), with 95 % intervals. Every method is told when the fault was, and gets the same windows before and during it.</p>\n<div class=rows>\n");
    for (method, accuracy) in &all.methods {
        body.push_str(&plots::row(method, &accuracy.ac1, 1.0, &interval(&accuracy.ac1), method == OURS));
    }
    body.push_str("</div>\n<details><summary>All metrics</summary><div class=scroll><table><tr><th>method<th>AC@1<th>AC@3<th>AC@5<th>Avg@5<th>MRR<th>ours less it, Avg@5<th>better / worse</tr>\n");
    for (method, accuracy) in &all.methods {
        let difference = summary.differences.iter().find(|difference| difference.method == *method);
        let (less, counts) = difference.map_or((String::new(), String::new()), |difference| {
            (signed(&difference.avg5), format!("{} / {}", difference.better, difference.worse))
        });
        let _ = writeln!(
            body,
            "<tr><td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{less}<td>{counts}</tr>",
            escape(method),
            interval(&accuracy.ac1),
            interval(&accuracy.ac3),
            interval(&accuracy.ac5),
            interval(&accuracy.avg5),
            interval(&accuracy.mrr)
        );
    }
    body.push_str("</table></div></details>\n");
}

fn signed(estimate: &Estimate) -> String {
    format!("{:+.3} [{:+.3}, {:+.3}]", estimate.value, estimate.low, estimate.high)
}

fn live(body: &mut String, summary: &Summary) {
    let all: Vec<_> = summary.detection.iter().filter(|row| row.by == "all").collect();
    if all.is_empty() {
        return;
    }
    body.push_str("<h2>Live: when it pages</h2>\n<p class=note>What the agent does by itself, without being told when: the recordings are replayed as they came in. A fault that begins while an incident is open cannot be paged, and is left out of the share.</p>\n<div class=plots>\n");
    let curves: Vec<(&str, &[f64], usize)> = all
        .iter()
        .map(|row| (row.method.as_str(), row.seconds.as_slice(), row.faults - row.still_open))
        .collect();
    body.push_str(&plots::time_to_page(&curves));
    body.push_str("</div>\n<div class=scroll><table><tr><th><th>faults<th>paged<th>median<th>p90<th>culprit right at the page<th>began within an incident</tr>\n");
    for row in &summary.detection {
        let first = all.first().is_some_and(|first| first.method == row.method);
        if row.by != "all" && !first {
            continue;
        }
        let seconds = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.0} s"));
        let name = if row.by == "all" { &row.method } else { &row.name };
        let _ = writeln!(
            body,
            "<tr><td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}</tr>",
            escape(name),
            row.faults,
            interval(&row.detected),
            seconds(row.median_seconds),
            seconds(row.p90_seconds),
            interval(&row.right),
            row.still_open
        );
    }
    body.push_str("</table></div>\n");
}

fn groups(body: &mut String, summary: &Summary) {
    for (by, title) in [
        ("held out", "Held out"),
        ("system", "By system"),
        ("kind", "By kind of fault"),
        ("note", "Hard ones"),
    ] {
        let groups: Vec<&Group> = summary.groups.iter().filter(|group| group.by == by).collect();
        if groups.is_empty() {
            continue;
        }
        let _ = writeln!(body, "<h2>{title}</h2>");
        if by == "held out" {
            body.push_str(
                "<p class=note>Faults of kinds and in systems of which nothing was used for training.</p>\n",
            );
        }
        body.push_str("<div class=rows>\n");
        for group in &groups {
            if let Some((_, accuracy)) = group.methods.first() {
                let label = format!("{} ({})", group.name, group.faults);
                body.push_str(&plots::row(&label, &accuracy.ac1, 1.0, &interval(&accuracy.ac1), true));
            }
        }
        body.push_str("</div>\n");
        heat(body, &groups);
    }
}

/// AC@1 of every method in every group; the better the darker.
fn heat(body: &mut String, groups: &[&Group]) {
    let Some(first) = groups.first() else { return };
    body.push_str(
        "<details><summary>Beside the other methods (AC@1)</summary><div class=scroll><table><tr><th>",
    );
    for (method, _) in &first.methods {
        let _ = write!(body, "<th>{}", escape(method));
    }
    body.push_str("</tr>\n");
    for group in groups {
        let _ = write!(body, "<tr><td>{} ({})", escape(&group.name), group.faults);
        for (_, accuracy) in &group.methods {
            let value = accuracy.ac1.value;
            let shade = if value.is_nan() { 0.0 } else { value * 0.45 };
            let _ = write!(body, "<td style='background: rgba(var(--good), {shade:.2})'>{}", share(value));
        }
        body.push_str("</tr>\n");
    }
    body.push_str("</table></div></details>\n");
}

fn quiet(body: &mut String, summary: &Summary) {
    let Some(method) = summary.false_pages.first().map(|row| &row.method) else { return };
    let rows: Vec<_> = summary.false_pages.iter().filter(|row| row.method == *method).collect();
    let most = rows.iter().map(|row| row.per_hour.value).fold(1.0, f64::max).ceil() * 2.0;
    let _ = writeln!(
        body,
        "<h2>Without a fault</h2>\n<p class=note>False pages an hour, by what was going on; the axis ends at {most:.0}. Intervals are those of a Poisson count: few minutes tell little.</p>\n<div class=rows>"
    );
    for row in &rows {
        let label = format!("{} ({:.0} min)", row.what, row.hours * 60.0);
        let said = format!("{} pages: {:.2}", row.pages, row.per_hour.value);
        body.push_str(&plots::row(&label, &row.per_hour, most, &said, row.what == "all"));
    }
    body.push_str("</div>\n");
    let reasons: Vec<&String> =
        rows.iter().filter(|row| row.what == "all").flat_map(|row| &row.reasons).collect();
    if !reasons.is_empty() {
        body.push_str("<details><summary>Each false page</summary><ul>");
        for reason in reasons {
            let _ = write!(body, "<li>{}</li>", escape(reason));
        }
        body.push_str("</ul></details>\n");
    }
}

fn calibration(body: &mut String, summary: &Summary) {
    if summary.calibration.is_empty() {
        return;
    }
    body.push_str("<h2>Does it know how sure it is?</h2>\n<p class=note>The margin is how far the first suspect leads, 1 - second / first. It is not a probability: on the dashed line it would be one. Dots are as large as their number of rankings.</p>\n<div class=plots>\n");
    for calibration in &summary.calibration {
        body.push_str(&plots::reliability(calibration));
    }
    body.push_str("</div>\n<ul class=note>");
    for calibration in &summary.calibration {
        let _ = write!(
            body,
            "<li>{}: {} rankings, Brier {:.3} [{:.3}, {:.3}], expected calibration error {:.3}</li>",
            calibration.moment,
            calibration.rankings,
            calibration.brier.value,
            calibration.brier.low,
            calibration.brier.high,
            calibration.expected_error
        );
    }
    body.push_str("</ul>\n");
}

fn misses(body: &mut String, findings: &Findings) {
    let first_is_right =
        |outcome: &&Outcome| outcome.ranking.first().is_some_and(|first| outcome.culprits.contains(first));
    let missed: Vec<&Outcome> = findings
        .outcomes
        .iter()
        .filter(|outcome| !outcome.culprits.is_empty() && !first_is_right(outcome))
        .collect();
    if missed.is_empty() {
        return;
    }
    let _ = writeln!(
        body,
        "<h2>Where it was wrong</h2>\n<div class=scroll><table><tr><th>fault<th>kind<th>culprit<th>named instead<th>culprit's place</tr>"
    );
    for outcome in missed.iter().take(MOST_MISSES) {
        let place = outcome.ranking.iter().position(|service| outcome.culprits.contains(service));
        let _ = writeln!(
            body,
            "<tr><td>{}<td>{} {}<td>{}<td>{}<td>{}</tr>",
            escape(&outcome.fault_id),
            escape(&outcome.kind),
            if OURS_NOTES.contains(&outcome.note.as_str()) {
                format!("({})", outcome.note)
            } else {
                String::new()
            },
            escape(&outcome.culprits.join(", ")),
            escape(outcome.ranking.first().map_or("nobody", String::as_str)),
            place.map_or("not ranked".to_owned(), |place| (place + 1).to_string())
        );
    }
    body.push_str("</table></div>\n");
    if missed.len() > MOST_MISSES {
        let _ = writeln!(body, "<p class=note>and {} more, in the JSON</p>", missed.len() - MOST_MISSES);
    }
}

fn origin(body: &mut String, summary: &Summary) {
    let unknown = "unknown".to_owned();
    let _ = writeln!(
        body,
        "<h2>Where this comes from</h2>\n<p class=note>Data set {}; seed {}; commit {}; model {}. AC@k: the share of faults with a culprit among the first k; Avg@5: the mean of AC@1 to AC@5; MRR: the mean of 1 / place. Intervals: Wilson for shares, bootstrap for means, 95 %. Faults of one run share its baseline, so intervals are somewhat too narrow.</p>",
        escape(&summary.source),
        summary.seed.map_or(unknown.clone(), |seed| seed.to_string()),
        escape(summary.commit.as_ref().unwrap_or(&unknown)),
        summary.model.as_deref().map_or("none", |digest| digest.get(..12).unwrap_or(digest))
    );
}
