//! An S3-compatible server as a store: single requests. Storing is in `put` and `upload`, reading in `read`, the client
//! in `client`, what is tried again and what a failure is called in `attempt`, what requests carry in `request` and
//! `options`, and what a server can do is found out in `probe`.
//!
//! No sub-resource (`?tagging`, `?acl`, ...) is ever asked for: Supabase Storage takes such a request for one of the
//! object itself. Bodies are in memory with their SHA-256 signed: no aws-chunked framing, no trailers.

pub(crate) mod attempt;
pub(crate) mod client;
pub(crate) mod database_token;
pub(crate) mod delete;
pub(crate) mod failure;
mod flight;
pub(crate) mod options;
pub(crate) mod own_ca;
pub(crate) mod past;
pub(crate) mod probe;
pub(crate) mod put;
pub(crate) mod read;
pub(crate) mod request;
pub(crate) mod server;
pub(crate) mod services;
mod tally;
pub(crate) mod upload;
pub(crate) mod versions;

use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, RwLock};
use std::time::SystemTime;

use aws_sdk_s3::primitives::DateTime;
use bytes::Bytes;
use tokio::io::AsyncRead;
use tokio::sync::Semaphore;

use crate::error::{Error, Result, without_secrets};
use crate::store::config::Config;
use crate::store::s3::attempt::Progress;
use crate::store::s3::failure::Failure;
use crate::store::s3::flight::Flight;
pub(crate) use crate::store::s3::options::Options;
pub(crate) use crate::store::s3::probe::multipart::tidy;
pub(crate) use crate::store::s3::probe::probe;
pub(crate) use crate::store::s3::server::S3;
use crate::store::s3::server::{CHECK_ATTEMPTS, IN_FLIGHT_BYTES, NOT_MD5, UNKNOWN};
pub(crate) use crate::store::s3::upload::Writer;
use crate::store::{ObjectInfo, OpenUpload, check_key, refuse_large};

impl S3 {
    pub(crate) async fn open(config: &Config, credentials: Option<(String, String)>) -> Result<Self> {
        let (bucket, prefix) = name(&config.location)?;
        let options = Options::of(config)?;
        let tally = Arc::default();
        let (connection, endpoint) = Box::pin(client::connect(config, credentials, &tally)).await?;
        Ok(Self {
            connection: RwLock::new(connection),
            config: config.clone(),
            renewing: tokio::sync::Mutex::new(()),
            bucket,
            prefix,
            endpoint,
            max_parts: config.max_parts,
            part_bytes: config.part_bytes,
            attempts: config.attempts,
            stall: config.stall_timeout,
            at: config.at,
            bytes: Arc::new(Semaphore::new(IN_FLIGHT_BYTES)),
            flight: Flight::new(),
            tally,
            versions: AtomicBool::new(false),
            conditions: AtomicBool::new(true),
            etags: AtomicU8::new(if options.hides_md5() { NOT_MD5 } else { UNKNOWN }),
            options,
        })
    }

    pub(crate) fn describe(&self) -> String {
        format!("s3://{}/{}", self.bucket, self.prefix.trim_end_matches('/')).trim_end_matches('/').to_owned()
    }

    pub(crate) fn endpoint(&self) -> Option<&str> {
        self.endpoint.as_deref()
    }

    pub(crate) fn bucket(&self) -> (&str, &str) {
        (&self.bucket, &self.prefix)
    }

    fn full(&self, key: &str) -> Result<String> {
        check_key(key)?;
        Ok(format!("{}{key}", self.prefix))
    }

    fn relative<'a>(&self, key: &'a str) -> Option<&'a str> {
        key.strip_prefix(&self.prefix)
    }

    pub(crate) async fn check(&self) -> Result<()> {
        self.tried("open the store", "", self.attempts.min(CHECK_ATTEMPTS), |_tries| async {
            let request = self.client().list_objects_v2().bucket(&self.bucket).prefix(&self.prefix).max_keys(1).send();
            self.watch(&Progress::default(), request).await
        })
        .await?;
        Ok(())
    }

    pub(crate) async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        let full = self.full(key)?;
        if self.at.is_some() && self.head(key).await?.is_none() {
            return Ok(None);
        }
        let version = self.version_to_read(key).await?;
        let body = self
            .tried_raw(self.attempts, |_tries| async {
                let request =
                    self.client().get_object().bucket(&self.bucket).key(&full).set_version_id(version.clone()).send();
                let mut answer = self.watch(&Progress::default(), request).await?;
                let announced = answer.content_length().and_then(|length| u64::try_from(length).ok());
                if let Err(large) = refuse_large(key, announced.unwrap_or_default()) {
                    return Ok(Err(large));
                }
                let mut body = Vec::new();
                while let Some(bytes) = self.chunk(&mut answer.body).await? {
                    body.extend_from_slice(&bytes);
                    if let Err(large) = refuse_large(key, body.len() as u64) {
                        return Ok(Err(large));
                    }
                }
                Ok(Ok(Bytes::from(body)))
            })
            .await;
        match body {
            Ok(body) => body.map(Some),
            Err(failure) if failure.is_absent() => Ok(None),
            Err(failure) => Err(self.error("read", key, &failure)),
        }
    }

    pub(crate) async fn head(&self, key: &str) -> Result<Option<ObjectInfo>> {
        if let Some(at) = self.at {
            return self.head_at(key, at).await;
        }
        match self.head_raw(key).await {
            Ok(found) => Ok(Some(found)),
            // An answer to HEAD has no body: a missing bucket looks like a missing key.
            Err(failure) if failure.status == Some(404) => Ok(None),
            Err(failure) => Err(self.error("look up", key, &failure)),
        }
    }

    async fn head_raw(&self, key: &str) -> Result<ObjectInfo, Failure> {
        let full = self.full(key).map_err(|error| Failure::of(&error))?;
        let answer = self
            .tried_raw(self.attempts, |_tries| async {
                let request = self.client().head_object().bucket(&self.bucket).key(&full).send();
                self.watch(&Progress::default(), request).await
            })
            .await?;
        Ok(ObjectInfo {
            key: key.to_owned(),
            // Supabase Storage sends no Content-Length for an empty object.
            bytes: size(answer.content_length),
            etag: answer.e_tag,
            modified: answer.last_modified.as_ref().and_then(time),
        })
    }

    pub(crate) async fn read(this: &Arc<Self>, key: &str, range: Range<u64>) -> Result<Pin<Box<dyn AsyncRead + Send>>> {
        read::open(Arc::clone(this), key, range).await
    }

    pub(crate) async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        if let Some(at) = self.at {
            return self.list_at(prefix, at).await;
        }
        let mut found = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let page = self.list_page(prefix, None, token.as_ref()).await?;
            for object in page.contents() {
                if let Some(key) = object.key().and_then(|key| self.relative(key)).filter(|key| !key.is_empty()) {
                    found.push(ObjectInfo {
                        key: key.to_owned(),
                        bytes: size(object.size()),
                        etag: object.e_tag().map(str::to_owned),
                        modified: object.last_modified().and_then(time),
                    });
                }
            }
            token = self.next_page(prefix, &page, token.as_deref())?;
            if token.is_none() {
                return Ok(found);
            }
        }
    }

    pub(crate) async fn folders(&self, prefix: &str) -> Result<Vec<String>> {
        if let Some(at) = self.at {
            return self.folders_at(prefix, at).await;
        }
        let mut found = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let page = self.list_page(prefix, Some("/"), token.as_ref()).await?;
            for folder in page.common_prefixes() {
                let name = folder
                    .prefix()
                    .and_then(|folder| self.relative(folder))
                    .and_then(|folder| folder.strip_prefix(prefix))
                    .map(|folder| folder.trim_end_matches('/'));
                found.extend(name.filter(|name| !name.is_empty()).map(str::to_owned));
            }
            token = self.next_page(prefix, &page, token.as_deref())?;
            if token.is_none() {
                return Ok(found);
            }
        }
    }

    async fn list_page(
        &self,
        prefix: &str,
        delimiter: Option<&str>,
        token: Option<&String>,
    ) -> Result<aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output> {
        self.tried("list", prefix, self.attempts, |_tries| async {
            let request = self
                .client()
                .list_objects_v2()
                .bucket(&self.bucket)
                .prefix(format!("{}{prefix}", self.prefix))
                .set_delimiter(delimiter.map(str::to_owned))
                .set_continuation_token(token.cloned())
                .send();
            self.watch(&Progress::default(), request).await
        })
        .await
    }

    /// The token of the next page. A page that claims to go on without saying how would cut the list: an error.
    fn next_page(
        &self,
        prefix: &str,
        page: &aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output,
        last: Option<&str>,
    ) -> Result<Option<String>> {
        if page.is_truncated() != Some(true) {
            return Ok(None);
        }
        match page.next_continuation_token() {
            Some(token) if last != Some(token) => Ok(Some(token.to_owned())),
            _ => Err(Error::failed(format!("{}: list {prefix}: the server cuts its list", self.describe()))),
        }
    }

    pub(crate) async fn delete(&self, key: &str) -> Result<()> {
        self.refuse_past()?;
        let full = self.full(key)?;
        let deleted = self
            .tried_raw(self.attempts, |_tries| async {
                let request = self.client().delete_object().bucket(&self.bucket).key(&full).send();
                self.watch(&Progress::default(), request).await
            })
            .await;
        match deleted {
            Ok(answer) => {
                if answer.delete_marker() == Some(true) {
                    self.versions.store(true, Ordering::Relaxed);
                }
                Ok(())
            }
            Err(failure) if failure.is_absent() => Ok(()),
            Err(failure) => Err(self.error("delete", key, &failure)),
        }
    }

    /// Unfinished uploads below `prefix`; `None` where the server cannot list them.
    pub(crate) async fn uploads(&self, prefix: &str) -> Result<Option<Vec<OpenUpload>>> {
        let full = format!("{}{prefix}", self.prefix);
        let found = self.uploads_below(&full).await?;
        // MinIO lists them without a prefix, or by a whole key, only.
        if found.as_ref().is_some_and(Vec::is_empty) && !full.is_empty() {
            let all = self.uploads_below("").await.ok().flatten().unwrap_or_default();
            return Ok(Some(all.into_iter().filter(|upload| upload.key.starts_with(prefix)).collect()));
        }
        Ok(found)
    }

    async fn uploads_below(&self, full: &str) -> Result<Option<Vec<OpenUpload>>> {
        let mut found = Vec::new();
        let mut marker: (Option<String>, Option<String>) = (None, None);
        // Supabase Storage loses entries between pages: ask for the largest page. Some servers do not know the word.
        let mut most = Some(1000);
        loop {
            let page = self
                .tried_raw(self.attempts, |_tries| async {
                    let request = self
                        .client()
                        .list_multipart_uploads()
                        .bucket(&self.bucket)
                        .set_prefix((!full.is_empty()).then(|| full.to_owned()))
                        .set_max_uploads(most)
                        .set_key_marker(marker.0.clone())
                        .set_upload_id_marker(marker.1.clone())
                        .send();
                    self.watch(&Progress::default(), request).await
                })
                .await;
            let page = match page {
                Ok(page) => page,
                Err(failure) if failure.is_not_implemented() && most.take().is_some() => continue,
                Err(failure) if failure.is_not_implemented() => return Ok(None),
                // rclone answers so as long as no upload into the bucket was ever begun.
                Err(failure) if failure.code.as_deref() == Some("NoSuchUpload") => return Ok(Some(found)),
                Err(failure) => {
                    let below = self.relative(full).unwrap_or(full);
                    return Err(self.error("list unfinished uploads below", below, &failure));
                }
            };
            for upload in page.uploads() {
                if let (Some(key), Some(id)) = (upload.key().and_then(|key| self.relative(key)), upload.upload_id()) {
                    let started = upload.initiated().and_then(time);
                    found.push(OpenUpload { key: key.to_owned(), id: id.to_owned(), started });
                }
            }
            let next = (page.next_key_marker, page.next_upload_id_marker);
            if page.is_truncated != Some(true) || next.0.is_none() || next == marker {
                return Ok(Some(found));
            }
            marker = next;
        }
    }

    pub(crate) async fn abort(&self, key: &str, id: &str) -> Result<()> {
        let full = self.full(key)?;
        let aborted = self
            .tried_raw(self.attempts, |_tries| async {
                let request =
                    self.client().abort_multipart_upload().bucket(&self.bucket).key(&full).upload_id(id).send();
                self.watch(&Progress::default(), request).await
            })
            .await;
        match aborted {
            Ok(_) => Ok(()),
            Err(failure) if failure.code.as_deref() == Some("NoSuchUpload") => Ok(()),
            Err(failure) => Err(self.error("abort the upload of", key, &failure)),
        }
    }
}

/// Bucket and prefix (empty, or ending in `/`) of `s3://bucket/prefix`.
fn name(store: &str) -> Result<(String, String)> {
    let wrong = || Error::usage(format!("--store {}: not s3://bucket/prefix", without_secrets(store)));
    let rest = store.strip_prefix("s3://").ok_or_else(wrong)?;
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let prefix = prefix.trim_matches('/');
    if bucket.is_empty() || bucket.contains(['?', '#', '@', ':']) {
        return Err(
            wrong().hint("the endpoint is given by --s3-endpoint, credentials by the AWS environment variables")
        );
    }
    if prefix.is_empty() {
        return Ok((bucket.to_owned(), String::new()));
    }
    check_key(prefix).map_err(|error| wrong().hint(error.message()))?;
    Ok((bucket.to_owned(), format!("{prefix}/")))
}

pub(super) fn size(length: Option<i64>) -> u64 {
    length.and_then(|length| u64::try_from(length).ok()).unwrap_or(0)
}

pub(super) fn time(time: &DateTime) -> Option<SystemTime> {
    SystemTime::try_from(*time).ok()
}
