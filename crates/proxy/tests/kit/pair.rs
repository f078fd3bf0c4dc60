//! Two sessions that are sent the same, one through the proxy and one straight to PostgreSQL.
//!
//! Owns: the pair, and comparing what both are answered. Does not own: what they are sent.

use std::collections::BTreeMap;

use model::Role;
use wire::{
    message::{build, parse},
    startup::Protocol,
};

use super::{
    Stack, Tenant,
    raw::{self, Message, Raw},
};

/// Two connections that should not differ.
pub struct Pair {
    pub ours: Raw,
    pub direct: Raw,
    told: [BTreeMap<String, String>; 2],
    pub log: Vec<String>,
}

fn parameters(seen: &[Message], told: &mut BTreeMap<String, String>) {
    for (kind, body) in seen {
        if *kind == b'S' {
            let (name, value) = parse::parameter_status(body).unwrap();
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            told.insert(text(name), text(value));
        }
    }
}

/// What a client could tell apart. A position in PostgreSQL's own source is not among it.
pub fn comparable(seen: &[Message]) -> Vec<String> {
    let mut list = Vec::new();
    for (kind, body) in seen {
        let text = match kind {
            b'S' | b'K' | b'R' => continue,
            b'E' | b'N' => {
                let report = parse::report(body).unwrap();
                let fields = report
                    .fields()
                    .filter(|(letter, _)| !b"FLR".contains(letter));
                fields
                    .map(|(letter, text)| {
                        format!("{}{} ", char::from(letter), String::from_utf8_lossy(text))
                    })
                    .collect()
            }
            _ => String::from_utf8_lossy(body).into_owned(),
        };
        list.push(format!("{} {text}", char::from(*kind)));
    }
    list
}

impl Pair {
    pub fn new(stack: &Stack, tenant: &Tenant, mode: &str, startup: &[(&str, &str)]) -> Self {
        let mut ours = Raw::plain(stack.port);
        let user = tenant.login(Role::Admin).to_string();
        let options = startup
            .iter()
            .map(|(name, value)| format!("-c {name}={value} "))
            .collect::<String>();
        let own = format!("{options}-c tenantry.pool_mode={mode}");
        let list = [
            ("user", user.as_str()),
            ("database", "postgres"),
            ("options", &own),
        ];
        let seen_ours = ours.log_in(Protocol::V3_0, &list, &tenant.password);
        assert_eq!(raw::code_of(&seen_ours), "");

        let mut direct = Raw::unix(&stack.postgres.socket());
        let (user, database) = (Role::Admin.login(&tenant.pid), tenant.pid.database());
        let own = format!("-c role=tenantry_admin -c statement_timeout=60s {options}");
        let list = [
            ("user", user.as_str()),
            ("database", &database),
            ("options", &own),
        ];
        let seen = direct.log_in(Protocol::V3_0, &list, &format!("server-{user}"));
        assert_eq!(raw::code_of(&seen), "");
        let mut pair = Self {
            ours,
            direct,
            told: Default::default(),
            log: Vec::new(),
        };
        parameters(&seen_ours, &mut pair.told[0]);
        parameters(&seen, &mut pair.told[1]);
        pair.compare_told();
        pair
    }

    fn compare_told(&self) {
        assert_eq!(self.told[0], self.told[1], "{}", self.log.join("\n"));
    }

    /// Sends the same to both; `readies`: how often they say that they are ready.
    pub fn flight(&mut self, what: String, bytes: &[u8], readies: usize) -> Vec<Message> {
        self.log.push(what);
        self.ours.send(bytes);
        self.direct.send(bytes);
        let (mut one, mut other) = (Vec::new(), Vec::new());
        for _ in 0..readies {
            one.extend(self.ours.until(b'Z'));
            other.extend(self.direct.until(b'Z'));
        }
        let (a, b) = (comparable(&one), comparable(&other));
        let differ = a.iter().zip(&b).filter(|(a, b)| a != b).collect::<Vec<_>>();
        assert!(
            a == b,
            "{} and {} messages, ours and direct: {differ:#?} after\n{}",
            a.len(),
            b.len(),
            self.log.join("\n")
        );
        parameters(&one, &mut self.told[0]);
        parameters(&other, &mut self.told[1]);
        self.compare_told();
        one
    }

    pub fn query(&mut self, sql: &str) -> Vec<Message> {
        let mut bytes = Vec::new();
        build::query(sql, &mut bytes);
        self.flight(sql.to_owned(), &bytes, 1)
    }

    pub fn same_settings(&mut self) {
        // Those of PL/pgSQL are there once it was used.
        self.query(
            "SELECT name, setting FROM pg_catalog.pg_settings WHERE name !~ '^plpgsql' ORDER BY name",
        );
    }
}

/// Prepares this by name.
pub fn parse(pair: &mut Pair, name: &str, sql: &str) {
    let mut bytes = Vec::new();
    build::parse(name.as_bytes(), sql.as_bytes(), &[], &mut bytes);
    build::sync(&mut bytes);
    pair.flight(format!("{name}: {sql}"), &bytes, 1);
}

/// Runs what was prepared.
pub fn run_prepared(pair: &mut Pair, name: &str) {
    let mut bytes = Vec::new();
    build::bind_nothing(b"", name.as_bytes(), &mut bytes);
    build::execute(b"", 0, &mut bytes);
    build::sync(&mut bytes);
    pair.flight(format!("run {name}"), &bytes, 1);
}
