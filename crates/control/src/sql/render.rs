//! PostgreSQL's text values as JSON.
//!
//! Integers of up to 32 bits and `float` are numbers; a float's infinities and NaN are texts. `int8` and
//! `numeric` are texts, exact, whatever their size. `bool` is a boolean. `json` and `jsonb` stand as they
//! are. An array is a list, nested as it is, of values by these same rules. All else is
//! PostgreSQL's text.

use std::{collections::HashMap, fmt::Write};

use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::DataRowBody;
use tokio_postgres::types::{Kind, Type};

use super::client::{Column, Outcome};

/// How values of a type are written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Scalar {
    Number,
    Bool,
    Json,
    Text,
}

/// How a column is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Shape {
    Scalar(Scalar),
    Array { element: Scalar, delimiter: char },
}

/// A type: its name as people write it, and how its values are written.
#[derive(Clone, Debug)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) shape: Shape,
}

/// What is known of types.
#[derive(Debug, Default)]
pub(super) struct Types(pub(super) HashMap<u32, Named>);

impl Types {
    /// The built-in ones among the columns; the oids of the others come back.
    pub(super) fn of(columns: impl Iterator<Item = u32>) -> (Self, Vec<u32>) {
        let (mut known, mut unknown) = (HashMap::new(), Vec::new());
        for oid in columns {
            match built_in(oid) {
                Some(named) => drop(known.insert(oid, named)),
                None => unknown.push(oid),
            }
        }
        unknown.sort_unstable();
        unknown.dedup();
        (Self(known), unknown)
    }

    fn shape(&self, oid: u32) -> Shape {
        self.0
            .get(&oid)
            .map_or(Shape::Scalar(Scalar::Text), |named| named.shape)
    }

    /// A value of a column of this type.
    pub(super) fn write(&self, oid: u32, text: &str, out: &mut String) {
        write_value(self.shape(oid), text, out);
    }

    fn name(&self, oid: u32) -> &str {
        self.0.get(&oid).map_or("unknown", |named| &named.name)
    }
}

/// How values of a built-in type that is no array are written; those of any other as text.
pub(super) fn scalar(oid: u32) -> Scalar {
    match Type::from_oid(oid) {
        Some(Type::INT2 | Type::INT4 | Type::OID | Type::FLOAT4 | Type::FLOAT8) => Scalar::Number,
        Some(Type::BOOL) => Scalar::Bool,
        Some(Type::JSON | Type::JSONB) => Scalar::Json,
        _ => Scalar::Text,
    }
}

fn built_in(oid: u32) -> Option<Named> {
    let kind = Type::from_oid(oid)?;
    let (name, shape) = match kind.kind() {
        // The vectors of the catalog are arrays by name only: their text is another.
        Kind::Array(element) if kind.name().starts_with('_') => {
            let shape = Shape::Array {
                element: scalar(element.oid()),
                delimiter: if kind == Type::BOX_ARRAY { ';' } else { ',' },
            };
            (format!("{}[]", element.name()), shape)
        }
        _ => (kind.name().to_owned(), Shape::Scalar(scalar(oid))),
    };
    Some(Named { name, shape })
}

/// `{"columns": …, "rows": …, "row_count": …, "command": …}` without its last brace.
pub(super) fn begin_result(outcome: &Outcome, types: &Types, out: &mut String) {
    out.push_str("{\"columns\":[");
    separated(&outcome.columns, out, |column, out| {
        out.push_str("{\"name\":");
        string(&column.name, out);
        out.push_str(",\"type\":");
        string(types.name(column.oid), out);
        out.push('}');
    });
    out.push_str("],\"rows\":[");
    separated(&outcome.rows, out, |row, out| {
        list(row, &outcome.columns, types, out);
    });
    let _ = write!(
        out,
        "],\"row_count\":{},\"command\":",
        row_count(&outcome.tag).unwrap_or(outcome.rows.len() as u64)
    );
    string(command(&outcome.tag), out);
}

fn list(row: &DataRowBody, columns: &[Column], types: &Types, out: &mut String) {
    out.push('[');
    let mut index = 0;
    each(row, columns, |column, value| {
        if index > 0 {
            out.push(',');
        }
        index += 1;
        match value {
            None => out.push_str("null"),
            Some(text) => types.write(column.oid, &text, out),
        }
    });
    out.push(']');
}

/// Values of a row with their columns. The protocol promises as many as there are columns.
pub(super) fn each<'c>(
    row: &DataRowBody,
    columns: &'c [Column],
    mut with: impl FnMut(&'c Column, Option<std::borrow::Cow<'_, str>>),
) {
    let mut ranges = row.ranges();
    for column in columns {
        let range = ranges.next().ok().flatten().flatten();
        let value = range.map(|range| {
            let bytes = row.buffer().get(range).unwrap_or_default();
            String::from_utf8_lossy(bytes)
        });
        with(column, value);
    }
}

/// Writes all, with commas between.
pub(super) fn separated<T>(items: &[T], out: &mut String, mut with: impl FnMut(&T, &mut String)) {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        with(item, out);
    }
}

/// A JSON string.
pub(super) fn string(text: &str, out: &mut String) {
    out.push_str(&serde_json::to_string(text).expect("a text is plain data"));
}

/// A value of which the shape is known.
fn write_value(shape: Shape, text: &str, out: &mut String) {
    match shape {
        Shape::Scalar(scalar) => write_scalar(scalar, text, out),
        Shape::Array { element, delimiter } => {
            let start = out.len();
            let mut array = Array {
                rest: text,
                element,
                delimiter,
            };
            if array.whole(out).is_none() {
                // Not as arrays are written; what there is, is told.
                out.truncate(start);
                string(text, out);
            }
        }
    }
}

fn write_scalar(scalar: Scalar, text: &str, out: &mut String) {
    match scalar {
        // PostgreSQL's digits, all of them; NaN and the infinities are no JSON.
        Scalar::Number
            if text
                .bytes()
                .all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b)) =>
        {
            out.push_str(text);
        }
        Scalar::Bool => out.push_str(if text == "t" { "true" } else { "false" }),
        Scalar::Json => out.push_str(text),
        Scalar::Number | Scalar::Text => string(text, out),
    }
}

/// How deep PostgreSQL nests arrays (MAXDIM).
const DIMENSIONS_MAX: usize = 6;

/// PostgreSQL's text of an array, being read. Manual, section "Array Input and Output Syntax".
struct Array<'t> {
    rest: &'t str,
    element: Scalar,
    delimiter: char,
}

impl Array<'_> {
    fn whole(&mut self, out: &mut String) -> Option<()> {
        // Bounds that are not the usual ones: [0:1]={…}
        if self.rest.starts_with('[') {
            self.rest = self.rest.split_once('=')?.1;
        }
        self.list(out, DIMENSIONS_MAX)?;
        self.rest.is_empty().then_some(())
    }

    fn take(&mut self, wanted: char) -> bool {
        match self.rest.strip_prefix(wanted) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn list(&mut self, out: &mut String, depth: usize) -> Option<()> {
        if depth == 0 || !self.take('{') {
            return None;
        }
        out.push('[');
        if !self.take('}') {
            loop {
                self.item(out, depth)?;
                if self.take(self.delimiter) {
                    out.push(',');
                } else if self.take('}') {
                    break;
                } else {
                    return None;
                }
            }
        }
        out.push(']');
        Some(())
    }

    fn item(&mut self, out: &mut String, depth: usize) -> Option<()> {
        if self.rest.starts_with('{') {
            return self.list(out, depth - 1);
        }
        if self.take('"') {
            let text = self.quoted()?;
            write_scalar(self.element, &text, out);
            return Some(());
        }
        let end = self.rest.find([self.delimiter, '}'])?;
        let (text, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest;
        if text.eq_ignore_ascii_case("NULL") {
            out.push_str("null");
        } else {
            write_scalar(self.element, text, out);
        }
        Some(())
    }

    fn quoted(&mut self) -> Option<String> {
        let mut text = String::new();
        let mut characters = self.rest.chars();
        loop {
            match characters.next()? {
                '"' => break,
                '\\' => text.push(characters.next()?),
                character => text.push(character),
            }
        }
        self.rest = characters.as_str();
        Some(text)
    }
}

/// `INSERT 0 3` → 3; `None` for statements without a count.
pub(super) fn row_count(tag: &str) -> Option<u64> {
    tag.rsplit(' ').next().and_then(|word| word.parse().ok())
}

/// `INSERT 0 3` → `INSERT`
pub(super) fn command(tag: &str) -> &str {
    tag.trim_end_matches(|c: char| c.is_ascii_digit() || c == ' ')
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[track_caller]
    fn check(kind: &Type, text: &str, want: &Value) {
        let named = built_in(kind.oid()).unwrap();
        let mut out = String::new();
        write_value(named.shape, text, &mut out);
        let got: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}"));
        assert_eq!(got, *want, "{kind} {text}");
    }

    #[test]
    fn values_keep_their_meaning() {
        check(&Type::INT4, "-7", &json!(-7));
        check(&Type::INT8, "2", &json!("2"));
        check(
            &Type::INT8,
            "-9223372036854775808",
            &json!("-9223372036854775808"),
        );
        check(&Type::FLOAT8, "1.5", &json!(1.5));
        check(&Type::FLOAT8, "1e-07", &json!(1e-7));
        check(&Type::FLOAT8, "NaN", &json!("NaN"));
        check(&Type::FLOAT8, "-Infinity", &json!("-Infinity"));
        check(&Type::NUMERIC, "1.10", &json!("1.10"));
        check(&Type::BOOL, "t", &json!(true));
        check(&Type::BOOL, "f", &json!(false));
        check(&Type::JSONB, "{\"a\": [1]}", &json!({"a": [1]}));
        check(&Type::TEXT, "1\n\"", &json!("1\n\""));
        check(&Type::BYTEA, "\\x00ff", &json!("\\x00ff"));
    }

    #[test]
    fn arrays_become_lists() {
        check(&Type::INT4_ARRAY, "{1,NULL,3}", &json!([1, null, 3]));
        check(&Type::INT4_ARRAY, "{}", &json!([]));
        check(&Type::INT8_ARRAY, "{1}", &json!(["1"]));
        check(&Type::INT4_ARRAY, "{{1,2},{3,4}}", &json!([[1, 2], [3, 4]]));
        check(&Type::INT4_ARRAY, "[0:1]={1,2}", &json!([1, 2]));
        check(
            &Type::TEXT_ARRAY,
            r#"{a,"NULL",NULL,"b,}\"\\",""}"#,
            &json!(["a", "NULL", null, "b,}\"\\", ""]),
        );
        check(
            &Type::JSONB_ARRAY,
            r#"{"{\"a\": 1}",null}"#,
            &json!([{"a": 1}, null]),
        );
        check(&Type::BOOL_ARRAY, "{t,f}", &json!([true, false]));
        check(
            &Type::BOX_ARRAY,
            "{(1,1),(0,0);(2,2),(1,1)}",
            &json!(["(1,1),(0,0)", "(2,2),(1,1)"]),
        );
        check(&Type::INT2_VECTOR, "1 2", &json!("1 2"));
        for broken in ["{1", "1", "{1}x", "{\"a}", "{{{{{{{1}}}}}}}"] {
            check(&Type::INT4_ARRAY, broken, &json!(broken));
        }
    }

    #[test]
    fn types_have_names() {
        for (kind, name) in [
            (Type::INT4, "int4"),
            (Type::TEXT_ARRAY, "text[]"),
            (Type::INT2_VECTOR, "int2vector"),
        ] {
            assert_eq!(built_in(kind.oid()).unwrap().name, name);
        }
        assert!(built_in(4_000_000).is_none());
    }

    #[test]
    fn tags_are_taken_apart() {
        for (tag, name, count) in [
            ("SELECT 2", "SELECT", Some(2)),
            ("INSERT 0 3", "INSERT", Some(3)),
            ("CREATE TABLE", "CREATE TABLE", None),
            ("", "", None),
        ] {
            assert_eq!((command(tag), row_count(tag)), (name, count), "{tag}");
        }
    }
}
