//! Random objectives, from their text to their gradient: the loss and the derivative of the compiled graph
//! agree with a second evaluation of the same objective, written here, and with its central differences.

use mopd_expr::batch::{Batch, Layout};
use mopd_expr::interpret::interpret;
use mopd_expr::testing::Random;
use mopd_lang::source::SourceFile;
use mopd_plan::{ModelSignal, Objective, PlainSignal, Role, Signal, Stage};

/// The number of objectives that are compared.
const COMPARED: usize = 120;

/// The lengths of the completions, two of each prompt.
const LENGTHS: [usize; 4] = [3, 1, 2, 4];
const SAMPLES: usize = 2;

/// A formula, with one number per token.
enum Formula {
    Number(f64),
    /// `live student.logp`
    Live,
    /// `live ratio`
    Ratio,
    Detached(Detached),
    /// A function with its name in the language.
    Function(&'static str, fn(f64) -> f64, Box<Formula>),
    Operator(&'static str, fn(f64, f64) -> f64, Box<[Formula; 2]>),
    /// `min(x, y)` and `max(x, y)`
    Bound(&'static str, fn(f64, f64) -> f64, Box<[Formula; 2]>),
    Clip(Box<Formula>, f64, f64),
    /// `where(number > bound, x, y)`
    Where(Detached, f64, Box<[Formula; 2]>),
    /// `mean(x, over: sequence)`, or the sum
    OfSequence(bool, Box<Formula>),
}

/// A number without gradient.
#[derive(Clone, Copy)]
enum Detached {
    Student,
    Teacher,
    Old,
    Sampler,
    Entropy,
    Reward,
}

impl Detached {
    const EACH: [Detached; 6] = [
        Detached::Student,
        Detached::Teacher,
        Detached::Old,
        Detached::Sampler,
        Detached::Entropy,
        Detached::Reward,
    ];

    fn text(self) -> &'static str {
        match self {
            Detached::Student => "student.logp",
            Detached::Teacher => "teacher.logp",
            Detached::Old => "old.logp",
            Detached::Sampler => "sampler.logp",
            Detached::Entropy => "student.entropy",
            Detached::Reward => "reward",
        }
    }
}

/// What a batch gives.
struct Given {
    /// The live log-probabilities: none is at a kink of a formula of the other numbers, and none is 0.
    live: Vec<f32>,
    student: Vec<f32>,
    teacher: Vec<f32>,
    old: Vec<f32>,
    sampler: Vec<f32>,
    entropy: Vec<f32>,
    /// Per sequence.
    reward: Vec<f32>,
}

impl Given {
    fn new(random: &mut Random) -> Given {
        let tokens: usize = LENGTHS.iter().sum();
        let mut logps = || (0..tokens).map(|_| -2.25 + random.number()).collect::<Vec<f32>>();
        let (student, teacher, old, sampler) = (logps(), logps(), logps(), logps());
        let live = logps().into_iter().map(|logp| logp + 0.0013).collect();
        let entropy = logps().into_iter().map(f32::abs).collect();
        let reward = LENGTHS.iter().map(|_| random.number().abs() / 2.0).collect();
        Given { live, student, teacher, old, sampler, entropy, reward }
    }

    fn of(&self, number: Detached) -> Vec<f64> {
        let wide = |values: &[f32]| values.iter().map(|value| f64::from(*value)).collect();
        match number {
            Detached::Student => wide(&self.student),
            Detached::Teacher => wide(&self.teacher),
            Detached::Old => wide(&self.old),
            Detached::Sampler => wide(&self.sampler),
            Detached::Entropy => wide(&self.entropy),
            Detached::Reward => sequence_of_token().iter().map(|own| f64::from(self.reward[*own])).collect(),
        }
    }
}

fn sequence_of_token() -> Vec<usize> {
    LENGTHS.iter().enumerate().flat_map(|(sequence, length)| vec![sequence; *length]).collect()
}

impl Formula {
    fn random(random: &mut Random, depth: usize) -> Formula {
        use Formula::*;
        if depth == 0 {
            return match random.below(8) {
                0 => Number([0.5, 1.0, -0.25, 2.0][random.below(4)]),
                1..=3 => Live,
                4 => Ratio,
                _ => Detached(random.pick(&self::Detached::EACH)),
            };
        }
        let inner = |random: &mut Random| Box::new(Formula::random(random, depth - 1));
        let two = |random: &mut Random| {
            Box::new([Formula::random(random, depth - 1), Formula::random(random, depth - 1)])
        };
        match random.below(16) {
            0 => Function("-", |x| -x, inner(random)),
            1 => Function("abs", f64::abs, inner(random)),
            2 => Function("exp", f64::exp, inner(random)),
            3 => Function("tanh", f64::tanh, inner(random)),
            4 => Function("sigmoid", |x| 1.0 / (1.0 + (-x).exp()), inner(random)),
            5 => Function("relu", |x| x.max(0.0), inner(random)),
            6 => Clip(inner(random), -0.5, 0.75),
            7 => Bound("min", f64::min, two(random)),
            8 => Bound("max", f64::max, two(random)),
            9 => Where(random.pick(&self::Detached::EACH), f64::from(random.number()), two(random)),
            10 => OfSequence(random.below(2) == 0, inner(random)),
            11 => Operator("+", |x, y| x + y, two(random)),
            12 | 13 => Operator("-", |x, y| x - y, two(random)),
            14 => Operator("/", |x, y| x / y, two(random)),
            _ => Operator("*", |x, y| x * y, two(random)),
        }
    }

    fn text(&self) -> String {
        match self {
            Formula::Number(value) => format!("({value:?})"),
            Formula::Live => "live student.logp".into(),
            Formula::Ratio => "live ratio".into(),
            Formula::Detached(number) => number.text().into(),
            Formula::Function(name, _, x) => format!("{name}({})", x.text()),
            Formula::Operator(symbol, _, both) => format!("({} {symbol} {})", both[0].text(), both[1].text()),
            Formula::Bound(name, _, both) => format!("{name}({}, {})", both[0].text(), both[1].text()),
            Formula::Clip(x, low, high) => format!("clip({}, {low:?}, {high:?})", x.text()),
            Formula::Where(number, bound, both) => {
                format!("where({} > {bound:?}, {}, {})", number.text(), both[0].text(), both[1].text())
            }
            Formula::OfSequence(mean, x) => {
                format!("{}({}, over: sequence)", if *mean { "mean" } else { "sum" }, x.text())
            }
        }
    }

    /// The values of all tokens, for these live log-probabilities.
    fn values(&self, given: &Given, live: &[f64]) -> Vec<f64> {
        let of = |formula: &Formula| formula.values(given, live);
        let both = |both: &[Formula; 2], apply: &dyn Fn(usize, f64, f64) -> f64| {
            let (left, right) = (of(&both[0]), of(&both[1]));
            (0..live.len()).map(|token| apply(token, left[token], right[token])).collect()
        };
        match self {
            Formula::Number(value) => vec![*value; live.len()],
            Formula::Live => live.to_vec(),
            Formula::Ratio => {
                let old = given.of(Detached::Old);
                live.iter().zip(old).map(|(live, old)| (live - old).exp()).collect()
            }
            Formula::Detached(number) => given.of(*number),
            Formula::Function(_, apply, x) => of(x).into_iter().map(apply).collect(),
            Formula::Operator(_, apply, operands) | Formula::Bound(_, apply, operands) => {
                both(operands, &|_, left, right| apply(left, right))
            }
            Formula::Clip(x, low, high) => of(x).into_iter().map(|x| x.clamp(*low, *high)).collect(),
            Formula::Where(number, bound, operands) => {
                let number = given.of(*number);
                both(operands, &|token, left, right| if number[token] > *bound { left } else { right })
            }
            Formula::OfSequence(mean, x) => {
                let (values, own) = (of(x), sequence_of_token());
                let of_sequence = |sequence: usize| {
                    let sum: f64 =
                        (0..own.len()).filter(|at| own[*at] == sequence).map(|at| values[at]).sum();
                    if *mean { sum / LENGTHS[sequence] as f64 } else { sum }
                };
                own.iter().map(|sequence| of_sequence(*sequence)).collect()
            }
        }
    }
}

/// A reduction: its text, and the same by hand. `counted` are the selected tokens, and `applies` those of
/// them where the term applies.
type Reduction = (&'static str, fn(&[f64], &[bool], &[bool]) -> f64);

const REDUCTIONS: [Reduction; 6] = [
    ("mean(token) then mean(sequence)", |values, counted, _| mean(&each_sequence(values, counted))),
    ("mean(token, over: batch)", |values, counted, _| {
        sum_of(values, counted) / counted.iter().filter(|counted| **counted).count() as f64
    }),
    ("sum(token, over: batch) / 8", |values, counted, _| sum_of(values, counted) / 8.0),
    ("mean(token) then sum(sequence)", |values, counted, _| {
        each_sequence(values, counted).into_iter().map(|(mean, _)| mean).sum()
    }),
    ("mean(token, among: when) then mean(sequence, among: when)", |values, _, applies| {
        mean(&each_sequence(values, applies))
    }),
    ("sum(token) then mean(sequence)", |values, counted, _| {
        let sums = each_sequence(values, counted);
        mean(&sums.into_iter().map(|(mean, count)| (mean * count, count)).collect::<Vec<(f64, f64)>>())
    }),
];

fn sum_of(values: &[f64], counted: &[bool]) -> f64 {
    values.iter().zip(counted).filter(|(_, counted)| **counted).map(|(value, _)| value).sum()
}

/// The mean of each sequence's counted values, and their number. Sequences without any are left out.
fn each_sequence(values: &[f64], counted: &[bool]) -> Vec<(f64, f64)> {
    let own = sequence_of_token();
    let sequence = |sequence: usize| {
        let here: Vec<f64> =
            (0..own.len()).filter(|at| own[*at] == sequence && counted[*at]).map(|at| values[at]).collect();
        (!here.is_empty()).then(|| (here.iter().sum::<f64>() / here.len() as f64, here.len() as f64))
    };
    (0..LENGTHS.len()).filter_map(sequence).collect()
}

fn mean(sequences: &[(f64, f64)]) -> f64 {
    sequences.iter().map(|(mean, _)| mean).sum::<f64>() / sequences.len() as f64
}

/// An objective of one term.
struct RandomObjective {
    value: Formula,
    weight: Option<Detached>,
    select: Option<(Detached, f64)>,
    when: Option<(Detached, f64)>,
    reduction: Reduction,
}

impl RandomObjective {
    fn new(random: &mut Random) -> RandomObjective {
        let depth = 1 + random.below(3);
        let value = Formula::random(random, depth);
        let condition =
            |random: &mut Random| (random.pick(&Detached::EACH), f64::from(random.number()) - 1.0);
        let weight = (random.below(3) == 0).then(|| random.pick(&Detached::EACH));
        let select = (random.below(3) == 0).then(|| condition(random));
        let when = (random.below(3) == 0).then(|| condition(random));
        RandomObjective { value, weight, select, when, reduction: random.pick(&REDUCTIONS) }
    }

    fn text(&self) -> String {
        let condition = |(number, bound): &(Detached, f64)| format!("{} > {bound:?}", number.text());
        let weight = self.weight.map(|of| format!("  weight = 0.5 * {}\n", of.text())).unwrap_or_default();
        let select = self.select.as_ref().map(|of| format!("  select = {}\n", condition(of)));
        let when = self.when.as_ref().map(|of| format!(" {{ when = {} }}", condition(of)));
        format!(
            "objective o {{\n{weight}{}  term t = {}{}\n  reduce = {}\n}}\n",
            select.unwrap_or_default(),
            self.value.text(),
            when.unwrap_or_default(),
            self.reduction.0
        )
    }

    fn loss(&self, given: &Given, live: &[f64]) -> f64 {
        let holds = |of: &Option<(Detached, f64)>| match of {
            Some((number, bound)) => given.of(*number).into_iter().map(|number| number > *bound).collect(),
            None => vec![true; live.len()],
        };
        let (counted, when): (Vec<bool>, Vec<bool>) = (holds(&self.select), holds(&self.when));
        let applies: Vec<bool> = counted.iter().zip(&when).map(|(counted, when)| *counted && *when).collect();
        let weight = self.weight.map_or_else(|| vec![2.0; live.len()], |of| given.of(of));
        let values: Vec<f64> = self
            .value
            .values(given, live)
            .into_iter()
            .zip(&weight)
            .zip(&when)
            .map(|((value, weight), when)| if *when { 0.5 * weight * value } else { 0.0 })
            .collect();
        (self.reduction.1)(&values, &counted, &applies)
    }
}

fn compiled(objective: &str) -> Option<Objective> {
    let text = format!(
        r#"experiment "e" {{ seed = 1 }}
domain sort {{ prompts = "sort.jsonl", reward = exact_match }}
model base = llama {{ layers = 2, width = 64, heads = 2, context = 48, tokenizer = bytes }}
model other = llama {{ layers = 1, width = 64, heads = 2, context = 48, tokenizer = bytes }}
teacher one = other {{ origin = foreign }}
route {{ else -> one }}
{objective}model student = distill(base) {{
  objective = o, rollout = sample(n: 2, temperature: 1, max_tokens: 4), prompts = 2, steps = 10, lr = 1e-3
}}
"#
    );
    let analysis = mopd_lang::analyse(SourceFile { path: "e.mopd".into(), text }, &crate::support::library);
    let experiment = analysis.experiment.as_ref()?;
    let plan = mopd_compiler::compile(experiment, &analysis.origins, &analysis.sources, false).ok()?;
    let student = plan.experiment.models.into_iter().find(|model| model.name == "student")?;
    let Stage::Train(train) = student.stage else { panic!("the student is trained") };
    Some(train.objective)
}

/// The loss of the compiled graph, and its derivative by each token's live log-probability.
fn of_graph(objective: &Objective, given: &Given) -> (f64, Vec<f64>) {
    let outputs = objective.outputs();
    let worth = |signal: &Signal| match signal {
        Signal::Of { role: Role::Student, part: ModelSignal::Logp } => given.student.clone(),
        Signal::Of { role: Role::Old, part: ModelSignal::Logp } => given.old.clone(),
        Signal::Of { role: Role::Sampler, part: ModelSignal::Logp } => given.sampler.clone(),
        Signal::Of { role: Role::TEACHER, part: ModelSignal::Logp } => given.teacher.clone(),
        Signal::Of { role: Role::Student, part: ModelSignal::Entropy } => given.entropy.clone(),
        Signal::Plain(PlainSignal::Reward) => given.reward.clone(),
        other => panic!("{other:?} is in no formula"),
    };
    let signals =
        objective.graph.signals(&outputs).into_iter().map(|signal| (signal.clone(), worth(&signal)));
    let number = |index: usize| index as u32;
    let layout = Layout {
        sequence_of_token: sequence_of_token().into_iter().map(number).collect(),
        group_of_sequence: (0..LENGTHS.len()).map(|sequence| number(sequence / SAMPLES)).collect(),
        groups: number(LENGTHS.len() / SAMPLES),
        ..Layout::default()
    };
    let batch = Batch {
        layout,
        signals: signals.collect(),
        live: vec![given.live.clone(); objective.live.len()],
        step: 0,
        steps: 10,
        ..Batch::default()
    };
    let values = interpret(&objective.graph, &outputs, &batch).expect("everything is given");
    let of_token = |token: usize| objective.live.iter().map(|live| values.get(live.adjoint)[token]).sum();
    (values.get(objective.loss)[0], (0..given.live.len()).map(of_token).collect())
}

#[test]
fn compiled_gradients_agree_with_finite_differences() {
    let mut random = Random(7);
    let (mut compared, mut derivatives, mut kinks, mut refused) = (0, 0, 0, 0);
    while compared < COMPARED {
        let objective = RandomObjective::new(&mut random);
        let text = objective.text();
        let given = Given::new(&mut random);
        assert!(refused < 40 * COMPARED, "hardly any objective is valid");
        let Some(planned) = compiled(&text) else {
            refused += 1;
            continue;
        };
        let live: Vec<f64> = given.live.iter().map(|live| f64::from(*live)).collect();
        let known = objective.loss(&given, &live);
        let (loss, gradient) = of_graph(&planned, &given);
        // Nothing is selected here, or numbers overflow.
        if !known.is_finite() || known.abs() > 1e6 {
            continue;
        }
        assert!((loss - known).abs() <= 1e-9 * known.abs().max(1.0), "{text}{loss} is not {known}");
        let difference = |token: usize, step: f64| {
            let at = |sign: f64| {
                let mut moved = live.clone();
                moved[token] += sign * step;
                objective.loss(&given, &moved)
            };
            (at(1.0) - at(-1.0)) / (2.0 * step)
        };
        for (token, derivative) in gradient.iter().enumerate() {
            let (near, far) = (difference(token, 1e-5), difference(token, 3e-5));
            let size = near.abs().max(far.abs()).max(1.0);
            // Beside a kink, both differ.
            if (near - far).abs() > 1e-6 * size {
                kinks += 1;
                continue;
            }
            assert!(
                (derivative - near).abs() <= 1e-5 * size,
                "{text}token {token}: {derivative} is not {near}"
            );
            derivatives += usize::from(near.abs() > 1e-6);
        }
        compared += 1;
    }
    println!(
        "{compared} objectives, {derivatives} derivatives other than 0, {kinks} at kinks, {refused} refused"
    );
    assert!(derivatives > 4 * COMPARED && kinks < derivatives / 10, "{derivatives} {kinks}");
}
