//! What has been on its way for too long.
//!
//! Owns: finding tenants that have been in a state in which nobody leaves them for longer than
//! `stuck_after`, and what is done about each ([`remedy`]): most often it is driven on, since it was
//! forgotten; what nothing can drive on fails, and its owner reads why. Does not own: the steps
//! themselves, nor their failures ([`super::job`]), which are counted there and end in the same states.
//!
//! In an orderly life nothing is found here but branches whose turn to be copied did not come in the time
//! that was asked for. What else is found was left by a mistake, or by a hand in the catalog.

use std::{sync::Arc, time::Duration};

use model::{Pid, TenantId, lifecycle::TenantState};

use super::{Origin, Owner, Stage, next_action, store};
use crate::{api::App, branch::copy::TOO_LONG, catalog::CatalogError};

/// Between two looks; shorter when `stuck_after` is.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Tenants in one look. More wait for the next one.
const LOOK_MAX: i64 = 100;

/// A tenant that is on its way.
#[derive(Clone, Debug)]
pub(crate) struct UnderWay {
    pub(crate) tenant: TenantId,
    pub(crate) pid: Pid,
    pub(crate) state: TenantState,
    pub(crate) stage: Stage,
    pub(crate) is_branch: bool,
    pub(crate) care: Care,
    /// For more than twice as long as it may be, and not just driven on; of a branch, longer than its user
    /// wants to wait.
    pub(crate) is_late: bool,
}

/// Who looks after it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Care {
    /// Nobody: no pass is due to look at it.
    Nobody,
    /// A pass will look at it, and did so already if a step of it failed.
    Due,
    /// Some process works on it now, and says so again and again.
    Working,
}

/// What is done about it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Remedy {
    /// It is looked at by the next pass.
    Drive,
    /// It fails, and this is why.
    Fail(&'static str),
    /// It fails: it waited as long as it may.
    GiveUp,
    /// Whoever has it goes on.
    Wait,
}

/// What is to be done about a tenant that has been in its state for longer than it may be.
pub(crate) fn remedy(state: TenantState, stage: Stage, care: Care, is_late: bool) -> Remedy {
    match state {
        TenantState::Creating | TenantState::Cloning => {
            // Whether there is a step does not depend on what it copies.
            let next = next_action(Owner::Tenant(state), Origin::Template, stage);
            match (next, care, is_late) {
                (_, Care::Working, _) => Remedy::Wait,
                (None, ..) => Remedy::Fail("its data is not there any more; delete it"),
                (Some(_), Care::Nobody, _) => Remedy::Drive,
                (Some(_), Care::Due, false) => Remedy::Wait,
                (Some(_), Care::Due, true) => Remedy::GiveUp,
            }
        }
        // Nothing is lost while it closes, and it can always be closed in the end.
        TenantState::Disabling => match care {
            Care::Nobody => Remedy::Drive,
            Care::Due | Care::Working => Remedy::Wait,
        },
        TenantState::Active
        | TenantState::Suspended
        | TenantState::Disabled
        | TenantState::CreateFailed => Remedy::Wait,
    }
}

/// Looks for ever.
pub(crate) async fn run(app: Arc<App>) {
    let every = LOOK_EVERY.min(app.config.limits.stuck_after / 2);
    loop {
        tokio::time::sleep(every).await;
        if let Err(error) = look(&app).await {
            error.tell("stuck");
        }
    }
}

async fn look(app: &App) -> Result<(), CatalogError> {
    let bound = app.config.limits.stuck_after;
    let mut client = app.catalog.get().await?;
    for found in store::under_way(&client, bound, LOOK_MAX).await? {
        let why = match remedy(found.state, found.stage, found.care, found.is_late) {
            Remedy::Wait => continue,
            Remedy::Drive => {
                store::touch(&client, &found.pid).await?;
                app.passes.wake();
                tracing::warn!(tenant = %found.tenant, state = %found.state, stage = ?found.stage, "a database was stuck; driving it on");
                continue;
            }
            Remedy::Fail(why) => why,
            Remedy::GiveUp if found.is_branch => TOO_LONG,
            Remedy::GiveUp => "it could not be made in time; resume it to try again",
        };
        let transaction = client.transaction().await?;
        if !store::is_still_under_way(&transaction, &found.tenant, bound).await? {
            continue;
        }
        let change = store::fail_tenant(&transaction, &found.pid, why).await?;
        transaction.commit().await?;
        let Some(change) = change else { continue };
        app.changes.announce(change);
        app.passes.wake();
        app.passes.changed.notify_waiters();
        if why == TOO_LONG {
            // Its user is told, and may try again; nobody else has to look.
            tracing::warn!(branch = %found.tenant, "a branch was not made: its time was over before its turn came");
        } else {
            tracing::error!(tenant = %found.tenant, state = %found.state, stage = ?found.stage, why, "a database was stuck; it failed");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CARES: [Care; 3] = [Care::Nobody, Care::Due, Care::Working];

    /// Whatever is found, either somebody has it, or it is driven, or it fails.
    #[test]
    fn nothing_is_left_to_itself() {
        for state in [
            TenantState::Creating,
            TenantState::Cloning,
            TenantState::Disabling,
        ] {
            for stage in Stage::ALL {
                for is_late in [false, true] {
                    let remedy = remedy(state, stage, Care::Nobody, is_late);
                    assert_ne!(remedy, Remedy::Wait, "{state} {stage:?}");
                    let can_go_on =
                        next_action(Owner::Tenant(state), Origin::Template, stage).is_some();
                    assert_eq!(remedy == Remedy::Drive, can_go_on, "{state} {stage:?}");
                }
            }
        }
    }

    /// A state that may last is never touched, and neither is what somebody works on.
    #[test]
    fn what_may_stay_stays() {
        for state in TenantState::ALL {
            let may_last = !matches!(
                state,
                TenantState::Creating | TenantState::Cloning | TenantState::Disabling
            );
            for stage in Stage::ALL {
                for care in CARES {
                    if may_last || care == Care::Working {
                        let remedy = remedy(state, stage, care, true);
                        assert_eq!(remedy, Remedy::Wait, "{state} {stage:?} {care:?}");
                    }
                }
            }
        }
    }
}
