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
    /// Qualified, quoted as in SQL.
    name: String,
    definition: String,
}

/// An object that both have, and that is not the same.
#[derive(Debug, Eq, PartialEq, Serialize, ToSchema)]
pub(crate) struct Changed {
    kind: String,
    name: String,
    /// Definition in the parent, with its owner, grants and comment.
    parent: String,
    /// In the branch.
    branch: String,
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
    let index = |objects: Vec<Object>| -> BTreeMap<(String, String), String> {
        let relevant = |object: &Object| {
            // Of a login, which owns nothing: never carried over.
            object.kind != "large objects"
                && (object.kind != "default grants" || !object.name.starts_with("x_"))
        };
        objects
            .into_iter()
            .filter(relevant)
            .map(|object| {
                (
                    (object.kind, object.name),
                    words(object.definition, &object.rights),
                )
            })
            .collect()
    };
    let (old, mut new) = (index(parent.0), index(branch.0));
    let (mut removed, mut changed) = (Vec::new(), Vec::new());
    for ((kind, name), before) in old {
        match new.remove(&(kind.clone(), name.clone())) {
            None => removed.push(OneSided {
                kind,
                name,
                definition: before,
            }),
            Some(after) if after != before => changed.push(Changed {
                kind,
                name,
                parent: before,
                branch: after,
            }),
            Some(_) => {}
        }
    }
    let added: Vec<_> = new
        .into_iter()
        .map(|((kind, name), definition)| OneSided {
            kind,
            name,
            definition,
        })
        .collect();
    Diff {
        same_schema: added.is_empty() && removed.is_empty() && changed.is_empty(),
        added,
        removed,
        changed,
        rows: rows(parent.1, branch.1),
    }
}

fn words(definition: String, rights: &str) -> String {
    match (definition.is_empty(), rights.is_empty()) {
        (_, true) => definition,
        (true, false) => rights.to_owned(),
        (false, false) => format!("{}; {rights}", definition.trim_end()),
    }
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
                    object("table", "a", "x", "owner o"),
                    object("table", "b", "x", ""),
                ],
                vec![count("a", 1), count("b", 2)],
            ),
            (
                vec![
                    object("table", "a", "x", "owner o"),
                    object("view", "b", "x", ""),
                ],
                vec![count("a", 5)],
            ),
        );
        assert!(!found.same_schema && found.changed.is_empty());
        assert_eq!(
            (&*found.added[0].kind, &*found.added[0].name),
            ("view", "b")
        );
        assert_eq!(
            (&*found.removed[0].kind, &*found.removed[0].name),
            ("table", "b")
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
        assert_eq!(found.changed[0].branch, "x; grants w");
        assert!(diff(side("grants r", "1"), side("grants r", "2")).same_schema);
    }
}
