//! `tenantry gen types`: the tables, views and types of a database as types of TypeScript.
//!
//! Owns: what is asked for, and where it goes. Does not own: reading the catalog ([`read`]), what a value
//! becomes in a program ([`value`]), or the text ([`text`]).

mod read;
mod text;
mod value;

use std::{io::Write as _, path::PathBuf};

use clap::{Args, Subcommand};

use crate::{
    exit::Failure,
    output,
    user::{Context, beside::Beside, script::Session},
};

/// What can be generated.
#[derive(Debug, Subcommand)]
pub(crate) enum GenCommand {
    /// Types of its tables, views, enumerations, composite types and domains.
    Types(TypesArgs),
}

#[derive(Debug, Args)]
pub(crate) struct TypesArgs {
    /// Name or id.
    db: Option<String>,
    /// Of which language.
    #[arg(long, value_enum, default_value = "ts", value_name = "LANGUAGE")]
    lang: Language,
    /// This schema only; may be given several times. All but PostgreSQL's own when left out.
    #[arg(long, value_name = "SCHEMA")]
    schema: Vec<String>,
    /// What makes values of rows in the program.
    #[arg(long, value_enum, default_value = "pg", value_name = "FORM")]
    values: Values,
    /// Write to this file; standard output when left out. It is there when all of it is.
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Languages.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Language {
    #[value(alias = "typescript")]
    Ts,
}

/// What a value becomes on its way into a program.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub(super) enum Values {
    /// node-postgres, and Kysely, Drizzle or Knex on it.
    Pg,
    /// SQL over HTTP, and the package `tenantry`.
    Http,
    /// JSON made by PostgreSQL, as PostgREST and `supabase-js` have it.
    Json,
}

/// `tenantry gen`.
pub(super) async fn run(context: &Context, command: GenCommand) -> Result<(), Failure> {
    let GenCommand::Types(args) = command;
    let Language::Ts = args.lang;
    let db = context.database(args.db.as_deref())?;
    let session = Session::open(context, &db, model::Role::Read).await?;
    let schema = read::schema(&session, &args.schema).await?;
    let text = text::typescript(&schema, args.values);
    match args.out.filter(|file| file.as_os_str() != "-") {
        None => output::text(&text),
        Some(file) => {
            let mut beside = Beside::new(&file)?;
            beside.file().write_all(text.as_bytes())?;
            beside.keep()?;
            if !context.quiet {
                eprintln!("the types of {db} are in {}", file.display());
            }
            Ok(())
        }
    }
}
