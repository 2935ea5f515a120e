//! A database whose owner waits for a superuser to save or restore it: operators, functions and views in `public` with the
//! names of those in `pg_catalog`, and a search path that finds them first. None of them may run. And what else a restore
//! says of a run: how many tables it gave back, and which extensions are here in another version.

use serde_json::Value;

use crate::support::pg::{self, Cluster};
use crate::support::program::{Run, backup, drill, expect_code, pgstow, restore, restore_as_told};

/// For every operator on common types, and for the functions that programs call, one of the same signature in `public`
/// that notes in the server's log who ran it.
const TRAP: &str = r#"
    CREATE FUNCTION public.sprung() RETURNS text LANGUAGE plpgsql AS
        $$ BEGIN RAISE LOG 'SPRUNG by %', current_user; RETURN NULL; END $$;
    DO $make$
    DECLARE one record; n int := 0; body text;
    BEGIN
        FOR one IN
            SELECT o.oprname, o.oprleft::regtype AS l, o.oprright::regtype AS r, o.oprresult::regtype AS result
              FROM pg_catalog.pg_operator o
             WHERE o.oprnamespace = 'pg_catalog'::regnamespace AND o.oprkind = 'b'
               AND ARRAY[o.oprleft, o.oprright] <@ ARRAY['bool','"char"','name','int2','int4','int8','oid','text',
                   'timestamptz','interval','int2vector','oidvector','xid','pg_lsn','bytea']::regtype[]::oid[]
        LOOP
            n := n + 1;
            body := format('BEGIN PERFORM public.sprung(); RAISE EXCEPTION USING MESSAGE = %L; END', 'sprung ' || one.oprname);
            EXECUTE format('CREATE FUNCTION public.op_%s(%s, %s) RETURNS %s LANGUAGE plpgsql AS %L',
                           n, one.l, one.r, one.result, body);
            EXECUTE format('CREATE OPERATOR public.%s (FUNCTION = public.op_%s, LEFTARG = %s, RIGHTARG = %s)',
                           one.oprname, n, one.l, one.r);
        END LOOP;
        FOR one IN
            SELECT p.proname, pg_catalog.pg_get_function_identity_arguments(p.oid) AS arguments,
                   p.prorettype::regtype AS result
              FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_type t ON t.oid = p.prorettype
             WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'f' AND NOT p.proretset
               AND t.typtype = 'b' AND NOT EXISTS (SELECT FROM pg_catalog.pg_type a
                   WHERE a.oid = ANY (p.proargtypes) AND (a.typtype = 'p' OR a.typname = 'internal'))
               AND p.proname = ANY ('{set_config,current_setting,quote_ident,quote_literal,length,lower,upper,replace,
                   left,right,split_part,current_database,version,pg_backend_pid,now,clock_timestamp,pg_get_userbyid,
                   has_table_privilege,has_schema_privilege,has_database_privilege,has_function_privilege,pg_has_role,
                   to_regclass,pg_terminate_backend,pg_advisory_lock,pg_try_advisory_lock,pg_export_snapshot,md5,
                   pg_database_size,pg_relation_size,pg_table_size,pg_total_relation_size,array_to_string,
                   string_to_array,regexp_replace,starts_with,strpos,substr,btrim,obj_description,col_description,
                   format_type,pg_get_indexdef,pg_get_constraintdef,pg_get_triggerdef,pg_get_viewdef,pg_get_functiondef,
                   pg_encoding_to_char,setval,nextval,lo_create,lo_unlink,pg_is_in_recovery,shobj_description,
                   pg_postmaster_start_time,pg_blocking_pids,pg_stat_clear_snapshot,host,to_char}'::text[])
        LOOP
            EXECUTE format('CREATE FUNCTION public.%I(%s) RETURNS %s LANGUAGE plpgsql AS %L', one.proname, one.arguments,
                one.result, format('BEGIN PERFORM public.sprung(); RAISE EXCEPTION USING MESSAGE = %L; END', 'sprung ' || one.proname));
        END LOOP;
        FOREACH body IN ARRAY '{pg_roles,pg_class,pg_namespace,pg_database,pg_settings,pg_stat_activity}'::text[] LOOP
            EXECUTE format('CREATE VIEW public.%I AS SELECT public.sprung() AS sprung', body);
        END LOOP;
    END $make$;
    CREATE TABLE public.t (id int PRIMARY KEY, t text); INSERT INTO public.t VALUES (1, 'one'), (2, 'two');
    CREATE INDEX ON public.t (t); CREATE SEQUENCE public.s; SELECT lo_from_bytea(4711, 'large');
    ALTER DATABASE trap SET search_path = public, pg_catalog;
    ALTER ROLE mallory SET search_path = public, pg_catalog"#;

fn sprung(cluster: &Cluster) -> usize {
    cluster.log().matches("SPRUNG").count()
}

#[test]
pub(crate) fn nothing_of_a_hostile_database_runs_with_the_operators_rights() {
    let cluster = Cluster::start(*pg::versions().last().unwrap());
    cluster.psql("postgres", "CREATE ROLE mallory LOGIN PASSWORD 'm'");
    cluster.create_database("trap");
    cluster.psql("postgres", "ALTER DATABASE trap OWNER TO mallory");
    cluster.psql("trap", &format!("SET SESSION AUTHORIZATION mallory; {TRAP}"));
    // The operator's own role and database know no better.
    cluster.psql("postgres", "ALTER ROLE postgres IN DATABASE trap SET search_path = public, pg_catalog");
    let store = tempfile::tempdir().unwrap();
    let before = sprung(&cluster);
    let calm = |doing: &str| assert_eq!(sprung(&cluster), before, "{doing}: {}", cluster.log());
    expect_code(&mut backup(&cluster, "trap", store.path()), 0);
    calm("backup");
    let mut doctor = pgstow();
    doctor.args(["doctor", "--pg-bin-dir"]).arg(cluster.bin_dir()).env("DATABASE_URL", cluster.url("trap"));
    expect_code(doctor.arg("--store").arg(store.path()), 0);
    calm("doctor");
    let mut detect = pgstow();
    expect_code(detect.arg("detect").env("DATABASE_URL", cluster.url("trap")), 0);
    calm("detect");
    expect_code(restore(&cluster, &cluster.url("restored"), store.path()).args(["--create", "--roles"]), 0);
    calm("restore");
    expect_code(&mut drill(&cluster, store.path()), 0);
    calm("drill");
    cluster.create_database("as told");
    restore_as_told(&Run::latest(store.path()), &cluster, "as told");
    calm("RESTORE.md");
    // Into the hostile database itself, which the operator may take for a good one.
    cluster.psql("postgres", "ALTER DATABASE trap RESET search_path");
    cluster.psql("trap", "DROP TABLE public.t");
    cluster.psql("postgres", "ALTER DATABASE trap SET search_path = public, pg_catalog");
    let before = sprung(&cluster);
    let mut table = restore(&cluster, &cluster.url("trap"), store.path());
    expect_code(table.args(["--into-existing", "--allow-source", "--table", "public.t"]), 0);
    assert_eq!(sprung(&cluster), before, "{}", cluster.log());
    // The trap itself works: whoever asks without care springs it.
    cluster.command("psql").args(["-X", "-d"]).arg(cluster.url("trap")).args(["-c", "SELECT 1 = 1"]).output().unwrap();
    assert!(sprung(&cluster) > before);
}

#[test]
fn a_restore_counts_all_tables_and_names_extensions_of_another_version() {
    let cluster = pg::shared(pg::packaged());
    cluster.create_database("counted");
    cluster.psql(
        "counted",
        "CREATE TABLE full_one (i int); INSERT INTO full_one SELECT generate_series(1, 10);
         SELECT format('CREATE TABLE empty_%s (i int)', n) FROM generate_series(1, 4) n \\gexec
         CREATE EXTENSION hstore VERSION '1.4'; CREATE TABLE h (h hstore); INSERT INTO h VALUES ('a=>1')",
    );
    let store = tempfile::tempdir().unwrap();
    expect_code(&mut backup(cluster, "counted", store.path()), 0);
    let url = cluster.url("counted copy");
    let here = cluster.psql("counted", "SELECT default_version FROM pg_available_extensions WHERE name = 'hstore'");
    let note = format!("extension hstore: version 1.4 was saved, {here} is here");
    let (stdout, _) = expect_code(restore(cluster, &url, store.path()).args(["--create", "--json"]), 0);
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&report["tables"], &report["rows"]), (&6.into(), &11.into()), "{report:#}");
    assert!(report.to_string().contains(&note), "{report:#}");
    cluster.drop_database("counted copy");
    let (stdout, stderr) = expect_code(restore(cluster, &url, store.path()).arg("--create"), 0);
    assert!(
        stdout.contains("6 tables with 11 rows") && format!("{stdout}{stderr}").contains(&note),
        "{stdout}{stderr}"
    );
    let (stdout, _) = expect_code(drill(cluster, store.path()).arg("--json"), 0);
    let receipt: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&receipt["tables"], &receipt["rows"]), (&6.into(), &11.into()), "{receipt:#}");
    for name in ["counted", "counted copy"] {
        cluster.drop_database(name);
    }
}
