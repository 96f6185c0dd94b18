//! Drawings as SVG inside of HTML: numbers flow in, markup flows out. Rows with an interval are as wide as
//! the page is, so their labels stay text of the page and readable on a phone; the two square plots scale.

use super::statistics::Estimate;
use super::summary::Calibration;
use std::fmt::Write as _;

/// Height of a row's drawing, pixels.
const ROW: u32 = 18;
/// Size of a square plot with its margins, in its own units.
const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 36.0;
const BOTTOM: f64 = 34.0;

/// A labelled row: the interval as a line, the estimate as a dot, on an axis from 0 to `most`.
pub(super) fn row(label: &str, estimate: &Estimate, most: f64, said: &str, strong: bool) -> String {
    let percent = |value: f64| (value / most * 96.0 + 2.0).clamp(2.0, 98.0);
    let class = if strong { "row ours" } else { "row" };
    let mut drawing = String::new();
    for share in [0.0, 0.25, 0.5, 0.75, 1.0] {
        let x = percent(share * most);
        let _ = write!(drawing, "<line class=grid x1='{x:.1}%' x2='{x:.1}%' y1=0 y2={ROW} />");
    }
    if !estimate.value.is_nan() {
        let middle = ROW / 2;
        let _ = write!(
            drawing,
            "<line class=whisker x1='{:.1}%' x2='{:.1}%' y1={middle} y2={middle} /><circle class=dot cx='{:.1}%' cy={middle} r=5 />",
            percent(estimate.low),
            percent(estimate.high),
            percent(estimate.value)
        );
    }
    format!(
        "<div class='{class}'><span class=label>{}</span><svg width='100%' height={ROW} aria-hidden=true>{drawing}</svg>\
         <span class=said>{said}</span></div>\n",
        escape(label)
    )
}

/// Share of faults paged by so many seconds.
pub(super) fn time_to_page(lines: &[(&str, &[f64], usize)]) -> String {
    let most = lines.iter().flat_map(|(_, seconds, _)| seconds.iter().copied()).fold(30.0_f64, f64::max);
    let most = (most / 10.0).ceil() * 10.0;
    let mut drawing = axes("seconds after the injection", &[0.0, most / 2.0, most], most);
    for (place, (_, seconds, faults)) in lines.iter().enumerate() {
        let mut path = format!("M {:.1} {:.1}", x(0.0), y(0.0));
        for (number, second) in seconds.iter().enumerate() {
            let before = number as f64 / (*faults).max(1) as f64;
            let after = (number + 1) as f64 / (*faults).max(1) as f64;
            let at = x(second / most);
            let _ = write!(path, " L {at:.1} {:.1} L {at:.1} {:.1}", y(before), y(after));
        }
        let last = seconds.len() as f64 / (*faults).max(1) as f64;
        let _ = write!(path, " L {:.1} {:.1}", x(1.0), y(last));
        let _ = write!(drawing, "<path class='curve line{place}' d='{path}' />");
    }
    square("Share of the faults that were paged, by time", &drawing)
}

/// Share right against the margin, with the diagonal on which a probability would lie.
pub(super) fn reliability(calibration: &Calibration) -> String {
    let mut drawing = axes("margin", &[0.0, 0.5, 1.0], 1.0);
    let _ = write!(
        drawing,
        "<line class=diagonal x1={:.1} y1={:.1} x2={:.1} y2={:.1} />",
        x(0.0),
        y(0.0),
        x(1.0),
        y(1.0)
    );
    for bin in calibration.bins.iter().filter(|bin| bin.rankings > 0) {
        let at = x(bin.mean_margin);
        let radius = 3.0 + (bin.rankings as f64).sqrt();
        let _ = write!(
            drawing,
            "<line class=whisker x1={at:.1} x2={at:.1} y1={:.1} y2={:.1} />\
             <circle class=dot cx={at:.1} cy={:.1} r={radius:.1}><title>{} rankings</title></circle>",
            y(bin.right.low),
            y(bin.right.high),
            y(bin.right.value),
            bin.rankings
        );
    }
    square(&format!("Share right by margin, {}", calibration.moment), &drawing)
}

fn x(share: f64) -> f64 {
    LEFT + share * (WIDTH - LEFT - 10.0)
}

fn y(share: f64) -> f64 {
    HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - 10.0)
}

/// Lines and numbers of a plot whose upright axis is a share.
fn axes(across: &str, ticks: &[f64], most: f64) -> String {
    let mut drawing = String::new();
    for share in [0.0, 0.25, 0.5, 0.75, 1.0] {
        let _ = write!(
            drawing,
            "<line class=grid x1={:.1} x2={:.1} y1={at:.1} y2={at:.1} /><text x={:.1} y={:.1} text-anchor=end>{share}</text>",
            x(0.0),
            x(1.0),
            LEFT - 5.0,
            y(share) + 4.0,
            at = y(share),
        );
    }
    for tick in ticks {
        let _ = write!(
            drawing,
            "<text x={:.1} y={:.1} text-anchor=middle>{tick}</text>",
            x(tick / most),
            HEIGHT - BOTTOM + 14.0
        );
    }
    let _ = write!(drawing, "<text x={:.1} y={:.1} text-anchor=middle>{across}</text>", x(0.5), HEIGHT - 2.0);
    drawing
}

fn square(title: &str, drawing: &str) -> String {
    format!(
        "<figure><figcaption>{title}</figcaption><svg class=plot viewBox='0 0 {WIDTH} {HEIGHT}' role=img \
         aria-label='{title}'>{drawing}</svg></figure>\n"
    )
}

/// Text that cannot be taken for markup.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('\'', "&#39;")
        .replace('"', "&quot;")
}
