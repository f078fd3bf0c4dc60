//! The proxy's part of `docs/errors.md` is what the program says. A test that finds a difference
//! writes the file anew and fails.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fmt::Write;

use model::Public;
use proxy::Refusal;

const BEGIN: &str = "<!-- proxy: written by crates/proxy/tests/documents.rs -->\n";
const END: &str = "<!-- proxy: end -->\n";

fn section() -> String {
    let mut text = format!(
        "{BEGIN}## PostgreSQL port\n\nErrors of the proxy itself; all others are PostgreSQL's own, \
         passed on as they are. `HINT` says what to do. What ends the session is FATAL, and the \
         connection closes behind it; what ends only the statement is ERROR, and the session goes on.\n\n\
         | SQLSTATE | message | what to do | ends |\n| --- | --- | --- | --- |\n"
    );
    let mut rows: Vec<_> = Refusal::examples()
        .iter()
        .map(|refusal| {
            let ends = match refusal.ends_only_a_statement() {
                true => "the statement; during login, the connection",
                false => "the connection",
            };
            (refusal.sqlstate(), refusal.message(), refusal.hint(), ends)
        })
        .collect();
    rows.sort();
    for (code, message, hint, ends) in rows {
        assert_eq!(code.len(), 5, "{message}");
        let hint = hint.replace('<', "&lt;");
        writeln!(text, "| `{code}` | {message} | {hint} | {ends} |").unwrap();
    }
    text + END
}

#[test]
fn the_list_of_errors_is_up_to_date() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/errors.md");
    let old = std::fs::read_to_string(&path).unwrap();
    let new = match old.split_once(BEGIN) {
        Some((before, rest)) => {
            let (_, after) = rest.split_once(END).expect("the section has an end mark");
            format!("{before}{}{after}", section())
        }
        None => format!("{old}\n{}", section()),
    };
    if new != old {
        std::fs::write(&path, &new).unwrap();
        panic!("docs/errors.md was out of date and is written anew: look at it and commit it");
    }
}
