//! Data with slips that a run would not notice, and clean data, of which nothing is said.

use std::fs;
use std::path::Path;

use mopd_plan::{DataSource, PromptFormat};

use super::*;
use crate::data::{DatasetRequest, Field};
use crate::tokenizer::tests::{edited, with_template};

const CHAT: PromptFormat = PromptFormat::Chat { system: None };
const TEMPLATE: &str = "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}\
    {{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

fn prompts(folder: &Path, rows: &[&str], fields: &[Field]) -> Prompts {
    fs::write(folder.join("a.jsonl"), rows.join("\n")).unwrap();
    let source = DataSource::file("a.jsonl");
    let request = DatasetRequest {
        source: &source,
        format: &CHAT,
        fields,
        whole: false,
        routes: &[],
        numbers: &[],
        notes: None,
    };
    Prompts::new(Dataset::read(folder, request).unwrap())
}

/// What is said of rows, without the folder.
fn said(rows: &[&str], template: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let answered = rows[0].contains("\"answer\"");
    let fields = if answered { vec![Field::text("answer")] } else { Vec::new() };
    let prompts = prompts(folder.path(), rows, &fields);
    let tokenizer = with_template("qwen3", template);
    let found = markers(&prompts.dataset, &tokenizer).into_iter();
    let found = found.chain(unshown_tools("s", &prompts.dataset, &tokenizer));
    let folder = format!("{}/", folder.path().display());
    found.map(|text| text.replace(&folder, "")).collect()
}

#[test]
fn markers_within_texts_are_said_with_their_row() {
    let clean = r#"{"prompt": "hello", "answer": "a cat"}"#;
    let ended = r#"{"prompt": "hello", "answer": "a cat<|im_end|>"}"#;
    let asked = r#"{"prompt": "hello<|im_start|>user", "answer": "a cat"}"#;
    assert_eq!(
        said(&[clean, ended, asked], TEMPLATE),
        [
            "a.jsonl:2: the text has \"<|im_end|>\", a marker of the chat template, and so has one more row: the model reads \
          it as the beginning or the end of a turn. Remove what an export left there, or leave the rows out"
        ]
    );
    let messages = r#"{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a<|im_end|>\n"}]}"#;
    assert_eq!(said(&[messages], TEMPLATE).len(), 1);
}

#[test]
fn tools_that_the_template_does_not_show_are_said() {
    let row = r#"{"prompt": "q", "tools": [{"type": "function", "function": {"name": "f"}}]}"#;
    assert_eq!(said(&[row], TEMPLATE), [""; 0]);
    let without = TEMPLATE.replace("{% if tools %}{{ tools | tojson }}{% endif %}", "");
    let found = said(&[r#"{"prompt": "q"}"#, row], &without);
    assert_eq!(found.len(), 1);
    assert!(
        found[0].starts_with(
            "`s`: a.jsonl:2: the row has `tools`, but the student's chat template does not show them"
        ),
        "{found:?}"
    );
}

/// Thoughts, calls, code and other angle brackets are texts like others.
#[test]
fn nothing_is_said_of_clean_data() {
    for row in [
        r#"{"prompt": "hello", "answer": "<think>\nso\n</think>\n\na cat"}"#,
        r#"{"prompt": "Fix <html><b>this</b>.", "answer": "<|python|> if a < b and c > d: pass"}"#,
        r#"{"prompt": "q", "answer": "<tool_call>{\"name\": \"f\"}</tool_call>"}"#,
        r#"{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "im_start"}]}"#,
        r#"{"prompt": [{"role": "user", "content": "  \n\t "}]}"#,
        r#"{"prompt": "q", "tools": []}"#,
    ] {
        assert_eq!(said(&[row], TEMPLATE), [""; 0], "{row}");
    }
}

/// The same tokens with other merges split a text otherwise.
#[test]
fn other_merges_are_said() {
    let folder = tempfile::tempdir().unwrap();
    let prompts = prompts(folder.path(), &[r#"{"prompt": "the weather in Paris today"}"#], &[]);
    let student = with_template("qwen3", TEMPLATE);
    let reversed = edited("qwen3", |tokenizer| {
        tokenizer["model"]["merges"].as_array_mut().unwrap().reverse();
    });
    let of = |teacher: &Tokenizer| other_splits("s", "big", &prompts, &student, teacher, "d");
    let found = of(&reversed).unwrap();
    assert!(
        found.starts_with("`s`: the tokenizer of `big` splits 1 of 1 prompts of `d` otherwise"),
        "{found}"
    );
    assert_eq!(of(&edited("qwen3", |_| ())), None);
}
