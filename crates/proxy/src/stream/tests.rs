//! TLS over a socket pair, against rustls with its own buffers at the other end.

use std::io::{Read, Write};

use rustls::{ClientConnection, RootCertStore, ServerConnection, pki_types::pem::PemObject};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::config::TlsConfig;

struct Keys {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

fn keys() -> Keys {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (chain, key) = (own.cert.pem(), own.signing_key.serialize_pem());
    let tls = TlsConfig::from_pem(chain.as_bytes(), key.as_bytes()).unwrap();
    let mut roots = RootCertStore::empty();
    let root = PemObject::from_pem_slice(chain.as_bytes()).unwrap();
    roots.add(root).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Keys {
        server: tls.now().server,
        client: Arc::new(client),
    }
}

/// The other end: any side of rustls, over a socket, in pieces of some size.
struct Other<C> {
    tls: C,
    socket: UnixStream,
    piece: usize,
    heard: Vec<u8>,
}

impl<C, D> Other<C>
where
    C: std::ops::DerefMut<Target = rustls::ConnectionCommon<D>>,
    D: rustls::SideData,
{
    async fn flush(&mut self) {
        let mut out = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut out).unwrap();
        }
        for piece in out.chunks(self.piece) {
            self.socket.write_all(piece).await.unwrap();
            // The reader sees this piece alone.
            tokio::task::yield_now().await;
        }
    }

    async fn fill(&mut self) -> usize {
        let mut bytes = vec![0; 65_536];
        let read = self.socket.read(&mut bytes).await.unwrap();
        let mut bytes = &bytes[..read];
        while !bytes.is_empty() {
            self.tls.read_tls(&mut bytes).unwrap();
            self.tls.process_new_packets().unwrap();
            // Its buffer is small. At the end there is nothing to read, either.
            let _ = self.tls.reader().read_to_end(&mut self.heard);
        }
        read
    }

    async fn shake_hands(&mut self) {
        loop {
            self.flush().await;
            if !self.tls.is_handshaking() {
                return;
            }
            self.fill().await;
        }
    }

    async fn say(&mut self, bytes: &[u8]) {
        self.tls.writer().write_all(bytes).unwrap();
        self.flush().await;
    }

    async fn hear(&mut self, size: usize) -> Vec<u8> {
        while self.heard.len() < size {
            assert_ne!(self.fill().await, 0);
            self.flush().await;
        }
        self.heard.drain(..size).collect()
    }
}

fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i * 31 % 251) as u8).collect()
}

async fn read_exactly(stream: &mut Stream, size: usize) -> Vec<u8> {
    let mut read = Vec::new();
    while read.len() < size {
        assert_ne!(stream.read_more(&mut read).await.unwrap(), 0);
    }
    read
}

fn on_a_worker<T>(work: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let options = tokio::runtime::LocalOptions::default();
    builder
        .enable_all()
        .build_local(options)
        .unwrap()
        .block_on(work)
}

/// A client that sends its bytes in pieces, and a stream that logged it in.
async fn joined(keys: &Keys, piece: usize) -> (Other<ClientConnection>, Stream) {
    let (near, far) = UnixStream::pair().unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = Other {
        tls: ClientConnection::new(keys.client.clone(), name).unwrap(),
        socket: far,
        piece,
        heard: Vec::new(),
    };
    client.tls.set_buffer_limit(None);
    let mut stream = Stream::unix(near.into_std().unwrap()).unwrap();
    let accept = stream.accept_tls(keys.server.clone(), &[]);
    let (accepted, ()) = tokio::join!(accept, client.shake_hands());
    accepted.unwrap();
    assert!(stream.is_encrypted());
    (client, stream)
}

#[test]
fn whatever_the_pieces_what_was_said_is_heard() {
    let keys = keys();
    on_a_worker(async {
        // Bytes alone, parts of headers, whole records, several at once.
        for piece in [1, 4, 5, 6, 1000, 8191, 16_000, 40_000] {
            let (mut client, mut stream) = joined(&keys, piece).await;
            for size in [1, 100, 8000, 16_384, 16_385, 100_000] {
                if size > 1000 * piece {
                    continue;
                }
                let said = pattern(size);
                let (heard, ()) = tokio::join!(read_exactly(&mut stream, size), client.say(&said));
                assert!(heard == said, "{size} in pieces of {piece}");
                let (sent, heard) = tokio::join!(stream.send_all(&said), client.hear(size));
                sent.unwrap();
                assert!(heard == said, "{size} back");
            }
            assert!(stream.is_quiet());
            client.say(b"!").await;
            assert!(!stream.is_quiet());
        }
    });
}

/// What has not been asked for stays, also for a reader with little room and on another event loop.
#[test]
fn what_was_opened_and_not_asked_for_waits() {
    let keys = keys();
    on_a_worker(async {
        let (mut client, mut stream) = joined(&keys, 40_000).await;
        let said = pattern(30_000);
        client.say(&said).await;
        let mut heard = Vec::new();
        let mut room = [0; 7];
        while heard.len() < 10_000 {
            let read = poll_fn(|cx| stream.poll_read(cx, &mut room)).await.unwrap();
            heard.extend_from_slice(&room[..read]);
        }
        assert!(!stream.is_quiet());
        stream.hold(b"held, ").unwrap();
        let mut stream = Stream::arrive(stream.depart().unwrap()).unwrap();
        heard.extend(read_exactly(&mut stream, said.len() - heard.len()).await);
        assert!(heard == said);
        assert!(stream.is_quiet());
        stream.send_all(b"and sent").await.unwrap();
        assert_eq!(client.hear(14).await, b"held, and sent");
    });
}

#[test]
fn keys_change_under_way_and_the_end_is_said() {
    let keys = keys();
    on_a_worker(async {
        let (mut client, mut stream) = joined(&keys, 7).await;
        for round in 0..5 {
            client.tls.refresh_traffic_keys().unwrap();
            let said = pattern(100 + round);
            let hear = read_exactly(&mut stream, said.len());
            let (heard, ()) = tokio::join!(hear, client.say(&said));
            assert!(heard == said);
            stream.send_all(&said).await.unwrap();
            assert!(client.hear(said.len()).await == said);
        }
        client.tls.send_close_notify();
        client.flush().await;
        for _ in 0..2 {
            assert_eq!(stream.read_more(&mut Vec::new()).await.unwrap(), 0);
        }
        // One half is closed, the other is not.
        stream.send_all(b"last words").await.unwrap();
        assert_eq!(client.hear(10).await, b"last words");
        stream.finish().await;
        while client.fill().await > 0 {}
        assert_eq!(client.tls.reader().read(&mut [0]).unwrap(), 0);
    });
}

/// Somebody on the way changes a byte: nothing of that record is believed, and TLS says why.
#[test]
fn a_changed_byte_ends_it() {
    let keys = keys();
    on_a_worker(async {
        let (mut client, mut stream) = joined(&keys, 40_000).await;
        client.tls.writer().write_all(b"good").unwrap();
        client.flush().await;
        client.tls.writer().write_all(b"evil").unwrap();
        let mut record = Vec::new();
        client.tls.write_tls(&mut record).unwrap();
        *record.last_mut().unwrap() ^= 1;
        client.socket.write_all(&record).await.unwrap();
        let mut heard = Vec::new();
        let error = loop {
            match stream.read_more(&mut heard).await {
                Ok(read) => assert_ne!(read, 0),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(heard, b"good");
        let mut bytes = vec![0; 100];
        let read = client.socket.read(&mut bytes).await.unwrap();
        client.tls.read_tls(&mut &bytes[..read]).unwrap();
        let told = client.tls.process_new_packets().unwrap_err();
        let alert = rustls::AlertDescription::BadRecordMac;
        assert_eq!(told, rustls::Error::AlertReceived(alert));
    });
}

/// The same as a client of ours, towards a node; with bytes behind the handshake.
#[test]
fn towards_a_server_it_is_the_same() {
    let keys = keys();
    on_a_worker(async {
        for piece in [1, 1000, 40_000] {
            let (near, far) = UnixStream::pair().unwrap();
            let mut server = Other {
                tls: ServerConnection::new(keys.server.clone()).unwrap(),
                socket: far,
                piece,
                heard: Vec::new(),
            };
            let mut stream = Stream::unix(near.into_std().unwrap()).unwrap();
            let name = ServerName::try_from("localhost").unwrap();
            let connect = stream.connect_tls(keys.client.clone(), name);
            let (connected, ()) = tokio::join!(connect, async {
                server.shake_hands().await;
                server.say(b"first words").await;
            });
            connected.unwrap();
            assert!(stream.peer_certificate().is_some());
            assert_eq!(read_exactly(&mut stream, 11).await, b"first words");
            let said = pattern(50_000);
            let (sent, heard) = tokio::join!(stream.send_all(&said), server.hear(said.len()));
            sent.unwrap();
            assert!(heard == said);
        }
    });
}

/// A peer that does not read: what is accepted is kept in order, whatever it takes.
#[test]
fn a_blocked_write_goes_on_where_it_stopped() {
    let keys = keys();
    on_a_worker(async {
        let (mut client, mut stream) = joined(&keys, 40_000).await;
        let mut said = Vec::new();
        while !stream.is_blocked() {
            let piece = pattern(20_000 + said.len());
            poll_fn(|cx| Poll::Ready(stream.send(cx, &piece)))
                .await
                .unwrap();
            said.extend(piece);
        }
        let flush = poll_fn(|cx| stream.poll_flush(cx));
        let (flushed, heard) = tokio::join!(flush, client.hear(said.len()));
        flushed.unwrap();
        assert!(!stream.is_blocked());
        assert!(heard == said);
    });
}

/// As a client that cancels does: the end of its handshake, its request and its goodbye are one flight.
#[test]
fn who_says_all_in_one_flight_is_heard() {
    let keys = keys();
    on_a_worker(async {
        let (near, far) = UnixStream::pair().unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut client = Other {
            tls: ClientConnection::new(keys.client.clone(), name).unwrap(),
            socket: far,
            piece: 40_000,
            heard: Vec::new(),
        };
        let mut stream = Stream::unix(near.into_std().unwrap()).unwrap();
        let accept = stream.accept_tls(keys.server.clone(), &[]);
        let (accepted, ()) = tokio::join!(accept, async {
            client.flush().await;
            while client.tls.is_handshaking() {
                client.fill().await;
            }
            client.tls.writer().write_all(b"cancel").unwrap();
            client.tls.send_close_notify();
            client.flush().await;
        });
        accepted.unwrap();
        assert_eq!(read_exactly(&mut stream, 6).await, b"cancel");
        assert_eq!(stream.read_more(&mut Vec::new()).await.unwrap(), 0);
    });
}
