//! What can be seen without entering a tenant's database: databases, roles, memberships, settings.

use std::collections::BTreeSet;

use model::{Group, Ident, Pid, Role, UserId};
use tokio_postgres::Row;

use super::{Expected, ExpectedState, Finding, FindingKind as Kind};
use crate::{
    Node, NodeError, Physical, ServerVersion,
    attached::advice,
    handle::{CATALOG_DATABASE, Lease, TEMPLATE_DATABASE},
    inventory::split,
    steps::TENANT,
    user::user_of,
};

const STEP: &str = "check roles and databases";
const GROUPS: [Group; 4] = [Group::Owner, Group::Admin, Group::Write, Group::Read];
/// Databases that are no tenant's and all the same ours.
const OURS: [&str; 2] = [CATALOG_DATABASE, TEMPLATE_DATABASE];

impl Node {
    /// Owners and grants of all databases, of which no tenant may enter any but its own; of `only`
    /// alone, when given.
    pub(super) async fn check_databases(
        &self,
        lease: &Lease,
        only: Option<&str>,
        expected: &[Expected],
        findings: &mut Vec<Finding>,
    ) -> Result<(), NodeError> {
        const GRANTS: &str = "SELECT d.datname::text, \
               d.datdba = (SELECT oid FROM pg_roles WHERE rolname = current_user), \
               coalesce(r.rolname::text, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE 'unknown' END), \
               a.privilege_type, a.is_grantable, a.grantee = d.datdba, \
               d.datacl IS NULL AND (NOT d.datallowconn OR d.datconnlimit = 0), d.datallowconn \
             FROM pg_database d \
             CROSS JOIN aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a \
             LEFT JOIN pg_roles r ON r.oid = a.grantee \
             WHERE d.datname <> 'template0' AND ($1::text IS NULL OR d.datname = $1)";
        let rows = self.rows(lease, STEP, GRANTS, &[&only]).await?;
        let open: BTreeSet<String> = expected
            .iter()
            .filter(|one| one.state == ExpectedState::Open)
            .map(|one| one.pid.database())
            .collect();
        let read = read_only_by_us(expected);
        let is_managed = self.shared.parts.managed.is_some();
        let mut connects = BTreeSet::new();
        let mut foreign = BTreeSet::new();
        for row in &rows {
            let (database, ours): (String, bool) = (row.get(0), row.get(1));
            let (grantee, privilege): (&str, &str) = (row.get(2), row.get(3));
            let (grantable, of_owner): (bool, bool) = (row.get(4), row.get(5));
            let is_door = !split(&database).is_some_and(|(_, rest)| rest.is_empty());
            let is_ours = !is_door || OURS.contains(&&*database);
            if !ours && is_ours {
                foreign.insert(database.clone());
            }
            if of_owner {
                continue;
            }
            if grantee == "PUBLIC" {
                // Whatever state it is in, but for one that was never opened: it has PUBLIC's default
                // grants behind its limit of 0, and what opens it takes them away in the same moment.
                // Of an attached server all but ours belong to others: see `open_doors`.
                let is_others = !is_managed && !is_ours;
                let never_opened: bool = row.get(6);
                if !is_others && (is_door || !never_opened) {
                    findings.push(Finding::new(Kind::PublicAccess, database, privilege));
                }
            } else if is_door {
                if split(grantee).is_some() || GROUPS.iter().any(|group| group.as_str() == grantee)
                {
                    let detail = format!("{grantee} has {privilege}");
                    findings.push(Finding::new(Kind::DatabaseAcl, database, detail));
                }
            } else if grantable || !may(&database, grantee, privilege) {
                let detail = format!("{grantee} has {privilege}");
                findings.push(Finding::new(Kind::DatabaseAcl, database, detail));
            } else if privilege == "CONNECT" {
                let is_let_in: bool = row.get(7);
                if is_let_in && read.contains(&database) && !grantee.ends_with("_backup") {
                    let detail = format!("{grantee} may connect while it is backed up");
                    findings.push(Finding::new(Kind::DatabaseAcl, &database, detail));
                }
                connects.insert((database, grantee.to_owned()));
            }
        }
        if !is_managed && only.is_none() {
            for database in self.open_doors(lease).await? {
                findings.push(Finding::new(Kind::PublicAccess, database, advice()));
            }
        }
        for database in foreign {
            let detail = "does not belong to the platform's role";
            findings.push(Finding::new(Kind::DatabaseOwner, database, detail));
        }
        let known: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
        for database in open.intersection(&known) {
            for role in Role::ALL {
                let login = format!("{database}_{role}");
                if !connects.contains(&(database.clone(), login.clone())) {
                    let detail = format!("{login} may not connect");
                    findings.push(Finding::new(Kind::DatabaseAcl, database, detail));
                }
            }
        }
        Ok(())
    }

    /// Settings stored for roles or databases of ours. Only their names are told.
    pub(super) async fn check_settings(
        &self,
        lease: &Lease,
        only: Option<&str>,
        findings: &mut Vec<Finding>,
    ) -> Result<(), NodeError> {
        let mut rows = self
            .rows(lease, STEP, &TENANT.fill("stored_settings", &[]), &[])
            .await?;
        const OF_DATABASES: &str = "SELECT d.datname, NULL::name, s.setconfig \
             FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase \
             WHERE s.setrole = 0 AND d.datname ~ '^(x_[a-z][a-z0-9]{11}|tenantry_template)$'";
        rows.extend(self.rows(lease, STEP, OF_DATABASES, &[]).await?);
        for row in rows {
            let subject: String = row.get(0);
            let within: Option<String> = row.get(1);
            let whose = |name: &str| only.is_none_or(|only| name.starts_with(only));
            if !whose(&subject) && !within.as_deref().is_some_and(whose) {
                continue;
            }
            let settings: Vec<String> = row.get(2);
            let names: Vec<&str> = settings
                .iter()
                .filter_map(|setting| setting.split('=').next())
                .collect();
            findings.push(Finding::new(Kind::StoredSetting, subject, names.join(", ")));
        }
        Ok(())
    }
}

/// Databases of which nobody of the tenant may come in while somebody reads them.
fn read_only_by_us(expected: &[Expected]) -> BTreeSet<String> {
    let read = expected
        .iter()
        .filter(|one| one.state == ExpectedState::BackedUp);
    read.map(|one| one.pid.database()).collect()
}

/// Whether a role may have been granted this on a tenant's database (see `open` and
/// `open_blueprint` in `sql/tenant.sql`).
fn may(database: &str, grantee: &str, privilege: &str) -> bool {
    match grantee.strip_prefix(database) {
        Some(
            "_admin" | "_write" | "_read" | "_deploy" | "_dump" | "_backup" | "_export" | "_fill",
        ) => privilege == "CONNECT",
        Some(suffix) if user_of(suffix).is_some() => privilege == "CONNECT",
        _ => match grantee {
            "tenantry_admin" | "tenantry_owner" => ["CREATE", "TEMPORARY"].contains(&privilege),
            "tenantry_write" => privilege == "TEMPORARY",
            _ => false,
        },
    }
}

/// Roles of ours, and every membership that touches one.
pub(super) struct Roles {
    roles: Vec<RoleRow>,
    members: Vec<MemberRow>,
}

struct RoleRow {
    name: String,
    /// login, inherit, superuser, createdb, createrole, replication, bypassrls.
    attributes: [bool; 7],
    connection_limit: i32,
    password: Option<String>,
    expires: bool,
    /// Databases that are filled from a dump that names it; empty: it is what its name says.
    stands_in_for: Vec<String>,
}

#[derive(Clone, Debug)]
struct MemberRow {
    member: String,
    role: String,
    admin: bool,
    /// 16 and later.
    inherit: Option<bool>,
    set: Option<bool>,
    grantor: Option<String>,
}

const ATTRIBUTES: [&str; 7] = [
    "LOGIN",
    "INHERIT",
    "SUPERUSER",
    "CREATEDB",
    "CREATEROLE",
    "REPLICATION",
    "BYPASSRLS",
];
/// A login: it may log in, and nothing else.
const LOGIN: [bool; 7] = [true, false, false, false, false, false, false];
/// A group, or the role that the second wall asks for: nothing at all.
const NOTHING: [bool; 7] = [false; 7];
/// What stands in for a role that is gone: as `CREATE ROLE` makes it.
const STAND_IN: [bool; 7] = [false, true, false, false, false, false, false];

impl Roles {
    /// All roles of ours, or those of one tenant.
    pub(super) async fn read(
        node: &Node,
        lease: &Lease,
        only: Option<&str>,
    ) -> Result<Self, NodeError> {
        const ROLES: &str = "SELECT rolname::text, rolcanlogin, rolinherit, rolsuper, rolcreatedb, \
               rolcreaterole, rolreplication, rolbypassrls, rolconnlimit, rolpassword, \
               rolvaliduntil IS NOT NULL, \
               coalesce(CASE WHEN starts_with(shobj_description(oid, 'pg_authid'), 'stands in for: ') \
                 THEN (string_to_array(shobj_description(oid, 'pg_authid'), ' '))[4:] END, '{}') \
             FROM pg_authid \
             WHERE ($1::text IS NULL AND rolname ~ '^(x_[a-z][a-z0-9]{11}|tenantry_(owner|admin|write|read)$)') \
               OR starts_with(rolname, $1)";
        // The options are columns of 16 and later; as JSON they are simply not there before.
        const MEMBERS: &str = "SELECT m.rolname::text, r.rolname::text, a.admin_option, \
               (to_jsonb(a) ->> 'inherit_option')::bool, (to_jsonb(a) ->> 'set_option')::bool, \
               (SELECT g.rolname::text FROM pg_roles g WHERE g.oid = a.grantor) \
             FROM pg_auth_members a \
             JOIN pg_roles m ON m.oid = a.member JOIN pg_roles r ON r.oid = a.roleid \
             WHERE ($1::text IS NULL AND (m.rolname ~ '^(x_[a-z][a-z0-9]{11}|tenantry_)' \
                 OR r.rolname ~ '^(x_[a-z][a-z0-9]{11}|tenantry_(owner|admin|write|read)$)')) \
               OR starts_with(m.rolname, $1) OR starts_with(r.rolname, $1)";
        let role = |row: Row| RoleRow {
            name: row.get(0),
            attributes: std::array::from_fn(|i| row.get(1 + i)),
            connection_limit: row.get(8),
            password: row.get(9),
            expires: row.get(10),
            stands_in_for: row.get(11),
        };
        let member = |row: Row| MemberRow {
            member: row.get(0),
            role: row.get(1),
            admin: row.get(2),
            inherit: row.get(3),
            set: row.get(4),
            grantor: row.get(5),
        };
        Ok(Self {
            roles: node
                .rows(lease, STEP, ROLES, &[&only])
                .await?
                .into_iter()
                .map(role)
                .collect(),
            members: node
                .rows(lease, STEP, MEMBERS, &[&only])
                .await?
                .into_iter()
                .map(member)
                .collect(),
        })
    }

    /// Users of one tenant that have a login.
    pub(super) fn users(&self, pid: &Pid) -> Vec<(Role, UserId)> {
        let own = self
            .roles
            .iter()
            .filter(|role| role.stands_in_for.is_empty());
        own.filter_map(|role| split(&role.name))
            .filter(|(own, _)| own == pid)
            .filter_map(|(_, suffix)| user_of(suffix))
            .collect()
    }

    fn role(&self, name: &str) -> Option<&RoleRow> {
        self.roles.iter().find(|role| role.name == name)
    }

    pub(super) fn check_groups(&self, findings: &mut Vec<Finding>) {
        for group in GROUPS {
            let name = group.as_str();
            match self.role(name) {
                Some(role) => role.check(NOTHING, None, findings),
                None => findings.push(Finding::new(
                    Kind::MissingRole,
                    name,
                    "the group is not there",
                )),
            }
            // A group is a member of nothing, or all tenants would be.
            for row in self.members.iter().filter(|row| row.member == name) {
                findings.push(row.finding("too many"));
            }
        }
    }

    /// Attributes, passwords and memberships of the roles of one tenant.
    pub(super) fn check_logins(
        &self,
        seen: &Physical,
        verifiers: &[(Role, String, String)],
        findings: &mut Vec<Finding>,
    ) {
        let wall = seen.pid.database();
        if let Some(role) = self.role(&wall) {
            role.check(NOTHING, None, findings);
        }
        for (role, name, verifier) in verifiers {
            let Some(row) = self.role(name) else {
                continue;
            };
            row.check(LOGIN, Some(verifier), findings);
            for (group, set) in [(role.group().as_str(), true), (&*wall, false)] {
                let fine = self
                    .members
                    .iter()
                    .any(|row| row.member == *name && row.role == group && row.is_ours(set));
                if !fine {
                    let detail = format!("is not a member of {group} as it should be");
                    findings.push(Finding::new(Kind::Membership, name, detail));
                }
            }
        }
        for row in self.too_many(&wall) {
            findings.push(row.finding("too many"));
        }
    }

    /// Whether the database of `pid` is being filled: nothing in it is where it belongs yet.
    pub(super) fn is_being_filled(&self, database: &str) -> bool {
        self.role(&format!("{database}_fill")).is_some()
    }

    /// Roles of our form whose tenant is not there at all: `_deploy`, `_dump`, `_backup`, `_export` and `_fill` alone, or a
    /// suffix that we never use. What fills a database and what stands in for roles that are gone, after that has ended.
    pub(super) fn check_strays(
        &self,
        seen: &[Physical],
        expected: &[Expected],
        findings: &mut Vec<Finding>,
    ) {
        for role in &self.roles {
            let Some((pid, suffix)) = split(&role.name) else {
                continue;
            };
            if !role.stands_in_for.is_empty() {
                role.check(STAND_IN, None, findings);
                let mut whom = role.stands_in_for.iter();
                if !whom.any(|database| self.is_being_filled(database)) {
                    let detail = format!(
                        "stood in for a role that a restore needed, and nothing is restored into {}",
                        role.stands_in_for.join(", ")
                    );
                    findings.push(Finding::new(Kind::OrphanRole, &role.name, detail));
                }
                continue;
            }
            let is_settled =
                |one: &Expected| one.pid == pid && one.state != ExpectedState::Changing;
            if suffix == "_fill" && expected.iter().any(is_settled) {
                let detail = "is left of a copy or a restore that has ended";
                findings.push(Finding::new(Kind::OrphanRole, &role.name, detail));
            }
            let known = [
                "", "_admin", "_write", "_read", "_deploy", "_dump", "_backup", "_export", "_fill",
            ]
            .contains(&suffix)
                || user_of(suffix).is_some();
            if !known || !seen.iter().any(|one| one.pid == pid) {
                findings.push(Finding::new(
                    Kind::OrphanRole,
                    &role.name,
                    "belongs to no tenant",
                ));
            }
        }
    }

    /// Memberships that touch the roles of one tenant and are none of ours.
    fn too_many<'a>(&'a self, wall: &'a str) -> impl Iterator<Item = &'a MemberRow> {
        self.members.iter().filter(move |row| {
            (row.member.starts_with(wall) || row.role.starts_with(wall)) && !row.is_expected()
        })
    }

    /// Statements that take the memberships too many away. Only from a value read for one tenant.
    pub(super) fn revokes(&self, version: ServerVersion) -> Vec<String> {
        let ident = |name: &str| Ident::new(name).map(|name| name.to_string()).ok();
        self.members
            .iter()
            .filter(|row| !row.is_expected())
            .filter_map(|row| {
                let (role, member) = (ident(&row.role)?, ident(&row.member)?);
                let by = match (&row.grantor, version.major()) {
                    (Some(grantor), 16..) => format!(" GRANTED BY {}", ident(grantor)?),
                    _ => String::new(),
                };
                Some(format!("REVOKE {role} FROM {member}{by} CASCADE"))
            })
            .collect()
    }
}

impl RoleRow {
    fn check(&self, want: [bool; 7], verifier: Option<&str>, findings: &mut Vec<Finding>) {
        let different: Vec<String> = ATTRIBUTES
            .iter()
            .zip(self.attributes.iter().zip(want))
            .filter(|(_, (have, want))| *have != want)
            .map(|(name, (have, _))| format!("{}{name}", if *have { "" } else { "NO" }))
            .collect();
        if !different.is_empty() {
            findings.push(Finding::new(
                Kind::RoleAttributes,
                &self.name,
                different.join(" "),
            ));
        }
        if self.connection_limit != -1 || self.expires {
            let detail = "has a connection limit or an expiry";
            findings.push(Finding::new(Kind::RoleAttributes, &self.name, detail));
        }
        if self.password.as_deref() != verifier {
            let detail = match verifier {
                Some(_) => "is not ours",
                None => "there should be none",
            };
            findings.push(Finding::new(Kind::RolePassword, &self.name, detail));
        }
    }
}

impl MemberRow {
    /// Whether a role of ours is a member as `sql/tenant.sql` grants it.
    fn is_ours(&self, set: bool) -> bool {
        !self.admin
            && self.inherit.is_none_or(|inherit| !inherit)
            && self.set.is_none_or(|is| is == set)
    }

    /// Whether this membership is one that we make.
    fn is_expected(&self) -> bool {
        let Some((pid, suffix)) = split(&self.member) else {
            return false;
        };
        let is_wall = self.role == pid.database();
        match suffix {
            "_admin" | "_write" | "_read" => {
                is_wall && self.is_ours(false)
                    || self.role == format!("tenantry{suffix}") && self.is_ours(true)
            }
            "_deploy" => {
                is_wall && self.is_ours(false)
                    || self.role == Group::Owner.as_str() && self.is_ours(true)
            }
            "_dump" | "_backup" | "_export" => {
                is_wall && self.is_ours(false) || self.role == "pg_read_all_data" && !self.admin
            }
            "_fill" => {
                is_wall && self.is_ours(false)
                    || GROUPS.iter().any(|group| self.role == group.as_str()) && !self.admin
            }
            suffix => user_of(suffix).is_some_and(|(role, _)| {
                is_wall && self.is_ours(false)
                    || self.role == role.group().as_str() && self.is_ours(true)
            }),
        }
    }

    fn finding(&self, what: &str) -> Finding {
        let detail = format!("{what}: {} in {}", self.member, self.role);
        Finding::new(Kind::Membership, &self.member, detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_memberships_are_expected() {
        let row = |member: &str, role: &str| MemberRow {
            member: member.to_owned(),
            role: role.to_owned(),
            admin: false,
            inherit: None,
            set: None,
            grantor: None,
        };
        let (a, b) = ("x_aaaaaaaaaaaa", "x_bbbbbbbbbbbb");
        assert!(row(&format!("{a}_admin"), "tenantry_admin").is_expected());
        assert!(row(&format!("{a}_admin"), a).is_expected());
        assert!(row(&format!("{a}_dump"), "pg_read_all_data").is_expected());
        assert!(row(&format!("{a}_read_{}", "u".repeat(12)), "tenantry_read").is_expected());
        assert!(row(&format!("{a}_read_{}", "u".repeat(12)), a).is_expected());
        for (member, role) in [
            (format!("{a}_admin"), "tenantry_owner".to_owned()),
            (format!("{a}_read"), "tenantry_write".to_owned()),
            (format!("{a}_read"), "pg_read_all_data".to_owned()),
            (
                format!("{a}_read_{}", "u".repeat(12)),
                "tenantry_write".to_owned(),
            ),
            (format!("{a}_read_u"), "tenantry_read".to_owned()),
            (format!("{b}_read_{}", "u".repeat(12)), a.to_owned()),
            (format!("{b}_admin"), a.to_owned()),
            (format!("{b}_admin"), format!("{a}_admin")),
            ("somebody".to_owned(), a.to_owned()),
            ("tenantry_admin".to_owned(), format!("{a}_admin")),
        ] {
            assert!(!row(&member, &role).is_expected(), "{member} in {role}");
        }
        assert!(
            !MemberRow {
                admin: true,
                ..row(&format!("{a}_admin"), a)
            }
            .is_expected()
        );
    }

    #[test]
    fn grants_on_a_database_are_those_of_opening_it() {
        let x = "x_aaaaaaaaaaaa";
        assert!(may(x, "x_aaaaaaaaaaaa_read", "CONNECT"));
        assert!(may(x, "tenantry_write", "TEMPORARY"));
        for (grantee, privilege) in [
            ("x_bbbbbbbbbbbb_read", "CONNECT"),
            ("x_aaaaaaaaaaaa_admin", "CREATE"),
            ("tenantry_admin", "CONNECT"),
            ("tenantry_read", "TEMPORARY"),
            ("tenantry_write", "CREATE"),
        ] {
            assert!(!may(x, grantee, privilege), "{grantee} {privilege}");
        }
    }
}
