//! Normal forms distinguish objectives: two that compute different numbers print differently, and an
//! objective prints the same whatever its names and layout.

use mopd_compiler::audit::{ToyModel, expected};
use mopd_compiler::normal_form;
use mopd_experiment::Objective;
use mopd_lang::source::SourceFile;

fn objectives(text: &str) -> Vec<Objective> {
    let entry = SourceFile { path: "o.mopd".into(), text: text.to_owned() };
    mopd_lang::analyse(entry, &|_| None).objectives.into_iter().map(|named| named.objective).collect()
}

fn text_of(body: &str) -> String {
    format!("objective o {{\n{body}\nreduce = mean(token, over: batch)\n}}\n")
}

fn objective(body: &str) -> Option<Objective> {
    objectives(&text_of(body)).into_iter().next()
}

/// All slots.
fn normal_form_of(objective: &Objective) -> String {
    format!("{:#?}", normal_form(objective, None))
}

fn form_of(body: &str) -> String {
    let found = || {
        mopd_lang::analyse(SourceFile { path: "o.mopd".into(), text: text_of(body) }, &|_| None).diagnostics
    };
    normal_form_of(&objective(body).unwrap_or_else(|| panic!("{:.60}: {:?}", body, found())))
}

#[test]
fn factors_logarithms_shares_and_arguments_are_printed() {
    let alpha = "live alpha(teacher || student, alpha: 0.3)";
    let bodies = [
        format!("term t = {alpha}"),
        format!("term t = 0.7 / 1.3 * {alpha}"),
        format!("term t = -log(1 - 0.1 * {alpha})"),
        format!("term t = -log(1 - 0.2 * {alpha})"),
        format!("term t = (1 + student.entropy) * {alpha}"),
        format!("term t = (1 + teacher.entropy) * {alpha}"),
        format!("term t = {alpha} * {alpha}"),
        format!("weight = student.entropy\nterm t = {alpha}"),
        "term t = live kl(student || detached(blend(teacher: 0.1, student: 0.9)))".into(),
        "term t = live kl(student || detached(blend(teacher: linear(0 -> 1), student: 1 - linear(0 -> 1))))"
            .into(),
        "term t = live kl(student || detached(blend(teacher: linear(0 -> 0.9), student: 1 - linear(0 -> \
         0.9))))"
            .into(),
        "term t = top_fraction(student.entropy, keep: 0.5, over: batch) * live kl(student || teacher)".into(),
        "term t = top_fraction(student.entropy, keep: 0.2, over: batch) * live kl(student || teacher)".into(),
        "term t = top_fraction(student.entropy, keep: 0.2, over: batch, among: correct) * live kl(student \
         || teacher)"
            .into(),
        "term t = reward_to_go(student.logp - teacher.logp, discount: 0.9, over: sequence) * live \
         student.logp"
            .into(),
        "term t = reward_to_go(student.logp - teacher.logp, discount: 0.8, over: sequence) * live \
         student.logp"
            .into(),
        "term t = ema(mean(student.entropy, over: batch), rate: 0.9) * live kl(student || teacher)".into(),
        "term t = ema(mean(student.entropy, over: batch), rate: 0.8) * live kl(student || teacher)".into(),
    ];
    let forms: Vec<String> = bodies.iter().map(|body| form_of(body)).collect();
    for (place, one) in forms.iter().enumerate() {
        for other in 0..place {
            assert_ne!(*one, forms[other], "{} and {}", bodies[place], bodies[other]);
        }
    }
}

/// Long formulas are written out as well, and formulas inside formulas.
#[test]
fn normal_form_is_never_truncated() {
    let long = |last: &str| {
        let sum: Vec<String> =
            (0..25).map(|place| format!("{}.5 * student.top1 * teacher.top1", place + 1)).collect();
        form_of(&format!(
            "select = {} + {last} > 0\nterm t = ({} + {last}) * live student.logp",
            sum.join(" + "),
            sum.join(" + ")
        ))
    };
    assert_ne!(long("1"), long("2"));
    assert!(!long("1").contains("..."));
    let nested = |rate: &str| {
        let among = format!("quantile(student.entropy, q: {rate}, over: batch, among: reward > 0.5) > 0.1");
        form_of(&format!("term t = mean(teacher.entropy, over: batch, among: {among}) * live student.logp"))
    };
    assert_ne!(nested("0.5"), nested("0.6"));
}

#[test]
fn generators_of_one_name_are_two() {
    let with = |value: &str| {
        let text = format!(
            "divergence mine(u) = {value}\nobjective o {{\nterm t = mine(student || teacher) * live \
             student.logp\nreduce = mean(token, over: batch)\n}}\n"
        );
        normal_form_of(objectives(&text).first().unwrap_or_else(|| panic!("{value} is a generator")))
    };
    assert_ne!(with("(u - 1)^2"), with("2 * (u - 1)^2"));
}

#[test]
fn names_and_layout_make_no_difference() {
    let one = "let gap = teacher.logp - student.logp\nlet w = 1 + student.entropy\nterm t = -w * gap * live \
               student.logp + w * live kl(student || teacher)";
    let other = "let g   =   (teacher.logp\n  - student.logp)\nterm other = (-(1 + student.entropy) * g\n  \
                 * live student.logp + ((1 + student.entropy)) * live kl(student || teacher))";
    assert_eq!(form_of(one), form_of(other));
    let named = |name: &str, parameter: &str| {
        let text = format!(
            "objective {name}({parameter}: nats = 5) {{\nterm t = -clip(teacher.logp - student.logp, \
             -{parameter}, {parameter}) * live student.logp\nreduce = mean(token, over: batch)\n}}\n"
        );
        normal_form_of(&objectives(&text)[0])
    };
    assert_eq!(named("a", "clip_at"), named("b", "bound"));
}

/// Random numbers from a seed.
struct Chance(u64);

impl Chance {
    fn of(&mut self, count: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % count
    }

    fn one<'a>(&mut self, among: &[&'a str]) -> &'a str {
        among[self.of(among.len())]
    }

    fn number(&mut self) -> &'static str {
        self.one(&["0.1", "0.25", "0.3", "0.5", "0.75", "0.9"])
    }

    /// A number per token that carries no gradient.
    fn factor(&mut self, depth: usize) -> String {
        if depth == 0 {
            return match self.of(6) {
                0 => self.number().to_owned(),
                1 => self
                    .one(&["student.entropy", "teacher.entropy", "student.top1", "teacher.top1"])
                    .to_owned(),
                2 => "(student.logp - teacher.logp)".to_owned(),
                3 => format!("in_nucleus(teacher, p: {})", self.number()),
                4 => format!("skew(student || teacher, lambda: {})", self.number()),
                _ => format!("overlap(student, teacher, k: {})", 1 + self.of(4)),
            };
        }
        let (left, right) = (self.factor(depth - 1), self.factor(depth - 1));
        match self.of(8) {
            0 => format!("({left} * {right})"),
            1 => format!("({left} / (1 + {right}))"),
            2 => format!("exp(0 - abs({left}))"),
            3 => format!("clip({left}, -{}, {})", self.number(), self.number()),
            4 => format!("tanh({left} * {right})"),
            5 => format!("where({left} > {}, 1, {})", self.number(), self.number()),
            6 => format!("(1 - {left} * {})", self.number()),
            _ => format!("max({left} * 1, {right} * 1)"),
        }
    }

    fn live(&mut self) -> String {
        let sides = self.one(&["student || teacher", "teacher || student"]).to_owned();
        match self.of(8) {
            0 => "live student.logp".to_owned(),
            1 => format!("live kl({sides})"),
            2 => format!("live alpha({sides}, alpha: {})", self.number()),
            3 => format!("live jsd(student, teacher, beta: {})", self.number()),
            4 => format!("live skew({sides}, lambda: {})", self.number()),
            5 => format!(
                "live kl({sides}, support: top_k(teacher, {}), mass: {})",
                1 + self.of(3),
                self.one(&["tail", "raw", "generalized"])
            ),
            6 => {
                let share = self.number();
                format!("live kl(student || detached(blend(teacher: {share}, student: 1 - {share})))")
            }
            _ => format!("live kl({sides}, temperature: {})", self.one(&["0.5", "2"])),
        }
    }

    fn body(&mut self) -> String {
        let mut body = String::new();
        if self.of(4) == 0 {
            body += &format!("weight = {}\n", self.factor(1));
        }
        if self.of(4) == 0 {
            body +=
                &format!("select = {} > {}\n", self.one(&["student.top1", "teacher.top1"]), self.number());
        }
        let (factor, live) = (self.factor(self.0 as usize % 3), self.live());
        let value = match self.of(5) {
            0 => live,
            1 => format!("-log(1 + {} * exp({live} * 1))", self.number()),
            2 => format!("{factor} * {live} - {} * {}", self.factor(1), self.live()),
            3 => format!("sigmoid({live} * {factor})"),
            _ => format!("{factor} * {live}"),
        };
        body + &format!("term t = {value}")
    }
}

/// Value and gradient on toy models in which no two numbers are equal by chance.
fn meaning(objective: &Objective) -> Option<Vec<f64>> {
    let toys = [
        ToyModel::from_distributions(&[0.31, 0.29, 0.19, 0.15, 0.06], &[0.48, 0.24, 0.16, 0.08, 0.04]),
        ToyModel::from_distributions(&[0.11, 0.19, 0.23, 0.41, 0.06], &[0.07, 0.43, 0.16, 0.21, 0.13]),
    ];
    let mut numbers = Vec::new();
    for toy in toys {
        let found = expected(objective, 0, &toy).ok()?;
        numbers.push(found.value);
        numbers.extend(found.gradient);
    }
    Some(numbers)
}

/// Random objectives: if their numbers differ, so do their forms. Compares all pairs of a few hundred.
#[test]
fn objectives_that_compute_something_else_print_something_else() {
    let mut chance = Chance(7);
    let mut known: Vec<(String, String, Vec<f64>)> = Vec::new();
    for _ in 0..1500 {
        let body = chance.body();
        let Some(objective) = objective(&body) else { continue };
        let Some(meaning) = meaning(&objective) else { continue };
        known.push((body, normal_form_of(&objective), meaning));
    }
    assert!(known.len() > 400, "only {} objectives are sound", known.len());
    let mut different = 0;
    for (place, (body, form, meaning)) in known.iter().enumerate() {
        for (other, other_form, other_meaning) in &known[..place] {
            let differ =
                meaning.iter().zip(other_meaning).any(|(a, b)| (a - b).abs() > 1e-9 * (1.0 + a.abs()));
            different += usize::from(differ);
            assert!(!differ || form != other_form, "{body}\nand\n{other}\nprint\n{form}");
        }
    }
    assert!(different > 50_000, "{different}");
}
