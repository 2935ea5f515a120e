//! A network and a server that fail: what is tried again comes out whole, what cannot be done ends in one clear error,
//! and neither leaves an upload open.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pgstow::error::Error;
use pgstow::store::{Condition, Plan, Put, Store, WriteError};
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::runtime::Runtime;

use crate::support::pg::{self, Cluster};
use crate::support::program::{backup, expect_code, expect_failure, files, pgstow};
use crate::support::proxy::{Asked, Fault, Proxy};
use crate::support::s3::S3Server;
use crate::support::tally::Outcome;

const PART: usize = 5 << 20;
const KEY: &str = "runs/r/object";

/// A server, the proxy in front of it, a store that goes through the proxy and one that does not.
struct Rig {
    _folder: TempDir,
    _server: S3Server,
    proxy: Proxy,
    store: Store,
    calm: Store,
}

impl Rig {
    async fn new(script: impl FnMut(&Asked) -> Option<Fault> + Send + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = S3Server::start(folder.path()).await;
        let proxy = Proxy::start(server.port, script).await;
        let mut args = server.store_args("p");
        let calm = Store::open_with(&args, server.credentials()).await.unwrap();
        args.s3_endpoint = Some(proxy.endpoint.clone());
        args.s3_attempts = 4;
        args.s3_stall_timeout = Duration::from_secs(1);
        let store = Store::open_with(&args, server.credentials()).await.unwrap();
        Self { _folder: folder, _server: server, proxy, store, calm }
    }

    async fn write(&self, body: &Bytes) -> Result<(), WriteError> {
        let mut writer = self.store.writer(KEY, Plan { expected_bytes: body.len() as u64 });
        for piece in body.chunks(1_000_003) {
            writer.write(Bytes::copy_from_slice(piece)).await?;
        }
        let stored = writer.finish().await?;
        assert_eq!(stored.bytes, body.len() as u64);
        Ok(())
    }

    /// The object is there as it was sent, and nothing else.
    async fn holds(&self, body: &Bytes) {
        let stored = self.calm.get(KEY).await.unwrap().expect("the object is there");
        assert!(stored == *body, "the object's bytes differ");
        assert_eq!(self.calm.uploads("").await.unwrap(), [], "an upload was left open");
    }

    /// Neither object nor upload is there.
    async fn holds_nothing(&self) {
        assert_eq!(self.calm.head(KEY).await.unwrap(), None);
        assert_eq!(self.calm.uploads("").await.unwrap(), [], "an upload was left open");
    }

    /// An object of three parts arrives whole in spite of exactly so many faults.
    async fn arrives(&self, faults: usize) {
        let body = body(2 * PART + 12_345);
        self.write(&body).await.unwrap();
        assert_eq!(self.proxy.faults(), faults, "{:?}", self.proxy.log());
        self.holds(&body).await;
        self.proxy.tally(Outcome::Survived, "an object written");
    }

    /// An object of three parts fails within a bounded time and leaves nothing.
    async fn fails(&self) -> Error {
        let begun = Instant::now();
        let error = self.write(&body(2 * PART + 12_345)).await.unwrap_err();
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
        let error = Error::from(error);
        assert!(error.message().contains(KEY) && error.message().contains("s3://backups/p"), "{error}");
        self.holds_nothing().await;
        self.proxy.tally(Outcome::Failed, "an object written");
        error
    }
}

/// Bytes that differ at every place where parts could be mixed up.
fn body(length: usize) -> Bytes {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64 ^ length as u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.take(length.div_ceil(8)).flatten().take(length).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_reset_within_each_part_is_made_good() {
    let first = |asked: &Asked| (asked.sends_part() && asked.time == 1).then_some(Fault::Reset(10_000));
    Rig::new(first).await.arrives(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_busy_or_ill_for_a_while_is_asked_again() {
    for (status, code) in
        [(503, "SlowDown"), (500, "InternalError"), (429, "TooManyRequests"), (544, "DatabaseTimeout")]
    {
        // Each step of an upload: begin, parts, end. (After lost beginnings the writer also lists uploads.)
        let twice =
            move |asked: &Asked| (asked.method != "GET" && asked.time <= 2).then_some(Fault::Answer(status, code));
        Rig::new(twice).await.arrives(2 * 5).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stall_without_end_is_given_up_and_tried_again() {
    let second =
        |asked: &Asked| (asked.target.contains("partNumber=2") && asked.time == 1).then_some(Fault::Stall(100_000));
    Rig::new(second).await.arrives(1).await;
    // Nothing at all comes back, of a request without a body and of one with.
    let silent = |asked: &Asked| {
        ((asked.creates() || asked.target.contains("partNumber=3")) && asked.time == 1).then_some(Fault::StallAnswer(0))
    };
    Rig::new(silent).await.arrives(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_inside_an_answer_of_status_200_is_an_error() {
    let once = |asked: &Asked| (asked.completes() && asked.time == 1).then_some(Fault::Answer(200, "InternalError"));
    Rig::new(once).await.arrives(1).await;
    let always = |asked: &Asked| asked.completes().then_some(Fault::Answer(200, "InternalError"));
    let error = Rig::new(always).await.fails().await;
    assert!(error.message().contains("InternalError") && error.message().contains("after 4 attempts"), "{error}");
    let rig = Rig::new(|asked: &Asked| asked.completes().then_some(Fault::Answer(200, "InvalidPart"))).await;
    let error = rig.fails().await;
    assert!(error.message().contains("InvalidPart"), "{error}");
    assert_eq!(rig.proxy.faults(), 1, "what cannot get better is not tried again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_the_end_of_an_upload_is_found_out() {
    let once = |asked: &Asked| (asked.completes() && asked.time == 1).then_some(Fault::LoseAnswer);
    Rig::new(once).await.arrives(1).await;
    let always = |asked: &Asked| asked.completes().then_some(Fault::LoseAnswer);
    Rig::new(always).await.arrives(4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_answers_to_the_beginning_of_an_upload_leave_no_upload_open() {
    let twice = |asked: &Asked| (asked.creates() && asked.time <= 2).then_some(Fault::LoseAnswer);
    Rig::new(twice).await.arrives(2).await;
    let rig = Rig::new(|asked: &Asked| asked.creates().then_some(Fault::LoseAnswer)).await;
    rig.fails().await;
    assert_eq!(rig.proxy.faults(), 4);
    // Lost, then given up by the caller.
    let rig = Rig::new(twice).await;
    let mut writer = rig.store.writer(KEY, Plan::default());
    writer.write(body(2 * PART)).await.unwrap();
    drop(writer);
    rig.store.drain().await;
    assert_eq!(rig.proxy.faults(), 2);
    rig.holds_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_a_part_is_made_good() {
    let first = |asked: &Asked| (asked.sends_part() && asked.time == 1).then_some(Fault::LoseAnswer);
    Rig::new(first).await.arrives(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_checksum_of_a_part_is_sent_again() {
    let wrong = |asked: &Asked| (asked.sends_part() && asked.time == 1).then_some(Fault::WrongEtag);
    let rig = Rig::new(wrong).await;
    // The first answer of a store tells whether its etags are checksums.
    rig.store.put("small", Bytes::from_static(b"small"), Condition::None).await.unwrap();
    rig.arrives(3).await;
    let always = Rig::new(|asked: &Asked| asked.sends_part().then_some(Fault::WrongEtag)).await;
    always.store.put("small", Bytes::from_static(b"small"), Condition::None).await.unwrap();
    let error = always.fails().await;
    assert!(error.message().contains("checksum"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_breaks_or_stalls_goes_on_at_the_byte() {
    let body = body(3 * PART);
    for fault in [Fault::CutAnswer(1_000_000), Fault::StallAnswer(1_000_000), Fault::CutAnswer(20), Fault::LoseAnswer] {
        // The first three answers break, each at a later byte.
        let mut left = 3;
        let rig = Rig::new(move |asked: &Asked| {
            let broken = asked.method == "GET" && left > 0;
            left -= i32::from(broken);
            broken.then_some(fault)
        })
        .await;
        rig.calm.put(KEY, body.clone(), Condition::None).await.unwrap();
        let mut all = Vec::new();
        rig.store.read(KEY, 7..u64::MAX).await.unwrap().read_to_end(&mut all).await.unwrap();
        assert!(all == body[7..], "{fault:?}");
        assert_eq!(rig.proxy.faults(), 3);
        assert_eq!(rig.proxy.log().len(), 4);
        if fault == Fault::CutAnswer(1_000_000) {
            let log = rig.proxy.log();
            assert!(log[0].0.headers.contains("range: bytes=7-"), "{log:?}");
            assert!(!log[1].0.headers.contains("range: bytes=7-"), "it began anew: {log:?}");
        }
        rig.proxy.follow(move |_asked| Some(fault));
        let begun = Instant::now();
        if fault != Fault::CutAnswer(1_000_000) && fault != Fault::StallAnswer(1_000_000) {
            let Err(error) = rig.store.read(KEY, 0..10).await else { panic!("read through {fault:?}") };
            assert!(error.message().contains(KEY) && error.message().contains("after 4 attempts"), "{error}");
            assert!(rig.store.get(KEY).await.is_err());
        }
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn small_objects_and_lists_are_read_whole_or_not_at_all() {
    let body = body(100_000);
    for fault in
        [Fault::CutAnswer(50_000), Fault::StallAnswer(50_000), Fault::Reset(0), Fault::Answer(502, "BadGateway")]
    {
        let rig = Rig::new(move |asked: &Asked| (asked.time <= 2).then_some(fault)).await;
        rig.calm.put(KEY, body.clone(), Condition::None).await.unwrap();
        assert_eq!(rig.store.get(KEY).await.unwrap().as_ref(), Some(&body), "{fault:?}");
        assert_eq!(rig.proxy.faults(), 2);
    }
    for fault in [Fault::CutAnswer(300), Fault::StallAnswer(300), Fault::LoseAnswer, Fault::Answer(503, "SlowDown")] {
        let rig = Rig::new(move |asked: &Asked| (asked.time <= 2).then_some(fault)).await;
        rig.calm.put(KEY, body.clone(), Condition::None).await.unwrap();
        let keys: Vec<String> = rig.store.list("").await.unwrap().into_iter().map(|object| object.key).collect();
        assert_eq!(keys, [KEY], "{fault:?}");
        assert_eq!(rig.store.folders("runs/").await.unwrap(), ["r"]);
        rig.store.delete(KEY).await.unwrap();
        rig.holds_nothing().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_never_arrive_end_in_an_error_and_no_upload() {
    let rig = Rig::new(|asked: &Asked| asked.sends_part().then_some(Fault::Reset(1000))).await;
    let error = rig.fails().await;
    assert!(error.message().contains("after 4 attempts"), "{error}");
    // The server cannot be reached until after the writer has begun to remove what it stored.
    let mut refused = 0;
    let rig = Rig::new(move |asked: &Asked| {
        let aborts = asked.method == "DELETE";
        refused += i32::from(aborts);
        (asked.sends_part() || (aborts && refused < 3)).then_some(Fault::Reset(0))
    })
    .await;
    rig.fails().await;
    let denied = Rig::new(|asked: &Asked| asked.sends_part().then_some(Fault::Answer(403, "AccessDenied"))).await;
    let error = denied.fails().await;
    assert!(error.message().contains("AccessDenied") && !error.hints().is_empty(), "{error}");
    assert!(denied.proxy.faults() <= 3, "what cannot get better is not tried again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_a_conditional_put_is_no_refusal() {
    let once = |asked: &Asked| (asked.method == "PUT" && asked.time == 1).then_some(Fault::LoseAnswer);
    let rig = Rig::new(once).await;
    let (first, two) = (Bytes::from_static(b"one"), Bytes::from_static(b"two"));
    let Put::Stored { etag } = rig.store.put("latest.json", first, Condition::Absent).await.unwrap() else {
        panic!("our own object was taken for another's")
    };
    assert_eq!(rig.proxy.faults(), 1);
    assert_eq!(rig.store.put("latest.json", two.clone(), Condition::Absent).await.unwrap(), Put::Refused);
    let mut lost = false;
    rig.proxy.follow(move |asked| {
        let loses = asked.method == "PUT" && !lost;
        lost |= loses;
        loses.then_some(Fault::LoseAnswer)
    });
    let replaced = rig.store.put("latest.json", two.clone(), Condition::Matches(etag.unwrap())).await.unwrap();
    assert!(matches!(replaced, Put::Stored { .. }), "our own object was taken for another's");
    assert_eq!(rig.proxy.faults(), 2);
    assert_eq!(rig.calm.get("latest.json").await.unwrap(), Some(two));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_writer_s_object_is_a_refusal_even_after_a_lost_answer() {
    // The first request never arrives; meanwhile somebody else stores the key.
    let rig = Rig::new(|asked: &Asked| (asked.method == "PUT" && asked.time == 1).then_some(Fault::Reset(0))).await;
    rig.calm.put("latest.json", Bytes::from_static(b"theirs"), Condition::None).await.unwrap();
    let put = rig.store.put("latest.json", Bytes::from_static(b"ours"), Condition::Absent).await.unwrap();
    assert_eq!((put, rig.proxy.faults()), (Put::Refused, 1));
    assert_eq!(rig.calm.get("latest.json").await.unwrap().unwrap(), "theirs");
}

/// A bucket behind a proxy for the program itself; the rows of its database fill several parts.
struct Behind {
    folder: TempDir,
    runtime: Runtime,
    server: S3Server,
    proxy: Proxy,
    cluster: &'static Cluster,
    database: &'static str,
}

impl Behind {
    fn new(database: &'static str) -> Self {
        let (folder, runtime) = (tempfile::tempdir().unwrap(), Runtime::new().unwrap());
        let server = runtime.block_on(S3Server::start(folder.path()));
        let proxy = runtime.block_on(Proxy::start(server.port, |_asked| None));
        let cluster = pg::shared(*pg::versions().last().unwrap());
        cluster.create_database(database);
        cluster.psql(
            database,
            "CREATE TABLE big (id int, t text); CREATE TABLE small (id int); INSERT INTO small VALUES (1);
            INSERT INTO big SELECT i, (SELECT string_agg(md5((i * 64 + j)::text), '') FROM generate_series(1, 56) j)
            FROM generate_series(1, 16000) i",
        );
        Self { folder, runtime, server, proxy, cluster, database }
    }

    fn with_store(&self, mut command: Command) -> Command {
        command.envs(self.server.env()).env("AWS_ENDPOINT_URL_S3", &self.proxy.endpoint);
        command.args(["--s3-part-size-mib", "5", "--s3-attempts", "4", "--s3-stall-timeout", "1s"]);
        command
    }

    fn backup(&self) -> Command {
        self.with_store(backup(self.cluster, self.database, Path::new("s3://backups/pre")))
    }

    fn verify(&self) {
        let mut command = pgstow();
        command.args(["verify", "--store", "s3://backups/pre"]);
        expect_code(&mut self.with_store(command), 0);
    }

    fn open_uploads(&self) -> usize {
        let open = async {
            let store = Store::open_with(&self.server.store_args("pre"), self.server.credentials()).await.unwrap();
            store.uploads("").await.unwrap().len()
        };
        self.runtime.block_on(open)
    }

    /// The objects whose key ends so, with their bytes.
    fn ending(&self, end: &str) -> Vec<(String, Vec<u8>)> {
        let bucket = self.folder.path().join("backups");
        let keys = files(&bucket).into_iter().filter(|key| key.starts_with("pre/") && key.ends_with(end));
        keys.map(|key| (key.clone(), std::fs::read(bucket.join(&key)).unwrap())).collect()
    }
}

#[test]
pub(crate) fn a_backup_over_a_bad_network_is_whole() {
    let behind = Behind::new("faults third");
    behind.proxy.follow(|asked| {
        let faults = [Fault::Reset(1000), Fault::Answer(503, "SlowDown"), Fault::Stall(1000)];
        // The end of an upload may take a server long: a stall there is given up after 20 times the stall timeout.
        let fault = faults[asked.number / 3 % 3];
        let fault = if asked.completes() && fault == Fault::Stall(1000) { Fault::LoseAnswer } else { fault };
        // Of four attempts at one thing at most two meet a fault: more would be a network that nothing gets over.
        (asked.number % 3 == 0 && asked.time <= 2).then_some(fault)
    });
    expect_code(&mut behind.backup(), 0);
    let log = behind.proxy.log();
    assert!(log.iter().filter(|(asked, _)| asked.sends_part()).count() >= 3, "no upload in parts: {log:?}");
    assert!(behind.proxy.faults() >= 5, "{log:?}");
    behind.verify();
    assert_eq!((behind.open_uploads(), behind.ending("latest.json").len()), (0, 1));
    behind.proxy.tally(Outcome::Survived, "a backup");
    behind.cluster.drop_database("faults third");
}

#[test]
pub(crate) fn a_backup_whose_server_goes_away_for_good_promotes_nothing() {
    let behind = Behind::new("faults gone");
    expect_code(&mut behind.backup(), 0);
    let promoted = |behind: &Behind| (behind.ending("latest.json"), behind.ending("manifest.json"));
    let before = promoted(&behind);
    assert_eq!((before.0.len(), before.1.len()), (1, 1));

    // From the second part of a table on: its upload cannot be removed, and that is said.
    let mut gone = false;
    behind.proxy.follow(move |asked| {
        gone |= asked.target.contains("partNumber=2");
        gone.then_some(Fault::Reset(0))
    });
    let begun = Instant::now();
    let (_error, all) = expect_failure(&mut behind.backup(), 1);
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    assert!(all.contains("left open") || all.contains("may be left in the store"), "{all}");
    assert!(promoted(&behind) == before, "a failed run promoted something");
    assert!(behind.open_uploads() > 0, "the fault came too late to test anything");

    // The manifest never arrives.
    let mut gone = false;
    behind.proxy.follow(move |asked| {
        gone |= asked.method == "PUT" && asked.target.contains("manifest.json");
        gone.then_some(Fault::Reset(0))
    });
    let (error, _all) = expect_failure(&mut behind.backup(), 1);
    assert!(error.contains("manifest.json"), "{error}");
    assert!(promoted(&behind) == before, "a failed run promoted something");

    // The manifest arrives, but nobody learns of it; the server is back for what comes after.
    behind
        .proxy
        .follow(|asked| (asked.method == "PUT" && asked.target.contains("manifest.json")).then_some(Fault::LoseAnswer));
    let (error, _all) = expect_failure(&mut behind.backup(), 1);
    assert!(error.contains("manifest.json"), "{error}");
    assert!(promoted(&behind) == before, "a failed run left its manifest");

    // The pointer cannot be moved: the run is whole, but it is not the latest.
    behind
        .proxy
        .follow(|asked| (asked.method == "PUT" && asked.target.contains("latest.json")).then_some(Fault::Reset(0)));
    let (error, all) = expect_failure(&mut behind.backup(), 1);
    assert!(error.contains("latest.json") && all.contains("hint: the run itself is complete"), "{all}");
    assert!(behind.ending("latest.json") == before.0, "the pointer moved");
    behind.proxy.follow(|_asked| None);
    behind.verify();
    expect_code(&mut behind.backup(), 0);
    assert!(behind.ending("latest.json") != before.0);
    behind.cluster.drop_database("faults gone");
}
