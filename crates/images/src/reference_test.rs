use proptest::prelude::*;

use super::Reference;

fn parse(text: &str) -> Reference {
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

const SHA256: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[test]
fn what_is_left_out_is_filled_in_as_docker_does() {
    for (short, full, familiar) in [
        ("debian", "docker.io/library/debian:latest", "debian:latest"),
        ("debian:12", "docker.io/library/debian:12", "debian:12"),
        ("user/name", "docker.io/user/name:latest", "user/name:latest"),
        (
            "library/debian",
            "docker.io/library/debian:latest",
            "debian:latest",
        ),
        (
            "docker.io/debian",
            "docker.io/library/debian:latest",
            "debian:latest",
        ),
        (
            "index.docker.io/debian",
            "docker.io/library/debian:latest",
            "debian:latest",
        ),
        ("a/b/c", "docker.io/a/b/c:latest", "a/b/c:latest"),
        (
            "library/a/b",
            "docker.io/library/a/b:latest",
            "library/a/b:latest",
        ),
        ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
        (
            "localhost:5000/x",
            "localhost:5000/x:latest",
            "localhost:5000/x:latest",
        ),
        (
            "localhost:5000",
            "docker.io/library/localhost:5000",
            "localhost:5000",
        ),
        ("host:5000/x:1", "host:5000/x:1", "host:5000/x:1"),
        ("quay.io/a/b:v1.0", "quay.io/a/b:v1.0", "quay.io/a/b:v1.0"),
        ("HOST/x", "HOST/x:latest", "HOST/x:latest"),
        ("[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000/x:latest"),
        ("127.0.0.1/x", "127.0.0.1/x:latest", "127.0.0.1/x:latest"),
        (
            "docker.io/a.b/c",
            "docker.io/a.b/c:latest",
            "docker.io/a.b/c:latest",
        ),
        (
            "docker.io/library/localhost",
            "docker.io/library/localhost:latest",
            "localhost:latest",
        ),
        (
            "a__b/c---d.e_f",
            "docker.io/a__b/c---d.e_f:latest",
            "a__b/c---d.e_f:latest",
        ),
    ] {
        let reference = parse(short);
        assert_eq!(reference.to_string(), full, "{short}");
        assert_eq!(reference.familiar(), familiar, "{short}");
    }
}

#[test]
fn a_digest_stands_with_a_tag_or_for_it() {
    let reference = parse(&format!("debian@{SHA256}"));
    assert_eq!(reference.tag(), None);
    assert_eq!(
        reference.to_string(),
        format!("docker.io/library/debian@{SHA256}")
    );
    let reference = parse(&format!("debian:12@{SHA256}"));
    assert_eq!(reference.tag(), Some("12"));
    assert_eq!(reference.digest().unwrap().to_string(), SHA256);
    assert_eq!(reference.familiar(), format!("debian:12@{SHA256}"));
}

#[test]
fn what_docker_refuses_is_refused_with_the_reason() {
    let long = "a".repeat(256);
    let tag = format!("a:{}", "t".repeat(129));
    for (text, why) in [
        ("", "empty"),
        ("Debian", "lower case"),
        ("a/B", "lower case"),
        (&SHA256[7..], "image's ID"),
        (&long, "255"),
        (&tag, "128"),
        ("a:", "tag"),
        ("a:.x", "tag"),
        ("a:x y", "tag"),
        ("a@sha256:1", "digits"),
        ("a@md5:1", "sha256"),
        ("a@", "digest"),
        ("a//b", "between slashes"),
        ("/a", "between slashes"),
        ("a/", "between slashes"),
        ("a..b", "between slashes"),
        ("a___b", "between slashes"),
        ("-a", "between slashes"),
        ("a-", "between slashes"),
        ("../a", "host"),
        ("a.b/../c", "between slashes"),
        ("host:99999/a", "host"),
        ("host:/a", "host"),
        ("-a.b/c", "host"),
        ("[::g]/a", "host"),
        ("docker.io/", "between slashes"),
        ("https://a/b", "host"),
        ("ä", "between slashes"),
    ] {
        let error = text.parse::<Reference>().unwrap_err().to_string();
        assert!(error.contains(why), "{text}: {error}");
    }
}

fn any_reference() -> impl Strategy<Value = String> {
    let host = "([a-zA-Z0-9-]{1,5}(\\.[a-z0-9]{1,4}){0,2}(:[0-9]{0,5})?/)?";
    let path = "[a-z0-9._-]{1,8}(/[a-z0-9._-]{1,5}){0,2}";
    let rest = "(:[a-zA-Z0-9_.-]{0,5})?(@sha256:[0-9a-f]{64})?";
    prop_oneof![
        (host, path, rest).prop_map(|(host, path, rest)| host + &path + &rest),
        ".{0,40}"
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn both_forms_are_read_as_the_same(text in any_reference()) {
        if let Ok(reference) = text.parse::<Reference>() {
            prop_assert_eq!(&parse(&reference.to_string()), &reference);
            prop_assert_eq!(&parse(&reference.familiar()), &reference);
            prop_assert!(reference.familiar().len() <= reference.to_string().len());
            prop_assert!(reference.path().split('/').all(|part| part != ".." && !part.is_empty()));
        }
    }
}
