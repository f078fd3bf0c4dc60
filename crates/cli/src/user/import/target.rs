//! What the database that is imported into has, and may have. Asked in the transaction of the import.

use tokio_postgres::types::Type;

use super::{
    origin::{Tables, quoted},
    shown,
};
use crate::{
    exit::{Exit, Failure},
    user::{
        restore::UNDONE,
        script::{Session, told},
    },
};

/// What somebody made in it, of the first name, and how much there is. What belongs to an extension does not count.
const SOMETHING: &str = "WITH s AS (SELECT oid, nspname FROM pg_catalog.pg_namespace \
      WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'), \
    made AS ( \
      SELECT 'pg_catalog.pg_namespace'::pg_catalog.regclass AS class, oid, 'schema ' || pg_catalog.quote_ident(nspname) AS what \
      FROM s WHERE nspname <> 'public' \
      UNION ALL SELECT 'pg_catalog.pg_class'::pg_catalog.regclass, c.oid, \
        'table ' || pg_catalog.format('%I.%I', nspname, relname) \
      FROM pg_catalog.pg_class c JOIN s ON s.oid = relnamespace WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S') \
      UNION ALL SELECT 'pg_catalog.pg_proc'::pg_catalog.regclass, p.oid, \
        'function ' || pg_catalog.format('%I.%I', nspname, proname) \
      FROM pg_catalog.pg_proc p JOIN s ON s.oid = pronamespace \
      UNION ALL SELECT 'pg_catalog.pg_type'::pg_catalog.regclass, t.oid, \
        'type ' || pg_catalog.format('%I.%I', nspname, typname) \
      FROM pg_catalog.pg_type t JOIN s ON s.oid = typnamespace LEFT JOIN pg_catalog.pg_class c ON c.oid = typrelid \
      WHERE typtype IN ('e', 'd', 'r') OR c.relkind = 'c' \
      UNION ALL SELECT 'pg_catalog.pg_largeobject'::pg_catalog.regclass, oid, 'large object ' || oid \
      FROM pg_catalog.pg_largeobject_metadata) \
    SELECT what, pg_catalog.count(*) OVER () FROM made WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_depend d \
      WHERE d.classid = made.class AND d.objid = made.oid AND d.deptype = 'e') ORDER BY 1 LIMIT 1";
/// Extensions of which it has none and can get none, and those that it has.
const REFUSED: &str = "SELECT name, EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = name) \
    FROM pg_catalog.unnest($1::pg_catalog.text[]) AS name \
    WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_available_extension_versions v \
      WHERE v.name = name.name AND (v.trusted OR NOT v.superuser)) \
    OR EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = name)";
/// Large objects of this transaction.
const LARGE_OBJECTS: &str = "SELECT pg_catalog.count(*) FROM pg_catalog.pg_largeobject_metadata \
    WHERE xmin = pg_catalog.pg_current_xact_id()::pg_catalog.xid";

/// # Errors
///
/// [`Exit::Conflict`] when somebody made something in it.
pub(super) async fn is_empty(session: &Session) -> Result<(), Failure> {
    let row = session.client.query_typed(SOMETHING, &[]).await;
    let rows = row.map_err(|error| told(&error, None, UNDONE))?;
    let Some(row) = rows.first() else {
        return Ok(());
    };
    let (what, count): (String, i64) = (row.get(0), row.get(1));
    let more = match count {
        1 => String::new(),
        count => format!(" and {} more", count - 1),
    };
    Err(Failure::new(
        Exit::Conflict,
        format!("the database is not empty: it has {what}{more}"),
        format!("import into a new one, or say --add; {UNDONE}"),
    ))
}

/// For rows alone: the tables are there, and unless it is to `add`, nothing is in them.
///
/// # Errors
///
/// [`Exit::NotFound`] for the first that is not there, [`Exit::Conflict`] for the first that has a row.
pub(super) async fn has_tables(
    session: &Session,
    tables: &Tables,
    add: bool,
) -> Result<(), Failure> {
    // A policy would hide rows; this makes it an error.
    let off = session
        .client
        .batch_execute("SET LOCAL row_security = off")
        .await;
    off.map_err(|error| told(&error, None, UNDONE))?;
    for table in tables.names() {
        let name = quoted(table);
        let found = session
            .client
            .query_typed_one(
                "SELECT pg_catalog.to_regclass($1) IS NOT NULL",
                &[(&name, Type::TEXT)],
            )
            .await;
        if !found
            .map_err(|error| told(&error, None, UNDONE))?
            .get::<_, bool>(0)
        {
            return Err(Failure::new(
                Exit::NotFound,
                format!("the database has no table {}", shown(&name)),
                format!("import without --data-only, or with --schema-only first; {UNDONE}"),
            ));
        }
        if add {
            continue;
        }
        let query = format!("SELECT EXISTS (SELECT FROM ONLY {name})");
        let has_rows = session.client.query_typed_one(&query, &[]).await;
        if has_rows.map_err(|error| told(&error, None, UNDONE))?.get(0) {
            return Err(Failure::new(
                Exit::Conflict,
                format!("the table {} has rows already", shown(&name)),
                format!("empty it, or say --add; {UNDONE}"),
            ));
        }
    }
    Ok(())
}

/// Which of these extensions it has already.
///
/// # Errors
///
/// [`Exit::Refused`] with all that it cannot have, of extensions and of event triggers.
pub(super) async fn extensions(
    session: &Session,
    extensions: &[String],
    event_triggers: &[String],
) -> Result<Vec<String>, Failure> {
    let rows = session
        .client
        .query_typed(REFUSED, &[(&extensions, Type::TEXT_ARRAY)])
        .await;
    let rows = rows.map_err(|error| told(&error, None, UNDONE))?;
    let (there, refused): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.get::<_, bool>(1));
    let names = |rows: Vec<&tokio_postgres::Row>| -> Vec<String> {
        rows.iter().map(|row| row.get(0)).collect()
    };
    let (there, refused) = (names(there), names(refused));
    let mut wrong = Vec::new();
    let mut hints = Vec::new();
    if !refused.is_empty() {
        wrong.push(format!("the extensions {}", refused.join(", ")));
        hints.push("--skip-extension leaves one out");
    }
    if !event_triggers.is_empty() {
        wrong.push(format!("the event triggers {}", event_triggers.join(", ")));
        hints.push("event triggers are a superuser's");
    }
    if wrong.is_empty() {
        return Ok(there);
    }
    hints.push("--schema takes schemas without them");
    hints.push(UNDONE);
    let text = format!(
        "the source has what the database cannot have: {}",
        wrong.join("; ")
    );
    Err(Failure::new(Exit::Refused, shown(&text), hints.join("; ")))
}

/// How many large objects this transaction made.
pub(super) async fn large_objects(session: &Session) -> Result<u64, Failure> {
    let row = session.client.query_typed_one(LARGE_OBJECTS, &[]).await;
    let count: i64 = row.map_err(|error| told(&error, None, UNDONE))?.get(0);
    Ok(u64::try_from(count).unwrap_or(0))
}
