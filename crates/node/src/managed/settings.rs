//! The configuration of the managed server, written anew at every start.
//!
//! `conf/tenantry.conf` is ours and is overwritten; it ends by including `conf/operator.conf`, which
//! is the operator's and wins. What the walls rest on is given on the command line, which wins over
//! every file: see [`arguments`].

use std::{ffi::OsString, fmt::Write, path::Path};

use super::history;

/// What the settings are made from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sizes {
    pub(crate) major: u32,
    pub(crate) memory_bytes: u64,
    pub(crate) cpus: u32,
    /// Server connections of all tenants.
    pub(crate) budget: u32,
    /// Server connections of the platform.
    pub(crate) reserved: u32,
    /// Entries of the lock table that one tenant may hold.
    pub(crate) tenant_locks_max: u32,
    /// Private memory of a process, as the operator wants it.
    pub(crate) process_bytes_max: Option<u64>,
    /// Databases there are, for the pace of autovacuum.
    pub(crate) databases: u32,
    /// Whether files can share blocks.
    pub(crate) reflink: bool,
    /// Whether the log is archived.
    pub(crate) has_history: bool,
}

const MB: u64 = 1 << 20;

/// Temporary files of one server process. A tenant cannot raise it (a superuser's setting): without
/// it one sort fills the disk of all. Enough to build an index on tens of millions of rows.
const TEMP_FILES_MB_MAX: u32 = 4096;

/// Entries of the shared lock table per connection, at least. Twice the default: a dump locks every
/// table of its tenant, out of a table that is shared by all.
const LOCKS_PER_CONNECTION_MIN: u32 = 128;

/// Slots that stay free of tenants. PostgreSQL refuses an ordinary role while no more than
/// `superuser_reserved_connections` slots are free, however many superusers have slots already; so
/// what the platform uses is added to `max_connections`, and this is only its last way in.
const SLOTS_KEPT_FREE: u32 = 4;
/// Processes of closed connections that have not ended yet: the proxy opens 8 at a time in the place
/// of as many that it closed.
const SLOTS_LEAVING: u32 = 16;

impl Sizes {
    /// Memory for the shared cache: a quarter, since the kernel caches the same files again.
    fn shared_buffers_mb(&self) -> u64 {
        (self.memory_bytes / MB / 4).clamp(128, 8 * 1024)
    }

    /// Memory for one sort or hash. Half of the memory, were every connection to run one.
    fn work_mem_mb(&self) -> u64 {
        let share = (self.memory_bytes / MB / 2 / u64::from(self.budget.max(1))).clamp(2, 32);
        share.min(self.one_use_mb_max())
    }

    fn maintenance_work_mem_mb(&self) -> u64 {
        let share = (self.memory_bytes / MB / 32).clamp(32, 512);
        share.min(self.one_use_mb_max())
    }

    /// What PostgreSQL takes for one thing by itself leaves room for the rest of its process: it would
    /// fail where it could do with less.
    fn one_use_mb_max(&self) -> u64 {
        self.process_bytes_max() / MB / 4
    }

    /// Private memory one server process may have: enough for any honest statement, too little to
    /// take the machine down with it. A statement that wants more fails with 53200.
    pub(crate) fn process_bytes_max(&self) -> u64 {
        self.process_bytes_max
            .unwrap_or_else(|| (self.memory_bytes / 8).max(512 * MB))
    }

    /// Seconds between two visits of autovacuum to the same database.
    ///
    /// Its launcher starts `databases / naptime` workers a second, up to ten; each costs 10 ms of CPU
    /// even when there is nothing to do. This keeps it at one every two seconds: half a percent of
    /// a core, whatever their number. Databases in use are looked after by [`crate::Node::look_after`].
    /// Measured in `docs/decisions/2026-11-21-spike-thousand-databases.md`.
    pub(crate) fn autovacuum_naptime_s(&self) -> u32 {
        self.databases.saturating_mul(2).clamp(60, 86_400)
    }

    fn connections(&self) -> u32 {
        self.budget + self.reserved + SLOTS_KEPT_FREE + SLOTS_LEAVING
    }

    /// One tenant that holds all it may leaves a quarter of the table to the others. An entry takes
    /// some 300 bytes of shared memory.
    fn locks_per_connection(&self) -> u32 {
        let entries = self.tenant_locks_max.saturating_mul(4) / 3;
        entries
            .div_ceil(self.connections())
            .max(LOCKS_PER_CONNECTION_MIN)
    }

    fn parallel_workers_per_query(&self) -> u32 {
        if self.cpus >= 8 { 2 } else { 0 }
    }

    /// The text of `tenantry.conf`.
    pub(crate) fn conf(&self) -> String {
        let mut text = String::from(
            "# Written by tenantry at every start: changes here are lost.\n\
             # Put yours into operator.conf beside this file; they win.\n",
        );
        let mut set = |name: &str, value: &dyn std::fmt::Display| {
            writeln!(text, "{name} = '{value}'").expect("writing to a String succeeds");
        };
        set("max_connections", &self.connections());
        set("superuser_reserved_connections", &SLOTS_KEPT_FREE);
        set("max_locks_per_transaction", &self.locks_per_connection());
        set(
            "shared_buffers",
            &format_args!("{}MB", self.shared_buffers_mb()),
        );
        set(
            "effective_cache_size",
            &format_args!("{}MB", self.memory_bytes / MB * 6 / 10),
        );
        set("work_mem", &format_args!("{}MB", self.work_mem_mb()));
        set(
            "maintenance_work_mem",
            &format_args!("{}MB", self.maintenance_work_mem_mb()),
        );
        set("temp_file_limit", &format_args!("{TEMP_FILES_MB_MAX}MB"));
        set(
            "max_parallel_workers_per_gather",
            &self.parallel_workers_per_query(),
        );
        // Compiling pays for statements of seconds, and costs memory in every process.
        set("jit", &"off");
        // Checkpoints by time, not by the pages that copies of the template write to the log.
        set("checkpoint_timeout", &"5min");
        set("max_wal_size", &"4GB");
        set("wal_compression", &"pglz");
        // One call per file system instead of opening every file of every database after a crash.
        set("recovery_init_sync_method", &"syncfs");
        if self.major >= 18 {
            set(
                "file_copy_method",
                &if self.reflink { "clone" } else { "copy" },
            );
        }
        set(
            "autovacuum_naptime",
            &format_args!("{}s", self.autovacuum_naptime_s()),
        );
        // No `archive_timeout`: who wants a moment has the server hand over its segment first.
        set("archive_mode", &if self.has_history { "on" } else { "off" });
        if self.has_history {
            set("archive_command", &history::wal::ARCHIVE_COMMAND);
        }
        set("timezone", &"UTC");
        set("log_timezone", &"UTC");
        // As long as the proxy lets a statement work on whose client has left. It matters when the proxy
        // itself is gone: others have its server connections then.
        set("client_connection_check_interval", &"10s");
        set("lc_messages", &"C");
        set("password_encryption", &"scram-sha-256");
        // No statement, parameter or row of a tenant in the log. `log` leaves out ERROR, whose texts
        // quote values; `terse` leaves out DETAIL, which quotes rows, and after a crash the statement.
        // What a tenant writes with RAISE LOG is dropped by who reads the log.
        set("log_destination", &"stderr");
        set("logging_collector", &"off");
        set("log_line_prefix", &super::log::LINE_PREFIX);
        set("log_min_messages", &"log");
        set("log_min_error_statement", &"panic");
        set("log_error_verbosity", &"terse");
        set("log_statement", &"none");
        set("log_min_duration_statement", &"-1");
        set("log_min_duration_sample", &"-1");
        set("log_duration", &"off");
        set("log_parameter_max_length", &"0");
        set("log_parameter_max_length_on_error", &"0");
        set("log_connections", &"off");
        set("log_disconnections", &"off");
        set("log_lock_waits", &"off");
        set("log_temp_files", &"-1");
        set("log_autovacuum_min_duration", &"-1");
        text.push_str("include_if_exists 'operator.conf'\n");
        text
    }
}

/// Names and values of a text of [`Sizes::conf`].
pub(crate) fn values_of(conf: &str) -> impl Iterator<Item = (&str, &str)> {
    conf.lines().filter_map(|line| {
        let (name, value) = line.split_once(" = '")?;
        Some((name, value.strip_suffix('\'')?))
    })
}

/// Who may come in, and how: the platform; then the members of the role that is named like the
/// database; then nobody.
pub(crate) fn hba(superuser: &str) -> String {
    format!(
        "# Written by tenantry at every start: changes here are lost.\n\
         local all      {superuser} scram-sha-256\n\
         local samerole all      scram-sha-256\n\
         local all      all      reject\n"
    )
}

/// Settings that [`arguments`] gives.
pub(crate) const COMMAND_LINE: [&str; 9] = [
    "config_file",
    "hba_file",
    "ident_file",
    "listen_addresses",
    "port",
    "unix_socket_directories",
    "unix_socket_permissions",
    "max_prepared_transactions",
    "restart_after_crash",
];

/// Arguments of `postgres`: no file can change these.
pub(crate) fn arguments(cluster: &Path, conf: &Path, socket_dir: &Path) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["-D".into(), cluster.into()];
    let mut set = |name: &str, value: &std::ffi::OsStr| {
        let mut text = OsString::from(format!("{name}="));
        text.push(value);
        arguments.push("-c".into());
        arguments.push(text);
    };
    set("config_file", conf.join("tenantry.conf").as_os_str());
    set("hba_file", conf.join("pg_hba.conf").as_os_str());
    set("ident_file", conf.join("pg_ident.conf").as_os_str());
    set("listen_addresses", "".as_ref());
    set("port", "5432".as_ref());
    set("unix_socket_directories", &quoted(socket_dir));
    set("unix_socket_permissions", "0700".as_ref());
    // A prepared transaction would hold its locks for ever, also against the platform.
    set("max_prepared_transactions", "0".as_ref());
    set("restart_after_crash", "on".as_ref());
    arguments
}

/// The setting is a list; in double quotes a comma or a space is a character like any other.
fn quoted(path: &Path) -> OsString {
    let mut text = OsString::from("\"");
    text.push(path.as_os_str());
    text.push("\"");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(memory_gb: u64, databases: u32) -> Sizes {
        Sizes {
            major: 18,
            memory_bytes: memory_gb << 30,
            cpus: 2,
            budget: 100,
            reserved: 24,
            tenant_locks_max: 12_000,
            process_bytes_max: None,
            databases,
            reflink: false,
            has_history: false,
        }
    }

    #[test]
    fn memory_is_divided_within_bounds() {
        for (memory_gb, buffers, work) in
            [(0, 128, 2), (1, 256, 5), (16, 4096, 32), (512, 8192, 32)]
        {
            let sizes = sizes(memory_gb, 0);
            assert_eq!(sizes.shared_buffers_mb(), buffers, "{memory_gb} GB");
            assert_eq!(sizes.work_mem_mb(), work, "{memory_gb} GB");
        }
    }

    #[test]
    fn a_process_has_room_beside_what_it_takes_by_itself() {
        for (memory_gb, wanted_mb, holds_mb, maintenance_mb) in [
            (0, None, 512, 32),
            (4, None, 512, 128),
            (64, None, 8192, 512),
            (64, Some(128), 128, 32),
            (64, Some(1024), 1024, 256),
            (4, Some(65_536), 65_536, 128),
        ] {
            let sizes = Sizes {
                process_bytes_max: wanted_mb.map(|wanted: u64| wanted * MB),
                ..sizes(memory_gb, 0)
            };
            assert_eq!(sizes.process_bytes_max(), holds_mb * MB);
            assert_eq!(sizes.maintenance_work_mem_mb(), maintenance_mb);
            assert!(sizes.work_mem_mb() * 4 <= holds_mb);
        }
    }

    #[test]
    fn one_tenant_never_fills_the_lock_table() {
        for (budget, tenant_locks_max) in [(4, 12_000), (100, 12_000), (100, 120_000), (1000, 12)] {
            let sizes = Sizes {
                budget,
                tenant_locks_max,
                ..sizes(4, 0)
            };
            let table = sizes.locks_per_connection() * sizes.connections();
            assert!(table >= tenant_locks_max / 3 * 4, "{budget}: {table}");
            assert!(sizes.locks_per_connection() >= LOCKS_PER_CONNECTION_MIN);
        }
    }

    #[test]
    fn autovacuum_keeps_its_pace_whatever_the_number_of_databases() {
        for (databases, naptime) in [(0, 60), (30, 60), (1500, 3000), (1_000_000, 86_400)] {
            assert_eq!(sizes(4, databases).autovacuum_naptime_s(), naptime);
        }
    }

    #[test]
    fn every_argument_is_known_by_name() {
        let arguments = arguments(Path::new("/c"), Path::new("/f"), Path::new("/s"));
        let names: Vec<&str> = arguments
            .iter()
            .filter_map(|text| text.to_str()?.split_once('='))
            .map(|(name, _)| name)
            .collect();
        assert_eq!(names, COMMAND_LINE);
    }

    #[test]
    fn a_setting_of_18_is_not_given_to_15() {
        assert!(sizes(4, 0).conf().contains("file_copy_method"));
        assert!(
            !Sizes {
                major: 15,
                ..sizes(4, 0)
            }
            .conf()
            .contains("file_copy_method")
        );
    }
}
