//! Tests of the tree, and of how the parser continues after a mistake. Messages are in
//! `tests/suite/syntax/`.

use super::parse;
use crate::diag::{Code, Diagnostic};
use crate::source::FileId;
use crate::syntax::ast::*;
use crate::syntax::words;

pub fn read(text: &str) -> (Module, Vec<Diagnostic>) {
    parse(FileId(0), text)
}

pub fn sound(text: &str) -> Module {
    let (module, diagnostics) = read(text);
    assert!(diagnostics.is_empty(), "{text}\n{diagnostics:#?}");
    module
}

/// An expression, fully parenthesised.
fn show(expr: &Expr) -> String {
    let list = |arguments: &[Argument]| {
        let shown = arguments.iter().map(|argument| match &argument.name {
            Some(name) => format!("{}: {}", name.text, show(&argument.value)),
            None => show(&argument.value),
        });
        shown.collect::<Vec<_>>().join(", ")
    };
    match &expr.kind {
        ExprKind::Number { value, suffix } => {
            suffix.as_ref().map_or_else(|| value.to_string(), |suffix| format!("{value} {}", suffix.text))
        }
        ExprKind::Text(text) => format!("{text:?}"),
        ExprKind::Bool(value) => value.to_string(),
        ExprKind::Name(name) => name.clone(),
        ExprKind::Field { base, field } => format!("{}.{}", show(base), field.text),
        ExprKind::Index { base, index } => format!("{}[{}]", show(base), show(index)),
        ExprKind::Call { callee, arguments, block } => {
            let block = block.as_ref().map_or(String::new(), |block| format!(" {{{}}}", show_block(block)));
            format!("{}({}){block}", show(callee), list(arguments))
        }
        ExprKind::List(elements) => format!("[{}]", elements.iter().map(show).collect::<Vec<_>>().join(", ")),
        ExprKind::Unary { operator: UnaryOperator::Negate, operand } => format!("(-{})", show(operand)),
        ExprKind::Unary { operator: UnaryOperator::Not, operand } => format!("(not {})", show(operand)),
        ExprKind::Binary { operator, left, right, .. } => {
            format!("({} {} {})", show(left), operator.symbol(), show(right))
        }
        ExprKind::Live(operand) => format!("(live {})", show(operand)),
        ExprKind::Arrow { from, to } => format!("({} -> {})", show(from), show(to)),
        ExprKind::Versus { left, right } => format!("({} || {})", show(left), show(right)),
        ExprKind::Then { first, second } => format!("({} then {})", show(first), show(second)),
        ExprKind::For { index, carried, body } => {
            let carried = carried.as_ref().map_or(String::new(), |carried| {
                format!(", {} = {}", carried.name.text, show(&carried.start))
            });
            format!("(for {} in {}{carried}: {})", index.name.text, show(&index.over), show(body))
        }
        ExprKind::Match { arms } => format!("match {{{}}}", show_match(arms)),
        ExprKind::Range { low, high } => format!("({}..={})", show(low), show(high)),
        ExprKind::Pipe { value, through } => format!("({} |> {})", show(value), show(through)),
        ExprKind::Where { value, bindings } => {
            let bindings: Vec<String> =
                bindings.iter().map(|of| format!("{} = {}", of.name.text, show(&of.value))).collect();
            format!("({} where {})", show(value), bindings.join(", "))
        }
        ExprKind::By { value, axis, block } => {
            format!("({} by {} {{{}}})", show(value), axis.text, show_block(block))
        }
        ExprKind::With { base, changes } => format!("({} with {})", show(base), show(changes)),
        ExprKind::Settings(block) => format!("{{{}}}", show_block(block)),
        ExprKind::NamedValues(values) => {
            let values: Vec<String> =
                values.iter().map(|named| format!("{}: {}", named.name.text, show(&named.value))).collect();
            format!("{{{}}}", values.join(", "))
        }
        ExprKind::Error => "?".to_owned(),
    }
}

fn show_marks(marks: &[Mark]) -> String {
    marks.iter().map(|mark| format!(" @{}", mark.name.text)).collect()
}

fn show_match(arms: &[MatchArm]) -> String {
    let shown = arms.iter().map(|arm| {
        format!("{} -> {}{}", show_condition(&arm.condition), show(&arm.value), show_marks(&arm.marks))
    });
    shown.collect::<Vec<_>>().join("; ")
}

fn show_condition(condition: &Condition) -> String {
    match condition {
        Condition::When(condition) => show(condition),
        Condition::Else => "else".to_owned(),
    }
}

fn show_index(index: &Option<Index>) -> String {
    index.as_ref().map_or(String::new(), |index| format!("[{} in {}]", index.name.text, show(&index.over)))
}

fn show_block(block: &Block) -> String {
    let shown = block.statements.iter().map(|statement| match statement {
        Statement::Entry(entry) => {
            format!("{} = {}{}", entry.key.text, show(&entry.value), show_marks(&entry.marks))
        }
        Statement::Let { name, index, annotation, value } => {
            let annotation = annotation.as_ref().map(|name| format!(": {}", name.text)).unwrap_or_default();
            format!("let {}{}{annotation} = {}", name.text, show_index(index), show(value))
        }
        Statement::State { name, index, first, by, next } => {
            let by = by.as_ref().map(|by| format!(" by {}", by.text)).unwrap_or_default();
            let next = next.as_ref().map(|next| format!(" then {}", show(next))).unwrap_or_default();
            format!("state {}{} = {}{by}{next}", name.text, show_index(index), show(first))
        }
        Statement::Trains { name, value } => format!("trains {} = {}", name.text, show(value)),
        Statement::Step { name, block } => format!("step {} {{{}}}", name.text, show_block(block)),
        Statement::Term { name, index, value, block } => {
            let block = block.as_ref().map_or(String::new(), |block| format!(" {{{}}}", show_block(block)));
            format!("term {}{} = {}{block}", name.text, show_index(index), show(value))
        }
        Statement::Route(route) => format!("route {{{}}}", show_route(route)),
    });
    shown.collect::<Vec<_>>().join("; ")
}

fn show_route(route: &Route) -> String {
    let shown = route.arms.iter().map(|arm| {
        let index = arm
            .index
            .as_ref()
            .map_or(String::new(), |index| format!("for {} in {}: ", index.name.text, show(&index.over)));
        format!("{index}{} -> {}", show_condition(&arm.condition), show(&arm.target))
    });
    shown.collect::<Vec<_>>().join("; ")
}

/// The value of `let x = ...`.
fn value(text: &str) -> String {
    let module = sound(&format!("let x = {text}"));
    match module.items.iter().map(|item| &item.kind).collect::<Vec<_>>().as_slice() {
        [ItemKind::Let { value, .. }] => show(value),
        other => panic!("{text}: {other:#?}"),
    }
}

fn block(text: &str) -> String {
    let module = sound(&format!("domain d {text}"));
    match module.items.iter().map(|item| &item.kind).collect::<Vec<_>>().as_slice() {
        [ItemKind::Domain { block, .. }] => show_block(block),
        other => panic!("{text}: {other:#?}"),
    }
}

/// Kind and name of every item, as far as they are known.
pub fn outline(module: &Module) -> Vec<String> {
    let name = |kind: &str, name: &str| format!("{kind} {name}");
    module
        .items
        .iter()
        .map(|item| match &item.kind {
            ItemKind::Use(import) => {
                name("use", &import.names.iter().map(|name| name.text.as_str()).collect::<Vec<_>>().join(" "))
            }
            ItemKind::Experiment { name: title, .. } => name("experiment", &title.text),
            ItemKind::Param(parameter) => name("param", &parameter.name.text),
            ItemKind::Let { name: it, .. } => name("let", &it.text),
            ItemKind::Fn { name: it, .. } => name("fn", &it.text),
            ItemKind::Domain { name: it, .. } => name("domain", &it.text),
            ItemKind::Reward { name: it, .. } => name("reward", &it.text),
            ItemKind::Schedule { name: it, .. } => name("schedule", &it.text),
            ItemKind::Model(binding) => name("model", &binding.name.text),
            ItemKind::Teacher { binding, .. } => name("teacher", &binding.name.text),
            ItemKind::Template { name: it, .. } => name("template", &it.text),
            ItemKind::Divergence(DivergenceItem { name: it, is_sum, .. }) => {
                name(if *is_sum { "sum" } else { "divergence" }, &it.text)
            }
            ItemKind::Rollout { name: it, .. } => name("rollout", &it.text),
            ItemKind::Panel { name: it, .. } => name("panel", &it.text),
            ItemKind::Eval { name: it, .. } => name("eval", &it.text),
            ItemKind::Sweep { axes, .. } => {
                name("sweep", &axes.iter().map(|axis| axis.name.text.as_str()).collect::<Vec<_>>().join(" "))
            }
            ItemKind::Stage { name: it, .. } => name("stage", &it.text),
            ItemKind::Route(_) => "route".to_owned(),
            ItemKind::Objective { name: it, .. } => name("objective", &it.text),
            ItemKind::Compare { name: title, .. } => name("compare", &title.text),
        })
        .collect()
}

// ---- Expressions ----

#[test]
fn a_match_is_a_value_wherever_one_can_stand() {
    for (text, tree) in [
        ("match { a > 0 -> 1, else -> 0 }", "match {(a > 0) -> 1; else -> 0}"),
        ("2 * match { a -> 1, else -> 0 } + b", "((2 * match {a -> 1; else -> 0}) + b)"),
        (
            "f(match {\n  a -> 1 @unpublished\n  else -> 0\n}, b)",
            "f(match {a -> 1 @unpublished; else -> 0}, b)",
        ),
        (
            "match {\n  a and\n    b ->\n    1\n\n  // the rest\n  else -> match { c -> 2, else -> 3, }\n}",
            "match {(a and b) -> 1; else -> match {c -> 2; else -> 3}}",
        ),
        (
            "match { a -> live jsd(p, q), else -> linear(0 -> 1) }",
            "match {a -> (live jsd(p, q)); else -> linear((0 -> 1))}",
        ),
        ("match {}", "match {}"),
        ("match + 1", "(match + 1)"),
    ] {
        assert_eq!(value(text), tree, "{text}");
    }
    let shown = block(
        "{ term x = match { a -> live b, else -> 0 } { when = c }, k = match { else -> 1 } @source(\"x\") }",
    );
    assert_eq!(shown, "term x = match {a -> (live b); else -> 0} {when = c}; k = match {else -> 1} @source");
}

#[test]
fn parse_ranges_and_pipes() {
    for (text, tree) in [
        ("0..=100", "(0..=100)"),
        ("0.05..=20", "(0.05..=20)"),
        ("-1..=n + 1", "((-1)..=(n + 1))"),
        ("x == 1..=2", "(x == (1..=2))"),
        (
            "sample(n: 1) |> keep(correct) |>\n  best(reward, of: 1)",
            "((sample(n: 1) |> keep(correct)) |> best(reward, of: 1))",
        ),
        ("a |> rewrite(\"x {_}\" -> \"y\")", "(a |> rewrite((\"x {_}\" -> \"y\")))"),
        ("a || b |> c", "((a || b) |> c)"),
        ("a\n  // first\n  |> b\n\n  |> c", "((a |> b) |> c)"),
    ] {
        assert_eq!(value(text), tree, "{text}");
    }
}

#[test]
fn a_value_may_have_a_tail() {
    for (text, tree) in [
        ("a + w where w = 2 * v, v = tv(a, b)", "((a + w) where w = (2 * v), v = tv(a, b))"),
        ("a where w = 1,\n  v = 2", "(a where w = 1, v = 2)"),
        ("a\n  where w = 1, // one\n  v = 2", "(a where w = 1, v = 2)"),
        ("a where\n  w = 1,\n  v = 2", "(a where w = 1, v = 2)"),
        ("where(a, b, c)", "where(a, b, c)"),
        ("where (a, b, c) where w = where(d, 1, 2)", "(where(a, b, c) where w = where(d, 1, 2))"),
        ("match { a -> b where w = 1, else -> c }", "match {a -> (b where w = 1); else -> c}"),
        (
            "mean(token) then sum(batch) by domain { target = 1/3, clamp = 0.05..=20 }",
            "((mean(token) then sum(batch)) by domain {target = (1 / 3); clamp = (0.05..=20)})",
        ),
    ] {
        assert_eq!(value(text), tree, "{text}");
    }
    // In a block a comma ends the entry.
    assert_eq!(block("{ a = b where w = 1, c = 2 }"), "a = (b where w = 1); c = 2");
    assert_eq!(block("{\n  a = b\n    where w = 1\n  where = 2\n}"), "a = (b where w = 1); where = 2");
}

#[test]
fn statements_of_a_stage_that_trains_two_models() {
    assert_eq!(
        block(
            "{\n  steps = 3\n  trains student = start\n  trains guide = start { sees = t }\n  step follow { \
             every = 5 }\n}"
        ),
        "steps = 3; trains student = start; trains guide = start() {sees = t}; step follow {every = 5}"
    );
    assert_eq!(
        block("{ step = 1, trains = 2, teacher = step + trains }"),
        "step = 1; trains = 2; teacher = (step + trains)"
    );
}

#[test]
fn a_let_and_a_term_may_have_one_value_per_element() {
    assert_eq!(
        block(
            "{ let x[t in duo] = t.logp, term y[t in [a, b]] = x[t] * live kl(t || student) { when = z } }"
        ),
        "let x[t in duo] = t.logp; term y[t in [a, b]] = (x[t] * (live kl((t || student)))) {when = z}"
    );
}

#[test]
fn precedence_from_loose_to_tight() {
    for (text, tree) in [
        (
            "mean(token) then mean(sequence) then sum(batch)",
            "((mean(token) then mean(sequence)) then sum(batch))",
        ),
        ("1 + 2 -> 3 * 4", "((1 + 2) -> (3 * 4))"),
        ("a or b and not c == d", "(a or (b and (not (c == d))))"),
        ("not a and b", "((not a) and b)"),
        ("a == not b", "(a == (not b))"),
        ("a - b - c", "((a - b) - c)"),
        ("a / b * c", "((a / b) * c)"),
        ("a + b * c", "(a + (b * c))"),
        ("-a ^ b", "(-(a ^ b))"),
        ("a ^ -b * c", "((a ^ (-b)) * c)"),
        ("a ^ b ^ c", "(a ^ (b ^ c))"),
        ("-a * b", "((-a) * b)"),
        ("2 - -3", "(2 - (-3))"),
        ("a < b or c >= d", "((a < b) or (c >= d))"),
        ("(a < b) == (c < d)", "((a < b) == (c < d))"),
        ("-advantage * live student.logp", "((-advantage) * (live student.logp))"),
        ("(live ratio - 1) ^ 2", "(((live ratio) - 1) ^ 2)"),
        ("live ratio ^ 2", "((live ratio) ^ 2)"),
        (
            "live kl(student || teacher, support: top_k(teacher, 64))",
            "(live kl((student || teacher), support: top_k(teacher, 64)))",
        ),
    ] {
        assert_eq!(value(text), tree, "{text}");
    }
}

#[test]
fn literals_and_what_is_applied_to_them() {
    for (text, tree) in [
        ("1_000", "1000"),
        ("3e-6", "0.000003"),
        ("35%", "0.35"),
        ("1/3", "(1 / 3)"),
        ("5 steps", "5 steps"),
        ("1 epoch", "1 epochs"),
        ("4_096 tokens", "4096 tokens"),
        ("true", "true"),
        (r#""tab\t, quote\", backslash\\""#, r#""tab\t, quote\", backslash\\""#),
        ("\"naïve π // not a comment\"", "\"naïve π // not a comment\""),
        ("[a, b,]", "[a, b]"),
        ("[]", "[]"),
        ("f()", "f()"),
        ("f(1, by: 2,)", "f(1, by: 2)"),
        ("expert[d].x(y)", "expert[d].x(y)"),
        ("llama { layers = 3 }", "llama() {layers = 3}"),
        ("grpo(start, on: d) { steps = 1, lr = 2 }", "grpo(start, on: d) {steps = 1; lr = 2}"),
        (
            "for d in domains, previous = start: f(previous, on: d)",
            "(for d in domains, previous = start: f(previous, on: d))",
        ),
        ("teacher.reward", "teacher.reward"),
        ("schedule(model, domain)", "schedule(model, domain)"),
    ] {
        assert_eq!(value(text), tree, "{text}");
    }
}

#[test]
fn an_expression_runs_on_after_an_operator_and_inside_brackets() {
    assert_eq!(value("a +\n  b *\n\n  // a comment\n  c"), "(a + (b * c))");
    assert_eq!(value("f(\n  a\n  + b,\n  c\n)"), "f((a + b), c)");
    assert_eq!(value("[\n  a,\n  b\n]"), "[a, b]");
    assert_eq!(value("\n  for d in domains:\n    f(d)"), "(for d in domains: f(d))");
    assert_eq!(value("f(g {\n  a = 1\n  b = 2\n}, c)"), "f(g() {a = 1; b = 2}, c)");
}

#[test]
fn windows_line_ends_and_a_byte_order_mark_change_nothing() {
    let module = sound("\u{feff}let a = 1 +\r\n  2\r\nlet b = 3\r\n");
    assert_eq!(outline(&module), ["let a", "let b"]);
}

// ---- Blocks and items ----

#[test]
fn entries_end_at_a_newline_or_a_comma() {
    assert_eq!(block("{ a = 1, b = 2 }"), "a = 1; b = 2");
    assert_eq!(block("{\n  a = 1\n\n  b = 2,\n  c = 3\n}"), "a = 1; b = 2; c = 3");
    assert_eq!(block("{}"), "");
    assert_eq!(
        block("{ lr = 1e-6 @unpublished @source(\"x\"), b = 1 }"),
        "lr = 0.000001 @unpublished @source; b = 1"
    );
}

#[test]
fn words_that_begin_items_are_also_keys_and_names() {
    assert_eq!(
        block("{ reward = exact_match, objective = mopd, rollout = from(teacher) }"),
        "reward = exact_match; objective = mopd; rollout = from(teacher)"
    );
    assert_eq!(
        block("{\n  route { for d in domains: domain == d -> t[d]\n else -> u }\n}"),
        "route {for d in domains: (domain == d) -> t[d]; else -> u}"
    );
}

#[test]
fn a_block_after_a_term_belongs_to_the_term() {
    for (text, shown) in [
        (
            "term x = -live student.logp { when = correct }",
            "term x = (-(live student.logp)) {when = correct}",
        ),
        (
            "term x = a * live kl(p || q) { when = correct }",
            "term x = (a * (live kl((p || q)))) {when = correct}",
        ),
        ("term x = f(g { a = 1 })", "term x = f(g() {a = 1})"),
    ] {
        assert_eq!(block(&format!("{{ {text} }}")), shown);
    }
}

#[test]
fn documentation_belongs_to_the_item_below_it() {
    let module = sound(
        "//! The file.\n//! Second line.\n\n/// First.\n///   indented\nlet a = 1\n// no doc\nlet b = \
         2\n/// Third.\npub let c = 3",
    );
    assert_eq!(module.doc, "The file.\nSecond line.");
    let docs: Vec<&str> = module.items.iter().map(|item| item.doc.as_str()).collect();
    assert_eq!(docs, ["First.\n  indented", "", "Third."]);
    assert!(module.items[2].public && !module.items[0].public);
}

#[test]
fn spans_are_offsets_in_the_source() {
    let text = "/// é\nlet a = 1 + bb  // note\nmodel m = f(x)\n";
    let module = sound(text);
    let Item { span, kind: ItemKind::Let { name, value, .. }, .. } = &*module.items[0] else {
        panic!("{module:#?}")
    };
    let cut = |span: crate::source::Span| &text[span.start as usize..span.end as usize];
    assert_eq!((cut(*span), cut(name.span), cut(value.span)), ("let a = 1 + bb", "a", "1 + bb"));
    assert_eq!(cut(module.items[1].span), "model m = f(x)");
}

#[test]
fn parse_every_kind_of_item() {
    let module = sound(concat!(
        "use std.opd.mopd\nuse a.{\n  b,\n  c\n}\nexperiment \"e\" { seed = 1 }\nparam p: count = 3\nlet l \
         = 1\nfn f(a, b: real = 1) = a + b\n",
        "domain d { share = 1 }\nreward r = numeric\nschedule s = linear(0 -> 1)\nmodel m[d in domains] = \
         f(d)\nteacher t[d in [a, b]] = m[d]\n",
        "stage g(from: model) =\n  f(from)\nroute { else -> t }\nobjective o(k: count = 1) {\n  term x = \
         live ratio\n}\nobjective bare { }\n",
        "compare \"c\" { seeds = 1 }\nsweep { beta in [1, 2]\n k in [3], j in [4] }\ntemplate x = \
         \"{prompt}\"\ntemplate y(a: fraction = 1) = \"{answer}\"\n",
        "divergence v(u) = u * log(u)\nsum h(q, k: real = 1) = -q * log(q) * k\nrollout w = sample(n: 1)\nrollout w2(n: count = 8) = sample(n: \
         n)\npanel q = debate([a, b]) { rounds = 2 }\n",
        "eval z { samples = 1 }\nteacher t2(a: fraction) = self { sees = y(a) }\n"
    ));
    assert_eq!(
        outline(&module),
        [
            "use mopd",
            "use b c",
            "experiment e",
            "param p",
            "let l",
            "fn f",
            "domain d",
            "reward r",
            "schedule s",
            "model m",
            "teacher t",
            "stage g",
            "route",
            "objective o",
            "objective bare",
            "compare c",
            "sweep beta k j",
            "template x",
            "template y",
            "divergence v",
            "sum h",
            "rollout w",
            "rollout w2",
            "panel q",
            "eval z",
            "teacher t2"
        ]
    );
}

#[test]
fn the_word_lists_and_the_grammar_agree() {
    for word in words::RESERVED {
        assert!(!read(&format!("let {word} = 1")).1.is_empty(), "`{word}` is taken as a name");
    }
    for word in words::ITEMS.iter().filter(|word| !words::RESERVED.contains(word)) {
        assert_eq!(block(&format!("{{ {word} = {word} }}")), format!("{word} = {word}"));
    }
}

// ---- Recovery ----

#[test]
fn a_broken_item_keeps_its_name_and_its_neighbours() {
    let (module, diagnostics) =
        read("let a = 1\nmodel m[d in domains] = f(,)\nstage s(x: model) = 3 4\nmodle n = f(x)\nlet z = 2");
    assert_eq!(outline(&module), ["let a", "model m", "stage s", "model n", "let z"]);
    assert_eq!(diagnostics.len(), 3, "{diagnostics:#?}");
    assert!(matches!(
        &module.items[1].kind,
        ItemKind::Model(Binding { indices: _, value: Expr { kind: ExprKind::Error, .. }, .. })
    ));
}

#[test]
fn a_broken_setting_keeps_its_key_and_its_neighbours() {
    let (module, diagnostics) = read("domain d {\n  prompts \"x\"\n  share = 1/\n  reward = exact_match\n}");
    assert_eq!(diagnostics.len(), 2, "{diagnostics:#?}");
    let ItemKind::Domain { block, .. } = &module.items[0].kind else { panic!("{module:#?}") };
    assert_eq!(module.items.len(), 1);
    assert_eq!(show_block(block), "prompts = ?; share = ?; reward = exact_match");
}

#[test]
fn an_unclosed_block_ends_before_the_next_item() {
    let (module, diagnostics) =
        read("domain a {\n  share = 1\n\nmodel m = f {\n  x = g(1\n  y = 2\n}\nlet z = [1, 2\nlet y = 3");
    assert_eq!(outline(&module), ["domain a", "model m", "let z", "let y"]);
    let messages: Vec<&str> = diagnostics.iter().map(|diagnostic| diagnostic.message.as_str()).collect();
    assert_eq!(
        messages,
        ["this `{` is never closed", "this `(` is never closed", "this `[` is never closed"]
    );
}

#[test]
fn thirty_mistakes_make_thirty_findings() {
    let mistakes = [
        "let a = 1 +",
        "let a = ",
        "let = 3",
        "model m",
        "model m f(x)",
        "lett a = 3",
        "domain d = 3",
        "use std",
        "use .x",
        "objective { }",
        "compare c { }",
        "teacher t = [1, 2",
        "teacher t = f(1",
        "let a = 1 2",
        "fn f(a = a",
        "route { a }",
        "let a = 'x'",
        "let a = \"x",
        "let a = 2 ** 3",
        "def f(x): x",
        "# note",
        "let a = b < c < d",
        "let a = 3x",
        "a = 3",
        "let a = b if c else d",
        "let a: 3",
        "import x",
        "stage s(x) -> 3",
        "let a = (1]",
        "let a = f(x))",
    ];
    let text = mistakes.join("\nlet sound = 1\n");
    let (module, diagnostics) = read(&text);
    let lines: Vec<usize> = diagnostics
        .iter()
        .map(|diagnostic| text[..diagnostic.primary.span.start as usize].matches('\n').count())
        .collect();
    assert_eq!(lines, (0..30).map(|index| index * 2).collect::<Vec<_>>(), "{diagnostics:#?}");
    assert_eq!(outline(&module).iter().filter(|item| *item == "let sound").count(), 29);
}

#[test]
fn a_statement_of_another_language_is_one_finding_however_many_lines_it_has() {
    let (_, diagnostics) = read("def f(x):\n    y = x\n    return y\n\nlet a = 1");
    assert_eq!(diagnostics.len(), 1, "{diagnostics:#?}");
    assert_eq!(diagnostics[0].code, Code::ForeignSyntax);
}
