use mopd_plan::Plan;
use mopd_plan::events::{DomainStep, Event, MetricsRow, Seconds, TeacherStep};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::Key;
use super::curve::Curve;
use super::draw::draw;
use super::keys::{Action, press};
use super::pace::TimeLeft;
use super::state::{CurveMetric, StageProgress, ViewState, WatchPane};

const TEXT: &str = r#"
experiment "tiny" { seed = 1 }
domain copy { prompts = "copy.jsonl", tests = "copy.jsonl", reward = exact_match }
model base  = llama { layers = 1, width = 32, heads = 2, context = 24, tokenizer = bytes }
model start = sft(base, on: domains) { target = answer, steps = 20, batch = 16, lr = 1e-3 }
compare "tiny table" { models = [start], samples = 2, temperature = 1.0, max_tokens = 6, seeds = 2 }
"#;

fn plan_of(text: &str) -> Plan {
    let entry = mopd_lang::source::SourceFile { path: "tiny.mopd".into(), text: text.into() };
    let analysis = mopd_lang::analyse(entry, &crate::host::standard);
    let experiment = analysis.experiment.as_ref().expect("it is sound");
    mopd_compiler::compile(experiment, &analysis.origins, &analysis.sources, false).expect("it can run")
}

fn state_of(run: &str) -> ViewState {
    let mut state = ViewState::new("tiny.mopd");
    state.begin(&plan_of(TEXT), run, run);
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
        rows: vec![MetricsRow::from_iter([("memory".to_owned(), 3_221_225_472_u64.into())])],
        tokens: 1200,
        seconds: SECONDS,
    }
}

fn screen(state: &mut ViewState, width: u16, height: u16) -> Vec<String> {
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
    let drawn = screen(&mut state, 100, 30);
    for part in ["tiny.mopd", "running, 1 of 4 stages done", "base 1", "kept", "start 2", "7/20", "q quit"] {
        assert!(shows(&drawn, part), "{part}: {drawn:#?}");
    }
    state.event(&Event::Interrupted { finished: 1, tasks: 4 });
    let drawn = screen(&mut state, 100, 30);
    assert!(shows(&drawn, "stopped 7/20") && shows(&drawn, "waiting for a save"), "{drawn:#?}");
}

#[test]
fn a_run_of_a_sweep_is_named() {
    let drawn = screen(&mut state_of("run 2 of 4: clip_at=5"), 100, 30);
    assert!(shows(&drawn, "tiny.mopd run 2 of 4: clip_at=5; running, 0 of 4 stages done"), "{drawn:#?}");
}

#[test]
fn the_stage_that_runs_is_shown_with_a_curve_for_each_domain_and_its_teachers() {
    let mut state = state();
    state.event(&started("start", 1));
    for at in 0..10 {
        state.event(&step("start", 1, at, f64::from(at) / 10.0));
    }
    let drawn = screen(&mut state, 120, 40);
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
    state.next_metric();
    assert!(shows(&screen(&mut state, 120, 40), "start, seed 1: reward by domain"));
    state.next_metric();
    assert!(shows(&screen(&mut state, 120, 40), "start, seed 1: loss by domain"));
    state.next_metric();
    assert_eq!(state.shown().and_then(|(_, metric)| metric), Some(CurveMetric::Divergence));
}

#[test]
fn arrows_choose_and_the_choice_stays() {
    let mut state = state();
    press(&mut state, Key::Down);
    state.event(&started("start", 2));
    assert_eq!(state.shown().map(|(stage, _)| (stage.name.as_str(), stage.seed)), Some(("base", 2)));
    press(&mut state, Key::End);
    assert_eq!(state.selected, 3);
    press(&mut state, Key::Home);
    assert_eq!(state.selected, 0);
}

#[test]
fn diagnostics_stand_where_the_log_was_until_they_are_mended() {
    let mut state = state();
    state.say("start, seed 1: done in 3.0 s\n");
    assert!(shows(&screen(&mut state, 90, 30), "done in 3.0 s"));
    state.diagnose("error[unknown-name]: nothing is called `fife`\n".into());
    let drawn = screen(&mut state, 90, 30);
    assert!(
        shows(&drawn, "diagnostics") && shows(&drawn, "unknown-name") && !shows(&drawn, "done in 3.0 s"),
        "{drawn:#?}"
    );
}

#[test]
fn no_size_is_too_small_and_no_number_too_odd() {
    let mut state = ViewState::new("a");
    screen(&mut state, 1, 1);
    state = self::state();
    state.event(&started("start", 1));
    state.event(&step("start", 1, 0, 0.0));
    state.event(&step("start", 1, 1, 1e300));
    state.say(&"a very long line that does not fit at all ".repeat(20));
    for help in [false, true] {
        state.help = help;
        for (width, height) in [(1, 1), (3, 3), (20, 5), (40, 12), (500, 200)] {
            screen(&mut state, width, height);
        }
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

/// A run of `start` with seed 1, at rewards that go up to `to`.
fn run_to(state: &mut ViewState, to: f64) {
    state.event(&started("start", 1));
    for at in 0..20 {
        state.event(&step("start", 1, at, f64::from(at) / 19.0 * to));
    }
    let (stage, seconds) = ("start".to_owned(), 20.0);
    state.event(&Event::StageFinished { stage, seed: 1, seconds, peak_memory: None });
    state.event(&Event::Finished { seconds: 20.0, peak_memory: 0 });
}

#[test]
fn the_speed_of_a_stage_and_the_time_that_is_left_are_shown() {
    let mut state = state();
    state.event(&Event::StageKept { stage: "base".into(), seed: 1 });
    state.event(&Event::StageKept { stage: "base".into(), seed: 2 });
    state.event(&started("start", 1));
    assert!(!shows(&screen(&mut state, 80, 24), "left"), "nothing was timed");
    for at in 0..5 {
        state.event(&step("start", 1, at, 0.0));
    }
    // A step takes a second. The other seed takes as long as this one.
    let drawn = screen(&mut state, 80, 24);
    let speed = "start 1: step 5 of 20, 15.0 s left, 1.0 s/step, 1 200 tokens/s, 3.00 GiB";
    assert!(shows(&drawn, speed) && shows(&drawn, "2 of 4 stages done, 35.0 s left"), "{drawn:#?}");
    let drawn = screen(&mut state, 60, 20);
    assert!(shows(&drawn, "start 1: step 5 of 20, 15.0 s left, 1.0 s/step") && !shows(&drawn, "GiB"));
    state.event(&Event::Interrupted { finished: 2, tasks: 4 });
    assert!(!shows(&screen(&mut state, 80, 24), " left"));
}

#[test]
fn time_left_is_of_stages_side_by_side_and_says_what_it_does_not_know() {
    let left = |running: &[Option<f64>], waiting: &[Option<f64>]| TimeLeft::estimate(running, waiting).text();
    assert_eq!(left(&[Some(10.0)], &[Some(20.0)]), "30.0 s left");
    assert_eq!(left(&[Some(10.0), Some(30.0)], &[Some(20.0)]), "30.0 s left");
    assert_eq!(left(&[Some(30.0), Some(30.0)], &[Some(20.0)]), "40.0 s left");
    assert_eq!(left(&[Some(10.0)], &[None]), "at least 10.0 s left");
    assert_eq!(left(&[None], &[None]), "");
}

/// As TensorBoard computes it: `last = last * w + (1 - w) * value`, divided by `1 - w^n`.
#[test]
fn smoothing_is_that_of_tensorboard() {
    let mut curve = Curve::default();
    for (at, value) in [1.0, 0.0, 4.0, f64::INFINITY].into_iter().enumerate() {
        curve.add(at as u32, value);
    }
    let smoothed = curve.smoothed(0.5);
    let expected = [(0.0, 1.0), (1.0, 0.25 / 0.75), (2.0, 2.125 / 0.875)];
    assert_eq!(smoothed.len(), 3, "what is not finite is no point");
    for ((step, value), (at, wanted)) in smoothed.into_iter().zip(expected) {
        assert!(step == at && (value - wanted).abs() < 1e-12, "{value} {wanted}");
    }
}

#[test]
fn a_key_smooths_and_the_raw_value_stays() {
    let mut state = state();
    run_to(&mut state, 1.0);
    press(&mut state, Key::Char('m'));
    press(&mut state, Key::Char('s'));
    let drawn = screen(&mut state, 80, 24);
    assert!(shows(&drawn, "reward by domain, smoothed 0.6") && shows(&drawn, "(raw 1.000)"), "{drawn:#?}");
    for _ in 0..3 {
        press(&mut state, Key::Char('s'));
    }
    assert!(!shows(&screen(&mut state, 80, 24), "smoothed"));
}

#[test]
fn a_stage_is_drawn_with_what_it_was_before_the_edit() {
    let mut state = state();
    run_to(&mut state, 1.0);
    let edited = plan_of(&TEXT.replace("lr = 1e-3", "lr = 2e-3"));
    state.begin(&edited, "", "");
    run_to(&mut state, 0.5);
    press(&mut state, Key::Char('m'));
    for (width, height) in [(80, 24), (60, 20), (200, 60)] {
        let drawn = screen(&mut state, width, height);
        let legend = "copy 0.500 • 1.000";
        assert!(shows(&drawn, legend) && shows(&drawn, "• before: lr 0.001"), "{drawn:#?}");
    }
    press(&mut state, Key::Char('b'));
    assert!(!shows(&screen(&mut state, 80, 24), "before: lr"));
    press(&mut state, Key::Char('b'));

    // The edit is undone: the result is kept, and so are its curves.
    state.begin(&plan_of(TEXT), "", "");
    state.event(&Event::StageKept { stage: "start".into(), seed: 1 });
    let drawn = screen(&mut state, 80, 24);
    assert!(shows(&drawn, "copy 1.000 • 0.500") && shows(&drawn, "lr 0.002 -> 0.001"), "{drawn:#?}");
    // An edit of another stage leaves this one's curves, and those from before, as they are.
    state.begin(&plan_of(&TEXT.replace("max_tokens = 6", "max_tokens = 5")), "", "");
    assert!(shows(&screen(&mut state, 80, 24), "copy 1.000 • 0.500"));
}

#[test]
fn a_run_of_a_sweep_is_compared_with_itself() {
    let mut state = state_of("one");
    run_to(&mut state, 0.25);
    state.begin(&plan_of(&TEXT.replace("lr = 1e-3", "lr = 3e-3")), "two", "two");
    run_to(&mut state, 0.75);
    press(&mut state, Key::Char('m'));
    assert!(!shows(&screen(&mut state, 80, 24), "before:"), "it was not there before");
    state.begin(&plan_of(&TEXT.replace("lr = 1e-3", "lr = 2e-3")), "one", "one");
    run_to(&mut state, 0.5);
    assert!(shows(&screen(&mut state, 80, 24), "copy 0.500 • 0.250"));
}

#[test]
fn a_stage_that_resumes_keeps_its_curve_and_one_that_runs_again_is_compared_with_it() {
    let mut state = state();
    run_to(&mut state, 1.0);
    state.begin(&plan_of(TEXT), "", "");
    state.event(&started("start", 1));
    state.event(&Event::StageResumed { stage: "start".into(), seed: 1, step: 10 });
    state.event(&step("start", 1, 10, 0.125));
    let curve = |state: &ViewState| {
        let (stage, _) = state.shown().expect("it is chosen");
        stage.curves[&(CurveMetric::Reward, "copy".to_owned())].points().to_vec()
    };
    assert_eq!(curve(&state).iter().map(|(at, _)| *at as u32).collect::<Vec<_>>(), Vec::from_iter(0..11));
    state.event(&started("start", 1));
    state.event(&step("start", 1, 0, 0.0));
    assert_eq!(curve(&state).len(), 1);
    assert!(shows(&screen(&mut state, 80, 24), "• before: the run before"));
}

#[test]
fn text_that_does_not_fit_scrolls() {
    let mut state = state();
    for line in 0..40 {
        state.say(&format!("line {line}.\n"));
    }
    state.say(&"a word that wraps ".repeat(8));
    let drawn = screen(&mut state, 80, 24);
    assert!(shows(&drawn, "line 39.") && shows(&drawn, "a word that wraps") && !shows(&drawn, "line 30."));
    press(&mut state, Key::Char('\t'));
    assert_eq!(state.panel, WatchPane::Text);
    press(&mut state, Key::PageUp);
    let drawn = screen(&mut state, 80, 24);
    assert!(shows(&drawn, "line 30.") && shows(&drawn, " log, 31-34 of 42 "), "{drawn:#?}");
    // A scrolled-up log stays at its lines, also while more are added.
    state.say("and more\n");
    assert!(shows(&screen(&mut state, 80, 24), " log, 31-34 of 43 "));
    press(&mut state, Key::Home);
    assert!(shows(&screen(&mut state, 80, 24), "line 0."));
    press(&mut state, Key::End);
    assert!(shows(&screen(&mut state, 80, 24), "and more"));

    state.diagnose((0..40).map(|line| format!("found {line}.\n")).collect());
    let drawn = screen(&mut state, 80, 24);
    assert!(shows(&drawn, "found 0.") && shows(&drawn, "diagnostics, 1-10 of 40"), "{drawn:#?}");
    press(&mut state, Key::End);
    assert!(shows(&screen(&mut state, 80, 24), "found 39."));
    press(&mut state, Key::Up);
    let drawn = screen(&mut state, 80, 24);
    assert!(shows(&drawn, "found 38.") && !shows(&drawn, "found 39."), "the end holds");
}

#[test]
fn teachers_that_do_not_fit_scroll() {
    let mut state = state();
    state.event(&started("start", 1));
    let mut event = step("start", 1, 0, 0.0);
    let Event::Step { domains, .. } = &mut event else { unreachable!() };
    domains[0].teachers = (10..30)
        .map(|place| TeacherStep { teacher: format!("teacher {place}"), divergence: Some(0.5) })
        .collect();
    state.event(&event);
    assert!(shows(&screen(&mut state, 80, 24), "teacher 10"));
    press(&mut state, Key::Char('\t'));
    press(&mut state, Key::End);
    assert!(shows(&screen(&mut state, 80, 24), "teacher 29"));
    // A stage without teachers has no such panel.
    state.panel = WatchPane::Stages;
    press(&mut state, Key::Home);
    state.panel = WatchPane::Teachers;
    screen(&mut state, 80, 24);
    assert_eq!(state.panel, WatchPane::Stages);
}

#[test]
fn a_line_names_the_keys_and_a_page_explains_them() {
    let mut state = state();
    run_to(&mut state, 1.0);
    for (width, height) in [(60, 20), (80, 24), (200, 60)] {
        let drawn = screen(&mut state, width, height);
        assert!(drawn.last().is_some_and(|line| line.contains("? help")), "{drawn:#?}");
        assert_eq!(press(&mut state, Key::Char('?')), Action::Nothing);
        let drawn = screen(&mut state, width, height);
        for part in [" keys ", "the next metric", "smooth curves", "q, Ctrl-C", "twice: at once"] {
            assert!(shows(&drawn, part), "{part}: {drawn:#?}");
        }
        assert_eq!(press(&mut state, Key::Esc), Action::Nothing);
        assert!(!shows(&screen(&mut state, width, height), "smooth curves"));
    }
    assert_eq!(press(&mut state, Key::Char('q')), Action::Quit);
}

#[test]
fn the_view_is_legible_on_terminals_of_usual_sizes() {
    let mut state = state();
    run_to(&mut state, 1.0);
    for (width, height) in [(60, 20), (80, 24), (200, 60)] {
        let drawn = screen(&mut state, width, height);
        for part in ["stages", "copy 0.250", "last -0.500", "specialist[copy]", "log", "0.287", "19"] {
            assert!(shows(&drawn, part), "{width}x{height} {part}: {drawn:#?}");
        }
        let curve = |line: &String| line.chars().any(|c| ('\u{2801}'..='\u{28ff}').contains(&c));
        assert!(drawn.iter().any(curve), "{drawn:#?}");
    }
}
