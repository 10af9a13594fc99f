//! The file that has the data of an image which keeps them outside of itself.
//!
//! The header of such an image can name any file of the host. Coracle opens the file that the person named and no other,
//! whatever the header says.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::Error;
use super::header::{DataFile, Header};
use super::host_file::HostFile;
use super::permit::{named_by, named_by_person};
use crate::config::{Cache, Disk, Format};
use crate::plain_text::{clean, shell_word};
use crate::virtio::block::image::identity::Identity;
use crate::virtio::block::image::opening::{self, Purpose};

/// Opens and locks the data file of the image in `image`, which is the file of `disk`. None if the image has its data in
/// itself.
pub fn open(image: &File, header: &Header, disk: &Disk) -> Result<Option<HostFile>, Error> {
    let Some((path, _)) = choose(image, header, disk)? else {
        return Ok(None);
    };
    let file = opening::open_and_lock(&as_disk(path, disk), Purpose::Use)
        .map_err(|source| Error::data(disk, path, source))?;
    let failed = |source| Error::io(path, source);
    let mut file = HostFile::new(path.into(), file)
        .map_err(failed)?
        .with_data_of(header);
    if disk.cache == Cache::Direct {
        file = file
            .directly(disk.is_only_read(), header.cluster_bits)
            .map_err(failed)?;
    }
    Ok(Some(file))
}

/// Describes that file for a person, without opening it.
pub fn describe(image: &File, header: &Header, disk: &Disk) -> Result<Option<String>, Error> {
    let chosen = choose(image, header, disk)?;
    Ok(chosen.map(|(path, stated)| {
        let shown = clean(&path.to_string_lossy());
        let other = stated.name.as_ref().filter(|name| {
            let named = named_by(&disk.file, name);
            named_by_person(&[path.to_owned()], &named).is_none()
        });
        match other {
            Some(name) => format!("{shown} (the image names {})", clean(name)),
            None => shown,
        }
    }))
}

/// What to type so that `disk` has the data file that its image names.
pub fn how_to_name(disk: &Disk, stated: &DataFile) -> String {
    let path = stated.name.as_ref().map(|name| named_by(&disk.file, name));
    let may = match disk.is_only_read() {
        true => "read",
        false => "read and write",
    };
    match path {
        Some(path) if is_plain(&path) => {
            format!(
                "if the guest may {may} that file, add ,data={}",
                shell_word(&path)
            )
        }
        _ => "add ,data=FILE with the path of that file, or in a --config file \"data\": \"FILE\"".into(),
    }
}

/// Whether a person can type the path behind a comma.
fn is_plain(path: &Path) -> bool {
    let name = path.to_string_lossy();
    clean(&name) == name && !name.contains(',')
}

/// The data file that the person named, and what the header says about it. None if the image has no data file.
fn choose<'a>(
    image: &File,
    header: &'a Header,
    disk: &'a Disk,
) -> Result<Option<(&'a Path, &'a DataFile)>, Error> {
    let image_path = || disk.file.clone();
    match (&disk.data, &header.data_file) {
        (None, None) => Ok(None),
        (Some(_), None) => Err(Error::NoDataFile { image: image_path() }),
        (None, Some(stated)) => Err(Error::DataNotNamed {
            image: image_path(),
            name: stated.name.as_ref().map(|name| clean(name)),
            advice: how_to_name(disk, stated),
        }),
        (Some(path), Some(_)) if is_same(image, path) => Err(Error::DataIsImage { image: image_path() }),
        (Some(path), Some(stated)) => Ok(Some((path, stated))),
    }
}

/// Whether the file at `path` is `image`. A missing file is no error here, but later when it is opened.
fn is_same(image: &File, path: &Path) -> bool {
    let identities = Identity::of(image).ok().zip(Identity::at(path));
    identities.is_some_and(|(image, data)| image.overlaps(data))
}

/// The data file as if it were a disk of its own, which is opened in the same way.
fn as_disk(path: &Path, disk: &Disk) -> Disk {
    Disk {
        file: PathBuf::from(path),
        format: Some(Format::Raw),
        data: None,
        ..disk.clone()
    }
}

#[cfg(test)]
#[path = "data_file_test.rs"]
mod tests;
