//! The extended protocol on a console: the same texts, prepared first. As PostgreSQL answers it,
//! without parameters.
//!
//! Owns: prepared commands and portals of one console, and skipping to the Sync after a mistake.

use std::collections::HashMap;

use wire::message::{
    Kind, TransactionStatus,
    build::{self, Severity},
    client, parse,
};

use super::{Answer, Console, Mistake, command::Command, show};

/// Prepared commands of one console, and portals. Drivers prepare one and keep it.
const KEPT_MAX: usize = 64;

/// What one console has prepared.
#[derive(Default)]
pub(super) struct Extended {
    statements: HashMap<Vec<u8>, Command>,
    portals: HashMap<Vec<u8>, Portal>,
    /// After a mistake, until the Sync.
    skips: bool,
}

struct Portal {
    command: Command,
    formats: Vec<i16>,
    /// What it answered, and how many rows were sent.
    answer: Option<(Answer, usize)>,
}

/// The message is malformed: the connection cannot go on.
pub(super) struct Malformed;

impl From<parse::Malformed> for Malformed {
    fn from(_: parse::Malformed) -> Self {
        Self
    }
}

impl Extended {
    /// A simple query ends the unnamed ones.
    pub(super) fn forget_unnamed(&mut self) {
        self.statements.remove(&b""[..]);
        self.portals.clear();
    }
}

/// Takes one message.
///
/// # Errors
///
/// [`Malformed`].
pub(super) async fn take(
    console: &mut Console,
    tag: u8,
    body: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), Malformed> {
    if tag == client::SYNC {
        console.extended.skips = false;
        // The transaction that portals live in is over.
        console.extended.portals.clear();
        build::ready_for_query(TransactionStatus::Idle, out);
        return Ok(());
    }
    if console.extended.skips {
        return Ok(());
    }
    let done = match tag {
        client::PARSE => prepare(&mut console.extended, body, out)?,
        client::BIND => bind(&mut console.extended, body, out)?,
        client::DESCRIBE => describe(&console.extended, body, out)?,
        client::EXECUTE => execute(console, body, out).await?,
        client::CLOSE => close(&mut console.extended, body, out)?,
        // Everything is sent as soon as there is nothing more to read.
        _ => Ok(()),
    };
    if let Err(mistake) = done {
        mistake.write(Severity::Error, out);
        console.extended.skips = true;
    }
    Ok(())
}

type Done = Result<Result<(), Mistake>, Malformed>;

fn prepare(extended: &mut Extended, body: &[u8], out: &mut Vec<u8>) -> Done {
    let message = parse::parse(body)?;
    let name = message.statement.to_vec();
    let command = match Command::read(message.query) {
        Ok(command) => command,
        Err(mistake) => return Ok(Err(mistake)),
    };
    if !name.is_empty() && extended.statements.contains_key(&name) {
        return Ok(Err(mistake(
            "42P05",
            "a prepared statement of this name exists already",
        )));
    }
    if extended.statements.len() >= KEPT_MAX {
        return Ok(Err(mistake("54000", "too many prepared statements")));
    }
    extended.statements.insert(name, command);
    build::parse_complete(out);
    Ok(Ok(()))
}

fn bind(extended: &mut Extended, body: &[u8], out: &mut Vec<u8>) -> Done {
    let message = parse::bind(body)?;
    let Some(command) = extended.statements.get(message.statement) else {
        return Ok(Err(mistake("26000", "there is no such prepared statement")));
    };
    let (parameters, formats) = formats(message.rest).ok_or(Malformed)?;
    if parameters > 0 {
        return Ok(Err(mistake(
            "08P01",
            "commands of the console take no parameters",
        )));
    }
    let table = match command {
        Command::Show(what) => Some(show::columns(*what)),
        _ => None,
    };
    let width = table.map_or(0, |table| table.width());
    if (formats.len() > 1 && formats.len() != width)
        || formats.iter().any(|format| !matches!(format, 0 | 1))
    {
        return Ok(Err(mistake(
            "08P01",
            "there are other result columns than formats",
        )));
    }
    if extended.portals.len() >= KEPT_MAX {
        return Ok(Err(mistake("54000", "too many portals")));
    }
    let portal = Portal {
        command: command.clone(),
        formats,
        answer: None,
    };
    extended.portals.insert(message.portal.to_vec(), portal);
    build::bind_complete(out);
    Ok(Ok(()))
}

/// How many parameters, and the formats of the results. `None`: malformed.
fn formats(rest: &[u8]) -> Option<(usize, Vec<i16>)> {
    fn count(rest: &[u8]) -> Option<(usize, &[u8])> {
        let (count, rest) = rest.split_first_chunk::<2>()?;
        Some((usize::from(u16::from_be_bytes(*count)), rest))
    }
    let (own, rest) = count(rest)?;
    let (parameters, mut rest) = count(rest.get(own * 2..)?)?;
    for _ in 0..parameters {
        let (length, after) = rest.split_first_chunk::<4>()?;
        // Negative: NULL.
        let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or_default();
        rest = after.get(length..)?;
    }
    let (results, rest) = count(rest)?;
    let (formats, over) = rest.as_chunks::<2>();
    let formats: Vec<i16> = formats.iter().map(|own| i16::from_be_bytes(*own)).collect();
    (formats.len() == results && over.is_empty()).then_some((parameters, formats))
}

fn describe(extended: &Extended, body: &[u8], out: &mut Vec<u8>) -> Done {
    let (kind, name) = parse::target(body)?;
    let (command, formats) = match kind {
        Kind::Statement => {
            let Some(command) = extended.statements.get(name) else {
                return Ok(Err(mistake("26000", "there is no such prepared statement")));
            };
            build::no_parameters(out);
            (command, &[][..])
        }
        Kind::Portal => {
            let Some(portal) = extended.portals.get(name) else {
                return Ok(Err(mistake("34000", "there is no such portal")));
            };
            (&portal.command, portal.formats.as_slice())
        }
    };
    match command {
        Command::Show(what) => show::columns(*what).describe(formats, out),
        _ => build::no_data(out),
    }
    Ok(Ok(()))
}

async fn execute(console: &mut Console, body: &[u8], out: &mut Vec<u8>) -> Done {
    let (name, rows_max) = parse::execute(body)?;
    let Some(mut portal) = console.extended.portals.remove(name) else {
        return Ok(Err(mistake("34000", "there is no such portal")));
    };
    let (answer, sent) = match portal.answer.take() {
        Some(begun) => begun,
        None => match console.answer(portal.command.clone()).await {
            Ok(answer) => (answer, 0),
            Err(mistake) => return Ok(Err(mistake)),
        },
    };
    let sent = match &answer {
        Answer::Rows(table) => {
            let left = table.len() - sent;
            let now = match usize::try_from(rows_max) {
                Ok(rows_max @ 1..) => left.min(rows_max),
                _ => left,
            };
            table.rows(sent..sent + now, &portal.formats, out);
            if sent + now < table.len() {
                build::portal_suspended(out);
            } else {
                table.note(out);
                answer.complete(out);
            }
            sent + now
        }
        Answer::Done(_) | Answer::DoneBut(..) | Answer::Empty => {
            answer.complete(out);
            0
        }
    };
    portal.answer = Some((answer, sent));
    console.extended.portals.insert(name.to_vec(), portal);
    Ok(Ok(()))
}

fn close(extended: &mut Extended, body: &[u8], out: &mut Vec<u8>) -> Done {
    let (kind, name) = parse::target(body)?;
    match kind {
        Kind::Statement => {
            extended.statements.remove(name);
        }
        Kind::Portal => {
            extended.portals.remove(name);
        }
    }
    build::close_complete(out);
    Ok(Ok(()))
}

fn mistake(code: &'static str, message: &str) -> Mistake {
    Mistake {
        code,
        message: message.to_owned(),
        hint: "",
    }
}
