//! The drivers: what each runs in, and what it must show.
//!
//! Owns: the table, and finding what a driver needs. Does not own: what a step is; that stands in
//! each driver's folder.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use Runtime::{Bash, Cargo, Go, Inside, Java, Node, Python, Ruby};

/// One driver; its files lie in the folder of the same name.
pub(crate) struct Driver {
    pub(crate) name: &'static str,
    pub(crate) runtime: Runtime,
    /// Steps it must show, separated by spaces, beside those of its kind.
    shows: &'static str,
    /// Whether the usual steps are expected too.
    is_usual: bool,
    /// Whether another driver of this list is below it.
    pub(crate) is_above: bool,
}

/// What a driver runs in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Runtime {
    /// `run.sh`, with PostgreSQL's own programs.
    Bash,
    /// `run.py`, with the libraries of `requirements.txt`.
    Python,
    /// `run.js`, with the libraries of `package-lock.json`.
    Node,
    /// `main.go`, built against Debian's packages.
    Go,
    /// `Run.java`, with Debian's package of the library.
    Java,
    /// `run.rb`, with Debian's package of the library.
    Ruby,
    /// A cargo package of its own.
    Cargo,
    /// A module of this program.
    Inside,
}

/// What every library shows.
const LIBRARY: &str = "verify-full types prepared transaction errors cancel big-value notify reconnect wrong-password";

const fn library(name: &'static str, runtime: Runtime, shows: &'static str) -> Driver {
    Driver {
        name,
        runtime,
        shows,
        is_usual: true,
        is_above: false,
    }
}

const fn program(name: &'static str, shows: &'static str) -> Driver {
    Driver {
        name,
        runtime: Bash,
        shows,
        is_usual: false,
        is_above: false,
    }
}

const fn orm(name: &'static str, runtime: Runtime, shows: &'static str) -> Driver {
    Driver {
        name,
        runtime,
        shows,
        is_usual: true,
        is_above: true,
    }
}

/// An ORM over several drivers, or in several ways: its steps are told for each.
const fn orm_over(name: &'static str, runtime: Runtime, shows: &'static str) -> Driver {
    Driver {
        name,
        runtime,
        shows,
        is_usual: false,
        is_above: true,
    }
}

/// A driver that speaks HTTP: it has no connections.
const fn over_http(name: &'static str, runtime: Runtime, shows: &'static str) -> Driver {
    Driver {
        name,
        runtime,
        shows,
        is_usual: false,
        is_above: false,
    }
}

/// The slowest first: then two of them do not end up alone at the end.
pub(crate) const DRIVERS: &[Driver] = &[
    orm_over(
        "django",
        Python,
        "verify-full migrate default/types default/batch default/transaction default/errors default/cancel \
         default/reconnect default/threads bound/types bound/batch bound/transaction bound/errors bound/cancel \
         bound/reconnect bound/threads pooled/types pooled/batch pooled/transaction pooled/errors pooled/cancel \
         pooled/reconnect pooled/threads big-value notify wrong-password migrate-back",
    ),
    orm_over(
        "sqlalchemy",
        Python,
        "psycopg2/verify-full psycopg2/types psycopg2/prepared psycopg2/batch psycopg2/transaction psycopg2/errors \
         psycopg2/cancel psycopg2/big-value psycopg2/reconnect psycopg/verify-full psycopg/types psycopg/prepared \
         psycopg/batch psycopg/transaction psycopg/errors psycopg/cancel psycopg/big-value psycopg/reconnect \
         asyncpg/verify-full asyncpg/types asyncpg/prepared asyncpg/errors asyncpg/cancel asyncpg/big-value wrong-password",
    ),
    library(
        "psycopg",
        Python,
        "copy plain-refused channel-binding direct-tls direct-tls-verify-full protocol-3.2 protocol-3.0 all-at-once \
         pipeline asynchronous pool console",
    ),
    library(
        "jdbc",
        Java,
        "require simple-protocol plain-refused batch copy large-object",
    ),
    library("asyncpg", Python, "require copy direct-tls batch pool"),
    library("sqlx", Cargo, "require plain-refused batch copy"),
    program(
        "pgbench",
        "verify-full simple extended prepared connect pipeline transaction",
    ),
    orm_over(
        "drizzle",
        Node,
        "node-postgres/verify-full node-postgres/migrate node-postgres/types node-postgres/prepared node-postgres/batch \
         node-postgres/transaction node-postgres/errors node-postgres/big-value node-postgres/reconnect \
         node-postgres/cancel postgres.js/verify-full postgres.js/migrate postgres.js/types postgres.js/prepared \
         postgres.js/batch postgres.js/transaction postgres.js/errors postgres.js/big-value wrong-password",
    ),
    library(
        "postgres.js",
        Node,
        "require plain-refused pipeline cursors settings copy",
    ),
    library(
        "node-postgres",
        Node,
        "require copy plain-refused channel-binding direct-tls pool",
    ),
    over_http(
        "neon-serverless",
        Node,
        "verify-full types parameters rows transaction batch errors array-mode full-results wrong-password auth-token suspended",
    ),
    library(
        "tokio-postgres",
        Inside,
        "channel-binding direct-tls plain-refused pipeline copy changed-table",
    ),
    program(
        "pg_dump",
        "verify-full plain custom parallel single-transaction",
    ),
    program(
        "psql",
        "require verify-full plain-refused types prepared transaction errors cancel copy notify big-value \
         reconnect wrong-password",
    ),
    library(
        "psycopg2",
        Python,
        "require plain-refused batch cursors settings copy large-object asynchronous console",
    ),
    orm("sequelize", Node, "plain-refused batch"),
    orm("typeorm", Node, "plain-refused migrate batch"),
    orm("knex", Node, "plain-refused migrate batch"),
    orm("prisma", Node, "plain-refused batch"),
    library(
        "pgx-v4",
        Go,
        "require simple-protocol plain-refused batch copy",
    ),
    library("lib-pq", Go, "require binary-parameters plain-refused copy"),
    library(
        "ruby-pg",
        Ruby,
        "require plain-refused pipeline copy large-object",
    ),
];

impl Driver {
    /// What it must say and `stdout` does not: a step, or that all of them are done.
    pub(crate) fn missing(&self, stdout: &str) -> Vec<String> {
        let common = if self.is_usual { LIBRARY } else { "" };
        let steps = common
            .split_whitespace()
            .chain(self.shows.split_whitespace());
        let mut wanted: Vec<_> = steps
            .map(|step| format!("ok {}", step.replacen('/', " ", 1)))
            .collect();
        wanted.retain(|wanted| !stdout.lines().any(|line| line == wanted));
        if !stdout.lines().any(|line| line.starts_with("all ")) {
            wanted.push("all …".to_owned());
        }
        wanted
            .iter()
            .map(|wanted| format!("it did not say '{wanted}'"))
            .collect()
    }

    /// How it is started, or what this machine lacks. `tools` is what `fetch` filled.
    pub(crate) fn command(&self, tools: &Path) -> Result<Command, String> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("drivers")
            .join(self.name);
        let command = |program: PathBuf, arguments: &[&Path]| {
            let mut command = Command::new(program);
            command.args(arguments);
            command
        };
        match self.runtime {
            Bash => Ok(command("bash".into(), &[&folder.join("run.sh")])),
            Python => Ok(command(
                tools.join("venv/bin/python3"),
                &[&folder.join("run.py")],
            )),
            Node => {
                // Written by `fetch`, with the reason.
                match std::fs::read_to_string(tools.join(format!("node/{}.lacks", self.name))) {
                    Ok(lacks) => Err(lacks.trim().to_owned()),
                    Err(_) => Ok(command("node".into(), &[&folder.join("run.js")])),
                }
            }
            Cargo => Ok(command(tools.join("sqlx/debug/sqlx-driver"), &[])),
            Inside => {
                let this = std::env::current_exe().map_err(|error| error.to_string())?;
                Ok(command(
                    this,
                    &[Path::new("--inside"), Path::new(self.name)],
                ))
            }
            Go => {
                let built = tools.join("go").join(self.name);
                let lacks = "Go, or Debian's package of the library, is not on this machine";
                built
                    .exists()
                    .then(|| command(built, &[]))
                    .ok_or_else(|| lacks.to_owned())
            }
            Java => {
                let jar = "/usr/share/java/postgresql.jar";
                let classes = tools.join("java");
                if !classes.join("Run.class").exists() || !runs("java", &["-version"]) {
                    return Err("Java, its compiler or Debian's package of the library is not on this machine".to_owned());
                }
                let path = format!("{}:{jar}", classes.display());
                Ok(command(
                    "java".into(),
                    &[Path::new("-cp"), Path::new(&path), Path::new("Run")],
                ))
            }
            Ruby => {
                if !runs("ruby", &["-e", "require 'pg'"]) {
                    return Err("Ruby, or its package pg, is not on this machine".to_owned());
                }
                Ok(command("ruby".into(), &[&folder.join("run.rb")]))
            }
        }
    }
}

fn runs(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
