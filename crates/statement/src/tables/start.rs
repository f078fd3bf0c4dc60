//! What the first words of a statement say about the names behind them.
//!
//! Owns: which verb takes which kind of access, and where definitions have their tables. Does not own: finding the
//! names (`super`).

use super::{Access, Clause, ENDS, Finder, Lead, QUERIES, is, is_one};
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
        if is(lexeme, "as") && is_one(&next, &["select", "with", "table", "values"]) {
            frame.lead = Lead::Start;
            return Some(Clause::Other);
        }
        if is(lexeme, "as") && next.token == Token::Open {
            frame.lead = Lead::Query;
            return Some(Clause::WithBody);
        }
        if is_one(lexeme, &["table", "view"]) {
            return Some(Clause::List(Access::Define));
        }
        // CREATE INDEX … ON, CREATE TRIGGER … ON, COMMENT ON TABLE, GRANT … ON.
        if is(lexeme, "on") {
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
            if is_one(&next, &others) {
                frame.is_of_other = !is_one(&next, &["delete", "update", "commit"]);
                return Some(Clause::Other);
            }
            return Some(Clause::List(Access::Define));
        }
        if is_one(lexeme, &["references", "of"]) && !is(&next, "type") {
            return Some(Clause::Next(Access::Read));
        }
        if is_one(
            lexeme,
            &[
                "function",
                "procedure",
                "routine",
                "aggregate",
                "operator",
                "do",
            ],
        ) {
            // What a function does is not followed, wherever it stands.
            frame.is_of_other = true;
            self.found.is_all &= !is_one(lexeme, &["function", "procedure", "do"]);
            return Some(Clause::Other);
        }
        is_one(lexeme, &ENDS).then_some(Clause::Other)
    }

    /// The first word of a statement, or of what may be one.
    pub(super) fn lead(&mut self, lexeme: &Lexeme<'_>) {
        let (lead, clause) = match () {
            () if is(lexeme, "with") => {
                self.frame().lead = Lead::Start;
                self.frame().is_recursive = false;
                self.frame().clause = Clause::With {
                    is_recursive: false,
                };
                return;
            }
            () if is_one(lexeme, &["select", "values"]) => (Lead::Query, Clause::Other),
            () if is(lexeme, "table") => (Lead::Query, Clause::List(Access::Read)),
            () if is(lexeme, "insert") => (Lead::Insert, Clause::Other),
            () if is(lexeme, "update") => (Lead::Update, Clause::Next(Access::Write)),
            () if is(lexeme, "delete") => (Lead::Delete, Clause::Other),
            () if is(lexeme, "merge") => (Lead::Merge, Clause::Other),
            () if is(lexeme, "copy") => match self.lexer.peek().token {
                Token::Open => (Lead::Copy, Clause::Other),
                _ => (Lead::Copy, Clause::Next(Access::Read)),
            },
            () if is(lexeme, "truncate") => (Lead::Other, Clause::List(Access::Write)),
            () if is(lexeme, "lock") => (Lead::Other, Clause::List(Access::Read)),
            () if is_one(
                lexeme,
                &["vacuum", "analyze", "analyse", "cluster", "refresh"],
            ) =>
            {
                self.options();
                (Lead::Other, Clause::List(Access::Define))
            }
            () if is(lexeme, "reindex") => {
                self.options();
                match is(&self.lexer.peek(), "table") {
                    true => (Lead::Other, Clause::List(Access::Define)),
                    false => (Lead::Other, Clause::Other),
                }
            }
            () if is_one(
                lexeme,
                &[
                    "create", "alter", "drop", "comment", "grant", "revoke", "security",
                ],
            ) =>
            {
                (Lead::Define, Clause::Other)
            }
            () if is(lexeme, "explain") => {
                self.options();
                (Lead::Explain, Clause::Other)
            }
            () if matches!(self.frame().lead, Lead::Explain) => return,
            () if is_one(lexeme, &["prepare", "declare"]) => (Lead::Prepare, Clause::Other),
            () if matches!(self.frame().lead, Lead::Prepare) => return,
            () => {
                self.found.is_all &= !is_one(lexeme, &["do", "call", "execute"]);
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
            if is_one(&next, &words) {
                self.lexer.next();
            } else if next.token == Token::Open {
                let ahead = self.lexer.clone();
                self.lexer.next();
                if is_one(&self.lexer.peek(), &QUERIES) {
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
