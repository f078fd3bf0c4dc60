use std::net::Ipv6Addr;

use super::*;

fn addresses(change: impl FnOnce(&mut Limits)) -> Arc<Addresses> {
    let mut limits = Limits::default();
    change(&mut limits);
    let unlimited = "192.0.2.128/25".parse().unwrap();
    Addresses::remembering(100, &limits, &[unlimited])
}

fn from(all: &Arc<Addresses>, text: &str) -> Connection {
    all.connected(text.parse().unwrap(), 64).unwrap()
}

#[test]
fn repeated_failures_of_a_login_ban_it_there_for_a_while_and_it_counts_down() {
    let mut now = Instant::now();
    let all = addresses(|limits| {
        limits.address_failures_max = 3;
        limits.address_ban = Duration::from_secs(60);
    });
    let bad = from(&all, "192.0.2.7");
    for _ in 0..3 {
        bad.may_try_at("app", now).unwrap();
        bad.failed_at("app", now);
    }
    assert_eq!(
        bad.may_try_at("app", now),
        Err(Refusal::Banned { seconds: 60 })
    );
    now += Duration::from_millis(12_500);
    // Also on another connection, after all were closed, and for who was about to prove it.
    drop(bad);
    let again = from(&all, "::ffff:192.0.2.7");
    let refusal = again.may_go_on_at("app", now).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "connection rejected: your IP is temporarily rate-limited after repeated failed auth \
         attempts, retry in 48s"
    );
    assert_eq!(model::Public::sqlstate(&refusal), "53300");
    // Other programs there, and the same login elsewhere, have nothing to do with it.
    again.may_try_at("other", now).unwrap();
    from(&all, "192.0.2.8").may_try_at("app", now).unwrap();
    now += Duration::from_secs(47);
    assert_eq!(
        again.may_try_at("app", now),
        Err(Refusal::Banned { seconds: 1 })
    );
    // It began anew: one more is not one too many.
    now += Duration::from_secs(1);
    again.failed_at("app", now);
    again.may_try_at("app", now).unwrap();
}

#[test]
fn several_logins_that_fail_ban_their_address_and_one_does_not() {
    let now = Instant::now();
    let all = addresses(|limits| limits.address_failures_max = 20);
    let old_password = from(&all, "192.0.2.7");
    for _ in 0..1000 {
        old_password.failed_at("app", now);
    }
    old_password.may_try_at("other", now).unwrap();
    let guesser = from(&all, "192.0.2.8");
    for name in 0..20 {
        guesser.may_try_at("other", now).unwrap();
        guesser.failed_at(&name.to_string(), now);
    }
    let banned = Err(Refusal::Banned { seconds: 60 });
    assert_eq!(guesser.may_try_at("other", now), banned);
    // Each was known by its own name once, and the address as a whole.
    assert_eq!(all.numbers(), (2 + 21, 100, 1 + 1));
}

#[test]
fn a_success_takes_back_its_own_failures_and_no_others() {
    let mut now = Instant::now();
    let all = addresses(|limits| limits.address_failures_max = 8);
    let nat = from(&all, "192.0.2.7");
    // A replica with an old password beside one with the right one.
    for _ in 0..100 {
        for _ in 0..7 {
            nat.failed_at("app", now);
        }
        nat.succeeded_at("app", now);
        nat.may_try_at("other", now).unwrap();
    }
    // Somebody with a good password of his own, who fails with it on purpose.
    for guess in 0..6 {
        nat.failed_at(&guess.to_string(), now);
        nat.succeeded_at("own", now);
        nat.failed_at("own", now);
        nat.succeeded_at("own", now);
        nat.may_try_at("other", now).unwrap();
    }
    for guess in 6..8 {
        nat.may_try_at("other", now).unwrap();
        nat.failed_at(&guess.to_string(), now);
    }
    nat.may_try_at("other", now).unwrap_err();
    // What failed before the count of now began is not taken off it.
    let slow = from(&all, "192.0.2.8");
    let window = Limits::default().address_failures_window;
    slow.failed_at("x", now);
    now += window / 2;
    slow.failed_at("own", now);
    now += window / 2;
    for guess in 0..7 {
        slow.failed_at(&guess.to_string(), now);
    }
    slow.succeeded_at("own", now);
    slow.failed_at("8", now);
    slow.may_try_at("other", now).unwrap_err();
    // A success that was on its way does not lift a ban.
    let late = from(&all, "192.0.2.9");
    for _ in 0..8 {
        late.failed_at("app", now);
    }
    late.succeeded_at("app", now);
    late.may_go_on_at("other", now).unwrap();
    late.may_go_on_at("app", now).unwrap_err();
}

#[test]
fn failures_that_lie_apart_ban_nobody() {
    let mut now = Instant::now();
    let all = addresses(|limits| limits.address_failures_max = 2);
    let slow = from(&all, "192.0.2.7");
    for _ in 0..10 {
        slow.failed_at("app", now);
        now += Limits::default().address_failures_window;
        slow.may_try_at("app", now).unwrap();
    }
}

#[test]
fn of_ipv6_a_whole_64_is_one_address() {
    let now = Instant::now();
    let all = addresses(|limits| limits.address_failures_max = 1);
    from(&all, "2001:db8:1:2::1").failed_at("app", now);
    let neighbour = from(&all, "2001:db8:1:2:ffff::9");
    assert!(neighbour.may_try_at("app", now).is_err());
    from(&all, "2001:db8:1:3::1")
        .may_try_at("app", now)
        .unwrap();
}

#[test]
fn connections_have_a_limit_and_nothing_is_kept_of_who_left() {
    let now = Instant::now();
    let all = addresses(|limits| limits.address_connections_max = 2);
    let two = [from(&all, "192.0.2.7"), from(&all, "192.0.2.7")];
    let far: Vec<_> = (0..100)
        .map(|_| all.connected("192.0.2.7".parse().unwrap(), 64))
        .collect();
    assert_eq!(far.iter().flatten().count(), 64);
    for told in far.iter().flatten() {
        assert_eq!(told.may_try_at("app", now), Err(Refusal::TooManyOfAddress));
    }
    from(&all, "192.0.2.8").may_try_at("app", now).unwrap();
    drop(far);
    drop(two);
    from(&all, "192.0.2.7").may_try_at("app", now).unwrap();
    assert!(all.known().connections.is_empty());
}

#[test]
fn attempts_are_counted_by_the_second_and_only_if_they_are_limited() {
    let mut now = Instant::now();
    let all = addresses(|limits| limits.address_attempts_per_second_max = 3);
    let quick = from(&all, "192.0.2.7");
    for user in ["a", "b", "c"] {
        quick.may_try_at(user, now).unwrap();
    }
    let again = from(&all, "192.0.2.7");
    assert_eq!(again.may_try_at("d", now), Err(Refusal::TooManyAttempts));
    from(&all, "192.0.2.8").may_try_at("d", now).unwrap();
    now += SECOND;
    again.may_try_at("d", now).unwrap();

    let all = addresses(|_| {});
    for _ in 0..1000 {
        from(&all, "192.0.2.7").may_try_at("a", now).unwrap();
    }
    assert_eq!(all.numbers().0, 0);
}

#[test]
fn networks_without_limits_have_none() {
    let now = Instant::now();
    let all = addresses(|limits| {
        limits.address_failures_max = 1;
        limits.address_connections_max = 1;
        limits.address_attempts_per_second_max = 1;
    });
    let mut kept = Vec::new();
    for _ in 0..100 {
        let balancer = from(&all, "192.0.2.130");
        balancer.may_try_at("app", now).unwrap();
        balancer.failed_at("app", now);
        kept.push(balancer);
    }
    assert_eq!(all.numbers().0, 0);
}

/// The table holds 100 here; 50 stay when it is full.
#[test]
fn a_flood_of_addresses_lifts_no_ban_and_fills_no_memory() {
    let now = Instant::now();
    let all = addresses(|limits| {
        limits.address_failures_max = 4;
        limits.address_attempts_per_second_max = 10;
    });
    let banned = from(&all, "192.0.2.7");
    for _ in 0..4 {
        banned.failed_at("app", now);
    }
    let half = from(&all, "192.0.2.8");
    for _ in 0..3 {
        half.failed_at("app", now);
    }
    // Attempts alone, from many addresses: not even failures are forgotten for them.
    for host in 0..10_000u32 {
        let other = Ipv6Addr::from(u128::from(host) << 64);
        let other = from(&all, &other.to_string());
        other.may_try_at("app", now).unwrap();
        assert!(all.numbers().0 <= 100);
    }
    half.failed_at("app", now);
    half.may_try_at("app", now).unwrap_err();
    // One failure from each.
    for host in 0..10_000u32 {
        let other = Ipv6Addr::from((1 << 127) | u128::from(host) << 64);
        from(&all, &other.to_string()).failed_at("app", now);
        assert!(all.numbers().0 <= 100);
    }
    banned.may_try_at("app", now).unwrap_err();
    half.may_try_at("app", now).unwrap_err();
    // Of bans, those that end first are forgotten first.
    let later = now + SECOND;
    for host in 0..200u32 {
        let other = Ipv6Addr::from((1 << 126) | u128::from(host) << 64);
        let other = from(&all, &other.to_string());
        for _ in 0..4 {
            other.failed_at("app", later);
        }
        other.may_try_at("app", later).unwrap_err();
        assert!(all.numbers().0 <= 100);
    }
    banned.may_try_at("app", later).unwrap();
}
