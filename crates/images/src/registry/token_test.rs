//! With a registry that wants tokens.

use std::sync::{Arc, Mutex};

use serde_json::json;

use super::hostile_place::{Place, large};
use super::hostile_server::{Server, send, serve};
use crate::Error;
use crate::credentials::Credential;
use crate::made::Made;

/// A server that wants tokens, which it gives itself.
fn with_tokens(made: &Made, lifetime: u64, wants_password: bool) -> Server {
    let made = made.clone();
    let given = Arc::new(Mutex::new(0));
    Server::start(move |asked, stream| {
        let host = asked.header("host").unwrap_or_default().to_owned();
        let mut given = given.lock().unwrap();
        if asked.path.starts_with("/token") {
            let is_known = asked.header("authorization") == Some("Basic bWU6c2VjcmV0");
            if wants_password && !is_known {
                return send(
                    stream,
                    "401 Unauthorized",
                    &[],
                    br#"{"errors":[{"code":"DENIED","message":"wrong password"}]}"#,
                );
            }
            *given += 1;
            let token = json!({ "token": format!("token-{given}"), "expires_in": lifetime }).to_string();
            return send(stream, "200 OK", &[], token.as_bytes());
        }
        let is_good = asked.header("authorization") == Some(&format!("Bearer token-{given}"));
        match is_good {
            true => {
                drop(given);
                serve(&made, asked, stream);
            }
            false => {
                let challenge = format!(
                    "WWW-Authenticate: Bearer realm=\"http://{host}/token\",service=\"s\",scope=\"repository:a/b:pull\""
                );
                send(stream, "401 Unauthorized", &[&challenge], b"");
            }
        }
    })
}

#[test]
fn tokens_are_got_used_and_got_again() {
    let (place, made) = (Place::new(), large());
    let server = with_tokens(&made, 300, false);
    place.pull(&server).unwrap();
    place.has(&made);
    let asked = server.asked();
    let tokens: Vec<_> = asked
        .iter()
        .filter(|asked| asked.path.starts_with("/token"))
        .collect();
    assert_eq!(tokens.len(), 1, "one is enough for all requests");
    assert!(
        tokens[0].path.contains("scope=repository%3Aa%2Fb%3Apull") && tokens[0].path.contains("service=s")
    );
    let password = |secret: &str| Credential::Password {
        user: "me".into(),
        secret: secret.into(),
    };
    let server = with_tokens(&made, 1, true);
    let place = Place::new();
    place.refuses(&server, "wrong password");
    place
        .credentials
        .store(&server.host(), &password("wrong"))
        .unwrap();
    place.refuses(&server, "wrong password");
    place
        .credentials
        .store(&server.host(), &password("secret"))
        .unwrap();
    place.pull(&server).unwrap();
    place.has(&made);
}

#[test]
fn a_server_that_is_never_content_with_a_token_is_left() {
    let place = Place::new();
    let server = Server::start(|asked, stream| {
        let host = asked.header("host").unwrap_or_default();
        let challenge = format!("WWW-Authenticate: Bearer realm=\"http://{host}/token\"");
        match asked.path.starts_with("/token") {
            true => send(stream, "200 OK", &[], br#"{"token":"t"}"#),
            false => send(stream, "401 Unauthorized", &[&challenge], b""),
        }
    });
    let error = place.pull(&server).unwrap_err();
    assert!(matches!(error, Error::Denied(_)), "{error:?}");
    assert!(server.asked().len() < 20);
}
