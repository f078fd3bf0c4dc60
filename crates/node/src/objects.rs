//! What a tenant's database is made of, as texts that can be compared with another database's.
//!
//! Owns: the list of objects with their definitions, owners, grants and comments, and counting rows.
//! Does not own: what a difference means; a copy is verified by it (`stream`), a user sees it (`control`).
//! Reads catalogs only: nothing that a user wrote is evaluated.

use model::Pid;
use tokio_postgres::Client;

use crate::{Node, NodeError};

const STEP: &str = "list objects";

/// Objects of one database that are read at most: some hundred bytes each.
pub const OBJECTS_MAX: usize = 100_000;
/// Tables whose rows are counted at most.
pub const COUNTED_TABLES_MAX: usize = 1_000;
/// How long counting the rows of one table may take, in milliseconds. A table of a few million rows.
const COUNT_MAX_MS: u32 = 2_000;

/// One object that a user made, or an extension.
#[derive(Clone, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub struct Object {
    /// `table`, `column`, `index`, …
    pub kind: String,
    /// Qualified, quoted as in SQL.
    pub name: String,
    /// One property in a line, in the words of SQL; what is as PostgreSQL has it by default is left out. What
    /// users wrote (views, functions) has the lines they gave it.
    pub definition: String,
    /// Owner, grants and comment, one in a line. The database's own roles are written as `*`, so that two
    /// databases can be compared.
    pub rights: String,
}

/// Kinds whose names do not begin with a schema.
const WITHOUT_SCHEMA: [&str; 7] = [
    "schema",
    "extension",
    "cast",
    "publication",
    "foreign server",
    "default grants",
    "large objects",
];

impl Object {
    /// The schema it lies in, without quotes; `None` for what lies in none.
    pub fn schema(&self) -> Option<String> {
        if WITHOUT_SCHEMA.contains(&self.kind.as_str()) {
            return None;
        }
        let Some(quoted) = self.name.strip_prefix('"') else {
            return Some(self.name.split_once('.')?.0.to_owned());
        };
        // The end is a quote that no other one follows.
        let mut schema = String::new();
        let mut rest = quoted;
        loop {
            let (part, behind) = rest.split_once('"')?;
            schema.push_str(part);
            match behind.strip_prefix('"') {
                Some(behind) => {
                    schema.push('"');
                    rest = behind;
                }
                None => return behind.starts_with('.').then_some(schema),
            }
        }
    }
}

/// Rows of one table.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RowCount {
    /// Qualified, quoted as in SQL.
    pub table: String,
    /// `None`: counting took too long.
    pub rows: Option<u64>,
}

/// Each branch: kind, name, catalog, oid, column, owner, grants, kind of grants, definition.
const OBJECTS: &str = r#"
WITH member AS (SELECT classid, objid FROM pg_depend WHERE deptype = 'e'),
ns AS (
  SELECT n.oid, n.nspname, n.nspowner, n.nspacl FROM pg_namespace n
  WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'tenantry')
    AND NOT EXISTS (SELECT FROM member m WHERE m.classid = 'pg_namespace'::regclass AND m.objid = n.oid)),
rel AS (
  SELECT c.*, format('%I.%I', n.nspname, c.relname) AS full_name FROM pg_class c JOIN ns n ON n.oid = c.relnamespace
  WHERE NOT EXISTS (SELECT FROM member m WHERE m.classid = 'pg_class'::regclass AND m.objid = c.oid)),
objects (kind, name, class, oid, sub, owner, acl, acl_kind, definition) AS (
  SELECT 'schema', quote_ident(nspname), 'pg_namespace'::regclass::oid, oid, 0, nspowner, nspacl, 'n', NULL FROM ns
  UNION ALL SELECT 'extension', quote_ident(e.extname), 'pg_extension'::regclass, e.oid, 0, e.extowner, NULL, NULL,
    format('version %s schema %s', e.extversion, e.extnamespace::regnamespace) FROM pg_extension e
    WHERE e.extname <> 'plpgsql'
  UNION ALL SELECT CASE relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'S' THEN 'sequence'
      WHEN 'f' THEN 'foreign table' WHEN 'c' THEN 'type' ELSE 'table' END,
    full_name, 'pg_class'::regclass, r.oid, 0, relowner, relacl, CASE relkind WHEN 'S' THEN 's' WHEN 'c' THEN NULL ELSE 'r' END,
    concat_ws(E'\n', CASE relpersistence WHEN 'u' THEN 'unlogged' WHEN 't' THEN 'temporary' END,
      'columns ' || (SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
         WHERE attrelid = r.oid AND attnum > 0 AND NOT attisdropped AND relkind <> 'S'),
      CASE WHEN relrowsecurity THEN 'row security' END, CASE WHEN relforcerowsecurity THEN 'row security for its owner too' END,
      CASE WHEN relkind IN ('r', 'p', 'm') THEN 'replica identity ' || CASE relreplident WHEN 'f' THEN 'full'
         WHEN 'n' THEN 'nothing' WHEN 'i' THEN 'by index' END END,
      'with (' || array_to_string(reloptions, ', ') || ')',
      'partition by ' || CASE WHEN relkind = 'p' THEN pg_get_partkeydef(r.oid) END,
      CASE WHEN relispartition THEN 'partition of ' ELSE 'inherits ' END || (SELECT string_agg(inhparent::regclass::text, ', ' ORDER BY inhseqno) FROM pg_inherits WHERE inhrelid = r.oid),
      pg_get_expr(relpartbound, r.oid),
      CASE WHEN relkind IN ('v', 'm') THEN pg_get_viewdef(r.oid) END,
      (SELECT format('as %s start %s increment %s min %s max %s cache %s%s', seqtypid::regtype, seqstart, seqincrement,
         seqmin, seqmax, seqcache, CASE WHEN seqcycle THEN ' cycle' END) FROM pg_sequence WHERE seqrelid = r.oid),
      (SELECT format('owned by %s.%I', d.refobjid::regclass, a.attname) FROM pg_depend d
         JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
         WHERE d.classid = 'pg_class'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
           AND r.relkind = 'S' AND d.deptype IN ('a', 'i')))
    FROM rel r WHERE relkind IN ('r', 'p', 'v', 'm', 'S', 'f', 'c')
  UNION ALL SELECT 'column', format('%s.%I', full_name, attname), 'pg_class'::regclass, r.oid, attnum, 0, attacl,
    CASE WHEN attacl IS NOT NULL THEN 'c' END,
    concat_ws(E'\n', concat_ws(' ', format_type(atttypid, atttypmod),
        'collate ' || CASE WHEN attcollation <> t.typcollation THEN attcollation::regcollation::text END,
        CASE WHEN attnotnull THEN 'not null' END,
        'default ' || CASE WHEN attgenerated::text = '' THEN pg_get_expr(d.adbin, d.adrelid) END,
        'generated always as (' || CASE WHEN attgenerated::text <> '' THEN pg_get_expr(d.adbin, d.adrelid) END || ') '
          || CASE attgenerated WHEN 's' THEN 'stored' WHEN 'v' THEN 'virtual' ELSE attgenerated::text END,
        'generated ' || CASE attidentity WHEN 'a' THEN 'always' WHEN 'd' THEN 'by default' END || ' as identity'),
      'storage ' || CASE WHEN attstorage <> t.typstorage THEN CASE attstorage WHEN 'p' THEN 'plain' WHEN 'e' THEN 'external'
        WHEN 'm' THEN 'main' WHEN 'x' THEN 'extended' ELSE attstorage::text END END,
      'compression ' || CASE attcompression WHEN 'p' THEN 'pglz' WHEN 'l' THEN 'lz4' ELSE nullif(attcompression::text, '') END,
      'with (' || array_to_string(attoptions, ', ') || ')')
    FROM rel r JOIN pg_attribute a ON a.attrelid = r.oid AND attnum > 0 AND NOT attisdropped
    JOIN pg_type t ON t.oid = atttypid
    LEFT JOIN pg_attrdef d ON d.adrelid = r.oid AND d.adnum = a.attnum
    WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'c')
  UNION ALL SELECT 'index', i.indexrelid::regclass::text, 'pg_class'::regclass, i.indexrelid, 0, 0, NULL, NULL,
    concat_ws(E'\n', pg_get_indexdef(i.indexrelid), CASE WHEN indisclustered THEN 'clustered' END,
      CASE WHEN indisreplident THEN 'replica identity' END, CASE WHEN NOT indisvalid THEN 'invalid' END)
    FROM pg_index i JOIN rel r ON r.oid = i.indrelid
  UNION ALL SELECT 'constraint', format('%s.%I', coalesce(r.full_name, c.contypid::regtype::text), conname),
    'pg_constraint'::regclass, c.oid, 0, 0, NULL, NULL, pg_get_constraintdef(c.oid)
    FROM pg_constraint c LEFT JOIN rel r ON r.oid = c.conrelid
    JOIN ns ON ns.oid = c.connamespace WHERE (r.oid IS NOT NULL OR c.contypid <> 0) AND contype <> 'n'
  UNION ALL SELECT 'trigger', format('%s.%I', r.full_name, tgname), 'pg_trigger'::regclass, t.oid, 0, 0, NULL, NULL,
    concat_ws(E'\n', pg_get_triggerdef(t.oid), CASE tgenabled WHEN 'D' THEN 'disabled' WHEN 'R' THEN 'enabled for replicas'
      WHEN 'A' THEN 'enabled always' END)
    FROM pg_trigger t JOIN rel r ON r.oid = t.tgrelid WHERE NOT tgisinternal
  UNION ALL SELECT 'rule', format('%s.%I', r.full_name, rulename), 'pg_rewrite'::regclass, w.oid, 0, 0, NULL, NULL,
    concat_ws(E'\n', pg_get_ruledef(w.oid), CASE ev_enabled WHEN 'D' THEN 'disabled' WHEN 'R' THEN 'enabled for replicas'
      WHEN 'A' THEN 'enabled always' END)
    FROM pg_rewrite w JOIN rel r ON r.oid = w.ev_class WHERE rulename <> '_RETURN'
  UNION ALL SELECT 'policy', format('%s.%I', r.full_name, polname), 'pg_policy'::regclass, p.oid, 0, 0, NULL, NULL,
    concat_ws(E'\n', CASE WHEN polpermissive THEN 'as permissive for ' ELSE 'as restrictive for ' END || CASE polcmd
        WHEN 'r' THEN 'select' WHEN 'a' THEN 'insert' WHEN 'w' THEN 'update' WHEN 'd' THEN 'delete' ELSE 'all' END,
      'to ' || (SELECT string_agg(one, ', ' ORDER BY one COLLATE "C") FROM (SELECT CASE WHEN role = 0 THEN 'public'
          ELSE replace(pg_get_userbyid(role)::text, current_database(), '*') END AS one FROM unnest(polroles) role) g),
      'using ' || pg_get_expr(polqual, polrelid), 'with check ' || pg_get_expr(polwithcheck, polrelid))
    FROM pg_policy p JOIN rel r ON r.oid = p.polrelid
  UNION ALL SELECT CASE prokind WHEN 'p' THEN 'procedure' WHEN 'a' THEN 'aggregate' ELSE 'function' END,
    format('%I.%I(%s)', ns.nspname, proname, pg_get_function_identity_arguments(p.oid)), 'pg_proc'::regclass, p.oid, 0,
    proowner, proacl, 'f', CASE WHEN prokind = 'a' THEN (SELECT concat_ws(E'\n', 'sfunc ' || aggtransfn::text,
      'stype ' || aggtranstype::regtype::text, 'finalfunc ' || nullif(aggfinalfn::text, '-'),
      'combinefunc ' || nullif(aggcombinefn::text, '-'), 'initcond ' || quote_literal(agginitval)) FROM pg_aggregate g WHERE g.aggfnoid = p.oid)
      ELSE pg_get_functiondef(p.oid) END
    FROM pg_proc p JOIN ns ON ns.oid = p.pronamespace
  UNION ALL SELECT CASE typtype WHEN 'd' THEN 'domain' ELSE 'type' END, format('%I.%I', ns.nspname, typname),
    'pg_type'::regclass, t.oid, 0, typowner, typacl, 'T',
    concat_ws(' ', CASE typtype WHEN 'e' THEN 'enum' WHEN 'b' THEN 'base type' END,
      '(' || (SELECT string_agg(quote_literal(enumlabel), ', ' ORDER BY enumsortorder) FROM pg_enum
        WHERE enumtypid = t.oid) || ')', nullif(format_type(nullif(typbasetype, 0), typtypmod), '-'),
      CASE WHEN typnotnull THEN 'not null' END, 'default ' || typdefault,
      (SELECT format('range of %s', rngsubtype::regtype) FROM pg_range WHERE rngtypid = t.oid))
    FROM pg_type t JOIN ns ON ns.oid = t.typnamespace WHERE typtype IN ('d', 'e', 'r') OR typtype = 'b' AND typcategory <> 'A'
  UNION ALL SELECT 'operator', o.oid::regoperator::text, 'pg_operator'::regclass, o.oid, 0, oprowner, NULL, NULL,
    oprcode::text FROM pg_operator o JOIN ns ON ns.oid = o.oprnamespace
  UNION ALL SELECT 'operator class', format('%I.%I using %s', ns.nspname, opcname, (SELECT amname FROM pg_am a WHERE a.oid = opcmethod)),
    'pg_opclass'::regclass, o.oid, 0, opcowner, NULL, NULL,
    'for type ' || opcintype::regtype::text
    FROM pg_opclass o JOIN ns ON ns.oid = o.opcnamespace
  UNION ALL SELECT 'collation', format('%I.%I', ns.nspname, collname), 'pg_collation'::regclass, c.oid, 0, collowner, NULL, NULL,
    concat_ws(' ', 'provider', CASE collprovider WHEN 'c' THEN 'libc' WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin'
      ELSE collprovider::text END, 'collate ' || collcollate, 'ctype ' || collctype) FROM pg_collation c JOIN ns ON ns.oid = c.collnamespace
  UNION ALL SELECT 'conversion', format('%I.%I', ns.nspname, conname), 'pg_conversion'::regclass, c.oid, 0, conowner, NULL, NULL,
    conproc::text FROM pg_conversion c JOIN ns ON ns.oid = c.connamespace
  UNION ALL SELECT 'text search dictionary', format('%I.%I', ns.nspname, dictname), 'pg_ts_dict'::regclass, d.oid, 0, dictowner,
    NULL, NULL, dictinitoption FROM pg_ts_dict d JOIN ns ON ns.oid = d.dictnamespace
  UNION ALL SELECT 'text search configuration', format('%I.%I', ns.nspname, cfgname), 'pg_ts_config'::regclass, c.oid, 0,
    cfgowner, NULL, NULL, (SELECT string_agg(format('token %s with %s', maptokentype, mapdict::regdictionary), E'\n' ORDER BY maptokentype, mapseqno)
      FROM pg_ts_config_map WHERE mapcfg = c.oid) FROM pg_ts_config c JOIN ns ON ns.oid = c.cfgnamespace
  UNION ALL SELECT 'statistics', format('%I.%I', ns.nspname, stxname), 'pg_statistic_ext'::regclass, s.oid, 0, stxowner, NULL, NULL,
    pg_get_statisticsobjdef(s.oid) FROM pg_statistic_ext s JOIN ns ON ns.oid = s.stxnamespace
  UNION ALL SELECT 'cast', format('%s as %s', castsource::regtype, casttarget::regtype), 'pg_cast'::regclass, c.oid, 0, 0, NULL, NULL,
    concat_ws(' ', CASE castmethod WHEN 'b' THEN 'without function' WHEN 'i' THEN 'with inout' END,
      'with function ' || nullif(castfunc, 0)::regprocedure::text,
      CASE castcontext WHEN 'i' THEN 'implicit' WHEN 'a' THEN 'as assignment' END) FROM pg_cast c WHERE c.oid >= 16384
  UNION ALL SELECT 'publication', quote_ident(pubname), 'pg_publication'::regclass, p.oid, 0, pubowner, NULL, NULL,
    concat_ws(E'\n', CASE WHEN puballtables THEN 'for all tables' END,
      'publish ' || concat_ws(', ', CASE WHEN pubinsert THEN 'insert' END, CASE WHEN pubupdate THEN 'update' END,
        CASE WHEN pubdelete THEN 'delete' END, CASE WHEN pubtruncate THEN 'truncate' END),
      'tables ' || (SELECT string_agg(prrelid::regclass::text, ', '
        ORDER BY prrelid::regclass::text COLLATE "C") FROM pg_publication_rel WHERE prpubid = p.oid)) FROM pg_publication p
  UNION ALL SELECT 'foreign server', quote_ident(srvname), 'pg_foreign_server'::regclass, s.oid, 0, srvowner, srvacl, 'S',
    concat_ws(' ', 'type ' || srvtype, 'version ' || srvversion) FROM pg_foreign_server s
  UNION ALL SELECT 'default grants', concat_ws(' ', pg_get_userbyid(defaclrole), 'in ' || nullif(defaclnamespace, 0)::regnamespace::text,
    'on', CASE defaclobjtype WHEN 'r' THEN 'tables' WHEN 'S' THEN 'sequences' WHEN 'f' THEN 'functions' WHEN 'T' THEN 'types'
      WHEN 'n' THEN 'schemas' ELSE defaclobjtype::text END), 'pg_default_acl'::regclass, oid, 0, defaclrole, defaclacl, defaclobjtype::text, NULL FROM pg_default_acl
  UNION ALL SELECT 'large objects', concat_ws(' ', pg_get_userbyid(l.lomowner), (SELECT string_agg(one, ', ' ORDER BY one COLLATE "C")
      FROM (SELECT replace(unnest(l.lomacl)::text, current_database(), '*') AS one) g)),
    'pg_largeobject'::regclass, 0, 0, 0, NULL, NULL, count(*)::text FROM pg_largeobject_metadata l GROUP BY 2
)
SELECT o.kind, o.name, coalesce(o.definition, ''), concat_ws(E'\n',
  'owner ' || CASE WHEN o.owner <> 0 THEN pg_get_userbyid(o.owner) END,
  CASE WHEN o.acl_kind IS NOT NULL THEN (
    SELECT string_agg(line, E'\n' ORDER BY line COLLATE "C") FROM (
      SELECT format('grant %s to %s%s%s', string_agg(lower(privilege_type), ', ' ORDER BY privilege_type COLLATE "C"),
        CASE WHEN grantee = 0 THEN 'public' ELSE replace(pg_get_userbyid(grantee)::text, current_database(), '*') END,
        CASE WHEN is_grantable THEN ' with grant option' END,
        CASE WHEN grantor <> o.owner AND o.owner <> 0
          THEN ' granted by ' || replace(pg_get_userbyid(grantor)::text, current_database(), '*') END) AS line
      FROM aclexplode(coalesce(o.acl, acldefault(o.acl_kind::"char", o.owner)))
      GROUP BY grantee, grantor, is_grantable) grants) END,
  'comment ' || (SELECT quote_literal(description) FROM pg_description
    WHERE classoid = o.class AND objoid = o.oid AND objsubid = o.sub))
FROM objects o
WHERE NOT EXISTS (SELECT FROM member m WHERE m.classid = o.class AND m.objid = o.oid)
ORDER BY o.kind COLLATE "C", o.name COLLATE "C" LIMIT $1"#;

/// Ordinary tables and partitions that users made.
const TABLES: &str = "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
     WHERE c.relkind IN ('r', 'm') AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'tenantry') \
       AND NOT (c.relkind = 'm' AND NOT c.relispopulated) \
     ORDER BY 1 LIMIT $1";

impl Node {
    /// Everything the database of `pid` is made of, sorted by kind and name.
    ///
    /// # Errors
    ///
    /// Those of the server; [`NodeError::Conflict`] when there are more than [`OBJECTS_MAX`].
    pub async fn objects(&self, pid: &Pid) -> Result<Vec<Object>, NodeError> {
        let inside = self.visit(STEP, &pid.database()).await?;
        self.objects_of(&inside).await
    }

    pub(crate) async fn objects_of(&self, inside: &Client) -> Result<Vec<Object>, NodeError> {
        let limit = i64::try_from(OBJECTS_MAX + 1).unwrap_or(i64::MAX);
        let rows = self.rows(inside, STEP, OBJECTS, &[&limit]).await?;
        if rows.len() > OBJECTS_MAX {
            return Err(NodeError::Conflict {
                step: STEP,
                what: format!("there are more than {OBJECTS_MAX}"),
            });
        }
        Ok(rows
            .iter()
            .map(|row| Object {
                kind: row.get(0),
                name: row.get(1),
                definition: row.get(2),
                rights: row.get(3),
            })
            .collect())
    }

    /// Rows of each table of the database of `pid`, at most [`COUNTED_TABLES_MAX`] tables, each as of
    /// the moment it is counted.
    ///
    /// # Errors
    ///
    /// Those of the server.
    pub async fn row_counts(&self, pid: &Pid) -> Result<Vec<RowCount>, NodeError> {
        const STEP: &str = "count rows";
        let inside = self.visit(STEP, &pid.database()).await?;
        let limit = i64::try_from(COUNTED_TABLES_MAX).unwrap_or(i64::MAX);
        let tables = self.rows(&inside, STEP, TABLES, &[&limit]).await?;
        let bound =
            format!("SET statement_timeout = {COUNT_MAX_MS}; SET lock_timeout = {COUNT_MAX_MS}");
        let set = inside.batch_execute(&bound).await;
        set.map_err(|error| self.error(STEP, error))?;
        let mut counts = Vec::with_capacity(tables.len());
        for row in tables {
            let table: String = row.get(0);
            // Quoted by the server itself.
            let sql = format!("SELECT count(*) FROM ONLY {table}");
            let rows = match self.rows(&inside, STEP, &sql, &[]).await {
                Ok(rows) => rows.first().map(|row| row.get::<_, i64>(0).unsigned_abs()),
                // Too slow, locked, or dropped since.
                Err(NodeError::Refused { .. }) => None,
                Err(error) => return Err(error),
            };
            counts.push(RowCount { table, rows });
        }
        Ok(counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_is_the_first_part_of_a_name() {
        let schema = |kind: &str, name: &str| {
            let (kind, name) = (kind.to_owned(), name.to_owned());
            let (definition, rights) = (String::new(), String::new());
            let object = Object {
                kind,
                name,
                definition,
                rights,
            };
            object.schema()
        };
        for (kind, name, wanted) in [
            ("column", "public.notes.title", Some("public")),
            ("table", r#""My ""own"".s".t"#, Some(r#"My "own".s"#)),
            ("function", "app.f(public.mood, text)", Some("app")),
            ("schema", "app", None),
            ("cast", "public.a as public.b", None),
            ("table", r#""broken"#, None),
        ] {
            assert_eq!(schema(kind, name).as_deref(), wanted, "{kind} {name}");
        }
    }
}
