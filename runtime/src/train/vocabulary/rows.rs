//! A chunk of tokens, with the distributions of every role.

use std::cell::RefCell;

use mopd_plan::Role;
use tch::{Kind, Tensor};

use super::loops::{Loops, is_readable};
use super::whole::Unnormalized;
use super::{Block, Spans, Vocabulary, are_listed};
use crate::model::ABSENT;

/// A divisor of logits.
pub enum RowTemperature {
    Number(f64),
    /// `[tokens]`, for all tokens of the step.
    PerToken(Tensor),
}

impl From<f64> for RowTemperature {
    fn from(number: f64) -> RowTemperature {
        RowTemperature::Number(number)
    }
}

impl From<&RowTemperature> for RowTemperature {
    fn from(temperature: &RowTemperature) -> RowTemperature {
        temperature.share()
    }
}

impl RowTemperature {
    /// The same numbers, not copied.
    pub fn share(&self) -> RowTemperature {
        match self {
            RowTemperature::Number(number) => RowTemperature::Number(*number),
            RowTemperature::PerToken(numbers) => RowTemperature::PerToken(numbers.shallow_clone()),
        }
    }

    pub fn times(&self, factor: f64) -> RowTemperature {
        match self {
            RowTemperature::Number(number) => RowTemperature::Number(number * factor),
            RowTemperature::PerToken(_) if factor == 1.0 => self.share(),
            RowTemperature::PerToken(numbers) => RowTemperature::PerToken(numbers * factor),
        }
    }

    fn is_one(&self) -> bool {
        matches!(self, RowTemperature::Number(1.0))
    }

    /// Whether both are one number, or share their numbers.
    fn is(&self, other: &RowTemperature) -> bool {
        match (self, other) {
            (RowTemperature::Number(one), RowTemperature::Number(other)) => one == other,
            (RowTemperature::PerToken(one), RowTemperature::PerToken(other)) => {
                one.data_ptr() == other.data_ptr()
            }
            _ => false,
        }
    }

    /// The rows divided by it.
    fn divides(&self, tensor: Tensor, rows: &LogitRows) -> Tensor {
        match self {
            RowTemperature::Number(1.0) => tensor,
            RowTemperature::Number(number) => tensor / *number,
            RowTemperature::PerToken(numbers) => tensor / rows.column(numbers),
        }
    }
}

/// Next-token logits of some tokens. Distributions are computed when they are first read, and kept as long as
/// the chunk.
pub struct LogitRows<'a> {
    /// The index of the first row among the tokens of the step.
    pub first: i64,
    /// `[rows, 1]`: the tokens of the completions.
    pub targets: Tensor,
    /// `[rows, vocabulary]`
    student: Tensor,
    vocabulary: &'a Vocabulary,
    block: &'a Block,
    /// `[rows, ends]`: the tokens that end a completion, in every row.
    pub ends: Tensor,
    /// Log-probabilities by role and temperature.
    logps: RefCell<Vec<(Role, RowTemperature, Tensor)>>,
    /// Normalizers of logits by role.
    normalizers: RefCell<Vec<(Role, Tensor)>>,
}

impl<'a> LogitRows<'a> {
    /// `count` rows of a block, from its row `from` on.
    pub(super) fn new(vocabulary: &'a Vocabulary, block: &'a Block, from: i64, count: i64) -> LogitRows<'a> {
        let first = block.first + from;
        let targets = vocabulary.targets.narrow(0, first, count).unsqueeze(1);
        let student = block.student.narrow(0, from, count);
        let ends = vocabulary.ends.unsqueeze(0).expand([count, -1], false);
        let (logps, normalizers) = (RefCell::default(), RefCell::default());
        LogitRows { first, targets, student, vocabulary, block, ends, logps, normalizers }
    }

    pub fn len(&self) -> i64 {
        self.targets.size()[0]
    }

    pub fn vocabulary(&self) -> i64 {
        self.student.size()[1]
    }

    /// Permission to run our own loops or kernels; `None` where only libtorch operators may run.
    pub fn loops(&self) -> Option<Loops> {
        Loops::at(self.vocabulary.place)
    }

    /// The temperature of the trained policy.
    pub fn temperature(&self) -> f64 {
        self.vocabulary.temperature
    }

    /// Log-probabilities `[rows, vocabulary]` as in the objective's `logp`: the sampler's at the temperature
    /// of sampling, the others' at that of the policy.
    pub fn scored(&self, role: Role) -> Tensor {
        self.logps(role, self.temperature_scored(role))
    }

    /// The same at the entries in `indices`, `[rows, any]`.
    pub fn scored_at(&self, role: Role, indices: &Tensor) -> Tensor {
        match self.unnormalized(role, self.temperature_scored(role)) {
            Some(unnormalized) => unnormalized.at(indices),
            None => self.scored(role).gather(-1, indices, false),
        }
    }

    fn temperature_scored(&self, role: Role) -> f64 {
        if role == Role::Sampler { 1.0 } else { self.temperature() }
    }

    /// The spans of a role, if it has another tokenizer.
    pub fn spans(&self, role: Role) -> Option<&'a Spans> {
        self.vocabulary.spans.iter().find(|spans| spans.role == role)
    }

    /// `[rows, columns]`, bool, a new tensor: where a role has logits at these tokens. Columns beyond the
    /// vocabulary are entries that only another vocabulary has.
    pub fn present(&self, role: Role) -> Tensor {
        self.role_logits(role).gt(f64::from(ABSENT) / 2.0)
    }

    fn role_logits(&self, role: Role) -> Tensor {
        match role {
            Role::Student => self.student.shallow_clone(),
            Role::Old => unreachable!("numbers of `old` are the student's, or are kept"),
            Role::Scorer(_) | Role::Sampler => {
                self.vocabulary.other(self.block, role).narrow(0, self.first - self.block.first, self.len())
            }
        }
    }

    /// The student's logits, `[rows, vocabulary]`.
    pub fn logits(&self) -> &Tensor {
        &self.student
    }

    /// Log-probabilities `[rows, vocabulary]` in single precision, of `role`'s logits over `temperature`; the
    /// sampler's are also divided by its sampling temperature. Not to be written to.
    ///
    /// # Panics
    /// If the pass does not have the role's logits.
    pub fn logps(&self, role: Role, temperature: impl Into<RowTemperature>) -> Tensor {
        let (role, temperature) = self.resolved(role, temperature.into());
        let mut known = self.logps.borrow_mut();
        if let Some((.., logps)) = known.iter().find(|(from, at, _)| *from == role && at.is(&temperature)) {
            return logps.shallow_clone();
        }
        let logits = self.role_logits(role);
        if self.is_listed(role) {
            assert!(temperature.is_one(), "what a server lists is at temperature 1: the compiler has looked");
            known.push((role, temperature, logits.shallow_clone()));
            return logits;
        }
        // Half precision could make a divergence negative: everything after the logits is in single.
        let logits = logits.to_kind(Kind::Float);
        let logps = temperature.divides(logits, self).log_softmax(-1, Kind::Float);
        known.push((role, temperature, logps.shallow_clone()));
        logps
    }

    /// Logits and normalizers of [`Self::logps`], for GPU kernels; `None` where no kernel reads them, and
    /// where logits are divided by a temperature.
    pub(super) fn unnormalized(
        &self,
        role: Role,
        temperature: impl Into<RowTemperature>,
    ) -> Option<Unnormalized> {
        let (role, temperature) = self.resolved(role, temperature.into());
        let Some(Loops::Gpu(kernels)) = self.loops() else { return None };
        if !temperature.is_one() || self.is_listed(role) {
            return None;
        }
        let logits = self.role_logits(role);
        if !is_readable(&logits) {
            return None;
        }
        let mut known = self.normalizers.borrow_mut();
        let normalizers = match known.iter().find(|(of, _)| *of == role) {
            Some((_, normalizers)) => normalizers.shallow_clone(),
            None => {
                let normalizers = kernels.normalizers(&logits);
                known.push((role, normalizers.shallow_clone()));
                normalizers
            }
        };
        Some(Unnormalized { kernels, logits, normalizers })
    }

    /// Whether a role's rows are log-probabilities instead of logits.
    fn is_listed(&self, role: Role) -> bool {
        matches!(role, Role::Scorer(_)) && are_listed(self.vocabulary.logits(role))
    }

    /// The role that has the logits, and the temperature that divides them: the sampler is another role at
    /// its sampling temperature.
    fn resolved(&self, role: Role, temperature: RowTemperature) -> (Role, RowTemperature) {
        match role {
            Role::Sampler => {
                let (writer, own) =
                    self.vocabulary.sampler.expect("a pass that reads the sampler knows who wrote");
                (writer, temperature.times(own))
            }
            Role::Student | Role::Old | Role::Scorer(_) => (role, temperature),
        }
    }

    /// These rows of a tensor over all tokens of the step, `[rows, 1]`.
    pub fn column(&self, per_token: &Tensor) -> Tensor {
        assert_eq!(
            per_token.numel() as i64,
            self.vocabulary.tokens(),
            "one number for each token of the step"
        );
        per_token.narrow(0, self.first, self.len()).unsqueeze(1)
    }
}

/// d loss / d log-probability of the student, `[rows, vocabulary]`, by temperature.
#[derive(Default)]
pub struct LogpGrad {
    by_temperature: Vec<(RowTemperature, Tensor)>,
}

impl LogpGrad {
    /// Adds to all entries. Takes the tensor, which must not share memory with others.
    pub fn add(&mut self, temperature: impl Into<RowTemperature>, grad: Tensor) {
        let temperature = temperature.into();
        match self.find(&temperature) {
            Some(sum) => *sum += grad,
            None => self.by_temperature.push((temperature, grad)),
        }
    }

    /// Adds to the entries in `indices`, `[rows, any]`.
    pub fn add_at(
        &mut self,
        rows: &LogitRows,
        temperature: impl Into<RowTemperature>,
        indices: &Tensor,
        grad: &Tensor,
    ) {
        let temperature = temperature.into();
        if self.find(&temperature).is_none() {
            let zeros = Tensor::zeros([rows.len(), rows.vocabulary()], (Kind::Float, grad.device()));
            self.by_temperature.push((temperature.share(), zeros));
        }
        let sum = self.find(&temperature).expect("it was just added");
        let _ = sum.scatter_add_(-1, indices, grad);
    }

    /// The sum over the vocabulary, `[rows]`; `None` where nothing was added.
    pub fn total(&self) -> Option<Tensor> {
        let sums = self
            .by_temperature
            .iter()
            .map(|(_, grad)| grad.sum_dim_intlist([-1].as_slice(), false, Kind::Float));
        sums.reduce(|sum, of| sum + of)
    }

    fn find(&mut self, temperature: &RowTemperature) -> Option<&mut Tensor> {
        self.by_temperature.iter_mut().find(|(known, _)| known.is(temperature)).map(|(_, sum)| sum)
    }

    /// Writes d loss / d logits of the student to `out`, `[rows, vocabulary]`. It may be the logits
    /// themselves: the log-probabilities at every temperature are computed before they are overwritten.
    pub fn into_logits(self, rows: &LogitRows, out: &mut Tensor) {
        let logps: Vec<Tensor> = self
            .by_temperature
            .iter()
            .map(|(temperature, _)| rows.logps(Role::Student, temperature))
            .collect();
        let mut first = true;
        for ((temperature, grad), logps) in self.by_temperature.into_iter().zip(logps) {
            if first && temperature.is_one() && out.kind() == Kind::Float {
                let _ = Tensor::internal_log_softmax_backward_data_out(out, &grad, &logps, -1, Kind::Float);
            } else {
                let part = Tensor::internal_log_softmax_backward_data(&grad, &logps, -1, Kind::Float);
                let part = temperature.divides(part, rows);
                if first {
                    out.copy_(&part);
                } else {
                    *out += part.to_kind(out.kind());
                }
            }
            first = false;
        }
        if first {
            let _ = out.zero_();
        }
    }
}
