//! Where a kill falls: which step, before or after it, and who dies.

use std::fmt;

use control::{Moment, Step};

/// Who is ended by SIGKILL.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kill {
    /// `tenantry`. PostgreSQL is left behind; the next start has to end it.
    Tenantry,
    /// The postmaster and all its children, while `tenantry` lives. The step then goes on against
    /// a server that is gone, and has to be done again once it is back.
    Postgres,
    /// All of them, as when the power fails.
    Both,
}

impl Kill {
    pub(crate) const ALL: [Self; 3] = [Self::Tenantry, Self::Postgres, Self::Both];
}

/// What has to go on so that a step is reached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Operation {
    Create,
    /// A create takes an entry of the pool, and another one is made.
    Fill,
    Delete,
    /// The retention of a deleted one ends.
    Purge,
    Undelete,
    ResetPassword,
    /// A database of an anonymous project moves to the operator's.
    Adopt,
    /// An anonymous project becomes somebody's.
    Claim,
    Suspend,
    Resume,
    Rename,
    /// Says when it ends.
    SetExpiry,
    /// Its lifetime is over.
    Expire,
    /// A copy of another database.
    Branch,
    /// The same copy, made anew.
    Reset,
    /// A database is backed up.
    Backup,
    /// What a database was is backed up.
    BackupMoment,
    /// A backup is deleted.
    DeleteBackup,
    /// A database becomes what a backup holds.
    Restore,
    /// The same, where nobody can reach it.
    Drill,
    /// The server writes a dump.
    Dump,
    /// A user of a database.
    CreateUser,
    DeleteUser,
}

/// A new step does not compile here until somebody says what reaches it. No `_` arm.
pub(crate) fn operation(step: Step) -> Operation {
    match step {
        Step::CreateCommit | Step::CreateLogins | Step::CreateDatabase | Step::CreateOpen => {
            Operation::Create
        }
        Step::FillLogins | Step::FillDatabase | Step::FillOpen => Operation::Fill,
        Step::BranchCommit
        | Step::BranchLogins
        | Step::BranchUser
        | Step::BranchBegin
        | Step::BranchCopy
        | Step::BranchAdopt
        | Step::BranchOpen => Operation::Branch,
        Step::ResetCommit | Step::ResetClose => Operation::Reset,
        Step::BackupCommit | Step::BackupWrite => Operation::Backup,
        Step::MomentRead => Operation::BackupMoment,
        Step::BackupRemove => Operation::DeleteBackup,
        Step::RestoreCommit
        | Step::RestoreBegin
        | Step::RestoreLogins
        | Step::RestoreMark
        | Step::RestoreFill
        | Step::RestoreAdopt
        | Step::RestoreOpen => Operation::Restore,
        Step::DrillCommit
        | Step::DrillLogins
        | Step::DrillFill
        | Step::DrillEnd
        | Step::DrillDrop
        | Step::DrillForget => Operation::Drill,
        Step::DumpWrite | Step::DumpEnd => Operation::Dump,
        Step::DeleteCommit | Step::DeleteClose => Operation::Delete,
        Step::PurgeBegin | Step::PurgeDatabase | Step::PurgeLogins => Operation::Purge,
        Step::UndeleteCommit | Step::UndeleteOpen => Operation::Undelete,
        Step::ResetPasswordCommit => Operation::ResetPassword,
        Step::AdoptCommit => Operation::Adopt,
        Step::ClaimCommit => Operation::Claim,
        Step::SuspendCommit | Step::SuspendClose => Operation::Suspend,
        Step::ResumeCommit | Step::ResumeOpen => Operation::Resume,
        Step::RenameCommit => Operation::Rename,
        Step::ExpiryCommit => Operation::SetExpiry,
        Step::ExpireCommit => Operation::Expire,
        Step::UserCommit | Step::UserLogin => Operation::CreateUser,
        Step::UserDeleteCommit | Step::UserDeleteLogin => Operation::DeleteUser,
    }
}

/// Whether what the user asked for is in the catalog.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kept {
    /// The client may have been told that it is done, so it has to be.
    Yes,
    /// Nothing was committed: all is as before.
    No,
    /// The step went on after the kill; it may have been in time or not.
    Either,
}

/// One kill.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point {
    pub(crate) step: Step,
    pub(crate) moment: Moment,
    pub(crate) kill: Kill,
}

impl Point {
    /// As the test hook knows it.
    pub(crate) fn name(self) -> String {
        format!("{}:{}", self.step.name(), self.moment.name())
    }

    /// What the kill leaves of the request. No `_` arm over steps, for the same reason as above.
    pub(crate) fn kept(self) -> Kept {
        match self.step {
            Step::CreateCommit
            | Step::BranchCommit
            | Step::ResetCommit
            | Step::BackupCommit
            | Step::RestoreCommit
            | Step::DrillCommit
            | Step::DeleteCommit
            | Step::UndeleteCommit
            | Step::ResetPasswordCommit
            | Step::AdoptCommit
            | Step::ClaimCommit
            | Step::SuspendCommit
            | Step::ResumeCommit
            | Step::RenameCommit
            | Step::ExpiryCommit
            | Step::UserCommit
            | Step::UserDeleteCommit => match (self.moment, self.kill) {
                (Moment::Before, Kill::Postgres) => Kept::Either,
                (Moment::Before | Moment::Between, _) => Kept::No,
                (Moment::After, _) => Kept::Yes,
            },
            // A stream that broke off is no dump.
            Step::DumpWrite | Step::DumpEnd => match self.kill {
                Kill::Postgres => Kept::Either,
                Kill::Tenantry | Kill::Both => Kept::No,
            },
            Step::CreateLogins
            | Step::CreateDatabase
            | Step::CreateOpen
            | Step::BranchLogins
            | Step::BranchUser
            | Step::BranchBegin
            | Step::BranchCopy
            | Step::BranchAdopt
            | Step::BranchOpen
            | Step::ResetClose
            | Step::BackupWrite
            | Step::MomentRead
            | Step::BackupRemove
            | Step::RestoreBegin
            | Step::RestoreLogins
            | Step::RestoreMark
            | Step::RestoreFill
            | Step::RestoreAdopt
            | Step::RestoreOpen
            | Step::DrillLogins
            | Step::DrillFill
            | Step::DrillEnd
            | Step::DrillDrop
            | Step::DrillForget
            | Step::FillLogins
            | Step::FillDatabase
            | Step::FillOpen
            | Step::DeleteClose
            | Step::PurgeBegin
            | Step::PurgeDatabase
            | Step::PurgeLogins
            | Step::UndeleteOpen
            | Step::SuspendClose
            | Step::ResumeOpen
            | Step::UserLogin
            | Step::UserDeleteLogin
            // Nobody asked but the clock, which goes on.
            | Step::ExpireCommit => Kept::Yes,
        }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} kill {:?}", self.name(), self.kill)
    }
}

/// Every moment of every step that `wanted` operations have, under each of `kills`.
pub(crate) fn points(wanted: &[Operation], kills: &[Kill]) -> Vec<Point> {
    let mut all = Vec::new();
    for step in Step::ALL {
        for moment in Moment::ALL {
            for kill in kills {
                if wanted.contains(&operation(*step)) {
                    all.push(Point {
                        step: *step,
                        moment,
                        kill: *kill,
                    });
                }
            }
        }
    }
    all
}
