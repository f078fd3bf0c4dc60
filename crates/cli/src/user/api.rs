//! Talking to the API: who we are, one request, its answer.
//!
//! Owns: credentials of a request (given by `TENANTRY_API_KEY`, or an anonymous project that is
//! registered at first use), whose certificate is trusted, trying again, and reading errors.

mod download;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use model::Secret;
use rand::Rng as _;
use reqwest::{Certificate, ClientBuilder, Method, StatusCode, Url};
use serde_json::Value;

use crate::{
    args::Global,
    exit::{ApiError, Exit, Failure},
    user::home::{Anonymous, Home},
};

/// A request may take this long: a create that waits for a direct `CREATE DATABASE` on a slow
/// disk takes seconds; a statement ends by its own limits.
const ANSWER_MAX: Duration = Duration::from_secs(120);
/// A local address answers in milliseconds, a far one in one or two round trips.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Times a request is sent when the connection broke or the server said "not now".
const TRIES_MAX: u32 = 3;
/// Pages of a list; a thousand each.
const PAGES_MAX: u32 = 10_000;
/// Pause before the second try; doubles.
const PAUSE: Duration = Duration::from_millis(250);
/// A pause the server asked for is kept up to this.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// One server, as one user.
#[derive(Debug)]
pub(crate) struct Api {
    http: reqwest::Client,
    url: String,
    key: Option<Secret>,
    home: Home,
}

/// Whose certificates are accepted from an API over https.
#[derive(Debug)]
pub(crate) struct Trust {
    /// These, and no others.
    pub(crate) file: Option<PathBuf>,
    /// On a loopback address, also the one that the server with this data directory made for itself.
    pub(crate) data_dir: Option<PathBuf>,
}

impl Trust {
    /// As the command line and the environment say.
    pub(crate) fn of(global: &Global) -> Self {
        Self {
            file: global.api_ca.clone(),
            data_dir: std::env::var_os("TENANTRY_DATA_DIR")
                .filter(|dir| !dir.is_empty())
                .map(PathBuf::from),
        }
    }

    fn apply(&self, http: ClientBuilder, url: &Url) -> Result<ClientBuilder, Failure> {
        if url.scheme() != "https" {
            return Ok(http);
        }
        if let Some(file) = &self.file {
            return Ok(http.tls_certs_only(certificates(file)?));
        }
        let made = self.data_dir.as_ref().map(|dir| dir.join("tls/server.crt"));
        match made.filter(|made| is_loopback(url) && made.is_file()) {
            Some(made) => Ok(http.tls_certs_merge(certificates(&made)?)),
            None => Ok(http),
        }
    }
}

fn certificates(file: &Path) -> Result<Vec<Certificate>, Failure> {
    let wrong = |why: String| {
        Failure::usage(
            format!("the certificates in {}: {why}", file.display()),
            "--api-ca and TENANTRY_API_CA name a file of certificates in PEM form",
        )
    };
    let pem = fs::read(file).map_err(|error| wrong(error.to_string()))?;
    match Certificate::from_pem_bundle(&pem) {
        Ok(found) if found.is_empty() => Err(wrong("there are none".to_owned())),
        Ok(found) => Ok(found),
        Err(error) => Err(wrong(error.to_string())),
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || address
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// A success.
struct Answer {
    body: Value,
    /// A list goes on after this.
    next_after: Option<String>,
}

/// A token and where it came from.
enum Token {
    Given(Secret),
    Anonymous(Anonymous),
}

impl Token {
    fn reveal(&self) -> &str {
        match self {
            Self::Given(key) => key.reveal(),
            Self::Anonymous(anonymous) => &anonymous.token,
        }
    }
}

impl Api {
    /// Nothing is sent yet.
    ///
    /// # Errors
    ///
    /// When `url` is no HTTP address, or carries a password, or what shall be trusted cannot be read.
    pub(crate) fn new(url: &str, trust: &Trust, home: Home) -> Result<Self, Failure> {
        let bad = |why: &str| {
            Failure::usage(
                format!("the address of the API {why}"),
                "set TENANTRY_API_URL to an address like http://127.0.0.1:5480",
            )
        };
        let parsed = Url::parse(url).map_err(|error| bad(&format!("cannot be read: {error}")))?;
        if !matches!(parsed.scheme(), "http" | "https") || parsed.host().is_none() {
            return Err(bad("is not of the form http://host:port"));
        }
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return Err(bad("carries a user name or password"));
        }
        let http = trust
            .apply(reqwest::Client::builder(), &parsed)?
            .user_agent(concat!("tenantry/", env!("CARGO_PKG_VERSION")))
            .timeout(ANSWER_MAX)
            .connect_timeout(CONNECT_MAX)
            // A token must not follow a redirect to somebody else.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(anyhow::Error::new)?;
        Ok(Self {
            http,
            url: url.trim_end_matches('/').to_owned(),
            key: std::env::var("TENANTRY_API_KEY")
                .ok()
                .map(|key| key.trim().to_owned())
                .filter(|key| !key.is_empty())
                .map(Secret::new),
            home,
        })
    }

    /// As who has this key, unless `TENANTRY_API_KEY` says who we are.
    pub(crate) fn or_key(mut self, key: Secret) -> Self {
        self.key.get_or_insert(key);
        self
    }

    /// The address, as given, without a slash at its end.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// What is kept.
    pub(crate) fn home(&self) -> &Home {
        &self.home
    }

    /// Whether `TENANTRY_API_KEY` says who we are.
    pub(crate) fn has_given_key(&self) -> bool {
        self.key.is_some()
    }

    /// The token that requests carry, when there is one.
    ///
    /// # Errors
    ///
    /// When the kept credentials cannot be read.
    pub(crate) fn token(&self) -> Result<Option<Secret>, Failure> {
        Ok(match &self.key {
            Some(key) => Some(key.clone()),
            None => self
                .home
                .server(&self.url)?
                .anonymous
                .map(|anonymous| Secret::new(anonymous.token)),
        })
    }

    /// Reads something.
    ///
    /// # Errors
    ///
    /// [`Failure::Api`] for an error of the server; [`Exit::Unavailable`] when there is none.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, Failure> {
        Ok(self.call(Method::GET, path, None).await?.body)
    }

    /// Reads a list to its end, page by page.
    ///
    /// # Errors
    ///
    /// As [`Self::get`], and when the list does not end.
    pub(crate) async fn list(&self, path: &str) -> Result<Vec<Value>, Failure> {
        let mut all = Vec::new();
        let mut page = path.to_owned();
        for _ in 0..PAGES_MAX {
            let answer = self.call(Method::GET, &page, None).await?;
            all.extend(answer.body.as_array().cloned().unwrap_or_default());
            match answer.next_after {
                Some(after) => {
                    let sign = if path.contains('?') { '&' } else { '?' };
                    page = format!("{path}{sign}after={after}");
                }
                None => return Ok(all),
            }
        }
        Err(Failure::new(Exit::Refused, "the list does not end", ""))
    }

    /// Changes something. Carries an idempotency key, so it happens once however often it is sent.
    ///
    /// # Errors
    ///
    /// As [`Self::get`].
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        Ok(self.call(Method::POST, path, Some(body)).await?.body)
    }

    /// Changes a part of something. Sent twice, it is the same.
    ///
    /// # Errors
    ///
    /// As [`Self::get`].
    pub(crate) async fn patch(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        Ok(self.call(Method::PATCH, path, Some(body)).await?.body)
    }

    /// Sets all of something. Sent twice, it is the same.
    ///
    /// # Errors
    ///
    /// As [`Self::get`].
    pub(crate) async fn put(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        Ok(self.call(Method::PUT, path, Some(body)).await?.body)
    }

    /// Deletes something.
    ///
    /// # Errors
    ///
    /// As [`Self::get`].
    pub(crate) async fn delete(&self, path: &str) -> Result<Value, Failure> {
        Ok(self.call(Method::DELETE, path, None).await?.body)
    }

    /// Reads something that needs no credentials.
    ///
    /// # Errors
    ///
    /// As [`Self::get`].
    pub(crate) async fn get_public(&self, path: &str) -> Result<Value, Failure> {
        Ok(self.send(&Method::GET, path, None, None).await?.body)
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, Failure> {
        let token = self.credentials().await?;
        let first = self.send(&method, path, body, Some(token.reveal())).await;
        match (first, token) {
            (Err(Failure::Api(error)), Token::Anonymous(old)) if error.status == 401 => {
                let token = self.refresh(&old, error).await?;
                self.send(&method, path, body, Some(&token)).await
            }
            (answer, _) => answer,
        }
    }

    /// Who we are; registers an anonymous project when nobody said.
    async fn credentials(&self) -> Result<Token, Failure> {
        if let Some(key) = &self.key {
            return Ok(Token::Given(key.clone()));
        }
        if let Some(anonymous) = self.home.server(&self.url)?.anonymous {
            return Ok(Token::Anonymous(anonymous));
        }
        let lock = self.home.lock()?;
        // Another command may have been first.
        if let Some(anonymous) = self.home.server(&self.url)?.anonymous {
            return Ok(Token::Anonymous(anonymous));
        }
        let answer = self
            .send(
                &Method::POST,
                "/customer/anonymous-register",
                Some(&Value::Object(serde_json::Map::new())),
                None,
            )
            .await?;
        let anonymous = anonymous(&answer.body, None)?;
        self.home.change_locked(&lock, &self.url, |server| {
            server.anonymous = Some(anonymous.clone());
        })?;
        eprintln!(
            "registered the anonymous project {}; its key is kept in {}",
            anonymous.anonymous_id,
            self.home.file().display()
        );
        Ok(Token::Anonymous(anonymous))
    }

    /// A new token for the kept project: once, since a refused secret stays refused.
    async fn refresh(&self, old: &Anonymous, refused: ApiError) -> Result<String, Failure> {
        let lock = self.home.lock()?;
        if let Some(now) = self.home.server(&self.url)?.anonymous
            && now.token != old.token
        {
            return Ok(now.token);
        }
        let body = serde_json::json!({
            "anonymous_id": old.anonymous_id,
            "anonymous_secret": old.anonymous_secret,
        });
        let answer = self
            .send(&Method::POST, "/customer/anonymous-refresh", Some(&body), None)
            .await
            .map_err(|failure| match failure {
                Failure::Api(error) if matches!(error.status, 401 | 403 | 404) => Failure::Api(ApiError {
                    hint: format!(
                        "the server does not know the project {} kept in {}; was its data directory \
                         replaced? `tenantry logout --force` sets the project aside, and the next \
                         command registers a new one",
                        old.anonymous_id,
                        self.home.file().display()
                    ),
                    ..refused
                }),
                other => other,
            })?;
        let fresh = anonymous(&answer.body, Some(old))?;
        let token = fresh.token.clone();
        self.home.change_locked(&lock, &self.url, |server| {
            server.anonymous = Some(fresh);
        })?;
        Ok(token)
    }

    async fn send(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
        token: Option<&str>,
    ) -> Result<Answer, Failure> {
        let idempotency_key = idempotency_key();
        let mut pause = PAUSE;
        for attempt in 1.. {
            let mut request = self
                .http
                .request(method.clone(), format!("{}{path}", self.url));
            if *method != Method::GET {
                request = request.header("Idempotency-Key", &idempotency_key);
            }
            if let Some(token) = token {
                request = request.bearer_auth(token);
            }
            if let Some(body) = body {
                request = request.json(body);
            }
            let last = attempt == TRIES_MAX;
            match request.send().await {
                // Refused or unknown: nobody is there, and nobody will be in half a second.
                Err(error) if last || error.is_connect() => return Err(self.unreachable(&error)),
                Err(_) => {}
                Ok(answer) if answer.status() == StatusCode::SERVICE_UNAVAILABLE && !last => {
                    pause = asked_pause(&answer).unwrap_or(pause).min(PAUSE_MAX);
                }
                Ok(answer) => return self.read(answer).await,
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        unreachable!("the last try returns")
    }

    async fn read(&self, answer: reqwest::Response) -> Result<Answer, Failure> {
        let status = answer.status();
        let request_id = answer
            .headers()
            .get("x-request-id")
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned();
        let next_after = answer
            .headers()
            .get("x-next-after")
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        let bytes = answer
            .bytes()
            .await
            .map_err(|error| self.unreachable(&error))?;
        let body = serde_json::from_slice::<Value>(&bytes);
        if status.is_success() {
            return body
                .map(|body| Answer { body, next_after })
                .map_err(|_| self.not_ours(status));
        }
        let Ok(body) = body else {
            return Err(self.not_ours(status));
        };
        let field = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        let message = [field("message"), field("error")]
            .into_iter()
            .find(|text| !text.is_empty())
            .unwrap_or_else(|| status.to_string());
        Err(Failure::Api(ApiError {
            status: status.as_u16(),
            code: field("code"),
            message,
            hint: field("hint"),
            request_id: Some(field("request_id"))
                .filter(|id| !id.is_empty())
                .unwrap_or(request_id),
        }))
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let why = if error.is_timeout() {
            "no answer in time".to_owned()
        } else {
            root_cause(error)
        };
        let hint = certificate_hint(&format!("{error:?}"))
            .unwrap_or("is `tenantry serve` running there? TENANTRY_API_URL names another address");
        Failure::new(
            Exit::Unavailable,
            format!("cannot reach the API at {}: {why}", self.url),
            hint,
        )
    }

    fn not_ours(&self, status: StatusCode) -> Failure {
        Failure::new(
            Exit::Unavailable,
            format!(
                "{} answered something that is not Tenantry's (HTTP {status})",
                self.url
            ),
            "check TENANTRY_API_URL; the PostgreSQL port is another one",
        )
    }
}

/// What to do about a certificate that was refused, by the words of the TLS library.
fn certificate_hint(error: &str) -> Option<&'static str> {
    const NOT_TRUSTED: &str = "nobody whom this command trusts signed its certificate: give --api-ca FILE or \
        set TENANTRY_API_CA. A server without a certificate of its own made one, tls/server.crt in its data \
        directory";
    let hints = [
        ("UnknownIssuer", NOT_TRUSTED),
        // One of the same name, made at another time.
        ("BadSignature", NOT_TRUSTED),
        (
            "CaUsedAsEndEntity",
            "its certificate is that of an authority (CA:TRUE), which cannot also be a server's: let it \
             sign one, or make one with `openssl req -x509 … -addext basicConstraints=critical,CA:FALSE`",
        ),
        (
            "NotValidForName",
            "its certificate is for another name: use that name in TENANTRY_API_URL",
        ),
        (
            "Expired",
            "its certificate has expired, or the clock here is wrong",
        ),
    ];
    let hint = hints.iter().find(|(word, _)| error.contains(word));
    hint.map(|(_, hint)| *hint)
}

fn asked_pause(answer: &reqwest::Response) -> Option<Duration> {
    let seconds = answer.headers().get("retry-after")?.to_str().ok()?;
    seconds.parse().ok().map(Duration::from_secs)
}

fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

fn idempotency_key() -> String {
    format!(
        "{:032x}",
        u128::from_be_bytes({
            let mut bytes = [0; 16];
            rand::rng().fill_bytes(&mut bytes);
            bytes
        })
    )
}

/// Reads the answer of `anonymous-register` and `anonymous-refresh`. The latter may leave out what
/// the caller knows.
fn anonymous(answer: &Value, known: Option<&Anonymous>) -> Result<Anonymous, Failure> {
    let field = |name: &str| answer[name].as_str().map(str::to_owned);
    let read = || {
        Some(Anonymous {
            anonymous_id: field("anonymous_id")
                .or_else(|| known.map(|k| k.anonymous_id.clone()))?,
            anonymous_secret: field("anonymous_secret")
                .or_else(|| known.map(|k| k.anonymous_secret.clone()))?,
            token: field("token")?,
            expires_at: field("expires_at").unwrap_or_default(),
        })
    };
    read().ok_or_else(|| {
        Failure::new(
            Exit::Unavailable,
            "the server registered a project and did not say which",
            "is it a Tenantry of another version?",
        )
    })
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, sync::Arc};

    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};
    use tokio::net::TcpListener;

    use super::*;

    /// Shakes hands with whoever comes, with this certificate.
    async fn server(cert: &rcgen::Certificate, key: &KeyPair) -> SocketAddr {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = key.serialize_der().try_into().unwrap();
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = acceptor.accept(stream).await;
            }
        });
        address
    }

    /// As `openssl req -x509` makes one by itself, and three others.
    #[tokio::test]
    async fn a_refused_certificate_says_what_to_do() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let dir = scratch::Scratch::new();
        let file = dir.join("ca.pem");
        let of = |name: &str| CertificateParams::new([name.to_owned()]).unwrap();
        let (mut authority, mut expired) = (of("127.0.0.1"), of("127.0.0.1"));
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        expired.not_after = date_time_ymd(2020, 1, 1);
        for (params, is_trusted, word) in [
            (authority, true, "CA:TRUE"),
            (expired, true, "has expired"),
            (of("example.org"), true, "for another name"),
            (of("127.0.0.1"), false, "--api-ca"),
        ] {
            let key = KeyPair::generate().unwrap();
            let cert = params.self_signed(&key).unwrap();
            let other = of("127.0.0.1").self_signed(&KeyPair::generate().unwrap());
            let trusted = if is_trusted { &cert } else { &other.unwrap() };
            fs::write(&file, trusted.pem()).unwrap();
            let url = format!("https://{}", server(&cert, &key).await);
            let trust = Trust {
                file: Some(file.clone()),
                data_dir: None,
            };
            let api = Api::new(&url, &trust, Home::at(dir.path().to_owned())).unwrap();
            let failure = api.get_public("/healthz").await.unwrap_err();
            let Failure::Here { exit, hint, .. } = failure else {
                panic!("{word}: {failure:?}")
            };
            assert_eq!(exit, Exit::Unavailable);
            assert!(hint.contains(word), "{word}: {hint}");
        }
    }

    #[test]
    fn only_this_machine_is_a_loopback_address() {
        for (url, is) in [
            ("https://127.0.0.1:1", true),
            ("https://localhost:1", true),
            ("https://[::1]:1", true),
            ("https://127.0.0.1.example.org:1", false),
            ("https://10.0.0.1:1", false),
        ] {
            assert_eq!(is_loopback(&Url::parse(url).unwrap()), is, "{url}");
        }
    }
}
