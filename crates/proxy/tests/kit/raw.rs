//! A client that shows every byte.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::{Arc, Mutex},
    time::Duration,
};

use rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};
use wire::{
    message::{build, parse},
    scram::{self, ChannelBinding, client},
    startup::{CancelKey, Protocol},
};

/// How long a silent connection is waited for: longer than a machine takes for anything, whatever else it
/// has to do.
pub const SILENCE_MAX: Duration = Duration::from_secs(120);

pub trait Bytes: Read + Write + Send {}
impl<T: Read + Write + Send> Bytes for T {}

/// A message of the server, whole.
pub type Message = (u8, Vec<u8>);

pub struct Raw {
    pub stream: Box<dyn Bytes>,
    /// Sent in one flight with the proof, before it is known whether that was right.
    pub eager: Vec<u8>,
    binding: ChannelBinding,
}

pub fn tcp(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(SILENCE_MAX)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// From another address of this machine.
pub fn tcp_from(from: [u8; 4], port: u16) -> TcpStream {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let address = |ip: [u8; 4], port| std::net::SocketAddr::from((ip, port)).into();
    socket.bind(&address(from, 0)).unwrap();
    socket.connect(&address([127, 0, 0, 1], port)).unwrap();
    socket.into()
}

fn tls_config(certificate: &str, alpn: Option<&str>) -> Arc<ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    let pem = certificate.as_bytes();
    roots
        .add(rustls::pki_types::pem::PemObject::from_pem_slice(pem).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn
        .map(|name| name.as_bytes().to_vec())
        .into_iter()
        .collect();
    Arc::new(config)
}

/// A socket that notes how long the TLS records are that come out of it, headers included.
pub struct Tapped {
    socket: TcpStream,
    head: Vec<u8>,
    left: usize,
    pub records: Arc<Mutex<Vec<usize>>>,
}

impl Tapped {
    fn note(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left == 0 {
                self.head.push(bytes[0]);
                bytes = &bytes[1..];
                if let [_, _, _, high, low] = self.head[..] {
                    self.left = usize::from(u16::from_be_bytes([high, low]));
                    self.records.lock().unwrap().push(self.left + 5);
                    self.head.clear();
                }
            } else {
                let now = self.left.min(bytes.len());
                self.left -= now;
                bytes = &bytes[now..];
            }
        }
    }
}

impl Read for Tapped {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let read = self.socket.read(buf)?;
        self.note(&buf[..read]);
        Ok(read)
    }
}

impl Write for Tapped {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.socket.write(buf)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.socket.flush()
    }
}

impl Raw {
    pub fn plain(port: u16) -> Self {
        Self {
            stream: Box::new(tcp(port)),
            binding: ChannelBinding::Unavailable,
            eager: Vec::new(),
        }
    }

    /// By a socket file, as a client of PostgreSQL itself.
    pub fn unix(socket: &std::path::Path) -> Self {
        let stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(SILENCE_MAX)).unwrap();
        Self {
            stream: Box::new(stream),
            binding: ChannelBinding::Unavailable,
            eager: Vec::new(),
        }
    }

    /// TLS after SSLRequest.
    pub fn tls(port: u16, certificate: &str) -> Self {
        Self::try_tls(port, certificate).unwrap().0
    }

    /// The same, with the lengths of the TLS records that come in.
    pub fn try_tls(
        port: u16,
        certificate: &str,
    ) -> std::io::Result<(Self, Arc<Mutex<Vec<usize>>>)> {
        Self::tls_on(tcp(port), certificate)
    }

    /// On a connection on which something may have been said before.
    pub fn tls_on(
        mut stream: TcpStream,
        certificate: &str,
    ) -> std::io::Result<(Self, Arc<Mutex<Vec<usize>>>)> {
        let mut request = Vec::new();
        build::ssl_request(&mut request);
        stream.write_all(&request)?;
        let mut answer = [0];
        stream.read_exact(&mut answer)?;
        assert_eq!(&answer, b"S");
        let records: Arc<Mutex<Vec<usize>>> = Arc::default();
        let tapped = Tapped {
            socket: stream,
            head: Vec::new(),
            left: 0,
            records: records.clone(),
        };
        Ok((Self::encrypt(tapped, certificate, None)?, records))
    }

    /// TLS from the first byte.
    pub fn direct_tls(port: u16, certificate: &str, alpn: Option<&str>) -> std::io::Result<Self> {
        Self::encrypt(tcp(port), certificate, alpn)
    }

    fn encrypt(
        mut stream: impl Bytes + 'static,
        certificate: &str,
        alpn: Option<&str>,
    ) -> std::io::Result<Self> {
        let name = ServerName::try_from("localhost").unwrap();
        let mut tls = ClientConnection::new(tls_config(certificate, alpn), name).unwrap();
        while tls.is_handshaking() {
            tls.complete_io(&mut stream)?;
        }
        let binding = ChannelBinding::of_certificate(&tls.peer_certificates().unwrap()[0]);
        Ok(Self {
            stream: Box::new(StreamOwned::new(tls, stream)),
            binding,
            eager: Vec::new(),
        })
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
        self.stream.flush().unwrap();
    }

    /// The next message; `None` when the server hung up.
    pub fn message(&mut self) -> Option<Message> {
        let mut head = [0; 5];
        self.stream.read_exact(&mut head).ok()?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let mut body = vec![0; length - 4];
        self.stream.read_exact(&mut body).ok()?;
        Some((head[0], body))
    }

    /// Messages up to and including the first of `kind`.
    pub fn until(&mut self, kind: u8) -> Vec<Message> {
        let mut seen = Vec::new();
        loop {
            let message = self.message();
            let message = message.unwrap_or_else(|| panic!("hung up after {seen:?}"));
            let last = message.0 == kind;
            seen.push(message);
            if last {
                return seen;
            }
        }
    }

    /// Everything until the server hangs up.
    pub fn rest(&mut self) -> Vec<Message> {
        std::iter::from_fn(|| self.message()).collect()
    }

    pub fn startup(&mut self, protocol: Protocol, parameters: &[(&str, &str)]) {
        let mut out = Vec::new();
        build::startup(protocol, parameters.iter().copied(), &mut out);
        self.send(&out);
    }

    /// Sends the startup packet and goes through SCRAM. Returns all that the server said, from
    /// its first message on, until it is ready or ends it.
    pub fn log_in(
        &mut self,
        protocol: Protocol,
        parameters: &[(&str, &str)],
        password: &str,
    ) -> Vec<Message> {
        let mut out = Vec::new();
        build::startup(protocol, parameters.iter().copied(), &mut out);
        let mut seen = Vec::new();
        // Who is not let in may be told so, and hung up on, before all is sent.
        let _ = self.stream.write_all(&out);
        let _ = self.stream.flush();
        let mut waiting_for_first = None;
        let mut waiting_for_final = None;
        while let Some((kind, body)) = self.message() {
            seen.push((kind, body.clone()));
            let mut out = Vec::new();
            match kind {
                b'R' => match parse::authentication(&body).unwrap() {
                    parse::Authentication::Sasl(mechanisms) => {
                        let nonce = scram::nonce().unwrap();
                        let binding = self.binding.clone();
                        let started = client::start(binding, mechanisms.iter(), &nonce).unwrap();
                        let first = started.client_first.as_bytes();
                        build::sasl_initial_response(started.mechanism, Some(first), &mut out);
                        waiting_for_first = Some(started.state);
                    }
                    parse::Authentication::SaslContinue(data) => {
                        let state: client::AwaitServerFirst = waiting_for_first.take().unwrap();
                        let (state, answer) = state.on_server_first(data, password, None).unwrap();
                        build::sasl_response(answer.as_bytes(), &mut out);
                        out.append(&mut self.eager);
                        waiting_for_final = Some(state);
                    }
                    parse::Authentication::SaslFinal(data) => {
                        let state: client::AwaitServerFinal = waiting_for_final.take().unwrap();
                        state.on_server_final(data).unwrap();
                    }
                    _ => {}
                },
                b'E' | b'Z' => return seen,
                _ => {}
            }
            if !out.is_empty() {
                let _ = self.stream.write_all(&out);
                let _ = self.stream.flush();
            }
        }
        seen
    }

    pub fn query(&mut self, sql: &str) -> Vec<Message> {
        let mut out = Vec::new();
        build::query(sql, &mut out);
        self.send(&out);
        self.until(b'Z')
    }
}

/// SQLSTATE of the last error among messages.
pub fn code_of(messages: &[Message]) -> String {
    let error = messages.iter().rev().find(|(kind, _)| *kind == b'E');
    error.map_or_else(String::new, |(_, body)| {
        parse::report(body).unwrap().code().to_owned()
    })
}

/// Value of a parameter that was reported.
pub fn parameter(messages: &[Message], name: &str) -> Option<String> {
    messages
        .iter()
        .rev()
        .filter(|(kind, _)| *kind == b'S')
        .find_map(|(_, body)| {
            let (own, value) = parse::parameter_status(body).unwrap();
            (own == name.as_bytes()).then(|| String::from_utf8(value.to_vec()).unwrap())
        })
}

pub fn cancel_key(messages: &[Message]) -> CancelKey {
    let (_, body) = messages.iter().find(|(kind, _)| *kind == b'K').unwrap();
    parse::backend_key_data(body).unwrap()
}

/// First column of the first row.
pub fn value(messages: &[Message]) -> String {
    let row = messages.iter().find(|(kind, _)| *kind == b'D');
    let (_, body) = row.unwrap_or_else(|| panic!("no row in {messages:?}"));
    String::from_utf8(body[6..].to_vec()).unwrap()
}
