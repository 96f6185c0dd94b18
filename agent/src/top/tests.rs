//! Pictures of a sample report, as a terminal would show them.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use super::*;
use crate::top::fetch::Trouble;
use crate::top::plain;
use expect_test::{ExpectFile, expect_file};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::KeyCode;

const PLAIN: Theme = Theme { coloured: false };

fn report() -> Report {
    serde_json::from_str(include_str!("../../tests/sample-report.json")).unwrap()
}

/// A state that has taken the sample report.
pub(in crate::top) fn sample() -> State {
    let mut state = State::new("http://127.0.0.1:9464".to_owned());
    state.take(Ok(report()));
    state
}

pub(in crate::top) fn press(state: &mut State, key: KeyCode) {
    state.press(key.into());
}

pub(in crate::top) fn typed(state: &mut State, text: &str) {
    text.chars().for_each(|c| press(state, KeyCode::Char(c)));
}

fn check(mut state: State, (width, height): (u16, u16), expected: &ExpectFile) {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, &mut state, &PLAIN)).unwrap();
    let buffer = terminal.backend().buffer();
    let lines = buffer.content().chunks(width.into()).map(|row| {
        row.iter().map(ratatui::buffer::Cell::symbol).collect::<String>().trim_end().to_owned() + "\n"
    });
    expected.assert_eq(&lines.collect::<String>());
}

#[test]
fn an_incident_on_a_small_terminal() {
    check(sample(), (80, 24), &expect_file!["pictures/incident-80x24.txt"]);
}

#[test]
fn an_incident_on_a_large_terminal() {
    check(sample(), (160, 50), &expect_file!["pictures/incident-160x50.txt"]);
}

#[test]
fn nothing_unusual() {
    let mut report = report();
    report.incident = None;
    report.ranking.clear();
    report.state = System::Normal;
    let mut state = State::new(String::new());
    state.take(Ok(report));
    press(&mut state, KeyCode::End);
    check(state, (80, 24), &expect_file!["pictures/normal-80x24.txt"]);
}

#[test]
fn no_agent_and_a_lost_agent() {
    let trouble = Trouble::Unreachable { url: "http://node-9:9464".to_owned(), reason: "refused".to_owned() };
    let mut state = State::new("http://node-9:9464".to_owned());
    state.take(Err(trouble.clone()));
    check(state, (80, 24), &expect_file!["pictures/unreachable-80x24.txt"]);
    let mut state = sample();
    state.take(Err(trouble));
    check(state, (80, 24), &expect_file!["pictures/lost-80x24.txt"]);
}

#[test]
fn help_sorting_and_filtering() {
    let mut state = sample();
    typed(&mut state, "?");
    check(state, (80, 24), &expect_file!["pictures/help-80x24.txt"]);
    let mut state = sample();
    press(&mut state, KeyCode::F(6));
    check(state, (80, 24), &expect_file!["pictures/sort-80x24.txt"]);
    let mut state = sample();
    typed(&mut state, "/cart");
    check(state, (80, 24), &expect_file!["pictures/filter-80x24.txt"]);
}

#[test]
fn a_terminal_that_is_too_small_is_told() {
    check(sample(), (60, 10), &expect_file!["pictures/small-60x10.txt"]);
    check(sample(), (1, 1), &expect_file!["pictures/small-1x1.txt"]);
}

#[test]
fn once_prints_plain_text() {
    expect_file!["pictures/once.txt"].assert_eq(&plain::text(&report(), PLAIN));
}

#[test]
fn an_empty_report_is_drawn() {
    let mut state = State::new(String::new());
    state.take(Ok(Report::default()));
    check(state, (80, 24), &expect_file!["pictures/empty-80x24.txt"]);
}
