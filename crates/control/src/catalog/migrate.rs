//! Brings the tables of the catalog to the version that this program needs.

use sha2::{Digest, Sha256};
use tokio_postgres::Client;

/// One file of `migrations/`. Once released it never changes; its checksum is kept in the catalog.
struct Migration {
    version: i32,
    name: &'static str,
    sql: &'static str,
}

/// In order, without gaps.
const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        name: "first",
        sql: include_str!("../../migrations/0001_first.sql"),
    },
    Migration {
        version: 2,
        name: "limits",
        sql: include_str!("../../migrations/0002_limits.sql"),
    },
    Migration {
        version: 3,
        name: "weight",
        sql: include_str!("../../migrations/0003_weight.sql"),
    },
    Migration {
        version: 4,
        name: "process",
        sql: include_str!("../../migrations/0004_process.sql"),
    },
    Migration {
        version: 5,
        name: "lifetime",
        sql: include_str!("../../migrations/0005_lifetime.sql"),
    },
    Migration {
        version: 6,
        name: "hold",
        sql: include_str!("../../migrations/0006_hold.sql"),
    },
    Migration {
        version: 7,
        name: "storage",
        sql: include_str!("../../migrations/0007_storage.sql"),
    },
    Migration {
        version: 8,
        name: "branch",
        sql: include_str!("../../migrations/0008_branch.sql"),
    },
    Migration {
        version: 9,
        name: "credentials",
        sql: include_str!("../../migrations/0009_credentials.sql"),
    },
    Migration {
        version: 10,
        name: "claims",
        sql: include_str!("../../migrations/0010_claims.sql"),
    },
    Migration {
        version: 11,
        name: "memory",
        sql: include_str!("../../migrations/0011_memory.sql"),
    },
    Migration {
        version: 12,
        name: "users",
        sql: include_str!("../../migrations/0012_users.sql"),
    },
    Migration {
        version: 13,
        name: "pace",
        sql: include_str!("../../migrations/0013_pace.sql"),
    },
    Migration {
        version: 14,
        name: "insight",
        sql: include_str!("../../migrations/0014_insight.sql"),
    },
    Migration {
        version: 15,
        name: "fleet",
        sql: include_str!("../../migrations/0015_fleet.sql"),
    },
    Migration {
        version: 16,
        name: "audit",
        sql: include_str!("../../migrations/0016_audit.sql"),
    },
    Migration {
        version: 17,
        name: "backup",
        sql: include_str!("../../migrations/0017_backup.sql"),
    },
    Migration {
        version: 18,
        name: "backup_schedule",
        sql: include_str!("../../migrations/0018_backup_schedule.sql"),
    },
    Migration {
        version: 19,
        name: "alerts",
        sql: include_str!("../../migrations/0019_alerts.sql"),
    },
    Migration {
        version: 20,
        name: "slow",
        sql: include_str!("../../migrations/0020_slow.sql"),
    },
    Migration {
        version: 21,
        name: "statement log",
        sql: include_str!("../../migrations/0021_statement_log.sql"),
    },
    Migration {
        version: 22,
        name: "drill",
        sql: include_str!("../../migrations/0022_drill.sql"),
    },
    Migration {
        version: 23,
        name: "sizes",
        sql: include_str!("../../migrations/0023_sizes.sql"),
    },
    Migration {
        version: 24,
        name: "statement audit",
        sql: include_str!("../../migrations/0024_statement_audit.sql"),
    },
    Migration {
        version: 25,
        name: "moment",
        sql: include_str!("../../migrations/0025_moment.sql"),
    },
    Migration {
        version: 26,
        name: "installation key",
        sql: include_str!("../../migrations/0026_installation_key.sql"),
    },
    Migration {
        version: 27,
        name: "moment of backups",
        sql: include_str!("../../migrations/0027_moment_of_backups.sql"),
    },
    Migration {
        version: 28,
        name: "backup keys",
        sql: include_str!("../../migrations/0028_backup_keys.sql"),
    },
    Migration {
        version: 29,
        name: "watched",
        sql: include_str!("../../migrations/0029_watched.sql"),
    },
    Migration {
        version: 30,
        name: "unread",
        sql: include_str!("../../migrations/0030_unread.sql"),
    },
];

/// Any number that nobody else uses: "tenantry" in ASCII.
const LOCK: i64 = 0x7465_6e61_6e74_7279;

/// Why the catalog cannot be used by this program.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// A statement failed; nothing of that migration was kept.
    #[error("migration {version} of the catalog")]
    Failed {
        /// Which.
        version: i32,
        /// Why.
        #[source]
        source: tokio_postgres::Error,
    },
    /// Reading or locking the list of migrations failed.
    #[error("list of migrations")]
    List(#[source] tokio_postgres::Error),
    /// The catalog was made by a newer program.
    #[error("the catalog has version {found}, this program knows {known}: use the newer program")]
    Newer {
        /// What the catalog has.
        found: i32,
        /// What we know.
        known: i32,
    },
    /// A migration that already ran is not the one that we have.
    #[error("migration {version} of the catalog is not the one that this program has")]
    Changed {
        /// Which.
        version: i32,
    },
}

/// Runs what is missing, each migration in a transaction of its own. Waits while another process
/// does the same.
///
/// # Errors
///
/// [`MigrateError`]; migrations before the failing one stay.
pub(crate) async fn run(client: &mut Client) -> Result<(), MigrateError> {
    client
        .batch_execute("SET lock_timeout = 0; SET statement_timeout = 0")
        .await
        .map_err(MigrateError::List)?;
    client
        .execute("SELECT pg_advisory_lock($1)", &[&LOCK])
        .await
        .map_err(MigrateError::List)?;
    let result = run_locked(client).await;
    // The lock also ends with the connection, so a failure here changes nothing.
    let _ = client
        .execute("SELECT pg_advisory_unlock($1)", &[&LOCK])
        .await;
    result
}

async fn run_locked(client: &mut Client) -> Result<(), MigrateError> {
    client
        .batch_execute(
            "CREATE TABLE IF NOT EXISTS schema_migration (
                 version integer PRIMARY KEY,
                 name text NOT NULL,
                 checksum bytea NOT NULL,
                 applied_at timestamptz NOT NULL DEFAULT now())",
        )
        .await
        .map_err(MigrateError::List)?;
    let rows = client
        .query(
            "SELECT version, checksum FROM schema_migration ORDER BY version",
            &[],
        )
        .await
        .map_err(MigrateError::List)?;
    let done: Vec<(i32, Vec<u8>)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    for migration in missing(MIGRATIONS, &done)? {
        let failed = |source| MigrateError::Failed {
            version: migration.version,
            source,
        };
        let transaction = client.transaction().await.map_err(failed)?;
        transaction
            .batch_execute(migration.sql)
            .await
            .map_err(failed)?;
        transaction
            .execute(
                "INSERT INTO schema_migration (version, name, checksum) VALUES ($1, $2, $3)",
                &[
                    &migration.version,
                    &migration.name,
                    &checksum(migration.sql),
                ],
            )
            .await
            .map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
        tracing::info!(
            version = migration.version,
            name = migration.name,
            "catalog migrated"
        );
    }
    Ok(())
}

fn checksum(sql: &str) -> Vec<u8> {
    Sha256::digest(sql.as_bytes()).to_vec()
}

/// What of `known` is not in `done`.
fn missing<'a>(
    known: &'a [Migration],
    done: &[(i32, Vec<u8>)],
) -> Result<&'a [Migration], MigrateError> {
    for (version, sum) in done {
        let Some(migration) = known.iter().find(|migration| migration.version == *version) else {
            let known = known.last().map_or(0, |migration| migration.version);
            return Err(MigrateError::Newer {
                found: *version,
                known,
            });
        };
        if checksum(migration.sql) != *sum {
            return Err(MigrateError::Changed { version: *version });
        }
    }
    Ok(&known[done.len()..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &[Migration] = &[
        Migration {
            version: 1,
            name: "a",
            sql: "A",
        },
        Migration {
            version: 2,
            name: "b",
            sql: "B",
        },
    ];

    #[test]
    fn versions_have_no_gaps() {
        for (migration, version) in MIGRATIONS.iter().zip(1..) {
            assert_eq!(migration.version, version);
        }
    }

    #[test]
    fn only_what_is_missing_runs() {
        let names = |done: &[(i32, Vec<u8>)]| {
            missing(TWO, done)
                .unwrap()
                .iter()
                .map(|m| m.name)
                .collect::<String>()
        };
        assert_eq!(names(&[]), "ab");
        assert_eq!(names(&[(1, checksum("A"))]), "b");
        assert_eq!(names(&[(1, checksum("A")), (2, checksum("B"))]), "");
    }

    #[test]
    fn a_newer_or_changed_catalog_is_refused() {
        let newer = [(1, checksum("A")), (2, checksum("B")), (3, checksum("C"))];
        assert!(matches!(
            missing(TWO, &newer),
            Err(MigrateError::Newer { found: 3, known: 2 })
        ));
        assert!(matches!(
            missing(TWO, &[(1, checksum("other"))]),
            Err(MigrateError::Changed { version: 1 })
        ));
    }
}
