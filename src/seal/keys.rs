//! The keys that a run is read with: secret keys that open it, public keys whose signature it must have.

use crate::seal::decrypt::Identities;
use crate::seal::sign::Trust;

/// Both kinds of keys. None are needed for a run that is neither encrypted nor must be signed.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    /// The secret keys of an encrypted run.
    pub identities: Identities,
    /// The public keys that are trusted to sign runs.
    pub trust: Trust,
}
