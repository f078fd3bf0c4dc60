//! A copy of a tenant's database while nobody uses it, and making any copy a tenant of its own.
//!
//! Does not own: keeping sessions away (the caller holds the source), or the other way of copying
//! (`stream`).

use std::time::Duration;

use model::Pid;

use crate::{CloneReport, DatabaseState, Node, NodeError, Template, steps::BRANCH};

impl Node {
    /// Sessions on the database of `pid` that are in the way of a copy, ours among them.
    ///
    /// # Errors
    ///
    /// Those of the server.
    pub async fn sessions(&self, pid: &Pid) -> Result<u32, NodeError> {
        const STEP: &str = "count sessions";
        const SESSIONS: &str = "SELECT count(*) FROM pg_stat_activity \
             WHERE datname = $1 AND backend_type <> 'autovacuum worker'";
        let lease = self.lease(STEP).await?;
        let rows = self
            .rows(&lease, STEP, SESSIONS, &[&pid.database()])
            .await?;
        lease.give_back();
        let count = rows.first().map_or(0, |row| row.get::<_, i64>(0));
        Ok(u32::try_from(count).unwrap_or(u32::MAX))
    }

    /// Whether the database of `pid` is there, and no streamed copy into it was interrupted.
    ///
    /// # Errors
    ///
    /// Those of the server.
    pub async fn is_complete(&self, pid: &Pid) -> Result<bool, NodeError> {
        let database = self.physical(pid).await?.database;
        let is_there = matches!(database, DatabaseState::Closed | DatabaseState::Open);
        Ok(is_there && !self.is_half_filled(pid).await?)
    }

    /// Makes the database of `pid`, closed, as a copy of `source`, which has no session: the caller
    /// sees to that for `within`, after which the server gives up. One that exists is left, unless a
    /// streamed copy was begun and not completed: that one is made anew.
    ///
    /// # Errors
    ///
    /// [`NodeError::is_source_in_use`] when the source has sessions; refused (57014) after `within`.
    pub async fn copy_database(
        &self,
        pid: &Pid,
        source: &Pid,
        within: Duration,
    ) -> Result<CloneReport, NodeError> {
        if self.is_half_filled(pid).await? {
            self.undo_fill(pid, source).await?;
        }
        self.make_database_within(pid, &Template::Copy(source.clone()), within)
            .await
    }

    /// Makes out to the logins of `pid` what its source granted to its own: grants, default privileges
    /// and policies that name a login. Everything else names groups, which a copy shares with its source.
    ///
    /// # Errors
    ///
    /// Those of the server; [`NodeError::Conflict`] when something still names the source.
    pub async fn adopt(&self, pid: &Pid, source: &Pid) -> Result<(), NodeError> {
        const STEP: &str = "make a copy its own";
        let (database, from) = (pid.database(), source.database());
        let values = [("database", &*database), ("source", &*from)];
        // It may have been closed since: deleted, and taken back. Its limit of 0 stays: only superusers
        // come in.
        self.run(STEP, &BRANCH.fill("let_in", &values)).await?;
        // Whoever is a user there is one here, as far as grants go: nobody has a secret for it.
        for (role, user) in self.users(source).await? {
            self.create_user(pid, role, &user).await?;
        }
        let inside = self.visit(STEP, &database).await?;
        let sent = inside.batch_execute(&BRANCH.fill("adopt", &values)).await;
        sent.map_err(|error| self.error(STEP, error))?;
        let named = BRANCH.fill("named", &[("source", &from)]);
        let rows = self.rows(&inside, STEP, &named, &[]).await?;
        match rows.first().map_or(0, |row| row.get::<_, i64>(0)) {
            0 => Ok(()),
            left => Err(NodeError::Conflict {
                step: STEP,
                what: format!("{left} objects still name a login of the source"),
            }),
        }
    }
}
