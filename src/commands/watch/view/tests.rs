use mopd_compiler::plan::events::{DomainStep, Event, Seconds, TeacherStep};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::draw::draw;
use super::state::{CurveMetric, StageProgress, ViewState};

const TEXT: &str = r#"
experiment "tiny" { seed = 1 }
domain copy { prompts = "copy.jsonl", tests = "copy.jsonl", reward = exact_match }
model base  = llama { layers = 1, width = 32, heads = 2, context = 24, tokenizer = bytes }
model start = sft(base, on: domains) { target = answer, steps = 20, batch = 16, lr = 1e-3 }
compare "tiny table" { models = [start], samples = 2, temperature = 1.0, max_tokens = 6, seeds = 2 }
"#;

fn state_of(run: &str) -> ViewState {
    let entry = mopd_lang::source::SourceFile { path: "tiny.mopd".into(), text: TEXT.into() };
    let analysis = mopd_lang::analyse(entry, &crate::host::standard);
    let experiment = analysis.experiment.as_ref().expect("it is sound");
    let plan =
        mopd_compiler::compile(experiment, &analysis.origins, &analysis.sources, false).expect("it can run");
    let mut state = ViewState::new("tiny.mopd");
    state.begin(&plan, run);
    state
}

fn state() -> ViewState {
    state_of("")
}

const SECONDS: Seconds = Seconds { rollout: 0.5, scoring: 0.25, update: 0.25 };

fn started(stage: &str, seed: u64) -> Event {
    Event::StageStarted { stage: stage.into(), seed, steps: 20 }
}

fn step(stage: &str, seed: u64, step: u32, reward: f64) -> Event {
    let domains = ["copy", "last"].map(|domain| {
        let divergence = Some(if domain == "copy" { 0.25 } else { -0.5 });
        let teachers = vec![TeacherStep { teacher: format!("specialist[{domain}]"), divergence }];
        DomainStep { domain: domain.into(), teachers, divergence, reward: Some(reward) }
    });
    let (stage, metric) = (stage.to_owned(), "divergence".to_owned());
    Event::Step {
        stage,
        seed,
        step,
        steps: 20,
        metric,
        value: 0.1,
        loss: 2.0,
        domains: domains.into(),
        rows: Vec::new(),
        tokens: 12,
        seconds: SECONDS,
    }
}

fn screen(state: &ViewState, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal of memory");
    terminal.draw(|frame| draw(frame, state)).expect("it can be drawn on");
    let buffer = terminal.backend().buffer();
    (0..height).map(|y| (0..width).map(|x| buffer[(x, y)].symbol()).collect()).collect()
}

fn shows(screen: &[String], part: &str) -> bool {
    screen.iter().any(|line| line.contains(part))
}

#[test]
fn stages_are_listed_seed_by_seed_with_what_became_of_them() {
    let mut state = state();
    state.event(&Event::StageKept { stage: "base".into(), seed: 1 });
    state.event(&started("start", 2));
    state.event(&step("start", 2, 6, 0.5));
    let drawn = screen(&state, 100, 30);
    for part in ["tiny.mopd", "running, 1 of 4 stages done", "base 1", "kept", "start 2", "7/20", "q quit"] {
        assert!(shows(&drawn, part), "{part}: {drawn:#?}");
    }
    state.event(&Event::Interrupted { finished: 1, tasks: 4 });
    let drawn = screen(&state, 100, 30);
    assert!(shows(&drawn, "stopped 7/20") && shows(&drawn, "waiting for a save"), "{drawn:#?}");
}

#[test]
fn a_run_of_a_sweep_is_named() {
    let drawn = screen(&state_of("run 2 of 4: clip_at=5"), 100, 30);
    assert!(shows(&drawn, "tiny.mopd run 2 of 4: clip_at=5; running, 0 of 4 stages done"), "{drawn:#?}");
}

#[test]
fn the_stage_that_runs_is_shown_with_a_curve_for_each_domain_and_its_teachers() {
    let mut state = state();
    state.event(&started("start", 1));
    for at in 0..10 {
        state.event(&step("start", 1, at, f64::from(at) / 10.0));
    }
    let drawn = screen(&state, 120, 40);
    for part in [
        "start, seed 1: divergence by domain",
        "copy 0.250",
        "last -0.500",
        "specialist[copy]",
        "0.2500",
        "━",
    ] {
        assert!(shows(&drawn, part), "{part}: {drawn:#?}");
    }
    // Braille dots: the curve itself.
    assert!(
        drawn.iter().any(|line| line.chars().any(|c| ('\u{2801}'..='\u{28ff}').contains(&c))),
        "{drawn:#?}"
    );
    state.next_measure();
    assert!(shows(&screen(&state, 120, 40), "start, seed 1: reward by domain"));
    state.next_measure();
    assert!(shows(&screen(&state, 120, 40), "start, seed 1: loss by domain"));
    state.next_measure();
    assert_eq!(state.shown().and_then(|(_, measure)| measure), Some(CurveMetric::Divergence));
}

#[test]
fn arrows_choose_and_the_choice_stays() {
    let mut state = state();
    state.choose(1);
    state.event(&started("start", 2));
    assert_eq!(state.shown().map(|(stage, _)| (stage.name.as_str(), stage.seed)), Some(("base", 2)));
    state.choose(100);
    assert_eq!(state.selected, 3);
    state.choose(-100);
    assert_eq!(state.selected, 0);
}

#[test]
fn diagnostics_stand_where_the_log_was_until_they_are_mended() {
    let mut state = state();
    state.say("start, seed 1: done in 3.0 s\n");
    assert!(shows(&screen(&state, 90, 30), "done in 3.0 s"));
    state.diagnostics = "error[unknown-name]: nothing is called `fife`\n".into();
    let drawn = screen(&state, 90, 30);
    assert!(
        shows(&drawn, "diagnostics") && shows(&drawn, "unknown-name") && !shows(&drawn, "done in 3.0 s"),
        "{drawn:#?}"
    );
}

#[test]
fn no_size_is_too_small_and_no_number_too_odd() {
    let mut state = ViewState::new("a");
    screen(&state, 1, 1);
    state = self::state();
    state.event(&started("start", 1));
    state.event(&step("start", 1, 0, 0.0));
    state.event(&step("start", 1, 1, 1e300));
    state.say(&"a very long line that does not fit at all ".repeat(20));
    for (width, height) in [(1, 1), (3, 3), (20, 5), (40, 12), (500, 200)] {
        screen(&state, width, height);
    }
}

#[test]
fn a_long_run_keeps_a_curve_of_bounded_length() {
    let mut state = state();
    state.event(&Event::StageStarted { stage: "start".into(), seed: 1, steps: 100_000 });
    for at in 0..100_000 {
        state.event(&step("start", 1, at, 0.5));
    }
    let (stage, _) = state.shown().expect("it runs");
    let points = stage.curves[&(CurveMetric::Reward, "copy".to_owned())].points();
    assert!((500..=2000).contains(&points.len()), "{}", points.len());
    assert!(points.windows(2).all(|pair| pair[0].0 < pair[1].0));
    assert!(matches!(stage.progress, StageProgress::Running { step: 100_000, .. }));
}
