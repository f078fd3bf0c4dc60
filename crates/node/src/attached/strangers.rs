//! What already has a name of ours on a server that is not ours, and is no work of this installation.

use tokio_postgres::Client;

use crate::{
    Node, NodeError,
    bootstrap::{CATALOG_MARK, TEMPLATE_MARK},
    handle::{CATALOG_DATABASE, TEMPLATE_DATABASE},
};

const STEP: &str = "look for names of ours";

impl Node {
    /// Each in words for the operator. A database that an interrupted bootstrap left is ours: it has no
    /// mark yet, belongs to our role and lets nobody in.
    pub(crate) async fn strangers(&self, client: &Client) -> Result<Vec<String>, NodeError> {
        const DATABASES: &str = "SELECT datname::text, shobj_description(oid, 'pg_database'), \
               datconnlimit = 0 AND datdba = (SELECT oid FROM pg_roles WHERE rolname = current_user) \
             FROM pg_database WHERE datname = ANY ($1)";
        const ROLES: &str = "SELECT rolname::text FROM pg_roles \
             WHERE rolname IN ('tenantry_owner', 'tenantry_admin', 'tenantry_write', 'tenantry_read') \
               AND (rolcanlogin OR rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication \
                 OR rolbypassrls)";
        let mut strangers = Vec::new();
        let names = [CATALOG_DATABASE, TEMPLATE_DATABASE];
        for row in self.rows(client, STEP, DATABASES, &[&&names[..]]).await? {
            let (name, mark, unfinished): (&str, Option<&str>, bool) =
                (row.get(0), row.get(1), row.get(2));
            let is_ours = match mark {
                None => unfinished,
                Some(mark) if name == CATALOG_DATABASE => mark == self.catalog_mark(),
                Some(mark) => mark.starts_with(TEMPLATE_MARK),
            };
            if is_ours {
                continue;
            }
            let is_anothers = mark.is_some_and(|mark| mark.starts_with(CATALOG_MARK));
            strangers.push(if is_anothers {
                format!(
                    "its database {name} belongs to another installation of tenantry (if it is this \
                     one, put its node.key back into the data directory)"
                )
            } else {
                format!("it has a database {name} that is not ours (rename that one)")
            });
        }
        for row in self.rows(client, STEP, ROLES, &[]).await? {
            let name: &str = row.get(0);
            strangers.push(format!(
                "it has a role {name} that is not ours (rename that one)"
            ));
        }
        Ok(strangers)
    }
}
