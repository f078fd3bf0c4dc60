//! The beginnings of statements, and those of which only the beginning is shown.
//!
//! Owns: which words can begin a statement, and which statements may carry a secret where no
//! constant stands, or would if PostgreSQL accepted them (`PASSWORD hunter2`).

use super::{BETWEEN, CUT, REST, Shape};
use crate::{
    lexer::{Lexeme, Lexer, Token},
    words::{self, Word},
};

#[derive(Default)]
pub(super) struct Start<'a> {
    state: State,
    /// The first word of the text, when it is one that begins a statement.
    lead: Option<&'a [u8]>,
    /// Another statement was shown already.
    owes_semicolon: bool,
}

#[derive(Clone, Copy, Default, Eq, PartialEq)]
enum State {
    #[default]
    AtStart,
    Reading,
    /// In a `SET`, before its value.
    Setting,
    /// Nothing more of the statement is shown.
    Reduced,
}

/// Words behind `CREATE` and `ALTER` of statements that are reduced to them: what belongs to such
/// objects are passwords and settings.
const SECRETIVE: [&str; 8] = [
    "role",
    "user",
    "group",
    "server",
    "subscription",
    "foreign",
    "system",
    "database",
];
/// Words that may follow those.
const FURTHER: [&str; 4] = ["mapping", "data", "wrapper", "table"];

impl<'a> Start<'a> {
    pub(super) fn lead(&self) -> Option<&'a [u8]> {
        self.lead
    }

    pub(super) fn is_at_start(&self) -> bool {
        self.state == State::AtStart
    }

    pub(super) fn is_reduced(&self) -> bool {
        self.state == State::Reduced
    }

    pub(super) fn reduce(&mut self) {
        self.state = State::Reduced;
    }

    /// Writes what parts this statement from the one before. False when there is none.
    pub(super) fn separate(&mut self, shape: &mut Shape<'_>) -> bool {
        if !self.owes_semicolon || self.state != State::AtStart {
            return false;
        }
        self.owes_semicolon = false;
        shape.put(false, b";");
        shape.mix(BETWEEN);
        shape.mix(b';');
        true
    }

    /// The first token that is no parenthesis.
    pub(super) fn begin(&mut self, lexeme: Lexeme<'a>, shape: &mut Shape<'_>) {
        self.state = match kind(lexeme) {
            Some(Word::Set) => State::Setting,
            Some(_) => State::Reading,
            None => State::Reduced,
        };
        if self.state == State::Reduced {
            let is_apart = !shape.out.is_empty();
            shape.put(is_apart, CUT.as_bytes());
            shape.mix(REST);
        } else {
            self.lead.get_or_insert(lexeme.raw);
        }
    }

    /// Behind the first word: whether the statement is to be reduced, and to what.
    pub(super) fn look_ahead(
        &mut self,
        first: Lexeme<'a>,
        lexer: &mut Lexer<'a>,
        shape: &mut Shape<'_>,
    ) {
        let begins = matches!(words::find(first.raw).0, Word::Create | Word::Alter);
        if !begins || !lexer.peek().is_one_of(&SECRETIVE) {
            return;
        }
        loop {
            shape.word(true, lexer.next().raw);
            if !lexer.peek().is_one_of(&FURTHER) {
                break;
            }
        }
        shape.put(true, CUT.as_bytes());
        shape.mix(REST);
        self.state = State::Reduced;
    }

    /// Whether the value of a `SET` follows this token.
    pub(super) fn is_value_next(&self, lexeme: Lexeme<'_>) -> bool {
        self.state == State::Setting && (lexeme.token == Token::Equals || lexeme.is_name("to"))
    }

    pub(super) fn statement_ends(&mut self, shape: &Shape<'_>) {
        self.state = State::AtStart;
        self.owes_semicolon = !shape.out.is_empty();
    }
}

/// The word, when it begins statements.
fn kind(lexeme: Lexeme<'_>) -> Option<Word> {
    if lexeme.token != Token::Word {
        return None;
    }
    let word = words::find(lexeme.raw).0;
    let begins = matches!(
        word,
        Word::Abort
            | Word::Alter
            | Word::Analyse
            | Word::Analyze
            | Word::Begin
            | Word::Call
            | Word::Checkpoint
            | Word::Close
            | Word::Cluster
            | Word::Comment
            | Word::Commit
            | Word::Copy
            | Word::Create
            | Word::Deallocate
            | Word::Declare
            | Word::Delete
            | Word::Discard
            | Word::Do
            | Word::Drop
            | Word::End
            | Word::Execute
            | Word::Explain
            | Word::Fetch
            | Word::Grant
            | Word::Import
            | Word::Insert
            | Word::Listen
            | Word::Load
            | Word::Lock
            | Word::Merge
            | Word::Move
            | Word::Notify
            | Word::Prepare
            | Word::Reassign
            | Word::Refresh
            | Word::Reindex
            | Word::Release
            | Word::Reset
            | Word::Revoke
            | Word::Rollback
            | Word::Savepoint
            | Word::Security
            | Word::Select
            | Word::Set
            | Word::Show
            | Word::Start
            | Word::Table
            | Word::Truncate
            | Word::Unlisten
            | Word::Update
            | Word::Vacuum
            | Word::Values
            | Word::With
    );
    // Of a body with BEGIN ATOMIC.
    let returns = lexeme.is_name("return");
    (begins || returns).then_some(word)
}
