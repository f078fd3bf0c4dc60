//! Logins of the users of a tenant: made, set right and removed, each step as often as one likes.
//!
//! A user has a login of its own on the server and acts as the group of its role, like the three logins that
//! every tenant has (`tenant`). Owns nothing of who the users are: that is a row of the caller.

use model::{Pid, Role, UserId, route::ServerLogin};
use tokio::time::{Instant, sleep};

use crate::{
    Node, NodeError,
    inventory::split,
    steps::TENANT,
    tenant::{CLOSE_MAX, CLOSE_POLL, LEAVE_MAX},
};

/// The role and the id in what stands behind the pid in the name of a login: `_write_abcdefghijkl`.
pub(crate) fn user_of(suffix: &str) -> Option<(Role, UserId)> {
    let (role, user) = suffix.strip_prefix('_')?.split_once('_')?;
    Some((role.parse().ok()?, user.parse().ok()?))
}

impl Node {
    /// How the proxy logs in in the name of a user. Pure, as [`Self::server_login`].
    pub fn user_server_login(&self, pid: &Pid, role: Role, user: &UserId) -> ServerLogin {
        self.login_as(pid, role, role.user_login(pid, user))
    }

    /// Makes the login of a user of `pid`, whose other logins are there. One that exists gets password,
    /// attributes, memberships and settings back.
    ///
    /// # Errors
    ///
    /// Those of the server.
    pub async fn create_user(&self, pid: &Pid, role: Role, user: &UserId) -> Result<(), NodeError> {
        let (login, database) = (role.user_login(pid, user), pid.database());
        let verifier = self.user_verifier(pid, role, user);
        let values = [
            ("database", database.as_str()),
            ("login", &login),
            ("group", role.group().as_str()),
            ("verifier", &verifier),
        ];
        self.run("create the login of a user", &TENANT.fill("user", &values))
            .await
    }

    pub(crate) fn user_verifier(&self, pid: &Pid, role: Role, user: &UserId) -> String {
        let key = &self.shared.parts.key;
        key.verifier(&role.user_login(pid, user), Self::EPOCH)
    }

    /// Users of `pid` that have a login on the server, or something that stands in for one.
    ///
    /// # Errors
    ///
    /// Those of the server.
    pub async fn users(&self, pid: &Pid) -> Result<Vec<(Role, UserId)>, NodeError> {
        const STEP: &str = "look for users";
        const USERS: &str = "SELECT rolname::text FROM pg_roles \
             WHERE starts_with(rolname, $1) ORDER BY rolname";
        let lease = self.lease(STEP).await?;
        let rows = self.rows(&lease, STEP, USERS, &[&pid.database()]).await?;
        lease.give_back();
        let names = rows.iter().filter_map(|row| split(row.get(0)));
        Ok(names.filter_map(|(_, suffix)| user_of(suffix)).collect())
    }

    /// Removes the login of a user: no new sessions, a second for those it has to leave, then they are ended.
    /// What it owns goes to the group of its role; grants and policies forget it. Returns also when there
    /// is no such login.
    ///
    /// # Errors
    ///
    /// [`NodeError::Busy`] when its sessions do not end within a bound. Refused (55P03) while an open
    /// transaction holds what names it: repeat.
    pub async fn drop_user(&self, pid: &Pid, role: Role, user: &UserId) -> Result<(), NodeError> {
        const STEP: &str = "drop the login of a user";
        let (login, database) = (role.user_login(pid, user), pid.database());
        let values = [
            ("database", database.as_str()),
            ("login", &login),
            ("group", role.group().as_str()),
        ];
        self.run(STEP, &TENANT.fill("user_close", &values)).await?;
        let look = TENANT.fill("user_sessions", &values);
        let disconnect = TENANT.fill("user_disconnect", &values);
        let lease = self.lease(STEP).await?;
        let began = Instant::now();
        loop {
            let has_time = began.elapsed() < LEAVE_MAX;
            let sql = if has_time { &look } else { &disconnect };
            if self.rows(&lease, STEP, sql, &[]).await?.is_empty() {
                break;
            }
            if began.elapsed() >= CLOSE_MAX {
                return Err(NodeError::Busy {
                    step: STEP,
                    what: "sessions of the user did not end",
                    waited: CLOSE_MAX,
                });
            }
            sleep(CLOSE_POLL).await;
        }
        let dependents = TENANT.fill("user_dependents", &values);
        let dependents = self.rows(&lease, STEP, &dependents, &[]).await?;
        // A visit takes a permit of its own: never wait for one while holding another.
        lease.give_back();
        for row in dependents {
            self.forget(row.get(0), &TENANT.fill("user_forget", &values))
                .await?;
        }
        self.run(STEP, &TENANT.fill("user_drop", &values)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_login_is_taken_apart() {
        let (role, user) = user_of("_write_zbcdefghijkl").unwrap();
        assert_eq!((role, user.as_str()), (Role::Write, "zbcdefghijkl"));
        for other in ["", "_write", "_deploy_zbcdefghijkl", "_write_z", "_write_"] {
            assert!(user_of(other).is_none(), "{other}");
        }
    }
}
