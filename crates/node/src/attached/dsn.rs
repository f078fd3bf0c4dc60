//! Reading the DSN of a node.
//!
//! `tokio_postgres` reads all of it but `sslmode` (it knows no `verify-*`) and `sslrootcert`; those
//! are taken out first. Parameters that would make us read other files or run as somebody else
//! (`service`, `passfile`, `sslkey`, …) stay in, and are refused there as unknown.

use std::path::PathBuf;

use model::route::{NodeAddress, NodeTls};
use tokio_postgres::{
    Config,
    config::{Host, SslMode},
};

/// What a DSN says.
pub struct Dsn {
    /// Login, database, and settings of the connection.
    pub config: Config,
    /// Where it is.
    pub address: NodeAddress,
    /// What is checked of its certificate.
    pub tls: NodeTls,
}

/// # Errors
///
/// What is wrong, without the DSN's text.
pub(super) fn parse(text: &str) -> Result<Dsn, String> {
    let text = text.trim();
    let is_url = text.starts_with("postgres://") || text.starts_with("postgresql://");
    let (rest, mut ours) = if is_url {
        split_url(text)?
    } else {
        split_pairs(text)?
    };
    let mut config: Config = rest
        .parse()
        .map_err(|error| format!("{error}{}", reason(&error)))?;
    if config.get_user().is_none() {
        return Err("it names no user".to_owned());
    }
    let [host] = config.get_hosts() else {
        return Err("it must name exactly one host".to_owned());
    };
    if !config.get_hostaddrs().is_empty() {
        return Err("hostaddr: name the address as the host".to_owned());
    }
    let host = host.clone();
    let port = config.get_ports().first().copied().unwrap_or(5432);
    let root = ours.remove("sslrootcert").map(PathBuf::from);
    let mode = ours.remove("sslmode");
    let (address, tls) = match host {
        Host::Unix(dir) => (
            NodeAddress::Unix(dir.join(format!(".s.PGSQL.{port}"))),
            NodeTls::Disable,
        ),
        Host::Tcp(host) => {
            let tls = mode_of(mode.as_deref(), root, &host)?;
            (
                NodeAddress::Tcp {
                    host,
                    port,
                    tls: tls.clone(),
                },
                tls,
            )
        }
    };
    let ssl = if tls == NodeTls::Disable {
        SslMode::Disable
    } else {
        SslMode::Require
    };
    config.ssl_mode(ssl);
    Ok(Dsn {
        config,
        address,
        tls,
    })
}

fn reason(error: &tokio_postgres::Error) -> String {
    std::error::Error::source(error).map_or_else(String::new, |source| format!(": {source}"))
}

/// Without a word about it, plain text stays on this machine.
fn mode_of(mode: Option<&str>, root: Option<PathBuf>, host: &str) -> Result<NodeTls, String> {
    let is_local = host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    match mode {
        None if root.is_some() => Ok(NodeTls::VerifyFull(root)),
        None if is_local => Ok(NodeTls::Disable),
        None => Ok(NodeTls::Require),
        Some("disable") => Ok(NodeTls::Disable),
        // As libpq has it: with roots at hand, `require` checks them.
        Some("require") if root.is_some() => Ok(NodeTls::VerifyCa(root)),
        Some("require") => Ok(NodeTls::Require),
        Some("verify-ca") => Ok(NodeTls::VerifyCa(root)),
        Some("verify-full") => Ok(NodeTls::VerifyFull(root)),
        Some("prefer" | "allow") => Err(
            "sslmode prefer and allow depend on who answers: say disable, require, verify-ca or \
             verify-full"
                .to_owned(),
        ),
        Some(_) => Err("sslmode is disable, require, verify-ca or verify-full".to_owned()),
    }
}

type Ours = std::collections::BTreeMap<String, String>;

fn is_ours(key: &str) -> bool {
    ["sslmode", "sslrootcert"].contains(&key)
}

fn split_url(text: &str) -> Result<(String, Ours), String> {
    let Some((base, query)) = text.split_once('?') else {
        return Ok((text.to_owned(), Ours::new()));
    };
    let mut ours = Ours::new();
    let mut rest = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some((key, value)) if is_ours(key) => {
                ours.insert(key.to_owned(), percent_decoded(value)?);
            }
            _ => rest.push(pair),
        }
    }
    let query = if rest.is_empty() {
        String::new()
    } else {
        format!("?{}", rest.join("&"))
    };
    Ok((format!("{base}{query}"), ours))
}

fn percent_decoded(text: &str) -> Result<String, String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = rest
            .get(..2)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.ok_or("a % is not followed by two hexadecimal digits")?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())
}

/// `key = value` with values in single quotes, `\` before a quote or itself.
fn split_pairs(text: &str) -> Result<(String, Ours), String> {
    let mut ours = Ours::new();
    let mut kept = String::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.peek().is_none() {
            return Ok((kept, ours));
        }
        let mut key = String::new();
        while let Some(c) = chars.next_if(|c| *c != '=' && !c.is_whitespace()) {
            key.push(c);
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.next() != Some('=') {
            return Err("a key is not followed by =".to_owned());
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        let is_quoted = chars.next_if_eq(&'\'').is_some();
        let mut value = String::new();
        loop {
            match chars.next() {
                Some('\'') if is_quoted => break,
                Some(c) if c.is_whitespace() && !is_quoted => break,
                Some('\\') => value.extend(chars.next()),
                Some(c) => value.push(c),
                None if is_quoted => return Err("a quote is not closed".to_owned()),
                None => break,
            }
        }
        if is_ours(&key) {
            ours.insert(key, value);
        } else {
            let quoted = value.replace('\\', "\\\\").replace('\'', "\\'");
            kept.push_str(&format!("{key}='{quoted}' "));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn tls(dsn: &str) -> Result<NodeTls, String> {
        parse(dsn).map(|dsn| dsn.tls)
    }

    #[test]
    fn both_forms_say_the_same() {
        let url = parse("postgres://me:p%27w@db.example:5555/postgres?sslmode=verify-full&sslrootcert=%2Fca.pem").unwrap();
        let pairs = parse(
            r"host=db.example port = 5555 user=me password='p\'w' dbname=postgres sslmode=verify-full sslrootcert='/ca.pem'",
        )
        .unwrap();
        for dsn in [url, pairs] {
            let full = NodeTls::VerifyFull(Some("/ca.pem".into()));
            assert_eq!(
                dsn.address,
                NodeAddress::Tcp {
                    host: "db.example".into(),
                    port: 5555,
                    tls: full.clone()
                }
            );
            assert_eq!(dsn.tls, full);
            assert_eq!(dsn.config.get_password(), Some(&b"p'w"[..]));
            assert_eq!(dsn.config.get_ssl_mode(), SslMode::Require);
        }
    }

    #[test]
    fn without_sslmode_plain_text_stays_on_this_machine() {
        assert_eq!(tls("postgres://me@127.0.0.1"), Ok(NodeTls::Disable));
        assert_eq!(tls("postgres://me@localhost"), Ok(NodeTls::Disable));
        assert_eq!(tls("postgres://me@10.0.0.1"), Ok(NodeTls::Require));
        assert_eq!(tls("host=/run/postgresql user=me"), Ok(NodeTls::Disable));
        assert_eq!(tls("postgres://me@h?sslmode=require"), Ok(NodeTls::Require));
        assert_eq!(
            tls("postgres://me@h?sslmode=require&sslrootcert=a"),
            Ok(NodeTls::VerifyCa(Some("a".into())))
        );
    }

    #[test]
    fn a_socket_directory_is_an_address() {
        let dsn = parse("host=/run/postgresql port=6000 user=me").unwrap();
        assert_eq!(
            dsn.address,
            NodeAddress::Unix("/run/postgresql/.s.PGSQL.6000".into())
        );
    }

    #[test]
    fn what_cannot_be_used_is_refused_without_its_text() {
        for dsn in [
            "",
            "postgres://h",
            "postgres://me@a,b",
            "host=h hostaddr=10.0.0.1 user=me",
            "postgres://me@h?sslmode=prefer",
            "postgres://me@h?sslmode=nonsense",
            "postgres://me:hunter2@h?sslmode=%zz",
            "host=h user=me password='hunter2",
            "host=h user=me service=other password=hunter2",
            "host=h user=me sslkey=/etc/shadow password=hunter2",
        ] {
            let error = parse(dsn)
                .err()
                .unwrap_or_else(|| panic!("{dsn} was accepted"));
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
