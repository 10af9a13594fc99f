//! What a registry answers, to a client that pulls an image from it: what gets into the store is what its digest says, and nothing is
//! asked for over plain HTTP.
//!
//! An input is answers, status line and headers and body, with a line `~` between them. A request for a digest gets the answer whose body
//! has it, and every other request the next one. `{d2}` and `{s2}` stand for the digest and the size of the third answer's body: only
//! of answers that come later.
#![no_main]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use coracle_images::credentials::{Credential, Credentials};
use coracle_images::registry::{Cancel, Client, Options, Patience, config};
use coracle_images::store::Store;
use coracle_images::{Digest, Platform};
use libfuzzer_sys::fuzz_target;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::tls::RootCerts;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport,
};

const HOST: &str = "registry.example";
const ANSWERS_MAX: usize = 10;

static PLACE: LazyLock<PathBuf> = LazyLock::new(|| {
    let place = coracle_fuzz::scratch_directory("registry-answer");
    let password = Credential::Password {
        user: "me".into(),
        secret: "secret".into(),
    };
    Credentials::in_files(vec![place.join("config.json")])
        .store(HOST, &password)
        .unwrap();
    place
});

fuzz_target!(|input: &[u8]| {
    let credentials = Credentials::in_files(vec![PLACE.join("config.json")]);
    let directory = PLACE.join("store");
    let store = Store::open(&directory).unwrap();
    let patience = Patience {
        attempts: 2,
        delay: Duration::ZERO,
        delay_max: Duration::ZERO,
        ..Patience::default()
    };
    let script = Script(Arc::new(Mutex::new(answers(input))));
    let config = config(&patience, RootCerts::new_with_certs(&[]));
    let agent = ureq::Agent::with_parts(config, script, Nowhere);
    let options = Options {
        patience,
        ..Options::default()
    };
    let client = Client::with_agent(agent, options, credentials, Cancel::default());
    let name = format!("{HOST}/a/b:1").parse().unwrap();
    let pulled = client.pull(&name, &Platform::default(), &store, &());
    let problems = store.verify(|_| ()).unwrap();
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(store.entries().unwrap().len(), usize::from(pulled.is_ok()));
    std::fs::remove_dir_all(&directory).unwrap();
});

struct Answer {
    bytes: Vec<u8>,
    digest: String,
    is_used: bool,
}

fn answers(input: &[u8]) -> Vec<Answer> {
    let mut parts = vec![Vec::new()];
    for line in input.split_inclusive(|byte| *byte == b'\n') {
        match line {
            b"~\n" if parts.len() < ANSWERS_MAX => parts.push(Vec::new()),
            _ => parts.last_mut().unwrap().extend(line),
        }
    }
    // The last line's end is not part of an answer.
    for part in &mut parts {
        part.pop_if(|byte| *byte == b'\n');
    }
    let mut known: Vec<(String, String, usize)> = Vec::new();
    for at in (0..parts.len()).rev() {
        for (digit, digest, size) in &known {
            parts[at] = replace(&parts[at], format!("{{d{digit}}}").as_bytes(), digest.as_bytes());
            parts[at] = replace(
                &parts[at],
                format!("{{s{digit}}}").as_bytes(),
                size.to_string().as_bytes(),
            );
        }
        let body = body(&parts[at]);
        known.push((at.to_string(), Digest::of(body).to_string(), body.len()));
    }
    known.reverse();
    let all = parts.into_iter().zip(known);
    all.map(|(bytes, (_, digest, _))| Answer {
        bytes,
        digest,
        is_used: false,
    })
    .collect()
}

fn body(answer: &[u8]) -> &[u8] {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    end.map_or(&[], |end| &answer[end + 4..])
}

fn replace(text: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut result = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.windows(from.len()).position(|part| part == from) {
        result.extend(&rest[..at]);
        result.extend(to);
        rest = &rest[at + from.len()..];
    }
    result.extend(rest);
    result
}

#[derive(Debug)]
struct Nowhere;

impl Resolver for Nowhere {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let mut addresses = self.empty();
        addresses.push(SocketAddr::from(([127, 0, 0, 1], 1)));
        Ok(addresses)
    }
}

struct Script(Arc<Mutex<Vec<Answer>>>);

impl std::fmt::Debug for Script {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Script")
    }
}

impl Connector for Script {
    type Out = Wire;

    fn connect(&self, details: &ConnectionDetails, _: Option<()>) -> Result<Option<Wire>, ureq::Error> {
        assert_eq!(details.uri.scheme_str(), Some("https"), "{}", details.uri);
        Ok(Some(Wire {
            buffers: LazyBuffers::new(4096, 4096),
            asked: Vec::new(),
            answer: None,
            answers: self.0.clone(),
        }))
    }
}

/// A connection on which one request is answered.
struct Wire {
    buffers: LazyBuffers,
    asked: Vec<u8>,
    /// What is still to be sent.
    answer: Option<Vec<u8>>,
    answers: Arc<Mutex<Vec<Answer>>>,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Wire")
    }
}

impl Wire {
    fn choose(&self) -> Vec<u8> {
        let asked = String::from_utf8_lossy(&self.asked);
        let path = asked.split(' ').nth(1).unwrap_or_default();
        let mut answers = self.answers.lock().unwrap();
        let by_digest = answers
            .iter()
            .position(|answer| !answer.is_used && path.ends_with(&answer.digest));
        let at = by_digest.or_else(|| answers.iter().position(|answer| !answer.is_used));
        at.map_or_else(Vec::new, |at| {
            answers[at].is_used = true;
            answers[at].bytes.clone()
        })
    }
}

impl Transport for Wire {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, _: NextTimeout) -> Result<(), ureq::Error> {
        self.asked.extend(&self.buffers.output()[..amount]);
        Ok(())
    }

    fn await_input(&mut self, _: NextTimeout) -> Result<bool, ureq::Error> {
        let mut answer = self.answer.take().unwrap_or_else(|| self.choose());
        let input = self.buffers.input_append_buf();
        let count = input.len().min(answer.len());
        input[..count].copy_from_slice(&answer[..count]);
        self.buffers.input_appended(count);
        self.answer = Some(answer.split_off(count));
        Ok(count > 0)
    }

    fn is_open(&mut self) -> bool {
        false
    }

    fn is_tls(&self) -> bool {
        true
    }
}
