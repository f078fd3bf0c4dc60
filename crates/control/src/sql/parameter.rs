//! Parameters: JSON to the text that PostgreSQL reads.

use serde_json::Value;
use tokio_postgres::types::Type;

/// A parameter of type `oid` (0: not asked) as PostgreSQL's text; the server decides what it means.
///
/// Objects are sent as JSON. A list is sent as JSON where a document or a text is expected, else as
/// an array.
pub(super) fn to_text(value: &Value, oid: u32) -> Option<String> {
    match value {
        Value::Null => None,
        Value::Bool(value) => Some(value.to_string()),
        Value::Number(value) => Some(value.to_string()),
        Value::String(value) => Some(value.clone()),
        Value::Array(items) if is_array(oid) => {
            let mut text = String::new();
            array(items, delimiter(oid), &mut text);
            Some(text)
        }
        Value::Array(_) | Value::Object(_) => Some(value.to_string()),
    }
}

/// All types but those that hold a document or a text: so arrays of a database's own types are, too.
fn is_array(oid: u32) -> bool {
    !matches!(
        Type::from_oid(oid),
        Some(Type::JSON | Type::JSONB | Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::UNKNOWN)
    )
}

fn delimiter(oid: u32) -> char {
    match Type::from_oid(oid) {
        Some(Type::BOX_ARRAY) => ';',
        _ => ',',
    }
}

/// PostgreSQL manual, section "Array Input and Output Syntax".
fn array(items: &[Value], delimiter: char, text: &mut String) {
    text.push('{');
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            text.push(delimiter);
        }
        match item {
            Value::Null => text.push_str("NULL"),
            Value::Array(items) => array(items, delimiter, text),
            Value::Bool(_) | Value::Number(_) => text.push_str(&item.to_string()),
            Value::String(item) => quote(item, text),
            Value::Object(_) => quote(&item.to_string(), text),
        }
    }
    text.push('}');
}

fn quote(item: &str, text: &mut String) {
    text.push('"');
    for character in item.chars() {
        if matches!(character, '"' | '\\') {
            text.push('\\');
        }
        text.push(character);
    }
    text.push('"');
}

/// Whether a number was rounded when it was read: more digits than a `double precision` keeps.
/// Such a number has to come as a text.
pub(super) fn is_rounded(value: &Value) -> bool {
    match value {
        Value::Number(number) => number
            .as_f64()
            .is_some_and(|float| number.is_f64() && float.abs() >= 9_007_199_254_740_992.0),
        Value::Array(items) => items.iter().any(is_rounded),
        // Inside of a document it is the document's own affair.
        Value::Null | Value::Bool(_) | Value::String(_) | Value::Object(_) => false,
    }
}

/// Whether there is a NUL in it, which no text of PostgreSQL can hold.
pub(super) fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_nul),
        // In a document it is written as an escape, which PostgreSQL itself looks at.
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parameters_become_text() {
        for (value, kind, want) in [
            (json!(null), Type::INT4, None),
            (json!(true), Type::BOOL, Some("true")),
            (json!(1.5), Type::FLOAT8, Some("1.5")),
            (json!("it's"), Type::TEXT, Some("it's")),
            (json!([1, "a"]), Type::JSONB, Some("[1,\"a\"]")),
            (json!([1, "a"]), Type::TEXT, Some("[1,\"a\"]")),
            (json!([1, null, 3]), Type::INT4_ARRAY, Some("{1,NULL,3}")),
            (json!([[1], [2]]), Type::INT4_ARRAY, Some("{{1},{2}}")),
            (
                json!(["NULL", "a\"\\,{}", ""]),
                Type::TEXT_ARRAY,
                Some(r#"{"NULL","a\"\\,{}",""}"#),
            ),
            (
                json!([{"a": 1}]),
                Type::JSONB_ARRAY,
                Some(r#"{"{\"a\":1}"}"#),
            ),
            (json!([]), Type::INT4_ARRAY, Some("{}")),
            (json!({"a": [1]}), Type::JSONB, Some("{\"a\":[1]}")),
        ] {
            assert_eq!(to_text(&value, kind.oid()).as_deref(), want, "{value}");
        }
        // An array of a type that the database made itself.
        assert_eq!(
            to_text(&json!(["ok"]), 4_000_000).as_deref(),
            Some("{\"ok\"}")
        );
    }

    #[test]
    fn numbers_that_were_rounded_are_noticed() {
        let read = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        for text in [
            "1",
            "-1.5",
            "18446744073709551615",
            "1e10",
            "\"12345678901234567890123\"",
        ] {
            assert!(!is_rounded(&read(text)), "{text}");
        }
        for text in ["12345678901234567890123", "[1, 12345678901234567890123]"] {
            assert!(is_rounded(&read(text)), "{text}");
        }
    }
}
