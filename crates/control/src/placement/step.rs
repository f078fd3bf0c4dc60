//! The steps of every operation, and a place to stop in each, so that a test can end the process
//! there.

use std::{path::PathBuf, sync::LazyLock, time::Duration};

use model::lifecycle::TenantState;

use super::{Action, Origin, Owner};

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
    /// Rows of a new branch.
    BranchCommit = "branch.commit",
    /// Its logins.
    BranchLogins = "branch.logins",
    /// The row says that its parent is being copied.
    BranchBegin = "branch.begin",
    /// Its database, a copy.
    BranchCopy = "branch.copy",
    /// The login of a user that it has from its parent.
    BranchUser = "branch.user",
    /// The copy names its own logins only.
    BranchAdopt = "branch.adopt",
    /// Opening it, and the tenant becomes active; what it had before a reset is given up.
    BranchOpen = "branch.open",
    /// The row says that a branch is copied anew, into another place.
    ResetCommit = "reset.commit",
    /// Sessions on what it had before are ended.
    ResetClose = "reset.close",
    /// Rows of a backup that is to be made.
    BackupCommit = "backup.commit",
    /// It is written, and its row says so.
    BackupWrite = "backup.write",
    /// The node is recovered to a moment that is past, and what is to be backed up is read there.
    MomentRead = "moment.read",
    /// What is stored of it is removed, then its row.
    BackupRemove = "backup-delete.remove",
    /// Rows of a restore.
    RestoreCommit = "restore.commit",
    /// Its backup was read through; the row says that the database gets another place.
    RestoreBegin = "restore.begin",
    /// Logins of that place.
    RestoreLogins = "restore.logins",
    /// The row says that it is being filled.
    RestoreMark = "restore.mark",
    /// Its database, filled from the backup and compared with it.
    RestoreFill = "restore.fill",
    /// The database is complete.
    RestoreAdopt = "restore.adopt",
    /// Opening it, and the tenant becomes active; what it had before is given up.
    RestoreOpen = "restore.open",
    /// Rows of a restore drill.
    DrillCommit = "drill.commit",
    /// Logins of its place.
    DrillLogins = "drill.logins",
    /// Its database, filled from the backup and compared with it; its row says how it went.
    DrillFill = "drill.fill",
    /// The row says that its data goes.
    DrillEnd = "drill.end",
    /// Its database is dropped.
    DrillDrop = "drill.drop",
    /// Its logins are dropped, and its place is forgotten.
    DrillForget = "drill.forget",
    /// A dump is written by the server: its login is made, and everything read.
    DumpWrite = "dump.write",
    /// Its login is removed, and its turn ends; only then does whoever wanted it hear that it was all.
    DumpEnd = "dump.end",
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
    /// Rows of a new user of a database, with its password.
    UserCommit = "user.commit",
    /// The user's login on the server.
    UserLogin = "user.login",
    /// The row says that a user goes, and nothing opens it any more.
    UserDeleteCommit = "user-delete.commit",
    /// Its login is removed, then its row.
    UserDeleteLogin = "user-delete.login",
    /// Databases of an anonymous project are another's now.
    AdoptCommit = "adopt.commit",
    /// An anonymous project is its owner's, and the code is used.
    ClaimCommit = "claim.commit",
    /// The row says it is suspended.
    SuspendCommit = "suspend.commit",
    /// Its sessions are ended.
    SuspendClose = "suspend.close",
    /// The row has another name.
    RenameCommit = "rename.commit",
    /// The row says when it expires, or that it never does.
    ExpiryCommit = "expiry.commit",
    /// What has expired is deleted: its row says so.
    ExpireCommit = "expire.commit",
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
pub(super) fn of(owner: Owner, origin: Origin, action: Action, was_active: bool) -> Step {
    let is_branch = origin == Origin::Parent;
    if origin == Origin::Backup {
        match (action, owner) {
            (Action::CreateLogins, Owner::Drill) => return Step::DrillLogins,
            (Action::Copy, Owner::Drill) => return Step::DrillFill,
            // What a restore gave up belongs to none any more.
            (Action::BeginDrop, Owner::Nobody) => return Step::DrillEnd,
            (Action::DropDatabase, Owner::Nobody) => return Step::DrillDrop,
            (Action::DropLogins, Owner::Nobody) => return Step::DrillForget,
            (Action::CreateLogins, _) => return Step::RestoreLogins,
            (Action::BeginCopy, _) => return Step::RestoreMark,
            (Action::Copy, _) => return Step::RestoreFill,
            (Action::Adopt, _) => return Step::RestoreAdopt,
            (Action::Open, Owner::Tenant(TenantState::Cloning)) => return Step::RestoreOpen,
            (_, _) => {}
        }
    }
    match (action, owner) {
        (Action::CreateLogins, Owner::Pool) => Step::FillLogins,
        (Action::CreateLogins, _) if is_branch => Step::BranchLogins,
        (Action::BeginCopy, _) => Step::BranchBegin,
        (Action::Copy, _) => Step::BranchCopy,
        (Action::Adopt, _) => Step::BranchAdopt,
        (Action::CreateLogins, _) => Step::CreateLogins,
        (Action::CreateDatabase, Owner::Pool) => Step::FillDatabase,
        (Action::CreateDatabase, _) => Step::CreateDatabase,
        (Action::Open, Owner::Pool) => Step::FillOpen,
        (Action::Open, Owner::Tenant(TenantState::Active)) => Step::ResumeOpen,
        (Action::Open, Owner::Tenant(TenantState::Cloning)) => Step::BranchOpen,
        (Action::Open, _) if was_active => Step::UndeleteOpen,
        (Action::Open, _) => Step::CreateOpen,
        (Action::Close, Owner::Tenant(TenantState::Suspended)) => Step::SuspendClose,
        (Action::Close, Owner::Kept) => Step::ResetClose,
        (Action::Close, _) => Step::DeleteClose,
        (Action::BeginDrop, _) => Step::PurgeBegin,
        (Action::DropDatabase, _) => Step::PurgeDatabase,
        (Action::DropLogins, _) => Step::PurgeLogins,
    }
}

/// Between two looks at the file of the test hook.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Called at each moment of each step. Returns at once, unless a test wants to stop here.
///
/// Test hook: `TENANTRY_PAUSE_FILE` in the environment names a file. While that file says
/// `create.open:between`, whoever comes to this point waits, after making the same file with the extension `reached`, so that
/// a test can end the process, or the server, at a known point; it goes on when the file is gone.
pub(crate) async fn reached(step: Step, moment: Moment) {
    static FILE: LazyLock<Option<PathBuf>> =
        LazyLock::new(|| std::env::var_os("TENANTRY_PAUSE_FILE").map(PathBuf::from));
    let Some(file) = FILE.as_deref() else {
        return;
    };
    let here = format!("{}:{}", step.name(), moment.name());
    let is_wanted = || std::fs::read_to_string(file).is_ok_and(|wanted| wanted == here);
    if !is_wanted() {
        return;
    }
    let mark = file.with_extension("reached");
    if let Err(error) = std::fs::write(&mark, &here) {
        tracing::error!(file = %mark.display(), %error, "the test hook cannot say where it stopped");
    }
    while is_wanted() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
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
