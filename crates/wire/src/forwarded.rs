//! What a load balancer says before the first byte of a client: for whom it speaks.
//!
//! Owns: the header of the PROXY protocol, version 2, as `proxy-protocol.txt` of HAProxy describes it.
//! Does not own: who is believed. Version 1, a line of text, is not read: every program that sends it can
//! send version 2.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Longest header. Addresses take 52 bytes; the rest are extensions that are skipped, of which a
/// client's certificate is the longest.
pub const HEADER_BYTES_MAX: usize = 4096;

/// Nothing else begins like that.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length of the rest.
const FIXED: usize = SIGNATURE.len() + 4;

/// For whom a connection speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Source {
    /// For a client at this address.
    Client(SocketAddr),
    /// For the load balancer itself, as when it looks whether we are there; or for somebody who has no
    /// address.
    Itself,
}

/// Why it is not known who speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ForwardedError {
    /// It begins in another way.
    #[error("no PROXY protocol header (version 2) came from an address that has to send one")]
    Missing,
    /// Another version, an unknown command or kind of address, or one that is cut off.
    #[error("invalid PROXY protocol header")]
    Invalid,
    /// Longer than [`HEADER_BYTES_MAX`].
    #[error("PROXY protocol header is longer than {HEADER_BYTES_MAX} bytes")]
    TooLong,
}

/// Reads a header at the beginning of `bytes`: its length and what it says, or `None` when there is
/// more to come. At most [`HEADER_BYTES_MAX`] bytes are asked for, and wrong ones are known at the
/// first that is.
///
/// # Errors
///
/// [`ForwardedError`].
pub fn split(bytes: &[u8]) -> Result<Option<(usize, Source)>, ForwardedError> {
    let begun = bytes.len().min(SIGNATURE.len());
    if bytes[..begun] != SIGNATURE[..begun] {
        return Err(ForwardedError::Missing);
    }
    let Some((fixed, rest)) = bytes.split_at_checked(FIXED) else {
        return Ok(None);
    };
    let [command, family, high, low] = fixed[SIGNATURE.len()..] else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if FIXED + length > HEADER_BYTES_MAX {
        return Err(ForwardedError::TooLong);
    }
    let Some(body) = rest.get(..length) else {
        return Ok(None);
    };
    let source = match command {
        // LOCAL: whatever addresses it has are not to be looked at.
        0x20 => Source::Itself,
        0x21 => source(family, body).ok_or(ForwardedError::Invalid)?,
        _ => return Err(ForwardedError::Invalid),
    };
    Ok(Some((FIXED + length, source)))
}

/// Where the client is. `None` for what does not exist, and for datagrams.
fn source(family: u8, body: &[u8]) -> Option<Source> {
    Some(match family {
        // Unspecified.
        0x00 => Source::Itself,
        // TCP over IPv4: from, to, port of from, port of to.
        0x11 => {
            let (addresses, ports) = body.get(..12)?.split_at(8);
            let from: [u8; 4] = addresses.first_chunk().copied()?;
            client(Ipv4Addr::from(from).into(), ports)?
        }
        // TCP over IPv6.
        0x21 => {
            let (addresses, ports) = body.get(..36)?.split_at(32);
            let from: [u8; 16] = addresses.first_chunk().copied()?;
            client(Ipv6Addr::from(from).to_canonical(), ports)?
        }
        // A unix socket, with two paths of 108 bytes.
        0x31 => body.get(..216).map(|_| Source::Itself)?,
        _ => return None,
    })
}

fn client(address: IpAddr, ports: &[u8]) -> Option<Source> {
    let port = u16::from_be_bytes(ports.first_chunk().copied()?);
    Some(Source::Client(SocketAddr::new(address, port)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, body].concat()
    }

    fn v4() -> Vec<u8> {
        [
            &[203, 0, 113, 9][..],
            &[10, 0, 0, 1],
            &[0x30, 0x39, 0x15, 0x38],
        ]
        .concat()
    }

    fn v6(from: &str) -> Vec<u8> {
        let from: Ipv6Addr = from.parse().unwrap();
        [&from.octets()[..], &[0; 16], &[0x30, 0x39, 0x15, 0x38]].concat()
    }

    #[test]
    fn each_kind_of_header_and_each_mistake() {
        let client = |text: &str| Ok(Source::Client(text.parse().unwrap()));
        let check = |command, family, body: &[u8], expected: Result<Source, ForwardedError>| {
            let bytes = header(command, family, body);
            let expected = expected.map(|source| Some((bytes.len(), source)));
            assert_eq!(split(&bytes), expected, "{command:#x} {family:#x}");
        };
        check(0x21, 0x11, &v4(), client("203.0.113.9:12345"));
        check(
            0x21,
            0x21,
            &v6("2001:db8::7"),
            client("[2001:db8::7]:12345"),
        );
        check(
            0x21,
            0x21,
            &v6("::ffff:203.0.113.9"),
            client("203.0.113.9:12345"),
        );
        // Extensions are skipped, whatever they are.
        let extended = [v4(), vec![4, 0, 1, 0, 0xff, 0xff, 0xff]].concat();
        check(0x21, 0x11, &extended, client("203.0.113.9:12345"));
        check(0x21, 0x00, &[], Ok(Source::Itself));
        check(0x21, 0x31, &[0; 216], Ok(Source::Itself));
        check(0x20, 0x00, &[], Ok(Source::Itself));
        check(0x20, 0x11, &v4(), Ok(Source::Itself));
        check(0x20, 0xee, &[1, 2, 3], Ok(Source::Itself));
        let invalid = Err(ForwardedError::Invalid);
        check(0x21, 0x11, &v4()[..11], invalid);
        check(0x21, 0x21, &v6("::1")[..35], invalid);
        check(0x21, 0x31, &[0; 215], invalid);
        // Datagrams; families, commands and versions that do not exist.
        for (command, family) in [
            (0x21, 0x12),
            (0x21, 0x41),
            (0x22, 0x11),
            (0x11, 0x11),
            (0x31, 0x11),
        ] {
            check(command, family, &v4(), invalid);
        }
        let longest = [v4(), vec![0; HEADER_BYTES_MAX - FIXED - 12]].concat();
        check(0x21, 0x11, &longest, client("203.0.113.9:12345"));
        check(
            0x21,
            0x11,
            &[longest, vec![0]].concat(),
            Err(ForwardedError::TooLong),
        );
    }

    #[test]
    fn what_begins_in_another_way_is_known_at_its_first_byte() {
        for other in [
            &b"\0"[..],
            b"\r\n\r\n\0\r\nQUIT\r",
            b"PROXY TCP4",
            b"\x16\x03\x01",
        ] {
            assert_eq!(split(other), Err(ForwardedError::Missing));
        }
        // Too long is known before it has come.
        let head = &header(0x21, 0x11, &[0; 5000])[..FIXED];
        assert_eq!(split(head), Err(ForwardedError::TooLong));
    }

    proptest! {
        /// In however many pieces it comes, and whatever follows it.
        #[test]
        fn a_header_is_read_when_it_is_there_and_not_before(
            command in prop_oneof![Just(0x20u8), Just(0x21), any::<u8>()],
            family in prop_oneof![Just(0x11u8), Just(0x21), Just(0), any::<u8>()],
            body in proptest::collection::vec(any::<u8>(), 0..300),
            behind in proptest::collection::vec(any::<u8>(), 0..20),
        ) {
            let whole = header(command, family, &body);
            for end in 0..whole.len() {
                prop_assert_eq!(split(&whole[..end]), Ok(None));
            }
            let result = split(&whole);
            prop_assert!(matches!(result, Ok(Some(_)) | Err(ForwardedError::Invalid)));
            prop_assert_eq!(split(&[whole, behind].concat()), result);
        }

        #[test]
        fn any_bytes_give_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..64), signed in any::<bool>()) {
            let mut all = if signed { SIGNATURE.to_vec() } else { Vec::new() };
            all.extend(bytes);
            if let Ok(Some((size, _))) = split(&all) {
                prop_assert!(size >= FIXED && size <= all.len());
            }
        }
    }
}
