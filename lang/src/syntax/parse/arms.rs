//! Contents of braces other than statements: the arms of a `route` and of a `match`, the axes of a `sweep`.

use pest::iterators::Pair;

use super::Rule;
use super::build::{AstBuilder, CatchAllRule};
use crate::diag::{Code, Diagnostic};
use crate::syntax::ast::*;
use crate::syntax::words::split_word;

impl<'a> AstBuilder<'a> {
    pub fn arms(&mut self, pair: Pair<'a, Rule>) -> Route {
        let span = self.span(&pair);
        let mut arms = Vec::new();
        let outer = self.last_broken.take();
        for part in pair.into_inner() {
            match part.as_rule() {
                Rule::arm => {
                    self.last_broken = None;
                    arms.extend(self.arm(part));
                }
                Rule::bad_arm => {
                    let span = self.span(&part);
                    self.broken(part, CatchAllRule::Arm);
                    let lost = Expr { span, kind: ExprKind::Error };
                    arms.push(Arm {
                        span,
                        index: None,
                        condition: Condition::When(lost.clone()),
                        target: lost,
                    });
                }
                _ => {}
            }
        }
        self.last_broken = outer;
        Route { span, arms }
    }

    fn arm(&mut self, pair: Pair<'a, Rule>) -> Option<Arm> {
        let span = self.span(&pair);
        let (mut index, mut condition, mut target) = (None, None, None);
        for part in pair.into_inner() {
            match part.as_rule() {
                Rule::for_head => {
                    let (head, carried) = self.for_head(part)?;
                    if let Some(carried) = carried {
                        let message = "`for` in a route takes one name";
                        let diagnostic = Diagnostic::error(Code::Syntax, carried.name.span, message);
                        self.report(diagnostic.label("remove this and the comma before it"));
                    }
                    index = Some(head);
                }
                Rule::kw_else => condition = Some(Condition::Else),
                Rule::condition => condition = Some(Condition::When(self.expression(part))),
                Rule::leads_to => self.leads_to(part),
                Rule::expression => target = Some(self.expression(part)),
                _ => {}
            }
        }
        Some(Arm { span, index, condition: condition?, target: target? })
    }

    /// Reports other languages' signs between a case and its value.
    fn leads_to(&mut self, pair: Pair<Rule>) {
        let Some(sign) = pair.into_inner().find(|part| part.as_rule() == Rule::foreign_arrow) else { return };
        let message = format!("an arm is written `condition -> value`, not with `{}`", sign.as_str());
        let spaced = self.text()[..self.offset(&sign)].ends_with(' ');
        let diagnostic =
            Diagnostic::error(Code::ForeignSyntax, self.span(&sign), message).label("expected `->`");
        self.report(diagnostic.replace_with("write `->`", if spaced { "->" } else { " ->" }));
    }

    pub fn match_arms(&mut self, pair: Pair<'a, Rule>) -> Vec<MatchArm> {
        let mut arms = Vec::new();
        let outer = self.last_broken.take();
        for part in pair.into_inner() {
            match part.as_rule() {
                Rule::match_arm => {
                    self.last_broken = None;
                    arms.extend(self.match_arm(part));
                }
                Rule::bad_arm => {
                    let span = self.span(&part);
                    let slice = part.as_str();
                    self.broken(part, CatchAllRule::MatchArm);
                    let lost = Expr { span, kind: ExprKind::Error };
                    // A broken `else` does not count as missing.
                    let condition = if split_word(slice).0 == "else" {
                        Condition::Else
                    } else {
                        Condition::When(lost.clone())
                    };
                    arms.push(MatchArm { span, condition, value: lost, marks: Vec::new() });
                }
                _ => {}
            }
        }
        self.last_broken = outer;
        arms
    }

    fn match_arm(&mut self, pair: Pair<'a, Rule>) -> Option<MatchArm> {
        let span = self.span(&pair);
        let (mut condition, mut value, mut marks) = (None, None, Vec::new());
        for part in pair.into_inner() {
            match part.as_rule() {
                Rule::kw_else => condition = Some(Condition::Else),
                Rule::condition if part.as_str().trim_end() == "_" => {
                    let diagnostic = Diagnostic::error(
                        Code::ForeignSyntax,
                        self.span(&part),
                        "`_` is written `else`: it takes what is left",
                    );
                    self.report(diagnostic.replace_with("write `else`", "else"));
                    condition = Some(Condition::Else);
                }
                Rule::condition => condition = Some(Condition::When(self.expression(part))),
                Rule::leads_to => self.leads_to(part),
                Rule::inner_value => value = self.value(part),
                Rule::mark => marks.extend(self.mark(part)),
                _ => {}
            }
        }
        Some(MatchArm { span, condition: condition?, value: value?, marks })
    }

    /// `{ beta in [0, 1], k in [16, 64] }`
    pub fn axes(&mut self, pair: Pair<'a, Rule>) -> Vec<Index> {
        let outer = self.last_broken.take();
        let mut axes = Vec::new();
        for part in pair.into_inner() {
            match part.as_rule() {
                Rule::axis => {
                    self.last_broken = None;
                    axes.extend(self.axis(part));
                }
                Rule::bad_axis => self.broken(part, CatchAllRule::Axis),
                _ => {}
            }
        }
        self.last_broken = outer;
        axes
    }

    fn axis(&mut self, pair: Pair<'a, Rule>) -> Option<Index> {
        let (mut name, mut over) = (None, None);
        for part in pair.into_inner() {
            match part.as_rule() {
                Rule::name => name = Some(self.name(&part)),
                Rule::axis_sign => {
                    let written = part.into_inner().find(|part| part.as_rule() == Rule::foreign_in);
                    if let Some(sign) = written {
                        let message = format!(
                            "an axis of a sweep is written `name in [...]`, not with `{}`",
                            sign.as_str()
                        );
                        let spaced = self.text()[..self.offset(&sign)].ends_with(' ');
                        let diagnostic = Diagnostic::error(Code::ForeignSyntax, self.span(&sign), message)
                            .label("expected `in`");
                        self.report(diagnostic.replace_with("write `in`", if spaced { "in" } else { " in" }));
                    }
                }
                Rule::expression => over = Some(self.expression(part)),
                Rule::named_values => over = Some(self.named_values(part)),
                _ => {}
            }
        }
        Some(Index { name: name?, over: over? })
    }
}
