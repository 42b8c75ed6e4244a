//! The front end for a page in a browser: reads a request in JSON from standard input and writes the response
//! to standard output. `./x playground` compiles it to WebAssembly with WASI, whose few calls the page
//! implements. Each request starts a new instance, so that no state is left between requests.

#![forbid(unsafe_code)]

use mopd_compiler::audit::{self, AuditedObjective};
use mopd_compiler::trial::{self, Trial, TrialError, TrialNumbers};
use mopd_experiment::{Objective, Rollout};
use mopd_lang::check::{Analysis, analyse_audited};
use mopd_lang::diag::{self, Severity};
use mopd_lang::fmt;
use mopd_lang::source::{FileId, SourceFile, Span};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

#[derive(Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
enum PlaygroundRequest {
    /// The results of `mopd check`, `mopd audit` and `mopd fmt`.
    Check { text: String },
    /// The result of `mopd try` for an objective; without numbers, it returns example numbers.
    Try { text: String, objective: String, numbers: Option<Value> },
}

#[derive(Debug, Serialize)]
struct Checked {
    diagnostics: Vec<FoundDiagnostic>,
    /// `None` if the text can't be parsed.
    formatted: Option<String>,
    objectives: Vec<DescribedObjective>,
}

#[derive(Debug, Serialize)]
struct FoundDiagnostic {
    severity: &'static str,
    code: &'static str,
    message: String,
    label: String,
    help: Option<String>,
    /// UTF-16 offsets in the text, as browsers count.
    start: usize,
    end: usize,
    /// The page that `mopd explain` shows.
    page: &'static str,
}

#[derive(Debug, Serialize)]
struct DescribedObjective {
    name: String,
    models: Vec<String>,
    /// The slots of the objective's normal form, by name.
    normal_form: Map<String, Value>,
    /// Each term, with the divergence that its gradient follows.
    audit: Vec<(String, Vec<String>)>,
    whole: Option<String>,
}

fn main() {
    let question = std::io::read_to_string(std::io::stdin()).unwrap_or_default();
    println!("{}", answered(&question));
}

fn answered(question: &str) -> Value {
    match serde_json::from_str(question) {
        Ok(PlaygroundRequest::Check { text }) => json!(check(text)),
        Ok(PlaygroundRequest::Try { text, objective, numbers }) => match tried(text, &objective, numbers) {
            Ok(answer) => answer,
            Err(why) => json!({ "problem": why }),
        },
        Err(error) => json!({ "problem": format!("this is no question: {error}") }),
    }
}

/// Finds a module of the library, the only files that a text in a page can import.
fn library(path: &str) -> Option<SourceFile> {
    mopd_std::source(path).map(|text| SourceFile { path: path.to_owned(), text: text.to_owned() })
}

fn analysed(text: String) -> Analysis {
    let entry = SourceFile { path: "experiment.mopd".to_owned(), text };
    let auditor = &|experiment: &_, origins: &[Span]| {
        mopd_compiler::audit::diagnostics_while(experiment, origins, &|| true)
    };
    analyse_audited(entry, &library, &[], auditor)
}

fn check(text: String) -> Checked {
    let mut analysis = analysed(text.clone());
    if let (Some(experiment), false) = (&analysis.experiment, analysis.has_errors())
        && let Err(refused) = mopd_compiler::compile(experiment, &analysis.origins, &analysis.sources, false)
    {
        analysis.diagnostics.extend(refused);
    }
    let formatted = fmt::format(&text);
    let objectives = if analysis.has_errors() { Vec::new() } else { described(&analysis) };
    Checked {
        diagnostics: analysis.diagnostics.iter().map(|found| shown(found, &analysis, &text)).collect(),
        formatted: formatted.diagnostics.is_empty().then_some(formatted.text),
        objectives,
    }
}

fn shown(found: &diag::Diagnostic, analysis: &Analysis, text: &str) -> FoundDiagnostic {
    let span = found.primary.span;
    let own = span.file == FileId(0);
    let units = |at: u32| text.get(..at as usize).unwrap_or(text).encode_utf16().count();
    let place = if own { String::new() } else { format!("in {}: ", analysis.sources.file(span.file).path) };
    FoundDiagnostic {
        severity: match found.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        },
        code: found.code.name(),
        message: format!("{place}{}", found.message),
        label: found.primary.text.clone(),
        help: found.help.clone(),
        start: if own { units(span.start) } else { 0 },
        end: if own { units(span.end) } else { 0 },
        page: found.code.page(),
    }
}

/// Every objective; if stages use it, as they use it.
fn described(analysis: &Analysis) -> Vec<DescribedObjective> {
    let of = |AuditedObjective { models, audit }: AuditedObjective| {
        let (objective, _) = objective(analysis, models.first().unwrap_or(&audit.objective))?;
        let normal_form = match json!(mopd_compiler::normal_form(objective, None)) {
            Value::Object(slots) => slots,
            _ => Map::new(),
        };
        Some(DescribedObjective {
            name: audit.objective.clone(),
            models,
            normal_form,
            audit: audit.terms.iter().map(|term| (term.term.clone(), term.lines())).collect(),
            whole: audit.whole.as_deref().map(audit::sum),
        })
    };
    audit::of_file(analysis).into_iter().filter_map(of).collect()
}

/// The objective of a trained model or step with this name, with its rollout, or a declared one.
fn objective<'a>(analysis: &'a Analysis, name: &str) -> Option<(&'a Objective, Option<&'a Rollout>)> {
    let trained = analysis.experiment.iter().flat_map(audit::trained);
    let trained = { trained }.find(|(of, _)| of == name);
    let trained = trained.map(|(_, train)| (&train.objective, Some(&train.rollout)));
    let declared = || analysis.objectives.iter().map(|named| (&named.objective, None));
    trained.or_else(|| declared().find(|(objective, _)| objective.name == name))
}

fn tried(text: String, name: &str, numbers: Option<Value>) -> Result<Value, String> {
    let analysis = analysed(text);
    if analysis.has_errors() {
        return Err("the text has errors".to_owned());
    }
    let found = objective(&analysis, name);
    let (objective, rollout) = found.ok_or_else(|| format!("there is no objective `{name}`"))?;
    let Some(numbers) = numbers else {
        return trial::example(objective, &analysis.origins).map_err(|found| found.message);
    };
    let numbers: TrialNumbers = serde_json::from_value(numbers).map_err(|error| error.to_string())?;
    match trial::run(objective, rollout, &analysis.origins, &numbers) {
        Ok(trial) => Ok(table(&trial)),
        Err(TrialError::Objective(found)) => Err(found.message),
        Err(TrialError::Numbers(faults)) => Err(faults.join("; ")),
    }
}

fn table(trial: &Trial) -> Value {
    json!({
        "loss": trial.loss.f64[0],
        "parts": trial.parts,
        "gradients": trial.gradients,
        "logits": trial.logits,
        "places": trial.places,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "objective pull {\n  term close = live kl(student || teacher)\n  reduce = mean(token) \
                        then mean(sequence)\n}\n";

    const TOGETHER: &str = r#"experiment "judged" { seed = 1 }
domain sort { prompts = "sort.jsonl", reward = exact_match }

model base = llama { layers = 2, width = 64, heads = 2, context = 48, tokenizer = bytes }

objective pleasing(judge: teacher) {
  term policy = -zscore(judge.score, over: group, deviation: sample) * live student.logp
  reduce      = mean(token, over: batch)
}

/// The data's answer is better than what the policy writes.
objective telling(ours: rollout) {
  term pair = live bradley_terry(chosen: data(answer), rejected: ours)
  reduce    = mean(group)
}

model pair = train {
  steps         = 100
  prompts       = 16
  domains       = domains
  lr            = 1e-4
  trains policy = base
  trains judge  = base
  step please { updates = policy, objective = pleasing(judge), rollout = sample(n: 8, temperature: 1, max_tokens: 16) }
  step tell   { updates = judge, objective = telling(from(policy, n: 1, temperature: 1, max_tokens: 16)) }
}
"#;

    #[test]
    fn an_objective_is_checked_audited_and_tried() {
        let answer = answered(&json!({ "ask": "check", "text": TEXT }).to_string());
        assert_eq!(answer["diagnostics"], json!([]));
        let objective = &answer["objectives"][0];
        assert_eq!(objective["name"], "pull");
        assert!(objective["audit"][0][1][0].as_str().unwrap().contains("grad KL(student || teacher)"));
        assert_eq!(objective["normal_form"]["divergence"], "KL(student || teacher)");
        let ask = |numbers: Value| {
            answered(
                &json!({ "ask": "try", "text": TEXT, "objective": "pull", "numbers": numbers }).to_string(),
            )
        };
        let example = ask(Value::Null);
        let tried = ask(example.clone());
        assert!(tried["loss"].as_f64().is_some_and(f64::is_finite), "{example} {tried}");
        assert_eq!(
            tried["places"].as_array().unwrap().len(),
            tried["gradients"][0]["f64"].as_array().unwrap().len()
        );
    }

    #[test]
    fn the_objectives_of_models_trained_together_are_described_and_tried() {
        let answer = answered(&json!({ "ask": "check", "text": TOGETHER }).to_string());
        let names = |key: &str| -> Vec<Value> {
            answer["objectives"].as_array().unwrap().iter().map(|one| one[key].clone()).collect()
        };
        assert_eq!(names("name"), ["pleasing", "telling"]);
        assert_eq!(names("models"), [json!(["pair, step please"]), json!(["pair, step tell"])]);
        let ask = json!({ "ask": "try", "text": TOGETHER, "objective": "pair, step please" });
        let example = answered(&ask.to_string());
        assert!(example.get("problem").is_none(), "{example}");
    }

    #[test]
    fn diagnostics_have_utf16_offsets() {
        let text = format!("// 𝒜\n{}", TEXT.replace("teacher)", "techer)"));
        let answer = answered(&json!({ "ask": "check", "text": text }).to_string());
        let found = &answer["diagnostics"][0];
        let units: Vec<u16> = text.encode_utf16().collect();
        let place = |key: &str| found[key].as_u64().unwrap() as usize;
        assert_eq!(String::from_utf16(&units[place("start")..place("end")]).unwrap(), "techer");
        assert!(found["page"].as_str().unwrap().starts_with("# "), "{found}");
        assert_eq!(answer["objectives"], json!([]));
        let problem = answered(&json!({ "ask": "try", "text": text, "objective": "pull" }).to_string());
        assert_eq!(problem["problem"], "the text has errors");
        assert!(answered("no").get("problem").is_some());
    }
}
