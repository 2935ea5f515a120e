//! The smallest permissions that suffice, as an IAM policy: what pgstow asks an S3 server for, action by action.
//!
//! `s3:ListBucket` is also what turns "access denied" into "no such key" for an object that does not exist. A request
//! for an object has no prefix to compare, hence `StringLikeIfExists`: with `StringLike` the first backup into an
//! empty prefix would be denied its look for `latest.json`.

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::store::config::{Config, Sse};

/// Both policies.
#[derive(Debug, Clone, serde::Serialize)]
pub(crate) struct Policies {
    full: Value,
    write_only: Value,
}

impl Policies {
    /// For a bucket and prefix (empty, or ending in `/`).
    pub(crate) fn of(bucket: &str, prefix: &str, config: &Config) -> Self {
        let objects = |keys: &[&str]| -> Vec<String> {
            keys.iter().map(|key| format!("arn:aws:s3:::{bucket}/{prefix}{key}")).collect()
        };
        let list = list(bucket, prefix);
        let mut put = vec!["s3:PutObject", "s3:AbortMultipartUpload"];
        if config.lock_mode.is_some() {
            put.push("s3:PutObjectRetention");
        }
        let every = objects(&["*"]);
        let mut all = vec!["s3:GetObject"];
        all.extend(&put);
        all.push("s3:DeleteObject");
        let mut full = vec![
            list.clone(),
            allow("Uploads", &["s3:ListBucketMultipartUploads"], &[format!("arn:aws:s3:::{bucket}")]),
            allow("Objects", &all, &every),
        ];
        let mut write_only = vec![
            list,
            allow("Write", &put, &every),
            allow("Pointer", &["s3:GetObject"], &objects(&["latest.json", "runs/*/manifest.json"])),
            // Small objects by which processes take turns at the pointer; they hold nothing.
            allow("Turns", &["s3:DeleteObject"], &objects(&["claims/*"])),
        ];
        if config.sse == Some(Sse::AwsKms) {
            let key = config.sse_kms_key_id.clone().unwrap_or_else(|| "*".to_owned());
            let key = if key.starts_with("arn:") || key == "*" { key } else { format!("arn:aws:kms:*:*:key/{key}") };
            let kms = allow("Key", &["kms:GenerateDataKey", "kms:Decrypt"], &[key]);
            full.push(kms.clone());
            write_only.push(kms);
        }
        let document = |statements: Vec<Value>| json!({ "Version": "2012-10-17", "Statement": statements });
        Self { full: document(full), write_only: document(write_only) }
    }

    /// The full policy as text.
    pub(crate) fn text(&self) -> Result<String> {
        let text = serde_json::to_string_pretty(&self.full);
        text.map(|text| text + "\n").map_err(|error| Error::failed(format!("write JSON: {error}")))
    }
}

fn allow(sid: &str, actions: &[&str], resources: &[String]) -> Value {
    json!({ "Sid": sid, "Effect": "Allow", "Action": actions, "Resource": resources })
}

fn list(bucket: &str, prefix: &str) -> Value {
    let mut statement = allow("List", &["s3:ListBucket"], &[format!("arn:aws:s3:::{bucket}")]);
    if !prefix.is_empty()
        && let Some(fields) = statement.as_object_mut()
    {
        let condition = json!({ "StringLikeIfExists": { "s3:prefix": format!("{prefix}*") } });
        fields.insert("Condition".to_owned(), condition);
    }
    statement
}
