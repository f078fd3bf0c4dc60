//! A PostgreSQL server, a control plane that answers from a table, and a proxy, for one test.
//!
//! Owns: starting and stopping them, and making tenants. The control plane is a stand-in for the
//! other end of `model::route`, which is a contract of its own; everything else is real.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test binary uses a part of it"
)]

pub mod common;
pub mod pair;
pub mod raw;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use model::{
    CredentialId, LoginName, Pid, Role, Secret, TenantId,
    route::{
        Access, BudgetLease, Candidate, Change, Demand, NodeAddress, NodeTarget, Report, Request,
        Resolved, Route, ServerLogin, Storage, Unavailable,
    },
};
use proxy::{Config, Proxy, TlsConfig};
use scratch::Scratch;
use tokio::sync::broadcast;
use wire::scram::{Keys, login_salt};

pub const INSTALLATION_KEY: [u8; 32] = [7; 32];

/// Where Debian puts PostgreSQL 15, unless the environment says something else.
fn postgres_15() -> PathBuf {
    let directory = std::env::var_os("TENANTRY_TEST_PG_BIN");
    directory.map_or("/usr/lib/postgresql/15/bin".into(), PathBuf::from)
}

/// Programs of PostgreSQL 18, fetched once.
pub fn postgres_18() -> PathBuf {
    let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/tools/postgres-18");
    let output = Command::new(tool).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().trim().into()
}

/// The mode of tenants that say nothing else; the environment can choose another one for a whole run.
fn pool_mode() -> model::route::PoolMode {
    let mode = std::env::var("TENANTRY_TEST_POOL_MODE");
    mode.map_or_else(|_| Default::default(), |mode| mode.parse().unwrap())
}

/// A command that runs as an ordinary user also when we are root, and ends with us.
fn unprivileged(program: &Path) -> Command {
    if rustix::process::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
        command.args(["--pdeathsig", "INT"]).arg(program);
        command
    } else {
        Command::new(program)
    }
}

/// Waits until `done`, for 20 s at most: before idle server connections are closed anyway.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < until, "waited in vain until {what}");
        // The others have the processor.
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// A PostgreSQL server of its own, reached by unix socket.
pub struct Postgres {
    bin: PathBuf,
    directory: Scratch,
    server: Child,
    port: u16,
}

impl Postgres {
    pub fn start(bin: PathBuf) -> Self {
        let directory = Scratch::new();
        if rustix::process::geteuid().is_root() {
            let owner = Command::new("chown")
                .arg("postgres")
                .arg(directory.path())
                .status();
            assert!(owner.unwrap().success());
        }
        let data = directory.join("data");
        let made = unprivileged(&bin.join("initdb"))
            .args([
                "-U",
                "platform",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C",
                "--no-sync",
                "-D",
            ])
            .arg(&data)
            .stdout(Stdio::null())
            .status();
        assert!(made.unwrap().success());
        std::fs::write(
            data.join("pg_hba.conf"),
            "local all platform trust\nlocal samerole all scram-sha-256\n",
        )
        .unwrap();
        let port = 5432;
        let server = Self::spawn(&bin, directory.path(), port, &["listen_addresses="]);
        let mut postgres = Self {
            bin,
            directory,
            server,
            port,
        };
        postgres.wait();
        for group in ["owner", "admin", "write", "read"] {
            postgres.sql("postgres", &format!("CREATE ROLE tenantry_{group} NOLOGIN"));
        }
        postgres
    }

    fn spawn(bin: &Path, directory: &Path, port: u16, settings: &[&str]) -> Child {
        let log = std::fs::File::create(directory.join("log")).unwrap();
        let mut server = unprivileged(&bin.join("postgres"));
        server.arg("-D").arg(directory.join("data"));
        let socket = format!("unix_socket_directories={}", directory.display());
        let port = format!("port={port}");
        for setting in ["fsync=off", "max_connections=60", &socket, &port] {
            server.args(["-c", setting]);
        }
        for setting in settings {
            server.args(["-c", setting]);
        }
        server.stdout(Stdio::null()).stderr(log).spawn().unwrap()
    }

    /// However long it takes to start, unless it ends.
    fn wait(&mut self) {
        let mut psql = self.psql("postgres", "SELECT 1");
        psql.stderr(Stdio::null());
        while !psql.output().unwrap().status.success() {
            let ended = self.server.try_wait().unwrap();
            let log = || std::fs::read_to_string(self.directory.join("log"));
            assert_eq!(ended, None, "the server has ended: {:?}", log());
        }
    }

    fn psql(&self, database: &str, sql: &str) -> Command {
        let mut psql = Command::new("psql");
        psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "platform", "-h"])
            .arg(self.directory.path())
            .args(["-p", &self.port.to_string(), "-d", database, "-c", sql]);
        psql
    }

    /// Runs SQL as the platform; returns what it prints.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        let output = self.psql(database, sql).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{sql}: {error}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.join(format!(".s.PGSQL.{}", self.port))
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Lets it listen on TCP as well, with TLS only, under this certificate. Returns the port.
    pub fn listen_with_tls(&mut self, certificate: &str, key: &str) -> u16 {
        let data = self.directory.join("data");
        let hba = "local all platform trust\nlocal samerole all scram-sha-256\n\
                   hostssl samerole all 127.0.0.1/32 scram-sha-256\n";
        for (name, text) in [
            ("server.crt", certificate),
            ("server.key", key),
            ("pg_hba.conf", hba),
        ] {
            let path = data.join(name);
            std::fs::write(&path, text).unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            std::fs::set_permissions(&path, mode).unwrap();
            if rustix::process::geteuid().is_root() {
                let owner = Command::new("chown").arg("postgres").arg(&path).status();
                assert!(owner.unwrap().success());
            }
        }
        self.crash();
        let _ = std::fs::remove_file(data.join("postmaster.pid"));
        // Free a moment ago.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        self.port = free.local_addr().unwrap().port();
        drop(free);
        let settings = ["listen_addresses=127.0.0.1", "ssl=on"];
        self.server = Self::spawn(&self.bin, self.directory.path(), self.port, &settings);
        self.wait();
        self.port
    }

    /// Stops it at once, as a crash would.
    pub fn crash(&mut self) {
        self.signal("QUIT");
        self.server.wait().unwrap();
    }

    /// Starts it again after [`Self::crash`].
    pub fn restart(&mut self) {
        let _ = std::fs::remove_file(self.directory.join("data/postmaster.pid"));
        self.server = Self::spawn(
            &self.bin,
            self.directory.path(),
            self.port,
            &["listen_addresses="],
        );
        self.wait();
    }

    fn signal(&self, name: &str) {
        let pid = self.server.id().to_string();
        let _ = Command::new("kill").args(["-s", name, &pid]).status();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.signal("QUIT");
        let _ = self.server.wait();
    }
}

/// What the control plane says, and what it was asked.
#[derive(Default)]
pub struct Table {
    pub routes: HashMap<LoginName, Resolved>,
    pub asked: Vec<LoginName>,
    pub reports: Vec<Report>,
    pub used: HashSet<CredentialId>,
    pub is_away: bool,
    /// How much of the budget the proxy may use; all of it unless a test says otherwise.
    pub lent: Option<u32>,
    pub lent_for: Duration,
    pub demands: Vec<Demand>,
    generation: u64,
}

/// A tenant with a password per role.
#[derive(Clone)]
pub struct Tenant {
    pub id: TenantId,
    pub pid: Pid,
    pub password: String,
}

impl Tenant {
    pub fn login(&self, role: Role) -> LoginName {
        LoginName {
            tenant: self.id.clone(),
            login: role.into(),
        }
    }
}

/// Everything a test needs.
pub struct Stack {
    pub postgres: Postgres,
    pub table: Arc<Mutex<Table>>,
    pub proxy: Option<Proxy>,
    pub port: u16,
    pub certificate: String,
    pub node: Arc<NodeTarget>,
    changes: broadcast::Sender<Change>,
}

impl Stack {
    /// With the budget of 20 and what `change` makes of the configuration.
    pub async fn start(change: impl FnOnce(&mut Config)) -> Self {
        Self::with_budget(20, change).await
    }

    pub async fn with_budget(budget: u32, change: impl FnOnce(&mut Config)) -> Self {
        Self::with(postgres_15(), budget, change).await
    }

    /// With the programs of another PostgreSQL.
    pub async fn start_on(bin: PathBuf, change: impl FnOnce(&mut Config)) -> Self {
        Self::with(bin, 20, change).await
    }

    async fn with(bin: PathBuf, budget: u32, change: impl FnOnce(&mut Config)) -> Self {
        let postgres = Postgres::start(bin);
        let (client, mut server) = model::route::channel();
        let table = Arc::new(Mutex::new(Table {
            lent_for: Duration::from_secs(3600),
            ..Table::default()
        }));
        let changes = server.changes.clone();
        let answers = table.clone();
        tokio::spawn(async move {
            while let Some(request) = server.requests.recv().await {
                let mut table = answers.lock().unwrap();
                match request {
                    Request::Resolve { login, reply } => {
                        table.asked.push(login.clone());
                        let _ = reply.send(if table.is_away {
                            Err(Unavailable)
                        } else {
                            Ok(table.routes.get(&login).cloned())
                        });
                    }
                    Request::Consume { credential, reply } => {
                        let _ = reply.send(table.used.insert(credential));
                    }
                    Request::Lease { demand, reply } => {
                        let _ = reply.send(if table.is_away {
                            Err(Unavailable)
                        } else {
                            table.demands.push(demand.clone());
                            Ok(BudgetLease {
                                server_connections: table.lent.unwrap_or(demand.budget),
                                valid_for: table.lent_for,
                            })
                        });
                    }
                    Request::Report(report) => table.reports.push(report),
                }
            }
        });
        let identity = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let certificate = identity.cert.pem();
        let key = identity.signing_key.serialize_pem();
        let mut config = Config::new(vec!["127.0.0.1:0".parse().unwrap()], INSTALLATION_KEY);
        config.tls = Some(TlsConfig::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap());
        change(&mut config);
        let proxy = proxy::start(config, client).await.unwrap();
        let node = Arc::new(NodeTarget {
            name: "node".to_owned(),
            address: NodeAddress::Unix(postgres.socket()),
            server_connections_max: budget,
        });
        Self {
            port: proxy.local_addrs()[0].port(),
            proxy: Some(proxy),
            postgres,
            table,
            certificate,
            changes,
            node,
        }
    }

    pub fn proxy(&self) -> &Proxy {
        self.proxy.as_ref().unwrap()
    }

    /// A tenant as `node` makes it, as far as a proxy notices.
    pub fn tenant(&self) -> Tenant {
        let mut rng = rand::rng();
        let tenant = Tenant {
            id: TenantId::random(&mut rng),
            pid: Pid::random(&mut rng),
            password: Pid::random(&mut rng).as_str().to_owned(),
        };
        let database = tenant.pid.database();
        let mut roles = format!("CREATE ROLE {database} NOLOGIN;");
        for role in Role::ALL {
            let login = role.login(&tenant.pid);
            let group = role.group().as_str();
            roles += &format!(
                "CREATE ROLE {login} LOGIN NOINHERIT PASSWORD 'server-{login}';
                 GRANT {group}, {database} TO {login};"
            );
        }
        self.postgres.sql("postgres", &roles);
        self.postgres
            .sql("postgres", &format!("CREATE DATABASE {database}"));
        self.postgres.sql(
            &database,
            &format!(
                "REVOKE CONNECT, TEMPORARY ON DATABASE {database} FROM PUBLIC;
                 GRANT CONNECT ON DATABASE {database} TO {database}_admin, {database}_write,
                     {database}_read;
                 GRANT CREATE, TEMPORARY ON DATABASE {database} TO tenantry_admin;
                 GRANT ALL ON SCHEMA public TO tenantry_admin"
            ),
        );
        for role in Role::ALL {
            self.set_route(&tenant, role, |_| {});
        }
        tenant
    }

    /// Sessions of this tenant keep their server connections.
    pub fn keep_servers(&self, tenant: &Tenant) {
        for role in Role::ALL {
            self.set_route(tenant, role, |route| {
                route.pool_mode = model::route::PoolMode::Session;
            });
        }
    }

    /// Makes the route of a role anew, as `change` makes it.
    pub fn set_route(&self, tenant: &Tenant, role: Role, change: impl FnOnce(&mut Route)) {
        let mut route = Route {
            tenant: tenant.id.clone(),
            login: role.into(),
            role,
            clients_max: None,
            access: Access::Open,
            expires_in: None,
            candidates: vec![self.candidate(tenant, role, &tenant.password)],
            server: ServerLogin {
                pid: tenant.pid.clone(),
                database: tenant.pid.database(),
                user: role.login(&tenant.pid),
                password: Secret::new(format!("server-{}", role.login(&tenant.pid))),
                group: role.group(),
                settings: BTreeMap::from([("statement_timeout".to_owned(), "60s".to_owned())]),
            },
            limits: model::Limits::default(),
            storage: Storage::Free,
            pool_mode: pool_mode(),
        };
        change(&mut route);
        self.table.lock().unwrap().routes.insert(
            tenant.login(role),
            Resolved {
                route: Arc::new(route),
                node: self.node.clone(),
            },
        );
    }

    pub fn candidate(&self, tenant: &Tenant, role: Role, password: &str) -> Candidate {
        self.candidate_of(&tenant.login(role), password)
    }

    pub fn candidate_of(&self, login: &LoginName, password: &str) -> Candidate {
        let salt = login_salt(&INSTALLATION_KEY, &login.to_string());
        let keys = Keys::from_password(password, &salt, wire::scram::ITERATIONS_DEFAULT);
        Candidate {
            id: CredentialId::random(&mut rand::rng()),
            stored_key: keys.stored_key,
            server_key: keys.server_key,
            expires_at: None,
            one_use: false,
            outlived: false,
            network: None,
        }
    }

    /// Makes a user, who may have so many clients, with the login `x_<pid>_<role>_<id>`; or only its route anew.
    pub fn user(
        &self,
        tenant: &Tenant,
        (name, role): (&str, Role),
        clients_max: Option<u32>,
    ) -> LoginName {
        let login = LoginName {
            tenant: tenant.id.clone(),
            login: name.parse().unwrap(),
        };
        let id = format!("{name:u<12}").parse().unwrap();
        let user = role.user_login(&tenant.pid, &id);
        let (database, group) = (tenant.pid.database(), role.group().as_str());
        let known = self.table.lock().unwrap().routes.get(&login).cloned();
        if known.is_none() {
            let sql = format!(
                "CREATE ROLE {user} LOGIN NOINHERIT PASSWORD 'server-{user}';
                 GRANT {group}, {database} TO {user};
                 GRANT CONNECT ON DATABASE {database} TO {user}"
            );
            self.postgres.sql("postgres", &sql);
        }
        let of_role = self.table.lock().unwrap().routes[&tenant.login(role)].clone();
        let route = Route {
            tenant: tenant.id.clone(),
            login: login.login,
            role,
            access: Access::Open,
            expires_in: None,
            clients_max,
            candidates: match known {
                Some(known) => known.route.candidates.clone(),
                None => vec![self.candidate_of(&login, &tenant.password)],
            },
            server: ServerLogin {
                password: Secret::new(format!("server-{user}")),
                user,
                ..of_role.route.server.clone()
            },
            limits: model::Limits::default(),
            storage: Storage::Free,
            pool_mode: pool_mode(),
        };
        let resolved = Resolved {
            route: Arc::new(route),
            node: self.node.clone(),
        };
        let mut table = self.table.lock().unwrap();
        table.routes.insert(login.clone(), resolved);
        drop(table);
        login
    }

    /// Tells the proxy so much that it cannot keep up, about tenants that do not exist.
    pub fn flood_of_changes(&self) {
        let mut rng = rand::rng();
        let nobody = TenantId::random(&mut rng);
        for generation in 0..20_000 {
            let _ = self.changes.send(Change {
                generation,
                tenant: nobody.clone(),
            });
        }
    }

    /// Tells the proxy that a tenant changed.
    pub fn announce(&self, tenant: &Tenant) {
        let generation = {
            let mut table = self.table.lock().unwrap();
            table.generation += 1;
            table.generation
        };
        let _ = self.changes.send(Change {
            generation,
            tenant: tenant.id.clone(),
        });
    }

    pub fn config(&self, tenant: &Tenant, role: Role) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config
            .host("localhost")
            .hostaddr([127, 0, 0, 1].into())
            .port(self.port)
            .user(tenant.login(role).to_string())
            .password(&tenant.password)
            .dbname("postgres")
            .ssl_mode(tokio_postgres::config::SslMode::Require);
        config
    }

    /// TLS that verifies the proxy's certificate.
    pub fn tls(&self) -> tokio_postgres_rustls::MakeRustlsConnect {
        let mut roots = rustls::RootCertStore::empty();
        let pem = self.certificate.as_bytes();
        let certificate = rustls::pki_types::pem::PemObject::from_pem_slice(pem).unwrap();
        roots.add(certificate).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        tokio_postgres_rustls::MakeRustlsConnect::new(tls)
    }

    /// Connects with the certificate verified.
    pub async fn connect_with(
        &self,
        config: &tokio_postgres::Config,
    ) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
        let (client, connection) = config.connect(self.tls()).await?;
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(client)
    }

    pub async fn connect(&self, tenant: &Tenant, role: Role) -> tokio_postgres::Client {
        let config = self.config(tenant, role);
        self.connect_with(&config).await.unwrap()
    }

    /// A session of the admin that shows every byte.
    pub fn session(&self, tenant: &Tenant) -> raw::Raw {
        let mut raw = raw::Raw::plain(self.port);
        let user = tenant.login(Role::Admin).to_string();
        let list = [("user", user.as_str()), ("database", "postgres")];
        let seen = raw.log_in(wire::startup::Protocol::V3_0, &list, &tenant.password);
        assert_eq!(raw::code_of(&seen), "");
        raw
    }

    /// Processes of clients in PostgreSQL, other than those that ask here, of which one may be about to end.
    pub fn backends(&self) -> usize {
        self.postgres
            .sql(
                "postgres",
                "SELECT count(*) FROM pg_stat_activity
                 WHERE backend_type = 'client backend' AND application_name <> 'psql'",
            )
            .parse()
            .unwrap()
    }
}

/// SQLSTATE of a failed connection or statement.
pub fn code(error: &tokio_postgres::Error) -> &str {
    error.code().map_or("", |code| code.code())
}
