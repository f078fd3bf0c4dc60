use proptest::prelude::*;

use super::{
    build,
    parse::{self, Authentication, Malformed},
    *,
};
use crate::startup::{CancelKey, Protocol};

/// What `write` builds, read back: its tag and body. Cut anywhere before its end it is not there
/// yet, and what follows it does not matter.
fn built(write: impl FnOnce(&mut Vec<u8>)) -> (u8, Vec<u8>) {
    let mut out = Vec::new();
    write(&mut out);
    let size = out.len();
    out.extend_from_slice(b"more");
    for end in 0..size {
        assert_eq!(split(&out[..end], u32::MAX), Ok(None));
    }
    let message = split(&out, u32::MAX).unwrap().unwrap();
    assert_eq!(message.size(), size);
    (message.tag, message.body.to_vec())
}

fn body(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    built(write).1
}

#[test]
fn bytes_are_those_of_the_manual() {
    let check = |write: &dyn Fn(&mut Vec<u8>), expected: &[u8]| {
        let mut out = vec![1];
        write(&mut out);
        assert_eq!(&out[1..], expected);
    };
    check(&build::authentication_ok, b"R\0\0\0\x08\0\0\0\0");
    check(
        &|out| build::authentication_sasl(&["A", "B"], out),
        b"R\0\0\0\x0d\0\0\0\x0aA\0B\0\0",
    );
    check(
        &|out| build::ready_for_query(TransactionStatus::Failed, out),
        b"Z\0\0\0\x05E",
    );
    check(&|out| build::query("x", out), b"Q\0\0\0\x06x\0");
    check(&build::ssl_request, b"\0\0\0\x08\x04\xd2\x16\x2f");
    check(&build::terminate, b"X\0\0\0\x04");
    check(
        &|out| build::sasl_initial_response("M", None, out),
        b"p\0\0\0\x0aM\0\xff\xff\xff\xff",
    );
    check(
        &|out| build::negotiate_protocol_version(Protocol::V3_2, ["_pq_.a"], out),
        b"v\0\0\0\x13\0\x03\0\x02\0\0\0\x01_pq_.a\0",
    );
    check(
        &|out| {
            build::error_response(
                &build::Report {
                    severity: build::Severity::Fatal,
                    code: "28P01",
                    message: "no",
                    detail: "",
                    hint: "try",
                },
                out,
            );
        },
        b"E\0\0\0\x23SFATAL\0VFATAL\0C28P01\0Mno\0Htry\0\0",
    );
}

#[test]
fn a_text_with_nul_cannot_break_out_of_its_field() {
    let (tag, body) = built(|out| build::parameter_status(b"a\0b", b"c\0\0d", out));
    assert_eq!((tag, body.as_slice()), (b'S', &b"a\0c\0"[..]));
}

#[test]
fn lengths_that_cannot_be_are_refused_by_the_header() {
    for length in [0_u32, 3, 0x8000_0000, u32::MAX] {
        let header = [&b"Q"[..], &length.to_be_bytes()].concat();
        assert_eq!(split(&header, u32::MAX), Err(SplitError::Length));
    }
    let header = [&b"Q"[..], &1029_u32.to_be_bytes()].concat();
    assert_eq!(
        split(&header, 1024),
        Err(SplitError::TooLong {
            body_bytes: 1025,
            body_bytes_max: 1024
        })
    );
    assert_eq!(split(&header, 1025), Ok(None));
}

#[test]
fn tags_of_commands_end_in_their_rows() {
    for (tag, rows) in [
        ("SELECT 5", Some(5)),
        ("INSERT 0 12", Some(12)),
        ("COPY 18446744073709551615", Some(u64::MAX)),
        ("COPY 18446744073709551616", None),
        ("BEGIN", None),
        ("CREATE TABLE", None),
        ("SELECT ", None),
        ("SELECT -1", None),
        ("", None),
    ] {
        let body = body(|out| build::command_complete(tag, out));
        let parsed = parse::command_complete(&body).unwrap();
        assert_eq!((parsed.text, parsed.rows), (tag.as_bytes(), rows));
    }
}

#[test]
fn what_servers_ask_for_is_read() {
    for (write, expected) in [
        (
            &build::authentication_ok as &dyn Fn(&mut Vec<u8>),
            Authentication::Ok,
        ),
        (
            &build::authentication_cleartext_password,
            Authentication::CleartextPassword,
        ),
        (
            &|out| build::authentication_sasl_continue(b"xy", out),
            Authentication::SaslContinue(b"xy"),
        ),
        (
            &|out| build::authentication_sasl_final(b"", out),
            Authentication::SaslFinal(b""),
        ),
    ] {
        assert_eq!(parse::authentication(&body(write)), Ok(expected));
    }
    assert_eq!(
        parse::authentication(b"\0\0\0\x05abcd"),
        Ok(Authentication::Md5Password { salt: *b"abcd" })
    );
    assert_eq!(
        parse::authentication(b"\0\0\0\x07"),
        Ok(Authentication::Other(7))
    );
    let list = body(|out| build::authentication_sasl(&["A", "B"], out));
    let Ok(Authentication::Sasl(list)) = parse::authentication(&list) else {
        panic!("{list:?}");
    };
    assert!(list.iter().eq([b"A", b"B"]));
    assert!(list.contains("B") && !list.contains("") && !list.contains("C"));
    for bad in [
        &b""[..],
        b"\0\0\0",
        b"\0\0\0\0x",
        b"\0\0\0\x05abc",
        b"\0\0\0\x0aA",
        b"\0\0\0\x0aA\0",
        b"\0\0\0\x0aA\0\0B\0\0",
    ] {
        assert_eq!(
            parse::authentication(bad),
            Err(Malformed("Authentication")),
            "{bad:?}"
        );
    }
}

#[test]
fn a_response_must_be_as_long_as_announced() {
    for (body, expected) in [
        (&b"M\0\xff\xff\xff\xff"[..], Ok((&b"M"[..], None))),
        (b"M\0\0\0\0\0", Ok((b"M", Some(&b""[..])))),
        (b"M\0\0\0\0\x02xy", Ok((b"M", Some(b"xy")))),
        (b"M\0\0\0\0\x02x", Err(())),
        (b"M\0\0\0\0\x02xyz", Err(())),
        (b"M\0\xff\xff\xff\xfex", Err(())),
        (b"M\0\xff\xff\xff\xffx", Err(())),
        (b"M\0\0\0", Err(())),
        (b"M", Err(())),
    ] {
        assert_eq!(
            parse::sasl_initial_response(body).map_err(drop),
            expected,
            "{body:?}"
        );
    }
}

/// Whether it takes a body.
type Parser = fn(&[u8]) -> bool;

/// Every parser, so that none is forgotten where all are tried.
const PARSERS: [Parser; 15] = [
    |body| {
        parse::report(body).is_ok_and(|report| {
            let _ = (report.code(), report.severity(), report.message());
            report.fields().count() < body.len().max(1)
        })
    },
    |body| parse::parameter_status(body).is_ok(),
    |body| parse::backend_key_data(body).is_ok(),
    |body| parse::ready_for_query(body).is_ok(),
    |body| match parse::authentication(body) {
        Ok(Authentication::Sasl(list)) => list.iter().count() < body.len(),
        other => other.is_ok(),
    },
    |body| parse::negotiate_protocol_version(body).is_ok(),
    |body| parse::notification_response(body).is_ok(),
    |body| parse::command_complete(body).is_ok(),
    |body| parse::query(body).is_ok(),
    |body| parse::parse(body).is_ok_and(|parse| parse.type_ids().len() * 4 == parse.types.len()),
    |body| parse::bind(body).is_ok(),
    |body| parse::target(body).is_ok(),
    |body| parse::execute(body).is_ok(),
    |body| parse::password(body).is_ok(),
    |body| parse::sasl_initial_response(body).is_ok(),
];

fn without_nul() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(1..=u8::MAX, 0..40)
}

proptest! {
    #[test]
    fn no_parser_panics(body in prop::collection::vec(prop_oneof![Just(0), any::<u8>()], 0..80)) {
        for parser in PARSERS {
            parser(&body);
        }
        for body_bytes_max in [0, 16, u32::MAX] {
            if let Ok(Some(message)) = split(&body, body_bytes_max) {
                prop_assert!(message.size() <= body.len());
            }
        }
    }

    /// But for Bind, whose end is left unread, and what has no end of its own.
    #[test]
    fn a_body_that_is_cut_or_prolonged_is_refused(name in without_nul(), text in without_nul(), kind in 0..7) {
        let (whole, parser): (Vec<u8>, Parser) = match kind {
            0 => (body(|out| build::parameter_status(&name, &text, out)), PARSERS[1]),
            1 => (body(|out| build::query(&String::from_utf8_lossy(&text), out)), PARSERS[8]),
            2 => (body(|out| build::parse(&name, &text, &[23, 0], out)), PARSERS[9]),
            3 => (body(|out| build::describe(Kind::Portal, &name, out)), PARSERS[11]),
            4 => (body(|out| build::execute(&name, 7, out)), PARSERS[12]),
            5 => (body(|out| build::sasl_initial_response("M", Some(&text), out)), PARSERS[14]),
            _ => (body(|out| build::error_response(&build::Report {
                severity: build::Severity::Error, code: "XX000", message: "m", detail: "", hint: "",
            }, out)), PARSERS[0]),
        };
        prop_assert!(parser(&whole));
        for end in 0..whole.len() {
            prop_assert!(!parser(&whole[..end]), "cut at {}", end);
        }
        prop_assert!(!parser(&[whole.as_slice(), b"x"].concat()));
    }

    #[test]
    fn messages_round_trip(a in without_nul(), b in without_nul(), types in prop::collection::vec(any::<u32>(), 0..5), number: i32, portal: bool) {
        let parsed = body(|out| build::parse(&a, &b, &types, out));
        let parsed = parse::parse(&parsed).unwrap();
        prop_assert_eq!((parsed.statement, parsed.query), (&a[..], &b[..]));
        prop_assert!(parsed.type_ids().eq(types));

        let bound = body(|out| build::bind_nothing(&a, &b, out));
        let bound = parse::bind(&bound).unwrap();
        prop_assert_eq!((bound.portal, bound.statement, bound.rest), (&a[..], &b[..], &[0; 6][..]));

        let kind = if portal { Kind::Portal } else { Kind::Statement };
        let closed = body(|out| build::close(kind, &a, out));
        prop_assert_eq!(parse::target(&closed), Ok((kind, &a[..])));

        let executed = body(|out| build::execute(&a, number, out));
        prop_assert_eq!(parse::execute(&executed), Ok((&a[..], number)));

        let status = body(|out| build::parameter_status(&a, &b, out));
        prop_assert_eq!(parse::parameter_status(&status), Ok((&a[..], &b[..])));

        let response = body(|out| build::sasl_initial_response("M", Some(&b), out));
        prop_assert_eq!(parse::sasl_initial_response(&response), Ok((&b"M"[..], Some(&b[..]))));

        let password = String::from_utf8_lossy(&a).into_owned();
        let sent = body(|out| build::password(&password, out));
        prop_assert_eq!(parse::password(&sent), Ok(password.as_bytes()));
    }

    #[test]
    fn cancel_keys_round_trip(process_id: i32, secret in prop::collection::vec(any::<u8>(), 0..300)) {
        let key = CancelKey::new(process_id, &secret);
        prop_assert_eq!(key.is_some(), (4..=256).contains(&secret.len()));
        if let Some(key) = key {
            let data = body(|out| build::backend_key_data(&key, out));
            prop_assert_eq!(parse::backend_key_data(&data), Ok(key));
        }
    }

    #[test]
    fn reports_round_trip(message in "[^\0]{1,30}", detail in "[^\0]{0,30}", code in "[0-9A-Z]{5}") {
        let report = build::Report {
            severity: build::Severity::Fatal,
            code: &code,
            message: &message,
            detail: &detail,
            hint: "",
        };
        let (tag, body) = built(|out| build::notice_response(&report, out));
        prop_assert_eq!(tag, server::NOTICE_RESPONSE);
        let read = parse::report(&body).unwrap();
        prop_assert_eq!(read.code(), code);
        prop_assert_eq!(&read.message(), &message);
        prop_assert!(read.is_fatal());
        prop_assert_eq!(read.field(b'D').unwrap_or_default(), detail.as_bytes());
        prop_assert_eq!(read.field(b'H'), None);
    }

    #[test]
    fn negotiations_round_trip(minor: u16, names in prop::collection::vec("_pq_[.][a-z]{1,9}", 0..4)) {
        let spoken = Protocol::new(3, minor);
        let body = body(|out| build::negotiate_protocol_version(spoken, names.iter().map(String::as_str), out));
        let count = u32::try_from(names.len()).unwrap();
        prop_assert_eq!(parse::negotiate_protocol_version(&body), Ok((spoken, count)));
    }
}
