//! Reading a range of an object as one stream, resumed at the byte it reached when a connection breaks or stalls.

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use bytes::Bytes;
use tokio::io::AsyncRead;
use tokio_util::io::StreamReader;

use crate::error::{Error, Result};
use crate::store::s3::S3;
use crate::store::s3::attempt::Progress;
use crate::store::s3::failure::Failure;

struct Reading {
    s3: Arc<S3>,
    key: String,
    at: u64,
    end: u64,
    etag: Option<String>,
    /// The version to read; `None`: the newest.
    version: Option<String>,
    answer: Option<Answer>,
    /// Breaks since a byte last came.
    breaks: u32,
}

struct Answer {
    body: aws_sdk_s3::primitives::ByteStream,
    /// The end of the answer in the object.
    end: u64,
}

pub(crate) async fn open(s3: Arc<S3>, key: &str, range: Range<u64>) -> Result<Pin<Box<dyn AsyncRead + Send>>> {
    let version = s3.version_to_read(key).await?;
    let (key, at, end) = (key.to_owned(), range.start, range.end);
    let mut reading = Reading { s3, key, at, end, etag: None, version, answer: None, breaks: 0 };
    if range.is_empty() {
        if reading.s3.head(&reading.key).await?.is_none() {
            let (store, key) = (reading.s3.describe(), &reading.key);
            return Err(Error::failed(format!("{store}: read {key}: no such object")));
        }
        return Ok(Box::pin(tokio::io::empty()));
    }
    reading.request().await?;
    let stream = futures::stream::try_unfold(reading, |mut reading| async move {
        let bytes = reading.next().await.map_err(std::io::Error::from)?;
        Ok::<_, std::io::Error>(bytes.map(|bytes| (bytes, reading)))
    });
    Ok(Box::pin(StreamReader::new(Box::pin(stream))))
}

impl Reading {
    /// Asks for what is still missing; leaves `answer` empty when the object ends before it.
    async fn request(&mut self) -> Result<()> {
        let full = self.s3.full(&self.key)?;
        // Servers refuse numbers beyond 63 bits.
        let range = match i64::try_from(self.end) {
            Ok(end) => format!("bytes={}-{}", self.at, end - 1),
            Err(_too_large) => format!("bytes={}-", self.at),
        };
        let s3 = &self.s3;
        let answer = s3
            .tried_raw(s3.attempts, |_tries| async {
                let request = s3
                    .client()
                    .get_object()
                    .bucket(&s3.bucket)
                    .key(&full)
                    .range(&range)
                    .set_version_id(self.version.clone())
                    .send();
                s3.watch(&Progress::default(), request).await
            })
            .await;
        match answer {
            Ok(answer) => self.take(answer),
            Err(failure) if failure.status == Some(416) => {
                self.answer = None;
                self.end = self.at;
                Ok(())
            }
            Err(failure) => Err(self.s3.error("read", &self.key, &failure)),
        }
    }

    fn take(&mut self, answer: GetObjectOutput) -> Result<()> {
        let wrong = |what: &str| Err(Error::failed(format!("{}: read {}: {what}", self.s3.describe(), self.key)));
        if self.at > 0 && answer.content_range.as_deref().is_none_or(|range| !begins_at(range, self.at)) {
            return wrong("the server does not answer with the range that was asked for");
        }
        if self.etag.is_some() && answer.e_tag != self.etag {
            return wrong("the object was replaced while it was read");
        }
        self.etag = answer.e_tag;
        let length = answer.content_length.and_then(|length| u64::try_from(length).ok());
        let end = length.map_or(self.end, |length| self.at.saturating_add(length));
        self.answer = Some(Answer { body: answer.body, end });
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if self.at >= self.end {
                return Ok(None);
            }
            let Some(answer) = &mut self.answer else {
                self.request().await?;
                continue;
            };
            let ended_early = self.at < answer.end;
            match self.s3.chunk(&mut answer.body).await {
                Ok(Some(mut bytes)) => {
                    self.breaks = 0;
                    let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
                    bytes.truncate(left);
                    self.at += bytes.len() as u64;
                    return Ok(Some(bytes));
                }
                Ok(None) if !ended_early => return Ok(None),
                Ok(None) => self.broken(&Failure::cut()).await?,
                Err(failure) => self.broken(&failure).await?,
            }
        }
    }

    async fn broken(&mut self, failure: &Failure) -> Result<()> {
        self.answer = None;
        self.breaks += 1;
        if self.breaks >= self.s3.attempts {
            return Err(self.s3.error("read", &self.key, failure));
        }
        tracing::debug!(key = %self.key, at = self.at, "the stream broke, resuming");
        crate::store::s3::attempt::pause(self.breaks).await;
        Ok(())
    }
}

/// True when `bytes 5-9/10` begins at 5.
fn begins_at(range: &str, at: u64) -> bool {
    range.trim_start_matches("bytes").trim_start().split('-').next().and_then(|start| start.parse().ok()) == Some(at)
}
