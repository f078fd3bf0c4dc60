//! One moment of a database as a stream of bytes that can be kept, with what it has to come back as.
//!
//! Owns: the login that reads, the snapshot, `pg_dump`, and the [`Manifest`] of that same snapshot. Does not
//! own: where the bytes go (the caller), or reading them back (`fill`).
//!
//! No text of a user runs with rights of ours: everything of a user's is read as `_backup`, which may only
//! read, in that one database; the superuser reads catalogs.

use std::time::{Duration, SystemTime};

use model::{Pid, Secret};
use serde::{Deserialize, Serialize};
use tokio::process::ChildStdout;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::{
    Node, NodeError, Object,
    handle::CONNECT_MAX,
    programs::no_programs,
    steps::TENANT,
    stream::{DUMP_LOCK_WAIT_MAX, Running, login},
};

const STEP: &str = "back up";
/// Tables of a database that is backed up, at most: a dump has an entry in the shared lock table for each, and
/// that table belongs to all tenants.
pub const DUMPED_TABLES_MAX: usize = 2_500;
/// Tables locked by one statement: a text of some hundred kB.
const LOCKED_AT_ONCE: usize = 500;

/// What a dump has to come back as, of the moment it was made of.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Manifest {
    /// The database it was made of: its roles are named in the dump.
    pub source: String,
    /// What stands behind the name of that database in the names of its logins: `_admin`, `_read_…`.
    pub logins: Vec<String>,
    /// As [`crate::ServerVersion`]; an older server cannot read it.
    pub server_version: u32,
    /// Everything it is made of.
    pub objects: Vec<Made>,
    /// Rows of every ordinary table and partition; those of extensions, generated columns and
    /// materialized views are made anew and do not count.
    pub tables: Vec<TableSum>,
    /// Positions of sequences.
    pub sequences: Vec<Position>,
    /// All large objects together.
    pub large: LargeSum,
}

/// One object.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Made {
    /// As [`Object::kind`].
    pub kind: String,
    /// As [`Object::name`].
    pub name: String,
    /// As [`Object::rights`].
    pub rights: String,
    /// Of large objects: how many.
    pub count: Option<String>,
}

/// Rows of one table.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct TableSum {
    /// Qualified, quoted as in SQL.
    pub table: String,
    /// How many.
    pub rows: u64,
    /// Sum of a 64-bit hash of each row's text, so that no order of rows matters.
    pub sum: String,
}

/// Where a sequence was.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Position {
    /// Qualified, quoted as in SQL.
    pub sequence: String,
    /// `None`: it was in use during the dump; sequences belong to no snapshot.
    pub at: Option<Last>,
}

/// The last value that a sequence gave; `None`: none yet.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Last(pub Option<i64>);

/// Large objects.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct LargeSum {
    /// How many.
    pub objects: u64,
    /// Bytes of all.
    pub bytes: u64,
    /// As of tables, page by page. A hole and zeros are the same.
    pub sum: String,
}

impl From<&Object> for Made {
    fn from(object: &Object) -> Self {
        Self {
            kind: object.kind.clone(),
            name: object.name.clone(),
            rights: object.rights.clone(),
            count: (object.kind == "large objects").then(|| object.definition.clone()),
        }
    }
}

/// A database that is being read.
#[derive(Debug)]
pub struct Dump {
    reader: Client,
    program: Running,
    moment: SystemTime,
    manifest: Manifest,
    tables: Vec<Table>,
}

#[derive(Debug)]
struct Table {
    name: String,
    /// `t.a, t.b`: what is dumped of a row, in an order that a restore keeps.
    columns: String,
}

/// Ordinary tables that users made, with their columns by name: a restored child of an inheritance tree may
/// have them in another order.
const TABLES: &str = "
    SELECT format('%I.%I', n.nspname, c.relname),
        coalesce((SELECT string_agg(format('t.%I', a.attname), ', ' ORDER BY a.attname COLLATE \"C\")
            FROM pg_attribute a
            WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated::text = ''), '')
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r' AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'tenantry')
        AND NOT EXISTS (SELECT FROM pg_depend d
            WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
    ORDER BY 1 LIMIT $1";

/// The first snapshot of its transaction, and when, in microseconds since 1970. As one simple query: its statement
/// begins when it arrives, which is before the snapshot is taken. The extended protocol takes it at Parse, and its statement
/// begins anew at Execute: behind what was committed in between.
const SNAPSHOT: &str =
    "SELECT pg_export_snapshot(), (extract(epoch FROM statement_timestamp()) * 1000000)::bigint";

const SEQUENCES: &str = "
    SELECT format('%I.%I', n.nspname, c.relname), pg_sequence_last_value(c.oid)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'S' AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'tenantry')
        AND NOT EXISTS (SELECT FROM pg_depend d
            WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
    ORDER BY 1";

/// `pg_largeobject` is for superusers only, and holds bytes, which nothing of a user's looks at.
const LARGE: &str = r#"
    SELECT (SELECT count(*) FROM pg_largeobject_metadata), coalesce(sum(bytes), 0)::text, coalesce(sum(one), 0)::text
    FROM (
        SELECT max(pageno::bigint * (current_setting('block_size')::int / 4) + octet_length(data)) AS bytes,
            sum(hashtextextended(format('%s %s %s', loid, pageno, encode(rtrim(data, '\x00'::bytea), 'hex'))
                COLLATE pg_catalog."C", 0)) FILTER (WHERE rtrim(data, '\x00'::bytea) <> ''::bytea) AS one
        FROM pg_largeobject GROUP BY loid) objects"#;

/// What could make two databases write the same value in two ways.
const FORMS: &str = "SET statement_timeout = 0; SET extra_float_digits = 3; SET datestyle = 'ISO, MDY'; \
    SET intervalstyle = 'postgres'; SET timezone = 'UTC'; SET bytea_output = 'hex'; SET lc_monetary = 'C'; \
    SET quote_all_identifiers = off; SET xmloption = 'content'; SET client_encoding = 'UTF8'; SET jit = off; \
    SET idle_in_transaction_session_timeout = 0";

impl Node {
    /// Begins to read one moment of the database of `source`, which stays in use. The bytes are those of
    /// `pg_dump --format=custom`, not compressed. `is_closed`: nobody of the tenant may come in, before,
    /// meanwhile and afterwards; otherwise it is open. At most one at a time of a database; ended by
    /// [`Self::end_dump`], also when it failed.
    ///
    /// # Errors
    ///
    /// [`NodeError::Conflict`] when there are no programs, or more than [`DUMPED_TABLES_MAX`] tables. Those
    /// of the server: repeat.
    pub async fn begin_dump(
        &self,
        source: &Pid,
        is_closed: bool,
        within: Duration,
    ) -> Result<Dump, NodeError> {
        let programs = self.programs().ok_or_else(|| no_programs(STEP))?.clone();
        self.let_reader_in(source, is_closed, within).await?;
        let reader = self.reader(source).await?;
        let send = async |sql: &str| {
            let sent = reader.batch_execute(sql).await;
            sent.map_err(|error| self.error(STEP, error))
        };
        // Locks before the snapshot: what is emptied or rewritten in between would be seen as empty.
        send("BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY").await?;
        let known = self.tables(&reader).await?;
        send("ROLLBACK").await?;
        send("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        send(&format!(
            "SET LOCAL lock_timeout = {}",
            DUMP_LOCK_WAIT_MAX.as_millis()
        ))
        .await?;
        for some in known.chunks(LOCKED_AT_ONCE) {
            let names: Vec<String> = some
                .iter()
                .map(|one| format!("ONLY {}", one.name))
                .collect();
            send(&format!(
                "LOCK TABLE {} IN ACCESS SHARE MODE",
                names.join(", ")
            ))
            .await?;
        }
        let (snapshot, moment) = self.snapshot(&reader).await?;
        let tables = self.tables(&reader).await?;
        let mut manifest = self.manifest(source, &snapshot).await?;
        manifest.sequences = self.positions(&reader).await?;
        let mut dump = self.program(&programs, "pg_dump", source, "backup");
        dump.args(["--format=custom", "--compress=0", "--no-password"])
            .arg(format!("--snapshot={snapshot}"))
            .arg(format!(
                "--lock-wait-timeout={}",
                DUMP_LOCK_WAIT_MAX.as_millis()
            ))
            .stdout(std::process::Stdio::piped());
        let program = Running::begin(&mut dump).map_err(|error| NodeError::Program {
            step: STEP,
            program: "pg_dump",
            words: error.to_string(),
        })?;
        Ok(Dump {
            reader,
            program,
            moment,
            manifest,
            tables,
        })
    }

    /// Takes the snapshot of the transaction that `reader` has begun. What was confirmed to be committed by the moment is
    /// in it.
    async fn snapshot(&self, reader: &Client) -> Result<(String, SystemTime), NodeError> {
        let taken = reader.simple_query(SNAPSHOT).await;
        let taken = taken.map_err(|error| self.error(STEP, error))?;
        let row = taken.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let row = row.and_then(|row| Some((row.get(0)?, row.get(1)?.parse().ok()?)));
        let (name, micros): (&str, u64) = row.ok_or_else(|| NodeError::Conflict {
            step: STEP,
            what: "the server's answer to a snapshot cannot be read".to_owned(),
        })?;
        let moment = SystemTime::UNIX_EPOCH + Duration::from_micros(micros);
        Ok((name.to_owned(), moment))
    }

    /// What the dump has to come back as. All of its output was read before.
    ///
    /// # Errors
    ///
    /// [`NodeError::Program`] when `pg_dump` failed; what was read is worth nothing then.
    pub async fn finish_dump(&self, dump: Dump) -> Result<Manifest, NodeError> {
        let Dump {
            reader,
            mut program,
            mut manifest,
            tables,
            ..
        } = dump;
        program.ended().await.map_err(|words| NodeError::Program {
            step: STEP,
            program: "pg_dump",
            words,
        })?;
        let now = self.positions(&reader).await?;
        for (before, now) in manifest.sequences.iter_mut().zip(&now) {
            if before != now {
                before.at = None;
            }
        }
        // Another one was made or dropped: none is sure to be where it was counted.
        if manifest.sequences.len() != now.len() {
            manifest.sequences.clear();
        }
        manifest.tables = self.sums(&reader, &tables).await?;
        Ok(manifest)
    }

    /// Nobody reads the database of `source` any more; one that `is_closed` is closed again. Twice is as good
    /// as once.
    ///
    /// # Errors
    ///
    /// Those of the server.
    pub async fn end_dump(&self, source: &Pid, is_closed: bool) -> Result<(), NodeError> {
        let database = source.database();
        if is_closed {
            let close = TENANT.fill("close", &[("database", &database)]);
            self.run(STEP, &close).await?;
        }
        self.drop_visitor(source, "backup").await
    }

    pub(crate) async fn let_reader_in(
        &self,
        pid: &Pid,
        is_closed: bool,
        within: Duration,
    ) -> Result<(), NodeError> {
        let until = self.in_future(within).await?;
        let database = pid.database();
        let key = &self.shared.parts.key;
        let values = [
            ("database", &*database),
            ("kind", "backup"),
            (
                "verifier",
                &key.verifier(&login(pid, "backup"), Self::EPOCH),
            ),
            ("until", &until),
        ];
        self.run(STEP, &TENANT.fill("visitor_login", &values))
            .await?;
        if is_closed {
            let let_in = TENANT.fill("let_backup_in", &[("database", &database)]);
            self.run(STEP, &let_in).await?;
        }
        Ok(())
    }

    /// A session of its own, besides those for maintenance: it may last for hours.
    pub(crate) async fn reader(&self, pid: &Pid) -> Result<Client, NodeError> {
        let parts = &self.shared.parts;
        let user = login(pid, "backup");
        let password: Secret = parts.key.password(&user, Self::EPOCH);
        let mut config = parts.config.clone();
        config
            .user(&user)
            .password(password.reveal())
            .dbname(pid.database())
            .application_name("tenantry")
            .connect_timeout(CONNECT_MAX)
            .options("-c search_path=pg_catalog");
        let connect = async {
            let (client, connection) = config.connect(parts.tls.clone()).await?;
            // Ends with the client, or with the server: its error reaches the client's queries.
            tokio::spawn(connection);
            client.batch_execute(FORMS).await?;
            Ok(client)
        };
        match tokio::time::timeout(CONNECT_MAX, connect).await {
            Ok(connected) => connected.map_err(|error| self.error(STEP, error)),
            Err(elapsed) => Err(NodeError::Unreachable {
                node: self.name().to_owned(),
                step: STEP,
                source: Box::new(elapsed),
            }),
        }
    }

    async fn tables(&self, reader: &Client) -> Result<Vec<Table>, NodeError> {
        let limit = i64::try_from(DUMPED_TABLES_MAX + 1).unwrap_or(i64::MAX);
        let rows = self.rows(reader, STEP, TABLES, &[&limit]).await?;
        if rows.len() > DUMPED_TABLES_MAX {
            return Err(NodeError::Conflict {
                step: STEP,
                what: format!("there are more than {DUMPED_TABLES_MAX} tables"),
            });
        }
        let table = |row: &tokio_postgres::Row| Table {
            name: row.get(0),
            columns: row.get(1),
        };
        Ok(rows.iter().map(table).collect())
    }

    async fn positions(&self, reader: &Client) -> Result<Vec<Position>, NodeError> {
        let rows = self.rows(reader, STEP, SEQUENCES, &[]).await?;
        Ok(rows
            .iter()
            .map(|row| Position {
                sequence: row.get(0),
                at: Some(Last(row.get(1))),
            })
            .collect())
    }

    /// `record_out` and not a cast: a user may have made a cast of a row, and a function for it.
    async fn sums(&self, reader: &Client, tables: &[Table]) -> Result<Vec<TableSum>, NodeError> {
        let mut sums = Vec::with_capacity(tables.len());
        for table in tables {
            let sql = format!(
                "SELECT count(*), coalesce(sum(hashtextextended(textin(record_out(ROW({}))) COLLATE \"C\", 0)), 0)::text \
                 FROM ONLY {} t",
                table.columns, table.name
            );
            let rows = self.rows(reader, STEP, &sql, &[]).await?;
            let Some(row) = rows.first() else { continue };
            sums.push(TableSum {
                table: table.name.clone(),
                rows: row.get::<_, i64>(0).unsigned_abs(),
                sum: row.get(1),
            });
        }
        Ok(sums)
    }

    /// Sums of the rows of all tables of `pid`, and where its sequences are, as they are now.
    pub(crate) async fn census(
        &self,
        pid: &Pid,
    ) -> Result<(Vec<TableSum>, Vec<Position>), NodeError> {
        let reader = self.reader(pid).await?;
        let tables = self.tables(&reader).await?;
        Ok((
            self.sums(&reader, &tables).await?,
            self.positions(&reader).await?,
        ))
    }

    async fn manifest(&self, source: &Pid, snapshot: &str) -> Result<Manifest, NodeError> {
        let inside = self.visit(STEP, &source.database()).await?;
        let import = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT '{snapshot}'"
        );
        let sent = inside.batch_execute(&import).await;
        sent.map_err(|error| self.error(STEP, error))?;
        let objects = self.objects_of(&inside).await?;
        let large = self.large(&inside).await?;
        const LOGINS: &str = "SELECT substr(rolname::text, length($1) + 1) FROM pg_roles
            WHERE rolname ~ ('^' || $1 || '(_(admin|write|read)(_[a-z0-9]+)?)?$') ORDER BY 1";
        let logins = self
            .rows(&inside, STEP, LOGINS, &[&source.database()])
            .await?;
        Ok(Manifest {
            source: source.to_string(),
            logins: logins.iter().map(|row| row.get(0)).collect(),
            server_version: self.server_version().0,
            objects: objects.iter().map(Made::from).collect(),
            tables: Vec::new(),
            sequences: Vec::new(),
            large,
        })
    }

    pub(crate) async fn large(&self, inside: &Client) -> Result<LargeSum, NodeError> {
        let sent = inside.batch_execute("SET statement_timeout = 0").await;
        sent.map_err(|error| self.error(STEP, error))?;
        let rows = self.rows(inside, STEP, LARGE, &[]).await?;
        Ok(rows.first().map_or_else(LargeSum::default, |row| LargeSum {
            objects: row.get::<_, i64>(0).unsigned_abs(),
            bytes: row.get::<_, &str>(1).parse().unwrap_or_default(),
            sum: row.get(2),
        }))
    }
}

impl Dump {
    /// Which moment it is of, by the server's clock: what was confirmed to be committed before is in it, and what began to
    /// commit after the snapshot was taken, an instant later, is not.
    pub fn moment(&self) -> SystemTime {
        self.moment
    }

    /// What `pg_dump` writes; once.
    pub fn output(&mut self) -> Option<ChildStdout> {
        self.program.child.stdout.take()
    }
}
