//! Statements that were prepared under other settings than their session has now, made on another server connection.
//!
//! Owns: what is said around a statement so that it is read as it was then and nothing else changes, and making those that
//! a session at rest misses. Does not own: when they are needed (`lend`), or making one among a client's messages
//! (`relay::around`).
//!
//! All of it goes by the extended protocol, under names of ours: a simple query would drop the client's unnamed
//! statement, which may live nowhere else.

use std::rc::Rc;

use wire::{
    message::{Kind, TransactionStatus, build},
    queue::Request,
};

use crate::{
    lend::{TRIES_MAX, is_cancelled},
    lending::Lending,
    pool::Tenant,
    server::{ExchangeError, Said, Server},
    state::{Form, Until},
    statements::Statement,
};

/// A savepoint in which a statement is prepared under other settings than are in force.
const MADE_IN: &str = "_tenantry_prepare";

/// What begins something that leaves nothing behind, and what ends it.
pub(crate) fn around(server: &Server) -> (Vec<String>, Vec<String>) {
    if server.status == TransactionStatus::Idle {
        let begin = "BEGIN ISOLATION LEVEL READ COMMITTED".to_owned();
        return (vec![begin], vec![ROLLBACK.to_owned()]);
    }
    let back = ["ROLLBACK TO", "RELEASE"].map(|how| format!("{how} SAVEPOINT {MADE_IN}"));
    (vec![format!("SAVEPOINT {MADE_IN}")], back.into())
}

const ROLLBACK: &str = "ROLLBACK";

/// What is said before a statement is made as it was when the client made it, and behind that: what is
/// prepared stays prepared, and settings and role are as they were. `is_now`: they are as they were then.
pub(crate) fn around_settings(
    server: &Server,
    lending: &Lending,
    statement: &Statement,
    is_now: bool,
) -> (Vec<String>, Vec<String>) {
    const ROW_SECURITY: &str = "row_security";
    let (mut there, back) = around(server);
    if is_now {
        return (there, back);
    }
    if lending.may_be_another_locally() {
        // What another role prepared is nowhere but where it was prepared.
        let group = server.login.server.group;
        there.push(format!("SET LOCAL ROLE {}", group.as_str()));
    }
    // Time limits of the session, too.
    there.push("RESET ALL".to_owned());
    there.extend(statement.parsing.one_by_one());
    // Another one than it is used with would be a reason to analyse it anew.
    let row_security = (lending.wanted).one(ROW_SECURITY, Until::SessionEnd, Form::Any);
    there.extend(row_security);
    (there, back)
}

/// Makes the statements of a session at rest that were prepared under other settings than are wanted, under those.
/// Everything else on the server connection is as it was, also where nobody knows which settings it has.
///
/// # Errors
///
/// [`ExchangeError::Said`] where their settings cannot be set; what the server says to a statement is for whoever
/// uses it.
pub(crate) async fn make_elsewhere(
    server: &mut Server,
    lending: &Lending,
    tenant: &Tenant,
) -> Result<(), ExchangeError> {
    let elsewhere: Vec<_> = lending
        .elsewhere()
        .filter(|statement| !server.statements.contains(statement.number))
        .cloned()
        .collect();
    for statement in elsewhere {
        if server.statements.contains(statement.number) {
            continue; // Under two names.
        }
        let refused = make(server, lending, &statement).await?;
        let all = &tenant.statements;
        match refused {
            None => server.statements.add(statement.number, all),
            // What it names may be gone. Whoever binds it hears so, and it is tried again behind that.
            Some(_) => server.statements.refuse(statement.number, all),
        }
    }
    Ok(())
}

/// Makes one. Returns what the server said against it, if it did.
async fn make(
    server: &mut Server,
    lending: &Lending,
    statement: &Rc<Statement>,
) -> Result<Option<Said>, ExchangeError> {
    let (there, _) = around_settings(server, lending, statement, false);
    let there: Vec<_> = there.iter().map(String::as_str).collect();
    let mut tries = 1;
    loop {
        let made = make_behind(server, &there, statement).await;
        leave(server).await?;
        match made {
            // A time limit that was still in force, or the client meant what it had asked before.
            Ok(Some(said)) | Err(ExchangeError::Said(said))
                if is_cancelled(&said) && tries < TRIES_MAX =>
            {
                tries += 1;
            }
            made => return made,
        }
    }
}

async fn make_behind(
    server: &mut Server,
    there: &[&str],
    statement: &Statement,
) -> Result<Option<Said>, ExchangeError> {
    server.rows(there, there.len()).await?;
    let mut bytes = Vec::new();
    build::close(Kind::Statement, &statement.name, &mut bytes);
    statement.write_parse(&statement.name, &mut bytes);
    build::sync(&mut bytes);
    let requests = [Request::Close, Request::Parse, Request::Sync];
    server.statements.is_closed(&statement.name);
    match server.exchange(&bytes, &requests).await {
        Ok(()) => Ok(None),
        Err(ExchangeError::Said(said)) => Ok(Some(said)),
        Err(ExchangeError::Broken) => Err(ExchangeError::Broken),
    }
}

/// Ends the transaction, behind whose failure the session's time limits are in force again.
async fn leave(server: &mut Server) -> Result<(), ExchangeError> {
    let mut tries = 1;
    while server.status != TransactionStatus::Idle {
        match server.rows(&[ROLLBACK], 0).await {
            Err(ExchangeError::Said(said)) if is_cancelled(&said) && tries < TRIES_MAX => {
                tries += 1;
            }
            left => return left.map(|_| ()),
        }
    }
    Ok(())
}
