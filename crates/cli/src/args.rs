//! The command line.
//!
//! Owns: names, defaults and help of every command of users. The options of `serve` come from the
//! table in `serve::settings`, since its file and its environment have the same names.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::{exit::Exit, output::Format, serve::ServeArgs};

/// Every customer, agent or preview gets a PostgreSQL database of its own.
#[derive(Debug, Parser)]
#[command(
    name = "tenantry",
    version,
    propagate_version = true,
    after_help = Exit::table(),
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command that talks to the API.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Options of commands that use the API")]
pub(crate) struct Global {
    /// Address of the API.
    #[arg(
        long,
        global = true,
        env = "TENANTRY_API_URL",
        default_value = "http://127.0.0.1:5480",
        value_name = "URL"
    )]
    pub(crate) api_url: String,
    /// Certificates to trust, PEM, for an API over https; instead of the system's.
    #[arg(long, global = true, env = "TENANTRY_API_CA", value_name = "FILE")]
    pub(crate) api_ca: Option<PathBuf>,
    /// The database to use where a command does not name one.
    #[arg(
        short,
        long,
        global = true,
        env = "TENANTRY_DATABASE",
        value_name = "DB"
    )]
    pub(crate) database: Option<String>,
    /// How results are printed.
    #[arg(long, global = true, value_enum, default_value = "table")]
    pub(crate) output: Format,
    /// The same as `--output json`.
    #[arg(long, global = true, conflicts_with = "output")]
    pub(crate) json: bool,
    /// Print the one thing that matters: an id, a connection string, nothing.
    #[arg(long, global = true)]
    pub(crate) quiet: bool,
}

impl Global {
    /// The format asked for.
    pub(crate) fn format(&self) -> Format {
        if self.json { Format::Json } else { self.output }
    }
}

/// What can be asked of `tenantry`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the server: control plane, proxy, and PostgreSQL when none is given.
    Serve(ServeArgs),
    /// Make a database.
    Create(CreateArgs),
    /// List databases.
    List(ListArgs),
    /// Delete a database, or many by name and age. The data is kept until the retention ends; see `undelete`.
    Delete(DeleteArgs),
    /// Take a delete back, also that of a database that expired.
    Undelete(UndeleteArgs),
    /// Give a database another name. Its id and its connection strings stay.
    Rename(RenameArgs),
    /// Refuse connections to a database and end its sessions; the data stays.
    Suspend(NamedArgs),
    /// Accept connections again; or try again to make a database that could not be made.
    Resume(NamedArgs),
    /// Work with branches: databases that begin as a copy of another one.
    #[command(subcommand)]
    Branch(crate::user::branch::BranchCommand),
    /// Back databases up, and make databases of backups.
    #[command(subcommand)]
    Backup(crate::user::backup::BackupCommand),
    /// Work with one database.
    #[command(subcommand)]
    Db(DbCommand),
    /// Short for `db connect`.
    #[command(hide = true)]
    Connect(ConnectArgs),
    /// Short for `db sql`.
    #[command(hide = true)]
    Sql(SqlArgs),
    /// Short for `db inspect`.
    #[command(hide = true)]
    Inspect(crate::user::inspect::InspectArgs),
    /// Make code from what a database is made of.
    #[command(subcommand)]
    Gen(crate::user::types::GenCommand),
    /// Files of SQL that databases have been through, each once and in order.
    #[command(subcommand)]
    Migration(crate::user::migration::MigrationCommand),
    /// Choose the database that commands use when they name none.
    Use(UseArgs),
    /// Make the anonymous project that is kept here yours, with a code of the operator.
    Claim(crate::user::project::ClaimArgs),
    /// Move databases of the anonymous project that is kept here to the project of TENANTRY_API_KEY.
    Adopt(crate::user::project::AdoptArgs),
    /// Codes with which anonymous projects are claimed. For the operator.
    #[command(subcommand)]
    ClaimCode(crate::user::project::ClaimCodeCommand),
    /// Show which server and project the commands use.
    Status,
    /// Forget the project kept for this server. It is set aside in a file, not erased.
    Logout(LogoutArgs),
    /// Tokens of the API.
    #[command(subcommand)]
    Token(crate::user::token::TokenCommand),
    /// Give somebody a connection string that may look into a database, for some days.
    Share(crate::user::access::ShareArgs),
    /// Print the completion script of a shell.
    Completion(CompletionArgs),
    /// See how the installation is doing, with what to do, and what databases cost. For the operator.
    Fleet,
    /// See what needs somebody, say from when on, and have a webhook told.
    #[command(subcommand)]
    Alert(crate::user::alert::AlertCommand),
    /// Check and export the audit log: who did what, in files that show when somebody changed them.
    #[command(subcommand)]
    Audit(crate::user::audit::AuditCommand),
    /// Look at what this machine offers, and say what to do.
    Doctor(DoctorArgs),
}

/// One database, by name or id.
#[derive(Debug, Args)]
pub(crate) struct NamedArgs {
    /// Name or id.
    pub(crate) db: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Those that were deleted and can be undeleted, with the time until when.
    #[arg(long)]
    pub(crate) deleted: bool,
    /// For the operator: those of every project, and which that is.
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Name; a new one is made up when it is left out.
    #[arg(value_name = "NAME", conflicts_with = "name")]
    pub(crate) positional: Option<String>,
    /// The same, as an option.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Print the password.
    #[arg(long)]
    pub(crate) show_password: bool,
    /// Print the connection string, password included.
    #[arg(long)]
    pub(crate) show_connection_string: bool,
    /// The two above.
    #[arg(long)]
    pub(crate) show_secrets: bool,
    /// When the name is taken, answer with the database that has it.
    #[arg(long)]
    pub(crate) if_not_exists: bool,
    /// Delete it then: after a time like 30m, 2h or 7d, or at a moment like 2030-01-31T12:00:00Z.
    #[arg(long, value_name = "WHEN")]
    pub(crate) expires: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// Name or id.
    pub(crate) db: Option<String>,
    /// Do not ask.
    #[arg(long, short)]
    pub(crate) yes: bool,
    /// Delete all databases of the project whose names begin with this.
    #[arg(long, value_name = "TEXT", conflicts_with = "db")]
    pub(crate) prefix: Option<String>,
    /// Delete all that were made at least so long ago, like 12h or 1d; with --prefix, those of them.
    #[arg(long, value_name = "TIME", conflicts_with = "db")]
    pub(crate) older_than: Option<String>,
    /// Only say which ones would be deleted by --prefix and --older-than.
    #[arg(long, conflicts_with_all = ["db", "yes"])]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct UndeleteArgs {
    /// Name or id.
    pub(crate) db: Option<String>,
    /// Another name, when the old one is held by another database now.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// When it expires, as in `create`; or never. An expiry that has passed is taken away in any case.
    #[arg(long, value_name = "WHEN")]
    pub(crate) expires: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RenameArgs {
    /// Name or id.
    pub(crate) db: String,
    /// The new name.
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct ExpiresArgs {
    /// Name or id.
    pub(crate) db: String,
    /// A time like 30m, 2h or 7d, a moment like 2030-01-31T12:00:00Z, or never.
    pub(crate) when: String,
}

/// What can be done to one database.
#[derive(Debug, Subcommand)]
pub(crate) enum DbCommand {
    /// Show its state and address.
    Status(NamedArgs),
    /// Print its address; or run psql, given `-c`, `-f` or standard input.
    Connect(ConnectArgs),
    /// Run SQL through the API, without psql.
    Sql(SqlArgs),
    /// Write it to a file, or to standard output, of any size and for any PostgreSQL.
    Dump(crate::user::dump::DumpArgs),
    /// Write the rows of a table or a query as CSV or as lines of JSON, any number of them.
    Export(crate::user::export::ExportArgs),
    /// Fill it from another PostgreSQL, schema and rows: all of it in one transaction, or nothing.
    Import(crate::user::import::ImportArgs),
    /// Fill it from a dump: all of it in one transaction, or nothing.
    Restore(crate::user::restore::RestoreArgs),
    /// Run a file of SQL in one transaction.
    Seed(crate::user::restore::SeedArgs),
    /// Say when it is deleted by itself, or that it never is.
    Expires(ExpiresArgs),
    /// Make a new password of one of its roles. The old one no longer works, or until its grace ends.
    ResetPassword(ResetArgs),
    /// Make a password that can be used to log in for some minutes.
    ConnectToken(crate::user::access::ConnectTokenArgs),
    /// See and revoke what opens it.
    #[command(subcommand)]
    Access(crate::user::access::AccessCommand),
    /// Make, see and delete its users: logins with a role and a limit of their own.
    #[command(subcommand)]
    Users(crate::user::users::UsersCommand),
    /// Ask the server for the password. It keeps none, and says so.
    Credentials(NamedArgs),
    /// See what it does: its last minute, hour and day, and its statements.
    Inspect(crate::user::inspect::InspectArgs),
    /// See which of its statements failed or were slow.
    Logs(crate::user::logs::LogsArgs),
    /// See and set what it may use at once.
    #[command(subcommand)]
    Limits(crate::user::limits::LimitsCommand),
}

#[derive(Debug, Args)]
pub(crate) struct ConnectArgs {
    /// Name or id.
    pub(crate) db: Option<String>,
    /// As whom: admin may change the schema, write may change rows, read may look.
    #[arg(long, value_enum, default_value = "admin")]
    pub(crate) role: RoleArg,
    /// Run these commands in psql; may be given several times.
    #[arg(short, long, value_name = "SQL")]
    pub(crate) command: Vec<String>,
    /// Run this file in psql.
    #[arg(short, long, value_name = "FILE", conflicts_with = "command")]
    pub(crate) file: Option<PathBuf>,
    /// Print `DATABASE_URL='…'`, for an environment file.
    #[arg(long, conflicts_with_all = ["command", "file"])]
    pub(crate) env: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SqlArgs {
    /// Name or id.
    pub(crate) db: Option<String>,
    /// The statements.
    #[arg(short, long, value_name = "SQL")]
    pub(crate) query: Option<String>,
    /// A file with them; `-` is standard input, which is also read when neither is given.
    #[arg(short, long, value_name = "FILE", conflicts_with = "query")]
    pub(crate) file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ResetArgs {
    /// Name or id.
    pub(crate) db: Option<String>,
    /// Whose: admin may change the schema, write may change rows, read may look.
    #[arg(long, value_enum, default_value = "admin")]
    pub(crate) role: RoleArg,
    /// How long the old password still works, such as 30m or 2d; at most 7d.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = humantime::parse_duration)]
    pub(crate) grace: std::time::Duration,
    /// Print the password and the connection string.
    #[arg(long)]
    pub(crate) show_secrets: bool,
}

#[derive(Debug, Args)]
pub(crate) struct UseArgs {
    /// Name or id.
    #[arg(required_unless_present = "clear")]
    pub(crate) db: Option<String>,
    /// Use none.
    #[arg(long, conflicts_with = "db")]
    pub(crate) clear: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LogoutArgs {
    /// Also when the project is anonymous, and the kept secret is the only way into it.
    #[arg(long)]
    pub(crate) force: bool,
}

/// A role of a database.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum RoleArg {
    Admin,
    Write,
    Read,
}

impl From<RoleArg> for model::Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Admin => Self::Admin,
            RoleArg::Write => Self::Write,
            RoleArg::Read => Self::Read,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct CompletionArgs {
    /// Which shell.
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

/// Shells that can be completed for.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Also compare the catalog with PostgreSQL, tenant by tenant. Needs the operator's key.
    #[arg(long)]
    pub(crate) deep: bool,
    /// The data directory to look at.
    #[arg(
        long,
        env = "TENANTRY_DATA_DIR",
        default_value = "./data",
        value_name = "DIR"
    )]
    pub(crate) data_dir: PathBuf,
    /// Directory of PostgreSQL's programs.
    #[arg(long, env = "TENANTRY_PG_BIN", value_name = "DIR")]
    pub(crate) pg_bin: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
