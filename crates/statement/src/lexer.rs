//! Cutting SQL text into tokens exactly where PostgreSQL cuts it.
//!
//! Owns: comments, strings, quoted names, numbers, and where each ends (`scan.l` of PostgreSQL 15
//! to 18). Does not own: what a token means. Works byte by byte, so the encoding must be one in
//! which ASCII bytes stand for themselves.

use std::borrow::Cow;

use memchr::{memchr, memchr2, memmem};

use crate::Strings;

/// One byte, and no more: a payload makes it two stores and one load for each token, which stalls
/// the processor for longer than all the rest of the token takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Token {
    /// The text is over.
    End,
    /// No PostgreSQL would read on (something is not terminated), or it cannot be known how.
    Bad,
    /// A keyword or a name without quotes.
    Word,
    /// `"…"`.
    Quoted,
    /// `U&"…"`: what it says depends on escapes that are not read here.
    Obscure,
    /// A string constant `'…'` without escapes; a quote in it is doubled.
    Text,
    /// `$tag$…$tag$`.
    DollarText,
    /// A string constant that cannot be taken at its word: with escapes, of several pieces, or
    /// `U&'…'`.
    ObscureText,
    /// `B'…'`, `X'…'`.
    Bits,
    Number,
    /// `$1`.
    Param,
    Dot,
    Comma,
    Open,
    Close,
    OpenBracket,
    CloseBracket,
    Semicolon,
    Equals,
    Greater,
    Minus,
    Plus,
    /// One byte of anything else: operators are not put together.
    Sign,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Lexeme<'a> {
    pub(crate) token: Token,
    /// All of it, with its quotes.
    pub(crate) raw: &'a [u8],
}

#[derive(Clone, Debug)]
pub(crate) struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
    strings: Strings,
}

/// How a backslash is read inside a string constant.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Backslash {
    Ordinary,
    Escapes,
    Undecided,
}

impl<'a> Lexer<'a> {
    pub(crate) fn new(text: &'a [u8], strings: Strings) -> Self {
        Self {
            text,
            at: 0,
            strings,
        }
    }

    /// The next token. After [`Token::End`] and [`Token::Bad`] comes [`Token::End`].
    #[inline]
    pub(crate) fn next(&mut self) -> Lexeme<'a> {
        let token = match self.skip_blank() {
            true => self.token(),
            false => (self.text.len(), Token::Bad),
        };
        let from = self.at;
        self.at = token.0.min(self.text.len());
        Lexeme {
            token: token.1,
            raw: self.text.get(from..self.at).unwrap_or_default(),
        }
    }

    /// The token after the next ones that were taken; nothing is taken.
    pub(crate) fn peek(&self) -> Lexeme<'a> {
        self.clone().next()
    }

    /// Where the token that was taken last ends.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    /// A token that was taken before, by where it ended and how long it was.
    pub(crate) fn again(&self, token: Token, end: usize, length: usize) -> Lexeme<'a> {
        let raw = self.text.get(end.saturating_sub(length)..end);
        Lexeme {
            token,
            raw: raw.unwrap_or_default(),
        }
    }

    #[inline]
    fn byte(&self, at: usize) -> u8 {
        // NUL is never part of a token, so it can stand for the end.
        self.text.get(at).copied().unwrap_or(0)
    }

    /// Skips white space and comments. `false` when a comment does not end.
    fn skip_blank(&mut self) -> bool {
        loop {
            match self.byte(self.at) {
                b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => self.at += 1,
                b'-' if self.byte(self.at + 1) == b'-' => self.at = self.line_end(self.at + 2),
                b'/' if self.byte(self.at + 1) == b'*' => match self.comment_end(self.at + 2) {
                    Some(end) => self.at = end,
                    None => return false,
                },
                _ => return true,
            }
        }
    }

    fn line_end(&self, from: usize) -> usize {
        let rest = self.text.get(from..).unwrap_or_default();
        from + memchr2(b'\n', b'\r', rest).unwrap_or(rest.len())
    }

    /// Behind the end of a comment whose opening was read; they nest.
    fn comment_end(&self, mut at: usize) -> Option<usize> {
        let mut depth = 1_usize;
        while depth > 0 {
            at += memchr2(b'*', b'/', self.text.get(at..)?)?;
            match (self.byte(at), self.byte(at + 1)) {
                (b'*', b'/') => (depth, at) = (depth - 1, at + 2),
                (b'/', b'*') => (depth, at) = (depth + 1, at + 2),
                _ => at += 1,
            }
        }
        Some(at)
    }

    /// What begins here, and where it ends.
    fn token(&self) -> (usize, Token) {
        let at = self.at;
        let next = self.byte(at + 1);
        match self.byte(at) {
            0 if at >= self.text.len() => (at, Token::End),
            // PostgreSQL would take the text to end here; no client sends that.
            0 => (self.text.len(), Token::Bad),
            b'e' | b'E' if next == b'\'' => self.string(at + 2, Backslash::Escapes),
            b'n' | b'N' if next == b'\'' => self.string(at + 2, self.backslash()),
            b'b' | b'B' | b'x' | b'X' if next == b'\'' => self.bits(at + 2),
            b'u' | b'U' if next == b'&' && self.byte(at + 2) == b'\'' => {
                // PostgreSQL refuses them where a backslash would escape.
                let (end, token) = self.string(at + 3, Backslash::Ordinary);
                match token {
                    Token::Text | Token::ObscureText => (end, Token::ObscureText),
                    other => (end, other),
                }
            }
            b'u' | b'U' if next == b'&' && self.byte(at + 2) == b'"' => {
                self.quoted(at + 3, Token::Obscure)
            }
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80.. => (self.word_end(at + 1), Token::Word),
            b'0'..=b'9' => (self.number_end(at + 1), Token::Number),
            b'.' if next.is_ascii_digit() => (self.number_end(at + 1), Token::Number),
            b'\'' => self.string(at + 1, self.backslash()),
            b'"' => self.quoted(at + 1, Token::Quoted),
            b'$' => self.dollar(at),
            b'.' => (at + 1, Token::Dot),
            b',' => (at + 1, Token::Comma),
            b'(' => (at + 1, Token::Open),
            b')' => (at + 1, Token::Close),
            b'[' => (at + 1, Token::OpenBracket),
            b']' => (at + 1, Token::CloseBracket),
            b';' => (at + 1, Token::Semicolon),
            b'=' => (at + 1, Token::Equals),
            b'>' => (at + 1, Token::Greater),
            b'-' => (at + 1, Token::Minus),
            b'+' => (at + 1, Token::Plus),
            _ => (at + 1, Token::Sign),
        }
    }

    fn backslash(&self) -> Backslash {
        match self.strings {
            Strings::Standard => Backslash::Ordinary,
            Strings::Escaping => Backslash::Escapes,
            Strings::Undecided => Backslash::Undecided,
        }
    }

    fn word_end(&self, from: usize) -> usize {
        let rest = self.text.get(from..).unwrap_or_default();
        let length = rest.iter().position(|byte| !continues_word(*byte));
        from + length.unwrap_or(rest.len())
    }

    /// Generous: PostgreSQL refuses letters and points that do not belong to a number, and
    /// refusing is all that could follow.
    fn number_end(&self, mut at: usize) -> usize {
        loop {
            match self.byte(at) {
                b'.' if self.byte(at + 1) == b'.' => return at,
                b'.' | b'_' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | 0x80.. => at += 1,
                _ => return at,
            }
        }
    }

    fn quoted(&self, mut at: usize, token: Token) -> (usize, Token) {
        while let Some(length) = memchr(b'"', self.text.get(at..).unwrap_or_default()) {
            at += length + 1;
            if self.byte(at) != b'"' {
                return (at, token);
            }
            at += 1;
        }
        (self.text.len(), Token::Bad)
    }

    fn bits(&self, mut at: usize) -> (usize, Token) {
        while let Some(length) = memchr(b'\'', self.text.get(at..).unwrap_or_default()) {
            at += length + 1;
            match self.continuation(at) {
                Some(more) => at = more,
                None => return (at, Token::Bits),
            }
        }
        (self.text.len(), Token::Bad)
    }

    /// A string constant, from behind its opening quote.
    fn string(&self, mut at: usize, backslash: Backslash) -> (usize, Token) {
        let bad = (self.text.len(), Token::Bad);
        let mut token = match backslash {
            Backslash::Escapes => Token::ObscureText,
            Backslash::Ordinary | Backslash::Undecided => Token::Text,
        };
        loop {
            let rest = self.text.get(at..).unwrap_or_default();
            let found = match backslash {
                Backslash::Ordinary => memchr(b'\'', rest),
                Backslash::Escapes | Backslash::Undecided => memchr2(b'\'', b'\\', rest),
            };
            let Some(length) = found else { return bad };
            at += length;
            if self.byte(at) == b'\\' {
                token = Token::ObscureText;
                match (backslash, self.byte(at + 1)) {
                    // The one case in which the two readings end at different places.
                    (Backslash::Undecided, b'\'') => return bad,
                    (Backslash::Undecided, _) => at += 1,
                    // Also for octal, hexadecimal and Unicode escapes: none of them has a quote.
                    _ => at += 2,
                }
                continue;
            }
            at += 1;
            if self.byte(at) == b'\'' {
                at += 1;
            } else if let Some(more) = self.continuation(at) {
                token = Token::ObscureText;
                at = more;
            } else {
                return (at, token);
            }
        }
    }

    /// Behind the opening quote of a piece that continues the constant which ended at `at`: SQL
    /// joins pieces with a line end between them, and the later ones are read like the first.
    fn continuation(&self, mut at: usize) -> Option<usize> {
        let mut line_ended = false;
        loop {
            match self.byte(at) {
                b'\n' | b'\r' => line_ended = true,
                b' ' | b'\t' | 0x0b | 0x0c => {}
                b'-' if self.byte(at + 1) == b'-' => {
                    at = self.line_end(at + 2);
                    continue;
                }
                b'\'' if line_ended => return Some(at + 1),
                _ => return None,
            }
            at += 1;
        }
    }

    /// A parameter, or a string between two times the same `$tag$`.
    fn dollar(&self, at: usize) -> (usize, Token) {
        let rest = self.text.get(at + 1..).unwrap_or_default();
        if rest.first().is_some_and(u8::is_ascii_digit) {
            let digits = rest.iter().position(|byte| !byte.is_ascii_digit());
            return (at + 1 + digits.unwrap_or(rest.len()), Token::Param);
        }
        let length = rest
            .iter()
            .position(|byte| *byte == b'$' || !continues_word(*byte));
        let tag_end = at + 1 + length.unwrap_or(rest.len());
        if self.byte(tag_end) != b'$' {
            return (at + 1, Token::Sign);
        }
        let tag = self.text.get(at..=tag_end).unwrap_or_default();
        let body = self.text.get(tag_end + 1..).unwrap_or_default();
        match memmem::find(body, tag) {
            Some(length) => {
                let end = tag_end + 1 + length + tag.len();
                (end, Token::DollarText)
            }
            None => (self.text.len(), Token::Bad),
        }
    }
}

pub(crate) fn continues_word(byte: u8) -> bool {
    CONTINUES_WORD[usize::from(byte)]
}

static CONTINUES_WORD: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < table.len() {
        table[byte] =
            matches!(byte as u8, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'$' | 0x80..);
        byte += 1;
    }
    table
};

impl Lexeme<'_> {
    /// What a name says when it stands for an object or a setting: folded to lower case unless
    /// quoted. `None` when PostgreSQL would cut it off, or fold it by rules that are not known
    /// here, or it is no name.
    pub(crate) fn name(&self) -> Option<String> {
        let text = str::from_utf8(self.raw)
            .ok()
            .filter(|text| text.is_ascii())?;
        let name = match self.token {
            Token::Word => text.to_ascii_lowercase(),
            Token::Quoted => text.get(1..text.len() - 1)?.replace("\"\"", "\""),
            _ => return None,
        };
        (name.len() <= NAME_BYTES_MAX).then_some(name)
    }

    /// What a string constant says, when it is ASCII and can be taken at its word.
    pub(crate) fn text(&self) -> Option<String> {
        let text = self.body().filter(|text| text.is_ascii())?;
        String::from_utf8(text.into_owned()).ok()
    }

    /// What a string constant says, when it can be taken at its word.
    pub(crate) fn body(&self) -> Option<Cow<'_, [u8]>> {
        let from = match self.token {
            Token::Text => memchr(b'\'', self.raw)? + 1,
            Token::DollarText => memchr(b'$', self.raw.get(1..)?)? + 2,
            _ => return None,
        };
        let end_length = match self.token {
            Token::DollarText => from,
            _ => 1,
        };
        let inside = self.raw.get(from..self.raw.len() - end_length)?;
        if self.token == Token::DollarText || memchr(b'\'', inside).is_none() {
            return Some(Cow::Borrowed(inside));
        }
        let mut text = Vec::with_capacity(inside.len());
        let mut quoted = false;
        for byte in inside {
            // Every quote in it is one of a pair.
            quoted = *byte == b'\'' && !quoted;
            if !quoted {
                text.push(*byte);
            }
        }
        Some(Cow::Owned(text))
    }

    /// Whether this is the keyword `word` (lower case), or a name without quotes that reads like it.
    #[inline]
    pub(crate) fn is_word(&self, word: &str) -> bool {
        self.token == Token::Word && self.raw.eq_ignore_ascii_case(word.as_bytes())
    }

    /// The same of several words.
    pub(crate) fn is_one_of(&self, words: &[&str]) -> bool {
        words.iter().any(|word| self.is_word(word))
    }

    /// Whether this name, quoted or not, is `name` (lower case) to PostgreSQL.
    pub(crate) fn is_name(&self, name: &str) -> bool {
        match self.token {
            Token::Word => self.raw.eq_ignore_ascii_case(name.as_bytes()),
            Token::Quoted => self.unquoted() == name.as_bytes(),
            _ => false,
        }
    }

    /// Without its quotes; a doubled one inside stays doubled.
    pub(crate) fn unquoted(&self) -> &[u8] {
        match self.token {
            Token::Quoted => self.raw.get(1..self.raw.len() - 1).unwrap_or_default(),
            _ => self.raw,
        }
    }
}

/// `NAMEDATALEN - 1`.
const NAME_BYTES_MAX: usize = 63;

#[cfg(test)]
mod tests;
