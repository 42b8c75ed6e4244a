//! Forms of messages that not every template takes, and messages that are not trained on.

use super::*;

const START: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}";
const END: &str = "{{ '<|im_end|>\\n' }}{% endfor %}\
                   {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

fn calling(arguments: Plain) -> Conversation {
    let function = json!({ "name": "f", "arguments": arguments });
    let messages = json!([
        { "role": "user", "content": "q" },
        { "role": "assistant", "content": "", "tool_calls": [{ "type": "function", "function": function }] },
    ]);
    Conversation::new(&Json::from(messages), None).unwrap()
}

/// Arguments as JSON text, as OpenAI writes them, are an object to a template that encodes them.
#[test]
fn arguments_as_text_are_read_as_what_they_are() {
    let text = json!("{\"place\":\"Paris\"}");
    let object = json!({ "place": "Paris" });
    let rendered = |body: &str, arguments: &Plain| {
        let calls = format!("{{{{ m.content }}}}{{% for c in m.tool_calls or [] %}}{body}{{% endfor %}}");
        template(&format!("{START}{calls}{END}")).render(&calling(arguments.clone()), 2, false).unwrap()
    };
    let either = "{% if c.function.arguments is string %}{{ c.function.arguments }}{% else %}\
                  {{ c.function.arguments | tojson }}{% endif %}";
    // A template that encodes them; one that lists them; one that takes both; one that takes text only.
    for (body, of_text) in [
        ("{{ c.function.arguments | tojson }}", "{\"place\": \"Paris\"}"),
        ("{% for k, v in c.function.arguments.items() %}<{{ k }}>{{ v }}{% endfor %}", "<place>Paris"),
        (either, "{\"place\":\"Paris\"}"),
        ("{{ '```' + c.function.arguments }}", "```{\"place\":\"Paris\"}"),
    ] {
        let found = rendered(body, &text);
        assert!(found.contains(&format!("assistant\n{of_text}<|im_end|>")), "{body}: {found}");
        if !body.contains("```") {
            assert!(rendered(body, &object).contains("Paris"), "{body}");
        }
    }
}

/// A content of parts is one text to a template of texts, and a list to one that shows lists.
#[test]
fn parts_are_joined_where_a_template_takes_text() {
    let parts = json!([{ "type": "text", "text": "one " }, { "type": "text", "text": "two" }]);
    let messages = json!([{ "role": "user", "content": parts }]);
    let chat = Conversation::new(&Json::from(messages), None).unwrap();
    let rendered =
        |content: &str| template(&format!("{START}{content}{END}")).render(&chat, 1, false).unwrap();
    assert_eq!(rendered("{{ m.content }}"), "<|im_start|>user\none two<|im_end|>\n");
    assert_eq!(
        rendered("{% for part in m.content %}[{{ part.text }}]{% endfor %}"),
        "<|im_start|>user\n[one ][two]<|im_end|>\n"
    );
}

/// `weight: 0` leaves a message of the assistant out of training, with marks in the template and without.
#[test]
fn messages_of_weight_0_are_context() {
    let talk = |weights: [Plain; 2]| {
        let [first, second] = weights;
        let messages = json!([
            { "role": "user", "content": "q" }, { "role": "assistant", "content": "one", "weight": first },
            { "role": "user", "content": "r" }, { "role": "assistant", "content": "two", "weight": second },
        ]);
        Conversation::new(&Json::from(messages), None).unwrap()
    };
    let plain = format!("{START}{{{{ m.content }}}}{END}");
    let marked = format!(
        "{START}{{% if m.role == 'assistant' %}}\
         {{% generation %}}{{{{ m.content + '<|im_end|>' }}}}{{% endgeneration %}}{{{{ '\\n' }}}}\
         {{% else %}}{{{{ m.content + '<|im_end|>\\n' }}}}{{% endif %}}{{% endfor %}}"
    );
    for source in [&plain, &marked] {
        let tokenizer = with_template("qwen3", source);
        assert_eq!(trained(&tokenizer, &talk([json!(0), json!(1)])).unwrap(), ["two<|im_end|>"]);
        assert_eq!(trained(&tokenizer, &talk([json!(null), json!(0)])).unwrap(), ["one<|im_end|>"]);
        assert_eq!(trained(&tokenizer, &talk([json!(1), json!(null)])).unwrap().len(), 2);
        assert_eq!(example(&tokenizer, &talk([json!(0), json!(0)])), Err(ChatError::NoWeight));
    }
}

/// The tokens that delimit turns, and no other added token.
#[test]
fn markers_delimit_turns() {
    let tokenizer = with_template("qwen3", &format!("{START}{{{{ m.content }}}}{END}"));
    let found = markers(&tokenizer, &Conversation::question(None, "q"));
    for marker in ["<|im_start|>", "<|im_end|>"] {
        assert!(found.iter().any(|known| known == marker), "{found:?}");
    }
    assert!(!found.iter().any(|known| known == "<think>"), "{found:?}");
}
