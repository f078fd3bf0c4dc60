use std::sync::Arc;

use proptest::prelude::*;

use super::{attributes::encode, client, server, *};

const NONCE: Nonce = [7; 18];
const SALT: [u8; SALT_BYTES] = [9; SALT_BYTES];
/// Few, because these tests are not about hashing.
const ITERATIONS: u32 = 2;

fn keys(password: &str) -> Keys {
    Keys::from_password(password, &SALT, ITERATIONS)
}

fn bound() -> ChannelBinding {
    ChannelBinding::EndPoint(vec![0xab; 32])
}

/// One whole exchange between our two sides.
fn exchange(
    ours: ChannelBinding,
    theirs: ChannelBinding,
    password: &str,
    candidates: &[Keys],
) -> Result<(usize, Arc<ClientKeys>), ScramError> {
    let offer = server::offer(ours);
    let offered = offer.mechanisms().iter().map(|name| name.as_bytes());
    let started = client::start(theirs, offered, &NONCE)?;
    let chosen = offer.choose(started.mechanism.as_bytes())?;
    let (state, server_first) =
        chosen.on_first(started.client_first.as_bytes(), &NONCE, &SALT, ITERATIONS)?;
    let (waiting, client_final) =
        started
            .state
            .on_server_first(server_first.as_bytes(), password, None)?;
    let proof = state.on_final(client_final.as_bytes())?;
    let right = proof.evaluate(candidates).ok_or(ScramError::WrongProof)?;
    let keys = waiting.on_server_final(right.server_final.as_bytes())?;
    Ok((right.candidate, keys))
}

/// The exchange of RFC 7677, section 3, on both sides.
#[test]
fn the_published_exchange() {
    const CLIENT_FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const SERVER_FIRST: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                                s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    const CLIENT_FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                                p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    const SERVER_FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
    let salt = super::attributes::decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();

    let chosen = server::offer(ChannelBinding::Unavailable)
        .choose(b"SCRAM-SHA-256")
        .unwrap();
    let (state, server_first) = chosen
        .begin(
            CLIENT_FIRST.as_bytes(),
            "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
            &salt,
            4096,
        )
        .unwrap();
    assert_eq!(server_first, SERVER_FIRST);
    let proof = state.on_final(CLIENT_FINAL.as_bytes()).unwrap();
    let right = proof.evaluate(&[Keys::from_password("pencil", &salt, 4096)]);
    assert_eq!(right.unwrap().server_final, SERVER_FINAL);
    assert_eq!(
        proof.evaluate(&[Keys::from_password("Pencil", &salt, 4096)]),
        None
    );

    let client = client::AwaitServerFirst {
        nonce: "rOprNGfwEbeRWgbNEkqO".into(),
        bare: "n=user,r=rOprNGfwEbeRWgbNEkqO".into(),
        channel: "biws".into(),
    };
    let (client, client_final) = client
        .on_server_first(SERVER_FIRST.as_bytes(), "pencil", None)
        .unwrap();
    assert_eq!(client_final, CLIENT_FINAL);
    client.on_server_final(SERVER_FINAL.as_bytes()).unwrap();
}

/// What PostgreSQL 15 stored in `pg_authid.rolpassword` for these passwords.
#[test]
fn verifiers_are_those_of_postgresql() {
    for (password, text) in [
        // plain
        (
            "pencil",
            "SCRAM-SHA-256$4096:3pYhjYPphae7ppMoouibXQ==$NAvIWQxLESqXVku5\
             lZtLxp3vA027shINP7mjO8eZolU=:DZn5Lq7slEiNrlCZrM4MPzjY0TlRAqO4O1ivGvAq5CE=",
        ),
        // SASLprep changes it: no-break space, soft hyphen, Roman numeral nine
        (
            "p\u{e4}ss\u{a0}w\u{ad}ord\u{2168}",
            "SCRAM-SHA-256$4096:INGfPSsd/n+DVEPY3ulpcg==$7f+imtYhJSIyb96m\
             riGBNX/4BR4lybUJHwUJKZnqmaU=:FNRpctrYOpvQf3NB2Z9axw1VHNPfXInfYTwk2Cb4XRk=",
        ),
        // SASLprep refuses these, and they are taken as they are: a control character,
        (
            "bell\x07",
            "SCRAM-SHA-256$4096:KKC0uWxZZ/m7w0rzlcg+jw==$kmJJluTzsV1Bz1Gj\
             bIx/Mcj2eFJaU4mD0C7lZMDI5aI=:QBil4HzxL1V8KRXE1yZyTK/IxU9v5SRsZ7cgX2qQDhc=",
        ),
        // right-to-left writing that ends in a digit,
        (
            "\u{627}1",
            "SCRAM-SHA-256$4096:ySd1/1UNydm8OhLjy4S3uQ==$2U+wLVRFmFLd8xYZ\
             By0bGV9XG5nSnUkbYMSlSEJBF3A=:ubrkmRUm3AmWqCX4+KonJVdu3ik+FANSak6AZoOy9z8=",
        ),
        // a character newer than Unicode 3.2,
        (
            "\u{1f600}\u{a0}x",
            "SCRAM-SHA-256$4096:otpWZjfWPjkfvTOql73oYw==$pee5q4cRvOxpgvRS\
             z5G7Of34CiG0rGzHYLJZy++G8DA=:A7q8iAFQuqmsI00CML7POE46jQH5qp6eTTynOu0qRwU=",
        ),
        // nothing left after mapping,
        (
            "\u{ad}",
            "SCRAM-SHA-256$4096:vpNyMcY+1r+wfDyqLjptlA==$FB09CJmtFLMyIORF\
             r2oz1lOGEjv05oP+VVe1oMTYji8=:LxcqXNbRGlRYI62ldeeO+c4I+PHXF8KDJhFRDYXkibY=",
        ),
        // a new character that would become old ones by normalisation
        (
            "\u{1f100}x",
            "SCRAM-SHA-256$4096:wbU8lXSeU9h4Azhv9Ag5sQ==$ZQzMeg7z/hel3m3u\
             yF2ilnTC9BFCZZT+5dIa5KQ/2Ys=:wnSCz2L9pubH5UdLIBChaQNwAdJcMU8v9L2q5lWzBm0=",
        ),
        // and these are changed again: symbols, ligatures, wide letters,
        (
            "\u{212b}\u{fb01} \u{ff21}",
            "SCRAM-SHA-256$4096:HTaneaf+GqdwdnyezOmfdA==$PfUOd+tF7CqDXZ3E\
             Opi9gZlxIN8j7MBvNluopY21HKc=:2fGiyd+cnqw2CXMby0RX6Boy35oAGnjgpzCc7IVbjbo=",
        ),
        // right-to-left writing alone,
        (
            "\u{627}\u{628}\u{a0}\u{627}",
            "SCRAM-SHA-256$4096:jBnHl5UbhCjL4nflLF34Dw==$kL95FAHl+CO1twB+\
             kWQjr+vwoIki3/1/YrPlH9sPMMY=:z53EYDC582RoIEcO6NpnriSYNDHX72DIz3wgtEHNDNE=",
        ),
        // a symbol that normalisation turns into a right-to-left letter
        (
            "\u{2135}a",
            "SCRAM-SHA-256$4096:tHaGXZOIMthvViwgdO9yfA==$kQ7qZifQ5dY/NgMe\
             pwD6h4inOh4Iv+AOU8o+v2+OTDc=:fcmcrMGQCVuTrrx0hAUU+S1DpzE67nta7yecEYGY6jE=",
        ),
        // refused: a deprecated character that normalisation would hide
        (
            "a\u{340}",
            "SCRAM-SHA-256$4096:dvuUTWhhCzuOKtGiZP9Cxw==$ksPMafXDEKwjDjTt\
             kfQEjOYLUAKgGfJJGHpW+ZxnOQk=:42I5IEaykAijz2XgtgnJqPPJPZbvAiuvoLU0GaYOQcg=",
        ),
    ] {
        let verifier: Verifier = text.parse().unwrap();
        assert_eq!(*verifier.to_text(), text);
        assert_eq!(
            Verifier::from_password(password, &verifier.salt, verifier.iterations),
            verifier,
            "{password:?}"
        );
    }
}

#[test]
fn other_texts_are_no_verifiers() {
    for text in [
        "",
        "md5aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "SCRAM-SHA-256$",
        "SCRAM-SHA-256$4096:AAAA$AAAA:AAAA",
        "SCRAM-SHA-256$0:AAAA$NAvIWQxLESqXVku5lZtLxp3vA027shINP7mjO8eZolU=:DZn5Lq7slEiNrlCZrM4MPzjY0TlRAqO4O1ivGvAq5CE=",
        "SCRAM-SHA-256$-1:AAAA$NAvIWQxLESqXVku5lZtLxp3vA027shINP7mjO8eZolU=:DZn5Lq7slEiNrlCZrM4MPzjY0TlRAqO4O1ivGvAq5CE=",
        "SCRAM-SHA-256$1:A$NAvIWQxLESqXVku5lZtLxp3vA027shINP7mjO8eZolU=:DZn5Lq7slEiNrlCZrM4MPzjY0TlRAqO4O1ivGvAq5CE=",
        "SCRAM-SHA-512$1:AAAA$NAvIWQxLESqXVku5lZtLxp3vA027shINP7mjO8eZolU=:DZn5Lq7slEiNrlCZrM4MPzjY0TlRAqO4O1ivGvAq5CE=",
    ] {
        assert_eq!(text.parse::<Verifier>(), Err(VerifierError), "{text}");
    }
}

#[test]
fn both_sides_agree_in_every_combination_of_bindings() {
    use ChannelBinding::Unavailable;
    let candidates = [keys("right")];
    let ok = |ours, theirs| exchange(ours, theirs, "right", &candidates).map(|right| right.0);
    assert_eq!(ok(Unavailable, Unavailable), Ok(0));
    assert_eq!(ok(bound(), bound()), Ok(0));
    // A client without support for binding is welcome everywhere.
    assert_eq!(ok(bound(), Unavailable), Ok(0));
    // It could, we cannot: an Ed25519 certificate, or nobody's fault.
    assert_eq!(ok(Unavailable, bound()), Ok(0));
    // Somebody between us shows a certificate of his own.
    assert_eq!(
        ok(bound(), ChannelBinding::EndPoint(vec![0; 32])),
        Err(ScramError::BindingMismatch)
    );
    // Somebody between us takes -PLUS out of our offer.
    let started = client::start(bound(), [&b"SCRAM-SHA-256"[..]], &NONCE).unwrap();
    let chosen = server::offer(bound())
        .choose(started.mechanism.as_bytes())
        .unwrap();
    let refused = chosen.on_first(started.client_first.as_bytes(), &NONCE, &SALT, ITERATIONS);
    assert_eq!(refused.unwrap_err(), ScramError::BindingDowngrade);
}

#[test]
fn every_candidate_opens_and_no_other_password_does() {
    for count in [0, 1, 2, 3, 4, 5, 63, 64, 65, 80] {
        let candidates: Vec<_> = (0..count).map(|i| keys(&format!("secret {i}"))).collect();
        for i in 0..count {
            let got = exchange(
                ChannelBinding::Unavailable,
                ChannelBinding::Unavailable,
                &format!("secret {i}"),
                &candidates,
            );
            if i < server::CANDIDATES_MAX {
                assert_eq!(got.unwrap().0, i);
            } else {
                assert_eq!(got.unwrap_err(), ScramError::WrongProof);
            }
        }
        let wrong = exchange(
            ChannelBinding::Unavailable,
            ChannelBinding::Unavailable,
            "other",
            &candidates,
        );
        assert_eq!(wrong.unwrap_err(), ScramError::WrongProof);
    }
    let twice = [keys("other"), keys("same"), keys("same")];
    let right = exchange(bound(), bound(), "same", &twice);
    assert_eq!(right.unwrap().0, 1);
}

/// A login that does not exist is filled up with made-up keys; nobody may come in through them.
#[test]
fn made_up_keys_open_nothing() {
    let chosen = server::offer(ChannelBinding::Unavailable).choose(b"SCRAM-SHA-256");
    let (state, server_first) = chosen
        .unwrap()
        .on_first(b"n,,n=,r=abc", &NONCE, &SALT, ITERATIONS)
        .unwrap();
    let nonce = &server_first[2..server_first.find(',').unwrap()];
    for proof in [[0; 32], [0xff; 32]] {
        let message = format!("c=biws,r={nonce},p={}", encode(proof));
        let proof = state.clone().on_final(message.as_bytes()).unwrap();
        assert_eq!(proof.evaluate(&[]), None);
    }
}

#[test]
fn cached_keys_fit_only_what_they_were_made_for() {
    let candidates = [keys("right")];
    let none = ChannelBinding::Unavailable;
    let (_, cached) = exchange(none.clone(), none.clone(), "right", &candidates).unwrap();

    let server_first = |salt: &[u8], iterations: u32| {
        format!("r={}x,s={},i={iterations}", encode(NONCE), encode(salt))
    };
    let answer = |server_first: &str, password: &str| {
        let offered = [SCRAM_SHA_256.as_bytes()];
        let started = client::start(none.clone(), offered, &NONCE).unwrap();
        let cached = Some(Arc::clone(&cached));
        let (_, answer) = started
            .state
            .on_server_first(server_first.as_bytes(), password, cached)
            .unwrap();
        answer
    };
    // The password is not even looked at.
    let same = server_first(&SALT, ITERATIONS);
    assert_eq!(answer(&same, "right"), answer(&same, "wrong"));
    // The server's password was set anew.
    for changed in [server_first(&SALT, 3), server_first(&[1; 16], ITERATIONS)] {
        assert_ne!(answer(&changed, "right"), answer(&changed, "wrong"));
    }
}

#[test]
fn salts_depend_on_key_and_name_alone() {
    let salt = login_salt(&[1; 32], "a.admin");
    assert_eq!(salt, login_salt(&[1; 32], "a.admin"));
    assert_ne!(salt, login_salt(&[2; 32], "a.admin"));
    assert_ne!(salt, login_salt(&[1; 32], "a.write"));
    // Fixed for ever: stored keys are made with it.
    assert_eq!(encode(salt), "0ExwDDPIVSQOCp6E+6rOxA==");
}

/// CVE-2026-6664 of PgBouncer was a crash by such messages. First column: with TLS.
#[test]
fn malformed_first_messages_are_refused() {
    use ScramError::{AuthorizationIdentity, BindingDowngrade, BindingType, Extension, Malformed};
    let malformed = Malformed("");
    let long = format!("n,,n=,r={}\u{7f}", "a".repeat(900));
    for (binding, message, expected) in [
        (false, "", malformed),
        (false, "\0", malformed),
        (false, "n,,n=,r=a\0", malformed),
        (false, "n", malformed),
        (false, "n,", malformed),
        (false, "n,,", malformed),
        (false, "nn,n=,r=a", malformed),
        (false, "n,,n", malformed),
        (false, "n,,n=", malformed),
        (false, "n,,n=,", malformed),
        (false, "n,,n=,r", malformed),
        (false, "n,,n=,r=", malformed),
        (false, "n,,n=,r= ", malformed),
        (false, "n,,n=,r=\u{e4}", malformed),
        (false, &long, malformed),
        (false, "n,,r=a,n=", malformed),
        (false, "n,,n=,r=a,", Malformed("ok")),
        (false, "n,,n=,r=a,,", malformed),
        (false, "n,,n=,r=a,x", malformed),
        (false, "n,,n=,r=a,1=x", malformed),
        (false, "n,,n=,r=a,x=,y=z", Malformed("ok")),
        (false, "n,,n=x,r=a", Malformed("ok")),
        (false, "y,,n=,r=a", Malformed("ok")),
        (false, "n,a=root,n=,r=a", AuthorizationIdentity),
        (false, "n,,m=x,n=,r=a", Extension),
        (false, "q,,n=,r=a", malformed),
        (false, "p=tls-server-end-point,,n=,r=a", malformed),
        (true, "n,,n=,r=a", malformed),
        (true, "y,,n=,r=a", malformed),
        (true, "p=tls-unique,,n=,r=a", BindingType),
        (true, "p=,,n=,r=a", BindingType),
        (true, "p,,n=,r=a", malformed),
        (true, "p=tls-server-end-point", malformed),
        (true, "p=tls-server-end-point,,n=,r=a", Malformed("ok")),
    ] {
        let chosen = if binding {
            server::offer(bound()).choose(b"SCRAM-SHA-256-PLUS")
        } else {
            server::offer(ChannelBinding::Unavailable).choose(b"SCRAM-SHA-256")
        };
        let got = chosen
            .unwrap()
            .on_first(message.as_bytes(), &NONCE, &SALT, ITERATIONS);
        match (got, expected) {
            (Ok(_), Malformed("ok")) => {}
            (Err(Malformed(detail)), Malformed("")) => assert!(detail.ends_with('.'), "{message}"),
            (Err(error), expected) if error == expected => {}
            (got, _) => panic!("{message:?}: {got:?}"),
        }
    }
    let declined = server::offer(bound()).choose(b"SCRAM-SHA-256").unwrap();
    let got = declined.on_first(b"y,,n=,r=a", &NONCE, &SALT, ITERATIONS);
    assert_eq!(got.unwrap_err(), BindingDowngrade);
    for (binding, mechanism) in [
        (ChannelBinding::Unavailable, &b"SCRAM-SHA-256-PLUS"[..]),
        (ChannelBinding::Unavailable, b""),
        (bound(), b"SCRAM-SHA-1"),
        (bound(), b"SCRAM-SHA-256-PLUS "),
    ] {
        let got = server::offer(binding).choose(mechanism);
        assert_eq!(got.unwrap_err(), ScramError::Mechanism);
    }
}

#[test]
fn malformed_final_messages_are_refused() {
    let chosen = server::offer(ChannelBinding::Unavailable).choose(b"SCRAM-SHA-256");
    let (state, server_first) = chosen
        .unwrap()
        .on_first(b"y,,n=,r=abc", &NONCE, &SALT, ITERATIONS)
        .unwrap();
    let nonce = &server_first[2..server_first.find(',').unwrap()];
    let proof = encode([1; 32]);
    let check = |message: String| state.clone().on_final(message.as_bytes()).map(drop);

    // What was `y` at first must stay so.
    assert_eq!(check(format!("c=eSws,r={nonce},p={proof}")), Ok(()));
    assert_eq!(check(format!("c=eSws,r={nonce},x=1,p={proof}")), Ok(()));
    assert_eq!(
        check(format!("c=eSws,r={nonce}x,p={proof}")),
        Err(ScramError::Nonce)
    );
    assert_eq!(
        check(format!("c=eSws,r=abc,p={proof}")),
        Err(ScramError::Nonce)
    );
    for message in [
        String::new(),
        format!("c=biws,r={nonce},p={proof}"),
        format!("r={nonce},p={proof}"),
        format!("c=eSws,p={proof}"),
        format!("c=eSws,r={nonce}"),
        format!("c=eSws,r={nonce},"),
        format!("c=eSws,r={nonce},p=AAAA"),
        format!("c=eSws,r={nonce},p=?"),
        format!("c=eSws,r={nonce},p="),
        format!("c=eSws,r={nonce},p={}", encode([1; 33])),
        format!("c=eSws,r={nonce},p={proof},x=1"),
        format!("c=eSws,r={nonce},,p={proof}"),
        format!("c=eSws,r={nonce},p={proof}\0"),
    ] {
        let got = check(message.clone());
        assert!(
            matches!(got, Err(ScramError::Malformed(_))),
            "{message}: {got:?}"
        );
    }
}

#[test]
fn hostile_servers_are_refused() {
    let nonce = encode(NONCE);
    let started = |offered: &[&[u8]]| {
        client::start(ChannelBinding::Unavailable, offered.iter().copied(), &NONCE)
    };
    for offered in [&[][..], &[&b"SCRAM-SHA-256-PLUS"[..]], &[b"SCRAM-SHA-1"]] {
        assert_eq!(started(offered).unwrap_err(), ScramError::Mechanism);
    }
    let check = |message: String| {
        let state = started(&[b"SCRAM-SHA-256"]).unwrap().state;
        let result = state.on_server_first(message.as_bytes(), "p", None);
        result.map(|(state, _)| state)
    };
    for (message, expected) in [
        (
            format!("r={nonce}x,s=AAAA,i=1000001"),
            ScramError::Iterations,
        ),
        (format!("r={nonce},s=AAAA,i=1"), ScramError::Nonce),
        (format!("r={nonce} ,s=AAAA,i=1"), ScramError::Nonce),
        ("r=x,s=AAAA,i=1".to_owned(), ScramError::Nonce),
        (format!("m=x,r={nonce}x,s=AAAA,i=1"), ScramError::Extension),
    ] {
        assert_eq!(check(message).unwrap_err(), expected);
    }
    for message in [
        String::new(),
        format!("r={nonce}x,s=AAAA,i=0"),
        format!("r={nonce}x,s=AAAA,i=-1"),
        format!("r={nonce}x,s=AAAA,i=99999999999"),
        format!("r={nonce}x,s=?,i=1"),
        format!("r={nonce}x,s=,i=1"),
        format!("r={nonce}x,s=AAAA"),
        format!("s=AAAA,i=1,r={nonce}x"),
    ] {
        let got = check(message.clone()).map(drop);
        assert!(matches!(got, Err(ScramError::Malformed(_))), "{message}");
    }
    for (server_final, expected) in [
        (format!("v={}", encode([0; 32])), ScramError::WrongServer),
        ("e=other-error".to_owned(), ScramError::WrongProof),
        (
            "v=AAAA".to_owned(),
            ScramError::Malformed("Malformed server signature."),
        ),
        (
            "x=y".to_owned(),
            ScramError::Malformed("Unexpected attribute."),
        ),
    ] {
        let state = check(format!("r={nonce}x,s=AAAA,i=1")).unwrap();
        assert_eq!(
            state.on_server_final(server_final.as_bytes()).unwrap_err(),
            expected
        );
    }
}

#[test]
fn secrets_do_not_show_in_debug_output() {
    let client_keys = ClientKeys::from_password("p", &SALT, ITERATIONS);
    assert_eq!(format!("{:?}", keys("p")), "Keys(..)");
    assert_eq!(format!("{client_keys:?}"), "ClientKeys(..)");
    let verifier = Verifier::from_password("p", &SALT, ITERATIONS);
    let stored = format!("{:?}", verifier.keys.stored_key);
    assert!(!format!("{verifier:?}").contains(&stored));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_password_opens_with_itself(password: String, other: String, tls: bool) {
        let binding = if tls { bound() } else { ChannelBinding::Unavailable };
        let both = [keys("another"), keys(&password)];
        prop_assert_eq!(exchange(binding.clone(), binding.clone(), &password, &both).unwrap().0, 1);
        prop_assume!(keys(&other) != keys(&password));
        let wrong = exchange(binding.clone(), binding, &other, &both[1..]);
        prop_assert_eq!(wrong.unwrap_err(), ScramError::WrongProof);
    }

    #[test]
    fn verifiers_round_trip(password: String, salt: [u8; 16], iterations in 1..9_u32) {
        let verifier = Verifier::from_password(&password, &salt, iterations);
        prop_assert_eq!(verifier.to_text().parse(), Ok(verifier));
    }
}

proptest! {
    /// Any bytes, and a right message with any bytes in one place.
    #[test]
    fn no_message_panics(
        noise in prop::collection::vec(any::<u8>(), 0..60),
        text in "[npya=,cr vse0-9A-Za-z+/\u{e4}\0]{0,60}",
        cut in 0..40_usize,
    ) {
        for message in [noise.as_slice(), text.as_bytes()] {
            for (binding, mechanism, first) in [
                (ChannelBinding::Unavailable, &b"SCRAM-SHA-256"[..], &b"n,,n=,r=abc"[..]),
                (bound(), b"SCRAM-SHA-256-PLUS", b"p=tls-server-end-point,,n=,r=abc"),
            ] {
                let chosen = server::offer(binding).choose(mechanism).unwrap();
                let cut = cut.min(first.len());
                let spliced = [&first[..cut], message, &first[cut..]].concat();
                let _ = chosen.clone().on_first(message, &NONCE, &SALT, ITERATIONS);
                let _ = chosen.clone().on_first(&spliced, &NONCE, &SALT, ITERATIONS);
                let (state, _) = chosen.on_first(first, &NONCE, &SALT, ITERATIONS).unwrap();
                if let Ok(proof) = state.on_final(message) {
                    prop_assert_eq!(proof.evaluate(&[keys("x")]), None);
                }
            }
            let started = client::start(ChannelBinding::Unavailable, [&b"SCRAM-SHA-256"[..]], &NONCE);
            let _ = started.unwrap().state.on_server_first(message, "p", None);
            let _ = end_point_hash(message);
            let _ = String::from_utf8_lossy(message).parse::<Verifier>();
        }
    }
}
