//! Rows of limits. A row goes to and from the catalog as JSON, whose names are those of the columns,
//! of the API and of [`Number`], so that a new limit is a column and a line there.

use deadpool_postgres::GenericClient;
use model::{
    TenantId,
    limits::{
        ALLOWED_ADDRESSES, LimitSet, Number, POOL_MODE, STATEMENT_LOG, StatementLog, pool_mode_word,
    },
};
use serde_json::{Map, Value};

use crate::catalog::{self, CatalogError};

/// Who says what.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wishes {
    pub(crate) operator: LimitSet,
    pub(crate) owner: LimitSet,
}

/// One of the two.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Party {
    /// Of the installation.
    Operator,
    /// Of the tenant.
    Owner,
}

impl Party {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Owner => "owner",
        }
    }

    /// Reads [`Self::as_str`] back.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Operator, Self::Owner]
            .into_iter()
            .find(|party| party.as_str() == text)
    }
}

impl Wishes {
    /// What one party said.
    pub(crate) fn of(&mut self, party: Party) -> &mut LimitSet {
        match party {
            Party::Operator => &mut self.operator,
            Party::Owner => &mut self.owner,
        }
    }
}

/// What one party said, by name. What it did not say is not there.
pub(crate) fn to_json(set: &LimitSet) -> Map<String, Value> {
    let mut json = Map::new();
    for number in Number::ALL {
        if let Some(value) = set.number(*number) {
            json.insert(number.name().to_owned(), value.into());
        }
    }
    if let Some(mode) = set.pool_mode {
        json.insert(POOL_MODE.to_owned(), pool_mode_word(mode).into());
    }
    if let Some(log) = set.statement_log {
        json.insert(STATEMENT_LOG.to_owned(), log.as_str().into());
    }
    if let Some(networks) = set.addresses() {
        let networks = networks
            .iter()
            .map(|network| Value::from(network.to_string()));
        json.insert(ALLOWED_ADDRESSES.to_owned(), networks.collect());
    }
    json
}

/// A row. What this program would not have written is left out: a newer one may have.
pub(crate) fn from_row(row: &Value) -> LimitSet {
    let mut set = LimitSet::default();
    for number in Number::ALL {
        let value = row[number.name()].as_u64();
        if let Err(error) = set.set_number(*number, value) {
            tracing::warn!(%error, ?value, "a limit in the catalog is out of its bounds; left out");
        }
    }
    set.pool_mode = row[POOL_MODE].as_str().and_then(|word| word.parse().ok());
    set.statement_log = row[STATEMENT_LOG].as_str().and_then(StatementLog::parse);
    if let Some(networks) = row[ALLOWED_ADDRESSES].as_array() {
        // Too much for us is more than we understand: nobody comes in, rather than everybody.
        let texts = networks
            .iter()
            .map(|network| network.as_str().unwrap_or_default());
        let networks = LimitSet::networks(texts).unwrap_or_default();
        let kept = set.set_addresses(Some(networks));
        if kept.is_err() {
            let _ = set.set_addresses(Some(Vec::new()));
        }
    }
    set
}

/// What both said of a tenant.
pub(crate) async fn read(
    client: &impl GenericClient,
    tenant: &TenantId,
) -> Result<Wishes, CatalogError> {
    let sql = "SELECT set_by, to_json(l) FROM tenant_limits l WHERE tenant_id = $1";
    let mut wishes = Wishes::default();
    for row in catalog::query(client, sql, &[&tenant.as_str()]).await? {
        let set = from_row(&row.get(1));
        match row.get(0) {
            "operator" => wishes.operator = set,
            _ => wishes.owner = set,
        }
    }
    Ok(wishes)
}

/// Replaces what one party said. Part of a transaction that holds the tenant's row.
pub(crate) async fn write(
    client: &impl GenericClient,
    tenant: &TenantId,
    party: Party,
    set: &LimitSet,
) -> Result<(), CatalogError> {
    let sql = "DELETE FROM tenant_limits WHERE tenant_id = $1 AND set_by = $2";
    catalog::execute(client, sql, &[&tenant.as_str(), &party.as_str()]).await?;
    if set.is_empty() {
        return Ok(());
    }
    let mut row = to_json(set);
    row.insert("tenant_id".to_owned(), tenant.as_str().into());
    row.insert("set_by".to_owned(), party.as_str().into());
    let sql = "INSERT INTO tenant_limits
        SELECT (jsonb_populate_record(NULL::tenant_limits, $1)).*";
    catalog::execute(client, sql, &[&Value::Object(row)]).await?;
    Ok(())
}

/// Gives `to`, which has none, the limits that `from` has: a copy is no way around them. Server
/// connections kept for it are not among them: those are promised to one database.
pub(crate) async fn carry(
    client: &impl GenericClient,
    from: &TenantId,
    to: &TenantId,
) -> Result<(), CatalogError> {
    let sql = "INSERT INTO tenant_limits
        SELECT (jsonb_populate_record(l, jsonb_build_object(
            'tenant_id', $2::text, 'server_connections_min', NULL))).*
        FROM tenant_limits l WHERE tenant_id = $1";
    catalog::execute(client, sql, &[&from.as_str(), &to.as_str()]).await?;
    Ok(())
}

/// Sum of the minimums of all other tenants of a node, also deleted ones: they may come back. Nobody
/// else changes one until the end of the transaction.
pub(crate) async fn minimums_of_others(
    client: &impl GenericClient,
    tenant: &TenantId,
    node: &str,
) -> Result<u64, CatalogError> {
    let lock = "SELECT pg_advisory_xact_lock('tenant_limits'::regclass::oid::int8)";
    catalog::query_one(client, lock, &[]).await?;
    let sql = "SELECT coalesce(sum(l.server_connections_min), 0)::int8
        FROM tenant_limits l JOIN tenant t ON t.id = l.tenant_id JOIN placement p ON p.pid = t.pid
        WHERE l.server_connections_min > 0 AND p.node = $2 AND t.id <> $1";
    let row = catalog::query_one(client, sql, &[&tenant.as_str(), &node]).await?;
    Ok(row.get::<_, i64>(0).unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_reads_back_and_one_of_a_newer_program_restricts() {
        let mut set = LimitSet::default();
        for number in Number::ALL {
            set.set_number(*number, Some(*number.range().end()))
                .unwrap();
        }
        set.pool_mode = Some("transaction".parse().unwrap());
        set.statement_log = Some(StatementLog::Sampled);
        let networks = LimitSet::networks(["10.0.0.0/8", "::1"]).unwrap();
        set.set_addresses(Some(networks)).unwrap();
        assert_eq!(from_row(&Value::Object(to_json(&set))), set);
        assert_eq!(from_row(&serde_json::json!({})), LimitSet::default());

        let newer = serde_json::json!({
            "server_connections_max": 1_000_000, "pool_mode": "statement",
            "allowed_addresses": ["10.0.0.0/8", "everywhere"],
        });
        let set = from_row(&newer);
        assert_eq!(set.number(Number::ServerConnections), None);
        assert_eq!(set.addresses(), Some(&[][..]));
    }
}
