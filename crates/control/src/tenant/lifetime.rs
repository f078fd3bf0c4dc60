//! When a tenant ends by itself.
//!
//! Owns: what a user says of it ([`Lifetime`]), and the pass that deletes what has expired. The time is
//! the catalog's: nothing here looks at a clock of this process, which may be another one tomorrow.
//! Does not own: the delete itself ([`super::change`]).

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use deadpool_postgres::GenericClient;
use serde::{Deserialize, Deserializer};

use super::{change, store};
use crate::{
    api::{
        App,
        error::{ApiError, ApiResult, ErrorCode},
        extract::quoted,
    },
    catalog::{self, CatalogError},
};

/// The longest lifetime. Ten years, as the retention: more is a mistake in the unit.
pub(crate) const LIFETIME_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Between two looks, since another process may have set an earlier end than the one we wait for.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Before what is due and held by somebody else is looked at again.
const HELD_PAUSE: Duration = Duration::from_millis(100);

/// How long a tenant lives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Lifetime {
    /// Until somebody deletes it.
    Never,
    /// So long from the moment at which this is written down.
    For(Duration),
    /// Until then.
    Until(DateTime<Utc>),
}

impl Lifetime {
    /// `never`, a time like `2h`, or a moment (RFC 3339).
    ///
    /// # Errors
    ///
    /// [`ErrorCode::InvalidField`].
    pub(crate) fn parse(text: &str) -> ApiResult<Self> {
        let text = text.trim();
        if text.eq_ignore_ascii_case("never") {
            return Ok(Self::Never);
        }
        if let Ok(moment) = DateTime::parse_from_rfc3339(text) {
            return Ok(Self::Until(moment.to_utc()));
        }
        let time = parse_time("expires", text)?;
        if time > LIFETIME_MAX {
            return Err(too_far());
        }
        Ok(Self::For(time))
    }

    /// What stands in the query, or else in the body.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::InvalidField`]; also when both say something.
    pub(crate) fn of_request(query: Option<&str>, body: Option<&str>) -> ApiResult<Self> {
        match (query, body) {
            (Some(_), Some(_)) => Err(ApiError::with(
                ErrorCode::InvalidField,
                "expires stands in the query string and in the body",
            )),
            (Some(text), None) | (None, Some(text)) => Self::parse(text),
            (None, None) => Ok(Self::Never),
        }
    }

    /// The moment that is meant, by the catalog's clock.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::InvalidField`] when it is not in the future, or too far in it.
    pub(crate) async fn ends_at(
        self,
        client: &impl GenericClient,
    ) -> ApiResult<Option<DateTime<Utc>>> {
        let (moment, time) = match self {
            Self::Never => return Ok(None),
            Self::For(time) => (None, Some(time.as_secs_f64())),
            Self::Until(moment) => (Some(moment), None),
        };
        let row = catalog::query_one(
            client,
            "SELECT at, at > now(), at <= now() + make_interval(secs => $3)
             FROM (SELECT coalesce($1::timestamptz, now() + make_interval(secs => $2::float8)) AS at)
                 AS wanted",
            &[&moment, &time, &LIFETIME_MAX.as_secs_f64()],
        )
        .await?;
        match (row.get(1), row.get(2)) {
            (true, true) => Ok(Some(row.get(0))),
            (true, false) => Err(too_far()),
            (false, _) => Err(ApiError::with(
                ErrorCode::InvalidField,
                "expires: a database cannot expire in the past",
            )
            .hint("name a later moment, or a time from now like 2h")),
        }
    }
}

fn too_far() -> ApiError {
    ApiError::with(
        ErrorCode::InvalidField,
        "expires: no database may expire more than ten years from now",
    )
    .hint("say never, or leave it out, for one that is kept until it is deleted")
}

/// A time of a request.
///
/// # Errors
///
/// [`ErrorCode::InvalidField`].
pub(crate) fn parse_time(field: &str, text: &str) -> ApiResult<Duration> {
    humantime::parse_duration(text).map_err(|_| {
        ApiError::with(
            ErrorCode::InvalidField,
            format!("{field}: {} is not a time", quoted(text)),
        )
        .hint(match field {
            "expires" => "write 30s, 15m, 2h or 7d, a moment like 2030-01-31T12:00:00Z, or never",
            _ => "write it like 30s, 15m, 2h or 7d",
        })
    })
}

/// Tells a field that is null from one that is not there.
pub(super) fn given<'de, D: Deserializer<'de>>(
    field: D,
) -> Result<Option<Option<String>>, D::Error> {
    Option::<String>::deserialize(field).map(Some)
}

/// Deletes what has expired, for ever. While the catalog is away nothing expires in it, and logins
/// are refused by what proxies know.
pub(crate) async fn run(app: Arc<App>) {
    loop {
        let wait = match pass(&app).await {
            Ok(wait) => wait.min(LOOK_EVERY),
            Err(error) => {
                error.tell("lifetimes");
                LOOK_EVERY
            }
        };
        tokio::time::sleep(wait).await;
    }
}

/// Returns how long there is nothing to do.
async fn pass(app: &App) -> Result<Duration, CatalogError> {
    loop {
        let next = store::next_end(&app.catalog.get().await?).await?;
        match next {
            None => return Ok(LOOK_EVERY),
            Some(Duration::ZERO) => {
                if !change::expire_one(app).await? {
                    return Ok(HELD_PAUSE);
                }
            }
            Some(left) => return Ok(left),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifetime_is_a_time_a_moment_or_never() {
        let seconds = |text: &str| match Lifetime::parse(text).unwrap() {
            Lifetime::For(time) => time.as_secs(),
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(seconds("90s"), 90);
        assert_eq!(seconds(" 2h "), 7200);
        assert_eq!(seconds("1d 12h"), 36 * 3600);
        assert_eq!(Lifetime::parse("never").unwrap(), Lifetime::Never);
        assert_eq!(
            Lifetime::parse("2030-01-31T13:00:00+01:00").unwrap(),
            Lifetime::parse("2030-01-31T12:00:00Z").unwrap()
        );
        for wrong in [
            "",
            "soon",
            "2",
            "-1h",
            "2h ago",
            "2030-01-31",
            "11y",
            "infinity",
        ] {
            let error = Lifetime::parse(wrong).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidField, "{wrong}");
        }
    }

    #[test]
    fn one_place_says_how_long() {
        assert_eq!(Lifetime::of_request(None, None).unwrap(), Lifetime::Never);
        for (query, body) in [(Some("1h"), None), (None, Some("1h"))] {
            let lifetime = Lifetime::of_request(query, body).unwrap();
            assert_eq!(lifetime, Lifetime::For(Duration::from_secs(3600)));
        }
        assert!(Lifetime::of_request(Some("1h"), Some("1h")).is_err());
    }
}
