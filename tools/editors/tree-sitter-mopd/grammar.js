/**
 * The grammar of mopd for editors: highlighting, folding, indentation, selections.
 *
 * The language is defined by `lang/grammar.pest` and the layout pass before it; this grammar accepts what they accept and
 * refuses what they refuse (`test/agreement.rs` says with which exceptions). It differs in one thing: precedence is part of
 * the grammar here, while the compiler arranges a flat run of operators afterwards.
 */

/// <reference types="tree-sitter-cli/dsl" />
// @ts-check

/** Words that can't be names. They may follow a dot, and name an argument. */
const RESERVED = [
  "and", "or", "not", "then", "live", "true", "false", "for", "in", "else", "let", "term", "fn", "use", "pub",
];

/** Words that mean something at the beginning of a statement, but may be the name of a setting as well. */
const STATEMENT_WORDS = ["route", "state", "trains", "step"];

const UNITS = ["steps", "step", "epochs", "epoch", "tokens", "token"];

/** From loose to tight, as in `lang/src/syntax/parse/operators.rs`. */
const POWER = {
  for: -1,
  then: 1,
  arrow: 2,
  pipe: 3,
  versus: 4,
  or: 5,
  and: 6,
  not: 7,
  comparison: 8,
  range: 9,
  add: 10,
  multiply: 11,
  negate: 12,
  power: 13,
  live: 14,
  match: 15,
  chain: 20,
};

/** Any word, under the name of what it is there. */
const word = ($, name) => choice(alias($.identifier, name), ...RESERVED.map((reserved) => alias(reserved, name)));

const parenthesised = ($, rule) => seq(alias($._open_paren, "("), rule, alias($._close_paren, ")"));
const bracketed = ($, rule) => seq(alias($._open_bracket, "["), rule, alias($._close_bracket, "]"));
const braced = ($, rule) => seq(alias($._open_brace, "{"), rule, alias($._close_brace, "}"));

const listed = (rule) => optional(seq(rule, repeat(seq(",", rule)), optional(",")));

/** `{ ... }` with entries that end at a newline or a comma. */
const entries = ($, rule) =>
  braced(
    $,
    seq(repeat($._separator), optional(seq(rule, repeat(seq(repeat1($._separator), rule)), repeat($._separator)))),
  );

/** A sign or word after which a line goes on. */
const runsOn = ($, sign) => seq(sign, repeat($._continued));

module.exports = grammar({
  name: "mopd",

  word: ($) => $.identifier,

  // Newlines and the brackets on which their meaning depends: see `src/scanner.c`.
  externals: ($) => [
    $._newline, // Ends an item or entry.
    $._continued, // After an operator.
    $._blank_newline, // Inside parentheses and square brackets.
    $._open_paren,
    $._close_paren,
    $._open_bracket,
    $._close_bracket,
    $._open_brace,
    $._close_brace,
    $._in_lines, // Never found: tells the scanner that newlines are a text's.
  ],

  extras: ($) => [/[ \t\r\f\uFEFF]/, $._blank_newline, $.module_comment, $.doc_comment, $.comment],

  reserved: {
    global: () => RESERVED,
  },

  // Before a `by` it isn't known yet which of the two a state's value is.
  conflicts: ($) => [[$.expression, $._state_value]],

  supertypes: ($) => [$.item, $.importable_item, $.statement, $.expression],

  rules: {
    source_file: ($) =>
      seq(repeat($._newline), optional(seq($._item, repeat(seq(repeat1($._newline), $._item)), repeat($._newline)))),

    // In this order: of equal matches the first rule's is taken. `////` is longest as a plain comment.
    module_comment: () => /\/\/![^\n]*/,
    doc_comment: () => /\/\/\/([^\/\n][^\n]*)?/,
    comment: () => /\/\/[^\n]*/,

    _separator: ($) => choice($._newline, ","),

    // ---- Items ----

    _item: ($) => choice($.item, seq("pub", $.importable_item)),

    item: ($) =>
      choice($.use_item, $.experiment_item, $.compare_item, $.route_item, $.sweep_item, $.importable_item),

    importable_item: ($) =>
      choice(
        $.param_item,
        $.let_item,
        $.fn_item,
        $.domain_item,
        $.reward_item,
        $.schedule_item,
        $.model_item,
        $.teacher_item,
        $.stage_item,
        $.objective_item,
        $.template_item,
        $.divergence_item,
        $.sum_item,
        $.rollout_item,
        $.panel_item,
        $.eval_item,
      ),

    use_item: ($) =>
      seq(
        "use",
        choice(
          seq(
            field("path", $._word),
            choice(seq(repeat1($._path_step), optional(seq(".", field("names", $.use_list)))), seq(".", field("names", $.use_list))),
          ),
          seq(field("path", $.string), choice($._path_step, seq(".", field("names", $.use_list)))),
        ),
      ),
    _path_step: ($) => seq(".", field("path", $._word)),
    use_list: ($) => entries($, $._word),

    experiment_item: ($) => seq("experiment", field("name", $.string), field("body", $.block)),
    compare_item: ($) => seq("compare", field("name", $.string), field("body", $.block)),
    eval_item: ($) => seq("eval", $._block_or_changed),
    domain_item: ($) => seq("domain", repeat(seq(field("name", $.identifier), runsOn($, ","))), $._block_or_changed),
    _block_or_changed: ($) =>
      seq(
        field("name", $.identifier),
        optional(seq(runsOn($, "="), field("base", $.identifier), "with")),
        field("body", $.block),
      ),
    objective_item: ($) =>
      seq("objective", field("name", $.identifier), field("parameters", optional($.parameters)), field("body", $.block)),

    param_item: ($) => seq("param", $.parameter),
    let_item: ($) => seq("let", field("name", $.identifier), optional($.family), optional($._declared_type), $._value),
    fn_item: ($) => seq("fn", field("name", $.identifier), field("parameters", $.parameters), $._value),
    reward_item: ($) => seq("reward", $._binding),
    schedule_item: ($) => seq("schedule", $._binding),
    model_item: ($) => seq("model", $._family_binding),
    panel_item: ($) => seq("panel", $._binding),
    stage_item: ($) => seq("stage", $._function_binding),
    template_item: ($) => seq("template", $._function_binding),
    rollout_item: ($) => seq("rollout", $._function_binding),
    divergence_item: ($) =>
      seq(
        "divergence",
        field("name", $.identifier),
        field("parameters", choice($.parameters, alias($.sided_parameters, $.parameters))),
        $._value,
      ),
    sum_item: ($) => seq("sum", field("name", $.identifier), field("parameters", $.parameters), $._value),
    teacher_item: ($) =>
      seq(
        "teacher",
        field("name", $.identifier),
        optional(choice(repeat1($.family), field("parameters", $.parameters))),
        $._value,
      ),
    route_item: ($) => seq("route", field("body", $.arms)),
    sweep_item: ($) => seq("sweep", field("body", $.axes)),
    axes: ($) => entries($, $.axis),
    axis: ($) => seq(field("name", $.identifier), "in", field("values", choice($.named_values, $.expression))),

    _binding: ($) => seq(field("name", $.identifier), $._value),
    _family_binding: ($) => seq(field("name", $.identifier), repeat($.family), $._value),
    _function_binding: ($) => seq(field("name", $.identifier), field("parameters", optional($.parameters)), $._value),

    // In a block a comma ends the entry, so there a `where` has one binding.
    _value: ($) => seq(runsOn($, "="), field("value", $.expression), optional(choice($.by_tail, $.where_tail))),
    _inner_value: ($) =>
      seq(runsOn($, "="), field("value", $.expression), optional(choice($.by_tail, alias($.one_where, $.where_tail)))),
    // `= a by domain then b`: `by` follows the first value, which therefore has no `then` of its own.
    _state_value: ($) =>
      seq(
        runsOn($, "="),
        choice(
          seq(field("value", $.expression), optional(choice($.by_tail, alias($.one_where, $.where_tail)))),
          seq(field("value", $._condition), $.each_tail),
        ),
      ),
    each_tail: ($) =>
      seq("by", field("by", $.identifier), optional(seq(runsOn($, "then"), field("next", $.expression)))),
    by_tail: ($) => seq("by", field("by", $.identifier), field("body", $.block)),
    where_tail: ($) => seq(runsOn($, "where"), $.where_binding, repeat(seq(",", repeat($._newline), $.where_binding))),
    one_where: ($) => seq(runsOn($, "where"), $.where_binding),
    where_binding: ($) => seq(field("name", $.identifier), runsOn($, "="), field("value", $.expression)),

    family: ($) =>
      bracketed($, seq(field("name", $.identifier), "in", field("over", choice($.named_values, $.expression)))),
    named_values: ($) => entries($, $.named_value),
    named_value: ($) => seq(field("name", $.identifier), runsOn($, ":"), field("value", $.expression)),
    parameters: ($) => parenthesised($, listed($.parameter)),
    // `(p || q, a: fraction)`: the sides of a divergence whose order matters.
    sided_parameters: ($) =>
      parenthesised($, seq($.parameter, runsOn($, "||"), $.parameter, repeat(seq(",", $.parameter)), optional(","))),
    _declared_type: ($) => seq(":", field("type", word($, $.type))),
    parameter: ($) =>
      seq(
        field("name", $.identifier),
        optional($._declared_type),
        optional(seq(runsOn($, "="), field("default", $.expression))),
      ),

    // ---- Blocks ----

    block: ($) => entries($, $.statement),

    statement: ($) =>
      choice(
        $.let_statement, $.state_statement, $.term_statement, $.route_statement, $.trains_statement, $.step_statement,
        $.entry,
      ),

    let_statement: ($) =>
      seq("let", field("name", $.identifier), optional($.family), optional($._declared_type), $._inner_value),
    state_statement: ($) => seq("state", field("name", $.identifier), optional($.family), $._state_value),
    term_statement: ($) => seq("term", field("name", $.identifier), optional($.family), $._inner_value),
    trains_statement: ($) => seq("trains", field("name", $.identifier), $._inner_value),
    step_statement: ($) => seq("step", field("name", $.identifier), field("body", $.block)),
    route_statement: ($) => seq("route", field("body", $.arms)),

    entry: ($) => seq(field("key", $._key), $._inner_value, repeat($.mark)),
    mark: ($) => seq("@", field("name", word($, $.mark_name)), optional(parenthesised($, $.string))),

    arms: ($) => entries($, $.arm),
    arm: ($) =>
      seq(
        optional($.for_head),
        field("condition", choice($.else, $._condition)),
        runsOn($, "->"),
        field("value", $.expression),
      ),
    match_arms: ($) => entries($, alias($.match_arm, $.arm)),
    match_arm: ($) =>
      seq(
        field("condition", choice($.else, $._condition)),
        runsOn($, "->"),
        field("value", $.expression),
        optional(choice($.by_tail, alias($.one_where, $.where_tail))),
        repeat($.mark),
      ),
    else: () => "else",

    // ---- Expressions ----

    expression: ($) => choice($.then_expression, $.arrow_expression, $.for_expression, $._condition),

    // What may stand left of the arrow of an arm.
    _condition: ($) => choice($.pipe_expression, $.versus_expression, $._logic),
    _logic: ($) => choice($.or_expression, $.and_expression, $.comparison_expression, $._tight),
    _tight: ($) => choice($.range_expression, $._arithmetic),
    _arithmetic: ($) =>
      choice(
        $.not_expression,
        $.arithmetic_expression,
        $.negation,
        $.live_expression,
        $._chain,
      ),

    for_expression: ($) => prec.right(POWER.for, seq($.for_head, field("body", $.expression))),
    for_head: ($) =>
      seq(
        runsOn($, "for"),
        field("name", $.identifier),
        "in",
        field("over", $._condition),
        optional(seq(",", field("carried", $.identifier), runsOn($, "="), field("start", $._condition))),
        runsOn($, ":"),
      ),

    then_expression: ($) =>
      prec.left(POWER.then, seq(field("first", $.expression), runsOn($, "then"), field("second", $.expression))),
    // Once: `a -> b -> c` is none.
    arrow_expression: ($) => prec(POWER.arrow, seq(field("from", $._condition), runsOn($, "->"), field("to", $._condition))),

    pipe_expression: ($) => prec.left(POWER.pipe, seq(field("left", $._condition), runsOn($, "|>"), field("right", $._condition))),
    // Once, like comparisons.
    versus_expression: ($) => prec(POWER.versus, seq(field("left", $._logic), runsOn($, "||"), field("right", $._logic))),
    or_expression: ($) => prec.left(POWER.or, seq(field("left", $._logic), runsOn($, "or"), field("right", $._logic))),
    and_expression: ($) => prec.left(POWER.and, seq(field("left", $._logic), runsOn($, "and"), field("right", $._logic))),
    not_expression: ($) => prec(POWER.not, seq(runsOn($, "not"), field("operand", $._logic))),
    comparison_expression: ($) =>
      prec(
        POWER.comparison,
        seq(
          field("left", $._tight),
          field("operator", choice("==", "!=", "<=", ">=", "<", ">")),
          repeat($._continued),
          field("right", $._tight),
        ),
      ),
    range_expression: ($) =>
      prec(POWER.range, seq(field("first", $._arithmetic), runsOn($, "..="), field("last", $._arithmetic))),
    arithmetic_expression: ($) =>
      choice(
        ...[
          [prec.left, POWER.add, choice("+", "-")],
          [prec.left, POWER.multiply, choice("*", "/")],
          [prec.right, POWER.power, "^"],
        ].map(([fix, power, operator]) =>
          fix(power, seq(field("left", $._arithmetic), field("operator", operator), repeat($._continued), field("right", $._arithmetic))),
        ),
      ),
    negation: ($) => prec(POWER.negate, seq(runsOn($, "-"), field("operand", $._arithmetic))),
    live_expression: ($) => prec(POWER.live, seq(runsOn($, "live"), field("operand", $._arithmetic))),

    _chain: ($) =>
      choice(
        $.call,
        $.application,
        $.changed,
        $.index,
        $.field,
        $.quantity,
        $.number,
        $.malformed_number,
        $.string,
        $.list,
        $.parenthesised,
        $.match_expression,
        $.boolean,
        $.identifier,
        $.settings,
      ),

    call: ($) => prec(POWER.chain, seq(field("function", $._chain), field("arguments", $.arguments))),
    // `llama { ... }`, `sft(base, on: d) { ... }`
    application: ($) => prec(POWER.chain, seq(field("constructor", $._chain), field("body", $.block))),
    // `student with { lr = 1e-4 }`, `student with quick`
    changed: ($) =>
      prec(
        POWER.chain,
        seq(field("base", $._chain), "with", choice(field("body", $.block), field("settings", $.identifier))),
      ),
    // `{ lr = 1e-4 }` that follows nothing
    settings: ($) =>
      braced(
        $,
        seq(repeat($._separator), $.statement, repeat(seq(repeat1($._separator), $.statement)), repeat($._separator)),
      ),
    index: ($) => prec(POWER.chain, seq(field("of", $._chain), bracketed($, field("index", $.expression)))),
    field: ($) => prec(POWER.chain, seq(field("of", $._chain), ".", field("name", word($, $.field_name)))),

    arguments: ($) => parenthesised($, listed($.argument)),
    argument: ($) => seq(optional(seq(field("name", word($, $.label)), runsOn($, ":"))), field("value", $.expression)),

    list: ($) => bracketed($, listed($.expression)),
    parenthesised: ($) => parenthesised($, $.expression),
    match_expression: ($) => prec(POWER.match, seq("match", field("body", alias($.match_arms, $.arms)))),

    quantity: ($) => seq(field("value", $.number), field("unit", $.unit)),
    number: () => /[0-9]+(_[0-9]+)*(\.[0-9]+(_[0-9]+)*)?([eE][+-]?[0-9]+(_[0-9]+)*)?%?/,
    unit: () => choice(...UNITS),
    // `5steps`, `0x1F`, `1.e-3`: one token, as for the compiler, and no number. What it needs to be whole stands in no file.
    malformed_number: () => seq(/[0-9]([0-9_]|\.[0-9])*([A-Za-z]|\.[eE][+-]?[0-9])([A-Za-z0-9_]|\.[0-9]|[eE][+-][0-9])*/, "\u0001"),

    boolean: () => choice("true", "false"),

    string: ($) =>
      choice(
        seq('"', repeat(choice($._text, $.escape, $.slot)), token.immediate('"')),
        // The closing quotes are the first on their line.
        seq('"""', repeat(choice($._lines, $.escape, $.slot, $._in_lines)), token.immediate(prec(3, /\r?\n[ \t]*"""/))),
      ),
    _text: () => token.immediate(prec(2, choice(/[^"\\{\n]+/, "{"))),
    _lines: () => token.immediate(prec(2, choice(/[^\\{\n]+/, "{", "\n"))),
    escape: () => token.immediate(prec(2, /\\[nt"\\\n]/)),
    // Filled in where the text is a template. A pattern's `{3}` is none.
    slot: () => token.immediate(prec(2, /\{[A-Za-z_][^{}"\\\n]*\}/)),

    // ---- Words ----

    identifier: () => /[A-Za-z_][A-Za-z0-9_]*/,
    _key: ($) => choice($.identifier, ...STATEMENT_WORDS.map((word) => alias(word, $.identifier))),
    _word: ($) => word($, $.identifier),
  },
});
