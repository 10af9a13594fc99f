//! What the commands share that are about guests by their names.

use super::{Error, print, tell};
use crate::diagnosis::exit_code;
use crate::guests::{self, Guest, Name, Place};

/// The guest of this name, and the directory of all guests.
pub fn find(name: &str) -> Result<(Place, Guest), Error> {
    let place = place(name)?;
    let guest = find_in(&place, name)?;
    Ok((place, guest))
}

/// Does something with each of these guests, and prints what it answers, a line for each. Neither one that fails nor a stdout that
/// takes nothing keeps the others from it.
pub fn for_each(
    names: &[String],
    act: impl Fn(&Place, &Guest) -> Result<String, Error>,
) -> Result<u8, Error> {
    let mut code = 0;
    let mut printed = Ok(());
    for name in names {
        match find(name).and_then(|(place, guest)| act(&place, &guest)) {
            Ok(answer) => printed = printed.and(print("print the answer", format!("{answer}\n"))),
            Err(error) => {
                tell(format_args!("coracle: {error}"));
                code = exit_code::FAILED;
            }
        }
    }
    printed.map(|()| code)
}

/// Does something with all guests. Neither one that cannot be looked at, which is told of and makes the exit code that of a failure,
/// nor another error keeps the others from it.
pub fn for_all(mut act: impl FnMut(&Place, Guest) -> Result<(), Error>) -> Result<u8, Error> {
    let mut code = 0;
    let mut done = Ok(());
    let Some(place) = Place::open()? else {
        return Ok(code);
    };
    for guest in place.guests()? {
        let acted = guest.map_err(Error::from).and_then(|guest| act(&place, guest));
        match acted {
            Err(error @ Error::Guest(_)) => {
                tell(format_args!("coracle: {error}"));
                code = exit_code::FAILED;
            }
            acted => done = done.and(acted),
        }
    }
    done.map(|()| code)
}

/// Rows as text, each column as wide as its longest cell.
pub fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        let widths = rows.iter().map(|row| row[column].chars().count());
        widths.max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..N).map(width).collect();
    let text = |row: &[String; N]| {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("   ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(text).collect()
}

fn place(name: &str) -> Result<Place, Error> {
    Ok(Place::open()?.ok_or_else(|| unknown(name))?)
}

fn find_in(place: &Place, name: &str) -> Result<Guest, guests::Error> {
    let parsed: Name = name.parse().map_err(|_| unknown(name))?;
    place.find(&parsed)
}

fn unknown(name: &str) -> guests::Error {
    guests::Error::Unknown(name.escape_debug().to_string())
}
