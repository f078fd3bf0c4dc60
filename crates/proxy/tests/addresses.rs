//! Limits per address, bans, and clients behind a load balancer.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use std::{
    io::Write,
    net::{Ipv6Addr, TcpStream},
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use kit::{
    Stack, Tenant,
    raw::{self, Message, Raw, code_of},
};
use model::{Network, Role};
use proxy::Snapshot;
use wire::{message::parse, startup::Protocol};

const WORDS: &str = "connection rejected: your IP is temporarily rate-limited after repeated \
                     failed auth attempts, retry in ";

fn user(tenant: &Tenant) -> String {
    tenant.login(Role::Admin).to_string()
}

fn try_on(stream: TcpStream, stack: &Stack, user: &str, password: &str) -> (Raw, Vec<Message>) {
    let (mut raw, _) = Raw::tls_on(stream, &stack.certificate).unwrap();
    let parameters = [("user", user), ("database", "postgres")];
    let seen = raw.log_in(Protocol::V3_0, &parameters, password);
    (raw, seen)
}

fn try_login(stack: &Stack, user: &str, password: &str) -> Vec<Message> {
    try_on(raw::tcp(stack.port), stack, user, password).1
}

/// Severity and message of the last error.
fn said(seen: &[Message]) -> (String, String) {
    let (kind, body) = seen.last().unwrap();
    assert_eq!(*kind, b'E');
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let report = parse::report(body).unwrap();
    let severity = body.split(|byte| *byte == 0).next().unwrap();
    (text(&severity[1..]), report.message().into_owned())
}

fn snapshot(stack: &Stack) -> Snapshot {
    tokio::task::block_in_place(|| {
        tokio::runtime::Handle::current().block_on(stack.proxy().snapshot())
    })
}

/// The words are fixed. A right password does not help, a login that does not exist is treated alike, and
/// who is logged in stays. Other logins at the address go on, until too many of them have failed.
#[tokio::test(flavor = "multi_thread")]
async fn repeated_failures_ban_and_say_for_how_long() {
    let stack = Stack::start(|config| {
        config.limits.address_failures_max = 4;
        config.limits.address_ban = Duration::from_secs(47);
    })
    .await;
    let (tenant, other) = (stack.tenant(), stack.tenant());
    let (mut inside, _) = try_on(
        raw::tcp(stack.port),
        &stack,
        &user(&tenant),
        &tenant.password,
    );
    for user in [user(&tenant), "abcdefghijkl.admin".to_owned()] {
        for _ in 0..4 {
            assert_eq!(code_of(&try_login(&stack, &user, "wrong")), "28P01");
        }
        let seen = try_login(&stack, &user, &tenant.password);
        assert_eq!(code_of(&seen), "53300");
        // Without asking for a proof.
        assert_eq!(seen.len(), 1);
        let (severity, message) = said(&seen);
        assert_eq!(severity, "FATAL");
        let seconds = message.strip_prefix(WORDS).unwrap().strip_suffix('s');
        let seconds: u64 = seconds.unwrap().parse().unwrap();
        assert!((27..=47).contains(&seconds), "{message}");
    }
    let psql = Command::new("psql")
        .args(["-XAtqw", "-c", "SELECT 1"])
        .arg(format!(
            "host=127.0.0.1 port={} dbname=postgres sslmode=require user={}",
            stack.port,
            user(&tenant)
        ))
        .env("PGPASSWORD", &tenant.password)
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&psql.stderr).into_owned();
    assert!(shown.contains(&format!("FATAL:  {WORDS}4")), "{shown}");

    assert_eq!(
        code_of(&try_login(&stack, &user(&other), &other.password)),
        ""
    );
    assert_eq!(snapshot(&stack).address_bans, 2);
    for name in ["bbcdefghijkl.admin", "cbcdefghijkl.admin"] {
        assert_eq!(code_of(&try_login(&stack, name, "wrong")), "28P01");
    }
    assert_eq!(
        code_of(&try_login(&stack, &user(&other), &other.password)),
        "53300"
    );
    assert_eq!(raw::value(&inside.query("SELECT 'here'")), "here");
    let after = snapshot(&stack);
    assert_eq!(after.address_bans, 3);
    // The address, and four logins at it.
    assert_eq!(after.addresses_remembered, 5);
    assert_eq!(after.counts.logins_refused["53300"], 4);
}

/// Failures by mistake, a right login in between, and a wrong name are no reason for a ban.
#[tokio::test(flavor = "multi_thread")]
async fn who_gets_it_right_in_the_end_is_not_banned() {
    let stack = Stack::start(|config| config.limits.address_failures_max = 4).await;
    let tenant = stack.tenant();
    let user = user(&tenant);
    for _ in 0..3 {
        for _ in 0..3 {
            assert_eq!(code_of(&try_login(&stack, &user, "wrong")), "28P01");
            assert_eq!(code_of(&try_login(&stack, "nobody", "x")), "28000");
        }
        assert_eq!(code_of(&try_login(&stack, &user, &tenant.password)), "");
    }
    assert_eq!(snapshot(&stack).address_bans, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_has_a_limit_of_connections_and_one_of_attempts() {
    let stack = Stack::start(|config| {
        config.limits.address_connections_max = 2;
        config.limits.address_attempts_per_second_max = 1000;
    })
    .await;
    let tenant = stack.tenant();
    let user = user(&tenant);
    let silent = raw::tcp(stack.port);
    kit::wait_until("it is counted", || snapshot(&stack).clients == 1);
    let first = try_on(raw::tcp(stack.port), &stack, &user, &tenant.password);
    assert_eq!(code_of(&first.1), "");
    let seen = try_login(&stack, &user, &tenant.password);
    assert_eq!(code_of(&seen), "53300");
    assert_eq!(said(&seen).1, "too many connections from your IP");
    drop(silent);
    kit::wait_until("the place is free", || {
        code_of(&try_login(&stack, &user, &tenant.password)).is_empty()
    });

    let stack = Stack::start(|config| config.limits.address_attempts_per_second_max = 1).await;
    let tenant = stack.tenant();
    let user = tenant.login(Role::Admin).to_string();
    kit::wait_until("two came within one second", || {
        let seen = try_login(&stack, &user, &tenant.password);
        let code = code_of(&seen);
        assert!(code.is_empty() || said(&seen).1 == "too many login attempts from your IP");
        code == "53300"
    });
    kit::wait_until("the next second has come", || {
        code_of(&try_login(&stack, &user, &tenant.password)).is_empty()
    });
}

/// A flood of connections pushes out connections of the flood. Who came before it and takes its time, and
/// who comes behind it, logs in.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_from_one_address_makes_room_itself() {
    const MAX: usize = 6;
    let stack = Stack::start(|config| config.limits.clients_max = MAX).await;
    let tenant = stack.tenant();
    let user = user(&tenant);
    let is_closed = |stream: &TcpStream| !matches!(stream.peek(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock);
    let early = raw::tcp(stack.port);
    kit::wait_until("it is counted", || snapshot(&stack).clients == 1);
    let mut flood = Vec::new();
    let mut pour = || {
        for _ in 0..10 * MAX {
            let stream = raw::tcp_from([127, 0, 0, 2], stack.port);
            stream.set_nonblocking(true).unwrap();
            flood.push(stream);
        }
        kit::wait_until("the flood makes room for itself", || {
            flood.iter().filter(|stream| !is_closed(stream)).count() < MAX
        });
    };
    pour();
    let (first, seen) = try_on(early, &stack, &user, &tenant.password);
    assert_eq!(code_of(&seen), "");
    let late = raw::tcp(stack.port);
    kit::wait_until("it is counted", || snapshot(&stack).clients == MAX);
    pour();
    let (second, seen) = try_on(late, &stack, &user, &tenant.password);
    assert_eq!(code_of(&seen), "");
    for mut raw in [first, second] {
        assert_eq!(raw::value(&raw.query("SELECT 'here'")), "here");
    }
}

/// A header as a load balancer sends it, with an extension that nobody knows.
fn header(command: u8, from: [u8; 4]) -> Vec<u8> {
    let addresses = [
        &from[..],
        &[10, 0, 0, 1],
        &40_000u16.to_be_bytes(),
        &[0x15, 0x38],
    ]
    .concat();
    let body = [addresses, vec![0xee, 0, 3, 1, 2, 3]].concat();
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    [
        b"\r\n\r\n\0\r\nQUIT\n",
        &[0x20 | command, 0x11][..],
        &length,
        &body,
    ]
    .concat()
}

fn forwarded(stack: &Stack, from: [u8; 4]) -> TcpStream {
    let mut stream = raw::tcp(stack.port);
    // In pieces, as a network may deliver it.
    for byte in header(1, from) {
        stream.write_all(&[byte]).unwrap();
    }
    stream
}

/// The same of a client that came over IPv6.
fn forwarded_6(stack: &Stack, from: Ipv6Addr) -> TcpStream {
    let ports = [40_000u16.to_be_bytes(), [0x15, 0x38]].concat();
    let to = Ipv6Addr::LOCALHOST.octets();
    let addresses = [&from.octets()[..], &to, &ports].concat();
    let mut stream = raw::tcp(stack.port);
    let head = [b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24", &addresses[..]].concat();
    stream.write_all(&head).unwrap();
    stream
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_load_balancer_each_client_has_its_own_address() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_writer(move || writer.clone())
        .init();
    let networks = |text: &str| -> Vec<Network> { vec![text.parse().unwrap()] };
    let stack = Stack::start(|config| {
        config.proxy_protocol_from = networks("127.0.0.0/8");
        config.limits.address_failures_max = 4;
    })
    .await;
    let tenant = stack.tenant();
    let user = user(&tenant);
    let (near, far) = ([203, 0, 113, 9], [198, 51, 100, 7]);
    let try_from =
        |from, password: &str| try_on(forwarded(&stack, from), &stack, &user, password).1;
    assert_eq!(code_of(&try_from(near, &tenant.password)), "");
    kit::wait_until("the log has it", || {
        let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        log.lines().any(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            line["from"] == "203.0.113.9:40000" && line["message"] == "session ended"
        })
    });

    // Bans.
    for _ in 0..4 {
        assert_eq!(code_of(&try_from(far, "wrong")), "28P01");
    }
    assert_eq!(code_of(&try_from(far, &tenant.password)), "53300");
    assert_eq!(code_of(&try_from(near, &tenant.password)), "");

    // The tenant's list of addresses; only who knows the secret is told. It ends open sessions.
    let outside = [192, 0, 2, 1];
    let (mut ended, _) = try_on(forwarded(&stack, outside), &stack, &user, &tenant.password);
    let (mut stays, _) = try_on(forwarded(&stack, near), &stack, &user, &tenant.password);
    let login = tenant.login(Role::Admin);
    let before = stack.table.lock().unwrap().routes[&login].route.clone();
    stack.set_route(&tenant, Role::Admin, |route| {
        route.candidates.clone_from(&before.candidates);
        route.limits.addresses = Some(networks("203.0.113.0/24").into());
    });
    stack.announce(&tenant);
    assert_eq!(code_of(&ended.rest()), "28000");
    assert_eq!(raw::value(&stays.query("SELECT 'here'")), "here");
    kit::wait_until("the change is seen", || {
        code_of(&try_from(outside, &tenant.password)) == "28000"
    });
    assert_eq!(code_of(&try_from(outside, "wrong")), "28P01");
    assert_eq!(code_of(&try_from(near, &tenant.password)), "");

    // A secret that works from one network only, told and counted in the same way.
    let mut bound = stack.candidate(&tenant, Role::Admin, "bound");
    bound.network = Some("203.0.113.9".parse().unwrap());
    stack.set_route(&tenant, Role::Admin, |route| {
        route.candidates.clone_from(&before.candidates);
        route.candidates.push(bound);
    });
    stack.announce(&tenant);
    kit::wait_until("the secret is known", || {
        code_of(&try_from(near, "bound")).is_empty()
    });
    assert_eq!(code_of(&try_from([203, 0, 113, 10], "bound")), "28000");
    assert_eq!(code_of(&try_from([203, 0, 113, 10], &tenant.password)), "");
    // The address of IPv4 that came over IPv6 is the same one.
    let mapped = forwarded_6(&stack, "::ffff:203.0.113.9".parse().unwrap());
    assert_eq!(code_of(&try_on(mapped, &stack, &user, "bound").1), "");
    let other = forwarded_6(&stack, "2001:db8::9".parse().unwrap());
    assert_eq!(code_of(&try_on(other, &stack, &user, "bound").1), "28000");
    stack.set_route(&tenant, Role::Admin, |route| {
        route.candidates.clone_from(&before.candidates);
        route.limits.addresses = Some(networks("203.0.113.0/24").into());
    });
    stack.announce(&tenant);
    kit::wait_until("the change is seen", || {
        code_of(&try_from(outside, &tenant.password)) == "28000"
    });

    // For itself: it is its own address that counts, and no limits hold for it.
    let own = |command| {
        let mut stream = raw::tcp(stack.port);
        stream.write_all(&header(command, near)).unwrap();
        stream
    };
    for _ in 0..6 {
        let (_, seen) = try_on(own(0), &stack, &user, "wrong");
        assert_eq!(code_of(&seen), "28P01");
    }
    let (_, seen) = try_on(own(0), &stack, &user, &tenant.password);
    assert_eq!(code_of(&seen), "28000");

    // Whoever has to send a header and does not, or sends nonsense, gets no further.
    for (first, words) in [
        (
            &b"\0\0\0\x08\x04\xd2\x16\x2f"[..],
            "no PROXY protocol header",
        ),
        (
            b"PROXY TCP4 203.0.113.9 10.0.0.1 1 2\r\n",
            "no PROXY protocol header",
        ),
        (
            b"\r\n\r\n\0\r\nQUIT\n\x22\x11\0\0",
            "invalid PROXY protocol header",
        ),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff", "longer than"),
    ] {
        let mut raw = Raw::plain(stack.port);
        raw.send(first);
        let seen = raw.rest();
        assert_eq!(code_of(&seen), "08P01");
        assert!(said(&seen).1.contains(words), "{}", said(&seen).1);
    }
    // What comes in one piece with the header is the client's.
    let mut raw = Raw::plain(stack.port);
    raw.send(&[header(1, near), b"GET / HTTP/1.1\r\n\r\n".to_vec()].concat());
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut raw.stream, &mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}

/// An address is what the network says, unless the operator trusts who says something else.
#[tokio::test(flavor = "multi_thread")]
async fn a_header_from_elsewhere_is_noise() {
    let stack = Stack::start(|config| {
        config.proxy_protocol_from = vec!["192.0.2.0/24".parse().unwrap()];
        config.limits.login_time_max = Duration::from_secs(60);
    })
    .await;
    let answer = |bytes: &[u8]| {
        let mut raw = Raw::plain(stack.port);
        raw.send(bytes);
        raw.rest()
    };
    let seen = answer(&header(1, [203, 0, 113, 9]));
    assert_eq!(seen, answer(b"\r\n\r\nnoise of any other kind, as much"));
    assert_eq!(said(&seen).0, "FATAL");
    let tenant = stack.tenant();
    assert_eq!(
        code_of(&try_login(&stack, &user(&tenant), &tenant.password)),
        ""
    );
}
