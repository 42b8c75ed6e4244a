//! Checks the data of an experiment: what a run would refuse before its first step, as far as the first rows
//! of its files show it. The checker itself reads no files, so that it works anywhere.

use std::path::Path;

use mopd_data::reads::{DomainReads, RowsRead, made, more_than_rows};
use mopd_data::{DataError, DataProblem, DataWarning, Extent, Look, look};
use mopd_experiment::{self as checked, Experiment};
use mopd_lang::Analysis;
use mopd_lang::check::allow::is_allowed;
use mopd_lang::diag::{Code, Diagnostic};
use mopd_lang::source::{Sources, Span};
use mopd_plan::{DataSource, DomainId, ModelId, Origin, Plan, Stage, TokenizerSpec};

/// The most that is read of the files of a domain.
pub const EXTENT: Extent = Extent { rows: 20_000, bytes: 8 << 20 };

/// Adds what is wrong with the data of an experiment, relative to `folder`, to its diagnostics. Returns which
/// files were not read to their end.
pub fn check(analysis: &mut Analysis, plan: &Plan, folder: &Path) -> Vec<String> {
    let stages = made(plan);
    missing_files(analysis, plan, &stages, folder);
    let Analysis { sources, origins, experiment: Some(experiment), diagnostics, .. } = analysis else {
        return Vec::new();
    };
    let places = Places { sources, origins, experiment };
    let (mut beginnings, mut rows) = (Vec::new(), Vec::new());
    for (id, domain) in (0..).map(DomainId).zip(&plan.experiment.domains) {
        let reads = DomainReads::of(plan, id, &stages);
        let mut of_domain = None;
        for read in reads.iter() {
            match look(folder, read, EXTENT) {
                Ok(seen) => {
                    let is_trained = |trained: &RowsRead| std::ptr::eq(trained, read);
                    if reads.prompts.as_ref().is_some_and(is_trained) {
                        of_domain = seen.rows;
                    }
                    beginnings.extend(beginning(read.source(), &seen));
                    let span = places.span(places.source(read.source()).unwrap_or(domain.origin));
                    for DataWarning { message, help } in seen.warnings {
                        let is_reported = diagnostics.iter().any(|other| other.message == message);
                        if !is_reported && !is_allowed(sources, Code::DataMismatch, span) {
                            let warning = Diagnostic::warning(Code::DataMismatch, span, message);
                            diagnostics.push(warning.help(help));
                        }
                    }
                }
                // A run fetches what is on the hub.
                Err(error)
                    if matches!(
                        *error.problem,
                        DataProblem::Missing { .. } | DataProblem::NotFetched { .. }
                    ) => {}
                Err(error) => {
                    let diagnostic = places.diagnostic(read, &error, domain.origin);
                    // A field that is missing in prompts and tests is named once.
                    let same = |other: &Diagnostic| {
                        (other.code, other.primary.span) == (diagnostic.code, diagnostic.primary.span)
                    };
                    if !diagnostics.iter().any(same) {
                        diagnostics.push(diagnostic);
                    }
                }
            }
        }
        rows.push(of_domain);
    }
    for id in &stages {
        let model = plan.experiment.model(*id);
        for train in model.stage.trains() {
            let all = train.mixture.iter().map(|share| rows[share.domain.0 as usize]).sum::<Option<u64>>();
            let place = places.span(model.origin);
            let message = all.and_then(|rows| more_than_rows(&model.name, train, rows));
            let message = message.filter(|_| !is_allowed(sources, Code::DataMismatch, place));
            let Some(message) = message else { continue };
            let mut diagnostic = Diagnostic::warning(Code::DataMismatch, place, message)
                .help("lower it to the number of rows, or add rows");
            let asked = ["prompts", "batch"].into_iter().find_map(|name| places.setting(name, place));
            if let Some(asked) = asked {
                diagnostic = diagnostic.note(asked, "asked for here");
            }
            diagnostics.push(diagnostic);
        }
    }
    beginnings.dedup();
    beginnings
}

/// Makes the warning of a path that does not exist an error if a run would read it.
fn missing_files(analysis: &mut Analysis, plan: &Plan, stages: &[ModelId], folder: &Path) {
    let domains = (0..).map(DomainId).zip(&plan.experiment.domains);
    let mut read: Vec<String> = Vec::new();
    for (id, domain) in domains {
        read.extend(DomainReads::of(plan, id, stages).iter().map(|read| read.source().path.clone()));
        read.extend(domain.reward.facts().files.into_iter().map(str::to_owned));
    }
    for id in stages {
        read.extend(match &plan.experiment.model(*id).stage {
            Stage::Load(pretrained) => Some(pretrained.source.name().to_owned()),
            Stage::Initialise(architecture) => match &architecture.tokenizer {
                TokenizerSpec::File(path) => Some(path.clone()),
                TokenizerSpec::Bytes => None,
            },
            _ => None,
        });
    }
    let read: Vec<String> = read.iter().map(|path| crate::paths::absent(&folder.join(path))).collect();
    for diagnostic in &mut analysis.diagnostics {
        if diagnostic.code == Code::MissingFile && read.contains(&diagnostic.message) {
            let Diagnostic { message, primary, help, .. } = diagnostic.clone();
            let error = Diagnostic::error(Code::MissingFile, primary.span, message);
            *diagnostic = Diagnostic { primary, help, ..error };
        }
    }
}

/// That only the beginning of a file was read.
fn beginning(source: &DataSource, seen: &Look) -> Option<String> {
    let Look { read, rows, warnings: _ } = seen;
    match rows {
        Some(rows) if rows <= read => None,
        Some(rows) => Some(format!("the first {read} of the {rows} rows of {}", source.path)),
        None => Some(format!("the first {read} rows of {}", source.path)),
    }
}

/// The places in the source that data belongs to.
struct Places<'a> {
    sources: &'a Sources,
    origins: &'a [Span],
    experiment: &'a Experiment,
}

impl Places<'_> {
    fn span(&self, origin: Origin) -> Span {
        self.origins[origin.0 as usize]
    }

    /// `domain` is the place of the domain's name.
    fn diagnostic(&self, read: &RowsRead, error: &DataError, domain: Origin) -> Diagnostic {
        let text = error.to_string();
        let DataProblem::MissingField { field, meant, .. } = &*error.problem else {
            let place = self.source(read.source()).unwrap_or(domain);
            return Diagnostic::error(Code::DataMismatch, self.span(place), text).help(error.help());
        };
        let item = self.span(read.asker(error).unwrap_or(domain));
        let word = self.word(field, item);
        let diagnostic = Diagnostic::error(Code::DataMismatch, word.unwrap_or(item), text);
        let diagnostic = diagnostic.label("no row may lack it").help(error.help());
        match (word, meant) {
            (Some(_), Some(meant)) if is_name(meant) => diagnostic.did_you_mean(field, meant),
            _ => diagnostic,
        }
    }

    /// Where the source names its file.
    fn source(&self, source: &DataSource) -> Option<Origin> {
        let mut sources = self.experiment.domains.iter().flat_map(|domain| domain.sources());
        let same = |(_, checked): &(&str, &checked::DataSource)| {
            checked.path == source.path && checked.split == source.split
        };
        let mut benchmarks = self.experiment.benchmarks.iter();
        sources.find(same).map(|(_, checked)| checked.origin).or_else(|| {
            benchmarks.find(|benchmark| benchmark.prompts == source.path).map(|benchmark| benchmark.origin)
        })
    }

    /// The name of a setting that stands once in the item whose name is at `item`.
    fn setting(&self, name: &str, item: Span) -> Option<Span> {
        let word = self.word(name, item)?;
        let text = &self.sources.file(word.file).text;
        let is_set = text[word.end as usize..].trim_start().starts_with('=');
        (word.start > item.start && is_set).then_some(word)
    }

    /// The only place where a field is named: in the item whose name is at `item`, or as `data.x` or `{x}`
    /// anywhere in its file.
    fn word(&self, field: &str, item: Span) -> Option<Span> {
        let text = &self.sources.file(item.file).text;
        let is_part = |character: char| character.is_alphanumeric() || character == '_';
        let words = text
            .match_indices(field)
            .map(|(at, _)| at..at + field.len())
            .filter(|word| !text[..word.start].ends_with(is_part) && !text[word.end..].starts_with(is_part));
        let words: Vec<_> = words.collect();
        let start = item.start as usize;
        let end = text[start..].match_indices('\n').map(|(at, _)| start + at + 1);
        // An item ends before the next line that begins at the margin, with no closing bracket.
        let mut end = end.filter(|at| !text[*at..].starts_with([' ', '\t', '\n', '\r', '}', ')', ']']));
        let end = end.next().unwrap_or(text.len());
        let within: Vec<_> = words.iter().filter(|word| (start..end).contains(&word.start)).collect();
        let of_data: Vec<_> = words
            .iter()
            .filter(|word| {
                let before = &text[..word.start];
                before.ends_with("data.") || before.ends_with('{') && text[word.end..].starts_with('}')
            })
            .collect();
        let only = match (within.as_slice(), of_data.as_slice()) {
            ([only], _) | ([], [only]) => only,
            _ => return None,
        };
        Some(Span::new(item.file, only.start, only.end))
    }
}

/// Whether a column can be named without `columns(...)`.
fn is_name(column: &str) -> bool {
    column.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && column.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// The columns of a file that can be named as fields, for completion.
pub fn fields(folder: &Path, path: &str) -> Vec<String> {
    const FIRST: Extent = Extent { rows: 20, bytes: 1 << 20 };
    let columns = mopd_data::columns(folder, path, None, FIRST).unwrap_or_default();
    let mut fields: Vec<String> = columns.into_iter().filter(|column| is_name(column)).collect();
    fields.sort();
    fields
}
