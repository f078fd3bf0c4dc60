//! Sessions through the proxy's door.
//!
//! Owns: how a session begins, how many there are at once, and how long one may take. Does not own:
//! what is done in it (`work`).

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use model::{LoginName, Secret, route::Visit};
use tokio::{
    net::UnixStream,
    sync::{Semaphore, SemaphorePermit},
};

use super::{
    client::{Login, Outcome, Room, Session, SqlError},
    render::Types,
    work::{self, Stopped, Work},
};
use crate::api::App;

/// For logging in; and beyond the statements' own limit, for waiting and reading the result.
const GRACE: Duration = Duration::from_secs(15);
/// For the proxy to take the stream.
const DOOR_WAIT_MAX: Duration = Duration::from_secs(5);

/// Who comes through the door.
pub(super) enum Visitor<'a> {
    /// The platform has let it in as this. With an address, the tenant's allowed ones count.
    LetIn {
        login: &'a LoginName,
        from: Option<SocketAddr>,
    },
    /// It says itself who it is, and the proxy decides.
    Proves {
        user: &'a str,
        password: &'a Secret,
        database: &'a str,
        from: SocketAddr,
        /// For the startup packet.
        settings: &'a [(String, String)],
    },
}

/// What is to be done in a session.
pub(super) struct Errand<'a> {
    pub(super) work: &'a Work,
    /// For each statement.
    pub(super) time_max: Duration,
    /// Whether anybody looks at the types of the results.
    pub(super) is_typed: bool,
    /// Whether rows are written as objects.
    pub(super) has_names: bool,
}

/// Results, and what their types are.
pub(super) struct Done {
    pub(super) outcomes: Vec<Outcome>,
    pub(super) types: Types,
}

impl Done {
    pub(super) fn rows(&self) -> usize {
        self.outcomes.iter().map(|outcome| outcome.rows.len()).sum()
    }
}

/// Why there are none.
pub(super) enum Failed {
    /// Before the first statement began.
    Begin(SqlError),
    /// In one.
    Work(Stopped),
    /// We have too many at once, or the database has.
    Busy,
    /// The proxy does not take the stream.
    NoDoor,
    /// It took longer than everything may take together.
    Late,
}

impl Failed {
    /// Whether these are PostgreSQL's own words about a statement.
    pub(super) fn is_of_postgres(&self) -> bool {
        let error = match self {
            Self::Work(Stopped { error, .. }) => error,
            _ => return false,
        };
        matches!(error, SqlError::Server(_))
    }
}

/// Sessions at once: of all databases, and of each, so that one with slow statements leaves room.
pub(crate) struct Places {
    all: Semaphore,
    each_max: usize,
    each: Mutex<HashMap<String, usize>>,
}

/// A place among them, free again when dropped.
pub(super) struct Place<'a> {
    places: &'a Places,
    whose: String,
    _permit: SemaphorePermit<'a>,
}

impl Places {
    pub(crate) fn new(all_max: usize, each_max: usize) -> Self {
        Self {
            all: Semaphore::new(all_max),
            each_max,
            each: Mutex::default(),
        }
    }

    /// `whose`: a database, or an address that has not proved to be of any.
    pub(super) fn take(&self, whose: String) -> Result<Place<'_>, Failed> {
        let permit = self.all.try_acquire().map_err(|_| Failed::Busy)?;
        let mut each = self.each.lock().unwrap_or_else(PoisonError::into_inner);
        let count = each.entry(whose.clone()).or_default();
        if *count >= self.each_max {
            return Err(Failed::Busy);
        }
        *count += 1;
        drop(each);
        Ok(Place {
            places: self,
            whose,
            _permit: permit,
        })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut each = self
            .places
            .each
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = each.get_mut(&self.whose) {
            *count -= 1;
            if *count == 0 {
                each.remove(&self.whose);
            }
        }
    }
}

/// Begins a session: who it is has been proved when this returns. `time_max` is how long one statement
/// may take in it.
pub(super) async fn open(
    app: &App,
    visitor: Visitor<'_>,
    time_max: Duration,
) -> Result<Session, Failed> {
    let begun = tokio::time::timeout(GRACE, begin(app, visitor, time_max)).await;
    begun.unwrap_or(Err(Failed::Late))
}

/// Runs everything in a session, and ends it. Whatever it does not come to the end of is undone by
/// PostgreSQL, which sees the session go.
pub(super) async fn run(app: &App, session: Session, errand: Errand<'_>) -> Result<Done, Failed> {
    let limit = errand.time_max + GRACE;
    let done = tokio::time::timeout(limit, go(app, session, errand)).await;
    done.unwrap_or(Err(Failed::Late))
}

async fn go(app: &App, mut session: Session, errand: Errand<'_>) -> Result<Done, Failed> {
    let limits = &app.config.limits;
    let fresh = Room::new(limits.sql_rows_max, limits.sql_result_bytes_max);
    let mut room = fresh.with_names(errand.has_names);
    // What is left in the session when it fails is not worth reading.
    let outcomes = errand.work.run(&mut session, &mut room).await;
    let outcomes = outcomes.map_err(Failed::Work)?;
    let types = if errand.is_typed {
        work::types(&mut session, &outcomes, fresh).await
    } else {
        Types::default()
    };
    session.end().await;
    Ok(Done { outcomes, types })
}

async fn begin(app: &App, visitor: Visitor<'_>, time_max: Duration) -> Result<Session, Failed> {
    let limit = time_max.as_millis().to_string();
    match visitor {
        Visitor::LetIn { login, from } => {
            let issue = app
                .one_use
                .issue(&app.keys, login)
                .map_err(|_| Failed::Busy)?;
            let stream = knock(app, from).await?;
            let login = Login {
                user: &login.to_string(),
                database: "postgres",
                password: &issue.password,
                settings: &[
                    ("application_name", "tenantry sql"),
                    ("statement_timeout", &limit),
                ],
            };
            Session::begin(stream, login).await.map_err(Failed::Begin)
        }
        Visitor::Proves {
            user,
            password,
            database,
            from,
            settings,
        } => {
            let stream = knock(app, Some(from)).await?;
            let mut all = vec![("statement_timeout", limit.as_str())];
            all.extend(settings.iter().map(|(name, value)| (&**name, &**value)));
            let login = Login {
                user,
                database,
                password,
                settings: &all,
            };
            Session::begin(stream, login).await.map_err(Failed::Begin)
        }
    }
}

async fn knock(app: &App, from: Option<SocketAddr>) -> Result<UnixStream, Failed> {
    let lost = |error| Failed::Begin(SqlError::Lost(error));
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(lost)?;
    ours.set_nonblocking(true).map_err(lost)?;
    theirs.set_nonblocking(true).map_err(lost)?;
    let ours = UnixStream::from_std(ours).map_err(lost)?;
    let visit = Visit {
        stream: theirs,
        from,
    };
    match tokio::time::timeout(DOOR_WAIT_MAX, app.door.send(visit)).await {
        Ok(Ok(())) => Ok(ours),
        Ok(Err(_)) | Err(_) => Err(Failed::NoDoor),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_database_leaves_places_to_others() {
        let places = Places::new(3, 2);
        let take = |whose: &str| places.take(whose.to_owned());
        let first = take("a").ok();
        let _second = take("a").ok().expect("there are two");
        assert!(take("a").is_err());
        let _other = take("b").ok().expect("and one for another");
        assert!(take("c").is_err(), "all are taken");
        drop(first);
        assert!(take("a").is_ok());
    }
}
