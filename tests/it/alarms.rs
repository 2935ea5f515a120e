//! Who is told of a command: real HTTP receivers that answer, answer with errors, slowly or never, and what they were sent.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::support::moto::tool;
use super::support::pg::{self, Cluster};
use super::support::process::{succeed, succeed_with};
use super::support::program::{Going, Run, backup, drill, expect_code, pgstow};
use super::support::session::until;

/// A request that a receiver got.
#[derive(Debug, Clone)]
struct Got {
    path: String,
    headers: String,
    body: String,
}

/// A receiver. The answer to each request is what the script says of its path and number; `None`: none ever.
struct Receiver {
    port: u16,
    got: Arc<Mutex<Vec<Got>>>,
}

impl Receiver {
    fn start(script: impl Fn(&str, usize) -> Option<u16> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let got = Arc::new(Mutex::new(Vec::new()));
        let (kept, script) = (Arc::clone(&got), Arc::new(script));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (kept, script) = (Arc::clone(&kept), Arc::clone(&script));
                std::thread::spawn(move || serve(&stream.unwrap(), &kept, &*script));
            }
        });
        Self { port, got }
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }

    fn paths(&self) -> Vec<String> {
        self.got().into_iter().map(|got| got.path.split('?').next().unwrap().to_owned()).collect()
    }
}

fn serve(stream: &TcpStream, kept: &Mutex<Vec<Got>>, script: &(dyn Fn(&str, usize) -> Option<u16> + Send + Sync)) {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut first, mut headers, mut line) = (String::new(), String::new(), String::new());
        if reader.read_line(&mut first).unwrap_or(0) == 0 {
            return;
        }
        while reader.read_line(&mut line).unwrap_or(0) > 2 {
            headers.push_str(&line.to_lowercase());
            line.clear();
        }
        let length = headers
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |n| n.trim().parse().unwrap());
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let path = first.split(' ').nth(1).unwrap().to_owned();
        assert!(first.starts_with("POST "), "{first}");
        let number = {
            let mut kept = kept.lock().unwrap();
            let number = kept.iter().filter(|got: &&Got| got.path == path).count();
            kept.push(Got { path: path.clone(), headers, body: String::from_utf8_lossy(&body).into_owned() });
            number
        };
        match script(&path, number) {
            Some(status) => {
                let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 5\r\n\r\nsorry");
                if (&*stream).write_all(answer.as_bytes()).is_err() {
                    return;
                }
            }
            None => std::thread::sleep(Duration::from_mins(2)),
        }
    }
}

fn database(name: &str) -> &'static Cluster {
    let cluster = pg::shared(pg::packaged());
    cluster.create_database(name);
    cluster.psql(name, "CREATE TABLE t AS SELECT generate_series(1, 100) n");
    cluster
}

#[test]
fn receivers_get_start_and_end_in_their_own_form() {
    let cluster = database("alarms");
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let receiver = Receiver::start(|_, _| Some(200));
    let addresses = [
        format!("healthchecks+{}", receiver.url("/ping/uuid")),
        receiver.url("/hook"),
        format!("slack+{}", receiver.url("/slack")),
        format!("discord+{}", receiver.url("/discord")),
    ];
    let mut command = backup(cluster, "alarms", &store);
    command.env("PGSTOW_NOTIFY", addresses.join(",")).env("PGSTOW_NOTIFY_SECRET", "s3cret").arg("--json");
    let document: Value = serde_json::from_str(&expect_code(&mut command, 0).0).unwrap();
    // Chats hear of problems only.
    let mut paths = receiver.paths();
    paths.sort();
    assert_eq!(paths, ["/hook", "/hook", "/ping/uuid", "/ping/uuid/start"]);
    let told = document["notifications"].as_array().unwrap();
    assert!(told.len() == 4 && told.iter().all(|one| one["ok"] == true), "{told:?}");
    assert_eq!(document["latest"], true);

    let schema = expect_code(pgstow().args(["schema", "notification"]), 0).0;
    let validator = jsonschema::validator_for(&serde_json::from_str(&schema).unwrap()).unwrap();
    let hooks: Vec<Got> = receiver.got().into_iter().filter(|got| got.path == "/hook").collect();
    let bodies: Vec<Value> = hooks.iter().map(|got| serde_json::from_str(&got.body).unwrap()).collect();
    assert!(bodies.iter().all(|body| validator.is_valid(body)), "{bodies:?}");
    assert_eq!((&bodies[0]["event"], &bodies[1]["event"]), (&"start".into(), &"success".into()));
    assert_eq!(bodies[0]["id"], bodies[1]["id"]);
    assert_eq!(bodies[1]["run"], Run::latest(&store).name);
    let mut openssl = Command::new("openssl");
    let digest = succeed_with(openssl.args(["dgst", "-sha256", "-hmac", "s3cret", "-r"]), hooks[1].body.as_bytes());
    let digest = String::from_utf8(digest.stdout).unwrap();
    let signature = format!("x-pgstow-signature: sha256={}", digest.split(' ').next().unwrap());
    assert!(hooks[1].headers.contains(&signature), "{}\n{digest}", hooks[1].headers);

    // A failure, with the end of the log.
    let mut command = pgstow();
    command
        .args(["backup", "--connect-timeout", "3s"])
        .env("PGSTOW_NOTIFY", addresses.join(","))
        .arg("--store")
        .arg(&store);
    command.env("DATABASE_URL", cluster.url_as("nobody", "HUNTER2", "alarms"));
    expect_code(&mut command, 1);
    let after = receiver.got().split_off(4);
    let of = |path: &str| {
        after.iter().find(|got| got.path.split('?').next() == Some(path)).unwrap_or_else(|| panic!("{path}: {after:?}"))
    };
    assert!(of("/ping/uuid/fail").body.contains("exit code: 1"), "{after:?}");
    let slack: Value = serde_json::from_str(&of("/slack").body).unwrap();
    assert!(slack["text"].as_str().unwrap().starts_with("pgstow backup FAILED"), "{slack}");
    let discord: Value = serde_json::from_str(&of("/discord").body).unwrap();
    assert_eq!(discord["allowed_mentions"]["parse"], serde_json::json!([]));
    assert!(after.iter().all(|got| !got.body.contains("HUNTER2")), "{after:?}");
}

/// The other commands that notify, each with a receiver that never answers, one that does so slowly, one that refuses and
/// one that is not there.
fn other_commands(cluster: &Cluster, folder: &Path, receiver: &Receiver) -> Vec<(&'static str, Going)> {
    let store = folder.join("store");
    expect_code(&mut backup(cluster, "alarms_fail", &store), 0);
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut addresses: Vec<String> =
        ["/never", "/slow", "/refused"].map(|path| receiver.url(&format!("/others{path}"))).into();
    addresses.push(format!("http://{closed}/x"));
    let text = "[defaults]\nstore = \"night\"\n[[database]]\nname = \"a\"\nurl = { env = \"A\" }\n";
    fs::write(folder.join("pgstow.toml"), text).unwrap();
    let verb = |verb: &'static str, words: &[&str]| {
        let mut command = if verb == "drill" { drill(cluster, &store) } else { pgstow() };
        if verb != "drill" {
            command.arg(verb);
        }
        if matches!(verb, "verify" | "prune") {
            command.arg("--store").arg(&store);
        }
        command.args(words).current_dir(folder).env("PGSTOW_NOTIFY", addresses.join(","));
        command.env("A", cluster.url("alarms_fail")).env("PGSTOW_PG_BIN_DIR", cluster.bin_dir());
        (verb, Going::start(&mut command))
    };
    vec![verb("verify", &[]), verb("drill", &[]), verb("prune", &["--keep-last", "9"]), verb("run", &[])]
}

#[test]
pub(crate) fn a_receiver_that_fails_is_tried_again_and_never_fails_the_backup() {
    let cluster = database("alarms_fail");
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(|path, number| match path {
        "/never" | "/others/never" => None,
        "/second-time" => Some(if number % 2 == 0 { 503 } else { 200 }),
        "/broken" => Some(500),
        "/others/slow" => {
            std::thread::sleep(Duration::from_secs(3));
            Some(200)
        }
        _ => Some(403),
    });
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let others = other_commands(cluster, &folder.path().join("others"), &receiver);
    let mut command = backup(cluster, "alarms_fail", &folder.path().join("store"));
    let mut addresses: Vec<String> =
        ["/never", "/second-time", "/broken", "/forbidden?token=HUNTER2"].map(|path| receiver.url(path)).into();
    addresses.push(format!("http://{closed}/x"));
    let begun = Instant::now();
    let (out, err) = expect_code(command.env("PGSTOW_NOTIFY", addresses.join(",")), 0);
    assert!(begun.elapsed() < Duration::from_secs(100), "{:?}", begun.elapsed());
    let failed: Vec<&str> = out.lines().filter(|line| line.starts_with("NOT NOTIFIED: ")).collect();
    assert_eq!(failed.len(), 8, "{out}");
    for why in ["(start): HTTP 500: sorry (3 attempts)", "(success): HTTP 403: sorry", "(success): no answer within"] {
        assert!(failed.iter().any(|line| line.contains(why)), "{why}: {out}");
    }
    assert!(!out.contains("HUNTER2") && !err.contains("HUNTER2") && !out.contains("second-time"), "{out}{err}");
    let count = |path: &str| receiver.paths().iter().filter(|one| *one == path).count();
    assert_eq!((count("/second-time"), count("/broken"), count("/forbidden")), (4, 6, 2));
    // What had failed of the start when the manifest was written stands there; the backup waited for none of them.
    let manifest = Run::latest(&folder.path().join("store")).manifest;
    let kept = manifest["not_notified"].as_array().unwrap();
    let forbidden = kept.iter().find(|one| one["error"].as_str().unwrap().starts_with("HTTP 403"));
    let forbidden = forbidden.unwrap_or_else(|| panic!("{kept:?}"));
    assert_eq!(forbidden["event"], "start");
    assert_eq!(forbidden["target"], format!("webhook at 127.0.0.1:{}", receiver.port));
    assert!(kept.iter().all(|one| one["event"] == "start") && !manifest.to_string().contains("HUNTER2"), "{kept:?}");

    // Verify, drill, prune, a whole night: each ends as it would, and says who was not told.
    for (verb, going) in others {
        let (out, _) = going.expect_code(0);
        let failed: Vec<&str> = out.lines().filter(|line| line.contains("NOT NOTIFIED: ")).collect();
        assert_eq!(failed.len(), 6, "{verb}: {out}");
        assert!(failed.iter().filter(|line| line.contains("no answer within")).count() >= 2, "{verb}: {out}");
        assert!(!out.contains("/others/slow"), "{out}");
    }
    assert_eq!(count("/others/slow"), 8, "a slow receiver is told once of each start and each end");

    // What makes no sense is said at once.
    for wrong in ["ftp://x/y", "mailto:nobody", "hc-ping.com/HUNTER2"] {
        let (_, err) =
            expect_code(backup(cluster, "alarms_fail", &folder.path().join("store")).args(["--notify", wrong]), 2);
        assert!(err.contains("error: --notify: ") && !err.contains("HUNTER2"), "{err}");
    }
}

#[test]
pub(crate) fn an_interrupted_backup_is_told_in_time() {
    let cluster = database("alarms_stop");
    cluster.psql("alarms_stop", "INSERT INTO t SELECT generate_series(1, 300000)");
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(|path, _| (path != "/never").then_some(200));
    let mut command = backup(cluster, "alarms_stop", &folder.path().join("store"));
    command
        .args(["--rate-limit", "100kB"])
        .env("PGSTOW_NOTIFY", [receiver.url("/hook"), receiver.url("/never")].join(","));
    let going = Going::start(&mut command);
    let begun = Instant::now();
    while receiver.got().is_empty() {
        assert!(begun.elapsed() < Duration::from_mins(1));
        std::thread::sleep(Duration::from_millis(50));
    }
    let asked = Instant::now();
    going.signal("TERM");
    assert_eq!(going.code(), 143);
    assert!(asked.elapsed() < Duration::from_secs(15), "{:?}", asked.elapsed());
    let last: Value =
        serde_json::from_str(&receiver.got().iter().rfind(|got| got.path == "/hook").unwrap().body).unwrap();
    assert_eq!((&last["event"], &last["exit_code"]), (&"interrupted".into(), &143.into()));
}

#[test]
fn mail_goes_to_sendmail_and_metrics_and_ci_are_written() {
    let cluster = database("alarms_mail");
    let folder = tempfile::tempdir().unwrap();
    let (bin, mail) = (folder.path().join("bin"), folder.path().join("mail"));
    fs::create_dir_all(&bin).unwrap();
    fs::write(bin.join("sendmail"), format!("#!/bin/sh\ncat > {}\n", mail.display())).unwrap();
    fs::set_permissions(bin.join("sendmail"), fs::Permissions::from_mode(0o755)).unwrap();
    let store = folder.path().join("store");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let with = |command: &mut Command| {
        command.env("PATH", &path).args(["--notify", "mailto:ops@example.com", "--metrics-file"]);
        command.arg(folder.path().join("pgstow.prom"));
        command.env("GITHUB_ACTIONS", "true").env("GITHUB_STEP_SUMMARY", folder.path().join("summary.md"));
    };
    let mut command = backup(cluster, "alarms_mail", &store);
    with(&mut command);
    expect_code(&mut command, 0);
    assert!(!mail.exists());
    let value = |series: &str| -> Option<f64> {
        let text = fs::read_to_string(folder.path().join("pgstow.prom")).unwrap();
        text.lines().find(|line| line.starts_with(series)).map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
    };
    assert_eq!((value("pgstow_exit_code{"), value("pgstow_rows{")), (Some(0.0), Some(100.0)));
    let success = value("pgstow_last_success_timestamp_seconds{").unwrap();

    let mut command = backup(cluster, "not_there", &store);
    with(&mut command);
    let (_, err) = expect_code(&mut command, 1);
    assert!(err.lines().any(|line| line.starts_with("::error title=pgstow backup::")), "{err}");
    let text = fs::read_to_string(&mail).unwrap();
    assert!(text.contains("To: ops@example.com") && text.contains("Subject: pgstow backup FAILED"), "{text}");
    assert_eq!(value("pgstow_exit_code{"), Some(1.0));
    assert_eq!(value("pgstow_last_success_timestamp_seconds{"), Some(success));
    let summary = fs::read_to_string(folder.path().join("summary.md")).unwrap();
    assert!(
        summary.contains("### pgstow backup: success") && summary.contains("### pgstow backup: failure"),
        "{summary}"
    );

    let mut command = pgstow();
    let metrics = expect_code(command.args(["status", "--prometheus", "--store"]).arg(&store), 0).0;
    assert!(
        metrics.contains("# TYPE pgstow_status_ok gauge\npgstow_status_ok{store=") && metrics.contains("} 1\n"),
        "{metrics}"
    );
    let mut command = pgstow();
    command.env("GITLAB_CI", "true").args(["verify", "--store"]).arg(&store);
    let (_, err) = expect_code(&mut command, 0);
    assert!(err.contains("section_start:") && err.contains("section_end:"), "{err}");
}

/// A real SMTP server; it takes mail from `ops` with the right password, and says whether the session was encrypted.
const SMTP: &str = r"
import sys, ssl
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
class Keep:
    async def handle_DATA(self, server, session, envelope):
        with open(sys.argv[2], 'ab') as mails:
            mails.write(f'SSL {session.ssl is not None} FROM {envelope.mail_from} TO {envelope.rcpt_tos}\n'.encode() + envelope.content)
        return '250 kept'
def known(server, session, envelope, mechanism, data):
    return AuthResult(success=data.login == b'ops' and data.password == b's3cret/word', handled=False)
tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
tls.load_cert_chain(sys.argv[3] + '/crt', sys.argv[3] + '/key')
Controller(Keep(), hostname='127.0.0.1', port=int(sys.argv[1]), tls_context=tls, authenticator=known, auth_required=True,
           auth_require_tls=False).start()
sys.stdin.read()
";

#[test]
fn mail_goes_to_a_real_smtp_server() {
    let cluster = database("alarms_smtp");
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 9 -subj /CN=localhost -addext \
                 subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE -keyout key -out crt";
    succeed(Command::new("openssl").args(words.split_whitespace()).current_dir(folder.path()));
    let port = pg::free_port();
    let mut server = Command::new(tool("python3"));
    server.args(["-c", SMTP, &port.to_string()]).arg(path("mails")).arg(folder.path());
    let mut server = server.stdin(Stdio::piped()).spawn().unwrap();
    until("the SMTP server listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    let tell = |url: &str, store: &str| {
        let mut command = backup(cluster, "alarms_smtp", &path(store));
        command.args(["--notify", "mailto:dba@example.com,ops@example.com", "--notify-on", "all"]);
        command.env("PGSTOW_SMTP_URL", url).env("PGSTOW_MAIL_FROM", "backup <pgstow@example.com>");
        expect_code(command.env("SSL_CERT_FILE", path("crt")), 0)
    };
    for (url, is_encrypted) in [
        (format!("smtp://ops:s3cret%2Fword@127.0.0.1:{port}"), "False"),
        (format!("smtp://ops:s3cret%2Fword@localhost:{port}?tls=required"), "True"),
    ] {
        let (out, _) = tell(&url, is_encrypted);
        assert!(!out.contains("NOT NOTIFIED"), "{out}");
        let mail = fs::read_to_string(path("mails")).unwrap();
        fs::remove_file(path("mails")).unwrap();
        let head = format!("SSL {is_encrypted} FROM pgstow@example.com TO ['dba@example.com', 'ops@example.com']\n");
        let run = Run::latest(&path(is_encrypted)).name;
        assert!(mail.starts_with(&head) && mail.contains(&run), "{mail}");
        assert!(mail.contains("Subject: pgstow backup ok: alarms_smtp"), "{mail}");
    }
    let (out, err) = tell(&format!("smtp://ops:HUNTER2@127.0.0.1:{port}"), "wrong");
    assert!(out.contains("NOT NOTIFIED: mail to dba@example.com") && !path("mails").exists(), "{out}");
    assert!(!out.contains("HUNTER2") && !err.contains("HUNTER2"), "{err}");
    drop(server.stdin.take());
    server.wait().unwrap();
}

#[test]
fn a_night_tells_of_each_database_once() {
    let cluster = database("alarms_night");
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(|_, _| Some(200));
    let text = format!(
        "[defaults]\nstore = \"{}/{{name}}\"\nverify = true\nprune = {{ keep-last = 1 }}\nnotify = \"{}\"\n\
         [[database]]\nname = \"good\"\nurl = {{ env = \"GOOD\" }}\n[[database]]\nname = \"bad\"\nurl = {{ env = \"BAD\" }}\n",
        folder.path().display(),
        receiver.url("/each")
    );
    fs::write(folder.path().join("pgstow.toml"), text).unwrap();
    let mut command = pgstow();
    command
        .arg("run")
        .current_dir(folder.path())
        .env("GOOD", cluster.url("alarms_night"))
        .env("BAD", cluster.url("no_such"));
    command.env("PGSTOW_NOTIFY", receiver.url("/round")).env("PGSTOW_PG_BIN_DIR", cluster.bin_dir());
    expect_code(&mut command, 1);
    let told = |path: &str| -> Vec<String> {
        let got = receiver.got().into_iter().filter(|got| got.path == path);
        let bodies = got.map(|got| serde_json::from_str::<Value>(&got.body).unwrap());
        let line =
            |body: Value| format!("{} {}", body["name"].as_str().unwrap_or("-"), body["event"].as_str().unwrap());
        bodies.map(line).collect()
    };
    assert_eq!(told("/round"), ["- start", "- failure"]);
    assert_eq!(told("/each"), ["good start", "good success", "bad start", "bad failure"]);
    let round = receiver.got().into_iter().rfind(|got| got.path == "/round").unwrap();
    assert!(round.body.contains("1 of 2 databases did not end well: bad (backup failed)"), "{}", round.body);
    assert!(Path::new(&folder.path().join("good/latest.json")).exists());
}

/// The spans of the traces that a receiver got, and the attributes of a thing as JSON has them.
fn spans(receiver: &Receiver) -> Vec<Value> {
    let traces = receiver.got().into_iter().filter(|got| got.path == "/v1/traces");
    let bodies = traces.map(|got| serde_json::from_str::<Value>(&got.body).unwrap());
    bodies.flat_map(|body| body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap().clone()).collect()
}

fn attribute<'a>(thing: &'a Value, key: &str) -> &'a Value {
    let all = thing["attributes"].as_array().unwrap();
    &all.iter().find(|one| one["key"] == key).unwrap_or_else(|| panic!("{key}: {thing}"))["value"]
}

#[test]
fn traces_and_metrics_go_to_the_collector_that_the_variables_name() {
    const PARENT: (&str, &str) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    let cluster = database("alarms_otel");
    let folder = tempfile::tempdir().unwrap();
    let store = |name: &str| folder.path().join(name);
    let with = |mut command: Command, endpoint: &str| {
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint).env("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json");
        command.env("OTEL_EXPORTER_OTLP_HEADERS", "x-token=hunter2").env("OTEL_RESOURCE_ATTRIBUTES", "team=dba");
        command
    };
    // A collector that is away, one that fails and one that never answers cost a warning, and seconds.
    let broken = Receiver::start(|path, _| (!path.starts_with("/never")).then_some(400));
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let begun = Instant::now();
    let never = Going::start(&mut with(backup(cluster, "alarms_otel", &store("never")), &broken.url("/never")));
    for (name, endpoint, why) in
        [("away", format!("http://{closed}"), "onnection refused"), ("broken", broken.url(""), "HTTP 400")]
    {
        let (out, err) = expect_code(&mut with(backup(cluster, "alarms_otel", &store(name)), &endpoint), 0);
        assert!(err.contains("traces and metrics were not sent") && err.contains(why), "{name}: {err}{out}");
        assert!(!err.contains("hunter2"), "{err}");
    }

    let collector = Receiver::start(|_, _| Some(200));
    let mut command = with(backup(cluster, "alarms_otel", &store("store")), &collector.url(""));
    let (_, err) = expect_code(command.env("TRACEPARENT", format!("00-{}-{}-01", PARENT.0, PARENT.1)), 0);
    assert!(!err.contains("not sent"), "{err}");
    let run = Run::latest(&store("store")).name;
    let all = spans(&collector);
    let root = all.iter().find(|span| span["name"] == "pgstow backup").unwrap();
    assert_eq!((&root["traceId"], &root["parentSpanId"]), (&PARENT.0.into(), &PARENT.1.into()));
    assert_eq!(attribute(root, "pgstow.run")["stringValue"], *run);
    assert_eq!(attribute(root, "db.namespace")["stringValue"], "alarms_otel");
    let time = |span: &Value, name: &str| span[name].as_str().unwrap().parse::<u64>().unwrap();
    let (from, to) = (time(root, "startTimeUnixNano"), time(root, "endTimeUnixNano"));
    for name in ["locks and catalogue", "rows", "manifest"] {
        let step = all.iter().find(|span| span["name"] == name).unwrap_or_else(|| panic!("{name}: {all:?}"));
        assert_eq!((&step["traceId"], &step["parentSpanId"]), (&root["traceId"], &root["spanId"]));
        let (begun, ended) = (time(step, "startTimeUnixNano"), time(step, "endTimeUnixNano"));
        assert!(from <= begun && begun < ended && ended <= to, "{step} {root}");
    }
    let got = collector.got();
    assert!(got.iter().all(|got| got.headers.contains("x-token: hunter2")), "{got:?}");
    let metrics = got.iter().find(|got| got.path == "/v1/metrics").unwrap();
    let metrics: Value = serde_json::from_str(&metrics.body).unwrap();
    let resource = &metrics["resourceMetrics"][0]["resource"];
    assert_eq!(attribute(resource, "service.name")["stringValue"], "pgstow");
    assert_eq!(attribute(resource, "team")["stringValue"], "dba");
    let values = metrics["resourceMetrics"][0]["scopeMetrics"][0]["metrics"].as_array().unwrap();
    let rows = values.iter().find(|metric| metric["name"] == "pgstow.rows").unwrap_or_else(|| panic!("{values:?}"));
    assert_eq!(rows["gauge"]["dataPoints"][0]["asDouble"], 100.0);

    // A night and its steps are one trace; the failure of a step is that of its span. JSON is what is spoken by default.
    let night = Receiver::start(|_, _| Some(200));
    let text = "[defaults]\nstore = \"night\"\n[[database]]\nname = \"a\"\nurl = { env = \"A\" }\n";
    fs::write(folder.path().join("pgstow.toml"), text).unwrap();
    let mut command = pgstow();
    command.arg("run").current_dir(folder.path()).env("A", cluster.url("not_there"));
    expect_code(&mut with(command, &night.url("")), 1);
    let all = spans(&night);
    let named = |name: &str| all.iter().find(|span| span["name"] == name).unwrap_or_else(|| panic!("{name}: {all:?}"));
    let (run, step) = (named("pgstow run"), named("pgstow backup"));
    assert_eq!((&step["traceId"], &step["parentSpanId"]), (&run["traceId"], &run["spanId"]));
    assert!(step["status"]["code"] == 2 && step["status"]["message"].as_str().unwrap().contains("not_there"), "{step}");
    let plain = Receiver::start(|_, _| Some(200));
    let mut command = with(backup(cluster, "alarms_otel", &store("store")), &plain.url(""));
    expect_code(command.env_remove("OTEL_EXPORTER_OTLP_PROTOCOL").env("OTEL_METRICS_EXPORTER", "none"), 0);
    assert_eq!(plain.paths(), ["/v1/traces"]);
    let got = &plain.got()[0];
    assert!(got.headers.contains("content-type: application/json") && got.body.contains("pgstow backup"), "{got:?}");

    let (_, err) = never.expect_code(0);
    assert!(err.contains("traces and metrics were not sent") && begun.elapsed() < Duration::from_mins(1), "{err}");
}
