//! Blobs of a registry.

use std::io::Read;
use std::time::Instant;

use ureq::http::{Method, StatusCode, header};

use super::http::{Answer, Failure, Request, cut_off};
use super::{Base, Client, answer};
use crate::digest::{Digest, Expected};
use crate::error::{Error, Result};
use crate::points::reached;
use crate::store::{Download, Store};

const BUFFER: usize = 64 << 10;

impl Client {
    /// Gets a blob into the store, from where an earlier attempt has ended. One that is a layer is unpacked meanwhile. `progress` is
    /// told how many bytes are there, and may end it.
    pub(super) fn blob(
        &self,
        base: &Base,
        repository: &str,
        blob: &Expected,
        diff_id: Option<&Digest>,
        store: &Store,
        progress: &dyn Fn(u64) -> Result<()>,
    ) -> Result<()> {
        let Some(mut download) = store.fetch(blob)? else {
            return progress(blob.size.unwrap_or(0));
        };
        reached("blob-begun");
        if let Some(diff_id) = diff_id {
            download.unpack_as(diff_id)?;
        }
        let path = format!("/v2/{repository}/blobs/{}", blob.digest);
        let mut attempt = 1;
        let mut most = download.count();
        let had_some = most > 0;
        while download.count() < blob.size.unwrap_or(u64::MAX) {
            progress(download.count())?;
            let request = Request {
                method: Method::GET,
                path: &path,
                accept: "*/*",
                is_blob: true,
                from: download.count(),
                repository: Some(repository),
            };
            let got = self
                .ask_once(base, &request)
                .and_then(|answer| self.take(base, answer, &mut download, blob, progress));
            // Whatever comes after progress is a first attempt.
            if download.count() > most {
                (most, attempt) = (download.count(), 1);
            }
            match got {
                Ok(()) if blob.size.is_none() => break,
                Ok(()) => {}
                Err(Failure::Lasting(error)) => return Err(error),
                Err(Failure::Passing(error, after)) => self.pause(&mut attempt, error, after)?,
            }
        }
        reached("blob-whole");
        match download.finish() {
            // What was there before may be what is damaged, and is gone now.
            Err(Error::Invalid(_)) if had_some && !store.has(blob) => {
                self.blob(base, repository, blob, diff_id, store, progress)
            }
            done => done,
        }
    }

    /// Takes one answer's part of a blob.
    fn take(
        &self,
        base: &Base,
        answer: Answer,
        download: &mut Download,
        blob: &Expected,
        progress: &dyn Fn(u64) -> Result<()>,
    ) -> Result<(), Failure> {
        let range = answer
            .headers()
            .get(header::CONTENT_RANGE)
            .and_then(|range| range.to_str().ok());
        let start = range.and_then(answer::range_start);
        match answer.status() {
            StatusCode::PARTIAL_CONTENT if start == Some(download.count()) => {}
            // Not all registries have ranges.
            StatusCode::OK => {
                if download.count() > 0 {
                    download.restart()?;
                }
            }
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                download.restart()?;
                let host = &base.host;
                return Err(Failure::Passing(
                    Error::Network(format!(
                        "the registry {host} gives another part of a blob than it was asked for"
                    )),
                    None,
                ));
            }
            _ => {
                return Err(self
                    .unexpected(base, &format!("blob {}", blob.digest), answer)
                    .into());
            }
        }
        let mut body = answer.into_body().into_reader();
        let mut buffer = vec![0; BUFFER];
        let patience = &self.options.patience;
        let (mut since, mut in_time) = (Instant::now(), 0);
        loop {
            self.cancel.check()?;
            match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    download.write(&buffer[..count])?;
                    progress(download.count())?;
                    in_time += count as u64;
                }
                Err(error) => return Err(cut_off(self, &base.host, &error)),
            }
            if since.elapsed() >= patience.answer {
                if in_time < patience.rate {
                    let host = &base.host;
                    return Err(Error::Network(format!(
                        "the registry {host} is too slow: {in_time} bytes came in {} s; try again later",
                        patience.answer.as_secs()
                    ))
                    .into());
                }
                (since, in_time) = (Instant::now(), 0);
            }
        }
        match blob.size {
            Some(size) if download.count() < size => {
                let (host, count) = (&base.host, download.count());
                Err(Failure::Passing(
                    Error::Network(format!(
                        "the registry {host} ends a blob after {count} of {size} bytes"
                    )),
                    None,
                ))
            }
            _ => Ok(()),
        }
    }
}
