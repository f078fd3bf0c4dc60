//! Networks: which addresses a tenant's clients may come from.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// A network in CIDR notation, such as `192.0.2.0/24` or `2001:db8::/32`; a single address is one, too.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash, PartialOrd, Ord)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// Why a text is no network, in words for the person who wrote it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NetworkError {
    /// No address, or no prefix that fits it.
    #[error("a network is an address and a length, such as 192.0.2.0/24 or 2001:db8::/32")]
    Form,
    /// `192.0.2.1/24`: one address was meant, or 256?
    #[error("a network has no bits behind its length: 192.0.2.0/24, or 192.0.2.1 for one address")]
    HostBits,
}

/// An address, as far as it tells one customer from another: of IPv6 a whole /64 is one, since that is what
/// one customer of a provider has; IPv4 in IPv6 is the address it stands for.
#[must_use]
pub fn origin(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & mask(64)).into(),
    }
}

/// The address as a number that has its first bit on the left, whatever the family.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn mask(prefix: u8) -> u128 {
    match prefix {
        0 => 0,
        prefix => u128::MAX << (128 - u32::from(prefix.min(128))),
    }
}

fn length(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

impl Network {
    /// Whether an address lies in it. One of IPv4 that came over a socket of IPv6 counts as what it
    /// is.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4()
            && bits(address) & mask(self.prefix) == bits(self.address)
    }

    /// What lies in both: networks overlap only if one lies in the other.
    fn intersect(self, other: Self) -> Option<Self> {
        let (wide, narrow) = if self.prefix <= other.prefix {
            (self, other)
        } else {
            (other, self)
        };
        wide.contains(narrow.address).then_some(narrow)
    }
}

/// What lies in both lists.
pub(crate) fn intersect(one: &[Network], other: &[Network]) -> Vec<Network> {
    let mut both: Vec<Network> = one
        .iter()
        .flat_map(|one| other.iter().filter_map(|other| one.intersect(*other)))
        .collect();
    both.sort_unstable();
    both.dedup();
    both
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (address, prefix) = match text.split_once('/') {
            None => (text, None),
            Some((address, prefix)) => (address, Some(prefix)),
        };
        let address = if address.contains(':') {
            let address: Ipv6Addr = address.parse().map_err(|_| NetworkError::Form)?;
            // Mapped ones would never match: see `contains`.
            match address.to_ipv4_mapped() {
                Some(_) => return Err(NetworkError::Form),
                None => IpAddr::V6(address),
            }
        } else {
            let address: Ipv4Addr = address.parse().map_err(|_| NetworkError::Form)?;
            IpAddr::V4(address)
        };
        let prefix = match prefix {
            None => length(address),
            Some(text) if text.len() <= 3 && text.bytes().all(|byte| byte.is_ascii_digit()) => {
                text.parse().map_err(|_| NetworkError::Form)?
            }
            Some(_) => return Err(NetworkError::Form),
        };
        if prefix > length(address) {
            return Err(NetworkError::Form);
        }
        if bits(address) & !mask(prefix) != 0 {
            return Err(NetworkError::HostBits);
        }
        Ok(Self { address, prefix })
    }
}

/// As PostgreSQL's type `cidr` writes it.
impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_64_of_ipv6_is_one_origin() {
        let origin = |text: &str| origin(text.parse().unwrap());
        assert_eq!(origin("2001:db8:1:2:3::4"), origin("2001:db8:1:2::1"));
        assert_ne!(origin("2001:db8:1:2::1"), origin("2001:db8:1:3::1"));
        assert_eq!(origin("::ffff:192.0.2.1"), origin("192.0.2.1"));
    }

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_lies_in_a_network_or_not() {
        for (text, inside, outside) in [
            ("192.0.2.0/24", "192.0.2.255", "192.0.3.0"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
            ("0.0.0.0/0", "203.0.113.9", "2001:db8::1"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::1"),
            ("::/0", "::1", "127.0.0.1"),
            ("192.0.2.0/24", "::ffff:192.0.2.1", "::ffff:192.0.3.1"),
            ("::1", "::1", "::2"),
        ] {
            assert!(
                network(text).contains(inside.parse().unwrap()),
                "{text} {inside}"
            );
            assert!(
                !network(text).contains(outside.parse().unwrap()),
                "{text} {outside}"
            );
        }
    }

    #[test]
    fn texts_are_read_and_nonsense_is_not() {
        assert_eq!(network("10.0.0.0/8").to_string(), "10.0.0.0/8");
        assert_eq!(network("2001:DB8::").to_string(), "2001:db8::/128");
        for text in ["10.0.0.1/8", "2001:db8::1/64", "128.0.0.0/0"] {
            assert_eq!(
                text.parse::<Network>(),
                Err(NetworkError::HostBits),
                "{text}"
            );
        }
        for text in [
            "",
            "/",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "10.0.0.0/+8",
            "10.0.0/8",
            "x",
            "::/129",
            "10.0.0.0/8/8",
            "::ffff:10.0.0.0/104",
            "10.0.0.0/0008",
            " 10.0.0.0/8",
            "localhost",
        ] {
            assert_eq!(text.parse::<Network>(), Err(NetworkError::Form), "{text}");
        }
    }

    #[test]
    fn what_lies_in_both_lists() {
        let list = |texts: &[&str]| texts.iter().map(|text| network(text)).collect::<Vec<_>>();
        let one = list(&["10.0.0.0/8", "192.0.2.0/24", "2001:db8::/32"]);
        let other = list(&["10.1.0.0/16", "192.0.0.0/16", "10.1.2.3"]);
        let both = list(&["10.1.0.0/16", "10.1.2.3", "192.0.2.0/24"]);
        assert_eq!(intersect(&one, &other), both);
        assert_eq!(intersect(&other, &one), both);
        assert_eq!(intersect(&one, &[]), []);
        assert_eq!(
            intersect(&list(&["10.0.0.0/8"]), &list(&["11.0.0.0/8"])),
            []
        );
    }
}
