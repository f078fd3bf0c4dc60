//! A database as a file for whoever it belongs to: what `pg_dump` writes of one moment of it, whole.
//!
//! Owns: the login that reads, and what `pg_dump` is told. Does not own: who may have it and where the bytes go
//! (the caller), or backups (`dump`), which are read only by us and are compared with what was counted.
//!
//! It reads as `_export`, which sees what row security hides from the owner (`FORCE ROW LEVEL SECURITY`), may only read,
//! and may log in to that one database. Nobody outside gets its session or its password: it could read the catalogs of
//! the server, too. No text of a user's runs under it: `pg_dump` reads catalogs and copies tables, and calls nothing
//! that is outside `pg_catalog`.

use std::time::Duration;

use model::Pid;
use rand::RngExt as _;
use tokio::process::ChildStdout;
use tokio_postgres::Client;

use crate::{
    DUMPED_TABLES_MAX, Node, NodeError,
    handle::MAINTENANCE_DATABASE,
    programs::no_programs,
    steps::TENANT,
    stream::{DUMP_LOCK_WAIT_MAX, Running, login},
};

const STEP: &str = "write a dump";
/// How often an ended session is looked for: 5 s in all.
const GONE_LOOKS_MAX: u32 = 250;
const GONE_LOOK_EVERY: Duration = Duration::from_millis(20);

/// The form of the file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Form {
    /// The text of statements.
    Plain,
    /// What `pg_restore` reads, compressed.
    Custom,
}

/// What is in it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Part {
    /// Everything.
    All,
    /// No rows.
    Schema,
    /// Rows alone.
    Data,
}

/// A dump that somebody wants.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// In which form.
    pub form: Form,
    /// How much.
    pub part: Part,
    /// Patterns of `pg_dump`; none: all schemas.
    pub schemas: Vec<String>,
}

/// A dump that is being written.
#[derive(Debug)]
pub struct Export {
    program: Running,
    name: String,
}

/// The turn to write a dump of one database, among all processes. It ends with [`Self::end`], when it is dropped, and
/// with the process.
#[derive(Debug)]
pub struct ExportTurn(Client);

impl ExportTurn {
    /// The next one may begin when this returns.
    pub async fn end(self) {
        // When it fails, the session is over, and so is the turn.
        let _ = self
            .0
            .batch_execute("SELECT pg_advisory_unlock_all()")
            .await;
    }
}

impl Node {
    /// Takes the turn to write a dump of the database of `source`, whose login all its dumps share; `None`: another one
    /// has it.
    ///
    /// # Errors
    ///
    /// Those of the server.
    pub async fn export_turn(&self, source: &Pid) -> Result<Option<ExportTurn>, NodeError> {
        // None of those for maintenance: it may last for hours.
        let client = self.connect(STEP, MAINTENANCE_DATABASE).await?;
        let sql = "SELECT pg_try_advisory_lock(hashtextextended($1, 0)), \
                   set_config('idle_session_timeout', '0', false)";
        let rows = self
            .rows(&client, STEP, sql, &[&login(source, "export")])
            .await?;
        let is_ours = rows.first().is_some_and(|row| row.get(0));
        Ok(is_ours.then_some(ExportTurn(client)))
    }

    /// Begins to write a dump of the database of `source`, which is open and stays in use; by whoever has the turn
    /// ([`Self::export_turn`]). Ended by [`Self::end_export`], also when this failed.
    ///
    /// # Errors
    ///
    /// [`NodeError::Conflict`] when there are no programs, or more than [`DUMPED_TABLES_MAX`] tables. Those of the
    /// server: repeat.
    pub async fn begin_export(
        &self,
        source: &Pid,
        wanted: &Wanted,
        within: Duration,
    ) -> Result<Export, NodeError> {
        let programs = self.programs().ok_or_else(|| no_programs(STEP))?.clone();
        self.few_tables(source).await?;
        let until = self.in_future(within).await?;
        let database = source.database();
        let key = &self.shared.parts.key;
        let verifier = key.verifier(&login(source, "export"), Self::EPOCH);
        let values = [
            ("database", &*database),
            ("kind", "export"),
            ("verifier", &verifier),
            ("until", &until),
        ];
        self.run(STEP, &TENANT.fill("visitor_login", &values))
            .await?;
        let name = format!("tenantry {:016x}", rand::rng().random::<u64>());
        let mut command = self.program(&programs, "pg_dump", source, "export");
        command
            .args([
                "--no-owner",
                "--no-privileges",
                "--encoding=UTF8",
                "--no-password",
            ])
            .arg(match wanted.form {
                Form::Plain => "--format=plain",
                Form::Custom => "--format=custom",
            })
            .args(match wanted.part {
                Part::All => None,
                Part::Schema => Some("--schema-only"),
                Part::Data => Some("--data-only"),
            })
            .args(
                wanted
                    .schemas
                    .iter()
                    .map(|schema| format!("--schema={schema}")),
            )
            .arg(format!(
                "--lock-wait-timeout={}",
                DUMP_LOCK_WAIT_MAX.as_millis()
            ))
            .env("PGAPPNAME", &name)
            .stdout(std::process::Stdio::piped());
        let program = Running::begin(&mut command).map_err(|error| NodeError::Program {
            step: STEP,
            program: "pg_dump",
            words: error.to_string(),
        })?;
        Ok(Export { program, name })
    }

    async fn few_tables(&self, pid: &Pid) -> Result<(), NodeError> {
        let inside = self.visit(STEP, &pid.database()).await?;
        let sql = "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'";
        let rows = self.rows(&inside, STEP, sql, &[]).await?;
        let tables: i64 = rows.first().map_or(0, |row| row.get(0));
        if usize::try_from(tables).unwrap_or(usize::MAX) > DUMPED_TABLES_MAX {
            return Err(NodeError::Conflict {
                step: STEP,
                what: format!("there are more than {DUMPED_TABLES_MAX} tables"),
            });
        }
        Ok(())
    }

    /// What became of it. All of its output was read before; unless this is `Ok`, that is worth nothing.
    ///
    /// # Errors
    ///
    /// [`NodeError::Program`] with the words of `pg_dump`.
    pub async fn finish_export(&self, export: &mut Export) -> Result<(), NodeError> {
        export
            .program
            .ended()
            .await
            .map_err(|words| NodeError::Program {
                step: STEP,
                program: "pg_dump",
                words,
            })
    }

    /// Nobody writes this dump any more: ends its session should it be there still, and removes the login when no other
    /// dump of the database uses it. Twice is as good as once; what is left here is found by [`Self::end_exports`].
    ///
    /// # Errors
    ///
    /// Those of the server.
    pub async fn end_export(&self, source: &Pid, export: Option<Export>) -> Result<(), NodeError> {
        let name = match export {
            None => None,
            Some(mut export) => {
                // Already ended, or to end now: whoever wanted it is gone.
                let _ = export.program.child.kill().await;
                Some(export.name)
            }
        };
        if let Some(name) = name {
            let values = [("login", &*login(source, "export")), ("name", &name)];
            let sql = TENANT.fill("export_sessions", &values);
            for _ in 0..GONE_LOOKS_MAX {
                let lease = self.lease(STEP).await?;
                let rows = self.rows(&lease, STEP, &sql, &[]).await?;
                lease.give_back();
                if rows.is_empty() {
                    break;
                }
                tokio::time::sleep(GONE_LOOK_EVERY).await;
            }
        }
        self.forget_exports(&login(source, "export")).await
    }

    /// Removes what dumps left whose process died. Those that are being written, or are about to be, go on.
    ///
    /// # Errors
    ///
    /// Those of the server.
    pub async fn end_exports(&self) -> Result<(), NodeError> {
        self.forget_exports("").await
    }

    async fn forget_exports(&self, login: &str) -> Result<(), NodeError> {
        let sql = TENANT.fill("forget_exports", &[("login", login)]);
        self.run(STEP, &sql).await
    }
}

impl Export {
    /// What `pg_dump` writes; once.
    pub fn output(&mut self) -> Option<ChildStdout> {
        self.program.child.stdout.take()
    }
}
