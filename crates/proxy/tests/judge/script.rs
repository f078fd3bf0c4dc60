//! What a client sends, as a value: it can be printed, shortened and sent twice.
//!
//! Owns: messages, steps and scripts, and their bytes. Does not own: which ones make sense
//! (`grammar`) or the connection they go to (`line`).

use std::fmt;

use wire::message::{Kind, build};

/// One message of a client.
#[derive(Clone, Debug, PartialEq)]
pub enum Say {
    Query(Vec<u8>),
    Parse {
        name: String,
        text: Vec<u8>,
        types: Vec<u32>,
    },
    Bind {
        portal: String,
        name: String,
        values: Vec<Option<Vec<u8>>>,
        /// Whether results are wanted in binary.
        binary: bool,
    },
    Describe(What, String),
    /// Portal, and how many rows at most; 0 is all.
    Execute(String, i32),
    Close(What, String),
    Flush,
    /// Flush, and nothing more is sent before everything so far is answered.
    Await,
    Sync,
    CopyData(Vec<u8>),
    CopyDone,
    CopyFail,
    /// The function of this oid with these arguments as text.
    Call(u32, Vec<Option<Vec<u8>>>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum What {
    Statement,
    Portal,
}

impl What {
    fn kind(self) -> Kind {
        match self {
            Self::Statement => Kind::Statement,
            Self::Portal => Kind::Portal,
        }
    }
}

fn text(out: &mut Vec<u8>, value: &[u8]) {
    out.extend(value);
    out.push(0);
}

fn int16(out: &mut Vec<u8>, value: usize) {
    out.extend(u16::try_from(value).unwrap().to_be_bytes());
}

fn values(out: &mut Vec<u8>, values: &[Option<Vec<u8>>]) {
    int16(out, values.len());
    for value in values {
        match value {
            None => out.extend((-1_i32).to_be_bytes()),
            Some(bytes) => {
                out.extend(i32::try_from(bytes.len()).unwrap().to_be_bytes());
                out.extend(bytes);
            }
        }
    }
}

fn message(kind: u8, body: &[u8], out: &mut Vec<u8>) {
    out.push(kind);
    out.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    out.extend(body);
}

impl Say {
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut body = Vec::new();
        match self {
            Self::Query(sql) => {
                text(&mut body, sql);
                message(b'Q', &body, out);
            }
            Self::Parse { name, text, types } => {
                build::parse(name.as_bytes(), text, types, out);
            }
            Self::Bind {
                portal,
                name,
                values: list,
                binary,
            } => {
                text(&mut body, portal.as_bytes());
                text(&mut body, name.as_bytes());
                int16(&mut body, 0);
                values(&mut body, list);
                int16(&mut body, 1);
                int16(&mut body, usize::from(*binary));
                message(b'B', &body, out);
            }
            Self::Describe(what, name) => build::describe(what.kind(), name.as_bytes(), out),
            Self::Execute(portal, max) => build::execute(portal.as_bytes(), *max, out),
            Self::Close(what, name) => build::close(what.kind(), name.as_bytes(), out),
            Self::Flush | Self::Await => build::flush(out),
            Self::Sync => build::sync(out),
            Self::CopyData(data) => message(b'd', data, out),
            Self::CopyDone => message(b'c', &[], out),
            Self::CopyFail => build::copy_fail("enough", out),
            Self::Call(oid, list) => {
                body.extend(oid.to_be_bytes());
                int16(&mut body, 0);
                values(&mut body, list);
                int16(&mut body, 0);
                message(b'F', &body, out);
            }
        }
    }

    /// Whether the server says ReadyForQuery when it is done with it.
    pub fn ends_in_ready(&self) -> bool {
        matches!(self, Self::Query(_) | Self::Sync | Self::Call(..))
    }
}

/// Bytes as a Rust literal would show them.
fn shown(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.escape_ascii().to_string(),
    }
}

fn shown_values(values: &[Option<Vec<u8>>]) -> String {
    let list: Vec<_> = values
        .iter()
        .map(|value| {
            value
                .as_deref()
                .map_or_else(|| "NULL".to_owned(), |value| format!("'{}'", shown(value)))
        })
        .collect();
    list.join(", ")
}

impl fmt::Display for Say {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Query(sql) => write!(f, "Query({})", shown(sql)),
            Self::Parse { name, text, types } => {
                write!(f, "Parse({name:?}: {}", shown(text))?;
                if !types.is_empty() {
                    write!(f, "; types {types:?}")?;
                }
                f.write_str(")")
            }
            Self::Bind {
                portal,
                name,
                values,
                binary,
            } => write!(
                f,
                "Bind({portal:?} of {name:?} with [{}]{})",
                shown_values(values),
                if *binary { ", binary" } else { "" }
            ),
            Self::Describe(what, name) => write!(f, "Describe({what:?} {name:?})"),
            Self::Execute(portal, max) => write!(f, "Execute({portal:?}, {max})"),
            Self::Close(what, name) => write!(f, "Close({what:?} {name:?})"),
            Self::CopyData(data) => write!(f, "CopyData({:?})", shown(data)),
            Self::Call(oid, values) => write!(f, "FunctionCall({oid}, [{}])", shown_values(values)),
            other => write!(f, "{other:?}"),
        }
    }
}

/// Messages sent in one go, up to the last ReadyForQuery they bring.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    pub says: Vec<Say>,
    /// In how many pieces their bytes are sent.
    pub pieces: usize,
}

impl Step {
    pub fn new(says: Vec<Say>) -> Self {
        Self { says, pieces: 1 }
    }

    pub fn query(sql: &str) -> Self {
        Self::new(vec![Say::Query(sql.into())])
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, say) in self.says.iter().enumerate() {
            write!(f, "{}{say}", if i > 0 { " " } else { "" })?;
        }
        if self.pieces > 1 {
            write!(f, " (in {} pieces)", self.pieces)?;
        }
        Ok(())
    }
}

/// How a client leaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ending {
    Terminate,
    /// Its socket just closes, whatever state it is in.
    Vanish,
}

/// What one session does from its login on.
#[derive(Clone, Debug)]
pub struct Script {
    /// Whether the direct connection logs in as the tenant's role does, so that SET ROLE is the
    /// same there; otherwise as the group itself, so that DISCARD ALL is.
    pub changes_roles: bool,
    /// Settings in the startup packet.
    pub startup: Vec<(String, String)>,
    /// Makes what the script uses as it was.
    pub before: Vec<Step>,
    pub steps: Vec<Step>,
    /// What must be equal at the end.
    pub after: Vec<Step>,
    pub ending: Ending,
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "startup: {:?}", self.startup)?;
        for (i, step) in self.steps.iter().enumerate() {
            writeln!(f, "{i:3}: {step}")?;
        }
        write!(f, "ending: {:?}", self.ending)
    }
}
