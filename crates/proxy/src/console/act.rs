//! What an operator can do to a tenant, and to all that is known about them.

use std::{rc::Rc, time::Duration};

use model::TenantId;
use tokio::time::{Instant, sleep};

use super::{Answer, Mistake, command::Act};
use crate::{errand, error::Refusal, handle::When, pool::Tenant, route, worker::Worker};

/// How long PAUSE waits for running transactions before it says that there are some.
const PAUSE_WAIT_MAX: Duration = Duration::from_secs(5);
/// How often it looks.
const PAUSE_LOOK_EVERY: Duration = Duration::from_millis(20);

/// Does it, on the tenant's home worker.
///
/// # Errors
///
/// A [`Mistake`] when the worker has stopped.
pub(super) async fn act(worker: &Rc<Worker>, act: Act, id: TenantId) -> Result<Answer, Mistake> {
    let home = worker.home_of(&id);
    tracing::info!(tenant = %id, act = act.name(), "an operator acts");
    let tenant = id.clone();
    let touched = errand::on(&worker.shared, home, move |worker| {
        // A pause holds also for a tenant that nobody uses yet.
        match act {
            Act::Pause => Some(worker.tenant(&tenant)),
            _ => worker.known_tenant(&tenant),
        }
        .map(|tenant| touch(worker, &tenant, act))
    });
    let touched = touched.await.ok_or(Mistake {
        code: "57P03",
        message: "the process is stopping".to_owned(),
        hint: "",
    })?;
    let note = match (act, touched) {
        (Act::Pause, _) => {
            let left = paused(worker, home, &id).await;
            (left > 0).then(|| {
                format!(
                    "{left} server connections are still in use, by transactions that run or by sessions that \
                     keep them (SHOW CLIENTS); whoever needs another one waits already"
                )
            })
        }
        (_, None | Some(0)) => Some(match act {
            Act::Kill => "it has no sessions in this process".to_owned(),
            Act::Reconnect => "it has no server connections in this process".to_owned(),
            Act::Resume | Act::Pause => "it was not paused in this process".to_owned(),
        }),
        (_, Some(_)) => None,
    };
    Ok(match note {
        Some(note) => Answer::DoneBut(act.name(), note),
        None => Answer::Done(act.name()),
    })
}

/// How many it touched.
fn touch(worker: &Rc<Worker>, tenant: &Rc<Tenant>, act: Act) -> usize {
    match act {
        Act::Kill => {
            tenant.end_sessions(|_| Some((When::Now, Refusal::Draining)));
            tenant.sessions.borrow().len()
        }
        Act::Pause => {
            tenant.pause(worker);
            1
        }
        Act::Resume => usize::from(tenant.resume()),
        Act::Reconnect => {
            let servers = tenant.usage().0;
            for handle in tenant.sessions.borrow().values() {
                if let Some(target) = handle.target() {
                    target.is_last.set(true);
                }
            }
            tenant.close_all(worker);
            servers as usize
        }
    }
}

/// Waits until no transaction of a paused tenant runs. Server connections that are left at the limit.
async fn paused(worker: &Rc<Worker>, home: usize, id: &TenantId) -> u32 {
    let until = Instant::now() + PAUSE_WAIT_MAX;
    loop {
        let id = id.clone();
        let left = errand::on(&worker.shared, home, move |worker| {
            worker
                .known_tenant(&id)
                .map_or(0, |tenant| tenant.usage().0)
        });
        match left.await {
            None | Some(0) => return 0,
            Some(left) if Instant::now() >= until => return left,
            Some(_) => sleep(PAUSE_LOOK_EVERY).await,
        }
    }
}

/// Every worker asks again what it knows about tenants.
pub(super) async fn reload(worker: &Rc<Worker>) {
    tracing::info!("an operator has everything read again");
    errand::on_all(&worker.shared, route::doubt_everything).await;
}
