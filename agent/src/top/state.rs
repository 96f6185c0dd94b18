//! What the user chose and what the agent last said. Keys and answers flow in; [`super::view`] reads it.
//! No colours and no positions live here.

use super::fetch::{Answer, Trouble};
use faultline_core::report::{Report, ServiceReport, ServiceState, Suspect};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use std::cmp::Ordering;

/// What follows from a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Stay,
    Leave,
}

/// What the keys go to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Focus {
    #[default]
    Table,
    /// The filter is being typed.
    Filter,
    /// The column to sort by is being chosen; the place of the marked one in [`Order::ALL`].
    Sort(usize),
    Help,
}

/// What the table is sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Order {
    /// Suspects first, by their rank; then by state and rate.
    #[default]
    Suspicion,
    Name,
    Rate,
    Errors,
    P50,
    P95,
    SelfTime,
    Cpu,
    Memory,
    PValue,
}

impl Order {
    pub(super) const ALL: [Self; 10] = [
        Self::Suspicion,
        Self::Name,
        Self::Rate,
        Self::Errors,
        Self::P50,
        Self::P95,
        Self::SelfTime,
        Self::Cpu,
        Self::Memory,
        Self::PValue,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Suspicion => "suspicion",
            Self::Name => "name",
            Self::Rate => "calls per second",
            Self::Errors => "errors",
            Self::P50 => "median latency",
            Self::P95 => "p95 latency",
            Self::SelfTime => "self time",
            Self::Cpu => "CPU",
            Self::Memory => "memory",
            Self::PValue => "p-value (smallest first)",
        }
    }

    fn compare(self, report: &Report, a: &ServiceReport, b: &ServiceReport) -> Ordering {
        let largest = |value: fn(&ServiceReport) -> Option<f64>| descending(value(a), value(b));
        match self {
            Self::Suspicion => suspicion(report, a)
                .cmp(&suspicion(report, b))
                .then_with(|| descending(a.call_rate, b.call_rate)),
            Self::Name => Ordering::Equal,
            Self::Rate => largest(|s| s.call_rate),
            Self::Errors => largest(|s| s.error_ratio),
            Self::P50 => largest(|s| s.latency_p50_ms),
            Self::P95 => largest(|s| s.latency_p95_ms),
            Self::SelfTime => largest(|s| s.self_time_ms),
            Self::Cpu => largest(|s| s.cpu_millicores),
            Self::Memory => largest(|s| s.memory_bytes),
            Self::PValue => descending(a.p_value.map(|p| -p), b.p_value.map(|p| -p)),
        }
        .then_with(|| a.name.cmp(&b.name))
    }
}

/// The largest first, what was not measured last.
fn descending(a: Option<f64>, b: Option<f64>) -> Ordering {
    b.unwrap_or(f64::NEG_INFINITY).total_cmp(&a.unwrap_or(f64::NEG_INFINITY))
}

/// Where a service stands in the order of suspicion; the rank counts only among those that look unusual.
fn suspicion(report: &Report, service: &ServiceReport) -> (usize, u8) {
    let ranked = || suspects(report).iter().position(|suspect| suspect.service == service.name);
    let rank = if report.incident.is_some() { ranked() } else { None };
    let state = match service.state {
        ServiceState::Suspect => 0,
        ServiceState::Normal | ServiceState::WarmingUp => 1,
        ServiceState::Masked => 2,
    };
    (rank.unwrap_or(usize::MAX), state)
}

/// The suspects to show: the incident's while one is open, else those of this step; who has no blame is none.
pub(super) fn suspects(report: &Report) -> &[Suspect] {
    let ranked = report.incident.as_ref().map_or(&report.ranking, |incident| &incident.ranking);
    let blamed = ranked.iter().take_while(|suspect| suspect.score > 0.0).count();
    ranked.get(..blamed).unwrap_or_default()
}

/// Everything that a picture depends on.
pub(super) struct State {
    pub(super) url: String,
    pub(super) report: Option<Report>,
    pub(super) trouble: Option<Trouble>,
    pub(super) paused: bool,
    pub(super) focus: Focus,
    pub(super) order: Order,
    pub(super) filter: String,
    /// The name under the cursor; `None`: the first row, whoever that is.
    selected: Option<String>,
    /// Rows that the table had when it was last drawn: how far a page goes.
    pub(super) page: usize,
}

impl State {
    pub(super) fn new(url: String) -> Self {
        Self {
            url,
            report: None,
            trouble: None,
            paused: false,
            focus: Focus::Table,
            order: Order::default(),
            filter: String::new(),
            selected: None,
            page: 10,
        }
    }

    /// Takes what the agent answered. A failed answer leaves the last report to be seen.
    pub(super) fn take(&mut self, answer: Answer) {
        match answer {
            Ok(_) if self.paused => self.trouble = None,
            Ok(report) => {
                self.report = Some(report);
                self.trouble = None;
            }
            Err(trouble) => self.trouble = Some(trouble),
        }
    }

    /// The rows of the table, filtered and in order.
    pub(super) fn rows(&self) -> Vec<&ServiceReport> {
        let Some(report) = &self.report else {
            return Vec::new();
        };
        let wanted = self.filter.to_lowercase();
        let mut rows: Vec<_> =
            report.services.iter().filter(|service| service.name.to_lowercase().contains(&wanted)).collect();
        rows.sort_by(|a, b| self.order.compare(report, a, b));
        rows
    }

    /// The place of the cursor among `rows`.
    pub(super) fn cursor(&self, rows: &[&ServiceReport]) -> usize {
        let wanted = self.selected.as_deref();
        rows.iter().position(|row| Some(row.name.as_str()) == wanted).unwrap_or_default()
    }

    /// Takes a key.
    pub(super) fn press(&mut self, key: KeyEvent) -> Step {
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return Step::Leave;
        }
        match self.focus.clone() {
            Focus::Table => return self.press_table(key.code),
            Focus::Filter => self.press_filter(key.code),
            Focus::Sort(marked) => self.press_sort(key.code, marked),
            Focus::Help => self.focus = Focus::Table,
        }
        Step::Stay
    }

    fn press_table(&mut self, key: KeyCode) -> Step {
        match key {
            KeyCode::Char('q') | KeyCode::F(10) => return Step::Leave,
            KeyCode::Up | KeyCode::Char('k') => self.move_by(-1),
            KeyCode::Down | KeyCode::Char('j') => self.move_by(1),
            KeyCode::PageUp => self.move_by(-self.page.cast_signed()),
            KeyCode::PageDown => self.move_by(self.page.cast_signed()),
            // Home follows whoever is first from now on, as at the start.
            KeyCode::Home | KeyCode::Char('g') => self.selected = None,
            KeyCode::End | KeyCode::Char('G') => self.move_by(isize::MAX),
            KeyCode::F(1) | KeyCode::Char('h' | '?') => self.focus = Focus::Help,
            KeyCode::F(3 | 4) | KeyCode::Char('/') => self.focus = Focus::Filter,
            KeyCode::F(6) | KeyCode::Char('s' | '>') => {
                let marked = Order::ALL.iter().position(|order| *order == self.order);
                self.focus = Focus::Sort(marked.unwrap_or_default());
            }
            KeyCode::Char(' ') => self.paused = !self.paused,
            KeyCode::Esc => self.filter.clear(),
            _ => {}
        }
        Step::Stay
    }

    fn press_filter(&mut self, key: KeyCode) {
        match key {
            KeyCode::Enter => self.focus = Focus::Table,
            KeyCode::Esc => {
                self.filter.clear();
                self.focus = Focus::Table;
            }
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char(c) => self.filter.push(c),
            _ => {}
        }
    }

    fn press_sort(&mut self, key: KeyCode, marked: usize) {
        match key {
            KeyCode::Up | KeyCode::Char('k') => self.focus = Focus::Sort(marked.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => {
                self.focus = Focus::Sort((marked + 1).min(Order::ALL.len() - 1));
            }
            KeyCode::Enter => {
                self.order = Order::ALL.get(marked).copied().unwrap_or_default();
                self.focus = Focus::Table;
            }
            KeyCode::Esc | KeyCode::F(6) | KeyCode::Char('q' | 's') => self.focus = Focus::Table,
            _ => {}
        }
    }

    fn move_by(&mut self, distance: isize) {
        let rows = self.rows();
        let last = rows.len().saturating_sub(1);
        let place = self.cursor(&rows).saturating_add_signed(distance).min(last);
        self.selected = rows.get(place).map(|row| row.name.clone());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "a test may panic")]

    use super::super::view::tests::{press, sample, typed};
    use super::*;

    fn names(state: &State) -> Vec<&str> {
        state.rows().iter().map(|row| row.name.as_str()).collect()
    }

    #[test]
    fn the_cursor_stays_on_its_service_when_the_order_changes() {
        let mut state = sample();
        assert_eq!(state.cursor(&state.rows()), 0);
        press(&mut state, KeyCode::Down);
        let under = names(&state)[1].to_owned();
        typed(&mut state, "s");
        press(&mut state, KeyCode::Down);
        press(&mut state, KeyCode::Enter);
        assert_eq!(state.order, Order::Name);
        let rows = state.rows();
        assert_eq!(rows[state.cursor(&rows)].name, under);
        assert!(names(&state).is_sorted());
    }

    #[test]
    fn a_filter_narrows_and_escape_clears_it() {
        let mut state = sample();
        let all = names(&state).len();
        typed(&mut state, "/CART");
        press(&mut state, KeyCode::Enter);
        assert_eq!(names(&state), ["redis-cart", "cart"]);
        press(&mut state, KeyCode::Esc);
        assert_eq!(names(&state).len(), all);
    }

    #[test]
    fn a_lost_agent_leaves_the_last_report_and_a_pause_keeps_it() {
        let mut state = sample();
        state.take(Err(Trouble::TooEarly { url: "http://x".to_owned() }));
        assert!(state.report.is_some() && state.trouble.is_some());
        typed(&mut state, " ");
        state.take(Ok(Report::default()));
        assert!(!names(&state).is_empty() && state.trouble.is_none());
    }

    #[test]
    fn keys_leave() {
        for key in [KeyCode::Char('q'), KeyCode::F(10)] {
            assert_eq!(sample().press(key.into()), Step::Leave);
        }
        let mut state = sample();
        typed(&mut state, "/");
        assert_eq!(state.press(KeyCode::Char('q').into()), Step::Stay);
    }
}
