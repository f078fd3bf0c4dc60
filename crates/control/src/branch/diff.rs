//! What a branch has that its parent has not, and the other way round.
//!
//! Owns: comparing two lists of objects. Does not own: the lists (`node`).

use std::collections::BTreeMap;

use node::{Object, RowCount};
use serde::Serialize;
use utoipa::ToSchema;

/// An object that only one of the two has.
#[derive(Debug, Eq, PartialEq, Serialize, ToSchema)]
pub(crate) struct OneSided {
    /// `table`, `column`, `index`, `function`, …
    kind: String,
    /// The schema it lies in, without quotes; null for what lies in none, as an extension.
    schema: Option<String>,
    /// Qualified, quoted as in SQL: `public.notes` of a table, `public.notes.title` of its column.
    name: String,
    /// What it is, one property in a line, in the words of SQL; then its owner, its grants and its comment.
    definition: Vec<String>,
}

/// An object that both have, and that is not the same.
#[derive(Debug, Eq, PartialEq, Serialize, ToSchema)]
pub(crate) struct Changed {
    kind: String,
    /// As of one that only one side has.
    schema: Option<String>,
    name: String,
    /// Its definition in the parent, in lines.
    before: Vec<String>,
    /// Its definition in the branch.
    after: Vec<String>,
}

/// Rows of a table; null where it is not there, or counting took too long.
#[derive(Debug, Eq, PartialEq, Serialize, ToSchema)]
pub(crate) struct Rows {
    table: String,
    parent: Option<u64>,
    branch: Option<u64>,
}

/// How a branch differs from its parent.
#[derive(Debug, Eq, PartialEq, Serialize, ToSchema)]
pub(crate) struct Diff {
    /// Whether there is no difference in objects. Rows do not count.
    pub(super) same_schema: bool,
    /// In the branch only.
    pub(super) added: Vec<OneSided>,
    /// In the parent only.
    pub(super) removed: Vec<OneSided>,
    pub(super) changed: Vec<Changed>,
    /// Of every table of either; counted now, one after another.
    pub(super) rows: Vec<Rows>,
}

/// Compares. Large objects are data: their numbers are not compared.
pub(super) fn diff(
    parent: (Vec<Object>, Vec<RowCount>),
    branch: (Vec<Object>, Vec<RowCount>),
) -> Diff {
    let index = |objects: Vec<Object>| -> BTreeMap<(String, String), Object> {
        let relevant = |object: &Object| {
            // Of a login, which owns nothing: never carried over.
            object.kind != "large objects"
                && (object.kind != "default grants" || !object.name.starts_with("x_"))
        };
        objects
            .into_iter()
            .filter(relevant)
            .map(|object| ((object.kind.clone(), object.name.clone()), object))
            .collect()
    };
    let (old, mut new) = (index(parent.0), index(branch.0));
    let (mut removed, mut changed) = (Vec::new(), Vec::new());
    for (key, before) in old {
        match new.remove(&key) {
            None => removed.push(OneSided::of(before)),
            Some(after) if after != before => changed.push(Changed {
                schema: before.schema(),
                before: lines(&before),
                after: lines(&after),
                kind: before.kind,
                name: before.name,
            }),
            Some(_) => {}
        }
    }
    let added: Vec<_> = new.into_values().map(OneSided::of).collect();
    Diff {
        same_schema: added.is_empty() && removed.is_empty() && changed.is_empty(),
        added,
        removed,
        changed,
        rows: rows(parent.1, branch.1),
    }
}

impl OneSided {
    fn of(object: Object) -> Self {
        Self {
            schema: object.schema(),
            definition: lines(&object),
            kind: object.kind,
            name: object.name,
        }
    }
}

fn lines(object: &Object) -> Vec<String> {
    let definition = object.definition.trim_end_matches('\n');
    let all = definition.split('\n').chain(object.rights.split('\n'));
    all.filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect()
}

fn rows(parent: Vec<RowCount>, branch: Vec<RowCount>) -> Vec<Rows> {
    let mut all: BTreeMap<String, (Option<u64>, Option<u64>)> = parent
        .into_iter()
        .map(|count| (count.table, (count.rows, None)))
        .collect();
    for count in branch {
        all.entry(count.table).or_default().1 = count.rows;
    }
    all.into_iter()
        .map(|(table, (parent, branch))| Rows {
            table,
            parent,
            branch,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(kind: &str, name: &str, definition: &str, rights: &str) -> Object {
        Object {
            kind: kind.to_owned(),
            name: name.to_owned(),
            definition: definition.to_owned(),
            rights: rights.to_owned(),
        }
    }

    fn count(table: &str, rows: u64) -> RowCount {
        RowCount {
            table: table.to_owned(),
            rows: Some(rows),
        }
    }

    #[test]
    fn what_is_on_one_side_only_is_added_or_removed() {
        let found = diff(
            (
                vec![
                    object("table", "s.a", "x", "owner o"),
                    object("table", "s.b", "x", ""),
                ],
                vec![count("a", 1), count("b", 2)],
            ),
            (
                vec![
                    object("table", "s.a", "x", "owner o"),
                    object("view", "s.b", "x\n  y\n", "owner o\ngrant select to r"),
                ],
                vec![count("a", 5)],
            ),
        );
        assert!(!found.same_schema && found.changed.is_empty());
        assert_eq!(
            (&*found.added[0].kind, &*found.added[0].name),
            ("view", "s.b")
        );
        assert_eq!(found.added[0].schema.as_deref(), Some("s"));
        assert_eq!(
            found.added[0].definition,
            ["x", "  y", "owner o", "grant select to r"]
        );
        assert_eq!(
            (&*found.removed[0].kind, &*found.removed[0].name),
            ("table", "s.b")
        );
        let counts: Vec<_> = found
            .rows
            .iter()
            .map(|rows| (&*rows.table, rows.parent, rows.branch))
            .collect();
        assert_eq!(counts, [("a", Some(1), Some(5)), ("b", Some(2), None)]);
    }

    #[test]
    fn a_grant_is_a_change_and_a_large_object_is_none() {
        let side = |grants, large| {
            let objects = vec![
                object("table", "a", "x", grants),
                object("large objects", "o", large, ""),
            ];
            (objects, Vec::new())
        };
        let found = diff(side("grants r", "1"), side("grants w", "1"));
        assert_eq!(found.changed.len(), 1);
        assert_eq!(found.changed[0].before, ["x", "grants r"]);
        assert_eq!(found.changed[0].after, ["x", "grants w"]);
        assert!(diff(side("grants r", "1"), side("grants r", "2")).same_schema);
    }
}
