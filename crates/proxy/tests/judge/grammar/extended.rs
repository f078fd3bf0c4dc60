//! The extended query protocol: statements and portals by name, batches, errors in them, and what is
//! prepared under one set of settings and used under another.

use rand::RngExt as _;

use super::{Maker, settings::CONSTANTS};
use crate::script::{Say, Step, What};

/// Names that statements get. A few, so that they meet.
pub(super) const NAMES: [&str; 4] = ["", "s1", "s2", "s3"];

const PORTALS: [&str; 2] = ["", "p1"];

/// A statement to prepare, with what its parameters are.
#[derive(Clone, Debug)]
pub(super) struct Text {
    sql: String,
    values: Vec<Value>,
    /// Types that Parse says; the others are left to the server.
    types: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
enum Value {
    Number,
    Name,
    Word,
}

const INT4: u32 = 23;
const TEXT: u32 = 25;

pub(super) fn bind(portal: &str, name: &str, values: Vec<Option<Vec<u8>>>) -> Say {
    Say::Bind {
        portal: portal.to_owned(),
        name: name.to_owned(),
        values,
        binary: false,
    }
}

impl Maker {
    fn text(&mut self) -> Text {
        use Value::{Name, Number, Word};
        let own = self.schema('a');
        let plain = |sql: &str| (sql.to_owned(), vec![]);
        let (sql, values) = match self.weighed(&[30, 12, 10, 6, 8, 30]) {
            0 if self.paths => match self.below(8) {
                0 => ("SELECT v FROM t WHERE id = $1".to_owned(), vec![Number]),
                1 => plain("SELECT who()"),
                2 => (
                    "INSERT INTO log(note) VALUES ($1) RETURNING id, note".to_owned(),
                    vec![Word],
                ),
                3 => plain("SELECT id, v FROM t ORDER BY id"),
                4 => (
                    "UPDATE t SET v = v || $1 WHERE id = 2 RETURNING v".to_owned(),
                    vec![Word],
                ),
                5 => plain("SELECT nextval('q')"),
                6 => (
                    "SELECT $1 + id, v FROM t ORDER BY id LIMIT 2".to_owned(),
                    vec![Number],
                ),
                _ => plain("SELECT * FROM t ORDER BY id"),
            },
            0 => (self.pick(CONSTANTS).to_owned(), vec![]),
            1 => (
                "SELECT set_config($1, $2, false)".to_owned(),
                vec![Name, Word],
            ),
            2 => (self.change(), vec![]),
            3 => (self.transaction(), vec![]),
            4 => plain(self.pick(&[
                "",
                "SELECT 1; SELECT 2",
                "SELEC",
                "SELECT $1::int / $2",
                "SELECT 1/0",
            ])),
            _ => match self.below(7) {
                0 => (
                    "SELECT nullif(current_setting($1, true), '')".to_owned(),
                    vec![Name],
                ),
                1 => (
                    format!("SELECT {} FROM {own}.t WHERE id = $1", "v, n, f, d"),
                    vec![Number],
                ),
                2 => (
                    "SELECT $1, now() - now(), 1.1::float8 / 3".to_owned(),
                    vec![Word],
                ),
                3 => (
                    "SELECT g, $1::text FROM generate_series(1, 7) g".to_owned(),
                    vec![Word],
                ),
                4 => (self.probe(), vec![]),
                // A statement that executes itself does so until its stack is full.
                5 => (self.held().replace(" s1", " p1"), vec![]),
                _ => (
                    format!("INSERT INTO {own}.log(note) VALUES ($1)"),
                    vec![Word],
                ),
            },
        };
        let sql = if self.tribe == super::Tribe::Wild && self.chance(15) {
            return Text {
                sql: self.hidden(),
                values: vec![],
                types: vec![],
            };
        } else {
            sql
        };
        let types = if self.chance(30) {
            values
                .iter()
                .map(|value| match value {
                    Number => INT4,
                    Name | Word => TEXT,
                })
                .collect()
        } else {
            vec![]
        };
        Text { sql, values, types }
    }

    fn values(&mut self, text: &Text) -> Vec<Option<Vec<u8>>> {
        // A name and the value that comes behind it are of one setting.
        let (name, value) = if self.chance(50) {
            let word = self.pick(&["1", "SQL, DMY", "UTC", "4321", "on"]);
            ("app.two".to_owned(), word.to_owned())
        } else {
            self.setting()
        };
        let mut values: Vec<Option<Vec<u8>>> = Vec::new();
        for kind in text.values.clone() {
            let text = match kind {
                Value::Number => self.rng.random_range(1..7).to_string(),
                Value::Name => name.clone(),
                Value::Word => value.clone(),
            };
            values.push(Some(text.into_bytes()));
        }
        if self.chance(4) && !super::is_left_out("wrong-counts") {
            values.push(Some(b"one too many".to_vec()));
        }
        if self.chance(4)
            && let Some(first) = values.first_mut()
        {
            *first = None;
        }
        values
    }

    fn name(&mut self) -> String {
        self.pick(&NAMES).to_owned()
    }

    fn parse(&mut self, name: &str, text: &Text) -> Say {
        self.parsed.retain(|(own, _)| own != name);
        self.parsed.push((name.to_owned(), text.clone()));
        if text.sql.starts_with("FETCH") {
            self.fetched.push(name.to_owned());
        }
        Say::Parse {
            name: name.to_owned(),
            text: text.sql.clone().into_bytes(),
            types: text.types.clone(),
        }
    }

    /// Whether a FETCH was prepared by this name. Where its cursor is gone, a Describe ends direct connections, and all others
    /// with them.
    pub(super) fn is_fetched(&self, name: &str) -> bool {
        self.fetched.iter().any(|own| own == name)
    }

    /// A statement that was probably parsed before.
    fn known(&mut self) -> (String, Text) {
        if self.parsed.is_empty() || self.chance(5) {
            let text = Text {
                sql: String::new(),
                values: vec![],
                types: vec![],
            };
            let unknown = super::is_left_out("wrong-counts");
            let name = if unknown {
                "none".to_owned()
            } else {
                self.name()
            };
            return (name, text);
        }
        let list = self.parsed.clone();
        self.pick(&list)
    }

    /// Bind and what may come behind it.
    fn run(&mut self, name: &str, text: &Text, says: &mut Vec<Say>) {
        let portal = self.pick(&PORTALS);
        let values = self.values(text);
        says.push(Say::Bind {
            portal: portal.to_owned(),
            name: name.to_owned(),
            values,
            binary: self.chance(8),
        });
        if self.chance(50) {
            says.push(Say::Describe(What::Portal, portal.to_owned()));
        }
        let max = if self.chance(20) { 2 } else { 0 };
        says.push(Say::Execute(portal.to_owned(), max));
        if max > 0 && self.chance(60) {
            says.push(Say::Execute(portal.to_owned(), max));
        }
        if self.chance(10) {
            says.push(Say::Close(What::Portal, portal.to_owned()));
        }
    }

    fn part(&mut self, says: &mut Vec<Say>) {
        match self.weighed(&[24, 34, 26, 5, 6, 3, 6]) {
            0 => {
                // As most drivers do: parsed, described and used at once.
                let (name, text) = (self.name(), self.text());
                if !name.is_empty() && self.chance(70) {
                    says.push(Say::Close(What::Statement, name.clone()));
                }
                says.push(self.parse(&name, &text));
                if self.chance(40) {
                    says.push(Say::Describe(What::Statement, name.clone()));
                }
                self.run(&name, &text, says);
            }
            1 => {
                let (name, text) = self.known();
                self.run(&name, &text, says);
            }
            2 => {
                // For later.
                let (name, text) = (self.name(), self.text());
                if !name.is_empty() && self.chance(80) {
                    says.push(Say::Close(What::Statement, name.clone()));
                }
                says.push(self.parse(&name, &text));
                if self.chance(50) {
                    says.push(Say::Describe(What::Statement, name));
                }
            }
            3 => {
                let name = self.known().0;
                says.push(Say::Close(What::Statement, name));
            }
            4 => {
                let (name, text) = self.known();
                if self.is_fetched(&name) {
                    says.push(Say::Close(What::Statement, name.clone()));
                    says.push(self.parse(&name, &text));
                }
                says.push(Say::Describe(What::Statement, name));
            }
            5 => says.push(Say::Flush),
            _ => {
                // A portal that an earlier step left open in its transaction, or did not.
                let max = self.pick(&[0, 1, 3]);
                says.push(Say::Execute("p1".to_owned(), max));
            }
        }
    }

    pub(super) fn extended(&mut self) -> Step {
        let mut says = Vec::new();
        let groups = if self.chance(20) {
            self.rng.random_range(2..4)
        } else {
            1
        };
        for _ in 0..groups {
            let parts = if self.chance(25) {
                self.rng.random_range(2..5)
            } else {
                1
            };
            for _ in 0..parts {
                self.part(&mut says);
            }
            if self.chance(8) {
                says.push(Say::Await);
                if self.chance(60) {
                    self.part(&mut says);
                }
            }
            says.push(Say::Sync);
            if self.chance(8) {
                let sql = self.statement();
                says.push(self.query(sql));
            }
        }
        Step::new(says)
    }
}
