//! How registries are reached.

use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Registries may use plain HTTP, or certificates that nobody has signed.
    pub is_insecure: bool,
    /// A file with certificates in PEM that are trusted beside the system's.
    pub certificates: Option<PathBuf>,
    /// Registries that are asked before Docker's own, each `HOST[:PORT]`.
    pub mirrors: Vec<String>,
    pub patience: Patience,
}

/// How long a registry may take.
#[derive(Debug, Clone)]
pub struct Patience {
    /// To resolve a name, and again to connect.
    pub connect: Duration,
    /// From a request to the end of the answer's headers.
    pub answer: Duration,
    /// For an answer that is no blob.
    pub small: Duration,
    /// Between one piece of an answer and the next.
    pub read: Duration,
    /// How often something is tried that fails without any progress.
    pub attempts: u32,
    /// Before the second attempt. It doubles with each further one.
    pub delay: Duration,
    /// Between two attempts, also where a registry asks for more.
    pub delay_max: Duration,
    /// Bytes of a blob that must come in each time of `answer`.
    pub rate: u64,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(20),
            answer: Duration::from_secs(60),
            small: Duration::from_secs(60),
            read: Duration::from_secs(30),
            attempts: 5,
            delay: Duration::from_secs(1),
            delay_max: Duration::from_secs(60),
            rate: 16 << 10,
        }
    }
}

/// Where certificates are that the system trusts; the first that is there counts.
pub(super) const SYSTEM_CERTIFICATES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
