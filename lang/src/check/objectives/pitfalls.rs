//! Mistakes from the literature: objectives that look right and train something else, or nothing. Each check
//! cites its source.

use std::rc::Rc;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::diag::{Code, Diagnostic};
use crate::experiment::{
    Edit, Keep, Objective, Recipe, Rollout, RolloutSource, Stage, TeacherId, TeacherWeights, Temperature,
    Term, TokensOf, Train,
};
use crate::formula::{
    Divergence, DivergenceKind, Formula, FormulaKind, FormulaNode, Function, Live, Mass, ModelSignal,
    Reduction, Role, Signal, Support,
};

use crate::check::Checker;
use crate::check::stages::settings::BlockSettings;
use crate::check::stages::streams::{is_score_function, reads_sampler, streams, term_reads};

/// The factor that multiplies the gradient of the token's own log-probability.
#[derive(Clone, Copy, PartialEq, Eq)]
enum GradientFactor {
    /// There is no such gradient.
    Absent,
    /// A number that does not depend on which token was drawn after this prefix.
    Blind,
    /// Such a number times the ratio to the sampler: in later updates from a batch, the mean is still that of
    /// tokens that the student draws.
    BlindRatio,
    /// Anything else, such as the gradient of a divergence.
    Other,
}

impl GradientFactor {
    fn and(self, other: GradientFactor) -> GradientFactor {
        match (self, other) {
            (GradientFactor::Absent, factor) | (factor, GradientFactor::Absent) => factor,
            (GradientFactor::Other, _) | (_, GradientFactor::Other) => GradientFactor::Other,
            (GradientFactor::BlindRatio, GradientFactor::BlindRatio) => GradientFactor::BlindRatio,
            _ => GradientFactor::Blind,
        }
    }

    /// Whether the mean gradient vanishes in the given number of updates from a batch. From the second one
    /// on, an earlier student drew the completions.
    fn vanishes(self, updates: u32) -> bool {
        match self {
            GradientFactor::Blind => updates < 2,
            GradientFactor::BlindRatio => true,
            GradientFactor::Absent | GradientFactor::Other => false,
        }
    }
}

/// The factor in a term. A live divergence has a gradient of its own, which needs no drawn token.
fn factor(formula: &Formula) -> GradientFactor {
    factor_once(formula, &mut FxHashMap::default())
}

/// [`factor`] with a cache, so that shared parts are visited once.
fn factor_once(
    formula: &Formula,
    known: &mut FxHashMap<*const FormulaNode, GradientFactor>,
) -> GradientFactor {
    if !formula.live() {
        return GradientFactor::Absent;
    }
    let address = Rc::as_ptr(&formula.0);
    if let Some(factor) = known.get(&address) {
        return *factor;
    }
    let mut factor = |formula: &Formula| factor_once(formula, known);
    let found = match &formula.0.kind {
        FormulaKind::Live(Live::Part(ModelSignal::Logp)) => GradientFactor::Blind,
        FormulaKind::Apply { function, operands } => match (function, operands.as_slice()) {
            (Function::Negate, [value]) => factor(value),
            (Function::Add | Function::Subtract, [left, right]) => factor(left).and(factor(right)),
            (Function::Multiply, [left, right]) => match (factor(left), factor(right)) {
                (one, _) if !right.live() => scaled(one, right),
                (_, one) if !left.live() => scaled(one, left),
                _ => GradientFactor::Other,
            },
            (Function::Divide, [value, by]) if !by.live() => scaled(factor(value), by),
            // The gradient of the ratio is the ratio times the score. Its mean under the sampler is the mean
            // of the score.
            (Function::Exp, [exponent]) if is_log_ratio(exponent) => GradientFactor::BlindRatio,
            (Function::Where, [condition, then, otherwise]) => {
                scaled(factor(then).and(factor(otherwise)), condition)
            }
            _ => GradientFactor::Other,
        },
        _ => GradientFactor::Other,
    };
    known.insert(address, found);
    found
}

fn scaled(factor: GradientFactor, by: &Formula) -> GradientFactor {
    match factor {
        GradientFactor::Blind | GradientFactor::BlindRatio if !is_blind(by) => GradientFactor::Other,
        factor => factor,
    }
}

/// `live student.logp - sampler.logp`
fn is_log_ratio(formula: &Formula) -> bool {
    let FormulaKind::Apply { function: Function::Subtract, operands } = &formula.0.kind else { return false };
    let [student, sampler] = operands.as_slice() else { return false };
    matches!(student.0.kind, FormulaKind::Live(Live::Part(ModelSignal::Logp)))
        && matches!(
            &sampler.0.kind,
            FormulaKind::Signal(Signal::Of { role: Role::Sampler, part: ModelSignal::Logp })
        )
}

/// Whether a number is known before the token is drawn, so that it depends at most on the prefix. False where
/// that is not certain: a mean over the completion already depends on the token.
fn is_blind(formula: &Formula) -> bool {
    formula.parts().into_iter().all(is_blind_alone)
}

/// [`is_blind`] of a node without its parts.
fn is_blind_alone(formula: &Formula) -> bool {
    match &formula.0.kind {
        FormulaKind::Number(_) | FormulaKind::Schedule(_) | FormulaKind::Apply { .. } => true,
        FormulaKind::Signal(signal) => match signal {
            Signal::Of { part, .. } => {
                matches!(part, ModelSignal::Entropy | ModelSignal::Top1 | ModelSignal::EndLogp)
            }
            Signal::Divergence(divergence) => {
                !matches!(divergence.kind, DivergenceKind::Gaussian { .. })
                    && !divergence.support.reads_token()
            }
            Signal::Mass { support, .. } | Signal::SupportSize { support } => !support.reads_token(),
            Signal::Overlap { .. }
            | Signal::Position
            | Signal::Turn
            | Signal::Data { .. }
            | Signal::DataIs { .. }
            | Signal::DomainIs { .. }
            | Signal::Progress
            | Signal::Step
            | Signal::Loss
            | Signal::TermLoss { .. }
            | Signal::State { .. }
            | Signal::ValidationLoss
            | Signal::VocabularySize => true,
            _ => false,
        },
        _ => false,
    }
}

/// Whether this step's student drew the tokens with the probabilities that it scores, and none were dropped.
fn is_on_policy(objective: &Objective, rollout: &Rollout) -> bool {
    let whole = |edit: &Edit| matches!(edit, Edit::FirstTurns { .. });
    let facts = rollout.source.facts();
    rollout.edits.iter().all(whole)
        && match (facts.tokens, facts.inner.as_slice()) {
            (TokensOf::Student(sampling), _) => {
                let drawn_at = sampling.temperature();
                let greedy = drawn_at == Temperature::Constant(0.0);
                let scored_at = objective.temperature.map_or_else(|| drawn_at.clone(), Temperature::from);
                !greedy && scored_at == drawn_at && sampling.is_plain()
            }
            // A choice between several rollouts may depend on what was drawn.
            (TokensOf::Inside, [of]) => is_on_policy(objective, of),
            (TokensOf::Inside, _)
            | (
                TokensOf::By(..)
                | TokensOf::Data
                | TokensOf::Open
                | TokensOf::OfModel
                | TokensOf::Earlier
                | TokensOf::Mixture(_)
                | TokensOf::Changed(_),
                _,
            ) => false,
        }
}

/// Whether the sum over the support can be negative, because the values on it do not sum to 1.
fn can_be_negative(divergence: &Divergence) -> bool {
    divergence.mass == Mass::Raw
        && divergence.support != Support::Full
        && match &divergence.kind {
            DivergenceKind::Kl => true,
            DivergenceKind::Entrywise(summand) => !summand.facts.never_negative,
            DivergenceKind::SortedL1 | DivergenceKind::Gaussian { .. } => false,
        }
}

/// The value that a node clamps from below at 0. `None` if the node does not clamp.
fn held_above_zero(node: &FormulaNode) -> Option<&Formula> {
    let FormulaKind::Apply { function, operands } = &node.kind else { return None };
    let at_least_zero = |bound: &Formula| bound.constant().is_some_and(|bound| bound >= 0.0);
    match (function, operands.as_slice()) {
        (Function::Relu, [value]) => Some(value),
        (Function::Maximum, [value, bound]) | (Function::Maximum, [bound, value]) if at_least_zero(bound) => {
            Some(value)
        }
        (Function::Clip, [value, low, _]) if at_least_zero(low) => Some(value),
        _ => None,
    }
}

/// A live partial sum whose negative values make `value` negative. The values of `exp` never are.
fn partial_sum(value: &Formula) -> Option<&Formula> {
    // Shared parts are visited once for each sign: the number of paths to them may be huge.
    let mut seen: FxHashSet<(*const FormulaNode, bool)> = FxHashSet::default();
    let mut pending = vec![(value, true)];
    while let Some((formula, positive)) = pending.pop() {
        if !seen.insert((Rc::as_ptr(&formula.0), positive)) {
            continue;
        }
        match &formula.0.kind {
            FormulaKind::Live(Live::Divergence(divergence)) if positive && can_be_negative(divergence) => {
                return Some(formula);
            }
            FormulaKind::Reduce { reduction: Reduction::Sum | Reduction::Mean, operand, .. } => {
                pending.push((operand, positive))
            }
            FormulaKind::Apply { function, operands } => match (function, operands.as_slice()) {
                (Function::Negate, [x]) => pending.push((x, !positive)),
                (Function::Tanh, [x]) => pending.push((x, positive)),
                (Function::Add, [left, right]) | (Function::Where, [_, left, right]) => {
                    pending.extend([(right, positive), (left, positive)]);
                }
                (Function::Subtract, [left, right]) => pending.extend([(right, !positive), (left, positive)]),
                // A square is never negative.
                (Function::Multiply, [left, right]) if same_divergence(left, right) => {}
                (Function::Multiply, [left, right]) => {
                    let keeps =
                        |factor: &Formula| positive == factor.constant().is_none_or(|factor| factor > 0.0);
                    pending.extend([(right, keeps(left)), (left, keeps(right))]);
                }
                (Function::Divide, [above, below]) => {
                    pending.push((above, positive == below.constant().is_none_or(|below| below > 0.0)));
                }
                _ => {}
            },
            _ => {}
        }
    }
    None
}

fn same_divergence(left: &Formula, right: &Formula) -> bool {
    let divergence = |formula: &Formula| match &formula.0.kind {
        FormulaKind::Live(Live::Divergence(divergence))
        | FormulaKind::Signal(Signal::Divergence(divergence)) => Some(divergence.clone()),
        _ => None,
    };
    Rc::ptr_eq(&left.0, &right.0) || divergence(left).is_some_and(|left| divergence(right) == Some(left))
}

/// `teacher.logp - sampler.logp`
fn is_stale_gap(node: &FormulaNode) -> bool {
    let FormulaKind::Apply { function: Function::Subtract, operands } = &node.kind else { return false };
    let of = |formula: &Formula| match &formula.0.kind {
        FormulaKind::Signal(Signal::Of { role, part: ModelSignal::Logp }) => Some(role.clone()),
        _ => None,
    };
    let [left, right] = operands.as_slice() else { return false };
    let teaches = |role: &Role| matches!(role, Role::Teacher | Role::Named { .. });
    match (of(left), of(right)) {
        (Some(role), Some(Role::Sampler)) | (Some(Role::Sampler), Some(role)) => teaches(&role),
        _ => false,
    }
}

impl Checker {
    /// Checks an objective for mistakes on the completions of its stage.
    pub(in crate::check) fn check_pitfalls(&mut self, train: &Train, settings: &BlockSettings) -> bool {
        self.warn_of_stale_updates(train, settings);
        self.warn_of_other_teachers(train, settings);
        self.warn_of_targets(train, settings);
        self.warn_of_misrouted_domains(train, settings);
        self.check_score_functions(train, settings)
    }

    /// Warns of a balance that gives every domain the same target where the targets do not sum to 1: the loss
    /// is then scaled differently than intended.
    fn warn_of_targets(&mut self, train: &Train, settings: &BlockSettings) {
        let objective = &train.objective;
        let reductions =
            objective.reduce.iter().chain(objective.terms.iter().filter_map(|term| term.reduce.as_ref()));
        let domains = train.mixture.len();
        let wrong = reductions.filter_map(|reduce| reduce.balance.as_ref()).find_map(|balance| {
            let target = balance.target?;
            ((target * domains as f64 - 1.0).abs() > 1e-6).then_some((target, balance.origin))
        });
        let Some((target, origin)) = wrong else { return };
        let span = self.span(origin);
        let text =
            format!("{domains} domains with a target of {target} each: together they are not the whole");
        self.report(
            Diagnostic::warning(Code::ShareSum, settings.place(&["objective"]), text)
                .note(span, "balanced here")
                .help(format!("balance {domains} domains with `target = 1/{domains}`")),
        );
    }

    /// Reports a factor of the score that does not depend on the drawn token: since the score has mean zero,
    /// the gradient vanishes. Examples are k1 differentiated directly, and a full divergence as an advantage.
    fn check_score_functions(&mut self, train: &Train, settings: &BlockSettings) -> bool {
        let objective = &train.objective;
        if train.keep == Keep::Correct || train.filter.is_some() {
            return true;
        }
        let dull = |term: &Term| {
            let masks =
                objective.select.iter().chain(&objective.weight).chain(&term.when).chain(&term.weight);
            let updates = if term.data.is_some() { 1 } else { train.updates_per_batch() };
            factor(&term.value).vanishes(updates) && masks.into_iter().all(is_blind)
        };
        let mut streams = streams(objective, &train.rollout).into_iter();
        let found = streams.find(|stream| is_on_policy(objective, stream.rollout) && dull(stream.term));
        let Some(stream) = found else { return true };
        let (span, drawn) = (self.span(stream.term.origin), self.span(stream.rollout.origin));
        self.report(
            Diagnostic::error(
                Code::ZeroGradient,
                span,
                "on the student's own samples the mean gradient of this term is 0",
            )
            .label("the factor is the same whichever token was drawn")
            .note(drawn, "drawn by the student")
            .note(settings.span, "trained here")
            .help(
                "multiply by a number of the sampled token, `(student.logp - teacher.logp) * live \
                student.logp`, or differentiate the divergence: `live kl(student || teacher)`",
            ),
        );
        false
    }

    /// Warns of mistakes that do not depend on the stage.
    pub(in crate::check) fn warn_of_formulas(&mut self, objective: &Objective) {
        self.warn_of_clamped_divergences(objective);
        self.warn_of_subnormal_numbers(objective);
    }

    /// Warns of a partial sum with a lower bound of 0. The sum may be negative, and the bound removes its
    /// gradient. One user of a trainer counted 415 of 467 such steps.
    fn warn_of_clamped_divergences(&mut self, objective: &Objective) {
        for part in objective.terms.iter().flat_map(|term| term.value.parts()) {
            let Some(inside) = held_above_zero(&part.0).filter(|value| value.live()).and_then(partial_sum)
            else {
                continue;
            };
            let (span, divergence) = (self.span(part.0.origin), self.span(inside.0.origin));
            self.report(
                Diagnostic::warning(
                    Code::ClampedDivergence,
                    span,
                    "this bound deletes the gradient wherever the partial sum is negative",
                )
                .note(divergence, "with `mass: raw` it can be")
                .help(
                    "write `mass: tail` or `mass: generalized`, which are never negative, and drop the bound",
                ),
            );
        }
    }

    /// Warns of several updates from a batch: later ones train a policy other than the one that drew the
    /// completions.
    fn warn_of_stale_updates(&mut self, train: &Train, settings: &BlockSettings) {
        if train.updates_per_batch() < 2 {
            return;
        }
        let objective = &train.objective;
        let (setting, later) =
            if train.passes > 1 { ("passes", "passes") } else { ("mini_batches", "mini-batches") };
        let place = settings.place(&[setting]);
        for stream in streams(objective, &train.rollout) {
            let term = stream.term;
            if stream.rollout.unrecorded().is_some() {
                continue;
            }
            let at = self.span(term.origin);
            let found = if term_reads(objective, term, is_stale_gap) {
                Some((
                    "learn from how the student differed from its teacher before the first",
                    "the log-ratio against `sampler` never changes",
                    "write `student.logp` for `sampler.logp`: it is computed anew for every update",
                ))
            } else if is_score_function(objective, term) && !term_reads(objective, term, reads_sampler) {
                Some((
                    "treat these completions as if the student had just sampled them",
                    "no `ratio` corrects for the change of their probabilities",
                    "multiply by `live ratio` in place of `live student.logp`, within bounds: `clip(live \
                     ratio, 0.8, 1.2)`",
                ))
            } else {
                None
            };
            if let Some((message, label, help)) = found {
                let message = format!("later {later} {message}");
                self.report(
                    Diagnostic::warning(Code::StaleSignal, place, message).note(at, label).help(help),
                );
            }
        }
    }

    /// Warns of rollouts made once by a start that one teacher fine-tuned, if another teacher scores them:
    /// they keep the first teacher's bias (Lightning OPD, arXiv:2604.13010).
    fn warn_of_other_teachers(&mut self, train: &Train, settings: &BlockSettings) {
        if !train.rollout.all().iter().any(|rollout| matches!(rollout.source, RolloutSource::Snapshot { .. }))
        {
            return;
        }
        let Stage::Train(before) = &self.model(train.start).stage else { return };
        let imitated = self.imitated(before);
        if before.recipe != Recipe::Sft || imitated.is_empty() {
            return;
        }
        let weights = |teacher: &TeacherId| -> &TeacherWeights { &self.teacher(*teacher).weights };
        let known = |teacher: &TeacherId| imitated.iter().any(|known| weights(known) == weights(teacher));
        let Some(other) = train.teachers.iter().map(|choice| choice.teacher).find(|teacher| !known(teacher))
        else {
            return;
        };
        let (name, declared) = (self.teacher(other).name.clone(), self.span(self.teacher(other).origin));
        let start = self.span(self.model(train.start).origin);
        let text = format!(
            "the rollouts are made once, and `{name}` scores them: the student was fine-tuned on another \
             teacher"
        );
        self.report(
            Diagnostic::warning(Code::InconsistentTeacher, settings.place(&["rollout"]), text)
                .note(start, "fine-tuned here")
                .note(declared, "the teacher that scores")
                .help(
                    "fine-tune on the answers of the same teachers, or roll out anew at every step: \
                     `rollout = sample(...)`",
                ),
        );
    }

    /// The teachers whose texts a stage learns from.
    fn imitated(&self, train: &Train) -> Vec<TeacherId> {
        let mut found = Vec::new();
        for rollout in train.rollout.all() {
            match rollout.writer() {
                Some(Role::Teacher) => found.extend(train.teachers.iter().map(|choice| choice.teacher)),
                Some(Role::Named { teacher, .. }) => found.push(*teacher),
                _ => {}
            }
        }
        found
    }
}
