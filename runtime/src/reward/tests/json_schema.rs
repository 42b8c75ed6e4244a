//! Tests of rewards by JSON Schema: accepted completions, and messages about invalid schemas.

use super::*;

const PERSON: &str = r##"{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "type": "object",
  "properties": { "name": { "type": "string" }, "age": { "$ref": "#/$defs/years" } },
  "required": ["name"],
  "additionalProperties": false,
  "$defs": { "years": { "type": "integer", "minimum": 0 } }
}"##;

fn of(schema: &str) -> Result<Verifier, RewardError> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("person.json"), schema).unwrap();
    Verifier::new(&plan::Reward::JsonSchema { schema: "person.json".to_owned() }, folder.path())
}

#[test]
fn json_that_the_schema_accepts() {
    let verifier = of(PERSON).unwrap();
    for (completion, wanted) in [
        (r#"{"name": "Ada", "age": 36}"#, 1.0),
        ("\n  {\"name\": \"Ada\"}\n", 1.0),
        ("```json\n{\"name\": \"Ada\"}\n```", 1.0),
        (" ```\n{\"name\": \"``` is a fence\"}\n```\n", 1.0),
        ("```python\n{\"name\": \"Ada\"}\n```", 0.0),
        ("So: {\"name\": \"Ada\"}", 0.0),
        ("{\"name\": \"Ada\"} {\"name\": \"Ada\"}", 0.0),
        (r#"{"name": "Ada", "age": -1}"#, 0.0),
        (r#"{"name": "Ada", "age": 1.5}"#, 0.0),
        (r#"{"name": "Ada", "born": 1815}"#, 0.0),
        (r#"{"age": 36}"#, 0.0),
        (r#"["Ada"]"#, 0.0),
        ("{'name': 'Ada'}", 0.0),
        ("", 0.0),
        ("```", 0.0),
        ("```json", 0.0),
        ("```json```", 0.0),
        ("NaN", 0.0),
    ] {
        assert_eq!(judge_one(&verifier, completion, json!({})), wanted, "{completion:?}");
    }
    // Nested deeper than a recursive parser's stack allows.
    assert_eq!(judge_one(&verifier, &"[".repeat(1 << 20), json!({})), 0.0);
}

#[test]
fn feedback_says_what_is_wrong() {
    let verifier = of(PERSON).unwrap();
    let record = record(json!({}));
    let said = |completion| {
        let input = RewardInput { prompt: "p", completion, record: &record };
        verifier.judge(&[input], &uncancellable()).unwrap().remove(0).feedback.unwrap()
    };
    assert_eq!(said(r#"{"name": "Ada"}"#), "correct");
    assert_eq!(said(r#"{"name": "Ada", "age": "old"}"#), "/age: \"old\" is not of type \"integer\"");
    assert_eq!(said("{}"), "\"name\" is a required property");
    assert!(said("name: Ada").starts_with("not JSON: "), "{}", said("name: Ada"));
    assert!(said(&format!("{{\"name\": \"Ada\", \"age\": \"{}\"}}", "x".repeat(10_000))).len() < 400);
}

/// One keyword for each older draft that differs from the newest.
#[test]
fn a_schema_says_its_draft() {
    let draft = |draft: &str, rest: &str| {
        of(&format!(r#"{{"$schema": "http://json-schema.org/{draft}/schema#", {rest}}}"#)).unwrap()
    };
    let four = draft("draft-04", r#""minimum": 3, "exclusiveMinimum": true"#);
    let seven = draft("draft-07", r#""exclusiveMinimum": 3"#);
    for verifier in [four, seven] {
        assert_eq!(judge_one(&verifier, "4", json!({})), 1.0);
        assert_eq!(judge_one(&verifier, "3", json!({})), 0.0);
    }
}

#[test]
fn a_schema_that_cannot_be_used_is_named_with_its_cause() {
    for (schema, cause) in [
        ("{", "EOF while parsing an object"),
        (r#"{"type": 3}"#, "at `/type`"),
        (r#"{"type": "text"}"#, "at `/type`"),
        (r#"{"pattern": "(unclosed"}"#, "at `/pattern`"),
        (r#"{"pattern": "(?<=a)b"}"#, "(?<=a)b"),
        (r#"{"$ref": "other.json"}"#, "`$ref` to another file or address (other.json) is not supported"),
        (
            r##"{"properties": {"a": {"$ref": "https://example.com/a.json#/b"}}}"##,
            "`$ref` to another file or address (https://example.com/a.json) is not supported",
        ),
        (r##"{"$ref": "#/$defs/missing"}"##, "/$defs/missing"),
        (r#"{"$schema": "https://example.com/own"}"#, "https://example.com/own"),
        ("3", ""),
    ] {
        let error = of(schema).err().unwrap_or_else(|| panic!("{schema}"));
        let said = error.to_string();
        assert!(said.starts_with("person.json is not a JSON Schema that can be used: "), "{said}");
        assert!(said.contains(cause), "{schema}: {said}");
        assert!(error.help().contains("JSON Schema in one file"), "{}", error.help());
    }
    let missing = plan::Reward::JsonSchema { schema: "person.json".to_owned() };
    let error = Verifier::new(&missing, tempfile::tempdir().unwrap().path()).err().unwrap();
    assert!(error.to_string().starts_with("the JSON Schema person.json can't be read: "), "{error}");
}

/// A schema that only refers to itself would be evaluated for ever.
#[test]
fn schemas_that_name_themselves_end() {
    let tree = of(r##"{"type": "object", "properties": {"next": {"$ref": "#"}}}"##).unwrap();
    assert_eq!(judge_one(&tree, r#"{"next": {"next": {}}}"#, json!({})), 1.0);
    assert_eq!(judge_one(&tree, r#"{"next": {"next": 3}}"#, json!({})), 0.0);
    for schema in [r##"{"$ref": "#"}"##, r##"{"allOf": [{"$ref": "#"}]}"##] {
        if let Ok(verifier) = of(schema) {
            judge_one(&verifier, "{}", json!({}));
        }
    }
}

#[test]
fn a_schema_has_no_integer_that_would_be_rounded() {
    let Err(error) = of(r#"{"const": 123456789012345678901}"#) else { panic!("it is compared as a double") };
    assert!(error.to_string().contains("the integer 123456789012345678901 has more than 64 bits"), "{error}");
    let verifier = of(r#"{"const": 18446744073709551615}"#).unwrap();
    for (completion, wanted) in [("18446744073709551615", 1.0), ("18446744073709551614", 0.0)] {
        assert_eq!(judge_one(&verifier, completion, json!({})), wanted, "{completion}");
    }
    // A completion may have more digits.
    assert_eq!(judge_one(&of(r#"{"type": "integer"}"#).unwrap(), "123456789012345678901", json!({})), 1.0);
}
