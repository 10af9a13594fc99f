//! Names of images, as Docker understands them: `[HOST[:PORT]/]PATH[:TAG][@DIGEST]`.
//!
//! The grammar is that of the distribution project's references. What a person leaves out is filled in by Docker's rules: `debian`
//! is `docker.io/library/debian:latest`. The first part is a host if it has a dot or a colon in it, is `localhost`, or has upper case
//! letters.

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;
use crate::error::{Error, Result, invalid, shortened};

/// The registry that is meant where none is named.
pub const DEFAULT_HOST: &str = "docker.io";
pub const DEFAULT_TAG: &str = "latest";
/// Another name of the default host, from before it had this one.
const OLD_DEFAULT_HOST: &str = "index.docker.io";
/// Where the default registry has the images that one word names.
const OFFICIAL: &str = "library";

/// Bytes of a path; also of a host (RFC 1035, section 2.3.4).
const NAME_MAX: usize = 255;
const TAG_MAX: usize = 128;
/// A name, a tag and a digest at their longest are shorter.
const REFERENCE_MAX: usize = 1024;

/// The full name of an image.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    host: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The registry, with its port if it has one.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// What the registry calls the repository: `library/debian`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// None if only a digest was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Host and path, without tag and digest.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.host, self.path)
    }

    /// The shortest name that is read as the same repository.
    pub fn familiar_repository(&self) -> String {
        let full = self.repository();
        let official = || self.path.strip_prefix(OFFICIAL)?.strip_prefix('/');
        let short = match (self.host == DEFAULT_HOST, official()) {
            (false, _) => return full,
            // Two parts in front of the name would be read as they are written.
            (true, Some(name)) if !name.contains('/') => name,
            (true, _) => &self.path,
        };
        // On the default host a path may begin with what looks like another host.
        match fill_in(short) {
            (DEFAULT_HOST, path) if path == self.path => short.to_owned(),
            _ => full,
        }
    }

    /// The name as a person writes it: `debian:latest`.
    pub fn familiar(&self) -> String {
        self.familiar_repository() + &self.suffix()
    }

    /// The same repository's image with this digest, whatever its tag is.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self {
            tag: None,
            digest: Some(digest),
            ..self.clone()
        }
    }

    /// Tag and digest, as they follow a repository's name.
    fn suffix(&self) -> String {
        let mut suffix = String::new();
        if let Some(tag) = &self.tag {
            suffix += &format!(":{tag}");
        }
        if let Some(digest) = &self.digest {
            suffix += &format!("@{digest}");
        }
        suffix
    }
}

/// The full form, `docker.io/library/debian:latest`.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}{}", self.host, self.path, self.suffix())
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |why: &str| invalid(format!("'{}' is no name of an image: {why}", shortened(text)));
        if text.is_empty() {
            return Err(wrong("it is empty"));
        }
        if text.len() > REFERENCE_MAX {
            return Err(wrong("it is too long"));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (
                rest,
                Some(
                    digest
                        .parse::<Digest>()
                        .map_err(|error| wrong(&error.to_string()))?,
                ),
            ),
            None => (text, None),
        };
        // A colon in the last part is in front of a tag; one further ahead is in front of a port.
        let last = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[last..].split_once(':') {
            Some((part, tag)) => (&rest[..last + part.len()], Some(tag)),
            None => (rest, None),
        };
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return Err(wrong(
                "a tag has at most 128 letters, digits, '_', '.' and '-', and begins with none of the last two",
            ));
        }
        if name.len() == 64 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(wrong("64 hexadecimal digits are an image's ID"));
        }
        let (host, path) = fill_in(name);
        if !is_host(host) {
            return Err(wrong(
                "what stands in front of the first '/' is no host with or without a port",
            ));
        }
        if path.len() > NAME_MAX {
            return Err(wrong("its path has more than 255 characters"));
        }
        if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(wrong("a repository's name is in lower case"));
        }
        if !path.split('/').all(is_path_component) {
            return Err(wrong(
                "each part between slashes is of lower case letters and digits, with '.', '_', '__' or dashes only between them",
            ));
        }
        let tag = match (tag, &digest) {
            (None, None) => Some(DEFAULT_TAG.to_owned()),
            (tag, _) => tag.map(str::to_owned),
        };
        Ok(Self {
            host: host.to_owned(),
            path,
            tag,
            digest,
        })
    }
}

/// Host and path of a name without tag and digest.
fn fill_in(name: &str) -> (&str, String) {
    let (host, path) = match name.split_once('/') {
        Some((OLD_DEFAULT_HOST, path)) => (DEFAULT_HOST, path),
        Some((first, path)) if looks_like_host(first) => (first, path),
        _ => (DEFAULT_HOST, name),
    };
    match host == DEFAULT_HOST && !path.contains('/') {
        true => (host, format!("{OFFICIAL}/{path}")),
        false => (host, path.to_owned()),
    }
}

fn looks_like_host(part: &str) -> bool {
    part.contains(['.', ':']) || part == "localhost" || part.bytes().any(|byte| byte.is_ascii_uppercase())
}

/// A name, an IPv4 address or an IPv6 address in brackets, with or without a port.
pub(crate) fn is_host(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    };
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    let is_label = |label: &str| {
        let inside = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        !label.is_empty() && label.bytes().all(inside) && !label.starts_with('-') && !label.ends_with('-')
    };
    let is_name = match name.strip_prefix('[') {
        Some(address) => address
            .strip_suffix(']')
            .is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok()),
        None => name.split('.').all(is_label),
    };
    host.len() <= NAME_MAX && is_name && port.is_none_or(is_port)
}

fn is_tag(tag: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let mut bytes = tag.bytes();
    tag.len() <= TAG_MAX
        && bytes.next().is_some_and(is_word)
        && bytes.all(|byte| is_word(byte) || matches!(byte, b'.' | b'-'))
}

/// Runs of letters and digits with one separator between each two.
fn is_path_component(part: &str) -> bool {
    let is_alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_separator = |text: &str| matches!(text, "." | "_" | "__") || text.bytes().all(|byte| byte == b'-');
    part.starts_with(is_alphanumeric)
        && part.ends_with(is_alphanumeric)
        && part.split(is_alphanumeric).all(is_separator)
}

#[cfg(test)]
#[path = "reference_test.rs"]
mod tests;
