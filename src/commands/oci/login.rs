//! `coracle login`: keeps what a registry is shown.

use std::io::{IsTerminal, Read, Write, stderr, stdin};

use coracle_images::Error as ImageError;
use coracle_images::credentials::Credential;
use coracle_images::registry::Client;

use super::interrupt::cancellable;
use super::secret::read_secret;
use super::{credentials, options, server};
use crate::commands::{Error, print, system};
use crate::console::tell;
use crate::plain_text::clean;

const WHAT: &str = "read the name and the password";
/// Bytes of a password or a token.
const SECRET_MAX: u64 = 64 << 10;

/// Log in to a registry
///
/// A name and a password are checked with the registry, and kept for later pulls. They are kept where Docker keeps them, in ~/.docker/config.json or with the helper program that is named there, so that docker
/// login is enough, too. What podman login keeps is found as well.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  coracle login
      to Docker's registry; the name and the password are asked for
  coracle login -u me --password-stdin registry.example <token
      without a terminal")]
pub struct Args {
    /// The registry: HOST or HOST:PORT [default: docker.io]
    #[arg(value_name = "SERVER")]
    server: Option<String>,

    /// The name [default: it is asked for]
    #[arg(short, long, value_name = "NAME")]
    username: Option<String>,

    /// The password or token; other programs of this host can see it, so rather use --password-stdin
    #[arg(short, long, value_name = "PASSWORD", conflicts_with = "password_stdin")]
    password: Option<String>,

    /// Read the password from stdin
    #[arg(long, requires = "username")]
    password_stdin: bool,

    /// The registry may use plain HTTP, or a certificate that nobody has signed
    #[arg(long)]
    insecure: bool,
}

pub fn execute(args: &Args) -> Result<u8, Error> {
    let host = server(args.server.as_deref());
    let credential = Credential::Password {
        user: user(args)?,
        secret: secret(args)?,
    };
    let is_wanted = cancellable(|cancel| {
        let client = Client::new(options(args.insecure), credentials(), cancel.clone())?;
        client.login(host, &credential)
    });
    let is_wanted = match is_wanted {
        Err(Error::Image(ImageError::Denied(_))) => {
            return Err(Error::Command(format!(
                "the registry {} does not take this name and password; check both",
                clean(host)
            )));
        }
        checked => checked?,
    };
    if !is_wanted {
        tell(format_args!(
            "coracle: the registry {} asks nobody for a password, so nothing was checked; it is kept all the same",
            clean(host)
        ));
    }
    let place = credentials().store(host, &credential)?;
    if let Some(file) = place {
        tell(format_args!(
            "coracle: the password is kept as it is in {}; a credential helper (credsStore) would encrypt it",
            clean(&file.to_string_lossy())
        ));
    }
    print("say that it worked", "Login Succeeded\n")?;
    Ok(0)
}

fn user(args: &Args) -> Result<String, Error> {
    if let Some(user) = &args.username {
        return Ok(user.clone());
    }
    if !stdin().is_terminal() {
        return Err(not_asked());
    }
    stderr().write_all(b"Username: ").map_err(system(WHAT))?;
    let mut line = String::new();
    stdin().read_line(&mut line).map_err(system(WHAT))?;
    match line.trim() {
        "" => Err(Error::Command(
            "no name was given; repeat the command with one".into(),
        )),
        user => Ok(user.to_owned()),
    }
}

fn secret(args: &Args) -> Result<String, Error> {
    let secret = match &args.password {
        Some(password) => password.clone(),
        None if args.password_stdin => {
            let mut text = String::new();
            stdin()
                .take(SECRET_MAX)
                .read_to_string(&mut text)
                .map_err(system(WHAT))?;
            text.trim_end_matches(['\r', '\n']).to_owned()
        }
        None if !stdin().is_terminal() => return Err(not_asked()),
        None => read_secret("Password: ")?,
    };
    match secret.is_empty() {
        true => Err(Error::Command(
            "no password was given; repeat the command with one".into(),
        )),
        false => Ok(secret),
    }
}

fn not_asked() -> Error {
    Error::Command(
        "stdin is no terminal, so nobody can be asked: give the name by -u NAME and the password by --password-stdin".into(),
    )
}
