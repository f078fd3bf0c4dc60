//! `tenantry audit`: checking the audit log, copying it out, the key that others check it with, and what stands in it for
//! a statement.
//!
//! Owns: which files and keys are meant, and how the result is told. Does not own: the rules (`audit::verify`), or
//! copying ([`export`]).
//! Works on files, beside a server that runs or without one; the server is asked only for the heads that the
//! catalog has.

mod export;

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use audit::{
    Keys, Link,
    verify::{self, Known, Report, With},
};
use clap::{Args, Subcommand};
use model::Secret;
use serde_json::{Value, json};

use crate::{
    args::Global,
    exit::{Exit, Failure},
    output::{self, Format},
    serve::files,
    user::{
        api::{Api, Trust},
        home::Home,
    },
};

/// Of a statement's text: more than the proxy looks at, so that what is longer is known to be.
const TEXT_BYTES_MAX: usize = 1 << 20;

/// Behind problems that a copy has when it is nothing but old, or a part.
const OF_A_COPY: &str = "hint: this is all that is wrong, and it is so with a copy that was made before those lines were \
    written: export again, or check what is there by itself with --offline";

/// What can be done with the audit log.
#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Check that no line was changed, removed, added or reordered. Exits with 1 when one was, and names it.
    Verify(VerifyArgs),
    /// Write the lines to a file, or keep the files in a folder or an S3-compatible store; `verify` checks those, too.
    Export(export::ExportArgs),
    /// Print the public key with which others check signatures. It is no secret.
    Key(DataDir),
    /// Print what stands for a statement in the lines of `statement_audit`: the same for whatever constants it has.
    Hash(HashArgs),
}

/// Where the log and its keys are.
#[derive(Debug, Args)]
pub(crate) struct DataDir {
    /// The data directory.
    #[arg(
        long,
        env = "TENANTRY_DATA_DIR",
        default_value = "./data",
        value_name = "DIR"
    )]
    data_dir: PathBuf,
}

impl DataDir {
    fn audit(&self) -> PathBuf {
        self.data_dir.join("audit")
    }
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// A directory of an audit log, or one file, also an exported one; audit/ in the data directory when left out.
    path: Option<PathBuf>,
    #[command(flatten)]
    data: DataDir,
    /// Check with this key, as `audit key` prints it, instead of the data directory's: lines after the last
    /// signature are checked by their hashes only.
    #[arg(long, value_name = "KEY")]
    public_key: Option<audit::PublicKey>,
    /// Do not ask the server for the heads that the catalog has, without which a cut end is not found.
    #[arg(long)]
    offline: bool,
}

#[derive(Debug, Args)]
pub(crate) struct HashArgs {
    /// The text as a client sends it; `-` reads standard input.
    text: String,
    #[command(flatten)]
    data: DataDir,
}

/// Runs one of them.
///
/// # Errors
///
/// [`Exit::Failed`] when the log is not as it was written, after all was told; [`Exit::Usage`] for files and
/// keys that cannot be read.
pub(super) async fn run(command: AuditCommand, global: &Global) -> Result<(), Failure> {
    match command {
        AuditCommand::Verify(args) => verify(&args, global).await,
        AuditCommand::Export(args) => export::run(&args).await,
        AuditCommand::Key(args) => {
            let keys = keys(&args.data_dir, "run it on the server's machine")?;
            output::line(&keys.public().to_string())
        }
        AuditCommand::Hash(args) => hash(&args, global),
    }
}

fn hash(args: &HashArgs, global: &Global) -> Result<(), Failure> {
    let text = match &*args.text {
        "-" => {
            // Of a longer text no more is looked at than of a client's.
            let mut text = Vec::new();
            let most = u64::try_from(TEXT_BYTES_MAX).unwrap_or(u64::MAX);
            io::stdin().take(most).read_to_end(&mut text)?;
            text
        }
        text => text.as_bytes().to_vec(),
    };
    let keys = keys(&args.data.data_dir, "run it on the server's machine")?;
    let hash = proxy::stand_in(&text, &keys).to_string();
    match global.format() {
        Format::Json => output::json(&json!({ "statement": hash })),
        _ => output::line(&hash),
    }
}

fn keys(data_dir: &Path, or: &str) -> Result<Keys, Failure> {
    let key = files::read_installation_key(&data_dir.join("installation.key"));
    let key = key.map_err(|error| {
        Failure::usage(
            format!("the key of the installation: {error:#}"),
            format!("name the data directory with --data-dir, or {or}"),
        )
    })?;
    Ok(Keys::derive(&key))
}

async fn verify(args: &VerifyArgs, global: &Global) -> Result<(), Failure> {
    let with = match args.public_key {
        Some(public) => With::public(public),
        None => With::keys(keys(&args.data.data_dir, "give --public-key")?),
    };
    let path = args.path.clone().unwrap_or_else(|| args.data.audit());
    let known = match args.offline {
        true => Err("not asked".to_owned()),
        false => known(args, global).await,
    };
    let heads = known.as_deref().unwrap_or_default();
    let report = match (path.is_dir(), is_same(&path, &args.data.audit())) {
        // Of the log itself no chain may be missing; of a copy some may.
        (true, true) => verify::directory(&path, &with, heads),
        (true, false) => verify::copy(&path, &with, heads),
        (false, _) => verify::file(&path, &with, heads),
    };
    let report = report.map_err(|error| {
        Failure::usage(
            format!("{}: {error}", path.display()),
            "name a directory or a file of an audit log",
        )
    })?;
    tell(&report, known.as_ref().err(), global)?;
    if args.path.is_some() && report.lacking > 0 && report.lacking == report.problems_count {
        eprintln!("{OF_A_COPY}");
    }
    match report.is_whole() {
        true => Ok(()),
        false => Err(Failure::Told(Exit::Failed)),
    }
}

fn is_same(one: &Path, other: &Path) -> bool {
    match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => one == other,
    }
}

/// What the catalog has; or why nobody knows.
async fn known(args: &VerifyArgs, global: &Global) -> Result<Vec<Known>, String> {
    let told = |failure: Failure| match failure {
        Failure::Api(error) => error.message,
        Failure::Here { message, .. } => message,
        other => format!("{other:?}"),
    };
    let trust = Trust {
        data_dir: Some(args.data.data_dir.clone()),
        ..Trust::of(global)
    };
    let home = Home::open().map_err(told)?;
    let mut api = Api::new(&global.api_url, &trust, home).map_err(told)?;
    let operator = args.data.data_dir.join("operator.key");
    match fs::read_to_string(&operator) {
        Ok(key) => api = api.or_key(Secret::new(key.trim())),
        // Who checks with the public key alone need not be where the server is.
        Err(_) if args.public_key.is_some() && !api.has_given_key() => {
            return Err("no key of the operator was given".to_owned());
        }
        // Nobody is registered for a look.
        Err(error) if !api.has_given_key() => {
            return Err(format!("{}: {error}", operator.display()));
        }
        Err(_) => {}
    }
    let answer = api.get("/operator/audit").await.map_err(told)?;
    let heads = answer["heads"].as_array().into_iter().flatten();
    heads
        .map(|head| read_head(head).ok_or_else(|| "the answer cannot be read".to_owned()))
        .collect()
}

fn read_head(head: &Value) -> Option<Known> {
    let signature = head["signature"].as_str()?;
    let bytes = (0..signature.len()).step_by(2);
    Some(Known {
        chain: head["chain"].as_str()?.to_owned(),
        stream: head["stream"].as_str()?.parse().ok()?,
        segment: head["segment"].as_u64()?,
        first: head["first_hash"].as_str()?.parse().ok()?,
        link: Link {
            seq: head["seq"].as_u64()?,
            hash: head["hash"].as_str()?.parse().ok()?,
        },
        signature: bytes
            .map(|at| u8::from_str_radix(signature.get(at..at + 2)?, 16).ok())
            .collect::<Option<_>>()?,
    })
}

fn tell(report: &Report, not_asked: Option<&String>, global: &Global) -> Result<(), Failure> {
    if global.format() == Format::Json {
        let problems = report.problems.iter().map(
            |problem| json!({ "file": problem.file, "line": problem.line, "what": problem.what }),
        );
        let ends = report.ends.iter().map(|(stream, (link, unsigned))| {
            json!({
                "stream": stream.as_str(), "seq": link.seq, "hash": link.hash.to_string(),
                "unsigned": unsigned,
            })
        });
        return output::json(&json!({
            "whole": report.is_whole(),
            "files": report.files,
            "lines": report.lines,
            "heads": report.heads,
            "heads_of_catalog": report.known,
            "catalog_not_asked": not_asked,
            "absent": report.absent.iter().map(|stream| stream.as_str()).collect::<Vec<_>>(),
            "ends": ends.collect::<Vec<_>>(),
            "problems_count": report.problems_count,
            "problems": problems.collect::<Vec<_>>(),
            "notes": report.notes,
        }));
    }
    for problem in &report.problems {
        let line = problem
            .line
            .map(|line| format!(":{line}"))
            .unwrap_or_default();
        output::line(&format!(
            "{}{line}: {}",
            problem.file.display(),
            problem.what
        ))?;
    }
    for note in &report.notes {
        eprintln!("note: {note}");
    }
    if !report.absent.is_empty() {
        let absent: Vec<_> = report.absent.iter().map(|stream| stream.as_str()).collect();
        eprintln!("not in it, and so not checked: {}", absent.join(", "));
    }
    if let Some(why) = not_asked {
        eprintln!(
            "note: not compared with the heads in the catalog ({why}): a cut end would not be found"
        );
    }
    for (stream, (link, unsigned)) in &report.ends {
        let signed = match unsigned {
            0 => "all signed".to_owned(),
            lines => format!("the last {lines} not signed yet"),
        };
        eprintln!(
            "{stream}: up to line {}, hash {}, {signed}",
            link.seq, link.hash
        );
    }
    let counted = format!(
        "{} lines in {} files, {} signatures, {} heads of the catalog",
        report.lines, report.files, report.heads, report.known
    );
    match report.problems_count {
        0 if global.quiet => Ok(()),
        0 => output::line(&format!("whole: {counted}")),
        1 => output::line(&format!("1 problem: {counted}")),
        count => output::line(&format!("{count} problems: {counted}")),
    }
}
