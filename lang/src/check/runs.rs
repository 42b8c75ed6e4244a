//! The runs of a file: one, or one for each combination of the values of its `sweep`. All are checked. What
//! several runs have in common is said once, with the values that it belongs to.

use rustc_hash::FxHashMap;

use crate::diag::{Code, Diagnostic, Severity};
use crate::source::{SourceFile, Span};
use mopd_experiment::{SweepAxis, stack};

use crate::check::analysis::{Analysis, Auditor, Checked, SweptValue};
use crate::check::checker::{Cancellation, CancellationCheck, Checker};
use crate::check::fixes;
use crate::check::names::load::{Loader, parse_all};
use crate::check::names::parse_cache::ParseCache;

/// Checks `entry` and everything that it imports: with the file's own values, and with the diagnostics of
/// every run of its `sweep`.
pub fn analyse(entry: SourceFile, load: Loader) -> Analysis {
    analyse_edited(entry, load, &mut ParseCache::default(), None)
}

/// [`analyse`] for an editor, which checks a file again after each change: items that have not changed since
/// the last call are not parsed again. It is fastest if the last result has been dropped. Cancelled as soon
/// as `keep_going` returns false: then [`Analysis::stopped`] is set, and there are trees and names but no
/// diagnostics.
pub fn analyse_edited(
    entry: SourceFile,
    load: Loader,
    cache: &mut ParseCache,
    keep_going: Option<CancellationCheck>,
) -> Analysis {
    // The cache stays empty if the parser panics: a half-changed cache can't be trusted.
    let mut trees = std::mem::take(cache);
    let analysis = stack::with_room(|| {
        let mut check = |text: &str, swept: &[SweptValue]| {
            let cancellation = Cancellation { keep_going: keep_going.clone(), ..Cancellation::default() };
            let parsed = parse_all(entry.with_text(text), load, &mut trees);
            Checker::new(parsed, cancellation).check(&[], swept)
        };
        let first = check(&entry.text, &[]);
        let combinations = Combinations::new(&first.sweep, &first.origins, &[]);
        let mut analysis = first.audited(None);
        if !analysis.stopped && !combinations.is_single() {
            let mut findings = RunFindings::default();
            for number in 0..combinations.len() {
                let checked = check(&entry.text, &combinations.values(number));
                // A short run may end before it looks.
                if checked.stopped || keep_going.as_ref().is_some_and(|keep_going| !keep_going()) {
                    return Analysis { diagnostics: Vec::new(), stopped: true, ..analysis };
                }
                findings.add(number, checked.audited(None).diagnostics);
            }
            analysis.diagnostics = findings.merged(&combinations);
        }
        let diagnostics = |text: &str| check(text, &[]).audited(None).diagnostics;
        fixes::drop_failing(&mut analysis.diagnostics, &entry.text, diagnostics);
        analysis
    });
    *cache = trees;
    analysis
}

/// Checks one run: with the file's own values, and with those set from outside, as `--set name=value` does:
/// `seed`, any `param` of the entry file, a parameter of an objective, or a setting.
pub fn analyse_with(entry: SourceFile, load: Loader, overrides: &[(String, String)]) -> Analysis {
    analyse_once(entry, load, overrides, None)
}

/// [`analyse_with`], followed by `audit` if there are no errors.
pub fn analyse_run(
    entry: SourceFile,
    load: Loader,
    overrides: &[(String, String)],
    audit: Auditor,
) -> Analysis {
    analyse_once(entry, load, overrides, Some(audit))
}

fn analyse_once(
    entry: SourceFile,
    load: Loader,
    overrides: &[(String, String)],
    audit: Option<Auditor>,
) -> Analysis {
    stack::with_room(|| {
        let mut check = checks(&entry, load, overrides);
        let mut analysis = check(&entry.text, &[]).audited(audit);
        let diagnostics = |text: &str| check(text, &[]).audited(None).diagnostics;
        fixes::drop_failing(&mut analysis.diagnostics, &entry.text, diagnostics);
        analysis
    })
}

/// The check of a run of a text in place of the entry file's, with swept values. Files are parsed once.
fn checks<'a>(
    entry: &'a SourceFile,
    load: Loader<'a>,
    overrides: &'a [(String, String)],
) -> impl FnMut(&str, &[SweptValue]) -> Checked + 'a {
    let mut trees = ParseCache::default();
    move |text, swept| {
        let parsed = parse_all(entry.with_text(text), load, &mut trees);
        Checker::new(parsed, Cancellation::default()).check(overrides, swept)
    }
}

/// The analysis of every run with values set from outside, each followed by `audit` if it has no errors: that
/// of the first run without errors, with the diagnostics of all.
pub fn analyse_audited(
    entry: SourceFile,
    load: Loader,
    overrides: &[(String, String)],
    audit: Auditor,
) -> Analysis {
    let mut shown: Option<Analysis> = None;
    let diagnostics = analyse_runs(entry, load, overrides, Some(audit), &mut |_, analysis| {
        let diagnostics = analysis.diagnostics.clone();
        if shown.as_ref().is_none_or(|shown| shown.has_errors() && !analysis.has_errors()) {
            shown = Some(analysis);
        }
        diagnostics
    });
    Analysis { diagnostics, ..shown.expect("a file has a run") }
}

/// Analyses every run of a file: one, or one for each combination of the values of its `sweep`. A swept
/// `param` that is set from outside has only that value. `each` gets the analysis of a run and returns its
/// diagnostics. The result are those of all runs, each once.
pub fn analyse_runs(
    entry: SourceFile,
    load: Loader,
    overrides: &[(String, String)],
    audit: Option<Auditor>,
    each: &mut dyn FnMut(&[SweptValue], Analysis) -> Vec<Diagnostic>,
) -> Vec<Diagnostic> {
    stack::with_room(|| {
        let mut check = checks(&entry, load, overrides);
        let first = check(&entry.text, &[]);
        let combinations = Combinations::new(&first.sweep, &first.origins, overrides);
        let mut diagnostics = if combinations.is_single() {
            each(&[], first.audited(audit))
        } else {
            let mut findings = RunFindings::default();
            for number in 0..combinations.len() {
                let swept = combinations.values(number);
                findings.add(number, each(&swept, check(&entry.text, &swept).audited(audit)));
            }
            findings.merged(&combinations)
        };
        let of_text = |text: &str| check(text, &[]).audited(None).diagnostics;
        fixes::drop_failing(&mut diagnostics, &entry.text, of_text);
        diagnostics
    })
}

/// Every combination of values; the last axis varies fastest. Without axes, a single empty one.
struct Combinations {
    axes: Vec<Vec<SweptValue>>,
}

impl Combinations {
    /// A swept `param` that is set from outside has only that value.
    pub fn new(axes: &[SweepAxis], origins: &[Span], overrides: &[(String, String)]) -> Combinations {
        let varied = axes.iter().filter(|axis| overrides.iter().all(|(name, _)| *name != axis.parameter));
        let values = |axis: &SweepAxis| {
            let values = axis.values.iter().map(|value| SweptValue {
                parameter: axis.parameter.clone(),
                value: value.value.clone(),
                span: origins[value.origin.0 as usize],
            });
            values.collect()
        };
        Combinations { axes: varied.map(values).collect() }
    }

    pub fn len(&self) -> usize {
        self.axes.iter().map(Vec::len).product()
    }

    /// Whether nothing is swept.
    pub fn is_single(&self) -> bool {
        self.axes.is_empty()
    }

    pub fn values(&self, run: usize) -> Vec<SweptValue> {
        (0..self.axes.len()).map(|axis| self.axes[axis][self.digit(run, axis)].clone()).collect()
    }

    /// The distance of two runs that differ by one step of this axis.
    fn stride(&self, axis: usize) -> usize {
        self.axes[axis + 1..].iter().map(Vec::len).product()
    }

    fn digit(&self, run: usize, axis: usize) -> usize {
        run / self.stride(axis) % self.axes[axis].len()
    }

    /// Whether membership in these runs depends on this axis.
    fn decides(&self, axis: usize, is_in: &[bool]) -> bool {
        let (stride, count) = (self.stride(axis), self.axes[axis].len());
        let mut runs = is_in.iter().enumerate().filter(|(_, is_in)| **is_in);
        runs.any(|(run, _)| {
            let first = run - self.digit(run, axis) * stride;
            (0..count).any(|digit| !is_in[first + digit * stride])
        })
    }
}

/// A finding of several runs.
struct SharedFinding {
    /// As the first of them has it.
    diagnostic: Diagnostic,
    /// Whether all of them have it in the same words.
    same: bool,
    runs: Vec<usize>,
}

/// The findings of all runs.
#[derive(Default)]
struct RunFindings {
    all: Vec<SharedFinding>,
    /// By code, severity and place, and how many of these the run had before.
    index: FxHashMap<(Code, Severity, Span, usize), usize>,
}

impl RunFindings {
    pub fn add(&mut self, run: usize, diagnostics: Vec<Diagnostic>) {
        let mut counts: FxHashMap<(Code, Severity, Span), usize> = FxHashMap::default();
        for diagnostic in diagnostics {
            let Diagnostic { code, severity, .. } = diagnostic;
            let span = diagnostic.primary.span;
            let count = counts.entry((code, severity, span)).or_default();
            let next = self.all.len();
            match *self.index.entry((code, severity, span, *count)).or_insert(next) {
                known if known < next => {
                    let known = &mut self.all[known];
                    known.same &= known.diagnostic == diagnostic;
                    known.runs.push(run);
                }
                _ => self.all.push(SharedFinding { diagnostic, same: true, runs: vec![run] }),
            }
            *count += 1;
        }
    }

    /// Each finding once. One that not all runs have names the values that it belongs to.
    pub fn merged(self, combinations: &Combinations) -> Vec<Diagnostic> {
        let count = combinations.len();
        // What one run has no use for, another may use.
        let findings = self.all.into_iter().filter(|SharedFinding { diagnostic, runs, .. }| {
            diagnostic.severity == Severity::Error || !diagnostic.code.is_of_unused() || runs.len() == count
        });
        let mut merged: Vec<Diagnostic> = findings.map(|finding| named(finding, combinations)).collect();
        merged.sort_by_key(|diagnostic| (diagnostic.primary.span, diagnostic.code));
        merged
    }
}

fn named(
    SharedFinding { mut diagnostic, same, runs }: SharedFinding,
    combinations: &Combinations,
) -> Diagnostic {
    let count = combinations.len();
    let everywhere = runs.len() == count;
    if everywhere && same {
        return diagnostic;
    }
    let mut is_in = vec![false; count];
    runs.iter().for_each(|run| is_in[*run] = true);
    let values = combinations.values(runs[0]);
    let decisive =
        values.into_iter().enumerate().filter(|(axis, _)| everywhere || combinations.decides(*axis, &is_in));
    let decisive: Vec<SweptValue> =
        decisive.map(|(_, value)| value).filter(|value| value.span != diagnostic.primary.span).collect();
    let last = decisive.len();
    for (number, SweptValue { parameter, value, span }) in decisive.into_iter().enumerate() {
        let mut text = format!("with `{parameter}` = {value}");
        if number + 1 == last && runs.len() > 1 {
            text += &format!("; it is so in {} of {count} runs", runs.len());
        }
        diagnostic = diagnostic.note(span, text);
    }
    diagnostic
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    fn sweep_of(values: usize) -> SourceFile {
        let values: Vec<String> = (1..=values).map(|value| value.to_string()).collect();
        let text =
            format!("param beta = 1\nsweep {{ beta in [{}] }}\nlet wrong = nowhere\n", values.join(", "));
        SourceFile { path: "a.mopd".to_owned(), text }
    }

    #[test]
    fn a_sweep_is_cancelled_between_its_runs() {
        let looks = Rc::new(Cell::new(0));
        let counted = Rc::clone(&looks);
        let keep_going: CancellationCheck = Rc::new(move || {
            counted.set(counted.get() + 1);
            counted.get() < 3
        });
        let mut cache = ParseCache::default();
        let cancelled = analyse_edited(sweep_of(50), &|_| None, &mut cache, Some(keep_going));
        assert!(cancelled.stopped && cancelled.diagnostics.is_empty());
        assert_eq!(looks.get(), 3);
        // What was parsed serves the next analysis.
        let complete = analyse_edited(sweep_of(50), &|_| None, &mut cache, None);
        assert!(!complete.stopped);
        assert_eq!(complete.diagnostics, analyse(sweep_of(50), &|_| None).diagnostics);
        assert_eq!(complete.diagnostics.len(), 1);
    }
}
