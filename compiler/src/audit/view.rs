//! A term with its weights and masks, and its properties that the audit needs before it evaluates anything.

use mopd_experiment::formula::{
    Adaptive, Axis, Divergence, DivergenceKind, Formula, FormulaKind, FormulaNode, Function, Live,
    ModelSignal, PlainSignal, Reduction, Role, Signal, Statistic, Support,
};
use mopd_experiment::{Objective, Reduce, State, Temperature, Term};

use super::refusal::AuditRefusal;
use super::sampler::Sampler;
use super::size::Size;
use super::toy_model::ScaledSupport;
use super::variants;

/// The most parts of a formula that is audited. Formulas written by hand are far smaller.
const MOST_PARTS: usize = 2_000;

/// The fewest entries of a toy vocabulary outside of a support. A single one is as good as a tail entry: a
/// truncated divergence would equal that on the whole vocabulary.
const LEFT_OUT: usize = 2;

/// A term with its weights and masks.
pub(super) struct TermView<'a> {
    pub value: &'a Formula,
    pub select: Option<&'a Formula>,
    pub weight: Option<&'a Formula>,
    pub own_weight: Option<&'a Formula>,
    pub when: Option<&'a Formula>,
    pub reduce: Option<&'a Reduce>,
    pub states: &'a [State],
    pub samples: SampleFilter<'a>,
    /// The temperature of the trained policy, if the objective or the rollout decides it.
    pub temperature: Option<Temperature>,
}

/// The toy models of a term.
pub(super) struct ToyScale {
    pub size: Size,
    /// The number of toy models to evaluate.
    pub toys: u64,
    pub supports: Vec<ScaledSupport>,
}

/// The restrictions on the completions of a stage that reach its terms: none by default.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SampleFilter<'a> {
    /// Whether only completions that the verifier accepts are included.
    pub kept: bool,
    /// A condition on the prompts that are included.
    pub filter: Option<&'a Formula>,
}

impl<'a> TermView<'a> {
    pub fn new(objective: &'a Objective, term: &'a Term, left: SampleFilter<'a>) -> TermView<'a> {
        TermView {
            value: &term.value,
            select: objective.select.as_ref(),
            weight: objective.weight.as_ref(),
            own_weight: term.weight.as_ref(),
            when: term.when.as_ref(),
            reduce: term.reduce.as_ref().or(objective.reduce.as_ref()),
            states: &objective.states,
            samples: left,
            temperature: objective.temperature.map(Temperature::from),
        }
    }

    /// The temperature of the trained policy, for every log-probability of a token.
    pub fn scored_at(&self, sampler: &Sampler) -> Temperature {
        self.temperature.clone().unwrap_or_else(|| sampler.policy_temperature())
    }

    /// The term on a rollout with this policy temperature. All tokens of the rollout are scored at it, also
    /// those that come from elsewhere, or from an earlier student.
    pub fn of_policy(self, temperature: Option<Temperature>) -> TermView<'a> {
        TermView { temperature: self.temperature.clone().or(temperature), ..self }
    }

    /// The term with another value, and the same weights and masks.
    pub fn with_value(&self, value: &'a Formula) -> TermView<'a> {
        TermView { value, temperature: self.temperature.clone(), ..*self }
    }

    /// The term without `select`, `when` and the stage's filter.
    pub fn without_masks(&self) -> TermView<'a> {
        TermView { select: None, when: None, samples: SampleFilter::default(), ..self.with_value(self.value) }
    }

    /// The term's value alone.
    pub fn without_gates(&self) -> TermView<'a> {
        TermView { weight: None, own_weight: None, ..self.without_masks() }
    }

    pub fn gates(&self) -> Vec<(&'static str, &'a Formula)> {
        let named = |name: &'static str, formula: Option<&'a Formula>| formula.map(|formula| (name, formula));
        [
            named("select", self.select),
            named("weight", self.weight),
            named("weight", self.own_weight),
            named("when", self.when),
            named("filter", self.samples.filter),
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

    /// The term's divergences, live ones first, each once.
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

    /// A weight `c - x` that is a constant less an entropy, which has no upper bound; also `x` and `c`. An
    /// advantage may have either sign: a number is a weight only beside a divergence or another factor.
    pub fn weight_that_turns(&self) -> Option<(&'a Formula, &'a Formula, f64)> {
        let entropy = |formula: &Formula| {
            matches!(formula.0.kind, FormulaKind::Signal(Signal::Of { part: ModelSignal::Entropy, .. }))
        };
        let turns = |weight: &'a Formula| match &weight.0.kind {
            FormulaKind::Apply { function: Function::Subtract, operands } if entropy(&operands[1]) => {
                operands[0].constant().map(|bound| (weight, &operands[1], bound))
            }
            _ => None,
        };
        let sampled =
            |node: &FormulaNode| matches!(node.kind, FormulaKind::Live(Live::Part(ModelSignal::Logp)));
        let inside = match self.value.any(sampled) {
            true => Vec::new(),
            false => variants::weights(self.value),
        };
        self.weight.into_iter().chain(self.own_weight).chain(inside).find_map(turns)
    }

    /// The roles that the value depends on, except student and sampler.
    pub fn roles_of_value(&self) -> Vec<Role> {
        TermView { samples: SampleFilter::default(), ..self.without_gates() }.others()
    }

    /// The models beside the student whose distributions are read.
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
                if !role.is_policy() && !found.contains(&role) {
                    found.push(role);
                }
            }
        }
        // The routed teacher first, the reference last: the usual order in names of divergences.
        found.sort_by_key(|role| match role {
            Role::Teacher => (0, String::new()),
            Role::Reference => (2, String::new()),
            other => (1, other.name().to_owned()),
        });
        found
    }

    /// The smallest toy models in which every part of the term has a meaning.
    pub fn scale(&self) -> Result<ToyScale, AuditRefusal> {
        let of_token =
            |node: &FormulaNode| matches!(node.kind, FormulaKind::Live(Live::Part(ModelSignal::Logp)));
        let scores = self.value.any(of_token);
        let (mut sequence, mut group, mut batch) = (false, false, false);
        for part in self.formulas().into_iter().flat_map(Formula::parts) {
            let over = match &part.0.kind {
                FormulaKind::Reduce { operand, .. } if operand.axis() > part.axis() => {
                    // A token's score is multiplied with numbers of later tokens.
                    sequence |= scores && operand.axis() == Axis::Token;
                    part.axis()
                }
                FormulaKind::Statistic { operand, over, .. } => {
                    sequence |= operand.axis() == Axis::Token
                        && (scores || matches!(over, Axis::Sequence | Axis::Turn | Axis::Block));
                    *over
                }
                FormulaKind::Scan { .. } => Axis::Sequence,
                FormulaKind::Signal(Signal::Plain(plain)) if plain.definition().is_positional => {
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
        // If values depend only on the prefix, the samples of a prompt agree at the first token, and
        // differences within the group are 0. From the second token on, their prefixes differ.
        sequence |= group && !batch && !scores;
        let size =
            |vocabulary, prompts, samples, length| Size { vocabulary, prompts, samples, length, ..Size::ONE };
        let (mut size, toys) = match (sequence, group, batch) {
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
        };
        let supports = self.supports(size.vocabulary);
        size.vocabulary = size.vocabulary.max(self.widest_support(&supports) + LEFT_OUT);
        Ok(ToyScale { size, toys, supports })
    }

    /// The supports that the term reads.
    fn read_supports(&self) -> Vec<&'a Support> {
        let parts = self.formulas().into_iter().flat_map(Formula::parts);
        let read = parts.filter_map(|part| match &part.0.kind {
            FormulaKind::Signal(Signal::Divergence(divergence))
            | FormulaKind::Live(Live::Divergence(divergence)) => Some(&divergence.support),
            FormulaKind::Signal(Signal::Mass { support, .. } | Signal::SupportSize { support })
            | FormulaKind::Live(Live::Ranking { order: support }) => Some(support),
            _ => None,
        });
        read.collect()
    }

    /// Scales `top_k` down to a small vocabulary: every `k` that is too large is replaced by one that leaves
    /// some entries out, in the same order.
    fn supports(&self, vocabulary: usize) -> Vec<ScaledSupport> {
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
        self.read_supports().into_iter().for_each(|support| collect(support, &mut written));
        for part in self.formulas().into_iter().flat_map(Formula::parts) {
            if let FormulaKind::Signal(Signal::Overlap { k, .. }) = &part.0.kind {
                written.push(*k);
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
            found.push(ScaledSupport { k, entries });
        }
        found
    }

    /// The most entries of a support of the term that is made of such supports and of tokens.
    fn widest_support(&self, scaled: &[ScaledSupport]) -> usize {
        fn entries(support: &Support, scaled: &[ScaledSupport]) -> usize {
            match support {
                Support::TopK { k, .. } => {
                    scaled.iter().find(|support| support.k == *k).map_or(0, |support| support.entries)
                }
                Support::Sampled => 1,
                Support::Union(parts) => parts.iter().map(|part| entries(part, scaled)).sum(),
                Support::Intersection(parts) => {
                    parts.iter().map(|part| entries(part, scaled)).min().unwrap_or(0)
                }
                _ => 0,
            }
        }
        self.read_supports().into_iter().map(|support| entries(support, scaled)).max().unwrap_or(0)
    }

    /// Whether the term depends on a number that changes in the run, but has few values in toy models.
    pub fn moves_unseen(&self) -> bool {
        let unseen = |signal: &Signal| {
            matches!(signal, Signal::State { .. } | Signal::Plain(PlainSignal::VocabularySize))
        };
        self.compares_domains()
            || self.any(|node| matches!(&node.kind, FormulaKind::Signal(signal) if unseen(signal)))
    }

    pub fn has_state(&self) -> bool {
        self.any(|node| matches!(node.kind, FormulaKind::Signal(Signal::State { .. })))
    }

    /// Whether the term has numbers of domains and of the batch, which are equal if there is one domain.
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

    /// The reason why a toy model can't decide on this term, if there is one.
    pub fn refusal(&self) -> Option<AuditRefusal> {
        let parts: Vec<&Formula> = self.formulas().into_iter().flat_map(Formula::parts).collect();
        if parts.len() > MOST_PARTS {
            return Some(format!("it has {} parts", parts.len()).into());
        }
        parts.iter().find_map(|part| refusal(&part.0)).map(AuditRefusal::from)
    }

    /// Whether some bound or condition may stop the gradient.
    pub fn conditions(&self) -> bool {
        self.samples.kept
            || self.samples.filter.is_some()
            || self.select.is_some()
            || self.when.is_some()
            || self.any(|node| is_choice(node) || divergence(node).is_some_and(has_dead_zone))
    }
}

/// Whether a part chooses between cases, or bounds a number.
pub(super) fn is_choice(node: &FormulaNode) -> bool {
    use Function::*;
    match &node.kind {
        FormulaKind::Apply { function, .. } => matches!(
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
        ),
        _ => false,
    }
}

fn divergence(node: &FormulaNode) -> Option<&Divergence> {
    match &node.kind {
        FormulaKind::Live(Live::Divergence(divergence))
        | FormulaKind::Signal(Signal::Divergence(divergence)) => Some(divergence),
        _ => None,
    }
}

/// Whether a divergence may have no gradient between distributions that are close: where its summand bounds
/// the probabilities, or chooses by them.
fn has_dead_zone(divergence: &Divergence) -> bool {
    let DivergenceKind::Entrywise(summand) = &divergence.kind else { return false };
    let of_entry = |formula: &Formula| formula.any(|node| matches!(node.kind, FormulaKind::Entry(_)));
    summand.value.parts().into_iter().any(|part| match &part.0.kind {
        // A choice by a parameter is the same for all entries.
        FormulaKind::Apply { function: Function::Where, operands } => of_entry(&operands[0]),
        _ => is_choice(&part.0) && of_entry(part),
    })
}

/// The reason why a part can't be evaluated in a toy model, in words.
fn refusal(node: &FormulaNode) -> Option<String> {
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
        FormulaKind::Signal(Signal::Plain(PlainSignal::Masked)) => whole("`masked` is about denoising steps"),
        FormulaKind::Reduce { on: Some(rollout), .. } => Some(format!(
            "`{}(...)` inside a reduction are other completions than those trained on",
            rollout.source.name()
        )),
        FormulaKind::Reduce {
            reduction:
                Reduction::Quantile { .. }
                | Reduction::Stddev { .. }
                | Reduction::Count
                | Reduction::Any
                | Reduction::All,
            operand,
            ..
        } if operand.live() => whole("a count or a quantile of something `live` has no derivative"),
        FormulaKind::Statistic {
            statistic: Statistic::SampleWithoutReplacement { .. } | Statistic::Balance,
            ..
        } => whole("it selects elements at random"),
        FormulaKind::Statistic { statistic: Statistic::Chunks { .. }, .. } => {
            whole("`chunks` are windows of longer completions")
        }
        FormulaKind::Statistic { operand, .. } if operand.live() => {
            whole("a statistic of something `live` has no derivative")
        }
        _ => None,
    }
}
