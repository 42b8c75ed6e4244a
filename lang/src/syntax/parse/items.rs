//! Items: the top level of a file.

use pest::iterators::{Pair, Pairs};

use super::Rule;
use super::build::{AstBuilder, lost};
use crate::diag::{Code, Diagnostic};
use crate::source::{Span, Spanned};
use crate::syntax::ast::*;

/// The parts of items and statements.
#[derive(Default)]
pub(super) struct ItemParts {
    pub(super) name: Option<Name>,
    text: Option<Text>,
    pub(super) block: Option<Block>,
    pub(super) arms: Option<Route>,
    pub(super) families: Vec<Index>,
    /// What a `with` changes.
    base: Option<Name>,
    /// The declared type of a `let`.
    pub(super) annotation: Option<Name>,
    /// Whether `||` is between the first two.
    directed: bool,
    parameters: Vec<Parameter>,
    axes: Option<Spanned<Vec<Index>>>,
    pub(super) value: Option<Expr>,
}

impl<'a> AstBuilder<'a> {
    /// An item. Several domains with the same settings are an item each.
    pub(super) fn item(&mut self, pair: Pair<'a, Rule>) -> Vec<Item> {
        let span = self.span(&pair);
        let doc = self.doc(span.start as usize);
        self.skip_docs(span.end as usize);
        let mut public = None;
        let mut kinds = Vec::new();
        for part in pair.into_inner() {
            match part.as_rule() {
                Rule::public => public = Some(self.span(&part)),
                Rule::domain_item => kinds = self.domains(part),
                _ => kinds.extend(self.item_kind(part)),
            }
        }
        if let (Some(place), Some(kind)) = (public, kinds.first()) {
            self.may_be_public(kind, place);
        }
        let item = |kind| Item { doc: doc.clone(), public: public.is_some(), span, kind };
        kinds.into_iter().map(item).collect()
    }

    /// `domain sort, reverse { ... }`
    fn domains(&mut self, pair: Pair<'a, Rule>) -> Vec<ItemKind> {
        let mut names = Vec::new();
        let (mut base, mut block) = (None, None);
        for part in pair.into_inner() {
            match part.as_rule() {
                Rule::name => names.push(self.name(&part)),
                Rule::changed_block => (base, block) = self.changed_block(part),
                Rule::block => block = Some(self.block(part)),
                _ => {}
            }
        }
        let Some(block) = block else { return Vec::new() };
        let domain = |name| ItemKind::Domain { name, base: base.clone(), block: block.clone() };
        names.into_iter().map(domain).collect()
    }

    /// The base of a `with`, and its changes.
    fn changed_block(&mut self, pair: Pair<'a, Rule>) -> (Option<Name>, Option<Block>) {
        let (mut base, mut block) = (None, None);
        for part in pair.into_inner() {
            match part.as_rule() {
                Rule::assign => self.assign(part, false),
                Rule::name => base = Some(self.name(&part)),
                Rule::block => block = Some(self.block(part)),
                _ => {}
            }
        }
        (base, block)
    }

    /// Reports `pub` before items that can't be imported.
    fn may_be_public(&mut self, kind: &ItemKind, place: Span) {
        let what = match kind {
            ItemKind::Use(_) => "an import stays in its file",
            ItemKind::Experiment { .. } => "an `experiment` is not imported",
            ItemKind::Route(_) => "a `route` has no name",
            ItemKind::Compare { .. } => "a `compare` is not imported",
            ItemKind::Sweep { .. } => "a `sweep` has no name",
            _ => return,
        };
        let text = format!("`pub` lets other files import a name, and {what}");
        let with_space = Span { end: place.end + 1, ..place };
        self.report(Diagnostic::error(Code::Syntax, place, text).fix("remove `pub`", with_space, ""));
    }

    pub(super) fn item_kind(&mut self, pair: Pair<'a, Rule>) -> Option<ItemKind> {
        let rule = pair.as_rule();
        if rule == Rule::use_item {
            return self.use_item(pair).map(ItemKind::Use);
        }
        let mut parts = ItemParts::default();
        for part in pair.into_inner() {
            match part.as_rule() {
                Rule::name => parts.name = Some(self.name(&part)),
                Rule::string => parts.text = Some(self.text_literal(&part)),
                Rule::block => parts.block = Some(self.block(part)),
                Rule::arms => parts.arms = Some(self.arms(part)),
                Rule::family => parts.families.extend(self.family(part)),
                Rule::declared_type => parts.annotation = self.declared_type(part),
                Rule::parameters => parts.parameters = self.parameters(part),
                Rule::sided_parameters => {
                    parts.directed = true;
                    parts.parameters = self.parameters(part);
                }
                Rule::parameter => return Some(ItemKind::Param(self.parameter(part)?)),
                Rule::assign => self.assign(part, false),
                Rule::changed_block => (parts.base, parts.block) = self.changed_block(part),
                Rule::value => parts.value = self.value(part),
                Rule::axes => parts.axes = Some(Spanned { span: self.span(&part), value: self.axes(part) }),
                _ => {}
            }
        }
        if let Some(index) = parts.families.first().filter(|_| rule == Rule::let_item) {
            self.unsupported(index.name.span, "a `let` with an index");
            parts.value = parts.value.map(lost);
        }
        let parameters = parts.parameters;
        Some(match rule {
            Rule::experiment_item => ItemKind::Experiment { name: parts.text?, block: parts.block? },
            Rule::compare_item => ItemKind::Compare { name: parts.text?, block: parts.block? },
            Rule::let_item => {
                ItemKind::Let { name: parts.name?, annotation: parts.annotation, value: parts.value? }
            }
            Rule::fn_item => ItemKind::Fn { name: parts.name?, parameters, body: parts.value? },
            Rule::reward_item => ItemKind::Reward { name: parts.name?, value: parts.value? },
            Rule::schedule_item => ItemKind::Schedule { name: parts.name?, value: parts.value? },
            Rule::model_item => {
                ItemKind::Model(Binding { name: parts.name?, indices: parts.families, value: parts.value? })
            }
            Rule::teacher_item => {
                let binding = Binding { name: parts.name?, indices: parts.families, value: parts.value? };
                ItemKind::Teacher { binding, parameters }
            }
            Rule::template_item => ItemKind::Template { name: parts.name?, parameters, text: parts.value? },
            Rule::divergence_item | Rule::sum_item => {
                let directed = parts.directed;
                ItemKind::Divergence(DivergenceItem {
                    name: parts.name?,
                    is_sum: rule == Rule::sum_item,
                    directed,
                    parameters,
                    body: parts.value?,
                })
            }
            Rule::rollout_item => ItemKind::Rollout { name: parts.name?, parameters, body: parts.value? },
            Rule::panel_item => ItemKind::Panel { name: parts.name?, value: parts.value? },
            Rule::eval_item => ItemKind::Eval { name: parts.name?, base: parts.base, block: parts.block? },
            Rule::sweep_item => {
                let Spanned { value: axes, span } = parts.axes?;
                ItemKind::Sweep { span, axes }
            }
            Rule::stage_item => ItemKind::Stage { name: parts.name?, parameters, body: parts.value? },
            Rule::route_item => ItemKind::Route(parts.arms?),
            Rule::objective_item => ItemKind::Objective { name: parts.name?, parameters, body: parts.block? },
            _ => return None,
        })
    }

    fn use_item(&mut self, pair: Pair<'a, Rule>) -> Option<Use> {
        let span = self.span(&pair);
        let mut module = Vec::new();
        let mut file = None;
        let mut names = None;
        for part in pair.into_inner() {
            match part.as_rule() {
                Rule::word => module.push(self.name(&part)),
                Rule::string => file = Some(self.text_literal(&part)),
                Rule::use_list => {
                    let words = part.into_inner().filter(|part| part.as_rule() == Rule::word);
                    names = Some(words.map(|word| self.name(&word)).collect());
                }
                _ => {}
            }
        }
        // A file is a module, so one word at most stands before the names.
        let names = match (names, &file) {
            (Some(names), None) => names,
            (None, None) if module.len() > 1 => vec![module.pop()?],
            (Some(names), Some(_)) if module.is_empty() => names,
            (None, Some(_)) if module.len() == 1 => vec![module.pop()?],
            (_, Some(path)) => {
                let text = "an import names a file and what it takes from it";
                let help =
                    format!("for example `use \"{0}\".mine` or `use \"{0}\".{{first, second}}`", path.text);
                self.report(Diagnostic::error(Code::Syntax, path.span, text).help(help));
                // It may have been meant to take any name.
                return Some(Use { module: ModuleName::Words(Vec::new()), names: Vec::new() });
            }
            (None, None) => {
                let diagnostic = Diagnostic::error(
                    Code::Syntax,
                    span,
                    "an import names a module and what it takes from it",
                )
                .label("the name is missing")
                .help("for example `use std.opd.mopd` or `use std.baselines.{mix_rl, cascade_rl}`");
                self.report(diagnostic);
                return None;
            }
        };
        Some(Use { module: file.map_or(ModuleName::Words(module), ModuleName::File), names })
    }

    pub(super) fn family(&mut self, pair: Pair<'a, Rule>) -> Option<Index> {
        let mut name = None;
        let mut over = None;
        for part in pair.into_inner() {
            match part.as_rule() {
                Rule::name => name = Some(self.name(&part)),
                Rule::expression => over = Some(self.expression(part)),
                Rule::named_values => over = Some(self.named_values(part)),
                _ => {}
            }
        }
        Some(Index { name: name?, over: over? })
    }

    /// `: nats`
    pub(super) fn declared_type(&self, pair: Pair<'a, Rule>) -> Option<Name> {
        let name = pair.into_inner().find(|part| part.as_rule() == Rule::type_name)?;
        Some(self.name(&name))
    }

    pub(super) fn parameters(&mut self, pair: Pair<'a, Rule>) -> Vec<Parameter> {
        let parameters = pair.into_inner().filter(|part| part.as_rule() == Rule::parameter);
        parameters.filter_map(|parameter| self.parameter(parameter)).collect()
    }

    pub(super) fn parameter(&mut self, pair: Pair<'a, Rule>) -> Option<Parameter> {
        let (mut name, mut annotation, mut default) = (None, None, None);
        for part in pair.into_inner() {
            match part.as_rule() {
                Rule::name => name = Some(self.name(&part)),
                Rule::type_name => annotation = Some(self.name(&part)),
                Rule::expression => default = Some(self.expression(part)),
                _ => {}
            }
        }
        Some(Parameter { name: name?, annotation, default })
    }

    /// Index and parameters of a `lone_head`.
    pub fn head_parts(&mut self, pairs: Pairs<'a, Rule>) -> (Vec<Index>, Vec<Parameter>) {
        let (mut indices, mut parameters) = (Vec::new(), Vec::new());
        for part in pairs.flat_map(Pair::into_inner).flat_map(Pair::into_inner) {
            match part.as_rule() {
                Rule::family => indices.extend(self.family(part)),
                Rule::parameters | Rule::sided_parameters => parameters = self.parameters(part),
                _ => {}
            }
        }
        (indices, parameters)
    }

    pub fn item_doc(&mut self, start: usize, end: usize) -> String {
        let doc = self.doc(start);
        self.skip_docs(end);
        doc
    }
}
