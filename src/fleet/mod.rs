//! Many databases from one file: `pgstow.toml`, the plan of each database, and the night in which all plans are worked
//! through.
//!
//! 1. [`file`] reads the file: sections of settings, each key the name of a flag ([`keys`] says which there are);
//!    [`value`] reads one value, which may be a reference to an environment variable, a file or a command;
//!    and [`passwords`] are where those of a connection come from;
//! 2. [`roster`] finds the databases, those that a server has now included, and [`plan`] puts the settings of each together;
//! 3. [`share`] takes one task's share of them;
//! 4. [`night`] does what each plan says. Each step is a process of its own ([`child`]): this very program with the verb
//!    and the flags that a person would type, so that every database has credentials, memory and an end of its own.
//!
//! No state is kept but in the stores and, for the time of a backup, in advisory locks of the servers.

pub(crate) mod child;
pub(crate) mod file;
pub(crate) mod keys;
pub(crate) mod night;
pub(crate) mod passwords;
pub(crate) mod plan;
pub(crate) mod roster;
pub(crate) mod share;
pub(crate) mod value;
