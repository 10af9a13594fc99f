//! Which files of the host an image may have opened as its backing files.

use std::path::PathBuf;

/// The value of `backing=` that permits every file.
const ANY: &str = "any";

/// The files that a disk's image may have opened, for reading, as its backing files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Backing {
    /// Images in the same directory as the image that names them.
    #[default]
    Beside,
    /// These files and no others.
    Named(Vec<PathBuf>),
    /// Every file that the image names.
    Any,
}

impl Backing {
    /// Adds the value of one `backing=`.
    pub(super) fn add(&mut self, value: &str) -> Result<(), String> {
        match (&mut *self, value) {
            (_, "") => return Err("'backing=' needs the name of a file, or 'any'".into()),
            (Self::Beside | Self::Any, ANY) => *self = Self::Any,
            (Self::Beside, file) => *self = Self::Named(vec![file.into()]),
            (Self::Named(files), file) if file != ANY => files.push(file.into()),
            _ => {
                return Err(
                    "'backing=any' permits every file, so no other 'backing=' can stand beside it (write 'backing=./any' \
                     for a file of that name)"
                        .into(),
                );
            }
        }
        Ok(())
    }

    /// The files that the person named.
    pub(super) fn files_mut(&mut self) -> &mut [PathBuf] {
        match self {
            Self::Named(files) => files,
            Self::Beside | Self::Any => &mut [],
        }
    }
}
