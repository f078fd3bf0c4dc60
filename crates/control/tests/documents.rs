//! `docs/openapi.json` and the API's part of `docs/errors.md` are what the program says. A test
//! that finds a difference writes the new text and fails, so that the change is seen in review.

#![allow(clippy::unwrap_used, reason = "a test's own code")]

use std::path::PathBuf;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../docs")
        .join(name)
}

#[track_caller]
fn check(name: &str, old: Option<&str>, new: &str) {
    if old != Some(new) {
        std::fs::write(path(name), new).unwrap();
        panic!(
            "docs/{name} was out of date; it is written anew: look at the difference and commit it"
        );
    }
}

#[test]
fn the_openapi_document_is_up_to_date() {
    let old = std::fs::read_to_string(path("openapi.json")).ok();
    check("openapi.json", old.as_deref(), &control::openapi_document());
}

const BEGIN: &str = "<!-- api: written by crates/control/tests/documents.rs -->\n";
const END: &str = "<!-- api: end -->\n";
const HEAD: &str = "# Errors\n\nEvery error that a client can see, with its stable code.\n\n## HTTP API\n\nThe body of an error: `{success, http_status, code, error, message, hint, request_id}`; `error` \
repeats `message`. A statement that PostgreSQL refuses is no such error: in `/customer/databases/…/sql` the answer is \
200 and its `error` holds the SQLSTATE, in `/sql` it is 400 in the form that the [driver](sql-over-http.md) reads.\n\n";

#[test]
fn the_list_of_errors_is_up_to_date() {
    let old = std::fs::read_to_string(path("errors.md")).ok();
    let table = control::errors_document();
    let text = old.clone().unwrap_or_else(|| format!("{HEAD}{BEGIN}{END}"));
    let (before, rest) = text
        .split_once(BEGIN)
        .expect("the file has the mark where the list begins");
    let (_, after) = rest
        .split_once(END)
        .expect("the file has the mark where the list ends");
    check(
        "errors.md",
        old.as_deref(),
        &format!("{before}{BEGIN}{table}{END}{after}"),
    );
}

/// Two types of one name overwrite each other in the document without a word.
#[test]
fn the_document_is_3_1_and_every_reference_leads_somewhere() {
    let text = control::openapi_document();
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            for (status, response) in operation["responses"].as_object().into_iter().flatten() {
                let description = response["description"].as_str().unwrap_or_default();
                assert!(!description.is_empty(), "{method} {path} {status}");
            }
        }
    }
    for part in text.split("\"#/components/schemas/").skip(1) {
        let name = part.split('"').next().unwrap();
        assert!(
            document["components"]["schemas"][name].is_object(),
            "{name}"
        );
    }
}
