//! Draws a [`State`]: where each panel goes, and in which colours. What is in the panels is
//! [`super::panels`]'s.

use super::format::{duration, fit, time_of_day, whole};
use super::panels;
use super::state::{Focus, Order, State, suspects};
use faultline_core::report::{Report, ServiceState, State as System};
use ratatui::Frame;
use ratatui::layout::{Constraint, Flex, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Wrap};
use std::io::{IsTerminal, stdout};

/// The smallest terminal in which every panel is of use.
const SMALLEST: (u16, u16) = (80, 24);

/// The styles of the picture, all plain where colours are not wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Theme {
    coloured: bool,
}

impl Theme {
    /// Colours only on a terminal, and not where `NO_COLOR` is set (no-color.org).
    pub(super) fn of_output() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { coloured: stdout().is_terminal() && !refused }
    }

    pub(super) fn coloured(self) -> bool {
        self.coloured
    }

    fn colour(self, colour: Color) -> Style {
        if self.coloured { Style::new().fg(colour) } else { Style::new() }
    }

    pub(super) fn alarm(self) -> Style {
        self.colour(Color::Red).add_modifier(Modifier::BOLD)
    }

    pub(super) fn doubt(self) -> Style {
        self.colour(Color::Yellow)
    }

    pub(super) fn fine(self) -> Style {
        self.colour(Color::Green)
    }

    pub(super) fn title(self) -> Style {
        self.colour(Color::Cyan).add_modifier(Modifier::BOLD)
    }

    pub(super) fn faint(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    pub(super) fn cursor(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    pub(super) fn of_service(self, state: ServiceState) -> Style {
        match state {
            ServiceState::Suspect => self.alarm(),
            ServiceState::Normal => Style::new(),
            ServiceState::WarmingUp | ServiceState::Masked => self.faint(),
        }
    }
}

/// Draws everything; notes in `state` how many rows the table has.
pub(super) fn draw(frame: &mut Frame<'_>, state: &mut State, theme: &Theme) {
    let area = frame.area();
    if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
        return too_small(frame, area);
    }
    let suspects_height = match &state.report {
        Some(report) if report.incident.is_none() && suspects(report).is_empty() => 2,
        _ if area.height >= 40 => 12,
        _ => 7,
    };
    let graph_height = if area.height >= 40 { 9 } else { 6 };
    let [head, top, table, graph, foot] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(suspects_height),
        Constraint::Min(5),
        Constraint::Length(graph_height),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(Paragraph::new(header(state, area.width, *theme)), head);
    match &state.report {
        None => waiting(frame, Rect { height: area.height - 3, y: 2, ..area }, state),
        Some(report) => {
            let rows = state.rows();
            let cursor = state.cursor(&rows);
            panels::suspects(frame, top, report, *theme);
            panels::services(frame, table, &rows, cursor, state.order, *theme);
            panels::neighbours(frame, graph, report, rows.get(cursor).map(|row| row.name.as_str()), *theme);
            state.page = usize::from(table.height.saturating_sub(2)).max(1);
        }
    }
    frame.render_widget(Paragraph::new(footer(state, *theme)), foot);
    match state.focus {
        Focus::Help => help(frame, area),
        Focus::Sort(marked) => choose_order(frame, area, marked, *theme),
        Focus::Table | Focus::Filter => {}
    }
}

fn too_small(frame: &mut Frame<'_>, area: Rect) {
    let text = format!(
        "This terminal is {}x{}; top needs {}x{}. Make it larger, leave with q, or use `faultline top --once`.",
        area.width, area.height, SMALLEST.0, SMALLEST.1
    );
    frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), area);
}

fn waiting(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let text = match &state.trouble {
        Some(trouble) => format!("{trouble}\n\nTrying again every second."),
        None => format!("Asking {} ...", state.url),
    };
    frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }).block(Block::bordered()), area);
}

fn header(state: &State, width: u16, theme: Theme) -> Vec<Line<'static>> {
    let Some(report) = &state.report else {
        return vec![Line::styled("faultline", theme.title())];
    };
    let mut first = vec![
        Span::styled("faultline ", theme.title()),
        Span::raw(format!("{}  ", report.node)),
        system_state(report, theme),
        Span::styled(format!("  {}  step {} s", time_of_day(report.at), report.step_seconds), theme.faint()),
    ];
    if state.paused {
        first.push(Span::styled("  PAUSED", theme.doubt()));
    }
    let second = match &state.trouble {
        Some(trouble) => {
            Line::styled(fit(&format!("NO ANSWER, trying again: {trouble}"), width.into()), theme.alarm())
        }
        None => Line::styled(fit(&coverage(report), width.into()), theme.faint()),
    };
    vec![Line::from(first), second]
}

/// The state in a few words: what an operator looks for first.
pub(super) fn state_words(report: &Report) -> String {
    match (&report.incident, report.state) {
        (Some(incident), _) => {
            format!("INCIDENT {} for {}", incident.id, duration(report.at - incident.opened_at))
        }
        (None, System::WarmingUp) => {
            format!("warming up {}/{} steps", report.baseline.steps, report.baseline.needed)
        }
        (None, _) => "normal".to_owned(),
    }
}

fn system_state(report: &Report, theme: Theme) -> Span<'static> {
    let style = match report.state {
        System::Incident => theme.alarm(),
        System::WarmingUp => theme.doubt(),
        System::Normal => theme.fine(),
    };
    Span::styled(state_words(report), style)
}

/// What was seen and what was not, in one line.
pub(super) fn coverage(report: &Report) -> String {
    let seen = &report.coverage;
    let connections: Vec<String> =
        seen.connections.iter().filter(|(_, n)| **n > 0).map(|(kind, n)| format!("{n} {kind}")).collect();
    let lost: u64 = seen.lost.values().sum();
    let mut text = format!("{} calls", whole(seen.calls));
    if !connections.is_empty() {
        text += &format!(", connections: {}", connections.join(" "));
    }
    text += &if lost == 0 {
        ", nothing lost".to_owned()
    } else {
        format!(", LOST {}: {}", whole(lost), losses(report))
    };
    if seen.unknown_status > 0 {
        text += &format!(", {} without status", whole(seen.unknown_status));
    }
    if !report.missing.is_empty() {
        let parts: Vec<_> = report.missing.iter().map(|missing| missing.part.as_str()).collect();
        text += &format!(", missing: {}", parts.join(" "));
    }
    text
}

fn losses(report: &Report) -> String {
    let mut lost: Vec<_> = report.coverage.lost.iter().filter(|(_, n)| **n > 0).collect();
    lost.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
    lost.iter().map(|(reason, n)| format!("{n} {reason}")).collect::<Vec<_>>().join(" ")
}

fn footer(state: &State, theme: Theme) -> Line<'static> {
    if state.focus == Focus::Filter {
        return Line::from(vec![
            Span::styled("Filter: ", theme.title()),
            Span::raw(format!("{}_", state.filter)),
        ]);
    }
    let mut keys = Vec::new();
    for (key, meaning) in [
        ("F1", "Help"),
        ("/", "Filter"),
        ("F6", "Sort"),
        ("Space", "Pause"),
        ("↑↓", "Select"),
        ("F10", "Quit"),
    ] {
        keys.push(Span::raw(key));
        keys.push(Span::styled(format!("{meaning} "), theme.cursor()));
    }
    if !state.filter.is_empty() {
        keys.push(Span::styled(format!(" filter: {} (Esc clears)", state.filter), theme.doubt()));
    }
    Line::from(keys)
}

fn help(frame: &mut Frame<'_>, area: Rect) {
    let text = "\
 ↑ ↓ j k        select a service        PgUp PgDn Home End
 F6 s           choose what to sort by  (Home follows the first row)
 / F4           filter by name, Enter keeps it, Esc clears it
 Space          pause and go on
 F10 q Ctrl-C   leave

 Services: ! unusual   ~ warming up   ? not fully seen, so not judged
 rate 1/s, p50 p95 self in ms (server side; self: less what callees took),
 cpu in thousandths of a core, p: share of normal steps that look as odd
 Graph: callers → the selected service → callees, with the client's p50
 and p95, failed share and time on the wire

 Any key closes this.";
    popup(frame, area, " Help ", text.lines().map(|line| Line::raw(line.to_owned())).collect());
}

fn choose_order(frame: &mut Frame<'_>, area: Rect, marked: usize, theme: Theme) {
    let lines = Order::ALL.iter().enumerate().map(|(place, order)| {
        let style = if place == marked { theme.cursor() } else { Style::new() };
        Line::styled(format!(" {:<26}", order.name()), style)
    });
    popup(frame, area, " Sort by: Enter takes, Esc leaves ", lines.collect());
}

fn popup(frame: &mut Frame<'_>, area: Rect, title: &str, lines: Vec<Line<'static>>) {
    let width = lines.iter().map(Line::width).max().unwrap_or_default().max(title.chars().count()) + 2;
    let size = |length: usize| Constraint::Length(u16::try_from(length).unwrap_or(u16::MAX));
    let [row] = Layout::vertical([size(lines.len() + 2)]).flex(Flex::Center).areas(area);
    let [place] = Layout::horizontal([size(width)]).flex(Flex::Center).areas(row);
    frame.render_widget(Clear, place);
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(title.to_owned())), place);
}

#[cfg(test)]
#[path = "tests.rs"]
pub(super) mod tests;
