//! The steps of a tenant's life on a server. Each may run twice, and a crash may fall before or
//! after each: what is done is found done, what is missing is made.
//!
//! Create: [`Node::create_logins`], [`Node::create_database`], [`Node::open`]. Delete:
//! [`Node::close`], and when the retention is over [`Node::drop_database`], [`Node::drop_logins`].

use std::time::Duration;

use model::{Pid, Role, route::ServerLogin};
use tokio::time::Instant;
use tokio_postgres::error::SqlState;

use crate::{
    Node, NodeError,
    handle::{Lease, STATEMENT_MAX_MS, TEMPLATE_DATABASE},
    steps::TENANT,
};

/// What a new database is copied from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Template {
    /// The sealed, empty one.
    Empty,
    /// Another tenant's database. It must have no session: the caller holds it.
    Copy(Pid),
}

/// Which way a database was copied.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
pub enum ClonePath {
    /// It was there already; nothing was copied.
    Existing,
    /// Every page through the log; no checkpoint.
    WalLog,
    /// Files, between two checkpoints.
    FileCopy,
    /// Files that share their blocks with the source until one of them is written.
    FileClone,
    /// Row by row, through a dump of one snapshot.
    Stream,
}

impl ClonePath {
    /// As users read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Existing => "existing",
            Self::WalLog => "wal_log",
            Self::FileCopy => "file_copy",
            Self::FileClone => "file_clone",
            Self::Stream => "stream",
        }
    }
}

/// What [`Node::create_database`] did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CloneReport {
    /// Which way.
    pub path: ClonePath,
    /// How long it took, with the checkpoints that are part of it.
    pub took: Duration,
}

/// A tenant's database as the server has it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
pub enum DatabaseState {
    /// There is none.
    Absent,
    /// It is there and refuses tenants.
    Closed,
    /// It is there and its logins may connect.
    Open,
    /// Dropping it was interrupted: it can only be dropped.
    Broken,
}

/// A source of more bytes is copied as files: through the log, every page would be written twice.
/// Below it, two checkpoints cost more than that.
const WAL_LOG_BYTES_MAX: i64 = 64 << 20;
/// How long a copy may take. What takes longer should have been streamed.
const COPY_MAX: Duration = Duration::from_secs(3600);
/// How long ended sessions may take to go away. A session that is cancelled rolls back at once;
/// only the disk can hold it up.
pub(crate) const CLOSE_MAX: Duration = Duration::from_secs(30);
/// How long sessions may take to leave by themselves before they are ended. The proxy ends those of its
/// clients in milliseconds and tells them why; PostgreSQL would only say that an administrator did. 1 s:
/// for a machine that is busy; nobody waits for it where nobody is left.
pub(crate) const LEAVE_MAX: Duration = Duration::from_secs(1);
pub(crate) const CLOSE_POLL: Duration = Duration::from_millis(10);

impl Node {
    /// Which epoch of passwords is in use. One, until rotation has an issue of its own.
    pub(crate) const EPOCH: u32 = 1;

    /// How the proxy logs in to the server in the name of `role`. Pure: asks nobody. The caller
    /// adds timeouts and `search_path` to the settings.
    pub fn server_login(&self, pid: &Pid, role: Role) -> ServerLogin {
        self.login_as(pid, role, role.login(pid))
    }

    pub(crate) fn login_as(&self, pid: &Pid, role: Role, user: String) -> ServerLogin {
        ServerLogin {
            pid: pid.clone(),
            database: pid.database(),
            password: self.shared.parts.key.password(&user, Self::EPOCH),
            user,
            group: role.group(),
            settings: Default::default(),
        }
    }

    /// Makes the logins of `pid` and the role that the second wall asks for. When they exist, sets
    /// passwords, attributes, memberships and settings back to ours.
    ///
    /// # Errors
    ///
    /// Those of the server.
    pub async fn create_logins(&self, pid: &Pid) -> Result<(), NodeError> {
        let database = pid.database();
        let verifiers = Role::ALL.map(|role| self.verifier(pid, role));
        let sql = TENANT.fill(
            "roles",
            &[
                ("database", &database),
                ("admin_verifier", &verifiers[0]),
                ("write_verifier", &verifiers[1]),
                ("read_verifier", &verifiers[2]),
            ],
        );
        self.run("create logins", &sql).await
    }

    pub(crate) fn verifier(&self, pid: &Pid, role: Role) -> String {
        self.shared
            .parts
            .key
            .verifier(&role.login(pid), Self::EPOCH)
    }

    /// Makes the database of `pid`, closed. One that exists is left as it is, open or closed,
    /// unless it is the rest of an interrupted drop: that one is made anew.
    ///
    /// # Errors
    ///
    /// [`NodeError::is_source_in_use`] when the source has sessions; [`NodeError::Conflict`] when
    /// the template is not sealed (bootstrap first).
    pub async fn create_database(
        &self,
        pid: &Pid,
        from: &Template,
    ) -> Result<CloneReport, NodeError> {
        self.make_database_within(pid, from, COPY_MAX).await
    }

    /// The server gives up after `within`.
    pub(crate) async fn make_database_within(
        &self,
        pid: &Pid,
        from: &Template,
        within: Duration,
    ) -> Result<CloneReport, NodeError> {
        const STEP: &str = "create database";
        let started = Instant::now();
        let report = |path| CloneReport {
            path,
            took: started.elapsed(),
        };
        let lease = self.lease(STEP).await?;
        match self.state_of(&lease, pid).await? {
            DatabaseState::Absent => {}
            DatabaseState::Closed | DatabaseState::Open => {
                lease.give_back();
                return Ok(report(ClonePath::Existing));
            }
            DatabaseState::Broken => {
                let drop = TENANT.fill("drop", &[("database", &pid.database())]);
                lease
                    .batch_execute(&drop)
                    .await
                    .map_err(|error| self.error(STEP, error))?;
            }
        }
        if *from == Template::Empty {
            self.require_seal(&lease).await?;
        }
        let path = self.clone_path(&lease, from).await?;
        match self.copy(&lease, pid, from, (path, within)).await {
            Ok(()) => {
                lease.give_back();
                Ok(report(path))
            }
            // Another pass was faster.
            Err(error) if error.refused_with(&SqlState::DUPLICATE_DATABASE) => {
                Ok(report(ClonePath::Existing))
            }
            Err(error) => Err(error),
        }
    }

    /// To be called before the source of a copy is held: says which way it would be copied now, and
    /// writes the checkpoint that this way begins with, so that the hold does not wait for it.
    ///
    /// # Errors
    ///
    /// Those of the server. Refused (3D000) when there is no such database.
    pub async fn prepare_copy(&self, from: &Template) -> Result<ClonePath, NodeError> {
        let lease = self.lease("prepare to copy").await?;
        let path = self.clone_path(&lease, from).await?;
        if matches!(path, ClonePath::FileCopy | ClonePath::FileClone) {
            lease
                .batch_execute("CHECKPOINT")
                .await
                .map_err(|error| self.error("prepare to copy", error))?;
        }
        lease.give_back();
        Ok(path)
    }

    pub(crate) async fn require_seal(&self, lease: &Lease) -> Result<(), NodeError> {
        match self.seal(lease, TEMPLATE_DATABASE).await? {
            Some(seal) if seal.holds() => Ok(()),
            _ => Err(NodeError::Conflict {
                step: "create database",
                what: "the template is not sealed".to_owned(),
            }),
        }
    }

    /// The fastest way that is safe for this source on this server.
    async fn clone_path(&self, lease: &Lease, from: &Template) -> Result<ClonePath, NodeError> {
        const STEP: &str = "choose how to copy";
        if self.server_version().major() >= 18 {
            // Set where a probe of the file system found that it can (`managed`), or by the
            // operator of an attached server.
            let row = lease
                .query_one("SELECT current_setting('file_copy_method') = 'clone'", &[])
                .await
                .map_err(|error| self.error(STEP, error))?;
            if row.get(0) {
                return Ok(ClonePath::FileClone);
            }
        }
        let Template::Copy(source) = from else {
            return Ok(ClonePath::WalLog);
        };
        let row = lease
            .query_one(
                "SELECT pg_database_size($1::text::name)",
                &[&source.database()],
            )
            .await
            .map_err(|error| self.error(STEP, error))?;
        if row.get::<_, i64>(0) > WAL_LOG_BYTES_MAX {
            Ok(ClonePath::FileCopy)
        } else {
            Ok(ClonePath::WalLog)
        }
    }

    async fn copy(
        &self,
        lease: &Lease,
        pid: &Pid,
        from: &Template,
        (path, within): (ClonePath, Duration),
    ) -> Result<(), NodeError> {
        let source = match from {
            Template::Empty => TEMPLATE_DATABASE.to_owned(),
            Template::Copy(source) => source.database(),
        };
        let strategy = match path {
            ClonePath::Existing | ClonePath::WalLog | ClonePath::Stream => "WAL_LOG",
            ClonePath::FileCopy | ClonePath::FileClone => "FILE_COPY",
        };
        let create = TENANT.fill(
            "database",
            &[
                ("database", &pid.database()),
                ("source", &source),
                ("strategy", strategy),
            ],
        );
        // Single statements: CREATE DATABASE cannot be in a transaction, not even an implicit one.
        let before = format!("SET statement_timeout = {}", within.as_millis().max(1));
        let after = format!("SET statement_timeout = {STATEMENT_MAX_MS}");
        for sql in [&before, &create, &after] {
            lease
                .batch_execute(sql)
                .await
                .map_err(|error| self.error("create database", error))?;
        }
        Ok(())
    }

    /// Opens one session on the database of `pid`, so that the server writes the file from which
    /// later ones fill their caches. Without it a tenant's first session builds them itself, 5 to
    /// 10 ms more.
    ///
    /// # Errors
    ///
    /// Those of connecting. Nothing depends on it: whoever fails goes on.
    pub async fn warm_up(&self, pid: &Pid) -> Result<(), NodeError> {
        self.visit("warm up", &pid.database()).await.map(drop)
    }

    /// Puts up the walls around the database of `pid`, then lets its logins in. Also takes a
    /// [`Self::close`] back.
    ///
    /// # Errors
    ///
    /// Refused (3D000, 42704) when the database or a login is missing.
    pub async fn open(&self, pid: &Pid) -> Result<(), NodeError> {
        self.run(
            "open",
            &TENANT.fill("open", &[("database", &pid.database())]),
        )
        .await
    }

    /// Refuses new sessions on the database of `pid`, gives those it has a second to leave, then ends
    /// them. Returns when none is left, also when there is no such database.
    ///
    /// # Errors
    ///
    /// [`NodeError::Busy`] when sessions do not end within a bound. Repeat.
    pub async fn close(&self, pid: &Pid) -> Result<(), NodeError> {
        self.close_within(pid, CLOSE_MAX).await
    }

    /// [`Self::close`] with another bound.
    ///
    /// # Errors
    ///
    /// Those of [`Self::close`].
    pub async fn close_within(&self, pid: &Pid, close_max: Duration) -> Result<(), NodeError> {
        const STEP: &str = "close";
        let database = pid.database();
        match self
            .run(STEP, &TENANT.fill("close", &[("database", &database)]))
            .await
        {
            Err(error) if error.refused_with(&SqlState::UNDEFINED_DATABASE) => return Ok(()),
            other => other?,
        }
        let look = TENANT.fill("sessions", &[("database", &database)]);
        let disconnect = TENANT.fill("disconnect", &[("database", &database)]);
        let lease = self.lease(STEP).await?;
        let began = Instant::now();
        let until = began + close_max;
        loop {
            let has_time = began.elapsed() < LEAVE_MAX.min(close_max / 2);
            let left = lease
                .query(if has_time { &look } else { &disconnect }, &[])
                .await
                .map_err(|error| self.error(STEP, error))?
                .len();
            if left == 0 {
                lease.give_back();
                return Ok(());
            }
            if Instant::now() >= until {
                tracing::debug!(%pid, left, "sessions did not end in time");
                return Err(NodeError::Busy {
                    step: STEP,
                    what: "sessions on the database did not end",
                    waited: close_max,
                });
            }
            tokio::time::sleep(CLOSE_POLL).await;
        }
    }

    /// Removes the database of `pid` and all its data.
    ///
    /// # Errors
    ///
    /// [`NodeError::is_source_in_use`] while a branch is being copied from it.
    pub async fn drop_database(&self, pid: &Pid) -> Result<(), NodeError> {
        self.run(
            "drop database",
            &TENANT.fill("drop", &[("database", &pid.database())]),
        )
        .await
    }

    /// Removes the logins of `pid`, and what other tenants may have granted to them by name.
    ///
    /// # Errors
    ///
    /// [`NodeError::Conflict`] while its database is there. Refused (55P03) while a tenant's open
    /// transaction holds such a grant: repeat.
    pub async fn drop_logins(&self, pid: &Pid) -> Result<(), NodeError> {
        const STEP: &str = "drop logins";
        let database = pid.database();
        let values = [("database", database.as_str())];
        let lease = self.lease(STEP).await?;
        if self.state_of(&lease, pid).await? != DatabaseState::Absent {
            lease.give_back();
            return Err(NodeError::Conflict {
                step: STEP,
                what: format!("{database} exists"),
            });
        }
        let dependents = lease
            .query(&TENANT.fill("dependents", &values), &[])
            .await
            .map_err(|error| self.error(STEP, error))?;
        // A visit takes a permit of its own: never wait for one while holding another.
        lease.give_back();
        for row in dependents {
            self.forget(row.get(0), &TENANT.fill("forget", &values))
                .await?;
        }
        self.run(STEP, &TENANT.fill("drop_roles", &values)).await?;
        self.drop_stand_ins(pid).await
    }

    /// Runs `forget` inside `database`, also when that one is closed.
    pub(crate) async fn forget(&self, database: &str, forget: &str) -> Result<(), NodeError> {
        const STEP: &str = "forget logins";
        let name = model::Ident::new(database).map_err(|_| NodeError::Conflict {
            step: STEP,
            what: "a database with an impossible name".to_owned(),
        })?;
        let lease = self.lease(STEP).await?;
        let closed = lease
            .query_opt(
                "SELECT NOT datallowconn FROM pg_database WHERE datname = $1",
                &[&database],
            )
            .await
            .map_err(|error| self.error(STEP, error))?;
        lease.give_back();
        // Gone since: nothing to forget.
        let Some(closed) = closed.map(|row| row.get::<_, bool>(0)) else {
            return Ok(());
        };
        if closed {
            // Its limit of 0 stays: only superusers come in.
            self.run(
                STEP,
                &format!("ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true"),
            )
            .await?;
        }
        let result = match self.visit(STEP, database).await {
            Ok(inside) => inside
                .batch_execute(forget)
                .await
                .map_err(|error| self.error(STEP, error)),
            Err(error) => Err(error),
        };
        if closed {
            self.run(
                STEP,
                &format!("ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false"),
            )
            .await?;
        }
        result
    }
}
