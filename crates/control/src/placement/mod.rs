//! Where a tenant's data lives, from the first statement on a node to the last.
//!
//! Owns: the rule that says what is to be done next ([`next_action`]), the passes that do it
//! ([`job`]), the pool of placements made ahead of demand ([`pool`]). Does not own: what a user
//! asked for; that is the state of the [`crate::tenant`].

pub(crate) mod job;
pub(crate) mod passes;
pub(crate) mod pool;
pub(crate) mod step;
pub(crate) mod store;
pub(crate) mod stuck;

use model::lifecycle::TenantState;

/// How far a placement got. The server may be one step ahead of this, never behind, because each
/// stage is written after its effect; the two that begin something dangerous are written before.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
pub(crate) enum Stage {
    /// Nothing is sure to be on the server.
    Planned,
    /// Its logins are there.
    Logins,
    /// Its database is there, closed, and a copy that still names its source.
    Copied,
    /// Its database is there, and closed.
    Closed,
    /// Its database is being opened: it may be open.
    Opening,
    /// Its database is open.
    Open,
    /// Its data is being removed; there is no way back.
    Dropping,
    /// Its database is gone.
    Dropped,
}

impl Stage {
    pub(crate) const ALL: [Self; 8] = [
        Self::Planned,
        Self::Logins,
        Self::Copied,
        Self::Closed,
        Self::Opening,
        Self::Open,
        Self::Dropping,
        Self::Dropped,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Logins => "logins",
            Self::Copied => "copied",
            Self::Closed => "closed",
            Self::Opening => "opening",
            Self::Open => "open",
            Self::Dropping => "dropping",
            Self::Dropped => "dropped",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.as_str() == text)
    }
}

/// Whom a placement is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
pub(crate) enum Owner {
    /// Whoever comes next.
    Pool,
    /// A tenant in this state.
    Tenant(TenantState),
    /// A deleted tenant whose data was kept long enough.
    Expired,
    /// Nobody: it is to be removed.
    Nobody,
    /// A branch that is being reset, or a database that is being restored: what it had before, should that fail.
    Kept,
    /// A restore drill. Nothing of it is ever opened.
    Drill,
}

/// What a placement's database begins as.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
pub(crate) enum Origin {
    /// The template.
    Template,
    /// A copy of another tenant's.
    Parent,
    /// What a backup holds.
    Backup,
}

/// One effect on a node, or the note that one begins. Each may be done twice.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
pub(crate) enum Action {
    /// Make the logins.
    CreateLogins,
    /// Make the database, closed.
    CreateDatabase,
    /// Write down that copying begins, and say so to the tenant.
    BeginCopy,
    /// Make the database, closed, as a copy of the parent's or of what a backup holds.
    Copy,
    /// Make what names the parent's logins out to its own.
    Adopt,
    /// Open it, and say so to the tenant.
    Open,
    /// Refuse and disconnect, and say so to the tenant.
    Close,
    /// Write down that the data will be removed; from here there is no undelete.
    BeginDrop,
    /// Remove the data.
    DropDatabase,
    /// Remove the logins, then the rows.
    DropLogins,
}

/// The next step for a placement, or `None` when it is where it should be.
///
/// A database on a node that no row mentions never gets here: it is reported to the operator. Data
/// that was dropped, or never made, is never made again for a tenant that was in use: that would
/// turn a loss into an empty database.
pub(crate) fn next_action(owner: Owner, origin: Origin, stage: Stage) -> Option<Action> {
    use TenantState as T;
    match (owner, stage) {
        (Owner::Pool | Owner::Drill | Owner::Tenant(T::Creating | T::Cloning), Stage::Planned) => {
            Some(Action::CreateLogins)
        }
        // It ends with it, and nobody owns what it made.
        (Owner::Drill, Stage::Logins) => Some(Action::Copy),
        // Never so far.
        (
            Owner::Drill,
            Stage::Copied
            | Stage::Closed
            | Stage::Opening
            | Stage::Open
            | Stage::Dropping
            | Stage::Dropped,
        ) => None,
        (Owner::Pool, Stage::Logins) => Some(Action::CreateDatabase),
        (Owner::Tenant(T::Creating | T::Cloning), Stage::Logins) => Some(match (origin, owner) {
            (Origin::Template, _) => Action::CreateDatabase,
            (Origin::Parent | Origin::Backup, Owner::Tenant(T::Cloning)) => Action::Copy,
            (Origin::Parent | Origin::Backup, _) => Action::BeginCopy,
        }),
        (Owner::Tenant(T::Creating | T::Cloning), Stage::Copied) => Some(Action::Adopt),
        (
            Owner::Pool | Owner::Tenant(T::Creating | T::Cloning | T::Active),
            Stage::Closed | Stage::Opening,
        ) => Some(Action::Open),
        // Open, but its tenant has not heard of it.
        (Owner::Tenant(T::Creating | T::Cloning), Stage::Open) => Some(Action::Open),
        (Owner::Pool | Owner::Tenant(T::Active), Stage::Open) => None,
        // Never made: entries of the pool are no copies.
        (Owner::Pool, Stage::Copied) => None,
        (Owner::Pool, Stage::Dropping) => Some(Action::DropDatabase),
        (Owner::Pool, Stage::Dropped) => Some(Action::DropLogins),

        (Owner::Tenant(T::Suspended), Stage::Opening | Stage::Open) => Some(Action::Close),
        // Also where there is nothing to close: the tenant has to hear that nothing is open.
        (Owner::Tenant(T::Disabling), _) => Some(Action::Close),
        // Deleted before its data was kept long enough, closed as it should be.
        (Owner::Tenant(T::Disabled) | Owner::Kept, Stage::Opening | Stage::Open) => {
            Some(Action::Close)
        }

        (
            Owner::Expired | Owner::Nobody,
            Stage::Planned
            | Stage::Logins
            | Stage::Copied
            | Stage::Closed
            | Stage::Opening
            | Stage::Open,
        ) => Some(Action::BeginDrop),
        (Owner::Expired | Owner::Nobody, Stage::Dropping) => Some(Action::DropDatabase),
        (Owner::Expired | Owner::Nobody, Stage::Dropped) => Some(Action::DropLogins),

        (
            Owner::Tenant(T::Suspended | T::Disabled) | Owner::Kept,
            Stage::Planned
            | Stage::Logins
            | Stage::Copied
            | Stage::Closed
            | Stage::Dropping
            | Stage::Dropped,
        )
        | (
            Owner::Tenant(T::Active),
            Stage::Planned | Stage::Logins | Stage::Copied | Stage::Dropping | Stage::Dropped,
        )
        | (Owner::Tenant(T::Creating | T::Cloning), Stage::Dropping | Stage::Dropped)
        | (Owner::Tenant(T::CreateFailed), _) => None,
    }
}

/// Whether a row contradicts itself: a tenant that should have data, whose data was dropped or was
/// never there. A human must look.
pub(crate) fn is_contradiction(owner: Owner, stage: Stage) -> bool {
    use TenantState as T;
    match (owner, stage) {
        (
            Owner::Tenant(T::Creating | T::Cloning | T::Active | T::Suspended),
            Stage::Dropping | Stage::Dropped,
        )
        | (Owner::Tenant(T::Active), Stage::Planned | Stage::Logins | Stage::Copied) => true,
        (_, _) => false,
    }
}

#[cfg(test)]
mod tests {
    use model::lifecycle::TenantEvent;

    use super::*;

    /// What doing it leads to: the model of `job::act`. `None`: the rows are gone.
    fn done(owner: Owner, stage: Stage, action: Action) -> Option<(Owner, Stage)> {
        let heard = |event| match owner {
            Owner::Tenant(state) => Owner::Tenant(state.after(event).unwrap_or(state)),
            other => other,
        };
        Some(match action {
            Action::Copy if owner == Owner::Drill => (Owner::Nobody, Stage::Closed),
            Action::CreateLogins => (owner, Stage::Logins),
            Action::CreateDatabase | Action::Adopt => (owner, Stage::Closed),
            Action::BeginCopy => (heard(TenantEvent::CopyBegun), stage),
            Action::Copy => (owner, Stage::Copied),
            Action::Open => (heard(TenantEvent::Provisioned), Stage::Open),
            Action::Close => (heard(TenantEvent::Closed), store::closed(stage)),
            Action::BeginDrop => (owner, Stage::Dropping),
            Action::DropDatabase => (owner, Stage::Dropped),
            Action::DropLogins => return None,
        })
    }

    const ORIGINS: [Origin; 3] = [Origin::Template, Origin::Parent, Origin::Backup];

    fn owners() -> Vec<Owner> {
        let mut all = vec![
            Owner::Pool,
            Owner::Expired,
            Owner::Nobody,
            Owner::Kept,
            Owner::Drill,
        ];
        all.extend(TenantState::ALL.map(Owner::Tenant));
        all
    }

    /// From any starting point, repeating passes rests within a few steps.
    #[test]
    fn every_start_comes_to_rest() {
        for origin in ORIGINS {
            for owner in owners() {
                for stage in Stage::ALL {
                    let mut at = Some((owner, stage));
                    for _ in 0..8 {
                        at =
                            at.and_then(|(owner, stage)| match next_action(owner, origin, stage) {
                                Some(action) => done(owner, stage, action),
                                None => Some((owner, stage)),
                            });
                    }
                    if let Some((owner, stage)) = at {
                        let next = next_action(owner, origin, stage);
                        assert_eq!(next, None, "from {owner:?} {origin:?} {stage:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_wanted_is_reached() {
        let rest_of = |origin, owner, stage| {
            let mut at = Some((owner, stage));
            while let Some((owner, stage)) = at
                && let Some(action) = next_action(owner, origin, stage)
            {
                at = done(owner, stage, action);
            }
            at
        };
        let rest = |owner, stage| rest_of(Origin::Template, owner, stage);
        for stage in [
            Stage::Planned,
            Stage::Logins,
            Stage::Copied,
            Stage::Closed,
            Stage::Opening,
            Stage::Open,
        ] {
            for state in [TenantState::Creating, TenantState::Cloning] {
                let active = Some((Owner::Tenant(TenantState::Active), Stage::Open));
                for origin in [Origin::Parent, Origin::Backup] {
                    assert_eq!(rest_of(origin, Owner::Tenant(state), stage), active);
                }
            }
            let kept = rest(Owner::Kept, stage);
            assert!(
                matches!(
                    kept,
                    Some((
                        _,
                        Stage::Planned | Stage::Logins | Stage::Copied | Stage::Closed
                    ))
                ),
                "{kept:?}"
            );
        }
        for stage in [
            Stage::Planned,
            Stage::Logins,
            Stage::Closed,
            Stage::Opening,
            Stage::Open,
        ] {
            let active = Some((Owner::Tenant(TenantState::Active), Stage::Open));
            assert_eq!(rest(Owner::Tenant(TenantState::Creating), stage), active);
            assert_eq!(rest(Owner::Pool, stage), Some((Owner::Pool, Stage::Open)));
            let disabled = rest(Owner::Tenant(TenantState::Disabling), stage);
            assert!(
                matches!(
                    disabled,
                    Some((
                        Owner::Tenant(TenantState::Disabled),
                        Stage::Planned | Stage::Logins | Stage::Closed
                    ))
                ),
                "{disabled:?}"
            );
        }
        for stage in Stage::ALL {
            assert_eq!(rest(Owner::Nobody, stage), None);
            assert_eq!(rest(Owner::Expired, stage), None);
        }
    }

    #[test]
    fn a_drill_leaves_nothing() {
        for stage in [Stage::Planned, Stage::Logins] {
            let mut at = Some((Owner::Drill, stage));
            while let Some((owner, stage)) = at
                && let Some(action) = next_action(owner, Origin::Backup, stage)
            {
                assert_ne!(action, Action::Open);
                at = done(owner, stage, action);
            }
            assert_eq!(at, None);
        }
    }

    /// Only an owner that was given up loses data.
    #[test]
    fn no_living_tenant_loses_data() {
        for state in TenantState::ALL {
            for stage in Stage::ALL {
                for origin in ORIGINS {
                    let action = next_action(Owner::Tenant(state), origin, stage);
                    assert!(
                        !matches!(
                            action,
                            Some(Action::BeginDrop | Action::DropDatabase | Action::DropLogins)
                        ),
                        "{state} {stage:?}"
                    );
                }
            }
        }
    }

    /// A tenant that was in use never gets an empty database in place of its own.
    #[test]
    fn lost_data_is_not_replaced_by_nothing() {
        for state in [
            TenantState::Active,
            TenantState::Suspended,
            TenantState::Disabled,
        ] {
            for stage in Stage::ALL {
                for origin in ORIGINS {
                    let action = next_action(Owner::Tenant(state), origin, stage);
                    assert!(
                        !matches!(
                            action,
                            Some(
                                Action::CreateLogins
                                    | Action::CreateDatabase
                                    | Action::BeginCopy
                                    | Action::Copy
                            )
                        ),
                        "{state} {stage:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn every_stage_reads_back() {
        for stage in Stage::ALL {
            assert_eq!(Stage::parse(stage.as_str()), Some(stage));
        }
    }
}
