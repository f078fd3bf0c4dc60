//! The page that Prometheus reads: names, help texts, and which number stands where.

use model::exposition::{Page, Value};

use super::{
    BOUNDS_US, Times, Words,
    series::{Series, Split},
};
use crate::stats::{NodeStats, Snapshot, TenantStats, Totals};

/// Label of what is not under a tenant's own name.
const OTHER: &str = "other";
const FORMER: &str = "former";

/// One who reads the numbers again and again. Remembers which tenants have series of their own.
#[derive(Debug)]
pub struct Reader {
    tenants_max: usize,
    series: Series,
}

impl Reader {
    /// With series of their own for the `tenants_max` most active tenants at most.
    pub fn new(tenants_max: usize) -> Self {
        Self {
            tenants_max,
            series: Series::default(),
        }
    }

    /// The page of these numbers.
    pub fn page(&mut self, now: &Snapshot) -> Page {
        let mut page = Page::default();
        clients(&mut page, now);
        statements(&mut page, now);
        servers(&mut page, now);
        mistakes(&mut page, now);
        let split = self.series.split(now, self.tenants_max);
        tenants(&mut page, now, &split);
        page
    }
}

fn words(page: &mut Page, name: &'static str, help: &str, label: &str, words: &Words) {
    let mut family = page.counter(name, help);
    for (word, count) in words {
        family.sample(&[(label, word)], *count);
    }
}

fn times(page: &mut Page, name: &'static str, help: &str, times: &Times) {
    page.histogram(name, help)
        .times(&[], &BOUNDS_US, &times.counts, times.sum_us);
}

fn clients(page: &mut Page, now: &Snapshot) {
    page.gauge(
        "tenantry_clients",
        "Connections of clients, also those that are logging in.",
    )
    .sample(&[], now.clients);
    page.gauge("tenantry_clients_max", "Clients that are let in at once.")
        .sample(&[], now.clients_max);
    page.counter("tenantry_logins_total", "Sessions that began.")
        .sample(&[], now.totals.logins);
    words(
        page,
        "tenantry_logins_refused_total",
        "Clients that got no session, by the SQLSTATE they were told; left: they hung up; http: they spoke HTTP.",
        "code",
        &now.counts.logins_refused,
    );
    times(
        page,
        "tenantry_login_seconds",
        "From accepting a client to the end of its login.",
        &now.counts.login_time,
    );
    page.counter(
        "tenantry_login_steps_delayed_total",
        "Steps of logins that waited so that queries could go on.",
    )
    .sample(&[], now.login_steps_delayed);
    page.counter(
        "tenantry_address_bans_total",
        "Times that a login was banned at an address, or an address as a whole, after repeated failed logins.",
    )
    .sample(&[], now.address_bans);
    page.gauge(
        "tenantry_addresses_remembered",
        "Addresses, and logins at addresses, of which attempts or failures are remembered.",
    )
    .sample(&[], now.addresses_remembered);
    page.gauge(
        "tenantry_addresses_remembered_max",
        "How many can be; with more, what matters least is forgotten.",
    )
    .sample(&[], now.addresses_remembered_max);
    words(
        page,
        "tenantry_sessions_ended_total",
        "Sessions that ended: left: the client ended it; lost: its connection broke; server: PostgreSQL ended it; else the SQLSTATE that the client was told.",
        "how",
        &now.counts.sessions_ended,
    );
    page.counter(
        "tenantry_cancel_requests_total",
        "Cancel requests that named a session.",
    )
    .sample(&[], now.counts.cancels);
}

fn statements(page: &mut Page, now: &Snapshot) {
    for (name, help, get) in COUNTS {
        page.counter(name, help).sample(&[], get(&now.totals));
    }
    words(
        page,
        "tenantry_statements_refused_total",
        "Statements that got no server connection, by the SQLSTATE the client was told.",
        "code",
        &now.counts.statements_refused,
    );
    words(
        page,
        "tenantry_limits_reached_total",
        "Statements refused or stopped and sessions ended because of a limit of their database.",
        "limit",
        &now.counts.limits_reached,
    );
    words(
        page,
        "tenantry_memory_unlimited_total",
        "Times that memory_bytes_max could not be set on server processes of a database: elsewhere: they are not on this machine; refused: the system does not let us.",
        "why",
        &now.counts.memory_unlimited,
    );
    words(
        page,
        "tenantry_pins_total",
        "Times that a session had something that kept it on its server connection, by what it was.",
        "reason",
        &now.counts.pins,
    );
    times(
        page,
        "tenantry_statement_seconds",
        "From a client's question, or several in one flight, to the end of the answer.",
        &now.counts.busy_time,
    );
    times(
        page,
        "tenantry_server_wait_seconds",
        "From asking for a server connection to having one.",
        &now.counts.wait_time,
    );
}

fn servers(page: &mut Page, now: &Snapshot) {
    type Get = fn(&NodeStats) -> usize;
    let families: [(&'static str, &str, Get); 4] = [
        (
            "tenantry_node_servers",
            "Server connections of a node that take a place in its budget.",
            |node| node.servers as usize,
        ),
        (
            "tenantry_node_servers_max",
            "Server connections of a node that this process may hold now: its part of the budget.",
            |node| node.servers_max as usize,
        ),
        (
            "tenantry_node_servers_opening",
            "Server connections of a node that are being opened.",
            |node| node.opening,
        ),
        (
            "tenantry_node_tenants_waiting",
            "Tenants that wait for a place in the budget of a node.",
            |node| node.tenants_waiting,
        ),
    ];
    for (name, help, get) in families {
        let mut family = page.gauge(name, help);
        for node in &now.nodes {
            family.sample(&[("node", &node.node)], get(node));
        }
    }
    page.gauge(
        "tenantry_servers_idle",
        "Server connections that nobody uses, kept for the next who does.",
    )
    .sample(&[], now.servers_idle);
    let counts = &now.counts;
    times(
        page,
        "tenantry_server_open_seconds",
        "Opening a server connection, login included.",
        &counts.open_time,
    );
    page.counter(
        "tenantry_servers_opened_total",
        "Server connections that were opened.",
    )
    .sample(&[], counts.opened);
    words(
        page,
        "tenantry_server_opens_failed_total",
        "Server connections that could not be opened: refused: PostgreSQL did not let us in; full: it had no slot left; down: it did not answer.",
        "why",
        &counts.opens_failed,
    );
    page.counter(
        "tenantry_servers_evicted_total",
        "Idle server connections that were closed because another tenant waited.",
    )
    .sample(&[], counts.evicted);
    page.counter(
        "tenantry_servers_expired_total",
        "Idle server connections that were closed because nobody used them for long.",
    )
    .sample(&[], counts.expired);
}

fn mistakes(page: &mut Page, now: &Snapshot) {
    page.counter(
        "tenantry_out_of_step_total",
        "Answers of servers that nobody had asked for. Anything but 0 is a mistake: report it.",
    )
    .sample(&[], now.mismatches);
    page.counter(
        "tenantry_panics_total",
        "Sessions that ended by a mistake in the program. Anything but 0: report it.",
    )
    .sample(&[], now.panics);
}

type Count = fn(&Totals) -> Value;

/// Of all tenants together.
const COUNTS: [(&str, &str, Count); 7] = [
    (
        "tenantry_statements_total",
        "Statements: results of simple queries, and executions.",
        |totals| totals.statements.into(),
    ),
    (
        "tenantry_transactions_total",
        "Times that PostgreSQL said that no transaction runs any more.",
        |totals| totals.transactions.into(),
    ),
    (
        "tenantry_server_lends_total",
        "Times that a session was lent a server connection.",
        |totals| totals.lends.into(),
    ),
    ("tenantry_rows_total", "Rows sent to clients.", |totals| {
        totals.rows.into()
    }),
    (
        "tenantry_errors_total",
        "Errors that PostgreSQL answered.",
        |totals| totals.errors.into(),
    ),
    (
        "tenantry_client_received_bytes_total",
        "Bytes read from clients after login.",
        |totals| totals.bytes_from_clients.into(),
    ),
    (
        "tenantry_client_sent_bytes_total",
        "Bytes of PostgreSQL's answers sent to clients.",
        |totals| totals.bytes_to_clients.into(),
    ),
];

/// The same of each tenant, and what has a histogram of all together above.
const TENANT_COUNTS: [(&str, &str, Count); 10] = [
    ("tenantry_tenant_statements_total", "Statements.", |t| {
        t.statements.into()
    }),
    ("tenantry_tenant_transactions_total", "Transactions.", |t| {
        t.transactions.into()
    }),
    ("tenantry_tenant_rows_total", "Rows.", |t| t.rows.into()),
    ("tenantry_tenant_errors_total", "Errors.", |t| {
        t.errors.into()
    }),
    (
        "tenantry_tenant_client_received_bytes_total",
        "Bytes read from clients.",
        |t| t.bytes_from_clients.into(),
    ),
    (
        "tenantry_tenant_client_sent_bytes_total",
        "Bytes sent to clients.",
        |t| t.bytes_to_clients.into(),
    ),
    ("tenantry_tenant_logins_total", "Sessions.", |t| {
        t.logins.into()
    }),
    (
        "tenantry_tenant_server_waits_total",
        "Times that clients asked for a server connection.",
        |t| t.waits.into(),
    ),
    (
        "tenantry_tenant_server_wait_seconds_total",
        "Time that clients waited for one.",
        |t| (t.waited_us as f64 / 1e6).into(),
    ),
    (
        "tenantry_tenant_statement_seconds_total",
        "Time that questions of clients took.",
        |t| (t.busy_us as f64 / 1e6).into(),
    ),
];

type Level = fn(&TenantStats) -> usize;

const TENANT_LEVELS: [(&str, &str, Level); 3] = [
    ("tenantry_tenant_clients", "Clients.", |stats| {
        stats.clients as usize
    }),
    (
        "tenantry_tenant_servers",
        "Server connections, also idle ones.",
        |stats| stats.servers as usize,
    ),
    (
        "tenantry_tenant_clients_waiting",
        "Clients that wait for a server connection.",
        |stats| stats.waiting,
    ),
];

fn tenants(page: &mut Page, now: &Snapshot, split: &Split<'_>) {
    page.gauge(
        "tenantry_tenants_in_use",
        "Tenants with clients or server connections, now or a few minutes ago.",
    )
    .sample(&[], now.tenants.len());
    page.gauge(
        "tenantry_clients_waiting",
        "Clients that wait for a server connection.",
    )
    .sample(
        &[],
        now.tenants.iter().map(|stats| stats.waiting).sum::<usize>(),
    );
    for (name, help, get) in TENANT_LEVELS {
        let mut family = page.gauge(name, help);
        for (stats, _) in &split.chosen {
            family.sample(&[("tenant", stats.tenant.as_str())], get(stats));
        }
        let others = split.others.iter().map(|stats| get(stats)).sum::<usize>();
        family.sample(&[("tenant", OTHER)], others);
    }
    for (name, help, get) in TENANT_COUNTS {
        let mut family = page.counter(name, help);
        for (stats, own) in &split.chosen {
            family.sample(&[("tenant", stats.tenant.as_str())], get(own));
        }
        family.sample(&[("tenant", OTHER)], get(&split.other));
        family.sample(&[("tenant", FORMER)], get(&split.former));
    }
}
