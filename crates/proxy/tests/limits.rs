//! What one tenant may use: every limit holds where it is reached, lets pass what is below it, and holds
//! for sessions that are open when it changes.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use kit::{Stack, Tenant, code, wait_until};
use model::{Limits, Role, limits::LimitSet};

/// Gives a tenant other limits, as if they were changed now.
fn limit(stack: &Stack, tenant: &Tenant, change: impl Fn(&mut Limits)) {
    for role in Role::ALL {
        let old = stack.table.lock().unwrap().routes[&tenant.login(role)].clone();
        stack.set_route(tenant, role, |route| {
            route.candidates = old.route.candidates.clone();
            route.pool_mode = old.route.pool_mode;
            route.limits = old.route.limits.clone();
            change(&mut route.limits);
        });
    }
    stack.announce(tenant);
}

fn networks(texts: &[&str]) -> Option<std::sync::Arc<[model::Network]>> {
    let networks = LimitSet::networks(texts.iter().copied()).unwrap();
    Some(networks.into())
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_come_from_allowed_addresses_only() {
    let stack = Stack::start(|_| {}).await;
    let tenant = stack.tenant();
    limit(&stack, &tenant, |limits| {
        limits.addresses = networks(&["127.0.0.0/8", "2001:db8::/32"]);
    });
    let inside = stack.connect(&tenant, Role::Write).await;
    inside.batch_execute("SELECT 1").await.unwrap();

    // It holds for those who are there already, and who comes is told so after the password, not before.
    limit(&stack, &tenant, |limits| {
        limits.addresses = networks(&["192.0.2.0/24"])
    });
    wait_until("the session is ended", || inside.is_closed());
    let config = stack.config(&tenant, Role::Write);
    let refused = stack.connect_with(&config).await.err().unwrap();
    assert_eq!(code(&refused), "28000", "{refused:?}");
    assert!(
        refused
            .as_db_error()
            .unwrap()
            .hint()
            .unwrap()
            .contains("allowed_addresses")
    );
    let mut guess = config.clone();
    guess.password("a guess");
    let refused = stack.connect_with(&guess).await.err().unwrap();
    assert_eq!(code(&refused), "28P01");

    limit(&stack, &tenant, |limits| limits.addresses = None);
    stack.connect_with(&config).await.unwrap();
}
