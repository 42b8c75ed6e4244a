//! Tables of the language's settings, words, functions and signals.

use std::fmt::Write as _;

use mopd_experiment::formula::Function;
use mopd_lang::check::bounds;
use mopd_lang::check::builtins::{self, Builtin, BuiltinKind, BuiltinParameter, DataName, TeacherName};
use mopd_lang::check::vocabulary::{self, ArgumentKind, SettingKey, SignalName, Word};
use mopd_ops::Accuracy;

/// The name of a section and its text.
pub fn sections() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut listed: Vec<&[SettingKey]> = Vec::new();
    for (owner, keys) in vocabulary::BLOCKS {
        // The decoders share one table, under the first one's name.
        if !listed.iter().any(|known| std::ptr::eq(*known, *keys)) {
            listed.push(keys);
            found.push((format!("settings of {owner}"), settings(keys)));
        }
    }
    for (name, words) in WORDS {
        found.push((format!("words: {name}"), list(words)));
    }
    for (name, signals) in [
        ("signals", vocabulary::SIGNALS.as_slice()),
        ("parts", &vocabulary::PARTS),
        ("spans", vocabulary::SPANS),
    ] {
        found.push((name.to_owned(), shapes(signals)));
    }
    for group in Group::ALL {
        found.push((format!("functions: {}", group.name()), functions(*group)));
    }
    found.push(("accuracy".to_owned(), accuracy()));
    found.push(("limits".to_owned(), limits()));
    found.push((
        "functions: losses".to_owned(),
        builtins::losses().iter().map(entry).collect::<String>().trim_end().to_owned(),
    ));
    found
}

const WORDS: &[(&str, &[Word])] = &[
    ("axes", vocabulary::AXES),
    ("supports", vocabulary::FULL),
    ("masses", vocabulary::MASSES),
    ("types", vocabulary::TYPES),
    ("capabilities", vocabulary::CAPABILITIES),
    ("alignments", vocabulary::ALIGNMENTS),
    ("metrics", vocabulary::METRICS),
    ("merges", vocabulary::MERGES),
];

/// Escapes `|`, which would end a cell of a table.
pub fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn settings(keys: &[SettingKey]) -> String {
    let mut text = "| setting | takes | |\n|---|---|---|\n".to_owned();
    let (must, may): (Vec<&SettingKey>, Vec<&SettingKey>) = keys.iter().partition(|key| key.required);
    for key in must.into_iter().chain(may) {
        let name = if key.required { format!("**`{}`**", key.name) } else { format!("`{}`", key.name) };
        let _ = writeln!(text, "| {name} | {} | {} |", cell(&takes(key.takes)), cell(key.doc));
    }
    text.trim_end().to_owned()
}

fn limits() -> String {
    let mut text = "| setting or argument | at most | because |\n|---|---:|---|\n".to_owned();
    for bound in bounds::all() {
        let names: Vec<String> = bound
            .settings
            .iter()
            .map(|name| if name.contains(' ') { (*name).to_owned() } else { format!("`{name}`") })
            .collect();
        let _ =
            writeln!(text, "| {} | {} | {} |", names.join(", "), bounds::written(bound.most), bound.because);
    }
    text.trim_end().to_owned()
}

/// Elementwise functions by the error of their f32 programs; those with the same error share a row.
fn accuracy() -> String {
    let mut rows: Vec<(String, &Accuracy)> = Vec::new();
    for function in Function::ALL {
        let accuracy = &function.definition().accuracy;
        let name = serde_json::to_value(function).expect("a name");
        let name = format!("`{}`", name.as_str().expect("a name"));
        match rows.iter_mut().find(|(_, known)| (known.ulp, known.how) == (accuracy.ulp, accuracy.how)) {
            Some((names, _)) => *names += &format!(", {name}"),
            None => rows.push((name, accuracy)),
        }
    }
    rows.sort_by(|(_, a), (_, b)| b.ulp.total_cmp(&a.ulp));
    let mut text = "| function | at most, in ULP | how |\n|---|---|---|\n".to_owned();
    for (names, accuracy) in rows {
        let _ = writeln!(text, "| {names} | {} | {} |", accuracy.ulp, accuracy.how);
    }
    text.trim_end().to_owned()
}

fn list(words: &[Word]) -> String {
    let lines: Vec<String> = words.iter().map(|word| format!("- `{}`: {}", word.name, word.doc)).collect();
    lines.join("\n")
}

fn shapes(signals: &[SignalName]) -> String {
    let mut text = "| name | unit and axis | |\n|---|---|---|\n".to_owned();
    for signal in signals {
        let _ = writeln!(text, "| `{}` | {} | {} |", signal.name, signal.shape, cell(signal.doc));
    }
    text.trim_end().to_owned()
}

/// Describes what an argument accepts.
fn takes(takes: ArgumentKind) -> String {
    match takes {
        ArgumentKind::Count => "a whole number",
        ArgumentKind::Number => "a number",
        ArgumentKind::Numbers => "a list of numbers",
        ArgumentKind::Truth => "`true` or `false`",
        ArgumentKind::Text => "a text",
        ArgumentKind::Secret => "a text or `env(...)`",
        ArgumentKind::Schedule => "a number or a schedule",
        ArgumentKind::Words(words) if std::ptr::eq(words, vocabulary::AXES) => "an axis",
        ArgumentKind::Words(words) => {
            return words.iter().map(|word| format!("`{}`", word.name)).collect::<Vec<_>>().join(", ");
        }
        ArgumentKind::Field => "a field of the data",
        ArgumentKind::Model => "a model",
        ArgumentKind::Models => "models",
        ArgumentKind::Teacher => "a teacher",
        ArgumentKind::Teachers => "teachers",
        ArgumentKind::Domains => "domains",
        ArgumentKind::Objective => "an objective",
        ArgumentKind::Rollout => "a rollout",
        ArgumentKind::Environment => "a command or `python(...)`",
        ArgumentKind::Template => "a template",
        ArgumentKind::Reward => "a reward",
        ArgumentKind::Optimizer => "an optimizer",
        ArgumentKind::Guards => "a list of guards",
        ArgumentKind::Adapter => "an adapter",
        ArgumentKind::Weights => "parts of a decoder",
        ArgumentKind::Range => "a range",
        ArgumentKind::Dataset => "a path or `dataset(...)`",
        ArgumentKind::Columns => "`columns(...)`",
        ArgumentKind::Layers => "a whole number or `all`",
        ArgumentKind::Texts => "a text or a list of texts",
        ArgumentKind::Score => "`normalized(...)`",
        ArgumentKind::Benchmarks => "domains and `eval`s",
        ArgumentKind::Benchmark => "an `eval`",
        ArgumentKind::Metrics => "a list of metrics",
        ArgumentKind::Capability => "a capability",
        ArgumentKind::Support => "a support",
        ArgumentKind::Role => "a role",
        ArgumentKind::Reduce => "a reduction",
        ArgumentKind::Condition => "a boolean",
        ArgumentKind::Formula => "a formula",
    }
    .to_owned()
}

/// The headings under which functions are listed.
#[derive(Clone, Copy, PartialEq)]
enum Group {
    Elementwise,
    Reductions,
    Statistics,
    Scans,
    Divergences,
    Supports,
    Measures,
    Schedules,
    Data,
    Rewards,
    Rollouts,
    Edits,
    Models,
    Teachers,
    Optimizers,
    Guards,
    Tables,
}

impl Group {
    const ALL: &'static [Group] = &[
        Group::Elementwise,
        Group::Reductions,
        Group::Statistics,
        Group::Scans,
        Group::Divergences,
        Group::Supports,
        Group::Measures,
        Group::Schedules,
        Group::Data,
        Group::Rewards,
        Group::Rollouts,
        Group::Edits,
        Group::Models,
        Group::Teachers,
        Group::Optimizers,
        Group::Guards,
        Group::Tables,
    ];

    fn name(self) -> &'static str {
        match self {
            Group::Elementwise => "elementwise",
            Group::Reductions => "reductions",
            Group::Statistics => "statistics",
            Group::Scans => "scans and memory",
            Group::Divergences => "divergences",
            Group::Supports => "supports",
            Group::Measures => "measures",
            Group::Schedules => "schedules",
            Group::Data => "data",
            Group::Rewards => "rewards",
            Group::Rollouts => "rollouts",
            Group::Edits => "edits",
            Group::Models => "models",
            Group::Teachers => "teachers",
            Group::Optimizers => "optimisers",
            Group::Guards => "guards",
            Group::Tables => "tables",
        }
    }

    fn of(kind: BuiltinKind) -> Group {
        match kind {
            BuiltinKind::Elementwise(_)
            | BuiltinKind::Bucket
            | BuiltinKind::Extreme(..)
            | BuiltinKind::Clip
            | BuiltinKind::Where => Group::Elementwise,
            BuiltinKind::Reduce(_) | BuiltinKind::Median => Group::Reductions,
            BuiltinKind::Statistic(_) => Group::Statistics,
            BuiltinKind::Scan(_) | BuiltinKind::Memory(_) => Group::Scans,
            BuiltinKind::Divergence(_) => Group::Divergences,
            BuiltinKind::Support(_) => Group::Supports,
            BuiltinKind::Measure(_) => Group::Measures,
            BuiltinKind::Schedule(_) => Group::Schedules,
            BuiltinKind::Data(DataName::Dataset | DataName::Columns | DataName::Extract | DataName::File) => {
                Group::Data
            }
            BuiltinKind::Reward(_) => Group::Rewards,
            BuiltinKind::Rollout(_) => Group::Rollouts,
            BuiltinKind::Edit(_) => Group::Edits,
            BuiltinKind::Constructor(_) | BuiltinKind::Teacher(TeacherName::Environment) => Group::Models,
            BuiltinKind::Teacher(_) => Group::Teachers,
            BuiltinKind::Optimizer(_) | BuiltinKind::Weights(_) => Group::Optimizers,
            BuiltinKind::Guard(_) => Group::Guards,
            BuiltinKind::Data(DataName::Normalized | DataName::PassAt) => Group::Tables,
            BuiltinKind::Loss(_) => unreachable!("losses have a table of their own"),
        }
    }
}

fn functions(group: Group) -> String {
    let members = builtins::all().iter().filter(|builtin| Group::of(builtin.kind) == group);
    members.map(entry).collect::<String>().trim_end().to_owned()
}

/// The entry of one function: its usage, its documentation, its arguments.
fn entry(builtin: &Builtin) -> String {
    let mut text = format!("**`{}`** · `{}`  \n{}\n", builtin.name, builtin.usage, builtin.doc);
    let listed = |parameters: &[&BuiltinParameter]| {
        let one = |parameter: &&BuiltinParameter| match parameter.default {
            Some(default) => {
                let default = default.trim_matches('"').trim_end_matches(".0");
                format!("`{}` ({}, `{default}` by default)", parameter.shown(), takes(parameter.takes))
            }
            None => format!("`{}` ({})", parameter.shown(), takes(parameter.takes)),
        };
        parameters.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    let (must, may): (Vec<_>, Vec<_>) = builtin.parameters.iter().partition(|parameter| parameter.required);
    if !must.is_empty() {
        let _ = write!(text, "Takes {}. ", listed(&must));
    }
    if !may.is_empty() {
        let _ = write!(text, "May be left out: {}.", listed(&may));
    }
    let mut text = text.trim_end().to_owned();
    text.push('\n');
    text + "\n"
}
