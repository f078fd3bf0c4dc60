//! Filling a new database from a dump that was kept, and the proof that it is what it was.
//!
//! Does not own: the bytes, which the caller writes into [`Fill::input`], or a copy of a database that is
//! there (`stream`). What is filled is restored as `_fill`, as in `stream`; while that role exists, the
//! database is not complete, whatever else is there.

use std::{collections::BTreeSet, process::Stdio, time::Duration};

use model::{Pid, Role, UserId};
use tokio::process::ChildStdin;

use crate::{
    Content, Manifest, Node, NodeError, Object, Template,
    dump::Last,
    programs::no_programs,
    steps::BRANCH,
    stream::{Running, is_public, login, same},
    user::user_of,
};

const STEP: &str = "restore a backup";

/// A database that is being filled.
#[derive(Debug)]
pub struct Fill {
    program: Running,
}

impl Fill {
    /// What `pg_restore` reads; once. To be shut down at the end.
    pub fn input(&mut self) -> Option<ChildStdin> {
        self.program.child.stdin.take()
    }
}

impl Node {
    /// Begins to fill the database of `pid`, closed, from a dump with this manifest. What an interrupted one
    /// left is made anew. Ended by [`Self::finish_fill`] or [`Self::abandon_fill`].
    ///
    /// # Errors
    ///
    /// [`NodeError::Conflict`] when there are no programs, or the dump is of a newer PostgreSQL.
    pub async fn begin_fill_from(
        &self,
        pid: &Pid,
        manifest: &Manifest,
        within: Duration,
    ) -> Result<Fill, NodeError> {
        let programs = self.programs().ok_or_else(|| no_programs(STEP))?.clone();
        let source = source(manifest)?;
        let ours = self.ping_version().await?;
        if manifest.server_version / 10_000 > ours / 10_000 {
            return Err(NodeError::Conflict {
                step: STEP,
                what: format!(
                    "the backup is of PostgreSQL {}, and this server is {}",
                    manifest.server_version / 10_000,
                    ours / 10_000
                ),
            });
        }
        self.begin_fill(pid, within).await?;
        self.make_stand_ins(pid, &source, manifest).await?;
        let objects = objects(manifest);
        {
            let copy = self.visit(STEP, &pid.database()).await?;
            let mut sql = BRANCH.fill("fill_bare", &[]);
            if !objects.iter().any(is_public) {
                sql.push_str(";DROP SCHEMA public");
            }
            let sent = copy.batch_execute(&sql).await;
            sent.map_err(|error| self.error(STEP, error))?;
        }
        let mut restore = self.restore_program(&programs, pid);
        restore.stdin(Stdio::piped());
        let program = Running::begin(&mut restore).map_err(|error| NodeError::Program {
            step: STEP,
            program: "pg_restore",
            words: error.to_string(),
        })?;
        Ok(Fill { program })
    }

    /// Makes what was filled complete: waits for `pg_restore`, makes out to the logins of `pid` what names
    /// those of its source, and compares everything with the manifest. After it the database is closed and
    /// whole. Logins of users in `users` stay; what was granted to others of the source is forgotten.
    ///
    /// # Errors
    ///
    /// [`NodeError::Program`] when `pg_restore` failed; [`NodeError::Conflict`] when it is not what it was.
    /// Repeating begins anew.
    pub async fn finish_fill(
        &self,
        pid: &Pid,
        fill: Fill,
        manifest: &Manifest,
        users: &[(Role, UserId)],
        within: Duration,
    ) -> Result<(), NodeError> {
        let filled = self.complete(pid, fill.program, manifest, users, within);
        let filled = filled.await;
        self.try_drop_stand_ins(pid).await;
        filled?;
        let name = pid.database();
        self.run(STEP, &format!("ALTER DATABASE {name} CONNECTION LIMIT 0"))
            .await?;
        // Last: without it, the database is complete.
        self.drop_visitor(pid, "fill").await
    }

    async fn complete(
        &self,
        pid: &Pid,
        mut program: Running,
        manifest: &Manifest,
        users: &[(Role, UserId)],
        within: Duration,
    ) -> Result<(), NodeError> {
        let source = source(manifest)?;
        program.ended().await.map_err(|words| NodeError::Program {
            step: STEP,
            program: "pg_restore",
            words,
        })?;
        let copy = self.visit(STEP, &pid.database()).await?;
        let own = [("database", &*pid.database())];
        let sent = copy.batch_execute(&BRANCH.fill("fill_done", &own)).await;
        sent.map_err(|error| self.error(STEP, error))?;
        drop(copy);
        if source != *pid {
            self.adopt(pid, &source).await?;
        }
        self.compare(pid, manifest, within).await?;
        for (role, user) in self.users(pid).await? {
            if !users.contains(&(role, user.clone())) {
                self.drop_user(pid, role, &user).await?;
            }
        }
        Ok(())
    }

    async fn try_drop_stand_ins(&self, pid: &Pid) {
        if let Err(error) = self.drop_stand_ins(pid).await {
            tracing::debug!(%pid, error = %error, "roles that stood in for others stay for now");
        }
    }

    /// Roles that stood in for others while the database of `pid` was filled go, unless another restore needs them. Those
    /// that a half filled database names go when it went, with the logins of `pid`.
    pub(crate) async fn drop_stand_ins(&self, pid: &Pid) -> Result<(), NodeError> {
        let own = [("database", &*pid.database())];
        self.run(STEP, &BRANCH.fill("stand_ins_drop", &own)).await
    }

    /// Ends a fill that came to nothing.
    pub async fn abandon_fill(&self, pid: &Pid, mut fill: Fill) {
        let _ = fill.program.child.kill().await;
        self.try_drop_stand_ins(pid).await;
    }

    async fn make_stand_ins(
        &self,
        pid: &Pid,
        source: &Pid,
        manifest: &Manifest,
    ) -> Result<(), NodeError> {
        let lease = self.lease(STEP).await?;
        let sql = "SELECT rolname::text FROM pg_roles r WHERE starts_with(rolname, $1)
            AND shobj_description(r.oid, 'pg_authid') IS NULL";
        let rows = self.rows(&lease, STEP, sql, &[&source.database()]).await?;
        lease.give_back();
        let there: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
        for suffix in &manifest.logins {
            let role = format!("{}{suffix}", source.database());
            if there.contains(&role) {
                continue;
            }
            // The manifest is ours, and authenticated; a name that is none of ours is not made all the same.
            let is_ours = ["", "_admin", "_write", "_read"].contains(&suffix.as_str())
                || user_of(suffix).is_some();
            if !is_ours {
                return Err(NodeError::Conflict {
                    step: STEP,
                    what: "the backup names a role that is none of a database's".to_owned(),
                });
            }
            let values = [("role", &*role), ("database", &*pid.database())];
            self.run(STEP, &BRANCH.fill("stand_in", &values)).await?;
        }
        Ok(())
    }

    /// Whether the database of `pid` is what the manifest says.
    async fn compare(
        &self,
        pid: &Pid,
        manifest: &Manifest,
        within: Duration,
    ) -> Result<(), NodeError> {
        let inside = self.visit(STEP, &pid.database()).await?;
        let got = self.objects_of(&inside).await?;
        let large = self.large(&inside).await?;
        drop(inside);
        same(&objects(manifest), &got, Content::All)?;
        self.let_reader_in(pid, false, within).await?;
        let census = self.census(pid).await;
        self.drop_visitor(pid, "backup").await?;
        let (tables, positions) = census?;
        let differs = |what: String| NodeError::Conflict {
            step: STEP,
            what: format!("what was restored is not what was backed up: {what}"),
        };
        if tables != manifest.tables {
            let different = tables
                .iter()
                .zip(&manifest.tables)
                .filter(|(got, wanted)| got != wanted)
                .count();
            return Err(differs(format!(
                "rows of {} tables",
                different.max(tables.len().abs_diff(manifest.tables.len()))
            )));
        }
        if large != manifest.large {
            return Err(differs("large objects".to_owned()));
        }
        let wanted = manifest.sequences.iter();
        let wrong = wanted
            .filter_map(|wanted| Some((wanted, wanted.at?)))
            .filter(|(wanted, at)| position(&positions, &wanted.sequence) != Some(*at))
            .count();
        if wrong > 0 {
            return Err(differs(format!("positions of {wrong} sequences")));
        }
        Ok(())
    }

    async fn ping_version(&self) -> Result<u32, NodeError> {
        if self.server_version().0 == 0 {
            self.ping().await?;
        }
        Ok(self.server_version().0)
    }

    /// What begins a fill: the mark, an empty database, and the login that fills it.
    pub(crate) async fn begin_fill(&self, pid: &Pid, within: Duration) -> Result<(), NodeError> {
        // Its sessions end with it.
        self.drop_database(pid).await?;
        let database = pid.database();
        self.run(STEP, &BRANCH.fill("fill_mark", &[("database", &database)]))
            .await?;
        self.create_database(pid, &Template::Empty).await?;
        let until = self.in_future(within).await?;
        let key = &self.shared.parts.key;
        let values = [
            ("database", &*database),
            ("verifier", &key.verifier(&login(pid, "fill"), Self::EPOCH)),
            ("until", &until),
        ];
        self.run(STEP, &BRANCH.fill("fill_login", &values)).await
    }
}

fn source(manifest: &Manifest) -> Result<Pid, NodeError> {
    manifest.source.parse().map_err(|_| NodeError::Conflict {
        step: STEP,
        what: "the backup does not say where it is from".to_owned(),
    })
}

fn objects(manifest: &Manifest) -> Vec<Object> {
    let object = |made: &crate::Made| Object {
        kind: made.kind.clone(),
        name: made.name.clone(),
        definition: made.count.clone().unwrap_or_default(),
        rights: made.rights.clone(),
    };
    manifest.objects.iter().map(object).collect()
}

fn position(all: &[crate::Position], sequence: &str) -> Option<Last> {
    all.iter()
        .find(|one| one.sequence == sequence)
        .and_then(|one| one.at)
}
