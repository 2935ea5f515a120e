//! The integration tests: one binary, real PostgreSQL servers, real S3 servers over HTTP, stock tools as judges.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::case_sensitive_file_extension_comparisons,
    clippy::needless_for_each,
    clippy::unnecessary_wraps,
    clippy::cmp_owned,
    clippy::indexing_slicing,
    reason = "tests: what they print is read after a failure, and a panic is a failure"
)]

mod alarms;
mod anomalies;
mod backup_extensions;
mod backup_failures;
mod backup_names;
mod backup_oracle;
mod backup_parallel;
mod backup_policy;
mod backup_snapshot;
mod backup_verdict;
mod beside;
mod contents;
mod copies;
mod credentials;
mod database_token;
mod detect;
mod distance;
mod doctor;
mod doctor_store;
mod drill;
mod encryption;
mod environment;
mod export;
mod fault_schedules;
mod fleet;
mod fleet_trial;
mod forget;
mod guest;
mod guest_catalogue;
mod guest_frozen;
mod hard_data;
mod hostile_database;
mod kill;
mod left_out;
mod living;
mod manual;
mod memory;
mod messages;
mod own_encoding;
mod password_command;
mod peek;
mod pg_faults;
mod progress;
mod promises;
mod race;
mod reading;
mod renames;
mod rescue;
mod restore;
mod restore_early;
mod restore_existing;
mod restore_faults;
mod restore_goes_on;
mod restore_mark;
mod restore_roles;
mod restore_supabase;
mod restore_versions;
mod retention;
mod roles;
mod row_diff;
mod secrets;
mod settings;
mod signals;
mod signing;
mod standby;
mod stock_restore;
mod store_contract;
mod store_faults;
mod store_options;
mod support;
mod tls;
mod versions;
mod volumes;
