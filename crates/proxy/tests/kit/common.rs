//! What several tests do with a stack: log in and speak the protocol by hand, and change limits.

use model::{Limits, Role};
use wire::startup::Protocol;

use super::{
    Stack, Tenant,
    raw::{Raw, code_of},
};

/// A client that has logged in as admin.
pub fn raw(stack: &Stack, tenant: &Tenant) -> Raw {
    let user = tenant.login(Role::Admin).to_string();
    let parameters = [("user", user.as_str()), ("database", "postgres")];
    let mut raw = Raw::tls(stack.port, &stack.certificate);
    let seen = raw.log_in(Protocol::V3_0, &parameters, &tenant.password);
    assert_eq!(code_of(&seen), "");
    raw
}

/// Gives a tenant other limits, as if they were changed now.
pub fn limit(stack: &Stack, tenant: &Tenant, change: impl Fn(&mut Limits)) {
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
