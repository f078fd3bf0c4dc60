//! Keeping the sealed template young.
//!
//! Copies carry the template's age: without this, all of a day's databases would be due for freezing
//! at the same transaction, and earlier every week.
//!
//! Owns: the fresh copy that takes the template's place. The template itself is never opened, so
//! creating tenants goes on meanwhile.

use tokio_postgres::error::SqlState;

use crate::{
    Node, NodeError,
    bootstrap::template_mark,
    handle::{Lease, TEMPLATE_DATABASE},
    steps::BOOTSTRAP,
};

const STEP: &str = "refresh the template";
/// Becomes the template when it is finished.
const NEXT: &str = "tenantry_template_next";
/// What the template becomes, for the moment until it is dropped.
const LAST: &str = "tenantry_template_last";

/// Age, in transactions, at which the template is frozen again: a quarter of
/// `autovacuum_freeze_max_age`, so that a new tenant has three quarters of the way before it.
pub const TEMPLATE_AGE_MAX: u32 = 50_000_000;

impl Node {
    /// Replaces the template by a frozen copy of it, if it is older than `age_max` transactions
    /// ([`TEMPLATE_AGE_MAX`]). Returns whether it was. Takes seconds; to be asked about once an hour.
    ///
    /// # Errors
    ///
    /// Those of the server; [`NodeError::Conflict`] when a database of somebody else has a name of
    /// ours. Refused (55P03, 55006) while the template is being copied: repeat.
    pub async fn refresh_template(&self, age_max: u32) -> Result<bool, NodeError> {
        const AGE: &str = "SELECT age(datfrozenxid) FROM pg_database WHERE datname = $1";
        let lease = self.lease(STEP).await?;
        let rows = self.rows(&lease, STEP, AGE, &[&TEMPLATE_DATABASE]).await?;
        let age: Option<i32> = rows.first().map(|row| row.get(0));
        if age.is_none_or(|age| age.unsigned_abs() <= age_max) {
            lease.give_back();
            return Ok(false);
        }
        self.lock_bootstrap(&lease, STEP).await?;
        let result = self.replace_template(&lease).await;
        // The lock ends with the session.
        drop(lease);
        result.map(|()| {
            tracing::info!(node = self.name(), age, "the template was frozen again");
            true
        })
    }

    async fn replace_template(&self, lease: &Lease) -> Result<(), NodeError> {
        let send = async |sql: &str| {
            let sent = lease.batch_execute(sql).await;
            sent.map_err(|error| self.error(STEP, error))
        };
        self.remove(lease, LAST).await?;
        self.remove(lease, NEXT).await?;
        self.require_seal(lease).await?;
        // Closed from its first moment, as a tenant's.
        send(&format!(
            "CREATE DATABASE {NEXT} TEMPLATE {TEMPLATE_DATABASE} STRATEGY WAL_LOG CONNECTION LIMIT 0"
        ))
        .await?;
        let values = [("template", NEXT)];
        send(&BOOTSTRAP.fill("template_door", &values)).await?;
        {
            let inside = self.visit(STEP, NEXT).await?;
            let frozen = inside.batch_execute("VACUUM (FREEZE, ANALYZE)").await;
            frozen.map_err(|error| self.error(STEP, error))?;
        }
        // A renamed database must have no session, and ours may not have ended yet: the server waits
        // up to 5 s for it. One transaction: there is always a sealed template of this name.
        send(&format!(
            "{seal} COMMENT ON DATABASE {NEXT} IS '{mark}'; \
             ALTER DATABASE {TEMPLATE_DATABASE} RENAME TO {LAST}; \
             ALTER DATABASE {NEXT} RENAME TO {TEMPLATE_DATABASE}",
            seal = BOOTSTRAP.fill("seal", &values),
            mark = template_mark()
        ))
        .await?;
        self.remove(lease, LAST).await
    }

    /// Drops what an interrupted refresh left.
    async fn remove(&self, lease: &Lease, name: &str) -> Result<(), NodeError> {
        const IS_OURS: &str = "SELECT datconnlimit IN (0, -2) \
               AND datdba = (SELECT oid FROM pg_roles WHERE rolname = current_user) \
             FROM pg_database WHERE datname = $1";
        let rows = self.rows(lease, STEP, IS_OURS, &[&name]).await?;
        match rows.first().map(|row| row.get(0)) {
            None => return Ok(()),
            Some(true) => {}
            Some(false) => {
                return Err(NodeError::Conflict {
                    step: STEP,
                    what: format!("there is a database {name} that is not ours: rename it"),
                });
            }
        }
        for sql in [
            // Refused for the rest of an interrupted drop, which is no template any more.
            format!("ALTER DATABASE {name} WITH IS_TEMPLATE false"),
            format!("DROP DATABASE {name}"),
        ] {
            match lease
                .batch_execute(&sql)
                .await
                .map_err(|e| self.error(STEP, e))
            {
                Err(error)
                    if error.refused_with(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE)
                        && sql.starts_with("ALTER") => {}
                other => other?,
            }
        }
        Ok(())
    }
}
