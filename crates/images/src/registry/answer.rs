//! What a registry's answers say, apart from how they came (RFC 9110; OCI distribution specification 1.1, "Error Codes"; Docker
//! Registry v2 "Token Authentication Specification").

use std::time::Duration;

use serde::Deserialize;
use ureq::http::Uri;

use crate::error::{Result, invalid, shortened};

/// Bytes of a header that is looked at.
const HEADER_MAX: usize = 8 << 10;
/// How long a token is good if its server does not say.
const LIFETIME: u64 = 60;
const LIFETIME_MAX: u64 = 24 * 3600;

/// How a registry wants to be shown who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    Basic,
    /// By a token that a server at `realm` gives.
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

/// Reads `WWW-Authenticate`. A token is preferred to a password.
pub fn challenge(header: &str) -> Option<Challenge> {
    if header.len() > HEADER_MAX {
        return None;
    }
    let mut is_basic = false;
    let mut rest = header.trim();
    while !rest.is_empty() {
        let end = rest.find([' ', ',']).unwrap_or(rest.len());
        let (scheme, after) = rest.split_at(end);
        let (parameters, after) = parameters(after);
        let get = |name: &str| {
            parameters
                .iter()
                .find(|(key, _)| key.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.clone())
        };
        if scheme.eq_ignore_ascii_case("bearer") {
            return Some(Challenge::Bearer {
                realm: get("realm")?,
                service: get("service"),
                scope: get("scope"),
            });
        }
        is_basic |= scheme.eq_ignore_ascii_case("basic");
        rest = after.trim_start_matches([' ', ',']);
    }
    is_basic.then_some(Challenge::Basic)
}

/// `name=value` pairs up to the next scheme, and what follows.
fn parameters(mut rest: &str) -> (Vec<(String, String)>, &str) {
    let mut all = Vec::new();
    loop {
        let next = rest.trim_start_matches([' ', ',']);
        let Some((name, after)) = next.split_once('=') else {
            return (all, next);
        };
        // A blank before the next '=' ends the parameters: a scheme comes.
        if name.is_empty() || name.contains([' ', ',', '"']) {
            return (all, next);
        }
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => {
                let end = after.find([',', ' ']).unwrap_or(after.len());
                (after[..end].to_owned(), &after[end..])
            }
        };
        all.push((name.to_owned(), value));
        rest = after;
    }
}

/// The text up to the closing quotation mark, and what follows that.
fn unquote(quoted: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

/// Where a part of a blob begins, by `Content-Range`.
pub fn range_start(header: &str) -> Option<u64> {
    let range = header.trim().strip_prefix("bytes ")?;
    range.split_once('-')?.0.trim().parse().ok()
}

/// The seconds of `Retry-After`. A date there is as if nothing were.
pub fn retry_after(header: &str) -> Option<Duration> {
    header.trim().parse().ok().map(Duration::from_secs)
}

/// Scheme, host and port of a URL: what credentials are for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub is_https: bool,
    pub host: String,
    pub port: u16,
}

pub fn origin(url: &str) -> Result<Origin> {
    let wrong = || invalid(format!("'{}' is no URL of a web server", shortened(url)));
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    let is_https = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(wrong()),
    };
    let authority = uri.authority().ok_or_else(wrong)?;
    // A name in front of the host would be sent as a credential.
    if authority.as_str().contains('@') || authority.host().is_empty() {
        return Err(wrong());
    }
    Ok(Origin {
        is_https,
        host: authority.host().to_ascii_lowercase(),
        port: authority.port_u16().unwrap_or(if is_https { 443 } else { 80 }),
    })
}

/// Where `Location` of an answer from `url` leads.
pub fn redirect(url: &str, location: &str) -> Result<String> {
    let from = origin(url)?;
    if location.len() > HEADER_MAX {
        return Err(invalid("a registry leads to a URL that is too long"));
    }
    let scheme = if from.is_https { "https" } else { "http" };
    let to = match location {
        relative if relative.starts_with("//") => format!("{scheme}:{relative}"),
        relative if relative.starts_with('/') => {
            let uri: Uri = url.parse().map_err(|_| invalid("a URL makes no sense"))?;
            let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
            format!("{scheme}://{authority}{relative}")
        }
        absolute => absolute.to_owned(),
    };
    match from.is_https && !origin(&to)?.is_https {
        true => Err(invalid(format!(
            "a registry leads from HTTPS to '{}', which is not followed",
            shortened(&to)
        ))),
        false => Ok(to),
    }
}

#[derive(Deserialize)]
struct Errors {
    errors: Vec<OneError>,
}

#[derive(Deserialize)]
struct OneError {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: Option<String>,
}

/// What a registry says is wrong.
pub fn message(body: &[u8]) -> Option<String> {
    let errors: Errors = serde_json::from_slice(body).ok()?;
    let first = errors.errors.into_iter().next()?;
    let message = first
        .message
        .filter(|message| !message.is_empty())
        .unwrap_or(first.code);
    (!message.is_empty()).then(|| shortened(&message))
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

/// A token, and how long it is good.
pub fn token(body: &[u8]) -> Result<(String, Duration)> {
    let wrong = |why: &str| {
        invalid(format!(
            "the registry's token server answers nonsense: {}",
            shortened(why)
        ))
    };
    let answer: TokenAnswer = serde_json::from_slice(body).map_err(|error| wrong(&error.to_string()))?;
    let token = answer
        .token
        .filter(|token| !token.is_empty())
        .or(answer.access_token);
    let token = token
        .filter(|token| !token.is_empty())
        .ok_or_else(|| wrong("there is no token in it"))?;
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(wrong("its token has characters that no token has"));
    }
    // A moment is lost on the way.
    let lifetime = answer
        .expires_in
        .unwrap_or(LIFETIME)
        .clamp(LIFETIME, LIFETIME_MAX)
        * 9
        / 10;
    Ok((token, Duration::from_secs(lifetime)))
}

#[cfg(test)]
#[path = "answer_test.rs"]
mod tests;
