//! What is promised, and the tests that try it: the table at the end of `infra/test`. Tests stand here as paths, so that
//! one which is renamed or removed no longer compiles. `infra/test` has the table written to a file, joins it with what
//! the run's tests answered, and fails where a promise was not tried, or tried and not kept.
//!
//! Nothing is tried here. A new promise is one entry; its place is its place in the printed table.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::support::pg::tests as servers;
use crate::{
    alarms, anomalies, backup_failures, backup_oracle, backup_policy, backup_snapshot, beside, copies, detect, doctor,
    encryption, export, fault_schedules, fleet, forget, guest_frozen, hostile_database, peek, race, reading, renames,
    rescue, restore, restore_faults, restore_goes_on, restore_versions, retention, row_diff, secrets, signals,
    store_contract, store_faults, tls, volumes,
};

/// One line of the table, or several.
enum Promise {
    /// A heading.
    Heading(&'static str),
    /// Kept when all of these tests passed.
    Tests(&'static str, Tests),
    /// The same, one line for each PostgreSQL server.
    EachServer(Tests),
    /// The same, for the S3 server that the environment names, where it names one.
    EnvironmentStore(Tests),
    /// Kept when `infra/stores` printed this line.
    Store(&'static str, &'static str),
    /// Kept when the tests counted at least one of each: a kind, and which of that kind.
    Counted(&'static str, &'static [&'static str]),
    /// Kept when all faults together were survived or failed cleanly, at least once each, and none was lost.
    Faults(&'static str),
    /// Kept when the tests counted more than so many of a kind.
    MoreThan(&'static str, &'static str, usize),
}

type Tests = &'static [(&'static str, fn())];

/// The names of tests, as the test program prints them, with the functions themselves.
macro_rules! tests {
    ($($test:path),+ $(,)?) => {
        &[$((stringify!($test), $test as fn())),+]
    };
}

use Promise::{Counted, EachServer, EnvironmentStore, Faults, Heading, MoreThan, Store, Tests as Tried};

#[rustfmt::skip]
const PROMISES: &[Promise] = &[
    Heading("Servers"),
    EachServer(tests![
        servers::every_promised_version_starts_and_takes_passwords_only,
        backup_oracle::the_script_of_restore_md_makes_the_same_database_again,
        detect::a_superuser_sees_everything_and_misses_nothing,
    ]),
    Tried("directory store", tests![
        store_contract::a_directory_keeps_the_contract,
        backup_policy::the_checks_of_the_policy_hold_verbatim_after_a_download,
    ]),
    Tried("S3: s3s in process, path style", tests![
        store_contract::an_s3_server_keeps_the_contract,
        backup_policy::a_run_into_a_real_s3_server_and_out_of_it_path_style_and_virtual_host,
    ]),
    Tried("S3: s3s in process, virtual host", tests![store_contract::an_s3_server_is_reached_by_virtual_host]),
    Store("S3: rclone serve s3", "stores: tried: rclone"),
    Store("S3: moto", "stores: tried: moto"),
    Store("S3: Object Lock (moto)", "stores: tried with Object Lock: moto"),
    Tried("PgBouncer: session served, others refused", tests![
        doctor::a_transaction_pooler_is_refused_before_anything_is_set_and_a_session_pooler_serves,
    ]),
    Tried("TLS: sslmode, certificates, channel binding", tests![tls::tls_is_what_libpq_makes_of_the_same_words]),
    Tried("a standby", tests![doctor::a_standby_is_told_what_ends_long_reads]),
    EnvironmentStore(tests![
        store_contract::the_s3_server_of_the_environment_keeps_the_contract,
        backup_policy::a_run_into_the_s3_server_of_the_environment_and_out_of_it,
    ]),
    Heading("Roles"),
    Tried("detect: superuser, owner, little", tests![
        detect::a_superuser_sees_everything_and_misses_nothing,
        detect::an_owner_and_pg_read_all_data_need_no_superuser,
        detect::a_role_that_reads_little_is_told_what_and_the_cure_cures,
    ]),
    Counted("role", &[
        "superuser",
        "owner without superuser",
        "hosted postgres: BYPASSRLS, no superuser, no pg_authid",
        "pg_read_all_data",
        "almost nothing, cured by what it is told",
    ]),
    Heading("Unreadable, and what depends on it"),
    Counted("unreadable", &["table", "sequence", "schema", "large object", "row-level security"]),
    Heading("Encryption and size of objects"),
    Tried("age: sealed, read by pgstow and stock age", tests![
        encryption::everything_is_sealed_and_stock_tools_restore_it_as_told,
        encryption::damage_inside_a_large_encrypted_table_is_named_and_its_pieces_are_read_side_by_side,
    ]),
    Tried("volumes in a store that limits objects", tests![
        volumes::a_store_with_a_limit_is_told_of_and_takes_volumes_that_every_command_reads,
        volumes::volumes_of_compressed_and_encrypted_objects_restore_with_stock_tools_as_told,
    ]),
    Heading("Encodings"),
    Tried("LATIN1, SQL_ASCII", tests![detect::latin1_and_sql_ascii_come_back_byte_for_byte]),
    Heading("Single rows"),
    Tried("peek: every type as PostgreSQL writes it, without a database", tests![
        peek::every_row_and_every_type_is_what_postgresql_says,
        peek::rows_are_chosen_by_value_and_the_object_is_read_no_further_than_they_are,
    ]),
    Tried("restore: a schema beside the living one, under another name", tests![
        renames::a_schema_of_the_run_stands_beside_the_living_one_under_another_name,
    ]),
    Tried("export: Parquet files that DuckDB reads as PostgreSQL wrote the rows", tests![export::every_value_is_what_postgresql_says]),
    Tried("rescue: rows of a wrong DELETE, with what they refer to", tests![
        rescue::rows_of_a_wrong_delete_come_back_with_what_they_refer_to_and_nothing_else_changes,
        rescue::every_type_comes_back_as_postgresql_wrote_it,
        rescue::an_owner_without_superuser_rescues_and_nobody_else_sees_the_rows,
    ]),
    Tried("rescue: one row of a large table costs one piece", tests![rescue::one_row_of_a_large_table_costs_one_piece]),
    Tried("rescue --as: beside the live table", tests![
        beside::a_table_comes_back_under_another_name_with_all_that_is_its_own,
    ]),
    Tried("forget: what had to be erased stays away", tests![
        forget::what_was_erased_and_all_that_hangs_on_it_does_not_come_back,
        forget::a_list_that_cannot_be_applied_as_a_whole_is_never_passed_over,
    ]),
    Tried("diff --rows: as PostgreSQL finds them", tests![
        row_diff::rows_that_differ_between_two_runs_are_those_that_postgresql_finds,
    ]),
    Heading("Many runs"),
    Tried("prune: rules, pins, nothing foreign", tests![
        retention::prune_keeps_what_the_rules_say_and_touches_nothing_foreign,
        retention::the_last_complete_run_outlives_every_rule,
        retention::a_pinned_run_says_so_and_is_let_go_again,
    ]),
    Tried("prune in S3: refusals, half deleted runs, orphans", tests![
        retention::prune_of_a_bucket_survives_refusals_and_clears_orphans,
    ]),
    Tried("100 races for latest without conditions", tests![
        retention::two_processes_racing_for_latest_never_move_it_backwards,
    ]),
    Tried("promote, status, diff, report", tests![
        retention::latest_is_promoted_only_to_what_could_be_restored,
        retention::the_probe_answers_by_its_exit_code,
        retention::two_runs_are_compared_by_their_manifests,
        retention::the_page_needs_nothing_else_and_escapes_everything,
    ]),
    Heading("Many databases"),
    Tried("one file: all of a server, one that fails", tests![
        fleet::a_night_does_every_database_and_one_that_fails_keeps_nobody_from_its_turn,
    ]),
    Tried("tasks killed and started again: one run of each", tests![
        fleet::tasks_that_are_killed_and_started_again_make_one_run_of_each_database,
    ]),
    Tried("notifications: refused, late, never answered", tests![
        alarms::a_receiver_that_fails_is_tried_again_and_never_fails_the_backup,
        alarms::an_interrupted_backup_is_told_in_time,
    ]),
    Tried("anomalies held until promote", tests![
        anomalies::what_vanished_or_shrank_is_said_and_held_until_somebody_promotes,
    ]),
    Tried("a second store: broken off, damaged, away", tests![
        copies::a_copy_is_the_run_itself_and_goes_on_where_it_broke_off,
        copies::a_night_copies_into_another_server_and_one_that_is_away_fails_that_step_alone,
    ]),
    Heading("Faults: injected, how often"),
    Counted("fault", &crate::fault_schedules::KINDS),
    Counted("fault", &[
        "reader: cut in each segment",
        "reader: cut within a filtered table",
        "reader: cut within large objects",
        "pg_dump, pg_dumpall: killed",
        "server: restarted",
    ]),
    Faults("all"),
    Tried("SIGINT, SIGTERM: backup, verify, prune", tests![
        signals::a_backup_that_is_told_to_stop_aborts_its_uploads_and_promotes_nothing,
        signals::a_verification_that_is_told_to_stop_has_no_verdict_and_changes_nothing,
        signals::a_prune_that_is_told_to_stop_leaves_every_listed_run_whole,
    ]),
    Tried("SIGINT, SIGTERM: restore, drill", tests![
        signals::a_restore_that_is_told_to_stop_lets_go_of_the_target_which_takes_the_next,
        signals::a_drill_that_is_told_to_stop_leaves_no_database_and_no_receipt,
    ]),
    Tried("secrets: argv, logs, errors, objects", tests![
        backup_failures::a_password_is_never_shown,
        secrets::no_secret_is_shown_by_any_command_however_it_was_given,
        secrets::no_secret_is_shown_by_an_error,
    ]),
    Heading("What held, and holds"),
    Tried("restores interrupted at many moments", tests![
        restore_faults::a_restore_that_is_stopped_leaves_no_half_table_and_the_same_command_completes_it,
        signals::a_restore_that_is_told_to_stop_lets_go_of_the_target_which_takes_the_next,
        restore::damage_fails_a_restore_with_its_key_and_the_same_command_completes_it_later,
    ]),
    Tried("backups killed at fifty moments", tests![
        race::a_backup_killed_at_any_of_fifty_moments_leaves_latest_whole_and_prune_leaves_no_orphan,
    ]),
    Tried("damage in every kind of object", tests![
        reading::whatever_is_damaged_verify_names_it,
        backup_policy::whatever_is_damaged_in_a_real_run_is_found,
        restore::a_large_table_is_loaded_by_several_sessions_and_a_damaged_piece_leaves_nothing,
    ]),
    Tried("backups under load: one moment, kept sums", tests![
        backup_snapshot::what_busy_writers_leave_is_of_one_moment,
        backup_snapshot::a_truncate_between_listing_and_lock_is_seen_whole,
        backup_snapshot::a_rewriting_alter_between_listing_and_lock_is_seen_whole,
    ]),
    Tried("odd names, types and dependencies", tests![
        restore::the_awkward_database_comes_back_in_every_version,
        backup_oracle::a_table_s_file_is_pg_dump_t_statement_for_statement,
        backup_oracle::a_schema_s_archive_has_the_entries_of_pg_dump_n,
    ]),
    Tried("settings of server, database and role", tests![
        restore_versions::settings_an_older_server_does_not_know_are_left_out_and_told,
        restore_faults::what_would_change_rows_as_they_are_loaded_is_refused_before_anything_is,
    ]),
    Tried("prefixes: of another database, of a neighbour", tests![
        backup_failures::a_prefix_that_belongs_to_another_database_is_refused,
        doctor::another_backup_that_runs_and_a_prefix_of_another_database_are_seen,
        retention::prune_of_a_bucket_survives_refusals_and_clears_orphans,
    ]),
    Tried("connections that freeze: leader, programs, restore", tests![
        guest_frozen::a_frozen_connection_of_the_leader_ends_the_run_and_its_locks_go,
        guest_frozen::frozen_programs_and_readers_are_started_again_and_nothing_of_them_stays,
        guest_frozen::a_restore_ends_at_a_frozen_connection_and_the_same_command_completes_it,
    ]),
    Tried("code of a hostile database: never run", tests![
        hostile_database::nothing_of_a_hostile_database_runs_with_the_operators_rights,
    ]),
    Tried("few rights: all that stock gives, a list of the rest", tests![
        restore_goes_on::large_objects_come_back_whoever_owned_them,
        restore_goes_on::a_role_of_few_rights_gets_all_that_stock_tools_would_give_it_and_a_list_of_the_rest,
    ]),
    Tried("networks and stores that break at random", tests![
        fault_schedules::whatever_breaks_a_run_completes_or_fails_cleanly,
        store_faults::a_backup_over_a_bad_network_is_whole,
        store_faults::a_backup_whose_server_goes_away_for_good_promotes_nothing,
    ]),
    Heading("Bad inputs"),
    MoreThan("refused or found", "bad input", 20),
];

/// The name that the test program prints for a path of this file.
fn printed(path: &str) -> String {
    let path = path.replace(' ', "");
    match path.strip_prefix("servers::") {
        Some(name) => format!("support::pg::tests::{name}"),
        None => path,
    }
}

fn names(tests: Tests) -> String {
    tests.iter().map(|(path, _)| printed(path)).collect::<Vec<_>>().join(" ")
}

/// The table for `infra/test`: a kind, a label and what the kind needs, between tabs.
fn table() -> String {
    let mut lines = String::new();
    for promise in PROMISES {
        let written = match promise {
            Heading(label) => writeln!(lines, "heading\t{label}\t"),
            Tried(label, tests) => writeln!(lines, "tests\t{label}\t{}", names(tests)),
            EachServer(tests) => writeln!(lines, "server\t-\t{}", names(tests)),
            EnvironmentStore(tests) => writeln!(lines, "environment\t-\t{}", names(tests)),
            Store(label, line) => writeln!(lines, "store\t{label}\t{line}"),
            Counted(kind, which) => which.iter().try_for_each(|which| writeln!(lines, "counted\t{which}\t{kind}")),
            Faults(label) => writeln!(lines, "faults\t{label}\t"),
            MoreThan(label, kind, number) => writeln!(lines, "more than {number}\t{label}\t{kind}"),
        };
        assert!(written.is_ok(), "writing to a String does not fail");
    }
    lines
}

/// Writes the table to the file that `PGSTOW_TEST_PROMISES` names.
#[test]
fn the_promises_are_written_down() {
    let table = table();
    let mut labels = BTreeSet::new();
    for line in table.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        assert!(fields.len() == 3 && !fields[1].is_empty(), "{line}");
        assert!(labels.insert((fields[0], fields[1], fields[2])), "promised twice: {line}");
    }
    if let Some(path) = std::env::var_os("PGSTOW_TEST_PROMISES") {
        std::fs::write(path, table).expect("the file of PGSTOW_TEST_PROMISES can be written");
    }
}
