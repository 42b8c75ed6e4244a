//! The results of an audit.

use mopd_experiment::formula::Role;
use serde::Serialize;

use super::later::LaterUpdates;

/// The relation of a gradient to named gradients.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// The gradient is a sum of fixed multiples of named gradients, usually of a single one.
    Follows {
        parts: Vec<GradientMultiple>,
    },
    /// The gradient is a named one, multiplied at each prefix by a number between these two bounds.
    Weighted {
        of: String,
        least: f64,
        most: f64,
    },
    /// A sum of verdicts.
    Sum {
        parts: Vec<Verdict>,
    },
    /// Multiples of named gradients, and a part that is independent of every teacher.
    WithTask {
        parts: Vec<GradientMultiple>,
        task: NearestTask,
    },
    /// The gradient is independent of every teacher.
    Task(NearestTask),
    /// Without the quoted parts of the formula, the gradient would follow `of`. Also the relative distance
    /// from that gradient, and the cosine of the angle between the two.
    Biased {
        of: Box<Verdict>,
        by: String,
        distance: f64,
        cosine: f64,
    },
    /// The mean gradient is exactly 0.
    Zero,
    /// The gradient is neither a named one nor a sum of some.
    Unnamed {
        nearest: String,
        cosine: f64,
    },
    NotAudited {
        why: String,
    },
    /// The verdicts on completions of two and of three tokens, which differ in their factors.
    ByLength {
        of_two: Box<Verdict>,
        of_three: Box<Verdict>,
    },
}

/// How far a verdict also holds for other completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Agreement {
    /// Up to numbers that are stated as those of the toy models.
    Same,
    /// The same gradients, with other factors.
    OtherFactors,
    Different,
}

/// A multiple, `times`, of the gradient of `of`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GradientMultiple {
    pub of: String,
    pub times: f64,
}

/// The named gradient nearest to one that is independent of teachers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NearestTask {
    /// Whether the term reads a teacher although its gradient does not depend on it.
    pub reads_teacher: bool,
    pub nearest: String,
    pub cosine: f64,
}

/// A part of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RunPhase {
    Throughout,
    Start,
    Middle,
    End,
    /// A step at which a schedule turns, or an alternation has another of its values.
    Step(u32),
}

impl RunPhase {
    fn text(self) -> String {
        match self {
            RunPhase::Throughout => String::new(),
            RunPhase::Start => "at the start: ".into(),
            RunPhase::Middle => "in the middle: ".into(),
            RunPhase::End => "at the end: ".into(),
            RunPhase::Step(step) => format!("at step {step}: "),
        }
    }
}

/// A verdict with its conditions and notes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TermVerdict {
    pub when: RunPhase,
    /// The values of states for which the verdict holds, if it does not hold for all that were tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub states: Option<String>,
    /// The tokens for which the verdict holds.
    pub on: String,
    #[serde(flatten)]
    pub verdict: Verdict,
    /// The divergence that the mean value is a multiple of, if any.
    pub value_estimates: Option<String>,
    /// Whether the gradient vanishes where the student equals every role that it is compared with. `None`
    /// where that has no meaning.
    pub stationary_at_teacher: Option<bool>,
    /// What the gradient follows in later updates from a batch. `None` if there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub later: Option<LaterUpdates>,
    pub notes: Vec<String>,
}

impl TermVerdict {
    pub(super) fn not_audited(when: RunPhase, on: String, why: String) -> TermVerdict {
        let verdict = Verdict::NotAudited { why };
        TermVerdict {
            when,
            states: None,
            on,
            verdict,
            value_estimates: None,
            stationary_at_teacher: None,
            later: None,
            notes: Vec::new(),
        }
    }

    /// The divergence of the value and that of the gradient, if they differ. The reported loss is then not
    /// what is trained.
    pub fn misleads(&self) -> Option<(&str, &str)> {
        let value = self.value_estimates.as_deref()?;
        match &self.verdict {
            Verdict::Follows { parts } => match parts.as_slice() {
                [part] if part.of != value => Some((value, &part.of)),
                _ => None,
            },
            _ => None,
        }
    }

    /// The verdict as text, one line for each statement.
    pub fn lines(&self) -> Vec<String> {
        let states = self.states.as_ref().map(|states| format!("with {states}: ")).unwrap_or_default();
        let mut lines = vec![format!("{}{states}{}", self.when.text(), self.verdict.text())];
        if let Some((value, gradient)) = self.misleads() {
            lines.push(format!("its value estimates {value}, its gradient is of {gradient}"));
        } else if let (Verdict::Zero, Some(value)) = (&self.verdict, &self.value_estimates) {
            lines.push(format!("its value estimates {value}; the gradient does not lower it"));
        }
        if self.stationary_at_teacher == Some(false) {
            lines.push("not stationary where the student equals its teacher".into());
        }
        lines.extend(self.notes.iter().cloned());
        lines.extend(self.later.iter().map(|later| later.text(&self.verdict)));
        lines
    }
}

/// The findings about a term: several if the sampler of the tokens or a schedule makes a difference.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TermAudit {
    pub term: String,
    pub findings: Vec<TermVerdict>,
}

impl TermAudit {
    /// The findings as text, one line for each statement.
    pub fn lines(&self) -> Vec<String> {
        // What is said of several kinds of tokens is said once.
        let mut blocks: Vec<(Vec<String>, Vec<&str>)> = Vec::new();
        for finding in &self.findings {
            let lines = finding.lines();
            match blocks.iter_mut().find(|(known, _)| *known == lines) {
                Some((_, on)) if on.contains(&finding.on.as_str()) => {}
                Some((_, on)) => on.push(&finding.on),
                None => blocks.push((lines, vec![&finding.on])),
            }
        }
        let several = self.findings.iter().any(|finding| finding.on != self.findings[0].on);
        let lines = blocks.into_iter().flat_map(|(mut lines, on)| {
            if several {
                lines[0] = format!("on {}: {}", on.join(" and on "), lines[0]);
            }
            lines
        });
        lines.collect()
    }
}

/// The audit of every term of an objective.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Audit {
    pub objective: String,
    pub terms: Vec<TermAudit>,
    /// The sum of all terms, if each is a sum of multiples of named gradients, none has a reduction of its
    /// own and all are trained on the same tokens.
    pub whole: Option<Vec<GradientMultiple>>,
}

impl Verdict {
    /// Whether it states a relation to named gradients.
    pub(super) fn claims_factors(&self) -> bool {
        match self {
            Verdict::Follows { .. }
            | Verdict::Weighted { .. }
            | Verdict::Sum { .. }
            | Verdict::WithTask { .. }
            | Verdict::Biased { .. } => true,
            Verdict::Task(_)
            | Verdict::Zero
            | Verdict::Unnamed { .. }
            | Verdict::NotAudited { .. }
            | Verdict::ByLength { .. } => false,
        }
    }

    /// What can be said of completions of any length, from the verdict on two tokens and that on three.
    pub(super) fn with_longer(self, longer: Verdict) -> Verdict {
        match self.agreement(&longer) {
            // Where a condition holds for no token, the longer completions say nothing.
            _ if matches!(longer, Verdict::Zero | Verdict::NotAudited { .. }) => self,
            Agreement::Same => self,
            Agreement::OtherFactors => {
                Verdict::ByLength { of_two: Box::new(self), of_three: Box::new(longer) }
            }
            Agreement::Different => longer,
        }
    }

    /// Whether another verdict is the same, up to numbers that are stated as those of the toy models.
    pub(super) fn is_same(&self, other: &Verdict) -> bool {
        self.agreement(other) == Agreement::Same
    }

    /// Whether another verdict is more than the same one with other factors.
    pub(super) fn turns_into(&self, other: &Verdict) -> bool {
        match (self, other) {
            (Verdict::Zero, Verdict::Zero) | (Verdict::NotAudited { .. }, Verdict::NotAudited { .. }) => {
                false
            }
            (Verdict::Task(a), Verdict::Task(b)) => a.nearest != b.nearest || a.cosine * b.cosine < 0.0,
            (Verdict::Unnamed { nearest: a, cosine: x }, Verdict::Unnamed { nearest: b, cosine: y }) => {
                a != b || x * y < 0.0
            }
            _ => self.agreement(other) == Agreement::Different || self.signs() != other.signs(),
        }
    }

    /// The signs of its factors.
    fn signs(&self) -> Vec<bool> {
        match self {
            Verdict::Follows { parts } | Verdict::WithTask { parts, .. } => {
                parts.iter().map(|part| part.times > 0.0).collect()
            }
            Verdict::Weighted { least, most, .. } => vec![*least >= 0.0, *most > 0.0],
            Verdict::Sum { parts } => parts.iter().flat_map(Verdict::signs).collect(),
            Verdict::Biased { of, .. } => of.signs(),
            Verdict::ByLength { of_two, .. } => of_two.signs(),
            _ => Vec::new(),
        }
    }

    /// Whether it does not hold for other completions, of which `other` is the verdict. Where these have no
    /// gradient, they say nothing.
    pub(super) fn fails_in(&self, other: &Verdict) -> bool {
        !matches!(other, Verdict::Zero | Verdict::NotAudited { .. })
            && self.agreement(other) == Agreement::Different
    }

    fn agreement(&self, other: &Verdict) -> Agreement {
        let equal = |same: bool| if same { Agreement::Same } else { Agreement::Different };
        match (self, other) {
            (Verdict::Follows { parts: a }, Verdict::Follows { parts: b })
            | (Verdict::WithTask { parts: a, .. }, Verdict::WithTask { parts: b, .. }) => {
                if a.len() != b.len() || a.iter().zip(b).any(|(a, b)| a.of != b.of) {
                    return Agreement::Different;
                }
                let near = |(a, b): (&GradientMultiple, &GradientMultiple)| {
                    (a.times - b.times).abs() <= 1e-6 * a.times.abs().max(b.times.abs())
                };
                if a.iter().zip(b).all(near) { Agreement::Same } else { Agreement::OtherFactors }
            }
            (Verdict::ByLength { of_two: a, of_three: x }, Verdict::ByLength { of_two: b, of_three: y }) => {
                a.agreement(b).max(x.agreement(y))
            }
            (Verdict::Weighted { of: a, .. }, Verdict::Weighted { of: b, .. }) => equal(a == b),
            (Verdict::Biased { of: a, by: x, .. }, Verdict::Biased { of: b, by: y, .. }) if x == y => {
                a.agreement(b)
            }
            (Verdict::Sum { parts: a }, Verdict::Sum { parts: b }) if a.len() == b.len() => {
                let parts = a.iter().zip(b).map(|(a, b)| a.agreement(b));
                parts.max().unwrap_or(Agreement::Same)
            }
            _ => Agreement::Different,
        }
    }

    /// The only gradient that is followed, with or without a weight per prefix.
    pub(super) fn one_gradient(&self) -> Option<&str> {
        match self {
            Verdict::Follows { parts } => match parts.as_slice() {
                [part] => Some(&part.of),
                _ => None,
            },
            Verdict::Weighted { of, .. } => Some(of),
            Verdict::ByLength { of_two, .. } => of_two.one_gradient(),
            _ => None,
        }
    }

    /// Whether a part of it leads away from a role. `None` if it is no sum of multiples of named gradients.
    pub(super) fn leads_away_from(&self, role: &Role) -> Option<bool> {
        let Verdict::Follows { parts } = self else { return None };
        let compared = format!("|| {})", role.name());
        Some(parts.iter().any(|part| part.of.ends_with(&compared) && part.times < 0.0))
    }

    /// The verdict in one line: `follows 1.00 * grad KL(student || teacher)`.
    pub fn text(&self) -> String {
        match self {
            Verdict::Follows { parts } => {
                let mixture = if parts.len() > 1 { "mixture: " } else { "" };
                format!("{mixture}follows {}", sum(parts))
            }
            Verdict::Weighted { of, least, most } => {
                format!(
                    "follows w * grad {of}, w a weight per prefix ({} to {} here)",
                    number(*least),
                    number(*most)
                )
            }
            Verdict::Sum { parts } => {
                let parts: Vec<String> = parts.iter().map(Verdict::text).collect();
                format!("mixture: {}", parts.join("; and "))
            }
            Verdict::WithTask { parts, task } => {
                format!("mixture: follows {}, and a part without a teacher, {}", sum(parts), task.text())
            }
            Verdict::Task(task) if task.reads_teacher => {
                format!("carries no teacher signal, though it reads one: {}", task.text())
            }
            Verdict::Task(task) => format!("no teacher is in it: {}", task.text()),
            Verdict::Biased { of, by, distance, cosine } => format!(
                "biased: without {by} it {}; with it, {} (cosine {cosine:.3})",
                of.text().replacen("follows", "would follow", 1),
                distance_text(*distance)
            ),
            Verdict::Zero => "carries no signal: the mean gradient is exactly 0".into(),
            Verdict::Unnamed { nearest, cosine } => {
                format!("no named divergence (nearest: {nearest}, cosine {cosine:.3})")
            }
            Verdict::NotAudited { why } => format!("not audited: {why}"),
            Verdict::ByLength { of_two, of_three } => {
                format!(
                    "by length: {} in completions of 2 tokens, {} in those of 3",
                    of_two.text(),
                    of_three.text()
                )
            }
        }
    }
}

impl NearestTask {
    fn text(&self) -> String {
        if self.nearest.is_empty() {
            return "nothing with a name is near".into();
        }
        format!("nearest to grad {} (cosine {:.3})", self.nearest, self.cosine)
    }
}

/// A sum as text: `0.50 * grad KL(teacher || student) - 1.00 * grad ...`.
pub fn sum(parts: &[GradientMultiple]) -> String {
    let mut text = String::new();
    for (place, part) in parts.iter().enumerate() {
        let sign = match (place, part.times < 0.0) {
            (0, false) => "",
            (0, true) => "-",
            (_, false) => " + ",
            (_, true) => " - ",
        };
        text += &format!("{sign}{} * grad {}", number(part.times.abs()), part.of);
    }
    text
}

/// A relative distance as text: `12% away`, or a multiple if it is large.
pub(super) fn distance_text(distance: f64) -> String {
    match distance {
        far if far < 0.005 => "less than 1% away".to_owned(),
        far if far < 10.0 => format!("{}% away", (far * 100.0).round()),
        far if far < 1000.0 => format!("{far:.0} times its size away"),
        _ => "more than 1000 times its size away".to_owned(),
    }
}

/// A number with two decimals, or with two significant digits.
fn number(value: f64) -> String {
    if value == 0.0 || (0.01..1e6).contains(&value.abs()) {
        format!("{value:.2}")
    } else {
        format!("{value:.1e}")
    }
}
