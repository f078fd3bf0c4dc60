//! What a line says, beside its place in the chain.

use std::fmt::Display;

/// Longest text in a line, bytes: no id or name of ours has more, and a path that somebody made up may not
/// fill the log.
const TEXT_BYTES_MAX: usize = 256;

#[derive(Clone, Debug, Eq, PartialEq)]
enum Value {
    Text(String),
    Number(u64),
}

/// Something that happened. Its fields stand in the line in the order in which they were given. No
/// secret may be one of them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Event {
    kind: &'static str,
    fields: Vec<(&'static str, Value)>,
}

impl Event {
    /// Of this kind, with nothing else said yet.
    pub fn new(kind: &'static str) -> Self {
        Self {
            kind,
            fields: Vec::new(),
        }
    }

    /// With a text. What is longer than 256 bytes is cut.
    #[must_use]
    pub fn text(mut self, name: &'static str, value: impl Display) -> Self {
        let mut text = value.to_string();
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        self.fields.push((name, Value::Text(text)));
        self
    }

    /// With a text, if there is one.
    #[must_use]
    pub fn maybe(self, name: &'static str, value: Option<impl Display>) -> Self {
        match value {
            Some(value) => self.text(name, value),
            None => self,
        }
    }

    /// With a number.
    #[must_use]
    pub fn number(mut self, name: &'static str, value: u64) -> Self {
        self.fields.push((name, Value::Number(value)));
        self
    }

    /// Adds `"event":"…"` and the fields to an object that has begun.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b",\"event\":");
        write_text(self.kind, out);
        for (name, value) in &self.fields {
            out.extend_from_slice(b",\"");
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"\":");
            match value {
                Value::Text(text) => write_text(text, out),
                Value::Number(number) => out.extend_from_slice(number.to_string().as_bytes()),
            }
        }
    }
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("a text is JSON, and memory takes it");
}
