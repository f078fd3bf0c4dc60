//! One pass over the tokens of a text.
//!
//! Owns: where statements begin and end, what each begins with, and what the words inside it
//! mean for the session; calls are in `calls`. Does not own: statements that consist of a command
//! to the session (`session`), and what functions do (`functions`).

mod calls;

use std::ops::Range;

use crate::{
    Context, Effects, Exact, Lead, Reading, Statements, Strings,
    lexer::{Lexeme, Lexer, Token},
    session,
    words::{self, Word},
};

/// Whose text it is: the same words are read differently in a function's body.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Source {
    Client,
    /// The body of an SQL function.
    Sql,
    Plpgsql,
}

pub(crate) struct Scan<'a> {
    lexer: Lexer<'a>,
    source: Source,
    effects: Effects,
    custom: Vec<String>,
    exact: Option<Exact>,
    lead: Lead,
    statements: Statements,
    statement: Statement,
    before: Before,
}

#[derive(Clone, Copy)]
struct Seen {
    token: Token,
    word: Word,
    /// Stands where a function's name can stand.
    callable: bool,
    /// Where it ends in the text, and its length.
    end: usize,
    length: usize,
}

/// What is known of the statement that is being read.
#[derive(Default)]
struct Statement {
    /// Tokens read of it.
    tokens: usize,
    /// The next word begins a statement: this one, one inside it, or one of a body.
    at_start: bool,
    /// Consists of a command to the session, which was read already.
    quiet: bool,
    explain: bool,
    /// Could be the head of a function with `BEGIN ATOMIC … END`.
    defines: bool,
    parentheses: u32,
    /// `BEGIN ATOMIC` and every `CASE` inside that did not end yet.
    atomic: u32,
    writes: bool,
    /// `COPY`; which way is not known yet.
    copies: bool,
    pg_settings: bool,
}

impl Statement {
    fn new() -> Self {
        Self {
            at_start: true,
            ..Self::default()
        }
    }
}

const NOTHING: Seen = Seen {
    token: Token::End,
    word: Word::Name,
    callable: false,
    end: 0,
    length: 0,
};

/// The tokens just read, in a ring: moving them along would cost more than reading them.
struct Before {
    seen: [Seen; 4],
    /// Of the latest.
    at: usize,
}

impl Default for Before {
    fn default() -> Self {
        Self {
            seen: [NOTHING; 4],
            at: 0,
        }
    }
}

impl Before {
    fn push(&mut self, seen: Seen) {
        self.at = (self.at + 1) % 4;
        self.seen[self.at] = seen;
    }

    fn last(&self) -> &Seen {
        &self.seen[self.at % 4]
    }

    /// The last three, the latest first.
    fn latest(&self) -> [Seen; 3] {
        [0, 1, 2].map(|back| self.seen[(self.at + 4 - back) % 4])
    }
}

impl<'a> Scan<'a> {
    pub(crate) fn client(text: &'a [u8], context: Context) -> Reading {
        Self::new(text, Source::Client, context.strings).read()
    }

    /// What running a body may do, with the custom settings it names.
    pub(crate) fn body(text: &'a [u8], source: Source) -> (Effects, Vec<String>) {
        // It runs under whatever setting its caller has.
        let reading = Self::new(text, source, Strings::Undecided).read();
        (reading.effects, reading.custom)
    }

    fn new(text: &'a [u8], source: Source, strings: Strings) -> Self {
        Self {
            lexer: Lexer::new(text, strings),
            source,
            effects: Effects::NONE,
            custom: Vec::new(),
            exact: None,
            lead: Lead::Nothing,
            statements: Statements::None,
            statement: Statement::new(),
            before: Before::default(),
        }
    }

    fn read(mut self) -> Reading {
        loop {
            let lexeme = self.lexer.next();
            match lexeme.token {
                Token::End => break,
                Token::Bad => {
                    if self.begin_if_new() && self.lead == Lead::Nothing {
                        self.lead = Lead::Unknown;
                    }
                    self.effects |= Effects::UNKNOWN;
                    self.exact = None;
                    break;
                }
                Token::Semicolon => self.semicolon(lexeme),
                _ => self.token(lexeme),
            }
        }
        self.end_statement();
        Reading {
            statements: self.statements,
            lead: self.lead,
            effects: self.effects,
            exact: self.exact,
            custom: self.custom,
        }
    }

    /// Where statements are.
    pub(crate) fn split(text: &'a [u8], context: Context) -> Option<Vec<Range<usize>>> {
        let mut scan = Self::new(text, Source::Client, context.strings);
        let mut all = Vec::new();
        // Of the statement that is being read.
        let mut own: Option<Range<usize>> = None;
        loop {
            let lexeme = scan.lexer.next();
            let end = scan.lexer.position();
            match lexeme.token {
                Token::Bad => return None,
                Token::End => {
                    all.extend(own);
                    return Some(all);
                }
                Token::Semicolon => scan.semicolon(lexeme),
                _ => scan.token(lexeme),
            }
            if scan.statement.tokens == 0 {
                all.extend(own.take());
            } else {
                let from = end - lexeme.raw.len();
                own.get_or_insert(from..end).end = end;
            }
        }
    }

    fn semicolon(&mut self, lexeme: Lexeme<'a>) {
        if self.statement.parentheses > 0 || self.statement.atomic > 0 {
            // Of the actions of a rule, or of the body of a function.
            self.statement.at_start = true;
            self.remember(lexeme, Word::Name, false);
        } else {
            self.end_statement();
        }
    }

    fn end_statement(&mut self) {
        if self.statement.pg_settings && self.statement.writes {
            self.effects |= Effects::SETTINGS;
        }
        self.statement = Statement::new();
        self.before = Before::default();
    }

    /// Counts the statement when its first token is met.
    fn begin_if_new(&mut self) -> bool {
        self.statement.tokens += 1;
        if self.statement.tokens > 1 {
            return false;
        }
        self.statements = match self.statements {
            Statements::None => Statements::One,
            Statements::One | Statements::Several => Statements::Several,
        };
        if self.statements == Statements::Several {
            self.exact = None;
        }
        true
    }

    fn token(&mut self, lexeme: Lexeme<'a>) {
        let first = self.begin_if_new();
        let (word, never_function) = match lexeme.token {
            Token::Word if self.before.last().token != Token::Dot => words::find(lexeme.raw),
            _ => (Word::Name, false),
        };
        let callable = match lexeme.token {
            Token::Word => !never_function,
            Token::Quoted => true,
            _ => false,
        };
        if self.statement.at_start && (first || lexeme.token == Token::Word) {
            let lead = self.start(lexeme, word);
            if first && self.lead == Lead::Nothing {
                self.lead = lead;
            }
        }
        if !self.statement.quiet {
            self.inside(lexeme, word);
        }
        self.remember(lexeme, word, callable);
    }

    fn remember(&mut self, lexeme: Lexeme<'a>, word: Word, callable: bool) {
        self.before.push(Seen {
            token: lexeme.token,
            word,
            callable,
            end: self.lexer.position(),
            length: lexeme.raw.len(),
        });
    }

    fn again(&self, seen: Seen) -> Lexeme<'a> {
        self.lexer.again(seen.token, seen.end, seen.length)
    }

    /// The first word of a statement.
    fn start(&mut self, lexeme: Lexeme<'a>, word: Word) -> Lead {
        self.statement.at_start = false;
        let (lead, effects) = match (lexeme.token, word) {
            (Token::Open, _) => {
                self.statement.at_start = true;
                (Lead::Query, Effects::EVALUATES)
            }
            (_, Word::Select | Word::Values | Word::With) => (Lead::Query, Effects::EVALUATES),
            (_, Word::Table) => (Lead::Query, Effects::EVALUATES | Effects::TOUCHES),
            (_, Word::Insert | Word::Update | Word::Delete | Word::Merge) => {
                (Lead::Change, Effects::EVALUATES)
            }
            (_, Word::Begin | Word::Start) if self.is_whole() => {
                self.quiet(Lead::Begin, Effects::TRANSACTION)
            }
            (_, Word::Commit | Word::End) if self.is_whole() => {
                self.quiet(Lead::Commit, Effects::TRANSACTION)
            }
            (_, Word::Rollback | Word::Abort) if self.is_whole() => {
                self.quiet(Lead::Rollback, Effects::TRANSACTION)
            }
            (_, Word::Savepoint | Word::Release) => {
                self.quiet(Lead::Savepoint, Effects::TRANSACTION)
            }
            (_, Word::Set | Word::Reset | Word::Show | Word::Discard | Word::Deallocate) => {
                self.command(word)
            }
            (_, Word::Prepare) => self.prepare(),
            (_, Word::Execute) => {
                self.exact_at_first(|lexer| Some(Exact::Execute(lexer.next().name()?)));
                (Lead::Execute, Effects::RUNS | Effects::EVALUATES)
            }
            (_, Word::Declare) => (Lead::Declare, Effects::EVALUATES),
            (_, Word::Fetch | Word::Move) => self.quiet(Lead::Fetch, Effects::NONE),
            // In a body it closes what the body opened, or lets go.
            (_, Word::Close) if self.source != Source::Client => (Lead::Close, Effects::NONE),
            (_, Word::Close) => self.quiet(Lead::Close, Effects::HOLD),
            (_, Word::Listen) => self.quiet(Lead::Listen, Effects::LISTEN),
            (_, Word::Unlisten) => self.quiet(Lead::Unlisten, Effects::LISTEN),
            (_, Word::Notify) => self.quiet(Lead::Notify, Effects::NONE),
            (_, Word::Load) => self.quiet(Lead::Load, Effects::LOAD),
            (_, Word::Lock) => self.quiet(Lead::Lock, Effects::NONE),
            (_, Word::Checkpoint) => self.quiet(Lead::Maintain, Effects::NONE),
            (_, Word::Copy) => {
                self.statement.copies = true;
                let effects = Effects::COPY | Effects::TOUCHES | Effects::WRITES;
                (Lead::Copy, effects | Effects::EVALUATES)
            }
            (_, Word::Explain) => {
                self.statement.explain = true;
                (Lead::Explain, Effects::EVALUATES)
            }
            (_, Word::Call) => (Lead::Call, Effects::CALLS | Effects::EVALUATES),
            (_, Word::Do) => (Lead::Do, self.anonymous_block()),
            (_, Word::Create | Word::Import) => self.define(Effects::TEMP | Effects::GROWS),
            (_, Word::Drop) => self.define(Effects::TEMP),
            (
                _,
                Word::Alter
                | Word::Grant
                | Word::Revoke
                | Word::Comment
                | Word::Security
                | Word::Reassign,
            ) => self.define(Effects::NONE),
            (_, Word::Truncate) => (
                Lead::Maintain,
                Effects::TOUCHES | Effects::EVALUATES | Effects::WRITES,
            ),
            (_, Word::Vacuum | Word::Analyze | Word::Analyse | Word::Cluster | Word::Reindex) => {
                (Lead::Maintain, Effects::TOUCHES | Effects::EVALUATES)
            }
            (_, Word::Refresh) => (
                Lead::Maintain,
                Effects::TOUCHES | Effects::EVALUATES | Effects::GROWS,
            ),
            // A body has many words that begin no SQL.
            _ if !self.is_whole() => (Lead::Unknown, Effects::NONE),
            _ => (Lead::Unknown, Effects::UNKNOWN),
        };
        self.effects |= effects;
        lead
    }

    /// A statement that holds no expression and no name of a relation that it would look into.
    fn quiet(&mut self, lead: Lead, effects: Effects) -> (Lead, Effects) {
        self.statement.quiet = self.is_whole();
        (lead, effects)
    }

    /// A statement of its own and not one inside another, or in a body, where any word may follow
    /// its first.
    fn is_whole(&self) -> bool {
        self.source == Source::Client && self.statement.tokens == 1
    }

    fn define(&mut self, effects: Effects) -> (Lead, Effects) {
        self.statement.defines = true;
        let effects = effects | Effects::DDL | Effects::TOUCHES | Effects::EVALUATES;
        let extension = match words::find(self.lexer.peek().raw).0 {
            // Its scripts are SQL that somebody else wrote.
            Word::Extension => Effects::RUNS | Effects::UNNAMED | Effects::SETTINGS,
            _ => Effects::NONE,
        };
        (Lead::Define, effects | extension)
    }

    fn command(&mut self, word: Word) -> (Lead, Effects) {
        let mut lexer = self.lexer.clone();
        let command = session::read(word, &mut lexer, &mut self.custom);
        if self.is_first() {
            self.exact = command.exact;
        }
        self.quiet(command.lead, command.effects)
    }

    fn prepare(&mut self) -> (Lead, Effects) {
        if words::find(self.lexer.peek().raw).0 == Word::Transaction {
            return self.quiet(Lead::PrepareTransaction, Effects::TRANSACTION);
        }
        self.exact_at_first(|lexer| Some(Exact::Prepare(lexer.next().name()?)));
        (Lead::Prepare, Effects::PREPARE | Effects::EVALUATES)
    }

    fn exact_at_first(&mut self, exact: impl FnOnce(&mut Lexer<'a>) -> Option<Exact>) {
        if self.is_first() {
            self.exact = exact(&mut self.lexer.clone());
        }
    }

    /// The first statement, so that what it says may be all there is.
    fn is_first(&self) -> bool {
        self.is_whole() && self.statements == Statements::One
    }

    /// What the text of a `DO` shows of itself. Its language may be any.
    fn anonymous_block(&mut self) -> Effects {
        let mut effects = Effects::RUNS | Effects::EVALUATES;
        if self.source != Source::Client {
            // One body inside another is not read.
            return effects | Effects::UNNAMED;
        }
        let mut lexer = self.lexer.clone();
        loop {
            let lexeme = lexer.next();
            match lexeme.token {
                Token::End | Token::Semicolon => return effects,
                Token::Text | Token::DollarText | Token::ObscureText => match lexeme.body() {
                    Some(text) => {
                        let (inside, custom) = Scan::body(&text, Source::Plpgsql);
                        effects |= inside;
                        self.custom.extend(custom);
                    }
                    None => effects |= Effects::UNKNOWN,
                },
                Token::Word if words::find(lexeme.raw).0 == Word::Language => {
                    if !lexer.next().is_name("plpgsql") {
                        effects |= Effects::UNKNOWN;
                    }
                }
                _ => effects |= Effects::UNKNOWN,
            }
        }
    }

    /// A name that may be one of PostgreSQL's own that read or change the session.
    fn relation(&mut self, lexeme: &Lexeme<'a>) {
        if lexeme.is_name("pg_settings") {
            self.statement.pg_settings = true;
        } else if lexeme.is_name("pg_prepared_statements") {
            self.effects |= Effects::SHOWS_PREPARED;
        }
    }

    /// Any token of a statement that is looked into.
    fn inside(&mut self, lexeme: Lexeme<'a>, word: Word) {
        match lexeme.token {
            Token::Word if word == Word::Name => {
                self.relation(&lexeme);
            }
            Token::Word => self.word(word),
            Token::Quoted => self.relation(&lexeme),
            Token::Obscure => self.effects |= Effects::UNKNOWN,
            Token::Open => {
                self.statement.parentheses += 1;
                self.open();
            }
            Token::Close => {
                self.statement.parentheses = self.statement.parentheses.saturating_sub(1);
            }
            // `(value).f` and `$1.f` call the function f when the value is a row without such a
            // column.
            Token::Dot => {
                let before = self.before.last().token;
                if matches!(before, Token::Close | Token::Param | Token::CloseBracket) {
                    self.effects |= Effects::CALLS;
                }
            }
            Token::Greater => self.body_start(),
            _ => {}
        }
    }

    /// In a body, statements also begin behind some words, and behind `<<label>>`.
    fn body_start(&mut self) {
        if self.source != Source::Client {
            self.statement.at_start = true;
        }
    }

    fn word(&mut self, word: Word) {
        let before = self.before.last().word;
        match word {
            Word::From | Word::Join | Word::Table => {
                self.effects |= Effects::TOUCHES;
                // Not that of `COPY (SELECT … FROM …) TO`.
                if word == Word::From && self.statement.copies && self.statement.parentheses == 0 {
                    self.effects |= Effects::GROWS;
                }
            }
            Word::Into => {
                self.effects |= Effects::TOUCHES;
                let creates = !matches!(before, Word::Insert | Word::Merge);
                if creates && self.source != Source::Plpgsql {
                    self.effects |= Effects::TEMP | Effects::GROWS;
                }
            }
            Word::Delete => self.writes(),
            Word::Insert | Word::Merge => self.grows(),
            Word::Update => {
                if matches!(before, Word::For | Word::Key) {
                    self.effects |= Effects::TOUCHES;
                } else {
                    self.grows();
                }
            }
            Word::Hold if before == Word::With => self.effects |= Effects::HOLD,
            // What follows the parenthesis of DISTINCT ON looks like what follows a call; none is
            // without relations.
            Word::On if before == Word::Distinct => self.effects |= Effects::TOUCHES,
            Word::Execute => self.execute(before),
            Word::Atomic if before == Word::Begin => {
                if self.statement.defines && self.statement.parentheses == 0 {
                    self.statement.atomic += 1;
                }
                self.statement.at_start = true;
            }
            Word::Case if self.statement.atomic > 0 => self.statement.atomic += 1,
            Word::End if self.statement.atomic > 0 => self.statement.atomic -= 1,
            Word::Begin | Word::Then | Word::Else | Word::Loop => self.body_start(),
            Word::Create if self.source != Source::Client || self.statement.explain => {
                self.effects |= Effects::TEMP | Effects::DDL | Effects::GROWS;
            }
            Word::Do if self.source != Source::Client => {
                let next = self.lexer.peek();
                let conflict = [Word::Nothing, Word::Update].contains(&words::find(next.raw).0);
                if !conflict {
                    self.effects |= Effects::RUNS | Effects::UNNAMED;
                }
            }
            _ => {}
        }
    }

    fn writes(&mut self) {
        self.effects |= Effects::TOUCHES | Effects::WRITES;
        self.statement.writes = true;
    }

    fn grows(&mut self) {
        self.writes();
        // GRANT INSERT, ALTER TABLE … ON UPDATE: a name of what is done to rows, and none is touched.
        if !self.statement.defines {
            self.effects |= Effects::GROWS;
        }
    }

    /// `EXECUTE` behind the first word: of `EXPLAIN` and `CREATE TABLE AS`, or dynamic SQL.
    fn execute(&mut self, before: Word) {
        if self.source == Source::Client {
            if self.statement.explain || before == Word::As {
                self.effects |= Effects::RUNS;
            }
        } else {
            self.effects |= Effects::RUNS | Effects::UNNAMED;
        }
    }
}
