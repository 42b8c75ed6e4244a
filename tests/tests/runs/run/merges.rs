//! Merges of models from files: mistakes that the program's text can't show are found before anything runs.

use super::{Bench, assert_says, text};

/// A tokenizer of words, with ids in this order, and an end token.
fn tokenizer(words: impl Iterator<Item = u32>) -> String {
    let words = words.map(|word| format!("w{word}")).chain(["</s>".to_owned()]);
    let ids: serde_json::Map<String, serde_json::Value> =
        words.enumerate().map(|(id, word)| (word, id.into())).collect();
    let end = serde_json::json!({ "id": ids["</s>"], "content": "</s>", "special": true, "single_word": false,
        "lstrip": false, "rstrip": false, "normalized": false });
    serde_json::json!({ "version": "1.0", "added_tokens": [end], "pre_tokenizer": { "type": "Whitespace" },
        "model": { "type": "WordLevel", "vocab": ids, "unk_token": "w0" } })
    .to_string()
}

/// Models of earlier runs: two of one shape whose words have different ids, and one that is narrower.
fn bench() -> Bench {
    let bench = Bench::new();
    for (folder, words) in [("one", tokenizer(0..40)), ("other", tokenizer((0..40).rev()))] {
        std::fs::create_dir(bench.path(folder)).expect("a folder");
        bench.write(&format!("{folder}/tokenizer.json"), &words);
        bench.write(&format!("{folder}/tokenizer_config.json"), "{ \"eos_token\": \"</s>\" }");
    }
    let model = |name: &str, width: u32, tokenizer: &str| {
        format!(
            "model {name} = llama {{ layers = 1, width = {width}, heads = 2, context = 24, tokenizer = {tokenizer:?} }}\n"
        )
    };
    let models = [("one", 32, "one"), ("other", 32, "other"), ("narrow", 16, "one")];
    let models: String =
        models.iter().map(|(name, width, tokenizer)| model(name, *width, tokenizer)).collect();
    bench.write("tiny.mopd", &format!("experiment \"models\" {{ seed = 1 }}\n{models}"));
    let output = bench.run(&["--out", "made"]);
    assert!(output.status.success(), "{}", text(&output));
    bench
}

/// The output for an experiment with the three models and the model `made`.
fn said(bench: &Bench, made: &str) -> String {
    let read = ["one", "other", "narrow"]
        .map(|name| format!("model {name} = checkpoint(\"made/models/{name}-seed1\")\n"))
        .concat();
    let domain = "domain copy { prompts = \"copy.jsonl\", tests = \"copy.test.jsonl\", reward = exact_match, format = text }\n";
    let first = "model first = sft(one, on: copy) { target = answer, steps = 1, batch = 2, lr = 1e-3 }\n";
    let table = "compare \"made\" { models = [one, other, narrow, first, made], samples = 1, temperature = 1.0, max_tokens = 4 }\n";
    bench.write(
        "tiny.mopd",
        &format!("experiment \"merges\" {{ seed = 1 }}\n{domain}{read}{first}model made = {made}\n{table}"),
    );
    let output = bench.run(&["--out", "out"]);
    assert!(!output.status.success() && !bench.path("out/models").exists(), "{}", text(&output));
    text(&output)
}

/// The same row of two embeddings belongs to different words, so an average of rows is meaningless.
#[test]
fn models_of_other_words_are_not_merged() {
    let bench = bench();
    let different = &[
        "`one` and `other` can't be merged: they have different tokenizers",
        "the id 0 is \"w0\" to `one` and \"w39\" to `other`",
        "name models with the same vocabulary",
    ];
    assert_says(&said(&bench, "merge([one, other]) { method = average }"), different);
    let vector = "merge([other], base: one) { method = task_arithmetic, scale = 1 }";
    assert_says(&said(&bench, vector), different);
    assert_says(
        &said(&bench, "merge([one, narrow]) { method = average }"),
        &["`one` and `narrow` can't be merged: they have different architectures", "`width` (32 and 16)"],
    );
    let changed = "sft(one, on: copy) { target = answer, steps = 1, batch = 2, lr = 1e-3, train_only = [changed(other, beyond: 1e-5, from: one)] }";
    assert_says(
        &said(&bench, changed),
        &[
            "`changed` compares models with another tokenizer than the student's",
            "the id 0 is \"w0\" to the student and \"w39\" to",
        ],
    );
}
