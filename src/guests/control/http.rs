use serde_json::{Value, json};

/// Bytes of a request. None has more.
pub const REQUEST_MAX: usize = 4096;
/// The status that makes a connection another one (RFC 9110 section 15.2.2).
const UPGRADE: u16 = 101;
/// What [`Answer::upgrade`] is on the wire. The client counts on its end.
const UPGRADE_HEAD: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: coracle-agent\r\n\r\n";
/// Lines of a request's head, beside the first.
const HEADERS_MAX: usize = 32;

/// A request: its first line, and what has come behind its head.
#[derive(Debug, PartialEq, Eq)]
pub struct Request<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub rest: &'a [u8],
}

/// What the bytes of a connection are so far.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// The start of a request.
    Part,
    Whole(Request<'a>),
    /// No request, and not the start of one.
    Wrong,
}

/// A status and a JSON object; null where there is none.
#[derive(Debug, PartialEq)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

impl Request<'_> {
    /// Whether the connection is to become the console's.
    pub fn attaches(&self) -> bool {
        (self.method, self.path) == ("POST", "/console")
    }

    /// Whether the answer may have to wait, for a disk of the host's or until much memory has been looked through.
    pub fn may_wait(&self) -> bool {
        matches!(
            (self.method, self.path),
            ("PUT", "/pause" | "/resume") | ("GET", "/memory")
        )
    }
}

impl<'a> Parsed<'a> {
    pub fn of(bytes: &'a [u8]) -> Self {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(bytes) {
            Ok(httparse::Status::Partial) if bytes.len() < REQUEST_MAX => Self::Part,
            Ok(httparse::Status::Complete(head)) => match (request.method, request.path) {
                (Some(method), Some(path)) => Self::Whole(Request {
                    method,
                    path,
                    rest: &bytes[head..],
                }),
                _ => Self::Wrong,
            },
            _ => Self::Wrong,
        }
    }
}

impl Answer {
    pub fn ok(body: Value) -> Self {
        Self { status: 200, body }
    }

    pub fn error(status: u16, reason: &str) -> Self {
        Self {
            status,
            body: json!({ "error": reason }),
        }
    }

    /// From here on the connection is something else.
    pub fn upgrade() -> Self {
        Self {
            status: UPGRADE,
            body: Value::Null,
        }
    }

    pub fn is_upgrade(&self) -> bool {
        self.status == UPGRADE
    }

    pub fn bytes(&self) -> Vec<u8> {
        if self.is_upgrade() {
            return UPGRADE_HEAD.into();
        }
        let words = match self.status {
            200 => "OK",
            400 => "Bad Request",
            404 => "Not Found",
            405 => "Method Not Allowed",
            503 => "Service Unavailable",
            _ => "Conflict",
        };
        let body = self.body.to_string() + "\n";
        format!(
            "HTTP/1.1 {} {words}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.status,
            body.len()
        )
        .into_bytes()
    }

    /// Reads an answer. Nothing if it is none.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut answer = httparse::Response::new(&mut headers);
        let Ok(httparse::Status::Complete(head)) = answer.parse(bytes) else {
            return None;
        };
        match answer.code? {
            UPGRADE => Some(Self::upgrade()),
            status => Some(Self {
                status,
                body: serde_json::from_slice(&bytes[head..]).ok()?,
            }),
        }
    }
}

/// The header of [`Switch`].
const PAST: &str = "Coracle-Past";

/// The head of the answer behind which a connection is the console's.
#[derive(Debug, PartialEq, Eq)]
pub struct Switch {
    /// How many of the bytes that follow were printed before.
    pub past: u64,
}

impl Switch {
    pub fn bytes(&self) -> Vec<u8> {
        let past = self.past;
        let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: coracle-console";
        format!("{head}\r\n{PAST}: {past}\r\n\r\n").into_bytes()
    }

    /// Reads the head, and gives the bytes behind it as well. Nothing if it is another answer, or a part of one.
    pub fn of(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut answer = httparse::Response::new(&mut headers);
        let Ok(httparse::Status::Complete(head)) = answer.parse(bytes) else {
            return None;
        };
        let past = answer.headers.iter().find(|header| header.name == PAST)?;
        let past = std::str::from_utf8(past.value).ok()?.parse().ok()?;
        (answer.code == Some(101)).then_some((Self { past }, &bytes[head..]))
    }
}
