//! The PostgreSQL that is imported from.
//!
//! Owns: where its DSN leads, for every connection alike, one moment of it, and what it counts at that moment.
//! The DSN is read here and by nobody else: TCP only, no socket, no service, no file of passwords or keys, and
//! libpq's environment does not reach pg_dump. Its host is resolved once; each connection goes to that address.
//! Which addresses those may be is not limited: it is this machine and its user who connect, as psql would.

use std::{
    collections::BTreeMap, fmt::Write as _, future::poll_fn, net::IpAddr, path::Path,
    time::Duration,
};

use model::{
    Secret,
    route::{NodeAddress, NodeTls},
};
use node::attached::Dsn;
use tokio::{
    net::{TcpStream, lookup_host},
    process::Command,
    task::JoinHandle,
};
use tokio_postgres::{Client, Row, config::ChannelBinding, types::Type};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{
    exit::{Exit, Failure},
    user::script::Name,
};

/// For an address to answer, and for a login. libpq waits without end.
const CONNECT_MAX: Duration = Duration::from_secs(20);
/// The oldest that can be asked which partitions are whose.
const MAJOR_MIN: u32 = 12;
/// The lowest pg_dump that is looked for, as everywhere here.
const PG_DUMP_MIN: u32 = 15;
/// The first pg_dump that takes the roots of the system (`sslrootcert=system`).
const SYSTEM_ROOTS_MIN: u32 = 16;
/// A file that is not there, on any system: libpq then has none, and does not look for its usual one.
const NO_FILE: &str = "/dev/null/none";

/// One moment, which others can look at, too, and nothing of it hidden by policies: rather an error.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = 0; \
    SET LOCAL idle_in_transaction_session_timeout = 0; SET LOCAL row_security = off; \
    SET LOCAL search_path = pg_catalog";
const MOMENT: &str = "SELECT pg_export_snapshot(), current_setting('server_version_num')::int4";
/// Tables with rows of their own, and the partitioned table that each belongs to: itself where there is none.
const TABLES: &str = "SELECT n.nspname::text, c.relname::text, tn.nspname::text, t.relname::text \
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    JOIN pg_class t ON t.oid = CASE WHEN c.relispartition THEN pg_partition_root(c.oid) ELSE c.oid END \
    JOIN pg_namespace tn ON tn.oid = t.relnamespace \
    WHERE c.relkind = 'r' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' \
    AND (cardinality($1::text[]) = 0 OR n.nspname = ANY ($1)) \
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid \
      AND d.deptype = 'e') \
    ORDER BY 1, 2";
const NO_SCHEMAS: &str = "SELECT name FROM unnest($1::text[]) WITH ORDINALITY AS wanted (name, place) \
    WHERE NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = name) ORDER BY place";
const EXTENSIONS: &str =
    "SELECT extname::text FROM pg_extension WHERE extname <> 'plpgsql' ORDER BY 1";
const EVENT_TRIGGERS: &str = "SELECT evtname::text FROM pg_event_trigger t WHERE NOT EXISTS (SELECT FROM pg_depend d \
    WHERE d.classid = 'pg_event_trigger'::regclass AND d.objid = t.oid AND d.deptype = 'e') ORDER BY 1";

/// Tables of the source, and the partitioned table that each belongs to.
pub(super) struct Tables(BTreeMap<Name, Name>);

impl Tables {
    /// Each of them.
    pub(super) fn names(&self) -> impl Iterator<Item = &Name> {
        self.0.keys()
    }

    /// The table that `table` is a partition of, or itself.
    pub(super) fn tree_of<'a>(&'a self, table: &'a Name) -> &'a Name {
        self.0.get(table).unwrap_or(table)
    }

    /// How many there are, a partitioned one counted once.
    pub(super) fn trees(&self) -> usize {
        let mut trees: Vec<&Name> = self.0.values().collect();
        trees.sort_unstable();
        trees.dedup();
        trees.len()
    }
}

/// A session at the source that holds one moment of it. Dropping it ends it.
pub(super) struct Origin {
    client: Client,
    link: JoinHandle<()>,
    dsn: Dsn,
    host: String,
    port: u16,
    address: IpAddr,
    major: u32,
    snapshot: String,
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.link.abort();
    }
}

impl Origin {
    /// Logs in, and takes the moment.
    ///
    /// # Errors
    ///
    /// What is wrong with the DSN, of finding and reaching it, and of PostgreSQL; never with its text.
    pub(super) async fn open(dsn: &Secret) -> Result<Self, Failure> {
        let wrong = |why: String| Failure::usage(format!("the DSN of the source: {why}"), "");
        let mut dsn = Dsn::read(dsn).map_err(wrong)?;
        let NodeAddress::Tcp { host, port, .. } = dsn.address.clone() else {
            return Err(wrong(
                "it names a socket, and TCP is what is used: name a host".into(),
            ));
        };
        if dsn.tls == NodeTls::VerifyCa(None) {
            // Anybody has a certificate that one of the system's roots signed.
            return Err(wrong(
                "verify-ca needs sslrootcert, or say verify-full".into(),
            ));
        }
        if dsn.config.get_password().is_none()
            && let Some(password) = std::env::var_os("PGPASSWORD")
        {
            dsn.config.password(password.as_encoded_bytes());
        }
        let address = resolved(&host, port).await?;
        dsn.config
            .hostaddr(address)
            .connect_timeout(CONNECT_MAX)
            .application_name("tenantry import");
        let tls = tls::client_config(&dsn.tls)
            .map_err(|error| wrong(format!("{:#}", anyhow::Error::new(error))))?;
        let connect = dsn.config.connect(MakeRustlsConnect::new(tls));
        let connected = tokio::time::timeout(CONNECT_MAX, connect).await;
        let connected = connected.map_err(|_| {
            let text = format!("the source did not let us in within {CONNECT_MAX:?}");
            Failure::new(Exit::Unavailable, text, "")
        })?;
        let (client, mut connection) = connected.map_err(|error| said(&error))?;
        let link = tokio::spawn(async move {
            // Errors reach who waits for an answer.
            while let Some(Ok(_)) = poll_fn(|turn| connection.poll_message(turn)).await {}
        });
        let mut origin = Self {
            client,
            link,
            dsn,
            host,
            port,
            address,
            major: 0,
            snapshot: String::new(),
        };
        origin.take_moment().await?;
        Ok(origin)
    }

    async fn take_moment(&mut self) -> Result<(), Failure> {
        let begun = self.client.batch_execute(BEGIN).await;
        begun.map_err(|error| said(&error))?;
        let row = self.client.query_typed_one(MOMENT, &[]).await;
        let row = row.map_err(|error| said(&error))?;
        self.snapshot = row.get(0);
        self.major = u32::try_from(row.get::<_, i32>(1)).unwrap_or(0) / 10_000;
        if self.major < MAJOR_MIN {
            return Err(Failure::new(
                Exit::Refused,
                format!(
                    "the source is PostgreSQL {}; {MAJOR_MIN} is the oldest that is imported from",
                    self.major
                ),
                "pg_dump it to a file with --no-owner --no-privileges, and `tenantry db restore` that",
            ));
        }
        Ok(())
    }

    /// The lowest major of a pg_dump that can read it.
    pub(super) fn pg_dump_least(&self) -> u32 {
        let roots = match self.dsn.tls {
            NodeTls::VerifyFull(None) => SYSTEM_ROOTS_MIN,
            _ => PG_DUMP_MIN,
        };
        self.major.max(roots)
    }

    /// pg_dump of this moment, as a text. Roles, tablespaces and replication belong to the server they are on.
    pub(super) fn pg_dump(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        // PGSERVICE, PGSSLKEY and the like would lead elsewhere than the DSN says.
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"PG") {
                command.env_remove(name);
            }
        }
        command
            .args(["--format=plain", "--encoding=UTF8", "--no-password"])
            .args(["--no-owner", "--no-privileges", "--no-tablespaces"])
            .args([
                "--no-publications",
                "--no-subscriptions",
                "--no-security-labels",
            ])
            .arg(format!("--snapshot={}", self.snapshot))
            .arg(format!("--dbname={}", self.pairs()));
        if let Some(password) = self.dsn.config.get_password() {
            // In the environment, where only this user can read it; a command line is read by all.
            let password = String::from_utf8_lossy(password);
            command.env("PGPASSWORD", password.as_ref());
        }
        command
    }

    /// The DSN for libpq, without its password.
    fn pairs(&self) -> String {
        let config = &self.dsn.config;
        let (mode, roots) = match &self.dsn.tls {
            NodeTls::Disable => ("disable", None),
            NodeTls::Require => ("require", None),
            NodeTls::VerifyCa(roots) => ("verify-ca", Some(roots)),
            NodeTls::VerifyFull(roots) => ("verify-full", Some(roots)),
        };
        let roots = roots.map(|roots| match roots {
            Some(file) => file.to_string_lossy().into_owned(),
            None => "system".to_owned(),
        });
        let binding = match config.get_channel_binding() {
            ChannelBinding::Disable => "disable",
            ChannelBinding::Require => "require",
            _ => "prefer",
        };
        let user = config.get_user().unwrap_or_default();
        let mut pairs = String::new();
        for (key, value) in [
            ("host", Some(self.host.as_str())),
            ("hostaddr", Some(&*self.address.to_string())),
            ("port", Some(&*self.port.to_string())),
            ("user", Some(user)),
            ("dbname", Some(config.get_dbname().unwrap_or(user))),
            ("options", config.get_options()),
            ("sslmode", Some(mode)),
            ("sslrootcert", roots.as_deref()),
            ("channel_binding", Some(binding)),
            ("connect_timeout", Some(&*CONNECT_MAX.as_secs().to_string())),
            ("gssencmode", Some("disable")),
            ("passfile", Some(NO_FILE)),
            ("sslcert", Some(NO_FILE)),
        ] {
            if let Some(value) = value {
                let value = value.replace('\\', "\\\\").replace('\'', "\\'");
                let _ = write!(pairs, "{key}='{value}' ");
            }
        }
        pairs
    }

    async fn rows(&self, query: &str) -> Result<Vec<Row>, Failure> {
        let rows = self.client.query_typed(query, &[]).await;
        rows.map_err(|error| said(&error))
    }

    async fn names(&self, query: &str) -> Result<Vec<String>, Failure> {
        let rows = self.rows(query).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Its tables, of these schemas or, where none is named, of all.
    ///
    /// # Errors
    ///
    /// [`Exit::NotFound`] with those that it does not have. pg_dump would only say that nothing fits.
    pub(super) async fn tables(&self, schemas: &[String]) -> Result<Tables, Failure> {
        let missing = self
            .client
            .query_typed(NO_SCHEMAS, &[(&schemas, Type::TEXT_ARRAY)])
            .await;
        let missing = missing.map_err(|error| said(&error))?;
        let missing = missing
            .iter()
            .map(|row| format!("'{}'", row.get::<_, &str>(0)));
        let missing: Vec<String> = missing.collect();
        if !missing.is_empty() {
            return Err(Failure::new(
                Exit::NotFound,
                super::shown(&format!("the source has no schema {}", missing.join(", "))),
                format!(
                    "--schema takes a name exactly as it is, capitals too; {}",
                    super::UNDONE
                ),
            ));
        }
        let rows = self
            .client
            .query_typed(TABLES, &[(&schemas, Type::TEXT_ARRAY)])
            .await;
        let rows = rows.map_err(|error| said(&error))?;
        let pair = |row: &Row| ((row.get(0), row.get(1)), (row.get(2), row.get(3)));
        Ok(Tables(rows.iter().map(pair).collect()))
    }

    /// Its extensions, without the one that every database has.
    pub(super) async fn extensions(&self) -> Result<Vec<String>, Failure> {
        self.names(EXTENSIONS).await
    }

    /// Its event triggers.
    pub(super) async fn event_triggers(&self) -> Result<Vec<String>, Failure> {
        self.names(EVENT_TRIGGERS).await
    }

    /// Rows of all tables, those of partitions added up.
    pub(super) async fn count(&self, tables: &Tables) -> Result<BTreeMap<Name, u64>, Failure> {
        let mut counted = BTreeMap::new();
        for table in tables.names() {
            let rows = self
                .one(&format!("SELECT count(*) FROM ONLY {}", quoted(table)))
                .await?;
            *counted.entry(tables.tree_of(table).clone()).or_default() += rows;
        }
        Ok(counted)
    }

    /// How many large objects it has.
    pub(super) async fn large_objects(&self) -> Result<u64, Failure> {
        self.one("SELECT count(*) FROM pg_largeobject_metadata")
            .await
    }

    async fn one(&self, query: &str) -> Result<u64, Failure> {
        let rows = self.rows(query).await?;
        let count: i64 = rows.first().map_or(0, |row| row.get(0));
        Ok(u64::try_from(count).unwrap_or(0))
    }
}

/// A table's name as SQL has it.
pub(super) fn quoted((schema, table): &Name) -> String {
    let quote = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    format!("{}.{}", quote(schema), quote(table))
}

/// The first address of `host` that answers: two connections to a name with several could see two servers.
async fn resolved(host: &str, port: u16) -> Result<IpAddr, Failure> {
    let unavailable = |why: String| {
        let text = format!(
            "the source {}:{port} cannot be reached: {why}",
            host.escape_debug()
        );
        Failure::new(Exit::Unavailable, text, "")
    };
    let addresses = lookup_host((host.trim_matches(['[', ']']), port)).await;
    let addresses = addresses.map_err(|error| unavailable(error.to_string()))?;
    let mut why = "its name has no address".to_owned();
    for address in addresses {
        match tokio::time::timeout(CONNECT_MAX, TcpStream::connect(address)).await {
            Ok(Ok(_)) => return Ok(address.ip()),
            Ok(Err(error)) => why = error.to_string(),
            Err(_) => why = format!("no answer within {CONNECT_MAX:?}"),
        }
    }
    Err(unavailable(why))
}

/// What the source said, or how it was lost.
fn said(error: &tokio_postgres::Error) -> Failure {
    let Some(answer) = error.as_db_error() else {
        let cause = std::error::Error::source(error);
        let cause = cause.map_or_else(String::new, |cause| format!(": {cause}"));
        return Failure::new(
            Exit::Unavailable,
            format!("the source: {error}{cause}"),
            super::UNDONE,
        );
    };
    let exit = match answer.code().code().get(..2) {
        Some("28") => Exit::NotAllowed,
        Some("53") => Exit::Limit,
        Some("08" | "57") => Exit::Unavailable,
        _ => Exit::Sql,
    };
    let message = format!(
        "the source: {} ({})",
        answer.message(),
        answer.code().code()
    );
    let hints = [answer.detail(), answer.hint(), Some(super::UNDONE)];
    let hints: Vec<&str> = hints.into_iter().flatten().collect();
    Failure::new(exit, message, hints.join("\n      "))
}
