//! How a lane begins: both nodes introduce themselves, and prove that they know the secret.
//!
//! Each end of the stream has a name that only it can have there. The proof is an HMAC over both,
//! so it says: who has this name knows the secret. Over libp2p the names are the nodes' keys, which
//! noise has authenticated by then: the proof is of no use to anyone else, on this connection or on
//! another.

use std::fmt;

use actadb_membership::record::{Hello, Record};
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

/// What every node of a cluster knows and nobody else.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Shortest secret, in bytes.
pub const SECRET_MIN_BYTES: usize = 16;

impl Secret {
    /// A secret; blanks around it do not count. `None` when it is too short to be one.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.trim_ascii();
        (bytes.len() >= SECRET_MIN_BYTES).then(|| Self(bytes.to_vec()))
    }

    fn mac(&self, from: &[u8], to: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("any length is a key");
        for part in [b"actadb peer 1".as_slice(), from, to] {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        mac
    }

    /// The proof of the node with key `from` towards the one with key `to`.
    #[must_use]
    pub fn proof(&self, from: &[u8], to: &[u8]) -> Vec<u8> {
        self.mac(from, to).finalize().into_bytes().to_vec()
    }

    /// Whether a proof is good; takes as long for a bad one.
    #[must_use]
    pub fn proves(&self, proof: &[u8], from: &[u8], to: &[u8]) -> bool {
        self.mac(from, to).verify_slice(proof).is_ok()
    }
}

/// The first frame of a lane, and the answer to it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Introduction {
    /// That the sender knows the secret.
    pub proof: Vec<u8>,
    /// Who it is.
    pub hello: Hello,
    /// What was fixed when the cluster was formed, if the sender knows.
    pub record: Option<Record>,
}

/// What the other side says to an introduction.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// Come in.
    Welcome(Introduction),
    /// Stay out, and why.
    Refused(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_good_for_one_pair_of_keys_in_one_direction() {
        let secret = Secret::new(b"  sixteen bytes or more\n").expect("long enough");
        let proof = secret.proof(b"a", b"b");
        assert!(secret.proves(&proof, b"a", b"b"));
        assert!(!secret.proves(&proof, b"b", b"a"));
        assert!(!secret.proves(&proof, b"ab", b""));
        assert!(!secret.proves(&proof[1..], b"a", b"b"));
        let other = Secret::new(b"sixteen bytes or mora").expect("long enough");
        assert!(!other.proves(&proof, b"a", b"b"));
        assert!(Secret::new(b"short\n").is_none());
        assert_eq!(format!("{secret:?}"), "Secret(..)");
    }
}
