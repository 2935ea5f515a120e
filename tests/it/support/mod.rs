//! What the tests stand on: real PostgreSQL clusters, a real S3 server, judges, and a reader of archives that shares
//! nothing with the product. Nothing here is a test of the product itself; its own unit tests sit beside the code.

#![allow(dead_code, unreachable_pub, reason = "support is shared by test modules that each use a part of it")]

pub mod archive_walker;
pub mod judge;
pub mod pg;
pub mod process;
pub mod s3;
