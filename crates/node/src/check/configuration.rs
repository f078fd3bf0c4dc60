//! The configuration of a server that we run: its files as we wrote them, and what the server made of
//! them.
//!
//! `operator.conf` is the operator's and wins, so what it says is no finding. Two other ways to change
//! a setting are: a hand in our files, and ALTER SYSTEM, whose `postgresql.auto.conf` wins over both
//! files without standing beside them.

use std::{collections::BTreeMap, path::Path, sync::PoisonError};

use super::{Finding, FindingKind as Kind};
use crate::{
    Node, NodeError,
    handle::{Lease, ManagedFacts},
    managed::settings::{COMMAND_LINE, values_of},
};

const STEP: &str = "check the configuration";
/// Where ALTER SYSTEM writes.
const AUTO: &str = "postgresql.auto.conf";

/// What ALTER SYSTEM must not set although it is none of ours: what loads code, takes copies of the
/// data elsewhere, gives up crash safety, opens the server, or switches guards off.
const DANGEROUS: [&str; 17] = [
    "allow_system_table_mods",
    "createrole_self_grant",
    "data_sync_retry",
    "dynamic_library_path",
    "event_triggers",
    "extension_control_path",
    "fsync",
    "full_page_writes",
    "ignore_checksum_failure",
    "lo_compat_privileges",
    "primary_conninfo",
    "restore_command",
    "row_security",
    "session_replication_role",
    "synchronous_commit",
    "wal_level",
    "zero_damaged_pages",
];
/// The same by how a name begins or ends.
const DANGEROUS_PARTS: [&str; 6] = [
    "archive_",
    "autovacuum",
    "debug_",
    "log_",
    "ssl",
    "_preload_libraries",
];

fn is_dangerous(name: &str) -> bool {
    DANGEROUS.contains(&name)
        || DANGEROUS_PARTS
            .iter()
            .any(|part| name.starts_with(part) || name.ends_with(part))
}

impl Node {
    pub(super) async fn check_configuration(
        &self,
        lease: &Lease,
        findings: &mut Vec<Finding>,
    ) -> Result<(), NodeError> {
        let Some(facts) = &self.shared.parts.managed else {
            return Ok(());
        };
        let conf = facts
            .sizes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .conf();
        for (file, text) in [
            (&facts.hba_file, &facts.hba_text),
            (&facts.conf_file, &conf),
        ] {
            let file_name = file.display().to_string();
            let wrong = match std::fs::read_to_string(file) {
                Ok(found) if found == *text => continue,
                Ok(_) => "was changed; a restart writes it anew".to_owned(),
                Err(error) => format!("cannot be read: {error}"),
            };
            findings.push(Finding::new(Kind::Configuration, file_name, wrong));
        }
        self.check_in_force(lease, facts, &conf, findings).await?;
        self.check_files(lease, &conf, findings).await
    }

    /// What the server goes by now.
    async fn check_in_force(
        &self,
        lease: &Lease,
        facts: &ManagedFacts,
        conf: &str,
        findings: &mut Vec<Finding>,
    ) -> Result<(), NodeError> {
        const SETTINGS: &str = "SELECT name, setting, coalesce(unit, ''), source, \
               coalesce(sourcefile, ''), pending_restart FROM pg_settings \
             WHERE name = ANY ($1) OR pending_restart OR sourcefile IS NOT NULL";
        let written: BTreeMap<&str, &str> = values_of(conf).collect();
        let names: Vec<&str> = written.keys().copied().chain(COMMAND_LINE).collect();
        let mut wrong = |name: &str, detail: String| {
            findings.push(Finding::new(Kind::Configuration, name, detail));
        };
        for row in self.rows(lease, STEP, SETTINGS, &[&names]).await? {
            let (name, setting, unit): (&str, &str, &str) = (row.get(0), row.get(1), row.get(2));
            let (source, file): (&str, &str) = (row.get(3), row.get(4));
            let is_command_line = COMMAND_LINE.contains(&name);
            // A file changes nothing on the command line, not even from the next restart.
            if !is_command_line && row.get(5) {
                wrong(
                    name,
                    "was changed in a file, which counts from the next restart".to_owned(),
                );
            }
            let is_by_alter_system = Path::new(file).ends_with(AUTO);
            if is_command_line {
                if !["command line", "override"].contains(&source) {
                    wrong(
                        name,
                        format!("is not as given at the start, but by {source}"),
                    );
                }
            } else if is_by_alter_system {
                if written.contains_key(name) || is_dangerous(name) {
                    wrong(
                        name,
                        format!("is {setting}{unit} by ALTER SYSTEM: ALTER SYSTEM RESET {name}"),
                    );
                }
            } else if let Some(value) = written.get(name) {
                // Set for this very connection: what the files say is looked at next.
                let is_our_session = source == "client";
                let is_from_our_file = Path::new(file) == facts.conf_file;
                let is_operators = source == "configuration file" && !is_from_our_file;
                let is_as_written = is_from_our_file && same(setting, unit, value);
                if !(is_our_session || is_operators || is_as_written) {
                    wrong(
                        name,
                        format!("is {setting}{unit} by {source}, and should be {value}"),
                    );
                }
            }
            let is_path_of_ours = name == "hba_file" && Path::new(setting) != facts.hba_file;
            let is_open = name == "listen_addresses" && !setting.is_empty()
                || name == "max_prepared_transactions" && setting != "0";
            if is_path_of_ours || is_open {
                wrong(name, "is not what the server was started with".to_owned());
            }
        }
        Ok(())
    }

    /// What the files say, whether it was loaded or not.
    async fn check_files(
        &self,
        lease: &Lease,
        conf: &str,
        findings: &mut Vec<Finding>,
    ) -> Result<(), NodeError> {
        const FILES: &str = "SELECT coalesce(name, ''), coalesce(sourcefile, ''), error \
             FROM pg_file_settings WHERE error IS NOT NULL OR sourcefile LIKE $1";
        let written: BTreeMap<&str, &str> = values_of(conf).collect();
        for row in self
            .rows(lease, STEP, FILES, &[&format!("%/{AUTO}")])
            .await?
        {
            let (name, file, error): (&str, &str, Option<&str>) =
                (row.get(0), row.get(1), row.get(2));
            let is_command_line = COMMAND_LINE.contains(&name);
            let detail = if Path::new(file).ends_with(AUTO) {
                if !is_command_line && !written.contains_key(name) && !is_dangerous(name) {
                    continue;
                }
                format!("stands in {AUTO}: ALTER SYSTEM RESET {name}")
            } else if is_command_line {
                // In the operator's file, and without effect.
                continue;
            } else {
                format!("in {file}: {}", error.unwrap_or_default())
            };
            let finding = Finding::new(Kind::Configuration, name, detail);
            if !findings.contains(&finding) {
                findings.push(finding);
            }
        }
        Ok(())
    }
}

/// Whether a setting as the server tells it, in its own unit, is the value that a file gives it.
fn same(setting: &str, unit: &str, written: &str) -> bool {
    if setting == written {
        return true;
    }
    let told = setting
        .parse::<i64>()
        .ok()
        .and_then(|number| Some(number * factor(unit)?));
    let digits = written.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let meant = digits
        .parse::<i64>()
        .ok()
        .and_then(|number| Some(number * factor(&written[digits.len()..])?));
    told.is_some() && told == meant
}

/// Bytes or milliseconds of a unit.
fn factor(unit: &str) -> Option<i64> {
    Some(match unit {
        "B" | "ms" => 1,
        "kB" => 1 << 10,
        "8kB" => 8 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        "s" => 1_000,
        "min" => 60_000,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_compared_in_whichever_unit_they_are_told() {
        for (setting, unit, written) in [
            ("16384", "8kB", "128MB"),
            ("4194304", "kB", "4096MB"),
            ("4096", "MB", "4GB"),
            ("300", "s", "5min"),
            ("-1", "kB", "-1"),
            ("off", "", "off"),
        ] {
            assert!(same(setting, unit, written), "{setting}{unit} {written}");
        }
        for (setting, unit, written) in [
            ("16385", "8kB", "128MB"),
            ("-1", "kB", "4096MB"),
            ("300", "s", "5MB"),
            ("on", "", "off"),
        ] {
            assert!(!same(setting, unit, written), "{setting}{unit} {written}");
        }
    }

    #[test]
    fn what_alter_system_must_not_set_is_known_by_name_or_part() {
        for name in [
            "autovacuum",
            "log_statement",
            "session_preload_libraries",
            "archive_command",
            "fsync",
        ] {
            assert!(is_dangerous(name), "{name}");
        }
        for name in ["random_page_cost", "work_mem", "default_statistics_target"] {
            assert!(!is_dangerous(name), "{name}");
        }
    }
}
