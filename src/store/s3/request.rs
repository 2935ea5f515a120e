//! The requests that store something, as every object of a store gets them: with its options.

use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::operation::upload_part::builders::UploadPartFluentBuilder;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;

use crate::error::Error;
use crate::store::s3::S3;
use crate::store::s3::attempt::Progress;
use crate::store::s3::failure::Failure;

/// Pages are shown by a browser; everything else is for programs.
fn content_type(key: &str) -> &'static str {
    let is_page = std::path::Path::new(key).extension().is_some_and(|end| end == "html");
    if is_page { "text/html; charset=utf-8" } else { "application/octet-stream" }
}

impl S3 {
    /// A PUT as every object of this store gets it, without a condition.
    pub(crate) fn put_request(&self, full: &str, body: &Bytes) -> PutObjectFluentBuilder {
        let request = self
            .client()
            .put_object()
            .bucket(&self.bucket)
            .key(full)
            .content_type(content_type(full))
            .body(ByteStream::from(body.clone()));
        self.options.put(request, self.relative(full).unwrap_or(full), body)
    }

    /// Begins an upload in parts as every object of this store gets it, once; its id.
    pub(crate) async fn begin_upload(&self, full: &str) -> Result<String, Failure> {
        let request = self
            .client()
            .create_multipart_upload()
            .bucket(&self.bucket)
            .key(full)
            .content_type("application/octet-stream");
        let request = self.options.create(request, self.relative(full).unwrap_or(full));
        let answer = async {
            match request.send().await {
                Ok(answer) => Ok(answer.upload_id),
                // rclone gives the answer's root element another name, which the SDK does not take.
                Err(SdkError::ServiceError(odd)) if odd.raw().status().is_success() => {
                    match odd.raw().body().bytes().and_then(upload_id) {
                        Some(id) => Ok(Some(id)),
                        None => Err(SdkError::ServiceError(odd)),
                    }
                }
                Err(error) => Err(error),
            }
        };
        let id = Box::pin(self.watch(&Progress::default(), answer)).await?;
        id.ok_or_else(|| Failure::of(&Error::failed("the server gives no upload id")))
    }

    /// One part as every object of this store gets it.
    pub(crate) fn part_request(&self, full: &str, id: &str, number: i32, body: &Bytes) -> UploadPartFluentBuilder {
        let request = self
            .client()
            .upload_part()
            .bucket(&self.bucket)
            .key(full)
            .upload_id(id)
            .part_number(number)
            .body(ByteStream::from(body.clone()));
        self.options.part(request, body)
    }
}

/// The text between `<UploadId>` and `</UploadId>`; ids need no unescaping.
fn upload_id(body: &[u8]) -> Option<String> {
    let (_, rest) = std::str::from_utf8(body).ok()?.split_once("<UploadId>")?;
    let (id, _) = rest.split_once("</UploadId>")?;
    (!id.is_empty() && !id.contains('&')).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::upload_id;

    #[test]
    fn an_upload_s_id_is_found_whatever_the_root_is_called() {
        let body = b"<InitiateMultipartUpload><Bucket>b</Bucket><Key>k</Key><UploadId>7-a</UploadId></InitiateMultipartUpload>";
        assert_eq!(upload_id(body).as_deref(), Some("7-a"));
        assert_eq!(upload_id(b"<Error><Code>SlowDown</Code></Error>"), None);
        assert_eq!(upload_id(b"<UploadId></UploadId>"), None);
        assert_eq!(upload_id(b"<UploadId>cut"), None);
    }
}
