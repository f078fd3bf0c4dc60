//! What the first words of a statement say about the names behind them.
//!
//! Owns: which verb takes which kind of access, and where definitions have their tables. Does not own: finding the
//! names (`super`).

use super::{Access, Clause, ENDS, Finder, Lead, QUERIES};
use crate::lexer::{Lexeme, Token};

impl Finder<'_> {
    /// A word of a definition.
    pub(super) fn of_definition(&mut self, lexeme: &Lexeme<'_>) -> Option<Clause> {
        let next = self.lexer.peek();
        let frame = self.frame();
        if frame.is_of_other {
            // The query of a view of another kind is not looked for.
            return None;
        }
        // CREATE TABLE … AS, CREATE VIEW … AS
        if lexeme.is_word("as") && next.is_one_of(&["select", "with", "table", "values"]) {
            frame.lead = Lead::Start;
            return Some(Clause::Other);
        }
        if lexeme.is_word("as") && next.token == Token::Open {
            frame.lead = Lead::Query;
            return Some(Clause::WithBody);
        }
        if lexeme.is_one_of(&["table", "view"]) {
            return Some(Clause::List(Access::Define));
        }
        // CREATE INDEX … ON, CREATE TRIGGER … ON, COMMENT ON TABLE, GRANT … ON.
        if lexeme.is_word("on") {
            let others = [
                "function",
                "schema",
                "database",
                "sequence",
                "type",
                "column",
                "role",
                "all",
                "extension",
                "domain",
                "language",
                "procedure",
                "routine",
                "large",
                "index",
                "constraint",
                "trigger",
                "policy",
                "parameter",
                "tablespace",
                "foreign",
                "aggregate",
                "cast",
                "collation",
                "conversion",
                "event",
                "operator",
                "publication",
                "rule",
                "server",
                "statistics",
                "subscription",
                "text",
                "transform",
                "access",
                "delete",
                "update",
                "commit",
            ];
            if next.is_one_of(&others) {
                frame.is_of_other = !next.is_one_of(&["delete", "update", "commit"]);
                return Some(Clause::Other);
            }
            return Some(Clause::List(Access::Define));
        }
        if lexeme.is_one_of(&["references", "of"]) && !next.is_word("type") {
            return Some(Clause::Next(Access::Read));
        }
        if lexeme.is_one_of(&[
            "function",
            "procedure",
            "routine",
            "aggregate",
            "operator",
            "do",
        ]) {
            // What a function does is not followed, wherever it stands.
            frame.is_of_other = true;
            self.found.is_all &= !lexeme.is_one_of(&["function", "procedure", "do"]);
            return Some(Clause::Other);
        }
        lexeme.is_one_of(&ENDS).then_some(Clause::Other)
    }

    /// The first word of a statement, or of what may be one.
    pub(super) fn lead(&mut self, lexeme: &Lexeme<'_>) {
        let (lead, clause) = match () {
            () if lexeme.is_word("with") => {
                self.frame().lead = Lead::Start;
                self.frame().is_recursive = false;
                self.frame().clause = Clause::With {
                    is_recursive: false,
                };
                return;
            }
            () if lexeme.is_one_of(&["select", "values"]) => (Lead::Query, Clause::Other),
            () if lexeme.is_word("table") => (Lead::Query, Clause::List(Access::Read)),
            () if lexeme.is_word("insert") => (Lead::Insert, Clause::Other),
            () if lexeme.is_word("update") => (Lead::Update, Clause::Next(Access::Write)),
            () if lexeme.is_word("delete") => (Lead::Delete, Clause::Other),
            () if lexeme.is_word("merge") => (Lead::Merge, Clause::Other),
            () if lexeme.is_word("copy") => match self.lexer.peek().token {
                Token::Open => (Lead::Copy, Clause::Other),
                _ => (Lead::Copy, Clause::Next(Access::Read)),
            },
            () if lexeme.is_word("truncate") => (Lead::Other, Clause::List(Access::Write)),
            () if lexeme.is_word("lock") => (Lead::Other, Clause::List(Access::Read)),
            () if lexeme.is_one_of(&["vacuum", "analyze", "analyse", "cluster", "refresh"]) => {
                self.options();
                (Lead::Other, Clause::List(Access::Define))
            }
            () if lexeme.is_word("reindex") => {
                self.options();
                match self.lexer.peek().is_word("table") {
                    true => (Lead::Other, Clause::List(Access::Define)),
                    false => (Lead::Other, Clause::Other),
                }
            }
            () if lexeme.is_one_of(&[
                "create", "alter", "drop", "comment", "grant", "revoke", "security",
            ]) =>
            {
                (Lead::Define, Clause::Other)
            }
            () if lexeme.is_word("explain") => {
                self.options();
                (Lead::Explain, Clause::Other)
            }
            () if matches!(self.frame().lead, Lead::Explain) => return,
            () if lexeme.is_one_of(&["prepare", "declare"]) => (Lead::Prepare, Clause::Other),
            () if matches!(self.frame().lead, Lead::Prepare) => return,
            () => {
                self.found.is_all &= !lexeme.is_one_of(&["do", "call", "execute"]);
                (Lead::Other, Clause::Other)
            }
        };
        let frame = self.frame();
        frame.lead = lead;
        frame.clause = clause;
    }

    /// Options between a verb and what it is about: `(ANALYZE, VERBOSE)`, `FULL`.
    fn options(&mut self) {
        let words = [
            "full",
            "freeze",
            "verbose",
            "analyze",
            "analyse",
            "concurrently",
            "materialized",
            "view",
        ];
        loop {
            let next = self.lexer.peek();
            if next.is_one_of(&words) {
                self.lexer.next();
            } else if next.token == Token::Open {
                let ahead = self.lexer.clone();
                self.lexer.next();
                if self.lexer.peek().is_one_of(&QUERIES) {
                    self.lexer = ahead;
                    return;
                }
                while !matches!(
                    self.lexer.next().token,
                    Token::Close | Token::End | Token::Bad
                ) {}
            } else {
                return;
            }
        }
    }
}
