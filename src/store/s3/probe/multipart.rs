//! The part of a probe that is about uploads in parts, and the removal of what a probe left.

use std::time::SystemTime;

use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use md5::{Digest as _, Md5};

use crate::seal::hash::hex;
use crate::store::probe::{Probe, ProbeObjects, SMALL, Seen, yes};
use crate::store::s3::attempt::Progress;
use crate::store::s3::failure::Failure;
use crate::store::s3::probe::prober::{Heard, Prober, ask, body};
use crate::store::s3::server::{CHECK_ATTEMPTS, S3};

/// The smallest part that S3 takes, but for the last.
const PART: usize = 5 << 20;
/// Size of a last part.
const TAIL: usize = 1 << 10;

/// One upload whose parts are on their way.
struct Open {
    full: String,
    id: String,
    parts: Vec<CompletedPart>,
    /// True when each part's etag was its MD5.
    md5: bool,
}

pub(crate) async fn multipart(prober: &mut Prober<'_>) {
    // Where nothing can be deleted, as little as possible is stored.
    let deletes = prober.probe.seen("delete") == Seen::Yes;
    let equal: &[usize] = if deletes { &[PART, PART, TAIL] } else { &[PART, TAIL] };
    match Box::pin(whole(prober, "equal", equal)).await {
        Ok(md5) => {
            prober.probe.note("multipart", Seen::Yes, format!("{} parts, all but the last of 5 MiB", equal.len()));
            let words = if md5 { "a part's ETag is its MD5" } else { "a part's ETag is not its MD5" };
            prober.probe.note("etag-md5-parts", yes(md5), words);
        }
        Err(failure) => {
            let error = prober.error("write in parts", "equal", &failure);
            return prober.probe.fails("multipart", error);
        }
    }
    if deletes {
        match Box::pin(whole(prober, "unequal", &[PART + 1, PART, TAIL])).await {
            Ok(_md5) => prober.probe.note("multipart-unequal", Seen::Yes, "parts of different sizes"),
            Err(failure) => {
                let detail = format!("refused ({}); pgstow's parts are equal", failure.brief());
                prober.probe.note("multipart-unequal", Seen::No, detail);
            }
        }
    } else {
        // An object that was stored in parts becomes small at least.
        if let Err(failure) = prober.put("equal", SMALL, |request| request).await {
            tracing::debug!("replace the object in parts: {}", failure.brief());
        }
        prober.probe.note("multipart-unequal", Seen::Unknown, "not tried: what it stores could not be deleted");
    }
    Box::pin(unfinished(prober)).await;
}

/// An object in parts of these sizes, read back across its first border. True when each part's etag was its MD5.
async fn whole(prober: &Prober<'_>, name: &str, sizes: &[usize]) -> Result<bool, Failure> {
    let mut open = begin(prober, name).await?;
    for (number, size) in (1..).zip(sizes) {
        part(prober, &mut open, number, *size).await?;
    }
    let parts = CompletedMultipartUpload::builder().set_parts(Some(open.parts.clone())).build();
    let s3 = prober.s3;
    prober.probe_objects.with(|left| left.keys.insert(open.full.clone()));
    let complete = || {
        s3.client()
            .complete_multipart_upload()
            .bucket(&s3.bucket)
            .key(&open.full)
            .upload_id(&open.id)
            .multipart_upload(parts.clone())
    };
    let done = ask!(prober, complete())?;
    prober.probe_objects.with(|left| {
        left.uploads.remove(&(open.full.clone(), open.id.clone()));
        if let Some(version) = done.version_id.filter(|id| id != "null") {
            left.versions.insert((open.full.clone(), version));
        }
    });
    let border = sizes.first().copied().unwrap_or_default();
    let range = format!("bytes={}-{}", border - 2, border + 1);
    let answer = match ask!(prober, s3.client().get_object().bucket(&s3.bucket).key(&open.full).range(&range)) {
        Ok(answer) => answer,
        Err(failure) if failure.is_denied() => return Ok(open.md5),
        Err(failure) => return Err(failure),
    };
    let total: usize = sizes.iter().sum();
    let range_end = answer.content_range.as_deref().and_then(|range| range.rsplit('/').next()?.parse().ok());
    let found = body(answer.body).await;
    if found.as_deref() == Some(&[1, 1, 2, 2]) && range_end.is_none_or(|length: usize| length == total) {
        Ok(open.md5)
    } else {
        Err(Failure::of(&crate::error::Error::failed("the object is not its parts put together")))
    }
}

async fn begin(prober: &Prober<'_>, name: &str) -> Result<Open, Failure> {
    let full = prober.full(name);
    let begin = prober.s3.tried_raw(CHECK_ATTEMPTS, |_tries| prober.s3.begin_upload(&full));
    let id = Box::pin(begin).await?;
    prober.probe_objects.with(|left| left.uploads.insert((full.clone(), id.clone())));
    Ok(Open { full, id, parts: Vec::new(), md5: true })
}

/// Sends a part made of bytes that are its number.
async fn part(prober: &Prober<'_>, open: &mut Open, number: i32, size: usize) -> Result<(), Failure> {
    let fill = u8::try_from(number % 251).unwrap_or_default();
    let bytes = Bytes::from(vec![fill; size]);
    let s3 = prober.s3;
    let (full, id) = (&open.full, &open.id);
    let sent = s3.tried_raw(CHECK_ATTEMPTS, |_tries| async {
        let progress = Progress::default();
        let request = s3.part_request(full, id, number, &bytes).customize();
        let request = request.interceptor(prober.heard.clone()).interceptor(progress.interceptor(&bytes)).send();
        s3.watch(&progress, request).await
    });
    let etag = Box::pin(sent).await?.e_tag;
    let md5 = hex(&Md5::digest(&bytes));
    open.md5 &= etag.as_deref().is_some_and(|etag| etag.trim_matches('"').eq_ignore_ascii_case(&md5));
    open.parts.push(CompletedPart::builder().part_number(number).set_e_tag(etag).build());
    Ok(())
}

/// The highest part number, whether an open upload is listed, and whether it is gone once aborted.
async fn unfinished(prober: &mut Prober<'_>) {
    let mut open = match begin(prober, "unfinished").await {
        Ok(open) => open,
        Err(failure) => {
            let error = prober.error("begin to write", "unfinished", &failure);
            return prober.probe.fails("abort", error);
        }
    };
    let mut accepted = None;
    for number in [10_000, 1_000] {
        if part(prober, &mut open, number, TAIL).await.is_ok() {
            accepted = Some(number);
            break;
        }
    }
    match accepted {
        Some(number) => {
            prober.probe.note("max-parts", yes(number == 10_000), format!("a part numbered {number} is accepted"));
        }
        None => prober.probe.note("max-parts", Seen::Unknown, "no part numbered 10000 or 1000 is accepted"),
    }
    let listed = is_listed(prober, &open, Listed::Bucket).await;
    match &listed {
        Ok(Some(Listed::ByPrefix)) => prober.probe.note("list-uploads", Seen::Yes, "an unfinished upload is listed"),
        Ok(Some(Listed::Bucket)) => {
            let detail = "an unfinished upload is listed, where the whole bucket is asked for and no prefix";
            prober.probe.note("list-uploads", Seen::Yes, detail);
        }
        Ok(None) => prober.probe.note("list-uploads", Seen::No, "an unfinished upload is not listed"),
        Err(failure) if failure.is_denied() => {
            prober.probe.denied("list-uploads", "this key may not list unfinished uploads");
        }
        Err(failure) => prober.probe.note("list-uploads", Seen::No, failure.brief()),
    }
    let s3 = prober.s3;
    let abort = || s3.client().abort_multipart_upload().bucket(&s3.bucket).key(&open.full).upload_id(&open.id);
    if let Err(failure) = ask!(prober, abort()) {
        let error = prober.error("abort the upload of", "unfinished", &failure);
        return prober.probe.fails("abort", error);
    }
    let gone = match listed.ok().flatten() {
        Some(way) => is_listed(prober, &open, way).await.is_ok_and(|there| there.is_none()),
        None => part(prober, &mut open, 1, TAIL).await.is_err(),
    };
    if gone {
        prober.probe_objects.with(|left| left.uploads.remove(&(open.full.clone(), open.id.clone())));
    }
    prober.probe.note(
        "abort",
        yes(gone),
        if gone { "an upload is gone once aborted" } else { "an aborted upload is still there" },
    );
}

/// The way an unfinished upload is found in a list.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Listed {
    ByPrefix,
    /// MinIO lists them without a prefix, or by a whole key, only.
    Bucket,
}

/// Looks by the prefix, and, where `widest` says so, in the whole bucket.
async fn is_listed(prober: &Prober<'_>, open: &Open, widest: Listed) -> Result<Option<Listed>, Failure> {
    let s3 = prober.s3;
    let list = || s3.client().list_multipart_uploads().bucket(&s3.bucket).prefix(prober.full("")).max_uploads(1000);
    let page = ask!(prober, list())?;
    if page.uploads().iter().any(|upload| upload.upload_id() == Some(&open.id)) {
        return Ok(Some(Listed::ByPrefix));
    }
    if widest == Listed::ByPrefix {
        return Ok(None);
    }
    let all = ask!(prober, s3.client().list_multipart_uploads().bucket(&s3.bucket).max_uploads(1000));
    let found = all.is_ok_and(|page| page.uploads().iter().any(|upload| upload.upload_id() == Some(&open.id)));
    Ok(found.then_some(Listed::Bucket))
}

/// Removes what a probe left: open uploads, objects, and their versions once no lock holds them. Returns the full keys
/// of what is there all the same.
pub(crate) async fn tidy(s3: &S3, probe_objects: &ProbeObjects) -> Vec<String> {
    let prober = Prober { s3, probe_objects, heard: Heard::default(), probe: Probe::default() };
    let mut left = probe_objects.now();
    // An upload or object whose answer was lost is listed only.
    let folder = prober.full("");
    if let Ok(page) =
        ask!(prober, s3.client().list_multipart_uploads().bucket(&s3.bucket).prefix(&folder).max_uploads(1000))
    {
        let found =
            page.uploads().iter().filter_map(|upload| Some((upload.key()?.to_owned(), upload.upload_id()?.to_owned())));
        left.uploads.extend(found);
    }
    for (key, id) in &left.uploads {
        let abort = || s3.client().abort_multipart_upload().bucket(&s3.bucket).key(key).upload_id(id);
        match ask!(prober, abort()) {
            Err(failure) if failure.code.as_deref() != Some("NoSuchUpload") => {
                tracing::debug!("abort the upload of {key}: {}", failure.brief());
            }
            _ => {}
        }
    }
    if let Some(rest) = left.locked_until.and_then(|until| until.duration_since(SystemTime::now()).ok()) {
        tokio::time::sleep(rest).await;
    }
    let mut remaining: Vec<String> = Vec::new();
    let versioned = |key: &str| left.versions.iter().any(|(of, _)| of == key);
    for key in left.keys.iter().filter(|key| !versioned(key)) {
        if let Err(failure) = ask!(prober, s3.client().delete_object().bucket(&s3.bucket).key(key))
            && !failure.is_absent()
        {
            tracing::debug!("delete {key}: {}", failure.brief());
            remaining.push(key.clone());
        }
    }
    for (key, version) in &left.versions {
        let delete = || s3.client().delete_object().bucket(&s3.bucket).key(key).version_id(version);
        if let Err(failure) = ask!(prober, delete()) {
            tracing::debug!("delete a version of {key}: {}", failure.brief());
            remaining.push(format!("{key} (version {version})"));
        }
    }
    remaining.sort();
    remaining
}
