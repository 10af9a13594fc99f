//! `coracle prune`: removes what is left of all guests that have ended, and what no image needs.

use coracle_images::store::Pruned;

use super::decimal::decimal;
use super::{Error, named, oci, print};
use crate::console::tell;
use crate::guests;

/// Remove what is left of guests that have ended, and what no image needs
///
/// The guests' names are printed on stdout, and on stderr how much space images give back. Images that have a name stay, whether a guest uses them or not: coracle rmi removes those. An image loses its name when another one
/// gets it, for example by a pull. What was begun and left by commands that were killed goes, too.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  coracle prune")]
pub struct Args {
    /// Nothing: no question is asked anyway
    #[arg(short, long, hide = true)]
    force: bool,
}

pub fn execute(_: &Args) -> Result<u8, Error> {
    let guests = named::for_all(|place, guest| match place.remove(&guest) {
        Ok(()) => print("print a name", format!("{}\n", guest.name())),
        // It runs, or somebody else was faster.
        Err(guests::Error::Runs(_) | guests::Error::Unknown(_)) => Ok(()),
        Err(error) => Err(error.into()),
    });
    // Neither keeps the other from what it can do.
    let images = oci::prune();
    let code = guests?;
    if let Some(pruned) = images?.filter(|pruned| *pruned != Pruned::default()) {
        tell(format_args!("coracle: {}", given_back(&pruned)));
    }
    Ok(code)
}

fn given_back(pruned: &Pruned) -> String {
    let counted = |count: usize, what: &str| match count {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    };
    let size = decimal(pruned.bytes);
    let files = counted(pruned.files, "file");
    match pruned.images.len() {
        0 => format!("{files} that no image needs: {size} given back"),
        images => format!(
            "{} without a name and {files}: {size} given back",
            counted(images, "image")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_is_told_in_a_line() {
        let mut pruned = Pruned {
            files: 1,
            bytes: 4096,
            images: Vec::new(),
        };
        assert_eq!(
            given_back(&pruned),
            "1 file that no image needs: 4.1kB given back"
        );
        pruned.files = 3;
        pruned.images.push(coracle_images::Digest::of(b""));
        assert_eq!(
            given_back(&pruned),
            "1 image without a name and 3 files: 4.1kB given back"
        );
    }
}
