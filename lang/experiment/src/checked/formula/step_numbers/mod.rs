//! The numbers of a stage's steps. They are columns of `metrics.parquet`; guards can read some of them.

#[macro_use]
mod table;

use serde::{Deserialize, Serialize};

use super::Unit;

/// What a number is of, and so where reports show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricSubject {
    Domain,
    /// The whole step: all its rows have the same value.
    Step,
    /// It is shown elsewhere or not at all.
    Hidden,
}

/// How a number of a step is combined from the rows of its domains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// All rows have the same value, that of the whole step.
    Step,
    /// The mean over tokens.
    Tokens,
    /// The mean over completions.
    Completions,
    /// The sum: each row has its share of the step, and the shares sum to 1.
    Share,
    /// The sum: each row has a count of its own.
    Sum,
    Max,
}

/// What is known of a column before any run.
#[derive(Clone, Copy, Debug)]
pub struct MetricDefinition {
    pub name: &'static str,
    pub subject: MetricSubject,
    pub pooling: Pooling,
    /// The title and the unit of its curve, where it has one.
    pub shown: Option<(&'static str, &'static str)>,
}

macro_rules! declare {
    ($(
        $(#[doc = $doc:literal])*
        $name:ident: $type:ty, $subject:ident $(($title:literal, $unit:literal))?, $pooling:ident
        $(, guard($number:ident: $guard_unit:ident))?;
    )*) => {
        /// All columns that are numbers of a step, in the order in which reports show them.
        pub const METRICS: &[MetricDefinition] = &[$(MetricDefinition {
            name: stringify!($name),
            subject: MetricSubject::$subject,
            pooling: Pooling::$pooling,
            shown: first(&[$(($title, $unit))?]),
        },)*];

        /// A number of a training step that guards can read.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum StepNumber {
            $($($number,)?)*
        }

        impl StepNumber {
            pub const ALL: [StepNumber; [$($(StepNumber::$number,)?)*].len()] =
                [$($(StepNumber::$number,)?)*];

            /// The name of its column.
            pub fn name(self) -> &'static str {
                match self {
                    $($(StepNumber::$number => named!($name $number),)?)*
                }
            }

            pub fn unit(self) -> Unit {
                match self {
                    $($(StepNumber::$number => Unit::$guard_unit,)?)*
                }
            }
        }
    };
}

/// The name of the column; the number only says that it is one.
macro_rules! named {
    ($name:ident $number:ident) => {
        stringify!($name)
    };
}

const fn first(shown: &[(&'static str, &'static str)]) -> Option<(&'static str, &'static str)> {
    match shown {
        [first, ..] => Some(*first),
        [] => None,
    }
}

step_metrics!(declare);

impl StepNumber {
    /// All names, for messages.
    pub fn names() -> String {
        StepNumber::ALL.map(StepNumber::name).join(", ")
    }

    pub fn find(name: &str) -> Option<StepNumber> {
        StepNumber::ALL.into_iter().find(|number| number.name() == name)
    }

    pub fn pooling(self) -> Pooling {
        MetricDefinition::of(self.name()).expect("it is in the table").pooling
    }
}

impl MetricDefinition {
    /// The definition of a column; `None` for other columns than numbers of a step.
    pub fn of(column: &str) -> Option<&'static MetricDefinition> {
        METRICS.iter().find(|metric| metric.name == column)
    }
}

/// The steps whose numbers a guard reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepWindow {
    /// The step that has just ended.
    Now,
    /// The mean over the first `steps` steps that have the number.
    First { steps: u32 },
    /// The mean over the last `steps` steps that have the number.
    Recent { steps: u32 },
}

impl StepWindow {
    /// `entropy`, `initial(entropy)`, `recent(entropy, steps: 10)`
    pub fn written(self, number: StepNumber) -> String {
        let name = number.name();
        match self {
            StepWindow::Now => name.to_owned(),
            StepWindow::First { steps: 1 } => format!("initial({name})"),
            StepWindow::First { steps } => format!("initial({name}, steps: {steps})"),
            StepWindow::Recent { steps } => format!("recent({name}, steps: {steps})"),
        }
    }
}
