//! The states a tenant goes through, as users see them.

use std::fmt;

/// State of a tenant, in the words of its public surface.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
pub enum TenantState {
    /// Its database is being made, or opened again after an undelete.
    Creating,
    /// Its database is being copied from its parent's.
    Cloning,
    /// It can be used.
    Active,
    /// It keeps its data and refuses connections.
    Suspended,
    /// It was deleted; its sessions are being ended.
    Disabling,
    /// It was deleted; its data is kept until the retention ends.
    Disabled,
    /// Its database could not be made. The reason is in the row.
    CreateFailed,
}

/// What happens to a tenant.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
pub enum TenantEvent {
    /// The database is there and open.
    Provisioned,
    /// It could not be made.
    ProvisionFailed,
    /// Copying its parent's data begins.
    CopyBegun,
    /// Copy its parent's data anew.
    Reset,
    /// That did not work; it has again what it had.
    ResetFailed,
    /// Try to make it again.
    Retry,
    /// Refuse connections.
    Suspend,
    /// Accept them again.
    Resume,
    /// Delete. Always allowed, and allowed twice: clients retry deletes.
    Delete,
    /// No session is left and none can begin.
    Closed,
    /// Take the delete back.
    Undelete,
    /// The same, of one that the operator had suspended and nobody resumed.
    UndeleteSuspended,
}

/// The event is not allowed in that state; nothing changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a database that is {state} cannot {event:?}")]
pub struct Refused {
    /// Where it was, and still is.
    pub state: TenantState,
    /// What was asked.
    pub event: TenantEvent,
}

impl TenantState {
    /// All of them, in the order of a life.
    pub const ALL: [Self; 7] = [
        Self::Creating,
        Self::Cloning,
        Self::Active,
        Self::Suspended,
        Self::Disabling,
        Self::Disabled,
        Self::CreateFailed,
    ];

    /// The state after `event`.
    ///
    /// # Errors
    ///
    /// [`Refused`], with nothing changed.
    pub fn after(self, event: TenantEvent) -> Result<Self, Refused> {
        use TenantEvent as On;
        Ok(match (self, event) {
            (Self::Creating | Self::Cloning, On::Provisioned) => Self::Active,
            (Self::Creating | Self::Cloning, On::ProvisionFailed) => Self::CreateFailed,
            (Self::Creating | Self::Cloning, On::CopyBegun) => Self::Cloning,
            (Self::Active, On::Reset) => Self::Creating,
            (Self::Creating | Self::Cloning, On::ResetFailed) => Self::Active,
            (Self::CreateFailed, On::Retry) => Self::Creating,
            (Self::Active, On::Suspend) => Self::Suspended,
            (Self::Suspended, On::Resume) => Self::Active,
            (Self::Disabling, On::Closed) => Self::Disabled,
            // The pass that makes databases also opens this one; it never makes a second.
            (Self::Disabled, On::Undelete) => Self::Creating,
            (Self::Disabled, On::UndeleteSuspended) => Self::Suspended,
            (Self::Disabled, On::Delete) => Self::Disabled,
            (_, On::Delete) => Self::Disabling,
            (state, event) => return Err(Refused { state, event }),
        })
    }

    /// As the API and the catalog spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "CREATING",
            Self::Cloning => "CLONING",
            Self::Active => "ACTIVE",
            Self::Suspended => "SUSPENDED",
            Self::Disabling => "DISABLING",
            Self::Disabled => "DISABLED",
            Self::CreateFailed => "CREATE_FAILED",
        }
    }

    /// Reads [`Self::as_str`] back; `None` for a word that is no state.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// Whether the tenant's name is taken. A deleted one frees it at once.
    pub fn holds_name(self) -> bool {
        !matches!(self, Self::Disabling | Self::Disabled)
    }
}

impl fmt::Display for TenantState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: [TenantEvent; 12] = [
        TenantEvent::Provisioned,
        TenantEvent::ProvisionFailed,
        TenantEvent::CopyBegun,
        TenantEvent::Reset,
        TenantEvent::ResetFailed,
        TenantEvent::Retry,
        TenantEvent::Suspend,
        TenantEvent::Resume,
        TenantEvent::Delete,
        TenantEvent::Closed,
        TenantEvent::Undelete,
        TenantEvent::UndeleteSuspended,
    ];

    #[test]
    fn transition_table() {
        // columns: Provisioned ProvisionFailed CopyBegun Reset ResetFailed Retry Suspend Resume Delete
        // Closed Undelete UndeleteSuspended
        let table = "
Creating     Active CreateFailed Cloning .        Active .        .         .      Disabling .        .        .
Cloning      Active CreateFailed Cloning .        Active .        .         .      Disabling .        .        .
Active       .      .            .       Creating .      .        Suspended .      Disabling .        .        .
Suspended    .      .            .       .        .      .        .         Active Disabling .        .        .
Disabling    .      .            .       .        .      .        .         .      Disabling Disabled .        .
Disabled     .      .            .       .        .      .        .         .      Disabled  .        Creating Suspended
CreateFailed .      .            .       .        .      Creating .         .      Disabling .        .        .";
        for (line, state) in table.trim().lines().zip(TenantState::ALL) {
            let mut words = line.split_whitespace();
            assert_eq!(words.next().unwrap(), format!("{state:?}"));
            for event in EVENTS {
                let want = words.next().unwrap();
                let got = state
                    .after(event)
                    .map_or(".".to_owned(), |next| format!("{next:?}"));
                assert_eq!(got, want, "{state:?} after {event:?}");
            }
        }
    }

    #[test]
    fn every_state_reads_back() {
        for state in TenantState::ALL {
            assert_eq!(TenantState::parse(state.as_str()), Some(state));
        }
        assert_eq!(TenantState::parse("active"), None);
    }
}
