//! An object of a run, in both directions: its bytes on the way to the store and back, and the index of its pieces.
//!
//! # An object's bytes, from the store to COPY
//!
//! 1. [`read`] requests an object's volumes one after the other and puts them together; a [`read::Watch`] hashes them on
//!    the way, and [`read::settle`] compares with the manifest at the end.
//! 2. [`crate::seal::decode`] decrypts and decompresses, on a thread that may block ([`read::Plain`]).
//! 3. [`crate::archive::reader`] takes an archive's blocks apart, or [`crate::archive::sql_reader`] an SQL file's; rows of
//!    large tables come piece by piece, by their [`index`].
//! 4. [`crate::restore`] hands the rows to [`crate::postgres::target`], which writes them into `COPY ... FROM STDIN`.

pub(crate) mod flow;
pub(crate) mod index;
pub(crate) mod key_columns;
pub(crate) mod lines;
pub(crate) mod read;
pub(crate) mod stored_run;
pub(crate) mod turns;
pub(crate) mod write;
