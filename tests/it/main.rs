//! The integration tests: one binary, real PostgreSQL servers, real S3 servers over HTTP, stock tools as judges.

mod backup_failures;
mod backup_oracle;
mod backup_parallel;
mod backup_policy;
mod backup_snapshot;
mod detect;
mod reading;
mod restore;
mod store_contract;
mod store_faults;
mod support;
