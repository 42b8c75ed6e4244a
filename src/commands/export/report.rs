//! The report of an export: each construct with its support by an engine, and its place.

use mopd_compiler::export::ExportEngine;
use mopd_compiler::export::coverage::{Coverage, CoverageLine};
use mopd_lang::source::Sources;
use mopd_plan::Plan;
use serde_json::json;

use crate::args::Format;

/// A report and the places of its lines.
pub struct LocatedReport<'a> {
    pub coverage: &'a Coverage,
    pub plan: &'a Plan,
    pub sources: &'a Sources,
}

impl LocatedReport<'_> {
    /// File and line, from 1.
    fn place(&self, line: &CoverageLine) -> Option<(&str, usize)> {
        let place = self.plan.place(line.origin)?;
        let (id, file) = self.sources.files().find(|(_, file)| file.path == place.file)?;
        let (row, _) = self.sources.position(id, place.start);
        Some((&file.path, row + 1))
    }
}

pub fn text(report: &LocatedReport, stage: &str, engine: ExportEngine, format: Format) -> String {
    if format == Format::Json {
        let line = |line: &CoverageLine| {
            let place = report.place(line);
            json!({
                "construct": line.construct,
                "coverage": line.verdict.word(),
                "detail": line.verdict.detail(),
                "file": place.map(|(file, _)| file),
                "line": place.map(|(_, row)| row),
            })
        };
        let whole = json!({
            "stage": stage,
            "engine": engine.name(),
            "version": engine.version(),
            "coverage": report.coverage.whole(),
            "lines": report.coverage.lines.iter().map(line).collect::<Vec<_>>(),
        });
        return format!("{whole:#}\n");
    }
    let (name, version, whole) = (engine.name(), engine.version(), report.coverage.whole());
    let mut text = format!("{stage} for {name} {version}: {whole}\n");
    for line in &report.coverage.lines {
        let place = report.place(line).map(|(file, row)| format!("  ({file}:{row})")).unwrap_or_default();
        text += &format!("  {:<11}  {}{place}\n", line.verdict.word(), line.construct);
        if let Some(detail) = line.verdict.detail() {
            text += &format!("  {:<11}    {detail}\n", "");
        }
    }
    text
}
