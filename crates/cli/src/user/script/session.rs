//! A session of this program at a database, through its proxy like any client's.
//!
//! Owns: the connect token it logs in with, TLS as libpq does it, and how errors of PostgreSQL are told.

use std::{future::poll_fn, path::PathBuf};

use anyhow::Context as _;
use model::route::NodeTls;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_postgres::{
    AsyncMessage, Client, Config,
    config::SslMode,
    error::{DbError, ErrorPosition},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{
    exit::{Exit, Failure},
    user::{Context, connect::Address, database},
};

/// The address of a database with a password that can be used to log in for some minutes.
///
/// # Errors
///
/// Those of the API.
pub(in crate::user) async fn enter(
    context: &Context,
    db: &str,
    role: model::Role,
) -> Result<Address, Failure> {
    let body = json!({ "role": role.as_str() });
    let path = database::path(db, "/connect-token")?;
    let made = context.api.post(&path, &body).await?;
    Address::read(&made)
}

/// A session. Dropping it ends it, and with it what was not committed.
pub(in crate::user) struct Session {
    pub(in crate::user) client: Client,
    /// As `server_version_num`: 150018.
    pub(in crate::user) server_version: i32,
    link: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.link.abort();
    }
}

impl Session {
    /// Logs in.
    ///
    /// # Errors
    ///
    /// Those of the API, of TLS and of PostgreSQL.
    pub(in crate::user) async fn open(
        context: &Context,
        db: &str,
        role: model::Role,
    ) -> Result<Self, Failure> {
        let address = enter(context, db, role).await?;
        let config = config(&address)?;
        let tls = tls::client_config(&checks(&address))
            .map_err(|error| Failure::from(anyhow::Error::new(error)))?;
        let connected = config.connect(MakeRustlsConnect::new(tls)).await;
        let (client, mut connection) = connected.map_err(|error| told(&error, None, ""))?;
        let link = tokio::spawn(async move {
            // Errors reach who waits for an answer.
            while let Some(Ok(message)) = poll_fn(|turn| connection.poll_message(turn)).await {
                if let AsyncMessage::Notice(notice) = message
                    && notice.severity() == "WARNING"
                {
                    eprintln!("warning: {}", notice.message());
                }
            }
        });
        let mut session = Self {
            client,
            server_version: 0,
            link,
        };
        let version = "SELECT current_setting('server_version_num')::int4";
        let row = session.client.query_typed(version, &[]).await;
        let row = row.map_err(|error| told(&error, None, ""))?;
        session.server_version = row.first().map_or(0, |row| row.get(0));
        Ok(session)
    }

    /// Commits. `undone`: what became of the data when PostgreSQL refuses; `lost`: what to do when there is no answer,
    /// and so nobody knows.
    ///
    /// # Errors
    ///
    /// Those of PostgreSQL and of the connection.
    pub(in crate::user) async fn commit(&self, undone: &str, lost: &str) -> Result<(), Failure> {
        let committed = self.client.batch_execute("COMMIT").await;
        committed.map_err(|error| match error.as_db_error() {
            Some(_) => told(&error, None, undone),
            None => told(&error, None, lost),
        })
    }
}

fn config(address: &Address) -> Result<Config, Failure> {
    let part = |name: &str| address.part(name);
    let mut config = Config::new();
    config
        .host(part("host").trim_matches(['[', ']']))
        .port(part("port").parse().context("the port")?)
        .user(part("user"))
        .dbname(part("database"))
        .password(address.password().unwrap_or_default())
        .application_name("tenantry")
        .ssl_mode(match address.option("sslmode").as_deref() {
            Some("disable") => SslMode::Disable,
            Some("allow" | "prefer") => SslMode::Prefer,
            _ => SslMode::Require,
        });
    Ok(config)
}

/// What is checked of the certificate: what psql would, given the same address. PostgreSQL manual,
/// section "SSL Support" of libpq: with a file of roots, `require` is `verify-ca`.
fn checks(address: &Address) -> NodeTls {
    let named = address
        .option("sslrootcert")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("PGSSLROOTCERT").map(PathBuf::from))
        .filter(|file| !file.as_os_str().is_empty());
    if named
        .as_ref()
        .is_some_and(|file| file.as_os_str() == "system")
    {
        return NodeTls::VerifyFull(None);
    }
    let home =
        std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".postgresql/root.crt"));
    let roots = named.or_else(|| home.filter(|file| file.is_file()));
    match (address.option("sslmode").as_deref(), roots) {
        (Some("verify-full"), roots) => NodeTls::VerifyFull(roots),
        (Some("verify-ca"), roots) => NodeTls::VerifyCa(roots),
        (_, Some(roots)) => NodeTls::VerifyCa(Some(roots)),
        (_, None) => NodeTls::Require,
    }
}

/// What PostgreSQL said, with the line of the text that it said it about, and what became of the data.
pub(in crate::user) fn told(
    error: &tokio_postgres::Error,
    line: Option<u64>,
    became: &str,
) -> Failure {
    let place = line.map_or_else(String::new, |line| format!("line {line}: "));
    let Some(said) = error.as_db_error() else {
        let cause = std::error::Error::source(error);
        let cause = cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"));
        return Failure::new(
            Exit::Unavailable,
            format!("{place}the connection to the database was lost: {cause}"),
            became,
        );
    };
    let exit = match said.code().code().get(..2) {
        Some("28") => Exit::NotAllowed,
        Some("53") => Exit::Limit,
        Some("08" | "57") => Exit::Unavailable,
        _ => Exit::Sql,
    };
    let message = format!("{place}{} ({})", said.message(), said.code().code());
    Failure::new(exit, message, hint(said, became))
}

fn hint(said: &DbError, became: &str) -> String {
    let position = said.position().and_then(|position| match position {
        ErrorPosition::Original(character) if *character > 1 => {
            Some(format!("at character {character} of the statement"))
        }
        _ => None,
    });
    let parts = [
        said.detail().map(str::to_owned),
        said.hint().map(str::to_owned),
        said.where_().map(|place| place.replace('\n', "; ")),
        position,
        Some(became.to_owned()),
    ];
    let parts: Vec<String> = parts
        .into_iter()
        .flatten()
        .filter(|p| !p.is_empty())
        .collect();
    parts.join("\n      ")
}
