//! Which requests are written down, and what they are called.

use axum::http::Method;

/// A request that is written down.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Action {
    /// What is done.
    pub(crate) operation: &'static str,
    /// To what kind of thing.
    pub(crate) resource: &'static str,
    pub(crate) how: How,
}

/// How it is written down.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum How {
    /// Before it is begun and when it is over; without the first it is not begun.
    Change,
    /// When it is over, and nobody waits for that.
    Look,
}

/// Every request that changes something, with the words that stand in the log and in the API. One that is
/// missing is written down all the same, under its method; a test asks for its words here.
const CHANGES: &[(&str, &str, &str, &str)] = &[
    ("POST", "/customer/anonymous-register", "create", "project"),
    ("POST", "/customer/anonymous-refresh", "create", "token"),
    ("POST", "/customer/databases", "create", "database"),
    ("DELETE", "/customer/databases", "sweep", "database"),
    (
        "PATCH",
        "/customer/databases/{database}",
        "update",
        "database",
    ),
    (
        "DELETE",
        "/customer/databases/{database}",
        "delete",
        "database",
    ),
    // It takes all of it away.
    (
        "POST",
        "/customer/databases/{database}/dump-file",
        "dump",
        "database",
    ),
    (
        "POST",
        "/customer/databases/{database}/undelete",
        "undelete",
        "database",
    ),
    (
        "POST",
        "/customer/databases/{database}/suspend",
        "suspend",
        "database",
    ),
    (
        "POST",
        "/customer/databases/{database}/resume",
        "resume",
        "database",
    ),
    (
        "POST",
        "/customer/databases/{database}/reset-password",
        "reset_password",
        "database",
    ),
    // Refused to everybody, and worth knowing who asked.
    (
        "POST",
        "/customer/databases/{database}/credentials",
        "read",
        "credentials",
    ),
    (
        "PUT",
        "/customer/databases/{database}/limits",
        "replace",
        "limits",
    ),
    (
        "PATCH",
        "/customer/databases/{database}/limits",
        "update",
        "limits",
    ),
    (
        "POST",
        "/customer/databases/{database}/connect-token",
        "create",
        "connect_token",
    ),
    (
        "POST",
        "/customer/databases/{database}/connect-keys",
        "create",
        "connect_key",
    ),
    (
        "DELETE",
        "/customer/databases/{database}/connect-keys/{credential}",
        "revoke",
        "connect_key",
    ),
    (
        "DELETE",
        "/customer/databases/{database}/access/{credential}",
        "revoke",
        "access",
    ),
    (
        "POST",
        "/customer/databases/{database}/users",
        "create",
        "user",
    ),
    (
        "PATCH",
        "/customer/databases/{database}/users/{username}",
        "update",
        "user",
    ),
    (
        "POST",
        "/customer/databases/{database}/users/{username}/reset-password",
        "reset_password",
        "user",
    ),
    (
        "DELETE",
        "/customer/databases/{database}/users/{username}",
        "delete",
        "user",
    ),
    (
        "POST",
        "/customer/databases/{database}/branch",
        "create",
        "branch",
    ),
    (
        "POST",
        "/customer/databases/{database}/reset",
        "reset",
        "branch",
    ),
    (
        "POST",
        "/customer/databases/{database}/backups",
        "create",
        "backup",
    ),
    (
        "POST",
        "/customer/databases/{database}/backups/erase",
        "erase",
        "backup",
    ),
    (
        "PUT",
        "/customer/databases/{database}/backup-schedule",
        "update",
        "backup_schedule",
    ),
    ("DELETE", "/customer/backups/{backup}", "delete", "backup"),
    (
        "POST",
        "/customer/backups/{backup}/verify",
        "verify",
        "backup",
    ),
    (
        "POST",
        "/customer/backups/{backup}/restore",
        "restore",
        "backup",
    ),
    ("POST", "/customer/alerts/rules", "create", "alert_rule"),
    (
        "DELETE",
        "/customer/alerts/rules/{rule}",
        "delete",
        "alert_rule",
    ),
    ("POST", "/customer/alerts/target", "set", "alert_target"),
    (
        "DELETE",
        "/customer/alerts/target",
        "delete",
        "alert_target",
    ),
    ("POST", "/customer/alerts/test", "test", "alert_target"),
    ("POST", "/customer/tokens", "create", "token"),
    ("DELETE", "/customer/tokens/{credential}", "revoke", "token"),
    ("POST", "/customer/claim", "claim", "project"),
    (
        "POST",
        "/customer/adopt-anonymous-databases/preflight",
        "look",
        "adoption",
    ),
    (
        "POST",
        "/customer/adopt-anonymous-databases",
        "adopt",
        "database",
    ),
    ("POST", "/operator/drills", "create", "drill"),
    ("POST", "/operator/claim-codes", "create", "claim_code"),
    (
        "DELETE",
        "/operator/claim-codes/{credential}",
        "revoke",
        "claim_code",
    ),
];

/// What only looks, where that is worth a line.
const LOOKS: &[(&str, &str, &str)] = &[
    (
        "/customer/databases/{database}/credentials",
        "read",
        "credentials",
    ),
    ("/audit-logs", "read", "audit_log"),
    ("/operator/audit", "read", "audit_log"),
    ("/operator/check", "check", "installation"),
    ("/operator/claim-codes", "read", "claim_code"),
];

/// What is no administrative action: it logs in through the proxy, and its session is a line among the
/// connections.
pub(crate) const STATEMENTS: &[&str] = &["/sql", "/customer/databases/{database}/sql"];

impl Action {
    /// What a request to this route is.
    pub(crate) fn of(method: &Method, route: &str) -> Option<Self> {
        if STATEMENTS.contains(&route) {
            return None;
        }
        if [Method::GET, Method::HEAD, Method::OPTIONS].contains(method) {
            let (_, operation, resource) = LOOKS.iter().find(|(own, ..)| *own == route)?;
            return Some(Self {
                operation,
                resource,
                how: How::Look,
            });
        }
        let known = CHANGES
            .iter()
            .find(|known| known.0 == method && known.1 == route);
        let (operation, resource) = known.map_or(("change", "other"), |known| (known.2, known.3));
        Some(Self {
            operation,
            resource,
            how: How::Change,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every method and path of the document.
    fn routes() -> Vec<(Method, String)> {
        let document: serde_json::Value = serde_json::from_str(&crate::openapi_document()).unwrap();
        let mut routes = Vec::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for method in item.as_object().unwrap().keys() {
                routes.push((method.to_uppercase().parse().unwrap(), path.clone()));
            }
        }
        routes
    }

    #[test]
    fn every_endpoint_that_changes_something_has_words() {
        let routes = routes();
        for (method, path) in &routes {
            let Some(action) = Action::of(method, path) else {
                assert!(*method == Method::GET || STATEMENTS.contains(&path.as_str()));
                continue;
            };
            assert_ne!(action.resource, "other", "which words are {method} {path}?");
        }
        let is_there = |method: &str, path: &str| {
            routes
                .iter()
                .any(|(own, known)| own == method && known == path)
        };
        for (method, path, ..) in CHANGES {
            assert!(is_there(method, path), "{method} {path} is no endpoint");
        }
        for (path, ..) in LOOKS {
            assert!(is_there("GET", path), "GET {path} is no endpoint");
        }
    }
}
