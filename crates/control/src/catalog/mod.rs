//! The catalog: what should be, in a PostgreSQL database.
//!
//! Owns: the connections to it, its migrations ([`migrate`]), whose it is ([`key`]) and hearing of changes ([`changes`]).
//! Does not own: any table's rows; each noun has its `store`.

pub(crate) mod changes;
pub(crate) mod key;
pub(crate) mod migrate;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use deadpool_postgres::{
    GenericClient, Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime,
};
use tokio_postgres::{Row, error::SqlState, types::ToSql};

use crate::api::error::chain;

/// Why the catalog gave no answer, split by what the caller does.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// It cannot be reached, or is shutting down or starting. Try again later.
    #[error("the catalog cannot be reached")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It refused a statement: our mistake, or a rule of the schema that the caller looks into.
    #[error("the catalog refused a statement")]
    Refused(#[source] tokio_postgres::Error),
}

impl CatalogError {
    /// The unique index or constraint that was violated.
    pub(crate) fn constraint(&self) -> Option<&str> {
        match self {
            Self::Refused(error) => error.as_db_error()?.constraint(),
            Self::Unavailable(_) => None,
        }
    }
}

impl CatalogError {
    /// Says that a pass comes again later. That the catalog is away is said elsewhere already; a statement
    /// that it refuses is a mistake of ours, and no pass gets on until somebody looks.
    pub(crate) fn tell(&self, pass: &'static str) {
        match self {
            Self::Unavailable(_) => {
                tracing::debug!(pass, error = %chain(self), "a pass waits for the catalog");
            }
            Self::Refused(_) => tracing::error!(pass, error = %chain(self), "a pass failed"),
        }
    }
}

impl From<tokio_postgres::Error> for CatalogError {
    fn from(error: tokio_postgres::Error) -> Self {
        let gone = match error.code() {
            None => true,
            Some(code) => [
                SqlState::ADMIN_SHUTDOWN,
                SqlState::CRASH_SHUTDOWN,
                SqlState::CANNOT_CONNECT_NOW,
                SqlState::TOO_MANY_CONNECTIONS,
                SqlState::CONNECTION_EXCEPTION,
                SqlState::CONNECTION_FAILURE,
            ]
            .contains(code),
        };
        if gone {
            Self::Unavailable(Box::new(error))
        } else {
            Self::Refused(error)
        }
    }
}

/// Time for one statement on the catalog. All are look-ups by key; 30 s is far above any.
const STATEMENT_TIME_MAX: Duration = Duration::from_secs(30);
/// Wait for a row that another transaction holds.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(10);
/// Time to connect.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);

/// Connections to the catalog. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Catalog {
    pool: Pool,
    address: node::CatalogConfig,
    /// It did not answer when it was last asked.
    is_away: Arc<AtomicBool>,
}

impl Catalog {
    /// Prepares the pool; connects to nothing yet.
    pub(crate) fn new(mut address: node::CatalogConfig, size: usize, wait: Duration) -> Self {
        let options = format!(
            "{} -c statement_timeout={} -c lock_timeout={} -c idle_in_transaction_session_timeout={}",
            address.config.get_options().unwrap_or_default(),
            STATEMENT_TIME_MAX.as_millis(),
            LOCK_WAIT_MAX.as_millis(),
            STATEMENT_TIME_MAX.as_millis(),
        );
        address
            .config
            .options(options.trim_start())
            .application_name("tenantry")
            .connect_timeout(CONNECT_TIME_MAX);
        let manager = Manager::from_config(
            address.config.clone(),
            address.tls.clone(),
            ManagerConfig {
                recycling_method: RecyclingMethod::Fast,
            },
        );
        let pool = Pool::builder(manager)
            .max_size(size)
            .wait_timeout(Some(wait))
            .create_timeout(Some(CONNECT_TIME_MAX))
            .runtime(Runtime::Tokio1)
            .build()
            .expect("a pool with a runtime can have timeouts");
        Self {
            pool,
            address,
            is_away: Arc::default(),
        }
    }

    /// A connection, given back when dropped.
    ///
    /// # Errors
    ///
    /// [`CatalogError::Unavailable`] when none became free in time or none can be made.
    pub(crate) async fn get(&self) -> Result<Object, CatalogError> {
        self.pool
            .get()
            .await
            .map_err(|error| CatalogError::Unavailable(Box::new(error)))
    }

    /// How to make a connection outside the pool.
    pub(crate) fn address(&self) -> &node::CatalogConfig {
        &self.address
    }

    /// Whether it answers now. The log says when that changes: whoever asks does it every few seconds.
    pub(crate) async fn answers(&self) -> bool {
        let asked = async { query_one(&self.get().await?, "SELECT 1", &[]).await };
        let answer = asked.await;
        let was_away = self.is_away.swap(answer.is_err(), Ordering::Relaxed);
        match &answer {
            Err(error) if !was_away => {
                tracing::warn!(error = %chain(error), "not ready: the catalog does not answer");
            }
            Ok(_) if was_away => tracing::info!("ready again: the catalog answers"),
            _ => {}
        }
        answer.is_ok()
    }

    /// Closes every connection that is not in use, and the others when they are given back.
    pub(crate) fn close(&self) {
        self.pool.close();
    }
}

/// Values of a statement.
type Values<'a> = &'a [&'a (dyn ToSql + Sync)];

/// All rows of a statement. It is prepared once for each connection, so it takes one round trip; that
/// is why no text of a statement may be made up as we go.
pub(crate) async fn query(
    client: &impl GenericClient,
    sql: &str,
    values: Values<'_>,
) -> Result<Vec<Row>, CatalogError> {
    let statement = client.prepare_cached(sql).await?;
    Ok(client.query(&statement, values).await?)
}

/// The one row that a statement always has.
pub(crate) async fn query_one(
    client: &impl GenericClient,
    sql: &str,
    values: Values<'_>,
) -> Result<Row, CatalogError> {
    let statement = client.prepare_cached(sql).await?;
    Ok(client.query_one(&statement, values).await?)
}

/// The one row that a statement may have.
pub(crate) async fn query_opt(
    client: &impl GenericClient,
    sql: &str,
    values: Values<'_>,
) -> Result<Option<Row>, CatalogError> {
    let statement = client.prepare_cached(sql).await?;
    Ok(client.query_opt(&statement, values).await?)
}

/// How many rows a statement changed.
pub(crate) async fn execute(
    client: &impl GenericClient,
    sql: &str,
    values: Values<'_>,
) -> Result<u64, CatalogError> {
    let statement = client.prepare_cached(sql).await?;
    Ok(client.execute(&statement, values).await?)
}

/// A text of the catalog as what it is.
///
/// # Panics
///
/// When it is malformed, which the schema does not allow.
pub(crate) fn parse<T: std::str::FromStr>(text: &str) -> T {
    text.parse()
        .ok()
        .expect("the schema allows well-formed ids and names only")
}
