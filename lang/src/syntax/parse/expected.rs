//! The grammar's expectations in words, for messages.

use super::Rule;

/// The most alternatives that one message lists.
const MOST: usize = 5;

/// The name of a rule in a message. `None` where it would not help.
fn word(rule: Rule) -> Option<&'static str> {
    Some(match rule {
        Rule::EOI => "the end of the line",
        Rule::item => "an item such as `model` or `domain`",
        Rule::statement | Rule::entry => "a setting such as `steps = 100`",
        Rule::arm => "an arm such as `domain == d -> teacher`",
        Rule::match_arm => "an arm such as `correct -> 1`",
        Rule::block | Rule::arms | Rule::match_arms | Rule::axes | Rule::open_brace => "`{`",
        Rule::use_list => "`{`",
        Rule::call | Rule::parameters | Rule::sided_parameters | Rule::open_paren => "`(`",
        Rule::family | Rule::index | Rule::open_bracket => "`[`",
        Rule::name | Rule::key => "a name",
        Rule::word => "a word",
        Rule::type_name => "a type such as `count`",
        Rule::string => "a text in double quotes",
        Rule::number | Rule::number_literal => "a number",
        Rule::expression
        | Rule::condition
        | Rule::chain
        | Rule::value
        | Rule::inner_value
        | Rule::argument
        | Rule::list
        | Rule::parenthesised => "a value",
        Rule::for_expression | Rule::boolean | Rule::prefix | Rule::live_operator | Rule::not_operator => {
            "a value"
        }
        Rule::parameter => "a parameter",
        Rule::infix | Rule::plain_infix => "an operator",
        Rule::then_operator | Rule::or_operator | Rule::and_operator | Rule::equal | Rule::not_equal => {
            "an operator"
        }
        Rule::less | Rule::less_equal | Rule::greater | Rule::greater_equal => "an operator",
        Rule::plus
        | Rule::minus
        | Rule::power
        | Rule::multiply
        | Rule::divide
        | Rule::versus
        | Rule::pipe
        | Rule::range => "an operator",
        Rule::arrow | Rule::leads_to => "`->`",
        Rule::equals | Rule::assign => "`=`",
        Rule::colon => "`:`",
        Rule::comma | Rule::list_separator => "`,`",
        Rule::dot | Rule::field => "`.`",
        Rule::close_paren => "`)`",
        Rule::close_bracket => "`]`",
        Rule::close_brace => "`}`",
        Rule::kw_in | Rule::axis_sign => "`in`",
        Rule::kw_for | Rule::for_head => "`for`",
        Rule::kw_else => "`else`",
        _ => return None,
    })
}

/// At most [`MOST`] alternatives, the most informative first: closing brackets and signs, then words, then
/// operators.
pub fn alternatives(rules: &[Rule], in_block: bool) -> Vec<&'static str> {
    let mut words: Vec<&'static str> = rules.iter().filter_map(|rule| word(*rule)).collect();
    if in_block && rules.contains(&Rule::EOI) {
        words.push("`,`");
    }
    words.sort_by_key(|word| (rank(word), *word));
    words.dedup();
    // Where an operator may follow, the other continuations of an expression add nothing.
    if words.contains(&"an operator") {
        words.retain(|word| !matches!(*word, "`(`" | "`[`" | "`{`" | "`.`" | "`:`" | "`=`"));
    }
    if words.contains(&"a value") {
        words.retain(|word| {
            !matches!(
                *word,
                "a word"
                    | "a name"
                    | "a number"
                    | "a text in double quotes"
                    | "`[`"
                    | "`(`"
                    | "`{`"
                    | "`for`"
            )
        });
    }
    if words.contains(&"`=`") {
        words.retain(|word| !matches!(*word, "`(`" | "`[`"));
    }
    if words.contains(&"a name") {
        words.retain(|word| *word != "a word");
    }
    words.truncate(MOST);
    words
}

fn rank(word: &str) -> u8 {
    match word {
        "an operator" => 3,
        "the end of the line" => 2,
        _ if word.starts_with('`') => 0,
        _ => 1,
    }
}

/// `a`, `a or b`, `a, b or c`
pub fn list(words: &[&str]) -> String {
    match words {
        [] => "something else".to_owned(),
        [word] => (*word).to_owned(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}
