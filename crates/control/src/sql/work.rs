//! What a request asks for, and doing it in one session.
//!
//! Owns: that a batch is one transaction, whatever is in it. Does not own: who may ask, or in which
//! form (`http`, `neon`).

use serde_json::Value;

use super::{
    client::{Outcome, Room, ServerError, Session, SqlError},
    parameter,
    render::{self, Named, Scalar, Shape, Types},
};

/// PostgreSQL's own limit: the number is sent as 16 bits.
const PARAMETERS_MAX: usize = 65_535;
/// Statements of one batch. Each is a round trip to PostgreSQL, and they share one answer; more rows
/// fit into one statement better.
const STATEMENTS_MAX: usize = 1_000;

/// What is to be done.
#[derive(Debug)]
pub(super) enum Work {
    /// One or more statements as one text; the result is the last one's.
    Script(String),
    /// Exactly one.
    One(Statement),
    /// Several as one transaction, each with its result.
    Batch {
        statements: Vec<Statement>,
        transaction: Transaction,
    },
}

/// One statement and its values.
#[derive(Debug)]
pub(super) struct Statement {
    sql: String,
    parameters: Vec<Value>,
}

/// What kind of transaction a batch is. PostgreSQL manual, SET TRANSACTION.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Transaction {
    /// `None`: as the database has it.
    pub(super) isolation: Option<Isolation>,
    pub(super) read_only: bool,
    /// Only matters to one that is serializable and read only.
    pub(super) deferrable: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Isolation {
    ReadUncommitted,
    ReadCommitted,
    RepeatableRead,
    Serializable,
}

impl Isolation {
    /// In any of the usual spellings: `serializable`, `repeatable read`, `read_committed`,
    /// `ReadCommitted`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let letters = text.chars().filter(|c| !matches!(c, ' ' | '_' | '-'));
        let word: String = letters.map(|c| c.to_ascii_lowercase()).collect();
        Some(match word.as_str() {
            "readuncommitted" => Self::ReadUncommitted,
            "readcommitted" => Self::ReadCommitted,
            "repeatableread" => Self::RepeatableRead,
            "serializable" => Self::Serializable,
            _ => return None,
        })
    }

    fn sql(self) -> &'static str {
        match self {
            Self::ReadUncommitted => "READ UNCOMMITTED",
            Self::ReadCommitted => "READ COMMITTED",
            Self::RepeatableRead => "REPEATABLE READ",
            Self::Serializable => "SERIALIZABLE",
        }
    }
}

impl Transaction {
    fn begin(self) -> String {
        let isolation = self.isolation.map(Isolation::sql);
        let mut sql = isolation.map_or_else(
            || "BEGIN".to_owned(),
            |isolation| format!("BEGIN ISOLATION LEVEL {isolation}"),
        );
        if self.read_only {
            sql.push_str(" READ ONLY");
        }
        if self.deferrable {
            sql.push_str(" DEFERRABLE");
        }
        sql
    }
}

/// Why a request cannot be done, for the one who wrote it.
pub(super) type Invalid = String;

impl Statement {
    /// # Errors
    ///
    /// [`Invalid`]: too many parameters, or one that PostgreSQL cannot be told exactly.
    pub(super) fn new(sql: String, parameters: Vec<Value>) -> Result<Self, Invalid> {
        if parameters.len() > PARAMETERS_MAX {
            return Err(format!("there are more than {PARAMETERS_MAX} parameters"));
        }
        if let Some(index) = parameters.iter().position(parameter::is_rounded) {
            return Err(format!(
                "parameter {} has more digits than a JSON number keeps; send it as a text",
                index + 1
            ));
        }
        if has_nul(&sql) || parameters.iter().any(parameter::has_nul) {
            return Err(NUL.to_owned());
        }
        Ok(Self { sql, parameters })
    }
}

const NUL: &str = "PostgreSQL's text cannot hold the character NUL";

fn has_nul(text: &str) -> bool {
    text.contains('\0')
}

impl Work {
    /// # Errors
    ///
    /// [`Invalid`].
    pub(super) fn script(sql: String) -> Result<Self, Invalid> {
        if has_nul(&sql) {
            return Err(NUL.to_owned());
        }
        Ok(Self::Script(sql))
    }

    /// # Errors
    ///
    /// [`Invalid`]: more statements than one request may have.
    pub(super) fn batch(
        statements: Vec<Statement>,
        transaction: Transaction,
    ) -> Result<Self, Invalid> {
        if statements.len() > STATEMENTS_MAX {
            return Err(format!("there are more than {STATEMENTS_MAX} statements"));
        }
        Ok(Self::Batch {
            statements,
            transaction,
        })
    }

    /// Does it. The session is good for nothing else when this fails.
    pub(super) async fn run(
        &self,
        session: &mut Session,
        room: &mut Room,
    ) -> Result<Vec<Outcome>, Stopped> {
        match self {
            Self::Script(sql) => Ok(vec![session.script(sql, room).await?]),
            Self::One(statement) => Ok(vec![statement.run(session, room).await?]),
            Self::Batch {
                statements,
                transaction,
            } => batch(session, statements, *transaction, room).await,
        }
    }
}

/// Why there is no result.
#[derive(Debug)]
pub(super) struct Stopped {
    pub(super) error: SqlError,
    /// Of a batch: at which statement, from 0. `None`: at none of them.
    pub(super) statement: Option<usize>,
}

impl From<SqlError> for Stopped {
    fn from(error: SqlError) -> Self {
        Self {
            error,
            statement: None,
        }
    }
}

impl Statement {
    async fn run(&self, session: &mut Session, room: &mut Room) -> Result<Outcome, SqlError> {
        session.statement(&self.sql, &self.parameters, room).await
    }
}

/// Nothing is committed unless every statement was carried out and its result read. Whoever is stopped
/// in between closes the session, which undoes all of it.
async fn batch(
    session: &mut Session,
    statements: &[Statement],
    transaction: Transaction,
    room: &mut Room,
) -> Result<Vec<Outcome>, Stopped> {
    // Looked at before anything is done, since what a COMMIT in the middle has done cannot be undone.
    let at = |statement, error| Stopped {
        error,
        statement: Some(statement),
    };
    if let Some(index) = statements.iter().position(|s| controls(&s.sql)) {
        return Err(at(index, not_in_a_batch()));
    }
    session.script(&transaction.begin(), room).await?;
    let mut outcomes = Vec::with_capacity(statements.len());
    for (index, statement) in statements.iter().enumerate() {
        let outcome = statement.run(session, room).await;
        let outcome = outcome.map_err(|error| at(index, error))?;
        if !outcome.is_in_transaction {
            return Err(at(index, not_in_a_batch()));
        }
        outcomes.push(outcome);
    }
    let committed = session.script("COMMIT", room).await?;
    if committed.tag != "COMMIT" {
        return Err(not_in_a_batch().into());
    }
    Ok(outcomes)
}

fn not_in_a_batch() -> SqlError {
    SqlError::Server(Box::new(ServerError::own(
        // invalid_transaction_termination
        "2D000",
        "the statements of a batch are one transaction and can neither begin nor end one",
        "leave out BEGIN, COMMIT and ROLLBACK; savepoints are allowed",
    )))
}

/// Whether a statement begins or ends a transaction. The server reads only one statement at a time
/// here, so its first word decides.
fn controls(sql: &str) -> bool {
    let mut words = words(sql);
    let word = |word: Option<&str>| word.map(str::to_ascii_uppercase).unwrap_or_default();
    match word(words.next()).as_str() {
        "BEGIN" | "START" | "COMMIT" | "END" | "ABORT" => true,
        "PREPARE" => word(words.next()) == "TRANSACTION",
        // ROLLBACK [WORK | TRANSACTION] TO …
        "ROLLBACK" => {
            let mut next = word(words.next());
            if matches!(next.as_str(), "WORK" | "TRANSACTION") {
                next = word(words.next());
            }
            next != "TO"
        }
        _ => false,
    }
}

/// Words between spaces, comments and semicolons, as far as a statement's beginning needs it.
fn words(mut rest: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        loop {
            rest = rest
                .trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '\x0b' || c == ';');
            if let Some(comment) = rest.strip_prefix("--") {
                rest = comment
                    .split_once(['\n', '\r'])
                    .map_or("", |(_, rest)| rest);
            } else if rest.starts_with("/*") {
                rest = after_comment(rest);
            } else {
                break;
            }
        }
        let end = rest
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        rest = after;
        (!word.is_empty()).then_some(word)
    })
}

/// Behind a comment, which may have others inside.
fn after_comment(text: &str) -> &str {
    let bytes = text.as_bytes();
    let (mut depth, mut at) = (0_usize, 0);
    loop {
        match bytes.get(at..at + 2) {
            Some(b"/*") => depth += 1,
            Some(b"*/") => depth -= 1,
            Some(_) => {
                at += 1;
                continue;
            }
            None => return "",
        }
        at += 2;
        if depth == 0 {
            return text.get(at..).unwrap_or_default();
        }
    }
}

/// Names and shapes of the types of all results. Of those that the database made itself the session is
/// asked; where it gives no answer, they stay unknown.
pub(super) async fn types(session: &mut Session, outcomes: &[Outcome], room: Room) -> Types {
    let columns = outcomes.iter().flat_map(|outcome| &outcome.columns);
    let (mut types, unknown) = Types::of(columns.map(|column| column.oid));
    if unknown.is_empty() {
        return types;
    }
    let oids: Vec<_> = unknown.iter().map(u32::to_string).collect();
    let sql = format!(
        "SELECT t.oid, pg_catalog.format_type(t.oid, NULL), t.typcategory = 'A' AND e.oid IS NOT NULL,
             coalesce(nullif(e.typbasetype, 0), e.oid, 0), coalesce(e.typdelim, ',')
         FROM pg_catalog.pg_type t LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem
         WHERE t.oid IN ({})",
        oids.join(", ")
    );
    let mut room = room;
    if let Ok(found) = session.script(&sql, &mut room).await {
        types.0.extend(found.rows.iter().filter_map(|row| {
            let mut values = Vec::new();
            render::each(row, &found.columns, |_, value| {
                values.push(value.unwrap_or_default().into_owned());
            });
            named(&values)
        }));
    }
    types
}

fn named(values: &[String]) -> Option<(u32, Named)> {
    let [oid, name, is_array, element, delimiter] = values else {
        return None;
    };
    let shape = if is_array == "t" {
        Shape::Array {
            element: render::scalar(element.parse().ok()?),
            delimiter: delimiter.chars().next()?,
        }
    } else {
        Shape::Scalar(Scalar::Text)
    };
    let name = name.clone();
    Some((oid.parse().ok()?, Named { name, shape }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_begins_or_ends_a_transaction_is_recognised() {
        for sql in [
            "COMMIT",
            "commit;",
            " ; -- x\n/* a /* b */ c */ Rollback",
            "BEGIN ISOLATION LEVEL SERIALIZABLE",
            "START TRANSACTION",
            "END",
            "ABORT WORK",
            "ROLLBACK AND CHAIN",
            "rollback work",
            "PREPARE TRANSACTION 'x'",
            "--\rCOMMIT",
            "/**/commit/**/work",
            "\x0bCOMMIT",
        ] {
            assert!(controls(sql), "{sql}");
        }
        for sql in [
            "",
            "SELECT 1",
            "ROLLBACK TO s",
            "ROLLBACK WORK TO SAVEPOINT s",
            "SAVEPOINT s",
            "RELEASE s",
            "PREPARE p AS SELECT 1",
            "/* COMMIT */ SELECT 1",
            "-- COMMIT",
            "/* COMMIT",
            "COMMIT_IS_NO_WORD",
            "SELECT 'COMMIT'",
        ] {
            assert!(!controls(sql), "{sql}");
        }
    }

    #[test]
    fn transactions_are_begun_as_asked() {
        let all = Transaction {
            isolation: Isolation::parse("Serializable"),
            read_only: true,
            deferrable: true,
        };
        assert_eq!(
            all.begin(),
            "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE"
        );
        assert_eq!(Transaction::default().begin(), "BEGIN");
        for text in ["repeatable read", "RepeatableRead", "REPEATABLE_READ"] {
            assert_eq!(Isolation::parse(text), Some(Isolation::RepeatableRead));
        }
        assert_eq!(Isolation::parse("snapshot"), None);
    }
}
