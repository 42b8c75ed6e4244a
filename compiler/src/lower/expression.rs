//! Prints formulas in full: different formulas have different texts, and equal formulas have equal texts,
//! whatever their names and layout. Parts that are read more than once are defined after the formula, each
//! once, so that the length of the text is about proportional to the formula's size.

use std::collections::HashMap;
use std::rc::Rc;

use mopd_experiment::formula::{
    Adaptive, Amount, Distribution, Divergence, DivergenceKind, Formula, FormulaKind, FormulaNode, Function,
    Live, NamedFormula, Preference, PreferenceKind, Scan, Signal, Unit, text,
};
use mopd_experiment::{
    Edit, ExpertTurns, Rollout, RolloutArgument, RolloutSource, Sampling, Slot, Template, TemplatePiece,
};

use super::postorder::ordered;

/// A part that is read more than once gets a name if its text is longer than this.
const SHORT: usize = 24;

/// Every part whose text is longer than this gets a name: longer text is unreadable, and nested texts would
/// grow quadratically.
const LONG: usize = 600;

/// A formula: `-x1 * live student.logp with x1 = clip(...)`.
pub(super) fn exact(formula: &Formula) -> String {
    let parts = Parts::new(formula);
    let mut written =
        FormulaWriter { names: 0, seen: NamedParts::default(), definitions: Vec::new(), texts: Vec::new() };
    for (place, part) in parts.list.iter().enumerate() {
        let operands: Vec<&Text> = part.operands.iter().map(|operand| &written.texts[*operand]).collect();
        let own = text_of(part.formula, &operands, &mut written.seen);
        let last = place + 1 == parts.list.len();
        let named =
            !last && ((part.readers > 1 && own.text.chars().count() > SHORT) || own.text.len() > LONG);
        let own = if named {
            written.names += 1;
            let name = format!("x{}", written.names);
            written.definitions.push(format!("{name} = {}", own.text));
            Text { text: name, rank: CALL }
        } else {
            own
        };
        written.texts.push(own);
    }
    let mut whole = written.texts.pop().map(|text| text.text).unwrap_or_default();
    let generators =
        written.seen.generators.into_iter().enumerate().map(|(place, NamedFormula { name, formula })| {
            format!("{name}{}(u) = {}", number_of(place), exact(&formula))
        });
    let definitions: Vec<String> = written.definitions.into_iter().chain(generators).collect();
    if !definitions.is_empty() {
        whole += &format!(" with {}", definitions.join("; "));
    }
    whole
}

/// The suffix of a generator among those of one name; the first has none.
fn number_of(place: usize) -> String {
    if place == 0 { String::new() } else { format!("#{}", place + 1) }
}

struct FormulaWriter {
    names: usize,
    seen: NamedParts,
    definitions: Vec<String>,
    texts: Vec<Text>,
}

/// The parts whose names stand for more than they say. Several with one name are told apart.
#[derive(Default)]
struct NamedParts {
    /// The declared divergences that the formula reads.
    generators: Vec<NamedFormula>,
    /// The draws of random numbers, by their numbers in the objective.
    draws: Vec<u32>,
}

/// The text of a part, and the precedence of its operator.
struct Text {
    text: String,
    rank: u8,
}

const CALL: u8 = 9;

impl Text {
    /// The text as an operand of an operator of this precedence.
    fn within(&self, tighter_than: u8) -> String {
        if self.rank <= tighter_than { format!("({})", self.text) } else { self.text.clone() }
    }
}

struct PartText<'a> {
    formula: &'a Formula,
    operands: Vec<usize>,
    readers: usize,
}

/// The parts of a formula, operands before users. Parts that compute the same are merged, whether or not they
/// share a `let`.
struct Parts<'a> {
    list: Vec<PartText<'a>>,
}

impl<'a> Parts<'a> {
    fn new(root: &'a Formula) -> Parts<'a> {
        let mut known: HashMap<*const FormulaNode, usize> = HashMap::new();
        let mut equal: HashMap<String, usize> = HashMap::new();
        let mut list: Vec<PartText> = Vec::new();
        let mut seen = NamedParts::default();
        for formula in ordered([root], operands) {
            let operands: Vec<usize> =
                operands(formula).iter().map(|operand| known[&Rc::as_ptr(&operand.0)]).collect();
            // Two parts are equal if their texts are, with the operands replaced by their numbers.
            let numbers: Vec<Text> =
                operands.iter().map(|place| Text { text: format!("#{place}"), rank: CALL }).collect();
            seen.generators.clear();
            let own = text_of(formula, &numbers.iter().collect::<Vec<&Text>>(), &mut seen);
            let key = format!("{}{:?}", own.text, seen.generators);
            let place = *equal.entry(key).or_insert_with(|| {
                operands.iter().for_each(|operand| list[*operand].readers += 1);
                list.push(PartText { formula, operands, readers: 0 });
                list.len() - 1
            });
            known.insert(Rc::as_ptr(&formula.0), place);
        }
        Parts { list }
    }
}

/// The operands that are written. A name that stands for several parts has none.
fn operands(formula: &Formula) -> Vec<&Formula> {
    if text::ratio(formula).is_some() { Vec::new() } else { formula.operands() }
}

fn variable(text: &str, like: &Formula) -> Formula {
    Formula::new(FormulaKind::Variable(text.into()), like.unit(), like.axis(), like.live(), like.0.origin)
}

/// The text of a part, from the texts of its operands.
fn text_of(formula: &Formula, operands: &[&Text], seen: &mut NamedParts) -> Text {
    let call = |text: String| Text { text, rank: CALL };
    if let Some(word) = text::ratio(formula) {
        return call(word.to_owned());
    }
    let loose = |place: usize| operands.get(place).map_or("", |operand| operand.text.as_str());
    match &formula.0.kind {
        FormulaKind::Number(value) if *value < 0.0 => {
            Text { text: text::number(*value), rank: Function::Negate.precedence() }
        }
        FormulaKind::Apply { function, .. } => applied(*function, operands),
        FormulaKind::Reduce { among, on, .. } => {
            let node = with_operands(formula, operands);
            let FormulaKind::Reduce { reduction, operand, fraction, .. } = node else {
                unreachable!("the same kind")
            };
            let among = among.as_ref().map(|_| format!(", among: {}", loose(1))).unwrap_or_default();
            let on = on.as_ref().map(|on| format!(", on: {}", rollout(on))).unwrap_or_default();
            let kind = FormulaKind::Reduce { reduction, operand, among: None, on: None, fraction };
            let plain = Formula::new(kind, formula.unit(), formula.axis(), formula.live(), formula.0.origin);
            let plain = text::formula(&plain, usize::MAX);
            call(format!("{}{among}{on})", plain.trim_end_matches(')')))
        }
        FormulaKind::Across { members, among, index } => {
            let texts = |range: std::ops::Range<usize>| range.map(loose).collect::<Vec<&str>>().join(", ");
            let count = members.len();
            let among = if among.is_empty() {
                String::new()
            } else {
                format!(", among: [{}]", texts(count..count + among.len()))
            };
            call(format!("softmax({}, across: [{}]{among})", loose(*index), texts(0..count)))
        }
        FormulaKind::Live(Live::Preference(preference)) => call(self::preference(preference, loose(0))),
        FormulaKind::Live(Live::Divergence(divergence)) => {
            call(format!("live {}", self::divergence(divergence, operands, &mut seen.generators)))
        }
        FormulaKind::Signal(Signal::Divergence(divergence)) => {
            call(self::divergence(divergence, operands, &mut seen.generators))
        }
        FormulaKind::Signal(Signal::Random { draw, .. }) => {
            let place = seen.draws.iter().position(|known| known == draw).unwrap_or_else(|| {
                seen.draws.push(*draw);
                seen.draws.len() - 1
            });
            call(format!("{}{}", text::formula(formula, usize::MAX), number_of(place)))
        }
        FormulaKind::Schedule(_)
        | FormulaKind::Signal(_)
        | FormulaKind::Number(_)
        | FormulaKind::Variable(_)
        | FormulaKind::Entry(_) => call(text::formula(formula, usize::MAX)),
        _ => {
            let kind = with_operands(formula, operands);
            let own = Formula::new(kind, formula.unit(), formula.axis(), formula.live(), formula.0.origin);
            call(text::formula(&own, usize::MAX))
        }
    }
}

fn applied(function: Function, operands: &[&Text]) -> Text {
    let rank = function.precedence();
    let word = function.name();
    let text = match operands {
        _ if rank >= CALL => {
            let inner: Vec<&str> = operands.iter().map(|operand| operand.text.as_str()).collect();
            format!("{word}({})", inner.join(", "))
        }
        [operand] => format!("{word}{}", operand.within(rank - 1)),
        [base, exponent] if function == Function::Power => {
            format!("{}^{}", base.within(rank), exponent.within(rank - 1))
        }
        [left, right] => format!("{} {word} {}", left.within(rank - 1), right.within(rank)),
        _ => unreachable!("an operator has one operand or two"),
    };
    Text { text, rank: rank.min(CALL) }
}

/// The kind of a formula with its operands replaced by names.
fn with_operands(formula: &Formula, operands: &[&Text]) -> FormulaKind {
    let names: Vec<Formula> =
        formula.operands().into_iter().zip(operands).map(|(like, text)| variable(&text.text, like)).collect();
    let at = |place: usize| names[place].clone();
    let maybe = |given: &Option<Formula>, place: usize| given.as_ref().map(|_| at(place));
    match &formula.0.kind {
        FormulaKind::Reduce { reduction, among, on, fraction, .. } => FormulaKind::Reduce {
            reduction: *reduction,
            operand: at(0),
            among: maybe(among, 1),
            on: on.clone(),
            fraction: maybe(fraction, 1 + usize::from(among.is_some())),
        },
        FormulaKind::Statistic { statistic, over, among, fraction, .. } => FormulaKind::Statistic {
            statistic: *statistic,
            operand: at(0),
            over: *over,
            among: maybe(among, 1),
            fraction: maybe(fraction, 1 + usize::from(among.is_some())),
        },
        FormulaKind::Scan { scan, over, .. } => {
            let scan = match scan {
                Scan::RewardToGo { .. } => Scan::RewardToGo { discount: at(1) },
                other => other.clone(),
            };
            FormulaKind::Scan { scan, operand: at(0), over: *over }
        }
        FormulaKind::Memory { memory, .. } => FormulaKind::Memory { memory: *memory, operand: at(0) },
        FormulaKind::Adaptive(Adaptive::Ladder { values, every, .. }) => {
            FormulaKind::Adaptive(Adaptive::Ladder {
                values: values.clone(),
                advance_if: at(0),
                every: *every,
            })
        }
        FormulaKind::Adaptive(Adaptive::Learned { hold, discount, lr, .. }) => {
            let (hold, discount, lr) = (*hold, *discount, *lr);
            FormulaKind::Adaptive(Adaptive::Learned { gain: at(0), hold, discount, lr })
        }
        FormulaKind::Live(Live::SquaredError { part, dimensions, .. }) => {
            FormulaKind::Live(Live::SquaredError {
                part: *part,
                target: at(0),
                dimensions: dimensions.clone(),
            })
        }
        FormulaKind::Live(Live::BinaryCrossEntropy { part, .. }) => {
            FormulaKind::Live(Live::BinaryCrossEntropy { part: *part, target: at(0) })
        }
        other => other.clone(),
    }
}

fn divergence(of: &Divergence, operands: &[&Text], generators: &mut Vec<NamedFormula>) -> String {
    let mut named = of.formulas().into_iter().zip(operands).map(|(like, text)| variable(&text.text, like));
    let mut next = || named.next().expect("one text for each operand");
    let mut own = of.clone();
    if let DivergenceKind::Entrywise(summand) = &mut own.kind {
        let summand = Rc::make_mut(summand);
        for given in &mut summand.parameters {
            let named = next();
            // `normalized: true`
            if given.value.unit() != Unit::Bool {
                given.value = named;
            }
        }
    }
    if let Amount::Formula(formula) = &mut own.temperature {
        *formula = next();
    }
    rename(&mut own.left, &mut next);
    rename(&mut own.right, &mut next);
    let text = text::divergence(&own);
    let DivergenceKind::Entrywise(summand) = &of.kind else { return text };
    if summand.standard {
        return text;
    }
    let known = generators.iter().position(|known| exact(&known.formula) == exact(&summand.value));
    let place = known.unwrap_or_else(|| {
        generators.push(NamedFormula { name: summand.name.clone(), formula: summand.value.clone() });
        generators.len() - 1
    });
    let name = &generators[place].name;
    text.replacen(&summand.name, &format!("{name}{}", number_of(place)), 1)
}

fn rename(side: &mut Distribution, next: &mut dyn FnMut() -> Formula) {
    match side {
        Distribution::Role(_) => {}
        Distribution::Detached(inner) => rename(inner, next),
        Distribution::Blend(parts) => parts.iter_mut().for_each(|part| part.weight = next()),
    }
}

fn preference(of: &Preference, beta: &str) -> String {
    let on = of.on.as_ref().map(|span| format!(", on: span.{}", span.name())).unwrap_or_default();
    let pair = format!("chosen: {}, rejected: {}{on}", rollout(&of.chosen), rollout(&of.rejected));
    match &of.kind {
        PreferenceKind::Dpo { .. } => format!("live dpo({pair}, beta: {beta})"),
        PreferenceKind::BradleyTerry => format!("live bradley_terry({pair})"),
    }
}

/// A rollout as an author would write it, with every setting that affects its completions.
pub(super) fn rollout(of: &Rollout) -> String {
    let mut written = source(&of.source);
    for edit in &of.edits {
        written = match edit {
            Edit::Rewrite { from, to } => {
                format!("rewrite({written}, {}, to: {})", template(from), template(to))
            }
            Edit::Keep { condition } => format!("keep({written}, where: {})", exact(condition)),
            Edit::Retry { until, at_most } => {
                format!("retry({written}, until: {}, at_most: {at_most})", exact(until))
            }
            Edit::Best { by, of } => format!("best({written}, by: {}, of: {of})", exact(by)),
            Edit::FirstTurns { turns } => format!("first_turns({written}, {})", exact(turns)),
            Edit::ExpertTurns { turns: ExpertTurns::First(turns) } => {
                format!("expert_turns({written}, first: {})", exact(turns))
            }
            Edit::ExpertTurns { turns: ExpertTurns::AllBut(turns) } => {
                format!("expert_turns({written}, all_but: {})", exact(turns))
            }
            Edit::Through { command, .. } => format!("through({written}, {command:?})"),
        };
    }
    written
}

fn source(source: &RolloutSource) -> String {
    let name = match source {
        RolloutSource::Parameter { name, .. } => name,
        source => source.name(),
    };
    let arguments = source.arguments().into_iter().map(|(name, argument)| {
        let value = match argument {
            RolloutArgument::Rollout(of) => rollout(of),
            RolloutArgument::Formula(formula) => exact(formula),
            RolloutArgument::Template(of) => template(of),
            RolloutArgument::Sampling(of) => sampling(of),
            RolloutArgument::Count(count) => count.to_string(),
            RolloutArgument::Word(word) => word.to_owned(),
            RolloutArgument::Text(text) => format!("{text:?}"),
        };
        if name.is_empty() { value } else { format!("{name}: {value}") }
    });
    format!("{name}({})", arguments.collect::<Vec<String>>().join(", "))
}

fn sampling(of: &Sampling) -> String {
    let more = [
        of.top_p.map(|p| format!(", top_p: {}", text::number(p))),
        of.top_k.map(|k| format!(", top_k: {k}")),
        of.repetition_penalty.map(|penalty| format!(", repetition_penalty: {}", text::number(penalty))),
        of.heads.map(|heads| format!(", heads: {}, accept: {}", heads.heads, text::number(heads.accept))),
        (!of.stop.is_empty()).then(|| format!(", stop: {:?}", of.stop)),
    ];
    let more: String = more.into_iter().flatten().collect();
    format!(
        "n: {}, temperature: {}, max_tokens: {}{more}",
        of.n,
        exact(&of.temperature),
        exact(&of.max_tokens)
    )
}

/// The text of a template. Names are unique only in a file, so a digest of the content is included.
fn template(of: &Template) -> String {
    fn slot(of: &Slot) -> String {
        match of {
            Slot::Shortened { slot: of, by, max_tokens } => {
                format!("short({}, by: {}, {max_tokens})", slot(of), by.name())
            }
            Slot::Shuffled(slots) => {
                format!("shuffled({})", slots.iter().map(slot).collect::<Vec<String>>().join(", "))
            }
            Slot::Answer { by, member } => format!("answer({}, {member:?})", by.name()),
            Slot::Group(member) => format!("group({member:?})"),
            Slot::Data(field) => field.clone(),
            other => format!("{other:?}").to_lowercase(),
        }
    }
    let pieces = of.pieces.iter().map(|piece| match piece {
        TemplatePiece::Text(text) => format!("{text:?}"),
        TemplatePiece::Slot(of) => slot(of),
        TemplatePiece::First { slot: of, share } => format!("first({}, {})", slot(of), exact(share)),
        TemplatePiece::Last { slot: of, share } => format!("last({}, {})", slot(of), exact(share)),
        TemplatePiece::Number(number) => exact(number),
        TemplatePiece::Anything => "_".to_owned(),
    });
    let pieces: Vec<String> = pieces.collect();
    let digest = pieces.join(" ");
    // A long text is replaced by its hash, which differs for different texts.
    let shown =
        if digest.len() <= 60 { digest } else { blake3::hash(digest.as_bytes()).to_hex()[..16].to_owned() };
    format!("{} {{{shown}}}", of.name)
}
