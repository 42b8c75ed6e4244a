//! The keys of the terminal view: their actions, the line at the bottom and the help page of `?`.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Borders, Clear, Paragraph, Wrap};

use super::Key;
use super::state::{SMOOTHING, ViewState};

/// The action that a key requires of the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Nothing,
    /// The last edit becomes a variant.
    KeepVariant,
    Quit,
}

/// The rows of a page.
const PAGE: isize = 8;

/// The line at the bottom, the most important keys first: those that do not fit are left out.
const LINE: [&str; 8] =
    ["? help", "q quit", "↑↓ move", "Tab panel", "m metric", "s smooth", "b before", "v keep as a variant"];

const HELP: [(&str, &str); 10] = [
    ("↑ ↓, k j", "move in the panel with the bold title"),
    ("PgUp PgDn", "the same, by a page"),
    ("Home End, g G", "to the beginning, to the end"),
    ("Tab", "next panel: stages, teachers, log"),
    ("m", "the next metric: reward, divergence, loss"),
    ("s", ""),
    ("b", "curves from before the edit, on or off"),
    ("v", "keep the last edit as a variant: another model and row"),
    ("?, Esc", "close this help"),
    ("q, Ctrl-C", "quit after this step; twice: at once"),
];

pub fn press(state: &mut ViewState, key: Key) -> Action {
    if matches!(key, Key::Char('q') | Key::Ctrl('c')) {
        return Action::Quit;
    }
    if state.help {
        // Any key closes the help.
        state.help = false;
        return Action::Nothing;
    }
    match key {
        Key::Esc => return Action::Quit,
        Key::Char('?' | 'h') => state.help = true,
        Key::Up | Key::Char('k') => state.scroll(-1),
        Key::Down | Key::Char('j') => state.scroll(1),
        Key::PageUp => state.scroll(-PAGE),
        Key::PageDown => state.scroll(PAGE),
        Key::Home | Key::Char('g') => state.scroll(-isize::MAX),
        Key::End | Key::Char('G') => state.scroll(isize::MAX),
        Key::Char('\t') => state.next_panel(),
        Key::Char('m') => state.next_metric(),
        Key::Char('s') => state.next_smoothing(),
        Key::Char('v') => return Action::KeepVariant,
        Key::Char('b') => state.shows_before = !state.shows_before,
        _ => {}
    }
    Action::Nothing
}

/// The keys that fit in the width.
pub fn line(width: usize) -> Paragraph<'static> {
    let mut text = String::new();
    for key in LINE {
        let longer = format!("{text} {key} ");
        if longer.chars().count() <= width {
            text = longer;
        }
    }
    Paragraph::new(text).style(Style::new().add_modifier(Modifier::DIM))
}

/// Draws the help over everything else.
pub fn help(frame: &mut Frame) {
    let smoothing = SMOOTHING.map(|weight| weight.to_string()).join(", ");
    let smoothing = format!("smooth curves: {smoothing}");
    let what = |key, text: &str| match key {
        "s" => smoothing.clone(),
        _ => text.to_owned(),
    };
    let lines: Vec<Line> =
        HELP.iter().map(|(key, text)| Line::from(format!("{key:<14}{}", what(*key, text)))).collect();
    let whole = frame.area();
    let width = lines.iter().map(Line::width).max().unwrap_or(0) as u16 + 4;
    let width = width.min(whole.width);
    // In a narrow terminal lines wrap.
    let rows: usize =
        lines.iter().map(|line| line.width().div_ceil(usize::from(width.saturating_sub(4)).max(1))).sum();
    let height = (rows as u16 + 2).min(whole.height);
    let area = Rect {
        x: whole.x + (whole.width - width) / 2,
        y: whole.y + (whole.height - height) / 2,
        width,
        height,
    };
    frame.render_widget(Clear, area);
    let block = Block::new().borders(Borders::ALL).title(" keys ");
    frame.render_widget(Paragraph::new(lines).block(block).wrap(Wrap { trim: true }), area);
}
