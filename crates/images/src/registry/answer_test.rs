use std::time::Duration;

use proptest::prelude::*;

use super::*;

#[test]
fn challenges_are_read_whatever_their_form() {
    let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| {
        Some(Challenge::Bearer {
            realm: realm.into(),
            service: service.map(Into::into),
            scope: scope.map(Into::into),
        })
    };
    let docker = r#"Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a/b:pull,push""#;
    let all = bearer(
        "https://auth.example/token",
        Some("registry.example"),
        Some("repository:a/b:pull,push"),
    );
    assert_eq!(challenge(docker), all);
    assert_eq!(challenge(&format!("Basic realm=\"x\", {docker}")), all);
    assert_eq!(
        challenge("bearer realm=https://a/t, service=s"),
        bearer("https://a/t", Some("s"), None)
    );
    assert_eq!(challenge(r#"Bearer realm="a\"b""#), bearer("a\"b", None, None));
    assert_eq!(
        challenge(r#"Basic realm="Registry Realm""#),
        Some(Challenge::Basic)
    );
    assert_eq!(challenge("Basic"), Some(Challenge::Basic));
    for nothing in [
        "",
        "Bearer",
        "Bearer service=x",
        "Digest realm=\"x\", nonce=y",
        &"x,".repeat(10_000),
    ] {
        assert_eq!(challenge(nothing), None, "{nothing}");
    }
}

#[test]
fn redirects_lead_to_web_servers_and_never_from_https_to_http() {
    let url = "https://a.example:5000/v2/x";
    for (location, to) in [
        ("/y?z", "https://a.example:5000/y?z"),
        ("//b.example/y", "https://b.example/y"),
        ("https://b.example/y", "https://b.example/y"),
    ] {
        assert_eq!(redirect(url, location).unwrap(), to);
    }
    for bad in [
        "http://b.example/",
        "file:///etc/passwd",
        "",
        "y",
        "https://",
        "https://me@b.example/",
        "gopher://x/",
    ] {
        assert!(redirect(url, bad).is_err(), "{bad}");
    }
    assert!(redirect("http://localhost:1/x", "http://b.example/").is_ok());
}

#[test]
fn an_origin_is_scheme_host_and_port() {
    assert_eq!(
        origin("https://A.example/x").unwrap(),
        origin("https://a.example:443/y").unwrap()
    );
    for other in [
        "http://a.example/",
        "https://a.example:444/",
        "https://b.example/",
    ] {
        assert_ne!(origin(other).unwrap(), origin("https://a.example/").unwrap());
    }
}

#[test]
fn tokens_and_messages_are_read_or_refused() {
    let of = |text: &str| token(text.as_bytes());
    assert_eq!(
        of(r#"{"token": "t", "expires_in": 1000}"#).unwrap(),
        ("t".into(), Duration::from_secs(900))
    );
    assert_eq!(
        of(r#"{"access_token": "t"}"#).unwrap(),
        ("t".into(), Duration::from_secs(54))
    );
    for bad in [
        "",
        "{}",
        r#"{"token": ""}"#,
        r#"{"token": "a\nb"}"#,
        r#"{"token": 1}"#,
    ] {
        assert!(of(bad).is_err(), "{bad}");
    }
    assert_eq!(
        message(br#"{"errors": [{"code": "DENIED", "message": "no"}]}"#),
        Some("no".into())
    );
    assert_eq!(
        message(br#"{"errors": [{"code": "DENIED"}]}"#),
        Some("DENIED".into())
    );
    assert_eq!(message(br#"{"errors": []}"#), None);
}

proptest! {
    #[test]
    fn any_header_is_read(header in ".{0,60}", location in "(https?:)?/{0,2}.{0,30}") {
        let _ = challenge(&header);
        let _ = challenge(&format!("Bearer {header}"));
        let _ = (range_start(&header), retry_after(&header));
        if let Ok(to) = redirect("https://a.example/x", &location) {
            prop_assert!(origin(&to).unwrap().is_https);
        }
    }
}
