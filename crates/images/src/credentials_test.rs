use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use tempfile::TempDir;

use super::{Credential, Credentials};

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("config.json")
    }

    fn with(self, text: &str) -> Self {
        fs::write(self.file(), text).unwrap();
        self
    }

    /// A program in place of one that keeps credentials.
    fn helper(self, script: &str) -> Self {
        let path = self.0.path().join("docker-credential-test");
        fs::write(
            &path,
            format!("#!/bin/sh\ncd {}\n{script}\n", self.0.path().display()),
        )
        .unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    fn credentials(&self) -> Credentials {
        let mut credentials = Credentials::in_files(vec![self.0.path().join("none"), self.file()]);
        credentials.files.remove(0);
        credentials.helpers = Some((self.0.path().to_owned(), Duration::from_secs(2)));
        credentials
    }
}

fn password(user: &str, secret: &str) -> Credential {
    Credential::Password {
        user: user.into(),
        secret: secret.into(),
    }
}

#[test]
fn what_docker_and_podman_keep_is_found() {
    // user:pass, other:word, part:only
    let place = Place::new().with(
        r#"{"auths": {"https://index.docker.io/v1/": {"auth": "dXNlcjpwYXNz"}, "https://old.example/v1/": {"auth": "b3RoZXI6d29yZA=="},
            "quay.example": {"username": "u", "password": "p"}, "quay.example/part": {"auth": "cGFydDpvbmx5"},
            "token.example": {"auth": "PHRva2VuPjo=", "identitytoken": "refresh"}, "empty.example": {}}, "HttpHeaders": {"a": "b"}}"#,
    );
    let get = |host: &str, path: &str| place.credentials().get(host, path).unwrap();
    assert_eq!(get("docker.io", "library/debian"), Some(password("user", "pass")));
    assert_eq!(get("old.example", "x"), Some(password("other", "word")));
    assert_eq!(get("quay.example", "other/x"), Some(password("u", "p")));
    assert_eq!(get("quay.example", "part/x"), Some(password("part", "only")));
    assert_eq!(get("quay.example", "partial/x"), Some(password("u", "p")));
    assert_eq!(
        get("token.example", "x"),
        Some(Credential::IdentityToken("refresh".into()))
    );
    assert_eq!(get("empty.example", "x"), None);
    assert_eq!(get("index.docker.io.example", "x"), None);
}

#[test]
fn the_environment_says_where_files_are() {
    let variable = |name: &str| match name {
        "HOME" => Some("/home/me".into()),
        "XDG_RUNTIME_DIR" => Some("/run/me".into()),
        _ => None,
    };
    let files = Credentials::from_environment(variable).files;
    let expected = [
        "/home/me/.docker/config.json",
        "/run/me/containers/auth.json",
        "/home/me/.config/containers/auth.json",
    ];
    assert_eq!(files, expected.map(PathBuf::from));
}

#[test]
fn a_login_is_written_for_its_owner_alone_and_changes_nothing_else() {
    let place =
        Place::new().with(r#"{"HttpHeaders": {"a": "b"}, "auths": {"x.example": {"auth": "dXNlcjpwYXNz"}}}"#);
    let credentials = place.credentials();
    credentials
        .store("docker.io", &password("me", "se:cret"))
        .unwrap();
    credentials
        .store("localhost:5000", &password("you", "ä"))
        .unwrap();
    let text = fs::read_to_string(place.file()).unwrap();
    assert!(
        text.contains("HttpHeaders") && text.contains("https://index.docker.io/v1/"),
        "{text}"
    );
    assert_eq!(
        fs::metadata(place.file()).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(
        credentials.get("docker.io", "x").unwrap(),
        Some(password("me", "se:cret"))
    );
    assert_eq!(
        credentials.get("localhost:5000", "x").unwrap(),
        Some(password("you", "ä"))
    );
    assert!(credentials.erase("docker.io").unwrap());
    assert!(!credentials.erase("docker.io").unwrap());
    assert_eq!(credentials.get("docker.io", "x").unwrap(), None);
    assert_eq!(
        credentials.get("x.example", "x").unwrap(),
        Some(password("user", "pass"))
    );
    assert!(credentials.store("x.example", &password("a:b", "c")).is_err());
    assert_eq!(fs::read_dir(place.0.path()).unwrap().count(), 1);
}

#[test]
fn a_first_login_makes_the_file() {
    let place = Place::new();
    let credentials = Credentials::in_files(vec![place.0.path().join("deep/config.json")]);
    assert!(!credentials.erase("a.example").unwrap());
    let token = Credential::IdentityToken("t".into());
    credentials.store("a.example", &token).unwrap();
    assert_eq!(credentials.get("a.example", "x").unwrap(), Some(token));
}

#[test]
fn helper_programs_are_asked_told_and_made_to_forget() {
    let script = r#"case $1 in
        store) cat > kept ;;
        get) read -r server; test -e kept && cat kept || { echo "credentials not found in native keychain"; exit 1; } ;;
        erase) read -r server; echo "$server" > erased; rm kept ;;
    esac"#;
    for config in [
        r#"{"credsStore": "test"}"#,
        r#"{"credHelpers": {"docker.io": "test"}, "credsStore": "not-there"}"#,
    ] {
        let place = Place::new().with(config).helper(script);
        let credentials = place.credentials();
        assert_eq!(credentials.get("docker.io", "x").unwrap(), None);
        credentials.store("docker.io", &password("me", "secret")).unwrap();
        assert_eq!(
            credentials.get("docker.io", "x").unwrap(),
            Some(password("me", "secret"))
        );
        assert_eq!(fs::read_to_string(place.file()).unwrap(), config);
        assert!(credentials.erase("docker.io").unwrap());
        let erased = fs::read_to_string(place.0.path().join("erased")).unwrap();
        assert_eq!(erased, "https://index.docker.io/v1/\n");
        assert_eq!(credentials.get("docker.io", "x").unwrap(), None);
    }
}

#[test]
fn a_helper_program_that_is_absent_slow_or_talkative_is_an_error_in_words() {
    for (script, why) in [
        ("sleep 100", "within 2 s"),
        ("exec >&-; sleep 100", "within 2 s"),
        ("yes", "more than 64 KiB"),
        ("echo '{'", "JSON"),
        ("echo broken keyring; exit 1", "broken keyring"),
    ] {
        let place = Place::new().with(r#"{"credsStore": "test"}"#).helper(script);
        let begin = Instant::now();
        let error = place.credentials().get("a.example", "x").unwrap_err().to_string();
        assert!(error.contains(why), "{script}: {error}");
        assert!(begin.elapsed() < Duration::from_secs(10));
    }
    let place = Place::new().with(r#"{"credsStore": "test"}"#);
    let error = place.credentials().get("a.example", "x").unwrap_err().to_string();
    assert!(error.contains("not installed"), "{error}");
    let place = Place::new().with(r#"{"credsStore": "../../bin/sh"}"#);
    let error = place.credentials().get("a.example", "x").unwrap_err().to_string();
    assert!(error.contains("no name"), "{error}");
}

#[test]
fn a_secret_is_not_shown() {
    let shown = format!(
        "{:?} {:?}",
        password("me", "hidden"),
        Credential::IdentityToken("hidden".into())
    );
    assert!(!shown.contains("hidden"), "{shown}");
}

proptest! {
    #[test]
    fn any_file_is_read_or_refused(text in "\\PC{0,40}", auth in "[A-Za-z0-9=:]{0,12}") {
        let _ = Place::new().with(&text).credentials().get("a.example", "x");
        let auths = serde_json::json!({ "auths": { "a.example": { "auth": auth } } }).to_string();
        let _ = Place::new().with(&auths).credentials().get("a.example", "x");
    }

    #[test]
    fn what_is_stored_is_found(user in "[^:]{1,10}", secret in ".{0,10}", host in "[a-z]{1,5}\\.example(:[0-9]{4})?") {
        prop_assume!(!secret.ends_with('\0'));
        let place = Place::new();
        place.credentials().store(&host, &password(&user, &secret)).unwrap();
        prop_assert_eq!(place.credentials().get(&host, "x/y").unwrap(), Some(password(&user, &secret)));
    }
}
