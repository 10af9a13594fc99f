use std::fs;
use std::io::Read;
use std::path::Path;

use proptest::prelude::*;
use serde_json::json;
use tempfile::TempDir;

use super::{Import, Loaded, import, load, load_stream};
use crate::digest::Digest;
use crate::made::{self, Made, archive, gzip, image, image_for, plain, put, run, tar, zstd};
use crate::store::Store;
use crate::{Error, Platform, Result};

struct Place {
    directory: TempDir,
    store: Store,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path().join("store")).unwrap();
        Self { directory, store }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Loads from a file, and from a stream into a store of its own. Both must come to the same.
    fn load(&self, archive: &[u8]) -> Result<Vec<Loaded>> {
        let other = Store::open(self.path("other")).unwrap();
        let from_stream = load_stream(archive, &other, &Platform::default());
        check(&other);
        fs::write(self.path("archive"), archive).unwrap();
        let from_file = load(&self.path("archive"), &self.store, &Platform::default());
        check(&self.store);
        match (&from_file, &from_stream) {
            (Ok(a), Ok(b)) => {
                assert_eq!(a, b);
                let names = |store: &Store| store.entries().unwrap();
                assert_eq!(names(&self.store), names(&other));
            }
            (a, b) => assert_eq!(a.is_ok(), b.is_ok(), "{a:?} {b:?}"),
        }
        fs::remove_dir_all(self.path("other")).unwrap();
        from_file
    }

    fn refuses(&self, archive: &[u8], why: &str) {
        let error = self.load(archive).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
        assert!(self.store.entries().unwrap().is_empty());
    }
}

/// Everything is as it should be, and nothing is left in the way.
fn check(store: &Store) {
    let problems = store.verify(|_| ()).unwrap();
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(
        fs::read_dir(store.directory().join("partial")).unwrap().count(),
        0
    );
}

fn has(place: &Place, name: &str, made: &Made) {
    let image = place.store.find(name, &Platform::default()).unwrap();
    assert_eq!(image.id().unwrap(), made.id());
    for tar in &made.tars {
        assert_eq!(&fs::read(place.store.layer_path(&Digest::of(tar))).unwrap(), tar);
    }
}

#[test]
fn docker_archives_and_layouts_are_loaded_however_they_are_compressed() {
    for compress in [plain, gzip, zstd] {
        let made = image(&["one", "two"], compress);
        for outer in [plain, gzip, zstd] {
            let place = Place::new();
            let loaded = place
                .load(&outer(&archive(&made.docker(&["debian:12", "x/y:z"]))))
                .unwrap();
            assert_eq!(loaded.len(), 1);
            has(&place, "debian:12", &made);
            has(&place, "x/y:z", &made);
            let place = Place::new();
            place
                .load(&outer(&archive(&made.layout("docker.io/library/debian:12"))))
                .unwrap();
            has(&place, "debian:12", &made);
            has(&place, &made.id().hex()[..12], &made);
        }
    }
}

#[test]
fn a_layer_that_is_a_plain_tar_is_on_the_disk_once() {
    use std::os::unix::fs::MetadataExt;
    let (place, made) = (Place::new(), image(&["one"], plain));
    place.load(&archive(&made.docker(&["a"]))).unwrap();
    let digest = Digest::of(&made.tars[0]);
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    assert_eq!(
        inode(&place.store.layer_path(&digest)),
        inode(&place.store.blob_path(&digest))
    );
}

#[test]
fn a_directory_with_a_layout_is_loaded_and_no_link_in_it_is_followed() {
    let (place, made) = (Place::new(), image(&["one"], gzip));
    put(&made.layout("a:1"), &place.path("layout"));
    load(&place.path("layout"), &place.store, &Platform::default()).unwrap();
    has(&place, "a:1", &made);
    let place = Place::new();
    put(&made.layout("a:1"), &place.path("layout"));
    fs::rename(place.path("layout/blobs/sha256"), place.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink("../../elsewhere", place.path("layout/blobs/sha256")).unwrap();
    let error = load(&place.path("layout"), &place.store, &Platform::default()).unwrap_err();
    assert!(error.to_string().contains("not followed"), "{error}");
}

#[test]
fn of_an_index_the_image_for_the_platform_is_taken_and_attestations_are_not() {
    let place = Place::new();
    let (ours, other) = (image(&["ours"], gzip), image_for("arm64", &["other"], gzip));
    let attestation = image_for("unknown", &["attestation"], gzip);
    let with = |made: &Made, architecture: &str, os: &str| {
        let mut descriptor = made::descriptor(made::MANIFEST, &made.manifest);
        descriptor["platform"] = json!({ "architecture": architecture, "os": os });
        descriptor
    };
    let manifests = [
        with(&attestation, "unknown", "unknown"),
        with(&other, "arm64", "linux"),
        with(&ours, "amd64", "linux"),
    ];
    let index = json!({ "schemaVersion": 2, "mediaType": made::INDEX, "manifests": manifests }).to_string();
    let mut top = made::descriptor(made::INDEX, index.as_bytes());
    top["annotations"] = json!({ "io.containerd.image.name": "docker.io/library/a:1", "org.opencontainers.image.ref.name": "1" });
    // Docker leaves out the blobs of other platforms.
    let mut blobs = ours.blobs();
    blobs.push(index.as_bytes());
    place
        .load(&archive(&made::layout(vec![top.clone()], &blobs)))
        .unwrap();
    has(&place, "a:1", &ours);
    let place = Place::new();
    place
        .load(&archive(&made::layout(manifests.to_vec(), &ours.blobs())))
        .unwrap();
    has(&place, ours.id().hex(), &ours);
    let place = Place::new();
    place.refuses(
        &archive(&made::layout(
            vec![with(&other, "arm64", "linux")],
            &other.blobs(),
        )),
        "linux/arm64",
    );
    place.refuses(&archive(&other.docker(&["a"])), "linux/arm64");
}

#[test]
fn a_hybrid_archive_has_the_names_of_both_lists() {
    let (place, made) = (Place::new(), image(&["one"], plain));
    let mut members = made::layout(
        vec![made::descriptor(made::MANIFEST, &made.manifest)],
        &made.blobs(),
    );
    let path = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
    let list = json!([{ "Config": path(&made.id()), "RepoTags": ["a:1"], "Layers": [path(&Digest::of(&made.tars[0]))] }]);
    members.push(("manifest.json".into(), list.to_string().into_bytes()));
    place.load(&archive(&members)).unwrap();
    has(&place, "a:1", &made);
}

#[test]
fn what_is_damaged_exchanged_or_missing_is_refused_and_leaves_nothing() {
    for compress in [plain, gzip] {
        let made = image(&["one", "two"], compress);
        for members in [made.docker(&["a"]), made.layout("a")] {
            let place = Place::new();
            for at in 0..members.len() {
                if members[at].0 == "oci-layout" {
                    continue;
                }
                let mut missing = members.clone();
                missing.remove(at);
                let error = place.load(&archive(&missing)).unwrap_err();
                assert!(
                    matches!(error, Error::Missing(_) | Error::Invalid(_)),
                    "{error:?}"
                );
                let mut damaged = members.clone();
                let middle = damaged[at].1.len() / 2;
                damaged[at].1[middle] ^= 0xff;
                place.load(&archive(&damaged)).unwrap_err();
                let mut short = members.clone();
                short[at].1.pop();
                place.load(&archive(&short)).unwrap_err();
                assert!(place.store.entries().unwrap().is_empty());
            }
            let whole = archive(&members);
            for length in [0, 1, 511, 512, 700, whole.len() / 2] {
                place.load(&whole[..length]).unwrap_err();
            }
            place.load(&whole).unwrap();
        }
    }
}

#[test]
fn lists_that_lead_out_of_the_archive_lead_nowhere() {
    let place = Place::new();
    fs::write(place.path("secret"), image(&["one"], plain).configuration).unwrap();
    let secret = place.text("secret");
    for path in [
        "../secret",
        "/etc/passwd",
        &secret,
        "../../../../../../etc/passwd",
        "",
        ".",
    ] {
        let list = json!([{ "Config": path, "Layers": [] }]).to_string();
        let members = [("manifest.json".to_owned(), list.into_bytes())];
        place.refuses(&archive(&members), "lacks");
        put(&members, &place.path("layout"));
        let error = load(&place.path("layout"), &place.store, &Platform::default()).unwrap_err();
        assert!(
            error.to_string().contains("lacks") || error.to_string().contains("no regular"),
            "{error}"
        );
    }
}

#[test]
fn lists_that_make_no_sense_are_refused_in_words() {
    let place = Place::new();
    place.refuses(b"this is no archive", "cannot read the archive");
    place.refuses(&tar(&[("etc/passwd", b"root")]), "coracle import");
    for list in [
        "",
        "{}",
        "[",
        "[1]",
        "[]",
        r#"[{"Config":1}]"#,
        &"[".repeat(100_000),
    ] {
        place.refuses(&tar(&[("manifest.json", list.as_bytes())]), "manifest.json");
    }
    for index in [
        "",
        "[]",
        r#"{"schemaVersion":1,"manifests":[]}"#,
        r#"{"schemaVersion":2,"manifests":[]}"#,
        &"[".repeat(100_000),
    ] {
        place.refuses(&tar(&[("index.json", index.as_bytes())]), "index.json");
    }
}

#[test]
fn a_configuration_and_a_manifest_of_different_lengths_are_refused() {
    let (place, mut made) = (Place::new(), image(&["one", "two"], plain));
    made.layers.pop();
    place.refuses(&archive(&made.docker(&["a"])), "2");
}

#[test]
fn older_archives_name_a_layer_twice_by_a_link() {
    use coracle_archive::{Kind, Writer};
    let (place, made) = (Place::new(), image(&["same", "same"], plain));
    let mut writer = Writer::new(Vec::new());
    let mut put = |path: &str, data: &[u8], kind| made::put_entry(&mut writer, path, data, kind);
    let made = Made {
        tars: vec![made.tars[0].clone(); 2],
        ..image_twice(&made)
    };
    for (path, data) in made.docker(&["a"]) {
        match path.as_str() {
            "1abc/layer.tar" => put(&path, b"", Some(Kind::Symlink(b"../0abc/layer.tar".to_vec()))),
            _ => put(&path, &data, None),
        }
    }
    place.load(&writer.finish().unwrap()).unwrap();
    has(&place, "a", &made);
}

fn image_twice(made: &Made) -> Made {
    made::image_of("amd64", vec![made.tars[0].clone(); 2], plain)
}

#[test]
fn a_root_file_system_becomes_an_image() {
    let place = Place::new();
    let name = "imported:1".parse().unwrap();
    let how = Import {
        name: Some(&name),
        platform: Platform::default(),
        config: None,
        created: std::time::UNIX_EPOCH,
        comment: "Imported from a test".into(),
    };
    let root = tar(&[("etc/hostname", b"guest\n")]);
    let image = import(&gzip(&root)[..], &place.store, &how).unwrap();
    assert_eq!(image.configuration.diff_ids, [Digest::of(&root)]);
    assert_eq!(
        place
            .store
            .find("imported:1", &Platform::default())
            .unwrap()
            .id()
            .unwrap(),
        image.id().unwrap()
    );
    check(&place.store);
    // Another program finds the same.
    run(
        "umoci",
        &[
            "unpack",
            "--image",
            &format!("{}:imported:1", place.text("store")),
            &place.text("bundle"),
        ],
    );
    assert_eq!(
        fs::read(place.path("bundle/rootfs/etc/hostname")).unwrap(),
        b"guest\n"
    );
    for wrong in [&b""[..], b"no tar", &[0; 1024]] {
        import(wrong, &place.store, &how).unwrap_err();
        check(&place.store);
    }
    assert_eq!(place.store.entries().unwrap().len(), 1);
}

#[test]
fn skopeo_and_umoci_read_the_store_and_coracle_what_they_write() {
    let (place, made) = (Place::new(), image(&["one", "two"], gzip));
    place.load(&archive(&made.layout("debian:12"))).unwrap();
    let store = place.text("store");
    run(
        "skopeo",
        &[
            "copy",
            &format!("oci:{store}:debian:12"),
            &format!("oci-archive:{}:x:1", place.text("oci.tar")),
        ],
    );
    run(
        "skopeo",
        &[
            "copy",
            &format!("oci:{store}:debian:12"),
            &format!("docker-archive:{}:x:2", place.text("docker.tar")),
        ],
    );
    run(
        "umoci",
        &[
            "unpack",
            "--image",
            &format!("{store}:debian:12"),
            &place.text("bundle"),
        ],
    );
    assert_eq!(fs::read(place.path("bundle/rootfs/file-1")).unwrap(), b"two");
    let other = Store::open(place.path("second")).unwrap();
    for archive in ["oci.tar", "docker.tar"] {
        load(&place.path(archive), &other, &Platform::default()).unwrap();
    }
    for name in ["x:1", "x:2"] {
        let image = other.find(name, &Platform::default()).unwrap();
        assert_eq!(image.configuration.diff_ids.len(), 2);
    }
    check(&other);
    // What they put into the store is an image of it.
    run(
        "skopeo",
        &[
            "copy",
            &format!("oci-archive:{}", place.text("oci.tar")),
            &format!("oci:{store}:new:3"),
        ],
    );
    let image = place.store.find("new:3", &Platform::default()).unwrap();
    place.store.unpack(&image).unwrap();
    check(&place.store);
}

#[test]
fn what_is_saved_is_loaded_again_by_everybody_and_is_always_the_same() {
    let (place, made) = (Place::new(), image(&["one", "two"], gzip));
    place.load(&archive(&made.layout("debian:12"))).unwrap();
    place
        .store
        .tag("debian:12", &"other/name:x".parse().unwrap())
        .unwrap();
    let names = ["debian:12", "other/name:x"];
    let mut saved = Vec::new();
    crate::save::save(&place.store, &names, &mut saved).unwrap();
    let mut again = Vec::new();
    crate::save::save(&place.store, &names, &mut again).unwrap();
    assert_eq!(saved, again);
    let second = Place::new();
    second.load(&saved).unwrap();
    has(&second, "debian:12", &made);
    has(&second, "other/name:x", &made);
    fs::write(place.path("saved.tar"), &saved).unwrap();
    let saved = place.text("saved.tar");
    let inspected = run(
        "skopeo",
        &["inspect", &format!("docker-archive:{saved}:debian:12")],
    );
    assert!(inspected.contains("amd64"), "{inspected}");
    run(
        "skopeo",
        &[
            "copy",
            &format!("oci-archive:{saved}:12"),
            &format!("dir:{}", place.text("dir")),
        ],
    );
}

#[test]
fn a_stream_is_read_to_its_end() {
    struct Counted<'a>(&'a [u8], &'a mut usize);
    impl Read for Counted<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let count = self.0.read(buffer)?;
            *self.1 += count;
            Ok(count)
        }
    }
    let (place, made) = (Place::new(), image(&["one"], plain));
    let mut archive = archive(&made.docker(&["a"]));
    archive.extend([0; 100_000]);
    let mut count = 0;
    load_stream(Counted(&archive, &mut count), &place.store, &Platform::default()).unwrap();
    assert_eq!(count, archive.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_damaged_archive_is_refused_or_makes_a_whole_image(
        is_docker: bool, at: prop::sample::Index, byte: u8, end in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let (place, made) = (Place::new(), image(&["one", "two"], plain));
        let members = if is_docker { made.docker(&["a"]) } else { made.layout("a") };
        let mut archive = archive(&members);
        let at = at.index(archive.len());
        archive[at] = byte;
        if let Some(end) = end {
            archive.truncate(end.index(archive.len()));
        }
        let _ = place.load(&archive);
        let entries = place.store.entries().unwrap();
        for entry in &entries {
            place.store.image(entry, &Platform::default()).unwrap();
        }
    }
}
