//! Which tables a text names, and what it does with each.
//!
//! Owns: finding names where a table's can stand, in queries, changes and definitions, also inside `WITH` and
//! subqueries. Does not own: what a name means (schemas of the search path, views and what is behind them),
//! or what functions, triggers and rules do: a text does not show it.
//!
//! There is no grammar here: of a text that PostgreSQL refuses, anything may be said. Names of `WITH` queries and
//! functions in `FROM` are no tables. What cannot be read is said to be ([`Tables::is_all`]).

mod start;

use crate::{
    Encoding, Strings,
    lexer::{Lexeme, Lexer, Token},
};

/// What is done with a table.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash, PartialOrd, Ord)]
pub enum Access {
    /// Rows are read; or it is locked or looked at.
    Read,
    /// Rows are added, changed or removed.
    Write,
    /// It is made, changed or removed itself, or kept in order (`VACUUM`, `REINDEX`, …).
    Define,
}

impl Access {
    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Define => "ddl",
        }
    }
}

/// Tables of a text.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Tables {
    /// Each once for each kind of access, as the text names it: folded to lower case unless it was quoted, with its
    /// schema if the text says one. In the order of the text, [`TABLES_MAX`] at most.
    pub named: Vec<(String, Access)>,
    /// Whether these are all that the text names: false where a part of it is not there or cannot be read, where there
    /// are more, and where the text runs what it does not show (`EXECUTE`, `DO`, `CALL`).
    pub is_all: bool,
}

/// Tables that are told of one text.
pub const TABLES_MAX: usize = 16;
/// Parentheses in each other that are followed.
const DEPTH_MAX: usize = 64;
/// Names of `WITH` queries that are told apart.
const QUERIES_MAX: usize = 64;

/// Reads a text, or what is there of it (`is_whole`: all).
///
/// No constant is among the names, whatever `standard_conforming_strings` is: of a text whose constants end elsewhere
/// under the other setting, nothing behind that is read.
pub fn tables(text: &[u8], is_whole: bool, encoding: Encoding) -> Tables {
    if encoding == Encoding::Overlapping && !text.is_ascii() {
        return Tables::default();
    }
    let mut finder = Finder {
        lexer: Lexer::new(text, Strings::Undecided),
        found: Tables {
            named: Vec::new(),
            is_all: is_whole,
        },
        frames: vec![Frame::default()],
        queries: Vec::new(),
    };
    finder.read();
    finder.found
}

/// What a clause says of the names in it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Clause {
    /// Nothing that has names of tables.
    #[default]
    Other,
    /// One name comes next.
    Next(Access),
    /// A list of them: one comes next.
    List(Access),
    /// The same, behind a name: another comes after a comma or a join.
    Within(Access),
    /// The name of a `WITH` query comes next.
    With { is_recursive: bool },
    /// Its body comes next, behind `AS`.
    WithBody,
}

/// How a statement, or a part of one in parentheses, began.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Lead {
    /// Nothing was read of it.
    #[default]
    Start,
    /// Behind `(` of something else: arguments, columns, conditions.
    Inside,
    Query,
    Insert,
    Update,
    Delete,
    Merge,
    Copy,
    /// `CREATE`, `ALTER`, `DROP`, `COMMENT`, `GRANT`, …
    Define,
    Explain,
    Prepare,
    Other,
}

/// A statement, or what is in a pair of parentheses.
#[derive(Debug, Default)]
struct Frame {
    lead: Lead,
    clause: Clause,
    /// What a definition is of has no tables of its own: `CREATE FUNCTION`.
    is_of_other: bool,
    /// How many `WITH` queries were known before.
    queries: usize,
    /// Of `WITH`: what its body is known by when it is over.
    pending: Option<String>,
    is_recursive: bool,
}

struct Finder<'a> {
    lexer: Lexer<'a>,
    found: Tables,
    frames: Vec<Frame>,
    queries: Vec<String>,
}

/// Words between a verb and the name of a table.
const BETWEEN: [&str; 11] = [
    "only",
    "table",
    "if",
    "not",
    "exists",
    "lateral",
    "concurrently",
    "into",
    "view",
    "materialized",
    "foreign",
];

/// What ends a list of tables.
const ENDS: [&str; 21] = [
    "where",
    "group",
    "having",
    "window",
    "order",
    "limit",
    "offset",
    "fetch",
    "for",
    "union",
    "intersect",
    "except",
    "returning",
    "set",
    "values",
    "select",
    "when",
    "cascade",
    "restrict",
    "to",
    "default",
];

impl Finder<'_> {
    fn frame(&mut self) -> &mut Frame {
        if self.frames.is_empty() {
            self.frames.push(Frame::default());
        }
        let last = self.frames.len() - 1;
        &mut self.frames[last]
    }

    fn read(&mut self) {
        // The two words before, for the few places where they decide.
        let mut before = ["", ""].map(str::to_owned);
        loop {
            let lexeme = self.lexer.next();
            match lexeme.token {
                Token::End => return,
                Token::Bad => {
                    self.found.is_all = false;
                    return;
                }
                Token::Semicolon => {
                    self.frames.clear();
                    self.queries.clear();
                    self.frames.push(Frame::default());
                }
                Token::Open => {
                    if !self.open() {
                        self.found.is_all = false;
                        return;
                    }
                }
                Token::Close => self.close(),
                Token::Comma => self.comma(),
                Token::Word | Token::Quoted | Token::Obscure => self.word(&lexeme, &before),
                _ => self.other(),
            }
            let word = match lexeme.token {
                Token::Word => String::from_utf8_lossy(lexeme.raw).to_ascii_lowercase(),
                _ => String::new(),
            };
            before = [word, std::mem::take(&mut before[0])];
        }
    }

    /// Behind an opening parenthesis.
    fn open(&mut self) -> bool {
        if self.frames.len() >= DEPTH_MAX {
            return false;
        }
        let queries = self.queries.len();
        let frame = self.frame();
        let (lead, joined) = match (frame.clause, frame.lead) {
            // A subquery, or tables that are joined.
            (Clause::List(access), _) => (Lead::Start, Some(access)),
            (Clause::WithBody, _) => (Lead::Start, None),
            (_, Lead::Start | Lead::Copy | Lead::Prepare) => (Lead::Start, None),
            // A subquery may stand everywhere; only its first word tells.
            _ => (Lead::Inside, None),
        };
        if let Clause::List(access) = frame.clause {
            frame.clause = Clause::Within(access);
        }
        self.frames.push(Frame {
            lead,
            queries,
            clause: joined.map_or(Clause::Other, Clause::List),
            ..Frame::default()
        });
        true
    }

    fn close(&mut self) {
        if self.frames.len() > 1
            && let Some(closed) = self.frames.pop()
        {
            self.queries.truncate(closed.queries);
        }
        let frame = self.frame();
        if frame.clause == Clause::WithBody {
            frame.clause = Clause::Other;
            let pending = frame.pending.take();
            self.know(pending);
        } else if frame.lead == Lead::Start {
            // `(SELECT …) UNION …`
            frame.lead = Lead::Query;
        }
    }

    fn know(&mut self, query: Option<String>) {
        let Some(query) = query else { return };
        match self.queries.len() < QUERIES_MAX {
            true => self.queries.push(query),
            false => self.found.is_all = false,
        }
    }

    fn comma(&mut self) {
        let frame = self.frame();
        frame.clause = match frame.clause {
            Clause::Within(access) => Clause::List(access),
            // Behind the body of one `WITH` query comes the next one.
            Clause::Other if frame.lead == Lead::Start => Clause::With {
                is_recursive: frame.is_recursive,
            },
            other => other,
        };
    }

    /// What is no name stands where a name could.
    fn other(&mut self) {
        let frame = self.frame();
        if let Clause::Next(_) | Clause::List(_) = frame.clause {
            frame.clause = Clause::Other;
        }
    }

    fn word(&mut self, lexeme: &Lexeme<'_>, before: &[String; 2]) {
        let frame = self.frame();
        match frame.clause {
            Clause::With { .. } if lexeme.is_word("recursive") => {
                frame.is_recursive = true;
                frame.clause = Clause::With { is_recursive: true };
            }
            Clause::With { is_recursive } => {
                let name = lexeme.name();
                frame.clause = Clause::WithBody;
                match is_recursive {
                    true => self.know(name),
                    false => frame.pending = name,
                }
            }
            // `name (columns) AS MATERIALIZED (`: all of it up to the body.
            Clause::WithBody => {}
            Clause::Next(access) | Clause::List(access) => self.expected(lexeme, access),
            Clause::Other | Clause::Within(_) => self.keyword(lexeme, before),
        }
    }

    /// A name is expected here.
    fn expected(&mut self, lexeme: &Lexeme<'_>, access: Access) {
        let is_list = matches!(self.frame().clause, Clause::List(_));
        if lexeme.is_one_of(&BETWEEN) {
            return;
        }
        let frame = self.frame();
        // `FROM (SELECT …)`, and what was no place for a name.
        if lexeme.is_one_of(&["select", "with", "values"]) && frame.lead == Lead::Start {
            frame.clause = Clause::Other;
            return self.lead(lexeme);
        }
        // `ROWS FROM (…)`
        if lexeme.is_word("rows") && self.lexer.peek().is_word("from") {
            self.lexer.next();
            self.frame().clause = Clause::Within(access);
            return;
        }
        let frame = self.frame();
        if frame.lead == Lead::Start {
            frame.lead = Lead::Query;
        }
        let lead = frame.lead;
        frame.clause = match is_list {
            true => Clause::Within(access),
            false => Clause::Other,
        };
        let Some((name, is_qualified)) = self.name(lexeme) else {
            self.found.is_all = false;
            return;
        };
        let has_arguments = self.lexer.peek().token == Token::Open;
        // `REFERENCES t (i)` and `COPY t (i)` have columns there.
        let has_columns = matches!(lead, Lead::Copy | Lead::Inside);
        let is_function = has_arguments && access == Access::Read && !has_columns;
        let is_query = !is_qualified && access == Access::Read && self.queries.contains(&name);
        if !is_function && !is_query {
            self.note(name, access);
        }
        if lead == Lead::Copy {
            self.copied();
        }
    }

    /// All of a name that begins so, and whether it has a schema.
    fn name(&mut self, first: &Lexeme<'_>) -> Option<(String, bool)> {
        let mut name = quoted(first);
        let mut is_qualified = false;
        while self.lexer.peek().token == Token::Dot {
            self.lexer.next();
            let part = self.lexer.next();
            let part = matches!(part.token, Token::Word | Token::Quoted).then(|| quoted(&part));
            name = name
                .zip(part.flatten())
                .map(|(name, part)| name + "." + &part);
            is_qualified = true;
        }
        name.map(|name| (name, is_qualified))
    }

    /// Behind the table of a COPY: which way.
    fn copied(&mut self) {
        let mut rest = self.lexer.clone();
        let mut depth = 0_u32;
        let writes = loop {
            let lexeme = rest.next();
            match lexeme.token {
                Token::Open => depth += 1,
                Token::Close => depth = depth.saturating_sub(1),
                Token::End | Token::Bad | Token::Semicolon => break false,
                _ if depth == 0 && lexeme.is_word("from") => break true,
                _ if depth == 0 && lexeme.is_word("to") => break false,
                _ => {}
            }
        };
        if writes && let Some(last) = self.found.named.last_mut() {
            last.1 = Access::Write;
        }
        let frame = self.frame();
        frame.lead = Lead::Other;
        frame.clause = Clause::Other;
    }

    fn note(&mut self, name: String, access: Access) {
        let known = self.found.named.iter();
        if known.clone().any(|own| own.0 == name && own.1 == access) {
            return;
        }
        match known.count() < TABLES_MAX {
            true => self.found.named.push((name, access)),
            false => self.found.is_all = false,
        }
    }

    /// A word where no name is expected.
    fn keyword(&mut self, lexeme: &Lexeme<'_>, before: &[String; 2]) {
        if lexeme.token != Token::Word {
            return;
        }
        // Part of a name with dots, or a name behind a type.
        if matches!(
            self.frame().lead,
            Lead::Start | Lead::Inside | Lead::Explain | Lead::Prepare
        ) {
            let is_first = self.frame().lead != Lead::Inside || lexeme.is_one_of(&QUERIES);
            if is_first {
                return self.lead(lexeme);
            }
        }
        let frame = self.frame();
        let lead = frame.lead;
        let next = |access| Clause::Next(access);
        let list = |access| Clause::List(access);
        let clause = match lead {
            Lead::Inside => {
                // Of a column: REFERENCES other (id).
                lexeme.is_word("references").then(|| next(Access::Read))
            }
            Lead::Define => self.of_definition(lexeme),
            _ if lexeme.is_word("from") => {
                let is_comparison = before[0] == "distinct" && matches!(&*before[1], "is" | "not");
                match lead {
                    _ if is_comparison => None,
                    Lead::Delete if frame.clause == Clause::Other && before[0] == "delete" => {
                        Some(list(Access::Write))
                    }
                    Lead::Query | Lead::Update | Lead::Delete => Some(list(Access::Read)),
                    _ => None,
                }
            }
            _ if lexeme.is_word("join") => Some(list(Access::Read)),
            Lead::Query if lexeme.is_word("into") => {
                let temporary = ["temp", "temporary", "unlogged", "local", "global"];
                if self.lexer.peek().is_one_of(&temporary) {
                    self.lexer.next();
                }
                Some(next(Access::Define))
            }
            Lead::Insert | Lead::Merge if lexeme.is_word("into") => Some(next(Access::Write)),
            Lead::Merge if lexeme.is_word("using") => Some(list(Access::Read)),
            Lead::Delete if lexeme.is_word("using") && self.lexer.peek().token != Token::Open => {
                Some(list(Access::Read))
            }
            Lead::Insert if lexeme.is_one_of(&["select", "values", "with", "table"]) => {
                return self.lead(lexeme);
            }
            // Behind UNION and the like.
            Lead::Query if lexeme.is_one_of(&["select", "values", "table"]) => {
                return self.lead(lexeme);
            }
            _ if lexeme.is_one_of(&ENDS) => Some(Clause::Other),
            _ => None,
        };
        if let Some(clause) = clause {
            self.frame().clause = clause;
        }
    }
}

/// What begins a query or a change inside parentheses.
const QUERIES: [&str; 8] = [
    "select", "with", "values", "table", "insert", "update", "delete", "merge",
];

/// A part of a name as it can be told from others: one that needs its quotes keeps them.
fn quoted(lexeme: &Lexeme<'_>) -> Option<String> {
    let name = lexeme.name()?;
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    match name.bytes().all(is_plain) || lexeme.token == Token::Word {
        true => Some(name),
        false => Some(format!("\"{}\"", name.replace('"', "\"\""))),
    }
}

#[cfg(test)]
mod tests;
