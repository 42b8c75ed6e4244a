//! Objectives that no stage of their file uses. Each is tried in a stage of the usual kinds: what all of them
//! refuse, no stage can run as it is written, and a check of the objective alone says so.

use mopd_experiment::formula::{Formula, FormulaKind, ModelSignal, Role, Signal};
use mopd_expr::jit;
use mopd_lang::Analysis;
use mopd_lang::check::{Loader, NamedObjective, analyse_with};
use mopd_lang::diag::{Code, Diagnostic, Severity};
use mopd_lang::source::{FileId, SourceFile};

/// The completions of the stages that an objective is tried in.
const ROLLOUTS: [&str; 4] = [
    "sample(n: 4, temperature: 1, max_tokens: 16)",
    "data(answer)",
    "from(alone_teacher, n: 4, temperature: 1, max_tokens: 16)",
    "turns(\"alone\", at_most: 4, sample(n: 4, temperature: 1, max_tokens: 16))",
];

/// Warnings of what no stage can run in the objectives that no stage uses. `only`: the objective of this
/// name.
pub fn refused(entry: &SourceFile, load: Loader, analysis: &Analysis, only: Option<&str>) -> Vec<Diagnostic> {
    if analysis.has_errors() {
        return Vec::new();
    }
    let mut found: Vec<Diagnostic> = Vec::new();
    for named in analysis.objectives.iter().filter(|named| !is_used(analysis, named)) {
        if only.is_some_and(|name| named.objective.name != name) {
            continue;
        }
        // Stages that don't fit the objective, such as one without rewards, say nothing of it. One that can
        // run it is enough.
        let stages = ROLLOUTS.iter().filter_map(|rollout| stage_of(analysis, named, rollout));
        let mut refused: Vec<Vec<Diagnostic>> = Vec::new();
        for stage in stages {
            refused.extend(refusals(entry, load, &stage));
            if refused.last().is_some_and(Vec::is_empty) {
                break;
            }
        }
        let Some(usual) = refused.first().filter(|_| refused.iter().all(|refused| !refused.is_empty()))
        else {
            continue;
        };
        let name = analysis.origins[named.objective.origin.0 as usize];
        for refusal in usual {
            let text = format!("no stage can run `{}`", named.objective.name);
            let refusal = Diagnostic { severity: Severity::Warning, ..refusal.clone() }.note(name, text);
            if !found.contains(&refusal) {
                found.push(refusal);
            }
        }
    }
    found
}

fn is_used(analysis: &Analysis, named: &NamedObjective) -> bool {
    let stages = analysis.experiment.iter().flat_map(|experiment| &experiment.models);
    stages.flat_map(|model| model.stage.trains()).any(|train| train.objective.name == named.objective.name)
}

/// The text of a stage that trains on an objective. `None` if a parameter needs a value that is not made up
/// here.
fn stage_of(analysis: &Analysis, named: &NamedObjective, rollout: &str) -> Option<String> {
    // A critic needs a model with a scalar head, which is not made up here.
    if named.objective.formulas().into_iter().flat_map(Formula::parts).any(reads_value) {
        return None;
    }
    let domains = analysis.experiment.as_ref().map(|experiment| experiment.domains.as_slice());
    let (head, domain) = match domains {
        None => (
            "experiment \"alone\" { seed = 1 }\n\
             domain alone_prompts { prompts = \"alone.jsonl\", reward = exact_match, share = 1 }\n",
            "alone_prompts",
        ),
        Some(domains) => ("", domains.first()?.name.as_str()),
    };
    let open = named.parameters.iter().filter(|parameter| !parameter.contains('='));
    let arguments = open.map(|parameter| {
        let (name, kind) = parameter.split_once(':')?;
        let value = match kind.trim() {
            "count" => "2",
            "counts" => "[1]",
            "fraction" | "prob" => "0.5",
            "nats" | "real" | "number" | "ratio" | "schedule" => "1",
            "logp" => "-1",
            "bool" => "true",
            "teacher" => "alone_teacher",
            "model" => "alone_start",
            "rollout" => rollout,
            "domain" => domain,
            "reward" => "exact_match",
            _ => return None,
        };
        Some(format!("{}: {value}", name.trim()))
    });
    let arguments = arguments.collect::<Option<Vec<_>>>()?.join(", ");
    let objective = &named.objective;
    let reference = if objective.reads(&Role::Reference) { "reference = alone_start, " } else { "" };
    let route = if objective.reads(&Role::Teacher) { "route { else -> alone_teacher }, " } else { "" };
    let name = &objective.name;
    // A teacher that nothing names is an error.
    let is_named = [route, rollout, &arguments].iter().any(|text| text.contains("alone_teacher"));
    let teacher = if is_named { "teacher alone_teacher = alone_expert\n" } else { "" };
    Some(format!(
        "\n{head}\
         model alone_start = llama {{ layers = 1, width = 32, heads = 2, context = 64, tokenizer = bytes }}\n\
         model alone_expert = sft(alone_start, on: {domain}) {{ target = answer, steps = 1, batch = 1, lr = 1e-3 }}\n\
         {teacher}\
         model alone = distill(alone_start) {{ objective = {name}({arguments}), rollout = {rollout}, {reference}{route}\
         domains = [{domain}], prompts = 8, steps = 10, lr = 1e-3 }}\n"
    ))
}

fn reads_value(formula: &Formula) -> bool {
    matches!(&formula.0.kind, FormulaKind::Signal(Signal::Of { part: ModelSignal::Value, .. }))
}

/// What this version can't run of a file with this stage, except in the text of the stage itself. `None` if
/// the checker rejects the stage.
fn refusals(entry: &SourceFile, load: Loader, stage: &str) -> Option<Vec<Diagnostic>> {
    let text = format!("{}{stage}", entry.text);
    let analysis = analyse_with(SourceFile { path: entry.path.clone(), text }, load, &[]);
    let experiment = analysis.experiment.as_ref().filter(|_| !analysis.has_errors())?;
    let compiled = mopd_compiler::compile(experiment, &analysis.origins, &analysis.sources, jit::fuses());
    let is_there = |refusal: &Diagnostic| {
        let span = refusal.primary.span;
        span.file != FileId(0) || (span.start as usize) < entry.text.len()
    };
    let refused = compiled.err().unwrap_or_default().into_iter();
    Some(refused.filter(|refusal| refusal.code == Code::NotSupported && is_there(refusal)).collect())
}
