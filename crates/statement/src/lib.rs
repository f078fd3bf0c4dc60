//! What the text of a statement may do to a session of PostgreSQL.
//!
//! Owns: reading SQL text token by token as PostgreSQL's own scanner does, and saying which kinds
//! of session state it may change, touch or depend on. Does not own: a grammar (text that
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

mod effects;
mod encoding;

pub use effects::Effects;
pub use encoding::Encoding;

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
    ResetAll,
    DiscardAll,
    DiscardPlans,
    DiscardTemp,
    DiscardSequences,
    /// `DEALLOCATE name`; the name as PostgreSQL keeps it.
    Deallocate(String),
    DeallocateAll,
    /// `PREPARE name … AS …`. What the statement itself may do is in [`Reading::effects`] already.
    Prepare(String),
    /// `EXECUTE name …`, which may name a statement that came by the protocol.
    Execute(String),
}

/// What a text says about itself.
#[derive(Clone, Debug)]
pub struct Reading<'a> {
    pub statements: Statements,
    pub lead: Lead,
    /// Of all its statements together.
    pub effects: Effects,
    pub exact: Option<Exact>,
    /// Names with a dot that it sets, resets, shows or asks for (`SET`, `RESET`, `SHOW`,
    /// `set_config`, `current_setting`), as written, ASCII: PostgreSQL lists such settings
    /// nowhere, so whoever wants to know their values must know the names. Compared without
    /// regard to case. May repeat.
    pub custom: Vec<&'a str>,
}

/// What running the body of a function or procedure may do, as far as its text shows.
#[derive(Clone, Debug)]
pub struct Body<'a> {
    pub effects: Effects,
    /// As [`Reading::custom`].
    pub custom: Vec<&'a str>,
}

/// Reads the text of a simple query or of a Parse.
///
/// Never fails: text that PostgreSQL would refuse runs nothing, and may be read as anything.
pub fn read(_text: &[u8], _context: Context) -> Reading<'_> {
    Reading {
        statements: Statements::Several,
        lead: Lead::Unknown,
        effects: Effects::UNKNOWN,
        exact: None,
        custom: Vec::new(),
    }
}

/// Reads the body of a function: `prosrc` of `pg_proc` (or `pg_get_function_sqlbody(oid)`, where
/// `prosqlbody` is not null), its language's name, and `probin`.
pub fn read_body<'a>(_language: &str, _source: &'a [u8], _library: Option<&str>) -> Body<'a> {
    Body {
        effects: Effects::UNKNOWN,
        custom: Vec::new(),
    }
}

/// Whether a function with this body leaves the session as it was, provided that everything it
/// calls and touches does.
pub fn body_is_harmless(language: &str, source: &[u8], library: Option<&str>) -> bool {
    let body = read_body(language, source, library);
    !body.effects.intersects(Effects::LASTING)
}

/// Whether [`read`] takes a call by this name, without a schema, for a harmless function of
/// `pg_catalog`. A user's function of such a name can be called unseen, since PostgreSQL chooses
/// by argument types and `search_path`.
pub fn is_catalog_function(_name: &str) -> bool {
    true
}
