//! Sending what a session asks, and comparing each answer as it comes.
//!
//! An error may come instead of an answer when it is one of those that what is going on can cause,
//! never beside a wrong one. Behind an error may come that the connection ends, and behind that nothing.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    sync::atomic::Ordering,
};

use rand::RngExt as _;
use wire::message::parse;

use super::{
    CLIENTS_MAX, ROWS_MAX,
    life::{Answer, End, Life, Unit},
};
use crate::{
    kit::raw::{self, Message},
    script::Say,
};

/// What cut connections, ended servers, cancels, limits and waits may say. Nothing about statements,
/// settings or tables that are not there.
pub(super) const EXCUSES: [&str; 8] = [
    "57P01", "57P02", "57P03", "57014", "53300", "53400", "08006", "54000",
];

impl Life<'_> {
    /// Returns whether all went well; an error that may be is not well, and no reason to end.
    pub(super) fn ask(&mut self, says: Vec<Say>, units: Vec<Unit>) -> Result<bool, End> {
        self.send(&says)?;
        self.receive(&says, units)
    }

    pub(super) fn send(&mut self, says: &[Say]) -> Result<(), End> {
        let mut bytes = Vec::new();
        for say in says {
            say.write(&mut bytes);
        }
        let pieces = if self.rng.random_ratio(1, 10) {
            self.rng.random_range(2..6)
        } else {
            1
        };
        for piece in bytes.chunks(bytes.len().div_ceil(pieces)) {
            if self
                .stream
                .write_all(piece)
                .and_then(|()| self.stream.flush())
                .is_err()
            {
                break; // It may have been told why.
            }
        }
        Ok(())
    }

    pub(super) fn receive(&mut self, says: &[Say], units: Vec<Unit>) -> Result<bool, End> {
        let said: Vec<_> = says.iter().map(ToString::to_string).collect();
        self.log.push(said.join(" "));
        let mut went_well = true;
        for unit in units {
            went_well &= self.receive_unit(&unit)?;
        }
        Ok(went_well)
    }

    /// `None` when the connection ended.
    pub(super) fn message(&mut self) -> Option<Message> {
        let mut head = [0; 5];
        self.read(&mut head)?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let mut body = vec![0; length.checked_sub(4)?];
        self.read(&mut body)?;
        Some((head[0], body))
    }

    fn read(&mut self, buffer: &mut [u8]) -> Option<()> {
        let error = self.stream.read_exact(buffer).err();
        if error.as_ref().is_some_and(is_silence) {
            let _ = self.wrong::<()>("an answer, or an end", "nothing");
        }
        error.is_none().then_some(())
    }

    /// Up to ReadyForQuery, each answer compared as it comes.
    fn receive_unit(&mut self, unit: &[Answer]) -> Result<bool, End> {
        let mut awaited = unit.iter();
        let mut rows: Vec<Vec<String>> = Vec::new();
        let mut failed = None;
        let mut first = String::new();
        let mut is_ending = false;
        let mut is_unknown = false;
        loop {
            let Some((kind, body)) = self.message() else {
                if failed.is_none() {
                    self.tally.error("connection lost");
                }
                return Err(End::Lost);
            };
            if is_ending {
                return self.wrong("the end of the connection", &shown(kind, &body));
            }
            match kind {
                b'D' => rows.push(values(&body)),
                b'd' => rows.push(vec![String::from_utf8_lossy(&body).into_owned()]),
                b'C' | b's' | b'I' => {
                    let answer = awaited.next();
                    let is_right = match answer {
                        Some(Answer::Rows(expected)) => *expected == rows,
                        Some(Answer::Done) => rows.is_empty(),
                        Some(Answer::Error(_)) | None => false,
                    };
                    if !is_right || failed.is_some() {
                        return self.wrong(&format!("{answer:?}"), &format!("{rows:?}"));
                    }
                    self.tally.answers.fetch_add(1, Ordering::Relaxed);
                    rows.clear();
                }
                b'E' => {
                    let code = raw::code_of(&[(kind, body.clone())]);
                    is_ending = parse::report(&body).unwrap().is_fatal();
                    let excuses = self.excuses(&code, &rows);
                    if failed.is_some() {
                        // The server, or the way to it, ended before it could say that it is ready again.
                        if !(is_ending && excuses && rows.is_empty()) {
                            return self.wrong("ReadyForQuery", &(first + &shown(kind, &body)));
                        }
                        self.tally.error(&format!("{code} behind an error"));
                        continue;
                    }
                    let answer = awaited.next();
                    // What came of the rows before it was right as far as it went.
                    let may_begin = match answer {
                        Some(Answer::Rows(expected)) => expected.starts_with(&rows),
                        _ => rows.is_empty(),
                    };
                    let is_expected =
                        matches!(answer, Some(Answer::Error(expected)) if *expected == code);
                    if !may_begin || !(is_expected || excuses) {
                        let got = format!("{rows:?}, then {}", shown(kind, &body));
                        return self.wrong(&format!("{answer:?}"), &got);
                    }
                    self.tally.error(&code);
                    if is_expected {
                        self.tally.answers.fetch_add(1, Ordering::Relaxed);
                    }
                    rows.clear();
                    // All was done, and then something failed: nobody knows what holds now.
                    is_unknown = answer.is_none() && !unit.is_empty();
                    failed = Some(is_expected);
                    first = format!("{}, then ", shown(kind, &body));
                }
                b'Z' => {
                    if failed.is_none() && awaited.next().is_some() {
                        return self.wrong("an answer", "ReadyForQuery");
                    }
                    if !rows.is_empty() {
                        return self.wrong("ReadyForQuery", &format!("{first}{rows:?}"));
                    }
                    if is_unknown {
                        return Err(End::Left);
                    }
                    return Ok(failed.unwrap_or(true));
                }
                b'A' => {
                    let channel_and_payload = String::from_utf8_lossy(&body[4..]).into_owned();
                    if !channel_and_payload.contains(&self.canary) {
                        return self.wrong(&self.canary.clone(), &channel_and_payload);
                    }
                }
                _ => {}
            }
        }
    }

    fn excuses(&self, code: &str, rows: &[Vec<String>]) -> bool {
        let too_many_rows = self.home.has_rows_max && rows.len() as u64 >= ROWS_MAX;
        match code {
            "54000" => too_many_rows,
            _ => EXCUSES.contains(&code),
        }
    }

    pub(super) fn wrong<T>(&mut self, expected: &str, got: &str) -> Result<T, End> {
        let short = |text: &str| text.chars().take(500).collect::<String>();
        let log = self.log[self.log.len().saturating_sub(12)..].join("\n  ");
        self.tally.found(format!(
            "{}, tenant {} (at most {CLIENTS_MAX} clients in one), canary {}, asked {} times, of which the last\n  \
             {}\nexpected {}\ngot      {}",
            std::thread::current().name().unwrap_or_default(),
            self.home.tenant.id,
            self.canary,
            self.log.len(),
            short_lines(&log),
            short(expected),
            short(got)
        ));
        Err(End::Left)
    }
}

/// Whether a socket was silent up to its limit, which is longer than every wait of the proxy's.
pub(super) fn is_silence(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// A message for a person.
fn shown(kind: u8, body: &[u8]) -> String {
    format!("{} {}", char::from(kind), String::from_utf8_lossy(body))
}

fn short_lines(text: &str) -> String {
    text.lines()
        .map(|line| line.chars().take(300).collect::<String>() + "\n")
        .collect()
}

/// Of a DataRow.
fn values(body: &[u8]) -> Vec<String> {
    let count = u16::from_be_bytes([body[0], body[1]]);
    let mut rest = &body[2..];
    (0..count)
        .map(|_| {
            let length = i32::from_be_bytes(rest[..4].try_into().unwrap());
            let length = usize::try_from(length).unwrap_or(0);
            let (value, left) = rest[4..].split_at(length);
            rest = left;
            String::from_utf8_lossy(value).into_owned()
        })
        .collect()
}
