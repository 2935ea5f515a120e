//! A bucket with versions read as it was at a moment: what was hidden since by a delete marker, or put aside by another
//! object of its name, is there again.
//!
//! Lists come from the list of versions; an object is read by the version that it had. Nothing can be written.

use std::collections::BTreeSet;
use std::time::SystemTime;

use crate::error::{Error, Result};
use crate::store::ObjectInfo;
use crate::store::s3::server::S3;
use crate::store::s3::versions::Version;

impl S3 {
    /// The newest version of each object below `prefix` that is not younger than the moment; hidden ones are left out.
    async fn versions_at(&self, prefix: &str, at: SystemTime) -> Result<Vec<Version>> {
        let mut versions = self.versions(prefix).await.map_err(|error| {
            error.hint("--at reads old versions: the key needs s3:ListBucketVersions and s3:GetObjectVersion")
        })?;
        versions.retain(|version| version.modified.is_some_and(|then| then <= at));
        versions.sort_by(|a, b| (&a.key, b.modified).cmp(&(&b.key, a.modified)));
        versions.dedup_by(|later, first| later.key == first.key);
        versions.retain(|version| !version.is_marker);
        Ok(versions)
    }

    pub(super) async fn list_at(&self, prefix: &str, at: SystemTime) -> Result<Vec<ObjectInfo>> {
        let versions = self.versions_at(prefix, at).await?;
        Ok(versions.into_iter().map(info).collect())
    }

    pub(super) async fn folders_at(&self, prefix: &str, at: SystemTime) -> Result<Vec<String>> {
        let versions = self.versions_at(prefix, at).await?;
        let folder = |version: &Version| Some(version.key.strip_prefix(prefix)?.split_once('/')?.0.to_owned());
        Ok(versions.iter().filter_map(folder).collect::<BTreeSet<String>>().into_iter().collect())
    }

    pub(super) async fn head_at(&self, key: &str, at: SystemTime) -> Result<Option<ObjectInfo>> {
        Ok(self.version_at(key, at).await?.map(info))
    }

    /// The version of an object at the moment; `None` where there was none.
    async fn version_at(&self, key: &str, at: SystemTime) -> Result<Option<Version>> {
        let versions = self.versions_at(key, at).await?;
        Ok(versions.into_iter().find(|version| version.key == key))
    }

    /// The id of the version to read; `None` where the bucket is read as it is now.
    ///
    /// # Errors
    /// Kind `Usage` where the object was not there at the moment.
    pub(super) async fn version_to_read(&self, key: &str) -> Result<Option<String>> {
        let Some(at) = self.at else { return Ok(None) };
        match self.version_at(key, at).await? {
            Some(version) => Ok(Some(version.id)),
            None => Err(Error::failed(format!("{}: read {key}: it was not there at that moment", self.describe()))),
        }
    }

    pub(crate) fn is_past(&self) -> bool {
        self.at.is_some()
    }

    /// Refuses to change a bucket that is read as it was.
    pub(super) fn refuse_past(&self) -> Result<()> {
        if self.at.is_none() {
            return Ok(());
        }
        Err(Error::usage(format!("{} is read as it was at a moment (--at): nothing can be written", self.describe())))
    }
}

fn info(version: Version) -> ObjectInfo {
    ObjectInfo { key: version.key, bytes: version.bytes, etag: version.etag, modified: version.modified }
}
