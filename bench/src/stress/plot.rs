//! Shows what a search found: a table row by row, bars for a terminal, an SVG page.

use super::{Found, Step};

pub(super) const HEADER: &str = " requests/s      sent    failed    p50 ms    p95 ms";
/// Characters of the longest bar.
const WIDEST: f64 = 50.0;

pub(super) fn row(step: &Step) -> String {
    format!(
        "{:>11.1}{:>10.1}{:>8.2} %{:>10.1}{:>10.1}  {}",
        step.rate,
        step.sent_per_second,
        step.failed_share * 100.0,
        step.p50_ms,
        step.p95_ms,
        step.over.as_deref().map_or("within".to_owned(), |reason| format!("over: {reason}")),
    )
}

/// The steps by rate, with the 95th percentile as bars; `|` is the budget, `x` what is over.
pub(super) fn bars(found: &Found) -> String {
    let longest = longest(found);
    let mut text =
        format!("p95 by rate, 0 to {longest:.0} ms; the budget of {:.0} ms is |\n", found.budget.p95_ms);
    for step in by_rate(found) {
        let place = |ms: f64| places(ms / longest * WIDEST);
        let (bar, budget) = (place(step.p95_ms), place(found.budget.p95_ms));
        let fill = if step.over.is_some() { 'x' } else { '=' };
        let shown: String = (0..=places(WIDEST))
            .map(|at| {
                if at == budget {
                    '|'
                } else if at < bar {
                    fill
                } else {
                    ' '
                }
            })
            .collect();
        text.push_str(&format!("{:>9.1}/s {shown} {:.0}\n", step.rate, step.p95_ms));
    }
    text
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most the width of a bar")]
fn places(width: f64) -> usize {
    width.clamp(0.0, WIDEST).round() as usize
}

pub(super) fn verdict(found: &Found) -> String {
    let cut_off = if found.complete { "" } else { "; the search was cut off" };
    format!("{}: {}{cut_off}", found.topology, limits(found))
}

fn limits(found: &Found) -> String {
    let calls = |rate: f64| rate * found.calls_per_request;
    match (found.highest_within, found.lowest_over) {
        (Some(within), Some(over)) => format!(
            "{within:.1} requests/s (about {:.0} calls/s) are within the budget, {over:.1} are over it",
            calls(within)
        ),
        (Some(within), None) => format!(
            "{within:.1} requests/s (about {:.0} calls/s) are within the budget; no limit was reached",
            calls(within)
        ),
        (None, Some(over)) => {
            format!("even {over:.1} requests/s are over the budget; look at run/logs, or allow more")
        }
        (None, None) => "nothing was measured".into(),
    }
}

fn by_rate(found: &Found) -> Vec<&Step> {
    let mut steps: Vec<&Step> = found.steps.iter().collect();
    steps.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    steps
}

fn longest(found: &Found) -> f64 {
    found.steps.iter().map(|step| step.p95_ms).fold(found.budget.p95_ms, f64::max)
}

/// A panel of the page: where it is, in pixels, and what its axes hold.
struct Panel {
    top: f64,
    title: &'static str,
    largest: f64,
    budget: f64,
    value: fn(&Step) -> f64,
}

const WIDTH: f64 = 720.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 700.0;
const HEIGHT: f64 = 180.0;

/// Two panels over the rate: the 95th percentile and the share of failures, each with its budget.
pub(super) fn svg(found: &Found) -> String {
    let most_failed = found.steps.iter().map(|step| step.failed_share * 100.0);
    let budget = found.budget.failed_share * 100.0;
    let panels = [
        Panel {
            top: 60.0,
            title: "95th percentile, ms",
            largest: longest(found) * 1.1,
            budget: found.budget.p95_ms,
            value: |step| step.p95_ms,
        },
        Panel {
            top: 300.0,
            title: "failed, %",
            largest: most_failed.fold(2.0 * budget, f64::max).max(0.1) * 1.1,
            budget,
            value: |step| step.failed_share * 100.0,
        },
    ];
    let steps = by_rate(found);
    let fastest = steps.last().map_or(1.0, |step| step.rate) * 1.05;
    let x = |rate: f64| LEFT + (RIGHT - LEFT) * rate / fastest;
    let mut page = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} 540\" font-family=\"sans-serif\" \
         font-size=\"12\"><rect width=\"100%\" height=\"100%\" fill=\"white\"/>\
         <text x=\"{LEFT}\" y=\"24\" font-weight=\"bold\">{}</text>\n",
        verdict(found)
    );
    for panel in &panels {
        page.push_str(&draw(panel, &steps, &x));
    }
    let apart = round_step(fastest);
    let marks = (0..=MOST_MARKS).map(|mark| f64::from(mark) * apart);
    for rate in marks.take_while(|&rate| rate <= fastest) {
        let at = x(rate);
        page.push_str(&format!("<text x=\"{at:.1}\" y=\"500\" text-anchor=\"middle\">{rate}</text>"));
    }
    page.push_str("<text x=\"385\" y=\"525\" text-anchor=\"middle\">user requests a second</text></svg>\n");
    page
}

/// Marks on the axis of rates, at most.
const MOST_MARKS: u32 = 8;

/// The smallest of 1, 2, 5, 10, ... (or 0.1, 0.2, ...) that makes few enough marks up to a value.
fn round_step(up_to: f64) -> f64 {
    let steps = (-1..6).flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10_f64.powi(power)));
    steps.into_iter().find(|step| up_to / step <= f64::from(MOST_MARKS)).unwrap_or(up_to)
}

fn draw(panel: &Panel, steps: &[&Step], x: &dyn Fn(f64) -> f64) -> String {
    let y = |value: f64| panel.top + HEIGHT * (1.0 - value / panel.largest);
    let mut drawn = format!(
        "<text x=\"{LEFT}\" y=\"{:.1}\">{}</text>\
         <rect x=\"{LEFT}\" y=\"{}\" width=\"{}\" height=\"{HEIGHT}\" fill=\"none\" stroke=\"#999\"/>\
         <line x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{budget:.1}\" y2=\"{budget:.1}\" stroke=\"#c60\" stroke-dasharray=\"6 4\"/>\n",
        panel.top - 8.0,
        panel.title,
        panel.top,
        RIGHT - LEFT,
        budget = y(panel.budget),
    );
    for value in [0.0, panel.budget, panel.largest / 1.1] {
        drawn.push_str(&format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{value:.1}</text>",
            LEFT - 6.0,
            y(value) + 4.0
        ));
    }
    let points: Vec<String> =
        steps.iter().map(|step| format!("{:.1},{:.1}", x(step.rate), y((panel.value)(step)))).collect();
    drawn.push_str(&format!("<polyline points=\"{}\" fill=\"none\" stroke=\"#357\"/>", points.join(" ")));
    for step in steps {
        let colour = if step.over.is_some() { "#c22" } else { "#284" };
        drawn.push_str(&format!(
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"{colour}\"><title>{:.1} requests/s: {:.1}</title></circle>",
            x(step.rate),
            y((panel.value)(step)),
            step.rate,
            (panel.value)(step)
        ));
    }
    drawn.push('\n');
    drawn
}

#[cfg(test)]
mod tests {
    use super::super::Budget;
    use super::*;

    fn found() -> Found {
        let step = |rate, p95_ms, over: Option<&str>| Step {
            rate,
            sent_per_second: rate,
            failed_share: 0.0,
            p50_ms: 1.0,
            p95_ms,
            over: over.map(str::to_owned),
        };
        Found {
            topology: "shop".into(),
            budget: Budget { failed_share: 0.01, p95_ms: 100.0 },
            calls_per_request: 7.0,
            highest_within: Some(40.0),
            lowest_over: Some(60.0),
            complete: true,
            steps: vec![step(40.0, 50.0, None), step(60.0, 200.0, Some("p95 200 ms"))],
        }
    }

    #[test]
    fn rows_bars_and_verdict() {
        let found = found();
        assert!(
            bars(&found).contains(&format!("60.0/s {}|{}", "x".repeat(25), "x".repeat(24))),
            "{}",
            bars(&found)
        );
        assert!(
            verdict(&found)
                .contains("40.0 requests/s (about 280 calls/s) are within the budget, 60.0 are over")
        );
        assert!(!verdict(&found).contains("cut off"));
        assert!(
            verdict(&Found { complete: false, ..found.clone() })
                .ends_with("are over it; the search was cut off")
        );
        assert_eq!(found.steps.iter().map(|step| row(step).len() > 50).collect::<Vec<_>>(), [true, true]);
    }

    #[test]
    fn marks_are_round_numbers() {
        for (up_to, step) in [(179.0, 50.0), (8.0, 1.0), (9.0, 2.0), (0.5, 0.1)] {
            assert!((round_step(up_to) - step).abs() < 1e-9, "{up_to}: {}", round_step(up_to));
        }
    }

    #[test]
    fn the_page_has_each_step_in_both_panels() {
        let page = svg(&found());
        assert_eq!(page.matches("<circle").count(), 4);
        assert_eq!(page.matches("#c22").count(), 2);
        assert!(page.starts_with("<svg") && page.trim_end().ends_with("</svg>") && !page.contains("NaN"));
    }
}
