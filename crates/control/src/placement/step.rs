//! The steps of every operation, and a place to stop in each, so that a test can end the process
//! there.

use std::sync::LazyLock;

use model::lifecycle::TenantState;

use super::{Action, Owner};

macro_rules! steps {
    ($($(#[$doc:meta])* $step:ident = $name:literal,)*) => {
        /// One step of an operation. A crash may fall before, in the middle of, or after each.
        #[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
        pub enum Step { $($(#[$doc])* $step,)* }

        impl Step {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$step,)*];

            /// `<operation>.<step>`, as the test hook knows it.
            pub fn name(self) -> &'static str {
                match self { $(Self::$step => $name,)* }
            }
        }
    };
}

steps! {
    /// Rows of a new tenant: a pool entry is claimed, or a placement planned.
    CreateCommit = "create.commit",
    /// Logins of a tenant that found the pool empty.
    CreateLogins = "create.logins",
    /// Its database.
    CreateDatabase = "create.database",
    /// Opening it, and the tenant becomes active.
    CreateOpen = "create.open",
    /// Logins of a pool entry.
    FillLogins = "fill.logins",
    /// Database of a pool entry.
    FillDatabase = "fill.database",
    /// Opening it; it can be claimed.
    FillOpen = "fill.open",
    /// The row says it is deleted; its name is free.
    DeleteCommit = "delete.commit",
    /// Sessions are ended, and the tenant becomes disabled.
    DeleteClose = "delete.close",
    /// The row says its data goes; no undelete from here.
    PurgeBegin = "purge.begin",
    /// Its database is dropped.
    PurgeDatabase = "purge.database",
    /// Its logins are dropped, and its rows.
    PurgeLogins = "purge.logins",
    /// The row says it is wanted again.
    UndeleteCommit = "undelete.commit",
    /// Its database is opened, and the tenant becomes active.
    UndeleteOpen = "undelete.open",
    /// The old password is revoked and the new one valid.
    ResetPasswordCommit = "reset-password.commit",
    /// The row says it is suspended.
    SuspendCommit = "suspend.commit",
    /// Its sessions are ended.
    SuspendClose = "suspend.close",
    /// The row says it is active again.
    ResumeCommit = "resume.commit",
    /// Its database is opened.
    ResumeOpen = "resume.open",
}

/// Where in a step.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
pub enum Moment {
    /// Nothing of it was done.
    Before,
    /// Its effect on the server is done, the catalog does not know. For steps that only write
    /// to the catalog: all was written, nothing committed.
    Between,
    /// All of it is done, nobody was told.
    After,
}

impl Moment {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Before, Self::Between, Self::After];

    /// As the test hook knows it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::Between => "between",
            Self::After => "after",
        }
    }
}

/// Which step an action is, by whom it is done for.
pub(super) fn of(owner: Owner, action: Action, was_active: bool) -> Step {
    match (action, owner) {
        (Action::CreateLogins, Owner::Pool) => Step::FillLogins,
        (Action::CreateLogins, _) => Step::CreateLogins,
        (Action::CreateDatabase, Owner::Pool) => Step::FillDatabase,
        (Action::CreateDatabase, _) => Step::CreateDatabase,
        (Action::Open, Owner::Pool) => Step::FillOpen,
        (Action::Open, Owner::Tenant(TenantState::Active)) => Step::ResumeOpen,
        (Action::Open, _) if was_active => Step::UndeleteOpen,
        (Action::Open, _) => Step::CreateOpen,
        (Action::Close, Owner::Tenant(TenantState::Suspended)) => Step::SuspendClose,
        (Action::Close, _) => Step::DeleteClose,
        (Action::BeginDrop, _) => Step::PurgeBegin,
        (Action::DropDatabase, _) => Step::PurgeDatabase,
        (Action::DropLogins, _) => Step::PurgeLogins,
    }
}

/// Called at each moment of each step. Returns at once, unless `TENANTRY_PAUSE_AT` names it.
///
/// Test hook: with `TENANTRY_PAUSE_AT=create.open:between` in the environment, the process says so
/// on standard error (and makes the file that `TENANTRY_PAUSE_FILE` names) and that step waits for
/// ever, so that a test can kill the process at a known point.
pub(crate) async fn reached(step: Step, moment: Moment) {
    static PAUSE_AT: LazyLock<Option<String>> =
        LazyLock::new(|| std::env::var("TENANTRY_PAUSE_AT").ok());
    let Some(wanted) = PAUSE_AT.as_deref() else {
        return;
    };
    if wanted.split_once(':') != Some((step.name(), moment.name())) {
        return;
    }
    eprintln!("paused at {wanted}");
    if let Ok(file) = std::env::var("TENANTRY_PAUSE_FILE")
        && let Err(error) = std::fs::write(&file, wanted)
    {
        eprintln!("cannot write {file}: {error}");
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_have_two_parts() {
        let mut names: Vec<_> = Step::ALL.iter().map(|step| step.name()).collect();
        assert!(names.iter().all(|name| name.split('.').count() == 2));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Step::ALL.len());
    }
}
