//! Roles of another server: memberships whose grantors cannot act on this one, and those that it cannot hold.

use std::path::Path;

use crate::support::pg::{self, Cluster};
use crate::support::program::{backup, drill, expect_code, pgstow, restore};

/// What each role has in others, whoever gave it.
const RIGHTS: &str = "SELECT string_agg(line, '; ' ORDER BY line) FROM (
    SELECT concat_ws(' ', m.rolname, 'in', r.rolname, bool_or(a.admin_option), bool_or(a.inherit_option), bool_or(a.set_option)) AS line
      FROM pg_auth_members a JOIN pg_roles r ON r.oid = a.roleid JOIN pg_roles m ON m.oid = a.member
     WHERE m.rolname LIKE 'm\\_%' GROUP BY m.rolname, r.rolname) x";

/// A run of a server whose first superuser has a name that others do not have.
fn saved(source: &Cluster, store: &Path, sql: &str) {
    source.psql("postgres", "CREATE ROLE second SUPERUSER LOGIN PASSWORD 'x'");
    let second = |sql: &str| {
        let mut psql = source.command("psql");
        psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", sql, "-d", &source.url_as("second", "x", "template1")]);
        crate::support::process::succeed(&mut psql);
    };
    second("ALTER ROLE postgres RENAME TO boss");
    second("CREATE DATABASE app TEMPLATE template0");
    let app = source.url_as("second", "x", "app");
    let mut psql = source.command("psql");
    psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", sql, "-d", &app]);
    crate::support::process::succeed(&mut psql);
    let mut backup = backup(source, "app", store);
    expect_code(backup.env("DATABASE_URL", &app), 0);
}

#[test]
pub(crate) fn memberships_come_back_without_grantors_that_cannot_act() {
    let Some(newest) = pg::servers().into_iter().max().filter(|version| *version >= 16) else { return };
    let (source, target) = (Cluster::start(newest), Cluster::start(newest));
    let store = tempfile::tempdir().unwrap();
    saved(
        &source,
        store.path(),
        "CREATE ROLE m_admin CREATEROLE; CREATE ROLE m_a; CREATE ROLE m_b LOGIN; CREATE ROLE m_c; CREATE ROLE m_d;
         GRANT m_a TO m_admin WITH ADMIN TRUE, INHERIT FALSE, SET FALSE;
         SET ROLE m_admin; GRANT m_a TO m_b WITH INHERIT TRUE, SET FALSE; CREATE ROLE m_made; RESET ROLE;
         GRANT m_a TO m_b WITH INHERIT FALSE, SET TRUE, ADMIN TRUE; GRANT m_made TO m_c;
         SET ROLE m_b; GRANT m_a TO m_c WITH ADMIN OPTION; SET ROLE m_c; GRANT m_a TO m_d WITH INHERIT FALSE; RESET ROLE;
         CREATE TABLE t (a int); ALTER TABLE t OWNER TO m_a",
    );
    let (out, _) = expect_code(drill(&target, store.path()).arg("--roles"), 0);
    assert!(out.contains("memberships given by the role of this session"), "{out}");
    assert_eq!(target.psql("postgres", "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'm\\_%'"), "0");
    expect_code(restore(&target, &target.url("app"), store.path()).args(["--create", "--roles"]), 0);
    assert_eq!(
        target.psql("app", RIGHTS),
        "m_admin in m_a t f f; m_admin in m_made t f f; m_b in m_a t t t; m_c in m_a t t t; m_c in m_made f t t; m_d in m_a f f t"
    );
    // Those whose grantors are here keep them.
    let kept = "SELECT string_agg(member::regrole || ' by ' || grantor::regrole, ', ' ORDER BY 1)
                  FROM (SELECT * FROM pg_auth_members WHERE grantor::regrole::text LIKE 'm\\_%' ORDER BY member::regrole::text) x";
    let kept = target.psql("app", kept);
    assert!(kept.contains("m_d by m_c") && kept.contains("m_c by m_b") && kept.contains("m_b by m_admin"), "{kept}");
}

#[test]
pub(crate) fn memberships_that_an_older_server_cannot_hold_are_listed_and_never_wider() {
    let servers = pg::servers();
    let newest = servers.iter().copied().max().filter(|version| *version >= 16);
    let older = servers.iter().copied().filter(|version| *version < 16).max();
    let (Some(newest), Some(older)) = (newest, older) else { return };
    let (source, target) = (Cluster::start(newest), Cluster::start(older));
    let store = tempfile::tempdir().unwrap();
    saved(
        &source,
        store.path(),
        "CREATE ROLE m_a; CREATE ROLE m_b; CREATE ROLE m_c; CREATE ROLE m_d NOINHERIT; CREATE ROLE m_e;
         GRANT pg_create_subscription TO m_b; GRANT m_a TO m_b WITH INHERIT FALSE; GRANT m_a TO m_c WITH SET FALSE;
         GRANT m_a TO m_d; GRANT m_a TO m_e WITH ADMIN OPTION; CREATE TABLE t (a int)",
    );
    let mut command = pgstow();
    command.args(["restore", "--create", "--roles", "--pg-bin-dir"]).arg(source.bin_dir());
    command.args(["--to", &target.url("app")]).arg("--store").arg(store.path());
    let (out, _) = expect_code(&mut command, 3);
    for lost in ["membership of m_b in pg_create_subscription", "membership of m_b in m_a", "membership of m_c in m_a"]
    {
        assert!(out.contains(lost), "{lost}: {out}");
    }
    let rights = "SELECT string_agg(m.rolname || ' ' || admin_option, ', ' ORDER BY m.rolname) FROM pg_auth_members a
                    JOIN pg_roles m ON m.oid = a.member WHERE m.rolname LIKE 'm\\_%'";
    assert_eq!(target.psql("app", rights), "m_d false, m_e true");
    assert_eq!(target.psql("app", "SELECT count(*) FROM t"), "0");
}
