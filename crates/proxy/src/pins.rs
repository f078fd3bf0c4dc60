//! Why a session keeps its server connection between transactions.

/// Something of a session that no other server connection can be given.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash, PartialOrd, Ord)]
pub enum Pin {
    /// Temporary tables, views, functions, types.
    Temporary,
    /// LISTEN.
    Listen,
    /// Advisory locks of the session.
    AdvisoryLock,
    /// Cursors WITH HOLD.
    Cursor,
    /// SQL PREPARE.
    Prepare,
    /// Another role than that of the login.
    Role,
    /// `setseed`.
    Seed,
    /// LOAD, and other changes of the server process.
    Load,
    /// Settings that cannot be asked for or not be said again.
    Settings,
    /// `currval` and `lastval` are used here, and rows were written.
    Sequence,
    /// A statement that was prepared under settings of a transaction, or is too large to be kept.
    Statement,
}

impl Pin {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Temporary,
        Self::Listen,
        Self::AdvisoryLock,
        Self::Cursor,
        Self::Prepare,
        Self::Role,
        Self::Seed,
        Self::Load,
        Self::Settings,
        Self::Sequence,
        Self::Statement,
    ];

    /// As metrics call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Temporary => "temporary",
            Self::Listen => "listen",
            Self::AdvisoryLock => "advisory_lock",
            Self::Cursor => "cursor",
            Self::Prepare => "prepare",
            Self::Role => "role",
            Self::Seed => "seed",
            Self::Load => "load",
            Self::Settings => "settings",
            Self::Sequence => "sequence",
            Self::Statement => "statement",
        }
    }
}

/// A set of reasons.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Pins(u16);

impl Pins {
    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn contains(self, pin: Pin) -> bool {
        self.0 & (1 << pin as u16) != 0
    }

    pub(crate) fn add(&mut self, pin: Pin) {
        self.0 |= 1 << pin as u16;
    }

    pub(crate) fn remove(&mut self, pin: Pin) {
        self.0 &= !(1 << pin as u16);
    }

    pub(crate) fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = Pin> {
        Pin::ALL.into_iter().filter(move |pin| self.contains(*pin))
    }
}
