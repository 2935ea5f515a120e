//! The integration tests: one binary, real PostgreSQL servers, real S3 servers over HTTP, stock tools as judges.

mod backup_oracle;
mod backup_snapshot;
mod reading;
mod store_contract;
mod support;
