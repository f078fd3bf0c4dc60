//! `tenantry doctor`: what this machine offers, and what to do about what it lacks.
//!
//! Owns: the list of checks, and how each is told. Does not own: the facts themselves (`node`),
//! nor the deep comparison, which the server makes (`GET /operator/check`).

use std::{
    fmt,
    io::IsTerminal as _,
    net::{SocketAddr, TcpListener},
    path::Path,
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};

use crate::{
    args::{DoctorArgs, Global},
    exit::{Exit, Failure},
    output::{self, Format},
    user::{
        api::{Api, Trust},
        database::field,
        home::Home,
    },
};

/// Below this, a thousand clients do not fit: each holds a file, and so does each server connection.
const OPEN_FILES_WISH: u64 = 4096;
/// A database takes 7 to 8 MB; PostgreSQL's log of changes grows to 1 GB between checkpoints.
const DISK_FREE_WISH: u64 = 5 << 30;
/// Tokens and certificates live by the clock; a skew of minutes refuses good ones.
const CLOCK_SKEW_MAX: Duration = Duration::from_secs(60);
/// Before this software was written no clock can be right.
const CLOCK_MIN: u64 = 1_790_000_000;

/// How a check ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Verdict {
    Good,
    /// It works; it could be better.
    Note,
    /// `tenantry serve` will not work.
    Bad,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Good => "ok",
            Self::Note => "note",
            Self::Bad => "FAIL",
        })
    }
}

struct Check {
    name: &'static str,
    verdict: Verdict,
    found: String,
    /// What to do; empty when there is nothing.
    advice: String,
}

impl Check {
    fn new(
        name: &'static str,
        verdict: Verdict,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            name,
            verdict,
            found: found.into(),
            advice: advice.into(),
        }
    }

    fn good(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Verdict::Good, found, "")
    }
}

/// `tenantry doctor`.
///
/// # Errors
///
/// [`Exit::Machine`] when a check ended badly, after all were told; [`Exit::NotAllowed`] when that was
/// only because the credentials do not allow it.
pub(super) async fn doctor(args: &DoctorArgs, global: &Global) -> Result<(), Failure> {
    let mut checks = machine(args).await;
    let trust = Trust {
        data_dir: Some(args.data_dir.clone()),
        ..Trust::of(global)
    };
    let api = Api::new(&global.api_url, &trust, Home::open()?)?;
    checks.push(clock());
    let server = api.get_public("/readyz").await;
    checks.push(running(&api, &server));
    checks.extend(ports(&api, server.is_ok()));
    let mut exit = Exit::Machine;
    if args.deep {
        let is_fine = checks.iter().all(|check| check.verdict != Verdict::Bad);
        let progress = !global.quiet && std::io::stderr().is_terminal();
        let (found, refused) = deep(&api, progress).await;
        checks.extend(found);
        if is_fine && let Some(refused) = refused {
            exit = refused;
        }
    }
    tell(&checks, global)?;
    if checks.iter().any(|check| check.verdict == Verdict::Bad) {
        return Err(Failure::Told(exit));
    }
    Ok(())
}

async fn machine(args: &DoctorArgs) -> Vec<Check> {
    let facts = node::doctor::facts(&args.data_dir, args.pg_bin.as_deref()).await;
    let mut major = 0;
    let postgres = match &facts.postgres {
        Ok(found) => {
            major = found.major;
            Check::good(
                "PostgreSQL",
                format!("{} in {}", found.version, found.bin.display()),
            )
        }
        Err(error) => {
            let looked = error
                .looked
                .iter()
                .map(|(path, why)| format!("{}: {why}", path.display()))
                .collect::<Vec<_>>()
                .join("; ");
            Check::new(
                "PostgreSQL",
                Verdict::Bad,
                format!("{error} ({looked})"),
                node::find::INSTALL,
            )
        }
    };
    let directory = facts.directory.display();
    let reflink = match &facts.reflink {
        Ok(true) if major >= 18 => Check::good(
            "Reflinks",
            format!("{directory} can share blocks: copies take no time and space"),
        ),
        Ok(true) => Check::new(
            "Reflinks",
            Verdict::Note,
            format!("{directory} can share blocks, but only PostgreSQL 18 uses that"),
            "with PostgreSQL 18, copies of a database take no time and space",
        ),
        Ok(false) => Check::new(
            "Reflinks",
            Verdict::Note,
            format!(
                "{directory} cannot share blocks: a copy of a database takes time and space by its size"
            ),
            "put the data directory on XFS or btrfs, with PostgreSQL 18, if copies shall be instant",
        ),
        Err(why) => Check::new(
            "Reflinks",
            Verdict::Note,
            format!("nobody can tell: {why}"),
            "create the data directory first",
        ),
    };
    let (soft, hard) = facts.open_files;
    let files = match hard {
        Some(hard) if hard < OPEN_FILES_WISH => Check::new(
            "Open files",
            Verdict::Note,
            format!("at most {hard}"),
            format!(
                "allow {OPEN_FILES_WISH} or more: each client needs one (ulimit -Hn, LimitNOFILE= in systemd)"
            ),
        ),
        _ => Check::good(
            "Open files",
            format!("{}, at most {}", limit(soft), limit(hard)),
        ),
    };
    let disk = match &facts.disk {
        Ok(disk) => {
            let found = format!(
                "{} free of {} at {directory}",
                bytes(disk.free),
                bytes(disk.size)
            );
            if disk.free < DISK_FREE_WISH {
                Check::new(
                    "Disk",
                    Verdict::Note,
                    found,
                    format!(
                        "a server needs room for its log: {} or more",
                        bytes(DISK_FREE_WISH)
                    ),
                )
            } else {
                Check::good("Disk", found)
            }
        }
        Err(why) => Check::new("Disk", Verdict::Note, format!("nobody can tell: {why}"), ""),
    };
    let memory = Check::good("Memory", bytes(facts.memory_bytes));
    let psql = match psql() {
        Some(path) => Check::good("psql", path),
        None => Check::new(
            "psql",
            Verdict::Note,
            "not installed",
            "`tenantry db connect` needs it (apt install postgresql-client); `tenantry db sql` does not",
        ),
    };
    let mut checks = vec![postgres, psql, reflink, files, disk, memory];
    checks.extend(facts.leftovers.iter().map(|left| {
        Check::new(
            "Leftovers",
            Verdict::Note,
            format!(
                "{} belongs to the data directory {}, which is not there",
                left.base.display(),
                left.data_dir.display()
            ),
            format!(
                "if that one is gone for good: rm -r {} (databases lie in it)",
                left.base.display()
            ),
        )
    }));
    checks
}

fn limit(limit: Option<u64>) -> String {
    limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string())
}

fn bytes(bytes: u64) -> String {
    let gigabytes = bytes as f64 / f64::from(1 << 30);
    if gigabytes >= 10.0 {
        format!("{gigabytes:.0} GiB")
    } else {
        format!("{gigabytes:.1} GiB")
    }
}

fn psql() -> Option<String> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join("psql"))
        .find(|psql| psql.is_file())
        .map(|psql| psql.display().to_string())
}

/// Whether the clock can be right, and what the kernel thinks of it.
fn clock() -> Check {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    if now.as_secs() < CLOCK_MIN {
        return Check::new(
            "Clock",
            Verdict::Bad,
            "it is set to a time before this software was written",
            "set the clock, and keep it right with NTP (systemd-timesyncd, chrony)",
        );
    }
    let time = chrono::DateTime::<chrono::Utc>::from(SystemTime::now()).format("%F %T UTC");
    if Path::new("/run/systemd/timesync/synchronized").exists() || Path::new("/run/chrony").exists()
    {
        return Check::good("Clock", format!("{time}, kept by NTP"));
    }
    Check::new(
        "Clock",
        Verdict::Note,
        format!("{time}; nothing seems to keep it right"),
        format!("expiries live by the clock: keep it within {CLOCK_SKEW_MAX:?} with NTP"),
    )
}

fn running(api: &Api, server: &Result<Value, Failure>) -> Check {
    match server {
        Ok(_) => Check::good("Server", format!("ready at {}", api.url())),
        Err(Failure::Api(error)) => Check::new(
            "Server",
            Verdict::Bad,
            error.message.clone(),
            error.hint.clone(),
        ),
        Err(_) => Check::new(
            "Server",
            Verdict::Note,
            format!("none answers at {}", api.url()),
            "`tenantry serve` starts one; TENANTRY_API_URL names another address",
        ),
    }
}

/// The default ports, unless the server that runs is the one that has them.
fn ports(api: &Api, server_runs: bool) -> Vec<Check> {
    let local = api.url().contains("127.0.0.1") || api.url().contains("localhost");
    if server_runs && local {
        return Vec::new();
    }
    [
        ("Port 5433", "--pg-listen", 5433),
        ("Port 5480", "--api-listen", 5480),
    ]
    .into_iter()
    .map(
        |(name, flag, port)| match TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port))) {
            Ok(_) => Check::good(name, "free"),
            Err(error) => Check::new(
                name,
                Verdict::Note,
                error.to_string(),
                format!("another program has it; {flag} takes another address"),
            ),
        },
    )
    .collect()
}

/// Databases in one part of the deep look: a request of a second or two, and progress after each.
const PART: usize = 20;
/// What the checks of databases are called.
const DATABASES: &str = "Databases";

/// Asks the server to compare its catalog with PostgreSQL, in parts. With what it found, or the code of why it
/// did not look.
async fn deep(api: &Api, progress: bool) -> (Vec<Check>, Option<Exit>) {
    let mut looked = 0;
    let (mut checks, mut notes) = (Vec::new(), Vec::new());
    let mut after = String::new();
    loop {
        let part = format!("/operator/check?limit={PART}{after}");
        let report = match api.get(&part).await {
            Ok(report) => report,
            Err(failure) => {
                let (check, exit) = not_looked(failure, looked);
                checks.push(check);
                notes.extend(checks);
                return (notes, Some(exit));
            }
        };
        let told = |finding: &Value| {
            let parts = ["kind", "subject", "detail"].map(|name| field(finding, name));
            Check::new(DATABASES, Verdict::Bad, parts.join(": "), "")
        };
        let findings = report["findings"].as_array();
        checks.extend(findings.into_iter().flatten().map(told));
        let under_way = report["under_way"].as_array();
        notes.extend(under_way.into_iter().flatten().map(is_under_way));
        let checked = report["checked"].as_u64().unwrap_or_default();
        looked += checked;
        match report["next_after"].as_str() {
            // A part without a database would go on for ever.
            Some(next) if checked > 0 => after = format!("&after={next}"),
            _ => break,
        }
        if progress {
            eprint!("\rlooked at {looked} of {} databases", report["total"]);
        }
    }
    if progress && looked > PART as u64 {
        eprintln!();
    }
    if checks.is_empty() {
        let found = format!("{looked} compared, nothing found");
        checks.push(Check::good(DATABASES, found));
    }
    notes.extend(checks);
    (notes, None)
}

/// What was left alone because it is not finished.
fn is_under_way(fill: &Value) -> Check {
    let [kind, id, database, subject, begun_at] =
        ["kind", "id", "database_id", "subject", "begun_at"].map(|name| field(fill, name));
    let found = format!("{kind} {id} of database {database} fills {subject} since {begun_at}");
    Check::new(
        DATABASES,
        Verdict::Note,
        found,
        "what it makes is compared when it has ended: look again then",
    )
}

/// Why the server did not look, or not further.
fn not_looked(failure: Failure, looked: u64) -> (Check, Exit) {
    const WITH_KEY: &str =
        "give the operator's key: TENANTRY_API_KEY=$(cat data/operator.key) tenantry doctor --deep";
    let exit = failure.exit();
    let (found, advice) = match failure {
        Failure::Api(error) if exit == Exit::NotAllowed => (error.message, WITH_KEY),
        Failure::Api(error) => (error.message, "the server's log may say more"),
        Failure::Here { message, .. } if exit == Exit::NotAllowed => (message, WITH_KEY),
        _ => ("the server does not answer".to_owned(), "start it first"),
    };
    let found = match looked {
        0 => found,
        looked => format!("{found}, after {looked} databases"),
    };
    (Check::new(DATABASES, Verdict::Bad, found, advice), exit)
}

fn tell(checks: &[Check], global: &Global) -> Result<(), Failure> {
    if global.format() == Format::Json {
        let checks: Vec<_> = checks
            .iter()
            .map(|check| {
                json!({
                    "check": check.name,
                    "verdict": check.verdict.to_string(),
                    "found": check.found,
                    "advice": check.advice,
                })
            })
            .collect();
        return output::json(&Value::Array(checks));
    }
    let mut text = String::new();
    for check in checks {
        if global.quiet && check.verdict == Verdict::Good {
            continue;
        }
        text += &format!("{:<5} {:<11} {}\n", check.verdict, check.name, check.found);
        if !check.advice.is_empty() {
            text += &format!("{:<18}→ {}\n", "", check.advice);
        }
    }
    output::text(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restore_that_is_under_way_is_told_and_fails_nothing() {
        let fill = json!({ "kind": "restore", "id": "rst_a", "database_id": "b", "subject": "x_c", "begun_at": "then" });
        let told = is_under_way(&fill);
        assert_eq!(told.verdict, Verdict::Note);
        assert_eq!(
            told.found,
            "restore rst_a of database b fills x_c since then"
        );
    }
}
