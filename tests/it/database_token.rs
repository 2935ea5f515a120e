//! `--rds-iam`: a real PostgreSQL asks for the password in the clear, over TLS, and has an LDAP server judge it: a small one
//! of this test, which writes every password down. botocore says what each token should have been.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use super::support::moto::tool;
use super::support::pg::{self, Cluster};
use super::support::process::{succeed, succeed_with};
use super::support::program::{At, Gate, Run, expect_code, expect_failure, pgstow};

/// An LDAP server that lets everybody in and keeps the passwords.
fn ldap() -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let passwords = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&passwords);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let kept = Arc::clone(&kept);
            std::thread::spawn(move || serve(&mut stream.unwrap(), &kept));
        }
    });
    (port, passwords)
}

/// One element of BER: its kind and its bytes.
fn element(bytes: &[u8]) -> (u8, &[u8], &[u8]) {
    let (length, head) = match bytes[1] {
        short @ 0..0x80 => (usize::from(short), 2),
        long => {
            let count = usize::from(long & 0x7F);
            (bytes[2..2 + count].iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), 2 + count)
        }
    };
    (bytes[0], &bytes[head..head + length], &bytes[head + length..])
}

/// RFC 4511, 4.2: message id, then a bind request of version, name and password.
fn serve(stream: &mut TcpStream, kept: &Mutex<Vec<String>>) {
    let mut bytes = [0; 16384];
    loop {
        let count = stream.read(&mut bytes).unwrap_or(0);
        if count == 0 {
            return;
        }
        let (_, message, _) = element(&bytes[..count]);
        let (_, id, rest) = element(message);
        let (kind, request, _) = element(rest);
        if kind != 0x60 {
            return;
        }
        let (_, _version, rest) = element(request);
        let (_, _name, rest) = element(rest);
        let (_, password, _) = element(rest);
        kept.lock().unwrap().push(String::from_utf8(password.to_vec()).unwrap());
        let mut answer = vec![0x30, u8::try_from(id.len()).unwrap() + 11, 2, u8::try_from(id.len()).unwrap()];
        answer.extend_from_slice(id);
        answer.extend_from_slice(&[0x61, 7, 10, 1, 0, 4, 0, 4, 0]);
        if stream.write_all(&answer).is_err() {
            return;
        }
    }
}

fn start(folder: &Path, ldap: u16) -> Cluster {
    let words =
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 9 -subj /CN=db -keyout key -out crt";
    succeed(Command::new("openssl").args(words.split(' ')).current_dir(folder));
    let hba = format!(
        "hostssl all iam 127.0.0.1/32 ldap ldapserver=127.0.0.1 ldapport={ldap} ldapprefix=\"uid=\" ldapsuffix=\",dc=x\"\n\
         host all iam all reject\nlocal all all trust\nhost all all all scram-sha-256\n"
    );
    fs::write(folder.join("hba"), hba).unwrap();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    pg::give_to_server(&[&folder.join("key"), &folder.join("hba")]);
    let path = |name: &str| folder.join(name).display().to_string();
    let (key, crt, hba) = (path("key"), path("crt"), path("hba"));
    let settings = [("ssl", "on"), ("ssl_key_file", &*key), ("ssl_cert_file", &*crt), ("hba_file", &*hba)];
    Cluster::start_with(pg::packaged(), &settings)
}

/// The tokens that botocore makes at the moments of these.
const JUDGE: &str = r"
import boto3, botocore.auth, datetime, re, sys
for token in sys.stdin.read().split():
    at = datetime.datetime.strptime(re.search('X-Amz-Date=(.{16})', token)[1], '%Y%m%dT%H%M%SZ')
    botocore.auth.get_current_datetime = lambda remove_tzinfo=True: at
    session = boto3.Session('AKIDEXAMPLE', 'wJalr/UtnFEMI', 'session/+=', region_name='eu-west-1')
    host, port = token.split('/')[0].split(':')
    print(session.client('rds').generate_db_auth_token(host, int(port), 'iam'))
";

/// Parameters in any order.
fn parts(token: &str) -> Vec<&str> {
    let mut parts: Vec<&str> = token.split(['&', '?']).collect();
    parts.sort_unstable();
    parts
}

#[test]
fn each_session_and_each_program_gets_a_token_as_botocore_makes_it() {
    let folder = tempfile::tempdir().unwrap();
    let (port, passwords) = ldap();
    let cluster = start(folder.path(), port);
    cluster.create_database("tokens");
    cluster.psql("tokens", "CREATE TABLE t AS SELECT generate_series(1, 1000) n; CREATE ROLE iam SUPERUSER LOGIN");
    let (store, gate) = (folder.path().join("store"), Gate::new(&cluster, At::Nowhere));
    let with = |more: &str| {
        let mut backup = pgstow();
        backup.args(["backup", "--jobs", "1", "--rds-iam", "--store"]).arg(&store);
        backup.env("PGSTOW_PG_BIN_DIR", gate.bin_dir()).env("PGSTOW_LOG", "trace");
        backup.env("DATABASE_URL", format!("postgresql://iam@127.0.0.1:{}/tokens{more}", cluster.port()));
        backup.envs([("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"), ("AWS_SECRET_ACCESS_KEY", "wJalr/UtnFEMI")]);
        backup.envs([("AWS_SESSION_TOKEN", "session/+="), ("AWS_REGION", "eu-west-1")]);
        backup
    };
    let (_, log) = expect_code(&mut with(""), 0);
    assert_eq!(Run::latest(&store).manifest["totals"]["rows"], 1000);
    let made = passwords.lock().unwrap().clone();
    assert!(made.len() >= 4, "the leader, pg_dump, pg_dumpall and a reader: {made:?}");
    let expected = succeed_with(Command::new(tool("python3")).args(["-c", JUDGE]), made.join("\n").as_bytes());
    let expected = String::from_utf8(expected.stdout).unwrap();
    assert_eq!(expected.lines().count(), made.len());
    for (token, expected) in made.iter().zip(expected.lines()) {
        assert_eq!(parts(token), parts(expected));
        assert!(!log.contains(token.as_str()));
    }
    assert!(!log.contains("X-Amz-Signature=") && !gate.words().contains("X-Amz"), "{}", gate.words());

    // Never in the clear; one source only; a region is needed.
    let (error, _) = expect_failure(&mut with("?sslmode=disable"), 2);
    assert!(error.contains("sslmode=disable would send a token in the clear"), "{error}");
    let (error, _) = expect_failure(with("").env("PGSTOW_PASSWORD_COMMAND", "echo x"), 2);
    assert!(error.contains("a password has one source"), "{error}");
    let mut nowhere = with("");
    nowhere.env_remove("AWS_REGION").env("AWS_CONFIG_FILE", "/dev/null");
    let (error, all) = expect_failure(&mut nowhere, 2);
    assert!(error.contains("the region of 127.0.0.1 is not known") && all.contains("AWS_REGION"), "{all}");
}
