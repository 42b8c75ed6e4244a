//! A term with all that multiplies and masks it, and what the audit asks of it before it evaluates anything.

use mopd_lang::experiment::{Objective, Term};
use mopd_lang::formula::{
    Adaptive, Axis, Divergence, Formula, FormulaKind, FormulaNode, Function, Live, ModelSignal, Reduction,
    Role, Signal, Statistic, Support,
};

use super::divergence::AuditRefusal;
use super::sampler::Sampler;
use super::toy_model::Size;

/// Formulas with more parts than this are not audited: nobody wrote them by hand.
const MOST_PARTS: usize = 2_000;

/// A term with all that multiplies and masks it.
pub(super) struct TermView<'a> {
    pub value: &'a Formula,
    pub select: Option<&'a Formula>,
    pub weight: Option<&'a Formula>,
    pub own_weight: Option<&'a Formula>,
    pub when: Option<&'a Formula>,
    pub left: Left<'a>,
    /// What the objective says of the temperature that tokens are scored at.
    pub temperature: Option<f64>,
}

/// What is left of the completions of a stage when its terms see them: all by default.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Left<'a> {
    /// Only those that the verifier accepts.
    pub kept: bool,
    /// Only those of prompts for which this holds.
    pub filter: Option<&'a Formula>,
}

impl<'a> TermView<'a> {
    pub fn of(objective: &'a Objective, term: &'a Term, left: Left<'a>) -> TermView<'a> {
        TermView {
            value: &term.value,
            select: objective.select.as_ref(),
            weight: objective.weight.as_ref(),
            own_weight: term.weight.as_ref(),
            when: term.when.as_ref(),
            left,
            temperature: objective.temperature,
        }
    }

    /// The temperature of the policy that is trained: of every log-probability of a token taken.
    pub fn scored_at(&self, sampler: &Sampler) -> f64 {
        self.temperature.unwrap_or_else(|| sampler.policy_temperature())
    }

    /// The same, scored at the temperature at which the student draws, on tokens that it has drawn before.
    pub fn of_policy(self, drawn: &Sampler) -> TermView<'a> {
        TermView { temperature: Some(self.scored_at(drawn)), ..self }
    }

    /// Another value under the same weights and masks.
    pub fn with_value(&self, value: &'a Formula) -> TermView<'a> {
        TermView { value, ..*self }
    }

    pub fn gates(&self) -> Vec<(&'static str, &'a Formula)> {
        let named = |name: &'static str, formula: Option<&'a Formula>| formula.map(|formula| (name, formula));
        [
            named("select", self.select),
            named("weight", self.weight),
            named("weight", self.own_weight),
            named("when", self.when),
            named("filter", self.left.filter),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    pub fn formulas(&self) -> Vec<&'a Formula> {
        std::iter::once(self.value).chain(self.gates().into_iter().map(|(_, formula)| formula)).collect()
    }

    pub fn any(&self, test: impl Fn(&FormulaNode) -> bool + Copy) -> bool {
        self.formulas().iter().any(|formula| formula.any(test))
    }

    /// The divergences in it, live ones first, each once.
    pub fn divergences(&self) -> Vec<&'a Divergence> {
        let mut found: Vec<&Divergence> = Vec::new();
        for live in [true, false] {
            for part in self.formulas().into_iter().flat_map(Formula::parts) {
                let divergence = match &part.0.kind {
                    FormulaKind::Live(Live::Divergence(divergence)) if live => divergence,
                    FormulaKind::Signal(Signal::Divergence(divergence)) if !live => divergence,
                    _ => continue,
                };
                if !found.contains(&divergence) {
                    found.push(divergence);
                }
            }
        }
        found
    }

    /// Everybody whose distribution is read, but student and sampler.
    pub fn others(&self) -> Vec<Role> {
        let mut found: Vec<Role> = Vec::new();
        let parts: Vec<&Formula> = self.formulas().into_iter().flat_map(Formula::parts).collect();
        for part in parts {
            let roles = match &part.0.kind {
                FormulaKind::Signal(signal) => signal.roles(),
                FormulaKind::Live(live) => live.roles(),
                _ => continue,
            };
            for role in roles {
                if !matches!(role, Role::Student | Role::Sampler) && !found.contains(&role) {
                    found.push(role);
                }
            }
        }
        // The routed teacher first, the anchor last: that is the order in which people speak of them.
        found.sort_by_key(|role| match role {
            Role::Teacher => (0, String::new()),
            Role::Reference => (2, String::new()),
            other => (1, other.name().to_owned()),
        });
        found
    }

    /// How small a toy model may be for everything in the term to mean something, and how many of them are
    /// looked at.
    pub fn size(&self) -> Result<(Size, u64), AuditRefusal> {
        let of_token =
            |node: &FormulaNode| matches!(node.kind, FormulaKind::Live(Live::Part(ModelSignal::Logp)));
        let scores = self.value.any(of_token);
        let (mut sequence, mut group, mut batch) = (false, false, false);
        for part in self.formulas().into_iter().flat_map(Formula::parts) {
            let over = match &part.0.kind {
                FormulaKind::Reduce { operand, .. } if operand.axis() > part.axis() => {
                    // A token's score meets the numbers of the tokens behind it.
                    sequence |= scores && operand.axis() == Axis::Token;
                    part.axis()
                }
                FormulaKind::Statistic { operand, over, .. } => {
                    sequence |= operand.axis() == Axis::Token
                        && (scores || matches!(over, Axis::Sequence | Axis::Turn | Axis::Block));
                    *over
                }
                FormulaKind::Scan { .. } => Axis::Sequence,
                FormulaKind::Signal(Signal::Position | Signal::Remaining | Signal::Offset | Signal::Head) => {
                    Axis::Sequence
                }
                _ => continue,
            };
            match over {
                Axis::Sequence | Axis::Turn | Axis::Block => sequence = true,
                Axis::Group => group = true,
                Axis::Batch | Axis::Domain | Axis::Run => batch = true,
                Axis::Token | Axis::Vocab => {}
            }
        }
        // Where only the prefix decides, the samples of a prompt share all there is after one token, and what
        // is compared within the group adds up to 0: from the second token on, their prefixes differ.
        sequence |= group && !batch && !scores;
        let size =
            |vocabulary, prompts, samples, length| Size { vocabulary, prompts, samples, length, domains: 1 };
        Ok(match (sequence, group, batch) {
            (false, false, false) => (size(5, 1, 1, 1), 6),
            (true, false, false) => (size(4, 1, 1, 2), 3),
            (false, true, false) => (size(4, 1, 3, 1), 4),
            (true, true, false) => (size(3, 1, 2, 2), 3),
            (false, false, true) => (size(4, 3, 1, 1), 3),
            (true, false, true) => (size(3, 2, 1, 2), 3),
            (false, true, true) => (size(3, 2, 2, 1), 4),
            (true, true, true) => {
                return Err("it compares within completions, within groups and across the batch at once: \
                            too much to enumerate"
                    .into());
            }
        })
    }

    /// What `top_k` of so many entries stands for where there are few: every number that is too large for the
    /// vocabulary becomes one that leaves entries outside, larger ones not below smaller ones.
    pub fn supports(&self, vocabulary: usize) -> Vec<(u32, usize)> {
        fn collect(support: &Support, found: &mut Vec<u32>) {
            match support {
                Support::TopK { k, .. } => found.push(*k),
                Support::Union(parts) | Support::Intersection(parts) => {
                    parts.iter().for_each(|part| collect(part, found))
                }
                _ => {}
            }
        }
        let mut written = Vec::new();
        for part in self.formulas().into_iter().flat_map(Formula::parts) {
            match &part.0.kind {
                FormulaKind::Signal(Signal::Divergence(divergence))
                | FormulaKind::Live(Live::Divergence(divergence)) => {
                    collect(&divergence.support, &mut written);
                }
                FormulaKind::Signal(Signal::Mass { support, .. } | Signal::SupportSize { support })
                | FormulaKind::Live(Live::Ranking { order: support }) => collect(support, &mut written),
                FormulaKind::Signal(Signal::Overlap { k, .. }) => written.push(*k),
                _ => {}
            }
        }
        written.sort_unstable();
        written.dedup();
        let most = vocabulary.saturating_sub(1).max(1);
        let mut next = 2.min(most);
        let mut found = Vec::new();
        for k in written {
            let entries = if (k as usize) < vocabulary { k as usize } else { next };
            next = (entries + 1).clamp(next.min(most), most);
            found.push((k, entries));
        }
        found
    }

    /// What moves over the run.
    pub fn moves(&self) -> bool {
        self.any(|node| {
            matches!(
                node.kind,
                FormulaKind::Schedule(_)
                    | FormulaKind::Adaptive(Adaptive::Ladder { .. })
                    | FormulaKind::Signal(Signal::Progress | Signal::Step)
            )
        })
    }

    /// The run moves a number that toy models have one of, or a few.
    pub fn moves_unseen(&self) -> bool {
        let unseen = |signal: &Signal| matches!(signal, Signal::State { .. } | Signal::VocabularySize);
        self.moves()
            || self.compares_domains()
            || self.any(|node| matches!(&node.kind, FormulaKind::Signal(signal) if unseen(signal)))
    }

    pub fn has_state(&self) -> bool {
        self.any(|node| matches!(node.kind, FormulaKind::Signal(Signal::State { .. })))
    }

    /// Numbers of domains stand beside numbers of the whole batch: with one domain, both are the same.
    pub fn compares_domains(&self) -> bool {
        let over = |wanted: Axis| {
            self.any(|node| match &node.kind {
                FormulaKind::Reduce { .. } => node.axis == wanted,
                FormulaKind::Statistic { over, .. } => *over == wanted,
                _ => false,
            })
        };
        over(Axis::Domain) && (over(Axis::Batch) || over(Axis::Run))
    }

    /// What can't be told in a toy model, by name.
    pub fn refusal(&self) -> Option<AuditRefusal> {
        let parts: Vec<&Formula> = self.formulas().into_iter().flat_map(Formula::parts).collect();
        if parts.len() > MOST_PARTS {
            return Some(format!("it has {} parts", parts.len()));
        }
        parts.iter().find_map(|part| refusal(&part.0))
    }

    /// Some bound or condition may keep gradient away.
    pub fn conditions(&self) -> bool {
        use Function::*;
        self.left.kept
            || self.left.filter.is_some()
            || self.select.is_some()
            || self.when.is_some()
            || self.any(|node| match &node.kind {
                FormulaKind::Apply { function, .. } => {
                    matches!(
                        function,
                        Where
                            | Clip
                            | Minimum
                            | Maximum
                            | Relu
                            | Less
                            | LessEqual
                            | Greater
                            | GreaterEqual
                            | Equal
                            | NotEqual
                    )
                }
                _ => false,
            })
    }
}

fn refusal(node: &FormulaNode) -> Option<AuditRefusal> {
    let whole = |text: &str| Some(text.to_owned());
    match &node.kind {
        FormulaKind::Adaptive(Adaptive::Learned { .. }) => {
            whole("`learned(...)` is a number that the run itself finds")
        }
        FormulaKind::Live(Live::Preference(_)) => {
            whole("a preference is about pairs of completions, not about tokens that one policy draws")
        }
        FormulaKind::Live(Live::SquaredError { .. }) => {
            whole("`mse` is between numbers, not between distributions")
        }
        FormulaKind::Live(Live::BinaryCrossEntropy { .. }) => {
            whole("`bce` is of a head of its own, not of a distribution over tokens")
        }
        FormulaKind::Live(Live::Part(part)) => match part {
            ModelSignal::Logp | ModelSignal::EndLogp | ModelSignal::Entropy | ModelSignal::Top1 => None,
            other => Some(format!(
                "`live student.{}` is a number of its own, not a probability of a token",
                other.name()
            )),
        },
        FormulaKind::Signal(Signal::Of {
            part: part @ (ModelSignal::Mean | ModelSignal::Deviation),
            role,
        }) => Some(format!(
            "`{}.{}` is of continuous actions, which can't be enumerated",
            role.name(),
            part.name()
        )),
        FormulaKind::Signal(Signal::Masked) => whole("`masked` is about denoising steps"),
        FormulaKind::Reduce { on: Some(rollout), .. } => Some(format!(
            "`{}(...)` inside a reduction are other completions than those trained on",
            rollout.source.name()
        )),
        FormulaKind::Reduce {
            reduction: Reduction::Quantile { .. } | Reduction::Count | Reduction::Any | Reduction::All,
            operand,
            ..
        } if operand.live() => whole("a count or a quantile of something `live` has no derivative"),
        FormulaKind::Statistic {
            statistic: Statistic::SampleWithoutReplacement { .. } | Statistic::Balance,
            ..
        } => whole("which elements it draws is left to chance"),
        FormulaKind::Statistic { statistic: Statistic::Chunks { .. }, .. } => {
            whole("`chunks` are windows of longer completions")
        }
        FormulaKind::Statistic { operand, .. } if operand.live() => {
            whole("a statistic of something `live` has no derivative")
        }
        _ => None,
    }
}
