use super::format;

/// The text is formatted already.
#[track_caller]
fn stays(text: &str) {
    becomes(text, text);
}

#[track_caller]
fn becomes(text: &str, expected: &str) {
    let formatted = format(text).text;
    assert_eq!(formatted, expected);
    assert_eq!(format(&formatted).text, formatted, "a second pass changes it again");
}

#[test]
fn format_empty_input_is_empty() {
    becomes("", "");
    becomes(" \n\t\r\n", "");
    becomes("// only this", "// only this\n");
}

#[test]
fn operators_have_blanks_and_signs_have_none() {
    becomes("let x=- a+b*- ( c-1 )/d^- 2", "let x = -a + b * -(c - 1) / d^-2\n");
    becomes("let x = not a and(b or c)==d", "let x = not a and (b or c) == d\n");
    becomes("let x = - - a", "let x = --a\n");
    becomes("let x = student . logp - f ( a , b : 2 ) [ 1 ]", "let x = student.logp - f(a, b: 2)[1]\n");
    becomes("let x = for d in[ a ]:f( d )", "let x = for d in [a]: f(d)\n");
    becomes("let x = kl( a||b )", "let x = kl(a || b)\n");
    becomes("let x = warmup(2,then : linear( 1e-3->0 ))", "let x = warmup(2, then: linear(1e-3 -> 0))\n");
    becomes("use std . opd . { a ,b, }", "use std.opd.{a, b}\n");
}

#[test]
fn a_ratio_of_two_numbers_reads_as_one() {
    becomes("let x = 1 / 3 + 2 / 3 * a", "let x = 1/3 + 2/3 * a\n");
    // (2 * 1) / 3, (1 / 2) / 3 and 1 / (2 ^ 2).
    becomes("let x = 2 * 1/3", "let x = 2 * 1 / 3\n");
    becomes("let x = 1/2/3", "let x = 1/2 / 3\n");
    becomes("let x = 1/2^2", "let x = 1 / 2^2\n");
    becomes("let x = a/3 + 3/a", "let x = a / 3 + 3 / a\n");
}

#[test]
fn numbers_and_texts_are_left_alone() {
    stays("let x = f(1_000, 3E-6, 35%, 5 steps, 007, \"a  \\\"b\\\"\\t// no comment\t, é 漢\")\n");
}

#[test]
fn the_lines_of_a_text_are_left_alone() {
    becomes(
        "template  a=\"\"\"\n    one  \n  two\n  \"\"\"   // why\nlet b =[\"\"\"\n  x\n  \"\"\",1]",
        "template a = \"\"\"\n    one  \n  two\n  \"\"\" // why\nlet b = [\"\"\"\n  x\n  \"\"\", 1]\n",
    );
    // They have no part in columns.
    becomes(
        "let longer = 1\nlet a = \"\"\"\n  x\n  \"\"\"\nlet b = 2 // two",
        "let longer = 1\nlet a = \"\"\"\n  x\n  \"\"\"\nlet b = 2 // two\n",
    );
}

#[test]
fn the_author_decides_what_stands_on_one_line() {
    stays("model a = f(b) { c = 1, d = [1, 2] }\n");
    becomes("model a = f(b) { c = 1,\nd = [1, 2,] }", "model a = f(b) {\n  c = 1\n  d = [1, 2]\n}\n");
    becomes("let a = f(b,\n  c)", "let a = f(\n  b,\n  c,\n)\n");
    becomes("model a = f {\n\n}", "model a = f {}\n");
    // No comma may follow the only expression of a bracket, an index, or the text of a mark.
    becomes("let a = (\nb)", "let a = (\n  b\n)\n");
    becomes("let a = b[\nc]", "let a = b[\n  c\n]\n");
    becomes("model a = f { b = 1 @source(\n\"c\") }", "model a = f {\n  b = 1 @source(\n    \"c\"\n  )\n}\n");
}

#[test]
fn format_breaks_wide_lines_at_blocks_first() {
    let long = "w".repeat(70);
    becomes(
        &format!("model a = f({long}, {long}) {{ b = 1, c = 2 }}"),
        &format!("model a = f({long}, {long}) {{\n  b = 1\n  c = 2\n}}\n"),
    );
    becomes(
        &format!("let a = f({long}, {long}, {long})"),
        &format!("let a = f(\n  {long},\n  {long},\n  {long},\n)\n"),
    );
    stays(&format!("let a = {long} + {long} + {long}\n"));
}

#[test]
fn a_comma_in_the_head_of_a_for_separates_nothing() {
    stays("let a = [for d in ds, p = s: f(d, p), b]\n");
    becomes("let a = [for d in ds, p = s: f(d), b\n]", "let a = [\n  for d in ds, p = s: f(d),\n  b,\n]\n");
    stays("model a = f { b = for d in ds, p = s: g(d), c = 1 }\n");
}

#[test]
fn a_line_goes_on_after_an_operator() {
    becomes("let a = b +\nc -\n  d", "let a = b +\n  c -\n  d\n");
    becomes(
        "stage s =\nfor d in ds:\nf(d) {\nb = 1\n}",
        "stage s =\n  for d in ds:\n    f(d) {\n      b = 1\n    }\n",
    );
    // In brackets a line may begin with an operator; here it ends with it all the same. Other breaks are
    // undone.
    becomes("let a = (b\n+ c\n.d)", "let a = (\n  b +\n    c.d\n)\n");
}

#[test]
fn columns_are_of_lines_that_follow_each_other_directly() {
    becomes(
        "let a = 1\nlet bcd = 2\n\nlet ef = 3\n// apart\nlet g = 4\nmodel h = 5",
        "let a   = 1\nlet bcd = 2\n\nlet ef = 3\n// apart\nlet g = 4\nmodel h = 5\n",
    );
    becomes(
        "objective o {\nlet a = 1\nterm bc = 2\nreduce = 3\nd = [\n1]\nlong_one = 4\ne = 5\n}",
        "objective o {\n  let a   = 1\n  term bc = 2\n  reduce  = 3\n  d = [\n    1,\n  ]\n  long_one = 4\n  \
         e        = 5\n}\n",
    );
    stays("model base  = f\nmodel other = f\nmodel expert[d in ds] = g(d)\n");
    becomes("let a = \"é\" // 1\nlet b = \"xyz\" // 2", "let a = \"é\"   // 1\nlet b = \"xyz\" // 2\n");
}

#[test]
fn arms_of_a_route_have_their_arrows_in_one_column() {
    stays("route {\n  domain == sort -> a\n  else           -> b\n}\n");
    stays("route {\n  for d in ds: domain == d -> t[d]\n  else -> b\n}\n");
}

#[test]
fn one_line_domains_are_a_table() {
    becomes(
        "domain a { x = \"é\", y = 1 }\ndomain bc { x = \"long\", y = 2 }",
        "domain a  { x = \"é\",    y = 1 }\ndomain bc { x = \"long\", y = 2 }\n",
    );
    // Other keys: no columns inside.
    stays("domain a  { x = 1, y = 1 }\ndomain bc { x = 12 }\n");
    let wide = "w".repeat(120);
    stays(&format!(
        "domain a  {{ x = \"{wide}\", y = 1 }}\ndomain bc {{ x = 1, y = \"{}\" }}\n",
        &wide[..60]
    ));
}

#[test]
fn comments_stay_where_they_are() {
    stays(
        "//! The file.\n\n// Of its own.\n\n/// Of the model.\nmodel a = f(b) { // behind the bracket\n  // \
         before c\n  c = 1 // behind c\n\n  // before d, after a blank line\n  d = 2\n  // at the end\n} // \
         behind the model\n// last\n",
    );
    becomes(
        "let a = f(b // one\n, c, // two\n\n// three\n)",
        "let a = f(\n  b, // one\n  c, // two\n\n  // three\n)\n",
    );
    becomes("let a = b + // one\n// two\nc", "let a = b + // one\n  // two\n  c\n");
    becomes("let a = (b // one\n* c)", "let a = (\n  b // one\n    * c\n)\n");
    becomes("let a = [ // one\n]", "let a = [ // one\n]\n");
    becomes("let a = 1 //one  \t\n//two\n", "let a = 1 //one\n//two\n");
}

/// The space that an input method or a web page leaves is part of the comment.
#[test]
fn a_comment_may_end_with_a_space_that_is_no_blank() {
    becomes("// note\u{a0}\nlet  b = 2\n", "// note\u{a0}\nlet b = 2\n");
    becomes("/// note\u{a0} \nlet  b = 2 // two\u{2003}\n", "/// note\u{a0}\nlet b = 2 // two\u{2003}\n");
    becomes(
        "objective o {\n  // note\u{a0}\n  term a=1\n  reduce = 3\n}\n",
        "objective o {\n  // note\u{a0}\n  term a = 1\n  reduce = 3\n}\n",
    );
    becomes("let a = [\n  1, // one\u{a0}\n    2,\n]\n", "let a = [\n  1, // one\u{a0}\n  2,\n]\n");
}

#[test]
fn blank_lines_are_kept_one_at_a_time() {
    becomes(
        "\n\nlet a = 1\n\n\n\nmodel b = f {\n\n\nc = 1\n\n\nd = 2\n\n}\n\n\n",
        "let a = 1\n\nmodel b = f {\n  c = 1\n\n  d = 2\n}\n",
    );
}

#[test]
fn line_endings_tabs_and_byte_order_marks() {
    becomes(
        "\u{feff}let a = 1\r\nmodel b = f {\r\n\tc\t=\t1\t\r\n}\r\n",
        "let a = 1\nmodel b = f {\n  c = 1\n}\n",
    );
}

#[test]
fn format_leaves_unparsable_lines_unchanged() {
    let formatted =
        format("let  a=1\nmodel b = f {\n c  =  = 2 // why\n   dd=3\n e=4\n}\nlet   g==  2\nlet h=3");
    assert_eq!(
        formatted.text,
        "let a = 1\nmodel b = f {\n  c  =  = 2 // why\n  dd = 3\n  e  = 4\n}\nlet   g==  2\nlet h = 3\n"
    );
    assert_eq!(formatted.diagnostics.len(), 2);
    // Brackets without partners: the whole item.
    let formatted = format("let  a=1\nmodel b = f( {\n   c=3\n}\nlet  d=[1,2]");
    assert_eq!(formatted.text, "let a = 1\nmodel b = f( {\n   c=3\n}\nlet d = [1, 2]\n");
    // Text that belongs to no item.
    let formatted = format("let  a=1\n/* two\n   lines */\n)  )\nlet  b=2 # why  not\nlet  c=3");
    assert_eq!(formatted.text, "let a = 1\n/* two\n   lines */\n)  )\nlet  b=2 # why  not\nlet c = 3\n");
}

#[test]
fn format_ranges_and_pipes() {
    becomes("let a = b|>c( 1 )|>d", "let a = b |> c(1) |> d\n");
    becomes("let a = b |>\nc(1) |>\n d", "let a = b\n  |> c(1)\n  |> d\n");
    becomes("teacher a[r in 0 ..= 26]=b(r)", "teacher a[r in 0..=26] = b(r)\n");
    becomes("let a = - 1 ..= - b", "let a = -1..=-b\n");
}

#[test]
fn arms_of_a_match_have_their_arrows_in_one_column() {
    becomes(
        "let a = match{b and c->1,\nelse->live d @unpublished}",
        "let a = match {\n  b and c -> 1\n  else    -> live d @unpublished\n}\n",
    );
    becomes(
        "let a = 2*match{b->1,else->0}+f(match{else->1})",
        "let a = 2 * match { b -> 1, else -> 0 } + f(match { else -> 1 })\n",
    );
    stays(
        "let a = match {\n  b ->\n    1 +\n    2\n  // the rest\n  else -> match { c -> 2, else -> 3 }\n}\n",
    );
    stays("let a = match {\n  b    -> c where w = 1\n  else -> d\n}\n");
}

#[test]
fn format_clauses_after_values() {
    becomes("teacher a=b+w*c where w=15*d,v = 1", "teacher a = b + w * c where w = 15 * d, v = 1\n");
    stays("teacher a = b + w * c\n  where w = 15 * d,\n        v = where(e, 1, 2) // why\n");
    becomes("teacher a =\nb where\nw = 1", "teacher a =\n  b\n  where w = 1\n");
    stays("teacher a = b where w = 1,\n  v = 2\n");
    stays("rollout a = b // one\n  // two\n  |> c\n  |> // three\n  d\n");
    becomes(
        "objective a {\nreduce=mean(token)by domain{target=1/3,clamp=0.05 ..= 20}\nb=1 }",
        "objective a {\n  reduce = mean(token) by domain { target = 1/3, clamp = 0.05..=20 }\n  b      = \
         1\n}\n",
    );
    stays("objective a {\n  reduce = mean(token) by domain {\n    target = 1/3\n  }\n}\n");
}

#[test]
fn the_axes_of_a_sweep_are_in_columns() {
    becomes("sweep{beta in [ 0,1 ],k in[2]}", "sweep { beta in [0, 1], k in [2] }\n");
    becomes("sweep{beta in [0,1]\nk in [2]}", "sweep {\n  beta in [0, 1]\n  k    in [2]\n}\n");
}

#[test]
fn items_and_statements_of_every_kind() {
    stays(concat!(
        "template worked(exposure: fraction = 1) = \"{prompt}\\n{first(solution, exposure)}\"\n",
        "divergence squeezed(u) = u * log(u) - (1 + u) * log((1 + u) / 2)\n",
        "rollout drafts(n: count = 8) = sample(n: n) |> rewrite(\"a {_}\" -> \"b\")\n",
        "panel duo = debate([big, mid]) { rounds = 2, confidence = integer(0..=100) }\n",
        "teacher insider(exposure: fraction) = self { sees = worked(exposure) }\n",
    ));
    stays(
        "eval a  { prompts = \"x.jsonl\", samples = 16 }\neval bc { prompts = \"y.jsonl\", samples = 1 }\n",
    );
    becomes(
        "model a = train{trains student = b\ntrains guide=b{sees=c}\nstep one{updates=student}\nstep \
         other{updates = guide}}",
        "model a = train {\n  trains student = b\n  trains guide   = b { sees = c }\n  step one   { updates \
         = student }\n  step other { updates = guide }\n}\n",
    );
    becomes(
        "objective a {\nlet x[t in duo]=t.logp\nterm y[t in duo] = x[t]{when=b}\n}",
        "objective a {\n  let x[t in duo] = t.logp\n  term y[t in duo] = x[t] { when = b }\n}\n",
    );
}

#[test]
fn format_accepts_any_depth_and_any_bytes() {
    let nested = |depth: usize| format!("let a = {}1{}\n", "f(".repeat(depth), ")".repeat(depth));
    let broken = format(&nested(120)).text;
    assert!(broken.contains("\n  f("), "{broken}");
    assert_eq!(format(&broken).text, broken);
    for depth in [300, 100_000] {
        assert_eq!(format(&nested(depth)).text, nested(depth), "too deep: left as it is");
    }
    for text in [
        "\u{0}",
        "é",
        "\"",
        "'",
        "{",
        ")",
        "//",
        "/*",
        "#\r",
        "let",
        "\\",
        "\u{1}",
        "let a = \"\r\n",
        "a\u{feff}b",
    ] {
        let once = format(text).text;
        assert_eq!(format(&once).text, once, "{text:?}");
    }
}
