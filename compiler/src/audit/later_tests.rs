//! Later updates from a batch against sums over all completions, differentiated by central differences.
//! From the audit's code come the text of the verdict and the distributions of the toy models, and nothing
//! else.

use mopd_experiment::StageStep;
use mopd_experiment::formula::Role;
use mopd_lang::source::SourceFile;

use super::judge::Query;
use super::later::Staleness;
use super::leaves::reward;
use super::sampler::Sampler;
use super::teachers::Teachers;
use super::toy_model::{Drift, RunNumbers, ToyModel, ToyMoment};
use super::verdict::RunPhase;
use super::view::{SampleFilter, TermView};

/// Log-probabilities of all tokens after one prefix: of the student as it is differentiated, of the same as a
/// constant, of the policy that drew the tokens, and of the teacher.
struct Place<'a> {
    live: &'a [f64],
    student: &'a [f64],
    old: &'a [f64],
    teacher: &'a [f64],
    taken: usize,
}

impl Place<'_> {
    fn gap(&self) -> f64 {
        self.student[self.taken] - self.teacher[self.taken]
    }

    fn ratio(&self) -> f64 {
        (self.student[self.taken] - self.old[self.taken]).exp()
    }

    fn live_ratio(&self) -> f64 {
        (self.live[self.taken] - self.old[self.taken]).exp()
    }

    fn logp(&self) -> f64 {
        self.live[self.taken]
    }
}

fn kl(left: &[f64], right: &[f64]) -> f64 {
    left.iter().zip(right).map(|(left, right)| left.exp() * (left - right)).sum()
}

/// The term at one token of a completion, with the completion's reward.
type Loss = fn(&[Place], usize, f64) -> f64;

/// What a later update does, as it is known from theory.
enum Known {
    /// It follows the gradient of completions that the student would draw now.
    Fresh,
    /// It follows a sum of multiples of these divergences, with the given text.
    Sum(&'static [(f64, Side, Side)]),
    /// It is away from it, because of the weight of a token. `true`: far enough for a warning.
    Away(bool),
    /// It is away from it only because of bounds: without them, the term is this one.
    Bounds(Loss),
}

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Student,
    Teacher,
    Old,
}

/// Distributions after every prefix of a toy model.
struct Models {
    student: Vec<Vec<f64>>,
    old: Vec<Vec<f64>>,
    teacher: Vec<Vec<f64>>,
}

impl Models {
    fn new(toy: &ToyModel, drifted: bool) -> Models {
        let of = |role: &Role| -> Vec<Vec<f64>> {
            (0..toy.size.prefixes())
                .map(|prefix| toy.logp(role, prefix).map(<[f64]>::to_vec).unwrap_or_default())
                .collect()
        };
        let (student, teacher) = (of(&Role::Student), of(&Role::Teacher));
        let before = (0..toy.size.prefixes()).map(|prefix| toy.old_logp(prefix).expect("a student").to_vec());
        let old = if drifted { before.collect() } else { student.clone() };
        Models { student, old, teacher }
    }
}

const STEP: f64 = 1e-5;

/// The gradient by every logit of the mean over all completions that `old` draws, per token after a prefix.
fn gradient(toy: &ToyModel, models: &Models, loss: Loss) -> Vec<f64> {
    let size = toy.size;
    assert_eq!((size.prompts, size.samples), (1, 1));
    let mean = |live: &[Vec<f64>]| -> f64 {
        let mut total = 0.0;
        for tokens in size.completions() {
            let prefixes: Vec<usize> = (0..tokens.len()).map(|at| size.prefix(0, &tokens[..at])).collect();
            let drawn: f64 =
                prefixes.iter().zip(&tokens).map(|(prefix, token)| models.old[*prefix][*token]).sum();
            let places: Vec<Place> = prefixes
                .iter()
                .zip(&tokens)
                .map(|(prefix, token)| Place {
                    live: &live[*prefix],
                    student: &models.student[*prefix],
                    old: &models.old[*prefix],
                    teacher: &models.teacher[*prefix],
                    taken: *token,
                })
                .collect();
            let judged = reward(toy, 0, &tokens);
            total += drawn.exp() * (0..tokens.len()).map(|at| loss(&places, at, judged)).sum::<f64>();
        }
        total
    };
    let mut found = Vec::with_capacity(size.logits());
    for prefix in 0..size.prefixes() {
        let visits: f64 = size
            .completions()
            .iter()
            .filter(|tokens| (0..tokens.len()).any(|at| size.prefix(0, &tokens[..at]) == prefix))
            .map(|tokens| {
                let logp = |at: usize| models.old[size.prefix(0, &tokens[..at])][tokens[at]];
                (0..tokens.len()).map(logp).sum::<f64>().exp()
            })
            .sum();
        for entry in 0..size.vocabulary {
            let moved = |by: f64| {
                let mut live = models.student.clone();
                live[prefix][entry] += by;
                let total: f64 = live[prefix].iter().map(|logit| logit.exp()).sum();
                live[prefix].iter_mut().for_each(|logit| *logit -= total.ln());
                mean(&live)
            };
            found.push((moved(STEP) - moved(-STEP)) / (2.0 * STEP) / visits);
        }
    }
    found
}

fn norm(a: &[f64]) -> f64 {
    a.iter().map(|a| a * a).sum::<f64>().sqrt()
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    norm(&a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<f64>>()) / norm(b)
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() / norm(a) / norm(b)
}

/// The gradients of completions that the student would draw now, and of those that it drew, in all toy
/// models.
fn fresh_and_stale(toys: &[ToyModel], loss: Loss) -> [Vec<f64>; 2] {
    [false, true]
        .map(|drifted| toys.iter().flat_map(|toy| gradient(toy, &Models::new(toy, drifted), loss)).collect())
}

fn divergence(toys: &[ToyModel], left: Side, right: Side) -> Vec<f64> {
    fn both(left: Side, right: Side) -> Loss {
        match (left, right) {
            (Side::Student, Side::Teacher) => |of, at, _| kl(of[at].live, of[at].teacher),
            (Side::Teacher, Side::Student) => |of, at, _| kl(of[at].teacher, of[at].live),
            (Side::Student, Side::Old) => |of, at, _| kl(of[at].live, of[at].old),
            (Side::Old, Side::Student) => |of, at, _| kl(of[at].old, of[at].live),
            _ => panic!("one side is the student"),
        }
    }
    fresh_and_stale(toys, both(left, right))[1].clone()
}

fn name(side: Side) -> &'static str {
    match side {
        Side::Student => "student",
        Side::Teacher => "teacher",
        Side::Old => Role::Old.name(),
    }
}

/// `23% away`, as the audit writes it.
fn percent(distance: f64) -> String {
    format!("{}% away", (100.0 * distance).round())
}

/// Compares the audit's line on one objective with what the sums give.
fn compare(text: &str, loss: Loss, known: &Known) {
    let body = format!("objective o {{\nterm t = {text}\nreduce = mean(token, over: batch)\n}}\n");
    let analysis = mopd_lang::analyse(SourceFile { path: "o.mopd".into(), text: body }, &|_| None);
    let Some(named) = analysis.objectives.into_iter().next() else {
        panic!("{text}: {:?}", analysis.diagnostics)
    };
    let objective = named.objective;
    let query = || {
        let view = TermView::new(&objective, &objective.terms[0], SampleFilter::default());
        let step = StageStep { step: 0, steps: 1 };
        let moment = ToyMoment { step, run: RunNumbers::AtStep, longest: f64::INFINITY };
        Query::new(view, &Sampler::ON_POLICY, &Teachers::default(), moment).expect("a toy model")
    };
    let first = query().judge(RunPhase::Throughout);
    let later = query().in_later_updates().unwrap_or_else(|| panic!("{text} is not audited"));
    let said = later.text(&first.verdict);
    let warned = query().staleness();
    let toys = query().drifted(Drift::MODERATE).toys();
    let [fresh, stale] = fresh_and_stale(&toys, loss);
    let far = || {
        format!(
            "{} from the gradient of fresh completions (cosine {:.3})",
            percent(distance(&stale, &fresh)),
            cosine(&stale, &fresh)
        )
    };
    match known {
        Known::Fresh => {
            assert!(distance(&stale, &fresh) < 1e-6, "{text}: {}", distance(&stale, &fresh));
            let same =
                [format!("in later updates: {}", first.verdict.text()), "in later updates: the same".into()];
            assert!(same.contains(&said), "{text}: {said}");
            assert!(warned.is_none(), "{text}");
        }
        Known::Sum(parts) => {
            let mut sum = vec![0.0; stale.len()];
            for (times, left, right) in *parts {
                let own = divergence(&toys, *left, *right);
                sum.iter_mut().zip(own).for_each(|(sum, own)| *sum += times * own);
            }
            assert!(distance(&stale, &sum) < 1e-6, "{text}: {}", distance(&stale, &sum));
            for (times, left, right) in *parts {
                let part = format!("{:.2} * grad KL({} || {})", times.abs(), name(*left), name(*right));
                assert!(said.contains(&part), "{text}: {said} lacks {part}");
            }
            assert_eq!(said.matches("grad").count(), parts.len(), "{text}: {said}");
            // A pull away from the old policy, beside a term that trains in the first update.
            let away = parts.iter().any(|(times, _, right)| *times < 0.0 && *right == Side::Old);
            let stale = away && norm(&fresh) > 1e-6;
            assert_eq!(matches!(warned, Some(Staleness::AwayFromOld { .. })), stale, "{text}: {said}");
        }
        Known::Away(warns) => {
            assert_eq!(said, format!("in later updates: {}", far()), "{text}");
            assert_eq!(warned.is_some(), *warns, "{text}: {said}");
        }
        Known::Bounds(unbounded) => {
            let [fresh, stale] = fresh_and_stale(&toys, *unbounded);
            assert!(distance(&stale, &fresh) < 1e-6, "{text}: {}", distance(&stale, &fresh));
            assert_eq!(said, format!("in later updates: its bounds act: {}", far()), "{text}");
            assert!(warned.is_none(), "{text}");
        }
    }
}

#[test]
fn later_updates_are_those_of_sums_over_all_completions() {
    use Known::{Away, Bounds, Fresh, Sum};
    use Side::{Old, Student, Teacher};
    const G: &str = "(student.logp - teacher.logp)";
    const TOWARDS: (f64, Side, Side) = (1.0, Student, Teacher);
    let plain: Loss = |of, at, _| of[at].gap() * of[at].live_ratio();
    let cases: [(String, Loss, Known); 34] = [
        (
            format!("ratio * {G} * live student.logp"),
            |of, at, _| of[at].ratio() * of[at].gap() * of[at].logp(),
            Fresh,
        ),
        (format!("{G} * live ratio"), plain, Fresh),
        (
            format!("ratio^2 * {G} * live student.logp"),
            |of, at, _| of[at].ratio().powi(2) * of[at].gap() * of[at].logp(),
            Away(true),
        ),
        (
            format!("1 / ratio * {G} * live student.logp"),
            |of, at, _| of[at].gap() * of[at].logp() / of[at].ratio(),
            Away(true),
        ),
        (format!("{G} * live student.logp"), |of, at, _| of[at].gap() * of[at].logp(), Away(true)),
        (
            format!("ratio^0.5 * {G} * live student.logp"),
            |of, at, _| of[at].ratio().sqrt() * of[at].gap() * of[at].logp(),
            Away(false),
        ),
        (
            format!("ratio^3 * {G} * live student.logp"),
            |of, at, _| of[at].ratio().powi(3) * of[at].gap() * of[at].logp(),
            Away(true),
        ),
        (
            format!("ratio * {G} * live ratio"),
            |of, at, _| of[at].ratio() * of[at].gap() * of[at].live_ratio(),
            Away(true),
        ),
        (
            format!("1 / ratio * {G} * live ratio"),
            |of, at, _| of[at].gap() * of[at].live_ratio() / of[at].ratio(),
            Away(true),
        ),
        (
            "(sampler.logp - teacher.logp) * live ratio".into(),
            |of, at, _| (of[at].old[of[at].taken] - of[at].teacher[of[at].taken]) * of[at].live_ratio(),
            Sum(&[TOWARDS, (-1.0, Student, Old)]),
        ),
        (
            "(sampler.logp - teacher.logp) * ratio * live student.logp".into(),
            |of, at, _| {
                (of[at].old[of[at].taken] - of[at].teacher[of[at].taken]) * of[at].ratio() * of[at].logp()
            },
            Sum(&[TOWARDS, (-1.0, Student, Old)]),
        ),
        (
            "(sampler.logp - teacher.logp) * live student.logp".into(),
            |of, at, _| (of[at].old[of[at].taken] - of[at].teacher[of[at].taken]) * of[at].logp(),
            Away(true),
        ),
        (
            "(live student.logp - teacher.logp)^2 / 2".into(),
            |of, at, _| (of[at].logp() - of[at].teacher[of[at].taken]).powi(2) / 2.0,
            Away(true),
        ),
        (
            "ratio * (live student.logp - teacher.logp)^2 / 2".into(),
            |of, at, _| of[at].ratio() * (of[at].logp() - of[at].teacher[of[at].taken]).powi(2) / 2.0,
            Fresh,
        ),
        (
            "exp(teacher.logp - live student.logp) - 1 - (teacher.logp - live student.logp)".into(),
            |of, at, _| {
                let d = of[at].teacher[of[at].taken] - of[at].logp();
                d.exp() - 1.0 - d
            },
            Away(true),
        ),
        (
            "ratio * (exp(teacher.logp - live student.logp) - 1 - (teacher.logp - live student.logp))".into(),
            |of, at, _| {
                let d = of[at].teacher[of[at].taken] - of[at].logp();
                of[at].ratio() * (d.exp() - 1.0 - d)
            },
            Fresh,
        ),
        ("live kl(student || teacher)".into(), |of, at, _| kl(of[at].live, of[at].teacher), Fresh),
        ("live kl(teacher || student)".into(), |of, at, _| kl(of[at].teacher, of[at].live), Fresh),
        (
            "live kl(sampler || student)".into(),
            |of, at, _| kl(of[at].old, of[at].live),
            Sum(&[(1.0, Old, Student)]),
        ),
        (
            "live kl(student || sampler)".into(),
            |of, at, _| kl(of[at].live, of[at].old),
            Sum(&[(1.0, Student, Old)]),
        ),
        ("-(live student.logp)".into(), |of, at, _| -of[at].logp(), Sum(&[(1.0, Old, Student)])),
        (
            "(student.logp - sampler.logp) * live ratio".into(),
            |of, at, _| of[at].ratio().ln() * of[at].live_ratio(),
            Sum(&[(1.0, Student, Old)]),
        ),
        (
            format!("{G} * live ratio + 0.1 * live kl(sampler || student)"),
            |of, at, _| of[at].gap() * of[at].live_ratio() + 0.1 * kl(of[at].old, of[at].live),
            Sum(&[TOWARDS, (0.1, Old, Student)]),
        ),
        (
            format!("{G} * live ratio + 0.5 * (student.logp - sampler.logp) * live ratio"),
            |of, at, _| (of[at].gap() + 0.5 * of[at].ratio().ln()) * of[at].live_ratio(),
            Sum(&[TOWARDS, (0.5, Student, Old)]),
        ),
        (
            format!("{G} * clip(live ratio, 0.8, 1.2)"),
            |of, at, _| of[at].gap() * of[at].live_ratio().clamp(0.8, 1.2),
            Bounds(plain),
        ),
        (
            format!("max({G} * live ratio, {G} * clip(live ratio, 0.8, 1.2))"),
            |of, at, _| {
                let (gap, ratio) = (of[at].gap(), of[at].live_ratio());
                (gap * ratio).max(gap * ratio.clamp(0.8, 1.2))
            },
            Bounds(plain),
        ),
        (
            format!("min(ratio, 1.1) * {G} * live student.logp"),
            |of, at, _| of[at].ratio().min(1.1) * of[at].gap() * of[at].logp(),
            Bounds(plain),
        ),
        (
            format!("where(ratio < 1.2, {G} * live ratio, 0)"),
            |of, at, _| if of[at].ratio() < 1.2 { of[at].gap() * of[at].live_ratio() } else { 0.0 },
            Bounds(plain),
        ),
        (
            format!("clip(ratio, 0.8, 1.2)^2 * {G} * live student.logp"),
            |of, at, _| of[at].ratio().clamp(0.8, 1.2).powi(2) * of[at].gap() * of[at].logp(),
            Away(true),
        ),
        ("-reward * live ratio".into(), |of, at, reward| -reward * of[at].live_ratio(), Fresh),
        ("-reward * live student.logp".into(), |of, at, reward| -reward * of[at].logp(), Away(true)),
        (
            format!("student.entropy * {G} * live ratio"),
            |of, at, _| {
                let p = of[at].student;
                -p.iter().map(|logp| logp.exp() * logp).sum::<f64>() * of[at].gap() * of[at].live_ratio()
            },
            Fresh,
        ),
        // The tokens after it are those of the old policy: no fault of a token's weight.
        (
            format!("sum({G}, over: sequence) * live ratio"),
            |of, at, _| of.iter().map(Place::gap).sum::<f64>() * of[at].live_ratio(),
            Away(false),
        ),
        (
            "-reward * exp(mean(live student.logp - sampler.logp, over: sequence))".into(),
            |of, _, reward| {
                -reward
                    * (of.iter().map(|place| place.live_ratio().ln()).sum::<f64>() / of.len() as f64).exp()
                    / of.len() as f64
            },
            Away(false),
        ),
    ];
    for (text, loss, known) in &cases {
        compare(text, *loss, known);
    }
}
