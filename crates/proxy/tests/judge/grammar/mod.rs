//! Random scripts: a grammar of what sessions do, and one number decides all of a script.
//!
//! Owns: which kinds of steps there are and how often. The productions are in `settings` (what
//! changes settings, and where that shows), `session` (what else a session holds), `hidden` (changes
//! that no text shows) and `extended` (prepared statements, portals, pipelines); the objects they
//! use in `world`.
//!
//! Left out is what PostgreSQL itself does not keep in a session or leaves open:
//! - constants in statements are evaluated anew when PostgreSQL has a reason to analyse a prepared
//!   statement again (another `search_path`, `DISCARD PLANS`, a new schema), under the settings of
//!   that moment. A script therefore has either such statements or such reasons.
//! - plans inside PL/pgSQL functions belong to the connection, so their constants do.
//! - a custom setting that was reset is empty where it was once set, and null elsewhere.
//! - what sequences with a cache give to whom.
//! - an empty schema for temporary objects is left in a connection that once had some.

mod extended;
mod hidden;
mod session;
mod settings;
mod world;

use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::script::{Ending, Say, Script, Step, What};
pub use world::{once, prewarm};

/// Flights of one script, without what comes before and behind.
const STEPS: std::ops::Range<usize> = 12..60;

/// What kind of tenant a session is one of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Tribe {
    /// Nothing in its database changes a session behind its back, and nothing is defined there while
    /// sessions run.
    Calm,
    /// Functions, triggers, views, rules, domains, operators, casts … change sessions; tables change.
    Wild,
}

/// One script in the making.
struct Maker {
    rng: StdRng,
    tribe: Tribe,
    /// Number of the session's own schemas, channels and locks.
    slot: usize,
    /// Whether `search_path` changes and temporary objects are made; else statements have constants
    /// that depend on settings.
    paths: bool,
    roles: bool,
    /// Roughly: whether a transaction is open.
    in_transaction: bool,
    /// Names of statements that were parsed, roughly.
    parsed: Vec<(String, extended::Text)>,
    /// By these names, a FETCH was.
    fetched: Vec<String>,
    /// It began with settings, and RESET of them is left out where it is known to differ.
    tames_resets: bool,
}

/// The script of this seed, for one of the sessions that run at once.
pub fn script(tribe: Tribe, slot: usize, seed: u64) -> Script {
    let mut rng = StdRng::seed_from_u64(seed);
    let paths = tribe == Tribe::Wild || rng.random_bool(0.5);
    let mut maker = Maker {
        tribe,
        slot,
        paths,
        roles: rng.random_bool(0.2),
        in_transaction: false,
        parsed: Vec::new(),
        fetched: Vec::new(),
        tames_resets: false,
        rng,
    };
    let startup = maker.startup();
    maker.tames_resets = !startup.is_empty() && is_left_out("resets");
    let count = maker.rng.random_range(STEPS);
    let steps = (0..count).map(|_| maker.step()).collect();
    Script {
        changes_roles: maker.roles,
        startup,
        before: world::before(tribe, slot),
        steps,
        after: maker.after(),
        ending: if maker.chance(15) {
            Ending::Vanish
        } else {
            Ending::Terminate
        },
    }
}

/// What is known to differ, and said in `docs/limits-of-sharing.md`: RESET in a function, of what a session
/// began with.
const KNOWN: &str = "resets";

/// Whether `TENANTRY_JUDGE_WITHOUT` names it.
fn is_left_out(what: &str) -> bool {
    let list = std::env::var("TENANTRY_JUDGE_WITHOUT");
    let list = list.as_deref().unwrap_or(KNOWN);
    list.split(',').any(|own| own == what)
}

impl Maker {
    /// True in so many of a hundred.
    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_ratio(percent, 100)
    }

    fn below(&mut self, end: usize) -> usize {
        self.rng.random_range(0..end)
    }

    fn pick<T: Clone>(&mut self, list: &[T]) -> T {
        list[self.rng.random_range(0..list.len())].clone()
    }

    /// The index of one of these weights.
    fn weighed(&mut self, weights: &[u32]) -> usize {
        let mut left = self.rng.random_range(0..weights.iter().sum());
        for (i, weight) in weights.iter().enumerate() {
            if left < *weight {
                return i;
            }
            left -= weight;
        }
        unreachable!("the sum of all was the bound")
    }

    /// The own schemas.
    fn schema(&self, which: char) -> String {
        format!("s{}_{which}", self.slot)
    }

    /// The table, by a name that `search_path` decides about where that changes.
    fn table(&self) -> String {
        if self.paths {
            "t".to_owned()
        } else {
            format!("{}.t", self.schema('a'))
        }
    }

    fn step(&mut self) -> Step {
        let mut step = match self.weighed(&[46, 10, 34, 4, 3]) {
            0 => {
                let sql = self.statement();
                let sql = self.dressed(sql);
                Step::new(vec![self.query(sql)])
            }
            1 => {
                let count = self.rng.random_range(2..5);
                let list: Vec<_> = (0..count).map(|_| self.statement()).collect();
                Step::new(vec![self.query(list.join("; "))])
            }
            2 => self.extended(),
            3 => self.copy(),
            _ => self.call(),
        };
        if self.chance(10) {
            step.pieces = self.rng.random_range(2..6);
        }
        step
    }

    /// In the encoding that is probably in force: mostly ASCII, so mostly the same.
    #[expect(clippy::unused_self, reason = "productions read alike")]
    fn query(&self, sql: String) -> Say {
        Say::Query(sql.into_bytes())
    }

    /// Any one statement.
    fn statement(&mut self) -> String {
        let wild = if self.tribe == Tribe::Wild { 16 } else { 0 };
        let temporary = if self.paths { 7 } else { 0 };
        match self.weighed(&[20, 22, 14, 5, temporary, 20, wild, 8]) {
            0 => self.probe(),
            1 => self.change(),
            2 => self.transaction(),
            3 => self.failure(),
            4 => self.temporary(),
            5 => self.held(),
            6 => self.hidden(),
            _ => self.data(),
        }
    }

    fn transaction(&mut self) -> String {
        let savepoint = self.pick(&["a", "b"]);
        if self.in_transaction && self.chance(65) {
            return match self.below(9) {
                0..=1 => {
                    self.in_transaction = false;
                    self.pick(&["COMMIT", "END", "COMMIT WORK", "COMMIT AND NO CHAIN"])
                        .to_owned()
                }
                2 => {
                    self.in_transaction = false;
                    self.pick(&["ROLLBACK", "ABORT"]).to_owned()
                }
                3 => self
                    .pick(&["COMMIT AND CHAIN", "ROLLBACK AND CHAIN"])
                    .to_owned(),
                4..=5 => format!("SAVEPOINT {savepoint}"),
                6..=7 => format!("ROLLBACK TO SAVEPOINT {savepoint}"),
                _ => format!("RELEASE {savepoint}"),
            };
        }
        match self.below(10) {
            0 => self
                .pick(&[
                    "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
                    "SET TRANSACTION READ ONLY",
                    "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ",
                    "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
                    "SET CONSTRAINTS ALL DEFERRED",
                ])
                .to_owned(),
            1 => "COMMIT".to_owned(),
            2 => "ROLLBACK".to_owned(),
            _ => {
                self.in_transaction = true;
                self.pick(&[
                    "BEGIN",
                    "BEGIN",
                    "BEGIN",
                    "START TRANSACTION",
                    "BEGIN ISOLATION LEVEL REPEATABLE READ",
                    "BEGIN READ ONLY",
                    "BEGIN ISOLATION LEVEL SERIALIZABLE, READ WRITE, DEFERRABLE",
                ])
                .to_owned()
            }
        }
    }

    fn failure(&mut self) -> String {
        self.pick(&[
            "SELECT 1/0",
            "SELEC 1",
            "SELECT * FROM there_is_none",
            "SELECT 'x'::int",
            "SET no_such_setting = 1",
            "SET work_mem = 'abc'",
            "SELECT $1",
            "SELECT 'open",
            "DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'P0042'; END $$",
            "DO $$ BEGIN RAISE NOTICE 'said'; RAISE WARNING 'warned'; END $$",
        ])
        .to_owned()
    }

    fn data(&mut self) -> String {
        let id = self.rng.random_range(1..9);
        let own = self.schema('a');
        match self.below(6) {
            0 => format!("INSERT INTO {own}.log(note) VALUES ('n{id}')"),
            1 => format!("INSERT INTO {own}.log(note) VALUES ('n{id}') RETURNING id, note"),
            2 => format!("UPDATE {own}.t SET v = v || '{id}' WHERE id = {id}"),
            3 => format!("SELECT v FROM {own}.t WHERE id = {id}"),
            4 => format!("DELETE FROM {own}.log WHERE id % 3 = {}", id % 3),
            _ => format!("SELECT v FROM {} ORDER BY id LIMIT 2", self.table()),
        }
    }

    /// The same statement as people also write it.
    fn dressed(&mut self, sql: String) -> String {
        match self.below(14) {
            0 => format!("/* SET work_mem = '1GB'; /* nested */ */ {sql}"),
            1 => format!("{sql};"),
            2 => format!(";; {sql} ; -- RESET ALL"),
            3 => format!("\n\t-- DISCARD ALL\n{sql}"),
            4 if !sql.contains('\'') && !sql.contains('$') => sql.to_uppercase(),
            _ => sql,
        }
    }

    /// COPY in both directions and all its endings.
    fn copy(&mut self) -> Step {
        let own = self.schema('a');
        let table = self.pick(&["c", "c", "missing"]);
        let rows = |good: bool| {
            let mut data = b"1\tone\n2\ttwo\n".to_vec();
            if !good {
                data.extend(b"three\tnot a number\n");
            }
            Say::CopyData(data)
        };
        let ending = if self.chance(75) {
            Say::CopyDone
        } else {
            Say::CopyFail
        };
        let good = self.chance(75);
        match self.below(5) {
            0 => {
                let table = self.table();
                Step::query(&format!(
                    "COPY (SELECT v FROM {table} ORDER BY id) TO STDOUT"
                ))
            }
            1 => {
                let change = self.set_config();
                Step::query(&format!("COPY (SELECT {change}) TO STDOUT (FORMAT csv)"))
            }
            2 => Step::new(vec![
                Say::Query(format!("COPY {own}.{table} FROM STDIN").into()),
                rows(good),
                ending,
            ]),
            3 => {
                let change = self.change();
                Step::new(vec![
                    Say::Query(format!("{change}; COPY {own}.{table} FROM STDIN; SELECT 1").into()),
                    rows(good),
                    ending,
                ])
            }
            _ => Step::new(vec![
                Say::Parse {
                    name: String::new(),
                    text: format!("COPY {own}.{table} FROM STDIN").into(),
                    types: Vec::new(),
                },
                extended::bind("", "", Vec::new()),
                Say::Execute(String::new(), 0),
                rows(good),
                ending,
                Say::Sync,
                // Who used it again without data would wait for ever.
                Say::Close(What::Statement, String::new()),
                Say::Sync,
            ]),
        }
    }

    /// The protocol's own function call.
    fn call(&mut self) -> Step {
        /// `pg_proc.oid` of functions that are there since long.
        const SET_CONFIG: u32 = 2078;
        const CURRENT_SETTING: u32 = 2077;
        let (name, value) = self.setting();
        let name = Some(name.into());
        Step::new(vec![if self.chance(50) {
            let is_local = Some(self.pick(&["t", "f"]).into());
            Say::Call(SET_CONFIG, vec![name, Some(value.into()), is_local])
        } else {
            Say::Call(CURRENT_SETTING, vec![Some(b"TimeZone".to_vec())])
        }])
    }

    fn after(&mut self) -> Vec<Step> {
        let mut steps = vec![Step::query("ROLLBACK")];
        // What is prepared shows only when it is used.
        for name in extended::NAMES {
            let look = if self.is_fetched(name) {
                extended::bind("", name, vec![])
            } else {
                Say::Describe(What::Statement, name.to_owned())
            };
            steps.push(Step::new(vec![look, Say::Sync]));
        }
        steps.extend(session::HELD.iter().copied().map(Step::query));
        steps
    }
}
