//! Finding where statements end in a text of SQL, token by token as psql's scanner does.
//!
//! Owns: quotes, comments, bodies of functions, and what of a statement its runner must know before
//! it is sent. Does not own: a grammar. The server is sent one statement a message and refuses two, so
//! a text that is read wrongly here is an error there, and never a statement that nobody saw.

/// Tokens kept of the beginning of a statement: what is asked of them needs no more.
const HEAD_MAX: usize = 6;

/// Where in the text the scanner is.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Mode {
    Plain,
    /// `-- …`, from this offset.
    LineComment(usize),
    /// `/* … */`, so many deep.
    BlockComment(u32),
    /// `'…'`; with a backslash that escapes, `E'…'`.
    Quote {
        escapes: bool,
    },
    /// `"…"`
    Name,
    /// `$tag$ … $tag$`, with its dollars.
    Dollar(Vec<u8>),
}

/// One statement of the text that was scanned.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Span {
    /// Offset of its first token.
    pub(super) start: usize,
    /// Offset behind its last byte, without `;`.
    pub(super) end: usize,
    /// Offset of what follows it.
    pub(super) next: usize,
    /// Line of its first token, from 1.
    pub(super) line: u64,
    /// Its first tokens: words in upper case, and single characters.
    pub(super) head: Vec<String>,
    /// How many tokens it has.
    pub(super) tokens: usize,
    /// `… FROM STDIN`: data follows, when it is a COPY.
    pub(super) from_stdin: bool,
    /// `… TO STDOUT`
    pub(super) to_stdout: bool,
}

/// What was found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Found {
    /// A statement.
    Statement(Span),
    /// A backslash outside of quotes at this offset and line: a command to psql. Whether it stands
    /// between two statements.
    Meta {
        at: usize,
        line: u64,
        is_between: bool,
    },
    /// Nothing before more of the text is there.
    More,
    /// Nothing any more.
    End,
}

/// The text ends inside of something that began on this line.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Unfinished {
    pub(super) line: u64,
}

/// Scans a text that comes in pieces. Offsets count from what [`Self::forget`] left.
#[derive(Debug)]
pub(super) struct Scanner {
    mode: Mode,
    at: usize,
    line: u64,
    start: Option<(usize, u64)>,
    head: Vec<String>,
    tokens: usize,
    parens: u32,
    /// Open `BEGIN ATOMIC` and `CASE` of a function's body.
    blocks: u32,
    /// Initials of CREATE, OR, REPLACE, FUNCTION and PROCEDURE, as far as the statement begins so.
    initials: Vec<u8>,
    last_word: String,
    from_stdin: bool,
    to_stdout: bool,
    /// Dumps of pg_dump that began, and those that ended.
    pub(super) dumps: (u32, u32),
}

impl Scanner {
    pub(super) fn new() -> Self {
        Self {
            mode: Mode::Plain,
            at: 0,
            line: 1,
            start: None,
            head: Vec::new(),
            tokens: 0,
            parens: 0,
            blocks: 0,
            initials: Vec::new(),
            last_word: String::new(),
            from_stdin: false,
            to_stdout: false,
            dumps: (0, 0),
        }
    }

    /// Line of what comes next.
    pub(super) fn line(&self) -> u64 {
        self.line
    }

    /// Goes past what stands before the offset `to`, unread.
    pub(super) fn pass(&mut self, text: &[u8], to: usize) {
        self.skip(text, to.saturating_sub(self.at));
    }

    /// The first `bytes` are gone, with `lines` more than were scanned. Between two statements.
    pub(super) fn forget(&mut self, bytes: usize, lines: u64) {
        self.at = self.at.saturating_sub(bytes);
        self.line += lines;
    }

    /// Scans on, up to the next thing to be told. `is_end`: nothing follows `text`.
    ///
    /// # Errors
    ///
    /// [`Unfinished`] at the end only.
    pub(super) fn scan(&mut self, text: &[u8], is_end: bool) -> Result<Found, Unfinished> {
        while let Some(&byte) = text.get(self.at) {
            let next = text.get(self.at + 1).copied();
            // What a byte means depends on the one behind it.
            if next.is_none() && !is_end && b"-/*'\\".contains(&byte) {
                return Ok(Found::More);
            }
            match &mut self.mode {
                Mode::Plain => {
                    if let Some(found) = self.plain(text, byte, next, is_end) {
                        return Ok(found);
                    }
                }
                Mode::LineComment(from) => {
                    if byte == b'\n' {
                        let from = *from;
                        self.comment(&text[from..self.at]);
                        self.mode = Mode::Plain;
                    }
                    self.skip(text, 1);
                }
                Mode::BlockComment(depth) => match (byte, next) {
                    (b'/', Some(b'*')) => {
                        *depth += 1;
                        self.skip(text, 2);
                    }
                    (b'*', Some(b'/')) => {
                        *depth -= 1;
                        if *depth == 0 {
                            self.mode = Mode::Plain;
                        }
                        self.skip(text, 2);
                    }
                    _ => self.skip(text, 1),
                },
                Mode::Quote { escapes } => match (byte, next) {
                    (b'\\', Some(_)) if *escapes => self.skip(text, 2),
                    (b'\'', Some(b'\'')) => self.skip(text, 2),
                    (b'\'', _) => {
                        self.mode = Mode::Plain;
                        self.skip(text, 1);
                    }
                    _ => self.skip(text, 1),
                },
                Mode::Name => {
                    // `""` ends one and begins the next: the same to us.
                    if byte == b'"' {
                        self.mode = Mode::Plain;
                    }
                    self.skip(text, 1);
                }
                Mode::Dollar(tag) => {
                    let rest = &text[self.at..];
                    match memchr::memmem::find(rest, tag) {
                        Some(offset) => {
                            let bytes = offset + tag.len();
                            self.mode = Mode::Plain;
                            self.skip(text, bytes);
                        }
                        None => {
                            let bytes = (rest.len() + 1).saturating_sub(tag.len());
                            self.skip(text, bytes);
                            break;
                        }
                    }
                }
            }
        }
        if is_end {
            self.end(text)
        } else {
            Ok(Found::More)
        }
    }

    fn end(&mut self, text: &[u8]) -> Result<Found, Unfinished> {
        let line = self.start.map_or(self.line, |(_, line)| line);
        if let Mode::LineComment(from) = self.mode {
            self.comment(text.get(from..).unwrap_or_default());
            self.mode = Mode::Plain;
        }
        if self.mode != Mode::Plain || self.parens > 0 || self.blocks > 0 {
            return Err(Unfinished { line });
        }
        self.at = text.len();
        Ok(self
            .statement(text.len(), text.len())
            .map_or(Found::End, Found::Statement))
    }

    fn plain(&mut self, text: &[u8], byte: u8, next: Option<u8>, is_end: bool) -> Option<Found> {
        match (byte, next) {
            (b' ' | b'\t' | b'\r' | b'\n' | 0x0b | 0x0c, _) => self.skip(text, 1),
            (b'-', Some(b'-')) => {
                self.mode = Mode::LineComment(self.at);
                self.skip(text, 2);
            }
            (b'/', Some(b'*')) => {
                self.mode = Mode::BlockComment(1);
                self.skip(text, 2);
            }
            (b'\\', _) => {
                return Some(Found::Meta {
                    at: self.at,
                    line: self.line,
                    is_between: self.start.is_none(),
                });
            }
            (b';', _) if self.parens == 0 && self.blocks == 0 => {
                let end = self.at;
                self.skip(text, 1);
                if let Some(span) = self.statement(end, self.at) {
                    return Some(Found::Statement(span));
                }
            }
            (b'$', _) => {
                let tag = text[self.at + 1..]
                    .iter()
                    .take_while(|byte| is_word(**byte) && **byte != b'$');
                let behind = self.at + 1 + tag.count();
                if behind == text.len() && !is_end {
                    return Some(Found::More);
                }
                self.token("$");
                let digit = next.is_some_and(|next| next.is_ascii_digit());
                if text.get(behind) == Some(&b'$') && !digit {
                    self.mode = Mode::Dollar(text[self.at..=behind].to_vec());
                    self.skip(text, behind + 1 - self.at);
                } else {
                    self.skip(text, 1);
                }
            }
            (first, _) if first.is_ascii_alphabetic() || first == b'_' || first >= 0x80 => {
                let length = text[self.at..].iter().take_while(|b| is_word(**b)).count();
                let behind = self.at + length;
                if behind == text.len() && !is_end {
                    return Some(Found::More);
                }
                let word = String::from_utf8_lossy(&text[self.at..behind]).to_ascii_uppercase();
                self.word(&word);
                self.skip(text, length);
                if word == "E" && text.get(behind) == Some(&b'\'') {
                    self.mode = Mode::Quote { escapes: true };
                    self.skip(text, 1);
                }
            }
            _ => {
                match byte {
                    b'\'' => self.mode = Mode::Quote { escapes: false },
                    b'"' => self.mode = Mode::Name,
                    b'(' => self.parens += 1,
                    b')' => self.parens = self.parens.saturating_sub(1),
                    _ => {}
                }
                self.token(char::from(byte).encode_utf8(&mut [0; 4]));
                self.skip(text, 1);
            }
        }
        None
    }

    /// A word in upper case.
    fn word(&mut self, word: &str) {
        let counts = matches!(word, "CREATE" | "OR" | "REPLACE" | "FUNCTION" | "PROCEDURE");
        if counts && self.initials.len() == self.tokens && self.tokens < 4 {
            self.initials.extend(word.bytes().take(1));
        }
        let is_routine = matches!(
            &self.initials[..],
            [b'C', b'F' | b'P', ..] | [b'C', b'O', b'R', b'F' | b'P']
        );
        if is_routine && self.parens == 0 {
            match word {
                "BEGIN" => self.blocks += 1,
                // It ends with END, too.
                "CASE" if self.blocks > 0 => self.blocks += 1,
                "END" => self.blocks = self.blocks.saturating_sub(1),
                _ => {}
            }
        }
        if self.parens == 0 {
            self.from_stdin |= word == "STDIN" && self.last_word == "FROM";
            self.to_stdout |= word == "STDOUT" && self.last_word == "TO";
        }
        self.token(word);
        word.clone_into(&mut self.last_word);
    }

    fn token(&mut self, token: &str) {
        self.start.get_or_insert((self.at, self.line));
        self.tokens += 1;
        if self.head.len() < HEAD_MAX {
            self.head.push(token.to_owned());
        }
        self.last_word.clear();
    }

    fn comment(&mut self, text: &[u8]) {
        match text.trim_ascii() {
            b"-- PostgreSQL database dump" => self.dumps.0 += 1,
            b"-- PostgreSQL database dump complete" => self.dumps.1 += 1,
            _ => {}
        }
    }

    /// What was scanned of a statement, when there is one.
    fn statement(&mut self, end: usize, next: usize) -> Option<Span> {
        let (start, line) = self.start.take()?;
        let head = std::mem::take(&mut self.head);
        let is_copy = head.first().is_some_and(|word| word == "COPY");
        let span = Span {
            start,
            end,
            next,
            line,
            tokens: self.tokens,
            from_stdin: is_copy && self.from_stdin,
            to_stdout: is_copy && self.to_stdout,
            head,
        };
        (self.tokens, self.parens, self.blocks) = (0, 0, 0);
        (self.from_stdin, self.to_stdout) = (false, false);
        self.initials.clear();
        self.last_word.clear();
        Some(span)
    }

    fn skip(&mut self, text: &[u8], bytes: usize) {
        let end = (self.at + bytes).min(text.len());
        let skipped = &text[self.at..end];
        self.line += skipped.iter().filter(|byte| **byte == b'\n').count() as u64;
        self.at = end;
    }
}

/// Whether a byte goes on with a word. PostgreSQL manual, section "Identifiers and Key Words".
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The statements of a text that comes in pieces of `size` bytes.
    fn split(text: &str, size: usize) -> Result<Vec<String>, Unfinished> {
        let (mut scanner, mut found) = (Scanner::new(), Vec::new());
        let mut buffer = Vec::new();
        let mut rest = text.as_bytes();
        loop {
            match scanner.scan(&buffer, rest.is_empty())? {
                Found::Statement(span) => {
                    let one = &buffer[span.start..span.end];
                    found.push(format!("{}:{}", span.line, String::from_utf8_lossy(one)));
                    buffer.drain(..span.next);
                    scanner.forget(span.next, 0);
                }
                Found::Meta { at, line, .. } => {
                    found.push(format!("{line}:meta"));
                    // As its reader does: the line is there as a whole.
                    buffer.extend_from_slice(rest);
                    rest = b"";
                    let length = buffer[at..].iter().position(|b| *b == b'\n').unwrap();
                    scanner.pass(&buffer, at + length);
                }
                Found::More => {
                    let (some, more) = rest.split_at(size.min(rest.len()));
                    buffer.extend_from_slice(some);
                    rest = more;
                }
                Found::End => return Ok(found),
            }
        }
    }

    #[track_caller]
    fn check(text: &str, statements: &[&str]) {
        for size in [1, 2, 3, 7, 1000] {
            let found = split(text, size);
            assert_eq!(found.as_deref(), Ok(&statements.map_owned()[..]), "{size}");
        }
    }

    trait Owned {
        fn map_owned(&self) -> Vec<String>;
    }

    impl Owned for [&str] {
        fn map_owned(&self) -> Vec<String> {
            self.iter().map(|text| (*text).to_owned()).collect()
        }
    }

    #[test]
    fn statements_end_where_postgresql_ends_them() {
        check("", &[]);
        check(" ;; -- nothing\n;", &[]);
        check("select 1;\nselect 2", &["1:select 1", "2:select 2"]);
        check(
            "select ';', 'it''s;' ; x",
            &["1:select ';', 'it''s;' ", "1:x"],
        );
        check(r"select E'a\';b'; x", &[r"1:select E'a\';b'", "1:x"]);
        check(r"select 'a\'; x", &[r"1:select 'a\'", "1:x"]);
        check("select \"a;\"\"b\"; x", &["1:select \"a;\"\"b\"", "1:x"]);
        check("/* ; /* ; */ ; */ x; -- ;\ny", &["1:x", "2:y"]);
        check(
            "do $a$ ; $b$ ; $$ ; $a$; x",
            &["1:do $a$ ; $b$ ; $$ ; $a$", "1:x"],
        );
        check("select $1;x", &["1:select $1", "1:x"]);
        check("select a$b$c;x$y;", &["1:select a$b$c", "1:x$y"]);
        check(
            "create rule r as on delete to t do (a; b); x",
            &["1:create rule r as on delete to t do (a; b)", "1:x"],
        );
        let body = "create or replace function f() returns int\nbegin atomic; select case when 1=1 then 2 end; end";
        check(&format!("{body}; x"), &[&format!("1:{body}"), "2:x"]);
        check("begin; x; end;", &["1:begin", "1:x", "1:end"]);
        check(
            "create table function(a int); begin; x",
            &["1:create table function(a int)", "1:begin", "1:x"],
        );
    }

    #[test]
    fn commands_to_psql_are_seen_and_backslashes_in_quotes_are_not() {
        check("\\! id\nselect 1;", &["1:meta", "2:select 1"]);
        check(
            "select '\\! id', $$\\! id$$, \"\\x\" /* \\! */ -- \\!\n;",
            &["1:select '\\! id', $$\\! id$$, \"\\x\" /* \\! */ -- \\!\n"],
        );
    }

    #[test]
    fn a_text_that_ends_inside_of_something_is_not_taken_for_whole() {
        for text in [
            "\nselect 'a",
            "\nselect (1",
            "\ndo $$ x",
            "\nselect \"a",
            "\n/* x",
        ] {
            assert_eq!(split(text, 1000), Err(Unfinished { line: 2 }), "{text}");
        }
    }

    #[test]
    fn what_follows_a_copy_is_known_before_it_is_sent() {
        for (text, is) in [
            ("COPY t (a) FROM stdin;", true),
            ("copy t from stdin with (format csv);", true),
            ("COPY \"from stdin\" FROM 'file';", false),
            ("select 1 from stdin;", false),
        ] {
            let found = Scanner::new().scan(text.as_bytes(), true);
            let Ok(Found::Statement(span)) = found else {
                panic!("{text}")
            };
            assert_eq!(span.from_stdin, is, "{text}");
        }
    }
}
