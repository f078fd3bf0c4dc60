use proptest::prelude::*;

use super::*;
use crate::Encoding::{AsciiSafe, Overlapping};

fn excerpt(bytes: &[u8]) -> Excerpt<'_> {
    Excerpt {
        bytes,
        is_whole: true,
        encoding: AsciiSafe,
    }
}

fn shape_of(excerpt: Excerpt<'_>) -> (String, u64) {
    let mut out = Vec::new();
    let number = normalise(excerpt, &mut out);
    assert!(out.len() <= SHAPE_BYTES_MAX, "{}", out.len());
    (String::from_utf8_lossy(&out).into_owned(), number)
}

fn shape(text: &str) -> String {
    shape_of(excerpt(text.as_bytes())).0
}

#[track_caller]
fn check(text: &str, expected: &str) {
    assert_eq!(shape(text), expected, "{text}");
}

/// All of them have the shape of the first.
#[track_caller]
fn same(texts: &[&str]) {
    let number = |text: &str| shape_of(excerpt(text.as_bytes())).1;
    for text in texts {
        assert_eq!(number(text), number(texts[0]), "{text}");
    }
}

/// None of them has the shape of another.
#[track_caller]
fn different(texts: &[&str]) {
    for (i, text) in texts.iter().enumerate() {
        for other in &texts[..i] {
            let (one, two) = (excerpt(text.as_bytes()), excerpt(other.as_bytes()));
            assert_ne!(shape_of(one).1, shape_of(two).1, "{text} and {other}");
        }
    }
}

#[test]
fn constants_of_every_kind_are_left_out() {
    check("SELECT 1", "SELECT $1");
    check(
        "SELECT 'it''s', 2.5, .5, 1e10, 0x1F, 1_000",
        "SELECT $1, $2, $3, $4, $5, $6",
    );
    check(
        "SELECT E'a\\'b', e'\\\\', N'x', U&'d\\0061' UESCAPE '!'",
        "SELECT $1, $2, $3, $4 UESCAPE $5",
    );
    check("SELECT B'01', X'1f', b'0'\n'1'", "SELECT $1, $2, $3");
    check(
        "SELECT $$a$$, $tag$ it's $$ -- $tag$, $é$x$é$",
        "SELECT $1, $2, $3",
    );
    check("SELECT 'a'\n  'b' -- c\n 'd'", "SELECT $1");
    check(
        "SELECT 1e-5, 2E+5, 3e5-1, 0x1e-5",
        "SELECT $1, $2, $3-$4, $5-$6",
    );
    check(
        "SELECT interval '1 day', date '2020-01-01'",
        "SELECT interval $1, date $2",
    );
    check(
        "SELECT '{1,2}'::int[], 5::text, CAST('x' AS b)",
        "SELECT $1::int[], $2::text, CAST($3 AS b)",
    );
    check("SELECT null, true, DEFAULT", "SELECT null, true, DEFAULT");
    check(
        "SELECT a[1], a[1:2], ROW(1, 'x')",
        "SELECT a[$1], a[$2:$3], ROW($4, $5)",
    );
    check("SELECT 1 LIMIT 5 OFFSET 10", "SELECT $1 LIMIT $2 OFFSET $3");
}

#[test]
fn constants_are_counted_on_from_the_highest_parameter() {
    check("SELECT $1, 'x', $3, 4", "SELECT $1, $4, $3, $5");
    check("SELECT '$9', $1", "SELECT $2, $1");
    check(
        "SELECT $4294967295, 1, 2",
        "SELECT $4294967295, $4294967295, $4294967295",
    );
    check("SELECT $99999999999, 1", "SELECT $99999999999, $1");
}

#[test]
fn a_sign_belongs_to_its_number_where_nothing_is_subtracted() {
    check("SELECT -5, - 6, a-7, a - 8", "SELECT $1, $2, a-$3, a - $4");
    check(
        "SELECT 1 - -2, 3-4, (a)-5, a[1]-6",
        "SELECT $1 - $2, $3-$4, (a)-$5, a[$6]-$7",
    );
    check(
        "SELECT * FROM t WHERE a = -1 AND b<-2 LIMIT -3",
        "SELECT * FROM t WHERE a = $1 AND b<$2 LIMIT $3",
    );
    check(
        "SELECT -1 - 2, -1e-5-2, 'x' - 3",
        "SELECT $1 - $2, $3-$4, $5 - $6",
    );
    check(
        "SELECT a->-1, a @-1, current_date - 1",
        "SELECT a->$1, a @-$2, current_date - $3",
    );
    same(&["SELECT -5", "SELECT 5", "SELECT - 5"]);
}

#[test]
fn comments_and_blanks_do_not_count() {
    check(
        "/* a /* b */ c */ SELECT -- x\n 1 /*+ hint */ , a --",
        "SELECT $1 , a",
    );
    check("\n\tSELECT\r\n   a\n FROM\tt ;\n", "SELECT a FROM t");
    check("SELECT/**/1", "SELECT $1");
    same(&[
        "SELECT a, b FROM t WHERE c=1",
        "select a,b from T where C = 'x';",
        "/* trace 77 */ SELECT a , b FROM t -- 9\nWHERE c = $1",
    ]);
    different(&[
        "SELECT a",
        "SELECT \"A\"",
        "SELECT ab",
        "SELECT a b",
        "SELECT a, b",
        "SELECT a; SELECT b",
    ]);
    different(&["SELECT a<b", "SELECT a<=b", "SELECT a>=b", "SELECT a< =b"]);
}

#[test]
fn lists_of_constants_are_folded() {
    check(
        "SELECT * FROM t WHERE a IN (1, 2, 3)",
        "SELECT * FROM t WHERE a IN ($1 /*, ... */)",
    );
    check(
        "SELECT 1 WHERE a in($1,$2,$3) AND b = 9",
        "SELECT $4 WHERE a in($1 /*, ... */) AND b = $5",
    );
    check(
        "SELECT 1 WHERE a IN ('x', -2, 3.0) AND b = 9",
        "SELECT $1 WHERE a IN ($2 /*, ... */) AND b = $3",
    );
    check("SELECT 1 WHERE a IN (1)", "SELECT $1 WHERE a IN ($2)");
    check(
        "SELECT ARRAY[1,2,3], ARRAY[[1,2],[3,4]], ARRAY[]",
        "SELECT ARRAY[$1 /*, ... */], ARRAY[[$2,$3] /*, ... */], ARRAY[]",
    );
    check(
        "SELECT 1 WHERE (a,b) IN ((1,2), (3,4), (5,6))",
        "SELECT $1 WHERE (a,b) IN (($2,$3) /*, ... */)",
    );
    check(
        "SELECT 1 WHERE a IN (1, b, 2, b, c, c)",
        "SELECT $1 WHERE a IN ($2, b, $3, b, c, c)",
    );
    check(
        "SELECT 1 WHERE a IN (1::int, 2::int, 3)",
        "SELECT $1 WHERE a IN ($2::int /*, ... */, $3)",
    );
    check(
        "SELECT 1 WHERE a IN (SELECT b FROM c WHERE d IN (1,2))",
        "SELECT $1 WHERE a IN (SELECT b FROM c WHERE d IN ($2 /*, ... */))",
    );
    same(&[
        "SELECT a IN (1,2)",
        "SELECT a IN (1,2,3,4)",
        "SELECT a IN ($1, $2)",
    ]);
    different(&[
        "SELECT a IN (1)",
        "SELECT a IN (1,2)",
        "SELECT a IN (b, 1)",
        "SELECT a IN (1, b)",
        "SELECT a IN ((1,2))",
    ]);
    // Not lists.
    check("SELECT f(1, 2), 1, 2", "SELECT f($1, $2), $3, $4");
}

#[test]
fn rows_that_look_the_same_are_folded() {
    check(
        "INSERT INTO t (a, b) VALUES (1, 'x')",
        "INSERT INTO t (a, b) VALUES ($1, $2)",
    );
    check(
        "INSERT INTO t VALUES (1, now(), 'x'), (2, now(), 'y'), (3, now(), 'z') RETURNING 5",
        "INSERT INTO t VALUES ($1, now(), $2) /*, ... */ RETURNING $3",
    );
    check(
        "INSERT INTO t VALUES (1, DEFAULT), (DEFAULT, 2), (DEFAULT, 3)",
        "INSERT INTO t VALUES ($1, DEFAULT), (DEFAULT, $2) /*, ... */",
    );
    check(
        "SELECT 1 WHERE a IN (VALUES (1), (2)) AND (VALUES (ARRAY[1,2]), (ARRAY[1,2,3])) IS NULL, 4",
        "SELECT $1 WHERE a IN (VALUES ($2) /*, ... */) AND (VALUES (ARRAY[$3 /*, ... */]) /*, ... */) IS NULL, $4",
    );
    check(
        "VALUES (1), (2); VALUES ($1, 2)",
        "VALUES ($2) /*, ... */; VALUES ($1, $3)",
    );
    check(
        "INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET b = 2, c = 3",
        "INSERT INTO t VALUES ($1) ON CONFLICT (a) DO UPDATE SET b = $2, c = $3",
    );
    same(&[
        "INSERT INTO t VALUES (1,2),(3,4)",
        "insert into t values ('1','2'),('3','4'),($1,$2)",
    ]);
    different(&[
        "VALUES (1)",
        "VALUES (1),(2)",
        "VALUES (1,2)",
        "VALUES (1),(a)",
        "VALUES ((1),(2))",
    ]);
}

#[test]
fn statements_of_one_text_stay_apart() {
    check(
        "BEGIN; UPDATE t SET a = 1;; COMMIT;",
        "BEGIN; UPDATE t SET a = $1; COMMIT",
    );
    check(" ; ; ", "");
    check("", "");
    check("-- nothing", "");
    check(
        "(SELECT 1) UNION (SELECT 2); (VALUES (1))",
        "(SELECT $1) UNION (SELECT $2); (VALUES ($3))",
    );
    check(
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; RETURN 2; END; SELECT 3",
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT $1; RETURN $2; END; SELECT $3",
    );
    check(
        "CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2)",
        "CREATE RULE r AS ON INSERT TO t DO (SELECT $1; SELECT $2)",
    );
}

#[test]
fn statements_with_secrets_are_reduced_to_their_keywords() {
    check("ALTER ROLE bob PASSWORD 'hunter2'", "ALTER ROLE …");
    check(
        "alter user bob with encrypted password hunter2",
        "alter user …",
    );
    check(
        "CREATE ROLE \"hunter2\" LOGIN PASSWORD \"hunter2\"; SELECT 1",
        "CREATE ROLE …; SELECT $1",
    );
    check(
        "CREATE USER MAPPING FOR a SERVER b OPTIONS (password 'x')",
        "CREATE USER MAPPING …",
    );
    check(
        "CREATE FOREIGN DATA WRAPPER x",
        "CREATE FOREIGN DATA WRAPPER …",
    );
    check(
        "CREATE SERVER s OPTIONS (host 'x'; SELECT hunter2",
        "CREATE SERVER …",
    );
    check(
        "CREATE SUBSCRIPTION s CONNECTION 'password=x' PUBLICATION p",
        "CREATE SUBSCRIPTION …",
    );
    check("ALTER SYSTEM SET primary_conninfo = 'x'", "ALTER SYSTEM …");
    check("ALTER DATABASE d SET app.key = hunter2", "ALTER DATABASE …");
    check(
        "SET app.secret = hunter2; SELECT 1",
        "SET app.secret = $1; SELECT $2",
    );
    check(
        "SET LOCAL app.secret TO hunter2, \"b\"",
        "SET LOCAL app.secret TO $1",
    );
    check(
        "SELECT set_config('app.key', 'hunter2', false)",
        "SELECT set_config($1, $2, false)",
    );
    check(
        "COPY t FROM PROGRAM 'curl hunter2'",
        "COPY t FROM PROGRAM $1",
    );
    check("DO $$ BEGIN PERFORM 'hunter2'; END $$", "DO $1");
    check("NOTIFY a, 'hunter2'", "NOTIFY a, $1");
    check(
        "COMMENT ON TABLE t IS 'hunter2'",
        "COMMENT ON TABLE t IS $1",
    );
    // What is told about others is no secret.
    check(
        "CREATE TABLE t (a int DEFAULT 5)",
        "CREATE TABLE t (a int DEFAULT $1)",
    );
    check(
        "SELECT role, password FROM t",
        "SELECT role, password FROM t",
    );
    check("SET search_path = a, b", "SET search_path = $1");
    check(
        "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
    );
    check("UPDATE t SET a = b", "UPDATE t SET a = b");
}

#[test]
fn what_postgresql_would_refuse_is_hardly_shown() {
    check("hunter2", "…");
    check("hunter2; SELECT 1", "…; SELECT $1");
    check("\"hunter2\" = 5", "…");
    check("(hunter2)", "( …");
    check("SELECT 1 FROM t WHERE a = 'x", "SELECT …");
    check("SELECT a FROM t WHERE n = 'O'Brien'", "SELECT …");
    check(
        "SELECT a FROM t WHERE n = 'O'Brien' OR m = 'O'Brien'",
        "SELECT …",
    );
    check("SELECT a /* hunter2", "SELECT …");
    check("SELECT $a$ hunter2", "SELECT …");
    check("SELECT \"hunter2", "SELECT …");
    check("SELECT hunter2 \0 x", "SELECT …");
    check("SELECT 'x'AS a,'y'FROM t", "SELECT $1AS a,$2FROM t");
    same(&["SELECT 'x", "select y $a$"]);
}

#[test]
fn a_backslash_before_a_quote_is_not_trusted() {
    // One of the two readings has `hunter2` outside of the constant.
    check("SELECT 'a\\', 'hunter2'", "SELECT …");
    check("SELECT 'C:\\dir', E'it\\'s'", "SELECT $1, $2");
}

#[test]
fn shapes_are_bounded_and_told_apart_all_the_same() {
    let columns = |count: usize| {
        let names: Vec<_> = (0..count).map(|i| format!("column_{i}")).collect();
        format!("SELECT {} FROM t", names.join(", "))
    };
    let (long, longer) = (columns(200), columns(201));
    let text = shape(&long);
    assert!(text.len() > SHAPE_BYTES_MAX - 20, "{}", text.len());
    assert!(text.ends_with(" …"), "{text}");
    assert_eq!(text, shape(&longer));
    different(&[&long, &longer]);
    // What was folded away leaves the room that it took.
    let rows = vec!["(1, 'x')"; 5_000].join(", ");
    check(
        &format!("INSERT INTO t VALUES {rows} RETURNING a"),
        "INSERT INTO t VALUES ($1, $2) /*, ... */ RETURNING a",
    );
    let deep = format!("SELECT {}1", "a IN (".repeat(50));
    assert!(shape(&deep).ends_with("(a IN ($1"), "{}", shape(&deep));
}

#[test]
fn of_a_text_that_goes_on_only_what_is_sure_is_shown() {
    let cut = |text: &str| {
        let mut part = excerpt(text.as_bytes());
        part.is_whole = false;
        shape_of(part)
    };
    assert_eq!(cut("SELECT a FROM tab").0, "SELECT a FROM …");
    assert_eq!(cut("SELECT a, 'hunt").0, "SELECT a, …");
    assert_eq!(cut("SELECT a, 12").0, "SELECT a, …");
    assert_eq!(cut("SELECT a FROM t ").0, "SELECT a FROM t …");
    let rows = "INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')";
    for length in [34, 36, 40, 43, 45] {
        let (text, number) = cut(&rows[..length]);
        assert_eq!(
            text, "INSERT INTO t VALUES ($1, $2) /*, ... */ …",
            "{length}"
        );
        assert_eq!(number, cut(&rows[..44]).1, "{length}");
    }
}

#[test]
fn other_encodings() {
    // `\` and letters may be parts of characters: nothing behind the first of them is read.
    let sjis = Excerpt {
        bytes: b"SELECT a, 'x', '\x95\\', 'hunter2'",
        is_whole: true,
        encoding: Overlapping,
    };
    assert_eq!(shape_of(sjis).0, "SELECT a, $1, …");
    let name = Excerpt {
        bytes: b"SELECT hunter\x83\x41",
        ..sjis
    };
    assert_eq!(shape_of(name).0, "SELECT …");
    check(
        "SELECT é, 'ü' FROM \"Straße\"",
        "SELECT é, $1 FROM \"Straße\"",
    );
    let broken = excerpt(b"SELECT \xff\xfe, '\xff' FROM t");
    assert_eq!(shape_of(broken).0, "SELECT \u{fffd}\u{fffd}, $1 FROM t");
}

#[test]
fn numbers_of_shapes_do_not_change_with_releases() {
    // Kept on disk: another number is another statement to whoever compares days.
    assert_eq!(
        shape_of(excerpt(b"SELECT a FROM t WHERE b IN (1, 2)")).1,
        6_519_770_116_908_471_516
    );
}

/// Pieces of statements; `@` becomes a marker that no other has.
const PIECES: &[&str] = &[
    "'@'",
    "'a''@'",
    "E'\\'@'",
    "e'@\\\\'",
    "$$@$$",
    "$q$@'$q$",
    "b'@'",
    "x'@'",
    "n'@'",
    "u&'@'",
    "'\n'@'",
    "1@",
    "'",
    "\"",
    "\\",
    "$q$",
    "$$",
    "--",
    "\n",
    "/*",
    "*/",
    "/* @ */",
    "-- @\n",
    ";",
    "(",
    ")",
    "[",
    "]",
    ",",
    "-",
    "1e",
    "+",
    "=",
    "::",
    " ",
    "SELECT ",
    "IN (",
    "ARRAY[",
    "VALUES (",
    "), (",
    "SET a = ",
    "TO ",
    "ALTER ROLE ",
    "CREATE USER MAPPING ",
    "PASSWORD ",
    "FROM t",
    "x",
    "é",
    "$1",
    "\u{0}",
];

fn texts() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(PIECES), 0..24).prop_map(|pieces| {
        let mut text = String::new();
        for (i, piece) in pieces.iter().enumerate() {
            text.push_str(&piece.replace('@', &format!("zq{i:03}")));
        }
        text
    })
}

/// Markers in constants and comments, as PostgreSQL reads the text under this setting.
fn hidden(text: &str, strings: Strings) -> Vec<String> {
    let mut shown = String::new();
    let mut lexer = Lexer::new(text.as_bytes(), strings);
    loop {
        let lexeme = lexer.next();
        match lexeme.token {
            Token::End => break,
            Token::Text | Token::ObscureText | Token::DollarText | Token::Bits | Token::Number => {}
            // Whatever it is, it is no name.
            Token::Bad => {}
            _ => shown.push_str(&String::from_utf8_lossy(lexeme.raw)),
        }
    }
    let markers = (0..24).map(|i| format!("zq{i:03}"));
    markers
        .filter(|marker| text.contains(marker) && !shown.contains(marker))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(4_000) })]

    #[test]
    fn no_constant_is_in_a_shape(text in texts(), until in 0_usize..200) {
        let bytes = text.as_bytes();
        let part = Excerpt { bytes: &bytes[..until.min(bytes.len())], is_whole: false, encoding: AsciiSafe };
        let foreign = Excerpt { encoding: Overlapping, ..excerpt(bytes) };
        for shown in [excerpt(bytes), part, foreign].map(|excerpt| shape_of(excerpt).0) {
            for strings in [Strings::Standard, Strings::Escaping] {
                for marker in hidden(&text, strings) {
                    prop_assert!(!shown.contains(&marker), "{:?} {} {}", strings, &text, shown);
                }
            }
        }
    }

    #[test]
    fn any_bytes_have_a_shape(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for encoding in [AsciiSafe, Overlapping] {
            for is_whole in [true, false] {
                shape_of(Excerpt { bytes: &bytes, is_whole, encoding });
            }
        }
    }

    /// A shape shows what it is the shape of.
    #[test]
    fn the_shape_of_a_shape_is_itself(
        parts in prop::collection::vec(prop::sample::select(&[
            "a", "1", "'x'", "-5", "b IN (1, 2)", "ARRAY[1, 2]", "(SELECT 1)", "f($1, 2)", "a[1]", "x::int",
        ][..]), 1..6),
    ) {
        let text = format!("SELECT {}", parts.join(", "));
        let (once, number) = shape_of(excerpt(text.as_bytes()));
        let (twice, _) = shape_of(excerpt(once.as_bytes()));
        prop_assert_eq!(once.replace(" /*, ... */", ""), twice.replace(" )", ")").replace(" ]", "]"));
        // And another text of it is no other.
        let other = text.replace("'x'", "7").to_lowercase().replace(", ", " ,  ");
        prop_assert_eq!(shape_of(excerpt(other.as_bytes())).1, number);
    }
}

#[test]
fn long_texts_take_time_in_proportion() {
    for piece in [
        "a IN (",
        "ARRAY[",
        "VALUES (1),(",
        "(",
        ";",
        "-",
        "- 1",
        "1e-",
        "'a'\n",
        "$1 ",
        "ALTER ROLE ",
        "SET a = b;",
        ",",
        "1,",
        "), (",
        "SELECT 1;",
    ] {
        let text = format!("SELECT a IN ({}", piece.repeat((1 << 18) / piece.len()));
        let started = std::time::Instant::now();
        shape_of(excerpt(text.as_bytes()));
        let took = started.elapsed();
        assert!(
            took < std::time::Duration::from_secs(5),
            "{piece}: {took:?}"
        );
    }
}
