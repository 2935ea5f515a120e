//! An object of a run, in both directions: its bytes on the way to the store and back, and the index of its pieces.
//!
//! # An object's bytes, from the store to COPY
//!
//! 1. A [`stored_run::StoredRun`] knows the store, the manifest and the keys; [`read`] requests an object's volumes one
//!    after the other and puts them together. A [`read::Watch`] hashes them on the way, and [`read::settle`] compares
//!    with the manifest at the end.
//! 2. [`crate::seal::decode`] decrypts and decompresses, on a thread that may block ([`read::Plain`]).
//! 3. `restore::flow` finds the `COPY` statement of an SQL file ([`crate::archive::sql_reader`]), fingerprints the rows
//!    behind it and passes them on; rows of large tables come piece by piece, by their [`index`].
//! 4. `restore::rows` takes a session for each table or piece, and commits when the fingerprint is the manifest's;
//!    [`crate::postgres::target`] writes the rows into `COPY ... FROM STDIN`.

pub(crate) mod flow;
pub(crate) mod index;
pub(crate) mod key_columns;
pub(crate) mod lines;
pub(crate) mod read;
pub(crate) mod stored_run;
pub(crate) mod turns;
pub(crate) mod write;
