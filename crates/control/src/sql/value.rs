//! PostgreSQL's text values as JSON, and back.
//!
//! Integers are numbers while a JavaScript program can hold them exactly, else strings; so is
//! `float`, whose infinities and NaN are strings. `numeric` is a string, exact. `bool` is a
//! boolean, `json` and `jsonb` stand as they are. All else is PostgreSQL's text.

use serde_json::{Number, Value};
use tokio_postgres::types::Type;

/// 2^53 − 1: the largest integer that every JSON reader keeps (RFC 8259, section 6).
const SAFE_MAX: u64 = (1 << 53) - 1;

/// A value as text to JSON.
pub(super) fn to_json(oid: u32, text: &str) -> Value {
    let parsed = match Type::from_oid(oid) {
        Some(Type::INT2 | Type::INT4 | Type::INT8 | Type::OID) => safe_integer(text),
        Some(Type::FLOAT4 | Type::FLOAT8) => text
            .parse()
            .ok()
            .and_then(Number::from_f64)
            .map(Value::Number),
        Some(Type::BOOL) => Some(Value::Bool(text == "t")),
        Some(Type::JSON | Type::JSONB) => serde_json::from_str(text).ok(),
        _ => None,
    };
    parsed.unwrap_or_else(|| Value::String(text.to_owned()))
}

fn safe_integer(text: &str) -> Option<Value> {
    let number: i64 = text.parse().ok()?;
    (number.unsigned_abs() <= SAFE_MAX).then(|| Value::Number(number.into()))
}

/// A parameter to PostgreSQL's text; the server decides what it means. Objects and arrays are sent
/// as JSON.
pub(super) fn to_text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::Bool(value) => Some(value.to_string()),
        Value::Number(value) => Some(value.to_string()),
        Value::String(value) => Some(value.clone()),
        Value::Array(_) | Value::Object(_) => Some(value.to_string()),
    }
}

/// Name of a built-in type, as people write it; `None` for one that a database made itself.
pub(super) fn type_name(oid: u32) -> Option<String> {
    let name = Type::from_oid(oid)?.name().to_owned();
    Some(match name.strip_prefix('_') {
        Some(element) => format!("{element}[]"),
        None => name,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_keep_their_meaning() {
        for (kind, text, want) in [
            (Type::INT4, "-7", json!(-7)),
            (
                Type::INT8,
                "9007199254740991",
                json!(9_007_199_254_740_991_i64),
            ),
            (Type::INT8, "9007199254740992", json!("9007199254740992")),
            (
                Type::INT8,
                "-9223372036854775808",
                json!("-9223372036854775808"),
            ),
            (Type::FLOAT8, "1.5", json!(1.5)),
            (Type::FLOAT8, "NaN", json!("NaN")),
            (Type::FLOAT8, "-Infinity", json!("-Infinity")),
            (Type::NUMERIC, "1.10", json!("1.10")),
            (Type::BOOL, "t", json!(true)),
            (Type::BOOL, "f", json!(false)),
            (Type::JSONB, "{\"a\": [1]}", json!({"a": [1]})),
            (Type::TEXT, "1", json!("1")),
            (Type::INT4_ARRAY, "{1,2}", json!("{1,2}")),
        ] {
            assert_eq!(to_json(kind.oid(), text), want, "{kind} {text}");
        }
        assert_eq!(to_json(4_000_000, "x"), json!("x"));
    }

    #[test]
    fn parameters_become_text() {
        for (value, want) in [
            (json!(null), None),
            (json!(true), Some("true")),
            (json!(1.5), Some("1.5")),
            (json!("it's"), Some("it's")),
            (json!([1, "a"]), Some("[1,\"a\"]")),
        ] {
            assert_eq!(to_text(&value).as_deref(), want, "{value}");
        }
    }

    #[test]
    fn types_have_names() {
        assert_eq!(type_name(Type::INT4.oid()).as_deref(), Some("int4"));
        assert_eq!(type_name(Type::TEXT_ARRAY.oid()).as_deref(), Some("text[]"));
        assert_eq!(type_name(4_000_000), None);
    }
}
