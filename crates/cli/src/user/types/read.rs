//! What a database is made of, as its catalog says at one moment. Nothing that a user wrote is evaluated.

use std::collections::BTreeMap;

use tokio_postgres::{Row, types::Type as Sql};

use crate::{
    exit::{Exit, Failure},
    user::script::{Session, told},
};

const BEGIN: &str =
    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL search_path = pg_catalog";
/// In the order of their bytes, whatever the database sorts by.
const SCHEMAS: &str = "SELECT nspname::text FROM pg_namespace n \
    WHERE CASE WHEN cardinality($1::text[]) > 0 THEN nspname = ANY ($1) \
      ELSE nspname !~ '^pg_' AND nspname <> 'information_schema' AND NOT EXISTS (SELECT FROM pg_depend d \
        WHERE d.classid = 'pg_namespace'::regclass AND d.objid = n.oid AND d.deptype = 'e') END \
    ORDER BY nspname COLLATE \"C\"";
/// Columns of everything that has some, partitions left out: they are read and written by their table.
const COLUMNS: &str = "SELECT n.nspname::text, c.relname::text, c.relkind::text, \
      CASE c.relkind WHEN 'c' THEN obj_description(c.reltype, 'pg_type') ELSE obj_description(c.oid, 'pg_class') END, \
      a.attname::text, a.atttypid, a.attnotnull, a.atthasdef, a.attidentity::text, a.attgenerated::text, \
      col_description(c.oid, a.attnum), \
      c.relkind = 'v' AND pg_relation_is_updatable(c.oid, false) & 8 = 8, \
      c.relkind = 'v' AND pg_relation_is_updatable(c.oid, false) & 4 = 4, \
      c.relkind = 'v' AND a.attnum IS NOT NULL AND pg_column_is_updatable(c.oid, a.attnum, false) \
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
    WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm', 'c') AND NOT c.relispartition AND n.nspname = ANY ($1) \
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.deptype = 'e' \
      AND (d.classid, d.objid) IN (('pg_class'::regclass, c.oid), ('pg_type'::regclass, c.reltype))) \
    ORDER BY n.nspname COLLATE \"C\", c.relname COLLATE \"C\", a.attnum";
/// Every type there is: columns may be of those of other schemas.
const TYPES: &str = "SELECT t.oid, n.nspname::text, t.typname::text, t.typtype::text, t.typcategory::text, \
      CASE WHEN t.typcategory = 'A' THEN t.typelem ELSE 0::oid END, t.typbasetype, t.typnotnull, t.typdefault IS NOT NULL, \
      coalesce(c.relkind::text, ''), \
      ARRAY(SELECT e.enumlabel::text FROM pg_enum e WHERE e.enumtypid = t.oid ORDER BY e.enumsortorder), \
      obj_description(t.oid, 'pg_type'), \
      EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e') \
    FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace LEFT JOIN pg_class c ON c.oid = t.typrelid \
    ORDER BY n.nspname COLLATE \"C\", t.typname COLLATE \"C\"";
/// Foreign keys, by table and name.
const KEYS: &str = "SELECT n.nspname::text, c.relname::text, k.conname::text, rn.nspname::text, r.relname::text, \
      ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY AS u(num, at) \
        JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.num ORDER BY u.at), \
      ARRAY(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY AS u(num, at) \
        JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.num ORDER BY u.at), \
      EXISTS (SELECT FROM pg_constraint u WHERE u.conrelid = k.conrelid AND u.contype IN ('p', 'u') \
        AND u.conkey <@ k.conkey) \
    FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
    JOIN pg_class r ON r.oid = k.confrelid JOIN pg_namespace rn ON rn.oid = r.relnamespace \
    WHERE k.contype = 'f' AND k.conparentid = 0 AND NOT c.relispartition AND n.nspname = ANY ($1) \
    ORDER BY n.nspname COLLATE \"C\", c.relname COLLATE \"C\", k.conname COLLATE \"C\"";

/// What is generated from.
#[derive(Debug, Default)]
pub(super) struct Schema {
    /// Schemas that are generated, by name.
    pub(super) schemas: Vec<String>,
    /// By schema and name.
    pub(super) relations: Vec<Relation>,
    /// Every type, also PostgreSQL's own.
    pub(super) types: BTreeMap<u32, Type>,
    pub(super) keys: Vec<Key>,
}

/// What has columns.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Table,
    /// Of views that PostgreSQL itself can write through.
    View {
        insert: bool,
        update: bool,
    },
    Composite,
}

#[derive(Debug)]
pub(super) struct Relation {
    pub(super) schema: String,
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) comment: Option<String>,
    pub(super) columns: Vec<Column>,
}

/// Who gives a column its value.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Given {
    /// Whoever inserts.
    ByWriter,
    /// PostgreSQL, unless somebody does.
    ByDefault,
    /// PostgreSQL alone.
    Always,
}

#[derive(Debug)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) of: u32,
    pub(super) is_not_null: bool,
    pub(super) given: Given,
    pub(super) comment: Option<String>,
    /// Of a view.
    pub(super) is_updatable: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Type {
    pub(super) schema: String,
    pub(super) name: String,
    /// `pg_type.typtype`
    pub(super) kind: String,
    pub(super) category: String,
    /// 0: it is no array.
    pub(super) element: u32,
    pub(super) base: u32,
    pub(super) is_not_null: bool,
    pub(super) has_default: bool,
    /// Of a row type.
    pub(super) relation_kind: String,
    pub(super) labels: Vec<String>,
    pub(super) comment: Option<String>,
    pub(super) is_of_extension: bool,
}

/// A foreign key.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) schema: String,
    pub(super) table: String,
    pub(super) name: String,
    pub(super) to_schema: String,
    pub(super) to_table: String,
    pub(super) columns: Vec<String>,
    pub(super) to_columns: Vec<String>,
    /// No two rows refer to the same one.
    pub(super) is_one_to_one: bool,
}

/// Reads these schemas, or all that users made.
///
/// # Errors
///
/// [`Exit::NotFound`] for a schema that is not there; those of the session.
pub(super) async fn schema(session: &Session, named: &[String]) -> Result<Schema, Failure> {
    let begun = session.client.batch_execute(BEGIN).await;
    begun.map_err(|error| told(&error, None, ""))?;
    let named = &named;
    let schemas: Vec<String> = ask(session, SCHEMAS, named)
        .await?
        .iter()
        .map(|row| row.get(0))
        .collect();
    if let Some(missing) = named.iter().find(|name| !schemas.contains(name)) {
        return Err(Failure::new(
            Exit::NotFound,
            format!("there is no schema '{}'", missing.escape_default()),
            "its name as it is, without quotes",
        ));
    }
    let rows = ask(session, COLUMNS, &&schemas[..]).await?;
    let mut relations: Vec<Relation> = Vec::new();
    for row in &rows {
        let (of, name): (String, String) = (row.get(0), row.get(1));
        let is_new = relations
            .last()
            .is_none_or(|last| (&last.schema, &last.name) != (&of, &name));
        if is_new {
            relations.push(relation(of, name, row));
        }
        if let (Some(relation), Some(column)) = (relations.last_mut(), column(row)) {
            relation.columns.push(column);
        }
    }
    let types = session.client.query_typed(TYPES, &[]).await;
    let types = types.map_err(|error| told(&error, None, ""))?;
    let keys = ask(session, KEYS, &&schemas[..]).await?;
    Ok(Schema {
        schemas,
        relations,
        types: types.iter().map(|row| (row.get(0), of_row(row))).collect(),
        keys: keys.iter().map(key).collect(),
    })
}

async fn ask(session: &Session, query: &str, schemas: &&[String]) -> Result<Vec<Row>, Failure> {
    let parameters: &[(&(dyn tokio_postgres::types::ToSql + Sync), Sql)] =
        &[(schemas, Sql::TEXT_ARRAY)];
    let rows = session.client.query_typed(query, parameters).await;
    rows.map_err(|error| told(&error, None, ""))
}

fn relation(schema: String, name: String, row: &Row) -> Relation {
    let kind: String = row.get(2);
    Relation {
        schema,
        name,
        kind: match &*kind {
            "v" | "m" => Kind::View {
                insert: row.get(11),
                update: row.get(12),
            },
            "c" => Kind::Composite,
            _ => Kind::Table,
        },
        comment: row.get(3),
        columns: Vec::new(),
    }
}

fn column(row: &Row) -> Option<Column> {
    let name: Option<String> = row.get(4);
    let (identity, generated): (Option<String>, Option<String>) = (row.get(8), row.get(9));
    let is = |text: &Option<String>, what: &str| text.as_deref() == Some(what);
    let given = if is(&identity, "a") || generated.as_ref().is_some_and(|kind| !kind.is_empty()) {
        Given::Always
    } else if is(&identity, "d") || row.get::<_, Option<bool>>(7) == Some(true) {
        Given::ByDefault
    } else {
        Given::ByWriter
    };
    Some(Column {
        name: name?,
        of: row.get::<_, Option<u32>>(5)?,
        is_not_null: row.get::<_, Option<bool>>(6)?,
        given,
        comment: row.get(10),
        is_updatable: row.get(13),
    })
}

fn of_row(row: &Row) -> Type {
    Type {
        schema: row.get(1),
        name: row.get(2),
        kind: row.get(3),
        category: row.get(4),
        element: row.get(5),
        base: row.get(6),
        is_not_null: row.get(7),
        has_default: row.get(8),
        relation_kind: row.get(9),
        labels: row.get(10),
        comment: row.get(11),
        is_of_extension: row.get(12),
    }
}

fn key(row: &Row) -> Key {
    Key {
        schema: row.get(0),
        table: row.get(1),
        name: row.get(2),
        to_schema: row.get(3),
        to_table: row.get(4),
        columns: row.get(5),
        to_columns: row.get(6),
        is_one_to_one: row.get(7),
    }
}
