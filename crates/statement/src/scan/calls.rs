//! Calls of functions: a name before an opening parenthesis.
//!
//! Owns: which of them are calls, what is called, and the arguments of `set_config`.

use super::{Scan, Seen, Source};
use crate::{
    Effects, Lead, Statements,
    functions::{self, Known},
    lexer::{Lexer, Token},
    session,
    words::{self, Word},
};

/// How far the arguments of one call are looked at. Nested calls would otherwise be read again
/// at every level; what is written by people ends long before.
const ARGUMENT_TOKENS_MAX: usize = 64;

impl Scan<'_> {
    /// An opening parenthesis: a call, when a name stands before it.
    pub(super) fn open(&mut self) {
        let [name, second, third] = self.before.latest();
        let qualified = second.token == Token::Dot;
        if name.word == Word::Operator && !qualified {
            self.operator();
            return;
        }
        // No statement begins with a call: EXPLAIN (…), VACUUM (…).
        let leads = self.source == Source::Client && self.statement.tokens == 2;
        if !name.callable || leads || (!qualified && is_no_call(name.word, second)) {
            return;
        }
        let catalog = !qualified || self.again(third).is_name("pg_catalog");
        let name = self.again(name);
        let known = functions::find(name.unquoted(), name.token == Token::Word);
        if !catalog || known == Known::No {
            self.effects |= Effects::CALLS;
        }
        match known {
            Known::Special(_) if name.is_name("set_config") => self.set_config(),
            Known::Special(_) if name.is_name("current_setting") => {
                let mut arguments = self.lexer.clone();
                self.mention(arguments.next().text());
            }
            Known::Special(effects) => self.effects |= effects,
            Known::Harmless | Known::No => {}
        }
    }

    /// `OPERATOR(schema.+)`; anything else in it is a function called `operator`.
    fn operator(&mut self) {
        let mut lexer = self.lexer.clone();
        let catalog = lexer.next().is_name("pg_catalog") && lexer.next().token == Token::Dot;
        if !catalog {
            self.effects |= Effects::CALLS;
        }
    }

    fn mention(&mut self, name: Option<String>) {
        self.custom.extend(
            name.filter(|name| name.contains('.'))
                .map(|name| name.to_ascii_lowercase()),
        );
    }

    /// `set_config(name, value, is_local)`, from behind its parenthesis.
    fn set_config(&mut self) {
        let arguments = Arguments::of(&mut self.lexer.clone());
        let name = arguments.name.map(|name| name.to_ascii_lowercase());
        self.mention(name.clone());
        match (name.as_deref(), arguments.local) {
            (Some("seed"), _) => self.effects |= Effects::SEED,
            (_, true) => {}
            (Some("role" | "session_authorization"), _) => self.effects |= Effects::ROLE,
            (Some(_), _) => {
                self.effects |= Effects::SETTINGS;
                self.exact_set_config();
            }
            (None, _) => self.effects |= Effects::SETTINGS | Effects::UNNAMED,
        }
    }

    /// When the call is all that the text has.
    fn exact_set_config(&mut self) {
        let [name, second, third] = self.before.latest();
        let alone = match second.token {
            Token::Dot => self.statement.tokens == 5 && self.again(third).is_name("pg_catalog"),
            _ => self.statement.tokens == 3 && second.word == Word::Select,
        };
        if !alone
            || self.statements != Statements::One
            || self.source != Source::Client
            || self.lead != Lead::Query
            || name.token != Token::Word
        {
            return;
        }
        let mut lexer = self.lexer.clone();
        self.exact = (|| {
            let name = lexer.next().text()?;
            (lexer.next().token == Token::Comma).then_some(())?;
            let value = lexer.next().text()?;
            (lexer.next().token == Token::Comma).then_some(())?;
            (words::find(lexer.next().raw).0 == Word::False).then_some(())?;
            (lexer.next().token == Token::Close).then_some(())?;
            session::is_over(&mut lexer).then_some(())?;
            session::exact_set(name.to_ascii_lowercase(), value)
        })();
    }
}

/// Words before a parenthesis that are part of something else than a call.
fn is_no_call(word: Word, before: Seen) -> bool {
    match word {
        Word::By => matches!(before.word, Word::Order | Word::Group | Word::Partition),
        Word::Over | Word::Filter => before.token == Token::Close,
        // Touches relations anyway.
        Word::Join => true,
        // `… AS name (column, …)`, `CAST(… AS type(modifier))`.
        _ => before.word == Word::As,
    }
}

/// What can be said about the arguments of a call of `set_config`.
struct Arguments {
    /// The first one, when it is a constant.
    name: Option<String>,
    /// The third one is `TRUE`.
    local: bool,
}

impl Arguments {
    fn of(lexer: &mut Lexer<'_>) -> Self {
        let first = lexer.peek();
        let local = Self::third_is_true(&mut lexer.clone());
        lexer.next();
        let alone = lexer.next().token == Token::Comma;
        Self {
            name: first.text().filter(|_| alone),
            local,
        }
    }

    fn third_is_true(lexer: &mut Lexer<'_>) -> bool {
        let (mut depth, mut commas) = (0_u32, 0);
        for _ in 0..ARGUMENT_TOKENS_MAX {
            match lexer.next().token {
                Token::Open | Token::OpenBracket => depth += 1,
                Token::Close | Token::CloseBracket if depth == 0 => return false,
                Token::Close | Token::CloseBracket => depth -= 1,
                Token::Comma if depth == 0 => commas += 1,
                Token::End | Token::Bad | Token::Semicolon => return false,
                _ => {}
            }
            if commas == 2 {
                let third = lexer.next();
                let is_true = words::find(third.raw).0 == Word::True;
                return is_true && lexer.next().token == Token::Close;
            }
        }
        false
    }
}
