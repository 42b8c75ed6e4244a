//! Draws the terminal view: stages on the left, curves and teachers of the selected stage on the right, the
//! log below.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, List, ListItem, ListState, Paragraph};

use super::state::{StageProgress, StageView, ViewState, WatchPane};
use super::{chart, keys};
use crate::figures::duration;
use crate::output::printable;

/// A scroll position beyond the end is corrected in the state.
pub fn draw(frame: &mut Frame, state: &mut ViewState) {
    let height = frame.area().height;
    let below = if state.diagnostics.is_empty() { (height / 4).clamp(5, 9) } else { (height / 2).min(16) };
    let [head, pace, middle, below, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Min(6),
        Constraint::Max(below),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let list = (middle.width * 38 / 100).clamp(24, 60).min(middle.width);
    let [left, right] = Layout::horizontal([Constraint::Length(list), Constraint::Min(0)]).areas(middle);
    frame.render_widget(heading(state, usize::from(head.width)), head);
    frame.render_widget(speed(state, usize::from(pace.width)), pace);
    stages(frame, state, left);
    // The curve gets most of the space.
    let rows = state.shown().map_or(0, |(stage, _)| stage.teachers.len()).min(8) as u16;
    let rows = if rows == 0 { 0 } else { (rows + 2).min(middle.height / 3).max(3) };
    let [curve, table] = Layout::vertical([Constraint::Min(5), Constraint::Length(rows)]).areas(right);
    chart::draw(frame, state, curve);
    if rows > 0 {
        teachers(frame, state, table);
    } else if state.panel == WatchPane::Teachers {
        state.panel = WatchPane::Stages;
    }
    words(frame, state, below);
    frame.render_widget(keys::line(usize::from(foot.width)), foot);
    if state.help {
        keys::help(frame);
    }
}

/// The title of a panel, bold if it has the focus.
fn panel(state: &ViewState, panel: WatchPane, title: String) -> Block<'static> {
    let style = if state.panel == panel { Style::new().add_modifier(Modifier::BOLD) } else { Style::new() };
    Block::new().borders(Borders::ALL).title(Span::styled(title, style))
}

/// As many of the parts as fit, separated by commas; the first one is cut if it does not fit alone.
fn parts(all: &[String], width: usize) -> String {
    let mut text = String::new();
    for part in all.iter().filter(|part| !part.is_empty()) {
        let longer = if text.is_empty() { fitting(part, width) } else { format!("{text}, {part}") };
        if Line::raw(longer.as_str()).width() > width {
            break;
        }
        text = longer;
    }
    text
}

/// The beginning of a text, with an ellipsis if it is cut.
pub fn fitting(text: &str, width: usize) -> String {
    if Line::raw(text).width() <= width {
        return text.to_owned();
    }
    let mut short = String::new();
    for c in text.chars() {
        if Line::raw(format!("{short}{c}…")).width() > width {
            break;
        }
        short.push(c);
    }
    if width == 0 { short } else { short + "…" }
}

fn heading(state: &ViewState, width: usize) -> Paragraph<'static> {
    let (done, all) = state.done();
    let what = match (state.running, all) {
        (true, _) => format!("running, {done} of {all} stages done"),
        (false, 0) => "nothing has run yet".to_owned(),
        (false, _) => format!("waiting for a save, {done} of {all} stages done"),
    };
    let run = if state.run.is_empty() { String::new() } else { format!("{}; ", state.run) };
    let what = [run + &what, state.left().text()];
    // A long path is cut at its beginning.
    let room = (width / 2).max(width.saturating_sub(what.join(", ").chars().count() + 3));
    let skip = state.title.chars().count().saturating_sub(room);
    let title: String = state.title.chars().skip(skip).collect();
    let rest = width.saturating_sub(Line::raw(title.as_str()).width() + 2);
    Paragraph::new(Line::from(vec![
        Span::styled(format!(" {title} "), Style::new().add_modifier(Modifier::BOLD)),
        Span::raw(parts(&what, rest)),
    ]))
}

/// The speed of the selected stage, and its remaining time.
fn speed(state: &ViewState, width: usize) -> Paragraph<'static> {
    let Some((stage, _)) = state.shown() else { return Paragraph::new("") };
    let name = name(state, stage);
    let at = match &stage.progress {
        StageProgress::Waiting => "waiting".to_owned(),
        StageProgress::Running { steps: 0, .. } => "at work".to_owned(),
        StageProgress::Running { step, steps } => format!("step {step} of {steps}"),
        StageProgress::Stopped { step, steps } => format!("stopped at step {step} of {steps}"),
        StageProgress::Kept => "kept".to_owned(),
        StageProgress::Done { seconds } => format!("done in {}", duration(*seconds)),
    };
    let mut all = vec![format!("{name}: {at}")];
    all.extend(stage.left().map(|seconds| format!("{} left", duration(seconds))));
    all.extend(stage.pace.rates());
    all.extend(stage.pace.memory());
    Paragraph::new(format!(" {}", parts(&all, width.saturating_sub(1))))
}

fn name(state: &ViewState, stage: &StageView) -> String {
    if state.seeds { format!("{} {}", stage.name, stage.seed) } else { stage.name.clone() }
}

fn stages(frame: &mut Frame, state: &ViewState, area: Rect) {
    let width = usize::from(area.width.saturating_sub(2));
    let item = |stage: &StageView| {
        let (what, style) = match &stage.progress {
            StageProgress::Waiting => ("·".to_owned(), Style::new().add_modifier(Modifier::DIM)),
            StageProgress::Running { steps: 0, .. } => ("at work".to_owned(), Style::new().fg(Color::Cyan)),
            StageProgress::Running { step, steps } => {
                (format!("{step}/{steps}"), Style::new().fg(Color::Cyan))
            }
            StageProgress::Stopped { step, steps } => {
                (format!("stopped {step}/{steps}"), Style::new().fg(Color::Yellow))
            }
            StageProgress::Kept => ("kept".to_owned(), Style::new().add_modifier(Modifier::DIM)),
            StageProgress::Done { seconds } => (duration(*seconds), Style::new().fg(Color::Green)),
        };
        let room = width.saturating_sub(what.chars().count() + 1);
        let shown = fitting(&name(state, stage), room);
        let space = " ".repeat(room - Line::raw(shown.as_str()).width().min(room));
        ListItem::new(format!("{shown}{space} {what}")).style(style)
    };
    let items: Vec<ListItem> = state.stages.iter().map(item).collect();
    let rows = usize::from(area.height.saturating_sub(2));
    let title = match state.stages.len() > rows {
        true => format!(" stages, {} of {} ", state.selected + 1, state.stages.len()),
        false => " stages ".to_owned(),
    };
    let list = List::new(items)
        .block(panel(state, WatchPane::Stages, title))
        .highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut place = ListState::default();
    place.select((!state.stages.is_empty()).then_some(state.selected));
    frame.render_stateful_widget(list, area, &mut place);
}

/// The divergence of the student from each teacher, scaled to the largest.
fn teachers(frame: &mut Frame, state: &mut ViewState, area: Rect) {
    let Some((stage, _)) = state.shown() else { return };
    let most = stage.teachers.values().map(|value| value.abs()).fold(1e-9, f64::max);
    let longest = stage.teachers.keys().map(|name| name.chars().count()).max().unwrap_or(0);
    let width = longest.min(usize::from(area.width / 2));
    let room = usize::from(area.width).saturating_sub(width + 14);
    let all: Vec<Line> = stage
        .teachers
        .iter()
        .map(|(name, value)| {
            let name = fitting(name, width);
            let bar = ((value.abs() / most) * room as f64).round() as usize;
            Line::from(format!("{name:<width$} {value:>9.4} {}", "━".repeat(bar.min(room))))
        })
        .collect();
    let rows = usize::from(area.height.saturating_sub(2));
    state.teachers_down = state.teachers_down.min(all.len().saturating_sub(rows));
    let title = format!(" teachers{}: divergence, nats ", place(state.teachers_down, rows, all.len()));
    let lines: Vec<Line> = all.into_iter().skip(state.teachers_down).take(rows).collect();
    frame.render_widget(Paragraph::new(lines).block(panel(state, WatchPane::Teachers, title)), area);
}

/// The diagnostics of the last check, if there are any, otherwise the end of the log.
fn words(frame: &mut Frame, state: &mut ViewState, area: Rect) {
    let (rows, width) =
        (usize::from(area.height.saturating_sub(2)), usize::from(area.width.saturating_sub(2)));
    let clean = state.diagnostics.is_empty();
    let all: Vec<String> = match clean {
        true => state.log.iter().flat_map(|line| wrapped(line, width)).collect(),
        false => state.diagnostics.lines().flat_map(|line| wrapped(&printable(line), width)).collect(),
    };
    let most = all.len().saturating_sub(rows);
    state.log_up = state.log_up.min(most);
    state.diagnostics_down = state.diagnostics_down.min(most);
    let first = if clean { most - state.log_up } else { state.diagnostics_down };
    // At the end of the log no position is shown.
    let shown = if clean && state.log_up == 0 { String::new() } else { place(first, rows, all.len()) };
    let title = format!(" {}{shown} ", if clean { "log" } else { "diagnostics" });
    let style = if clean { Style::new() } else { Style::new().fg(Color::Yellow) };
    let lines: Vec<Line> = all.into_iter().skip(first).take(rows).map(Line::from).collect();
    let block = panel(state, WatchPane::Text, title).border_style(style);
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

/// `, 3-8 of 20`; empty if everything is shown.
fn place(first: usize, rows: usize, all: usize) -> String {
    if all <= rows { String::new() } else { format!(", {}-{} of {all}", first + 1, (first + rows).min(all)) }
}

/// Wraps a line at this width, at spaces where possible.
fn wrapped(line: &str, width: usize) -> Vec<String> {
    let (mut rows, mut rest) = (Vec::new(), line);
    while Line::raw(rest).width() > width {
        let mut columns = 0;
        let fits = |(_, c): &(usize, char)| {
            columns += Line::raw(c.to_string()).width();
            columns <= width
        };
        let Some((last, c)) = rest.char_indices().take_while(fits).last() else { break };
        let end = last + c.len_utf8();
        let space = rest[..end].rfind(' ').filter(|at| !rest[..*at].trim().is_empty());
        let at = space.map_or(end, |space| space + 1);
        rows.push(rest[..at].trim_end().to_owned());
        rest = &rest[at..];
    }
    rows.push(rest.to_owned());
    rows
}
