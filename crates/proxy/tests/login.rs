//! From the first byte to ReadyForQuery, as raw bytes.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use std::{
    io::{Read, Write},
    time::{Duration, SystemTime},
};

use kit::{
    Stack,
    raw::{self, Message, Raw, code_of, parameter},
};
use model::{LoginName, Role, TenantId, route::Access};
use wire::{message::build, startup::Protocol};

fn user(stack: &Stack, tenant: &kit::Tenant) -> String {
    let _ = stack;
    tenant.login(Role::Admin).to_string()
}

fn try_login(stack: &Stack, user: &str, password: &str) -> Vec<Message> {
    let mut raw = Raw::tls(stack.port, &stack.certificate);
    let parameters = [("user", user), ("database", "postgres")];
    raw.log_in(Protocol::V3_0, &parameters, password)
}

/// What of a conversation does not depend on nonces and salts: kinds, lengths, and all of the
/// error with the name masked.
fn shape(messages: &[Message], user: &str) -> Vec<(u8, usize, String)> {
    let masked = |body: &[u8]| String::from_utf8_lossy(body).replace(user, "<user>");
    let shape = messages.iter().map(|(kind, body)| {
        let text = if *kind == b'E' {
            masked(body)
        } else {
            String::new()
        };
        (*kind, body.len(), text)
    });
    shape.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_login_and_a_wrong_password_cannot_be_told_apart() {
    let stack = Stack::start(|_| {}).await;
    let tenant = stack.tenant();
    let known = tenant.login(Role::Admin);
    let unknown = LoginName {
        tenant: TenantId::random(&mut rand::rng()),
        login: Role::Admin.into(),
    };
    let count = |login: &LoginName| {
        let table = stack.table.lock().unwrap();
        table.asked.iter().filter(|asked| *asked == login).count()
    };
    // The first time nothing is cached; the second time everything is.
    for times in 1..=3 {
        let wrong = try_login(&stack, &known.to_string(), "wrong");
        let nobody = try_login(&stack, &unknown.to_string(), "wrong");
        assert_eq!(code_of(&wrong), "28P01");
        assert_eq!(
            shape(&wrong, &known.to_string()),
            shape(&nobody, &unknown.to_string())
        );
        assert_eq!(count(&known), count(&unknown));
        assert_eq!(count(&known), times + 1);
    }
    // A deleted tenant is told so only to those who know the secret.
    stack.set_route(&tenant, Role::Admin, |route| route.access = Access::Deleted);
    stack.announce(&tenant);
    let wrong = try_login(&stack, &known.to_string(), "wrong");
    assert_eq!(code_of(&wrong), "28P01");
    let right = try_login(&stack, &known.to_string(), &tenant.password);
    assert_eq!(code_of(&right), "3D000");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_made_a_moment_ago_works_at_once() {
    let stack = Stack::start(|_| {}).await;
    let tenant = stack.tenant();
    let user = user(&stack, &tenant);
    assert_eq!(code_of(&try_login(&stack, &user, "new")), "28P01");
    let added = stack.candidate(&tenant, Role::Admin, "new");
    // Without announcing it.
    stack.set_route(&tenant, Role::Admin, |route| route.candidates.push(added));
    assert_eq!(code_of(&try_login(&stack, &user, "new")), "");
    assert_eq!(code_of(&try_login(&stack, &user, &tenant.password)), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_and_used_secrets_are_wrong_ones() {
    let stack = Stack::start(|_| {}).await;
    let tenant = stack.tenant();
    let user = user(&stack, &tenant);
    let mut expired = stack.candidate(&tenant, Role::Admin, "expired");
    expired.expires_at = Some(SystemTime::now() - Duration::from_secs(1));
    let mut once = stack.candidate(&tenant, Role::Admin, "once");
    once.one_use = true;
    stack.set_route(&tenant, Role::Admin, |route| {
        route.candidates.insert(0, expired);
        route.candidates.push(once);
    });
    assert_eq!(code_of(&try_login(&stack, &user, "expired")), "28P01");
    assert_eq!(code_of(&try_login(&stack, &user, "once")), "");
    assert_eq!(code_of(&try_login(&stack, &user, "once")), "28P01");
    assert_eq!(code_of(&try_login(&stack, &user, &tenant.password)), "");
}

/// The control plane may be away by then: what was once answered says when it ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_lifetime_ends_without_a_word_from_the_control_plane() {
    let stack = Stack::start(|_| {}).await;
    let tenant = stack.tenant();
    let user = user(&stack, &tenant);
    stack.set_route(&tenant, Role::Admin, |route| {
        route.expires_in = Some(Duration::from_secs(1));
    });
    let began = std::time::Instant::now();
    let asked = || stack.table.lock().unwrap().asked.len();
    assert_eq!(code_of(&try_login(&stack, &user, &tenant.password)), "");
    let before = asked();
    kit::wait_until("its lifetime is over", || {
        code_of(&try_login(&stack, &user, &tenant.password)) == "3D000"
    });
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert_eq!(asked(), before, "nobody was asked again");
    assert_eq!(code_of(&try_login(&stack, &user, "wrong")), "28P01");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_told_only_after_the_proof() {
    let stack = Stack::start(|_| {}).await;
    let tenant = stack.tenant();
    let user = user(&stack, &tenant);
    for (access, code) in [
        (Access::NotReady, "57P03"),
        (Access::Failed, "57P03"),
        (Access::Suspended, "55000"),
        (Access::Deleted, "3D000"),
        (Access::Expired, "3D000"),
        (Access::Open, ""),
    ] {
        stack.set_route(&tenant, Role::Admin, |route| route.access = access);
        stack.announce(&tenant);
        kit::wait_until("the change is seen", || {
            code_of(&try_login(&stack, &user, &tenant.password)) == code
        });
        assert_eq!(code_of(&try_login(&stack, &user, "wrong")), "28P01");
    }
    for (name, value, code) in [
        ("database", "other", "3D000"),
        ("database", &*user, ""),
        ("replication", "true", "0A000"),
        ("replication", "database", "0A000"),
        ("options", "-c role=postgres", "42501"),
        ("options", "-c session_authorization=platform", "42501"),
        ("Role", "platform", "42501"),
        ("options", "-x", "42601"),
        ("options", "-c post_auth_delay=5", "55P02"),
        ("options", "-c log_connections=on", "55P02"),
        ("options", "-c ssl=off", "55P02"),
        ("options", "-c log_statement=all", "42501"),
        ("options", "-c no_such_setting=1", "42704"),
        ("work_mem", "lots", "22023"),
        ("TimeZone", "Nowhere/Else", "22023"),
        ("client_encoding", "EBCDIC", "22023"),
        ("DateStyle", "backwards", "22023"),
    ] {
        let mut raw = Raw::tls(stack.port, &stack.certificate);
        let mut parameters = vec![("user", &*user), ("database", "postgres")];
        parameters.retain(|(own, _)| *own != name);
        parameters.push((name, value));
        let seen = raw.log_in(Protocol::V3_0, &parameters, &tenant.password);
        assert_eq!(code_of(&seen), code, "{name}={value}");
        if !code.is_empty() {
            let (_, error) = seen.last().unwrap();
            assert!(error.starts_with(b"SFATAL\0"), "{name}={value}");
            assert!(raw.rest().is_empty());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn user_names_that_route_nowhere_are_explained() {
    let stack = Stack::start(|_| {}).await;
    for user in [
        "postgres",
        "../etc.admin",
        "abcdefghijkl.Root",
        "abcdefghijkl.postgres",
        "a'b\"c.admin",
        "ünï.admin",
        &"x".repeat(64),
    ] {
        let seen = try_login(&stack, user, "x");
        assert_eq!(code_of(&seen), "28000", "{user}");
    }
    assert!(stack.table.lock().unwrap().asked.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_by_request_and_direct_and_nothing_else() {
    let stack = Stack::start(|_| {}).await;
    let tenant = stack.tenant();
    let user = user(&stack, &tenant);
    let parameters = [("user", user.as_str()), ("database", "postgres")];

    let mut raw = Raw::direct_tls(stack.port, &stack.certificate, Some("postgresql")).unwrap();
    let seen = raw.log_in(Protocol::V3_0, &parameters, &tenant.password);
    assert_eq!(code_of(&seen), "");
    assert_eq!(raw::value(&raw.query("SELECT 1")), "1");

    let mut raw = Raw::direct_tls(stack.port, &stack.certificate, None).unwrap();
    raw.startup(Protocol::V3_0, &parameters);
    assert_eq!(code_of(&raw.rest()), "08P01");
    assert!(Raw::direct_tls(stack.port, &stack.certificate, Some("http/1.1")).is_err());

    let mut raw = Raw::plain(stack.port);
    let seen = raw.log_in(Protocol::V3_0, &parameters, &tenant.password);
    assert_eq!(code_of(&seen), "28000");
    assert!(String::from_utf8_lossy(&seen[0].1).contains("sslmode=require"));

    // GSSENCRequest is refused, and TLS is still possible.
    let mut socket = raw::tcp(stack.port);
    socket.write_all(&[0, 0, 0, 8, 4, 210, 22, 48]).unwrap();
    let mut answer = [0];
    socket.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"N");
    socket.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).unwrap();
    socket.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"S");

    // Words put into the client's mouth before encryption.
    let mut socket = raw::tcp(stack.port);
    let mut bytes = vec![0, 0, 0, 8, 4, 210, 22, 47];
    build::startup(Protocol::V3_0, parameters, &mut bytes);
    socket.write_all(&bytes).unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).unwrap();
    assert_eq!(answer.first(), Some(&b'E'));
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_negotiated_as_by_postgresql_18() {
    let stack = Stack::start(|_| {}).await;
    let tenant = stack.tenant();
    let user = user(&stack, &tenant);
    let log_in = |protocol, extra: &[(&str, &str)]| {
        let mut raw = Raw::tls(stack.port, &stack.certificate);
        let mut parameters = vec![("user", user.as_str()), ("database", "postgres")];
        parameters.extend(extra);
        raw.log_in(protocol, &parameters, &tenant.password)
    };
    let key = |seen: &[Message]| raw::cancel_key(seen).secret().len();

    let seen = log_in(Protocol::V3_0, &[]);
    assert_eq!((seen[0].0, key(&seen)), (b'R', 4));
    let seen = log_in(Protocol::V3_2, &[]);
    assert_eq!((seen[0].0, key(&seen)), (b'R', 32));
    // Grease: a version that does not exist and an extension nobody knows.
    let seen = log_in(
        Protocol::new(3, 9999),
        &[("_pq_.test_protocol_negotiation", "x")],
    );
    let (kind, body) = &seen[0];
    assert_eq!(*kind, b'v');
    assert_eq!(body[..8], [0, 3, 0, 2, 0, 0, 0, 1]);
    assert_eq!(&body[8..], b"_pq_.test_protocol_negotiation\0");
    assert_eq!((code_of(&seen).as_str(), key(&seen)), ("", 32));
    let seen = log_in(Protocol::new(2, 0), &[]);
    assert_eq!(code_of(&seen), "0A000");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_the_protocol_is_answered_shortly() {
    let stack = Stack::start(|config| {
        config.limits.login_time_max = Duration::from_millis(300);
    })
    .await;
    let say = |bytes: &[u8]| {
        let mut socket = raw::tcp(stack.port);
        socket.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer);
        answer
    };
    let http = say(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    let http = String::from_utf8(http).unwrap();
    assert!(http.starts_with("HTTP/1.1 400 "), "{http}");
    assert!(
        http.ends_with("PostgreSQL protocol; the API has another one.\n"),
        "{http}"
    );

    for garbage in [&b"SSH-2.0-OpenSSH_9\r\n"[..], &[0xff; 64], b"\x01"] {
        let answer = String::from_utf8_lossy(&say(garbage)).into_owned();
        assert!(answer.starts_with('E'), "{answer}");
        for word in [
            "SFATAL\0",
            "C08P01\0",
            "Mexpected a startup packet of the PostgreSQL",
        ] {
            assert!(answer.contains(word), "{answer}");
        }
    }
    assert!(say(&[0x16, 3, 1, 0, 4, 1, 2, 3, 4]).first() != Some(&b'E'));
    // Lengths that cannot be.
    for length in [0u32, 7, 10_001, 20_000, 60_000] {
        let answer = say(&length.to_be_bytes());
        assert_eq!(answer.first(), Some(&b'E'), "{length}");
    }
    // Silence, and a packet that never ends.
    for bytes in [&[][..], &[0, 0, 0, 50, 0, 3, 0, 0]] {
        let answer = say(bytes);
        assert!(
            String::from_utf8_lossy(&answer).contains("57014"),
            "{bytes:?}"
        );
    }
    kit::wait_until("all are gone", || {
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(stack.proxy().snapshot())
        })
        .clients
            == 0
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_are_the_servers_and_settings_are_the_clients() {
    let stack = Stack::start(|_| {}).await;
    let tenant = stack.tenant();
    let user = user(&stack, &tenant);
    // Twice: once with a server that is opened, once from what was seen.
    for _ in 0..2 {
        let mut raw = Raw::tls(stack.port, &stack.certificate);
        let parameters = [
            ("user", user.as_str()),
            ("database", "postgres"),
            ("application_name", "my app"),
            ("client_encoding", "'utf-8'"),
            ("extra_float_digits", "2"),
        ];
        let seen = raw.log_in(Protocol::V3_0, &parameters, &tenant.password);
        assert_eq!(parameter(&seen, "application_name").unwrap(), "my app");
        assert_eq!(parameter(&seen, "client_encoding").unwrap(), "UTF8");
        let version = stack.postgres.sql("postgres", "SHOW server_version");
        assert_eq!(parameter(&seen, "server_version").unwrap(), version);
        // Opened at the first statement, not at login.
        let answer = raw.query("SHOW extra_float_digits");
        assert_eq!(raw::value(&answer), "2");
        assert_eq!(raw::value(&raw.query("SHOW statement_timeout")), "1min");
        // Other tenants could read it in pg_stat_activity.
        assert_eq!(raw::value(&raw.query("SHOW application_name")), "");
    }

    let mut raw = Raw::tls(stack.port, &stack.certificate);
    let parameters = [
        ("user", user.as_str()),
        ("database", "postgres"),
        ("options", "-c search_path=a,\\ b --work-mem=7MB"),
        ("TimeZone", "Europe/Berlin"),
        ("DateStyle", "German"),
        ("client_encoding", "LATIN1"),
        ("my.setting", "it's \\ here"),
    ];
    let seen = raw.log_in(Protocol::V3_0, &parameters, &tenant.password);
    assert_eq!(parameter(&seen, "TimeZone").unwrap(), "Europe/Berlin");
    assert_eq!(parameter(&seen, "DateStyle").unwrap(), "German, DMY");
    assert_eq!(parameter(&seen, "client_encoding").unwrap(), "LATIN1");
    for (name, value) in [
        ("search_path", "a, b"),
        ("work_mem", "7MB"),
        ("my.setting", "it's \\ here"),
    ] {
        assert_eq!(raw::value(&raw.query(&format!("SHOW {name}"))), value);
    }
    drop(raw);

    // The next client of the same server connection has none of it.
    kit::wait_until("the server was reset", || {
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(stack.proxy().snapshot())
        })
        .servers_idle
            > 0
    });
    let mut raw = Raw::tls(stack.port, &stack.certificate);
    let parameters = [("user", user.as_str()), ("database", "postgres")];
    let seen = raw.log_in(Protocol::V3_0, &parameters, &tenant.password);
    assert_eq!(parameter(&seen, "client_encoding").unwrap(), "UTF8");
    assert_ne!(parameter(&seen, "TimeZone").unwrap(), "Europe/Berlin");
    let answer = raw.query("SHOW TimeZone");
    assert_ne!(raw::value(&answer), "Europe/Berlin");
    assert_eq!(raw::value(&raw.query("SHOW work_mem")), "4MB");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_clients_are_told_so() {
    let stack = Stack::start(|config| config.limits.clients_max = 2).await;
    let tenant = stack.tenant();
    let user = user(&stack, &tenant);
    let log_in = || {
        let mut raw = Raw::tls(stack.port, &stack.certificate);
        let parameters = [("user", user.as_str()), ("database", "postgres")];
        let seen = raw.log_in(Protocol::V3_0, &parameters, &tenant.password);
        (raw, code_of(&seen))
    };
    let first = log_in();
    let second = log_in();
    assert_eq!((first.1.as_str(), second.1.as_str()), ("", ""));
    assert_eq!(log_in().1, "53300");
    drop(first);
    kit::wait_until("the place is free", || log_in().1.is_empty());

    let stack = Stack::start(|_| {}).await;
    let tenant = stack.tenant();
    stack.set_route(&tenant, Role::Admin, |route| {
        route.limits.client_connections_max = 1;
    });
    let _held = stack.connect(&tenant, Role::Admin).await;
    let refused = stack
        .connect_with(&stack.config(&tenant, Role::Admin))
        .await
        .err()
        .unwrap();
    assert_eq!(kit::code(&refused), "53300");
}

/// A user has a login, a limit and a server connection of its own, and its secret opens nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_is_a_login_of_its_own() {
    let stack = Stack::start(|_| {}).await;
    let tenant = stack.tenant();
    let ann = stack.user(&tenant, ("ann", Role::Read), Some(2));
    let bob = stack.user(&tenant, ("bob", Role::Write), None);
    let config = |login: &LoginName| {
        let mut config = stack.config(&tenant, Role::Admin);
        config.user(login.to_string());
        config
    };
    let who = async |client: &tokio_postgres::Client| {
        let row = client.query_one("SELECT current_user::text, session_user::text", &[]);
        let row = row.await.unwrap();
        (row.get::<_, String>(0), row.get::<_, String>(1))
    };
    let first = stack.connect_with(&config(&ann)).await.unwrap();
    let second = stack.connect_with(&config(&ann)).await.unwrap();
    let own = (
        "tenantry_read".to_owned(),
        format!("{}_annuuuuuuuuu", Role::Read.login(&tenant.pid)),
    );
    assert_eq!(who(&first).await, own);
    assert_eq!(who(&second).await, own);
    let refused = stack.connect_with(&config(&ann)).await.err().unwrap();
    let said = refused.as_db_error().unwrap();
    assert_eq!(said.code().code(), "53300");
    assert_eq!(
        said.message(),
        "too many clients of user \"ann\": it may have 2 at once"
    );
    // Nobody else has less because of it.
    let other = stack.connect_with(&config(&bob)).await.unwrap();
    assert_eq!(who(&other).await.0, "tenantry_write");
    let reader = stack.connect(&tenant, Role::Read).await;
    assert_eq!(who(&reader).await.1, Role::Read.login(&tenant.pid));
    // Another limit is heard of; sessions that are open stay.
    stack.user(&tenant, ("ann", Role::Read), Some(3));
    stack.announce(&tenant);
    let mut third = None;
    for _ in 0..200 {
        third = stack.connect_with(&config(&ann)).await.ok();
        if third.is_some() {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(who(&third.unwrap()).await, own);
    assert_eq!(who(&first).await, own);

    // One that does not exist is refused by the same steps as one with another password.
    let nobody = format!("{}.eve", tenant.id);
    let known = ann.to_string();
    for _ in 0..3 {
        let wrong = try_login(&stack, &known, "wrong");
        let unknown = try_login(&stack, &nobody, "wrong");
        assert_eq!(code_of(&wrong), "28P01");
        assert_eq!(shape(&wrong, &known), shape(&unknown, &nobody));
    }
    // Names of roles are no users, and what cannot be a name is told so.
    assert_eq!(
        code_of(&try_login(&stack, &format!("{}.Eve", tenant.id), "x")),
        "28000"
    );

    // Deleted, its sessions end, and those of others stay.
    stack.table.lock().unwrap().routes.remove(&ann);
    stack.announce(&tenant);
    kit::wait_until("its sessions end", || {
        first.is_closed() && second.is_closed()
    });
    assert_eq!(
        code_of(&try_login(&stack, &known, &tenant.password)),
        "28P01"
    );
    assert_eq!(who(&other).await.0, "tenantry_write");
    assert_eq!(who(&reader).await.0, "tenantry_read");
}

/// Connections that are only held open fill the process, and keep nobody out who logs in.
#[tokio::test(flavor = "multi_thread")]
async fn who_never_logs_in_makes_room() {
    let stack = Stack::start(|config| config.limits.clients_max = 4).await;
    let tenant = stack.tenant();
    let user = user(&stack, &tenant);
    let log_in = || {
        let mut raw = Raw::tls(stack.port, &stack.certificate);
        let parameters = [("user", user.as_str()), ("database", "postgres")];
        let seen = raw.log_in(Protocol::V3_0, &parameters, &tenant.password);
        (raw, code_of(&seen))
    };
    let first = log_in();
    let mut silent: Vec<_> = (0..8).map(|_| raw::tcp(stack.port)).collect();
    let others = [log_in(), log_in(), log_in()];
    for (_, code) in [&first].into_iter().chain(&others) {
        assert_eq!(code, "");
    }
    // Who has logged in is not pushed out, and the ninth place is refused.
    assert_eq!(log_in().1, "53300");
    for (mut raw, _) in [first].into_iter().chain(others) {
        assert_eq!(raw::value(&raw.query("SELECT 'here'")), "here");
    }
    for socket in &mut silent {
        // Closed, without a word.
        assert!(matches!(socket.read(&mut [0; 1]), Ok(0) | Err(_)));
    }
}

/// Nothing at all, or half a TLS handshake and then nothing.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_slow_to_log_in_holds_up_nobody_else() {
    let stack = Stack::start(|config| {
        config.limits.login_time_max = Duration::from_secs(60);
    })
    .await;
    let tenant = stack.tenant();
    let user = user(&stack, &tenant);
    let silent: Vec<_> = (0..50).map(|_| raw::tcp(stack.port)).collect();
    let half_open: Vec<_> = (0..6)
        .map(|_| {
            let mut socket = raw::tcp(stack.port);
            socket.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).unwrap();
            let mut answer = [0];
            socket.read_exact(&mut answer).unwrap();
            socket.write_all(&[0x16, 3, 1, 0x10, 0, 1]).unwrap();
            socket
        })
        .collect();
    for _ in 0..10 {
        assert_eq!(code_of(&try_login(&stack, &user, &tenant.password)), "");
    }
    drop((silent, half_open));
}

#[tokio::test(flavor = "multi_thread")]
async fn half_open_tls_ends_in_time() {
    let stack = Stack::start(|config| {
        config.limits.login_time_max = Duration::from_millis(300);
    })
    .await;
    // After the request, and from the first byte; nothing, half a record header, half a record.
    for request in [&[0, 0, 0, 8, 4, 210, 22, 47][..], &[]] {
        for bytes in [&[][..], &[0x16, 3, 1], &[0x16, 3, 1, 0x10, 0, 1, 0, 0]] {
            let mut socket = raw::tcp(stack.port);
            socket.write_all(request).unwrap();
            if !request.is_empty() {
                socket.read_exact(&mut [0]).unwrap();
            }
            socket.write_all(bytes).unwrap();
            let mut rest = Vec::new();
            // The socket of the test waits 20 s.
            socket.read_to_end(&mut rest).unwrap();
        }
    }
    kit::wait_until("all are gone", || {
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(stack.proxy().snapshot())
        })
        .clients
            == 0
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn known_tenants_log_in_while_the_control_plane_is_away() {
    let stack = Stack::start(|config| config.limits.fresh_max = Duration::ZERO).await;
    let tenant = stack.tenant();
    let user = user(&stack, &tenant);
    assert_eq!(code_of(&try_login(&stack, &user, &tenant.password)), "");
    stack.table.lock().unwrap().is_away = true;
    assert_eq!(code_of(&try_login(&stack, &user, &tenant.password)), "");
    // Nobody can tell whether another secret has become right, or another login has been made.
    assert_eq!(code_of(&try_login(&stack, &user, "wrong")), "57P03");
    assert_eq!(
        code_of(&try_login(&stack, "abcdefghijkl.admin", "wrong")),
        "57P03"
    );
}
