//! A stack whose steps can be stopped and whose processes can be killed, and what must hold of it
//! afterwards.
//!
//! Owns: the test hook, the ways to kill and to come back, and the checks that do not depend on
//! what was going on: all rows at rest, the checker clean, nothing on the server that no row
//! mentions, and a bystander who lost nothing.

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use kit::{
    Stack, StackConfig,
    postgres::children,
    program::{self, is_running, signal, wait_for},
};
use rustix::process::Signal;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use serde_json::{Value, json};
use tokio_postgres::{Client, Config, NoTls, config::SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::point::Kill;

/// From the return of the server until every row is where it should be. Retries wait at most
/// seconds; a pass that only goes on when a lease of a minute ends is a mistake.
const SETTLE_MAX: Duration = Duration::from_secs(20);
/// The same where the node may have to be recovered meanwhile: all of its data is copied, and its log replayed.
const SETTLE_RECOVERED_MAX: Duration = Duration::from_secs(50);
/// Until a step is reached, and until the API answers again.
const REACH_MAX: Duration = Duration::from_secs(30);

/// Deaths of one PostgreSQL after each other, before the stack is started anew: the pause before it
/// is started again doubles each time, and the suite has no time for long ones.
const DEATHS_MAX: u32 = 3;

/// A database as its user knows it.
#[derive(Clone, Debug)]
pub(crate) struct Tenant {
    pub(crate) id: String,
    pub(crate) password: String,
}

impl Tenant {
    /// Out of the answer to a create.
    #[track_caller]
    pub(crate) fn of(answer: &Value) -> Self {
        let text = |key: &str| answer[key].as_str().map(str::to_owned);
        Self {
            id: text("id").unwrap_or_else(|| panic!("no id: {answer}")),
            password: text("admin_password").unwrap_or_else(|| panic!("no password: {answer}")),
        }
    }

    pub(crate) fn path(&self) -> String {
        format!("/customer/databases/{}", self.id)
    }
}

/// Ends with the session, and with why.
pub(crate) type Hears = tokio::task::JoinHandle<Result<(), tokio_postgres::Error>>;

pub(crate) struct World {
    pub(crate) stack: Stack,
    pub(crate) http: reqwest::Client,
    pause: PathBuf,
    pool_min: i64,
    has_history: bool,
    bystander: Option<Tenant>,
    counter: u32,
    /// Of PostgreSQL since the process was started.
    deaths: u32,
    /// What is told when the test fails.
    case: String,
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed in {}", self.case);
        }
    }
}

impl World {
    /// A stack that makes `pool_min` databases ahead and keeps deleted ones for `retention`.
    pub(crate) async fn start(config: StackConfig, pool_min: u32, retention: &str) -> Self {
        let has_history = config
            .arguments
            .iter()
            .any(|said| said == "--point-in-time");
        let mut stack = Stack::not_started(config);
        let pause = stack.scratch().join("pause.at");
        let config = stack.config_mut();
        config.environment.push((
            "TENANTRY_PAUSE_FILE".to_owned(),
            pause.display().to_string(),
        ));
        for argument in [
            "--warm-pool",
            &pool_min.to_string(),
            "--retention",
            retention,
        ] {
            config.arguments.push(argument.to_owned());
        }
        stack.start_again();
        let mut world = Self {
            stack,
            http: reqwest::Client::builder()
                // A connection kept from before a kill would fail a request for no reason.
                .pool_max_idle_per_host(0)
                .build()
                .expect("an HTTP client"),
            pause,
            pool_min: i64::from(pool_min),
            has_history,
            bystander: None,
            counter: 0,
            deaths: 0,
            case: "the start".to_owned(),
        };
        // Who finds the pool empty makes it grow, and a pool that is too large is not refilled.
        world.wait_settled().await;
        let bystander = world.create("bystander").await;
        world.write_canary(&bystander).await;
        world.bystander = Some(bystander);
        world.wait_settled().await;
        world
    }

    /// Should the test fail from now on, it failed here.
    pub(crate) fn say_at_panic(&mut self, case: String) {
        self.case = case;
    }

    /// The last look, as an operator takes it, and an end in good order.
    pub(crate) async fn finish(mut self) {
        self.assert_sound().await;
        let mut doctor = self.stack.cli_command(&["doctor", "--deep"]);
        doctor
            .env("TENANTRY_API_KEY", self.stack.operator_key())
            .arg("--data-dir")
            .arg(self.stack.data_dir());
        let told = program::run(&mut doctor);
        assert!(told.ok().contains("nothing found"), "{told:#?}");
        self.stack.stop();
    }

    /// A name that was not used yet.
    pub(crate) fn new_name(&mut self) -> String {
        self.counter += 1;
        format!("case-{}", self.counter)
    }

    // --- steps ---------------------------------------------------------------------------------

    /// From now on whoever comes to `point` waits there.
    pub(crate) fn arm(&self, point: &str) {
        let _ = fs::remove_file(self.mark());
        let new = self.pause.with_extension("new");
        fs::write(&new, point).expect("write the file of the hook");
        fs::rename(&new, &self.pause).expect("arm the hook");
    }

    /// Whoever waits goes on.
    pub(crate) fn disarm(&self) {
        let _ = fs::remove_file(&self.pause);
    }

    #[track_caller]
    pub(crate) fn wait_reached(&self, point: &str) {
        let mark = self.mark();
        wait_for(point, REACH_MAX, || {
            let reached = fs::read_to_string(&mark).ok()?;
            (reached == point).then_some(())
        });
    }

    fn mark(&self) -> PathBuf {
        self.pause.with_extension("reached")
    }

    // --- kills ---------------------------------------------------------------------------------

    /// Kills, lets the step that waits go on if it still can, and brings everything back.
    #[track_caller]
    pub(crate) fn kill_and_return(&mut self, kill: Kill) {
        match kill {
            Kill::Tenantry => self.stack.kill(),
            Kill::Postgres => self.kill_postgres(),
            Kill::Both => {
                self.stack.kill();
                self.kill_postgres();
            }
        }
        self.disarm();
        match kill {
            Kill::Tenantry | Kill::Both => {
                self.stack.start_again();
                self.deaths = 0;
            }
            Kill::Postgres => self.deaths += 1,
        }
    }

    /// Begins anew with the shortest pause after a death, when there were many.
    pub(crate) fn forget_deaths(&mut self) {
        if self.deaths >= DEATHS_MAX {
            self.stack.stop();
            self.stack.start_again();
            self.deaths = 0;
        }
    }

    /// The postmaster and, in the same moment, every process it made.
    #[track_caller]
    pub(crate) fn kill_postgres(&self) {
        let postmaster = self.stack.postmaster().expect("PostgreSQL runs");
        // Stopped first, so that it makes no new ones while its children are counted.
        signal(postmaster, Signal::STOP);
        let mut all = children(postmaster);
        all.push(postmaster);
        for pid in &all {
            signal(*pid, Signal::KILL);
        }
        wait_for("the end of PostgreSQL", REACH_MAX, || {
            (!all.iter().any(|pid| is_running(*pid))).then_some(())
        });
    }

    /// Waits until the API can work again.
    pub(crate) async fn wait_back(&self) {
        let started = Instant::now();
        loop {
            let url = format!("{}/readyz", self.stack.api_url());
            match self.http.get(url).send().await {
                Ok(answer) if answer.status().is_success() => return,
                other => assert!(started.elapsed() < REACH_MAX, "not ready: {other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    // --- the way in ----------------------------------------------------------------------------

    /// Logs in as a client does: over TLS, the certificate verified.
    pub(crate) async fn login(
        &self,
        id: &str,
        password: &str,
    ) -> Result<Client, tokio_postgres::Error> {
        let (client, _) = self.session(id, password).await?;
        Ok(client)
    }

    /// The same, with the task that hears what the server says while nothing is asked.
    pub(crate) async fn session(
        &self,
        id: &str,
        password: &str,
    ) -> Result<(Client, Hears), tokio_postgres::Error> {
        self.session_as(&format!("{id}.admin"), password).await
    }

    /// The same for anybody who may log in: a role, or a user of a database.
    pub(crate) async fn session_as(
        &self,
        user: &str,
        password: &str,
    ) -> Result<(Client, Hears), tokio_postgres::Error> {
        self.connect(user, password, "postgres").await
    }

    /// The operator's console.
    pub(crate) async fn console(&self) -> Client {
        let key = self.stack.operator_key();
        let console = self.connect("operator", &key, "tenantry").await;
        console.expect("the console").0
    }

    async fn connect(
        &self,
        user: &str,
        password: &str,
        database: &str,
    ) -> Result<(Client, Hears), tokio_postgres::Error> {
        let address = self.stack.pg_address();
        let (host, port) = address.rsplit_once(':').expect("host:port");
        let mut config = Config::new();
        config
            .host(host)
            .port(port.parse().expect("a port"))
            .user(user)
            .password(password)
            .dbname(database)
            .ssl_mode(SslMode::Require)
            .connect_timeout(REACH_MAX);
        let (client, connection) = config.connect(self.tls()).await?;
        Ok((client, tokio::spawn(connection)))
    }

    fn tls(&self) -> MakeRustlsConnect {
        let mut roots = RootCertStore::empty();
        let certificate = CertificateDer::from_pem_file(self.stack.certificate());
        roots
            .add(certificate.expect("the certificate"))
            .expect("a certificate that can be trusted");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        MakeRustlsConnect::new(config)
    }

    /// A row that must still be there whenever the database can be used.
    pub(crate) async fn write_canary(&self, tenant: &Tenant) {
        let client = self
            .login(&tenant.id, &tenant.password)
            .await
            .expect("login");
        client
            .batch_execute(&format!(
                "CREATE TABLE canary (v text); INSERT INTO canary VALUES ('{}')",
                tenant.id
            ))
            .await
            .expect("write the canary");
    }

    /// The password opens it, and its canary is there.
    pub(crate) async fn assert_canary(&self, tenant: &Tenant) {
        let client = self.login(&tenant.id, &tenant.password).await;
        let client = client.unwrap_or_else(|error| panic!("login to {tenant:?}: {error:?}"));
        let rows = client.query("SELECT v FROM canary", &[]).await;
        let rows = rows.unwrap_or_else(|error| panic!("canary of {tenant:?}: {error:?}"));
        let found: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
        assert_eq!(found, [tenant.id.as_str()]);
    }

    /// What stands in the canary of `tenant`, whose password opens it.
    pub(crate) async fn canary(&self, tenant: &Tenant) -> Vec<String> {
        let client = self.login(&tenant.id, &tenant.password).await;
        let client = client.unwrap_or_else(|error| panic!("login to {tenant:?}: {error:?}"));
        let rows = client.query("SELECT v FROM canary", &[]).await;
        let rows = rows.unwrap_or_else(|error| panic!("canary of {tenant:?}: {error:?}"));
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// The canary of `tenant` is the one of `parent`: it is a copy.
    pub(crate) async fn assert_canary_of(&self, tenant: &Tenant, parent: &Tenant) {
        assert_eq!(self.canary(tenant).await, [parent.id.as_str()]);
    }

    /// Something that only `tenant` has.
    pub(crate) async fn change_canary(&self, tenant: &Tenant) {
        let client = self.login(&tenant.id, &tenant.password).await;
        let client = client.unwrap_or_else(|error| panic!("login to {tenant:?}: {error:?}"));
        let sql = "UPDATE canary SET v = 'changed'";
        client.batch_execute(sql).await.expect("change the canary");
    }

    /// The SQLSTATE that a login ends with.
    pub(crate) async fn refusal(&self, id: &str, password: &str) -> String {
        match self.login(id, password).await {
            Ok(_) => "let in".to_owned(),
            Err(error) => error
                .code()
                .map_or_else(|| format!("{error:?}"), |code| code.code().to_owned()),
        }
    }

    // --- what must hold afterwards -------------------------------------------------------------

    /// PostgreSQL's own superuser, past everything of ours.
    pub(crate) async fn superuser(&self, database: &str) -> Result<Client, tokio_postgres::Error> {
        let postmaster = fs::read_to_string(self.stack.cluster().join("postmaster.pid"));
        let text = postmaster.expect("PostgreSQL runs");
        let socket_dir = text
            .lines()
            .nth(4)
            .expect("its fifth line names the directory");
        let password = fs::read_to_string(self.stack.data_dir().join("superuser.password"));
        let mut config = Config::new();
        config
            .host_path(socket_dir)
            .user("tenantry")
            .password(password.expect("the superuser's password").trim())
            .dbname(database);
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Waits until nothing is on its way; returns how long that took.
    pub(crate) async fn wait_settled(&self) -> Duration {
        const UNSETTLED: &str = "
            SELECT coalesce(string_agg(format('%s %s %s due %s leased %s tries %s: %s', p.pid,
                       p.owner, p.stage, due_at - now(), leased_until - now(), attempts, last_error)
                       , E'\\n'), ''),
                   (SELECT count(*) FROM placement WHERE owner = 'pool' AND stage = 'open'),
                   (SELECT count(*) FROM tenant
                    WHERE state IN ('CREATING', 'CLONING', 'DISABLING', 'CREATE_FAILED')),
                   (SELECT count(*) FROM tenant_user WHERE state <> 'ready')
                       + (SELECT count(*) FROM backup WHERE due_at IS NOT NULL)
                       + (SELECT count(*) FROM restore WHERE state IN ('verifying', 'filling'))
            FROM placement p
            WHERE unsettled_since IS NOT NULL OR leased_by IS NOT NULL
                OR owner = 'nobody' OR due_at <= now()";
        let settle_max = match self.has_history {
            true => SETTLE_RECOVERED_MAX,
            false => SETTLE_MAX,
        };
        let started = Instant::now();
        let catalog = self.superuser("tenantry").await.expect("the catalog");
        loop {
            let row = catalog
                .query_one(UNSETTLED, &[])
                .await
                .expect("look at rows");
            let (rows, pool, tenants): (&str, i64, i64) = (row.get(0), row.get(1), row.get(2));
            let users: i64 = row.get(3);
            if rows.is_empty() && pool >= self.pool_min && tenants == 0 && users == 0 {
                return started.elapsed();
            }
            assert!(
                started.elapsed() < settle_max,
                "after {settle_max:?}: {pool} in the pool, {tenants} tenants and {users} users or backups on their way\n{rows}\n{}",
                self.stack.log_at(&["WARN", "ERROR"]).join("\n"),
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What the operator reads.
    pub(crate) async fn operator_get(&self, path: &str) -> serde_json::Value {
        self.stack.operator().get(path).await.ok()
    }

    /// Whether it is kept what the node was.
    pub(crate) fn has_history(&self) -> bool {
        self.has_history
    }

    /// Whether anything is there of a recovery.
    pub(crate) fn is_a_moment_left(&self) -> bool {
        let base = fs::read_to_string(self.stack.data_dir().join("postgres.base"));
        let base = base.map_or_else(
            |_| self.stack.data_dir().join("postgres"),
            |base| base.trim_end().into(),
        );
        base.join("moment").exists()
    }

    /// Names of the files of backups of a database.
    pub(crate) fn backup_files(&self, tenant: &Tenant) -> Vec<String> {
        let dir = self.stack.data_dir().join("backups").join(&tenant.id);
        let Ok(files) = fs::read_dir(dir) else {
            return Vec::new();
        };
        let names = files.map(|file| file.expect("a file").file_name());
        names
            .map(|name| name.to_string_lossy().into_owned())
            .collect()
    }

    /// Waits until it is in this state.
    pub(crate) async fn wait_state(&self, tenant: &Tenant, state: &str) {
        let started = Instant::now();
        loop {
            let now = self.state(&tenant.id).await;
            if now == state {
                return;
            }
            assert!(started.elapsed() < SETTLE_MAX, "{tenant:?} is {now}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the retention of a deleted one is over and its data removed.
    pub(crate) async fn wait_gone(&self, tenant: &Tenant) {
        let started = Instant::now();
        while self.state(&tenant.id).await != "gone" {
            assert!(started.elapsed() < SETTLE_MAX, "{tenant:?} is not purged");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// After a death of PostgreSQL: it comes back, and this tenant and all others are as they were.
    pub(crate) async fn assert_recovers(&self, tenant: &Tenant) {
        self.wait_back().await;
        self.wait_settled().await;
        self.assert_canary(tenant).await;
        self.assert_sound().await;
    }

    /// Everything that must hold once rows are at rest, whatever went on before.
    pub(crate) async fn assert_sound(&self) {
        let report = self.stack.operator().get("/operator/check").await.ok();
        assert_eq!(report["clean"], json!(true), "{report:#}");
        self.assert_no_orphans().await;
        if let Some(bystander) = &self.bystander {
            self.assert_canary(bystander).await;
        }
        let log = self.stack.log();
        assert!(!log.contains("panicked"), "{log}");
    }

    /// Compares names with rows, without the checker: so that the checker cannot be wrong alone.
    async fn assert_no_orphans(&self) {
        let catalog = self.superuser("tenantry").await.expect("the catalog");
        let names = async |sql: &str| -> BTreeSet<String> {
            let rows = catalog.query(sql, &[]).await.expect("list names");
            rows.iter().map(|row| row.get(0)).collect()
        };
        assert_eq!(
            names("SELECT datname::text FROM pg_database WHERE datname ~ '^x_'").await,
            names("SELECT 'x_' || pid FROM placement WHERE stage IN ('closed', 'open')").await,
            "databases, as found and as wanted"
        );
        assert_eq!(
            names("SELECT rolname::text FROM pg_roles WHERE rolname ~ '^x_'").await,
            names(
                "SELECT 'x_' || pid || kind FROM placement,
                     unnest(ARRAY['', '_admin', '_write', '_read']) kind
                 WHERE stage IN ('logins', 'closed', 'open')
                 UNION ALL SELECT 'x_' || p.pid || '_' || u.role || '_' || u.id
                 FROM tenant_user u JOIN tenant t ON t.id = u.tenant_id JOIN placement p USING (pid)
                 WHERE p.stage IN ('logins', 'closed', 'open')"
            )
            .await,
            "roles, as found and as wanted"
        );
    }
}
