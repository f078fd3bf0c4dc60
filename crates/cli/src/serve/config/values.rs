//! Single values of the settings of `serve`, from their texts.
//!
//! Owns: how each kind is written, and what is said of one that is written wrongly. Does not own: which setting is of
//! which kind, and its bounds (`config`).

use std::{net::SocketAddr, time::Duration};

use control::Origins;
use model::Network;

/// Each is compared with every client that comes in.
const NETWORKS_MAX: usize = 64;
/// Most origins in the list. Each request of a browser is compared with all of them.
const ORIGINS_MAX: usize = 64;

pub(super) fn text(text: &str) -> Result<String, String> {
    text_not_empty(text).map(str::to_owned)
}

pub(super) fn text_not_empty(text: &str) -> Result<&str, String> {
    if text.is_empty() {
        return Err("is empty".to_owned());
    }
    Ok(text)
}

pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    let spelled = text
        .strip_prefix("localhost:")
        .map_or_else(|| text.to_owned(), |port| format!("127.0.0.1:{port}"));
    spelled.parse().map_err(|_| {
        format!("'{text}' is not an address with a port, like 127.0.0.1:5433, [::1]:5433 or 0.0.0.0:5433")
    })
}

/// What users see in place of the listen address.
pub(super) fn default_public_host(listen: SocketAddr) -> String {
    match listen.ip() {
        ip if ip.is_unspecified() => rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned(),
        ip => ip.to_string(),
    }
}

pub(super) fn public_host(text: &str) -> Result<String, String> {
    let name = text
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b".-:".contains(&byte));
    if text.is_empty() || text.len() > 253 || !name {
        return Err(format!("'{text}' is not a host name"));
    }
    Ok(text.to_owned())
}

pub(super) fn log_filter(text: &str) -> Result<String, String> {
    tracing_subscriber::EnvFilter::try_new(text)
        .map(|_| text.to_owned())
        .map_err(|error| format!("'{text}' is not a log filter: {error}"))
}

/// Separated by commas.
pub(super) fn networks(text: &str) -> Result<Vec<Network>, String> {
    let networks: Vec<Network> = text
        .split(',')
        .map(|one| {
            let one = one.trim();
            one.parse().map_err(|error| format!("'{one}': {error}"))
        })
        .collect::<Result<_, _>>()?;
    if networks.len() > NETWORKS_MAX {
        return Err(format!("has more than {NETWORKS_MAX} networks"));
    }
    Ok(networks)
}

pub(super) fn origins(text: &str) -> Result<Origins, String> {
    if text.trim() == "*" {
        return Ok(Origins::Any);
    }
    let origin = |one: &str| {
        let one = one.trim();
        let host = one
            .strip_prefix("https://")
            .or_else(|| one.strip_prefix("http://"));
        // As browsers write it; with a slash at the end it would match nothing.
        let is_host = |host: &str| {
            let plain =
                |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-:[]".contains(c);
            !host.is_empty() && host.chars().all(plain)
        };
        host.filter(|host| is_host(host))
            .map(|_| one.to_owned())
            .ok_or_else(|| format!("'{one}' is no origin, like https://app.example"))
    };
    let all: Vec<_> = text.split(',').map(origin).collect::<Result<_, _>>()?;
    if all.len() > ORIGINS_MAX {
        return Err(format!("has more than {ORIGINS_MAX} origins"));
    }
    Ok(Origins::These(all))
}

pub(super) fn boolean(text: &str) -> Result<bool, String> {
    text.parse()
        .map_err(|_| format!("'{text}' is neither true nor false"))
}

pub(super) fn count(text: &str, min: u32, max: u32) -> Result<u32, String> {
    text.parse()
        .ok()
        .filter(|count| (min..=max).contains(count))
        .ok_or_else(|| format!("'{text}' is not a number from {min} to {max}"))
}

/// As PostgreSQL writes memory: a whole number and a unit, of which each is 1,024 of the one before.
pub(super) fn size(text: &str, min: u64, max: u64) -> Result<u64, String> {
    const UNITS: [(&str, u32); 4] = [("kB", 10), ("MB", 20), ("GB", 30), ("TB", 40)];
    let bytes = UNITS.into_iter().find_map(|(unit, bits)| {
        let number: u64 = text.strip_suffix(unit)?.trim_end().parse().ok()?;
        number.checked_mul(1 << bits)
    });
    let bytes = bytes.ok_or_else(|| format!("'{text}' is not a size like 512MB or 2GB"))?;
    if bytes < min {
        return Err(format!("'{text}' is less than {}MB", min >> 20));
    }
    if bytes > max {
        return Err(format!("'{text}' is more than {}TB", max >> 40));
    }
    Ok(bytes)
}

pub(super) fn time_between(text: &str, min: Duration, max: Duration) -> Result<Duration, String> {
    let time = time(text, max)?;
    if time < min {
        let min = humantime::format_duration(min);
        return Err(format!("'{text}' is less than {min}"));
    }
    Ok(time)
}

pub(super) fn time(text: &str, max: Duration) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| format!("'{text}' is not a time like 30s, 15m, 24h or 7d"))
        .and_then(|time| {
            if time <= max {
                Ok(time)
            } else {
                Err(format!(
                    "'{text}' is more than {}",
                    humantime::format_duration(max)
                ))
            }
        })
}
