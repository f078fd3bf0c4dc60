use super::*;

/// The tokens of `text`, each between bars.
fn cut(text: &str, strings: Strings) -> String {
    let mut lexer = Lexer::new(text.as_bytes(), strings);
    let mut seen = String::new();
    loop {
        let lexeme = lexer.next();
        match lexeme.token {
            Token::End => return seen,
            Token::Bad => return seen + "bad",
            token => {
                let kind = match token {
                    Token::Text => "t:",
                    Token::DollarText => "d:",
                    Token::ObscureText => "o:",
                    Token::Bits => "b:",
                    Token::Number => "n:",
                    Token::Param => "p:",
                    Token::Quoted => "q:",
                    Token::Obscure => "u:",
                    _ => "",
                };
                let raw = String::from_utf8_lossy(lexeme.raw).replace('\n', "¶");
                seen += &format!("{kind}{raw}|");
            }
        }
    }
}

#[track_caller]
fn check(text: &str, standard: &str) {
    assert_eq!(cut(text, Strings::Standard), standard, "{text}");
}

#[track_caller]
fn check_all(text: &str, standard: &str, escaping: &str, undecided: &str) {
    check(text, standard);
    assert_eq!(cut(text, Strings::Escaping), escaping, "{text}, off");
    assert_eq!(
        cut(text, Strings::Undecided),
        undecided,
        "{text}, undecided"
    );
}

#[test]
fn comments_nest_and_end_where_postgresql_ends_them() {
    check("a /* b /* c */ d */ e", "a|e|");
    check("a /* b /* c */ d", "a|bad");
    check("a /*/ b */ c", "a|c|");
    check("a /*/*/ b */ c */ d", "a|d|");
    check("a /***/ b /****/ c", "a|b|c|");
    check("a /* -- */ b\n -- /* c\n d", "a|b|d|");
    check("a -- '\r b -- \" \n c --", "a|b|c|");
    check("a /* ' $$ \" */ b", "a|b|");
    check("--", "");
    check("/*", "bad");
    check("/**/", "");
}

#[test]
fn operators_end_before_a_comment_that_begins_inside() {
    check("a+/* b */c", "a|+|c|");
    check("a*/* b */c", "a|*|c|");
    check("a--b\nc", "a|c|");
    check("a+--b\nc", "a|+|c|");
    check("a<-- b\n>c", "a|<|>|c|");
    check("a@/b", "a|@|/|b|");
    check("a//* x */b", "a|/|b|");
    check("a - -b", "a|-|-|b|");
    check("a::b := c => d", "a|:|:|b|:|=|c|=|>|d|");
}

#[test]
fn strings_are_read_by_their_prefix_and_by_the_setting() {
    check_all("'a''b' c", "t:'a''b'|c|", "o:'a''b'|c|", "t:'a''b'|c|");
    check_all("'a\\' c'", "t:'a\\'|c|bad", "o:'a\\' c'|", "bad");
    check_all("'a\\\\' b", "t:'a\\\\'|b|", "o:'a\\\\'|b|", "bad");
    check_all("'\\d+' b", "t:'\\d+'|b|", "o:'\\d+'|b|", "o:'\\d+'|b|");
    check_all(
        "E'a\\'b' c",
        "o:E'a\\'b'|c|",
        "o:E'a\\'b'|c|",
        "o:E'a\\'b'|c|",
    );
    check("e'\\\\' c", "o:e'\\\\'|c|");
    check("e'\\\\\\' c", "bad");
    check("e'\\047 c' d", "o:e'\\047 c'|d|");
    check("e'a''b\\", "bad");
    check_all("n'a\\' b", "t:n'a\\'|b|", "bad", "bad");
    check("N'a'", "t:N'a'|");
    check("b'01''01' c", "b:b'01'|t:'01'|c|");
    check("X'1f\\' c", "b:X'1f\\'|c|");
    check("U&'d\\0061' UESCAPE '!'", "o:U&'d\\0061'|UESCAPE|t:'!'|");
    check("u&'a\\' b", "o:u&'a\\'|b|");
    check("u & 'a'", "u|&|t:'a'|");
    check("ue'a'", "ue|t:'a'|");
    check("''", "t:''|");
    check("'", "bad");
    check("'''", "bad");
    check("''''", "t:''''|");
}

#[test]
fn pieces_of_a_string_are_joined_over_a_line_end() {
    check("'a'\n'b' c", "o:'a'¶'b'|c|");
    check("'a' 'b'", "t:'a'|t:'b'|");
    check("'a' -- x\n 'b'", "o:'a' -- x¶ 'b'|");
    check("'a' -- x\n -- 'y'\n 'b'", "o:'a' -- x¶ -- 'y'¶ 'b'|");
    check("'a' /* x \n */ 'b'", "t:'a'|t:'b'|");
    check("'a'\n - 'b'", "t:'a'|-|t:'b'|");
    check("'a'\n -- 'b'", "t:'a'|");
    // The second piece is read like the first, whatever it would be alone.
    check("E'a'\n'b\\' c' d", "o:E'a'¶'b\\' c'|d|");
    check_all("'a'\n'b\\' c", "o:'a'¶'b\\'|c|", "bad", "bad");
    check("b'0'\n'1' c", "b:b'0'¶'1'|c|");
    check("'a'\n\"b\"", "t:'a'|q:\"b\"|");
    check("U&'a'\r'b'", "o:U&'a'\r'b'|");
}

#[test]
fn dollar_quotes_end_at_their_own_tag() {
    check("$$a'b$$ c", "d:$$a'b$$|c|");
    check("$a$ $b$ $$ $a $a$ c", "d:$a$ $b$ $$ $a $a$|c|");
    check("$a$b$a$a$", "d:$a$b$a$|a$|");
    check("$b$a$b$", "d:$b$a$b$|");
    check("$a$ x $A$", "bad");
    check("$1 $12$a$ b $a$", "p:$1|p:$12|d:$a$ b $a$|");
    check("$1$$", "p:$1|bad");
    check("a$b$c", "a$b$c|");
    check("$a b", "$|a|b|");
    check("$ a", "$|a|");
    check("$é$ ' $é$ b", "d:$é$ ' $é$|b|");
    check("$a_1$;$a_1$", "d:$a_1$;$a_1$|");
    check("$1a$ x $1a$", "p:$1|a$|x|p:$1|a$|");
    check("$$", "bad");
    check("$$$$", "d:$$$$|");
    check("$$$", "bad");
}

#[test]
fn names_and_numbers() {
    check("a_1$b é1 \"c\"\"d\" \"e", "a_1$b|é1|q:\"c\"\"d\"|bad");
    check("u&\"d!0061\" uescape '!'", "u:u&\"d!0061\"|uescape|t:'!'|");
    check("U&\"a\"\"b\" c", "u:U&\"a\"\"b\"|c|");
    check(
        "1 1.5 .5 1e5 1e-5 0x1f 1_000 1..2",
        "n:1|n:1.5|n:.5|n:1e5|n:1e|-|n:5|n:0x1f|n:1_000|n:1|.|n:.2|",
    );
    check("a.b . c", "a|.|b|.|c|");
    check("$1.a", "p:$1|.|a|");
    check("a;b", "a|;|b|");
    check("a\0b", "a|bad");
    check("a\u{b}b", "a|b|");
}

#[test]
fn what_names_and_strings_say() {
    let first = |text: &'static str| Lexer::new(text.as_bytes(), Strings::Standard).next();
    assert_eq!(first("AbC").name().as_deref(), Some("abc"));
    assert_eq!(first("\"A\"\"b\"").name().as_deref(), Some("A\"b"));
    assert_eq!(first("É").name(), None);
    assert_eq!(first("U&\"a\"").name(), None);
    let long = "a".repeat(64);
    assert_eq!(
        Lexer::new(long.as_bytes(), Strings::Standard).next().name(),
        None
    );
    assert_eq!(first("'a''b'").text().as_deref(), Some("a'b"));
    assert_eq!(first("N''").text().as_deref(), Some(""));
    assert_eq!(first("$t$a''b$t$").text().as_deref(), Some("a''b"));
    assert_eq!(first("$$$$").text().as_deref(), Some(""));
    for obscure in ["E'a'", "'é'", "'a'\n'b'", "U&'a'", "B'0'", "a"] {
        assert_eq!(first(obscure).text(), None, "{obscure}");
    }
}
