use std::fs;
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::{Problem, Store};
use crate::digest::{Digest, Expected};
use crate::load::load_stream;
use crate::made::{Made, archive, gzip, image, plain, run};
use crate::{Error, Platform};

fn store() -> (TempDir, Store) {
    let place = tempfile::tempdir().unwrap();
    let store = Store::open(place.path().join("store")).unwrap();
    (place, store)
}

/// A store with these images.
fn with(images: &[(&Made, &str)]) -> (TempDir, Store) {
    let (place, store) = store();
    for (made, name) in images {
        load_stream(&archive(&made.layout(name))[..], &store, &Platform::default()).unwrap();
    }
    (place, store)
}

fn blob(bytes: &[u8]) -> Expected {
    Expected {
        digest: Digest::of(bytes),
        size: Some(bytes.len() as u64),
    }
}

fn find(store: &Store, name: &str) -> Option<Digest> {
    match store.find(name, &Platform::default()) {
        Ok(image) => Some(image.id().unwrap()),
        Err(Error::Missing(_)) => None,
        Err(error) => panic!("{error}"),
    }
}

fn count(store: &Store) -> usize {
    let count = |place| store.files(place).unwrap().len();
    count("blobs") + count("layers") + count("roots")
}

#[test]
fn a_store_is_a_layout_for_its_user_alone_and_opens_again() {
    let (place, store) = store();
    let mode = fs::metadata(store.directory()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let again = Store::open(place.path().join("store")).unwrap();
    assert!(again.entries().unwrap().is_empty());
    run(
        "umoci",
        &["list", "--layout", store.directory().to_str().unwrap()],
    );
}

#[test]
fn a_blob_is_there_only_when_it_is_whole_and_goes_on_where_it_was() {
    let (_place, store) = store();
    let blob = blob(b"a blob of some bytes");
    let mut download = store.fetch(&blob).unwrap().unwrap();
    download.write(b"a blob").unwrap();
    assert!(!store.has(&blob));
    drop(download);
    let mut download = store.fetch(&blob).unwrap().unwrap();
    assert_eq!(download.count(), 6);
    download.write(b" of some bytes").unwrap();
    download.finish().unwrap();
    assert!(store.has(&blob) && store.fetch(&blob).unwrap().is_none());
    assert_eq!(store.read(&blob, 100).unwrap(), b"a blob of some bytes");
    assert!(store.read(&blob, 10).is_err());
}

#[test]
fn what_is_wrong_is_not_kept() {
    let (_place, store) = store();
    let blob = blob(b"right");
    for wrong in [&b"wrong"[..], b"too long"] {
        let mut download = store.fetch(&blob).unwrap().unwrap();
        let written = download.write(wrong);
        assert!(written.and_then(|()| download.finish()).is_err());
        assert_eq!(store.fetch(&blob).unwrap().unwrap().count(), 0);
    }
    // Something else has written to what was begun.
    fs::write(
        store.partial(&format!("blob-{}", blob.digest.hex())),
        "something longer",
    )
    .unwrap();
    assert_eq!(store.fetch(&blob).unwrap().unwrap().count(), 0);
    assert_eq!(
        fs::read_dir(store.directory().join("partial")).unwrap().count(),
        0
    );
}

#[test]
fn who_comes_second_waits_and_finds_the_blob() {
    let (_place, store) = store();
    let blob = blob(b"shared");
    let mut download = store.fetch(&blob).unwrap().unwrap();
    std::thread::scope(|scope| {
        let second = scope.spawn(|| store.fetch(&blob).unwrap().is_none());
        download.write(b"shared").unwrap();
        download.finish().unwrap();
        assert!(second.join().unwrap());
    });
}

#[test]
fn images_are_found_by_name_digest_and_id() {
    let (one, two) = (image(&["one"], gzip), image(&["two"], gzip));
    let (_place, store) = with(&[(&one, "debian:12"), (&two, "host:5000/x")]);
    let id = one.id();
    for name in [
        "debian:12",
        "docker.io/library/debian:12",
        &format!("debian@{}", Digest::of(&one.manifest)),
        &id.to_string(),
        id.hex(),
        &id.hex()[..12],
    ] {
        assert_eq!(find(&store, name), Some(id.clone()), "{name}");
    }
    for name in [
        "debian",
        "debian:13",
        "x",
        "no such name!",
        &format!("debian@{id}"),
        "sha256:",
    ] {
        assert_eq!(find(&store, name), None, "{name}");
    }
}

#[test]
fn a_name_is_of_one_image_and_an_image_may_have_many() {
    let (one, two) = (image(&["one"], gzip), image(&["two"], gzip));
    let (_place, store) = with(&[(&one, "a:1"), (&two, "b:1")]);
    store.tag("a:1", &"c:1".parse().unwrap()).unwrap();
    store.tag("a:1", &"b:1".parse().unwrap()).unwrap();
    assert_eq!(find(&store, "b:1"), Some(one.id()));
    assert_eq!(store.entries().unwrap().len(), 4);
    assert_eq!(find(&store, two.id().hex()), Some(two.id()));
    store.tag(two.id().hex(), &"d:1".parse().unwrap()).unwrap();
    assert_eq!(store.entries().unwrap().len(), 4);
    assert!(
        store
            .tag("a:1", &format!("c@{}", one.id()).parse().unwrap())
            .is_err()
    );
    assert!(store.tag("none", &"c:1".parse().unwrap()).is_err());
}

#[test]
fn an_image_goes_with_its_last_name_and_what_others_need_stays() {
    let (one, two) = (image(&["same", "one"], gzip), image(&["same", "two"], gzip));
    let (_place, store) = with(&[(&one, "a:1"), (&two, "b:1")]);
    store.tag("a:1", &"a:2".parse().unwrap()).unwrap();
    let removed = store.remove("a:1", false).unwrap();
    assert_eq!(
        (removed.untagged.len(), removed.image, removed.pruned.files),
        (1, None, 0)
    );
    let removed = store.remove("a:2", false).unwrap();
    assert_eq!(removed.image, Some(one.id()));
    // Manifest, configuration, and one layer as a blob and as a tar.
    assert_eq!(removed.pruned.files, 4);
    assert!(removed.pruned.bytes > 0);
    assert_eq!(find(&store, "b:1"), Some(two.id()));
    assert!(store.verify(|_| ()).unwrap().is_empty());
    store.remove("b:1", false).unwrap();
    assert_eq!(count(&store), 0);
    assert!(matches!(store.remove("b:1", false), Err(Error::Missing(_))));
}

#[test]
fn by_an_id_all_names_go_only_if_that_is_meant() {
    let one = image(&["one"], gzip);
    let (_place, store) = with(&[(&one, "a:1")]);
    store.tag("a:1", &"b:1".parse().unwrap()).unwrap();
    let error = store.remove(one.id().hex(), false).unwrap_err();
    assert!(matches!(error, Error::Conflict(_)), "{error}");
    assert_eq!(store.remove(one.id().hex(), true).unwrap().untagged.len(), 2);
    assert_eq!(count(&store), 0);
}

#[test]
fn what_a_guest_uses_is_not_removed() {
    let one = image(&["one", "two"], gzip);
    let (_place, store) = with(&[(&one, "a:1")]);
    let image = store.find("a:1", &Platform::default()).unwrap();
    store.make_root_of(&image).unwrap();
    let (hold, second) = (store.hold(&image).unwrap(), store.hold(&image).unwrap());
    assert_eq!(hold.layers.len(), 2);
    assert!(hold.root.is_some());
    for force in [false, true] {
        let error = store.remove("a:1", force).unwrap_err();
        assert!(error.to_string().contains("a guest that runs"), "{error}");
    }
    // Without a name, too.
    load_stream(
        &archive(&self::image(&["three"], gzip).layout("a:1"))[..],
        &store,
        &Platform::default(),
    )
    .unwrap();
    drop(second);
    assert!(store.prune().unwrap().images.is_empty());
    assert!(store.verify(|_| ()).unwrap().is_empty());
    drop(hold);
    let pruned = store.prune().unwrap();
    assert_eq!((pruned.images.len(), pruned.files), (1, 7));
    assert!(store.hold(&image).is_err());
}

#[test]
fn prune_gives_back_what_was_left_and_nothing_that_somebody_gets() {
    let one = image(&["one"], plain);
    let (_place, store) = with(&[(&one, "a:1")]);
    let files = count(&store);
    let (wanted, left) = (blob(b"wanted"), blob(b"left"));
    let mut lease = store.lease().unwrap();
    lease.add([&wanted.digest]).unwrap();
    for (blob, bytes) in [(&wanted, &b"wanted"[..]), (&left, b"left")] {
        let mut download = store.fetch(blob).unwrap().unwrap();
        download.write(bytes).unwrap();
        download.finish().unwrap();
    }
    let begun = blob(b"begun");
    store.fetch(&begun).unwrap().unwrap().write(b"be").unwrap();
    let other = blob(b"other");
    let mut download = store.fetch(&other).unwrap().unwrap();
    download.write(b"ot").unwrap();
    let pruned = store.prune().unwrap();
    assert_eq!(
        pruned.files, 2,
        "the blob that was left, and the one that was begun"
    );
    assert!(store.has(&wanted) && !store.has(&left));
    download.write(b"her").unwrap();
    download.finish().unwrap();
    drop(lease);
    store.prune().unwrap();
    assert_eq!(count(&store), files);
    assert_eq!(
        fs::read_dir(store.directory().join("partial")).unwrap().count(),
        0
    );
}

#[test]
fn names_and_notes_of_other_programs_stay_as_they_are() {
    let (one, two) = (image(&["one"], gzip), image(&["two"], gzip));
    let (_place, store) = with(&[(&one, "a:1"), (&two, "b:1")]);
    let index = store.directory().join("index.json");
    let mut list: serde_json::Value = serde_json::from_slice(&fs::read(&index).unwrap()).unwrap();
    let notes =
        serde_json::json!({ "org.opencontainers.image.ref.name": "Not_OURS", "org.example.note": "kept" });
    list["manifests"][0]["annotations"] = notes.clone();
    list["manifests"][1]["annotations"] = serde_json::json!({ "org.opencontainers.image.ref.name": "short" });
    fs::write(&index, list.to_string()).unwrap();
    assert_eq!(find(&store, "short"), Some(two.id()));
    store.tag("short", &"c:1".parse().unwrap()).unwrap();
    assert!(store.prune().unwrap().images.is_empty());
    let after: serde_json::Value = serde_json::from_slice(&fs::read(&index).unwrap()).unwrap();
    assert_eq!(after["manifests"][0]["annotations"], notes);
    assert_eq!(after["manifests"][1], list["manifests"][1]);
}

#[test]
fn verify_names_what_is_damaged_or_missing() {
    let one = image(&["one", "two"], gzip);
    let (_place, store) = with(&[(&one, "a:1")]);
    let mut read = 0;
    assert!(store.verify(|count| read += count).unwrap().is_empty());
    assert!(read > 2000);
    let layer = store.blob_path(&Digest::of(&one.layers[0]));
    fs::write(&layer, b"damaged").unwrap();
    fs::write(store.layer_path(&Digest::of(&one.tars[1])), b"damaged").unwrap();
    let problems = store.verify(|_| ()).unwrap();
    assert_eq!(problems.len(), 3, "{problems:?}");
    fs::remove_file(store.blob_path(&one.id())).unwrap();
    let problems = store.verify(|_| ()).unwrap();
    assert!(
        problems
            .iter()
            .any(|problem| matches!(problem, Problem::Image { .. })),
        "{problems:?}"
    );
    // Loading it again repairs it.
    fs::remove_file(store.layer_path(&Digest::of(&one.tars[1]))).unwrap();
    load_stream(&archive(&one.layout("a:1"))[..], &store, &Platform::default()).unwrap();
    assert!(store.verify(|_| ()).unwrap().is_empty());
}

#[test]
fn a_layer_that_is_not_what_the_configuration_says_is_refused() {
    let mut lying = image(&["one"], gzip);
    let other = image(&["two"], gzip);
    lying.configuration = other.configuration.clone();
    let (_place, store) = store();
    let text = String::from_utf8(lying.manifest.clone()).unwrap();
    let text = text.replace(
        Digest::of(&image(&["one"], gzip).configuration).hex(),
        other.id().hex(),
    );
    lying.manifest = text.into_bytes();
    let error = load_stream(&archive(&lying.layout("a"))[..], &store, &Platform::default()).unwrap_err();
    assert!(error.to_string().contains("damaged or was exchanged"), "{error}");
    assert_eq!(count(&store), 0);
}

#[test]
fn a_full_disk_is_an_error_that_says_what_was_needed_and_loses_nothing() {
    let place = tempfile::tempdir().unwrap();
    let small = place.path().to_str().unwrap().to_owned();
    run("mount", &["-t", "tmpfs", "-o", "size=2m", "none", &small]);
    struct Mounted(String);
    impl Drop for Mounted {
        fn drop(&mut self) {
            run("umount", &[&self.0]);
        }
    }
    let _mounted = Mounted(small);
    let store = Store::open(place.path().join("store")).unwrap();
    let kept = image(&["kept"], gzip);
    let load =
        |made: &Made, name: &str| load_stream(&archive(&made.layout(name))[..], &store, &Platform::default());
    load(&kept, "kept").unwrap();
    let large = "x".repeat(3 << 20);
    for compress in [plain as fn(&[u8]) -> Vec<u8>, gzip] {
        let error = load(&image(&[&large], compress), "large").unwrap_err();
        assert!(matches!(error, Error::Full { .. }), "{error:?}");
        assert!(error.to_string().contains("coracle prune"), "{error}");
        assert_eq!(find(&store, "kept"), Some(kept.id()));
        assert!(store.verify(|_| ()).unwrap().is_empty());
        assert_eq!(
            fs::read_dir(store.directory().join("partial")).unwrap().count(),
            0
        );
    }
    // What is too large is not even begun.
    let blob = Expected {
        digest: Digest::of(b"x"),
        size: Some(1 << 30),
    };
    let error = store.fetch(&blob).err().unwrap().to_string();
    assert!(error.contains("1073741824"), "{error}");
}
