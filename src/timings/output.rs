//! Writes the figures of a run: as a table to stderr, or into a file.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::str::FromStr;

use super::Report;
use crate::console::tell;
use crate::plain_text::shell_word;

/// How many bytes of the table are printed at once: well below `PIPE_BUF` (pipe(7)), so that a pipe takes all or none.
const PIECE: usize = 2048;

/// A file that a person chose for the figures. The ending of its name decides the format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    path: PathBuf,
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Svg,
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let path = PathBuf::from(name);
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or("");
        let format = match ending.to_ascii_lowercase().as_str() {
            "json" => Format::Json,
            "svg" => Format::Svg,
            _ => {
                return Err(
                    "the file's name ends in .json for figures or in .svg for a picture; \
                            without a file there is a table on stderr"
                        .into(),
                );
            }
        };
        Ok(Self { path, format })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot write the timings to {}: {source}", shell_word(path))]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot draw the timings: {0}")]
    Draw(String),
}

/// Writes the figures once the run has ended.
pub enum ReportWriter {
    Table,
    File(Destination, File),
}

impl ReportWriter {
    /// Prepares a table on stderr, or creates the file at once, so that a file that cannot be created is an error before
    /// the run and not after it.
    pub fn new(destination: Option<&Destination>) -> Result<Self, Error> {
        let Some(destination) = destination else {
            return Ok(Self::Table);
        };
        let file = File::create(&destination.path).map_err(|source| Error::Write {
            path: destination.path.clone(),
            source,
        })?;
        Ok(Self::File(destination.clone(), file))
    }

    pub fn write(self, report: &Report) -> Result<(), Error> {
        let (destination, mut file) = match self {
            Self::Table => {
                print_in_pieces(&report.table());
                return Ok(());
            }
            Self::File(destination, file) => (destination, file),
        };
        let written = match destination.format {
            Format::Json => report.json().map_err(io::Error::from).and_then(|text| {
                file.write_all(text.as_bytes())?;
                file.write_all(b"\n")
            }),
            Format::Svg => file.write_all(report.svg()?.as_bytes()),
        };
        written.map_err(|source| Error::Write {
            path: destination.path.clone(),
            source,
        })
    }
}

/// Prints in pieces. `tell` waits a limited time until stderr takes more, and a pipe that takes more takes a whole piece: so
/// a reader that has stopped reading cannot block this for ever.
fn print_in_pieces(text: &str) {
    let mut piece = String::new();
    for line in text.trim_end().lines() {
        if piece.len() + line.len() >= PIECE {
            tell(&piece);
            piece.clear();
        } else if !piece.is_empty() {
            piece.push('\n');
        }
        piece.push_str(line);
    }
    tell(piece);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timings::report::example;

    #[test]
    fn a_name_says_what_is_written() {
        let format = |name: &str| name.parse::<Destination>().map(|destination| destination.format);
        assert_eq!(format("boot.json"), Ok(Format::Json));
        assert_eq!(format("a.b/boot.SVG"), Ok(Format::Svg));
        for name in ["boot", "boot.txt", ".json", "json", "a.json/boot"] {
            let error = format(name).unwrap_err();
            assert!(
                error.contains(".json") && error.contains(".svg"),
                "{name}: {error}"
            );
        }
    }

    #[test]
    fn a_file_that_cannot_be_made_is_an_error_that_names_it() {
        let destination = "/no/such/folder/boot.json".parse().unwrap();
        let error = ReportWriter::new(Some(&destination)).err().unwrap().to_string();
        assert!(
            error.contains("/no/such/folder/boot.json: No such file"),
            "{error}"
        );
    }

    #[test]
    fn a_written_file_holds_the_report() {
        let folder = tempfile::tempdir().unwrap();
        for (name, begin) in [("boot.json", "{\n  \"phases\": ["), ("boot.svg", "<svg ")] {
            let path = folder.path().join(name);
            let destination = path.to_str().unwrap().parse().unwrap();
            ReportWriter::new(Some(&destination))
                .unwrap()
                .write(&example())
                .unwrap();
            let text = std::fs::read_to_string(path).unwrap();
            assert!(text.starts_with(begin), "{text}");
        }
    }
}
