//! `tenantry db export`: rows of a table or a query as CSV or as lines of JSON, as they come.

use std::{
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use clap::Args;
use futures_util::TryStreamExt as _;
use serde_json::json;
use tokio_postgres::types::Type;

use crate::{
    args::RoleArg,
    exit::{Exit, Failure},
    output::{self, Format},
    user::{
        Context,
        beside::Beside,
        progress::{Progress, size},
        script::{Session, told},
        signals::asked_to_end,
    },
};

/// Nothing is changed by an export, whatever its query calls; values look the same wherever it is
/// made; and a policy of row security that would hide rows is an error.
const BEGIN: &str = "BEGIN READ ONLY; SET LOCAL row_security = off; SET LOCAL datestyle = 'ISO, YMD'; \
    SET LOCAL timezone = 'UTC'; SET LOCAL intervalstyle = 'iso_8601'; SET LOCAL bytea_output = 'hex'";
/// What stands around a value of COPY that has a line break in it. JSON has neither of the two.
const QUOTE: u8 = 1;

/// Written at once: a row is much less.
const OUT_BYTES: usize = 64 * 1024;

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Name or id of the database, where it is not the chosen one; then, without --query, the table or
    /// view, with its schema where the search path does not lead to it.
    #[arg(num_args = 0..=2, value_name = "[DB] [TABLE]")]
    pub(crate) words: Vec<String>,
    /// The rows of this query instead.
    #[arg(short, long, value_name = "SQL")]
    pub(crate) query: Option<String>,
    /// CSV with a header, or one JSON object a line.
    #[arg(long, value_enum, default_value = "csv", value_name = "FORMAT")]
    pub(crate) format: ExportFormat,
    /// Write to this file; standard output when left out. It is there when all of it is.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output_file: Option<PathBuf>,
    /// As whom.
    #[arg(long, value_enum, default_value = "admin")]
    pub(crate) role: RoleArg,
}

/// Forms of an export.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub(crate) enum ExportFormat {
    Csv,
    Ndjson,
}

/// `tenantry db export`.
pub(super) async fn export(context: &Context, args: ExportArgs) -> Result<(), Failure> {
    let (db, table) = match (&args.words[..], &args.query) {
        ([db, table], None) => (Some(&**db), Some(&**table)),
        ([table], None) => (None, Some(&**table)),
        ([db], Some(_)) => (Some(&**db), None),
        ([], Some(_)) => (None, None),
        ([], None) => {
            return Err(Failure::usage(
                "what is to be exported?",
                "name a table, or give --query SQL",
            ));
        }
        _ => {
            return Err(Failure::usage(
                "a table and --query are two exports",
                "give one of them",
            ));
        }
    };
    let db = context.database(db)?;
    let session = Session::open(context, &db, args.role.into()).await?;
    let begun = session.client.batch_execute(BEGIN).await;
    begun.map_err(|error| told(&error, None, ""))?;
    let query = match (table, args.query) {
        (Some(table), _) => format!("SELECT * FROM {}", name(&session, table).await?),
        (None, query) => query.unwrap_or_default(),
    };
    let query = query.trim_end_matches(|c: char| c == ';' || c.is_whitespace());
    if args.format == ExportFormat::Ndjson {
        check_names(&session, query).await?;
    }
    let copy = copy(query, args.format);
    let asked = asked_to_end()?;
    let file = args.output_file.as_deref();
    match file.filter(|file| *file != Path::new("-")) {
        None => {
            let mut out = BufWriter::with_capacity(OUT_BYTES, io::stdout().lock());
            write(&session, &copy, args.format, &mut out, asked, true).await
        }
        Some(file) => {
            let mut beside = Beside::new(file)?;
            let mut out = BufWriter::with_capacity(OUT_BYTES, beside.file());
            write(&session, &copy, args.format, &mut out, asked, context.quiet).await?;
            drop(out);
            let bytes = beside.keep()?;
            said(context, &db, file, bytes)
        }
    }
}

fn said(context: &Context, db: &str, file: &Path, bytes: u64) -> Result<(), Failure> {
    match context.format {
        Format::Json => output::json(&json!({
            "database": db,
            "file": file.display().to_string(),
            "bytes": bytes,
        })),
        _ if context.quiet => Ok(()),
        _ => {
            eprintln!("wrote {} ({})", file.display(), size(bytes));
            Ok(())
        }
    }
}

/// The name of a table as SQL has it, quoted where it must be: what a user wrote is a value until here.
async fn name(session: &Session, table: &str) -> Result<String, Failure> {
    const FIND: &str = "SELECT pg_catalog.to_regclass($1)::pg_catalog.text";
    let row = session
        .client
        .query_typed_one(FIND, &[(&table, Type::TEXT)])
        .await;
    let found: Option<String> = match row {
        Ok(row) => row.get(0),
        // Until 17 what cannot be a name is an error, later it is none that exists.
        Err(error)
            if error
                .code()
                .is_some_and(|code| code.code().starts_with("42")) =>
        {
            None
        }
        Err(error) => return Err(told(&error, None, "")),
    };
    found.ok_or_else(|| {
        Failure::new(
            Exit::NotFound,
            format!("there is no table '{}'", table.escape_default()),
            "capitals and spaces need double quotes, another schema is named before a dot: 'app.\"My table\"'",
        )
    })
}

/// An object has each of its names once: of two columns with one name, a reader would see one.
async fn check_names(session: &Session, query: &str) -> Result<(), Failure> {
    let prepared = session.client.prepare(query).await;
    let prepared = prepared.map_err(|error| told(&error, None, ""))?;
    let mut names: Vec<&str> = prepared.columns().iter().map(|c| c.name()).collect();
    names.sort_unstable();
    let twice = names.windows(2).find(|pair| pair.first() == pair.last());
    let Some([name, ..]) = twice else {
        return Ok(());
    };
    Err(Failure::new(
        Exit::Refused,
        format!("two columns are named '{}'", name.escape_default()),
        "give each a name of its own (AS), or export as csv",
    ))
}

fn copy(query: &str, format: ExportFormat) -> String {
    // A line break ends a comment at the end of the query.
    match format {
        ExportFormat::Csv => format!("COPY ({query}\n) TO STDOUT (FORMAT csv, HEADER)"),
        ExportFormat::Ndjson => format!(
            "COPY (SELECT pg_catalog.row_to_json(tenantry_row) FROM ({query}\n) tenantry_row) TO STDOUT \
             (FORMAT csv, QUOTE E'\\x01', DELIMITER E'\\x02', ENCODING 'UTF8')"
        ),
    }
}

/// Writes all that `copy` gives, or says why not, also when somebody asks to end.
async fn write(
    session: &Session,
    copy: &str,
    format: ExportFormat,
    out: &mut impl Write,
    asked: impl Future<Output = ()>,
    quiet: bool,
) -> Result<(), Failure> {
    let written = Arc::new(AtomicU64::new(0));
    let count = written.clone();
    let _progress = Progress::show("exported", quiet, None, move || {
        count.load(Ordering::Relaxed)
    });
    let rows = async {
        let rows = session.client.copy_out(copy).await;
        let mut rows = pin!(rows.map_err(|error| told(&error, None, ""))?);
        let mut lines = Lines::default();
        while let Some(data) = rows
            .try_next()
            .await
            .map_err(|error| told(&error, None, "the export is not whole"))?
        {
            written.fetch_add(data.len() as u64, Ordering::Relaxed);
            match format {
                ExportFormat::Csv => out.write_all(&data)?,
                ExportFormat::Ndjson => out.write_all(&lines.of(&data))?,
            }
        }
        out.flush()?;
        Ok(())
    };
    tokio::select! {
        done = rows => done,
        () = asked => {
            Err(Failure::new(Exit::Failed, "broken off", "the export is not whole"))
        }
    }
}

/// Makes lines of JSON from CSV whose quote JSON does not have: a value of type json keeps the line
/// breaks that somebody wrote between its parts, and a line is one object.
#[derive(Debug, Default)]
struct Lines {
    is_quoted: bool,
}

impl Lines {
    fn of(&mut self, data: &[u8]) -> Vec<u8> {
        let mut lines = Vec::with_capacity(data.len());
        for byte in data {
            match *byte {
                QUOTE => self.is_quoted = !self.is_quoted,
                b'\n' | b'\r' if self.is_quoted => lines.push(b' '),
                byte => lines.push(byte),
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_object() {
        let mut lines = Lines::default();
        let (one, two) = (&b"{\"a\":1}\n\x01{\"b\":[1,\r\n"[..], &b"2]}\x01\n{}\n"[..]);
        let text = [lines.of(one), lines.of(two)].concat();
        assert_eq!(text, b"{\"a\":1}\n{\"b\":[1,  2]}\n{}\n");
    }
}
