//! Looking after databases in use, and after what all tenants share.
//!
//! Owns: the pass that vacuums what changed, since autovacuum goes round slowly when databases are
//! many (`docs/decisions/2026-11-21-spike-thousand-databases.md`), and the watch over the shared
//! lock table. Does not own: when they run.

use std::{collections::HashMap, sync::atomic::Ordering, time::Duration};

use model::Pid;
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow, error::SqlState};

use crate::{Node, NodeError, handle::MAINTENANCE_DATABASE, inventory::split, steps::TENANT};

const STEP: &str = "look after databases";

/// How often it is asked whose a lock hog was: 200 ms in all, far more than ending a process takes.
const OWNER_ASKED_MAX: u32 = 20;
const OWNER_ASKED_EVERY: Duration = Duration::from_millis(10);

/// What a pass remembers for the next one. Begin with the default: then every database with traffic
/// counts as changed, as after a crash.
#[derive(Debug, Default)]
pub struct Care {
    /// Rows changed, as counted when it was last looked after.
    seen: HashMap<Pid, i64>,
    /// When the server lost its statistics, as last seen.
    lost: Option<String>,
}

/// What a pass did.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Cared {
    /// Databases with changes since the last pass.
    pub changed: u32,
    /// Tables vacuumed.
    pub tables: u32,
    /// Databases that could not be visited now; the next pass tries again.
    pub failed: u32,
    /// The server recovered from a crash and lost its statistics. True once for each loss:
    /// [`Node::help_autovacuum`] is to be called.
    pub lost_statistics: bool,
}

/// A server connection of a tenant that was ended because it held too much of what all share.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LockHog {
    /// Whose, if that could be found out.
    pub pid: Option<Pid>,
    /// Entries of the lock table that it held.
    pub locks: u32,
}

/// Tables that pass autovacuum's own thresholds, as statements. The names stand quoted in them.
const DUE: &str = "
SELECT format('VACUUM (ANALYZE, SKIP_LOCKED) %I.%I', n.nspname, c.relname)
FROM pg_stat_user_tables s
JOIN pg_class c ON c.oid = s.relid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't' AND (
  s.n_dead_tup > current_setting('autovacuum_vacuum_threshold')::float8
    + current_setting('autovacuum_vacuum_scale_factor')::float8 * greatest(c.reltuples, 0)
  OR s.n_ins_since_vacuum > current_setting('autovacuum_vacuum_insert_threshold')::float8
    + current_setting('autovacuum_vacuum_insert_scale_factor')::float8 * greatest(c.reltuples, 0)
  OR s.n_mod_since_analyze > current_setting('autovacuum_analyze_threshold')::float8
    + current_setting('autovacuum_analyze_scale_factor')::float8 * greatest(c.reltuples, 0))
ORDER BY s.n_dead_tup DESC LIMIT 1000";

/// When the server's statistics were lost since it was started: after a crash all are discarded, and
/// this is the time that is written down then. A clean stop keeps them.
const LOST: &str = "SELECT stats_reset::text FROM pg_stat_bgwriter \
     WHERE stats_reset >= pg_postmaster_start_time()";

impl Node {
    /// Vacuums and analyzes the tables of open databases that changed since `care`'s last pass, by
    /// the server's own thresholds, one database after another. Costs one query when nothing
    /// changed. Tables that somebody has locked are left for the next pass.
    ///
    /// # Errors
    ///
    /// When the server cannot be asked what changed. A database that cannot be visited is counted.
    pub async fn look_after(&self, care: &mut Care) -> Result<Cared, NodeError> {
        // One number that grows with every change and falls when statistics are lost: any other
        // value than last time means that something changed.
        const CHANGES: &str = "SELECT d.datname::text, s.tup_inserted + s.tup_updated + s.tup_deleted \
             FROM pg_stat_database s JOIN pg_database d ON d.oid = s.datid \
             WHERE d.datname ~ '^x_[a-z][a-z0-9]{11}$' AND d.datallowconn AND d.datconnlimit = -1";
        let lease = self.lease(STEP).await?;
        let rows = self.rows(&lease, STEP, CHANGES, &[]).await?;
        let lost = self.rows(&lease, STEP, LOST, &[]).await?;
        lease.give_back();
        let lost: Option<String> = lost.first().map(|row| row.get(0));
        let mut cared = Cared {
            lost_statistics: lost.is_some() && lost != care.lost,
            ..Cared::default()
        };
        care.lost = lost;
        let mut seen = HashMap::with_capacity(rows.len());
        for row in rows {
            let (name, count): (&str, i64) = (row.get(0), row.get(1));
            let Some((pid, "")) = split(name) else {
                continue;
            };
            let last = care.seen.get(&pid).copied();
            if count == 0 || last == Some(count) {
                seen.insert(pid, count);
                continue;
            }
            cared.changed += 1;
            match self.vacuum(name).await {
                Ok(tables) => {
                    cared.tables += tables;
                    seen.insert(pid, count);
                }
                Err(error) => {
                    tracing::debug!(%error, database = name, "not looked after now");
                    cared.failed += 1;
                }
            }
        }
        care.seen = seen;
        Ok(cared)
    }

    /// After a crash autovacuum knows no database any more, and on PostgreSQL 15 it sleeps for a whole
    /// `autovacuum_naptime` (hours, when databases are many), even when all are due for freezing.
    /// This connects once to every open tenant database that has no statistics, one after another with
    /// a pause of `pause` (a connection costs the server 10 ms of CPU), then makes autovacuum read its
    /// list anew. Takes `pause` × databases: to be run in a task of its own, and may be dropped. Returns
    /// to how many it connected; one that could not be reached is left out.
    ///
    /// # Errors
    ///
    /// When the server cannot be asked, or not be told.
    pub async fn help_autovacuum(&self, pause: Duration) -> Result<u32, NodeError> {
        const STEP: &str = "help autovacuum";
        // Those never used are among them: nobody can tell any more.
        const UNKNOWN: &str = "SELECT d.datname::text \
             FROM pg_stat_database s JOIN pg_database d ON d.oid = s.datid \
             WHERE d.datname ~ '^x_[a-z][a-z0-9]{11}$' AND d.datallowconn AND d.datconnlimit = -1 \
               AND s.xact_commit + s.xact_rollback = 0 \
             ORDER BY age(d.datfrozenxid) DESC";
        let lease = self.lease(STEP).await?;
        let rows = self.rows(&lease, STEP, UNKNOWN, &[]).await?;
        lease.give_back();
        let mut met = 0;
        for row in rows {
            let name: &str = row.get(0);
            match self.visit(STEP, name).await {
                Ok(_) => met += 1,
                Err(error) => tracing::debug!(%error, database = name, "not visited"),
            }
            tokio::time::sleep(pause).await;
        }
        self.run(STEP, "SELECT pg_reload_conf()").await?;
        tracing::info!(
            node = self.name(),
            databases = met,
            "autovacuum knows its databases again"
        );
        Ok(met)
    }

    /// VACUUM runs index expressions as the table's owner, under PostgreSQL's own restrictions, as
    /// autovacuum does.
    async fn vacuum(&self, database: &str) -> Result<u32, NodeError> {
        let inside = self.visit(STEP, database).await?;
        let due = self.rows(&inside, STEP, DUE, &[]).await?;
        let mut tables = 0;
        for row in &due {
            inside
                .batch_execute(row.get(0))
                .await
                .map_err(|error| self.error(STEP, error))?;
            tables += 1;
        }
        Ok(tables)
    }

    /// Ends every server connection of a tenant that holds more than `locks_max` entries of the
    /// lock table, which all tenants share: with a full one nobody can log in. Sessions on databases of
    /// others, which an attached server has, are left alone. To be called about
    /// once a second while there are server connections. It keeps a connection of its own open,
    /// outside the maintenance connections, because with a full table no new one can be made.
    ///
    /// # Errors
    ///
    /// Those of the server.
    pub async fn end_lock_hogs(&self, locks_max: u32) -> Result<Vec<LockHog>, NodeError> {
        const STEP: &str = "watch the lock table";
        let limit = locks_max.to_string();
        let sql = TENANT.fill("watch_locks", &[("locks_per_server_max", &limit)]);
        let mut watcher = self.shared.watcher.lock().await;
        // Taken out while in use: dropped halfway, it is not used again.
        let client = match watcher.take().filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => self.connect(STEP, MAINTENANCE_DATABASE).await?,
        };
        let others = self.others(&client).await?;
        let mut hogs = Vec::new();
        // Simple queries: preparing one would take locks.
        for row in simple(&client, &sql)
            .await
            .map_err(|error| self.error(STEP, error))?
        {
            let number = |i| row.get(i).and_then(|text: &str| text.parse::<u32>().ok());
            let (Some(process), Some(locks), Some(database)) = (number(0), number(1), number(2))
            else {
                continue;
            };
            if others.contains(&database) {
                continue;
            }
            if locks <= READER_LOCKS_MAX && is_reader(&client, row.get(3)).await {
                continue;
            }
            if !self.signal(process) {
                let end = format!("SELECT pg_terminate_backend({process})");
                simple(&client, &end)
                    .await
                    .map_err(|error| self.error(STEP, error))?;
            }
            let pid = owner(&client, database).await;
            hogs.push(LockHog { pid, locks });
        }
        *watcher = Some(client);
        Ok(hogs)
    }

    /// Databases on an attached server whose sessions are none of our business. Asked anew each time,
    /// because with a full lock table it cannot be asked any more: then as they were last time.
    async fn others(&self, client: &Client) -> Result<Vec<u32>, NodeError> {
        if self.shared.parts.managed.is_some() {
            return Ok(Vec::new());
        }
        const OTHERS: &str = "SELECT oid FROM pg_database WHERE datname !~ '^x_[a-z][a-z0-9]{11}$'";
        let known = || {
            let known = self.shared.others.lock();
            known.unwrap_or_else(std::sync::PoisonError::into_inner)
        };
        match simple(client, OTHERS).await {
            Ok(rows) => {
                let oids = rows.iter().filter_map(|row| row.get(0)?.parse().ok());
                *known() = oids.collect();
            }
            Err(error) if error.code() == Some(&SqlState::OUT_OF_MEMORY) => {}
            Err(error) => return Err(self.error("watch the lock table", error)),
        }
        Ok(known().clone())
    }

    /// Ends a process of a server that we run: true when the signal was sent. Its parent says that
    /// the number still belongs to that server.
    fn signal(&self, process: u32) -> bool {
        let Some(ours) = &self.shared.parts.managed else {
            return false;
        };
        let parent = ours.postmaster.load(Ordering::Relaxed);
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        // `12 (postgres) S 7 …`
        let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        let found = after_name
            .split(' ')
            .nth(1)
            .and_then(|text| text.parse::<u32>().ok());
        let pid = i32::try_from(process)
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        parent != 0
            && found == Some(parent)
            && pid.is_some_and(|pid| {
                rustix::process::kill_process(pid, rustix::process::Signal::TERM).is_ok()
            })
    }
}

/// Whose a database is. Asking takes a lock, which is to be had once the hog has ended: asked a few
/// times, and only to say whose it was.
async fn owner(client: &Client, database: u32) -> Option<Pid> {
    let sql = format!("SELECT datname FROM pg_database WHERE oid = {database}");
    for _ in 0..OWNER_ASKED_MAX {
        if let Ok(rows) = simple(client, &sql).await {
            return split(rows.first()?.get(0)?).map(|(pid, _)| pid);
        }
        tokio::time::sleep(OWNER_ASKED_EVERY).await;
    }
    None
}

/// Entries of the lock table that a login of ours may hold while it reads a whole database: some for each
/// table and its sequences, of which there is a bound.
const READER_LOCKS_MAX: u32 = 4 * crate::DUMPED_TABLES_MAX as u32;

/// Whether this is a login that reads a database for us. With a full lock table nobody can say, and then it
/// is none.
async fn is_reader(client: &Client, role: Option<&str>) -> bool {
    let Some(role) = role.and_then(|role| role.parse::<u32>().ok()) else {
        return false;
    };
    let sql = format!(
        "SELECT 1 FROM pg_authid WHERE oid = {role} AND rolname ~ '^x_[a-z][a-z0-9]{{11}}_(backup|dump|export)$'"
    );
    simple(client, &sql)
        .await
        .is_ok_and(|rows| !rows.is_empty())
}

pub(crate) async fn simple(
    client: &Client,
    sql: &str,
) -> Result<Vec<SimpleQueryRow>, tokio_postgres::Error> {
    let messages = client.simple_query(sql).await?;
    let rows = messages.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    Ok(rows.collect())
}
