//! `pgstow doctor` and the store: each ability as a real server shows it, and as a broken or a poorer one would.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use pgstow::store::Store;
use serde_json::Value;
use tempfile::TempDir;

use crate::doctor::finding;
use crate::support::pg;
use crate::support::program::{Going, expect_code, expect_failure, files, pgstow};
use crate::support::proxy::{Asked, Fault, Proxy};
use crate::support::s3::S3Server;
use crate::support::session::until;

/// A server and the proxy in front of it.
struct Rig {
    runtime: tokio::runtime::Runtime,
    folder: TempDir,
    server: S3Server,
    proxy: Proxy,
}

impl Rig {
    fn new(script: impl FnMut(&Asked) -> Option<Fault> + Send + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let server = runtime.block_on(S3Server::start(folder.path()));
        let proxy = runtime.block_on(Proxy::start(server.port, script));
        Self { runtime, folder, server, proxy }
    }

    /// A command of the program with this store, through the proxy.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = pgstow();
        command.args(words).envs(self.server.env()).env("AWS_ENDPOINT_URL_S3", &self.proxy.endpoint);
        command.args(["--s3-attempts", "2", "--store"]).arg(format!("s3://{}/some/prefix", self.server.bucket));
        command
    }

    #[track_caller]
    fn examined(&self, code: i32, more: &[&str]) -> Value {
        let mut command = self.command(&["doctor", "--json", "--skip-database"]);
        let (out, _) = expect_code(command.args(more), code);
        serde_json::from_str(&out).unwrap()
    }

    /// No object and no upload is in the bucket.
    #[track_caller]
    fn is_clean(&self) {
        let there: Vec<String> = files(&self.folder.path().join(&self.server.bucket));
        assert_eq!(there, Vec::<String>::new());
        let open = self.runtime.block_on(async {
            let store = Store::open_with(&self.server.store_args(""), self.server.credentials()).await.unwrap();
            store.uploads("").await.unwrap()
        });
        assert_eq!(open, []);
    }
}

/// What was seen of each ability.
fn abilities(document: &Value) -> BTreeMap<&str, &str> {
    let all = document["store"]["abilities"].as_array().unwrap();
    all.iter().map(|one| (one["name"].as_str().unwrap(), one["seen"].as_str().unwrap())).collect()
}

#[test]
fn a_directory_is_tried_and_left_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let look = |store: &Path, code: i32| -> Value {
        let mut command = pgstow();
        command.args(["doctor", "--json", "--skip-database", "--store"]).arg(store);
        serde_json::from_str(&expect_code(&mut command, code).0).unwrap()
    };
    let fresh = folder.path().join("not/there/yet");
    let document = look(&fresh, 0);
    assert_eq!(document["verdict"], "ok", "{document:#}");
    let seen = abilities(&document);
    assert_eq!(
        seen.keys().copied().collect::<Vec<_>>(),
        ["delete", "if-match", "if-none-match", "key-characters", "list", "put", "range", "read"]
    );
    assert!(seen.values().all(|seen| *seen == "yes"), "{seen:?}");
    assert!(
        document["store"]["disk"]["free_bytes"].as_u64().unwrap() > 0
            && finding(&document, "disk").1.contains(" free of ")
    );
    assert!(document["policies"].is_null());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the folders it made are gone");
    std::fs::write(folder.path().join("mine"), "x").unwrap();
    assert_eq!(look(folder.path(), 0)["verdict"], "ok");
    assert_eq!(std::fs::read_to_string(folder.path().join("mine")).unwrap(), "x");
    let document = look(&folder.path().join("mine"), 1);
    assert_eq!(finding(&document, "put").0, "error");
}

#[test]
fn an_s3_server_is_tried_ability_by_ability_and_left_as_it_was() {
    let rig = Rig::new(|_| None);
    let document = rig.examined(0, &[]);
    assert_eq!(document["verdict"], "ok", "{document:#}");
    let seen = abilities(&document);
    let yes = [
        "reach",
        "put",
        "etag-md5",
        "read",
        "range",
        "list",
        "key-characters",
        "delete",
        "if-none-match",
        "if-match",
        "checksum-headers",
        "checksum-verified",
        "content-md5",
        "content-md5-verified",
        "multipart",
        "etag-md5-parts",
        "multipart-unequal",
        "max-parts",
        "list-uploads",
        "abort",
    ];
    for name in yes {
        assert_eq!(seen.get(name), Some(&"yes"), "{name}: {document:#}");
    }
    assert_eq!((seen.get("object-lock"), seen.get("versioning")), (Some(&"no"), Some(&"no")), "{document:#}");
    assert_eq!(finding(&document, "clock").0, "ok");
    rig.is_clean();
    let asked = rig.proxy.log();
    let outside: Vec<&str> = asked
        .iter()
        .map(|(asked, _)| asked.target.as_str())
        .filter(|target| {
            let (path, query) = target.split_once('?').unwrap_or((target, ""));
            // The signature of the latest run is looked for.
            let latest = path.ends_with("/some/prefix/latest.json");
            !latest && !path.contains("/some/prefix/doctor/") && !query.contains("prefix=some%2Fprefix%2F")
        })
        .collect();
    assert_eq!(outside, Vec::<&str>::new());
    for word in ["object-lock", "retention", "legal-hold", "versions", "tagging", "acl", "versionId"] {
        assert!(
            !asked.iter().any(|(asked, _)| asked.has(word)),
            "?{word} is taken for the object itself by some stores"
        );
    }
}

#[test]
fn a_poorer_store_is_described_and_serves_all_the_same() {
    // Conditions unknown, no list of uploads, part numbers up to 1000, one size of parts, no deletion.
    let mut first = String::new();
    let rig = Rig::new(move |asked| {
        let number =
            asked.target.split(['?', '&']).find_map(|pair| pair.strip_prefix("partNumber=")).map(str::to_owned);
        let length =
            asked.headers.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or_default().to_owned();
        match asked.method.as_str() {
            "PUT" if asked.headers.contains("if-none-match") || asked.headers.contains("if-match") => {
                Some(Fault::Answer(501, "NotImplemented"))
            }
            "GET" if asked.has("uploads") => Some(Fault::Answer(501, "NotImplemented")),
            "DELETE" if !asked.has("uploadId") => Some(Fault::Answer(403, "AccessDenied")),
            "PUT" if number.as_deref() == Some("10000") => Some(Fault::Answer(400, "InvalidArgument")),
            "PUT" if number.as_deref() == Some("1") => {
                first = length;
                None
            }
            "PUT" if number.as_deref() == Some("2") && length != first && length != "1024" => {
                Some(Fault::Answer(400, "InvalidPart"))
            }
            _ => None,
        }
    });
    let document = rig.examined(0, &[]);
    let seen = abilities(&document);
    for (name, expected) in [
        ("if-none-match", "no"),
        ("if-match", "no"),
        ("list-uploads", "no"),
        ("delete", "no"),
        ("max-parts", "no"),
        ("multipart", "yes"),
        ("multipart-unequal", "unknown"),
        ("abort", "yes"),
    ] {
        assert_eq!(seen.get(name), Some(&expected), "{name}: {document:#}");
    }
    let (level, text, _) = finding(&document, "delete");
    assert!(level == "ok" && text.contains("can't delete backups, but it can overwrite them"), "{text}");
    assert!(finding(&document, "max-parts").2.contains("--s3-max-parts 1000"));
    assert!(finding(&document, "list-uploads").2.contains("lifecycle"));
    let (level, text, _) = finding(&document, "clean");
    assert!(level == "warning" && text.contains("some/prefix/doctor/"), "{text}");
    let bucket = rig.folder.path().join(&rig.server.bucket);
    let left: u64 = files(&bucket).iter().map(|file| std::fs::metadata(bucket.join(file)).unwrap().len()).sum();
    assert!(left > 0 && left < 10_000, "what cannot be deleted is small: {left}");
    assert_eq!(finding(&rig.examined(0, &["--s3-max-parts", "1000"]), "max-parts").0, "ok");
    // A pointer moves there without conditions.
    let cluster = pg::shared(pg::versions()[0]);
    let mut backup = rig.command(&["backup"]);
    backup.arg("--pg-bin-dir").arg(cluster.bin_dir()).env("DATABASE_URL", cluster.url("postgres"));
    expect_code(&mut backup, 0);
    assert!(files(&bucket).contains(&"some/prefix/latest.json".to_owned()));
}

#[test]
fn parts_of_one_size_only_are_told_and_are_enough() {
    let rig = Rig::new(|asked| {
        let odd = asked.headers.contains("content-length: 5242881");
        odd.then_some(Fault::Answer(400, "InvalidPart"))
    });
    let document = rig.examined(0, &[]);
    assert_eq!((document["verdict"].as_str(), abilities(&document)["multipart-unequal"]), (Some("ok"), "no"));
    rig.is_clean();
}

#[test]
fn wrong_clocks_are_told_by_how_much() {
    let rig = Rig::new(|_| Some(Fault::Date("Wed, 21 Oct 2015 07:28:00 GMT")));
    let document = rig.examined(1, &[]);
    let (level, text, cure) = finding(&document, "clock");
    assert!(level == "error" && text.contains("ahead of the store's") && cure.contains("NTP"), "{text} {cure}");
    assert!(document["store"]["clock_ahead_seconds"].as_i64().unwrap() < -300_000_000);
}

#[test]
fn what_fails_is_an_error_with_its_cure_and_leaves_nothing() {
    let rig = Rig::new(|asked| asked.completes().then_some(Fault::Answer(403, "AccessDenied")));
    let document = rig.examined(1, &[]);
    let (level, text, cure) = finding(&document, "multipart");
    assert!(level == "error" && text.contains("AccessDenied") && cure.contains("s3:PutObject"), "{text} {cure}");
    rig.is_clean();
    rig.proxy.follow(|asked| (asked.method == "PUT").then_some(Fault::Answer(403, "AccessDenied")));
    assert_eq!(finding(&rig.examined(1, &[]), "put").0, "error");
    rig.is_clean();
    rig.proxy.follow(|_| Some(Fault::Answer(403, "InvalidAccessKeyId")));
    let (_, text, cure) = finding(&rig.examined(1, &[]), "reach");
    assert!(text.contains("InvalidAccessKeyId") && cure.contains("AWS_ACCESS_KEY_ID"), "{text} {cure}");
    rig.proxy.follow(|_| None);
    let mut command = rig.command(&["doctor", "--skip-database"]);
    let (out, err) = expect_code(command.env("AWS_SECRET_ACCESS_KEY", "wrong-secret"), 1);
    assert!(out.contains("SignatureDoesNotMatch") && err.contains("error: one check found"), "{out}{err}");
    assert!(!out.contains("wrong-secret") && !err.contains("wrong-secret"));
    // Its hint says what can be done without a store that exists.
    let mut command = rig.command(&["doctor", "--skip-database"]);
    expect_failure(command.args(["--s3-object-lock-mode", "GOVERNANCE"]), 2);
}

#[test]
fn a_signal_in_the_middle_leaves_nothing() {
    let rig = Rig::new(|asked| asked.sends_part().then_some(Fault::Stall(1 << 20)));
    let going = Going::start(&mut rig.command(&["doctor", "--skip-database"]));
    until("a part is on its way", || rig.proxy.log().iter().any(|(asked, _)| asked.sends_part()));
    going.signal("TERM");
    going.expect_code(143);
    rig.is_clean();
}

/// The action of IAM that a request needs, and the key it is about.
fn action(asked: &Asked, bucket: &str) -> (&'static str, String) {
    let path = asked.target.split('?').next().unwrap_or_default();
    let key = path.strip_prefix(&format!("/{bucket}")).unwrap_or_default().trim_start_matches('/');
    let key = key.replace("%3D", "=").replace("%40", "@");
    let action = match asked.method.as_str() {
        "GET" if key.is_empty() && asked.has("uploads") => "s3:ListBucketMultipartUploads",
        "GET" if key.is_empty() => "s3:ListBucket",
        "GET" | "HEAD" => "s3:GetObject",
        "DELETE" if asked.has("uploadId") => "s3:AbortMultipartUpload",
        "DELETE" => "s3:DeleteObject",
        "PUT" | "POST" => "s3:PutObject",
        other => panic!("{other} {}", asked.target),
    };
    (action, key)
}

/// Whether a policy of one bucket allows an action on a key. Patterns have one `*` or none.
fn allows(policy: &Value, bucket: &str, (action, key): &(&str, String)) -> bool {
    let resource =
        if key.is_empty() { format!("arn:aws:s3:::{bucket}") } else { format!("arn:aws:s3:::{bucket}/{key}") };
    let fits = |pattern: &str| match pattern.split_once('*') {
        None => pattern == resource,
        Some((before, after)) => {
            resource.starts_with(before) && resource.ends_with(after) && resource.len() >= before.len() + after.len()
        }
    };
    let lists = |value: &Value, fit: &dyn Fn(&str) -> bool| {
        value.as_array().unwrap().iter().any(|one| fit(one.as_str().unwrap()))
    };
    policy["Statement"]
        .as_array()
        .unwrap()
        .iter()
        .any(|statement| lists(&statement["Action"], &|one| one == *action) && lists(&statement["Resource"], &fits))
}

#[test]
fn the_policies_that_doctor_prints_suffice_and_are_no_larger() {
    let rig = Rig::new(|_| None);
    let document = rig.examined(0, &[]);
    let bucket = rig.server.bucket.clone();
    let (cluster, name) = (pg::shared(pg::versions()[0]), "doctor policy");
    cluster.create_database(name);
    // Large enough for parts.
    cluster.psql(name, "CREATE TABLE t AS SELECT i, encode(sha512(i::text::bytea), 'base64') || encode(sha512((-i)::text::bytea), 'base64') t FROM generate_series(1, 250000) i");
    let run = |policy: &str, words: &[&str], code: i32| {
        let (policy, bucket) = (document["policies"][policy].clone(), bucket.clone());
        assert!(policy["Statement"].is_array(), "{document:#}");
        rig.proxy.follow(move |asked| {
            (!allows(&policy, &bucket, &action(asked, &bucket))).then_some(Fault::Answer(403, "AccessDenied"))
        });
        let before = rig.proxy.log().len();
        let mut command = rig.command(words);
        command.env("DATABASE_URL", cluster.url(name));
        let (_, err) = expect_code(&mut command, code);
        let log = rig.proxy.log().split_off(before);
        if code == 0 {
            let denied: Vec<&Asked> = log.iter().filter(|(_, fault)| fault.is_some()).map(|(asked, _)| asked).collect();
            assert!(denied.is_empty(), "{denied:?}\n{err}");
        }
        log
    };
    let bin = cluster.bin_dir().display().to_string();
    let backup = ["backup", "--compression", "none", "--pg-bin-dir", &bin];
    let log = run("write_only", &backup, 0);
    assert!(log.iter().any(|(asked, _)| asked.completes()), "an upload in parts was among it");
    run("write_only", &backup, 0);
    run("write_only", &["verify"], 1);
    // What such a key may not do is no error.
    let policy = document["policies"]["write_only"].clone();
    let name_of_bucket = bucket.clone();
    rig.proxy.follow(move |asked| {
        let denied = !allows(&policy, &name_of_bucket, &action(asked, &name_of_bucket));
        denied.then_some(Fault::Answer(403, "AccessDenied"))
    });
    let seen = rig.examined(0, &[]);
    for one in ["read", "delete", "list-uploads"] {
        let (level, text, _) = finding(&seen, one);
        assert!(level == "ok" && text.contains("another key"), "{text}");
    }
    assert_eq!(finding(&seen, "multipart").0, "ok");
    let mut used: Vec<&str> = Vec::new();
    for words in [&backup[..], &["verify"], &["list"], &["doctor", "--skip-database"]] {
        used.extend(run("full", words, 0).iter().map(|(asked, _)| action(asked, &bucket).0));
    }
    for statement in document["policies"]["full"]["Statement"].as_array().unwrap() {
        for one in statement["Action"].as_array().unwrap() {
            assert!(used.contains(&one.as_str().unwrap()), "{one} is not needed");
        }
    }
    rig.proxy.follow(|_| None);
    cluster.drop_database(name);
}
