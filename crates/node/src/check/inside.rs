//! What can only be seen from inside a tenant's database: owners and extensions.
//!
//! Does not own: grants (`grants`).

use std::time::Duration;

use model::Pid;
use tokio::time::timeout;

use super::{Finding, FindingKind as Kind};
use crate::{Node, NodeError};

const STEP: &str = "check the inside of a database";

/// Objects made since the server was (`oid >= 16384`), by the kind of catalog and by owner, that
/// belong neither to a group of ours nor to an extension, nor are the guard's. The first column of
/// flags says whether the owner has rights beyond the database.
const OWNERS: &str = "
WITH objects (class, oid, owner) AS (
  SELECT tableoid, oid, relowner FROM pg_class UNION ALL
  SELECT tableoid, oid, proowner FROM pg_proc UNION ALL
  SELECT tableoid, oid, nspowner FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp_' UNION ALL
  SELECT tableoid, oid, typowner FROM pg_type UNION ALL
  SELECT tableoid, oid, oprowner FROM pg_operator UNION ALL
  SELECT tableoid, oid, opcowner FROM pg_opclass UNION ALL
  SELECT tableoid, oid, opfowner FROM pg_opfamily UNION ALL
  SELECT tableoid, oid, collowner FROM pg_collation UNION ALL
  SELECT tableoid, oid, conowner FROM pg_conversion UNION ALL
  SELECT tableoid, oid, lanowner FROM pg_language UNION ALL
  SELECT tableoid, oid, stxowner FROM pg_statistic_ext UNION ALL
  SELECT tableoid, oid, dictowner FROM pg_ts_dict UNION ALL
  SELECT tableoid, oid, cfgowner FROM pg_ts_config UNION ALL
  SELECT tableoid, oid, lomowner FROM pg_largeobject_metadata UNION ALL
  SELECT tableoid, oid, extowner FROM pg_extension UNION ALL
  SELECT tableoid, oid, fdwowner FROM pg_foreign_data_wrapper UNION ALL
  SELECT tableoid, oid, srvowner FROM pg_foreign_server UNION ALL
  SELECT tableoid, oid, pubowner FROM pg_publication UNION ALL
  SELECT tableoid, oid, evtowner FROM pg_event_trigger
    WHERE evtname NOT IN ('tenantry_guard_start', 'tenantry_guard_end', 'tenantry_guard_drop')
)
SELECT o.class::regclass::text, r.rolname::text, count(*),
  r.rolsuper OR r.rolcreaterole OR r.rolcreatedb OR r.rolreplication OR r.rolbypassrls
    OR r.rolname ~ '^pg_' OR EXISTS (
      SELECT FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid
      WHERE m.member = r.oid AND g.rolname ~ '^pg_')
FROM objects o JOIN pg_roles r ON r.oid = o.owner
WHERE o.oid >= 16384
  AND r.rolname NOT IN ('tenantry_owner', 'tenantry_admin', 'tenantry_write', 'tenantry_read')
  AND NOT EXISTS (SELECT FROM pg_depend d
    WHERE d.classid = o.class AND d.objid = o.oid AND (d.deptype = 'e'
      -- Array types, row types, toast tables, indexes and sequences of what belongs to one.
      OR d.deptype IN ('i', 'a') AND o.class IN ('pg_type'::regclass, 'pg_class'::regclass)
        AND EXISTS (SELECT FROM pg_depend e WHERE e.classid = d.refclassid AND e.objid = d.refobjid
          AND e.objsubid = 0 AND e.deptype = 'e')))
  AND NOT (o.class = 'pg_namespace'::regclass
    AND EXISTS (SELECT FROM pg_namespace n WHERE n.oid = o.oid AND n.nspname = 'tenantry'))
  AND NOT (o.class = 'pg_proc'::regclass
    AND EXISTS (SELECT FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
      WHERE p.oid = o.oid AND n.nspname = 'tenantry'
        AND p.proname IN ('guard_start', 'guard_end')))
GROUP BY 1, 2, 4 ORDER BY 1, 2";

/// Extensions that reach other servers or files, or show the statements of other tenants.
const FORBIDDEN: [&str; 7] = [
    "dblink",
    "postgres_fdw",
    "file_fdw",
    "adminpack",
    "pg_stat_statements",
    "pageinspect",
    "plperlu",
];

/// How long looking into one database may take: tenths of a second are usual, a database of very many objects
/// takes seconds. What takes longer is a finding, and the next database's turn.
const INSIDE_MAX: Duration = Duration::from_secs(20);

impl Node {
    pub(super) async fn check_inside(&self, pid: &Pid, findings: &mut Vec<Finding>) {
        let look = self.look_inside(pid, findings);
        let why = match timeout(INSIDE_MAX, look).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => std::error::Error::source(&error)
                .map_or_else(|| error.to_string(), |source| format!("{error}: {source}")),
            Err(_) => format!("looking into it takes longer than {INSIDE_MAX:?}"),
        };
        findings.push(Finding::new(Kind::Unvisited, pid.database(), why));
    }

    async fn look_inside(&self, pid: &Pid, findings: &mut Vec<Finding>) -> Result<(), NodeError> {
        let name = pid.database();
        let inside = self.visit(STEP, &name).await?;
        for row in self.rows(&inside, STEP, OWNERS, &[]).await? {
            let (class, owner, count): (&str, &str, i64) = (row.get(0), row.get(1), row.get(2));
            let kind = if row.get(3) {
                Kind::PrivilegedOwner
            } else {
                Kind::NamedOwner
            };
            let detail = format!("{count} of {class} belong to {owner}");
            findings.push(Finding::new(kind, &name, detail));
        }
        self.check_grants(&inside, &name, findings).await?;
        const EXTENSIONS: &str = "SELECT extname::text FROM pg_extension WHERE extname = ANY ($1)";
        for row in self
            .rows(&inside, STEP, EXTENSIONS, &[&&FORBIDDEN[..]])
            .await?
        {
            findings.push(Finding::new(Kind::Extension, &name, row.get::<_, &str>(0)));
        }
        Ok(())
    }
}
