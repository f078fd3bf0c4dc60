//! The hash of a certificate that channel binding uses (RFC 5929, section 4).

use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

/// `tls-server-end-point` of a certificate (DER): hashed with the hash of its own signature, or
/// with SHA-256 where that is MD5 or SHA-1. `None` when the signature has no such hash (Ed25519)
/// or one we do not know, or the bytes are no certificate: such connections cannot be bound.
pub fn end_point_hash(certificate: &[u8]) -> Option<Vec<u8>> {
    Some(match signature_hash(certificate)? {
        Hash::Sha224 => Sha224::digest(certificate).to_vec(),
        Hash::Sha256 => Sha256::digest(certificate).to_vec(),
        Hash::Sha384 => Sha384::digest(certificate).to_vec(),
        Hash::Sha512 => Sha512::digest(certificate).to_vec(),
    })
}

#[derive(Clone, Copy)]
enum Hash {
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

const SEQUENCE: u8 = 0x30;
const OBJECT_ID: u8 = 0x06;

/// `Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm, signatureValue }`.
fn signature_hash(certificate: &[u8]) -> Option<Hash> {
    let (certificate, _) = element(SEQUENCE, certificate)?;
    let (_to_be_signed, rest) = element(SEQUENCE, certificate)?;
    let (algorithm, _) = element(SEQUENCE, rest)?;
    let (id, parameters) = element(OBJECT_ID, algorithm)?;
    match id {
        // 1.2.840.113549.1.1.…: RSA, PKCS #1 v1.5
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, last] => match last {
            4 | 5 | 11 => Some(Hash::Sha256), // MD5, SHA-1, SHA-256
            12 => Some(Hash::Sha384),
            13 => Some(Hash::Sha512),
            14 => Some(Hash::Sha224),
            10 => pss_hash(parameters),
            _ => None,
        },
        // 1.2.840.10045.4.1: ECDSA with SHA-1
        [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01] => Some(Hash::Sha256),
        // 1.2.840.10045.4.3.…: ECDSA with SHA-2
        [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, last] => match last {
            1 => Some(Hash::Sha224),
            2 => Some(Hash::Sha256),
            3 => Some(Hash::Sha384),
            4 => Some(Hash::Sha512),
            _ => None,
        },
        _ => None,
    }
}

/// `RSASSA-PSS-params ::= SEQUENCE { hashAlgorithm [0] AlgorithmIdentifier DEFAULT sha1, … }`.
fn pss_hash(parameters: &[u8]) -> Option<Hash> {
    const FIRST_FIELD: u8 = 0xa0;
    let (parameters, _) = element(SEQUENCE, parameters)?;
    let Some((algorithm, _)) = element(FIRST_FIELD, parameters) else {
        return Some(Hash::Sha256);
    };
    let (algorithm, _) = element(SEQUENCE, algorithm)?;
    let (id, _) = element(OBJECT_ID, algorithm)?;
    match id {
        // 1.3.14.3.2.26: SHA-1
        [0x2b, 0x0e, 0x03, 0x02, 0x1a] => Some(Hash::Sha256),
        // 2.16.840.1.101.3.4.2.…: SHA-2
        [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, last] => match last {
            1 => Some(Hash::Sha256),
            2 => Some(Hash::Sha384),
            3 => Some(Hash::Sha512),
            4 => Some(Hash::Sha224),
            _ => None,
        },
        _ => None,
    }
}

/// The content of the element at the front, if it has this tag, and what follows it. DER allows
/// one form of each length; certificates are far below 16 MiB.
fn element(tag: u8, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = bytes.strip_prefix(&[tag])?;
    let (length, rest) = match rest {
        [short @ 0..=0x7f, rest @ ..] => (usize::from(*short), rest),
        [0x81, a, rest @ ..] => (usize::from(*a), rest),
        [0x82, a, b, rest @ ..] => (usize::from(u16::from_be_bytes([*a, *b])), rest),
        [0x83, a, b, c, rest @ ..] => (
            usize::try_from(u32::from_be_bytes([0, *a, *b, *c])).ok()?,
            rest,
        ),
        _ => return None,
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digit = |c: u8| char::from(c).to_digit(16).unwrap() as u8;
        let pairs = hex.as_bytes().chunks(2);
        pairs
            .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
            .collect()
    }

    /// An element with this content; long enough for every form of a length.
    fn der(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len()).unwrap().to_be_bytes();
        let length = match content.len() {
            0..=0x7f => vec![length[3]],
            0x80..=0xff => vec![0x81, length[3]],
            0x100..=0xffff => vec![0x82, length[2], length[3]],
            _ => vec![0x83, length[1], length[2], length[3]],
        };
        [&[tag][..], &length, content].concat()
    }

    fn certificate(algorithm: &[u8], signed_bytes: usize) -> Vec<u8> {
        let signed = der(SEQUENCE, &vec![0; signed_bytes]);
        let signature = der(0x03, &[0; 70]);
        der(SEQUENCE, &[&signed, algorithm, &signature].concat())
    }

    /// `signatureAlgorithm` of certificates that OpenSSL 3 made.
    #[test]
    fn the_hash_is_that_of_the_signature() {
        let sha224 = |bytes: &[u8]| Some(Sha224::digest(bytes).to_vec());
        let sha256 = |bytes: &[u8]| Some(Sha256::digest(bytes).to_vec());
        let sha384 = |bytes: &[u8]| Some(Sha384::digest(bytes).to_vec());
        let sha512 = |bytes: &[u8]| Some(Sha512::digest(bytes).to_vec());
        let none = |_: &[u8]| None;
        type Expected<'a> = &'a dyn Fn(&[u8]) -> Option<Vec<u8>>;
        let cases: [(&str, Expected<'_>, &str); 11] = [
            ("ECDSA, SHA-1", &sha256, "300906072a8648ce3d0401"),
            ("ECDSA, SHA-224", &sha224, "300a06082a8648ce3d040301"),
            ("ECDSA, SHA-512", &sha512, "300a06082a8648ce3d040304"),
            ("RSA, MD5", &sha256, "300d06092a864886f70d0101040500"),
            ("RSA, SHA-1", &sha256, "300d06092a864886f70d0101050500"),
            ("RSA, SHA-384", &sha384, "300d06092a864886f70d01010c0500"),
            (
                "RSA-PSS, SHA-1",
                &sha256,
                "301206092a864886f70d01010a3005a20302016a",
            ),
            (
                "RSA-PSS, SHA-256",
                &sha256,
                "304106092a864886f70d01010a3034a00f300d06096086480165030402010500a11c301a06092a864886f70d010108300d06096086480165030402010500a20302015e",
            ),
            (
                "RSA-PSS, SHA-512",
                &sha512,
                "304106092a864886f70d01010a3034a00f300d06096086480165030402030500a11c301a06092a864886f70d010108300d06096086480165030402030500a203020148",
            ),
            ("ECDSA, SHA3-256", &none, "300b060960864801650304030a"),
            (
                "RSA-PSS without parameters",
                &sha256,
                "300d06092a864886f70d01010a3000",
            ),
        ];
        for (name, expected, algorithm) in cases {
            for signed_bytes in [0, 0x7f, 0x80, 0xff, 0x100, 0x1_0000] {
                let certificate = certificate(&bytes(algorithm), signed_bytes);
                assert_eq!(
                    end_point_hash(&certificate),
                    expected(&certificate),
                    "{name}"
                );
            }
        }
    }

    #[test]
    fn whole_certificates_are_read() {
        for (algorithm, size) in [
            (&rcgen::PKCS_ECDSA_P256_SHA256, Some(32)),
            (&rcgen::PKCS_ECDSA_P384_SHA384, Some(48)),
            (&rcgen::PKCS_ED25519, None),
        ] {
            let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
            let names = vec!["localhost".to_owned(); 20];
            let parameters = rcgen::CertificateParams::new(names).unwrap();
            let certificate = parameters.self_signed(&key).unwrap();
            let der = certificate.der();
            assert_eq!(end_point_hash(der).map(|hash| hash.len()), size);
            // Cut anywhere, it is none.
            for end in 0..der.len() {
                let _ = end_point_hash(&der[..end]);
            }
            assert_eq!(end_point_hash(&der[..der.len() - 1]), None);
        }
    }
}
