//! What the text of a statement may do to a session of PostgreSQL.
//!
//! Owns: reading SQL text token by token as PostgreSQL's own scanner does, saying which kinds of
//! session state it may change, touch or depend on, and its shape without constants
//! ([`normalise`]). Does not own: a grammar (text that
//! PostgreSQL refuses may be read as anything), what the reader does about it (`proxy`), or what
//! the objects of a database do when they are used ([`read_body`] reads one body; who looks the
//! bodies up is elsewhere).
//!
//! **The one promise**: when running a text leaves a session different from before, then
//! [`Reading::effects`] says so; or the change was made by something that the text cannot show (a
//! user's function, view, trigger, operator, …), and [`Effects::CALLS`], [`Effects::TOUCHES`] or
//! [`Effects::EVALUATES`] says that such a thing may have run. The other direction is not
//! promised: whatever is not understood is called [`Effects::UNKNOWN`], never harmless. What is
//! known to be outside the promise stands at [`Effects::SEED`] and [`Effects::SETTINGS`].

mod body;
mod effects;
mod encoding;
mod functions;
mod lexer;
mod normal;
mod scan;
mod session;
mod tables;
mod words;

use std::ops::Range;

pub use body::{Body, body_is_harmless, read_body};
pub use effects::Effects;
pub use encoding::Encoding;
pub use functions::{is_catalog_function, lasting_functions};
pub use normal::{Excerpt, SHAPE_BYTES_MAX, normalise, outline};
pub use tables::{Access, TABLES_MAX, Tables, tables};

/// How the connection reads `'…'` without a prefix: `standard_conforming_strings`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
pub enum Strings {
    /// `on`: a backslash is a character like others.
    Standard,
    /// `off`: a backslash escapes the next character.
    Escaping,
    /// Not known at this moment (a change is under way). Text whose meaning depends on it is
    /// [`Effects::UNKNOWN`].
    Undecided,
}

/// What the meaning of a text depends on besides the text.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
pub struct Context {
    pub strings: Strings,
    pub encoding: Encoding,
}

/// How many statements a text holds. Empty ones (`;;`) do not count.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
pub enum Statements {
    None,
    One,
    Several,
}

/// How the first statement of a text begins.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
pub enum Lead {
    /// There is no statement.
    Nothing,
    /// `SELECT`, `VALUES`, `TABLE`, `WITH` or an opening parenthesis.
    Query,
    /// `INSERT`, `UPDATE`, `DELETE`, `MERGE`.
    Change,
    /// `BEGIN`, `START TRANSACTION`.
    Begin,
    /// `COMMIT`, `END`, `COMMIT PREPARED`.
    Commit,
    /// `ROLLBACK`, `ABORT`, `ROLLBACK TO`, `ROLLBACK PREPARED`.
    Rollback,
    /// `SAVEPOINT`, `RELEASE`.
    Savepoint,
    /// `PREPARE TRANSACTION`.
    PrepareTransaction,
    /// `SET` in all its forms but `SET CONSTRAINTS`.
    Set,
    SetConstraints,
    Reset,
    Show,
    Discard,
    Deallocate,
    /// `PREPARE name AS`.
    Prepare,
    Execute,
    Declare,
    /// `FETCH`, `MOVE`.
    Fetch,
    Close,
    Listen,
    Unlisten,
    Notify,
    Copy,
    Explain,
    Call,
    Do,
    Load,
    Lock,
    /// `CREATE`, `ALTER`, `DROP`, `GRANT`, `COMMENT`, … : what defines.
    Define,
    /// `VACUUM`, `ANALYZE`, `CLUSTER`, `REINDEX`, `CHECKPOINT`, `REFRESH`, `TRUNCATE`.
    Maintain,
    /// None that PostgreSQL 15 to 18 have.
    Unknown,
}

/// Exactly what a text does, where that can be said: it is one statement, and when PostgreSQL
/// reports success outside a transaction, this and nothing else has happened to the session.
///
/// Names of settings are in lower case, as PostgreSQL compares them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Exact {
    /// `SET [SESSION] name TO value`, `SET TIME ZONE`, `SET NAMES`, `SET SCHEMA`, `SET XML OPTION`
    /// and `SELECT set_config('…', '…', false)`: one pair of name and value. `SET SESSION
    /// CHARACTERISTICS AS TRANSACTION`: one for each default it sets.
    ///
    /// `set_config(name, value, false)` does the same. The value is as written, not as the
    /// server shows it: `4MB` and `4096kB` are two texts.
    Set(Vec<(String, String)>),
    /// `RESET name`, `SET name TO DEFAULT`, `SET TIME ZONE LOCAL`.
    Reset(String),
    /// `SET LOCAL name TO DEFAULT`, `SET LOCAL TIME ZONE LOCAL`: what `RESET` does, to the end of the transaction.
    ResetLocal(String),
    ResetAll,
    /// `RESET SESSION AUTHORIZATION`, `SET SESSION AUTHORIZATION DEFAULT`.
    ResetAuthorization,
    DiscardAll,
    DiscardPlans,
    DiscardTemp,
    DiscardSequences,
    /// `DEALLOCATE name`; the name as PostgreSQL keeps it.
    Deallocate(String),
    DeallocateAll,
    /// `PREPARE name … AS …`. What the statement itself may do is in [`Reading::effects`] already.
    Prepare(String),
    /// `EXECUTE name …`, which may name a statement that came by the protocol. What that does is
    /// not known here.
    Execute(String),
}

/// What a text says about itself.
#[derive(Clone, Debug)]
pub struct Reading {
    pub statements: Statements,
    pub lead: Lead,
    /// Of all its statements together.
    pub effects: Effects,
    pub exact: Option<Exact>,
    /// Names with a dot that it sets, resets, shows or asks for (`SET`, `RESET`, `SHOW`,
    /// `set_config`, `current_setting`), in lower case: PostgreSQL lists such settings nowhere,
    /// so whoever wants to know their values must know the names. May repeat.
    pub custom: Vec<String>,
}

/// Reads the text of a simple query or of a Parse.
///
/// Never fails: text that PostgreSQL would refuse runs nothing, and may be read as anything. Takes
/// time in proportion to the length of the text, and allocates only for [`Reading::exact`] and
/// [`Reading::custom`].
pub fn read(text: &[u8], context: Context) -> Reading {
    if context.encoding == Encoding::Overlapping && !text.is_ascii() {
        return Reading {
            statements: Statements::Several,
            lead: Lead::Unknown,
            effects: Effects::UNKNOWN,
            exact: None,
            custom: Vec::new(),
        };
    }
    scan::Scan::client(text, context)
}

/// Where the statements of a text are, each without what separates it from the next, empty ones left out.
/// `None` when that cannot be said.
pub fn split(text: &[u8], context: Context) -> Option<Vec<Range<usize>>> {
    if context.encoding == Encoding::Overlapping && !text.is_ascii() {
        return None;
    }
    scan::Scan::split(text, context)
}

#[cfg(test)]
mod tests;
