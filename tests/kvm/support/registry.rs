//! Debian's docker-registry at a port of this machine.

use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};
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

/// A way to a registry on which each answer stops after so many bytes, and its connection stays open.
pub fn stalling(registry: &Registry, after: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (own, host) = (listener.local_addr().unwrap(), registry.host.clone());
    thread::spawn(move || {
        // They are kept open.
        let mut connections = Vec::new();
        for client in listener.incoming().map_while(Result::ok) {
            let server = TcpStream::connect(&host).unwrap();
            let copies = || (client.try_clone().unwrap(), server.try_clone().unwrap());
            let (mut from, mut to) = copies();
            thread::spawn(move || io::copy(&mut from, &mut to));
            let (mut to, from) = copies();
            thread::spawn(move || io::copy(&mut from.take(after as u64), &mut to));
            connections.push((client, server));
        }
    });
    own.to_string()
}
