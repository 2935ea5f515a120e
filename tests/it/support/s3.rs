//! A real S3 server in this process: s3s over a folder, served by hyper on loopback.
//!
//! Path style at `127.0.0.1`, virtual-host style at `localhost` (`bucket.localhost`). `s3s-fs` cannot list multipart
//! uploads; this server keeps count of them itself.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::Parser as _;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use pgstow::cli::Cli;
use pgstow::cli::args::StoreArgs;
use s3s::auth::SimpleAuth;
use s3s::dto::*;
use s3s::host::MultiDomain;
use s3s::service::S3ServiceBuilder;
use s3s::{S3, S3Request, S3Response, S3Result};
use s3s_fs::FileSystem;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) const ACCESS_KEY: &str = "AKTEST";
pub(crate) const SECRET_KEY: &str = "test-secret-key";
const BUCKET: &str = "backups";

/// A running server; stops when dropped.
pub(crate) struct S3Server {
    pub(crate) endpoint: String,
    pub(crate) virtual_host_endpoint: String,
    pub(crate) bucket: String,
    pub(crate) access_key: String,
    pub(crate) secret_key: String,
    pub(crate) port: u16,
    pointers: Pointers,
    _stop: DropGuard,
}

impl S3Server {
    /// Serves `dir`, with one empty bucket.
    pub(crate) async fn start(dir: &Path) -> Self {
        Self::serve(dir, true).await
    }

    /// As [`S3Server::start`]; conditions of PUTs are accepted and ignored, as Garage and Supabase Storage do.
    pub(crate) async fn start_without_conditions(dir: &Path) -> Self {
        Self::serve(dir, false).await
    }

    /// What `latest.json` of a prefix held after each PUT of it, in order.
    pub(crate) fn pointers(&self, prefix: &str) -> Vec<String> {
        let (pointers, key) = (self.pointers.lock().unwrap(), format!("{prefix}/latest.json"));
        pointers.iter().filter(|(of, _)| *of == key).map(|(_, held)| held.clone()).collect()
    }

    async fn serve(dir: &Path, conditions: bool) -> Self {
        std::fs::create_dir_all(dir.join(BUCKET)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let pointers = Arc::default();
        let files = Counting {
            files: FileSystem::new(dir).unwrap(),
            open: Arc::default(),
            conditions,
            folder: dir.join(BUCKET),
            pointers: Arc::clone(&pointers),
        };
        let mut service = S3ServiceBuilder::new(files);
        service.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let domain = format!("localhost:{port}");
        service.set_host(MultiDomain::new([domain.as_str()]).unwrap());
        let service = service.build();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        tokio::spawn(stopped.clone().run_until_cancelled_owned(async move {
            loop {
                let Ok((socket, _peer)) = listener.accept().await else { continue };
                socket.set_nodelay(true).unwrap();
                let service = service.clone();
                // A server ends what it began although its client went away: half a deletion would be the test's own.
                let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                    let answer = tokio::spawn(hyper::service::Service::call(&service, request));
                    async move { answer.await.unwrap() }
                });
                tokio::spawn(stopped.clone().run_until_cancelled_owned(async move {
                    // A client that goes away is what some tests are about.
                    let _ended =
                        Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await;
                }));
            }
        }));
        Self {
            endpoint: format!("http://127.0.0.1:{port}"),
            virtual_host_endpoint: format!("http://{domain}"),
            bucket: BUCKET.to_owned(),
            access_key: ACCESS_KEY.to_owned(),
            secret_key: SECRET_KEY.to_owned(),
            port,
            pointers,
            _stop: stop.drop_guard(),
        }
    }

    /// Store settings for a prefix of the bucket, with parts of 5 MiB.
    pub(crate) fn store_args(&self, prefix: &str) -> StoreArgs {
        let mut args = store_args(&format!("s3://{}/{prefix}", self.bucket));
        args.s3_endpoint = Some(self.endpoint.clone());
        args
    }

    /// The fixed credentials, as `Store::open_with` takes them.
    pub(crate) fn credentials(&self) -> Option<(String, String)> {
        Some((self.access_key.clone(), self.secret_key.clone()))
    }

    /// Environment for a child process.
    pub(crate) fn env(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ACCESS_KEY_ID", self.access_key.clone()),
            ("AWS_SECRET_ACCESS_KEY", self.secret_key.clone()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ENDPOINT_URL_S3", self.endpoint.clone()),
        ]
    }
}

/// Settings as the command line would give them, with parts of 5 MiB.
pub(crate) fn store_args(store: &str) -> StoreArgs {
    let mut args = Cli::try_parse_from(["pgstow", "list", "--store", store]).unwrap().global.store;
    args.s3_part_size_mib = 5;
    args
}

/// Keys that end in `latest.json`, and what they held.
type Pointers = Arc<Mutex<Vec<(String, String)>>>;

struct Counting {
    files: FileSystem,
    open: Arc<Mutex<BTreeMap<String, (String, Timestamp)>>>,
    conditions: bool,
    folder: PathBuf,
    pointers: Pointers,
}

impl Counting {
    /// What S3 answers for an upload that is over; `s3s-fs` would deny access.
    fn known(&self, id: &str) -> S3Result<()> {
        if self.open.lock().unwrap().contains_key(id) {
            return Ok(());
        }
        Err(s3s::s3_error!(NoSuchUpload, "The specified multipart upload does not exist"))
    }
}

type Answer<'a, T> = Pin<Box<dyn Future<Output = S3Result<S3Response<T>>> + Send + 'a>>;

macro_rules! passed_on {
    ($($name:ident: $input:ty => $output:ty),* $(,)?) => {$(
        fn $name<'life0, 'async_trait>(&'life0 self, request: S3Request<$input>) -> Answer<'async_trait, $output>
        where 'life0: 'async_trait, Self: 'async_trait {
            self.files.$name(request)
        }
    )*};
}

impl S3 for Counting {
    passed_on! {
        get_object: GetObjectInput => GetObjectOutput,
        head_object: HeadObjectInput => HeadObjectOutput,
        list_objects_v2: ListObjectsV2Input => ListObjectsV2Output,
        delete_object: DeleteObjectInput => DeleteObjectOutput,
        upload_part: UploadPartInput => UploadPartOutput,
    }

    fn put_object<'life0, 'async_trait>(
        &'life0 self,
        mut request: S3Request<PutObjectInput>,
    ) -> Answer<'async_trait, PutObjectOutput>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(async move {
            if !self.conditions {
                request.input.if_match = None;
                request.input.if_none_match = None;
            }
            let key = request.input.key.clone();
            if !self.conditions && key.ends_with("latest.json") {
                // Latency, different each time: a compare before it and the move after it are not one step.
                let moves = self.pointers.lock().unwrap().len() as u64;
                tokio::time::sleep(Duration::from_millis(moves.wrapping_mul(2_654_435_761) % 97)).await;
            }
            let answer = self.files.put_object(request).await?;
            if key.ends_with("latest.json") {
                let mut pointers = self.pointers.lock().unwrap();
                let held = std::fs::read_to_string(self.folder.join(&key)).unwrap();
                pointers.push((key, held));
            }
            Ok(answer)
        })
    }

    fn create_multipart_upload<'life0, 'async_trait>(
        &'life0 self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> Answer<'async_trait, CreateMultipartUploadOutput>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(async move {
            let key = request.input.key.clone();
            let answer = self.files.create_multipart_upload(request).await?;
            let id = answer.output.upload_id.clone().unwrap();
            self.open.lock().unwrap().insert(id, (key, std::time::SystemTime::now().into()));
            Ok(answer)
        })
    }

    fn complete_multipart_upload<'life0, 'async_trait>(
        &'life0 self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> Answer<'async_trait, CompleteMultipartUploadOutput>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(async move {
            let id = request.input.upload_id.clone();
            self.known(&id)?;
            // Who aborts it from now on is told that there is no such upload, not that it is somebody else's.
            let taken = self.open.lock().unwrap().remove(&id);
            let answer = self.files.complete_multipart_upload(request).await;
            if let (Err(_), Some(upload)) = (&answer, taken) {
                self.open.lock().unwrap().insert(id, upload);
            }
            answer
        })
    }

    fn abort_multipart_upload<'life0, 'async_trait>(
        &'life0 self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> Answer<'async_trait, AbortMultipartUploadOutput>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(async move {
            let id = request.input.upload_id.clone();
            self.known(&id)?;
            let answer = self.files.abort_multipart_upload(request).await?;
            self.open.lock().unwrap().remove(&id);
            Ok(answer)
        })
    }

    fn list_multipart_uploads<'life0, 'async_trait>(
        &'life0 self,
        request: S3Request<ListMultipartUploadsInput>,
    ) -> Answer<'async_trait, ListMultipartUploadsOutput>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(async move {
            let prefix = request.input.prefix.unwrap_or_default();
            let open = self.open.lock().unwrap();
            let uploads = open.iter().filter(|(_id, (key, _at))| key.starts_with(&prefix));
            let uploads = uploads
                .map(|(id, (key, at))| MultipartUpload {
                    key: Some(key.clone()),
                    upload_id: Some(id.clone()),
                    initiated: Some(at.clone()),
                    ..MultipartUpload::default()
                })
                .collect();
            Ok(S3Response::new(ListMultipartUploadsOutput {
                uploads: Some(uploads),
                ..ListMultipartUploadsOutput::default()
            }))
        })
    }
}
