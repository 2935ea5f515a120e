//! What the tests stand on: real PostgreSQL clusters, a real S3 server, judges, and a reader of archives that shares
//! nothing with the product. Nothing here is a test of the product itself; its own unit tests sit beside the code.

#![allow(dead_code, unreachable_pub, reason = "support is shared by test modules that each use a part of it")]
#![allow(
    clippy::map_err_ignore,
    clippy::doc_markdown,
    clippy::struct_field_names,
    clippy::missing_panics_doc,
    reason = "a test's support fails loudly, where a product must not"
)]

pub mod archive_walker;
pub mod bucket;
pub mod fixture;
pub mod judge;
pub mod moto;
pub mod objects;
pub mod pg;
pub mod pg_proxy;
pub mod pgbouncer;
pub mod process;
pub mod program;
pub mod proxy;
pub mod s3;
pub mod session;
pub mod tally;
