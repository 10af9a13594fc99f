//! With Debian's docker-registry on a loopback port, and skopeo to put images there.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use tempfile::TempDir;

use super::{Cancel, Client, Event, Options, Progress, Pulled};
use crate::credentials::{Credential, Credentials};
use crate::digest::Digest;
use crate::made::{Made, gzip, image, image_for, image_of, put, run, tar, zstd};
use crate::store::Store;
use crate::{Error, Platform, Reference, Result};

struct Registry {
    place: TempDir,
    process: Child,
    host: String,
    /// How skopeo reaches it.
    arguments: Vec<String>,
}

/// What the registry asks for.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Plain,
    Tls,
    TlsAndPassword,
}

impl Registry {
    fn start(kind: Kind) -> Self {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
        let mut config = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:0\n",
            path("data")
        );
        let mut arguments = vec!["--dest-tls-verify=false".to_owned()];
        if kind != Kind::Plain {
            certificates(&path("ca"), &path("server"));
            config += &format!(
                "  tls:\n    certificate: {}\n    key: {}\n",
                path("server.crt"),
                path("server.key")
            );
        }
        if kind == Kind::TlsAndPassword {
            let password = run("htpasswd", &["-Bbn", "me", "secret"]);
            fs::write(path("htpasswd"), password).unwrap();
            config += &format!(
                "auth:\n  htpasswd:\n    realm: here\n    path: {}\n",
                path("htpasswd")
            );
            arguments.push("--dest-creds=me:secret".into());
        }
        fs::write(path("config.yml"), config).unwrap();
        let mut command = Command::new("docker-registry");
        command
            .args(["serve", &path("config.yml")])
            .stderr(Stdio::piped())
            .stdout(Stdio::null());
        let mut process = command.spawn().expect("docker-registry is there; install it");
        let mut log = BufReader::new(process.stderr.take().unwrap()).lines();
        let host = loop {
            let line = log.next().expect("the registry starts").unwrap();
            if let Some((_, rest)) = line.split_once("listening on ") {
                let end = rest.find([',', '"', ' ']).unwrap_or(rest.len());
                break rest[..end].to_owned();
            }
        };
        // So that it is not ended by a full pipe.
        std::thread::spawn(move || log.for_each(drop));
        Self {
            place,
            process,
            host,
            arguments,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn push(&self, made: &Made, name: &str) {
        let layout = tempfile::tempdir().unwrap();
        put(&made.layout("x"), layout.path());
        let from = format!("oci:{}:x", layout.path().display());
        let to = format!("docker://{}/{name}", self.host);
        let arguments: Vec<_> = self.arguments.iter().map(String::as_str).collect();
        run(
            "skopeo",
            &[&["copy", "--insecure-policy"], &arguments[..], &[&from, &to]].concat(),
        );
    }

    fn name(&self, name: &str) -> Reference {
        format!("{}/{name}", self.host).parse().unwrap()
    }

    fn options(&self) -> Options {
        Options {
            certificates: Some(self.path("ca.crt")).filter(|path| path.exists()),
            ..Options::default()
        }
    }

    fn client(&self) -> Client {
        Client::new(self.options(), Credentials::default(), Cancel::default()).unwrap()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// An authority of its own, and a certificate by it for the loopback address.
fn certificates(authority: &str, server: &str) {
    let name = |path: &str, end: &str| format!("{path}.{end}");
    let new = [
        "req",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ];
    let own = ["-x509", "-days", "2", "-subj", "/CN=authority"];
    run(
        "openssl",
        &[
            &new[..],
            &own,
            &[
                "-keyout",
                &name(authority, "key"),
                "-out",
                &name(authority, "crt"),
            ],
        ]
        .concat(),
    );
    let asked = [
        "-subj",
        "/CN=localhost",
        "-keyout",
        &name(server, "key"),
        "-out",
        &name(server, "csr"),
    ];
    run("openssl", &[&new[..], &asked].concat());
    fs::write(
        name(server, "ext"),
        "subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n",
    )
    .unwrap();
    let (csr, crt, ext) = (name(server, "csr"), name(server, "crt"), name(server, "ext"));
    let (ca, key) = (name(authority, "crt"), name(authority, "key"));
    run(
        "openssl",
        &[
            "x509",
            "-req",
            "-in",
            &csr,
            "-CA",
            &ca,
            "-CAkey",
            &key,
            "-CAcreateserial",
            "-days",
            "2",
            "-out",
            &crt,
            "-extfile",
            &ext,
        ],
    );
}

fn store() -> (TempDir, Store) {
    let place = tempfile::tempdir().unwrap();
    let store = Store::open(place.path().join("store")).unwrap();
    (place, store)
}

fn pull(client: &Client, name: &Reference, store: &Store) -> Result<Pulled> {
    client.pull(name, &Platform::default(), store, &())
}

fn check(store: &Store, name: &str, made: &Made) {
    assert_eq!(store.verify(|_| ()).unwrap().len(), 0);
    let image = store.find(name, &Platform::default()).unwrap();
    assert_eq!(image.id().unwrap(), made.id());
    for tar in &made.tars {
        assert_eq!(&fs::read(store.layer_path(&Digest::of(tar))).unwrap(), tar);
    }
    assert_eq!(
        fs::read_dir(store.directory().join("partial")).unwrap().count(),
        0
    );
}

#[test]
fn an_image_is_pulled_once_and_then_known() {
    let registry = Registry::start(Kind::Plain);
    for (tag, compress) in [("gzip", gzip as fn(&[u8]) -> Vec<u8>), ("zstd", zstd)] {
        let made = image(&["one", "two", "three", "four", "five", "six"], compress);
        registry.push(&made, &format!("a/b:{tag}"));
        let (_place, store) = store();
        let name = registry.name(&format!("a/b:{tag}"));
        let first = pull(&registry.client(), &name, &store).unwrap();
        assert!(first.is_new);
        check(&store, &name.familiar(), &made);
        let second = pull(&registry.client(), &name, &store).unwrap();
        assert!(!second.is_new);
        // By its digest it is the same image.
        let by_digest = name.with_digest(first.digest.clone());
        pull(&registry.client(), &by_digest, &store).unwrap();
        check(&store, &by_digest.familiar(), &made);
        run(
            "skopeo",
            &[
                "inspect",
                &format!("oci:{}:{}", store.directory().display(), name.familiar()),
            ],
        );
    }
}

#[test]
fn a_name_that_moves_is_pulled_again_and_takes_only_what_is_new() {
    let registry = Registry::start(Kind::Plain);
    let (_place, store) = store();
    let name = registry.name("x:latest");
    let (old, new) = (image(&["same", "old"], gzip), image(&["same", "new"], gzip));
    registry.push(&old, "x:latest");
    pull(&registry.client(), &name, &store).unwrap();
    registry.push(&new, "x:latest");
    let seen = Seen::default();
    let pulled = registry
        .client()
        .pull(&name, &Platform::default(), &store, &seen)
        .unwrap();
    assert!(pulled.is_new);
    check(&store, &name.familiar(), &new);
    let events = seen.0.into_inner().unwrap();
    assert!(
        events.contains(&(0, Event::Exists)) && !events.contains(&(1, Event::Exists)),
        "{events:?}"
    );
    // The old one is there without a name until it is pruned.
    assert_eq!(store.entries().unwrap().len(), 2);
    assert_eq!(store.prune().unwrap().images.len(), 1);
    check(&store, &name.familiar(), &new);
}

#[derive(Default)]
struct Seen(Mutex<Vec<(usize, Event)>>);

impl Progress for Seen {
    fn layers(&self, _: &[(Digest, u64)]) {}
    fn layer(&self, index: usize, event: Event) {
        self.0.lock().unwrap().push((index, event));
    }
}

#[test]
fn tls_is_used_with_the_certificate_that_a_person_gives_or_without_any_if_it_is_insecure() {
    let registry = Registry::start(Kind::Tls);
    let made = image(&["one"], gzip);
    registry.push(&made, "x:1");
    let name = registry.name("x:1");
    let (_place, store) = store();
    let client = |options| Client::new(options, Credentials::default(), Cancel::default()).unwrap();
    let error = pull(&client(Options::default()), &name, &store).unwrap_err();
    assert!(error.to_string().contains("cannot be trusted"), "{error}");
    pull(&client(registry.options()), &name, &store).unwrap();
    check(&store, &name.familiar(), &made);
    let (_place, store) = self::store();
    let insecure = Options {
        is_insecure: true,
        ..Options::default()
    };
    pull(&client(insecure), &name, &store).unwrap();
    check(&store, &name.familiar(), &made);
}

#[test]
fn a_password_is_asked_for_checked_and_used() {
    let registry = Registry::start(Kind::TlsAndPassword);
    let made = image(&["one", "two"], gzip);
    registry.push(&made, "x:1");
    let name = registry.name("x:1");
    let (_place, store) = store();
    let error = pull(&registry.client(), &name, &store).unwrap_err();
    assert!(matches!(error, Error::Denied(_)), "{error}");
    assert!(error.to_string().contains("coracle login"), "{error}");
    let password = |secret: &str| Credential::Password {
        user: "me".into(),
        secret: secret.into(),
    };
    let error = registry
        .client()
        .login(&registry.host, &password("wrong"))
        .unwrap_err();
    assert!(matches!(error, Error::Denied(_)), "{error}");
    assert!(
        registry
            .client()
            .login(&registry.host, &password("secret"))
            .unwrap()
    );
    let credentials = Credentials::in_files(vec![registry.path("config.json")]);
    credentials.store(&registry.host, &password("secret")).unwrap();
    let client = Client::new(registry.options(), credentials, Cancel::default()).unwrap();
    pull(&client, &name, &store).unwrap();
    check(&store, &name.familiar(), &made);
}

#[test]
fn what_is_not_there_or_for_another_platform_is_said() {
    let registry = Registry::start(Kind::Plain);
    registry.push(&image_for("arm64", &["one"], gzip), "x:arm");
    let (_place, store) = store();
    for (name, why) in [
        ("x:none", "has no image"),
        ("y:1", "has no image"),
        ("x:arm", "is for linux/arm64"),
    ] {
        let error = pull(&registry.client(), &registry.name(name), &store).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
        assert!(store.entries().unwrap().is_empty());
    }
    store.prune().unwrap();
    assert!(store.files("blobs").unwrap().is_empty());
}

#[test]
fn a_mirror_is_asked_first_and_what_it_has_not_comes_from_the_registry() {
    let (mirror, registry) = (Registry::start(Kind::Plain), Registry::start(Kind::Plain));
    let made = image(&["one"], gzip);
    mirror.push(&made, "library/x:1");
    let options = Options {
        mirrors: vec![registry.host.clone(), mirror.host.clone()],
        ..Options::default()
    };
    let client = Client::new(options, Credentials::default(), Cancel::default()).unwrap();
    let (_place, store) = store();
    pull(&client, &"x:1".parse().unwrap(), &store).unwrap();
    check(&store, "x:1", &made);
}

#[test]
fn two_pulls_at_once_share_the_work() {
    let registry = Registry::start(Kind::Plain);
    let noise: Vec<u8> = (0..3_000_000u32)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let made = image_of(
        "amd64",
        vec![tar(&[("a", &noise)]), tar(&[("b", &noise[1..])])],
        gzip,
    );
    registry.push(&made, "x:1");
    registry.push(&made, "x:2");
    let (_place, store) = store();
    std::thread::scope(|scope| {
        for tag in ["x:1", "x:2", "x:1", "x:2"] {
            let (registry, store) = (&registry, &store);
            scope.spawn(move || pull(&registry.client(), &registry.name(tag), store).unwrap());
        }
    });
    check(&store, &registry.name("x:1").familiar(), &made);
    check(&store, &registry.name("x:2").familiar(), &made);
}
