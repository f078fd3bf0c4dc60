//! Running a text of SQL in one transaction.
//!
//! Owns: which statements are sent as they are, which are not and why. psql is not used: what a file
//! tells psql to do (`\!`, `\copy`) would be done on the machine of whoever restores it, and a COMMIT in
//! the file would end its transaction half-way. Here one message is one statement, and PostgreSQL
//! itself refuses a message that holds two.

mod name;
mod session;
mod source;
mod split;

use std::collections::BTreeMap;

use futures_util::{SinkExt as _, pin_mut};
use tokio_postgres::{Client, error::SqlState};

pub(super) use name::Name;
pub(super) use session::{Session, enter, told};
pub(super) use source::Source;

use crate::exit::{Exit, Failure};
use source::{SourceError, Statement};

/// What a text may say about transactions.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Blocks {
    /// Nothing: it is one.
    Refused,
    /// `BEGIN` and `COMMIT` in pairs, which add nothing to the one around them. pg_dump writes them
    /// around large objects.
    Absorbed,
    /// Each statement is one of its own.
    Separate,
}

/// How a text is run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules<'a> {
    pub(super) blocks: Blocks,
    /// Of a dump, leave out whose everything was and who might use it: those roles are not here.
    pub(super) leave_out_owners: bool,
    /// Of a dump, leave out that these extensions are made, and what is said about them.
    pub(super) leave_out_extensions: &'a [String],
    /// It begins with dropping what it makes, as `pg_restore --clean --if-exists` writes it.
    pub(super) cleans: bool,
    /// What became of the data, said with every error.
    pub(super) became: &'static str,
}

/// What was done.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) statements: u64,
    /// Left out as [`Rules::leave_out_owners`] says.
    pub(super) left_out: u64,
    /// Rows that PostgreSQL says it took by COPY, of each table that a dump names with its schema.
    pub(super) copied: BTreeMap<Name, u64>,
}

/// What is done with one statement.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    Send,
    Copy,
    LeaveOut,
    /// Neither sent nor worth a word.
    Ignore,
    Begin,
    Commit,
    Refuse(&'static str, &'static str),
}

const ONE_TRANSACTION: &str = "leave out what begins and ends transactions";

/// Runs all of `source`. Begins and ends no transaction by itself.
///
/// # Errors
///
/// The first thing that is wrong, with its line and [`Rules::became`].
pub(super) async fn run(
    session: &Session,
    source: &mut Source,
    rules: Rules<'_>,
) -> Result<Done, Failure> {
    let mut done = Done::default();
    let mut is_in_block = false;
    let wrong = |error: SourceError| unreadable(error, rules.became);
    while let Some(statement) = source.statement().await.map_err(wrong)? {
        let is_dump = source.is_in_dump() && rules.leave_out_owners;
        let line = statement.span.line;
        let step = if is_dump && names_extension(&statement.text, rules.leave_out_extensions) {
            Step::Ignore
        } else {
            step(&statement, rules.blocks, is_dump, session.server_version)
        };
        match step {
            Step::Ignore => continue,
            Step::LeaveOut => {
                done.left_out += 1;
                continue;
            }
            Step::Begin if !is_in_block => is_in_block = true,
            Step::Commit if is_in_block => is_in_block = false,
            Step::Begin | Step::Commit => {
                let why = "it ends or begins a transaction out of turn";
                return Err(refused(line, why, ONE_TRANSACTION, rules.became));
            }
            Step::Refuse(why, hint) => return Err(refused(line, why, hint, rules.became)),
            Step::Copy => {
                let rows = copy(&session.client, source, &statement, rules.became).await?;
                if is_dump && let Some(table) = name::copied(&statement.text) {
                    *done.copied.entry(table).or_default() += rows;
                }
            }
            Step::Send if rules.cleans && drops_a_part(&statement.text) => {
                drop_part(&session.client, &statement, rules.became).await?;
            }
            Step::Send => {
                let sent = session.client.execute_typed(&statement.text, &[]).await;
                sent.map_err(|error| told(&error, Some(line), rules.became))?;
            }
        }
        done.statements += 1;
    }
    Ok(done)
}

/// Sends the data that follows a `COPY … FROM STDIN`. Returns how many rows PostgreSQL says it took.
async fn copy(
    client: &Client,
    source: &mut Source,
    statement: &Statement,
    became: &str,
) -> Result<u64, Failure> {
    let line = Some(statement.span.line);
    let sink = client.copy_in(&*statement.text).await;
    let sink = sink.map_err(|error| told(&error, line, became))?;
    pin_mut!(sink);
    source
        .begin_copy()
        .await
        .map_err(|error| unreadable(error, became))?;
    while let Some(data) = source
        .copy_data()
        .await
        .map_err(|error| unreadable(error, became))?
    {
        if let Err(error) = sink.send(data).await {
            // What the server said comes with the end.
            let error = sink.finish().await.err().unwrap_or(error);
            return Err(told(&error, line, became));
        }
    }
    let ended = sink.finish().await;
    ended.map_err(|error| told(&error, line, became))
}

/// Whether `--clean` drops with this what a table has: a constraint, or an index.
fn drops_a_part(text: &str) -> bool {
    text.starts_with("DROP INDEX IF EXISTS ")
        || (text.starts_with("ALTER TABLE IF EXISTS ")
            && text.contains(" DROP CONSTRAINT IF EXISTS "))
}

/// Drops a constraint or an index of a table, or leaves that to the table's own turn: pg_restore names those of partitions,
/// too, and PostgreSQL gives these up with the partition only. What is left over then is an error where it is made again.
async fn drop_part(client: &Client, statement: &Statement, became: &str) -> Result<(), Failure> {
    const INHERITED: [SqlState; 2] = [
        SqlState::INVALID_TABLE_DEFINITION,
        SqlState::DEPENDENT_OBJECTS_STILL_EXIST,
    ];
    let wrong = |error| told(&error, Some(statement.span.line), became);
    let begun = client.batch_execute("SAVEPOINT tenantry_clean").await;
    begun.map_err(wrong)?;
    let end = match client.execute_typed(&statement.text, &[]).await {
        Ok(_) => "RELEASE tenantry_clean",
        Err(error) if error.code().is_some_and(|code| INHERITED.contains(code)) => {
            "ROLLBACK TO tenantry_clean; RELEASE tenantry_clean"
        }
        Err(error) => return Err(wrong(error)),
    };
    client.batch_execute(end).await.map_err(wrong)
}

/// Whether a statement of pg_dump makes one of these extensions, or says something about it.
fn names_extension(text: &str, extensions: &[String]) -> bool {
    ["CREATE EXTENSION IF NOT EXISTS ", "COMMENT ON EXTENSION "]
        .iter()
        .filter_map(|begin| name::first(text.strip_prefix(begin)?))
        .any(|(name, _)| extensions.contains(&name))
}

fn refused(line: u64, why: &str, hint: &str, became: &str) -> Failure {
    let hint = [hint, became].map(str::to_owned).join("; ");
    Failure::new(Exit::Refused, format!("line {line}: {why}"), hint)
}

fn unreadable(error: SourceError, became: &str) -> Failure {
    let hint = match &error {
        SourceError::Meta { .. } => {
            "it could run programs and read files of this machine, so none is; `tenantry db connect DB -f FILE` \
             runs psql, for files that you trust"
        }
        SourceError::Encoding { .. } => "write the dump with --encoding UTF8, or convert the file",
        SourceError::Truncated | SourceError::CopyUnfinished { .. } => "it was cut off",
        SourceError::Read(_) | SourceError::Unfinished { .. } | SourceError::TooLong { .. } => "",
    };
    let hint: Vec<&str> = [hint, became]
        .into_iter()
        .filter(|t| !t.is_empty())
        .collect();
    let message = format!("{:#}", anyhow::Error::new(error));
    Failure::new(Exit::Refused, message, hint.join("; "))
}

fn step(statement: &Statement, blocks: Blocks, is_dump: bool, server_version: i32) -> Step {
    let span = &statement.span;
    let head: Vec<&str> = span.head.iter().map(String::as_str).collect();
    let (begin, commit) = match blocks {
        Blocks::Absorbed => (Step::Begin, Step::Commit),
        Blocks::Refused | Blocks::Separate => {
            let why = "it begins or ends a transaction";
            (
                Step::Refuse(why, ONE_TRANSACTION),
                Step::Refuse(why, ONE_TRANSACTION),
            )
        }
    };
    let other = Step::Refuse("it begins or ends a transaction", ONE_TRANSACTION);
    match &head[..] {
        ["BEGIN"] | ["BEGIN", "WORK" | "TRANSACTION"] | ["START", "TRANSACTION"] => begin,
        ["COMMIT" | "END"] | ["COMMIT" | "END", "WORK" | "TRANSACTION"] => commit,
        ["ROLLBACK", "TO", ..] | ["ROLLBACK", "WORK" | "TRANSACTION", "TO", ..] => Step::Send,
        ["BEGIN" | "COMMIT" | "END" | "ROLLBACK" | "ABORT", ..]
        | ["START" | "PREPARE", "TRANSACTION", ..] => other,
        _ if span.from_stdin => Step::Copy,
        _ if span.to_stdout => Step::Refuse(
            "COPY … TO STDOUT has nowhere to go",
            "`tenantry db export` writes tables and queries to files",
        ),
        ["SET", rest @ ..] => set(rest, &statement.text, server_version),
        ["GRANT" | "REVOKE", ..] | ["ALTER", "DEFAULT", "PRIVILEGES", ..] if is_dump => {
            Step::LeaveOut
        }
        ["ALTER", ..] if is_dump && gives_owner(&statement.text) => Step::LeaveOut,
        // pg_dump --schema=public writes it, and every database has one.
        ["CREATE", "SCHEMA", "PUBLIC"] if is_dump => Step::Ignore,
        _ => Step::Send,
    }
}

/// `SET`, where it would make the rest mean something else than was read.
fn set(rest: &[&str], text: &str, server_version: i32) -> Step {
    let rest = match rest {
        ["SESSION" | "LOCAL", rest @ ..] => rest,
        rest => rest,
    };
    let lower = text.to_ascii_lowercase();
    match rest {
        ["CLIENT_ENCODING" | "NAMES", ..] if !lower.contains("utf") => Step::Refuse(
            "the file is not in UTF-8",
            "write the dump with --encoding UTF8",
        ),
        ["STANDARD_CONFORMING_STRINGS", ..] if !lower.contains("on;") && !lower.ends_with("on") => {
            Step::Refuse(
                "with standard_conforming_strings off the file means something else",
                "write the dump on a server that has it on",
            )
        }
        // pg_dump 17 and later write it, whatever the server.
        ["TRANSACTION_TIMEOUT", ..] if server_version < 170_000 => Step::Ignore,
        _ => Step::Send,
    }
}

/// Whether an ALTER ends in `OWNER TO name`, as pg_dump writes it.
fn gives_owner(text: &str) -> bool {
    let Some((_, owner)) = text.trim_end().rsplit_once(" OWNER TO ") else {
        return false;
    };
    match owner
        .strip_prefix('"')
        .and_then(|name| name.strip_suffix('"'))
    {
        Some(name) => !name.replace("\"\"", "").contains('"'),
        None => owner
            .chars()
            .all(|c| c.is_alphanumeric() || c == '_' || c == '$'),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    async fn step_of(text: &str, blocks: Blocks) -> Step {
        let text = text.to_owned().into_bytes();
        let mut source = Source::new(b"", io::Cursor::new(text));
        let statement = source.statement().await.unwrap().unwrap();
        step(&statement, blocks, true, 150_000)
    }

    #[tokio::test]
    async fn nothing_in_a_text_ends_the_transaction_around_it() {
        for text in [
            "rollback",
            "/* x */ Abort",
            "commit and chain",
            "commit prepared 'x'",
            "prepare transaction 'x'",
            "begin isolation level serializable",
            "start transaction read only",
            "rollback and chain",
            "end and no chain",
        ] {
            for blocks in [Blocks::Absorbed, Blocks::Refused, Blocks::Separate] {
                let step = step_of(text, blocks).await;
                assert!(matches!(step, Step::Refuse(..)), "{text}: {step:?}");
            }
        }
        for (text, step) in [
            ("BEGIN", Step::Begin),
            ("start transaction", Step::Begin),
            ("commit work", Step::Commit),
            ("end", Step::Commit),
            ("rollback to savepoint a", Step::Send),
            ("savepoint a", Step::Send),
            ("release a", Step::Send),
        ] {
            assert_eq!(step_of(text, Blocks::Absorbed).await, step, "{text}");
            let refused = matches!(step_of(text, Blocks::Refused).await, Step::Refuse(..));
            assert_eq!(refused, step != Step::Send, "{text}");
        }
    }

    #[tokio::test]
    async fn of_a_dump_owners_and_grants_are_left_out_and_nothing_else() {
        for (text, step) in [
            ("ALTER TABLE public.t OWNER TO alice", Step::LeaveOut),
            (
                "ALTER FUNCTION f(a int) OWNER TO \"a \"\"b\"",
                Step::LeaveOut,
            ),
            (
                "ALTER DEFAULT PRIVILEGES FOR ROLE a GRANT ALL ON TABLES TO b",
                Step::LeaveOut,
            ),
            ("GRANT ALL ON TABLE t TO b", Step::LeaveOut),
            ("REVOKE ALL ON TABLE t FROM b", Step::LeaveOut),
            (
                "ALTER TABLE t ALTER c SET DEFAULT ' OWNER TO b'",
                Step::Send,
            ),
            ("COPY t FROM stdin", Step::Copy),
            ("SET transaction_timeout = 0", Step::Ignore),
            ("SET client_encoding = 'UTF8'", Step::Send),
            ("SET standard_conforming_strings = on", Step::Send),
        ] {
            assert_eq!(step_of(text, Blocks::Absorbed).await, step, "{text}");
        }
        for text in [
            "SET client_encoding = 'LATIN1'",
            "SET standard_conforming_strings = off",
        ] {
            let step = step_of(text, Blocks::Absorbed).await;
            assert!(matches!(step, Step::Refuse(..)), "{text}: {step:?}");
        }
    }
}
