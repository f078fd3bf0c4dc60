//! A client that only logs in and asks simple queries.
//!
//! Owns: TCP, TLS with full handshakes (as libpq, which resumes nothing), SCRAM with channel
//! binding where it is offered. The password is hashed once per target and kept, so that many
//! logins cost this side little.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, bail};
use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::TlsConnector;
use wire::{
    login::server::{Accept, Credentials, ServerLogin, Step, start, tls_answer},
    message::{TransactionStatus, build, parse, server, split},
    scram::{ChannelBinding, ClientKeys, nonce},
    startup::Protocol,
};
use zeroize::Zeroizing;

use crate::{Address, Login};

/// Longest message that is taken; the queries here return one number.
const BODY_BYTES_MAX: u32 = 1 << 20;

/// One login, with what was learned in earlier ones.
pub(crate) struct Target {
    login: Login,
    tls: Option<TlsConnector>,
    keys: Mutex<Option<Arc<ClientKeys>>>,
}

/// TLS that trusts the certificate in this file and no other.
pub(crate) fn tls(root: &Path) -> anyhow::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    roots.add(
        CertificateDer::from_pem_file(root).with_context(|| format!("read {}", root.display()))?,
    )?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A session that waits for a query.
pub(crate) struct Session {
    stream: Box<dyn Stream>,
    input: Vec<u8>,
}

impl Target {
    pub(crate) fn new(login: Login, tls: Option<TlsConnector>) -> Self {
        Self {
            login,
            tls,
            keys: Mutex::new(None),
        }
    }

    /// Connects and logs in, up to ReadyForQuery.
    pub(crate) async fn connect(&self) -> anyhow::Result<Session> {
        let address = match &self.login.address {
            Address::Tcp(address) => *address,
            Address::Unix(path) => {
                let stream = UnixStream::connect(path).await?;
                return self
                    .log_in(Box::new(stream), ChannelBinding::Unavailable)
                    .await;
            }
        };
        let mut tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let Some(tls) = &self.tls else {
            return self
                .log_in(Box::new(tcp), ChannelBinding::Unavailable)
                .await;
        };
        let mut out = Vec::new();
        build::ssl_request(&mut out);
        tcp.write_all(&out).await?;
        let mut answer = [0];
        tcp.read_exact(&mut answer).await?;
        if tls_answer(&answer)? != Some(true) {
            bail!("the server does not want TLS");
        }
        let name = ServerName::IpAddress(address.ip().into());
        let stream = tls.connect(name, tcp).await?;
        let certificate = stream
            .get_ref()
            .1
            .peer_certificates()
            .and_then(|c| c.first());
        let binding = ChannelBinding::of_certificate(certificate.context("no certificate")?);
        self.log_in(Box::new(stream), binding).await
    }

    async fn log_in(
        &self,
        stream: Box<dyn Stream>,
        binding: ChannelBinding,
    ) -> anyhow::Result<Session> {
        let cached = self
            .keys
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let known = cached.is_some();
        let credentials = Credentials {
            user: self.login.user.clone(),
            password: Zeroizing::new(self.login.password.clone()),
            cached,
            binding,
            accept: Accept::default(),
        };
        let mut session = Session {
            stream,
            input: Vec::with_capacity(2048),
        };
        let mut out = Vec::new();
        let mut parameters = vec![("database", self.login.database.as_str())];
        parameters.extend(
            self.login
                .options
                .iter()
                .map(|options| ("options", options.as_str())),
        );
        let mut login = start(credentials, Protocol::V3_0, &parameters, nonce()?, &mut out);
        loop {
            if !out.is_empty() {
                session.send(&out).await?;
                out.clear();
            }
            login = match session.log_in_step(login, &mut out).await? {
                Step::Continue(login) => login,
                Step::Ready(ready) => {
                    if !known {
                        *self.keys.lock().unwrap_or_else(PoisonError::into_inner) = ready.keys;
                    }
                    return Ok(session);
                }
            };
        }
    }
}

impl Session {
    async fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.stream.write_all(bytes).await?;
        Ok(self.stream.flush().await?)
    }

    async fn log_in_step(&mut self, login: ServerLogin, out: &mut Vec<u8>) -> anyhow::Result<Step> {
        loop {
            if let Some(message) = split(&self.input, BODY_BYTES_MAX)? {
                let size = message.size();
                let step = login.on(message, out)?;
                self.input.drain(..size);
                return Ok(step);
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> anyhow::Result<()> {
        if self.stream.read_buf(&mut self.input).await? == 0 {
            bail!("the server closed the connection");
        }
        Ok(())
    }

    /// `select 1`, and checks that 1 came back.
    pub(crate) async fn select_1(&mut self) -> anyhow::Result<()> {
        self.ask("select 1").await
    }

    /// Asks `query`, whose answer is one row with a 1.
    pub(crate) async fn ask(&mut self, query: &str) -> anyhow::Result<()> {
        match self.ask_1(query).await? {
            Ok(()) => Ok(()),
            Err(refused) => bail!(refused),
        }
    }

    /// The same, for whom a refused statement is no end: the inner error is the server's, and the
    /// session can ask again.
    pub(crate) async fn ask_1(&mut self, query: &str) -> anyhow::Result<Result<(), String>> {
        let mut out = Vec::new();
        build::query(query, &mut out);
        self.send(&out).await?;
        let (mut rows, mut refused) = (0, None);
        loop {
            let Some(message) = split(&self.input, BODY_BYTES_MAX)? else {
                self.read().await?;
                continue;
            };
            match message.tag {
                server::ERROR_RESPONSE => {
                    let report = parse::report(message.body)?;
                    refused = Some(format!("{} {}", report.code(), report.message()));
                    anyhow::ensure!(!report.is_fatal(), "{}", refused.unwrap_or_default());
                }
                server::DATA_ROW if message.body == b"\x00\x01\x00\x00\x00\x011" => rows += 1,
                server::DATA_ROW => bail!("another row than 1"),
                _ => {}
            }
            let done = message.tag == server::READY_FOR_QUERY;
            if done && parse::ready_for_query(message.body)? != TransactionStatus::Idle {
                bail!("a transaction is open");
            }
            let size = message.size();
            self.input.drain(..size);
            if done {
                if let Some(refused) = refused {
                    return Ok(Err(refused));
                }
                anyhow::ensure!(rows == 1, "{rows} rows");
                return Ok(Ok(()));
            }
        }
    }

    /// Says goodbye and waits until the other side has closed.
    pub(crate) async fn close(mut self) -> anyhow::Result<()> {
        let mut out = Vec::new();
        build::terminate(&mut out);
        self.send(&out).await?;
        // Without waiting, the next login would run beside what is left of this one.
        let _ = self.stream.read(&mut [0; 16]).await;
        Ok(())
    }
}
