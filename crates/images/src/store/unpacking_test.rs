use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread::{self, ThreadId};

use landlock::{ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetStatus};
use tempfile::TempDir;

use super::{Confine, Store};
use crate::credentials::Credentials;
use crate::digest::{Digest, Expected};
use crate::load::{load, load_stream};
use crate::made::{Made, archive, gzip, image, zstd};
use crate::registry::hostile_server::Server;
use crate::registry::{Cancel, Client, Options};
use crate::{Platform, Result};

fn store() -> (TempDir, Store) {
    let place = tempfile::tempdir().unwrap();
    let store = Store::open(place.path().join("store")).unwrap();
    (place, store)
}

/// Gets an image into a store of its own in each way that there is, and gives what became of it to `check`.
fn each_way(made: &Made, confine: Confine, check: impl Fn(&Store, Result<()>)) {
    let platform = Platform::default();
    let archive = archive(&made.layout("a:1"));
    let confined = || {
        let (place, store) = store();
        (place, store.confined(confine))
    };

    let (place, store) = confined();
    let file = place.path().join("archive");
    fs::write(&file, &archive).unwrap();
    check(&store, load(&file, &store, &platform).map(drop));

    let (_place, store) = confined();
    check(&store, load_stream(&archive[..], &store, &platform).map(drop));

    let (_place, store) = confined();
    let server = Server::of(made, |_, _| false);
    let client = Client::new(Options::default(), Credentials::default(), Cancel::default()).unwrap();
    let pulled = client.pull(&server.name(), &platform, &store, &());
    check(&store, pulled.map(drop));
}

fn has(store: &Store, made: &Made) {
    for tar in &made.tars {
        assert_eq!(&fs::read(store.layer_path(&Digest::of(tar))).unwrap(), tar);
    }
}

fn files(store: &Store, place: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(store.directory().join(place)).unwrap();
    files.map(|file| file.unwrap().path()).collect()
}

static CALLS: Mutex<Vec<(PathBuf, ThreadId)>> = Mutex::new(Vec::new());

fn note(directory: &Path) -> io::Result<()> {
    assert_eq!(thread::current().name(), Some("unpack"));
    let call = (directory.to_owned(), thread::current().id());
    CALLS.lock().unwrap().push(call);
    Ok(())
}

#[test]
fn every_thread_that_unpacks_is_confined() {
    let made = image(&["one", "two", "three", "four", "five"], gzip);
    each_way(&made, note, |store, done| {
        done.unwrap();
        has(store, &made);
        let calls = CALLS.lock().unwrap();
        let calls = calls.iter().filter(|(place, _)| place == store.directory());
        let threads: Vec<_> = calls.map(|(_, thread)| *thread).collect();
        assert_eq!(threads.len(), 5, "one for each layer");
        assert_eq!(threads.iter().collect::<HashSet<_>>().len(), 5);
        assert!(!threads.contains(&thread::current().id()));
    });
}

#[test]
fn a_thread_that_cannot_be_confined_unpacks_nothing() {
    let refuse: Confine = |_| Err(io::Error::other("no such luck"));
    let made = image(&["one", "two"], gzip);
    each_way(&made, refuse, |store, done| {
        let why = done.unwrap_err().to_string();
        assert!(why.contains("no such luck") && why.contains("confine"), "{why}");
        assert!(files(store, "layers/sha256").is_empty());
        assert!(store.entries().unwrap().is_empty());
        assert!(store.verify(|_| ()).unwrap().is_empty());
    });
}

/// No file can be opened from then on, and no connection made.
fn shut_off(directory: &Path) -> io::Result<()> {
    let ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(ABI::V5))
        .and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(ABI::V5)))
        .and_then(|ruleset| ruleset.create());
    let status = ruleset.and_then(|ruleset| ruleset.restrict_self());
    let status = status.map_err(io::Error::other)?;
    assert_ne!(status.ruleset, RulesetStatus::NotEnforced, "this needs Landlock");
    assert!(File::open(directory.join("index.json")).is_err());
    Ok(())
}

#[test]
fn to_unpack_no_file_need_be_opened() {
    for compress in [gzip, zstd] {
        let made = image(&["one", "two", "three"], compress);
        each_way(&made, shut_off, |store, done| {
            done.unwrap();
            has(store, &made);
        });
    }
}

/// A blob, and the layer that it is.
fn layer() -> (Vec<u8>, Expected, Digest) {
    let made = image(&[&"text".repeat(10_000)], gzip);
    let blob = made.layers[0].clone();
    let expected = Expected {
        digest: Digest::of(&blob),
        size: Some(blob.len() as u64),
    };
    (blob, expected, Digest::of(&made.tars[0]))
}

#[test]
fn a_blob_is_unpacked_while_it_comes_also_if_a_part_was_there() {
    let (blob, expected, diff_id) = layer();
    let (_place, store) = store();
    for (part, is_last) in [(&blob[..70], false), (&blob[70..], true)] {
        let mut download = store.fetch(&expected).unwrap().unwrap();
        download.unpack_as(&diff_id).unwrap();
        for piece in part.chunks(11) {
            download.write(piece).unwrap();
        }
        assert!(!store.layer_path(&diff_id).exists());
        if is_last {
            download.finish().unwrap();
        } else {
            drop(download);
            assert_eq!(files(&store, "partial").len(), 1, "the blob's begin is kept");
        }
    }
    assert!(store.verify(|_| ()).unwrap().is_empty());
    assert!(store.has(&expected) && store.layer_path(&diff_id).exists());
    assert!(files(&store, "partial").is_empty());
}

#[test]
fn both_digests_must_be_right() {
    let (blob, expected, diff_id) = layer();
    let other = Digest::of(b"other");
    let wrong_blob = Expected {
        digest: other.clone(),
        ..expected.clone()
    };
    for (expected, diff_id) in [(&wrong_blob, &diff_id), (&expected, &other)] {
        let (_place, store) = store();
        let mut download = store.fetch(expected).unwrap().unwrap();
        download.unpack_as(diff_id).unwrap();
        download.write(&blob).unwrap();
        let why = download.finish().unwrap_err().to_string();
        assert!(why.contains("have the digest"), "{why}");
        assert!(files(&store, "layers/sha256").is_empty());
        assert!(files(&store, "partial").is_empty());
        assert!(store.verify(|_| ()).unwrap().is_empty());
    }
}

#[test]
fn a_blob_that_begins_anew_is_unpacked_when_it_is_there() {
    let (blob, expected, diff_id) = layer();
    let (_place, store) = store();
    let mut download = store.fetch(&expected).unwrap().unwrap();
    download.unpack_as(&diff_id).unwrap();
    download.write(b"something else").unwrap();
    download.restart().unwrap();
    download.write(&blob).unwrap();
    download.finish().unwrap();
    assert!(!store.layer_path(&diff_id).exists());
    store.unpack_layer(&expected, &diff_id).unwrap();
    assert!(store.verify(|_| ()).unwrap().is_empty());
}

#[test]
fn what_is_no_layer_is_told_when_the_blob_is_whole() {
    let (_place, store) = store();
    let blob = [&gzip(b"")[..10], &[0xff; 5000]].concat();
    let expected = Expected {
        digest: Digest::of(&blob),
        size: None,
    };
    let mut download = store.fetch(&expected).unwrap().unwrap();
    download.unpack_as(&Digest::of(b"layer")).unwrap();
    for piece in blob.chunks(1000) {
        download.write(piece).unwrap();
    }
    let why = download.finish().unwrap_err().to_string();
    assert!(why.contains("damaged or cut off"), "{why}");
    assert!(files(&store, "partial").is_empty());
}
