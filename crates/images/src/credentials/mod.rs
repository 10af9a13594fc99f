//! Credentials for registries, as Docker and podman keep them: in `config.json` and `auth.json`, or by helper programs.
//!
//! The crate docker_credential reads the same files, but waits for a helper program for ever and reads all that it writes, knows
//! neither podman's keys with paths nor its places, and does not write.

mod helper;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::error::{Error, Result, invalid};
use crate::reference::DEFAULT_HOST;
use helper::{Helper, Kept};

const FILE_MAX: u64 = 1 << 20;
/// Under which Docker keeps what is for its own registry.
const DOCKER_KEY: &str = "https://index.docker.io/v1/";
/// What a helper program says in place of a name when the secret is an identity token.
const TOKEN_USER: &str = "<token>";

/// What a registry, or its token server, is shown.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    Password {
        user: String,
        secret: String,
    },
    /// A refresh token (RFC 6749, section 1.5).
    IdentityToken(String),
}

/// Without the secret.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password { user, .. } => write!(f, "a password of {user}"),
            Self::IdentityToken(_) => write!(f, "an identity token"),
        }
    }
}

/// The files that may have credentials.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// The first that knows a registry counts.
    files: Vec<PathBuf>,
    /// Where helper programs are, if not where PATH says, and how long they may take: for tests.
    helpers: Option<(PathBuf, Duration)>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Configuration {
    auths: BTreeMap<String, Auth>,
    #[serde(rename = "credsStore")]
    store: Option<String>,
    #[serde(rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    /// Name and password, with a colon between, in base64.
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

impl Credentials {
    /// As the environment says where they are: `REGISTRY_AUTH_FILE`, then Docker's `config.json`, then podman's `auth.json`.
    pub fn from_environment(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let path = |name: &str| {
            variable(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let docker = path("DOCKER_CONFIG").or_else(|| Some(path("HOME")?.join(".docker")));
        let config = path("XDG_CONFIG_HOME").or_else(|| Some(path("HOME")?.join(".config")));
        let files = [
            path("REGISTRY_AUTH_FILE"),
            docker.map(|directory| directory.join("config.json")),
            path("XDG_RUNTIME_DIR").map(|directory| directory.join("containers/auth.json")),
            config.map(|directory| directory.join("containers/auth.json")),
        ];
        Self::in_files(files.into_iter().flatten().collect())
    }

    pub fn in_files(files: Vec<PathBuf>) -> Self {
        Self { files, helpers: None }
    }

    /// What is kept for a repository of a registry.
    pub fn get(&self, host: &str, path: &str) -> Result<Option<Credential>> {
        for file in &self.files {
            if let Some(text) = read(file)?
                && let Some(found) = self.get_from(&parse(file, &text)?, host, path)?
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Keeps a credential in the first file, or with the helper program that the file names. Says in which file, if in one.
    pub fn store(&self, host: &str, credential: &Credential) -> Result<Option<PathBuf>> {
        let (file, mut whole) = self.first()?;
        if let Some(helper) = self.helper(&parse(&file, &whole.to_string())?, host)? {
            let (username, secret) = match credential {
                Credential::Password { user, secret } => (user.clone(), secret.clone()),
                Credential::IdentityToken(token) => (TOKEN_USER.to_owned(), token.clone()),
            };
            let server = key(host).to_owned();
            let kept = Kept {
                server,
                username,
                secret,
            };
            return helper.store(&kept).map(|()| None);
        }
        let auth = match credential {
            Credential::Password { user, .. } if user.contains(':') => {
                return Err(invalid(
                    "a name with a colon in it cannot be kept; log in with another",
                ));
            }
            Credential::Password { user, secret } => {
                json!({ "auth": STANDARD.encode(format!("{user}:{secret}")) })
            }
            Credential::IdentityToken(token) => {
                json!({ "auth": STANDARD.encode("<token>:"), "identitytoken": token })
            }
        };
        object(&file, &mut whole)?
            .entry("auths")
            .or_insert_with(|| json!({}))
            .as_object_mut()
            .ok_or_else(|| damaged(&file, "'auths' is no object"))?
            .insert(key(host).to_owned(), auth);
        write(&file, &whole)?;
        Ok(Some(file))
    }

    /// Forgets what the first file, or its helper program, has for a registry. False if that is nothing.
    pub fn erase(&self, host: &str) -> Result<bool> {
        let (file, mut whole) = self.first()?;
        let mut is_gone = match self.helper(&parse(&file, &whole.to_string())?, host)? {
            Some(helper) => helper.erase(key(host))?,
            None => false,
        };
        if let Some(auths) = object(&file, &mut whole)?
            .get_mut("auths")
            .and_then(Value::as_object_mut)
        {
            let before = auths.len();
            auths.retain(|key, _| !is_key_of(key, host));
            if auths.len() != before {
                is_gone = true;
                write(&file, &whole)?;
            }
        }
        Ok(is_gone)
    }

    fn get_from(&self, file: &Configuration, host: &str, path: &str) -> Result<Option<Credential>> {
        if let Some(helper) = self.helper(file, host)?
            && let Some(kept) = helper.get(key(host))?
        {
            return Ok(Some(match kept.username == TOKEN_USER {
                true => Credential::IdentityToken(kept.secret),
                false => Credential::Password {
                    user: kept.username,
                    secret: kept.secret,
                },
            }));
        }
        // podman keeps credentials for a part of a registry, too. The longest path counts.
        let mut place = format!("{host}/{path}");
        loop {
            let is_key = |key: &str| match place == host {
                true => is_key_of(key, host),
                false => key == place,
            };
            let auth = file
                .auths
                .iter()
                .find(|(key, auth)| is_key(key) && !auth.is_empty());
            if let Some((_, auth)) = auth {
                return auth.credential().map(Some);
            }
            match place.rfind('/') {
                Some(slash) => place.truncate(slash),
                None => return Ok(None),
            }
        }
    }

    fn helper(&self, file: &Configuration, host: &str) -> Result<Option<Helper>> {
        let own = file
            .helpers
            .iter()
            .find(|(key, _)| is_key_of(key, host))
            .map(|(_, name)| name);
        let Some(name) = own.or(file.store.as_ref()).filter(|name| !name.is_empty()) else {
            return Ok(None);
        };
        let mut helper = Helper::new(
            name,
            self.helpers.as_ref().map(|(directory, _)| directory.as_path()),
        )?;
        if let Some((_, patience)) = self.helpers {
            helper.patience = patience;
        }
        Ok(Some(helper))
    }

    fn first(&self) -> Result<(PathBuf, Value)> {
        let nowhere = || {
            Error::Missing("there is no place for credentials: neither HOME nor DOCKER_CONFIG is set".into())
        };
        let file = self.files.first().ok_or_else(nowhere)?.clone();
        let whole = match read(&file)? {
            Some(text) => serde_json::from_str(&text).map_err(|error| damaged(&file, &error.to_string()))?,
            None => Value::Object(Map::new()),
        };
        Ok((file, whole))
    }
}

impl Auth {
    fn is_empty(&self) -> bool {
        let fields = [&self.auth, &self.username, &self.identitytoken];
        fields.into_iter().flatten().all(String::is_empty)
    }

    fn credential(&self) -> Result<Credential> {
        if let Some(token) = self.identitytoken.as_ref().filter(|token| !token.is_empty()) {
            return Ok(Credential::IdentityToken(token.clone()));
        }
        let encoded = self.auth.as_deref().unwrap_or_default();
        if encoded.is_empty() {
            let text = |field: &Option<String>| field.clone().unwrap_or_default();
            let (user, secret) = (text(&self.username), text(&self.password));
            return Ok(Credential::Password { user, secret });
        }
        let wrong = || invalid("what is kept for the registry is no name and password; log in again");
        let bytes = STANDARD.decode(encoded.trim()).map_err(|_| wrong())?;
        let text = String::from_utf8(bytes).map_err(|_| wrong())?;
        let (user, secret) = text.split_once(':').ok_or_else(wrong)?;
        let (user, secret) = (user.to_owned(), secret.trim_end_matches('\0').to_owned());
        Ok(Credential::Password { user, secret })
    }
}

/// Under which name Docker keeps what is for a registry.
fn key(host: &str) -> &str {
    match host {
        DEFAULT_HOST => DOCKER_KEY,
        host => host,
    }
}

/// Whether a name in a file is that of a registry. Older ones are URLs.
fn is_key_of(key: &str, host: &str) -> bool {
    let (is_url, rest) = match key.split_once("://") {
        Some((_, rest)) => (true, rest),
        None => (false, key),
    };
    let (name, path) = rest.split_once('/').unwrap_or((rest, ""));
    let is_default = host == DEFAULT_HOST && (name == "index.docker.io" || name == DEFAULT_HOST);
    // A name with a path is podman's for a part of a registry, and a URL's path is only a version.
    let is_whole = path.is_empty() || is_url || matches!(path.trim_end_matches('/'), "v1" | "v2");
    is_whole && (name == host || is_default)
}

fn read(path: &Path) -> Result<Option<String>> {
    let file = match fs::File::open(path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        opened => opened.map_err(Error::file("open", path))?,
    };
    let mut text = String::new();
    file.take(FILE_MAX)
        .read_to_string(&mut text)
        .map_err(Error::file("read", path))?;
    Ok((!text.trim().is_empty()).then_some(text))
}

fn parse(path: &Path, text: &str) -> Result<Configuration> {
    serde_json::from_str(text).map_err(|error| damaged(path, &error.to_string()))
}

fn object<'a>(path: &Path, whole: &'a mut Value) -> Result<&'a mut Map<String, Value>> {
    whole
        .as_object_mut()
        .ok_or_else(|| damaged(path, "it is no object"))
}

fn damaged(path: &Path, why: &str) -> Error {
    let path = path.display();
    invalid(format!(
        "{path}, where credentials are kept, is damaged: {why}; repair it or remove it"
    ))
}

/// Replaces a file at once. Only its owner can read it.
fn write(path: &Path, whole: &Value) -> Result<()> {
    // A link stays one.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if let Some(directory) = path.parent() {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(Error::file("make the directory", directory))?;
    }
    let mut new = path.clone().into_os_string();
    new.push(format!(".{}", std::process::id()));
    let new = PathBuf::from(new);
    let text = serde_json::to_vec_pretty(whole).map_err(|error| invalid(error.to_string()))?;
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)
        .and_then(|mut file| {
            file.write_all(&text)?;
            file.sync_data()
        })
        .and_then(|()| fs::rename(&new, &path));
    written.map_err(|error| {
        let _ = fs::remove_file(&new);
        Error::file("write", &path)(error)
    })
}

#[cfg(test)]
#[path = "../credentials_test.rs"]
mod tests;
