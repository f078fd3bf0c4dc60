//! The commands of users: clients of the public API.
//!
//! Owns: which file serves which command. One file per group; [`api`] is the transport and
//! [`home`] what is kept between two commands.

pub(crate) mod access;
pub(crate) mod alert;
mod api;
pub(crate) mod audit;
pub(crate) mod backup;
mod beside;
pub(crate) mod branch;
mod completion;
mod connect;
mod database;
mod doctor;
pub(crate) mod dump;
pub(crate) mod export;
mod fleet;
mod home;
pub(crate) mod import;
pub(crate) mod inspect;
pub(crate) mod limits;
pub(crate) mod logs;
pub(crate) mod migration;
mod programs;
mod progress;
pub(crate) mod project;
pub(crate) mod restore;
mod script;
mod session;
mod signals;
mod sql;
mod sweep;
pub(crate) mod token;
pub(crate) mod types;
pub(crate) mod users;

use std::time::Duration;

use crate::{
    args::{Command, DbCommand, Global},
    exit::Failure,
    output::Format,
    user::{
        api::{Api, Trust},
        home::Home,
    },
};

/// Seconds that one request waits for what it began: what the server allows.
const WAIT_S: u64 = 60;

/// The same, where the server can say what it waits for: whoever waits is told soon.
const WAIT_TOLD_S: u64 = 3;
/// Between two looks at what takes longer than that: a request that reads waits for nothing, and a second is little of
/// the minute that was waited already.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What every command has at hand.
struct Context {
    api: Api,
    format: Format,
    quiet: bool,
    database: Option<String>,
}

impl Context {
    /// The database to work with: named by the command, by `-d`, or chosen with `tenantry use`.
    fn database(&self, named: Option<&str>) -> Result<String, Failure> {
        if let Some(name) = named.or(self.database.as_deref()) {
            return Ok(name.to_owned());
        }
        self.api
            .home()
            .default_database(self.api.url())?
            .ok_or_else(|| {
                Failure::usage(
                    "no database was named",
                    "name one, give -d, set TENANTRY_DATABASE, or choose one with `tenantry use`",
                )
            })
    }
}

/// Runs one command to its end.
///
/// # Errors
///
/// [`Failure`], not yet printed.
pub(crate) fn run(command: Command, global: Global) -> Result<(), Failure> {
    // One thread is plenty for a client, and starts in a fraction of a millisecond.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let format = global.format();
        let context = || -> Result<Context, Failure> {
            Ok(Context {
                api: Api::new(&global.api_url, &Trust::of(&global), Home::open()?)?,
                format,
                quiet: global.quiet,
                database: global.database.clone(),
            })
        };
        match command {
            Command::Serve(_) => unreachable!("main runs it"),
            Command::Create(args) => database::create(&context()?, args).await,
            Command::List(args) => database::list(&context()?, &args).await,
            Command::Delete(args) => database::delete(&context()?, args).await,
            Command::Undelete(args) => database::undelete(&context()?, args).await,
            Command::Rename(args) => database::rename(&context()?, args).await,
            Command::Suspend(args) => database::act(&context()?, args, "suspend").await,
            Command::Resume(args) => database::act(&context()?, args, "resume").await,
            Command::Db(DbCommand::Expires(args)) => database::expires(&context()?, args).await,
            Command::Backup(command) => backup::run(&context()?, command).await,
            Command::Branch(command) => branch::run(&context()?, command).await,
            Command::Db(DbCommand::Status(args)) => database::status(&context()?, args).await,
            Command::Db(DbCommand::Connect(args)) | Command::Connect(args) => {
                connect::connect(&context()?, args).await
            }
            Command::Db(DbCommand::Sql(args)) | Command::Sql(args) => {
                sql::sql(&context()?, args).await
            }
            Command::Db(DbCommand::Dump(args)) => dump::dump(&context()?, args).await,
            Command::Db(DbCommand::Export(args)) => export::export(&context()?, args).await,
            Command::Db(DbCommand::Import(args)) => import::import(&context()?, args).await,
            Command::Db(DbCommand::Restore(args)) => restore::restore(&context()?, args).await,
            Command::Db(DbCommand::Seed(args)) => restore::seed(&context()?, args).await,
            Command::Db(DbCommand::ResetPassword(args)) => {
                database::reset_password(&context()?, args).await
            }
            Command::Db(DbCommand::Credentials(args)) => {
                database::credentials(&context()?, args).await
            }
            Command::Db(DbCommand::ConnectToken(args)) => {
                access::connect_token(&context()?, args).await
            }
            Command::Db(DbCommand::Access(command)) => access::run(&context()?, command).await,
            Command::Db(DbCommand::Users(command)) => users::run(&context()?, command).await,
            Command::Db(DbCommand::Inspect(args)) | Command::Inspect(args) => {
                inspect::inspect(&context()?, args).await
            }
            Command::Db(DbCommand::Logs(args)) => logs::logs(&context()?, args).await,
            Command::Db(DbCommand::Limits(command)) => limits::run(&context()?, command).await,
            Command::Gen(command) => types::run(&context()?, command).await,
            Command::Migration(command) => migration::run(&context()?, command).await,
            Command::Use(args) => session::choose(&context()?, args).await,
            Command::Claim(args) => project::claim(&context()?, args).await,
            Command::Adopt(args) => project::adopt(&context()?, args).await,
            Command::ClaimCode(command) => project::claim_code(&context()?, command).await,
            Command::Status => session::status(&context()?).await,
            Command::Logout(args) => session::logout(&context()?, &args),
            Command::Token(command) => token::run(&context()?, command).await,
            Command::Share(args) => access::share(&context()?, args).await,
            Command::Completion(args) => completion::print(args.shell),
            Command::Alert(command) => alert::run(&context()?, command).await,
            Command::Fleet => fleet::fleet(&context()?).await,
            Command::Audit(command) => audit::run(command, &global).await,
            Command::Doctor(args) => doctor::doctor(&args, &global).await,
        }
    })
}
