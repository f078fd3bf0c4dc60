use super::*;

fn validate(given: &[(&'static str, &str)]) -> Result<Config, Vec<String>> {
    let mut raw = Raw::default();
    for (name, value) in given {
        raw.values
            .insert(name, ((*value).to_owned(), Source::Flag(name)));
    }
    Config::validate(raw).map_err(|mistakes| mistakes.iter().map(ToString::to_string).collect())
}

#[test]
fn nothing_given_is_a_local_server_that_anybody_on_it_can_use() {
    let config = validate(&[]).unwrap();
    assert_eq!(config.pg_listen.to_string(), "127.0.0.1:5433");
    assert_eq!(config.public_host, "127.0.0.1");
    assert!(config.anonymous && !config.api_tls && !config.plain_pg);
}

#[test]
fn the_history_of_a_day_is_kept_unless_none_is_wanted() {
    let history = |given: &[(&'static str, &str)]| validate(given).map(|told| told.history);
    assert_eq!(history(&[]), Ok(Some(HistoryConfig::default())));
    assert_eq!(history(&[("point-in-time", "0s")]), Ok(None));
    let free = history(&[("point-in-time-free", "64MB")]).map(Option::unwrap_or_default);
    assert_eq!(
        free.map(|history| history.free_bytes_min),
        Ok(Some(64 << 20))
    );
    let told = history(&[("point-in-time-base-every", "9m"), ("point-in-time", "31d")]);
    let told = told.unwrap_err().concat();
    assert!(
        told.contains("--point-in-time: '31d' is more than 30days"),
        "{told}"
    );
    assert!(
        told.contains("--point-in-time-base-every: '9m' is less than 10m"),
        "{told}"
    );
}

#[test]
fn all_mistakes_are_told_together() {
    let mistakes = validate(&[
        ("pg-listen", "5433"),
        ("workers", "0"),
        ("retention", "soon"),
        ("log", "xml"),
        ("allow-anonymous", "maybe"),
        ("tls-cert", "/nowhere/cert.pem"),
        ("attach-file", "/nowhere/dsn"),
        ("catalog", "postgresql://me:hunter2@host?sslmode=maybe"),
        ("data-dir", "/etc/passwd"),
        ("log-filter", "a=b=c"),
        ("address-ban", "2d"),
        ("address-failures-max", "-1"),
        ("address-limits-not-for", ""),
        ("proxy-protocol-from", "10.0.0.0/8, 192.0.2.1/24"),
    ])
    .unwrap_err();
    for part in [
        "--pg-listen: '5433' is not an address",
        "--workers: '0' is not a number from 1",
        "--retention: 'soon' is not a time",
        "--log: is neither",
        "--allow-anonymous: 'maybe'",
        "--tls-cert: needs tls-key",
        "--attach-file: cannot read",
        "--catalog: sslmode is disable, require, verify-ca or verify-full; a DSN is like",
        "--data-dir: /etc/passwd is no directory",
        "--log-filter: 'a=b=c'",
        "--address-ban: '2d' is more than 1day",
        "--address-failures-max: '-1' is not a number from 0",
        "--address-limits-not-for: '': a network is an address and a length",
        "--proxy-protocol-from: '192.0.2.1/24': a network has no bits behind its length",
    ] {
        assert!(
            mistakes.iter().any(|m| m.contains(part)),
            "{part}: {mistakes:?}"
        );
    }
    assert_eq!(mistakes.len(), 14, "{mistakes:?}");
    assert!(!mistakes.iter().any(|m| m.contains("hunter2")));
}

#[test]
fn an_idle_server_connection_has_between_a_second_and_a_day() {
    let idle = |text| validate(&[("server-idle-max", text)]).map(|told| told.server_idle_max);
    assert_eq!(validate(&[]).unwrap().server_idle_max, SERVER_IDLE);
    assert_eq!(idle("1s"), Ok(SERVER_IDLE_MIN));
    assert_eq!(idle("24h"), Ok(SERVER_IDLE_MAX));
    let told = |text| idle(text).unwrap_err().concat();
    assert!(told("999ms").contains("--server-idle-max: '999ms' is less than 1s"));
    assert!(told("25h").contains("--server-idle-max: '25h' is more than 1day"));
}

#[test]
fn memory_is_written_as_postgresql_writes_it() {
    let read = |text| validate(&[("process-memory-max", text)]);
    assert_eq!(validate(&[]).unwrap().process_memory_max, None);
    for (text, bytes) in [
        ("128MB", 128 << 20),
        ("131072kB", 128 << 20),
        ("2 GB", 2 << 30),
        ("64TB", 64 << 40),
    ] {
        assert_eq!(read(text).unwrap().process_memory_max, Some(bytes));
    }
    for (text, why) in [
        ("512", "'512' is not a size like 512MB or 2GB"),
        ("512mb", "is not a size"),
        ("1.5GB", "is not a size"),
        ("-1GB", "is not a size"),
        ("99999999999999TB", "is not a size"),
        ("127MB", "'127MB' is less than 128MB"),
        ("65TB", "'65TB' is more than 64TB"),
    ] {
        let told = read(text).unwrap_err().concat();
        assert!(
            told.contains("--process-memory-max: ") && told.contains(why),
            "{told}"
        );
    }
    let attached = [
        ("attach", "postgresql://me@h"),
        ("process-memory-max", "1GB"),
    ];
    let told = validate(&attached).unwrap_err().concat();
    assert!(told.contains("--process-memory-max: has no use with --attach"));
}

#[test]
fn files_and_programs_that_are_named_are_looked_at() {
    let mistakes = validate(&[
        ("tls-cert", "/nowhere/cert.pem"),
        ("tls-key", "/etc/passwd"),
        ("pg-bin", "/nowhere"),
        ("pg-user", "no-such-user"),
        (
            "catalog",
            "host=h user=me sslmode=verify-ca sslrootcert=/nowhere/ca.pem",
        ),
    ])
    .unwrap_err();
    for part in [
        "--tls-cert: cannot read /nowhere/cert.pem",
        "--tls-key: /etc/passwd holds no private key in PEM form",
        "--pg-bin: /nowhere: no postgres there",
        "no-such-user",
        "--catalog: sslrootcert /nowhere/ca.pem",
    ] {
        assert!(
            mistakes.iter().any(|m| m.contains(part)),
            "{part}: {mistakes:?}"
        );
    }
    assert_eq!(mistakes.len(), 5, "{mistakes:?}");
    // Beside a server that somebody else runs, other programs are needed, and nobody to run them as.
    let attach = ("attach", "postgresql://me@h");
    for (named, what) in [
        (("pg-bin", "/nowhere"), "no pg_dump there"),
        (("pg-user", "me"), "no use"),
    ] {
        let mistakes = validate(&[attach, named]).unwrap_err();
        assert!(
            mistakes.len() == 1 && mistakes[0].contains(what),
            "{mistakes:?}"
        );
    }
}

#[test]
fn on_the_network_nothing_is_open_that_was_not_opened_by_name() {
    let refused = validate(&[("api-listen", "0.0.0.0:5480")]).unwrap_err();
    assert!(refused[0].contains("--allow-plain-http"), "{refused:?}");
    let config = validate(&[("api-listen", "0.0.0.0:5480"), ("api-tls", "true")]).unwrap();
    assert!(config.api_tls && !config.anonymous);
    let config = validate(&[("pg-listen", "0.0.0.0:5433")]).unwrap();
    assert!(!config.anonymous);
    let config = validate(&[
        ("api-listen", "[::]:5480"),
        ("allow-plain-http", "true"),
        ("allow-anonymous", "true"),
    ])
    .unwrap();
    assert!(config.anonymous && !config.api_tls);
}

#[test]
fn switching_plain_http_off_by_name_does_not_switch_it_on() {
    assert!(validate(&[("api-listen", "0.0.0.0:1"), ("allow-plain-http", "false")]).is_err());
    assert!(validate(&[("api-listen", "0.0.0.0:1"), ("api-tls", "false")]).is_err());
}

#[test]
fn networks_are_separated_by_commas() {
    let config = validate(&[("proxy-protocol-from", "10.0.0.0/8, 2001:db8::1")]).unwrap();
    let networks: Vec<_> = config
        .proxy_protocol_from
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(networks, ["10.0.0.0/8", "2001:db8::1/128"]);
    assert!(config.address_limits_not_for.is_empty());
}

#[test]
fn origins_are_written_as_browsers_do() {
    let read = |text: &str| validate(&[("sql-origins", text)]).map(|config| config.sql_origins);
    let two = ["https://app.example", "http://localhost:3000"].map(str::to_owned);
    assert_eq!(
        read("https://app.example, http://localhost:3000").unwrap(),
        Origins::These(two.to_vec())
    );
    assert_eq!(read("*").unwrap(), Origins::Any);
    for wrong in [
        "",
        "app.example",
        "https://app.example/",
        "https://A.example",
        "https://",
        "*,x",
    ] {
        assert!(read(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn one_address_cannot_serve_two() {
    assert!(validate(&[("pg-listen", "127.0.0.1:1"), ("api-listen", "127.0.0.1:1")]).is_err());
    assert!(validate(&[("pg-listen", "127.0.0.1:0"), ("api-listen", "127.0.0.1:0")]).is_ok());
}
