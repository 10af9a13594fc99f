//! Registries: images over HTTP (OCI distribution specification 1.1).
//!
//! A registry is trusted with nothing. What it gives is taken for what its digest says, or not at all; every answer has a size and a
//! time that it must keep to; and what is for one registry, above all a password, is for no other to which it leads.

mod answer;
mod auth;
mod blob;
mod cancel;
mod http;
mod manifest;
mod options;
mod pull;

use std::collections::HashMap;
use std::fs;
use std::sync::{Arc, Mutex, PoisonError};

use ureq::config::Config;
use ureq::http::Method;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, AsSendBody};

pub use cancel::Cancel;
pub use options::{Options, Patience};
pub use pull::{Event, Progress, Pulled};

use crate::credentials::{Credential, Credentials};
use crate::error::{Error, Result, invalid};
use crate::reference::{DEFAULT_HOST, is_host};
use auth::Authorization;
use http::Request;

/// Where Docker's registry is, which is not where its name says.
const DEFAULT_API: &str = "registry-1.docker.io";

/// Talks to registries. Threads may share one.
pub struct Client {
    agent: Agent,
    options: Options,
    credentials: Credentials,
    /// Goes before what is kept: for a login.
    own: Option<Credential>,
    cancel: Cancel,
    bases: Mutex<HashMap<String, Base>>,
    /// By a registry's URL and a repository.
    authorizations: Mutex<HashMap<(String, String), Authorization>>,
    /// What is wrong with the credentials for a host.
    notes: Mutex<HashMap<String, String>>,
}

/// A registry, and how it is reached.
#[derive(Debug, Clone)]
struct Base {
    /// As a person names it.
    host: String,
    /// Where it is, if that is elsewhere.
    api: String,
    is_https: bool,
}

impl Base {
    fn url(&self) -> String {
        let scheme = if self.is_https { "https" } else { "http" };
        format!("{scheme}://{}", self.api)
    }
}

impl Client {
    pub fn new(options: Options, credentials: Credentials, cancel: Cancel) -> Result<Self> {
        let certificates = certificates(&options)?;
        let config = config(&options.patience, RootCerts::Specific(Arc::new(certificates)));
        Ok(Self::with_agent(config.new_agent(), options, credentials, cancel))
    }

    /// With another way to talk to servers than over a network. Its configuration must be that of [`config`].
    #[doc(hidden)]
    pub fn with_agent(agent: Agent, options: Options, credentials: Credentials, cancel: Cancel) -> Self {
        cancel.add(&agent);
        Self {
            agent,
            options,
            credentials,
            own: None,
            cancel,
            bases: Mutex::default(),
            authorizations: Mutex::default(),
            notes: Mutex::default(),
        }
    }

    /// Checks a credential with a registry. It is not kept. False if the registry does not want any.
    pub fn login(mut self, host: &str, credential: &Credential) -> Result<bool> {
        if !is_host(host) {
            return Err(invalid(format!(
                "'{host}' is no registry; give its host, with a port if it has one"
            )));
        }
        self.own = Some(credential.clone());
        let base = self.base(host)?;
        let answer = self.ask(&base, &root())?;
        if !answer.status().is_success() {
            return Err(self.unexpected(&base, "a login", answer));
        }
        Ok(!self
            .authorizations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty())
    }

    /// How to reach a registry. One that may do without HTTPS is asked what it does.
    fn base(&self, host: &str) -> Result<Base> {
        if let Some(base) = self
            .bases
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(host)
        {
            return Ok(base.clone());
        }
        let api = if host == DEFAULT_HOST { DEFAULT_API } else { host };
        let base = |is_https| Base {
            host: host.to_owned(),
            api: api.to_owned(),
            is_https,
        };
        let base = match (is_loopback(host), self.options.is_insecure) {
            (false, false) => base(true),
            (true, _) => self.first_of([base(false), base(true)])?,
            (false, true) => self.first_of([base(true), base(false)])?,
        };
        let mut bases = self.bases.lock().unwrap_or_else(PoisonError::into_inner);
        bases.insert(host.to_owned(), base.clone());
        Ok(base)
    }

    /// The first way that leads to a registry. No credential is sent.
    fn first_of(&self, bases: [Base; 2]) -> Result<Base> {
        self.attempt(|| {
            let mut failure = None;
            for base in &bases {
                let request = ureq::http::Request::get(format!("{}/v2/", base.url())).body(());
                let request = request.map_err(|error| invalid(error.to_string()))?;
                match self.agent.run(self.configure(request, true)) {
                    // So a server answers that wants TLS.
                    Ok(answer) if !base.is_https && answer.status().as_u16() == 400 => {}
                    Ok(_) => return Ok(base.clone()),
                    Err(error) => failure = Some(self.unreachable(&base.host, error)),
                }
            }
            let host = &bases[0].host;
            Err(failure.unwrap_or_else(|| Error::Network(format!("there is no registry at {host}")).into()))
        })
    }

    /// What a request needs beside what all have.
    fn configure<S: AsSendBody>(
        &self,
        request: ureq::http::Request<S>,
        is_small: bool,
    ) -> ureq::http::Request<S> {
        let is_direct = request
            .uri()
            .authority()
            .is_some_and(|authority| is_loopback(authority.as_str()));
        let mut builder = self.agent.configure_request(request);
        if is_small {
            builder = builder.timeout_recv_body(Some(self.options.patience.small));
        }
        if is_direct {
            builder = builder.proxy(None);
        }
        if self.options.is_insecure {
            builder = builder.tls_config(TlsConfig::builder().disable_verification(true).build());
        }
        builder.build()
    }
}

/// The request by which a registry shows that it is one (OCI distribution specification, "Determining Support").
fn root() -> Request<'static> {
    Request {
        method: Method::GET,
        path: "/v2/",
        accept: "*/*",
        is_blob: false,
        from: 0,
        repository: None,
    }
}

/// How all requests are made.
#[doc(hidden)]
pub fn config(patience: &Patience, roots: RootCerts) -> Config {
    Config::builder()
        .http_status_as_error(false)
        // Their targets are checked first.
        .max_redirects(0)
        .max_redirects_will_error(false)
        .user_agent(concat!("coracle/", env!("CARGO_PKG_VERSION")))
        .max_response_header_size(64 << 10)
        .timeout_resolve(Some(patience.connect))
        .timeout_connect(Some(patience.connect))
        .timeout_send_request(Some(patience.answer))
        .timeout_recv_response(Some(patience.answer))
        .timeout_per_read(Some(patience.read))
        .timeout_per_write(Some(patience.read))
        .tls_config(TlsConfig::builder().root_certs(roots).build())
        .build()
}

/// What the system trusts, and what a person does beside.
fn certificates(options: &Options) -> Result<Vec<Certificate<'static>>> {
    let mut all = Vec::new();
    let system = std::env::var_os("SSL_CERT_FILE").map(Into::into);
    let system = system
        .into_iter()
        .chain(options::SYSTEM_CERTIFICATES.map(std::path::PathBuf::from));
    if let Some(text) = system.filter_map(|path| fs::read(path).ok()).next() {
        all.extend(in_pem(&text));
    }
    if let Some(path) = &options.certificates {
        let text = fs::read(path).map_err(Error::file("read", path))?;
        let before = all.len();
        all.extend(in_pem(&text));
        if all.len() == before {
            return Err(invalid(format!(
                "there is no certificate in {}; give a file in PEM",
                path.display()
            )));
        }
    }
    Ok(all)
}

fn in_pem(text: &[u8]) -> impl Iterator<Item = Certificate<'static>> + '_ {
    parse_pem(text).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    })
}

/// Whether a host, with or without a port, is this machine.
fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost"
        || address
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod hostile_place;
#[cfg(test)]
pub(crate) mod hostile_server;
#[cfg(test)]
#[path = "hostile_test.rs"]
mod hostile_tests;
#[cfg(test)]
#[path = "registry_test.rs"]
mod tests;
#[cfg(test)]
#[path = "token_test.rs"]
mod token_tests;
