//! Expressions over functions, as data: the bodies of functions and their gradients.

use super::table::Function;

#[derive(Clone, Copy, Debug)]
pub enum OpExpr {
    /// An operand, by position.
    Operand(usize),
    /// The function's output. Occurs only in gradients.
    Output,
    /// The gradient of the output. Occurs only in gradients.
    Gradient,
    Constant(f64),
    Apply(Function, &'static [OpExpr]),
    /// Local values, computed in order, and the expression that reads them as [`OpExpr::Local`], by position.
    Let(&'static [OpExpr], &'static OpExpr),
    Local(usize),
}

/// Evaluates expressions with one kind of values: numbers, graph nodes, vectors of machine code, tensors.
pub trait Backend {
    type Value: Clone;
    fn constant(&mut self, value: f64) -> Self::Value;
    fn apply(&mut self, function: Function, operands: &[Self::Value]) -> Self::Value;
}

/// The values of the names in an expression.
pub struct Arguments<'a, V> {
    pub operands: &'a [V],
    /// The output and its gradient; `None` for the body of a function.
    pub reverse: Option<[&'a V; 2]>,
}

// A derived implementation would require `V: Clone`.
impl<V> Clone for Arguments<'_, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V> Copy for Arguments<'_, V> {}

impl OpExpr {
    /// Evaluates operands from left to right.
    pub fn evaluate<B: Backend>(&self, backend: &mut B, arguments: Arguments<B::Value>) -> B::Value {
        self.within(backend, arguments, &[])
    }

    fn within<B: Backend>(
        &self,
        backend: &mut B,
        arguments: Arguments<B::Value>,
        locals: &[B::Value],
    ) -> B::Value {
        let reverse =
            |at: usize| arguments.reverse.expect("only gradients name output and gradient")[at].clone();
        match self {
            OpExpr::Operand(position) => arguments.operands[*position].clone(),
            OpExpr::Output => reverse(0),
            OpExpr::Gradient => reverse(1),
            OpExpr::Constant(value) => backend.constant(*value),
            OpExpr::Local(position) => locals[*position].clone(),
            OpExpr::Let(parts, body) => {
                let mut values: Vec<B::Value> = Vec::with_capacity(parts.len());
                for part in *parts {
                    let value = part.within(backend, arguments, &values);
                    values.push(value);
                }
                body.within(backend, arguments, &values)
            }
            OpExpr::Apply(function, operands) => {
                let mut of = |at: usize| operands[at].within(backend, arguments, locals);
                // Small arrays instead of a `Vec`, because the audit evaluates many of these.
                match operands.len() {
                    1 => {
                        let operands = [of(0)];
                        backend.apply(*function, &operands)
                    }
                    2 => {
                        let operands = [of(0), of(1)];
                        backend.apply(*function, &operands)
                    }
                    _ => {
                        let operands = [of(0), of(1), of(2)];
                        backend.apply(*function, &operands)
                    }
                }
            }
        }
    }
}

/// Evaluates expressions with plain numbers.
pub struct NumberOps;

impl Backend for NumberOps {
    type Value = f64;

    fn constant(&mut self, value: f64) -> f64 {
        value
    }

    fn apply(&mut self, function: Function, operands: &[f64]) -> f64 {
        function.value(operands)
    }
}
