//! Settings that a client sends with its startup packet.
//!
//! Owns: which are applied, which are ours to answer, which are refused, and the SQL that applies
//! them. They never reach the server's startup packet: there, a few of them would take effect
//! before anybody's rights are checked.

use std::rc::Rc;

use model::{Literal, route::PoolMode};
use wire::{
    message::build,
    queue::Request,
    startup::{Replication, Startup},
};

use crate::{
    error::Refusal,
    server::{ExchangeError, Parameters, Server},
    state::{State, States, TEXT_SEARCH},
    waiting,
};

/// The startup setting that says how the session is lent server connections.
const POOL_MODE: &str = "tenantry.pool_mode";

/// Decide whose rights a session has; that was settled by the login.
const REFUSED: [&str; 2] = ["role", "session_authorization"];

/// What is left to be set on a server, in this order.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    wanted: Vec<(String, String)>,
    /// Never sent to a server; see ARCHITECTURE.md, "What must hold".
    pub(crate) application_name: Option<String>,
    /// How the session wants to be lent server connections.
    pub(crate) pool_mode: Option<PoolMode>,
}

impl Settings {
    /// Reads them from a startup packet.
    ///
    /// # Errors
    ///
    /// [`Refusal::Options`], [`Refusal::Setting`], [`Refusal::Replication`].
    pub(crate) fn of(startup: &Startup) -> Result<Self, Refusal> {
        if startup.replication != Replication::No {
            return Err(Refusal::Replication);
        }
        let mut settings = Self::default();
        let options = startup.options()?;
        for (name, value) in options.settings.iter().chain(&startup.parameters) {
            if REFUSED.iter().any(|own| own.eq_ignore_ascii_case(name)) {
                return Err(Refusal::Setting { name: name.clone() });
            }
            if name.eq_ignore_ascii_case(POOL_MODE) {
                let mode = value.parse();
                settings.pool_mode = Some(mode.map_err(|_| Refusal::PoolMode)?);
                continue;
            }
            if name.eq_ignore_ascii_case("application_name") {
                settings.application_name = Some(value.clone());
                continue;
            }
            settings
                .wanted
                .retain(|(own, _)| !own.eq_ignore_ascii_case(name));
            settings.wanted.push((name.clone(), value.clone()));
        }
        // The texts are UTF-8 as long as nothing else was said.
        settings
            .wanted
            .sort_by_key(|(name, _)| name.eq_ignore_ascii_case("client_encoding"));
        Ok(settings)
    }

    /// Drops what a server has anyway.
    pub(crate) fn subtract(&mut self, parameters: &Parameters) {
        self.wanted.retain(|(name, value)| {
            !parameters.iter().any(|(own, has)| {
                own.eq_ignore_ascii_case(name.as_bytes()) && is_same(name, value, has)
            })
        });
    }

    /// Them as a value. `parameters`: what the server says, once it has them.
    pub(crate) fn as_state(&self, parameters: &Parameters, states: &States) -> Rc<State> {
        states.of(self.wanted.iter().map(|(name, value)| {
            // As the server says it, where it does: `ISO` alone is no DateStyle.
            let reported = parameters
                .iter()
                .find(|(own, _)| own.eq_ignore_ascii_case(name.as_bytes()))
                .and_then(|(_, value)| str::from_utf8(value).ok());
            let value = reported.unwrap_or(value);
            (name.to_ascii_lowercase().into(), value.into())
        }))
    }

    /// Whether nothing has to be set.
    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.wanted.is_empty()
    }

    /// Whether the server would accept all of them for certain, so that they can wait until there
    /// is one.
    pub(crate) fn are_surely_valid(&self) -> bool {
        self.wanted.iter().all(|(name, value)| {
            name.eq_ignore_ascii_case("extra_float_digits")
                && value.parse().is_ok_and(|n: i32| (-15..=3).contains(&n))
        })
    }

    /// Whether the client wants to hear of a wait at login.
    pub(crate) fn wants_notices(&self) -> bool {
        let mut wanted = self.wanted.iter();
        let least = wanted.find(|(name, _)| name.eq_ignore_ascii_case("client_min_messages"));
        waiting::wants_notices(least.map(|(_, value)| value.as_str()))
    }

    /// Sets them.
    ///
    /// # Errors
    ///
    /// [`ExchangeError::Said`] with what the server says to the first it does not take.
    pub(crate) async fn apply(&mut self, server: &mut Server) -> Result<(), ExchangeError> {
        if self.wanted.is_empty() {
            return Ok(());
        }
        let mut bytes = Vec::new();
        for (name, value) in &self.wanted {
            // The value stands for itself, as in a startup packet: SET would quote lists as one.
            let sql = format!(
                "SELECT pg_catalog.set_config({}, {}, false)",
                Literal(name),
                Literal(value)
            );
            build::query(&sql, &mut bytes);
        }
        server.used = true;
        let requests = vec![Request::Query; self.wanted.len()];
        server.exchange(&bytes, &requests).await?;
        let mut wanted = self.wanted.iter_mut();
        if let Some((_, value)) = wanted.find(|(name, _)| name.eq_ignore_ascii_case(TEXT_SEARCH)) {
            // PostgreSQL has written it anew: with its schema, and with quotes or without.
            let show = format!("SELECT pg_catalog.current_setting('{TEXT_SEARCH}')");
            let rows = server.rows(&[&show], 1).await?;
            let written = rows.into_iter().flatten().flatten().next();
            if let Some(written) = written.and_then(|text| String::from_utf8(text).ok()) {
                *value = written;
            }
        }
        Ok(())
    }
}

fn is_same(name: &str, wanted: &str, has: &[u8]) -> bool {
    let Ok(has) = str::from_utf8(has) else {
        return false;
    };
    if name.eq_ignore_ascii_case("client_encoding") {
        // As PostgreSQL compares them: `'utf-8'` is UTF8.
        let clean = |text: &str| -> String {
            text.chars()
                .filter(char::is_ascii_alphanumeric)
                .map(|c| c.to_ascii_lowercase())
                .collect()
        };
        return clean(wanted) == clean(has) || (clean(wanted) == "unicode" && clean(has) == "utf8");
    }
    if name.eq_ignore_ascii_case("datestyle") {
        // `ISO` keeps the order that is in force.
        return has.eq_ignore_ascii_case(wanted)
            || has
                .split_once(", ")
                .is_some_and(|(style, _)| style.eq_ignore_ascii_case(wanted));
    }
    has == wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(list: &[(&str, &str)]) -> Parameters {
        list.iter()
            .map(|(name, value)| (name.as_bytes().into(), value.as_bytes().into()))
            .collect()
    }

    fn settings(list: &[(&str, &str)]) -> Settings {
        Settings {
            wanted: list
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            application_name: None,
            pool_mode: None,
        }
    }

    #[test]
    fn what_the_server_has_is_not_set_again() {
        let has = parameters(&[
            ("client_encoding", "UTF8"),
            ("DateStyle", "ISO, MDY"),
            ("TimeZone", "Etc/UTC"),
        ]);
        for same in [
            ("client_encoding", "'utf-8'"),
            ("client_encoding", "UNICODE"),
            ("datestyle", "ISO"),
            ("DateStyle", "iso, mdy"),
            ("timezone", "Etc/UTC"),
        ] {
            let mut settings = settings(&[same]);
            settings.subtract(&has);
            assert!(settings.is_empty(), "{same:?}");
        }
        for other in [
            ("client_encoding", "LATIN1"),
            ("datestyle", "ISO, DMY"),
            ("timezone", "Europe/Berlin"),
            ("work_mem", "1MB"),
        ] {
            let mut settings = settings(&[other]);
            settings.subtract(&has);
            assert!(!settings.is_empty(), "{other:?}");
        }
    }

    #[test]
    fn only_what_cannot_fail_may_wait() {
        assert!(settings(&[("extra_float_digits", "3")]).are_surely_valid());
        for list in [
            [("extra_float_digits", "4")],
            [("extra_float_digits", "x")],
            [("TimeZone", "Nowhere")],
        ] {
            assert!(!settings(&list).are_surely_valid(), "{list:?}");
        }
    }
}
