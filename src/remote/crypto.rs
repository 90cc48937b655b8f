//! What requests to S3 are signed with: SHA-256, and HMAC over it. From the crates that digests of versions come from, so that no
//! second library of cryptography is built for it.

use std::io;

use hmac::{Hmac, KeyInit as _, Mac as _};
use object_store::client::{CryptoProvider, DigestAlgorithm, DigestContext, HmacContext, Signer, SigningAlgorithm};
use object_store::{Error, Result};
use sha2::{Digest as _, Sha256};

/// SHA-256 alone: S3 signs with nothing else.
#[derive(Debug)]
pub(super) struct Sha256Signing;

fn unsupported(what: &str) -> Error {
    let source = io::Error::new(io::ErrorKind::Unsupported, what.to_owned());
    Error::NotSupported { source: Box::new(source) }
}

impl CryptoProvider for Sha256Signing {
    fn digest(&self, algorithm: DigestAlgorithm) -> Result<Box<dyn DigestContext>> {
        match algorithm {
            DigestAlgorithm::Sha256 => Ok(Box::new(Digesting { state: Sha256::new(), done: [0; 32] })),
            _ => Err(unsupported("a digest other than SHA-256")),
        }
    }

    fn hmac(&self, algorithm: DigestAlgorithm, secret: &[u8]) -> Result<Box<dyn HmacContext>> {
        let DigestAlgorithm::Sha256 = algorithm else { return Err(unsupported("an HMAC other than by SHA-256")) };
        let state = Hmac::<Sha256>::new_from_slice(secret).map_err(|_| unsupported("a secret of this length"))?;
        Ok(Box::new(Authenticating { state, done: [0; 32] }))
    }

    fn sign(&self, _: SigningAlgorithm, _: &[u8]) -> Result<Box<dyn Signer>> {
        Err(unsupported("a signature by a private key"))
    }
}

struct Digesting {
    state: Sha256,
    done: [u8; 32],
}

impl DigestContext for Digesting {
    fn update(&mut self, data: &[u8]) {
        self.state.update(data);
    }

    fn finish(&mut self) -> Result<&[u8]> {
        self.done = self.state.finalize_reset().into();
        Ok(&self.done)
    }
}

struct Authenticating {
    state: Hmac<Sha256>,
    done: [u8; 32],
}

impl HmacContext for Authenticating {
    fn update(&mut self, data: &[u8]) {
        self.state.update(data);
    }

    fn finish(&mut self) -> Result<&[u8]> {
        self.done = self.state.clone().finalize().into_bytes().into();
        Ok(&self.done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231, test case 2, and the digest of nothing.
    #[test]
    fn digests_and_codes_are_those_of_the_standard() {
        let mut code = Sha256Signing.hmac(DigestAlgorithm::Sha256, b"Jefe").expect("any length of a secret is taken");
        code.update(b"what do ya want ");
        code.update(b"for nothing?");
        let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(hex::encode(code.finish().expect("it is whole")), expected);
        let mut digest = Sha256Signing.digest(DigestAlgorithm::Sha256).expect("it is the one that there is");
        let nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(hex::encode(digest.finish().expect("it is whole")), nothing);
    }
}
