//! What a server needs before its first tenant: groups, closed doors, catalog, sealed template.

use sha2::{Digest, Sha256};
use tokio_postgres::error::SqlState;

use crate::{
    Node, NodeError,
    handle::{CATALOG_DATABASE, Lease, TEMPLATE_DATABASE},
    key::hex,
    steps::{BOOTSTRAP, LOCALES, TEMPLATE, TEMPLATE_TEXT},
};

/// Held while bootstrapping, so that two processes that share a node do not meet inside it.
/// "tenantry" in ASCII.
const LOCK: i64 = 0x7465_6e61_6e74_7279;

impl Node {
    /// Makes groups, template and the catalog database. Runs at every start; repairs what drifted
    /// and changes nothing that is right.
    ///
    /// On a server that we run it also takes from PUBLIC the rights on `postgres` and `template1`. Of
    /// an attached one it changes nothing but the roles `tenantry_*` and the databases `tenantry` and
    /// `tenantry_template`; what that leaves open to tenants is logged, and found by the checker.
    ///
    /// # Errors
    ///
    /// Those of the server; [`NodeError::Conflict`] when something there has a name of ours and is
    /// not of this installation, or when an attached server does not ask tenants for their password.
    pub async fn bootstrap(&self) -> Result<(), NodeError> {
        let lease = self.lease("bootstrap").await?;
        self.lock_bootstrap(&lease, "bootstrap").await?;
        let result = self.bootstrap_locked(&lease).await;
        // The lock ends with the session.
        drop(lease);
        result
    }

    /// Until the session ends.
    pub(crate) async fn lock_bootstrap(
        &self,
        lease: &Lease,
        step: &'static str,
    ) -> Result<(), NodeError> {
        self.sql(lease, step, &format!("SELECT pg_advisory_lock({LOCK})"))
            .await
    }

    async fn bootstrap_locked(&self, lease: &Lease) -> Result<(), NodeError> {
        let is_managed = self.shared.parts.managed.is_some();
        if !is_managed {
            let strangers = self.strangers(lease).await?;
            if !strangers.is_empty() {
                return Err(NodeError::Conflict {
                    step: "bootstrap",
                    what: strangers.join("; "),
                });
            }
        }
        self.sql(lease, "groups", &BOOTSTRAP.fill("groups", &[]))
            .await?;
        if is_managed {
            self.sql(lease, "doors", &BOOTSTRAP.fill("doors", &[]))
                .await?;
        } else {
            self.require_scram().await?;
            self.warn_of_doors(lease).await?;
        }
        self.catalog(lease).await?;
        self.template(lease).await
    }

    /// Says whose the catalog is: that of the installation whose key all logins' passwords come from.
    pub(crate) fn catalog_mark(&self) -> String {
        let print = hex(&Sha256::digest(
            self.shared.parts.key.password("catalog", 0).reveal(),
        ));
        format!("{CATALOG_MARK}{}", &print[..16])
    }

    async fn catalog(&self, lease: &Lease) -> Result<(), NodeError> {
        if self.seal(lease, CATALOG_DATABASE).await?.is_none() {
            self.create_from_nothing(lease, "catalog", |locale| {
                format!(
                    "CREATE DATABASE {CATALOG_DATABASE} TEMPLATE template0 ENCODING 'UTF8' {locale} \
                     CONNECTION LIMIT 0"
                )
            })
            .await?;
        }
        let catalog_door = BOOTSTRAP.fill("catalog_door", &[("catalog", CATALOG_DATABASE)]);
        let mark = format!(
            "{catalog_door} COMMENT ON DATABASE {CATALOG_DATABASE} IS '{}'; \
             ALTER DATABASE {CATALOG_DATABASE} WITH CONNECTION LIMIT -1",
            self.catalog_mark()
        );
        self.sql(lease, "catalog door", &mark).await
    }

    /// Left alone when it is sealed and of today's text; otherwise opened to us, brought up to date
    /// and sealed again. Nothing is copied from one half done: that needs the seal.
    async fn template(&self, lease: &Lease) -> Result<(), NodeError> {
        let values = [("template", TEMPLATE_DATABASE)];
        match self.seal(lease, TEMPLATE_DATABASE).await? {
            Some(seal) if seal.holds() => return Ok(()),
            Some(_) => {}
            None => {
                self.create_from_nothing(lease, "template", |locale| {
                    BOOTSTRAP.fill("template", &[values[0], ("locale", locale)])
                })
                .await?;
            }
        }
        self.sql(lease, "template", &BOOTSTRAP.fill("template_door", &values))
            .await?;
        self.sql(lease, "template", &BOOTSTRAP.fill("unseal", &values))
            .await?;
        {
            let inside = self.visit("template", TEMPLATE_DATABASE).await?;
            for name in TEMPLATE.names() {
                inside
                    .batch_execute(&TEMPLATE.fill(name, &values))
                    .await
                    .map_err(|error| self.error("template", error))?;
            }
            // Copies carry the template's age: without this all of them would be due for freezing
            // at once, and early.
            inside
                .batch_execute("VACUUM (FREEZE, ANALYZE)")
                .await
                .map_err(|error| self.error("template", error))?;
        }
        let mark = format!(
            "{}; COMMENT ON DATABASE {TEMPLATE_DATABASE} IS '{}'",
            BOOTSTRAP.fill("seal", &values).trim_end_matches(';'),
            template_mark()
        );
        self.sql(lease, "template", &mark).await
    }

    /// Creates a database from `template0` with the best collation that the server knows.
    async fn create_from_nothing(
        &self,
        lease: &Lease,
        step: &'static str,
        statement: impl Fn(&str) -> String,
    ) -> Result<(), NodeError> {
        let locales = if self.server_version().major() >= 17 {
            &LOCALES[..]
        } else {
            &LOCALES[1..]
        };
        let mut refused = None;
        for locale in locales {
            match self.sql(lease, step, &statement(locale)).await {
                Ok(()) => return Ok(()),
                Err(error) if error.refused_with(&SqlState::DUPLICATE_DATABASE) => return Ok(()),
                // "invalid LC_CTYPE locale name".
                Err(error) if error.refused_with(&SqlState::WRONG_OBJECT_TYPE) => {
                    refused = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(refused.expect("there is at least one locale"))
    }

    pub(crate) async fn seal(&self, lease: &Lease, name: &str) -> Result<Option<Seal>, NodeError> {
        let row = lease
            .query_opt(
                "SELECT datistemplate, datallowconn, datconnlimit, \
                   shobj_description(oid, 'pg_database'), \
                   EXISTS (SELECT FROM aclexplode(coalesce(datacl, acldefault('d', datdba))) \
                           WHERE grantee = 0) \
                 FROM pg_database WHERE datname = $1",
                &[&name],
            )
            .await
            .map_err(|error| self.error("look at databases", error))?;
        Ok(row.map(|row| Seal {
            is_template: row.get(0),
            allows_connections: row.get(1),
            connection_limit: row.get(2),
            mark: row.get(3),
            public: row.get(4),
        }))
    }

    async fn sql(&self, lease: &Lease, step: &'static str, sql: &str) -> Result<(), NodeError> {
        lease
            .batch_execute(sql)
            .await
            .map_err(|error| self.error(step, error))
    }
}

/// What keeps the template as it was made.
pub(crate) struct Seal {
    is_template: bool,
    allows_connections: bool,
    connection_limit: i32,
    mark: Option<String>,
    public: bool,
}

impl Seal {
    pub(crate) fn holds(&self) -> bool {
        self.is_template
            && !self.allows_connections
            && self.connection_limit == 0
            && !self.public
            && self.mark.as_deref() == Some(&template_mark())
    }
}

pub(crate) const CATALOG_MARK: &str = "catalog of tenantry ";
pub(crate) const TEMPLATE_MARK: &str = "made by tenantry from ";

/// Says of which text a template was made. Written in the transaction that seals it.
pub(crate) fn template_mark() -> String {
    format!(
        "{TEMPLATE_MARK}{}",
        &hex(&Sha256::digest(TEMPLATE_TEXT))[..16]
    )
}
