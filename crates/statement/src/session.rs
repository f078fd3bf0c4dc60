//! Statements that are commands to the session: `SET`, `RESET`, `SHOW`, `DISCARD`, `DEALLOCATE`.
//!
//! Owns: what each of their forms does, and the value that a `SET` leaves, in the words in which
//! `set_config` takes it (`flatten_set_variable_args`, `guc_funcs.c`). What is not a form of the
//! grammar is refused by PostgreSQL, and may be read as anything.

use crate::{
    Effects, Exact, Lead,
    lexer::{Lexeme, Lexer, Token},
    words::{self, Word},
};

pub(crate) struct Command {
    pub(crate) lead: Lead,
    pub(crate) effects: Effects,
    /// Set only when nothing follows it but the end of the text.
    pub(crate) exact: Option<Exact>,
}

impl Command {
    fn new(lead: Lead, effects: Effects) -> Self {
        Self {
            lead,
            effects,
            exact: None,
        }
    }
}

/// Reads on from behind the word that leads.
pub(crate) fn read(lead: Word, lexer: &mut Lexer<'_>, custom: &mut Vec<String>) -> Command {
    let mut command = match lead {
        Word::Set => set(lexer, custom),
        Word::Reset => reset(lexer, custom),
        Word::Show => {
            name_of_setting(lexer, custom);
            Command::new(Lead::Show, Effects::NONE)
        }
        Word::Discard => discard(lexer),
        _ => deallocate(lexer),
    };
    if !is_over(lexer) {
        command.exact = None;
    }
    command
}

/// Whether nothing follows but the end: further empty statements do not count.
pub(crate) fn is_over(lexer: &mut Lexer<'_>) -> bool {
    loop {
        match lexer.next().token {
            Token::Semicolon => {}
            token => return token == Token::End,
        }
    }
}

/// A change of one setting, unless the setting is of a kind that is no value to be carried.
pub(crate) fn exact_set(name: String, value: String) -> Option<Exact> {
    (!is_of_transaction(&name)).then(|| Exact::Set(vec![(name, value)]))
}

/// What lasts of a change of the setting `name`, in lower case.
fn lasting(name: &str) -> Effects {
    match name {
        "role" | "session_authorization" => Effects::ROLE,
        "seed" => Effects::SEED,
        _ => Effects::SETTINGS,
    }
}

/// Settings that are no state of the session, whatever the server says.
fn is_of_transaction(name: &str) -> bool {
    matches!(
        name,
        "transaction_isolation" | "transaction_read_only" | "transaction_deferrable"
    )
}

/// How long a `SET` holds.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Scope {
    Session,
    Transaction,
}

fn set(lexer: &mut Lexer<'_>, custom: &mut Vec<String>) -> Command {
    let mut scope = Scope::Session;
    let mut first = lexer.next();
    let mut word = keyword(first, lexer);
    if matches!(word, Word::Local | Word::Session) {
        let follows = keyword(lexer.peek(), &after_next(lexer));
        if word == Word::Local {
            scope = Scope::Transaction;
        }
        // SET SESSION CHARACTERISTICS, SET SESSION AUTHORIZATION are forms of their own.
        let own =
            word == Word::Session && matches!(follows, Word::Characteristics | Word::Authorization);
        if !own {
            first = lexer.next();
            word = keyword(first, lexer);
        }
    }
    let mut command = match word {
        Word::Constraints => {
            let runs_triggers = Effects::TOUCHES | Effects::EVALUATES;
            return Command::new(Lead::SetConstraints, runs_triggers);
        }
        Word::Transaction => Command::new(Lead::Set, Effects::NONE),
        Word::Session => characteristics_or_authorization(lexer),
        Word::Role => Command::new(Lead::Set, Effects::ROLE),
        Word::Time => {
            lexer.next();
            single("timezone", zone(lexer))
        }
        Word::Names => single("client_encoding", encoding(lexer)),
        Word::Schema => single("search_path", text(lexer, "search_path")),
        Word::Xml => {
            lexer.next();
            let option = str::from_utf8(lexer.next().raw).ok();
            single(
                "xmloption",
                option.map(|text| Value::Text(text.to_ascii_uppercase())),
            )
        }
        _ => generic(first, lexer, custom),
    };
    if scope == Scope::Transaction {
        command.exact = match command.exact {
            Some(Exact::Reset(name)) => Some(Exact::ResetLocal(name)),
            _ => None,
        };
        // The seed is not given back.
        let seeds = command.effects.intersects(Effects::SEED);
        command.effects = if seeds { Effects::SEED } else { Effects::NONE };
    }
    command
}

/// The keyword that a special form begins with; none when it is a setting's name, as in
/// `SET session.user = …` or `SET role TO …`.
fn keyword(lexeme: Lexeme<'_>, behind: &Lexer<'_>) -> Word {
    let next = behind.peek();
    let is_setting =
        matches!(next.token, Token::Dot | Token::Equals) || words::find(next.raw).0 == Word::To;
    match lexeme.token {
        Token::Word if !is_setting => words::find(lexeme.raw).0,
        _ => Word::Name,
    }
}

fn after_next<'a>(lexer: &Lexer<'a>) -> Lexer<'a> {
    let mut behind = lexer.clone();
    behind.next();
    behind
}

/// What a setting is given.
enum Value {
    Text(String),
    Default,
}

fn single(name: &str, value: Option<Value>) -> Command {
    let mut command = Command::new(Lead::Set, lasting(name));
    command.exact = match value {
        Some(Value::Text(text)) => exact_set(name.to_owned(), text),
        Some(Value::Default) if !is_of_transaction(name) => Some(Exact::Reset(name.to_owned())),
        _ => None,
    };
    if command.effects != Effects::SETTINGS {
        command.exact = None;
    }
    command
}

fn generic(first: Lexeme<'_>, lexer: &mut Lexer<'_>, custom: &mut Vec<String>) -> Command {
    let Some(name) = dotted(first, lexer, custom) else {
        return Command::new(Lead::Set, Effects::SETTINGS | Effects::UNNAMED);
    };
    let sign = lexer.next();
    let assigns = sign.token == Token::Equals || words::find(sign.raw).0 == Word::To;
    // Otherwise FROM CURRENT.
    let value = if assigns { values(&name, lexer) } else { None };
    single(&name, value)
}

/// A name of a setting that begins with `first`, in lower case.
fn dotted(first: Lexeme<'_>, lexer: &mut Lexer<'_>, custom: &mut Vec<String>) -> Option<String> {
    let mut name = first.name()?;
    while lexer.peek().token == Token::Dot {
        lexer.next();
        name = format!("{name}.{}", lexer.next().name()?);
    }
    let name = name.to_ascii_lowercase();
    if name.contains('.') {
        custom.push(name.clone());
    }
    Some(name)
}

fn name_of_setting(lexer: &mut Lexer<'_>, custom: &mut Vec<String>) -> Option<String> {
    let first = lexer.next();
    dotted(first, lexer, custom)
}

/// `DEFAULT`, or a list of values, joined as PostgreSQL joins them.
fn values(name: &str, lexer: &mut Lexer<'_>) -> Option<Value> {
    if words::find(lexer.peek().raw).0 == Word::Default {
        lexer.next();
        return Some(Value::Default);
    }
    let mut joined = value(name, lexer)?;
    while lexer.peek().token == Token::Comma {
        lexer.next();
        joined.push_str(", ");
        joined.push_str(&value(name, lexer)?);
    }
    Some(Value::Text(joined))
}

fn value(name: &str, lexer: &mut Lexer<'_>) -> Option<String> {
    let first = lexer.next();
    match first.token {
        Token::Text | Token::DollarText | Token::ObscureText => shown(name, first.text()?),
        Token::Word | Token::Quoted => shown(name, first.name()?),
        Token::Number => number(first, ""),
        Token::Minus => number(lexer.next(), "-"),
        Token::Plus => number(lexer.next(), ""),
        _ => None,
    }
}

/// Settings whose values are lists of names, each quoted where it needs to be. Extensions cannot
/// define such. `variable_is_guc_list_quote`, `dumputils.c`.
const NAME_LISTS: [&str; 6] = [
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
];

fn shown(setting: &str, value: String) -> Option<String> {
    if !NAME_LISTS.contains(&setting) {
        return Some(value);
    }
    Some(match words::is_quoted_when_shown(&value)? {
        true => format!("\"{}\"", value.replace('"', "\"\"")),
        false => value,
    })
}

/// Whole numbers that fit 32 bits are read and written anew; longer ones and those with a point
/// stay as they are. Other notations differ between versions.
fn number(lexeme: Lexeme<'_>, sign: &str) -> Option<String> {
    let text = str::from_utf8(lexeme.raw).ok()?;
    let digits = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    if lexeme.token != Token::Number || !digits {
        return None;
    }
    match text.parse::<i32>() {
        Ok(0) if !sign.is_empty() => None,
        Ok(number) => Some(format!("{sign}{number}")),
        Err(_) => Some(format!("{sign}{text}")),
    }
}

/// `SET TIME ZONE …`: a name, a number of hours, `LOCAL` or `DEFAULT`.
fn zone(lexer: &mut Lexer<'_>) -> Option<Value> {
    match words::find(lexer.peek().raw).0 {
        Word::Default | Word::Local => {
            lexer.next();
            Some(Value::Default)
        }
        // INTERVAL '…' is followed by more, so it is not over.
        _ => value("timezone", lexer).map(Value::Text),
    }
}

/// `SET NAMES …`: a string, `DEFAULT` or nothing.
fn encoding(lexer: &mut Lexer<'_>) -> Option<Value> {
    let next = lexer.peek();
    match next.token {
        Token::End | Token::Semicolon => Some(Value::Default),
        Token::Word if words::find(next.raw).0 == Word::Default => {
            lexer.next();
            Some(Value::Default)
        }
        _ => text(lexer, "client_encoding"),
    }
}

fn text(lexer: &mut Lexer<'_>, setting: &str) -> Option<Value> {
    let text = lexer.next().text()?;
    shown(setting, text).map(Value::Text)
}

/// Behind `SET SESSION`.
fn characteristics_or_authorization(lexer: &mut Lexer<'_>) -> Command {
    if words::find(lexer.next().raw).0 != Word::Characteristics {
        let mut command = Command::new(Lead::Set, Effects::ROLE);
        if words::find(lexer.peek().raw).0 == Word::Default {
            lexer.next();
            command.exact = Some(Exact::ResetAuthorization);
        }
        return command;
    }
    let mut command = Command::new(Lead::Set, Effects::SETTINGS);
    // AS TRANSACTION
    lexer.next();
    lexer.next();
    command.exact = transaction_modes(lexer).map(Exact::Set);
    command
}

/// The defaults that transaction modes, with or without commas between them, become.
fn transaction_modes(lexer: &mut Lexer<'_>) -> Option<Vec<(String, String)>> {
    let mut modes = Vec::new();
    let next_word = |lexer: &mut Lexer<'_>| {
        let lexeme = lexer.next();
        (lexeme.token == Token::Word)
            .then(|| lexeme.name())
            .flatten()
    };
    loop {
        match lexer.peek().token {
            Token::End | Token::Semicolon => return (!modes.is_empty()).then_some(modes),
            Token::Comma => {
                lexer.next();
                continue;
            }
            _ => {}
        }
        let (name, value) = match next_word(lexer)?.as_str() {
            "isolation" => {
                next_word(lexer).filter(|word| word == "level")?;
                let level = match next_word(lexer)?.as_str() {
                    "serializable" => "serializable",
                    "repeatable" => {
                        next_word(lexer)?;
                        "repeatable read"
                    }
                    "read" => match next_word(lexer)?.as_str() {
                        "committed" => "read committed",
                        _ => "read uncommitted",
                    },
                    _ => return None,
                };
                ("default_transaction_isolation", level)
            }
            "read" => {
                let only = next_word(lexer)? == "only";
                (
                    "default_transaction_read_only",
                    if only { "on" } else { "off" },
                )
            }
            "deferrable" => ("default_transaction_deferrable", "on"),
            "not" => {
                next_word(lexer)?;
                ("default_transaction_deferrable", "off")
            }
            _ => return None,
        };
        modes.push((name.to_owned(), value.to_owned()));
    }
}

fn reset(lexer: &mut Lexer<'_>, custom: &mut Vec<String>) -> Command {
    let first = lexer.next();
    let mut command = Command::new(Lead::Reset, Effects::SETTINGS);
    match keyword(first, lexer) {
        Word::All => command.exact = Some(Exact::ResetAll),
        Word::Time => {
            lexer.next();
            command.exact = Some(Exact::Reset("timezone".to_owned()));
        }
        // TRANSACTION ISOLATION LEVEL
        Word::Transaction => {}
        Word::Session => {
            command.effects = Effects::ROLE;
            let is_authorization = words::find(lexer.next().raw).0 == Word::Authorization;
            command.exact = is_authorization.then_some(Exact::ResetAuthorization);
        }
        _ => match dotted(first, lexer, custom) {
            Some(name) => {
                command.effects = lasting(&name);
                let carried = command.effects == Effects::SETTINGS && !is_of_transaction(&name);
                command.exact = carried.then_some(Exact::Reset(name));
            }
            None => command.effects |= Effects::UNNAMED,
        },
    }
    command
}

fn discard(lexer: &mut Lexer<'_>) -> Command {
    let (exact, effects) = match words::find(lexer.next().raw).0 {
        Word::Plans => (Some(Exact::DiscardPlans), Effects::NONE),
        Word::Sequences => (Some(Exact::DiscardSequences), Effects::NONE),
        Word::Temp | Word::Temporary => (Some(Exact::DiscardTemp), Effects::TEMP),
        Word::All => (
            Some(Exact::DiscardAll),
            Effects::SETTINGS
                | Effects::TEMP
                | Effects::LISTEN
                | Effects::ADVISORY
                | Effects::HOLD
                | Effects::DEALLOCATE
                | Effects::ROLE,
        ),
        _ => (None, Effects::NONE),
    };
    Command {
        lead: Lead::Discard,
        effects: effects | Effects::DISCARD,
        exact,
    }
}

fn deallocate(lexer: &mut Lexer<'_>) -> Command {
    let mut name = lexer.next();
    let noise = words::find(name.raw).0 == Word::Prepare;
    if noise && !matches!(lexer.peek().token, Token::End | Token::Semicolon) {
        name = lexer.next();
    }
    let all = name.token == Token::Word && words::find(name.raw).0 == Word::All;
    let mut command = Command::new(Lead::Deallocate, Effects::DEALLOCATE);
    command.exact = match all {
        true => Some(Exact::DeallocateAll),
        false => name.name().map(Exact::Deallocate),
    };
    command
}
