//! What a client can tell apart in a server's messages, as lines of text.
//!
//! Left out is only what differs between two connections to one and the same PostgreSQL: names of
//! databases and logins, oids of what users made, process ids, numbers of temporary schemas, and
//! positions in PostgreSQL's own source.

use wire::message::parse;

use crate::kit::raw::Message;

/// Oids from here on are of what users made.
const OID_OF_USERS: u32 = 16_384;

/// Every place `pid` stands at becomes the same text.
fn anonymous(text: &str, pid: &str) -> String {
    let mut text = text.replace(pid, "PID");
    for schema in ["pg_temp_", "pg_toast_temp_"] {
        let mut from = 0;
        while let Some(at) = text[from..].find(schema) {
            let start = from + at + schema.len();
            let digits = text[start..].bytes().take_while(u8::is_ascii_digit).count();
            text.replace_range(start..start + digits, "N");
            from = start;
        }
    }
    text
}

/// PL/pgSQL says in its context whether `search_path` had the function's schema when it was first
/// called on that connection.
fn without_schemas(text: &str) -> String {
    const BEFORE: &str = "PL/pgSQL function ";
    let mut parts = text.split(BEFORE);
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |all, part| {
        let name = part.split('(').next().unwrap_or_default();
        let from = name.rfind('.').map_or(0, |dot| dot + 1);
        all + BEFORE + &part[from..]
    })
}

fn shown(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.escape_ascii().to_string(),
    }
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        taken
    }

    fn int16(&mut self) -> i16 {
        i16::from_be_bytes(self.take(2).try_into().unwrap())
    }

    fn int32(&mut self) -> i32 {
        i32::from_be_bytes(self.take(4).try_into().unwrap())
    }

    fn oid(&mut self) -> String {
        let oid = u32::from_be_bytes(self.take(4).try_into().unwrap());
        if oid < OID_OF_USERS {
            oid.to_string()
        } else {
            "own".to_owned()
        }
    }

    fn text(&mut self) -> String {
        let length = self.0.iter().position(|byte| *byte == 0).unwrap();
        let text = shown(self.take(length));
        self.take(1);
        text
    }
}

fn row_description(body: &[u8]) -> String {
    let mut fields = Fields(body);
    let count = fields.int16();
    let mut out = String::from("RowDescription");
    for _ in 0..count {
        out += &format!(
            " {}(table {} column {} type {} size {} modifier {} format {})",
            fields.text(),
            fields.oid(),
            fields.int16(),
            fields.oid(),
            fields.int16(),
            fields.int32(),
            fields.int16(),
        );
    }
    out
}

fn data_row(body: &[u8]) -> String {
    let mut fields = Fields(body);
    let count = fields.int16();
    let values: Vec<_> = (0..count)
        .map(|_| {
            let length = fields.int32();
            usize::try_from(length)
                .map_or_else(|_| "NULL".to_owned(), |length| shown(fields.take(length)))
        })
        .collect();
    format!("DataRow [{}]", values.join(" | "))
}

fn report(word: &str, body: &[u8]) -> String {
    let report = parse::report(body).unwrap();
    let fields: Vec<_> = report
        .fields()
        .filter(|(letter, _)| !b"FLR".contains(letter))
        .map(|(letter, text)| format!("{}={}", char::from(letter), shown(text)))
        .collect();
    format!("{word} {}", fields.join(" "))
}

/// Parameters that say which login it is.
const OWN_PARAMETERS: [&str; 1] = ["session_authorization"];

/// One message; `None` when nothing in it is to be compared.
fn line((kind, body): &Message) -> Option<String> {
    let mut fields = Fields(body);
    Some(match kind {
        0 => shown(body),
        b'T' => row_description(body),
        b't' => {
            let count = fields.int16();
            let types: Vec<_> = (0..count).map(|_| fields.oid()).collect();
            format!("ParameterDescription {types:?}")
        }
        b'D' => data_row(body),
        b'E' => report("ErrorResponse", body),
        // Sessions that hold theirs make others wait, and these are told.
        b'N' if contains(body, b"waiting for a server connection") => return None,
        b'N' => report("NoticeResponse", body),
        b'A' => {
            fields.int32();
            format!("NotificationResponse {} {}", fields.text(), fields.text())
        }
        b'S' => {
            let name = fields.text();
            if OWN_PARAMETERS.contains(&&*name) {
                return None;
            }
            format!("ParameterStatus {name}={}", fields.text())
        }
        b'K' | b'R' => return None,
        other => format!("{} {}", char::from(*other), shown(body)),
    })
}

fn contains(body: &[u8], text: &[u8]) -> bool {
    body.windows(text.len()).any(|piece| piece == text)
}

/// All of them. Parameters that are told in a row have no order among themselves.
pub fn lines(messages: &[Message], pid: &str) -> Vec<String> {
    let mut lines: Vec<String> = messages
        .iter()
        .filter_map(line)
        .map(|line| without_schemas(&anonymous(&line, pid)))
        .collect();
    for parameters in lines.chunk_by_mut(|a, b| is_parameter(a) && is_parameter(b)) {
        parameters.sort();
    }
    lines
}

pub fn is_parameter(line: &str) -> bool {
    line.starts_with("ParameterStatus ")
}

/// What two answers to one step differ in; `None` when a client sees no difference.
pub fn difference(direct: &[String], ours: &[String]) -> Option<usize> {
    let direct = &as_far_as_described(direct, ours);
    let same = direct
        .iter()
        .zip(ours)
        .take_while(|(a, b)| {
            a == b
                || both_have_no_such_object(a, b)
                || both_refuse_the_values(a, b)
                || both_have_no_number(a, b)
        })
        .count();
    // Two that are silent are a mistake of the script's.
    let is_same = same == direct.len() && same == ours.len() && !is_lost(direct);
    (!is_same && !is_healed(direct, ours)).then_some(same)
}

/// Instead of a message, where the connection ended or said nothing any more.
pub const LOST: &str = "(hung up, or silent)";

fn is_lost(lines: &[String]) -> bool {
    lines.last().is_some_and(|line| line == LOST)
}

/// Whether the server ended both with the same words: PostgreSQL has mistakes, too (`EXECUTE` of a COMMIT
/// among several statements).
pub fn both_ended(direct: &[String], ours: &[String]) -> bool {
    let is_fatal = |line: &String| line.starts_with("ErrorResponse S=FATAL");
    is_lost(direct) && direct.iter().any(is_fatal) && direct == ours
}

/// Whether the proxy says that a statement is not found here, or not described, with what the client can do about it, where
/// all before is as it should be. `docs/limits-of-sharing.md` lists what leads there.
pub fn is_out_of_reach(direct: &[String], ours: &[String]) -> bool {
    let unknown = "ErrorResponse S=ERROR V=ERROR C=26000";
    let undescribed =
        "ErrorResponse S=ERROR V=ERROR C=0A000 M=FETCH is described only directly behind";
    let said = |line: &String| {
        line.starts_with(undescribed)
            || line.starts_with(unknown)
                && line.contains(
                    "H=In pool mode auto, a statement prepared by the protocol is not found",
                )
    };
    let Some(at) = ours.iter().position(said) else {
        return false;
    };
    let is_unknown = direct.get(at).is_some_and(|line| line.starts_with(unknown));
    direct.get(..at).is_some_and(|before| *before == ours[..at]) && !is_unknown
}

/// A session that never had a number of a sequence hears the same as one that lost it, with a hint.
fn both_have_no_number(direct: &str, ours: &str) -> bool {
    let hint = " H=In pool mode auto, such numbers";
    direct.contains("C=55000")
        && ours
            .split_once(hint)
            .is_some_and(|(ours, _)| ours == direct)
}

/// A connection that had temporary objects once has an empty schema for them ever since, so what is
/// not there is missing in one place or the other.
fn both_have_no_such_object(a: &str, b: &str) -> bool {
    const SAME: [(&str, &[&str]); 2] = [
        (
            "C=3F000 M=schema \"pg_temp\" does not exist",
            &["C=42P01", "C=42883", "C=42704"],
        ),
        (
            "C=42501 M=permission denied to create temporary tables",
            &["C=42501 M=permission denied for schema pg_temp_N"],
        ),
    ];
    let pair = |one: &str, other: &str| {
        SAME.iter().any(|(without, with)| {
            one.contains(without) && with.iter().any(|code| other.contains(code))
        })
    };
    let are_errors = [a, b].iter().all(|line| line.starts_with("ErrorResponse"));
    are_errors && (pair(a, b) || pair(b, a))
}

/// Whether one connection would have had to make a schema for temporary objects and was not allowed to, where
/// the other has an empty one from before.
pub fn lacks_a_schema(direct: &[String], ours: &[String]) -> bool {
    let same = direct.iter().zip(ours).take_while(|(a, b)| a == b).count();
    let refused =
        "ErrorResponse S=ERROR V=ERROR C=42501 M=permission denied to create temporary tables";
    let is_refused = |lines: &[String]| {
        let line = lines.get(same);
        line.is_some_and(|line| line.starts_with(refused))
    };
    is_refused(direct) != is_refused(ours)
}

/// Too many values, or too few: in a transaction that failed, a statement that is not on this server
/// connection cannot be made, and that is said instead; of two names of the same statement, one is said.
fn both_refuse_the_values(direct: &str, ours: &str) -> bool {
    let refused = "ErrorResponse S=ERROR V=ERROR C=08P01 M=bind message supplies";
    // The client's own names are `s1` and the like.
    direct.starts_with(refused)
        && (ours.starts_with(refused) && !ours.contains("\"_t") && !ours.contains("\"?")
            || ours.starts_with("ErrorResponse S=ERROR V=ERROR C=25P02"))
}

/// In a transaction that failed, a statement without result is described where it is; where it
/// would have to be made it cannot be. And where what a statement names is gone, its parameters are not told of before that
/// is said.
fn as_far_as_described(direct: &[String], ours: &[String]) -> Vec<String> {
    let refused = "ErrorResponse S=ERROR V=ERROR C=25P02";
    let mut lines = direct.to_vec();
    for (at, said) in ours.iter().enumerate() {
        let is_described = lines
            .get(at)
            .is_some_and(|line| line.starts_with("ParameterDescription ["))
            && lines.get(at + 1).is_some_and(|line| line.trim() == "n");
        if lines.get(at + 1) == Some(said)
            && said.starts_with("ErrorResponse")
            && lines[at].starts_with("ParameterDescription [")
        {
            lines.remove(at);
        } else if said.starts_with(refused) && is_described {
            // What comes behind an error is skipped, whatever it would have been.
            let rest = lines[at..].iter().position(|line| line.starts_with("Z "));
            let end = rest.map_or(lines.len(), |rest| at + rest);
            lines.splice(at..end, [said.clone()]);
        }
    }
    lines
}

/// The one thing that is better than a direct connection: a statement whose table got another
/// column is prepared again, where PostgreSQL says that its result would be of another type.
fn is_healed(direct: &[String], ours: &[String]) -> bool {
    let changed = "M=cached plan must not change result type";
    direct
        .iter()
        .any(|line| line.contains(changed) && line.starts_with("ErrorResponse"))
        && !ours.iter().any(|line| line.starts_with("ErrorResponse"))
        && direct.last() == ours.last()
        && ours.last().is_some_and(|line| line == "Z I")
}
