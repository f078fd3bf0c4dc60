//! Real clients against running stacks: one stack for each PostgreSQL, a tenant for each driver.
//!
//! Owns: starting the stacks and the drivers, what a driver is told, and what comes of it. Does not
//! own: what a driver does; that is in its own folder, in its own language, and [`list`] names them.
//!
//! ```text
//! drivers [--mode MODE…] [--on system|18…] [NAME…]
//! ```
//!
//! With neither mode nor version: both versions, one of them asking for `session`.
//!
//! Prints `ok NAME/VERSION` and one line of what the driver showed, `not ok …` with all that it
//! said, or `skip NAME reason`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod list;
#[path = "tokio-postgres/run.rs"]
mod tokio_postgres_driver;

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    sync::{Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use kit::{Stack, StackConfig, postgres::Postgres};

use crate::list::{DRIVERS, Driver};

/// Longest a driver may take. 5 min: the slowest takes 12 s on an idle machine.
const DRIVER_MAX: Duration = Duration::from_secs(300);
/// Drivers at once. Each keeps a core of the client's side or of the server's busy.
const AT_ONCE: usize = 2;

/// What to run.
struct Plan {
    drivers: Vec<&'static Driver>,
    passes: Vec<Pass>,
}

/// All drivers once.
struct Pass {
    on: Postgres,
    /// The pool mode that drivers ask for; `None` asks for nothing.
    mode: Option<String>,
    /// What is above other drivers is left out: below, it is the same.
    is_short: bool,
}

impl Plan {
    fn of(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let (mut drivers, mut versions, mut modes) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            match argument.as_str() {
                "--mode" => modes.push(Some(value()?)),
                "--on" => versions.push(match value()?.as_str() {
                    "system" => Postgres::System,
                    "18" => Postgres::V18,
                    other => return Err(format!("--on {other}: system or 18")),
                }),
                name => {
                    let driver = DRIVERS.iter().find(|driver| driver.name == name);
                    drivers.push(driver.ok_or(format!("there is no driver {name}"))?);
                }
            }
        }
        if drivers.is_empty() {
            drivers.extend(DRIVERS);
        }
        if versions.is_empty() && modes.is_empty() {
            return Ok(Self {
                drivers,
                passes: Pass::usual(),
            });
        }
        if versions.is_empty() {
            versions.extend(Postgres::ALL);
        }
        if modes.is_empty() {
            modes.push(None);
        }
        let passes = versions.iter().flat_map(|on| {
            modes.iter().map(|mode| Pass {
                on: *on,
                mode: mode.clone(),
                is_short: false,
            })
        });
        Ok(Self {
            drivers,
            passes: passes.collect(),
        })
    }
}

impl Pass {
    /// Each version and each mode that has to stay once, instead of all pairs.
    fn usual() -> Vec<Self> {
        let with = |on, mode: Option<&str>, is_short| Self {
            on,
            mode: mode.map(str::to_owned),
            is_short,
        };
        vec![
            with(Postgres::System, None, false),
            with(Postgres::V18, Some("session"), true),
        ]
    }

    fn takes(&self, driver: &Driver) -> bool {
        // pg_dump refuses a server newer than itself, and the one of 18 has no TLS.
        let is_too_new = driver.name == "pg_dump" && self.on != Postgres::System;
        !is_too_new && (!self.is_short || !driver.is_above)
    }

    fn name(&self) -> String {
        let mode = self.mode.iter().map(|mode| format!("-{mode}"));
        format!("{}{}", version(self.on), mode.collect::<String>())
    }
}

/// One driver on one stack.
struct Run<'a> {
    driver: &'static Driver,
    stack: &'a Stack,
    name: String,
    mode: Option<&'a str>,
    issuer_keys: PathBuf,
}

/// How a driver ended.
struct Ended {
    stdout: String,
    stderr: String,
    /// What was wrong; empty when nothing was.
    wrong: Vec<String>,
    took: Duration,
}

impl Ended {
    /// It could not even be run.
    fn never(error: &anyhow::Error) -> Self {
        Self {
            stdout: String::new(),
            stderr: String::new(),
            wrong: vec![format!("{error:?}")],
            took: Duration::ZERO,
        }
    }
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    if arguments.len() == 2 && std::env::args().nth(1).as_deref() == Some("--inside") {
        return tokio_postgres_driver::main();
    }
    let plan = match Plan::of(&mut arguments) {
        Ok(plan) => plan,
        Err(wrong) => {
            eprintln!("{wrong}");
            return ExitCode::from(2);
        }
    };
    if run_all(&plan) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn run_all(plan: &Plan) -> bool {
    let tools = tools();
    let mut versions: Vec<_> = plan.passes.iter().map(|pass| pass.on).collect();
    versions.dedup();
    let issuers = scratch::Scratch::new();
    let issuers = issuers.path();
    let stacks: Vec<(Postgres, Stack)> = thread::scope(|scope| {
        let start = |on| {
            (
                on,
                scope.spawn(move || Stack::start_with(config(on, issuers))),
            )
        };
        let starting: Vec<_> = versions.into_iter().map(start).collect();
        starting
            .into_iter()
            .map(|(on, stack)| (on, stack.join().expect("the stack starts")))
            .collect()
    });
    let mut runs = Vec::new();
    for driver in &plan.drivers {
        if let Err(lacks) = driver.command(&tools) {
            println!("skip {} {lacks}", driver.name);
            continue;
        }
        for pass in plan.passes.iter().filter(|pass| pass.takes(driver)) {
            let stack = stacks.iter().find(|(on, _)| *on == pass.on);
            runs.push(Run {
                driver,
                stack: &stack.expect("all are started").1,
                name: format!("{}/{}", driver.name, pass.name()),
                mode: pass.mode.as_deref(),
                issuer_keys: issuer_keys(pass.on, issuers),
            });
        }
    }
    let mut all_ok = !runs.is_empty();
    let queue = Mutex::new(runs.into_iter());
    let (told, ended) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            let (told, queue, tools) = (told.clone(), &queue, &tools);
            scope.spawn(move || {
                while let Some(run) = { queue.lock().expect("nobody panics with it").next() } {
                    let outcome = run.drive(tools);
                    let outcome = outcome.unwrap_or_else(|error| Ended::never(&error));
                    told.send((run, outcome)).expect("somebody listens");
                }
            });
        }
        drop(told);
        for (run, outcome) in ended {
            all_ok &= outcome.wrong.is_empty();
            report(&run, &outcome);
        }
    });
    for (on, stack) in &stacks {
        let errors = stack.log_at(&["ERROR"]);
        if !errors.is_empty() {
            all_ok = false;
            println!("not ok log/{}\n    {}", version(*on), errors.join("\n    "));
        }
    }
    all_ok
}

/// Where an issuer's keys lie, which the stack on this PostgreSQL believes.
fn issuer_keys(on: Postgres, issuers: &Path) -> PathBuf {
    issuers.join(format!("keys-{}.json", version(on)))
}

fn config(on: Postgres, issuers: &Path) -> StackConfig {
    let keys = issuer_keys(on, issuers);
    fs::write(&keys, "{\"keys\": []}").expect("write the keys");
    let file = keys.with_extension("toml");
    let issuer = format!(
        "[[issuer]]\nname = \"https://auth.example\"\naudience = \"drivers\"\njwks-file = {keys:?}\n"
    );
    fs::write(&file, issuer).expect("write the issuers");
    StackConfig::on(on)
        .arg("--api-tls")
        .arg(format!("--sql-issuers={}", file.display()))
}

/// Where `fetch` put what the drivers need.
fn tools() -> PathBuf {
    let dir = std::env::var_os("TENANTRY_TEST_TOOLS").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/test-tools")),
        PathBuf::from,
    );
    assert!(
        dir.join("node.stamp").exists() && dir.join("venv.stamp").exists(),
        "the drivers' libraries are not in {}: `./dev test` or `tests/drivers/fetch` fetches them",
        dir.display()
    );
    dir
}

/// Major version of a PostgreSQL, from its program.
fn version(on: Postgres) -> String {
    let said = Command::new(on.program("postgres"))
        .arg("--version")
        .output()
        .expect("run postgres");
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let number = said
        .split_whitespace()
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    number
        .and_then(|number| number.split('.').next())
        .expect("a version")
        .to_owned()
}

impl Run<'_> {
    fn drive(&self, tools: &Path) -> anyhow::Result<Ended> {
        let started = Instant::now();
        let scratch = self.stack.scratch().join(self.name.replace('/', "-"));
        fs::create_dir(&scratch)?;
        let (out, err) = (scratch.join("stdout"), scratch.join("stderr"));
        let mut command = self.driver.command(tools).map_err(anyhow::Error::msg)?;
        command
            .env_clear()
            .envs(self.environment(tools, &scratch)?)
            .stdin(Stdio::null())
            .stdout(File::create(&out)?)
            .stderr(File::create(&err)?);
        let mut child = command.spawn()?;
        let mut wrong = Vec::new();
        loop {
            match child.try_wait()? {
                Some(status) if status.success() => break,
                Some(status) => wrong.push(format!("it ended with {status}")),
                None if started.elapsed() > DRIVER_MAX => {
                    wrong.push(format!("it was ended after {DRIVER_MAX:?}"));
                    child.kill()?;
                    child.wait()?;
                }
                None => {
                    thread::park_timeout(Duration::from_millis(20));
                    continue;
                }
            }
            break;
        }
        let read =
            |path| Ok::<_, io::Error>(String::from_utf8_lossy(&fs::read(path)?).into_owned());
        let (stdout, stderr) = (read(out)?, read(err)?);
        wrong.extend(self.driver.missing(&stdout));
        Ok(Ended {
            stdout,
            stderr,
            wrong,
            took: started.elapsed(),
        })
    }

    /// All that a driver is told.
    fn environment(
        &self,
        tools: &Path,
        scratch: &Path,
    ) -> anyhow::Result<Vec<(&'static str, String)>> {
        let home = scratch.join("home").display().to_string();
        let name = self.driver.name.replace('.', "-");
        let mut create = self
            .stack
            .cli_command(&["create", &name, "--show-password", "--json"]);
        // A project each: an anonymous one may have five databases.
        let create = create
            .env("TENANTRY_HOME", &home)
            .env("TENANTRY_API_CA", self.stack.certificate());
        let created = kit::program::run(create);
        ensure!(created.code == Some(0), "make a database: {created:#?}");
        let created = created.json();
        let text = |name: &str| {
            let value = created[name].as_str();
            Ok::<_, anyhow::Error>(value.context("a string")?.to_owned())
        };
        let address = self.stack.pg_address();
        let (host, port) = address.rsplit_once(':').context("host:port")?;
        // First the programs of this machine's PostgreSQL, which have TLS.
        let programs = Postgres::System.bin();
        let path = std::env::var("PATH")?;
        let mut all = vec![
            ("PATH", format!("{}:{path}", programs.display())),
            ("LANG", "C.UTF-8".to_owned()),
            ("HOME", home),
            ("TMPDIR", scratch.display().to_string()),
            ("PYTHONDONTWRITEBYTECODE", "1".to_owned()),
            ("NODE_MODULES", tools.join("node").display().to_string()),
            ("PGHOST_", host.to_owned()),
            ("PGPORT_", port.to_owned()),
            ("PGUSER_", text("admin_user")?),
            ("PGPASSWORD_", text("admin_password")?),
            ("ISSUER_KEYS", self.issuer_keys.display().to_string()),
            ("API_URL", self.stack.api_url()),
            ("OPERATOR_KEY", self.stack.operator_key()),
            ("ROOT_CERT", self.stack.certificate().display().to_string()),
        ];
        if let Some(mode) = self.mode {
            all.push(("PGOPTIONS", format!("-c tenantry.pool_mode={mode}")));
        }
        Ok(all)
    }
}

fn report(run: &Run<'_>, ended: &Ended) {
    let steps: Vec<_> = ended
        .stdout
        .lines()
        .filter_map(|line| line.strip_prefix("ok "))
        .collect();
    if ended.wrong.is_empty() {
        let what = ended
            .stdout
            .lines()
            .find_map(|line| line.strip_prefix("all "))
            .unwrap_or_default();
        let seconds = ended.took.as_secs_f32();
        println!(
            "ok {}\n    {what}, {seconds:.1} s: {}",
            run.name,
            steps.join(", ")
        );
        return;
    }
    println!("not ok {}", run.name);
    // Indented, so that no line of it reads like a result.
    let said = [
        &ended.wrong.join("\n"),
        "---- stdout",
        &ended.stdout,
        "---- stderr",
        &ended.stderr,
    ];
    for line in said.iter().flat_map(|text| text.lines()) {
        println!("    {line}");
    }
}
