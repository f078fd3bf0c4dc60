//! Rules about dependencies, read from `cargo metadata`.
//!
//! Owns: which crate of ours may know which, which crates of others may not be here, and which
//! licences may.

use std::{collections::BTreeMap, process::Command, sync::LazyLock};

use serde_json::Value;

/// Who may depend on whom. A crate that is not here fails the test: somebody has to decide.
const DIRECTION: [(&str, &[&str]); 12] = [
    ("wire", &[]),
    ("model", &[]),
    ("statement", &[]),
    ("audit", &[]),
    // What is checked of a node's certificate: the same for those who serve and those who maintain it.
    ("tls", &["model"]),
    ("proxy", &["wire", "model", "statement", "tls", "audit"]),
    ("node", &["model", "tls"]),
    ("control", &["model", "node", "wire", "audit"]),
    (
        "cli",
        &[
            "wire",
            "model",
            "statement",
            "audit",
            "tls",
            "proxy",
            "node",
            "control",
        ],
    ),
    ("tests", &["wire", "model", "scratch"]),
    ("scratch", &[]),
    ("load", &["wire"]),
];

/// Not in the tree, not even by way of others.
const BANNED: [(&str, &str); 8] = [
    ("openssl-sys", "one TLS library: aws-lc, by way of rustls"),
    ("openssl", "one TLS library: aws-lc, by way of rustls"),
    ("native-tls", "one TLS library: aws-lc, by way of rustls"),
    (
        "ring",
        "a second provider makes rustls' choice ambiguous at run time",
    ),
    (
        "sqlx",
        "its pool costs 41 ms a query without TCP_NODELAY; tokio-postgres is used",
    ),
    ("postgresql_embedded", "it runs PostgreSQL with fsync off"),
    ("dashmap", "a guard held over an await is a deadlock"),
    (
        "pg_query",
        "a recursive parser on user input, and ASTs that ate gigabytes",
    ),
];

/// Licences that ask for no more than to be named.
const LICENCES: [&str; 13] = [
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "MIT",
    "MIT-0",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "0BSD",
    "Unicode-3.0",
    "CC0-1.0",
    "OpenSSL",
];
/// Data, not code: the list of certificate authorities.
const LICENCES_OF_DATA: [&str; 1] = ["CDLA-Permissive-2.0"];

struct Package {
    name: String,
    version: String,
    licence: String,
    source: Option<String>,
    dependencies: Vec<String>,
}

static PACKAGES: LazyLock<Vec<Package>> = LazyLock::new(|| {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .expect("run cargo metadata");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo metadata: {said}");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let packages = metadata["packages"].as_array().expect("packages");
    packages
        .iter()
        .map(|package| Package {
            name: text(&package["name"]),
            version: text(&package["version"]),
            licence: text(&package["license"]),
            source: package["source"].as_str().map(str::to_owned),
            dependencies: package["dependencies"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|dependency| dependency["kind"] != "dev")
                .map(|dependency| text(&dependency["name"]))
                .collect(),
        })
        .collect()
});

#[test]
fn crates_know_only_whom_they_may_know() {
    let direction = BTreeMap::from(DIRECTION);
    for package in PACKAGES.iter().filter(|package| package.source.is_none()) {
        let allowed = direction
            .get(package.name.as_str())
            .unwrap_or_else(|| panic!("crate {} is not in DIRECTION", package.name));
        for dependency in &package.dependencies {
            let ours = direction.contains_key(dependency.as_str());
            assert!(
                !ours || allowed.contains(&dependency.as_str()),
                "{} may not depend on {dependency}",
                package.name
            );
        }
    }
}

#[test]
fn what_is_banned_is_not_here() {
    // Not `cargo metadata`: it also names optional crates that nobody switched on.
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--workspace",
            "--locked",
            "--target",
            "all",
            "--prefix",
            "none",
        ])
        .args(["--edges", "normal,build,dev", "--format", "{p}"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .expect("run cargo tree");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let tree = String::from_utf8_lossy(&output.stdout);
    let names: Vec<_> = tree
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert!(names.contains(&"rustls"), "the tree was not read");
    for (name, why) in BANNED {
        assert!(!names.contains(&name), "{name}: {why}");
    }
}

#[test]
fn every_licence_is_allowed() {
    for package in PACKAGES.iter().filter(|package| package.source.is_some()) {
        assert!(
            is_allowed(&package.licence),
            "{} {} has the licence '{}'",
            package.name,
            package.version,
            package.licence
        );
    }
}

#[test]
fn every_crate_comes_from_the_registry() {
    for package in PACKAGES.iter() {
        if let Some(source) = &package.source {
            assert!(
                source.starts_with("registry+"),
                "{}: {source}",
                package.name
            );
        }
    }
}

/// SPDX expressions: `OR` (also spelled `/`) needs one side, `AND` both.
fn is_allowed(expression: &str) -> bool {
    let expression = expression.trim().replace('/', " OR ");
    let parts = split(&expression, " OR ");
    if parts.len() > 1 {
        return parts.iter().any(|part| is_allowed(part));
    }
    let parts = split(&expression, " AND ");
    if parts.len() > 1 {
        return parts.iter().all(|part| is_allowed(part));
    }
    let name = expression.trim();
    if let Some(inside) = name
        .strip_prefix('(')
        .and_then(|name| name.strip_suffix(')'))
    {
        return is_allowed(inside);
    }
    LICENCES.contains(&name) || LICENCES_OF_DATA.contains(&name)
}

/// Splits where no parenthesis is open.
fn split<'a>(text: &'a str, at: &str) -> Vec<&'a str> {
    let (mut parts, mut depth, mut from) = (Vec::new(), 0, 0);
    for (i, byte) in text.bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => depth -= 1,
            _ if depth == 0 && i >= from && text[i..].starts_with(at) => {
                parts.push(&text[from..i]);
                from = i + at.len();
            }
            _ => {}
        }
    }
    parts.push(&text[from..]);
    parts
}

#[test]
fn expressions_are_read_as_spdx_means_them() {
    for (expression, allowed) in [
        ("MIT", true),
        ("MIT OR GPL-3.0", true),
        ("MIT/Apache-2.0", true),
        ("MIT AND GPL-3.0", false),
        ("(MIT OR GPL-3.0) AND ISC", true),
        ("ISC AND (MIT OR Apache-2.0) AND GPL-2.0", false),
        ("(Apache-2.0 OR MIT) AND BSD-3-Clause", true),
        ("", false),
        ("AGPL-3.0", false),
    ] {
        assert_eq!(is_allowed(expression), allowed, "{expression}");
    }
}
