//! What a value of a type of PostgreSQL is in a program.
//!
//! Of node-postgres: what `pg-types` has a parser for; everything else comes as PostgreSQL's text. Of SQL over
//! HTTP: `docs/sql-over-http.md`, "Values". Of JSON: what `to_json` makes.

use super::{
    Values,
    read::{Schema, Type},
    text::quoted,
};

/// Domains over domains are followed so far. PostgreSQL has no cycles of them.
const DEPTH_MAX: usize = 32;

/// What arrays node-postgres reads. Others come as one text: `{a,b}`.
const PG_ARRAYS: [&str; 28] = [
    "cidr",
    "bool",
    "bytea",
    "int2",
    "int4",
    "oid",
    "int8",
    "point",
    "float4",
    "float8",
    "numeric",
    "bpchar",
    "varchar",
    "regproc",
    "text",
    "macaddr",
    "inet",
    "timestamp",
    "date",
    "timestamptz",
    "interval",
    "json",
    "jsonb",
    "numrange",
    "uuid",
    "money",
    "time",
    "timetz",
];

/// Which way a value goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Way {
    /// Out of the database.
    Read,
    /// Into it.
    Write,
}

/// The type in TypeScript of a value of the type `oid`, without null.
pub(super) fn of(schema: &Schema, oid: u32, values: Values, way: Way) -> String {
    typed(schema, oid, values, way, 0)
}

fn typed(schema: &Schema, oid: u32, values: Values, way: Way, depth: usize) -> String {
    let Some(one) = schema.types.get(&oid).filter(|_| depth < DEPTH_MAX) else {
        return "unknown".to_owned();
    };
    if one.element != 0 {
        return array(schema, one, values, way, depth);
    }
    let is_generated = schema.schemas.contains(&one.schema) && !one.is_of_extension;
    match &*one.kind {
        "e" if is_generated => reference(one, "Enums"),
        "e" => labels(one),
        "d" => {
            let base = |way| typed(schema, one.base, values, way, depth + 1);
            if is_generated && base(way) == base(Way::Read) {
                reference(one, "Domains")
            } else {
                base(way)
            }
        }
        "c" if values != Values::Json => "string".to_owned(),
        "c" if is_generated && one.relation_kind == "c" => reference(one, "CompositeTypes"),
        "c" => "Json".to_owned(),
        "b" if one.schema == "pg_catalog" => base(&one.name, values, way).to_owned(),
        "b" if values == Values::Json && one.category != "S" => "Json".to_owned(),
        "p" => "unknown".to_owned(),
        _ => "string".to_owned(),
    }
}

fn array(schema: &Schema, one: &Type, values: Values, way: Way, depth: usize) -> String {
    let element = schema.types.get(&one.element);
    let name = element.map_or("", |element| &element.name);
    let is_read = element.is_some_and(|e| e.schema == "pg_catalog") && PG_ARRAYS.contains(&name);
    if values == Values::Pg && !is_read {
        // As a text either way: a list would be sent right, and come back as a text.
        return "string".to_owned();
    }
    let element = match (values, way, name) {
        // Whoever wrote `pg-types` made these numbers, and single ones texts.
        (Values::Pg, Way::Read, "numeric") => "number".to_owned(),
        _ => typed(schema, one.element, values, way, depth + 1),
    };
    if element.contains(['|', ' ']) {
        format!("({element})[]")
    } else {
        format!("{element}[]")
    }
}

fn reference(one: &Type, section: &str) -> String {
    format!(
        "Database[{}][\"{section}\"][{}]",
        quoted(&one.schema),
        quoted(&one.name)
    )
}

/// The labels of an enumeration.
pub(super) fn labels(one: &Type) -> String {
    if one.labels.is_empty() {
        return "never".to_owned();
    }
    let all: Vec<String> = one.labels.iter().map(|label| quoted(label)).collect();
    all.join(" | ")
}

/// Types of PostgreSQL itself.
fn base(name: &str, values: Values, way: Way) -> &'static str {
    use Values::{Http, Json, Pg};
    match (name, values, way) {
        ("bool", _, _) => "boolean",
        ("int2" | "int4" | "oid" | "float4" | "float8", _, _) => "number",
        ("int8" | "numeric", Json, _) => "number",
        ("int8", Pg, Way::Write) => "string | number | bigint",
        ("int8" | "numeric", Pg | Http, Way::Write) => "string | number",
        ("json" | "jsonb", _, _) => "Json",
        ("bytea", Pg, Way::Read) => "Uint8Array",
        ("bytea", Pg, Way::Write) => "Uint8Array | string",
        ("date" | "timestamp" | "timestamptz", Pg, Way::Read) => "Date",
        ("date" | "timestamp" | "timestamptz", Pg, Way::Write) => "Date | string",
        ("interval", Pg, Way::Read) => "Interval",
        ("point", Pg, Way::Read) => "{ x: number; y: number }",
        ("circle", Pg, Way::Read) => "{ x: number; y: number; radius: number }",
        _ => "string",
    }
}
