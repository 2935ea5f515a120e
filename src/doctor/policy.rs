//! The smallest permissions that suffice, as an IAM policy: what pgstow asks an S3 server for, action by action.
//!
//! `s3:ListBucket` is also what turns "access denied" into "no such key" for an object that does not exist. A request
//! for an object has no prefix to compare, so with `StringLike` alone the first backup into an empty prefix would be denied
//! its look for `latest.json`: a statement of its own allows requests without a prefix (`StringLikeIfExists`, one statement
//! instead of two, is not known to MinIO).
//!
//! Amazon lets a policy demand `If-None-Match` of a key, so that it cannot replace the objects of a run; other servers do
//! not know that condition and refuse the whole policy.

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::store::Store;
use crate::store::config::{Config, Sse};
use crate::store::probe::{Probe, Seen};

/// Both policies.
#[derive(Debug, Clone, serde::Serialize)]
pub(crate) struct Policies {
    full: Value,
    write_only: Value,
    /// True where `write_only` lets nobody replace an object of a run.
    #[serde(skip)]
    pub(crate) demands_new: bool,
}

/// The facts that policies depend on besides bucket and prefix.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    /// The server is Amazon's and honours `If-None-Match`.
    pub(crate) demands_new: bool,
    /// The bucket keeps old versions, which `prune --versions` deletes.
    pub(crate) keeps_versions: bool,
}

impl Facts {
    /// The findings of a probe.
    pub(crate) fn of(store: &Store, probe: Option<&Probe>) -> Self {
        let seen = |name: &str| probe.is_some_and(|probe| probe.seen(name) == Seen::Yes);
        let is_amazon = store.endpoint().is_none_or(|endpoint| {
            let host = endpoint.split("://").nth(1).unwrap_or_default().split(['/', ':']).next().unwrap_or_default();
            host.ends_with(".amazonaws.com") || host.ends_with(".amazonaws.com.cn")
        });
        Self { demands_new: is_amazon && seen("if-none-match"), keeps_versions: seen("versioning") }
    }
}

impl Policies {
    /// For a bucket and prefix (empty, or ending in `/`).
    pub(crate) fn of(bucket: &str, prefix: &str, config: &Config, facts: Facts) -> Self {
        let objects = |keys: &[&str]| -> Vec<String> {
            keys.iter().map(|key| format!("arn:aws:s3:::{bucket}/{prefix}{key}")).collect()
        };
        let own = [format!("arn:aws:s3:::{bucket}")];
        let mut put = vec!["s3:PutObject", "s3:AbortMultipartUpload"];
        if config.lock_mode.is_some() {
            put.push("s3:PutObjectRetention");
        }
        let every = objects(&["*"]);
        let mut all = vec!["s3:GetObject"];
        all.extend(&put);
        all.push("s3:DeleteObject");
        let mut full = list(bucket, prefix, "s3:ListBucket");
        full.push(allow("Uploads", &["s3:ListBucketMultipartUploads"], &own));
        full.push(allow("Objects", &all, &every));
        if facts.keeps_versions {
            full.push(allow("Versions", &["s3:ListBucketVersions"], &own));
            full.push(allow("OldVersions", &["s3:GetObjectVersion", "s3:DeleteObjectVersion"], &every));
        }
        let mut write_only = list(bucket, prefix, "s3:ListBucket");
        write_only.extend([
            allow("Write", &put, &every),
            allow("Pointer", &["s3:GetObject"], &objects(&["latest.json", "runs/*/manifest.json"])),
            // Small objects by which processes take turns at the pointer; they hold nothing.
            allow("Turns", &["s3:DeleteObject"], &objects(&["claims/*"])),
        ]);
        if facts.demands_new {
            write_only.push(json!({
                "Sid": "RunsAreWrittenOnce", "Effect": "Deny", "Action": ["s3:PutObject"], "Resource": objects(&["runs/*"]),
                // Parts of an upload make no object; its end does.
                "Condition": { "Null": { "s3:if-none-match": "true" }, "Bool": { "s3:ObjectCreationOperation": "true" } },
            }));
        }
        if config.sse == Some(Sse::AwsKms) {
            let key = config.sse_kms_key_id.clone().unwrap_or_else(|| "*".to_owned());
            let key = if key.starts_with("arn:") || key == "*" { key } else { format!("arn:aws:kms:*:*:key/{key}") };
            let kms = allow("Key", &["kms:GenerateDataKey", "kms:Decrypt"], &[key]);
            full.push(kms.clone());
            write_only.push(kms);
        }
        let document = |statements: Vec<Value>| json!({ "Version": "2012-10-17", "Statement": statements });
        Self { full: document(full), write_only: document(write_only), demands_new: facts.demands_new }
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

/// Lists below the prefix, and requests that have none.
fn list(bucket: &str, prefix: &str, action: &str) -> Vec<Value> {
    let statement = |sid: &str, condition: Option<Value>| {
        let mut statement = allow(sid, &[action], &[format!("arn:aws:s3:::{bucket}")]);
        if let (Some(condition), Some(fields)) = (condition, statement.as_object_mut()) {
            fields.insert("Condition".to_owned(), condition);
        }
        statement
    };
    if prefix.is_empty() {
        return vec![statement("List", None)];
    }
    let below = json!({ "StringLike": { "s3:prefix": format!("{prefix}*") } });
    let absent = json!({ "Null": { "s3:prefix": "true" } });
    vec![statement("List", Some(below)), statement("SeeWhatIsAbsent", Some(absent))]
}
