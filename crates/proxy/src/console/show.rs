//! What an operator can see.
//!
//! Owns: the columns of every SHOW, and gathering what stands in them from all workers. Names are
//! PgBouncer's where they mean the same, so that what reads its console reads this one; what it has
//! and we do not count is not there. `docs/console.md` says what they mean.

use std::{rc::Rc, sync::atomic::Ordering, time::SystemTime};

use model::{
    Login, TenantId,
    route::{NodeAddress, Resolved},
};
use tokio::time::Instant;

use super::{
    command::{Act, Show},
    table::{Cell, Holds, Holds::Number, Holds::Text, Table},
};
use crate::{
    accept::Peer,
    config::Limits,
    errand,
    metrics::micros,
    pins::{Pin, Pins},
    pool::Tenant,
    stats::{TenantStats, Totals},
    worker::Worker,
};

/// Statements of a database that are shown: so many that took most time, and as many that ran most
/// often.
const STATEMENTS_MAX: usize = 10;

/// The table of a SHOW without its rows.
pub(super) fn columns(what: Show) -> Table {
    const CLIENTS: &[(&str, Holds)] = &[
        ("type", Text),
        ("user", Text),
        ("database", Text),
        ("state", Text),
        ("addr", Text),
        ("port", Number),
        ("connect_time", Text),
        ("wait", Number),
        ("wait_us", Number),
        ("remote_pid", Number),
        ("tls", Text),
        ("application_name", Text),
        ("id", Number),
        ("credential", Text),
        ("statements", Number),
        ("errors", Number),
        ("bytes_received", Number),
        ("bytes_sent", Number),
        ("lends", Number),
        ("pins", Text),
    ];
    const SERVERS: &[(&str, Holds)] = &[
        ("type", Text),
        ("user", Text),
        ("database", Text),
        ("state", Text),
        ("addr", Text),
        ("port", Number),
        ("remote_pid", Number),
        ("link", Number),
        ("tenant", Text),
        ("node", Text),
    ];
    const POOLS: &[(&str, Holds)] = &[
        ("database", Text),
        ("user", Text),
        ("cl_active", Number),
        ("cl_waiting", Number),
        ("sv_active", Number),
        ("sv_active_cancel", Number),
        ("sv_idle", Number),
        ("maxwait", Number),
        ("maxwait_us", Number),
        ("pool_mode", Text),
    ];
    const STATS: &[(&str, Holds)] = &[
        ("database", Text),
        ("total_server_assignment_count", Number),
        ("total_xact_count", Number),
        ("total_query_count", Number),
        ("total_received", Number),
        ("total_sent", Number),
        ("total_query_time", Number),
        ("total_wait_time", Number),
        ("total_rows", Number),
        ("total_errors", Number),
        ("total_logins", Number),
    ];
    const STATS_TOTALS: &[(&str, Holds)] = &[
        ("database", Text),
        ("server_assignment_count", Number),
        ("xact_count", Number),
        ("query_count", Number),
        ("bytes_received", Number),
        ("bytes_sent", Number),
        ("query_time", Number),
        ("wait_time", Number),
        ("rows", Number),
        ("errors", Number),
        ("logins", Number),
    ];
    const DATABASES: &[(&str, Holds)] = &[
        ("name", Text),
        ("host", Text),
        ("port", Text),
        ("database", Text),
        ("force_user", Text),
        ("pool_size", Number),
        ("pool_mode", Text),
        ("max_connections", Number),
        ("current_connections", Number),
        ("max_client_connections", Number),
        ("current_client_connections", Number),
        ("paused", Number),
        ("disabled", Number),
    ];
    const TENANTS: &[(&str, Holds)] = &[
        ("tenant", Text),
        ("placement", Text),
        ("node", Text),
        ("state", Text),
        ("clients", Number),
        ("clients_max", Number),
        ("waiting", Number),
        ("servers", Number),
        ("servers_max", Number),
        ("statements", Number),
        ("errors", Number),
    ];
    const STATEMENTS: &[(&str, Holds)] = &[
        ("database", Text),
        ("statement_id", Text),
        ("calls", Number),
        ("errors", Number),
        ("rows", Number),
        ("total_time", Number),
        ("max_time", Number),
        ("statement", Text),
    ];
    Table::new(match what {
        Show::Clients => CLIENTS,
        Show::Servers => SERVERS,
        Show::Pools => POOLS,
        Show::Statements => STATEMENTS,
        Show::Stats => STATS,
        Show::StatsTotals => STATS_TOTALS,
        Show::Databases => DATABASES,
        Show::Tenants => TENANTS,
        Show::Lists => &[("list", Text), ("items", Number)],
        Show::Pins => &[
            ("database", Text),
            ("reason", Text),
            ("sessions", Number),
            ("total", Number),
        ],
        Show::Config => &[
            ("key", Text),
            ("value", Text),
            ("default", Text),
            ("changeable", Text),
        ],
        Show::Version => &[("version", Text)],
        Show::Help => &[("command", Text), ("what", Text)],
    })
}

/// The table of a SHOW as things are now.
pub(super) async fn show(worker: &Rc<Worker>, what: Show) -> Table {
    let mut table = columns(what);
    match what {
        Show::Version => {
            table.add([concat!("Tenantry ", env!("CARGO_PKG_VERSION")).into()]);
        }
        Show::Help => help(&mut table),
        Show::Config => config(worker, &mut table),
        Show::Statements => statements(worker, &mut table).await,
        _ => {
            let mut tenants = errand::on_all(&worker.shared, look).await.concat();
            tenants.sort_by(|a, b| a.stats.tenant.cmp(&b.stats.tenant));
            match what {
                Show::Lists => lists(worker, &tenants, &mut table),
                Show::Clients => clients(&tenants, &mut table),
                Show::Servers => servers(&tenants, &mut table),
                Show::Pins => list_pins(&tenants, &mut table),
                Show::Pools => pools(&tenants, &mut table),
                Show::Stats | Show::StatsTotals => stats(&tenants, &mut table),
                Show::Databases => databases(&tenants, &mut table),
                _ => list_tenants(&tenants, &mut table),
            }
        }
    }
    table
}

/// A tenant as its home worker sees it at one moment.
#[derive(Clone)]
struct Seen {
    stats: TenantStats,
    logins: Vec<LoginSeen>,
    sessions: Vec<SessionSeen>,
    is_paused: bool,
}

#[derive(Clone)]
struct LoginSeen {
    login: Login,
    resolved: Resolved,
    /// Numbers of the server processes of idle connections.
    idle: Vec<Option<i32>>,
}

#[derive(Clone)]
struct SessionSeen {
    id: i32,
    login: Login,
    peer: Peer,
    began: Instant,
    tls: Option<&'static str>,
    application: Box<str>,
    credential: String,
    is_busy: bool,
    pins: Pins,
    waits_since: Option<Instant>,
    /// Its server connection: the number of the process, and whether it is being cancelled.
    server: Option<(Option<i32>, bool)>,
    did: Totals,
}

/// All tenants of a worker that are in use.
fn look(worker: &Rc<Worker>) -> Vec<Seen> {
    let tenants = worker.all_tenants();
    tenants.iter().map(look_at).collect()
}

fn look_at(tenant: &Rc<Tenant>) -> Seen {
    let sessions = tenant.sessions.borrow();
    let sessions = sessions.iter().map(|(id, handle)| {
        let about = &handle.about;
        let target = handle.target();
        SessionSeen {
            id: *id,
            login: handle.login,
            peer: about.peer,
            began: about.began,
            tls: about.tls,
            application: about.application.clone(),
            credential: handle.credential.to_string(),
            is_busy: handle.is_busy.get(),
            pins: handle.pins.get(),
            waits_since: about.waits_since.get(),
            server: target.map(|target| {
                let process = target.key.as_ref().map(|key| key.process_id());
                (process, target.in_flight.get() > 0)
            }),
            did: about.counters.totals(),
        }
    });
    let logins = tenant
        .look()
        .into_iter()
        .map(|(login, resolved, idle)| LoginSeen {
            login,
            resolved,
            idle: idle
                .iter()
                .map(|target| target.key.as_ref().map(|key| key.process_id()))
                .collect(),
        });
    Seen {
        stats: tenant.stats(),
        logins: logins.collect(),
        sessions: sessions.collect(),
        is_paused: tenant.pause.is_on(),
    }
}

fn user(tenant: &TenantId, login: Login) -> String {
    format!("{tenant}.{login}")
}

/// As PgBouncer writes times.
fn clock(at: Instant) -> String {
    let at = SystemTime::now() - at.elapsed();
    let text = humantime::format_rfc3339_seconds(at).to_string();
    text.replace('T', " ").replace('Z', " UTC")
}

/// Whole seconds, and the microseconds beyond them.
fn waits(since: Option<Instant>) -> (Cell, Cell) {
    let waits_us = since.map_or(0, |since| micros(since.elapsed()));
    ((waits_us / 1_000_000).into(), (waits_us % 1_000_000).into())
}

fn clients(tenants: &[Seen], table: &mut Table) {
    for tenant in tenants {
        for session in &tenant.sessions {
            let state = match (session.waits_since, session.is_busy) {
                (Some(_), _) => "waiting",
                (None, true) => "active",
                (None, false) => "idle",
            };
            let (wait, wait_us) = waits(session.waits_since);
            let (address, port) = match session.peer {
                Peer::Tcp(peer) | Peer::Http(peer) => {
                    (peer.ip().to_string(), Cell::from(u32::from(peer.port())))
                }
                Peer::Door => ("door".to_owned(), Cell::Null),
            };
            table.add([
                "C".into(),
                user(&tenant.stats.tenant, session.login).into(),
                tenant.stats.tenant.as_str().into(),
                state.into(),
                address.into(),
                port,
                clock(session.began).into(),
                wait,
                wait_us,
                session
                    .server
                    .and_then(|(process, _)| process)
                    .map(i64::from)
                    .into(),
                session.tls.map(|version| format!("TLSv{version}")).into(),
                String::from(session.application.clone()).into(),
                i64::from(session.id).into(),
                session.credential.clone().into(),
                session.did.statements.into(),
                session.did.errors.into(),
                session.did.bytes_from_clients.into(),
                session.did.bytes_to_clients.into(),
                session.did.lends.into(),
                names(session.pins).into(),
            ]);
        }
    }
}

fn servers(tenants: &[Seen], table: &mut Table) {
    for tenant in tenants {
        for each in &tenant.logins {
            let idle = each.idle.iter().map(|process| (*process, "idle", None));
            let used = tenant.sessions.iter().filter(|own| own.login == each.login);
            let used = used.filter_map(|session| {
                let (process, is_cancelled) = session.server?;
                let state = if is_cancelled {
                    "active_cancel"
                } else {
                    "active"
                };
                Some((process, state, Some(i64::from(session.id))))
            });
            let (address, port) = address(&each.resolved);
            for (process, state, link) in idle.chain(used) {
                let server = &each.resolved.route.server;
                table.add([
                    "S".into(),
                    server.user.clone().into(),
                    server.database.clone().into(),
                    state.into(),
                    address.clone().into(),
                    port.into(),
                    process.map(i64::from).into(),
                    link.into(),
                    tenant.stats.tenant.as_str().into(),
                    each.resolved.node.name.clone().into(),
                ]);
            }
        }
    }
}

fn address(resolved: &Resolved) -> (String, Option<u32>) {
    match &resolved.node.address {
        NodeAddress::Unix(path) => (path.display().to_string(), None),
        NodeAddress::Tcp { host, port, .. } => (host.clone(), Some((*port).into())),
    }
}

fn pools(tenants: &[Seen], table: &mut Table) {
    for tenant in tenants {
        for each in &tenant.logins {
            let own = || tenant.sessions.iter().filter(|own| own.login == each.login);
            let waiting = own().filter_map(|session| session.waits_since);
            let (wait, wait_us) = waits(waiting.clone().min());
            let waiting = waiting.count();
            let used = own().filter_map(|session| session.server);
            table.add([
                tenant.stats.tenant.as_str().into(),
                user(&tenant.stats.tenant, each.login).into(),
                (own().count() - waiting).into(),
                waiting.into(),
                used.clone().count().into(),
                used.filter(|(_, is_cancelled)| *is_cancelled)
                    .count()
                    .into(),
                each.idle.len().into(),
                wait,
                wait_us,
                mode(&each.resolved).into(),
            ]);
        }
    }
}

/// None: nothing keeps it.
fn names(pins: Pins) -> Option<String> {
    let names: Vec<&str> = pins.iter().map(Pin::as_str).collect();
    (!names.is_empty()).then(|| names.join(","))
}

fn list_pins(tenants: &[Seen], table: &mut Table) {
    for tenant in tenants {
        for (pin, total) in tenant.stats.pins.iter().filter(|(_, total)| *total > 0) {
            let sessions = tenant.sessions.iter();
            let sessions = sessions.filter(|own| own.pins.iter().any(|own| own == *pin));
            table.add([
                tenant.stats.tenant.as_str().into(),
                pin.as_str().into(),
                sessions.count().into(),
                (*total).into(),
            ]);
        }
    }
}

fn mode(resolved: &Resolved) -> &'static str {
    resolved.route.pool_mode.as_str()
}

async fn statements(worker: &Rc<Worker>, table: &mut Table) {
    let insights = errand::on_all(&worker.shared, |worker| {
        let tenants = worker.all_tenants();
        let insights = tenants.iter().map(|tenant| tenant.insight(STATEMENTS_MAX));
        insights.collect::<Vec<_>>()
    });
    let mut insights = insights.await.concat();
    insights.sort_by(|a, b| a.tenant.cmp(&b.tenant));
    for of in insights {
        let rest = (of.rest.count > 0).then_some((None, None, of.rest));
        let statements = of.statements.into_iter().map(|statement| {
            let id = format!("{:016x}", statement.id);
            (Some(id), Some(statement.text), statement.sums)
        });
        for (id, text, sums) in statements.chain(rest) {
            table.add([
                of.tenant.as_str().into(),
                id.into(),
                sums.count.into(),
                sums.errors.into(),
                sums.rows.into(),
                sums.time_us.into(),
                sums.time_us_max.into(),
                text.into(),
            ]);
        }
    }
}

fn stats(tenants: &[Seen], table: &mut Table) {
    for Seen { stats, .. } in tenants {
        let did = stats.totals;
        table.add([
            stats.tenant.as_str().into(),
            did.lends.into(),
            did.transactions.into(),
            did.statements.into(),
            did.bytes_from_clients.into(),
            did.bytes_to_clients.into(),
            did.busy_us.into(),
            did.waited_us.into(),
            did.rows.into(),
            did.errors.into(),
            did.logins.into(),
        ]);
    }
}

fn databases(tenants: &[Seen], table: &mut Table) {
    for tenant in tenants {
        // Limits and place are the same for every login.
        let Some(each) = tenant.logins.first() else {
            continue;
        };
        let (address, port) = address(&each.resolved);
        let limits = &each.resolved.route.limits;
        table.add([
            tenant.stats.tenant.as_str().into(),
            address.into(),
            port.map(|port| port.to_string()).into(),
            each.resolved.route.server.database.clone().into(),
            Cell::Null,
            limits.server_connections_max.into(),
            mode(&each.resolved).into(),
            limits.server_connections_max.into(),
            tenant.stats.servers.into(),
            limits.client_connections_max.into(),
            tenant.stats.clients.into(),
            u32::from(tenant.is_paused).into(),
            0_u32.into(),
        ]);
    }
}

fn list_tenants(tenants: &[Seen], table: &mut Table) {
    for tenant in tenants {
        let resolved = tenant.logins.first().map(|each| &each.resolved);
        let limits = resolved.map(|resolved| &resolved.route.limits);
        let waiting = tenant.sessions.iter();
        let waiting = waiting.filter(|session| session.waits_since.is_some());
        table.add([
            tenant.stats.tenant.as_str().into(),
            resolved
                .map(|resolved| resolved.route.server.pid.as_str())
                .into(),
            resolved.map(|resolved| resolved.node.name.as_str()).into(),
            if tenant.is_paused { "paused" } else { "open" }.into(),
            tenant.stats.clients.into(),
            limits.map(|limits| limits.client_connections_max).into(),
            waiting.count().into(),
            tenant.stats.servers.into(),
            limits.map(|limits| limits.server_connections_max).into(),
            tenant.stats.totals.statements.into(),
            tenant.stats.totals.errors.into(),
        ]);
    }
}

fn lists(worker: &Rc<Worker>, tenants: &[Seen], table: &mut Table) {
    let shared = &worker.shared;
    let clients = shared.clients.load(Ordering::Relaxed);
    let sessions: usize = tenants.iter().map(|tenant| tenant.sessions.len()).sum();
    let pools: usize = tenants.iter().map(|tenant| tenant.logins.len()).sum();
    let idle: usize = tenants
        .iter()
        .flat_map(|tenant| &tenant.logins)
        .map(|each| each.idle.len())
        .sum();
    let servers: usize = tenants
        .iter()
        .map(|tenant| tenant.stats.servers as usize)
        .sum();
    for (list, items) in [
        ("databases", tenants.len()),
        ("users", pools),
        ("pools", pools),
        ("free_clients", shared.clients_max.saturating_sub(clients)),
        ("used_clients", sessions),
        ("login_clients", clients.saturating_sub(sessions)),
        ("free_servers", idle),
        ("used_servers", servers.saturating_sub(idle)),
    ] {
        table.add([list.into(), items.into()]);
    }
}

/// Every limit of a process by its name; none is left out.
fn limits(limits: &Limits) -> Vec<(&'static str, String)> {
    let Limits {
        clients_max,
        login_time_max,
        address_connections_max,
        address_attempts_per_second_max,
        address_failures_max,
        address_failures_window,
        address_ban,
        login_steps_max,
        server_idle_max,
        tenant_idle_max,
        budget_wait_max,
        wait_notice_after,
        connects_max,
        connect_time_max,
        reset_time_max,
        abandoned_time_max,
        stale_max,
        fresh_max,
        routes_max,
        insight_statements_max,
        insight_bytes_max,
        log_lines_max,
        log_lines_worker_max,
        cancels_max,
        cancel_time_max,
    } = limits;
    let failures = address_failures_max.to_string();
    let attempts = address_attempts_per_second_max.to_string();
    vec![
        // As PgBouncer calls it.
        ("max_client_conn", clients_max.to_string()),
        ("clients_max", clients_max.to_string()),
        ("login_time_max", seconds(*login_time_max)),
        (
            "address_connections_max",
            address_connections_max.to_string(),
        ),
        ("address_attempts_per_second_max", attempts),
        ("address_failures_max", failures),
        ("address_failures_window", seconds(*address_failures_window)),
        ("address_ban", seconds(*address_ban)),
        ("login_steps_max", login_steps_max.to_string()),
        ("server_idle_max", seconds(*server_idle_max)),
        ("tenant_idle_max", seconds(*tenant_idle_max)),
        ("budget_wait_max", seconds(*budget_wait_max)),
        ("wait_notice_after", seconds(*wait_notice_after)),
        ("connects_max", connects_max.to_string()),
        ("connect_time_max", seconds(*connect_time_max)),
        ("reset_time_max", seconds(*reset_time_max)),
        ("abandoned_time_max", seconds(*abandoned_time_max)),
        ("stale_max", seconds(*stale_max)),
        ("fresh_max", seconds(*fresh_max)),
        ("routes_max", routes_max.to_string()),
        ("insight_statements_max", insight_statements_max.to_string()),
        ("insight_bytes_max", insight_bytes_max.to_string()),
        ("log_lines_max", log_lines_max.to_string()),
        ("log_lines_worker_max", log_lines_worker_max.to_string()),
        ("cancels_max", cancels_max.to_string()),
        ("cancel_time_max", seconds(*cancel_time_max)),
    ]
}

fn config(worker: &Rc<Worker>, table: &mut Table) {
    let defaults = limits(&Limits::default());
    let own = limits(&worker.config.limits);
    for ((key, own), (_, default)) in own.into_iter().zip(defaults) {
        table.add([key.into(), own.into(), default.into(), "no".into()]);
    }
    let consoles = super::CONSOLES_MAX.to_string();
    table.add([
        "consoles_max".into(),
        consoles.clone().into(),
        consoles.into(),
        "no".into(),
    ]);
    let workers = worker.shared.inboxes.len().to_string();
    table.add(["workers".into(), workers.into(), "1".into(), "no".into()]);
    let tls = if worker.config.require_tls {
        "yes"
    } else {
        "no"
    };
    table.add(["require_tls".into(), tls.into(), "yes".into(), "no".into()]);
}

fn seconds(time: std::time::Duration) -> String {
    time.as_secs_f64().to_string()
}

fn help(table: &mut Table) {
    for (_, name, what) in Show::ALL {
        table.add([format!("SHOW {name}").into(), what.into()]);
    }
    for (_, name, what) in Act::ALL {
        table.add([format!("{name} <database id>").into(), what.into()]);
    }
    let what = "ask again what every database may do, and where it is";
    table.add(["RELOAD".into(), what.into()]);
}
