//! From syntax trees to a checked experiment: names, units, axes, `live`, routes, constants.
//!
//! Checking never fails: a mistake becomes a diagnostic and the value `Error`, which fits everywhere, so that
//! one mistake is reported once. Each step turns the result of the step before into a value of its own type:
//!
//! ```text
//! SourceFile -- parse_all --> Parsed -- Checker::check --> Checked -- audited --> Analysis
//! ```
//!
//! 1. **`Parsed`**: the entry file and its imports are parsed into [`crate::syntax::ast`], and the
//!    declarations of names are collected in [`names::modules`]. In an editor, trees of unchanged items come
//!    from [`names::parse_cache`]; everything else is done again.
//! 2. **`Checked`**: [`analysis`] checks, in this order,
//!    - values from outside ([`evaluate::overrides`]) and domains ([`data`]): every route and objective is
//!      checked against the list of all of them;
//!    - items, one after the other, each evaluated when first needed ([`evaluate::items`]). A value known
//!      before the run (number, domain, model, objective) becomes a [`values::value::Value`]; a number known
//!      only per token becomes a typed [`mopd_experiment::formula::Formula`];
//!    - the file's route ([`teachers::route`]), checked against every domain;
//!    - bodies of functions, objectives and stages of the entry file, with any arguments;
//!    - the experiment as a whole: unrouted and unused domains, leakage between training and test data
//!      ([`data::leakage`]), tables of results ([`evaluation`]), unused names ([`unused`]).
//! 3. **[`Analysis`]**: the gradient audit of the compiler, where nothing so far is an error; then
//!    `// allow(...)` comments take effect ([`names::allow`]).
//!
//! A check is a function, and its first parameter says what it may do: a [`reporter::Reporter`] reads texts
//! and reports; [`declarations::Declarations`] are that, the names of the files, and the parts of the
//! experiment so far; a [`checker::Checker`] is all that, and evaluates expressions.
//!
//! The modules are layers: each imports only modules that are listed before it (the test `layering` checks
//! it). From the bottom to the top:
//!
//! - texts, places and diagnostics: [`reporter`]
//! - what is built in, with arguments, settings and words: [`builtins`]
//! - the names that files declare and import: [`names`]
//! - what expressions evaluate to, and what they may read: [`values`]
//! - what checks work with: [`declarations`], [`checker`]
//! - what an unknown name was meant to be: [`suggestions`]
//! - arguments and settings as numbers, words, texts: [`read`]
//! - values as roles, whose distributions are read: [`roles`]
//! - data sets, domains and leakage: [`data`]
//! - operators, functions, reductions, divergences, signals, schedules: [`formulas`]
//! - teachers, panels, templates and routes: [`teachers`]
//! - rollouts and rewards: [`rollouts`]
//! - objectives, and mistakes in them: [`objectives`]
//! - stages, that is models: [`stages`]; each is checked as a whole in [`stages::stage_checks`]
//! - tables of results: [`evaluation`]
//! - the evaluator, which calls all of these: [`evaluate`]
//! - a whole file: [`unused`] names, the [`index`] of names, the [`analysis`] of one run, its [`fixes`], all
//!   [`runs`]

mod analysis;
pub mod builtins;
mod checker;
mod data;
mod declarations;
mod evaluate;
mod evaluation;
mod fixes;
mod formulas;
pub mod index;
mod names;
mod objectives;
mod read;
mod reporter;
mod roles;
mod rollouts;
mod runs;
mod stages;
mod suggestions;
mod teachers;
mod unused;
mod values;

pub use analysis::{Analysis, Auditor, SweptValue, outline};
pub(crate) use builtins::reserved::{is_role, named_number};
pub use builtins::{bounds, vocabulary};
pub use checker::{CancellationCheck, DEEPEST_CHAIN};
pub use declarations::NamedObjective;
pub use formulas::divergences::COMMON as DIVERGENCE_SETTINGS;
pub use names::allow;
pub use names::load::Loader;
pub(crate) use names::load::{is_slot, is_taken};
pub use names::modules::is_standard_divergence;
pub(crate) use names::modules::{declared_name, import_edit, taken_name};
pub use names::parse_cache::ParseCache;
pub use read::changes::MOST_CHANGES;
pub use runs::{analyse, analyse_audited, analyse_edited, analyse_run, analyse_runs, analyse_with};
pub use stages::capability::{nearest_form, needed_of};
pub use values::recorded::ValueInfo;
