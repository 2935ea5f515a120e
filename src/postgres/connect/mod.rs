//! From a connection string to a session: parameters, password file, TLS, poolers, stall detection.

pub(crate) mod conninfo;
pub(crate) mod passfile;
pub(crate) mod pooler;
pub(crate) mod session;
pub(crate) mod stall;
pub(crate) mod tls;
