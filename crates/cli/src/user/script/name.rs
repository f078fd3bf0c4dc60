//! Names in what pg_dump writes.

/// A table: its schema and its own name, without quotes.
pub(in crate::user) type Name = (String, String);

/// The table of a `COPY schema.table (…) FROM stdin`; `None` when it is not named so.
pub(super) fn copied(text: &str) -> Option<Name> {
    let (schema, rest) = first(text.strip_prefix("COPY ")?)?;
    let (table, rest) = first(rest.strip_prefix('.')?)?;
    rest.starts_with(' ').then_some((schema, table))
}

/// The name that a text begins with, and what follows it.
pub(super) fn first(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
        let end = text.find(|c| !is_word(c)).unwrap_or(text.len());
        let (name, rest) = text.split_at(end);
        return (!name.is_empty()).then(|| (name.to_owned(), rest));
    };
    let mut name = String::new();
    let mut rest = quoted;
    loop {
        let (part, behind) = rest.split_once('"')?;
        name.push_str(part);
        match behind.strip_prefix('"') {
            Some(behind) => {
                name.push('"');
                rest = behind;
            }
            None => return Some((name, behind)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_a_copy_is_read_as_pg_dump_writes_it() {
        let name = |schema: &str, table: &str| Some((schema.to_owned(), table.to_owned()));
        for (text, is) in [
            ("COPY public.t (a, b) FROM stdin", name("public", "t")),
            (
                "COPY \"a.b\".\"c \"\"d\" (a) FROM stdin",
                name("a.b", "c \"d"),
            ),
            ("COPY größe.t  FROM stdin", name("größe", "t")),
            ("copy t from stdin", None),
            ("COPY t (a) FROM stdin", None),
            ("COPY \"a.b", None),
        ] {
            assert_eq!(copied(text), is, "{text}");
        }
    }
}
