//! Links from a text to files, modules and papers. They are found by tokens, so that half-typed text has
//! them, too.

use super::ENTRY;
use crate::check::Analysis;
use crate::check::index::NameTarget;
use crate::source::FileId;
use crate::syntax::tokens::{TokenKind, lex};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A text, or a word of one, that may name a file, relative to the file it is in. The host checks whether
    /// it exists.
    File(String),
    /// The module that a `use` names.
    Module(FileId),
    /// An identifier on arXiv: `2606.30406`, perhaps with a version.
    Paper(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub start: u32,
    pub end: u32,
    pub to: Destination,
}

/// Every link of the entry file, in order. Candidates for files may overlap: a whole text precedes its
/// words.
pub fn links(source: &str, analysis: &Analysis) -> Vec<Link> {
    let mut found: Vec<Link> = Vec::new();
    let link = |start: usize, end: usize, to| Link { start: start as u32, end: end as u32, to };
    for token in lex(source) {
        let text = token.text(source);
        match token.kind {
            TokenKind::Comment | TokenKind::Doc => found.extend(papers(token.start, text)),
            TokenKind::Text | TokenKind::OpenText => {
                found.extend(papers(token.start, text));
                let Some(inside) = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) else {
                    continue;
                };
                // Paths contain no escapes.
                if inside.is_empty() || inside.contains('\\') {
                    continue;
                }
                let start = token.start + 1;
                found.push(link(start, start + inside.len(), Destination::File(inside.to_owned())));
                // `judge.py:score`
                if let Some((file, _)) = inside.rsplit_once(':').filter(|(file, _)| file.ends_with(".py")) {
                    found.push(link(start, start + file.len(), Destination::File(file.to_owned())));
                }
                // A command: the script is a word with an extension or a folder.
                let words = inside.split(' ').filter(|word| *word != inside && word.contains(['.', '/']));
                found.extend(words.map(|word| {
                    let at = start + (word.as_ptr() as usize - inside.as_ptr() as usize);
                    link(at, at + word.len(), Destination::File(word.to_owned()))
                }));
            }
            _ => {}
        }
    }
    found.extend(analysis.index.uses_in(ENTRY).iter().filter_map(|a_use| match a_use.target {
        NameTarget::Module(file) => {
            Some(Link { start: a_use.span.start, end: a_use.span.end, to: Destination::Module(file) })
        }
        _ => None,
    }));
    found.sort_by_key(|link| (link.start, std::cmp::Reverse(link.end)));
    found
}

/// `arXiv:2606.30406v2`: identifiers in the format used since 2007.
fn papers(offset: usize, text: &str) -> impl Iterator<Item = Link> {
    const PREFIX: &str = "arxiv:";
    let lower = text.to_ascii_lowercase();
    let places: Vec<usize> = lower.match_indices(PREFIX).map(|(at, _)| at).collect();
    places.into_iter().filter_map(move |at| {
        let digits = |from: usize| lower[from..].bytes().take_while(u8::is_ascii_digit).count();
        let id = at + PREFIX.len() + usize::from(lower[at + PREFIX.len()..].starts_with(' '));
        let number = id + 5;
        if digits(id) != 4 || !lower[id + 4..].starts_with('.') || !(4..=5).contains(&digits(number)) {
            return None;
        }
        let mut end = number + digits(number);
        if lower[end..].starts_with('v') && digits(end + 1) > 0 {
            end += 1 + digits(end + 1);
        }
        let to = Destination::Paper(lower[id..end].to_owned());
        Some(Link { start: (offset + at) as u32, end: (offset + end) as u32, to })
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::check;
    use super::*;

    #[test]
    fn files_modules_and_papers_are_links() {
        let text = "// é arXiv:2606.30406v12, arXiv: 2402.0330 and arxiv:26, 1234.56789\nuse \
                    std.opd.mopd\ndomain a { prompts = \"data/a b.jsonl\", reward = command(\"python3 \
                    ./verify.py\") }\nlet x = \"a\\n.b\"\nlet y = \"open.";
        let found = links(text, &check(text));
        let shown: Vec<(&str, &Destination)> =
            found.iter().map(|link| (&text[link.start as usize..link.end as usize], &link.to)).collect();
        let file = |name: &str| Destination::File(name.to_owned());
        let paper = |id: &str| Destination::Paper(id.to_owned());
        let [first, second, module, rest @ ..] = shown.as_slice() else { panic!("{shown:?}") };
        assert_eq!(*first, ("arXiv:2606.30406v12", &paper("2606.30406v12")));
        assert_eq!(*second, ("arXiv: 2402.0330", &paper("2402.0330")));
        assert!(module.0 == "std.opd" && matches!(module.1, Destination::Module(_)), "{module:?}");
        let files = ["data/a b.jsonl", "data/a", "b.jsonl", "python3 ./verify.py", "./verify.py"];
        assert_eq!(rest, files.map(|name| (name, file(name))).each_ref().map(|(name, to)| (*name, to)));
    }
}
