//! Debian's docker-registry at a port of this machine.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread;

use tempfile::TempDir;

pub struct Registry {
    _place: TempDir,
    process: Child,
    /// With its port.
    pub host: String,
}

impl Registry {
    pub fn start() -> Self {
        Self::with("")
    }

    /// One that wants the name `me` and the password `secret`.
    pub fn with_password() -> Self {
        Self::with("auth:\n  htpasswd:\n    realm: here\n    path: PLACE/htpasswd\n")
    }

    fn with(settings: &str) -> Self {
        let place = tempfile::tempdir().unwrap();
        let password = Command::new("htpasswd").args(["-Bbn", "me", "secret"]).output();
        let password = password.expect("htpasswd is there; install apache2-utils").stdout;
        fs::write(place.path().join("htpasswd"), password).unwrap();
        let config = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: PLACE/data\nhttp:\n  addr: 127.0.0.1:0\n{settings}"
        );
        let path = place.path().join("config.yml");
        fs::write(&path, config.replace("PLACE", place.path().to_str().unwrap())).unwrap();
        let mut process = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker-registry is there; install it");
        let mut log = BufReader::new(process.stderr.take().unwrap()).lines();
        let host = loop {
            let line = log.next().expect("the registry starts").unwrap();
            if let Some((_, rest)) = line.split_once("listening on ") {
                let end = rest.find([',', '"', ' ']).unwrap_or(rest.len());
                break rest[..end].to_owned();
            }
        };
        // So that it is not ended by a full pipe.
        thread::spawn(move || log.for_each(drop));
        Self {
            _place: place,
            process,
            host,
        }
    }

    /// Puts an image of an OCI layout there, under this name, and gives the whole name.
    pub fn push(&self, layout: &str, name: &str) -> String {
        let whole = format!("{}/{name}", self.host);
        let pushed = Command::new("skopeo")
            .args(["copy", "--insecure-policy", "--dest-tls-verify=false"])
            .args([
                "--dest-creds=me:secret",
                &format!("oci:{layout}"),
                &format!("docker://{whole}"),
            ])
            .output()
            .expect("skopeo is there; install it");
        assert!(
            pushed.status.success(),
            "{}",
            String::from_utf8_lossy(&pushed.stderr)
        );
        whole
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
