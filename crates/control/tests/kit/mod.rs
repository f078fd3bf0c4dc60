//! A control plane on a PostgreSQL server of its own, for one test.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "a test's own code, of which each binary uses a part"
)]

pub mod door;
pub mod hook;
pub mod s3;
pub mod signer;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use audit::{Logs, Options, Stream};
use control::{Config, Control, Keys, Parts, WarmPool};
use model::{
    LoginName,
    hold::{Holds, Kept, Order, Step},
    insight::{Pools, Question, Questions, TenantCounts, TenantDetail, TenantLog},
    route::{self, Door, RouteClient},
};
use node::managed::{HistoryConfig, Managed, ManagedConfig, StopLimit};
use reqwest::{Method, StatusCode};
use scratch::Scratch;
use serde_json::{Value, json};

pub const OPERATOR: &str = "tno_operator-token-of-the-tests";
pub const SECRET: [u8; 32] = [42; 32];

/// What proxies were ordered, each with its name.
pub type Orders = Arc<Mutex<Vec<(&'static str, Step)>>>;

/// What a proxy answers to orders.
#[derive(Clone, Debug, Default)]
pub enum Answers {
    #[default]
    Done,
    /// To [`Step::Drain`].
    Keeps(Kept),
    /// Nothing.
    Silent,
}

/// Takes orders like a proxy, and notes them.
pub struct Obeys {
    pub answers: Arc<Mutex<Answers>>,
}

impl Obeys {
    pub fn start(name: &'static str, orders: &Orders) -> (Self, Holds) {
        let (holds, mut taken) = tokio::sync::mpsc::channel::<Order>(8);
        let answers: Arc<Mutex<Answers>> = Arc::default();
        let (orders, how) = (orders.clone(), answers.clone());
        tokio::spawn(async move {
            let mut unanswered = Vec::new();
            while let Some(order) = taken.recv().await {
                let step = match order.step {
                    Step::Drain(_) => Step::Drain(Duration::ZERO),
                    other => other,
                };
                orders.lock().unwrap().push((name, step));
                let answer = match (&*how.lock().unwrap(), order.step) {
                    (Answers::Silent, _) => None,
                    (Answers::Keeps(kept), Step::Drain(_)) => Some(Err(kept.clone())),
                    _ => Some(Ok(())),
                };
                match answer {
                    Some(answer) => drop(order.reply.send(answer)),
                    None => unanswered.push(order.reply),
                }
            }
        });
        (Self { answers }, holds)
    }

    pub fn answer(&self, answers: Answers) {
        *self.answers.lock().unwrap() = answers;
    }
}

/// What a proxy says that it counts of tenants.
pub type Counted = Arc<Mutex<Vec<TenantCounts>>>;

/// Lines that it gives to who asks for them.
pub type Logged = Arc<Mutex<Vec<TenantLog>>>;

/// Answers like a proxy that counted so much, in one process, and has these lines.
fn counting(counted: Counted, logged: Logged) -> Questions {
    let (questions, mut asked) = tokio::sync::mpsc::channel(8);
    tokio::spawn(async move {
        while let Some(question) = asked.recv().await {
            let all = counted.lock().unwrap().clone();
            match question {
                Question::Pools(reply) => {
                    let servers = |of: &TenantCounts| u64::from(of.servers);
                    let unused = all.iter().filter(|of| of.clients == 0);
                    let _ = reply.send(Pools {
                        servers: all.iter().map(servers).sum(),
                        idle: unused.map(servers).sum(),
                    });
                }
                Question::All(reply) => drop(reply.send(all)),
                Question::One { tenant, reply, .. } => {
                    let found = all.into_iter().find(|own| own.tenant == tenant);
                    let detail = found.map(|counts| TenantDetail {
                        counts,
                        statements: Vec::new(),
                    });
                    drop(reply.send(detail));
                }
                Question::Connections { reply, .. } => drop(reply.send(Vec::new())),
                Question::Log(reply) => {
                    drop(reply.send(std::mem::take(&mut *logged.lock().unwrap())));
                }
            }
        }
    });
    questions
}

/// What a test wants other than usual.
type Change = Arc<dyn Fn(&mut Config) + Send + Sync>;

/// A PostgreSQL server and a control plane.
pub struct Stack {
    pub orders: Orders,
    pub obeys: Option<Obeys>,
    pub counted: Counted,
    pub logged: Logged,
    pub managed: Managed,
    pub control: Option<Control>,
    /// What the control plane writes.
    pub audit: Option<Logs>,
    pub routes: RouteClient,
    pub base: String,
    pub http: reqwest::Client,
    change: Change,
    _dir: Scratch,
}

/// An answer of the API.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
}

impl Answer {
    pub async fn read(response: reqwest::Response) -> Self {
        let status = response.status();
        let headers = response.headers().clone();
        let is_file = headers
            .get("content-type")
            .is_some_and(|kind| kind == "application/octet-stream");
        let text = response.text().await.unwrap();
        let body = match is_file {
            true => Value::String(text),
            false => serde_json::from_str(&text).unwrap_or_else(|_| panic!("not JSON: {text:?}")),
        };
        Self {
            status,
            headers,
            body,
        }
    }

    #[track_caller]
    pub fn ok(self) -> Value {
        assert!(self.status.is_success(), "{} {}", self.status, self.body);
        self.body
    }

    /// Checks the whole shape of an error, not only its code.
    #[track_caller]
    pub fn error(self, status: u16, code: &str) -> Value {
        let body = &self.body;
        assert_eq!(
            (self.status.as_u16(), body["code"].as_str()),
            (status, Some(code)),
            "{body}"
        );
        assert_eq!(body["success"], false);
        assert_eq!(body["http_status"], status);
        assert_eq!(body["error"], body["message"]);
        assert!(!body["hint"].as_str().unwrap().is_empty());
        let id = body["request_id"].as_str().unwrap();
        assert_eq!(self.headers["x-request-id"], id);
        self.body
    }
}

/// Server connections of all tenants.
pub const BUDGET: u32 = 20;

impl Stack {
    /// With a pool of two.
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl Fn(&mut Config) + Send + Sync + 'static) -> Self {
        Self::with_history(None, change).await
    }

    /// What the node was is kept.
    pub async fn with_history(
        history: Option<HistoryConfig>,
        change: impl Fn(&mut Config) + Send + Sync + 'static,
    ) -> Self {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(std::env::var("RUST_LOG").unwrap_or_else(|_| "off".to_owned()))
            .with_test_writer()
            .try_init();
        let dir = Scratch::new();
        let backups = dir.path().join("backups");
        let change: Change = Arc::new(move |config: &mut Config| {
            config.backup_place = control::BackupPlace::folder(&backups);
            change(config);
        });
        let managed = node::managed::start(ManagedConfig {
            bin: Some("/usr/lib/postgresql/15/bin".into()),
            memory_bytes: Some(512 << 20),
            budget: BUDGET,
            history,
            fallback_root: dir.path().join("elsewhere"),
            ..ManagedConfig::new(dir.path().join("data"))
        })
        .await
        .unwrap_or_else(|error| panic!("{error:#}"));
        let (routes, _) = route::channel();
        let mut stack = Self {
            orders: Orders::default(),
            obeys: None,
            counted: Counted::default(),
            logged: Logged::default(),
            managed,
            control: None,
            audit: None,
            routes,
            base: String::new(),
            http: reqwest::Client::new(),
            change,
            _dir: dir,
        };
        stack.start_control().await;
        stack
    }

    /// Starts a control plane; the one before must have been stopped or dropped.
    pub async fn start_control(&mut self) {
        let (routes, server) = route::channel();
        let (obeys, holds) = Obeys::start("serve", &self.orders);
        self.obeys = Some(obeys);
        let questions = counting(self.counted.clone(), self.logged.clone());
        self.audit = None;
        let audit = self.audit("serve");
        self.audit = Some(audit.clone());
        let (control, base) = start(
            &self.managed,
            &self.change,
            server,
            (door::open(routes.clone(), SECRET), holds, questions),
            (audit, "serve"),
        )
        .await;
        self.routes = routes;
        self.control = Some(control);
        self.base = base;
    }

    pub fn node(&self) -> node::Node {
        self.managed.node()
    }

    /// Where backups are, unless a test says otherwise.
    pub fn backups_dir(&self) -> PathBuf {
        self._dir.path().join("backups")
    }

    /// Where a control plane of this name has its audit log.
    pub fn audit_dir(&self, instance: &str) -> PathBuf {
        self._dir.path().join("audit").join(instance)
    }

    fn audit(&self, instance: &str) -> Logs {
        let dir = self.audit_dir(instance);
        let keys = audit::Keys::derive(&SECRET);
        // What it waits for otherwise, the system tests wait for.
        let sync = audit::Sync::Batch;
        let options = Options::new(dir, Stream::Admin, instance, keys);
        Logs::open(Options { sync, ..options }).unwrap()
    }

    /// Another process's control plane on the same catalog, and the end that its proxy would have.
    pub async fn start_other(&self, instance: &'static str) -> (Control, route::RouteClient) {
        let (control, routes, _) = self.start_obeying(instance).await;
        (control, routes)
    }

    /// The same, and what its proxy answers.
    pub async fn start_obeying(
        &self,
        instance: &'static str,
    ) -> (Control, route::RouteClient, Obeys) {
        let (control, routes, obeys, _) = self.start_counting(instance, Counted::default()).await;
        (control, routes, obeys)
    }

    /// The same, and where its API is; its proxy says that it counted so much.
    pub async fn start_counting(
        &self,
        instance: &'static str,
        counted: Counted,
    ) -> (Control, route::RouteClient, Obeys, String) {
        self.start_logging(instance, counted, Logged::default())
            .await
    }

    /// The same; and it has these lines.
    pub async fn start_logging(
        &self,
        instance: &'static str,
        counted: Counted,
        logged: Logged,
    ) -> (Control, route::RouteClient, Obeys, String) {
        let (routes, server) = route::channel();
        let (obeys, holds) = Obeys::start(instance, &self.orders);
        let ways = (
            door::open(routes.clone(), SECRET),
            holds,
            counting(counted, logged),
        );
        let own = (self.audit(instance), instance);
        let (control, base) = start(&self.managed, &self.change, server, ways, own).await;
        (control, routes, obeys, base)
    }

    /// Ends the control plane; the server stays.
    pub async fn stop_control(&mut self) {
        if let Some(control) = self.control.take() {
            control.stop(Duration::from_secs(10)).await.leave().await;
        }
    }

    pub async fn stop(mut self) {
        self.stop_control().await;
        self.managed
            .stop(StopLimit {
                fast: Duration::from_secs(20),
            })
            .await;
    }

    pub async fn warm(&self) {
        let warm = self.control.as_ref().unwrap().warm();
        tokio::time::timeout(Duration::from_secs(60), warm)
            .await
            .expect("the pool fills");
    }

    pub fn request(&self, method: Method, path: &str, token: &str) -> reqwest::RequestBuilder {
        self.http
            .request(method, format!("{}{path}", self.base))
            .bearer_auth(token)
    }

    pub async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        Answer::read(request.send().await.unwrap()).await
    }

    pub async fn patch(&self, path: &str, token: &str, body: Value) -> Answer {
        self.send(self.request(Method::PATCH, path, token).json(&body))
            .await
    }

    pub async fn post(&self, path: &str, token: &str, body: Value) -> Answer {
        self.send(self.request(Method::POST, path, token).json(&body))
            .await
    }

    pub async fn get(&self, path: &str, token: &str) -> Answer {
        self.send(self.request(Method::GET, path, token)).await
    }

    pub async fn delete(&self, path: &str, token: &str) -> Answer {
        self.send(self.request(Method::DELETE, path, token)).await
    }

    /// A new anonymous project's token.
    pub async fn register(&self) -> Value {
        let url = format!("{}/customer/anonymous-register", self.base);
        self.send(self.http.post(url)).await.ok()
    }

    pub async fn token(&self) -> String {
        text(&self.register().await["token"])
    }

    pub async fn create(&self, token: &str, name: &str) -> Value {
        self.post("/customer/databases", token, json!({ "name": name }))
            .await
            .ok()
    }

    /// Logs in as a client of the proxy would, and straight at the server, which is what the proxy
    /// would do next.
    pub async fn login(&self, answer: &Value) -> Result<tokio_postgres::Client, String> {
        let user = text(&answer["admin_user"]);
        self.login_as(&user, answer["admin_password"].as_str().unwrap_or("wrong"))
            .await
    }

    pub async fn login_as(
        &self,
        user: &str,
        password: &str,
    ) -> Result<tokio_postgres::Client, String> {
        let login: LoginName = user.parse().unwrap();
        let resolved = self
            .routes
            .resolve(login)
            .await
            .map_err(|error| error.to_string())?;
        let resolved = resolved.ok_or("no such login")?;
        let salt = wire::scram::login_salt(Keys::derive(&SECRET).login_salt(), user);
        let keys =
            wire::scram::Keys::from_password(password, &salt, wire::scram::ITERATIONS_DEFAULT);
        let opens = resolved.route.candidates.iter().any(|candidate| {
            candidate.stored_key == keys.stored_key && candidate.server_key == keys.server_key
        });
        if !opens {
            return Err("wrong password".to_owned());
        }
        if resolved.route.access != route::Access::Open {
            return Err(format!("{:?}", resolved.route.access));
        }
        let route::NodeAddress::Unix(socket) = &resolved.node.address else {
            panic!("a managed node listens on a socket")
        };
        let server = &resolved.route.server;
        let mut config = tokio_postgres::Config::new();
        config
            .host_path(socket.parent().unwrap())
            .user(&server.user)
            .password(server.password.reveal())
            .dbname(&server.database)
            .options(format!("-c role={}", server.group.as_str()));
        let (client, connection) = config
            .connect(tokio_postgres::NoTls)
            .await
            .map_err(|error| format!("{error:?}"))?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// The catalog itself.
    pub async fn catalog(&self) -> tokio_postgres::Client {
        let config = self.managed.node().catalog_config().config;
        let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// The deep checker finds nothing.
    pub async fn assert_clean(&self) {
        let report = self.get("/operator/check", OPERATOR).await.ok();
        assert_eq!(report["clean"], true, "{report:#}");
    }

    /// Waits until a database is in a state.
    pub async fn wait_state(&self, id: &str, state: &str) -> Value {
        wait_for(async || {
            let answer = self
                .get(&format!("/customer/databases/{id}"), OPERATOR)
                .await;
            (answer.body["state"] == state).then_some(answer.body)
        })
        .await
    }

    /// Waits until there is no such database any more.
    pub async fn wait_gone(&self, id: &str) {
        wait_for(async || {
            let answer = self
                .get(&format!("/customer/databases/{id}"), OPERATOR)
                .await;
            (answer.status == 404).then_some(())
        })
        .await;
    }
}

async fn start(
    managed: &Managed,
    change: &Change,
    routes: route::RouteServer,
    (door, holds, insight): (Door, Holds, Questions),
    (audit, instance): (Logs, &str),
) -> (Control, String) {
    let node = managed.node();
    let hash = control::token_hash(OPERATOR);
    let mut config = Config::local("127.0.0.1:0".parse().unwrap(), 5433, hash);
    config.instance = instance.to_owned();
    config.warm_pool = WarmPool { min: 2, max: 4 };
    change(&mut config);
    let parts = Parts {
        catalog: node.catalog_config(),
        node,
        routes,
        door,
        holds,
        // No proxy is there to answer.
        pages: tokio::sync::mpsc::channel(1).0,
        insight,
        keys: Keys::derive(&SECRET),
        audit,
    };
    let control = control::start(config, parts)
        .await
        .unwrap_or_else(|error| panic!("{error:#}"));
    let base = format!("http://{}", control.local_addr());
    (control, base)
}

/// Waits for a condition, at most a minute.
pub async fn wait_for<T>(condition: impl AsyncFn() -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(found) = condition().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait)
        .await
        .expect("the condition comes true")
}

/// The next change of a tenant that proxies are told of.
pub async fn heard(
    changes: &mut tokio::sync::broadcast::Receiver<route::Change>,
    tenant: &str,
) -> route::Change {
    let wait = async {
        loop {
            let change = changes.recv().await.unwrap();
            if change.tenant.as_str() == tenant {
                return change;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait)
        .await
        .expect("a change is heard of")
}

#[track_caller]
pub fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("not a text: {value}"))
        .to_owned()
}

pub type Shared = Arc<Stack>;
