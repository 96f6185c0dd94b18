//! Numbers as people read them, in few characters. What was not measured is `-`.

/// What stands for a number that was not measured.
const ABSENT: &str = "-";

/// A whole number of things.
pub(super) fn whole(value: u64) -> String {
    if value < 10_000 { value.to_string() } else { rate(Some(value as f64)) }
}

/// A rate in 1/s, or another mean.
pub(super) fn rate(value: Option<f64>) -> String {
    match value {
        None => ABSENT.to_owned(),
        Some(v) if v.abs() < 0.05 => "0".to_owned(),
        Some(v) if v < 99.5 => format!("{v:.1}"),
        Some(v) if v < 9_999.5 => format!("{v:.0}"),
        Some(v) if v < 999_500.0 => format!("{:.0}k", v / 1e3),
        Some(v) => format!("{:.1}M", v / 1e6),
    }
}

/// A share, in percent.
pub(super) fn percent(ratio: Option<f64>) -> String {
    match ratio {
        None => ABSENT.to_owned(),
        Some(0.0) => "0%".to_owned(),
        Some(r) if r < 0.0995 => format!("{:.1}%", r * 100.0),
        Some(r) => format!("{:.0}%", r * 100.0),
    }
}

/// Milliseconds, without a unit below a minute: the column says it.
pub(super) fn millis(value: Option<f64>) -> String {
    match value {
        None => ABSENT.to_owned(),
        Some(v) if v < 9.995 => format!("{v:.2}"),
        Some(v) if v < 99.95 => format!("{v:.1}"),
        Some(v) if v < 60_000.0 => format!("{v:.0}"),
        Some(v) => format!("{:.0}s", v / 1e3),
    }
}

/// Bytes, in powers of 1024.
pub(super) fn bytes(value: Option<f64>) -> String {
    let Some(mut value) = value else {
        return ABSENT.to_owned();
    };
    let mut unit = "B";
    for next in ["K", "M", "G", "T"] {
        if value < 1023.5 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if value < 9.95 && unit != "B" { format!("{value:.1}{unit}") } else { format!("{value:.0}{unit}") }
}

/// A p-value.
pub(super) fn p_value(value: Option<f64>) -> String {
    match value {
        None => ABSENT.to_owned(),
        Some(p) if p < 0.001 => "<.001".to_owned(),
        Some(p) => format!("{p:.3}"),
    }
}

/// The last `width` values as bars from zero up; a gap where nothing was measured. Equal values stand at
/// half height, so that a steady service looks steady and not full.
pub(super) fn sparkline(values: &[Option<f64>], width: usize) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let values = values.get(values.len().saturating_sub(width)..).unwrap_or_default();
    let highest = values.iter().flatten().fold(0.0_f64, |highest, v| highest.max(*v));
    let lowest = values.iter().flatten().fold(f64::INFINITY, |lowest, v| lowest.min(*v));
    let top = highest.max(lowest * 2.0);
    let bar = |value: &Option<f64>| match value {
        None => ' ',
        Some(v) => {
            let place = if top > 0.0 && top.is_finite() { (v / top * 7.0).round() as usize } else { 0 };
            BARS.get(place).copied().unwrap_or('█')
        }
    };
    values.iter().map(bar).collect()
}

/// The time of day (UTC) of seconds since the Unix epoch.
pub(super) fn time_of_day(at: f64) -> String {
    let seconds = at.max(0.0) as u64 % 86_400;
    format!("{:02}:{:02}:{:02}Z", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// A length of time in seconds.
pub(super) fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// At most `width` characters, the last one an ellipsis where something was cut.
pub(super) fn fit(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain((width > 0).then_some('…')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_fit_their_columns() {
        let numbers = [None, Some(0.0), Some(0.04), Some(9.994), Some(99.6), Some(12_345.6), Some(3e6)];
        assert_eq!(numbers.map(rate), ["-", "0", "0", "10.0", "100", "12k", "3.0M"]);
        assert_eq!(numbers.map(millis), ["-", "0.00", "0.04", "9.99", "99.6", "12346", "3000s"]);
        assert_eq!(numbers.map(bytes), ["-", "0B", "0B", "10B", "100B", "12K", "2.9M"]);
        assert_eq!([0.0, 0.004, 0.5, 1.0].map(|r| percent(Some(r))), ["0%", "0.4%", "50%", "100%"]);
        assert_eq!([0.0, 0.05, 1.0].map(|p| p_value(Some(p))), ["<.001", "0.050", "1.000"]);
    }

    #[test]
    fn bars_leave_gaps_and_keep_the_newest() {
        assert_eq!(sparkline(&[Some(9.0), Some(0.0), None, Some(7.0)], 3), "▁ █");
        assert_eq!(sparkline(&[Some(5.0), Some(5.0)], 3), "▅▅");
        assert_eq!(sparkline(&[], 3), "");
    }

    #[test]
    fn cut_text_says_so() {
        assert_eq!(fit("recommendation", 6), "recom…");
        assert_eq!(fit("cart", 6), "cart");
    }
}
