//! The shape of a text: what it asks, without what it asks about.
//!
//! Owns: leaving out constants, comments and secrets, folding lists, and a number that is the same
//! for texts of one shape. Does not own: how shapes are counted (`proxy::insight`).
//!
//! **The one promise**: no constant of a text, and no part of one, is in its shape. It holds
//! whatever `standard_conforming_strings` is, since a text whose constants end elsewhere under the
//! other setting is not shown. What stands where only a name can stand is shown, so a text that
//! PostgreSQL refuses may show what somebody forgot to quote; who keeps shapes should look at the
//! answer first.

mod lists;
mod outline;
mod start;

use crate::{
    Encoding, Strings,
    lexer::{Lexeme, Lexer, Token},
    words::{self, Word},
};
use lists::Lists;
pub use outline::outline;
use start::Start;

/// Longest shape that is written. What is longer is cut off, and told apart all the same.
pub const SHAPE_BYTES_MAX: usize = 1024;

/// Stands for everything that is not shown.
const CUT: &str = "…";
/// Stands for further elements of a list, as PostgreSQL 18 writes it in `pg_stat_statements`.
const FOLDED: &str = " /*, ... */";

/// A text, or as much of it as is there.
#[derive(Clone, Copy, Debug)]
pub struct Excerpt<'a> {
    /// From its beginning.
    pub bytes: &'a [u8],
    /// Whether nothing follows.
    pub is_whole: bool,
    pub encoding: Encoding,
}

/// Writes the shape of a text to `out` in place of what is there, at most [`SHAPE_BYTES_MAX`]
/// bytes in the encoding of the text, and returns a number that texts of the same shape share,
/// whatever the case of their words and the blanks between them. The number stays the same over
/// releases and machines.
///
/// Constants are `$n`, counted on from the highest parameter of the text; lists of constants in
/// `IN (…)` and `ARRAY[…]`, and rows of `VALUES` that look the same, are folded into the first.
/// Statements that may carry secrets outside constants are reduced to their keywords.
///
/// Takes time in proportion to the length of the text, and allocates for `out` alone.
pub fn normalise(excerpt: Excerpt<'_>, out: &mut Vec<u8>) -> u64 {
    let Excerpt {
        mut bytes,
        mut is_whole,
        encoding,
    } = excerpt;
    if encoding == Encoding::Overlapping
        && let Some(end) = bytes.iter().position(|byte| !byte.is_ascii())
    {
        (bytes, is_whole) = (&bytes[..end], false);
    }
    out.clear();
    let first = highest_parameter(bytes).saturating_add(1);
    Writer {
        lexer: Lexer::new(bytes, Strings::Undecided),
        length: bytes.len(),
        is_whole,
        shape: Shape {
            out,
            is_full: false,
            hash: SEED,
            next: first,
            constants: 0,
        },
        before: NOTHING,
        depth: 0,
        lists: Lists::default(),
        start: Start::default(),
    }
    .write()
}

/// The highest `$n`; numbers of constants follow it.
fn highest_parameter(bytes: &[u8]) -> u32 {
    if memchr::memchr(b'$', bytes).is_none() {
        return 0;
    }
    let mut lexer = Lexer::new(bytes, Strings::Undecided);
    let mut highest = 0;
    loop {
        let lexeme = lexer.next();
        match lexeme.token {
            Token::End | Token::Bad => return highest,
            Token::Param => {
                let number = str::from_utf8(&lexeme.raw[1..]).ok();
                highest = highest.max(number.and_then(|n| n.parse().ok()).unwrap_or(0));
            }
            _ => {}
        }
    }
}

/// FNV-1a, 64 bits.
const SEED: u64 = 0xcbf2_9ce4_8422_2325;

#[inline]
fn mix(hash: u64, byte: u8) -> u64 {
    (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
}

/// Bytes that no token has, for what is no token.
const BETWEEN: u8 = 0;
const CONSTANT: u8 = 1;
const MORE: u8 = 2;
const REST: u8 = 3;

/// What was written so far.
struct Shape<'o> {
    out: &'o mut Vec<u8>,
    /// Something was left out because there was no room.
    is_full: bool,
    hash: u64,
    /// Number of the next constant.
    next: u32,
    /// Constants and parameters met.
    constants: u32,
}

/// A place in a shape to go back to.
#[derive(Clone, Copy, Default)]
struct Mark {
    length: usize,
    is_full: bool,
    hash: u64,
    next: u32,
    constants: u32,
}

impl Shape<'_> {
    fn mark(&self) -> Mark {
        Mark {
            length: self.out.len(),
            is_full: self.is_full,
            hash: self.hash,
            next: self.next,
            constants: self.constants,
        }
    }

    fn back_to(&mut self, mark: Mark) {
        self.out.truncate(mark.length);
        self.is_full = mark.is_full;
        self.hash = mark.hash;
        self.next = mark.next;
        self.constants = mark.constants;
    }

    #[inline]
    fn put(&mut self, is_apart: bool, bytes: &[u8]) {
        let room = SHAPE_BYTES_MAX - CUT.len() - 1;
        self.is_full |= self.out.len() + usize::from(is_apart) + bytes.len() > room;
        if self.is_full {
            return;
        }
        if is_apart {
            self.out.push(b' ');
        }
        self.out.extend_from_slice(bytes);
    }

    fn mix(&mut self, byte: u8) {
        self.hash = mix(self.hash, byte);
    }

    fn mix_word(&mut self, word: &[u8]) {
        let bytes = word.iter();
        self.hash = bytes.fold(self.hash, |hash, byte| mix(hash, byte.to_ascii_lowercase()));
    }

    /// A word that was not left to stand where it stood.
    fn word(&mut self, is_apart: bool, word: &[u8]) {
        self.put(is_apart, word);
        self.mix(BETWEEN);
        self.mix_word(word);
    }

    /// The rest is not shown.
    fn cut(&mut self) {
        if !self.out.is_empty() {
            self.out.push(b' ');
        }
        self.out.extend_from_slice(CUT.as_bytes());
    }
}

/// The token before.
#[derive(Clone, Copy)]
struct Before<'a> {
    lexeme: Lexeme<'a>,
    /// Where it ends in the text.
    end: usize,
}

const NOTHING: Before<'static> = Before {
    lexeme: Lexeme {
        token: Token::End,
        raw: b"",
    },
    end: 0,
};

struct Writer<'a, 'o> {
    lexer: Lexer<'a>,
    length: usize,
    is_whole: bool,
    shape: Shape<'o>,
    before: Before<'a>,
    /// Parentheses and brackets that are open.
    depth: u32,
    lists: Lists,
    start: Start<'a>,
}

impl<'a> Writer<'a, '_> {
    fn write(mut self) -> u64 {
        loop {
            let lexeme = self.lexer.next();
            let end = self.lexer.position();
            match lexeme.token {
                Token::End if self.is_whole => return self.end(),
                Token::End => return self.cut(),
                Token::Bad if self.is_whole => return self.broken(),
                Token::Bad => return self.cut(),
                // It might go on.
                _ if !self.is_whole && end == self.length => return self.cut(),
                Token::Word if self.is_torn(lexeme, end) => return self.broken(),
                _ => {
                    let lexeme = self.token(lexeme, end);
                    let end = self.lexer.position();
                    self.before = Before { lexeme, end };
                }
            }
        }
    }

    fn end(mut self) -> u64 {
        self.lists.leave_all(&mut self.shape);
        if self.shape.is_full {
            self.shape.cut();
        }
        self.shape.hash
    }

    /// The text goes on where nothing can be seen.
    fn cut(mut self) -> u64 {
        self.lists.cut(&mut self.shape);
        self.shape.mix(REST);
        self.shape.cut();
        self.shape.hash
    }

    /// Something does not end, so what looked like a name may be of a constant. Only the first word
    /// is shown.
    fn broken(mut self) -> u64 {
        let lead = self.start.lead().unwrap_or_default();
        self.shape.back_to(Mark::default());
        self.shape.hash = SEED;
        self.shape.word(false, lead);
        self.shape.mix(REST);
        self.shape.cut();
        self.shape.hash
    }

    /// A name right behind a constant, as in `'O'Brien'`, which nobody writes on purpose.
    fn is_torn(&self, lexeme: Lexeme<'a>, end: usize) -> bool {
        let before = self.before;
        before.end + lexeme.raw.len() == end
            && matches!(
                before.lexeme.token,
                Token::Text | Token::ObscureText | Token::DollarText | Token::Bits
            )
            && words::find(lexeme.raw) == (Word::Name, false)
    }

    /// Takes a token, and returns what stands before the next one.
    fn token(&mut self, lexeme: Lexeme<'a>, end: usize) -> Lexeme<'a> {
        let is_apart = self.before.end + lexeme.raw.len() < end;
        match lexeme.token {
            Token::Open | Token::OpenBracket => self.open(lexeme, is_apart),
            Token::Close | Token::CloseBracket => {
                self.lists.close(self.depth, &mut self.shape);
                self.depth = self.depth.saturating_sub(1);
                self.show(lexeme, is_apart);
                self.lists.closed(self.depth, &mut self.shape);
            }
            Token::Semicolon if self.depth == 0 => {
                self.lists.leave_all(&mut self.shape);
                self.start.statement_ends(&self.shape);
            }
            _ if self.start.is_at_start() => self.first(lexeme, is_apart),
            _ if self.start.is_reduced() => {}
            Token::Comma => {
                self.lists.comma(self.depth, &mut self.shape);
                self.show(lexeme, is_apart);
                self.lists.element(self.depth, &mut self.shape);
            }
            Token::Text | Token::ObscureText | Token::DollarText | Token::Bits => {
                self.constant(is_apart);
            }
            Token::Number => {
                self.exponent(lexeme);
                self.constant(is_apart);
            }
            Token::Minus if self.is_sign() => {
                let number = self.lexer.next();
                self.exponent(number);
                self.constant(is_apart);
                return number;
            }
            _ => {
                self.lists.other(self.depth);
                self.show(lexeme, is_apart);
                if self.start.is_value_next(lexeme) {
                    self.constant(true);
                    self.start.reduce();
                }
            }
        }
        lexeme
    }

    fn open(&mut self, lexeme: Lexeme<'a>, is_apart: bool) {
        if !self.start.is_reduced() {
            let is_apart = self.start.separate(&mut self.shape) || is_apart;
            let before = self.before.lexeme;
            self.lists.other(self.depth);
            self.lists.rows(&before, self.depth, &mut self.shape);
            self.show(lexeme, is_apart);
            self.lists
                .enclosed(lexeme.token, &before, self.depth, &mut self.shape);
        }
        self.depth += 1;
    }

    /// The first token of a statement that is no parenthesis.
    fn first(&mut self, lexeme: Lexeme<'a>, is_apart: bool) {
        let is_apart = self.start.separate(&mut self.shape) || is_apart;
        self.start.begin(lexeme, &mut self.shape);
        self.show(lexeme, is_apart);
        if !self.start.is_reduced() {
            self.start
                .look_ahead(lexeme, &mut self.lexer, &mut self.shape);
        }
    }

    /// A token that is shown as it is.
    #[inline]
    fn show(&mut self, lexeme: Lexeme<'a>, is_apart: bool) {
        if self.start.is_reduced() {
            return;
        }
        let shape = &mut self.shape;
        shape.put(is_apart && !shape.out.is_empty(), lexeme.raw);
        let is_joined = !is_apart && is_of_operator(self.before.lexeme.token);
        if !(is_joined && is_of_operator(lexeme.token)) {
            shape.mix(BETWEEN);
        }
        match lexeme.token {
            Token::Param => {
                shape.constants += 1;
                shape.mix(CONSTANT);
            }
            Token::Word => shape.mix_word(lexeme.raw),
            _ => {
                let hash = shape.hash;
                shape.hash = lexeme.raw.iter().fold(hash, |hash, byte| mix(hash, *byte));
            }
        }
    }

    fn constant(&mut self, is_apart: bool) {
        self.lists.other(self.depth);
        let shape = &mut self.shape;
        let mut digits = [0; 11];
        let number = write_number(shape.next, &mut digits);
        shape.put(is_apart && !shape.out.is_empty(), number);
        shape.next = shape.next.saturating_add(1);
        shape.constants += 1;
        shape.mix(BETWEEN);
        shape.mix(CONSTANT);
    }

    /// Takes the rest of a number like `1e-5`, which the lexer leaves in three tokens.
    fn exponent(&mut self, number: Lexeme<'a>) {
        let is_open = matches!(number.raw, [b'0'..=b'9' | b'.', .., b'e' | b'E'])
            && !matches!(number.raw, [b'0', b'x' | b'X', ..]);
        if !is_open {
            return;
        }
        let from = self.lexer.position();
        let mut ahead = self.lexer.clone();
        let sign = ahead.next();
        let digits = ahead.next();
        if matches!(sign.token, Token::Minus | Token::Plus)
            && digits.token == Token::Number
            && ahead.position() == from + 1 + digits.raw.len()
        {
            self.lexer = ahead;
        }
    }

    /// Whether the minus just read belongs to the number behind it.
    fn is_sign(&self) -> bool {
        if self.lexer.peek().token != Token::Number {
            return false;
        }
        let Before { lexeme, end } = self.before;
        match lexeme.token {
            Token::Open | Token::OpenBracket | Token::Comma => true,
            Token::Equals | Token::Greater | Token::Minus | Token::Plus => true,
            // Part of an operator like `@-`.
            Token::Sign if end + 1 == self.lexer.position() => {
                !b"~!@#%^&|`?".contains(lexeme.raw.first().unwrap_or(&b'?'))
            }
            Token::Sign => true,
            _ => lexeme.is_one_of(&BEFORE_SIGN),
        }
    }
}

/// Words behind which a minus begins a number.
const BEFORE_SIGN: [&str; 22] = [
    "all",
    "and",
    "any",
    "between",
    "by",
    "case",
    "default",
    "distinct",
    "else",
    "having",
    "ilike",
    "in",
    "like",
    "limit",
    "not",
    "offset",
    "on",
    "or",
    "returning",
    "select",
    "then",
    "where",
];

fn is_of_operator(token: Token) -> bool {
    matches!(
        token,
        Token::Sign | Token::Equals | Token::Greater | Token::Minus | Token::Plus
    )
}

/// `$` and a number.
fn write_number(mut number: u32, digits: &mut [u8; 11]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    at -= 1;
    digits[at] = b'$';
    &digits[at..]
}

#[cfg(test)]
mod tests;
