//! The curves of a stage, including those before its last edit, and their legend.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Block, Borders, Chart, Dataset, GraphType, Paragraph};

use super::draw::fitting;
use super::state::{CurveMetric, Curves, StageProgress, StageView, ViewState};

/// Distinguishable on dark and light terminals, and for readers with red-green colour blindness.
const COLOURS: [Color; 6] =
    [Color::Blue, Color::Yellow, Color::Magenta, Color::Cyan, Color::Green, Color::Red];
/// The colour of the raw values of a smoothed curve.
const FAINT: Color = Color::DarkGray;
/// The most rows of the legend.
const LEGEND: usize = 3;

/// A curve with its style.
struct Curve {
    domain: String,
    colour: Color,
    points: Vec<(f64, f64)>,
    kind: CurveKind,
}

#[derive(Clone, Copy, PartialEq)]
enum CurveKind {
    Now,
    Raw,
    Before,
}

pub fn draw(frame: &mut Frame, state: &ViewState, area: Rect) {
    let Some((stage, metric)) = state.shown() else {
        return frame.render_widget(Block::new().borders(Borders::ALL), area);
    };
    let of = if state.seeds { format!("{}, seed {}", stage.name, stage.seed) } else { stage.name.clone() };
    let Some(metric) = metric else {
        let block = Block::new().borders(Borders::ALL).title(format!(" {of} "));
        let why = match stage.progress {
            StageProgress::Kept => "kept from an earlier run; `mopd report` has its curves",
            _ => "no step so far",
        };
        return frame.render_widget(Paragraph::new(why).block(block), area);
    };
    let curves = curves(state, stage, metric);
    let smoothed =
        if state.smoothing() > 0.0 { format!(", smoothed {}", state.smoothing()) } else { String::new() };
    let mut block =
        Block::new().borders(Borders::ALL).title(format!(" {of}: {} by domain{smoothed} ", metric.name()));
    if let Some(before) = &stage.before
        && curves.iter().any(|curve| curve.kind == CurveKind::Before)
    {
        let room = usize::from(area.width.saturating_sub(4));
        let edit = if before.edit.is_empty() { "the run before" } else { &before.edit };
        block =
            block.title_bottom(format!(" {} ", fitting(&format!("• before: {edit}"), room - room.min(2))));
    }
    let inside = block.inner(area);
    frame.render_widget(block, area);
    let legend = legend(&curves, stage, metric, usize::from(inside.width));
    let [chart, below] =
        Layout::vertical([Constraint::Min(3), Constraint::Length(legend.len() as u16)]).areas(inside);
    frame.render_widget(Paragraph::new(legend), below);
    axes(frame, &curves, chart);
}

/// In drawing order: curves in the background come first.
fn curves(state: &ViewState, stage: &StageView, metric: CurveMetric) -> Vec<Curve> {
    let weight = state.smoothing();
    let mut all = Vec::new();
    let before = stage.before.as_ref().filter(|_| state.shows_before).map(|before| &before.curves);
    let each = |curves: &'_ Curves, kind: CurveKind, all: &mut Vec<Curve>| {
        for ((_, domain), curve) in curves.iter().filter(|((of, _), _)| *of == metric) {
            all.push(Curve {
                domain: domain.clone(),
                colour: if kind == CurveKind::Raw { FAINT } else { colour(stage, metric, domain) },
                points: if kind == CurveKind::Raw || weight == 0.0 {
                    curve.points().to_vec()
                } else {
                    curve.smoothed(weight)
                },
                kind,
            });
        }
    };
    if weight > 0.0 {
        each(&stage.curves, CurveKind::Raw, &mut all);
    }
    if let Some(before) = before {
        each(before, CurveKind::Before, &mut all);
    }
    each(&stage.curves, CurveKind::Now, &mut all);
    all
}

/// A domain has the same colour before and after an edit.
fn colour(stage: &StageView, metric: CurveMetric, domain: &str) -> Color {
    let mut domains = stage.curves.keys().filter(|(of, _)| *of == metric);
    let place = domains.position(|(_, of)| of == domain);
    // A domain that the edit removed has no colour.
    place.map_or(FAINT, |place| COLOURS[place % COLOURS.len()])
}

fn axes(frame: &mut Frame, curves: &[Curve], area: Rect) {
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let bound = |pick: fn(f64, f64) -> f64, start: f64| points().map(|(_, value)| *value).fold(start, pick);
    let (low, high) = (bound(f64::min, f64::INFINITY), bound(f64::max, f64::NEG_INFINITY));
    if low > high {
        return;
    }
    let last = points().map(|(step, _)| *step).fold(1.0, f64::max);
    // A flat curve also needs some height.
    let room = ((high - low) * 0.05).max(high.abs().max(low.abs()) * 0.01).max(1e-6);
    let (low, high) = (low - room, high + room);
    let dataset = |curve| {
        let Curve { points, colour, kind, .. }: &Curve = curve;
        let (marker, graph) = match kind {
            CurveKind::Before => (Marker::Dot, GraphType::Scatter),
            CurveKind::Now | CurveKind::Raw => (Marker::Braille, GraphType::Line),
        };
        Dataset::default().marker(marker).graph_type(graph).style(Style::new().fg(*colour)).data(points)
    };
    let chart = Chart::new(curves.iter().map(dataset).collect())
        .legend_position(None)
        .x_axis(Axis::default().bounds([0.0, last]).labels(["0".to_owned(), format!("{last:.0}")]))
        .y_axis(Axis::default().bounds([low, high]).labels([short(low), short(high)]));
    frame.render_widget(chart, area);
}

/// The last value of each domain; with the raw value if it is smoothed, and with the value before an edit at
/// the same step.
fn legend(curves: &[Curve], stage: &StageView, metric: CurveMetric, width: usize) -> Vec<Line<'static>> {
    let at = |domain: &str, kind: CurveKind, step: f64| {
        let curve = curves.iter().find(|curve| curve.kind == kind && curve.domain == domain)?;
        curve.points.iter().rev().find(|(of, _)| *of <= step).map(|(_, value)| *value)
    };
    let own = stage.curves.iter().filter(|((of, _), _)| *of == metric);
    let mut lines: Vec<Line> = Vec::new();
    let mut left_out = 0;
    for ((_, domain), curve) in own {
        let Some((step, raw)) = curve.points().last().copied() else { continue };
        let mut text = format!("━ {domain} {}", short(at(domain, CurveKind::Now, step).unwrap_or(raw)));
        if curves.iter().any(|curve| curve.kind == CurveKind::Raw) {
            text += &format!(" (raw {})", short(raw));
        }
        if let Some(before) = at(domain, CurveKind::Before, step) {
            text += &format!(" • {}", short(before));
        }
        let entry = Span::styled(fitting(&text, width), Style::new().fg(colour(stage, metric, domain)));
        let room = lines.len() < LEGEND;
        match lines.last_mut() {
            Some(line) if line.width() + entry.width() + 3 <= width => {
                line.push_span("   ");
                line.push_span(entry);
            }
            _ if room => lines.push(Line::from(entry)),
            _ => left_out += 1,
        }
    }
    if left_out > 0
        && let Some(line) = lines.last_mut()
    {
        line.push_span(format!(" +{left_out}"));
    }
    lines
}

/// A value in a few columns.
fn short(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-3..1e5).contains(&size) { format!("{value:.1e}") } else { format!("{value:.3}") }
}
