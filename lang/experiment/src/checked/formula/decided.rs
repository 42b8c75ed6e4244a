//! Simplifies formulas that are partly known: for the prompts of another domain,
//! `domain == sort and data.level > 3` reads no data.

use std::rc::Rc;

use rustc_hash::FxHashMap;

use super::{Divergence, Formula, FormulaKind, FormulaNode, Function, Live, Scan, Signal};
use crate::checked::DomainId;

impl Formula {
    /// The condition without the parts that are known before the run: `1 and x` becomes `x`, `0 and x`
    /// becomes `0`. The insides of comparisons and calls stay as they are.
    pub fn decided(&self) -> Formula {
        // Not recursive, since formulas may be deep; shared parts are visited once.
        let mut known = Known::default();
        let mut pending = vec![self.clone()];
        while let Some(formula) = pending.last().cloned() {
            let truths = truths(&formula);
            let before = pending.len();
            pending.extend(
                truths
                    .iter()
                    .filter(|part| !known.contains_key(&Rc::as_ptr(&part.0)))
                    .map(|part| (*part).clone()),
            );
            if pending.len() > before {
                continue;
            }
            let parts: Vec<&Formula> = truths.iter().map(|part| &known[&Rc::as_ptr(&part.0)]).collect();
            let decided = simplified(&formula, &parts);
            known.insert(Rc::as_ptr(&formula.0), decided);
            pending.pop();
        }
        known.remove(&Rc::as_ptr(&self.0)).unwrap_or_else(|| self.clone())
    }

    /// The formula for the prompts of one domain: comparisons with the prompt's domain are decided, and so
    /// are the choices that depend on nothing else. Every part keeps its axis.
    pub fn in_domain(&self, domain: DomainId) -> Formula {
        crate::stack::with_room(|| of_domain(self, domain, &mut Known::default()))
    }

    /// Whether it depends on the domain of the prompt.
    pub fn reads_domain(&self) -> bool {
        self.any(|node| matches!(node.kind, FormulaKind::Signal(Signal::DomainIs { .. })))
    }
}

type Known = FxHashMap<*const FormulaNode, Formula>;

fn operands_of_domain(formula: &Formula, domain: DomainId, known: &mut Known) -> Vec<Formula> {
    formula.operands().into_iter().map(|part| of_domain(part, domain, known)).collect()
}

/// Whether a number inside a divergence differs from domain to domain.
fn differs_by_domain(divergence: &Divergence) -> bool {
    divergence.formulas().into_iter().any(Formula::reads_domain)
}

fn of_domain(formula: &Formula, domain: DomainId, known: &mut Known) -> Formula {
    if let Some(known) = known.get(&Rc::as_ptr(&formula.0)) {
        return known.clone();
    }
    let built = match &formula.0.kind {
        FormulaKind::Signal(Signal::DomainIs { domain: own, .. }) => truth_like(formula, *own == domain),
        FormulaKind::Signal(Signal::Divergence(divergence)) if differs_by_domain(divergence) => {
            let decided = divergence.with_formulas(&mut |part| of_domain(part, domain, known));
            Formula::signal(Signal::Divergence(decided), formula.0.origin)
        }
        FormulaKind::Live(Live::Divergence(divergence)) if differs_by_domain(divergence) => {
            let decided = divergence.with_formulas(&mut |part| of_domain(part, domain, known));
            let kind = FormulaKind::Live(Live::Divergence(decided));
            Formula::new(kind, formula.unit(), formula.axis(), formula.live(), formula.0.origin)
        }
        FormulaKind::Apply { .. } => {
            let parts = operands_of_domain(formula, domain, known);
            simplified(formula, &parts.iter().collect::<Vec<&Formula>>())
        }
        FormulaKind::Reduce { .. }
        | FormulaKind::Statistic { .. }
        | FormulaKind::Scan { .. }
        | FormulaKind::Memory { .. }
        | FormulaKind::Across { .. } => {
            let parts = operands_of_domain(formula, domain, known);
            with(formula, &parts.iter().collect::<Vec<&Formula>>())
        }
        _ => formula.clone(),
    };
    known.insert(Rc::as_ptr(&formula.0), built.clone());
    built
}

/// The operands of a logical operator.
fn truths(formula: &Formula) -> &[Formula] {
    match &formula.0.kind {
        FormulaKind::Apply { function: Function::And | Function::Or | Function::Not, operands } => operands,
        _ => &[],
    }
}

fn simplified(formula: &Formula, parts: &[&Formula]) -> Formula {
    let FormulaKind::Apply { function, .. } = &formula.0.kind else { return formula.clone() };
    let truth = |formula: &Formula| formula.constant().map(|value| value != 0.0);
    match (function, parts) {
        (Function::Not, [part]) if let Some(value) = truth(part) => truth_like(formula, !value),
        (Function::And | Function::Or, [left, right]) => {
            // The operand that decides the result alone: false for `and`, true for `or`.
            let decides = *function == Function::Or;
            match (truth(left), truth(right)) {
                (Some(value), _) | (_, Some(value)) if value == decides => truth_like(formula, decides),
                (Some(_), _) => (*right).clone(),
                (_, Some(_)) => (*left).clone(),
                (None, None) => with(formula, parts),
            }
        }
        (Function::Where, [condition, holds, otherwise]) if let Some(value) = truth(condition) => {
            let chosen = if value { holds } else { otherwise };
            match chosen.constant() {
                _ if chosen.axis() == formula.axis() => (*chosen).clone(),
                Some(value) => number_like(formula, value),
                // A reduction would count other elements.
                None => with(formula, parts),
            }
        }
        _ => with(formula, parts),
    }
}

fn truth_like(formula: &Formula, truth: bool) -> Formula {
    number_like(formula, f64::from(u8::from(truth)))
}

/// A number in the formula's place, with its unit and axis.
fn number_like(formula: &Formula, value: f64) -> Formula {
    Formula::new(FormulaKind::Number(value), formula.unit(), formula.axis(), false, formula.0.origin)
}

/// The same operation on other operands, or the formula itself if they are its own or none are given.
fn with(formula: &Formula, parts: &[&Formula]) -> Formula {
    if formula.operands().iter().zip(parts).all(|(one, other)| Rc::ptr_eq(&one.0, &other.0)) {
        return formula.clone();
    }
    let live = parts.iter().any(|part| part.live());
    let mut rest = parts.iter().map(|part| (*part).clone());
    let mut next = || rest.next().expect("one for each operand");
    let kind = match &formula.0.kind {
        FormulaKind::Apply { function, .. } => {
            FormulaKind::Apply { function: *function, operands: rest.collect() }
        }
        FormulaKind::Reduce { reduction, among, on, fraction, .. } => FormulaKind::Reduce {
            reduction: *reduction,
            operand: next(),
            among: among.as_ref().map(|_| next()),
            on: on.clone(),
            fraction: fraction.as_ref().map(|_| next()),
        },
        FormulaKind::Statistic { statistic, over, among, fraction, .. } => FormulaKind::Statistic {
            statistic: *statistic,
            operand: next(),
            over: *over,
            among: among.as_ref().map(|_| next()),
            fraction: fraction.as_ref().map(|_| next()),
        },
        FormulaKind::Scan { scan, over, .. } => {
            let operand = next();
            let scan = match scan {
                Scan::RewardToGo { .. } => Scan::RewardToGo { discount: next() },
                other => other.clone(),
            };
            FormulaKind::Scan { scan, operand, over: *over }
        }
        FormulaKind::Memory { memory, .. } => FormulaKind::Memory { memory: *memory, operand: next() },
        FormulaKind::Across { members, index, .. } => {
            let members = members.iter().map(|_| next()).collect();
            FormulaKind::Across { members, among: rest.collect(), index: *index }
        }
        other => other.clone(),
    };
    Formula::new(kind, formula.unit(), formula.axis(), live, formula.0.origin)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checked::Origin;
    use crate::checked::formula::PlainSignal;
    use crate::checked::formula::{Axis, Signal, Unit, text};

    fn truth(kind: FormulaKind) -> Formula {
        Formula::new(kind, Unit::Bool, Axis::Sequence, false, Origin(0))
    }

    fn apply(function: Function, operands: &[&Formula]) -> Formula {
        truth(FormulaKind::Apply {
            function,
            operands: operands.iter().map(|operand| (*operand).clone()).collect(),
        })
    }

    #[test]
    fn known_conditions_are_simplified_away() {
        let [yes, no] = [1.0, 0.0].map(|value| truth(FormulaKind::Number(value)));
        let open = truth(FormulaKind::Signal(Signal::DataIs { field: "kind".into(), text: "proof".into() }));
        let both = apply(Function::And, &[&open, &yes]);
        let either = apply(Function::Or, &[&no, &both]);
        let nested = apply(Function::Not, &[&apply(Function::Or, &[&either, &open])]);
        for (formula, expected) in [
            (&open, "data.kind == \"proof\""),
            (&both, "data.kind == \"proof\""),
            (&either, "data.kind == \"proof\""),
            (&apply(Function::And, &[&no, &open]), "false"),
            (&apply(Function::Or, &[&open, &yes]), "true"),
            (&apply(Function::And, &[&apply(Function::Not, &[&no]), &yes]), "true"),
            (&nested, "not (data.kind == \"proof\" or data.kind == \"proof\")"),
        ] {
            assert_eq!(text::formula(&formula.decided(), 100), expected);
        }
    }

    #[test]
    fn a_formula_for_one_domain_has_no_choice_by_domain() {
        let is = |id: u32, name: &str| {
            let signal = Signal::DomainIs { domain: DomainId(id), name: name.into() };
            Formula::signal(signal, Origin(0))
        };
        let of = |kind, axis| Formula::new(kind, Unit::Number, axis, false, Origin(0));
        let number = |value| of(FormulaKind::Number(value), Axis::Run);
        let choice = |condition: &Formula, holds: &Formula, otherwise: &Formula| {
            let operands = vec![condition.clone(), holds.clone(), otherwise.clone()];
            let axis = operands.iter().map(Formula::axis).max().unwrap();
            of(FormulaKind::Apply { function: Function::Where, operands }, axis)
        };
        let (math, code) = (is(0, "math"), is(1, "code"));
        let [reward, position] = [Signal::Plain(PlainSignal::Reward), Signal::Plain(PlainSignal::Position)]
            .map(|signal| Formula::signal(signal, Origin(0)));
        let coefficient = choice(&math, &number(0.1), &choice(&code, &number(0.5), &number(0.2)));
        let tokens = choice(&math, &position, &number(1.0));
        let mean = |operand: &Formula, among: Option<Formula>| {
            let kind = FormulaKind::Reduce {
                reduction: crate::checked::formula::Reduction::Mean,
                operand: operand.clone(),
                among,
                on: None,
                fraction: None,
            };
            of(kind, Axis::Sequence)
        };
        for (formula, expected) in [
            (&coefficient, ["0.1", "0.5", "0.2"]),
            (&tokens, ["position", "1", "1"]),
            // The mean is over tokens in every domain.
            (
                &mean(&tokens, None),
                ["mean(position, over: sequence)", "mean(1, over: sequence)", "mean(1, over: sequence)"],
            ),
            (&choice(&math, &reward, &position), ["where(true, reward, position)", "position", "position"]),
            (
                &mean(&position, Some(apply(Function::Or, &[&math, &apply(Function::Not, &[&code])]))),
                [
                    "mean(position, over: sequence, among: true)",
                    "mean(position, over: sequence, among: false)",
                    "mean(position, over: sequence, among: true)",
                ],
            ),
            (&reward, ["reward"; 3]),
        ] {
            for (id, expected) in (0..3).zip(expected) {
                let own = formula.in_domain(DomainId(id));
                assert_eq!((text::formula(&own, 100).as_str(), own.axis()), (expected, formula.axis()));
                assert!(!own.reads_domain());
            }
        }
    }

    /// Shared parts are simplified once, and a long chain needs no deep stack.
    #[test]
    fn a_long_chain_is_decided() {
        let yes = truth(FormulaKind::Number(1.0));
        let mut chain =
            truth(FormulaKind::Signal(Signal::DataIs { field: "kind".into(), text: "proof".into() }));
        let expected = text::formula(&chain, 100);
        for _ in 0..20_000 {
            chain = apply(Function::And, &[&yes, &chain]);
        }
        assert_eq!(text::formula(&chain.decided(), 100), expected);
    }
}
