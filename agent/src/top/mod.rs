//! Reports flow in from an agent's HTTP port; a picture of them flows out to the terminal, or plain text, or
//! the report as it is. [`fetch`] asks, [`state`] remembers what the user chose, [`view`] draws.

mod fetch;
mod format;
mod panels;
mod plain;
mod state;
mod view;

use crate::cli::TopFlags;
use anyhow::Context;
use faultline_core::report::Report;
use fetch::{Agent, Poller};
use ratatui::crossterm::event;
use ratatui::crossterm::event::Event;
use state::{State, Step};
use std::io::{IsTerminal, Write, stdout};
use std::time::Duration;

/// The longest time between a report's arrival and its picture.
const REDRAW: Duration = Duration::from_millis(100);

/// Shows what an agent says, once or until the user leaves.
///
/// # Errors
/// When the agent does not answer (`--once`, `--json`), or there is no terminal to draw on.
pub fn run(flags: &TopFlags) -> anyhow::Result<()> {
    let agent = Agent::at(&flags.url);
    if flags.json {
        let text = agent.wait_for_text()?;
        return print(text.trim_end());
    }
    if flags.once {
        return print(plain_text(&agent.wait_for_report()?).trim_end());
    }
    if !stdout().is_terminal() {
        anyhow::bail!("standard output is no terminal; use `faultline top --once` or `--json` here");
    }
    let mut terminal =
        ratatui::try_init().context("cannot draw on this terminal; try `faultline top --once`")?;
    let result = live(&mut terminal, agent);
    ratatui::restore();
    result
}

/// A report as plain text, as `--once` prints it; colours only on a terminal.
#[must_use]
pub fn plain_text(report: &Report) -> String {
    plain::text(report, view::Theme::of_output())
}

fn live(terminal: &mut ratatui::DefaultTerminal, agent: Agent) -> anyhow::Result<()> {
    let theme = view::Theme::of_output();
    let mut state = State::new(agent.url());
    let poller = Poller::start(agent);
    loop {
        while let Some(answer) = poller.newest() {
            state.take(answer);
        }
        terminal.draw(|frame| view::draw(frame, &mut state, &theme)).context("cannot draw")?;
        if !event::poll(REDRAW).context("cannot read the terminal")? {
            continue;
        }
        // A resize needs nothing but the next drawing.
        if let Event::Key(key) = event::read().context("cannot read the terminal")?
            && key.is_press()
            && state.press(key) == Step::Leave
        {
            return Ok(());
        }
    }
}

/// Prints; a reader that closed its end early (`| head`) is no failure.
fn print(text: &str) -> anyhow::Result<()> {
    match writeln!(stdout().lock(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error).context("cannot print"),
        _ => Ok(()),
    }
}
