use proptest::prelude::*;

use super::*;
use crate::message::build;

fn packet(protocol: Protocol, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    build::startup(protocol, parameters.iter().copied(), &mut out);
    out
}

/// A packet with this body behind its version.
fn raw(protocol: Protocol, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 8).unwrap();
    [&length.to_be_bytes(), &protocol.to_bytes(), body].concat()
}

fn startup(parameters: &[(&str, &str)]) -> Result<Startup, StartupError> {
    startup_of(&packet(Protocol::V3_0, parameters))
}

fn startup_of(packet: &[u8]) -> Result<Startup, StartupError> {
    match first_packet(packet)? {
        Some((size, First::Startup(startup))) => {
            assert_eq!(size, packet.len());
            Ok(*startup)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_startup_packet_is_read() {
    let startup = startup(&[
        ("user", "abc.admin"),
        ("database", "postgres"),
        ("application_name", "p\u{e4}sql\n"),
        ("DateStyle", "ISO"),
        ("_pq_.future", "on"),
        ("options", "-c geqo=off"),
    ])
    .unwrap();
    assert_eq!(startup.user, "abc.admin");
    assert_eq!(startup.database, "postgres");
    assert_eq!(startup.options, "-c geqo=off");
    assert_eq!(
        startup.parameter("application_name"),
        Some("p\\xc3\\xa4sql\\x0a")
    );
    assert_eq!(startup.parameter("datestyle"), Some("ISO"));
    assert_eq!(startup.extensions, [("_pq_.future".into(), "on".into())]);
    assert_eq!(startup.replication, Replication::No);
}

#[test]
fn the_last_of_several_values_counts_and_keeps_its_place() {
    let startup = startup(&[
        ("user", "a"),
        ("TimeZone", "UTC"),
        ("geqo", "on"),
        ("timezone", "CET"),
        ("user", "b"),
        ("replication", "on"),
        ("replication", "off"),
    ])
    .unwrap();
    assert_eq!(startup.user, "b");
    assert_eq!(startup.database, "b");
    assert_eq!(startup.replication, Replication::No);
    assert_eq!(
        startup.parameters,
        [
            ("geqo".into(), "on".into()),
            ("timezone".into(), "CET".into())
        ]
    );
}

#[test]
fn versions_are_spoken_and_negotiated_as_by_postgresql_18() {
    for (minor, extension, spoken, negotiated) in [
        (0, false, 0, false),
        // Reserved; PostgreSQL speaks it like 3.0 and says nothing.
        (1, false, 1, false),
        (2, false, 2, false),
        (3, false, 2, true),
        (9999, false, 2, true),
        (0, true, 0, true),
        (2, true, 2, true),
        (9999, true, 2, true),
    ] {
        let mut parameters = vec![("user", "a")];
        if extension {
            parameters.push(("_pq_.test_protocol_negotiation", ""));
        }
        let startup = startup_of(&packet(Protocol::new(3, minor), &parameters)).unwrap();
        assert_eq!(startup.spoken(), Protocol::new(3, spoken), "3.{minor}");
        assert_eq!(startup.must_negotiate(), negotiated, "3.{minor}");
    }
}

#[test]
fn other_major_versions_are_refused_in_the_words_of_postgresql() {
    for (major, minor) in [(2, 0), (4, 0), (0, 0), (1234, 5677), (1234, 5681)] {
        let packet = raw(Protocol::new(major, minor), b"user\0a\0\0");
        let error = first_packet(&packet[..8]).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.2")
        );
        assert_eq!(error.sqlstate(), "0A000");
    }
}

#[test]
fn a_packet_without_user_is_refused_in_the_words_of_postgresql() {
    for parameters in [&[][..], &[("user", "")], &[("database", "x")]] {
        let error = startup(parameters).unwrap_err();
        assert_eq!(error, StartupError::NoUser);
        assert_eq!(error.sqlstate(), "28000");
    }
}

#[test]
fn a_layout_that_does_not_end_where_the_packet_ends_is_refused() {
    for body in [
        &b""[..],
        b"user\0a\0",
        b"user\0a",
        b"user",
        b"user\0a\0\0x",
        b"user\0a\0\0\0",
        b"\0\0",
        b"user\0",
    ] {
        assert_eq!(
            startup_of(&raw(Protocol::V3_0, body)),
            Err(StartupError::Layout),
            "{body:?}"
        );
    }
    assert_eq!(
        startup_of(&raw(Protocol::V3_0, b"user\0\xff\0\0")),
        Err(StartupError::Encoding)
    );
    // Programs put anything into this one.
    let named = startup_of(&raw(Protocol::V3_0, b"user\0a\0application_name\0\xff\0\0")).unwrap();
    assert_eq!(named.parameter("application_name"), Some("\\xff"));
}

#[test]
fn replication_takes_the_words_of_postgresql() {
    for (value, expected) in [
        ("database", Some(Replication::Logical)),
        ("true", Some(Replication::Physical)),
        ("T", Some(Replication::Physical)),
        ("yE", Some(Replication::Physical)),
        ("on", Some(Replication::Physical)),
        ("1", Some(Replication::Physical)),
        ("off", Some(Replication::No)),
        ("of", Some(Replication::No)),
        ("f", Some(Replication::No)),
        ("no", Some(Replication::No)),
        ("0", Some(Replication::No)),
        ("o", None),
        ("", None),
        ("maybe", None),
        ("truee", None),
    ] {
        let got = startup(&[("user", "a"), ("replication", value)]);
        match expected {
            Some(expected) => assert_eq!(got.unwrap().replication, expected, "{value}"),
            None => assert_eq!(got, Err(StartupError::Replication(value.into()))),
        }
    }
}

#[test]
fn requests_are_told_apart() {
    let ssl = raw(Protocol::new(1234, 5679), b"");
    let gss = raw(Protocol::new(1234, 5680), b"");
    assert_eq!(first_packet(&ssl), Ok(Some((8, First::Ssl))));
    assert_eq!(first_packet(&gss), Ok(Some((8, First::Gss))));
    assert_eq!(first_packet(&[0x16, 3, 1]), Ok(Some((0, First::DirectTls))));
    assert_eq!(first_packet(&[0x16]), Ok(Some((0, First::DirectTls))));
}

/// CVE-2021-23214: what a man in the middle sends behind the request must not be taken for words
/// that came inside TLS.
#[test]
fn bytes_behind_a_request_for_encryption_are_refused() {
    for (code, what) in [(5679, Encryption::Ssl), (5680, Encryption::Gss)] {
        let mut bytes = raw(Protocol::new(1234, code), b"");
        bytes.extend(packet(Protocol::V3_0, &[("user", "evil")]));
        for end in 9..=bytes.len() {
            assert_eq!(
                first_packet(&bytes[..end]),
                Err(StartupError::UnencryptedData(what))
            );
        }
        // Hidden inside it, too.
        let padded = raw(Protocol::new(1234, code), b"x");
        assert_eq!(first_packet(&padded[..8]), Err(StartupError::Length));
    }
}

#[test]
fn cancel_keys_have_4_to_256_bytes() {
    for secret in [4, 5, 32, 256] {
        let key = CancelKey::new(-7, &vec![9; secret]).unwrap();
        let mut bytes = Vec::new();
        build::cancel_request(&key, &mut bytes);
        assert_eq!(
            first_packet(&bytes),
            Ok(Some((bytes.len(), First::Cancel(key))))
        );
    }
    for length in [0, 1, 3, 4, 5, 7, 261, 9000] {
        let bytes = raw(Protocol::new(1234, 5678), &vec![9; length]);
        assert_eq!(
            first_packet(&bytes[..8]),
            Err(StartupError::CancelKeyLength),
            "{length}"
        );
    }
}

#[test]
fn lengths_are_refused_by_the_first_four_bytes() {
    for length in [0_u32, 1, 7, 10_001, 10_004, 65_535] {
        let bytes = length.to_be_bytes();
        assert_eq!(first_packet(&bytes), Err(StartupError::Length), "{length}");
        assert_eq!(first_packet(&bytes[..3]), Ok(None));
    }
    for length in [8_u32, 10_000] {
        assert_eq!(first_packet(&length.to_be_bytes()), Ok(None));
    }
    let largest = "x".repeat(STARTUP_PACKET_BYTES_MAX - 8 - 5 - 2);
    let bytes = packet(Protocol::V3_0, &[("user", &largest), ("", "")]);
    assert_eq!(first_packet(&bytes), Err(StartupError::Length));
    let bytes = packet(Protocol::V3_0, &[("user", &largest)]);
    assert_eq!(bytes.len(), STARTUP_PACKET_BYTES_MAX);
    assert_eq!(startup_of(&bytes).unwrap().user, largest);
}

#[test]
fn what_is_not_postgresql_is_said_by_its_first_bytes() {
    for request in [
        "GET / HTTP/1.1\r\n",
        "HEAD / HTTP/1.0",
        "POST /customer/databases HTTP/1.1",
        "PUT / ",
        "DELETE /x",
        "OPTIONS *",
        "PATCH /",
        "CONNECT a:1",
        "TRACE /",
        "PRI * HTTP/2.0\r\n\r\n",
    ] {
        for end in 1..=request.len() {
            let expected = if end < 4 {
                Ok(None)
            } else {
                Err(StartupError::Http)
            };
            assert_eq!(first_packet(&request.as_bytes()[..end]), expected);
        }
    }
    for noise in [
        &b"\x01"[..],
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"GEX",
        b"\xff\xff\xff\xff",
        b"\0\x01",
        b"*1\r\n$4\r\nPING\r\n",
    ] {
        assert_eq!(first_packet(noise), Err(StartupError::NotPostgres));
    }
}

fn options(text: &str) -> Result<Vec<(String, String)>, OptionError> {
    Options::parse(text).map(|options| options.settings)
}

#[test]
fn options_are_read_as_by_postgresql() {
    for (text, expected) in [
        ("", &[][..]),
        (" \t\n", &[]),
        ("-c a=b", &[("a", "b")]),
        ("-ca=b", &[("a", "b")]),
        ("--a=b", &[("a", "b")]),
        ("--", &[]),
        ("-c a=b -c a=c", &[("a", "b"), ("a", "c")]),
        ("--statement-timeout=5", &[("statement_timeout", "5")]),
        ("-c search_path=a,\\ b", &[("search_path", "a, b")]),
        ("-c a=\\\\b", &[("a", "\\b")]),
        ("-c\\ a=b", &[(" a", "b")]),
        ("-c a=b\\", &[("a", "b")]),
        ("-c a=", &[("a", "")]),
        ("-c a=b=c", &[("a", "b=c")]),
        ("\x0b-c\x0ca=b\r", &[("a", "b")]),
        ("-c tenantry.tenant=abc", &[("tenantry.tenant", "abc")]),
    ] {
        let expected = expected
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect();
        assert_eq!(options(text), Ok(expected), "{text}");
    }
    let unsupported = |word: &str| Err(OptionError::Unsupported(word.into()));
    let no_value = |word: &str| Err(OptionError::NoValue(word.into()));
    assert_eq!(options("-W 5"), unsupported("-W"));
    assert_eq!(options("-c a=b stray"), unsupported("stray"));
    assert_eq!(options("-- stray"), unsupported("stray"));
    assert_eq!(options("-ea=b"), unsupported("-ea=b"));
    assert_eq!(options("\\"), unsupported(""));
    assert_eq!(options("-c"), no_value("-c"));
    assert_eq!(options("-c a"), no_value("-c a"));
    assert_eq!(options("--a"), no_value("--a"));
    assert_eq!(Options::parse("-c A=1 --a=2").unwrap().get("a"), Some("2"));
}

/// How libpq's users write a value so that it arrives as it is.
fn escaped(value: &str) -> String {
    value
        .chars()
        .flat_map(|c| {
            let special = c == '\\' || matches!(c, ' ' | '\t'..='\r');
            special.then_some('\\').into_iter().chain([c])
        })
        .collect()
}

proptest! {
    #[test]
    fn options_round_trip(settings in prop::collection::vec(("[a-z_.]{1,8}", "[^\0]{0,12}"), 0..6), form in 0..3) {
        let text: Vec<String> = settings
            .iter()
            .map(|(name, value)| {
                let switch = ["-c ", "-c", "--"][usize::try_from(form).unwrap()];
                format!("{switch}{name}={}", escaped(value))
            })
            .collect();
        prop_assert_eq!(options(&text.join(" ")), Ok(settings));
    }

    #[test]
    fn startups_round_trip_and_no_cut_changes_the_result(
        minor: u16,
        user in "[^\0]{1,20}",
        database in "[^\0]{0,20}",
        parameters in prop::collection::hash_map("[b-n]{1,6}", "[^\0]{0,20}", 0..6),
    ) {
        let mut all = vec![("user", user.as_str()), ("database", database.as_str())];
        all.extend(parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let bytes = packet(Protocol::new(3, minor), &all);
        for end in 0..bytes.len() {
            prop_assert_eq!(first_packet(&bytes[..end]), Ok(None));
        }
        let startup = startup_of(&bytes).unwrap();
        prop_assert_eq!(startup.protocol.minor, minor);
        prop_assert_eq!(&startup.database, if database.is_empty() { &user } else { &database });
        prop_assert_eq!(startup.user, user);
        let parameters: Vec<_> = parameters.into_iter().collect();
        prop_assert_eq!(startup.parameters, parameters);

        // What follows is the next packet's.
        let mut more = bytes.clone();
        more.push(b'p');
        prop_assert_eq!(first_packet(&more).unwrap().unwrap().0, bytes.len());
    }

    #[test]
    fn arbitrary_bytes_are_decided_within_8_and_once_refused_stay_refused(
        bytes in prop::collection::vec(any::<u8>(), 0..64),
        head in prop::option::of((prop::sample::select(vec![0_u8, 1, 16, 39]), prop::sample::select(vec![
            [0, 3, 0, 0], [0, 3, 0, 2], [4, 0xd2, 0x16, 0x2e], [4, 0xd2, 0x16, 0x2f], [4, 0xd2, 0x16, 0x30],
        ]))),
    ) {
        let bytes = match head {
            Some((length, code)) => [&[0, 0, 0, length][..], &code, &bytes].concat(),
            None => bytes,
        };
        let mut refused = false;
        for end in 0..=bytes.len() {
            match first_packet(&bytes[..end]) {
                Ok(None) => {
                    prop_assert!(!refused);
                    if end >= 8 {
                        let length = u32::from_be_bytes(*bytes.first_chunk().unwrap());
                        prop_assert!(usize::try_from(length).unwrap() > end);
                    }
                }
                Ok(Some((size, _))) => prop_assert!(!refused && size <= end),
                Err(_) => refused = true,
            }
        }
    }

    #[test]
    fn arbitrary_options_never_panic(text in any::<String>()) {
        let _ = Options::parse(&text);
    }
}
