//! Databases of others, on a server that is not ours, that logins of tenants could enter.
//!
//! PUBLIC may connect to every new database, and the logins of tenants are PUBLIC, too. To take that
//! away would lock out whom we do not know: it is the operator's to decide. Here it is found out.
//!
//! Owns: reading privileges and `pg_hba.conf` together. Does not own: telling (`check`).

use std::collections::BTreeSet;

use crate::{
    Node, NodeError,
    handle::{CATALOG_DATABASE, Lease, TEMPLATE_DATABASE},
    inventory::split,
};

const STEP: &str = "look at databases of others";

/// Groups that every login of a tenant is a member of one of, as `pg_hba.conf` writes them.
pub(super) const GROUPS: &str = "+tenantry_admin,+tenantry_write,+tenantry_read";

/// What closes all of them for tenants and nobody else; for the operator.
pub(crate) fn advice() -> String {
    format!(
        "logins of tenants could connect: REVOKE CONNECT ON DATABASE … FROM PUBLIC (and grant it to whom it serves), or put \
         these lines, in this order, first into pg_hba.conf, and reload it: {}, {}",
        lines("host"),
        lines("local")
    )
}

/// Of `pg_hba.conf`, for one kind of connection: logins of tenants come into their own database with their password, and
/// into no other one. The first of the two alone leaves all others to the lines behind it.
pub(super) fn lines(kind: &str) -> String {
    let from = if kind == "local" { "" } else { " all" };
    format!(
        "\"{kind} samerole {GROUPS}{from} scram-sha-256\", \"{kind} all {GROUPS}{from} reject\""
    )
}

/// [`GROUPS`], one by one.
const MEMBERS: [&str; 3] = ["+tenantry_admin", "+tenantry_write", "+tenantry_read"];

impl Node {
    /// Names of the databases that PUBLIC, a group or a login of tenants may connect to, and to which
    /// `pg_hba.conf` lets logins of tenants through from some address. When that file cannot be
    /// understood, it counts as letting them through.
    pub(crate) async fn open_doors(&self, lease: &Lease) -> Result<BTreeSet<String>, NodeError> {
        const CONNECTS: &str = "SELECT DISTINCT d.datname::text, \
               coalesce(r.rolname::text, CASE a.grantee WHEN 0 THEN 'PUBLIC' END) \
             FROM pg_database d \
             CROSS JOIN aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a \
             LEFT JOIN pg_roles r ON r.oid = a.grantee \
             WHERE d.datallowconn AND a.privilege_type = 'CONNECT'";
        let rules = self.rules(lease).await?;
        let mut open = BTreeSet::new();
        for row in self.rows(lease, STEP, CONNECTS, &[]).await? {
            let (database, Some(grantee)): (String, Option<&str>) = (row.get(0), row.get(1)) else {
                continue;
            };
            let is_ours = [CATALOG_DATABASE, TEMPLATE_DATABASE].contains(&&*database)
                || split(&database).is_some_and(|(_, rest)| rest.is_empty());
            let is_tenants = grantee == "PUBLIC"
                || split(grantee).is_some()
                || MEMBERS.iter().any(|member| &member[1..] == grantee);
            if !is_ours && is_tenants && lets_through(&rules, &database) {
                open.insert(database);
            }
        }
        Ok(open)
    }

    /// `pg_hba.conf` as the server reads it, in the order of the file and of those it includes.
    async fn rules(&self, lease: &Lease) -> Result<Vec<Rule>, NodeError> {
        const RULES: &str = "SELECT type, database, user_name, address, auth_method, error, line_number \
             FROM pg_hba_file_rules";
        let rule = |row: &tokio_postgres::Row| Rule {
            is_local: row.get::<_, Option<&str>>(0) == Some("local"),
            databases: row.get::<_, Option<_>>(1).unwrap_or_default(),
            users: row.get::<_, Option<_>>(2).unwrap_or_default(),
            is_plain_host: row.get::<_, Option<&str>>(0) == Some("host"),
            from_anywhere: matches!(row.get(3), None | Some("all")),
            rejects: row.get::<_, Option<&str>>(4) == Some("reject"),
            trusts: row.get::<_, Option<&str>>(4) == Some("trust"),
            broken: row.get::<_, Option<&str>>(5).is_some(),
            line: row.get(6),
        };
        let rows = self.rows(lease, STEP, RULES, &[]).await?;
        Ok(rows.iter().map(rule).collect())
    }

    /// Once, at the start: the operator is to know. On the way that we take, a password is asked for
    /// (`proof`); on others, which only the operator knows, these lines ask for none.
    pub(crate) async fn warn_of_doors(&self, lease: &Lease) -> Result<(), NodeError> {
        for line in trusting(&self.rules(lease).await?) {
            tracing::warn!(
                node = self.name(),
                line,
                "pg_hba.conf of the attached server lets logins of tenants in without a password, from where \
                 this line fits: put these lines, in this order, before it, and reload: {}, {}",
                lines("host"),
                lines("local")
            );
        }
        let open = self.open_doors(lease).await?;
        if !open.is_empty() {
            let databases: Vec<String> = open.into_iter().collect();
            tracing::warn!(
                node = self.name(),
                databases = databases.join(", "),
                "databases of others on the attached server: {}",
                advice()
            );
        }
        Ok(())
    }
}

/// A line of `pg_hba.conf`.
#[derive(Clone, Debug)]
struct Rule {
    is_local: bool,
    databases: Vec<String>,
    users: Vec<String>,
    /// With and without TLS.
    is_plain_host: bool,
    /// Any address, IPv4 and IPv6.
    from_anywhere: bool,
    rejects: bool,
    /// Asks for no password.
    trusts: bool,
    broken: bool,
    line: i32,
}

impl Rule {
    fn concerns(&self, database: &str) -> bool {
        // `samerole`, `sameuser` and `replication` never mean a database of others for a tenant.
        let names = |name: &String| name == "all" || name == database || name.starts_with('/');
        self.databases.iter().any(names)
    }

    /// Whether some login of a tenant may be meant.
    fn may_mean_tenants(&self) -> bool {
        let means = |user: &String| {
            user == "all"
                || user.starts_with('/')
                || user.starts_with("+tenantry_")
                || user.starts_with("+pg_")
                || user.trim_start_matches('+').starts_with("x_")
        };
        self.users.iter().any(means)
    }

    /// Whether it refuses every login of every tenant, from anywhere, to every database.
    fn shuts(&self) -> bool {
        let has = |name: &str| self.users.iter().any(|user| user == name);
        self.rejects
            && self.databases.iter().any(|name| name == "all")
            && (has("all") || MEMBERS.iter().all(|member| has(member)))
            && (self.is_local || self.is_plain_host && self.from_anywhere)
    }
}

/// Lines by which whoever reaches the server comes in as any tenant.
fn trusting(rules: &[Rule]) -> impl Iterator<Item = i32> {
    [true, false].into_iter().flat_map(|is_local| {
        rules
            .iter()
            .filter(move |rule| rule.is_local == is_local)
            .take_while(|rule| !rule.shuts())
            .filter(|rule| rule.trusts && rule.may_mean_tenants())
            .map(|rule| rule.line)
    })
}

/// The first line that fits decides, for sockets and for TCP apart.
fn lets_through(rules: &[Rule], database: &str) -> bool {
    if rules.iter().any(|rule| rule.broken) {
        // The server goes on with what it read before; that cannot be seen.
        return true;
    }
    [true, false].into_iter().any(|is_local| {
        rules
            .iter()
            .filter(|rule| rule.is_local == is_local)
            .take_while(|rule| !rule.shuts())
            .any(|rule| !rule.rejects && rule.concerns(database) && rule.may_mean_tenants())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of `type database user address method`, `-` for no address.
    fn rules(text: &str) -> Vec<Rule> {
        let list = |text: &str| text.split(',').map(str::to_owned).collect();
        text.lines()
            .zip(1..)
            .map(|(line, number)| {
                let words: Vec<&str> = line.split_whitespace().collect();
                Rule {
                    is_local: words[0] == "local",
                    databases: list(words[1]),
                    users: list(words[2]),
                    is_plain_host: words[0] == "host",
                    from_anywhere: ["-", "all"].contains(&words[3]),
                    rejects: words[4] == "reject",
                    trusts: words[4] == "trust",
                    broken: false,
                    line: number,
                }
            })
            .collect()
    }

    #[test]
    fn the_lines_that_the_advice_names_close_every_door() {
        let groups = MEMBERS.join(",");
        let behind = "host all all all md5\nlocal all all - peer";
        let advised = advice();
        let lines: Vec<String> = advised
            .split('"')
            .skip(1)
            .step_by(2)
            .map(|line| match line.starts_with("local") {
                true => line.replace(GROUPS, &format!("{GROUPS} -")),
                false => line.to_owned(),
            })
            .collect();
        let with = |lines: &[String]| rules(&format!("{}\n{behind}", lines.join("\n")));
        assert_eq!(lines.len(), 4);
        assert!(!lets_through(&with(&lines), "theirs"));
        // None of them is too many: each first line lets tenants in, each second one stops them.
        for left_out in [1, 3] {
            let mut fewer = lines.clone();
            fewer.remove(left_out);
            assert!(lets_through(&with(&fewer), "theirs"), "{left_out}");
        }
        assert_eq!(groups, GROUPS);
    }

    #[test]
    fn lines_that_ask_for_no_password_are_told() {
        let groups = MEMBERS.join(",");
        let text = format!(
            "local all postgres - trust\nlocal all all - trust\nhost all all 127.0.0.1 trust\n\
             host all {groups} all reject\nhost all all all trust"
        );
        assert_eq!(trusting(&rules(&text)).collect::<Vec<_>>(), [2, 3]);
    }

    #[test]
    fn whatever_may_let_a_tenant_in_is_open() {
        let groups = MEMBERS.join(",");
        for open in [
            "host all all all scram-sha-256".to_owned(),
            "local all all - peer".to_owned(),
            "hostssl theirs +tenantry_read 10.0.0.0 scram-sha-256".to_owned(),
            "host /^the all all md5".to_owned(),
            format!("host all {groups} 10.0.0.0 reject\nhost all all all md5"),
            format!("host all {groups} 0.0.0.0 reject\nhost all all all md5"),
            format!("hostssl all {groups} all reject\nhost all all all md5"),
            format!("host theirs {groups} all reject\nhost all all all md5"),
            "host all +tenantry_admin all reject\nhost all all all md5".to_owned(),
            format!("local all {groups} - reject\nhost all all all md5"),
            format!("host all all all md5\nhost all {groups} all reject"),
        ] {
            assert!(lets_through(&rules(&open), "theirs"), "{open}");
        }
    }

    #[test]
    fn what_names_others_is_closed() {
        for closed in [
            "",
            "host all alice,bob all md5",
            "host samerole all all scram-sha-256\nhost all all all reject",
            "host other all all md5",
            "host replication all all md5",
        ] {
            assert!(!lets_through(&rules(closed), "theirs"), "{closed}");
        }
    }
}
