//! A cheaper key than the shape.
//!
//! Owns: leaving out the constants that are easy to see, in one look at each byte. Does not own: shapes
//! (`normal`), nor the texts in which nothing is easy: those are their own key.

use crate::{Encoding, lexer::continues_word};

/// Writes `text`, which is whole, to `out` in place of what is there, with `0` for numbers and `''` for
/// strings. `false`: it has something in it (an escape, a comment, a quoted name, `$`) that takes more than a look,
/// and `out` is of no use.
///
/// **The one promise**: what is written is a text of the same shape. So texts that are written alike
/// have one shape, and need [`normalise`](crate::normalise) only once.
///
/// Numbers that are not digits alone are left as they are.
pub fn outline(text: &[u8], encoding: Encoding, out: &mut Vec<u8>) -> bool {
    out.clear();
    if encoding == Encoding::Overlapping && !text.is_ascii() {
        return false;
    }
    let byte = |at: usize| text.get(at).copied().unwrap_or(b' ');
    let (mut at, mut copied) = (0, 0);
    while at < text.len() {
        let from = at;
        at += 1;
        match KINDS[usize::from(text[from])] {
            Kind::Ordinary => {}
            Kind::Digit => {
                while byte(at).is_ascii_digit() {
                    at += 1;
                }
                let before = from.checked_sub(1).map_or(b' ', byte);
                if !is_of_number(before) && !is_of_number(byte(at)) {
                    out.extend_from_slice(&text[copied..from]);
                    out.push(b'0');
                    copied = at;
                }
            }
            Kind::Quote => {
                let before = from.checked_sub(1).map_or(b' ', byte);
                let Some(length) = memchr::memchr2(b'\'', b'\\', &text[at..]) else {
                    return false;
                };
                at += length + 1;
                let is_simple = text[at - 1] == b'\'' && byte(at) != b'\'';
                // `E'…'`, `U&'…'` and their like.
                if !is_simple || continues_word(before) || before == b'&' {
                    return false;
                }
                out.extend_from_slice(&text[copied..from]);
                out.extend_from_slice(b"''");
                copied = at;
            }
            Kind::Comment if matches!((text[from], byte(at)), (b'-', b'-') | (b'/', b'*')) => {
                return false;
            }
            Kind::Comment => {}
            Kind::Hard => return false,
        }
    }
    out.extend_from_slice(&text[copied..]);
    true
}

#[inline]
fn is_of_number(byte: u8) -> bool {
    byte == b'.' || continues_word(byte)
}

#[derive(Clone, Copy)]
enum Kind {
    Ordinary,
    Digit,
    Quote,
    /// May begin a comment.
    Comment,
    Hard,
}

static KINDS: [Kind; 256] = {
    let mut table = [Kind::Ordinary; 256];
    let mut byte = 0;
    while byte < table.len() {
        table[byte] = match byte as u8 {
            b'0'..=b'9' => Kind::Digit,
            b'\'' => Kind::Quote,
            b'-' | b'/' => Kind::Comment,
            b'"' | b'\\' | b'$' | 0 => Kind::Hard,
            _ => Kind::Ordinary,
        };
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Excerpt, normalise};

    fn written(text: &str) -> Option<String> {
        let mut out = b"left".to_vec();
        let is_easy = outline(text.as_bytes(), Encoding::AsciiSafe, &mut out);
        is_easy.then(|| String::from_utf8(out).unwrap())
    }

    fn shape(bytes: &[u8]) -> (u64, Vec<u8>) {
        let mut out = Vec::new();
        let excerpt = Excerpt {
            bytes,
            is_whole: true,
            encoding: Encoding::AsciiSafe,
        };
        (normalise(excerpt, &mut out), out)
    }

    #[test]
    fn numbers_and_strings_are_left_out() {
        for (text, expected) in [
            ("", ""),
            ("SELECT 17", "SELECT 0"),
            (
                "select a1 from t2 where b=3;",
                "select a1 from t2 where b=0;",
            ),
            ("VALUES (1,22,'x y',-4)", "VALUES (0,0,'',-0)"),
            (
                "WHERE a = '' AND b = 'é' || 'z'",
                "WHERE a = '' AND b = '' || ''",
            ),
            (
                "SELECT 1.5, 0x1F, 1_000, 1e5, .5",
                "SELECT 1.5, 0x1F, 1_000, 1e5, .5",
            ),
            ("SELECT 8/2-1", "SELECT 0/0-0"),
        ] {
            assert_eq!(written(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_takes_more_than_a_look_is_left_alone() {
        for text in [
            "SELECT 'it''s'",
            "SELECT ''''",
            "SELECT 'open",
            r"SELECT 'a\'",
            r"SELECT '\'' || 'x'",
            "SELECT E'x'",
            "SELECT U&'x'",
            "SELECT \"a 1 b\"",
            "SELECT $$x$$",
            "SELECT $1",
            "SELECT 1 -- don't",
            "SELECT /* ' */ 1",
            "SELECT \0",
        ] {
            assert_eq!(written(text), None, "{text}");
        }
        let foreign = "SELECT 'é'".as_bytes();
        assert!(!outline(foreign, Encoding::Overlapping, &mut Vec::new()));
    }

    fn piece() -> impl Strategy<Value = String> {
        prop_oneof![
            "[0-9]{1,4}",
            "'[a-z0-9 \\-/$\"é]{0,6}'",
            "[a-zA-Z_][a-z0-9_]{0,3}",
            prop::sample::select(vec![
                " ",
                " ",
                "\n",
                ",",
                "(",
                ")",
                "-",
                "+",
                "=",
                "<",
                "*",
                ".",
                ";",
                "::",
                "[",
                "]",
                "&",
                "'",
                "\"",
                "\\",
                "--",
                "/*",
                "*/",
                "$1",
                "$a$",
                "e",
                "E",
                "N",
                "U&",
                "x",
                "0x",
                "1e",
                "SELECT ",
                "VALUES ",
                "IN (",
                "ARRAY[",
                "PASSWORD ",
                "SET a TO ",
                "LIMIT ",
                "ALTER ROLE ",
                "COPY ",
                "é",
            ])
            .prop_map(str::to_owned),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(4000) })]

        #[test]
        fn it_has_the_shape_of_the_text(pieces in prop::collection::vec(piece(), 0..14)) {
            let text = pieces.concat();
            if let Some(short) = written(&text) {
                prop_assert_eq!(shape(short.as_bytes()), shape(text.as_bytes()), "{} and {}", text, short);
            }
        }
    }
}
