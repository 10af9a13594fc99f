//! `--vsock`: the socket device.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

/// The addresses that a guest can have: lower ones, and the one above, have meanings of their own (virtio 1.2 section 5.10.4).
const CIDS: RangeInclusive<u32> = 3..=u32::MAX - 1;
const CID_DEFAULT: u32 = 3;

/// The device by which programs of guest and host connect to each other, written `PATH[,cid=N]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vsock {
    /// The socket to which programs of the host connect. None for a device that only Coracle itself uses.
    pub path: Option<PathBuf>,
    /// The guest's address.
    pub cid: u32,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot use the socket device '{text}': {why}")]
pub struct Error {
    text: String,
    why: String,
}

impl Default for Vsock {
    fn default() -> Self {
        Self {
            path: None,
            cid: CID_DEFAULT,
        }
    }
}

impl FromStr for Vsock {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        parse(text).map_err(|why| Error {
            text: text.escape_debug().to_string(),
            why,
        })
    }
}

fn parse(text: &str) -> Result<Vsock, String> {
    let (path, option) = match text.split_once(',') {
        Some((path, option)) => (path, Some(option)),
        None => (text, None),
    };
    if path.is_empty() {
        return Err("it names no socket: begin with a path, as in guest.sock,cid=4".into());
    }
    let cid = match option.map(|option| option.split_once('=').unwrap_or((option, ""))) {
        None => CID_DEFAULT,
        Some(("cid", number)) => {
            let cid = number.parse().ok().filter(|cid| CIDS.contains(cid));
            cid.ok_or_else(|| format!("its cid must be a number from 3 to {}", CIDS.end()))?
        }
        Some((name, _)) => {
            return Err(format!(
                "'{}' is not an option of it (the only one is cid=N; a path must have no comma)",
                name.escape_debug()
            ));
        }
    };
    Ok(Vsock {
        path: Some(path.into()),
        cid,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_device_is_a_path_and_maybe_an_address() {
        let parsed = |text: &str| {
            text.parse::<Vsock>()
                .map(|vsock| (vsock.path.unwrap(), vsock.cid))
        };
        assert_eq!(parsed("a.sock").unwrap(), ("a.sock".into(), 3));
        assert_eq!(parsed("/run/a,cid=77").unwrap(), ("/run/a".into(), 77));
        assert_eq!(parsed("a,cid=4294967294").unwrap().1, u32::MAX - 1);
        for (wrong, words) in [
            ("", "names no socket"),
            (",cid=4", "names no socket"),
            ("a,cid=2", "from 3 to 4294967294"),
            ("a,cid=4294967295", "from 3"),
            ("a,cid=", "from 3"),
            ("a,cid", "from 3"),
            ("a,cid=4,cid=5", "from 3"),
            ("a,cdi=4", "the only one is cid=N"),
            ("a,b", "the only one is cid=N"),
        ] {
            let error = parsed(wrong).unwrap_err().to_string();
            assert!(error.contains(words), "{wrong}: {error}");
        }
    }
}
