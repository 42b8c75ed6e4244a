//! The names that are declared before and around the cursor. They are found by tokens, so that they are known
//! while the file does not parse.

use super::context::CompletionContext;
use crate::check::index::SymbolKind;
use crate::syntax::tokens::TokenKind;
use crate::syntax::words;

pub struct LocalName<'a> {
    pub name: &'a str,
    pub kind: SymbolKind,
    /// Visible only in the item around the cursor.
    pub local: bool,
}

/// The file's own items, then the locals at the cursor, without imported names.
pub fn declared<'a>(context: &CompletionContext<'a>) -> Vec<LocalName<'a>> {
    let mut found = items(context);
    locals(context, &mut found);
    found
}

fn items<'a>(context: &CompletionContext<'a>) -> Vec<LocalName<'a>> {
    let mut found = Vec::new();
    let tokens = &context.tokens;
    for (index, pair) in tokens.windows(2).enumerate() {
        let [keyword, name] = pair else { continue };
        if name.kind != TokenKind::Word || index == context.cut || index + 1 == context.cut {
            continue;
        }
        let first = if index > 0 && context.text(index - 1) == "pub" { index - 1 } else { index };
        // The item that is being declared can't be used yet.
        if first == context.item {
            continue;
        }
        let at_margin =
            tokens[first].start == 0 || context.source.as_bytes()[tokens[first].start - 1] == b'\n';
        let name = name.text(context.source);
        if let Some(kind) =
            item_kind(keyword.text(context.source)).filter(|_| at_margin && !words::RESERVED.contains(&name))
        {
            found.push(LocalName { name, kind, local: false });
        }
    }
    found
}

fn item_kind(keyword: &str) -> Option<SymbolKind> {
    Some(match keyword {
        "param" => SymbolKind::Param,
        "let" => SymbolKind::Let,
        "fn" => SymbolKind::Fn,
        "domain" => SymbolKind::Domain,
        "reward" => SymbolKind::Reward,
        "schedule" => SymbolKind::Schedule,
        "model" => SymbolKind::Model,
        "teacher" => SymbolKind::Teacher,
        "template" => SymbolKind::Template,
        "rollout" => SymbolKind::Rollout,
        "divergence" => SymbolKind::Divergence,
        "panel" => SymbolKind::Panel,
        "eval" => SymbolKind::Eval,
        "stage" => SymbolKind::Stage,
        "objective" => SymbolKind::Objective,
        _ => return None,
    })
}

fn locals<'a>(context: &CompletionContext<'a>, found: &mut Vec<LocalName<'a>>) {
    let words: Vec<usize> =
        (context.item..context.cut).filter(|at| context.tokens[*at].kind != TokenKind::Newline).collect();
    let text = |at: usize| words.get(at).map_or("", |index| context.text(*index));
    let is_word =
        |at: usize| words.get(at).is_some_and(|index| context.tokens[*index].kind == TokenKind::Word);
    let mut add = |name: &'a str, kind| found.push(LocalName { name, kind, local: true });
    let statement = context.statement();
    let head = usize::from(text(0) == "pub");
    let mut body = 0;
    if words::PARAMETRIC.contains(&text(head)) && text(head + 2) == "(" {
        let mut depth = 0;
        for at in head + 2..words.len() {
            match text(at) {
                "(" | "[" => depth += 1,
                ")" | "]" => depth -= 1,
                _ if depth == 1 && is_word(at) && matches!(text(at - 1), "(" | ",") => {
                    add(text(at), SymbolKind::Parameter)
                }
                _ => {}
            }
            body = at;
            if depth == 0 {
                break;
            }
        }
    }
    for at in body.max(head + 1)..words.len() {
        if !is_word(at) || at == 0 {
            continue;
        }
        match text(at - 1) {
            "let" if matches!(text(at + 1), "=" | "[") && at > head + 1 && words[at - 1] != statement => {
                add(text(at), SymbolKind::LocalLet)
            }
            // The next value of a state may read the state.
            "state"
                if text(at + 1) == "="
                    && (words[at - 1] != statement
                        || (at..words.len()).any(|later| text(later) == "then")) =>
            {
                add(text(at), SymbolKind::State)
            }
            "trains" if text(at + 1) == "=" => add(text(at), SymbolKind::Trained),
            "where" if text(at + 1) == "=" => add(text(at), SymbolKind::Where),
            "for" => add(text(at), SymbolKind::Turn),
            "[" if text(at + 1) == "in" => add(text(at), SymbolKind::Turn),
            "," if at >= 5 && text(at - 5) == "for" && text(at + 1) == "=" => {
                add(text(at), SymbolKind::Carried)
            }
            _ => {}
        }
    }
}
