//! Options for providers, asserted by the headers that reach the server; proxies of the environment.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use crate::support::pg::{self, Cluster};
use crate::support::process::succeed;
use crate::support::program::{expect_code, expect_failure, pgstow};
use crate::support::proxy::{Asked, Fault, Proxy};
use crate::support::s3::S3Server;
use crate::support::session::until;

/// A server, a proxy that hears all, and a database whose backup has small objects and one in parts.
struct Rig {
    _runtime: tokio::runtime::Runtime,
    _folder: TempDir,
    server: S3Server,
    proxy: Proxy,
    cluster: &'static Cluster,
    database: &'static str,
}

impl Rig {
    fn new(database: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let server = runtime.block_on(S3Server::start(folder.path()));
        let proxy = runtime.block_on(Proxy::start(server.port, |_| None));
        let cluster = pg::shared(pg::versions()[0]);
        cluster.create_database(database);
        cluster.psql(database, "CREATE TABLE t AS SELECT i, encode(sha512(i::text::bytea), 'base64') || encode(sha512((-i)::text::bytea), 'base64') t FROM generate_series(1, 120000) i");
        Self { _runtime: runtime, _folder: folder, server, proxy, cluster, database }
    }

    fn backup(&self, more: &[&str]) -> Command {
        let mut command = pgstow();
        command.args(["backup", "--compression", "none", "--pg-bin-dir"]).arg(self.cluster.bin_dir());
        command.env("DATABASE_URL", self.cluster.url(self.database)).envs(self.server.env());
        command.env("AWS_ENDPOINT_URL_S3", &self.proxy.endpoint).args(more);
        command.args(["--store"]).arg(format!("s3://{}/p", self.server.bucket));
        command
    }

    /// What a successful backup with these options asked of the server.
    fn asked(&self, more: &[&str]) -> Vec<Asked> {
        let before = self.proxy.log().len();
        expect_code(&mut self.backup(more), 0);
        let asked: Vec<Asked> = self.proxy.log().split_off(before).into_iter().map(|(asked, _)| asked).collect();
        for (what, one) in
            [("a part", Asked::sends_part as fn(&Asked) -> bool), ("a beginning", Asked::creates), ("a PUT", puts)]
        {
            assert!(asked.iter().any(one), "{what} is not among it");
        }
        asked
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.cluster.drop_database(self.database);
    }
}

/// An object in one piece.
fn puts(asked: &Asked) -> bool {
    asked.method == "PUT" && !asked.sends_part()
}

fn of_a_run(asked: &Asked) -> bool {
    asked.target.contains("/p/runs/")
}

fn header<'a>(asked: &'a Asked, name: &str) -> Option<&'a str> {
    asked.headers.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

#[test]
fn without_options_no_header_is_sent_that_a_store_may_not_know() {
    let rig = Rig::new("options none");
    for asked in rig.asked(&[]) {
        for name in [
            "x-amz-server-side-encryption",
            "x-amz-storage-class",
            "x-amz-object-lock",
            "content-md5",
            "x-amz-checksum",
            "x-amz-sdk-checksum",
        ] {
            assert!(!asked.headers.contains(name), "{name}: {}", asked.headers);
        }
    }
}

#[test]
fn a_store_with_an_endpoint_needs_no_region_and_asks_no_metadata_service() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(S3Server::start(folder.path()));
    let metadata = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    metadata.set_nonblocking(true).unwrap();
    let list = |endpoint: &str| {
        let mut command = pgstow();
        command.args(["list", "--store"]).arg(format!("s3://{}/p", server.bucket)).envs(server.env());
        command.env("AWS_ENDPOINT_URL_S3", endpoint).env_remove("AWS_REGION").env("HOME", folder.path());
        command.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", format!("http://{}", metadata.local_addr().unwrap()));
        command
    };
    expect_code(&mut list(&server.endpoint), 0);
    assert_eq!(metadata.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "somebody asked");
    let (error, all) = expect_failure(&mut list("127.0.0.1:9000"), 2);
    assert!(error.contains("not an http:// or https:// URL") && all.contains("hint: write it as"), "{all}");
}

#[test]
fn encryption_and_storage_class_go_with_every_object_and_not_with_parts() {
    let rig = Rig::new("options encryption");
    let key = "1234abcd-12ab-34cd-56ef-1234567890ab";
    let with_key = ["--s3-sse", "aws:kms", "--s3-sse-kms-key-id", key, "--s3-storage-class", "STANDARD"];
    for (options, sse, key) in
        [(&["--s3-sse=AES256", "--s3-storage-class=STANDARD"][..], "aes256", None), (&with_key, "aws:kms", Some(key))]
    {
        for asked in rig.asked(options) {
            let object = asked.creates() || puts(&asked);
            assert_eq!(header(&asked, "x-amz-server-side-encryption"), object.then_some(sse), "{}", asked.headers);
            assert_eq!(header(&asked, "x-amz-server-side-encryption-aws-kms-key-id"), key.filter(|_| object));
            assert_eq!(header(&asked, "x-amz-storage-class"), object.then_some("standard"));
        }
    }
}

#[test]
fn a_storage_class_that_the_store_lacks_is_told_with_a_hint() {
    let rig = Rig::new("options class");
    let (error, all) = expect_failure(&mut rig.backup(&["--s3-storage-class", "NO_SUCH_CLASS"]), 1);
    assert!(error.contains("InvalidStorageClass") && all.contains("hint: the provider has no such class"), "{all}");
}

#[test]
fn the_objects_of_a_run_are_locked_with_md5_sums_and_the_pointer_is_not() {
    let rig = Rig::new("options lock");
    let begun = SystemTime::now();
    let asked = rig.asked(&["--s3-object-lock-mode", "COMPLIANCE", "--s3-object-lock-retain", "30d"]);
    let pointer = asked.iter().filter(|asked| puts(asked) && asked.target.contains("latest.json"));
    assert!(pointer.count() > 0);
    for asked in &asked {
        let object = asked.creates() || puts(asked);
        let locked = object && of_a_run(asked);
        assert_eq!(header(asked, "x-amz-object-lock-mode"), locked.then_some("compliance"), "{}", asked.headers);
        let until = header(asked, "x-amz-object-lock-retain-until-date");
        assert_eq!(until.is_some(), locked);
        if let Some(until) = until {
            let until = humantime::parse_rfc3339(&until.to_uppercase()).unwrap();
            let month = Duration::from_hours(30 * 24);
            assert!(until + Duration::from_secs(1) >= begun + month && until <= SystemTime::now() + month, "{until:?}");
        }
        // The server compares the sum with what it received.
        assert_eq!(header(asked, "content-md5").is_some(), puts(asked) || asked.sends_part(), "{}", asked.headers);
    }
}

#[test]
fn md5_sums_alone_can_be_asked_for() {
    let rig = Rig::new("options md5");
    for asked in rig.asked(&["--s3-content-md5"]) {
        assert_eq!(header(&asked, "content-md5").is_some(), puts(&asked) || asked.sends_part());
        assert!(!asked.headers.contains("object-lock"));
    }
}

#[test]
fn options_that_make_no_sense_are_refused_before_anything_is_sent() {
    let store = tempfile::tempdir().unwrap();
    let s3 = ["--store=s3://b/p", "--s3-endpoint=http://127.0.0.1:1"];
    let folder = format!("--store={}", store.path().display());
    let directory = [folder.as_str()];
    for (store, options, word) in [
        (&s3[..], &["--s3-sse-kms-key-id", "k"][..], "--s3-sse aws:kms"),
        (&s3, &["--s3-sse", "AES256", "--s3-sse-kms-key-id", "k"], "--s3-sse aws:kms"),
        (&s3, &["--s3-object-lock-mode", "GOVERNANCE"], "--s3-object-lock-retain 30d"),
        (&s3, &["--s3-object-lock-retain", "30d"], "COMPLIANCE"),
        (&s3, &["--s3-object-lock-mode", "GOVERNANCE", "--s3-object-lock-retain", "5s"], "30d"),
        (&directory, &["--s3-object-lock-mode", "GOVERNANCE", "--s3-object-lock-retain", "30d"], "s3://bucket/prefix"),
        (&directory, &["--s3-sse", "AES256"], "s3://bucket/prefix"),
    ] {
        let mut command = pgstow();
        command.arg("list").args(store).args(options).env("AWS_ACCESS_KEY_ID", "a").env("AWS_SECRET_ACCESS_KEY", "b");
        let (_, all) = expect_failure(&mut command, 2);
        assert!(all.contains("\nhint: ") && all.contains(word), "{all}");
    }
    let mut command = pgstow();
    expect_failure_of_usage(command.args(["list", "--s3-sse", "rot13"]));
}

/// What clap refuses: exit code 2, its own words.
#[track_caller]
fn expect_failure_of_usage(command: &mut Command) {
    let (_, err) = expect_code(command, 2);
    assert!(err.contains("AES256") && err.contains("aws:kms"), "{err}");
}

#[test]
fn an_endpoint_s_path_stands_before_the_bucket() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let proxy = runtime.block_on(Proxy::start(1, |_| Some(Fault::Answer(404, "NoSuchKey"))));
    for slash in ["", "/"] {
        let mut command = pgstow();
        command.args(["list", "--store", "s3://bucket/p", "--s3-endpoint"]);
        command.arg(format!("{}/storage/v1/s3{slash}", proxy.endpoint));
        command.env("AWS_ACCESS_KEY_ID", "a").env("AWS_SECRET_ACCESS_KEY", "b");
        expect_failure(&mut command, 1);
    }
    let log = proxy.log();
    assert!(
        log.len() >= 2 && log.iter().all(|(asked, _)| asked.target.starts_with("/storage/v1/s3/bucket")),
        "{log:?}"
    );
}

#[test]
fn a_proxy_of_the_environment_is_used_and_no_proxy_is_obeyed() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(S3Server::start(folder.path()));
    let proxy = runtime.block_on(Proxy::start(server.port, |_| None));
    let list = |more: &[(&str, &str)]| {
        let mut command = pgstow();
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
            command.env_remove(name).env_remove(name.to_lowercase());
        }
        command.args(["list", "--json", "--s3-attempts", "1", "--store"]).arg(format!("s3://{}/p", server.bucket));
        command.envs(server.env()).envs(more.iter().copied());
        command
    };
    expect_code(&mut list(&[("HTTP_PROXY", &proxy.endpoint)]), 0);
    let log = proxy.log();
    assert!(!log.is_empty() && log.iter().all(|(asked, _)| asked.target.starts_with(&server.endpoint)), "{log:?}");
    expect_code(&mut list(&[("HTTP_PROXY", &proxy.endpoint), ("NO_PROXY", "127.0.0.1")]), 0);
    expect_code(&mut list(&[("HTTPS_PROXY", &proxy.endpoint)]), 0);
    assert_eq!(proxy.log().len(), log.len(), "a host of NO_PROXY, and a store without TLS, are reached directly");
    // With TLS the proxy is asked for a tunnel; the store's name need not resolve here.
    proxy.follow(|asked| (asked.method == "CONNECT").then_some(Fault::Answer(403, "Forbidden")));
    let tunnel = [("HTTPS_PROXY", proxy.endpoint.as_str()), ("AWS_ENDPOINT_URL_S3", "https://store.invalid")];
    expect_failure(&mut list(&tunnel), 1);
    let asked: Vec<String> = proxy
        .log()
        .split_off(log.len())
        .into_iter()
        .map(|(asked, _)| format!("{} {}", asked.method, asked.target))
        .collect();
    assert_eq!(asked, ["CONNECT store.invalid:443"]);
}

/// `rclone serve s3` with TLS, ends when dropped.
struct Encrypted {
    folder: TempDir,
    port: u16,
    child: Child,
}

impl Encrypted {
    /// A server whose self-signed certificate says that it is an authority's (`CA:TRUE`), or that it is not.
    fn start(authority: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("files/bucket")).unwrap();
        let (certificate, key) = (folder.path().join("server.crt"), folder.path().join("server.key"));
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=store.example.com"]);
        openssl.args(["-addext", "subjectAltName=DNS:store.example.com,IP:127.0.0.1"]);
        openssl
            .args(["-addext", &format!("basicConstraints=critical,CA:{authority}"), "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&certificate);
        succeed(&mut openssl);
        let port = pg::free_port();
        let tools = std::env::var("PGSTOW_TOOLS").unwrap_or_else(|_unset| "/var/tmp/pgstow-tools".to_owned());
        let mut rclone = Command::new(format!("{tools}/venv/bin/rclone"));
        rclone.env("RCLONE_CONFIG", "/dev/null").args([
            "serve",
            "s3",
            "--auth-key",
            "AKTEST,test-secret-key",
            "--addr",
        ]);
        rclone.arg(format!("127.0.0.1:{port}")).arg("--cert").arg(&certificate).arg("--key").arg(&key);
        rclone.arg(folder.path().join("files")).stdout(Stdio::null()).stderr(Stdio::null());
        let child = rclone.spawn().expect("infra/setup installs rclone");
        until("rclone listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self { folder, port, child }
    }
}

impl Drop for Encrypted {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn a_store_with_an_authority_of_its_own_is_reached_directly_and_through_a_tunnel() {
    let server = Encrypted::start("FALSE");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let proxy = runtime.block_on(Proxy::start(server.port, |_| None));
    let doctor = |endpoint: &str, trusted: bool, more: &[(&str, &str)]| {
        let mut command = pgstow();
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
            command.env_remove(name).env_remove(name.to_lowercase());
        }
        command.args(["doctor", "--skip-database", "--store", "s3://bucket/p", "--s3-endpoint", endpoint]);
        if trusted {
            command.arg("--s3-ca-file").arg(server.folder.path().join("server.crt"));
        }
        command.env("AWS_ACCESS_KEY_ID", "AKTEST").env("AWS_SECRET_ACCESS_KEY", "test-secret-key");
        command.envs(more.iter().copied());
        command
    };
    let direct = format!("https://127.0.0.1:{}", server.port);
    let (out, _) = expect_code(&mut doctor(&direct, false, &[]), 1);
    assert!(out.contains("--s3-ca-file"), "{out}");
    expect_code(&mut doctor(&direct, true, &[]), 0);
    let tunnel = [("HTTPS_PROXY", proxy.endpoint.as_str())];
    expect_code(&mut doctor("https://store.example.com", true, &tunnel), 0);
    let log = proxy.log();
    assert!(!log.is_empty() && log.iter().all(|(asked, _)| asked.target == "store.example.com:443"), "{log:?}");
}

#[test]
fn a_self_signed_certificate_is_accepted_where_it_is_the_one_that_was_given() {
    // What `openssl req -x509` makes by itself says CA:TRUE.
    let (server, other) = (Encrypted::start("TRUE"), Encrypted::start("TRUE"));
    let doctor = |certificate: &Encrypted, scheme: &str| {
        let mut command = pgstow();
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
            command.env_remove(name).env_remove(name.to_lowercase());
        }
        command.args(["doctor", "--skip-database", "--store", "s3://bucket/p", "--s3-attempts", "1"]);
        command.args(["--s3-endpoint", &format!("{scheme}://127.0.0.1:{}", server.port)]);
        command.arg("--s3-ca-file").arg(certificate.folder.path().join("server.crt"));
        command.env("AWS_ACCESS_KEY_ID", "AKTEST").env("AWS_SECRET_ACCESS_KEY", "test-secret-key");
        command
    };
    expect_code(&mut doctor(&server, "https"), 0);
    let (out, _) = expect_code(&mut doctor(&other, "https"), 1);
    assert!(out.contains("a self-signed one itself, by --s3-ca-file"), "{out}");
    let (out, _) = expect_code(&mut doctor(&server, "http"), 1);
    assert!(out.contains(&format!("set the endpoint to https://127.0.0.1:{}", server.port)), "{out}");
}

#[test]
fn the_objects_of_a_run_are_written_once_and_a_retry_knows_its_own() {
    let rig = Rig::new("options once");
    let mut asked = rig.asked(&[]);
    asked.retain(|asked| of_a_run(asked) && (puts(asked) || asked.completes()));
    assert!(asked.iter().any(Asked::completes));
    for asked in &asked {
        assert_eq!(header(asked, "if-none-match"), Some("*"), "{} {}", asked.method, asked.target);
    }
    // Every first answer is lost, and the key may read nothing of a run but its manifest.
    rig.proxy.follow(|asked| {
        let reads = matches!(asked.method.as_str(), "GET" | "HEAD") && of_a_run(asked);
        if reads && !asked.target.contains("manifest.json") {
            return Some(Fault::Answer(403, "AccessDenied"));
        }
        let stores = of_a_run(asked) && (puts(asked) || asked.completes());
        (stores && asked.time == 1).then_some(Fault::LoseAnswer)
    });
    expect_code(&mut rig.backup(&[]), 0);
    // A server that does not know the condition says so, and is asked without it.
    rig.proxy
        .follow(|asked| asked.headers.contains("if-none-match: *").then_some(Fault::Answer(501, "NotImplemented")));
    expect_code(&mut rig.backup(&[]), 0);
    // Somebody else's object is in the way: none is replaced.
    rig.proxy.follow(|asked| {
        let first = asked.target.contains("roles.sql") && puts(asked);
        first.then_some(Fault::Answer(412, "PreconditionFailed"))
    });
    let (error, all) = expect_failure(&mut rig.backup(&[]), 1);
    assert!(error.contains("@roles.sql") && error.contains("somebody else has stored an object"), "{all}");
}
