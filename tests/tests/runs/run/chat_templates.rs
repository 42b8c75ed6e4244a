//! Chat templates that an experiment names where a model is loaded.

use std::fs;

use super::{Bench, assert_says, report_page, text};

const TEMPLATE: &str = "{%- for m in messages %}{%- if m.role == 'assistant' %}<|im_start|>assistant
{% if enable_thinking is defined and enable_thinking is false %}<think></think>
{% endif %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}
{% else %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endif %}{%- endfor %}{%- if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and enable_thinking is false %}<think></think>
{% endif %}{%- endif %}";

/// A model under the tokenizer of a published one, which thinks between two answers only if it is told to.
fn bench() -> Bench {
    let bench = Bench::new();
    fs::create_dir_all(bench.path("qwen3")).expect("a folder");
    for file in fs::read_dir(mopd_tests::root().join("tests/reference/text/qwen3")).expect("a tokenizer") {
        let file = file.expect("a file");
        fs::copy(file.path(), bench.path("qwen3").join(file.file_name())).expect("a copy");
    }
    let row = |a: u32| {
        let said = [("user", a), ("assistant", a + 1), ("user", a + 2), ("assistant", a + 3)];
        let said = said.map(|(role, text)| format!("{{\"role\": \"{role}\", \"content\": \"{text}\"}}"));
        format!("{{\"messages\": [{}]}}\n", said.join(", "))
    };
    bench.write("sums.jsonl", &(0..8).map(row).collect::<String>());
    bench.write("copy.jsonl", "{\"prompt\": \"1\", \"answer\": \"1\"}\n");
    bench.write("training.jinja", TEMPLATE);
    bench.write(
        "tiny.mopd",
        "experiment \"first\" { seed = 1 }
domain copy { prompts = \"copy.jsonl\", reward = numeric }
model base = llama { layers = 1, width = 16, heads = 2, context = 128, tokenizer = \"qwen3\" }
model start = sft(base, on: domains) { target = answer, steps = 1, batch = 2, lr = 1e-3 }
",
    );
    let made = bench.run(&["--out", "first"]);
    assert!(made.status.success(), "{}", text(&made));
    bench
}

fn trained_from(bench: &Bench, settings: &str) {
    bench.write(
        "tiny.mopd",
        &format!(
            "experiment \"second\" {{ seed = 1 }}
domain sums {{ prompts = \"sums.jsonl\", format = chat, reward = regex(\".\") }}
model base = checkpoint(\"first/models/start-seed1\"{settings})
model tuned = sft(base, on: domains) {{ target = messages, steps = 1, batch = 2, lr = 1e-3 }}
"
        ),
    );
}

#[test]
fn a_template_named_by_an_experiment_trains_what_the_models_own_cannot() {
    let bench = bench();
    trained_from(&bench, "");
    assert_says(&bench.fails(&[]), &["is not a prefix of its output", "chat_template: \"chat.jinja\""]);
    trained_from(&bench, ", chat_template: \"training.jinja\", enable_thinking: false");
    // The stages that are computed: to open the model's files, and to train.
    let run = || {
        let output = bench.run(&["--out", "second", "--format", "json"]);
        assert!(output.status.success(), "{}", text(&output));
        String::from_utf8_lossy(&output.stdout).matches("\"stage_started\"").count()
    };
    assert_eq!(run(), 2);
    // The student has the template, and says itself that it does not think.
    let saved = bench.path("second/models/tuned-seed1/chat_template.jinja");
    let says = "{% set enable_thinking = enable_thinking if enable_thinking is defined else false %}\n";
    assert_eq!(fs::read_to_string(saved).expect("a template"), format!("{says}{TEMPLATE}"));
    // Its text is in the key, and where it is, is not.
    assert_eq!(run(), 1);
    fs::rename(bench.path("training.jinja"), bench.path("moved.jinja")).expect("moving a file");
    bench.edit("tiny.mopd", "training.jinja", "moved.jinja");
    assert_eq!(run(), 1);
    bench.edit("moved.jinja", "</think>", " </think>");
    assert_eq!(run(), 2);
    bench.edit("tiny.mopd", "moved.jinja", "none.jinja");
    assert_says(&bench.fails(&[]), &["none.jinja: there is no such file", "model base"]);
    bench.write("none.jinja", "{{ messages[0].content }}");
    assert_says(&bench.fails(&[]), &["the chat template does not read `enable_thinking`", "leave"]);
}

/// The marks of a template are not what a user asked: samples and answers have the words alone.
#[test]
fn a_page_shows_the_words_of_a_chat() {
    let bench = bench();
    let row = |a: u32| format!("{{\"prompt\": \"after {a}?\", \"answer\": \"{}\"}}\n", a + 1);
    bench.write("talk.jsonl", &(0..4).map(row).collect::<String>());
    bench.write("talk.test.jsonl", &(4..6).map(row).collect::<String>());
    bench.write(
        "tiny.mopd",
        "experiment \"chat\" { seed = 1 }
domain talk { prompts = \"talk.jsonl\", tests = \"talk.test.jsonl\", format = chat, reward = numeric }
model base = checkpoint(\"first/models/start-seed1\")
model tuned = sft(base, on: domains) { target = answer, steps = 1, batch = 2, lr = 1e-3 }
compare \"chat\" { models = [tuned], samples = 1, temperature = 0, max_tokens = 4 }
",
    );
    bench.tables("chat", &[]);
    let data = report_page(bench.folder.path(), "chat");
    let stages = data["stages"].as_array().expect("stages");
    let samples = stages[1]["samples"].as_array().expect("samples");
    assert!(!samples.is_empty());
    for sample in samples {
        let words = sample["words"].as_str().expect("the user's words");
        assert!(words.starts_with("after ") && words.ends_with('?'), "{words}");
        // What the model read is there too.
        let read = &data["prompts"][sample["prompt"].as_u64().expect("a place") as usize];
        assert!(read.as_str().is_some_and(|read| read.contains("<|im_start|>user") && read.contains(words)));
    }
    let column = &data["tables"][0]["answers"]["columns"][0];
    assert_eq!(column["prompts"], serde_json::json!(["after 4?", "after 5?"]));
}
