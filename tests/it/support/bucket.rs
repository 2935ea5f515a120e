//! A bucket: an S3 server over a folder, the runtime that both live in, and the program started against them.

use std::path::{Path, PathBuf};
use std::process::Command;

use pgstow::store::Store;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::pg::Cluster;
use super::program::{backup, files, pgstow};
use super::s3::S3Server;

/// An S3 server with one bucket. It stops, and its folder is removed, on drop.
pub struct Bucket {
    /// Where the server lives, and proxies in front of it.
    pub runtime: Runtime,
    /// The server.
    pub server: S3Server,
    folder: TempDir,
}

impl Bucket {
    /// Starts a server that keeps the conditions of PUTs.
    pub fn start() -> Self {
        Self::start_with(true)
    }

    /// Starts a server that accepts and ignores the conditions of PUTs.
    pub fn start_without_conditions() -> Self {
        Self::start_with(false)
    }

    fn start_with(conditions: bool) -> Self {
        let (folder, runtime) = (tempfile::tempdir().unwrap(), Runtime::new().unwrap());
        let server = runtime.block_on(async {
            if conditions {
                S3Server::start(folder.path()).await
            } else {
                S3Server::start_without_conditions(folder.path()).await
            }
        });
        Self { runtime, server, folder }
    }

    /// The address of a prefix, for `--store`.
    pub fn address(&self, prefix: &str) -> String {
        format!("s3://{}/{prefix}", self.server.bucket)
    }

    /// The folder behind a prefix.
    pub fn path(&self, prefix: &str) -> PathBuf {
        self.folder.path().join(&self.server.bucket).join(prefix)
    }

    /// The files below a prefix.
    pub fn files(&self, prefix: &str) -> Vec<String> {
        files(&self.path(prefix))
    }

    /// A command of the program on a prefix.
    pub fn command(&self, prefix: &str, words: &[&str]) -> Command {
        let mut command = pgstow();
        command.args(words).arg("--store").arg(self.address(prefix)).envs(self.server.env());
        command
    }

    /// `pgstow backup` into a prefix.
    pub fn backup(&self, cluster: &Cluster, database: &str, prefix: &str) -> Command {
        let mut command = backup(cluster, database, Path::new(&self.address(prefix)));
        command.envs(self.server.env());
        command
    }

    /// The store of a prefix.
    pub fn store(&self, prefix: &str) -> Store {
        let arguments = self.server.store_args(prefix);
        self.runtime.block_on(Store::open_with(&arguments, self.server.credentials())).unwrap()
    }

    /// Keys of the multipart uploads that are open below a prefix.
    pub fn uploads(&self, prefix: &str) -> Vec<String> {
        let store = self.store(prefix);
        let uploads = self.runtime.block_on(store.uploads("")).unwrap();
        uploads.into_iter().map(|upload| upload.key).collect()
    }
}
