//! The values that an expression can have before the run.

use std::rc::Rc;

use mopd_experiment::formula::{Distribution, Formula, FormulaKind, Role, Support, Unit, WeightedRole};
use mopd_experiment::{
    self, Adapter, BenchmarkId, ChangedElements, DataSource, DomainId, Edit, Extrapolation, FieldColumn,
    GradientAlignment, Guard, Metric, ModelId, Objective, Optimizer, PanelId, Private, Reward, Rollout,
    Secret, SelfCopy, TeacherId, Template, Validation, WithOrigin,
};

use crate::check::builtins::Builtin;
use crate::check::names::callable::Callable;
use crate::check::names::modules::{ItemId, ModuleId};
use crate::syntax::ast::Block;

#[derive(Clone, Debug)]
pub enum Value {
    /// A number, known now or only per token.
    Formula(Formula),
    Text(String),
    /// `2 epochs`, which only the length of a stage can be.
    Epochs(u32),
    List(Vec<Value>),
    Domain(DomainId),
    /// `domain` in an objective: that of the prompt.
    PromptDomain,
    Model(ModelId),
    Teacher(TeacherId),
    Panel(PanelId),
    Benchmark(BenchmarkId),
    /// One value per domain, whole number or member of a panel.
    Family(Rc<FamilyMembers>),
    /// `{ lr = 1e-4, steps = 12 }`
    Settings(Rc<NamedSettings>),
    Role(Role),
    /// `blend(teacher: 0.1, student: 0.9)`
    Distribution(Distribution),
    /// `teacher || student`
    Versus {
        left: Distribution,
        right: Distribution,
    },
    /// `3e-3 -> 3e-4`
    Arrow {
        from: f64,
        to: f64,
    },
    /// `"Confidence: {_}" -> "Confidence: {mean(correct, over: group)}"`
    TextArrow,
    /// `0..=100`
    Range {
        low: f64,
        high: f64,
    },
    Support(Support),
    Reward(Reward),
    Rollout(Rc<Rollout>),
    Edit(Edit),
    /// An objective with its parameters filled in.
    Objective(Rc<Objective>),
    Template(Rc<Template>),
    /// A linear combination of logits: a teacher composed token by token.
    Logits(Vec<WeightedRole>),
    /// `self`, `self.ema(0.99)`
    Student(SelfCopy),
    /// `top_k(20)` without a role: what a teacher returns. Read from the expression.
    Capability,
    Secret(Secret),
    Optimizer(UpdateRule),
    Adapter(Adapter),
    /// `layers(0..=11)`
    Layers {
        first: u32,
        last: u32,
    },
    /// `changed(first, beyond: 1e-5)`
    Changed(ChangedElements),
    Dataset(Rc<DataSource>),
    /// `columns(prompt: question)`
    Columns(Rc<Vec<FieldColumn>>),
    /// `extract(answer, "#### (.*)")`
    Extract {
        column: String,
        pattern: String,
    },
    Metric(Metric),
    Extrapolation(Rc<Extrapolation>),
    Validation(Rc<WithOrigin<Validation>>),
    /// The guards of one call, one for each domain that it names.
    Guards(Rc<Vec<Guard>>),
    GradientAlignment(Rc<WithOrigin<GradientAlignment>>),
    /// `powers_of(2)`
    PowersOf(u32),
    /// `integer(0..=100)`
    Integer {
        low: i64,
        high: i64,
    },
    /// A `fn`, `stage`, `objective` or another item with parameters that has not been called.
    Item {
        item: ItemId,
        kind: Callable,
    },
    Builtin(&'static Builtin),
    /// A mistake that has been reported. Fits everywhere.
    Error,
}

#[derive(Clone, Debug)]
pub struct FamilyMembers {
    pub name: String,
    pub members: Vec<(MemberKey, Value)>,
}

impl FamilyMembers {
    /// Whether there is one member for each of some domains.
    pub fn is_by_domain(&self) -> bool {
        self.members.iter().all(|(key, _)| matches!(key, MemberKey::Domain(_)))
    }

    pub fn get(&self, key: &MemberKey) -> Option<&Value> {
        self.members.iter().find(|(known, _)| known == key).map(|(_, value)| value)
    }
}

/// Settings that a `with` may name, and the file whose names they read.
#[derive(Clone, Debug)]
pub struct NamedSettings {
    pub block: Block,
    pub module: ModuleId,
}

/// The largest whole number up to which all are exact.
const MOST_KEY: f64 = 9_007_199_254_740_992.0;

/// The key of a member of a family.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum MemberKey {
    Domain(DomainId),
    Teacher(TeacherId),
    Number(i64),
    /// Of `how in { gold: gold(), uld: uld() }`.
    Name(Rc<str>),
}

impl MemberKey {
    /// The key for a value.
    pub fn from_value(value: &Value) -> Option<MemberKey> {
        Some(match value {
            Value::Domain(domain) => MemberKey::Domain(*domain),
            Value::Teacher(teacher) => MemberKey::Teacher(*teacher),
            Value::Role(Role::Named { teacher, .. }) => MemberKey::Teacher(*teacher),
            Value::Formula(formula) => {
                let whole = |number: &f64| number.fract() == 0.0 && number.abs() <= MOST_KEY;
                MemberKey::Number(formula.constant().filter(whole)? as i64)
            }
            _ => return None,
        })
    }
}

impl Value {
    /// The elements of a list, or the members of a family; the value itself where it has none.
    pub fn elements(self) -> Result<Vec<Value>, Value> {
        match self {
            Value::List(values) => Ok(values),
            Value::Family(family) => Ok(family.members.iter().map(|(_, value)| value.clone()).collect()),
            other => Err(other),
        }
    }

    /// A description in the words of the language, with an article.
    pub fn describe(&self) -> String {
        match self {
            Value::Formula(formula) => match formula.0.kind {
                FormulaKind::Number(_) if formula.unit() == Unit::Bool => "a bool".into(),
                FormulaKind::Number(_) => "a number".into(),
                FormulaKind::Schedule(_) | FormulaKind::Adaptive(_) => "a schedule".into(),
                _ => format!("a {} per {}", formula.unit().name(), formula.axis().name()),
            },
            Value::Text(_) => "a text".into(),
            Value::Epochs(_) => "a number of epochs".into(),
            Value::List(_) => "a list".into(),
            Value::Domain(_) => "a domain".into(),
            Value::PromptDomain => "the domain of the prompt".into(),
            Value::Model(_) => "a model".into(),
            Value::Teacher(_) => "a teacher".into(),
            Value::Panel(_) => "a panel of teachers".into(),
            Value::Benchmark(_) => "a benchmark".into(),
            Value::Family(family) => format!("the family `{}`", family.name),
            Value::Settings(_) => "a set of settings".into(),
            Value::Role(role) => format!("the role `{}`", role.name()),
            Value::Distribution(_) => "a blend of distributions".into(),
            Value::Versus { .. } => "a pair of distributions".into(),
            Value::Arrow { .. } => "a range `from -> to`".into(),
            Value::TextArrow => "a change of text".into(),
            Value::Range { .. } => "a range `low..=high`".into(),
            Value::Support(_) => "a support".into(),
            Value::Reward(_) => "a reward".into(),
            Value::Rollout(_) => "a rollout".into(),
            Value::Edit(edit) => format!("the edit `{}`", edit.name()),
            Value::Objective(_) => "an objective".into(),
            Value::Template(_) => "a template".into(),
            Value::Logits(_) => "a combination of logits".into(),
            Value::Student(_) => "the student itself".into(),
            Value::Capability => "what a teacher answers".into(),
            Value::Secret(_) => "a text of the environment".into(),
            Value::Optimizer(_) => "an optimizer".into(),
            Value::Adapter(_) => "an adapter".into(),
            Value::Layers { .. } => "some layers of a model".into(),
            Value::Changed(_) => "some elements of a model's weights".into(),
            Value::Dataset(_) => "a dataset".into(),
            Value::Columns(_) => "a list of columns".into(),
            Value::Extract { .. } => "a part of a column's text".into(),
            Value::Metric(_) => "a metric".into(),
            Value::Extrapolation(_) => "an extrapolation".into(),
            Value::Validation(_) => "a validation".into(),
            Value::Guards(_) => "a guard".into(),
            Value::GradientAlignment(_) => "an alignment of gradients".into(),
            Value::PowersOf(_) => "a list of steps".into(),
            Value::Integer { .. } => "a way to read a whole number".into(),
            Value::Item { kind, .. } => match kind {
                Callable::Fn => "a function",
                Callable::Stage => "a stage",
                Callable::Objective => "an objective",
                Callable::Template => "a template",
                Callable::Divergence => "a divergence",
                Callable::Rollout => "a rollout",
                Callable::Teacher => "a teacher with parameters",
            }
            .into(),
            Value::Builtin(builtin) => format!("the function `{}`", builtin.name),
            Value::Error => "an error".into(),
        }
    }

    pub fn is_error(&self) -> bool {
        matches!(self, Value::Error)
    }

    /// The value as a number, if it is known before the run. A bool is not a number.
    pub fn number(&self) -> Option<f64> {
        match self {
            Value::Formula(formula) if formula.unit() != Unit::Bool => formula.constant(),
            _ => None,
        }
    }

    /// The value as a number, or a bool as 0 or 1, if it is known before the run.
    pub fn constant(&self) -> Option<f64> {
        match self {
            Value::Formula(formula) => formula.constant(),
            _ => None,
        }
    }
}

/// The value of the setting `optimizer`.
#[derive(Clone, Debug)]
pub struct UpdateRule {
    pub optimizer: Optimizer,
    pub private: Option<WithOrigin<Private>>,
}
