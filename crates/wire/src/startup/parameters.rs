//! The parameters of a startup packet.

use std::collections::HashSet;

use super::{OptionError, Options, Protocol, StartupError};

/// A session is wanted: by whom, where, and how.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Startup {
    /// What the client asked for; major is 3, minor anything. See [`Self::spoken`].
    pub protocol: Protocol,
    /// Never empty. Not cut to 63 bytes: a longer name is nobody's.
    pub user: String,
    /// The user's name when the client gave none, as in PostgreSQL.
    pub database: String,
    /// The text of `options`, unread; see [`Self::options`].
    pub options: String,
    /// All others, in the order given; of several with one name (in any case) the last.
    /// PostgreSQL applies them after [`Self::options`], so these win.
    pub parameters: Vec<(String, String)>,
    /// Protocol extensions (`_pq_.…`) in the order given. We know none.
    pub extensions: Vec<(String, String)>,
    /// Whether replication is wanted.
    pub replication: Replication,
}

/// Value of the parameter `replication`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Replication {
    /// An ordinary session.
    No,
    /// Of the whole server.
    Physical,
    /// Of one database.
    Logical,
}

impl Startup {
    /// Reads what follows the version in a packet.
    pub(super) fn parse(protocol: Protocol, body: &[u8]) -> Result<Self, StartupError> {
        let (mut user, mut database, mut options) = (None, None, None);
        let (mut parameters, mut extensions) = (Vec::new(), Vec::new());
        let mut replication = Replication::No;

        let mut rest = body;
        loop {
            let (name, after) = text(rest)?;
            if name.is_empty() {
                // The terminator is the last byte of the packet. (PostgreSQL takes any byte in its
                // place, by accident.)
                if after.is_empty() {
                    break;
                }
                return Err(StartupError::Layout);
            }
            let (value, after) = text(after)?;
            rest = after;
            match name {
                b"user" => user = Some(utf8(value)?),
                b"database" => database = Some(utf8(value)?),
                b"options" => options = Some(utf8(value)?),
                b"replication" => replication = parse_replication(&utf8(value)?)?,
                name if name.starts_with(b"_pq_.") => extensions.push((utf8(name)?, utf8(value)?)),
                name if name.eq_ignore_ascii_case(b"application_name") => {
                    parameters.push((utf8(name)?, clean_ascii(value)));
                }
                name => parameters.push((utf8(name)?, utf8(value)?)),
            }
        }
        let user: String = user
            .filter(|user: &String| !user.is_empty())
            .ok_or(StartupError::NoUser)?;
        let database = database
            .filter(|database: &String| !database.is_empty())
            .unwrap_or_else(|| user.clone());
        Ok(Self {
            protocol,
            user,
            database,
            options: options.unwrap_or_default(),
            parameters: last_of_each(parameters),
            extensions,
            replication,
        })
    }

    /// The version the session speaks: what was asked for, or the newest when that is newer.
    /// A client that asks for 3.1, which does not exist, gets what 3.0 has, as from PostgreSQL.
    pub fn spoken(&self) -> Protocol {
        self.protocol.min(Protocol::LATEST)
    }

    /// Whether NegotiateProtocolVersion must go out first: the client asked for a newer version
    /// than there is, or for extensions. Its list of options is [`Self::extensions`].
    pub fn must_negotiate(&self) -> bool {
        self.protocol > Protocol::LATEST || !self.extensions.is_empty()
    }

    /// The settings in `options`.
    ///
    /// # Errors
    ///
    /// [`OptionError`] for the first word that is no setting.
    pub fn options(&self) -> Result<Options, OptionError> {
        Options::parse(&self.options)
    }

    /// The value of a parameter, its name in any case.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters
            .iter()
            .find(|(own, _)| own.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

/// Up to the next NUL, and what follows it.
fn text(bytes: &[u8]) -> Result<(&[u8], &[u8]), StartupError> {
    let end = memchr::memchr(0, bytes).ok_or(StartupError::Layout)?;
    Ok((&bytes[..end], &bytes[end + 1..]))
}

fn utf8(bytes: &[u8]) -> Result<String, StartupError> {
    str::from_utf8(bytes)
        .map(str::to_owned)
        .map_err(|_| StartupError::Encoding)
}

/// What PostgreSQL makes of an `application_name`: programs put their own name there, in whatever
/// encoding the file system had, and are let in anyway.
fn clean_ascii(bytes: &[u8]) -> String {
    let mut clean = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b' '..=b'~' => clean.push(char::from(*byte)),
            byte => clean.push_str(&format!("\\x{byte:02x}")),
        }
    }
    clean
}

fn last_of_each(mut parameters: Vec<(String, String)>) -> Vec<(String, String)> {
    let mut seen = HashSet::with_capacity(parameters.len());
    parameters.reverse();
    parameters.retain(|(name, _)| seen.insert(name.to_ascii_lowercase()));
    parameters.reverse();
    parameters
}

fn parse_replication(value: &str) -> Result<Replication, StartupError> {
    if value == "database" {
        return Ok(Replication::Logical);
    }
    match parse_bool(value) {
        Some(true) => Ok(Replication::Physical),
        Some(false) => Ok(Replication::No),
        None => Err(StartupError::Replication(value.to_owned())),
    }
}

/// PostgreSQL's `parse_bool`: any case, any prefix that is not ambiguous.
fn parse_bool(value: &str) -> Option<bool> {
    let value = value.to_ascii_lowercase();
    let begins = |word: &str, least: usize| value.len() >= least && word.starts_with(&value);
    if begins("true", 1) || begins("yes", 1) || begins("on", 2) || value == "1" {
        Some(true)
    } else if begins("false", 1) || begins("no", 1) || begins("off", 2) || value == "0" {
        Some(false)
    } else {
        None
    }
}
