//! `sslmode`, `sslrootcert`, client certificates and channel binding against a real server with TLS, judged by psql:
//! it must succeed and fail with the same connection strings, and the server's log tells what was encrypted.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use crate::support::pg::{self, Cluster};
use crate::support::process::{output_with, succeed};
use crate::support::program::{backup, expect_code, expect_failure, pgstow};

const HBA: &str = "\
local all all trust
host all postgres,either 127.0.0.1/32 scram-sha-256
host all postgres,either ::1/128 scram-sha-256
hostssl all tls_only 127.0.0.1/32 scram-sha-256
hostnossl all plain_only 127.0.0.1/32 scram-sha-256
hostssl all with_cert 127.0.0.1/32 cert
";

/// What a connection comes to.
#[derive(Debug, Clone, Copy)]
enum Comes {
    Encrypted,
    Plain,
    /// Exit code, a part of what stderr says.
    Fails(i32, &'static str),
}
use Comes::{Encrypted, Fails, Plain};

/// Role, host, parameters (`DIR` is the folder of the certificates) and what they come to.
const CASES: &[(&str, &str, &str, Comes)] = &[
    ("either", "127.0.0.1", "sslmode=disable", Plain),
    ("either", "127.0.0.1", "sslmode=allow", Plain),
    ("either", "127.0.0.1", "sslmode=prefer", Encrypted),
    ("either", "127.0.0.1", "sslmode=require", Encrypted),
    ("tls_only", "127.0.0.1", "sslmode=disable", Fails(1, "sslmode against the server's pg_hba.conf")),
    ("tls_only", "127.0.0.1", "sslmode=allow", Encrypted),
    ("tls_only", "127.0.0.1", "", Encrypted),
    ("plain_only", "127.0.0.1", "sslmode=allow", Plain),
    ("plain_only", "127.0.0.1", "sslmode=prefer", Plain),
    ("plain_only", "127.0.0.1", "sslmode=require", Fails(1, "sslmode against the server's pg_hba.conf")),
    // With a root file, require checks the chain as verify-ca does.
    ("either", "127.0.0.1", "sslmode=require&sslrootcert=DIR/ca.crt", Encrypted),
    ("either", "127.0.0.1", "sslmode=require&sslrootcert=DIR/other.crt", Fails(1, "name its root with sslrootcert")),
    ("either", "127.0.0.1", "sslmode=verify-ca&sslrootcert=DIR/ca.crt", Encrypted),
    ("either", "127.0.0.1", "sslmode=verify-ca&sslrootcert=DIR/other.crt", Fails(1, "name its root with sslrootcert")),
    ("either", "127.0.0.1", "sslmode=verify-ca", Fails(2, "name the file with sslrootcert")),
    ("either", "127.0.0.1", "sslmode=verify-ca&sslrootcert=DIR/none.crt", Fails(2, "none.crt")),
    ("either", "localhost", "sslmode=verify-full&sslrootcert=DIR/ca.crt", Encrypted),
    ("either", "127.0.0.1", "sslmode=verify-full&sslrootcert=DIR/ca.crt", Fails(1, "for another host name")),
    ("either", "localhost", "sslmode=verify-full&sslrootcert=DIR/other.crt", Fails(1, "name its root")),
    ("either", "localhost", "sslrootcert=system", Fails(1, "name its root with sslrootcert")),
    ("with_cert", "127.0.0.1", "sslmode=require", Fails(1, "client certificate")),
    ("with_cert", "127.0.0.1", "sslmode=require&sslcert=DIR/client.crt", Fails(2, "sslkey")),
    ("with_cert", "127.0.0.1", "sslmode=require&sslcert=DIR/client.crt&sslkey=DIR/client.key", Encrypted),
    ("either", "127.0.0.1", "sslmode=require&channel_binding=require", Encrypted),
    ("either", "127.0.0.1", "sslmode=disable&channel_binding=require", Fails(1, "channel binding")),
    // Every word that guards something is kept or refused.
    ("either", "localhost", "sslmode=verify-full&sslrootcert=DIR/ca.crt&sslcrl=DIR/clean.crl", Encrypted),
    ("either", "localhost", "sslmode=verify-full&sslrootcert=DIR/ca.crt&sslcrl=DIR/revoked.crl", Fails(1, "Revoked")),
    ("either", "127.0.0.1", "sslmode=require&ssl_min_protocol_version=TLSv1.3", Encrypted),
    ("either", "127.0.0.1", "sslmode=require&ssl_max_protocol_version=TLSv1.2", Encrypted),
    (
        "either",
        "127.0.0.1",
        "sslmode=require&ssl_min_protocol_version=TLSv1.3&ssl_max_protocol_version=TLSv1.2",
        Fails(2, "ssl_min_protocol_version"),
    ),
    ("either", "127.0.0.1", "target_session_attrs=primary", Encrypted),
    ("either", "127.0.0.1", "target_session_attrs=prefer-standby", Encrypted),
    ("either", "127.0.0.1", "target_session_attrs=standby", Fails(1, "the server is a primary")),
    ("either", "127.0.0.1", "target_session_attrs=read-only", Fails(1, "")),
    ("either", "127.0.0.1", "target_session_attrs=anything", Fails(2, "target_session_attrs")),
    ("either", "127.0.0.1", "gssencmode=require", Fails(2, "gssencmode")),
    // Not known to the psql of this version, which refuses it too.
    ("either", "127.0.0.1", "require_auth=scram-sha-256", Fails(2, "require_auth")),
];

/// The same settings reach `pg_dump` and `pg_dumpall`.
const BACKUPS: &[(&str, &str, &str)] = &[
    ("either", "localhost", "sslmode=verify-full&sslrootcert=DIR/ca.crt&channel_binding=require"),
    ("with_cert", "127.0.0.1", "sslmode=verify-ca&sslrootcert=DIR/ca.crt&sslcert=DIR/client.crt&sslkey=DIR/client.key"),
];

fn openssl(folder: &Path, words: &str) {
    succeed(Command::new("openssl").args(words.split(' ')).current_dir(folder));
}

/// Two roots, the server's certificate (for `localhost`, not for 127.0.0.1) and the client's.
fn certificates(folder: &Path) {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    for name in ["ca", "other"] {
        openssl(folder, &format!("req -x509 {key} -days 9 -subj /CN=pgstow-{name} -keyout {name}.key -out {name}.crt"));
    }
    for (name, subject, extension) in [
        ("server", "pgstow-server", "subjectAltName=DNS:localhost"),
        ("client", "with_cert", "subjectAltName=DNS:client"),
    ] {
        fs::write(folder.join("ext"), extension).unwrap();
        openssl(folder, &format!("req {key} -subj /CN={subject} -keyout {name}.key -out {name}.csr"));
        let sign = format!("-CA ca.crt -CAkey ca.key -CAcreateserial -days 9 -extfile ext -out {name}.crt");
        openssl(folder, &format!("x509 -req -in {name}.csr {sign}"));
    }
    let config = "[ca]\ndefault_ca = d\n[d]\ndatabase = index.txt\ncrlnumber = crlnumber\ndefault_md = sha256\ndefault_crl_days = 9\ncrl_extensions = e\n[e]\nauthorityKeyIdentifier = keyid:always\n";
    for (name, text) in [("ca.cnf", config), ("index.txt", ""), ("crlnumber", "01\n")] {
        fs::write(folder.join(name), text).unwrap();
    }
    let ca = "ca -config ca.cnf -keyfile ca.key -cert ca.crt";
    openssl(folder, &format!("{ca} -gencrl -out clean.crl"));
    openssl(folder, &format!("{ca} -revoke server.crt"));
    openssl(folder, &format!("{ca} -gencrl -out revoked.crl"));
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(folder.join("hba"), HBA).unwrap();
    let server: Vec<_> = ["server.key", "hba"].map(|name| folder.join(name)).into();
    pg::give_to_server(&server.iter().map(AsRef::as_ref).collect::<Vec<_>>());
}

fn start(folder: &Path) -> Cluster {
    let path = |name: &str| folder.join(name).display().to_string();
    let cluster = Cluster::start_with(
        pg::packaged(),
        &[
            ("ssl", "on"),
            ("ssl_cert_file", &path("server.crt")),
            ("ssl_key_file", &path("server.key")),
            ("ssl_ca_file", &path("ca.crt")),
            ("hba_file", &path("hba")),
            ("log_connections", "on"),
        ],
    );
    for role in ["either", "tls_only", "plain_only", "with_cert"] {
        cluster.psql("postgres", &format!("CREATE ROLE {role} SUPERUSER LOGIN PASSWORD 'pw'"));
    }
    cluster.create_database("tiny");
    cluster.psql("tiny", "CREATE TABLE t (id int); INSERT INTO t VALUES (1)");
    cluster
}

#[test]
pub(crate) fn tls_is_what_libpq_makes_of_the_same_words() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    certificates(dir);
    let cluster = start(dir);
    // Nobody's ~/.postgresql has a say.
    let home = tempfile::tempdir().unwrap();
    let url = |role: &str, host: &str, words: &str| {
        let words = words.replace("DIR", &dir.display().to_string());
        format!("postgresql://{role}:pw@{host}:{}/tiny?{words}", cluster.port())
    };
    // The server's lines about logins since `from`.
    let logins = |from: usize, role: &str| -> Vec<String> {
        let authorized = format!("connection authorized: user={role} ");
        cluster.log()[from..].lines().filter(|line| line.contains(&authorized)).map(str::to_owned).collect()
    };
    for (role, host, words, comes) in CASES {
        let url = url(role, host, words);
        let from = cluster.log().len();
        let mut detect = pgstow();
        detect.args(["detect", "--schemas"]).env("DATABASE_URL", &url).env("HOME", home.path());
        if let Fails(code, part) = comes {
            let (_, err) = expect_failure(&mut detect, *code);
            assert!(err.contains(part) && !err.contains("pw@"), "{url}: {err}");
        } else {
            expect_code(&mut detect, 0);
            let logins = logins(from, role);
            let encrypted = logins.iter().filter(|line| line.contains("SSL enabled")).count();
            let wanted = if matches!(comes, Encrypted) { logins.len() } else { 0 };
            assert!(!logins.is_empty() && encrypted == wanted, "{url}: {logins:?}");
        }
        // libpq knows sslrootcert=system since 16; before, it is a file's name.
        if !words.contains("=system") {
            let mut psql = cluster.command("psql");
            psql.args(["-X", "-w", "-c", "SELECT 1", "-d", &url]).env("HOME", home.path());
            let output = output_with(&mut psql, b"");
            let ours = !matches!(comes, Fails(..));
            assert_eq!(output.status.success(), ours, "{url}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
    // The user that the server at a socket runs as.
    for peer in ["postgres", "root", "nobody"] {
        let words = format!("host={} port={} user=either dbname=tiny", cluster.socket_dir().display(), cluster.port());
        let words = format!("{words} requirepeer={peer}");
        let mut psql = cluster.command("psql");
        let judged = output_with(psql.args(["-X", "-w", "-c", "SELECT 1", "-d", &words]), b"").status.success();
        let ours = output_with(pgstow().args(["detect", "--schemas"]).env("DATABASE_URL", &words), b"");
        let said = String::from_utf8_lossy(&ours.stderr).into_owned();
        assert_eq!(ours.status.success(), judged, "{peer}: {said}");
        assert!(judged || said.contains("requirepeer"), "{peer}: {said}");
    }
    for (role, host, words) in BACKUPS {
        let (from, store) = (cluster.log().len(), tempfile::tempdir().unwrap());
        let mut command = backup(&cluster, "tiny", store.path());
        expect_code(command.env("DATABASE_URL", url(role, host, words)).env("HOME", home.path()), 0);
        let logins = logins(from, role);
        assert!(logins.iter().any(|line| line.contains("pg_dump")), "{logins:?}");
        assert!(logins.iter().all(|line| line.contains("SSL enabled")), "{logins:?}");
    }
}
