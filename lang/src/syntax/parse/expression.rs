//! Builds expressions of the syntax tree from the grammar's pairs.

use pest::iterators::Pair;

use super::Rule;
use super::build::AstBuilder;
use super::operators::{self, Infix, InfixPiece, Prefix};
use crate::diag::{Code, Diagnostic};
use crate::source::Span;
use crate::syntax::ast::*;
use crate::syntax::words;

impl<'a> AstBuilder<'a> {
    /// An `expression` or `condition`.
    pub fn expression(&mut self, pair: Pair<'a, Rule>) -> Expr {
        let mut pieces = Vec::new();
        for part in pair.into_inner() {
            match part.as_rule() {
                Rule::prefix => {
                    pieces.extend(part.into_inner().next().map(|operator| self.prefix(&operator)))
                }
                Rule::infix | Rule::plain_infix => {
                    pieces.extend(part.into_inner().next().map(|operator| self.infix(&operator)))
                }
                Rule::chain => pieces.push(InfixPiece::Operand(self.chain(part))),
                _ => {}
            }
        }
        operators::arrange(self, pieces)
    }

    fn prefix(&mut self, pair: &Pair<Rule>) -> InfixPiece {
        let span = self.span(pair);
        match pair.as_rule() {
            Rule::minus => InfixPiece::Prefix(Prefix::Negate, span),
            Rule::live_operator => InfixPiece::Prefix(Prefix::Live, span),
            _ => {
                if pair.as_str() == "!" {
                    self.foreign(span, "`!` is written `not`", "write `not`", "not ");
                }
                InfixPiece::Prefix(Prefix::Not, span)
            }
        }
    }

    fn infix(&mut self, pair: &Pair<Rule>) -> InfixPiece {
        use BinaryOperator::*;
        let span = self.span(pair);
        let infix = match pair.as_rule() {
            Rule::then_operator => Infix::Then,
            Rule::arrow => Infix::Arrow,
            Rule::pipe => Infix::Pipe,
            Rule::range => Infix::Range,
            Rule::foreign_range => {
                self.exclusive_range(pair, span);
                Infix::Range
            }
            Rule::versus => Infix::Versus,
            Rule::or_operator => Infix::Binary(Or),
            Rule::and_operator => Infix::Binary(And),
            Rule::foreign_and => {
                let message = format!("`{}` is written `and`", pair.as_str());
                self.foreign(span, &message, "write `and`", "and");
                Infix::Binary(And)
            }
            Rule::foreign_versus => {
                self.foreign(span, "two distributions are compared with `||`, not `|`", "write `||`", "||");
                Infix::Versus
            }
            Rule::foreign_equal | Rule::foreign_identical => {
                let message = format!("`{}` does not compare: that is written `==`", pair.as_str());
                self.foreign(span, &message, "write `==`", "==");
                Infix::Binary(Equal)
            }
            Rule::foreign_not_equal => {
                let message = format!("`{}` is written `!=`", pair.as_str());
                self.foreign(span, &message, "write `!=`", "!=");
                Infix::Binary(NotEqual)
            }
            Rule::equal => Infix::Binary(Equal),
            Rule::not_equal => Infix::Binary(NotEqual),
            Rule::less_equal => Infix::Binary(LessEqual),
            Rule::greater_equal => Infix::Binary(GreaterEqual),
            Rule::less => Infix::Binary(Less),
            Rule::greater => Infix::Binary(Greater),
            Rule::plus => Infix::Binary(Add),
            Rule::minus => Infix::Binary(Subtract),
            Rule::multiply => Infix::Binary(Multiply),
            Rule::divide => Infix::Binary(Divide),
            _ => {
                if pair.as_str() == "**" {
                    self.foreign(span, "a power is written `^`, not `**`", "write `^`", "^");
                }
                Infix::Binary(Power)
            }
        };
        InfixPiece::Infix(infix, span)
    }

    fn foreign(&mut self, span: Span, message: &str, title: &str, replacement: &str) {
        self.report(Diagnostic::error(Code::ForeignSyntax, span, message).replace_with(title, replacement));
    }

    /// Reports `0..8`: most languages exclude the end, so the range is ambiguous.
    fn exclusive_range(&mut self, pair: &Pair<Rule>, span: Span) {
        let diagnostic = Diagnostic::error(
            Code::ForeignSyntax,
            span,
            "a range is written `first..=last`, with both ends included, not with `..`",
        );
        let at = self.offset(pair) + "..".len();
        let rest = &self.text()[at..];
        let blanks = rest.len() - rest.trim_start_matches(' ').len();
        let digits = rest[blanks..].bytes().take_while(u8::is_ascii_digit).count();
        let whole = rest[blanks + digits..]
            .bytes()
            .next()
            .is_none_or(|byte| !words::is_word_byte(byte) && !matches!(byte, b'.' | b'%'));
        let diagnostic = match rest[blanks..blanks + digits].parse::<u64>() {
            Ok(end @ 1..) if whole => {
                let range = self.span_at(at - "..".len(), at + blanks + digits);
                let last = end - 1;
                diagnostic
                    .help(format!("elsewhere `..{end}` leaves {end} out: that is `..={last}` here"))
                    .fix(format!("write `..={last}`"), range, format!("..={last}"))
            }
            _ => diagnostic.replace_with("write `..=`", "..="),
        };
        self.report(diagnostic.possibly());
    }

    /// A primary, with the calls, indices, fields and blocks after it.
    fn chain(&mut self, pair: Pair<'a, Rule>) -> Expr {
        let mut parts = pair.into_inner();
        let Some(first) = parts.next() else {
            return Expr { span: self.span_at(0, 0), kind: ExprKind::Error };
        };
        let mut expr = self.atom(first);
        for part in parts {
            let span = expr.span.to(self.span(&part));
            let kind = match part.as_rule() {
                Rule::call => {
                    let written: Vec<Pair<Rule>> =
                        part.into_inner().filter(|part| part.as_rule() == Rule::argument).collect();
                    self.arguments_with_equals(&written);
                    let arguments =
                        written.into_iter().filter_map(|argument| self.argument(argument)).collect();
                    ExprKind::Call { callee: Box::new(expr), arguments, block: None }
                }
                Rule::index => {
                    let inner = part.into_inner().find(|part| part.as_rule() == Rule::expression);
                    let Some(index) = inner.map(|index| self.expression(index)) else { continue };
                    ExprKind::Index { base: Box::new(expr), index: Box::new(index) }
                }
                Rule::field => {
                    let word = part.into_inner().find(|part| part.as_rule() == Rule::word);
                    let Some(field) = word.map(|word| self.name(&word)) else { continue };
                    ExprKind::Field { base: Box::new(expr), field }
                }
                Rule::block => {
                    let block = Some(self.block(part));
                    match expr.kind {
                        ExprKind::Call { callee, arguments, block: None } => {
                            ExprKind::Call { callee, arguments, block }
                        }
                        _ => ExprKind::Call { callee: Box::new(expr), arguments: Vec::new(), block },
                    }
                }
                Rule::changes => {
                    let Some(changes) = self.changes(part) else { continue };
                    ExprKind::With { base: Box::new(expr), changes: Box::new(changes) }
                }
                _ => continue,
            };
            expr = Expr { span, kind };
        }
        expr
    }

    /// Reports `f(a=1, b=2)`, once for a call.
    fn arguments_with_equals(&mut self, arguments: &[Pair<'a, Rule>]) {
        let mut signs: Vec<(&str, Pair<Rule>)> = Vec::new();
        for argument in arguments {
            let label = argument.clone().into_inner().find(|part| part.as_rule() == Rule::label);
            let parts: Vec<Pair<Rule>> = label.map(|label| label.into_inner().collect()).unwrap_or_default();
            if let [name, sign, ..] = &parts[..]
                && sign.as_rule() == Rule::equals
            {
                signs.push((name.as_str(), sign.clone()));
            }
        }
        let (Some((name, first)), Some((_, last))) = (signs.first(), signs.last()) else { return };
        let blanks_after = |at: usize| {
            at + 1 + self.text()[at + 1..].len() - self.text()[at + 1..].trim_start_matches(' ').len()
        };
        let before = |at: usize| self.text()[..at].trim_end().len();
        // The text from the first sign to the last, with colons.
        let (start, end) = (before(self.offset(first)), blanks_after(self.offset(last)));
        let mut ours = String::new();
        let mut at = start;
        for (_, sign) in &signs {
            let sign = self.offset(sign);
            ours += &self.text()[at..before(sign)];
            ours += ": ";
            at = blanks_after(sign);
        }
        let message = "an argument is written `name: value`, with `:` instead of `=`";
        let diagnostic = Diagnostic::error(Code::ForeignSyntax, self.span(first), message)
            .help(format!("write `{name}: ...`"));
        let title = if signs.len() == 1 { "write a colon" } else { "write colons" };
        self.report(diagnostic.fix(title, self.span_at(start, end), ours));
    }

    fn argument(&mut self, pair: Pair<'a, Rule>) -> Option<Argument> {
        let (mut name, mut value): (Option<Name>, _) = (None, None);
        for part in pair.into_inner() {
            match part.as_rule() {
                Rule::label => {
                    for part in part.into_inner() {
                        if part.as_rule() == Rule::word {
                            name = Some(self.name(&part));
                        }
                    }
                }
                Rule::expression => value = Some(self.expression(part)),
                _ => {}
            }
        }
        Some(Argument { name, value: value? })
    }

    fn atom(&mut self, pair: Pair<'a, Rule>) -> Expr {
        let span = self.span(&pair);
        let kind = match pair.as_rule() {
            Rule::number_literal => return self.number_literal(pair),
            Rule::string => ExprKind::Text(self.text_literal(&pair).text),
            Rule::boolean => ExprKind::Bool(pair.as_str() == "true"),
            Rule::name => self.name_expression(pair.as_str(), span),
            Rule::list => {
                let elements = pair.into_inner().filter(|part| part.as_rule() == Rule::expression);
                ExprKind::List(elements.map(|element| self.expression(element)).collect())
            }
            Rule::parenthesised => {
                let mut inner: Vec<Expr> = Vec::new();
                let mut comma = false;
                for part in pair.into_inner() {
                    match part.as_rule() {
                        Rule::expression => inner.push(self.expression(part)),
                        Rule::foreign_list => {
                            comma = true;
                            let more = part.into_inner().filter(|part| part.as_rule() == Rule::expression);
                            inner.extend(more.map(|part| self.expression(part)).collect::<Vec<_>>());
                        }
                        _ => {}
                    }
                }
                if comma {
                    let text = &self.text()[span.start as usize..span.end as usize];
                    let brackets = format!("[{}]", &text[1..text.len() - 1]);
                    let opening = Span { end: span.start + 1, ..span };
                    let diagnostic = Diagnostic::error(
                        Code::ForeignSyntax,
                        opening,
                        "a list stands in square brackets, not in `(`...`)`",
                    );
                    self.report(diagnostic.help("for example `[start, expert]`").fix(
                        "write `[` and `]`",
                        span,
                        brackets,
                    ));
                    ExprKind::List(inner)
                } else {
                    // The span includes the parentheses, to tell `(a < b) == c` from a chained comparison.
                    inner.pop().map_or(ExprKind::Error, |inner| inner.kind)
                }
            }
            Rule::for_expression => self.for_expression(pair).unwrap_or(ExprKind::Error),
            Rule::lambda => {
                let word = self.span_at(span.start as usize, span.start as usize + "lambda".len());
                let diagnostic = Diagnostic::error(
                    Code::ForeignSyntax,
                    word,
                    "there is no `lambda`: a function has a name and stands on its own",
                )
                .label("a nameless function, as in Python")
                .help("declare it with `fn name(x) = ...` and use its name");
                self.report(diagnostic);
                ExprKind::Error
            }
            Rule::settings => ExprKind::Settings(self.block(pair)),
            Rule::match_expression => {
                let arms = pair.into_inner().find(|part| part.as_rule() == Rule::match_arms);
                ExprKind::Match { arms: arms.map(|arms| self.match_arms(arms)).unwrap_or_default() }
            }
            _ => ExprKind::Error,
        };
        Expr { span, kind }
    }

    /// `with { lr = 1e-4 }`, `with quick`
    fn changes(&mut self, pair: Pair<'a, Rule>) -> Option<Expr> {
        let part = pair.into_inner().find(|part| matches!(part.as_rule(), Rule::block | Rule::name))?;
        let span = self.span(&part);
        let kind = match part.as_rule() {
            Rule::block => ExprKind::Settings(self.block(part)),
            _ => ExprKind::Name(self.name(&part).text),
        };
        Some(Expr { span, kind })
    }

    /// `{ gold: gold(), uld: uld() }`
    pub fn named_values(&mut self, pair: Pair<'a, Rule>) -> Expr {
        let span = self.span(&pair);
        let mut values = Vec::new();
        for named in pair.into_inner().filter(|part| part.as_rule() == Rule::named_value) {
            let (mut name, mut value) = (None, None);
            for part in named.into_inner() {
                match part.as_rule() {
                    Rule::name => name = Some(self.name(&part)),
                    Rule::equals => {
                        let place = self.span(&part);
                        let end = self.text()[..place.start as usize].trim_end().len();
                        let message = "a named value is written `name: value`, with `:` instead of `=`";
                        let diagnostic = Diagnostic::error(Code::ForeignSyntax, place, message);
                        let sign = self.span_at(end, place.end as usize);
                        self.report(diagnostic.fix("write a colon", sign, ":"));
                    }
                    Rule::expression => value = Some(self.expression(part)),
                    _ => {}
                }
            }
            values.extend(name.zip(value).map(|(name, value)| NamedValue { name, value }));
        }
        Expr { span, kind: ExprKind::NamedValues(values) }
    }

    fn name_expression(&mut self, word: &str, span: Span) -> ExprKind {
        match word {
            "True" | "False" => {
                let ours = word.to_ascii_lowercase();
                let message = format!("`{word}` is written `{ours}`");
                self.foreign(span, &message, &format!("write `{ours}`"), &ours);
                ExprKind::Bool(word == "True")
            }
            _ if words::FOREIGN_VALUES.contains(&word) => {
                let diagnostic =
                    Diagnostic::error(Code::ForeignSyntax, span, format!("there is no `{word}`"))
                        .help("leave the setting out where it has a default");
                self.report(diagnostic);
                ExprKind::Error
            }
            _ => ExprKind::Name(word.to_owned()),
        }
    }

    fn for_expression(&mut self, pair: Pair<'a, Rule>) -> Option<ExprKind> {
        let (mut head, mut body) = (None, None);
        for part in pair.into_inner() {
            match part.as_rule() {
                Rule::for_head => head = self.for_head(part),
                Rule::expression => body = Some(self.expression(part)),
                _ => {}
            }
        }
        let (index, carried) = head?;
        Some(ExprKind::For { index: Box::new(index), carried: carried.map(Box::new), body: Box::new(body?) })
    }

    /// `for d in domains:` or `for d in domains, previous = start:`
    pub fn for_head(&mut self, pair: Pair<'a, Rule>) -> Option<(Index, Option<Carried>)> {
        let (mut names, mut values) = (Vec::new(), Vec::new());
        for part in pair.into_inner() {
            match part.as_rule() {
                Rule::name => names.push(self.name(&part)),
                Rule::condition => values.push(self.expression(part)),
                _ => {}
            }
        }
        let (mut names, mut values) = (names.into_iter(), values.into_iter());
        let index = Index { name: names.next()?, over: values.next()? };
        let carried = names.next().zip(values.next()).map(|(name, start)| Carried { name, start });
        Some((index, carried))
    }
}
