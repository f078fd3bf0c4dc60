//! What is on a server, found by looking.

use std::collections::{BTreeMap, HashSet};

use model::{Pid, Role};
use tokio_postgres::types::ToSql;

use crate::{DatabaseState, Node, NodeError, handle::Lease};

/// What a server has of one physical id.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Physical {
    /// Which.
    pub pid: Pid,
    /// Its database.
    pub database: DatabaseState,
    /// Its logins, strongest first.
    pub logins: Vec<Role>,
    /// Whether the role that its logins are members of (named like the database) is there.
    pub wall: bool,
}

/// What a server counts of a database.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Figures {
    /// On disk.
    pub bytes: u64,
    /// Blocks found in PostgreSQL's own memory, since its statistics began.
    pub blocks_hit: u64,
    /// Blocks that were not.
    pub blocks_read: u64,
}

impl Physical {
    fn absent(pid: Pid) -> Self {
        Self {
            pid,
            database: DatabaseState::Absent,
            logins: Vec::new(),
            wall: false,
        }
    }

    /// Whether nothing of it is on the server.
    pub fn is_absent(&self) -> bool {
        self.database == DatabaseState::Absent && self.logins.is_empty() && !self.wall
    }
}

/// Limit of a database whose drop was interrupted (`DATCONNLIMIT_INVALID_DB`).
const INVALID: i32 = -2;

fn state(allows_connections: bool, limit: i32) -> DatabaseState {
    match (allows_connections, limit) {
        (_, INVALID) => DatabaseState::Broken,
        (true, -1) => DatabaseState::Open,
        _ => DatabaseState::Closed,
    }
}

const DATABASES: &str = "SELECT datname::text, datallowconn, datconnlimit FROM pg_database \
     WHERE datname ~ '^x_[a-z][a-z0-9]{11}$'";
/// Those that only stand in for what is gone (`sql/branch.sql`) are nobody's.
const ROLES: &str = "SELECT rolname::text FROM pg_roles \
     WHERE rolname ~ '^x_[a-z][a-z0-9]{11}(_(admin|write|read))?$' \
       AND NOT coalesce(starts_with(shobj_description(oid, 'pg_authid'), 'stands in for: '), false)";

impl Node {
    /// What is on the server, in the order of physical ids.
    ///
    /// # Errors
    ///
    /// Those of the server.
    pub async fn inventory(&self) -> Result<Vec<Physical>, NodeError> {
        const STEP: &str = "take inventory";
        let lease = self.lease(STEP).await?;
        let databases = self.rows(&lease, STEP, DATABASES, &[]).await?;
        let roles = self.rows(&lease, STEP, ROLES, &[]).await?;
        lease.give_back();
        Ok(collect(&databases, &roles).into_values().collect())
    }

    /// What is on the server of one physical id.
    ///
    /// # Errors
    ///
    /// Those of the server.
    pub async fn physical(&self, pid: &Pid) -> Result<Physical, NodeError> {
        const STEP: &str = "look at one";
        let name = pid.database();
        let lease = self.lease(STEP).await?;
        let databases = self
            .rows(
                &lease,
                STEP,
                &format!("{DATABASES} AND datname = $1"),
                &[&name],
            )
            .await?;
        let roles = self
            .rows(
                &lease,
                STEP,
                &format!("{ROLES} AND starts_with(rolname, $1)"),
                &[&name],
            )
            .await?;
        lease.give_back();
        Ok(collect(&databases, &roles)
            .remove(pid)
            .unwrap_or_else(|| Physical::absent(pid.clone())))
    }

    /// Size of the database of `pid` on disk, in bytes; `None` when there is none. Looks at every
    /// file of it, a millisecond for a few hundred: never for many at once.
    ///
    /// # Errors
    ///
    /// Those of the server.
    pub async fn database_bytes(&self, pid: &Pid) -> Result<Option<u64>, NodeError> {
        const STEP: &str = "measure";
        let lease = self.lease(STEP).await?;
        let rows = self
            .rows(
                &lease,
                STEP,
                "SELECT pg_database_size(oid) FROM pg_database WHERE datname = $1",
                &[&pid.database()],
            )
            .await?;
        lease.give_back();
        Ok(rows
            .first()
            .map(|row| row.get::<_, Option<i64>>(0).unwrap_or(0).unsigned_abs()))
    }

    /// What PostgreSQL counts of the database of `pid`; `None` when there is none. Its size is looked at as
    /// by [`Self::database_bytes`].
    ///
    /// # Errors
    ///
    /// Those of the server.
    pub async fn database_figures(&self, pid: &Pid) -> Result<Option<Figures>, NodeError> {
        const STEP: &str = "measure";
        const FIGURES: &str = "SELECT pg_database_size(d.oid), coalesce(s.blks_hit, 0), coalesce(s.blks_read, 0)
             FROM pg_database d LEFT JOIN pg_stat_database s ON s.datid = d.oid WHERE d.datname = $1";
        let lease = self.lease(STEP).await?;
        let rows = self.rows(&lease, STEP, FIGURES, &[&pid.database()]).await?;
        lease.give_back();
        let number = |row: &tokio_postgres::Row, column| {
            row.get::<_, Option<i64>>(column)
                .unwrap_or(0)
                .unsigned_abs()
        };
        Ok(rows.first().map(|row| Figures {
            bytes: number(row, 0),
            blocks_hit: number(row, 1),
            blocks_read: number(row, 2),
        }))
    }

    /// Whose databases have sessions now.
    ///
    /// # Errors
    ///
    /// Those of the server.
    pub async fn in_use(&self) -> Result<HashSet<Pid>, NodeError> {
        const STEP: &str = "see who is there";
        const IN_USE: &str = "SELECT DISTINCT datname::text FROM pg_stat_activity \
             WHERE datname ~ '^x_[a-z][a-z0-9]{11}$'";
        let lease = self.lease(STEP).await?;
        let rows = self.rows(&lease, STEP, IN_USE, &[]).await?;
        lease.give_back();
        let pids = rows.iter().filter_map(|row| split(row.get(0)));
        Ok(pids.map(|(pid, _)| pid).collect())
    }

    pub(crate) async fn state_of(
        &self,
        lease: &Lease,
        pid: &Pid,
    ) -> Result<DatabaseState, NodeError> {
        let name = pid.database();
        let rows = self
            .rows(
                lease,
                "look at one",
                &format!("{DATABASES} AND datname = $1"),
                &[&name],
            )
            .await?;
        Ok(rows
            .first()
            .map_or(DatabaseState::Absent, |row| state(row.get(1), row.get(2))))
    }

    pub(crate) async fn rows(
        &self,
        client: &tokio_postgres::Client,
        step: &'static str,
        sql: &str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<tokio_postgres::Row>, NodeError> {
        client
            .query(sql, values)
            .await
            .map_err(|error| self.error(step, error))
    }
}

fn collect(
    databases: &[tokio_postgres::Row],
    roles: &[tokio_postgres::Row],
) -> BTreeMap<Pid, Physical> {
    let mut all = BTreeMap::new();
    for row in databases {
        if let Some((pid, "")) = split(row.get(0)) {
            entry(&mut all, pid).database = state(row.get(1), row.get(2));
        }
    }
    for row in roles {
        let Some((pid, suffix)) = split(row.get(0)) else {
            continue;
        };
        let found = entry(&mut all, pid);
        match Role::ALL
            .into_iter()
            .find(|role| suffix.strip_prefix('_') == Some(role.as_str()))
        {
            Some(role) => found.logins.push(role),
            None => found.wall = true,
        }
    }
    for found in all.values_mut() {
        found.logins.sort_unstable();
    }
    all
}

fn entry(all: &mut BTreeMap<Pid, Physical>, pid: Pid) -> &mut Physical {
    all.entry(pid.clone())
        .or_insert_with(|| Physical::absent(pid))
}

/// `x_abcdefghijkl_read` is the pid and `_read`.
pub(crate) fn split(name: &str) -> Option<(Pid, &str)> {
    let rest = name.strip_prefix("x_")?;
    let pid = rest.get(..12)?.parse().ok()?;
    Some((pid, &rest[12..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart() {
        let (pid, rest) = split("x_abcdefghijkl_read").unwrap();
        assert_eq!((pid.as_str(), rest), ("abcdefghijkl", "_read"));
        assert_eq!(split("x_abcdefghijkl").unwrap().1, "");
        for other in [
            "postgres",
            "x_",
            "x_1bcdefghijkl",
            "x_abcdefghijk\u{e9}",
            "tenantry",
        ] {
            assert!(split(other).is_none(), "{other}");
        }
    }

    #[test]
    fn what_an_interrupted_drop_leaves_is_not_open() {
        assert_eq!(state(true, -2), DatabaseState::Broken);
        assert_eq!(state(true, -1), DatabaseState::Open);
        assert_eq!(state(true, 0), DatabaseState::Closed);
        assert_eq!(state(false, -1), DatabaseState::Closed);
    }
}
