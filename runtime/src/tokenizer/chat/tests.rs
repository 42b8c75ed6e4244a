//! Compares with the reference library; `tests/reference/text.py` recorded its results.

use serde_json::{Value as Plain, json};

use super::*;
use crate::tokenizer::Token;
use crate::tokenizer::Tokenizer;
use crate::tokenizer::tests::{expected, pretrained, with_template};

/// A conversation of the fixtures, with its members in their order.
fn chat(name: &str) -> Conversation {
    let file = std::fs::read_to_string(crate::tokenizer::tests::fixtures().join("expected.json")).unwrap();
    let file = Json::parse(&file).unwrap();
    let chats = file.as_object().unwrap().get("chats").unwrap().as_object().unwrap();
    let parts = chats.get(name).unwrap().as_object().unwrap();
    let part = |name: &str| parts.get(name).cloned().unwrap_or(Json::Null);
    Conversation::new(&part("messages"), None)
        .unwrap()
        .with_tools(&part("tools"))
        .with_documents(&part("documents"))
        .with_variables(part("variables").as_object().unwrap_or(&Object::default()))
}

fn special(tokenizer: &Tokenizer) -> Vec<(&'static str, String)> {
    let Tokenizer::Pretrained(tokenizer) = tokenizer else { unreachable!() };
    let begin = tokenizer.begin().and_then(|begin| tokenizer.token(begin));
    let begin = begin.map(|begin| ("bos_token", begin));
    let end = tokenizer.files().settings().unwrap().end.map(|end| ("eos_token", end));
    begin.into_iter().chain(end).collect()
}

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new("default", source, Vec::new()).unwrap()
}

#[test]
fn conversations_are_rendered_as_by_the_reference() {
    let expected = expected();
    let today =
        chrono::DateTime::<chrono::Utc>::from(std::time::SystemTime::now()).format("%d %b %Y").to_string();
    let mut faults = String::new();
    let (mut texts, mut errors) = (0, 0);
    for (name, entry) in expected["templates"].as_object().unwrap() {
        let tokenizer = pretrained(entry["tokenizer"].as_str().unwrap());
        let template =
            ChatTemplate::new(name, entry["source"].as_str().unwrap(), special(&tokenizer)).unwrap();
        for (case, wanted) in entry["cases"].as_object().unwrap() {
            let chat = chat(case.trim_end_matches(" +answer"));
            let rendered = template.render(&chat, chat.roles().len(), case.ends_with(" +answer"));
            match (rendered, wanted.get("text").and_then(Plain::as_str)) {
                (Ok(text), Some(wanted_text)) => {
                    texts += 1;
                    let text = text.replace(&today, "{TODAY}");
                    if text != wanted_text {
                        faults += &format!("{name}, {case}:\n{text:?}\nwanted:\n{wanted_text:?}\n");
                    } else if let Some(tokens) = wanted.get("tokens") {
                        let tokens: Vec<Token> =
                            tokens.as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect();
                        assert_eq!(tokenizer.encode(&text).unwrap(), tokens, "{name}, {case}");
                    }
                }
                (Err(ChatError::Render(cause)), None) => {
                    errors += 1;
                    let wanted = wanted["error"].as_str().unwrap();
                    // Messages that a template raises must be equal; those of the Jinja engines differ.
                    if wanted.contains("turn") || wanted.contains("call") || wanted.contains("place") {
                        assert!(cause.starts_with(wanted), "{name}, {case}: {cause}");
                    }
                }
                (rendered, wanted) => faults += &format!("{name}, {case}: {rendered:?}, wanted {wanted:?}\n"),
            }
        }
    }
    assert!(faults.is_empty(), "{faults}");
    assert!(texts > 150 && errors > 5, "{texts} {errors}");
}

/// The whole sequence and, per token, whether it is trained on.
fn whole(example: &TrainingExample) -> (Vec<Token>, Vec<bool>) {
    let before = example.prompt.iter().map(|_| false);
    (
        [example.prompt.as_slice(), &example.completion].concat(),
        before.chain(example.written.iter().copied()).collect(),
    )
}

#[test]
fn marked_answers_are_the_references() {
    let expected = expected();
    let entry = &expected["templates"]["marked"];
    let source = entry["source"].as_str().unwrap();
    let tokenizer = with_template("qwen3", source);
    let mut compared = 0;
    for (case, wanted) in entry["cases"].as_object().unwrap() {
        let Some(written) = wanted.get("written") else { continue };
        let chat = chat(case);
        let written: Vec<bool> = written.as_array().unwrap().iter().map(|flag| flag == 1).collect();
        if !written.contains(&true) {
            assert_eq!(example(&tokenizer, &chat), Err(ChatError::NoAnswer), "{case}");
            continue;
        }
        if case == "spaces" {
            // The answer begins with line breaks, which the reference joins with the line break before it.
            let turns = trained(&tokenizer, &chat).unwrap();
            assert_eq!(turns, ["ĊĊĠĠanswerĠĠĊ<|im_end|>"]);
            continue;
        }
        let (tokens, ours) = whole(&example(&tokenizer, &chat).unwrap());
        let wanted: Vec<Token> =
            wanted["tokens"].as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect();
        assert!(wanted.starts_with(&tokens), "{case}");
        assert_eq!(ours, written[..tokens.len()], "{case}");
        assert!(written[tokens.len()..].iter().all(|&written| !written), "{case}");
        compared += 1;
    }
    assert!(compared > 8, "{compared}");
}

/// The text that is trained on, turn by turn.
fn trained(tokenizer: &Tokenizer, chat: &Conversation) -> Result<Vec<String>, ChatError> {
    let example = example(tokenizer, chat)?;
    let mut turns: Vec<Vec<Token>> = Vec::new();
    let mut before = false;
    for (token, written) in example.completion.iter().zip(&example.written) {
        if *written {
            if !before {
                turns.push(Vec::new());
            }
            turns.last_mut().unwrap().push(*token);
        }
        before = *written;
    }
    let Tokenizer::Pretrained(own) = tokenizer else { unreachable!() };
    Ok(turns.iter().map(|turn| turn.iter().map(|token| own.token(*token).unwrap()).collect()).collect())
}

#[test]
fn the_assistants_turns_are_trained_on_up_to_their_end_tokens() {
    let smollm = pretrained("smollm");
    assert_eq!(trained(&smollm, &chat("answer")).unwrap(), ["4<|im_end|>"]);
    assert_eq!(trained(&smollm, &chat("system")).unwrap(), ["1<|im_end|>", "2<|im_end|>"]);
    assert_eq!(trained(&pretrained("gemma"), &chat("answer")).unwrap(), ["4<end_of_turn>"]);
    assert_eq!(trained(&pretrained("mistral"), &chat("answer")).unwrap(), ["▁▁4</s>"]);
    // Mistral's template writes the system message into the last question, so earlier text changes.
    assert_eq!(trained(&pretrained("mistral"), &chat("system")), Err(ChatError::Unstable { message: 3 }));
    // The tool calls are the assistant's text, the tools' replies are not.
    let turns = trained(&pretrained("mistral"), &chat("two_calls")).unwrap();
    assert_eq!(turns.len(), 2);
    assert!(
        turns[0].starts_with("[TOOL_CALLS]") && turns[0].ends_with("]</s>") && turns[1].ends_with("</s>"),
        "{turns:?}"
    );
    assert!(!turns.concat().contains("TOOL_RESULTS"), "{turns:?}");
    assert_eq!(trained(&smollm, &chat("question")), Err(ChatError::NoAnswer));
}

#[test]
fn a_template_that_rewrites_what_was_said_is_refused_in_words() {
    let qwen = pretrained("qwen3");
    // Qwen's template leaves out the first thought once there is a second question.
    let error = trained(&qwen, &chat("thinking")).unwrap_err();
    assert_eq!(error, ChatError::Unstable { message: 2 });
    assert!(
        error
            .to_string()
            .contains("up to message 2 is not a prefix of its output for the whole conversation")
    );
    assert!(error.help().unwrap().contains("{% generation %}"));
    // With a single answer, the thought stays.
    let turns = trained(&qwen, &chat("old_thinking")).unwrap();
    assert_eq!(turns.len(), 1);
    assert!(turns[0].starts_with("<think>") && turns[0].ends_with("42<|im_end|>"), "{turns:?}");
}

#[test]
fn a_token_across_a_border_is_split_there() {
    // Without a separator, the end of the question and the beginning of the answer would be one token.
    let tokenizer = with_template("smollm", "{% for m in messages %}{{ m.content }}{% endfor %}");
    let letters = || 'a'..='z';
    let words = letters().flat_map(|first| letters().map(move |second| [first, second]));
    let is_token = |word: &[char; 2]| tokenizer.encode(&String::from_iter(word)).unwrap().len() == 1;
    let [question, answer] =
        { words }.find(is_token).expect("the fixture has a token of two letters").map(String::from);
    let chat = Conversation::question(None, &question).answered(&answer);
    let example = example(&tokenizer, &chat).unwrap();
    assert_eq!(example.prompt, tokenizer.encode(&question).unwrap());
    let mut wanted = tokenizer.encode(&answer).unwrap();
    wanted.push(tokenizer.ends()[0]);
    assert_eq!(example.completion, wanted);
    assert!(example.written.iter().all(|&written| written));
}

/// Qwen3's template writes an empty thought before an answer without one.
#[test]
fn text_that_a_template_writes_before_an_answer_is_apart() {
    let qwen = pretrained("qwen3");
    let encode = |text: &str| qwen.encode(text).unwrap();
    let asked = || Conversation::question(None, "What is 2+2?");
    let thought = "<think>\n\n</think>\n\n";
    // The template's thought comes before the text, unless the text has a whole thought itself.
    for (text, opening) in [
        ("4", thought),
        ("<think>", thought),
        ("think", thought),
        ("<think>\n\n</think>\n\n4", ""),
        ("<think>\nSix.\n</think>\n\n4", ""),
    ] {
        let found = answer(&qwen, asked(), text).unwrap();
        assert_eq!(found.prompt, prompt(&qwen, asked()).unwrap(), "{text}");
        assert_eq!(found.opening, encode(opening), "{text}");
        let end = qwen.ends()[0];
        assert_eq!(found.completion, [encode(text), vec![end]].concat(), "{text}");
    }
    // Earlier turns are prompt.
    let smollm = pretrained("smollm");
    let messages = r#"[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"}]"#;
    let chat = || Conversation::new(&Json::parse(messages).unwrap(), None).unwrap();
    let found = answer(&smollm, chat(), "d").unwrap();
    assert_eq!(found.prompt, prompt(&smollm, chat()).unwrap());
    assert_eq!(found.completion, [smollm.encode("d").unwrap(), vec![smollm.ends()[0]]].concat());
}

/// A base model under the template of its instruct model: its own end token is not the one that closes a
/// turn.
#[test]
fn a_turn_that_ends_no_completion_is_found_and_can_be_named() {
    let asked = || Conversation::question(None, "2+2?");
    let Tokenizer::Pretrained(instruct) = pretrained("smollm") else { unreachable!() };
    let mut files = instruct.files().clone();
    for (name, content) in &mut files.files {
        if name == "tokenizer_config.json" || name == "special_tokens_map.json" {
            let text = String::from_utf8(content.clone()).unwrap();
            let mut settings: Plain = serde_json::from_str(&text).unwrap();
            settings["eos_token"] = json!("<|endoftext|>");
            *content = settings.to_string().into_bytes();
        }
    }
    files.files.retain(|(name, _)| name != "generation_config.json");
    let base = crate::tokenizer::PretrainedTokenizer::new(files).unwrap();
    let base = |ends: &[&str]| {
        let ends: Vec<String> = ends.iter().map(|end| (*end).to_owned()).collect();
        base.with_ends(&ends).map(Tokenizer::Pretrained)
    };
    let plain = base(&[]).unwrap();
    assert_eq!(unended_turn(&plain, &asked()).as_deref(), Some("<|im_end|>"));
    let named = base(&["<|im_end|>"]).unwrap();
    let [own, end] = ["<|endoftext|>", "<|im_end|>"].map(|text| named.encode(text).unwrap()[0]);
    assert_eq!((named.ends(), unended_turn(&named, &asked())), (&[own, end][..], None));
    assert_ne!(named.hash(), plain.hash(), "it behaves otherwise");
    // The target ends with the turn, and a reward sees the answer.
    let example = example(&named, &asked().answered("4")).unwrap();
    assert_eq!(example.completion, [named.encode("4").unwrap(), vec![end]].concat());
    assert_eq!(named.decode(&example.completion).unwrap(), "4");
    assert_eq!(turn_end(&named, &asked()), end);
    // Saved with a model, the files have both.
    let Tokenizer::Pretrained(saved) = &named else { unreachable!() };
    let again = crate::tokenizer::PretrainedTokenizer::new(saved.files().clone()).unwrap();
    assert_eq!((again.ends(), again.hash()), (saved.ends(), saved.hash()));
    let error = base(&["<|im_ent|>"]).unwrap_err();
    assert!(error.to_string().contains("has no token \"<|im_ent|>\""), "{error}");
    assert_eq!(error.help.as_deref(), Some("did you mean `<|im_end|>`?"));
    // Published instruct models end completions with what closes their turns.
    for name in ["smollm", "qwen3", "gemma", "mistral"] {
        assert_eq!(unended_turn(&pretrained(name), &asked()), None, "{name}");
    }
}

/// Whatever a template marks, the student learns to stop.
#[test]
fn a_turn_is_trained_with_its_end_however_it_is_marked() {
    let turn = |inside: &str, behind: &str| {
        let source = format!(
            "{{% for m in messages %}}{{% if m.role == 'assistant' %}}{{% generation %}}{inside}{{% endgeneration \
             %}}{behind}{{% else %}}<|im_start|>{{{{ m.content }}}}<|im_end|>{{% endif %}}{{% endfor %}}"
        );
        let tokenizer = with_template("smollm", &source);
        let chat = Conversation::question(None, "1+1?").answered("2");
        (trained(&tokenizer, &chat).unwrap(), unmarked_end(&tokenizer, &chat))
    };
    let end = "<|im_end|>";
    assert_eq!(turn("{{ m.content }}<|im_end|>", "\n"), (vec![format!("2{end}")], None));
    assert_eq!(turn("{{ m.content }}", "<|im_end|>\n"), (vec![format!("2{end}")], Some(end.to_owned())));
    // Without an end token in the template, it is the tokenizer's own.
    assert_eq!(turn("{{ m.content }}", "\n"), (vec![format!("2{end}")], None));
    // Nor is a line break that the template writes behind an answer the assistant's.
    let plain = "{% for m in messages %}<|im_start|>{{ m.content }}\n{% endfor %}";
    let tokenizer = with_template("smollm", plain);
    let asked = || Conversation::question(None, "1+1?");
    assert_eq!(trained(&tokenizer, &asked().answered("2")).unwrap(), [format!("<|im_start|>2{end}")]);
    let found = answer(&tokenizer, asked(), "2").unwrap();
    assert_eq!(tokenizer.decode(&found.completion).unwrap(), "2");
}

/// The end token of a turn is the template's.
#[test]
fn an_empty_answer_ends_like_any_other() {
    let gemma = pretrained("gemma");
    let asked = || Conversation::question(None, "What is 2+2?");
    let end = gemma.encode("<end_of_turn>").unwrap();
    assert!(gemma.ends()[0] != end[0]);
    for text in ["", "4"] {
        let found = answer(&gemma, asked(), text).unwrap();
        assert_eq!(found.prompt, prompt(&gemma, asked()).unwrap());
        assert_eq!(found.completion, [gemma.encode(text).unwrap(), end.clone()].concat());
    }
    assert_eq!(turn_end(&gemma, &asked()), end[0]);
}

#[test]
fn a_prompt_is_what_comes_before_the_answer() {
    let chat = Conversation::new(
        &json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]).into(),
        Some("s"),
    )
    .unwrap();
    assert_eq!(chat.roles().collect::<Vec<_>>(), [ChatRole::System, ChatRole::User, ChatRole::Assistant]);
    let asked = chat.asked();
    assert_eq!(asked.roles().collect::<Vec<_>>(), [ChatRole::System, ChatRole::User]);
    let template = template(
        "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}{% if add_generation_prompt %}?{% \
         endif %}",
    );
    assert_eq!(template.render(&asked, 2, true).unwrap(), "system:s;user:a;?");
    assert_eq!(template.render(&asked, 1, false).unwrap(), "system:s;");
}

#[test]
fn another_question_stands_in_place_of_the_last_one_or_of_all() {
    let messages = r#"[{"role": "user", "content": "first"}, {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "second"}, {"role": "assistant", "content": "no"}]"#;
    let chat = || Conversation::new(&Json::parse(messages).unwrap(), Some("be brief")).unwrap();
    let template = template("{% for m in messages %}{{ m.role }}: {{ m.content }}; {% endfor %}");
    let rendered = |chat: Conversation| template.render(&chat, chat.roles().len(), true).unwrap();
    let after_turns = rendered(chat().asking("third", true));
    assert_eq!(after_turns, "system: be brief; user: first; assistant: yes; user: third; ");
    assert_eq!(rendered(chat().asking("third", false)), "system: be brief; user: third; ");
}

fn too_long() -> LimitExceeded {
    LimitExceeded::Time { shared: super::template::SHARED, each: super::template::EACH }
}

#[test]
fn hostile_templates_are_errors() {
    let chat = Conversation::question(None, "x");
    for source in [
        "{% for a in range(99999) %}{% for b in range(99999) %}{{ b }}{% endfor %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ messages[0].content.nothing.more }}",
        "{{ 1 // 0 }}",
        "{% include 'other' %}",
        "{{ raise_exception('no') }}",
        "{{ messages.append(1) }}",
    ] {
        let error = template(source).render(&chat, 1, false).unwrap_err();
        // On a busy machine, the time limit may be reached before the instruction limit.
        let late = ChatError::Bounds { template: "default".to_owned(), exceeded: too_long() };
        assert!(matches!(error, ChatError::Render(_)) || error == late, "{source}: {error}");
    }
    assert!(ChatTemplate::new("default", "{% if %}", Vec::new()).is_err());
}

/// No template can crash the process, and the error names the template and the exceeded limit.
#[test]
fn templates_that_take_too_much_are_stopped() {
    let cycle = "{% set ns = namespace() %}{% set ns.x = ns %}";
    let doubled = |start: &str, operator: &str| {
        format!(
            "{{% set ns = namespace(l={start}) %}}{{% for i in range(100) %}}{{% set ns.l = ns.l {operator} \
             ns.l %}}{{% endfor %}}{{{{ ns.l|string|length }}}}"
        )
    };
    let nested = "{% set ns = namespace(l=1) %}{% for i in range(1000) %}{% for j in range(1000) %}{% set \
                  ns.l = [ns.l] %}{% endfor %}{% endfor %}{{ ns.l }}";
    let cases = [
        format!("{cycle}{{{{ ns }}}}"),
        format!("{cycle}{{{{ ns|tojson }}}}"),
        format!("{cycle}{{{{ 'a' ~ ns }}}}"),
        format!("{cycle}{{{{ [ns, ns]|join(' ') }}}}"),
        "{{ 'a\nb'|indent(10000000000) }}".to_owned(),
        "{{ 'a' * 100000000000 }}".to_owned(),
        doubled("'ab'", "~"),
        doubled("[1, 2]", "+"),
        nested.to_owned(),
        format!("{{{{ {}true }}}}", "not ".repeat(5_000_000)),
        format!("{{{{ {}1 }}}}", "-".repeat(20_000_000)),
    ];
    for source in cases {
        let shown: String = source.chars().take(120).collect();
        let rendered = ChatTemplate::new("default", &source, Vec::new())
            .and_then(|template| template.render(&Conversation::question(None, "x"), 1, true));
        let error = match rendered {
            Err(error @ (ChatError::Bounds { .. } | ChatError::Render(_) | ChatError::Template(_))) => {
                error.to_string()
            }
            other => panic!("{shown}: {:?}", other.map(|text| text.len())),
        };
        let known = [
            "takes more than",
            "nests deeper",
            "takes longer",
            "recursion",
            "makes the template engine fail",
            "too large",
            "repeat",
            "more than 1 MiB",
        ];
        assert!(
            error.contains("chat template") && known.iter().any(|part| error.contains(part)),
            "{shown}: {error}"
        );
    }
    // Whether or not these are errors, they end.
    for source in
        ["{{ '%.10000000000f'|format(1.0) }}".to_owned(), format!("{{{{ {}true }}}}", "not ".repeat(100_000))]
    {
        let _ = ChatTemplate::new("default", &source, Vec::new())
            .and_then(|template| template.render(&Conversation::question(None, "x"), 1, true));
    }
    let fine = template("{% for m in messages %}{{ m.content }}{% endfor %}");
    assert_eq!(fine.render(&Conversation::question(None, "x"), 1, true).unwrap(), "x");
}

/// This template needs little memory at a time and does not end.
#[test]
fn a_template_that_takes_too_long_is_stopped() {
    let slow = template(
        "{% set s = 'abc' * 10000000 %}{% for i in range(10000) %}{% for j in range(100) %}{{ 1 if 'x' in s \
         }}{% endfor %}{% endfor %}",
    );
    let error = slow.render(&Conversation::question(None, "x"), 1, true).unwrap_err();
    assert_eq!(error, ChatError::Bounds { template: "default".to_owned(), exceeded: too_long() });
}

/// The time is for all rows together: none of these takes long for each of many rows.
#[test]
fn a_slow_template_is_stopped_before_its_rows_take_long() {
    let each = |count: usize, body: &str| format!("{{% for i in range({count}) %}}{body}{{% endfor %}}");
    let text = "{% set s = 'abc' * 1000000 %}";
    let numbers = "{% set l = range(50000)|list %}";
    let cases = [
        format!("{text}{}", each(150, "{{ 1 if 'x' in s }}")),
        format!("{text}{}", each(150, "{% set x = s.upper() %}")),
        format!("{text}{}", each(150, "{% set x = s|lower %}")),
        format!("{text}{}", each(150, "{% set x = s.replace('a', 'b') %}")),
        format!("{text}{}", each(150, "{% set x = s.find('x') %}")),
        format!("{text}{}", each(150, "{% set x = s|length %}")),
        format!("{text}{}", each(150, "{% set x = s[::-1] %}")),
        format!("{numbers}{}", each(100, "{% set x = l|join(',') %}")),
        format!("{numbers}{}", each(100, "{% set x = l|tojson %}")),
        format!("{numbers}{}", each(100, "{% set x = l|sort(reverse=true) %}")),
        format!("{numbers}{}", each(1000, "{{ 1 if -1 in l }}")),
        format!("{{% set n = namespace(s='') %}}{}", each(40_000, "{% set n.s = n.s ~ 'abcdefgh' %}")),
    ];
    for source in cases {
        let slow = template(&source);
        let began = std::time::Instant::now();
        let chat = Conversation::question(None, "x");
        let stopped = (0..1_000).find_map(|_| slow.render(&chat, 1, true).err());
        assert!(matches!(stopped, Some(ChatError::Bounds { .. })), "{source}: {stopped:?}");
        assert!(began.elapsed().as_secs() < 120, "{source}: {:?}", began.elapsed());
    }
    // Many rows of a usual template take as long as they are.
    let usual = template("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}");
    let chat = Conversation::question(Some("be brief"), &"word ".repeat(2_000));
    assert!((0..2_000).all(|_| usual.render(&chat, 2, true).is_ok()));
}

#[test]
fn a_template_does_not_write_more_than_its_conversation() {
    let long = "x ".repeat(300_000);
    assert!(ChatTemplate::new("default", &long.repeat(2), Vec::new()).is_err());
    let asked = || Conversation::question(None, "x");
    assert!(template(&long).render(&asked(), 1, true).is_ok());
    let many = template(&format!("{{% for i in range(100) %}}{long}{{% endfor %}}"));
    let error = many.render(&asked(), 1, true).unwrap_err().to_string();
    assert!(error.contains("it writes 57 MiB, more than 1 MiB and 8 times the conversation"), "{error}");
    // A long conversation may be written more than once.
    let twice = template("{{ messages[0].content }}{{ messages[0].content }}");
    assert!(twice.render(&Conversation::question(None, &long.repeat(4)), 1, true).is_ok());
}

/// A template can read the date, which is part of keys, and not the time of day.
#[test]
fn templates_see_the_day_and_not_the_time() {
    let render = |format: &str| {
        template(&format!("{{{{ strftime_now({format:?}) }}}}")).render(
            &Conversation::question(None, "x"),
            1,
            true,
        )
    };
    assert_eq!(render("%F|%d %b %Y|%A|%j").unwrap(), today().format("%F|%d %b %Y|%A|%j").to_string());
    for format in ["%H", "%F %T", "%c", "%s", "%I %p", "%f"] {
        let error = render(format).unwrap_err().to_string();
        assert!(error.contains("time of day"), "{format}: {error}");
    }
    assert!(render("%!").unwrap_err().to_string().contains("not a date format"));
}

mod calls;
mod forms;
