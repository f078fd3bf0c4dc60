//! Whatever the bytes are: no panic, no time lost, and scripts are split as they were put together.

#![allow(clippy::unwrap_used, reason = "a test's own code")]

use std::time::{Duration, Instant};

use proptest::prelude::*;
use statement::{
    Context, Effects, Encoding, Exact, Lead, Statements, Strings, body_is_harmless, read, read_body,
};

const STRINGS: [Strings; 3] = [Strings::Standard, Strings::Escaping, Strings::Undecided];

fn context(strings: Strings) -> Context {
    Context {
        strings,
        encoding: Encoding::AsciiSafe,
    }
}

/// Pieces that mean something to the scanner, so that random texts get far.
const PIECES: &[&str] = &[
    "'",
    "\"",
    "$$",
    "$a$",
    "$1",
    "\\",
    "/*",
    "*/",
    "--",
    "\n",
    ";",
    "(",
    ")",
    ".",
    ",",
    "e'",
    "E'",
    "u&'",
    "U&\"",
    "b'",
    "x'",
    "n'",
    "::",
    ":=",
    "=>",
    "[",
    "]",
    "0x1",
    "1e",
    "1_0",
    "1..2",
    " ",
    "set",
    "reset",
    "show",
    "local",
    "session",
    "to",
    "=",
    "default",
    "time",
    "zone",
    "a.b",
    "select",
    "set_config(",
    "current_setting(",
    "true",
    "false",
    "from",
    "into",
    "do",
    "execute",
    "prepare",
    "deallocate",
    "all",
    "create function",
    "begin",
    "atomic",
    "case",
    "end",
    "with",
    "hold",
    "declare",
    "as",
    "é",
    "\u{0}",
    "\u{ff}",
    "pg_settings",
    "update",
    "then",
    "loop",
    "discard",
    "characteristics",
    "transaction",
    "read",
    "isolation",
    "level",
    "names",
    "schema",
];

fn pieces() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(PIECES);
    prop::collection::vec((piece, prop::bool::ANY), 0..40).prop_map(|pieces| {
        let mut text = String::new();
        for (piece, spaced) in pieces {
            text.push_str(piece);
            text.push_str(if spaced { " " } else { "" });
        }
        text
    })
}

fn read_in_every_way(text: &[u8]) {
    for strings in STRINGS {
        let reading = read(text, context(strings));
        let nothing = reading.statements == Statements::None;
        assert_eq!(nothing, reading.lead == Lead::Nothing);
        assert!(!nothing || reading.effects.is_empty());
        let one = reading.statements == Statements::One;
        assert!(one || reading.exact.is_none());
        let unknown = reading.effects.contains(Effects::UNKNOWN);
        // Of these two, the text says more than what becomes of the name.
        let named = matches!(reading.exact, Some(Exact::Prepare(_) | Exact::Execute(_)));
        assert!(!unknown || named || reading.exact.is_none());
    }
    for language in ["sql", "plpgsql", "c"] {
        let body = read_body(language, text, None);
        let harmless = body_is_harmless(language, text, None);
        assert_eq!(harmless, !body.effects.intersects(Effects::LASTING));
    }
}

/// One statement, as it may stand in a script, that holds as many traps as it can.
const STATEMENTS: &[&str] = &[
    "SELECT ';', 'it''s;', E'\\';', $$;$$, $a$ $b$; $a$",
    "SELECT 1 -- ;\n",
    "SELECT /* ; /* ; */ ; */ \";\"",
    "SELECT 'a'\n';b'",
    "SELECT E'a'\n'\\';'",
    "SELECT b'0', x'1f', u&'d;', n';', 1.5e3, a$b$c, $1",
    "UPDATE t SET a = 1 WHERE b - -1 > +2",
    "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN a THEN 1 END; SELECT 2; END",
    "CREATE RULE r AS ON INSERT TO t DO ALSO (SELECT 1; SELECT 2)",
    "DO $do$ BEGIN NULL; END; $do$",
    "SET a.b = 'x;y'",
    "BEGIN",
    "COPY t FROM STDIN",
];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        read_in_every_way(&bytes);
    }

    #[test]
    fn any_pieces(text in pieces()) {
        read_in_every_way(text.as_bytes());
    }

    #[test]
    fn scripts_are_split_as_they_were_put_together(
        parts in prop::collection::vec(prop::sample::select(STATEMENTS), 0..5),
        between in prop::collection::vec(
            prop::sample::select(&["", " ", ";", "\n", " ; ;", "-- x;\n", "/* ; */"][..]), 6),
    ) {
        let mut script = String::new();
        for (i, part) in parts.iter().enumerate() {
            script.push_str(between[i]);
            script.push_str(part);
            script.push(';');
        }
        script.push_str(between[5]);
        let reading = read(script.as_bytes(), context(Strings::Standard));
        let expected = match parts.len() {
            0 => Statements::None,
            1 => Statements::One,
            _ => Statements::Several,
        };
        prop_assert_eq!(reading.statements, expected, "{}", &script);
        // What each of them may do, all of them together may do.
        for part in parts {
            let alone = read(part.as_bytes(), context(Strings::Standard)).effects;
            prop_assert!(reading.effects.contains(alone));
        }
    }
}

/// Texts made to be read again and again by a reader that looks ahead. A reader that needs the
/// square of their length would take minutes for each.
#[test]
fn long_texts_take_time_in_proportion() {
    let size = 1 << 17;
    for piece in [
        "set_config(",
        "set_config('a', ",
        "(",
        ";",
        "do ",
        "then do ",
        "then set a = b, ",
        "set ",
        "'a'\n",
        "$a",
        "/*",
        "--",
        "execute ",
        "a.",
        "select 1;",
        "current_setting('",
        "\"\"",
        "begin atomic ",
        "case ",
        "> set x to y, ",
        "declare with hold ",
        "u&\"",
        "'\\",
        "0.",
        "set a.",
        "operator(",
        "reset a.b.",
    ] {
        let text = piece.repeat(size / piece.len());
        let started = Instant::now();
        read_in_every_way(text.as_bytes());
        let took = started.elapsed();
        assert!(took < Duration::from_secs(10), "{piece}: {took:?}");
    }
}
