//! Restores into databases that people live in: nothing that is not restored changes, no number comes twice, nobody gets a
//! right that he had not.

use crate::support::judge;
use crate::support::pg;
use crate::support::program::{backup, expect_code, restore};

/// Settings, limits, rights and comment of the database; owner, rights and comment of its schema public; default
/// privileges, and the rights that a new table gets.
const LIFE: &str = "SELECT datacl, datconnlimit, datdba::regrole, shobj_description(d.oid, 'pg_database'),
      (SELECT string_agg(setconfig::text, ' ') FROM pg_db_role_setting WHERE setdatabase = d.oid),
      (SELECT concat(nspowner::regrole, nspacl, obj_description(oid, 'pg_namespace')) FROM pg_namespace WHERE nspname = 'public'),
      (SELECT concat(nspacl, obj_description(oid, 'pg_namespace')) FROM pg_namespace WHERE nspname = 'Of Both'),
      (SELECT count(*) FROM pg_default_acl) FROM pg_database d WHERE datname = current_database()";

#[test]
fn a_restore_beside_living_things_leaves_the_database_and_its_schemas_as_they_are() {
    let cluster = pg::shared(15);
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    cluster.psql("postgres", "CREATE ROLE living_app; CREATE ROLE living_anon");
    cluster.create_database("living_saved");
    cluster.psql(
        "living_saved",
        "CREATE TABLE newt (a int); CREATE SCHEMA fresh; CREATE TABLE fresh.t (a int); GRANT USAGE ON SCHEMA fresh TO living_anon;
         COMMENT ON SCHEMA fresh IS 'made here'; CREATE SCHEMA \"Of Both\"; COMMENT ON SCHEMA \"Of Both\" IS 'of the run';
         GRANT ALL ON SCHEMA \"Of Both\" TO living_anon; CREATE TABLE \"Of Both\".other (a int); GRANT CREATE ON SCHEMA public TO PUBLIC; COMMENT ON SCHEMA public IS 'of the run';
         ALTER SCHEMA public OWNER TO living_anon; ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO living_anon;
         ALTER DEFAULT PRIVILEGES IN SCHEMA fresh GRANT SELECT ON TABLES TO living_anon;
         REVOKE CONNECT ON DATABASE living_saved FROM PUBLIC; GRANT ALL ON DATABASE living_saved TO living_anon;
         COMMENT ON DATABASE living_saved IS 'of the run'; ALTER DATABASE living_saved SET statement_timeout = '7s';
         ALTER DATABASE living_saved SET search_path = 'elsewhere'; ALTER DATABASE living_saved CONNECTION LIMIT 3",
    );
    expect_code(&mut backup(cluster, "living_saved", &store), 0);
    for (name, words) in
        [("living_whole", &["--into-existing"][..]), ("living_schema", &["--into-existing", "--schema", "public"])]
    {
        cluster.create_database_with(name, "OWNER living_app");
        cluster.psql(
            name,
            &format!(
                "CREATE TABLE living (a int); REVOKE CREATE ON SCHEMA public FROM PUBLIC; COMMENT ON SCHEMA public IS 'ours';
                 CREATE SCHEMA \"Of Both\"; COMMENT ON SCHEMA \"Of Both\" IS 'ours'; ALTER SCHEMA public OWNER TO living_app; COMMENT ON DATABASE {name} IS 'ours';
                 ALTER DATABASE {name} SET search_path = 'public'"
            ),
        );
        let before = cluster.psql(name, LIFE);
        let (out, err) = expect_code(restore(cluster, &cluster.url(name), &store).args(words), 0);
        let after = cluster.psql(name, LIFE);
        if words.len() == 1 {
            // Those of a schema that came with the run are the run's.
            assert_eq!(after, format!("{}1", before.strip_suffix('0').unwrap()), "{out}{err}");
            let fresh =
                "SELECT concat(nspacl, obj_description(oid, 'pg_namespace')) FROM pg_namespace WHERE nspname = 'fresh'";
            assert_eq!(cluster.psql(name, fresh), cluster.psql("living_saved", fresh));
            assert!(
                out.contains("left as they are here") && out.contains("left as it is here: acl SCHEMA public"),
                "{out}{err}"
            );
        } else {
            assert_eq!(after, before, "{out}{err}");
        }
        assert_eq!(
            cluster
                .psql(name, "CREATE TABLE later (a int); SELECT relacl IS NULL FROM pg_class WHERE relname = 'later'"),
            "t"
        );
        assert_eq!(cluster.psql(name, "SELECT count(*) FROM newt"), "0");
    }
}

#[test]
fn a_sequence_that_another_table_takes_from_never_goes_back() {
    let cluster = pg::shared(15);
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    cluster.create_database("shared_numbers");
    cluster.psql(
        "shared_numbers",
        "CREATE TABLE a (id serial PRIMARY KEY, v text); CREATE TABLE b (id int PRIMARY KEY DEFAULT nextval('a_id_seq'), v text);
         CREATE TABLE alone (id serial PRIMARY KEY);
         INSERT INTO a (v) SELECT 'x' FROM generate_series(1, 5); INSERT INTO b (v) SELECT 'y' FROM generate_series(1, 5);
         INSERT INTO alone SELECT FROM generate_series(1, 5)",
    );
    expect_code(&mut backup(cluster, "shared_numbers", &store), 0);
    cluster.psql(
        "shared_numbers",
        "INSERT INTO b (v) SELECT 'z' FROM generate_series(1, 20); INSERT INTO alone SELECT FROM generate_series(1, 20)",
    );
    let words = ["--data-only", "--truncate", "--table", "public.a", "--table", "public.alone"];
    let mut command = restore(cluster, &cluster.url("shared_numbers"), &store);
    expect_code(command.arg("--allow-source").args(words), 0);
    let numbers =
        "SELECT (SELECT last_value FROM a_id_seq), (SELECT last_value FROM alone_id_seq), (SELECT count(*) FROM a)";
    assert_eq!(cluster.psql("shared_numbers", numbers), "30|5|5");
    cluster.psql("shared_numbers", "INSERT INTO b (v) VALUES ('new')");
    // Emptied together, they begin where the run ends.
    let mut command = restore(cluster, &cluster.url("shared_numbers"), &store);
    expect_code(command.args(["--allow-source", "--table", "public.b"]).args(words), 0);
    assert_eq!(cluster.psql("shared_numbers", numbers), "10|5|5");
}

#[test]
fn a_table_comes_back_alone_whatever_its_sequences_and_neighbours_are_called() {
    let cluster = pg::shared(15);
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    cluster.create_database("names_alone");
    cluster.psql(
        "names_alone",
        "CREATE TABLE users (id int PRIMARY KEY, parent int REFERENCES users CHECK (parent > 0)); INSERT INTO users VALUES (1, NULL), (2, 1);
         CREATE TABLE users_roles (u int REFERENCES users, r text); CREATE TABLE \"users x\" (u int REFERENCES users);
         CREATE TABLE orders (id serial PRIMARY KEY, x int); ALTER TABLE orders RENAME TO orders_v2; INSERT INTO orders_v2 (x) VALUES (1), (2);
         CREATE SEQUENCE by_hand; CREATE TABLE t3 (id int DEFAULT nextval('by_hand')); ALTER SEQUENCE by_hand OWNED BY t3.id;
         INSERT INTO t3 DEFAULT VALUES; CREATE TABLE t2 (id serial); ALTER TABLE t2_id_seq RENAME TO other; INSERT INTO t2 DEFAULT VALUES",
    );
    expect_code(&mut backup(cluster, "names_alone", &store), 0);
    cluster.create_database("names_alone_copy");
    for table in ["users", "orders_v2", "t3", "t2"] {
        let mut command = restore(cluster, &cluster.url("names_alone_copy"), &store);
        expect_code(command.args(["--into-existing", "--table", &format!("public.{table}")]), 0);
        let words = ["-t", table];
        judge::assert_same(
            &judge::dump_text(cluster, "names_alone", &words),
            &judge::dump_text(cluster, "names_alone_copy", &words),
        );
    }
    let next = "SELECT nextval(pg_get_serial_sequence('orders_v2', 'id')), nextval('by_hand'), nextval('other')";
    assert_eq!(cluster.psql("names_alone_copy", next), "3|2|2");
    // A key that the table itself needs is still asked for.
    cluster.create_database("names_alone_empty");
    let mut command = restore(cluster, &cluster.url("names_alone_empty"), &store);
    let (_, told) = expect_code(command.args(["--into-existing", "--table", "public.users_roles"]), 1);
    assert!(told.contains("table public.users"), "{told}");
}

#[test]
fn without_privileges_everybody_gets_none_that_was_taken_from_everybody() {
    let cluster = pg::shared(15);
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    cluster.psql("postgres", "CREATE ROLE nobody_special");
    cluster.create_database("taken_away");
    cluster.psql(
        "taken_away",
        "CREATE FUNCTION secret() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT ''s'''; REVOKE EXECUTE ON FUNCTION secret() FROM PUBLIC;
         CREATE TYPE ty AS ENUM ('a'); REVOKE USAGE ON TYPE ty FROM PUBLIC; REVOKE ALL ON SCHEMA public FROM PUBLIC;
         CREATE TABLE t (a int); GRANT SELECT ON t TO nobody_special; GRANT EXECUTE ON FUNCTION secret() TO nobody_special;
         CREATE FUNCTION open() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    );
    expect_code(&mut backup(cluster, "taken_away", &store), 0);
    let url = cluster.url("taken_away_copy");
    expect_code(restore(cluster, &url, &store).args(["--create", "--no-privileges"]), 0);
    let may = "SELECT has_function_privilege('nobody_special', 'public.secret()', 'EXECUTE'), has_type_privilege('nobody_special', 'public.ty', 'USAGE'),
        has_schema_privilege('nobody_special', 'public', 'USAGE'), has_table_privilege('nobody_special', 'public.t', 'SELECT'),
        has_function_privilege('nobody_special', 'public.open()', 'EXECUTE')";
    assert_eq!(cluster.psql("taken_away_copy", may), "f|f|f|f|t");
}
