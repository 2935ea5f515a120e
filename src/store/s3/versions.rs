//! The versions that a bucket keeps below a key: listed, and deleted one by one.
//!
//! Asked for only where versions were seen or a person says that there are some: Supabase Storage answers `?versions`
//! with a plain list of objects, which the SDK takes for no versions at all.

use std::time::SystemTime;

use aws_sdk_s3::types::ObjectIdentifier;

use crate::error::{Error, Result};
use crate::store::s3::attempt::Progress;
use crate::store::s3::server::S3;
use crate::store::s3::{size, time};

/// Most versions of one request (S3's own limit).
const BATCH: usize = 1_000;

/// One version of an object, or a delete marker.
#[derive(Debug, Clone)]
pub(crate) struct Version {
    /// Key below the store's prefix.
    pub(crate) key: String,
    pub(crate) id: String,
    /// 0 for a delete marker.
    pub(crate) bytes: u64,
    pub(crate) etag: Option<String>,
    pub(crate) modified: Option<SystemTime>,
    pub(crate) is_marker: bool,
}

impl S3 {
    /// All versions and delete markers below `prefix`, in the server's order: by key, the newest first.
    pub(crate) async fn versions(&self, prefix: &str) -> Result<Vec<Version>> {
        let mut found = Vec::new();
        let mut marker: (Option<String>, Option<String>) = (None, None);
        loop {
            let page = self
                .tried("list the versions below", prefix, self.attempts, |_tries| async {
                    let request = self
                        .client()
                        .list_object_versions()
                        .bucket(&self.bucket)
                        .prefix(format!("{}{prefix}", self.prefix))
                        .set_key_marker(marker.0.clone())
                        .set_version_id_marker(marker.1.clone())
                        .send();
                    self.watch(&Progress::default(), request).await
                })
                .await?;
            for one in page.versions() {
                let key = one.key().and_then(|key| self.relative(key));
                if let (Some(key), Some(id)) = (key, one.version_id()) {
                    found.push(Version {
                        key: key.to_owned(),
                        id: id.to_owned(),
                        bytes: size(one.size()),
                        etag: one.e_tag().map(str::to_owned),
                        modified: one.last_modified().and_then(time),
                        is_marker: false,
                    });
                }
            }
            for one in page.delete_markers() {
                let key = one.key().and_then(|key| self.relative(key));
                if let (Some(key), Some(id)) = (key, one.version_id()) {
                    found.push(Version {
                        key: key.to_owned(),
                        id: id.to_owned(),
                        bytes: 0,
                        etag: None,
                        modified: one.last_modified().and_then(time),
                        is_marker: true,
                    });
                }
            }
            let next = (page.next_key_marker, page.next_version_id_marker);
            if page.is_truncated != Some(true) || next.0.is_none() || next == marker {
                return Ok(found);
            }
            marker = next;
        }
    }

    /// Deletes versions. Returns one error for each that could not be deleted.
    pub(crate) async fn delete_versions(&self, versions: &[Version]) -> Vec<Error> {
        let mut errors = Vec::new();
        for some in versions.chunks(BATCH) {
            // One version is one request either way.
            let failed = if some.len() > 1 { self.delete_version_batch(some).await } else { None };
            match failed {
                Some(failed) => errors.extend(failed),
                None => {
                    for version in some {
                        errors.extend(self.delete_version(version).await.err());
                    }
                }
            }
        }
        errors
    }

    async fn delete_version(&self, version: &Version) -> Result<()> {
        let full = self.full(&version.key)?;
        self.tried("delete a version of", &version.key, self.attempts, |_tries| async {
            let request = self.client().delete_object().bucket(&self.bucket).key(&full).version_id(&version.id).send();
            self.watch(&Progress::default(), request).await
        })
        .await?;
        Ok(())
    }

    /// `None` where the server refused the request as a whole.
    async fn delete_version_batch(&self, versions: &[Version]) -> Option<Vec<Error>> {
        let identifiers: Vec<_> = versions
            .iter()
            .map(|one| ObjectIdentifier::builder().key(self.full(&one.key).ok()?).version_id(&one.id).build().ok())
            .collect::<Option<_>>()?;
        let answer = self.delete_objects(identifiers).await?;
        if answer.deleted().len() + answer.errors().len() < versions.len() {
            return None;
        }
        Some(answer.errors().iter().map(|failed| self.not_deleted("delete a version of", failed)).collect())
    }
}
