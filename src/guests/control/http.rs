use serde_json::{Value, json};

/// Bytes of a request. None has more.
pub const REQUEST_MAX: usize = 4096;
/// Lines of a request's head, beside the first.
const HEADERS_MAX: usize = 32;

/// A request: its first line. What follows does not matter to any request.
#[derive(Debug, PartialEq, Eq)]
pub struct Request<'a> {
    pub method: &'a str,
    pub path: &'a str,
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

/// A status and a JSON object.
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
            Ok(httparse::Status::Complete(_)) => match (request.method, request.path) {
                (Some(method), Some(path)) => Self::Whole(Request { method, path }),
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

    pub fn bytes(&self) -> Vec<u8> {
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
        Some(Self {
            status: answer.code?,
            body: serde_json::from_slice(&bytes[head..]).ok()?,
        })
    }
}
