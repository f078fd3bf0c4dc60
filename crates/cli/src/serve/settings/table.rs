//! The one table of settings of `serve`.
//!
//! Owns: their names, their defaults in words, and what the help says of each; as a variable of the environment and as a value of a
//! file, too. Does not own: where they are given (`settings`), or what a value means (`serve::config`).

/// One setting.
#[derive(Debug)]
pub(crate) struct Setting {
    /// As a flag without its dashes, and as a key of the file.
    pub(crate) name: &'static str,
    /// What stands for its value in the help; `None` for a switch.
    pub(crate) value: Option<&'static str>,
    /// Used when it is not given, in words where it depends on something.
    pub(crate) default: &'static str,
    /// One line.
    pub(crate) help: &'static str,
}

const fn setting(
    name: &'static str,
    value: &'static str,
    default: &'static str,
    help: &'static str,
) -> Setting {
    Setting {
        name,
        value: Some(value),
        default,
        help,
    }
}

const fn switch(name: &'static str, help: &'static str) -> Setting {
    Setting {
        name,
        value: None,
        default: "false",
        help,
    }
}

/// Every setting, in the order of the help.
pub(crate) const SETTINGS: &[Setting] = &[
    setting(
        "data-dir",
        "DIR",
        "./data",
        "Everything that is kept: keys, certificate, PostgreSQL's data",
    ),
    setting(
        "pg-listen",
        "ADDR",
        "127.0.0.1:5433",
        "Address for PostgreSQL clients",
    ),
    setting(
        "api-listen",
        "ADDR",
        "127.0.0.1:5480",
        "Address for the HTTP API",
    ),
    setting(
        "public-host",
        "NAME",
        "the host of pg-listen",
        "Host name in the connection strings that users get",
    ),
    setting(
        "pg-bin",
        "DIR",
        "found",
        "Directory of PostgreSQL's programs (15 to 18); with `attach`, of `pg_dump` and `pg_restore` of the server's version",
    ),
    setting(
        "pg-user",
        "USER",
        "postgres",
        "User that PostgreSQL runs as when tenantry runs as root",
    ),
    setting(
        "attach",
        "DSN",
        "none",
        "Use this PostgreSQL for the tenants instead of running one",
    ),
    setting(
        "attach-file",
        "FILE",
        "none",
        "The same, read from a file, since a DSN may hold a password",
    ),
    setting(
        "catalog",
        "DSN",
        "on the node",
        "The PostgreSQL database where Tenantry keeps its own records",
    ),
    setting(
        "catalog-file",
        "FILE",
        "none",
        "The same, read from a file, since a DSN may hold a password",
    ),
    setting("tls-cert", "FILE", "self-signed", "Certificate chain, PEM"),
    setting("tls-key", "FILE", "self-signed", "Its key, PEM"),
    setting(
        "log",
        "FORM",
        "human",
        "human or json; goes to standard error",
    ),
    setting(
        "log-filter",
        "FILTER",
        "info",
        "What is logged, for example info,proxy=debug",
    ),
    setting(
        "workers",
        "COUNT",
        "1",
        "Threads that serve PostgreSQL clients; one serves some ten thousand queries a second",
    ),
    setting(
        "clients-max",
        "COUNT",
        "1000",
        "PostgreSQL clients at once; each needs an open file and, idle, some 10 kB",
    ),
    setting(
        "server-connections-max",
        "COUNT",
        "100",
        "Server connections that all tenants may hold together",
    ),
    setting(
        "address-connections-max",
        "COUNT",
        "0, none",
        "PostgreSQL clients at once from one address (of IPv6: one /64)",
    ),
    setting(
        "address-attempts-per-second-max",
        "COUNT",
        "0, none",
        "Logins tried from one address in a second; running queries are not delayed by logins in any case",
    ),
    setting(
        "address-failures-max",
        "COUNT",
        "20",
        "Failed logins of one user from one address, within a minute, that ban this user there for a \
         while; those of four and more users together ban the address. 0 bans nobody",
    ),
    setting("address-ban", "TIME", "60s", "How long such a ban lasts"),
    setting(
        "address-limits-not-for",
        "NETWORKS",
        "none",
        "Where the limits per address do not hold: addresses that many clients share, like \
         192.0.2.0/24,2001:db8::1",
    ),
    setting(
        "proxy-protocol-from",
        "NETWORKS",
        "none",
        "Load balancers: what connects from there must begin with a header of the PROXY protocol, \
         version 2, and the address in it counts as the client's. From elsewhere the header is refused",
    ),
    setting(
        "sql-origins",
        "ORIGINS",
        "none",
        "Web pages that browsers let use SQL over HTTP, like https://app.example,https://example.org, or * for \
         all. None: no page may",
    ),
    setting(
        "sql-issuers",
        "FILE",
        "none",
        "Whose JSON Web Tokens are taken for SQL over HTTP: TOML with [[issuer]]; docs/sql-over-http.md shows \
         one",
    ),
    setting(
        "api-forwarded-from",
        "NETWORKS",
        "none",
        "Proxies in front of the API: what comes from there is counted for the address in its \
         X-Forwarded-For, also for the limits per address. From elsewhere that header means nothing",
    ),
    setting(
        "retention",
        "TIME",
        "24h",
        "How long a deleted database can be undeleted",
    ),
    setting(
        "audit-sync",
        "WHEN",
        "always",
        "When lines of the audit log are on the disk. always: before an administrative action is answered, those of connections within a second; batch: all within a second; off: within ten seconds",
    ),
    setting(
        "audit-keep",
        "TIME",
        "90d",
        "How long lines of the audit log are kept; 0s is for ever. Files go as a whole, and a signed line says so",
    ),
    setting(
        "audit-size-max",
        "SIZE",
        "2GB",
        "Size of the files of administrative actions, and of those of connections, above which the oldest is removed; 16MB at least",
    ),
    setting(
        "backup-store",
        "URL",
        "DIR/backups",
        "Where backups are put: file:///folder, or s3://bucket/prefix with the credentials, region and endpoint \
         of AWS_ACCESS_KEY_ID and the like in the environment",
    ),
    setting(
        "backup-store-file",
        "FILE",
        "none",
        "Lines like AWS_ACCESS_KEY_ID=…, which go before those of the environment",
    ),
    setting(
        "backup-every",
        "TIME",
        "never",
        "Between two backups of each database, a minute at least: 24h for one a day. Each has times of its own, \
         spread evenly; a database can have another schedule (`tenantry backup schedule`)",
    ),
    setting(
        "backup-window",
        "HOURS",
        "all",
        "In which backups by schedule begin, in UTC, like 01:00-05:00 or 22:30-04:00. With it a database is \
         backed up once a day at most",
    ),
    setting(
        "backup-keep",
        "COUNT",
        "14",
        "Good backups by schedule that are kept of a database; 0 is any number. What somebody asked for by hand stays",
    ),
    setting(
        "backup-keep-for",
        "TIME",
        "30d",
        "Older backups by schedule are removed, but for the newest good one of a database that is there; 0s: none",
    ),
    setting(
        "point-in-time",
        "TIME",
        "24h",
        "How far back a managed PostgreSQL can be recovered to any second. It costs the log of that time, compressed, \
         and copies of the data of which the unchanged files are shared. 0s keeps nothing, and removes what was kept",
    ),
    setting(
        "point-in-time-base-every",
        "TIME",
        "12h",
        "Between two copies of the data for that: a recovery replays the log of this time at most",
    ),
    setting(
        "point-in-time-free",
        "SIZE",
        "a tenth of the disk, 1GB at least and 20GB at most",
        "What that leaves free of the disk: before it is less, the oldest of it goes, and then all of it",
    ),
    setting(
        "drill-every",
        "TIME",
        "never",
        "Between two restore drills, a minute at least: the last good backup of the database that was drilled longest \
         ago is restored where nobody can reach it, compared, timed and dropped",
    ),
    setting(
        "recovery-target",
        "TIME",
        "1h",
        "How long a restore may take: `tenantry fleet` shows it beside what the last drill took",
    ),
    setting(
        "stuck-after",
        "TIME",
        "10m",
        "How long a database may be on its way (CREATING, CLONING, DISABLING) before it is driven on, or \
         fails with the reason in its status",
    ),
    setting(
        "server-idle-max",
        "TIME",
        "30s",
        "How long a server connection may be used by nobody before it is closed. Opening one takes some \
         milliseconds, an idle one about 2 MB of the server's memory",
    ),
    setting(
        "connect-token-time-max",
        "TIME",
        "10m",
        "How long a connect token can be used to log in, at most, and when nobody asks for less",
    ),
    setting(
        "warm-pool",
        "COUNT",
        "8",
        "Databases made in advance, so that a create takes milliseconds",
    ),
    setting(
        "drain-limit",
        "TIME",
        "30s",
        "How long clients may go on after SIGTERM",
    ),
    setting(
        "connection-locks-max",
        "COUNT",
        "1000",
        "Entries of PostgreSQL's lock table, which all tenants share, that one server connection may hold; \
         with more it is ended. A dump or restore in one transaction takes one for each table, index and \
         sequence. A managed PostgreSQL gets a table that fits",
    ),
    setting(
        "process-memory-max",
        "SIZE",
        "an eighth of the machine's, 512MB at least",
        "Private memory of each process of a managed PostgreSQL; a statement that wants more fails with 53200. \
         A database can have less (memory_bytes_max)",
    ),
    setting(
        "notify-queue-max",
        "PERCENT",
        "50",
        "How full the queue of NOTIFY, which all tenants share, may be before sessions that may hold it up \
         are ended; 100 leaves them",
    ),
    setting(
        "metrics-tenants-max",
        "COUNT",
        "200",
        "Databases with series of their own in /metrics, the most active; the others are added up",
    ),
    setting(
        "insight-statements-max",
        "COUNT",
        "200",
        "Statements told apart for each database, with how often they ran and how long they took, without \
         their constants; those that count most, the others are added up. 0: none, and no times",
    ),
    setting(
        "statement-log-keep",
        "TIME",
        "7d",
        "How long lines of the statement logs of databases are kept, 1m at least; of each database the last 10,000 are, of all \
         together 1,000,000",
    ),
    switch(
        "metrics-open",
        "Let anybody who reaches the API read /metrics, which names databases by their ids; otherwise it \
         takes the operator's key",
    ),
    switch(
        "replace-installation-key",
        "For one start, when installation.key is lost for good: go on with the one that is there, or a new one, although the \
         catalog belongs to another. All passwords have to be set anew, no backup made before opens, webhooks of alerts need new \
         secrets, and `audit verify` objects to every line written before ([list](settings.md#when-installationkey-is-lost))",
    ),
    switch(
        "api-tls",
        "Serve the API over TLS, with the certificate of the PostgreSQL port",
    ),
    switch(
        "allow-plain-http",
        "Serve the API without TLS on an address that is not loopback",
    ),
    switch(
        "allow-plain-pg",
        "Let PostgreSQL clients in without TLS: for measuring, or where something else encrypts",
    ),
    setting(
        "anonymous-per-hour-max",
        "COUNT",
        "100",
        "Anonymous projects that one address (of IPv6: one /64) may make within an hour, counted over all processes; \
         0 is no limit. Behind a reverse proxy set api-forwarded-from, too",
    ),
    Setting {
        name: "allow-anonymous",
        value: None,
        default: "true where both addresses are loopback",
        help: "Let anybody register a project",
    },
];

impl Setting {
    /// What a value in the file has to be: in TOML `5` is a number and no path.
    pub(super) fn kind(&self) -> &'static str {
        match self.value {
            None => "true or false",
            Some("COUNT" | "PERCENT") => "a number",
            Some(_) => "one text in quotes",
        }
    }

    /// A value of the file as it would be given on the command line; numbers and switches may stand in
    /// quotes, too. `None`: of another kind.
    pub(super) fn text(&self, value: &toml::de::DeValue<'_>) -> Option<String> {
        let text = value.as_str().map(str::to_owned);
        match self.value {
            None => text.or_else(|| value.as_bool().map(|value| value.to_string())),
            Some("COUNT" | "PERCENT") => {
                text.or_else(|| value.as_integer().map(|value| value.as_str().to_owned()))
            }
            Some(_) => text,
        }
    }

    /// Its environment variable.
    pub(crate) fn variable(&self) -> String {
        format!("TENANTRY_{}", self.name.replace('-', "_").to_uppercase())
    }
}
