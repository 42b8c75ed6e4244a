//! Values for parameters without one: in the range of the unit, near its lower or upper end where the formula
//! uses the parameter as a bound, and all different, so that no difference of two is 0.

use std::rc::Rc;

use mopd_experiment::formula::{Formula, FormulaKind, Function, Unit};

use super::view::TermView;

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ParameterValues(Vec<(Rc<str>, f64)>);

/// How a formula uses a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UsedAs {
    Lower,
    Upper,
    Elsewhere,
}

impl ParameterValues {
    pub fn new(view: &TermView) -> ParameterValues {
        let parts: Vec<&Formula> = view.formulas().into_iter().flat_map(Formula::parts).collect();
        let mut bounds: Vec<(Rc<str>, UsedAs)> = Vec::new();
        for part in &parts {
            let FormulaKind::Apply { function, operands } = &part.0.kind else { continue };
            let places: &[(usize, UsedAs)] = match function {
                Function::Clip => &[(1, UsedAs::Lower), (2, UsedAs::Upper)],
                Function::Maximum => &[(0, UsedAs::Lower), (1, UsedAs::Lower)],
                Function::Minimum => &[(0, UsedAs::Upper), (1, UsedAs::Upper)],
                Function::Greater | Function::GreaterEqual => &[(0, UsedAs::Upper), (1, UsedAs::Lower)],
                Function::Less | Function::LessEqual => &[(0, UsedAs::Lower), (1, UsedAs::Upper)],
                _ => continue,
            };
            for (operand, place) in places {
                if let Some(FormulaKind::Variable(name)) =
                    operands.get(*operand).map(|operand| &operand.0.kind)
                {
                    bounds.push((name.clone(), *place));
                }
            }
        }
        let mut values = ParameterValues::default();
        for part in parts {
            let FormulaKind::Variable(name) = &part.0.kind else { continue };
            if values.known(name).is_none() {
                let place = bounds
                    .iter()
                    .find(|(known, _)| known == name)
                    .map_or(UsedAs::Elsewhere, |(_, place)| *place);
                let usual = usual(part.unit(), place);
                let value = (0..).map(|again| {
                    usual * STEPS[again % STEPS.len()] * 0.7f64.powi((again / STEPS.len()) as i32)
                });
                let taken = |value: &f64| values.0.iter().any(|(_, known)| known == value);
                let whole = part.unit() == Unit::Count;
                // Integers stay integers, so two of them may be equal.
                let value = if whole { Some(usual) } else { value.take(200).find(|value| !taken(value)) };
                values.0.push((name.clone(), value.unwrap_or(usual)));
            }
        }
        values
    }

    fn known(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|(known, _)| **known == *name).map(|(_, value)| *value)
    }

    pub fn get(&self, name: &str, unit: Unit) -> f64 {
        self.known(name).unwrap_or_else(|| usual(unit, UsedAs::Elsewhere))
    }
}

/// Values of one kind differ by these factors, which stay within every unit's range.
const STEPS: [f64; 5] = [1.0, 0.9, 1.1, 0.8, 1.2];

fn usual(unit: Unit, place: UsedAs) -> f64 {
    match (unit, place) {
        (Unit::Fraction | Unit::Prob, UsedAs::Lower) => 0.2,
        (Unit::Fraction | Unit::Prob, _) => 0.3,
        (Unit::Ratio, UsedAs::Lower) => 0.5,
        (Unit::Ratio, UsedAs::Upper) => 2.0,
        (Unit::Nats, UsedAs::Upper) => 5.0,
        (Unit::Logp, _) => -5.0,
        (Unit::Count, _) => 2.0,
        (_, UsedAs::Lower) => 0.25,
        (_, UsedAs::Upper) => 4.0,
        (_, UsedAs::Elsewhere) => 0.7,
    }
}
