//! Trying an S3-compatible server. Requests are those of a backup, with its options; each is a few hundred bytes but
//! for two uploads of 10 MiB, since 5 MiB is the smallest part that S3 takes.
//!
//! Only headers are used to ask for something special, never a sub-resource: Supabase Storage would take
//! `?object-lock` or `?versions` for the object or the bucket itself. An object that is locked to see whether locks
//! hold is locked for three seconds.

pub(crate) mod multipart;
pub(crate) mod prober;

use std::time::{Duration, SystemTime};

use aws_sdk_s3::operation::put_object::PutObjectOutput;
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::ObjectLockMode;
use aws_smithy_types::base64;
use md5::{Digest as _, Md5};
use sha2::Sha256;

use crate::format::layout;
use crate::seal::hash::hex;
use crate::store::probe::{ODD_NAME, Probe, ProbeObjects, SMALL, Seen, yes};
use crate::store::s3::failure::Failure;
use crate::store::s3::options::content_md5;
use crate::store::s3::probe::prober::{Heard, Prober, ask, body, version};
use crate::store::s3::server::S3;

/// The time for which the object is locked that shows whether locks hold.
const LOCK: Duration = Duration::from_secs(3);

/// Tries everything, in an order that needs least when something fails.
pub(crate) async fn probe(s3: &S3, probe_objects: &ProbeObjects) -> Probe {
    let mut prober = Prober { s3, probe_objects, heard: Heard::default(), probe: Probe::default() };
    if Box::pin(prober.reach()).await && Box::pin(prober.put_small()).await {
        Box::pin(prober.versions()).await;
        Box::pin(prober.read()).await;
        Box::pin(prober.lock()).await;
        Box::pin(prober.keys()).await;
        Box::pin(prober.delete()).await;
        Box::pin(prober.absent()).await;
        Box::pin(prober.matches()).await;
        Box::pin(prober.checksums()).await;
        Box::pin(multipart::multipart(&mut prober)).await;
    }
    let heard = prober.heard.all();
    Probe { server: heard.server, clock_ahead_seconds: heard.ahead, ..prober.probe }
}

impl Prober<'_> {
    async fn reach(&mut self) -> bool {
        let s3 = self.s3;
        match ask!(self, s3.client().list_objects_v2().bucket(&s3.bucket).prefix(&s3.prefix).max_keys(1)) {
            Ok(_page) => {
                self.probe.note("reach", Seen::Yes, "the bucket is there and the credentials are accepted");
                true
            }
            Err(failure) => {
                self.probe.fails("reach", s3.error("open the store", "", &failure));
                false
            }
        }
    }

    async fn put_small(&mut self) -> bool {
        let answer = match self.put("small", SMALL, |request| request).await {
            Ok(answer) => answer,
            Err(failure) => {
                self.probe.fails("put", self.error("write", "small", &failure));
                return false;
            }
        };
        self.probe.note("put", Seen::Yes, "an object is stored");
        let etag = answer.e_tag.as_deref().unwrap_or_default();
        let md5 = hex(&Md5::digest(SMALL));
        let same = etag.trim_matches('"').eq_ignore_ascii_case(&md5);
        self.probe.note(
            "etag-md5",
            yes(same),
            if same { "the ETag is the MD5 of the content" } else { "the ETag is not the MD5 of the content" },
        );
        if let Some(wanted) = &self.s3.options.encryption {
            let confirmed = answer.server_side_encryption.as_ref() == Some(wanted);
            let words = if confirmed { "confirmed by the store" } else { "asked for; the store does not confirm it" };
            self.probe.note("encryption", yes(confirmed), format!("{}: {words}", wanted.as_str()));
        } else if let Some(own) = answer.server_side_encryption {
            self.probe.note("encryption", Seen::Yes, format!("{}: the bucket does it by itself", own.as_str()));
        }
        true
    }

    /// Old versions: kept only where one can be read back. Some servers (Garage) name versions and keep none.
    async fn versions(&mut self) {
        let first = self.put("versioned", b"first", |request| request).await;
        let second = self.put("versioned", b"second", |request| request).await;
        let (Ok(first), Ok(_)) = (first, second) else { return };
        let Some(old) = version(first.version_id.as_deref()) else {
            return self.probe.note("versioning", Seen::No, "the bucket keeps no old versions");
        };
        let full = self.full("versioned");
        let request = || self.s3.client().get_object().bucket(&self.s3.bucket).key(&full).version_id(&old);
        match ask!(self, request()) {
            Ok(answer) => {
                let body = answer.body.collect().await.map(aws_sdk_s3::primitives::AggregatedBytes::into_bytes);
                let keeps = body.is_ok_and(|body| body.as_ref() == b"first");
                let detail = if keeps {
                    "the bucket keeps old versions: what `prune` deletes takes room until `prune --versions` or a lifecycle rule removes it"
                } else {
                    "the bucket names versions and keeps no old ones"
                };
                self.probe.note("versioning", yes(keeps), detail);
            }
            Err(failure) if failure.status == Some(403) => {
                self.probe.note("versioning", Seen::Unknown, "objects have versions; this key may not read old ones");
            }
            Err(_absent) => {
                self.probe.note("versioning", Seen::No, "the bucket names versions and keeps no old ones");
            }
        }
    }

    async fn read(&mut self) {
        let full = self.full("small");
        let get = || self.s3.client().get_object().bucket(&self.s3.bucket).key(&full);
        let whole = match ask!(self, get()) {
            Ok(answer) => body(answer.body).await,
            Err(failure) if failure.is_denied() => return self.read_denied().await,
            Err(failure) => return self.probe.fails("read", self.error("read", "small", &failure)),
        };
        let part = match ask!(self, get().range("bytes=7-12")) {
            Ok(answer) => body(answer.body).await,
            Err(failure) => return self.probe.fails("range", self.error("read a part of", "small", &failure)),
        };
        let same = whole.as_deref() == Some(SMALL);
        self.probe.note(
            "read",
            yes(same),
            if same { "reads back as written" } else { "does not read back as written" },
        );
        let same = part.as_deref() == SMALL.get(7..13);
        self.probe.note(
            "range",
            yes(same),
            if same { "a part of an object can be read" } else { "asked for a part, the store answers something else" },
        );
    }

    /// A key that only writes: a backup still reads the pointer.
    async fn read_denied(&mut self) {
        let full = format!("{}{}", self.s3.prefix, layout::LATEST);
        match ask!(self, self.s3.client().head_object().bucket(&self.s3.bucket).key(&full)) {
            Err(failure) if failure.status != Some(404) => {
                self.probe.fails("read", self.s3.error("look up", layout::LATEST, &failure));
            }
            _ => self.probe.denied("read", "this key may not read other objects than the pointer"),
        }
    }

    /// Retention asked for by headers, for three seconds; and what the bucket does by itself.
    async fn lock(&mut self) {
        let ahead = Duration::from_secs(self.heard.all().ahead.and_then(|it| u64::try_from(it).ok()).unwrap_or(0));
        let until = SystemTime::now() + LOCK + ahead;
        let wanted = self.s3.options.lock.as_ref().map(|(mode, _)| mode.clone());
        let mode = wanted.clone().unwrap_or(ObjectLockMode::Governance);
        let locked = self.put("locked", SMALL, |request| {
            request
                .object_lock_mode(mode.clone())
                .object_lock_retain_until_date(DateTime::from(until))
                .content_md5(content_md5(SMALL))
        });
        let stored = match locked.await {
            Ok(stored) => stored,
            Err(failure) if wanted.is_some() => {
                return self.probe.fails("object-lock", self.error("lock", "locked", &failure));
            }
            Err(failure) => return self.probe.note("object-lock", Seen::No, format!("refused ({})", failure.brief())),
        };
        // Locks need versions. Some stores keep the header as a note of the user's, and lock nothing.
        let Some(id) = version(stored.version_id.as_deref()) else {
            return self.probe.note("object-lock", Seen::No, "accepted and ignored");
        };
        self.probe_objects.with(|left| left.locked_until = Some(until + Duration::from_secs(1)));
        let full = self.full("locked");
        let delete = || self.s3.client().delete_object().bucket(&self.s3.bucket).key(&full).version_id(&id);
        match ask!(self, delete()) {
            Ok(_) => self.probe.note("object-lock", Seen::No, "accepted, and the object can be deleted all the same"),
            Err(failure) => {
                // A key that may delete no versions at all is refused too.
                let head = ask!(self, self.s3.client().head_object().bucket(&self.s3.bucket).key(&full));
                let told = head.is_ok_and(|answer| answer.object_lock_mode.is_some());
                let words =
                    if told { "a locked object cannot be deleted" } else { "it is not known whether by the lock" };
                let seen = if told { Seen::Yes } else { Seen::Unknown };
                self.probe.note("object-lock", seen, format!("{}: {words} ({})", mode.as_str(), failure.brief()));
            }
        }
    }

    async fn keys(&mut self) {
        let odd = self.put(ODD_NAME, SMALL, |request| request).await;
        let prefix = self.full("");
        let page = ask!(self, self.s3.client().list_objects_v2().bucket(&self.s3.bucket).prefix(&prefix));
        let listed: Vec<String> = match page {
            Ok(page) => page.contents().iter().filter_map(|object| object.key().map(str::to_owned)).collect(),
            Err(failure) => return self.probe.fails("list", self.error("list", "", &failure)),
        };
        let found = listed.contains(&self.full("small"));
        self.probe.note(
            "list",
            yes(found),
            if found { "what was stored is listed" } else { "what was just stored is not listed" },
        );
        match odd {
            Err(failure) => self.probe.fails("key-characters", self.error("write", ODD_NAME, &failure)),
            Ok(_) if listed.contains(&self.full(ODD_NAME)) => {
                self.probe.note("key-characters", Seen::Yes, "= and @ in a key, listed as written");
            }
            Ok(_) => self.probe.note("key-characters", Seen::No, format!("{ODD_NAME} is listed under another name")),
        }
    }

    async fn delete(&mut self) {
        let full = self.full(ODD_NAME);
        match ask!(self, self.s3.client().delete_object().bucket(&self.s3.bucket).key(&full)) {
            Ok(answer) => {
                if let Some(marker) = version(answer.version_id.as_deref()) {
                    self.probe_objects.with(|left| left.versions.insert((full.clone(), marker)));
                }
            }
            Err(failure) if failure.is_denied() => {
                return self.probe.denied("delete", "this key may not delete");
            }
            Err(failure) => return self.probe.fails("delete", self.error("delete", ODD_NAME, &failure)),
        }
        let gone = match ask!(self, self.s3.client().head_object().bucket(&self.s3.bucket).key(&full)) {
            Ok(_) => false,
            Err(failure) => matches!(failure.status, Some(403 | 404)),
        };
        self.probe.note(
            "delete",
            yes(gone),
            if gone { "an object is gone once deleted" } else { "a deleted object is still there" },
        );
    }

    /// `If-None-Match: *`: honoured only where one was refused.
    async fn absent(&mut self) {
        if let Err(failure) = self.put("fresh", SMALL, |request| request.if_none_match("*")).await {
            let detail = format!("refused although nothing was there ({})", failure.brief());
            return self.probe.note("if-none-match", Seen::No, detail);
        }
        match self.put("fresh", SMALL, |request| request.if_none_match("*")).await {
            Ok(_) => self.probe.note(
                "if-none-match",
                Seen::No,
                "accepted and ignored: the object that was there is replaced",
            ),
            Err(failure) if failure.is_refusal() => {
                self.probe.note(
                    "if-none-match",
                    Seen::Yes,
                    format!("refused where an object is ({})", failure.brief()),
                );
            }
            Err(failure) => self.probe.note("if-none-match", Seen::Unknown, failure.brief()),
        }
    }

    async fn matches(&mut self) {
        let Ok(stored) = self.put("fresh", SMALL, |request| request).await else { return };
        let Some(etag) = stored.e_tag else { return self.probe.note("if-match", Seen::No, "the store tells no ETag") };
        let other = format!("\"{}\"", "0".repeat(32));
        let wrong = self.put("fresh", SMALL, |request| request.if_match(&other)).await;
        let right = self.put("fresh", SMALL, |request| request.if_match(&etag)).await;
        let (seen, detail) = match (wrong, right) {
            (Ok(_), _) => (Seen::No, "accepted and ignored: a changed object is replaced".to_owned()),
            (Err(failure), Ok(_)) if failure.is_refusal() => {
                (Seen::Yes, format!("refused where the object has changed ({})", failure.brief()))
            }
            (Err(failure), Ok(_)) => (Seen::Unknown, failure.brief()),
            (Err(_), Err(failure)) => (Seen::No, format!("refused with the right ETag too ({})", failure.brief())),
        };
        self.probe.note("if-match", seen, detail);
    }

    /// Checksums in headers: accepted, and looked at.
    async fn checksums(&mut self) {
        let sha256 = |bytes: &[u8]| base64::encode(Sha256::digest(bytes));
        let (right, wrong) = (sha256(SMALL), sha256(b"other"));
        let accepted = self.put("sum", SMALL, |request| request.checksum_sha256(&right)).await;
        let fooled = self.put("sum", SMALL, |request| request.checksum_sha256(&wrong)).await;
        self.checksum(("checksum-headers", "checksum-verified"), "x-amz-checksum-sha256", accepted, &fooled);
        let (right, wrong) = (content_md5(SMALL), content_md5(b"other"));
        let accepted = self.put("sum", SMALL, |request| request.content_md5(&right)).await;
        let fooled = self.put("sum", SMALL, |request| request.content_md5(&wrong)).await;
        self.checksum(("content-md5", "content-md5-verified"), "Content-MD5", accepted, &fooled);
    }

    fn checksum(
        &mut self,
        names: (&'static str, &'static str),
        header: &str,
        accepted: Result<PutObjectOutput, Failure>,
        fooled: &Result<PutObjectOutput, Failure>,
    ) {
        if let Err(failure) = accepted {
            return self.probe.note(names.0, Seen::No, format!("{header} is refused ({})", failure.brief()));
        }
        self.probe.note(names.0, Seen::Yes, format!("{header} is accepted"));
        let detail = if fooled.is_err() { "a wrong one is refused" } else { "a wrong one is accepted too" };
        self.probe.note(names.1, yes(fooled.is_err()), detail);
    }
}
