//! What a session does while its tenant is held.
//!
//! Owns: saying what a session keeps a server connection for, parting from one that is kept for LISTEN
//! only, and what it needs to listen again. Does not own: when (`hold`), or taking a server connection
//! (`lend`).
//!
//! Nothing that is notified is lost: when a session parts, no transaction runs in any process, a commit
//! reaches the listening server process before it is acknowledged, and that process says all of it
//! before it says that it is ready. Nobody begins a transaction before all listen again.

use std::{
    rc::Rc,
    task::{Context, Poll},
};

use model::route::PoolMode;
use statement::Effects;
use tokio::time::timeout;

use crate::{
    error::Refusal,
    handle::Handle,
    lend::learn,
    pins::{Pin, Pins},
    prepared::Unnamed,
    relay::Turn,
    server::{ExchangeError, Server},
    session::{Ended, Session},
    stats::add,
    worker::{SCRATCH, Worker},
};

/// Channels that one session is carried over with. Who listens on more is counted as pinned.
const CHANNELS_MAX: usize = 1_000;

/// Of what a client says while it is held.
const PARKED_MAX: usize = SCRATCH / 2;

/// What a hold wants of a session, and what it was told.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Carry {
    #[default]
    No,
    /// Say what you keep.
    Tell,
    /// It listens, and that is all.
    Listens,
    /// It cannot part.
    Keeps(Why),
    /// Part.
    Part,
    /// It has parted, and listens nowhere.
    Parted,
    /// Listen again.
    Return,
}

/// Why a session cannot part from its server connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Why {
    /// It has it from its first statement to its end, and nobody tracks what is on it.
    Mode,
    /// An unnamed statement lives there that cannot be made again.
    Statement,
    /// [`Handle::pins`].
    Pins,
}

impl Carry {
    /// Whether its server connection was taken from it.
    pub(crate) fn is_out(self) -> bool {
        matches!(self, Self::Parted | Self::Return)
    }
}

impl Handle {
    /// Has the session do it as soon as it can.
    pub(crate) fn wish(&self, carry: Carry) {
        self.carry.set(carry);
        self.wake();
    }
}

impl Session {
    /// What a hold wants now.
    #[cold]
    pub(crate) fn heeds_hold(&self) -> Option<Turn> {
        let is_served = self.server.is_some();
        match self.handle.carry.get() {
            Carry::Tell | Carry::Part if is_served && self.is_at_rest() => Some(Turn::Hold),
            Carry::Return if !is_served => Some(Turn::NeedsServer),
            _ => None,
        }
    }

    /// Keeps what the client says until the hold is over, to a limit, so that one that leaves is noticed:
    /// it is in nobody's way.
    #[cold]
    pub(crate) fn overhear(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
    ) -> Result<(), Ended> {
        while self.parked.len() < PARKED_MAX {
            let room = PARKED_MAX - self.parked.len();
            match self.client.poll_read(cx, &mut scratch[..room]) {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => return Err(Ended::Left),
                Poll::Ready(Ok(read)) => {
                    let counters = &self.handle.about.counters;
                    add(&counters.bytes_from_clients, read as u64);
                    self.parked.extend_from_slice(&scratch[..read]);
                    self.is_parked_unseen = true;
                }
                Poll::Ready(Err(_)) => return Err(Ended::Lost),
            }
        }
        Ok(())
    }

    /// Does it.
    pub(crate) async fn heed_hold(&mut self, worker: &Rc<Worker>) -> Result<(), Ended> {
        match self.handle.carry.get() {
            Carry::Tell => self.tell(worker).await,
            Carry::Part => self.part(worker).await,
            _ => Ok(()),
        }
    }

    async fn tell(&mut self, worker: &Rc<Worker>) -> Result<(), Ended> {
        let handle = self.handle.clone();
        if self.lending.mode == PoolMode::Session {
            handle.carry.set(Carry::Keeps(Why::Mode));
            return Ok(());
        }
        self.ask(worker).await?;
        let carry = if self.server.is_none() {
            Carry::No
        } else if self.lending.prepared.unnamed == Unnamed::There {
            Carry::Keeps(Why::Statement)
        } else if self.lending.pins().is_empty() {
            // It was about to begin something, which waits now.
            self.is_parked_unseen = !self.parked.is_empty();
            self.release(worker);
            Carry::No
        } else if self.listens_only() {
            Carry::Listens
        } else {
            Carry::Keeps(Why::Pins)
        };
        handle.carry.set(carry);
        Ok(())
    }

    fn listens_only(&self) -> bool {
        let mut listen = Pins::default();
        listen.add(Pin::Listen);
        self.lending.pins() == listen
    }

    /// The last that is asked on the server connection: what was notified before comes with the answer.
    async fn part(&mut self, worker: &Rc<Worker>) -> Result<(), Ended> {
        let (handle, tenant) = (self.handle.clone(), self.tenant.clone());
        let (Some(server), lending) = (self.server.as_deref_mut(), &mut self.lending) else {
            return Ok(());
        };
        // Asked, whatever is known.
        lending.effects |= Effects::LISTEN;
        let asked = async {
            learn(server, lending, &tenant, false).await?;
            channels(server).await
        };
        let limit = worker.config.limits.reset_time_max;
        let asked = tokio::select! {
            asked = timeout(limit, asked) => asked,
            why = handle.ended() => return Err(Ended::Refused(why)),
        };
        let mut out = std::mem::take(&mut server.overheard);
        lending.tell(&server.parameters, &mut out);
        let is_at_rest = server.is_at_rest();
        let channels = match asked {
            Ok(Ok(channels)) => channels,
            Ok(Err(ExchangeError::Said(_))) => None,
            Ok(Err(ExchangeError::Broken)) | Err(_) => {
                return Err(Ended::Refused(Refusal::ServerLost));
            }
        };
        match channels.filter(|_| is_at_rest && self.listens_only()) {
            Some(channels) => {
                self.lending.listens = channels;
                handle.carry.set(Carry::Parted);
                self.release(worker);
            }
            None => {
                self.count_pins(worker);
                handle.carry.set(Carry::Keeps(Why::Pins));
            }
        }
        self.say(&out).await
    }

    /// It has a server connection, and listens.
    pub(crate) fn is_back(&mut self) {
        self.lending.listens = Box::default();
        self.handle.pins.set(self.lending.pins());
        self.handle.carry.set(Carry::No);
    }
}

/// Statements that listen to what is listened to now. `None`: too many, or not UTF-8.
async fn channels(server: &mut Server) -> Result<Option<Box<[String]>>, ExchangeError> {
    const SQL: &str = "SELECT pg_catalog.quote_ident(pg_catalog.pg_listening_channels())";
    let rows = match server.rows(&[SQL], CHANNELS_MAX).await {
        Err(ExchangeError::Said(said)) if said.code == "54000" => return Ok(None),
        rows => rows?,
    };
    let listen = |mut row: Vec<Option<Vec<u8>>>| {
        let name = String::from_utf8(row.pop()??).ok()?;
        Some(format!("LISTEN {name}"))
    };
    Ok(rows.into_iter().map(listen).collect())
}
