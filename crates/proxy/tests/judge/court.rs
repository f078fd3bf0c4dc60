//! Two databases of one PostgreSQL, alike but for the way to them: one through the proxy, one direct.
//!
//! Owns: making them, logging in to either, and running one script on both at once. Does not own:
//! scripts (`grammar`), what is a difference (`answer`), many sessions at once (`trial`).

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use model::Role;
use wire::startup::Protocol;

use crate::{
    answer, grammar,
    kit::{
        Stack, Tenant,
        raw::{self, Raw},
    },
    line::Line,
    script::{Script, Step},
};

/// Who logs in directly as the group. It is not in the tenant's database.
const GROUP_PASSWORD: &str = "direct";

pub struct Court<'a> {
    stack: &'a Stack,
    /// Reached through the proxy.
    tenant: Tenant,
    /// Reached directly.
    twin: Tenant,
    mode: &'static str,
    pub steps: AtomicU64,
    pub scripts: AtomicU64,
    /// Scripts that ended early, see [`answer::is_out_of_reach`].
    pub out_of_reach: AtomicU64,
}

/// Where two answers differ.
#[derive(Clone, Debug)]
pub struct Mismatch {
    /// Of the whole script; `None` is the login.
    pub step: Option<usize>,
    pub said: String,
    pub direct: Vec<String>,
    pub ours: Vec<String>,
    /// The first line that differs.
    pub at: usize,
}

impl Mismatch {
    fn line(lines: &[String], at: usize) -> &str {
        lines.get(at).map_or("(nothing more)", String::as_str)
    }

    /// Alike for what is probably one mistake.
    pub fn signature(&self) -> String {
        let both = [&self.direct, &self.ours].map(|lines| Self::line(lines, self.at));
        both.join("; ").replace(|c: char| c.is_ascii_digit(), "")
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "said:   {}", self.said)?;
        let line = |lines: &[String]| {
            let line = Self::line(lines, self.at);
            line.chars().take(600).collect::<String>()
        };
        writeln!(f, "direct: {}", line(&self.direct))?;
        writeln!(f, "ours:   {}", line(&self.ours))?;
        writeln!(f, "all, direct: {}", brief(&self.direct))?;
        write!(f, "all, ours:   {}", brief(&self.ours))
    }
}

fn brief(lines: &[String]) -> String {
    let all = lines.join("; ");
    all.chars().take(1200).collect()
}

impl<'a> Court<'a> {
    /// Makes both databases, with what `slots` sessions of the tribe need.
    pub fn open(stack: &'a Stack, mode: &'static str, slots: usize) -> Self {
        let (tenant, twin) = (stack.tenant(), stack.tenant());
        let database = twin.pid.database();
        stack.postgres.sql(
            "postgres",
            &format!(
                "ALTER ROLE tenantry_admin LOGIN PASSWORD '{GROUP_PASSWORD}';
                 GRANT {database} TO tenantry_admin;
                 GRANT CONNECT ON DATABASE {database} TO tenantry_admin"
            ),
        );
        let court = Self {
            stack,
            tenant,
            twin,
            mode,
            steps: AtomicU64::new(0),
            scripts: AtomicU64::new(0),
            out_of_reach: AtomicU64::new(0),
        };
        court.prepare(slots);
        court
    }

    fn prepare(&self, slots: usize) {
        for tenant in [&self.tenant, &self.twin] {
            let logins: Vec<Line> = grammar::prewarm()
                .map(|sql| {
                    let mut line = self.direct(tenant, true, &[]);
                    assert_eq!(kinds(&line.step(&Step::query(sql), 1)), "CZ");
                    line
                })
                .collect();
            drop(logins);
            let mut line = self.direct(tenant, true, &[]);
            for slot in 0..slots {
                let seen = line.step(&Step::query(&grammar::once(slot)), 1);
                assert_eq!(raw::code_of(&seen), "");
            }
        }
    }

    /// As the tenant's role logs in, or as the group that it acts as.
    fn direct(&self, tenant: &Tenant, as_login: bool, startup: &[(String, String)]) -> Line {
        let (user, password) = if as_login {
            let user = Role::Admin.login(&tenant.pid).clone();
            (user.clone(), format!("server-{user}"))
        } else {
            ("tenantry_admin".to_owned(), GROUP_PASSWORD.to_owned())
        };
        let role = if as_login {
            "-c role=tenantry_admin"
        } else {
            ""
        };
        let database = tenant.pid.database();
        let options = format!("{role} -c statement_timeout=60s {}", options(startup));
        let list = [
            ("user", user.as_str()),
            ("database", &database),
            ("options", &options),
        ];
        let mut raw = Raw::unix(&self.stack.postgres.socket());
        let greeting = raw.log_in(Protocol::V3_0, &list, &password);
        assert_eq!(raw::code_of(&greeting), "", "{greeting:?}");
        Line::new(raw, greeting)
    }

    fn ours(&self, startup: &[(String, String)]) -> Line {
        let user = self.tenant.login(Role::Admin).to_string();
        let options = format!("{} -c tenantry.pool_mode={}", options(startup), self.mode);
        let list = [
            ("user", user.as_str()),
            ("database", "postgres"),
            ("options", &options),
        ];
        let mut raw = Raw::plain(self.stack.port);
        let greeting = raw.log_in(Protocol::V3_0, &list, &self.tenant.password);
        Line::new(raw, greeting)
    }

    /// Runs the script both ways, in step. An error is the first difference.
    pub fn run(&self, script: &Script) -> Result<(), Mismatch> {
        self.scripts.fetch_add(1, Ordering::Relaxed);
        let mut direct = self.direct(&self.twin, script.changes_roles, &script.startup);
        let mut ours = self.ours(&script.startup);
        let greetings = [
            self.lines(&direct.greeting, &self.twin),
            self.lines(&ours.greeting, &self.tenant),
        ];
        compare(None, "the login", greetings)?;
        let steps = [&script.before, &script.steps, &script.after];
        for (number, step) in steps.into_iter().flatten().enumerate() {
            let answers = [
                self.lines(&direct.step(step, 1), &self.twin),
                self.lines(&ours.step(step, step.pieces), &self.tenant),
            ];
            self.steps.fetch_add(1, Ordering::Relaxed);
            if answer::both_ended(&answers[0], &answers[1]) {
                return Ok(());
            }
            if answer::is_out_of_reach(&answers[0], &answers[1]) {
                self.out_of_reach.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            if answer::lacks_a_schema(&answers[0], &answers[1]) {
                return Ok(());
            }
            compare(Some(number), &step.to_string(), answers)?;
        }
        direct.leave(script.ending);
        ours.leave(script.ending);
        Ok(())
    }

    #[expect(clippy::unused_self, reason = "reads as what it is: of this court")]
    fn lines(&self, messages: &[raw::Message], tenant: &Tenant) -> Vec<String> {
        answer::lines(messages, tenant.pid.as_str())
    }
}

fn options(startup: &[(String, String)]) -> String {
    startup
        .iter()
        .map(|(name, value)| {
            format!(
                "-c {name}={} ",
                value.replace('\\', "\\\\").replace(' ', "\\ ")
            )
        })
        .collect()
}

fn kinds(messages: &[raw::Message]) -> String {
    messages.iter().map(|(kind, _)| char::from(*kind)).collect()
}

fn compare(
    step: Option<usize>,
    said: &str,
    [direct, ours]: [Vec<String>; 2],
) -> Result<(), Mismatch> {
    match answer::difference(&direct, &ours) {
        None => Ok(()),
        Some(at) => Err(Mismatch {
            step,
            said: said.to_owned(),
            direct,
            ours,
            at,
        }),
    }
}

/// Which scripts `slot` runs, one after the other.
pub fn seeds(first: u64, slot: usize) -> impl Iterator<Item = u64> {
    (0..).map(move |number: u64| {
        first
            .wrapping_mul(0x9E37_79B9_7F4A_7C15)
            .wrapping_add((slot as u64) << 40)
            .wrapping_add(number)
    })
}
