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

/// A request: its first line, and whether anything follows its head.
#[derive(Debug, PartialEq, Eq)]
pub struct Request<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub has_more: bool,
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
                    has_more: bytes.len() > head,
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
