//! The format `pgstow/1`: the manifest of a run and the names of its objects in a store.

pub mod layout;
pub mod manifest;
