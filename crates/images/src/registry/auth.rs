//! Showing a registry who asks: by a password, or by a token that another server gives for it.

use std::sync::PoisonError;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ureq::http::header;

use super::answer::{self, Challenge, origin};
use super::http::{Failure, whole};
use super::{Base, Client};
use crate::credentials::Credential;
use crate::error::{Error, Result, invalid, shortened};

const TOKEN_MAX: u64 = 1 << 20;
/// Tokens and passwords in use.
const KEPT_MAX: usize = 256;

/// What is sent as `Authorization`.
pub(super) struct Authorization {
    value: String,
    /// None for a password.
    until: Option<Instant>,
}

impl Client {
    /// What is known to be wanted for a repository.
    pub(super) fn authorization(&self, base: &Base, repository: Option<&str>) -> Result<Option<String>> {
        let mut kept = self.authorizations.lock().unwrap_or_else(PoisonError::into_inner);
        let key = key(base, repository);
        match kept.get(&key) {
            Some(found) if found.until.is_none_or(|until| Instant::now() < until) => {
                Ok(Some(found.value.clone()))
            }
            // The registry will say what it wants.
            _ => {
                kept.remove(&key);
                Ok(None)
            }
        }
    }

    /// Does what a registry has asked for. False if that cannot be done, or was done in vain.
    pub(super) fn meet(
        &self,
        base: &Base,
        repository: Option<&str>,
        challenge: Option<Challenge>,
        count: usize,
    ) -> Result<bool, Failure> {
        let credential = self.credential(base, repository.unwrap_or_default())?;
        let authorization = match challenge {
            None => return Ok(false),
            Some(Challenge::Basic) => match credential {
                Some(Credential::Password { user, secret }) if count == 1 => Authorization {
                    value: basic(&user, &secret),
                    until: None,
                },
                _ => return Ok(false),
            },
            Some(Challenge::Bearer {
                realm,
                service,
                scope,
            }) => {
                let scope = scope.or_else(|| repository.map(|path| format!("repository:{path}:pull")));
                self.token(
                    base,
                    &realm,
                    service.as_deref(),
                    scope.as_deref(),
                    credential.as_ref(),
                )?
            }
        };
        let mut kept = self.authorizations.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        kept.insert(key(base, repository), authorization);
        Ok(true)
    }

    /// Gets a token. Without a credential it is one for what everybody may see.
    fn token(
        &self,
        base: &Base,
        realm: &str,
        service: Option<&str>,
        scope: Option<&str>,
        credential: Option<&Credential>,
    ) -> Result<Authorization, Failure> {
        let place = origin(realm)?;
        if base.is_https && !place.is_https {
            let realm = shortened(realm);
            return Err(invalid(format!(
                "the registry {} asks for a password over plain HTTP, to '{realm}'; it is not sent",
                base.host
            ))
            .into());
        }
        let mut fields = Vec::new();
        fields.extend(service.map(|service| ("service", service)));
        fields.extend(scope.map(|scope| ("scope", scope)));
        let answer = match credential {
            Some(Credential::IdentityToken(token)) => {
                fields.extend([
                    ("grant_type", "refresh_token"),
                    ("client_id", "coracle"),
                    ("refresh_token", token),
                ]);
                let request = ureq::http::Request::post(realm)
                    .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
                let request = request
                    .body(form(&fields))
                    .map_err(|error| invalid(error.to_string()))?;
                self.agent.run(self.configure(request, true))
            }
            other => {
                let mut request = ureq::http::Request::get(url(realm, &fields));
                if let Some(Credential::Password { user, secret }) = other {
                    request = request.header(header::AUTHORIZATION, basic(user, secret));
                }
                let request = request.body(()).map_err(|error| invalid(error.to_string()))?;
                self.agent.run(self.configure(request, true))
            }
        };
        let answer = answer.map_err(|error| self.unreachable(&place.host, error))?;
        let status = answer.status();
        if !status.is_success() {
            let (host, server) = (&base.host, &place.host);
            if status.is_server_error() || status.as_u16() == 429 {
                return Err(Failure::Passing(
                    Error::Network(format!("the token server {server} of {host} answers {status}")),
                    None,
                ));
            }
            let body = whole(self, base, answer, TOKEN_MAX)?;
            let said = answer::message(&body).unwrap_or_else(|| status.to_string());
            return Err(Error::Denied(format!(
                "{server} gives no access to {host}: {said}; log in by `coracle login {host}`"
            ))
            .into());
        }
        let (token, lifetime) = answer::token(&whole(self, base, answer, TOKEN_MAX)?)?;
        Ok(Authorization {
            value: format!("Bearer {token}"),
            until: Some(Instant::now() + lifetime),
        })
    }

    /// What is kept for a registry. That a helper program does not work matters only if the registry wants something.
    fn credential(&self, base: &Base, path: &str) -> Result<Option<Credential>> {
        if let Some(own) = &self.own {
            return Ok(Some(own.clone()));
        }
        match self.credentials.get(&base.host, path) {
            Ok(found) => Ok(found),
            Err(error) => {
                let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
                notes.insert(base.host.clone(), error.to_string());
                Ok(None)
            }
        }
    }

    /// Why there is no credential, if something is wrong with them.
    pub(super) fn note(&self, host: &str) -> Option<String> {
        self.notes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(host)
            .cloned()
    }
}

fn key(base: &Base, repository: Option<&str>) -> (String, String) {
    (base.url(), repository.unwrap_or_default().to_owned())
}

fn basic(user: &str, secret: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{secret}")))
}

fn url(realm: &str, fields: &[(&str, &str)]) -> String {
    match (fields.is_empty(), realm.contains('?')) {
        (true, _) => realm.to_owned(),
        (false, true) => format!("{realm}&{}", form(fields)),
        (false, false) => format!("{realm}?{}", form(fields)),
    }
}

/// As a form is sent (WHATWG URL standard, `application/x-www-form-urlencoded`).
fn form(fields: &[(&str, &str)]) -> String {
    let pair = |(name, value): &(&str, &str)| {
        let mut text = format!("{name}=");
        for byte in value.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => text.push(byte.into()),
                other => text += &format!("%{other:02X}"),
            }
        }
        text
    };
    fields.iter().map(pair).collect::<Vec<_>>().join("&")
}
