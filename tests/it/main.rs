//! The integration tests: one binary, real PostgreSQL servers, real S3 servers over HTTP, stock tools as judges.

mod reading;
mod restore;
mod store_contract;
mod support;
