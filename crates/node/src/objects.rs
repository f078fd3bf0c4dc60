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
    /// As PostgreSQL would write it down.
    pub definition: String,
    /// Owner, grants and comment. The database's own roles are written as `*`, so that two
    /// databases can be compared.
    pub rights: String,
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
    concat_ws(' ', 'persistence ' || relpersistence::text, 'row security ' || relrowsecurity::text || relforcerowsecurity::text,
      'replica identity ' || relreplident::text, 'options ' || reloptions::text,
      'partition by ' || CASE WHEN relkind = 'p' THEN pg_get_partkeydef(r.oid) END,
      pg_get_expr(relpartbound, r.oid),
      'of ' || (SELECT string_agg(inhparent::regclass::text, ', ' ORDER BY inhseqno) FROM pg_inherits WHERE inhrelid = r.oid),
      CASE WHEN relkind IN ('v', 'm') THEN pg_get_viewdef(r.oid) END,
      (SELECT format('%s start %s increment %s min %s max %s cache %s cycle %s', seqtypid::regtype, seqstart, seqincrement,
         seqmin, seqmax, seqcache, seqcycle) FROM pg_sequence WHERE seqrelid = r.oid),
      (SELECT format('owned by %s.%I', d.refobjid::regclass, a.attname) FROM pg_depend d
         JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
         WHERE d.classid = 'pg_class'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
           AND r.relkind = 'S' AND d.deptype IN ('a', 'i')))
    FROM rel r WHERE relkind IN ('r', 'p', 'v', 'm', 'S', 'f', 'c')
  UNION ALL SELECT 'column', format('%s.%I', full_name, attname), 'pg_class'::regclass, r.oid, attnum, 0, attacl,
    CASE WHEN attacl IS NOT NULL THEN 'c' END,
    concat_ws(' ', (SELECT count(*) FROM pg_attribute b WHERE b.attrelid = r.oid AND b.attnum BETWEEN 1 AND a.attnum
        AND NOT b.attisdropped) || '.', format_type(atttypid, atttypmod), CASE WHEN attnotnull THEN 'not null' END,
      'default ' || pg_get_expr(d.adbin, d.adrelid), 'identity ' || nullif(attidentity::text, ''),
      'generated ' || nullif(attgenerated::text, ''), 'collate ' || nullif(attcollation, 0)::regcollation::text,
      'storage ' || attstorage::text, 'compression ' || nullif(attcompression::text, ''), 'options ' || attoptions::text)
    FROM rel r JOIN pg_attribute a ON a.attrelid = r.oid AND attnum > 0 AND NOT attisdropped
    LEFT JOIN pg_attrdef d ON d.adrelid = r.oid AND d.adnum = a.attnum
    WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'c')
  UNION ALL SELECT 'index', i.indexrelid::regclass::text, 'pg_class'::regclass, i.indexrelid, 0, 0, NULL, NULL,
    concat_ws(' ', pg_get_indexdef(i.indexrelid), CASE WHEN indisclustered THEN 'clustered' END,
      CASE WHEN indisreplident THEN 'replica identity' END, CASE WHEN NOT indisvalid THEN 'invalid' END)
    FROM pg_index i JOIN rel r ON r.oid = i.indrelid
  UNION ALL SELECT 'constraint', format('%s.%I', coalesce(r.full_name, c.contypid::regtype::text), conname),
    'pg_constraint'::regclass, c.oid, 0, 0, NULL, NULL, pg_get_constraintdef(c.oid)
    FROM pg_constraint c LEFT JOIN rel r ON r.oid = c.conrelid
    JOIN ns ON ns.oid = c.connamespace WHERE (r.oid IS NOT NULL OR c.contypid <> 0) AND contype <> 'n'
  UNION ALL SELECT 'trigger', format('%s.%I', r.full_name, tgname), 'pg_trigger'::regclass, t.oid, 0, 0, NULL, NULL,
    concat_ws(' ', pg_get_triggerdef(t.oid), 'enabled ' || tgenabled::text)
    FROM pg_trigger t JOIN rel r ON r.oid = t.tgrelid WHERE NOT tgisinternal
  UNION ALL SELECT 'rule', format('%s.%I', r.full_name, rulename), 'pg_rewrite'::regclass, w.oid, 0, 0, NULL, NULL,
    concat_ws(' ', pg_get_ruledef(w.oid), 'enabled ' || ev_enabled::text)
    FROM pg_rewrite w JOIN rel r ON r.oid = w.ev_class WHERE rulename <> '_RETURN'
  UNION ALL SELECT 'policy', format('%s.%I', r.full_name, polname), 'pg_policy'::regclass, p.oid, 0, 0, NULL, NULL,
    concat_ws(' ', 'for ' || polcmd::text, CASE WHEN polpermissive THEN 'permissive' ELSE 'restrictive' END,
      'to ' || (SELECT string_agg(one, ', ' ORDER BY one COLLATE "C") FROM (SELECT CASE WHEN role = 0 THEN 'public'
          ELSE replace(pg_get_userbyid(role)::text, current_database(), '*') END AS one FROM unnest(polroles) role) g),
      'using ' || pg_get_expr(polqual, polrelid), 'check ' || pg_get_expr(polwithcheck, polrelid))
    FROM pg_policy p JOIN rel r ON r.oid = p.polrelid
  UNION ALL SELECT CASE prokind WHEN 'p' THEN 'procedure' WHEN 'a' THEN 'aggregate' ELSE 'function' END,
    format('%I.%I(%s)', ns.nspname, proname, pg_get_function_identity_arguments(p.oid)), 'pg_proc'::regclass, p.oid, 0,
    proowner, proacl, 'f', CASE WHEN prokind = 'a' THEN (SELECT format('%s %s %s %s %s', aggtransfn, aggfinalfn,
      aggcombinefn, agginitval, aggtranstype::regtype) FROM pg_aggregate g WHERE g.aggfnoid = p.oid)
      ELSE pg_get_functiondef(p.oid) END
    FROM pg_proc p JOIN ns ON ns.oid = p.pronamespace
  UNION ALL SELECT CASE typtype WHEN 'd' THEN 'domain' ELSE 'type' END, format('%I.%I', ns.nspname, typname),
    'pg_type'::regclass, t.oid, 0, typowner, typacl, 'T',
    concat_ws(' ', typtype, (SELECT string_agg(quote_literal(enumlabel), ', ' ORDER BY enumsortorder) FROM pg_enum
        WHERE enumtypid = t.oid), nullif(format_type(nullif(typbasetype, 0), typtypmod), '-'),
      CASE WHEN typnotnull THEN 'not null' END, 'default ' || typdefault,
      (SELECT format('range of %s', rngsubtype::regtype) FROM pg_range WHERE rngtypid = t.oid))
    FROM pg_type t JOIN ns ON ns.oid = t.typnamespace WHERE typtype IN ('d', 'e', 'r') OR typtype = 'b' AND typcategory <> 'A'
  UNION ALL SELECT 'operator', o.oid::regoperator::text, 'pg_operator'::regclass, o.oid, 0, oprowner, NULL, NULL,
    oprcode::text FROM pg_operator o JOIN ns ON ns.oid = o.oprnamespace
  UNION ALL SELECT 'operator class', format('%I.%I using %s', ns.nspname, opcname, (SELECT amname FROM pg_am a WHERE a.oid = opcmethod)),
    'pg_opclass'::regclass, o.oid, 0, opcowner, NULL, NULL, opcintype::regtype::text
    FROM pg_opclass o JOIN ns ON ns.oid = o.opcnamespace
  UNION ALL SELECT 'collation', format('%I.%I', ns.nspname, collname), 'pg_collation'::regclass, c.oid, 0, collowner, NULL, NULL,
    concat_ws(' ', collprovider, collcollate, collctype) FROM pg_collation c JOIN ns ON ns.oid = c.collnamespace
  UNION ALL SELECT 'conversion', format('%I.%I', ns.nspname, conname), 'pg_conversion'::regclass, c.oid, 0, conowner, NULL, NULL,
    conproc::text FROM pg_conversion c JOIN ns ON ns.oid = c.connamespace
  UNION ALL SELECT 'text search dictionary', format('%I.%I', ns.nspname, dictname), 'pg_ts_dict'::regclass, d.oid, 0, dictowner,
    NULL, NULL, dictinitoption FROM pg_ts_dict d JOIN ns ON ns.oid = d.dictnamespace
  UNION ALL SELECT 'text search configuration', format('%I.%I', ns.nspname, cfgname), 'pg_ts_config'::regclass, c.oid, 0,
    cfgowner, NULL, NULL, (SELECT string_agg(maptokentype::text || ' ' || mapdict::regdictionary::text, ', ' ORDER BY maptokentype, mapseqno)
      FROM pg_ts_config_map WHERE mapcfg = c.oid) FROM pg_ts_config c JOIN ns ON ns.oid = c.cfgnamespace
  UNION ALL SELECT 'statistics', format('%I.%I', ns.nspname, stxname), 'pg_statistic_ext'::regclass, s.oid, 0, stxowner, NULL, NULL,
    pg_get_statisticsobjdef(s.oid) FROM pg_statistic_ext s JOIN ns ON ns.oid = s.stxnamespace
  UNION ALL SELECT 'cast', format('%s as %s', castsource::regtype, casttarget::regtype), 'pg_cast'::regclass, c.oid, 0, 0, NULL, NULL,
    concat_ws(' ', nullif(castfunc, 0)::regprocedure::text, castcontext, castmethod) FROM pg_cast c WHERE c.oid >= 16384
  UNION ALL SELECT 'publication', quote_ident(pubname), 'pg_publication'::regclass, p.oid, 0, pubowner, NULL, NULL,
    concat_ws(' ', puballtables, pubinsert, pubupdate, pubdelete, pubtruncate, (SELECT string_agg(prrelid::regclass::text, ', '
      ORDER BY prrelid::regclass::text COLLATE "C") FROM pg_publication_rel WHERE prpubid = p.oid)) FROM pg_publication p
  UNION ALL SELECT 'foreign server', quote_ident(srvname), 'pg_foreign_server'::regclass, s.oid, 0, srvowner, srvacl, 'S',
    concat_ws(' ', srvtype, srvversion) FROM pg_foreign_server s
  UNION ALL SELECT 'default grants', concat_ws(' ', pg_get_userbyid(defaclrole), nullif(defaclnamespace, 0)::regnamespace,
    defaclobjtype), 'pg_default_acl'::regclass, oid, 0, defaclrole, defaclacl, defaclobjtype::text, NULL FROM pg_default_acl
  UNION ALL SELECT 'large objects', concat_ws(' ', pg_get_userbyid(l.lomowner), (SELECT string_agg(one, ', ' ORDER BY one COLLATE "C")
      FROM (SELECT replace(unnest(l.lomacl)::text, current_database(), '*') AS one) g)),
    'pg_largeobject'::regclass, 0, 0, 0, NULL, NULL, count(*)::text FROM pg_largeobject_metadata l GROUP BY 2
)
SELECT o.kind, o.name, coalesce(o.definition, ''), concat_ws(' ',
  'owner ' || CASE WHEN o.owner <> 0 THEN pg_get_userbyid(o.owner) END,
  'grants ' || CASE WHEN o.acl_kind IS NOT NULL THEN (
    SELECT string_agg(replace(one::text, current_database(), '*'), ', ' ORDER BY replace(one::text, current_database(), '*') COLLATE "C")
    FROM unnest(coalesce(o.acl, acldefault(o.acl_kind::"char", o.owner))) one) END,
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
