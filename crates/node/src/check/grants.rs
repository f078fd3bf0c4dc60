//! Grants on what PostgreSQL itself and extensions made: nobody but their owner gives any.
//!
//! The reference is what `initdb` and `CREATE EXTENSION` noted (`pg_init_privs`), with what
//! `information_schema` gives to PUBLIC, which is not noted, and without what `sql/template.sql` takes
//! from it. Owns: that comparison, and the same for what all databases of
//! a server share. Does not own: grants on databases (`server`), and those on objects of a tenant, which
//! are its own to give.

use super::{Finding, FindingKind as Kind};
use crate::{Node, NodeError, handle::Lease};

const STEP: &str = "check grants";

/// Functions that `sql/template.sql` takes from PUBLIC, named there one by one; a test compares.
const REVOKED: [&str; 12] = [
    "lo_creat",
    "lo_create",
    "lo_from_bytea",
    "lo_put",
    "lowrite",
    "lo_truncate",
    "lo_truncate64",
    "lo_unlink",
    "pg_logical_emit_message",
    "pg_export_snapshot",
    "pg_current_xact_id",
    "txid_current",
];

/// Findings of one database, at most: each says how many objects it stands for.
const ROWS_MAX: usize = 50;

/// Roles by which a tenant could use a grant: PUBLIC, a group, a role of one tenant, and what `_dump`
/// is a member of. To others an operator may grant what they like.
macro_rules! is_tenants {
    ($grantee:literal) => {
        concat!(
            "(",
            $grantee,
            " = 0 OR EXISTS (SELECT FROM pg_roles t WHERE t.oid = ",
            $grantee,
            " AND t.rolname ~ '^(x_[a-z][a-z0-9]{11}(_|$)|tenantry_(owner|admin|write|read)$|pg_read_all_data$)'))"
        )
    };
}

/// Compared are only ACLs that differ from the noted one as they stand, and those of the functions
/// that the template changes: nearly every object of a database has neither. An object of a tenant
/// (its owner is a group) is not looked at. Names are those of PostgreSQL and of extensions, without
/// their schema, which a tenant may have chosen.
///
/// The grants of an owner to itself never count: it can give them back at any time.
const INSIDE: &str = concat!(
    "
WITH objects (class, oid, sub, kind, owner, acl, name) AS (
  SELECT tableoid, oid, 0, CASE relkind WHEN 'S' THEN 's' ELSE 'r' END, relowner, relacl, relname::text
    FROM pg_class UNION ALL
  SELECT c.tableoid, c.oid, a.attnum::int, 'c', c.relowner, a.attacl, c.relname || '.' || a.attname
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid WHERE a.attacl IS NOT NULL UNION ALL
  SELECT tableoid, oid, 0, 'f', proowner, proacl, proname::text FROM pg_proc UNION ALL
  SELECT tableoid, oid, 0, 'l', lanowner, lanacl, lanname::text FROM pg_language UNION ALL
  SELECT tableoid, oid, 0, 'T', typowner, typacl, typname::text FROM pg_type UNION ALL
  SELECT tableoid, oid, 0, 'n', nspowner, nspacl, nspname::text FROM pg_namespace UNION ALL
  SELECT tableoid, oid, 0, 'F', fdwowner, fdwacl, fdwname::text FROM pg_foreign_data_wrapper UNION ALL
  SELECT tableoid, oid, 0, 'S', srvowner, srvacl, srvname::text FROM pg_foreign_server UNION ALL
  SELECT tableoid, oid, 0, 'L', lomowner, lomacl, oid::text FROM pg_largeobject_metadata
), groups AS (
  SELECT oid, rolname FROM pg_roles
  WHERE rolname IN ('tenantry_owner', 'tenantry_admin', 'tenantry_write', 'tenantry_read')
), changed AS (
  SELECT o.*, p.oid IS NOT NULL AS is_revoked, i.initprivs
  FROM objects o
  LEFT JOIN pg_init_privs i ON i.classoid = o.class AND i.objoid = o.oid AND i.objsubid = o.sub
  LEFT JOIN pg_proc p ON o.kind = 'f' AND p.oid = o.oid AND p.oid < 16384
    AND p.pronamespace = 'pg_catalog'::regnamespace
    AND (p.proname ~ '^pg_(try_)?advisory_' OR p.proname = ANY ($1))
  WHERE (o.acl IS DISTINCT FROM i.initprivs OR p.oid IS NOT NULL
      OR o.kind = 'f' AND o.oid >= 16384)
    AND o.owner NOT IN (SELECT oid FROM groups)
    AND (o.oid < 16384 OR o.kind = 'L'
      OR o.kind = 'n' AND o.name = 'tenantry'
      OR o.kind = 'f' AND EXISTS (SELECT FROM pg_proc f JOIN pg_namespace n ON n.oid = f.pronamespace
        WHERE f.oid = o.oid AND n.nspname = 'tenantry')
      OR EXISTS (SELECT FROM pg_depend d
        WHERE d.classid = o.class AND d.objid = o.oid AND d.deptype = 'e'))
), have AS (
  SELECT o.class, o.oid, o.sub, a.grantee, a.privilege_type, a.is_grantable
  FROM changed o CROSS JOIN aclexplode(coalesce(o.acl, acldefault(o.kind::\"char\", o.owner))) a
  WHERE a.grantee <> o.owner
), ours AS (
  SELECT o.class, o.oid, o.sub, r.oid AS grantee, 'EXECUTE' AS privilege_type, false AS is_grantable
  FROM changed o JOIN pg_roles r ON r.rolname IN ('tenantry_owner', 'tenantry_admin', 'tenantry_write')
    OR r.rolname = 'pg_read_all_data' AND o.name = 'pg_export_snapshot'
  WHERE o.is_revoked
), want AS (
  SELECT o.class, o.oid, o.sub, a.grantee, a.privilege_type, a.is_grantable
  FROM changed o CROSS JOIN aclexplode(coalesce(o.initprivs, acldefault(o.kind::\"char\", o.owner))) a
  WHERE NOT (o.is_revoked AND a.grantee = 0)
    -- Functions of the guard: taken from PUBLIC when they were made.
    AND NOT (o.kind = 'f' AND a.grantee = 0 AND o.oid >= 16384 AND o.initprivs IS NULL
      AND NOT EXISTS (SELECT FROM pg_depend d
        WHERE d.classid = o.class AND d.objid = o.oid AND d.deptype = 'e'))
  UNION SELECT * FROM ours
  -- Made after initdb noted what there was, and granted to PUBLIC but for its own parts.
  UNION SELECT o.class, o.oid, o.sub, 0, CASE o.kind WHEN 'n' THEN 'USAGE' ELSE 'SELECT' END, false
  FROM changed o LEFT JOIN pg_class c ON o.class = c.tableoid AND c.oid = o.oid
  WHERE o.oid < 16384 AND o.sub = 0 AND (o.kind = 'n' AND o.name = 'information_schema'
    OR c.relnamespace = 'information_schema'::regnamespace AND o.name !~ '^_')
), findings AS (
  SELECT m.class, m.oid, m.sub, m.grantee,
    'has ' || m.privilege_type || CASE WHEN m.is_grantable THEN ' with grant option' ELSE '' END AS what
  FROM (SELECT * FROM have EXCEPT SELECT * FROM want) m WHERE ",
    is_tenants!("m.grantee"),
    " UNION ALL
  SELECT l.class, l.oid, l.sub, l.grantee, 'lacks ' || l.privilege_type
  FROM ours l WHERE NOT EXISTS (SELECT FROM have h
    WHERE (h.class, h.oid, h.sub, h.grantee, h.privilege_type)
      = (l.class, l.oid, l.sub, l.grantee, l.privilege_type))
  UNION ALL
  -- What a role owns it may also grant. Schema public of the first day is given to a group.
  SELECT o.class, o.oid, o.sub, o.owner, 'owns'
  FROM objects o WHERE o.oid < 16384 AND o.sub = 0 AND o.kind <> 'L' AND o.owner <> 10
    AND NOT (o.kind = 'n' AND o.name = 'public'
      AND o.owner IN (SELECT oid FROM groups WHERE rolname IN ('tenantry_admin', 'tenantry_owner')))
  UNION ALL
  -- What objects of the platform would be granted when they are made.
  SELECT 'pg_default_acl'::regclass, d.oid, 0, a.grantee, 'will have ' || a.privilege_type
  FROM pg_default_acl d CROSS JOIN aclexplode(d.defaclacl) a
  WHERE d.defaclrole NOT IN (SELECT oid FROM groups) AND a.grantee <> d.defaclrole AND ",
    is_tenants!("a.grantee"),
    "
)
SELECT f.class = 'pg_proc'::regclass, f.class::regclass::text,
  coalesce(r.rolname::text, CASE f.grantee WHEN 0 THEN 'PUBLIC' ELSE 'an unknown role' END), f.what,
  count(*), (array_agg(coalesce(o.name, f.oid::text) ORDER BY o.name))[1:3]
FROM findings f
LEFT JOIN objects o ON (o.class, o.oid, o.sub) = (f.class, f.oid, f.sub)
LEFT JOIN pg_roles r ON r.oid = f.grantee
GROUP BY 1, 2, 3, 4 ORDER BY 2, 3, 4 LIMIT $2"
);

/// Settings that a role may change although they are a superuser's, and places for files. There is
/// nothing of either kind that anybody but an owner begins with.
const SHARED: &str = concat!(
    "
SELECT o.class, coalesce(r.rolname::text, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE 'an unknown role' END),
  'has ' || a.privilege_type, count(*), (array_agg(o.name ORDER BY o.name))[1:3]
FROM (SELECT 'pg_parameter_acl', 10::oid, parname, paracl FROM pg_parameter_acl UNION ALL
  SELECT 'pg_tablespace', spcowner, spcname::text, spcacl FROM pg_tablespace) o (class, owner, name, acl)
CROSS JOIN aclexplode(o.acl) a LEFT JOIN pg_roles r ON r.oid = a.grantee
WHERE a.grantee <> o.owner AND ",
    is_tenants!("a.grantee"),
    " GROUP BY 1, 2, 3 ORDER BY 1, 2, 3 LIMIT $1"
);

impl Node {
    /// Inside `database`, to which `inside` is connected.
    pub(super) async fn check_grants(
        &self,
        inside: &tokio_postgres::Client,
        database: &str,
        findings: &mut Vec<Finding>,
    ) -> Result<(), NodeError> {
        let max = i64::try_from(ROWS_MAX).expect("a small number");
        let rows = self
            .rows(inside, STEP, INSIDE, &[&&REVOKED[..], &max])
            .await?;
        for row in rows {
            let kind = if row.get(0) {
                Kind::FunctionAcl
            } else {
                Kind::CatalogAcl
            };
            let detail = told(row.get(1), row.get(2), row.get(3), row.get(4), row.get(5));
            findings.push(Finding::new(kind, database, detail));
        }
        Ok(())
    }

    /// On what all databases of the server share.
    pub(super) async fn check_shared_grants(
        &self,
        lease: &Lease,
        findings: &mut Vec<Finding>,
    ) -> Result<(), NodeError> {
        let max = i64::try_from(ROWS_MAX).expect("a small number");
        for row in self.rows(lease, STEP, SHARED, &[&max]).await? {
            let class: &str = row.get(0);
            let detail = told(class, row.get(1), row.get(2), row.get(3), row.get(4));
            findings.push(Finding::new(Kind::CatalogAcl, class, detail));
        }
        Ok(())
    }
}

/// `tenantry_admin has SELECT on 1 of pg_class: pg_authid`.
fn told(class: &str, grantee: &str, what: &str, count: i64, names: Vec<String>) -> String {
    let more = if count > 3 { ", …" } else { "" };
    format!(
        "{grantee} {what} on {count} of {class}: {}{more}",
        names.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steps::TEMPLATE_TEXT;

    #[test]
    fn the_checker_knows_every_function_that_the_template_takes_away() {
        let list = TEMPLATE_TEXT
            .split("proname IN (")
            .nth(1)
            .unwrap()
            .split(')')
            .next()
            .unwrap();
        let mut named: Vec<&str> = list
            .split(',')
            .map(|name| name.trim().trim_matches('\''))
            .collect();
        let mut known = REVOKED.to_vec();
        named.sort_unstable();
        known.sort_unstable();
        assert_eq!(named, known);
        assert!(TEMPLATE_TEXT.contains("'^pg_(try_)?advisory_'"));
    }
}
