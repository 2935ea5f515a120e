//! Deleting many objects with few requests (`DeleteObjects`), and what deleting shows of the bucket's versions.
//!
//! Not every server knows the request, or takes its checksum: whatever one refuses as a whole is left to single
//! requests, which also name the key that was refused.

use std::sync::atomic::Ordering;

use aws_sdk_s3::operation::delete_objects::DeleteObjectsOutput;
use aws_sdk_s3::types::{Delete, ObjectIdentifier};

use crate::error::Error;
use crate::store::s3::S3;
use crate::store::s3::attempt::Progress;

/// Most keys of one request (S3's own limit).
const BATCH: usize = 1_000;

/// The result of deleting some keys.
pub(crate) struct Batches {
    /// One for each key that the server refused to delete.
    pub(crate) errors: Vec<Error>,
    /// Keys that single requests have to delete.
    pub(crate) left: Vec<String>,
}

impl S3 {
    /// True where a deletion left a delete marker: the bucket keeps old versions.
    pub(crate) fn keeps_versions(&self) -> bool {
        self.versions.load(Ordering::Relaxed)
    }

    pub(crate) async fn delete_batches(&self, mut keys: Vec<String>) -> Batches {
        let mut errors = Vec::new();
        // One key is one request either way.
        while keys.len() > 1 {
            let rest = keys.split_off(keys.len().min(BATCH));
            let Some(failed) = self.delete_batch(&keys).await else {
                keys.extend(rest);
                break;
            };
            errors.extend(failed);
            keys = rest;
        }
        Batches { errors, left: keys }
    }

    /// `None` where the server refused the request as a whole.
    async fn delete_batch(&self, keys: &[String]) -> Option<Vec<Error>> {
        let identifiers: Vec<_> = keys
            .iter()
            .map(|key| ObjectIdentifier::builder().key(self.full(key).ok()?).build().ok())
            .collect::<Option<_>>()?;
        let answer = self.delete_objects(identifiers).await?;
        let answered = answer.deleted().len() + answer.errors().len();
        if answer.deleted().iter().any(|deleted| deleted.delete_marker() == Some(true)) {
            self.versions.store(true, Ordering::Relaxed);
        }
        let gone = |failed: &&aws_sdk_s3::types::Error| failed.code() != Some("NoSuchKey");
        // A server that does not say what became of each key has not been asked in words it understands.
        (answered >= keys.len())
            .then(|| answer.errors().iter().filter(gone).map(|failed| self.not_deleted("delete", failed)).collect())
    }

    /// Asks for the deletion of all of these in one request; `None` where the server refused it as a whole.
    pub(super) async fn delete_objects(&self, identifiers: Vec<ObjectIdentifier>) -> Option<DeleteObjectsOutput> {
        let delete = Delete::builder().set_objects(Some(identifiers)).quiet(false).build().ok()?;
        self.tried_raw(self.attempts, |_tries| async {
            let request = self.client().delete_objects().bucket(&self.bucket).delete(delete.clone()).send();
            self.watch(&Progress::default(), request).await
        })
        .await
        .inspect_err(|failure| tracing::debug!("DeleteObjects: {}; one by one", failure.brief()))
        .ok()
    }

    /// The error of one key in the answer to [`Self::delete_objects`].
    pub(super) fn not_deleted(&self, operation: &str, failed: &aws_sdk_s3::types::Error) -> Error {
        let key = failed.key().and_then(|key| self.relative(key)).unwrap_or_default();
        let words = [failed.code(), failed.message()].into_iter().flatten().collect::<Vec<_>>().join(": ");
        Error::failed(format!("{}: {operation} {key}: {words}", self.describe()))
    }
}
