//! Draws the terminal view: stages on the left, curves and teachers of the selected stage on the right,
//! the log below.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{
    Axis, Block, Borders, Chart, Dataset, GraphType, List, ListItem, ListState, Paragraph, Wrap,
};

use super::state::{CurveMetric, StageProgress, StageView, ViewState};
use crate::figures::duration;
use crate::output::printable;

/// Told apart on dark and on light terminals, and by readers who confuse red with green.
const COLOURS: [Color; 6] =
    [Color::Blue, Color::Yellow, Color::Magenta, Color::Cyan, Color::Green, Color::Red];

pub fn draw(frame: &mut Frame, state: &ViewState) {
    let said = if state.diagnostics.is_empty() { 9 } else { 16 };
    let [head, middle, below, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Min(6),
        Constraint::Max(said),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let [left, right] =
        Layout::horizontal([Constraint::Percentage(38), Constraint::Percentage(62)]).areas(middle);
    frame.render_widget(heading(state), head);
    stages(frame, state, left);
    match state.shown() {
        Some((stage, measure)) => {
            let teachers = stage.teachers.len().min(8) as u16;
            let [curve, table] = Layout::vertical([
                Constraint::Min(5),
                Constraint::Length(if teachers == 0 { 0 } else { teachers + 2 }),
            ])
            .areas(right);
            curves(frame, stage, measure, state.seeds, curve);
            if teachers > 0 {
                self::teachers(frame, stage, table);
            }
        }
        None => frame.render_widget(Block::new().borders(Borders::ALL), right),
    }
    words(frame, state, below);
    let keys = " q quit   ↑ ↓ stage   m measure ";
    frame.render_widget(Paragraph::new(keys).style(Style::new().add_modifier(Modifier::DIM)), foot);
}

fn heading(state: &ViewState) -> Paragraph<'_> {
    let (done, all) = state.done();
    let what = match (state.running, all) {
        (true, _) => format!("running, {done} of {all} stages done"),
        (false, 0) => "nothing has run yet".to_owned(),
        (false, _) => format!("waiting for a save, {done} of {all} stages done"),
    };
    let run = if state.run.is_empty() { String::new() } else { format!("{}; ", state.run) };
    Paragraph::new(Line::from(vec![
        Span::styled(format!(" {} ", state.title), Style::new().add_modifier(Modifier::BOLD)),
        Span::raw(run + &what),
    ]))
}

fn stages(frame: &mut Frame, state: &ViewState, area: Rect) {
    let width = usize::from(area.width.saturating_sub(2));
    let item = |stage: &StageView| {
        let name = if state.seeds { format!("{} {}", stage.name, stage.seed) } else { stage.name.clone() };
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
        let shown: String = name.chars().take(room).collect();
        ListItem::new(format!("{shown:<room$} {what}")).style(style)
    };
    let items: Vec<ListItem> = state.stages.iter().map(item).collect();
    let list = List::new(items)
        .block(Block::new().borders(Borders::ALL).title(" stages "))
        .highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut place = ListState::default();
    place.select((!state.stages.is_empty()).then_some(state.selected));
    frame.render_stateful_widget(list, area, &mut place);
}

fn curves(frame: &mut Frame, stage: &StageView, measure: Option<CurveMetric>, seeds: bool, area: Rect) {
    let of = if seeds { format!("{}, seed {}", stage.name, stage.seed) } else { stage.name.clone() };
    let block = |title: String| Block::new().borders(Borders::ALL).title(title);
    let Some(measure) = measure else {
        frame.render_widget(block(format!(" {of} ")), area);
        return;
    };
    let shown = || stage.curves.iter().filter(|((of, _), _)| *of == measure);
    let points = || shown().flat_map(|(_, curve)| curve.points());
    let bound = |pick: fn(f64, f64) -> f64, start: f64| points().map(|(_, value)| *value).fold(start, pick);
    let (low, high) = (bound(f64::min, f64::INFINITY), bound(f64::max, f64::NEG_INFINITY));
    let last = points().map(|(step, _)| *step).fold(1.0, f64::max);
    // A flat curve needs some height too.
    let room = ((high - low) * 0.05).max(high.abs().max(low.abs()) * 0.01).max(1e-6);
    let (low, high) = (low - room, high + room);
    let datasets = shown().enumerate().map(|(index, ((_, domain), curve))| {
        let latest = curve.points().last().map(|(_, value)| format!(" {value:.3}")).unwrap_or_default();
        Dataset::default()
            .name(format!("{domain}{latest}"))
            .marker(Marker::Braille)
            .graph_type(GraphType::Line)
            .style(Style::new().fg(COLOURS[index % COLOURS.len()]))
            .data(curve.points())
    });
    let chart = Chart::new(datasets.collect())
        .block(block(format!(" {of}: {} by domain ", measure.name())))
        .x_axis(Axis::default().bounds([0.0, last]).labels(["0".to_owned(), format!("{last:.0}")]))
        .y_axis(Axis::default().bounds([low, high]).labels([format!("{low:.3}"), format!("{high:.3}")]));
    frame.render_widget(chart, area);
}

/// How far the student is from each teacher, drawn to the farthest.
fn teachers(frame: &mut Frame, stage: &StageView, area: Rect) {
    let most = stage.teachers.values().map(|value| value.abs()).fold(1e-9, f64::max);
    let width = stage.teachers.keys().map(|name| name.chars().count()).max().unwrap_or(0);
    let room = usize::from(area.width).saturating_sub(width + 14);
    let lines: Vec<Line> = stage
        .teachers
        .iter()
        .map(|(name, value)| {
            let bar = ((value.abs() / most) * room as f64).round() as usize;
            Line::from(format!("{name:<width$} {value:>9.4} {}", "━".repeat(bar.min(room))))
        })
        .collect();
    let block = Block::new().borders(Borders::ALL).title(" divergence from each teacher, nats ");
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

/// The diagnostics of the last check where there are any, else the end of the log.
fn words(frame: &mut Frame, state: &ViewState, area: Rect) {
    let rows = usize::from(area.height.saturating_sub(2));
    let (title, lines): (&str, Vec<Line>) = match state.diagnostics.is_empty() {
        false => (
            " diagnostics ",
            state.diagnostics.lines().take(rows).map(|line| Line::from(printable(line))).collect(),
        ),
        true => {
            let start = state.log.len().saturating_sub(rows);
            (" log ", state.log.iter().skip(start).map(|line| Line::from(line.clone())).collect())
        }
    };
    let style = if state.diagnostics.is_empty() { Style::new() } else { Style::new().fg(Color::Yellow) };
    let block = Block::new().borders(Borders::ALL).title(title).border_style(style);
    frame.render_widget(Paragraph::new(lines).block(block).wrap(Wrap { trim: false }), area);
}
