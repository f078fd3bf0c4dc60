//! Answers to the proxy's questions ([`model::route`]).
//!
//! Owns: resolving logins from the catalog, one-use credentials, and what is done about reports.
//! Does not own: telling of changes ([`crate::catalog::changes`]).

pub(crate) mod one_use;
mod repair;
mod store;

use std::sync::Arc;

use model::{
    LoginName, Pid, Role, UserId, limits,
    route::{Report, Request, Resolved, Route, ServerLogin, Unavailable},
};
use tokio::sync::mpsc;

use crate::{api::App, tasks::Tasks};

/// Answers for ever. Each question has a task of its own, so that one that waits for the catalog
/// delays no other; how many run at once is bounded by the queue and the catalog's connections.
pub(crate) async fn serve(app: Arc<App>, mut requests: mpsc::Receiver<Request>, tasks: Tasks) {
    let repair = Arc::new(repair::Repair::default());
    let permits = Arc::new(tokio::sync::Semaphore::new(RESOLVES_MAX));
    while let Some(request) = requests.recv().await {
        match request {
            Request::Resolve { login, reply } => {
                let Ok(permit) = permits.clone().acquire_owned().await else {
                    return;
                };
                let app = app.clone();
                tasks.spawn("resolve", async move {
                    // The asker may have gone away.
                    let _ = reply.send(resolve(&app, login).await);
                    drop(permit);
                });
            }
            Request::Consume { credential, reply } => {
                let _ = reply.send(app.one_use.consume(&credential));
            }
            Request::Lease { demand, reply } => {
                let app = app.clone();
                tasks.spawn("lease", async move {
                    let _ = reply.send(crate::process::lease(&app, &demand).await);
                });
            }
            Request::Report(Report::LoggedIn { credential, from }) => {
                app.used.note(credential, from);
            }
            Request::Report(Report::ServerLoginRefused { tenant, login }) => {
                repair::begin(&repair, &app, &tasks, tenant, login);
            }
        }
    }
}

/// Questions answered at once. More than the catalog's connections, so that none of those idles.
const RESOLVES_MAX: usize = 64;

/// What a session begins with whatever is stored on its login. A tenant can store settings on its own
/// logins (`ALTER ROLE … SET`); those that decide what names mean, or that would end the sessions of
/// others who use the login, have no effect until a pass takes them away. PostgreSQL's own defaults.
const SETTINGS: [(&str, &str); 5] = [
    ("search_path", "\"$user\", public"),
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("idle_session_timeout", "0"),
];

fn server_login(app: &App, pid: &Pid, role: Role, user: Option<&UserId>) -> ServerLogin {
    let mut login = match user {
        None => app.node.server_login(pid, role),
        Some(user) => app.node.user_server_login(pid, role, user),
    };
    let settings = SETTINGS.map(|(name, value)| (name.to_owned(), value.to_owned()));
    login.settings.extend(settings);
    if app.node.server_version().major() >= 17 {
        login
            .settings
            .insert("transaction_timeout".to_owned(), "0".to_owned());
    }
    login
}

async fn resolve(app: &App, login: LoginName) -> Result<Option<Resolved>, Unavailable> {
    let found = store::resolve(app, &login).await.map_err(|error| {
        tracing::warn!(error = %crate::api::error::chain(&error), "a login could not be looked up");
        Unavailable
    })?;
    let user = |found: &store::Found| found.user.as_ref().map(|(user, _)| user.clone());
    Ok(found.map(|found| Resolved {
        route: Arc::new(Route {
            server: server_login(app, &found.pid, found.role, user(&found).as_ref()),
            clients_max: found.user.as_ref().and_then(|(_, max)| *max),
            access: found.access,
            expires_in: found.expires_in,
            storage: found.measured.against(&found.limits()),
            limits: found.limits(),
            candidates: found.candidates,
            pool_mode: limits::pool_mode(&found.wishes.operator, &found.wishes.owner),
            tenant: login.tenant,
            login: login.login,
            role: found.role,
        }),
        node: app.node.target(),
    }))
}
