//! Public keys as cosign and openssl write them (PEM, RFC 7468, of a SubjectPublicKeyInfo, RFC 5280), and signatures by
//! them: SHA-256 with ECDSA or RSA PKCS #1 v1.5, and Ed25519.

use ring::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;

const SEQUENCE: u8 = 0x30;
const OBJECT_ID: u8 = 0x06;
const BIT_STRING: u8 = 0x03;

/// Object identifiers in DER, without tag and length.
const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];

/// A key to verify with.
pub(super) struct PublicKey {
    algorithm: &'static dyn VerificationAlgorithm,
    bytes: Vec<u8>,
}

impl PublicKey {
    /// Reads the first `PUBLIC KEY` of a PEM text.
    pub(super) fn from_pem(text: &[u8]) -> Result<Self, &'static str> {
        let der = SubjectPublicKeyInfoDer::from_pem_slice(text).map_err(|_| "it has no PEM `PUBLIC KEY`")?;
        Self::from_der(&der).ok_or("its public key is none of ECDSA P-256 and P-384, RSA and Ed25519")
    }

    fn from_der(der: &[u8]) -> Option<Self> {
        let (info, after) = element(der, SEQUENCE)?;
        let (algorithm, info) = element(info, SEQUENCE)?;
        let (bits, rest) = element(info, BIT_STRING)?;
        // A bit string tells first how many bits of its last byte are unused.
        let (&unused, bytes) = bits.split_first()?;
        if unused != 0 || !rest.is_empty() || !after.is_empty() {
            return None;
        }
        let (kind, parameters) = element(algorithm, OBJECT_ID)?;
        let algorithm: &'static dyn VerificationAlgorithm = match kind {
            EC_PUBLIC_KEY => match element(parameters, OBJECT_ID)?.0 {
                P256 => &signature::ECDSA_P256_SHA256_ASN1,
                P384 => &signature::ECDSA_P384_SHA256_ASN1,
                _ => return None,
            },
            RSA => &signature::RSA_PKCS1_2048_8192_SHA256,
            ED25519 => &signature::ED25519,
            _ => return None,
        };
        Some(Self { algorithm, bytes: bytes.to_vec() })
    }

    /// Whether this key's owner signed the message.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(self.algorithm, &self.bytes).verify(message, signature).is_ok()
    }
}

/// The content of the DER element at the start, if it has this tag, and what follows it.
fn element(input: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = input.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        // Keys are far below the 65535 bytes that two bytes of length can tell.
        0x81 | 0x82 => {
            let (length, rest) = rest.split_at_checked(usize::from(first & 0x0f))?;
            (length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    (found == tag).then(|| rest.split_at_checked(length))?
}

#[cfg(test)]
pub(super) mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    use super::*;

    const MESSAGE: &[u8] = b"a signed text";

    /// Keys and signatures that openssl made.
    pub(in crate::image::signature) const KEYS: [(&str, &str); 4] = [
        (
            "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEL2yyzGaK58JiCLvWU+aficApe0qE
ikcAfzGxKeNKw8uW9hTgK1DWvvf+2+MAGMOPvJye8EEtC0Kwh2ZmkPh2Mw==
-----END PUBLIC KEY-----
",
            "MEUCIQDKXny9iIWazDzvKUgz+jBRk3cS3AOVUv4uRXdCzBd//wIgPwL3o3fTHSzJZWUJiVk3VLy0AjoeGXDm70PmqxJhhB8=",
        ),
        (
            "-----BEGIN PUBLIC KEY-----
MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEHNDuxbsOp8X8KsgVqjTPTT4JWFGwxLY9
p0110JWo2a4Juu1khkFGNq8dlu5srg72wbAxDu2OQ33IJyYgvpF5Zz0xfKzKxIht
wPVY+5LNPls5fnH0nNW14MEPCHysuljc
-----END PUBLIC KEY-----
",
            "MGUCMQCNXfDkHXwXsPO4udvQFCxyBw6kJyHUv30HzWKlsab6draMFq1YPaGbvOwNbk/1eSICMB6LnHjx3t6fIToUMa3UT+qOEgGVTNVU\
             QgJDhf6uIZDp4bDtw5uAM4A2QSdDIaX21g==",
        ),
        (
            "-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAwp6KGWUIbXNsLbfs+tLL
GP1thfSihph2zyF20XQJGxZWKeCsQ/avrIC9R9q8qayPMRGe1JzQ4/cBzZEGiALx
XcYHZZHS55MsZk3XtZ5iX7t91I8mYQAuWoo0W3c5XNQj1IQztsXC+UdL3DY1jTz3
zYM5Conqldjnb/Gd/iRnohc4z7a4YM+NHru1u0KToMicjbqDNyPqTaeb/ftV3jZw
o138ZTijzZHxhNDyBHCpPbFOUYTiTgCGarq6CcWKLA/I7iPkb3MyfR4W+oj/QLX5
cAK1ngXdocjEcz3QQnfJ1BFpx+BasKaImwjRW1DUybQR+qq1dr2Xdy55/bj6QnSD
eQIDAQAB
-----END PUBLIC KEY-----
",
            "KIK7J4mi511l0qG6Py24qxYGPJPOzbM8bt8ry/uzlJL/VfZqKzmZK4KnQVffPn8eI/XKc1rwh5CZ4bQc70NNAEo/1hCPAHeQGXTCiRmC\
             ZwSAk/WDMagrtPBE8saO+VlHRqV134P9JJJiQdc/Y+nWLmvgPYJsI8dBcfL1mR0OSoqaY4nr/Zp8iTX/55KMnSGiVyAMnG9cC635OWXP\
             dfgXBTEIr1Lj7ARcvDrhXOwxVfJRezshgCV0KPOl3PW4nM72neVgTjsDBEbUCIycQIZJUUQN3PVKAA1HUjhF3375LwtoUSOIVHu7OGSG\
             huWdCyxz7vka2SzA9rOS0SugLIq+1g==",
        ),
        (
            "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAy5H7ZVDHy+akfkSXRG011OJS6l7tjsJAaCEz1R0/h6U=
-----END PUBLIC KEY-----
",
            "VMc/qLuyqXu6YGNWbJuGu2m5NQ5WEKjZbMNZnlrY4crq2NzKxHF6pHAqzawFfD0p+xD+GQDnSb79P+MG28HgDg==",
        ),
    ];

    #[test]
    fn openssls_signatures_are_verified_by_their_own_key_only() {
        for (n, (pem, signature)) in KEYS.iter().enumerate() {
            let signature = STANDARD.decode(signature).unwrap();
            for (m, (other, _)) in KEYS.iter().enumerate() {
                let key = PublicKey::from_pem(other.as_bytes()).unwrap();
                assert_eq!(key.verifies(MESSAGE, &signature), n == m, "{n} {m}");
            }
            let key = PublicKey::from_pem(pem.as_bytes()).unwrap();
            assert!(!key.verifies(b"another text", &signature) && !key.verifies(MESSAGE, b""), "{n}");
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        assert!(PublicKey::from_pem(b"nothing").is_err());
        assert!(PublicKey::from_pem(KEYS[0].0.replace("PUBLIC", "PRIVATE").as_bytes()).is_err());
        // secp256k1, which nobody signs images with.
        let other = KEYS[0].0.replace("IKoZIzj0DAQcDQgAE", "AUrgQQACgNCAARx");
        assert!(PublicKey::from_pem(other.as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Some(key) = PublicKey::from_der(&bytes) {
                prop_assert!(!key.verifies(MESSAGE, &bytes));
            }
        }
    }
}
