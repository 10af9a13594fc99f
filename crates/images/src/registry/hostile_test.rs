//! With a registry that lies, stalls and leads astray.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::hostile_place::{Place, large};
use super::hostile_server::{Asked, Server, send};
use crate::credentials::Credential;
use crate::digest::Digest;
use crate::made::{self, gzip, image};
use crate::{Error, Platform};

fn is_blob(asked: &Asked, blob: &[u8]) -> bool {
    asked.path.ends_with(Digest::of(blob).hex()) && asked.path.contains("/blobs/")
}

fn is_manifest(asked: &Asked) -> bool {
    asked.path.ends_with("/manifests/1") && asked.method == "GET"
}

#[test]
fn an_honest_server_is_understood() {
    let (place, made) = (Place::new(), large());
    place.pull(&Server::of(&made, |_, _| false)).unwrap();
    place.has(&made);
}

#[test]
fn another_blob_a_longer_and_a_shorter_one_are_refused() {
    let made = large();
    let layer = made.layers[0].clone();
    type Lie = fn(&[u8]) -> Vec<u8>;
    let lies: [(Lie, &str); 3] = [
        (|blob| blob.iter().map(|byte| !byte).collect(), "have the digest"),
        (|blob| [blob, b"more"].concat(), "more than the"),
        (|blob| blob[..blob.len() - 1].to_vec(), "ends a blob after"),
    ];
    for (lie, why) in lies {
        let place = Place::new();
        let layer = layer.clone();
        let server = Server::of(&made, move |asked, stream| {
            let is_layer = is_blob(asked, &layer);
            if is_layer {
                send(stream, "200 OK", &[], &lie(&layer));
            }
            is_layer
        });
        place.refuses(&server, why);
        // What was wrong is not kept, or only as far as it was right.
        place.pull(&Server::of(&made, |_, _| false)).unwrap();
        place.has(&made);
    }
}

#[test]
fn a_manifest_that_is_not_what_its_digest_says_is_refused_whatever_the_header_says() {
    let made = large();
    let other = image(&["other"], gzip).manifest;
    let server = Server::of(&made, move |asked, stream| {
        let digest = asked.path.rsplit('/').next().unwrap_or_default();
        let header = format!("Docker-Content-Digest: {digest}");
        if asked.path.contains("/manifests/sha256") {
            send(stream, "200 OK", &[&header], &other);
        }
        asked.path.contains("/manifests/sha256")
    });
    let place = Place::new();
    let name = server.name().with_digest(Digest::of(&made.manifest));
    let error = place
        .client()
        .pull(&name, &Platform::default(), &place.store, &())
        .unwrap_err();
    assert!(error.to_string().contains("damaged or was exchanged"), "{error}");
    // By a tag the digest is computed.
    let pulled = place.pull(&server).unwrap();
    assert_eq!(pulled.digest, Digest::of(&made.manifest));
}

#[test]
fn what_breaks_off_goes_on_where_it_was() {
    let (place, made) = (Place::new(), large());
    let layer = made.layers[0].clone();
    let server = Server::of(&made, move |asked, stream| {
        let is_first = is_blob(asked, &layer) && asked.header("range").is_none();
        if is_first {
            let half = &layer[..layer.len() / 2];
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
                layer.len()
            );
            let _ = stream.write_all(half);
        }
        is_first
    });
    place.pull(&server).unwrap();
    place.has(&made);
    let half = made.layers[0].len() / 2;
    let ranges: Vec<_> = server
        .asked()
        .iter()
        .filter_map(|asked| asked.header("range").map(str::to_owned))
        .collect();
    assert_eq!(ranges, [format!("bytes={half}-")]);
}

#[test]
fn a_pull_that_was_given_up_goes_on_where_it_was() {
    let (place, made) = (Place::new(), large());
    let layer = made.layers[0].clone();
    let half = layer.len() / 2;
    let server = Server::of(&made, move |asked, stream| {
        if is_blob(asked, &layer) {
            match asked.header("range") {
                None => {
                    let _ = write!(
                        stream,
                        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
                        layer.len()
                    );
                    let _ = stream.write_all(&layer[..half]);
                }
                Some(_) => send(stream, "503 Service Unavailable", &[], b""),
            }
        }
        is_blob(asked, &layer)
    });
    place.refuses(&server, "503");
    let honest = Server::of(&made, |_, _| false);
    place.pull(&honest).unwrap();
    place.has(&made);
    assert!(
        honest
            .asked()
            .iter()
            .any(|asked| asked.header("range") == Some(&format!("bytes={half}-")))
    );
}

#[test]
fn a_server_without_ranges_or_with_wrong_ones_is_understood() {
    let made = large();
    for kind in ["200 OK", "206 Partial Content", "416 Range Not Satisfiable"] {
        let place = Place::new();
        let layer = made.layers[0].clone();
        let count = Mutex::new(0);
        let server = Server::of(&made, move |asked, stream| {
            if !is_blob(asked, &layer) {
                return false;
            }
            let mut count = count.lock().unwrap();
            *count += 1;
            match (*count, asked.header("range")) {
                (1, _) => {
                    let _ = write!(
                        stream,
                        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
                        layer.len()
                    );
                    let _ = stream.write_all(&layer[..1000]);
                }
                (_, Some(_)) => send(stream, kind, &["Content-Range: bytes 7-8/9"], &layer),
                (_, None) => return false,
            }
            true
        });
        place.pull(&server).unwrap();
        place.has(&made);
    }
}

#[test]
fn chunked_bodies_are_read_and_cut_off_ones_are_noticed() {
    let (place, made) = (Place::new(), large());
    let layer = made.layers[0].clone();
    let count = Mutex::new(0);
    let server = Server::of(&made, move |asked, stream| {
        if !is_blob(asked, &layer) || asked.header("range").is_some() {
            return false;
        }
        *count.lock().unwrap() += 1;
        let _ = write!(stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        for chunk in layer[..200_000].chunks(777) {
            let _ = write!(stream, "{:x}\r\n", chunk.len());
            let _ = stream.write_all(chunk);
            let _ = write!(stream, "\r\n");
        }
        true
    });
    place.pull(&server).unwrap();
    place.has(&made);
}

#[test]
fn a_blob_without_end_is_not_read_to_its_end() {
    let (place, made) = (Place::new(), large());
    let layer = made.layers[0].clone();
    let server = Server::of(&made, move |asked, stream| {
        if is_blob(asked, &layer) {
            let _ = write!(stream, "HTTP/1.1 200 OK\r\n\r\n");
            while stream.write_all(&[0; 65536]).is_ok() {}
        }
        is_blob(asked, &layer)
    });
    place.refuses(&server, "more than the");
}

#[test]
fn headers_without_end_and_answers_that_are_none_are_refused() {
    for answer in [
        &b"HTTP/1.1 200 OK\r\n"[..],
        b"this is not HTTP\r\n\r\n",
        b"HTTP/1.1 999999 ?\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nx",
        b"\0\0\0\0",
        b"",
    ] {
        let place = Place::new();
        let server = Server::start(move |_, stream| {
            let _ = stream.write_all(answer);
            let is_headers = answer.ends_with(b"OK\r\n");
            while is_headers
                && stream
                    .write_all(b"X-Header: again and again and again\r\n")
                    .is_ok()
            {}
        });
        place.pull(&server).unwrap_err();
    }
}

#[test]
fn redirects_are_followed_without_what_is_for_the_registry_alone() {
    let (place, made) = (Place::new(), large());
    let elsewhere = Server::of(&made, |_, _| false);
    let target = elsewhere.host();
    let server = Server::of(&made, move |asked, stream| {
        if asked.header("authorization").is_none() {
            send(
                stream,
                "401 Unauthorized",
                &["WWW-Authenticate: Basic realm=\"x\""],
                b"",
            );
        } else if asked.path.contains("/blobs/") {
            let location = format!("Location: http://{target}{}", asked.path);
            send(stream, "307 Temporary Redirect", &[&location], b"");
        } else {
            return false;
        }
        true
    });
    let password = Credential::Password {
        user: "me".into(),
        secret: "secret".into(),
    };
    place.credentials.store(&server.host(), &password).unwrap();
    place.pull(&server).unwrap();
    place.has(&made);
    assert!(
        server
            .asked()
            .iter()
            .any(|asked| asked.header("authorization").is_some())
    );
    assert!(!elsewhere.asked().is_empty());
    assert!(
        elsewhere
            .asked()
            .iter()
            .all(|asked| asked.header("authorization").is_none())
    );
}

#[test]
fn redirects_in_circles_or_out_of_the_web_end() {
    for (location, why) in [
        ("/v2/a/b/manifests/1", "in circles"),
        ("file:///etc/passwd", "no URL"),
        ("gopher://x/", "no URL"),
        ("", "no URL"),
    ] {
        let place = Place::new();
        let server = Server::start(move |_, stream| {
            send(stream, "302 Found", &[&format!("Location: {location}")], b"");
        });
        place.refuses(&server, why);
        assert!(server.asked().len() < 25);
    }
    let place = Place::new();
    place.refuses(
        &Server::start(|_, stream| send(stream, "302 Found", &[], b"")),
        "without saying where",
    );
}

#[test]
fn what_is_turned_away_is_tried_again_when_the_server_says() {
    for (status, header) in [
        ("429 Too Many Requests", "Retry-After: 1"),
        ("503 Service Unavailable", "Retry-After: 1"),
        ("500 Internal Server Error", "X: y"),
    ] {
        let (place, made) = (Place::new(), large());
        let count = Mutex::new(0);
        let server = Server::of(&made, move |asked, stream| {
            let mut count = count.lock().unwrap();
            *count += 1;
            let is_first = is_manifest(asked) && *count < 3;
            if is_first {
                send(stream, status, &[header], b"");
            }
            is_first
        });
        let begin = Instant::now();
        place.pull(&server).unwrap();
        place.has(&made);
        assert!(!header.contains("After") || begin.elapsed() >= Duration::from_secs(1));
    }
    // Nobody waits for an hour.
    let place = Place::new();
    let server =
        Server::start(|_, stream| send(stream, "429 Too Many Requests", &["Retry-After: 3600"], b""));
    place.refuses(&server, "too often");
    assert!(server.asked().len() < 5);
}

#[test]
fn a_server_that_stalls_or_drips_ends_with_an_error() {
    let made = large();
    let layer = made.layers[0].clone();
    for drips in [false, true] {
        for place_of_it in ["headers", "manifest", "blob"] {
            let place = Place::new();
            let layer = layer.clone();
            let server = Server::of(&made, move |asked, stream| {
                let head: &[u8] = match place_of_it {
                    "headers" if is_manifest(asked) => b"HTTP/1.1 200 OK\r\nX-Slow: ",
                    "manifest" if is_manifest(asked) => b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
                    "blob" if is_blob(asked, &layer) => b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n",
                    _ => return false,
                };
                let _ = stream.write_all(head);
                for _ in 0..100 {
                    thread::sleep(Duration::from_millis(300));
                    if drips && stream.write_all(b"a").is_err() {
                        break;
                    }
                }
                true
            });
            let error = place.pull(&server).unwrap_err();
            assert!(matches!(error, Error::Network(_)), "{error:?}");
        }
    }
}

#[test]
fn lists_that_make_no_sense_or_are_too_large_are_refused() {
    let deep = format!("{{\"schemaVersion\":2,\"layers\":{}", "[".repeat(100_000));
    let large = format!("{{\"schemaVersion\":2,\"x\":\"{}\"}}", "x".repeat(5 << 20));
    for (manifest, why) in [
        ("", "no manifest"),
        ("null", "no manifest"),
        ("{", "no manifest"),
        ("{}", "no manifest"),
        (&deep, "no manifest"),
        (&large, "more than"),
        (r#"{"schemaVersion":1,"name":"x","fsLayers":[]}"#, "schema 1"),
        (
            r#"{"schemaVersion":2,"manifests":[],"layers":[],"config":{}}"#,
            "and of an index",
        ),
        (
            r#"{"schemaVersion":2,"manifests":[]}"#,
            "not there for linux/amd64",
        ),
        (
            r#"{"schemaVersion":2,"config":{"mediaType":"application/vnd.example","digest":"sha256:abc","size":1},"layers":[]}"#,
            "no manifest",
        ),
        (
            r#"{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha999:../../etc","size":1},"layers":[]}"#,
            "no manifest",
        ),
    ] {
        let place = Place::new();
        let manifest = manifest.to_owned();
        let server = Server::start(move |_, stream| send(stream, "200 OK", &[], manifest.as_bytes()));
        place.refuses(&server, why);
    }
}

#[test]
fn indexes_that_lead_to_indexes_end() {
    let mut below = image(&["one"], gzip).manifest;
    let mut all = HashMap::new();
    for _ in 0..10 {
        let digest = Digest::of(&below).to_string();
        let mut leads = made::descriptor(made::INDEX, &below);
        leads["platform"] = json!({ "os": "linux", "architecture": "amd64" });
        all.insert(digest, below);
        below = json!({ "schemaVersion": 2, "mediaType": made::INDEX, "manifests": [leads] })
            .to_string()
            .into_bytes();
    }
    all.insert("1".into(), below);
    let place = Place::new();
    let server = Server::start(move |asked, stream| {
        let which = asked.path.rsplit('/').next().unwrap_or_default();
        match all.get(which) {
            Some(bytes) => send(stream, "200 OK", &[], bytes),
            None => send(stream, "404 Not Found", &[], b""),
        }
    });
    place.refuses(&server, "lead to each other");
}

#[test]
fn a_pull_is_cancelled_at_once_while_the_server_is_silent() {
    let (mut place, made) = (Place::new(), large());
    place.patience.read = Duration::from_secs(15);
    place.patience.answer = Duration::from_secs(15);
    let layer = made.layers[0].clone();
    let (sender, receiver) = std::sync::mpsc::channel();
    let sender = Mutex::new(sender);
    let server = Server::of(&made, move |asked, stream| {
        if is_blob(asked, &layer) {
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
                layer.len()
            );
            let _ = sender.lock().unwrap().send(());
            // Until the client goes.
            let _ = stream.read(&mut [0]);
        }
        is_blob(asked, &layer)
    });
    let cancel = place.cancel.clone();
    let begin = Instant::now();
    let other = thread::spawn(move || {
        receiver.recv().unwrap();
        cancel.cancel();
    });
    let error = place.pull(&server).unwrap_err();
    other.join().unwrap();
    assert!(matches!(error, Error::Cancelled), "{error:?}");
    assert!(begin.elapsed() < Duration::from_secs(5));
}
