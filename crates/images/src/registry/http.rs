//! One request, with what it takes to get to its answer: authentication, redirects, attempts.

use std::hash::{BuildHasher, RandomState};
use std::io::Read;
use std::time::Duration;

use ureq::Body;
use ureq::http::{Method, Response, StatusCode, header};

use super::answer::{self, origin};
use super::{Base, Client};
use crate::error::{Error, Result, invalid, shortened};

/// Hosts that an answer may lead to, one after the other.
const REDIRECTS_MAX: usize = 8;
/// Bytes of an answer about an error.
const MESSAGE_MAX: u64 = 64 << 10;

/// Why a request has no answer that can be used.
pub(super) enum Failure {
    /// It may work later, if the registry says so after this time.
    Passing(Error, Option<Duration>),
    Lasting(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Lasting(error)
    }
}

#[derive(Clone)]
pub(super) struct Request<'a> {
    pub method: Method,
    /// From the registry's root.
    pub path: &'a str,
    pub accept: &'a str,
    /// The answer may take as long as it likes, if it does not stall.
    pub is_blob: bool,
    /// The first byte that is wanted.
    pub from: u64,
    /// A path whose images are wanted.
    pub repository: Option<&'a str>,
}

pub(super) type Answer = Response<Body>;

impl Client {
    /// Sends a request until it has an answer.
    pub(super) fn ask(&self, base: &Base, request: &Request) -> Result<Answer> {
        self.attempt(|| self.ask_once(base, request))
    }

    /// Tries until it works, or fails for good.
    pub(super) fn attempt<T>(&self, mut work: impl FnMut() -> Result<T, Failure>) -> Result<T> {
        let mut attempt = 1;
        loop {
            match work() {
                Ok(done) => return Ok(done),
                Err(Failure::Lasting(error)) => return Err(error),
                Err(Failure::Passing(error, after)) => self.pause(&mut attempt, error, after)?,
            }
        }
    }

    /// Waits before the next attempt, or fails if there were enough.
    pub(super) fn pause(&self, attempt: &mut u32, error: Error, after: Option<Duration>) -> Result<()> {
        self.cancel.check()?;
        let patience = &self.options.patience;
        if *attempt >= patience.attempts || after.is_some_and(|after| after > patience.delay_max) {
            return Err(error);
        }
        let delay = patience
            .delay
            .saturating_mul(1 << (*attempt - 1).min(16))
            .min(patience.delay_max);
        // Not all who were turned away come back at once.
        let share = RandomState::new().hash_one(*attempt) % 512 + 512;
        let delay = delay.mul_f64(share as f64 / 1024.0);
        *attempt += 1;
        self.cancel.wait(after.unwrap_or_default().max(delay))
    }

    /// An answer with success, or with an error of the asker's. Whatever may pass is a passing failure.
    pub(super) fn ask_once(&self, base: &Base, request: &Request) -> Result<Answer, Failure> {
        let mut url = format!("{}{}", base.url(), request.path);
        let home = origin(&url)?;
        let (mut redirects, mut challenges) = (0, 0);
        loop {
            self.cancel.check()?;
            // What is for the registry is for nobody to whom it leads.
            let is_home = origin(&url)? == home;
            let authorization = match is_home {
                true => self.authorization(base, request.repository)?,
                false => None,
            };
            let answer = self.send(base, request, &url, authorization.as_deref())?;
            let text = |name| answer.headers().get(name).and_then(|value| value.to_str().ok());
            match answer.status() {
                StatusCode::MOVED_PERMANENTLY
                | StatusCode::FOUND
                | StatusCode::SEE_OTHER
                | StatusCode::TEMPORARY_REDIRECT
                | StatusCode::PERMANENT_REDIRECT => {
                    let location = text(header::LOCATION).ok_or_else(|| {
                        invalid(format!(
                            "the registry {} leads elsewhere without saying where",
                            base.host
                        ))
                    })?;
                    redirects += 1;
                    if redirects > REDIRECTS_MAX {
                        let host = &base.host;
                        return Err(
                            invalid(format!("the registry {host} leads in circles; check its name")).into(),
                        );
                    }
                    url = answer::redirect(&url, location)?;
                }
                StatusCode::UNAUTHORIZED if is_home && challenges < 2 => {
                    challenges += 1;
                    let all: Vec<_> = answer
                        .headers()
                        .get_all(header::WWW_AUTHENTICATE)
                        .iter()
                        .collect();
                    let all: Vec<_> = all.into_iter().filter_map(|value| value.to_str().ok()).collect();
                    let challenge = answer::challenge(&all.join(", "));
                    if !self.meet(base, request.repository, challenge, challenges)? {
                        return Err(self.refused(base, request, answer).into());
                    }
                }
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    return Err(self.refused(base, request, answer).into());
                }
                status if status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429) => {
                    let after = text(header::RETRY_AFTER).and_then(answer::retry_after);
                    let why = match status.as_u16() {
                        429 => "it was asked too often; log in, or wait and try again".to_owned(),
                        code => format!("it answers {code} {}", said(answer)),
                    };
                    let host = &base.host;
                    return Err(Failure::Passing(
                        Error::Network(format!("the registry {host} does not serve: {why}")),
                        after,
                    ));
                }
                _ => return Ok(answer),
            }
        }
    }

    fn send(
        &self,
        base: &Base,
        request: &Request,
        url: &str,
        authorization: Option<&str>,
    ) -> Result<Answer, Failure> {
        let mut builder = ureq::http::Request::builder()
            .method(request.method.clone())
            .uri(url);
        builder = builder.header(header::ACCEPT, request.accept);
        if request.from > 0 {
            builder = builder.header(header::RANGE, format!("bytes={}-", request.from));
        }
        if let Some(authorization) = authorization {
            builder = builder.header(header::AUTHORIZATION, authorization);
        }
        let built = builder
            .body(())
            .map_err(|error| invalid(format!("cannot ask {}: {error}", shortened(url))))?;
        let small = !request.is_blob;
        self.agent
            .run(self.configure(built, small))
            .map_err(|error| self.unreachable(&base.host, error))
    }

    /// A failure to get an answer at all.
    pub(super) fn unreachable(&self, host: &str, error: ureq::Error) -> Failure {
        if self.cancel.is_cancelled() {
            return Failure::Lasting(Error::Cancelled);
        }
        // So rustls says that it does not like what it was sent, above all a certificate.
        let is_tls = match &error {
            ureq::Error::Io(error) => error.kind() == std::io::ErrorKind::InvalidData,
            other => matches!(other, ureq::Error::Rustls(_)),
        };
        let is_nonsense = matches!(
            error,
            ureq::Error::LargeResponseHeader(..)
                | ureq::Error::Protocol(_)
                | ureq::Error::BadUri(_)
                | ureq::Error::Http(_)
        );
        let is_lasting = is_tls || is_nonsense || matches!(error, ureq::Error::HostNotFound);
        let why = match &error {
            ureq::Error::HostNotFound => "its name is not known; check it, and the network".to_owned(),
            ureq::Error::Timeout(_) => "it takes too long to answer".to_owned(),
            error if is_tls => {
                let error = shortened(&error.to_string());
                format!(
                    "it cannot be trusted ({error}); give its certificate, or allow it as an insecure one"
                )
            }
            error => shortened(&error.to_string()),
        };
        let error = Error::Network(format!("cannot talk to the registry {host}: {why}"));
        match is_lasting {
            true => Failure::Lasting(error),
            false => Failure::Passing(error, None),
        }
    }

    /// The error of an answer that is none of the expected ones.
    pub(super) fn unexpected(&self, base: &Base, what: &str, answer: Answer) -> Error {
        let (host, status) = (&base.host, answer.status());
        match status {
            StatusCode::NOT_FOUND => {
                let said = said(answer);
                Error::Missing(format!(
                    "the registry {host} has no {what} {said}; check the name and the tag"
                ))
            }
            _ => Error::Network(format!(
                "the registry {host} does not give {what}: it answers {status} {}",
                said(answer)
            )),
        }
    }

    fn refused(&self, base: &Base, request: &Request, answer: Answer) -> Error {
        let host = &base.host;
        let what = request
            .repository
            .map_or_else(String::new, |path| format!(" to {path}"));
        let note = self
            .note(host)
            .map_or_else(String::new, |note| format!(" ({note})"));
        let said = said(answer);
        Error::Denied(format!(
            "the registry {host} refuses access{what} {said}; check the name, or log in by `coracle login {host}`{note}"
        ))
    }
}

/// What an answer about an error says, in brackets.
fn said(answer: Answer) -> String {
    let mut body = Vec::new();
    let read = answer
        .into_body()
        .into_reader()
        .take(MESSAGE_MAX)
        .read_to_end(&mut body);
    match read.ok().and_then(|_| answer::message(&body)) {
        Some(message) => format!("('{message}')"),
        None => String::new(),
    }
}

/// Reads an answer whose size is bounded.
pub(super) fn whole(client: &Client, base: &Base, answer: Answer, most: u64) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let host = &base.host;
    let read = answer
        .into_body()
        .into_reader()
        .take(most + 1)
        .read_to_end(&mut bytes);
    read.map_err(|error| cut_off(client, host, &error))?;
    match bytes.len() as u64 > most {
        true => Err(invalid(format!(
            "the registry {host} answers with more than {most} bytes, and no such answer is valid"
        ))
        .into()),
        false => Ok(bytes),
    }
}

pub(super) fn cut_off(client: &Client, host: &str, error: &std::io::Error) -> Failure {
    match client.cancel.is_cancelled() {
        true => Failure::Lasting(Error::Cancelled),
        false => {
            let why = shortened(&error.to_string());
            Failure::Passing(
                Error::Network(format!("the registry {host} breaks off: {why}")),
                None,
            )
        }
    }
}
