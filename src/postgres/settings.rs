//! Every setting of PostgreSQL 14 to 19 that a database or a role can bring into a session, and what is done about it.
//!
//! `ALTER DATABASE SET` and `ALTER ROLE SET` reach every session, ours and those of the programs that are started,
//! those of an operator with psql included. A setting that changes how values or definitions are written or read, or
//! that stops a dump or a load, stands in [`SET`] with the value that is used instead; every other one stands in
//! [`JUDGED`] with the reason why it changes nothing. A test compares both lists with `pg_settings` of each version.
//!
//! A restore evaluates what users of the database wrote: checks, generated columns, expressions of indexes, queries of
//! materialized views. Those mean what the database's own time zone and formats make of them, so a restore's sessions
//! keep its values where that reads no text of a run otherwise ([`Own`]).
//!
//! Where the values are set: each session of ours sets all of [`SET`] that its server knows and its role may set, or of a
//! restore those that are not the database's own ([`statement`], [`as_the_database`]); pg_dump and pg_dumpall get in `PGOPTIONS` what differs from it on this server ([`differing`]), so
//! that a pooler that refuses startup options is asked for none where none is needed; pg_restore and psql get those
//! with `load` ([`loading`]), and so does the script of RESTORE.md ([`for_every_server`]).

use tokio_postgres::Client;

use crate::error::Result;
use crate::postgres::error::failure;
use crate::sql::names::literal;

/// A setting that is given another value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting {
    /// The name as `pg_settings` writes it.
    pub(crate) name: &'static str,
    /// The value.
    pub(crate) value: &'static str,
    /// The first major version that knows it; 14 where every supported version does.
    pub(crate) since: u32,
    /// True where pg_restore and psql must have it too: they do not set it themselves, or only newer ones do.
    pub(crate) load: bool,
    /// True where only a superuser may set it.
    pub(crate) superuser: bool,
    /// The part of it that the database itself decides where a restore evaluates what its users wrote.
    pub(crate) own: Own,
    /// The reason.
    #[allow(dead_code, reason = "read by people, and by the test that wants one for each")]
    pub(crate) why: &'static str,
}

/// The sessions of a restore in which a setting has the value of the database, as it has in those of `pg_restore`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Own {
    /// In none.
    Never,
    /// Where queries of users are run and no text of a run is read: rows of a run, and definitions of pg_dump, would be
    /// read otherwise than they were written.
    Queries,
    /// In all: it decides how values are written, and text of a run is read alike under every value.
    Always,
}

const fn set(name: &'static str, value: &'static str, why: &'static str) -> Setting {
    Setting { name, value, since: 14, load: false, superuser: false, own: Own::Never, why }
}

const fn for_load(setting: Setting) -> Setting {
    Setting { load: true, ..setting }
}

const fn own(own: Own, setting: Setting) -> Setting {
    Setting { own, ..setting }
}

const fn since(major: u32, setting: Setting) -> Setting {
    Setting { since: major, ..setting }
}

const fn of_superusers(setting: Setting) -> Setting {
    Setting { superuser: true, ..setting }
}

/// The name of the setting that decides how `money` is written. Runs made before it was set hold amounts as the
/// database wrote them: their rows are loaded with the target's own value.
pub(crate) const MONEY: &str = "lc_monetary";

/// The settings that are set.
#[rustfmt::skip]
pub(crate) const SET: &[Setting] = &[
    // Values as text.
    own(Own::Always, set("DateStyle", "ISO", "dates are written so that every style reads them alike")),
    own(Own::Always, set("IntervalStyle", "postgres", "intervals are written so that every style reads them alike")),
    own(Own::Always, set("extra_float_digits", "3", "floats are written with all their digits")),
    own(Own::Always, set("bytea_output", "hex", "the same bytes each time, in definitions too")),
    own(Own::Always, set("TimeZone", "UTC", "the same instant in the same words, with its offset, in definitions too")),
    own(Own::Queries, for_load(set(MONEY, "C", "money is written and read with the currency sign, marks and decimals of a locale"))),
    own(Own::Queries, for_load(set("array_nulls", "on", "when off, NULL in an array is read as the string NULL"))),
    for_load(set("xmloption", "content", "when document, fragments of XML are not read")),
    for_load(set("standard_conforming_strings", "on", "literals of definitions mean the same everywhere; 19 knows no other value")),
    own(Own::Queries, for_load(set("quote_all_identifiers", "off", "names in definitions, and those that the script of RESTORE.md compares, are written in one way"))),
    own(Own::Queries, for_load(set("transform_null_equals", "off", "when on, `x = NULL` in a definition becomes another expression"))),
    // Names.
    set("search_path", "", "no object of a user stands in for one of the system, and names are qualified"),
    // Which rows are read, and in which order.
    for_load(set("row_security", "off", "a policy that would hide rows is an error, not a smaller backup")),
    set("synchronize_seqscans", "off", "rows in their physical order, each time"),
    set("max_parallel_workers_per_gather", "0", "rows in their physical order, each time"),
    for_load(set("gin_fuzzy_search_limit", "0", "otherwise a search by a GIN index returns a random part of the rows, in a materialized view too")),
    for_load(since(17, set("restrict_nonsystem_relation_kind", "", "when set, views or foreign tables cannot be read: materialized views fail"))),
    of_superusers(set("zero_damaged_pages", "off", "when on, a damaged page is read as an empty one without an error")),
    of_superusers(set("ignore_checksum_failure", "off", "when on, damage that a checksum shows is read as rows")),
    // Speed: one chunk of a table is a range of ctid.
    set("enable_tidscan", "on", "when off, each chunk of a table scans the whole table"),
    set("jit", "off", "compiling a COPY costs more than it saves, with low limits half a minute a table"),
    // Definitions that are made.
    set("check_function_bodies", "off", "a function may use what is made after it"),
    set("client_min_messages", "warning", "notices of every made object are no news"),
    for_load(since(16, set("createrole_self_grant", "", "a role that is made must not become one that its maker is a member of"))),
    for_load(since(16, set("icu_validation_level", "warning", "an odd locale of a collation must not stop a restore"))),
    // Transactions.
    for_load(set("default_transaction_read_only", "off", "when on, nothing can be restored")),
    for_load(set("default_transaction_isolation", "read committed", "serializable fails on a standby, and among parallel loads")),
    for_load(set("default_transaction_deferrable", "off", "a serializable read-only transaction would wait for the others")),
    // Time limits of a role must not cut a long COPY; a step that wants a limit sets it in its transaction.
    for_load(set("statement_timeout", "0", "a long COPY is no fault")),
    for_load(set("lock_timeout", "0", "each step sets its own")),
    for_load(set("idle_in_transaction_session_timeout", "0", "the leader waits in its transaction for all others")),
    for_load(since(17, set("transaction_timeout", "0", "the leader's transaction lasts as long as the run"))),
    for_load(set("idle_session_timeout", "0", "a session waits for its next task")),
];

/// The settings that are left as they are, with the reason.
#[allow(dead_code, reason = "read by people, and by the test that compares it with each server")]
pub(crate) const JUDGED: &[(&str, &[&str])] = &[
    (
        "set by each session or program itself",
        &[
            "application_name",
            "client_encoding",
            "client_connection_check_interval",
            "synchronous_commit",
            "transaction_deferrable",
            "transaction_isolation",
            "transaction_read_only",
        ],
    ),
    (
        "written into the scripts of pg_dump and pg_restore before each object that it decides",
        &["default_tablespace", "default_table_access_method"],
    ),
    (
        "the restore turns it off or on where its role may, step by step",
        &["session_replication_role", "event_triggers"],
    ),
    (
        "used by functions such as to_char and to_tsvector, never where values are written or read; what a definition of the \
      database computes with it is computed with the database's own value",
        &["lc_numeric", "lc_time", "xmlbinary", "default_text_search_config"],
    ),
    (
        "abbreviations of time zones are read in literals only; no value is written with one, as TimeZone is UTC",
        &["timezone_abbreviations"],
    ),
    ("decides the language of messages, by which nothing is decided", &["lc_messages"]),
    (
        "about literals with backslashes: what is written holds none that it could refuse, and warnings are no errors",
        &["backslash_quote", "escape_string_warning"],
    ),
    (
        "decides how a value is stored, not what it is; a column with a compression of its own has it in its definition",
        &["default_toast_compression"],
    ),
    ("opens large objects to more roles; detected, and seen in what the role can read", &["lo_compat_privileges"]),
    (
        "the hash of a password that is given in clear; dumps hold hashes",
        &["password_encryption", "scram_iterations", "md5_password_warnings"],
    ),
    (
        "cost or method of a plan: other plans return the same rows, and rows are read by a scan in physical order",
        &[
            "constraint_exclusion",
            "cpu_index_tuple_cost",
            "cpu_operator_cost",
            "cpu_tuple_cost",
            "cursor_tuple_fraction",
            "debug_parallel_query",
            "effective_cache_size",
            "enable_async_append",
            "enable_bitmapscan",
            "enable_distinct_reordering",
            "enable_eager_aggregate",
            "enable_gathermerge",
            "enable_group_by_reordering",
            "enable_hashagg",
            "enable_hashjoin",
            "enable_incremental_sort",
            "enable_indexonlyscan",
            "enable_indexscan",
            "enable_material",
            "enable_memoize",
            "enable_mergejoin",
            "enable_nestloop",
            "enable_parallel_append",
            "enable_parallel_hash",
            "enable_partition_pruning",
            "enable_partitionwise_aggregate",
            "enable_partitionwise_join",
            "enable_presorted_aggregate",
            "enable_self_join_elimination",
            "enable_seqscan",
            "enable_sort",
            "force_parallel_mode",
            "from_collapse_limit",
            "geqo",
            "geqo_effort",
            "geqo_generations",
            "geqo_pool_size",
            "geqo_seed",
            "geqo_selection_bias",
            "geqo_threshold",
            "jit_above_cost",
            "jit_debugging_support",
            "jit_dump_bitcode",
            "jit_expressions",
            "jit_inline_above_cost",
            "jit_optimize_above_cost",
            "jit_profiling_support",
            "jit_tuple_deforming",
            "join_collapse_limit",
            "max_parallel_workers",
            "min_parallel_index_scan_size",
            "min_parallel_table_scan_size",
            "parallel_leader_participation",
            "parallel_setup_cost",
            "parallel_tuple_cost",
            "plan_cache_mode",
            "random_page_cost",
            "recursive_worktable_factor",
            "seq_page_cost",
            "stats_fetch_consistency",
        ],
    ),
    (
        "memory, input and output, and how WAL is written: time, not content",
        &[
            "backend_flush_after",
            "commit_delay",
            "commit_siblings",
            "effective_io_concurrency",
            "file_copy_method",
            "gin_pending_list_limit",
            "hash_mem_multiplier",
            "io_combine_limit",
            "logical_decoding_work_mem",
            "maintenance_io_concurrency",
            "maintenance_work_mem",
            "max_parallel_maintenance_workers",
            "max_stack_depth",
            "temp_buffers",
            "temp_file_limit",
            "temp_tablespaces",
            "wal_compression",
            "wal_consistency_checking",
            "wal_init_zero",
            "wal_recycle",
            "wal_sender_timeout",
            "wal_skip_threshold",
            "work_mem",
        ],
    ),
    (
        "vacuum and statistics: a backup does neither, a restore gathers statistics at its end only",
        &[
            "default_statistics_target",
            "vacuum_buffer_usage_limit",
            "vacuum_cost_delay",
            "vacuum_cost_limit",
            "vacuum_cost_page_dirty",
            "vacuum_cost_page_hit",
            "vacuum_cost_page_miss",
            "vacuum_failsafe_age",
            "vacuum_freeze_min_age",
            "vacuum_freeze_table_age",
            "vacuum_max_eager_freeze_failure_rate",
            "vacuum_multixact_failsafe_age",
            "vacuum_multixact_freeze_min_age",
            "vacuum_multixact_freeze_table_age",
            "vacuum_truncate",
        ],
    ),
    (
        "keep-alive and deadlock checks of the server's side of a connection",
        &[
            "deadlock_timeout",
            "tcp_keepalives_count",
            "tcp_keepalives_idle",
            "tcp_keepalives_interval",
            "tcp_user_timeout",
        ],
    ),
    (
        "what the server logs, counts and shows",
        &[
            "compute_query_id",
            "debug_pretty_print",
            "debug_print_parse",
            "debug_print_plan",
            "debug_print_raw_parse",
            "debug_print_rewritten",
            "log_duration",
            "log_error_verbosity",
            "log_executor_stats",
            "log_lock_failures",
            "log_lock_waits",
            "log_min_duration_sample",
            "log_min_duration_statement",
            "log_min_error_statement",
            "log_min_messages",
            "log_parameter_max_length",
            "log_parameter_max_length_on_error",
            "log_parser_stats",
            "log_planner_stats",
            "log_replication_commands",
            "log_statement",
            "log_statement_sample_rate",
            "log_statement_stats",
            "log_temp_files",
            "log_transaction_sample_rate",
            "trace_notify",
            "trace_sort",
            "track_activities",
            "track_cost_delay_timing",
            "track_counts",
            "track_functions",
            "track_io_timing",
            "track_wal_io_timing",
            "update_process_title",
        ],
    ),
    (
        "for developers of PostgreSQL, and for superusers who know what they break",
        &[
            "allow_in_place_tablespaces",
            "allow_system_table_mods",
            "backtrace_functions",
            "debug_discard_caches",
            "debug_logical_replication_streaming",
            "exit_on_error",
            "ignore_system_indexes",
            "logical_replication_mode",
            "trace_recovery_messages",
            "force_logical_replication",
        ],
    ),
    (
        "names of files and libraries: a server without them refuses the session or the object by itself",
        &[
            "dynamic_library_path",
            "extension_control_path",
            "extension_destdir",
            "local_preload_libraries",
            "session_preload_libraries",
        ],
    ),
];

/// Settings that would stand in the way of the restore itself: they come last.
pub(crate) const LAST: &[&str] = &[
    "default_transaction_read_only",
    "transaction_read_only",
    "session_preload_libraries",
    "local_preload_libraries",
    "session_replication_role",
    "role",
    "session_authorization",
    "event_triggers",
    "default_transaction_isolation",
    "default_transaction_deferrable",
    "ignore_checksum_failure",
    "zero_damaged_pages",
];

/// The statement that sets all of it that the server knows and the role may set; for sessions that restore (`restores`),
/// without what is the database's own there.
#[must_use]
pub(crate) fn statement(own_money: bool, restores: bool) -> String {
    let is_own = |setting: &Setting| restores && setting.own == Own::Always || own_money && setting.name == MONEY;
    let wanted = SET.iter().filter(|setting| !is_own(setting));
    let values: Vec<String> =
        wanted.map(|setting| format!("({}, {})", literal(setting.name), literal(setting.value))).collect();
    format!(
        "SELECT pg_catalog.set_config(s.name, v.value, false) FROM (VALUES {}) v(name, value) \
         JOIN pg_catalog.pg_settings s ON s.name = v.name \
         WHERE s.context = 'user' OR pg_catalog.current_setting('is_superuser') = 'on'",
        values.join(", ")
    )
}

/// The statements with which queries of users see the database's own settings until the end of the transaction.
#[must_use]
pub(crate) fn as_the_database() -> String {
    let own = SET.iter().filter(|setting| setting.own != Own::Never);
    let all: Vec<String> = own.map(|setting| format!("SET LOCAL {} TO DEFAULT;\n", setting.name)).collect();
    all.concat()
}

/// The statements with which a session that restores writes values as a backup does, and those that end it.
#[must_use]
pub(crate) fn written_alike() -> (String, String) {
    let own = || SET.iter().filter(|setting| setting.own == Own::Always);
    let set: Vec<String> =
        own().map(|setting| format!("SET {} = {}; ", setting.name, literal(setting.value))).collect();
    let reset: Vec<String> = own().map(|setting| format!("RESET {}; ", setting.name)).collect();
    (set.concat(), reset.concat())
}

/// The startup options (`PGOPTIONS`) with which another session of the same role in the same database has the values of
/// [`SET`]; empty where it has them by itself.
///
/// # Errors
/// A connection that broke.
pub(crate) async fn differing(client: &Client) -> Result<String> {
    let values: Vec<String> = SET
        .iter()
        .filter(|setting| !setting.superuser && !OF_PG_DUMP.contains(&setting.name))
        .map(|setting| format!("({}, {})", literal(setting.name), literal(setting.value)))
        .collect();
    // The reset value is the one that a session begins with.
    let sql = format!(
        "SELECT s.name FROM (VALUES {}) v(name, value) JOIN pg_catalog.pg_settings s ON s.name = v.name
          WHERE s.context = 'user' AND s.reset_val IS DISTINCT FROM v.value",
        values.join(", ")
    );
    let money = format!("SELECT EXISTS (SELECT FROM {MONEY_USED})");
    let (asked, is_used) = tokio::join!(client.query_typed(&sql, &[]), client.query_typed_one(&money, &[]));
    let rows = asked.map_err(|e| failure(&e).context("ask for settings of the database and the role"))?;
    let mut names: Vec<&str> = Vec::with_capacity(rows.len());
    for row in &rows {
        names.push(row.get(0));
    }
    // Most servers have a locale here, and most databases no use for it.
    if !is_used.map_err(|e| failure(&e).context("find amounts of money"))?.get::<_, bool>(0) {
        names.retain(|name| *name != MONEY);
    }
    Ok(options(SET.iter().filter(|setting| names.contains(&setting.name))))
}

/// Columns and types of users' that hold money: a definition with an amount in it is about one.
const MONEY_USED: &str = "pg_catalog.pg_attribute a LEFT JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
    WHERE a.attrelid >= 16384 AND NOT a.attisdropped
      AND (a.atttypid IN (790, 791) OR t.typbasetype IN (790, 791) OR t.typelem = 790)";

/// The settings that pg_dump sets itself or gets in `PGTZ`, and those that do not concern it.
const OF_PG_DUMP: &[&str] = &[
    "DateStyle",
    "IntervalStyle",
    "extra_float_digits",
    "synchronize_seqscans",
    "search_path",
    "row_security",
    "TimeZone",
    "enable_tidscan",
    "jit",
    "max_parallel_workers_per_gather",
    "client_min_messages",
    "check_function_bodies",
    "gin_fuzzy_search_limit",
    "restrict_nonsystem_relation_kind",
    "createrole_self_grant",
    "icu_validation_level",
    "default_transaction_read_only",
    "transform_null_equals",
    "array_nulls",
    "xmloption",
];

/// The startup options for pg_restore and psql on a server of this version (`server_version_num`).
#[must_use]
pub(crate) fn loading(version_num: u32, own_money: bool) -> String {
    options(SET.iter().filter(|setting| {
        setting.load
            && !setting.superuser
            && setting.since * 10_000 <= version_num
            && !(own_money && setting.name == MONEY)
    }))
}

/// The startup options for pg_restore and psql that every supported server knows.
#[must_use]
pub(crate) fn for_every_server() -> String {
    loading(140_000, false)
}

fn options<'a>(settings: impl Iterator<Item = &'a Setting>) -> String {
    let each = settings.map(|setting| format!("-c {}={}", setting.name, setting.value.replace(' ', "\\ ")));
    each.collect::<Vec<_>>().join(" ")
}
