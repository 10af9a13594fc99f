//! A registry for tests, which answers as it is told.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::Reference;
use crate::digest::Digest;
use crate::made::Made;

/// What a client has asked.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub method: String,
    pub path: String,
    headers: HashMap<String, String>,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

type Log = Arc<Mutex<Vec<Asked>>>;

/// A server that answers each request as it is told. It ends with the test's process.
pub(crate) struct Server {
    host: String,
    log: Log,
}

impl Server {
    pub fn start(answer: impl Fn(&Asked, &mut TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let (log, answer) = (Log::default(), Arc::new(answer));
        let shared = log.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, log) = (answer.clone(), shared.clone());
                thread::spawn(move || {
                    let mut stream = stream;
                    let Some(asked) = read(&stream) else {
                        return;
                    };
                    log.lock().unwrap().push(asked.clone());
                    match asked.path.as_str() {
                        "/v2/" if asked.header("authorization").is_none() => {
                            send(&mut stream, "200 OK", &[], b"{}")
                        }
                        _ => answer(&asked, &mut stream),
                    }
                });
            }
        });
        Self { host, log }
    }

    /// Serves an image, but for what `other` answers instead. That says whether it has answered.
    pub fn of(made: &Made, other: impl Fn(&Asked, &mut TcpStream) -> bool + Send + Sync + 'static) -> Self {
        let made = made.clone();
        Self::start(move |asked, stream| {
            if !other(asked, stream) {
                serve(&made, asked, stream);
            }
        })
    }

    pub fn host(&self) -> String {
        self.host.clone()
    }

    pub fn name(&self) -> Reference {
        format!("{}/a/b:1", self.host).parse().unwrap()
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.log.lock().unwrap().clone()
    }
}

fn read(stream: &TcpStream) -> Option<Asked> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = HashMap::new();
    for line in lines {
        let line = line.ok()?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    Some(Asked {
        method,
        path,
        headers,
    })
}

pub(super) fn send(stream: &mut TcpStream, status: &str, headers: &[&str], body: &[u8]) {
    let mut text = format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n",
        body.len()
    );
    for header in headers {
        text += &format!("{header}\r\n");
    }
    // A client may go when it has seen enough.
    let _ = stream.write_all(format!("{text}\r\n").as_bytes());
    let _ = stream.write_all(body);
}

/// An honest answer.
pub(super) fn serve(made: &Made, asked: &Asked, stream: &mut TcpStream) {
    let found = match asked.path.rsplit_once('/') {
        Some((path, "1")) if path.ends_with("manifests") => Some(&made.manifest[..]),
        Some((_, digest)) => made
            .blobs()
            .into_iter()
            .find(|blob| Digest::of(blob).to_string() == digest),
        None => None,
    };
    let range = asked.header("range").and_then(|range| {
        range
            .strip_prefix("bytes=")?
            .strip_suffix('-')?
            .parse::<usize>()
            .ok()
    });
    match (found, range) {
        (None, _) => send(
            stream,
            "404 Not Found",
            &[],
            br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no such thing"}]}"#,
        ),
        (Some(_), _) if asked.method == "HEAD" => send(stream, "405 Method Not Allowed", &[], b""),
        (Some(blob), Some(from)) => {
            let range = format!("Content-Range: bytes {from}-{}/{}", blob.len() - 1, blob.len());
            send(stream, "206 Partial Content", &[&range], &blob[from..]);
        }
        (Some(blob), None) => send(stream, "200 OK", &[], blob),
    }
}
