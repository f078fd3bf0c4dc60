//! The types of a database as text of TypeScript: in the shape that `supabase-js` takes, from which others are made.

use std::fmt::Write as _;

use super::{
    Values,
    read::{Column, Given, Kind, Relation, Schema},
    value::{self, Way},
};

const HEAD: &str = "// Made by `tenantry gen types`. Make it anew when the schema changes; do not edit it.\n\n\
    export type Json = string | number | boolean | null | { [key: string]: Json | undefined } | Json[];\n";
/// As `pg-types` makes it: what is zero is not there.
const INTERVAL: &str = "\nexport type Interval = {\n  years?: number;\n  months?: number;\n  days?: number;\n  \
    hours?: number;\n  minutes?: number;\n  seconds?: number;\n  milliseconds?: number;\n};\n";
const TAIL: &str = r#"
type Relations<S extends keyof Database> = Database[S]["Tables"] & Database[S]["Views"];

/** A row of a table or a view as it is read. */
export type Tables<T extends keyof Relations<S>, S extends keyof Database = "PUBLIC"> =
  Relations<S>[T] extends { Row: infer R } ? R : never;
/** What a row is inserted from: without what PostgreSQL gives itself. */
export type TablesInsert<T extends keyof Relations<S>, S extends keyof Database = "PUBLIC"> =
  Relations<S>[T] extends { Insert: infer I } ? I : never;
/** What a row is updated from. */
export type TablesUpdate<T extends keyof Relations<S>, S extends keyof Database = "PUBLIC"> =
  Relations<S>[T] extends { Update: infer U } ? U : never;
/** Labels of an enumeration. */
export type Enums<T extends keyof Database[S]["Enums"], S extends keyof Database = "PUBLIC"> = Database[S]["Enums"][T];
"#;
/// Nothing, in a form that takes no name.
const EMPTY: &str = "{ [_ in never]: never };\n";

/// A text of TypeScript in quotes.
pub(super) fn quoted(text: &str) -> String {
    // JSON's strings are TypeScript's; writing one does not fail.
    serde_json::to_string(text).unwrap_or_default()
}

/// The name of a property, quoted where it must be.
fn property(name: &str) -> String {
    let mut chars = name.chars();
    let is_first = |c: char| c.is_ascii_alphabetic() || c == '_' || c == '$';
    let is_plain =
        chars.next().is_some_and(is_first) && chars.all(|c| is_first(c) || c.is_ascii_digit());
    if is_plain {
        name.to_owned()
    } else {
        quoted(name)
    }
}

/// All of it. The same database gives the same text.
pub(super) fn typescript(schema: &Schema, values: Values) -> String {
    let mut body = Text::default();
    body.line("export type Database = {");
    body.depth += 1;
    for name in &schema.schemas {
        body.line(&format!("{}: {{", property(name)));
        body.depth += 1;
        one_schema(&mut body, schema, name, values);
        body.depth -= 1;
        body.line("};");
    }
    body.depth -= 1;
    body.line("};");
    let mut text = HEAD.to_owned();
    if body.text.contains(": Interval") {
        text.push_str(INTERVAL);
    }
    text.push('\n');
    text.push_str(&body.text);
    let public = schema.schemas.iter().find(|name| *name == "public");
    if let Some(default) = public.or(schema.schemas.first()) {
        text.push_str(&TAIL.replace("\"PUBLIC\"", &quoted(default)));
    }
    text
}

/// Lines, indented by two for each level.
#[derive(Default)]
struct Text {
    text: String,
    depth: usize,
}

impl Text {
    fn line(&mut self, line: &str) {
        let _ = writeln!(self.text, "{:1$}{line}", "", self.depth * 2);
    }

    /// As JSDoc, in the words of the database.
    fn comment(&mut self, comment: Option<&String>) {
        let Some(comment) = comment else { return };
        // It must not end before it ends.
        let comment = comment.replace("*/", "*\\/");
        let lines: Vec<&str> = comment.lines().map(str::trim_end).collect();
        match &lines[..] {
            [] => {}
            [one] => self.line(&format!("/** {one} */")),
            lines => {
                self.line("/**");
                for line in lines {
                    self.line(format!(" * {line}").trim_end());
                }
                self.line(" */");
            }
        }
    }

    /// A section that may be empty.
    fn section<T>(&mut self, name: &str, all: &[T], each: impl Fn(&mut Self, &T)) {
        if all.is_empty() {
            self.line(&format!("{name}: {}", EMPTY.trim_end()));
            return;
        }
        self.line(&format!("{name}: {{"));
        self.depth += 1;
        for one in all {
            each(self, one);
        }
        self.depth -= 1;
        self.line("};");
    }
}

fn one_schema(text: &mut Text, schema: &Schema, name: &str, values: Values) {
    let relations = |is: fn(Kind) -> bool| -> Vec<&Relation> {
        let all = schema.relations.iter();
        all.filter(|one| one.schema == name && is(one.kind))
            .collect()
    };
    let types = |kind: &str| {
        let all = schema.types.values();
        let mut found: Vec<_> = all
            .filter(|one| one.schema == name && one.kind == kind && !one.is_of_extension)
            .collect();
        found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        found
    };
    let tables = relations(|kind| kind == Kind::Table);
    text.section("Tables", &tables, |text, one| {
        table(text, schema, one, values)
    });
    let views = relations(|kind| matches!(kind, Kind::View { .. }));
    text.section("Views", &views, |text, one| view(text, schema, one, values));
    text.line(&format!("Functions: {}", EMPTY.trim_end()));
    text.section("Enums", &types("e"), |text, one| {
        text.comment(one.comment.as_ref());
        text.line(&format!("{}: {};", property(&one.name), value::labels(one)));
    });
    let composites = relations(|kind| kind == Kind::Composite);
    text.section("CompositeTypes", &composites, |text, one| {
        text.comment(one.comment.as_ref());
        fields(text, &property(&one.name), &one.columns, |column| {
            let of = value::of(schema, column.of, values, Way::Read);
            Some(format!(": {of} | null"))
        });
    });
    text.section("Domains", &types("d"), |text, one| {
        text.comment(one.comment.as_ref());
        let base = value::of(schema, one.base, values, Way::Read);
        text.line(&format!("{}: {base};", property(&one.name)));
    });
}

/// An object with a field for each column that `of` gives a type for.
fn fields(text: &mut Text, name: &str, columns: &[Column], of: impl Fn(&Column) -> Option<String>) {
    text.section(name, columns, |text, column| {
        if let Some(of) = of(column) {
            text.comment(column.comment.as_ref());
            text.line(&format!("{}{of};", property(&column.name)));
        }
    });
}

fn table(text: &mut Text, schema: &Schema, one: &Relation, values: Values) {
    let domain = |column: &Column| schema.types.get(&column.of).filter(|of| of.kind == "d");
    let is_null = |column: &Column| {
        !column.is_not_null && !domain(column).is_some_and(|domain| domain.is_not_null)
    };
    let typed = |column: &Column, way: Way| {
        let of = value::of(schema, column.of, values, way);
        let null = if is_null(column) { " | null" } else { "" };
        format!("{of}{null}")
    };
    let is_optional = |column: &Column| {
        column.given != Given::ByWriter
            || is_null(column)
            || domain(column).is_some_and(|domain| domain.has_default)
    };
    let written = |column: &Column, is_optional: bool| match (column.given, is_optional) {
        (Given::Always, _) => "?: never".to_owned(),
        (_, true) => format!("?: {}", typed(column, Way::Write)),
        (_, false) => format!(": {}", typed(column, Way::Write)),
    };
    text.comment(one.comment.as_ref());
    text.line(&format!("{}: {{", property(&one.name)));
    text.depth += 1;
    fields(text, "Row", &one.columns, |column| {
        Some(format!(": {}", typed(column, Way::Read)))
    });
    fields(text, "Insert", &one.columns, |column| {
        Some(written(column, is_optional(column)))
    });
    fields(text, "Update", &one.columns, |column| {
        Some(written(column, true))
    });
    relationships(text, schema, one);
    text.depth -= 1;
    text.line("};");
}

fn relationships(text: &mut Text, schema: &Schema, one: &Relation) {
    let keys = schema.keys.iter();
    let keys: Vec<_> = keys
        .filter(|key| key.schema == one.schema && key.table == one.name)
        .collect();
    if keys.is_empty() {
        return text.line("Relationships: [];");
    }
    let names = |names: &[String]| {
        let names: Vec<String> = names.iter().map(|name| quoted(name)).collect();
        format!("[{}]", names.join(", "))
    };
    text.line("Relationships: [");
    text.depth += 1;
    for key in keys {
        text.line("{");
        text.depth += 1;
        text.line(&format!("foreignKeyName: {};", quoted(&key.name)));
        text.line(&format!("columns: {};", names(&key.columns)));
        text.line(&format!("isOneToOne: {};", key.is_one_to_one));
        if key.to_schema != one.schema {
            text.line(&format!("referencedSchema: {};", quoted(&key.to_schema)));
        }
        text.line(&format!("referencedRelation: {};", quoted(&key.to_table)));
        text.line(&format!("referencedColumns: {};", names(&key.to_columns)));
        text.depth -= 1;
        text.line("},");
    }
    text.depth -= 1;
    text.line("];");
}

fn view(text: &mut Text, schema: &Schema, one: &Relation, values: Values) {
    let Kind::View { insert, update } = one.kind else {
        return;
    };
    text.comment(one.comment.as_ref());
    text.line(&format!("{}: {{", property(&one.name)));
    text.depth += 1;
    // Whether a column of a view can be null, PostgreSQL does not know.
    fields(text, "Row", &one.columns, |column| {
        let of = value::of(schema, column.of, values, Way::Read);
        Some(format!(": {of} | null"))
    });
    let written = |column: &Column| {
        let of = value::of(schema, column.of, values, Way::Write);
        let never = (!column.is_updatable).then(|| "?: never".to_owned());
        Some(never.unwrap_or_else(|| format!("?: {of} | null")))
    };
    if insert {
        fields(text, "Insert", &one.columns, written);
    }
    if update {
        fields(text, "Update", &one.columns, written);
    }
    text.line("Relationships: [];");
    text.depth -= 1;
    text.line("};");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_comments_of_users_stay_what_they_are() {
        for (name, is) in [
            ("plain_1", "plain_1"),
            ("$a", "$a"),
            ("1a", "\"1a\""),
            ("my-name", "\"my-name\""),
            ("größe", "\"größe\""),
            ("a\"b\\\n", "\"a\\\"b\\\\\\n\""),
            ("", "\"\""),
        ] {
            assert_eq!(property(name), is);
        }
        let mut text = Text {
            depth: 1,
            ..Text::default()
        };
        text.comment(Some(&"one */ evil(); /*".to_owned()));
        text.comment(Some(&"two\n\nlines ".to_owned()));
        text.comment(Some(&String::new()));
        assert_eq!(
            text.text,
            "  /** one *\\/ evil(); /* */\n  /**\n   * two\n   *\n   * lines\n   */\n"
        );
    }
}
