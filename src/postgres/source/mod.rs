//! The database that is saved: what is in it, its snapshot, its rows. Nothing here writes.

pub(crate) mod absent;
pub(crate) mod additions;
pub(crate) mod catalogue;
pub(crate) mod changed;
pub(crate) mod damage;
pub(crate) mod dependents;
pub(crate) mod detect;
pub(crate) mod health;
pub(crate) mod large_objects;
pub(crate) mod leader;
pub(crate) mod letters;
pub(crate) mod members;
pub(crate) mod output_names;
pub(crate) mod rows;
pub(crate) mod server;
pub(crate) mod timeline;
pub(crate) mod vanished;
pub(crate) mod waiters;
pub(crate) mod worker;
