//! What servers report at login, for a tenant and role of which nobody has seen one yet.
//!
//! Owns: that one server connection is opened to learn it, however many clients log in at once. Does
//! not own: the values once they are known (`pool`), or what a client is told (`session`).

use std::{cell::RefCell, collections::HashMap, rc::Rc};

use model::{Login, LoginName};
use tokio::sync::watch;

use crate::{error::Refusal, pool::Tenant, server::Parameters, worker::Worker};

type Learned = Result<Rc<Parameters>, Refusal>;

/// Who is learning what. As many as there are cold tenants whose clients log in at this moment.
#[derive(Debug, Default)]
pub(crate) struct Learning(RefCell<HashMap<LoginName, watch::Receiver<Option<Learned>>>>);

/// The values that a client of `tenant` and `role` is told after login.
///
/// All who ask while they are being learned get the same answer. Safe to drop: what was begun for the
/// first who asked goes on for the others, within the limits of opening a server connection, and the
/// connection waits for the first statement.
///
/// # Errors
///
/// As [`Tenant::server`].
pub(crate) async fn parameters(worker: &Rc<Worker>, tenant: &Rc<Tenant>, login: Login) -> Learned {
    if let Some(values) = tenant.seen(login) {
        return Ok(values);
    }
    let login = LoginName {
        tenant: tenant.id.clone(),
        login,
    };
    let under_way = worker.learning.0.borrow().get(&login).cloned();
    let mut learned = under_way.unwrap_or_else(|| begin(worker, tenant, &login));
    match learned.wait_for(Option::is_some).await {
        Ok(learned) => learned.clone().unwrap_or(Err(Refusal::Internal)),
        Err(_) => {
            // Whoever learned is gone by a mistake of ours: the next one begins anew.
            worker.learning.0.borrow_mut().remove(&login);
            Err(Refusal::Internal)
        }
    }
}

fn begin(
    worker: &Rc<Worker>,
    tenant: &Rc<Tenant>,
    login: &LoginName,
) -> watch::Receiver<Option<Learned>> {
    let (done, learned) = watch::channel(None);
    let mut under_way = worker.learning.0.borrow_mut();
    under_way.insert(login.clone(), learned.clone());
    let (pace, worker) = (worker.pace.clone(), worker.clone());
    let (tenant, login) = (tenant.clone(), login.clone());
    // Its login hashes a password, which is as much work as ten handshakes.
    tokio::task::spawn_local(pace.paced(Box::pin(async move {
        let opened = tenant.server(&worker, login.login).await;
        worker.learning.0.borrow_mut().remove(&login);
        let learned = opened.map(|server| {
            let values = server.parameters.clone();
            tenant.give_back(&worker, login.login, server, false);
            values
        });
        let _ = done.send(Some(learned));
    })));
    learned
}
