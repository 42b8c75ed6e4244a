//! The terminal view. It shows the same text as the lines, and in addition every stage with its curves.

mod chart;
mod curve;
mod draw;
mod keys;
mod pace;
mod state;
#[cfg(test)]
mod tests;

use std::io::{IsTerminal, Stdout, Write};
use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::TermionBackend;
use ratatui::termion::input::TermRead;
use ratatui::termion::raw::{IntoRawMode, RawTerminal};
use ratatui::termion::screen::{AlternateScreen, IntoAlternateScreen};

pub use ratatui::termion::event::Key;

pub use self::keys::Action;
use self::state::ViewState;
use super::line_output;
use super::ui::WatchMessage;
use crate::args::Format;
use crate::output::{self, Style};
use crate::problem::Problem;

/// The shortest time between two redraws.
const FRAME: Duration = Duration::from_millis(80);

pub struct WatchView {
    terminal: Terminal<TermionBackend<AlternateScreen<RawTerminal<Stdout>>>>,
    state: ViewState,
    drawn: Option<Instant>,
    dirty: bool,
    /// The table of the last finished run, to print when the view is closed.
    table: String,
}

impl WatchView {
    /// `None` if there is no terminal to draw on.
    pub fn new(title: &str, key: impl Fn(Key) + Send + 'static) -> Option<WatchView> {
        let dumb = std::env::var_os("TERM").is_none_or(|name| name == "dumb" || name.is_empty());
        if dumb || !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
            return None;
        }
        let screen = std::io::stdout().into_raw_mode().ok()?.into_alternate_screen().ok()?;
        let mut terminal = Terminal::new(TermionBackend::new(screen)).ok()?;
        terminal.hide_cursor().ok()?;
        std::thread::spawn(move || std::io::stdin().keys().map_while(Result::ok).for_each(key));
        Some(WatchView {
            terminal,
            state: ViewState::new(title),
            drawn: None,
            dirty: true,
            table: String::new(),
        })
    }

    pub fn note(&mut self, note: &WatchMessage) {
        take(&mut self.state, note);
        let table = line_output::table(note, Style { terminal: false });
        if !table.is_empty() {
            self.table = table;
        }
        self.dirty = true;
    }

    pub fn key(&mut self, key: Key) -> Action {
        self.dirty = true;
        keys::press(&mut self.state, key)
    }

    /// The terminal has another size, which the next drawing takes.
    pub fn resized(&mut self) {
        self.dirty = true;
    }

    /// Draws changes. Returns the time until the next call, if something is left to draw.
    pub fn refresh(&mut self) -> Result<Option<Duration>, Problem> {
        if !self.dirty {
            return Ok(None);
        }
        if let Some(since) = self.drawn.map(|drawn| drawn.elapsed()).filter(|since| *since < FRAME) {
            return Ok(Some(FRAME - since));
        }
        let state = &mut self.state;
        let drawn = self.terminal.draw(|frame| draw::draw(frame, state)).map(|_| ());
        drawn
            .map_err(|error| Problem::usage("no-terminal", format!("can't draw on the terminal: {error}")))?;
        (self.drawn, self.dirty) = (Some(Instant::now()), false);
        Ok(None)
    }

    /// Restores the terminal and prints the last table.
    pub fn close(self) {
        let table = self.table.clone();
        drop(self);
        output::result(&table);
    }
}

impl Drop for WatchView {
    fn drop(&mut self) {
        // Errors on a terminal that is gone do not matter.
        let _ = self.terminal.show_cursor();
        let _ = self.terminal.backend_mut().flush();
    }
}

/// Updates the state from a note.
fn take(state: &mut ViewState, note: &WatchMessage) {
    const PLAIN: Style = Style { terminal: false };
    match note {
        WatchMessage::Checked { clean, .. } => {
            let text = line_output::text(note, PLAIN);
            state.diagnose(if *clean { String::new() } else { text.clone() });
            if *clean {
                state.say(&text);
            }
        }
        WatchMessage::Unreadable(_) => state.diagnose(line_output::text(note, PLAIN)),
        WatchMessage::Failed { .. } | WatchMessage::Problem(_) => state.say(&line_output::text(note, PLAIN)),
        WatchMessage::Began { sweep, member } => {
            if let Some(of_sweep) = sweep.members.get(*member)
                && let Some(compiled) = &of_sweep.compiled
            {
                let run = sweep.announcement(*member, Format::Human).unwrap_or_default();
                state.begin(&compiled.plan, run.trim_end(), &of_sweep.name());
            }
            state.say(&line_output::text(note, PLAIN));
        }
        WatchMessage::Event(event) => {
            state.event(event);
            state.say(&line_output::text(note, PLAIN));
        }
        WatchMessage::Finished { .. } | WatchMessage::SweepEnded { .. } => {
            state.say(&line_output::table(note, PLAIN));
            state.say(&line_output::text(note, PLAIN));
        }
        _ => state.say(&line_output::text(note, PLAIN)),
    }
}
