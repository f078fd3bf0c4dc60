//! Settings of `serve` that several values make together, or that stand in files.
//!
//! Owns: what has to stand beside what, and looking at the files and programs that are named. Does not own: single
//! values (`values`), or which setting is which part of the whole (`config`).

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use control::{BackupPlace, BackupSchedule};
use model::Secret;
use node::{
    CatalogConfig, attached,
    managed::{self, HistoryConfig},
};

use super::{
    PROCESS_MEMORY_MAX, RETENTION_MAX, Reader,
    values::{count, size, text, text_not_empty, time, time_between},
};
use crate::serve::tls::Identity;

/// Shorter, and nothing else would be done.
const BACKUP_EVERY_MIN: Duration = Duration::from_secs(60);
/// More is meant as any number.
const BACKUP_KEEP_MAX: u32 = 10_000;
/// What PostgreSQL writes while it is noticed that the disk gets full.
const HISTORY_FREE_MIN: u64 = 64 << 20;
/// Longer, and a copy of all the data is kept for weeks; a backup says what was then.
const POINT_IN_TIME_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// More often, and the disk does little else.
const BASE_EVERY_MIN: Duration = Duration::from_secs(600);

impl Reader {
    /// A value that may hold a password: given directly, or by the path of a file.
    pub(super) fn secret(&mut self, name: &'static str, file: &'static str) -> Option<Secret> {
        let direct = self.optional(name, |text| text_not_empty(text).map(Secret::new));
        let from_file = self.optional(file, |path| {
            fs::read_to_string(path)
                .map_err(|error| format!("cannot read {path}: {error}"))
                .and_then(|text| text_not_empty(text.trim()).map(Secret::new))
        });
        if direct.is_some() && from_file.is_some() {
            self.mistake(file, format!("stands beside {name}; give one of them"));
        }
        direct.or(from_file)
    }

    /// How to reach a server: as it was given, and read. Its text is not repeated: it may hold a
    /// password.
    pub(super) fn dsn(
        &mut self,
        name: &'static str,
        file: &'static str,
    ) -> Option<(Secret, CatalogConfig)> {
        let given = self.secret(name, file)?;
        match attached::external(&given) {
            Ok(read) => Some((given, read)),
            Err(why) => {
                let direct = self.raw.values.contains_key(name);
                self.mistake(
                    if direct { name } else { file },
                    format!(
                        "{why}; a DSN is like \
                         postgresql://user@host:5432/postgres?sslmode=verify-full"
                    ),
                );
                None
            }
        }
    }

    /// `Some(None)`: nothing is kept.
    pub(super) fn history(&mut self) -> Option<Option<HistoryConfig>> {
        let default = HistoryConfig::default();
        let keep = self.or("point-in-time", default.keep, |text| {
            time(text, POINT_IN_TIME_MAX)
        });
        let base_every = self.or("point-in-time-base-every", default.base_every, |text| {
            time_between(text, BASE_EVERY_MIN, POINT_IN_TIME_MAX)
        });
        let free_bytes_min = self.optional("point-in-time-free", |text| {
            size(text, HISTORY_FREE_MIN, PROCESS_MEMORY_MAX)
        });
        let (keep, base_every) = (keep?, base_every?);
        let history = HistoryConfig {
            keep,
            base_every,
            free_bytes_min,
            ..default
        };
        Some((!keep.is_zero()).then_some(history))
    }

    /// Where backups are put, looked at as far as that asks nobody.
    pub(super) fn backup_store(&mut self) -> Option<BackupPlace> {
        let lines = self.optional("backup-store-file", |path| {
            fs::read_to_string(path)
                .map(Secret::new)
                .map_err(|error| format!("cannot read {path}: {error}"))
        });
        let place = self.optional("backup-store", |url| {
            BackupPlace::parse(url, lines.as_ref().map(Secret::reveal))
        });
        if lines.is_some() && !self.raw.values.contains_key("backup-store") {
            self.mistake("backup-store-file", "needs backup-store".to_owned());
        }
        place
    }

    /// When databases are backed up by themselves.
    pub(super) fn backup_schedule(&mut self) -> Option<BackupSchedule> {
        let default = BackupSchedule::default();
        let every = self.or("backup-every", default.every, |text| match text {
            "never" => Ok(Duration::ZERO),
            text => time_between(text, BACKUP_EVERY_MIN, RETENTION_MAX),
        });
        let window = self.or("backup-window", default.window, str::parse);
        let keep = self.or("backup-keep", default.keep, |text| {
            count(text, 0, BACKUP_KEEP_MAX)
        });
        let keep_for = self.or("backup-keep-for", default.keep_for, |text| {
            time(text, RETENTION_MAX)
        });
        let drill_every = self.or("drill-every", default.drill_every, |text| match text {
            "never" => Ok(Duration::ZERO),
            text => time_between(text, BACKUP_EVERY_MIN, RETENTION_MAX),
        });
        let recovery_target = self.or("recovery-target", default.recovery_target, |text| {
            time_between(text, Duration::from_secs(1), RETENTION_MAX)
        });
        Some(BackupSchedule {
            every: every?,
            window: window?,
            keep: keep?,
            keep_for: keep_for?,
            drill_every: drill_every?,
            recovery_target: recovery_target?,
        })
    }

    /// PostgreSQL's programs and whom they run as, looked at when they were named.
    pub(super) fn programs(&mut self) -> (Option<PathBuf>, Option<String>) {
        let (bin, user) = (self.path("pg-bin"), self.optional("pg-user", text));
        if ["attach", "attach-file"]
            .iter()
            .any(|name| self.raw.values.contains_key(name))
        {
            for name in ["pg-user", "process-memory-max"] {
                if self.raw.values.contains_key(name) {
                    self.mistake(
                        name,
                        "has no use with --attach: no PostgreSQL is run".to_owned(),
                    );
                }
            }
            if let Some(bin) = bin.as_ref().filter(|bin| !bin.join("pg_dump").is_file()) {
                self.mistake("pg-bin", format!("{}: no pg_dump there", bin.display()));
            }
            return (bin, user);
        }
        if bin.is_some() || user.is_some() {
            let found = look_at_named(bin.as_deref(), user.as_deref());
            for (name, what) in [("pg-bin", found.bin), ("pg-user", found.user)] {
                if let Some(what) = what {
                    self.mistake(name, what);
                }
            }
        }
        (bin, user)
    }

    pub(super) fn certificate(&mut self) -> Option<Arc<Identity>> {
        let (cert, key) = (self.path("tls-cert"), self.path("tls-key"));
        match (cert, key) {
            (Some(cert), Some(key)) => match Identity::read(&cert, &key) {
                Ok(identity) => Some(Arc::new(identity)),
                Err(wrong) => {
                    for (name, what) in [("tls-cert", wrong.cert), ("tls-key", wrong.key)] {
                        if let Some(what) = what {
                            self.mistake(name, what);
                        }
                    }
                    None
                }
            },
            (Some(_), None) if !self.raw.values.contains_key("tls-key") => {
                self.mistake("tls-cert", "needs tls-key beside it".to_owned());
                None
            }
            (None, Some(_)) if !self.raw.values.contains_key("tls-cert") => {
                self.mistake("tls-key", "needs tls-cert beside it".to_owned());
                None
            }
            _ => None,
        }
    }
}

/// A look at the machine waits for programs; the settings are read before there is a runtime.
fn look_at_named(bin: Option<&Path>, user: Option<&str>) -> managed::NamedMistakes {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map(|runtime| runtime.block_on(managed::look_at_named(bin, user)))
        // A machine that has no room for this says so at the start itself.
        .unwrap_or_default()
}
