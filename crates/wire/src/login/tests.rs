//! Every message in every state, for both logins: what is not expected there ends the login.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::{
    client::{AfterInitial, AwaitStartup, Began, LoginError, Seed},
    server::{self, Accept, Credentials, ServerLogin, ServerLoginError, Step},
};
use crate::{
    message::{self, Message, TransactionStatus, build, parse},
    scram::{ChannelBinding, ClientKeys, Keys, ScramError, attributes::encode},
    startup::{CancelKey, First, Protocol, StartupError, first_packet},
};

const SEED: Seed = Seed {
    nonce: [3; 18],
    salt: [4; 16],
    iterations: 2,
};

fn right_keys() -> Vec<Keys> {
    vec![Keys::from_password("right", &SEED.salt, SEED.iterations)]
}

/// All messages in `bytes`.
fn messages(mut bytes: &[u8]) -> Vec<Message<'_>> {
    let mut all = Vec::new();
    while let Some(message) = message::split(bytes, u32::MAX).unwrap() {
        bytes = &bytes[message.size()..];
        all.push(message);
    }
    assert!(bytes.is_empty());
    all
}

fn tags(bytes: &[u8]) -> String {
    messages(bytes)
        .iter()
        .map(|message| char::from(message.tag))
        .collect()
}

fn first(bytes: &[u8]) -> First {
    first_packet(bytes).unwrap().unwrap().1
}

fn startup_packet(protocol: Protocol, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    build::startup(protocol, parameters.iter().copied(), &mut out);
    out
}

fn asked(protocol: Protocol, parameters: &[(&str, &str)]) -> super::client::Asked {
    let first = first(&startup_packet(protocol, parameters));
    match AwaitStartup::new(false).on(first) {
        Ok(Began::Asked(asked)) => asked,
        other => panic!("{other:?}"),
    }
}

fn server_credentials(password: &str, binding: ChannelBinding) -> Credentials {
    Credentials {
        user: "x_abc_admin".into(),
        password: Zeroizing::new(password.into()),
        cached: None,
        binding,
        accept: Accept::default(),
    }
}

// The client's side of the door.

/// What a client sends first, in words: SSLRequest, GSSENCRequest, TLS handshake, CancelRequest,
/// StartupMessage. All sequences of up to three, with TLS offered and not.
#[test]
fn every_order_of_first_packets() {
    let packet = |kind: char| match kind {
        's' => First::Ssl,
        'g' => First::Gss,
        't' => First::DirectTls,
        'c' => First::Cancel(CancelKey::new(1, b"abcd").unwrap()),
        _ => first(&startup_packet(Protocol::V3_0, &[("user", "a")])),
    };
    let run = |tls: bool, kinds: &str| {
        let mut state = AwaitStartup::new(tls);
        let mut seen = String::new();
        for kind in kinds.chars() {
            state = match state.on(packet(kind)) {
                Ok(Began::Answer { byte, state }) => {
                    seen.push(char::from(byte));
                    state
                }
                Ok(Began::DirectTls(state)) => {
                    seen.push('T');
                    state
                }
                Ok(Began::Cancel(_)) => return seen + "cancel",
                Ok(Began::Asked(_)) => return seen + "asked",
                Err(StartupError::Protocol(_)) => return seen + "unsupported",
                Err(StartupError::UnexpectedTls) => return seen + "noise",
                Err(other) => panic!("{other}"),
            };
        }
        seen
    };
    for (tls, kinds, expected) in [
        (true, "a", "asked"),
        (true, "c", "cancel"),
        (true, "sa", "Sasked"),
        (true, "sc", "Scancel"),
        (true, "ss", "Sunsupported"),
        (true, "sg", "Sunsupported"),
        (true, "st", "Snoise"),
        (true, "ga", "Nasked"),
        (true, "gg", "Nunsupported"),
        (true, "gs", "NS"),
        (true, "gsa", "NSasked"),
        (true, "gsg", "NSunsupported"),
        (true, "gt", "Nnoise"),
        (true, "ta", "Tasked"),
        (true, "tc", "Tcancel"),
        (true, "ts", "Tunsupported"),
        (true, "tg", "Tunsupported"),
        (true, "tt", "Tnoise"),
        (false, "a", "asked"),
        (false, "c", "cancel"),
        (false, "sa", "Nasked"),
        (false, "ss", "Nunsupported"),
        (false, "sg", "NN"),
        (false, "sga", "NNasked"),
        (false, "sgs", "NNunsupported"),
        (false, "sgg", "NNunsupported"),
        (false, "st", "Nnoise"),
        (false, "gs", "NN"),
        (false, "gsa", "NNasked"),
        (false, "t", "noise"),
    ] {
        assert_eq!(run(tls, kinds), expected, "tls {tls}, {kinds}");
    }
    // Nobody is answered for ever.
    let letters = ['s', 'g', 't', 'c', 'a'];
    for tls in [true, false] {
        for (a, b, c) in letters.iter().flat_map(|a| {
            let pairs = letters
                .iter()
                .flat_map(|b| letters.iter().map(move |c| (b, c)));
            pairs.map(move |(b, c)| (a, b, c))
        }) {
            let seen = run(tls, &String::from_iter([a, b, c]));
            let end = seen.trim_start_matches(['S', 'N', 'T']);
            assert!(!end.is_empty(), "{a}{b}{c} goes on: {seen}");
        }
    }
}

#[test]
fn unknown_versions_and_extensions_are_answered_before_the_challenge() {
    for (protocol, extension, expected) in [
        (Protocol::V3_0, None, "R"),
        (Protocol::V3_2, None, "R"),
        (Protocol::new(3, 9999), None, "vR"),
        (Protocol::V3_0, Some(("_pq_.x", "1")), "vR"),
    ] {
        let mut parameters = vec![("user", "a")];
        parameters.extend(extension);
        let mut out = Vec::new();
        asked(protocol, &parameters).challenge(ChannelBinding::Unavailable, &mut out);
        assert_eq!(tags(&out), expected);
        if expected == "vR" {
            let (spoken, unknown) =
                parse::negotiate_protocol_version(messages(&out)[0].body).unwrap();
            assert_eq!(spoken, protocol.min(Protocol::V3_2));
            assert_eq!(unknown, u32::from(extension.is_some()));
        }
    }
}

/// States of a client's login after its startup packet.
#[derive(Clone, Copy, Debug, PartialEq)]
enum ClientState {
    Initial,
    First,
    Final,
}

/// Brings a login to a state and gives it one message.
fn client_login(state: ClientState, tag: u8, body: &[u8]) -> Result<&'static str, LoginError> {
    let out = &mut Vec::new();
    let asked = asked(Protocol::V3_0, &[("user", "a")]);
    let initial = asked.challenge(ChannelBinding::Unavailable, out);
    let message = Message { tag, body };
    let named = |name| match name {
        AfterInitial::First(_) => "first",
        AfterInitial::Final(_) => "final",
    };
    if state == ClientState::Initial {
        return initial.on(message, &SEED, out).map(named);
    }
    let mut bare = Vec::new();
    build::sasl_initial_response("SCRAM-SHA-256", None, &mut bare);
    let AfterInitial::First(first) = initial.on(messages(&bare)[0], &SEED, out).unwrap() else {
        panic!("it named a mechanism only");
    };
    if state == ClientState::First {
        return first.on(message, &SEED, out).map(|_| "final");
    }
    let hello = Message {
        tag: b'p',
        body: b"n,,n=,r=abc",
    };
    let last = first.on(hello, &SEED, out).unwrap();
    last.on(message).map(|_| "proved")
}

#[test]
fn every_message_in_every_state_of_a_clients_login() {
    let initial = b"SCRAM-SHA-256\0\0\0\0\x0bn,,n=,r=abc";
    let bare = b"SCRAM-SHA-256\0\xff\xff\xff\xff";
    let hello = b"n,,n=,r=abc";
    // Base64 of 18 times 3, and of 32 zeros.
    let proof = format!("c=biws,r=abc{},p={}=", "AwMD".repeat(6), "A".repeat(43));
    let bodies = [
        &initial[..],
        bare,
        hello,
        proof.as_bytes(),
        b"",
        b"\0",
        b"secret\0",
    ];
    for state in [ClientState::Initial, ClientState::First, ClientState::Final] {
        for tag in 0..=u8::MAX {
            for (index, body) in bodies.into_iter().enumerate() {
                let got = client_login(state, tag, body);
                let expected = match (state, tag, index) {
                    (ClientState::Initial, b'p', 0) => Ok("final"),
                    (ClientState::Initial, b'p', 1) => Ok("first"),
                    (ClientState::First, b'p', 2) => Ok("final"),
                    (ClientState::Final, b'p', 3) => Ok("proved"),
                    _ => Err(()),
                };
                assert_eq!(got.map_err(drop), expected, "{state:?} {tag} {body:?}");
                match (tag, got) {
                    (b'p', _) => {}
                    (b'X', got) => assert_eq!(got, Err(LoginError::Left)),
                    (tag, got) => assert_eq!(got, Err(LoginError::OutOfOrder(tag))),
                }
            }
        }
    }
}

// Both sides against each other.

/// A client of ours logs in to a server of ours. Gives what the client learned.
fn both(
    credentials: Credentials,
    ours: ChannelBinding,
    candidates: &[Keys],
    protocol: Protocol,
) -> Result<server::ServerSession, ServerLoginError> {
    let mut to_server = Vec::new();
    let mut client = server::start(
        credentials,
        protocol,
        &[("database", "postgres"), ("_pq_.x", "y")],
        [1; 18],
        &mut to_server,
    );
    let mut to_client = Vec::new();
    let Began::Asked(asked) = AwaitStartup::new(false).on(first(&to_server)).unwrap() else {
        panic!("it asked for a session");
    };
    let initial = asked.challenge(ours, &mut to_client);
    client = feed(client, &mut to_client, &mut to_server)?.unwrap();
    let AfterInitial::Final(last) = initial
        .on(messages(&to_server)[0], &SEED, &mut to_client)
        .unwrap()
    else {
        panic!("it sent both");
    };
    client = feed(client, &mut to_client, &mut to_server)?.unwrap();
    let proved = last.on(messages(&to_server)[0]).unwrap();
    match proved.evaluate(candidates) {
        None => build::error_response(
            &build::Report {
                severity: build::Severity::Fatal,
                code: "28P01",
                message: "no",
                detail: "",
                hint: "",
            },
            &mut to_client,
        ),
        Some(right) => {
            let logged_in = proved.accept(&right, &mut to_client);
            assert_eq!(logged_in.startup.user, "x_abc_admin");
            let secret = if logged_in.protocol.has_long_cancel_keys() {
                32
            } else {
                4
            };
            let key = CancelKey::new(5, &vec![6; secret]).unwrap();
            build::parameter_status(b"TimeZone", b"UTC", &mut to_client);
            build::parameter_status(b"TimeZone", b"CET", &mut to_client);
            build::backend_key_data(&key, &mut to_client);
            build::ready_for_query(TransactionStatus::Idle, &mut to_client);
        }
    }
    let mut nothing = Vec::new();
    let mut step = Step::Continue(client);
    for message in messages(&to_client) {
        let Step::Continue(client) = step else {
            panic!("a message after the last");
        };
        step = client.on(message, &mut nothing)?;
    }
    match step {
        Step::Ready(session) => Ok(session),
        Step::Continue(_) => panic!("not ready"),
    }
}

/// Gives all messages to the client; its answer replaces what was sent before.
fn feed(
    mut client: ServerLogin,
    incoming: &mut Vec<u8>,
    answer: &mut Vec<u8>,
) -> Result<Option<ServerLogin>, ServerLoginError> {
    answer.clear();
    for message in messages(incoming) {
        match client.on(message, answer)? {
            Step::Continue(next) => client = next,
            Step::Ready(_) => return Ok(None),
        }
    }
    incoming.clear();
    Ok(Some(client))
}

#[test]
fn both_sides_understand_each_other() {
    let bound = ChannelBinding::EndPoint(vec![1; 48]);
    for binding in [ChannelBinding::Unavailable, bound] {
        for (protocol, spoken) in [(0, 0), (2, 2), (9999, 2)] {
            let credentials = server_credentials("right", binding.clone());
            let session = both(
                credentials,
                binding.clone(),
                &right_keys(),
                Protocol::new(3, protocol),
            )
            .unwrap();
            assert_eq!(session.protocol, Protocol::new(3, spoken));
            assert_eq!(
                session.parameters,
                [(b"TimeZone".to_vec(), b"CET".to_vec())]
            );
            assert_eq!(session.cancel_key.unwrap().process_id(), 5);
            assert!(session.keys.is_some());
        }
    }
}

#[test]
fn kept_keys_open_without_the_password() {
    let none = ChannelBinding::Unavailable;
    let login = |credentials| both(credentials, none.clone(), &right_keys(), Protocol::V3_0);
    let keys = login(server_credentials("right", none.clone()))
        .unwrap()
        .keys;
    let with_keys = Credentials {
        cached: keys,
        ..server_credentials("not looked at", none.clone())
    };
    login(with_keys).unwrap();

    let stale = ClientKeys::from_password("right", &[0; 16], 2);
    let with_stale_keys = Credentials {
        cached: Some(Arc::new(stale)),
        ..server_credentials("right", none.clone())
    };
    login(with_stale_keys).unwrap();

    let wrong = login(server_credentials("wrong", none.clone())).unwrap_err();
    let ServerLoginError::Refused { code, .. } = wrong else {
        panic!("{wrong}");
    };
    assert_eq!(code, "28P01");
}

// The server's side of the door.

/// States of our login to a server.
const SERVER_STATES: [&str; 5] = ["authentication", "first", "final", "ok", "ready"];

fn message(write: impl FnOnce(&mut Vec<u8>)) -> (u8, Vec<u8>) {
    let mut out = Vec::new();
    write(&mut out);
    (out[0], out[5..].to_vec())
}

/// Brings a login to a state and gives it one message.
fn server_login(
    state: &str,
    accept: Accept,
    (tag, body): &(u8, Vec<u8>),
) -> Result<Step, ServerLoginError> {
    let credentials = Credentials {
        accept,
        ..server_credentials("right", ChannelBinding::Unavailable)
    };
    let mut sent = Vec::new();
    let mut login = server::start(credentials, Protocol::V3_0, &[], [1; 18], &mut sent);
    let give = |login: ServerLogin, (tag, body): &(u8, Vec<u8>), sent: &mut Vec<u8>| {
        sent.clear();
        login.on(Message { tag: *tag, body }, sent)
    };
    let next = |login, message: &(u8, Vec<u8>), sent: &mut Vec<u8>| match give(login, message, sent)
    {
        Ok(Step::Continue(login)) => login,
        other => panic!("{other:?}"),
    };
    for at in SERVER_STATES {
        if at == state {
            break;
        }
        let script = match at {
            "authentication" => message(|out| build::authentication_sasl(&["SCRAM-SHA-256"], out)),
            "first" => server_first(),
            "final" => server_final(&sent),
            _ => message(build::authentication_ok),
        };
        login = next(login, &script, &mut sent);
    }
    let last = if tag == &b'R' && body == b"\0\0\0\x0cright" {
        server_final(&sent)
    } else {
        (*tag, body.clone())
    };
    give(login, &last, &mut sent)
}

/// The nonce our logins are started with, as text.
fn client_nonce() -> String {
    "AQEB".repeat(6)
}

fn server_first() -> (u8, Vec<u8>) {
    let text = format!("r={}xyz,s=BAQEBAQEBAQEBAQEBAQEBA==,i=2", client_nonce());
    message(|out| build::authentication_sasl_continue(text.as_bytes(), out))
}

/// What a server that knows the password answers to the proof in `sent`.
fn server_final(sent: &[u8]) -> (u8, Vec<u8>) {
    // Before its time there is no proof to answer.
    let proof = message::split(sent, u32::MAX).ok().flatten();
    let Some(answer) = proof.filter(|answer| answer.body.starts_with(b"c=")) else {
        return (b'R', b"\0\0\0\x0cv=".to_vec());
    };
    let text = str::from_utf8(answer.body).unwrap();
    let (without_proof, _) = text.split_once(",p=").unwrap();
    let (_, body) = server_first();
    let server_first = str::from_utf8(&body[4..]).unwrap();
    let auth_message = format!("n=,r={},{server_first},{without_proof}", client_nonce());
    let keys = ClientKeys::from_password("right", &[4; 16], 2);
    let signature = keys.server_signature(&[auth_message.as_bytes()]);
    let text = format!("v={}", encode(signature));
    message(|out| build::authentication_sasl_final(text.as_bytes(), out))
}

#[test]
fn every_message_in_every_state_of_a_login_to_a_server() {
    let key = CancelKey::new(1, b"abcd").unwrap();
    let mut all: Vec<(&str, (u8, Vec<u8>))> = vec![
        (
            "sasl",
            message(|out| build::authentication_sasl(&["SCRAM-SHA-256"], out)),
        ),
        ("first", server_first()),
        ("final", (b'R', b"\0\0\0\x0cright".to_vec())),
        ("ok", message(build::authentication_ok)),
        (
            "cleartext",
            message(build::authentication_cleartext_password),
        ),
        ("md5", (b'R', b"\0\0\0\x05salt".to_vec())),
        ("gss", (b'R', b"\0\0\0\x07".to_vec())),
        (
            "status",
            message(|out| build::parameter_status(b"a", b"b", out)),
        ),
        ("key", message(|out| build::backend_key_data(&key, out))),
        ("long key", (b'K', vec![0; 36])),
        (
            "ready",
            message(|out| build::ready_for_query(TransactionStatus::Idle, out)),
        ),
        (
            "busy",
            message(|out| build::ready_for_query(TransactionStatus::Failed, out)),
        ),
        ("notice", (b'N', b"SNOTICE\0C00000\0Mhi\0\0".to_vec())),
        ("error", (b'E', b"SFATAL\0C28P01\0Mno\0\0".to_vec())),
        (
            "3.0",
            message(|out| build::negotiate_protocol_version(Protocol::V3_0, [], out)),
        ),
        (
            "3.2",
            message(|out| build::negotiate_protocol_version(Protocol::V3_2, [], out)),
        ),
        (
            "2.0",
            message(|out| build::negotiate_protocol_version(Protocol::new(2, 0), [], out)),
        ),
    ];
    // One of every other type, empty and not.
    for tag in 0..=u8::MAX {
        for body in [&b""[..], b"\0", b"\0\0\0\x63"] {
            all.push(("", (tag, body.to_vec())));
        }
    }
    for (accept, trusting) in [
        (Accept::default(), false),
        (
            Accept {
                trust: true,
                cleartext: true,
            },
            true,
        ),
    ] {
        for state in SERVER_STATES {
            for (name, message) in &all {
                let expected = matches!(
                    (state, *name),
                    ("authentication", "sasl" | "3.0")
                        | ("first", "first")
                        | ("final", "final")
                        | ("ok", "ok")
                        | ("ready", "status" | "key" | "ready")
                        | (_, "notice")
                ) || (trusting && matches!((state, *name), ("authentication", "ok" | "cleartext")))
                    // The shortest report has no fields at all.
                    || (message.0 == b'N' && message.1 == b"\0");
                let got = server_login(state, accept, message);
                assert_eq!(
                    got.is_ok(),
                    expected,
                    "{state}: {name} {message:?}: {got:?}"
                );
                if expected {
                    let ready = matches!(got, Ok(Step::Ready(_)));
                    assert_eq!(ready, *name == "ready", "{state}: {name}");
                }
            }
        }
    }
}

#[test]
fn refusals_say_why() {
    let strict = Accept::default();
    let at_start = |message| server_login("authentication", strict, &message).unwrap_err();
    assert_eq!(
        at_start((b'E', b"SFATAL\0VFATAL\0C3D000\0Mno such\0\0".to_vec())),
        ServerLoginError::Refused {
            code: "3D000".into(),
            message: "no such".into()
        }
    );
    for (message, method) in [
        (message(build::authentication_ok), "no password at all"),
        (
            message(build::authentication_cleartext_password),
            "the password itself",
        ),
        ((b'R', b"\0\0\0\x05salt".to_vec()), "MD5"),
    ] {
        assert_eq!(at_start(message), ServerLoginError::Method(method));
    }
    // A server that does not know the password skips its proof, or makes one up.
    let skipped = server_login("final", strict, &message(build::authentication_ok));
    assert_eq!(skipped.unwrap_err(), ServerLoginError::OutOfOrder(b'R'));
    let made_up = format!("v={}=", "A".repeat(43));
    let made_up = message(|out| build::authentication_sasl_final(made_up.as_bytes(), out));
    assert_eq!(
        server_login("final", strict, &made_up).unwrap_err(),
        ServerLoginError::Scram(ScramError::WrongServer)
    );
}

#[test]
fn a_server_cannot_fill_our_memory() {
    let accept = Accept {
        trust: true,
        cleartext: false,
    };
    let ready_to = |message: &(u8, Vec<u8>), times: u32| {
        let credentials = Credentials {
            accept,
            ..server_credentials("", ChannelBinding::Unavailable)
        };
        let out = &mut Vec::new();
        let mut login = server::start(credentials, Protocol::V3_0, &[], [1; 18], out);
        let ok = [(b'R', vec![0; 4])];
        let all = ok
            .iter()
            .chain(std::iter::repeat_n(message, times as usize));
        for (tag, body) in all {
            match login.on(Message { tag: *tag, body }, out)? {
                Step::Continue(next) => login = next,
                Step::Ready(_) => panic!("not asked"),
            }
        }
        Ok(())
    };
    let notice = (b'N', b"\0".to_vec());
    assert_eq!(ready_to(&notice, server::MESSAGES_MAX - 1), Ok(()));
    assert_eq!(
        ready_to(&notice, server::MESSAGES_MAX),
        Err(ServerLoginError::TooMuch)
    );
    let status = message(|out| build::parameter_status(b"abc", &[b'x'; 60_000], out));
    assert_eq!(ready_to(&status, 1), Ok(()));
    assert_eq!(ready_to(&status, 2), Err(ServerLoginError::TooMuch));
    let large = (b'N', vec![0; super::SERVER_BODY_BYTES_MAX as usize + 1]);
    assert_eq!(ready_to(&large, 1), Err(ServerLoginError::TooMuch));
}

/// CVE-2021-23222 and CVE-2024-10977 of libpq.
#[test]
fn the_answer_to_a_request_for_tls_is_one_byte() {
    assert_eq!(server::tls_answer(b""), Ok(None));
    assert_eq!(server::tls_answer(b"S"), Ok(Some(true)));
    assert_eq!(server::tls_answer(b"N"), Ok(Some(false)));
    for bytes in [
        &b"SS"[..],
        b"NR\0\0\0\x08\0\0\0\0",
        b"E\0\0\0\x09",
        b"\0",
        b"s",
    ] {
        assert!(server::tls_answer(bytes).is_err(), "{bytes:?}");
    }
}
