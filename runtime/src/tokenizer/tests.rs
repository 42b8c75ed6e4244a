//! Compares with the reference library; `tests/reference/text.py` recorded its results.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::*;

pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/reference/text")
}

pub(crate) fn pretrained(name: &str) -> Tokenizer {
    Tokenizer::Pretrained(PretrainedTokenizer::load(&fixtures().join(name)).unwrap())
}

/// A fixture's tokenizer with another template.
pub(crate) fn with_template(name: &str, source: &str) -> Tokenizer {
    let Tokenizer::Pretrained(tokenizer) = pretrained(name) else { unreachable!() };
    let mut files = tokenizer.files().clone();
    files.files.retain(|(name, _)| name != "chat_template.jinja");
    files.files.push(("chat_template.jinja".to_owned(), source.as_bytes().to_vec()));
    Tokenizer::Pretrained(PretrainedTokenizer::new(files).unwrap())
}

/// The tokenizer of a folder with its `tokenizer.json` edited.
pub(crate) fn edited(name: &str, edit: impl FnOnce(&mut Value)) -> Tokenizer {
    let folder = copy(name);
    change(&folder, "tokenizer.json", edit);
    load(&folder)
}

pub(crate) fn expected() -> Value {
    serde_json::from_slice(&fs::read(fixtures().join("expected.json")).unwrap()).unwrap()
}

/// A copy of a tokenizer's folder, to be changed.
fn copy(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in TokenizerFiles::read(&fixtures().join(name)).unwrap().files {
        fs::write(folder.path().join(file.0), file.1).unwrap();
    }
    folder
}

fn change(folder: &tempfile::TempDir, file: &str, edit: impl FnOnce(&mut Value)) {
    let path = folder.path().join(file);
    let mut value = fs::read(&path).map_or(json!({}), |content| serde_json::from_slice(&content).unwrap());
    edit(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

fn load(folder: &tempfile::TempDir) -> Tokenizer {
    Tokenizer::Pretrained(PretrainedTokenizer::load(folder.path()).unwrap())
}

fn ids(value: &Value) -> Vec<Token> {
    value.as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect()
}

#[test]
fn texts_are_tokenised_as_by_the_reference() {
    let expected = expected();
    let texts = expected["texts"].as_array().unwrap();
    let mut compared = 0;
    for (name, cases) in expected["tokenizers"].as_object().unwrap() {
        let tokenizer = pretrained(name);
        for (text, case) in texts.iter().zip(cases.as_array().unwrap()) {
            let text = text.as_str().unwrap();
            let bare = ids(&case["bare"]);
            assert_eq!(tokenizer.encode(text).unwrap(), bare, "{name}: {text:?}");
            let spans = tokenizer.encode_with_spans(text).unwrap();
            assert!(spans.iter().map(|(token, _)| *token).eq(bare.iter().copied()), "{name}: {text:?}");
            assert!(
                spans.iter().all(|(_, span)| text.get(span.clone()).is_some()),
                "{name}: {text:?}: {spans:?}"
            );
            let Tokenizer::Pretrained(own) = &tokenizer else { unreachable!() };
            assert_eq!(own.decode(&bare).unwrap(), case["decoded"].as_str().unwrap(), "{name}: {text:?}");
            // A completion follows the prompt, so a token that the reference adds at the end is not included.
            let ended = name == "unigram";
            let mut prompt = tokenizer.prompt(text).unwrap();
            prompt.extend(ended.then(|| tokenizer.ends()[0]));
            assert_eq!(prompt, ids(&case["whole"]), "{name}: {text:?}");
            compared += 1;
        }
    }
    assert_eq!(compared, 7 * texts.len());
}

#[test]
fn a_completion_follows_its_prompt() {
    for name in ["qwen3", "smollm", "llama3", "gemma", "mistral", "llama2", "unigram"] {
        let tokenizer = pretrained(name);
        for (prompt, completion) in
            [("What is 2+2? ", "4 eggs"), ("Sort: b a\n", "a b"), ("x", "yz"), ("A: ", "日本 😀"), ("q", "")]
        {
            let (prompt_tokens, tokens) =
                (tokenizer.prompt(prompt).unwrap(), tokenizer.completion(prompt, completion).unwrap());
            assert_eq!(tokens.last(), Some(&tokenizer.ends()[0]), "{name}");
            assert_eq!(tokens.iter().filter(|token| tokenizer.is_end(**token)).count(), 1, "{name}");
            let whole = [prompt_tokens.as_slice(), &tokens].concat();
            assert_eq!(
                tokenizer.decode(&whole).unwrap().trim(),
                format!("{prompt}{completion}").trim(),
                "{name}: {prompt:?}"
            );
        }
        // Tokens after the end token, and ids without a token, have no text.
        let mut tokens = tokenizer.completion("", "clips").unwrap();
        tokens.insert(1, tokenizer.vocabulary() as Token + 5);
        tokens.extend(tokenizer.encode(" more").unwrap());
        assert_eq!(tokenizer.decode(&tokens).unwrap().trim(), "clips", "{name}");
    }
}

/// The text models of Gemma 3 have a tokenizer with a token for images, which their embedding lacks.
#[test]
fn special_tokens_beyond_the_embedding_are_no_tokens() {
    let with_token = |special: bool| {
        edited("smollm", |tokenizer| {
            let rows = tokenizer["model"]["vocab"].as_object().unwrap().len();
            tokenizer["added_tokens"].as_array_mut().unwrap().push(json!({
                "id": rows, "content": "<image>", "special": special, "normalized": false,
                "single_word": false, "lstrip": false, "rstrip": false,
            }));
        })
    };
    let Tokenizer::Pretrained(whole) = with_token(true) else { unreachable!() };
    let rows = whole.vocabulary() - 1;
    assert_eq!(whole.token(rows as Token).unwrap(), "<image>");
    let text = whole.within(rows).unwrap().unwrap();
    assert_eq!(
        (text.vocabulary(), text.tokens(), text.token(rows as Token)),
        (rows, whole.tokens() - 1, None)
    );
    assert_eq!(text.encode("sort: 3 1").unwrap(), whole.encode("sort: 3 1").unwrap());
    let problem = text.encode("a <image>").unwrap_err().problem;
    assert!(
        problem.contains(&format!("its token \"<image>\" has the id {rows}, but the embedding")),
        "{problem}"
    );
    // It is another tokenizer than that of the model that reads images.
    let [text, whole] = [text, whole.clone()].map(Tokenizer::Pretrained);
    assert_ne!(text, whole);
    assert!(difference(&text, &whole).unwrap().between("one", "the other").contains("no token to one"));
    // A token of text beyond the embedding means another model.
    let Tokenizer::Pretrained(other) = with_token(false) else { unreachable!() };
    assert!(other.within(rows).unwrap().is_none());
}

/// The tokens of a completion spell it, without the space that some tokenizers write before every text.
#[test]
fn a_completion_begins_where_its_prompt_ends() {
    for name in ["gemma", "llama2", "llama3", "mistral", "qwen3", "smollm", "unigram"] {
        let tokenizer = pretrained(name);
        let bytes = TokenBytes::new(&tokenizer).unwrap();
        for (prompt, completion) in
            [("q: ", "The tool"), ("q: ", " 4 and more"), ("q:", " in the"), ("x", "yz"), ("in", "to")]
        {
            let tokens = tokenizer.completion(prompt, completion).unwrap();
            let (_, text) = tokens.split_last().unwrap();
            let spelled: Vec<u8> =
                text.iter().flat_map(|token| bytes.get(*token).unwrap()).copied().collect();
            let spelled = String::from_utf8(spelled).unwrap();
            // Unigram's normaliser makes one space of several.
            let folded = name == "unigram" && prompt.ends_with(' ');
            let wanted = if folded { completion.trim_start() } else { completion };
            let spelled = if folded { spelled.trim_start() } else { &spelled };
            assert_eq!(spelled, wanted, "{name}: {prompt:?}");
        }
    }
}

#[test]
fn bytes_are_tokens() {
    assert_eq!(Tokenizer::Bytes.prompt("aé").unwrap(), [256, 97, 0xC3, 0xA9]);
    assert_eq!(Tokenizer::Bytes.completion("p", "aé").unwrap(), [97, 0xC3, 0xA9, 257]);
    assert_eq!(Tokenizer::Bytes.prompt("").unwrap(), [256]);
    let decode = |tokens: &[Token]| Tokenizer::Bytes.decode(tokens).unwrap();
    assert_eq!(decode(&Tokenizer::Bytes.completion("", "sort: é\n").unwrap()), "sort: é\n");
    assert_eq!(decode(&[104, 105, END, 33, PADDING]), "hi");
    assert_eq!(decode(&[BEGIN, 104, PADDING, 105]), "hi");
    assert_eq!(decode(&[0xC3, 104]), "\u{FFFD}h");
    assert_eq!(decode(&[]), "");
}

#[test]
fn every_end_token_of_the_generation_settings_ends_a_completion() {
    let tokenizer = pretrained("llama3");
    let id = |text: &str| tokenizer.encode(text).unwrap()[0];
    // The tokenizer's own end token comes first: training data ends with it.
    assert_eq!(tokenizer.ends(), [id("<|eot_id|>"), id("<|end_of_text|>"), id("<|eom_id|>")]);
    assert_eq!(tokenizer.prompt("a").unwrap()[0], id("<|begin_of_text|>"));
    let Tokenizer::Pretrained(llama2) = pretrained("llama2") else { unreachable!() };
    assert_eq!(llama2.before(), [llama2.begin().unwrap()]);
}

#[test]
fn two_tokenizers_are_compared_by_what_ids_mean() {
    let (qwen, llama) = (pretrained("qwen3"), pretrained("llama3"));
    assert_eq!(difference(&qwen, &qwen), None);
    assert_eq!(difference(&qwen, &Tokenizer::Bytes), Some(TokenizerDifference::Kind));
    assert!(matches!(difference(&qwen, &llama), Some(TokenizerDifference::Id { .. })));

    // The same files in another folder are the same tokenizer.
    let folder = copy("qwen3");
    assert_eq!(difference(&qwen, &load(&folder)), None);
    assert_eq!(qwen, load(&folder));

    // The same number of tokens, two of them swapped.
    change(&folder, "tokenizer.json", |tokenizer| {
        let vocabulary = tokenizer["model"]["vocab"].as_object_mut().unwrap();
        let (a, b) = (vocabulary["a"].clone(), vocabulary["b"].clone());
        vocabulary.insert("a".to_owned(), b);
        vocabulary.insert("b".to_owned(), a);
    });
    let other = load(&folder);
    assert_eq!(qwen.vocabulary(), other.vocabulary());
    let found = difference(&qwen, &other).unwrap().to_string();
    assert_eq!(
        found,
        format!("the id {} is \"a\" to the student and \"b\" to the teacher", qwen.encode("a").unwrap()[0])
    );

    let folder = copy("qwen3");
    change(&folder, "generation_config.json", |generation| generation["eos_token_id"] = json!([]));
    let found = difference(&qwen, &load(&folder)).unwrap();
    assert_eq!(
        found.to_string(),
        "the student ends a completion with \"<|im_end|>\", \"<|endoftext|>\", the teacher with \
         \"<|im_end|>\""
    );
    assert!(found.help().contains("end_tokens"));

    let folder = copy("llama3");
    change(&folder, "tokenizer.json", |tokenizer| tokenizer["post_processor"] = Value::Null);
    let found = difference(&llama, &load(&folder)).unwrap().to_string();
    assert_eq!(found, "the student's prompts begin with \"<|begin_of_text|>\", the teacher's with nothing");
}

#[test]
fn a_chat_template_given_by_an_experiment_takes_the_place_of_all_others() {
    let folder = copy("qwen3");
    fs::create_dir_all(folder.path().join("additional_chat_templates")).unwrap();
    fs::write(folder.path().join("additional_chat_templates/tool_use.jinja"), "tools").unwrap();
    let own = PretrainedTokenizer::load(folder.path()).unwrap();
    let file = folder.path().join("mine.jinja");
    fs::write(&file, "<{{ messages[0].content }}>").unwrap();
    let given = own.with_template(&file).unwrap();
    assert_ne!(own.hash(), given.hash());
    let names: Vec<&str> = given.templates().iter().map(ChatTemplate::name).collect();
    assert_eq!(names, ["default"]);
    let asked = chat::Conversation::question(None, "2 + 2");
    assert_eq!(given.templates()[0].render(&asked, 1, true).unwrap(), "<2 + 2>");
    // A model that is saved with these files has the template, and nothing else that names one.
    let saved = tempfile::tempdir().unwrap();
    given
        .files()
        .files
        .iter()
        .for_each(|(name, content)| fs::write(saved.path().join(name), content).unwrap());
    let again = PretrainedTokenizer::load(saved.path()).unwrap();
    assert_eq!((again.hash(), again.templates().len()), (given.hash(), 1));
    assert_eq!(again.ends(), own.ends());
    let missing = own.with_template(&folder.path().join("none.jinja")).unwrap_err();
    assert!(missing.to_string().contains("none.jinja: there is no such file"), "{missing}");
}

#[test]
fn thinking_given_by_an_experiment_holds_where_a_conversation_does_not_set_it() {
    let folder = copy("qwen3");
    let own = PretrainedTokenizer::load(folder.path()).unwrap();
    let file = folder.path().join("mine.jinja");
    let text = "\n{% if enable_thinking is defined and enable_thinking is false %}no{% endif %}|{{ enable_thinking }}";
    fs::write(&file, text).unwrap();
    let own = own.with_template(&file).unwrap();
    let render = |tokenizer: &PretrainedTokenizer, variables: &str| {
        let variables = super::json::Json::parse(variables).unwrap();
        let asked =
            chat::Conversation::question(None, "2 + 2").with_variables(variables.as_object().unwrap());
        tokenizer.templates()[0].render(&asked, 1, true).unwrap()
    };
    let [on, off] = [true, false].map(|thinks| own.with_thinking(thinks).unwrap());
    assert_eq!(render(&own, "{}"), "\n|");
    assert_eq!(render(&off, "{}"), "\nno|False");
    assert_eq!(render(&on, "{}"), "\n|True");
    // A row that says otherwise is asked as it says.
    assert_eq!(render(&off, r#"{"enable_thinking": true}"#), "\n|True");
    assert_eq!(render(&on, r#"{"enable_thinking": false}"#), "\nno|False");
    fs::write(&file, "{{ messages[0].content }}").unwrap();
    let silent = own.with_template(&file).unwrap().with_thinking(false).unwrap_err();
    assert!(silent.to_string().ends_with("the chat template does not read `enable_thinking`"), "{silent}");
}

#[test]
fn tokenizer_hash_covers_behaviour_and_not_the_path() {
    let folder = copy("smollm");
    let same = load(&folder);
    assert_eq!(same.hash(), pretrained("smollm").hash());
    fs::write(folder.path().join("chat_template.jinja"), "{{ messages[0].content }}").unwrap();
    let other = load(&folder);
    assert_ne!(other.hash(), same.hash());

    // Templates write `bos_token`, so another one changes prompts.
    change(&folder, "tokenizer_config.json", |config| config["bos_token"] = json!("<|endoftext|>"));
    assert_ne!(load(&folder).hash(), other.hash());
    assert_ne!(load(&folder), other);
    // Without templates it is not used.
    let (folder, same) = (copy("llama2"), pretrained("llama2"));
    change(&folder, "tokenizer_config.json", |config| config["bos_token"] = json!("</s>"));
    assert_eq!(load(&folder), same);
}

/// The begin token is found even if the vocabulary has digits only, and can spell no other text.
#[test]
fn prompts_begin_as_they_do_whatever_the_vocabulary_spells() {
    let folder = tempfile::tempdir().unwrap();
    let special = |id: u32, content: &str| {
        json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true })
    };
    let mut vocabulary = json!({ "<s>": 0, "</s>": 1 });
    (0..10).for_each(|digit| vocabulary[digit.to_string()] = json!(digit + 2));
    let mut template = begins_with(0);
    template["single"].as_array_mut().unwrap().push(json!({ "SpecialToken": { "id": "<x>", "type_id": 0 } }));
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0, "<s>"), special(1, "</s>")],
        "normalizer": null, "pre_tokenizer": null, "post_processor": template, "decoder": null,
        "model": { "type": "BPE", "vocab": vocabulary, "merges": [] },
    });
    fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    fs::write(folder.path().join("tokenizer_config.json"), json!({ "eos_token": "</s>" }).to_string())
        .unwrap();
    assert_eq!(load(&folder).prompt("17").unwrap(), [0, 3, 9]);
    assert_eq!(load(&folder).prompt("").unwrap(), [0]);
}

/// Tokens that transformers would add to `tokenizer.json`, or read differently, are refused.
#[test]
fn tokens_that_the_files_name_are_added_tokens() {
    let refused = |name: &str, file: &str, edit: &dyn Fn(&mut Value)| {
        let folder = copy(name);
        change(&folder, file, edit);
        let error = PretrainedTokenizer::load(folder.path()).unwrap_err();
        (error.problem, error.help.unwrap_or_default())
    };
    let config = |key: &str, value: Value| {
        refused("llama3", "tokenizer_config.json", &|config| config[key] = value.clone())
    };
    let unknown = "names the token \"<new>\", which tokenizer.json does not have";
    for (key, value) in [
        ("unk_token", json!("<new>")),
        ("mask_token", json!({ "content": "<new>", "lstrip": true })),
        ("additional_special_tokens", json!(["<|eot_id|>", "<new>"])),
        ("extra_special_tokens", json!({ "image_token": "<new>" })),
        ("added_tokens_decoder", json!({ "567": { "content": "<new>" } })),
    ] {
        let (problem, help) = config(key, value);
        assert_eq!(problem, format!("`{key}` {unknown}"));
        assert!(help.contains("save_pretrained"), "{help}");
    }
    let (problem, _) = config("extra_special_tokens", json!(["a"]));
    assert!(problem.contains("which is not an added token of tokenizer.json"), "{problem}");
    let (problem, _) = refused("llama3", "special_tokens_map.json", &|map| {
        map["additional_special_tokens"] = json!(["<new>"])
    });
    assert!(problem.contains(unknown), "{problem}");
    let (problem, _) = refused("smollm", "tokenizer.json", &|tokenizer| {
        tokenizer["added_tokens"].as_array_mut().unwrap().retain(|token| token["content"] != "<|im_end|>");
        tokenizer["model"]["vocab"]["<|im_end|>"] = json!(562);
    });
    assert!(problem.contains("\"<|im_end|>\", which is not an added token"), "{problem}");
    let (problem, _) = config("added_tokens_decoder", json!({ "570": { "content": "<|eot_id|>" } }));
    assert_eq!(
        problem,
        "`added_tokens_decoder` names the token \"<|eot_id|>\", with the id 570, but in tokenizer.json its id \
         is 565"
    );
    let (problem, _) = config(
        "added_tokens_decoder",
        json!({ "565": { "content": "<|eot_id|>", "lstrip": false, "rstrip": true } }),
    );
    assert!(problem.ends_with("with `rstrip` true, but in tokenizer.json it is false"), "{problem}");
    let (problem, _) = config("split_special_tokens", json!(true));
    assert!(problem.starts_with("`split_special_tokens` is true"), "{problem}");

    // Version 4 of the reference saved them like this at first; ids are ignored there.
    let old = |tokens: Value, config: Value| {
        let folder = copy("llama3");
        fs::write(folder.path().join("added_tokens.json"), tokens.to_string()).unwrap();
        change(&folder, "tokenizer_config.json", |all| all["added_tokens_decoder"] = config.clone());
        let loaded = PretrainedTokenizer::load(folder.path());
        loaded
            .map(Tokenizer::Pretrained)
            .map_err(|error| error.to_string().replace(&folder.path().display().to_string(), "FOLDER"))
    };
    let new = json!({ "<|eot_id|>": 1, "<new>": 567 });
    let problem = format!("FOLDER/added_tokens.json: it {unknown}");
    assert_eq!(old(new.clone(), Value::Null), Err(problem));
    assert_eq!(old(json!({ "<|eot_id|>": 1 }), Value::Null), Ok(pretrained("llama3")));
    let listed = json!({ "565": { "content": "<|eot_id|>" } });
    assert_eq!(old(new, listed), Ok(pretrained("llama3")), "the newer list is the one that counts");

    // Lists all added tokens again, as version 4 of the reference does.
    let folder = copy("llama3");
    let path = folder.path().join("tokenizer.json");
    let tokenizer: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&folder, "tokenizer_config.json", |config| {
        for token in tokenizer["added_tokens"].as_array().unwrap() {
            config["added_tokens_decoder"][token["id"].to_string()] = token.clone();
        }
        config["additional_special_tokens"] = json!(["<|eom_id|>"]);
        config["split_special_tokens"] = json!(false);
    });
    assert_eq!(load(&folder), pretrained("llama3"));
}

#[test]
fn files_that_make_no_tokenizer_are_refused_in_words() {
    let refused = |folder: &tempfile::TempDir| {
        let error = PretrainedTokenizer::load(folder.path()).unwrap_err();
        let place = folder.path().display().to_string();
        (error.to_string().replace(&place, "FOLDER"), error.help.unwrap_or_default())
    };
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(refused(&folder).0, "FOLDER/tokenizer.json: there is no such file");
    fs::write(folder.path().join("tokenizer.model"), "x").unwrap();
    assert!(refused(&folder).1.contains("save_pretrained"));
    for content in ["", "{", "[]", "{\"model\": 3}", "\u{0}"] {
        fs::write(folder.path().join("tokenizer.json"), content).unwrap();
        assert!(refused(&folder).0.starts_with("FOLDER/tokenizer.json: "), "{content}");
    }

    let other = folder.path().join("words.json");
    fs::write(&other, "{}").unwrap();
    let error = PretrainedTokenizer::load(&other).unwrap_err();
    assert_eq!(error.problem, "a tokenizer is a folder, or the `tokenizer.json` in it");
    assert!(error.help.is_some_and(|help| help.starts_with("name it `tokenizer.json`")));

    let folder = copy("smollm");
    let tokens = load(&folder).vocabulary();
    change(&folder, "tokenizer.json", |tokenizer| {
        tokenizer["model"]["vocab"]["zzzz"] = json!(4_000_000_000u32)
    });
    assert_eq!(
        refused(&folder).0,
        format!("FOLDER/tokenizer.json: its {} tokens have ids up to 4000000000", tokens + 1)
    );

    let folder = copy("smollm");
    change(&folder, "tokenizer_config.json", |config| config["eos_token"] = json!("<|stop|>"));
    assert_eq!(
        refused(&folder).0,
        "FOLDER/tokenizer.json: the end token \"<|stop|>\" is not in the vocabulary"
    );
    change(&folder, "tokenizer_config.json", |config| config["eos_token"] = Value::Null);
    assert_eq!(refused(&folder).0, "FOLDER/tokenizer_config.json: no token ends a completion");
    change(&folder, "generation_config.json", |generation| generation["eos_token_id"] = json!([7, 100_000]));
    assert!(
        refused(&folder)
            .0
            .contains("generation_config.json: the end token 100000 is not in the vocabulary of ")
    );
    change(&folder, "generation_config.json", |generation| generation["eos_token_id"] = json!("7"));
    assert_eq!(
        refused(&folder).0,
        "FOLDER/generation_config.json: `eos_token_id` must be a token's id or a list of them, not \"7\""
    );
    fs::write(folder.path().join("chat_template.jinja"), "{% for %}").unwrap();
    change(&folder, "generation_config.json", |generation| generation["eos_token_id"] = json!(7));
    let problem = refused(&folder).0;
    assert!(
        problem.contains("the chat template `default`: the chat template cannot be compiled: "),
        "{problem}"
    );
}

/// Number of edits of each file.
const EDITS: usize = 200;

/// Pseudorandom numbers, always the same.
struct Draws(u64);

impl Draws {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % bound
    }
}

/// After a single edit, a file is loaded or refused, and a loaded tokenizer encodes or reports an error.
#[test]
fn damaged_files_are_refused_without_a_panic() {
    let mut draws = Draws(3);
    for name in ["smollm", "gemma", "llama3", "unigram"] {
        let folder = copy(name);
        let path = folder.path().join("tokenizer.json");
        let whole = fs::read_to_string(&path).unwrap();
        let numbers: Vec<(usize, &str)> = whole.match_indices(|c: char| c.is_ascii_digit()).collect();
        let mut refused = 0;
        for edit in 0..EDITS {
            let damaged = match edit % 3 {
                // Replaces a byte, removes a part, or inserts a large number.
                0 => {
                    let mut bytes = whole.clone().into_bytes();
                    let at = draws.below(bytes.len());
                    bytes[at] = b"{}[]\",:0a-"[draws.below(10)];
                    bytes
                }
                1 => {
                    let (from, count) = (draws.below(whole.len()), draws.below(64));
                    [&whole.as_bytes()[..from], &whole.as_bytes()[(from + count).min(whole.len())..]].concat()
                }
                _ => {
                    let (at, _) = numbers[draws.below(numbers.len())];
                    [&whole.as_bytes()[..at], b"429496729".as_slice(), &whole.as_bytes()[at..]].concat()
                }
            };
            fs::write(&path, &damaged).unwrap();
            match PretrainedTokenizer::load(folder.path()) {
                Ok(tokenizer) => {
                    let tokenizer = Tokenizer::Pretrained(tokenizer);
                    assert!(tokenizer.vocabulary() < 1 << 18);
                    for text in ["", "copy: quick = \u{4e2d}\u{1f468}\u{200d}", "  a\n\n<|im_end|>"] {
                        if let Ok(tokens) = tokenizer.encode(text) {
                            let _ = tokenizer.decode(&tokens);
                        }
                    }
                }
                Err(error) => {
                    assert!(error.to_string().len() < 2000, "{error}");
                    refused += 1;
                }
            }
        }
        assert!(refused > 0);
    }
}

/// The error of a changed tokenizer, when it is loaded or when it encodes `text`; empty if there is none.
fn spoilt(text: &str, edit: impl FnOnce(&mut Value)) -> String {
    let folder = copy("smollm");
    change(&folder, "tokenizer.json", edit);
    match PretrainedTokenizer::load(folder.path()).and_then(|tokenizer| tokenizer.encode(text).map(|_| ())) {
        Ok(()) => String::new(),
        Err(error) => error.problem,
    }
}

fn replace(pattern: Value, content: &str) -> Value {
    json!({ "type": "Replace", "pattern": pattern, "content": content })
}

#[test]
fn a_normaliser_does_not_fill_the_memory() {
    let growing = vec![replace(json!({ "String": "a" }), &"a".repeat(1 << 10)); 4];
    let problem = spoilt("a", |tokenizer| {
        tokenizer["normalizer"] = json!({ "type": "Sequence", "normalizers": growing })
    });
    assert!(problem.contains("would make the text too long"), "{problem}");
    let long = "x".repeat(1 << 20);
    for rule in [
        replace(json!({ "Regex": "b" }), &long),
        json!({ "type": "Prepend", "prepend": "y".repeat(70 << 20) }),
    ] {
        let problem = spoilt(&"b".repeat(100), |tokenizer| tokenizer["normalizer"] = rule);
        assert!(problem.contains("would make the text too long"), "{problem}");
    }
    let parts = vec![replace(json!({ "String": "a" }), "aa"); 40];
    let problem =
        spoilt("a", |tokenizer| tokenizer["decoder"] = json!({ "type": "Sequence", "decoders": parts }));
    assert!(problem.contains("`decoder`"), "{problem}");
}

#[test]
fn normalisers_within_the_limit_are_accepted() {
    // Many rules that do not apply to each other's results, so that no text becomes long.
    let rules: Vec<_> =
        (0..60).map(|index| replace(json!({ "String": format!("\u{1}{index}") }), &"▁".repeat(4))).collect();
    for rule in [
        json!({ "type": "Sequence", "normalizers": rules }),
        replace(json!({ "String": " " }), "▁"),
        json!({ "type": "NFKC" }),
    ] {
        assert_eq!(
            spoilt(&"some words \u{fdfa} ".repeat(20_000), |tokenizer| tokenizer["normalizer"] = rule),
            ""
        );
    }
}

/// A post-processor that writes a token before a text.
fn begins_with(id: u32) -> Value {
    json!({
        "type": "TemplateProcessing",
        "single": [{ "SpecialToken": { "id": "<x>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
        "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
        "special_tokens": { "<x>": { "id": "<x>", "ids": [id], "tokens": ["<x>"] } },
    })
}

#[test]
fn ids_are_of_the_vocabulary() {
    assert_eq!(spoilt("a", |tokenizer| tokenizer["post_processor"] = begins_with(5)), "");
    let problem = spoilt("a", |tokenizer| tokenizer["post_processor"] = begins_with(u32::MAX));
    assert!(problem.contains("begins texts with the id 4294967295, but ids end at"), "{problem}");
}

/// As the reference library does (`GenerationConfig.from_model_config`).
#[test]
fn the_models_configuration_names_the_ends_where_no_other_file_does() {
    let name = expected()["tokenizers"].as_object().unwrap().keys().next().unwrap().clone();
    let folder = copy(&name);
    let _ = fs::remove_file(folder.path().join("generation_config.json"));
    let own = load(&folder).ends().to_vec();
    let other: Token = (0..).find(|id| !own.contains(id)).unwrap();
    let both: Vec<Token> = own.iter().copied().chain([other]).collect();
    for config in [
        json!({ "eos_token_id": other }),
        json!({ "eos_token_id": [other, own[0]], "text_config": { "eos_token_id": 3 } }),
        json!({ "eos_token_id": null, "text_config": { "eos_token_id": other } }),
    ] {
        change(&folder, "config.json", |value| *value = config.clone());
        assert_eq!(load(&folder).ends(), both, "{config}");
        // It is the model's file: a student has its own.
        assert!(TokenizerFiles::read(folder.path()).unwrap().find("config.json").is_none());
    }
    change(&folder, "config.json", |config| config["eos_token_id"] = json!(100_000));
    let error = PretrainedTokenizer::load(folder.path()).unwrap_err().to_string();
    assert!(
        error.contains("config.json: the end token 100000") && !error.contains("generation_config"),
        "{error}"
    );
    change(&folder, "generation_config.json", |generation| generation["eos_token_id"] = json!(own[0]));
    assert_eq!(load(&folder).ends(), own);
}

/// A teacher that scores may have tokens where the student has none, and not the other way round.
#[test]
fn a_teacher_may_have_more_tokens() {
    let student = pretrained("qwen3");
    let larger = edited("qwen3", |tokenizer| {
        let added = tokenizer["added_tokens"].as_array_mut().unwrap();
        let mut last = added.last().unwrap().clone();
        last["id"] = (last["id"].as_i64().unwrap() + 1).into();
        last["content"] = "<more>".into();
        added.push(last);
    });
    assert_eq!(scoring_difference(&student, &larger), None);
    assert!(matches!(difference(&student, &larger), Some(TokenizerDifference::Id { student: None, .. })));
    assert!(matches!(
        scoring_difference(&larger, &student),
        Some(TokenizerDifference::Id { teacher: None, .. })
    ));
    assert_eq!(scoring_difference(&student, &Tokenizer::Bytes), Some(TokenizerDifference::Kind));
}
