//! Our half of the protocol against PostgreSQL's own other half.
#![cfg(test)]

mod server;

use std::{
    io::{Read, Write},
    sync::Arc,
};

use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, crypto::aws_lc_rs};
use server::{PASSWORD, Server, Version};
use wire::{
    login::{
        SERVER_BODY_BYTES_MAX,
        server::{self as login, Accept, Credentials, ServerLoginError, ServerSession, Step},
    },
    message::{self, build, parse, server as tag},
    scram::{self, ChannelBinding, Keys, Verifier},
    startup::{First, Protocol, StartupError, first_packet},
};

fn credentials(password: &str, binding: ChannelBinding) -> Credentials {
    Credentials {
        user: "postgres".into(),
        password: password.to_owned().into(),
        cached: None,
        binding,
        accept: Accept::default(),
    }
}

/// The next message: its tag and body. `None` at the end of the stream.
fn read_message(stream: &mut impl Read, kept: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    loop {
        if let Some(message) = message::split(kept, SERVER_BODY_BYTES_MAX).unwrap() {
            let owned = (message.tag, message.body.to_vec());
            let size = message.size();
            kept.drain(..size);
            return Some(owned);
        }
        let mut piece = [0; 4096];
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return None,
            Ok(size) => kept.extend_from_slice(&piece[..size]),
        }
    }
}

fn log_in(
    stream: &mut (impl Read + Write),
    credentials: Credentials,
    protocol: Protocol,
    parameters: &[(&str, &str)],
) -> Result<ServerSession, ServerLoginError> {
    let mut out = Vec::new();
    let nonce = scram::nonce().unwrap();
    let mut state = login::start(credentials, protocol, parameters, nonce, &mut out);
    let mut kept = Vec::new();
    loop {
        stream.write_all(&out).unwrap();
        stream.flush().unwrap();
        out.clear();
        let (tag, body) = read_message(stream, &mut kept).expect("an answer");
        let message = message::Message { tag, body: &body };
        match state.on(message, &mut out)? {
            Step::Continue(next) => state = next,
            Step::Ready(session) => return Ok(session),
        }
    }
}

/// Runs a statement; the tags of the answer, and the code of its error if there is one.
fn query(stream: &mut (impl Read + Write), sql: &str) -> (String, Option<String>) {
    let mut out = Vec::new();
    build::query(sql, &mut out);
    stream.write_all(&out).unwrap();
    answer(stream)
}

fn answer(stream: &mut impl Read) -> (String, Option<String>) {
    let (mut kept, mut tags, mut code) = (Vec::new(), String::new(), None);
    loop {
        let (tag, body) = read_message(stream, &mut kept).expect("an answer");
        tags.push(char::from(tag));
        match tag {
            tag::ERROR_RESPONSE => code = Some(parse::report(&body).unwrap().code().to_owned()),
            tag::READY_FOR_QUERY => return (tags, code),
            _ => {}
        }
    }
}

#[test]
fn we_log_in_to_every_version_and_kept_keys_save_the_hashing() {
    for version in Version::ALL {
        let server = Server::start(version);
        for protocol in [Protocol::V3_0, Protocol::V3_2, Protocol::new(3, 9999)] {
            let none = ChannelBinding::Unavailable;
            let first = credentials(PASSWORD, none.clone());
            let mut stream = server.socket();
            let session = log_in(&mut stream, first, protocol, &[("_pq_.unknown", "1")]).unwrap();
            let newest = match version {
                Version::System => Protocol::V3_0,
                Version::V18 => Protocol::V3_2,
            };
            assert_eq!(session.protocol, protocol.min(newest));
            let long = session.protocol.has_long_cancel_keys();
            let key = session.cancel_key.expect("PostgreSQL gives one");
            assert_eq!(key.secret().len(), if long { 32 } else { 4 });
            let parameter = |name: &[u8]| session.parameters.iter().any(|(own, _)| own == name);
            assert!(parameter(b"server_version") && parameter(b"TimeZone"));
            assert_eq!(query(&mut stream, "select 1"), ("TDCZ".into(), None));

            let kept = Credentials {
                cached: session.keys,
                ..credentials("not looked at", none)
            };
            log_in(&mut server.socket(), kept, protocol, &[]).unwrap();
        }
        let wrong = credentials("wrong", ChannelBinding::Unavailable);
        let refused = log_in(&mut server.socket(), wrong, Protocol::V3_0, &[]).unwrap_err();
        assert!(
            matches!(&refused, ServerLoginError::Refused { code, .. } if code == "28P01"),
            "{refused}"
        );
    }
}

#[test]
fn our_cancel_request_ends_a_statement() {
    for version in Version::ALL {
        let server = Server::start(version);
        for protocol in [Protocol::V3_0, Protocol::V3_2] {
            let own = credentials(PASSWORD, ChannelBinding::Unavailable);
            let mut stream = server.socket();
            let session = log_in(&mut stream, own, protocol, &[]).unwrap();
            let mut out = Vec::new();
            build::query("select pg_sleep(600)", &mut out);
            stream.write_all(&out).unwrap();

            let key = session.cancel_key.expect("PostgreSQL gives one");
            let sleeping = format!(
                "do $$ begin while not exists (select from pg_stat_activity where pid = {} and \
                 wait_event = 'PgSleep') loop perform pg_stat_clear_snapshot(); end loop; end $$",
                key.process_id()
            );
            let own = credentials(PASSWORD, ChannelBinding::Unavailable);
            let mut watcher = server.socket();
            log_in(&mut watcher, own, Protocol::V3_0, &[]).unwrap();
            assert_eq!(query(&mut watcher, &sleeping), ("CZ".into(), None));

            let mut cancel = Vec::new();
            build::cancel_request(&key, &mut cancel);
            server.socket().write_all(&cancel).unwrap();
            let (_, code) = answer(&mut stream);
            assert_eq!(code.as_deref(), Some("57014"));
        }
    }
}

/// Over TLS PostgreSQL checks our binding with its own hash of its certificate.
#[test]
fn scram_plus_is_bound_to_the_certificate() {
    let server = Server::start(Version::System);
    let mut tcp = server.tcp();
    let mut out = Vec::new();
    build::ssl_request(&mut out);
    tcp.write_all(&out).unwrap();
    let mut byte = [0];
    tcp.read_exact(&mut byte).unwrap();
    assert_eq!(login::tls_answer(&byte), Ok(Some(true)));

    let certificate = server.certificate();
    let tls = |tcp| {
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = "localhost".try_into().unwrap();
        StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), tcp)
    };
    let mut stream = tls(tcp);
    let binding = ChannelBinding::of_certificate(&certificate);
    assert_ne!(binding, ChannelBinding::Unavailable);
    let bound = credentials(PASSWORD, binding);
    log_in(&mut stream, bound, Protocol::V3_0, &[]).unwrap();
    assert_eq!(query(&mut stream, "select 1"), ("TDCZ".into(), None));

    // Bound to another certificate, we are refused: so it was really compared.
    let mut tcp = server.tcp();
    tcp.write_all(&out).unwrap();
    tcp.read_exact(&mut byte).unwrap();
    let elsewhere = credentials(PASSWORD, ChannelBinding::EndPoint(vec![0; 32]));
    let refused = log_in(&mut tls(tcp), elsewhere, Protocol::V3_0, &[]).unwrap_err();
    assert!(
        matches!(&refused, ServerLoginError::Refused { code, .. } if code == "28000"),
        "{refused}"
    );
}

/// The same packets to PostgreSQL 18 and to us: same negotiation byte for byte, same refusals.
#[test]
fn first_packets_are_answered_as_by_postgresql_18() {
    let server = Server::start(Version::V18);
    let packet = |major, minor, parameters: &[(&str, &str)]| {
        let mut out = Vec::new();
        let protocol = Protocol::new(major, minor);
        build::startup(protocol, parameters.iter().copied(), &mut out);
        out
    };
    let user = ("user", "postgres");
    for bytes in [
        packet(3, 0, &[user]),
        packet(3, 1, &[user]),
        packet(3, 2, &[user]),
        packet(3, 3, &[user]),
        packet(3, 9999, &[user, ("_pq_.test_protocol_negotiation", "")]),
        packet(
            3,
            0,
            &[("_pq_.a", "1"), user, ("_pq_.b", ""), ("_pq_.a", "2")],
        ),
        packet(3, 1, &[user, ("_pq_.a", "1")]),
        packet(4, 0, &[user]),
        packet(1234, 1, &[user]),
        packet(3, 0, &[]),
        packet(3, 0, &[("user", "")]),
        packet(3, 0, &[user, ("replication", "maybe")]),
        packet(3, 0, &[user, ("replication", "o")]),
        [&17_u32.to_be_bytes()[..], &[0, 3, 0, 0], b"user\0a\0xy"].concat(),
        [&8_u32.to_be_bytes()[..], &[0, 3, 0, 0]].concat(),
    ] {
        let mut stream = server.socket();
        stream.write_all(&bytes).unwrap();
        let mut kept = Vec::new();
        let mut theirs = read_message(&mut stream, &mut kept).expect("an answer");
        let ours = match first_packet(&bytes) {
            Ok(Some((_, First::Startup(startup)))) => {
                let mut out = Vec::new();
                let names = startup.extensions.iter().map(|(name, _)| name.as_str());
                if startup.must_negotiate() {
                    build::negotiate_protocol_version(startup.spoken(), names, &mut out);
                } else {
                    build::authentication_sasl(&["SCRAM-SHA-256"], &mut out);
                }
                (out[0], out[5..].to_vec())
            }
            Err(error) => {
                // It negotiates before it looks for the user; an error says the same either way.
                assert_eq!(theirs.0, tag::ERROR_RESPONSE, "{error}");
                let report = parse::report(&theirs.1).unwrap();
                let seen = (report.code().to_owned(), report.message().into_owned());
                assert_eq!(seen, (error.sqlstate().to_owned(), error.to_string()));
                assert!(!matches!(error, StartupError::UnexpectedTls));
                theirs = (0, Vec::new());
                (0, Vec::new())
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(ours, theirs, "{bytes:?}");
    }
}

/// To a client of version 2 PostgreSQL answers in version 2: `E`, a text, no length. We have one
/// language only; the words are the same.
#[test]
fn version_2_is_refused_in_the_same_words() {
    let server = Server::start(Version::V18);
    let mut out = Vec::new();
    build::startup(Protocol::new(2, 0), [("user", "postgres")], &mut out);
    let mut stream = server.socket();
    stream.write_all(&out).unwrap();
    let mut theirs = Vec::new();
    stream.read_to_end(&mut theirs).unwrap();
    let ours = first_packet(&out).unwrap_err().to_string();
    assert_eq!(
        String::from_utf8(theirs)
            .unwrap()
            .trim_end_matches(['\0', '\n']),
        format!("EFATAL:  {ours}")
    );
}

/// What we store for a password is what PostgreSQL takes, and what it stores opens with us.
#[test]
fn verifiers_are_interchangeable_with_postgresql() {
    let server = Server::start(Version::System);
    let own = credentials(PASSWORD, ChannelBinding::Unavailable);
    let mut admin = server.socket();
    log_in(&mut admin, own, Protocol::V3_0, &[]).unwrap();
    for (index, password) in ["pl\u{e4}in\u{a0}\u{2168}", "\u{1f100}", "'; drop --", " "]
        .into_iter()
        .enumerate()
    {
        let verifier = Verifier::from_password(password, &[5; 16], 4096);
        let sql = format!(
            "create role r{index} login password '{}'",
            *verifier.to_text()
        );
        assert_eq!(query(&mut admin, &sql), ("CZ".into(), None));
        let theirs = Credentials {
            user: format!("r{index}"),
            ..credentials(password, ChannelBinding::Unavailable)
        };
        let database = [("database", "postgres")];
        log_in(&mut server.socket(), theirs, Protocol::V3_0, &database).unwrap();
        assert_eq!(
            verifier.keys,
            Keys::from_password(password, &verifier.salt, verifier.iterations)
        );
    }
}
