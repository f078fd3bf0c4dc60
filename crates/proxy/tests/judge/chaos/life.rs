//! One session: what it asks, which answers are the only right ones, and how it ends.
//!
//! Every statement returns its tenant's mark from the tenant's own table, a setting that only this
//! session has, and a number that only this statement has. An error has to be one of those that
//! what is going on can cause (`compare`).

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    sync::atomic::Ordering,
    time::Duration,
};

use model::Role;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use wire::{
    message::build,
    startup::{CancelKey, Protocol},
};

use super::{
    Home, Tally,
    compare::{EXCUSES, is_silence},
    storm::pause,
};
use crate::{
    kit::{
        Stack,
        raw::{self, Bytes, Raw},
    },
    script::{Say, What},
};

/// Time zones, and midnight of 2020 in UTC as it reads there.
const ZONES: [(&str, &str); 4] = [
    ("UTC", "2020-01-01 00:00:00+00"),
    ("Asia/Kolkata", "2020-01-01 05:30:00+05:30"),
    ("America/New_York", "2019-12-31 19:00:00-05"),
    ("Asia/Tokyo", "2020-01-01 09:00:00+09"),
];

/// The answer to one statement.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    Rows(Vec<Vec<String>>),
    /// Tag or nothing, no rows.
    Done,
    Error(&'static str),
}

/// What comes up to one ReadyForQuery.
pub(super) type Unit = Vec<Answer>;

/// Why a session ends.
pub(super) enum End {
    /// It wants to.
    Left,
    /// The connection ended.
    Lost,
}

pub(super) struct Life<'a> {
    pub(super) stream: Box<dyn Bytes>,
    /// For cancelling, and where.
    key: (CancelKey, u16),
    pub(super) home: &'a Home,
    pub(super) tally: &'a Tally,
    pub(super) rng: StdRng,
    /// What `app.canary` is.
    pub(super) canary: String,
    zone: (&'static str, &'static str),
    /// What the temporary table holds.
    temporary: Option<String>,
    /// What the statement `mine` returns.
    prepared: Option<String>,
    pub(super) log: Vec<String>,
}

/// Logs in, asks, and leaves in one way or another.
pub fn live(stack: &Stack, home: &Home, tally: &Tally, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut raw = if rng.random_ratio(1, 6) {
        match Raw::try_tls(stack.port, &stack.certificate) {
            Ok((raw, _)) => raw,
            // It may take longer than the proxy waits for it, where there is too much to do.
            Err(error) => return login_lost(tally, &error),
        }
    } else {
        Raw::plain(stack.port)
    };
    let user = home.tenant.login(Role::Admin).to_string();
    let zone = ZONES[rng.random_range(0..ZONES.len())];
    let list = [
        ("user", user.as_str()),
        ("database", "postgres"),
        ("TimeZone", zone.0),
    ];
    let seen = raw.log_in(Protocol::V3_2, &list, &home.tenant.password);
    if seen.last().is_none_or(|(kind, _)| *kind != b'Z') {
        let code = raw::code_of(&seen);
        if code.is_empty() {
            let why = raw.stream.read(&mut [0]).err();
            return login_lost(tally, &why.unwrap_or(ErrorKind::UnexpectedEof.into()));
        }
        tally.error(&code);
        if !EXCUSES.contains(&&*code) {
            tally.found(format!("login: {code} {seen:?}"));
        }
        return;
    }
    tally.sessions.fetch_add(1, Ordering::Relaxed);
    let key = (raw::cancel_key(&seen), stack.port);
    let _ = Life::new(raw.stream, key, zone, home, tally, rng).run();
}

/// The connection may end before the login does, but not be silent.
fn login_lost(tally: &Tally, why: &std::io::Error) {
    tally.error("login lost");
    if is_silence(why) {
        tally.found("login: expected an answer, or an end; got nothing".to_owned());
    }
}

fn quoted(sql: String) -> Say {
    Say::Query(sql.into_bytes())
}

impl<'a> Life<'a> {
    /// Of a session that has logged in.
    pub(super) fn new(
        stream: Box<dyn Bytes>,
        key: (CancelKey, u16),
        zone: (&'static str, &'static str),
        home: &'a Home,
        tally: &'a Tally,
        rng: StdRng,
    ) -> Self {
        Self {
            stream,
            key,
            home,
            tally,
            rng,
            canary: String::new(),
            zone,
            temporary: None,
            prepared: None,
            log: Vec::new(),
        }
    }

    fn token(&mut self) -> String {
        format!("{:016x}", self.rng.random::<u64>())
    }

    fn below(&mut self, end: usize) -> usize {
        self.rng.random_range(0..end)
    }

    fn run(&mut self) -> Result<(), End> {
        while !self.set_canary()? && !self.tally.is_over() {}
        for _ in 0..self.rng.random_range(1..40) {
            if self.tally.is_over() {
                break;
            }
            match self.below(19) {
                0..=2 => self.ask_simply()?,
                3..=5 => self.ask_in_a_pipeline()?,
                6 => self.ask_for_much()?,
                7 => self.ask_in_a_transaction()?,
                8 => {
                    self.set_canary()?;
                }
                9 => self.ask_and_cancel()?,
                10 => self.copy()?,
                11 => self.use_prepared()?,
                12 => self.use_prepared()?,
                13 => self.use_temporary()?,
                14 => self.fail()?,
                15 => self.fetch_by_parts()?,
                16 => self.notify_itself()?,
                17 if self.rng.random_ratio(1, 6) => return self.vanish(),
                18 if self.rng.random_ratio(1, 12) => return self.end_its_server(),
                _ => self.cancel_nothing(),
            }
        }
        let mut bytes = Vec::new();
        build::terminate(&mut bytes);
        let _ = self.stream.write_all(&bytes);
        let _ = self.stream.flush();
        Err(End::Left)
    }

    // --- what is asked -----------------------------------------------------------------------

    /// A statement that names all canaries, and its only right answer.
    fn question(&mut self) -> (String, Answer) {
        let token = self.token();
        let sql = format!(
            "SELECT id, current_setting('app.canary'), \
             timestamptz '2020-01-01 00:00+00', '{token}' FROM canary"
        );
        (sql, self.answer(token))
    }

    fn answer(&self, token: String) -> Answer {
        Answer::Rows(vec![vec![
            self.home.tenant.id.to_string(),
            self.canary.clone(),
            self.zone.1.to_owned(),
            token,
        ]])
    }

    fn ask_simply(&mut self) -> Result<(), End> {
        let count = self.rng.random_range(1..4);
        let (sql, answers): (Vec<_>, Vec<_>) = (0..count).map(|_| self.question()).unzip();
        self.ask(vec![quoted(sql.join("; "))], vec![answers])
            .map(|_| ())
    }

    fn ask_in_a_pipeline(&mut self) -> Result<(), End> {
        let (mut says, mut units) = (Vec::new(), Vec::new());
        for _ in 0..self.rng.random_range(1..4) {
            let mut unit = Vec::new();
            for _ in 0..self.rng.random_range(1..5) {
                let token = self.token();
                let bad = self.rng.random_ratio(1, 12);
                let sql = if bad {
                    "SELECT 1 / ($1::text = '')::int"
                } else {
                    "SELECT id, current_setting('app.canary'), \
                     timestamptz '2020-01-01 00:00+00', $1::text FROM canary"
                };
                says.extend([
                    Say::Parse {
                        name: String::new(),
                        text: sql.into(),
                        types: Vec::new(),
                    },
                    bind("", &[&token]),
                    Say::Execute(String::new(), 0),
                ]);
                unit.push(if bad {
                    Answer::Error("22012")
                } else {
                    self.answer(token)
                });
            }
            says.push(Say::Sync);
            // Nothing comes behind an error.
            if let Some(error) = unit
                .iter()
                .position(|answer| matches!(answer, Answer::Error(_)))
            {
                unit.truncate(error + 1);
            }
            units.push(unit);
        }
        self.ask(says, units).map(|_| ())
    }

    fn ask_for_much(&mut self) -> Result<(), End> {
        let token = self.token();
        let rows = self.rng.random_range(1..2500);
        let sql =
            format!("SELECT g, '{token}', repeat('{token}', 8) FROM generate_series(1, {rows}) g");
        let rows: Vec<_> = (1..=rows)
            .map(|number: u64| vec![number.to_string(), token.clone(), token.repeat(8)])
            .collect();
        self.ask(vec![quoted(sql)], vec![vec![Answer::Rows(rows)]])
            .map(|_| ())
    }

    fn ask_in_a_transaction(&mut self) -> Result<(), End> {
        let (inside, after) = (self.token(), self.question());
        let end = ["COMMIT", "ROLLBACK"][self.below(2)];
        if !self.ask(vec![quoted("BEGIN".to_owned())], vec![vec![Answer::Done]])? {
            return Ok(());
        }
        let sql = format!(
            "SET LOCAL app.canary TO '{inside}'; SELECT current_setting('app.canary'), id FROM canary"
        );
        let id = self.home.tenant.id.to_string();
        let unit = vec![Answer::Done, Answer::Rows(vec![vec![inside, id]])];
        let went_well = self.ask(vec![quoted(sql)], vec![unit])?;
        let end = if went_well { end } else { "ROLLBACK" };
        while !self.ask(vec![quoted(end.to_owned())], vec![vec![Answer::Done]])? {}
        self.ask(vec![quoted(after.0)], vec![vec![after.1]])
            .map(|_| ())
    }

    fn set_canary(&mut self) -> Result<bool, End> {
        let value = self.token();
        let sql = format!("SET app.canary TO '{value}'");
        let done = self.ask(vec![quoted(sql)], vec![vec![Answer::Done]])?;
        if done {
            self.canary = value;
        }
        Ok(done)
    }

    fn ask_and_cancel(&mut self) -> Result<(), End> {
        let token = self.token();
        let time = self.rng.random_range(0..30);
        let sql = format!("SELECT '{token}' FROM pg_sleep(0.0{time:02})");
        let says = [quoted(sql)];
        self.send(&says)?;
        pause(Duration::from_micros(self.rng.random_range(0..20_000)));
        self.cancel();
        self.receive(&says, vec![vec![Answer::Rows(vec![vec![token]])]])
            .map(|_| ())
    }

    fn copy(&mut self) -> Result<(), End> {
        let token = self.token();
        if self.rng.random_ratio(1, 2) {
            let says = vec![quoted(format!(
                "COPY (SELECT '{token}', g FROM generate_series(1, 300) g) TO STDOUT"
            ))];
            let rows = (1..=300).map(|g| vec![format!("{token}\t{g}\n")]).collect();
            return self.ask(says, vec![vec![Answer::Rows(rows)]]).map(|_| ());
        }
        let fails = self.rng.random_ratio(1, 3);
        let says = vec![
            quoted("COPY sink FROM STDIN".to_owned()),
            Say::CopyData(format!("{token}\n").repeat(50).into()),
            if fails { Say::CopyFail } else { Say::CopyDone },
        ];
        let answer = if fails {
            Answer::Error("57014")
        } else {
            Answer::Done
        };
        self.ask(says, vec![vec![answer]]).map(|_| ())
    }

    /// A statement by name, whose constant was read under this session's time zone.
    fn use_prepared(&mut self) -> Result<(), End> {
        let Some(own) = self.prepared.clone() else {
            let own = self.token();
            let text = format!(
                "SELECT id, '{own}', timestamptz '2020-01-01 00:00+00', \
                 current_setting('app.canary'), $1::text FROM canary"
            );
            let says = vec![
                Say::Close(What::Statement, "mine".to_owned()),
                Say::Parse {
                    name: "mine".to_owned(),
                    text: text.into(),
                    types: Vec::new(),
                },
                Say::Sync,
            ];
            if self.ask(says, vec![vec![]])? {
                self.prepared = Some(own);
            }
            return Ok(());
        };
        let token = self.token();
        let says = vec![
            bind("mine", &[&token]),
            Say::Execute(String::new(), 0),
            Say::Sync,
        ];
        let row = vec![
            self.home.tenant.id.to_string(),
            own,
            self.zone.1.to_owned(),
            self.canary.clone(),
            token,
        ];
        self.ask(says, vec![vec![Answer::Rows(vec![row])]])
            .map(|_| ())
    }

    fn use_temporary(&mut self) -> Result<(), End> {
        let (sql, answer, next) = match self.temporary.clone() {
            None => {
                let token = self.token();
                let sql = format!("CREATE TEMP TABLE mine AS SELECT '{token}'::text AS token");
                (sql, Answer::Done, Some(token))
            }
            Some(_) if self.rng.random_ratio(1, 4) => {
                ("DROP TABLE mine".to_owned(), Answer::Done, None)
            }
            Some(token) => {
                let rows = Answer::Rows(vec![vec![token.clone()]]);
                ("SELECT token FROM mine".to_owned(), rows, Some(token))
            }
        };
        if self.ask(vec![quoted(sql)], vec![vec![answer]])? {
            self.temporary = next;
        }
        Ok(())
    }

    fn fail(&mut self) -> Result<(), End> {
        let (sql, code) = [
            ("SELECT 1/0", "22012"),
            ("SELECT no_such_column FROM canary", "42703"),
            ("SET DateStyle TO 'nonsense'", "22023"),
        ][self.below(3)];
        let unit = vec![Answer::Error(code)];
        self.ask(vec![quoted(sql.to_owned())], vec![unit])
            .map(|_| ())
    }

    fn fetch_by_parts(&mut self) -> Result<(), End> {
        let token = self.token();
        let text = format!("SELECT '{token}', g FROM generate_series(1, 5) g");
        let mut says = vec![
            Say::Parse {
                name: String::new(),
                text: text.into(),
                types: Vec::new(),
            },
            bind("", &[]),
        ];
        let mut unit = Vec::new();
        for part in [1..=2, 3..=4, 5..=5] {
            says.push(Say::Execute(String::new(), 2));
            let row = |number: i32| vec![token.clone(), number.to_string()];
            unit.push(Answer::Rows(part.map(row).collect()));
        }
        says.push(Say::Sync);
        self.ask(says, vec![unit]).map(|_| ())
    }

    fn notify_itself(&mut self) -> Result<(), End> {
        let channel = format!("c{}", self.token());
        let sql = format!(
            "LISTEN {channel}; NOTIFY {channel}, '{}'; UNLISTEN *",
            self.canary
        );
        let unit = vec![Answer::Done, Answer::Done, Answer::Done];
        self.ask(vec![quoted(sql)], vec![unit]).map(|_| ())
    }

    // --- how it ends -------------------------------------------------------------------------

    /// Its socket closes after any number of bytes of a flight.
    fn vanish(&mut self) -> Result<(), End> {
        let (sql, _) = self.question();
        let mut bytes = Vec::new();
        let mut first = None;
        for say in [
            quoted("BEGIN; SELECT repeat('y', 1000) FROM generate_series(1, 300)".to_owned()),
            quoted(sql),
            quoted("COPY sink FROM STDIN".to_owned()),
            Say::CopyData(vec![b'z'; 500]),
            bind("mine", &["x"]),
            Say::Execute(String::new(), 0),
            Say::Sync,
        ] {
            say.write(&mut bytes);
            first.get_or_insert(bytes.len());
        }
        let end = self.below(bytes.len());
        let _ = self.stream.write_all(&bytes[..end]);
        let _ = self.stream.flush();
        // Nobody answers a part of a message.
        let is_answered = first.is_some_and(|first| end >= first);
        if is_answered && self.rng.random_ratio(1, 2) {
            let mut some = vec![0; self.rng.random_range(1..2000)];
            let _ = self.stream.read(&mut some);
        }
        self.tally.error("vanished");
        Err(End::Left)
    }

    /// The server ends the connection by itself, while nobody asks anything.
    fn end_its_server(&mut self) -> Result<(), End> {
        let sql = "BEGIN; SET LOCAL idle_in_transaction_session_timeout TO '3ms'";
        let unit = vec![Answer::Done, Answer::Done];
        if !self.ask(vec![quoted(sql.to_owned())], vec![unit])? {
            return self
                .ask(
                    vec![quoted("ROLLBACK".to_owned())],
                    vec![vec![Answer::Done]],
                )
                .map(|_| ());
        }
        while let Some((kind, body)) = self.message() {
            let code = raw::code_of(&[(kind, body)]);
            if kind == b'E' && (code == "25P03" || EXCUSES.contains(&&*code)) {
                self.tally.error(&code);
            } else {
                return self.wrong(
                    "the end of the connection",
                    &format!("{} {code}", char::from(kind)),
                );
            }
        }
        Err(End::Lost)
    }

    fn cancel(&self) {
        let mut bytes = Vec::new();
        let (key, port) = &self.key;
        build::cancel_request(key, &mut bytes);
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", *port)) {
            let _ = stream.write_all(&bytes);
        }
    }

    /// A cancel while nothing runs, or of a session that never was.
    fn cancel_nothing(&mut self) {
        if self.rng.random_ratio(1, 2) {
            self.cancel();
            return;
        }
        let secret: [u8; 4] = self.rng.random();
        if let Some(key) = CancelKey::new(self.rng.random(), &secret)
            && let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.key.1))
        {
            let mut bytes = Vec::new();
            build::cancel_request(&key, &mut bytes);
            let _ = stream.write_all(&bytes);
        }
    }
}

fn bind(name: &str, values: &[&str]) -> Say {
    Say::Bind {
        portal: String::new(),
        name: name.to_owned(),
        values: values
            .iter()
            .map(|value| Some(value.as_bytes().to_vec()))
            .collect(),
        binary: false,
    }
}
