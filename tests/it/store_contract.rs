//! The store's contract: one suite, every store passes it.

use bytes::Bytes;
use pgstow::cli::args::StoreArgs;
use pgstow::error::Error;
use pgstow::store::{Condition, Plan, Put, Store, WriteError};
use tokio::io::AsyncReadExt as _;

use crate::support::s3::{S3Server, store_args};

const PART: usize = 5 << 20;

/// Bytes that differ at every place where parts could be mixed up.
fn bytes(length: usize) -> Bytes {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64 ^ length as u64;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(length);
    Bytes::from(out)
}

async fn read(store: &Store, key: &str, from: u64, to: u64) -> Vec<u8> {
    let mut all = Vec::new();
    store.read(key, from..to).await.unwrap().read_to_end(&mut all).await.unwrap();
    all
}

/// What every store does; `conditions` where it is known to honour them.
async fn contract(store: &Store, conditions: bool) {
    store.check().await.unwrap();
    small_objects(store).await;
    lengths_around_part_borders(store).await;
    unfinished_writers(store).await;
    many_keys(store).await;
    if conditions {
        conditional_puts(store).await;
    }
}

async fn small_objects(store: &Store) {
    assert_eq!(store.get("none").await.unwrap(), None);
    assert_eq!(store.head("none").await.unwrap(), None);
    let Err(error) = store.read("none", 0..10).await else { panic!("read an absent key") };
    assert!(error.message().contains("none"), "{error}");
    store.delete("none").await.unwrap();
    for key in ["a/@roles.sql.zst", "a/x=2Fy.z/t=40.sql", "a/-_.x", "b"] {
        let body = bytes(key.len() * 100);
        assert!(matches!(store.put(key, body.clone(), Condition::None).await.unwrap(), Put::Stored { .. }));
        assert_eq!(store.get(key).await.unwrap().as_ref(), Some(&body), "{key}");
        let head = store.head(key).await.unwrap().unwrap();
        assert_eq!((head.key.as_str(), head.bytes), (key, body.len() as u64));
        assert!(head.modified.is_some());
        assert_eq!(read(store, key, 10, 20).await, body[10..20]);
        assert_eq!(read(store, key, 10, 1 << 40).await, body[10..]);
        assert_eq!(read(store, key, 1 << 30, 1 << 40).await, b"");
        assert_eq!(read(store, key, 5, 5).await, b"");
    }
    let keys: Vec<String> = store.list("a/").await.unwrap().into_iter().map(|object| object.key).collect();
    assert_eq!(keys, ["a/-_.x", "a/@roles.sql.zst", "a/x=2Fy.z/t=40.sql"]);
    assert_eq!(store.list("").await.unwrap().len(), 4);
    assert_eq!(store.folders("").await.unwrap(), ["a"]);
    assert_eq!(store.folders("a/").await.unwrap(), ["x=2Fy.z"]);
    store.put("b", Bytes::from_static(b"other"), Condition::None).await.unwrap();
    assert_eq!(store.get("b").await.unwrap().unwrap(), "other");
    for object in store.list("").await.unwrap() {
        store.delete(&object.key).await.unwrap();
    }
    assert!(store.list("").await.unwrap().is_empty());
    assert!(store.folders("").await.unwrap().is_empty());
}

async fn lengths_around_part_borders(store: &Store) {
    for length in [0, 1, PART - 1, PART, PART + 1, 2 * PART, 3 * PART - 1, 3 * PART, 3 * PART + 1] {
        let body = bytes(length);
        let mut writer = store.writer("runs/r/object", Plan { expected_bytes: length as u64 });
        // Pieces that never end at a border of parts.
        for piece in body.chunks(1_000_003) {
            writer.write(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        let stored = writer.finish().await.unwrap();
        assert_eq!(stored.bytes, length as u64);
        assert!(read(store, "runs/r/object", 0, u64::MAX - 1).await == body, "length {length}");
        let head = store.head("runs/r/object").await.unwrap().unwrap();
        assert_eq!(head.bytes, length as u64);
        if length > PART {
            let border = PART as u64;
            assert!(read(store, "runs/r/object", border - 3, border + 1).await == body[PART - 3..=PART]);
        }
        // Objects of runs are written once.
        store.delete("runs/r/object").await.unwrap();
    }
    assert!(store.uploads("").await.unwrap().is_empty());
}

async fn unfinished_writers(store: &Store) {
    for abort in [true, false] {
        let mut writer = store.writer("runs/r/half", Plan::default());
        writer.write(bytes(3 * PART)).await.unwrap();
        assert_eq!(store.uploads("runs/").await.unwrap().len(), 1, "the upload must be seen while it is open");
        if abort {
            writer.abort().await;
        } else {
            drop(writer);
            store.drain().await;
        }
        assert!(store.uploads("").await.unwrap().is_empty());
        assert_eq!(store.head("runs/r/half").await.unwrap(), None);
        assert!(store.list("").await.unwrap().is_empty());
    }
    let mut writer = store.writer("runs/r/killed", Plan::default());
    writer.write(bytes(3 * PART)).await.unwrap();
    for upload in store.uploads("runs/").await.unwrap() {
        store.abort_upload(&upload).await.unwrap();
        store.abort_upload(&upload).await.unwrap();
    }
    assert!(writer.finish().await.is_err(), "an upload removed under the writer cannot be finished");
    assert!(store.list("").await.unwrap().is_empty());
}

async fn many_keys(store: &Store) {
    let mut puts = tokio::task::JoinSet::new();
    for number in 0..1005 {
        let store = store.clone();
        puts.spawn(async move {
            store.put(&format!("many/{number:04}/x"), Bytes::from_static(b"x"), Condition::None).await.unwrap();
        });
    }
    puts.join_all().await;
    let keys: Vec<String> = store.list("many/").await.unwrap().into_iter().map(|object| object.key).collect();
    assert_eq!(keys, (0..1005).map(|number| format!("many/{number:04}/x")).collect::<Vec<_>>());
    assert_eq!(store.folders("many/").await.unwrap().len(), 1005);
    for key in keys {
        store.delete(&key).await.unwrap();
    }
}

async fn conditional_puts(store: &Store) {
    // An object of a run replaces none, where the store knows conditions (a directory's writers are alone in their run).
    if store.local_path().is_none() {
        store.put("runs/r/once", Bytes::from_static(b"first"), Condition::None).await.unwrap();
        let error = store.put("runs/r/once", Bytes::from_static(b"second"), Condition::None).await.unwrap_err();
        assert!(error.message().contains("runs/r/once: somebody else has stored"), "{error}");
        assert_eq!(store.get("runs/r/once").await.unwrap().unwrap(), "first");
        store.delete("runs/r/once").await.unwrap();
    }
    let put = |body: &'static str, condition| store.put("c", Bytes::from_static(body.as_bytes()), condition);
    assert!(matches!(put("1", Condition::Absent).await.unwrap(), Put::Stored { .. }));
    assert_eq!(put("2", Condition::Absent).await.unwrap(), Put::Refused);
    let etag = store.head("c").await.unwrap().unwrap().etag.unwrap();
    assert!(matches!(put("3", Condition::Matches(etag.clone())).await.unwrap(), Put::Stored { .. }));
    assert_eq!(put("4", Condition::Matches(etag)).await.unwrap(), Put::Refused);
    assert_eq!(store.get("c").await.unwrap().unwrap(), "3");
    store.delete("c").await.unwrap();
}

async fn failure(args: &StoreArgs, credentials: Option<(String, String)>) -> Error {
    let store = Store::open_with(args, credentials).await.unwrap();
    store.check().await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn a_directory_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&store_args(dir.path().join("new").to_str().unwrap())).await.unwrap();
    contract(&store, true).await;
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn an_s3_server_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let server = S3Server::start(dir.path()).await;
    let store = Store::open_with(&server.store_args("some/prefix"), server.credentials()).await.unwrap();
    contract(&store, true).await;
}

#[tokio::test(flavor = "multi_thread")]
pub(crate) async fn an_s3_server_is_reached_by_virtual_host() {
    let dir = tempfile::tempdir().unwrap();
    let server = S3Server::start(dir.path()).await;
    let mut args = server.store_args("p");
    args.s3_endpoint = Some(server.virtual_host_endpoint.clone());
    args.s3_path_style = Some(false);
    let store = Store::open_with(&args, server.credentials()).await.unwrap();
    small_objects(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_with_too_many_parts_stops_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = S3Server::start(dir.path()).await;
    let mut args = server.store_args("p");
    args.s3_max_parts = 3;
    let store = Store::open_with(&args, server.credentials()).await.unwrap();
    let mut writer = store.writer("big", Plan::default());
    let stopped = loop {
        if let Err(error) = writer.write(bytes(PART)).await {
            break error;
        }
    };
    let WriteError::PartsExhausted { key, part_bytes } = stopped else { panic!("{stopped:?}") };
    assert_eq!((key.as_str(), part_bytes), ("big", PART as u64));
    assert!(store.uploads("").await.unwrap().is_empty());
    let again = store.writer("big", Plan { expected_bytes: 20 * PART as u64 });
    assert_eq!(again.part_bytes(), 50 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_store_is_said_with_a_hint() {
    let dir = tempfile::tempdir().unwrap();
    let server = S3Server::start(dir.path()).await;
    let mut args = server.store_args("p");
    args.store = Some("s3://missing-bucket/p".to_owned());
    let error = failure(&args, server.credentials()).await;
    assert!(error.message().contains("NoSuchBucket"), "{error}");
    assert!(error.hints()[0].contains("create the bucket missing-bucket"), "{:?}", error.hints());

    let args = server.store_args("p");
    let error = failure(&args, Some((server.access_key.clone(), "wrong-secret".to_owned()))).await;
    assert!(error.message().contains("SignatureDoesNotMatch"), "{error}");
    assert!(error.hints()[0].contains("AWS_SECRET_ACCESS_KEY"), "{:?}", error.hints());
    assert!(!format!("{error:?}").contains("wrong-secret"));

    let mut args = server.store_args("p");
    args.s3_attempts = 1;
    args.s3_endpoint = Some("http://127.0.0.1:1".to_owned());
    let error = failure(&args, server.credentials()).await;
    assert!(error.hints()[0].contains("nothing listens"), "{error} {:?}", error.hints());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PGSTOW_TEST_S3_ENDPOINT"]
pub(crate) async fn the_s3_server_of_the_environment_keeps_the_contract() {
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_unset| panic!("{name} is not set"));
    let mut args =
        store_args(&format!("s3://{}/contract-{:016x}", variable("PGSTOW_TEST_S3_BUCKET"), rand::random::<u64>()));
    args.s3_endpoint = Some(variable("PGSTOW_TEST_S3_ENDPOINT"));
    let store = Store::open(&args).await.unwrap();
    // Garage and Supabase Storage accept conditions and ignore them.
    contract(&store, std::env::var("PGSTOW_TEST_S3_CONDITIONS").as_deref() == Ok("1")).await;
}
