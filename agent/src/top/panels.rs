//! The three panels: suspects with their evidence, the table of services, and the graph around one service.

use super::format::{bytes, fit, millis, p_value, percent, rate, sparkline};
use super::state::{Order, suspects as suspects_of};
use super::view::Theme;
use faultline_core::report::{EdgeReport, Report, ServiceReport, ServiceState, Suspect};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Row, Table, TableState};

/// Columns of a suspect's name and share of blame, before its evidence.
const SUSPECT_COLUMNS: usize = 29;

/// The suspects, best first, with their evidence: the first with all that fits, the others with a line each.
pub(super) fn suspects(frame: &mut Frame<'_>, area: Rect, report: &Report, theme: Theme) {
    let title = match &report.incident {
        Some(incident) => format!(" Suspects: {} ", incident.reason),
        None => " Suspects: no incident ".to_owned(),
    };
    let block = headed(fit(&title, area.width.into()), theme);
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let ranked = suspects_of(report);
    if ranked.is_empty() {
        let text = "Nothing looks unusual.";
        return frame.render_widget(Paragraph::new(text).style(theme.faint()), inner);
    }
    let height = usize::from(inner.height);
    let room = height.saturating_sub(ranked.len().min(3)).max(1);
    let mut lines = Vec::new();
    for (place, suspect) in ranked.iter().enumerate() {
        let most = if place == 0 { room } else { height.div_ceil(4) };
        let alarming = report.incident.is_some() && place == 0;
        lines.extend(suspect_lines(
            place + 1,
            suspect,
            share(suspect, ranked),
            most,
            inner.width,
            alarming,
            theme,
        ));
    }
    lines.truncate(height);
    frame.render_widget(Paragraph::new(lines), inner);
}

/// A suspect's share of all blame, 0..1.
pub(super) fn share(suspect: &Suspect, ranked: &[Suspect]) -> f64 {
    let all: f64 = ranked.iter().map(|suspect| suspect.score.max(0.0)).sum();
    if all > 0.0 { suspect.score.max(0.0) / all } else { 0.0 }
}

fn suspect_lines(
    rank: usize,
    suspect: &Suspect,
    share: f64,
    most: usize,
    width: u16,
    alarming: bool,
    theme: Theme,
) -> Vec<Line<'static>> {
    let style = if alarming { theme.alarm() } else { Style::new() };
    let room = usize::from(width).saturating_sub(SUSPECT_COLUMNS);
    let head = format!("{rank:>2} {:<18} {:>4}   ", fit(&suspect.service, 18), percent(Some(share)));
    let mut evidence = suspect.evidence.iter().map(|evidence| fit(&evidence.text, room));
    let mut lines = vec![Line::from(vec![
        Span::styled(head, style),
        Span::raw(evidence.next().unwrap_or_else(|| "no evidence of its own".to_owned())),
    ])];
    let more = evidence.take(most.saturating_sub(1));
    lines.extend(more.map(|text| Line::raw(format!("{:SUSPECT_COLUMNS$}{text}", ""))));
    lines
}

/// The table of services.
pub(super) fn services(
    frame: &mut Frame<'_>,
    area: Rect,
    rows: &[&ServiceReport],
    cursor: usize,
    order: Order,
    theme: Theme,
) {
    let block = headed(format!(" Services by {} ", order.name()), theme);
    let wide = area.width >= 110;
    let name = if wide { 30 } else { 17 };
    let trend = usize::from(area.width).saturating_sub(if wide { 30 + 77 } else { 17 + 54 });
    let head = ["  service", "rate", "err", "p50", "p95", "self", "cpu", "mem", "p"];
    let mut widths: Vec<u16> = vec![name, 5, 5, 6, 6, 6, 5, 5, 5];
    let mut head: Vec<&str> = head.to_vec();
    if wide {
        head.extend(["score", "seen", "in flight"]);
        widths.extend([6, 5, 9]);
    }
    head.push("p95 lately");
    let head = head.into_iter().enumerate().map(|(place, name)| {
        let text = Line::raw(name);
        Cell::from(if place == 0 || name == "p95 lately" { text } else { text.right_aligned() })
    });
    let constraints = widths
        .iter()
        .copied()
        .map(Constraint::Length)
        .chain([Constraint::Min(u16::try_from(trend).unwrap_or(8))]);
    let body = rows.iter().map(|service| service_row(service, name.into(), wide, trend, theme));
    let table = Table::new(body, constraints)
        .header(Row::new(head).style(theme.faint()))
        .column_spacing(1)
        .row_highlight_style(theme.cursor())
        .block(block);
    let mut place = TableState::new().with_selected((!rows.is_empty()).then_some(cursor));
    frame.render_stateful_widget(table, area, &mut place);
}

/// The mark of a service's state, for those who see no colours too.
pub(super) fn mark(state: ServiceState) -> char {
    match state {
        ServiceState::Suspect => '!',
        ServiceState::WarmingUp => '~',
        ServiceState::Masked => '?',
        ServiceState::Normal => ' ',
    }
}

fn service_row(service: &ServiceReport, name: usize, wide: bool, trend: usize, theme: Theme) -> Row<'static> {
    let mut numbers = vec![
        rate(service.call_rate),
        percent(service.error_ratio),
        millis(service.latency_p50_ms),
        millis(service.latency_p95_ms),
        millis(service.self_time_ms),
        rate(service.cpu_millicores),
        bytes(service.memory_bytes),
        p_value(service.p_value),
    ];
    if wide {
        numbers.push(service.score.map_or_else(|| "-".to_owned(), |score| format!("{score:.2}")));
        numbers.push(percent(service.seen.as_ref().and_then(|seen| seen.ratio)));
        numbers.push(rate(service.in_flight));
    }
    let first = fit(&format!("{} {}", mark(service.state), service.name), name);
    let last = match &service.masked {
        Some(reason) => fit(reason, trend),
        None => sparkline(&service.trend, trend),
    };
    let cells = [Cell::from(first)]
        .into_iter()
        .chain(numbers.into_iter().map(|number| Cell::from(Line::raw(number).right_aligned())))
        .chain([Cell::from(last)]);
    Row::new(cells).style(theme.of_service(service.state))
}

/// The graph around one service: callers on the left, callees on the right, with what flows between.
pub(super) fn neighbours(
    frame: &mut Frame<'_>,
    area: Rect,
    report: &Report,
    selected: Option<&str>,
    theme: Theme,
) {
    let Some(selected) = selected else {
        return frame.render_widget(headed(" Graph ".to_owned(), theme), area);
    };
    let block = headed(" Graph: client's p50/p95 ms, failed, wire ms ".to_owned(), theme);
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let middle_width = u16::try_from(selected.chars().count()).unwrap_or(u16::MAX).min(inner.width / 5);
    let [left, middle, right] =
        Layout::horizontal([Constraint::Fill(1), Constraint::Length(middle_width), Constraint::Fill(1)])
            .areas(inner);
    let callers = report.edges.iter().filter(|edge| edge.callee == selected);
    let callees = report.edges.iter().filter(|edge| edge.caller == selected);
    let half = usize::from(left.width);
    let callers = callers.map(|edge| {
        let flow = flow(edge);
        let name = half.saturating_sub(flow.chars().count() + 6);
        format!("{} {flow} ─► ", fit(&edge.caller, name))
    });
    let callees = callees.map(|edge| {
        let flow = flow(edge);
        let name = half.saturating_sub(flow.chars().count() + 6);
        format!(" ─► {flow} {}", fit(&edge.callee, name))
    });
    let height = usize::from(inner.height);
    let name = fit(selected, middle_width.into());
    frame.render_widget(
        Paragraph::new(within(callers.collect(), height, "nobody calls it")).right_aligned(),
        left,
    );
    frame.render_widget(Paragraph::new(Line::styled(name, theme.title())), middle);
    frame.render_widget(Paragraph::new(within(callees.collect(), height, "it calls nobody")), right);
}

/// What flows over an edge: latency, failures, wire time.
pub(super) fn flow(edge: &EdgeReport) -> String {
    let failed = percent(edge.error_ratio);
    format!(
        "{}/{} {failed} {}",
        millis(edge.client_p50_ms),
        millis(edge.client_p95_ms),
        millis(edge.wire_time_ms)
    )
}

fn within(mut lines: Vec<String>, height: usize, nobody: &str) -> Vec<Line<'static>> {
    if lines.is_empty() {
        lines.push(format!(" {nobody} "));
    }
    if lines.len() > height && height > 0 {
        let hidden = lines.len() - height + 1;
        lines.truncate(height - 1);
        lines.push(format!(" ... and {hidden} more "));
    }
    lines.into_iter().map(Line::raw).collect()
}

fn headed(title: String, theme: Theme) -> Block<'static> {
    Block::new().borders(Borders::TOP).border_style(theme.faint()).title(Line::styled(title, theme.title()))
}
