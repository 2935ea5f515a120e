//! Credentials and endpoints: renewed while a backup runs, named by a profile, wrong in each way.

use std::fs;

use crate::support::pg;
use crate::support::program::{expect_code, expect_failure, pgstow};
use crate::support::proxy::{Fault, Proxy};
use crate::support::s3::{ACCESS_KEY, S3Server, SECRET_KEY};

fn profile(token: &str) -> String {
    format!(
        "[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\naws_session_token = {token}\n"
    )
}

#[test]
fn credentials_that_expire_during_a_backup_are_looked_for_again() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(S3Server::start(folder.path()));
    let file = folder.path().join("credentials");
    fs::write(&file, profile("first")).unwrap();
    let renewed = file.clone();
    let proxy = runtime.block_on(Proxy::start(server.port, move |asked| {
        let old = asked.headers.contains("x-amz-security-token: first");
        // Whoever renews them writes the file anew at this moment.
        (old && asked.number > 12).then(|| {
            fs::write(&renewed, profile("second")).unwrap();
            Fault::Answer(400, "ExpiredToken")
        })
    }));
    let cluster = pg::shared(pg::packaged());
    cluster.create_database("expired");
    cluster.psql("expired", "CREATE TABLE a AS SELECT 1 x; CREATE TABLE b AS SELECT 2 x; CREATE TABLE c AS SELECT 3 x");
    let command = |words: &[&str]| {
        let mut command = pgstow();
        command.args(words).args(["--store", "s3://backups/p", "--s3-endpoint", &proxy.endpoint]);
        command.env("AWS_SHARED_CREDENTIALS_FILE", &file).env("AWS_REGION", "us-east-1").env("HOME", folder.path());
        command.env("DATABASE_URL", cluster.url("expired"));
        command
    };
    let mut backup = command(&["backup"]);
    let (_, log) = expect_code(backup.arg("--pg-bin-dir").arg(cluster.bin_dir()), 0);
    assert!(log.contains("there are new ones"), "{log}");
    let faults = proxy.log().iter().filter(|(_, fault)| fault.is_some()).count();
    assert!(faults > 0, "nothing expired");
    expect_code(&mut command(&["verify"]), 0);
    // Nobody renews them: the error says what they are.
    proxy.follow(|_| Some(Fault::Answer(400, "ExpiredToken")));
    let (error, all) = expect_failure(&mut command(&["list"]), 1);
    assert!(error.contains("ExpiredToken") && all.contains("hint: the session token is no longer valid"), "{all}");
    cluster.drop_database("expired");
}

#[test]
fn what_is_wrong_with_endpoint_or_keys_is_said_and_a_profile_names_its_endpoint() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(S3Server::start(folder.path()));
    let list = |endpoint: &str, id: &str, secret: &str| {
        let mut command = pgstow();
        command.args(["list", "--store", "s3://backups/p", "--s3-attempts", "1"]).env("AWS_REGION", "us-east-1");
        command.env("AWS_ACCESS_KEY_ID", id).env("AWS_SECRET_ACCESS_KEY", secret).env("HOME", folder.path());
        command.env("AWS_ENDPOINT_URL_S3", endpoint);
        command
    };
    let http = server.endpoint.as_str();
    expect_code(&mut list(http, ACCESS_KEY, SECRET_KEY), 0);
    for (endpoint, id, secret, hint) in [
        (http, "AKWRONG", SECRET_KEY, "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        (http, ACCESS_KEY, "wrong", "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        (&format!("{http}/backups"), ACCESS_KEY, SECRET_KEY, &format!("set it to {http}")),
        (&http.replace("http://", "https://"), ACCESS_KEY, SECRET_KEY, "set the endpoint to http://"),
    ] {
        let (error, all) = expect_failure(&mut list(endpoint, id, secret), 1);
        assert!(all.lines().any(|line| line.starts_with("hint: ") && line.contains(hint)), "{endpoint}: {all}");
        assert!(!all.contains("policy") && !all.contains("IMDS"), "{all}");
        assert_eq!(error.matches("latest.json").count().max(1), 1, "said twice: {error}");
    }
    // One of the two keys, in the environment and in a profile.
    let mut half = list(http, ACCESS_KEY, "x");
    let (error, _) = expect_failure(half.env_remove("AWS_SECRET_ACCESS_KEY"), 2);
    assert!(error.contains("AWS_SECRET_ACCESS_KEY is not"), "{error}");

    // A profile whose services section names the endpoint of S3.
    let config = folder.path().join("config");
    let text = format!(
        "[profile own]\nservices = mine\nregion = us-east-1\naws_access_key_id = {ACCESS_KEY}\n\
         aws_secret_access_key = {SECRET_KEY}\n[services mine]\ns3 =\n  endpoint_url = {http}\n"
    );
    fs::write(&config, text).unwrap();
    let mut named = pgstow();
    named.args(["list", "--store", "s3://backups/p"]).env("AWS_CONFIG_FILE", &config).env("AWS_PROFILE", "own");
    expect_code(named.env("HOME", folder.path()), 0);
}
