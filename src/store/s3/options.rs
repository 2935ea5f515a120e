//! The properties that a provider may want with each object: encryption, storage class, retention, `Content-MD5`.
//!
//! Owns the checks of these settings and the headers they become. Retention goes on the objects of a run only
//! (`runs/...`), which are written once; the pointer, receipts and pins move, and a lock would outlive their use.

use std::time::{Duration, SystemTime};

use aws_sdk_s3::operation::create_multipart_upload::builders::CreateMultipartUploadFluentBuilder;
use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::operation::upload_part::builders::UploadPartFluentBuilder;
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{ObjectLockMode, ServerSideEncryption, StorageClass};
use aws_smithy_types::base64;
use md5::{Digest as _, Md5};

use crate::error::{Error, Result};
use crate::format::layout;
use crate::store::config::{Config, LockMode, Sse};

/// The settings of one store, checked.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    pub(crate) encryption: Option<ServerSideEncryption>,
    pub(crate) key_id: Option<String>,
    pub(crate) storage_class: Option<StorageClass>,
    pub(crate) lock: Option<(ObjectLockMode, Duration)>,
    content_md5: bool,
}

impl Options {
    /// # Errors
    /// A usage error for settings that make no sense together.
    pub(crate) fn of(config: &Config) -> Result<Self> {
        if config.sse_kms_key_id.is_some() && config.sse != Some(Sse::AwsKms) {
            return Err(Error::usage("--s3-sse-kms-key-id names a key of KMS, and --s3-sse is not aws:kms")
                .hint("add --s3-sse aws:kms, or leave the key out"));
        }
        let lock = match (config.lock_mode, config.lock_retain) {
            (None, None) => None,
            (Some(_), None) => {
                return Err(Error::usage("--s3-object-lock-mode is given without --s3-object-lock-retain")
                    .hint("say how long each run is to be locked: --s3-object-lock-retain 30d"));
            }
            (None, Some(_)) => {
                return Err(Error::usage("--s3-object-lock-retain is given without --s3-object-lock-mode")
                    .hint("GOVERNANCE lets privileged users end a lock, COMPLIANCE lets nobody"));
            }
            (Some(_), Some(retain)) if retain < Duration::from_mins(1) => {
                return Err(Error::usage("--s3-object-lock-retain is shorter than a minute")
                    .hint("write it like 30d: how long each run is to be locked"));
            }
            (Some(mode), Some(retain)) => Some((lock_mode(mode), retain)),
        };
        Ok(Self {
            encryption: config.sse.map(|sse| match sse {
                Sse::Aes256 => ServerSideEncryption::Aes256,
                Sse::AwsKms => ServerSideEncryption::AwsKms,
            }),
            key_id: config.sse_kms_key_id.clone(),
            storage_class: config.storage_class.as_deref().map(StorageClass::from),
            // A bucket with Object Lock refuses a PUT without a checksum that S3 knows.
            content_md5: config.content_md5 || lock.is_some(),
            lock,
        })
    }

    /// A directory can keep none of these promises.
    pub(crate) fn refuse_for_directory(config: &Config) -> Result<()> {
        let given = [
            (config.at.is_some(), "--at"),
            (config.sse.is_some(), "--s3-sse"),
            (config.lock_mode.is_some(), "--s3-object-lock-mode"),
            (config.lock_retain.is_some(), "--s3-object-lock-retain"),
            (config.storage_class.is_some(), "--s3-storage-class"),
        ];
        match given.into_iter().find(|(given, _)| *given) {
            Some((_, flag)) => {
                Err(Error::usage(format!("{flag} is for an S3 store, and {} is a directory", config.location))
                    .hint("leave it out, or give --store as s3://bucket/prefix"))
            }
            None => Ok(()),
        }
    }

    /// True when etags cannot be MD5 sums: those of objects under a KMS key never are.
    pub(crate) fn hides_md5(&self) -> bool {
        self.encryption == Some(ServerSideEncryption::AwsKms)
    }

    /// Until when an object stored now is locked. `key` is relative to the prefix.
    fn locked(&self, key: &str) -> (Option<ObjectLockMode>, Option<DateTime>) {
        match &self.lock {
            Some((mode, retain)) if layout::is_of_a_run(key) => {
                let until = SystemTime::now().checked_add(*retain).map(DateTime::from);
                (Some(mode.clone()), until)
            }
            _ => (None, None),
        }
    }

    /// The headers of a PUT. `key` is relative to the prefix.
    pub(crate) fn put(&self, request: PutObjectFluentBuilder, key: &str, body: &[u8]) -> PutObjectFluentBuilder {
        let (mode, until) = self.locked(key);
        request
            .set_server_side_encryption(self.encryption.clone())
            .set_ssekms_key_id(self.key_id.clone())
            .set_storage_class(self.storage_class.clone())
            .set_object_lock_mode(mode)
            .set_object_lock_retain_until_date(until)
            .set_content_md5(self.md5(body))
    }

    /// The headers that begin an upload in parts. `key` is relative to the prefix.
    pub(crate) fn create(
        &self,
        request: CreateMultipartUploadFluentBuilder,
        key: &str,
    ) -> CreateMultipartUploadFluentBuilder {
        let (mode, until) = self.locked(key);
        request
            .set_server_side_encryption(self.encryption.clone())
            .set_ssekms_key_id(self.key_id.clone())
            .set_storage_class(self.storage_class.clone())
            .set_object_lock_mode(mode)
            .set_object_lock_retain_until_date(until)
    }

    /// The headers of a part.
    pub(crate) fn part(&self, request: UploadPartFluentBuilder, body: &[u8]) -> UploadPartFluentBuilder {
        request.set_content_md5(self.md5(body))
    }

    fn md5(&self, body: &[u8]) -> Option<String> {
        self.content_md5.then(|| content_md5(body))
    }
}

/// The value of a `Content-MD5` header.
pub(crate) fn content_md5(body: &[u8]) -> String {
    base64::encode(Md5::digest(body))
}

fn lock_mode(mode: LockMode) -> ObjectLockMode {
    match mode {
        LockMode::Governance => ObjectLockMode::Governance,
        LockMode::Compliance => ObjectLockMode::Compliance,
    }
}
