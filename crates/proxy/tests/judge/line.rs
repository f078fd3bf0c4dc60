//! One connection, either way to the database: sends steps and collects what comes back.

use std::io::{Read as _, Write as _};

use wire::message::build;

use crate::{
    answer::LOST,
    kit::raw::{Bytes, Message, Raw},
    script::{Ending, Say, Step},
};

/// A connection that has logged in.
pub struct Line {
    stream: Box<dyn Bytes>,
    /// What came with the login.
    pub greeting: Vec<Message>,
}

impl Line {
    /// From a client that has logged in; what the server said meanwhile.
    pub fn new(raw: Raw, greeting: Vec<Message>) -> Self {
        Self {
            stream: raw.stream,
            greeting,
        }
    }

    fn next(&mut self) -> Option<Message> {
        let mut head = [0; 5];
        self.stream.read_exact(&mut head).ok()?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let mut body = vec![0; length.checked_sub(4)?];
        self.stream.read_exact(&mut body).ok()?;
        Some((head[0], body))
    }

    fn send(&mut self, bytes: &[u8], pieces: usize) {
        // A server that hung up may still have said why.
        for piece in bytes.chunks(bytes.len().div_ceil(pieces.max(1)).max(1)) {
            let _ = self.stream.write_all(piece);
            let _ = self.stream.flush();
            if pieces > 1 {
                std::thread::yield_now();
            }
        }
    }

    /// Everything a step brings, in order. A message of kind 0 stands for a connection that ended
    /// or was silent for the socket's time limit.
    pub fn step(&mut self, step: &Step, pieces: usize) -> Vec<Message> {
        let mut seen = Vec::new();
        for part in step.says.split_inclusive(|say| *say == Say::Await) {
            let mut bytes = Vec::new();
            for say in part {
                say.write(&mut bytes);
            }
            self.send(&bytes, pieces);
            let ended = if part.last() == Some(&Say::Await) {
                self.collect_answers(part, &mut seen)
            } else {
                let readies = part.iter().filter(|say| say.ends_in_ready()).count();
                self.collect_readies(readies, &mut seen)
            };
            if ended {
                seen.push((0, LOST.into()));
                break;
            }
        }
        seen
    }

    /// Returns whether the server hung up.
    fn collect_readies(&mut self, mut readies: usize, seen: &mut Vec<Message>) -> bool {
        while readies > 0 {
            let Some(message) = self.next() else {
                return true;
            };
            readies -= usize::from(message.0 == b'Z');
            seen.push(message);
        }
        false
    }

    /// Until each message of an extended query is answered, or one failed.
    fn collect_answers(&mut self, part: &[Say], seen: &mut Vec<Message>) -> bool {
        let open = part
            .iter()
            .rposition(Say::ends_in_ready)
            .map_or(0, |at| at + 1);
        let (closed, open) = part.split_at(open);
        let readies = closed.iter().filter(|say| say.ends_in_ready()).count();
        if self.collect_readies(readies, seen) {
            return true;
        }
        let mut awaited = open
            .iter()
            .filter(|say| !matches!(say, Say::Flush | Say::Await))
            .count();
        while awaited > 0 {
            let Some(message) = self.next() else {
                return true;
            };
            match message.0 {
                b'1' | b'2' | b'3' | b'T' | b'n' | b'C' | b's' | b'I' => awaited -= 1,
                b'E' => awaited = 0,
                _ => {}
            }
            seen.push(message);
        }
        false
    }

    pub fn leave(mut self, ending: Ending) {
        if ending == Ending::Terminate {
            let mut bytes = Vec::new();
            build::terminate(&mut bytes);
            let _ = self.stream.write_all(&bytes);
            let _ = self.stream.flush();
        }
    }
}
